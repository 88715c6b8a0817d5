use std::collections::{BTreeSet, VecDeque};

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};

use super::*;
use crate::{
    correlate::{
        event::{Cadence, Ended, Name, Spread},
        rules::Gate,
        tests::stall_event,
    },
    observe::ReleasePath,
};

/// The end of an episode of which everything is known.
fn ended(verdict: Verdict) -> Event {
    let mut event = stall_event(Name::StallClosed, "4-6b08532a-1", verdict, Some(Gate::Both));
    event.time = "2026-06-03T17:19:22.000001Z".to_owned();
    let Body::Stall(stall) = &mut event.body else {
        panic!("{event:?}");
    };
    stall.ended = Some(Ended::Closed);
    stall.cadence = Some(Cadence::Persist);
    stall.released = [(ReleasePath::PeerAck, 4), (ReleasePath::PersistTimer, 28)].into();
    stall.socket.src = Some("[::1]:443".to_owned());
    stall.socket.dst = Some("[::1]:50000".to_owned());
    stall.socket.cookie = Some("4".to_owned());
    stall.socket.netns = Some(4_026_531_840);
    stall.socket.inode = Some(568);
    stall.tls.version = Some("1.3".to_owned());
    stall.tls.cipher = Some("aes-gcm-128".to_owned());
    stall.tls.tx = Some("sw".to_owned());
    stall.process = Some(ProcessInfo {
        pid: 240,
        tid: Some(245),
        comm: Some("nginx".to_owned()),
        thread: Some("worker".to_owned()),
        exe: Some("/usr/sbin/nginx".to_owned()),
        cgroup: Some("/system.slice/nginx.service".to_owned()),
    });
    stall.remedy = vec!["sysctl -w a=b".to_owned()];
    stall.totals.duration_ms = 6354.045;
    stall.totals.bytes_per_s = Some(90369.0);
    stall.totals.held_ms = Some(Spread {
        min: 0.333,
        median: 205.84,
        max: 209.312,
        total: 5853.689,
    });
    stall.held.records = Some(1);
    event
}

fn span(verdict: Verdict) -> Span {
    let closed = Closed {
        event: ended(verdict),
        happened: VecDeque::from([
            Happened::Told {
                name: Name::StallOpened,
                after_ms: 20.0,
                verdict,
                confidence: crate::correlate::rules::Confidence::Proven,
                gate: Some(Gate::Both),
            },
            Happened::HoldEnded(HoldEnded {
                stall: "4-6b08532a-1".to_owned(),
                after_ns: 208_000_000,
                verdict,
                path: ReleasePath::PersistTimer,
                duration_ns: 207_500_000,
                bytes: Some(16406),
                records: Some(1),
            }),
        ]),
        dropped: 3,
    };
    of(&closed, &Numbers::default()).unwrap()
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> &'a Value {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let found = found.unwrap_or_else(|| panic!("no {key}: {attributes:#?}"));
    found.value.as_ref().unwrap().value.as_ref().unwrap()
}

#[test]
fn it_lasts_from_its_first_held_byte_to_its_end_and_events_lie_within() {
    let span = span(Verdict::CorkedCompletedRecord);
    let end = 1_780_507_162_000_001_000;
    assert_eq!(span.end_time_unix_nano, end);
    assert_eq!(span.start_time_unix_nano, end - 6_354_045_000);
    let after = |event: &span::Event| event.time_unix_nano - span.start_time_unix_nano;
    let events: Vec<_> = span
        .events
        .iter()
        .map(|event| (event.name.as_str(), after(event)))
        .collect();
    assert_eq!(
        events,
        [("stall-opened", 20_000_000), ("hold-ended", 208_000_000)]
    );
    assert_eq!(span.dropped_events_count, 3);
    let released = value(&span.events[1].attributes, "ktls.released_by");
    assert_eq!(*released, Value::StringValue("persist-timer".to_owned()));
    let held = value(&span.events[1].attributes, "ktls.held.ms");
    assert_eq!(*held, Value::DoubleValue(207.5));
}

#[test]
fn only_corked_records_are_an_error() {
    let corked = span(Verdict::CorkedCompletedRecord);
    let status = corked.status.unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(
        status.message,
        "complete TLS records were held back (gate both)"
    );
    assert_eq!(corked.name, "stall corked-completed-record");
    assert_eq!(span(Verdict::ZeroWindow).status, None);
}

#[test]
fn who_and_where_go_by_the_names_that_there_are() {
    let span = span(Verdict::Unknown);
    let text = |key| match value(&span.attributes, key) {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{key}: {other:?}"),
    };
    for (key, expected) in [
        ("network.local.address", "::1"),
        ("network.local.port", "443"),
        ("network.peer.port", "50000"),
        ("process.pid", "240"),
        ("process.executable.name", "nginx"),
        ("tls.protocol.version", "1.3"),
        ("ktls.stall", "4-6b08532a-1"),
        ("ktls.released.persist-timer", "28"),
    ] {
        assert_eq!(text(key), expected, "{key}");
    }
}

#[test]
fn a_span_that_is_sent_again_keeps_its_number_and_no_other_has_it() {
    let numbers = Numbers::default();
    let of = |stall| numbers.of(stall);
    assert_eq!(of("a"), of("a"));
    let (a, b) = (of("a"), of("b"));
    assert_eq!((a.0.len(), a.1.len()), (16, 8));
    assert!(a.0 != b.0 && a.1 != b.1);
    assert_ne!(a, Numbers::default().of("a"), "of another run");
}

/// Names that a page tells of, in the first column of the tables below a heading.
fn told_of(page: &str, heading: &str) -> BTreeSet<String> {
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| {
            line.split('|')
                .nth(1)
                .unwrap()
                .split('`')
                .skip(1)
                .step_by(2)
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_tells_of_every_attribute_and_of_no_other() {
    let page = include_str!("../../../../../docs/otlp.md");
    let names = |attributes: &[KeyValue]| -> BTreeSet<String> {
        let name = |attribute: &KeyValue| match attribute.key.strip_prefix("ktls.released.") {
            Some(_) => "ktls.released.PATH".to_owned(),
            None => attribute.key.clone(),
        };
        attributes.iter().map(name).collect()
    };
    let span = span(Verdict::CorkedCompletedRecord);
    assert_eq!(
        names(&span.attributes),
        told_of(page, "Attributes of a span")
    );
    let events = span.events.iter();
    let of_events: BTreeSet<_> = events.flat_map(|event| names(&event.attributes)).collect();
    assert_eq!(of_events, told_of(page, "Attributes of its events"));
    let resource = super::super::resource::resource();
    assert_eq!(
        names(&resource.attributes),
        told_of(page, "Attributes of the resource")
    );
}
