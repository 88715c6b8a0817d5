//! A collector for tests: takes what it is sent, or is in some trouble.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
        trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::ResourceMetrics,
    trace::v1::Span,
};
use prost::Message as _;

/// How long something may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of which kind it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// It takes everything.
    Takes,
    /// It answers with this status.
    Answers(u16),
    /// It is busy for so many requests (503), then takes everything.
    BusyFor(usize),
    /// It refuses so many spans of each request.
    Refuses(i64),
}

/// What arrived.
#[derive(Debug, Default)]
struct Arrived {
    /// How many requests.
    requests: usize,
    /// The spans of those that were taken.
    spans: Vec<Span>,
    /// The metrics of those that were taken.
    pushed: Vec<ResourceMetrics>,
}

/// A collector.
#[derive(Debug)]
pub(crate) struct Collector {
    address: SocketAddr,
    arrived: Arc<(Mutex<Arrived>, Condvar)>,
}

impl Collector {
    /// Begins to listen.
    pub(crate) fn start(kind: Kind) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let arrived = Arc::<(Mutex<Arrived>, Condvar)>::default();
        let shared = Arc::clone(&arrived);
        thread::spawn(move || {
            for stream in socket.incoming() {
                serve(&stream.expect("a client"), kind, &shared);
            }
        });
        Self { address, arrived }
    }

    /// Its base.
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it takes spans.
    pub(crate) fn traces(&self) -> String {
        format!("{}/v1/traces", self.base())
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.arrived.0.lock().expect("sound").requests
    }

    /// Waits for so many spans; all so far.
    pub(crate) fn spans(&self, number: usize) -> Vec<Span> {
        self.wait(
            |arrived| arrived.spans.len() >= number,
            |arrived| arrived.spans.clone(),
        )
    }

    /// Waits for so many pushes of metrics; all so far.
    pub(crate) fn pushed(&self, number: usize) -> Vec<ResourceMetrics> {
        self.wait(
            |arrived| arrived.pushed.len() >= number,
            |arrived| arrived.pushed.clone(),
        )
    }

    fn wait<T>(&self, done: impl Fn(&Arrived) -> bool, take: impl Fn(&Arrived) -> T) -> T {
        let (arrived, changed) = &*self.arrived;
        let arrived = arrived.lock().expect("sound");
        let (arrived, timeout) = changed
            .wait_timeout_while(arrived, PATIENCE, |arrived| !done(arrived))
            .expect("sound");
        assert!(!timeout.timed_out(), "not in time: {arrived:?}");
        take(&arrived)
    }
}

/// Reads one request and answers.
fn serve(stream: &TcpStream, kind: Kind, shared: &(Mutex<Arrived>, Condvar)) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_lowercase();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let header = |name: &str| {
        let prefix = format!("{name}: ");
        head.iter().find_map(|line| line.strip_prefix(&prefix))
    };
    assert_eq!(header("content-type"), Some("application/x-protobuf"));
    assert!(header("host").is_some(), "{head:?}");
    let length = header("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.expect("a length")];
    reader.read_exact(&mut body).expect("all of it");
    let (arrived, changed) = shared;
    let mut arrived = arrived.lock().expect("sound");
    arrived.requests += 1;
    let status = match kind {
        Kind::Answers(status) => status,
        Kind::BusyFor(requests) if arrived.requests <= requests => 503,
        Kind::BusyFor(_) | Kind::Takes | Kind::Refuses(_) => 200,
    };
    let answer = match (status, head[0].as_str()) {
        (200, "post /v1/traces http/1.1") => {
            let request = ExportTraceServiceRequest::decode(&*body).expect("spans");
            for of_resource in request.resource_spans {
                for of_scope in of_resource.scope_spans {
                    arrived.spans.extend(of_scope.spans);
                }
            }
            let partial_success = match kind {
                Kind::Refuses(rejected_spans) => Some(ExportTracePartialSuccess {
                    rejected_spans,
                    error_message: "too long".to_owned(),
                }),
                _ => None,
            };
            ExportTraceServiceResponse { partial_success }.encode_to_vec()
        }
        (200, "post /v1/metrics http/1.1") => {
            let request = ExportMetricsServiceRequest::decode(&*body).expect("metrics");
            arrived.pushed.extend(request.resource_metrics);
            ExportMetricsServiceResponse::default().encode_to_vec()
        }
        (200, other) => panic!("{other}"),
        _ => b"out of order\n".to_vec(),
    };
    drop(arrived);
    changed.notify_all();
    let mut stream = stream;
    // Who asked may have gone.
    let _gone = write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    )
    .and_then(|()| stream.write_all(&answer));
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> &'a Value {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
    value.unwrap_or_else(|| panic!("no {key}: {attributes:#?}"))
}

/// An attribute that is text.
pub(crate) fn text(attributes: &[KeyValue], key: &str) -> String {
    match value(attributes, key) {
        Value::StringValue(text) => text.clone(),
        other => panic!("{key}: {other:?}"),
    }
}

/// One that is a number.
pub(crate) fn number(attributes: &[KeyValue], key: &str) -> i64 {
    match value(attributes, key) {
        Value::IntValue(number) => *number,
        other => panic!("{key}: {other:?}"),
    }
}
