//! The correlator as a whole: episodes from observations, and what must hold for any observations.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{
    Config, Correlator, HoldEnded, Output,
    event::{Body, Cadence, Ended, Event, Name, Stall},
    rules::{
        Confidence, Gate, Verdict,
        tests::{corked, corked_sample},
    },
};
use crate::observe::{Hold, Observation, Process, PushFacts, ReleasePath, Sample, SocketKey, What};

/// One millisecond.
const MS: u64 = 1_000_000;
/// When the tests begin: not at 0, as no machine does.
const START: u64 = 1_000_000 * MS;
/// The socket of most tests.
const KEY: SocketKey = SocketKey(7);

/// A correlator and everything it has put out.
struct Bench {
    correlator: Correlator,
    events: Vec<Event>,
    holds: Vec<HoldEnded>,
    polls: usize,
    ownerless: Vec<u32>,
    forgotten: Vec<SocketKey>,
}

impl Bench {
    fn new() -> Self {
        let correlator = Correlator::new(Config::default());
        Self {
            correlator,
            events: Vec::new(),
            holds: Vec::new(),
            polls: 0,
            ownerless: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    /// Observes something this many milliseconds after the start.
    fn at(&mut self, ms: u64, what: What) -> &mut Self {
        let outputs = self.correlator.observe(&Observation {
            at_ns: START + ms * MS,
            what,
        });
        self.keep(outputs)
    }

    fn keep(&mut self, outputs: Vec<Output>) -> &mut Self {
        for output in outputs {
            match output {
                Output::Event(event) => self.events.push(*event),
                Output::HoldEnded(hold) => self.holds.push(hold),
                Output::Poll(_) => self.polls += 1,
                Output::FindOwner { inode, .. } => self.ownerless.push(inode),
                Output::Forget(key) => self.forgotten.push(key),
            }
        }
        self
    }

    fn names(&self) -> Vec<Name> {
        self.events.iter().map(|event| event.event).collect()
    }

    fn stall(&self, index: usize) -> &Stall {
        stall_of(&self.events[index])
    }
}

fn stall_of(event: &Event) -> &Stall {
    match &event.body {
        Body::Stall(stall) => stall,
        other => panic!("not a stall: {other:?}"),
    }
}

/// An event of a stall with this name, for those who only look at what it says.
pub(crate) fn stall_event(name: Name, stall: &str, verdict: Verdict, gate: Option<Gate>) -> Event {
    let mut bench = Bench::new();
    bench.at(0, refused(held(0, 0))).at(20, What::Tick);
    let mut event = bench.events.swap_remove(0);
    event.event = name;
    if let Body::Stall(body) = &mut event.body {
        stall.clone_into(&mut body.stall);
        (body.verdict, body.gate) = (verdict, gate);
    }
    event
}

/// The end of a hold of a stall with this name, so far into it.
pub(crate) fn hold_ended(stall: &str, after_ns: u64) -> HoldEnded {
    HoldEnded {
        stall: stall.to_owned(),
        after_ns,
        verdict: Verdict::Unknown,
        path: ReleasePath::PeerAck,
        duration_ns: 1,
        bytes: None,
        records: None,
    }
}

/// The stall of the report after `sent` bytes, its record pushed at that millisecond.
fn held(ms: u64, sent: u32) -> Hold {
    let mut hold = corked();
    hold.socket.snd_nxt = Some(sent);
    hold.socket.snd_una = Some(sent);
    hold.socket.write_seq = Some(sent + 16406);
    hold.push = hold.push.map(|push| PushFacts {
        at_ns: START + ms * MS,
        ..push
    });
    hold
}

fn refused(hold: Hold) -> What {
    let process = Process {
        pid: 100,
        tid: 101,
        thread: "worker".to_owned(),
    };
    What::Refused {
        key: KEY,
        process,
        blocking: true,
        hold: Box::new(hold),
    }
}

fn released(end_seq: u32, path: ReleasePath) -> What {
    What::Released {
        key: KEY,
        bytes: 16406,
        end_seq,
        path,
    }
}

/// No hook sees bytes leave.
fn no_release() -> What {
    What::Hooks {
        see_releases: false,
    }
}

fn sampled(asked_ms: u64, sample: Option<Sample>) -> What {
    What::Sampled {
        key: KEY,
        asked_ns: START + asked_ms * MS,
        sample: sample.map(Box::new),
    }
}

#[test]
fn a_hold_shorter_than_the_threshold_is_no_event() {
    let mut bench = Bench::new();
    bench
        .at(0, refused(held(0, 0)))
        .at(19, released(16406, ReleasePath::PeerAck))
        .at(500, What::Tick);
    assert_eq!(bench.names(), []);
}

#[test]
fn a_socket_that_is_not_held_is_forgotten() {
    let mut bench = Bench::new();
    bench
        .at(0, refused(held(0, 0)))
        .at(1, released(16406, ReleasePath::PeerAck))
        .at(6000, What::Tick);
    assert_eq!(bench.forgotten, [KEY]);
    assert_eq!(bench.correlator.next_deadline_ns(), None);
}

#[test]
fn an_episode_opens_at_the_threshold_counted_from_the_push() {
    let mut bench = Bench::new();
    bench.at(5, refused(held(0, 0)));
    // Half the threshold: sock_diag is asked.
    assert_eq!(bench.correlator.next_deadline_ns(), Some(START + 10 * MS));
    bench
        .at(10, What::Tick)
        .at(12, sampled(10, Some(corked_sample())));
    assert_eq!(bench.polls, 1);
    assert_eq!(bench.correlator.next_deadline_ns(), Some(START + 20 * MS));
    bench.at(20, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened]);
    let stall = bench.stall(0);
    assert_eq!(stall.verdict, Verdict::CorkedCompletedRecord);
    assert_eq!(stall.confidence, Confidence::Proven);
    assert_eq!(stall.held.bytes, Some(16406));
    assert_eq!(stall.held.records, Some(1));
    assert!((stall.held.ms - 20.0).abs() < 1e-9);
    assert_eq!(stall.evidence.sources, ["hooks", "sock_diag"]);
}

/// Other intervals, in milliseconds.
fn intervals(threshold: u64, poll_interval: u64) -> What {
    What::Intervals {
        threshold_ns: threshold * MS,
        poll_interval_ns: poll_interval * MS,
    }
}

#[test]
fn a_threshold_that_is_lowered_counts_for_what_is_held_already() {
    let mut bench = Bench::new();
    bench
        .at(0, intervals(1000, 50))
        .at(5, refused(held(0, 0)))
        .at(400, What::Tick);
    assert_eq!(bench.names(), []);
    bench.at(410, intervals(100, 50));
    assert_eq!(bench.names(), [Name::StallOpened]);
}

#[test]
fn a_threshold_that_is_raised_moves_what_is_due_and_keeps_what_is_open() {
    let mut bench = Bench::new();
    bench.at(0, refused(held(0, 0))).at(10, intervals(300, 50));
    bench
        .at(290, What::Tick)
        .at(291, sampled(290, Some(corked_sample())));
    assert_eq!(bench.names(), []);
    bench.at(300, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened]);
    bench.at(310, intervals(5000, 50)).at(320, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened]);
    bench
        .at(330, released(16406, ReleasePath::PeerAck))
        .at(1400, What::Tick);
    let names = bench.names();
    assert_eq!(names.last(), Some(&Name::StallClosed));
    let opened = names.iter().filter(|name| **name == Name::StallOpened);
    assert_eq!(opened.count(), 1);
}

