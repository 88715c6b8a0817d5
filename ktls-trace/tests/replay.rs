//! `run --record` and `replay` on the command line, on the machine that runs the tests.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};

/// A folder of a test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("ktls-trace-replay-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("it is removed");
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ktls-trace"));
    command.args(arguments);
    command
}

fn ktls_trace(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary runs")
}

/// The one line that it says when it can't do something.
fn only_line(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

/// Records a short run; its events, as JSON Lines. `None` on a machine on which nothing can be observed.
fn record(recording: &str, further: &[&str]) -> Option<String> {
    let fixed = [
        "run", "--no-bpf", "--format", "jsonl", "--record", recording,
    ];
    let output = ktls_trace(&[&fixed, further].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(2) && errors.contains("sock_diag") {
        eprintln!("NOT TESTED: this machine has no sock_diag");
        return None;
    }
    assert_eq!(output.status.code(), Some(0), "{errors}");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn a_run_replays_byte_for_byte_in_both_forms() {
    let folder = Folder::new("same");
    let recording = folder.file("run.ktrace");
    let Some(events) = record(&recording, &["--duration", "600ms"]) else {
        return;
    };
    assert!(events.lines().count() >= 2, "{events}");
    let replayed = ktls_trace(&["replay", &recording, "--format", "jsonl"]);
    assert!(replayed.status.success());
    assert_eq!(String::from_utf8(replayed.stdout).unwrap(), events);
    assert!(replayed.stderr.is_empty());

    let text = ktls_trace(&["replay", &recording]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("START ") && text.contains("STOP "), "{text}");

    // To a file, twice: the second replaces the first.
    let again = folder.file("again.jsonl");
    for _ in 0..2 {
        let arguments = [
            "replay", &recording, "--format", "jsonl", "--output", &again,
        ];
        assert!(ktls_trace(&arguments).status.success());
        assert_eq!(fs::read_to_string(&again).unwrap(), events);
    }
}

/// One that was made in a guest.
const OF_A_GUEST: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../xtask/recordings/6.12/lowat-16384.ktrace"
);

#[test]
fn a_report_is_a_page_of_what_was_stalled() {
    let folder = Folder::new("report");
    let page = folder.file("page.html");
    let output = ktls_trace(&["report", OF_A_GUEST, "--output", &page]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let page = fs::read_to_string(&page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"));
    for word in [
        "corked-completed-record",
        "notsent-lowat",
        "remedy",
        "Kernel 6.12",
    ] {
        assert!(page.contains(word), "{word}");
    }
    // Nothing is fetched from anywhere.
    assert!(!page.contains("http") && !page.contains("<script"));

    let output = ktls_trace(&["report", OF_A_GUEST]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), page);
}

#[test]
fn a_report_of_what_is_no_whole_recording_is_one_clear_error() {
    let folder = Folder::new("report-cut");
    let (cut, page) = (folder.file("cut.ktrace"), folder.file("page.html"));
    let whole = fs::read(OF_A_GUEST).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let line = only_line(&ktls_trace(&["report", &cut, "--output", &page]));
    assert!(line.contains("cut.ktrace"), "{line}");
    assert!(!Path::new(&page).exists(), "there is nothing to be on it");

    fs::write(&cut, &whole).unwrap();
    let line = only_line(&ktls_trace(&["report", &cut, "--output", &cut]));
    assert!(line.contains("is the recording itself"), "{line}");
    assert_eq!(fs::read(&cut).unwrap(), whole);
}

#[test]
fn a_recording_says_what_made_it_of_which_kernel() {
    let folder = Folder::new("header");
    let recording = folder.file("run.ktrace");
    if record(&recording, &["--duration", "100ms", "--anonymize"]).is_none() {
        return;
    }
    let bytes = fs::read(&recording).unwrap();
    let mut text = String::new();
    MultiGzDecoder::new(bytes.as_slice())
        .read_to_string(&mut text)
        .unwrap();
    let header: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(header["recording"], "ktls-trace-recording");
    assert_eq!(header["version"], 2);
    assert_eq!(header["anonymized"], true);
    assert_eq!(header["config"]["threshold_ns"], 20_000_000);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(header["kernel"]["release"], release.trim());
    let observed: Vec<_> = header["kernel"]["plan"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["observable"].as_str().unwrap())
        .collect();
    assert!(observed.contains(&"held bytes leave"), "{observed:?}");
}

#[test]
fn a_recording_survives_sigkill_as_far_as_it_got() {
    let folder = Folder::new("killed");
    let recording = folder.file("run.ktrace");
    let mut daemon = command(&[
        "run", "--no-bpf", "--format", "jsonl", "--record", &recording,
    ])
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    // The first line is written at once, what follows after a second.
    let length = || fs::metadata(&recording).map_or(0, |file| file.len());
    let wait = |wanted: &dyn Fn(u64) -> bool, daemon: &mut std::process::Child| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !wanted(length()) {
            if daemon.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "nothing is written");
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    };
    if !wait(&|length| length > 0, &mut daemon) {
        eprintln!("NOT TESTED: nothing can be observed on this machine");
        return;
    }
    let first = length();
    assert!(wait(&|length| length > first, &mut daemon));
    daemon.kill().unwrap();
    assert_eq!(daemon.wait().unwrap().signal(), Some(9));
    let replayed = ktls_trace(&["replay", &recording, "--format", "jsonl"]);
    assert!(only_line(&replayed).contains("is cut short after"));
    let events = String::from_utf8(replayed.stdout).unwrap();
    assert!(events.contains("\"event\":\"started\"") && !events.contains("\"stopped\""));
}

#[test]
fn a_full_disk_ends_the_recording_with_one_line_and_is_counted() {
    let output = ktls_trace(&[
        "run",
        "--no-bpf",
        "--format",
        "jsonl",
        "--record",
        "/dev/full",
        "--duration",
        "2s",
    ]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(2) && errors.contains("sock_diag") {
        eprintln!("NOT TESTED: this machine has no sock_diag");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let about_it = errors.lines().filter(|line| line.contains("/dev/full"));
    assert_eq!(about_it.count(), 1, "{errors}");
    let events = String::from_utf8(output.stdout).unwrap();
    let lost = events
        .lines()
        .filter(|line| line.contains("\"place\":\"recording\""));
    assert_eq!(lost.count(), 1, "{events}");
    let last = events.lines().last().unwrap();
    assert!(
        last.contains("\"stopped\"") && last.contains("\"recording\":"),
        "{last}"
    );
}

#[test]
fn what_cannot_be_recorded_to_is_named_and_nothing_is_begun() {
    let folder = Folder::new("refused");
    let there = folder.file("there");
    fs::write(&there, "something").unwrap();
    let events = folder.file("events");
    for path in [
        "/nonexistent/run.ktrace",
        &there,
        folder.0.to_str().unwrap(),
    ] {
        let output = ktls_trace(&["run", "--record", path, "--output", &events]);
        assert!(only_line(&output).contains(path));
        assert!(!Path::new(&events).exists());
    }
    assert_eq!(fs::read_to_string(&there).unwrap(), "something");
    let output = ktls_trace(&["run", "--anonymize", "--duration", "1s"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--record"));
}

fn packed(lines: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(lines.as_bytes())
        .expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[test]
fn what_cannot_be_replayed_is_one_clear_line() {
    let folder = Folder::new("broken");
    let whole = packed(
        "{\"recording\":\"ktls-trace-recording\",\"version\":1,\"made_by\":\"0.1.0\",\"config\":{},\"kernel\":{}}\n\
         {\"told\":{\"unix_ns\":1,\"what\":{\"lost\":{\"place\":\"x\",\"count\":1,\"total\":1}}}}\n\
         {\"end\":{\"entries\":1,\"full\":false}}\n",
    );
    let mut bent = whole.clone();
    bent[40] ^= 4;
    let later =
        packed("{\"recording\":\"ktls-trace-recording\",\"version\":3,\"made_by\":\"4.5.6\"}\n");
    for (bytes, said) in [
        (b"0123".to_vec(), "is not a recording"),
        (Vec::new(), "is not a recording"),
        (packed("{}\n"), "is not a recording"),
        (whole[..whole.len() - 9].to_vec(), "is cut short"),
        (bent, "is damaged"),
        (later, "made by ktls-trace 4.5.6; this is ktls-trace"),
    ] {
        let path = folder.file("recording");
        fs::write(&path, bytes).unwrap();
        let line = only_line(&ktls_trace(&["replay", &path]));
        assert!(line.contains(said) && line.contains(&path), "{line}");
    }
    let path = folder.file("recording");
    fs::write(&path, &whole).unwrap();
    assert!(ktls_trace(&["replay", &path]).status.success());
    let line = only_line(&ktls_trace(&["replay", &path, "--output", &path]));
    assert!(line.contains("the recording itself"), "{line}");
    assert_eq!(fs::read(&path).unwrap(), whole);
    let line = only_line(&ktls_trace(&["replay", &path, "--output", "/dev/full"]));
    assert!(line.contains("/dev/full"), "{line}");
    let line = only_line(&ktls_trace(&["replay", "/nonexistent/recording"]));
    assert!(line.contains("/nonexistent/recording"), "{line}");
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let folder = Folder::new("pipe");
    let told = "{\"told\":{\"unix_ns\":1,\"what\":{\"lost\":{\"place\":\"x\",\"count\":1,\"total\":1}}}}\n";
    let head = "{\"recording\":\"ktls-trace-recording\",\"version\":1,\"made_by\":\"0\",\"config\":{},\"kernel\":{}}\n";
    let path = folder.file("recording");
    // More than a pipe holds, and cut short: neither is said to somebody who went away.
    fs::write(&path, packed(&format!("{head}{}", told.repeat(5000)))).unwrap();
    let mut replay = command(&["replay", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(replay.stdout.take());
    let output = replay.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
