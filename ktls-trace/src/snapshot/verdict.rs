//! What two answers of `sock_diag` allow to say of one socket. Pure.
//!
//! The rules of the correlator come first; what is added here is what takes two answers some time apart: whether
//! bytes move, how fast, and what TCP itself says limited it. One source of facts: nothing here is more than
//! `consistent`. `sock_diag` shows neither `MSG_MORE` nor `TCP_CORK` nor `TCP_NODELAY`, so bytes held below one MSS
//! are `unknown`, with the verdicts that are possible.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Before,
    rates::{Rates, to_f64},
};
use crate::{
    correlate::rules::{self, Facts, Verdict},
    observe::{Sample, Timer},
    sockdiag::{SocketSample, TcpInfo},
    watch::sample_of,
};

/// Bytes a second from which on a connection is not called held back: every fast transfer is limited by its window,
/// its buffer or its congestion window in turn. The fastest stall measured (gate `sndbuf`, `tcp_wmem` up to 65536)
/// moved 1.6 MB/s.
const GOOD_PER_S: f64 = 2e6;

/// A limit that TCP reports for this part of the interval is what holds the connection back.
const MOSTLY: f64 = 0.5;

/// Congestion states from `TCP_CA_Recovery` on: segments were lost.
const CA_RECOVERY: u8 = 3;

/// What a socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// Bytes wait, and none moved between the two answers.
    Stalled,
    /// Bytes move, but something holds them back.
    Slow,
    /// Bytes wait, and there is only one answer: whether they move is not known; or segments are in flight and nothing waits behind them.
    Waiting,
    /// Bytes move.
    Flowing,
    /// Nothing waits and nothing moved.
    Idle,
}

/// What is said of a socket. It is [`rules::Confidence::Consistent`] at most: one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What it does.
    pub activity: Activity,
    /// What holds it back; `None` if nothing seems to.
    pub verdict: Option<Verdict>,
    /// Why, in a few words with the facts.
    pub reason: String,
    /// With an unknown verdict: those that the facts allow and kernel hooks would tell apart.
    pub candidates: Vec<Verdict>,
}

/// Judges a socket by its last answer and, if there is one, an earlier one.
pub fn judge(now: &SocketSample, before: Option<&Before>) -> Judgement {
    let rates = before.map(|before| &before.rates);
    let moved = rates.and_then(|rates| rates.moved);
    let Some(notsent) = now.tcp.notsent_bytes else {
        return unknown(
            Activity::Waiting,
            "the kernel does not tell how much is unsent".to_owned(),
            &[],
        );
    };
    if let Some(rates) = rates.filter(|rates| speed(rates) >= Some(GOOD_PER_S)) {
        return healthy(Activity::Flowing, limits(rates));
    }
    let activity = match moved {
        Some(true) => Activity::Slow,
        Some(false) => Activity::Stalled,
        None => Activity::Waiting,
    };
    let sample = sample_of(now);
    if notsent > 0
        && let Some(found) = by_rules(activity, now, &sample, before)
    {
        return found;
    }
    if let Some(found) = by_limits(activity, now, before) {
        return found;
    }
    if let Some(found) = below_mss(activity, now, before) {
        return found;
    }
    let in_flight = now.tcp.unacked.unwrap_or(0);
    match activity {
        Activity::Slow => healthy(Activity::Flowing, rates.map_or_else(String::new, limits)),
        _ if notsent == 0 && in_flight == 0 => healthy(Activity::Idle, String::new()),
        Activity::Stalled if notsent > 0 => unknown(
            activity,
            format!(
                "{notsent} bytes unsent and none sent or acknowledged, {in_flight} segments in flight, {}",
                timer_words(&sample)
            ),
            &[],
        ),
        Activity::Stalled => healthy(
            Activity::Waiting,
            format!("{in_flight} segments in flight, none acknowledged"),
        ),
        _ => healthy(Activity::Waiting, String::new()),
    }
}

/// What the correlator's rules say, put beside what moved.
fn by_rules(
    activity: Activity,
    now: &SocketSample,
    sample: &Sample,
    before: Option<&Before>,
) -> Option<Judgement> {
    let finding = rules::judge(&Facts {
        hold: None,
        sample: Some(sample),
        untimed_answers: untimed_answers(sample, before),
        ..Facts::default()
    });
    let notsent = shown(now.tcp.notsent_bytes);
    let window = shown(now.tcp.snd_wnd);
    let (verdict, reason) = match finding.verdict {
        Verdict::Unknown => return None,
        // At one moment every fast transfer is at one of its limits.
        Verdict::ReceiverLimited | Verdict::NetworkLimited | Verdict::SendBufferLimited
            if activity != Activity::Stalled =>
        {
            return None;
        }
        Verdict::ZeroWindow if activity == Activity::Slow => (
            Verdict::ReceiverLimited,
            format!(
                "the peer's window is shut ({window}) with {notsent} bytes unsent; meanwhile {}",
                before.map_or_else(String::new, |before| limits(&before.rates))
            ),
        ),
        verdict @ Verdict::ZeroWindow => (
            verdict,
            format!("{notsent} bytes unsent, nothing in flight, the peer's window is {window}"),
        ),
        verdict @ Verdict::CorkedCompletedRecord => (
            verdict,
            format!(
                "the same {notsent} bytes unsent twice, window open ({window}), nothing in flight and no timer that would send them{}",
                full_buffer(now)
            ),
        ),
        verdict => (
            verdict,
            format!(
                "{notsent} bytes unsent, window {window}, {} segments in flight",
                shown(now.tcp.unacked)
            ),
        ),
    };
    Some(found(activity, verdict, reason))
}

