//! The correlator: observations in, events out. Pure: it reads no clock and does no I/O, so the same
//! observations give the same events, from a live host or from a recording.

pub mod chain;
pub mod episode;
pub mod event;
pub(crate) mod holding;
mod identities;
pub mod remedy;
pub mod rules;
mod socket;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use event::{Body, Ended, Event};
use identities::{Identities, Identity};
use rules::Verdict;
use serde::{Deserialize, Serialize};
use socket::{Change, Watched};

use crate::observe::{Observation, ReleasePath, SocketKey, What};

/// What the correlator goes by; times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// How long bytes may be held before a stall is opened.
    pub threshold_ns: u64,
    /// How often `sock_diag` is asked about a suspect.
    pub poll_interval_ns: u64,
    /// How long a socket has to flow until its episode is closed.
    pub flowing_ns: u64,
    /// How long a socket that is not held stays known.
    pub forget_ns: u64,
    /// Whether sockets that no hook has seen are to be asked about one by one; otherwise somebody
    /// dumps them all at the poll interval.
    pub asks_unhooked: bool,
    /// The daemon's own network namespace, for remedies in others; `None`: not known.
    pub own_netns: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threshold_ns: 20_000_000,
            poll_interval_ns: 50_000_000,
            flowing_ns: 1_000_000_000,
            forget_ns: 5_000_000_000,
            asks_unhooked: false,
            own_netns: None,
        }
    }
}

/// What the correlator wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Tell the world.
    Event(Box<Event>),
    /// Bytes of a stalled socket are not held any more.
    HoldEnded(HoldEnded),
    /// Ask `sock_diag` about this socket.
    Poll(Poll),
    /// Look for the process that has a socket open, for no hook has met one.
    FindOwner {
        /// The socket.
        key: SocketKey,
        /// Its inode number.
        inode: u32,
    },
    /// The socket is not watched any more.
    Forget(SocketKey),
}

/// A hold of an open episode that is over, however short it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldEnded {
    /// Names the episode, as its events do.
    pub stall: String,
    /// How far into the episode it ended, in nanoseconds after the first byte that was held.
    pub after_ns: u64,
    /// What held the bytes back.
    pub verdict: Verdict,
    /// Who let them go.
    pub path: ReleasePath,
    /// How long they were held, in nanoseconds.
    pub duration_ns: u64,
    /// How many there were.
    pub bytes: Option<u32>,
    /// Records that they belonged to.
    pub records: Option<u32>,
}

/// A question for `sock_diag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The socket, to be named in the answer.
    pub key: SocketKey,
    /// Its cookie, if known.
    pub cookie: Option<u64>,
    /// Its network namespace, if known.
    pub netns: Option<u32>,
    /// Local address.
    pub src: SocketAddr,
    /// Remote address.
    pub dst: SocketAddr,
    /// Index of the interface that it is bound to, if it is.
    pub interface: Option<u32>,
    /// A process in that namespace, if known.
    pub pid: Option<u32>,
}

/// Joins what hooks and `sock_diag` say of each socket and tells its stalls.
#[derive(Debug)]
pub struct Correlator {
    /// What it goes by, and how it names episodes.
    context: Context,
    /// The sockets under suspicion.
    sockets: HashMap<SocketKey, Watched>,
    /// By what they can be known again.
    identities: Identities,
    /// When something is due for which socket.
    due: BTreeSet<(u64, SocketKey)>,
}

/// What every watched socket needs to know.
#[derive(Debug)]
struct Context {
    /// Thresholds and intervals.
    config: Config,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, in nanoseconds.
    unix_offset_ns: i64,
    /// Stalls opened so far.
    opened: u64,
    /// Whether the hooks see held bytes leave: otherwise bytes are held only if `sock_diag` says so.
    see_releases: bool,
}

impl Context {
    /// `CLOCK_REALTIME` in nanoseconds at a moment of `CLOCK_MONOTONIC`.
    fn unix_ns(&self, at_ns: u64) -> i64 {
        at_ns.cast_signed().wrapping_add(self.unix_offset_ns)
    }