#[test]
fn a_refusal_long_after_the_push_counts_from_the_refusal() {
    let mut bench = Bench::new();
    bench.at(100, refused(held(0, 0))).at(119, What::Tick);
    assert_eq!(bench.names(), []);
    bench.at(130, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened]);
}

#[test]
fn an_answer_to_an_earlier_question_proves_nothing() {
    let mut bench = Bench::new();
    bench
        .at(5, refused(held(5, 0)))
        .at(6, sampled(4, Some(corked_sample())))
        .at(25, What::Tick);
    assert_eq!(bench.stall(0).confidence, Confidence::Consistent);
}

#[test]
fn an_answer_that_comes_late_makes_it_proven_with_one_update() {
    let mut bench = Bench::new();
    bench
        .at(0, refused(held(0, 0)))
        .at(20, What::Tick)
        .at(30, sampled(25, Some(corked_sample())))
        .at(40, sampled(35, Some(corked_sample())));
    assert_eq!(bench.names(), [Name::StallOpened, Name::StallUpdated]);
    assert_eq!(bench.stall(1).confidence, Confidence::Proven);
}

/// A record held time after time, each for so many milliseconds and let go so; then nothing for long enough.
fn held_and_let_go(ms: u64, paths: impl IntoIterator<Item = ReleasePath>) -> Bench {
    let mut bench = Bench::new();
    let (mut start, mut sent) = (0, 0);
    for path in paths {
        bench.at(start, refused(held(start, sent)));
        bench.at(start + 30, What::Tick);
        sent += 16406;
        bench.at(start + ms, released(sent, path));
        start += ms + 1;
    }
    bench.at(3000, What::Tick);
    bench
}

#[test]
fn successive_holds_are_one_episode_that_counts_who_let_them_go() {
    let first = std::iter::once(ReleasePath::PersistTimer);
    let bench = held_and_let_go(40, first.chain([ReleasePath::PeerAck; 9]));
    assert_eq!(bench.names().first(), Some(&Name::StallOpened));
    assert_eq!(bench.names().last(), Some(&Name::StallClosed));
    let opened = bench
        .names()
        .iter()
        .filter(|&&name| name == Name::StallOpened)
        .count();
    assert_eq!(opened, 1);
    let stall = stall_of(bench.events.last().unwrap());
    assert_eq!(stall.ended, Some(Ended::Flowing));
    assert_eq!(stall.totals.holds, 10);
    assert_eq!(stall.totals.records, 10);
    assert_eq!(stall.totals.bytes_sent, 10 * 16406);
    assert_eq!(stall.released[&ReleasePath::PeerAck], 9);
    assert_eq!(stall.released[&ReleasePath::PersistTimer], 1);
    assert_eq!(
        stall.cadence,
        Some(Cadence::DelayedAck),
        "that of the whole episode"
    );
    let names: HashSet<_> = bench
        .events
        .iter()
        .map(|event| &stall_of(event).stall)
        .collect();
    assert_eq!(names.len(), 1);
}

#[test]
fn the_cadence_is_that_of_what_let_most_holds_go() {
    for (path, cadence) in [
        (ReleasePath::PeerAck, Cadence::DelayedAck),
        (ReleasePath::PersistTimer, Cadence::Persist),
    ] {
        let bench = held_and_let_go(205, [path; 3]);
        let stall = stall_of(bench.events.last().unwrap());
        assert_eq!(stall.cadence, Some(cadence));
    }
}

#[test]
fn two_records_held_together_are_counted_as_two() {
    let mut hold = held(0, 0);
    hold.socket.write_seq = Some(32812);
    hold.socket.notsent_lowat = Some(32768);
    let mut bench = Bench::new();
    bench.at(0, refused(hold)).at(20, What::Tick);
    assert_eq!(bench.stall(0).held.records, Some(2));
}

#[test]
fn a_hold_that_never_ends_has_no_release_until_its_owner_closes_it() {
    let mut bench = Bench::new();
    bench.at(0, refused(held(0, 0))).at(5000, What::Tick);
    assert!(bench.stall(0).released.values().all(|&count| count == 0));
    bench
        .at(6000, What::Closing { key: KEY })
        .at(6001, released(16407, ReleasePath::Close))
        .at(6300, What::Tick);
    let stall = stall_of(bench.events.last().unwrap());
    assert_eq!(stall.ended, Some(Ended::Closed));
    assert_eq!(stall.released[&ReleasePath::Close], 1);
    assert_eq!(stall.totals.bytes_sent, 16406, "the FIN is no byte");
    assert_eq!(bench.forgotten, [KEY]);
}

