//! The built-in reproducer: kernel-TLS senders and receivers over loopback, in this process, without
//! privileges and without touching a setting of the host. The gate that stalls is set on the sockets alone.

mod config;
mod error;
mod receiver;
mod records;
mod report;
mod sender;
mod socket;
mod source;
mod tls;

use std::{
    fs::File,
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

pub use self::{
    config::{Cipher, Config, Mode, Receiver, STALLING_NOTSENT_LOWAT, TlsVersion},
    error::Error,
    report::{ConnectionReport, Gaps, Report, SCHEMA},
};
use self::{receiver::Progress, sender::Sender, socket::SenderState};

/// How long the threads are given to end once the limit is reached and their sockets are shut down.
const GRACE: Duration = Duration::from_millis(800);

/// How often the run looks whether it was told to stop.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Silence at the receiver after which a sender that still has bytes to send counts as hung. The
/// slowest release of a held record that recovers (persist timer, backed off) stays well below.
const HUNG_SILENCE: Duration = Duration::from_secs(1);

/// Connects everything, sends until the bytes or the time are used up or `stop` is set, and tells what
/// happened. Returns within a second of the limit even when the kernel never lets a send return: a thread
/// that is stuck then stays behind, with its socket, until the process ends.
pub fn run(config: &Config, stop: &AtomicBool) -> Result<Report, Error> {
    check(config)?;
    let file = source::make(config.file_size)?;
    let connections = connect(config)?;
    wait(config.hold, stop);
    let mut run = Run::start(config, &file, connections)?;
    run.follow(config.duration, stop);
    let snapshots = run.end();
    Ok(run.report(config, &snapshots))
}

/// Refuses what no kernel could do anything with.
fn check(config: &Config) -> Result<(), Error> {
    let refuse = |option, reason| Err(Error::Config { option, reason });
    if config.connections == 0 {
        return refuse("connections", "at least one is needed");
    }
    if config.file_size == 0 {
        return refuse("file-size", "an empty file can't be sent");
    }
    if config.chunk == Some(0) {
        return refuse("chunk", "a send of nothing never ends");
    }
    if config.receiver == (Receiver::Slow { bytes_per_s: 0 }) {
        return refuse(
            "receiver-rate",
            "a receiver that reads nothing is --receiver stop",
        );
    }
    Ok(())
}

/// Connects every pair and turns the senders into TLS ones, so that all are ready before any starts.
fn connect(config: &Config) -> Result<Vec<socket::Pair>, Error> {
    let listener = socket::listen(config)?;
    (0..config.connections)
        .map(|_| {
            let pair = socket::connect_pair(&listener, config)?;
            if config.mode.uses_tls() {
                tls::enable(&pair.sender, config.tls, config.cipher)?;
            }
            Ok(pair)
        })
        .collect()
}

/// Lets a time pass, unless told to stop.
fn wait(time: Duration, stop: &AtomicBool) {
    let begun = Instant::now();
    while let Some(left) = time
        .checked_sub(begun.elapsed())
        .filter(|left| !left.is_zero())
    {
        if stop.load(Ordering::Acquire) {
            return;
        }
        thread::sleep(left.min(LOOK_UP));
    }
}

/// One end of one connection that is done.
enum Done {
    Sender(usize, sender::Outcome),
    Receiver(usize, receiver::Outcome),
}

/// One connection while it runs.
struct Running {
    src: SocketAddr,
    dst: SocketAddr,
    /// A second handle on the sender's socket, to look at it and to shut it down.
    sender: TcpStream,
    /// The same for the receiver's.
    receiver: TcpStream,
    /// Payload bytes accepted by calls that returned.
    sent: Arc<AtomicU64>,
    received: Arc<Progress>,
    sender_outcome: Option<sender::Outcome>,
    receiver_outcome: Option<receiver::Outcome>,
    /// When the second of its two ends was done.
    done_after: Option<Duration>,
}

/// All connections while they run.
struct Run {
    started: Instant,
    /// Set once nothing counts any more: the limit is reached, or all is done.
    ending: Arc<AtomicBool>,
    done: mpsc::Receiver<Done>,
    connections: Vec<Running>,
}

/// A connection at the moment the run ended, before its sockets were shut down.
struct Snapshot {
    sender: SenderState,
    bytes_received: u64,
    silent: Duration,
    hung: bool,
    /// How long the connection had run: until both ends were done, or until the end.
    ran: Duration,
}

impl Run {
    /// Starts a thread for each end.
    fn start(config: &Config, file: &File, pairs: Vec<socket::Pair>) -> Result<Self, Error> {
        let second_handle = |source| Error::Resource {
            what: "second handle on a socket",
            source,
        };
        let no_thread = |source| Error::Resource {
            what: "start a thread",
            source,
        };

        let started = Instant::now();
        let ending = Arc::new(AtomicBool::new(false));
        let (tell, done) = mpsc::channel();
        let mut prepared = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let running = Running {
                src: pair.src,
                dst: pair.dst,
                sender: pair.sender.try_clone().map_err(second_handle)?,
                receiver: pair.receiver.try_clone().map_err(second_handle)?,
                sent: Arc::default(),
                received: Arc::new(Progress::since(started)),
                sender_outcome: None,
                receiver_outcome: None,
                done_after: None,
            };
            prepared.push((
                running,
                Sender::new(pair.sender, file, config)?,
                pair.receiver,
            ));
        }

        let mut run = Self {
            started,
            ending,
            done,
            connections: Vec::with_capacity(prepared.len()),
        };
        for (index, (running, sender, receiver_socket)) in prepared.into_iter().enumerate() {
            let how = config.receiver;
            let (ending, progress, tell_receiver) = (
                Arc::clone(&run.ending),
                Arc::clone(&running.received),
                tell.clone(),
            );
            thread::Builder::new()
                .name(format!("receiver-{index}"))
                .spawn(move || {
                    let outcome = receiver::run(receiver_socket, how, &progress, &ending);
                    // Nobody listens any more only when the run has given up on this thread.
                    tell_receiver.send(Done::Receiver(index, outcome)).ok();
                })
                .map_err(no_thread)?;
            let (ending, sent, tell_sender) = (
                Arc::clone(&run.ending),
                Arc::clone(&running.sent),
                tell.clone(),
            );
            thread::Builder::new()
                .name(format!("sender-{index}"))
                .spawn(move || {
                    let outcome = sender.run(&sent, &ending);
                    tell_sender.send(Done::Sender(index, outcome)).ok();
                })
                .map_err(no_thread)?;
            run.connections.push(running);
        }
        Ok(run)
    }

    /// Waits until all is done, the time is up or `stop` is set.
    fn follow(&mut self, limit: Duration, stop: &AtomicBool) {
        while !self.all_done() && !stop.load(Ordering::Acquire) {
            let Some(left) = limit.checked_sub(self.started.elapsed()) else {
                return;
            };
            self.take_one(left.min(LOOK_UP));
        }
    }

    /// Looks at every connection, then ends what still runs.
    fn end(&mut self) -> Vec<Snapshot> {
        self.ending.store(true, Ordering::Release);
        let elapsed = self.started.elapsed();
        let snapshots = self
            .connections
            .iter()
            .map(|connection| connection.snapshot(elapsed))
            .collect();
        for connection in &self.connections {
            // Wakes a blocked send with EPIPE. It fails only where both directions are closed already.
            connection.sender.shutdown(Shutdown::Both).ok();
            connection.receiver.shutdown(Shutdown::Both).ok();
        }
        let give_up = Instant::now() + GRACE;
        while !self.all_done() {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.take_one(left);
        }
        snapshots
    }

    fn all_done(&self) -> bool {
        self.connections
            .iter()
            .all(|connection| connection.done_after.is_some())
    }

    /// Takes the next end that is done, if one comes in time.
    fn take_one(&mut self, time: Duration) {
        let Ok(done) = self.done.recv_timeout(time) else {
            return;
        };
        let index = match &done {
            Done::Sender(index, _) | Done::Receiver(index, _) => *index,
        };
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        match done {
            Done::Sender(_, outcome) => connection.sender_outcome = Some(outcome),
            Done::Receiver(_, outcome) => connection.receiver_outcome = Some(outcome),
        }
        if connection.sender_outcome.is_some() && connection.receiver_outcome.is_some() {
            connection.done_after = Some(self.started.elapsed());
        }
    }

    fn report(&mut self, config: &Config, snapshots: &[Snapshot]) -> Report {
        let tls = config.mode.uses_tls();
        let connections: Vec<ConnectionReport> = self
            .connections
            .iter_mut()
            .zip(snapshots)
            .map(|(connection, snapshot)| connection.report(snapshot, tls))
            .collect();
        let duration_ms = connections
            .iter()
            .map(|connection| connection.duration_ms)
            .max()
            .unwrap_or(0);
        let bytes_received = connections
            .iter()
            .map(|connection| connection.bytes_received)
            .sum();
        Report {
            schema: SCHEMA,
            mode: config.mode,
            tls: tls.then_some(config.tls),
            cipher: tls.then_some(config.cipher),
            mss_asked: config.mss,
            notsent_lowat: config.notsent_lowat,
            sndbuf: config.sndbuf,
            nonblocking: config.nonblocking,
            cork: config.cork,
            receiver: config.receiver,
            duration_ms,
            bytes_sent: connections
                .iter()
                .map(|connection| connection.bytes_sent)
                .sum(),
            bytes_received,
            records_received: tls.then(|| {
                connections
                    .iter()
                    .filter_map(|connection| connection.records_received)
                    .sum()
            }),
            mib_per_s: mib_per_s(bytes_received, duration_ms),
            hung: connections.iter().any(|connection| connection.hung),
            connections,
        }
    }
}

