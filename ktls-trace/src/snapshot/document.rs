//! What a snapshot hands out: one JSON object, schema `ktls-trace/1`, with the fields of the events where they mean
//! the same. What is not known is `null`, never 0.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Before,
    rates::Rates,
    verdict::{self, Activity, Judgement},
};
use crate::{
    correlate::{
        event::{ProcessInfo, SCHEMA, SockDiagEvidence, Socket, TcpEvidence, keyed, name_of},
        rules::{Confidence, Verdict},
    },
    observe::{Sample, Timer, Tls},
    sockdiag::SocketSample,
    watch::sample_of,
};

/// A snapshot of the kTLS sockets of a host.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Snapshot {
    /// Always `ktls-trace/1`.
    pub schema: String,
    /// Always `snapshot`.
    pub event: String,
    /// When it was complete, RFC 3339 in UTC with microseconds.
    pub time: String,
    /// Version of ktls-trace.
    pub version: String,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: String,
    /// Whether the `tls` module is loaded; false also where TLS is built into the kernel.
    pub tls_module: bool,
    /// Time between the two passes over the first namespace; null: there was one pass.
    #[schemars(extend("x-unit" = "ms"))]
    pub interval_ms: Option<f64>,
    /// Sums over the sockets.
    pub counts: Counts,
    /// What could not be seen, in words.
    pub cannot_see: Vec<String>,
    /// The network namespaces that were looked for.
    pub namespaces: Vec<NamespaceInfo>,
    /// The sockets, most suspicious first.
    pub sockets: Vec<SocketReport>,
}

/// Sums over the sockets of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Counts {
    /// kTLS sockets found.
    pub sockets: usize,
    /// Sockets of the first pass that were gone at the second.
    pub closed_meanwhile: usize,
    /// Sockets without a verdict.
    pub healthy: usize,
    /// The others by verdict.
    #[schemars(schema_with = "keyed::<Verdict, usize>")]
    pub verdicts: BTreeMap<Verdict, usize>,
    /// All by what they do.
    #[schemars(schema_with = "keyed::<Activity, usize>")]
    pub activities: BTreeMap<Activity, usize>,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NamespaceInfo {
    /// Inode number, as of `/proc/PID/ns/net`.
    pub netns: Option<u32>,
    /// Whether it is the one that ktls-trace runs in.
    pub own: bool,
    /// The file by which it was entered.
    pub path: Option<String>,
    /// A process in it.
    pub process: Option<ProcessInfo>,
    /// kTLS sockets found in it; null: it could not be asked.
    pub sockets: Option<usize>,
    /// Whether sockets came or went while the kernel listed them, each time it was asked: some may be
    /// missing.
    pub interrupted: bool,
    /// Why it could not be asked.
    pub error: Option<String>,
}

/// One kTLS socket.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SocketReport {
    /// The socket.
    pub socket: Socket,
    /// State of the connection: `established`, `close-wait`, `fin-wait1`, …
    pub state: String,
    /// User number of its owner.
    pub uid: u32,
    /// The process that has it open, the one with the lowest number if several do; null: none is known.
    pub process: Option<ProcessInfo>,
    /// The other processes that have it open.
    pub shared_with: Vec<ProcessInfo>,
    /// Its TLS.
    pub tls: SocketTls,
    /// What it does.
    pub activity: Activity,
    /// What holds it back; null: nothing seems to.
    pub verdict: Option<Verdict>,
    /// How sure that is; null without a verdict.
    pub confidence: Option<Confidence>,
    /// Why, in a few words with the facts; null if there is nothing to say.
    pub reason: Option<String>,
    /// With verdict `unknown`: those that the facts allow.
    pub candidates: Vec<Verdict>,
    /// What would decide between the candidates.
    pub next: Option<String>,
    /// What this rests on.
    pub evidence: SnapshotEvidence,
}

/// TLS of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SocketTls {
    /// Version, cipher and transmit side.
    #[serde(flatten)]
    pub tls: Tls,
    /// Receive side: `base`, `sw`, `hw`, `hw-record`.
    pub rx: Option<String>,
}

/// What a judgement rests on.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SnapshotEvidence {
    /// Where the facts come from: `sock_diag`.
    pub sources: Vec<&'static str>,
    /// The last answer.
    pub tcp: SnapshotTcp,
    /// The timer pending; null: none is.
    pub timer: Option<Timer>,
    /// The earlier answer; null: there is none.
    pub before: Option<SockDiagEvidence>,
    /// What changed between the two.
    pub rates: Option<Rates>,
}

/// TCP's values of the socket; those that only hooks see are null.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SnapshotTcp {
    /// Those that events have too.
    #[serde(flatten)]
    pub tcp: TcpEvidence,
    /// Congestion state: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss (`tcpi_ca_state`).
    pub ca_state: Option<u8>,
    /// Retransmitted and in flight (`tcpi_retrans`).
    #[schemars(extend("x-unit" = "segments"))]
    pub retrans: Option<u32>,
    /// Retransmitted, ever (`tcpi_total_retrans`).
    #[schemars(extend("x-unit" = "segments"))]
    pub total_retrans: Option<u32>,
    /// Smoothed round-trip time (`tcpi_rtt`).
    #[schemars(extend("x-unit" = "µs"))]
    pub rtt_us: Option<u32>,
    /// Pacing rate (`tcpi_pacing_rate`); null: none.
    #[schemars(extend("x-unit" = "bytes/s"))]
    pub pacing_rate: Option<u64>,
    /// Since data was last sent (`tcpi_last_data_sent`).
    #[schemars(extend("x-unit" = "ms"))]
    pub last_data_sent_ms: Option<u32>,
    /// Sent, ever, retransmissions included (`tcpi_bytes_sent`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes_sent: Option<u64>,
    /// Acknowledged, ever (`tcpi_bytes_acked`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes_acked: Option<u64>,
}

