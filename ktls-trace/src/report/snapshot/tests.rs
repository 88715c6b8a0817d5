use std::time::Duration;

use super::*;
use crate::{
    snapshot::{
        Before,
        document::Head,
        rates::Rates,
        verdict::tests::{a_second_later, held, idle},
    },
    sockdiag::SocketSample,
};

fn report(before: &SocketSample, now: &SocketSample) -> SocketReport {
    let before = Before {
        rates: Rates::between(&before.tcp, &now.tcp, Duration::from_secs(1)),
        sample: before.clone(),
    };
    let process = ProcessInfo {
        pid: 336,
        tid: None,
        comm: Some("nginx".to_owned()),
        thread: None,
        exe: None,
        cgroup: None,
    };
    SocketReport::new(Some(4_026_531_840), now, Some(&before), vec![process])
}

fn snapshot(mut sockets: Vec<SocketReport>) -> Snapshot {
    sockets.sort_by_cached_key(SocketReport::sort_key);
    Snapshot::new(Head {
        time: "2026-06-03T17:19:22.000001Z".to_owned(),
        kernel: "6.12".to_owned(),
        tls_loaded: true,
        interval_ms: Some(1000.4),
        closed_meanwhile: 0,
        cannot_see: vec!["a word ".repeat(30).trim_end().to_owned()],
        namespaces: Vec::new(),
        sockets,
    })
}

fn text(snapshot: &Snapshot, width: usize, all: bool) -> String {
    let mut out = Vec::new();
    write(snapshot, width, all, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// A stalled, a slow, a flowing and an idle socket.
fn mixed() -> Snapshot {
    snapshot(vec![
        report(&idle(), &idle()),
        report(&idle(), &a_second_later(&idle(), 5_000_000)),
        report(&held(), &a_second_later(&held(), 400_000)),
        report(&held(), &held()),
    ])
}

#[test]
fn suspects_come_first_and_alone_have_details() {
    let text = text(&mixed(), 120, false);
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" -> "))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(rows, ["unknown", "unknown", "flowing", "idle"], "{text}");
    assert_eq!(
        text.matches("to decide: ktls-trace run --port 443").count(),
        2
    );
    assert_eq!(text.matches("TLS ? ? tx sw rx ?").count(), 2);
    assert!(
        text.contains("4 kTLS sockets: 2 unknown, 1 flowing, 1 idle; two passes 1000 ms apart"),
        "{text}"
    );
    assert!(text.contains("nginx[336]"));
}

#[test]
fn lines_fit_the_width_and_narrower_ones_have_fewer_columns() {
    let snapshot = mixed();
    for width in [60, 72, 80, 100, 120, 200] {
        for line in text(&snapshot, width, false).lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
    let header = |width| {
        text(&snapshot, width, false)
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };
    assert!(header(120).contains("WINDOW") && header(120).contains("MSS"));
    assert!(!header(72).contains("MSS") && header(72).contains("UNSENT"));
    // What has no column any more is told below.
    let whole = |width| text(&snapshot, width, false).replace("\n    ", " ");
    assert!(whole(72).contains("mss 65483") && !whole(120).contains("mss 65483"));
}

#[test]
fn an_address_that_does_not_fit_is_cut_visibly() {
    let mut sample = held();
    sample.src = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
        .parse()
        .unwrap();
    sample.dst = sample.src;
    let text = text(&snapshot(vec![report(&sample, &sample)]), 80, false);
    let row = text.lines().nth(1).unwrap();
    assert!(row.contains('…') && row.chars().count() <= 80, "{row}");
    let whole = "connection [2001:db8:1111:2222:3333:4444:5555:6666]:65535 ->";
    let unwrapped = text.replace("\n    ", " ");
    assert!(unwrapped.contains(whole), "{text}");
}

#[test]
fn thousands_of_sockets_are_cut_short_unless_all_are_wanted() {
    let snapshot = snapshot(vec![report(&idle(), &idle()); 1000]);
    let few = text(&snapshot, 120, false);
    assert!(few.contains("… and 960 more (--all)"), "{few}");
    assert_eq!(few.matches(" -> ").count(), FEW);
    let all = text(&snapshot, 120, true);
    assert_eq!(all.matches(" -> ").count(), 1000);
    assert!(!all.contains("more"));
}

#[test]
fn no_socket_is_said_and_no_table_drawn() {
    let text = text(&snapshot(Vec::new()), 120, false);
    assert!(text.starts_with("no kTLS socket; two passes"), "{text}");
    assert!(!text.contains("CONNECTION"));
}

#[test]
fn what_could_not_be_seen_is_wrapped() {
    let text = text(&snapshot(Vec::new()), 80, false);
    assert!(text.contains("\nnot seen: a word"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("    "));
}
