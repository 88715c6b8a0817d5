//! How the kernel is observed: with hooks, which come and go, or by asking `sock_diag` alone.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::session::{Options, Session, losses_of};
use crate::{
    correlate::event::Name,
    kernel::{
        Facts, Plan, capabilities,
        modules::{self, Tls},
        plan::{Choice, Hook, Observable, Probes},
        symbols::Addresses,
    },
    observe::{SocketKey, What, recording::KernelFacts},
    probe::{self, Armed, Attached, Probe, Stir},
};

/// How long the hot hooks stay after the last stall has ended.
const ARMED_FOR: Duration = Duration::from_secs(10);

/// How the kernel is observed now.
pub(super) enum Mode {
    /// With hooks.
    Hooks(Box<Hooks>),
    /// Not yet: the hooks wait for kernel TLS.
    WaitingForTls,
    /// By asking `sock_diag` only, for this reason.
    Polling(String),
}

/// The hooks at work.
pub(super) struct Hooks {
    /// The programs.
    pub(super) probe: Probe,
    /// What is attached and what is not.
    pub(super) attached: Attached,
    /// The functions, to read stacks by.
    pub(super) addresses: Addresses,
    /// Sockets under suspicion: their address and generation in the kernel's table.
    pub(super) suspects: HashMap<SocketKey, (u64, u64)>,
    /// Whether kernel TLS is a module, and not built in.
    pub(super) of_module: bool,
    /// Whether the hot hooks were ordered to be attached.
    pub(super) armed: bool,
    /// Which hooks are attached, and when; a reload does not change it.
    pub(super) probes: Probes,
    /// What these programs have lost and was told, by place: others begin to count anew.
    pub(super) lost: HashMap<&'static str, u64>,
}

impl Hooks {
    /// Whether everything that an observation takes is attached.
    pub(super) fn serve(&self, choice: &Choice) -> bool {
        let attached = |hook: &Hook| self.attached.hooks.contains(hook);
        !choice.hooks.is_empty() && choice.hooks.iter().all(attached)
    }

    /// Whether that is so, or will be as soon as there is a stall.
    pub(super) fn would_serve(&self, choice: &Choice, probes: Probes) -> bool {
        let failed = |hook: &Hook| self.attached.failed.iter().any(|(other, _)| other == hook);
        let waits = |hook: &Hook| probes == Probes::Auto && hook.hot && !failed(hook);
        let would = |hook: &Hook| self.attached.hooks.contains(hook) || waits(hook);
        !choice.hooks.is_empty() && choice.hooks.iter().all(would)
    }
}

/// Chooses how to observe, and attaches.
pub(super) fn observe_how(options: &Options, facts: &Facts, plan: &Plan) -> Mode {
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
    let addresses = match &facts.symbols {
        Ok(symbols) if symbols.shows_addresses() => Addresses::known(symbols.clone()),
        _ => Addresses::of_running_kernel(),
    };
    let (probe, attached) = Probe::load(&plan.hooks(), &probe_options, addresses.clone())?;
    for (hook, error) in &attached.failed {
        tracing::warn!("{} can't be hooked: {error}", hook.symbol);
    }
    Ok(Hooks {
        probe,
        attached,
        addresses,
        suspects: HashMap::new(),
        of_module: modules::tls_is_loaded(),
        armed: false,
        probes: probe_options.probes,
        lost: HashMap::new(),
    })
}

/// Waits until there is something to do about the programs; for ever if there are none.
pub(super) async fn stirs(mode: &mut Mode) -> Stir {
    match mode {
        Mode::Hooks(hooks) => hooks.probe.stirs().await,
        Mode::WaitingForTls | Mode::Polling(_) => std::future::pending().await,
    }
}

/// Since when there is nothing for the hot hooks to do.
#[derive(Debug)]
pub(super) struct Calm {
    /// Episodes that are open.
    open: u64,
    /// When the last one was closed.
    since: Instant,
}

impl Default for Calm {
    fn default() -> Self {
        Self {
            open: 0,
            since: Instant::now(),
        }
    }
}

impl Calm {
    /// Episodes that are open.
    pub(super) fn open(&self) -> u64 {
        self.open
    }
}

