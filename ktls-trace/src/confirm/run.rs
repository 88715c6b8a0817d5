//! The runs: the transfer as it is under every probe, then one flip after another.

use std::{
    cell::RefCell,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use ktls_trace_common::{filter::Filter, layout::ABSENT};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};

use super::{
    Error, chain, command,
    evidence::Evidence,
    findings::{Findings, RunName, RunReport, RunStatus, SCHEMA, WorkloadReport},
    flips::{self, Flip, Moved},
    namespace::{self, Network},
    place::Place,
    questions, verdict,
};
use crate::{
    correlate,
    export::Exports,
    kernel::{
        Facts, capabilities, namespaces::Which, plan::Probes, sysctl::Settings, without::Without,
    },
    watch::{self, Control},
    workload::{self, Config, Mode, Receiver as Receiving, Report},
};

/// How long a transfer is given to end once it was told to.
const ENDING: Duration = Duration::from_secs(5);

/// What is to be confirmed, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The transfer.
    pub workload: Workload,
    /// How long each run takes; the most that it may take, for a command.
    pub duration: Duration,
    /// Functions to leave alone, as if the kernel did not have them.
    pub without: Without,
    /// Folder of the kernel's BTF.
    pub btf: PathBuf,
    /// Whether the programs' own diagnostics are wanted.
    pub programs_log: bool,
}

/// A transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The built-in workload.
    BuiltIn(Box<Config>),
    /// A command and its arguments.
    Command(Vec<String>),
}

/// Runs everything and tells what was found. `progress` is told what is being done.
///
/// # Errors
///
/// If nothing could be told at all.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Findings, Error> {
    match capabilities::missing() {
        missing if missing.is_empty() => {}
        missing => {
            let verb = if missing.len() == 1 { "is" } else { "are" };
            return Err(Error::Privileges(format!("{} {verb}", missing.join(", "))));
        }
    }
    load_tls()?;
    let mut confirmation = Confirmation::new(options)?;
    match &options.workload {
        Workload::BuiltIn(config) => confirmation.of_workload(config, progress),
        Workload::Command(argv) => confirmation.of_command(argv, progress),
    }
}

/// Has the kernel load its TLS, so that the hooks are there before the first byte.
fn load_tls() -> Result<(), Error> {
    let first = Config {
        bytes: Some(1),
        file_size: 1,
        notsent_lowat: None,
        duration: Duration::from_secs(1),
        ..Config::default()
    };
    workload::run(&first, &AtomicBool::new(false))?;
    Ok(())
}

/// Everything that the runs share.
struct Confirmation<'a> {
    /// What is to be confirmed.
    options: &'a Options,
    /// Runs the tracing.
    runtime: Runtime,
    /// Where the workload runs.
    place: Place,
    /// The kernel, looked at once.
    facts: Facts,
    /// Tells a transfer to end early.
    stop: Arc<AtomicBool>,
    /// SIGINT and SIGTERM between two runs; during one the tracing takes them.
    signals: [Signal; 2],
}

