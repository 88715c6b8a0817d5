//! A healthy and a corked socket in one process, each with a thread that blocks in `sendfile`.

use std::{ffi::OsString, thread};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use serde_json::{Value, json};

use crate::{
    Time,
    drain::Drain,
    ktls::{self, Gate},
    payload::Payload,
};

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    time: Time,
    /// Bind both to the loopback device (`SO_BINDTODEVICE`), as sockets in a VRF are to theirs
    #[arg(long)]
    bound: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<Value> {
    let payload = Payload::new()?;
    let drain = Drain::start()?;
    let corked = ktls::pair(Gate::Corked)?;
    let healthy = ktls::pair(Gate::Stock)?;
    if arguments.bound {
        for sender in [&corked.sender, &healthy.sender] {
            setsockopt(sender, BindToDevice, &OsString::from("lo"))
                .context("setting SO_BINDTODEVICE")?;
        }
    }
    let counts = [drain.add(corked.receiver)?, drain.add(healthy.receiver)?];

    let file = payload.again()?;
    thread::Builder::new()
        .name("corked".to_owned())
        .spawn(move || tell(file.send_forever(&corked.sender)))
        .context("starting a thread")?;
    thread::Builder::new()
        .name("healthy".to_owned())
        .spawn(move || tell(payload.send_in_bursts(&healthy.sender)))
        .context("starting a thread")?;
    thread::sleep(arguments.time.duration());
    Ok(json!({
        "corked": { "bytes_received": counts[0].bytes() },
        "healthy": { "bytes_received": counts[1].bytes() },
    }))
}

/// Says what ended a sender that should have gone on until the process ends.
pub(crate) fn tell(ended: Result<()>) {
    if let Err(error) = ended {
        eprintln!("odd: {error:#}");
    }
}
