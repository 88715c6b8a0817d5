//! From the bytes of the ring buffer to observations.

use std::{
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ktls_trace_common::event::{self, Header, Refused, Released, Snapshot, known};

use super::release_path;
use crate::{
    kernel::symbols::Symbols,
    observe::{
        Hold, Observation, Process, PushFacts, SendFacts, SocketKey, SocketState, Tls, What,
    },
    sockdiag::{TlsCipher, TlsConf, TlsVersion},
};

/// `TCP_NAGLE_OFF` of `include/net/tcp.h`.
const TCP_NAGLE_OFF: u32 = 1;
/// `TCP_NAGLE_CORK` of `include/net/tcp.h`.
const TCP_NAGLE_CORK: u32 = 2;
/// `TCPHDR_PSH` of `include/net/tcp.h`.
const TCPHDR_PSH: u32 = 8;
/// `ICSK_TIME_PROBE0` of `include/net/inet_connection_sock.h`.
const ICSK_TIME_PROBE0: u32 = 3;

/// An observation, and the kernel's handle of the socket it is about.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// What was seen.
    pub observation: Observation,
    /// Address of the `struct sock`, for the table of suspects.
    pub sk: u64,
    /// Generation in that table.
    pub generation: u64,
}

/// Decodes one record, or `None` if it is of no known kind or too short: an event of a future or
/// damaged kind is passed over, never guessed at. `symbols` is asked only about who let held bytes go.
pub fn decode<'a>(bytes: &[u8], symbols: impl FnOnce() -> &'a Symbols) -> Option<Decoded> {
    let header: Header = read(bytes)?;
    let key = SocketKey(header.generation);
    let what = match header.kind {
        event::REFUSED => refused(&read(bytes)?, key),
        event::PERSIST_FIRED => What::PersistFired {
            key,
            hold: Box::new(hold(&read(bytes)?)),
        },
        event::RETRANSMIT_TIMEOUT => What::RetransmitTimeout {
            key,
            hold: Box::new(hold(&read(bytes)?)),
        },
        event::RELEASED => {
            let record: Released = read(bytes)?;
            let frames = usize::try_from(record.stack_bytes).unwrap_or(0) / size_of::<u64>();
            let stack = record.stack.get(..frames).unwrap_or(&record.stack);
            What::Released {
                key,
                bytes: record.end_seq.wrapping_sub(record.snd_nxt),
                end_seq: record.end_seq,
                path: release_path(stack, symbols()),
            }
        }
        event::PERSIST_ARMED => What::PersistArmed { key },
        event::ZERO_WINDOW_PROBE => What::ZeroWindowProbe { key },
        event::CLOSING => What::Closing { key },
        _ => return None,
    };
    Some(Decoded {
        observation: Observation {
            at_ns: header.time_ns,
            what,
        },
        sk: header.sk,
        generation: header.generation,
    })
}

