//! As much of rtnetlink as busybox has no command for.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

/// The index of a device.
pub(crate) fn index_of(device: &str) -> Result<u32> {
    if_nametoindex(device).with_context(|| format!("no device {device}"))
}

/// A number among the arguments.
pub(crate) fn number(text: &str) -> Result<u32> {
    text.parse()
        .with_context(|| format!("{text} is not a number"))
}

/// Appends a netlink attribute, padded to 4 bytes.
pub(crate) fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Sends a message that makes or replaces something and waits for its acknowledgement.
pub(crate) fn request(kind: u16, body: &[u8]) -> Result<()> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = Vec::new();
    message.extend(u32::try_from(body.len() + 16)?.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(u16::try_from(flags)?.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    sendto(
        netlink.as_raw_fd(),
        &message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // nlmsghdr, then struct nlmsgerr with the error first.
    let error = answer[..length]
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes)
        .context("a short answer")?;
    match error {
        0 => Ok(()),
        error => Err(Errno::from_raw(-error).into()),
    }
}
