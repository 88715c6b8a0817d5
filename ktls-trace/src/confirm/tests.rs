//! Chain, answers and decision on runs that are made up.

use ktls_trace_common::counter;

use super::{
    chain,
    evidence::Evidence,
    findings::{Answer, LinkFinding, Outcome, Question, RunName, RunReport, RunStatus},
    flips::{self, Moved},
    questions, verdict,
};
use crate::{
    correlate::{
        Config, Correlator, Output,
        chain::{LinkName, Status},
        event::{Body, Event, Name, Started},
        rules::tests::corked,
    },
    observe::{
        Hold, MSG_MORE, MSG_SENDPAGE_NOTLAST, Observation, Process, ReleasePath, SocketKey, What,
    },
    watch::Seen,
};

const MS: u64 = 1_000_000;
const ALL_HOOKS: &[&str] = &[
    "tls_sw_sendmsg",
    "tls_push_sg",
    "sk_stream_wait_memory",
    "tcp_event_new_data_sent",
];

/// Counters of a run that stalls.
fn stalling() -> Vec<(u32, u64)> {
    vec![
        (counter::SENDS, 12),
        (counter::SENDS_SPLICE, 12),
        (counter::SENDS_SPLICE_MORE, 11),
        (counter::RECORDS, 10),
        (counter::RECORDS_MORE, 10),
        (counter::RECORDS_HELD, 10),
        (counter::RECORD_BYTES, 10 * 16406),
        (counter::REFUSED, 10),
        (counter::BACK_PRESSURE, 0),
    ]
}

/// A run, as the hooks tell of it.
struct Run {
    evidence: Evidence,
    /// Makes the events that a daemon would.
    correlator: Correlator,
}

impl Run {
    fn with(hooks: &[&str]) -> Self {
        let mut evidence = Evidence::default();
        let started = Started {
            version: String::new(),
            kernel: String::new(),
            mode: "hooks".to_owned(),
            probes: Some("full".to_owned()),
            threshold_ms: 20.0,
            poll_interval_ms: 50.0,
            hooks: hooks.iter().map(|hook| (*hook).to_owned()).collect(),
            cannot_see: Vec::new(),
        };
        evidence.take(Seen::Event(&Event::new(
            Name::Started,
            0,
            Body::Started(started),
        )));
        let mut run = Self {
            evidence,
            correlator: Correlator::new(Config::default()),
        };
        run.at(0, What::Hooks { see_releases: true });
        run
    }

    fn at(&mut self, at_ns: u64, what: What) {
        let observation = Observation { at_ns, what };
        self.evidence.take(Seen::Observation(&observation));
        for output in self.correlator.observe(&observation) {
            if let Output::Event(event) = output {
                self.evidence.take(Seen::Event(&event));
            }
        }
    }

    /// A writer is refused with `hold` and the bytes leave 40 ms later.
    fn hold(&mut self, number: u32, mut hold: Hold, path: ReleasePath) {
        let begin_ns = (1 + u64::from(number) * 40) * MS;
        let offset = number * 16406;
        hold.socket.write_seq = hold.socket.write_seq.map(|seq| seq + offset);
        hold.socket.snd_nxt = hold.socket.snd_nxt.map(|seq| seq + offset);
        hold.socket.snd_una = hold.socket.snd_una.map(|seq| seq + offset);
        if let Some(push) = &mut hold.push {
            push.at_ns = begin_ns;
        }
        let key = SocketKey(1);
        let process = Process {
            pid: 100,
            tid: 100,
            thread: "sender".to_owned(),
        };
        let refused = What::Refused {
            key,
            process,
            blocking: true,
            hold: Box::new(hold),
        };
        self.at(begin_ns, refused);
        self.at(begin_ns + 38 * MS, What::Tick);
        let released = What::Released {
            key,
            bytes: 16406,
            end_seq: offset + 16406,
            path,
        };
        self.at(begin_ns + 39 * MS, released);
    }

    fn over(mut self, counters: &[(u32, u64)]) -> Evidence {
        let mut slots = vec![Some(0); counter::SLOTS as usize];
        for &(slot, count) in counters {
            slots[slot as usize] = Some(count);
        }
        self.evidence.take(Seen::Counters(&slots));
        self.evidence.finish();
        self.evidence
    }
}

/// The stall of the report, ten records long.
fn stalled() -> Evidence {
    let mut run = Run::with(ALL_HOOKS);
    for number in 0..10 {
        run.hold(number, corked(), ReleasePath::PeerAck);
    }
    run.over(&stalling())
}

