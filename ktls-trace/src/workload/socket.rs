//! Connects the two ends of one connection and sets their options. The sender is the end that accepts,
//! as a web server is, unless it is to upload.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    getsockopt_impl,
    sched::{CloneFlags, setns},
    setsockopt_impl, sockopt_impl,
    sys::socket::{
        AddressFamily, SetSockOpt, SockFlag, SockType, SockaddrStorage, connect, getsockopt,
        setsockopt, socket, sockopt,
    },
};

use super::{Config, Error, config::Receiver};
use crate::sockdiag::TcpInfo;

/// `SO_RCVBUF` of a receiver that stops reading, in bytes before the kernel doubles it: small, so that
/// the window shuts soon after.
const STOPPED_RCVBUF: u32 = 16 << 10;

sockopt_impl!(
    /// Bytes not yet sent at which the socket stops being writable (`tcp_stream_memory_free`).
    TcpNotsentLowat,
    Both,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    u32
);

sockopt_impl!(
    /// Never send a partial segment.
    TcpCork,
    Both,
    libc::IPPROTO_TCP,
    libc::TCP_CORK,
    bool
);

sockopt_impl!(
    /// Bytes a second that are sent at most (`sk_max_pacing_rate`).
    MaxPacingRate,
    Both,
    libc::SOL_SOCKET,
    libc::SO_MAX_PACING_RATE,
    u32
);

/// The two ends of one connection.
#[derive(Debug)]
pub(super) struct Pair {
    /// The end that sends.
    pub(super) sender: TcpStream,
    /// The sender's address.
    pub(super) src: SocketAddr,
    /// The end that receives.
    pub(super) receiver: TcpStream,
    /// The receiver's address.
    pub(super) dst: SocketAddr,
}

/// Opens the listener all connections of a run go through.
pub(super) fn listen(config: &Config) -> Result<TcpListener, Error> {
    let ip = match config.address {
        Some(ip) => ip,
        None if config.ipv6 => Ipv6Addr::LOCALHOST.into(),
        None if config.ipv4_mapped => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        None => Ipv4Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, config.port);
    let listener =
        TcpListener::bind(address).map_err(|source| Error::Listen { address, source })?;
    if let Some(mss) = config.mss {
        set(&listener, sockopt::TcpMaxSeg, "TCP_MAXSEG", mss)?;
    }
    Ok(listener)
}

/// A TCP socket.
fn stream(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

/// A TCP socket of another network namespace: a socket stays in the one that its thread was in.
fn stream_in(netns: &Path, family: AddressFamily) -> io::Result<OwnedFd> {
    let netns = File::open(netns)?;
    thread::scope(|scope| {
        let maker = thread::Builder::new().spawn_scoped(scope, || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            stream(family)
        })?;
        let made = maker
            .join()
            .map_err(|_panic| io::Error::other("the thread that entered it has died"))?;
        Ok(made?)
    })
}

