//! Observations: the one input of the correlator, whatever they come from.
//!
//! [`recording`] keeps them in a file, to be replayed elsewhere. Times are `CLOCK_MONOTONIC` in nanoseconds. What was not seen is `None`, never 0.

pub mod recording;

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that was seen at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// When, `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
    /// What.
    pub what: What,
}

/// Names a socket for as long as it is watched; means nothing outside one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketKey(pub u64);

impl SocketKey {
    /// A socket that only `sock_diag` has seen. Its cookie is marked, so that it is never taken for a
    /// moment of suspicion, by which the hooks name theirs.
    pub fn of_cookie(cookie: u64) -> Self {
        Self(cookie | 1 << 63)
    }
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A writer was refused while bytes wait unsent (`sk_stream_wait_memory`).
    Refused {
        /// The socket.
        key: SocketKey,
        /// Who asked.
        process: Process,
        /// Whether the writer sleeps; otherwise it got `-EAGAIN`.
        blocking: bool,
        /// The socket at that moment.
        hold: Box<Hold>,
    },
    /// A writer that slept went on, or gave up: of recordings that were made before nothing followed from it.
    Resumed {
        /// The socket.
        key: SocketKey,
        /// How long it slept.
        waited_ns: u64,
        /// 0 or a negative errno.
        result: i64,
    },
    /// Bytes that had been held left (`tcp_event_new_data_sent`).
    Released {
        /// The socket.
        key: SocketKey,
        /// Bytes in the first segment.
        bytes: u32,
        /// Sequence number after it.
        end_seq: u32,
        /// Who let them go.
        path: ReleasePath,
    },
    /// The persist timer was armed.
    PersistArmed {
        /// The socket.
        key: SocketKey,
    },
    /// The persist timer fired (`tcp_send_probe0`).
    PersistFired {
        /// The socket.
        key: SocketKey,
        /// The socket at that moment.
        hold: Box<Hold>,
    },
    /// The retransmission timer fired (`tcp_enter_loss`).
    RetransmitTimeout {
        /// The socket.
        key: SocketKey,
        /// The socket at that moment.
        hold: Box<Hold>,
    },
    /// A zero-window probe was sent (`tcp_xmit_probe_skb`).
    ZeroWindowProbe {
        /// The socket.
        key: SocketKey,
    },
    /// The owner closes the socket.
    Closing {
        /// The socket.
        key: SocketKey,
    },
    /// `sock_diag` answered.
    Sampled {
        /// The socket.
        key: SocketKey,
        /// When it was asked; the answer describes a moment between then and `at_ns`.
        asked_ns: u64,
        /// The socket; `None`: there is no such socket (any more).
        sample: Option<Box<Sample>>,
    },
    /// What `/proc` says of a process.
    ProcessNamed {
        /// The socket that it writes to.
        key: SocketKey,
        /// Which process.
        pid: u32,
        /// Its name.
        comm: Option<String>,
        /// Path of its program.
        exe: Option<String>,
        /// Its control group.
        cgroup: Option<String>,
        /// The network namespace that it lives in, not in recordings of early builds: its socket may be in another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        netns: Option<u32>,
    },
    /// Hooks were attached.
    Hooks {
        /// Whether they see held bytes leave.
        see_releases: bool,
    },
    /// The run goes by other intervals from now on.
    Intervals {
        /// How long bytes may be held before a stall is opened.
        threshold_ns: u64,
        /// How often `sock_diag` is asked about a suspect.
        poll_interval_ns: u64,
    },
    /// What time it is: `CLOCK_REALTIME` in nanoseconds at `at_ns`.
    Clock {
        /// Nanoseconds since 1970.
        unix_ns: i64,
    },
    /// Time passed.
    Tick,
}

/// A thread as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process (thread group).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Name of the thread.
    pub thread: String,
}

impl Process {
    /// Whether it is one of the kernel's own, which hands on what a process wrote (`tx_work_handler`).
    pub fn is_kernel_worker(&self) -> bool {
        names_kernel_worker(&self.thread)
    }
}

