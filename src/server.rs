//! The process: opens the data folder, binds the listeners, starts a thread for each shard, and ends them when it is told
//! to.

mod activation;
mod data;
mod doors;
mod memory;
mod notify;
mod pulse;
mod reload;
mod rules;
mod run;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::acl::AclError;
use crate::auth::{Auth, Clocks, Done};
use crate::broker::outbox::Credits;
use crate::broker::restore::distribute;
use crate::broker::retained::RetainedLimits;
use crate::broker::shard::{Shard, ShardSettings};
use crate::broker::shared::Shared;
use crate::config::{Bind, Config, ConfigError, ListenerConfig};
use crate::flow::registry::Flow;
use crate::limits::Limits;
use crate::message::PeerId;
use crate::net::admission::Admission;
use crate::net::lane::{Bell, Lanes, Mail};
use crate::net::shell;
use crate::stats::Stats;

use activation::Inherited;
use data::{Data, Opened};
use doors::Doors;
use pulse::Pulse;

pub use reload::Taken;
pub use run::{Load, run};

/// Why the server does not run.
#[derive(Debug)]
pub enum ServerError {
    /// A listener cannot be bound.
    Listen(Bind, io::Error),
    /// A listener's TLS cannot be set up: which key of the configuration, and why.
    Tls(Bind, String),
    /// Who may connect cannot be said: a file of users cannot be used.
    Auth(ConfigError),
    /// The ACL file cannot be used.
    Acl(AclError),
    /// The data folder cannot be used.
    Data(String),
    /// The store failed for good: nothing that waits for it was acknowledged.
    Store(String),
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
                let taken = match address {
                    Bind::Tcp(_) => "the port is in use",
                    Bind::Unix { .. } => "somebody listens there, or the file is no socket",
                };
                write!(f, "cannot listen on {address}: {taken}")
            }
            ServerError::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            ServerError::Tls(address, detail) => write!(f, "cannot serve TLS on {address}: {detail}"),
            ServerError::Auth(error) => write!(f, "{error}"),
            ServerError::Acl(error) => write!(f, "{error}"),
            ServerError::Data(error) => write!(f, "{error}"),
            ServerError::Store(error) => write!(f, "the store failed: {error}"),
            ServerError::System(error) => write!(f, "cannot start: {error}"),
            ServerError::Broken => write!(f, "a shard failed"),
            ServerError::Interrupted => write!(f, "interrupted before every connection was closed"),
        }
    }
}

impl std::error::Error for ServerError {}

/// A running server. It ends when this is dropped.
pub struct Server {
    /// What it runs by.
    config: Config,
    addresses: Vec<SocketAddr>,
    doors: Doors,
    auth: Arc<Auth>,
    admission: Arc<Admission>,
    shared: Arc<Shared>,
    /// The buckets that shards share.
    flow: Arc<Flow>,
    /// What is in use, and what may be.
    memory: memory::Watch,
    /// The way to each shard.
    senders: Vec<mpsc::UnboundedSender<Mail>>,
    stats: Arc<[Arc<Stats>]>,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    /// Says something when a shard's thread or the store ends.
    ended: mpsc::UnboundedReceiver<ServerError>,
    /// Closed once, after the shards.
    data: Data,
}

impl Server {
    /// Opens the data folder, binds every listener, and starts the shards with what was kept.
    ///
    /// # Errors
    /// If the data folder cannot be used, a listener not be bound or its TLS not be set up, or the system refuses a thread.
    pub fn start(config: Config) -> Result<Server, ServerError> {
        Server::start_with(config, Inherited::default())
    }

