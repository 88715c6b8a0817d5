//! `latency TIMES`: how long after the first held byte the `stall-opened` line is there to be read. Runs the daemon
//! with its output in a pipe, then the reproducer TIMES times, and prints one JSON object. A figure, not a test.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// What bytes may be held for before they are told of, in milliseconds.
const THRESHOLD_MS: f64 = 20.0;
/// How long the daemon may take to attach in an emulated guest.
const ATTACHES_WITHIN: Duration = Duration::from_mins(1);

/// A line and when it was read, in milliseconds since 1970.
type Read = (f64, String);

/// Measures and prints.
pub(crate) fn main(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let times: u32 = arguments
        .next()
        .context("latency TIMES")?
        .parse()
        .context("TIMES is a number")?;
    let mut daemon = Command::new("ktls-trace")
        .args(["run", "--format", "jsonl", "--threshold", "20ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the daemon")?;
    let lines = follow(&mut daemon)?;
    let (_, started) = lines
        .recv_timeout(ATTACHES_WITHIN)
        .context("the daemon says nothing")?;
    if !started.contains("\"mode\":\"hooks\"") {
        bail!("the daemon has no hooks: {started}");
    }
    for _ in 0..times {
        let status = Command::new("ktls-trace")
            .args(["repro", "--duration", "400ms"])
            .stdout(Stdio::null())
            .status()
            .context("starting the reproducer")?;
        if !status.success() {
            bail!("the reproducer failed: {status}");
        }
    }
    let pid = i32::try_from(daemon.id()).context("a process number")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).context("stopping the daemon")?;
    daemon.wait().context("waiting for the daemon")?;

    let mut latencies: Vec<f64> = lines.iter().filter_map(|line| latency(&line)).collect();
    latencies.sort_by(f64::total_cmp);
    let at = |part: usize| latencies.get(latencies.len() * part / 100).copied();
    println!(
        "{}",
        json!({
            "openings": latencies.len(),
            "threshold_ms": THRESHOLD_MS,
            "median_ms": at(50),
            "p90_ms": at(90),
            "max_ms": latencies.last(),
        })
    );
    Ok(())
}

/// Reads the daemon's lines as they come.
fn follow(daemon: &mut Child) -> Result<mpsc::Receiver<Read>> {
    let stdout = daemon.stdout.take().context("the daemon's output")?;
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            if tell.send((now.as_secs_f64() * 1000.0, line)).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}

/// From the first held byte to the reading of the line: the event's own time tells when it was made, and
/// `held.ms` how long the bytes had been held then.
fn latency((read_ms, line): &Read) -> Option<f64> {
    let event: Value = serde_json::from_str(line).ok()?;
    if event["event"] != "stall-opened" {
        return None;
    }
    let made_ms = unix_ms(event["time"].as_str()?)?;
    Some(read_ms - (made_ms - event["held"]["ms"].as_f64()?))
}

/// The time of an event in milliseconds since 1970.
fn unix_ms(time: &str) -> Option<f64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    Some(
        time.duration_since(jiff::Timestamp::UNIX_EPOCH)
            .as_secs_f64()
            * 1000.0,
    )
}
