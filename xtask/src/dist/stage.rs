//! Lays the contents out as a tree on disk, for the tools that package such a tree.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{contents, remove_folder, stamp::Stamp};

/// Writes the files below `root`, which is new; modes and times do not depend on this machine. Owners are set by
/// who packages it.
pub(super) fn write(root: &Path, files: &[contents::File], stamp: Stamp) -> Result<()> {
    remove_folder(root)?;
    for file in files {
        let path = root.join(&file.path);
        let parent = path.parent().context("a file lies in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        one(&path, &file.bytes, file.mode)?;
    }
    stamp_all(root, stamp)
}

/// Writes one file with this mode.
pub(super) fn one(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    fs::write(path, bytes)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .with_context(|| format!("writing {}", path.display()))
}

/// Gives everything below `path` the one time, and folders their mode; what lies in a folder first.
pub(super) fn stamp_all(path: &Path, stamp: Stamp) -> Result<()> {
    if path.is_dir() {
        for entry in children(path)? {
            stamp_all(&entry, stamp)?;
        }
        fs::set_permissions(path, Permissions::from_mode(0o755))
            .with_context(|| format!("opening {} to all", path.display()))?;
    }
    File::open(path)
        .and_then(|file| file.set_modified(stamp.system_time()))
        .with_context(|| format!("setting the time of {}", path.display()))
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect()
        })
        .with_context(|| format!("listing {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::dist::contents::Kind;

    #[test]
    fn modes_and_times_are_not_this_machines() {
        let root = std::env::temp_dir().join(format!("ktls-trace-stage-{}", std::process::id()));
        let file = contents::File {
            path: "usr/bin/ktls-trace".to_owned(),
            mode: 0o755,
            kind: Kind::Program,
            bytes: b"program".to_vec(),
        };
        write(&root, &[file], Stamp::read("1780000000").unwrap()).unwrap();
        for path in ["usr", "usr/bin", "usr/bin/ktls-trace"] {
            let metadata = fs::metadata(root.join(path)).unwrap();
            assert_eq!(metadata.mtime(), 1_780_000_000, "{path}");
            assert_eq!(metadata.mode() & 0o7777, 0o755, "{path}");
        }
        remove_folder(&root).unwrap();
    }
}
