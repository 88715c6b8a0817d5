//! Events as they come, for whoever listens over HTTP: the last ones first and what is open, then each as it is told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast;

use crate::correlate::event::{Body, Event, Name, name_of};

/// Events that are kept for those who come later.
const KEPT: usize = 64;
/// Events that a listener may lag behind before it misses some.
const LAG: usize = 1024;

/// Open stalls that are known at most; of more there is only the count among the metrics.
const OPEN: usize = 10_000;

/// An event as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Its name.
    pub(super) name: String,
    /// As JSON, in one line.
    pub(super) json: String,
    /// The stall that it is about.
    stall: Option<String>,
}

/// The events of a run.
#[derive(Debug)]
pub(super) struct Stream(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// The last ones.
    kept: VecDeque<Arc<Told>>,
    /// Who gets the next.
    listeners: broadcast::Sender<Arc<Told>>,
    /// The last event of every stall that is open, by its name.
    open: BTreeMap<String, Arc<Told>>,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Inner {
            kept: VecDeque::with_capacity(KEPT),
            listeners: broadcast::channel(LAG).0,
            open: BTreeMap::new(),
        }))
    }

    /// The last event of every stall that is open.
    pub(super) fn open(&self) -> Vec<Arc<Told>> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.open.values().cloned().collect()
    }

    /// Tells an event to everybody who listens, and keeps it.
    pub(super) fn tell(&self, event: &Event) {
        let Ok(json) = serde_json::to_string(event) else {
            return; // there is no event that can't be written
        };
        let stall = match &event.body {
            Body::Stall(stall) => Some(stall.stall.clone()),
            _ => None,
        };
        let told = Arc::new(Told {
            name: name_of(&event.event).unwrap_or_default(),
            json,
            stall,
        });
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner {
            kept,
            listeners,
            open,
        } = &mut *inner;
        if let Some(stall) = &told.stall {
            if event.event == Name::StallClosed {
                open.remove(stall);
            } else if open.len() < OPEN || open.contains_key(stall) {
                open.insert(stall.clone(), Arc::clone(&told));
            }
        }
        // Nobody listens: that is no loss.
        let _nobody = listeners.send(Arc::clone(&told));
        // How a run began is not pushed out by its stalls.
        if kept.len() == KEPT {
            let first = usize::from(kept[0].name == name_of(&Name::Started).unwrap_or_default());
            kept.remove(first);
        }
        kept.push_back(told);
    }

    /// The last events, after the last one of every stall that is open and not among them; and what gets those that follow.
    pub(super) fn listen(&self) -> (Vec<Arc<Told>>, broadcast::Receiver<Arc<Told>>) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner {
            kept,
            listeners,
            open,
        } = &*inner;
        let among_kept: BTreeSet<&str> = kept
            .iter()
            .filter_map(|told| told.stall.as_deref())
            .collect();
        let pushed_out = open
            .iter()
            .filter(|(stall, _)| !among_kept.contains(stall.as_str()))
            .map(|(_, told)| told);
        let told = pushed_out.chain(kept).cloned().collect();
        (told, listeners.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::{event::Lost, rules::Verdict, tests::stall_event};

    fn lost(count: u64) -> Event {
        let body = Body::Lost(Lost {
            place: "output".to_owned(),
            count,
            total: count,
        });
        Event::new(Name::Lost, 0, body)
    }

    #[test]
    fn who_comes_later_gets_the_last_events_and_then_each_once() {
        let stream = Stream::new();
        for count in 0..100 {
            stream.tell(&lost(count));
        }
        let (kept, mut more) = stream.listen();
        assert_eq!(kept.len(), KEPT);
        assert!(kept[0].json.contains("\"count\":36"), "{:?}", kept[0]);
        stream.tell(&stall_event(Name::StallOpened, "a", Verdict::Unknown, None));
        let told = more.try_recv().unwrap();
        assert_eq!(told.name, "stall-opened");
        assert!(more.try_recv().is_err());
    }

    #[test]
    fn who_comes_later_gets_a_stall_that_is_open_though_much_was_told_since() {
        let stream = Stream::new();
        let event = |name, stall| stall_event(name, stall, Verdict::Unknown, None);
        stream.tell(&event(Name::StallOpened, "a"));
        stream.tell(&event(Name::StallOpened, "b"));
        stream.tell(&event(Name::StallClosed, "b"));
        for count in 0..100 {
            stream.tell(&lost(count));
        }
        stream.tell(&event(Name::StallOpened, "c"));
        let stalls: Vec<_> = stream
            .listen()
            .0
            .iter()
            .filter_map(|told| told.stall.clone())
            .collect();
        assert_eq!(stalls, ["a", "c"]);
    }

    #[test]
    fn a_stall_is_open_until_it_is_closed() {
        let stream = Stream::new();
        let event = |name, stall, verdict| stall_event(name, stall, verdict, None);
        let updated = event(Name::StallUpdated, "a", Verdict::Nagle);
        stream.tell(&event(Name::StallOpened, "a", Verdict::Unknown));
        stream.tell(&event(Name::StallOpened, "b", Verdict::Unknown));
        stream.tell(&updated);
        stream.tell(&event(Name::StallClosed, "b", Verdict::Unknown));
        let open = stream.open();
        let json: Vec<_> = open.iter().map(|told| told.json.as_str()).collect();
        assert_eq!(json, [serde_json::to_string(&updated).unwrap()]);
    }
}
