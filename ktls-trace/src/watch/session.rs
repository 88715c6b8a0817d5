//! One run of the daemon, from looking at the kernel to the last event.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::Duration,
};

use ktls_trace_common::filter::Filter;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{
    clock,
    hooks::{Calm, Mode, observe_how, stirs},
    poller::{Answer, Poller},
    ring::Pace,
    service::Manager,
};
use crate::{
    correlate::{self, Correlator, Output},
    export::{Exports, Report, Wish},
    kernel::{
        Facts, Plan, capabilities, modules, namespaces::Which, netns, plan::Probes,
        symbols::addresses_are_shown, without::Without,
    },
    memory,
    observe::{
        Observation, SocketKey, What,
        recording::{KernelFacts, Recorder},
    },
    probe::Stir,
    watch::{Control, Reread, Seen},
};

/// How often it is looked whether kernel TLS has appeared, what is recorded is written, and what the programs say is shown.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// How often losses are looked at if there is nothing else to do.
const QUIET_HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often the clocks are compared.
const CLOCK_EVERY: Duration = Duration::from_secs(10);

/// What a run goes by.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threshold and intervals.
    pub correlate: correlate::Config,
    /// What to look at.
    pub filter: Filter,
    /// In which network namespaces sockets that no hook has met are asked about.
    pub netns: Which,
    /// Ask `sock_diag` only.
    pub no_bpf: bool,
    /// Which hooks are attached, and when.
    pub probes: Probes,
    /// What to do without.
    pub without: Without,
    /// Folder of the kernel's BTF.
    pub btf: PathBuf,
    /// End after this long.
    pub duration: Option<Duration>,
    /// Whether the programs' own diagnostics are wanted.
    pub programs_log: bool,
    /// Whether the calling thread may lose what capabilities are not needed any more, once hooks are attached.
    pub gives_up_capabilities: bool,
}

impl Options {
    /// Whether the hot hooks are needed all the time: a timer knows a socket's process only by the send hooks, and
    /// without the release hook `sock_diag` has to say whether bytes are still held.
    pub(super) fn needs_all(&self) -> bool {
        self.filter.tgid != 0 || self.without.sock_diag
    }

    /// Which hooks are attached, and when, if they are attached now.
    pub(super) fn probes(&self) -> Probes {
        if self.probes == Probes::Auto && self.needs_all() {
            Probes::Full
        } else {
            self.probes
        }
    }
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Signals can't be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    /// Neither hooks nor `sock_diag` can be used.
    #[error("nothing can be observed: {hooks}; and sock_diag: {sock_diag}")]
    Nothing {
        /// Why there are no hooks.
        hooks: String,
        /// Why there is no `sock_diag`.
        sock_diag: String,
    },
}

/// Everything a run works with.
pub(super) struct Session<'a> {
    /// Who else listens, who ends it, and who records.
    pub(super) control: Control<'a>,
    /// What it goes by.
    pub(super) options: Options,
    /// How it sees.
    pub(super) mode: Mode,
    /// What missing capabilities cost, a line each, as it was before some were given up.
    pub(super) losses: Vec<String>,
    /// What the kernel offers.
    pub(super) plan: Plan,
    /// Joins what is seen.
    pub(super) correlator: Correlator,
    /// Asks `sock_diag`.
    pub(super) poller: Poller,
    /// Where events go.
    pub(super) exports: Exports,
    /// Processes that were looked up, by socket.
    pub(super) named: HashMap<SocketKey, Vec<u32>>,
    /// Losses told so far.
    pub(super) lost: BTreeMap<&'static str, u64>,
    /// Questions to `sock_diag` that failed and were not told yet.
    pub(super) unanswered: u64,
    /// Why one failed, as it was said last.
    unanswered_why: Option<String>,
    /// The reader of the output is gone.
    pub(super) reader_gone: bool,
    /// Sockets that the correlator has forgotten and the programs have not.
    pub(super) forgotten: Vec<SocketKey>,
    /// Since when there is nothing for the hot hooks to do.
    pub(super) calm: Calm,
    /// Up to which moment the ring buffer was read, if more waits in it: time must not run ahead of what was seen.
    pub(super) behind_ns: Option<u64>,
    /// Who started it as a service, if somebody did.
    pub(super) manager: Option<Manager>,
}

/// Observes until stopped, tells what it finds to `exports`, and records what led to it if that is
/// wanted. On SIGHUP `reread` says what to go by from then on. `ready` is called once with a line that says how the
/// kernel is observed.
///
/// # Errors
///
/// If nothing can be observed at all.
pub async fn run(
    options: Options,
    exports: Exports,
    recorder: Option<Recorder>,
    reread: Reread<'_>,
    ready: impl FnOnce(&str),
) -> Result<(), Error> {
    let facts = if options.no_bpf {
        Facts::without_hooks()
    } else {
        Facts::for_hooks(&options.btf, &options.without)
    };
    let control = Control {
        recorder,
        reread,
        ..Control::default()
    };
    run_within(facts, options, exports, control, ready).await
}

