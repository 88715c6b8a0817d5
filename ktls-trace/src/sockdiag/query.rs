//! The netlink socket: one request at a time, one reader, every wait bounded.

use std::{fs::File, path::Path, thread, time::Duration};

use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr as NetlinkAddr, TokioSocket,
    protocols::NETLINK_SOCK_DIAG,
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};
use tokio::{runtime::Handle, time::timeout};

use super::{
    Error, Family, SocketId, SocketSample, States,
    message::{Body, Reply, dump_request, exact_request, replies},
    sample::{same_end, unmapped},
};

/// Longest time an answer is waited for; for a dump, each of its parts.
const LIMIT: Duration = Duration::from_secs(1);

/// How often a dump is made again because sockets came or went under it.
const DUMP_ATTEMPTS: u32 = 3;

/// `SO_RCVBUF` after answers were lost, in bytes before the kernel doubles it. `net.core.rmem_max` may make it less.
const LARGE_RCVBUF: libc::c_int = 4 << 20;

/// Room for one datagram, in bytes: the kernel fills at most 32 KiB in a dump (`netlink_dump`).
const DATAGRAM_BYTES: usize = 64 << 10;

/// Asks the kernel about the TCP sockets of one network namespace.
pub struct SockDiag {
    /// Connected to the kernel, so nobody else can answer.
    socket: TokioSocket,
    /// Where each datagram is received.
    buffer: Vec<u8>,
    /// Sequence number of the last request. An answer with another one belongs to a request that was given up.
    sequence: u32,
    /// Longest time an answer is waited for.
    limit: Duration,
    /// The kernel has answered about TCP sockets, so its ENOENT means the socket and not the module.
    has_tcp_diag: bool,
}

/// Which sockets a dump is to return.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Those in one of these states: the kernel leaves the others out.
    pub states: States,
    /// Of those, what this takes: the kernel can't select them, so the others are dropped as they come.
    pub takes: &'a (dyn Fn(&SocketSample) -> bool + Sync),
    /// So many at most.
    pub at_most: usize,
}

impl std::fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted")
            .field("states", &self.states)
            .field("at_most", &self.at_most)
            .finish_non_exhaustive()
    }
}

impl Wanted<'static> {
    /// All in some states.
    pub const fn all(states: States) -> Self {
        Self {
            states,
            takes: &|_| true,
            at_most: usize::MAX,
        }
    }

    /// All that may be sending with kernel TLS.
    pub const fn ktls() -> Self {
        Self {
            takes: &SocketSample::is_ktls,
            ..Self::all(States::SENDING)
        }
    }
}

/// The sockets of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// IPv4 sockets, then IPv6 ones.
    pub samples: Vec<SocketSample>,
    /// Sockets came or went while the kernel went through them, each time it was asked: some may be missing, or there twice.
    pub interrupted: bool,
    /// Sockets that were wanted and are more than were to be returned.
    pub left_out: usize,
}

impl Dump {
    /// Nothing yet.
    fn empty() -> Self {
        Self {
            samples: Vec::new(),
            interrupted: false,
            left_out: 0,
        }
    }
}

