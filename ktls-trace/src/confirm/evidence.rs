//! What one run showed: counts and values, gathered from observations, events and the programs'
//! counters as they come. Pure: it decides nothing.

use std::collections::{BTreeMap, HashMap};

use ktls_trace_common::counter;

use super::series::Series;
use crate::{
    correlate::{
        event::{Body, Name},
        holding::refused_since_ns,
        rules::{Gate, Verdict, held_below_mss, never_pushed},
    },
    observe::{Hold, Observation, ReleasePath, SocketKey, What, says_more},
    watch::Seen,
};

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// How the kernel was observed (`hooks`, `polling`, `waiting-for-tls`).
    pub(super) mode: Option<String>,
    /// Attached hooks, by the kernel's function.
    pub(super) hooks: Vec<String>,
    /// What can't be seen, in words.
    pub(super) cannot_see: Vec<String>,
    /// Whether this kernel has `tls_sw_sendpage` (before 6.5): then splice is seen there.
    has_sendpage: bool,
    /// The programs' counters, by slot.
    counters: Vec<Option<u64>>,
    /// Refusals that slept.
    pub(super) slept: u64,
    /// Refusals that got `-EAGAIN`.
    pub(super) eagain: u64,
    /// The holds.
    pub(super) holds: Holds,
    /// How long the holds lasted, in nanoseconds.
    pub(super) held_ns: Series,
    /// Who let them go.
    pub(super) released: BTreeMap<ReleasePath, u64>,
    /// Times the persist timer was armed for a socket under suspicion.
    pub(super) persist_armed: u64,
    /// Times it fired.
    pub(super) persist_fired: u64,
    /// Zero-window probes.
    pub(super) zero_window_probes: u64,
    /// Stalls that were opened, by their last verdict.
    stalls: BTreeMap<String, Verdict>,
    /// Holds under way: since when, and `snd_nxt` then.
    open: HashMap<SocketKey, (u64, Option<u32>)>,
    /// Moment of the last observation.
    last_ns: u64,
}

/// Whether what waits was pushed with `MSG_MORE`, or before 6.5 `MSG_SENDPAGE_NOTLAST`; where pushes are not seen, whether it was sent so.
fn flagged(hold: &Hold) -> bool {
    let flags = hold
        .last_push()
        .map(|push| push.flags)
        .or(hold.send.map(|send| send.flags));
    flags.is_none_or(says_more)
}

/// Refusals with bytes held that were pushed with `MSG_MORE` and that the peer would take, and the values
/// at those moments.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds {
    /// How many.
    pub(super) count: u64,
    /// … of which less than one MSS was held.
    pub(super) below_mss: u64,
    /// … of which TCP had not even been asked to send (before 6.5), at whatever MSS.
    pub(super) never_pushed: u64,
    /// … of which the gate was `tcp_notsent_lowat` alone.
    pub(super) gate_lowat: u64,
    /// … of which the gate was `sk_sndbuf` alone.
    pub(super) gate_sndbuf: u64,
    /// … of which both gates were shut.
    pub(super) gate_both: u64,
    /// … of which the persist timer was pending.
    pub(super) persist_pending: u64,
    /// … of which no timer at all was pending that would send.
    pub(super) no_timer: u64,
    /// Whether the socket itself had set `TCP_NOTSENT_LOWAT`, at the last of them.
    pub(super) own_lowat: Option<bool>,
    /// `TCP_MAXSEG` (`tp->rx_opt.user_mss`) at the last of them; 0: not set.
    pub(super) user_mss: Option<u32>,
    /// Flags of the sends.
    pub(super) send_flags: BTreeMap<u32, u64>,
    /// Flags handed to TCP with the records.
    pub(super) record_flags: BTreeMap<u32, u64>,
    /// Bytes held.
    pub(super) notsent: Series,
    /// `mss_cache`.
    pub(super) mss: Series,
    /// `tcp_notsent_lowat` in force.
    pub(super) lowat: Series,
    /// `sk_sndbuf`.
    pub(super) sndbuf: Series,
    /// `sk_wmem_queued`.
    pub(super) wmem_queued: Series,
    /// Segments in flight.
    pub(super) packets_out: Series,
    /// Bytes in flight.
    pub(super) in_flight_bytes: Series,
    /// Bytes of a record.
    pub(super) record_bytes: Series,
    /// Bytes that the peer would still take.
    pub(super) window_left: Series,
}

