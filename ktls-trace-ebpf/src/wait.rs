//! A writer is refused: `sk_stream_wait_memory`, the gate.
//!
//! It is called for plain TCP and for ordinary back-pressure all the time, so this is where the
//! kernel side decides what may matter.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_smp_processor_id,
};
use aya_log_ebpf::{debug, warn};
use ktls_trace_common::{
    counter,
    event::{self, Header, Refused, Suspect, Tx},
};

use crate::{
    entry::{Entry, hook},
    maps::{EVENTS, SUSPECTS, TX, count, filter, note_suspicion},
    record::look_back,
    send::monotonic_ns,
    sock::{self, Queue},
};

hook! {
    /// `int sk_stream_wait_memory(struct sock *sk, long *timeo_p)`.
    sk_stream_wait_memory => wait_memory
}

#[inline(always)]
fn wait_memory(entry: &impl Entry) {
    let sk = entry.arg(0);
    let Some(tls) = sock::tls_context(sk) else {
        return;
    };
    let pid_tgid = bpf_get_current_pid_tgid();
    if !watched(sk, (pid_tgid >> 32) as u32, sock::current_uts()) {
        return;
    }
    count(counter::REFUSED);
    let Some(queue) = Queue::read(sk) else {
        return;
    };
    if filter!(uts) != 0
        && let Some(tx) = TX.get_ptr_mut(sk)
    {
        // SAFETY: see `tx_of`.
        look_back(sk, unsafe { &mut *tx }, queue.write_seq);
    }
    if !may_matter(sk, tls, &queue) {
        count(counter::BACK_PRESSURE);
        return;
    }
    let timeo = sock::member::<i64>(entry.arg(1), 0).unwrap_or(-1);
    let now = monotonic_ns();
    match suspect(sk, &queue, now) {
        Suspicion::New(generation) => {
            debug!(
                entry,
                "refused: {} bytes unsent, MSS {}",
                queue.notsent(),
                queue.mss
            );
            report(event::REFUSED, sk, tls, now, generation, pid_tgid, timeo);
        }
        Suspicion::Repeated => count(counter::REPEATED),
        Suspicion::Lost => warn!(entry, "the map of suspects is full"),
    }
}

/// Whether a refused writer can be more than ordinary back-pressure: bytes wait unsent while nothing
/// is in flight whose acknowledgement could open the gate; or nothing is unsent and yet next to nothing in
/// flight; or less than one segment waits, and either that alone shuts the gate or next to nothing is in
/// flight.
#[inline(always)]
fn may_matter(sk: u64, tls: u64, queue: &Queue) -> bool {
    let notsent = queue.notsent();
    if queue.in_flight() == 0 {
        // An empty queue is about to let the writer in, unless the cipher has what would fill it.
        return notsent > 0 || sock::encrypt_pending(tls).is_some_and(|records| records > 0);
    }
    let next_to_nothing = queue.in_flight() < queue.mss.saturating_mul(2);
    if notsent == 0 {
        return next_to_nothing;
    }
    // Whole segments, or more than the peer will take: what is in flight keeps it going, and if the
    // window stays shut the persist timer tells.
    if notsent >= queue.mss || queue.snd_wnd < queue.in_flight().saturating_add(notsent) {
        return false;
    }
    let shut_by_notsent = sock::notsent_lowat(sk).is_none_or(|lowat| notsent >= lowat);
    shut_by_notsent || next_to_nothing
}

/// Whether the user asked to look at this socket, or did when it came under suspicion: what was begun is followed to its end.
#[inline(always)]
pub(crate) fn watched(sk: u64, tgid: u32, uts: u32) -> bool {
    // SAFETY: read only; the user side may remove the entry, its memory stays valid here.
    sock::wanted(sk, tgid, uts)
        || unsafe { SUSPECTS.get(sk) }.is_some_and(|suspect| suspect.ports == sock::ports(sk))
}

/// What became of an attempt to put a socket under suspicion.
pub(crate) enum Suspicion {
    /// Report it, with this generation.
    New(u64),
    /// Nothing has moved since it was reported.
    Repeated,
    /// There was no room.
    Lost,
}

/// Puts a socket under suspicion, or finds that it is already.
#[inline(always)]
pub(crate) fn suspect(sk: u64, queue: &Queue, now: u64) -> Suspicion {
    let ports = sock::ports(sk);
    if let Some(known) = SUSPECTS.get_ptr_mut(sk) {
        // SAFETY: the socket's lock is held by the caller of every probed function that gets here.
        let known = unsafe { &mut *known };
        if known.ports == ports {
            let moved = known.write_seq != queue.write_seq || known.snd_nxt != queue.snd_nxt;
            if !moved && known.holding == 1 {
                return Suspicion::Repeated;
            }
            known.write_seq = queue.write_seq;
            known.snd_nxt = queue.snd_nxt;
            known.holding = 1;
            return Suspicion::New(known.generation);
        }
    }
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let generation = (now & !0xff) | u64::from(cpu & 0xff);
    let fresh = Suspect {
        generation,
        write_seq: queue.write_seq,
        snd_nxt: queue.snd_nxt,
        ports,
        holding: 1,
    };
    if SUSPECTS.insert(sk, fresh, 0).is_err() {
        count(counter::LOST_SUSPECT);
        return Suspicion::Lost;
    }
    note_suspicion();
    Suspicion::New(generation)
}

/// Sends the state of the socket to the user side.
#[inline(always)]
pub(crate) fn report(
    kind: u32,
    sk: u64,
    tls: u64,
    now: u64,
    generation: u64,
    pid_tgid: u64,
    timeo: i64,
) {
    let Some(mut entry) = EVENTS.reserve::<Refused>(0) else {
        count(counter::LOST_RING);
        if generation & !0xff == now & !0xff {
            // The user side can't clear what it was never told of; told later, it starts anew.
            let _gone = SUSPECTS.remove(sk);
        } else if let Some(known) = SUSPECTS.get_ptr_mut(sk) {
            // It waits to hear of the release of what it knows. The next refusal is no repeated one.
            // SAFETY: as in `suspect`.
            unsafe { (*known).write_seq = !(*known).write_seq };
        }
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is the reserved record; every member is written before it is submitted.
    unsafe {
        (*out).header = header::<Refused>(kind, now, sk, generation);
        (*out).pid_tgid = pid_tgid;
        (*out).timeo = timeo;
        (*out).comm = if pid_tgid == 0 {
            [0; 16]
        } else {
            bpf_get_current_comm().unwrap_or([0; 16])
        };
        match TX.get(sk) {
            Some(tx) => (*out).tx = *tx,
            None => (*out).tx = Tx::NONE,
        }
        sock::snapshot(sk, tls, now, &raw mut (*out).snapshot);
    }
    entry.submit(0);
}

/// The header of a record of type `T`.
#[inline(always)]
pub(crate) fn header<T>(kind: u32, time_ns: u64, sk: u64, generation: u64) -> Header {
    Header {
        kind,
        size: size_of::<T>() as u32,
        time_ns,
        sk,
        generation,
    }
}
