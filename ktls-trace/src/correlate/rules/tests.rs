//! The rules on made-up facts, and their order.

use super::*;
use crate::observe::{
    MSG_MORE, MSG_SENDPAGE_NOTLAST, MSG_SPLICE_PAGES, PushFacts, SendFacts, Timer, Tls,
};

/// The stall of the report: one record below the MSS of loopback, lowat 16384.
pub(crate) fn corked() -> Hold {
    Hold {
        socket: SocketState {
            cookie: Some(1),
            netns: Some(4_026_531_840),
            src: Some("127.0.0.1:443".parse().unwrap()),
            dst: Some("127.0.0.1:50000".parse().unwrap()),
            interface: None,
            state: Some(1),
            write_seq: Some(16406),
            snd_nxt: Some(0),
            snd_una: Some(0),
            snd_wnd: Some(65536),
            mss: Some(65483),
            packets_out: Some(0),
            in_flight: Some(0),
            snd_cwnd: Some(10),
            notsent_lowat: Some(16384),
            own_lowat: Some(false),
            wmem_queued: Some(20000),
            sndbuf: Some(2_626_560),
            corked: Some(false),
            nodelay: Some(false),
            persist_pending: Some(true),
            timer_pending: Some(true),
            throttled: Some(false),
            partial_record: Some(false),
            open_record: Some(false),
            tail_psh: Some(false),
            encrypt_pending: Some(0),
            user_mss: Some(0),
            srtt_us: Some(100),
            retransmits: Some(0),
            lost: Some(0),
            retrans: Some(0),
            paced_ns: Some(0),
            tls: tls("sw"),
        },
        send: Some(SendFacts {
            flags: MSG_MORE | MSG_SPLICE_PAGES,
            bytes: Some(65536),
            sendpage: false,
        }),
        push: Some(PushFacts {
            at_ns: 0,
            flags: MSG_MORE,
            record_bytes: 16406,
            records: 1,
            complete: true,
        }),
        writer_pid: Some(100),
    }
}

fn tls(tx: &str) -> Tls {
    Tls {
        version: Some("1.3".to_owned()),
        cipher: Some("aes-gcm-128".to_owned()),
        tx: Some(tx.to_owned()),
    }
}

/// What `sock_diag` answers for [`corked`].
pub(crate) fn corked_sample() -> Sample {
    Sample {
        cookie: 1,
        inode: Some(9349),
        established: true,
        notsent: Some(16406),
        packets_out: Some(0),
        snd_wnd: Some(65536),
        mss: Some(65483),
        unacked_bytes: Some(0),
        bytes_sent: Some(0),
        timer: Some(Timer {
            kind: "persist".to_owned(),
            expires_ms: 28,
            probes: 0,
        }),
        tls: tls("sw"),
        ..Sample::default()
    }
}

fn judged(hold: &Hold) -> Finding {
    judge(&Facts {
        hold: Some(hold),
        sample: None,
        ..Facts::default()
    })
}

#[test]
fn the_reported_stall_is_consistent_from_hooks_and_proven_with_sock_diag() {
    let hold = corked();
    let finding = judged(&hold);
    assert_eq!(finding.verdict, Verdict::CorkedCompletedRecord);
    assert_eq!(finding.confidence, Confidence::Consistent);
    assert_eq!(finding.gate, Some(Gate::NotsentLowat));
    let sample = corked_sample();
    let facts = Facts {
        hold: Some(&hold),
        sample: Some(&sample),
        ..Facts::default()
    };
    assert_eq!(judge(&facts).confidence, Confidence::Proven);
}

#[test]
fn held_tail_below_jumbo_mss_is_corked() {
    let mut hold = corked();
    hold.socket.mss = Some(8948);
    hold.socket.snd_nxt = Some(8948);
    hold.socket.packets_out = Some(1);
    hold.socket.notsent_lowat = Some(1);
    assert_eq!(judged(&hold).verdict, Verdict::CorkedCompletedRecord);
}

#[test]
fn before_6_5_splice_says_more_by_another_flag_too() {
    let mut hold = corked();
    hold.push = hold.push.map(|push| PushFacts {
        flags: MSG_SENDPAGE_NOTLAST,
        ..push
    });
    assert_eq!(judged(&hold).verdict, Verdict::CorkedCompletedRecord);
}

