//! What a collector gets by OTLP, and that none can hold a run up.
#![cfg(feature = "otlp")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod collector;

mod run;
mod victoria_metrics;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, Read as _},
    net::TcpListener,
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};

use collector::{Collector, Kind, number, text};
use ktls_trace::{
    correlate::{
        Output,
        event::{Body, Event, Name, Stall},
    },
    export::{Destination, Outlets, Report, otlp::Traces},
    observe::recording::{Reader, replay_all},
};
use opentelemetry_proto::tonic::trace::v1::Span;

/// The recording of the report's stall.
const CORKED: &str = "6.12/lowat-16384";

/// What a recording makes the correlator say.
fn recorded(name: &str) -> Vec<Output> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = workspace
        .join("xtask/recordings")
        .join(format!("{name}.ktrace"));
    let mut outputs = Vec::new();
    let mut reader = Reader::new(BufReader::new(File::open(path).unwrap())).unwrap();
    replay_all(&mut reader, |output| {
        outputs.push(output.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    outputs
}

/// The end of the only episode of a recording.
fn closed(outputs: &[Output]) -> (Event, Stall) {
    let ends = outputs.iter().filter_map(|output| match output {
        Output::Event(event) if event.event == Name::StallClosed => match &event.body {
            Body::Stall(stall) => Some((Event::clone(event), Stall::clone(stall))),
            other => panic!("{other:?}"),
        },
        _ => None,
    });
    let mut ends: Vec<_> = ends.collect();
    assert_eq!(ends.len(), 1);
    ends.remove(0)
}

/// Where spans go.
fn outlets(url: &str) -> Outlets {
    let traces: Box<dyn Destination> = Box::new(Traces::to(url.parse().unwrap()).unwrap());
    Outlets::start(vec![traces]).unwrap()
}

/// Tells what a recording has to say.
fn tell(outlets: &Outlets, outputs: &[Output]) {
    for output in outputs {
        match output {
            Output::Event(event) => outlets.write(event),
            Output::HoldEnded(hold) => outlets.hold_ended(hold),
            Output::Poll(_) | Output::FindOwner { .. } | Output::Forget(_) => {}
        }
    }
}

/// The end of a run: what was lost of spans, and what was said.
fn end(mut outlets: Outlets) -> (u64, Vec<Report>) {
    outlets.patient();
    outlets.flush();
    let lost = outlets.lost()["otlp-traces"];
    let said = outlets.end();
    (lost, said)
}

/// An address at which nobody listens.
fn nobody() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/v1/traces", socket.local_addr().unwrap())
}

#[test]
fn an_episode_arrives_with_its_records_as_events() {
    let collector = Collector::start(Kind::Takes);
    let outputs = recorded(CORKED);
    let (event, stall) = closed(&outputs);
    let outlets = outlets(&collector.traces());
    tell(&outlets, &outputs);
    let spans = collector.spans(1);
    assert_eq!(end(outlets), (0, Vec::new()));
    let [span] = spans.as_slice() else {
        panic!("{spans:#?}");
    };
    let attribute = |key| text(&span.attributes, key);
    assert_eq!(attribute("ktls.stall"), stall.stall);
    assert_eq!(attribute("ktls.verdict"), "corked-completed-record");
    assert_eq!(attribute("ktls.gate"), "notsent-lowat");
    assert_eq!(attribute("process.title"), "ktls-trace");
    assert_eq!(attribute("network.transport"), "tcp");
    let peer = format!(
        "{}:{}",
        attribute("network.peer.address"),
        number(&span.attributes, "network.peer.port")
    );
    assert_eq!(Some(peer), stall.socket.dst);
    assert_eq!(span.status.as_ref().unwrap().code, 2);

    // Every hold, at the moment at which it ended.
    let named = |name: &str| {
        span.events
            .iter()
            .filter(|event| event.name == name)
            .count()
    };
    assert_eq!(named("stall-opened"), 1);
    let holds = usize::try_from(stall.totals.holds).unwrap();
    assert!(holds > 10, "{holds}");
    let dropped = usize::try_from(span.dropped_events_count).unwrap();
    assert_eq!(named("hold-ended") + dropped, holds);
    let length = span.end_time_unix_nano - span.start_time_unix_nano;
    assert_eq!(length / 1_000_000, whole_ms(stall.totals.duration_ms));
    assert!(span.events.is_sorted_by_key(|event| event.time_unix_nano));
    let within = span.start_time_unix_nano..=span.end_time_unix_nano;
    for event in &span.events {
        assert!(within.contains(&event.time_unix_nano), "{event:#?}");
    }
    let time: jiff::Timestamp = event.time.parse().unwrap();
    let time = u64::try_from(time.as_nanosecond()).unwrap();
    assert_eq!(span.end_time_unix_nano, time);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is some seconds"
)]
fn whole_ms(ms: f64) -> u64 {
    ms as u64
}

