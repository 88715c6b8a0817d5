//! Episodes that are open, with what happened in them, until they are closed and can be sent.

use std::collections::{HashMap, VecDeque};

use crate::correlate::{
    HoldEnded,
    event::{Event, Name, Stall},
    rules::{Confidence, Gate, Verdict},
};

/// Episodes that are gathered at most; of more only their end is sent.
const OPEN: usize = 10_000;
/// What is kept of one, half of it the first and half the last: what `OpenTelemetry` has a span carry by default.
pub(super) const EVENTS: usize = 128;
/// What is kept of all together.
const ALL_EVENTS: usize = 65_536;

/// Something that happened in an episode.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Happened {
    /// It was opened, or something about it changed.
    Told {
        /// Which of both.
        name: Name,
        /// How far into it, in milliseconds.
        after_ms: f64,
        /// What held the socket back.
        verdict: Verdict,
        /// How sure that was.
        confidence: Confidence,
        /// The limit that its writer had met.
        gate: Option<Gate>,
    },
    /// What was held was let go.
    HoldEnded(HoldEnded),
}

/// An episode that is over.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    /// What was told of its end.
    pub(super) event: Event,
    /// What happened in it, as far as that was kept.
    pub(super) happened: VecDeque<Happened>,
    /// How much of it was not.
    pub(super) dropped: u32,
}

/// The open ones.
#[derive(Debug, Default)]
pub(super) struct Episodes {
    /// By name.
    open: HashMap<String, Open>,
    /// What is kept of them.
    kept: usize,
}

/// An open one.
#[derive(Debug, Default)]
struct Open {
    /// What happened in it, as far as that is kept.
    happened: VecDeque<Happened>,
    /// How much of it is not.
    dropped: u32,
}

impl Episodes {
    /// An episode was opened, or has changed.
    pub(super) fn told(&mut self, name: Name, stall: &Stall) {
        let happened = Happened::Told {
            name,
            after_ms: stall.totals.duration_ms,
            verdict: stall.verdict,
            confidence: stall.confidence,
            gate: stall.gate,
        };
        if !self.open.contains_key(&stall.stall) {
            if self.open.len() == OPEN {
                return;
            }
            self.open.insert(stall.stall.clone(), Open::default());
        }
        self.keep(&stall.stall, happened);
    }

    /// A hold of one is over.
    pub(super) fn hold_ended(&mut self, hold: HoldEnded) {
        let name = hold.stall.clone();
        self.keep(&name, Happened::HoldEnded(hold));
    }

    /// Keeps what happened in an episode that is gathered.
    fn keep(&mut self, name: &str, happened: Happened) {
        let Some(open) = self.open.get_mut(name) else {
            return;
        };
        if open.happened.len() == EVENTS {
            open.happened.remove(EVENTS / 2);
            open.dropped += 1;
        } else if self.kept == ALL_EVENTS {
            open.dropped += 1;
            return;
        } else {
            self.kept += 1;
        }
        open.happened.push_back(happened);
    }

    /// One is over. What began before anybody gathered has its end all the same.
    pub(super) fn closed(&mut self, event: Event, stall: &Stall) -> Closed {
        let Open {
            happened,
            mut dropped,
        } = self.open.remove(&stall.stall).unwrap_or_default();
        self.kept -= happened.len();
        let is_hold = |happened: &&Happened| matches!(happened, Happened::HoldEnded(_));
        let holds = u64::try_from(happened.iter().filter(is_hold).count()).unwrap_or(u64::MAX);
        // Those that were never seen here count as well.
        let missing = stall.totals.holds.saturating_sub(holds);
        dropped = dropped.max(u32::try_from(missing).unwrap_or(u32::MAX));
        Closed {
            event,
            happened,
            dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::{
        event::Body,
        tests::{hold_ended, stall_event},
    };

    fn told(episodes: &mut Episodes, name: Name, stall: &str) -> Option<Closed> {
        let event = stall_event(name, stall, Verdict::Unknown, None);
        let Body::Stall(body) = event.body.clone() else {
            panic!("{event:?}");
        };
        if name == Name::StallClosed {
            return Some(episodes.closed(event, &body));
        }
        episodes.told(name, &body);
        None
    }

    #[test]
    fn of_a_long_episode_the_first_and_the_last_are_kept() {
        let mut episodes = Episodes::default();
        told(&mut episodes, Name::StallOpened, "a");
        for after_ns in 0..1000 {
            episodes.hold_ended(hold_ended("a", after_ns));
        }
        let closed = told(&mut episodes, Name::StallClosed, "a").unwrap();
        assert_eq!(
            (closed.happened.len(), closed.dropped),
            (EVENTS, 1001 - 128)
        );
        assert!(matches!(closed.happened[0], Happened::Told { .. }));
        let after = |index: usize| match &closed.happened[index] {
            Happened::HoldEnded(hold) => hold.after_ns,
            told @ Happened::Told { .. } => panic!("{told:?}"),
        };
        assert_eq!(
            [after(1), after(63), after(64), after(127)],
            [0, 62, 936, 999]
        );
        assert_eq!((episodes.kept, episodes.open.len()), (0, 0));
    }

    #[test]
    fn many_episodes_have_a_bound_and_each_still_has_its_end() {
        let mut episodes = Episodes::default();
        for number in 0..OPEN + 5 {
            told(&mut episodes, Name::StallOpened, &number.to_string());
            for after_ns in 0..10 {
                episodes.hold_ended(hold_ended(&number.to_string(), after_ns));
            }
        }
        assert_eq!((episodes.kept, episodes.open.len()), (ALL_EVENTS, OPEN));
        let last = (OPEN + 4).to_string();
        let closed = told(&mut episodes, Name::StallClosed, &last).unwrap();
        assert_eq!((closed.happened.len(), closed.dropped), (0, 0));
        let first = told(&mut episodes, Name::StallClosed, "0").unwrap();
        assert_eq!((first.happened.len(), first.dropped), (11, 0));
        assert_eq!(episodes.kept, ALL_EVENTS - 11);
    }

    #[test]
    fn what_began_before_lacks_its_holds_and_says_so() {
        let mut episodes = Episodes::default();
        let mut event = stall_event(Name::StallClosed, "a", Verdict::Unknown, None);
        if let Body::Stall(stall) = &mut event.body {
            stall.totals.holds = 7;
        }
        let Body::Stall(stall) = event.body.clone() else {
            panic!("{event:?}");
        };
        episodes.hold_ended(hold_ended("a", 1));
        let closed = episodes.closed(event, &stall);
        assert_eq!((closed.happened.len(), closed.dropped), (0, 7));
    }
}
