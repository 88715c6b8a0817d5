//! What was measured, taken from the lines that the guest's script prints.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The columns besides [`NONE`], in their order: the daemon's settings, and what somebody would write with bpftrace.
pub(super) const SETTINGS: [&str; 4] = ["auto", "light", "full", "bpftrace"];
/// Without anything, first and …
pub(super) const NONE: &str = "none";
/// … last of all.
pub(super) const AGAIN: &str = "again";
/// How long the script looks on while stalls are watched.
pub(super) const WATCHED_SECONDS: f64 = 10.0;
/// How often it has `ss` look.
pub(super) const LOOKS: f64 = 20.0;

/// A figure by setting, of each workload; the order of the rows is that of the script.
pub(super) type Rows = Vec<(String, BTreeMap<String, f64>)>;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    /// `uname -r`.
    pub(super) kernel: String,
    /// Length of the static binary in bytes.
    pub(super) binary_bytes: u64,
    /// Guest time of each transfer in seconds.
    pub(super) seconds: u16,
    /// Nanoseconds of a send, which are instructions.
    pub(super) sends: Rows,
    /// Throughput of a transfer in bytes a second.
    pub(super) transfers: Rows,
    /// Sends that were counted in all, by setting.
    pub(super) sent: BTreeMap<String, u64>,
    /// Lines that the daemon wrote meanwhile, by setting.
    pub(super) lines: BTreeMap<String, u64>,
    /// By setting.
    pub(super) daemon: BTreeMap<String, Daemon>,
    /// Stalls among sockets that have nothing to send.
    pub(super) crowds: Vec<Crowd>,
    /// Hooks that came with the stall of the first crowd.
    pub(super) attached: Option<Attached>,
    /// A stall among sockets that were there before the daemon.
    pub(super) before: Option<Before>,
    /// Instructions that the verifier went through, by program.
    pub(super) programs: BTreeMap<String, u64>,
    /// Times that the program of a hook ran in what the script has for that, and how long in all, in seconds.
    pub(super) hits: BTreeMap<String, (f64, f64)>,
    /// How often programs ran for sends of a kind, in the order of the script.
    pub(super) calls: Vec<Calls>,
}

/// How often programs ran for sends of a kind.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Calls {
    /// The workload, by the name that it has in [`Figures::sends`].
    pub(super) workload: String,
    /// Sends.
    pub(super) sends: f64,
    /// Times that any program ran.
    pub(super) runs: f64,
    /// How long in all, in seconds.
    pub(super) seconds: f64,
}

impl Calls {
    /// Programs that run for a send.
    pub(super) fn a_send(&self) -> f64 {
        self.runs / self.sends
    }
}

/// Some stalls among sockets that have nothing to send, with `auto`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Crowd {
    /// Sockets that have nothing to send.
    pub(super) idle: u64,
    /// Sockets that stall.
    pub(super) stalled: u64,
    /// Sockets of which a stall was told.
    pub(super) opened: u64,
    /// Observations and events that were lost; `None`: that was not told.
    pub(super) lost: Option<u64>,
    /// How long the first one had lasted when it was told.
    pub(super) flagged_ms: f64,
    /// Share of a processor while they are watched.
    pub(super) share: f64,
    /// Times a second that a writer was refused meanwhile; `None`: not asked for.
    pub(super) refused_per_s: Option<f64>,
    /// `VmRSS` in KiB then.
    pub(super) resident_kib: u64,
    /// Share of a processor that `ss -tien`, run with pauses of 50 ms, takes instead.
    pub(super) ss_share: f64,
    /// Milliseconds that one of those runs took.
    pub(super) ss_ms: f64,
    /// The guest had two processors and counted no instructions.
    pub(super) two_processors: bool,
}

/// Hooks that came with a stall.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Attached {
    /// From the telling of the stall until they were there, in milliseconds.
    pub(super) gap_ms: f64,
    /// How long attaching took of that, in milliseconds.
    pub(super) took_ms: f64,
    /// Holds of the stall that had ended when the daemon was stopped.
    pub(super) releases: u64,
    /// … of which no hook saw who let them go.
    pub(super) unknown: u64,
}