/// A run in which nothing waits.
fn flowing(counters: &[(u32, u64)]) -> Evidence {
    Run::with(ALL_HOOKS).over(counters)
}

fn statuses(links: &[LinkFinding]) -> Vec<Status> {
    links.iter().map(|link| link.status).collect()
}

fn link(links: &[LinkFinding], name: LinkName) -> &LinkFinding {
    links.iter().find(|link| link.link == name).unwrap()
}

fn flip(run: RunName, status: RunStatus) -> RunReport {
    let mut report = flips::not_run(run, String::new(), status, String::new());
    report.note = None;
    report
}

fn healing() -> Vec<RunReport> {
    vec![
        flip(RunName::AsIs, RunStatus::Baseline),
        flip(RunName::GateOpen, RunStatus::Heals),
        flip(RunName::SmallMss, RunStatus::Heals),
    ]
}

#[test]
fn the_reported_stall_is_seen_link_by_link_and_confirmed_by_flips() {
    let evidence = stalled();
    let links = chain::links(&evidence);
    assert_eq!(statuses(&links), [Status::Seen; 6]);
    assert!(verdict::has_stall(&links, &evidence));
    let release = link(&links, LinkName::ReleaseDelayed);
    assert_eq!(release.count, Some(10));
    assert_eq!(release.counts["by-peer-ack"], 10);
    assert_eq!(release.values["held-ns"].median, 39 * MS);
    let decision = verdict::decide(&links, &evidence, &healing(), &[]);
    assert_eq!(decision.outcome, Outcome::Confirmed);
    assert_eq!(decision.broken_at, None);
}

#[test]
fn with_the_stock_gate_the_chain_breaks_at_the_gate() {
    let mut counters = stalling();
    counters.retain(|&(slot, _)| slot != counter::REFUSED);
    counters.extend([(counter::REFUSED, 7), (counter::BACK_PRESSURE, 7)]);
    let evidence = flowing(&counters);
    let links = chain::links(&evidence);
    assert_eq!(statuses(&links)[..3], [Status::Seen; 3]);
    assert_eq!(statuses(&links)[3..], [Status::Refuted; 3]);
    let decision = verdict::decide(&links, &evidence, &[], &[]);
    assert_eq!(decision.outcome, Outcome::Refuted);
    assert_eq!(decision.broken_at, Some(LinkName::GateShuts));
    assert!(decision.summary.contains("gate-shuts"), "{decision:?}");
}

#[test]
fn where_the_flag_is_taken_away_the_chain_breaks_there() {
    let mut counters = stalling();
    counters.extend([(counter::RECORDS_MORE, 0), (counter::RECORDS_HELD, 0)]);
    let evidence = flowing(&counters);
    let decision = verdict::decide(&chain::links(&evidence), &evidence, &[], &[]);
    assert_eq!(decision.outcome, Outcome::Refuted);
    assert_eq!(decision.broken_at, Some(LinkName::FlagReachesTcp));
}

#[test]
fn write_is_told_from_sendfile_at_the_first_link() {
    let evidence = flowing(&[(counter::SENDS, 50), (counter::RECORDS, 50)]);
    let links = chain::links(&evidence);
    let first = link(&links, LinkName::SpliceSetsMsgMore);
    assert_eq!(first.status, Status::Refuted);
    assert!(first.detail.contains("none of 50 sends"), "{first:?}");
    assert_eq!(
        link(&links, LinkName::FlagReachesTcp).status,
        Status::Refuted
    );
}

#[test]
fn a_workload_without_ktls_is_not_seen() {
    let evidence = flowing(&[]);
    let links = chain::links(&evidence);
    assert_eq!(statuses(&links), [Status::NotObservable; 6]);
    let decision = verdict::decide(&links, &evidence, &[], &[]);
    assert_eq!(decision.outcome, Outcome::NotSeen);
}

