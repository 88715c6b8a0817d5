//! `application-cork`: less than one segment is unsent although the window is open, and the
//! application has set `TCP_CORK` (`tp->nonagle & TCP_NAGLE_CORK`).
//!
//! It would be held with or without `MSG_MORE`, so this comes before the corked record. `sock_diag`
//! does not show the cork.

use super::{Facts, Finding, Verdict, confidence, held_below_mss, sample_agrees};

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let socket = &facts.hold?.socket;
    if !(held_below_mss(socket)? && socket.corked?) {
        return None;
    }
    let confidence = confidence(true, sample_agrees(socket, facts.sample))?;
    Some(Finding::new(Verdict::ApplicationCork, confidence))
}
