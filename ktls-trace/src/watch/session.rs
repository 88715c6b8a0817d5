//! One run of the daemon, from looking at the kernel to the last event.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use ktls_trace_common::{counter, filter::Filter};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{
    clock, memory,
    poller::{Answer, Poller},
    process,
};
use crate::{
    correlate::{
        self, Correlator, Output,
        event::{self, Body, Event, Lost, Name, Started, Stopped},
    },
    export::{Lines, Written},
    kernel::{
        Facts, Plan, capabilities,
        modules::{self, Tls},
        namespaces::Which,
        netns,
        plan::{Choice, Hook, Observable, Probes},
        symbols::Symbols,
        without::Without,
    },
    observe::{
        Observation, SocketKey, What,
        recording::{KernelFacts, Recorder},
    },
    probe::{self, Armed, Attached, Probe, Stir},
    watch::{Control, Seen},
};

/// How often it is looked whether kernel TLS has appeared, what is recorded is written, and what the programs say is shown.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// How often losses are looked at if there is nothing else to do.
const QUIET_HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often the clocks are compared.
const CLOCK_EVERY: Duration = Duration::from_secs(10);
/// How long the hot hooks stay after the last stall has ended.
const ARMED_FOR: Duration = Duration::from_secs(10);

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
}

impl Options {
    /// Which hooks are attached, and when. A timer knows a socket's process only by the send hooks, and without
    /// the release hook `sock_diag` has to say whether bytes are still held: then all are needed.
    fn probes(&self) -> Probes {
        let needs_all = self.filter.tgid != 0 || self.without.sock_diag;
        if self.probes == Probes::Auto && needs_all {
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

/// How the kernel is observed now.
enum Mode {
    /// With hooks.
    Hooks(Box<Hooks>),
    /// Not yet: the hooks wait for kernel TLS.
    WaitingForTls,
    /// By asking `sock_diag` only, for this reason.
    Polling(String),
}

/// The hooks at work.
struct Hooks {
    /// The programs.
    probe: Probe,
    /// What is attached and what is not.
    attached: Attached,
    /// The functions, to read stacks by.
    symbols: Symbols,
    /// Sockets under suspicion: their address and generation in the kernel's table.
    suspects: HashMap<SocketKey, (u64, u64)>,
    /// Whether the hot hooks were ordered to be attached.
    armed: bool,
}

impl Hooks {
    /// Whether everything that an observation takes is attached.
    fn serve(&self, choice: &Choice) -> bool {
        let attached = |hook: &Hook| self.attached.hooks.contains(hook);
        !choice.hooks.is_empty() && choice.hooks.iter().all(attached)
    }

    /// Whether that is so, or will be as soon as there is a stall.
    fn would_serve(&self, choice: &Choice, probes: Probes) -> bool {
        let failed = |hook: &Hook| self.attached.failed.iter().any(|(other, _)| other == hook);
        let waits = |hook: &Hook| probes == Probes::Auto && hook.hot && !failed(hook);
        let would = |hook: &Hook| self.attached.hooks.contains(hook) || waits(hook);
        !choice.hooks.is_empty() && choice.hooks.iter().all(would)
    }
}

/// Everything a run works with.
struct Session<'a> {
    /// Who else listens, who ends it, and who records.
    control: Control<'a>,
    /// What it goes by.
    options: Options,
    /// How it sees.
    mode: Mode,
    /// What the kernel offers.
    plan: Plan,
    /// Joins what is seen.
    correlator: Correlator,
    /// Asks `sock_diag`.
    poller: Poller,
    /// Where events go.
    lines: Lines,
    /// Sockets whose process was looked up.
    named: HashSet<(SocketKey, u32)>,
    /// Losses told so far.
    lost: BTreeMap<&'static str, u64>,
    /// Questions to `sock_diag` that failed and were not told yet.
    unanswered: u64,
    /// The reader of the output is gone.
    reader_gone: bool,
    /// Episodes that are open.
    open: u64,
    /// When the last one was closed.
    calm_since: Instant,
}

/// Observes until stopped, writes what it finds to `lines`, and records what led to it if that is
/// wanted. `ready` is called once with a line that says how the kernel is observed.
///
/// # Errors
///
/// If nothing can be observed at all.
pub async fn run(
    options: Options,
    lines: Lines,
    recorder: Option<Recorder>,
    ready: impl FnOnce(&str),
) -> Result<(), Error> {
    let facts = if options.no_bpf {
        Facts::without_hooks()
    } else {
        Facts::gather_from(&options.btf, &options.without)
    };
    let control = Control {
        recorder,
        ..Control::default()
    };
    run_within(facts, options, lines, control, ready).await
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
    lines: Lines,
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
        options,
        mode,
        plan,
        poller,
        lines,
        named: HashSet::new(),
        lost: BTreeMap::new(),
        unanswered: 0,
        reader_gone: false,
        open: 0,
        calm_since: Instant::now(),
    };
    session.note_clock();
    session.tell_start(&facts.release);
    if !session.poller.asks() {
        // Only the release hook tells whether bytes are still held.
        session.arm(true);
    }
    session.tell_correlator_of_hooks();
    // Of the sockets that are there already, sock_diag can't tell who is asked for.
    let all = session.options.filter.uts == 0;
    if all && matches!(session.mode, Mode::Hooks(_)) {
        session.poller.dump_once();
    }
    ready(&session.ready_line());
    drop(facts);
    memory::give_back();
    session.watch(&mut signals).await;
    session.stop();
    Ok(())
}

/// Starts to ask `sock_diag`, unless that is to be done without.
fn start_poller(options: &Options, mode: &Mode) -> Result<Poller, String> {
    if options.without.sock_diag {
        return Err("not wanted (--without sock_diag)".to_owned());
    }
    Poller::start(options, matches!(mode, Mode::Polling(_))).map_err(|error| error.to_string())
}

/// Chooses how to observe, and attaches.
fn observe_how(options: &Options, facts: &Facts, plan: &Plan) -> Mode {
    if options.no_bpf {
        return Mode::Polling("hooks are not wanted (--no-bpf)".to_owned());
    }
    if let Some(obstacle) = &plan.obstacle {
        return Mode::Polling(obstacle.to_string());
    }
    if facts.tls == Tls::NotLoaded {
        return Mode::WaitingForTls;
    }
    match attach(options, facts, plan) {
        Ok(hooks) => Mode::Hooks(Box::new(hooks)),
        Err(error) => Mode::Polling(match capabilities::missing() {
            missing if missing.is_empty() => error.to_string(),
            missing => format!("{error} (missing {})", missing.join(", ")),
        }),
    }
}

/// Loads the programs and attaches them.
fn attach(options: &Options, facts: &Facts, plan: &Plan) -> Result<Hooks, probe::Error> {
    let layout = facts
        .layout
        .as_ref()
        .map_or(ktls_trace_common::layout::Layout::ABSENT, |resolved| {
            resolved.layout
        });
    let probe_options = probe::Options {
        layout,
        filter: options.filter,
        probes: options.probes(),
        log: options.programs_log,
    };
    let (probe, attached) = Probe::load(&plan.hooks(), &probe_options)?;
    for (hook, error) in &attached.failed {
        tracing::warn!("{} can't be hooked: {error}", hook.symbol);
    }
    let symbols = facts.symbols.clone().unwrap_or_default();
    Ok(Hooks {
        probe,
        attached,
        symbols,
        suspects: HashMap::new(),
        armed: false,
    })
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
        while !self.reader_gone {
            let deadline = self.correlator.next_deadline_ns().map(instant_of);
            tokio::select! {
                _ = signals.interrupt.recv() => break,
                _ = signals.terminate.recv() => break,
                () = self.control.stop.notified() => break,
                _ = signals.hangup.recv() => self.reopen(),
                () = at(end) => break,
                () = at(deadline) => {
                    // What the hooks saw before comes first: it may have settled what is due.
                    self.drain();
                    self.observe(What::Tick);
                }
                stir = stirs(&mut self.mode) => match stir {
                    Stir::Records => self.drain(),
                    Stir::Armed(armed) => {
                        self.drain();
                        self.armed(armed);
                    }
                    Stir::Trouble(why) => tracing::error!("{why}"),
                },
                answer = self.poller.answer() => {
                    self.drain();
                    self.answered(answer);
                }
                () = sleep_until(housekeeping) => {
                    if clock <= housekeeping {
                        self.note_clock();
                        clock = housekeeping + CLOCK_EVERY;
                    }
                    self.keep_house();
                    housekeeping = Instant::now() + self.housekeeping_period();
                }
            }
        }
    }

