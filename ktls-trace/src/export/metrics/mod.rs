//! What is found, as metrics in the `OpenMetrics` text format. Label sets are bounded: verdicts, gates, release paths,
//! places and hooks are what they are, network namespaces and processes are capped.

pub mod classic;
mod live;
mod tls_stat;

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use self::live::Now;
pub use self::live::{Health, Live};
use crate::{
    correlate::{
        HoldEnded,
        event::{Body, Event, Name, Stall, name_of},
        rules::{Gate, Verdict},
    },
    kernel::namespaces::Which,
    observe::ReleasePath,
};

/// The content type of the text format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every metric's name begins with.
const PREFIX: &str = "ktls_trace";
/// Bounds of the histogram of how long bytes are held, in seconds: a delayed ACK is 40 ms, the persist timer 200 ms.
const HELD_SECONDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Bounds of the histogram of how many bytes are held: one full record is at most 16,640 bytes, and so on.
const HELD_BYTES: [f64; 8] = [
    1024.0,
    4096.0,
    8192.0,
    16_640.0,
    33_280.0,
    66_560.0,
    266_240.0,
    1_064_960.0,
];
/// The limits that a writer can have met.
const GATES: [Option<Gate>; 4] = [
    None,
    Some(Gate::NotsentLowat),
    Some(Gate::Sndbuf),
    Some(Gate::Both),
];
/// Who can have let bytes go.
const PATHS: [ReleasePath; 7] = [
    ReleasePath::PeerAck,
    ReleasePath::PersistTimer,
    ReleasePath::LaterSend,
    ReleasePath::TransmitQueue,
    ReleasePath::Close,
    ReleasePath::None,
    ReleasePath::Unknown,
];
/// What a process is called for which there is no series of its own.
const OTHER: &str = "other";

/// Which kind of stall.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    /// What holds the socket back.
    verdict: String,
    /// The limit that its writer met; empty if none.
    gate: String,
}

impl Kind {
    fn new(verdict: Verdict, gate: Option<Gate>) -> Self {
        Self {
            verdict: name_of(&verdict).unwrap_or_default(),
            gate: gate.and_then(|gate| name_of(&gate)).unwrap_or_default(),
        }
    }
}

/// Who let bytes go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Release {
    /// What held them back.
    verdict: String,
    /// Who.
    path: String,
}

impl Release {
    fn new(verdict: Verdict, path: ReleasePath) -> Self {
        Self {
            verdict: name_of(&verdict).unwrap_or_default(),
            path: name_of(&path).unwrap_or_default(),
        }
    }
}

/// Whose stall.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Owner {
    /// Name of the process.
    comm: String,
    /// What held it back.
    verdict: String,
}

/// The metrics of a run.
#[derive(Debug)]
pub struct Metrics {
    /// Since when they count.
    since: SystemTime,
    /// All of them.
    registry: Registry,
    /// Stalls opened.
    opened: Counter,
    /// Stalls closed, by what they were at last.
    closed: Family<Kind, Counter>,
    /// Sockets stalled now.
    now: Family<Kind, Gauge>,
    /// Holds that are over.
    holds: Family<Release, Counter>,
    /// How long they lasted.
    held_seconds: Histogram,
    /// How many bytes were in them.
    held_bytes: Histogram,
    /// Stalls closed, by process.
    owners: Family<Owner, Counter>,
    /// Which stalls are open, and what has been counted of each.
    open: Mutex<HashMap<String, Kind>>,
    /// Processes that have a series of their own.
    processes: Mutex<HashSet<String>>,
    /// What bounds them.
    bounds: Mutex<Bounds>,
}

/// What bounds the metrics of a run.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// In which namespaces the kernel's own counters are read.
    pub netns: Which,
    /// How many processes may have a series of their own.
    pub most_processes: usize,
}

/// A label's value as the text format has it: what writes labels leaves that to us. Anybody can give a process any name
/// (`PR_SET_NAME`).
fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n")
}

/// Puts the series at 0 that alerts and rates look at: Prometheus sees no increase in a series that begins with its first
/// count, so the only stall of a day would pass unseen.
fn from_the_start(closed: &Family<Kind, Counter>, holds: &Family<Release, Counter>) {
    let corked = Verdict::CorkedCompletedRecord;
    for verdict in [corked, Verdict::Unknown] {
        for gate in GATES {
            drop(closed.get_or_create(&Kind::new(verdict, gate)));
        }
    }
    for path in PATHS {
        drop(holds.get_or_create(&Release::new(corked, path)));
    }
}

