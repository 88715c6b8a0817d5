//! Builds requests and takes answers apart. No I/O here: bytes in, bytes out.

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, Parseable,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, INET_DIAG_INFO, INET_DIAG_SKMEMINFO, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY,
    SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId as HeaderId, StateFlags},
};
use nix::errno::Errno;

use super::{
    Error, Family, SkMemInfo, SocketId, SocketSample, States, TcpInfo, Timer, Ulp,
    attributes::{attributes, u32_at},
    sample::{address, unmapped},
};

/// `INET_DIAG_ULP_INFO`, which the crate has no name for. It comes with `INET_DIAG_INFO`.
const INET_DIAG_ULP_INFO: u16 = 19;

/// Length of `struct nlmsghdr`.
const NETLINK_HEADER_BYTES: usize = 16;

/// Length of `struct inet_diag_msg`, after which attributes follow.
const HEADER_BYTES: usize = 72;
/// Offset of `idiag_timer` in it.
const TIMER: usize = 2;
/// Offset of `idiag_retrans` in it.
const RETRANS: usize = 3;
/// Offset of `idiag_expires` in it.
const EXPIRES: usize = 52;

/// `INET_DIAG_NOCOOKIE`, twice: any socket with these ends.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// The request for exactly one socket. A v4-mapped one is asked for as IPv4: `inet_diag_find_one_icsk` looks
/// both up in the same table, and finds an `AF_INET6` socket by its IPv4 ends.
pub(super) fn exact_request(sequence: u32, socket: &SocketId) -> Result<Vec<u8>, Error> {
    let (src, dst) = (unmapped(socket.src), unmapped(socket.dst));
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(Error::MixedFamilies {
            src: socket.src,
            dst: socket.dst,
        });
    }
    let scope = [src, dst].iter().find_map(|end| match end {
        std::net::SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id()),
        _ => None,
    });
    let request = InetRequest {
        family: if src.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: extensions(),
        states: StateFlags::from_bits_retain(States::ALL.0),
        socket_id: HeaderId {
            source_port: src.port(),
            destination_port: dst.port(),
            source_address: src.ip(),
            destination_address: dst.ip(),
            interface_id: socket.interface.or(scope).unwrap_or(0),
            cookie: socket.cookie.map_or(NO_COOKIE, cookie_to_bytes),
        },
    };
    Ok(message(sequence, NLM_F_REQUEST, request))
}

/// The request for all sockets of a family in some states.
pub(super) fn dump_request(sequence: u32, family: Family, states: States) -> Vec<u8> {
    let (family, socket_id) = match family {
        Family::Inet => (AF_INET, HeaderId::new_v4()),
        Family::Inet6 => (AF_INET6, HeaderId::new_v6()),
    };
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: extensions(),
        states: StateFlags::from_bits_retain(states.0),
        socket_id,
    };
    message(sequence, NLM_F_REQUEST | NLM_F_DUMP, request)
}

fn extensions() -> ExtensionFlags {
    ExtensionFlags::INFO | ExtensionFlags::SKMEMINFO
}

fn message(sequence: u32, flags: u16, request: InetRequest) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(
        header,
        NetlinkPayload::InnerMessage(SockDiagMessage::InetRequest(request)),
    );
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The cookie's two halves, low one first (`sock_diag_save_cookie`).
fn cookie_to_bytes(cookie: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    let (low, high) = bytes.split_at_mut(4);
    low.copy_from_slice(
        &u32::try_from(cookie & 0xffff_ffff)
            .unwrap_or(0)
            .to_ne_bytes(),
    );
    high.copy_from_slice(&u32::try_from(cookie >> 32).unwrap_or(0).to_ne_bytes());
    bytes
}

fn cookie_from_bytes(bytes: [u8; 8]) -> u64 {
    let half = |offset| u64::from(u32_at(&bytes, offset).unwrap_or(0));
    half(0) | half(4) << 32
}

