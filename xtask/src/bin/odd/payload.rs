//! What is sent: a file in memory, handed to a socket over and over.

use std::{fs::File, io::Write as _, net::TcpStream, os::fd::AsFd, thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        sendfile::sendfile64,
    },
};

/// Size of the file, in bytes.
const FILE_BYTES: u64 = 4 << 20;

/// Bytes of one burst of a healthy sender; a pause follows, so that it leaves others a processor.
const BURST_BYTES: u64 = 1 << 20;
const BURST_PAUSE: Duration = Duration::from_millis(20);

/// A file, sent from beginning to end and again.
#[derive(Debug)]
pub(crate) struct Payload {
    file: File,
    bytes: u64,
    offset: u64,
}

impl Payload {
    /// A file of 4 MiB in memory.
    pub(crate) fn new() -> Result<Self> {
        let file = memfd_create("odd", MFdFlags::MFD_CLOEXEC).context("making a file in memory")?;
        let mut file = File::from(file);
        let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(64 << 10).collect();
        for _ in 0..FILE_BYTES / pattern.len() as u64 {
            file.write_all(&pattern).context("filling a file")?;
        }
        Ok(Self::of(file, FILE_BYTES))
    }

    /// A file of that many bytes.
    pub(crate) fn of(file: File, bytes: u64) -> Self {
        Self {
            file,
            bytes,
            offset: 0,
        }
    }

    /// The same file, from its beginning.
    pub(crate) fn again(&self) -> Result<Self> {
        let file = self.file.try_clone().context("sharing a file")?;
        Ok(Self::of(file, self.bytes))
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// One `sendfile` of at most `most` bytes, up to the end of the file; the bytes accepted.
    pub(crate) fn send(&mut self, socket: &impl AsFd, most: u64) -> nix::Result<u64> {
        let count = most.min(self.bytes - self.offset);
        let mut position = i64::try_from(self.offset).map_err(|_too_big| Errno::EFBIG)?;
        let count = usize::try_from(count).map_err(|_too_big| Errno::EFBIG)?;
        let sent = sendfile64(socket, &self.file, Some(&mut position), count)? as u64;
        self.offset = (self.offset + sent) % self.bytes;
        Ok(sent)
    }

    /// Sends without end, as fast as it goes.
    pub(crate) fn send_forever(mut self, socket: &TcpStream) -> Result<()> {
        loop {
            match self.send(socket, self.bytes) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("sendfile"),
            }
        }
    }

    /// Sends a MiB, pauses a moment, and so on without end.
    pub(crate) fn send_in_bursts(mut self, socket: &TcpStream) -> Result<()> {
        loop {
            let mut left = BURST_BYTES;
            while left > 0 {
                match self.send(socket, left) {
                    Ok(sent) => left -= sent,
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno).context("sendfile"),
                }
            }
            thread::sleep(BURST_PAUSE);
        }
    }
}
