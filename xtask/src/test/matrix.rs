//! The confusion matrix: for each scenario the verdict that it expects, and for each kernel the verdicts that were
//! given. What is expected is read from the scenario itself, so that the two can't come apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;

use super::{file::Scenario, report::Run};

/// The verdict that nobody may be told wrongly.
const CORKED: &str = "corked-completed-record";
/// Stands for no stall event at all.
const NONE: &str = "none";

/// The verdicts that stall events of a run give; [`NONE`] if there is none.
pub(crate) fn given(events: &str) -> BTreeSet<String> {
    let mut verdicts: BTreeSet<String> = events
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|event| Some(event.get("verdict")?.as_str()?.to_owned()))
        .collect();
    if verdicts.is_empty() {
        verdicts.insert(NONE.to_owned());
    }
    verdicts
}

/// What a scenario expects of verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    /// Verdicts that must be given, alternatives in one; empty for a scenario that expects none by name.
    must: BTreeSet<String>,
    /// Whether `corked-completed-record` may not be given.
    never_corked: bool,
    /// Whether no stall at all may be told.
    silent: bool,
}

impl Expected {
    fn of(scenario: &Scenario) -> Self {
        let text = &scenario.text;
        let must = text
            .expect
            .iter()
            .filter(|expected| expected.event.starts_with("stall-"))
            .map(|expected| expected.matching.texts("/verdict").join(" or "))
            .filter(|verdicts| !verdicts.is_empty())
            .collect();
        let forbids_corked = text.forbid.iter().any(|forbidden| {
            let of_stalls = forbidden.event == "*" || forbidden.event.starts_with("stall-");
            let matching = &forbidden.matching;
            of_stalls && !matching.is_empty() && matching.is_met_by("/verdict", CORKED)
        });
        let silent = text
            .forbid
            .iter()
            .any(|forbidden| forbidden.event == "stall-opened" && forbidden.matching.is_empty());
        Self {
            must,
            never_corked: silent || forbids_corked,
            silent,
        }
    }

    /// Whether the scenario says anything about verdicts.
    fn says_something(&self) -> bool {
        !self.must.is_empty() || self.never_corked
    }

    fn in_words(&self) -> String {
        match (self.must.is_empty(), self.silent) {
            (false, _) => joined(&self.must),
            (true, true) => NONE.to_owned(),
            (true, false) => format!("anything but {CORKED}"),
        }
    }
}

fn joined(verdicts: &BTreeSet<String>) -> String {
    verdicts.iter().cloned().collect::<Vec<_>>().join(", ")
}

