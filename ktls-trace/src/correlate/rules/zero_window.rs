//! `zero-window`: nothing is in flight and the peer's window does not take the next segment
//! (`tcp_snd_wnd_test`): it has stopped reading.
//!
//! Refuted by a window that would take what is unsent, or by data in flight (the peer is slow, not
//! stopped). A zero-window probe says the same in the kernel's own words.

use super::{Facts, Finding, Verdict, confidence};

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let hooks = facts.hold.and_then(|hold| {
        let socket = &hold.socket;
        Some(socket.packets_out? == 0 && socket.window_shut()?)
    });
    let sock_diag = facts.sample.and_then(|sample| {
        let next = sample.notsent?.min(sample.mss?);
        Some(sample.packets_out? == 0 && next > 0 && sample.snd_wnd? < next)
    });
    // One source that saw the window open outweighs the other: the facts do not decide.
    if hooks == Some(false) && facts.zero_window_probes == 0 || sock_diag == Some(false) {
        return None;
    }
    let hooks = hooks == Some(true) || facts.zero_window_probes > 0;
    let confidence = confidence(hooks, sock_diag == Some(true))?;
    Some(Finding::new(Verdict::ZeroWindow, confidence))
}
