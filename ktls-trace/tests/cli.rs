//! The command line on the machine that runs the tests, whatever its kernel offers.

use std::{
    process::{Command, Output},
    time::Duration,
};

/// Runs the binary and waits for it.
fn ktls_trace(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
        .args(arguments)
        .output()
        .expect("the binary runs")
}

/// The one line that it says when it can't do something.
fn only_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn an_output_that_cannot_be_written_is_named_and_nothing_is_begun() {
    let output = ktls_trace(&["run", "--output", "/nonexistent/events", "--duration", "1s"]);
    assert_eq!(output.status.code(), Some(2));
    let line = only_line(&output);
    assert!(line.contains("/nonexistent/events"), "{line}");
}

#[test]
fn bad_arguments_are_named() {
    for (arguments, named) in [
        (&["run", "--threshold", "0ms"][..], "0ms"),
        (&["run", "--threshold", "soon"], "soon"),
        (&["run", "--port", "70000"], "70000"),
        (&["run", "--no-bpf", "--pid", "1"], "--pid"),
        (&["repro", "--mode", "telepathy"], "telepathy"),
        (&["watch"], "watch"),
    ] {
        let output = ktls_trace(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(named), "{arguments:?}: {text}");
    }
}

#[test]
fn the_schema_is_json_and_names_every_event() {
    let output = ktls_trace(&["schema"]);
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = schema.to_string();
    for name in [
        "started",
        "stall-opened",
        "stall-updated",
        "stall-closed",
        "probes-changed",
        "lost",
        "stopped",
    ] {
        assert!(text.contains(&format!("\"{name}\"")), "{name}");
    }
}

#[test]
fn without_types_of_the_kernel_it_says_so_and_still_runs() {
    let output = ktls_trace(&[
        "run",
        "--btf",
        "/nonexistent",
        "--duration",
        "300ms",
        "--format",
        "jsonl",
    ]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // A machine without sock_diag has nothing to fall back to, and says that too.
    if output.status.code() == Some(2) {
        assert!(errors.contains("sock_diag"), "{errors}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.contains("watching"), "{errors}");
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["event"], "started");
    assert_eq!(lines[0]["mode"], "polling");
    assert!(
        lines[0]["cannot_see"][0]
            .as_str()
            .unwrap()
            .contains("/nonexistent/vmlinux")
    );
    assert_eq!(lines.last().unwrap()["event"], "stopped");
    assert!(
        lines.last().unwrap()["refused"].is_null(),
        "not known is null"
    );
}

#[test]
fn a_signal_ends_it_with_its_last_event_written() {
    let folder = std::env::temp_dir().join(format!("ktls-trace-cli-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let events = folder.join("events.jsonl");
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
        .args(["run", "--no-bpf", "--format", "jsonl", "--output"])
        .arg(&events)
        .spawn()
        .unwrap();
    let written = || std::fs::read_to_string(&events).unwrap_or_default();
    for _ in 0..100 {
        if written().contains("\"started\"") {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = daemon.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(written().ends_with('\n'));
    assert!(written().lines().last().unwrap().contains("\"stopped\""));
    std::fs::remove_dir_all(&folder).unwrap();
}
