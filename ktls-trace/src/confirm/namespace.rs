//! Namespaces of one thread: a UTS namespace as a mark that its children inherit, and a network namespace
//! in which a flip may change what on the host it must not.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::kernel::sysctl::Settings;

/// Why a namespace could not be made or set up.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    /// What was tried.
    what: String,
    /// What the kernel answered.
    source: io::Error,
}

/// Says what was tried.
fn tried<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    |source| Error {
        what: what.into(),
        source: source.into(),
    }
}

/// Gives the calling thread a UTS namespace of its own, a copy of the one it had, and tells its inode
/// number.
pub(super) fn mark() -> Result<u32, Error> {
    unshare(CloneFlags::CLONE_NEWUTS).map_err(tried("make a UTS namespace"))?;
    inode("/proc/thread-self/ns/uts", "uts")
}

/// Inode number of a namespace.
pub(super) fn inode(path: &str, kind: &str) -> Result<u32, Error> {
    let link = fs::read_link(path).map_err(tried(format!("read {path}")))?;
    link.to_str()
        .and_then(|link| {
            link.strip_prefix(kind)?
                .strip_prefix(":[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .ok_or_else(|| {
            tried(format!("read {path}"))(io::Error::other(format!(
                "{} is no namespace",
                link.display()
            )))
        })
}

/// How a private network namespace is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// The gates' settings.
    pub(super) settings: Settings,
    /// MTU of its loopback, if not the usual one.
    pub(super) mtu: Option<u32>,
}

/// Gives the calling thread a network namespace of its own, with nothing but loopback in it.
pub(super) fn private_network(network: &Network) -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(tried("make a network namespace"))?;
    // What follows writes settings: never where the rest of the process lives.
    let here = inode("/proc/thread-self/ns/net", "net")?;
    if here == inode("/proc/self/ns/net", "net")? {
        return Err(tried("make a network namespace")(io::Error::other(
            "the thread is still in the host's",
        )));
    }
    let control = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(tried("set up the loopback of a network namespace"))?;
    if let Some(mtu) = network.mtu {
        set_mtu(&control, mtu).map_err(tried("set the MTU of a private loopback"))?;
    }
    bring_up(&control).map_err(tried("bring a private loopback up"))?;
    if let Some(lowat) = network.settings.tcp_notsent_lowat {
        set("net/ipv4/tcp_notsent_lowat", &lowat.to_string())?;
    }
    if let Some([least, initial, most]) = network.settings.tcp_wmem {
        set("net/ipv4/tcp_wmem", &format!("{least} {initial} {most}"))?;
    }
    Ok(())
}

/// Sets a setting of the calling thread's network namespace: `/proc/sys/net` shows whoever looks
/// its own.
fn set(name: &str, value: &str) -> Result<(), Error> {
    fs::write(format!("/proc/sys/{name}"), value).map_err(tried(format!(
        "set {name} to {value} in a private namespace"
    )))
}

/// The request of an ioctl about the loopback interface.
fn loopback() -> libc::ifreq {
    // SAFETY: a plain C structure of integers and a union of them: all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, &from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request
}

/// One ioctl about the loopback interface.
fn ioctl(control: &OwnedFd, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`.
    let answer = unsafe { libc::ioctl(control.as_raw_fd(), code, request) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the MTU of the loopback interface.
fn set_mtu(control: &OwnedFd, mtu: u32) -> io::Result<()> {
    let mut request = loopback();
    request.ifr_ifru.ifru_mtu = i32::try_from(mtu).map_err(io::Error::other)?;
    ioctl(control, libc::SIOCSIFMTU, &mut request)
}

/// Brings the loopback interface up; it gets its addresses by that.
fn bring_up(control: &OwnedFd) -> io::Result<()> {
    let mut request = loopback();
    ioctl(control, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the kernel has just filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    ioctl(control, libc::SIOCSIFFLAGS, &mut request)
}
