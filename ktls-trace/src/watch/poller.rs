//! Asks `sock_diag` about suspects, in a task of its own so that a slow answer delays nothing.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender},
    task::JoinHandle,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use super::{clock, session::Options};
use crate::{
    correlate::Poll,
    kernel::{
        namespaces::{self, Entry, Namespace, Which},
        netns,
        owners::{self, Owners},
    },
    observe::{Sample, SocketKey, Timer, Tls},
    sockdiag::{self, Dump, SockDiag, SocketId, SocketSample, TcpState, TimerKind, Wanted},
};

/// Questions that may wait; more are dropped, the correlator asks again.
const QUESTIONS: usize = 4096;
/// Sockets that a dump is told of at most, in all namespaces: as many as the programs have room for suspects.
const SOCKETS: usize = 8192;
/// Network namespaces that are kept open at once.
const NAMESPACES: usize = 256;
/// How long a namespace is kept open after the last question: an open netlink socket keeps the whole
/// namespace alive.
const NAMESPACE_KEPT: Duration = Duration::from_secs(2);

/// What became of a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// The kernel answered.
    Sampled {
        /// The socket.
        key: SocketKey,
        /// When it was asked.
        asked_ns: u64,
        /// When the answer was there.
        at_ns: u64,
        /// The socket; `None`: there is none.
        sample: Option<Box<Sample>>,
    },
    /// It could not be asked.
    Failed(String),
    /// Processes that have sockets open.
    Owners(Vec<(SocketKey, u32)>),
    /// Nobody to ask: the socket is in a network namespace that can't be entered.
    NotAsked,
}

/// What the task is told to do.
enum Order {
    /// Ask about all kTLS sockets once.
    DumpOnce,
    /// Ask about all kTLS sockets from now on, every poll interval.
    Dump,
    /// Look there from now on.
    Look(Look),
    /// Look for the process that has the socket with this inode number open.
    FindOwner(SocketKey, u32),
}

/// Where dumps look, and how often.
#[derive(Clone, Debug)]
struct Look {
    /// In which network namespaces.
    which: Which,
    /// Only at sockets with this port; 0: any.
    port: u16,
    /// Only at sockets that this process has open; 0: any.
    pid: u32,
    /// How often.
    period: Duration,
}

impl Look {
    /// As the options say.
    fn new(options: &Options) -> Self {
        Self {
            which: options.netns.clone(),
            port: u16::try_from(options.filter.port).unwrap_or(0),
            pid: options.filter.tgid,
            period: Duration::from_nanos(options.correlate.poll_interval_ns),
        }
    }
}

/// Who asks, if anybody does.
pub(super) struct Poller(Option<Asking>);

