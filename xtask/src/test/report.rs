//! What a test run leaves: a table, the failures in full, and everything the guests sent.

use std::{collections::BTreeSet, fmt, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;
use xtask::{capture::Ended, scenario::ScenarioResult};

use crate::command::tail;

/// Lines shown of a stream that may explain a failure.
const CONTEXT_LINES: usize = 12;
/// Longest line shown of one.
const CONTEXT_COLUMNS: usize = 600;

/// One run of one scenario on one kernel.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// Short name of the kernel.
    pub(crate) kernel: String,
    /// The scenario.
    pub(crate) scenario: String,
    /// Which of several runs, from 0.
    pub(crate) repetition: usize,
    /// With preparing and cleaning up.
    pub(crate) seconds: f64,
    /// Empty if it passed.
    pub(crate) failures: Vec<String>,
    /// The verdicts that its events gave.
    pub(crate) given: BTreeSet<String>,
    /// Ends of events and streams that may explain a failure.
    #[serde(skip)]
    pub(crate) context: String,
}

impl fmt::Display for Run {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            scenario,
            repetition,
            seconds,
            failures,
            given: _,
            context: _,
        } = self;
        let verdict = if failures.is_empty() { "ok" } else { "FAIL" };
        write!(
            formatter,
            "{kernel:<13} {scenario:<40} {verdict:<4} {seconds:6.1} s"
        )?;
        if *repetition > 0 {
            write!(formatter, "  (run {})", repetition + 1)
        } else {
            Ok(())
        }
    }
}

/// A scenario on a kernel, over all its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    NotNamed,
    Passed,
    Failed { failed: usize, runs: usize },
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNamed => formatter.pad("–"),
            Self::Passed => formatter.pad("ok"),
            Self::Failed { runs: 1, .. } => formatter.pad("FAIL"),
            Self::Failed { failed, runs } => formatter.pad(&format!("FAIL {failed}/{runs}")),
        }
    }
}

/// All runs of a test.
#[derive(Clone, Debug)]
pub(crate) struct Report<'a> {
    /// Kernels in the order of their columns.
    pub(crate) kernels: Vec<&'a str>,
    /// In any order.
    pub(crate) runs: &'a [Run],
}

impl Report<'_> {
    /// Cells that passed and cells that failed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let cells = || {
            self.scenarios().into_iter().flat_map(|scenario| {
                self.kernels
                    .iter()
                    .map(move |kernel| self.cell(scenario, kernel))
            })
        };
        let passed = cells().filter(|cell| *cell == Cell::Passed).count();
        let failed = cells()
            .filter(|cell| matches!(cell, Cell::Failed { .. }))
            .count();
        (passed, failed)
    }

    /// Every failure with what may explain it.
    pub(crate) fn failures(&self) -> String {
        let mut lines = Vec::new();
        for (position, run) in self.runs.iter().enumerate() {
            if run.failures.is_empty() {
                continue;
            }
            // What kept every scenario of a kernel from running is said once.
            let is_same = |other: &&Run| {
                run.context.is_empty()
                    && other.context.is_empty()
                    && other.kernel == run.kernel
                    && other.failures == run.failures
            };
            if self.runs[..position].iter().any(|other| is_same(&other)) {
                continue;
            }
            let others = self.runs[position + 1..].iter().filter(is_same).count();
            let Run {
                kernel,
                scenario,
                repetition,
                failures,
                context,
                seconds: _,
                given: _,
            } = run;
            lines.push(String::new());
            lines.push(match repetition {
                _ if others > 0 => format!("FAIL {scenario} and {others} more on {kernel}"),
                0 => format!("FAIL {scenario} on {kernel}"),
                _ => format!("FAIL {scenario} on {kernel} (run {})", repetition + 1),
            });
            lines.extend(
                failures
                    .iter()
                    .flat_map(|failure| failure.lines())
                    .map(|line| format!("  {line}")),
            );
            lines.extend(context.lines().map(|line| format!("    {line}")));
        }
        joined(&lines)
    }

    fn scenarios(&self) -> BTreeSet<&str> {
        self.runs.iter().map(|run| run.scenario.as_str()).collect()
    }

    fn cell(&self, scenario: &str, kernel: &str) -> Cell {
        let here = || {
            self.runs
                .iter()
                .filter(|run| run.scenario == scenario && run.kernel == kernel)
        };
        let failed = here().filter(|run| !run.failures.is_empty()).count();
        match (here().count(), failed) {
            (0, _) => Cell::NotNamed,
            (_, 0) => Cell::Passed,
            (runs, failed) => Cell::Failed { failed, runs },
        }
    }

    /// The table, a row a scenario.
    pub(crate) fn table(&self) -> String {
        let scenarios = self.scenarios();
        let width = scenarios
            .iter()
            .map(|name| name.len())
            .max()
            .unwrap_or_default()
            .max("scenario".len());
        let row = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().flat_map(|cell| ["  ", cell]).collect();
            format!("{name:width$}{cells}").trim_end().to_owned()
        };
        let column = |kernel: &str| kernel.len().max(9);
        let mut rows = vec![row(
            "scenario",
            self.kernels
                .iter()
                .map(|kernel| format!("{kernel:<0$}", column(kernel)))
                .collect(),
        )];
        for scenario in scenarios {
            let cells = self
                .kernels
                .iter()
                .map(|kernel| format!("{:<1$}", self.cell(scenario, kernel), column(kernel)));
            rows.push(row(scenario, cells.collect()));
        }
        joined(&rows)
    }
}