impl Holds {
    /// Takes the state at a refusal; whether it is a hold.
    fn note(&mut self, hold: &Hold) -> bool {
        let socket = &hold.socket;
        let below_mss = held_below_mss(socket) == Some(true);
        let never_pushed = never_pushed(hold);
        if (!below_mss && !never_pushed) || !flagged(hold) {
            return false;
        }
        self.count += 1;
        self.below_mss += u64::from(below_mss);
        self.never_pushed += u64::from(never_pushed);
        match Gate::of(socket) {
            Some(Gate::NotsentLowat) => self.gate_lowat += 1,
            Some(Gate::Sndbuf) => self.gate_sndbuf += 1,
            Some(Gate::Both) => self.gate_both += 1,
            None => {}
        }
        self.persist_pending += u64::from(socket.persist_pending == Some(true));
        self.no_timer += u64::from(socket.timer_pending == Some(false));
        self.own_lowat = socket.own_lowat.or(self.own_lowat);
        self.user_mss = socket.user_mss.or(self.user_mss);
        if let Some(send) = &hold.send {
            *self.send_flags.entry(send.flags).or_default() += 1;
        }
        if let Some(push) = &hold.push {
            *self.record_flags.entry(push.flags).or_default() += 1;
            self.record_bytes.note(Some(push.record_bytes));
        }
        self.notsent.note(socket.notsent());
        self.mss.note(socket.mss);
        self.lowat.note(socket.notsent_lowat);
        self.sndbuf.note(socket.sndbuf);
        self.wmem_queued.note(socket.wmem_queued);
        self.packets_out.note(socket.packets_out);
        self.in_flight_bytes.note(socket.unacked_bytes());
        self.window_left.note(socket.window_left());
        true
    }

    /// The gate that was shut in most of them.
    pub(super) fn gate(&self) -> Option<Gate> {
        [
            (self.gate_lowat, Gate::NotsentLowat),
            (self.gate_sndbuf, Gate::Sndbuf),
            (self.gate_both, Gate::Both),
        ]
        .into_iter()
        .filter(|&(count, _)| count > 0)
        .max_by_key(|&(count, _)| count)
        .map(|(_, gate)| gate)
    }

    /// Holds at which a gate was shut.
    pub(super) fn gated(&self) -> u64 {
        self.gate_lowat + self.gate_sndbuf + self.gate_both
    }
}

impl Evidence {
    /// Nothing yet, on a kernel that has `tls_sw_sendpage` or not.
    pub(super) fn on(has_sendpage: bool) -> Self {
        Self {
            has_sendpage,
            ..Self::default()
        }
    }

    /// Takes what a run has seen.
    pub(super) fn take(&mut self, seen: Seen<'_>) {
        match seen {
            Seen::Observation(observation) => self.observed(observation),
            Seen::Counters(counters) => counters.clone_into(&mut self.counters),
            Seen::Event(event) => match &event.body {
                Body::Stall(stall) if event.event != Name::StallClosed => {
                    self.stalls.insert(stall.stall.clone(), stall.verdict);
                }
                Body::Started(started) => {
                    self.mode = Some(started.mode.clone());
                    self.hooks.clone_from(&started.hooks);
                    self.cannot_see.clone_from(&started.cannot_see);
                }
                Body::Stall(_)
                | Body::Probes(_)
                | Body::Reloaded(_)
                | Body::Lost(_)
                | Body::Stopped(_) => {}
            },
        }
    }

    /// Takes an observation.
    fn observed(&mut self, observation: &Observation) {
        self.last_ns = self.last_ns.max(observation.at_ns);
        match &observation.what {
            What::Refused {
                key,
                blocking,
                hold,
                ..
            } => {
                if !self.holds.note(hold) {
                    return;
                }
                if *blocking {
                    self.slept += 1;
                } else {
                    self.eagain += 1;
                }
                let snd_nxt = hold.socket.snd_nxt;
                if let Some(&(since_ns, before)) = self.open.get(key) {
                    if before == snd_nxt {
                        return;
                    }
                    self.ended(since_ns, observation.at_ns, ReleasePath::Unknown);
                }
                let since_ns = refused_since_ns(hold, observation.at_ns);
                self.open.insert(*key, (since_ns, snd_nxt));
            }
            What::Released { key, path, .. } => {
                if let Some((since_ns, _)) = self.open.remove(key) {
                    self.ended(since_ns, observation.at_ns, *path);
                }
            }
            What::PersistArmed { .. } => self.persist_armed += 1,
            What::PersistFired { .. } => self.persist_fired += 1,
            What::ZeroWindowProbe { .. } => self.zero_window_probes += 1,
            What::Resumed { .. }
            | What::RetransmitTimeout { .. }
            | What::Closing { .. }
            | What::Sampled { .. }
            | What::ProcessNamed { .. }
            | What::Hooks { .. }
            | What::Clock { .. }
            | What::Intervals { .. }
            | What::Tick => {}
        }
    }

