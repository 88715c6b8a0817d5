//! The events of the contract, schema `ktls-trace/1`: one JSON object a line, fields only ever added.
//!
//! What is not known is `null`, never 0.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    chain::Link,
    episode::ms,
    rules::{Confidence, Gate, Verdict},
};
use crate::observe::{ReleasePath, Sample, SocketState, Timer, Tls};

/// Name and version of the schema.
pub const SCHEMA: &str = "ktls-trace/1";

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Event {
    /// Always `ktls-trace/1`.
    pub schema: String,
    /// Which event.
    pub event: Name,
    /// When, RFC 3339 in UTC with microseconds.
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
    /// The daemon has started; what it can and can't see.
    Started,
    /// Bytes have been held longer than the threshold.
    StallOpened,
    /// The verdict, its confidence, the gate or the cadence has changed.
    StallUpdated,
    /// The socket flows again, or is gone.
    StallClosed,
    /// The set of attached hooks has changed.
    ProbesChanged,
    /// The daemon goes by other options from now on (SIGHUP).
    Reloaded,
    /// Something was not seen: how much, and where it was lost.
    Lost,
    /// The daemon ends.
    Stopped,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Body {
    /// Of `stall-opened`, `stall-updated` and `stall-closed`.
    Stall(Box<Stall>),
    /// Of `started`.
    Started(Started),
    /// Of `probes-changed`.
    Probes(Probes),
    /// Of `reloaded`.
    Reloaded(Reloaded),
    /// Of `lost`.
    Lost(Lost),
    /// Of `stopped`.
    Stopped(Stopped),
}

/// A stall episode of one socket.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Stall {
    /// Names the episode: the same in its opening, updates and close, and in no other episode.
    pub stall: String,
    /// The socket.
    pub socket: Socket,
    /// Who writes to it, as far as known.
    pub process: Option<ProcessInfo>,
    /// Its TLS.
    pub tls: Tls,
    /// What holds it back.
    pub verdict: Verdict,
    /// How sure that is.
    pub confidence: Confidence,
    /// The limit that the writer met, for a corked record.
    pub gate: Option<Gate>,
    /// What is held now, or was last.
    pub held: Held,
    /// Holds of this episode by who let them go.
    pub released: BTreeMap<ReleasePath, u64>,
    /// The rhythm of the releases: `delayed-ack` or `persist`; null before the first.
    pub cadence: Option<Cadence>,
    /// What the verdict rests on.
    pub evidence: Evidence,
    /// The causal chain, link by link.
    pub chain: Vec<Link>,
    /// What can be done, as commands.
    pub remedy: Vec<String>,
    /// Of `stall-closed`: why the episode ended.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// Nothing has been held for a second.
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
    /// Local address and port; IPv6 in brackets.
    pub src: Option<String>,
    /// Remote address and port; IPv6 in brackets.
    pub dst: Option<String>,
    /// Inode number, as in `/proc/PID/fd`.
    pub inode: Option<u32>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ProcessInfo {
    /// Process number, as the host's first PID namespace counts.
    pub pid: u32,
    /// Thread that was refused.
    pub tid: Option<u32>,
    /// Name of the process.
    pub comm: Option<String>,
    /// Name of that thread.
    pub thread: Option<String>,
    /// Path of its program.
    pub exe: Option<String>,
    /// Its control group.
    pub cgroup: Option<String>,
}

/// What is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Held {
    /// Bytes queued and not sent.
    pub bytes: Option<u32>,
    /// Records that they belong to.
    pub records: Option<u32>,
    /// For how long, in milliseconds.
    pub ms: f64,
}

/// Sums over an episode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Totals {
    /// Times that bytes were held.
    pub holds: u64,
    /// Records held, over all holds.
    pub records: u64,
    /// Bytes held, over all holds.
    pub bytes: u64,
    /// Bytes that left during the episode (`snd_nxt`), TLS overhead included.
    pub bytes_sent: u64,
    /// Length of the episode in milliseconds, from the first byte held.
    pub duration_ms: f64,
    /// Throughput during the episode.
    pub bytes_per_s: Option<f64>,
    /// How long the holds lasted.
    pub held_ms: Option<Spread>,
    /// The holds longer than the threshold by what each was: an episode may pass from one verdict to another.
    pub verdicts: BTreeMap<Verdict, VerdictTotals>,
}

/// Holds of one verdict.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct VerdictTotals {
    /// How many.
    pub holds: u64,
    /// How long they lasted together, in milliseconds.
    pub ms: f64,
}

/// How durations spread, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Spread {
    /// The shortest.
    pub min: f64,
    /// The median; of the first 1024 holds, if there are more.
    pub median: f64,
    /// The longest.
    pub max: f64,
    /// Their sum.
    pub total: f64,
}

