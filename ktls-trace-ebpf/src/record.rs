//! A complete record is handed to TCP: `tls_push_sg`.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use ktls_trace_common::counter;

use crate::{
    call::{self, PUSHING},
    maps::{TX, add, count, filter, layout},
    send::{MORE, monotonic_ns, tx_of},
    sock::{self, Queue},
};

/// `int tls_push_sg(struct sock *sk, struct tls_context *ctx, struct scatterlist *sg,
/// u16 first_offset, int flags)`.
#[kprobe]
fn tls_push_sg(ctx: ProbeContext) -> u32 {
    let Some(sk) = ctx.arg::<u64>(0) else {
        return 0;
    };
    let flags = call::flags(&ctx, layout!(arg_push_sg_flags));
    let Some(write_seq) = sock::member::<u32>(sk, layout!(tcp_write_seq)) else {
        return 0;
    };
    let now = monotonic_ns();
    if let Some(tx) = tx_of(sk) {
        // A record that was cut short goes on where it stopped: its bytes still belong together.
        if tx.pushing == 0 {
            tx.push_begin_seq = write_seq;
        }
        tx.push_flags = flags.unwrap_or(0);
        tx.pushing = 1;
    }
    call::enter(&PUSHING, sk, now);
    0
}

/// Return of `tls_push_sg`: 0 once the whole record is with TCP.
#[kretprobe]
fn tls_push_sg_ret(ctx: RetProbeContext) -> u32 {
    let Some(call) = call::leave(&PUSHING) else {
        return 0;
    };
    if ctx.ret::<i32>() != 0 {
        return 0; // cut short: `pushing` stays set until the rest has gone
    }
    let Some(write_seq) = sock::member::<u32>(call.sk, layout!(tcp_write_seq)) else {
        return 0;
    };
    if let Some(tx) = TX.get_ptr_mut(call.sk) {
        // SAFETY: see `tx_of`.
        let tx = unsafe { &mut *tx };
        tx.record_bytes = write_seq.wrapping_sub(tx.push_begin_seq);
        tx.record_end_seq = write_seq;
        tx.push_ns = monotonic_ns();
        tx.record_flags = tx.push_flags;
        tx.pushing = 0;
        tx.records += 1;
        let more = tx.record_flags & MORE != 0;
        if more {
            tx.records_more += 1;
        }
        if sock::wanted(call.sk, (tx.pid_tgid >> 32) as u32, tx.uts) {
            count(counter::RECORDS);
            add(counter::RECORD_BYTES, tx.record_bytes);
            if more {
                count(counter::RECORDS_MORE);
                // Several reads a record, which only who asks for one workload pays for.
                if filter!(uts) != 0
                    && Queue::read(call.sk).is_some_and(|queue| held_below_mss(&queue))
                {
                    count(counter::RECORDS_HELD);
                }
            }
        }
    }
    0
}

/// Less than one segment is left unsent although the peer would take it.
#[inline(always)]
fn held_below_mss(queue: &Queue) -> bool {
    let notsent = queue.notsent();
    0 < notsent && notsent < queue.mss && queue.snd_wnd >= queue.in_flight().saturating_add(notsent)
}