/// Whether a thread of that name is one of the kernel's own workers.
pub fn names_kernel_worker(name: &str) -> bool {
    name.starts_with("kworker/")
}

/// A socket whose bytes wait, and how they came there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The socket at that moment.
    pub socket: SocketState,
    /// The send that was running or ran last.
    pub send: Option<SendFacts>,
    /// The record that was handed to TCP last.
    pub push: Option<PushFacts>,
    /// Process of the last send.
    pub writer_pid: Option<u32>,
}

impl Hold {
    /// The push of the record that waits last. One that ends elsewhere than the queue, though TCP has no record in part, is that of an
    /// earlier record: the last one was not seen (the kernel can pass a program over).
    pub fn last_push(&self) -> Option<&PushFacts> {
        let in_part = self.socket.partial_record != Some(false);
        self.push.as_ref().filter(|push| push.complete || in_part)
    }
}

/// A send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendFacts {
    /// `msg_flags`.
    pub flags: u32,
    /// Bytes asked for.
    pub bytes: Option<u64>,
    /// Whether it came through `tls_sw_sendpage` (before 6.5).
    pub sendpage: bool,
}

impl SendFacts {
    /// Whether splice or sendfile sent it: `MSG_SPLICE_PAGES`, or a sendpage call before 6.5.
    pub fn is_splice(&self) -> bool {
        self.sendpage || self.flags & MSG_SPLICE_PAGES != 0
    }
}

/// A complete record handed to TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushFacts {
    /// When it was first handed to TCP, `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
    /// `flags` of `tls_push_sg`.
    pub flags: u32,
    /// Bytes that the record put into the queue.
    pub record_bytes: u32,
    /// Complete records of this socket so far.
    pub records: u64,
    /// Whether the queue ends with a complete record.
    pub complete: bool,
}

/// `MSG_MORE` of `include/linux/socket.h`.
pub const MSG_MORE: u32 = 0x8000;
/// `MSG_SENDPAGE_NOTLAST` of `include/linux/socket.h`, before 6.5: TCP does not even try to send.
pub const MSG_SENDPAGE_NOTLAST: u32 = 0x2_0000;
/// `MSG_SPLICE_PAGES` of `include/linux/socket.h`, since 6.5.
pub const MSG_SPLICE_PAGES: u32 = 0x0800_0000;

/// Whether these flags tell TCP that more is to come. Before 6.5 splice says so with `MSG_MORE`,
/// `MSG_SENDPAGE_NOTLAST` or both; the second keeps TCP from pushing at all.
pub fn says_more(flags: u32) -> bool {
    flags & (MSG_MORE | MSG_SENDPAGE_NOTLAST) != 0
}