/// What a verdict rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Evidence {
    /// Where the facts come from: `hooks`, `sock_diag`.
    pub sources: Vec<&'static str>,
    /// The send that ran when the writer was refused, or last.
    pub send: Option<SendEvidence>,
    /// The record that was handed to TCP last.
    pub record: Option<RecordEvidence>,
    /// The refused writer.
    pub writer: Option<WriterEvidence>,
    /// The socket, as the hooks saw it or else `sock_diag`.
    pub tcp: TcpEvidence,
    /// The timer pending, as `sock_diag` saw it; null: none, or not asked yet.
    pub timer: Option<Timer>,
    /// The persist timer during the hold.
    pub persist: PersistEvidence,
    /// Times that the retransmission timer fired during the episode.
    pub retransmit_timeouts: u32,
    /// `sock_diag`'s answer.
    pub sock_diag: Option<SockDiagEvidence>,
}

/// A send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SendEvidence {
    /// `msg_flags`, by name.
    pub flags: Vec<String>,
    /// Bytes asked for; null for a page handed over by sendpage (before 6.5).
    pub bytes: Option<u64>,
    /// Whether sendfile or splice sent it.
    pub splice: bool,
}

/// A complete record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RecordEvidence {
    /// Flags handed to TCP with it, by name.
    pub flags: Vec<String>,
    /// Its bytes, TLS overhead included.
    pub bytes: u32,
    /// Whether the queue ended with it.
    pub complete: bool,
}

/// A refused writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WriterEvidence {
    /// Whether it sleeps; otherwise it got `-EAGAIN`.
    pub blocking: bool,
}

/// TCP's own values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct TcpEvidence {
    /// Bytes queued and not sent.
    pub notsent: Option<u32>,
    /// Segments in flight.
    pub packets_out: Option<u32>,
    /// The peer's window in bytes.
    pub snd_wnd: Option<u32>,
    /// Bytes of it that are left: `snd_una + snd_wnd - snd_nxt`.
    pub window_left: Option<u32>,
    /// Current MSS in bytes.
    pub mss: Option<u32>,
    /// Congestion window in segments.
    pub snd_cwnd: Option<u32>,
    /// `sk_sndbuf` in bytes of memory.
    pub sndbuf: Option<u32>,
    /// `sk_wmem_queued` in bytes of memory.
    pub wmem_queued: Option<u32>,
    /// Unsent bytes at which the gate shuts.
    pub notsent_lowat: Option<u32>,
    /// Whether that is the socket's own setting (`TCP_NOTSENT_LOWAT`).
    pub own_lowat: Option<bool>,
    /// Whether the application set `TCP_CORK`.
    pub corked: Option<bool>,
    /// Whether it set `TCP_NODELAY`.
    pub nodelay: Option<bool>,
    /// Whether the persist timer was pending when the writer was refused.
    pub persist_pending: Option<bool>,
    /// What the application set by `TCP_MAXSEG`, in bytes; null: nothing, or not known.
    pub user_mss: Option<u32>,
    /// Bytes sent and not acknowledged.
    pub unacked_bytes: Option<u32>,
    /// Smoothed round-trip time in milliseconds.
    pub srtt_ms: Option<f64>,
    /// Retransmission timeouts in a row (`icsk_retransmits`).
    pub retransmits: Option<u32>,
    /// Segments thought lost.
    pub lost: Option<u32>,
    /// Whether the data waits for the queueing discipline (`TSQF_THROTTLED`).
    pub throttled: Option<bool>,
    /// How long pacing forbade the next segment, in milliseconds.
    pub paced_ms: Option<f64>,
    /// Whether the application left a TLS record open.
    pub open_record: Option<bool>,
    /// Whether the last segment that waits has the PSH flag, which `tcp_push` leaves out only with `MSG_MORE`.
    pub tail_psh: Option<bool>,
    /// TLS records whose encryption had not returned.
    pub encrypt_pending: Option<u32>,
}

impl TcpEvidence {
    /// As the hooks saw it.
    pub fn of_socket(socket: &SocketState) -> Self {
        Self {
            notsent: socket.notsent(),
            packets_out: socket.packets_out,
            snd_wnd: socket.snd_wnd,
            window_left: socket.window_left(),
            mss: socket.mss,
            snd_cwnd: socket.snd_cwnd,
            sndbuf: socket.sndbuf,
            wmem_queued: socket.wmem_queued,
            notsent_lowat: socket.notsent_lowat,
            own_lowat: socket.own_lowat,
            corked: socket.corked,
            nodelay: socket.nodelay,
            persist_pending: socket.persist_pending,
            user_mss: socket.user_mss.filter(|&user_mss| user_mss > 0),
            unacked_bytes: socket.unacked_bytes(),
            srtt_ms: socket.srtt_us.map(|srtt_us| f64::from(srtt_us) / 1000.0),
            retransmits: socket.retransmits,
            lost: socket.lost,
            throttled: socket.throttled,
            paced_ms: socket.paced_ns.map(ms),
            open_record: socket.open_record,
            tail_psh: socket.tail_psh,
            encrypt_pending: socket.encrypt_pending,
        }
    }

