//! `ktls-trace status`: asks a run that serves how it is and what is stalled now.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    process::ExitCode,
    time::Duration,
};

use ktls_trace::export::{Address, HealthReport, metrics::Health};
use serde_json::{Value, json};

use super::cannot;

/// Where the service listens.
const SERVICE: &str = "unix:/run/ktls-trace/socket";
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);
/// Exit status of a run that can't see everything, or does not trace any more.
const NOT_WELL: u8 = 1;
/// Stalls that are listed; `--json` has all.
const LISTED: usize = 50;

/// Ask a running daemon how it is and which stalls are open
///
/// The service's own socket is root's. With `--json` the whole last event of each stall is there, with the facts that its verdict rests on.
///
/// Exit status: 0 everything that this kernel shows is seen, 1 not everything, or it does not trace any more, 2 no answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What its --metrics-listen names
    #[arg(default_value = SERVICE)]
    address: Address,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Asks, and prints what it answers.
pub(crate) fn run(args: &Args) -> ExitCode {
    let address = &args.address;
    let asked = ask(address, "/healthz").and_then(|health| Ok((health, ask(address, "/stalls")?)));
    let (health, stalls) = match asked {
        Ok(answers) => answers,
        Err(why) => return cannot("status", &format_args!("no answer from {address}: {why}")),
    };
    let parsed = serde_json::from_str::<HealthReport>(&health)
        .and_then(|health| Ok((health, serde_json::from_str::<Vec<Value>>(&stalls)?)));
    let (health, stalls) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let why = format_args!("{address} is no ktls-trace of this version: {error}");
            return cannot("status", &why);
        }
    };
    let text = if args.json {
        json!({ "health": health, "stalls": stalls }).to_string() + "\n"
    } else {
        told(&health, &stalls)
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return cannot("status", &format_args!("cannot write to stdout: {error}"));
        }
        Ok(()) | Err(_) => {}
    }
    match health.status {
        Health::Attached | Health::WaitingForTls => ExitCode::SUCCESS,
        Health::Degraded | Health::Stuck => ExitCode::from(NOT_WELL),
    }
}

/// The body of an answer.
fn ask(address: &Address, path: &str) -> io::Result<String> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, WITHIN)?;
            stream.set_read_timeout(Some(WITHIN))?;
            body(stream, path)
        }
        Address::Unix(socket) => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(WITHIN))?;
            body(stream, path)
        }
    }
}

fn body(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    body.map(str::to_owned)
        .ok_or_else(|| io::Error::other("that is no HTTP"))
}

/// For people.
fn told(health: &HealthReport, stalls: &[Value]) -> String {
    let HealthReport {
        status,
        cannot_see,
        kernel,
        version,
    } = health;
    let how = match status {
        Health::Attached => "sees everything",
        Health::Degraded => "can't see everything",
        Health::WaitingForTls => "waits for kernel TLS to be loaded",
        Health::Stuck => "does not trace any more",
    };
    let mut lines = vec![format!("ktls-trace {version} on kernel {kernel}: {how}")];
    lines.extend(cannot_see.iter().map(|line| format!("  {line}")));
    lines.push(match stalls.len() {
        0 => "no stall is open".to_owned(),
        1 => "1 stall is open".to_owned(),
        count => format!("{count} stalls are open"),
    });
    lines.extend(stalls.iter().take(LISTED).map(stall));
    if let Some(more) = stalls.len().checked_sub(LISTED + 1) {
        lines.push(format!("  and {} more", more + 1));
    }
    lines.join("\n") + "\n"
}

/// One stall.
fn stall(event: &Value) -> String {
    let text = |pointer: &str| match event.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "?".to_owned(),
        Some(other) => other.to_string(),
    };
    let gate = match event.pointer("/gate").and_then(Value::as_str) {
        Some(gate) => format!(", gate {gate}"),
        None => String::new(),
    };
    let remedy = event.get("remedy").and_then(Value::as_array);
    let mut lines = vec![format!(
        "  {}[{}]  {} -> {}  {} ({}){gate}, {} bytes held, as of {}",
        text("/process/comm"),
        text("/process/pid"),
        text("/socket/src"),
        text("/socket/dst"),
        text("/verdict"),
        text("/confidence"),
        text("/held/bytes"),
        text("/time"),
    )];
    let remedy = remedy.into_iter().flatten().filter_map(Value::as_str);
    lines.extend(remedy.map(|line| format!("    remedy: {line}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_listed_and_what_is_not_known_is_a_question_mark() {
        let health = HealthReport {
            status: Health::Degraded,
            cannot_see: vec!["release: no hook".to_owned()],
            kernel: "6.12".to_owned(),
            version: "0.1.0".to_owned(),
        };
        let event = json!({
            "time": "2026-06-03T17:19:22.000001Z",
            "socket": { "src": "127.0.0.1:443", "dst": "127.0.0.1:5" },
            "process": null,
            "verdict": "corked-completed-record",
            "confidence": "proven",
            "gate": "notsent-lowat",
            "held": { "bytes": 16406 },
            "remedy": ["sysctl -w net.ipv4.tcp_notsent_lowat=131072"],
        });
        let expected = "ktls-trace 0.1.0 on kernel 6.12: can't see everything\n  release: no hook\n\
                        1 stall is open\n  ?[?]  127.0.0.1:443 -> 127.0.0.1:5  corked-completed-record \
                        (proven), gate notsent-lowat, 16406 bytes held, as of 2026-06-03T17:19:22.000001Z\n    \
                        remedy: sysctl -w net.ipv4.tcp_notsent_lowat=131072\n";
        assert_eq!(told(&health, std::slice::from_ref(&event)), expected);
        let many = vec![event; LISTED + 3];
        assert!(told(&health, &many).ends_with("  and 3 more\n"));
    }
}
