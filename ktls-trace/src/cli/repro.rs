//! `ktls-trace repro`: runs the built-in workload and prints what it saw.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use clap::ValueEnum;
use ktls_trace::workload::{self, Config, Receiver, Report};
use nix::sys::signal::{SigSet, Signal};

use super::{
    cannot,
    sending::{Lowat, Sending},
    units::{parse_size, parse_size32, parse_time},
};

/// Exit status when a connection failed under way.
const FAILED: u8 = 1;

/// Reproduce the stall: kernel-TLS senders over loopback, no privileges, no host setting changed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sending: Sending,
    /// Send with `MSG_MORE`, leaving a record open (with `--mode write`)
    #[arg(long)]
    msg_more: bool,
    /// Find the holds without any hook, from `SIOCOUTQNSD` and the receiver's arrivals
    #[arg(long)]
    find_holds: bool,
    /// Time between two send calls
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = parse_time)]
    pause: Duration,
    /// `SO_RCVBUF` of the receiver; the kernel doubles it [default: left to the kernel, 16K for `--receiver stop`]
    #[arg(long, value_name = "SIZE", value_parser = parse_size32)]
    rcvbuf: Option<u32>,
    /// `SO_MAX_PACING_RATE` of the sender in bytes a second
    #[arg(long, value_name = "SIZE", value_parser = parse_size32)]
    pacing_rate: Option<u32>,
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
    /// Time between connecting and the first byte, for a tracer to attach
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = parse_time)]
    hold: Duration,
    /// Address that is listened on: the sending end's, or with `--upload` the receiving one's [default: the loopback's]
    #[arg(long, value_name = "IP", conflicts_with = "ipv6")]
    address: Option<IpAddr>,
    /// Network namespace of the receiving end, or with `--upload` of the sending one, as /proc/PID/ns/net (needs `CAP_SYS_ADMIN`)
    /// [default: the same]
    #[arg(long, value_name = "PATH", requires = "address")]
    receiver_netns: Option<PathBuf>,
    /// Connect over `::1`
    #[arg(long)]
    ipv6: bool,
    /// Connect over `::ffff:127.0.0.1`, as an IPv4 peer of a dual-stack listener
    #[arg(long, conflicts_with = "ipv6")]
    ipv4_mapped: bool,
    /// Port that is listened on [default: an ephemeral one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// The sending end connects, as a client that uploads does
    #[arg(long)]
    upload: bool,
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
            msg_more: self.msg_more,
            find_holds: self.find_holds,
            pause: self.pause,
            rcvbuf: self.rcvbuf,
            pacing_rate: self.pacing_rate,
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
            hold: self.hold,
            address: self.address,
            receiver_netns: self.receiver_netns.clone(),
            ipv6: self.ipv6,
            ipv4_mapped: self.ipv4_mapped,
            port: self.port,
            upload: self.upload,
            ..self.sending.config()
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
