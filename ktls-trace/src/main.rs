//! The `ktls-trace` command.

mod cli;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{ArgAction, Parser, Subcommand};
use cli::diagnostics::Diagnostics;
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

/// Finds connections whose software kernel-TLS transmit is held back, and says why
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Command {
    /// Say more on stderr; twice: also what the eBPF programs themselves say
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<cli::run::Args>),
    Replay(cli::replay::Args),
    Report(cli::report::Args),
    Status(cli::status::Args),
    Snapshot(cli::snapshot::Args),
    Repro(cli::repro::Args),
    Confirm(cli::confirm::Args),
    Doctor(cli::doctor::Args),
    Schema(cli::schema::Args),
    Config(cli::config::Args),
    Man(cli::manual::ManArgs),
    Completions(cli::manual::CompletionsArgs),
}

fn main() -> ExitCode {
    let given: Vec<_> = std::env::args_os().collect();
    let words = match cli::config::layered(given.clone()) {
        Ok(words) => words,
        Err(error) => return cli::cannot("run", &error),
    };
    let Command { verbose, verb } = Command::parse_from(&words);
    // A run must not wait for whoever reads what it says.
    let apart = match &verb {
        Verb::Run(_) => match Diagnostics::of_this_process() {
            Ok(apart) => Some(apart),
            Err(error) => return cli::cannot("run", &format_args!("cannot start: {error}")),
        },
        _ => None,
    };
    log(verbose, apart.clone());
    let code = match verb {
        Verb::Run(args) => cli::run::run(&args, given, words, verbose >= 2),
        Verb::Replay(args) => cli::replay::run(&args),
        Verb::Report(args) => cli::report::run(&args),
        Verb::Status(args) => cli::status::run(&args),
        Verb::Snapshot(args) => cli::snapshot::run(&args),
        Verb::Repro(args) => cli::repro::run(&args),
        Verb::Confirm(args) => cli::confirm::run(&args, verbose >= 2),
        Verb::Doctor(args) => cli::doctor::run(&args),
        Verb::Schema(args) => cli::schema::run(&args),
        Verb::Config(args) => cli::config::about(&args),
        Verb::Man(args) => cli::manual::man(&args),
        Verb::Completions(args) => cli::manual::completions(&args),
    };
    if let Some(apart) = apart {
        apart.flush();
    }
    code
}

/// Sends the daemon's own diagnostics to stderr, by a thread of their own if there is one; `RUST_LOG` overrides the level.
fn log(verbose: u8, apart: Option<Diagnostics>) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        // The dependencies' own chatter helps nobody.
        _ => "info,ktls_trace=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let stderr = apart.map_or_else(|| BoxMakeWriter::new(io::stderr), BoxMakeWriter::new);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(io::stderr().is_terminal())
        // What can't be written to stderr can't be complained about there: that would end the process.
        .log_internal_errors(false)
        .init();
}
