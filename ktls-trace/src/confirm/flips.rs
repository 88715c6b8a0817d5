//! The flips: the same transfer with one cause removed at a time, and what makes one count as healing.

use super::{
    evidence::Evidence,
    findings::{RunName, RunReport, RunStatus},
    namespace::Network,
};
use crate::{
    correlate::rules::Gate,
    kernel::sysctl::Settings,
    workload::{self, Config, Mode},
};

/// A flip heals if throughput is at least this many times the baseline's. In emulated guests, where the
/// processor is the next limit, the least factor measured was 29; noise stays below two.
pub const HEALED_TIMES: f64 = 5.0;
/// … and if the baseline hung, at least this many MiB a second.
const HEALED_FROM_NOTHING: f64 = 1.0;
/// `TCP_MAXSEG` of the flip with a small MSS, in bytes: Ethernet's.
pub const SMALL_MSS: u32 = 1460;
/// MTU to the same effect.
const SMALL_MTU: u32 = 1500;
/// The MSS in use that both give, 12 bytes of timestamps less.
const SMALL_MSS_IN_USE: u64 = 1448;
/// A gate that stays open past every MSS, in bytes.
const OPEN_GATE: u32 = 1 << 20;
/// A send buffer that stays open past every MSS, in bytes before the kernel doubles it.
const OPEN_SNDBUF: u32 = 4 << 20;

/// The criterion in words.
pub(super) fn criterion() -> String {
    format!(
        "a flip heals if throughput is at least {HEALED_TIMES} times the baseline's (from 0: at least \
         {HEALED_FROM_NOTHING} MiB/s) and no stall of this kind comes up"
    )
}

/// One flip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flip<T> {
    /// Which.
    pub(super) run: RunName,
    /// What is changed, in words.
    pub(super) changed: String,
    /// The transfer with that change; or why it says nothing about this one.
    pub(super) transfer: Result<T, String>,
}

/// The flips of the built-in workload.
pub(super) fn of_workload(config: &Config, baseline: &Evidence) -> Vec<Flip<Config>> {
    let gate = baseline.holds.gate();
    let mut open = config.clone();
    let mut opened = Vec::new();
    if matches!(gate, Some(Gate::NotsentLowat | Gate::Both)) {
        open.notsent_lowat = Some(OPEN_GATE);
        opened.push(format!("TCP_NOTSENT_LOWAT {OPEN_GATE}"));
    }
    if matches!(gate, Some(Gate::Sndbuf | Gate::Both)) {
        open.sndbuf = Some(OPEN_SNDBUF);
        opened.push(format!("SO_SNDBUF {OPEN_SNDBUF}"));
    }
    vec![
        Flip {
            run: RunName::GateOpen,
            transfer: if opened.is_empty() {
                Err("no gate was seen to shut".to_owned())
            } else {
                Ok(open)
            },
            changed: if opened.is_empty() {
                "gate open".to_owned()
            } else {
                opened.join(", ")
            },
        },
        Flip {
            run: RunName::SmallMss,
            changed: format!("TCP_MAXSEG {SMALL_MSS}, below a record"),
            transfer: tail_opens_gate(baseline).map(|()| Config {
                mss: Some(SMALL_MSS),
                ..config.clone()
            }),
        },
        Flip {
            run: RunName::Write,
            changed: "in place of sendfile(), with TCP_NODELAY against Nagle".to_owned(),
            transfer: if config.mode == Mode::Write {
                Err("it is write() already".to_owned())
            } else {
                Ok(Config {
                    mode: Mode::Write,
                    nodelay: true,
                    ..config.clone()
                })
            },
        },
        Flip {
            run: RunName::Plain,
            changed: "sendfile() into plain TCP".to_owned(),
            transfer: Ok(Config {
                mode: Mode::Plain,
                ..config.clone()
            }),
        },
    ]
}

