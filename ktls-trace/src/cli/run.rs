//! `ktls-trace run`: watches this host until stopped and reports stalls.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::ValueEnum;
use ktls_trace::{
    correlate,
    export::{Format, Lines},
    kernel::btf,
    watch,
};
use ktls_trace_common::filter::Filter;

use super::{cannot, units::parse_time};

/// Watch this host until stopped; report stalls
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where events go: a file, or - for stdout
    #[arg(long, default_value = "-", value_name = "FILE|-")]
    output: PathBuf,
    /// In which form
    #[arg(long, value_enum, default_value = "text")]
    format: FormatName,
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
    /// Use no kernel hooks: ask `sock_diag` only
    #[arg(long, conflicts_with_all = ["pid"])]
    no_bpf: bool,
    /// Leave this kernel function alone, as if it could not be hooked (can be repeated)
    #[arg(long, value_name = "FUNCTION")]
    without: Vec<String>,
    /// Read the kernel's types from this folder (files vmlinux and tls)
    #[arg(long, default_value = btf::DIRECTORY, value_name = "DIR")]
    btf: PathBuf,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    /// For people
    Text,
    /// One JSON object a line, schema ktls-trace/1
    Jsonl,
}

/// Runs the daemon.
pub(crate) fn run(args: &Args, programs_log: bool) -> ExitCode {
    let format = match args.format {
        FormatName::Text => Format::Text,
        FormatName::Jsonl => Format::JsonLines,
    };
    let lines = if args.output.as_os_str() == "-" {
        Ok(Lines::stdout(format))
    } else {
        Lines::file(&args.output, format)
    };
    let lines = match lines {
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
    match runtime.block_on(watch::run(args.options(programs_log), lines, ready)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cannot("run", &error),
    }
}

impl Args {
    fn options(&self, programs_log: bool) -> watch::Options {
        watch::Options {
            correlate: correlate::Config {
                threshold_ns: nanoseconds(self.threshold),
                poll_interval_ns: nanoseconds(self.poll_interval),
                ..correlate::Config::default()
            },
            filter: Filter {
                tgid: self.pid.unwrap_or(0),
                port: self.port.map_or(0, u32::from),
                ..Filter::default()
            },
            no_bpf: self.no_bpf,
            without: self.without.clone(),
            btf: self.btf.clone(),
            duration: self.duration,
            programs_log,
        }
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
