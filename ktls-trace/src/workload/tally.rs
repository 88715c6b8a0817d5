//! One connection of a run: what is seen of it at the end, and how that becomes its part of the report.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    ConnectionReport, config, holds, receiver, receiver::Progress, sender, socket::SenderState,
};

/// Silence at the receiver after which a sender that still has bytes to send counts as hung. The
/// slowest release of a held record that recovers (persist timer, backed off) stays well below.
const HUNG_SILENCE: Duration = Duration::from_secs(1);

/// One connection while it runs.
pub(super) struct Running {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    /// A second handle on the sender's socket, to look at it and to shut it down.
    pub(super) sender: TcpStream,
    /// The same for the receiver's.
    pub(super) receiver: TcpStream,
    /// Payload bytes accepted by calls that returned.
    pub(super) sent: Arc<AtomicU64>,
    pub(super) received: Arc<Progress>,
    pub(super) sender_outcome: Option<sender::Outcome>,
    pub(super) receiver_outcome: Option<receiver::Outcome>,
    /// Looks for holds, if they are to be found.
    pub(super) watcher: Option<JoinHandle<Vec<(Instant, bool)>>>,
    /// When the second of its two ends was done.
    pub(super) done_after: Option<Duration>,
}

/// A connection at the moment the run ended, before its sockets were shut down.
pub(super) struct Snapshot {
    pub(super) sender: SenderState,
    pub(super) bytes_received: u64,
    pub(super) silent: Duration,
    pub(super) sender_done: bool,
    pub(super) hung: bool,
    /// How long the connection had run: until both ends were done, or until the end.
    pub(super) ran: Duration,
}

impl Running {
    /// What can be seen from outside, while the ends may still be blocked.
    pub(super) fn snapshot(&self, elapsed: Duration) -> Snapshot {
        let silent = self.received.silent();
        let sender_done = self.sender_outcome.is_some();
        Snapshot {
            sender: SenderState::read(&self.sender),
            bytes_received: self.received.bytes(),
            silent,
            sender_done,
            hung: !sender_done && silent >= HUNG_SILENCE.min(elapsed),
            ran: self.done_after.unwrap_or(elapsed),
        }
    }

    pub(super) fn report(
        &mut self,
        snapshot: &Snapshot,
        overhead: Option<u64>,
    ) -> ConnectionReport {
        let stuck = self.sender_outcome.is_none();
        let sender = self.sender_outcome.take().unwrap_or_default();
        let receiver = self.receiver_outcome.take();
        let saw_end = receiver.as_ref().is_some_and(|receiver| receiver.saw_end);
        let records_received = receiver
            .as_ref()
            .map(|receiver| receiver.records)
            .filter(|_| overhead.is_some());
        let receiver = receiver.unwrap_or_default();
        let returned = self.sent.load(Ordering::Acquire);
        let wire_bytes = snapshot.sender.tcp.bytes_accepted();
        let bytes_sent = match wire_bytes {
            // The whole tally is in what the calls returned.
            _ if snapshot.sender_done => returned,
            Some(wire) => returned.max(payload(
                wire,
                receiver.records,
                receiver.record_bytes,
                overhead,
            )),
            None => returned,
        };
        // A watcher looks up every millisecond, so it has ended by now.
        let holds = self
            .watcher
            .take()
            .and_then(|watcher| watcher.join().ok())
            .map(|changes| holds::find(&changes, &receiver.arrived));
        let error = if stuck {
            Some("the send did not return when its socket was shut down".to_owned())
        } else {
            sender.error.or(receiver.error)
        };
        ConnectionReport {
            src: self.src.to_string(),
            dst: self.dst.to_string(),
            bytes_sent,
            bytes_received: snapshot.bytes_received,
            records_received,
            duration_ms: whole_ms(snapshot.ran),
            eagain: sender.eagain,
            longest_wait_ms: fractional_ms(sender.longest_wait),
            mss: snapshot.sender.mss,
            sndbuf: snapshot.sender.sndbuf,
            wire_bytes_accepted: wire_bytes,
            notsent_at_end: snapshot.sender.tcp.notsent_bytes,
            in_flight_at_end: snapshot.sender.tcp.bytes_in_flight(),
            arrivals: receiver.arrivals,
            gaps: receiver.gaps,
            holds,
            silent_at_end_ms: fractional_ms(snapshot.silent),
            finished: sender.finished && saw_end,
            hung: snapshot.hung || stuck,
            error,
        }
    }
}

/// Payload in the bytes TCP has taken. How many records they are is known of those the receiver has read; the
/// others are full ones but for the last.
fn payload(wire: u64, records: u64, record_bytes: u64, overhead: Option<u64>) -> u64 {
    let Some(overhead) = overhead else {
        return wire;
    };
    let unread = wire.saturating_sub(record_bytes);
    let unread_records = unread.div_ceil(config::RECORD_PAYLOAD + overhead);
    wire.saturating_sub(overhead * (records + unread_records))
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds to the microsecond.
pub(super) fn fractional_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// MiB a second, to the thousandth; 0 for a run that took no time.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people; 2^53 bytes are far away"
)]
pub(crate) fn mib_per_s(bytes: u64, duration_ms: u64) -> f64 {
    if duration_ms == 0 {
        return 0.0;
    }
    let rate = bytes as f64 / f64::from(1 << 20) / (duration_ms as f64 / 1e3);
    (rate * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_is_not_payload() {
        // 15 records read, the 16th held: what a stalled TLS 1.3 sender shows.
        assert_eq!(payload(16 * 16406, 15, 15 * 16406, Some(22)), 16 * 16384);
        // A short record read, a short one queued.
        assert_eq!(
            payload(16406 + 122 + 16406 + 522, 2, 16406 + 122, Some(22)),
            2 * 16384 + 100 + 500
        );
        assert_eq!(payload(5000, 0, 0, None), 5000);
        assert_eq!(payload(0, 0, 0, Some(22)), 0);
    }
}
