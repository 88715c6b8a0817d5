//! What a run serves over HTTP, and that no client can hold it up.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use ktls_trace::{
    export::{
        Exports, Http, Listening,
        metrics::{Bounds, Metrics},
    },
    kernel::namespaces::Which,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A run that asks `sock_diag` only, with metrics at an address of its own.
struct Run {
    child: Child,
    /// As `HOST:PORT`, or the path of a socket.
    address: String,
}

impl Run {
    fn start(listen: &str) -> Self {
        let mut child = command(listen)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let address = stderr
            .lines()
            .find_map(|line| {
                let line = line.expect("UTF-8");
                let (_, address) = line.split_once(" events at ")?;
                let address = address
                    .strip_prefix("http://")
                    .or_else(|| address.strip_prefix("unix:"))?;
                Some(address.to_owned())
            })
            .expect("it says where it serves");
        Self { child, address }
    }

    /// Ends it.
    fn stop(mut self) {
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )
        .expect("it runs");
        assert!(self.child.wait().expect("it ends").success());
    }
}

fn command(listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ktls-trace"));
    command.args(["run", "--no-bpf", "--metrics-listen", listen]);
    command
}

/// A fresh folder.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ktls-trace-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Asks for a path; the head and the body of the answer.
fn get(mut stream: impl std::io::Read + std::io::Write, path: &str) -> (String, String) {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn metrics_are_served_as_open_metrics_and_health_as_json() {
    let run = Run::start("0");
    let ask = |path| get(TcpStream::connect(&run.address).unwrap(), path);
    let (head, body) = ask("/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
    assert!(body.contains("\nktls_trace_degraded 1\n"), "{body}");
    let (head, body) = ask("/healthz");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(health["status"], "degraded");
    assert!(
        health["cannot_see"][0]
            .as_str()
            .unwrap()
            .contains("--no-bpf")
    );
    let (head, _) = ask("/nothing");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    run.stop();
}

#[test]
fn who_listens_to_events_gets_those_that_were_before() {
    let run = Run::start("0");
    let mut stream = TcpStream::connect(&run.address).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let data = BufReader::new(stream)
        .lines()
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("data: ").map(str::to_owned))
        .unwrap();
    let event: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(event["event"], "started");
    run.stop();
}

#[test]
fn a_run_that_does_not_answer_is_said_to_be_stuck() {
    // Nobody answers these.
    let exports = Exports::default();
    let listening = Listening::on(&"0".parse().unwrap()).unwrap();
    let address = listening.address().to_string();
    let bounds = Bounds {
        netns: Which::Own,
        most_processes: 0,
    };
    let metrics = Arc::new(Metrics::new("6.12", bounds));
    let _http = Http::start(vec![listening], metrics, exports.asking()).unwrap();
    let ask = |path| {
        let address = address.strip_prefix("http://").unwrap();
        get(TcpStream::connect(address).unwrap(), path)
    };
    let (head, body) = ask("/healthz");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(body.contains("\"status\":\"stuck\""), "{body}");
    let (_, body) = ask("/metrics");
    assert!(body.contains("\nktls_trace_degraded 1\n"), "{body}");
}

#[test]
fn listeners_leave_room_for_who_asks() {
    let run = Run::start("0");
    let listen = || {
        let mut stream = TcpStream::connect(&run.address).unwrap();
        write!(stream, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut status = String::new();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut status)
            .unwrap();
        (stream, status)
    };
    let (mut listeners, statuses): (Vec<_>, Vec<_>) = (0..33).map(|_| listen()).unzip();
    let (refused, served) = statuses.split_last().unwrap();
    assert!(served.iter().all(|status| status.contains(" 200 ")));
    assert!(refused.contains(" 503 "), "{refused}");
    let (head, _) = get(TcpStream::connect(&run.address).unwrap(), "/healthz");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // One that goes makes room.
    drop(listeners.remove(0));
    let again = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(50));
        listen().1.contains(" 200 ")
    });
    assert!(again);
    run.stop();
}

#[test]
fn clients_that_never_read_or_never_ask_hold_nothing_up() {
    let run = Run::start("0");
    let mut idle = Vec::new();
    for requests in [0; 40].into_iter().chain([2000; 4]) {
        let mut stream = TcpStream::connect(&run.address).unwrap();
        // More answers than the kernel takes for a client that does not read them.
        for _ in 0..requests {
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        idle.push(stream);
    }
    let (_, body) = get(TcpStream::connect(&run.address).unwrap(), "/metrics");
    assert!(body.ends_with("# EOF\n"), "{body}");
    run.stop();
    drop(idle);
}

#[test]
fn an_address_that_is_taken_is_named_and_nothing_is_begun() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = command(&address).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(&address), "{text}");
    assert_eq!(text.matches("in use").count(), 1, "{text}");
}

#[test]
fn a_unix_socket_is_served_and_taken_away_at_the_end() {
    let folder = folder("unix");
    let path = folder.join("socket");
    // A run that was killed left this.
    drop(UnixListener::bind(&path).unwrap());
    let address = format!("unix:{}", path.display());
    let run = Run::start(&address);
    assert_eq!(Path::new(&run.address), path);
    let status = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
        .args(["status", &address])
        .output()
        .unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("can't see everything"), "{text}");
    assert!(text.ends_with("no stall is open\n"), "{text}");
    assert_eq!(status.status.code(), Some(1));
    let (head, _) = get(UnixStream::connect(&path).unwrap(), "/healthz");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // Another run does not take it away.
    let second = command(&format!("unix:{}", path.display()))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(2));
    run.stop();
    assert!(!path.exists());
    let status = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
        .args(["status", &address])
        .output()
        .unwrap();
    assert_eq!(status.status.code(), Some(2));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let folder = folder("file");
    let path = folder.join("file");
    fs::write(&path, "precious").unwrap();
    let output = command(&format!("unix:{}", path.display()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_dir_all(folder).unwrap();
}
