//! The process: binds the listeners, starts a thread for each shard, and ends them when it is told to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::broker::outbox::Credits;
use crate::broker::retained::RetainedLimits;
use crate::broker::shard::{Shard, ShardSettings};
use crate::broker::shared::Shared;
use crate::config::{Bind, Config, ListenerConfig};
use crate::message::PeerId;
use crate::net::admission::{Admission, Gate};
use crate::net::lane::{Lanes, Mail};
use crate::net::listener::{self, Door, Listener, Trouble};
use crate::net::{shell, tls};
use crate::stats::Stats;
use crate::store::memory::MemoryStore;

/// Why the server does not run.
#[derive(Debug)]
pub enum ServerError {
    /// A listener cannot be bound.
    Listen(SocketAddr, io::Error),
    /// A listener's TLS cannot be set up: which key of the configuration, and why.
    Tls(SocketAddr, String),
    /// The system gave no thread, event queue or signal handler.
    System(io::Error),
    /// A shard ended by itself.
    Broken,
    /// A second signal came before the first one's work was done.
    Interrupted,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: the port is in use")
            }
            ServerError::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            ServerError::Tls(address, detail) => write!(f, "cannot serve TLS on {address}: {detail}"),
            ServerError::System(error) => write!(f, "cannot start: {error}"),
            ServerError::Broken => write!(f, "a shard failed"),
            ServerError::Interrupted => write!(f, "interrupted before every connection was closed"),
        }
    }
}

impl std::error::Error for ServerError {}

/// Serves until SIGTERM or SIGINT, then ends every connection with its DISCONNECT. A second signal ends it at once.
///
/// # Errors
/// If it cannot start, if a shard fails, or at a second signal.
pub fn run(config: Config) -> Result<(), ServerError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ServerError::System)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(ServerError::System)?;
        let mut server = Server::start(config)?;
        tokio::select! {
            name = signals.next() => info!(signal = name, "stopping"),
            _ = server.ended.recv() => return Err(ServerError::Broken),
        }
        let stopping = tokio::task::spawn_blocking(move || server.shutdown());
        tokio::select! {
            stopped = stopping => stopped.unwrap_or(Err(ServerError::Broken)),
            _ = signals.next() => Err(ServerError::Interrupted),
        }
    })
}

/// The signals that end the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A running server. It ends when this is dropped.
pub struct Server {
    addresses: Vec<SocketAddr>,
    stats: Arc<[Arc<Stats>]>,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    /// Says something when a shard's thread ends.
    ended: mpsc::UnboundedReceiver<()>,
}

impl Server {
    /// Binds every listener and starts the shards.
    ///
    /// # Errors
    /// If a listener cannot be bound or its TLS not be set up, or the system refuses a thread.
    pub fn start(config: Config) -> Result<Server, ServerError> {
        let admission = Arc::new(Admission::new(&config.limits));
        let doors: Vec<_> =
            config.listeners.iter().map(|listener| open(listener, &admission)).collect::<Result<_, _>>()?;
        let addresses = doors.iter().map(|listener| listener.door.address).collect();
        let (stop, stopped) = watch::channel(false);
        let (alive, ended) = mpsc::unbounded_channel();
        let stats = (0..config.shards).map(|_| Arc::default()).collect();
        let mut server = Server { addresses, stats, threads: Vec::new(), stop, ended };
        server.start_shards(&config, &doors, &stopped, &alive)?;
        for Listener { door, .. } in &doors {
            info!(address = %door.address, tls = door.tls.is_some(), "listening");
        }
        Ok(server)
    }