/// As [`run`], for a caller in the same process, who has looked at the kernel already, listens to
/// what is seen and ends it.
///
/// # Errors
///
/// If nothing can be observed at all.
pub async fn run_within(
    facts: Facts,
    options: Options,
    exports: Exports,
    mut control: Control<'_>,
    ready: impl FnOnce(&str),
) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let plan = Plan::new(&facts, &options.without.functions);
    let mode = observe_how(&options, &facts, &plan);
    let mut config = options.correlate;
    config.asks_unhooked = !matches!(mode, Mode::Polling(_));
    config.own_netns = netns::own();
    let poller = match (start_poller(&options, &mode), &mode) {
        (Ok(poller), _) => poller,
        (Err(sock_diag), Mode::Polling(hooks)) => {
            return Err(Error::Nothing {
                hooks: hooks.clone(),
                sock_diag,
            });
        }
        (Err(error), _) => {
            tracing::warn!("sock_diag can't be asked, verdicts stay consistent at most: {error}");
            Poller::none()
        }
    };
    if let Some(recorder) = &mut control.recorder {
        recorder.begin(config, KernelFacts::new(&facts, &plan));
    }
    let mut session = Session {
        control,
        correlator: Correlator::new(config),
        losses: losses_of(&options, &mode),
        options,
        mode,
        plan,
        poller,
        exports,
        named: HashMap::new(),
        lost: BTreeMap::new(),
        unanswered: 0,
        unanswered_why: None,
        reader_gone: false,
        forgotten: Vec::new(),
        calm: Calm::default(),
        behind_ns: None,
        manager: Manager::find(),
    };
    session.note_clock();
    session.tell_start(&facts.release);
    session.begin();
    session.give_up_capabilities();
    ready(&session.ready_line());
    session.tell_manager(Manager::ready);
    drop(facts);
    memory::give_back();
    session.watch(&mut signals).await;
    session.stop();
    Ok(())
}

/// What missing capabilities cost.
pub(super) fn losses_of(options: &Options, mode: &Mode) -> Vec<String> {
    let hides_addresses = !matches!(mode, Mode::Polling(_)) && !addresses_are_shown();
    let failed = match mode {
        Mode::Hooks(hooks) => !hooks.attached.failed.is_empty(),
        Mode::WaitingForTls => false,
        Mode::Polling(_) => !options.no_bpf,
    };
    capabilities::losses(options.netns != Which::Own, hides_addresses, failed)
}

/// Starts to ask `sock_diag`, unless that is to be done without.
fn start_poller(options: &Options, mode: &Mode) -> Result<Poller, String> {
    if options.without.sock_diag {
        return Err("not wanted (--without sock_diag)".to_owned());
    }
    Poller::start(options, matches!(mode, Mode::Polling(_))).map_err(|error| error.to_string())
}

/// The signals that a run listens to.
struct Signals {
    /// SIGINT.
    interrupt: Signal,
    /// SIGTERM.
    terminate: Signal,
    /// SIGHUP.
    hangup: Signal,
}

impl Signals {
    /// Begins to listen.
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl Session<'_> {
    /// Observes until a signal, the end of the time or of the output.
    async fn watch(&mut self, signals: &mut Signals) {
        let end = self
            .options
            .duration
            .map(|duration| Instant::now() + duration);
        let mut housekeeping = Instant::now();
        let mut clock = housekeeping + CLOCK_EVERY;
        let mut pace = Pace::default();
        while !self.reader_gone {
            let deadline = self.correlator.next_deadline_ns().map(instant_of);
            let deadline = deadline.map(|due| pace.pause_until.map_or(due, |until| due.max(until)));
            tokio::select! {
                _ = signals.interrupt.recv() => break,
                _ = signals.terminate.recv() => break,
                () = self.control.stop.notified() => break,
                _ = signals.hangup.recv() => self.reload(),
                () = at(end) => break,
                () = at(deadline) => {
                    // What the hooks saw before comes first: it may have settled what is due.
                    self.drain();
                    self.observe(What::Tick);
                }
                () = at(pace.pause_until), if pace.pause_until.is_some() => pace.pause_until = None,
                stir = stirs(&mut self.mode), if pace.pause_until.is_none() => match stir {
                    Stir::Records => {
                        self.drain();
                        pace.has_read(Instant::now());
                    }
                    Stir::Armed(armed) => {
                        self.drain();
                        self.armed(armed);
                    }
                    Stir::Trouble(why) => tracing::error!("{why}"),
                },
                // An answer describes this moment.
                answer = self.poller.answer(), if self.behind_ns.is_none() => {
                    self.drain();
                    self.answered(answer);
                }
                // Not at once: signals, timers and tasks have their turn only when the runtime has.
                () = tokio::task::yield_now(), if self.behind_ns.is_some() => self.drain(),
                wish = self.exports.wish() => self.grant(wish),
                () = sleep_until(housekeeping) => {
                    if clock <= housekeeping && self.behind_ns.is_none() {
                        self.note_clock();
                        clock = housekeeping + CLOCK_EVERY;
                    }
                    self.keep_house();
                    housekeeping = Instant::now() + self.housekeeping_period();
                }
            }
        }
    }

