//! The built-in reproducer: kernel-TLS senders and receivers over loopback, in this process, without
//! privileges and without touching a setting of the host. The gate that stalls is set on the sockets alone.

mod config;
mod error;
mod holds;
mod receiver;
mod records;
mod report;
mod sender;
mod socket;
mod source;
mod tally;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

pub(crate) use self::tally::mib_per_s;
use self::transfer::Run;
pub use self::{
    config::{Cipher, Config, Mode, Receiver, STALLING_NOTSENT_LOWAT, TlsVersion},
    error::Error,
    holds::Holds,
    report::{ConnectionReport, Gaps, Report, SCHEMA},
};

/// How often the run looks whether it was told to stop.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Connects everything, sends until the bytes or the time are used up or `stop` is set, and tells what
/// happened. Returns within a second of the limit even when the kernel never lets a send return: a thread
/// that is stuck then stays behind, with its socket, until the process ends.
pub fn run(config: &Config, stop: &AtomicBool) -> Result<Report, Error> {
    check(config)?;
    let file = source::make(config.file_size)?;
    let connections = connect(config)?;
    wait(config.hold, stop);
    let mut run = Run::start(config, &file, connections)?;
    run.follow(config.duration, stop);
    let snapshots = run.end();
    Ok(run.report(config, &snapshots))
}

/// Refuses what no kernel could do anything with.
fn check(config: &Config) -> Result<(), Error> {
    let refuse = |option, reason| Err(Error::Config { option, reason });
    if config.connections == 0 {
        return refuse("connections", "at least one is needed");
    }
    if config.file_size == 0 {
        return refuse("file-size", "an empty file can't be sent");
    }
    if config.chunk == Some(0) {
        return refuse("chunk", "a send of nothing never ends");
    }
    if config.msg_more && config.mode != Mode::Write {
        return refuse("msg-more", "only --mode write hands flags over itself");
    }
    if config.tls == TlsVersion::V1_3 && config.cipher.tls_1_2_only() {
        return refuse("cipher", "ARIA is for TLS 1.2 only: --tls 1.2");
    }
    if config.receiver == (Receiver::Slow { bytes_per_s: 0 }) {
        return refuse(
            "receiver-rate",
            "a receiver that reads nothing is --receiver stop",
        );
    }
    Ok(())
}

/// Connects every pair and turns the senders into TLS ones, so that all are ready before any starts.
fn connect(config: &Config) -> Result<Vec<socket::Pair>, Error> {
    let listener = socket::listen(config)?;
    (0..config.connections)
        .map(|_| {
            let pair = socket::connect_pair(&listener, config)?;
            if config.mode.uses_tls() {
                tls::enable(&pair.sender, config.tls, config.cipher)?;
            }
            Ok(pair)
        })
        .collect()
}

/// Lets a time pass, unless told to stop.
fn wait(time: Duration, stop: &AtomicBool) {
    let begun = Instant::now();
    while let Some(left) = time
        .checked_sub(begun.elapsed())
        .filter(|left| !left.is_zero())
    {
        if stop.load(Ordering::Acquire) {
            return;
        }
        thread::sleep(left.min(LOOK_UP));
    }
}