    fn start_shards(
        &mut self,
        config: &Config,
        doors: &[Listener],
        stopped: &watch::Receiver<bool>,
        alive: &mpsc::UnboundedSender<()>,
    ) -> Result<(), ServerError> {
        let limits = Arc::new(config.limits.clone());
        let shared = Arc::new(Shared::new(RetainedLimits {
            messages: limits.retained_messages,
            bytes: limits.retained_bytes,
        }));
        let credits = Arc::new(Credits::new(config.shards));
        let (senders, mails): (Vec<_>, Vec<_>) =
            (0..config.shards).map(|_| mpsc::unbounded_channel::<Mail>()).unzip();
        for (index, mail) in mails.into_iter().enumerate() {
            let id = PeerId(index as u16);
            let settings = ShardSettings {
                id,
                peers: config.shards as u16,
                seed: fastrand::u64(..),
                limits: limits.clone(),
                share_rules: config.shared_subscriptions.clone().into(),
                queue_rules: config.queues.clone().into(),
                sys_interval: config.sys_interval,
                stats: self.stats.clone(),
                credits: credits.clone(),
            };
            let thread = shell::Thread {
                stats: self.stats[index].clone(),
                limits: limits.clone(),
                lanes: Lanes::new(id, senders.clone()),
                mail,
                listeners: duplicate(doors)?,
                stop: stopped.clone(),
            };
            let shared = shared.clone();
            let shard =
                move || Shard::new(settings, shared, Box::new(MemoryStore::default()), Instant::now());
            self.threads.push(start_thread(index, shard, thread, alive.clone())?);
        }
        Ok(())
    }

    /// Where it listens, in the order of the configuration, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The counters of each shard.
    pub fn stats(&self) -> &[Arc<Stats>] {
        &self.stats
    }

    /// Stops accepting, sends every MQTT 5 client DISCONNECT 0x8B, closes every connection, and returns when that is
    /// done or has taken too long: within 10 seconds.
    ///
    /// # Errors
    /// If a shard failed.
    pub fn shutdown(mut self) -> Result<(), ServerError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), ServerError> {
        self.stop.send_replace(true);
        // All of them, whatever became of the first.
        let failed = self.threads.drain(..).filter_map(|thread| thread.join().err()).count();
        if failed == 0 { Ok(()) } else { Err(ServerError::Broken) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop().is_err() {
            warn!("a shard had failed");
        }
    }
}

fn open(config: &ListenerConfig, admission: &Arc<Admission>) -> Result<Listener, ServerError> {
    let Bind::Tcp(asked) = config.bind;
    let tls = config.tls.as_ref().map(tls::server_config).transpose();
    let tls = tls.map_err(|error| ServerError::Tls(asked, error))?;
    let listen = |error| ServerError::Listen(asked, error);
    let socket = listener::bind(asked).map_err(listen)?;
    let door = Door {
        address: socket.local_addr().map_err(listen)?,
        tls,
        allow_anonymous: config.allow_anonymous,
        gate: Arc::new(Gate::new(admission.clone(), config.max_connections)),
        trouble: Trouble::default(),
    };
    Ok(Listener { socket, door: Arc::new(door) })
}

/// Every listener once more, for one more shard.
fn duplicate(listeners: &[Listener]) -> Result<Vec<Listener>, ServerError> {
    let duplicate = |listener: &Listener| {
        Ok(Listener { socket: listener.socket.try_clone()?, door: listener.door.clone() })
    };
    listeners.iter().map(duplicate).collect::<io::Result<_>>().map_err(ServerError::System)
}

fn start_thread(
    index: usize,
    shard: impl FnOnce() -> Shard + Send + 'static,
    thread: shell::Thread,
    alive: mpsc::UnboundedSender<()>,
) -> Result<JoinHandle<()>, ServerError> {
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let body = move || {
        let _ending = Ending(alive);
        // A runtime that runs tasks of this thread alone.
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                let _ = ready.send(Ok(()));
                runtime.block_on(shell::run(shard(), thread));
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    };
    let handle =
        thread::Builder::new().name(format!("shard-{index}")).spawn(body).map_err(ServerError::System)?;
    match started.recv() {
        Ok(Ok(())) => Ok(handle),
        Ok(Err(error)) => Err(ServerError::System(error)),
        Err(_) => Err(ServerError::Broken),
    }
}

/// Tells that a shard's thread ends, a panic included.
struct Ending(mpsc::UnboundedSender<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
