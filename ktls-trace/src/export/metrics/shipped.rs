//! What is shipped for Prometheus and Grafana, and what `docs/operations.md` tells, held against what is served by a daemon
//! that has something of everything to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ktls_trace_common::counter;

use super::{tls_stat::TlsStat, *};
use crate::{correlate::tests::stall_event, probe::Cost};

/// What is served, for those who have no daemon with stalls at hand: `cargo xtask test` runs the dashboard's queries on it.
const FIXTURE: &str = "ktls-trace/tests/fixtures/metrics.txt";
/// Variable that has the fixture written anew.
const WRITE: &str = "KTLS_TRACE_WRITE_FIXTURES";

const VERDICTS: [Verdict; 10] = [
    Verdict::CorkedCompletedRecord,
    Verdict::ZeroWindow,
    Verdict::ReceiverLimited,
    Verdict::NetworkLimited,
    Verdict::SendBufferLimited,
    Verdict::ApplicationCork,
    Verdict::Nagle,
    Verdict::OpenRecord,
    Verdict::EncryptionPending,
    Verdict::Unknown,
];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(file: &str) -> String {
    let path: PathBuf = workspace().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Metrics of a daemon that has seen everything at least once.
fn everything() -> String {
    let bounds = Bounds {
        netns: Which::Own,
        most_processes: 2,
    };
    let metrics = Metrics::new("6.12.0", bounds);
    for verdict in VERDICTS {
        let name = name_of(&verdict).unwrap();
        let gates = match verdict {
            Verdict::CorkedCompletedRecord => GATES.as_slice(),
            _ => &[None],
        };
        for (number, &gate) in gates.iter().enumerate() {
            let event = |event, stall: &str| {
                let stall = format!("{name} {number} {stall}");
                let mut event = stall_event(event, &stall, verdict, gate);
                if let Body::Stall(stall) = &mut event.body {
                    stall.process.as_mut().unwrap().comm = Some("nginx".to_owned());
                }
                metrics.event(&event);
            };
            event(Name::StallOpened, "over");
            event(Name::StallClosed, "over");
            event(Name::StallOpened, "open");
        }
    }
    for (path, duration_ms) in PATHS.into_iter().zip([41, 208, 3, 12, 60, 900, 41]) {
        metrics.hold_ended(&HoldEnded {
            stall: "a".to_owned(),
            after_ns: 0,
            verdict: Verdict::CorkedCompletedRecord,
            path,
            duration_ns: duration_ms * 1_000_000,
            bytes: Some(16_406),
            records: Some(1),
        });
    }
    let hooks = ["sk_stream_wait_memory", "tls_push_sg"];
    let tls_stat = [
        "TlsCurrTxSw",
        "TlsCurrRxSw",
        "TlsTxSw",
        "TlsRxSw",
        "TlsTxDevice",
        "TlsDecryptError",
        "TlsRxNoPadViolation",
    ];
    let now = Now {
        live: Live {
            health: Health::Attached,
            cannot_see: Vec::new(),
            hooks: hooks.map(|hook| (hook.to_owned(), true)).to_vec(),
            counters: (0..counter::SLOTS)
                .map(|slot| Some(counted(slot)))
                .collect(),
            suspects: 3,
            lost: vec![("ring-buffer".to_owned(), 5)],
            costs: hooks
                .map(|hook| Cost {
                    hook: hook.to_owned(),
                    runs: 1000,
                    time: Duration::from_micros(500),
                    misses: 0,
                })
                .to_vec(),
        },
        tls_stat: vec![TlsStat {
            netns: 4_026_531_840,
            counters: tls_stat.map(|name| (name.to_owned(), 4)).to_vec(),
        }],
    };
    in_order(&metrics.text_at(now).unwrap())
}

/// What the programs have counted, in a plausible proportion.
fn counted(slot: u32) -> u64 {
    match slot {
        counter::RECORDS => 400,
        counter::RECORDS_MORE => 380,
        counter::REFUSED => 30,
        counter::BACK_PRESSURE => 20,
        counter::PERSIST_FIRED => 3,
        counter::ZERO_WINDOW_PROBE => 1,
        counter::RETRANSMIT_TIMEOUT => 2,
        _ => 0,
    }
}

/// With the series of a metric in alphabetical order, but for buckets: which comes first is not promised.
fn in_order(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    for block in lines.chunk_by_mut(|one, other| one.starts_with('#') == other.starts_with('#')) {
        let histogram = block.iter().any(|line| line.contains("_bucket{"));
        if !histogram && !block[0].starts_with('#') {
            block.sort_unstable();
        }
    }
    lines.join("\n") + "\n"
}

/// The names of samples, each with the names of its labels.
fn samples(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut samples: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split("\",");
        let known = samples.entry(name.to_owned()).or_default();
        known.extend(labels.filter_map(|label| Some(label.split_once("=\"")?.0.to_owned())));
    }
    samples
}