    /// Hands an observation of this moment to the correlator.
    fn observe(&mut self, what: What) {
        self.take(&Observation {
            at_ns: clock::monotonic_ns(),
            what,
        });
    }

    /// Hands an observation to the correlator and does what follows.
    fn take(&mut self, observation: &Observation) {
        if let Some(recorder) = &mut self.control.recorder {
            recorder.observed(observation);
        }
        for output in self.correlator.observe(observation) {
            self.act(output);
        }
        (self.control.listen)(Seen::Observation(observation));
    }

    /// Does what the correlator wants.
    fn act(&mut self, output: Output) {
        match output {
            Output::Event(event) => {
                self.write(&event);
                self.count_open(event.event);
            }
            Output::Poll(poll) => self.poller.ask(poll),
            Output::Forget(key) => {
                self.named.retain(|&(named, _)| named != key);
                if let Mode::Hooks(hooks) = &mut self.mode
                    && let Some((sk, generation)) = hooks.suspects.remove(&key)
                {
                    hooks.probe.suspects.clear(sk, generation);
                }
            }
        }
    }

    /// Has the hot hooks attached when the first stall is opened.
    fn count_open(&mut self, name: Name) {
        match name {
            Name::StallOpened => self.open += 1,
            Name::StallClosed => {
                self.open = self.open.saturating_sub(1);
                self.calm_since = Instant::now();
            }
            _ => return,
        }
        if self.open > 0 {
            self.arm(true);
        }
    }

