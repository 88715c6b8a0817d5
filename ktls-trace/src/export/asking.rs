//! How the run is, for those who tell it to others: what is served over HTTP, and what pushes metrics.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    time::timeout,
};

use super::metrics::Live;
use crate::probe::Cost;

/// How long the part that traces may take to say how it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long what keeps the programs may take to say what they cost.
const COSTS_WITHIN: Duration = Duration::from_millis(200);

/// A question of how the run is, to be answered.
pub type Asked = oneshot::Sender<Answer>;

/// How the run is.
#[derive(Debug)]
pub struct Answer {
    /// All that can be told at once.
    pub live: Live,
    /// What the programs have cost so far, which may take a while.
    pub costs: oneshot::Receiver<Vec<Cost>>,
}

/// Asks.
#[derive(Clone, Debug)]
pub struct Asking {
    /// To the part that traces.
    ask: UnboundedSender<Asked>,
    /// How it was when it stopped to answer, because the run ends.
    last: Arc<Mutex<Option<Live>>>,
}

impl Asking {
    /// How the run is now.
    pub(super) async fn live(&self) -> Live {
        let last = || {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.clone()
        };
        if let Some(live) = last() {
            return live;
        }
        let (answer, answered) = oneshot::channel();
        if self.ask.send(answer).is_err() {
            return Live::default();
        }
        let Ok(Ok(Answer { mut live, costs })) = timeout(ANSWER_WITHIN, answered).await else {
            return last().unwrap_or_default();
        };
        // Not while hooks are being attached: then they are missing once.
        if let Ok(Ok(costs)) = timeout(COSTS_WITHIN, costs).await {
            live.costs = costs;
        }
        live
    }
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Questions {
    /// Who asks.
    asked: UnboundedReceiver<Asked>,
    /// For whoever wants to ask.
    asking: Asking,
}

impl Default for Questions {
    /// There are none yet.
    fn default() -> Self {
        let (ask, asked) = unbounded_channel();
        let last = Arc::default();
        Self {
            asked,
            asking: Asking { ask, last },
        }
    }
}

impl Questions {
    /// By which to ask.
    pub(super) fn asking(&self) -> Asking {
        self.asking.clone()
    }

    /// The next question.
    pub(super) async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            // It is not closed as long as there is `asking`.
            None => std::future::pending().await,
        }
    }

    /// The run ends: this is what everybody is told from now on.
    pub(super) fn last(&mut self, live: Live) {
        let mut last = self
            .asking
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(live);
        drop(last);
        // Whoever waits for an answer gets none.
        while self.asked.try_recv().is_ok() {}
    }
}
