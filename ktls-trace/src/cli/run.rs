//! `ktls-trace run`: watches this host until stopped and reports stalls.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{anyhow, bail};
use clap::{ArgAction, ArgGroup};
use ktls_trace::{
    correlate,
    export::{
        Address, Asking, Destination, Exports, Http, Journal, Keeping, ListenError, Listening,
        Outlets,
        metrics::{Bounds, Metrics},
    },
    kernel::{self, btf, namespaces::Which, netns, plan::Probes, without},
    observe::recording::{self, Recorder},
    watch,
};
use ktls_trace_common::filter::Filter;

use super::{
    cannot,
    otlp::Otlp,
    output::Output,
    reload::Reloader,
    say,
    units::{parse_netns, parse_positive_time, parse_size, parse_time},
};

/// Watch this host until stopped; report stalls
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
#[command(group(ArgGroup::new("metrics").multiple(true).args(["metrics_listen", "otlp", "otlp_metrics"])))]
#[command(group(ArgGroup::new("pushes").multiple(true).args(["otlp", "otlp_metrics"])))]
pub(crate) struct Args {
    /// Take options from this file (TOML, see `ktls-trace config default`), then from the environment as
    /// `KTLS_TRACE_OPTION`, then from here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    /// Begin a new output file when it has become longer than this; older ones are called FILE.1, FILE.2, …
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    output_rotate: Option<u64>,
    /// How many older ones are kept
    #[arg(long, default_value_t = 4, value_name = "NUMBER")]
    output_keep: u32,
    /// Have each event on the disk before the next is written (fdatasync)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_possible_values = true, hide_default_value = true, value_name = "true|false")]
    output_sync: bool,
    /// Also tell events to the journal of systemd, with their facts as fields
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_possible_values = true, hide_default_value = true, value_name = "true|false")]
    journal: bool,
    /// Serve metrics, health, stalls and events over HTTP: ADDRESS:PORT, PORT on loopback, or unix:PATH (can be
    /// repeated)
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Vec<Address>,
    /// Count stalls by name of the process as well, for so many names at most; further ones are `other`
    #[arg(long, default_value_t = 0, requires = "metrics", value_name = "NUMBER")]
    metrics_processes: usize,
    #[command(flatten)]
    otlp: Otlp,
    /// Record everything that is observed in this new file, for `ktls-trace replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Replace addresses and names in the recording (not in the events)
    #[arg(long, requires_if("true", "record"), action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_possible_values = true, hide_default_value = true, value_name = "true|false")]
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
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_possible_values = true, hide_default_value = true, value_name = "true|false")]
    no_bpf: bool,
    /// Which kernel hooks: `auto` those on functions that run all the time only while there is a stall; `full` all,
    /// always; `light` those never
    #[arg(long, value_enum, default_value_t = ProbesArg::Auto, value_name = "auto|light|full", hide_possible_values = true)]
    probes: ProbesArg,
    /// Do without this function, member (as `tcp_sock.nonagle`), `sock_diag` or `fentry` (can be repeated)
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
///
/// `given` is the command line as it was given, to be read again with the file that it names; `words` is how that was at
/// the start.
pub(crate) fn run(
    args: &Args,
    given: Vec<OsString>,
    words: Vec<OsString>,
    programs_log: bool,
) -> ExitCode {
    let options = match args.options(programs_log) {
        Ok(options) => options,
        Err(error) => return cannot("run", &error),
    };
    let recorder = match args.recording().map(Recorder::create).transpose() {
        Ok(recorder) => recorder,
        Err(error) => return cannot("run", &error),
    };
    let metrics = Arc::new(Metrics::new(&kernel::facts::release(), args.bounds()));
    let (exports, serves) = match args.exports(&metrics) {
        Ok(exports) => exports,
        Err(error) => return cannot("run", &error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return cannot("run", &format_args!("cannot start: {error}")),
    };
    let ready = |line: &str| {
        say(format_args!("ktls-trace: {line}"));
        for address in serves {
            say(format_args!(
                "ktls-trace: metrics, health, stalls and events at {address}"
            ));
        }
    };
    let mut reloader = Reloader::new(given, words, metrics);
    let reread = Box::new(move |exports: &mut Exports| reloader.reread(exports));
    match runtime.block_on(watch::run(options, exports, recorder, reread, ready)) {
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

    /// Where events go. `at_once`: nothing may be waited for, a run goes on meanwhile.
    pub(super) fn destinations(
        &self,
        metrics: &Arc<Metrics>,
        asking: &Asking,
        at_once: bool,
    ) -> anyhow::Result<Vec<Box<dyn Destination>>> {
        let keeping = Keeping {
            rotate_bytes: self.output_rotate,
            old_files: self.output_keep,
            sync: self.output_sync,
            at_once,
        };
        let lines = self.output.lines(keeping)?;
        let mut destinations: Vec<Box<dyn Destination>> = vec![Box::new(lines)];
        if self.journal {
            destinations.push(Box::new(Journal::open()?));
        }
        let collectors = self.otlp.destinations(metrics, asking);
        destinations.extend(collectors.map_err(cannot_start)?);
        Ok(destinations)
    }

    /// Where metrics and events can be asked for.
    pub(super) fn metrics_listen(&self) -> &[Address] {
        &self.metrics_listen
    }

    /// What bounds the metrics.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            netns: self.netns.clone(),
            most_processes: self.metrics_processes,
        }
    }

    /// Serves over HTTP there, unless there is no such place.
    pub(super) fn serve(
        sockets: Vec<Listening>,
        metrics: &Arc<Metrics>,
        asking: Asking,
    ) -> anyhow::Result<Option<Http>> {
        if sockets.is_empty() {
            return Ok(None);
        }
        Http::start(sockets, Arc::clone(metrics), asking)
            .map(Some)
            .map_err(cannot_start)
    }

    /// Everything that is told, and where it can be asked for.
    fn exports(&self, metrics: &Arc<Metrics>) -> anyhow::Result<(Exports, Vec<Address>)> {
        let mut exports = Exports::counting(Arc::clone(metrics));
        let destinations = self.destinations(metrics, &exports.asking(), false)?;
        let sockets = listen(&self.metrics_listen)?;
        let address = |socket: &Listening| socket.address().clone();
        let serves = sockets.iter().map(address).collect();
        exports.http = Self::serve(sockets, metrics, exports.asking())?;
        exports.outlets = Outlets::start(destinations).map_err(cannot_start)?;
        Ok((exports, serves))
    }

    /// What the run goes by.
    pub(super) fn options(&self, programs_log: bool) -> anyhow::Result<watch::Options> {
        if self.no_bpf && self.pid.is_some() {
            bail!("--pid needs the hooks, so it can't be used with --no-bpf");
        }
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
            gives_up_capabilities: true,
        })
    }
}

/// The system gives no thread.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn cannot_start(error: io::Error) -> anyhow::Error {
    anyhow!("cannot start: {error}")
}

/// Takes addresses.
pub(super) fn listen(addresses: &[Address]) -> Result<Vec<Listening>, ListenError> {
    addresses.iter().map(Listening::on).collect()
}

/// A time that can be compared with the kernel's.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
