//! The sending end: hands the file to the socket over and over, blocking or the way an event-driven
//! server does.

use std::{
    fs::File,
    io,
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, SpliceFFlags, splice},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        sendfile::sendfile64,
        signal::{SigSet, Signal},
        socket::{MsgFlags, send},
    },
    unistd::pipe2,
};

use super::{
    Config, Error,
    config::{Mode, RECORD_PAYLOAD},
};

/// Longest time, in milliseconds, until a sender that waits for `EPOLLOUT` looks whether the run has ended.
const LOOK_UP_MS: u16 = 50;

/// Bytes of one piece of [`Mode::SpliceUnflagged`]: a quarter of a record.
const PIECE_BYTES: u64 = RECORD_PAYLOAD / 4;

/// What a sender tells when it is done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Sends refused with `EAGAIN`.
    pub(super) eagain: u64,
    /// Longest single wait.
    pub(super) longest_wait: Duration,
    /// Whether all bytes asked for were accepted.
    pub(super) finished: bool,
    /// What ended it early.
    pub(super) error: Option<String>,
}

/// How one call hands bytes over, with what that needs.
enum Via {
    /// `sendfile(2)`.
    Sendfile,
    /// `splice(2)` twice.
    Splice {
        /// The pipe's end towards the socket.
        from_pipe: OwnedFd,
        /// The pipe's end towards the file.
        to_pipe: OwnedFd,
        /// Bytes in the pipe.
        filled: usize,
        /// "More" is said within a record only ([`Mode::SpliceUnflagged`]).
        unflagged: bool,
    },
    /// `send(2)` of the file's bytes, which is `write(2)` without flags.
    Write {
        /// The file's bytes.
        bytes: Vec<u8>,
        /// `MSG_MORE`, or nothing.
        flags: MsgFlags,
    },
}

/// One sender, ready to start.
pub(super) struct Sender {
    socket: TcpStream,
    file: File,
    file_size: u64,
    chunk: u64,
    total: Option<u64>,
    pause: Duration,
    via: Via,
    /// Waits for `EPOLLOUT`; only when non-blocking.
    epoll: Option<Epoll>,
}

