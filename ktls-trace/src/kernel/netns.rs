//! Network namespaces, which the kernel names by an inode number of nsfs (`net.ns.inum`).

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::ioctl_none;

ioctl_none!(
    /// `NS_GET_NSTYPE` of `linux/nsfs.h`: the `CLONE_NEW…` flag of a namespace.
    namespace_kind,
    0xb7,
    0x3
);

/// Why a path names no network namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be looked at.
    #[error("network namespace {}: {source}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "{} is no network namespace: name one as /proc/PID/ns/net or /run/netns/NAME",
        path.display()
    )]
    Other {
        /// The path.
        path: PathBuf,
    },
}

/// The inode number of a namespace given as `/proc/PID/ns/net` or as a file that it is mounted on.
pub fn inode(path: &Path) -> Result<u32, Error> {
    let failed = |source| Error::Path {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // SAFETY: the descriptor is open; the request takes no argument and changes nothing.
    let kind = unsafe { namespace_kind(file.as_raw_fd()) };
    if kind != Ok(libc::CLONE_NEWNET) {
        return Err(Error::Other {
            path: path.to_owned(),
        });
    }
    let found = file.metadata().map_err(failed)?;
    u32::try_from(found.ino()).map_err(|_too_big| Error::Other {
        path: path.to_owned(),
    })
}

/// The inode number of the caller's namespace.
pub fn own() -> Option<u32> {
    inode(Path::new("/proc/self/ns/net")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_found() {
        let link = std::fs::read_link("/proc/self/ns/net").unwrap();
        let number = own().unwrap();
        assert_eq!(link.to_str(), Some(format!("net:[{number}]").as_str()));
    }

    #[test]
    fn what_is_no_network_namespace_is_named() {
        for path in ["/proc/self/ns/mnt", "/etc/hostname", "/proc/self/stat"] {
            let error = inode(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(path), "{error}");
        }
        let error = inode(Path::new("/run/netns/none-of-that-name")).unwrap_err();
        assert!(matches!(error, Error::Path { .. }), "{error}");
    }
}