/// Answers in a row that showed the same bytes left without a timer, on a socket whose records the kernel
/// makes in software.
fn untimed_answers(now: &Sample, before: Option<&Before>) -> u32 {
    let untimed = |sample: &Sample| {
        let sends = sample.timer.as_ref().is_some_and(Timer::sends);
        sample.tls.is_software() == Some(true) && !sends && sample.packets_out == Some(0)
    };
    if !untimed(now) {
        return 0;
    }
    let before = before.map(|before| sample_of(&before.sample));
    let same = |before: &Sample| {
        untimed(before)
            && before.notsent == now.notsent
            && before.bytes_sent.is_some()
            && before.bytes_sent == now.bytes_sent
    };
    1 + u32::from(before.as_ref().is_some_and(same))
}

/// What TCP itself says limits it: losses, the peer's window, what was sent again, the send buffer, the congestion
/// window. A peer that is out of room drops what overtakes its window, so something sent again does not make it
/// the network's if TCP waited for the window all the time.
fn by_limits(activity: Activity, now: &SocketSample, before: Option<&Before>) -> Option<Judgement> {
    let tcp = &now.tcp;
    let in_flight = tcp.unacked?;
    let rates = before.map(|before| &before.rates);
    let retransmitted = rates.and_then(|rates| rates.retransmitted).unwrap_or(0);
    let lossy =
        tcp.lost > Some(0) || tcp.retransmits > Some(0) || tcp.ca_state >= Some(CA_RECOVERY);
    let by_peer = rates
        .filter(|_| !(in_flight > 0 && lossy))
        .and_then(|rates| Some((rates, rates.rwnd_limited.filter(|&share| share >= MOSTLY)?)));
    if let Some((rates, share)) = by_peer {
        return Some(found(
            activity,
            Verdict::ReceiverLimited,
            format!(
                "the peer's window limited TCP for {} of the time; {}",
                percent(share),
                speed_words(rates)
            ),
        ));
    }
    if in_flight > 0 && (lossy || retransmitted > 0) {
        return Some(found(
            activity,
            Verdict::NetworkLimited,
            format!(
                "{in_flight} segments in flight, {} of them thought lost, {retransmitted} bytes sent again, {} timeouts in a row",
                shown(tcp.lost),
                shown(tcp.retransmits.map(u32::from))
            ),
        ));
    }
    let rates = rates?;
    if let Some(share) = rates.sndbuf_limited.filter(|&share| share >= MOSTLY) {
        return Some(found(
            activity,
            Verdict::SendBufferLimited,
            format!(
                "the send buffer limited TCP for {} of the time; {}",
                percent(share),
                speed_words(rates)
            ),
        ));
    }
    if cwnd_is_full(tcp) && before.is_some_and(|before| cwnd_is_full(&before.sample.tcp)) {
        return Some(found(
            activity,
            Verdict::NetworkLimited,
            format!(
                "the congestion window ({} segments) is full; {}",
                shown(tcp.snd_cwnd),
                speed_words(rates)
            ),
        ));
    }
    None
}

/// Whether as many segments are in the network as the congestion window allows (`tcp_packets_in_flight`).
fn cwnd_is_full(tcp: &TcpInfo) -> bool {
    let left = tcp.sacked.unwrap_or(0) + tcp.lost.unwrap_or(0);
    let in_network = (tcp.unacked).map(|out| out.saturating_sub(left) + tcp.retrans.unwrap_or(0));
    in_network.is_some_and(|segments| segments > 0) && in_network >= tcp.snd_cwnd
}

