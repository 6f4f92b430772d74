//! The listeners of a running server: opened at the start, what a reload makes of them, and the look at their files for
//! certificates that have changed.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::auth::Auth;
use crate::config::{Bind, IdentityFrom, ListenerConfig};
use crate::net::admission::{Admission, Gate};
use crate::net::listener::{Door, Doorway, Listener, Listening, Trouble};
use crate::net::tls::Tls;

use super::ServerError;
use super::activation::Inherited;

/// Every listener, in the order of the configuration.
pub(super) struct Doors {
    admission: Arc<Admission>,
    inherited: Inherited,
    auth: Arc<Auth>,
    all: Vec<Opened>,
    /// Those that a reload has removed, while anybody is there who came by them with a certificate.
    gone: Vec<Gone>,
}

/// A listener that is open.
struct Opened {
    config: ListenerConfig,
    /// Its other ends are with the shards, who stop accepting when this is dropped.
    door: watch::Sender<Arc<Door>>,
    file: Option<SocketFile>,
    seen: Vec<Option<Stamp>>,
}

/// A listener that is no more. Whoever came by it has a certificate that may yet be revoked.
struct Gone {
    config: ListenerConfig,
    door: watch::Sender<Arc<Door>>,
    seen: Vec<Option<Stamp>>,
}

/// The file of a Unix socket that this process has made.
struct SocketFile(PathBuf);

