//! Where clients arrive. A listening socket is bound once; every shard accepts from its own duplicate of it, so that
//! whichever thread has time takes the next client. (With SO_REUSEPORT each shard would have a queue of its own: a busy
//! shard's clients would wait while another idles, its queue would be lost when it stops, and a second broker of the
//! same user would take half of the clients instead of being told that the port is in use.)

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::auth::Auth;
use crate::config::network::Network;
use crate::config::{Bind, IdentityFrom, WebSocketConfig};

use super::admission::Gate;
use super::handshake;
use super::reserve;
use super::shell::Shell;
use super::stream::{Peer, Stream};
use super::tls::Tls;
use super::transport::{Layer, Transport};
use super::websocket::WebSocket;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// How long accepting rests when there are no descriptors left: at first, and at most.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Accepting works again when it has not failed for so long: longer than it rests.
const QUIET: Duration = Duration::from_secs(2);

/// What all shards know of a listener. It never changes: a reload puts another one into the listener's [`Doorway`], and
/// who came before it has come by the old one.
#[derive(Clone)]
pub struct Door {
    /// Its `bind` as the configuration says it.
    pub name: Box<str>,
    /// Where it listens; with the port that the system chose.
    pub address: Bind,
    /// Its side of TLS, if it speaks that.
    pub tls: Option<Arc<Tls>>,
    /// How it takes WebSockets, if it does.
    pub websocket: Option<Arc<WebSocketConfig>>,
    /// Who is to say in the PROXY protocol for whom they speak, if anybody is.
    pub proxies: Option<Vec<Network>>,
    /// Who says who may come in.
    pub auth: Arc<Auth>,
    /// Whether a client may come without credentials.
    pub allow_anonymous: bool,
    /// Largest packet, in bytes, that a client may send, if the broker's own limit is not less.
    pub max_packet_size: u32,
    /// What of a client's certificate names its user.
    pub identity_from: Option<IdentityFrom>,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// Whether accepting fails at present.
    pub trouble: Arc<Trouble>,
    /// A reload has removed the listener: nobody comes in any more, and who has come stays.
    pub is_gone: bool,
}

impl Door {
    /// What lies between the socket of a new connection and MQTT.
    ///
    /// # Errors
    /// If the configuration of TLS cannot serve any connection.
    pub(super) fn transport(&self) -> Result<Transport, rustls::Error> {
        let tls = self.tls.as_ref().map(|tls| tls.accept()).transpose()?;
        let layer = match (&self.websocket, tls) {
            (Some(rules), tls) => Layer::WebSocket(Box::new(WebSocket::new(tls, rules.clone()))),
            (None, Some(tls)) => Layer::Tls(tls),
            (None, None) => return Ok(Transport::Plain),
        };
        Ok(Transport::Within(Box::new(layer)))
    }

    /// Whether both speak the same TLS, if any.
    pub fn is_tls_of(&self, other: &Door) -> bool {
        match (&self.tls, &other.tls) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether it lets anybody in, and only processes of this machine can come by it: its clients are
    /// [local](crate::principal::Principal::local).
    pub fn is_local(&self) -> bool {
        let is_near = match &self.address {
            Bind::Tcp(address) => address.ip().is_loopback(),
            Bind::Unix { .. } => true,
        };
        // A proxy of this machine speaks for others.
        is_near && self.proxies.is_none() && self.allow_anonymous && !self.is_gone
    }
}

/// The door of a listener as it is now. Nobody comes in any more once its other end is dropped.
pub type Doorway = watch::Receiver<Arc<Door>>;

/// A time in which accepting fails, now and then or always: the log tells its beginning and its end.
#[derive(Debug, Default)]
pub struct Trouble {
    is_on: AtomicBool,
    last_failure: Mutex<Option<Instant>>,
}

impl Trouble {
    fn failed(&self, address: &Bind, error: &dyn fmt::Display) {
        if !self.is_on.swap(true, Relaxed) {
            warn!(%address, %error, "cannot accept connections for now");
        }
        *self.last_failure() = Some(Instant::now());
    }

    fn succeeded(&self, address: &Bind) {
        let over = || self.last_failure().is_none_or(|last| last.elapsed() >= QUIET);
        if self.is_on.load(Relaxed) && over() && self.is_on.swap(false, Relaxed) {
            info!(%address, "accepting connections again");
        }
    }

