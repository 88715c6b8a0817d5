//! Which processes have a socket open: `/proc/PID/fd` is searched for its inode number, as far as permitted.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
};

use super::namespaces::processes;

/// The owners of some sockets.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// Processes by the socket's inode number, lowest first.
    by_inode: HashMap<u32, Vec<u32>>,
    /// Processes whose open files can't be listed.
    pub(crate) hidden_processes: usize,
}

impl Owners {
    /// The processes that have a socket open, lowest number first.
    pub(crate) fn of(&self, inode: u32) -> &[u32] {
        self.by_inode.get(&inode).map_or(&[], Vec::as_slice)
    }
}

/// Looks for the owners of these sockets.
pub(crate) fn find(inodes: &HashSet<u32>) -> Owners {
    let mut owners = Owners::default();
    if inodes.is_empty() {
        return owners;
    }
    for pid in processes().unwrap_or_default() {
        let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(files) => files,
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    owners.hidden_processes += 1;
                }
                continue;
            }
        };
        for inode in sockets(files).filter(|inode| inodes.contains(inode)) {
            let pids = owners.by_inode.entry(inode).or_default();
            // A process may have it open under several numbers.
            if pids.last() != Some(&pid) {
                pids.push(pid);
            }
        }
    }
    owners
}

/// The inode numbers of the sockets that a process has open; none if it is gone, or keeps its files to itself.
pub(crate) fn sockets_of(pid: u32) -> HashSet<u32> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"));
    files
        .map(|files| sockets(files).collect())
        .unwrap_or_default()
}

/// Those of the sockets among open files.
fn sockets(files: fs::ReadDir) -> impl Iterator<Item = u32> {
    files.flatten().filter_map(|file| {
        let link = fs::read_link(file.path()).ok()?;
        socket_of_link(link.to_str()?)
    })
}

/// The inode number in `socket:[9349]`, as `sock_diag` gives it: the low 32 bits.
fn socket_of_link(link: &str) -> Option<u32> {
    let number: u64 = link
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()?;
    u32::try_from(number & 0xffff_ffff).ok()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _};

    use super::*;

    #[test]
    fn a_link_names_its_socket_by_the_low_half() {
        assert_eq!(socket_of_link("socket:[9349]"), Some(9349));
        assert_eq!(socket_of_link("socket:[4294967299]"), Some(3));
        for other in ["pipe:[9349]", "/dev/null", "socket:[]", "socket:[9"] {
            assert_eq!(socket_of_link(other), None, "{other}");
        }
    }

    #[test]
    fn our_own_socket_is_ours_once_though_it_is_open_twice() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let _twice = socket.try_clone().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = socket_of_link(link.to_str().unwrap()).unwrap();
        let owners = find(&HashSet::from([inode]));
        let ours = owners
            .of(inode)
            .iter()
            .filter(|&&pid| pid == std::process::id());
        assert_eq!(ours.count(), 1);
        assert_eq!(find(&HashSet::from([0])).of(0), &[] as &[u32]);
        assert!(sockets_of(std::process::id()).contains(&inode));
    }
}
