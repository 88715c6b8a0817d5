//! The receiving end: plain TCP that throws the bytes away and notes when they came.

use std::{
    io::{self, Read},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{config::Receiver, records::RecordCounter, report::Gaps, tally::fractional_ms};

/// A pause longer than this between two reads is a gap: shorter than a delayed ACK (40 ms), far longer than
/// a healthy loopback ever pauses.
const GAP: Duration = Duration::from_millis(20);

/// Most bytes taken by one read.
const READ_BYTES: usize = 256 << 10;

/// Reads a second of a slow receiver.
const SLOW_READS_PER_S: u32 = 16;

/// How often a receiver that has stopped looks whether the run has ended.
const LOOK_UP: Duration = Duration::from_millis(20);

/// What a receiver tells when it is done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Complete TLS records read before the limit.
    pub(super) records: u64,
    /// Their bytes, framing included.
    pub(super) record_bytes: u64,
    /// Reads that brought bytes.
    pub(super) arrivals: u64,
    /// When they came, if that was to be kept.
    pub(super) arrived: Vec<Instant>,
    /// Pauses between them.
    pub(super) gaps: Gaps,
    /// Whether the end of the stream was seen before the limit.
    pub(super) saw_end: bool,
    /// What ended it early.
    pub(super) error: Option<String>,
}

/// What the run can see of a receiver while it works.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    bytes: AtomicU64,
    last_read_us: AtomicU64,
}

impl Progress {
    /// Nothing read yet, counting time from the run's start.
    pub(super) fn since(started: Instant) -> Self {
        Self {
            started,
            bytes: AtomicU64::new(0),
            last_read_us: AtomicU64::new(0),
        }
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Time since the last read, or since the start if there was none.
    pub(super) fn silent(&self) -> Duration {
        let last = Duration::from_micros(self.last_read_us.load(Ordering::Acquire));
        self.started.elapsed().saturating_sub(last)
    }

    fn note(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::AcqRel);
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_read_us.store(now, Ordering::Release);
    }
}

/// Measures the time between reads.
#[derive(Debug, Default)]
struct Pauses {
    last_read: Option<Instant>,
    count: u64,
    total: Duration,
    longest: Duration,
}

impl Pauses {
    /// Bytes were read at that time.
    fn note(&mut self, now: Instant) {
        let Some(last) = self.last_read.replace(now) else {
            return;
        };
        let pause = now.saturating_duration_since(last);
        if pause > GAP {
            self.count += 1;
            self.total += pause;
            self.longest = self.longest.max(pause);
        }
    }

    fn gaps(&self) -> Gaps {
        Gaps {
            count: self.count,
            total_ms: fractional_ms(self.total),
            max_ms: fractional_ms(self.longest),
        }
    }
}

/// Reads until the stream or the run ends. Bytes that come once the run is ending, which are those the
/// ending itself lets go, are read but not counted.
pub(super) fn run(
    mut socket: TcpStream,
    how: Receiver,
    progress: &Progress,
    ending: &AtomicBool,
    keep_arrivals: bool,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut records = RecordCounter::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut pauses = Pauses::default();
    loop {
        let most = match how {
            Receiver::Drain => READ_BYTES,
            Receiver::Slow { bytes_per_s } => {
                let portion = bytes_per_s.div_ceil(SLOW_READS_PER_S.into()).max(1);
                usize::try_from(portion)
                    .unwrap_or(READ_BYTES)
                    .min(READ_BYTES)
            }
            Receiver::Stop { after_bytes } => {
                let left = after_bytes.saturating_sub(progress.bytes());
                if left == 0 {
                    while !ending.load(Ordering::Acquire) {
                        sleep(LOOK_UP);
                    }
                    break;
                }
                usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES)
            }
        };
        let read = socket.read(&mut buffer[..most]);
        if ending.load(Ordering::Acquire) {
            match read {
                Ok(bytes) if bytes > 0 => continue,
                _ => break,
            }
        }
        match read {
            Ok(0) => {
                outcome.saw_end = true;
                break;
            }
            Ok(bytes) => {
                progress.note(bytes);
                records.feed(&buffer[..bytes]);
                outcome.arrivals += 1;
                let now = Instant::now();
                pauses.note(now);
                if keep_arrivals {
                    outcome.arrived.push(now);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                outcome.error = Some(format!("read: {error}"));
                break;
            }
        }
        if let Receiver::Slow { .. } = how {
            sleep(Duration::from_secs(1) / SLOW_READS_PER_S);
        }
    }
    outcome.records = records.complete();
    outcome.record_bytes = records.complete_bytes();
    outcome.gaps = pauses.gaps();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pauses_over_20_ms_are_gaps() {
        let begun = Instant::now();
        let mut pauses = Pauses::default();
        for at_ms in [500, 505, 525, 565, 565, 800] {
            pauses.note(begun + Duration::from_millis(at_ms));
        }
        let expected = Gaps {
            count: 2,
            total_ms: 275.0,
            max_ms: 235.0,
        };
        assert_eq!(pauses.gaps(), expected);
    }
}
