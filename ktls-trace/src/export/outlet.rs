//! Destinations of events, each with a thread and a queue of its own: one that is slow or broken delays neither the
//! others nor the tracing, and what it lost is counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Written;
use crate::{correlate::event::Event, kernel::capabilities};

/// Events that a destination may lag behind before it loses some.
const QUEUE: usize = 4096;
/// How long the end of a run waits, each time that it does, for destinations to take what is left.
const END_WITHIN: Duration = Duration::from_millis(300);
/// How often a queue that has no room is looked at then.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Where events can go.
pub trait Destination: Send + 'static {
    /// What its losses are told under, as `lost` of events has it.
    fn place(&self) -> &'static str;

    /// Writes an event.
    fn write(&mut self, event: &Event) -> Written;

    /// Opens anew what somebody has moved away.
    ///
    /// # Errors
    ///
    /// If that fails; the old one stays in use.
    fn reopen(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Something that a destination has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It loses events, or can't do as told: why.
    Trouble(String),
    /// Nobody reads what it writes any more.
    ReaderGone(&'static str),
}

/// The destinations of a run.
#[derive(Debug)]
pub struct Outlets {
    /// Each of them.
    each: Vec<Outlet>,
    /// What they have to say.
    reports: UnboundedReceiver<Report>,
    /// Where they say it.
    report: UnboundedSender<Report>,
    /// What those lost that were replaced, by place.
    replaced: Vec<(&'static str, Arc<Shared>)>,
    /// Whether the run ends: then there is time to wait for room.
    ending: Option<Instant>,
}

impl Default for Outlets {
    /// There are none.
    fn default() -> Self {
        let (report, reports) = unbounded_channel();
        Self {
            each: Vec::new(),
            reports,
            report,
            replaced: Vec::new(),
            ending: None,
        }
    }
}

impl Outlets {
    /// Starts a thread for each destination.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn start(destinations: Vec<Box<dyn Destination>>) -> std::io::Result<Self> {
        let mut outlets = Self::default();
        outlets.replace(destinations)?;
        Ok(outlets)
    }

    /// From now on events go to these instead; the others end once they have written what they were given.
    ///
    /// # Errors
    ///
    /// If the system gives no thread; then all stays as it was.
    pub fn replace(&mut self, destinations: Vec<Box<dyn Destination>>) -> std::io::Result<()> {
        let fresh = destinations
            .into_iter()
            .map(|destination| Outlet::start(destination, self.report.clone()))
            .collect::<Result<_, _>>()?;
        // So that what goes on in the same file stays in order.
        self.flush();
        let replaced = std::mem::replace(&mut self.each, fresh).into_iter();
        self.replaced
            .extend(replaced.map(|outlet| (outlet.place, outlet.shared)));
        Ok(())
    }

    /// Hands an event to each.
    pub fn write(&self, event: &Event) {
        if self.each.is_empty() {
            return;
        }
        let event = Arc::new(event.clone());
        for outlet in &self.each {
            outlet.offer(Order::Write(Arc::clone(&event)), self.ending);
        }
    }

    /// Has each open anew what it writes to.
    pub fn reopen(&self) {
        for outlet in &self.each {
            outlet.shared.reopen.store(true, Ordering::Release);
            // One that has no room is awake, and looks between two events.
            let _awake = outlet.orders.try_send(Order::Wake);
        }
    }

    /// What one of them has to say next; waits for ever if there is none.
    pub async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            // It is not closed as long as there is `report`.
            None => std::future::pending().await,
        }
    }

    /// Events lost so far, by place.
    pub fn lost(&self) -> BTreeMap<&'static str, u64> {
        let now = self
            .each
            .iter()
            .map(|outlet| (outlet.place, &outlet.shared));
        let replaced = self.replaced.iter().map(|(place, shared)| (*place, shared));
        let mut lost = BTreeMap::new();
        for (place, shared) in now.chain(replaced) {
            *lost.entry(place).or_default() += shared.lost.load(Ordering::Relaxed);
        }
        lost
    }

    /// From now on a destination without room is waited for a moment: there is nothing left to delay.
    pub fn patient(&mut self) {
        self.ending = Some(Instant::now() + END_WITHIN);
    }

    /// Waits until each has written what it was given, or has had its time for that.
    pub fn flush(&mut self) {
        let end = Instant::now() + END_WITHIN;
        let written: Vec<_> = self
            .each
            .iter()
            .map(|outlet| {
                let (done, written) = mpsc::sync_channel(1);
                outlet.offer(Order::Flush(done), self.ending);
                written
            })
            .collect();
        for written in written {
            // One that hangs is left behind.
            let _hangs = written.recv_timeout(end.saturating_duration_since(Instant::now()));
        }
    }

    /// Ends each once it has written what it was given, or has had its time for that; what was said meanwhile.
    pub fn end(mut self) -> Vec<Report> {
        let end = Instant::now() + END_WITHIN;
        for outlet in self.each {
            drop(outlet.orders);
            let patience = end.saturating_duration_since(Instant::now());
            // Its end closes the channel.
            let ended = outlet.ended.recv_timeout(patience);
            if ended == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("{}: still not written, left behind", outlet.place);
            }
        }
        let mut said = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            said.push(report);
        }
        said
    }
}

