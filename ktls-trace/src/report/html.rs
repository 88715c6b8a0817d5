//! The events of a run as one page of HTML that needs nothing else: what was stalled, for how long, why, and what was seen of it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{connection, name, process, text};
use crate::correlate::{
    event::{Body, Event, Name, Stall, Started},
    rules::Verdict,
};

/// Stalls of which all is told, the longest held first; of others there is a row.
const TOLD: usize = 200;
/// Stalls that have a row.
const LISTED: usize = 5000;
/// Events of a stall that are told, the first of them.
const EVENTS: usize = 50;
/// Other events that are told, the first of them.
const OTHERS: usize = 500;

/// What the page looks like, on screens that are light or dark, and printed.
const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid #8884; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; padding: 0.6rem; background: #8881; font-size: 0.85rem; }
.corked { color: #c22; font-weight: 600; } .warning { border-left: 4px solid #c80; padding-left: 0.8rem; }
details { margin: 0.6rem 0; } summary { cursor: pointer; }
";

/// What the page is about.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its name.
    pub title: String,
    /// Version of the ktls-trace that saw it.
    pub made_by: String,
    /// Whether addresses and names are stand-ins.
    pub anonymized: bool,
    /// Why it is not all that there was.
    pub incomplete: Option<String>,
}

/// A page under way.
#[derive(Debug, Default)]
pub struct Page {
    /// How the run began.
    started: Option<Started>,
    /// When the first event was told, and the last.
    span: Option<(String, String)>,
    /// The stalls in the order in which they were opened.
    stalls: Vec<Episode>,
    /// Where each is, by its name.
    places: HashMap<String, usize>,
    /// Everything else that was told.
    others: Told,
}

/// A stall.
#[derive(Debug)]
struct Episode {
    /// When it was opened.
    opened: String,
    /// What was told of it last.
    last: Box<Stall>,
    /// Whether it has ended.
    closed: bool,
    /// What was told of it.
    told: Told,
}

/// Events as text, the first of them.
#[derive(Debug, Default)]
struct Told {
    /// As text.
    text: String,
    /// How many those are.
    events: usize,
    /// How many more there were.
    more: usize,
}

impl Told {
    /// Adds one, unless there are so many.
    fn add(&mut self, event: &Event, at_most: usize) {
        if self.events < at_most {
            self.text.push_str(&text::event(event));
            self.events += 1;
        } else {
            self.more += 1;
        }
    }

    /// All of it.
    fn markup(&self) -> Markup {
        html! {
            pre { (self.text) }
            @if self.more > 0 { p { (self.more) " more events are left out." } }
        }
    }
}

impl Page {
    /// Takes in an event; they have to come in order.
    pub fn note(&mut self, event: &Event) {
        match &mut self.span {
            Some((_, last)) => last.clone_from(&event.time),
            None => self.span = Some((event.time.clone(), event.time.clone())),
        }
        let stall = match &event.body {
            Body::Stall(stall) => stall,
            other => {
                if let Body::Started(started) = other {
                    self.started.get_or_insert_with(|| started.clone());
                }
                self.others.add(event, OTHERS);
                return;
            }
        };
        let place = *self.places.entry(stall.stall.clone()).or_insert_with(|| {
            self.stalls.push(Episode {
                opened: event.time.clone(),
                last: stall.clone(),
                closed: false,
                told: Told::default(),
            });
            self.stalls.len() - 1
        });
        if let Some(episode) = self.stalls.get_mut(place) {
            episode.last.clone_from(stall);
            episode.closed |= event.event == Name::StallClosed;
            episode.told.add(event, EVENTS);
        }
    }

