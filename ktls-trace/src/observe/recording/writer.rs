//! Writes a recording beside a run that it must never delay or stop: what can't be recorded is counted.

use std::{
    borrow::Cow,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Anonymizer, End, Entry, Header, KernelFacts, MAGIC, Told, VERSION, chunk::FULL_BYTES,
    spool::Spool,
};
use crate::{
    correlate::{Config, event::Body},
    observe::Observation,
};

/// Lines wait this long at most until they are written.
const OLDEST: Duration = Duration::from_secs(1);

/// Where a recording goes and what is in it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file. It must be new or empty: a recording is never overwritten.
    pub path: PathBuf,
    /// Whether addresses and names are replaced.
    pub anonymize: bool,
    /// Length in bytes at which the recording ends.
    pub limit_bytes: u64,
}

/// Why a recording can't be begun.
#[derive(Debug, thiserror::Error)]
#[error("cannot record to {}: {source}", path.display())]
pub struct CreateError {
    /// The file.
    path: PathBuf,
    /// What went wrong.
    source: io::Error,
}

/// Why a recording does not go on, told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The reason, with the file.
    pub why: String,
    /// Entries that are not in it so far.
    pub missed: u64,
}

/// How a recording stands.
#[derive(Debug)]
enum State {
    /// It is written.
    Recording,
    /// It has reached its greatest length, and only its end is missing.
    Full,
    /// It ends here.
    Over,
}

/// A recording that is being written.
#[derive(Debug)]
pub struct Recorder {
    /// Where to, and how.
    options: Options,
    /// Replaces addresses and names.
    anonymizer: Option<Anonymizer>,
    /// Writes the file.
    spool: Spool,
    /// How it stands.
    state: State,
    /// Why it does not go on, until it is told.
    trouble: Option<String>,
    /// Lines not handed over yet.
    lines: Vec<u8>,
    /// How many entries they are.
    lines_entries: u64,
    /// When the first of them came.
    since: Option<Instant>,
    /// Entries taken so far.
    entries: u64,
    /// Entries that were not taken, or taken in vain.
    missed: u64,
}

impl Recorder {
    /// Creates the file, readable by its owner only.
    ///
    /// # Errors
    ///
    /// If it can't be written to, or holds something already.
    pub fn create(options: Options) -> Result<Self, CreateError> {
        let spool = open(&options.path)
            .and_then(Spool::start)
            .map_err(|source| CreateError {
                path: options.path.clone(),
                source,
            })?;
        Ok(Self {
            anonymizer: options.anonymize.then(Anonymizer::default),
            options,
            spool,
            state: State::Recording,
            trouble: None,
            lines: Vec::new(),
            lines_entries: 0,
            since: None,
            entries: 0,
            missed: 0,
        })
    }

    /// Writes the first line.
    pub fn begin(&mut self, config: Config, kernel: KernelFacts) {
        let header = Header {
            recording: MAGIC.to_owned(),
            version: VERSION,
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            anonymized: self.options.anonymize,
            config,
            kernel,
        };
        self.line(&header);
        self.hand_over();
    }

    /// The kernel was looked at anew.
    pub fn kernel(&mut self, kernel: KernelFacts) {
        self.entry(&Entry::Kernel(kernel));
    }

    /// The correlator is handed this observation.
    pub fn observed(&mut self, observation: &Observation) {
        let observation = match &mut self.anonymizer {
            Some(anonymizer) => Cow::Owned(anonymizer.observation(observation)),
            None => Cow::Borrowed(observation),
        };
        self.entry(&Entry::Observed(observation));
    }

    /// The run tells this event, at a time in nanoseconds since 1970. The correlator's own are not recorded.
    pub fn told(&mut self, unix_ns: i64, body: &Body) {
        let Some(mut what) = Told::of(body) else {
            return;
        };
        if let (Some(anonymizer), Told::Reloaded(reloaded)) = (&mut self.anonymizer, &mut what) {
            anonymizer.reloaded(reloaded);
        }
        let of_us = matches!(&what, Told::Lost(lost) if lost.place == "recording");
        let entry = Entry::Told { unix_ns, what };
        if of_us && matches!(self.state, State::Full) {
            // The last word of a full recording is that it is one.
            self.entries += 1;
            self.lines_entries += 1;
            self.line(&entry);
            self.end(true);
        } else {
            self.entry(&entry);
        }
    }

