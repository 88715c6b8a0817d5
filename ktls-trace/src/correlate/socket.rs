//! One watched socket: what it holds, and its episode.

use std::net::SocketAddr;

use super::{
    Config, Context, Poll, chain,
    episode::{Episode, ms},
    event::{
        self, Ended, Evidence, Held, Name, PersistEvidence, ProcessInfo, RecordEvidence,
        SendEvidence, SockDiagEvidence, Stall, TcpEvidence, WriterEvidence, flag_names,
    },
    holding::{Holding, pushed_ns, refused_since_ns},
    remedy,
    rules::{Finding, Verdict},
};
use crate::observe::{
    Hold, Observation, Process, ReleasePath, Sample, SocketKey, SocketState, Tls, What,
};

/// How long a closing socket is given to send what it holds.
const CLOSING_NS: u64 = 200_000_000;
/// How long `sock_diag` may say that nothing is held until it is believed without a release.
const CONTRADICTED_NS: u64 = 50_000_000;
/// How long a socket that no hook has met has to stand still: longer than any cadence.
const UNHOOKED_NS: u64 = 500_000_000;
/// How long an answer of `sock_diag` is waited for before an episode is opened without it.
const ANSWER_NS: u64 = 10_000_000;
/// `TCP_RTO_MIN`: the persist timer is armed for at least this long (`tcp_probe0_base`).
const TIMER_LEAST_NS: u64 = 200_000_000;
/// Processes that are remembered of a socket that several write to.
const PAST_WRITERS: usize = 16;
/// Updates that tell of a gate or cadence are at least this far apart.
const UPDATE_NS: u64 = 1_000_000_000;

/// Something that follows for a socket.
#[derive(Debug)]
pub(super) enum Change {
    /// An event of its episode.
    Stall {
        /// Which.
        name: Name,
        /// At which moment.
        at_ns: u64,
        /// The episode.
        stall: Box<Stall>,
    },
    /// Ask `sock_diag`.
    Poll(Poll),
    /// Nothing is left to watch.
    Forget,
}

/// A socket under suspicion.
#[derive(Debug)]
pub(super) struct Watched {
    /// Its name.
    pub(super) key: SocketKey,
    /// The daemon's own network namespace.
    own_netns: Option<u32>,
    /// Whether hooks see it; otherwise only `sock_diag` does.
    hooked: bool,
    /// Its cookie.
    cookie: Option<u64>,
    /// Its network namespace.
    netns: Option<u32>,
    /// Local address.
    src: Option<SocketAddr>,
    /// Remote address.
    dst: Option<SocketAddr>,
    /// Its inode number.
    inode: Option<u32>,
    /// Who writes to it.
    process: Option<ProcessInfo>,
    /// Others that wrote to it or are about to: each is looked up but once, and may have its turn again.
    past_writers: Vec<ProcessInfo>,
    /// Its TLS.
    tls: Tls,
    /// What waits now.
    holding: Option<Holding>,
    /// What waited last, for the evidence of a closing event.
    last: Option<Holding>,
    /// How long that waited.
    last_ms: f64,
    /// The open episode.
    episode: Option<Episode>,
    /// The persist timer since the episode began, or since it was first seen.
    persist: PersistEvidence,
    /// Times that the retransmission timer fired since the episode began, or since it was first seen.
    retransmit_timeouts: u32,
    /// When the last hold ended.
    last_held_ns: u64,
    /// When it was seen last.
    last_seen_ns: u64,
    /// When its owner closed it.
    closing_ns: Option<u64>,
    /// When it was asked about last.
    polled_ns: u64,
    /// When something was told of it last.
    told_ns: u64,
    /// When it is due, as noted by the correlator.
    pub(super) due_ns: Option<u64>,
}

/// What brought it to notice that bytes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noticed {
    /// A writer was refused, and sleeps or goes away.
    Refusal {
        /// Whether it sleeps.
        blocking: bool,
    },
    /// The persist timer fired.
    PersistTimer,
    /// The retransmission timer fired.
    RetransmitTimer,
}

