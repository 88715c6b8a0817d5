//! Why the workload could not be run.

use std::{io, net::SocketAddr, path::PathBuf};

use nix::errno::Errno;

/// Why the workload could not be set up. Once it runs, a connection that fails is told in the report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option makes no sense.
    #[error("--{option}: {reason}")]
    Config {
        /// The option, as on the command line.
        option: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The kernel has no TLS, or its module is not loaded and could not be.
    #[error(
        "kernel TLS is not available: setsockopt(TCP_ULP, \"tls\"): {source} (is the tls module loaded? modprobe tls)"
    )]
    NoKernelTls {
        /// What `setsockopt` answered.
        source: Errno,
    },
    /// The kernel has TLS, but not this version with this cipher.
    #[error("this kernel can't send TLS {tls} with {cipher}: setsockopt(TLS_TX): {source}")]
    Cipher {
        /// The TLS version asked for.
        tls: &'static str,
        /// The cipher asked for.
        cipher: &'static str,
        /// What `setsockopt` answered.
        source: Errno,
    },
    /// A socket option was refused, or could not be read.
    #[error("{option} = {value}: {source}")]
    SocketOption {
        /// The option's name.
        option: &'static str,
        /// The value that was to be set.
        value: String,
        /// What the kernel answered.
        source: Errno,
    },
    /// The receivers' network namespace could not be entered.
    #[error("network namespace {}: {source}", path.display())]
    Netns {
        /// Its path.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No socket could listen there.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The two ends could not be connected.
    #[error("connect to {address}: {source}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The file to send could not be made.
    #[error("make a file of {bytes} bytes to send: {source}")]
    File {
        /// The size asked for.
        bytes: u64,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A resource for one connection (thread, pipe, epoll) could not be had.
    #[error("{what}: {source}")]
    Resource {
        /// What was asked for.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}
