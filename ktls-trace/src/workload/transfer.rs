//! All connections of a run, from the first byte to the last thread.

use std::{
    fs::File,
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Config, ConnectionReport, Error, LOOK_UP, Report, SCHEMA, config, holds,
    receiver::{self, Progress},
    sender::{self, Sender},
    socket,
    tally::{Running, Snapshot, mib_per_s},
};

/// How long the threads are given to end once the limit is reached and their sockets are shut down.
const GRACE: Duration = Duration::from_secs(5);

/// One end of one connection that is done.
enum Done {
    Sender(usize, sender::Outcome),
    Receiver(usize, receiver::Outcome),
}

/// All connections while they run.
pub(super) struct Run {
    started: Instant,
    /// Set once nothing counts any more: the limit is reached, or all is done.
    ending: Arc<AtomicBool>,
    done: mpsc::Receiver<Done>,
    connections: Vec<Running>,
}

impl Run {
    /// Starts a thread for each end.
    pub(super) fn start(
        config: &Config,
        file: &File,
        pairs: Vec<socket::Pair>,
    ) -> Result<Self, Error> {
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
                watcher: None,
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
        for (index, (mut running, sender, receiver_socket)) in prepared.into_iter().enumerate() {
            let how = config.receiver;
            let find_holds = config.find_holds;
            if find_holds {
                let socket = running.sender.try_clone().map_err(second_handle)?;
                let ending = Arc::clone(&run.ending);
                let watcher = thread::Builder::new()
                    .name(format!("watcher-{index}"))
                    .spawn(move || holds::watch(&socket, &ending))
                    .map_err(no_thread)?;
                running.watcher = Some(watcher);
            }
            let (ending, progress, tell_receiver) = (
                Arc::clone(&run.ending),
                Arc::clone(&running.received),
                tell.clone(),
            );
            thread::Builder::new()
                .name(format!("receiver-{index}"))
                .spawn(move || {
                    let outcome =
                        receiver::run(receiver_socket, how, &progress, &ending, find_holds);
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
    pub(super) fn follow(&mut self, limit: Duration, stop: &AtomicBool) {
        while !self.all_done() && !stop.load(Ordering::Acquire) {
            let Some(left) = limit.checked_sub(self.started.elapsed()) else {
                return;
            };
            self.take_one(left.min(LOOK_UP));
        }
    }

    /// Looks at every connection, then ends what still runs.
    pub(super) fn end(&mut self) -> Vec<Snapshot> {
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

    pub(super) fn report(&mut self, config: &Config, snapshots: &[Snapshot]) -> Report {
        let tls = config.mode.uses_tls();
        let overhead = tls.then(|| config::record_overhead(config.tls, config.cipher));
        let connections: Vec<ConnectionReport> = self
            .connections
            .iter_mut()
            .zip(snapshots)
            .map(|(connection, snapshot)| connection.report(snapshot, overhead))
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
            nodelay: config.nodelay,
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
