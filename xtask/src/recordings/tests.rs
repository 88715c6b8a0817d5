//! Every recording kept, replayed on this machine: no guest, no kTLS.

use std::{fs::File, io::BufReader, ops::ControlFlow, path::Path};

use ktls_trace::observe::recording::{self, Reader, Replayed};

use super::{
    first_difference,
    store::{LONGEST_BYTES, Recording, TOTAL_BYTES, all, directory},
};
use crate::test::{evaluate_events, read_all};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn recordings() -> Vec<Recording> {
    let found = all(&directory(workspace())).unwrap();
    assert!(!found.is_empty(), "there is no recording to replay");
    found
}

/// The events of a recording, as JSON Lines.
fn replayed(recording: &Recording) -> String {
    let file = BufReader::new(File::open(&recording.path).unwrap());
    let mut reader = Reader::new(file).unwrap();
    let mut lines = String::new();
    let ended = recording::replay(&mut reader, |event| {
        lines += &serde_json::to_string(event).unwrap();
        lines.push('\n');
        ControlFlow::Continue(())
    });
    assert!(
        matches!(ended, Ok(Replayed::ToTheEnd(end)) if !end.full),
        "{}: {ended:?}",
        recording.name()
    );
    lines
}

#[test]
fn recordings_replay_to_the_events_kept_beside_them() {
    let mut differ = Vec::new();
    for recording in recordings() {
        let expected = recording.events().unwrap();
        if let Some(difference) = first_difference(&expected, &replayed(&recording)) {
            differ.push(format!("{}: {difference}", recording.name()));
        }
    }
    assert!(
        differ.is_empty(),
        "if this is meant, `cargo xtask recordings --bless`\n{}",
        differ.join("\n")
    );
}

#[test]
fn recordings_hold_what_their_scenario_expects_of_events() {
    let scenarios = read_all(&workspace().join("xtask/scenarios")).unwrap();
    let mut failures = Vec::new();
    for recording in recordings() {
        let Some(scenario) = scenarios.iter().find(|it| it.name == recording.scenario) else {
            failures.push(format!("{}: there is no such scenario", recording.name()));
            continue;
        };
        let found = evaluate_events(scenario, &replayed(&recording));
        failures.extend(
            found
                .iter()
                .map(|failure| format!("{}: {failure}", recording.name())),
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn recordings_are_kept_small() {
    let mut total = 0;
    for recording in recordings() {
        let length = std::fs::metadata(&recording.path).unwrap().len();
        assert!(length <= LONGEST_BYTES, "{}: {length}", recording.name());
        total += recording.bytes().unwrap();
    }
    assert!(total <= TOTAL_BYTES, "{total} bytes");
}

#[test]
fn a_difference_is_shown_where_it_begins() {
    assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
    assert_eq!(
        first_difference("a\nxyz\n", "a\nxYz\n").unwrap(),
        "line 2 from column 2\n  expected yz\n  got      Yz"
    );
    assert!(
        first_difference("a\n", "a\nb\n")
            .unwrap()
            .contains("expected nothing")
    );
    assert!(first_difference("a\n", "a").unwrap().contains("no end"));
}
