//! How a run is listened to and ended by whoever runs it within the same process.

use std::{fmt, sync::Arc};

use tokio::sync::Notify;

use crate::{
    correlate::event::Event,
    observe::{Observation, recording::Recorder},
};

/// Something that a run has seen.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// An observation, after what the correlator made of it.
    Observation(&'a Observation),
    /// An event, before it is written.
    Event(&'a Event),
    /// The programs' counters at the end, by slot (`ktls_trace_common::counter`); `None`: not known.
    Counters(&'a [Option<u64>]),
}

/// Who listens to a run and ends it.
pub struct Control<'a> {
    /// Ends the run when it is notified.
    pub stop: Arc<Notify>,
    /// Gets everything that is seen, as it is seen.
    pub listen: Box<dyn FnMut(Seen<'_>) + 'a>,
    /// Keeps what is observed.
    pub recorder: Option<Recorder>,
}

impl Default for Control<'_> {
    /// Nobody listens, and nobody but a signal or the time ends it.
    fn default() -> Self {
        Self {
            stop: Arc::default(),
            listen: Box::new(|_| {}),
            recorder: None,
        }
    }
}

impl fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}