/// The asking task.
struct Asking {
    /// Questions about single sockets.
    questions: Sender<Poll>,
    /// All else, which is seldom, and may not be dropped.
    orders: UnboundedSender<Order>,
    /// Answers from it.
    answers: Receiver<Answer>,
    /// The task; it ends when the questions do.
    task: JoinHandle<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Poller {
    /// Starts the task. With `dump` it asks about all kTLS sockets at the poll interval.
    pub(super) fn start(options: &Options, dump: bool) -> Result<Self, sockdiag::Error> {
        let own = SockDiag::open()?;
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (orders, ordered) = mpsc::unbounded_channel();
        let (to_session, answers) = mpsc::channel(QUESTIONS);
        let worker = Worker {
            own_netns: netns::own(),
            look: Look::new(options),
            places: Vec::new(),
            places_found: None,
            own,
            others: HashMap::new(),
            shut: HashMap::new(),
            answers: to_session,
            seen: HashSet::new(),
        };
        let task = tokio::spawn(worker.work(asked, ordered, dump));
        Ok(Self(Some(Asking {
            questions,
            orders,
            answers,
            task,
        })))
    }

    /// Nobody to ask.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Whether anybody is asked.
    pub(super) fn asks(&self) -> bool {
        self.0.is_some()
    }

    /// Asks about a socket. If too many questions wait, this one is dropped: the correlator asks again, so nothing is lost by it
    /// but time.
    pub(super) fn ask(&self, poll: Poll) {
        if let Some(asking) = &self.0
            && asking.questions.try_send(poll).is_err()
        {
            tracing::debug!("too many questions for sock_diag wait");
        }
    }

    /// Asks about all kTLS sockets once: those that stand still already meet no hook any more.
    pub(super) fn dump_once(&self) {
        self.order(Order::DumpOnce);
    }

    /// Asks about all kTLS sockets from now on.
    pub(super) fn dump_from_now_on(&self) {
        self.order(Order::Dump);
    }

    /// Looks for the process that has a socket open.
    pub(super) fn find_owner(&self, key: SocketKey, inode: u32) {
        self.order(Order::FindOwner(key, inode));
    }

    /// Goes by other options from now on.
    pub(super) fn go_by(&self, options: &Options) {
        self.order(Order::Look(Look::new(options)));
    }

    /// Tells the task to do something.
    fn order(&self, order: Order) {
        if let Some(asking) = &self.0 {
            // The task lives as long as this does.
            let _told = asking.orders.send(order);
        }
    }

    /// The next answer; waits for ever if there is nobody to ask.
    pub(super) async fn answer(&mut self) -> Answer {
        if let Some(asking) = &mut self.0
            && let Some(answer) = asking.answers.recv().await
        {
            return answer;
        }
        std::future::pending().await
    }
}

/// Another network namespace.
struct Elsewhere {
    /// Asks there.
    socket: SockDiag,
    /// When it was last asked.
    used: Instant,
}

/// A search for the owners of sockets, in a thread of its own: it looks at all open files.
struct Search {
    /// The sockets, by their inode numbers.
    sockets: Vec<(SocketKey, u32)>,
    /// The thread.
    found: JoinHandle<Owners>,
}

impl Search {
    /// Begins to look.
    fn begin(sockets: Vec<(SocketKey, u32)>) -> Self {
        let inodes: HashSet<_> = sockets.iter().map(|&(_, inode)| inode).collect();
        let found = tokio::task::spawn_blocking(move || owners::find(&inodes));
        Self { sockets, found }
    }
}

/// What was found; waits for ever if nothing is looked for.
async fn found(search: &mut Option<Search>) -> Vec<(SocketKey, u32)> {
    let Some(Search { sockets, found }) = search else {
        return std::future::pending().await;
    };
    let owners = found.await.unwrap_or_default();
    let owned = sockets
        .iter()
        .filter_map(|&(key, inode)| Some((key, *owners.of(inode).first()?)));
    owned.collect()
}

/// The state of the task.
struct Worker {
    /// Where dumps look.
    look: Look,
    /// Those that were found.
    places: Vec<Namespace>,
    /// When they were looked for.
    places_found: Option<Instant>,
    /// Asks in the daemon's own network namespace.
    own: SockDiag,
    /// The inode number of that namespace.
    own_netns: Option<u32>,
    /// Asks in other namespaces, by inode number.
    others: HashMap<u32, Elsewhere>,
    /// When those were tried that could not be entered.
    shut: HashMap<u32, Instant>,
    /// Where answers go.
    answers: Sender<Answer>,
    /// Sockets of the last dump that had unsent bytes, by cookie.
    seen: HashSet<u64>,
}

impl Worker {
    /// Works until nobody asks any more.
    async fn work(
        mut self,
        mut asked: Receiver<Poll>,
        mut ordered: UnboundedReceiver<Order>,
        mut dump: bool,
    ) {
        let mut ticker = self.ticker();
        let mut let_go = interval(NAMESPACE_KEPT);
        let_go.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ownerless = Vec::new();
        let mut search = None;
        loop {
            if search.is_none() && !ownerless.is_empty() {
                search = Some(Search::begin(std::mem::take(&mut ownerless)));
            }
            tokio::select! {
                poll = asked.recv() => {
                    let Some(poll) = poll else {
                        return;
                    };
                    let answer = self.ask(&poll).await;
                    if self.answers.send(answer).await.is_err() {
                        return;
                    }
                }
                Some(order) = ordered.recv() => match order {
                    Order::DumpOnce => {
                        if !self.answer_dump().await {
                            return;
                        }
                    }
                    Order::Dump => dump = true,
                    Order::FindOwner(key, inode) => ownerless.push((key, inode)),
                    Order::Look(look) => {
                        self.look = look;
                        self.places_found = None;
                        ticker = self.ticker();
                    }
                },
                owners = found(&mut search) => {
                    search = None;
                    if self.answers.send(Answer::Owners(owners)).await.is_err() {
                        return;
                    }
                }
                _ = let_go.tick(), if !self.others.is_empty() => {
                    self.others.retain(|_, elsewhere| elsewhere.used.elapsed() < NAMESPACE_KEPT);
                }
                _ = ticker.tick(), if dump => {
                    if !self.answer_dump().await {
                        return;
                    }
                }
            }
        }
    }

    /// Ticks when it is time for a dump.
    fn ticker(&self) -> Interval {
        let mut ticker = interval(self.look.period);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticker
    }