/// What a snapshot is made of, but for what follows from it.
pub(crate) struct Head {
    /// When it was complete.
    pub(crate) time: String,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Whether the `tls` module is loaded.
    pub(crate) tls_loaded: bool,
    /// Time between the passes.
    pub(crate) interval_ms: Option<f64>,
    /// Sockets that were gone at the second pass.
    pub(crate) closed_meanwhile: usize,
    /// What could not be seen.
    pub(crate) cannot_see: Vec<String>,
    /// The namespaces.
    pub(crate) namespaces: Vec<NamespaceInfo>,
    /// The sockets in order.
    pub(crate) sockets: Vec<SocketReport>,
}

impl Snapshot {
    pub(crate) fn new(head: Head) -> Self {
        let Head {
            time,
            kernel,
            tls_loaded,
            interval_ms,
            closed_meanwhile,
            cannot_see,
            namespaces,
            sockets,
        } = head;
        let mut counts = Counts {
            sockets: sockets.len(),
            closed_meanwhile,
            ..Counts::default()
        };
        for socket in &sockets {
            match socket.verdict {
                Some(verdict) => *counts.verdicts.entry(verdict).or_default() += 1,
                None => counts.healthy += 1,
            }
            *counts.activities.entry(socket.activity).or_default() += 1;
        }
        Self {
            schema: SCHEMA.to_owned(),
            event: "snapshot".to_owned(),
            time,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel,
            tls_module: tls_loaded,
            interval_ms,
            counts,
            cannot_see,
            namespaces,
            sockets,
        }
    }
}

impl SocketReport {
    /// Judges a socket and lists what that rests on.
    pub(crate) fn new(
        netns: Option<u32>,
        now: &SocketSample,
        before: Option<&Before>,
        mut processes: Vec<ProcessInfo>,
    ) -> Self {
        let Judgement {
            activity,
            verdict,
            reason,
            candidates,
        } = verdict::judge(now, before);
        let sample = sample_of(now);
        let next = (!candidates.is_empty()).then(|| {
            format!(
                "ktls-trace run --port {}: its hooks see MSG_MORE, TCP_CORK and TCP_NODELAY",
                now.src.port()
            )
        });
        let shared_with = processes.split_off(processes.len().min(1));
        Self {
            socket: Socket {
                cookie: Some(format!("{:x}", now.cookie)),
                netns,
                src: Some(now.src.to_string()),
                dst: Some(now.dst.to_string()),
                inode: now.inode,
            },
            // A number that this version has no name for is shown as it is.
            state: name_of(&now.state).unwrap_or_else(|| format!("{:?}", now.state).to_lowercase()),
            uid: now.uid,
            process: processes.pop(),
            shared_with,
            tls: SocketTls {
                rx: (now.ulp.as_ref()).and_then(|ulp| Some(ulp.tls.as_ref()?.rx?.to_string())),
                tls: sample.tls.clone(),
            },
            activity,
            verdict,
            confidence: verdict.map(|_| Confidence::Consistent),
            reason: Some(reason).filter(|reason| !reason.is_empty()),
            candidates,
            next,
            evidence: SnapshotEvidence::new(now, sample, before),
        }
    }

    /// Suspicious ones first, then those with more unsent bytes, then by address.
    pub(crate) fn sort_key(&self) -> impl Ord + use<> {
        let rank = match self.verdict {
            Some(Verdict::CorkedCompletedRecord) => 0,
            Some(Verdict::Unknown) if !self.candidates.is_empty() => 1,
            Some(Verdict::Unknown) => 2,
            Some(_) => 3,
            None => 4,
        };
        let unsent = self.evidence.tcp.tcp.notsent.unwrap_or(0);
        (
            rank,
            self.verdict,
            self.activity,
            std::cmp::Reverse(unsent),
            self.socket.src.clone(),
            self.socket.dst.clone(),
        )
    }
}

impl SnapshotEvidence {
    fn new(now: &SocketSample, sample: Sample, before: Option<&Before>) -> Self {
        let info = &now.tcp;
        Self {
            sources: vec!["sock_diag"],
            tcp: SnapshotTcp {
                tcp: TcpEvidence::of_sample(&sample),
                ca_state: info.ca_state,
                retrans: info.retrans,
                total_retrans: info.total_retrans,
                rtt_us: info.rtt_us,
                pacing_rate: info.pacing_rate.filter(|&rate| rate != u64::MAX),
                last_data_sent_ms: info.last_data_sent_ms,
                bytes_sent: info.bytes_sent,
                bytes_acked: info.bytes_acked,
            },
            timer: sample.timer,
            before: before.map(|before| SockDiagEvidence::of_sample(&sample_of(&before.sample))),
            rates: before.map(|before| before.rates),
        }
    }
}
