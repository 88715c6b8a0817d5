//! What the workload is asked to do.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

/// `TCP_NOTSENT_LOWAT` at which one held TLS record shuts the gate: a record is 16384 bytes and its
/// framing, so 16384 is reached by a single one. It is also a widely copied web-server tuning.
pub const STALLING_NOTSENT_LOWAT: u32 = 16384;

/// Everything the workload can be told. `Config::default()` reproduces the stall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How bytes are handed to the socket.
    pub mode: Mode,
    /// TLS version of the records; unused by [`Mode::Plain`].
    pub tls: TlsVersion,
    /// Cipher of the records; unused by [`Mode::Plain`].
    pub cipher: Cipher,
    /// `TCP_MAXSEG` in bytes, set on both ends before they connect; `None` leaves the path's MSS.
    /// The MSS in use is lower by the TCP options of each segment (12 bytes of timestamps).
    pub mss: Option<u32>,
    /// `TCP_NOTSENT_LOWAT` of the sender in bytes; `None` leaves the host's `net.ipv4.tcp_notsent_lowat`.
    pub notsent_lowat: Option<u32>,
    /// `SO_SNDBUF` of the sender in bytes, before the kernel doubles it; `None` leaves autotuning on.
    pub sndbuf: Option<u32>,
    /// Send with `O_NONBLOCK` and wait for `EPOLLOUT`, as an event-driven server does.
    pub nonblocking: bool,
    /// Set `TCP_CORK` on the sender: the application's own cork, a look-alike of the stall.
    pub cork: bool,
    /// Set `TCP_NODELAY` on the sender, as most servers do: without it Nagle's algorithm holds a
    /// short segment while another is in flight.
    pub nodelay: bool,
    /// Send with `MSG_MORE`, so that the application itself leaves a record open; [`Mode::Write`] only.
    pub msg_more: bool,
    /// Find the holds without any hook ([`super::Holds`]).
    pub find_holds: bool,
    /// Time between two send calls.
    pub pause: Duration,
    /// `SO_RCVBUF` of the receiver in bytes, before the kernel doubles it; `None` leaves autotuning on, but for
    /// [`Receiver::Stop`], where it is small.
    pub rcvbuf: Option<u32>,
    /// `SO_MAX_PACING_RATE` of the sender in bytes a second.
    pub pacing_rate: Option<u32>,
    /// Connections at the same time, each with a thread that sends and one that receives.
    pub connections: u16,
    /// How the receiving end reads.
    pub receiver: Receiver,
    /// Payload bytes for each connection; `None` sends until the time is up.
    pub bytes: Option<u64>,
    /// Time after which everything ends, blocked senders included.
    pub duration: Duration,
    /// Size in bytes of the file that is sent over and over.
    pub file_size: u64,
    /// Most bytes handed to one send call; `None` hands over the whole file.
    pub chunk: Option<u64>,
    /// Time between connecting and the first byte, for a tracer to attach.
    pub hold: Duration,
    /// Address that is listened on; `None`: the loopback's.
    pub address: Option<IpAddr>,
    /// Network namespace of the ends that connect, as a path; `None`: the same.
    pub receiver_netns: Option<PathBuf>,
    /// Connect over `::1` and not `127.0.0.1`.
    pub ipv6: bool,
    /// Connect over `::ffff:127.0.0.1`: IPv6 sockets with IPv4 underneath, as a dual-stack listener has them.
    pub ipv4_mapped: bool,
    /// Port that is listened on; 0 takes an ephemeral one.
    pub port: u16,
    /// The sender connects, as a client that uploads does, and the receiver listens.
    pub upload: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Sendfile,
            tls: TlsVersion::V1_3,
            cipher: Cipher::Aes128Gcm,
            mss: None,
            notsent_lowat: Some(STALLING_NOTSENT_LOWAT),
            sndbuf: None,
            nonblocking: false,
            cork: false,
            nodelay: false,
            msg_more: false,
            find_holds: false,
            pause: Duration::ZERO,
            rcvbuf: None,
            pacing_rate: None,
            connections: 1,
            receiver: Receiver::Drain,
            bytes: None,
            duration: Duration::from_secs(10),
            file_size: 4 << 20,
            chunk: None,
            hold: Duration::ZERO,
            address: None,
            receiver_netns: None,
            ipv6: false,
            ipv4_mapped: false,
            port: 0,
            upload: false,
        }
    }
}

