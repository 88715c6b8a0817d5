use super::*;
use crate::{correlate::tests::stall_event, observe::ReleasePath, probe::Cost};

fn metrics(most_processes: usize) -> Metrics {
    let bounds = Bounds {
        netns: Which::Own,
        most_processes,
    };
    Metrics::new("6.12.0-test", bounds)
}

/// The value of a series, named as in the text.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.text(Live::default()).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

#[test]
fn a_stall_is_counted_where_it_is_now_and_where_it_ended() {
    let metrics = metrics(0);
    let now =
        r#"ktls_trace_stalled_sockets{verdict="corked-completed-record",gate="notsent-lowat"}"#;
    let unknown = r#"ktls_trace_stalled_sockets{verdict="unknown",gate=""}"#;
    let closed =
        r#"ktls_trace_stalls_closed_total{verdict="corked-completed-record",gate="notsent-lowat"}"#;
    metrics.event(&stall_event(Name::StallOpened, "a", Verdict::Unknown, None));
    assert_eq!(value(&metrics, unknown), Some(1.0));
    let gate = Some(Gate::NotsentLowat);
    let corked = Verdict::CorkedCompletedRecord;
    metrics.event(&stall_event(Name::StallUpdated, "a", corked, gate));
    assert_eq!(value(&metrics, unknown), Some(0.0));
    assert_eq!(value(&metrics, now), Some(1.0));
    metrics.event(&stall_event(Name::StallClosed, "a", corked, gate));
    assert_eq!(value(&metrics, now), Some(0.0));
    assert_eq!(value(&metrics, closed), Some(1.0));
    assert_eq!(value(&metrics, "ktls_trace_stalls_opened_total"), Some(1.0));
}

#[test]
fn holds_are_counted_by_who_let_them_go() {
    let metrics = metrics(0);
    metrics.hold_ended(&HoldEnded {
        stall: "a".to_owned(),
        after_ns: 0,
        verdict: Verdict::CorkedCompletedRecord,
        path: ReleasePath::PersistTimer,
        duration_ns: 208_000_000,
        bytes: Some(16406),
        records: Some(1),
    });
    let holds = r#"ktls_trace_holds_total{verdict="corked-completed-record",path="persist-timer"}"#;
    assert_eq!(value(&metrics, holds), Some(1.0));
    for (bound, count) in [("0.1", 0.0), ("0.25", 1.0)] {
        let series = format!(r#"ktls_trace_held_seconds_bucket{{le="{bound}"}}"#);
        assert_eq!(value(&metrics, &series), Some(count));
    }
    assert_eq!(
        value(&metrics, r#"ktls_trace_held_bytes_bucket{le="16640.0"}"#),
        Some(1.0)
    );
}

#[test]
fn what_alerts_look_at_is_there_before_the_first_one() {
    let metrics = metrics(0);
    for series in [
        r#"ktls_trace_stalls_closed_total{verdict="corked-completed-record",gate="notsent-lowat"}"#,
        r#"ktls_trace_stalls_closed_total{verdict="corked-completed-record",gate="sndbuf"}"#,
        r#"ktls_trace_stalls_closed_total{verdict="corked-completed-record",gate="both"}"#,
        r#"ktls_trace_holds_total{verdict="corked-completed-record",path="peer-ack"}"#,
        r#"ktls_trace_lost_total{place="ring-buffer"}"#,
        r#"ktls_trace_lost_total{place="recording"}"#,
    ] {
        assert_eq!(value(&metrics, series), Some(0.0), "{series}");
    }
}

#[test]
fn processes_have_a_series_only_if_wanted_and_no_more_than_that() {
    let corked = Verdict::CorkedCompletedRecord;
    let closed = |comm: &str| {
        let mut event = stall_event(Name::StallClosed, comm, corked, None);
        if let Body::Stall(stall) = &mut event.body {
            stall.process.as_mut().unwrap().comm = Some(comm.to_owned());
        }
        event
    };
    let series = |comm: &str| {
        format!(
            r#"ktls_trace_process_stalls_total{{comm="{comm}",verdict="corked-completed-record"}}"#
        )
    };
    let unwanted = metrics(0);
    unwanted.event(&closed("nginx"));
    assert_eq!(value(&unwanted, &series("nginx")), None);
    let two = metrics(2);
    for comm in ["nginx", "haproxy", "caddy", "nginx", "envoy"] {
        two.event(&closed(comm));
    }
    let counted = ["nginx", "haproxy", "other", "caddy"].map(|comm| value(&two, &series(comm)));
    assert_eq!(counted, [Some(2.0), Some(1.0), Some(2.0), None]);
}

#[test]
fn a_process_may_be_called_anything() {
    let metrics = metrics(1);
    let mut event = stall_event(Name::StallClosed, "a", Verdict::Nagle, None);
    if let Body::Stall(stall) = &mut event.body {
        stall.process.as_mut().unwrap().comm = Some("a\"} 1\nb\\".to_owned());
    }
    metrics.event(&event);
    let series = r#"ktls_trace_process_stalls_total{comm="a\"} 1\nb\\",verdict="nagle"}"#;
    assert_eq!(value(&metrics, series), Some(1.0));
}

#[test]
fn what_the_run_says_of_itself_is_shown_as_of_the_scrape() {
    let metrics = metrics(0);
    let live = Live {
        health: Health::Attached,
        hooks: vec![("tls_push_sg".to_owned(), false)],
        counters: vec![Some(7), None],
        lost: vec![("ring-buffer".to_owned(), 3)],
        costs: vec![Cost {
            hook: "tls_push_sg".to_owned(),
            runs: 2,
            time: std::time::Duration::from_millis(1500),
            misses: 4,
        }],
        ..Live::default()
    };
    let text = metrics.text(live).unwrap();
    for line in [
        "ktls_trace_degraded 0",
        "ktls_trace_refused_total 7",
        r#"ktls_trace_hook_attached{hook="tls_push_sg"} 0"#,
        r#"ktls_trace_lost_total{place="ring-buffer"} 3"#,
        r#"ktls_trace_program_run_seconds_total{hook="tls_push_sg"} 1.5"#,
        r#"ktls_trace_program_misses_total{hook="tls_push_sg"} 4"#,
        r#"ktls_trace_build_info{version="0.1.0",kernel="6.12.0-test"} 1"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    assert!(
        !text.contains("back_pressure"),
        "not known is not 0\n{text}"
    );
    assert!(text.ends_with("# EOF\n"), "{text}");
}