    /// As `sock_diag` saw it.
    pub fn of_sample(sample: &Sample) -> Self {
        let narrow = |bytes: Option<u64>| bytes.and_then(|bytes| u32::try_from(bytes).ok());
        Self {
            notsent: sample.notsent,
            packets_out: sample.packets_out,
            snd_wnd: sample.snd_wnd,
            window_left: narrow(sample.window_left()),
            unacked_bytes: narrow(sample.unacked_bytes),
            mss: sample.mss,
            snd_cwnd: sample.snd_cwnd,
            sndbuf: sample.sndbuf,
            wmem_queued: sample.wmem_queued,
            retransmits: sample.retransmits,
            lost: sample.lost,
            persist_pending: Some(sample.timer.as_ref().is_some_and(Timer::is_persist)),
            ..Self::default()
        }
    }
}

/// The persist timer during a hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PersistEvidence {
    /// Times it was armed during the episode.
    pub armed: u32,
    /// Times it fired during the episode.
    pub fired: u32,
    /// Zero-window probes sent during the episode.
    pub zero_window_probes: u32,
}

/// What `sock_diag` answered during the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SockDiagEvidence {
    /// `tcpi_notsent_bytes`.
    pub notsent: Option<u32>,
    /// `tcpi_unacked`.
    pub packets_out: Option<u32>,
    /// `tcpi_snd_wnd`.
    pub snd_wnd: Option<u32>,
    /// `tcpi_snd_wnd` without what is in flight, in bytes.
    pub window_left: Option<u64>,
    /// `tcpi_retransmits`.
    pub retransmits: Option<u32>,
}

impl SockDiagEvidence {
    /// What an answer says.
    pub fn of_sample(sample: &Sample) -> Self {
        Self {
            notsent: sample.notsent,
            packets_out: sample.packets_out,
            snd_wnd: sample.snd_wnd,
            window_left: sample.window_left(),
            retransmits: sample.retransmits,
        }
    }
}

/// The daemon has started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// Version of ktls-trace.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// `hooks`: kernel hooks and `sock_diag`; `waiting-for-tls`: the hooks wait for the module;
    /// `polling`: `sock_diag` alone.
    pub mode: String,
    /// Which hooks are attached, and when: `full` all, always; `auto` those on hot functions while there is a
    /// stall; `light` those never. Null without hooks.
    pub probes: Option<String>,
    /// How long bytes may be held before a stall is opened, in milliseconds.
    pub threshold_ms: f64,
    /// How often a suspect is asked about, in milliseconds.
    pub poll_interval_ms: f64,
    /// Attached hooks, as `FUNCTION` or `FUNCTION (return)`.
    pub hooks: Vec<String>,
    /// What can't be seen, in words.
    pub cannot_see: Vec<String>,
}

/// The set of hooks has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Probes {
    /// Why.
    pub reason: String,
    /// Attached hooks now.
    pub hooks: Vec<String>,
    /// What can't be seen, in words.
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
    /// Where: `ring-buffer`, `suspects-map`, `calls-map`, `sock-diag`, `recording`.
    pub place: String,
    /// How many since the last such event.
    pub count: u64,
    /// How many since the start.
    pub total: u64,
}

/// The daemon ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stopped {
    /// Stalls that were opened.
    pub stalls: u64,
    /// Times that a kTLS writer was refused; null without hooks.
    pub refused: Option<u64>,
    /// … of which ordinary back-pressure, decided in the kernel.
    pub back_pressure: Option<u64>,
    /// Complete records handed to TCP.
    pub records: Option<u64>,
    /// … of which with `MSG_MORE`.
    pub records_with_msg_more: Option<u64>,
    /// Losses by place.
    pub lost: BTreeMap<String, u64>,
}

/// Flag words by name: the ones that matter here, the rest as a number.
pub fn flag_names(flags: u32) -> Vec<String> {
    const NAMES: [(u32, &str); 6] = [
        (0x40, "MSG_DONTWAIT"),
        (0x4000, "MSG_NOSIGNAL"),
        (0x8000, "MSG_MORE"),
        (0x2_0000, "MSG_SENDPAGE_NOTLAST"),
        (0x0800_0000, "MSG_SPLICE_PAGES"),
        (0x80, "MSG_EOR"),
    ];
    let mut rest = flags;
    let mut names = Vec::new();
    for (bit, name) in NAMES {
        if flags & bit != 0 {
            names.push(name.to_owned());
            rest &= !bit;
        }
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
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

    #[test]
    fn flags_have_names_and_unknown_bits_stay_visible() {
        assert_eq!(
            flag_names(0x0800_8040),
            ["MSG_DONTWAIT", "MSG_MORE", "MSG_SPLICE_PAGES"]
        );
        assert_eq!(flag_names(0x28000), ["MSG_MORE", "MSG_SENDPAGE_NOTLAST"]);
        assert_eq!(flag_names(0x1000_0000), ["0x10000000"]);
    }
}