impl SocketFile {
    fn of(bind: &Bind) -> Option<SocketFile> {
        match bind {
            Bind::Tcp(_) => None,
            Bind::Unix { path, .. } => Some(SocketFile(path.clone())),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever has removed it already has done the same.
        let _ = fs::remove_file(&self.0);
    }
}

/// How a file shows that it is another one, or was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that a path leads to; `None` if it leads to none.
    fn of(path: &Path) -> Option<Stamp> {
        let file = fs::metadata(path).ok()?;
        Some(Stamp {
            file: (file.dev(), file.ino()),
            size: file.size(),
            written: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// What a reload will make of the listeners. Everything that could fail has been done.
pub(super) struct Plan {
    all: Vec<Planned>,
    /// For each new listener, one for each shard.
    added: Vec<Vec<Listener>>,
}

/// What a reload has made of the listeners, for the shards to know.
pub(super) struct Changes {
    /// For each new listener, one for each shard.
    pub(super) added: Vec<Vec<Listener>>,
    /// Doors whose TLS is another one, where nobody is anonymous any more, whose clients are local where they were not
    /// or the other way round, or that are gone: who came by them is to be looked at.
    pub(super) recheck: Vec<Doorway>,
}

enum Planned {
    /// One that is open, by its number, and what it becomes.
    Kept(usize, Renewal),
    New(Opened),
}

/// What becomes of an open listener.
struct Renewal {
    config: ListenerConfig,
    seen: Vec<Option<Stamp>>,
    door: Arc<Door>,
}

impl Doors {
    /// Binds every listener.
    ///
    /// # Errors
    /// If one cannot be bound, or its TLS not be set up.
    pub(super) fn open(
        configs: &[ListenerConfig],
        inherited: Inherited,
        admission: Arc<Admission>,
        auth: Arc<Auth>,
    ) -> Result<(Doors, Vec<Listener>), ServerError> {
        inherited.tell_unused(configs);
        let mut doors = Doors { admission, inherited, auth, all: Vec::new(), gone: Vec::new() };
        let mut listeners = Vec::new();
        for config in configs {
            let (opened, listener) = doors.bind(config)?;
            doors.all.push(opened);
            listeners.push(listener);
        }
        Ok((doors, listeners))
    }

    fn bind(&self, config: &ListenerConfig) -> Result<(Opened, Listener), ServerError> {
        let asked = &config.bind;
        let seen = stamps(config);
        let tls = read_tls(config, None)?;
        let listen = |error| ServerError::Listen(asked.clone(), error);
        let (socket, file) = match self.inherited.find(config).map_err(listen)? {
            // Its file belongs to who made it.
            Some(socket) => (socket, None),
            None => (Listening::bind(asked).map_err(listen)?, SocketFile::of(asked)),
        };
        let door = Arc::new(Door {
            name: asked.to_string().into(),
            address: socket.address(asked).map_err(listen)?,
            tls,
            websocket: config.websocket.clone().map(Arc::new),
            proxies: config.proxies.clone(),
            auth: self.auth.clone(),
            allow_anonymous: config.allow_anonymous,
            max_packet_size: config.max_packet_size.unwrap_or(u32::MAX),
            identity_from: identity_from(config),
            gate: Arc::new(Gate::new(self.admission.clone(), config.max_connections)),
            trouble: Arc::new(Trouble::default()),
            is_gone: false,
        });
        let (sender, receiver) = watch::channel(door);
        let opened = Opened { config: config.clone(), door: sender, file, seen };
        Ok((opened, Listener { socket, door: receiver }))
    }

    /// The door of each.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Door>> {
        self.all.iter().map(|opened| opened.door.borrow().clone())
    }

    /// Where they are for TCP.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = |door: Arc<Door>| match door.address {
            Bind::Tcp(address) => Some(address),
            Bind::Unix { .. } => None,
        };
        self.all().filter_map(tcp).collect()
    }

    /// Removes the files of Unix sockets: while they are listened to, they are surely this process's own.
    pub(super) fn remove_files(&mut self) {
        self.all.iter_mut().for_each(|opened| opened.file = None);
    }

    /// Does everything of a reload that can fail, and nothing that anybody would notice: the files are read, new listeners
    /// are bound and are there for each of `shards`.
    ///
    /// # Errors
    /// As for [`Doors::open`], or if there are not descriptors enough.
    pub(super) fn plan(&self, configs: &[ListenerConfig], shards: usize) -> Result<Plan, ServerError> {
        let mut left: Vec<usize> = (0..self.all.len()).collect();
        let mut plan = Plan { all: Vec::new(), added: Vec::new() };
        for config in configs {
            let same = left.iter().position(|index| is_same(&self.all[*index].config.bind, &config.bind));
            let planned = match same.map(|at| left.remove(at)) {
                Some(index) => Planned::Kept(index, self.all[index].renewed(config)?),
                None => {
                    let (opened, listener) = self.bind(config)?;
                    plan.added.push(for_each(listener, shards).map_err(ServerError::System)?);
                    Planned::New(opened)
                }
            };
            plan.all.push(planned);
        }
        Ok(plan)
    }

    /// Does what is planned. Listeners that are not in the plan close; who came by them stays.
    pub(super) fn apply(&mut self, plan: Plan) -> Changes {
        let mut changes = Changes { added: plan.added, recheck: Vec::new() };
        let mut before: Vec<Option<Opened>> = self.all.drain(..).map(Some).collect();
        for planned in plan.all {
            match planned {
                Planned::New(opened) => {
                    tell(&opened.door.borrow());
                    self.all.push(opened);
                }
                Planned::Kept(index, renewal) => {
                    let Some(mut opened) = before[index].take() else { continue };
                    changes.recheck.extend(opened.put(renewal));
                    self.all.push(opened);
                }
            }
        }
        changes.recheck.extend(self.look_at_gone());
        for opened in before.into_iter().flatten() {
            let gone = opened.close();
            info!(address = %gone.door.borrow().address, "listening no more");
            changes.recheck.push(gone.door.subscribe());
            self.gone.push(gone);
        }
        changes
    }

    /// Looks whether files of the listeners have changed, and takes over those that can be used; the doors whose clients
    /// are to be looked at for that.
    pub(super) fn look(&mut self) -> Vec<Doorway> {
        let mut recheck = self.look_at_gone();
        for opened in &mut self.all {
            let seen = stamps(&opened.config);
            if seen == opened.seen {
                continue;
            }
            match opened.renewed(&opened.config) {
                Ok(renewal) => {
                    if !renewal.door.is_tls_of(&opened.door.borrow()) {
                        info!(address = %renewal.door.address, "certificates reloaded, for their files have changed");
                    }
                    recheck.extend(opened.put(renewal));
                }
                Err(error) => {
                    opened.seen = seen;
                    warn!(%error, "certificate files have changed, and what they held before stays in use");
                }
            }
        }
        recheck
    }

    /// The same for listeners that are no more.
    fn look_at_gone(&mut self) -> Vec<Doorway> {
        self.gone.retain(|gone| gone.config.tls.is_some() && gone.door.borrow().gate.is_used());
        self.gone.iter_mut().filter_map(Gone::look).collect()
    }
}

impl Gone {
    /// The door, if its clients are to be looked at because files have changed.
    fn look(&mut self) -> Option<Doorway> {
        let seen = stamps(&self.config);
        if seen == self.seen {
            return None;
        }
        self.seen = seen;
        let before = self.door.borrow().clone();
        match renewed(&before, &self.config) {
            Ok(Renewal { door, .. }) => {
                let other = !door.is_tls_of(&before);
                self.door.send_replace(door);
                other.then(|| self.door.subscribe())
            }
            Err(error) => {
                warn!(%error, "files of a listener that is gone have changed, and what they held before stays in use");
                None
            }
        }
    }
}

/// What a configuration makes of a listener.
fn renewed(before: &Door, config: &ListenerConfig) -> Result<Renewal, ServerError> {
    // Before the files are read: what changes after that is seen the next time.
    let seen = stamps(config);
    let door = Arc::new(Door {
        tls: read_tls(config, before.tls.as_ref())?,
        websocket: config.websocket.clone().map(Arc::new),
        proxies: config.proxies.clone(),
        allow_anonymous: config.allow_anonymous,
        max_packet_size: config.max_packet_size.unwrap_or(u32::MAX),
        identity_from: identity_from(config),
        ..before.clone()
    });
    Ok(Renewal { config: config.clone(), seen, door })
}

impl Opened {
    /// What this configuration makes of it.
    fn renewed(&self, config: &ListenerConfig) -> Result<Renewal, ServerError> {
        renewed(&self.door.borrow(), config)
    }

