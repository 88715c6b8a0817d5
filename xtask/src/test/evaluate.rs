//! Judges what a guest reports against what the scenario expects. Pure, so that a wrong expectation is found without a guest.

use std::collections::BTreeSet;

use serde_json::Value;
use xtask::{capture::Ended, scenario::ScenarioResult};

use super::{
    file::{
        Agreement, Count, ExpectedEvent, ExpectedOutput, ForbiddenEvent, OutputStream, Scenario,
        WorkloadExpectation,
    },
    matcher::Where,
};

/// Events shown of those that came close.
const NEAREST: usize = 3;

/// Everything that is not as expected, each a sentence or two; empty for a scenario that passes.
pub(crate) fn evaluate(scenario: &Scenario, result: &ScenarioResult) -> Vec<String> {
    let job = scenario.job();
    let mut failures = result.problems.clone();
    if let Some(daemon) = &job.daemon {
        check_exit(
            "the daemon",
            Some(daemon.exit),
            result.daemon.as_ref(),
            &mut failures,
        );
    }
    check_exit(
        "the workload",
        job.workload.exit,
        result.workload.as_ref(),
        &mut failures,
    );

    failures.extend(evaluate_events(scenario, &result.events));
    let text = &scenario.text;
    failures.extend(
        text.output
            .iter()
            .filter_map(|expected| check_output(expected, result)),
    );
    if !text.workload_expect.is_empty() || !text.agree.is_empty() {
        match workload_object(result) {
            Ok(workload) => {
                let (events, _told) = parse_events(&result.events);
                failures.extend(
                    text.workload_expect
                        .iter()
                        .flat_map(|expected| check_workload(expected, &workload)),
                );
                failures.extend(
                    text.agree
                        .iter()
                        .filter_map(|agreement| check_agreement(agreement, &events, &workload)),
                );
            }
            Err(failure) => failures.push(failure),
        }
    }
    failures
}

/// What is not as expected of the events alone, from a guest or replayed from a recording.
pub(crate) fn evaluate_events(scenario: &Scenario, events: &str) -> Vec<String> {
    let (events, mut failures) = parse_events(events);
    let text = &scenario.text;
    failures.extend(
        text.expect
            .iter()
            .filter_map(|expected| check_expected(expected, &events)),
    );
    failures.extend(
        text.forbid
            .iter()
            .filter_map(|forbidden| check_forbidden(forbidden, &events)),
    );
    failures
}

fn check_exit(who: &str, expected: Option<i32>, ended: Option<&Ended>, failures: &mut Vec<String>) {
    let Some(ended) = ended else {
        // The problems say why.
        if failures.is_empty() {
            failures.push(format!("{who} was not run"));
        }
        return;
    };
    match (expected, ended.exit) {
        (Some(expected), Some(exit)) if expected != exit => {
            failures.push(format!(
                "{who} ended with status {exit}, expected {expected}"
            ));
        }
        (Some(expected), None) => failures.push(format!(
            "{who} had to be killed, expected status {expected}"
        )),
        _ => {}
    }
}

/// The events, and a sentence about each line that is none.
fn parse_events(text: &str) -> (Vec<Value>, Vec<String>) {
    let mut events = Vec::new();
    let mut broken = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(event) => events.push(event),
            Err(error) => broken.push(format!(
                "line {} of the events is no JSON: {error}",
                index + 1
            )),
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        broken.push("the last line of the events has no end".to_owned());
    }
    (events, broken)
}

/// The events of one kind.
fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| kind == "*" || event.get("event").and_then(Value::as_str) == Some(kind))
        .collect()
}

fn described(kind: &str, matching: &Where) -> String {
    let conditions = matching.to_string();
    if conditions.is_empty() {
        format!("`{kind}`")
    } else {
        format!("`{kind}` with {conditions}")
    }
}