/// Each line with its end.
fn joined(lines: &[String]) -> String {
    lines
        .iter()
        .flat_map(|line| [line.as_str(), "\n"])
        .collect()
}

/// The ends of events and streams.
pub(crate) fn context(result: &ScenarioResult) -> String {
    let stream = |ended: &Option<Ended>, pick: fn(&Ended) -> &String| {
        ended.as_ref().map(pick).cloned().unwrap_or_default()
    };
    let parts = [
        ("events", result.events.clone()),
        (
            "the daemon's stderr",
            stream(&result.daemon, |ended| &ended.stderr),
        ),
        (
            "the workload's stdout",
            stream(&result.workload, |ended| &ended.stdout),
        ),
        (
            "the workload's stderr",
            stream(&result.workload, |ended| &ended.stderr),
        ),
    ];
    let mut lines = Vec::new();
    for (name, contents) in parts {
        if contents.trim().is_empty() {
            continue;
        }
        lines.push(format!("--- end of {name} ---"));
        for line in tail(contents.trim_end(), CONTEXT_LINES).lines() {
            let short: String = line.chars().take(CONTEXT_COLUMNS).collect();
            let cut = if short.len() < line.len() { " …" } else { "" };
            lines.push(format!("{short}{cut}"));
        }
    }
    joined(&lines)
}

/// Writes everything a guest sent about one run.
pub(crate) fn save(directory: &Path, result: &ScenarioResult, console: &str) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let write = |name: &str, contents: &str| {
        let path = directory.join(name);
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))
    };
    write("events.jsonl", &result.events)?;
    write("console.log", console)?;
    for (name, ended) in [("daemon", &result.daemon), ("workload", &result.workload)] {
        if let Some(Ended {
            exit,
            stdout,
            stderr,
            seconds,
        }) = ended
        {
            write(&format!("{name}-stdout"), stdout)?;
            write(&format!("{name}-stderr"), stderr)?;
            let exit = exit.map_or_else(|| "killed".to_owned(), |exit| exit.to_string());
            write(
                &format!("{name}-exit"),
                &format!("{exit} after {seconds:.3} s\n"),
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kernel: &str, scenario: &str, repetition: usize, failures: &[&str]) -> Run {
        Run {
            kernel: kernel.to_owned(),
            scenario: scenario.to_owned(),
            repetition,
            seconds: 1.0,
            failures: failures
                .iter()
                .map(|failure| (*failure).to_owned())
                .collect(),
            given: BTreeSet::new(),
            context: String::new(),
        }
    }

    #[test]
    fn the_table_counts_cells_not_runs() {
        let runs = [
            run("6.1", "corked", 0, &[]),
            run("6.1", "corked", 1, &["no event"]),
            run("7.3", "corked", 0, &[]),
            run("7.3", "corked", 1, &[]),
            run("7.3", "healthy-mss", 0, &["an event\n  {}"]),
        ];
        let report = Report {
            kernels: vec!["6.1", "7.3"],
            runs: &runs,
        };
        assert_eq!(report.counts(), (1, 2));
        assert_eq!(
            report.table(),
            "scenario     6.1        7.3\n\
             corked       FAIL 1/2   ok\n\
             healthy-mss  –          FAIL\n"
        );
        assert_eq!(
            report.failures(),
            "\nFAIL corked on 6.1 (run 2)\n  no event\n\nFAIL healthy-mss on 7.3\n  an event\n    {}\n"
        );
    }

    #[test]
    fn what_kept_all_scenarios_of_a_kernel_from_running_is_said_once() {
        let why = "no kernel 7.2: sid has none";
        let runs = [
            run("7.2", "corked", 0, &[why]),
            run("7.3", "corked", 0, &[]),
            run("7.2", "healthy", 0, &[why]),
            run("7.2", "netns", 0, &["no event"]),
        ];
        let report = Report {
            kernels: vec!["7.2", "7.3"],
            runs: &runs,
        };
        assert_eq!(report.counts(), (1, 3));
        assert_eq!(
            report.failures(),
            "\nFAIL corked and 1 more on 7.2\n  no kernel 7.2: sid has none\n\nFAIL netns on 7.2\n  no event\n"
        );
    }

    #[test]
    fn a_failure_is_explained_by_the_ends_of_streams() {
        let events = joined(&(0..20).map(|number| number.to_string()).collect::<Vec<_>>());
        let result = ScenarioResult {
            events,
            ..ScenarioResult::default()
        };
        let context = context(&result);
        assert!(
            context.starts_with("--- end of events ---\n8\n") && context.ends_with("19\n"),
            "{context}"
        );
        assert!(!context.contains("stderr"));
    }
}
