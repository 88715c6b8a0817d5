//! stub
use std::{net::SocketAddr, path::Path};
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct Error;
pub struct SockDiag;
pub struct SocketId {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub cookie: Option<u64>,
}
#[derive(Default)]
pub struct Tcp {
    pub notsent_bytes: Option<u32>,
    pub unacked: Option<u32>,
    pub snd_wnd: Option<u32>,
    pub snd_mss: Option<u32>,
    pub bytes_sent: Option<u64>,
}
pub struct State;
impl State {
    pub fn can_send(&self) -> bool {
        true
    }
}
pub struct Mem {
    pub wmem_queued: u32,
    pub sndbuf: u32,
}
pub struct T {
    pub kind: String,
    pub expires_ms: u32,
    pub retransmits: u8,
}
pub struct Ulp;
impl Ulp {
    pub fn cipher_name(&self) -> Option<String> {
        None
    }
    pub fn version_name(&self) -> Option<String> {
        None
    }
    pub fn tx_name(&self) -> Option<String> {
        None
    }
}
pub struct SocketSample {
    pub cookie: u64,
    pub inode: Option<u32>,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub state: State,
    pub tcp: Tcp,
    pub mem: Option<Mem>,
    pub timer: Option<T>,
    pub ulp: Option<Ulp>,
}
pub struct Dump {
    pub samples: Vec<SocketSample>,
    pub interrupted: bool,
}
impl SockDiag {
    pub fn open() -> Result<Self, Error> {
        Err(Error)
    }
    pub fn open_in(_: &Path) -> Result<Self, Error> {
        Err(Error)
    }
    pub async fn query(&mut self, _: &SocketId) -> Result<Option<SocketSample>, Error> {
        Err(Error)
    }
    pub async fn dump(&mut self, _: bool) -> Result<Dump, Error> {
        Err(Error)
    }
}
