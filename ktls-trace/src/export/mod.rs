//! Where events go: one file per destination.

mod http;
mod journal;
mod lines;
pub mod metrics;
mod outlet;
mod stream;

pub use http::{Address, Answer, Asked, Error as ListenError, HealthReport, Http, Listening};
pub use journal::Journal;
pub use lines::{Error, Format, Keeping, Lines, Written};
pub use outlet::{Destination, Outlets, Report};

use crate::correlate::{HoldEnded, event::Event};

/// Everything that is told of a run goes through this.
#[derive(Debug, Default)]
pub struct Exports {
    /// Destinations of events.
    pub outlets: Outlets,
    /// Metrics, health and events over HTTP.
    pub http: Option<Http>,
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
    /// Tells an event.
    pub fn write(&self, event: &Event) {
        self.outlets.write(event);
        if let Some(http) = &self.http {
            http.event(event);
        }
    }

    /// Counts a hold that is over.
    pub fn hold_ended(&self, hold: &HoldEnded) {
        if let Some(http) = &self.http {
            http.hold_ended(hold);
        }
    }

    /// What they want next; waits for ever if there is nothing that could want something.
    pub async fn wish(&mut self) -> Wish {
        let Self { outlets, http } = self;
        let asked = async {
            match http {
                Some(http) => http.asked().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = outlets.report() => Wish::Report(report),
            asked = asked => Wish::Asked(asked),
        }
    }
}
