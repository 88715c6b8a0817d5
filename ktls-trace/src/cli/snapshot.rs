//! `ktls-trace snapshot`: every kTLS socket, what it does, and its verdict as far as polls can tell.

use std::{
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
    time::Duration,
};

use ktls_trace::{
    kernel::namespaces::Which,
    report,
    snapshot::{self, Options, document::Snapshot},
};

use super::{
    cannot,
    units::{parse_netns, parse_time},
};

/// Columns of the table where no terminal says how many there are.
const WIDTH: usize = 120;

/// Show every kTLS socket, its state, and its verdict as far as polls alone can tell
///
/// Loads nothing into the kernel. The kernel lists all TCP sockets once, and once more an interval later, so that
/// speeds are known. What holds bytes back below one MSS is not told apart this way: `ktls-trace run` does that.
///
/// Exit status: 0 done, also if there is no kTLS socket; 2 the kernel can't be asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Time between the two passes; 0s: one pass, and no rates
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_interval)]
    interval: Duration,
    /// Print one JSON object, with all sockets
    #[arg(long)]
    json: bool,
    /// Look at connections with this local or remote port only
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Network namespaces: all that are found, the own one, or the one of a file such as /run/netns/NAME
    #[arg(long, default_value = "all", value_name = "all|self|PATH", value_parser = parse_netns)]
    netns: Which,
    /// Show all sockets in the table, not just the first 40
    #[arg(long)]
    all: bool,
}

/// Asks and prints.
pub(crate) fn run(args: &Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return cannot("snapshot", &format_args!("cannot start: {error}")),
    };
    let options = Options {
        interval: args.interval,
        port: args.port,
        netns: args.netns.clone(),
    };
    let snapshot = match runtime.block_on(snapshot::take(&options)) {
        Ok(snapshot) => snapshot,
        Err(error) => return cannot("snapshot", &error),
    };
    match print(&snapshot, args, &mut io::stdout().lock()) {
        // Whoever read the output has enough of it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            cannot("snapshot", &format_args!("cannot write: {error}"))
        }
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// Prints the snapshot as JSON or as a table.
fn print(snapshot: &Snapshot, args: &Args, out: &mut impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    if args.json {
        serde_json::to_writer(&mut out, snapshot)?;
        writeln!(out)?;
    } else {
        report::snapshot::write(snapshot, width(), args.all, &mut out)?;
    }
    out.flush()
}

/// Columns of the terminal; [`WIDTH`] if there is none.
fn width() -> usize {
    if !io::stdout().is_terminal() {
        return WIDTH;
    }
    terminal_size::terminal_size().map_or(WIDTH, |(width, _)| width.0.into())
}

/// As [`parse_time`], at most an hour.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time > Duration::from_hours(1) {
        return Err(format!("{text} is more than 1h"));
    }
    Ok(time)
}