#[test]
fn bytes_of_a_socket_that_vanishes_were_let_go_by_nobody() {
    let mut bench = Bench::new();
    bench
        .at(0, refused(held(0, 0)))
        .at(20, What::Tick)
        .at(100, sampled(99, None));
    let stall = stall_of(bench.events.last().unwrap());
    assert_eq!(stall.ended, Some(Ended::Gone));
    assert_eq!(stall.released[&ReleasePath::None], 1);
}

#[test]
fn a_lost_release_is_noticed_by_the_next_hold_and_by_sock_diag() {
    let mut bench = Bench::new();
    bench
        .at(0, refused(held(0, 0)))
        .at(30, What::Tick)
        .at(41, refused(held(41, 16406)));
    let empty = Sample {
        notsent: Some(0),
        ..corked_sample()
    };
    bench.at(70, sampled(65, Some(empty))).at(2000, What::Tick);
    let stall = stall_of(bench.events.last().unwrap());
    assert_eq!(stall.ended, Some(Ended::Flowing));
    assert_eq!(stall.released[&ReleasePath::Unknown], 2);
}

#[test]
fn bytes_that_sock_diag_says_are_gone_open_nothing() {
    let mut bench = Bench::new();
    let empty = Sample {
        notsent: Some(0),
        ..corked_sample()
    };
    bench
        .at(0, refused(held(0, 0)))
        .at(10, What::Tick)
        .at(12, sampled(10, Some(empty)))
        .at(500, What::Tick);
    assert_eq!(bench.names(), []);
}

#[test]
fn without_the_release_hook_bytes_are_held_only_if_sock_diag_says_so() {
    let mut bench = Bench::new();
    bench
        .at(0, no_release())
        .at(0, refused(held(0, 0)))
        .at(500, What::Tick);
    assert_eq!(bench.names(), []);
    bench.at(510, sampled(505, Some(corked_sample())));
    assert_eq!(bench.names(), [Name::StallOpened]);
}

#[test]
fn without_the_release_hook_an_answer_before_the_threshold_is_not_enough() {
    let mut bench = Bench::new();
    bench
        .at(0, no_release())
        .at(0, refused(held(0, 0)))
        .at(12, sampled(11, Some(corked_sample())));
    assert_eq!(bench.polls, 0, "asked before it can tell");
    bench.at(20, What::Tick);
    assert_eq!((bench.names(), bench.polls), (vec![], 1));
    bench.at(22, sampled(20, Some(corked_sample())));
    assert_eq!(bench.names(), [Name::StallOpened]);
}

/// A full ring buffer may lose that the bytes left, and then nothing tells of them any more: the connection is fast.
#[test]
fn a_flowing_socket_whose_release_was_lost_is_not_held() {
    let in_flight = Sample {
        notsent: Some(300_000),
        packets_out: Some(40),
        unacked_bytes: Some(600_000),
        bytes_sent: Some(5_000_000),
        ..corked_sample()
    };
    let mut bench = Bench::new();
    bench.at(0, refused(held(0, 0)));
    for ms in [11, 61, 111] {
        bench.at(ms, sampled(ms - 1, Some(in_flight.clone())));
    }
    assert_eq!(bench.names(), []);

    // As much in flight as then, but more was sent.
    let mut bench = Bench::new();
    let later = Sample {
        bytes_sent: Some(16406),
        ..corked_sample()
    };
    bench
        .at(0, refused(held(0, 0)))
        .at(12, sampled(11, Some(corked_sample())))
        .at(25, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened]);
    bench
        .at(62, sampled(61, Some(later.clone())))
        .at(113, sampled(111, Some(later)))
        .at(1300, What::Tick);
    let stall = stall_of(bench.events.last().unwrap());
    assert_eq!(stall.ended, Some(Ended::Flowing));
    assert_eq!(stall.released[&ReleasePath::Unknown], 1);
}

/// Other bytes than those that were seen to wait say nothing of them.
#[test]
fn without_the_release_hook_other_bytes_are_not_taken_for_those_that_were_held() {
    let fewer = Sample {
        notsent: Some(5000),
        ..corked_sample()
    };
    let more_in_flight = Sample {
        unacked_bytes: Some(16406),
        packets_out: Some(1),
        ..corked_sample()
    };
    for other in [fewer, more_in_flight] {
        let mut bench = Bench::new();
        bench
            .at(0, no_release())
            .at(0, refused(held(0, 0)))
            .at(22, sampled(21, Some(other)))
            .at(500, What::Tick);
        assert_eq!(bench.names(), []);
    }

    // A buffer full of one record in flight: once that is acknowledged, the writer is let in.
    let full = || {
        let mut hold = held(0, 16406);
        (hold.socket.write_seq, hold.socket.snd_una) = (Some(16406), Some(0));
        hold.socket.packets_out = Some(1);
        (hold.socket.wmem_queued, hold.socket.sndbuf) = (Some(20000), Some(20000));
        hold
    };
    let answer = |unacked_bytes| Sample {
        notsent: Some(0),
        packets_out: Some(1),
        unacked_bytes: Some(unacked_bytes),
        ..corked_sample()
    };
    let told = |unacked_bytes| {
        let mut bench = Bench::new();
        bench
            .at(0, no_release())
            .at(0, refused(full()))
            .at(22, sampled(21, Some(answer(unacked_bytes))))
            .at(45, What::Tick);
        bench.names()
    };
    assert_eq!(told(16406), [Name::StallOpened]);
    // The end that has connected counts its SYN as acknowledged.
    assert_eq!(told(16405), [Name::StallOpened]);
    assert_eq!(told(5000), []);
}

#[test]
fn without_the_release_hook_a_timer_that_fired_says_so_too() {
    let mut bench = Bench::new();
    let fired = What::PersistFired {
        key: KEY,
        hold: Box::new(held(0, 0)),
    };
    let nothing_left = Sample {
        notsent: Some(0),
        ..corked_sample()
    };
    bench
        .at(0, no_release())
        .at(200, fired)
        .at(211, What::Tick)
        .at(215, sampled(212, Some(nothing_left)))
        .at(2000, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened, Name::StallClosed]);
}

