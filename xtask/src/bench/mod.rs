//! `cargo xtask bench`: what the daemon costs, counted in instructions.
//!
//! A guest under `-icount` takes the same time for the same instructions, whatever its host does meanwhile, so that ratios within one
//! run can be compared to a thousandth.

mod document;

use std::{collections::BTreeMap, fs, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xtask::{
    frame::Frame,
    job::{Action, Job},
};

use crate::{
    guest_image::{Bootable, Extra, Programs},
    kernel,
    place::Place,
    run_directory::RunDirectory,
    setup::{self, Needs},
    vm::{Ending, Machine},
};

/// What the guest does.
const SCRIPT: &str = include_str!("guest.sh");
/// The daemon's settings, in the order of the columns.
const SETTINGS: [&str; 3] = ["auto", "light", "full"];

/// Measures what the daemon costs, in a guest that counts instructions
///
/// Writes docs/performance.md and target/xtask/results/bench.json. Takes a quarter of an hour.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Kernel to boot
    #[arg(long, value_name = "NAME", default_value = kernel::DEFAULT_SHORT)]
    kernel: String,
    /// Guest time of each run
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// Time limit in seconds, boot included
    #[arg(long, value_name = "SECONDS", default_value_t = 3000)]
    timeout: u64,
    /// Leave docs/performance.md as it is
    #[arg(long)]
    no_document: bool,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// `uname -r`.
    kernel: String,
    /// Length of the static binary in bytes.
    binary_bytes: u64,
    /// Guest time of each run in seconds.
    seconds: u16,
    /// Throughput in bytes a second by workload and setting; `none` and `again`: without the daemon, first and last.
    runs: Vec<(String, BTreeMap<String, f64>)>,
    /// Lines that the daemon wrote meanwhile, by workload and setting.
    lines: BTreeMap<String, BTreeMap<String, u64>>,
    /// By setting.
    daemon: BTreeMap<String, Daemon>,
    /// Stalls among sockets that have nothing to send.
    crowds: Vec<Crowd>,
    /// Instructions that the verifier went through, by program.
    programs: BTreeMap<String, u64>,
}

/// Some stalls among sockets that have nothing to send, with `auto`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Crowd {
    /// Sockets that have nothing to send.
    idle: u64,
    /// Sockets that stall.
    stalled: u64,
    /// Stalls that were told.
    opened: u64,
    /// Observations and events that were lost.
    lost: u64,
    /// How long the first one had lasted when it was told.
    flagged_ms: f64,
    /// Share of a processor while they are watched.
    share: f64,
    /// `VmRSS` in KiB then.
    resident_kib: u64,
}

/// What the daemon takes for itself.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Daemon {
    /// From its start until it watches, in seconds.
    start_s: f64,
    /// `VmRSS` in KiB while it has nothing to do.
    resident_kib: u64,
    /// `VmHWM` in KiB then.
    peak_kib: u64,
    /// Share of a processor while it has nothing to do.
    idle_share: f64,
    /// Times that a writer was refused during all runs.
    refused: u64,
    /// … of which ordinary back-pressure, which leaves nothing but this count.
    back_pressure: u64,
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