    /// Orders the hot hooks to be attached, or taken away, if that is left to the daemon.
    fn arm(&mut self, wanted: bool) {
        if self.options.probes() == Probes::Auto
            && let Mode::Hooks(hooks) = &mut self.mode
            && hooks.armed != wanted
        {
            hooks.armed = wanted;
            hooks.probe.arm(wanted);
        }
    }

    /// Tells what became of such an order.
    fn armed(&mut self, armed: Armed) {
        let Mode::Hooks(hooks) = &mut self.mode else {
            return;
        };
        let Armed {
            wanted,
            hooks: hot,
            failed,
            took,
        } = armed;
        for (hook, error) in failed {
            tracing::warn!("{hook} can't be hooked: {error}");
            let known = &mut hooks.attached.failed;
            if !known.iter().any(|(other, _)| *other == hook) {
                known.push((hook, error));
            }
        }
        hooks.attached.hooks.retain(|hook| !hook.hot);
        hooks.attached.hooks.extend(hot);
        let took = took.as_millis();
        let reason = if wanted && self.poller.asks() {
            format!("a stall was opened; attaching took {took} ms")
        } else if wanted {
            format!("sock_diag can't be asked; attaching took {took} ms")
        } else {
            let calm = ARMED_FOR.as_secs();
            format!("no stall for {calm} s; detaching took {took} ms")
        };
        self.tell_correlator_of_hooks();
        self.tell_probes(reason);
    }

    /// Takes everything that waits in the ring buffer.
    fn drain(&mut self) {
        loop {
            let Mode::Hooks(hooks) = &mut self.mode else {
                return;
            };
            let decoded = match hooks.probe.ring.get_mut().next() {
                Some(record) => probe::decode(&record, &hooks.symbols),
                None => return,
            };
            let Some(decoded) = decoded else { continue };
            let observation = decoded.observation;
            let key = SocketKey(decoded.generation);
            if observation.what.makes_suspect() {
                hooks.suspects.insert(key, (decoded.sk, decoded.generation));
            }
            let pid = match &observation.what {
                What::Refused { process, .. } => Some(process.pid),
                What::PersistFired { hold, .. } | What::RetransmitTimeout { hold, .. } => {
                    hold.writer_pid
                }
                _ => None,
            };
            self.take(&observation);
            if let Some(pid) = pid {
                self.name(key, pid, observation.at_ns);
            }
        }
    }