impl<'a> Confirmation<'a> {
    fn new(options: &'a Options) -> Result<Self, Error> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Resource {
                what: "start a runtime",
                source,
            })?;
        let signals = {
            let _within = runtime.enter();
            signal(SignalKind::interrupt())
                .and_then(|interrupt| Ok([interrupt, signal(SignalKind::terminate())?]))
                .map_err(|source| Error::Resource {
                    what: "wait for signals",
                    source,
                })?
        };
        let facts = Facts::gather(&options.btf, &options.without);
        if let Ok(resolved) = &facts.layout {
            for name in [
                "task_struct.nsproxy",
                "nsproxy.uts_ns",
                "uts_namespace.ns.inum",
            ] {
                if resolved.missing.contains(&name) {
                    return Err(Error::NoMark(name));
                }
            }
        }
        Ok(Self {
            options,
            runtime,
            place: Place::new()?,
            facts,
            stop: Arc::default(),
            signals,
        })
    }

    /// The built-in workload and its flips.
    fn of_workload(
        &mut self,
        config: &Config,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Findings, Error> {
        let config = Config {
            duration: self.options.duration,
            bytes: None,
            receiver: Receiving::Drain,
            ..config.clone()
        };
        progress(&format!("as it is: {}", described(&config)));
        let (evidence, moved) = self.transfer(&config)?;
        let links = chain::links(&evidence);
        let rate = moved.mib_per_s();
        let mut runs = vec![flips::report(
            RunName::AsIs,
            described(&config),
            Some(moved),
            &evidence,
            None,
            None,
        )];
        let mut small_mss = None;
        for Flip {
            run,
            changed,
            transfer,
        } in flips::of_workload(&config, &evidence)
        {
            runs.push(match transfer {
                _ if !verdict::has_stall(&links, &evidence) => not_needed(run, changed),
                Err(why) => flips::not_run(run, changed, RunStatus::NotApplicable, why),
                Ok(flipped) => {
                    progress(&format!("{}: {changed}", run.title()));
                    let outcome = self
                        .transfer(&flipped)
                        .map(|(seen, moved)| (seen, Some(moved), None));
                    flipped_report(run, changed, outcome, rate, &mut small_mss)?
                }
            });
        }
        let what = WorkloadReport::BuiltIn(described(&config));
        Ok(self.findings(what, &evidence, small_mss.as_ref(), runs))
    }

    /// A foreign command and its flips.
    fn of_command(
        &mut self,
        argv: &[String],
        progress: &mut dyn FnMut(&str),
    ) -> Result<Findings, Error> {
        progress("as it is, on this host");
        let (evidence, ended) = self.command(argv)?;
        let links = chain::links(&evidence);
        let mut runs = vec![flips::report(
            RunName::AsIs,
            "on this host".to_owned(),
            moved(&evidence, &ended),
            &evidence,
            None,
            Some(ended.how.clone()),
        )];
        let host = Settings::read();
        let flips = flips::of_command(host, &evidence);
        let mut small_mss = None;
        if verdict::has_stall(&links, &evidence) {
            let unchanged = Network {
                settings: host,
                mtu: None,
            };
            progress("as it is, in a network namespace of its own with the host's settings");
            let before = self.command_in(argv, unchanged);
            let rate = namespace_baseline(before, &ended, &mut runs)?;
            for Flip {
                run,
                changed,
                transfer,
            } in flips
            {
                runs.push(match (transfer, &rate) {
                    (Err(why), _) => flips::not_run(run, changed, RunStatus::NotApplicable, why),
                    (Ok(_), Err(why)) => {
                        flips::not_run(run, changed, RunStatus::Failed, why.clone())
                    }
                    (Ok(network), &Ok(rate)) => {
                        progress(&format!("{}: {changed}", run.title()));
                        let outcome = self.command_in(argv, network).map(|(seen, ended)| {
                            let moved = moved(&seen, &ended);
                            (seen, moved, Some(ended.how))
                        });
                        flipped_report(run, changed, outcome, rate, &mut small_mss)?
                    }
                });
            }
        } else {
            runs.extend(
                flips
                    .into_iter()
                    .map(|flip| not_needed(flip.run, flip.changed)),
            );
        }
        let what = WorkloadReport::Command(argv.to_vec());
        Ok(self.findings(what, &evidence, small_mss.as_ref(), runs))
    }

    /// One transfer of the built-in workload under every probe.
    ///
    /// A send that does not come back at once when its socket is shut down at the end is no failure: kernel TLS
    /// goes on encrypting what it was given.
    fn transfer(&mut self, config: &Config) -> Result<(Evidence, Moved), Error> {
        let limit = config.duration;
        let (config, stop) = (config.clone(), Arc::clone(&self.stop));
        let (evidence, report) = self.watched(move || workload::run(&config, &stop))?;
        let report: Report = report?;
        if let Some(error) = report
            .connections
            .iter()
            .filter(|connection| Duration::from_millis(connection.duration_ms) < limit)
            .find_map(|connection| connection.error.clone())
        {
            return Err(Error::Transfer(error));
        }
        let moved = Moved {
            bytes: report.bytes_received,
            duration_ms: report.duration_ms,
        };
        Ok((evidence, moved))
    }

    /// One run of a command under every probe.
    fn command(&mut self, argv: &[String]) -> Result<(Evidence, command::Ended), Error> {
        let (stop, uts, limit) = (
            Arc::clone(&self.stop),
            self.place.uts,
            self.options.duration,
        );
        let job = argv.to_vec();
        let (evidence, ended) = self.watched(move || command::run(&job, limit, uts, &stop))?;
        let ended = ended.map_err(|source| Error::Command {
            program: argv.first().cloned().unwrap_or_default(),
            source,
        })?;
        Ok((evidence, ended))
    }

    /// One run of a command in a network namespace of its own.
    fn command_in(
        &mut self,
        argv: &[String],
        network: Network,
    ) -> Result<(Evidence, command::Ended), Error> {
        self.place
            .wait_for(move || namespace::private_network(&network))??;
        self.command(argv)
    }

    /// Does a job at the workload's place, from when the hooks are attached until it is done, and gathers
    /// what they see.
    fn watched<T: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(Evidence, T), Error> {
        self.check_interrupted()?;
        let options = watch::Options {
            probes: Probes::Full,
            correlate: correlate::Config::default(),
            filter: Filter {
                uts: self.place.uts,
                ..Filter::default()
            },
            netns: Which::All,
            no_bpf: false,
            without: self.options.without.clone(),
            btf: self.options.btf.clone(),
            duration: None,
            programs_log: self.options.programs_log,
            // There is more to attach.
            gives_up_capabilities: false,
        };
        let has_sendpage = self
            .facts
            .layout
            .as_ref()
            .is_ok_and(|resolved| resolved.layout.arg_sendpage_flags != ABSENT);
        let evidence = RefCell::new(Evidence::on(has_sendpage));
        let stop = Arc::new(Notify::new());
        let control = Control {
            stop: Arc::clone(&stop),
            listen: Box::new(|seen| evidence.borrow_mut().take(seen)),
            ..Control::default()
        };
        let mut answer = None;
        let watching = watch::run_within(
            self.facts.clone(),
            options,
            Exports::default(),
            control,
            |_| {
                if evidence.borrow().mode.as_deref() == Some("hooks") {
                    answer = Some(self.place.begin(move || {
                        let done = job();
                        stop.notify_one();
                        done
                    }));
                } else {
                    stop.notify_one();
                }
            },
        );
        self.runtime.block_on(watching)?;
        let mut evidence = evidence.into_inner();
        let Some(answer) = answer else {
            let why = evidence.cannot_see.join("; ");
            return Err(Error::NoHooks(why));
        };
        evidence.finish();
        Ok((evidence, self.take(&answer)?))
    }

    /// Whether a signal came between two runs.
    fn check_interrupted(&mut self) -> Result<(), Error> {
        let [interrupt, terminate] = &mut self.signals;
        let came = self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                () = std::future::ready(()) => false,
            }
        });
        if came {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Takes the answer of a job that is done. If it is not, somebody stopped the tracing with a signal.
    fn take<T>(&self, answer: &Receiver<T>) -> Result<T, Error> {
        match answer.recv_timeout(Duration::from_millis(100)) {
            Ok(done) => Ok(done),
            Err(RecvTimeoutError::Disconnected) => Err(Error::ThreadGone),
            Err(RecvTimeoutError::Timeout) => {
                self.stop.store(true, Ordering::Release);
                // Its result is of no use any more; what counts is that it has ended.
                let _ended = answer.recv_timeout(ENDING);
                Err(Error::Interrupted)
            }
        }
    }

    /// Puts everything together.
    fn findings(
        &self,
        workload: WorkloadReport,
        evidence: &Evidence,
        small_mss: Option<&Evidence>,
        runs: Vec<RunReport>,
    ) -> Findings {
        let chain = chain::links(evidence);
        let (differences, explained) = verdict::differences(evidence, small_mss);
        let decision = verdict::decide(&chain, evidence, &runs, &explained);
        Findings {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: self.facts.release.clone(),
            workload,
            outcome: decision.outcome,
            summary: decision.summary,
            broken_at: decision.broken_at,
            differences,
            chain,
            answers: questions::answers(evidence),
            runs,
            criterion: flips::criterion(),
            cannot_see: evidence.cannot_see.clone(),
        }
    }
}