impl Metrics {
    /// Of a run on a kernel of this release.
    pub fn new(kernel: &str, bounds: Bounds) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let info = Info::new([
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("kernel", kernel.to_owned()),
        ]);
        registry.register("build", "This program and the kernel it runs on", info);
        let opened = Counter::default();
        registry.register("stalls_opened", "Stalls opened", opened.clone());
        let closed = Family::default();
        registry.register(
            "stalls_closed",
            "Stalls closed, by verdict and by the gate that their writer met",
            closed.clone(),
        );
        let now = Family::default();
        registry.register(
            "stalled_sockets",
            "Sockets that are stalled now, by verdict and gate",
            now.clone(),
        );
        let holds = Family::default();
        registry.register(
            "holds",
            "Times that bytes of a stalled socket were held and let go, by who did it",
            holds.clone(),
        );
        let held_seconds = Histogram::new(HELD_SECONDS);
        registry.register_with_unit(
            "held",
            "How long bytes of stalled sockets were held",
            Unit::Seconds,
            held_seconds.clone(),
        );
        let held_bytes = Histogram::new(HELD_BYTES);
        registry.register_with_unit(
            "held",
            "How many bytes of stalled sockets were held",
            Unit::Bytes,
            held_bytes.clone(),
        );
        let owners = Family::default();
        registry.register(
            "process_stalls",
            "Stalls closed, by name of the process",
            owners.clone(),
        );
        from_the_start(&closed, &holds);
        Self {
            since: SystemTime::now(),
            registry,
            opened,
            closed,
            now,
            holds,
            held_seconds,
            held_bytes,
            owners,
            open: Mutex::default(),
            processes: Mutex::default(),
            bounds: Mutex::new(bounds),
        }
    }

    /// Since when they count.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Goes by other bounds; a process that has a series keeps it.
    pub fn go_by(&self, bounds: Bounds) {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = bounds;
    }

    /// What bounds them now.
    fn bounds(&self) -> Bounds {
        self.bounds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Counts an event.
    pub fn event(&self, event: &Event) {
        let Body::Stall(stall) = &event.body else {
            return;
        };
        let kind = Kind::new(stall.verdict, stall.gate);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if event.event == Name::StallClosed {
            if let Some(before) = open.remove(&stall.stall) {
                self.now.get_or_create(&before).dec();
            }
            self.count_owner(stall, &kind);
            self.closed.get_or_create(&kind).inc();
            return;
        }
        self.now.get_or_create(&kind).inc();
        if let Some(before) = open.insert(stall.stall.clone(), kind) {
            self.now.get_or_create(&before).dec();
        } else {
            self.opened.inc();
        }
    }

    /// Counts a stall for its process, if processes are wanted.
    fn count_owner(&self, stall: &Stall, kind: &Kind) {
        let most_processes = self.bounds().most_processes;
        if most_processes == 0 {
            return;
        }
        let comm = stall
            .process
            .as_ref()
            .and_then(|process| process.comm.clone())
            .unwrap_or_default();
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = processes.contains(&comm)
            || (processes.len() < most_processes && processes.insert(comm.clone()));
        let owner = Owner {
            comm: if known {
                escaped(&comm)
            } else {
                OTHER.to_owned()
            },
            verdict: kind.verdict.clone(),
        };
        self.owners.get_or_create(&owner).inc();
    }

    /// Counts a hold that is over.
    pub fn hold_ended(&self, hold: &HoldEnded) {
        let release = Release::new(hold.verdict, hold.path);
        self.holds.get_or_create(&release).inc();
        let held = std::time::Duration::from_nanos(hold.duration_ns);
        self.held_seconds.observe(held.as_secs_f64());
        if let Some(bytes) = hold.bytes {
            self.held_bytes.observe(f64::from(bytes));
        }
    }

    /// All of them as text, with what the run says of itself now.
    ///
    /// # Errors
    ///
    /// If a name or label can't be written, which would be a mistake of ours.
    pub fn text(&self, live: Live) -> Result<String, std::fmt::Error> {
        let tls_stat = tls_stat::read_all(&self.bounds().netns);
        self.text_at(Now { live, tls_stat })
    }

    /// All of them as text, with what is so at this moment.
    fn text_at(&self, moment: Now) -> Result<String, std::fmt::Error> {
        let mut now = Registry::with_prefix(PREFIX);
        now.register_collector(Box::new(moment));
        let mut text = String::new();
        text::encode_registry(&mut text, &self.registry)?;
        text::encode_registry(&mut text, &now)?;
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod shipped;
#[cfg(test)]
mod tests;
