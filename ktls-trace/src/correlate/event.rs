//! The events of the contract, schema `ktls-trace/1`: one JSON object a line, fields only ever added.
//!
//! What is not known is `null`, never 0.

mod evidence;
mod keyed;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::evidence::{
    Evidence, PersistEvidence, RecordEvidence, SendEvidence, SockDiagEvidence, TcpEvidence,
    WriterEvidence, flag_names,
};
pub(crate) use self::keyed::keyed;
use super::{
    chain::Link,
    rules::{Confidence, Gate, Verdict},
};
use crate::observe::{ReleasePath, Tls};

/// Name and version of the schema.
pub const SCHEMA: &str = "ktls-trace/1";

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Event {
    /// Always `ktls-trace/1`.
    pub schema: String,
    /// Which event.
    pub event: Name,
    /// When it was so, RFC 3339 in UTC with microseconds: `2026-06-03T17:19:22.000001Z`.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

impl Event {
    /// An event at a moment given as nanoseconds since 1970.
    pub fn new(event: Name, unix_ns: i64, body: Body) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            event,
            time: rfc3339(unix_ns),
            body,
        }
    }
}

/// The name that something has in events, if it is one of several named things.
pub fn name_of(value: &impl Serialize) -> Option<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Some(name),
        Ok(_) | Err(_) => None,
    }
}

/// Nanoseconds since 1970 as RFC 3339 in UTC with microseconds.
pub fn rfc3339(unix_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(unix_ns))
        .map_or_else(|_| "unknown".to_owned(), |time| format!("{time:.6}"))
}

/// Which event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// The daemon has started: what it can see and what it can't.
    Started,
    /// Bytes of a socket have been held longer than the threshold.
    StallOpened,
    /// The verdict, its confidence, the gate or the cadence has changed; a gate is told at most once a second, a
    /// cadence once in 10 s.
    StallUpdated,
    /// Nothing has been held longer than the threshold for a second, the socket was closed or is gone, or the daemon stops.
    StallClosed,
    /// Other hooks are attached than before: `tls` was loaded or unloaded, or with `--probes auto` a stall was opened or none has
    /// been open for 10 s, or a reload asks for one process.
    ProbesChanged,
    /// The daemon goes by other options from now on (SIGHUP).
    Reloaded,
    /// Something was not seen, or not recorded. What a destination of events lost is in `stopped`.
    Lost,
    /// The daemon ends: what was counted in the kernel, and every loss.
    Stopped,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Body {
    /// Of `started`.
    #[schemars(extend("properties" = {"event": {"enum": ["started"]}}))]
    Started(Started),
    /// Of `stall-opened`, `stall-updated` and `stall-closed`.
    #[schemars(extend(
        "properties" = {"event": {"enum": ["stall-opened", "stall-updated", "stall-closed"]}}
    ))]
    Stall(Box<Stall>),
    /// Of `probes-changed`.
    #[schemars(extend("properties" = {"event": {"enum": ["probes-changed"]}}))]
    Probes(Probes),
    /// Of `reloaded`.
    #[schemars(extend("properties" = {"event": {"enum": ["reloaded"]}}))]
    Reloaded(Reloaded),
    /// Of `lost`.
    #[schemars(extend("properties" = {"event": {"enum": ["lost"]}}))]
    Lost(Lost),
    /// Of `stopped`.
    #[schemars(extend("properties" = {"event": {"enum": ["stopped"]}}))]
    Stopped(Stopped),
}

/// A stall episode of one socket.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Stall {
    /// Names the episode (`COOKIE-SECONDS-NUMBER`): the same in its opening, updates and close, and in no other
    /// episode.
    pub stall: String,
    /// The socket.
    pub socket: Socket,
    /// Who was refused last, or else who sent last, or else who has it open; null: not known.
    pub process: Option<ProcessInfo>,
    /// Its TLS.
    pub tls: Tls,
    /// What holds it back.
    pub verdict: Verdict,
    /// How sure that is; never less than was told of the same verdict before.
    pub confidence: Confidence,
    /// The limit that the writer met, of `corked-completed-record`; null: another verdict, or not seen (`sock_diag` alone found the bytes).
    pub gate: Option<Gate>,
    /// What is held now, or was last.
    pub held: Held,
    /// Holds of this episode that are over, by who let them go; `transmit-queue` and `unknown` only once there are any.
    #[schemars(schema_with = "keyed::<ReleasePath, u64>")]
    #[schemars(extend("x-unit" = "holds"))]
    pub released: BTreeMap<ReleasePath, u64>,
    /// The rhythm that prevails in the last 8 releases, in `stall-closed` in all of them; null: neither.
    pub cadence: Option<Cadence>,
    /// What the verdict rests on.
    pub evidence: Evidence,
    /// The causal chain of the hold, all six links in order; the last is always seen, or there would be no stall.
    pub chain: Vec<Link>,
    /// What can be done, as commands for this host or as comments (`# …`); empty: nothing on this host.
    pub remedy: Vec<String>,
    /// Why the episode ended; only in `stall-closed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Ended")]
    pub ended: Option<Ended>,
    /// Sums over the episode so far.
    pub totals: Totals,
}

