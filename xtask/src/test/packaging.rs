//! What is shipped beside the binary, and what it serves, held against a real consumer: Prometheus's own `promtool`.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::dashboard;
use crate::{command, consumers, place::Place};

/// How long the daemon may take to serve.
const SERVES_WITHIN: Duration = Duration::from_secs(30);

/// Checks and tests the alert rules, the queries of the dashboard, and the metrics of the daemon. An error says what `promtool` said.
pub(crate) fn run(place: &Place, daemon: &Path) -> Result<()> {
    let prometheus = consumers::prometheus(place)?;
    let promtool = || {
        let mut command = Command::new(prometheus.join("promtool"));
        command.current_dir(place.workspace.join("packaging/prometheus"));
        command
    };
    command::output(promtool().args(["check", "rules", "ktls-trace.rules.yml"]))?;
    command::output(promtool().args(["test", "rules", "ktls-trace.tests.yml"]))?;
    dashboard::check(place, promtool())?;
    let metrics = metrics_of(daemon)?;
    let mut check = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting promtool")?;
    check
        .stdin
        .take()
        .context("promtool has no stdin")?
        .write_all(metrics.as_bytes())
        .context("handing metrics to promtool")?;
    let checked = check.wait_with_output().context("waiting for promtool")?;
    if !checked.status.success() {
        let said = [checked.stdout, checked.stderr].concat();
        bail!("promtool check metrics: {}", String::from_utf8_lossy(&said));
    }
    Ok(())
}

/// The metrics of a run on this machine, which asks `sock_diag` only.
fn metrics_of(daemon: &Path) -> Result<String> {
    let socket = std::env::temp_dir().join(format!("ktls-trace-metrics-{}", std::process::id()));
    let mut running = Command::new(daemon)
        .args(["run", "--no-bpf", "--output", "/dev/null"])
        .arg(format!("--metrics-listen=unix:{}", socket.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", daemon.display()))?;
    let asked = ask(&socket, &mut running);
    // It may have ended by itself; then that is what is told.
    let _ended = kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGTERM);
    running.wait().context("waiting for the daemon")?;
    asked
}

fn ask(socket: &Path, running: &mut Child) -> Result<String> {
    let deadline = Instant::now() + SERVES_WITHIN;
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => {
                if let Some(status) = running.try_wait().context("looking at the daemon")? {
                    bail!("the daemon ended by itself ({status})");
                }
                if Instant::now() > deadline {
                    return Err(error).context("connecting to the daemon");
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    };
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .context("asking for metrics")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("reading metrics")?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .context("the daemon does not answer in HTTP")?;
    Ok(body.to_owned())
}
