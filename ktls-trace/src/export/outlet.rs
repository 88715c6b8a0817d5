//! Destinations of events, each with a thread and a queue of its own: one that is slow or broken delays neither the
//! others nor the tracing, and what it lost is counted.

mod patience;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use caps::Capability;
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    watch,
};

pub use self::patience::Patience;
use super::Written;
use crate::{
    correlate::{HoldEnded, event::Event},
    kernel::capabilities,
};

/// Events that a destination may lag behind before it loses some.
const QUEUE: usize = 4096;
/// How long the end of a run waits, each time that it does, for destinations to take what is left.
const END_WITHIN: Duration = Duration::from_millis(300);
/// When a destination has to give up what it is about then, so that its losses are still told.
const GIVES_UP_WITHIN: Duration = Duration::from_millis(250);
/// Holds that wait in a queue at most: they leave room for events.
const HOLDS: usize = QUEUE / 2;
/// How much longer it is waited for then: it will be done, but on a busy machine not at once.
const LATE_BY: Duration = Duration::from_millis(700);
/// How often a queue that has no room is looked at then.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Where events can go.
pub trait Destination: Send + 'static {
    /// What its losses are told under, as `lost` of events has it.
    fn place(&self) -> &'static str;

    /// Which events it is given.
    fn takes(&self) -> fn(&Event) -> bool {
        |_| true
    }

    /// Which capabilities its thread keeps.
    fn keeps(&self) -> &'static [Capability] {
        &capabilities::OF_FILES
    }

    /// Writes an event.
    fn write(&mut self, event: &Event) -> Written;

    /// Whether it is given holds that are over, too. One that there is no room for is no loss: `totals` of events have it.
    fn takes_holds(&self) -> bool {
        false
    }

    /// Takes a hold that is over.
    fn hold_ended(&mut self, _: HoldEnded) {}

    /// When it has something to send, though it is given nothing.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Whether it gives up what it is about as [`Patience`] says, so that its losses can be waited for.
    fn gives_up(&self) -> bool {
        false
    }

    /// Sends what is due; all that it has, if there is no other time for that.
    fn send(&mut self, _: &mut Patience) -> Sent {
        Sent::default()
    }

    /// Opens anew what somebody has moved away.
    ///
    /// # Errors
    ///
    /// If that fails; the old one stays in use.
    fn reopen(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// What became of what a destination had to send.
#[derive(Debug, Default)]
pub struct Sent {
    /// How much of it is lost.
    pub lost: u64,
    /// What there is to say about it.
    pub said: Option<Report>,
}

/// Something that a destination has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It loses events, or can't do as told: why.
    Trouble(String),
    /// It works again.
    Again(String),
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
        for outlet in std::mem::replace(&mut self.each, fresh) {
            outlet.shared.replaced.store(true, Ordering::Release);
            self.replaced.push((outlet.place, outlet.shared));
        }
        Ok(())
    }

    /// Hands an event to each.
    pub fn write(&self, event: &Event) {
        if self.each.is_empty() {
            return;
        }
        let event = Arc::new(event.clone());
        for outlet in &self.each {
            if (outlet.takes)(&event) {
                outlet.shared.events.fetch_add(1, Ordering::Relaxed);
                outlet.offer(Order::Write(Arc::clone(&event)), self.ending);
            }
        }
    }

    /// Hands a hold that is over to those that want it.
    pub fn hold_ended(&self, hold: &HoldEnded) {
        for outlet in self.each.iter().filter(|outlet| outlet.takes_holds) {
            let waiting = &outlet.shared.holds;
            if waiting.load(Ordering::Relaxed) < HOLDS {
                waiting.fetch_add(1, Ordering::Relaxed);
                outlet.offer(Order::HoldEnded(hold.clone()), None);
            }
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
        let end = Instant::now() + END_WITHIN;
        self.ending = Some(end);
        self.hurry(end);
    }

    /// Says when everybody has to be done.
    fn hurry(&self, end: Instant) {
        for outlet in &self.each {
            outlet.end.send_replace(Some(end));
        }
    }

    /// Waits until each has written what it was given, or has had its time for that.
    pub fn flush(&mut self) {
        let now = Instant::now();
        let end = now + END_WITHIN;
        if self.ending.is_some() {
            self.hurry(now + GIVES_UP_WITHIN);
        }
        let written: Vec<_> = self
            .each
            .iter()
            .map(|outlet| {
                let (done, written) = mpsc::sync_channel(1);
                let last = self.ending.is_some();
                outlet.offer(Order::Flush { done, last }, self.ending);
                let gives_up = last && outlet.gives_up;
                (written, if gives_up { end + LATE_BY } else { end })
            })
            .collect();
        for (written, end) in written {
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
                let place = outlet.place;
                match outlet.shared.events.load(Ordering::Relaxed) {
                    0 => tracing::warn!("{place}: still not done, left behind"),
                    left => tracing::warn!(
                        "{place}: still not written, left behind: {left} events are lost"
                    ),
                }
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
    /// Which events it is given.
    takes: fn(&Event) -> bool,
    /// Whether it is given holds.
    takes_holds: bool,
    /// Whether it gives up in time.
    gives_up: bool,
    /// When it has to be done, once the run ends.
    end: watch::Sender<Option<Instant>>,
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
    /// Whether the queue had no room for an event, and has not become half empty since.
    full: AtomicBool,
    /// Events in the queue, and the one that is being written.
    events: AtomicUsize,
    /// Holds in the queue.
    holds: AtomicUsize,
    /// Whether it is to be opened anew.
    reopen: AtomicBool,
    /// Whether events go elsewhere by now.
    replaced: AtomicBool,
}

/// What a destination is told.
enum Order {
    /// Write this.
    Write(Arc<Event>),
    /// Take this.
    HoldEnded(HoldEnded),
    /// Say when all before this is written.
    Flush {
        done: SyncSender<()>,
        /// Whether the run ends.
        last: bool,
    },
    /// Look whether there is something else to do.
    Wake,
}

impl Outlet {
    fn start(
        destination: Box<dyn Destination>,
        report: UnboundedSender<Report>,
    ) -> std::io::Result<Self> {
        let place = destination.place();
        let (takes, takes_holds) = (destination.takes(), destination.takes_holds());
        let gives_up = destination.gives_up();
        let (orders, taken) = mpsc::sync_channel(QUEUE);
        let (alive, ended) = mpsc::sync_channel(1);
        let (end, ends) = watch::channel(None);
        let shared = Arc::new(Shared::default());
        let (with, say) = (Arc::clone(&shared), report.clone());
        thread::Builder::new()
            .name(place.to_owned())
            .spawn(move || {
                capabilities::keep_only(destination.keeps());
                let patience = Patience {
                    end: ends,
                    last: false,
                };
                serve(destination, &taken, &with, &say, patience);
                drop(alive);
            })?;
        Ok(Self {
            place,
            takes,
            takes_holds,
            gives_up,
            end,
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
                    // Not at the first room: one that is merely too slow has some now and then.
                    if self.shared.events.load(Ordering::Relaxed) < QUEUE / 2 {
                        self.shared.full.store(false, Ordering::Relaxed);
                    }
                    return;
                }
                Err(TrySendError::Full(back)) if until.is_some_and(|end| Instant::now() < end) => {
                    order = back;
                    thread::sleep(LOOK_AGAIN);
                }
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => {
                    match back {
                        Order::Write(_) => {
                            self.shared.events.fetch_sub(1, Ordering::Relaxed);
                            self.lose();
                        }
                        Order::HoldEnded(_) => {
                            self.shared.holds.fetch_sub(1, Ordering::Relaxed);
                        }
                        Order::Flush { .. } | Order::Wake => {}
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
    mut patience: Patience,
) {
    let say = |said| {
        // Nobody listens any more at the very end.
        let _ended = report.send(said);
    };
    let mut send = |destination: &mut dyn Destination, last| {
        patience.last = last;
        let Sent { lost, said } = destination.send(&mut patience);
        shared.lost.fetch_add(lost, Ordering::Relaxed);
        said.into_iter().for_each(say);
    };
    loop {
        let order = match destination.due() {
            Some(due) => match orders.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => Order::Wake,
                Err(RecvTimeoutError::Disconnected) => break,
            },
            None => match orders.recv() {
                Ok(order) => order,
                Err(_) => break,
            },
        };
        if shared.reopen.swap(false, Ordering::Acquire)
            && let Err(why) = destination.reopen()
        {
            say(Report::Trouble(format!("{why}; going on with the old one")));
        }
        match order {
            Order::Write(event) => {
                let written = destination.write(&event);
                shared.events.fetch_sub(1, Ordering::Relaxed);
                match written {
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
                        if shared.replaced.load(Ordering::Acquire) {
                            // Nobody minds that it is gone, but what it still had is lost.
                            let left = shared.events.swap(0, Ordering::Relaxed) + 1;
                            let left = u64::try_from(left).unwrap_or(u64::MAX);
                            shared.lost.fetch_add(left, Ordering::Relaxed);
                        } else {
                            say(Report::ReaderGone(destination.place()));
                        }
                        return;
                    }
                }
            }
            Order::HoldEnded(hold) => {
                shared.holds.fetch_sub(1, Ordering::Relaxed);
                destination.hold_ended(hold);
            }
            Order::Flush { done, last } => {
                if last {
                    send(&mut *destination, true);
                }
                // Whoever asked may have stopped waiting.
                let _gone = done.send(());
            }
            Order::Wake => {}
        }
        if destination.due().is_some_and(|due| due <= Instant::now()) {
            send(&mut *destination, false);
        }
    }
    send(&mut *destination, true);
}
