//! Asks `sock_diag` about suspects, in a task of its own so that a slow answer delays nothing.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::JoinHandle,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use super::{clock, session::Options};
use crate::{
    correlate::Poll,
    kernel::{
        namespaces::{self, Entry, Namespace, Which},
        netns,
    },
    observe::{Sample, SocketKey, Timer, Tls},
    sockdiag::{self, Dump, Filter, SockDiag, SocketId, SocketSample, States, TcpState, TimerKind},
};

/// Questions that may wait; more are dropped, the correlator asks again.
const QUESTIONS: usize = 4096;
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
    /// Nobody to ask: the socket is in a network namespace that can't be entered.
    NotAsked,
}

/// What the task is told.
enum Request {
    /// Ask about one socket.
    Ask(Poll),
    /// Ask about all kTLS sockets once.
    DumpOnce,
    /// Ask about all kTLS sockets from now on, every poll interval.
    Dump,
    /// Look there from now on.
    Look(Look),
}

/// Where dumps look, and how often.
#[derive(Clone, Debug)]
struct Look {
    /// In which network namespaces.
    which: Which,
    /// Only at sockets with this port; 0: any.
    port: u16,
    /// How often.
    period: Duration,
}

impl Look {
    /// As the options say.
    fn new(options: &Options) -> Self {
        Self {
            which: options.netns.clone(),
            port: u16::try_from(options.filter.port).unwrap_or(0),
            period: Duration::from_nanos(options.correlate.poll_interval_ns),
        }
    }
}

/// The asking task.
pub(super) struct Poller {
    /// Requests to it.
    requests: Option<Sender<Request>>,
    /// Answers from it.
    answers: Option<Receiver<Answer>>,
    /// The task; it ends when the requests do.
    task: Option<JoinHandle<()>>,
}

impl Drop for Poller {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Poller {
    /// Starts the task. With `dump` it asks about all kTLS sockets at the poll interval.
    pub(super) fn start(options: &Options, dump: bool) -> Result<Self, sockdiag::Error> {
        let own = SockDiag::open()?;
        let (requests, from_session) = mpsc::channel(QUESTIONS);
        let (to_session, answers) = mpsc::channel(QUESTIONS);
        let worker = Worker {
            own_netns: netns::own(),
            look: Look::new(options),
            places: Vec::new(),
            places_found: None,
            own,
            others: HashMap::new(),
            answers: to_session,
            seen: HashSet::new(),
        };
        let task = tokio::spawn(worker.work(from_session, dump));
        Ok(Self {
            requests: Some(requests),
            answers: Some(answers),
            task: Some(task),
        })
    }

    /// Nobody to ask.
    pub(super) fn none() -> Self {
        Self {
            requests: None,
            answers: None,
            task: None,
        }
    }

    /// Whether anybody is asked.
    pub(super) fn asks(&self) -> bool {
        self.requests.is_some()
    }

    /// Asks about a socket. If too many questions wait, this one is dropped: the correlator asks
    /// again at the poll interval.
    pub(super) fn ask(&self, poll: Poll) {
        self.request(Request::Ask(poll));
    }

    /// Asks about all kTLS sockets once: those that stand still already meet no hook any more.
    pub(super) fn dump_once(&self) {
        self.request(Request::DumpOnce);
    }

    /// Asks about all kTLS sockets from now on.
    pub(super) fn dump_from_now_on(&self) {
        self.request(Request::Dump);
    }

    /// Goes by other options from now on.
    pub(super) fn go_by(&self, options: &Options) {
        self.request(Request::Look(Look::new(options)));
    }

    /// Hands a request to the task.
    fn request(&self, request: Request) {
        if let Some(requests) = &self.requests
            && requests.try_send(request).is_err()
        {
            tracing::debug!("too many questions for sock_diag wait");
        }
    }