#[test]
fn a_full_send_buffer_is_the_other_gate() {
    let mut hold = corked();
    hold.socket.notsent_lowat = Some(u32::MAX);
    hold.socket.sndbuf = Some(16384);
    assert_eq!(judged(&hold).gate, Some(Gate::Sndbuf));
    hold.socket.notsent_lowat = Some(16384);
    assert_eq!(judged(&hold).gate, Some(Gate::Both));
}

#[test]
fn application_cork_is_not_called_corked_record() {
    let mut hold = corked();
    hold.socket.corked = Some(true);
    assert_eq!(judged(&hold).verdict, Verdict::ApplicationCork);
}

#[test]
fn a_shut_window_is_not_called_corked_record() {
    let mut hold = corked();
    hold.socket.snd_wnd = Some(0);
    assert_eq!(judged(&hold).verdict, Verdict::ZeroWindow);
}

#[test]
fn what_would_make_it_something_else_leaves_it_unknown() {
    /// A fact of the hold that is turned against the rule.
    type Change = fn(&mut Hold);
    let changes: &[(&str, Change)] = &[
        ("no MSG_MORE", |hold| hold.push.as_mut().unwrap().flags = 0),
        ("the record is not complete", |hold| {
            hold.push.as_mut().unwrap().complete = false;
            hold.socket.partial_record = None;
        }),
        ("TCP has a part of a record", |hold| {
            hold.socket.partial_record = Some(true);
        }),
        ("whether TCP_CORK is set is not known", |hold| {
            hold.socket.corked = None;
        }),
        ("no gate is shut", |hold| {
            hold.socket.notsent_lowat = Some(65536);
        }),
        ("TLS is offloaded", |hold| hold.socket.tls = tls("hw")),
        ("neither flag nor record was seen", |hold| {
            hold.push = None;
            hold.send = None;
            hold.socket.tail_psh = None;
        }),
        (
            "the last segment has PSH, which half a window brings too",
            |hold| {
                hold.push = None;
                hold.send = None;
                hold.socket.tail_psh = Some(true);
            },
        ),
        ("what waits without PSH ends within a record", |hold| {
            hold.push = None;
            hold.socket.open_record = Some(true);
        }),
    ];
    for (why, change) in changes {
        let mut hold = corked();
        change(&mut hold);
        assert_eq!(judged(&hold).verdict, Verdict::Unknown, "{why}");
    }
}

#[test]
fn what_could_refute_it_and_was_not_read_leaves_it_consistent() {
    let changes: &[fn(&mut SocketState)] = &[
        |_| {},
        |socket| socket.throttled = None,
        |socket| socket.in_flight = None,
        |socket| socket.snd_cwnd = None,
        |socket| socket.paced_ns = None,
        |socket| socket.tls.tx = None,
    ];
    let sample = corked_sample();
    for (number, change) in changes.iter().enumerate() {
        let mut hold = corked();
        change(&mut hold.socket);
        let finding = judge(&Facts {
            hold: Some(&hold),
            sample: Some(&sample),
            ..Facts::default()
        });
        assert_eq!(finding.verdict, Verdict::CorkedCompletedRecord);
        let all_read = number == 0;
        assert_eq!(
            finding.confidence == Confidence::Proven,
            all_read,
            "{number}"
        );
    }
}

#[test]
fn an_earlier_push_says_nothing_of_a_record_whose_own_was_not_seen() {
    let mut hold = corked();
    hold.push.as_mut().unwrap().complete = false;
    hold.socket.partial_record = Some(false);
    hold.socket.tail_psh = Some(false);
    let finding = judged(&hold);
    assert_eq!(finding.verdict, Verdict::CorkedCompletedRecord);
    assert_eq!(finding.confidence, Confidence::Consistent);
    // It may have been pushed without the flag then.
    hold.socket.tail_psh = Some(true);
    hold.send = None;
    assert_eq!(judged(&hold).verdict, Verdict::Unknown);
}

#[test]
fn one_segment_or_more_unsent_is_not_corked() {
    let mut hold = corked();
    hold.socket.mss = Some(16406);
    assert_eq!(judged(&hold).verdict, Verdict::Unknown);
}