impl std::fmt::Debug for SockDiag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SockDiag")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl SockDiag {
    /// Opens a socket in the calling thread's network namespace. Must be called within a tokio runtime that
    /// has I/O and time.
    pub fn open() -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_no_runtime| Error::NoRuntime)?;
        Self::open_with(&runtime)
    }

    /// Opens a socket in the network namespace of a file such as `/proc/PID/ns/net`. A helper thread enters
    /// the namespace; the calling thread stays where it is.
    pub fn open_in(netns: &Path) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_no_runtime| Error::NoRuntime)?;
        let failed = |source| Error::Namespace {
            path: netns.to_path_buf(),
            source,
        };
        let file = File::open(netns).map_err(failed)?;
        let opened = thread::scope(|scope| {
            thread::Builder::new()
                .name("enter-netns".to_owned())
                .spawn_scoped(scope, || {
                    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
                    Self::open_with(&runtime)
                })
                .map(thread::ScopedJoinHandle::join)
        });
        match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(_panicked)) => Err(failed(std::io::Error::other(
                "the thread that entered it panicked",
            ))),
            Err(source) => Err(failed(source)),
        }
    }

    fn open_with(runtime: &Handle) -> Result<Self, Error> {
        let open = |source| Error::Open { source };
        let _entered = runtime.enter();
        let mut socket = TokioSocket::new(NETLINK_SOCK_DIAG).map_err(open)?;
        socket.socket_mut().bind_auto().map_err(open)?;
        socket
            .socket_ref()
            .connect(&NetlinkAddr::new(0, 0))
            .map_err(open)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM_BYTES),
            sequence: 0,
            limit: LIMIT,
            has_tcp_diag: false,
        })
    }

    /// Sets the longest time an answer is waited for; 1 s unless set.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Asks about exactly one socket. `None` if it is gone, or was replaced by another with the same ends.
    ///
    /// A socket bound to an interface (`SO_BINDTODEVICE`, a VRF, a link-local address) is found by it only.
    pub async fn query(&mut self, socket: &SocketId) -> Result<Option<SocketSample>, Error> {
        let what = format!("ask about {socket}");
        let sequence = self.next_sequence();
        let request = exact_request(sequence, socket)?;
        let mut answer = self.ask(&what, &request, sequence, Until::One).await;
        if lost(&answer) {
            self.make_room().await;
            let sequence = self.next_sequence();
            let request = exact_request(sequence, socket)?;
            answer = self.ask(&what, &request, sequence, Until::One).await;
        }
        match answer {
            Ok(answer) => {
                self.has_tcp_diag = true;
                // Without a cookie, the look-up falls back to a listener of the local port.
                let wanted = |sample: &SocketSample| {
                    same_end(sample.src, unmapped(socket.src))
                        && same_end(sample.dst, unmapped(socket.dst))
                };
                Ok(answer.samples.into_iter().find(wanted))
            }
            // A wrong cookie is ESTALE, and ENOENT since 4.14 (`inet_diag_find_one_icsk`).
            Err(Error::Refused {
                errno: Errno::ESTALE,
                ..
            }) => Ok(None),
            Err(Error::Refused {
                errno: Errno::ENOENT,
                ..
            }) => {
                self.require_tcp_diag(&what).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks about all sockets and returns those that are wanted. It takes the lock of each in those states: on a busy host,
    /// rather ask about the few sockets that matter.
    pub async fn dump(&mut self, wanted: Wanted<'_>) -> Result<Dump, Error> {
        let mut dump = Dump::empty();
        for family in [Family::Inet, Family::Inet6] {
            let at_most = wanted.at_most - dump.samples.len();
            let part = self
                .dump_family(family, Wanted { at_most, ..wanted })
                .await?;
            dump.interrupted |= part.interrupted;
            dump.left_out += part.left_out;
            dump.samples.extend(part.samples);
        }
        Ok(dump)
    }

    /// Dumps one family: again if it was interrupted, again with more room if answers were lost, and again once
    /// the rest of a dump that was given up has been read.
    async fn dump_family(&mut self, family: Family, wanted: Wanted<'_>) -> Result<Dump, Error> {
        let what = match family {
            Family::Inet => "list the IPv4 sockets",
            Family::Inet6 => "list the IPv6 sockets",
        };
        let mut was_lost = false;
        let mut was_busy = false;
        let mut attempt = 1;
        loop {
            let sequence = self.next_sequence();
            let request = dump_request(sequence, family, wanted.states);
            match self
                .ask(what, &request, sequence, Until::Done(wanted))
                .await
            {
                Ok(dump) if dump.interrupted && attempt < DUMP_ATTEMPTS => attempt += 1,
                Ok(dump) => {
                    self.has_tcp_diag = true;
                    return Ok(dump);
                }
                Err(Error::Lost { .. }) if !was_lost => {
                    was_lost = true;
                    self.make_room().await;
                }
                // The kernel still has a dump for us that was given up (`__netlink_dump_start`).
                Err(Error::Refused {
                    errno: Errno::EBUSY,
                    ..
                }) if !was_busy => {
                    was_busy = true;
                    self.read_away().await;
                }
                Err(Error::Refused {
                    errno: Errno::ENOENT,
                    ..
                }) => {
                    return Err(Error::NoTcpDiag {
                        what: what.to_owned(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Finds out whether an ENOENT meant that the kernel can't be asked at all, with a dump of nothing.
    async fn require_tcp_diag(&mut self, what: &str) -> Result<(), Error> {
        if self.has_tcp_diag {
            return Ok(());
        }
        let nothing = Wanted::all(States(0));
        match self.dump_family(Family::Inet, nothing).await {
            Err(Error::NoTcpDiag { .. }) => Err(Error::NoTcpDiag {
                what: what.to_owned(),
            }),
            answer => answer.map(|_nothing| ()),
        }
    }

    /// Sends a request and gathers its answer.
    async fn ask(
        &mut self,
        what: &str,
        request: &[u8],
        sequence: u32,
        until: Until<'_>,
    ) -> Result<Dump, Error> {
        let io = |source| Error::Io {
            what: what.to_owned(),
            source,
        };
        let late = |_elapsed| Error::Timeout {
            what: what.to_owned(),
            limit: self.limit,
        };
        timeout(self.limit, self.socket.send(request))
            .await
            .map_err(late)?
            .map_err(io)?;

        let mut answer = Dump::empty();
        loop {
            self.buffer.clear();
            match timeout(self.limit, self.socket.recv(&mut self.buffer))
                .await
                .map_err(late)?
            {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Err(Error::Lost {
                        what: what.to_owned(),
                    });
                }
                Err(source) => return Err(io(source)),
            }
            for reply in replies(&self.buffer) {
                let Reply {
                    sequence: of,
                    interrupted,
                    body,
                } = reply.map_err(|why| Error::Garbled {
                    what: what.to_owned(),
                    why,
                })?;
                if of != sequence {
                    continue;
                }
                answer.interrupted |= interrupted;
                match body {
                    // What is not wanted is dropped here, so that memory goes by the sockets wanted.
                    Body::Sample(sample) => match until {
                        Until::One => {
                            answer.samples.push(*sample);
                            return Ok(answer);
                        }
                        Until::Done(wanted) if !(wanted.takes)(&sample) => {}
                        Until::Done(wanted) if answer.samples.len() >= wanted.at_most => {
                            answer.left_out += 1;
                        }
                        Until::Done(_) => answer.samples.push(*sample),
                    },
                    Body::Done => return Ok(answer),
                    Body::Refused(errno) => {
                        return Err(Error::Refused {
                            what: what.to_owned(),
                            errno,
                        });
                    }
                    Body::Overrun => {
                        return Err(Error::Lost {
                            what: what.to_owned(),
                        });
                    }
                    Body::Nothing => {}
                }
            }
        }
    }

    /// Reads what is left of answers that were given up: of a dump, before which the kernel starts no other, or of
    /// others, before which it gives no more to a socket that was full (`NETLINK_S_CONGESTED`).
    async fn read_away(&mut self) {
        loop {
            self.buffer.clear();
            // What there is comes at once: the kernel has made it by then, or makes it as it is read.
            match timeout(self.limit / 100, self.socket.recv(&mut self.buffer)).await {
                Ok(Ok(())) => {}
                // Said before what is there is given.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                // Nothing more comes. What is wrong with the socket shows when it is asked again.
                Err(_) | Ok(Err(_)) => return,
            }
        }
    }

    /// Has room for what is asked next.
    async fn make_room(&mut self) {
        // If it stays as it is, the second try fails as the first one did, and says so.
        self.socket.socket_ref().set_rx_buf_sz(LARGE_RCVBUF).ok();
        self.read_away().await;
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// What ends an answer.
#[derive(Clone, Copy)]
enum Until<'a> {
    /// The first socket.
    One,
    /// The message that says so; until then, sockets that are wanted.
    Done(Wanted<'a>),
}

fn lost(answer: &Result<Dump, Error>) -> bool {
    // An exact answer is sent without waiting (`netlink_unicast` with `MSG_DONTWAIT`), so a full buffer is EAGAIN.
    matches!(
        answer,
        Err(Error::Lost { .. }
            | Error::Refused {
                errno: Errno::EAGAIN,
                ..
            })
    )
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Asks and does not read the answers, until there is no room for one.
    async fn overflow(diag: &mut SockDiag, socket: &SocketId) {
        // The kernel makes it the least that there is.
        diag.socket.socket_ref().set_rx_buf_sz(1).unwrap();
        for _ in 0..64 {
            let request = exact_request(diag.next_sequence(), socket).unwrap();
            diag.socket.send(&request).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_lost_to_a_full_buffer_is_asked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let id = SocketId {
            src: receiver.local_addr().unwrap(),
            dst: receiver.peer_addr().unwrap(),
            interface: None,
            cookie: None,
        };
        let mut diag = SockDiag::open()
            .unwrap()
            .with_limit(Duration::from_millis(500));

        // The kernel says so (ENOBUFS) before it gives what there is …
        overflow(&mut diag, &id).await;
        let sequence = diag.next_sequence();
        let request = exact_request(sequence, &id).unwrap();
        let answer = diag.ask("ask", &request, sequence, Until::One).await;
        assert!(matches!(answer, Err(Error::Lost { .. })), "{answer:?}");
        // It says so once, until what there is was read.
        diag.make_room().await;

        // … which does not keep a question from being answered, nor a dump.
        overflow(&mut diag, &id).await;
        let sample = diag.query(&id).await.unwrap().unwrap();
        assert_eq!((sample.src, sample.dst), (id.src, id.dst));
        overflow(&mut diag, &id).await;
        let dump = diag.dump(Wanted::all(States::ALL)).await.unwrap();
        assert!(dump.samples.iter().any(|sample| sample.src == id.src));
    }
}
