//! What `/metrics` serves, sent every so often.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use caps::Capability;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
};

use super::{
    collector::{Collector, Failure},
    endpoint::Endpoint,
    points::{self, Span},
    resource::{resource, scope},
    standing::Standing,
};
use crate::{
    correlate::event::Event,
    export::{Asking, Destination, Patience, Sent, Written, metrics::Metrics},
    kernel::capabilities,
};

/// What its losses are told under.
const PLACE: &str = "otlp-metrics";
/// How long the first one waits, for hooks to be attached.
const FIRST: Duration = Duration::from_secs(1);
/// How long the part that traces may take to say how it is, which it is not waited for longer than that itself.
const ASKED_FOR: Duration = Duration::from_secs(3);

/// Where metrics go.
#[derive(Debug)]
pub struct Pushes {
    collector: Collector,
    resource: Resource,
    /// What is counted.
    metrics: Arc<Metrics>,
    /// Of how the run is.
    asking: Asking,
    /// How often they go.
    every: Duration,
    /// When they go next; never again, if they have gone for the last time.
    due: Option<Instant>,
    /// Whether they are taken.
    standing: Standing,
}

impl Pushes {
    /// To the collector there, which may be gone or not yet be there.
    ///
    /// # Errors
    ///
    /// If the system gives nothing to wait with.
    pub fn to(
        endpoint: Endpoint,
        every: Duration,
        metrics: Arc<Metrics>,
        asking: Asking,
    ) -> io::Result<Self> {
        Ok(Self {
            collector: Collector::new(endpoint)?,
            resource: resource(),
            metrics,
            asking,
            every,
            due: Some(Instant::now() + FIRST.min(every)),
            standing: Standing::good(PLACE),
        })
    }

    /// All of them, as of now.
    fn now(&self, patience: &mut Patience) -> Result<Vec<Metric>, String> {
        let asked = self
            .collector
            .wait(patience, ASKED_FOR, self.asking.live())
            .unwrap_or_default();
        let text = self.metrics.text(asked);
        let text = text.map_err(|error| error.to_string())?;
        let span = Span {
            since: self.metrics.since(),
            until: SystemTime::now(),
        };
        points::of(&text, span)
    }

    fn request(&self, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }

    /// Sends them once; why they were not taken.
    fn push(&self, patience: &mut Patience) -> Result<(), String> {
        let metrics = self.now(patience)?;
        let request = self.request(metrics);
        let answer = self.collector.post(patience, &request);
        // The next ones tell all that these did, so there is no second attempt.
        let answer: ExportMetricsServiceResponse = answer.map_err(|failure| match failure {
            Failure::Later(why, _) | Failure::Never(why) => why,
        })?;
        match answer.partial_success {
            Some(part) if part.rejected_data_points > 0 => Err(format!(
                "{} of them are refused: {}",
                part.rejected_data_points, part.error_message
            )),
            _ => Ok(()),
        }
    }
}

impl Destination for Pushes {
    fn place(&self) -> &'static str {
        PLACE
    }

    fn takes(&self) -> fn(&Event) -> bool {
        |_| false
    }

    fn keeps(&self) -> &'static [Capability] {
        // The kernel's counters of a namespace are read through a process in it.
        &capabilities::OF_PROCESSES
    }

    fn write(&mut self, _: &Event) -> Written {
        Written::Yes
    }

    fn gives_up(&self) -> bool {
        true
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn send(&mut self, patience: &mut Patience) -> Sent {
        if self.due.is_none() {
            return Sent::default();
        }
        // Counted from now: after a collector that was slow there is nothing to catch up with.
        self.due = (!patience.last).then(|| Instant::now() + self.every);
        match self.push(patience) {
            Ok(()) => Sent {
                lost: 0,
                said: self.standing.works("metrics"),
            },
            Err(why) => Sent {
                lost: 1,
                said: self.standing.fails(&format!("{why}; it goes on trying")),
            },
        }
    }
}
