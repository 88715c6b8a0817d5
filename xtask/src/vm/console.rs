//! The guest's serial console: kernel messages, watched for signs that nothing more will come.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::command::tail;

/// What the kernel prints when it is beyond help.
const FATAL: &[&str] = &[
    "Kernel panic",
    "soft lockup",
    "hard LOCKUP",
    "self-detected stall",
    "detected stalls on CPUs",
    "BUG:",
    "Oops:",
];

/// Reads the console's file as it grows.
#[derive(Debug)]
pub(crate) struct Console {
    path: PathBuf,
    file: File,
    text: Vec<u8>,
    /// Bytes of `text` that have been looked at.
    seen: usize,
}

impl Console {
    /// Creates the file, so that it is there before QEMU writes.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            text: Vec::new(),
            seen: 0,
        })
    }

    /// Reads what has come; the first fatal line in it.
    pub(crate) fn poll(&mut self) -> Result<Option<String>> {
        self.read()?;
        while let Some(length) = self.text[self.seen..]
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let line =
                String::from_utf8_lossy(&self.text[self.seen..self.seen + length]).into_owned();
            self.seen += length + 1;
            if FATAL.iter().any(|sign| line.contains(sign)) {
                return Ok(Some(line.trim().to_owned()));
            }
        }
        Ok(None)
    }

    /// Bytes that have come so far.
    pub(crate) fn bytes(&mut self) -> Result<usize> {
        self.read()?;
        Ok(self.text.len())
    }

    /// What has come after the first `bytes` bytes.
    pub(crate) fn since(&mut self, bytes: usize) -> Result<String> {
        self.read()?;
        Ok(printable(self.text.get(bytes..).unwrap_or_default()))
    }

    /// The last lines.
    pub(crate) fn tail(&mut self, lines: usize) -> Result<String> {
        self.read()?;
        Ok(tail(printable(&self.text).trim_end(), lines).to_owned())
    }

    fn read(&mut self) -> Result<()> {
        self.file
            .read_to_end(&mut self.text)
            .map(drop)
            .with_context(|| format!("reading {}", self.path.display()))
    }
}

/// Without the terminal's control characters.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .chars()
        .filter(|character| *character == '\n' || *character == '\t' || !character.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{env, fs, io::Write as _, process};

    use super::*;

    #[test]
    fn a_panic_is_seen_once_its_line_is_complete() {
        let path = env::temp_dir().join(format!("ktls-trace-console-{}", process::id()));
        let mut console = Console::create(&path).unwrap();
        let mut writer = File::options().append(true).open(&path).unwrap();
        writer
            .write_all(b"booting\r\n[ 1.0] Kernel panic - not")
            .unwrap();
        assert_eq!(console.poll().unwrap(), None);
        writer.write_all(b" syncing\r\n").unwrap();
        assert_eq!(
            console.poll().unwrap().as_deref(),
            Some("[ 1.0] Kernel panic - not syncing")
        );
        assert_eq!(console.poll().unwrap(), None);
        assert_eq!(
            console.tail(1).unwrap(),
            "[ 1.0] Kernel panic - not syncing"
        );
        fs::remove_file(path).unwrap();
    }
}