    /// Dumps and answers; `false` if nobody listens any more.
    async fn answer_dump(&mut self) -> bool {
        for answer in self.dump().await {
            if self.answers.send(answer).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Asks about one socket.
    async fn ask(&mut self, poll: &Poll) -> Answer {
        let id = SocketId {
            src: poll.src,
            dst: poll.dst,
            interface: poll.interface,
            cookie: poll.cookie,
        };
        let asked_ns = clock::monotonic_ns();
        let Some(socket) = self.socket_for(poll) else {
            return Answer::NotAsked;
        };
        match socket.query(&id).await {
            Ok(sample) => Answer::Sampled {
                key: poll.key,
                asked_ns,
                at_ns: clock::monotonic_ns(),
                sample: sample.as_ref().map(sample_of).map(Box::new),
            },
            Err(error) => {
                // It may be the namespace that is gone: open it anew next time.
                if let Some(netns) = poll.netns {
                    self.others.remove(&netns);
                }
                Answer::Failed(error.to_string())
            }
        }
    }

    /// The netlink socket for a question: one in the network namespace of the socket asked about.
    fn socket_for(&mut self, poll: &Poll) -> Option<&mut SockDiag> {
        let elsewhere = |netns: &u32| self.own_netns.is_some_and(|own| own != *netns);
        let Some(netns) = poll.netns.filter(elsewhere) else {
            return Some(&mut self.own);
        };
        self.elsewhere(netns, |worker| worker.way_into(netns, poll.pid))
    }

    /// A path that leads into a network namespace: by a process, unless that is elsewhere (one of its threads may have gone there, it
    /// may have been handed the socket, or its number may be another's by now), or by what is found.
    fn way_into(&mut self, netns: u32, pid: Option<u32>) -> Option<PathBuf> {
        let leads = |path: &PathBuf| netns::inode(path).ok() == Some(netns);
        let by_process = pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        if let Some(path) = by_process.filter(leads) {
            return Some(path);
        }
        self.find_places();
        let place = self
            .places
            .iter()
            .find(|place| place.inode == Some(netns))?;
        match &place.entry {
            Entry::Path(path) => Some(path.clone()).filter(leads),
            Entry::Own => None,
        }
    }

    /// The netlink socket in another network namespace; `way` leads into it, if it is not open.
    fn elsewhere(
        &mut self,
        netns: u32,
        way: impl FnOnce(&mut Self) -> Option<PathBuf>,
    ) -> Option<&mut SockDiag> {
        if !self.others.contains_key(&netns) {
            self.enter(netns, way)?;
        }
        let elsewhere = self.others.get_mut(&netns)?;
        elsewhere.used = Instant::now();
        Some(&mut elsewhere.socket)
    }

    /// Opens a netlink socket in another network namespace, unless that failed lately: it takes a thread.
    fn enter(&mut self, netns: u32, way: impl FnOnce(&mut Self) -> Option<PathBuf>) -> Option<()> {
        let tried = self.shut.get(&netns).copied();
        if tried.is_some_and(|tried| tried.elapsed() < NAMESPACE_KEPT) {
            return None;
        }
        let opened = SockDiag::open_in(&way(self)?);
        let now = Instant::now();
        match opened {
            Ok(socket) => {
                self.shut.remove(&netns);
                make_room(&mut self.others);
                self.others.insert(netns, Elsewhere { socket, used: now });
                Some(())
            }
            Err(error) => {
                if tried.is_none() {
                    tracing::warn!("{error}; verdicts there stay consistent");
                }
                make_room(&mut self.shut);
                self.shut.insert(netns, now);
                None
            }
        }
    }

    /// Looks for the network namespaces to dump, if that was not done lately.
    fn find_places(&mut self) {
        let lately = |found: Instant| found.elapsed() < NAMESPACE_KEPT;
        if self.places_found.is_some_and(lately) {
            return;
        }
        match namespaces::find(&self.look.which) {
            Ok(found) => self.places = found.namespaces,
            Err(error) => tracing::warn!("the network namespaces can't be listed: {error}"),
        }
        self.places.truncate(NAMESPACES);
        self.places_found = Some(Instant::now());
    }

    /// Asks about all kTLS sockets: what is told of are those whose bytes wait, or waited the last time.
    async fn dump(&mut self) -> Vec<Answer> {
        self.find_places();
        let Look { port, pid, .. } = self.look;
        let owned = (pid != 0).then(|| owners::sockets_of(pid));
        let before = std::mem::take(&mut self.seen);
        let waits = |sample: &SocketSample| sample.tcp.notsent_bytes.is_some_and(|bytes| bytes > 0);
        let takes = |sample: &SocketSample| {
            let owned = owned
                .as_ref()
                .is_none_or(|inodes| sample.inode.is_some_and(|inode| inodes.contains(&inode)));
            let here = owned && (port == 0 || sample.has_port(port));
            // One that is known is followed to its end, also if another port is asked for by now.
            sample.is_ktls() && (before.contains(&sample.cookie) || (here && waits(sample)))
        };
        let mut gone = before.clone();
        let mut answers = Vec::new();
        let mut complete = true;
        for place in self.places.clone() {
            let wanted = Wanted {
                takes: &takes,
                at_most: SOCKETS.saturating_sub(self.seen.len()),
                ..Wanted::ktls()
            };
            let asked_ns = clock::monotonic_ns();
            let dump = match self.dump_of(&place, wanted).await {
                None => {
                    complete = false;
                    continue;
                }
                Some(Ok(dump)) => dump,
                Some(Err(error)) => {
                    answers.push(Answer::Failed(error.to_string()));
                    complete = false;
                    continue;
                }
            };
            let at_ns = clock::monotonic_ns();
            let mut incomplete = |why: String| {
                answers.push(Answer::Failed(why));
                complete = false;
            };
            if dump.interrupted {
                incomplete("the table of sockets changed during the dump".to_owned());
            }
            if dump.left_out > 0 {
                incomplete(format!(
                    "{} sockets too many whose bytes wait",
                    dump.left_out
                ));
            }
            for sample in &dump.samples {
                if waits(sample) {
                    self.seen.insert(sample.cookie);
                }
                gone.remove(&sample.cookie);
                let sample = Box::new(Sample {
                    netns: place.inode,
                    ..sample_of(sample)
                });
                answers.push(Answer::Sampled {
                    key: SocketKey::of_cookie(sample.cookie),
                    asked_ns,
                    at_ns,
                    sample: Some(sample),
                });
            }
        }
        if complete {
            let now_ns = clock::monotonic_ns();
            answers.extend(gone.into_iter().map(|cookie| Answer::Sampled {
                key: SocketKey::of_cookie(cookie),
                asked_ns: now_ns,
                at_ns: now_ns,
                sample: None,
            }));
        }
        answers
    }

    /// Asks in one network namespace; `None` where that is not possible.
    async fn dump_of(
        &mut self,
        place: &Namespace,
        wanted: Wanted<'_>,
    ) -> Option<Result<Dump, sockdiag::Error>> {
        let socket = match &place.entry {
            Entry::Path(path) if place.inode != self.own_netns => {
                self.elsewhere(place.inode?, |_| Some(path.clone()))?
            }
            Entry::Path(_) | Entry::Own => &mut self.own,
        };
        Some(socket.dump(wanted).await)
    }
}

/// Forgets what is known of network namespaces if there is no room for one more.
fn make_room<T>(namespaces: &mut HashMap<u32, T>) {
    if namespaces.len() >= NAMESPACES {
        namespaces.clear();
    }
}

/// What matters of an answer.
pub(crate) fn sample_of(sample: &SocketSample) -> Sample {
    let tls = sample.ulp.as_ref().and_then(|ulp| ulp.tls.as_ref());
    Sample {
        cookie: sample.cookie,
        netns: None,
        inode: sample.inode,
        src: Some(sample.src),
        dst: Some(sample.dst),
        interface: sample.interface,
        established: matches!(sample.state, TcpState::Established | TcpState::CloseWait),
        notsent: sample.tcp.notsent_bytes,
        packets_out: sample.tcp.unacked,
        snd_wnd: sample.tcp.snd_wnd,
        mss: sample.tcp.snd_mss,
        unacked_bytes: sample.tcp.bytes_in_flight(),
        snd_cwnd: sample.tcp.snd_cwnd,
        retransmits: sample.tcp.retransmits.map(u32::from),
        lost: sample.tcp.lost,
        retrans: sample.tcp.retrans,
        bytes_sent: sample.tcp.bytes_sent_once().or(sample.tcp.bytes_sent),
        wmem_queued: sample.mem.as_ref().and_then(|mem| mem.wmem_queued),
        sndbuf: sample.mem.as_ref().and_then(|mem| mem.sndbuf),
        timer: sample.timer.map(timer_of),
        tls: Tls {
            version: tls.and_then(|tls| Some(tls.version?.to_string())),
            cipher: tls.and_then(|tls| Some(tls.cipher?.to_string())),
            tx: tls.and_then(|tls| Some(tls.tx?.to_string())),
        },
    }
}

/// A pending timer under the name that events give it.
fn timer_of(timer: sockdiag::Timer) -> Timer {
    let kind = match timer.kind {
        TimerKind::Retransmit => "retransmit".to_owned(),
        TimerKind::Keepalive => "keepalive".to_owned(),
        TimerKind::TimeWait => "time-wait".to_owned(),
        TimerKind::Persist => "persist".to_owned(),
        TimerKind::DelayedAck => "delayed-ack".to_owned(),
        TimerKind::Other(number) => number.to_string(),
    };
    Timer {
        kind,
        expires_ms: timer.expires_ms,
        probes: timer.retransmits.into(),
    }
}
