//! Connections that are closed as soon as a few records were sent, in each of the ways there are.

use std::{
    io::Write as _,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::Linger},
};
use serde_json::{Value, json};

use crate::{
    Time,
    drain::{Drain, sum},
    ktls::{Connector, Gate, Pair},
    payload::Payload,
};

/// Between two connections.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    time: Time,
    /// Send until a record is corked, and close then
    #[arg(long)]
    corked: bool,
    /// How long a corked record is left alone before its socket is closed
    #[arg(long, default_value_t = 0, requires = "corked")]
    after_ms: u64,
}

/// A way to close.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `shutdown(2)`, then `close(2)`.
    Shutdown,
    /// `close(2)`.
    Close,
    /// `close(2)` with `SO_LINGER` 0, which resets the connection.
    Reset,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Value> {
    let Arguments {
        time,
        corked,
        after_ms,
    } = arguments;
    let mut payload = Payload::new()?;
    let connector = Connector::new(Gate::Corked)?;
    let drain = Drain::start()?;
    let mut counts = Vec::new();
    let begun = Instant::now();
    for way in [Way::Shutdown, Way::Close, Way::Reset].into_iter().cycle() {
        if begun.elapsed() > time.duration() {
            break;
        }
        let mut pair = connector.pair()?;
        counts.push(drain.add(pair.receiver.try_clone().context("sharing a receiver")?)?);
        if *corked {
            pair.sender
                .set_nonblocking(true)
                .context("making a sender non-blocking")?;
            loop {
                match payload.send(&pair.sender, u64::MAX) {
                    Ok(_) => {}
                    Err(Errno::EAGAIN) => break,
                    Err(errno) => return Err(errno).context("sendfile"),
                }
            }
            thread::sleep(Duration::from_millis(*after_ms));
        } else {
            for bytes in [100, 4096, 20_000] {
                pair.sender
                    .write_all(&vec![0; bytes])
                    .context("writing records")?;
            }
        }
        close(pair, way)?;
        thread::sleep(PAUSE);
    }
    Ok(json!({ "connections": counts.len(), "bytes_received": sum(&counts) }))
}

fn close(pair: Pair, way: Way) -> Result<()> {
    let Pair { sender, .. } = pair;
    match way {
        Way::Shutdown => sender
            .shutdown(Shutdown::Both)
            .context("shutting a sender down"),
        Way::Close => Ok(()),
        Way::Reset => {
            let at_once = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&sender, Linger, &at_once).context("setting SO_LINGER")
        }
    }
    // Dropped here, and so closed.
}