/// Runs the verb.
pub(crate) fn run(place: &Place, arguments: &BenchArguments) -> Result<ExitCode> {
    let BenchArguments {
        kernel,
        seconds,
        timeout,
        no_document,
    } = arguments;
    let known = kernel::find(kernel)?;
    setup::ensure(place, Needs::Guests)?;
    let programs = Programs::prepare(place)?;
    let bootable = Bootable::prepare(place, known)?;
    let said = in_guest(place, &programs, &bootable, *seconds, *timeout)?;
    let binary = fs::metadata(programs.daemon())
        .with_context(|| format!("looking at {}", programs.daemon().display()))?;
    let mut figures = Figures {
        kernel: bootable.kernel.release.clone(),
        binary_bytes: binary.len(),
        seconds: *seconds,
        ..Figures::default()
    };
    for line in said.lines() {
        figures
            .take(line)
            .with_context(|| format!("the guest said {line:?}"))?;
    }
    ensure!(!figures.runs.is_empty(), "the guest measured nothing");

    let results = place.results("results");
    fs::create_dir_all(&results).with_context(|| format!("creating {}", results.display()))?;
    let mut files = vec![(
        results.join("bench.json"),
        serde_json::to_string_pretty(&figures).context("encoding the figures")?,
    )];
    let document = document::of(&figures);
    print!("{document}");
    if !no_document {
        files.push((place.workspace.join("docs/performance.md"), document));
    }
    for (path, contents) in files {
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Boots a guest, runs the script and gives back what it printed.
fn in_guest(
    place: &Place,
    programs: &Programs,
    bootable: &Bootable,
    seconds: u16,
    timeout: u64,
) -> Result<String> {
    let argv = ["sh", "-c", SCRIPT, "bench", &seconds.to_string()].map(str::to_owned);
    let job = Job {
        load_modules: true,
        action: Action::Command {
            argv: argv.to_vec(),
        },
    };
    let machine = Machine {
        icount: true,
        ..Machine::default()
    };
    let directory = RunDirectory::create(place)?;
    let limit = Duration::from_secs(timeout);
    let mut guest = match bootable.boot_until_ready(
        programs,
        machine,
        &job,
        Extra::default(),
        directory.path(),
        limit,
    )? {
        Ok(guest) => guest,
        Err(ending) => bail!("{ending}"),
    };
    let mut said = String::new();
    let mut complaints = String::new();
    loop {
        match guest.next()? {
            Ok(Frame::Stdout(bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                // What is under way, for whoever waits.
                for line in text.lines() {
                    let columns: Vec<&str> = line.split('\t').take(3).collect();
                    eprintln!("{}", columns.join("  "));
                }
                said.push_str(&text);
            }
            Ok(Frame::Stderr(bytes)) => complaints.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(_) => {}
            Err(Ending::Exit(0)) => return Ok(said),
            Err(ending) => bail!("{ending}\n{complaints}"),
        }
    }
}

impl Figures {
    /// Takes a line of the script's.
    fn take(&mut self, line: &str) -> Result<()> {
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
            ["idle", setting, before, after] => {
                self.daemon(setting).idle_share =
                    (number(after)? - number(before)?) / 1e9 / IDLE_SECONDS;
            }
            ["run", workload, setting, report] => {
                let report: Value = serde_json::from_str(report).context("a workload's report")?;
                let of = |key: &str| report.get(key).and_then(Value::as_f64).context("no figure");
                let per_s = of("bytes_received")? / of("duration_ms")? * 1000.0;
                // Without the daemon each is run first: that makes the order of the rows.
                let known = self.runs.iter().position(|(known, _)| known == workload);
                let index = known.unwrap_or_else(|| {
                    self.runs.push((workload.to_owned(), BTreeMap::new()));
                    self.runs.len() - 1
                });
                if let Some((_, settings)) = self.runs.get_mut(index) {
                    settings.insert(setting.to_owned(), per_s);
                }
            }
            ["lines", workload, setting, before, after] => {
                let of = |text: &str| text.parse::<u64>().context("lines");
                self.lines
                    .entry(workload.to_owned())
                    .or_default()
                    .insert(setting.to_owned(), of(after)?.saturating_sub(of(before)?));
            }
            ["stopped", setting, stopped] => {
                let stopped: Value = serde_json::from_str(stopped).context("the last event")?;
                let of = |key: &str| stopped.get(key).and_then(Value::as_u64).context("no count");
                let daemon = self.daemon(setting);
                daemon.refused = of("refused")?;
                daemon.back_pressure = of("back_pressure")?;
            }
            [
                "crowd",
                idle,
                stalled,
                before,
                after,
                resident,
                first,
                opened,
                stopped,
            ] => {
                let first: Value = serde_json::from_str(first).context("the first stall")?;
                let stopped: Value = serde_json::from_str(stopped).context("the last event")?;
                let held = first.pointer("/held/ms").and_then(Value::as_f64);
                let lost = stopped.get("lost").and_then(Value::as_object);
                let counts = lost.context("no losses")?.values();
                self.crowds.push(Crowd {
                    idle: idle.parse().context("sockets")?,
                    stalled: stalled.parse().context("sockets")?,
                    opened: opened.parse().context("stalls")?,
                    lost: counts.filter_map(Value::as_u64).sum(),
                    flagged_ms: held.context("no time")?,
                    share: (number(after)? - number(before)?) / 1e9 / WATCHED_SECONDS,
                    resident_kib: resident.parse().context("VmRSS")?,
                });
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

    fn daemon(&mut self, setting: &str) -> &mut Daemon {
        self.daemon.entry(setting.to_owned()).or_default()
    }
}

/// How long the script leaves the daemon idle.
const IDLE_SECONDS: f64 = 60.0;
/// How long it looks on while stalls are watched.
const WATCHED_SECONDS: f64 = 10.0;

fn number(text: &str) -> Result<f64> {
    text.parse()
        .with_context(|| format!("{text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_becomes_figures() {
        let mut figures = Figures::default();
        for line in [
            "start\tauto\t10.00\t11.50",
            "memory\tauto\t9000\t15000",
            "idle\tauto\t1000000000\t1030000000",
            "run\twrite\tnone\t{\"bytes_received\":2000,\"duration_ms\":1000}",
            "run\twrite\tagain\t{\"bytes_received\":2002,\"duration_ms\":1000}",
            "run\twrite\tauto\t{\"bytes_received\":1998,\"duration_ms\":1000}",
            "lines\twrite\tauto\t1\t3",
            "stopped\tauto\t{\"refused\":7,\"back_pressure\":6}",
            "crowd\t10\t1\t0\t50000000\t9000\t{\"held\":{\"ms\":21.5}}\t1\t{\"lost\":{\"output\":2}}",
            "programs\t{\"programs\":[{\"program\":\"tls_push_sg\",\"instructions\":120}]}",
        ] {
            figures.take(line).unwrap();
        }
        let daemon = figures.daemon["auto"];
        assert!((daemon.start_s - 1.5).abs() < 1e-9 && (daemon.idle_share - 0.0005).abs() < 1e-9);
        assert_eq!((daemon.refused, daemon.back_pressure), (7, 6));
        assert_eq!(figures.lines["write"]["auto"], 2);
        let crowd = figures.crowds[0];
        assert_eq!((crowd.opened, crowd.lost, crowd.resident_kib), (1, 2, 9000));
        assert!((crowd.share - 0.005).abs() < 1e-9 && (crowd.flagged_ms - 21.5).abs() < 1e-9);
        let document = document::of(&figures);
        assert!(
            document.contains("| write | 2 kB/s | 1.0010 | 0.9990 |"),
            "{document}"
        );
        assert!(document.contains("`tls_push_sg` | 120 |"), "{document}");
    }

    #[test]
    fn what_is_no_figure_is_an_error() {
        assert!(Figures::default().take("sh: awk: not found").is_err());
    }
}