impl Noticed {
    /// Whether the writer was refused, and if so whether it sleeps.
    fn refused(self) -> Option<bool> {
        match self {
            Self::Refusal { blocking } => Some(blocking),
            Self::PersistTimer | Self::RetransmitTimer => None,
        }
    }
}

impl Watched {
    /// A socket that is seen for the first time.
    pub(super) fn new(key: SocketKey, at_ns: u64, own_netns: Option<u32>) -> Self {
        Self {
            key,
            own_netns,
            hooked: false,
            cookie: None,
            netns: None,
            src: None,
            dst: None,
            inode: None,
            process: None,
            past_writers: Vec::new(),
            tls: Tls::default(),
            holding: None,
            last: None,
            last_ms: 0.0,
            episode: None,
            persist: PersistEvidence::default(),
            retransmit_timeouts: 0,
            last_held_ns: 0,
            last_seen_ns: at_ns,
            closing_ns: None,
            polled_ns: 0,
            told_ns: 0,
            due_ns: None,
        }
    }

    /// Whether an answer of `sock_diag` is about this socket.
    pub(super) fn is(&self, sample: &Sample) -> bool {
        self.cookie == Some(sample.cookie)
            || (self.src.is_some() && self.src == sample.src && self.dst == sample.dst)
    }

    /// Takes in an observation.
    pub(super) fn apply(
        &mut self,
        observation: &Observation,
        context: &mut Context,
    ) -> Vec<Change> {
        let at_ns = observation.at_ns;
        self.last_seen_ns = self.last_seen_ns.max(at_ns);
        let mut changes = Vec::new();
        match &observation.what {
            What::Refused {
                process,
                blocking,
                hold,
                ..
            } => {
                self.named(process);
                let by = Noticed::Refusal {
                    blocking: *blocking,
                };
                self.held(at_ns, hold, by, context, &mut changes);
            }
            What::PersistFired { hold, .. } => {
                self.persist.fired += 1;
                self.sent_by(hold.writer_pid);
                self.held(at_ns, hold, Noticed::PersistTimer, context, &mut changes);
            }
            What::RetransmitTimeout { hold, .. } => {
                self.retransmit_timeouts += 1;
                self.sent_by(hold.writer_pid);
                self.held(at_ns, hold, Noticed::RetransmitTimer, context, &mut changes);
                if let Some(holding) = &mut self.holding {
                    holding.retransmit_timeouts += 1;
                }
            }
            What::Released { path, end_seq, .. } => {
                // A close adds the FIN, which is no byte.
                let queued = self
                    .holding
                    .as_ref()
                    .and_then(|holding| holding.facts.as_ref()?.socket.write_seq);
                let reached = queued
                    .filter(|_| *path == ReleasePath::Close)
                    .unwrap_or(*end_seq);
                if let Some(episode) = &mut self.episode {
                    episode.progress(Some(reached));
                }
                self.hold_ended(at_ns, *path, context, &mut changes);
            }
            What::PersistArmed { .. } => self.persist.armed += 1,
            What::ZeroWindowProbe { .. } => {
                self.persist.zero_window_probes += 1;
                if let Some(holding) = &mut self.holding {
                    holding.zero_window_probes += 1;
                    holding.judged = false;
                }
            }
            What::Closing { .. } => {
                self.closing_ns.get_or_insert(at_ns);
            }
            What::Sampled {
                asked_ns,
                sample: Some(sample),
                ..
            } => {
                self.sampled(at_ns, *asked_ns, sample, context, &mut changes);
            }
            What::Sampled { sample: None, .. } => {
                let ended = if self.closing_ns.is_some() {
                    Ended::Closed
                } else {
                    Ended::Gone
                };
                changes.extend(self.end(at_ns, ended));
                changes.push(Change::Forget);
            }
            What::ProcessNamed {
                pid,
                comm,
                exe,
                cgroup,
                ..
            } => {
                self.known(ProcessInfo {
                    comm: comm.clone(),
                    exe: exe.clone(),
                    cgroup: cgroup.clone(),
                    ..known_by_pid(*pid)
                });
            }
            What::Resumed { .. } | What::Hooks { .. } | What::Clock { .. } | What::Tick => {}
        }
        changes
    }