/// One netlink message of an answer.
#[derive(Debug, PartialEq)]
pub(super) struct Reply {
    /// Sequence number of the request it answers.
    pub(super) sequence: u32,
    /// The dump missed or repeated sockets because the table changed under it (`NLM_F_DUMP_INTR`).
    pub(super) interrupted: bool,
    /// What it says.
    pub(super) body: Body,
}

/// What one netlink message says.
#[derive(Debug, PartialEq)]
pub(super) enum Body {
    /// A socket.
    Sample(Box<SocketSample>),
    /// The request was carried out; nothing more comes.
    Done,
    /// The request was refused.
    Refused(Errno),
    /// Messages before this one were lost.
    Overrun,
    /// A message that tells nothing about a TCP socket.
    Nothing,
}

/// Takes a datagram apart into its messages. The first that can't be read is the last, as an error: where the
/// next begins is not known then.
pub(super) fn replies(datagram: &[u8]) -> impl Iterator<Item = Result<Reply, String>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = match NetlinkBuffer::new_checked(rest) {
            Ok(message) => message,
            Err(error) => {
                rest = &[];
                return Some(Err(error.to_string()));
            }
        };
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let payload = rest.get(NETLINK_HEADER_BYTES..length).unwrap_or_default();
        let reply = Reply {
            sequence: message.sequence_number(),
            interrupted: message.flags() & NLM_F_DUMP_INTR != 0,
            body: body(message.message_type(), payload),
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(reply))
    })
}

fn body(kind: u16, payload: &[u8]) -> Body {
    match kind {
        NLMSG_DONE => match DoneBuffer::new_checked(payload).map_or(0, |done| done.code()) {
            0.. => Body::Done,
            errno => Body::Refused(Errno::from_raw(errno.saturating_neg())),
        },
        NLMSG_ERROR => match ErrorBuffer::new_checked(payload)
            .ok()
            .and_then(|error| error.code())
        {
            Some(errno) => Body::Refused(Errno::from_raw(errno.get().saturating_abs())),
            None => Body::Done,
        },
        NLMSG_OVERRUN => Body::Overrun,
        SOCK_DIAG_BY_FAMILY => {
            sample(payload).map_or(Body::Nothing, |sample| Body::Sample(Box::new(sample)))
        }
        _ => Body::Nothing,
    }
}

/// Reads `struct inet_diag_msg` and its attributes. `None` if even the fixed part is not whole, or the socket is
/// of another family.
fn sample(payload: &[u8]) -> Option<SocketSample> {
    let (fixed, rest) = payload.split_at_checked(HEADER_BYTES)?;
    let header = InetResponseHeader::parse(fixed).ok()?;
    let family = match header.family {
        AF_INET => Family::Inet,
        AF_INET6 => Family::Inet6,
        _ => return None,
    };
    let id = &header.socket_id;
    let src = address(id.source_address, id.source_port, id.interface_id);
    let dst = address(id.destination_address, id.destination_port, id.interface_id);
    let mut sample = SocketSample {
        family,
        state: header.state.into(),
        src: unmapped(src),
        dst: unmapped(dst),
        v4_mapped: family == Family::Inet6 && unmapped(src).is_ipv4() && unmapped(dst).is_ipv4(),
        interface: (id.interface_id != 0).then_some(id.interface_id),
        cookie: cookie_from_bytes(id.cookie),
        inode: (header.inode != 0).then_some(header.inode),
        uid: header.uid,
        recv_queue: header.recv_queue,
        send_queue: header.send_queue,
        // The crate knows four timers, and drops the probes' count.
        timer: Timer::decode(
            fixed[TIMER],
            u32_at(fixed, EXPIRES).unwrap_or(0),
            fixed[RETRANS],
        ),
        tcp: TcpInfo::default(),
        mem: None,
        ulp: None,
    };
    for (kind, value) in attributes(rest) {
        match kind {
            INET_DIAG_INFO => sample.tcp = TcpInfo::parse(value),
            INET_DIAG_SKMEMINFO => sample.mem = Some(SkMemInfo::parse(value)),
            INET_DIAG_ULP_INFO => sample.ulp = Ulp::parse(value),
            _ => {}
        }
    }
    Some(sample)
}

#[cfg(test)]
mod tests;
