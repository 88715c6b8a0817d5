//! What SIGHUP does to a run: options are read again, and what is wrong changes nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// How long something may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A run with a configuration file in a folder of its own.
struct Run {
    child: Child,
    /// What it says.
    stderr: Lines<BufReader<ChildStderr>>,
    folder: PathBuf,
}

impl Run {
    fn start(name: &str, config: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("ktls-trace-reload-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("config.toml");
        fs::write(&file, config.replace("FOLDER", &folder.to_string_lossy())).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
            .args(["run", "--no-bpf", "--config"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut run = Self {
            child,
            stderr,
            folder,
        };
        run.hears("watching");
        run
    }

    /// Reads what it says up to a line with these words.
    fn hears(&mut self, words: &str) -> String {
        let mut lines = self.stderr.by_ref().map(|line| line.expect("UTF-8"));
        lines
            .find(|line| line.contains(words))
            .unwrap_or_else(|| panic!("it ended without saying {words:?}"))
    }

    /// Has it read this configuration.
    fn reload(&self, config: &str) {
        let config = config.replace("FOLDER", &self.folder.to_string_lossy());
        fs::write(self.folder.join("config.toml"), config).expect("a file");
        self.signal(Signal::SIGHUP);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it runs");
    }

    /// Waits until a file of its folder has so many events; these.
    fn events(&self, file: &str, number: usize) -> Vec<Value> {
        let path = self.folder.join(file);
        let begun = Instant::now();
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let events: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            if events.len() >= number {
                return events;
            }
            assert!(begun.elapsed() < PATIENCE, "{file}: {text}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it.
    fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().expect("it ends").success());
        fs::remove_dir_all(&self.folder).expect("it was there");
    }
}

/// What is told of an option that has changed.
fn changed(option: &str, was: &[&str], is: &[&str]) -> Value {
    json!({"option": option, "was": was, "is": is})
}

#[test]
fn thresholds_and_filters_change_and_the_rest_is_named() {
    let run = Run::start(
        "filters",
        "output = \"FOLDER/events\"\nformat = \"jsonl\"\nport = 443\n",
    );
    assert_eq!(run.events("events", 1)[0]["event"], "started");
    run.reload(
        "output = \"FOLDER/events\"\nformat = \"jsonl\"\nthreshold = \"5ms\"\nprobes = \"light\"\n",
    );
    let told = &run.events("events", 2)[1];
    assert_eq!(told["event"], "reloaded");
    let port = changed("port", &["443"], &[]);
    let threshold = changed("threshold", &["20ms"], &["5ms"]);
    assert_eq!(told["changed"], json!([port, threshold]));
    assert_eq!(told["needs_restart"], json!(["probes"]));
    // Once more changes nothing, and is not told.
    run.signal(Signal::SIGHUP);
    run.signal(Signal::SIGTERM);
    let events = run.events("events", 3);
    assert_eq!(events[2]["event"], "stopped");
    assert_eq!(events.len(), 3);
    run.stop();
}

#[test]
fn what_is_wrong_is_named_and_everything_stays_as_it_was() {
    let good = "output = \"FOLDER/events\"\nformat = \"jsonl\"\n";
    let mut run = Run::start("wrong", good);
    run.reload(&format!("{good}treshold = \"5ms\"\n"));
    let said = run.hears("going on as before");
    assert!(
        said.contains("config.toml:3:1: no option `treshold`"),
        "{said}"
    );
    run.reload(&format!("{good}threshold = \"soon\"\n"));
    assert!(run.hears("going on as before").contains(":3:13: "));
    // Wrong only together with the command line.
    run.reload(&format!("{good}pid = 1\n"));
    assert!(run.hears("going on as before").contains("--no-bpf"));
    // An output that can't be opened, and a port that is taken: nothing of it counts.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    run.reload("output = \"/nonexistent/events\"\nformat = \"jsonl\"\nthreshold = \"5ms\"\n");
    assert!(
        run.hears("going on as before")
            .contains("/nonexistent/events")
    );
    run.reload(&format!(
        "output = \"FOLDER/others\"\nformat = \"jsonl\"\nmetrics-listen = [\"{address}\"]\n"
    ));
    assert!(
        run.hears("going on as before")
            .contains(&address.to_string())
    );
    fs::remove_file(run.folder.join("config.toml")).unwrap();
    run.signal(Signal::SIGHUP);
    assert!(run.hears("going on as before").contains("config.toml"));
    run.signal(Signal::SIGTERM);
    let names: Vec<_> = run
        .events("events", 2)
        .into_iter()
        .map(|event| event["event"].clone())
        .collect();
    assert_eq!(names, ["started", "stopped"]);
    run.stop();
}

#[test]
fn events_go_to_another_file_from_then_on() {
    let run = Run::start("output", "output = \"FOLDER/one\"\nformat = \"jsonl\"\n");
    run.events("one", 1);
    run.reload("output = \"FOLDER/two\"\nformat = \"jsonl\"\n");
    assert_eq!(run.events("two", 1)[0]["event"], "reloaded");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.events("two", 2)[1]["event"], "stopped");
    assert_eq!(run.events("one", 1).len(), 1);
    run.stop();
}

#[test]
fn metrics_are_served_elsewhere_from_then_on() {
    let free = || {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let (one, two) = (free(), free());
    let config = |addresses: &[String]| {
        format!("output = \"FOLDER/events\"\nformat = \"jsonl\"\nmetrics-listen = {addresses:?}\n")
    };
    let run = Run::start("metrics", &config(&[one.to_string()]));
    drop(TcpStream::connect(one).unwrap());
    let unix = format!("unix:{}", run.folder.join("socket").display());
    run.reload(&config(&[two.to_string(), unix]));
    let begun = Instant::now();
    while TcpStream::connect(two).is_err() || TcpStream::connect(one).is_ok() {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(run.folder.join("socket").exists());
    run.reload(&config(&[]));
    while TcpStream::connect(two).is_ok() || run.folder.join("socket").exists() {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
    run.reload(&config(&[one.to_string()]));
    while TcpStream::connect(one).is_err() {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
    run.stop();
}