#[test]
fn a_missing_hook_leaves_its_link_open_and_could_not_tell_is_said() {
    for (without, open) in [
        ("tls_sw_sendmsg", LinkName::SpliceSetsMsgMore),
        ("tls_push_sg", LinkName::FlagReachesTcp),
        ("sk_stream_wait_memory", LinkName::GateShuts),
        ("tcp_event_new_data_sent", LinkName::ReleaseDelayed),
    ] {
        let hooks: Vec<_> = ALL_HOOKS
            .iter()
            .copied()
            .filter(|hook| *hook != without)
            .collect();
        let mut run = Run::with(&hooks);
        if without != "sk_stream_wait_memory" {
            for number in 0..10 {
                run.hold(number, corked(), ReleasePath::PeerAck);
            }
        }
        let evidence = run.over(&stalling());
        let links = chain::links(&evidence);
        assert_eq!(
            link(&links, open).status,
            Status::NotObservable,
            "{without}"
        );
        assert!(chain::broken_at(&links).is_none(), "{without}: {links:?}");
        let decision = verdict::decide(&links, &evidence, &healing(), &[]);
        assert_eq!(decision.outcome, Outcome::CouldNotTell, "{without}");
        assert!(
            decision.summary.contains(without),
            "{without}: {}",
            decision.summary
        );
    }
}

#[test]
fn a_flip_that_does_not_heal_refutes_unless_the_difference_is_known() {
    let evidence = stalled();
    let links = chain::links(&evidence);
    let mut runs = healing();
    runs[2].status = RunStatus::DoesNotHeal;
    let decision = verdict::decide(&links, &evidence, &runs, &[]);
    assert_eq!(decision.outcome, Outcome::Refuted);
    assert!(decision.summary.contains("small MSS"), "{decision:?}");
    let decision = verdict::decide(&links, &evidence, &runs, &[RunName::SmallMss]);
    assert_eq!(decision.outcome, Outcome::Confirmed);
    assert!(decision.summary.contains("1 of 2"), "{decision:?}");
}

#[test]
fn a_flip_that_could_not_be_run_proves_nothing() {
    let evidence = stalled();
    let links = chain::links(&evidence);
    let mut runs = healing();
    runs[1].status = RunStatus::Failed;
    runs[1].note = Some("no route".to_owned());
    let decision = verdict::decide(&links, &evidence, &runs, &[]);
    assert_eq!(decision.outcome, Outcome::CouldNotTell);
    assert!(decision.summary.contains("no route"), "{decision:?}");
    runs[1].status = RunStatus::NotApplicable;
    runs[2].status = RunStatus::NotApplicable;
    let decision = verdict::decide(&links, &evidence, &runs, &[]);
    assert_eq!(decision.outcome, Outcome::CouldNotTell);
}

/// Before 6.5: never pushed, no timer, let go by the close.
fn hung(mss: u32) -> Evidence {
    let mut hold = corked();
    hold.socket.mss = Some(mss);
    hold.socket.persist_pending = Some(false);
    hold.socket.timer_pending = Some(false);
    if let (Some(push), Some(send)) = (&mut hold.push, &mut hold.send) {
        push.flags = MSG_MORE | MSG_SENDPAGE_NOTLAST;
        send.flags = push.flags;
        send.sendpage = true;
    }
    let mut run = Run::with(ALL_HOOKS);
    run.hold(0, hold, ReleasePath::Close);
    run.over(&stalling())
}

#[test]
fn the_hang_before_6_5_is_confirmed_with_its_differences_named() {
    let evidence = hung(65483);
    let links = chain::links(&evidence);
    assert_eq!(statuses(&links), [Status::Seen; 6]);
    let (differences, explained) = verdict::differences(&evidence, Some(&hung(1448)));
    assert_eq!(explained, [RunName::SmallMss]);
    assert!(differences[0].starts_with("release-delayed"));
    assert!(differences[1].starts_with("record-below-mss-held"));
    let mut runs = healing();
    runs[2].status = RunStatus::DoesNotHeal;
    let decision = verdict::decide(&links, &evidence, &runs, &explained);
    assert_eq!(decision.outcome, Outcome::Confirmed);
}

#[test]
fn the_ordinary_stall_differs_in_nothing() {
    let evidence = stalled();
    assert_eq!(
        verdict::differences(&evidence, Some(&evidence)),
        (Vec::new(), Vec::new())
    );
}

#[test]
fn the_lists_questions_are_answered_with_the_values_seen() {
    let mut evidence = stalled();
    evidence.holds.user_mss = Some(0);
    let answers = questions::answers(&evidence);
    let of = |question| {
        let answer = answers
            .iter()
            .find(|answer| answer.question == question)
            .unwrap();
        answer.answer.clone().unwrap()
    };
    let mss = of(Question::MssAgainstMaxseg);
    assert!(
        mss.contains("65483") && mss.contains("TCP_MAXSEG is not set"),
        "{mss}"
    );
    let limit = of(Question::LimitWaitedOn);
    assert!(
        limit.contains("unsent 16406 against notsent_lowat 16384"),
        "{limit}"
    );
    let flight = of(Question::RecordsInFlight);
    assert!(flight.contains("segments in flight were 0/0/0"), "{flight}");
    assert!(of(Question::SndbufAgainstMss).contains("2626560"));
}

