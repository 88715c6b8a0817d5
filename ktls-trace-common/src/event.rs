//! The records that cross the ring buffer.
//!
//! Every record starts with a [`Header`]; `kind` says which one it is. A socket is named by the
//! address of its `struct sock` and its generation (see [`Header::generation`]), because a cookie
//! can be 0 until somebody asks for it. The address never leaves the daemon.

/// A writer was refused: [`Refused`].
pub const REFUSED: u32 = 1;
/// Held bytes left: [`Released`].
pub const RELEASED: u32 = 3;
/// The persist timer was armed: [`Header`] alone.
pub const PERSIST_ARMED: u32 = 4;
/// The persist timer fired: [`Refused`], as the state of the socket at that moment.
pub const PERSIST_FIRED: u32 = 5;
/// A zero-window probe was sent: [`Header`] alone.
pub const ZERO_WINDOW_PROBE: u32 = 6;
/// The socket is being closed by its owner: [`Header`] alone.
pub const CLOSING: u32 = 7;
/// The retransmission timer fired: [`Refused`], as the state of the socket at that moment.
pub const RETRANSMIT_TIMEOUT: u32 = 8;

/// Frames of the kernel stack that are kept with a release.
pub const STACK_FRAMES: usize = 24;

/// What every record starts with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Which record this is, one of the constants of this module.
    pub kind: u32,
    /// Size of the whole record in bytes.
    pub size: u32,
    /// When it happened, `CLOCK_MONOTONIC` in nanoseconds (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// Address of the `struct sock`: an identity, never followed by the user side.
    pub sk: u64,
    /// When this socket came under suspicion, in nanoseconds, with the CPU in the lowest 8 bits:
    /// no two sockets share it, not even two that had the same address one after the other.
    pub generation: u64,
}

/// Bits of [`Snapshot::known`]: the member named was read on this kernel.
pub mod known {
    /// [`Snapshot::cookie`](super::Snapshot::cookie), and it was not 0.
    pub const COOKIE: u32 = 1;
    /// [`Snapshot::netns`](super::Snapshot::netns).
    pub const NETNS: u32 = 1 << 1;
    /// [`Snapshot::notsent_lowat`](super::Snapshot::notsent_lowat).
    pub const LOWAT: u32 = 1 << 2;
    /// [`Snapshot::nonagle`](super::Snapshot::nonagle).
    pub const NONAGLE: u32 = 1 << 3;
    /// [`Snapshot::pending`](super::Snapshot::pending).
    pub const PENDING: u32 = 1 << 4;
    /// [`Snapshot::bound_dev_if`](super::Snapshot::bound_dev_if).
    pub const BOUND: u32 = 1 << 5;
    /// [`Snapshot::tx_conf`](super::Snapshot::tx_conf).
    pub const TX_CONF: u32 = 1 << 6;
    /// [`Snapshot::tls_version`](super::Snapshot::tls_version).
    pub const TLS_VERSION: u32 = 1 << 7;
    /// [`Snapshot::cipher_type`](super::Snapshot::cipher_type).
    pub const CIPHER: u32 = 1 << 8;
    /// [`Snapshot::partial`](super::Snapshot::partial).
    pub const PARTIAL: u32 = 1 << 9;
    /// [`Snapshot::open_record`](super::Snapshot::open_record).
    pub const OPEN_RECORD: u32 = 1 << 10;
    /// [`Snapshot::snd_cwnd`](super::Snapshot::snd_cwnd).
    pub const CWND: u32 = 1 << 11;
    /// [`Snapshot::in_flight`](super::Snapshot::in_flight).
    pub const IN_FLIGHT: u32 = 1 << 12;
    /// [`Snapshot::tsq_flags`](super::Snapshot::tsq_flags).
    pub const TSQ: u32 = 1 << 13;
    /// The sequence numbers, window, MSS and `packets_out`: the members without which a snapshot
    /// says nothing.
    pub const TCP: u32 = 1 << 14;
    /// [`Snapshot::wmem_queued`](super::Snapshot::wmem_queued) and
    /// [`Snapshot::sndbuf`](super::Snapshot::sndbuf).
    pub const MEM: u32 = 1 << 15;
    /// The addresses and ports.
    pub const TUPLE: u32 = 1 << 16;
    /// [`Snapshot::notsent_lowat`](super::Snapshot::notsent_lowat) is the socket's own
    /// (`TCP_NOTSENT_LOWAT`), not its namespace's.
    pub const LOWAT_OWN: u32 = 1 << 17;
    /// [`Snapshot::user_mss`](super::Snapshot::user_mss).
    pub const USER_MSS: u32 = 1 << 18;
    /// [`Snapshot::srtt_us`](super::Snapshot::srtt_us).
    pub const SRTT: u32 = 1 << 19;
    /// [`Snapshot::retransmits`](super::Snapshot::retransmits).
    pub const RETRANSMITS: u32 = 1 << 20;
    /// [`Snapshot::lost_out`](super::Snapshot::lost_out) and
    /// [`Snapshot::retrans_out`](super::Snapshot::retrans_out).
    pub const LOSS: u32 = 1 << 21;
    /// [`Snapshot::paced_ns`](super::Snapshot::paced_ns).
    pub const PACED: u32 = 1 << 22;
    /// [`Snapshot::encrypt_pending`](super::Snapshot::encrypt_pending).
    pub const ENCRYPT: u32 = 1 << 23;
    /// [`Snapshot::tail_flags`](super::Snapshot::tail_flags), and something is queued.
    pub const TAIL: u32 = 1 << 24;
}

