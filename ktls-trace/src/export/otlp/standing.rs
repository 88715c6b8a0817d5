//! Whether a collector takes what it is sent: told when that changes, not each time.

use crate::export::Report;

/// How the last attempt went.
#[derive(Debug)]
pub(super) struct Standing {
    /// What losses are told under.
    place: &'static str,
    /// Whether it was in vain.
    failing: bool,
}

impl Standing {
    /// Nothing has gone wrong yet.
    pub(super) fn good(place: &'static str) -> Self {
        Self {
            place,
            failing: false,
        }
    }

    /// An attempt was in vain; what there is to say of it: something, if the one before was not.
    pub(super) fn fails(&mut self, why: &str) -> Option<Report> {
        let first = !std::mem::replace(&mut self.failing, true);
        first.then(|| Report::Trouble(format!("{}: {why}", self.place)))
    }

    /// It works; what there is to say, if it did not before.
    pub(super) fn works(&mut self, what: &str) -> Option<Report> {
        let again = std::mem::replace(&mut self.failing, false);
        again.then(|| Report::Again(format!("{}: {what} are taken again", self.place)))
    }
}
