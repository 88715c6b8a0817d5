//! What the workload saw. Serialised, it is one JSON object of schema [`SCHEMA`]; fields are only ever added.

use serde::Serialize;

use super::{
    Holds,
    config::{Cipher, Mode, Receiver, TlsVersion},
};

/// Name and version of the report's form.
pub const SCHEMA: &str = "ktls-trace-repro/1";

/// One run of the workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: &'static str,
    /// How bytes were handed to the socket.
    pub mode: Mode,
    /// TLS version; `None` for plain TCP.
    pub tls: Option<TlsVersion>,
    /// Cipher; `None` for plain TCP.
    pub cipher: Option<Cipher>,
    /// `TCP_MAXSEG` asked for, in bytes; each connection tells the MSS in use.
    pub mss_asked: Option<u32>,
    /// `TCP_NOTSENT_LOWAT` set on the senders, in bytes; `None`: the host's was left.
    pub notsent_lowat: Option<u32>,
    /// `SO_SNDBUF` asked for, in bytes; each connection tells the buffer in use.
    pub sndbuf: Option<u32>,
    /// Whether the senders were non-blocking.
    pub nonblocking: bool,
    /// Whether the senders set `TCP_CORK`.
    pub cork: bool,
    /// Whether the sender set `TCP_NODELAY`.
    pub nodelay: bool,
    /// How the receivers read.
    pub receiver: Receiver,
    /// From the first byte allowed to the end, in milliseconds.
    pub duration_ms: u64,
    /// Payload bytes the kernel accepted before the limit. For a connection that ended before it, the sum of
    /// what send calls returned. For one that did not, what TCP had taken less the records' framing: a call
    /// interrupted at the limit can't be believed, because kernel TLS goes on accepting bytes after the
    /// socket is shut down.
    pub bytes_sent: u64,
    /// Bytes the receivers read before the limit, record framing included.
    pub bytes_received: u64,
    /// Complete TLS records the receivers read before the limit; `None` for plain TCP.
    pub records_received: Option<u64>,
    /// `bytes_received` over `duration_ms`, in MiB a second.
    pub mib_per_s: f64,
    /// Whether any connection hung.
    pub hung: bool,
    /// Each connection, in the order it was made.
    pub connections: Vec<ConnectionReport>,
}

/// One connection of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionReport {
    /// The sender's address.
    pub src: String,
    /// The receiver's address.
    pub dst: String,
    /// As [`Report::bytes_sent`].
    pub bytes_sent: u64,
    /// As [`Report::bytes_received`].
    pub bytes_received: u64,
    /// As [`Report::records_received`].
    pub records_received: Option<u64>,
    /// From the first byte allowed until the receiver saw the end, or the limit, in milliseconds.
    pub duration_ms: u64,
    /// How often a send was refused with `EAGAIN`.
    pub eagain: u64,
    /// The longest time the sender waited at once, in milliseconds: for `EPOLLOUT` when non-blocking,
    /// else inside one send call.
    pub longest_wait_ms: f64,
    /// The MSS in use at the end (`TCP_MAXSEG`), in bytes.
    pub mss: Option<u32>,
    /// The send buffer in use at the end (`SO_SNDBUF`), in bytes.
    pub sndbuf: Option<u32>,
    /// Bytes TCP had taken at the end, record framing included; `None` where the kernel does not tell.
    pub wire_bytes_accepted: Option<u64>,
    /// Bytes of them not sent (`tcpi_notsent_bytes`).
    pub notsent_at_end: Option<u32>,
    /// Bytes of them sent and not acknowledged.
    pub in_flight_at_end: Option<u64>,
    /// Reads of the receiver that brought bytes.
    pub arrivals: u64,
    /// Pauses between two reads longer than 20 ms.
    pub gaps: Gaps,
    /// The holds, if they were to be found.
    pub holds: Option<Holds>,
    /// From the receiver's last read to the end, in milliseconds; from the start if it read nothing.
    pub silent_at_end_ms: f64,
    /// Whether all of the bytes asked for were accepted and the receiver saw the end of the stream.
    pub finished: bool,
    /// Whether at the limit a send was still due or blocked and nothing had arrived for a second (or for
    /// the whole run, if that was shorter). With [`Receiver::Stop`] that is by design.
    pub hung: bool,
    /// What ended the connection early.
    pub error: Option<String>,
}

/// Pauses longer than 20 ms between two successive reads of the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gaps {
    /// How many.
    pub count: u64,
    /// All of them together, in milliseconds.
    pub total_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
}
