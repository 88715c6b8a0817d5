use super::{
    verdict::tests::{a_second_later, held, idle},
    *,
};
use crate::correlate::rules::Verdict;

fn place(samples: [Vec<SocketSample>; 2]) -> Place {
    let at = Instant::now();
    let [first, second] = samples.map(|samples| Dump {
        samples,
        interrupted: false,
        left_out: 0,
    });
    Place {
        namespace: Namespace {
            inode: Some(7),
            entry: Entry::Own,
            pid: None,
            found: false,
        },
        first: Some(Pass { at, dump: first }),
        second: Some(Pass {
            at: at + Duration::from_secs(1),
            dump: second,
        }),
        error: None,
    }
}

/// A socket under another cookie.
fn named(cookie: u64, mut sample: SocketSample) -> SocketSample {
    sample.cookie = cookie;
    sample.inode = None;
    sample
}

#[test]
fn sockets_are_paired_by_cookie_and_those_that_came_or_went_are_not_judged_by_others() {
    let slow = a_second_later(&held(), 400_000);
    let snapshot = assemble(
        vec![place([
            vec![named(1, held()), named(2, held()), named(3, idle())],
            vec![named(2, slow), named(1, held()), named(4, idle())],
        ])],
        0,
    );
    assert_eq!(snapshot.counts.closed_meanwhile, 1);
    assert_eq!(snapshot.interval_ms, Some(1000.0));
    let found: Vec<_> = (snapshot.sockets.iter())
        .map(|socket| {
            let rates = socket.evidence.rates.and_then(|rates| rates.sent_per_s);
            (socket.socket.cookie.as_deref().unwrap(), rates)
        })
        .collect();
    assert_eq!(
        found,
        [("1", Some(0.0)), ("2", Some(400_000.0)), ("4", None)]
    );
}

#[test]
fn the_object_says_null_for_what_is_unknown_and_for_healthy_sockets() {
    let snapshot = assemble(
        vec![place([
            vec![named(1, idle()), named(2, held())],
            vec![named(1, idle()), named(2, held())],
        ])],
        0,
    );
    assert_eq!(snapshot.counts.healthy, 1);
    assert_eq!(snapshot.counts.verdicts[&Verdict::Unknown], 1);
    let json = serde_json::to_value(&snapshot).unwrap();
    let at = |pointer: &str| json.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
    assert_eq!(at("/schema"), "ktls-trace/1");
    assert_eq!(at("/event"), "snapshot");
    assert_eq!(at("/counts/verdicts/unknown"), 1);
    assert_eq!(at("/sockets/0/verdict"), "unknown");
    assert_eq!(at("/sockets/0/confidence"), "consistent");
    assert_eq!(at("/sockets/0/evidence/tcp/notsent"), 16406);
    assert_eq!(at("/sockets/0/evidence/timer/kind"), "persist");
    assert_eq!(at("/sockets/1/activity"), "idle");
    for null in ["verdict", "confidence", "reason", "process", "next"] {
        assert!(at(&format!("/sockets/1/{null}")).is_null(), "{null}");
    }
    // Not shown by sock_diag at all.
    assert!(at("/sockets/0/evidence/tcp/corked").is_null());
}

#[test]
fn a_namespace_that_could_not_be_asked_is_listed_with_the_reason() {
    let mut elsewhere = place([vec![], vec![]]);
    elsewhere.namespace.inode = Some(8);
    elsewhere.namespace.entry = Entry::Path("/proc/9/ns/net".into());
    elsewhere.first = None;
    elsewhere.second = None;
    elsewhere.error = Some("enter network namespace /proc/9/ns/net: EPERM".to_owned());
    let snapshot = assemble(vec![place([vec![], vec![]]), elsewhere], 12);
    assert_eq!(snapshot.namespaces[0].sockets, Some(0));
    assert_eq!(snapshot.namespaces[1].sockets, None);
    let lines = snapshot.cannot_see.join("\n");
    assert!(lines.contains("/proc/9/ns/net: EPERM"), "{lines}");
    assert!(lines.contains("12 processes"), "{lines}");
}

#[test]
fn a_dump_that_was_interrupted_is_said() {
    let mut place = place([vec![], vec![]]);
    for pass in [&mut place.first, &mut place.second].into_iter().flatten() {
        pass.dump.interrupted = true;
    }
    let snapshot = assemble(vec![place], 0);
    assert!(snapshot.namespaces[0].interrupted);
    assert!(snapshot.cannot_see.join("\n").contains("came or went"));
}

#[test]
fn ten_thousand_sockets_are_paired_and_judged_each_by_its_own_counters() {
    let first: Vec<_> = (1..=10_000).map(|cookie| named(cookie, held())).collect();
    let second = (first.iter().rev())
        .map(|before| a_second_later(before, before.cookie))
        .collect();
    let snapshot = assemble(vec![place([first, second])], 0);
    assert_eq!(snapshot.counts.verdicts[&Verdict::Unknown], 10_000);
    for socket in &snapshot.sockets {
        let cookie = u64::from_str_radix(socket.socket.cookie.as_deref().unwrap(), 16).unwrap();
        let sent = socket.evidence.rates.unwrap().sent_per_s.unwrap();
        assert!(
            (sent - rates::to_f64(cookie)).abs() < 1.0,
            "{cookie}: {sent}"
        );
    }
}