    /// Names a new episode: `COOKIE-SECONDS-NUMBER`. The running number tells episodes of one run
    /// apart, the seconds those of different runs.
    fn name_episode(&mut self, cookie: Option<u64>, at_ns: u64) -> String {
        self.opened += 1;
        let seconds = self.unix_ns(at_ns) / 1_000_000_000;
        let cookie = cookie.map_or_else(|| "x".to_owned(), |cookie| format!("{cookie:x}"));
        format!("{cookie}-{seconds:x}-{}", self.opened)
    }
}

impl Correlator {
    /// Starts with nothing known.
    pub fn new(config: Config) -> Self {
        Self {
            context: Context {
                config,
                unix_offset_ns: 0,
                opened: 0,
                see_releases: true,
            },
            sockets: HashMap::new(),
            identities: Identities::default(),
            due: BTreeSet::new(),
        }
    }

    /// Takes one observation and says what follows from it and from the time it brings.
    pub fn observe(&mut self, observation: &Observation) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let What::Clock { unix_ns } = observation.what {
            self.context.unix_offset_ns = unix_ns.wrapping_sub(observation.at_ns.cast_signed());
        } else if let What::Hooks { see_releases } = observation.what {
            self.context.see_releases = see_releases;
        } else if let What::Intervals {
            threshold_ns,
            poll_interval_ns,
        } = observation.what
        {
            self.context.config.threshold_ns = threshold_ns;
            self.context.config.poll_interval_ns = poll_interval_ns;
            for key in self.keys() {
                self.settle(key, Vec::new(), &mut outputs);
            }
        } else if let Some(key) = observation.what.key()
            && self.watches(key, &observation.what, &mut outputs)
        {
            let watched = self.sockets.entry(key).or_insert_with(|| {
                Watched::new(key, observation.at_ns, self.context.config.own_netns)
            });
            let changes = watched.apply(observation, &mut self.context);
            self.settle(key, changes, &mut outputs);
        }
        self.run_due(observation.at_ns, &mut outputs);
        outputs
    }

    /// When time alone will have something to say, `CLOCK_MONOTONIC` in nanoseconds.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.due.first().map(|&(at_ns, _)| at_ns)
    }

    /// Closes every open episode because the daemon stops.
    pub fn finish(&mut self, at_ns: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        for key in self.keys() {
            if let Some(watched) = self.sockets.get_mut(&key) {
                let mut changes = Vec::new();
                watched.end(at_ns, Ended::Stopped, &mut changes);
                self.settle(key, changes, &mut outputs);
            }
        }
        outputs
    }

    /// The sockets, in an order that does not depend on anything else.
    fn keys(&self) -> Vec<SocketKey> {
        let mut keys: Vec<_> = self.sockets.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Whether this socket is known by this name.
    pub fn is_watched(&self, key: SocketKey) -> bool {
        self.sockets.contains_key(&key)
    }

    /// Stalls opened so far.
    pub fn stalls(&self) -> u64 {
        self.context.opened
    }

    /// `CLOCK_REALTIME` in nanoseconds at a moment of `CLOCK_MONOTONIC`.
    pub fn unix_ns(&self, at_ns: u64) -> i64 {
        self.context.unix_ns(at_ns)
    }

    /// Whether this socket is watched, or is from now on.
    fn watches(&mut self, key: SocketKey, what: &What, outputs: &mut Vec<Output>) -> bool {
        if self.sockets.contains_key(&key) {
            return true;
        }
        if let Some(old) = self.hand_over(key, what) {
            outputs.push(Output::Forget(old));
        }
        let seen_by_hooks = match what {
            What::Sampled {
                sample: Some(sample),
                ..
            } => {
                let identities = Identity::of(Some(sample.cookie), sample.src, sample.dst);
                let is = |name| {
                    self.sockets
                        .get(&name)
                        .is_some_and(|watched| watched.is(sample))
                };
                self.identities.any_of(identities).any(is)
            }
            _ => false,
        };
        what.makes_suspect() && !seen_by_hooks
    }

    /// A socket that only `sock_diag` had seen meets a hook, or the programs have named it anew, having forgotten it while
    /// something that they had told of it was still on its way: from now on it goes by that name, and its episode goes on. Its
    /// name until then.
    fn hand_over(&mut self, key: SocketKey, what: &What) -> Option<SocketKey> {
        let (What::Refused { hold, .. }
        | What::PersistFired { hold, .. }
        | What::RetransmitTimeout { hold, .. }) = what
        else {
            return None;
        };
        let socket = &hold.socket;
        let by_cookie = socket.cookie.map(SocketKey::of_cookie);
        let by_cookie = by_cookie.filter(|name| self.sockets.contains_key(name));
        let identities = Identity::of(socket.cookie, socket.src, socket.dst);
        let known = |name: &SocketKey| {
            let watched = self.sockets.get(name);
            watched.is_some_and(|watched| watched.is_seen_as(socket))
        };
        // Whichever order the tables have, a recording has to replay to the same.
        let known = self.identities.any_of(identities).filter(known);
        let old = known.chain(by_cookie).min()?;
        let mut watched = self.sockets.remove(&old)?;
        if let Some(due_ns) = watched.due_ns.take() {
            self.due.remove(&(due_ns, old));
        }
        self.identities
            .change(old, std::mem::take(&mut watched.noted), [None; 2]);
        watched.key = key;
        self.sockets.insert(key, watched);
        Some(old)
    }

    /// Does what has become due by the moment of an observation. An observation that comes late
    /// brings no time with it: what is due after its moment may be settled by the next one.
    fn run_due(&mut self, now_ns: u64, outputs: &mut Vec<Output>) {
        while let Some(&(due_ns, key)) = self.due.first() {
            if due_ns > now_ns {
                break;
            }
            self.due.remove(&(due_ns, key));
            if let Some(watched) = self.sockets.get_mut(&key) {
                watched.due_ns = None;
                let changes = watched.advance(now_ns, &mut self.context);
                self.settle(key, changes, outputs);
            }
        }
    }

    /// Turns what changed for a socket into outputs and notes when it is due again.
    fn settle(&mut self, key: SocketKey, changes: Vec<Change>, outputs: &mut Vec<Output>) {
        let mut forget = false;
        for change in changes {
            match change {
                Change::Stall { name, at_ns, stall } => {
                    let event = Event::new(name, self.unix_ns(at_ns), Body::Stall(stall));
                    outputs.push(Output::Event(Box::new(event)));
                }
                Change::HoldEnded(hold) => outputs.push(Output::HoldEnded(hold)),
                Change::Poll(poll) => outputs.push(Output::Poll(poll)),
                Change::FindOwner(inode) => outputs.push(Output::FindOwner { key, inode }),
                Change::Forget => forget = true,
            }
        }
        if forget {
            if let Some(watched) = self.sockets.remove(&key) {
                self.identities.change(key, watched.noted, [None; 2]);
                if let Some(due_ns) = watched.due_ns {
                    self.due.remove(&(due_ns, key));
                }
            }
            outputs.push(Output::Forget(key));
            return;
        }
        if let Some(watched) = self.sockets.get_mut(&key) {
            let identities = watched.identities();
            self.identities.change(key, watched.noted, identities);
            watched.noted = identities;
            let due_ns = watched.next_due_ns(&self.context);
            if due_ns != watched.due_ns {
                if let Some(old) = watched.due_ns {
                    self.due.remove(&(old, key));
                }
                if let Some(new) = due_ns {
                    self.due.insert((new, key));
                }
                watched.due_ns = due_ns;
            }
        }
    }
}

impl What {
    /// The socket that this is about.
    fn key(&self) -> Option<SocketKey> {
        match *self {
            Self::Refused { key, .. }
            | Self::Resumed { key, .. }
            | Self::Released { key, .. }
            | Self::PersistArmed { key }
            | Self::PersistFired { key, .. }
            | Self::RetransmitTimeout { key, .. }
            | Self::ZeroWindowProbe { key }
            | Self::Closing { key }
            | Self::Sampled { key, .. }
            | Self::ProcessNamed { key, .. } => Some(key),
            Self::Hooks { .. } | Self::Intervals { .. } | Self::Clock { .. } | Self::Tick => None,
        }
    }

    /// Whether it puts a socket under suspicion that was not.
    pub fn makes_suspect(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::PersistFired { .. } | Self::RetransmitTimeout { .. } => {
                true
            }
            // An answer about a socket of the hooks that was forgotten meanwhile is none.
            Self::Sampled { key, sample, .. } => sample.as_ref().is_some_and(|sample| {
                *key == SocketKey::of_cookie(sample.cookie)
                    && sample.established
                    && sample.notsent.is_some_and(|bytes| bytes > 0)
            }),
            _ => false,
        }
    }
}
