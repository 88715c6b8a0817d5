//! Senders that are stopped in the middle of a transfer, by a signal or by a debugger: nobody is there to fill a segment up, but
//! that is not the kernel's doing.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::{ptrace, signal::Signal, wait::waitpid};
use serde_json::{Value, json};

use crate::{
    child::Child,
    drain::{Count, Drain},
    ktls::{self, Gate},
    payload::Payload,
};

/// Time that it sends before, between and after.
const SENDS: Duration = Duration::from_secs(1);
/// Until what was under way when it was stopped has arrived.
const ARRIVES: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The sender is a corked one
    #[arg(long)]
    corked: bool,
}

/// SIGSTOP for two seconds.
pub(crate) fn by_signal(arguments: Arguments) -> Result<Value> {
    let (sender, count) = start(arguments)?;
    thread::sleep(SENDS);
    let before = count.bytes();
    sender.signal(Signal::SIGSTOP)?;
    let during = while_stopped(&count, Duration::from_secs(2));
    sender.signal(Signal::SIGCONT)?;
    Ok(report(&count, before, during))
}

/// A debugger that stops it twice for a second.
pub(crate) fn by_debugger(arguments: Arguments) -> Result<Value> {
    let (sender, count) = start(arguments)?;
    thread::sleep(SENDS);
    let before = count.bytes();
    let mut during = 0;
    for _ in 0..2 {
        ptrace::seize(sender.pid(), ptrace::Options::empty()).context("PTRACE_SEIZE")?;
        ptrace::interrupt(sender.pid()).context("PTRACE_INTERRUPT")?;
        waitpid(sender.pid(), None).context("waiting for the sender to stop")?;
        during += while_stopped(&count, Duration::from_secs(1));
        ptrace::detach(sender.pid(), None).context("PTRACE_DETACH")?;
        thread::sleep(SENDS / 2);
    }
    Ok(report(&count, before, during))
}

fn start(arguments: Arguments) -> Result<(Child, Count)> {
    let Arguments { corked } = arguments;
    let payload = Payload::new()?;
    let gate = if corked { Gate::Corked } else { Gate::Stock };
    let pair = ktls::pair(gate)?;
    let sender = Child::start(c"stopped", || payload.send_forever(&pair.sender))?;
    drop(pair.sender);
    let count = Drain::start()?.add(pair.receiver)?;
    Ok((sender, count))
}

/// Bytes that arrive in that time but for its beginning.
fn while_stopped(count: &Count, time: Duration) -> u64 {
    thread::sleep(ARRIVES);
    let before = count.bytes();
    thread::sleep(time.saturating_sub(ARRIVES));
    count.bytes() - before
}

fn report(count: &Count, before: u64, during: u64) -> Value {
    let at_stop = count.bytes();
    thread::sleep(SENDS);
    json!({
        "bytes_before": before,
        "bytes_while_stopped": during,
        "bytes_after": count.bytes() - at_stop,
    })
}
