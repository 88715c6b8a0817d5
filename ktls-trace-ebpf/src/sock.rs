//! Reads a `struct sock` through the layout.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_get_current_task};
use ktls_trace_common::{
    event::{Snapshot, known},
    layout::{ABSENT, Bits},
};

use crate::maps::{filter, is_tls, layout, note_tls};

/// `TLS_SW` of `include/net/tls.h`.
const TLS_SW: u32 = 1;
/// `AF_INET6`.
const AF_INET6: u32 = 10;

/// Reads the member at `offset`, or nothing if this kernel has none or the memory can't be read.
#[inline(always)]
pub(crate) fn member<T>(base: u64, offset: u32) -> Option<T> {
    if offset == ABSENT || base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// Reads two members: at once where the second comes right after the first, as kernels often arrange what is used together.
#[inline(always)]
fn pair<T: Copy>(base: u64, first: u32, second: u32) -> Option<(T, T)> {
    if first.checked_add(size_of::<T>() as u32) == Some(second) {
        let [first, second] = member::<[T; 2]>(base, first)?;
        Some((first, second))
    } else {
        Some((member(base, first)?, member(base, second)?))
    }
}

/// Reads a bit-field of at most 8 bits.
#[inline(always)]
fn bits(base: u64, field: Bits) -> Option<u32> {
    let value = member::<u8>(base, field.offset)?;
    Some((u32::from(value) >> (field.shift & 7)) & ((1 << (field.width & 15)) - 1))
}

/// Reads a [`Bits`] member of the layout.
macro_rules! bit_field {
    ($name:ident) => {
        Bits {
            offset: layout!($name.offset),
            shift: layout!($name.shift),
            width: layout!($name.width),
        }
    };
}

/// The `tls_context` of a socket whose transmit side is software kTLS, or nothing.
///
/// Where the layout of `tls_context` is not known, any socket with the ULP "tls" passes.
#[inline(always)]
pub(crate) fn tls_context(sk: u64) -> Option<u64> {
    let (ops, context): (u64, u64) = pair(sk, layout!(icsk_ulp_ops), layout!(icsk_ulp_data))?;
    // A socket that was closed has no context any more.
    if ops == 0 || context == 0 {
        return None;
    }
    if !is_tls(ops) {
        let name: u32 = member(ops, layout!(ulp_name))?;
        if name != u32::from_ne_bytes(*b"tls\0") {
            return None;
        }
        note_tls(ops);
    }
    match bits(context, bit_field!(tls_tx_conf)) {
        Some(TLS_SW) | None => Some(context),
        Some(_) => None,
    }
}

/// Length of the record under way to TCP, as it goes out: the first of `tx_list`, encrypted.
#[inline(always)]
pub(crate) fn record_bytes(tls: u64) -> Option<u32> {
    let tx: u64 = member(tls, layout!(tls_priv_ctx_tx))?;
    let record: u64 = member(tx, layout!(tls_tx_list))?;
    member(record, layout!(tls_rec_size))
}

/// The members that decide what a refusal means.
#[derive(Clone, Copy)]
pub(crate) struct Queue {
    pub(crate) write_seq: u32,
    pub(crate) snd_nxt: u32,
    pub(crate) snd_una: u32,
    pub(crate) snd_wnd: u32,
    pub(crate) mss: u32,
}

impl Queue {
    #[inline(always)]
    pub(crate) fn read(sk: u64) -> Option<Self> {
        let write_seq = member(sk, layout!(tcp_write_seq))?;
        let (snd_nxt, snd_una) = pair(sk, layout!(tcp_snd_nxt), layout!(tcp_snd_una))?;
        let (snd_wnd, mss) = pair(sk, layout!(tcp_snd_wnd), layout!(tcp_mss_cache))?;
        Some(Self {
            write_seq,
            snd_nxt,
            snd_una,
            snd_wnd,
            mss,
        })
    }

    /// Bytes queued and not sent.
    #[inline(always)]
    pub(crate) fn notsent(&self) -> u32 {
        self.write_seq.wrapping_sub(self.snd_nxt)
    }

    /// Bytes sent and not acknowledged.
    #[inline(always)]
    pub(crate) fn in_flight(&self) -> u32 {
        self.snd_nxt.wrapping_sub(self.snd_una)
    }
}

/// `tcp_notsent_lowat()`: the socket's own value, or else its namespace's.
#[inline(always)]
pub(crate) fn notsent_lowat(sk: u64) -> Option<u32> {
    match member::<u32>(sk, layout!(tcp_notsent_lowat))? {
        0 => {
            let net: u64 = member(sk, layout!(skc_net))?;
            member(net, layout!(net_notsent_lowat))
        }
        own => Some(own),
    }
}

/// No room in the send buffer (`sk_stream_memory_free`).
#[inline(always)]
pub(crate) fn buffer_is_full(sk: u64) -> bool {
    let queued = member::<u32>(sk, layout!(sk_wmem_queued));
    let limit = member::<u32>(sk, layout!(sk_sndbuf));
    queued
        .zip(limit)
        .is_some_and(|(queued, limit)| queued >= limit)
}

/// Both ports in one word: tells whether an address still belongs to the same connection.
#[inline(always)]
pub(crate) fn ports(sk: u64) -> u32 {
    let dport = member::<u16>(sk, layout!(skc_dport)).unwrap_or(0);
    let sport = member::<u16>(sk, layout!(skc_num)).unwrap_or(0);
    (u32::from(dport) << 16) | u32::from(sport)
}

/// Inode number of the current thread's UTS namespace; 0 unless the filter asks for one.
#[inline(always)]
pub(crate) fn current_uts() -> u32 {
    if filter!(uts) == 0 {
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    member::<u64>(task, layout!(task_nsproxy))
        .and_then(|nsproxy| member::<u64>(nsproxy, layout!(nsproxy_uts_ns)))
        .and_then(|uts| member(uts, layout!(uts_inum)))
        .unwrap_or(0)
}

/// Whether the user asked to look at this socket. `tgid` and `uts` are those of its sender, and 0
/// where that is not known: then a filter on them lets nothing through.
#[inline(always)]
pub(crate) fn wanted(sk: u64, tgid: u32, uts: u32) -> bool {
    let only = filter!(tgid);
    if only != 0 && only != tgid {
        return false;
    }
    let only = filter!(uts);
    if only != 0 && only != uts {
        return false;
    }
    let only = filter!(port);
    if only != 0 {
        let ports = ports(sk);
        let dport = u32::from(u16::from_be((ports >> 16) as u16));
        if only != ports & 0xffff && only != dport {
            return false;
        }
    }
    let only = filter!(netns);
    if only != 0 {
        let inum = member::<u64>(sk, layout!(skc_net))
            .and_then(|net| member::<u32>(net, layout!(net_inum)));
        if inum != Some(only) {
            return false;
        }
    }
    true
}

/// Stores a value and sets its bit, or stores 0 and leaves the bit clear. For a caller that vouches for
/// `out`.
macro_rules! put {
    ($out:ident, $seen:ident, $field:ident, $value:expr, $bit:expr) => {
        let value = $value;
        if value.is_some() {
            $seen |= $bit;
        }
        // SAFETY: the caller vouches for `out`.
        unsafe { (*$out).$field = value.unwrap_or(0) };
    };
}

/// Writes the whole state of the socket to `out`.
///
/// # Safety
///
/// `out` must be valid for writes; nothing is read from it before it is written.
#[inline(always)]
pub(crate) unsafe fn snapshot(sk: u64, tls: u64, now: u64, out: *mut Snapshot) {
    // SAFETY: the caller vouches for `out`.
    unsafe {
        let seen = queue_state(sk, out)
            | tail_state(sk, out)
            | gate_state(sk, out)
            | timer_state(sk, out)
            | network_state(sk, now, out)
            | tls_state(tls, out)
            | tuple(sk, out);
        (*out).known = seen;
    }
}

/// Writes what decides about sending, which counts only together; the bits that were set.
///
/// # Safety
///
/// As for [`snapshot`].
#[inline(always)]
unsafe fn queue_state(sk: u64, out: *mut Snapshot) -> u32 {
    let mut read = 0;
    put!(
        out,
        read,
        packets_out,
        member(sk, layout!(tcp_packets_out)),
        1
    );
    put!(
        out,
        read,
        write_seq,
        member(sk, layout!(tcp_write_seq)),
        1 << 1
    );
    put!(out, read, snd_nxt, member(sk, layout!(tcp_snd_nxt)), 1 << 2);
    put!(out, read, snd_una, member(sk, layout!(tcp_snd_una)), 1 << 3);
    put!(out, read, snd_wnd, member(sk, layout!(tcp_snd_wnd)), 1 << 4);
    put!(out, read, mss, member(sk, layout!(tcp_mss_cache)), 1 << 5);
    put!(
        out,
        read,
        state,
        member::<u8>(sk, layout!(skc_state)).map(u32::from),
        1 << 6
    );
    // Of the state nothing hangs.
    if read & 0b11_1111 == 0b11_1111 {
        known::TCP
    } else {
        0
    }
}

/// Writes how the last segment queued was pushed; the bits that were set.
///
/// # Safety
///
/// As for [`snapshot`].
#[inline(always)]
unsafe fn tail_state(sk: u64, out: *mut Snapshot) -> u32 {
    let mut seen = 0;
    put!(
        out,
        seen,
        tail_flags,
        tail(sk)
            .and_then(|skb| member::<u8>(skb, layout!(skb_tcp_flags)))
            .map(u32::from),
        known::TAIL
    );
    seen
}

/// The last segment queued and not sent (`tcp_write_queue_tail`), or nothing if all were sent.
#[inline(always)]
fn tail(sk: u64) -> Option<u64> {
    let queue = layout!(sk_write_queue);
    let last: u64 = member(sk, queue.checked_add(size_of::<u64>() as u32)?)?;
    // The list is a ring: an empty one points at itself.
    (last != sk + u64::from(queue)).then_some(last)
}

/// Writes both gates and what the application set; the bits that were set.
///
/// # Safety
///
/// As for [`snapshot`].
#[inline(always)]
unsafe fn gate_state(sk: u64, out: *mut Snapshot) -> u32 {
    let mut seen = 0;
    put!(out, seen, notsent_lowat, notsent_lowat(sk), known::LOWAT);
    if member::<u32>(sk, layout!(tcp_notsent_lowat)).is_some_and(|own| own != 0) {
        seen |= known::LOWAT_OWN;
    }
    put!(
        out,
        seen,
        wmem_queued,
        member(sk, layout!(sk_wmem_queued)),
        known::MEM
    );
    put!(
        out,
        seen,
        sndbuf,
        member(sk, layout!(sk_sndbuf)),
        known::MEM
    );
    put!(
        out,
        seen,
        nonagle,
        bits(sk, bit_field!(tcp_nonagle)),
        known::NONAGLE
    );
    put!(
        out,
        seen,
        user_mss,
        member::<u16>(sk, layout!(tcp_user_mss)).map(u32::from),
        known::USER_MSS
    );
    seen
}

/// Writes the state of the timers; the bits that were set.
///
/// # Safety
///
/// As for [`snapshot`].
#[inline(always)]
unsafe fn timer_state(sk: u64, out: *mut Snapshot) -> u32 {
    let mut seen = 0;
    /// A counter or number of one byte.
    macro_rules! byte {
        ($field:ident, $member:ident, $bit:expr) => {
            put!(
                out,
                seen,
                $field,
                member::<u8>(sk, layout!($member)).map(u32::from),
                $bit
            );
        };
    }
    byte!(pending, icsk_pending, known::PENDING);
    byte!(retransmits, icsk_retransmits, known::RETRANSMITS);
    seen
}

/// Writes what the network lets through; the bits that were set.
///
/// # Safety
///
/// As for [`snapshot`].
#[inline(always)]
unsafe fn network_state(sk: u64, now: u64, out: *mut Snapshot) -> u32 {
    let mut seen = 0;
    put!(out, seen, in_flight, in_flight(sk), known::IN_FLIGHT);
    put!(
        out,
        seen,
        snd_cwnd,
        member(sk, layout!(tcp_snd_cwnd)),
        known::CWND
    );
    put!(
        out,
        seen,
        srtt_us,
        member(sk, layout!(tcp_srtt_us)),
        known::SRTT
    );
    put!(
        out,
        seen,
        lost_out,
        member(sk, layout!(tcp_lost_out)),
        known::LOSS
    );
    put!(
        out,
        seen,
        retrans_out,
        member(sk, layout!(tcp_retrans_out)),
        known::LOSS
    );
    put!(
        out,
        seen,
        tsq_flags,
        member(sk, layout!(sk_tsq_flags)),
        known::TSQ
    );
    put!(out, seen, paced_ns, paced_ns(sk, now), known::PACED);
    seen
}

/// Writes the state of TLS; the bits that were set.
///
/// # Safety
///
/// As for [`snapshot`].
#[inline(always)]
unsafe fn tls_state(tls: u64, out: *mut Snapshot) -> u32 {
    let mut seen = 0;
    put!(
        out,
        seen,
        tx_conf,
        bits(tls, bit_field!(tls_tx_conf)),
        known::TX_CONF
    );
    put!(
        out,
        seen,
        tls_version,
        member::<u16>(tls, layout!(tls_version)).map(u32::from),
        known::TLS_VERSION
    );
    put!(
        out,
        seen,
        cipher_type,
        member::<u16>(tls, layout!(tls_cipher_type)).map(u32::from),
        known::CIPHER
    );
    put!(
        out,
        seen,
        partial,
        member::<u64>(tls, layout!(tls_partially_sent_record)).map(|record| u32::from(record != 0)),
        known::PARTIAL
    );
    put!(
        out,
        seen,
        open_record,
        member::<u8>(tls, layout!(tls_pending_open_record_frags)).map(u32::from),
        known::OPEN_RECORD
    );
    put!(
        out,
        seen,
        encrypt_pending,
        encrypt_pending(tls),
        known::ENCRYPT
    );
    seen
}

/// How long pacing still forbids the next segment: until `tcp_wstamp_ns`, if the socket is paced at all
/// (`SK_PACING_NONE` is 0).
#[inline(always)]
fn paced_ns(sk: u64, now: u64) -> Option<u64> {
    let status: u32 = member(sk, layout!(sk_pacing_status))?;
    let wstamp: u64 = member(sk, layout!(tcp_wstamp_ns))?;
    Some(if status == 0 {
        0
    } else {
        wstamp.saturating_sub(now)
    })
}

/// Records whose encryption has not returned.
#[inline(always)]
pub(crate) fn encrypt_pending(tls: u64) -> Option<u32> {
    let context: u64 = member(tls, layout!(tls_priv_ctx_tx))?;
    let pending: u32 = member(context, layout!(tls_encrypt_pending))?;
    Some(pending.saturating_sub(layout!(tls_encrypt_idle)))
}

/// Writes what names the socket; the bits that were set.
///
/// # Safety
///
/// As for [`snapshot`].
#[inline(always)]
unsafe fn tuple(sk: u64, out: *mut Snapshot) -> u32 {
    let mut seen = 0;
    let net = member::<u64>(sk, layout!(skc_net)).unwrap_or(0);
    put!(
        out,
        seen,
        netns,
        member(net, layout!(net_inum)),
        known::NETNS
    );
    put!(
        out,
        seen,
        cookie,
        member(sk, layout!(skc_cookie)).filter(|&cookie: &u64| cookie != 0),
        known::COOKIE
    );
    put!(
        out,
        seen,
        bound_dev_if,
        member(sk, layout!(skc_bound_dev_if)),
        known::BOUND
    );
    let family = member::<u16>(sk, layout!(skc_family)).map_or(0, u32::from);
    let ports = ports(sk);
    let addresses = if family == AF_INET6 {
        member::<[u8; 16]>(sk, layout!(skc_v6_rcv_saddr))
            .zip(member::<[u8; 16]>(sk, layout!(skc_v6_daddr)))
    } else {
        member::<[u8; 4]>(sk, layout!(skc_rcv_saddr))
            .zip(member::<[u8; 4]>(sk, layout!(skc_daddr)))
            .map(|(src, dst)| (widen(src), widen(dst)))
    };
    if addresses.is_some() {
        seen |= known::TUPLE;
    }
    let (src, dst) = addresses.unwrap_or(([0; 16], [0; 16]));
    // SAFETY: the caller vouches for `out`.
    unsafe {
        (*out).family = family;
        (*out).src_port = ports & 0xffff;
        (*out).dst_port = u32::from(u16::from_be((ports >> 16) as u16));
        (*out).src = src;
        (*out).dst = dst;
    }
    seen
}

/// An IPv4 address in the first bytes of the wide form.
#[inline(always)]
fn widen([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// `tcp_packets_in_flight()`.
#[inline(always)]
fn in_flight(sk: u64) -> Option<u32> {
    let packets_out = member::<u32>(sk, layout!(tcp_packets_out))?;
    let sacked = member::<u32>(sk, layout!(tcp_sacked_out))?;
    let lost = member::<u32>(sk, layout!(tcp_lost_out))?;
    let retrans = member::<u32>(sk, layout!(tcp_retrans_out))?;
    Some(
        packets_out
            .wrapping_sub(sacked.wrapping_add(lost))
            .wrapping_add(retrans),
    )
}
