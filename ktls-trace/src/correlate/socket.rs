//! One watched socket: what it holds, and its episode.

mod held;
mod judge;
mod process;
mod stall;

use std::net::SocketAddr;

use self::{held::Noticed, process::known_by_pid};
use super::{
    Config, Context, HoldEnded, Poll,
    episode::Episode,
    event::{Ended, Name, PersistEvidence, ProcessInfo, Stall},
    holding::Holding,
    identities::Identity,
};
use crate::observe::{Observation, ReleasePath, Sample, SocketKey, SocketState, Tls, What};

/// How long a closing socket is given to send what it holds.
const CLOSING_NS: u64 = 200_000_000;
/// How long `sock_diag` may say that nothing is held until it is believed without a release.
const CONTRADICTED_NS: u64 = 50_000_000;

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
    /// A hold of it is over.
    HoldEnded(HoldEnded),
    /// Ask `sock_diag`.
    Poll(Poll),
    /// Look for the process that has the socket with this inode number open.
    FindOwner(u32),
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
    /// The interface that it is bound to.
    interface: Option<u32>,
    /// Its inode number.
    inode: Option<u32>,
    /// Who writes to it.
    process: Option<ProcessInfo>,
    /// Whether its process was looked for, without a hook that met one.
    owner_sought: bool,
    /// The network namespace of the process that was named last.
    lives: Option<(u32, u32)>,
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
    /// By what it can be known again, as noted by the correlator.
    pub(super) noted: [Option<Identity>; 2],
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
            interface: None,
            inode: None,
            process: None,
            owner_sought: false,
            lives: None,
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
            noted: [None; 2],
        }
    }

    /// By what it can be known again.
    pub(super) fn identities(&self) -> [Option<Identity>; 2] {
        Identity::of(self.cookie, self.src, self.dst)
    }

    /// Whether the hooks saw this socket: by its cookie, or, as long as one of both has none yet, by its addresses.
    pub(super) fn is_seen_as(&self, socket: &SocketState) -> bool {
        match self.cookie.zip(socket.cookie) {
            Some((own, seen)) => own == seen,
            None => {
                self.src.is_some()
                    && self.src == socket.src
                    && self.dst == socket.dst
                    && self.netns == socket.netns
            }
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
                if process.is_kernel_worker() {
                    self.sent_by(hold.writer_pid);
                } else {
                    self.named(process);
                }
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
                self.end(at_ns, ended, &mut changes);
                changes.push(Change::Forget);
            }
            What::ProcessNamed {
                pid,
                comm,
                exe,
                cgroup,
                netns,
                ..
            } => {
                self.lives = netns.map(|netns| (*pid, netns)).or(self.lives);
                self.known(ProcessInfo {
                    comm: comm.clone(),
                    exe: exe.clone(),
                    cgroup: cgroup.clone(),
                    ..known_by_pid(*pid)
                });
            }
            What::Resumed { .. }
            | What::Hooks { .. }
            | What::Intervals { .. }
            | What::Clock { .. }
            | What::Tick => {}
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
            .poll_due_ns(context)
            .is_some_and(|due_ns| due_ns <= now_ns)
        {
            self.polled_ns = now_ns;
            changes.extend(self.poll().map(Change::Poll));
        }
        if let Some((due_ns, inode)) = self.owner_due(&context.config)
            && due_ns <= now_ns
        {
            self.owner_sought = true;
            changes.push(Change::FindOwner(inode));
        }
        if let Some(closing_ns) = self.closing_ns
            && now_ns >= closing_ns + CLOSING_NS
        {
            self.end(now_ns, Ended::Closed, &mut changes);
            changes.push(Change::Forget);
            return changes;
        }
        if self
            .unseen_due_ns(&context.config)
            .is_some_and(|due_ns| due_ns <= now_ns)
        {
            self.end(now_ns, Ended::Gone, &mut changes);
            changes.push(Change::Forget);
            return changes;
        }
        if self.holding.is_none() {
            if self.episode.is_some() && now_ns >= self.last_held_ns + context.config.flowing_ns {
                self.end(now_ns, Ended::Flowing, &mut changes);
            }
            if self.episode.is_none() && now_ns >= self.last_seen_ns + context.config.forget_ns {
                changes.push(Change::Forget);
            }
        }
        changes
    }

    /// When time alone will have something to say.
    pub(super) fn next_due_ns(&self, context: &Context) -> Option<u64> {
        let config = &context.config;
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
        let (unseen, poll) = (self.unseen_due_ns(config), self.poll_due_ns(context));
        let owner = self.owner_due(config).map(|(due_ns, _)| due_ns);
        [idle, judge, contradicted, closing, unseen, poll, owner]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the process that has the socket with an inode number open is to be looked for: half a threshold after bytes began to wait,
    /// so that it is there when it is needed, and once, for that takes a look at all open files.
    fn owner_due(&self, config: &Config) -> Option<(u64, u32)> {
        let holding = self.holding.as_ref()?;
        let wanted = self.process.is_none() && !self.owner_sought;
        let inode = self.inode.filter(|_| wanted)?;
        Some((holding.since_ns + self.threshold_ns(config) / 2, inode))
    }

    /// When a socket that others list is taken for gone if they don't tell of it any more: a list that was not complete says of none
    /// that it is gone.
    fn unseen_due_ns(&self, config: &Config) -> Option<u64> {
        let patience_ns = config.forget_ns.max(4 * config.poll_interval_ns);
        let listed = !self.hooked && !config.asks_unhooked;
        listed.then_some(self.last_seen_ns + patience_ns)
    }

    /// Ends the episode, if one is open. Bytes that still wait never left, as far as seen.
    pub(super) fn end(&mut self, now_ns: u64, ended: Ended, changes: &mut Vec<Change>) {
        if self.episode.is_none() {
            return;
        }
        if matches!(ended, Ended::Closed | Ended::Gone)
            && let Some(holding) = self.holding.take()
        {
            changes.extend(self.count(&holding, now_ns, ReleasePath::None));
            self.last = Some(holding);
        }
        if let Some(episode) = &mut self.episode {
            episode.conclude_cadence();
        }
        let mut change = self.tell(Name::StallClosed, now_ns);
        if let Some(Change::Stall { stall, .. }) = &mut change {
            stall.ended = Some(ended);
        }
        changes.extend(change);
        self.episode = None;
        self.persist = PersistEvidence::default();
        self.retransmit_timeouts = 0;
    }

    /// An event of the episode as it stands.
    fn tell(&mut self, name: Name, at_ns: u64) -> Option<Change> {
        // An answer may describe a moment just before the one that was told last.
        let at_ns = at_ns.max(self.told_ns);
        let stall = Box::new(self.stall(at_ns)?);
        self.told_ns = at_ns;
        Some(Change::Stall { name, at_ns, stall })
    }

    /// Takes over what identifies the socket.
    fn identify(&mut self, socket: &SocketState) {
        self.cookie = socket.cookie.or(self.cookie);
        self.netns = socket.netns.or(self.netns);
        self.src = socket.src.or(self.src);
        self.dst = socket.dst.or(self.dst);
        self.interface = socket.interface.or(self.interface);
        self.tls = socket.tls.or(&self.tls);
    }
}
