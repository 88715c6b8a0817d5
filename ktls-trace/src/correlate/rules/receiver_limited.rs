//! `receiver-limited`: the peer's window does not take the next segment, but the peer is alive: what is in
//! flight fills the window, or the window was shut before in this episode and opened again.
//!
//! A peer whose window shuts for the first time with nothing in flight has stopped reading, as far as
//! can be told then: that is `zero-window`. Refuted by a window that would take what is unsent, and by a
//! retransmission timeout: what fills the window then is not acknowledged at all, and that is the network.

use super::{Facts, Finding, Verdict, confidence};

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let timed_out = |in_a_row: Option<u32>| in_a_row.is_some_and(|timeouts| timeouts > 0);
    if facts.retransmit_timeouts > 0
        || timed_out(facts.hold.and_then(|hold| hold.socket.retransmits))
        || timed_out(facts.sample.and_then(|sample| sample.retransmits))
    {
        return None;
    }
    let alive = |in_flight: u64| in_flight > 0 || facts.window_reopened > 0;
    let hooks = facts.hold.and_then(|hold| {
        let socket = &hold.socket;
        Some(socket.window_shut()? && alive(socket.unacked_bytes()?.into()))
    });
    let sock_diag = facts.sample.and_then(|sample| {
        let next = sample.notsent?.min(sample.mss?);
        let shut = next > 0 && sample.window_left()? < next.into();
        Some(shut && alive(sample.unacked_bytes?))
    });
    // One source that saw the window open outweighs the other.
    if hooks == Some(false) || sock_diag == Some(false) {
        return None;
    }
    let confidence = confidence(hooks == Some(true), sock_diag == Some(true))?;
    Some(Finding::new(Verdict::ReceiverLimited, confidence))
}
