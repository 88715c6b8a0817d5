//! `ktls-trace run`: watches this host until stopped and reports stalls.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use ktls_trace::{
    correlate,
    kernel::{btf, namespaces::Which, netns, plan::Probes, without},
    observe::recording::{self, Recorder},
    watch,
};
use ktls_trace_common::filter::Filter;

use super::{
    cannot,
    output::Output,
    units::{parse_netns, parse_size, parse_time},
};

/// Watch this host until stopped; report stalls
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    output: Output,
    /// Record everything that is observed in this new file, for `ktls-trace replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Replace addresses and names in the recording (not in the events)
    #[arg(long, requires = "record")]
    anonymize: bool,
    /// End the recording, not the run, at about this length
    #[arg(long, requires = "record", default_value = "256M", value_name = "SIZE", value_parser = parse_size)]
    record_limit: u64,
    /// Report bytes held longer than this
    #[arg(long, default_value = "20ms", value_name = "TIME", value_parser = parse_positive_time)]
    threshold: Duration,
    /// How often the kernel is asked about a suspect
    #[arg(long, default_value = "50ms", value_name = "TIME", value_parser = parse_positive_time)]
    poll_interval: Duration,
    /// End after this long [default: run until stopped]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    duration: Option<Duration>,
    /// Look at this process only
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Look at connections with this local or remote port only
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Network namespaces: all, the own one, or the one of a file such as /proc/PID/ns/net or /run/netns/NAME
    #[arg(long, default_value = "all", value_name = "all|self|PATH", value_parser = parse_netns)]
    netns: Which,
    /// Use no kernel hooks: ask `sock_diag` only
    #[arg(long, conflicts_with_all = ["pid"])]
    no_bpf: bool,
    /// Which kernel hooks: `full` all, always; `auto` those on functions that run all the time only while there is a
    /// stall; `light` those never
    #[arg(long, value_enum, default_value_t = ProbesArg::Full, value_name = "auto|light|full", hide_possible_values = true)]
    probes: ProbesArg,
    /// Do without this function, member (as `tcp_sock.nonagle`) or `sock_diag` (can be repeated)
    #[arg(long, value_name = "NAME")]
    without: Vec<without::Item>,
    /// Read the kernel's types from this folder (files vmlinux and tls)
    #[arg(long, default_value = btf::DIRECTORY, value_name = "DIR")]
    btf: PathBuf,
}

/// `--probes`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ProbesArg {
    Auto,
    Light,
    Full,
}

impl From<ProbesArg> for Probes {
    fn from(probes: ProbesArg) -> Self {
        match probes {
            ProbesArg::Auto => Self::Auto,
            ProbesArg::Light => Self::Light,
            ProbesArg::Full => Self::Full,
        }
    }
}

/// Runs the daemon.
pub(crate) fn run(args: &Args, programs_log: bool) -> ExitCode {
    let options = match args.options(programs_log) {
        Ok(options) => options,
        Err(error) => return cannot("run", &error),
    };
    let recorder = match args.recording().map(Recorder::create).transpose() {
        Ok(recorder) => recorder,
        Err(error) => return cannot("run", &error),
    };
    let lines = match args.output.lines() {
        Ok(lines) => lines,
        Err(error) => return cannot("run", &error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return cannot("run", &format_args!("cannot start: {error}")),
    };
    let ready = |line: &str| eprintln!("ktls-trace: {line}");
    match runtime.block_on(watch::run(options, lines, recorder, ready)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cannot("run", &error),
    }
}

impl Args {
    fn recording(&self) -> Option<recording::Options> {
        self.record.as_ref().map(|path| recording::Options {
            path: path.clone(),
            anonymize: self.anonymize,
            limit_bytes: self.record_limit,
        })
    }

    fn options(&self, programs_log: bool) -> Result<watch::Options, netns::Error> {
        let netns = match &self.netns {
            Which::All => 0,
            Which::Own => netns::inode(Path::new("/proc/self/ns/net"))?,
            Which::Path(path) => netns::inode(path)?,
        };
        Ok(watch::Options {
            correlate: correlate::Config {
                threshold_ns: nanoseconds(self.threshold),
                poll_interval_ns: nanoseconds(self.poll_interval),
                ..correlate::Config::default()
            },
            filter: Filter {
                tgid: self.pid.unwrap_or(0),
                port: self.port.map_or(0, u32::from),
                netns,
                ..Filter::default()
            },
            netns: self.netns.clone(),
            no_bpf: self.no_bpf,
            probes: self.probes.into(),
            without: self.without.iter().cloned().collect(),
            btf: self.btf.clone(),
            duration: self.duration,
            programs_log,
        })
    }
}

/// A time that can be compared with the kernel's.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// As [`parse_time`], but between 1 ms and an hour.
fn parse_positive_time(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time < Duration::from_millis(1) || time > Duration::from_hours(1) {
        return Err(format!("{text} is not between 1ms and 1h"));
    }
    Ok(time)
}
