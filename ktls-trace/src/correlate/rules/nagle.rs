//! `nagle`: less than one segment is unsent although the window is open, because an earlier short
//! segment is not acknowledged yet (`tcp_nagle_check`) and neither `MSG_MORE` nor a cork is at work.
//!
//! With a low `tcp_notsent_lowat` and a large MSS, kTLS `write()` meets this: each record is a short
//! segment, and the peer delays its acknowledgement. Refuted by `TCP_NODELAY`, and by nothing being
//! in flight.

use super::{Facts, Finding, Verdict, confidence, held_below_mss, sample_agrees};
use crate::observe::says_more;

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let hold = facts.hold?;
    let socket = &hold.socket;
    let waits = held_below_mss(socket)?
        && socket.packets_out? > 0
        && !socket.corked?
        && !socket.nodelay?
        && !says_more(hold.last_push()?.flags);
    if !waits {
        return None;
    }
    let confidence = confidence(true, sample_agrees(socket, facts.sample))?;
    Some(Finding::new(Verdict::Nagle, confidence))
}