/// The names of metrics that a text speaks of, each with what follows it.
fn spoken_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("ktls_trace_").map(|(start, _)| {
        let from = &text[start..];
        let end = from.find(|letter: char| letter != '_' && !letter.is_ascii_lowercase());
        from.split_at(end.unwrap_or(from.len()))
    })
}

#[test]
fn the_fixture_is_what_is_served() {
    let served = everything();
    if env::var_os(WRITE).is_some() {
        fs::write(workspace().join(FIXTURE), &served).unwrap();
    }
    assert!(
        served == read(FIXTURE),
        "{FIXTURE} is not what is served, which {WRITE}=1 makes it:\n{served}"
    );
}

#[test]
fn rules_and_dashboard_ask_for_nothing_that_is_not_served() {
    let served = samples(&everything());
    for file in [
        "packaging/grafana/ktls-trace.json",
        "packaging/prometheus/ktls-trace.rules.yml",
        "packaging/prometheus/ktls-trace.tests.yml",
    ] {
        let text = read(file);
        assert!(spoken_of(&text).count() > 0, "{file} asks for nothing");
        for (name, _) in spoken_of(&text) {
            assert!(
                served.contains_key(name),
                "{file}: {name}, but served are {:?}",
                served.keys()
            );
        }
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_says_what_to_do_about_every_verdict() {
    let dashboard = read("packaging/grafana/ktls-trace.json");
    let shown: BTreeSet<&str> = spoken_of(&dashboard).map(|(name, _)| name).collect();
    for name in samples(&everything()).keys() {
        assert!(shown.contains(name.as_str()), "{name} is not shown");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let advice = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|panel| panel["fieldConfig"]["overrides"].as_array())
        .flatten()
        .find(|field| field["matcher"]["options"] == "What to do")
        .expect("a column that says what to do");
    for verdict in VERDICTS {
        let name = name_of(&verdict).unwrap();
        assert!(
            advice["properties"][0]["value"][0]["options"][&name]["text"].is_string(),
            "no word about {name}: {advice:#}"
        );
    }
}

#[test]
fn the_table_of_metrics_in_the_docs_is_what_is_served() {
    let served = samples(&everything());
    let docs = read("docs/operations.md");
    let table: String = docs
        .lines()
        .filter(|line| line.starts_with("| `ktls_trace_"))
        .map(|line| line.split('|').nth(1).unwrap())
        .collect();
    let mut told = BTreeSet::new();
    for (name, rest) in spoken_of(&table) {
        // A histogram is told of without what its samples end in.
        let sample = if served.contains_key(name) {
            name.to_owned()
        } else {
            format!("{name}_count")
        };
        assert!(served.contains_key(&sample), "{name} is not served");
        assert!(told.insert(sample.clone()), "{name} is there twice");
        if let Some(labels) = rest.strip_prefix('{') {
            let labels = labels.split('}').next().unwrap().split(',');
            let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
            assert_eq!(served[&sample], labels, "labels of {sample}");
        }
    }
    for name in served.keys() {
        let part = ["_bucket", "_sum"]
            .iter()
            .find_map(|part| name.strip_suffix(part));
        let name = part.map_or_else(|| name.clone(), |metric| format!("{metric}_count"));
        assert!(told.contains(&name), "{name} is not told of");
    }
}