/// The matrix as Markdown.
pub(crate) fn table(scenarios: &[Scenario], kernels: &[&str], runs: &[Run]) -> String {
    let mut text = String::new();
    // Writing to a String can't fail.
    let mut line = |cells: String| writeln!(text, "{cells}").unwrap_or_default();
    let columns: String = kernels
        .iter()
        .flat_map(|kernel| [" ", kernel, " |"])
        .collect();
    line(format!("| scenario | expected |{columns}"));
    line(format!("|---|---|{}", "---|".repeat(kernels.len())));
    let (mut cells, mut wrong, mut falsely, mut missed) = (0, 0, 0, 0);
    let mut sums: BTreeMap<(String, String), usize> = BTreeMap::new();
    for scenario in scenarios {
        let expected = Expected::of(scenario);
        let here = |kernel: &str| {
            runs.iter()
                .filter(|run| run.scenario == scenario.name && run.kernel == kernel)
                .collect::<Vec<_>>()
        };
        if !expected.says_something() || kernels.iter().all(|kernel| here(kernel).is_empty()) {
            continue;
        }
        let mut row = format!("| {} | {} |", scenario.name, expected.in_words());
        for kernel in kernels {
            let runs = here(kernel);
            if runs.is_empty() {
                row.push_str(" – |");
                continue;
            }
            let given: BTreeSet<String> = runs.iter().flat_map(|run| run.given.clone()).collect();
            let failed = runs.iter().any(|run| !run.failures.is_empty());
            cells += 1;
            wrong += usize::from(failed);
            falsely += usize::from(expected.never_corked && given.contains(CORKED));
            // In each run of its own.
            let misses = runs.iter().any(|run| !run.given.contains(CORKED));
            missed += usize::from(expected.must.contains(CORKED) && misses);
            *sums
                .entry((expected.in_words(), joined(&given)))
                .or_default() += 1;
            let mark = if failed { " **FAIL**" } else { "" };
            write!(row, " {}{mark} |", joined(&given)).unwrap_or_default();
        }
        line(row);
    }
    line(String::new());
    line(format!(
        "{cells} cells, {wrong} wrong; {falsely} false {CORKED}, {missed} missed."
    ));
    line(String::new());
    line("| expected | given | cells |".to_owned());
    line("|---|---|---|".to_owned());
    for ((expected, given), cells) in &sums {
        line(format!("| {expected} | {given} | {cells} |"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::file::tests::parse, *};

    const HEAD: &str = "about = \"x\"\nkernels = [\"6.12\"]\ntimeout_s = 5\n[daemon]\n[workload]\ncommand = [\"a\"]\n";

    fn expected(rest: &str) -> Expected {
        Expected::of(&parse(&format!("{HEAD}{rest}")).unwrap())
    }

    fn run(given: &[&str]) -> Run {
        Run {
            kernel: "6.12".to_owned(),
            scenario: "example".to_owned(),
            repetition: 0,
            seconds: 1.0,
            failures: Vec::new(),
            given: given.iter().map(|verdict| (*verdict).to_owned()).collect(),
            context: String::new(),
        }
    }

    #[test]
    fn what_is_expected_is_read_from_the_scenario() {
        let corked = expected(
            "[[expect]]\nevent = \"stall-closed\"\nwhere = { \"/verdict\" = \"corked-completed-record\" }\n",
        );
        assert_eq!(corked.in_words(), CORKED);
        let silent = expected("[[forbid]]\nevent = \"stall-opened\"\n");
        assert!(silent.silent && silent.never_corked);
        let not_corked = expected(
            "[[forbid]]\nevent = \"*\"\nwhere = { \"/verdict\" = \"corked-completed-record\" }\n",
        );
        assert!(not_corked.never_corked && !not_corked.silent);
    }

    #[test]
    fn alternatives_and_what_is_forbidden_among_others_count_too() {
        let either = expected(
            "[[expect]]\nevent = \"stall-closed\"\nwhere = { \"/verdict\" = { one_of = [\"unknown\", \"nagle\"] } }\n",
        );
        assert_eq!(either.in_words(), "unknown or nagle");
        for forbidden in [
            "{ one_of = [\"corked-completed-record\", \"unknown\"] }",
            "{ not = \"network-limited\" }",
        ] {
            let text =
                format!("[[forbid]]\nevent = \"*\"\nwhere = {{ \"/verdict\" = {forbidden} }}\n");
            assert!(expected(&text).never_corked, "{forbidden}");
        }
        let only_proven = "[[forbid]]\nevent = \"*\"\nwhere = { \"/confidence\" = \"proven\" }\n";
        assert!(!expected(only_proven).never_corked);
    }

    #[test]
    fn one_run_of_several_that_misses_it_is_a_miss() {
        let corked = parse(&format!(
            "{HEAD}[[expect]]\nevent = \"stall-closed\"\nwhere = {{ \"/verdict\" = \"{CORKED}\" }}\n"
        ))
        .unwrap();
        let text = table(&[corked], &["6.12"], &[run(&[CORKED]), run(&["unknown"])]);
        assert!(text.contains("1 missed"), "{text}");
    }

    #[test]
    fn a_false_verdict_and_a_missed_one_are_counted() {
        let silent = parse(&format!("{HEAD}[[forbid]]\nevent = \"stall-opened\"\n")).unwrap();
        let text = table(&[silent], &["6.12"], &[run(&[CORKED])]);
        assert!(text.contains("1 false"), "{text}");
        let corked = parse(&format!(
            "{HEAD}[[expect]]\nevent = \"stall-closed\"\nwhere = {{ \"/verdict\" = \"{CORKED}\" }}\n"
        ))
        .unwrap();
        let text = table(&[corked], &["6.12"], &[run(&["unknown"])]);
        assert!(text.contains("1 missed"), "{text}");
    }

    #[test]
    fn the_verdicts_given_are_those_of_the_events() {
        let events =
            "{\"event\":\"started\"}\n{\"event\":\"stall-opened\",\"verdict\":\"unknown\"}\n";
        assert_eq!(joined(&given(events)), "unknown");
        assert_eq!(joined(&given("")), "none");
    }
}