/// The rhythm in which held records leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cadence {
    /// The peer's delayed acknowledgement lets them go, about 40 ms apart.
    DelayedAck,
    /// The persist timer lets them go, about 200 ms apart.
    Persist,
}

/// Why an episode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Nothing has been held longer than the threshold for a second.
    Flowing,
    /// Its owner closed it.
    Closed,
    /// The kernel does not know it any more.
    Gone,
    /// The daemon stopped; the stall may go on.
    Stopped,
}

/// A socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Socket {
    /// Its cookie in hexadecimal, as `ss -e` prints it (`sk:`).
    pub cookie: Option<String>,
    /// Network namespace, as the inode number of `/proc/PID/ns/net`.
    pub netns: Option<u32>,
    /// Local address and port; IPv6 in brackets, an IPv4 peer of a dual-stack socket as IPv4.
    pub src: Option<String>,
    /// Remote address and port, in the same form.
    pub dst: Option<String>,
    /// Inode number, as in `/proc/PID/fd` (`socket:[INODE]`); null until `sock_diag` answers.
    pub inode: Option<u32>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ProcessInfo {
    /// Process number, as the host's first PID namespace counts.
    pub pid: u32,
    /// Thread that was refused last; null: none was seen.
    pub tid: Option<u32>,
    /// Name of the process (`/proc/PID/comm`).
    pub comm: Option<String>,
    /// Name of that thread.
    pub thread: Option<String>,
    /// Path of its program (`/proc/PID/exe`).
    pub exe: Option<String>,
    /// Its control group in the unified hierarchy (`/proc/PID/cgroup`).
    pub cgroup: Option<String>,
}

/// Bytes that wait: in the hold that goes on, or the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Held {
    /// Queued and not sent; 0: the writer waits for what is in flight.
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes: Option<u32>,
    /// Records that they belong to: `bytes` by the length of the last record, rounded up; null: no record was seen.
    #[schemars(extend("x-unit" = "records"))]
    pub records: Option<u32>,
    /// For how long: up to this event, or until they left.
    #[schemars(extend("x-unit" = "ms"))]
    pub ms: f64,
}

/// Sums over the episode so far. A hold that goes on is not in them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Totals {
    /// Times that bytes were held, however short.
    #[schemars(extend("x-unit" = "holds"))]
    pub holds: u64,
    /// Records held, over all holds.
    #[schemars(extend("x-unit" = "records"))]
    pub records: u64,
    /// Bytes held, over all holds.
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes: u64,
    /// What left during the episode as far as the hooks saw (`snd_nxt`), TLS overhead included.
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes_sent: u64,
    /// Length of the episode, from the first byte held to this event.
    #[schemars(extend("x-unit" = "ms"))]
    pub duration_ms: f64,
    /// Throughput: `bytes_sent` over `duration_ms`.
    #[schemars(extend("x-unit" = "bytes/s"))]
    pub bytes_per_s: Option<f64>,
    /// How long the holds lasted; null: none is over.
    pub held_ms: Option<Spread>,
    /// Holds longer than the threshold by what each was: an episode may pass from one verdict to another.
    #[schemars(schema_with = "keyed::<Verdict, VerdictTotals>")]
    pub verdicts: BTreeMap<Verdict, VerdictTotals>,
}

/// Holds of one verdict.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct VerdictTotals {
    /// How many.
    #[schemars(extend("x-unit" = "holds"))]
    pub holds: u64,
    /// How long they lasted together.
    #[schemars(extend("x-unit" = "ms"))]
    pub ms: f64,
}

