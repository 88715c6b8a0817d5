//! Reads a recording, entry by entry, and says what is wrong with one that is cut short or damaged.

use std::io::{self, BufRead};

use serde::{Deserialize, de::DeserializeOwned};

use super::{End, Entry, Header, MAGIC, VERSION, chunk};
use crate::{correlate::Config, observe::What};

/// No clock of a run goes past this: 146 years.
const LATEST_NS: u64 = 1 << 62;

/// Why a recording can't be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself can't be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is something else.
    #[error("is not a recording of ktls-trace")]
    NotARecording,
    /// It was made by a later version of the format.
    #[error(
        "is a recording in version {version} of the format, made by ktls-trace {made_by}; this is \
         ktls-trace {}, which reads version {VERSION}",
        env!("CARGO_PKG_VERSION")
    )]
    Future {
        /// Its version of the format.
        version: u32,
        /// The ktls-trace that made it.
        made_by: String,
    },
    /// It ends before its end.
    #[error("is cut short after {entries} entries: what came later is not in it")]
    CutShort {
        /// Entries before that.
        entries: u64,
    },
    /// It is not as it was written.
    #[error("is damaged after {entries} entries: {what}")]
    Damaged {
        /// Entries before that.
        entries: u64,
        /// What is wrong.
        what: String,
    },
}

/// A recording that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    /// The file.
    source: R,
    /// Its first line.
    header: Header,
    /// Lines of the chunk at hand.
    lines: Vec<u8>,
    /// How much of them was taken.
    taken: usize,
    /// Entries read.
    entries: u64,
    /// The last line, once it was read.
    end: Option<End>,
}

/// What the first line of any version says.
#[derive(Deserialize)]
struct AnyHeader {
    /// [`MAGIC`].
    recording: String,
    /// Version of the format.
    version: u32,
    /// The ktls-trace that made it.
    made_by: String,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    ///
    /// If this is no recording, or none of a version that is known here.
    pub fn new(mut source: R) -> Result<Self, Error> {
        if !source.fill_buf()?.starts_with(chunk::MAGIC) {
            return Err(Error::NotARecording);
        }
        let lines = match chunk::next(&mut source) {
            chunk::Read::Lines(lines) => lines,
            chunk::Read::NoMore | chunk::Read::CutShort => {
                return Err(Error::CutShort { entries: 0 });
            }
            chunk::Read::Damaged(what) => return Err(Error::Damaged { entries: 0, what }),
            chunk::Read::Failed(error) => return Err(Error::Read(error)),
        };
        let line = lines
            .split_inclusive(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        match serde_json::from_slice::<AnyHeader>(line) {
            Ok(any) if any.recording != MAGIC => return Err(Error::NotARecording),
            Ok(AnyHeader {
                version, made_by, ..
            }) if version > VERSION => return Err(Error::Future { version, made_by }),
            Ok(_) => {}
            Err(_no_header) => return Err(Error::NotARecording),
        }
        let taken = line.len();
        let header: Header = parse(line, 0)?;
        if !is_sensible(&header.config) {
            return Err(Error::Damaged {
                entries: 0,
                what: "it names an interval that no run can have".to_owned(),
            });
        }
        Ok(Self {
            source,
            header,
            lines,
            taken,
            entries: 0,
            end: None,
        })
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The last line; `None` before it was read.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    ///
    /// If there is none although the recording has no end yet, or it can't be understood.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'static>>, Error> {
        if self.end.is_some() {
            return Ok(None);
        }
        if self.taken == self.lines.len() {
            self.lines = self.next_chunk()?;
            self.taken = 0;
        }
        let rest = &self.lines[self.taken..];
        let line = rest
            .split_inclusive(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let entry = parse(line, self.entries)?;
        self.taken += line.len();
        let at_ns = match &entry {
            Entry::Observed(observation) => observation.at_ns,
            Entry::Finished { at_ns } => *at_ns,
            Entry::Told { .. } | Entry::Kernel(_) | Entry::End(_) => 0,
        };
        if at_ns > LATEST_NS {
            return Err(self.damaged("the next is of a moment that no clock shows".to_owned()));
        }
        if let Entry::Observed(observation) = &entry
            && let What::Intervals {
                threshold_ns,
                poll_interval_ns,
            } = observation.what
            && ![threshold_ns, poll_interval_ns]
                .into_iter()
                .all(is_interval)
        {
            return Err(self.damaged("the next names an interval that no run can have".to_owned()));
        }
        let Entry::End(end) = entry else {
            self.entries += 1;
            return Ok(Some(entry));
        };
        if end.entries != self.entries {
            return Err(self.damaged(format!("it had {} when it was made", end.entries)));
        }
        let behind = match chunk::next(&mut self.source) {
            chunk::Read::NoMore => self.taken != self.lines.len(),
            chunk::Read::Failed(error) => return Err(Error::Read(error)),
            _ => true,
        };
        if behind {
            return Err(self.damaged("something follows its end".to_owned()));
        }
        self.end = Some(end);
        Ok(None)
    }

    /// The next chunk, of which there must be one.
    fn next_chunk(&mut self) -> Result<Vec<u8>, Error> {
        match chunk::next(&mut self.source) {
            chunk::Read::Lines(lines) if lines.is_empty() => {
                Err(self.damaged("a chunk is empty".to_owned()))
            }
            chunk::Read::Lines(lines) => Ok(lines),
            chunk::Read::NoMore | chunk::Read::CutShort => Err(Error::CutShort {
                entries: self.entries,
            }),
            chunk::Read::Damaged(what) => Err(self.damaged(what)),
            chunk::Read::Failed(error) => Err(Error::Read(error)),
        }
    }

    /// Something is wrong here.
    fn damaged(&self, what: String) -> Error {
        Error::Damaged {
            entries: self.entries,
            what,
        }
    }
}

/// Whether time passes by these intervals: a replay with others need not come to an end.
fn is_sensible(config: &Config) -> bool {
    let Config {
        threshold_ns,
        poll_interval_ns,
        flowing_ns,
        forget_ns,
        asks_unhooked: _,
        own_netns: _,
    } = config;
    [*threshold_ns, *poll_interval_ns, *flowing_ns, *forget_ns]
        .into_iter()
        .all(is_interval)
}

/// Whether time passes by it.
fn is_interval(interval_ns: u64) -> bool {
    (1..=LATEST_NS).contains(&interval_ns)
}

/// Understands a line.
fn parse<T: DeserializeOwned>(line: &[u8], entries: u64) -> Result<T, Error> {
    serde_json::from_slice(line).map_err(|error| Error::Damaged {
        entries,
        what: format!("the next can't be understood ({error})"),
    })
}
