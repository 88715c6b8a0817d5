//! Where events go: one file per destination.

mod asking;
mod http;
mod journal;
mod lines;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
mod outlet;
mod stream;

use std::sync::Arc;

use self::{
    asking::Questions,
    metrics::{Live, Metrics},
};
pub use self::{
    asking::{Answer, Asked, Asking},
    http::{Address, Error as ListenError, HealthReport, Http, Listening},
    journal::Journal,
    lines::{Error, Format, Keeping, Lines, Written},
    outlet::{Destination, Outlets, Patience, Report, Sent},
};
use crate::correlate::{HoldEnded, event::Event};

/// Everything that is told of a run goes through this.
#[derive(Debug, Default)]
pub struct Exports {
    /// Destinations of events.
    pub outlets: Outlets,
    /// Metrics, health and events over HTTP.
    pub http: Option<Http>,
    /// What is counted, whoever wants to know; nothing, if nobody ever will.
    counted: Option<Arc<Metrics>>,
    /// Who wants to know how the run is.
    questions: Questions,
}

/// What exports want of a run.
#[derive(Debug)]
pub enum Wish {
    /// A destination has something to say.
    Report(Report),
    /// Somebody asks how the run is.
    Asked(Asked),
}

impl Exports {
    /// There are none yet, but from now on everything is counted in these metrics.
    pub fn counting(metrics: Arc<Metrics>) -> Self {
        Self {
            counted: Some(metrics),
            ..Self::default()
        }
    }

    /// By which to ask how the run is.
    pub fn asking(&self) -> Asking {
        self.questions.asking()
    }

    /// Tells an event.
    pub fn write(&self, event: &Event) {
        self.outlets.write(event);
        if let Some(metrics) = &self.counted {
            metrics.event(event);
        }
        if let Some(http) = &self.http {
            http.event(event);
        }
    }

    /// Counts and tells a hold that is over.
    pub fn hold_ended(&self, hold: &HoldEnded) {
        self.outlets.hold_ended(hold);
        if let Some(metrics) = &self.counted {
            metrics.hold_ended(hold);
        }
    }

    /// What they want next; waits for ever if there is nothing that could want something.
    pub async fn wish(&mut self) -> Wish {
        tokio::select! {
            report = self.outlets.report() => Wish::Report(report),
            asked = self.questions.next() => Wish::Asked(asked),
        }
    }

    /// The run ends: from now on a destination without room is waited for a moment, and this is how the run was.
    pub fn patient(&mut self, live: Live) {
        self.questions.last(live);
        self.outlets.patient();
    }
}
