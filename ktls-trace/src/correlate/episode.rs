//! One stall episode: what it adds up to.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
};

use super::{
    event::{Cadence, Spread, Totals, VerdictTotals},
    rules::{Finding, Verdict},
};
use crate::observe::ReleasePath;

/// Durations that are kept for the median: 2 KiB an episode.
const KEPT: usize = 512;
/// Releases that decide on the cadence.
const RECENT: usize = 8;
/// A socket moves between the cadences all the time: changes are told at least this far apart.
const CADENCE_NS: u64 = 10_000_000_000;

/// An open episode.
#[derive(Clone, Debug)]
pub(super) struct Episode {
    /// Its name.
    pub(super) name: String,
    /// When the first byte of it was held.
    since_ns: u64,
    /// The finding that was told last.
    pub(super) told: Finding,
    /// The cadence that was told last.
    pub(super) cadence: Option<Cadence>,
    /// When the cadence was told last.
    cadence_ns: u64,
    /// The last releases.
    recent: VecDeque<ReleasePath>,
    /// Holds by who let them go.
    pub(super) released: BTreeMap<ReleasePath, u64>,
    /// Times that the peer's window was shut for longer than the threshold and opened again.
    pub(super) window_reopened: u32,
    /// Sequence number after the last byte that left, as far as known.
    snd_nxt: Option<u32>,
    /// Bytes that left.
    bytes_sent: u64,
    /// Holds that are over.
    holds: u64,
    /// Records that were in them.
    records: u64,
    /// Bytes that were in them.
    bytes: u64,
    /// Their durations in microseconds, the first [`KEPT`] of them.
    durations_us: Vec<u32>,
    /// Shortest, longest and sum of all durations.
    extent_ns: Option<(u64, u64, u64)>,
    /// Holds longer than the threshold by their verdict, and how long they lasted.
    verdicts: BTreeMap<Verdict, (u64, u64)>,
}

impl Episode {
    /// Opens an episode.
    pub(super) fn new(name: String, since_ns: u64, told: Finding, snd_nxt: Option<u32>) -> Self {
        Self {
            name,
            since_ns,
            told,
            cadence: None,
            cadence_ns: 0,
            recent: VecDeque::with_capacity(RECENT),
            released: [
                ReleasePath::PeerAck,
                ReleasePath::PersistTimer,
                ReleasePath::LaterSend,
                ReleasePath::Close,
                ReleasePath::None,
            ]
            .map(|path| (path, 0))
            .into(),
            window_reopened: 0,
            snd_nxt,
            bytes_sent: 0,
            holds: 0,
            records: 0,
            bytes: 0,
            durations_us: Vec::new(),
            extent_ns: None,
            verdicts: BTreeMap::new(),
        }
    }

    /// How long ago its first byte was held.
    pub(super) fn age_ns(&self, at_ns: u64) -> u64 {
        at_ns.saturating_sub(self.since_ns)
    }

    /// Notes how far the socket has come.
    pub(super) fn progress(&mut self, snd_nxt: Option<u32>) {
        if let (Some(before), Some(now)) = (self.snd_nxt, snd_nxt) {
            let step = now.wrapping_sub(before);
            // A step back is an observation that came late.
            if step.cast_signed() >= 0 {
                self.bytes_sent += u64::from(step);
                self.snd_nxt = snd_nxt;
            }
        } else if snd_nxt.is_some() {
            self.snd_nxt = snd_nxt;
        }
    }

    /// Notes the end of a hold.
    pub(super) fn hold_ended(
        &mut self,
        path: ReleasePath,
        duration_ns: u64,
        bytes: Option<u32>,
        records: Option<u32>,
    ) {
        *self.released.entry(path).or_insert(0) += 1;
        self.holds += 1;
        self.bytes += u64::from(bytes.unwrap_or(0));
        self.records += u64::from(records.unwrap_or(0));
        if self.durations_us.len() < KEPT {
            let us = duration_ns / 1000;
            self.durations_us
                .push(u32::try_from(us).unwrap_or(u32::MAX));
        }
        let (min, max, sum) = self.extent_ns.unwrap_or((u64::MAX, 0, 0));
        self.extent_ns = Some((
            min.min(duration_ns),
            max.max(duration_ns),
            sum + duration_ns,
        ));
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(path);
    }

    /// Notes what a hold longer than the threshold was.
    pub(super) fn judged(&mut self, verdict: Verdict, duration_ns: u64) {
        let (holds, total_ns) = self.verdicts.entry(verdict).or_default();
        *holds += 1;
        *total_ns += duration_ns;
    }

    /// Looks at the last releases; whether their cadence is new and worth telling.
    pub(super) fn cadence_changed(&mut self, at_ns: u64) -> bool {
        let count = |path| {
            self.recent
                .iter()
                .fold(0, |sum, &recent| sum + u64::from(recent == path))
        };
        let cadence = self.prevailing(
            count(ReleasePath::PeerAck),
            count(ReleasePath::PersistTimer),
        );
        let early = self.cadence.is_some() && at_ns.saturating_sub(self.cadence_ns) < CADENCE_NS;
        if cadence == self.cadence || early {
            return false;
        }
        self.cadence = cadence;
        self.cadence_ns = at_ns;
        true
    }

    /// Settles on the cadence of the whole episode.
    pub(super) fn conclude_cadence(&mut self) {
        let count = |path| self.released.get(&path).copied().unwrap_or(0);
        self.cadence = self.prevailing(
            count(ReleasePath::PeerAck),
            count(ReleasePath::PersistTimer),
        );
    }

    /// The cadence that more releases speak for; if as many do, it stays.
    fn prevailing(&self, acks: u64, persists: u64) -> Option<Cadence> {
        match acks.cmp(&persists) {
            Ordering::Greater => Some(Cadence::DelayedAck),
            Ordering::Less => Some(Cadence::Persist),
            Ordering::Equal => self.cadence,
        }
    }

    /// The sums so far.
    pub(super) fn totals(&self, at_ns: u64) -> Totals {
        let duration_ns = at_ns.saturating_sub(self.since_ns);
        let seconds = ms(duration_ns) / 1000.0;
        let held_ms = self.extent_ns.map(|(min, max, total)| {
            let mut sorted = self.durations_us.clone();
            sorted.sort_unstable();
            let median = sorted.get(sorted.len() / 2);
            Spread {
                min: ms(min),
                median: median.map_or(0.0, |&us| precise(u64::from(us)) / 1000.0),
                max: ms(max),
                total: ms(total),
            }
        });
        Totals {
            holds: self.holds,
            records: self.records,
            bytes: self.bytes,
            bytes_sent: self.bytes_sent,
            duration_ms: ms(duration_ns),
            bytes_per_s: (seconds > 0.0).then(|| (precise(self.bytes_sent) / seconds).round()),
            held_ms,
            verdicts: self
                .verdicts
                .iter()
                .map(|(&verdict, &(holds, total_ns))| {
                    let ms = ms(total_ns);
                    (verdict, VerdictTotals { holds, ms })
                })
                .collect(),
        }
    }
}

/// Nanoseconds as milliseconds, to the microsecond.
pub(super) fn ms(ns: u64) -> f64 {
    precise(ns / 1000) / 1000.0
}

/// A count as a floating-point number.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts here stay far below 2^53"
)]
fn precise(count: u64) -> f64 {
    count as f64
}
