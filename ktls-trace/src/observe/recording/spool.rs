//! A thread that compresses chunks and writes them, so that a slow disk delays nothing.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use super::chunk;
use crate::kernel::capabilities;

/// Lines that may wait to be written, in bytes.
const WAITING_BYTES: usize = 8 * 1024 * 1024;
/// How long the end of a run waits for what is not written yet.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// Lines on their way.
struct Chunk {
    /// The lines.
    lines: Vec<u8>,
    /// How many entries they are.
    entries: u64,
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Spool {
    /// Chunks to it; it ends when this is gone.
    chunks: Sender<Chunk>,
    /// Nothing is ever sent: it closes when the thread ends.
    ended: Receiver<()>,
    /// How far it is.
    progress: Arc<Progress>,
}

/// How far the thread is.
#[derive(Debug, Default)]
struct Progress {
    /// Lines handed over and not written yet, in bytes.
    waiting_bytes: AtomicUsize,
    /// Length of the file.
    written_bytes: AtomicU64,
    /// Entries in it.
    written_entries: AtomicU64,
    /// Why it has given up.
    failure: OnceLock<String>,
}

impl Spool {
    /// Starts the thread.
    pub(super) fn start(file: File) -> io::Result<Self> {
        let (chunks, from_us) = mpsc::channel();
        let (until_end, ended) = mpsc::channel();
        let progress = Arc::<Progress>::default();
        let shared = Arc::clone(&progress);
        thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || {
                capabilities::keep_only(&[]);
                write_all(file, &from_us, &shared);
                drop::<Sender<()>>(until_end);
            })?;
        Ok(Self {
            chunks,
            ended,
            progress,
        })
    }

    /// Hands lines over; `false` if too much waits already.
    pub(super) fn hand_over(&self, lines: Vec<u8>, entries: u64) -> bool {
        let length = lines.len();
        let waiting = &self.progress.waiting_bytes;
        if waiting.load(Ordering::Relaxed) + length > WAITING_BYTES {
            return false;
        }
        waiting.fetch_add(length, Ordering::Relaxed);
        // A thread that has given up says why in `failure`.
        drop(self.chunks.send(Chunk { lines, entries }));
        true
    }

    /// Length of the file so far.
    pub(super) fn written_bytes(&self) -> u64 {
        self.progress.written_bytes.load(Ordering::Relaxed)
    }

    /// Entries in the file so far.
    pub(super) fn written_entries(&self) -> u64 {
        self.progress.written_entries.load(Ordering::Relaxed)
    }

    /// Why nothing is written any more.
    pub(super) fn failure(&self) -> Option<&str> {
        self.progress.failure.get().map(String::as_str)
    }

    /// Waits until everything is written; why it is not.
    pub(super) fn finish(self) -> Result<(), String> {
        let Self {
            chunks,
            ended,
            progress,
        } = self;
        drop(chunks);
        if ended.recv_timeout(ENDS_WITHIN) == Err(RecvTimeoutError::Timeout) {
            return Err(format!(
                "its end is not written after {} s",
                ENDS_WITHIN.as_secs()
            ));
        }
        progress.failure.get().cloned().map_or(Ok(()), Err)
    }
}

/// The thread: writes whole chunks until there are no more, or one can't be written.
fn write_all(mut file: File, chunks: &Receiver<Chunk>, progress: &Progress) {
    while let Ok(Chunk { lines, entries }) = chunks.recv() {
        let written = chunk::pack(&lines).and_then(|packed| {
            file.write_all(&packed)?;
            Ok(packed.len())
        });
        match written {
            Ok(length) => {
                let length = u64::try_from(length).unwrap_or(u64::MAX);
                progress.written_bytes.fetch_add(length, Ordering::Relaxed);
                progress
                    .written_entries
                    .fetch_add(entries, Ordering::Relaxed);
                progress
                    .waiting_bytes
                    .fetch_sub(lines.len(), Ordering::Relaxed);
            }
            Err(error) => {
                take_back(&mut file, progress.written_bytes.load(Ordering::Relaxed));
                // Set once: the thread ends here.
                drop(progress.failure.set(error.to_string()));
                return;
            }
        }
    }
}

/// Leaves whole chunks only. A device has no length to go back to, and then nothing can be done.
fn take_back(file: &mut File, length: u64) {
    if file.set_len(length).is_ok() {
        drop(file.seek(SeekFrom::Start(length)));
    }
}
