//! Prints what this kernel answers about each of its kernel-TLS sockets, as hex: the recordings in
//! `tests/fixtures/sockdiag` are made with it, in a guest, beside `ktls-trace repro`.

use anyhow::{Context, Result};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

fn main() -> Result<()> {
    for (family, socket_id) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).context("open a sock_diag socket")?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO | ExtensionFlags::SKMEMINFO,
            states: StateFlags::all(),
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        socket.send(&bytes, 0).context("send the request")?;
        print_answer(&socket)?;
    }
    Ok(())
}

/// Prints the messages that carry the name of the TLS protocol, until the dump's end.
fn print_answer(socket: &Socket) -> Result<()> {
    loop {
        let (datagram, _from) = socket.recv_from_full().context("receive")?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest)?;
            if message.message_type() == NLMSG_DONE {
                return Ok(());
            }
            anyhow::ensure!(
                message.message_type() == SOCK_DIAG_BY_FAMILY,
                "type {}",
                message.message_type()
            );
            let payload = message.payload();
            if payload.windows(4).any(|name| name == b"tls\0") {
                for byte in payload {
                    print!("{byte:02x}");
                }
                println!();
            }
            rest = &rest[usize::try_from(message.length())?
                .next_multiple_of(4)
                .min(rest.len())..];
        }
    }
}
