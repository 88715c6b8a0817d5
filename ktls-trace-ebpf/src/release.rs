//! Held bytes leave, and the socket is closed.

use aya_ebpf::helpers::generated::bpf_get_stack;
use aya_log_ebpf::debug;
use ktls_trace_common::{
    counter,
    event::{self, Released, STACK_FRAMES},
};

use crate::{
    entry::{Entry, hook},
    maps::{EVENTS, SUSPECTS, TX, count, layout, suspicion},
    persist,
    send::monotonic_ns,
    sock, wait,
};

hook! {
    /// `static void tcp_event_new_data_sent(struct sock *sk, struct sk_buff *skb)`: a segment that was
    /// never sent before leaves. The stack says on whose behalf.
    tcp_event_new_data_sent, fentry_tcp_event_new_data_sent => new_data_sent
}

#[inline(always)]
fn new_data_sent(entry: &impl Entry) {
    if !suspicion() {
        return;
    }
    let (sk, skb) = (entry.arg(0), entry.arg(1));
    let Some(suspect) = SUSPECTS.get_ptr_mut(sk) else {
        return;
    };
    // SAFETY: the socket's lock is held here.
    let suspect = unsafe { &mut *suspect };
    if suspect.holding == 0 || suspect.ports != sock::ports(sk) {
        return;
    }
    let Some(mut record) = EVENTS.reserve::<Released>(0) else {
        // The next segment is told of instead: that they left must not be missed for good.
        count(counter::LOST_RING);
        return;
    };
    // Only the first segment after a refusal is a release.
    suspect.holding = 0;
    let out = record.as_mut_ptr();
    let snd_nxt = sock::member::<u32>(sk, layout!(tcp_snd_nxt)).unwrap_or(0);
    let end_seq = sock::member::<u32>(skb, layout!(skb_end_seq)).unwrap_or(snd_nxt);
    debug!(entry, "released: {} bytes", end_seq.wrapping_sub(snd_nxt));
    // SAFETY: `out` is the reserved record; every member is written before it is submitted.
    unsafe {
        (*out).header =
            wait::header::<Released>(event::RELEASED, monotonic_ns(), sk, suspect.generation);
        (*out).snd_nxt = snd_nxt;
        (*out).end_seq = end_seq;
        (*out).stack_bytes = bpf_get_stack(
            entry.as_ptr(),
            (&raw mut (*out).stack).cast(),
            (STACK_FRAMES * size_of::<u64>()) as u32,
            0,
        );
    }
    record.submit(0);
}

hook! {
    /// `static void tls_sk_proto_close(struct sock *sk, long timeout)`: the owner closes the socket.
    tls_sk_proto_close => proto_close
}

#[inline(always)]
fn proto_close(entry: &impl Entry) {
    let sk = entry.arg(0);
    persist::note(event::CLOSING, sk);
    // Not there is as good as removed.
    let _gone = TX.remove(sk);
}
