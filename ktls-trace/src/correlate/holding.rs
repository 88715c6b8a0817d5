//! One hold: bytes that wait, what was seen of them, and what the rules say.

use super::rules::{self, Facts, Finding, Verdict};
use crate::observe::{Hold, Sample};

/// Longest time between the push that shuts a gate and the refusal of the writer.
const PUSH_TO_REFUSAL_NS: u64 = 5_000_000;

/// Bytes that wait.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    /// Since when they wait.
    pub(super) since_ns: u64,
    /// When that was noticed; answers of `sock_diag` to earlier questions are about something else.
    pub(super) noticed_ns: u64,
    /// Whether a timer of TCP's that fired says that they waited: it takes its time without progress for that.
    pub(super) timed: bool,
    /// What the hooks saw.
    pub(super) facts: Option<Hold>,
    /// What `sock_diag` answered last.
    pub(super) sample: Option<Sample>,
    /// When it was asked that.
    pub(super) asked_ns: u64,
    /// Whether the writer was refused, and if so whether it sleeps.
    pub(super) refused: Option<bool>,
    /// Bytes that wait.
    pub(super) bytes: Option<u32>,
    /// Zero-window probes sent meanwhile.
    pub(super) zero_window_probes: u32,
    /// Times that the retransmission timer fired meanwhile.
    pub(super) retransmit_timeouts: u32,
    /// Answers of `sock_diag` in a row that showed no timer, if no hook sees the socket.
    pub(super) untimed_answers: u32,
    /// Since when `sock_diag` has said that nothing waits.
    pub(super) contradicted_ns: Option<u64>,
    /// Whether it was judged after it had lasted longer than the threshold.
    pub(super) judged: bool,
    /// What it was judged to be last.
    pub(super) verdict: Option<Verdict>,
}

impl Holding {
    /// Bytes of which nothing is known yet but since when they wait.
    pub(super) fn since(since_ns: u64, noticed_ns: u64) -> Self {
        Self {
            since_ns,
            noticed_ns,
            timed: false,
            facts: None,
            sample: None,
            asked_ns: 0,
            refused: None,
            bytes: None,
            zero_window_probes: 0,
            retransmit_timeouts: 0,
            untimed_answers: 0,
            contradicted_ns: None,
            judged: false,
            verdict: None,
        }
    }

    /// Records that the bytes belong to: whole ones and the tail of one.
    pub(super) fn records(&self) -> Option<u32> {
        let record = self.facts.as_ref()?.push.as_ref()?.record_bytes;
        (record > 0).then(|| self.bytes.map(|bytes| bytes.div_ceil(record)))?
    }

    /// What the rules say of it at a moment, in an episode in which the peer's window reopened so often.
    pub(super) fn judge(&self, now_ns: u64, window_reopened: u32) -> Finding {
        rules::judge(&Facts {
            hold: self.facts.as_ref(),
            sample: self.sample.as_ref(),
            held_ns: now_ns.saturating_sub(self.since_ns),
            zero_window_probes: self.zero_window_probes,
            retransmit_timeouts: self.retransmit_timeouts,
            window_reopened,
            untimed_answers: self.untimed_answers,
        })
    }

    /// Whether an answer of `sock_diag` is about other bytes than those that were seen to wait: some have left, or more or fewer
    /// are unsent; with nothing unsent, also if less is in flight, for an acknowledgement has come. Where no hook sees bytes leave,
    /// there is nothing else to tell by.
    pub(super) fn is_of_other_bytes(&self, sample: &Sample) -> bool {
        // One less says nothing: on the end that has connected it is one too few (`TcpInfo::bytes_in_flight`).
        let acknowledged = self
            .in_flight_then()
            .zip(sample.unacked_bytes)
            .is_some_and(|(then, now)| self.bytes == Some(0) && now + 1 < then);
        let other = |(then, now)| then != now;
        self.has_left(sample) || acknowledged || self.bytes.zip(sample.notsent).is_some_and(other)
    }

    /// Whether an answer of `sock_diag` shows that something was sent since bytes were seen to wait: then those were, for they are
    /// the first in the queue, though the hooks did not tell of it.
    pub(super) fn has_left(&self, sample: &Sample) -> bool {
        let before = self.sample.as_ref().and_then(|before| before.bytes_sent);
        let more = |(then, now)| now > then;
        self.in_flight_then()
            .zip(sample.unacked_bytes)
            .is_some_and(more)
            || before.zip(sample.bytes_sent).is_some_and(more)
    }

    /// Bytes that were in flight when the hooks saw it.
    fn in_flight_then(&self) -> Option<u64> {
        let facts = self.facts.as_ref()?;
        facts.socket.unacked_bytes().map(u64::from)
    }

    /// Whether segments were in flight when the hooks saw it.
    pub(super) fn in_flight(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| {
            facts
                .socket
                .packets_out
                .is_some_and(|segments| segments > 0)
        })
    }

    /// Whether the peer's window did not take the next segment when the hooks saw it.
    pub(super) fn window_shut(&self) -> bool {
        let shut = |facts: &Hold| facts.socket.window_shut() == Some(true);
        self.facts.as_ref().is_some_and(shut)
    }
}

/// Since when bytes wait whose writer was refused at a moment. The refusal follows the push that shut the gate
/// at once; if the push is older, its bytes may have gone on moving since.
pub(crate) fn refused_since_ns(hold: &Hold, at_ns: u64) -> u64 {
    let pushed_ns = pushed_ns(hold, at_ns);
    if at_ns - pushed_ns <= PUSH_TO_REFUSAL_NS {
        pushed_ns
    } else {
        at_ns
    }
}

/// When the last record was pushed, not later than the moment at which that was seen.
pub(super) fn pushed_ns(hold: &Hold, at_ns: u64) -> u64 {
    hold.push.map_or(at_ns, |push| push.at_ns.min(at_ns))
}