    /// The next answer; waits for ever if there is nobody to ask.
    pub(super) async fn answer(&mut self) -> Answer {
        if let Some(answers) = &mut self.answers
            && let Some(answer) = answers.recv().await
        {
            return answer;
        }
        std::future::pending().await
    }
}

/// Another network namespace.
struct Elsewhere {
    /// Asks there; `None` where that is not possible.
    socket: Option<SockDiag>,
    /// When it was last asked.
    used: Instant,
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
    /// Where answers go.
    answers: Sender<Answer>,
    /// Sockets of the last dump that had unsent bytes, by cookie.
    seen: HashSet<u64>,
}

impl Worker {
    /// Works until nobody asks any more.
    async fn work(mut self, mut requests: Receiver<Request>, mut dump: bool) {
        let mut ticker = self.ticker();
        let mut let_go = interval(NAMESPACE_KEPT);
        let_go.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::Ask(poll)) => {
                        let answer = self.ask(&poll).await;
                        if self.answers.send(answer).await.is_err() {
                            return;
                        }
                    }
                    Some(Request::DumpOnce) => {
                        if !self.answer_dump().await {
                            return;
                        }
                    }
                    Some(Request::Dump) => dump = true,
                    Some(Request::Look(look)) => {
                        self.look = look;
                        self.places_found = None;
                        ticker = self.ticker();
                    }
                    None => return,
                },
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
        let known = self.places.iter().find(|place| place.inode == Some(netns));
        let path = match (poll.pid, known.map(|place| &place.entry)) {
            (Some(pid), _) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            (None, Some(Entry::Path(path))) => path.clone(),
            (None, _) => return None,
        };
        self.elsewhere(netns, &path)
    }

    /// The netlink socket in another network namespace.
    fn elsewhere(&mut self, netns: u32, path: &Path) -> Option<&mut SockDiag> {
        if self.others.len() >= NAMESPACES && !self.others.contains_key(&netns) {
            self.others.clear();
        }
        let elsewhere = self.others.entry(netns).or_insert_with(|| {
            let socket = SockDiag::open_in(path)
                .inspect_err(|error| tracing::warn!("{error}; verdicts there stay consistent"))
                .ok();
            let used = Instant::now();
            Elsewhere { socket, used }
        });
        elsewhere.used = Instant::now();
        elsewhere.socket.as_mut()
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

    /// Asks about all kTLS sockets.
    async fn dump(&mut self) -> Vec<Answer> {
        self.find_places();
        let mut answers = Vec::new();
        let mut seen = HashSet::new();
        let mut complete = true;
        for place in self.places.clone() {
            let asked_ns = clock::monotonic_ns();
            let dump = match self.dump_of(&place).await {
                None => continue,
                Some(Ok(dump)) => dump,
                Some(Err(error)) => {
                    answers.push(Answer::Failed(error.to_string()));
                    complete = false;
                    continue;
                }
            };
            let at_ns = clock::monotonic_ns();
            if dump.interrupted {
                let why = "the table of sockets changed during the dump".to_owned();
                answers.push(Answer::Failed(why));
                complete = false;
            }
            for sample in dump.samples.iter().filter(|sample| self.wanted(sample)) {
                let key = SocketKey::of_cookie(sample.cookie);
                seen.insert(sample.cookie);
                let sample = Some(Box::new(Sample {
                    netns: place.inode,
                    ..sample_of(sample)
                }));
                answers.push(Answer::Sampled {
                    key,
                    asked_ns,
                    at_ns,
                    sample,
                });
            }
        }
        if complete {
            let now_ns = clock::monotonic_ns();
            // Sockets that are not there any more.
            answers.extend(self.seen.difference(&seen).map(|&cookie| Answer::Sampled {
                key: SocketKey::of_cookie(cookie),
                asked_ns: now_ns,
                at_ns: now_ns,
                sample: None,
            }));
        }
        self.seen = seen;
        answers
    }

    /// Asks in one network namespace; `None` where that is not possible.
    async fn dump_of(&mut self, place: &Namespace) -> Option<Result<Dump, sockdiag::Error>> {
        let socket = match &place.entry {
            Entry::Path(path) if place.inode != self.own_netns => {
                self.elsewhere(place.inode?, path)?
            }
            Entry::Path(_) | Entry::Own => &mut self.own,
        };
        Some(socket.dump(States::SENDING, Filter::KtlsOnly).await)
    }

    /// Whether a socket of a dump is told of: bytes wait, or waited the last time.
    fn wanted(&self, sample: &SocketSample) -> bool {
        let port = self.look.port;
        let here = port == 0 || sample.src.port() == port || sample.dst.port() == port;
        let waits = sample.tcp.notsent_bytes.is_some_and(|bytes| bytes > 0);
        here && (waits || self.seen.contains(&sample.cookie))
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
        bytes_sent: sample.tcp.bytes_sent,
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
