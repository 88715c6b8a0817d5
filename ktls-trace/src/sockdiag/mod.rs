//! Asks the kernel about TCP sockets over `NETLINK_SOCK_DIAG`: exactly the ones named, or all.
//!
//! The crate `netlink-packet-sock-diag` builds requests and reads the fixed header; attributes are parsed here,
//! because they differ from kernel to kernel and one that is odd must not cost the whole answer.

mod attributes;
mod error;
mod message;
mod query;
mod sample;
mod skmeminfo;
mod tcp_info;
mod ulp;

pub use self::{
    error::Error,
    query::{Dump, SockDiag, Wanted},
    sample::{Family, SocketId, SocketSample, States, TcpState, Timer, TimerKind},
    skmeminfo::SkMemInfo,
    tcp_info::TcpInfo,
    ulp::{TlsCipher, TlsConf, TlsInfo, TlsVersion, Ulp},
};
