//! The demonstration: the daemon beside the built-in workload, everything shown as it happens.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;

use crate::{
    beside::{self, Listener, Outcome, Plan, Who},
    capture::{Ended, Stream},
    scenario::{Daemon, Workload},
};

/// The verdict it is all about.
const VERDICT: &str = "corked-completed-record (proven";

/// Takes text to show on one of our own streams.
pub type Show = Arc<dyn Fn(Stream, &str) + Send + Sync>;

/// Runs it with programs found through `environment` (our own if `None`); whether the stall was flagged.
///
/// # Errors
///
/// If one of the two programs can't be run at all.
pub fn run(environment: Option<Vec<(String, String)>>, show: &Show) -> Result<bool> {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let daemon = words("ktls-trace run --probes full --threshold 20ms");
    let workload = words("ktls-trace repro --duration 8s");
    show(
        Stream::Stdout,
        &format!("$ {} &\n$ {}\n", daemon.join(" "), workload.join(" ")),
    );
    let settings = Daemon {
        args: Vec::new(),
        env: BTreeMap::new(),
        uid: 0,
        settle_ms: 1500,
        exit: 0,
        record: false,
    };
    let plan = Plan {
        daemon: Some((daemon, settings)),
        workload: Workload {
            command: workload,
            background: Vec::new(),
            exit: None,
        },
        timeout: Duration::from_mins(1),
        environment,
    };
    let lines = Arc::new(Lines::new(Arc::clone(show)));
    let listener: Listener = {
        let lines = Arc::clone(&lines);
        Arc::new(move |who, stream, bytes| lines.take(who, stream, bytes))
    };
    let outcome = beside::run(&plan, &listener, || Ok(()))?;
    lines.flush();
    let (flagged, closing) = judge(&outcome);
    show(Stream::Stdout, &format!("\n{closing}\n"));
    Ok(flagged)
}

/// Whether the stall was flagged, and a sentence about it.
fn judge(outcome: &Outcome) -> (bool, String) {
    let Outcome {
        problems,
        daemon,
        workload,
    } = outcome;
    let ended = |who: &str, ended: Option<&Ended>| match ended.map(|ended| ended.exit) {
        Some(Some(0)) | None => None,
        Some(Some(code)) => Some(format!("{who} ended with status {code}")),
        Some(None) => Some(format!("{who} had to be killed")),
    };
    let mut wrong = problems.clone();
    wrong.extend(ended("the daemon", daemon.as_ref()));
    wrong.extend(ended("the workload", workload.as_ref()));
    let flagged = daemon
        .as_ref()
        .is_some_and(|daemon| daemon.stdout.contains(VERDICT));
    match (flagged, wrong.is_empty()) {
        (true, true) => (
            true,
            "The daemon flagged the stall and proved it.".to_owned(),
        ),
        (true, false) => (
            false,
            format!(
                "The daemon flagged the stall and proved it, but {}.",
                wrong.join(", ")
            ),
        ),
        (false, true) => (false, "The stall was not flagged and proven.".to_owned()),
        (false, false) => (
            false,
            format!(
                "The stall was not flagged and proven: {}.",
                wrong.join(", ")
            ),
        ),
    }
}

/// Puts the name of the speaker before each line, since two programs talk at once.
struct Lines {
    show: Show,
    /// What has come of a line that isn't complete.
    partial: Mutex<Vec<(Who, Stream, Vec<u8>)>>,
}

impl Lines {
    fn new(show: Show) -> Self {
        Self {
            show,
            partial: Mutex::default(),
        }
    }

    fn take(&self, who: Who, stream: Stream, bytes: &[u8]) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let index = partial
            .iter()
            .position(|(owner, of, _)| *owner == who && *of == stream)
            .unwrap_or_else(|| {
                partial.push((who, stream, Vec::new()));
                partial.len() - 1
            });
        let pending = &mut partial[index].2;
        pending.extend_from_slice(bytes);
        if let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') {
            let complete: Vec<u8> = pending.drain(..=end).collect();
            self.speak(who, stream, &complete);
        }
    }

    /// Shows lines that were never ended.
    fn flush(&self) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for (who, stream, pending) in partial.drain(..) {
            if !pending.is_empty() {
                self.speak(who, stream, &pending);
            }
        }
    }

    fn speak(&self, who: Who, stream: Stream, lines: &[u8]) {
        let name = match who {
            Who::Daemon => "run  ",
            Who::Workload => "repro",
            Who::Background => "     ",
        };
        for line in String::from_utf8_lossy(lines).lines() {
            let text = format!("{name} | {line}");
            (self.show)(stream, &format!("{}\n", text.trim_end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, stdout: &str) -> Ended {
        Ended {
            exit: Some(code),
            stdout: stdout.to_owned(),
            ..Ended::default()
        }
    }

    #[test]
    fn only_a_verdict_from_a_daemon_that_ends_well_counts() {
        let good = Outcome {
            problems: Vec::new(),
            daemon: Some(ended(
                0,
                "stall corked-completed-record (proven, gate notsent-lowat)",
            )),
            workload: Some(ended(0, "")),
        };
        assert!(judge(&good).0);
        let silent = Outcome {
            daemon: Some(ended(0, "")),
            workload: Some(ended(0, VERDICT)),
            ..good.clone()
        };
        assert_eq!(
            judge(&silent),
            (false, "The stall was not flagged and proven.".to_owned())
        );
        let crashed = Outcome {
            daemon: Some(ended(134, VERDICT)),
            ..good.clone()
        };
        assert!(!judge(&crashed).0);
        let unproven = Outcome {
            daemon: Some(ended(0, "stall corked-completed-record (consistent, …)")),
            ..good
        };
        assert!(!judge(&unproven).0);
    }

    #[test]
    fn lines_of_two_speakers_do_not_mix() {
        let shown = Arc::new(Mutex::new(String::new()));
        let copy = Arc::clone(&shown);
        let lines = Lines::new(Arc::new(move |_, text| copy.lock().unwrap().push_str(text)));
        lines.take(Who::Daemon, Stream::Stdout, b"stall op");
        lines.take(Who::Workload, Stream::Stdout, b"sent 1\n");
        lines.take(Who::Daemon, Stream::Stdout, b"ened\nhel");
        lines.flush();
        assert_eq!(
            *shown.lock().unwrap(),
            "repro | sent 1\nrun   | stall opened\nrun   | hel\n"
        );
    }
}
