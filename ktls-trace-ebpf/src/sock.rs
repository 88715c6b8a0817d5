//! Reads a `struct sock` through the layout.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use ktls_trace_common::{
    event::{Snapshot, known},
    layout::{ABSENT, Bits},
};

use crate::maps::{filter, layout};

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
    let ops: u64 = member(sk, layout!(icsk_ulp_ops))?;
    let name: u32 = member(ops, layout!(ulp_name))?;
    if name != u32::from_ne_bytes(*b"tls\0") {
        return None;
    }
    // A socket that was closed has none any more.
    let context = member(sk, layout!(icsk_ulp_data)).filter(|&context: &u64| context != 0)?;
    match bits(context, bit_field!(tls_tx_conf)) {
        Some(TLS_SW) | None => Some(context),
        Some(_) => None,
    }
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
        Some(Self {
            write_seq: member(sk, layout!(tcp_write_seq))?,
            snd_nxt: member(sk, layout!(tcp_snd_nxt))?,
            snd_una: member(sk, layout!(tcp_snd_una))?,
            snd_wnd: member(sk, layout!(tcp_snd_wnd))?,
            mss: member(sk, layout!(tcp_mss_cache))?,
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

/// Both ports in one word: tells whether an address still belongs to the same connection.
#[inline(always)]
pub(crate) fn ports(sk: u64) -> u32 {
    let dport = member::<u16>(sk, layout!(skc_dport)).unwrap_or(0);
    let sport = member::<u16>(sk, layout!(skc_num)).unwrap_or(0);
    (u32::from(dport) << 16) | u32::from(sport)
}

/// Whether the user asked to look at this socket. `tgid` is 0 where the owner is not known, and
/// then a filter on the process lets nothing through.
#[inline(always)]
pub(crate) fn wanted(sk: u64, tgid: u32) -> bool {
    let filter = filter();
    if filter.tgid != 0 && filter.tgid != tgid {
        return false;
    }
    if filter.port != 0 {
        let ports = ports(sk);
        let dport = u32::from(u16::from_be((ports >> 16) as u16));
        if filter.port != ports & 0xffff && filter.port != dport {
            return false;
        }
    }
    if filter.netns != 0 {
        let inum = member::<u64>(sk, layout!(skc_net))
            .and_then(|net| member::<u32>(net, layout!(net_inum)));
        if inum != Some(filter.netns) {
            return false;
        }
    }
    true
}

/// Writes the whole state of the socket to `out`.
///
/// # Safety
///
/// `out` must be valid for writes; nothing is read from it before it is written.
#[inline(always)]
pub(crate) unsafe fn snapshot(sk: u64, tls: u64, out: *mut Snapshot) {
    let mut seen = 0;
    /// Stores a value, or 0 with its bit left clear.
    macro_rules! put {
        ($field:ident, $value:expr, $bit:expr) => {
            let value = $value;
            if value.is_some() {
                seen |= $bit;
            }
            // SAFETY: the caller vouches for `out`.
            unsafe { (*out).$field = value.unwrap_or(0) };
        };
    }

    let net = member::<u64>(sk, layout!(skc_net)).unwrap_or(0);
    put!(
        cookie,
        member(sk, layout!(skc_cookie)).filter(|&cookie: &u64| cookie != 0),
        known::COOKIE
    );
    put!(netns, member(net, layout!(net_inum)), known::NETNS);
    put!(notsent_lowat, notsent_lowat(sk), known::LOWAT);
    if member::<u32>(sk, layout!(tcp_notsent_lowat)).is_some_and(|own| own != 0) {
        seen |= known::LOWAT_OWN;
    }
    put!(nonagle, bits(sk, bit_field!(tcp_nonagle)), known::NONAGLE);
    put!(
        pending,
        member::<u8>(sk, layout!(icsk_pending)).map(u32::from),
        known::PENDING
    );
    put!(
        probes_out,
        member::<u8>(sk, layout!(icsk_probes_out)).map(u32::from),
        known::PROBES_OUT
    );
    put!(tx_conf, bits(tls, bit_field!(tls_tx_conf)), known::TX_CONF);
    put!(
        tls_version,
        member::<u16>(tls, layout!(tls_version)).map(u32::from),
        known::TLS_VERSION
    );
    put!(
        cipher_type,
        member::<u16>(tls, layout!(tls_cipher_type)).map(u32::from),
        known::CIPHER
    );
    put!(
        partial,
        member::<u64>(tls, layout!(tls_partially_sent_record)).map(|record| u32::from(record != 0)),
        known::PARTIAL
    );
    put!(
        open_record,
        member::<u8>(tls, layout!(tls_pending_open_record_frags)).map(u32::from),
        known::OPEN_RECORD
    );
    put!(snd_cwnd, member(sk, layout!(tcp_snd_cwnd)), known::CWND);
    put!(tsq_flags, member(sk, layout!(sk_tsq_flags)), known::TSQ);
    put!(wmem_queued, member(sk, layout!(sk_wmem_queued)), known::MEM);
    put!(sndbuf, member(sk, layout!(sk_sndbuf)), known::MEM);

    let packets_out = member::<u32>(sk, layout!(tcp_packets_out));
    put!(in_flight, in_flight(sk, packets_out), known::IN_FLIGHT);

    let mut tcp = 0;
    /// Stores a member that counts only together with the others of its kind.
    macro_rules! put_tcp {
        ($field:ident, $value:expr) => {
            let value = $value;
            if value.is_some() {
                tcp += 1;
            }
            // SAFETY: the caller vouches for `out`.
            unsafe { (*out).$field = value.unwrap_or(0) };
        };
    }
    put_tcp!(packets_out, packets_out);
    put_tcp!(write_seq, member(sk, layout!(tcp_write_seq)));
    put_tcp!(snd_nxt, member(sk, layout!(tcp_snd_nxt)));
    put_tcp!(snd_una, member(sk, layout!(tcp_snd_una)));
    put_tcp!(snd_wnd, member(sk, layout!(tcp_snd_wnd)));
    put_tcp!(mss, member(sk, layout!(tcp_mss_cache)));
    put_tcp!(state, member::<u8>(sk, layout!(skc_state)).map(u32::from));
    if tcp == 7 {
        seen |= known::TCP;
    }

    // SAFETY: the caller vouches for `out`.
    unsafe {
        if tuple(sk, out) {
            seen |= known::TUPLE;
        }
        (*out).known = seen;
        (*out).reserved = 0;
    }
}

/// Writes addresses and ports to `out`; whether they could be read.
///
/// # Safety
///
/// As for [`snapshot`].
#[inline(always)]
unsafe fn tuple(sk: u64, out: *mut Snapshot) -> bool {
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
    let (src, dst) = addresses.unwrap_or(([0; 16], [0; 16]));
    // SAFETY: the caller vouches for `out`.
    unsafe {
        (*out).family = family;
        (*out).src_port = ports & 0xffff;
        (*out).dst_port = u32::from(u16::from_be((ports >> 16) as u16));
        (*out).src = src;
        (*out).dst = dst;
    }
    addresses.is_some()
}

/// An IPv4 address in the first bytes of the wide form.
#[inline(always)]
fn widen([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// `tcp_packets_in_flight()`.
#[inline(always)]
fn in_flight(sk: u64, packets_out: Option<u32>) -> Option<u32> {
    let sacked = member::<u32>(sk, layout!(tcp_sacked_out))?;
    let lost = member::<u32>(sk, layout!(tcp_lost_out))?;
    let retrans = member::<u32>(sk, layout!(tcp_retrans_out))?;
    Some(
        packets_out?
            .wrapping_sub(sacked.wrapping_add(lost))
            .wrapping_add(retrans),
    )
}