    /// Accepts nobody any more; who has come by it is to be looked at once more, by what the files hold now.
    fn close(self) -> Gone {
        let Opened { config, door, file: _, seen } = self;
        let before = door.borrow().clone();
        let (now, seen) = match renewed(&before, &config) {
            Ok(Renewal { door, seen, .. }) => (door, seen),
            // They may have been removed with it.
            Err(_) => (before, seen),
        };
        let gone = Arc::new(Door { is_gone: true, ..Door::clone(&now) });
        door.send_replace(gone);
        Gone { config, door, seen }
    }

    /// Puts the new door into its place; the door, if its clients are to be looked at for that.
    fn put(&mut self, renewal: Renewal) -> Option<Doorway> {
        let Renewal { config, seen, door } = renewal;
        if let Bind::Unix { path, mode } = &config.bind
            && self.config.bind != config.bind
            && let Err(error) = fs::set_permissions(path, Permissions::from_mode(*mode))
        {
            warn!(address = %config.bind, %error, "the file of the socket keeps its mode");
        }
        (self.config, self.seen) = (config, seen);
        door.gate.set_most(self.config.max_connections);
        let before = self.door.send_replace(door.clone());
        let fewer = before.allow_anonymous && !door.allow_anonymous;
        let other = before.is_local() != door.is_local() || !door.is_tls_of(&before);
        (fewer || other).then(|| self.door.subscribe())
    }
}

fn identity_from(config: &ListenerConfig) -> Option<IdentityFrom> {
    config.tls.as_ref().and_then(|tls| tls.identity_from)
}

/// Whether both are the same socket.
fn is_same(one: &Bind, other: &Bind) -> bool {
    match (one, other) {
        (Bind::Unix { path, .. }, Bind::Unix { path: other, .. }) => path == other,
        (one, other) => one == other,
    }
}

/// Says in the log that a listener is open.
pub(super) fn tell(door: &Door) {
    let (tls, websocket) = (door.tls.is_some(), door.websocket.is_some());
    info!(address = %door.address, tls, websocket, "listening");
}

/// Every listener once more, for one more shard.
///
/// # Errors
/// The system gives no descriptor.
pub(super) fn duplicate(listeners: &[Listener]) -> Result<Vec<Listener>, ServerError> {
    listeners.iter().map(Listener::duplicate).collect::<io::Result<_>>().map_err(ServerError::System)
}

fn for_each(listener: Listener, shards: usize) -> io::Result<Vec<Listener>> {
    let mut all: Vec<Listener> = (1..shards).map(|_| listener.duplicate()).collect::<io::Result<_>>()?;
    all.push(listener);
    Ok(all)
}

fn stamps(config: &ListenerConfig) -> Vec<Option<Stamp>> {
    config.tls.iter().flat_map(|tls| tls.files()).map(|file| Stamp::of(file)).collect()
}

fn read_tls(config: &ListenerConfig, before: Option<&Arc<Tls>>) -> Result<Option<Arc<Tls>>, ServerError> {
    let websocket = config.websocket.is_some();
    let read =
        |tls| Tls::read(tls, websocket, before).map_err(|error| ServerError::Tls(config.bind.clone(), error));
    config.tls.as_ref().map(read).transpose()
}