/// A socket as it was at one moment. A member counts only if its bit is set in `known`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// `sk->__sk_common.skc_cookie`.
    pub cookie: u64,
    /// `sk_tsq_flags`; bit 0 (`TSQF_THROTTLED`): the data waits for the queueing discipline.
    pub tsq_flags: u64,
    /// How long pacing still forbids the next segment (`tcp_wstamp_ns`), in nanoseconds.
    pub paced_ns: u64,
    /// Which members were read: bits of [`known`].
    pub known: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Source address; IPv4 in the first four bytes.
    pub src: [u8; 16],
    /// Destination address; IPv4 in the first four bytes.
    pub dst: [u8; 16],
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// Source port, host order.
    pub src_port: u32,
    /// Destination port, host order.
    pub dst_port: u32,
    /// Interface that the socket is bound to (`skc_bound_dev_if`); 0: none.
    pub bound_dev_if: u32,
    /// TCP state (`TCP_ESTABLISHED` is 1).
    pub state: u32,
    /// Sequence number after the last byte that was queued.
    pub write_seq: u32,
    /// Sequence number of the next byte to be sent.
    pub snd_nxt: u32,
    /// First byte that was not acknowledged.
    pub snd_una: u32,
    /// The peer's window in bytes, counted from `snd_una`.
    pub snd_wnd: u32,
    /// `mss_cache` in bytes.
    pub mss: u32,
    /// Segments in flight.
    pub packets_out: u32,
    /// `tcp_packets_in_flight()`, in segments.
    pub in_flight: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// `tcp_notsent_lowat()`: the socket's own value, or else the namespace's, in bytes.
    pub notsent_lowat: u32,
    /// `sk_wmem_queued` in bytes of memory.
    pub wmem_queued: u32,
    /// `sk_sndbuf` in bytes of memory.
    pub sndbuf: u32,
    /// `tp->nonagle`: 1 `TCP_NAGLE_OFF`, 2 `TCP_NAGLE_CORK`, 4 `TCP_NAGLE_PUSH`.
    pub nonagle: u32,
    /// `icsk_pending`: 1 retransmit, 3 persist (`ICSK_TIME_PROBE0`), 0 none.
    pub pending: u32,
    /// `tls_context.tx_conf`: 0 base, 1 software, 2 device, 3 TOE.
    pub tx_conf: u32,
    /// TLS version on the wire: 0x0303, 0x0304.
    pub tls_version: u32,
    /// `TLS_CIPHER_…` of `linux/tls.h`.
    pub cipher_type: u32,
    /// 1 while TCP has taken only a part of a record (`partially_sent_record`).
    pub partial: u32,
    /// 1 if the application left a record open (`pending_open_record_frags`).
    pub open_record: u32,
    /// Records whose encryption has not returned (`encrypt_pending`).
    pub encrypt_pending: u32,
    /// What the application set by `TCP_MAXSEG`; 0: nothing.
    pub user_mss: u32,
    /// Smoothed round-trip time in microseconds, times 8; 0: not measured.
    pub srtt_us: u32,
    /// Retransmission timeouts in a row (`icsk_retransmits`).
    pub retransmits: u32,
    /// Segments thought lost.
    pub lost_out: u32,
    /// Segments retransmitted and in flight.
    pub retrans_out: u32,
    /// TCP flags of the last segment queued and not sent (`tcp_skb_cb.tcp_flags`), the lowest 8; bit 3
    /// (`TCPHDR_PSH`): its last push said that no more is to come, or half of the largest window was queued.
    pub tail_flags: u32,
}

