//! When bytes that wait are judged, what that changes of the episode, and when `sock_diag` is asked.

use super::{Change, Watched};
use crate::correlate::{
    Config, Context, Poll,
    episode::Episode,
    event::Name,
    holding::Holding,
    rules::{Confidence, Finding, Verdict},
};

/// How long a socket that no hook has met has to stand still: longer than any cadence.
const UNHOOKED_NS: u64 = 500_000_000;
/// How long an answer of `sock_diag` is waited for before an episode is opened without it.
const ANSWER_NS: u64 = 10_000_000;
/// The longest time between two questions about what goes on.
const SELDOM_NS: u64 = 1_000_000_000;
/// Updates that tell of a gate or cadence are at least this far apart.
const UPDATE_NS: u64 = 1_000_000_000;

/// The pause between two questions about what has gone on for so long.
fn growing_ns(lasted_ns: u64) -> u64 {
    (lasted_ns / 8).min(SELDOM_NS)
}

impl Watched {
    /// Opens or updates the episode if the bytes have waited long enough to be judged.
    pub(super) fn judge(
        &mut self,
        now_ns: u64,
        due_ns: Option<u64>,
        context: &mut Context,
        changes: &mut Vec<Change>,
    ) {
        let Some(due_ns) = due_ns else {
            return;
        };
        let threshold_ns = self.threshold_ns(&context.config);
        let Some(holding) = &mut self.holding else {
            return;
        };
        if now_ns < due_ns {
            return;
        }
        holding.judged = true;
        let shown = holding.sample.is_some() && holding.asked_ns >= holding.since_ns + threshold_ns;
        if !context.see_releases && !holding.timed && !shown {
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
    pub(super) fn undecided_due_ns(&self, config: &Config) -> Option<u64> {
        // While sock_diag says that nothing waits there is nothing to judge, unless a timer said that it did.
        let open = |holding: &&Holding| {
            !holding.judged && (holding.timed || holding.contradicted_ns.is_none())
        };
        let holding = self.holding.as_ref().filter(open)?;
        Some(holding.since_ns + self.threshold_ns(config))
    }

    /// When the bytes that wait are to be judged: after the threshold, and to open an episode a little
    /// later if `sock_diag` was asked about them and has not answered yet.
    pub(super) fn judge_due_ns(&self, config: &Config) -> Option<u64> {
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
    pub(super) fn threshold_ns(&self, config: &Config) -> u64 {
        if self.hooked || !config.asks_unhooked {
            config.threshold_ns
        } else {
            config.threshold_ns.max(UNHOOKED_NS)
        }
    }

    /// When `sock_diag` is to be asked next: half a threshold after bytes began to wait, so that the answer is there when it is
    /// needed; where no hook sees bytes leave, after the whole, for it has to say that they wait still. Then at the poll interval,
    /// or less often the longer they have waited.
    pub(super) fn poll_due_ns(&self, context: &Context) -> Option<u64> {
        let config = &context.config;
        let somebody_asks = !self.hooked && !config.asks_unhooked;
        if somebody_asks || self.src.is_none() || self.dst.is_none() {
            return None;
        }
        match &self.holding {
            Some(holding) => {
                let waited_ns = self.polled_ns.saturating_sub(holding.since_ns);
                let pause_ns = config.poll_interval_ns.max(growing_ns(waited_ns));
                let part = if context.see_releases { 2 } else { 1 };
                let first_ns = holding.since_ns + config.threshold_ns / part;
                let due_ns = first_ns.max(self.polled_ns + pause_ns);
                Some(due_ns.max(self.known_until_ns(holding, context)))
            }
            // Between holds a longer look is enough to notice that it is gone.
            None => self
                .episode
                .as_ref()
                .map(|_| self.last_held_ns.max(self.polled_ns) + config.flowing_ns / 2),
        }
    }

    /// Until when nothing new is to be heard about a hold: if it looks to the hooks like those for which `sock_diag` has borne them out,
    /// the longer the older the episode is, but not once it has lasted longer than any cadence. A thousand
    /// sockets stalled at once are fifteen thousand holds a second.
    fn known_until_ns(&self, holding: &Holding, context: &Context) -> u64 {
        let proven = |episode: &&Episode| episode.told.confidence == Confidence::Proven;
        // That nothing is unsent any more which an acknowledgement let in, no hook sees.
        let seen = context.see_releases && holding.bytes != Some(0);
        let Some(episode) = self.episode.as_ref().filter(proven).filter(|_| seen) else {
            return 0;
        };
        let due_ns = holding.since_ns + context.config.threshold_ns;
        let finding = holding.judge(due_ns, episode.window_reopened);
        if finding.verdict != episode.told.verdict {
            return 0;
        }
        let pause_ns = growing_ns(episode.age_ns(self.polled_ns));
        (self.polled_ns + pause_ns).min(holding.since_ns + UNHOOKED_NS)
    }

    /// The question for `sock_diag`.
    pub(super) fn poll(&self) -> Option<Poll> {
        Some(Poll {
            key: self.key,
            cookie: self.cookie,
            netns: self.netns,
            src: self.src?,
            dst: self.dst?,
            interface: self.interface,
            pid: self.process.as_ref().map(|process| process.pid),
        })
    }
}
