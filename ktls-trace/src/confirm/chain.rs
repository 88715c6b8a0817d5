//! The causal chain over a whole run: what was counted for each link, and what that says of it.
//!
//! A link is refuted if it was looked at and did not hold: records were pushed and none had
//! `MSG_MORE`. It is not observable if its hook was missing, or if nothing came up to look at.

use std::collections::BTreeMap;

use super::{
    evidence::Evidence,
    findings::LinkFinding,
    series::{Range, Series},
};
use crate::correlate::{
    chain::{LinkName, Status},
    event::{flag_names, name_of},
};

/// A hold shorter than this delays nothing: a delayed acknowledgement takes 40 ms, a loopback well below
/// one. The daemon's default threshold.
const DELAY_NS: u64 = 20_000_000;

/// The links in causal order.
pub(super) fn links(evidence: &Evidence) -> Vec<LinkFinding> {
    vec![
        splice_sets_msg_more(evidence),
        flag_reaches_tcp(evidence),
        record_below_mss_held(evidence),
        gate_shuts(evidence),
        writer_refused(evidence),
        release_delayed(evidence),
    ]
}

/// The first link that was looked at and does not hold.
pub(super) fn broken_at(links: &[LinkFinding]) -> Option<&LinkFinding> {
    links.iter().find(|link| link.status == Status::Refuted)
}

/// A link under construction.
struct Draft {
    finding: LinkFinding,
}

impl Draft {
    /// `count` times of `of`. Seen if that is more than never, refuted if there was something to look at.
    fn new(link: LinkName, count: Option<u64>, of: Option<u64>) -> Self {
        let status = match (count, of) {
            (Some(1..), _) => Status::Seen,
            (Some(0), Some(1..)) => Status::Refuted,
            _ => Status::NotObservable,
        };
        Self {
            finding: LinkFinding {
                link,
                status,
                count,
                of,
                detail: String::new(),
                counts: BTreeMap::new(),
                values: BTreeMap::new(),
                flags: BTreeMap::new(),
            },
        }
    }

    fn count(mut self, name: &str, number: Option<u64>) -> Self {
        if let Some(number) = number {
            self.finding.counts.insert(name.to_owned(), number);
        }
        self
    }

    fn value(mut self, name: &str, series: &Series) -> Self {
        if let Some(range) = series.range() {
            self.finding.values.insert(name.to_owned(), range);
        }
        self
    }

    fn flags(mut self, flags: &BTreeMap<u32, u64>) -> Self {
        for (&word, &count) in flags {
            *self.finding.flags.entry(names(word)).or_default() += count;
        }
        self
    }

    fn status(mut self, status: Status) -> Self {
        self.finding.status = status;
        self
    }

    fn says(mut self, detail: String) -> LinkFinding {
        self.finding.detail = detail;
        self.finding
    }
}

/// A flag word by names.
fn names(word: u32) -> String {
    match flag_names(word) {
        names if names.is_empty() => "no flags".to_owned(),
        names => names.join("|"),
    }
}

/// A flag word that came up most.
fn usual(flags: &BTreeMap<u32, u64>) -> Option<String> {
    let (&word, _) = flags.iter().max_by_key(|&(_, &count)| count)?;
    Some(names(word))
}

/// A range, or that it is not known.
fn shown(range: Option<Range>) -> String {
    range.map_or_else(|| "?".to_owned(), |range| range.to_string())
}

/// What is said where nothing could be looked at.
fn unseen(evidence: &Evidence, function: &str, nothing: &str) -> String {
    if evidence.hooked(function) {
        nothing.to_owned()
    } else {
        format!("{function} is not hooked")
    }
}

fn splice_sets_msg_more(evidence: &Evidence) -> LinkFinding {
    let (sends, splice, more) = (
        evidence.sends(),
        evidence.splice_sends(),
        evidence.splice_sends_more(),
    );
    let detail = match (sends, splice, more) {
        (Some(sends), Some(0), _) if sends > 0 => {
            format!("none of {sends} sends came from splice or sendfile")
        }
        (Some(_), Some(splice), Some(more)) if splice > 0 => {
            let flags = usual(&evidence.holds.send_flags);
            let flags = flags.map_or_else(String::new, |flags| format!("; {flags}"));
            format!("of {splice} sends from splice {more} had MSG_MORE{flags}")
        }
        _ => unseen(
            evidence,
            evidence.splices_at(),
            "no kTLS socket sent anything",
        ),
    };
    Draft::new(LinkName::SpliceSetsMsgMore, more, sends)
        .count("sends", sends)
        .count("from-splice", splice)
        .count("from-splice-with-msg-more", more)
        .flags(&evidence.holds.send_flags)
        .says(detail)
}

