//! What the verdict of an event rests on: the facts of one hold, with their source in the kernel.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    correlate::episode::ms,
    observe::{Sample, SocketState, Timer},
};

/// What a verdict rests on. Of the hold that the event tells of: the one that goes on, or the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Evidence {
    /// Where the facts come from: `hooks`, `sock_diag`, or both.
    pub sources: Vec<&'static str>,
    /// The send that ran when the writer was refused, or the last one; null: none was seen.
    pub send: Option<SendEvidence>,
    /// The complete record that was handed to TCP last; null: none was seen.
    pub record: Option<RecordEvidence>,
    /// The refused writer; null: none was seen (a timer or `sock_diag` told of the bytes).
    pub writer: Option<WriterEvidence>,
    /// TCP's values of the socket.
    pub tcp: TcpEvidence,
    /// The timer pending when `sock_diag` answered last; null: none, or it has not answered.
    pub timer: Option<Timer>,
    /// The persist timer.
    pub persist: PersistEvidence,
    /// Times that the retransmission timer fired since the episode began, or since the socket was first seen
    /// (`tcp_enter_loss`).
    pub retransmit_timeouts: u32,
    /// What `sock_diag` answered last during the hold, beside what the hooks saw; null: it has not answered.
    pub sock_diag: Option<SockDiagEvidence>,
}

/// A send into a kernel-TLS socket (`tls_sw_sendmsg`, before 6.5 also `tls_sw_sendpage`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SendEvidence {
    /// `msg_flags` of the send, by name (`MSG_MORE`); flags without a name here as one hexadecimal number.
    pub flags: Vec<String>,
    /// Bytes asked for; null for a page handed over by sendpage (before 6.5).
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes: Option<u64>,
    /// Whether sendfile or splice sent it (`MSG_SPLICE_PAGES`, or sendpage before 6.5).
    pub splice: bool,
}

/// A complete TLS record that was handed to TCP (`tls_push_sg`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RecordEvidence {
    /// Flags handed to TCP with it, by name as in `send.flags`.
    pub flags: Vec<String>,
    /// Its length, TLS overhead included: 16406 for a full one of TLS 1.3 with AES-GCM.
    #[schemars(extend("x-unit" = "bytes"))]
    pub bytes: u32,
    /// Whether the queue ended with it: nothing was queued after it.
    pub complete: bool,
}

/// A writer that was refused (`sk_stream_wait_memory`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WriterEvidence {
    /// Whether it sleeps; otherwise it got `-EAGAIN`.
    pub blocking: bool,
}

