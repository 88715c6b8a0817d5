//! How a run is listened to and ended by whoever runs it within the same process.

use std::{fmt, sync::Arc};

use tokio::sync::Notify;

use super::reload::Reload;
use crate::{
    correlate::event::Event,
    export::Exports,
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
    /// Reads the options again (SIGHUP), changes the exports if they are others, and says what else is.
    pub reread: Reread<'a>,
}

/// What changes the exports and says what else is new; nothing is, or why all stays as it was.
pub type Reread<'a> = Box<dyn FnMut(&mut Exports) -> Result<Option<Reload>, String> + 'a>;

impl Default for Control<'_> {
    /// Nobody listens, nobody but a signal or the time ends it, and its options stay.
    fn default() -> Self {
        Self {
            stop: Arc::default(),
            listen: Box::new(|_| {}),
            recorder: None,
            reread: Box::new(|_| Ok(None)),
        }
    }
}

impl fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}