/// One destination.
#[derive(Debug)]
struct Outlet {
    /// What its losses are told under.
    place: &'static str,
    /// Orders to its thread.
    orders: SyncSender<Order>,
    /// What both sides look at.
    shared: Arc<Shared>,
    /// Says something once a queue is full for the first time in a row.
    report: UnboundedSender<Report>,
    /// Closed when the thread ends.
    ended: Receiver<()>,
}

/// What the run and the thread of a destination both look at.
#[derive(Debug, Default)]
struct Shared {
    /// Events lost.
    lost: AtomicU64,
    /// Whether the queue had no room for the last event.
    full: AtomicBool,
    /// Whether it is to be opened anew.
    reopen: AtomicBool,
}

/// What a destination is told.
enum Order {
    /// Write this.
    Write(Arc<Event>),
    /// Say when all before this is written.
    Flush(SyncSender<()>),
    /// Look whether there is something else to do.
    Wake,
}

impl Outlet {
    fn start(
        destination: Box<dyn Destination>,
        report: UnboundedSender<Report>,
    ) -> std::io::Result<Self> {
        let place = destination.place();
        let (orders, taken) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared::default());
        let (with, say) = (Arc::clone(&shared), report.clone());
        thread::Builder::new()
            .name(place.to_owned())
            .spawn(move || {
                capabilities::keep_only(&capabilities::OF_FILES);
                serve(destination, &taken, &with, &say);
                drop(end);
            })?;
        Ok(Self {
            place,
            orders,
            shared,
            report,
            ended,
        })
    }

    /// Gives an order; if there is no room until a moment, or at once if none is given, what it is about is lost.
    fn offer(&self, mut order: Order, until: Option<Instant>) {
        loop {
            match self.orders.try_send(order) {
                Ok(()) => {
                    self.shared.full.store(false, Ordering::Relaxed);
                    return;
                }
                Err(TrySendError::Full(back)) if until.is_some_and(|end| Instant::now() < end) => {
                    order = back;
                    thread::sleep(LOOK_AGAIN);
                }
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => {
                    if matches!(back, Order::Write(_)) {
                        self.lose();
                    }
                    return;
                }
            }
        }
    }

    /// Counts an event that there was no room for, and says so the first time in a row.
    fn lose(&self) {
        self.shared.lost.fetch_add(1, Ordering::Relaxed);
        if !self.shared.full.swap(true, Ordering::Relaxed) {
            let why = format!(
                "{}: {QUEUE} events behind, further ones are lost",
                self.place
            );
            // Nobody listens any more at the very end.
            let _ended = self.report.send(Report::Trouble(why));
        }
    }
}