/// What the send hooks remember of a socket. Times and counts are 0 where nothing was seen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tx {
    /// Sends that were seen.
    pub sends: u64,
    /// When the record under way, or the last one, was first handed to TCP, in nanoseconds; 0: none was seen.
    pub push_ns: u64,
    /// The same of the last record that TCP has taken as a whole; 0: none was seen.
    pub record_ns: u64,
    /// Bytes asked for by the last send; 0 if it was a `sendpage` call.
    pub send_size: u64,
    /// Complete records handed to TCP.
    pub records: u64,
    /// Thread and process of the last send (`bpf_get_current_pid_tgid`).
    pub pid_tgid: u64,
    /// `msg_flags` of the last send.
    pub send_flags: u32,
    /// 1 if the last send was a `sendpage` call (kernels before 6.5).
    pub sendpage: u32,
    /// UTS namespace of the thread that sent last, as an inode number; 0 unless the filter asks.
    pub uts: u32,
    /// 1 until it is seen that TCP has taken all of the record under way.
    pub pushing: u32,
    /// `flags` that it was last handed over with.
    pub push_flags: u32,
    /// Its length in bytes, as it goes out.
    pub push_bytes: u32,
    /// `write_seq` when it was first handed over.
    pub push_begin_seq: u32,
    /// `flags` that the last complete record was handed over with.
    pub record_flags: u32,
    /// Bytes that it put into the queue.
    pub record_bytes: u32,
    /// `write_seq` after it.
    pub record_end_seq: u32,
}

impl Tx {
    /// Nothing seen yet.
    pub const NONE: Self = Self {
        sends: 0,
        push_ns: 0,
        record_ns: 0,
        send_size: 0,
        records: 0,
        pid_tgid: 0,
        send_flags: 0,
        sendpage: 0,
        uts: 0,
        pushing: 0,
        push_flags: 0,
        push_bytes: 0,
        push_begin_seq: 0,
        record_flags: 0,
        record_bytes: 0,
        record_end_seq: 0,
    };

    /// A record is handed to TCP: the rest of the one under way, or the next.
    #[inline]
    pub fn push(&mut self, now: u64, flags: u32, bytes: u32, write_seq: u32) -> Pushed {
        self.settle(write_seq);
        self.push_flags = flags;
        let taken = write_seq.wrapping_sub(self.push_begin_seq);
        if self.pushing == 1 && taken < self.push_bytes {
            return Pushed::Rest;
        }
        self.pushing = 1;
        self.push_ns = now;
        self.push_bytes = bytes;
        self.push_begin_seq = write_seq;
        Pushed::Next
    }

    /// Once TCP has taken all of the record under way, which `write_seq` tells, it is the last complete one. Whether
    /// that is so only now.
    #[inline]
    pub fn settle(&mut self, write_seq: u32) -> bool {
        let end_seq = self.push_begin_seq.wrapping_add(self.push_bytes);
        if self.pushing == 0 || write_seq != end_seq {
            return false;
        }
        self.pushing = 0;
        self.records += 1;
        self.record_ns = self.push_ns;
        self.record_flags = self.push_flags;
        self.record_bytes = self.push_bytes;
        self.record_end_seq = end_seq;
        true
    }
}

/// What [`Tx::push`] makes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// A record that is handed over for the first time.
    Next,
    /// What was left of the one before.
    Rest,
}

/// A writer was refused, or one of TCP's timers fired: the socket at that moment.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// What every record starts with.
    pub header: Header,
    /// Thread and process that asked (`bpf_get_current_pid_tgid`); 0 where `current` is not the
    /// writer (timers).
    pub pid_tgid: u64,
    /// `*timeo_p` in jiffies: 0 for a non-blocking writer.
    pub timeo: i64,
    /// Name of the thread that asked.
    pub comm: [u8; 16],
    /// What the send hooks remember.
    pub tx: Tx,
    /// The socket.
    pub snapshot: Snapshot,
}