/// A socket as a hook saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketState {
    /// Its cookie, if it has one already.
    pub cookie: Option<u64>,
    /// Its network namespace, as an inode number.
    pub netns: Option<u32>,
    /// Local address.
    pub src: Option<SocketAddr>,
    /// Remote address.
    pub dst: Option<SocketAddr>,
    /// Index of the interface that it is bound to (`SO_BINDTODEVICE`, a VRF, a link-local address).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
    /// TCP state (1: established).
    pub state: Option<u32>,
    /// Sequence number after the last byte queued.
    pub write_seq: Option<u32>,
    /// Sequence number of the next byte to be sent.
    pub snd_nxt: Option<u32>,
    /// First byte that was not acknowledged.
    pub snd_una: Option<u32>,
    /// The peer's window in bytes, counted from `snd_una`.
    pub snd_wnd: Option<u32>,
    /// `mss_cache` in bytes.
    pub mss: Option<u32>,
    /// Segments sent and not acknowledged.
    pub packets_out: Option<u32>,
    /// `tcp_packets_in_flight()`.
    pub in_flight: Option<u32>,
    /// Congestion window in segments.
    pub snd_cwnd: Option<u32>,
    /// The unsent bytes at which the gate shuts.
    pub notsent_lowat: Option<u32>,
    /// Whether that is the socket's own setting.
    pub own_lowat: Option<bool>,
    /// `sk_wmem_queued` in bytes of memory.
    pub wmem_queued: Option<u32>,
    /// `sk_sndbuf` in bytes of memory.
    pub sndbuf: Option<u32>,
    /// Whether the application set `TCP_CORK`.
    pub corked: Option<bool>,
    /// Whether it set `TCP_NODELAY`.
    pub nodelay: Option<bool>,
    /// Whether the persist timer is pending.
    pub persist_pending: Option<bool>,
    /// Whether any of TCP's timers is pending.
    pub timer_pending: Option<bool>,
    /// Whether the data waits for the queueing discipline (`TSQF_THROTTLED`).
    pub throttled: Option<bool>,
    /// Whether TCP has taken only a part of a record.
    pub partial_record: Option<bool>,
    /// Whether the application left a record open.
    pub open_record: Option<bool>,
    /// Whether the last segment that waits has the PSH flag. `tcp_push` leaves it out only if its caller said
    /// `MSG_MORE` (before 6.5 also if `MSG_SENDPAGE_NOTLAST` kept it from being called at all). With the flag
    /// that is not decided: each half of the largest window is marked, too (`forced_push`).
    pub tail_psh: Option<bool>,
    /// Records whose encryption has not returned.
    pub encrypt_pending: Option<u32>,
    /// What the application set by `TCP_MAXSEG`, in bytes; 0: nothing.
    pub user_mss: Option<u32>,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: Option<u32>,
    /// Retransmission timeouts in a row.
    pub retransmits: Option<u32>,
    /// Segments thought lost.
    pub lost: Option<u32>,
    /// Segments retransmitted and in flight.
    pub retrans: Option<u32>,
    /// How long pacing forbids the next segment, in nanoseconds.
    pub paced_ns: Option<u64>,
    /// TLS.
    pub tls: Tls,
}

impl SocketState {
    /// Bytes queued and not sent.
    pub fn notsent(&self) -> Option<u32> {
        Some(self.write_seq?.wrapping_sub(self.snd_nxt?))
    }

    /// Whether there is no room in the send buffer (`sk_stream_memory_free`).
    pub fn buffer_is_full(&self) -> Option<bool> {
        Some(self.wmem_queued? >= self.sndbuf?)
    }

    /// Bytes sent and not acknowledged.
    pub fn unacked_bytes(&self) -> Option<u32> {
        Some(self.snd_nxt?.wrapping_sub(self.snd_una?))
    }

    /// Bytes that the peer will still take: `snd_una + snd_wnd - snd_nxt`, and 0 if the window
    /// shrank below what is in flight.
    pub fn window_left(&self) -> Option<u32> {
        Some(self.snd_wnd?.saturating_sub(self.unacked_bytes()?))
    }

    /// Whether bytes wait and the peer's window does not take the next segment of them
    /// (`tcp_snd_wnd_test`).
    pub fn window_shut(&self) -> Option<bool> {
        let next = self.notsent()?.min(self.mss?);
        Some(next > 0 && self.window_left()? < next)
    }
}

/// What is known of a socket's TLS, by the names that `ss` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tls {
    /// `1.2` or `1.3`.
    pub version: Option<String>,
    /// `aes-gcm-128`, `aes-gcm-256`, `aes-ccm-128`, `chacha20-poly1305`, …, or the kernel's number.
    pub cipher: Option<String>,
    /// Who encrypts what is sent: `base` (nobody in the kernel), `sw` (the kernel), `hw` (the network device),
    /// `hw-record` (the device, whole records).
    pub tx: Option<String>,
}

impl Tls {
    /// What is known here, or else what was known before.
    #[must_use]
    pub fn or(&self, before: &Self) -> Self {
        let newer =
            |new: &Option<String>, old: &Option<String>| new.clone().or_else(|| old.clone());
        Self {
            version: newer(&self.version, &before.version),
            cipher: newer(&self.cipher, &before.cipher),
            tx: newer(&self.tx, &before.tx),
        }
    }

    /// Whether the kernel itself encrypts; `None` if that is not known.
    pub fn is_software(&self) -> Option<bool> {
        self.tx.as_deref().map(|tx| tx == "sw")
    }
}

