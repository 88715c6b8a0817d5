//! The receiving ends: one thread that reads everything that comes and counts it.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read},
    net::TcpStream,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

/// Most bytes taken by one read.
const READ_BYTES: usize = 256 << 10;

/// Bytes that one receiver has read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    /// Bytes so far, record framing included.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// All bytes of several receivers.
pub(crate) fn sum(counts: &[Count]) -> u64 {
    counts.iter().map(Count::bytes).sum()
}

/// Reads sockets until they end; its thread lives as long as the process.
#[derive(Clone)]
pub(crate) struct Drain {
    epoll: Arc<Epoll>,
    sockets: Arc<Mutex<HashMap<u64, (TcpStream, Count)>>>,
}

impl Drain {
    /// Starts the thread. From then on the process must not fork.
    pub(crate) fn start() -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll")?;
        let drain = Self {
            epoll: Arc::new(epoll),
            sockets: Arc::default(),
        };
        let working = drain.clone();
        thread::Builder::new()
            .name("drain".to_owned())
            .spawn(move || working.read_all())
            .context("starting a thread")?;
        Ok(drain)
    }

    /// Reads this one from now on.
    pub(crate) fn add(&self, receiver: TcpStream) -> Result<Count> {
        receiver
            .set_nonblocking(true)
            .context("making a receiver non-blocking")?;
        let count = Count::default();
        let key = u64::from(receiver.as_raw_fd().unsigned_abs());
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoll
            .add(&receiver, EpollEvent::new(EpollFlags::EPOLLIN, key))
            .context("watching a receiver")?;
        sockets.insert(key, (receiver, count.clone()));
        Ok(count)
    }

    fn read_all(&self) {
        let mut buffer = vec![0; READ_BYTES];
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    eprintln!("odd: waiting for bytes to read: {errno}");
                    return;
                }
            };
            let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            for event in &events[..ready] {
                let Some((socket, count)) = sockets.get_mut(&event.data()) else {
                    continue;
                };
                match socket.read(&mut buffer) {
                    Ok(bytes) if bytes > 0 => {
                        count.0.fetch_add(bytes as u64, Ordering::AcqRel);
                    }
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::WouldBlock | ErrorKind::Interrupted
                        ) => {}
                    // The end, or a reset: closing it takes it off the epoll.
                    Ok(_) | Err(_) => {
                        sockets.remove(&event.data());
                    }
                }
            }
        }
    }
}
