//! How the built-in workload sends: the options that `repro` and `confirm` share.

use ktls_trace::workload::{Cipher, Config, Mode, STALLING_NOTSENT_LOWAT, TlsVersion};

use super::units::{parse_size, parse_size32};

/// How the workload sends.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sending {
    /// How bytes are handed to the socket
    #[arg(long, value_enum, default_value = "sendfile")]
    mode: Mode,
    /// TLS version of the records
    #[arg(long, value_enum, default_value = "1.3", value_name = "VERSION")]
    tls: TlsVersion,
    /// Cipher of the records
    #[arg(long, value_enum, default_value = "aes-128-gcm")]
    cipher: Cipher,
    /// `TCP_MAXSEG` in bytes [default: the path's]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(88..=32767))]
    mss: Option<u32>,
    /// `TCP_NOTSENT_LOWAT` of the sender in bytes, or `stock` to leave the host's
    #[arg(long, default_value_t = Lowat(Some(STALLING_NOTSENT_LOWAT)), value_name = "BYTES|stock", value_parser = parse_lowat)]
    notsent_lowat: Lowat,
    /// `SO_SNDBUF` of the sender; the kernel doubles it [default: left to the kernel]
    #[arg(long, value_name = "SIZE", value_parser = parse_size32)]
    sndbuf: Option<u32>,
    /// Send without blocking and wait for `EPOLLOUT`
    #[arg(long)]
    nonblocking: bool,
    /// Set `TCP_CORK` on the sender
    #[arg(long)]
    cork: bool,
    /// Set `TCP_NODELAY` on the sender
    #[arg(long)]
    nodelay: bool,
    /// Most bytes handed to one send call [default: the whole file]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    chunk: Option<u64>,
}

impl Sending {
    /// The workload's configuration, with everything else as it is by default.
    pub(crate) fn config(&self) -> Config {
        Config {
            mode: self.mode,
            tls: self.tls,
            cipher: self.cipher,
            mss: self.mss,
            notsent_lowat: self.notsent_lowat.0,
            sndbuf: self.sndbuf,
            nonblocking: self.nonblocking,
            cork: self.cork,
            nodelay: self.nodelay,
            chunk: self.chunk,
            ..Config::default()
        }
    }
}

/// `--notsent-lowat`: a number of bytes, or `None` for the host's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lowat(pub(crate) Option<u32>);

impl std::fmt::Display for Lowat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => bytes.fmt(f),
            None => f.write_str("stock"),
        }
    }
}

fn parse_lowat(text: &str) -> Result<Lowat, String> {
    if text == "stock" {
        Ok(Lowat(None))
    } else {
        parse_size32(text).map(|bytes| Lowat(Some(bytes)))
    }
}
