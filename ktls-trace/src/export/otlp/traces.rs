//! Each episode as a span, sent once it is over.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans},
};

use super::{
    collector::{Collector, Failure},
    endpoint::Endpoint,
    episodes::{Closed, Episodes},
    resource::{resource, scope},
    span::{self, Numbers},
    standing::Standing,
};
use crate::{
    correlate::{
        HoldEnded,
        event::{Body, Event, Name},
    },
    export::{Destination, Patience, Sent, Written},
};

/// What its losses are told under.
pub(super) const PLACE: &str = "otlp-traces";
/// Episodes that are sent together at most.
const BATCH: usize = 128;
/// How long one waits for others to be sent with.
const GATHER: Duration = Duration::from_secs(1);
/// Episodes that wait to be sent at most.
const WAITING: usize = 1024;
/// How often a batch is sent before it is given up.
const ATTEMPTS: u32 = 6;
/// How long it takes until it is sent for the second time; then each time twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Where episodes go.
#[derive(Debug)]
pub struct Traces {
    collector: Collector,
    resource: Resource,
    numbers: Numbers,
    /// Those that go on.
    open: Episodes,
    /// Those that are to be sent.
    closed: VecDeque<Closed>,
    /// When to send them.
    due: Instant,
    /// How often the first of them have been sent in vain.
    attempts: u32,
    /// Whether they are taken.
    standing: Standing,
}

impl Traces {
    /// To the collector there, which may be gone or not yet be there.
    ///
    /// # Errors
    ///
    /// If the system gives nothing to wait with.
    pub fn to(endpoint: Endpoint) -> io::Result<Self> {
        Ok(Self {
            collector: Collector::new(endpoint)?,
            resource: resource(),
            numbers: Numbers::default(),
            open: Episodes::default(),
            closed: VecDeque::new(),
            due: Instant::now(),
            attempts: 0,
            standing: Standing::good(PLACE),
        })
    }

    /// An episode is over.
    fn closed(&mut self, closed: Closed) -> Written {
        if self.closed.is_empty() {
            self.due = Instant::now() + GATHER;
        }
        self.closed.push_back(closed);
        if self.closed.len() > WAITING {
            self.closed.pop_front();
            // That nobody takes them has been told.
            return Written::StillLost;
        }
        if self.closed.len() >= BATCH && self.attempts == 0 {
            self.due = Instant::now();
        }
        Written::Yes
    }

    /// The first that wait, as one request.
    fn request(&self) -> ExportTraceServiceRequest {
        let batch = self.closed.iter().take(BATCH);
        let spans = batch.filter_map(|closed| span::of(closed, &self.numbers));
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope()),
                    spans: spans.collect(),
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        }
    }

    /// The first that wait have been dealt with; how many these were.
    fn done(&mut self) -> u64 {
        let batch = self.closed.len().min(BATCH);
        self.closed.drain(..batch);
        self.attempts = 0;
        u64::try_from(batch).unwrap_or(u64::MAX)
    }
}

impl Destination for Traces {
    fn place(&self) -> &'static str {
        PLACE
    }

    fn takes(&self) -> fn(&Event) -> bool {
        |event| matches!(event.body, Body::Stall(_))
    }

    fn write(&mut self, event: &Event) -> Written {
        let Body::Stall(stall) = &event.body else {
            return Written::Yes;
        };
        if event.event == Name::StallClosed {
            let closed = self.open.closed(event.clone(), stall);
            return self.closed(closed);
        }
        self.open.told(event.event, stall);
        Written::Yes
    }

    fn takes_holds(&self) -> bool {
        true
    }

    fn hold_ended(&mut self, hold: HoldEnded) {
        self.open.hold_ended(hold);
    }

    fn gives_up(&self) -> bool {
        true
    }

    fn due(&self) -> Option<Instant> {
        (!self.closed.is_empty()).then_some(self.due)
    }

    fn send(&mut self, patience: &mut Patience) -> Sent {
        let mut sent = Sent::default();
        while !self.closed.is_empty() {
            let request = self.request();
            let said = match self.collector.post(patience, &request) {
                Ok(ExportTraceServiceResponse { partial_success }) => {
                    self.done();
                    let refused = partial_success.filter(|part| part.rejected_spans > 0);
                    if let Some(part) = refused {
                        sent.lost += part.rejected_spans.unsigned_abs();
                        self.standing
                            .fails(&format!("stalls are refused: {}", part.error_message))
                    } else {
                        self.standing.works("stalls")
                    }
                }
                Err(Failure::Never(why)) => {
                    sent.lost += self.done();
                    self.standing
                        .fails(&format!("{why}; stalls are lost until it works again"))
                }
                Err(Failure::Later(why, _)) if patience.last || self.attempts + 1 >= ATTEMPTS => {
                    sent.lost += self.done();
                    self.standing
                        .fails(&format!("{why}; stalls are lost until it works again"))
                }
                Err(Failure::Later(why, after)) => {
                    let pause = after.unwrap_or(FIRST_PAUSE * 2_u32.pow(self.attempts));
                    self.due = Instant::now() + pause;
                    self.attempts += 1;
                    let said = self.standing.fails(&format!("{why}; it is tried again"));
                    sent.said = said.or(sent.said);
                    break;
                }
            };
            sent.said = said.or(sent.said);
        }
        sent
    }
}
