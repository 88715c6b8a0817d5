use std::time::Duration;

use super::*;
use crate::sockdiag::{Family, SkMemInfo, TcpState, Timer, TimerKind, TlsConf, TlsInfo, Ulp};

/// A socket at rest: everything sent and acknowledged.
pub(crate) fn idle() -> SocketSample {
    SocketSample {
        family: Family::Inet,
        state: TcpState::Established,
        src: "127.0.0.1:443".parse().unwrap(),
        dst: "127.0.0.1:50000".parse().unwrap(),
        v4_mapped: false,
        interface: None,
        cookie: 1,
        inode: Some(9349),
        uid: 0,
        recv_queue: 0,
        send_queue: 0,
        timer: None,
        tcp: TcpInfo {
            ca_state: Some(0),
            retransmits: Some(0),
            snd_mss: Some(65483),
            unacked: Some(0),
            sacked: Some(0),
            lost: Some(0),
            retrans: Some(0),
            rtt_us: Some(40_000),
            snd_cwnd: Some(10),
            pacing_rate: Some(30_000_000),
            bytes_acked: Some(1_000_001),
            notsent_bytes: Some(0),
            busy_time_us: Some(0),
            rwnd_limited_us: Some(0),
            sndbuf_limited_us: Some(0),
            bytes_sent: Some(1_000_000),
            bytes_retrans: Some(0),
            snd_wnd: Some(65536),
            ..TcpInfo::default()
        },
        mem: Some(SkMemInfo::default()),
        ulp: Some(Ulp {
            name: "tls".to_owned(),
            tls: Some(TlsInfo {
                tx: Some(TlsConf::Sw),
                ..TlsInfo::default()
            }),
        }),
    }
}

fn persist() -> Timer {
    Timer {
        kind: TimerKind::Persist,
        expires_ms: 150,
        retransmits: 0,
    }
}

/// One record below the MSS of loopback is unsent, and the persist timer is armed.
pub(crate) fn held() -> SocketSample {
    let mut sample = idle();
    sample.tcp.notsent_bytes = Some(16406);
    sample.timer = Some(persist());
    sample
}

/// Lets a second pass in which this many bytes are sent and acknowledged, always with data to send.
pub(crate) fn a_second_later(before: &SocketSample, bytes: u64) -> SocketSample {
    let mut now = before.clone();
    let tcp = &mut now.tcp;
    for counter in [&mut tcp.bytes_sent, &mut tcp.bytes_acked] {
        *counter = counter.map(|count| count + bytes);
    }
    tcp.busy_time_us = tcp.busy_time_us.map(|us| us + 1_000_000);
    now
}

fn judged(before: &SocketSample, now: &SocketSample) -> Judgement {
    let before = Before {
        rates: Rates::between(&before.tcp, &now.tcp, Duration::from_secs(1)),
        sample: before.clone(),
    };
    judge(now, Some(&before))
}

#[test]
fn a_socket_at_rest_is_idle_and_has_no_verdict() {
    let judgement = judged(&idle(), &idle());
    assert_eq!(
        (judgement.activity, judgement.verdict),
        (Activity::Idle, None)
    );
    assert_eq!(judge(&idle(), None).activity, Activity::Idle);
}

#[test]
fn bytes_that_stay_below_one_mss_are_never_called_corked() {
    let judgement = judged(&held(), &held());
    assert_eq!(judgement.activity, Activity::Stalled);
    assert_eq!(judgement.verdict, Some(Verdict::Unknown));
    // Nothing is in flight that Nagle could wait for.
    assert_eq!(
        judgement.candidates,
        [Verdict::CorkedCompletedRecord, Verdict::ApplicationCork]
    );
    assert!(judgement.reason.contains("16406"), "{}", judgement.reason);
}

