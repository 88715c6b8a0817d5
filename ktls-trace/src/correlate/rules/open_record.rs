//! `open-record`: the application itself said `MSG_MORE` and left a TLS record unfinished
//! (`pending_open_record_frags`); what waits below one segment with the window open waits for the rest
//! that it promised.
//!
//! Refuted by splice and sendfile, where the kernel says "more" and not the application, and by a queue
//! that ends with no record open.

use super::{Facts, Finding, Verdict, confidence, held_below_mss, sample_agrees};
use crate::observe::MSG_MORE;

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let hold = facts.hold?;
    let send = hold.send?;
    let asked = !send.is_splice() && send.flags & MSG_MORE != 0;
    if !(held_below_mss(&hold.socket)? && hold.socket.open_record? && asked) {
        return None;
    }
    let confidence = confidence(true, sample_agrees(&hold.socket, facts.sample))?;
    Some(Finding::new(Verdict::OpenRecord, confidence))
}