    fn last_failure(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One shard's end of a listener.
pub struct Listener {
    /// The listening socket.
    pub socket: Listening,
    /// What all shards know of it.
    pub door: Doorway,
}

impl Listener {
    /// The listener once more, for another shard.
    ///
    /// # Errors
    /// The system gives no descriptor.
    pub fn duplicate(&self) -> io::Result<Listener> {
        Ok(Listener { socket: self.socket.try_clone()?, door: self.door.clone() })
    }
}

/// A socket that listens.
#[derive(Debug)]
pub enum Listening {
    /// For TCP.
    Tcp(TcpListener),
    /// For processes of this machine.
    Unix(UnixListener),
}

impl Listening {
    /// Binds a listening socket.
    ///
    /// # Errors
    /// The system's, `AddrInUse` among them.
    pub fn bind(to: &Bind) -> io::Result<Listening> {
        match to {
            Bind::Tcp(address) => bind(*address).map(Listening::Tcp),
            Bind::Unix { path, mode } => bind_unix(path, *mode).map(Listening::Unix),
        }
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// The system's: there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Listening> {
        match self {
            Listening::Tcp(socket) => socket.try_clone().map(Listening::Tcp),
            Listening::Unix(socket) => socket.try_clone().map(Listening::Unix),
        }
    }

    /// Where it listens: what was asked for, with the port that the system chose.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self, asked: &Bind) -> io::Result<Bind> {
        match self {
            Listening::Tcp(socket) => socket.local_addr().map(Bind::Tcp),
            Listening::Unix(_) => Ok(asked.clone()),
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections are in TIME_WAIT is free.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] are two listeners everywhere.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Nobody can connect before it listens, so nobody does before the file has its mode.
fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Removes the socket file of a process that is gone. One on which somebody listens stays, and so does any other file:
/// to bind is an error then.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(is_refused) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// A listening socket in a shard's runtime.
enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Accepting {
    fn new(socket: Listening) -> io::Result<Accepting> {
        match socket {
            Listening::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(Accepting::Tcp),
            Listening::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(Accepting::Unix),
        }
    }

    /// The next client. The system holds `unsent` bytes for it that it has not sent; 0: as many as it likes.
    async fn accept(&self, unsent: u32) -> io::Result<(Stream, Peer)> {
        match self {
            Accepting::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                // Small packets are not to wait for the acknowledgement of earlier ones. It fails only on a socket
                // that has ended.
                let _ = stream.set_nodelay(true);
                if unsent > 0 {
                    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(unsent);
                }
                Ok((Stream::Tcp(stream), Peer::Ip(address)))
            }
            Accepting::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                let peer = Peer::of(&stream);
                Ok((Stream::Unix(stream), peer))
            }
        }
    }
}

/// Accepts for as long as the listener has a door.
pub(super) async fn accept(shell: Rc<Shell>, listener: Listener) {
    let Listener { socket, door: doorway } = listener;
    let mut end = doorway.clone();
    tokio::select! {
        () = accept_all(shell, socket, &doorway) => {}
        _ = end.wait_for(|_| false) => {}
    }
}

async fn accept_all(shell: Rc<Shell>, socket: Listening, doorway: &Doorway) {
    let (address, trouble) = {
        let door = doorway.borrow();
        (door.address.clone(), door.trouble.clone())
    };
    let socket = match Accepting::new(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%address, %error, "cannot accept connections"),
    };
    let first_reserved = reserve::first();
    let mut resting = rests();
    loop {
        match socket.accept(shell.limits().socket_unsent).await {
            Ok((stream, peer)) => {
                let stream = if reserve::holds(first_reserved, &stream) {
                    trouble.failed(&address, &"the descriptors for clients are taken");
                    match reserve::leave(first_reserved, stream, rests()).await {
                        Ok(stream) => stream,
                        Err(_) => continue,
                    }
                } else {
                    stream
                };
                resting = rests();
                trouble.succeeded(&address);
                spawn_local(handshake::run(shell.clone(), doorway.clone(), stream, peer));
            }
            Err(error) if concerns_one(&error) => {}
            Err(error) => {
                trouble.failed(&address, &error);
                sleep(resting.next().unwrap_or(REST.1)).await;
            }
        }
    }
}

/// How long accepting rests again and again.
fn rests() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(REST.0), |rest| Some((*rest * 2).min(REST.1)))
}

/// Whether an error is that of the connection that was to be accepted, and not one of the process or the system.
fn concerns_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error_and_ipv6_leaves_ipv4_alone() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = first.local_addr().expect("bound");
        assert_eq!(bind(address).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        // Somebody else may have that very port of IPv4, but not each time.
        let shared = || -> io::Result<()> {
            let v6 = bind(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)))?;
            bind(SocketAddr::from(([0, 0, 0, 0], v6.local_addr()?.port()))).map(drop)
        };
        let has_v6 = bind(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0))).is_ok();
        assert!(!has_v6 || (0..20).any(|_| shared().is_ok()), "IPv4's port is another");
    }

    #[test]
    fn accepting_rests_longer_and_longer_and_never_for_more_than_a_second() {
        let all: Vec<Duration> = rests().take(100).collect();
        assert!(all.is_sorted() && all[0] >= Duration::from_millis(50));
        assert!(all.iter().all(|rest| *rest <= Duration::from_secs(1)), "so that it recovers within two");
    }

    #[test]
    fn a_stale_socket_file_gives_way_and_one_in_use_or_any_other_file_does_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("mqtt.sock");
        let first = bind_unix(&path, 0o600).expect("nobody is there");
        let mode = || fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        assert_eq!(bind_unix(&path, 0o660).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let _second = bind_unix(&path, 0o660).expect("the first is gone");
        assert_eq!(mode(), 0o660);
        let file = folder.path().join("precious");
        fs::write(&file, "data").expect("written");
        assert_eq!(bind_unix(&file, 0o660).expect_err("a file").kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&file).expect("still there"), b"data");
    }
}
