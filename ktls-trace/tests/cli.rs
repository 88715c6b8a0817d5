//! The command line on the machine that runs the tests, whatever its kernel offers.

use std::{
    fs::File,
    io::Read as _,
    process::{Command, Output, Stdio},
    time::Duration,
};

use nix::pty::openpty;

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
fn a_run_whose_diagnostics_nobody_reads_goes_on_to_its_end() {
    let mut run = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
        .args([
            "run",
            "--no-bpf",
            "--format",
            "jsonl",
            "--duration",
            "500ms",
        ])
        .env("RUST_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(run.stderr.take());
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{:?}", output.status);
    let events = String::from_utf8(output.stdout).expect("UTF-8");
    let last = events.lines().last().unwrap_or_default();
    assert!(last.contains("\"event\":\"stopped\""), "{events}");
}

/// What a run writes to a terminal.
fn on_a_terminal(no_color: &str) -> String {
    let terminal = openpty(None, None).expect("a terminal");
    let mut run = Command::new(env!("CARGO_BIN_EXE_ktls-trace"));
    run.args(["run", "--no-bpf", "--duration", "100ms"])
        .env("NO_COLOR", no_color)
        .stdout(terminal.slave)
        .stderr(Stdio::null());
    assert!(run.status().expect("the binary runs").success());
    // It has the other end, too.
    drop(run);
    let mut text = Vec::new();
    // EIO is how a terminal says that nobody writes any more.
    let _end = File::from(terminal.master).read_to_end(&mut text);
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn events_have_colours_on_a_terminal_alone_and_not_if_they_are_unwanted() {
    let text = on_a_terminal("");
    assert!(text.contains("\u{1b}[") && text.contains("START"), "{text}");
    let text = on_a_terminal("1");
    assert!(!text.contains('\u{1b}') && text.contains("START"), "{text}");
    let piped = ktls_trace(&["run", "--no-bpf", "--duration", "100ms"]);
    assert!(!piped.stdout.contains(&0x1b));
}

#[test]
fn bad_arguments_are_named() {
    for (arguments, named) in [
        (&["run", "--threshold", "0ms"][..], "0ms"),
        (&["run", "--threshold", "soon"], "soon"),
        (&["run", "--port", "70000"], "70000"),
        (&["run", "--no-bpf", "--pid", "1"], "--pid"),
        (&["repro", "--mode", "telepathy"], "telepathy"),
        (&["confirm", "--mss", "5"], "--mss"),
        (&["confirm", "--duration", "1ms"], "1ms"),
        (&["confirm", "true"], "true"),
        (&["watch"], "watch"),
        (&["snapshot", "--interval", "soon"], "soon"),
        (&["snapshot", "--interval", "2h"], "2h"),
        (&["snapshot", "--port", "0"], "0"),
        (&["snapshot", "--netns", ""], "--netns"),
        (&["schema", "everything"], "everything"),
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
        "reloaded",
        "lost",
        "stopped",
    ] {
        assert!(text.contains(&format!("\"{name}\"")), "{name}");
    }
}

#[test]
fn the_schema_of_a_snapshot_describes_every_field() {
    let output = ktls_trace(&["schema", "snapshot"]);
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_described(&schema, "");
    let text = schema.to_string();
    for name in ["sockets", "rwnd_limited", "candidates", "cannot_see"] {
        assert!(text.contains(&format!("\"{name}\"")), "{name}");
    }
}

/// Every property below has a description.
fn assert_described(schema: &serde_json::Value, at: &str) {
    let serde_json::Value::Object(members) = schema else {
        return;
    };
    for (name, member) in members {
        let below = format!("{at}/{name}");
        if name == "properties" {
            for (property, described) in member.as_object().into_iter().flatten() {
                assert!(described["description"].is_string(), "{below}/{property}");
            }
        }
        assert_described(member, &below);
    }
}

#[test]
fn a_namespace_that_cannot_be_entered_is_named() {
    for file in ["/nonexistent/netns", "/proc/self/status"] {
        let output = ktls_trace(&["snapshot", "--netns", file]);
        assert_eq!(output.status.code(), Some(2), "{file}");
        assert!(output.stdout.is_empty());
        let line = only_line(&output);
        assert!(line.contains(file), "{line}");
    }
}

#[test]
fn a_snapshot_of_a_host_without_ktls_says_so_or_why_it_cannot() {
    for arguments in [
        &["snapshot", "--interval", "0s", "--json"][..],
        &["snapshot", "--interval", "50ms", "--netns", "self"],
        &["snapshot", "--interval", "0s", "--port", "1"],
    ] {
        let output = ktls_trace(arguments);
        // A machine without sock_diag can't be asked.
        if output.status.code() == Some(2) {
            let line = only_line(&output);
            assert!(line.contains("sock"), "{line}");
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        if arguments.contains(&"--json") {
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["event"], "snapshot");
            assert!(json["interval_ms"].is_null(), "one pass has no interval");
            assert_eq!(json["namespaces"][0]["own"], true);
        } else {
            assert!(text.contains("kTLS socket"), "{text}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure_of_a_snapshot() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
        .args(["snapshot", "--interval", "300ms", "--netns", "self"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(2) {
        let line = only_line(&output);
        assert!(line.contains("sock"), "{line}");
    } else {
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
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

#[test]
fn the_findings_of_confirm_have_a_schema_too() {
    let output = ktls_trace(&["schema", "confirm"]);
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = schema.to_string();
    for name in [
        "broken_at",
        "flag-reaches-tcp",
        "could-not-tell",
        "small-mss",
    ] {
        assert!(text.contains(&format!("\"{name}\"")), "{name} is missing");
    }
}

/// The threshold that a run goes by, in milliseconds.
fn threshold_of(mut command: Command) -> f64 {
    let output = command
        .args(["--no-bpf", "--duration", "1ms", "--format", "jsonl"])
        .output()
        .expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let started: serde_json::Value =
        serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    started["threshold_ms"].as_f64().expect("a number")
}

#[test]
fn the_command_line_counts_for_more_than_the_environment_and_that_for_more_than_the_file() {
    let file = std::env::temp_dir().join(format!("ktls-trace-layers-{}", std::process::id()));
    std::fs::write(&file, "threshold = \"30ms\"\n").unwrap();
    let run = |environment: Option<&str>, flag: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ktls-trace"));
        command.arg("run").arg("--config").arg(&file);
        command.env_remove("KTLS_TRACE_THRESHOLD");
        command.envs(environment.map(|value| ("KTLS_TRACE_THRESHOLD", value)));
        command.args(flag.into_iter().flat_map(|value| ["--threshold", value]));
        threshold_of(command)
    };
    let layers = [
        run(None, None),
        run(Some("40ms"), None),
        run(Some("40ms"), Some("50ms")),
    ];
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        layers.map(f64::to_bits),
        [30.0, 40.0, 50.0].map(f64::to_bits)
    );
}

#[test]
fn a_file_that_is_wrong_is_named_with_line_and_column_by_run_and_by_check() {
    let file = std::env::temp_dir().join(format!("ktls-trace-wrong-{}", std::process::id()));
    std::fs::write(&file, "# fine\nthreshold = \"soon\"\n").unwrap();
    let path = file.to_str().unwrap();
    for arguments in [
        &["run", "--config", path, "--no-bpf"][..],
        &["config", "check", path],
    ] {
        let output = ktls_trace(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let line = only_line(&output);
        assert!(line.contains(&format!("{path}:2:13: ")), "{line}");
    }
    std::fs::write(&file, "metrics-processes = 5\n").unwrap();
    let output = ktls_trace(&["config", "check", path]);
    assert_eq!(output.status.code(), Some(2), "it needs another option");
    assert!(only_line(&output).contains("--metrics-listen"));
    std::fs::write(&file, "no-bpf = true\npid = 1\n").unwrap();
    let output = ktls_trace(&["config", "check", path]);
    assert_eq!(output.status.code(), Some(2), "`run` refuses them together");
    assert!(only_line(&output).contains("--pid needs the hooks"));
    std::fs::write(&file, "metrics-listen = \"9190\"\n").unwrap();
    assert!(ktls_trace(&["config", "check", path]).status.success());
    std::fs::remove_file(&file).unwrap();
}

/// A binary has the options or not, but what it does with them is said in one place each.
#[test]
fn an_endpoint_that_can_not_be_used_is_named_wherever_it_comes_from() {
    let (url, why) = if cfg!(feature = "otlp") {
        ("https://collector:4318", "https is not spoken")
    } else {
        ("http://collector:4318", "without the feature otlp")
    };
    let file = std::env::temp_dir().join(format!("ktls-trace-otlp-{}", std::process::id()));
    let path = file.to_str().unwrap();
    for option in ["otlp", "otlp-traces", "otlp-metrics"] {
        let output = ktls_trace(&["run", &format!("--{option}"), url]);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        let line = text.lines().next().unwrap();
        assert!(
            line.contains(&format!("--{option} ")) && line.contains(why),
            "{text}"
        );

        std::fs::write(&file, format!("# fine\n{option} = \"{url}\"\n")).unwrap();
        let output = ktls_trace(&["config", "check", path]);
        assert_eq!(output.status.code(), Some(2));
        let line = only_line(&output);
        assert!(
            line.contains(&format!("{path}:2:")) && line.contains(why),
            "{line}"
        );
    }
    std::fs::remove_file(&file).unwrap();
    // What says how often is nothing without where to.
    let output = ktls_trace(&["run", "--otlp-interval", "5s"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--otlp-metrics <URL>"), "{text}");
}

#[test]
fn manual_pages_and_completions_are_of_this_command_line() {
    let page = ktls_trace(&["man"]);
    assert!(page.status.success());
    assert!(String::from_utf8_lossy(&page.stdout).contains("ktls\\-trace"));
    for shell in ["bash", "zsh", "fish"] {
        let script = ktls_trace(&["completions", shell]);
        assert!(script.status.success(), "{shell}");
        let text = String::from_utf8_lossy(&script.stdout).into_owned();
        assert!(text.contains("metrics-listen"), "{shell}");
    }
}
