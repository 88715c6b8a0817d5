//! Connections over loopback whose sending end is a kernel-TLS socket. No handshake: the key is fixed and the receiver throws
//! the records away.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use anyhow::{Context as _, Result};
use nix::{
    setsockopt_impl, sockopt_impl,
    sys::socket::{
        setsockopt,
        sockopt::{TcpTlsTx, TcpUlp, TlsCryptoInfo},
    },
};

sockopt_impl!(
    /// Bytes not yet sent at which the socket stops being writable (`tcp_stream_memory_free`).
    TcpNotsentLowat,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    u32
);

/// Whether a sender is to stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// `TCP_NOTSENT_LOWAT` 16384: one held record shuts it.
    Corked,
    /// The host's `net.ipv4.tcp_notsent_lowat`.
    Stock,
}

impl Gate {
    /// The port of the sending end.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Corked => 7001,
            Self::Stock => 7002,
        }
    }
}

/// The two ends of a connection.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Kernel TLS 1.3 with AES-128-GCM; it accepted.
    pub(crate) sender: TcpStream,
    /// Plain TCP; it connected.
    pub(crate) receiver: TcpStream,
}

/// Makes connections whose senders have one port and one gate.
#[derive(Debug)]
pub(crate) struct Connector {
    listener: TcpListener,
    gate: Gate,
}

impl Connector {
    /// Listens on the gate's port.
    pub(crate) fn new(gate: Gate) -> Result<Self> {
        let port = gate.port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("listening on port {port}"))?;
        Ok(Self { listener, gate })
    }

    /// One more connection.
    pub(crate) fn pair(&self) -> Result<Pair> {
        let address = self.listener.local_addr().context("naming the listener")?;
        let receiver = TcpStream::connect(address).context("connecting")?;
        let (sender, _) = self.listener.accept().context("accepting")?;
        sender.set_nodelay(true).context("setting TCP_NODELAY")?;
        if self.gate == Gate::Corked {
            setsockopt(&sender, TcpNotsentLowat, &16384).context("setting TCP_NOTSENT_LOWAT")?;
        }
        enable(&sender)?;
        Ok(Pair { sender, receiver })
    }
}

/// A single connection.
pub(crate) fn pair(gate: Gate) -> Result<Pair> {
    Connector::new(gate)?.pair()
}

/// Makes a connected socket's transmit side kernel TLS.
pub(crate) fn enable(sender: &impl AsFd) -> Result<()> {
    setsockopt(sender, TcpUlp::<&[u8]>::default(), &b"tls".as_slice())
        .context("setting TCP_ULP to tls")?;
    let key = libc::tls12_crypto_info_aes_gcm_128 {
        info: libc::tls_crypto_info {
            version: libc::TLS_1_3_VERSION,
            cipher_type: libc::TLS_CIPHER_AES_GCM_128,
        },
        iv: [0; _],
        key: [0x2a; _],
        salt: [0; _],
        rec_seq: [0; _],
    };
    setsockopt(sender, TcpTlsTx, &TlsCryptoInfo::Aes128Gcm(key)).context("setting TLS_TX")
}
