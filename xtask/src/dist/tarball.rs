//! The archive for every other host.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

use super::{
    VERSION,
    contents::{File, gzip},
    stamp::Stamp,
};
use crate::place::{Place, write_atomically};

/// Makes the archive in target/dist.
pub(super) fn build(place: &Place, files: &[File], stamp: Stamp) -> Result<PathBuf> {
    let name = format!("ktls-trace-{VERSION}-x86_64-linux");
    let path = place.target.join("dist").join(format!("{name}.tar.gz"));
    write_atomically(&path, &gzip(&archive(&name, files, stamp)?)?)?;
    Ok(path)
}

/// Entries sorted as the files are, below one folder, of root and of the one time.
fn archive(top: &str, files: &[File], stamp: Stamp) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    let mut folders = Vec::new();
    for file in files {
        let path = format!("{top}/{}", file.path);
        for (end, _) in path.match_indices('/') {
            let folder = path[..=end].to_owned();
            if !folders.contains(&folder) {
                append(&mut builder, &folder, 0o755, &[], stamp)?;
                folders.push(folder);
            }
        }
        append(&mut builder, &path, file.mode, &file.bytes, stamp)?;
    }
    builder.into_inner().context("ending the archive")
}

/// A path that ends in a slash is a folder.
fn append(
    builder: &mut Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    bytes: &[u8],
    stamp: Stamp,
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(if path.ends_with('/') {
        EntryType::Directory
    } else {
        EntryType::Regular
    });
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(stamp.seconds().into());
    header.set_size(bytes.len() as u64);
    builder
        .append_data(&mut header, path, bytes)
        .with_context(|| format!("adding {path} to the archive"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::contents::Kind;

    #[test]
    fn entries_are_sorted_and_stamped_and_of_root() {
        let file = |path: &str| File {
            path: path.to_owned(),
            mode: 0o644,
            kind: Kind::Document,
            bytes: path.as_bytes().to_vec(),
        };
        let stamp = Stamp::read("1780000000").unwrap();
        let files = [file("README.md"), file("docs/a.md"), file("docs/b.md")];
        let bytes = archive("top", &files, stamp).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 1_780_000_000);
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            seen.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(
            seen,
            [
                "top/",
                "top/README.md",
                "top/docs/",
                "top/docs/a.md",
                "top/docs/b.md"
            ]
        );
    }
}