#[test]
fn a_full_send_buffer_is_said_and_an_unknown_one_is_not() {
    let mut sample = held();
    assert!(!judged(&sample, &sample).reason.contains("full"));
    sample.mem = Some(SkMemInfo {
        sndbuf: Some(46080),
        wmem_queued: Some(50498),
        ..SkMemInfo::default()
    });
    let reason = judged(&sample, &sample).reason;
    assert!(reason.contains("the send buffer is full"), "{reason}");
}

#[test]
fn with_a_segment_in_flight_it_may_be_nagle_too() {
    let mut sample = held();
    sample.tcp.unacked = Some(1);
    let judgement = judged(&sample, &sample);
    assert!(judgement.candidates.contains(&Verdict::Nagle));
}

#[test]
fn records_that_trickle_below_one_mss_are_slow_and_unknown() {
    let now = a_second_later(&held(), 400_000);
    let judgement = judged(&held(), &now);
    assert_eq!(judgement.activity, Activity::Slow);
    assert_eq!(judgement.verdict, Some(Verdict::Unknown));
    assert!(
        judgement
            .candidates
            .contains(&Verdict::CorkedCompletedRecord)
    );
    assert!(
        judgement.reason.contains("400 KB/s"),
        "{}",
        judgement.reason
    );
    // One of the two answers may fall between two records.
    let mut between = now.clone();
    between.tcp.notsent_bytes = Some(0);
    assert_eq!(judged(&held(), &between).verdict, Some(Verdict::Unknown));
}

#[test]
fn a_socket_whose_application_is_slow_is_flowing() {
    let mut now = a_second_later(&held(), 400_000);
    now.tcp.busy_time_us = Some(100_000);
    let judgement = judged(&held(), &now);
    assert_eq!(
        (judgement.activity, judgement.verdict),
        (Activity::Flowing, None)
    );
}

#[test]
fn a_socket_that_uses_its_congestion_window_is_flowing() {
    let mut now = a_second_later(&held(), 400_000);
    // 10 segments of 1448 bytes in 40 ms: 362 KB/s.
    let mut before = held();
    for sample in [&mut now, &mut before] {
        sample.tcp.snd_mss = Some(1448);
        sample.tcp.notsent_bytes = Some(1000);
    }
    assert_eq!(judged(&before, &now).verdict, None);
}

#[test]
fn a_paced_socket_is_flowing() {
    let mut now = a_second_later(&held(), 400_000);
    now.tcp.pacing_rate = Some(450_000);
    assert_eq!(judged(&held(), &now).verdict, None);
}

#[test]
fn a_fast_transfer_has_no_verdict_whatever_limits_it() {
    let mut now = a_second_later(&held(), 50_000_000);
    now.tcp.rwnd_limited_us = Some(900_000);
    now.tcp.lost = Some(3);
    now.tcp.unacked = Some(10);
    let judgement = judged(&held(), &now);
    assert_eq!(
        (judgement.activity, judgement.verdict),
        (Activity::Flowing, None)
    );
    assert!(judgement.reason.contains("90 %"), "{}", judgement.reason);
}

#[test]
fn bytes_left_without_a_timer_in_both_answers_are_corked() {
    let mut sample = held();
    sample.timer = None;
    let judgement = judged(&sample, &sample);
    assert_eq!(judgement.verdict, Some(Verdict::CorkedCompletedRecord));
    assert!(judgement.candidates.is_empty());
    // One answer, other bytes, a timer in one of them, or records not made by the kernel: not decided.
    assert_eq!(judge(&sample, None).verdict, Some(Verdict::Unknown));
    assert_eq!(judged(&held(), &sample).verdict, Some(Verdict::Unknown));
    let mut more = sample.clone();
    more.tcp.notsent_bytes = Some(16407);
    assert_eq!(judged(&sample, &more).verdict, Some(Verdict::Unknown));
    let mut offloaded = sample.clone();
    if let Some(tls) = offloaded.ulp.as_mut().and_then(|ulp| ulp.tls.as_mut()) {
        tls.tx = Some(TlsConf::Hw);
    }
    let judgement = judged(&offloaded, &offloaded);
    assert_eq!(judgement.verdict, Some(Verdict::Unknown));
    assert_eq!(judgement.candidates, [Verdict::ApplicationCork]);
}

