//! The daemon with options for a collector.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use ktls_trace::{
    export::{
        Exports, Outlets,
        metrics::{Bounds, Metrics},
        otlp::Pushes,
    },
    kernel::namespaces::Which,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};

use super::{
    collector::{Collector, Kind, text},
    nobody,
};

/// How long something may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A run that asks `sock_diag` only.
struct Run {
    child: Child,
    folder: PathBuf,
}

impl Run {
    fn start(name: &str, config: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("ktls-trace-otlp-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("config.toml");
        fs::write(&file, config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
            .args(["run", "--no-bpf", "--format", "jsonl", "--output"])
            .arg(folder.join("events"))
            .arg("--config")
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn reload(&self, config: &str) {
        fs::write(self.folder.join("config.toml"), config).unwrap();
        self.signal(Signal::SIGHUP);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits until it has told an event of that name.
    fn tells(&self, name: &str) {
        let begun = Instant::now();
        while !self.events().contains(&format!("\"event\":\"{name}\"")) {
            assert!(begun.elapsed() < PATIENCE, "{}", self.events());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn events(&self) -> String {
        fs::read_to_string(self.folder.join("events")).unwrap_or_default()
    }

    /// Ends it; its events, and what it said.
    fn stop(self) -> (String, String) {
        self.signal(Signal::SIGTERM);
        let Self { child, folder } = self;
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let events = fs::read_to_string(folder.join("events")).unwrap();
        fs::remove_dir_all(folder).unwrap();
        (events, String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn metrics_are_pushed_while_a_run_goes_on_and_at_its_end() {
    let collector = Collector::start(Kind::Takes);
    let config = format!("otlp = \"{}\"\notlp-interval = \"1s\"\n", collector.base());
    let run = Run::start("metrics", &config);
    let pushed = collector.pushed(2);
    let (_, said) = run.stop();
    assert!(!said.contains("otlp"), "{said}");
    assert!(collector.pushed(3).len() >= 3, "none at the end");
    let resource = &pushed[0].resource.as_ref().unwrap().attributes;
    assert_eq!(text(resource, "service.name"), "ktls-trace");
    assert_eq!(
        text(resource, "service.instance.id"),
        fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap()
            .trim()
    );
    let metrics = &pushed[1].scope_metrics[0].metrics;
    let metric = |name: &str| {
        let found = metrics.iter().find(|metric| metric.name == name);
        found.and_then(|metric| metric.data.as_ref()).unwrap()
    };
    let Data::Gauge(degraded) = metric("ktls_trace_degraded") else {
        panic!("no gauge");
    };
    assert_eq!(degraded.data_points.len(), 1);
    let Data::Sum(lost) = metric("ktls_trace_lost_total") else {
        panic!("no counter");
    };
    let point = &lost.data_points[0];
    assert!(lost.is_monotonic && point.start_time_unix_nano < point.time_unix_nano);
    assert!(matches!(
        metric("ktls_trace_held_seconds"),
        Data::Histogram(_)
    ));
}

#[test]
fn pushes_that_nobody_takes_are_counted_and_the_run_goes_on() {
    let config = format!("otlp = \"{}\"\notlp-interval = \"1s\"\n", nobody());
    let run = Run::start("nobody", &config);
    run.tells("started");
    std::thread::sleep(Duration::from_millis(2500));
    let begun = Instant::now();
    let (events, said) = run.stop();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(said.matches("otlp-metrics: ").count(), 1, "{said}");
    let last: serde_json::Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "stopped");
    let lost = last["lost"]["otlp-metrics"].as_u64().unwrap();
    assert!((2..=4).contains(&lost), "{last}");
}

#[test]
fn a_reload_sends_metrics_elsewhere_from_then_on() {
    let (one, two) = (Collector::start(Kind::Takes), Collector::start(Kind::Takes));
    let config = |collector: &Collector| {
        format!(
            "otlp-metrics = \"{}/v1/metrics\"\notlp-interval = \"1s\"\n",
            collector.base()
        )
    };
    let run = Run::start("reload", &config(&one));
    one.pushed(1);
    run.reload(&config(&two));
    run.tells("reloaded");
    two.pushed(1);
    let so_far = one.requests();
    two.pushed(3);
    // Once more at most, when it was told to go.
    assert!(one.requests() <= so_far + 1);
    run.reload("otlp = \"https://collector\"\n");
    two.pushed(two.requests() + 1);
    let (events, said) = run.stop();
    assert!(said.contains("https is not spoken"), "{said}");
    assert_eq!(events.matches("\"reloaded\"").count(), 1, "{events}");
}

#[test]
fn a_run_that_is_gone_is_not_waited_for() {
    let asking = Exports::default().asking();
    let bounds = Bounds {
        netns: Which::Own,
        most_processes: 0,
    };
    let metrics = Arc::new(Metrics::new("6.12.0", bounds));
    let collector = Collector::start(Kind::Takes);
    let url = format!("{}/v1/metrics", collector.base());
    let every = Duration::from_secs(1);
    let pushes = Pushes::to(url.parse().unwrap(), every, metrics, asking).unwrap();
    let outlets = Outlets::start(vec![Box::new(pushes)]).unwrap();
    let pushed = collector.pushed(1);
    assert_eq!(outlets.end(), []);
    let metrics = &pushed[0].scope_metrics[0].metrics;
    let degraded = |metric: &Metric| metric.name == "ktls_trace_degraded";
    assert!(metrics.iter().any(degraded));
}