/// A stall among sockets that were there before the daemon.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Before {
    /// Sockets that have nothing to send.
    pub(super) idle: u64,
    /// Sockets of which a stall was told.
    pub(super) opened: u64,
    /// `VmRSS` in KiB then.
    pub(super) resident_kib: u64,
    /// `VmHWM` in KiB then.
    pub(super) peak_kib: u64,
}

/// What the daemon takes for itself, or bpftrace.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Daemon {
    /// From its start until it watches, in seconds.
    pub(super) start_s: f64,
    /// `VmRSS` in KiB while it has nothing to do.
    pub(super) resident_kib: u64,
    /// `VmHWM` in KiB then.
    pub(super) peak_kib: u64,
    /// Share of a processor while it has nothing to do.
    pub(super) idle_share: f64,
    /// How long that was looked at, in seconds; 0: not.
    pub(super) idle_seconds: u64,
    /// Times that a writer was refused during all runs.
    pub(super) refused: u64,
    /// … of which ordinary back-pressure, which leaves nothing but this count.
    pub(super) back_pressure: u64,
}

/// What `doctor --verify --json` says of programs.
#[derive(Debug, Deserialize)]
struct Verified {
    programs: Vec<Program>,
}

/// One of them.
#[derive(Debug, Deserialize)]
struct Program {
    program: String,
    instructions: Option<u64>,
}

impl Figures {
    /// Takes everything that the script printed.
    pub(super) fn take_all(&mut self, said: &str) -> Result<()> {
        for line in said.lines() {
            self.take(line)
                .with_context(|| format!("the guest said {line:?}"))?;
        }
        Ok(())
    }

    /// Takes a line of the script's.
    pub(super) fn take(&mut self, line: &str) -> Result<()> {
        let columns: Vec<&str> = line.split('\t').collect();
        match *columns.as_slice() {
            ["start", setting, begun, watching] => {
                self.daemon(setting).start_s = number(watching)? - number(begun)?;
            }
            ["memory", setting, resident, peak] => {
                let daemon = self.daemon(setting);
                daemon.resident_kib = resident.parse().context("VmRSS")?;
                daemon.peak_kib = peak.parse().context("VmHWM")?;
            }
            ["idle", setting, seconds, before, after] => {
                let daemon = self.daemon(setting);
                daemon.idle_seconds = seconds.parse().context("seconds")?;
                daemon.idle_share = (number(after)? - number(before)?) / 1e9 / number(seconds)?;
            }
            ["sends", workload, setting, report] => {
                let report: Value = serde_json::from_str(report).context("a workload's report")?;
                let sends = report.get("sends").and_then(Value::as_u64);
                let sent = self.sent.entry(setting.to_owned()).or_default();
                *sent += sends.context("no sends")?;
                let ns = report.get("ns_per_send").and_then(Value::as_f64);
                note(&mut self.sends, workload, setting, ns.context("no time")?);
            }
            ["transfer", workload, setting, report] => {
                let report: Value = serde_json::from_str(report).context("a workload's report")?;
                let of = |key: &str| report.get(key).and_then(Value::as_f64).context("no figure");
                let per_s = of("bytes_received")? / of("duration_ms")? * 1000.0;
                note(&mut self.transfers, workload, setting, per_s);
            }
            ["lines", _, setting, before, after] => {
                let of = |text: &str| text.parse::<u64>().context("lines");
                let lines = self.lines.entry(setting.to_owned()).or_default();
                *lines += of(after)?.saturating_sub(of(before)?);
            }
            ["sent", setting, sends] => {
                let sent = self.sent.entry(setting.to_owned()).or_default();
                *sent += sends.parse::<u64>().context("sends")?;
            }
            ["stopped", setting, stopped] => {
                let stopped: Value = serde_json::from_str(stopped).context("the last event")?;
                let of = |key: &str| stopped.get(key).and_then(Value::as_u64).context("no count");
                let daemon = self.daemon(setting);
                daemon.refused = of("refused")?;
                daemon.back_pressure = of("back_pressure")?;
            }
            ["crowd", ..] => self.crowds.push(crowd(&columns)?),
            ["ss", _, _, begun, ended, before, after, _] => {
                // Ticks of 10 ms.
                let ran = (number(after)? - number(before)?) / 100.0;
                let crowd = self.crowds.last_mut().context("no crowd")?;
                crowd.ss_share = ran / (number(ended)? - number(begun)?);
                crowd.ss_ms = ran / LOOKS * 1000.0;
            }
            ["attached", opened, changed, closed] => {
                self.attached = Some(attached(opened, changed, closed)?);
            }
            ["before", idle, opened, resident, peak] => {
                self.before = Some(Before {
                    idle: idle.parse().context("sockets")?,
                    opened: opened.parse().context("sockets")?,
                    resident_kib: resident.parse().context("VmRSS")?,
                    peak_kib: peak.parse().context("VmHWM")?,
                });
            }
            ["hits", hook, what, value] => {
                let (runs, seconds) = self.hits.entry(hook.to_owned()).or_default();
                match what {
                    "runs" => *runs = number(value)?,
                    _ => *seconds = number(value)?,
                }
            }
            ["called", workload, report] => {
                let report: Value = serde_json::from_str(report).context("a workload's report")?;
                let of = |key: &str| report.get(key).and_then(Value::as_f64).context("no count");
                let mut calls = Calls {
                    workload: workload.to_owned(),
                    sends: of("sends")? + of("warm_up")?,
                    runs: self.hits.values().map(|(runs, _)| runs).sum(),
                    seconds: self.hits.values().map(|(_, seconds)| seconds).sum(),
                };
                // The programs' counts go on from one workload to the next.
                for earlier in &self.calls {
                    calls.runs -= earlier.runs;
                    calls.seconds -= earlier.seconds;
                }
                self.calls.push(calls);
            }
            ["programs", verified] => {
                let verified: Verified = serde_json::from_str(verified).context("programs")?;
                self.programs = verified
                    .programs
                    .into_iter()
                    .filter_map(|program| Some((program.program, program.instructions?)))
                    .collect();
            }
            _ => bail!("which is no figure"),
        }
        Ok(())
    }

