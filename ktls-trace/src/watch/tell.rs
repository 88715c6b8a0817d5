//! What a run tells of itself, and how it is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ktls_trace_common::counter;
use tokio::sync::oneshot;

use super::{clock, hooks::Mode, service::Manager, session::Session};
use crate::{
    correlate::event::{self, Body, Event, Lost, Name, Started, Stopped},
    export::{
        Answer, Report,
        metrics::{Health, Live},
    },
    kernel::plan::{Choice, Hook, Observable, Probes},
    observe::recording::Recorder,
    watch::Seen,
};

/// How long the end of a run may take for what still waits in the ring buffer.
const LAST_LOOK: Duration = Duration::from_millis(200);

impl Session<'_> {
    /// Tells that other hooks are attached than before.
    pub(super) fn tell_probes(&mut self, reason: String) {
        let body = event::Probes {
            reason,
            hooks: self.hooks(),
            cannot_see: self.cannot_see(),
        };
        self.tell(Name::ProbesChanged, Body::Probes(body));
    }

    /// Closes every episode and says goodbye.
    pub(super) fn stop(&mut self) {
        if let Some(manager) = &mut self.manager {
            manager.stopping();
        }
        if matches!(self.mode, Mode::Hooks(_)) {
            let begun = Instant::now();
            self.drain();
            while self.behind_ns.is_some() && begun.elapsed() < LAST_LOOK {
                self.drain();
            }
            if self.behind_ns.take().is_some() {
                tracing::warn!(
                    "the ring buffer fills faster than it is read: its last records are not looked at"
                );
            }
            self.keep_house();
        }
        let at_ns = clock::monotonic_ns();
        if let Some(recorder) = &mut self.control.recorder {
            recorder.finished(at_ns);
        }
        let Answer { live, .. } = self.answer();
        self.exports.patient(live);
        for output in self.correlator.finish(at_ns) {
            self.act(output);
        }
        self.tend_recording();
        // What is lost on the way is known once everything is written.
        self.exports.outlets.flush();
        let counters = self.counters();
        let counter = |slot| self.counter(slot);
        // What the hot hooks counted is not all, unless they were always there.
        let all = self.probes() == Probes::Full;
        let sends = |slot| counter(slot).filter(|_| all);
        let stopped = Stopped {
            stalls: self.correlator.stalls(),
            refused: counter(counter::REFUSED),
            back_pressure: counter(counter::BACK_PRESSURE),
            records: sends(counter::RECORDS),
            records_with_msg_more: sends(counter::RECORDS_MORE),
            lost: self.all_lost(),
        };
        (self.control.listen)(Seen::Counters(&counters));
        self.tell(Name::Stopped, Body::Stopped(stopped));
        if let Some(why) = self.control.recorder.take().and_then(Recorder::close) {
            tracing::error!("{why}");
        }
        for report in std::mem::take(&mut self.exports.outlets).end() {
            match report {
                Report::Trouble(why) => tracing::error!("{why}"),
                Report::Again(what) => tracing::warn!("{what}"),
                Report::ReaderGone(_) => {}
            }
        }
    }

    /// Tells of losses.
    pub(super) fn tell_lost(&mut self, place: &'static str, count: u64) {
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
    pub(super) fn tell_start(&mut self, release: &str) {
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
                Mode::Hooks(_) | Mode::WaitingForTls => Some(self.probes().name().to_owned()),
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
    pub(super) fn tell(&mut self, name: Name, body: Body) {
        let unix_ns = self.correlator.unix_ns(clock::monotonic_ns());
        if let Some(recorder) = &mut self.control.recorder {
            recorder.told(unix_ns, &body);
        }
        self.write(&Event::new(name, unix_ns, body));
    }

    /// Writes an event.
    pub(super) fn write(&mut self, event: &Event) {
        (self.control.listen)(Seen::Event(event));
        self.exports.write(event);
    }

    /// How the run is now.
    pub(super) fn answer(&self) -> Answer {
        let cannot_see = self.cannot_see();
        let health = match &self.mode {
            Mode::WaitingForTls => Health::WaitingForTls,
            Mode::Hooks(_) if cannot_see.is_empty() => Health::Attached,
            Mode::Hooks(_) | Mode::Polling(_) => Health::Degraded,
        };
        let (hooks, suspects, costs) = match &self.mode {
            Mode::Hooks(hooks) => {
                let attached = |hook: &Hook| hooks.attached.hooks.contains(hook);
                let planned = self.plan.hooks();
                let state = |hook: &Hook| (hook.to_string(), attached(hook));
                (
                    planned.iter().map(state).collect(),
                    hooks.suspects.len(),
                    hooks.probe.costs(),
                )
            }
            // Nobody answers: there are no programs.
            Mode::WaitingForTls | Mode::Polling(_) => (Vec::new(), 0, oneshot::channel().1),
        };
        let live = Live {
            health,
            cannot_see,
            hooks,
            counters: self.counters(),
            suspects: u64::try_from(suspects).unwrap_or(u64::MAX),
            lost: self.all_lost().into_iter().collect(),
            costs: Vec::new(),
        };
        Answer { live, costs }
    }

    /// A counter of the programs; `None` if the hook that counts is missing.
    fn counter(&self, slot: u32) -> Option<u64> {
        let Mode::Hooks(hooks) = &self.mode else {
            return None;
        };
        let counted = |observable| {
            let choice = |choice: &&Choice| choice.observable == observable;
            let choice = self.plan.choices.iter().find(choice);
            choice.is_some_and(|choice| hooks.would_serve(choice, hooks.probes))
        };
        counted_by(slot)
            .is_none_or(counted)
            .then(|| hooks.probe.counter(slot).ok())
            .flatten()
    }

    /// All of them, by slot.
    fn counters(&self) -> Vec<Option<u64>> {
        (0..counter::SLOTS).map(|slot| self.counter(slot)).collect()
    }

    /// Everything that was lost so far, by place.
    fn all_lost(&self) -> BTreeMap<String, u64> {
        let recording = self.control.recorder.as_ref().map(Recorder::missed);
        let recording = recording.map(|missed| ("recording", missed));
        self.lost
            .iter()
            .map(|(&place, &count)| (place, count))
            .chain(self.exports.outlets.lost())
            .chain(recording)
            .filter(|&(_, count)| count > 0)
            .map(|(place, count)| (place.to_owned(), count))
            .collect()
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
                     as unknown, but for the hang of kernels before 6.5"
                        .to_owned(),
                ];
                lines.extend(self.losses.iter().cloned());
                lines
            }
            Mode::Hooks(hooks) => {
                let lost = self
                    .plan
                    .choices
                    .iter()
                    .filter(|choice| !hooks.would_serve(choice, hooks.probes));
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
                lines.extend(self.losses.iter().cloned());
                lines
            }
        }
    }

    /// Tells the service manager, if there is one, how it is, in a line.
    pub(super) fn tell_manager(&mut self, tell: impl FnOnce(&mut Manager, &str)) {
        let Some(mut manager) = self.manager.take() else {
            return;
        };
        let status = format!(
            "{}; stalls: {} open, {} since the start",
            self.ready_line(),
            self.calm.open(),
            self.correlator.stalls()
        );
        tell(&mut manager, &status);
        self.manager = Some(manager);
    }

    /// How the kernel is observed, with the word that others wait for.
    pub(super) fn ready_line(&self) -> String {
        match &self.mode {
            Mode::Hooks(hooks) => {
                let attached = hooks.attached.hooks.len();
                match hooks.probes {
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

/// The observation that a counter counts; `None`: it counts losses, wherever they are.
fn counted_by(slot: u32) -> Option<Observable> {
    Some(match slot {
        counter::REFUSED | counter::BACK_PRESSURE | counter::REPEATED => Observable::Refusal,
        counter::RECORDS
        | counter::RECORDS_MORE
        | counter::RECORD_BYTES
        | counter::RECORDS_HELD => Observable::Record,
        counter::SENDS | counter::SENDS_SPLICE | counter::SENDS_SPLICE_MORE => Observable::Send,
        counter::PERSIST_FIRED => Observable::PersistFired,
        counter::ZERO_WINDOW_PROBE => Observable::ZeroWindowProbe,
        counter::RETRANSMIT_TIMEOUT => Observable::RetransmitTimeout,
        _ => return None,
    })
}

/// Nanoseconds as milliseconds.
fn milliseconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1000.0
}
