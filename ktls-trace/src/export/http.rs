//! Metrics, health and events over HTTP, on a thread of its own: no client delays the tracing.

mod address;
mod routes;

use std::{
    fs, io,
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::{
    Router,
    serve::{Listener, ListenerExt as _},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
};

use self::routes::{Serving, routes};
pub use self::{address::Address, routes::HealthReport};
use super::{asking::Asking, metrics::Metrics, stream::Stream};
use crate::{correlate::event::Event, kernel::capabilities};

/// Connections at a time to one address; others wait.
const CONNECTIONS: usize = 64;
/// Of which listen to events, over all addresses; others are told to come back.
const LISTENERS: usize = 32;
/// How long a connection may be silent before it has asked for something.
const SILENT: Duration = Duration::from_secs(30);
/// How long a client may leave unread what it is sent, in milliseconds.
const UNREAD_MS: u32 = 30_000;

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct Error {
    address: Address,
    source: io::Error,
}

/// What listens, before there is something to serve.
#[derive(Debug)]
pub struct Listening {
    /// As it was asked for.
    asked: Address,
    /// As it was given.
    address: Address,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listening {
    /// Takes the address.
    ///
    /// # Errors
    ///
    /// If it is taken, or may not be.
    pub fn on(asked: &Address) -> Result<Self, Error> {
        let failed = |source| Error {
            address: asked.clone(),
            source,
        };
        let (address, socket) = match asked {
            Address::Tcp(address) => {
                let socket = std::net::TcpListener::bind(address).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                // Port 0 is any that is free.
                let bound = socket.local_addr().map_err(failed)?;
                (Address::Tcp(bound), Socket::Tcp(socket))
            }
            Address::Unix(path) => {
                remove_stale(path);
                let socket = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                (asked.clone(), Socket::Unix(socket))
            }
        };
        Ok(Self {
            asked: asked.clone(),
            address,
            socket,
        })
    }

    /// Where.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Takes connections until it is dropped.
    async fn run(self, routes: Router) -> io::Result<()> {
        // Each address has its own: who is refused at one can still ask at another.
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        match self.socket {
            Socket::Tcp(socket) => {
                // A client that never reads is given up, as one that is gone would be.
                let give_up = |stream: &mut TcpStream| {
                    if let Err(error) = setsockopt(stream, TcpUserTimeout, &UNREAD_MS) {
                        tracing::debug!("TCP_USER_TIMEOUT: {error}");
                    }
                };
                take(TcpListener::from_std(socket)?.tap_io(give_up), routes, room).await;
            }
            Socket::Unix(socket) => take(UnixListener::from_std(socket)?, routes, room).await,
        }
        Ok(())
    }
}

/// The thread: takes connections where it is told to, until it can't be told anything any more.
async fn listen(mut orders: UnboundedReceiver<Order>, routes: Router) {
    let mut listeners = Vec::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Open(socket) => {
                let (asked, address) = (socket.asked.clone(), socket.address.clone());
                let serve = socket.run(routes.clone());
                let task = tokio::spawn(async move {
                    if let Err(error) = serve.await {
                        tracing::error!("{address}: {error}");
                    }
                });
                listeners.push((asked, task));
            }
            Order::Close(address) => {
                for (asked, task) in listeners.extract_if(.., |(asked, _)| *asked == address) {
                    task.abort();
                    remove_socket(&asked);
                }
            }
        }
    }
    for (asked, _) in listeners {
        remove_socket(&asked);
    }
}

/// Removes the file of a Unix socket.
fn remove_socket(address: &Address) {
    if let Address::Unix(path) = address {
        // It may be gone already.
        let _gone = fs::remove_file(path);
    }
}

/// Takes connections as long as there is room for one more.
async fn take(mut listener: impl Listener, routes: Router, room: Arc<Semaphore>) {
    // It is never closed.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let (stream, _) = listener.accept().await;
        tokio::spawn(connection(stream, routes.clone(), place));
    }
}

/// Serves one connection.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: Router,
    place: OwnedSemaphorePermit,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
    if let Err(error) = served {
        tracing::debug!("a client over HTTP: {error}");
    }
    drop(place);
}

/// Removes the socket that a run left which was killed; one that somebody listens on stays.
fn remove_stale(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        // What can't be removed is named when it is bound.
        let _stays = fs::remove_file(path);
    }
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct Http {
    /// What it serves.
    shared: Arc<Shared>,
    /// What its thread is told; it ends when it can't be told anything any more.
    orders: Option<UnboundedSender<Order>>,
    /// Its thread.
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    /// Take connections there.
    Open(Listening),
    /// Take none any more where this was asked for.
    Close(Address),
}

impl Drop for Http {
    fn drop(&mut self) {
        self.orders = None;
        // If it panicked there is nothing left to end.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

impl Http {
    /// Begins to serve.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn start(
        sockets: Vec<Listening>,
        metrics: Arc<Metrics>,
        asking: Asking,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            metrics,
            stream: Stream::new(),
            listeners: Arc::new(Semaphore::new(LISTENERS)),
        });
        let (orders, taken) = unbounded_channel();
        let routes = routes(Serving {
            shared: Arc::clone(&shared),
            asking,
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let work = move || {
            // The kernel's counters of a namespace are read through a process in it.
            capabilities::keep_only(&capabilities::OF_PROCESSES);
            runtime.block_on(listen(taken, routes));
        };
        let thread = thread::Builder::new().name("http".to_owned()).spawn(work)?;
        let http = Self {
            shared,
            orders: Some(orders),
            thread: Some(thread),
        };
        http.go_by(&[], sockets);
        Ok(http)
    }

    /// Takes connections at other addresses from now on; those that there are go on.
    pub fn go_by(&self, closed: &[Address], opened: Vec<Listening>) {
        let closed = closed.iter().cloned().map(Order::Close);
        for order in closed.chain(opened.into_iter().map(Order::Open)) {
            if let Some(orders) = &self.orders {
                // If the thread panicked, nothing listens.
                let _ended = orders.send(order);
            }
        }
    }

    /// Shows an event.
    pub fn event(&self, event: &Event) {
        self.shared.stream.tell(event);
    }
}

/// What is served.
#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    stream: Stream,
    /// Room for who listens to events, without end.
    listeners: Arc<Semaphore>,
}