#[test]
fn what_was_opened_before_anybody_listened_has_its_end_all_the_same() {
    let collector = Collector::start(Kind::Takes);
    let outputs = recorded(CORKED);
    let (event, stall) = closed(&outputs);
    let outlets = outlets(&collector.traces());
    outlets.write(&event);
    assert_eq!(end(outlets), (0, Vec::new()));
    let spans = collector.spans(1);
    assert_eq!(spans[0].events.len(), 0);
    assert_eq!(u64::from(spans[0].dropped_events_count), stall.totals.holds);
    let holds = number(&spans[0].attributes, "ktls.totals.holds");
    assert_eq!(u64::try_from(holds).unwrap(), stall.totals.holds);
}

#[test]
fn many_that_close_at_once_at_the_end_all_arrive() {
    let collector = Collector::start(Kind::Takes);
    let (event, stall) = closed(&recorded(CORKED));
    let outlets = outlets(&collector.traces());
    // Three batches. The end has 0.3 s, and this is a build without optimisation on a host that may be busy.
    let many = 300;
    for number in 0..many {
        let mut event = event.clone();
        let name = format!("{number}");
        event.body = Body::Stall(Box::new(Stall {
            stall: name,
            ..stall.clone()
        }));
        outlets.write(&event);
    }
    let (lost, said) = end(outlets);
    let arrived = collector.spans(many - usize::try_from(lost).unwrap());
    assert_eq!((arrived.len(), lost, said), (many, 0, Vec::new()));
    let ids: BTreeSet<_> = arrived.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), many);
}

/// How many episodes a collector in trouble is told.
const TOLD: u64 = 5;

/// Tells episodes to a collector that is in trouble, and ends once it was tried; what was lost and said.
fn in_trouble(url: &str, tried: impl FnOnce()) -> (u64, Vec<Report>) {
    let outputs = recorded(CORKED);
    let outlets = outlets(url);
    let begun = Instant::now();
    for _ in 0..TOLD {
        tell(&outlets, &outputs);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "it is held up");
    tried();
    let begun = Instant::now();
    let told = end(outlets);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "its end takes {took:?}");
    told
}

/// Long enough for a first attempt.
fn soon() {
    std::thread::sleep(Duration::from_millis(1500));
}

/// What was said is one line of trouble with these words.
fn is_told(said: &[Report], words: &str) {
    let [Report::Trouble(why)] = said else {
        panic!("{said:?}");
    };
    assert!(
        why.starts_with("otlp-traces: ") && why.contains(words),
        "{why}"
    );
    assert_eq!(why.lines().count(), 1, "{why}");
}

#[test]
fn where_nobody_listens_everything_is_lost_and_counted() {
    let (lost, said) = in_trouble(&nobody(), soon);
    assert_eq!(lost, TOLD);
    is_told(&said, "refused");
}

#[test]
fn who_never_answers_holds_nothing_up_and_what_he_was_given_is_counted() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut kept = None;
    let (lost, said) = in_trouble(&url, || {
        let (mut given, _) = silent.accept().unwrap();
        given.read_exact(&mut [0; 16]).unwrap();
        // The connection stays open, and unanswered.
        kept = Some(given);
    });
    drop(kept);
    assert_eq!(lost, TOLD);
    is_told(&said, "no answer in time");
}

#[test]
fn who_does_not_want_them_is_not_asked_again() {
    let collector = Collector::start(Kind::Answers(500));
    let (lost, said) = in_trouble(&collector.traces(), soon);
    assert_eq!(lost, TOLD);
    is_told(&said, "it answers 500 Internal Server Error (out of order)");
    assert_eq!(collector.requests(), 1);
}

#[test]
fn what_a_collector_refuses_of_a_batch_is_counted() {
    let collector = Collector::start(Kind::Refuses(3));
    let (lost, said) = in_trouble(&collector.traces(), soon);
    assert_eq!(lost, 3);
    is_told(&said, "too long");
}

#[tokio::test]
async fn who_is_busy_for_a_while_gets_everything_later_and_that_is_told() {
    let collector = Collector::start(Kind::BusyFor(2));
    let outputs = recorded(CORKED);
    let mut outlets = outlets(&collector.traces());
    tell(&outlets, &outputs);
    let trouble = outlets.report().await;
    assert!(
        matches!(&trouble, Report::Trouble(why) if why.contains("503") && why.contains("tried again")),
        "{trouble:?}"
    );
    let spans: Vec<Span> = collector.spans(1);
    assert_eq!(spans.len(), 1);
    let again = outlets.report().await;
    assert!(matches!(&again, Report::Again(_)), "{again:?}");
    assert_eq!(collector.requests(), 3);
    assert_eq!(end(outlets), (0, Vec::new()));
}