    /// The page.
    pub fn render(&self, about: &About) -> String {
        let mut longest: Vec<(usize, &Episode)> = self.stalls.iter().enumerate().collect();
        longest.sort_by_key(|(_, episode)| Reverse(micros(held_ms(&episode.last))));
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width";
                    title { "ktls-trace: " (about.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { "Stalls of kernel TLS: " (about.title) }
                    (self.head(about))
                    h2 { "By verdict" }
                    (self.verdicts())
                    h2 { "Stalls" }
                    (self.list())
                    @for (index, episode) in longest.iter().take(TOLD) { (details(*index, episode)) }
                    @if longest.len() > TOLD {
                        p { "Of " (longest.len() - TOLD) " more, held for a shorter time, there is only the row." }
                    }
                    @if self.others.events > 0 {
                        h2 { "The run itself" }
                        (self.others.markup())
                    }
                }
            }
        };
        page.into_string()
    }

    /// What was watched, and what could not be seen.
    fn head(&self, about: &About) -> Markup {
        html! {
            @if let Some(why) = &about.incomplete { p.warning { "This is not all: " (why) "." } }
            p {
                @if let Some(Started { kernel, mode, threshold_ms, hooks, .. }) = &self.started {
                    "Kernel " (kernel) ", seen by " (mode) " (" (hooks.len()) " hooks), threshold " (threshold_ms) " ms. "
                }
                @if let Some((first, last)) = &self.span { "From " (first) " to " (last) ". " }
                @if !about.made_by.is_empty() { "Seen by ktls-trace " (about.made_by) ". " }
                @if about.anonymized { "Addresses and names are stand-ins." }
            }
            @if let Some(started) = self.started.as_ref().filter(|started| !started.cannot_see.is_empty()) {
                div.warning {
                    p { "What could not be seen:" }
                    ul { @for line in &started.cannot_see { li { (line) } } }
                }
            }
        }
    }

    /// Sums over all stalls, by what they were at last.
    fn verdicts(&self) -> Markup {
        let mut sums: BTreeMap<Verdict, (usize, u64, f64, u64)> = BTreeMap::new();
        for Episode { last, .. } in &self.stalls {
            let (stalls, holds, ms, bytes) = sums.entry(last.verdict).or_default();
            *stalls += 1;
            *holds += last.totals.holds;
            *ms += held_ms(last);
            *bytes += last.totals.bytes;
        }
        html! {
            @if sums.is_empty() { p { "Nothing was held longer than the threshold." } } @else {
                table {
                    tr {
                        th { "verdict" } th.number { "stalls" } th.number { "holds" } th.number { "held, s" }
                        th.number { "bytes held" }
                    }
                    @for (verdict, (stalls, holds, ms, bytes)) in &sums {
                        tr {
                            (cell(*verdict)) td.number { (stalls) } td.number { (holds) }
                            td.number { (seconds(*ms)) } td.number { (bytes) }
                        }
                    }
                }
            }
        }
    }

    /// A row for each stall.
    fn list(&self) -> Markup {
        html! {
            table {
                tr {
                    th { "opened" } th { "process" } th { "connection" } th { "verdict" } th { "sure" } th { "gate" }
                    th.number { "holds" } th.number { "median, ms" } th.number { "longest, ms" }
                    th.number { "bytes/s" } th { "ended" }
                }
                @for (index, Episode { opened, last, closed, .. }) in self.stalls.iter().enumerate().take(LISTED) {
                    tr {
                        td { a href={ "#s" (index) } { (opened.get(11..23).unwrap_or(opened)) } }
                        td { (process(last)) } td { (connection(last)) } (cell(last.verdict))
                        td { (name(&last.confidence)) }
                        td { @if let Some(gate) = &last.gate { (name(gate)) } }
                        td.number { (last.totals.holds) }
                        @if let Some(held) = &last.totals.held_ms {
                            td.number { (held.median) } td.number { (held.max) }
                        } @else { td.number {} td.number { (last.held.ms) } }
                        td.number { @if let Some(rate) = last.totals.bytes_per_s { (rate) } }
                        td {
                            @if let Some(ended) = &last.ended { (name(ended)) }
                            @else if !*closed { "not told" }
                        }
                    }
                }
            }
            @if self.stalls.len() > LISTED { p { (self.stalls.len() - LISTED) " more stalls are left out." } }
        }
    }
}

/// All that is known of a stall.
fn details(index: usize, episode: &Episode) -> Markup {
    let Episode { last, told, .. } = episode;
    let evidence = serde_json::to_string_pretty(&last.evidence).unwrap_or_default();
    html! {
        details id={ "s" (index) } {
            summary { (process(last)) " " (connection(last)) " " span class=(class(last.verdict)) { (name(&last.verdict)) } }
            (told.markup())
            table {
                tr { th { "link of the chain" } th { "" } }
                @for link in &last.chain { tr { td { (name(&link.link)) } td { (name(&link.status)) } } }
            }
            @if !last.remedy.is_empty() { p { "What can be done:" } pre { (last.remedy.join("\n")) } }
            p { "Evidence, of the last hold:" }
            pre { (evidence) }
        }
    }
}

/// How long bytes of a stall were held, all holds together.
fn held_ms(stall: &Stall) -> f64 {
    stall
        .totals
        .held_ms
        .map_or(stall.held.ms, |held| held.total)
}

/// Milliseconds as whole microseconds, which have an order.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time is never negative, and saturates"
)]
fn micros(ms: f64) -> u64 {
    (ms * 1000.0) as u64
}

/// Milliseconds as seconds.
fn seconds(ms: f64) -> String {
    format!("{:.1}", ms / 1000.0)
}

/// How a verdict is shown.
fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::CorkedCompletedRecord => "corked",
        _ => "other",
    }
}

/// A verdict in a table.
fn cell(verdict: Verdict) -> Markup {
    html! { td class=(class(verdict)) { (name(&verdict)) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::{rules::Gate, tests::stall_event};

    fn page(events: &[Event]) -> String {
        let mut page = Page::default();
        for event in events {
            page.note(event);
        }
        page.render(&About {
            title: "a <b>".to_owned(),
            incomplete: Some("is cut short".to_owned()),
            ..About::default()
        })
    }

    fn event(event: Name, stall: &str, verdict: Verdict) -> Event {
        stall_event(event, stall, verdict, Some(Gate::NotsentLowat))
    }

    #[test]
    fn a_stall_is_one_row_and_all_that_was_told_of_it() {
        let verdict = Verdict::CorkedCompletedRecord;
        let text = page(&[
            event(Name::StallOpened, "1-2-3", verdict),
            event(Name::StallUpdated, "1-2-3", verdict),
            event(Name::StallClosed, "1-2-3", verdict),
            event(Name::StallOpened, "4-5-6", Verdict::ZeroWindow),
        ]);
        assert_eq!(text.matches("href=\"#s").count(), 2);
        for word in [
            "STALL",
            "UPDATE",
            "CLOSED",
            "notsent-lowat",
            "zero-window",
            "not told",
        ] {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert!(text.contains("This is not all: is cut short."));
    }

    #[test]
    fn names_are_no_markup() {
        let mut event = event(Name::StallOpened, "1-2-3", Verdict::Nagle);
        if let Body::Stall(stall) = &mut event.body
            && let Some(process) = &mut stall.process
        {
            process.comm = Some("<script>alert(1)</script>".to_owned());
        }
        let text = page(&[event]);
        assert!(
            !text.contains("<script>") && text.contains("&lt;script&gt;"),
            "{text}"
        );
        assert!(text.contains("a &lt;b&gt;"));
    }

    #[test]
    fn without_a_stall_it_says_so() {
        assert!(page(&[]).contains("Nothing was held longer than the threshold."));
    }
}