#[test]
fn before_6_5_whole_segments_stay_unsent_with_no_timer_armed() {
    let mut hold = corked();
    hold.socket.mss = Some(1448);
    hold.push.as_mut().unwrap().flags = MSG_MORE | MSG_SENDPAGE_NOTLAST;
    hold.socket.persist_pending = Some(false);
    hold.socket.timer_pending = Some(false);
    assert_eq!(judged(&hold).verdict, Verdict::CorkedCompletedRecord);
    let unseen = Hold {
        push: None,
        send: None,
        ..hold.clone()
    };
    assert_eq!(judged(&unseen).verdict, Verdict::CorkedCompletedRecord);
    // A timer that is pending would send them.
    hold.socket.timer_pending = Some(true);
    assert_eq!(judged(&hold).verdict, Verdict::Unknown);
}

#[test]
fn a_short_segment_behind_another_without_msg_more_is_nagle() {
    let mut hold = corked();
    hold.push.as_mut().unwrap().flags = 0;
    hold.socket.packets_out = Some(1);
    assert_eq!(judged(&hold).verdict, Verdict::Nagle);
    hold.socket.nodelay = Some(true);
    assert_eq!(judged(&hold).verdict, Verdict::Unknown);
}

#[test]
fn without_the_record_hook_the_send_flags_make_it_consistent_at_most() {
    let mut hold = corked();
    hold.push = None;
    hold.socket.tail_psh = None;
    let sample = corked_sample();
    let facts = Facts {
        hold: Some(&hold),
        sample: Some(&sample),
        ..Facts::default()
    };
    let finding = judge(&facts);
    assert_eq!(finding.verdict, Verdict::CorkedCompletedRecord);
    assert_eq!(finding.confidence, Confidence::Consistent);
}

#[test]
fn the_segment_that_waits_last_tells_of_a_push_that_was_not_seen() {
    let mut hold = corked();
    hold.push = None;
    hold.send = None;
    let sample = corked_sample();
    let facts = Facts {
        hold: Some(&hold),
        sample: Some(&sample),
        ..Facts::default()
    };
    let finding = judge(&facts);
    assert_eq!(finding.verdict, Verdict::CorkedCompletedRecord);
    assert_eq!(finding.confidence, Confidence::Consistent);
    assert_eq!(finding.gate, Some(Gate::NotsentLowat));
}

#[test]
fn sock_diag_alone_cannot_tell_msg_more_from_tcp_cork() {
    let sample = corked_sample();
    let facts = Facts {
        hold: None,
        sample: Some(&sample),
        ..Facts::default()
    };
    assert_eq!(judge(&facts).verdict, Verdict::Unknown);
}

#[test]
fn sock_diag_alone_can_tell_what_was_left_without_a_timer_if_it_says_so_twice() {
    let mut sample = corked_sample();
    sample.timer = None;
    let judged = |untimed_answers| {
        judge(&Facts {
            hold: None,
            sample: Some(&sample),
            untimed_answers,
            ..Facts::default()
        })
    };
    // Timer and queue are not read at one moment (inet_sk_diag_fill, tcp_get_info): one answer
    // may show the queue of now with the timer of before.
    assert_eq!(judged(1).verdict, Verdict::Unknown);
    assert_eq!(judged(2).verdict, Verdict::CorkedCompletedRecord);
    assert_eq!(judged(2).confidence, Confidence::Consistent);
}

#[test]
fn sock_diag_alone_sees_a_shut_window() {
    let mut sample = corked_sample();
    sample.snd_wnd = Some(0);
    let facts = Facts {
        hold: None,
        sample: Some(&sample),
        ..Facts::default()
    };
    let finding = judge(&facts);
    assert_eq!(finding.verdict, Verdict::ZeroWindow);
    assert_eq!(finding.confidence, Confidence::Consistent);
}

/// [`corked`] behind a whole segment in flight.
fn behind_flight() -> Hold {
    let mut hold = corked();
    hold.socket.write_seq = Some(65483 + 16406);
    hold.socket.snd_nxt = Some(65483);
    hold.socket.packets_out = Some(1);
    hold.socket.in_flight = Some(1);
    hold.socket.snd_wnd = Some(1 << 20);
    hold
}

/// A full send buffer with everything in flight.
fn all_in_flight() -> Hold {
    let mut hold = behind_flight();
    hold.socket.write_seq = Some(65483);
    hold.socket.sndbuf = Some(65536);
    hold.socket.wmem_queued = Some(66379);
    hold
}

