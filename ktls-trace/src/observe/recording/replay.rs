//! Hands a recording to a correlator of its own: the same events as live.

use std::{io::BufRead, ops::ControlFlow};

use super::{End, Entry, Error, Reader};
use crate::correlate::{Correlator, Output, event::Event};

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// With the recording.
    ToTheEnd(End),
    /// Because nobody wants more events.
    Stopped,
}

/// Gives every event of a recording to `sink`, in order, as long as it wants more. An error comes after
/// the events of what could be read before it.
///
/// # Errors
///
/// If the recording is cut short, damaged or can't be read.
pub fn replay<R: BufRead>(
    reader: &mut Reader<R>,
    mut sink: impl FnMut(&Event) -> ControlFlow<()>,
) -> Result<Replayed, Error> {
    replay_all(reader, |output| match output {
        Output::Event(event) => sink(event),
        // What it wants to ask the kernel was asked then, and the answer is recorded.
        Output::HoldEnded(_) | Output::Poll(_) | Output::FindOwner { .. } | Output::Forget(_) => {
            ControlFlow::Continue(())
        }
    })
}

/// As [`replay`], with everything else that the correlator wants done.
///
/// # Errors
///
/// If the recording is cut short, damaged or can't be read.
pub fn replay_all<R: BufRead>(
    reader: &mut Reader<R>,
    mut sink: impl FnMut(&Output) -> ControlFlow<()>,
) -> Result<Replayed, Error> {
    let mut correlator = Correlator::new(reader.header().config);
    while let Some(entry) = reader.next_entry()? {
        let outputs = match entry {
            Entry::Observed(observation) => correlator.observe(&observation),
            Entry::Finished { at_ns } => correlator.finish(at_ns),
            Entry::Told { unix_ns, what } => {
                let (name, body) = what.into_event();
                vec![Output::Event(Box::new(Event::new(name, unix_ns, body)))]
            }
            // The plan is for people; what was seen by it is among the observations.
            Entry::Kernel(_) | Entry::End(_) => Vec::new(),
        };
        for output in outputs {
            if sink(&output).is_break() {
                return Ok(Replayed::Stopped);
            }
        }
    }
    let end = reader.end().unwrap_or(End {
        entries: 0,
        full: false,
    });
    Ok(Replayed::ToTheEnd(end))
}