    /// The same with sockets that listen already.
    fn start_with(config: Config, inherited: Inherited) -> Result<Server, ServerError> {
        let (senders, mails): (Vec<_>, Vec<_>) =
            (0..config.shards).map(|_| mpsc::unbounded_channel::<Mail>()).unzip();
        let bells: Vec<_> = senders.iter().map(|sender| Arc::new(Bell::new(sender.clone()))).collect();
        let (alive, ended) = mpsc::unbounded_channel();
        let failed = alive.clone();
        let failed = move |error| drop(failed.send(ServerError::Store(error)));
        let acl = rules::load(&config)?;
        let Opened { handles, restored, data } = data::open(&config, &bells, failed)?;
        let admission = Arc::new(Admission::new(&config.limits));
        let clocks = Clocks { now: Instant::now, wall: SystemTime::now };
        let auth = Arc::new(Auth::start(&config, clocks).map_err(ServerError::Auth)?);
        warn_of_passwords(&config, &auth);
        let (doors, listeners) = Doors::open(&config.listeners, inherited, admission.clone(), auth.clone())?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared::new(retained_limits(&config.limits)));
        let flow = Arc::new(Flow::new(config.rates.clone(), config.deliveries.clone()));
        if acl.is_some() {
            shared.set_rules(acl);
        }
        let mut server = Server {
            flow: flow.clone(),
            addresses: doors.addresses(),
            stats: (0..config.shards).map(|_| Arc::default()).collect(),
            threads: Vec::new(),
            config: config.clone(),
            shared: shared.clone(),
            memory: memory::Watch::new(&config.limits),
            senders: senders.clone(),
            doors,
            auth,
            admission,
            stop,
            ended,
            data,
        };
        data::tell(&restored);
        let shares = distribute(restored, &shared, &config.queues, config.shards as u16);
        let common = Common {
            limits: Arc::new(config.limits.clone()),
            credits: Arc::new(Credits::new(config.shards)),
            flow,
            shared,
            senders,
            stopped,
            alive,
        };
        let own = handles.into_iter().zip(shares).zip(mails.into_iter().zip(bells));
        let mut starting = Vec::with_capacity(config.shards);
        for (index, ((store, share), (mail, bell))) in own.enumerate() {
            let settings = server.shard_settings(index, &config, &common);
            let thread = shell::Thread {
                stats: server.stats[index].clone(),
                limits: common.limits.clone(),
                lanes: Lanes::new(settings.id, common.senders.clone()),
                mail,
                bell,
                listeners: doors::duplicate(&listeners)?,
                stop: common.stopped.clone(),
            };
            let shared = common.shared.clone();
            let shard = move || {
                let now = Instant::now();
                let mut shard = Shard::new(settings, shared, store, now);
                shard.restore(now, share);
                shard
            };
            starting.push(server.start_thread(index, shard, thread, common.alive.clone())?);
        }
        // None serves before all have restored what they hold: what is published goes by the subscriptions of all.
        starting.iter().try_for_each(Starting::wait)?;
        server.tell_damage();
        starting.into_iter().for_each(Starting::go);
        server.tell_memory();
        data::promise(&config);
        server.doors.all().for_each(|door| doors::tell(&door));
        Ok(server)
    }

    fn shard_settings(&self, index: usize, config: &Config, common: &Common) -> ShardSettings {
        ShardSettings {
            id: PeerId(index as u16),
            peers: config.shards as u16,
            seed: fastrand::u64(..),
            limits: common.limits.clone(),
            share_rules: config.shared_subscriptions.clone().into(),
            queue_rules: config.queues.clone().into(),
            flow: common.flow.clone(),
            sys_interval: config.sys_interval,
            stats: self.stats.clone(),
            credits: common.credits.clone(),
        }
    }

    fn start_thread(
        &mut self,
        index: usize,
        shard: impl FnOnce() -> Shard + Send + 'static,
        thread: shell::Thread,
        alive: mpsc::UnboundedSender<ServerError>,
    ) -> Result<Starting, ServerError> {
        let (ready, restored) = std::sync::mpsc::sync_channel(1);
        let (go, gone) = std::sync::mpsc::sync_channel(1);
        let body = move || {
            let _ending = Ending(alive);
            // A runtime that runs tasks of this thread alone.
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => {
                    let shard = shard();
                    let _ = ready.send(Ok(()));
                    // An error means that the server is not to be after all.
                    if gone.recv().is_ok() {
                        runtime.block_on(shell::run(shard, thread));
                    }
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        };
        let thread = thread::Builder::new().name(format!("shard-{index}")).spawn(body);
        self.threads.push(thread.map_err(ServerError::System)?);
        Ok(Starting { restored, go })
    }

    /// Where it listens for TCP, in the order of the configuration, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What has been worked out to know who clients are.
    pub fn auth_work(&self) -> Done {
        self.auth.done()
    }

    /// The counters of each shard.
    pub fn stats(&self) -> &[Arc<Stats>] {
        &self.stats
    }

    /// How to ask all of it whether it moves.
    fn pulse(&self) -> Pulse {
        Pulse { shards: self.senders.clone(), store: self.data.heart() }
    }

    /// Looks how much memory is in use, and has everybody go by it; and whether the store has met with damage.
    fn look_around(&mut self) {
        self.tell_damage();
        let (used, changed) = self.memory.look();
        self.shared.set_memory(used);
        if changed {
            self.tell_memory();
        }
    }

    fn tell_damage(&self) {
        self.shared.set_damaged(self.data.heart().map_or(0, |heart| heart.damaged()));
    }

    fn tell_memory(&self) {
        self.admission.set_full(self.memory.headroom.is_full);
        for sender in &self.senders {
            // A shard that is gone has ended the server.
            let _ = sender.send(Mail::Memory(self.memory.headroom));
        }
    }

    /// How it is, in a line.
    fn status(&self) -> String {
        let addresses: Vec<String> = self.doors.all().map(|door| door.address.to_string()).collect();
        format!("Serving on {}", addresses.join(", "))
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
        // While it is listened to, the file is surely this process's own.
        self.doors.remove_files();
        self.stop.send_replace(true);
        // All of them, whatever became of the first.
        let failed = self.threads.drain(..).filter_map(|thread| thread.join().err()).count();
        // What they pushed to the end is kept before it is said that all is well.
        let kept = self.data.close();
        if failed == 0 { kept } else { Err(ServerError::Broken) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            warn!(%error, "not ended well");
        }
    }
}

