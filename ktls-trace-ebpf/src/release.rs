//! Held bytes leave, and the socket is closed.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_stack, macros::kprobe, programs::ProbeContext,
};
use aya_log_ebpf::debug;
use ktls_trace_common::{
    counter,
    event::{self, Released, STACK_FRAMES},
};

use crate::{
    maps::{EVENTS, SUSPECTS, TX, count, layout},
    persist,
    send::monotonic_ns,
    sock, wait,
};

/// `static void tcp_event_new_data_sent(struct sock *sk, struct sk_buff *skb)`: a segment that was
/// never sent before leaves. The stack says on whose behalf.
#[kprobe]
fn tcp_event_new_data_sent(ctx: ProbeContext) -> u32 {
    let (Some(sk), Some(skb)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) else {
        return 0;
    };
    let Some(suspect) = SUSPECTS.get_ptr_mut(sk) else {
        return 0;
    };
    // SAFETY: the socket's lock is held here.
    let suspect = unsafe { &mut *suspect };
    if suspect.holding == 0 || suspect.ports != sock::ports(sk) {
        return 0;
    }
    // Only the first segment after a refusal is a release.
    suspect.holding = 0;
    let Some(mut entry) = EVENTS.reserve::<Released>(0) else {
        count(counter::LOST_RING);
        return 0;
    };
    let out = entry.as_mut_ptr();
    let snd_nxt = sock::member::<u32>(sk, layout!(tcp_snd_nxt)).unwrap_or(0);
    let end_seq = sock::member::<u32>(skb, layout!(skb_end_seq)).unwrap_or(snd_nxt);
    debug!(&ctx, "released: {} bytes", end_seq.wrapping_sub(snd_nxt));
    // SAFETY: `out` is the reserved record; every member is written before it is submitted.
    unsafe {
        (*out).header =
            wait::header::<Released>(event::RELEASED, monotonic_ns(), sk, suspect.generation);
        (*out).snd_nxt = snd_nxt;
        (*out).end_seq = end_seq;
        (*out).stack_bytes = bpf_get_stack(
            ctx.as_ptr(),
            (&raw mut (*out).stack).cast(),
            (STACK_FRAMES * size_of::<u64>()) as u32,
            0,
        );
    }
    entry.submit(0);
    0
}

/// `static void tls_sk_proto_close(struct sock *sk, long timeout)`: the owner closes the socket.
#[kprobe]
fn tls_sk_proto_close(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<u64>(0) {
        persist::note(event::CLOSING, sk);
        // Not there is as good as removed.
        let _gone = TX.remove(sk);
    }
    0
}
