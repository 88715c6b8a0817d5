//! A real store of metrics that takes them by OTLP, if there is one: `cargo xtask test` fetches `VictoriaMetrics`, and what
//! evaluates the alert rules on it. Debian's Prometheus is built without its receiver.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, Sender, TryRecvError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ktls_trace::{
    correlate::{Output, event::Name},
    export::{
        Answer, Exports, Outlets, Report, Wish,
        metrics::{Bounds, Health, Live, Metrics},
        otlp::Pushes,
    },
    kernel::namespaces::Which,
};
use serde_json::Value;
use tokio::{sync::oneshot, time::timeout};

use super::{CORKED, recorded};

/// Variable with the folder of its programs.
const PROGRAMS: &str = "KTLS_TRACE_VICTORIA_METRICS";
/// How long something may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// What Prometheus makes of the resource by itself.
const RELABEL: &str = "- {source_labels: [service_name], target_label: job}
- {source_labels: [service_instance_id], target_label: instance}
";

/// The store, with our alert rules.
struct Store {
    children: Vec<Child>,
    /// Where it takes metrics, and is asked for them.
    metrics: SocketAddr,
    /// Where it tells of alerts.
    alerts: SocketAddr,
    folder: PathBuf,
}

/// An address that nobody has.
fn free() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