fn check_expected(expected: &ExpectedEvent, events: &[Value]) -> Option<String> {
    let ExpectedEvent {
        event,
        matching,
        count: Count { min, max },
        distinct,
    } = expected;
    let candidates = of_kind(events, event);
    let mismatches: Vec<Vec<String>> = candidates
        .iter()
        .map(|candidate| matching.mismatches(candidate))
        .collect();
    let matching_ones = candidates
        .iter()
        .zip(&mismatches)
        .filter(|(_, mismatches)| mismatches.is_empty());
    let matched = match distinct {
        None => matching_ones.count(),
        Some(pointer) => matching_ones
            .filter_map(|(candidate, _)| Some(candidate.pointer(pointer)?.to_string()))
            .collect::<BTreeSet<_>>()
            .len(),
    };
    if matched >= *min && max.is_none_or(|max| matched <= max) {
        return None;
    }
    let wanted = match max {
        Some(max) if max == min => format!("{min}"),
        Some(max) => format!("{min} to {max}"),
        None => format!("at least {min}"),
    };
    let mut failure = match distinct {
        None => format!(
            "expected {wanted} {}: {matched} of {} match",
            described(event, matching),
            candidates.len()
        ),
        Some(pointer) => format!(
            "expected {wanted} different {pointer} in {}: there are {matched} in {} events",
            described(event, matching),
            candidates.len()
        ),
    };
    if matched < *min {
        let mut near: Vec<&Vec<String>> = mismatches
            .iter()
            .filter(|mismatches| !mismatches.is_empty())
            .collect();
        near.sort_by_key(|mismatches| mismatches.len());
        for mismatches in near.into_iter().take(NEAREST) {
            failure.push_str("\n  ");
            failure.push_str(&mismatches.join("; "));
        }
    }
    Some(failure)
}

fn check_forbidden(forbidden: &ForbiddenEvent, events: &[Value]) -> Option<String> {
    let ForbiddenEvent { event, matching } = forbidden;
    let mut offending = of_kind(events, event);
    offending.retain(|candidate| matching.mismatches(candidate).is_empty());
    let first = offending.first()?;
    Some(format!(
        "expected no {}: there are {}, the first\n  {first}",
        described(event, matching),
        offending.len()
    ))
}

fn check_output(expected: &ExpectedOutput, result: &ScenarioResult) -> Option<String> {
    let ExpectedOutput {
        stream,
        contains,
        absent,
    } = expected;
    let (name, text) = match stream {
        OutputStream::DaemonStdout => (
            "the daemon's stdout",
            result.daemon.as_ref().map(|ended| &ended.stdout),
        ),
        OutputStream::DaemonStderr => (
            "the daemon's stderr",
            result.daemon.as_ref().map(|ended| &ended.stderr),
        ),
        OutputStream::WorkloadStdout => (
            "the workload's stdout",
            result.workload.as_ref().map(|ended| &ended.stdout),
        ),
        OutputStream::WorkloadStderr => (
            "the workload's stderr",
            result.workload.as_ref().map(|ended| &ended.stderr),
        ),
    };
    let Some(text) = text else {
        return Some(format!("{name}: it was not run"));
    };
    if let Some(wanted) = contains
        && !text.contains(wanted)
    {
        return Some(format!("{name}: expected {wanted:?} in it"));
    }
    if let Some(unwanted) = absent
        && let Some(line) = text.lines().find(|line| line.contains(unwanted))
    {
        return Some(format!(
            "{name}: expected no {unwanted:?} in it, got\n  {line}"
        ));
    }
    None
}

fn workload_object(result: &ScenarioResult) -> Result<Value, String> {
    let text = result
        .workload
        .as_ref()
        .map_or("", |ended| ended.stdout.trim());
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err("the workload's stdout is no JSON object".to_owned()),
        Err(error) => Err(format!("the workload's stdout is no JSON object: {error}")),
    }
}

fn check_workload(expected: &WorkloadExpectation, workload: &Value) -> Vec<String> {
    let mismatches = expected.matching.mismatches(workload);
    mismatches
        .into_iter()
        .map(|mismatch| format!("the workload's result: {mismatch}"))
        .collect()
}

