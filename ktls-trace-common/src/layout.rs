//! Where the members of kernel structures lie and at which position a function takes an argument.
//!
//! Rust programs carry no CO-RE relocations, so the user side reads these numbers from the running
//! kernel's BTF and hands them over as one read-only global. A member that this kernel does not
//! have is [`ABSENT`]: the programs then leave the fact out instead of inventing a value.

/// The kernel has no such member or argument.
pub const ABSENT: u32 = u32::MAX;

/// A bit-field: the byte it starts in, the bit within that byte, and its width in bits (1 to 8).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// Offset in bytes of the byte that holds the lowest bit, or [`ABSENT`].
    pub offset: u32,
    /// Lowest bit within that byte, 0 to 7.
    pub shift: u32,
    /// Width in bits.
    pub width: u32,
}

impl Bits {
    /// A bit-field that this kernel does not have.
    pub const ABSENT: Self = Self {
        offset: ABSENT,
        shift: 0,
        width: 0,
    };
}

macro_rules! layout {
    ($($(#[$doc:meta])+ $name:ident),+ $(,)?) => {
        /// Member offsets in bytes and argument positions counted from 0; [`ABSENT`] where the
        /// kernel has none.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Layout {
            $($(#[$doc])+ pub $name: u32,)+
            /// `tcp_sock.nonagle`.
            pub tcp_nonagle: Bits,
            /// `tls_context.tx_conf`.
            pub tls_tx_conf: Bits,
        }

        impl Layout {
            /// A layout in which nothing is known.
            pub const ABSENT: Self = Self {
                $($name: ABSENT,)+
                tcp_nonagle: Bits::ABSENT,
                tls_tx_conf: Bits::ABSENT,
            };

            /// Calls `visit` with the name and value of every offset and position.
            pub fn each_number(&self, mut visit: impl FnMut(&'static str, u32)) {
                $(visit(stringify!($name), self.$name);)+
            }

            /// Calls `visit` with the name and place of every bit-field.
            pub fn each_bits(&self, mut visit: impl FnMut(&'static str, Bits)) {
                visit("tcp_nonagle", self.tcp_nonagle);
                visit("tls_tx_conf", self.tls_tx_conf);
            }
        }

        const _: () = assert!(size_of::<Layout>() == (0 $(+ { let _ = stringify!($name); 4 })+) + 2 * size_of::<Bits>());
    };
}

layout! {
    /// `sock_common.skc_family`.
    skc_family,
    /// `sock_common.skc_state`.
    skc_state,
    /// `sock_common.skc_dport`, network order.
    skc_dport,
    /// `sock_common.skc_num`, host order.
    skc_num,
    /// `sock_common.skc_daddr`.
    skc_daddr,
    /// `sock_common.skc_rcv_saddr`.
    skc_rcv_saddr,
    /// `sock_common.skc_v6_daddr`.
    skc_v6_daddr,
    /// `sock_common.skc_v6_rcv_saddr`.
    skc_v6_rcv_saddr,
    /// `sock_common.skc_net.net`.
    skc_net,
    /// `sock_common.skc_bound_dev_if`.
    skc_bound_dev_if,
    /// `sock_common.skc_cookie`.
    skc_cookie,
    /// `net.ns.inum`.
    net_inum,
    /// `net.ipv4.sysctl_tcp_notsent_lowat`.
    net_notsent_lowat,
    /// `sock.sk_wmem_queued`.
    sk_wmem_queued,
    /// `sock.sk_sndbuf`.
    sk_sndbuf,
    /// `sock.sk_write_queue`: two pointers, to the first and to the last segment that was not sent.
    sk_write_queue,
    /// `sock.sk_tsq_flags`.
    sk_tsq_flags,
    /// `sock.sk_pacing_status`.
    sk_pacing_status,
    /// `sock.tcp_retransmit_timer`, or where it was before, `inet_connection_sock.icsk_retransmit_timer`: the timer that
    /// `icsk_pending` is about.
    retransmit_timer,
    /// `inet_connection_sock.icsk_pending`.
    icsk_pending,
    /// `inet_connection_sock.icsk_retransmits`.
    icsk_retransmits,
    /// `inet_connection_sock.icsk_ulp_ops`.
    icsk_ulp_ops,
    /// `inet_connection_sock.icsk_ulp_data`.
    icsk_ulp_data,
    /// `tcp_ulp_ops.name`.
    ulp_name,
    /// `tcp_sock.write_seq`.
    tcp_write_seq,
    /// `tcp_sock.snd_nxt`.
    tcp_snd_nxt,
    /// `tcp_sock.snd_una`.
    tcp_snd_una,
    /// `tcp_sock.snd_wnd`.
    tcp_snd_wnd,
    /// `tcp_sock.mss_cache`.
    tcp_mss_cache,
    /// `tcp_sock.packets_out`.
    tcp_packets_out,
    /// `tcp_sock.retrans_out`.
    tcp_retrans_out,
    /// `tcp_sock.sacked_out`.
    tcp_sacked_out,
    /// `tcp_sock.lost_out`.
    tcp_lost_out,
    /// `tcp_sock.snd_cwnd`.
    tcp_snd_cwnd,
    /// `tcp_sock.notsent_lowat`.
    tcp_notsent_lowat,
    /// `tcp_sock.rx_opt.user_mss`.
    tcp_user_mss,
    /// `tcp_sock.srtt_us`.
    tcp_srtt_us,
    /// `tcp_sock.tcp_wstamp_ns`.
    tcp_wstamp_ns,
    /// `tls_context.prot_info.version`.
    tls_version,
    /// `tls_context.prot_info.cipher_type`.
    tls_cipher_type,
    /// `tls_context.partially_sent_record`.
    tls_partially_sent_record,
    /// `tls_context.pending_open_record_frags`.
    tls_pending_open_record_frags,
    /// `tls_context.priv_ctx_tx`.
    tls_priv_ctx_tx,
    /// `tls_sw_context_tx.encrypt_pending`.
    tls_encrypt_pending,
    /// `tls_sw_context_tx.tx_list`: records on their way to TCP, the one under way first.
    tls_tx_list,
    /// From `tls_rec.list`, by which it is in that list, to `tls_rec.msg_encrypted.sg.size`.
    tls_rec_size,
    /// What `encrypt_pending` is while nothing is pending: no offset, but a value.
    tls_encrypt_idle,
    /// `msghdr.msg_flags`.
    msg_flags,
    /// `sk_buff.cb` plus `tcp_skb_cb.end_seq`.
    skb_end_seq,
    /// `sk_buff.cb` plus `tcp_skb_cb.tcp_flags`; the lowest byte on little-endian machines.
    skb_tcp_flags,
    /// `task_struct.nsproxy`.
    task_nsproxy,
    /// `nsproxy.uts_ns`.
    nsproxy_uts_ns,
    /// `uts_namespace.ns.inum`.
    uts_inum,
    /// Position of `flags` in `tls_push_sg`.
    arg_push_sg_flags,
    /// Position of `flags` in `tls_sw_sendpage`.
    arg_sendpage_flags,
}

#[cfg(feature = "user")]
// SAFETY: repr(C), only u32 members, no padding (size asserted above).
unsafe impl aya::Pod for Layout {}