/// Held bytes left (`tcp_event_new_data_sent`): the first segment after a refusal.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Released {
    /// What every record starts with.
    pub header: Header,
    /// `snd_nxt` before the segment.
    pub snd_nxt: u32,
    /// Sequence number after the segment, or `snd_nxt` if it can't be read on this kernel.
    pub end_seq: u32,
    /// Bytes of stack that were read; negative if none could be.
    pub stack_bytes: i64,
    /// Return addresses, innermost first: they say by which path the bytes left.
    pub stack: [u64; STACK_FRAMES],
}

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(size_of::<Snapshot>() == 24 + 8 + 32 + 30 * 4);
    assert!(size_of::<Tx>() == 6 * 8 + 10 * 4);
    assert!(size_of::<Refused>() == 32 + 16 + 16 + size_of::<Tx>() + size_of::<Snapshot>());
    assert!(size_of::<Released>() == 32 + 16 + 8 * STACK_FRAMES);
};

/// The state kept for a socket under suspicion, shared between the programs and, for its removal,
/// the user side.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Suspect {
    /// When it came under suspicion, in nanoseconds.
    pub generation: u64,
    /// `write_seq` when it was last reported.
    pub write_seq: u32,
    /// `snd_nxt` when it was last reported.
    pub snd_nxt: u32,
    /// Ports when it came under suspicion (`skc_num` and `skc_dport`): another pair means that the
    /// address was given to another socket.
    pub ports: u32,
    /// 1 while reported bytes have not left.
    pub holding: u32,
}

const _: () = assert!(size_of::<Suspect>() == 24);

#[cfg(feature = "user")]
// SAFETY: repr(C), only integers, no padding (asserted above).
unsafe impl aya::Pod for Suspect {}

#[cfg(test)]
mod tests {
    use super::{Pushed, Tx};

    const MORE: u32 = 0x8000;

    #[test]
    fn a_record_is_complete_once_write_seq_is_past_all_of_it() {
        let mut tx = Tx::NONE;
        // Across the end of the sequence numbers.
        let begin = 0_u32.wrapping_sub(1000);
        assert_eq!(tx.push(10, MORE, 16406, begin), Pushed::Next);
        assert!(!tx.settle(begin) && !tx.settle(begin.wrapping_add(16405)));
        assert_eq!((tx.records, tx.record_ns), (0, 0));
        let end = begin.wrapping_add(16406);
        assert!(tx.settle(end) && !tx.settle(end));
        assert_eq!((tx.records, tx.record_ns, tx.record_bytes), (1, 10, 16406));
        assert_eq!((tx.record_flags, tx.record_end_seq), (MORE, end));
    }

    #[test]
    fn a_record_that_was_cut_short_goes_on_as_the_same() {
        let mut tx = Tx::NONE;
        assert_eq!(tx.push(10, MORE, 16406, 5000), Pushed::Next);
        assert_eq!(tx.push(20, 0, 16406, 9000), Pushed::Rest);
        assert_eq!(tx.push(30, 0, 100, 21406), Pushed::Next);
        // The flags are those of the last part, the time that of the first.
        assert_eq!((tx.records, tx.record_ns, tx.record_flags), (1, 10, 0));
        assert_eq!((tx.record_bytes, tx.record_end_seq), (16406, 21406));
    }

    #[test]
    fn a_record_first_seen_in_its_middle_is_never_taken_for_complete() {
        let mut tx = Tx::NONE;
        // 4000 of its 16406 bytes had gone before.
        assert_eq!(tx.push(10, MORE, 16406, 9000), Pushed::Next);
        assert!(!tx.settle(9000 + 12406));
        // The next one, of which the beginning is taken for the rest of the first …
        assert_eq!(tx.push(20, 0, 16406, 21406), Pushed::Rest);
        // … and the one after it: from here on all is right.
        assert_eq!(tx.push(30, MORE, 16406, 37812), Pushed::Next);
        assert_eq!(tx.records, 0);
        assert!(tx.settle(37812 + 16406));
        assert_eq!((tx.records, tx.record_flags), (1, MORE));
    }
}
