//! `struct tcp_info` (include/uapi/linux/tcp.h), which grows from release to release: each field is read if
//! the bytes the kernel gave reach it, and is unknown otherwise.

use serde::Serialize;

/// Reads a native-endian number at an offset, if the bytes reach that far.
macro_rules! number {
    ($bytes:expr, $offset:literal, $number:ty) => {
        $bytes
            .get($offset..$offset + size_of::<$number>())
            .and_then(|bytes| bytes.try_into().ok())
            .map(<$number>::from_ne_bytes)
    };
}

/// Declares the struct and its parser from one table, so that no field can be forgotten in either.
macro_rules! tcp_info {
    ($($(#[$doc:meta])* $field:ident: $number:ident at $offset:literal;)*) => {
        /// What `tcp_get_info` told of one connection. A field is `None` where this kernel's struct ends before it.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct TcpInfo {
            $($(#[$doc])* pub $field: Option<$number>,)*
        }

        impl TcpInfo {
            /// Reads what is there, however short or long it is.
            pub fn parse(bytes: &[u8]) -> Self {
                Self { $($field: number!(bytes, $offset, $number),)* }
            }
        }
    };
}

tcp_info! {
    /// State, as in `include/net/tcp_states.h` (`tcpi_state`).
    state: u8 at 0;
    /// Congestion state: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss (`tcpi_ca_state`).
    ca_state: u8 at 1;
    /// Retransmit timeouts in a row (`tcpi_retransmits`).
    retransmits: u8 at 2;
    /// Unanswered probes, of a zero window or a keepalive (`tcpi_probes`).
    probes: u8 at 3;
    /// Exponent of the timer's backoff (`tcpi_backoff`).
    backoff: u8 at 4;
    /// Options negotiated, `TCPI_OPT_*` (`tcpi_options`).
    options: u8 at 5;
    /// Retransmit timeout, in microseconds (`tcpi_rto`).
    rto_us: u32 at 8;
    /// Delayed-ACK timeout, in microseconds (`tcpi_ato`).
    ato_us: u32 at 12;
    /// MSS for sending, in bytes (`tcpi_snd_mss`).
    snd_mss: u32 at 16;
    /// MSS of what is received, in bytes (`tcpi_rcv_mss`).
    rcv_mss: u32 at 20;
    /// Segments in flight (`tcpi_unacked`, the kernel's `packets_out`).
    unacked: u32 at 24;
    /// Segments selectively acknowledged (`tcpi_sacked`).
    sacked: u32 at 28;
    /// Segments thought lost (`tcpi_lost`).
    lost: u32 at 32;
    /// Segments retransmitted and in flight (`tcpi_retrans`).
    retrans: u32 at 36;
    /// Since data was last sent, in milliseconds (`tcpi_last_data_sent`).
    last_data_sent_ms: u32 at 44;
    /// Since data last came, in milliseconds (`tcpi_last_data_recv`).
    last_data_recv_ms: u32 at 52;
    /// Since an acknowledgement last came, in milliseconds (`tcpi_last_ack_recv`).
    last_ack_recv_ms: u32 at 56;
    /// Path MTU, in bytes (`tcpi_pmtu`).
    pmtu: u32 at 60;
    /// Smoothed round-trip time, in microseconds (`tcpi_rtt`).
    rtt_us: u32 at 68;
    /// Its variation, in microseconds (`tcpi_rttvar`).
    rttvar_us: u32 at 72;
    /// Slow-start threshold, in segments (`tcpi_snd_ssthresh`).
    snd_ssthresh: u32 at 76;
    /// Congestion window, in segments (`tcpi_snd_cwnd`).
    snd_cwnd: u32 at 80;
    /// MSS advertised to the peer, in bytes (`tcpi_advmss`).
    advmss: u32 at 84;
    /// Reordering tolerated, in segments (`tcpi_reordering`).
    reordering: u32 at 88;
    /// Segments retransmitted, ever (`tcpi_total_retrans`).
    total_retrans: u32 at 100;
    /// Pacing rate, in bytes a second; all ones for none (`tcpi_pacing_rate`).
    pacing_rate: u64 at 104;
    /// Bytes acknowledged, ever (`tcpi_bytes_acked`).
    bytes_acked: u64 at 120;
    /// Bytes received, ever (`tcpi_bytes_received`).
    bytes_received: u64 at 128;
    /// Segments sent, ever (`tcpi_segs_out`).
    segs_out: u32 at 136;
    /// Segments received, ever (`tcpi_segs_in`).
    segs_in: u32 at 140;
    /// Bytes written and not yet sent (`tcpi_notsent_bytes`).
    notsent_bytes: u32 at 144;
    /// Lowest round-trip time, in microseconds (`tcpi_min_rtt`).
    min_rtt_us: u32 at 148;
    /// Segments with data received, ever (`tcpi_data_segs_in`).
    data_segs_in: u32 at 152;
    /// Segments with data sent, ever (`tcpi_data_segs_out`).
    data_segs_out: u32 at 156;
    /// Delivery rate, in bytes a second (`tcpi_delivery_rate`).
    delivery_rate: u64 at 160;
    /// Time with data to send, in microseconds (`tcpi_busy_time`).
    busy_time_us: u64 at 168;
    /// Part of it limited by the peer's window, in microseconds (`tcpi_rwnd_limited`).
    rwnd_limited_us: u64 at 176;
    /// Part of it limited by the send buffer, in microseconds (`tcpi_sndbuf_limited`).
    sndbuf_limited_us: u64 at 184;
    /// Segments delivered, ever (`tcpi_delivered`).
    delivered: u32 at 192;
    /// Segments delivered with a congestion mark, ever (`tcpi_delivered_ce`).
    delivered_ce: u32 at 196;
    /// Bytes sent, ever, retransmissions included (`tcpi_bytes_sent`).
    bytes_sent: u64 at 200;
    /// Bytes retransmitted, ever (`tcpi_bytes_retrans`).
    bytes_retrans: u64 at 208;
    /// Duplicate selective acknowledgements, ever (`tcpi_dsack_dups`).
    dsack_dups: u32 at 216;
    /// Reorderings seen, ever (`tcpi_reord_seen`).
    reord_seen: u32 at 220;
    /// Segments received out of order, ever (`tcpi_rcv_ooopack`).
    rcv_ooopack: u32 at 224;
    /// The peer's window after scaling, in bytes, counted from the first byte not acknowledged (`tcpi_snd_wnd`, 5.4).
    snd_wnd: u32 at 228;
    /// The window advertised to the peer, in bytes (`tcpi_rcv_wnd`, 6.2).
    rcv_wnd: u32 at 232;
    /// Retransmit timeouts, ever (`tcpi_total_rto`, 6.7).
    total_rto: u16 at 240;
}

impl TcpInfo {
    /// Bytes TCP has taken from the writer since the connection began: those sent once and those not sent
    /// yet. `None` where the kernel does not tell all three parts (before 4.19).
    pub fn bytes_accepted(&self) -> Option<u64> {
        self.bytes_sent_once()?
            .checked_add(self.notsent_bytes?.into())
    }

    /// Bytes sent, ever, without retransmissions. `None` as for [`Self::bytes_accepted`].
    pub fn bytes_sent_once(&self) -> Option<u64> {
        self.bytes_sent?.checked_sub(self.bytes_retrans?)
    }

    /// Bytes sent and not acknowledged. `None` as for [`Self::bytes_accepted`]. One too few on the end that has connected: there
    /// the SYN counts as acknowledged (`tcp_snd_una_update`), but not as sent.
    pub fn bytes_in_flight(&self) -> Option<u64> {
        Some(self.bytes_sent_once()?.saturating_sub(self.bytes_acked?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct in which each byte is its own offset.
    fn counted(length: u8) -> Vec<u8> {
        (0..length).collect()
    }

    #[test]
    fn a_struct_of_any_length_is_read_as_far_as_it_goes() {
        // 6.1 ends after snd_wnd, 6.2 after rehash, 6.7 after total_rto_time.
        let six_one = TcpInfo::parse(&counted(232));
        assert_eq!(
            six_one.snd_wnd,
            Some(u32::from_ne_bytes([228, 229, 230, 231]))
        );
        assert_eq!((six_one.rcv_wnd, six_one.total_rto), (None, None));

        let cut_in_a_field = TcpInfo::parse(&counted(147));
        assert!(cut_in_a_field.segs_in.is_some());
        assert_eq!(cut_in_a_field.notsent_bytes, None);

        assert_eq!(TcpInfo::parse(&[]), TcpInfo::default());
        let newer = [counted(248), vec![9; 400]].concat();
        assert_eq!(TcpInfo::parse(&newer), TcpInfo::parse(&counted(248)));
    }

    #[test]
    fn retransmissions_are_not_accepted_twice() {
        let info = TcpInfo {
            bytes_sent: Some(3000),
            bytes_retrans: Some(1000),
            notsent_bytes: Some(500),
            bytes_acked: Some(1500),
            ..TcpInfo::default()
        };
        assert_eq!(info.bytes_sent_once(), Some(2000));
        assert_eq!(info.bytes_accepted(), Some(2500));
        assert_eq!(info.bytes_in_flight(), Some(500));
    }
}
