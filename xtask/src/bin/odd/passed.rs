//! A socket that one process connects and makes a kernel-TLS one, and another sends from: a front end and its worker.

use std::{
    io::{IoSlice, IoSliceMut},
    net::TcpStream,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde_json::{Value, json};

use crate::{
    child::Child,
    drain::Drain,
    ktls::{self, Gate},
    payload::Payload,
};

pub(crate) fn run(duration: Duration) -> Result<Value> {
    let payload = Payload::new()?;
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Datagram,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("making a socket pair")?;
    // Before the connection is made, so that it can't be inherited.
    let worker = Child::start(c"worker", || {
        let sender = take(&theirs)?;
        payload.send_forever(&sender)
    })?;

    let pair = ktls::pair(Gate::Corked)?;
    give(&ours, pair.sender)?;
    let count = Drain::start()?.add(pair.receiver)?;
    thread::sleep(duration);
    Ok(json!({ "pid": worker.pid().as_raw(), "bytes_received": count.bytes() }))
}

/// Hands the socket over and closes our descriptor of it.
fn give(to: &OwnedFd, sender: TcpStream) -> Result<()> {
    let descriptors = [sender.as_raw_fd()];
    let message = ControlMessage::ScmRights(&descriptors);
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(b"!")],
        &[message],
        MsgFlags::empty(),
        None,
    )
    .context("passing a socket")?;
    drop(sender);
    Ok(())
}

fn take(from: &OwnedFd) -> Result<TcpStream> {
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut room = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<()>(
        from.as_raw_fd(),
        &mut bytes,
        Some(&mut room),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .context("taking a socket")?;
    let passed = message
        .cmsgs()
        .context("reading what came with a message")?
        .find_map(|part| match part {
            ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
            _ => None,
        })
        .context("no socket came")?;
    // SAFETY: the kernel made this descriptor for us just now, and nobody else knows it.
    let passed = unsafe { OwnedFd::from_raw_fd(passed) };
    Ok(TcpStream::from(passed))
}
