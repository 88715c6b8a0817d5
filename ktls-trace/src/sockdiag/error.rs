//! Why the kernel could not be asked, or did not answer.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use nix::errno::Errno;

/// Why the kernel could not be asked about sockets, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket needs a tokio runtime around it.
    #[error("open a sock_diag socket: outside of a tokio runtime")]
    NoRuntime,
    /// The netlink socket could not be opened.
    #[error("open a sock_diag socket: {source}")]
    Open {
        /// What the kernel answered.
        source: io::Error,
    },
    /// The network namespace could not be entered.
    #[error("enter network namespace {}: {source}", path.display())]
    Namespace {
        /// The namespace's file.
        path: PathBuf,
        /// What the kernel answered; `EPERM` without `CAP_SYS_ADMIN`.
        source: io::Error,
    },
    /// One end is IPv4 and the other IPv6: no such connection exists.
    #[error("{src} and {dst} can't be the two ends of one connection")]
    MixedFamilies {
        /// The local end.
        src: SocketAddr,
        /// The peer's end.
        dst: SocketAddr,
    },
    /// The request could not be sent, or the answer not be read.
    #[error("{what}: {source}")]
    Io {
        /// What was asked.
        what: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("{what}: {errno}")]
    Refused {
        /// What was asked.
        what: String,
        /// Why.
        errno: Errno,
    },
    /// This kernel can't be asked about TCP sockets.
    #[error("{what}: the kernel has no TCP socket monitoring (modprobe tcp_diag)")]
    NoTcpDiag {
        /// What was asked.
        what: String,
    },
    /// No answer came in time.
    #[error("{what}: no answer within {} ms", limit.as_millis())]
    Timeout {
        /// What was asked.
        what: String,
        /// How long an answer was waited for.
        limit: Duration,
    },
    /// The answer did not fit into the socket's buffer, even after it was enlarged: sockets are missing.
    #[error("{what}: answers were lost because they came faster than they could be read")]
    Lost {
        /// What was asked.
        what: String,
    },
    /// The answer is not what netlink answers look like.
    #[error("{what}: garbled answer: {why}")]
    Garbled {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}
