//! Recordings: every observation of a run, in the order in which it was taken, so that the same events
//! come out again on another machine ([`replay`]).
//!
//! **The format.** A file of gzip members, one a chunk (`zcat` prints it all), each with a checksum of its
//! own. Inside are lines of JSON:
//!
//! ```text
//! {"recording":"ktls-trace-recording","version":2,"made_by":"0.1.0","config":{…},"kernel":{…}}
//! {"observed":{"at_ns":…,"what":{…}}}
//! {"told":{"unix_ns":…,"what":{"started":{…}}}}
//! {"finished":{"at_ns":…}}
//! {"end":{"entries":…,"full":false}}
//! ```
//!
//! The first names the format and what the run went by ([`Header`]); then one line an [`Entry`]; the last
//! counts them ([`End`]). Without that last line the recording was cut short: it is good as far as it goes.
//! A chunk is written when a second has passed, so what ends the daemon costs a second at most.
//!
//! Fields are only ever added, with a default that means "not known"; a change by which an older reader
//! would replay something else raises [`VERSION`]. Version 2 brought intervals that change during a run.
//!
//! There is no payload in it, no key and no address of the kernel's memory.

mod anonymize;
mod chunk;
mod facts;
mod reader;
mod replay;
mod spool;
mod writer;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use anonymize::Anonymizer;
pub use facts::{KernelFacts, Served};
pub use reader::{Error, Reader};
pub use replay::{Replayed, replay, replay_all};
pub use writer::{CreateError, Options, Recorder, Trouble};

use super::Observation;
use crate::correlate::{
    Config,
    event::{Body, Lost, Name, Probes, Reloaded, Started, Stopped},
};

/// What the first line of a recording says it is.
pub const MAGIC: &str = "ktls-trace-recording";
/// The version of the format that is written, and the newest that is read.
pub const VERSION: u32 = 2;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Always [`MAGIC`].
    pub recording: String,
    /// Version of the format.
    pub version: u32,
    /// Version of the ktls-trace that made it.
    pub made_by: String,
    /// Whether addresses and names were replaced.
    #[serde(default)]
    pub anonymized: bool,
    /// What the correlator went by.
    pub config: Config,
    /// The kernel that was watched, as far as it was known at the start.
    pub kernel: KernelFacts,
}

/// A line after the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry<'a> {
    /// The correlator was handed this.
    Observed(Cow<'a, Observation>),
    /// The run itself told this.
    Told {
        /// Its time, in nanoseconds since 1970.
        unix_ns: i64,
        /// What.
        what: Told,
    },
    /// The kernel was looked at anew.
    Kernel(KernelFacts),
    /// The correlator was told to close every episode.
    Finished {
        /// When, `CLOCK_MONOTONIC` in nanoseconds.
        at_ns: u64,
    },
    /// The last line.
    End(End),
}

/// The last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Entries between the first line and this one.
    pub entries: u64,
    /// Whether it ends because it reached its greatest length, not because the run ended.
    pub full: bool,
}

/// An event that does not come from the correlator. It rests on what is no observation (counters of the
/// kernel, losses), so it is kept as it was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// `started`.
    Started(Started),
    /// `probes-changed`.
    ProbesChanged(Probes),
    /// `reloaded`.
    Reloaded(Reloaded),
    /// `lost`.
    Lost(Lost),
    /// `stopped`.
    Stopped(Stopped),
}

impl Told {
    /// What was told, unless it is the correlator's: that is not recorded but found again.
    fn of(body: &Body) -> Option<Self> {
        match body {
            Body::Started(body) => Some(Self::Started(body.clone())),
            Body::Probes(body) => Some(Self::ProbesChanged(body.clone())),
            Body::Reloaded(body) => Some(Self::Reloaded(body.clone())),
            Body::Lost(body) => Some(Self::Lost(body.clone())),
            Body::Stopped(body) => Some(Self::Stopped(body.clone())),
            Body::Stall(_) => None,
        }
    }

    /// The event's name and body.
    fn into_event(self) -> (Name, Body) {
        match self {
            Self::Started(body) => (Name::Started, Body::Started(body)),
            Self::ProbesChanged(body) => (Name::ProbesChanged, Body::Probes(body)),
            Self::Reloaded(body) => (Name::Reloaded, Body::Reloaded(body)),
            Self::Lost(body) => (Name::Lost, Body::Lost(body)),
            Self::Stopped(body) => (Name::Stopped, Body::Stopped(body)),
        }
    }
}