    /// Instructions of a send of a workload: without anything, and with a setting.
    pub(super) fn instructions(&self, workload: &str, setting: &str) -> Option<(f64, f64)> {
        let (_, settings) = self.sends.iter().find(|(known, _)| known == workload)?;
        Some((*settings.get(NONE)?, *settings.get(setting)?))
    }

    fn daemon(&mut self, setting: &str) -> &mut Daemon {
        self.daemon.entry(setting.to_owned()).or_default()
    }
}

/// What a line says of a crowd.
fn crowd(columns: &[&str]) -> Result<Crowd> {
    let &[
        _,
        idle,
        stalled,
        before,
        after,
        refused,
        resident,
        first,
        opened,
        stopped,
    ] = columns
    else {
        bail!("which is no crowd");
    };
    let first: Value = serde_json::from_str(first).context("the first stall")?;
    let stopped: Value = serde_json::from_str(stopped).context("the last event")?;
    let held = first.pointer("/held/ms").and_then(Value::as_f64);
    // The last event of all may be lost itself, where the processor has more to do than it can.
    let lost = stopped.get("lost").and_then(Value::as_object);
    let lost = lost.map(|counts| counts.values().filter_map(Value::as_u64).sum());
    let refused = (refused != "-").then(|| number(refused)).transpose()?;
    Ok(Crowd {
        idle: idle.parse().context("sockets")?,
        stalled: stalled.parse().context("sockets")?,
        opened: opened.parse().context("sockets")?,
        lost,
        flagged_ms: held.context("no time")?,
        share: (number(after)? - number(before)?) / 1e9 / WATCHED_SECONDS,
        refused_per_s: refused.map(|times| times / WATCHED_SECONDS),
        resident_kib: resident.parse().context("VmRSS")?,
        ..Crowd::default()
    })
}

