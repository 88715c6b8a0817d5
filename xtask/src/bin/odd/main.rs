//! Workloads that `ktls-trace repro` does not have, for guests: senders that share sockets, are stopped or traced, close at
//! once, use `io_uring`, read from a cold file. Each prints one JSON object with what it did.
//!
//! Every sender sets `TCP_NODELAY`, as servers do. A corked one has `TCP_NOTSENT_LOWAT` 16384 and listens on port 7001,
//! a healthy one keeps the host's gate and listens on port 7002, so that an event tells by its port which it is about.

mod bpf;
mod child;
mod cipher;
mod closing;
mod cold;
mod drain;
mod idle;
mod ktls;
mod lockstep;
mod many;
mod passed;
mod payload;
mod shared;
mod stopped;
mod two;
mod uring;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Status of a workload that this kernel can't do: the conventional one of a skipped test.
const UNSUPPORTED: u8 = 77;

/// Workloads for guests
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Workload {
    /// One process on one epoll with healthy connections and stalled ones
    Many(many::Arguments),
    /// A healthy and a corked socket in one process
    Two(two::Arguments),
    /// A socket made in one process and sent from in another (`SCM_RIGHTS`)
    Passed(Time),
    /// Corked sockets of forked children, one of them shared by two
    Forked(Time),
    /// Corked sockets of threads, one of them shared by two
    Threads(Time),
    /// A sender that SIGSTOP stops for two seconds
    Stopped(stopped::Arguments),
    /// A sender that a debugger stops twice for a second
    Debugger(stopped::Arguments),
    /// A sender that has nothing to send but a small record now and then
    Idle(Time),
    /// Connections that are closed at once
    Closing(closing::Arguments),
    /// Sends through `io_uring`
    Uring(uring::Arguments),
    /// `sendfile` from a file that is not in the page cache
    Cold(cold::Arguments),
    /// A fixed number of sends, each read by the same thread before the next
    Lockstep(lockstep::Arguments),
    /// No workload: makes AES-GCM asynchronous (`pcrypt`) for every socket that gets its keys from now on
    AsyncCipher,
    /// No workload: how many BPF programs, maps, links and kprobes there are in the kernel
    Bpf,
}

/// For how long.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Time {
    /// Seconds until it ends
    #[arg(long, default_value_t = 4)]
    seconds: u64,
}

impl Time {
    fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What became of a workload.
enum Outcome {
    /// It ran: its report.
    Ran(Value),
    /// This kernel can't: why.
    Unsupported(String),
}

fn main() -> ExitCode {
    let Arguments { workload } = Arguments::parse();
    match run(workload) {
        Ok(Outcome::Ran(report)) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Unsupported(why)) => {
            println!("{}", serde_json::json!({ "unsupported": why }));
            ExitCode::from(UNSUPPORTED)
        }
        Err(error) => {
            eprintln!("odd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(workload: Workload) -> Result<Outcome> {
    let report = match workload {
        Workload::Many(arguments) => many::run(&arguments),
        Workload::Two(arguments) => two::run(arguments),
        Workload::Passed(time) => passed::run(time.duration()),
        Workload::Forked(time) => shared::forked(time.duration()),
        Workload::Threads(time) => shared::threads(time.duration()),
        Workload::Stopped(arguments) => stopped::by_signal(arguments),
        Workload::Debugger(arguments) => stopped::by_debugger(arguments),
        Workload::Idle(time) => idle::run(time.duration()),
        Workload::Closing(arguments) => closing::run(&arguments),
        Workload::Uring(arguments) => return uring::run(&arguments),
        Workload::Cold(arguments) => cold::run(&arguments),
        Workload::Lockstep(arguments) => lockstep::run(&arguments),
        Workload::AsyncCipher => cipher::run(),
        Workload::Bpf => bpf::run(),
    };
    report.map(Outcome::Ran)
}