/// TCP's values of the socket: as a hook saw them when the writer was refused or a timer fired; without a hook, as
/// `sock_diag` answered, which leaves those null that say "hooks only".
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct TcpEvidence {
    /// Queued and not sent (`write_seq - snd_nxt`, `tcpi_notsent_bytes`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub notsent: Option<u32>,
    /// Sent and not acknowledged (`tcp_sock.packets_out`, `tcpi_unacked`).
    #[schemars(extend("x-unit" = "segments"))]
    pub packets_out: Option<u32>,
    /// The peer's window, counted from the first byte that it has not acknowledged (`tcp_sock.snd_wnd`,
    /// `tcpi_snd_wnd`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub snd_wnd: Option<u32>,
    /// What is left of that window: `snd_una + snd_wnd - snd_nxt`; 0 also if it shrank below what is in flight.
    #[schemars(extend("x-unit" = "bytes"))]
    pub window_left: Option<u32>,
    /// MSS in use (`tcp_sock.mss_cache`, `tcpi_snd_mss`): less than this waits if TCP is told of more to come.
    #[schemars(extend("x-unit" = "bytes"))]
    pub mss: Option<u32>,
    /// Congestion window (`tcp_sock.snd_cwnd`, `tcpi_snd_cwnd`).
    #[schemars(extend("x-unit" = "segments"))]
    pub snd_cwnd: Option<u32>,
    /// Send buffer (`sk_sndbuf`, `SK_MEMINFO_SNDBUF`): the gate `sndbuf` shuts when `wmem_queued` reaches it.
    #[schemars(extend("x-unit" = "bytes of memory"))]
    pub sndbuf: Option<u32>,
    /// Memory of all that is queued, sent and unsent, with its overhead (`sk_wmem_queued`,
    /// `SK_MEMINFO_WMEM_QUEUED`).
    #[schemars(extend("x-unit" = "bytes of memory"))]
    pub wmem_queued: Option<u32>,
    /// The gate `notsent-lowat` shuts when `notsent` reaches this (`tcp_notsent_lowat()`): the socket's own setting,
    /// or else the sysctl `net.ipv4.tcp_notsent_lowat` of its namespace. Hooks only.
    #[schemars(extend("x-unit" = "bytes"))]
    pub notsent_lowat: Option<u32>,
    /// Whether that is the socket's own setting (`TCP_NOTSENT_LOWAT`). Hooks only.
    pub own_lowat: Option<bool>,
    /// Whether the application set `TCP_CORK` (`tcp_sock.nonagle`). Hooks only.
    pub corked: Option<bool>,
    /// Whether the application set `TCP_NODELAY` (`tcp_sock.nonagle`). Hooks only.
    pub nodelay: Option<bool>,
    /// Whether the persist timer was pending at that moment (`icsk_pending`, `idiag_timer`).
    pub persist_pending: Option<bool>,
    /// What the application set by `TCP_MAXSEG` (`rx_opt.user_mss`); null: nothing, or not known. Hooks only.
    #[schemars(extend("x-unit" = "bytes"))]
    pub user_mss: Option<u32>,
    /// Sent and not acknowledged (`snd_nxt - snd_una`; `tcpi_bytes_sent` without `tcpi_bytes_retrans` and
    /// `tcpi_bytes_acked`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub unacked_bytes: Option<u32>,
    /// Smoothed round-trip time (`tcp_sock.srtt_us`); null: not measured yet, or not known. Hooks only.
    #[schemars(extend("x-unit" = "ms"))]
    pub srtt_ms: Option<f64>,
    /// Retransmission timeouts in a row (`icsk_retransmits`, `tcpi_retransmits`).
    pub retransmits: Option<u32>,
    /// Thought lost (`tcp_sock.lost_out`, `tcpi_lost`).
    #[schemars(extend("x-unit" = "segments"))]
    pub lost: Option<u32>,
    /// Whether the data waits for the queueing discipline (`TSQF_THROTTLED`). Hooks only.
    pub throttled: Option<bool>,
    /// For how long from then on pacing forbade the next segment (`tcp_wstamp_ns`); 0: not at all. Hooks only.
    #[schemars(extend("x-unit" = "ms"))]
    pub paced_ms: Option<f64>,
    /// Whether the application left a TLS record open (`pending_open_record_frags`). Hooks only.
    pub open_record: Option<bool>,
    /// Whether the last segment that waits has the PSH flag, which `tcp_push` leaves out only with `MSG_MORE`; null:
    /// nothing waits, or not known. Hooks only.
    pub tail_psh: Option<bool>,
    /// TLS records whose encryption had not returned (`encrypt_pending`). Hooks only.
    #[schemars(extend("x-unit" = "records"))]
    pub encrypt_pending: Option<u32>,
}

impl TcpEvidence {
    /// As the hooks saw it.
    pub fn of_socket(socket: &SocketState) -> Self {
        Self {
            notsent: socket.notsent(),
            packets_out: socket.packets_out,
            snd_wnd: socket.snd_wnd,
            window_left: socket.window_left(),
            mss: socket.mss,
            snd_cwnd: socket.snd_cwnd,
            sndbuf: socket.sndbuf,
            wmem_queued: socket.wmem_queued,
            notsent_lowat: socket.notsent_lowat,
            own_lowat: socket.own_lowat,
            corked: socket.corked,
            nodelay: socket.nodelay,
            persist_pending: socket.persist_pending,
            user_mss: socket.user_mss.filter(|&user_mss| user_mss > 0),
            unacked_bytes: socket.unacked_bytes(),
            srtt_ms: socket.srtt_us.map(|srtt_us| f64::from(srtt_us) / 1000.0),
            retransmits: socket.retransmits,
            lost: socket.lost,
            throttled: socket.throttled,
            paced_ms: socket.paced_ns.map(ms),
            open_record: socket.open_record,
            tail_psh: socket.tail_psh,
            encrypt_pending: socket.encrypt_pending,
        }
    }