/// What three events of a stall say of the hooks that came with it.
fn attached(opened: &str, changed: &str, closed: &str) -> Result<Attached> {
    let event = |text: &str| serde_json::from_str::<Value>(text).context("an event");
    let (opened, changed, closed) = (event(opened)?, event(changed)?, event(closed)?);
    let reason = changed.get("reason").and_then(Value::as_str);
    let took = reason.and_then(|reason| reason.rsplit_once("attaching took "));
    let took = took.and_then(|(_, took)| took.strip_suffix(" ms"));
    let gap = time(&changed)?.duration_since(time(&opened)?);
    let released = closed.get("released").and_then(Value::as_object);
    let released = released.context("no releases")?;
    let unknown = released.get("unknown").and_then(Value::as_u64);
    Ok(Attached {
        gap_ms: gap.as_secs_f64() * 1000.0,
        took_ms: number(took.context("not how long attaching took")?)?,
        releases: released.values().filter_map(Value::as_u64).sum(),
        // There only once there are any.
        unknown: unknown.unwrap_or(0),
    })
}

/// When an event was.
fn time(event: &Value) -> Result<Timestamp> {
    let time = event.get("time").and_then(Value::as_str);
    let time = time.context("no time")?;
    time.parse::<Timestamp>()
        .with_context(|| format!("{time:?} is no time"))
}

/// Notes a figure in the row of its workload.
fn note(rows: &mut Rows, workload: &str, setting: &str, figure: f64) {
    // Without anything each is run first: that makes the order of the rows.
    let known = rows.iter().position(|(known, _)| known == workload);
    let index = known.unwrap_or_else(|| {
        rows.push((workload.to_owned(), BTreeMap::new()));
        rows.len() - 1
    });
    if let Some((_, settings)) = rows.get_mut(index) {
        settings.insert(setting.to_owned(), figure);
    }
}