#[test]
fn a_shut_window_is_zero_window_if_nothing_moves_and_receiver_limited_if_something_does() {
    let mut sample = held();
    sample.tcp.snd_wnd = Some(0);
    assert_eq!(judged(&sample, &sample).verdict, Some(Verdict::ZeroWindow));
    assert_eq!(judge(&sample, None).verdict, Some(Verdict::ZeroWindow));
    let now = a_second_later(&sample, 60_000);
    let judgement = judged(&sample, &now);
    assert_eq!(judgement.verdict, Some(Verdict::ReceiverLimited));
    assert_eq!(judgement.activity, Activity::Slow);
}

/// 1448 bytes are sent again.
fn send_again(tcp: &mut TcpInfo) {
    tcp.bytes_retrans = Some(1448);
    tcp.bytes_sent = tcp.bytes_sent.map(|bytes| bytes + 1448);
}

#[test]
fn what_tcp_says_limited_it_is_taken_at_its_word() {
    let slow = |change: fn(&mut TcpInfo)| {
        let mut before = held();
        before.tcp.notsent_bytes = Some(200_000);
        before.tcp.unacked = Some(4);
        let mut now = a_second_later(&before, 300_000);
        change(&mut now.tcp);
        judged(&before, &now).verdict
    };
    assert_eq!(slow(|_| {}), None);
    assert_eq!(
        slow(|tcp| tcp.rwnd_limited_us = Some(800_000)),
        Some(Verdict::ReceiverLimited)
    );
    assert_eq!(
        slow(|tcp| tcp.sndbuf_limited_us = Some(800_000)),
        Some(Verdict::SendBufferLimited)
    );
    assert_eq!(
        slow(|tcp| tcp.lost = Some(1)),
        Some(Verdict::NetworkLimited)
    );
    assert_eq!(slow(send_again), Some(Verdict::NetworkLimited));
    // A slow receiver that dropped what overtook its window: seen on 6.12.
    assert_eq!(
        slow(|tcp| {
            send_again(tcp);
            tcp.rwnd_limited_us = Some(998_000);
        }),
        Some(Verdict::ReceiverLimited)
    );
}

#[test]
fn a_congestion_window_that_is_full_both_times_is_the_network() {
    let mut before = held();
    before.tcp.notsent_bytes = Some(200_000);
    before.tcp.unacked = Some(10);
    let now = a_second_later(&before, 300_000);
    assert_eq!(judged(&before, &now).verdict, Some(Verdict::NetworkLimited));
    before.tcp.unacked = Some(2);
    assert_eq!(judged(&before, &now).verdict, None);
}

#[test]
fn whole_segments_that_stay_are_unknown_without_candidates() {
    let mut sample = held();
    sample.tcp.notsent_bytes = Some(200_000);
    let judgement = judged(&sample, &sample);
    assert_eq!(judgement.verdict, Some(Verdict::Unknown));
    assert!(judgement.candidates.is_empty());
    assert!(judgement.reason.contains("persist"), "{}", judgement.reason);
}

#[test]
fn what_the_kernel_does_not_tell_is_unknown() {
    let mut sample = idle();
    sample.tcp = TcpInfo::default();
    assert_eq!(judged(&sample, &sample).verdict, Some(Verdict::Unknown));
    // Counters alone missing: a queue that waits is still a queue that waits.
    let mut sample = held();
    sample.tcp.bytes_sent = None;
    sample.tcp.bytes_acked = None;
    let judgement = judged(&sample, &sample);
    assert_eq!(judgement.activity, Activity::Waiting);
}

#[test]
fn a_speed_is_given_in_units_of_1000() {
    let words = [0.4, 999.0, 400_000.0, 1_600_000.0, 2e9].map(per_s);
    assert_eq!(
        words,
        ["0 B/s", "999 B/s", "400 KB/s", "1.6 MB/s", "2.0 GB/s"]
    );
}
