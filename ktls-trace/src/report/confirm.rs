//! The findings of `confirm` as text that can be pasted into a mail: ASCII, at most 78 columns.

use std::fmt::Write as _;

use crate::{
    confirm::{Findings, Outcome, RunReport, RunStatus, WorkloadReport},
    correlate::chain::Status,
};

/// Widest line, in characters.
const WIDTH: usize = 78;
/// Where the details of a link begin.
const DETAIL: usize = 39;

/// Writing to a `String` cannot fail.
macro_rules! add {
    ($text:expr, $($format:tt)*) => {{
        let _infallible = write!($text, $($format)*);
    }};
}

/// The findings as text, ending in a newline.
pub fn findings(findings: &Findings) -> String {
    let mut text = String::new();
    add!(
        text,
        "ktls-trace {} confirm, kernel {}\n",
        findings.version,
        findings.kernel
    );
    let workload = match &findings.workload {
        WorkloadReport::BuiltIn(described) => described.clone(),
        WorkloadReport::Command(argv) => argv.join(" "),
    };
    wrapped(&mut text, "workload: ", &workload);
    let outcome = match findings.outcome {
        Outcome::Confirmed => "CONFIRMED: ",
        Outcome::NotSeen => "NOT SEEN: ",
        Outcome::Refuted => "REFUTED: ",
        Outcome::CouldNotTell => "COULD NOT TELL: ",
    };
    wrapped(&mut text, outcome, &findings.summary);
    for difference in &findings.differences {
        wrapped(&mut text, "  differs: ", difference);
    }
    for line in &findings.cannot_see {
        wrapped(&mut text, "  not seen: ", line);
    }

    add!(
        text,
        "\n{:<23}{:<16}{}\n",
        "link",
        "status",
        "what was seen"
    );
    for link in &findings.chain {
        let status = match link.status {
            Status::Seen => "seen",
            Status::Refuted => "refuted",
            Status::NotObservable => "not observable",
        };
        let head = format!("{:<23}{status:<16}", link.link.name());
        wrapped(&mut text, &head, &link.detail);
    }

    let answers: Vec<_> = findings
        .answers
        .iter()
        .filter_map(|answer| Some((&answer.asked, answer.answer.as_ref()?)))
        .collect();
    if !answers.is_empty() {
        text.push_str("\nWhat the kernel list asked\n");
    }
    for (asked, answer) in answers {
        wrapped(&mut text, "  ", asked);
        wrapped(&mut text, "    ", answer);
    }

    add!(
        text,
        "\n{:<25}{:>10}{:>9}{:>7}{:>8}  {}\n",
        "run",
        "MiB/s",
        "times",
        "holds",
        "stalls",
        "result"
    );
    for run in &findings.runs {
        row(&mut text, run);
    }
    let not_needed = |run: &RunReport| run.status == RunStatus::NotNeeded;
    if findings.runs.iter().any(not_needed) {
        text.push_str("there is no stall that a flip could heal\n");
    } else {
        wrapped(&mut text, "", &findings.criterion);
    }
    text
}

/// A run as a line, and below it what was changed.
fn row(text: &mut String, run: &RunReport) {
    let result = match run.status {
        RunStatus::Baseline => "baseline",
        RunStatus::Heals => "heals",
        RunStatus::DoesNotHeal => "DOES NOT HEAL",
        RunStatus::NotApplicable => "not applicable",
        RunStatus::NotNeeded => "not needed",
        RunStatus::Failed => "FAILED",
    };
    let times = run
        .times_baseline
        .map_or_else(String::new, |times| format!("{times:.0}x"));
    add!(
        text,
        "{:<25}{:>10}{times:>9}{:>7}{:>8}  {result}\n",
        run.run.title(),
        shown(run.mib_per_s.map(|rate| format!("{rate:.2}"))),
        shown(run.holds.map(|count| count.to_string())),
        shown(run.corked_stalls.map(|count| count.to_string())),
    );
    if run.status == RunStatus::NotNeeded {
        return;
    }
    wrapped(text, "  ", &run.changed);
    if let Some(note) = &run.note {
        wrapped(text, "  ", note);
    }
}

/// A value, or a dash.
fn shown(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

/// Adds words behind a head, wrapped and indented below it.
fn wrapped(text: &mut String, head: &str, words: &str) {
    let indent = head.len().min(DETAIL);
    let mut line = head.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.len() + 1 + word.len() > WIDTH {
            add!(text, "{}\n", line.trim_end());
            line = " ".repeat(indent);
            empty = true;
        }
        // A chain of flags breaks where its parts meet.
        let mut word = word;
        while line.len() + usize::from(!empty) + word.len() > WIDTH {
            let room = WIDTH.saturating_sub(line.len() + usize::from(!empty));
            let Some(at) = word.get(..room).and_then(|part| part.rfind('|')) else {
                break;
            };
            let (part, rest) = word.split_at(at + 1);
            add!(text, "{line}{}{part}\n", if empty { "" } else { " " });
            line = " ".repeat(indent);
            empty = true;
            word = rest;
        }
        add!(line, "{}{word}", if empty { "" } else { " " });
        empty = false;
    }
    add!(text, "{}\n", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        confirm::{RunName, SCHEMA},
        correlate::chain::LinkName,
    };

    fn made_up() -> Findings {
        let long = "sh -c ./server --port 8443 & sleep 1; ".repeat(4);
        Findings {
            schema: SCHEMA.to_owned(),
            version: "0.1.0".to_owned(),
            kernel: "6.12.117+deb13-cloud-amd64".to_owned(),
            workload: WorkloadReport::Command(vec![long]),
            outcome: Outcome::Refuted,
            summary: "the chain breaks at gate-shuts: no writer was refused at all".to_owned(),
            broken_at: Some(LinkName::GateShuts),
            differences: vec![
                "release-delayed: no timer is armed, and nobody lets it go".to_owned(),
            ],
            chain: vec![crate::confirm::LinkFinding {
                link: LinkName::RecordBelowMssHeld,
                status: Status::NotObservable,
                count: None,
                of: None,
                detail: "MSG_DONTWAIT|MSG_NOSIGNAL|MSG_MORE|MSG_SPLICE_PAGES and more of it"
                    .to_owned(),
                counts: std::collections::BTreeMap::new(),
                values: std::collections::BTreeMap::new(),
                flags: std::collections::BTreeMap::new(),
            }],
            answers: Vec::new(),
            runs: vec![RunReport {
                run: RunName::AsIsInNamespace,
                status: RunStatus::DoesNotHeal,
                changed: "network namespace of its own, settings of the host".to_owned(),
                mib_per_s: Some(123_456.78),
                times_baseline: Some(123_456.7),
                duration_ms: Some(3000),
                bytes: Some(1 << 40),
                corked_stalls: Some(1000),
                stalls: Some(1000),
                holds: Some(100_000),
                note: None,
            }],
            criterion: "a flip heals if throughput is at least 5 times the baseline's".to_owned(),
            cannot_see: vec!["held bytes leave: not observable here".to_owned()],
        }
    }

    #[test]
    fn it_fits_into_a_mail() {
        let text = findings(&made_up());
        for line in text.lines() {
            assert!(line.is_ascii(), "{line}");
            assert!(line.len() <= WIDTH, "{} columns: {line}", line.len());
            assert_eq!(line.trim_end(), line);
        }
        assert!(text.contains("REFUTED: the chain breaks at gate-shuts"));
    }

    #[test]
    fn what_was_not_answered_is_left_out() {
        assert!(!findings(&made_up()).contains("What the kernel list asked"));
    }
}