fn number(text: &str) -> Result<f64> {
    text.parse()
        .with_context(|| format!("{text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document;

    #[test]
    fn what_a_guest_says_becomes_figures() {
        let mut figures = Figures::default();
        for line in [
            "start\tauto\t10.00\t11.50",
            "start\tbpftrace\t20.00\t23.00",
            "memory\tauto\t9000\t15000",
            "idle\tauto\t60\t1000000000\t1030000000",
            "sends\twrite\tnone\t{\"sends\":100,\"ns_per_send\":9990.0}",
            "sends\twrite\tauto\t{\"sends\":100,\"ns_per_send\":10000.0}",
            "sends\tread\tauto\t{\"sends\":100,\"ns_per_send\":10000.0}",
            "sends\tkTLS write, refused each time\tnone\t{\"sends\":100,\"ns_per_send\":100000.0}",
            "sends\tkTLS write, refused each time\tauto\t{\"sends\":100,\"ns_per_send\":100400.0}",
            "transfer\twrite\tnone\t{\"bytes_received\":2000,\"duration_ms\":1000}",
            "transfer\twrite\tagain\t{\"bytes_received\":2002,\"duration_ms\":1000}",
            "transfer\twrite\tauto\t{\"bytes_received\":1998,\"duration_ms\":1000}",
            "sent\tauto\t1000000",
            "lines\twrite\tauto\t1\t3",
            "stopped\tauto\t{\"refused\":7,\"back_pressure\":6}",
            "crowd\t10\t1\t0\t50000000\t250\t9000\t{\"held\":{\"ms\":21.5}}\t1\t{\"lost\":{\"output\":2}}",
            "ss\t10\t1\t5.0\t7.0\t100\t110\t20000",
            "attached\t{\"time\":\"2026-01-01T00:00:10.000000Z\"}\t{\"time\":\"2026-01-01T00:00:10.090000Z\",\"reason\":\"a stall was opened; attaching took 60 ms\"}\t{\"released\":{\"peer-ack\":8,\"persist-timer\":1,\"unknown\":3}}",
            "crowd\t10\t1000\t0\t4400000000\t-\t20000\t{\"held\":{\"ms\":21.5}}\t1000\t{\"lost\":{}}",
            "before\t10000\t1\t11000\t29000",
            "sends\tplain TCP sendfile\tnone\t{\"sends\":100,\"ns_per_send\":10000.0}",
            "sends\tplain TCP sendfile\tfull\t{\"sends\":100,\"ns_per_send\":10200.0}",
            "hits\tsk_reset_timer\truns\t400",
            "hits\tsk_reset_timer\trun_seconds\t0.00004",
            "called\tplain TCP sendfile\t{\"sends\":150,\"warm_up\":50}",
            "sends\tkTLS write, 1 byte each\tnone\t{\"sends\":100,\"ns_per_send\":19000.0}",
            "sends\tkTLS write, 1 byte each\tfull\t{\"sends\":100,\"ns_per_send\":20000.0}",
            "hits\tsk_reset_timer\truns\t900",
            "hits\tsk_reset_timer\trun_seconds\t0.00009",
            "called\tkTLS write, 1 byte each\t{\"sends\":50,\"warm_up\":50}",
            "hits\ttls_push_sg\truns\t100",
            "hits\ttls_push_sg\trun_seconds\t0.00005",
            "hits\tsk_stream_wait_memory\truns\t10",
            "hits\tsk_stream_wait_memory\trun_seconds\t0.0000015",
            "programs\t{\"programs\":[{\"program\":\"tls_push_sg\",\"instructions\":120}]}",
        ] {
            figures.take(line).unwrap();
        }
        let daemon = figures.daemon["auto"];
        assert!((daemon.start_s - 1.5).abs() < 1e-9 && (daemon.idle_share - 0.0005).abs() < 1e-9);
        assert_eq!((daemon.refused, daemon.back_pressure), (7, 6));
        assert_eq!(
            (figures.sent["auto"], figures.lines["auto"]),
            (1_000_300, 2)
        );
        let crowd = figures.crowds[0];
        assert_eq!(
            (crowd.opened, crowd.lost, crowd.resident_kib),
            (1, Some(2), 9000)
        );
        assert!((crowd.refused_per_s.unwrap() - 25.0).abs() < 1e-9);
        assert!(figures.crowds[1].refused_per_s.is_none());
        assert!((crowd.share - 0.005).abs() < 1e-9 && (crowd.flagged_ms - 21.5).abs() < 1e-9);
        assert!((crowd.ss_share - 0.05).abs() < 1e-9 && (crowd.ss_ms - 5.0).abs() < 1e-9);
        let document = document::of(&figures);
        for row in [
            "| write | 9990 | – | 0.9990 |",
            "| write | 2 kB/s | 1.0010 | 0.9990 |",
            "| `tls_push_sg` | 120 |",
            "| `tls_push_sg` | 100 | 500 |",
            // Half a percent of a billion instructions, for 25 refusals.
            "| 0.50 % | 25.0 | 200000 | 9000 KiB |",
            "| 44.00 % | – | – | 20000 KiB |",
            "| 10000 | 1 | 1 | 11000 KiB | 29000 KiB |",
            "attached 90.0 ms after it was told; attaching took 60 ms of that",
            "Of the 12 holds that had ended when the daemon was stopped, no hook saw who let 3 go",
            // Of two refusals a send.
            "it costs 0.0040 even with `auto`:\n200 instructions a refusal, 150 of them",
            "They take 44 % where instructions are counted",
            "It takes 0.50 of that",
            // Two calls of a hundred instructions each.
            "| plain TCP sendfile | 2.0 | 200 | 200 | 0.9804 | 0.9804 |",
            "| kTLS write, 1 byte each | 5.0 | 1000 | 500 | 0.9744 | 0.9500 |",
            "of one-byte writes (5.0 calls a send) programs that do nothing would leave 0.9744",
        ] {
            assert!(document.contains(row), "{row}\n{document}");
        }
    }

    #[test]
    fn what_is_no_figure_is_an_error() {
        assert!(Figures::default().take("sh: awk: not found").is_err());
    }
}
