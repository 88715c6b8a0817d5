//! What the kernel told of one socket.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use serde::Serialize;

use super::{SkMemInfo, TcpInfo, Ulp};

/// Which socket is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    /// The local end. A v4-mapped IPv6 address means the IPv4 one.
    pub src: SocketAddr,
    /// The peer's end.
    pub dst: SocketAddr,
    /// Index of the interface that it is bound to; `None`: to none. The kernel's look-up wants it.
    pub interface: Option<u32>,
    /// The socket's cookie; `None` takes whichever socket has these ends now. A socket's cookie is never 0.
    pub cookie: Option<u64>,
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.src, self.dst)?;
        match self.cookie {
            Some(cookie) => write!(f, " (cookie {cookie})"),
            None => Ok(()),
        }
    }
}

/// What the kernel told of one socket, all at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketSample {
    /// The socket's family; [`Family::Inet6`] with [`Self::v4_mapped`] for an IPv4 peer of a dual-stack socket.
    pub family: Family,
    /// State of the connection.
    pub state: TcpState,
    /// The local end, as IPv4 if it is v4-mapped.
    pub src: SocketAddr,
    /// The peer's end, as IPv4 if it is v4-mapped.
    pub dst: SocketAddr,
    /// Whether the addresses were v4-mapped IPv6 ones.
    pub v4_mapped: bool,
    /// Index of the interface the socket is bound to; `None` for any.
    pub interface: Option<u32>,
    /// Names the socket uniquely until the host restarts.
    pub cookie: u64,
    /// The socket's inode; `None` once no process has it.
    pub inode: Option<u32>,
    /// The owner.
    pub uid: u32,
    /// Bytes received and not read; of a listener, the connections waiting.
    pub recv_queue: u32,
    /// Bytes written and not acknowledged; of a listener, the most that may wait.
    pub send_queue: u32,
    /// The timer that is pending.
    pub timer: Option<Timer>,
    /// `tcp_info`; all unknown for a socket that has none any more (time-wait).
    pub tcp: TcpInfo,
    /// Memory accounting.
    pub mem: Option<SkMemInfo>,
    /// The protocol on top. `None` if there is none, and on most kernels also without
    /// `CAP_NET_ADMIN`.
    pub ulp: Option<Ulp>,
}

impl SocketSample {
    /// What to ask for to see exactly this socket again.
    pub fn id(&self) -> SocketId {
        SocketId {
            src: self.src,
            dst: self.dst,
            interface: self.interface,
            cookie: Some(self.cookie),
        }
    }

    /// Whether one of its ends has this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.src.port() == port || self.dst.port() == port
    }

    /// Whether kernel TLS is on the socket, as far as it was told.
    pub fn is_ktls(&self) -> bool {
        self.ulp.as_ref().is_some_and(Ulp::is_tls)
    }
}

/// A socket's address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`.
    Inet6,
}

/// State of a TCP connection (`include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names of RFC 9293")]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
    /// A number with no name here.
    Other(u8),
}

impl From<u8> for TcpState {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynRecv,
            other => Self::Other(other),
        }
    }
}

/// Which states a dump is to hold: one bit for each of the kernel's state numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(pub u32);

impl States {
    /// Connections that may still have something to send: established, close-wait, and those that have been closed
    /// with bytes in the queue.
    pub const SENDING: Self = Self(1 << 1 | 1 << 4 | 1 << 8 | 1 << 9 | 1 << 11);
    /// Every state there is.
    pub const ALL: Self = Self(0xfff);
}

/// A socket's pending timer (`idiag_timer`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timer {
    /// Which.
    pub kind: TimerKind,
    /// Time until it fires, in milliseconds; 0 if it is due.
    pub expires_ms: u32,
    /// Retransmissions, or for the persist and keepalive timers the probes sent and not answered.
    pub retransmits: u8,
}

impl Timer {
    /// Decodes the three fields of the header. `None` if no timer is pending.
    pub(super) fn decode(kind: u8, expires_ms: u32, retransmits: u8) -> Option<Self> {
        let kind = match kind {
            0 => return None,
            1 => TimerKind::Retransmit,
            2 => TimerKind::Keepalive,
            3 => TimerKind::TimeWait,
            4 => TimerKind::Persist,
            5 => TimerKind::DelayedAck,
            other => TimerKind::Other(other),
        };
        // A timer that is due can give a small negative number of jiffies as an unsigned one.
        let expires_ms = if i32::try_from(expires_ms).is_ok() {
            expires_ms
        } else {
            0
        };
        Some(Self {
            kind,
            expires_ms,
            retransmits,
        })
    }
}

/// Kind of a socket's timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimerKind {
    /// Retransmission, loss probe or reordering.
    Retransmit,
    /// Keepalive.
    Keepalive,
    /// Time-wait.
    TimeWait,
    /// Persist (probe0).
    Persist,
    /// Delayed acknowledgement (kernels of 2026).
    DelayedAck,
    /// A number with no name here.
    Other(u8),
}

/// The address without its IPv6 mapping, if it is an IPv4 one mapped.
pub(super) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// An address as the header gives it, with the interface as its scope where an address needs one.
pub(super) fn address(ip: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, interface).into()
        }
        ip => SocketAddr::new(ip, port),
    }
}

/// Whether two addresses are the same but for scope and flow.
pub(super) fn same_end(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip() == b.ip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdue_timer_expires_now() {
        let timer = Timer::decode(4, u32::MAX - 3, 0).unwrap();
        assert_eq!((timer.kind, timer.expires_ms), (TimerKind::Persist, 0));
        assert_eq!(Timer::decode(0, 12, 0), None);
        assert_eq!(Timer::decode(9, 12, 1).unwrap().kind, TimerKind::Other(9));
    }

    #[test]
    fn mapped_addresses_become_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:443".parse().unwrap();
        assert_eq!(unmapped(mapped), "192.0.2.1:443".parse().unwrap());
        let v6: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
        assert_eq!(unmapped(v6), v6);
    }

    #[test]
    fn only_link_local_addresses_get_the_interface() {
        let local = address("fe80::1".parse().unwrap(), 1, 7);
        assert_eq!(
            local,
            SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 0, 7).into()
        );
        assert_eq!(
            address("::1".parse().unwrap(), 1, 7),
            "[::1]:1".parse().unwrap()
        );
    }
}
