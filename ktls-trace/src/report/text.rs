//! One event as a few lines of text: who, which connection, what holds it, and what to do.

use std::fmt::Write as _;

use anstyle::AnsiColor;

use super::{connection, name, process};
use crate::correlate::{
    event::{
        Body, Cadence, Changed, Ended, Event, Lost, Name, Probes, Reloaded, Stall, Started, Stopped,
    },
    rules::{Confidence, Gate, Verdict},
};

/// Writing to a `String` cannot fail.
macro_rules! add {
    ($text:expr, $($format:tt)*) => {{
        let _infallible = write!($text, $($format)*);
    }};
}

/// The event as text, ending in a newline.
pub fn event(event: &Event) -> String {
    // The time of day; the date is the reader's own.
    let clock = event.time.get(11..23).unwrap_or(&event.time);
    let mut text = String::new();
    for (number, line) in body(event).lines().enumerate() {
        if number == 0 {
            add!(text, "{clock}  {line}\n");
        } else {
            add!(text, "              {line}\n");
        }
    }
    text
}

/// The same with its first word in colour.
pub fn coloured(event: &Event) -> String {
    let colour = match (&event.body, event.event) {
        (Body::Stall(_), Name::StallClosed) => AnsiColor::Green,
        (Body::Stall(stall), _) if stall.verdict == Verdict::CorkedCompletedRecord => {
            AnsiColor::Red
        }
        (Body::Stall(_) | Body::Lost(_), _) => AnsiColor::Yellow,
        (Body::Started(_) | Body::Probes(_) | Body::Reloaded(_) | Body::Stopped(_), _) => {
            AnsiColor::Cyan
        }
    };
    let style = colour.on_default().bold();
    let text = self::event(event);
    // After the time.
    let word = text
        .split("  ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or_default()
        .to_owned();
    text.replacen(&word, &format!("{style}{word}{style:#}"), 1)
}

/// The event in one line without its time: of a stall who, where and what; of anything else all.
pub fn headline(event: &Event) -> String {
    let lines = match &event.body {
        Body::Stall(_) => 2,
        _ => usize::MAX,
    };
    let body = body(event);
    let words = body.lines().take(lines).flat_map(str::split_whitespace);
    words.collect::<Vec<_>>().join(" ")
}

/// What is told, without the time.
fn body(event: &Event) -> String {
    match &event.body {
        Body::Stall(details) => stall(event.event, details),
        Body::Started(details) => started(details),
        Body::Probes(Probes {
            reason,
            hooks,
            cannot_see,
        }) => {
            let mut text = format!("PROBES  {reason}: {} hooks attached", hooks.len());
            not_seen(&mut text, cannot_see);
            text
        }
        Body::Reloaded(details) => reloaded(details),
        Body::Lost(Lost {
            place,
            count,
            total,
        }) => {
            format!("LOST    {count} at {place} ({total} since the start): some facts are missing")
        }
        Body::Stopped(details) => stopped(details),
    }
}

/// What can't be seen, a line each.
fn not_seen(text: &mut String, cannot_see: &[String]) {
    for line in cannot_see {
        add!(text, "\n        {line}");
    }
}

/// The daemon has started.
fn started(details: &Started) -> String {
    let Started {
        kernel,
        mode,
        threshold_ms,
        hooks,
        cannot_see,
        ..
    } = details;
    let how = match mode.as_str() {
        "hooks" => format!("{} hooks attached", hooks.len()),
        "waiting-for-tls" => "kernel TLS is not loaded yet, hooks wait for it".to_owned(),
        _ => "asking sock_diag only".to_owned(),
    };
    let mut text = format!("START   kernel {kernel}, {how}, threshold {threshold_ms} ms");
    not_seen(&mut text, cannot_see);
    text
}

/// Other options count from now on.
fn reloaded(details: &Reloaded) -> String {
    let Reloaded {
        changed,
        needs_restart,
    } = details;
    let words = |values: &[String]| match values {
        [] => "not set".to_owned(),
        values => values.join(" "),
    };
    let mut text = "RELOAD  options have changed".to_owned();
    for Changed { option, was, is } in changed {
        add!(
            text,
            "\n        {option}: {} (was: {})",
            words(is),
            words(was)
        );
    }
    for option in needs_restart {
        add!(text, "\n        {option}: counts from the next start only");
    }
    text
}

/// The daemon ends.
fn stopped(details: &Stopped) -> String {
    let Stopped {
        stalls,
        refused,
        back_pressure,
        records,
        records_with_msg_more,
        lost,
    } = details;
    let mut text = format!("STOP    {stalls} {}", plural(*stalls, "stall"));
    if let (Some(refused), Some(ordinary)) = (refused, back_pressure) {
        add!(
            text,
            "; kTLS writers refused {refused} times, {ordinary} of them ordinary back-pressure"
        );
    }
    if let (Some(records), Some(more)) = (records, records_with_msg_more) {
        add!(
            text,
            "; {records} records handed to TCP, {more} with MSG_MORE"
        );
    }
    for (place, count) in lost {
        add!(text, "; {count} lost at {place}");
    }
    text
}

/// A stall.
fn stall(name: Name, stall: &Stall) -> String {
    let word = match name {
        Name::StallUpdated => "UPDATE",
        Name::StallClosed => "CLOSED",
        _ => "STALL ",
    };
    let mut text = format!("{word}  {}  {}", process(stall), connection(stall));
    add!(text, "\n        {}", verdict(stall));
    if name == Name::StallClosed {
        closed(&mut text, stall);
    } else {
        held(&mut text, stall);
    }
    // When it opens, and for what it was in the end.
    if name != Name::StallUpdated {
        for remedy in &stall.remedy {
            add!(text, "\n        remedy: {remedy}");
        }
    }
    text
}

/// The verdict in words.
fn verdict(stall: &Stall) -> String {
    let named = name(&stall.verdict);
    let words = match stall.verdict {
        Verdict::CorkedCompletedRecord => "",
        Verdict::ZeroWindow => ": the peer has stopped reading",
        Verdict::ReceiverLimited => ": the peer reads slowly",
        Verdict::NetworkLimited => ": congestion window, loss, queue or pacing",
        Verdict::SendBufferLimited => ": the buffer is full of data in flight",
        Verdict::ApplicationCork => ": the application set TCP_CORK",
        Verdict::Nagle => ": a short segment waits for the ACK of another (no TCP_NODELAY)",
        Verdict::OpenRecord => ": the application left a record open with MSG_MORE",
        Verdict::EncryptionPending => ": the cipher has not returned",
        Verdict::Unknown => ": the facts do not decide",
    };
    let confidence = match stall.confidence {
        Confidence::Proven => "proven",
        Confidence::Consistent => "consistent",
    };
    let gate = match stall.gate {
        Some(Gate::NotsentLowat) => ", gate notsent-lowat",
        Some(Gate::Sndbuf) => ", gate sndbuf",
        Some(Gate::Both) => ", gates notsent-lowat and sndbuf",
        None => "",
    };
    format!("{named}{words} ({confidence}{gate})")
}

/// What is held, and why nothing moves.
fn held(text: &mut String, stall: &Stall) {
    let tcp = &stall.evidence.tcp;
    let known = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |n| n.to_string());
    add!(text, "\n        ");
    match (stall.held.bytes, stall.held.records) {
        (Some(0), _) => add!(
            text,
            "nothing unsent, {} bytes in flight not acknowledged",
            known(tcp.unacked_bytes)
        ),
        (bytes, Some(records)) => add!(
            text,
            "{records} {} ({} bytes) held",
            plural(u64::from(records), "record"),
            known(bytes)
        ),
        (bytes, None) => add!(text, "{} bytes held", known(bytes)),
    }
    add!(
        text,
        " for {:.0} ms; MSS {}, window left {}, in flight {}",
        stall.held.ms,
        known(tcp.mss),
        known(tcp.window_left.or(tcp.snd_wnd)),
        known(tcp.packets_out)
    );
    match &stall.evidence.timer {
        Some(timer) => add!(text, ", {} timer in {} ms", timer.kind, timer.expires_ms),
        None if stall.evidence.sock_diag.is_some() => text.push_str(", no timer"),
        None => {}
    }
    let own = if tcp.own_lowat == Some(true) {
        " (the socket's own)"
    } else {
        ""
    };
    add!(
        text,
        "\n        notsent_lowat {}{own}, wmem_queued {} of sndbuf {}",
        known(tcp.notsent_lowat),
        known(tcp.wmem_queued),
        known(tcp.sndbuf)
    );
    if let Some(writer) = stall.evidence.writer {
        let how = if writer.blocking {
            "sleeps in the kernel"
        } else {
            "got EAGAIN"
        };
        add!(text, ", the writer {how}");
    }
    if stall.verdict == Verdict::NetworkLimited {
        add!(text, "\n        {}", network(stall));
    }
    if stall.totals.holds > 0 {
        add!(text, "\n        so far: {}", releases(stall));
    }
}