#[test]
fn a_window_full_of_data_in_flight_is_the_slow_receivers() {
    let mut hold = behind_flight();
    hold.socket.snd_wnd = Some(65483 + 16405);
    assert_eq!(judged(&hold).verdict, Verdict::ReceiverLimited);
    hold.socket.snd_wnd = Some(65483 + 16406);
    assert_eq!(judged(&hold).verdict, Verdict::CorkedCompletedRecord);
}

#[test]
fn a_window_full_of_what_nobody_acknowledges_is_the_networks() {
    // A link that died with the window full: seen on 7.2.
    let mut hold = behind_flight();
    hold.socket.mss = Some(1448);
    hold.socket.snd_wnd = Some(65483 + 776);
    let facts = Facts {
        hold: Some(&hold),
        retransmit_timeouts: 1,
        ..Facts::default()
    };
    assert_eq!(judge(&facts).verdict, Verdict::NetworkLimited);
    let without = Facts {
        retransmit_timeouts: 0,
        ..facts
    };
    assert_eq!(judge(&without).verdict, Verdict::ReceiverLimited);
}

#[test]
fn a_shut_window_that_opened_before_is_a_slow_receivers_too() {
    let mut hold = corked();
    hold.socket.snd_wnd = Some(0);
    let verdict = |window_reopened| {
        judge(&Facts {
            hold: Some(&hold),
            window_reopened,
            ..Facts::default()
        })
        .verdict
    };
    assert_eq!(verdict(0), Verdict::ZeroWindow);
    assert_eq!(verdict(1), Verdict::ReceiverLimited);
}

#[test]
fn a_full_congestion_window_is_the_networks() {
    let mut hold = behind_flight();
    hold.socket.snd_cwnd = Some(1);
    assert_eq!(judged(&hold).verdict, Verdict::NetworkLimited);
}

#[test]
fn data_that_waits_for_the_queueing_discipline_is_the_networks() {
    let mut hold = behind_flight();
    hold.socket.throttled = Some(true);
    assert_eq!(judged(&hold).verdict, Verdict::NetworkLimited);
}

#[test]
fn pacing_explains_a_hold_only_as_long_as_it_forbids_sending() {
    let mut hold = corked();
    hold.socket.paced_ns = Some(25_000_000);
    let verdict = |held_ns| {
        judge(&Facts {
            hold: Some(&hold),
            held_ns,
            ..Facts::default()
        })
        .verdict
    };
    assert_eq!(verdict(20_000_000), Verdict::NetworkLimited);
    assert_eq!(verdict(40_000_000), Verdict::CorkedCompletedRecord);
}

#[test]
fn a_retransmission_timeout_with_whole_segments_behind_is_the_networks() {
    let mut hold = behind_flight();
    hold.socket.write_seq = Some(65483 * 3);
    let facts = Facts {
        hold: Some(&hold),
        retransmit_timeouts: 1,
        ..Facts::default()
    };
    assert_eq!(judge(&facts).verdict, Verdict::NetworkLimited);
    assert_eq!(judge(&facts).confidence, Confidence::Consistent);
    let sample = Sample {
        notsent: Some(65483 * 2),
        packets_out: Some(1),
        unacked_bytes: Some(65483),
        snd_wnd: Some(1 << 20),
        mss: Some(65483),
        snd_cwnd: Some(1),
        retransmits: Some(1),
        ..corked_sample()
    };
    let facts = Facts {
        sample: Some(&sample),
        ..facts
    };
    assert_eq!(judge(&facts).confidence, Confidence::Proven);
}

#[test]
fn a_buffer_full_of_what_nobody_acknowledges_is_the_networks_too() {
    // A link that died when everything queued was in flight: seen on 6.1.
    let hold = all_in_flight();
    let sample = Sample {
        notsent: Some(0),
        packets_out: Some(1),
        wmem_queued: hold.socket.wmem_queued,
        sndbuf: hold.socket.sndbuf,
        retransmits: Some(1),
        ..corked_sample()
    };
    let facts = Facts {
        hold: Some(&hold),
        sample: Some(&sample),
        retransmit_timeouts: 1,
        ..Facts::default()
    };
    let finding = judge(&facts);
    assert_eq!(finding.verdict, Verdict::NetworkLimited);
    assert_eq!(finding.confidence, Confidence::Proven);
    let quiet = Sample {
        retransmits: Some(0),
        ..sample.clone()
    };
    let without = Facts {
        sample: Some(&quiet),
        retransmit_timeouts: 0,
        ..facts
    };
    assert_eq!(judge(&without).verdict, Verdict::SendBufferLimited);
}

