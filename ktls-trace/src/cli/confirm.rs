//! `ktls-trace confirm`: the causal chain under every probe, and the proof by flips.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use ktls_trace::{
    confirm::{self, Findings, Options, Outcome, Workload},
    kernel::{btf, without},
    report,
};

use super::{cannot, say, sending::Sending, units::parse_time};

/// Exit status when the stall was not seen, or its cause refuted.
const NOT_CONFIRMED: u8 = 1;
/// How long each run of the built-in workload takes.
const RUN: Duration = Duration::from_secs(3);
/// How long each run of a command may take.
const COMMAND_RUN: Duration = Duration::from_secs(15);

/// Show the causal chain link by link, and prove the cause by removing it
///
/// Runs CMD, or the built-in workload, under every probe and prints what was seen of each link; then the same
/// transfer with one cause removed at a time. The built-in workload: gate open, MSS below a record, `write()`
/// instead of `sendfile()`, no TLS. A command: gate open and a smaller MSS, in a network namespace of its own.
/// No setting of the host is changed. A flip heals if throughput is at least 5 times as high and no such
/// stall comes up.
///
/// Exit status: 0 confirmed, 1 not seen or refuted (the link is named), 2 could not tell (and why).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten, next_help_heading = "The built-in workload")]
    sending: Sending,
    /// Time of each run; the most that a CMD may take [default: 3s, of a CMD 15s]
    #[arg(long, value_name = "TIME", value_parser = parse_run_time, help_heading = "Options")]
    duration: Option<Duration>,
    /// Print one JSON object (`ktls-trace schema confirm`)
    #[arg(long, help_heading = "Options")]
    json: bool,
    /// Do without this function, member (as `tcp_sock.nonagle`), `sock_diag` or `fentry` (can be repeated)
    #[arg(long, value_name = "NAME", help_heading = "Options")]
    without: Vec<without::Item>,
    /// Read the kernel's types from this folder (files vmlinux and tls)
    #[arg(long, default_value = btf::DIRECTORY, value_name = "DIR", help_heading = "Options")]
    btf: PathBuf,
    /// Run this program in place of the built-in workload; its output goes to stderr
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs everything and prints what was found.
pub(crate) fn run(args: &Args, programs_log: bool) -> ExitCode {
    let mut progress = |line: &str| say(format_args!("ktls-trace: {line}"));
    let findings = match confirm::run(&args.options(programs_log), &mut progress) {
        Ok(findings) => findings,
        Err(error) => return cannot("confirm", &format_args!("could not tell: {error}")),
    };
    match print(&findings, args.json) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return cannot("confirm", &format_args!("cannot write: {error}"));
        }
        Ok(()) | Err(_) => {}
    }
    match findings.outcome {
        Outcome::Confirmed => ExitCode::SUCCESS,
        Outcome::NotSeen | Outcome::Refuted => ExitCode::from(NOT_CONFIRMED),
        Outcome::CouldNotTell => ExitCode::from(super::CANNOT),
    }
}

/// Prints the findings, as one JSON object or for people.
fn print(findings: &Findings, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, findings)?;
        writeln!(out)
    } else {
        out.write_all(report::confirm::findings(findings).as_bytes())
    }
}

impl Args {
    fn options(&self, programs_log: bool) -> Options {
        let (workload, usual) = if self.command.is_empty() {
            (Workload::BuiltIn(Box::new(self.sending.config())), RUN)
        } else {
            (Workload::Command(self.command.clone()), COMMAND_RUN)
        };
        Options {
            workload,
            duration: self.duration.unwrap_or(usual),
            without: self.without.iter().cloned().collect(),
            btf: self.btf.clone(),
            programs_log,
        }
    }
}

/// As [`parse_time`], but between a tenth of a second and an hour.
fn parse_run_time(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time < Duration::from_millis(100) || time > Duration::from_hours(1) {
        return Err(format!("{text} is not between 100ms and 1h"));
    }
    Ok(time)
}