/// Less than one segment is unsent although the window is open: nothing moves, or far less than TCP could.
fn below_mss(activity: Activity, now: &SocketSample, before: Option<&Before>) -> Option<Judgement> {
    let tcp = &now.tcp;
    let (notsent, mss, window) = (tcp.notsent_bytes?, tcp.snd_mss?, tcp.snd_wnd?);
    let left = window_left(tcp)?;
    let facts = format!(
        "below one MSS ({mss}) with the window open ({window}){}",
        full_buffer(now)
    );
    let reason = match (activity, before) {
        (Activity::Waiting, _) if 0 < notsent && notsent < mss && left >= notsent => {
            format!("{notsent} bytes unsent {facts}; one pass does not tell for how long")
        }
        (Activity::Stalled, Some(before)) => {
            let stays = 0 < notsent
                && notsent < mss
                && left >= notsent
                && before.sample.tcp.notsent_bytes? > 0;
            if !stays {
                return None;
            }
            format!("{notsent} bytes stay unsent {facts}: MSG_MORE or a cork")
        }
        (Activity::Slow, Some(before)) => {
            // Between two records the queue is empty for a moment: it is enough that one answer saw it.
            let earlier = &before.sample.tcp;
            let held = notsent.max(earlier.notsent_bytes?);
            let always_below = 0 < held
                && held < mss
                && left >= notsent
                && window_left(earlier)? >= earlier.notsent_bytes?;
            if !(always_below && before.rates.busy? >= MOSTLY) {
                return None;
            }
            let could = could_per_s(tcp)?;
            if speed(&before.rates)? >= could * MOSTLY {
                return None;
            }
            format!(
                "{} where the congestion window allows {}, {} of the time with data to send; {held} bytes {facts}: MSG_MORE, a cork or Nagle",
                speed_words(&before.rates),
                per_s(could),
                percent(before.rates.busy?)
            )
        }
        _ => return None,
    };
    let mut candidates = Vec::new();
    if sample_of(now).tls.is_software() != Some(false) {
        candidates.push(Verdict::CorkedCompletedRecord);
    }
    candidates.push(Verdict::ApplicationCork);
    // Nagle waits for an acknowledgement, so something is in flight.
    if activity != Activity::Stalled || tcp.unacked? > 0 {
        candidates.push(Verdict::Nagle);
    }
    Some(unknown(activity, reason, &candidates))
}

/// That one of the two gates is shut, in words. Nothing is said of the other: `sock_diag` does not show
/// `tcp_notsent_lowat`.
fn full_buffer(now: &SocketSample) -> &'static str {
    let full =
        (now.mem.as_ref()).is_some_and(|mem| mem.sndbuf.is_some() && mem.wmem_queued >= mem.sndbuf);
    if full {
        " and the send buffer is full"
    } else {
        ""
    }
}

/// Bytes that the peer will still take.
fn window_left(tcp: &TcpInfo) -> Option<u32> {
    let in_flight = u32::try_from(tcp.bytes_in_flight()?).unwrap_or(u32::MAX);
    Some(tcp.snd_wnd?.saturating_sub(in_flight))
}

/// Bytes a second that the congestion window and the pacing rate allow.
fn could_per_s(tcp: &TcpInfo) -> Option<f64> {
    let rtt_s = f64::from(tcp.rtt_us.filter(|&rtt| rtt > 0)?) / 1e6;
    let by_window = f64::from(tcp.snd_cwnd?) * f64::from(tcp.snd_mss?) / rtt_s;
    let by_pacing = tcp.pacing_rate.map_or(f64::INFINITY, to_f64);
    Some(by_window.min(by_pacing))
}

/// Bytes a second: those sent, or acknowledged if that is more.
fn speed(rates: &Rates) -> Option<f64> {
    let (sent, acked) = (rates.sent_per_s, rates.acked_per_s);
    Some(sent.or(acked)?.max(acked.or(sent)?))
}

fn found(activity: Activity, verdict: Verdict, reason: String) -> Judgement {
    Judgement {
        activity,
        verdict: Some(verdict),
        reason,
        candidates: Vec::new(),
    }
}

fn unknown(activity: Activity, reason: String, candidates: &[Verdict]) -> Judgement {
    Judgement {
        candidates: candidates.to_vec(),
        ..found(activity, Verdict::Unknown, reason)
    }
}

fn healthy(activity: Activity, reason: String) -> Judgement {
    Judgement {
        activity,
        verdict: None,
        reason,
        candidates: Vec::new(),
    }
}

/// Speed, and how TCP spent the time.
fn limits(rates: &Rates) -> String {
    let shares = [
        (rates.busy, "with data to send"),
        (rates.rwnd_limited, "limited by the peer's window"),
        (rates.sndbuf_limited, "limited by the send buffer"),
    ];
    let shares = shares.into_iter().filter_map(|(share, what)| {
        let share = share.filter(|&share| share >= 0.01)?;
        Some(format!("{} of the time {what}", percent(share)))
    });
    let words: Vec<String> = std::iter::once(speed_words(rates)).chain(shares).collect();
    words.join(", ")
}

fn speed_words(rates: &Rates) -> String {
    speed(rates).map_or_else(|| "speed not known".to_owned(), per_s)
}

/// A speed for people, in units of 1000.
pub fn per_s(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.1} GB/s", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB/s", b / 1e6),
        b if b >= 1e3 => format!("{:.0} KB/s", b / 1e3),
        b => format!("{b:.0} B/s"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn timer_words(sample: &Sample) -> String {
    match &sample.timer {
        Some(timer) => format!("{} timer in {} ms", timer.kind, timer.expires_ms),
        None => "no timer".to_owned(),
    }
}

fn shown(number: Option<u32>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