impl Config {
    /// Most bytes one send call is given: the chunk, never more than the file and never 0.
    pub(super) fn chunk_bytes(&self) -> u64 {
        self.chunk
            .unwrap_or(self.file_size)
            .clamp(1, self.file_size.max(1))
    }
}

/// How bytes are handed to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// `sendfile(2)` into kernel TLS.
    Sendfile,
    /// `splice(2)` from the file through a pipe into kernel TLS.
    Splice,
    /// `splice(2)`, a quarter of a record at a time, "more" said with all but the last quarter: no
    /// complete record is pushed with `MSG_MORE`, as if `tls_sw` took the flag away (a stand-in
    /// for a kernel that does). Before 6.5 each piece becomes a record, and the stand-in is none.
    SpliceUnflagged,
    /// `write(2)` into kernel TLS.
    Write,
    /// `sendfile(2)` into plain TCP.
    Plain,
}

impl Mode {
    /// Whether the bytes go through kernel TLS.
    pub fn uses_tls(self) -> bool {
        self != Self::Plain
    }
}

/// TLS version of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    #[value(name = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    #[value(name = "1.3")]
    V1_3,
}

impl TlsVersion {
    /// The name used on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// Cipher of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
pub enum Cipher {
    /// AES-GCM with a 128-bit key.
    #[serde(rename = "aes-128-gcm")]
    #[value(name = "aes-128-gcm")]
    Aes128Gcm,
    /// AES-GCM with a 256-bit key.
    #[serde(rename = "aes-256-gcm")]
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    #[value(name = "chacha20-poly1305")]
    Chacha20Poly1305,
    /// AES-CCM with a 128-bit key.
    #[serde(rename = "aes-128-ccm")]
    #[value(name = "aes-128-ccm")]
    Aes128Ccm,
    /// SM4-GCM.
    #[serde(rename = "sm4-gcm")]
    #[value(name = "sm4-gcm")]
    Sm4Gcm,
    /// SM4-CCM.
    #[serde(rename = "sm4-ccm")]
    #[value(name = "sm4-ccm")]
    Sm4Ccm,
    /// ARIA-GCM with a 128-bit key; TLS 1.2 only.
    #[serde(rename = "aria-128-gcm")]
    #[value(name = "aria-128-gcm")]
    Aria128Gcm,
    /// ARIA-GCM with a 256-bit key; TLS 1.2 only.
    #[serde(rename = "aria-256-gcm")]
    #[value(name = "aria-256-gcm")]
    Aria256Gcm,
}

impl Cipher {
    /// The name used on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Chacha20Poly1305 => "chacha20-poly1305",
            Self::Aes128Ccm => "aes-128-ccm",
            Self::Sm4Gcm => "sm4-gcm",
            Self::Sm4Ccm => "sm4-ccm",
            Self::Aria128Gcm => "aria-128-gcm",
            Self::Aria256Gcm => "aria-256-gcm",
        }
    }

    /// Whether kernel TLS takes it only in TLS 1.2: RFC 6209 defines ARIA for that alone, and
    /// `do_tls_setsockopt_conf` insists on it.
    pub(super) fn tls_1_2_only(self) -> bool {
        matches!(self, Self::Aria128Gcm | Self::Aria256Gcm)
    }
}

/// Most payload in one TLS record, in bytes (RFC 8446, 5.1; `TLS_MAX_PAYLOAD_SIZE`).
pub(super) const RECORD_PAYLOAD: u64 = 16384;

/// Bytes each record adds to its payload: header, explicit nonce, content type and tag.
pub(super) fn record_overhead(tls: TlsVersion, cipher: Cipher) -> u64 {
    const HEADER: u64 = 5;
    const TAG: u64 = 16;
    match (tls, cipher) {
        // The nonce is implicit; the content type is part of what is encrypted.
        (TlsVersion::V1_3, _) => HEADER + 1 + TAG,
        (TlsVersion::V1_2, Cipher::Chacha20Poly1305) => HEADER + TAG,
        // Every other cipher has 8 bytes of its nonce in front of what is encrypted (`tls_cipher_desc`).
        (TlsVersion::V1_2, _) => HEADER + 8 + TAG,
    }
}

/// How the receiving end reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Receiver {
    /// Reads as fast as bytes arrive.
    Drain,
    /// Reads a little at a time.
    Slow {
        /// Bytes read in one second.
        bytes_per_s: u64,
    },
    /// Reads some bytes and then never again, with a small `SO_RCVBUF`, so that the window shuts.
    Stop {
        /// Bytes read before it stops.
        after_bytes: u64,
    },
}
