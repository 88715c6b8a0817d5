//! What the kernel list asked when the stall was reported, answered with the values seen when writers
//! were refused with bytes held.

use std::collections::BTreeMap;

use super::{
    evidence::{Evidence, Holds},
    findings::{Answer, Question},
    series::{Range, Series},
};
use crate::correlate::rules::Gate;

/// The answers, in the order in which the list asked.
pub(super) fn answers(evidence: &Evidence) -> Vec<Answer> {
    let holds = &evidence.holds;
    let held = holds.count > 0;
    [
        (
            Question::MssAgainstMaxseg,
            "Should the cork not use the MSS that TCP_MAXSEG sets?",
            held.then(|| mss(holds)),
            values(&[("mss-in-use", &holds.mss), ("notsent", &holds.notsent)]),
        ),
        (
            Question::SndbufAgainstMss,
            "If the MSS exceeds SO_SNDBUF, must TCP not send anyway?",
            held.then(|| sndbuf(holds)),
            values(&[
                ("mss-in-use", &holds.mss),
                ("sndbuf", &holds.sndbuf),
                ("wmem-queued", &holds.wmem_queued),
            ]),
        ),
        (
            Question::LimitWaitedOn,
            "Which limit does the wait look at?",
            held.then(|| limit(holds)),
            values(&[
                ("notsent", &holds.notsent),
                ("notsent-lowat", &holds.lowat),
                ("wmem-queued", &holds.wmem_queued),
                ("sndbuf", &holds.sndbuf),
            ]),
        ),
        (
            Question::RecordsInFlight,
            "Memory is freed on ACK: why are not many records in flight?",
            held.then(|| in_flight(holds)),
            values(&[
                ("packets-out", &holds.packets_out),
                ("bytes-in-flight", &holds.in_flight_bytes),
                ("record-bytes", &holds.record_bytes),
            ]),
        ),
    ]
    .into_iter()
    .map(|(question, asked, answer, values)| Answer {
        question,
        asked: asked.to_owned(),
        answer,
        values,
    })
    .collect()
}

/// The values by name, those that are known.
fn values(named: &[(&str, &Series)]) -> BTreeMap<String, Range> {
    named
        .iter()
        .filter_map(|(name, series)| Some(((*name).to_owned(), series.range()?)))
        .collect()
}

/// A range, or that it is not known.
fn shown(series: &Series) -> String {
    series
        .range()
        .map_or_else(|| "?".to_owned(), |range| range.to_string())
}

fn mss(holds: &Holds) -> String {
    let maxseg = match holds.user_mss {
        Some(bytes @ 1..) => match holds.mss.range() {
            Some(mss) if mss.max <= u64::from(bytes) => {
                format!("TCP_MAXSEG is {bytes}, and mss_cache follows it")
            }
            Some(_) => format!(
                "TCP_MAXSEG is {bytes}, and mss_cache does not follow it: after the handshake it has no effect"
            ),
            None => format!("TCP_MAXSEG is {bytes}"),
        },
        Some(0) => "TCP_MAXSEG is not set".to_owned(),
        None => "whether TCP_MAXSEG is set is not known here".to_owned(),
    };
    format!(
        "The MSS in use (mss_cache) is {} bytes; {maxseg}. The cork compares {} unsent bytes with the MSS \
         in use.",
        shown(&holds.mss),
        shown(&holds.notsent),
    )
}

fn sndbuf(holds: &Holds) -> String {
    let (mss, limit) = (holds.mss.range(), holds.sndbuf.range());
    let values = format!(
        "sk_sndbuf is {}, sk_wmem_queued {} of it, the MSS {}",
        shown(&holds.sndbuf),
        shown(&holds.wmem_queued),
        shown(&holds.mss)
    );
    match (mss, limit) {
        (Some(mss), Some(limit)) if limit.max < mss.min => {
            format!("The buffer is below the MSS, and the record is held all the same: {values}.")
        }
        (Some(mss), Some(limit)) if limit.min > mss.max => {
            format!("It does not exceed it here: {values}.")
        }
        _ => format!("It may: {values}."),
    }
}

fn limit(holds: &Holds) -> String {
    let lowat = format!(
        "unsent {} against notsent_lowat {}",
        shown(&holds.notsent),
        shown(&holds.lowat)
    );
    let memory = format!(
        "wmem_queued {} against sndbuf {}",
        shown(&holds.wmem_queued),
        shown(&holds.sndbuf)
    );
    let owner = match holds.own_lowat {
        Some(true) => " (the socket's own TCP_NOTSENT_LOWAT)",
        Some(false) => " (net.ipv4.tcp_notsent_lowat)",
        None => "",
    };
    match holds.gate() {
        Some(Gate::NotsentLowat) => {
            format!("tcp_notsent_lowat{owner}: {lowat}. Not the buffer: {memory}.")
        }
        Some(Gate::Sndbuf) => format!("The send buffer: {memory}. Not notsent_lowat: {lowat}."),
        Some(Gate::Both) => format!("Both: {lowat}, and {memory}."),
        None => format!("Neither was reached: {lowat}, {memory}."),
    }
}

fn in_flight(holds: &Holds) -> String {
    let spread = |series: &Series| {
        series.range().map_or_else(
            || "?".to_owned(),
            |range| format!("{}/{}/{}", range.min, range.median, range.max),
        )
    };
    format!(
        "When the writer was refused, segments in flight were {} and bytes in flight {} (least/median/most); \
         a record is {} bytes. The gate stops the writer at what is held, before it can make more.",
        spread(&holds.packets_out),
        spread(&holds.in_flight_bytes),
        shown(&holds.record_bytes),
    )
}