/// Reads a record of plain integers.
fn read<T: Copy>(bytes: &[u8]) -> Option<T> {
    (bytes.len() >= size_of::<T>()).then(|| {
        // SAFETY: long enough, and every record type is repr(C) of integers, so that any bytes are
        // a valid value; the ring buffer aligns to 8, but nothing here relies on it.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    })
}

/// A writer was refused.
fn refused(record: &Refused, key: SocketKey) -> What {
    let thread = record
        .comm
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default();
    What::Refused {
        key,
        process: Process {
            pid: (record.pid_tgid >> 32) as u32,
            tid: (record.pid_tgid & 0xffff_ffff) as u32,
            thread: String::from_utf8_lossy(thread).into_owned(),
        },
        blocking: record.timeo != 0,
        hold: Box::new(hold(record)),
    }
}

/// The socket and what the send hooks remember of it.
fn hold(record: &Refused) -> Hold {
    let mut tx = record.tx;
    tx.settle(record.snapshot.write_seq);
    let send = (tx.sends != 0).then(|| SendFacts {
        flags: tx.send_flags,
        bytes: (tx.sendpage == 0).then_some(tx.send_size),
        sendpage: tx.sendpage == 1,
    });
    let push = (tx.record_ns != 0).then_some(PushFacts {
        at_ns: tx.record_ns,
        flags: tx.record_flags,
        record_bytes: tx.record_bytes,
        records: tx.records,
        complete: tx.record_end_seq == record.snapshot.write_seq,
    });
    let writer_pid = Some((tx.pid_tgid >> 32) as u32).filter(|&pid| pid != 0);
    Hold {
        socket: socket(&record.snapshot),
        send,
        push,
        writer_pid,
    }
}

/// A snapshot, with what was not read left out.
fn socket(snapshot: &Snapshot) -> SocketState {
    let has = |bit| snapshot.known & bit != 0;
    let when = |bit, value: u32| has(bit).then_some(value);
    let tcp = |value: u32| when(known::TCP, value);
    SocketState {
        cookie: has(known::COOKIE).then_some(snapshot.cookie),
        netns: when(known::NETNS, snapshot.netns),
        src: has(known::TUPLE).then(|| address(snapshot, &snapshot.src, snapshot.src_port)),
        dst: has(known::TUPLE).then(|| address(snapshot, &snapshot.dst, snapshot.dst_port)),
        interface: when(known::BOUND, snapshot.bound_dev_if).filter(|&index| index != 0),
        state: tcp(snapshot.state).filter(|&state| state != 0),
        write_seq: tcp(snapshot.write_seq),
        snd_nxt: tcp(snapshot.snd_nxt),
        snd_una: tcp(snapshot.snd_una),
        snd_wnd: tcp(snapshot.snd_wnd),
        mss: tcp(snapshot.mss),
        packets_out: tcp(snapshot.packets_out),
        in_flight: when(known::IN_FLIGHT, snapshot.in_flight),
        snd_cwnd: when(known::CWND, snapshot.snd_cwnd),
        notsent_lowat: when(known::LOWAT, snapshot.notsent_lowat),
        own_lowat: has(known::LOWAT).then_some(has(known::LOWAT_OWN)),
        wmem_queued: when(known::MEM, snapshot.wmem_queued),
        sndbuf: when(known::MEM, snapshot.sndbuf),
        corked: has(known::NONAGLE).then_some(snapshot.nonagle & TCP_NAGLE_CORK != 0),
        nodelay: has(known::NONAGLE).then_some(snapshot.nonagle & TCP_NAGLE_OFF != 0),
        persist_pending: has(known::PENDING).then_some(snapshot.pending == ICSK_TIME_PROBE0),
        timer_pending: has(known::PENDING).then_some(snapshot.pending != 0),
        throttled: has(known::TSQ).then_some(snapshot.tsq_flags & 1 != 0),
        partial_record: has(known::PARTIAL).then_some(snapshot.partial != 0),
        open_record: has(known::OPEN_RECORD).then_some(snapshot.open_record != 0),
        encrypt_pending: when(known::ENCRYPT, snapshot.encrypt_pending),
        tail_psh: when(known::TAIL, snapshot.tail_flags).map(|flags| flags & TCPHDR_PSH != 0),
        user_mss: when(known::USER_MSS, snapshot.user_mss),
        // The kernel keeps it times 8; 0 stands for one that was not measured yet.
        srtt_us: when(known::SRTT, snapshot.srtt_us >> 3).filter(|&srtt_us| srtt_us > 0),
        retransmits: when(known::RETRANSMITS, snapshot.retransmits),
        lost: when(known::LOSS, snapshot.lost_out),
        retrans: when(known::LOSS, snapshot.retrans_out),
        paced_ns: has(known::PACED).then_some(snapshot.paced_ns),
        tls: Tls {
            version: name::<TlsVersion>(when(known::TLS_VERSION, snapshot.tls_version)),
            cipher: name::<TlsCipher>(when(known::CIPHER, snapshot.cipher_type)),
            // `TLS_CONF_…`, which sock_diag shows, counts from 1; `TLS_BASE` … from 0.
            tx: name::<TlsConf>(when(known::TX_CONF, snapshot.tx_conf + 1)),
        },
    }
}

/// The name of one of the kernel's numbers.
fn name<T: From<u16> + ToString>(number: Option<u32>) -> Option<String> {
    Some(T::from(u16::try_from(number?).ok()?).to_string())
}

/// An address, with an IPv4 peer of a dual-stack socket shown as IPv4.
fn address(snapshot: &Snapshot, bytes: &[u8; 16], port: u32) -> SocketAddr {
    let ip = if snapshot.family == libc::AF_INET6.unsigned_abs() {
        Ipv6Addr::from(*bytes).to_canonical()
    } else {
        let [a, b, c, d, ..] = *bytes;
        IpAddr::from(Ipv4Addr::new(a, b, c, d))
    };
    SocketAddr::new(ip, u16::try_from(port).unwrap_or(0))
}
