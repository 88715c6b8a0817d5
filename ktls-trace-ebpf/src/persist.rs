//! TCP's timers: the persist timer is armed, fires, and perhaps a zero-window probe is sent; the
//! retransmission timer fires.
//!
//! A persist timer that fires without a zero-window probe is the corked stall; with one, the peer's
//! window is shut. These run in timer and softirq context: `current` means nothing here.

use ktls_trace_common::{
    counter,
    event::{self, Header},
    layout::ABSENT,
};

use crate::{
    entry::{Entry, hook},
    maps::{EVENTS, SUSPECTS, TX, count, layout, suspicion},
    send::monotonic_ns,
    sock::{self, Queue},
    wait::{self, Suspicion},
};

/// `ICSK_TIME_PROBE0` of `include/net/inet_connection_sock.h`.
const ICSK_TIME_PROBE0: u8 = 3;

hook! {
    /// `void tcp_check_probe_timer(struct sock *sk)`: inlined on most kernels. It arms the timer if
    /// nothing is in flight and no timer is pending.
    tcp_check_probe_timer, fentry_tcp_check_probe_timer => check_probe_timer
}

#[inline(always)]
fn check_probe_timer(entry: &impl Entry) {
    let sk = entry.arg(0);
    if sock::member::<u32>(sk, layout!(tcp_packets_out)) == Some(0)
        && sock::member::<u8>(sk, layout!(icsk_pending)) == Some(0)
    {
        note(event::PERSIST_ARMED, sk);
    }
}

hook! {
    /// `void sk_reset_timer(struct sock *sk, struct timer_list *timer, unsigned long expires)`: the one
    /// place where TCP arms a timer, right after `icsk_pending` was set.
    sk_reset_timer, fentry_sk_reset_timer => reset_timer
}

#[inline(always)]
fn reset_timer(entry: &impl Entry) {
    let sk = entry.arg(0);
    if suspicion()
        && SUSPECTS.get_ptr(sk).is_some()
        && is_retransmit_timer(sk, entry.arg(1))
        && sock::member::<u8>(sk, layout!(icsk_pending)) == Some(ICSK_TIME_PROBE0)
    {
        note(event::PERSIST_ARMED, sk);
    }
}

/// Whether a timer is the one that `icsk_pending` is about; delayed ACKs and keepalives have their own.
#[inline(always)]
fn is_retransmit_timer(sk: u64, timer: u64) -> bool {
    let offset = layout!(retransmit_timer);
    offset == ABSENT || timer == sk + u64::from(offset)
}

hook! {
    /// `void tcp_send_probe0(struct sock *sk)`: the persist timer fired.
    tcp_send_probe0 => send_probe0
}

#[inline(always)]
fn send_probe0(entry: &impl Entry) {
    let sk = entry.arg(0);
    let Some(tls) = looked_at(sk) else {
        return;
    };
    count(counter::PERSIST_FIRED);
    if let Some(queue) = Queue::read(sk) {
        timer_fired(event::PERSIST_FIRED, sk, tls, &queue);
    }
}

hook! {
    /// `void tcp_enter_loss(struct sock *sk)`: the retransmission timer fired. That matters where bytes wait
    /// behind what is in flight, or a writer for room in a buffer that is full of it.
    tcp_enter_loss => enter_loss
}

#[inline(always)]
fn enter_loss(entry: &impl Entry) {
    let sk = entry.arg(0);
    let Some(tls) = looked_at(sk) else {
        return;
    };
    count(counter::RETRANSMIT_TIMEOUT);
    if let Some(queue) = Queue::read(sk)
        && (queue.notsent() > 0 || sock::buffer_is_full(sk))
    {
        timer_fired(event::RETRANSMIT_TIMEOUT, sk, tls, &queue);
    }
}

/// The `tls_context` of a socket whose timer fired, if it is one to look at.
#[inline(always)]
fn looked_at(sk: u64) -> Option<u64> {
    let tls = sock::tls_context(sk)?;
    let (owner, uts) = owner(sk);
    wait::watched(sk, owner, uts).then_some(tls)
}

/// The process that sent last, for a timer has none of its own, and its UTS namespace; 0: not known.
#[inline(always)]
fn owner(sk: u64) -> (u32, u32) {
    // SAFETY: read only; see `tx_of`.
    unsafe { TX.get(sk) }.map_or((0, 0), |tx| ((tx.pid_tgid >> 32) as u32, tx.uts))
}

/// Reports the socket whose timer fired, and puts it under suspicion.
#[inline(always)]
fn timer_fired(kind: u32, sk: u64, tls: u64, queue: &Queue) {
    let now = monotonic_ns();
    let generation = match wait::suspect(sk, queue, now) {
        Suspicion::New(generation) => generation,
        Suspicion::Repeated => {
            // SAFETY: read only.
            match unsafe { SUSPECTS.get(sk) } {
                Some(suspect) => suspect.generation,
                None => return,
            }
        }
        Suspicion::Lost => return,
    };
    wait::report(kind, sk, tls, now, generation, 0, -1);
}

hook! {
    /// `int tcp_xmit_probe_skb(struct sock *sk, int urgent, int mib)`: a zero-window probe is sent.
    tcp_xmit_probe_skb => xmit_probe_skb
}

#[inline(always)]
fn xmit_probe_skb(entry: &impl Entry) {
    note(event::ZERO_WINDOW_PROBE, entry.arg(0));
}

/// Sends a bare header for a socket that is under suspicion.
#[inline(always)]
pub(crate) fn note(kind: u32, sk: u64) {
    // SAFETY: read only; the user side may remove the entry, its memory stays valid here.
    let Some(suspect) = (unsafe { SUSPECTS.get(sk) }) else {
        return;
    };
    let ports = sock::ports(sk);
    // A connection that has ended on both sides has given its port back before it is closed.
    if suspect.ports != ports && ports & 0xffff != 0 {
        return;
    }
    if kind == event::ZERO_WINDOW_PROBE {
        count(counter::ZERO_WINDOW_PROBE);
    }
    let Some(mut entry) = EVENTS.reserve::<Header>(0) else {
        count(counter::LOST_RING);
        return;
    };
    entry.write(wait::header::<Header>(
        kind,
        monotonic_ns(),
        sk,
        suspect.generation,
    ));
    entry.submit(0);
}