#[test]
fn that_the_mss_follows_tcp_maxseg_is_said_only_if_it_does() {
    let answer = |user_mss| {
        let mut evidence = stalled();
        evidence.holds.user_mss = Some(user_mss);
        let answers = questions::answers(&evidence);
        let mss = |answer: &&Answer| answer.question == Question::MssAgainstMaxseg;
        answers.iter().find(mss).unwrap().answer.clone().unwrap()
    };
    assert!(answer(65495).contains("TCP_MAXSEG is 65495, and mss_cache follows it"));
    assert!(answer(1460).contains("TCP_MAXSEG is 1460, and mss_cache does not follow it"));
}

#[test]
fn without_a_hold_nothing_is_answered() {
    for answer in questions::answers(&flowing(&stalling())) {
        assert_eq!(answer.answer, None);
    }
}

#[test]
fn five_times_the_throughput_heals_and_a_stall_does_not() {
    let moved = |bytes| {
        Some(Moved {
            bytes,
            duration_ms: 1000,
        })
    };
    let report = |moved, evidence: &Evidence, baseline| {
        flips::report(
            RunName::GateOpen,
            String::new(),
            moved,
            evidence,
            baseline,
            None,
        )
        .status
    };
    let healthy = flowing(&[]);
    let fast = moved(5 << 20);
    assert_eq!(report(fast, &healthy, None), RunStatus::Baseline);
    assert_eq!(report(fast, &healthy, Some(1.0)), RunStatus::Heals);
    // Without the stall, what else takes time is not known.
    assert_eq!(report(fast, &healthy, Some(1.01)), RunStatus::Failed);
    assert_eq!(report(fast, &stalled(), Some(0.1)), RunStatus::DoesNotHeal);
    // From a hang: anything that can be called a transfer.
    assert_eq!(report(fast, &healthy, Some(0.0)), RunStatus::Heals);
    assert_eq!(
        report(moved(1 << 16), &healthy, Some(0.0)),
        RunStatus::Failed
    );
    assert_eq!(report(None, &healthy, Some(1.0)), RunStatus::Failed);
}

#[test]
fn each_flip_of_the_workload_changes_one_thing() {
    let config = crate::workload::Config::default();
    let flips = flips::of_workload(&config, &stalled());
    let transfers: Vec<_> = flips
        .into_iter()
        .map(|flip| (flip.run, flip.transfer.unwrap()))
        .collect();
    let names: Vec<_> = transfers.iter().map(|&(run, _)| run).collect();
    assert_eq!(
        names,
        [
            RunName::GateOpen,
            RunName::SmallMss,
            RunName::Write,
            RunName::Plain
        ]
    );
    assert_eq!(transfers[0].1.notsent_lowat, Some(1 << 20));
    assert_eq!(transfers[0].1.sndbuf, None);
    assert_eq!(transfers[1].1.mss, Some(1460));
    assert!(transfers[2].1.nodelay);
    assert!(!transfers[3].1.mode.uses_tls());
}

#[test]
fn a_small_mss_is_no_flip_where_a_tail_shuts_the_gate() {
    let mut hold = corked();
    hold.socket.mss = Some(8948);
    hold.socket.snd_nxt = Some(8948);
    hold.socket.notsent_lowat = Some(1);
    let mut run = Run::with(ALL_HOOKS);
    run.hold(0, hold, ReleasePath::PeerAck);
    let flips = flips::of_workload(&crate::workload::Config::default(), &run.over(&stalling()));
    assert!(flips[1].transfer.is_err());
}

#[test]
fn a_gate_of_the_commands_own_can_t_be_opened_from_outside() {
    let mut hold = corked();
    hold.socket.own_lowat = Some(true);
    let mut run = Run::with(ALL_HOOKS);
    run.hold(0, hold, ReleasePath::PeerAck);
    let host = crate::kernel::sysctl::Settings::default();
    let flips = flips::of_command(host, &run.over(&stalling()));
    assert!(flips[0].transfer.is_err());
    let network = flips[1].transfer.as_ref().unwrap();
    assert_eq!((network.mtu, network.settings), (Some(1500), host));
    let flips = flips::of_command(host, &stalled());
    let network = flips[0].transfer.as_ref().unwrap();
    assert_eq!(network.settings.tcp_notsent_lowat, Some(u32::MAX));
    assert_eq!(network.mtu, None);
}