impl Store {
    fn start(programs: &Path) -> Self {
        let folder = env::temp_dir().join(format!("ktls-trace-store-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // As shipped, but for patience.
        let rules = include_str!("../../../packaging/prometheus/ktls-trace.rules.yml");
        fs::write(
            folder.join("rules.yml"),
            rules.replace("for: 1m", "for: 3s"),
        )
        .unwrap();
        fs::write(folder.join("relabel.yml"), RELABEL).unwrap();
        let mut store = Self {
            children: Vec::new(),
            metrics: free(),
            alerts: free(),
            folder,
        };
        let inside = |name: &str| store.folder.join(name).display().to_string();
        let of_store = [
            format!("-storageDataPath={}", inside("data")),
            format!("-relabelConfig={}", inside("relabel.yml")),
            format!("-httpListenAddr={}", store.metrics),
            "-opentelemetry.usePrometheusNaming".to_owned(),
            "-search.latencyOffset=0s".to_owned(),
            "-search.disableCache".to_owned(),
            "-search.minStalenessInterval=5m".to_owned(),
        ];
        let of_alerts = [
            format!("-rule={}", inside("rules.yml")),
            format!("-datasource.url=http://{}", store.metrics),
            format!("-httpListenAddr={}", store.alerts),
            "-evaluationInterval=1s".to_owned(),
            "-notifier.blackhole".to_owned(),
        ];
        for (program, arguments, address) in [
            ("victoria-metrics", &of_store[..], store.metrics),
            ("vmalert", &of_alerts, store.alerts),
        ] {
            let log = fs::File::create(store.folder.join(format!("{program}.log"))).unwrap();
            let child = Command::new(programs.join(program))
                .args(arguments)
                .stderr(log)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            store.children.push(child);
            store.until("it is there", |_| {
                get(address, "/health").is_some_and(|(status, _)| status == 200)
            });
        }
        store
    }

    /// The alerts that there are now.
    fn alerts(&self) -> Vec<Value> {
        let data = Self::api(self.alerts, "alerts");
        data["alerts"].as_array().cloned().unwrap_or_default()
    }

    /// What is said of something.
    fn api(address: SocketAddr, path: &str) -> Value {
        let (status, body) = get(address, &format!("/api/v1/{path}")).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["data"].clone()
    }

    /// The series that a selector finds now.
    fn series(&self, selector: &str) -> Vec<Value> {
        let plain = |letter: u8| letter.is_ascii_alphanumeric();
        let encoded: String = selector
            .bytes()
            .map(|letter| match letter {
                letter if plain(letter) => char::from(letter).to_string(),
                letter => format!("%{letter:02x}"),
            })
            .collect();
        let found = Self::api(self.metrics, &format!("query?query={encoded}"));
        found["result"].as_array().unwrap().clone()
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let log = |program: &str| {
                fs::read_to_string(self.folder.join(format!("{program}.log"))).unwrap_or_default()
            };
            let logs = || log("victoria-metrics") + &log("vmalert");
            assert!(
                begun.elapsed() < PATIENCE,
                "not in time: {what}\n{}",
                logs()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// The answer to a request, and its status.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A run that is told what to tell.
struct Run {
    tell: Sender<Output>,
    thread: JoinHandle<Vec<Report>>,
}

impl Run {
    fn start(url: String, metrics: Arc<Metrics>) -> Self {
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut exports = Exports::counting(Arc::clone(&metrics));
            let every = Duration::from_secs(1);
            let endpoint = url.parse().unwrap();
            let pushes = Pushes::to(endpoint, every, metrics, exports.asking()).unwrap();
            exports.outlets = Outlets::start(vec![Box::new(pushes)]).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            let mut reports = Vec::new();
            loop {
                match told.try_recv() {
                    Ok(Output::Event(event)) => exports.write(&event),
                    Ok(Output::HoldEnded(hold)) => exports.hold_ended(&hold),
                    Ok(Output::Poll(_) | Output::FindOwner { .. } | Output::Forget(_)) => {}
                    Err(TryRecvError::Disconnected) => break,
                    Err(TryRecvError::Empty) => {
                        let soon = Duration::from_millis(20);
                        let wish = async { timeout(soon, exports.wish()).await };
                        match runtime.block_on(wish) {
                            Ok(Wish::Asked(asked)) => {
                                let costs = oneshot::channel().1;
                                asked
                                    .send(Answer {
                                        live: live(),
                                        costs,
                                    })
                                    .unwrap();
                            }
                            Ok(Wish::Report(report)) => reports.push(report),
                            Err(_) => {}
                        }
                    }
                }
            }
            exports.patient(live());
            exports.outlets.flush();
            reports.extend(std::mem::take(&mut exports.outlets).end());
            reports
        });
        Self { tell, thread }
    }

    fn stop(self) -> Vec<Report> {
        drop(self.tell);
        self.thread.join().unwrap()
    }
}

/// How it is.
fn live() -> Live {
    Live {
        health: Health::Attached,
        hooks: vec![("tls_push_sg (return)".to_owned(), true)],
        counters: vec![Some(7); 16],
        suspects: 1,
        ..Live::default()
    }
}

/// The value of a series.
fn value(series: &Value) -> f64 {
    series["value"][1].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_store_has_the_series_that_it_would_have_scraped_and_the_alert_fires() {
    let Some(programs) = env::var_os(PROGRAMS).map(PathBuf::from) else {
        eprintln!("NOT TESTED: {PROGRAMS} names no folder with VictoriaMetrics");
        return;
    };
    let store = Store::start(&programs);
    let bounds = Bounds {
        netns: Which::Own,
        most_processes: 5,
    };
    let metrics = Arc::new(Metrics::new("6.12.0", bounds));
    let url = format!("http://{}/opentelemetry/v1/metrics", store.metrics);
    let run = Run::start(url, Arc::clone(&metrics));
    let outputs = recorded(CORKED);
    let is_end = |output: &Output| matches!(output, Output::Event(event) if event.event == Name::StallClosed);
    let end = outputs.iter().position(is_end).unwrap();
    for output in &outputs[..end] {
        run.tell.send(output.clone()).unwrap();
    }

    let stalled =
        r#"ktls_trace_stalled_sockets{verdict="corked-completed-record",gate="notsent-lowat"}"#;
    let count = |selector: &str| store.series(selector).first().map(value);
    store.until("the stall is there", |_| count(stalled) == Some(1.0));
    let series = &store.series(stalled)[0]["metric"];
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(series["instance"], host.trim());
    assert_eq!(series["job"], "ktls-trace");
    store.until("the alert fires", |this| {
        this.alerts().iter().any(|alert| {
            let labels = &alert["labels"];
            alert["state"] == "firing"
                && labels["alertname"] == "KtlsRecordsCorked"
                && labels["gate"] == "notsent-lowat"
                && labels["instance"] == host.trim()
        })
    });

    run.tell.send(outputs[end].clone()).unwrap();
    store.until("the stall is over", |_| count(stalled) == Some(0.0));
    let closed = stalled.replace("stalled_sockets", "stalls_closed_total");
    store.until("its end is counted", |_| count(&closed) == Some(1.0));
    let reports = run.stop();
    assert_eq!(reports, [], "something is refused");

    // Every name that is served, and no other.
    let text = metrics.text(live()).unwrap();
    let served: BTreeSet<String> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect();
    let pushed = |store: &Store| -> BTreeSet<String> {
        store
            .series(r#"group by (__name__) ({__name__=~"ktls_.*"})"#)
            .iter()
            .map(|series| series["metric"]["__name__"].as_str().unwrap().to_owned())
            .collect()
    };
    // A series that is new is shown a moment later.
    store.until("all is there", |this| pushed(this).is_superset(&served));
    assert_eq!(pushed(&store), served);
    let held = r#"ktls_trace_held_seconds_bucket{le="+Inf"}"#;
    assert_eq!(count(held), count("ktls_trace_held_seconds_count"));
    assert!(count(held).unwrap() > 10.0);
}