/// What a flip gave: what was seen, what it moved, and how a command ended.
type Flipped = (Evidence, Option<Moved>, Option<String>);

/// The report of a flip; what a small MSS showed is kept. A signal ends everything, another failure this flip
/// only.
fn flipped_report(
    run: RunName,
    changed: String,
    outcome: Result<Flipped, Error>,
    rate: f64,
    small_mss: &mut Option<Evidence>,
) -> Result<RunReport, Error> {
    match outcome {
        Ok((seen, moved, how)) => {
            let report = flips::report(run, changed, moved, &seen, Some(rate), how);
            if run == RunName::SmallMss {
                *small_mss = Some(seen);
            }
            Ok(report)
        }
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => Ok(flips::not_run(
            run,
            changed,
            RunStatus::Failed,
            error.to_string(),
        )),
    }
}

/// A flip that was not run because there was nothing to heal.
fn not_needed(run: RunName, changed: String) -> RunReport {
    let why = "there is no stall to heal".to_owned();
    flips::not_run(run, changed, RunStatus::NotNeeded, why)
}

/// What a command's kTLS sockets handed to TCP.
fn moved(evidence: &Evidence, ended: &command::Ended) -> Option<Moved> {
    Some(Moved {
        bytes: evidence.record_bytes()?,
        duration_ms: u64::try_from(ended.elapsed.as_millis()).ok()?,
    })
}

