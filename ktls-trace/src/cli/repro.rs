//! `ktls-trace repro`: runs the built-in workload and prints what it saw.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use clap::ValueEnum;
use ktls_trace::workload::{
    self, Cipher, Config, Mode, Receiver, Report, STALLING_NOTSENT_LOWAT, TlsVersion,
};
use nix::sys::signal::{SigSet, Signal};

use super::{
    cannot,
    units::{parse_size, parse_size32, parse_time},
};

/// Exit status when a connection failed under way.
const FAILED: u8 = 1;

/// Reproduce the stall: kernel-TLS senders over loopback, no privileges, no host setting changed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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
    /// Connections at the same time
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// How the receiver reads
    #[arg(long, value_enum, default_value = "drain")]
    receiver: ReceiverKind,
    /// Bytes a second read by `--receiver slow`
    #[arg(long, default_value = "64K", value_name = "SIZE", value_parser = parse_size)]
    receiver_rate: u64,
    /// Bytes read by `--receiver stop` before it stops
    #[arg(long, default_value = "64K", value_name = "SIZE", value_parser = parse_size)]
    receiver_stop_after: u64,
    /// Payload bytes for each connection, as 4M [default: until the time is up]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    bytes: Option<u64>,
    /// Time after which everything ends, as 6s or 500ms
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_time)]
    duration: Duration,
    /// Size of the file that is sent over and over
    #[arg(long, default_value = "4M", value_name = "SIZE", value_parser = parse_size)]
    file_size: u64,
    /// Most bytes handed to one send call [default: the whole file]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    chunk: Option<u64>,
    /// Time between connecting and the first byte, for a tracer to attach
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = parse_time)]
    hold: Duration,
    /// Connect over `::1`
    #[arg(long)]
    ipv6: bool,
    /// Port of the sending end [default: an ephemeral one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The receiver's kind; its number is an option of its own.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ReceiverKind {
    /// Reads as fast as bytes arrive
    Drain,
    /// Reads a little at a time
    Slow,
    /// Reads some bytes and then never again
    Stop,
}

/// `--notsent-lowat`: a number of bytes, or `None` for the host's.
#[derive(Clone, Copy, Debug)]
struct Lowat(Option<u32>);

impl std::fmt::Display for Lowat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => bytes.fmt(f),
            None => f.write_str("stock"),
        }
    }
}

/// Runs the workload and prints its report.
pub(crate) fn run(args: &Args) -> ExitCode {
    let stop = match stop_on_signal() {
        Ok(stop) => stop,
        Err(error) => return cannot("repro", &format_args!("cannot watch for signals: {error}")),
    };
    let report = match workload::run(&args.config(), &stop) {
        Ok(report) => report,
        Err(error) => return cannot("repro", &error),
    };
    match print(&report, args.json, &mut io::stdout().lock()) {
        Ok(()) => {}
        // Whoever read the output has enough of it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => return cannot("repro", &format_args!("cannot write the report: {error}")),
    }
    if report
        .connections
        .iter()
        .any(|connection| connection.error.is_some())
    {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    }
}

/// A flag that SIGINT and SIGTERM set. They are blocked here, before any thread starts, so that every
/// thread inherits that and only the one that waits for them gets them.
fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.wait().is_ok() {
                set.store(true, Ordering::Release);
            }
        })?;
    Ok(stop)
}

impl Args {
    fn config(&self) -> Config {
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
            connections: self.connections,
            receiver: match self.receiver {
                ReceiverKind::Drain => Receiver::Drain,
                ReceiverKind::Slow => Receiver::Slow {
                    bytes_per_s: self.receiver_rate,
                },
                ReceiverKind::Stop => Receiver::Stop {
                    after_bytes: self.receiver_stop_after,
                },
            },
            bytes: self.bytes,
            duration: self.duration,
            file_size: self.file_size,
            chunk: self.chunk,
            hold: self.hold,
            ipv6: self.ipv6,
            port: self.port,
        }
    }
}

