//! A complete record is handed to TCP: `tls_push_sg`.
//!
//! Only its entry is hooked. That TCP has taken the whole record is seen the next time that anything is seen of the
//! socket: `write_seq` is past it then. A hook on the return would cost more than all else that is hooked on the way.

use ktls_trace_common::{
    counter,
    event::{Pushed, Tx},
};

use crate::{
    entry::{self, Entry, hook},
    maps::{add, count, filter, layout},
    send::{MORE, monotonic_ns, tx_of},
    sock::{self, Queue},
};

hook! {
    /// `int tls_push_sg(struct sock *sk, struct tls_context *ctx, struct scatterlist *sg,
    /// u16 first_offset, int flags)`.
    tls_push_sg, fentry_tls_push_sg => push
}

#[inline(always)]
fn push(entry: &impl Entry) {
    let (sk, tls) = (entry.arg(0), entry.arg(1));
    let (Some(bytes), Some(write_seq)) = (
        sock::record_bytes(tls),
        sock::member::<u32>(sk, layout!(tcp_write_seq)),
    ) else {
        return;
    };
    let Some(tx) = tx_of(sk) else {
        return;
    };
    if filter!(uts) != 0 {
        look_back(sk, tx, write_seq);
    }
    let flags = entry::flags(entry, layout!(arg_push_sg_flags)).unwrap_or(0);
    if tx.push(monotonic_ns(), flags, bytes, write_seq) == Pushed::Next
        && sock::wanted(sk, (tx.pid_tgid >> 32) as u32, tx.uts)
    {
        count(counter::RECORDS);
        add(counter::RECORD_BYTES, bytes);
        if flags & MORE != 0 {
            count(counter::RECORDS_MORE);
        }
    }
}

/// Counts the record under way, if TCP has taken it meanwhile and holds it. That takes several reads, which only
/// who asks for the workload of one UTS namespace pays for.
#[inline(always)]
pub(crate) fn look_back(sk: u64, tx: &mut Tx, write_seq: u32) {
    if tx.settle(write_seq)
        && tx.record_flags & MORE != 0
        && sock::wanted(sk, (tx.pid_tgid >> 32) as u32, tx.uts)
        && Queue::read(sk).is_some_and(|queue| held_below_mss(&queue))
    {
        count(counter::RECORDS_HELD);
    }
}

/// Less than one segment is left unsent although the peer would take it.
#[inline(always)]
fn held_below_mss(queue: &Queue) -> bool {
    let notsent = queue.notsent();
    0 < notsent && notsent < queue.mss && queue.snd_wnd >= queue.in_flight().saturating_add(notsent)
}
