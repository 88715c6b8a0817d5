//! One thread with both ends of a connection: it sends, then reads what has arrived, so many times. Nothing waits for
//! anything, so that in a guest that counts instructions the same sends take the same time.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use nix::{
    errno::Errno,
    sys::socket::{
        setsockopt,
        sockopt::{SndBuf, TcpMaxSeg},
    },
};
use serde_json::{Value, json};

use crate::{ktls, payload::Payload};

/// Room for what is read at once, in bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// Sends before the ones that are counted: the congestion window grows.
const WARM_UP: u32 = 200;

/// How it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// `sendfile` through kernel TLS
    Sendfile,
    /// `write` through kernel TLS
    Write,
    /// `sendfile` through plain TCP
    Plain,
    /// `write` through plain TCP
    PlainWrite,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Send calls that are counted
    #[arg(long, default_value_t = 5000)]
    sends: u32,
    /// Bytes of each; more than a window's worth is refused
    #[arg(long, default_value_t = 32 << 10)]
    bytes: u64,
    /// How it sends
    #[arg(long, value_enum, default_value = "sendfile")]
    mode: Mode,
    /// `TCP_MAXSEG` of the sending end
    #[arg(long)]
    mss: Option<u32>,
    /// Write until the send buffer of so many bytes is full, each time, and only then read; each time counts as one send
    #[arg(long, value_name = "SO_SNDBUF")]
    refused: Option<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Value> {
    let Arguments {
        sends,
        bytes,
        mode,
        mss,
        refused,
    } = *arguments;
    ensure!(
        refused.is_none() || matches!(mode, Mode::Write | Mode::PlainWrite),
        "--refused takes a mode that writes"
    );
    let (sender, receiver) = connect(mode, mss)?;
    if let Some(bytes) = &refused {
        setsockopt(&sender, SndBuf, bytes).context("setting SO_SNDBUF")?;
    }
    let mut both = Both {
        sender,
        receiver,
        payload: Payload::new()?,
        mode,
        bytes,
        until_refused: refused.is_some(),
        buffer: vec![0; BUFFER_BYTES],
        received: 0,
    };
    for _ in 0..WARM_UP {
        both.step()?;
    }
    both.received = 0;
    let begun = Instant::now();
    for _ in 0..sends {
        both.step()?;
    }
    let took = begun.elapsed();
    Ok(json!({
        "sends": sends,
        "warm_up": WARM_UP,
        "bytes_received": both.received,
        "ns_per_send": took.as_secs_f64() * 1e9 / f64::from(sends),
    }))
}

/// Both ends of a connection.
struct Both {
    sender: TcpStream,
    receiver: TcpStream,
    payload: Payload,
    mode: Mode,
    bytes: u64,
    until_refused: bool,
    buffer: Vec<u8>,
    received: u64,
}

impl Both {
    /// Sends once, and reads what there is.
    fn step(&mut self) -> Result<()> {
        match self.mode {
            Mode::Sendfile | Mode::Plain => {
                let mut left = self.bytes;
                while left > 0 {
                    match self.payload.send(&self.sender, left) {
                        Ok(sent) => left -= sent,
                        Err(Errno::EAGAIN) => bail!("{left} bytes were refused"),
                        Err(errno) => return Err(errno).context("sendfile"),
                    }
                }
            }
            Mode::Write | Mode::PlainWrite => {
                let bytes = usize::try_from(self.bytes).context("--bytes")?;
                let contents = self.buffer.get(..bytes).context("--bytes is too much")?;
                if self.until_refused {
                    until_refused(|| self.sender.write(contents)).context("writing")?;
                } else {
                    self.sender.write_all(contents).context("writing")?;
                }
            }
        }
        let read = until_refused(|| self.receiver.read(&mut self.buffer)).context("reading")?;
        self.received += read;
        Ok(())
    }
}

/// Reads or writes until there is nothing, or no room, left; the bytes in all.
fn until_refused(mut transfer: impl FnMut() -> io::Result<usize>) -> io::Result<u64> {
    let mut bytes = 0;
    loop {
        match transfer() {
            Ok(count) => bytes += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(bytes),
            Err(error) => return Err(error),
        }
    }
}

/// A connection over loopback, of which neither end blocks.
fn connect(mode: Mode, mss: Option<u32>) -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
    if let Some(mss) = mss {
        setsockopt(&listener, TcpMaxSeg, &mss).context("setting TCP_MAXSEG")?;
    }
    let address = listener.local_addr().context("naming the listener")?;
    let receiver = TcpStream::connect(address).context("connecting")?;
    let (sender, _) = listener.accept().context("accepting")?;
    sender.set_nodelay(true).context("setting TCP_NODELAY")?;
    if matches!(mode, Mode::Sendfile | Mode::Write) {
        ktls::enable(&sender)?;
    }
    for end in [&sender, &receiver] {
        end.set_nonblocking(true)
            .context("making an end non-blocking")?;
    }
    Ok((sender, receiver))
}
