//! One process on one epoll, as an event-driven server: most of its connections send a little now and then, some stall.

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        resource::{Resource, getrlimit, setrlimit},
    },
};
use serde_json::{Value, json};

use crate::{
    Time,
    drain::{Count, Drain, sum},
    ktls::{Connector, Gate},
    payload::Payload,
};

/// Payload of a healthy connection's answer, in bytes.
const ANSWER_BYTES: usize = 2000;
/// Each healthy connection answers once in this time.
const ANSWERS_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    time: Time,
    /// Connections of both kinds
    #[arg(long, default_value_t = 500)]
    connections: u32,
    /// Connections that stall
    #[arg(long, default_value_t = 50)]
    stalled: u32,
    /// Further connections that have nothing to send
    #[arg(long, default_value_t = 0)]
    idle: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Value> {
    let Arguments {
        time,
        connections,
        stalled,
        idle,
    } = *arguments;
    let Some(healthy) = connections.checked_sub(stalled).filter(|count| *count > 0) else {
        bail!("--connections must be more than --stalled");
    };
    allow_descriptors()?;
    let drain = Drain::start()?;
    // They are there before the first stall begins.
    let (idle, _) = connect(&drain, Gate::Stock, idle)?;
    let (mut stalled, corked_counts) = connect(&drain, Gate::Corked, stalled)?;
    let (mut healthy, healthy_counts) = connect(&drain, Gate::Stock, healthy)?;

    let file = Payload::new()?;
    let mut payloads = Vec::new();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll")?;
    for (index, socket) in stalled.iter().enumerate() {
        payloads.push(file.again()?);
        let event = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLET, index as u64);
        epoll.add(socket, event).context("watching a sender")?;
    }
    let step = ANSWERS_EVERY / u32::try_from(healthy.len()).context("too many connections")?;
    let begun = Instant::now();
    let mut answers = 0_usize;
    let mut events = [EpollEvent::empty(); 64];
    while begun.elapsed() < time.duration() {
        let ready = match epoll.wait(&mut events, EpollTimeout::from(2_u8)) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno).context("waiting for EPOLLOUT"),
        };
        for event in &events[..ready] {
            let index = usize::try_from(event.data()).context("an event of no socket")?;
            fill(&mut payloads[index], &mut stalled[index])?;
        }
        let due = begun.elapsed().as_nanos() / step.as_nanos().max(1);
        while (answers as u128) < due {
            let count = healthy.len();
            healthy[answers % count]
                .write_all(&[0; ANSWER_BYTES])
                .context("writing an answer")?;
            answers += 1;
        }
    }
    Ok(json!({
        "idle": idle.len(),
        "corked": group(&corked_counts),
        "healthy": group(&healthy_counts),
        "answers": answers,
    }))
}

/// Connections of one kind: their senders, and what their receivers read.
fn connect(drain: &Drain, gate: Gate, count: u32) -> Result<(Vec<TcpStream>, Vec<Count>)> {
    let connector = Connector::new(gate)?;
    let mut senders = Vec::new();
    let mut counts = Vec::new();
    for _ in 0..count {
        let pair = connector.pair()?;
        pair.sender
            .set_nonblocking(true)
            .context("making a sender non-blocking")?;
        counts.push(drain.add(pair.receiver)?);
        senders.push(pair.sender);
    }
    Ok((senders, counts))
}

/// Sends until the socket takes no more.
fn fill(payload: &mut Payload, socket: &mut TcpStream) -> Result<()> {
    loop {
        match payload.send(socket, u64::MAX) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(errno) => return Err(errno).context("sendfile"),
        }
    }
}

fn group(counts: &[Count]) -> Value {
    json!({
        "sockets": counts.len(),
        "bytes_received": sum(counts),
        "least_bytes_received": counts.iter().map(Count::bytes).min(),
    })
}

/// Two descriptors for each connection are more than the soft limit allows.
fn allow_descriptors() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising RLIMIT_NOFILE")
}