fn retained_limits(limits: &Limits) -> RetainedLimits {
    RetainedLimits { messages: limits.retained_messages, bytes: limits.retained_bytes }
}

/// Passwords or their hashes that others can read are worth a word at each start and each reload.
fn warn_of_passwords(config: &Config, auth: &Auth) {
    for doubt in auth.doubts() {
        warn!("{doubt}");
    }
    let is_open = |listener: &&ListenerConfig| match &listener.bind {
        Bind::Tcp(address) => listener.tls.is_none() && !address.ip().is_loopback(),
        Bind::Unix { .. } => false,
    };
    for listener in config.listeners.iter().filter(is_open).filter(|_| config.auth.has_users()) {
        warn!(address = %listener.bind, "passwords cross the network unencrypted: this listener has no TLS");
    }
}

/// What all shards are started with.
struct Common {
    limits: Arc<Limits>,
    credits: Arc<Credits>,
    flow: Arc<Flow>,
    shared: Arc<Shared>,
    senders: Vec<mpsc::UnboundedSender<Mail>>,
    stopped: watch::Receiver<bool>,
    alive: mpsc::UnboundedSender<ServerError>,
}

/// A shard's thread that restores what it holds, and then waits.
struct Starting {
    restored: std::sync::mpsc::Receiver<io::Result<()>>,
    go: std::sync::mpsc::SyncSender<()>,
}

impl Starting {
    fn wait(&self) -> Result<(), ServerError> {
        match self.restored.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ServerError::System(error)),
            Err(_) => Err(ServerError::Broken),
        }
    }

    fn go(self) {
        // A thread that is gone has said so.
        let _ = self.go.send(());
    }
}

/// Tells that a shard's thread ends, a panic included.
struct Ending(mpsc::UnboundedSender<ServerError>);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.send(ServerError::Broken);
    }
}
