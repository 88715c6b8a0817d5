//! Which network namespaces there are: those of processes, and those that a file in `/run/netns` keeps.
//!
//! A namespace that nothing but a socket, or a mount elsewhere, keeps alive is not found.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::netns;

/// Where `ip netns` keeps its namespaces.
pub const NAMED: &str = "/run/netns";

/// In which network namespaces to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that can be found.
    All,
    /// The caller's own.
    Own,
    /// The one of this file.
    Path(PathBuf),
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its inode number; `None` if it can't be read.
    pub(crate) inode: Option<u32>,
    /// How to get there.
    pub(crate) entry: Entry,
    /// A process in it, if one led there.
    pub(crate) pid: Option<u32>,
    /// Whether it is one of those found; otherwise it was asked for.
    pub(crate) found: bool,
}

impl Namespace {
    /// The file by which it is entered; `None` for the caller's own.
    pub(crate) fn path(&self) -> Option<String> {
        match &self.entry {
            Entry::Own => None,
            Entry::Path(path) => Some(path.to_string_lossy().into_owned()),
        }
    }
}

/// How to get into a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// We are there.
    Own,
    /// By this file.
    Path(PathBuf),
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The namespaces, each once, the caller's own first.
    pub(crate) namespaces: Vec<Namespace>,
    /// Processes whose namespace can't be read.
    pub(crate) hidden_processes: usize,
}

/// Finds the namespaces.
pub(crate) fn find(which: &Which) -> io::Result<Found> {
    let own = Namespace {
        inode: netns::own(),
        entry: Entry::Own,
        pid: None,
        found: false,
    };
    let named = |path: &Path| Namespace {
        inode: netns::inode(path).ok(),
        entry: Entry::Path(path.to_owned()),
        pid: None,
        found: false,
    };
    match which {
        Which::Own => Ok(Found {
            namespaces: vec![own],
            hidden_processes: 0,
        }),
        Which::Path(path) => Ok(Found {
            namespaces: vec![named(path)],
            hidden_processes: 0,
        }),
        Which::All => find_all(own),
    }
}

/// The caller's own, then those of processes, then those kept by a file.
fn find_all(own: Namespace) -> io::Result<Found> {
    let mut seen: HashSet<u32> = own.inode.into_iter().collect();
    let mut namespaces = vec![own];
    let mut hidden_processes = 0;
    for pid in processes()? {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        match fs::read_link(&path) {
            Ok(link) => {
                if let Some(inode) = link.to_str().and_then(netns_of_link)
                    && seen.insert(inode)
                {
                    namespaces.push(Namespace {
                        inode: Some(inode),
                        entry: Entry::Path(path),
                        pid: Some(pid),
                        found: true,
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden_processes += 1,
            // It has ended since, or is a zombie: these have no namespace any more.
            Err(_) => {}
        }
    }
    // No such folder: nobody has named one.
    for file in fs::read_dir(NAMED).into_iter().flatten().flatten() {
        let path = file.path();
        if let Some(inode) = netns::inode(&path).ok()
            && seen.insert(inode)
        {
            namespaces.push(Namespace {
                inode: Some(inode),
                entry: Entry::Path(path),
                pid: None,
                found: true,
            });
        }
    }
    Ok(Found {
        namespaces,
        hidden_processes,
    })
}

/// The numbers of all processes, lowest first.
pub(crate) fn processes() -> io::Result<Vec<u32>> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The inode number in `net:[4026531840]`.
fn netns_of_link(link: &str) -> Option<u32> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_its_namespace() {
        assert_eq!(netns_of_link("net:[4026531840]"), Some(4_026_531_840));
        for other in ["mnt:[4026531840]", "net:[]", "net:[x]", "", "net:[1"] {
            assert_eq!(netns_of_link(other), None, "{other}");
        }
    }

    #[test]
    fn all_begins_with_our_own_and_has_each_once() {
        let found = find(&Which::All).unwrap().namespaces;
        assert_eq!(found[0].entry, Entry::Own);
        let inodes: HashSet<_> = found.iter().map(|namespace| namespace.inode).collect();
        assert_eq!(inodes.len(), found.len());
    }
}