/// How the lengths of the holds spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Spread {
    /// The shortest.
    #[schemars(extend("x-unit" = "ms"))]
    pub min: f64,
    /// The median; of the first 512 holds, if there are more.
    #[schemars(extend("x-unit" = "ms"))]
    pub median: f64,
    /// The longest.
    #[schemars(extend("x-unit" = "ms"))]
    pub max: f64,
    /// Their sum.
    #[schemars(extend("x-unit" = "ms"))]
    pub total: f64,
}

/// The daemon has started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// Version of ktls-trace.
    pub version: String,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: String,
    /// `hooks`: kernel hooks and `sock_diag`; `waiting-for-tls`: the hooks wait for the module;
    /// `polling`: `sock_diag` alone.
    pub mode: String,
    /// Which hooks are attached, and when: `full` all, always; `auto` those on hot functions while there is a
    /// stall; `light` those never. Null without hooks.
    pub probes: Option<String>,
    /// How long bytes may be held before a stall is opened (`--threshold`).
    #[schemars(extend("x-unit" = "ms"))]
    pub threshold_ms: f64,
    /// How often `sock_diag` is asked about a suspect (`--poll-interval`).
    #[schemars(extend("x-unit" = "ms"))]
    pub poll_interval_ms: f64,
    /// Attached hooks, by the kernel's function.
    pub hooks: Vec<String>,
    /// What can't be seen, in words; empty: nothing, or it waits for kernel TLS.
    pub cannot_see: Vec<String>,
}

/// The set of hooks has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Probes {
    /// Why, in words; with `--probes auto` also how long it took.
    pub reason: String,
    /// Attached hooks now, as in `started`.
    pub hooks: Vec<String>,
    /// What can't be seen, in words; empty: nothing.
    pub cannot_see: Vec<String>,
}

/// Options of the daemon have changed while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Those that count from now on.
    pub changed: Vec<Changed>,
    /// Those that were changed, too, but count from the next start only: by their long names on the command line.
    pub needs_restart: Vec<String>,
}

/// An option that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// Its long name on the command line.
    pub option: String,
    /// What it was: as it was written, each of several; empty: not set.
    pub was: Vec<String>,
    /// What it is.
    pub is: Vec<String>,
}

/// Something was not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// Where: `ring-buffer`, `suspects-map` or `sends-map` (full, in the kernel), `sock-diag` (questions that were not
    /// answered), `recording` (entries that are missing in the file).
    pub place: String,
    /// How many since the last event of this place.
    pub count: u64,
    /// How many of this place since the start.
    pub total: u64,
}

/// The daemon ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stopped {
    /// Stalls that were opened.
    pub stalls: u64,
    /// Times that a kTLS writer was refused; null without the hook on `sk_stream_wait_memory`.
    pub refused: Option<u64>,
    /// … of which ordinary back-pressure, decided in the kernel; null with `refused`.
    pub back_pressure: Option<u64>,
    /// Complete records handed to TCP; null without the hook on `tls_push_sg`, and unless `--probes full`.
    #[schemars(extend("x-unit" = "records"))]
    pub records: Option<u64>,
    /// … of which with `MSG_MORE`; null with `records`.
    #[schemars(extend("x-unit" = "records"))]
    pub records_with_msg_more: Option<u64>,
    /// Losses by place: those of `lost`, and of destinations: `output`, `journal`, `otlp-traces` (stalls),
    /// `otlp-metrics` (times that metrics were sent in vain).
    pub lost: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_rfc_3339_with_microseconds() {
        assert_eq!(
            rfc3339(1_780_507_162_000_001_000),
            "2026-06-03T17:19:22.000001Z"
        );
    }

    #[test]
    fn an_event_starts_with_schema_event_and_time() {
        let body = Body::Lost(Lost {
            place: "ring-buffer".to_owned(),
            count: 2,
            total: 2,
        });
        let line = serde_json::to_string(&Event::new(Name::Lost, 0, body)).unwrap();
        assert_eq!(
            line,
            "{\"schema\":\"ktls-trace/1\",\"event\":\"lost\",\"time\":\"1970-01-01T00:00:00.000000Z\",\
             \"place\":\"ring-buffer\",\"count\":2,\"total\":2}"
        );
    }
}
