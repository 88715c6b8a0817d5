//! `network-limited`: bytes wait behind what is in flight, and what is in flight is all that the network
//! is allowed or able to carry: the congestion window is full, segments were lost, the retransmission
//! timer fired, the queueing discipline has not taken them (`TSQF_THROTTLED`), or pacing forbids the next
//! one (`tcp_wstamp_ns`).
//!
//! Where everything is in flight and the buffer is full of it, the writer waits behind it all the same: then
//! loss, and nothing else, makes it the network's doing.
//!
//! Refuted by a window that is shut (asked first), and by nothing being in flight unless the socket is
//! paced. Less than a segment that outlasts its pacing is corked (asked before this).

use super::{Facts, Finding, Verdict, confidence, sample_agrees};
use crate::observe::{Sample, SocketState};

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let seen = facts
        .hold
        .map(|hold| &hold.socket)
        .filter(|socket| match socket.notsent() {
            Some(0) => socket.buffer_is_full() == Some(true) && lossy(socket, facts),
            Some(_) => limited(socket, facts),
            None => false,
        });
    // Where the hooks know the reason why bytes wait, it need not be one that sock_diag can show.
    let unsent = |socket: &&SocketState| socket.notsent() != Some(0);
    let sock_diag = seen
        .filter(unsent)
        .is_some_and(|socket| sample_agrees(socket, facts.sample))
        || facts
            .sample
            .is_some_and(|sample| waits_behind_flight(sample) == Some(true));
    let confidence = confidence(seen.is_some(), sock_diag)?;
    Some(Finding::new(Verdict::NetworkLimited, confidence))
}

/// Whether the hooks saw one of the reasons.
fn limited(socket: &SocketState, facts: &Facts<'_>) -> bool {
    // Whole segments that wait with nothing in flight are paced, however late their timer is.
    let paced = socket.paced_ns.is_some_and(|paced_ns| paced_ns > 0);
    paced || forbids(socket, facts.held_ns) || lossy(socket, facts)
}

/// Whether segments in flight were lost, or are thought so.
fn lossy(socket: &SocketState, facts: &Facts<'_>) -> bool {
    let some = |count: Option<u32>| count.is_some_and(|count| count > 0);
    some(socket.packets_out)
        && (facts.retransmit_timeouts > 0
            || some(socket.lost)
            || some(socket.retransmits)
            || some(socket.retrans))
}

/// Whether the congestion window is full, the queueing discipline is behind, or pacing has forbidden the
/// next segment all the time. Loss alone forbids nothing: TCP sends new data while it recovers.
pub(super) fn forbids(socket: &SocketState, held_ns: u64) -> bool {
    let full = socket
        .in_flight
        .zip(socket.snd_cwnd)
        .is_some_and(|(out, cwnd)| out >= cwnd);
    let paced = socket
        .paced_ns
        .is_some_and(|paced_ns| paced_ns > 0 && paced_ns >= held_ns);
    full || paced || socket.throttled == Some(true)
}

/// Whether `sock_diag` shows bytes that wait behind data in flight, or a buffer full of it, and why.
fn waits_behind_flight(sample: &Sample) -> Option<bool> {
    let some = |count: Option<u32>| count.is_some_and(|count| count > 0);
    let lossy = some(sample.lost) || some(sample.retransmits) || some(sample.retrans);
    let waits = if sample.notsent? > 0 {
        lossy || sample.packets_out? >= sample.snd_cwnd?
    } else {
        lossy && sample.buffer_is_full()?
    };
    Some(waits && sample.packets_out? > 0)
}