    /// Hands an observation of this moment to the correlator, or of the one up to which was seen what happened.
    pub(super) fn observe(&mut self, what: What) {
        self.take(&Observation {
            at_ns: self.behind_ns.unwrap_or_else(clock::monotonic_ns),
            what,
        });
    }

    /// Hands an observation to the correlator and does what follows.
    pub(super) fn take(&mut self, observation: &Observation) {
        if let Some(recorder) = &mut self.control.recorder {
            recorder.observed(observation);
        }
        for output in self.correlator.observe(observation) {
            self.act(output);
        }
        (self.control.listen)(Seen::Observation(observation));
    }

    /// Does what the correlator wants.
    pub(super) fn act(&mut self, output: Output) {
        match output {
            Output::Event(event) => {
                self.write(&event);
                self.count_open(event.event);
            }
            Output::HoldEnded(hold) => self.exports.hold_ended(&hold),
            Output::Poll(poll) => self.poller.ask(poll),
            Output::FindOwner { key, inode } => self.poller.find_owner(key, inode),
            Output::Forget(key) => {
                self.named.remove(&key);
                self.forgotten.push(key);
                self.clear_forgotten();
            }
        }
    }

    /// Takes an answer of `sock_diag`.
    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Sampled {
                key,
                asked_ns,
                at_ns,
                sample,
            } => {
                self.take(&Observation {
                    at_ns,
                    what: What::Sampled {
                        key,
                        asked_ns,
                        sample,
                    },
                });
            }
            Answer::Failed(error) => {
                // Not each time: it is asked many times a second.
                if self.unanswered_why.as_ref() != Some(&error) {
                    tracing::warn!("sock_diag: {error}");
                    self.unanswered_why = Some(error);
                }
                self.unanswered += 1;
            }
            Answer::Owners(owners) => {
                let at_ns = clock::monotonic_ns();
                for (key, pid) in owners {
                    if self.correlator.is_watched(key) {
                        self.name(key, pid, at_ns);
                    }
                }
            }
            Answer::NotAsked => {}
        }
    }

    /// Tells the correlator what time it is.
    fn note_clock(&mut self) {
        self.observe(What::Clock {
            unix_ns: clock::unix_ns(),
        });
    }

    /// How long until the house is kept again: the less there is to do, the longer it sleeps.
    fn housekeeping_period(&self) -> Duration {
        let quiet = match &self.mode {
            Mode::Hooks(hooks) => hooks.probe.log.is_none(),
            Mode::Polling(_) => true,
            Mode::WaitingForTls => false,
        };
        if quiet && self.control.recorder.is_none() {
            QUIET_HOUSEKEEPING
        } else {
            HOUSEKEEPING
        }
    }

    /// Looks for losses, and for kernel TLS if the hooks wait for it.
    pub(super) fn keep_house(&mut self) {
        self.tell_manager(Manager::alive);
        self.tend_recording();
        if let Mode::Hooks(hooks) = &self.mode
            && hooks.probe.deaf
        {
            self.drain();
        }
        if self.unanswered > 0 {
            let count = std::mem::take(&mut self.unanswered);
            self.tell_lost("sock-diag", count);
        }
        match &mut self.mode {
            Mode::Hooks(hooks) => {
                if let Some(log) = &mut hooks.probe.log {
                    log.get_mut().flush();
                }
                let mut fresh = Vec::new();
                for (place, total) in hooks.probe.lost() {
                    let told = hooks.lost.insert(place, total).unwrap_or(0);
                    fresh.push((place, total.saturating_sub(told)));
                }
                for (place, count) in fresh {
                    if count > 0 {
                        self.tell_lost(place, count);
                    }
                }
                self.disarm_when_calm();
                self.wait_if_tls_is_gone();
            }
            Mode::WaitingForTls if modules::tls_is_loaded() => self.tls_appeared(),
            Mode::WaitingForTls | Mode::Polling(_) => {}
        }
    }

    /// Has what was recorded written, and tells if that does not go on.
    pub(super) fn tend_recording(&mut self) {
        if let Some(trouble) = self.control.recorder.as_mut().and_then(Recorder::tend) {
            tracing::error!("{}", trouble.why);
            self.tell_lost("recording", trouble.missed);
        }
    }

    /// Does what exports want.
    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Report(Report::Trouble(why)) => tracing::error!("{why}"),
            Wish::Report(Report::Again(what)) => tracing::warn!("{what}"),
            // Nobody reads the output any more: then nobody wants the run.
            Wish::Report(Report::ReaderGone(_)) => self.reader_gone = true,
            Wish::Asked(asked) => {
                // Whoever asked may have gone.
                let _gone = asked.send(self.answer());
            }
        }
    }
}

/// A moment of `CLOCK_MONOTONIC` as tokio's.
fn instant_of(at_ns: u64) -> Instant {
    Instant::now() + Duration::from_nanos(at_ns.saturating_sub(clock::monotonic_ns()))
}

/// Waits for a moment, or for ever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