    /// Looks up a process once for a socket. It is named at the moment it was seen: a later one would
    /// run ahead of what still waits in the ring buffer.
    fn name(&mut self, key: SocketKey, pid: u32, at_ns: u64) {
        if self.named.insert((key, pid)) {
            let (comm, exe, cgroup) = (process::comm(pid), process::exe(pid), process::cgroup(pid));
            let what = What::ProcessNamed {
                key,
                pid,
                comm,
                exe,
                cgroup,
            };
            self.take(&Observation { at_ns, what });
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
                tracing::debug!("sock_diag: {error}");
                self.unanswered += 1;
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
    fn keep_house(&mut self) {
        self.tend_recording();
        if self.unanswered > 0 {
            let count = std::mem::take(&mut self.unanswered);
            self.tell_lost("sock-diag", count);
        }
        match &mut self.mode {
            Mode::Hooks(hooks) => {
                if let Some(log) = &mut hooks.probe.log {
                    log.get_mut().flush();
                }
                for (place, total) in hooks.probe.lost() {
                    let told = self.lost.get(place).copied().unwrap_or(0);
                    if total > told {
                        self.tell_lost(place, total - told);
                    }
                }
                let calm = self.open == 0 && self.calm_since.elapsed() >= ARMED_FOR;
                if calm && self.poller.asks() {
                    self.arm(false);
                }
            }
            Mode::WaitingForTls if modules::tls_is_loaded() => self.tls_appeared(),
            Mode::WaitingForTls | Mode::Polling(_) => {}
        }
    }

    /// Has what was recorded written, and tells if that does not go on.
    fn tend_recording(&mut self) {
        if let Some(trouble) = self.control.recorder.as_mut().and_then(Recorder::tend) {
            tracing::error!("{}", trouble.why);
            self.tell_lost("recording", trouble.missed);
        }
    }

    /// Attaches, now that kernel TLS is there.
    fn tls_appeared(&mut self) {
        let facts = Facts::gather_from(&self.options.btf, &self.options.without);
        self.plan = Plan::new(&facts, &self.options.without.functions);
        self.mode = observe_how(&self.options, &facts, &self.plan);
        if let Some(recorder) = &mut self.control.recorder {
            recorder.kernel(KernelFacts::new(&facts, &self.plan));
        }
        let reason = match &self.mode {
            Mode::Hooks(_) | Mode::WaitingForTls => "kernel TLS was loaded".to_owned(),
            Mode::Polling(why) => {
                self.poller.dump_from_now_on();
                format!("kernel TLS was loaded, but hooks can't be used: {why}")
            }
        };
        self.tell_correlator_of_hooks();
        self.tell_probes(reason);
    }

    /// Tells that other hooks are attached than before.
    fn tell_probes(&mut self, reason: String) {
        let body = event::Probes {
            reason,
            hooks: self.hooks(),
            cannot_see: self.cannot_see(),
        };
        self.tell(Name::ProbesChanged, Body::Probes(body));
    }

    /// Tells the correlator what the hooks can see.
    fn tell_correlator_of_hooks(&mut self) {
        if let Mode::Hooks(hooks) = &self.mode {
            let release = |choice: &&Choice| choice.observable == Observable::Release;
            let choice = self.plan.choices.iter().find(release);
            let see_releases = choice.is_some_and(|choice| hooks.serve(choice));
            self.observe(What::Hooks { see_releases });
        }
    }

    /// Opens the output anew (SIGHUP).
    fn reopen(&mut self) {
        if let Err(error) = self.lines.reopen() {
            tracing::error!("{error}; going on with the old file");
        }
    }

    /// Closes every episode and says goodbye.
    fn stop(&mut self) {
        if matches!(self.mode, Mode::Hooks(_)) {
            self.drain();
            self.keep_house();
        }
        let at_ns = clock::monotonic_ns();
        if let Some(recorder) = &mut self.control.recorder {
            recorder.finished(at_ns);
        }
        for output in self.correlator.finish(at_ns) {
            self.act(output);
        }
        self.tend_recording();
        let counter = |slot| match &self.mode {
            Mode::Hooks(hooks) => hooks.probe.counter(slot).ok(),
            Mode::WaitingForTls | Mode::Polling(_) => None,
        };
        // What the hot hooks counted is not all, unless they were always there.
        let all = self.options.probes() == Probes::Full;
        let sends = |slot| counter(slot).filter(|_| all);
        let mut lost: BTreeMap<String, u64> = self
            .lost
            .iter()
            .map(|(&place, &count)| (place.to_owned(), count))
            .collect();
        let counters: Vec<_> = (0..counter::SLOTS).map(counter).collect();
        if self.lines.lost() > 0 {
            lost.insert("output".to_owned(), self.lines.lost());
        }
        if let Some(missed) = self.control.recorder.as_ref().map(Recorder::missed)
            && missed > 0
        {
            lost.insert("recording".to_owned(), missed);
        }
        let stopped = Stopped {
            stalls: self.correlator.stalls(),
            refused: counter(counter::REFUSED),
            back_pressure: counter(counter::BACK_PRESSURE),
            records: sends(counter::RECORDS),
            records_with_msg_more: sends(counter::RECORDS_MORE),
            lost,
        };
        (self.control.listen)(Seen::Counters(&counters));
        self.tell(Name::Stopped, Body::Stopped(stopped));
        if let Some(why) = self.control.recorder.take().and_then(Recorder::close) {
            tracing::error!("{why}");
        }
    }

    /// Tells of losses.
    fn tell_lost(&mut self, place: &'static str, count: u64) {
        let total = self.lost.entry(place).or_insert(0);
        *total += count;
        let body = Lost {
            place: place.to_owned(),
            count,
            total: *total,
        };
        self.tell(Name::Lost, Body::Lost(body));
    }

    /// Tells how the run begins.
    fn tell_start(&mut self, release: &str) {
        let mode = match &self.mode {
            Mode::Hooks(_) => "hooks",
            Mode::WaitingForTls => "waiting-for-tls",
            Mode::Polling(_) => "polling",
        };
        let body = Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: release.to_owned(),
            mode: mode.to_owned(),
            probes: match &self.mode {
                Mode::Hooks(_) | Mode::WaitingForTls => {
                    Some(self.options.probes().name().to_owned())
                }
                Mode::Polling(_) => None,
            },
            threshold_ms: milliseconds(self.options.correlate.threshold_ns),
            poll_interval_ms: milliseconds(self.options.correlate.poll_interval_ns),
            hooks: self.hooks(),
            cannot_see: self.cannot_see(),
        };
        self.tell(Name::Started, Body::Started(body));
    }

    /// Writes an event of this moment.
    fn tell(&mut self, name: Name, body: Body) {
        let unix_ns = self.correlator.unix_ns(clock::monotonic_ns());
        if let Some(recorder) = &mut self.control.recorder {
            recorder.told(unix_ns, &body);
        }
        self.write(&Event::new(name, unix_ns, body));
    }

    /// Writes an event.
    fn write(&mut self, event: &Event) {
        (self.control.listen)(Seen::Event(event));
        match self.lines.write(event) {
            Written::Yes | Written::StillLost => {}
            Written::Lost(why) => {
                tracing::error!("{why}; events are lost until it works again");
            }
            Written::ReaderGone => self.reader_gone = true,
        }
    }

    /// The attached hooks, by name.
    fn hooks(&self) -> Vec<String> {
        let Mode::Hooks(hooks) = &self.mode else {
            return Vec::new();
        };
        hooks.attached.hooks.iter().map(Hook::to_string).collect()
    }

    /// What can't be seen, in words.
    fn cannot_see(&self) -> Vec<String> {
        match &self.mode {
            Mode::WaitingForTls => Vec::new(),
            Mode::Polling(why) => {
                let mut lines = vec![
                    format!("no hooks: {why}"),
                    "sock_diag alone can't see flags, corks or gates: a corked record is reported \
                     as unknown"
                        .to_owned(),
                ];
                if capabilities::missing().contains(&"CAP_NET_ADMIN") {
                    lines.push(
                        "without CAP_NET_ADMIN most kernels don't say which sockets use TLS: then \
                         none is looked at"
                            .to_owned(),
                    );
                }
                lines
            }
            Mode::Hooks(hooks) => {
                let lost = self
                    .plan
                    .choices
                    .iter()
                    .filter(|choice| !hooks.would_serve(choice, self.options.probes()));
                let mut lines: Vec<String> = lost
                    .map(|choice| format!("{}: {}", choice.observable, choice.loss()))
                    .collect();
                if !self.plan.missing.is_empty() {
                    let missing = self.plan.missing.join(", ");
                    lines.push(format!("this kernel's types lack {missing}"));
                }
                if !self.poller.asks() {
                    lines.push("sock_diag is not asked: no verdict is proven".to_owned());
                }
                lines
            }
        }
    }

    /// How the kernel is observed, with the word that others wait for.
    fn ready_line(&self) -> String {
        match &self.mode {
            Mode::Hooks(hooks) => {
                let attached = hooks.attached.hooks.len();
                match self.options.probes() {
                    Probes::Auto => {
                        let all = self.plan.hooks().len() - hooks.attached.failed.len();
                        let more = all - attached;
                        format!("watching ({attached} hooks, {more} more while there is a stall)")
                    }
                    Probes::Light | Probes::Full => format!("watching ({attached} hooks)"),
                }
            }
            Mode::WaitingForTls => {
                "watching (kernel TLS is not loaded; the hooks wait for it)".to_owned()
            }
            Mode::Polling(why) => format!("watching by asking sock_diag only: {why}"),
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

/// Waits until there is something to do about the programs; for ever if there are none.
async fn stirs(mode: &mut Mode) -> Stir {
    match mode {
        Mode::Hooks(hooks) => hooks.probe.stirs().await,
        Mode::WaitingForTls | Mode::Polling(_) => std::future::pending().await,
    }
}

/// Nanoseconds as milliseconds.
fn milliseconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1000.0
}