/// Writes the report, as one JSON object or for people.
fn print(report: &Report, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, report)?;
        return writeln!(out);
    }
    let mode = report.mode.to_possible_value();
    let mode = mode.as_ref().map_or("", |mode| mode.get_name());
    let tls = match (report.tls, report.cipher) {
        (Some(tls), Some(cipher)) => format!("TLS {} {}", tls.name(), cipher.name()),
        _ => "plain TCP".to_owned(),
    };
    let blocking = if report.nonblocking {
        "non-blocking"
    } else {
        "blocking"
    };
    let lowat = Lowat(report.notsent_lowat);
    writeln!(out, "{mode}, {tls}, {blocking}, TCP_NOTSENT_LOWAT {lowat}")?;
    writeln!(
        out,
        "{} bytes sent, {} bytes received in {} ms: {} MiB/s{}",
        report.bytes_sent,
        report.bytes_received,
        report.duration_ms,
        report.mib_per_s,
        if report.hung { ", hung" } else { "" },
    )?;
    for connection in &report.connections {
        writeln!(
            out,
            "  {} -> {}: {} bytes received, MSS {}, {} pauses over 20 ms (longest {:.1} ms), \
             {} bytes unsent at the end{}",
            connection.src,
            connection.dst,
            connection.bytes_received,
            known(connection.mss),
            connection.gaps.count,
            connection.gaps.max_ms,
            known(connection.notsent_at_end),
            match &connection.error {
                Some(error) => format!(", failed: {error}"),
                None if connection.hung => ", hung".to_owned(),
                None if connection.finished => ", finished".to_owned(),
                None => String::new(),
            },
        )?;
    }
    Ok(())
}

fn known(number: Option<u32>) -> String {
    number.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

fn parse_lowat(text: &str) -> Result<Lowat, String> {
    if text == "stock" {
        Ok(Lowat(None))
    } else {
        parse_size32(text).map(|bytes| Lowat(Some(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: Args,
    }

    fn config(line: &[&str]) -> Result<Config, clap::Error> {
        Whole::try_parse_from(["repro"].iter().chain(line)).map(|whole| whole.args.config())
    }

    #[test]
    fn without_arguments_it_is_the_library_default() {
        assert_eq!(config(&[]).unwrap(), Config::default());
    }

    #[test]
    fn stock_leaves_the_gate_alone() {
        assert_eq!(
            config(&["--notsent-lowat", "stock"]).unwrap().notsent_lowat,
            None
        );
        assert_eq!(
            config(&["--notsent-lowat", "32768"]).unwrap().notsent_lowat,
            Some(32768)
        );
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_size("4M"), Ok(4 << 20));
        assert_eq!(parse_size("512K"), Ok(512 << 10));
        assert_eq!(parse_size("7"), Ok(7));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_mins(2)));
    }

    #[test]
    fn nonsense_is_refused() {
        for size in [
            "",
            "M",
            "4X",
            "-1",
            "99999999999999999999",
            "99999999999G",
            "1.5M",
        ] {
            assert!(parse_size(size).is_err(), "{size:?}");
        }
        for time in ["", "s", "4 s", "-1s", "1e3s", "1..2s", "5d"] {
            assert!(parse_time(time).is_err(), "{time:?}");
        }
        for line in [
            ["--mss", "20"],
            ["--mss", "40000"],
            ["--connections", "0"],
            ["--cipher", "rc4"],
            ["--tls", "1.1"],
        ] {
            assert!(config(&line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn the_receivers_number_is_the_one_of_its_kind() {
        let line = ["--receiver", "slow", "--receiver-rate", "10K"];
        assert_eq!(
            config(&line).unwrap().receiver,
            Receiver::Slow {
                bytes_per_s: 10 << 10
            }
        );
        let line = ["--receiver", "stop", "--receiver-stop-after", "1M"];
        assert_eq!(
            config(&line).unwrap().receiver,
            Receiver::Stop {
                after_bytes: 1 << 20
            }
        );
    }
}