/// What the network lets through.
fn network(stall: &Stall) -> String {
    let tcp = &stall.evidence.tcp;
    let mut text = match (tcp.packets_out, tcp.snd_cwnd) {
        (Some(out), Some(cwnd)) => format!("{out} segments in flight, congestion window {cwnd}"),
        _ => "congestion window not known".to_owned(),
    };
    if let Some(lost @ 1..) = tcp.lost {
        add!(text, ", {lost} thought lost");
    }
    if stall.evidence.retransmit_timeouts > 0 {
        let timeouts = u64::from(stall.evidence.retransmit_timeouts);
        let noun = plural(timeouts, "timeout");
        add!(text, ", {timeouts} retransmission {noun}");
    }
    if tcp.throttled == Some(true) {
        text.push_str(", the queueing discipline is behind");
    }
    if let Some(paced_ms) = tcp.paced_ms.filter(|&paced_ms| paced_ms > 0.0) {
        add!(text, ", paced for {paced_ms:.0} ms");
    }
    if let Some(srtt_ms) = tcp.srtt_ms {
        add!(text, "; round trip {srtt_ms:.1} ms");
    }
    text
}

/// What an episode added up to.
fn closed(text: &mut String, stall: &Stall) {
    let totals = &stall.totals;
    let ended = match stall.ended {
        Some(Ended::Flowing) => "flows again",
        Some(Ended::Closed) => "closed by its owner",
        Some(Ended::Gone) => "gone",
        Some(Ended::Stopped) => "tracing stopped, the stall may go on",
        None => "ended",
    };
    add!(
        text,
        "\n        {ended} after {:.1} s: {} bytes sent, {} bytes/s",
        totals.duration_ms / 1000.0,
        totals.bytes_sent,
        totals
            .bytes_per_s
            .map_or_else(|| "?".to_owned(), |rate| format!("{rate:.0}"))
    );
    add!(text, "\n        {}", releases(stall));
    if totals.verdicts.len() > 1 {
        text.push_str("\n        in all:");
        for (number, (&verdict, sums)) in totals.verdicts.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let verdict = name(&verdict);
            add!(
                text,
                "{comma} {verdict} {:.1} s ({})",
                sums.ms / 1000.0,
                sums.holds
            );
        }
    }
}

/// Who let the held records go.
fn releases(stall: &Stall) -> String {
    let totals = &stall.totals;
    let mut text = format!(
        "{} {} held in {} {}",
        totals.records,
        plural(totals.records, "record"),
        totals.holds,
        plural(totals.holds, "hold")
    );
    if let Some(spread) = totals.held_ms {
        add!(
            text,
            " (median {:.0} ms, longest {:.0} ms)",
            spread.median,
            spread.max
        );
    }
    text.push_str("; let go by");
    let mut first = true;
    for (path, count) in stall.released.iter().filter(|&(_, &count)| count > 0) {
        let who = path.who();
        add!(text, "{} {who} {count}", if first { "" } else { "," });
        first = false;
    }
    if first {
        text.push_str(" nobody yet");
    }
    match stall.cadence {
        Some(Cadence::DelayedAck) => text.push_str("; cadence: delayed ACK"),
        Some(Cadence::Persist) => text.push_str("; cadence: persist timer"),
        None => {}
    }
    text
}

/// A noun for a number of things.
fn plural(count: u64, noun: &str) -> String {
    if count == 1 {
        noun.to_owned()
    } else {
        format!("{noun}s")
    }
}