    /// As `sock_diag` saw it.
    pub fn of_sample(sample: &Sample) -> Self {
        let narrow = |bytes: Option<u64>| bytes.and_then(|bytes| u32::try_from(bytes).ok());
        Self {
            notsent: sample.notsent,
            packets_out: sample.packets_out,
            snd_wnd: sample.snd_wnd,
            window_left: narrow(sample.window_left()),
            unacked_bytes: narrow(sample.unacked_bytes),
            mss: sample.mss,
            snd_cwnd: sample.snd_cwnd,
            sndbuf: sample.sndbuf,
            wmem_queued: sample.wmem_queued,
            retransmits: sample.retransmits,
            lost: sample.lost,
            persist_pending: Some(sample.timer.as_ref().is_some_and(Timer::is_persist)),
            ..Self::default()
        }
    }
}

/// The persist timer of the socket since the episode began, or since the socket was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PersistEvidence {
    /// Times that it was armed while bytes were under suspicion; the first arming is in `tcp.persist_pending`.
    pub armed: u32,
    /// Times that it fired (`tcp_send_probe0`).
    pub fired: u32,
    /// Zero-window probes that were sent (`tcp_xmit_probe_skb`).
    pub zero_window_probes: u32,
}

/// An answer of `sock_diag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SockDiagEvidence {
    /// Queued and not sent (`tcpi_notsent_bytes`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub notsent: Option<u32>,
    /// Sent and not acknowledged (`tcpi_unacked`).
    #[schemars(extend("x-unit" = "segments"))]
    pub packets_out: Option<u32>,
    /// The peer's window (`tcpi_snd_wnd`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub snd_wnd: Option<u32>,
    /// `snd_wnd` without what is in flight (`tcpi_bytes_sent`, `tcpi_bytes_retrans`, `tcpi_bytes_acked`).
    #[schemars(extend("x-unit" = "bytes"))]
    pub window_left: Option<u64>,
    /// Retransmission timeouts in a row (`tcpi_retransmits`).
    pub retransmits: Option<u32>,
}

impl SockDiagEvidence {
    /// What an answer says.
    pub fn of_sample(sample: &Sample) -> Self {
        Self {
            notsent: sample.notsent,
            packets_out: sample.packets_out,
            snd_wnd: sample.snd_wnd,
            window_left: sample.window_left(),
            retransmits: sample.retransmits,
        }
    }
}

/// Flag words by name: the ones that matter here, the rest as a number.
pub fn flag_names(flags: u32) -> Vec<String> {
    const NAMES: [(u32, &str); 6] = [
        (0x40, "MSG_DONTWAIT"),
        (0x4000, "MSG_NOSIGNAL"),
        (0x8000, "MSG_MORE"),
        (0x2_0000, "MSG_SENDPAGE_NOTLAST"),
        (0x0800_0000, "MSG_SPLICE_PAGES"),
        (0x80, "MSG_EOR"),
    ];
    let mut rest = flags;
    let mut names = Vec::new();
    for (bit, name) in NAMES {
        if flags & bit != 0 {
            names.push(name.to_owned());
            rest &= !bit;
        }
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_names_and_unknown_bits_stay_visible() {
        assert_eq!(
            flag_names(0x0800_8040),
            ["MSG_DONTWAIT", "MSG_MORE", "MSG_SPLICE_PAGES"]
        );
        assert_eq!(flag_names(0x28000), ["MSG_MORE", "MSG_SENDPAGE_NOTLAST"]);
        assert_eq!(flag_names(0x1000_0000), ["0x10000000"]);
    }
}