/// The thread of a destination.
fn serve(
    mut destination: Box<dyn Destination>,
    orders: &Receiver<Order>,
    shared: &Shared,
    report: &UnboundedSender<Report>,
) {
    let say = |said| {
        // Nobody listens any more at the very end.
        let _ended = report.send(said);
    };
    while let Ok(order) = orders.recv() {
        if shared.reopen.swap(false, Ordering::Acquire)
            && let Err(why) = destination.reopen()
        {
            say(Report::Trouble(format!("{why}; going on with the old one")));
        }
        match order {
            Order::Write(event) => match destination.write(&event) {
                Written::Yes => {}
                Written::Lost(why) => {
                    shared.lost.fetch_add(1, Ordering::Relaxed);
                    say(Report::Trouble(format!(
                        "{why}; events are lost until it works again"
                    )));
                }
                Written::StillLost => {
                    shared.lost.fetch_add(1, Ordering::Relaxed);
                }
                Written::ReaderGone => {
                    say(Report::ReaderGone(destination.place()));
                    return;
                }
            },
            Order::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _gone = done.send(());
            }
            Order::Wake => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::correlate::event::{Body, Lost, Name};

    fn event(count: u64) -> Event {
        let body = Body::Lost(Lost {
            place: "ring-buffer".to_owned(),
            count,
            total: count,
        });
        Event::new(Name::Lost, 0, body)
    }

    /// Keeps what it is given; takes a lock for each, by which a test can hold it up.
    struct Kept(&'static str, Arc<Mutex<Vec<Event>>>);

    impl Destination for Kept {
        fn place(&self) -> &'static str {
            self.0
        }

        fn write(&mut self, event: &Event) -> Written {
            self.1.lock().unwrap().push(event.clone());
            Written::Yes
        }
    }

    /// Nobody reads it.
    struct Unread;

    impl Destination for Unread {
        fn place(&self) -> &'static str {
            "unread"
        }

        fn write(&mut self, _: &Event) -> Written {
            Written::ReaderGone
        }
    }

    #[test]
    fn what_was_written_is_there_when_a_run_ends() {
        let kept = Arc::<Mutex<Vec<Event>>>::default();
        let outlets = Outlets::start(vec![Box::new(Kept("kept", Arc::clone(&kept)))]).unwrap();
        for count in 0..100 {
            outlets.write(&event(count));
        }
        assert_eq!(outlets.end(), []);
        let expected: Vec<_> = (0..100).map(event).collect();
        assert_eq!(*kept.lock().unwrap(), expected);
    }

    #[test]
    fn one_that_hangs_loses_its_own_events_and_delays_nobody() {
        let (hanging, kept) = (
            Arc::<Mutex<Vec<Event>>>::default(),
            Arc::<Mutex<Vec<Event>>>::default(),
        );
        let held = hanging.lock().unwrap();
        let mut outlets = Outlets::start(vec![
            Box::new(Kept("hanging", Arc::clone(&hanging))),
            Box::new(Kept("kept", Arc::clone(&kept))),
        ])
        .unwrap();
        for batch in 1..=10 {
            for count in 0..1000 {
                outlets.write(&event(count));
            }
            // The other one has all of it before there is more.
            while kept.lock().unwrap().len() < batch * 1000 {
                thread::sleep(LOOK_AGAIN);
            }
        }
        let lost = outlets.lost();
        // One is with the thread, the queue is full.
        assert!(
            (5900..=10_000 - 4096).contains(&lost["hanging"]),
            "{lost:?}"
        );
        assert_eq!(lost["kept"], 0, "{lost:?}");
        let report = outlets.reports.try_recv();
        assert!(
            matches!(&report, Ok(Report::Trouble(why)) if why.contains("hanging: 4096 events behind")),
            "{report:?}"
        );
        outlets.end();
        assert_eq!(kept.lock().unwrap().len(), 10_000);
        drop(held);
    }

    #[test]
    fn a_reader_that_has_gone_is_told() {
        let outlets = Outlets::start(vec![Box::new(Unread)]).unwrap();
        outlets.write(&event(1));
        assert_eq!(outlets.end(), [Report::ReaderGone("unread")]);
    }
}