fn flag_reaches_tcp(evidence: &Evidence) -> LinkFinding {
    let (records, more) = (evidence.records(), evidence.records_more());
    let detail = match (records, more) {
        (Some(records), Some(more)) if records > 0 => {
            let flags = usual(&evidence.holds.record_flags);
            let flags = flags.map_or_else(String::new, |flags| format!("; {flags}"));
            format!("of {records} records pushed {more} had MSG_MORE{flags}")
        }
        _ => unseen(evidence, "tls_push_sg", "no record was pushed"),
    };
    Draft::new(LinkName::FlagReachesTcp, more, records)
        .count("records", records)
        .count("with-msg-more", more)
        .value("record-bytes", &evidence.holds.record_bytes)
        .flags(&evidence.holds.record_flags)
        .says(detail)
}

fn record_below_mss_held(evidence: &Evidence) -> LinkFinding {
    let holds = &evidence.holds;
    let at_refusals = (holds.count > 0).then_some(holds.below_mss);
    // The count after each push is the whole truth; where that is not hooked, refusals stand in.
    let count = match (evidence.records_held(), at_refusals) {
        (Some(held), Some(below)) => Some(held.max(below)),
        (held, below) => held.or(below),
    };
    let of = evidence.records_more().or(at_refusals);
    let values = format!(
        "{} bytes unsent, MSS {}, window left {}",
        shown(holds.notsent.range()),
        shown(holds.mss.range()),
        shown(holds.window_left.range())
    );
    let detail = match (count, of) {
        (Some(count), Some(of)) if of > 0 => match (evidence.records_held(), holds.count > 0) {
            (None, _) => format!("at {count} of {of} refusals: {values}"),
            (Some(_), true) => format!(
                "after {count} of {of} pushes less than one MSS was left unsent; at refusals {values}"
            ),
            (Some(_), false) => {
                format!("after {count} of {of} pushes less than one MSS was left unsent")
            }
        },
        _ => unseen(
            evidence,
            "tls_push_sg",
            "no record was pushed with MSG_MORE",
        ),
    };
    // Before 6.5 whole segments are held too: TCP is not even asked to send.
    let status = if holds.never_pushed > 0 {
        Some(Status::Seen)
    } else {
        None
    };
    let draft = Draft::new(LinkName::RecordBelowMssHeld, count, of)
        .count("held-after-push", evidence.records_held())
        .count("held-below-mss-at-refusals", at_refusals)
        .count(
            "never-pushed",
            (holds.count > 0).then_some(holds.never_pushed),
        )
        .value("notsent", &holds.notsent)
        .value("mss", &holds.mss)
        .value("window-left", &holds.window_left);
    match status {
        Some(status) => draft.status(status),
        None => draft,
    }
    .says(detail)
}

fn gate_shuts(evidence: &Evidence) -> LinkFinding {
    let holds = &evidence.holds;
    let hooked = evidence.hooked("sk_stream_wait_memory");
    let refused = evidence.refused();
    let pushed = evidence.records().or(evidence.sends()).unwrap_or(0) > 0;
    let detail = if holds.gated() > 0 {
        format!(
            "notsent_lowat {}, sndbuf {}, both {}; unsent {} of lowat {}, wmem_queued {} of sndbuf {}",
            holds.gate_lowat,
            holds.gate_sndbuf,
            holds.gate_both,
            shown(holds.notsent.range()),
            shown(holds.lowat.range()),
            shown(holds.wmem_queued.range()),
            shown(holds.sndbuf.range()),
        )
    } else if !hooked {
        unseen(evidence, "sk_stream_wait_memory", "")
    } else if !pushed {
        "nothing was pushed that could shut it".to_owned()
    } else {
        match (refused, evidence.back_pressure()) {
            (Some(refused @ 1..), Some(ordinary)) => format!(
                "no writer met a gate with bytes held by the flag; {refused} refusals for other reasons, \
                 {ordinary} of them ordinary back-pressure"
            ),
            _ => "no writer was refused at all".to_owned(),
        }
    };
    let of = hooked.then(|| refused.unwrap_or(0).max(u64::from(pushed)));
    Draft::new(LinkName::GateShuts, hooked.then(|| holds.gated()), of)
        .count("notsent-lowat", hooked.then_some(holds.gate_lowat))
        .count("sndbuf", hooked.then_some(holds.gate_sndbuf))
        .count("both", hooked.then_some(holds.gate_both))
        .value("notsent", &holds.notsent)
        .value("notsent-lowat", &holds.lowat)
        .value("wmem-queued", &holds.wmem_queued)
        .value("sndbuf", &holds.sndbuf)
        .says(detail)
}

