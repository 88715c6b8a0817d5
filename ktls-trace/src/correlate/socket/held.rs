//! Bytes begin to wait, go on waiting, and leave.

use super::{Change, Watched};
use crate::{
    correlate::{
        Context, HoldEnded,
        episode::ms,
        event::Name,
        holding::{Holding, pushed_ns, refused_since_ns},
    },
    observe::{Hold, ReleasePath, Sample},
};

/// `TCP_RTO_MIN`: the persist timer is armed for at least this long (`tcp_probe0_base`).
const TIMER_LEAST_NS: u64 = 200_000_000;

/// What brought it to notice that bytes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noticed {
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
    /// What the hooks saw waiting.
    pub(super) fn held(
        &mut self,
        at_ns: u64,
        hold: &Hold,
        by: Noticed,
        context: &mut Context,
        changes: &mut Vec<Change>,
    ) {
        let refused = by.refused();
        let mut hold = hold.clone();
        // A timer that fires was pending until then.
        if refused.is_none() {
            let socket = &mut hold.socket;
            socket.timer_pending = socket.timer_pending.map(|_| true);
            let persist = by == Noticed::PersistTimer;
            socket.persist_pending = socket.persist_pending.map(|_| persist);
        }
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
        let bytes = hold.socket.notsent();
        let waits_anew = bytes.is_some_and(|bytes| bytes > 0)
            && self
                .holding
                .as_ref()
                .is_some_and(|holding| holding.bytes == Some(0));
        if moved {
            // Its release was lost, or is yet to come and will find nothing to end.
            self.hold_ended(at_ns, ReleasePath::Unknown, context, changes);
        } else if waits_anew {
            // An acknowledgement made room for what waits now.
            self.hold_ended(at_ns, ReleasePath::PeerAck, context, changes);
        }
        // Not before: what sock_diag alone had seen is judged by the threshold for that.
        self.hooked = true;
        // Without unsent bytes there is a stall only if a writer waits all the same, or would have to.
        let no_room = hold.socket.buffer_is_full() == Some(true);
        if bytes == Some(0) && refused.is_none() && !no_room {
            return;
        }
        if let Some(holding) = &mut self.holding {
            if refused.is_none()
                && let Some(before) = &holding.facts
            {
                if holding.refused.is_some() {
                    // What the writer met, though somebody may have opened it since: that wakes nobody.
                    hold.socket.notsent_lowat = before.socket.notsent_lowat;
                    hold.socket.own_lowat = before.socket.own_lowat;
                    hold.socket.wmem_queued = before.socket.wmem_queued;
                    hold.socket.sndbuf = before.socket.sndbuf;
                }
                hold.send = before.send.or(hold.send);
            }
            holding.facts = Some(hold);
            holding.bytes = bytes;
            holding.timed |= refused.is_none();
            holding.refused = refused.or(holding.refused);
            holding.judged = false;
            return;
        }
        let armed_ns = at_ns.saturating_sub(TIMER_LEAST_NS);
        let since_ns = match (by, &hold.push) {
            (Noticed::Refusal { .. }, _) => refused_since_ns(&hold, at_ns),
            (_, Some(_)) => pushed_ns(&hold, at_ns).max(armed_ns),
            (Noticed::PersistTimer, None) => armed_ns,
            // A route may have it fire sooner (`rto_min`).
            (Noticed::RetransmitTimer, None) => at_ns,
        };
        self.holding = Some(Holding {
            facts: Some(hold),
            timed: refused.is_none(),
            refused,
            bytes,
            ..Holding::since(since_ns.max(self.last_held_ns), at_ns)
        });
    }

    /// What `sock_diag` answered.
    pub(super) fn sampled(
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
        self.interface = self.interface.or(sample.interface);
        self.tls = sample.tls.or(&self.tls);
        if !sample.established {
            self.closing_ns.get_or_insert(at_ns);
        }
        if !self.hooked {
            self.sampled_alone(at_ns, asked_ns, sample, context, changes);
            return;
        }
        let Some(holding) = &mut self.holding else {
            return;
        };
        if asked_ns < holding.noticed_ns {
            return;
        }
        let left = if holding.bytes == Some(0) {
            // The writer waits for what is in flight, or for its cipher.
            sample.packets_out.unwrap_or(0) == 0 && holding.in_flight()
        } else {
            // A socket that is past its states with a queue (TIME_WAIT) has none to tell of.
            sample.notsent.unwrap_or(0) == 0
        };
        // Of a hook that sees bytes leave, what it told may be lost.
        let others = if context.see_releases {
            holding.has_left(sample)
        } else {
            holding.is_of_other_bytes(sample)
        };
        if left || others {
            holding.contradicted_ns.get_or_insert(at_ns);
        } else {
            holding.contradicted_ns = None;
            holding.sample = Some(sample.clone());
            holding.asked_ns = asked_ns;
            holding.judged = false;
        }
    }

    /// What `sock_diag` answered of a socket that no hook sees: bytes wait if they were there
    /// before and nothing has left meanwhile.
    pub(super) fn sampled_alone(
        &mut self,
        at_ns: u64,
        asked_ns: u64,
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
                holding.asked_ns = asked_ns;
                holding.judged = false;
            }
            None => {
                self.holding = Some(Holding {
                    sample: Some(sample.clone()),
                    asked_ns,
                    bytes: sample.notsent,
                    untimed_answers: u32::from(untimed),
                    ..Holding::since(at_ns, at_ns)
                });
            }
        }
    }

    /// The bytes left. A hold that lasted longer than the threshold without being noticed in time
    /// opens an episode all the same.
    pub(super) fn hold_ended(
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
        changes.extend(self.count(&holding, at_ns, path));
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
    pub(super) fn count(
        &mut self,
        holding: &Holding,
        at_ns: u64,
        path: ReleasePath,
    ) -> Option<Change> {
        let duration_ns = at_ns.saturating_sub(holding.since_ns);
        self.last_ms = ms(duration_ns);
        let episode = self.episode.as_mut()?;
        let records = holding.records();
        episode.hold_ended(path, duration_ns, holding.bytes, records);
        if let Some(verdict) = holding.verdict {
            episode.judged(verdict, duration_ns);
        }
        Some(Change::HoldEnded(HoldEnded {
            stall: episode.name.clone(),
            after_ns: episode.age_ns(at_ns),
            verdict: holding.verdict.unwrap_or(episode.told.verdict),
            path,
            duration_ns,
            bytes: holding.bytes,
            records,
        }))
    }
}
