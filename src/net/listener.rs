//! Where clients arrive. A listening socket is bound once; every shard accepts from its own duplicate of it, so that
//! whichever thread has time takes the next client. (With SO_REUSEPORT each shard would have a queue of its own: a busy
//! shard's clients would wait while another idles, its queue would be lost when it stops, and a second broker of the
//! same user would take half of the clients instead of being told that the port is in use.)

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::spawn_local;
use tokio::time::sleep;
use tracing::{info, warn};

use super::admission::Gate;
use super::handshake;
use super::shell::Shell;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// How long accepting rests when there are no descriptors left: at first, and at most.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Accepting works again when it has not failed for so long: longer than it rests.
const QUIET: Duration = Duration::from_secs(2);

/// What all shards know of a listener.
pub struct Door {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its side of TLS, if it speaks that.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether a client may come without credentials.
    pub allow_anonymous: bool,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// Whether accepting fails at present.
    pub trouble: Trouble,
}

/// A time in which accepting fails, now and then or always: the log tells its beginning and its end.
#[derive(Debug, Default)]
pub struct Trouble {
    is_on: AtomicBool,
    last_failure: Mutex<Option<Instant>>,
}

impl Trouble {
    fn failed(&self, address: SocketAddr, error: &io::Error) {
        if !self.is_on.swap(true, Relaxed) {
            warn!(%address, %error, "cannot accept connections for now");
        }
        *self.last_failure() = Some(Instant::now());
    }

    fn succeeded(&self, address: SocketAddr) {
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
    pub socket: TcpListener,
    /// What all shards know of it.
    pub door: Arc<Door>,
}

/// Binds a listening socket.
///
/// # Errors
/// The system's, `AddrInUse` among them.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
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

/// Accepts for as long as it is not aborted.
pub(super) async fn accept(shell: Rc<Shell>, listener: Listener) {
    let Listener { socket, door } = listener;
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(address = %door.address, %error, "cannot accept connections"),
    };
    let mut rest = REST.0;
    loop {
        match socket.accept().await {
            Ok((stream, address)) => {
                rest = REST.0;
                door.trouble.succeeded(door.address);
                // Small packets are not to wait for the acknowledgement of earlier ones. It fails only on a socket
                // that has ended.
                let _ = stream.set_nodelay(true);
                spawn_local(handshake::run(shell.clone(), door.clone(), stream, address));
            }
            Err(error) if concerns_one(&error) => {}
            Err(error) => {
                door.trouble.failed(door.address, &error);
                sleep(rest).await;
                rest = (rest * 2).min(REST.1);
            }
        }
    }
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
}