/// Who let held bytes go.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ReleasePath {
    /// An incoming acknowledgement (`tcp_rcv_established`).
    PeerAck,
    /// The persist timer (`tcp_send_probe0`).
    PersistTimer,
    /// A later send, or a setting that pushes.
    LaterSend,
    /// The completion of an earlier transmission, or the end of a pause for pacing (`tcp_tsq_handler`, `tcp_pace_kick`).
    TransmitQueue,
    /// The close of the socket.
    Close,
    /// The bytes never left.
    None,
    /// They left, but the path could not be seen.
    Unknown,
}

impl ReleasePath {
    /// Who it was, in words.
    pub fn who(self) -> &'static str {
        match self {
            Self::PeerAck => "the peer's ACK",
            Self::PersistTimer => "the persist timer",
            Self::LaterSend => "a later send",
            Self::TransmitQueue => "the transmit queue",
            Self::Close => "the close",
            Self::None => "nobody",
            Self::Unknown => "a path not seen",
        }
    }
}

/// A socket as `sock_diag` saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Its cookie.
    pub cookie: u64,
    /// Its network namespace, as an inode number; `None`: the one that was asked in.
    pub netns: Option<u32>,
    /// Inode number of the socket.
    pub inode: Option<u32>,
    /// Local address.
    pub src: Option<SocketAddr>,
    /// Remote address.
    pub dst: Option<SocketAddr>,
    /// Index of the interface that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
    /// Whether the connection is established (or the peer alone has closed).
    pub established: bool,
    /// `tcpi_notsent_bytes`.
    pub notsent: Option<u32>,
    /// `tcpi_unacked`: segments in flight.
    pub packets_out: Option<u32>,
    /// `tcpi_snd_wnd` in bytes.
    pub snd_wnd: Option<u32>,
    /// `tcpi_snd_mss` in bytes.
    pub mss: Option<u32>,
    /// Bytes sent and not acknowledged.
    pub unacked_bytes: Option<u64>,
    /// `tcpi_snd_cwnd` in segments.
    pub snd_cwnd: Option<u32>,
    /// `tcpi_retransmits`: retransmission timeouts in a row.
    pub retransmits: Option<u32>,
    /// `tcpi_lost` in segments.
    pub lost: Option<u32>,
    /// `tcpi_retrans` in segments.
    pub retrans: Option<u32>,
    /// Bytes sent so far: `tcpi_bytes_sent` without `tcpi_bytes_retrans` (with them in recordings of early builds).
    pub bytes_sent: Option<u64>,
    /// `sk_wmem_queued` in bytes of memory.
    pub wmem_queued: Option<u32>,
    /// `sk_sndbuf` in bytes of memory.
    pub sndbuf: Option<u32>,
    /// The pending timer; `None`: none is.
    pub timer: Option<Timer>,
    /// TLS.
    pub tls: Tls,
}

/// A pending timer as `sock_diag` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timer {
    /// `retransmit`, `keepalive`, `time-wait`, `persist`, `delayed-ack`, or the kernel's number (`idiag_timer`).
    pub kind: String,
    /// Until it fires (`idiag_expires`).
    #[schemars(extend("x-unit" = "ms"))]
    pub expires_ms: u32,
    /// Times that it fired in a row without an answer (`idiag_retrans`).
    pub probes: u32,
}

impl Sample {
    /// Whether there is no room in the send buffer (`sk_stream_memory_free`).
    pub fn buffer_is_full(&self) -> Option<bool> {
        Some(self.wmem_queued? >= self.sndbuf?)
    }

    /// Bytes that the peer will still take: `tcpi_snd_wnd` without what is in flight.
    pub fn window_left(&self) -> Option<u64> {
        Some(u64::from(self.snd_wnd?).saturating_sub(self.unacked_bytes?))
    }
}

impl Timer {
    /// Whether it makes TCP send when it fires.
    pub fn sends(&self) -> bool {
        self.kind == "retransmit" || self.is_persist()
    }

    /// Whether it is the persist timer.
    pub fn is_persist(&self) -> bool {
        self.kind == "persist"
    }
}