impl Session<'_> {
    /// Has the hot hooks attached when the first stall is opened.
    pub(super) fn count_open(&mut self, name: Name) {
        match name {
            Name::StallOpened => self.calm.open += 1,
            Name::StallClosed => {
                self.calm.open = self.calm.open.saturating_sub(1);
                self.calm.since = Instant::now();
            }
            _ => return,
        }
        if self.calm.open > 0 {
            self.arm(true);
        }
    }

    /// Orders the hot hooks to be attached, or taken away, if that is left to the daemon.
    pub(super) fn arm(&mut self, wanted: bool) {
        if let Mode::Hooks(hooks) = &mut self.mode
            && hooks.probes == Probes::Auto
            && hooks.armed != wanted
        {
            hooks.armed = wanted;
            hooks.probe.arm(wanted);
        }
    }

    /// Tells what became of such an order.
    pub(super) fn armed(&mut self, armed: Armed) {
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
        let reason = if wanted && !self.poller.asks() {
            format!("sock_diag can't be asked; attaching took {took} ms")
        } else if wanted && self.options.needs_all() {
            format!("one process is looked at; attaching took {took} ms")
        } else if wanted {
            format!("a stall was opened; attaching took {took} ms")
        } else {
            let calm = ARMED_FOR.as_secs();
            format!("no stall for {calm} s; detaching took {took} ms")
        };
        self.tell_correlator_of_hooks();
        self.tell_probes(reason);
    }

    /// Takes the hot hooks away if there has been nothing for them to do for long enough.
    pub(super) fn disarm_when_calm(&mut self) {
        let calm = self.calm.open == 0 && self.calm.since.elapsed() >= ARMED_FOR;
        if calm && !self.always_armed() {
            self.arm(false);
        }
    }

    /// Whether there is always something for them to do. Without `sock_diag`, only the release hook tells whether bytes
    /// are still held.
    pub(super) fn always_armed(&self) -> bool {
        !self.poller.asks() || self.options.needs_all()
    }

    /// What follows from how the kernel is observed from now on.
    pub(super) fn begin(&mut self) {
        if self.always_armed() {
            self.arm(true);
        }
        self.tell_correlator_of_hooks();
        // Of the sockets that are there already, sock_diag can't tell who is asked for.
        if self.options.filter.uts == 0 && matches!(self.mode, Mode::Hooks(_)) {
            self.poller.dump_once();
        }
    }

    /// Goes back to waiting if the module was unloaded. A kprobe does not keep it, and that on a function of the module that is loaded
    /// anew would never be met again.
    pub(super) fn wait_if_tls_is_gone(&mut self) {
        let gone = |hooks: &Hooks| hooks.of_module && !modules::tls_is_loaded();
        if matches!(&self.mode, Mode::Hooks(hooks) if gone(hooks)) {
            self.drain();
            self.mode = Mode::WaitingForTls;
            self.tell_probes("kernel TLS was unloaded".to_owned());
        }
    }

    /// Attaches, now that kernel TLS is there.
    pub(super) fn tls_appeared(&mut self) {
        let facts = Facts::for_hooks(&self.options.btf, &self.options.without);
        self.plan = Plan::new(&facts, &self.options.without.functions);
        self.mode = observe_how(&self.options, &facts, &self.plan);
        self.losses = losses_of(&self.options, &self.mode);
        self.give_up_capabilities();
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
        self.begin();
        self.tell_probes(reason);
    }

    /// Gives up the capabilities that have done their work, unless hooks are still to be attached by this thread.
    pub(super) fn give_up_capabilities(&self) {
        if self.options.gives_up_capabilities && !matches!(self.mode, Mode::WaitingForTls) {
            capabilities::keep_only(&capabilities::OF_A_RUN);
        }
    }

    /// Tells the correlator what the hooks can see.
    pub(super) fn tell_correlator_of_hooks(&mut self) {
        if let Mode::Hooks(hooks) = &self.mode {
            let release = |choice: &&Choice| choice.observable == Observable::Release;
            let choice = self.plan.choices.iter().find(release);
            let see_releases = choice.is_some_and(|choice| hooks.serve(choice));
            self.observe(What::Hooks { see_releases });
        }
    }
}
