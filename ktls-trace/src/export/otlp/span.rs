//! An episode as a span: from its first held byte to its end.

use std::hash::{BuildHasher as _, RandomState};

use opentelemetry_proto::tonic::trace::v1::{
    Span, Status,
    span::{self, SpanKind},
    status::StatusCode,
};

use super::{
    episodes::{Closed, Happened},
    value::Attributes,
};
use crate::correlate::{
    HoldEnded,
    event::{Body, Event, Held, ProcessInfo, Socket, Stall, TcpEvidence, Totals, name_of},
    rules::Verdict,
};

/// Numbers spans, so that one that is sent again has the same number, and no other one has it.
#[derive(Debug, Default)]
pub(super) struct Numbers(RandomState);

impl Numbers {
    /// Of the trace, which has no other span, and of the span.
    fn of(&self, stall: &str) -> (Vec<u8>, Vec<u8>) {
        // Zero would be none.
        let part = |number: u8| self.0.hash_one((number, stall)).max(1).to_be_bytes();
        ([part(0), part(1)].concat(), part(2).to_vec())
    }
}

/// An episode that is over as a span.
pub(super) fn of(closed: &Closed, numbers: &Numbers) -> Option<Span> {
    let Closed {
        event,
        happened,
        dropped,
    } = closed;
    let Body::Stall(stall) = &event.body else {
        return None; // there is no such
    };
    let (start, end) = times(event, stall);
    let (trace_id, span_id) = numbers.of(&stall.stall);
    let verdict = name_of(&stall.verdict).unwrap_or_default();
    let event = |what: &Happened| span_event(what, start);
    let mut events: Vec<_> = happened.iter().map(event).collect();
    // What is told of a moment may have been noticed later.
    events.sort_by_key(|event| event.time_unix_nano);
    Some(Span {
        trace_id,
        span_id,
        name: format!("stall {verdict}"),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        attributes: attributes(stall).list(),
        events,
        dropped_events_count: *dropped,
        status: status(stall),
        ..Span::default()
    })
}

/// When it began and ended, in nanoseconds since 1970. Its length is that of a clock which nobody sets.
fn times(event: &Event, stall: &Stall) -> (u64, u64) {
    let end: jiff::Timestamp = event.time.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let end = u64::try_from(end.as_nanosecond()).unwrap_or(0);
    (
        end.saturating_sub(nanoseconds(stall.totals.duration_ms)),
        end,
    )
}

/// Only the stall that is a fault of the host's own is an error.
fn status(stall: &Stall) -> Option<Status> {
    if stall.verdict != Verdict::CorkedCompletedRecord {
        return None;
    }
    let gate = stall.gate.and_then(|gate| name_of(&gate));
    let gate = gate.map_or_else(String::new, |gate| format!(" (gate {gate})"));
    Some(Status {
        message: format!("complete TLS records were held back{gate}"),
        code: StatusCode::Error.into(),
    })
}

/// What happened in it; where that is in time follows from when it began.
fn span_event(happened: &Happened, start: u64) -> span::Event {
    let mut attributes = Attributes::default();
    let (name, after_ns) = match happened {
        Happened::Told {
            name,
            after_ms,
            verdict,
            confidence,
            gate,
        } => {
            attributes.known("ktls.verdict", name_of(verdict));
            attributes.known("ktls.confidence", name_of(confidence));
            attributes.known("ktls.gate", gate.and_then(|gate| name_of(&gate)));
            (name_of(name).unwrap_or_default(), nanoseconds(*after_ms))
        }
        Happened::HoldEnded(HoldEnded {
            stall: _,
            after_ns,
            verdict,
            path,
            duration_ns,
            bytes,
            records,
        }) => {
            attributes.known("ktls.verdict", name_of(verdict));
            attributes.known("ktls.released_by", name_of(path));
            attributes.add("ktls.held.ms", milliseconds(*duration_ns));
            attributes.known("ktls.held.bytes", *bytes);
            attributes.known("ktls.held.records", *records);
            ("hold-ended".to_owned(), *after_ns)
        }
    };
    span::Event {
        time_unix_nano: start.saturating_add(after_ns),
        name,
        attributes: attributes.list(),
        ..span::Event::default()
    }
}

