//! Holds found without any hook: the sender's unsent bytes, asked for every millisecond (`SIOCOUTQNSD`),
//! and the times at which bytes reach the receiver. Ground truth for what a tracer says of the same run.
//!
//! A hold begins when bytes are unsent and ends when the next ones arrive: over the loopback they arrive
//! the moment they are let go. Each is known to the millisecond of the asking and to what the two threads
//! wait for a processor.

use std::{
    net::TcpStream,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::ioctl_read_bad;
use serde::Serialize;

use super::tally::fractional_ms;

/// How often the sender is asked.
const EVERY: Duration = Duration::from_millis(1);
/// Shorter ones are not counted: they may begin and end between two questions.
const LEAST: Duration = Duration::from_millis(20);
/// Reads that are closer together bring what was let go at once.
const TOGETHER: Duration = Duration::from_millis(3);
/// Between the peer's delayed ACK (`TCP_DELACK_MIN`, 40 ms) and the persist timer (`TCP_RTO_MIN`, 200 ms).
const LONG: Duration = Duration::from_millis(100);

/// `SIOCOUTQNSD` of `linux/sockios.h`: bytes not yet sent.
const SIOCOUTQNSD: libc::c_ulong = 0x894b;
ioctl_read_bad!(unsent_bytes, SIOCOUTQNSD, libc::c_int);

/// The holds of a connection longer than 20 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Holds {
    /// How many.
    pub count: u64,
    /// Those longer than 100 ms: no delayed ACK takes so long, so the persist timer ended them.
    pub long: u64,
    /// All of them together, in milliseconds.
    pub total_ms: f64,
    /// The median, in milliseconds; 0 without any.
    pub median_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
}

/// Asks until the run ends: when bytes began to be unsent, or ceased to be.
pub(super) fn watch(sender: &TcpStream, ending: &AtomicBool) -> Vec<(Instant, bool)> {
    let mut changes = Vec::new();
    let mut before = false;
    while !ending.load(Ordering::Acquire) {
        let mut unsent = 0;
        // SAFETY: the descriptor is open and the kernel writes one int to the address.
        let answer = unsafe { unsent_bytes(sender.as_raw_fd(), &raw mut unsent) };
        if answer.is_err() {
            break;
        }
        let now = unsent > 0;
        if now != before {
            changes.push((Instant::now(), now));
            before = now;
        }
        sleep(EVERY);
    }
    changes
}

/// The holds, from the changes that the sender saw and the receiver's arrivals, both in the order of time.
pub(super) fn find(changes: &[(Instant, bool)], arrivals: &[Instant]) -> Holds {
    let mut durations = Vec::new();
    let mut changes = changes.iter().peekable();
    // Since when bytes have been unsent, as far as asked.
    let mut unsent_since = None;
    let mut last: Option<Instant> = None;
    for &arrival in arrivals {
        let mut waited_since = unsent_since;
        // The queue may be seen empty, and filled again, before the receiver has noted the arrival.
        while let Some(&(at, now)) = changes.next_if(|(at, _)| *at <= arrival) {
            unsent_since = now.then_some(at);
            // Seen empty right after an arrival: it was that one that emptied it.
            if !now && last.is_some_and(|last| at.duration_since(last) <= TOGETHER) {
                waited_since = None;
            }
            waited_since = waited_since.or(unsent_since);
        }
        let release = last.is_none_or(|last| arrival.duration_since(last) > TOGETHER);
        if release && let Some(since) = waited_since {
            let since = last.map_or(since, |last| since.max(last));
            durations.push(arrival.duration_since(since));
        }
        last = Some(arrival);
    }
    durations.retain(|&duration| duration >= LEAST);
    durations.sort_unstable();
    Holds {
        count: durations.len() as u64,
        long: durations.iter().filter(|&&held| held > LONG).count() as u64,
        total_ms: fractional_ms(durations.iter().sum()),
        median_ms: durations
            .get(durations.len() / 2)
            .map_or(0.0, |&median| fractional_ms(median)),
        max_ms: durations.last().map_or(0.0, |&max| fractional_ms(max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(changes: &[(u64, bool)], arrivals: &[u64]) -> Holds {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let changes: Vec<_> = changes.iter().map(|&(ms, now)| (at(ms), now)).collect();
        let arrivals: Vec<_> = arrivals.iter().map(|&ms| at(ms)).collect();
        find(&changes, &arrivals)
    }

    #[test]
    fn records_that_follow_each_other_unseen_are_told_by_their_arrivals() {
        // Never seen empty: the next record is queued before the sender is asked again.
        let expected = Holds {
            count: 3,
            long: 0,
            total_ms: 120.0,
            median_ms: 40.0,
            max_ms: 40.0,
        };
        assert_eq!(holds(&[(10, true)], &[50, 90, 130]), expected);
    }

    #[test]
    fn what_was_sent_at_once_was_not_held() {
        assert_eq!(
            holds(&[(10, true), (50, false), (300, true)], &[49, 200, 340]).count,
            2
        );
        assert_eq!(holds(&[], &[10, 20, 30]), Holds::default());
    }

    #[test]
    fn a_queue_seen_empty_just_before_the_arrival_was_held_until_then() {
        let found = holds(
            &[(10, true), (49, false), (52, true), (91, false)],
            &[50, 92],
        );
        assert_eq!((found.count, found.total_ms), (2, 80.0));
    }

    #[test]
    fn a_hold_that_outlasts_every_delayed_ack_is_long() {
        let found = holds(&[(10, true)], &[50, 255, 295]);
        assert_eq!((found.count, found.long), (3, 1));
    }

    #[test]
    fn a_record_that_is_read_in_pieces_is_one() {
        assert_eq!(holds(&[(10, true)], &[50, 51, 52, 92]).count, 2);
    }
}
