//! Recordings of scenarios that passed in guests, kept in `xtask/recordings/KERNEL/SCENARIO.ktrace` with the events they replay to
//! beside them. They show in seconds, without a guest, whether a change to the correlator changes what it says.

mod store;
mod verb;

#[cfg(test)]
mod tests;

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::command;

pub(crate) use verb::{RecordingsArguments, run};

/// Longest line shown of a difference.
const COLUMNS: usize = 400;

/// Has the daemon's binary replay a recording; its events.
fn replay(daemon: &Path, recording: &Path) -> Result<String> {
    let mut replay = Command::new(daemon);
    replay
        .arg("replay")
        .arg(recording)
        .args(["--format", "jsonl"]);
    command::output(&mut replay)
}

/// What is wrong if a recording does not replay to exactly these events.
pub(crate) fn differs(daemon: &Path, recording: &Path, events: &str) -> Option<String> {
    match replay(daemon, recording) {
        Ok(replayed) => first_difference(events, &replayed)
            .map(|difference| format!("the replay differs from the run: {difference}")),
        Err(error) => Some(format!("the recording does not replay: {error:#}")),
    }
}

/// The first line in which two runs of events differ.
fn first_difference(expected: &str, got: &str) -> Option<String> {
    if expected == got {
        return None;
    }
    let (mut expected, mut got) = (expected.lines(), got.lines());
    let mut number = 0;
    loop {
        number += 1;
        let pair = (expected.next(), got.next());
        if let (None, None) = pair {
            return Some("the last line has no end".to_owned());
        }
        if pair.0 != pair.1 {
            let (expected, got) = pair;
            // The lines are long: what they share says nothing.
            let same = shared(expected.unwrap_or_default(), got.unwrap_or_default());
            let rest = |line: Option<&str>| match line {
                Some(line) => line.chars().skip(same).take(COLUMNS).collect(),
                None => "nothing".to_owned(),
            };
            let (expected, got) = (rest(expected), rest(got));
            return Some(format!(
                "line {number} from column {}\n  expected {expected}\n  got      {got}",
                same + 1
            ));
        }
    }
}

/// Characters that two lines begin with.
fn shared(one: &str, other: &str) -> usize {
    one.chars()
        .zip(other.chars())
        .take_while(|(one, other)| one == other)
        .count()
}

/// The binary that replays, built now.
fn daemon(place: &crate::place::Place) -> Result<std::path::PathBuf> {
    crate::setup::ensure(place, crate::setup::Needs::Build)?;
    crate::dist::daemon(place).context("building what replays")
}
