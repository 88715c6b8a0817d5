//! The verb: arguments, the order of things, and the last line.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{
    file,
    guests::Work,
    matrix, packaging,
    report::{Report, Run},
    select::{Batch, Wishes, select},
    unit,
};
use crate::{
    consumers,
    guest_image::{Bootable, Programs},
    place::Place,
    setup::{self, Needs},
    userland::{self, Release, Userlands},
};

/// Runs that one guest does at most.
const RUNS_A_GUEST: usize = 30;

/// Runs the unit tests, then every scenario on every kernel it names
///
/// A kernel's scenarios share a boot, or a few that run side by side. What the guests sent is in target/xtask/results,
/// with report.json and the verdicts expected and given (matrix.md). The last line counts scenarios × kernels:
/// `N passed, N failed`.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Only on this kernel, with every scenario that is valid there; may be given again
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Only scenarios of this name, with * and ?; may be given again
    #[arg(long, value_name = "GLOB")]
    scenario: Vec<String>,
    /// Scenarios only
    #[arg(long)]
    no_unit: bool,
    /// Also on the kernels that stand in for one a scenario names (7.2, 6.12-trixie, 6.12-rt)
    #[arg(long)]
    all_kernels: bool,
    /// Run each scenario this often; one failure fails it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Guests side by side [default: one for each processor, and one more]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    jobs: Option<u8>,
    /// Run each daemon whose scenario does not say with these hooks (auto, light or full): what scenarios expect is what
    /// is seen by all of them
    #[arg(long, value_name = "MODE", default_value = "full")]
    probes: String,
    /// Where the scenarios are, instead of xtask/scenarios
    #[arg(long, value_name = "DIR")]
    scenarios_dir: Option<PathBuf>,
}

/// Runs the verb; failure if anything failed.
pub(crate) fn run(place: &Place, arguments: &TestArguments) -> Result<ExitCode> {
    let TestArguments {
        kernel,
        scenario,
        no_unit,
        all_kernels,
        repeat,
        jobs,
        probes,
        scenarios_dir,
    } = arguments;
    let directory = scenarios_dir
        .clone()
        .unwrap_or_else(|| place.workspace.join("xtask/scenarios"));
    let mut scenarios = file::read_all(&directory)?;
    for scenario in &mut scenarios {
        scenario.use_probes(probes);
    }
    let wishes = Wishes {
        kernels: kernel,
        globs: scenario,
        all_kernels: *all_kernels,
    };
    let batches =
        select(&scenarios, wishes).with_context(|| format!("in {}", directory.display()))?;

    let releases = releases(&batches);
    setup::ensure(place, Needs::of_guests(!releases.is_empty()))?;
    if !no_unit {
        // They begin with it, and would wait for all that is fetched meanwhile.
        consumers::victoria_metrics(place)?;
    }
    let (units_passed, programs) = thread::scope(|scope| -> Result<_> {
        scope.spawn(|| fetch_ahead(place, &releases, &batches));
        Ok((*no_unit || units(place)?, Programs::prepare(place)?))
    })?;
    let packaging_passed = *no_unit || packaging(place, programs.daemon());
    let userlands = Userlands::prepare(place, &releases, &directory)?;
    let results = place.results("results");
    if results.exists() {
        fs::remove_dir_all(&results).with_context(|| format!("removing {}", results.display()))?;
    }
    let mut runs = Vec::new();
    let mut ready = Vec::new();
    for batch in &batches {
        match Bootable::prepare(place, batch.known) {
            Ok(bootable) => ready.push((batch, bootable)),
            Err(error) => runs.extend(not_run(
                batch,
                &format!("no kernel {}: {error:#}", batch.known.short),
            )),
        }
    }
    let queue: Mutex<VecDeque<Work<'_>>> = Mutex::new(
        ready
            .iter()
            .flat_map(|(batch, bootable)| {
                let parts = parts(repeated(batch, usize::from(*repeat)));
                let results = results.join(batch.known.short);
                let (programs, userlands) = (&programs, &userlands);
                parts
                    .into_iter()
                    .enumerate()
                    .map(move |(part, (release, queue))| Work {
                        bootable,
                        programs,
                        queue,
                        userland: release.and_then(|release| userlands.extra(release)),
                        results: results.clone(),
                        part,
                    })
            })
            .collect(),
    );
    // A stalled sender leaves its guest idle for much of the time.
    let processors = || thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = jobs.map_or_else(|| processors() + 1, usize::from);
    runs.extend(run_side_by_side(&queue, jobs)?);
    let column = |kernel: &str| batches.iter().position(|batch| batch.known.short == kernel);
    runs.sort_by_key(|run| (run.scenario.clone(), column(&run.kernel), run.repetition));

    let kernels: Vec<&str> = batches.iter().map(|batch| batch.known.short).collect();
    write_files(&results, &scenarios, &kernels, &runs)?;
    let report = Report {
        kernels,
        runs: &runs,
    };
    let (passed, failed) = report.counts();
    print!(
        "{}\n{}\n{passed} passed, {failed} failed\n",
        report.failures(),
        report.table()
    );
    Ok(if failed == 0 && units_passed && packaging_passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Fetches and makes what guests need. What that fails at fails again where it is needed, and is told there.
fn fetch_ahead(place: &Place, releases: &BTreeSet<Release>, batches: &[Batch]) {
    for batch in batches {
        let _fetched = Bootable::prepare(place, batch.known);
    }
    for &release in releases {
        let _made = userland::prepare(place, release);
    }
}

/// Runs the unit and host tests and says how they went.
fn units(place: &Place) -> Result<bool> {
    let passed = unit::run(place)?;
    let verdict = if passed { "ok" } else { "FAILED" };
    println!("unit and host tests: {verdict}");
    Ok(passed)
}

/// Checks what is shipped beside the binary and says how that went.
fn packaging(place: &Place, daemon: &Path) -> bool {
    let checked = packaging::run(place, daemon);
    let verdict = match &checked {
        Ok(()) => "ok".to_owned(),
        Err(why) => format!("FAILED: {why:#}"),
    };
    println!("alert rules, dashboard and metrics, by promtool: {verdict}");
    checked.is_ok()
}

/// Writes every run as JSON, and the matrix of verdicts.
fn write_files(
    results: &Path,
    scenarios: &[file::Scenario],
    kernels: &[&str],
    runs: &[Run],
) -> Result<()> {
    fs::create_dir_all(results).with_context(|| format!("creating {}", results.display()))?;
    let json = serde_json::to_vec_pretty(runs).context("encoding the report")?;
    let matrix = matrix::table(scenarios, kernels, runs).into_bytes();
    for (name, contents) in [("report.json", json), ("matrix.md", matrix)] {
        let path = results.join(name);
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The distributions that are needed.
fn releases(batches: &[Batch]) -> BTreeSet<Release> {
    batches
        .iter()
        .flat_map(|batch| &batch.scenarios)
        .filter_map(|scenario| scenario.text.userland)
        .collect()
}

/// What a guest does: a kernel's runs, and the distribution around them.
type Part<'a> = (Option<Release>, VecDeque<(&'a file::Scenario, usize)>);

/// Cuts a kernel's runs into what one guest does. Those in a distribution have a guest each.
fn parts(runs: VecDeque<(&file::Scenario, usize)>) -> Vec<Part<'_>> {
    let (around, bare): (VecDeque<_>, VecDeque<_>) = runs
        .into_iter()
        .partition(|(scenario, _)| scenario.text.userland.is_some());
    let around = around
        .into_iter()
        .map(|run| (run.0.text.userland, VecDeque::from([run])));
    // Those take longest: first.
    around
        .chain(even_parts(bare).into_iter().map(|part| (None, part)))
        .collect()
}