    /// Does what time alone brings.
    pub(super) fn advance(&mut self, now_ns: u64, context: &mut Context) -> Vec<Change> {
        let mut changes = Vec::new();
        let contradicted = self
            .holding
            .as_ref()
            .and_then(|holding| holding.contradicted_ns);
        if let Some(since_ns) = contradicted
            && now_ns >= since_ns + CONTRADICTED_NS
        {
            self.hold_ended(since_ns, ReleasePath::Unknown, context, &mut changes);
        }
        let due_ns = self.judge_due_ns(&context.config);
        self.judge(now_ns, due_ns, context, &mut changes);
        if self
            .poll_due_ns(&context.config)
            .is_some_and(|due_ns| due_ns <= now_ns)
        {
            self.polled_ns = now_ns;
            changes.extend(self.poll().map(Change::Poll));
        }
        if let Some(closing_ns) = self.closing_ns
            && now_ns >= closing_ns + CLOSING_NS
        {
            changes.extend(self.end(now_ns, Ended::Closed));
            changes.push(Change::Forget);
            return changes;
        }
        if self.holding.is_none() {
            if self.episode.is_some() && now_ns >= self.last_held_ns + context.config.flowing_ns {
                changes.extend(self.end(now_ns, Ended::Flowing));
            }
            if self.episode.is_none() && now_ns >= self.last_seen_ns + context.config.forget_ns {
                changes.push(Change::Forget);
            }
        }
        changes
    }