    /// A hold has ended.
    fn ended(&mut self, since_ns: u64, at_ns: u64, path: ReleasePath) {
        self.held_ns.note(Some(at_ns.saturating_sub(since_ns)));
        *self.released.entry(path).or_default() += 1;
    }

    /// The run is over: what is still held was let go by nobody.
    pub(super) fn finish(&mut self) {
        for (_, (since_ns, _)) in std::mem::take(&mut self.open) {
            self.ended(since_ns, self.last_ns, ReleasePath::None);
        }
    }

    /// Whether a function is hooked.
    pub(super) fn hooked(&self, function: &str) -> bool {
        self.hooks.iter().any(|hook| hook == function)
    }

    /// A counter, if the hook behind it was attached.
    fn counter(&self, slot: u32, function: &str) -> Option<u64> {
        let slot = usize::try_from(slot).ok()?;
        self.counters
            .get(slot)
            .copied()
            .flatten()
            .filter(|_| self.hooked(function))
    }

    /// The function at which splice is seen.
    pub(super) fn splices_at(&self) -> &'static str {
        if self.has_sendpage {
            "tls_sw_sendpage"
        } else {
            "tls_sw_sendmsg"
        }
    }

    /// Sends begun.
    pub(super) fn sends(&self) -> Option<u64> {
        self.counter(counter::SENDS, "tls_sw_sendmsg")
    }

    /// … of which by splice or sendfile.
    pub(super) fn splice_sends(&self) -> Option<u64> {
        self.counter(counter::SENDS_SPLICE, self.splices_at())
    }

    /// … of which with `MSG_MORE`.
    pub(super) fn splice_sends_more(&self) -> Option<u64> {
        self.counter(counter::SENDS_SPLICE_MORE, self.splices_at())
    }

    /// Complete records handed to TCP.
    pub(super) fn records(&self) -> Option<u64> {
        self.counter(counter::RECORDS, "tls_push_sg")
    }

    /// … of which with `MSG_MORE`.
    pub(super) fn records_more(&self) -> Option<u64> {
        self.counter(counter::RECORDS_MORE, "tls_push_sg")
    }

    /// … after which less than one MSS was left unsent, the window open.
    pub(super) fn records_held(&self) -> Option<u64> {
        self.counter(counter::RECORDS_HELD, "tls_push_sg")
    }

    /// Bytes of the complete records.
    pub(super) fn record_bytes(&self) -> Option<u64> {
        self.counter(counter::RECORD_BYTES, "tls_push_sg")
    }

    /// Refusals of writers, ordinary back-pressure included.
    pub(super) fn refused(&self) -> Option<u64> {
        self.counter(counter::REFUSED, "sk_stream_wait_memory")
    }

    /// … of which ordinary back-pressure.
    pub(super) fn back_pressure(&self) -> Option<u64> {
        self.counter(counter::BACK_PRESSURE, "sk_stream_wait_memory")
    }

    /// Stalls that were judged `corked-completed-record` last.
    pub(super) fn corked_stalls(&self) -> u64 {
        let corked = |verdict: &&Verdict| **verdict == Verdict::CorkedCompletedRecord;
        self.stalls.values().filter(corked).count() as u64
    }

    /// All stalls.
    pub(super) fn stalls(&self) -> u64 {
        self.stalls.len() as u64
    }

    /// Whether a hold never ended by itself: no timer, no acknowledgement and no send let it go.
    pub(super) fn hung(&self) -> bool {
        let by = |path| self.released.get(&path).copied().unwrap_or(0);
        let last = by(ReleasePath::Close) + by(ReleasePath::None);
        last > 0 && self.released.values().sum::<u64>() == last && self.holds.no_timer > 0
    }
}
