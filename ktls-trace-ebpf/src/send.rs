//! A send begins: `tls_sw_sendmsg`, and before 6.5 also `tls_sw_sendpage`.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use ktls_trace_common::{counter, event::Tx};

use crate::{
    entry::{self, Entry, hook},
    maps::{TX, count, layout},
    sock,
};

/// `MSG_MORE` of `include/linux/socket.h`, and `MSG_SENDPAGE_NOTLAST` before 6.5, which says the same.
pub(crate) const MORE: u32 = 0x8000 | 0x2_0000;
/// `MSG_SPLICE_PAGES` of `include/linux/socket.h`, since 6.5.
const MSG_SPLICE_PAGES: u32 = 0x0800_0000;

/// The state kept for a socket, made if there is none yet.
#[inline(always)]
pub(crate) fn tx_of(sk: u64) -> Option<&'static mut Tx> {
    let tx = TX.get_ptr_mut(sk).or_else(|| {
        // If another CPU was faster, its entry is the one found then.
        let _exists = TX.insert(sk, Tx::NONE, 1 /* BPF_NOEXIST */);
        TX.get_ptr_mut(sk)
    });
    if tx.is_none() {
        count(counter::LOST_SEND);
    }
    // SAFETY: the sends of one socket are serialised by tls_context.tx_lock; a torn read of
    // statistics is the worst that a race can do.
    tx.map(|tx| unsafe { &mut *tx })
}

#[inline(always)]
fn begin(sk: u64, flags: u32, size: u64, sendpage: u32) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let uts = sock::current_uts();
    if sock::wanted(sk, (pid_tgid >> 32) as u32, uts) {
        count(counter::SENDS);
        if sendpage == 1 || flags & MSG_SPLICE_PAGES != 0 {
            count(counter::SENDS_SPLICE);
            if flags & MORE != 0 {
                count(counter::SENDS_SPLICE_MORE);
            }
        }
    }
    if let Some(tx) = tx_of(sk) {
        tx.sends += 1;
        tx.send_flags = flags;
        tx.send_size = size;
        tx.sendpage = sendpage;
        tx.pid_tgid = pid_tgid;
        tx.uts = uts;
    }
}

/// Monotonic time in nanoseconds.
#[inline(always)]
pub(crate) fn monotonic_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

hook! {
    /// `int tls_sw_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`.
    tls_sw_sendmsg, fentry_tls_sw_sendmsg => sendmsg
}

#[inline(always)]
fn sendmsg(entry: &impl Entry) {
    let flags = sock::member(entry.arg(1), layout!(msg_flags));
    begin(entry.arg(0), flags.unwrap_or(0), entry.arg(2), 0);
}

hook! {
    /// `int tls_sw_sendpage(struct sock *sk, struct page *page, int offset, size_t size, int flags)`.
    tls_sw_sendpage, fentry_tls_sw_sendpage => sendpage
}

#[inline(always)]
fn sendpage(entry: &impl Entry) {
    let flags = entry::flags(entry, layout!(arg_sendpage_flags));
    begin(entry.arg(0), flags.unwrap_or(0), 0, 1);
}
