use std::sync::Mutex;

use tokio::time::sleep;

use super::*;
use crate::correlate::{
    event::{Body, Lost, Name},
    tests::hold_ended,
};

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

/// Gathers holds and sends them some time; sending takes a while, but not longer than it may.
struct Gathers {
    /// How many it has, and since when.
    holds: u64,
    since: Instant,
    /// How long it takes to send them.
    takes: Duration,
    /// How many it has sent at a time.
    sent: Arc<Mutex<Vec<u64>>>,
}

impl Gathers {
    fn taking(takes: Duration) -> (Box<Self>, Arc<Mutex<Vec<u64>>>) {
        let sent = Arc::<Mutex<Vec<u64>>>::default();
        let gathers = Self {
            holds: 0,
            since: Instant::now(),
            takes,
            sent: Arc::clone(&sent),
        };
        (Box::new(gathers), sent)
    }
}

impl Destination for Gathers {
    fn place(&self) -> &'static str {
        "gathers"
    }

    fn takes(&self) -> fn(&Event) -> bool {
        |_| false
    }

    fn write(&mut self, event: &Event) -> Written {
        panic!("{event:?}")
    }

    fn takes_holds(&self) -> bool {
        true
    }

    fn hold_ended(&mut self, _: HoldEnded) {
        if self.holds == 0 {
            self.since = Instant::now();
        }
        self.holds += 1;
    }

    fn gives_up(&self) -> bool {
        true
    }

    fn due(&self) -> Option<Instant> {
        (self.holds > 0).then(|| self.since + Duration::from_millis(50))
    }

    fn send(&mut self, patience: &mut Patience) -> Sent {
        let holds = std::mem::take(&mut self.holds);
        if holds == 0 {
            return Sent::default();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let long = Duration::from_mins(1);
        let sending = async { patience.wait(long, sleep(self.takes)).await };
        if runtime.block_on(sending).is_none() {
            let said = Some(Report::Trouble("no time".to_owned()));
            return Sent { lost: holds, said };
        }
        self.sent.lock().unwrap().push(holds);
        Sent::default()
    }
}

#[test]
fn what_was_gathered_is_sent_when_it_is_due_and_at_the_end() {
    let (gathers, sent) = Gathers::taking(Duration::ZERO);
    let outlets = Outlets::start(vec![gathers]).unwrap();
    outlets.write(&event(1));
    for _ in 0..3 {
        outlets.hold_ended(&hold_ended("a", 0));
    }
    let begun = Instant::now();
    while sent.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        thread::sleep(LOOK_AGAIN);
    }
    outlets.hold_ended(&hold_ended("a", 0));
    assert_eq!(outlets.end(), []);
    assert_eq!(sent.lock().unwrap().iter().sum::<u64>(), 4);
}

#[test]
fn who_sends_when_the_run_ends_gives_up_in_time_for_that_to_be_told() {
    let (gathers, sent) = Gathers::taking(Duration::from_mins(1));
    let mut outlets = Outlets::start(vec![gathers]).unwrap();
    outlets.hold_ended(&hold_ended("a", 0));
    // It is about it by then.
    thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    outlets.patient();
    outlets.hold_ended(&hold_ended("a", 0));
    outlets.flush();
    assert_eq!(outlets.lost()["gathers"], 2);
    let said = outlets.end();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(sent.lock().unwrap().is_empty());
}

#[test]
fn holds_that_wait_leave_room_for_events_and_are_no_loss() {
    let kept = Arc::<Mutex<Vec<Event>>>::default();
    let held = kept.lock().unwrap();
    let outlets = Outlets::start(vec![Box::new(TakesBoth(Kept("both", Arc::clone(&kept))))]);
    let outlets = outlets.unwrap();
    outlets.write(&event(0));
    for _ in 0..10_000 {
        outlets.hold_ended(&hold_ended("a", 0));
    }
    for count in 0..1000 {
        outlets.write(&event(count));
    }
    assert_eq!(outlets.lost()["both"], 0);
    drop(held);
    assert_eq!(outlets.end(), []);
    assert_eq!(kept.lock().unwrap().len(), 1001);
}

/// As what it has, but for holds as well.
struct TakesBoth(Kept);

impl Destination for TakesBoth {
    fn place(&self) -> &'static str {
        self.0.place()
    }

    fn write(&mut self, event: &Event) -> Written {
        self.0.write(event)
    }

    fn takes_holds(&self) -> bool {
        true
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