/// Its facts. Whatever is not known has none.
fn attributes(stall: &Stall) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.add("ktls.stall", stall.stall.as_str());
    attributes.known("ktls.verdict", name_of(&stall.verdict));
    attributes.known("ktls.confidence", name_of(&stall.confidence));
    attributes.known("ktls.gate", stall.gate.and_then(|gate| name_of(&gate)));
    attributes.known(
        "ktls.cadence",
        stall.cadence.and_then(|cadence| name_of(&cadence)),
    );
    attributes.known("ktls.ended", stall.ended.and_then(|ended| name_of(&ended)));
    attributes.known("tls.protocol.version", stall.tls.version.as_deref());
    attributes.known("ktls.cipher", stall.tls.cipher.as_deref());
    attributes.known("ktls.tx", stall.tls.tx.as_deref());
    socket(&mut attributes, &stall.socket);
    if let Some(process) = &stall.process {
        self::process(&mut attributes, process);
    }
    held(&mut attributes, stall.held);
    totals(&mut attributes, &stall.totals);
    for (path, holds) in &stall.released {
        if let Some(path) = name_of(path) {
            attributes.add(format!("ktls.released.{path}"), *holds);
        }
    }
    tcp(&mut attributes, &stall.evidence.tcp);
    if !stall.remedy.is_empty() {
        attributes.add("ktls.remedy", stall.remedy.as_slice());
    }
    attributes
}

/// The socket, by the names that there are for a connection.
fn socket(attributes: &mut Attributes, socket: &Socket) {
    let Socket {
        cookie,
        netns,
        src,
        dst,
        inode,
    } = socket;
    attributes.add("network.transport", "tcp");
    for (end, address) in [("local", src), ("peer", dst)] {
        let parsed = address
            .as_ref()
            .and_then(|text| text.parse::<std::net::SocketAddr>().ok());
        if let Some(address) = parsed {
            attributes.add(format!("network.{end}.address"), address.ip().to_string());
            attributes.add(format!("network.{end}.port"), u32::from(address.port()));
        }
    }
    attributes.known("ktls.socket.cookie", cookie.as_deref());
    attributes.known("ktls.socket.inode", *inode);
    attributes.known("ktls.socket.netns", *netns);
}

/// Who sends.
fn process(attributes: &mut Attributes, process: &ProcessInfo) {
    let ProcessInfo {
        pid,
        tid,
        comm,
        thread,
        exe,
        cgroup,
    } = process;
    attributes.add("process.pid", *pid);
    attributes.known("process.title", comm.as_deref());
    attributes.known("process.executable.path", exe.as_deref());
    let file = exe.as_deref().and_then(|path| path.rsplit('/').next());
    attributes.known("process.executable.name", file);
    attributes.known("process.linux.cgroup", cgroup.as_deref());
    attributes.known("thread.id", *tid);
    attributes.known("thread.name", thread.as_deref());
}

/// What was held last.
fn held(attributes: &mut Attributes, held: Held) {
    let Held { bytes, records, ms } = held;
    attributes.known("ktls.held.bytes", bytes);
    attributes.known("ktls.held.records", records);
    attributes.add("ktls.held.ms", ms);
}

/// What it adds up to.
fn totals(attributes: &mut Attributes, totals: &Totals) {
    let Totals {
        holds,
        records,
        bytes,
        bytes_sent,
        duration_ms: _, // as the span is long
        bytes_per_s,
        held_ms,
        verdicts: _, // in its events
    } = totals;
    attributes.add("ktls.totals.holds", *holds);
    attributes.add("ktls.totals.records", *records);
    attributes.add("ktls.totals.bytes", *bytes);
    attributes.add("ktls.totals.bytes_sent", *bytes_sent);
    attributes.known("ktls.totals.bytes_per_s", *bytes_per_s);
    if let Some(spread) = held_ms {
        attributes.add("ktls.totals.held_ms.min", spread.min);
        attributes.add("ktls.totals.held_ms.median", spread.median);
        attributes.add("ktls.totals.held_ms.max", spread.max);
        attributes.add("ktls.totals.held_ms.total", spread.total);
    }
}

/// What the verdict rests on, as far as one searches for it.
fn tcp(attributes: &mut Attributes, tcp: &TcpEvidence) {
    attributes.known("ktls.tcp.mss", tcp.mss);
    attributes.known("ktls.tcp.notsent", tcp.notsent);
    attributes.known("ktls.tcp.notsent_lowat", tcp.notsent_lowat);
    attributes.known("ktls.tcp.packets_out", tcp.packets_out);
    attributes.known("ktls.tcp.sndbuf", tcp.sndbuf);
    attributes.known("ktls.tcp.window_left", tcp.window_left);
    attributes.known("ktls.tcp.wmem_queued", tcp.wmem_queued);
}

/// Milliseconds of an event.
fn nanoseconds(ms: f64) -> u64 {
    let time = std::time::Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds as events have them.
fn milliseconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests;