/// The built-in workload in words.
fn described(config: &Config) -> String {
    let mode = match config.mode {
        Mode::Sendfile => "sendfile",
        Mode::Splice => "splice",
        Mode::SpliceUnflagged => {
            "splice with the flag taken from every record (stands in for a fixed kernel)"
        }
        Mode::Write => "write",
        Mode::Plain => "plain TCP sendfile",
    };
    let mut text = mode.to_owned();
    if config.mode.uses_tls() {
        text = format!("{text}, TLS {} {}", config.tls.name(), config.cipher.name());
    }
    if config.nonblocking {
        text.push_str(", non-blocking");
    }
    if config.nodelay {
        text.push_str(", TCP_NODELAY");
    }
    if config.cork {
        text.push_str(", TCP_CORK");
    }
    for (name, value) in [
        ("TCP_NOTSENT_LOWAT", config.notsent_lowat),
        ("SO_SNDBUF", config.sndbuf),
        ("TCP_MAXSEG", config.mss),
    ] {
        if let Some(value) = value {
            text = format!("{text}, {name} {value}");
        }
    }
    text
}

/// Reports the command as it is in a namespace of its own, and tells its throughput there; or why the
/// flips can't be compared with that.
fn namespace_baseline(
    before: Result<(Evidence, command::Ended), Error>,
    on_host: &command::Ended,
    runs: &mut Vec<RunReport>,
) -> Result<Result<f64, String>, Error> {
    let run = RunName::AsIsInNamespace;
    let changed = "network namespace of its own, settings of the host".to_owned();
    let (evidence, ended) = match before {
        Ok(before) => before,
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => {
            let why = error.to_string();
            runs.push(flips::not_run(run, changed, RunStatus::Failed, why.clone()));
            return Ok(Err(why));
        }
    };
    let moved = moved(&evidence, &ended);
    let how = ended.how.clone();
    let mut report = flips::report(run, changed, moved, &evidence, None, Some(how));
    let why = if evidence.records() == Some(0) || (on_host.fine && !ended.fine) {
        Some(format!(
            "the command does not run in a namespace without a network ({})",
            ended.how
        ))
    } else if evidence.corked_stalls() == 0 {
        Some("the command does not stall in a namespace of its own".to_owned())
    } else if moved.is_none() {
        Some("its throughput can't be seen: tls_push_sg is not hooked".to_owned())
    } else {
        None
    };
    if let Some(why) = why {
        report.status = RunStatus::Failed;
        report.note = Some(why.clone());
        runs.push(report);
        return Ok(Err(why));
    }
    let rate = report.mib_per_s.unwrap_or(0.0);
    runs.push(report);
    Ok(Ok(rate))
}
