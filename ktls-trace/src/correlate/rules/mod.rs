//! The verdict rules, one file each, and the order in which they are asked.
//!
//! A rule says what it needs and answers only if the facts decide. What one source of facts shows is
//! [`Confidence::Consistent`]; [`Confidence::Proven`] takes the hooks and `sock_diag`, agreeing.

mod application_cork;
mod corked_record;
mod encryption_pending;
mod nagle;
mod network_limited;
mod open_record;
mod receiver_limited;
mod send_buffer_limited;
mod zero_window;

use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use self::corked_record::never_pushed;
use crate::observe::{Hold, Sample, SocketState};

/// What holds a socket back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Complete TLS records sit unsent below one MSS, window open, because they were pushed with
    /// `MSG_MORE`.
    CorkedCompletedRecord,
    /// The peer's window is shut: it has stopped reading.
    ZeroWindow,
    /// The window is full of data in flight, or was shut and opened again: the peer is slow.
    ReceiverLimited,
    /// In flight is all that the network takes: segments were lost, the congestion window is full, or the next segment
    /// waits for the queueing discipline or for pacing.
    NetworkLimited,
    /// Nothing is unsent: the send buffer is full of data in flight, whose acknowledgements flow.
    SendBufferLimited,
    /// The application set `TCP_CORK`.
    ApplicationCork,
    /// Nagle's algorithm waits for the acknowledgement of an earlier short segment.
    Nagle,
    /// The application left a TLS record unfinished with `MSG_MORE`.
    OpenRecord,
    /// Asynchronous encryption has not returned.
    EncryptionPending,
    /// The facts decide for none of these.
    Unknown,
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// One of the two sources of facts says so; the other is missing or does not decide.
    Consistent,
    /// Kernel hooks and `sock_diag` agree.
    Proven,
}

/// Which limit the refused writer met (`sk_stream_memory_free`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Unsent bytes reached `tcp_notsent_lowat` (the sysctl, or the socket's own `TCP_NOTSENT_LOWAT`).
    NotsentLowat,
    /// Queued memory reached the send buffer (`sk_wmem_queued`, `sk_sndbuf`).
    Sndbuf,
    /// Both were met.
    Both,
}

impl Gate {
    /// The gate that a socket's values shut, if any.
    pub fn of(socket: &SocketState) -> Option<Self> {
        let notsent = socket
            .notsent()
            .zip(socket.notsent_lowat)
            .is_some_and(|(q, lowat)| q >= lowat);
        let sndbuf = socket.buffer_is_full() == Some(true);
        match (notsent, sndbuf) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::NotsentLowat),
            (false, true) => Some(Self::Sndbuf),
            (false, false) => None,
        }
    }
}

/// What a rule looks at: one hold and what was seen during it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// What the hooks saw.
    pub hold: Option<&'a Hold>,
    /// What `sock_diag` answered during the hold, last.
    pub sample: Option<&'a Sample>,
    /// How long it has lasted, in nanoseconds.
    pub held_ns: u64,
    /// Zero-window probes sent during it.
    pub zero_window_probes: u32,
    /// Times that the retransmission timer fired during it.
    pub retransmit_timeouts: u32,
    /// Times that the peer's window was shut in this episode and opened again.
    pub window_reopened: u32,
    /// Answers of `sock_diag` in a row, during a hold that no hook sees, that showed no timer by
    /// which TCP would send.
    pub untimed_answers: u32,
}

/// A verdict and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What holds the socket back.
    pub verdict: Verdict,
    /// How sure that is.
    pub confidence: Confidence,
    /// The gate, for a corked record.
    pub gate: Option<Gate>,
}

impl Finding {
    /// A finding without a gate.
    fn new(verdict: Verdict, confidence: Confidence) -> Self {
        Self {
            verdict,
            confidence,
            gate: None,
        }
    }
}

/// A rule: an answer if the facts decide.
type Rule = fn(&Facts<'_>) -> Option<Finding>;

/// The rules in the order in which they are asked: what would hold the bytes whatever comes after it
/// comes first.
///
/// A shut window stops everything, and a peer that opened it again is slow, not stopped. An application's
/// own cork would hold the bytes with or without `MSG_MORE`, and a record that it left open is its own
/// `MSG_MORE`. The corked record asks whether the network would have held it anyway, and leaves the rest
/// to that rule; Nagle needs nothing but an earlier short segment. Where nothing is unsent, the buffer and
/// then the cipher are left.
const RULES: &[Rule] = &[
    receiver_limited::judge,
    zero_window::judge,
    application_cork::judge,
    open_record::judge,
    corked_record::judge,
    network_limited::judge,
    nagle::judge,
    send_buffer_limited::judge,
    encryption_pending::judge,
];

/// Asks the rules.
pub fn judge(facts: &Facts<'_>) -> Finding {
    RULES
        .iter()
        .find_map(|rule| rule(facts))
        .unwrap_or(Finding::new(Verdict::Unknown, Confidence::Consistent))
}

/// Proven if both sources say so, consistent if one does, nothing if neither.
fn confidence(hooks: bool, sock_diag: bool) -> Option<Confidence> {
    match (hooks, sock_diag) {
        (true, true) => Some(Confidence::Proven),
        (true, false) | (false, true) => Some(Confidence::Consistent),
        (false, false) => None,
    }
}

/// Less than one segment is unsent although the peer would take it, as the hooks saw it.
pub(crate) fn held_below_mss(socket: &SocketState) -> Option<bool> {
    let notsent = socket.notsent()?;
    Some(0 < notsent && notsent < socket.mss? && socket.window_left()? >= notsent)
}

/// Whether `sock_diag` saw the same bytes unsent with the window open.
fn sample_agrees(socket: &SocketState, sample: Option<&Sample>) -> bool {
    sample.is_some_and(|sample| {
        sample.notsent.is_some()
            && sample.notsent == socket.notsent()
            && sample.snd_wnd >= sample.notsent.min(sample.mss)
            && sample.tls.is_software() != Some(false)
    })
}

#[cfg(test)]
pub(crate) mod tests;
