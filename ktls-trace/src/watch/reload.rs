//! Other options while a run goes on (SIGHUP): files are opened anew, the options read again, and what may change without
//! losing an open episode changes.

use ktls_trace_common::filter::Filter;

use super::{hooks::Mode, service::Manager, session::Session};
use crate::{
    correlate::event::{self, Body, Name},
    kernel::{namespaces::Which, plan::Probes},
    observe::What,
};

/// What a run goes by anew.
#[derive(Clone, Debug)]
pub struct Reload {
    /// How long bytes may be held, in nanoseconds.
    pub threshold_ns: u64,
    /// How often `sock_diag` is asked about a suspect, in nanoseconds.
    pub poll_interval_ns: u64,
    /// What to look at.
    pub filter: Filter,
    /// In which network namespaces sockets that no hook has met are asked about.
    pub netns: Which,
    /// What that changes, in the words of the user.
    pub told: event::Reloaded,
}

impl Session<'_> {
    /// Opens files anew, and goes by what the options say now.
    pub(super) fn reload(&mut self) {
        if self.manager.is_some() {
            Manager::reloading();
        }
        self.exports.outlets.reopen();
        match (self.control.reread)(&mut self.exports) {
            Ok(None) => {}
            Ok(Some(reload)) => self.go_by(reload),
            Err(why) => tracing::error!("{why}; going on as before"),
        }
        self.tell_manager(Manager::ready);
    }

    /// Goes by other options. Sockets under suspicion stay under it, and what is due for them is due anew.
    fn go_by(&mut self, reload: Reload) {
        let Reload {
            threshold_ns,
            poll_interval_ns,
            filter,
            netns,
            told,
        } = reload;
        self.tell(Name::Reloaded, Body::Reloaded(told));
        let config = &mut self.options.correlate;
        if (config.threshold_ns, config.poll_interval_ns) != (threshold_ns, poll_interval_ns) {
            (config.threshold_ns, config.poll_interval_ns) = (threshold_ns, poll_interval_ns);
            // What came before is judged by what counted then.
            self.drain();
            self.observe(What::Intervals {
                threshold_ns,
                poll_interval_ns,
            });
        }
        self.options.filter = filter;
        self.options.netns = netns;
        if let Mode::Hooks(hooks) = &mut self.mode
            && let Err(error) = hooks.probe.look_at(filter)
        {
            tracing::error!("the programs go on looking at what they did: {error}");
        }
        self.poller.go_by(&self.options);
        if self.always_armed() {
            self.arm(true);
        }
    }

    /// Which hooks are attached, and when.
    pub(super) fn probes(&self) -> Probes {
        match &self.mode {
            Mode::Hooks(hooks) => hooks.probes,
            Mode::WaitingForTls | Mode::Polling(_) => self.options.probes(),
        }
    }
}