/// The flips of a foreign command: what a network namespace can change around it.
pub(super) fn of_command(host: Settings, baseline: &Evidence) -> Vec<Flip<Network>> {
    let gate = baseline.holds.gate();
    let mut open = host;
    let mut opened = Vec::new();
    let mut owned = None;
    if matches!(gate, Some(Gate::NotsentLowat | Gate::Both)) {
        if baseline.holds.own_lowat == Some(true) {
            owned = Some(
                "the command sets TCP_NOTSENT_LOWAT itself, which no namespace changes".to_owned(),
            );
        }
        open.tcp_notsent_lowat = Some(u32::MAX);
        opened.push("net.ipv4.tcp_notsent_lowat 4294967295");
    }
    if matches!(gate, Some(Gate::Sndbuf | Gate::Both)) {
        open.tcp_wmem = Some([4096, u64::from(OPEN_SNDBUF), u64::from(OPEN_SNDBUF)]);
        opened.push("net.ipv4.tcp_wmem from 4 MiB");
    }
    let transfer = match owned {
        Some(why) => Err(why),
        None if opened.is_empty() => Err("no gate was seen to shut".to_owned()),
        None => Ok(Network {
            settings: open,
            mtu: None,
        }),
    };
    vec![
        Flip {
            run: RunName::GateOpen,
            changed: if opened.is_empty() {
                "gate open".to_owned()
            } else {
                opened.join(", ")
            },
            transfer,
        },
        Flip {
            run: RunName::SmallMss,
            changed: format!("MTU {SMALL_MTU}, so MSS {SMALL_MSS_IN_USE}, below a record"),
            transfer: tail_opens_gate(baseline).map(|()| Network {
                settings: host,
                mtu: Some(SMALL_MTU),
            }),
        },
    ]
}

/// With a small MSS only the tail of a record is held: that opens a gate which takes more than a tail to shut.
fn tail_opens_gate(baseline: &Evidence) -> Result<(), String> {
    let lowat = baseline.holds.lowat.range().map(|range| range.max);
    match (baseline.holds.gate(), lowat) {
        (Some(Gate::NotsentLowat | Gate::Both), Some(lowat)) if lowat < SMALL_MSS_IN_USE => {
            Err(format!(
                "notsent_lowat {lowat} is below even a small MSS: the tail of a record shuts it"
            ))
        }
        _ => Ok(()),
    }
}

/// What a transfer moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moved {
    /// Bytes.
    pub(super) bytes: u64,
    /// In how long, in milliseconds.
    pub(super) duration_ms: u64,
}

impl Moved {
    /// MiB a second.
    pub(super) fn mib_per_s(self) -> f64 {
        workload::mib_per_s(self.bytes, self.duration_ms)
    }
}

/// The report of a run that took place. `baseline` is the stalled one's throughput, `None` for itself.
pub(super) fn report(
    run: RunName,
    changed: String,
    moved: Option<Moved>,
    evidence: &Evidence,
    baseline: Option<f64>,
    note: Option<String>,
) -> RunReport {
    let mib_per_s = moved.map(Moved::mib_per_s);
    let corked = evidence.corked_stalls();
    let enough = |before: f64, now: f64| {
        if before > 0.0 {
            now >= before * HEALED_TIMES
        } else {
            now >= HEALED_FROM_NOTHING
        }
    };
    let (status, why) = match (baseline, mib_per_s) {
        (None, _) => (RunStatus::Baseline, None),
        (Some(_), None) => (RunStatus::Failed, None),
        (Some(_), Some(_)) if corked > 0 => (RunStatus::DoesNotHeal, None),
        (Some(before), Some(now)) if enough(before, now) => (RunStatus::Heals, None),
        // A command may spend most of its time on something else than sending.
        (Some(_), Some(_)) => {
            let why = format!(
                "no stall of this kind came up, but throughput is not {HEALED_TIMES} times the baseline's: \
                 let the command send for longer, and nothing else"
            );
            (RunStatus::Failed, Some(why))
        }
    };
    let note = note.or(why);
    let times =
        |before: f64, now: f64| (before > 0.0).then(|| (now / before * 10.0).round() / 10.0);
    RunReport {
        run,
        status,
        changed,
        mib_per_s,
        times_baseline: baseline.zip(mib_per_s).and_then(|(b, n)| times(b, n)),
        duration_ms: moved.map(|moved| moved.duration_ms),
        bytes: moved.map(|moved| moved.bytes),
        corked_stalls: Some(corked),
        stalls: Some(evidence.stalls()),
        holds: Some(evidence.holds.count),
        note,
    }
}

/// The report of a run that did not take place.
pub(super) fn not_run(run: RunName, changed: String, status: RunStatus, why: String) -> RunReport {
    RunReport {
        run,
        status,
        changed,
        mib_per_s: None,
        times_baseline: None,
        duration_ms: None,
        bytes: None,
        corked_stalls: None,
        stalls: None,
        holds: None,
        note: Some(why),
    }
}