/// Cuts runs so that guests side by side have about the same to do.
fn even_parts<T>(mut queue: VecDeque<T>) -> Vec<VecDeque<T>> {
    let guests = queue.len().div_ceil(RUNS_A_GUEST).max(1);
    let each = queue.len().div_ceil(guests);
    let mut parts = Vec::new();
    while !queue.is_empty() {
        let rest = queue.split_off(each.min(queue.len()));
        parts.push(std::mem::replace(&mut queue, rest));
    }
    parts
}

/// Every scenario of the batch, over and over.
fn repeated(batch: &Batch, times: usize) -> VecDeque<(&file::Scenario, usize)> {
    (0..times)
        .flat_map(|repetition| {
            batch
                .scenarios
                .iter()
                .map(move |scenario| (scenario, repetition))
        })
        .collect()
}

/// A failure for each scenario of a kernel that can't be had: never skipped silently.
fn not_run(batch: &Batch, why: &str) -> Vec<Run> {
    eprintln!("{why}");
    let failed = |scenario: &file::Scenario| Run {
        kernel: batch.known.short.to_owned(),
        scenario: scenario.name.clone(),
        repetition: 0,
        seconds: 0.0,
        failures: vec![why.to_owned()],
        given: BTreeSet::new(),
        context: String::new(),
    };
    batch.scenarios.iter().map(failed).collect()
}

/// Works off the queue with `jobs` guests at a time.
fn run_side_by_side(queue: &Mutex<VecDeque<Work<'_>>>, jobs: usize) -> Result<Vec<Run>> {
    let work_off = || -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(work) = next else {
                return Ok(runs);
            };
            runs.extend(work.run()?);
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work_off)).collect();
        let mut runs = Vec::new();
        for thread in threads {
            let result = thread
                .join()
                .map_err(|_panic| anyhow::anyhow!("a thread that watches a guest has panicked"))?;
            runs.extend(result?);
        }
        Ok(runs)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_runs_are_spread_evenly() {
        let sizes = |runs: usize| -> Vec<usize> {
            even_parts((0..runs).collect())
                .iter()
                .map(VecDeque::len)
                .collect()
        };
        assert_eq!(sizes(5), [5]);
        assert_eq!(sizes(30), [30]);
        assert_eq!(sizes(86), [29, 29, 28]);
        assert_eq!(sizes(0), Vec::<usize>::new());
    }
}
