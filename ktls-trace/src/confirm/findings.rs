//! What `confirm` found, as data: one JSON object of schema [`SCHEMA`]; fields are only ever added.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::series::Range;
use crate::correlate::chain::{LinkName, Status};

/// Name and version of the form.
pub const SCHEMA: &str = "ktls-trace-confirm/1";

/// What `confirm` found.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Findings {
    /// Always `ktls-trace-confirm/1`.
    pub schema: String,
    /// Version of ktls-trace.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// What was run.
    pub workload: WorkloadReport,
    /// What it comes to.
    pub outcome: Outcome,
    /// The outcome in a sentence.
    pub summary: String,
    /// The first link that was looked at and does not hold.
    pub broken_at: Option<LinkName>,
    /// What is otherwise on this kernel than in the report of the stall, in words.
    pub differences: Vec<String>,
    /// The causal chain, link by link, over the first run.
    pub chain: Vec<LinkFinding>,
    /// What the kernel list asked, answered from the first run.
    pub answers: Vec<Answer>,
    /// The runs side by side: the stalled one, then one flip after another.
    pub runs: Vec<RunReport>,
    /// What makes a flip count as healing, in words.
    pub criterion: String,
    /// What could not be seen, in words.
    pub cannot_see: Vec<String>,
}

/// What was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadReport {
    /// The built-in workload, in words.
    BuiltIn(String),
    /// A command and its arguments.
    Command(Vec<String>),
}

/// What it comes to; each has its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every link was seen, and every flip that applies heals, but for one whose failure `differences` explains: 0.
    Confirmed,
    /// No stall of this kind came up: 1.
    NotSeen,
    /// A link was looked at and does not hold, or a flip does not heal: 1.
    Refuted,
    /// Something could not be looked at: 2.
    CouldNotTell,
}

/// One link over a whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LinkFinding {
    /// Which.
    pub link: LinkName,
    /// What the facts say of it.
    pub status: Status,
    /// How often it was seen; null if that can't be.
    pub count: Option<u64>,
    /// Out of how many; null if that is not known.
    pub of: Option<u64>,
    /// What was counted and the values seen, in words.
    pub detail: String,
    /// Counts by name.
    pub counts: BTreeMap<String, u64>,
    /// Values by name, at the moments when bytes were held.
    pub values: BTreeMap<String, Range>,
    /// Flag words by name, joined by `|`, with how often each was seen when bytes were held.
    pub flags: BTreeMap<String, u64>,
}

/// A question of the kernel list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Shouldn't the cork use the MSS set by `TCP_MAXSEG`?
    MssAgainstMaxseg,
    /// If the MSS exceeds `SO_SNDBUF`, must TCP not send anyway?
    SndbufAgainstMss,
    /// Which limit does the wait look at?
    LimitWaitedOn,
    /// Memory is freed on ACK, so why aren't many short records in flight?
    RecordsInFlight,
}

/// An answer from what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Answer {
    /// To which question.
    pub question: Question,
    /// The question in words.
    pub asked: String,
    /// The answer in words; null if no writer was refused with bytes held.
    pub answer: Option<String>,
    /// The values that it rests on.
    pub values: BTreeMap<String, Range>,
}

/// Which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunName {
    /// The transfer as it is asked for.
    AsIs,
    /// A command as it is, in the private network namespace in which its flips run.
    AsIsInNamespace,
    /// With the gate open.
    GateOpen,
    /// With an MSS below a record.
    SmallMss,
    /// With `write()` in place of `sendfile()`.
    Write,
    /// Without TLS.
    Plain,
}

impl RunName {
    /// The run in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::AsIs => "as it is",
            Self::AsIsInNamespace => "as it is, own namespace",
            Self::GateOpen => "gate open",
            Self::SmallMss => "small MSS",
            Self::Write => "write()",
            Self::Plain => "no TLS",
        }
    }
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// What the flips are compared with.
    Baseline,
    /// The stall is gone: the cause that was taken away was one.
    Heals,
    /// The stall is still there.
    DoesNotHeal,
    /// This flip says nothing about this transfer.
    NotApplicable,
    /// There was no stall to heal.
    NotNeeded,
    /// It could not be run, or does not tell: without the stall, throughput did not rise.
    Failed,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunReport {
    /// Which.
    pub run: RunName,
    /// What became of it.
    pub status: RunStatus,
    /// What was changed, in words.
    pub changed: String,
    /// Throughput: what the built-in receiver read, or what a command's kTLS sockets handed to TCP.
    #[schemars(extend("x-unit" = "MiB/s"))]
    pub mib_per_s: Option<f64>,
    /// The same against the baseline; null if that is 0 or not known.
    pub times_baseline: Option<f64>,
    /// How long it ran.
    #[schemars(extend("x-unit" = "ms"))]
    pub duration_ms: Option<u64>,
    /// Bytes behind the throughput.
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes: Option<u64>,
    /// Stalls judged `corked-completed-record`.
    pub corked_stalls: Option<u64>,
    /// All stalls, whatever the verdict.
    pub stalls: Option<u64>,
    /// Times that bytes were held when the writer was refused.
    pub holds: Option<u64>,
    /// What else there is to say.
    pub note: Option<String>,
}
