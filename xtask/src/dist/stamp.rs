//! The one time that everything in a release carries.

use std::{
    env,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::command;

/// Tools that package read the time from here (reproducible-builds.org).
pub(super) const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// A time in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u32);

impl Stamp {
    /// What the environment says, or else when HEAD was committed.
    pub(super) fn of(workspace: &Path) -> Result<Self> {
        if let Ok(text) = env::var(VARIABLE) {
            return Self::read(&text).with_context(|| format!("{VARIABLE} is {text:?}"));
        }
        let text = command::output(
            Command::new("git")
                .args(["log", "-1", "--format=%ct"])
                .current_dir(workspace),
        )
        .with_context(|| {
            format!("when was this committed? Set {VARIABLE} where there is no git")
        })?;
        Self::read(&text)
    }

    /// Of a number in words.
    pub(super) fn read(text: &str) -> Result<Self> {
        text.trim()
            .parse()
            .map(Self)
            .context("not a time in seconds since 1970")
    }

    /// Seconds since 1970.
    pub(super) fn seconds(self) -> u32 {
        self.0
    }

    /// The same, for the times of files.
    pub(super) fn system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.into())
    }

    /// The same, for dates in words.
    pub(super) fn timestamp(self) -> Result<Timestamp> {
        Timestamp::from_second(self.0.into()).context("a time out of range")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_a_number_of_seconds() {
        assert_eq!(Stamp::read("1780000000\n").unwrap(), Stamp(1_780_000_000));
        assert!(Stamp::read("yesterday").is_err());
        assert!(Stamp::read("").is_err());
    }
}