#[test]
fn loss_does_not_hide_a_corked_record() {
    // TCP sends new data while it recovers: the cork holds this one.
    let mut hold = behind_flight();
    hold.socket.lost = Some(1);
    assert_eq!(judged(&hold).verdict, Verdict::CorkedCompletedRecord);
}

#[test]
fn a_buffer_full_of_data_in_flight_is_its_own_limit() {
    let hold = all_in_flight();
    assert_eq!(judged(&hold).verdict, Verdict::SendBufferLimited);
    assert_eq!(judged(&hold).gate, None);
    let sample = Sample {
        notsent: Some(0),
        packets_out: Some(1),
        wmem_queued: hold.socket.wmem_queued,
        sndbuf: hold.socket.sndbuf,
        ..corked_sample()
    };
    let facts = Facts {
        hold: Some(&hold),
        sample: Some(&sample),
        ..Facts::default()
    };
    assert_eq!(judge(&facts).confidence, Confidence::Proven);
    // That somebody waits for room is not to be seen from outside.
    let alone = Facts {
        hold: None,
        ..facts
    };
    assert_eq!(judge(&alone).verdict, Verdict::Unknown);
}

#[test]
fn a_record_that_the_application_left_open_is_its_own_doing() {
    let mut hold = corked();
    hold.socket.open_record = Some(true);
    assert_eq!(judged(&hold).verdict, Verdict::CorkedCompletedRecord);
    hold.send = Some(SendFacts {
        flags: MSG_MORE,
        bytes: Some(20000),
        sendpage: false,
    });
    assert_eq!(judged(&hold).verdict, Verdict::OpenRecord);
}

#[test]
fn records_that_the_cipher_has_not_returned_are_pending() {
    let mut hold = corked();
    hold.socket.write_seq = hold.socket.snd_nxt;
    hold.socket.encrypt_pending = Some(2);
    assert_eq!(judged(&hold).verdict, Verdict::EncryptionPending);
    hold.socket.encrypt_pending = Some(0);
    assert_eq!(judged(&hold).verdict, Verdict::Unknown);
    hold.socket.encrypt_pending = None;
    assert_eq!(judged(&hold).verdict, Verdict::Unknown);
}

/// What makes each rule answer, applied one after the other to one socket: the rule that is asked first
/// wins over all that were true before.
#[test]
fn the_rules_are_asked_in_this_order() {
    type Cause = fn(&mut Hold);
    let causes: [(Verdict, Cause); 8] = [
        (Verdict::EncryptionPending, |hold| {
            hold.socket.write_seq = hold.socket.snd_nxt;
            hold.socket.encrypt_pending = Some(2);
        }),
        (Verdict::SendBufferLimited, |hold| {
            *hold = all_in_flight();
            hold.socket.encrypt_pending = Some(2);
            hold.push = hold.push.map(|push| PushFacts { flags: 0, ..push });
        }),
        (Verdict::Nagle, |hold| {
            hold.socket.write_seq = hold.socket.snd_nxt.map(|snd_nxt| snd_nxt + 16406);
        }),
        (Verdict::NetworkLimited, |hold| {
            hold.socket.retransmits = Some(1);
        }),
        (Verdict::CorkedCompletedRecord, |hold| {
            hold.push = corked().push;
        }),
        (Verdict::OpenRecord, |hold| {
            hold.socket.open_record = Some(true);
            hold.send = Some(SendFacts {
                flags: MSG_MORE,
                bytes: Some(20000),
                sendpage: false,
            });
        }),
        (Verdict::ApplicationCork, |hold| {
            hold.socket.corked = Some(true);
        }),
        (Verdict::ReceiverLimited, |hold| {
            // A timeout would refute this one.
            hold.socket.retransmits = Some(0);
            hold.socket.lost = Some(1);
            hold.socket.snd_wnd = Some(65483);
        }),
    ];
    let mut hold = corked();
    for (verdict, cause) in causes {
        cause(&mut hold);
        assert_eq!(judged(&hold).verdict, verdict);
    }
    // Without anything in flight the same shut window is a stopped receiver's.
    hold.socket.snd_una = hold.socket.snd_nxt;
    hold.socket.packets_out = Some(0);
    hold.socket.snd_wnd = Some(0);
    assert_eq!(judged(&hold).verdict, Verdict::ZeroWindow);
}