impl Sender {
    /// Prepares a sender; whatever can fail for want of resources fails here.
    pub(super) fn new(socket: TcpStream, file: &File, config: &Config) -> Result<Self, Error> {
        let resource = |what| move |source: io::Error| Error::Resource { what, source };
        let file = file.try_clone().map_err(resource("share the file"))?;
        let via = match config.mode {
            Mode::Sendfile | Mode::Plain => Via::Sendfile,
            Mode::Splice | Mode::SpliceUnflagged => {
                let (from_pipe, to_pipe) =
                    pipe2(OFlag::O_CLOEXEC).map_err(|e| resource("make a pipe")(e.into()))?;
                Via::Splice {
                    from_pipe,
                    to_pipe,
                    filled: 0,
                    unflagged: config.mode == Mode::SpliceUnflagged,
                }
            }
            Mode::Write => {
                let mut bytes = vec![0; usize::try_from(config.file_size).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut bytes, 0)
                    .map_err(resource("read the file"))?;
                let flags = if config.msg_more {
                    MsgFlags::from_bits_retain(libc::MSG_MORE)
                } else {
                    MsgFlags::empty()
                };
                Via::Write { bytes, flags }
            }
        };
        let epoll = if config.nonblocking {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
                .map_err(|e| resource("make an epoll")(e.into()))?;
            // Edge-triggered: a level-triggered EPOLLOUT would spin on a socket whose gate flaps.
            let event = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLET, 0);
            epoll
                .add(&socket, event)
                .map_err(|e| resource("watch the socket")(e.into()))?;
            Some(epoll)
        } else {
            None
        };
        Ok(Self {
            socket,
            file,
            file_size: config.file_size,
            chunk: config.chunk_bytes(),
            total: config.bytes,
            pause: config.pause,
            via,
            epoll,
        })
    }

    /// Sends until all is sent, the run ends or the socket fails, counting in `sent` what calls accept
    /// that return before the run ends, then closes its direction so that the receiver sees the end.
    pub(super) fn run(mut self, sent: &AtomicU64, ending: &AtomicBool) -> Outcome {
        let mut outcome = Outcome::default();
        // The limit ends a blocked send by shutting its socket down: EPIPE is wanted, SIGPIPE is not,
        // whatever the program around us does with it.
        let mut pipe_signal = SigSet::empty();
        pipe_signal.add(Signal::SIGPIPE);
        if let Err(error) = pipe_signal.thread_block() {
            outcome.error = Some(format!("block SIGPIPE: {error}"));
            return outcome;
        }
        if let Err(error) = self.send_all(sent, ending, &mut outcome)
            && !ending.load(Ordering::Acquire)
        {
            outcome.error = Some(format!("{}: {error}", self.call()));
        }
        match self.socket.shutdown(Shutdown::Write) {
            Ok(()) => {}
            // The limit, or the peer, was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => {
                outcome.error.get_or_insert(format!("shutdown: {error}"));
            }
        }
        outcome
    }

    fn send_all(
        &mut self,
        sent: &AtomicU64,
        ending: &AtomicBool,
        outcome: &mut Outcome,
    ) -> nix::Result<()> {
        let mut offset = 0;
        let mut accepted: u64 = 0;
        while !ending.load(Ordering::Acquire) {
            let left = self.total.map_or(u64::MAX, |total| total - accepted);
            if left == 0 {
                outcome.finished = true;
                return Ok(());
            }
            let want = self.chunk.min(self.file_size - offset).min(left);
            let begun = Instant::now();
            match self.send(offset, want) {
                Ok(bytes) => {
                    accepted += bytes as u64;
                    if !ending.load(Ordering::Acquire) {
                        sent.store(accepted, Ordering::Release);
                    }
                    offset = (offset + bytes as u64) % self.file_size;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.epoll.is_some() => {
                    outcome.eagain += 1;
                    self.wait_writable(ending)?;
                }
                Err(error) => return Err(error),
            }
            outcome.longest_wait = outcome.longest_wait.max(begun.elapsed());
            sleep(self.pause, ending);
        }
        Ok(())
    }

    /// One send call of at most `want` bytes of the file from `offset`.
    fn send(&mut self, offset: u64, want: u64) -> nix::Result<usize> {
        let count = usize::try_from(want).unwrap_or(usize::MAX);
        let position = i64::try_from(offset).map_err(|_too_big| Errno::EFBIG)?;
        let bytes = match &mut self.via {
            Via::Sendfile => {
                let mut position = position;
                sendfile64(&self.socket, &self.file, Some(&mut position), count)?
            }
            Via::Splice {
                from_pipe,
                to_pipe,
                filled,
                unflagged,
            } => {
                let count = if *unflagged {
                    let left = PIECE_BYTES - offset % PIECE_BYTES;
                    count.min(usize::try_from(left).unwrap_or(usize::MAX))
                } else {
                    count
                };
                if *filled == 0 {
                    let mut position = position;
                    let move_pages = SpliceFFlags::SPLICE_F_MOVE;
                    *filled = splice(
                        &self.file,
                        Some(&mut position),
                        to_pipe.as_fd(),
                        None,
                        count,
                        move_pages,
                    )?;
                }
                // As sendfile does inside: more is promised until the last bytes of the chunk.
                let promised = if *unflagged {
                    let end = offset + *filled as u64;
                    !end.is_multiple_of(RECORD_PAYLOAD) && end < self.file_size
                } else {
                    *filled < count
                };
                let more = if promised {
                    SpliceFFlags::SPLICE_F_MORE
                } else {
                    SpliceFFlags::empty()
                };
                let flags = SpliceFFlags::SPLICE_F_MOVE | more;
                let bytes = splice(from_pipe.as_fd(), None, &self.socket, None, *filled, flags)?;
                *filled -= bytes;
                bytes
            }
            Via::Write { bytes, flags } => {
                let from = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let to = from.saturating_add(count).min(bytes.len());
                send(self.socket.as_raw_fd(), &bytes[from..to], *flags)?
            }
        };
        // The file is ours and never shrinks, so nothing accepted means something is very wrong.
        if bytes == 0 {
            Err(Errno::ENODATA)
        } else {
            Ok(bytes)
        }
    }

    /// Waits until the socket says it is writable, or the run ends.
    fn wait_writable(&self, ending: &AtomicBool) -> nix::Result<()> {
        let Some(epoll) = &self.epoll else {
            return Ok(());
        };
        let mut events = [EpollEvent::empty()];
        while !ending.load(Ordering::Acquire) {
            match epoll.wait(&mut events, EpollTimeout::from(LOOK_UP_MS)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn call(&self) -> &'static str {
        match self.via {
            Via::Sendfile => "sendfile",
            Via::Splice { .. } => "splice",
            Via::Write { .. } => "write",
        }
    }
}

/// Lets a time pass, unless the run ends before.
fn sleep(time: Duration, ending: &AtomicBool) {
    let until = Instant::now() + time;
    while !ending.load(Ordering::Acquire)
        && let Some(left) = until
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    {
        thread::sleep(left.min(Duration::from_millis(LOOK_UP_MS.into())));
    }
}
