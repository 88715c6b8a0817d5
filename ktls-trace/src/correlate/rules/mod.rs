//! The verdict rules, one file each, and the order in which they are asked.
//!
//! A rule says what it needs and answers only if the facts decide. What one source of facts shows is
//! [`Confidence::Consistent`]; [`Confidence::Proven`] takes the hooks and `sock_diag`, agreeing.

mod application_cork;
mod corked_record;
mod nagle;
mod zero_window;

use schemars::JsonSchema;
use serde::Serialize;

use crate::observe::{Hold, Sample, SocketState};

/// What holds a socket back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Complete TLS records sit unsent below one MSS, window open, because they were pushed with
    /// `MSG_MORE`.
    CorkedCompletedRecord,
    /// The peer's window is shut: it has stopped reading.
    ZeroWindow,
    /// The window is full of data in flight: the peer is slow.
    ReceiverLimited,
    /// Data in flight, loss or congestion window.
    NetworkLimited,
    /// The buffer is full of data in flight; acknowledgements flow.
    SendBufferLimited,
    /// The application set `TCP_CORK`.
    ApplicationCork,
    /// Nagle's algorithm waits for the acknowledgement of an earlier short segment.
    Nagle,
    /// The application left a TLS record unfinished with `MSG_MORE`.
    OpenRecord,
    /// Asynchronous encryption has not returned.
    EncryptionPending,
    /// The facts decide for none of these.
    Unknown,
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// One of the two sources of facts says so.
    Consistent,
    /// Kernel hooks and `sock_diag` agree.
    Proven,
}

/// Which limit the refused writer met (`sk_stream_memory_free`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Unsent bytes reached `tcp_notsent_lowat`.
    NotsentLowat,
    /// Queued memory reached `sk_sndbuf`.
    Sndbuf,
    /// Both.
    Both,
}

impl Gate {
    /// The gate that a socket's values shut, if any.
    pub fn of(socket: &SocketState) -> Option<Self> {
        let notsent = socket
            .notsent()
            .zip(socket.notsent_lowat)
            .is_some_and(|(q, lowat)| q >= lowat);
        let sndbuf = socket
            .wmem_queued
            .zip(socket.sndbuf)
            .is_some_and(|(queued, limit)| queued >= limit);
        match (notsent, sndbuf) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::NotsentLowat),
            (false, true) => Some(Self::Sndbuf),
            (false, false) => None,
        }
    }
}

/// What a rule looks at: one hold and what was seen during it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What the hooks saw.
    pub hold: Option<&'a Hold>,
    /// What `sock_diag` answered during the hold, last.
    pub sample: Option<&'a Sample>,
    /// Zero-window probes sent during it.
    pub zero_window_probes: u32,
    /// Answers of `sock_diag` in a row, during a hold that no hook sees, that showed no timer by
    /// which TCP would send.
    pub untimed_answers: u32,
}

/// A verdict and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What holds the socket back.
    pub verdict: Verdict,
    /// How sure that is.
    pub confidence: Confidence,
    /// The gate, for a corked record.
    pub gate: Option<Gate>,
}

/// A rule: an answer if the facts decide.
type Rule = fn(&Facts<'_>) -> Option<Finding>;

/// The rules in the order in which they are asked. A shut window explains everything behind it; an
/// application's own cork would hold the record with or without `MSG_MORE`.
const RULES: &[Rule] = &[
    zero_window::judge,
    application_cork::judge,
    corked_record::judge,
    nagle::judge,
];

/// Asks the rules.
pub fn judge(facts: &Facts<'_>) -> Finding {
    RULES
        .iter()
        .find_map(|rule| rule(facts))
        .unwrap_or(Finding {
            verdict: Verdict::Unknown,
            confidence: Confidence::Consistent,
            gate: None,
        })
}

/// Proven if both sources say so, consistent if one does, nothing if neither.
fn confidence(hooks: bool, sock_diag: bool) -> Option<Confidence> {
    match (hooks, sock_diag) {
        (true, true) => Some(Confidence::Proven),
        (true, false) | (false, true) => Some(Confidence::Consistent),
        (false, false) => None,
    }
}

/// Less than one segment is unsent although the peer would take it, as the hooks saw it.
pub(super) fn held_below_mss(socket: &SocketState) -> Option<bool> {
    let notsent = socket.notsent()?;
    Some(0 < notsent && notsent < socket.mss? && socket.window_left()? >= notsent)
}

/// Whether `sock_diag` saw the same bytes unsent with the window open.
fn sample_agrees(socket: &SocketState, sample: Option<&Sample>) -> bool {
    sample.is_some_and(|sample| {
        sample.notsent.is_some()
            && sample.notsent == socket.notsent()
            && sample.snd_wnd >= sample.notsent.min(sample.mss)
            && sample.tls.is_software() != Some(false)
    })
}

#[cfg(test)]
pub(crate) mod tests {
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
                probes_out: Some(0),
                throttled: Some(false),
                partial_record: Some(false),
                open_record: Some(false),
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
            zero_window_probes: 0,
            untimed_answers: 0,
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
            zero_window_probes: 0,
            untimed_answers: 0,
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
            }),
            ("TCP has a part of a record", |hold| {
                hold.socket.partial_record = Some(true);
            }),
            ("whether TCP_CORK is set is not known", |hold| {
                hold.socket.corked = None;
            }),
            ("the congestion window is full", |hold| {
                hold.socket.in_flight = Some(10);
            }),
            ("the queueing discipline has it", |hold| {
                hold.socket.throttled = Some(true);
            }),
            ("no gate is shut", |hold| {
                hold.socket.notsent_lowat = Some(65536);
            }),
            ("TLS is offloaded", |hold| hold.socket.tls = tls("hw")),
            ("neither flag nor record was seen", |hold| {
                hold.push = None;
                hold.send = None;
            }),
        ];
        for (why, change) in changes {
            let mut hold = corked();
            change(&mut hold);
            assert_eq!(judged(&hold).verdict, Verdict::Unknown, "{why}");
        }
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
        let sample = corked_sample();
        let facts = Facts {
            hold: Some(&hold),
            sample: Some(&sample),
            zero_window_probes: 0,
            untimed_answers: 0,
        };
        let finding = judge(&facts);
        assert_eq!(finding.verdict, Verdict::CorkedCompletedRecord);
        assert_eq!(finding.confidence, Confidence::Consistent);
    }

    #[test]
    fn sock_diag_alone_cannot_tell_msg_more_from_tcp_cork() {
        let sample = corked_sample();
        let facts = Facts {
            hold: None,
            sample: Some(&sample),
            zero_window_probes: 0,
            untimed_answers: 0,
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
                zero_window_probes: 0,
                untimed_answers,
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
            zero_window_probes: 0,
            untimed_answers: 0,
        };
        let finding = judge(&facts);
        assert_eq!(finding.verdict, Verdict::ZeroWindow);
        assert_eq!(finding.confidence, Confidence::Consistent);
    }
}
