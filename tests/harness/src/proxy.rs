//! What does a network do to two programs that trust it?
//!
//! A [`Proxy`] listens on a loopback port of its own and forwards every connection to a TCP port or a Unix socket. Its
//! [`Weather`] says what is wrong until it is changed; a [`Cut`] goes wrong once, or so many times, at an exact place in
//! the bytes; a [`Trap`] stops the world at the N-th write and tells. [`Counts`] prove that it happened.

mod connection;
mod counts;
mod cut;
mod http;
mod trap;
mod weather;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use counts::Counters;
pub use counts::Counts;
use cut::Armed;
pub use cut::{At, Cut, How, Side};
pub use trap::{Release, Trap, When};
pub use weather::{Accept, Way, Weather};

/// Connections that wait to be accepted: a service's whole pool comes back at once after a restart.
const BACKLOG: u32 = 1_024;

/// Where connections are forwarded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// A loopback port.
    Tcp(SocketAddr),
    /// The path of a socket, such as PostgreSQL's.
    Unix(PathBuf),
}

/// One edge between programs, on a port that stays the same. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Bound and never listening: it keeps the port ours while connections are refused.
    _reserved: TcpSocket,
    accepting: JoinHandle<()>,
}

/// What all connections of one proxy share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) upstream: Upstream,
    pub(crate) weather: watch::Sender<Weather>,
    /// Changes when every connection is to be reset.
    pub(crate) resets: watch::Sender<u64>,
    pub(crate) trap: Mutex<Option<Arc<Trap>>>,
    pub(crate) counters: Counters,
    cuts: Mutex<Vec<Armed>>,
    next_cut: AtomicU64,
}

impl Proxy {
    /// Takes a free port and forwards what comes to it.
    ///
    /// # Errors
    /// When no port can be bound.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(upstream: Upstream) -> io::Result<Self> {
        let reserved = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = reserved.local_addr()?;
        let listener = socket(address)?.listen(BACKLOG)?;
        let shared = Arc::new(Shared {
            upstream,
            weather: watch::Sender::new(Weather::default()),
            resets: watch::Sender::new(0),
            trap: Mutex::new(None),
            counters: Counters::default(),
            cuts: Mutex::new(Vec::new()),
            next_cut: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(shared.clone(), address, listener));
        Ok(Self {
            shared,
            address,
            _reserved: reserved,
            accepting,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counters.read()
    }

    /// From now on, for connections that are open too.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Waits to happen; several may.
    pub fn cut(&self, cut: Cut) {
        let id = self.shared.next_cut.fetch_add(1, Ordering::Relaxed);
        self.shared.armed().push(Armed { id, cut });
    }

    /// Counts, and at last holds, what clients write from now on. One trap may be set on several proxies.
    pub fn set_trap(&self, trap: Option<Arc<Trap>>) {
        *self.shared.trap.lock().unwrap_or_else(PoisonError::into_inner) = trap;
    }

    /// Ends every connection with a reset.
    pub fn reset_all(&self) {
        self.shared.resets.send_modify(|n| *n += 1);
    }

    /// Good weather, no cuts, no trap. Connections that are stalled for good by a cut are reset.
    pub fn heal(&self) {
        self.shared.armed().clear();
        self.set_trap(None);
        self.set(Weather::default());
        self.shared.resets.send_if_modified(|n| {
            let stuck = self.shared.counters.stuck() > 0;
            if stuck {
                *n += 1;
            }
            stuck
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    pub(crate) fn armed(&self) -> MutexGuard<'_, Vec<Armed>> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn trap(&self) -> Option<Arc<Trap>> {
        self.trap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The two sockets of a port share it with each other and nobody else: one listens now and then, the other never does.
fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(shared: Arc<Shared>, address: SocketAddr, listener: TcpListener) {
    let mut weather = shared.weather.subscribe();
    let mut listener = Some(listener);
    // Aborted with this task, and so with the proxy.
    let mut connections = JoinSet::new();
    loop {
        let refuse = weather.borrow_and_update().accept == Accept::Refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            match socket(address).and_then(|socket| socket.listen(BACKLOG)) {
                Ok(again) => listener = Some(again),
                Err(error) => tracing::warn!(%address, %error, "a proxy could not listen again"),
            }
        }
        tokio::select! {
            changed = weather.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
            accepted = next(listener.as_ref()) => match accepted {
                Ok(client) => {
                    shared.counters.accepted();
                    connections.spawn(connection::serve(shared.clone(), client));
                }
                Err(error) => tracing::warn!(%address, %error, "a proxy could not accept"),
            },
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}