#[test]
fn a_persist_timer_that_fired_tells_how_long_at_least_though_the_push_was_not_seen() {
    let mut unseen = held(0, 0);
    (unseen.send, unseen.push) = (None, None);
    let nothing_left = Sample {
        notsent: Some(0),
        ..corked_sample()
    };
    let fired = What::PersistFired {
        key: KEY,
        hold: Box::new(unseen),
    };
    let mut bench = Bench::new();
    bench
        .at(0, no_release())
        .at(1000, fired)
        .at(1001, sampled(1001, Some(nothing_left)))
        .at(1011, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened]);
    assert!(bench.stall(0).held.ms >= 200.0);
}

#[test]
fn an_answer_without_a_queue_does_not_say_that_bytes_wait() {
    let past = Sample {
        established: false,
        notsent: None,
        packets_out: None,
        ..corked_sample()
    };
    let mut bench = Bench::new();
    bench
        .at(0, no_release())
        .at(1000, refused(held(0, 0)))
        .at(1011, What::Tick)
        .at(1012, sampled(1011, Some(past)))
        .at(1200, What::Tick)
        .at(2000, What::Tick);
    assert_eq!(bench.names(), []);
}

#[test]
fn stopping_closes_what_is_open_and_says_that_it_may_go_on() {
    let mut bench = Bench::new();
    bench.at(0, refused(held(0, 0))).at(20, What::Tick);
    let outputs = bench.correlator.finish(START + 50 * MS);
    bench.keep(outputs);
    assert_eq!(bench.names(), [Name::StallOpened, Name::StallClosed]);
    let stall = bench.stall(1);
    assert_eq!(stall.ended, Some(Ended::Stopped));
    assert!(
        stall.released.values().all(|&count| count == 0),
        "it is still held"
    );
}

#[test]
fn a_persist_timer_with_a_shut_window_opens_a_zero_window_episode() {
    let mut hold = held(0, 0);
    hold.socket.snd_wnd = Some(0);
    hold.socket.write_seq = Some(500_000);
    let mut bench = Bench::new();
    bench
        .at(
            200,
            What::PersistFired {
                key: KEY,
                hold: Box::new(hold),
            },
        )
        .at(201, What::ZeroWindowProbe { key: KEY })
        .at(211, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened]);
    assert_eq!(bench.stall(0).verdict, Verdict::ZeroWindow);
}

#[test]
fn what_a_timer_brought_up_is_told_with_the_name_of_its_process() {
    let mut hold = held(0, 0);
    hold.socket.write_seq = Some(500_000);
    hold.socket.packets_out = Some(3);
    let mut bench = Bench::new();
    bench
        .at(
            200,
            What::RetransmitTimeout {
                key: KEY,
                hold: Box::new(hold),
            },
        )
        .at(
            200,
            What::ProcessNamed {
                key: KEY,
                pid: 100,
                comm: Some("nginx".to_owned()),
                exe: None,
                cgroup: None,
                netns: None,
            },
        );
    assert_eq!(bench.names(), [], "nothing is told at the very moment");
    assert_eq!(bench.polls, 1, "sock_diag is asked at once");
    bench.at(211, What::Tick);
    let stall = bench.stall(0);
    assert_eq!(stall.verdict, Verdict::NetworkLimited);
    assert_eq!(stall.evidence.retransmit_timeouts, 1);
    let comm = stall.process.as_ref().and_then(|p| p.comm.as_deref());
    assert_eq!(comm, Some("nginx"));
}

#[test]
fn what_the_persist_timer_lets_go_at_once_was_held_all_the_same() {
    let mut bench = Bench::new();
    bench
        .at(
            200,
            What::PersistFired {
                key: KEY,
                hold: Box::new(held(0, 0)),
            },
        )
        .at(200, released(16406, ReleasePath::PersistTimer))
        .at(3000, What::Tick);
    assert_eq!(bench.names()[0], Name::StallOpened);
    let stall = bench.stall(bench.events.len() - 1);
    assert_eq!(stall.released[&ReleasePath::PersistTimer], 1);
}

#[test]
fn what_a_closing_socket_holds_opens_no_episode_unless_sock_diag_has_seen_it() {
    let mut bench = Bench::new();
    bench
        .at(0, refused(held(0, 0)))
        .at(2, What::Closing { key: KEY })
        .at(100, What::Tick)
        .at(1000, What::Tick);
    assert_eq!(bench.names(), []);
}

/// A writer refused with everything in flight and nothing unsent.
fn buffer_full(sent: u32) -> Hold {
    let mut hold = held(0, sent);
    hold.socket.write_seq = Some(sent);
    hold.socket.snd_una = Some(sent.wrapping_sub(65483));
    hold.socket.packets_out = Some(1);
    hold.socket.wmem_queued = hold.socket.sndbuf;
    hold
}

#[test]
fn a_full_buffer_with_nothing_unsent_is_a_stall_that_the_peers_ack_ends() {
    let mut bench = Bench::new();
    bench
        .at(0, refused(buffer_full(65483)))
        .at(40, What::Tick)
        .at(45, released(2 * 65483, ReleasePath::LaterSend))
        .at(2000, What::Tick);
    let stall = bench.stall(bench.events.len() - 1);
    assert_eq!(stall.ended, Some(Ended::Flowing));
    assert_eq!(stall.verdict, Verdict::SendBufferLimited);
    assert_eq!(stall.released[&ReleasePath::PeerAck], 1);
    assert_eq!(stall.held.bytes, Some(0));
}

