//! The file that is sent: without a name, gone with the process however it ends.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use nix::{
    fcntl::{OFlag, open},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::Mode,
    },
};

use super::Error;

/// Bytes written at a time while the file is filled.
const FILL_BYTES: usize = 64 << 10;

/// Makes a file of that many bytes: an unnamed one in the temporary folder, or one in memory where the
/// folder's file system has none or it is full.
pub(super) fn make(bytes: u64) -> Result<File, Error> {
    unnamed_in(&std::env::temp_dir())
        .and_then(|file| filled(file, bytes))
        .or_else(|_unsupported| in_memory().and_then(|file| filled(file, bytes)))
        .map_err(|source| Error::File { bytes, source })
}

fn unnamed_in(folder: &Path) -> io::Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    Ok(File::from(open(
        folder,
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )?))
}

fn in_memory() -> io::Result<File> {
    Ok(File::from(memfd_create(
        "ktls-trace-repro",
        MFdFlags::MFD_CLOEXEC,
    )?))
}

/// Writes real bytes: a file of holes is read from the shared zero page.
fn filled(mut file: File, bytes: u64) -> io::Result<File> {
    let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(FILL_BYTES).collect();
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(FILL_BYTES).min(FILL_BYTES);
        file.write_all(&pattern[..take])?;
        left -= take as u64;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_size_asked_for() {
        for bytes in [1, 65536, 100_001] {
            assert_eq!(make(bytes).unwrap().metadata().unwrap().len(), bytes);
            assert_eq!(
                filled(in_memory().unwrap(), bytes)
                    .unwrap()
                    .metadata()
                    .unwrap()
                    .len(),
                bytes
            );
        }
    }
}