fn writer_refused(evidence: &Evidence) -> LinkFinding {
    let hooked = evidence.hooked("sk_stream_wait_memory");
    let count = evidence.slept + evidence.eagain;
    let pushed = evidence.records().or(evidence.sends()).unwrap_or(0) > 0;
    let detail = if !hooked {
        unseen(evidence, "sk_stream_wait_memory", "")
    } else if count > 0 {
        format!(
            "with bytes held: slept {}, got EAGAIN {}",
            evidence.slept, evidence.eagain
        )
    } else {
        "never with bytes held by the flag".to_owned()
    };
    let of = hooked.then(|| evidence.refused().unwrap_or(0).max(u64::from(pushed)));
    Draft::new(LinkName::WriterRefused, hooked.then_some(count), of)
        .count("slept", hooked.then_some(evidence.slept))
        .count("eagain", hooked.then_some(evidence.eagain))
        .count("refused", evidence.refused())
        .count("back-pressure", evidence.back_pressure())
        .says(detail)
}

fn release_delayed(evidence: &Evidence) -> LinkFinding {
    let refusals = evidence.hooked("sk_stream_wait_memory");
    let releases = evidence.hooked("tcp_event_new_data_sent");
    let range = evidence.held_ns.range();
    let late = range.is_some_and(|range| range.max > DELAY_NS);
    let ended: u64 = evidence.released.values().sum();
    let pushed = evidence.records().or(evidence.sends()).unwrap_or(0) > 0;
    let status = match (refusals && releases, late) {
        (true, true) => Status::Seen,
        // Nothing was held, or not for long.
        (true, false) if pushed => Status::Refuted,
        _ => Status::NotObservable,
    };
    let detail = match range {
        _ if !refusals => unseen(evidence, "sk_stream_wait_memory", ""),
        _ if !releases => unseen(evidence, "tcp_event_new_data_sent", ""),
        None => "nothing was held".to_owned(),
        Some(range) => {
            let released: Vec<_> = evidence
                .released
                .iter()
                .map(|(path, count)| format!("{} {count}", path.who()))
                .collect();
            format!(
                "held {} ms at the median, {} ms at most; let go by {}",
                milliseconds(range.median),
                milliseconds(range.max),
                released.join(", ")
            )
        }
    };
    let mut draft = Draft::new(
        LinkName::ReleaseDelayed,
        (refusals && releases).then_some(ended),
        None,
    )
    .count("persist-armed", refusals.then_some(evidence.persist_armed))
    .count("persist-fired", refusals.then_some(evidence.persist_fired))
    .count(
        "zero-window-probes",
        refusals.then_some(evidence.zero_window_probes),
    )
    .count(
        "persist-pending-at-refusals",
        refusals.then_some(evidence.holds.persist_pending),
    )
    .count(
        "no-timer-at-refusals",
        refusals.then_some(evidence.holds.no_timer),
    )
    .value("held-ns", &evidence.held_ns)
    .status(status);
    for (path, &count) in &evidence.released {
        let path = name_of(path).unwrap_or_default();
        draft = draft.count(&format!("by-{path}"), Some(count));
    }
    draft.says(detail)
}

/// Nanoseconds as whole milliseconds.
fn milliseconds(ns: u64) -> u64 {
    (ns + 500_000) / 1_000_000
}