    /// The correlator is told to close every episode.
    pub fn finished(&mut self, at_ns: u64) {
        self.entry(&Entry::Finished { at_ns });
    }

    /// Writes what has waited for long. To be called a few times a second; says once why the recording does
    /// not go on.
    pub fn tend(&mut self) -> Option<Trouble> {
        if self.since.is_some_and(|since| since.elapsed() >= OLDEST) {
            self.hand_over();
        }
        self.look_for_failure();
        if self.missed == 0 {
            return None;
        }
        let why = self.trouble.take()?;
        Some(Trouble {
            why: format!("{}: {why}", self.options.path.display()),
            missed: self.missed,
        })
    }

    /// Entries that are not in the recording so far.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Writes the end and waits for it, 3 s at most; what went wrong, if that was not told before.
    pub fn close(mut self) -> Option<String> {
        self.look_for_failure();
        let told_before = self.trouble.is_none() && self.spool.failure().is_some();
        match self.state {
            State::Recording => self.end(false),
            State::Full => self.end(true),
            State::Over => {}
        }
        let path = self.options.path;
        match (self.trouble, self.spool.finish()) {
            (Some(why), _) => Some(format!("{}: {why}", path.display())),
            (None, Err(why)) if !told_before => Some(format!("{}: {why}", path.display())),
            (None, _) => None,
        }
    }

    /// Writes the last line.
    fn end(&mut self, full: bool) {
        let entries = self.entries;
        self.line(&Entry::End(End { entries, full }));
        self.send();
        self.state = State::Over;
    }

    /// Adds an entry, or counts it as missed.
    fn entry(&mut self, entry: &Entry<'_>) {
        if !matches!(self.state, State::Recording) {
            self.missed += 1;
            return;
        }
        self.entries += 1;
        self.lines_entries += 1;
        self.line(entry);
        if self.lines.len() >= FULL_BYTES {
            self.hand_over();
        }
    }

    /// Adds a line.
    fn line(&mut self, line: &impl serde::Serialize) {
        let before = self.lines.len();
        if let Err(error) = serde_json::to_writer(&mut self.lines, line) {
            self.lines.truncate(before);
            self.give_up(format!("an entry can't be encoded: {error}"));
            return;
        }
        self.lines.push(b'\n');
        self.since.get_or_insert_with(Instant::now);
    }

    /// Hands the lines over to be written, and looks whether the recording is long enough.
    pub(super) fn hand_over(&mut self) {
        self.send();
        if matches!(self.state, State::Recording)
            && self.spool.written_bytes() >= self.options.limit_bytes
        {
            self.state = State::Full;
            self.trouble = Some(format!(
                "the recording has reached its limit of {} bytes and ends here",
                self.options.limit_bytes
            ));
        }
    }

    /// Hands the lines over to be written.
    fn send(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let entries = std::mem::take(&mut self.lines_entries);
        self.since = None;
        if !lines.is_empty() && !self.spool.hand_over(lines, entries) {
            self.missed += entries;
            self.give_up("the disk is too slow for it; the recording ends here".to_owned());
        }
    }

    /// Notices that the file can't be written any more.
    fn look_for_failure(&mut self) {
        if matches!(self.state, State::Over) {
            return;
        }
        if let Some(failure) = self.spool.failure() {
            let why = format!("{failure}; the recording ends here");
            self.missed += self.entries - self.spool.written_entries();
            self.give_up(why);
        }
    }

    /// Nothing more is recorded.
    fn give_up(&mut self, why: String) {
        self.state = State::Over;
        self.trouble = Some(why);
    }
}

/// Opens a new or empty file.
fn open(path: &Path) -> io::Result<fs::File> {
    // Opening a pipe would wait for a reader.
    if let Ok(there) = fs::metadata(path) {
        if !there.is_file() && !there.file_type().is_char_device() {
            return Err(io::Error::other("it is not a file"));
        }
        if there.len() > 0 {
            return Err(io::Error::other(
                "it exists already, and a recording is never overwritten",
            ));
        }
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}