fn check_agreement(agreement: &Agreement, events: &[Value], workload: &Value) -> Option<String> {
    let Agreement {
        events: kind,
        matching,
        pointer,
        workload: other,
        within_percent,
        within,
    } = agreement;
    let mut counted = of_kind(events, kind);
    counted.retain(|event| matching.mismatches(event).is_empty());
    if counted.is_empty() {
        return Some(format!(
            "no {} to sum {pointer} over",
            described(kind, matching)
        ));
    }
    let mut sum = 0.0;
    for event in &counted {
        let Some(number) = event.pointer(pointer).and_then(Value::as_f64) else {
            return Some(format!(
                "an event {} has no number at {pointer}",
                described(kind, matching)
            ));
        };
        sum += number;
    }
    let Some(reference) = workload.pointer(other).and_then(Value::as_f64) else {
        return Some(format!("the workload's result has no number at {other}"));
    };
    let allowed = reference.abs() * within_percent / 100.0 + within;
    if (sum - reference).abs() <= allowed {
        return None;
    }
    Some(format!(
        "expected the sum of {pointer} over {} {} within {allowed} of the workload's {other}, {reference}: got {sum}",
        counted.len(),
        described(kind, matching),
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::file::tests::parse, *};

    const HEAD: &str = "about = \"x\"\nkernels = [\"6.12\"]\ntimeout_s = 5\n[daemon]\n[workload]\ncommand = [\"true\"]\n";

    fn ended(code: i32, stdout: &str) -> Ended {
        Ended {
            exit: Some(code),
            stdout: stdout.to_owned(),
            ..Ended::default()
        }
    }

    fn good() -> ScenarioResult {
        ScenarioResult {
            problems: Vec::new(),
            events: "{\"event\":\"started\"}\n\
                     {\"event\":\"stall-closed\",\"verdict\":\"corked\",\"bytes\":60}\n\
                     {\"event\":\"stall-closed\",\"verdict\":\"unknown\",\"bytes\":45}\n"
                .to_owned(),
            daemon: Some(ended(0, "daemon says")),
            workload: Some(ended(0, "{\"bytes\":100}")),
            seconds: 1.0,
        }
    }

    fn failures(expectations: &str, result: &ScenarioResult) -> Vec<String> {
        evaluate(&parse(&format!("{HEAD}{expectations}")).unwrap(), result)
    }

    #[test]
    fn a_scenario_that_holds_has_no_failures() {
        let expectations = "exit = 0\n\
            [[expect]]\nevent = \"stall-closed\"\nwhere = { \"/verdict\" = \"corked\" }\ncount = { min = 1, max = 1 }\n\
            [[forbid]]\nevent = \"stall-closed\"\nwhere = { \"/verdict\" = \"zero-window\" }\n\
            [[output]]\nstream = \"daemon-stdout\"\ncontains = \"says\"\n\
            [[output]]\nstream = \"workload-stderr\"\nabsent = \"panicked\"\n\
            [[workload-expect]]\nwhere = { \"/bytes\" = { min = 100 } }\n\
            [[agree]]\nevents = \"stall-closed\"\npointer = \"/bytes\"\nworkload = \"/bytes\"\nwithin_percent = 5\n";
        assert_eq!(failures(expectations, &good()), [""; 0]);
    }

    #[test]
    fn a_missing_event_names_what_came_nearest() {
        let found = failures(
            "[[expect]]\nevent = \"stall-closed\"\nwhere = { \"/verdict\" = \"zero-window\", \"/bytes\" = 45 }\n",
            &good(),
        );
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("expected at least 1 `stall-closed` with /bytes 45, /verdict \"zero-window\": 0 of 2 match\n"));
        assert!(
            found[0].contains("\n  /verdict: expected \"zero-window\", got \"unknown\"\n"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn too_many_events_are_a_failure() {
        let found = failures(
            "[[expect]]\nevent = \"stall-closed\"\ncount = { min = 1, max = 1 }\n",
            &good(),
        );
        assert_eq!(found, ["expected 1 `stall-closed`: 2 of 2 match"]);
        let found = failures(
            "[[expect]]\nevent = \"lost\"\ncount = { min = 0, max = 0 }\n",
            &good(),
        );
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn different_values_are_counted_where_events_may_repeat() {
        let expect = |pointer: &str, count: u32| {
            failures(
                &format!(
                    "[[expect]]\nevent = \"stall-closed\"\ndistinct = \"{pointer}\"\ncount = {{ min = {count}, max = {count} }}\n"
                ),
                &good(),
            )
        };
        assert_eq!(expect("/bytes", 2), [""; 0]);
        assert_eq!(expect("/event", 1), [""; 0]);
        assert_eq!(
            expect("/event", 2),
            ["expected 2 different /event in `stall-closed`: there are 1 in 2 events"]
        );
    }

    #[test]
    fn a_forbidden_event_is_shown() {
        let found = failures(
            "[[forbid]]\nevent = \"stall-closed\"\nwhere = { \"/verdict\" = \"corked\" }\n",
            &good(),
        );
        assert!(
            found[0].starts_with("expected no `stall-closed`") && found[0].contains("\"bytes\":60"),
            "{found:?}"
        );
    }

    #[test]
    fn wrong_ends_are_failures() {
        let mut result = good();
        result.daemon = Some(ended(101, ""));
        result.workload = Some(Ended::default());
        let found = failures("exit = 0\n", &result);
        assert_eq!(
            found,
            [
                "the daemon ended with status 101, expected 0",
                "the workload had to be killed, expected status 0"
            ]
        );
    }

    #[test]
    fn problems_of_the_run_are_failures() {
        let mut result = good();
        result.problems = vec!["the daemon did not say".to_owned()];
        result.workload = None;
        assert_eq!(failures("", &result), ["the daemon did not say"]);
    }

    #[test]
    fn broken_events_are_failures() {
        let mut result = good();
        result.events = "{\"event\":\"started\"}\nboom\n".to_owned();
        assert!(failures("", &result)[0].starts_with("line 2 of the events is no JSON"));
        result.events = "{\"event\":\"started\"}".to_owned();
        assert_eq!(
            failures("", &result),
            ["the last line of the events has no end"]
        );
    }

    #[test]
    fn output_is_judged_per_stream() {
        let found = failures(
            "[[output]]\nstream = \"daemon-stderr\"\ncontains = \"says\"\n[[output]]\nstream = \"daemon-stdout\"\nabsent = \"says\"\n",
            &good(),
        );
        assert_eq!(
            found,
            [
                "the daemon's stderr: expected \"says\" in it",
                "the daemon's stdout: expected no \"says\" in it, got\n  daemon says",
            ]
        );
    }

    #[test]
    fn sums_that_disagree_are_a_failure() {
        let agree = |percent: u32, pointer: &str| {
            failures(
                &format!(
                    "[[agree]]\nevents = \"stall-closed\"\npointer = \"{pointer}\"\nworkload = \"/bytes\"\nwithin_percent = {percent}\n"
                ),
                &good(),
            )
        };
        assert!(agree(4, "/bytes")[0].ends_with("within 4 of the workload's /bytes, 100: got 105"));
        assert_eq!(agree(5, "/bytes"), [""; 0]);
        let at_most = |within: &str| {
            failures(
                &format!(
                    "[[agree]]\nevents = \"stall-closed\"\npointer = \"/bytes\"\nworkload = \"/bytes\"\nwithin_percent = 0\nwithin = {within}\n"
                ),
                &good(),
            )
        };
        assert_eq!(at_most("5"), [""; 0]);
        assert!(at_most("4.5")[0].ends_with("within 4.5 of the workload's /bytes, 100: got 105"));
        assert_eq!(
            agree(4, "/nothing"),
            ["an event `stall-closed` has no number at /nothing"]
        );
    }

    #[test]
    fn a_workload_that_prints_no_json_is_a_failure_when_it_is_asked_for() {
        let mut result = good();
        result.workload = Some(ended(0, "100 bytes"));
        assert!(
            failures("[[workload-expect]]\nwhere = { \"/bytes\" = 1 }\n", &result)[0]
                .contains("no JSON object")
        );
        assert_eq!(failures("", &result), [""; 0]);
    }
}
