//! `corked-completed-record`: complete records below one MSS are unsent although the window is open,
//! because `tls_push_sg` handed them to TCP with `MSG_MORE`, and that shuts a gate.
//!
//! Before 6.5 a push with `MSG_SENDPAGE_NOTLAST` never reaches `tcp_push`: then whole segments stay
//! unsent too, with nothing in flight and no timer armed.
//!
//! The segment that waits last tells of the flag, too, if the push itself was not seen: `tcp_push` leaves PSH
//! out only with `MSG_MORE`. That it was a record as a whole is then inferred, and the verdict `consistent`.
//!
//! Refuted by the application's own cork, a full congestion window, the queueing discipline or pacing, an
//! unfinished record or a gate that is open. Only hooks can see the flag and the cork, so
//! `sock_diag` alone decides for this only where no timer is pending, which a cork would have armed.

use super::{
    Confidence, Facts, Finding, Gate, Verdict, confidence, held_below_mss, network_limited,
    sample_agrees,
};
use crate::observe::{Hold, MSG_SENDPAGE_NOTLAST, Sample, says_more};

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let Some(hold) = facts.hold else {
        // Timer and queue are not read at one moment: one answer alone may join the queue of now with
        // the timer of before.
        return facts
            .sample
            .filter(|_| facts.untimed_answers >= 2)
            .and_then(left_without_timer);
    };
    let socket = &hold.socket;
    let gate = Gate::of(socket)?;
    let held =
        (held_below_mss(socket)? || never_pushed(hold)) && !socket.corked? && more_to_come(hold)?;
    let otherwise_held = network_limited::forbids(socket, facts.held_ns)
        || socket.tls.is_software() == Some(false)
        || socket.partial_record == Some(true);
    if !held || otherwise_held {
        return None;
    }
    // Everything that could refute it was looked at, on this kernel.
    let complete = hold.last_push().is_some()
        && socket.throttled.is_some()
        && socket.in_flight.is_some()
        && socket.snd_cwnd.is_some()
        && socket.paced_ns.is_some()
        && socket.tls.is_software().is_some();
    let mut confidence = confidence(true, sample_agrees(socket, facts.sample))?;
    if !complete {
        confidence = Confidence::Consistent;
    }
    Some(Finding {
        verdict: Verdict::CorkedCompletedRecord,
        confidence,
        gate: Some(gate),
    })
}

/// Whether what waits is complete records, pushed with `MSG_MORE`. Where pushes are not seen, the segment
/// that waits last, or else the flags of the send, and the absence of an unfinished record stand in.
fn more_to_come(hold: &Hold) -> Option<bool> {
    if let Some(push) = hold.last_push() {
        return Some(push.complete && says_more(push.flags));
    }
    let whole = || Some(!hold.socket.partial_record? && !hold.socket.open_record?);
    if hold.socket.tail_psh == Some(false) {
        return whole();
    }
    let send = hold.send?;
    Some(send.is_splice() && says_more(send.flags) && whole()?)
}

/// Whether TCP was not even asked to send, with the window open.
pub(crate) fn never_pushed(hold: &Hold) -> bool {
    let socket = &hold.socket;
    let open = || Some(socket.window_left()? >= socket.notsent()?.min(socket.mss?));
    let not_last = hold
        .last_push()
        .map_or(socket.tail_psh == Some(false), |push| {
            push.flags & MSG_SENDPAGE_NOTLAST != 0
        });
    not_last
        && socket.packets_out == Some(0)
        && socket.timer_pending == Some(false)
        && open() == Some(true)
}

/// What `sock_diag` alone can tell: bytes that the peer would take are unsent, nothing is in flight,
/// and neither the retransmit nor the persist timer is pending. TCP leaves its queue so only where
/// it was never asked to send it (before 6.5); an application's cork arms the persist timer.
fn left_without_timer(sample: &Sample) -> Option<Finding> {
    let next = sample.notsent?.min(sample.mss?);
    let timer = sample.timer.as_ref();
    let left = next > 0
        && sample.packets_out? == 0
        && sample.snd_wnd? >= next
        && timer.is_none_or(|timer| !timer.sends());
    left.then_some(Finding::new(
        Verdict::CorkedCompletedRecord,
        Confidence::Consistent,
    ))
}
