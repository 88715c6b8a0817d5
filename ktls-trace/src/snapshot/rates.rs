//! What changed between two answers about one socket.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::sockdiag::TcpInfo;

/// What changed between two answers about one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Rates {
    /// Time between the two.
    #[schemars(extend("x-unit" = "ms"))]
    pub interval_ms: f64,
    /// Sent for the first time (`tcpi_bytes_sent` without `tcpi_bytes_retrans`).
    #[schemars(extend("x-unit" = "bytes/s"))]
    pub sent_per_s: Option<f64>,
    /// What the peer acknowledged (`tcpi_bytes_acked`).
    #[schemars(extend("x-unit" = "bytes/s"))]
    pub acked_per_s: Option<f64>,
    /// Sent again (`tcpi_bytes_retrans`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub retransmitted: Option<u64>,
    /// Part of the interval in which TCP had data to send (`tcpi_busy_time`).
    #[schemars(extend("x-unit" = "0 to 1"))]
    pub busy: Option<f64>,
    /// Part of the interval in which the peer's window limited it (`tcpi_rwnd_limited`).
    #[schemars(extend("x-unit" = "0 to 1"))]
    pub rwnd_limited: Option<f64>,
    /// Part of the interval in which the send buffer limited it (`tcpi_sndbuf_limited`).
    #[schemars(extend("x-unit" = "0 to 1"))]
    pub sndbuf_limited: Option<f64>,
    /// Whether any byte was sent for the first time, or acknowledged.
    pub moved: Option<bool>,
}

impl Rates {
    /// Compares two answers, `elapsed` apart. A counter that this kernel lacks gives `None`.
    pub fn between(before: &TcpInfo, now: &TcpInfo, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let sent = grown(before.bytes_sent_once(), now.bytes_sent_once());
        let acked = grown(before.bytes_acked, now.bytes_acked);
        let measured = elapsed > Duration::ZERO;
        let per_s =
            |bytes: Option<u64>| measured.then_some(rounded(to_f64(bytes?) / seconds, 10.0));
        // The kernel counts these in jiffies, so that one may come out longer than the interval.
        let share = |before: Option<u64>, now: Option<u64>| {
            let share = to_f64(grown(before, now)?) / 1e6 / seconds;
            measured.then_some(rounded(share.min(1.0), 1e3))
        };
        Self {
            interval_ms: rounded(seconds * 1e3, 1e3),
            sent_per_s: per_s(sent),
            acked_per_s: per_s(acked),
            retransmitted: grown(before.bytes_retrans, now.bytes_retrans),
            busy: share(before.busy_time_us, now.busy_time_us),
            rwnd_limited: share(before.rwnd_limited_us, now.rwnd_limited_us),
            sndbuf_limited: share(before.sndbuf_limited_us, now.sndbuf_limited_us),
            moved: match (sent, acked) {
                (None, None) => None,
                (sent, acked) => Some(sent > Some(0) || acked > Some(0)),
            },
        }
    }
}

/// By how much a counter has grown.
fn grown(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    now?.checked_sub(before?)
}

/// A number without the digits that mean nothing.
pub(super) fn rounded(number: f64, scale: f64) -> f64 {
    (number * scale).round() / scale
}

/// A count as a number with a fraction.
#[expect(
    clippy::cast_precision_loss,
    reason = "rates are rounded for people; counts over 2^53 do not occur in an interval"
)]
pub(super) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(sent: u64, retrans: u64, acked: u64, busy_us: u64) -> TcpInfo {
        TcpInfo {
            bytes_sent: Some(sent),
            bytes_retrans: Some(retrans),
            bytes_acked: Some(acked),
            busy_time_us: Some(busy_us),
            ..TcpInfo::default()
        }
    }

    #[test]
    fn rates_are_a_second_and_retransmissions_do_not_count_as_sent() {
        let rates = Rates::between(
            &info(1000, 0, 900, 0),
            &info(4000, 1000, 1900, 250_000),
            Duration::from_millis(500),
        );
        assert_eq!(rates.sent_per_s, Some(4000.0));
        assert_eq!(rates.acked_per_s, Some(2000.0));
        assert_eq!(rates.retransmitted, Some(1000));
        assert_eq!(rates.busy, Some(0.5));
        assert_eq!(rates.moved, Some(true));
    }

    #[test]
    fn a_retransmission_alone_moves_nothing() {
        let rates = Rates::between(
            &info(1000, 0, 900, 0),
            &info(2000, 1000, 900, 0),
            Duration::from_secs(1),
        );
        assert_eq!(rates.moved, Some(false));
    }

    #[test]
    fn what_the_kernel_does_not_count_is_unknown_and_not_zero() {
        let now = info(1, 1, 1, 1);
        let rates = Rates::between(&TcpInfo::default(), &now, Duration::from_secs(1));
        assert_eq!(
            (rates.sent_per_s, rates.busy, rates.moved),
            (None, None, None)
        );
        let rates = Rates::between(&now, &now, Duration::ZERO);
        assert_eq!((rates.sent_per_s, rates.busy), (None, None));
    }

    #[test]
    fn a_share_is_at_most_the_whole() {
        let rates = Rates::between(
            &info(0, 0, 0, 0),
            &info(0, 0, 0, 1_004_000),
            Duration::from_secs(1),
        );
        assert_eq!(rates.busy, Some(1.0));
    }
}