impl Running {
    /// What can be seen from outside, while the ends may still be blocked.
    fn snapshot(&self, elapsed: Duration) -> Snapshot {
        let silent = self.received.silent();
        let done = self.sender_outcome.is_some();
        Snapshot {
            sender: SenderState::read(&self.sender),
            bytes_received: self.received.bytes(),
            silent,
            hung: !done && silent >= HUNG_SILENCE.min(elapsed),
            ran: self.done_after.unwrap_or(elapsed),
        }
    }

    fn report(&mut self, snapshot: &Snapshot, tls: bool) -> ConnectionReport {
        let stuck = self.sender_outcome.is_none();
        let sender = self.sender_outcome.take().unwrap_or_default();
        let receiver = self.receiver_outcome.take();
        let saw_end = receiver.as_ref().is_some_and(|receiver| receiver.saw_end);
        let records_received = receiver
            .as_ref()
            .map(|receiver| receiver.records)
            .filter(|_| tls);
        let receiver = receiver.unwrap_or_default();
        let error = if stuck {
            Some("the send did not return when its socket was shut down".to_owned())
        } else {
            sender.error.or(receiver.error)
        };
        ConnectionReport {
            src: self.src.to_string(),
            dst: self.dst.to_string(),
            bytes_sent: self.sent.load(Ordering::Acquire),
            bytes_received: snapshot.bytes_received,
            records_received,
            duration_ms: whole_ms(snapshot.ran),
            eagain: sender.eagain,
            longest_wait_ms: fractional_ms(sender.longest_wait),
            mss: snapshot.sender.mss,
            sndbuf: snapshot.sender.sndbuf,
            notsent_at_end: snapshot.sender.notsent,
            unacked_at_end: snapshot.sender.unacked,
            arrivals: receiver.arrivals,
            gaps: receiver.gaps,
            silent_at_end_ms: fractional_ms(snapshot.silent),
            finished: sender.finished && saw_end,
            hung: snapshot.hung || stuck,
            error,
        }
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds to the microsecond.
fn fractional_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// MiB a second, to the thousandth; 0 for a run that took no time.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people; 2^53 bytes are far away"
)]
fn mib_per_s(bytes: u64, duration_ms: u64) -> f64 {
    if duration_ms == 0 {
        return 0.0;
    }
    let rate = bytes as f64 / f64::from(1 << 20) / (duration_ms as f64 / 1e3);
    (rate * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Config {
        Config {
            mode: Mode::Plain,
            file_size: 256 << 10,
            ..Config::default()
        }
    }

    fn run_now(config: &Config) -> Report {
        run(config, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn every_byte_asked_for_arrives() {
        for (nonblocking, ipv6) in [(false, false), (true, false), (false, true)] {
            let config = Config {
                bytes: Some(1_000_001),
                connections: 2,
                nonblocking,
                ipv6,
                ..plain()
            };
            let report = run_now(&config);
            assert_eq!(
                (report.bytes_sent, report.bytes_received),
                (2_000_002, 2_000_002)
            );
            assert!(
                report
                    .connections
                    .iter()
                    .all(|connection| connection.finished)
            );
            assert!(!report.hung);
        }
    }

    #[test]
    fn the_limit_ends_a_send_that_nobody_reads() {
        for nonblocking in [false, true] {
            let config = Config {
                receiver: Receiver::Stop { after_bytes: 4096 },
                duration: Duration::from_millis(1300),
                nonblocking,
                ..plain()
            };
            let begun = Instant::now();
            let report = run_now(&config);
            assert!(begun.elapsed() < config.duration + Duration::from_secs(1));
            assert!(report.hung);
            assert_eq!(report.bytes_received, 4096);
            assert!(report.bytes_sent > 4096 && report.connections[0].unacked_at_end > Some(0));
            assert_eq!(report.connections[0].error, None);
        }
    }

    #[test]
    fn a_stop_ends_it_early() {
        let begun = Instant::now();
        let report = run(&plain(), &AtomicBool::new(true)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert!(report.duration_ms < 500);
    }

    #[test]
    fn a_small_mss_is_used() {
        let config = Config {
            mss: Some(1448),
            bytes: Some(1),
            ..plain()
        };
        // 12 bytes of each segment are timestamps, where the host has them on.
        let mss = run_now(&config).connections[0].mss.unwrap();
        assert!((1436..=1448).contains(&mss), "{mss}");
    }

    #[test]
    fn options_that_make_no_sense_are_named() {
        let config = Config {
            file_size: 0,
            ..plain()
        };
        let error = run(&config, &AtomicBool::new(false)).unwrap_err();
        assert!(error.to_string().contains("--file-size"), "{error}");
    }

    #[test]
    fn the_report_names_its_schema() {
        let config = Config {
            bytes: Some(1),
            ..plain()
        };
        let json = serde_json::to_value(run_now(&config)).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["mode"], "plain");
        assert!(json["tls"].is_null());
    }
}