/// An acknowledgement made room, and what the writer then queued waits in turn.
#[test]
fn a_record_that_waits_after_a_full_buffer_is_a_hold_of_its_own() {
    let mut then = held(40, 65483);
    then.socket.snd_una = Some(65483);
    let mut bench = Bench::new();
    bench
        .at(0, refused(buffer_full(65483)))
        .at(20, What::Tick)
        .at(40, refused(then))
        .at(41, released(65483 + 16406, ReleasePath::PeerAck))
        .at(2000, What::Tick);
    let stall = bench.stall(bench.events.len() - 1);
    assert_eq!(stall.verdict, Verdict::SendBufferLimited);
    assert_eq!(stall.released[&ReleasePath::PeerAck], 2);
    assert_eq!(stall.totals.holds, 2);
    assert!(
        !stall
            .totals
            .verdicts
            .contains_key(&Verdict::CorkedCompletedRecord)
    );
}

#[test]
fn an_episode_adds_up_its_verdicts() {
    let mut bench = Bench::new();
    bench
        .at(0, refused(held(0, 0)))
        .at(40, released(16406, ReleasePath::PeerAck))
        .at(41, refused(buffer_full(16406)))
        .at(81, released(2 * 16406, ReleasePath::LaterSend))
        .at(82, refused(held(82, 2 * 16406)))
        .at(122, released(3 * 16406, ReleasePath::PeerAck))
        .at(2000, What::Tick);
    let stall = bench.stall(bench.events.len() - 1);
    assert_eq!(stall.verdict, Verdict::CorkedCompletedRecord);
    let holds = |verdict| stall.totals.verdicts[&verdict].holds;
    assert_eq!(holds(Verdict::CorkedCompletedRecord), 2);
    assert_eq!(holds(Verdict::SendBufferLimited), 1);
}

#[test]
fn a_window_that_opens_again_and_again_is_a_slow_receivers() {
    let mut bench = Bench::new();
    let shut = |sent: u32| {
        let mut hold = held(0, sent);
        hold.socket.write_seq = Some(sent + 500_000);
        hold.socket.snd_wnd = Some(0);
        hold
    };
    bench
        .at(0, refused(shut(0)))
        .at(300, released(16406, ReleasePath::PeerAck))
        .at(310, refused(shut(16406)))
        .at(400, What::Tick);
    assert_eq!(bench.stall(0).verdict, Verdict::ZeroWindow);
    let last = bench.stall(bench.events.len() - 1);
    assert_eq!(last.verdict, Verdict::ReceiverLimited);
}

#[test]
fn a_corked_socket_whose_peer_stops_reading_changes_its_verdict() {
    let mut bench = Bench::new();
    bench.at(0, refused(held(0, 0))).at(20, What::Tick);
    let mut shut = held(0, 0);
    shut.socket.snd_wnd = Some(0);
    bench.at(
        400,
        What::PersistFired {
            key: KEY,
            hold: Box::new(shut),
        },
    );
    assert_eq!(bench.names(), [Name::StallOpened, Name::StallUpdated]);
    assert_eq!(bench.stall(1).verdict, Verdict::ZeroWindow);
}

#[test]
fn a_socket_that_the_programs_have_named_anew_goes_on_in_its_episode() {
    let mut bench = Bench::new();
    bench.at(0, refused(held(0, 0))).at(30, What::Tick);
    let What::Refused {
        process,
        blocking,
        hold,
        ..
    } = refused(held(40, 16406))
    else {
        unreachable!()
    };
    let again = What::Refused {
        key: SocketKey(99),
        process,
        blocking,
        hold,
    };
    bench.at(40, again).at(80, What::Tick);
    let opened = |name: &&Name| **name == Name::StallOpened;
    assert_eq!(bench.names().iter().filter(opened).count(), 1);
    assert_eq!(bench.forgotten, [KEY]);
    assert!(bench.correlator.is_watched(SocketKey(99)));
}

#[test]
fn without_hooks_a_socket_that_stands_still_is_unknown_and_consistent() {
    let mut bench = Bench::new();
    let sampled = |ms: u64, sample: Option<Sample>| What::Sampled {
        key: SocketKey::of_cookie(1),
        asked_ns: START + ms * MS,
        sample: sample.map(Box::new),
    };
    for ms in [0, 50, 100] {
        bench.at(ms, sampled(ms, Some(corked_sample())));
    }
    assert_eq!(bench.names(), [Name::StallOpened]);
    assert_eq!(bench.stall(0).verdict, Verdict::Unknown);
    assert_eq!(bench.stall(0).evidence.sources, ["sock_diag"]);
    let moved = Sample {
        bytes_sent: Some(16406),
        ..corked_sample()
    };
    bench.at(150, sampled(150, Some(moved)));
    let flowing = Sample {
        bytes_sent: Some(99_999),
        notsent: Some(0),
        ..corked_sample()
    };
    bench
        .at(200, sampled(200, Some(flowing.clone())))
        .at(1300, sampled(1300, Some(flowing)));
    assert_eq!(bench.names().last(), Some(&Name::StallClosed));
}

#[test]
fn without_hooks_a_socket_that_is_not_told_of_any_more_is_gone() {
    let mut bench = Bench::new();
    for ms in [0, 50, 100] {
        let sample = What::Sampled {
            key: SocketKey::of_cookie(1),
            asked_ns: START + ms * MS,
            sample: Some(Box::new(corked_sample())),
        };
        bench.at(ms, sample);
    }
    assert_eq!(bench.names(), [Name::StallOpened]);
    bench.at(5000, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened]);
    bench.at(5200, What::Tick);
    assert_eq!(bench.names(), [Name::StallOpened, Name::StallClosed]);
    assert_eq!(bench.stall(1).ended, Some(Ended::Gone));
    assert_eq!(bench.forgotten, [SocketKey::of_cookie(1)]);
}

#[test]
fn the_longer_bytes_wait_the_less_often_it_is_asked_about_them() {
    let polls = |begin: u64, end: u64| {
        let mut bench = Bench::new();
        bench.at(0, refused(held(0, 0)));
        for ms in 1..begin {
            bench.at(ms, What::Tick);
        }
        let before = bench.polls;
        for ms in begin..end {
            bench.at(ms, What::Tick);
        }
        bench.polls - before
    };
    // Every 50 ms, and after a while an eighth of what has gone by, up to a second.
    assert_eq!(polls(0, 400), 8);
    assert_eq!(polls(20_000, 30_000), 10);
}

