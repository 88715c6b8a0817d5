//! The verb: arguments, the order of things, and the last line.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{
    file,
    guests::Work,
    report::{Report, Run},
    select::{Batch, Wishes, select},
    unit,
};
use crate::{
    guest_image::{Bootable, Programs},
    place::Place,
    setup::{self, Needs},
};

/// Runs the unit tests, then every scenario on every kernel it names
///
/// A kernel's scenarios share a boot. What the guests sent is in target/xtask/results, with report.json. The last line
/// counts scenarios × kernels: `N passed, N failed`.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Only on this kernel; may be given again
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// Only scenarios of this name, with * and ?; may be given again
    #[arg(long, value_name = "GLOB")]
    scenario: Vec<String>,
    /// Scenarios only
    #[arg(long)]
    no_unit: bool,
    /// Run each scenario on every kernel we know, not only on those it names
    #[arg(long)]
    all_kernels: bool,
    /// Run each scenario this often; one failure fails it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Guests side by side
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
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
        scenarios_dir,
    } = arguments;
    let directory = scenarios_dir
        .clone()
        .unwrap_or_else(|| place.workspace.join("xtask/scenarios"));
    let scenarios = file::read_all(&directory)?;
    let wishes = Wishes {
        kernels: kernel,
        globs: scenario,
        all_kernels: *all_kernels,
    };
    let batches =
        select(&scenarios, wishes).with_context(|| format!("in {}", directory.display()))?;

    setup::ensure(place, Needs::Guests)?;
    let units_passed = if *no_unit {
        true
    } else {
        let passed = unit::run(place)?;
        println!(
            "unit and host tests: {}",
            if passed { "ok" } else { "FAILED" }
        );
        passed
    };
    let programs = Programs::prepare(place)?;
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
            .map(|(batch, bootable)| Work {
                bootable,
                programs: &programs,
                queue: repeated(batch, usize::from(*repeat)),
                results: results.join(batch.known.short),
            })
            .collect(),
    );
    runs.extend(run_side_by_side(&queue, usize::from(*jobs))?);
    let column = |kernel: &str| batches.iter().position(|batch| batch.known.short == kernel);
    runs.sort_by_key(|run| (run.scenario.clone(), column(&run.kernel), run.repetition));

    let json = results.join("report.json");
    fs::create_dir_all(&results).with_context(|| format!("creating {}", results.display()))?;
    fs::write(
        &json,
        serde_json::to_vec_pretty(&runs).context("encoding the report")?,
    )
    .with_context(|| format!("writing {}", json.display()))?;
    let report = Report {
        kernels: batches.iter().map(|batch| batch.known.short).collect(),
        runs: &runs,
    };
    let (passed, failed) = report.counts();
    print!(
        "{}\n{}\n{passed} passed, {failed} failed\n",
        report.failures(),
        report.table()
    );
    Ok(if failed == 0 && units_passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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