/// Connects to the listener, accepts, and sets the sender's options, TLS excepted.
pub(super) fn connect_pair(listener: &TcpListener, config: &Config) -> Result<Pair, Error> {
    let address = listener.local_addr().map_err(|source| Error::Resource {
        what: "address of the listener",
        source,
    })?;
    let failed = |source: io::Error| Error::Connect { address, source };

    let family = if address.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let connecting = match &config.receiver_netns {
        None => stream(family).map_err(|e| failed(e.into()))?,
        Some(path) => stream_in(path, family).map_err(|source| Error::Netns {
            path: path.clone(),
            source,
        })?,
    };
    // Before connect: the SYN carries the MSS and decides the window's scale.
    if let Some(mss) = config.mss {
        set(&connecting, sockopt::TcpMaxSeg, "TCP_MAXSEG", mss)?;
    }
    let rcvbuf = match config.receiver {
        Receiver::Stop { .. } => Some(config.rcvbuf.unwrap_or(STOPPED_RCVBUF)),
        Receiver::Drain | Receiver::Slow { .. } => config.rcvbuf,
    };
    if let Some(bytes) = rcvbuf {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // What is accepted has what its listener has.
        let receiving = if config.upload {
            listener.as_fd()
        } else {
            connecting.as_fd()
        };
        set(&receiving, sockopt::RcvBuf, "SO_RCVBUF", bytes)?;
    }
    connect(connecting.as_raw_fd(), &SockaddrStorage::from(address))
        .map_err(|e| failed(e.into()))?;
    let connecting = TcpStream::from(connecting);
    let from = connecting.local_addr().map_err(failed)?;

    // Another process may have connected to the port meanwhile: take only our own end.
    let (accepted, to) = loop {
        let (accepted, peer) = listener.accept().map_err(failed)?;
        if peer == from {
            let to = accepted.local_addr().map_err(failed)?;
            break (accepted, to);
        }
    };
    let pair = if config.upload {
        Pair {
            sender: connecting,
            src: from,
            receiver: accepted,
            dst: to,
        }
    } else {
        Pair {
            sender: accepted,
            src: to,
            receiver: connecting,
            dst: from,
        }
    };
    let sender = &pair.sender;

    if let Some(lowat) = config.notsent_lowat {
        set(sender, TcpNotsentLowat, "TCP_NOTSENT_LOWAT", lowat)?;
    }
    if let Some(sndbuf) = config.sndbuf {
        set(
            sender,
            sockopt::SndBuf,
            "SO_SNDBUF",
            usize::try_from(sndbuf).unwrap_or(usize::MAX),
        )?;
    }
    if config.cork {
        set(sender, TcpCork, "TCP_CORK", true)?;
    }
    if config.nodelay {
        set(sender, sockopt::TcpNoDelay, "TCP_NODELAY", true)?;
    }
    if let Some(rate) = config.pacing_rate {
        set(sender, MaxPacingRate, "SO_MAX_PACING_RATE", rate)?;
    }
    if config.nonblocking {
        sender
            .set_nonblocking(true)
            .map_err(|source| Error::Resource {
                what: "make the sender non-blocking",
                source,
            })?;
    }
    Ok(pair)
}

/// What the kernel says of a sender, read while it may be blocked in a send.
#[derive(Clone, Debug, Default)]
pub(super) struct SenderState {
    /// The MSS in use, in bytes.
    pub(super) mss: Option<u32>,
    /// The send buffer's size, in bytes.
    pub(super) sndbuf: Option<u32>,
    /// `TCP_INFO`: one moment of the connection, taken under the socket's lock.
    pub(super) tcp: TcpInfo,
}

impl SenderState {
    /// Reads the state. What can't be read stays unknown.
    pub(super) fn read(sender: &TcpStream) -> Self {
        Self {
            mss: getsockopt(sender, sockopt::TcpMaxSeg).ok(),
            sndbuf: getsockopt(sender, sockopt::SndBuf)
                .ok()
                .and_then(|bytes| u32::try_from(bytes).ok()),
            tcp: tcp_info(sender),
        }
    }
}

/// Asks for `TCP_INFO`, of whatever length this kernel's is.
fn tcp_info(socket: &TcpStream) -> TcpInfo {
    let mut bytes = [0_u8; 512];
    let mut length = libc::socklen_t::try_from(bytes.len()).unwrap_or(0);
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes to the buffer, which has
    // that many, and their number to `length`.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let length = if answer == 0 {
        usize::try_from(length).unwrap_or(0).min(bytes.len())
    } else {
        0
    };
    TcpInfo::parse(&bytes[..length])
}

/// Sets one option, and names it if the kernel refuses.
fn set<O>(
    fd: &impl std::os::fd::AsFd,
    option: O,
    name: &'static str,
    value: O::Val,
) -> Result<(), Error>
where
    O: SetSockOpt,
    O::Val: std::fmt::Display + Sized,
{
    setsockopt(fd, option, &value).map_err(|source: Errno| Error::SocketOption {
        option: name,
        value: value.to_string(),
        source,
    })
}