/// Holds of 40 ms, one after the other, the first of them proven; questions about each but that.
fn questions(holds: u64, of: impl Fn(u64, Hold) -> Hold) -> (Bench, Vec<usize>) {
    let mut bench = Bench::new();
    let questions = (0..holds).map(|number| {
        let (ms, sent) = (number * 60, u32::try_from(number * 16406).unwrap());
        let before = bench.polls;
        bench
            .at(ms, refused(of(number, held(ms, sent))))
            .at(ms + 11, What::Tick);
        if number == 0 {
            bench.at(ms + 12, sampled(ms + 11, Some(corked_sample())));
        }
        bench
            .at(ms + 30, What::Tick)
            .at(ms + 40, released(sent + 16406, ReleasePath::PeerAck));
        bench.polls - before
    });
    let questions = questions.collect();
    (bench, questions)
}

#[test]
fn the_longer_an_episode_repeats_what_is_proven_the_less_often_it_is_asked_about() {
    let (bench, questions) = questions(400, |_, hold| hold);
    assert!(bench.names().iter().all(|&name| name != Name::StallClosed));
    assert_eq!(questions[..5], [1; 5]);
    // Once a second in the end.
    let last: usize = questions[300..].iter().sum();
    assert!((5..=6).contains(&last), "{last}");
}

#[test]
fn a_full_buffer_with_nothing_unsent_is_asked_about_each_time() {
    let mut bench = Bench::new();
    let mut asked = Vec::new();
    for number in 0..200_u64 {
        let ms = number * 60;
        let full = buffer_full(u32::try_from((number + 1) * 65483).unwrap());
        let answer = Sample {
            notsent: Some(0),
            packets_out: Some(1),
            unacked_bytes: Some(65483),
            bytes_sent: None,
            wmem_queued: Some(2_626_560),
            sndbuf: Some(2_626_560),
            ..corked_sample()
        };
        let before = bench.polls;
        bench
            .at(ms, refused(full))
            .at(ms + 11, What::Tick)
            .at(ms + 12, sampled(ms + 11, Some(answer)))
            .at(ms + 40, What::Tick);
        asked.push(bench.polls - before);
    }
    assert_eq!(asked, [1; 200]);
}

#[test]
fn a_hold_that_looks_otherwise_than_what_was_proven_is_asked_about_at_once() {
    let (_, same) = questions(390, |_, hold| hold);
    let unasked = same.iter().rposition(|&count| count == 0).unwrap();
    let shut = |number, mut hold: Hold| {
        if number == u64::try_from(unasked).unwrap() {
            hold.socket.snd_wnd = Some(0);
        }
        hold
    };
    let (_, other) = questions(390, shut);
    assert_eq!(other[unasked], 1);
    assert_eq!(other[..unasked], same[..unasked]);
}

#[test]
fn a_hold_that_lasts_longer_than_any_cadence_is_asked_about_like_any_other() {
    let (mut bench, _) = questions(390, |_, hold| hold);
    let (begun, sent) = (390 * 60, 390 * 16406);
    let before = bench.polls;
    bench.at(begun, refused(held(begun, sent)));
    for ms in 0..1500 {
        bench.at(begun + ms, What::Tick);
    }
    assert!(
        (8..12).contains(&(bench.polls - before)),
        "{}",
        bench.polls - before
    );
}

#[test]
fn where_no_hook_sees_bytes_leave_every_hold_is_asked_about() {
    let mut bench = Bench::new();
    bench.at(0, no_release());
    let mut asked = 0;
    for number in 0..200_u64 {
        let (ms, sent) = (number * 60, u32::try_from(number * 16406).unwrap());
        bench
            .at(ms, refused(held(ms, sent)))
            .at(ms + 21, What::Tick)
            .at(ms + 22, sampled(ms + 21, Some(corked_sample())));
        asked = bench.polls;
    }
    assert_eq!(asked, 200);
}

/// Raising the sysctl wakes no writer that sleeps: the hold at hand is still that of the gate it met.
#[test]
fn a_gate_that_was_opened_meanwhile_is_still_the_one_that_was_met() {
    let mut opened = held(0, 0);
    opened.socket.notsent_lowat = Some(131_072);
    let fired = What::PersistFired {
        key: KEY,
        hold: Box::new(opened),
    };
    let mut bench = Bench::new();
    bench
        .at(0, refused(held(0, 0)))
        .at(40, What::Tick)
        .at(204, fired)
        .at(204, released(16406, ReleasePath::PersistTimer))
        .at(1300, What::Tick);
    assert_eq!(bench.names().last(), Some(&Name::StallClosed));
    for stall in bench.events.iter().map(stall_of) {
        assert_eq!(stall.verdict, Verdict::CorkedCompletedRecord);
        assert_eq!(stall.gate, Some(Gate::NotsentLowat));
    }
}

#[test]
fn a_kernel_worker_is_not_taken_for_the_process() {
    let mut hold = held(0, 0);
    hold.writer_pid = Some(100);
    let by_worker = What::Refused {
        key: KEY,
        process: Process {
            pid: 9,
            tid: 9,
            thread: "kworker/0:1".to_owned(),
        },
        blocking: false,
        hold: Box::new(hold),
    };
    let mut bench = Bench::new();
    bench.at(0, by_worker).at(20, What::Tick).at(31, What::Tick);
    let process = bench.stall(0).process.as_ref().unwrap();
    assert_eq!(process.pid, 100);
}

