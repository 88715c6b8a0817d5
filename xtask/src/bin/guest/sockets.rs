//! Ends every TCP connection of the network namespace it runs in (`SOCK_DESTROY`). One whose peer has stopped reading outlives its process by
//! minutes: it would be seen by the next scenario, and keep the tls module from being removed.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::{
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// All states but `TIME_WAIT` (6), `CLOSE` (7) and `LISTEN` (10).
const STATES: u32 = !(1 << 6 | 1 << 7 | 1 << 10);
/// `struct nlmsghdr`, and `struct inet_diag_sockid` within `struct inet_diag_msg`.
const HEADER: usize = 16;
const ID: std::ops::Range<usize> = HEADER + 4..HEADER + 4 + 48;

/// Ends all of both families.
pub(crate) fn end_all() -> Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .context("opening sock_diag")?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family)?;
        for id in list(&netlink, family)? {
            // It may have ended by itself.
            request(&netlink, DESTROY, libc::NLM_F_ACK, family, &id)?;
            receive(&netlink)?;
        }
    }
    Ok(())
}

/// The connections of one family.
fn list(netlink: &OwnedFd, family: u8) -> Result<Vec<[u8; 48]>> {
    request(netlink, BY_FAMILY, libc::NLM_F_DUMP, family, &[0; 48])?;
    let mut found = Vec::new();
    loop {
        let datagram = receive(netlink)?;
        let mut rest = datagram.as_slice();
        while let Some(length) = rest.get(..4) {
            let length = u32::from_ne_bytes(length.try_into()?) as usize;
            let Some(message) = rest.get(..length).filter(|message| message.len() >= HEADER) else {
                bail!("sock_diag sent a broken message");
            };
            match u16::from_ne_bytes([message[4], message[5]]) {
                BY_FAMILY => {
                    let id = message.get(ID).context("a short message")?;
                    found.push(id.try_into()?);
                }
                // NLMSG_DONE, or an error: the module is not there, so there is nothing to end.
                _ => return Ok(found),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Sends a request about one connection, or about all.
fn request(netlink: &OwnedFd, kind: u16, flags: i32, family: u8, id: &[u8; 48]) -> Result<()> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | flags)?;
    let protocol = u8::try_from(libc::IPPROTO_TCP)?;
    let mut message = Vec::new();
    message.extend(u32::try_from(HEADER + 8 + id.len())?.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, protocol, 0, 0]);
    message.extend(STATES.to_ne_bytes());
    message.extend(id);
    sendto(
        netlink.as_raw_fd(),
        &message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )
    .context("asking sock_diag")?;
    Ok(())
}

fn receive(netlink: &OwnedFd) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let length =
        recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("hearing sock_diag")?;
    buffer.truncate(length);
    Ok(buffer)
}