    /// When time alone will have something to say.
    pub(super) fn next_due_ns(&self, config: &Config) -> Option<u64> {
        let idle = match (&self.holding, &self.episode) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(self.last_held_ns + config.flowing_ns),
            (None, None) => Some(self.last_seen_ns + config.forget_ns),
        };
        let holding = self.holding.as_ref();
        let judge = self.judge_due_ns(config);
        let contradicted =
            holding.and_then(|holding| Some(holding.contradicted_ns? + CONTRADICTED_NS));
        let closing = self.closing_ns.map(|closing_ns| closing_ns + CLOSING_NS);
        [idle, judge, contradicted, closing, self.poll_due_ns(config)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ends the episode, if one is open. Bytes that still wait never left, as far as seen.
    pub(super) fn end(&mut self, now_ns: u64, ended: Ended) -> Option<Change> {
        self.episode.as_ref()?;
        if matches!(ended, Ended::Closed | Ended::Gone)
            && let Some(holding) = self.holding.take()
        {
            self.count(&holding, now_ns, ReleasePath::None);
            self.last = Some(holding);
        }
        self.episode.as_mut()?.conclude_cadence();
        let mut change = self.tell(Name::StallClosed, now_ns)?;
        if let Change::Stall { stall, .. } = &mut change {
            stall.ended = Some(ended);
        }
        self.episode = None;
        self.persist = PersistEvidence::default();
        self.retransmit_timeouts = 0;
        Some(change)
    }

    /// An event of the episode as it stands.
    fn tell(&mut self, name: Name, at_ns: u64) -> Option<Change> {
        // An answer may describe a moment just before the one that was told last.
        let at_ns = at_ns.max(self.told_ns);
        let stall = Box::new(self.stall(at_ns)?);
        self.told_ns = at_ns;
        Some(Change::Stall { name, at_ns, stall })
    }

    /// Who was refused.
    fn named(&mut self, seen: &Process) {
        let mut process = match self.process.take() {
            Some(process) if process.pid == seen.pid => process,
            other => {
                if let Some(past) = other {
                    self.known(past);
                }
                self.writer(seen.pid)
            }
        };
        process.tid = Some(seen.tid);
        process.thread = Some(seen.thread.clone());
        self.process = Some(process);
    }

    /// Who sent last, for a timer that has no process of its own.
    fn sent_by(&mut self, pid: Option<u32>) {
        if let Some(pid) = pid
            && self.process.is_none()
        {
            self.process = Some(self.writer(pid));
        }
    }

    /// What is known of a process.
    fn writer(&mut self, pid: u32) -> ProcessInfo {
        let past = &mut self.past_writers;
        let known = past.iter().position(|past| past.pid == pid);
        known.map_or_else(|| known_by_pid(pid), |index| past.swap_remove(index))
    }

    /// Notes what is known of a process that writes to it, did so before, or is about to.
    fn known(&mut self, named: ProcessInfo) {
        let mut writers = self.process.iter_mut().chain(&mut self.past_writers);
        if let Some(writer) = writers.find(|writer| writer.pid == named.pid) {
            *writer = ProcessInfo {
                tid: writer.tid,
                thread: writer.thread.take(),
                ..named
            };
        } else if self.past_writers.len() < PAST_WRITERS {
            self.past_writers.push(named);
        }
    }

    /// What the hooks saw waiting.
    fn held(
        &mut self,
        at_ns: u64,
        hold: &Hold,
        by: Noticed,
        context: &mut Context,
        changes: &mut Vec<Change>,
    ) {
        let refused = by.refused();
        self.hooked = true;
        self.identify(&hold.socket);
        if let Some(episode) = &mut self.episode {
            episode.progress(hold.socket.snd_nxt);
        }
        let moved = self.holding.as_ref().is_some_and(|holding| {
            let before = holding
                .facts
                .as_ref()
                .and_then(|facts| facts.socket.snd_nxt);
            before.is_none() || before != hold.socket.snd_nxt
        });
        if moved {
            // Its release was lost, or is yet to come and will find nothing to end.
            self.hold_ended(at_ns, ReleasePath::Unknown, context, changes);
        }
        let bytes = hold.socket.notsent();
        // Without unsent bytes there is a stall only if a writer waits all the same, or would have to.
        let no_room = hold.socket.buffer_is_full() == Some(true);
        if bytes == Some(0) && refused.is_none() && !no_room {
            return;
        }
        if let Some(holding) = &mut self.holding {
            let before = holding.facts.replace(hold.clone());
            // The timer fires after it was pending: that it was armed stays true.
            if let (Some(before), Some(now)) = (before, &mut holding.facts)
                && refused.is_none()
            {
                now.socket.persist_pending = before.socket.persist_pending;
                now.send = before.send.or(now.send);
            }
            holding.bytes = bytes;
            holding.timed |= refused.is_none();
            holding.refused = refused.or(holding.refused);
            holding.judged = false;
            return;
        }
        let armed_ns = at_ns.saturating_sub(TIMER_LEAST_NS);
        let since_ns = match (by, &hold.push) {
            (Noticed::Refusal { .. }, _) => refused_since_ns(hold, at_ns),
            (_, Some(_)) => pushed_ns(hold, at_ns).max(armed_ns),
            (Noticed::PersistTimer, None) => armed_ns,
            // A route may have it fire sooner (`rto_min`).
            (Noticed::RetransmitTimer, None) => at_ns,
        };
        self.holding = Some(Holding {
            facts: Some(hold.clone()),
            timed: refused.is_none(),
            refused,
            bytes,
            ..Holding::since(since_ns.max(self.last_held_ns), at_ns)
        });
    }

    /// What `sock_diag` answered.
    fn sampled(
        &mut self,
        at_ns: u64,
        asked_ns: u64,
        sample: &Sample,
        context: &mut Context,
        changes: &mut Vec<Change>,
    ) {
        self.cookie = Some(sample.cookie);
        self.netns = self.netns.or(sample.netns);
        self.inode = sample.inode.or(self.inode);
        self.src = self.src.or(sample.src);
        self.dst = self.dst.or(sample.dst);
        self.tls = sample.tls.or(&self.tls);
        if !sample.established {
            self.closing_ns.get_or_insert(at_ns);
        }
        if !self.hooked {
            self.sampled_alone(at_ns, sample, context, changes);
            return;
        }
        let Some(holding) = &mut self.holding else {
            return;
        };
        if asked_ns < holding.noticed_ns {
            return;
        }
        let gone = if holding.bytes == Some(0) {
            // The writer waits for what is in flight, or for its cipher.
            sample.packets_out.unwrap_or(0) == 0 && holding.in_flight()
        } else {
            // A socket that is past its states with a queue (TIME_WAIT) has none to tell of.
            sample.notsent.unwrap_or(0) == 0
        };
        if gone {
            holding.contradicted_ns.get_or_insert(at_ns);
        } else {
            holding.contradicted_ns = None;
            holding.sample = Some(sample.clone());
            holding.judged = false;
        }
    }

    /// What `sock_diag` answered of a socket that no hook sees: bytes wait if they were there
    /// before and nothing has left meanwhile.
    fn sampled_alone(
        &mut self,
        at_ns: u64,
        sample: &Sample,
        context: &mut Context,
        changes: &mut Vec<Change>,
    ) {
        let waiting = sample.notsent.is_some_and(|bytes| bytes > 0);
        let moved = self.holding.as_ref().is_some_and(|holding| {
            holding
                .sample
                .as_ref()
                .is_none_or(|before| before.bytes_sent != sample.bytes_sent)
        });
        if moved || !waiting {
            self.hold_ended(at_ns, ReleasePath::Unknown, context, changes);
            // It is not stuck: the hooks will meet it if it ever is.
            if context.config.asks_unhooked && self.episode.is_none() {
                changes.push(Change::Forget);
                return;
            }
        }
        if !waiting {
            return;
        }
        let untimed = sample.timer.as_ref().is_none_or(|timer| !timer.sends());
        match &mut self.holding {
            Some(holding) => {
                holding.untimed_answers = if untimed {
                    holding.untimed_answers + 1
                } else {
                    0
                };
                holding.bytes = sample.notsent;
                holding.sample = Some(sample.clone());
                holding.judged = false;
            }
            None => {
                self.holding = Some(Holding {
                    sample: Some(sample.clone()),
                    bytes: sample.notsent,
                    untimed_answers: u32::from(untimed),
                    ..Holding::since(at_ns, at_ns)
                });
            }
        }
    }

    /// The bytes left. A hold that lasted longer than the threshold without being noticed in time
    /// opens an episode all the same.
    fn hold_ended(
        &mut self,
        at_ns: u64,
        path: ReleasePath,
        context: &mut Context,
        changes: &mut Vec<Change>,
    ) {
        // Whatever was still waited for, an answer or the name of the process, does not come in time.
        let due_ns = self.undecided_due_ns(&context.config);
        self.judge(at_ns, due_ns, context, changes);
        let Some(holding) = self.holding.take() else {
            return;
        };
        let long = at_ns.saturating_sub(holding.since_ns) >= self.threshold_ns(&context.config);
        // With nothing unsent it was the acknowledgement that let the later send in.
        let path = match path {
            ReleasePath::LaterSend if holding.bytes == Some(0) => ReleasePath::PeerAck,
            path => path,
        };
        if let Some(episode) = &mut self.episode
            && long
            && path == ReleasePath::PeerAck
            && holding.window_shut()
        {
            episode.window_reopened += 1;
        }
        self.count(&holding, at_ns, path);
        if long || self.episode.is_none() {
            self.last_held_ns = self.last_held_ns.max(at_ns);
        }
        self.last = Some(holding);
        let cadence = self
            .episode
            .as_mut()
            .is_some_and(|episode| episode.cadence_changed(at_ns));
        if cadence {
            changes.extend(self.tell(Name::StallUpdated, at_ns));
        }
    }

    /// Adds a finished hold to the episode.
    fn count(&mut self, holding: &Holding, at_ns: u64, path: ReleasePath) {
        let duration_ns = at_ns.saturating_sub(holding.since_ns);
        self.last_ms = ms(duration_ns);
        if let Some(episode) = &mut self.episode {
            episode.hold_ended(path, duration_ns, holding.bytes, holding.records());
            if let Some(verdict) = holding.verdict {
                episode.judged(verdict, duration_ns);
            }
        }
    }

    /// Opens or updates the episode if the bytes have waited long enough to be judged.
    fn judge(
        &mut self,
        now_ns: u64,
        due_ns: Option<u64>,
        context: &mut Context,
        changes: &mut Vec<Change>,
    ) {
        let Some(due_ns) = due_ns else {
            return;
        };
        let Some(holding) = &mut self.holding else {
            return;
        };
        if now_ns < due_ns {
            return;
        }
        holding.judged = true;
        if !context.see_releases && !holding.timed && holding.sample.is_none() {
            return; // they may have left long ago; an answer of sock_diag brings it up again
        }
        if self.closing_ns.is_some() && self.episode.is_none() && holding.sample.is_none() {
            return; // a reset drops what waits, and no hook sees that
        }
        let reopened = self
            .episode
            .as_ref()
            .map_or(0, |episode| episode.window_reopened);
        let finding = holding.judge(now_ns, reopened);
        holding.verdict = Some(finding.verdict);
        let since_ns = holding.since_ns;
        let snd_nxt = holding
            .facts
            .as_ref()
            .and_then(|facts| facts.socket.snd_nxt);
        let name = match &mut self.episode {
            None => {
                let name = context.name_episode(self.cookie, now_ns);
                self.episode = Some(Episode::new(name, since_ns, finding, snd_nxt));
                Name::StallOpened
            }
            Some(episode) => {
                let told = episode.told;
                let surer = finding.verdict == told.verdict && finding.confidence > told.confidence;
                let other = finding.verdict != told.verdict
                    && (finding.verdict != Verdict::Unknown || holding.sample.is_some());
                let gate = finding.verdict == told.verdict
                    && finding.gate != told.gate
                    && now_ns >= self.told_ns + UPDATE_NS;
                if !(surer || other || gate) {
                    return;
                }
                // What was proven once for a verdict stays proven for it.
                let confidence = if finding.verdict == told.verdict {
                    finding.confidence.max(told.confidence)
                } else {
                    finding.confidence
                };
                episode.told = Finding {
                    confidence,
                    ..finding
                };
                Name::StallUpdated
            }
        };
        changes.extend(self.tell(name, now_ns));
    }

    /// When bytes that wait and are not judged yet will have waited longer than the threshold.
    fn undecided_due_ns(&self, config: &Config) -> Option<u64> {
        // While sock_diag says that nothing waits there is nothing to judge, unless a timer said that it did.
        let open = |holding: &&Holding| {
            !holding.judged && (holding.timed || holding.contradicted_ns.is_none())
        };
        let holding = self.holding.as_ref().filter(open)?;
        Some(holding.since_ns + self.threshold_ns(config))
    }

    /// When the bytes that wait are to be judged: after the threshold, and to open an episode a little
    /// later if `sock_diag` was asked about them and has not answered yet.
    fn judge_due_ns(&self, config: &Config) -> Option<u64> {
        let due_ns = self.undecided_due_ns(config)?;
        let holding = self.holding.as_ref()?;
        let unanswered = self.episode.is_none()
            && self.hooked
            && holding.sample.is_none()
            && self.polled_ns >= holding.noticed_ns;
        let patience_ns = if unanswered { ANSWER_NS } else { 0 };
        // Not at the very moment it was noticed: that brings more, the name of the process among it.
        let after_ns = holding.noticed_ns + 1;
        Some(due_ns.max(after_ns) + patience_ns)
    }

    /// How long bytes may wait. A socket that no hook has met is given the time in which the hooks of
    /// a stall with a cadence would meet it.
    fn threshold_ns(&self, config: &Config) -> u64 {
        if self.hooked || !config.asks_unhooked {
            config.threshold_ns
        } else {
            config.threshold_ns.max(UNHOOKED_NS)
        }
    }

    /// When `sock_diag` is to be asked next: half a threshold after bytes began to wait, so that
    /// the answer is there when it is needed, and then at the poll interval.
    fn poll_due_ns(&self, config: &Config) -> Option<u64> {
        let somebody_asks = !self.hooked && !config.asks_unhooked;
        if somebody_asks || self.src.is_none() || self.dst.is_none() {
            return None;
        }
        let interval_ns = self.polled_ns + config.poll_interval_ns;
        match &self.holding {
            Some(holding) => Some(interval_ns.max(holding.since_ns + config.threshold_ns / 2)),
            // Between holds a longer look is enough to notice that it is gone.
            None => self
                .episode
                .as_ref()
                .map(|_| self.last_held_ns.max(self.polled_ns) + config.flowing_ns / 2),
        }
    }

    /// The question for `sock_diag`.
    fn poll(&self) -> Option<Poll> {
        Some(Poll {
            key: self.key,
            cookie: self.cookie,
            netns: self.netns,
            src: self.src?,
            dst: self.dst?,
            pid: self.process.as_ref().map(|process| process.pid),
        })
    }

    /// Takes over what identifies the socket.
    fn identify(&mut self, socket: &SocketState) {
        self.cookie = socket.cookie.or(self.cookie);
        self.netns = socket.netns.or(self.netns);
        self.src = socket.src.or(self.src);
        self.dst = socket.dst.or(self.dst);
        self.tls = socket.tls.or(&self.tls);
    }

    /// The episode as an event tells it.
    fn stall(&self, now_ns: u64) -> Option<Stall> {
        let episode = self.episode.as_ref()?;
        let holding = self.holding.as_ref().or(self.last.as_ref());
        let facts = holding.and_then(|holding| holding.facts.as_ref());
        let sample = holding.and_then(|holding| holding.sample.as_ref());
        let held_ms = match &self.holding {
            Some(holding) => ms(now_ns.saturating_sub(holding.since_ns)),
            None => self.last_ms,
        };
        let Finding {
            verdict,
            confidence,
            gate,
        } = episode.told;
        let remedy = facts.map_or_else(Vec::new, |facts| {
            remedy::of(verdict, gate, &facts.socket, self.process_elsewhere())
        });
        Some(Stall {
            stall: episode.name.clone(),
            socket: event::Socket {
                cookie: self.cookie.map(|cookie| format!("{cookie:x}")),
                netns: self.netns,
                src: self.src.map(|address| address.to_string()),
                dst: self.dst.map(|address| address.to_string()),
                inode: self.inode,
            },
            process: self.process.clone(),
            tls: self.tls.clone(),
            verdict,
            confidence,
            gate,
            held: Held {
                bytes: holding.and_then(|holding| holding.bytes),
                records: holding.and_then(Holding::records),
                ms: held_ms,
            },
            released: episode.released.clone(),
            cadence: episode.cadence,
            evidence: self.evidence(holding, facts, sample),
            chain: chain::of(
                facts,
                holding.is_some_and(|holding| holding.refused.is_some()),
            ),
            remedy,
            ended: None,
            totals: episode.totals(now_ns),
        })
    }

    /// Its process, if it lives in another network namespace than the daemon.
    fn process_elsewhere(&self) -> Option<u32> {
        let elsewhere = self.netns? != self.own_netns?;
        elsewhere.then(|| self.process.as_ref().map(|process| process.pid))?
    }

    /// What the verdict rests on.
    fn evidence(
        &self,
        holding: Option<&Holding>,
        facts: Option<&Hold>,
        sample: Option<&Sample>,
    ) -> Evidence {
        let mut sources = Vec::new();
        if facts.is_some() {
            sources.push("hooks");
        }
        if sample.is_some() {
            sources.push("sock_diag");
        }
        let send = facts.and_then(|facts| facts.send).map(|send| SendEvidence {
            flags: flag_names(send.flags),
            bytes: send.bytes,
            splice: send.is_splice(),
        });
        let record = facts
            .and_then(|facts| facts.push)
            .map(|push| RecordEvidence {
                flags: flag_names(push.flags),
                bytes: push.record_bytes,
                complete: push.complete,
            });
        Evidence {
            sources,
            send,
            record,
            writer: holding
                .and_then(|holding| holding.refused)
                .map(|blocking| WriterEvidence { blocking }),
            tcp: match (facts, sample) {
                (Some(facts), _) => TcpEvidence::of_socket(&facts.socket),
                (None, Some(sample)) => TcpEvidence::of_sample(sample),
                (None, None) => TcpEvidence::default(),
            },
            timer: sample.and_then(|sample| sample.timer.clone()),
            persist: self.persist,
            retransmit_timeouts: self.retransmit_timeouts,
            sock_diag: sample.map(SockDiagEvidence::of_sample),
        }
    }
}

/// A process of which only the number is known.
fn known_by_pid(pid: u32) -> ProcessInfo {
    ProcessInfo {
        pid,
        tid: None,
        comm: None,
        thread: None,
        exe: None,
        cgroup: None,
    }
}