#[test]
fn a_socket_that_hung_before_the_hooks_came_is_found_by_asking() {
    let config = Config {
        asks_unhooked: true,
        ..Config::default()
    };
    let mut bench = Bench::new();
    bench.correlator = Correlator::new(config);
    let hung = Sample {
        timer: None,
        ..corked_sample()
    };
    let key = SocketKey::of_cookie(hung.cookie);
    let asked = |sample: &Sample, ms: u64| What::Sampled {
        key,
        asked_ns: START + ms * MS,
        sample: Some(Box::new(sample.clone())),
    };
    for ms in (0..=500).step_by(50) {
        bench.at(ms, asked(&hung, ms));
    }
    assert_eq!(bench.names(), [Name::StallOpened]);
    assert_eq!(bench.stall(0).verdict, Verdict::CorkedCompletedRecord);
    assert_eq!(bench.stall(0).confidence, Confidence::Consistent);
    // Then a hook meets it: the same episode goes on under the hook's name.
    bench
        .at(600, refused(held(600, 16406)))
        .at(610, What::Tick)
        .at(615, sampled(611, Some(hung)))
        .at(640, What::Tick);
    let names: HashSet<_> = bench
        .events
        .iter()
        .map(|event| &stall_of(event).stall)
        .collect();
    assert_eq!(names.len(), 1);
    assert_eq!(
        stall_of(bench.events.last().unwrap()).confidence,
        Confidence::Proven
    );
}

#[test]
fn a_socket_that_no_hook_has_met_is_named_after_who_has_it_open() {
    let mut bench = Bench::new();
    bench.correlator = Correlator::new(Config {
        asks_unhooked: true,
        ..Config::default()
    });
    let hung = corked_sample();
    let key = SocketKey::of_cookie(hung.cookie);
    for ms in (0..=600).step_by(50) {
        let what = What::Sampled {
            key,
            asked_ns: START + ms * MS,
            sample: Some(Box::new(hung.clone())),
        };
        bench.at(ms, what);
        if ms == 250 {
            assert_eq!(bench.ownerless, [9349]);
            let named = What::ProcessNamed {
                key,
                pid: 42,
                comm: Some("nginx".to_owned()),
                exe: None,
                cgroup: None,
                netns: None,
            };
            bench.at(ms, named);
        }
    }
    assert_eq!(bench.names(), [Name::StallOpened]);
    let process = bench.stall(0).process.as_ref().unwrap();
    assert_eq!((process.pid, process.comm.as_deref()), (42, Some("nginx")));
    // Once is enough.
    assert_eq!(bench.ownerless, [9349]);
}

#[test]
fn a_busy_socket_found_by_asking_is_left_to_the_hooks() {
    let mut bench = Bench::new();
    bench.correlator = Correlator::new(Config {
        asks_unhooked: true,
        ..Config::default()
    });
    let key = SocketKey::of_cookie(1);
    for (ms, bytes_sent) in [(0, 0), (50, 99_999)] {
        let sample = Sample {
            bytes_sent: Some(bytes_sent),
            ..corked_sample()
        };
        let asked_ns = START + ms * MS;
        bench.at(
            ms,
            What::Sampled {
                key,
                asked_ns,
                sample: Some(Box::new(sample)),
            },
        );
    }
    assert_eq!(bench.forgotten, [key]);
    assert_eq!(bench.names(), []);
}

#[test]
fn what_sock_diag_alone_had_seen_is_not_told_because_a_hook_meets_the_socket() {
    let mut bench = Bench::new();
    bench.correlator = Correlator::new(Config {
        asks_unhooked: true,
        ..Config::default()
    });
    let sample = corked_sample();
    let mut hold = held(0, 0);
    hold.socket.cookie = Some(sample.cookie);
    // The stall was there before the hooks: the persist timer is the first that they see of it.
    hold.push = None;
    hold.socket.tail_psh = None;
    hold.send = None;
    bench.at(
        0,
        What::Sampled {
            key: SocketKey::of_cookie(sample.cookie),
            asked_ns: START,
            sample: Some(Box::new(sample)),
        },
    );
    let fired = What::PersistFired {
        key: KEY,
        hold: Box::new(hold),
    };
    bench
        .at(40, fired)
        .at(41, released(16406, ReleasePath::PersistTimer));
    let of_sock_diag = |event: &&Event| stall_of(event).evidence.sources == ["sock_diag"];
    assert_eq!(bench.events.iter().filter(of_sock_diag).count(), 0);
}

#[test]
fn the_process_is_named() {
    let mut bench = Bench::new();
    let named = What::ProcessNamed {
        key: KEY,
        pid: 100,
        comm: Some("nginx".to_owned()),
        exe: Some("/usr/sbin/nginx".to_owned()),
        cgroup: Some("/system.slice/nginx.service".to_owned()),
        netns: None,
    };
    bench
        .at(0, refused(held(0, 0)))
        .at(1, named)
        .at(20, What::Tick);
    let process = bench.stall(0).process.as_ref().unwrap();
    assert_eq!(process.comm.as_deref(), Some("nginx"));
    assert_eq!(process.thread.as_deref(), Some("worker"));
    assert_eq!((process.pid, process.tid), (100, Some(101)));
}

#[test]
fn processes_that_take_turns_on_a_socket_keep_their_names() {
    let turn = |ms, pid| {
        let mut what = refused(held(ms, 0));
        if let What::Refused { process, .. } = &mut what {
            process.pid = pid;
        }
        what
    };
    let named = |pid, comm: &str| What::ProcessNamed {
        key: KEY,
        pid,
        comm: Some(comm.to_owned()),
        exe: None,
        cgroup: None,
        netns: None,
    };
    let mut bench = Bench::new();
    bench
        .at(0, turn(0, 100))
        .at(0, named(100, "parent"))
        .at(1, turn(1, 200))
        .at(1, named(200, "child"))
        .at(2, turn(2, 100))
        .at(30, What::Tick);
    let process = bench.stall(0).process.as_ref().unwrap();
    assert_eq!(
        (process.pid, process.comm.as_deref()),
        (100, Some("parent"))
    );
}

/// Any hold: facts present or not, sensible or not.
fn any_hold() -> impl Strategy<Value = Hold> {
    let number = || prop::option::of(prop_oneof![0_u32..100_000, any::<u32>()]);
    let flag = || prop::option::of(any::<bool>());
    (
        (number(), number(), number(), number(), number(), number()),
        (flag(), flag(), flag(), any::<bool>(), any::<bool>()),
        0_u64..5000,
    )
        .prop_map(|(numbers, flags, push_ms)| {
            let mut hold = held(push_ms, 0);
            let socket = &mut hold.socket;
            (socket.write_seq, socket.snd_nxt, socket.snd_una) = (numbers.0, numbers.1, numbers.2);
            (socket.snd_wnd, socket.mss, socket.notsent_lowat) = (numbers.3, numbers.4, numbers.5);
            (socket.corked, socket.throttled, socket.partial_record) = (flags.0, flags.1, flags.2);
            hold.send = hold.send.filter(|_| flags.3);
            hold.push = hold.push.filter(|_| flags.4);
            hold
        })
}

