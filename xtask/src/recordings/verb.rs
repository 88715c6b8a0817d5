//! `cargo xtask recordings`.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;

use super::{
    daemon, first_difference, replay,
    store::{all, directory, keep},
};
use crate::place::Place;

/// Replays every recording in xtask/recordings and compares with the events kept beside it
///
/// After a test run, --keep takes those of what passed in its place.
#[derive(Debug, Args)]
pub(crate) struct RecordingsArguments {
    /// Keep what they replay to now as what is expected
    #[arg(long)]
    bless: bool,
    /// Keep the recordings of what passed in the last test run (target/xtask/results), and their events
    #[arg(long, conflicts_with = "bless")]
    keep: bool,
}

/// What of a test run's report says which recordings are there to keep.
#[derive(Debug, Deserialize)]
struct Ran {
    kernel: String,
    scenario: String,
    repetition: usize,
    failures: Vec<String>,
}

/// Runs the verb; failure if a recording does not replay, or to something else.
pub(crate) fn run(place: &Place, arguments: &RecordingsArguments) -> Result<ExitCode> {
    let RecordingsArguments { bless, keep } = arguments;
    if *keep {
        keep_last(place)?;
    }
    let daemon = daemon(place)?;
    let (mut same, mut other, mut broken, mut bytes) = (0, 0, 0, 0);
    for recording in all(&directory(&place.workspace))? {
        let replayed = match replay(&daemon, &recording.path) {
            Ok(replayed) => replayed,
            Err(error) => {
                broken += 1;
                println!("{}: {error:#}", recording.name());
                continue;
            }
        };
        let difference = match recording.events() {
            Ok(expected) => first_difference(&expected, &replayed),
            // The first time, there is nothing to compare with.
            Err(_none) if *bless => Some("no events were kept".to_owned()),
            Err(error) => return Err(error),
        };
        match difference {
            None => same += 1,
            Some(difference) => {
                other += 1;
                println!("{}: {difference}", recording.name());
                if *bless {
                    recording.write_events(&replayed)?;
                }
            }
        }
        bytes += recording.bytes()?;
    }
    let verdict = if *bless { "blessed" } else { "differ" };
    println!(
        "{same} replay as expected, {other} {verdict}, {broken} do not replay; {} KiB",
        u64::div_ceil(bytes, 1024)
    );
    Ok(if broken == 0 && (other == 0 || *bless) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Keeps the recordings of the last test run.
fn keep_last(place: &Place) -> Result<()> {
    let results = place.results("results");
    let path = results.join("report.json");
    let report = fs::read(&path)
        .with_context(|| format!("reading {}: run cargo xtask test first", path.display()))?;
    let ran: Vec<Ran> = serde_json::from_slice(&report)
        .with_context(|| format!("{} is no report", path.display()))?;
    let passed = ran
        .iter()
        .filter(|run| run.failures.is_empty() && run.repetition == 0)
        .map(|run| (run.kernel.as_str(), run.scenario.as_str()));
    keep(place, &results, passed)
}