/// Any observation, of one of a few sockets.
pub(crate) fn any_what() -> impl Strategy<Value = What> {
    let key = || (1_u64..4).prop_map(SocketKey);
    let path = prop_oneof![
        Just(ReleasePath::PeerAck),
        Just(ReleasePath::PersistTimer),
        Just(ReleasePath::LaterSend),
        Just(ReleasePath::Close),
        Just(ReleasePath::Unknown),
    ];
    let sample = prop::option::of((0_u32..100_000, any::<bool>(), 0_u64..3)).prop_map(|sample| {
        sample.map(|(notsent, established, bytes_sent)| {
            Box::new(Sample {
                notsent: Some(notsent),
                established,
                bytes_sent: Some(bytes_sent),
                ..corked_sample()
            })
        })
    });
    prop_oneof![
        4 => (key(), any::<bool>(), any_hold()).prop_map(|(key, blocking, hold)| What::Refused {
            key,
            process: Process { pid: 1, tid: 1, thread: "t".to_owned() },
            blocking,
            hold: Box::new(hold),
        }),
        3 => (key(), any::<u32>(), path)
            .prop_map(|(key, end_seq, path)| What::Released { key, bytes: 1, end_seq, path }),
        2 => (key(), any_hold())
            .prop_map(|(key, hold)| What::PersistFired { key, hold: Box::new(hold) }),
        3 => (key(), 0_u64..6000, sample).prop_map(|(key, asked_ms, sample)| What::Sampled {
            key,
            asked_ns: START + asked_ms * MS,
            sample,
        }),
        1 => key().prop_map(|key| What::PersistArmed { key }),
        1 => key().prop_map(|key| What::ZeroWindowProbe { key }),
        1 => key().prop_map(|key| What::Closing { key }),
        1 => (key(), any::<u64>(), any::<i64>())
            .prop_map(|(key, waited_ns, result)| What::Resumed { key, waited_ns, result }),
        1 => any::<i64>().prop_map(|unix_ns| What::Clock { unix_ns }),
        1 => any::<bool>().prop_map(|see_releases| What::Hooks { see_releases }),
        1 => (1_u64..500, 1_u64..500).prop_map(|(threshold_ms, poll_interval_ms)| What::Intervals {
            threshold_ns: threshold_ms * MS,
            poll_interval_ns: poll_interval_ms * MS,
        }),
        3 => Just(What::Tick),
    ]
}

/// What must hold for the events of any run: an episode is opened once, closed once, and updated
/// only in between.
fn check(events: &[Event]) {
    let mut open = HashSet::new();
    let mut closed = HashSet::new();
    for event in events {
        let stall = stall_of(event);
        assert!(
            !closed.contains(&stall.stall),
            "{} after its end",
            stall.stall
        );
        let id = stall.stall.as_str();
        match event.event {
            Name::StallOpened => {
                assert!(open.insert(id), "opened twice");
            }
            Name::StallUpdated => assert!(open.contains(id), "updated while not open"),
            Name::StallClosed => {
                assert!(open.remove(id), "closed while not open");
                closed.insert(stall.stall.clone());
            }
            other => panic!("the correlator does not tell {other:?}"),
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_observations_in_any_order_keep_the_episodes_whole(
        observations in prop::collection::vec((0_u64..6000, any_what()), 0..120)
    ) {
        let mut bench = Bench::new();
        for (ms, what) in observations {
            // One socket a run: at most one episode may be open at any time.
            bench.at(ms, with_key(what));
            let open = bench.events.iter().filter(|e| e.event == Name::StallOpened).count();
            let closed = bench.events.iter().filter(|e| e.event == Name::StallClosed).count();
            prop_assert!(open - closed <= 1, "two episodes open for one socket");
        }
        let outputs = bench.correlator.finish(START + 10_000 * MS);
        bench.keep(outputs);
        check(&bench.events);
    }

    #[test]
    fn one_source_alone_never_proves_anything(
        observations in prop::collection::vec((0_u64..6000, any_what()), 0..120),
        hooks in any::<bool>()
    ) {
        let mut bench = Bench::new();
        for (ms, what) in observations {
            let of_sock_diag = matches!(what, What::Sampled { .. });
            let neutral = matches!(what, What::Tick | What::Clock { .. } | What::Hooks { .. });
            if neutral || of_sock_diag != hooks {
                bench.at(ms, what);
            }
        }
        for event in &bench.events {
            prop_assert_eq!(stall_of(event).confidence, Confidence::Consistent);
        }
    }

    #[test]
    fn the_same_observations_give_the_same_events(
        observations in prop::collection::vec((0_u64..6000, any_what()), 0..60)
    ) {
        let run = || {
            let mut bench = Bench::new();
            for (ms, what) in &observations {
                bench.at(*ms, what.clone());
            }
            let lines: Vec<_> =
                bench.events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
            lines
        };
        prop_assert_eq!(run(), run());
    }
}

/// The same observation about [`KEY`].
fn with_key(mut what: What) -> What {
    match &mut what {
        What::Refused { key, .. }
        | What::Resumed { key, .. }
        | What::Released { key, .. }
        | What::PersistArmed { key }
        | What::PersistFired { key, .. }
        | What::RetransmitTimeout { key, .. }
        | What::ZeroWindowProbe { key }
        | What::Closing { key }
        | What::Sampled { key, .. }
        | What::ProcessNamed { key, .. } => *key = KEY,
        What::Hooks { .. } | What::Intervals { .. } | What::Clock { .. } | What::Tick => {}
    }
    what
}
