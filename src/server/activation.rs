//! Sockets that systemd has opened for the process (sd_listen_fds(3)): a listener of the configuration with such a
//! socket's address takes it over instead of binding its own. So clients that come during a restart wait in the socket's
//! queue, and a port below 1024 needs no privilege.

use std::io;
use std::path::Path;

use listenfd::ListenFd;
use tracing::warn;

use crate::config::Bind;
use crate::net::listener::Listening;

/// What was handed over. It is kept: a reload may need a socket that no listener had before.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<Listening>);

impl Inherited {
    /// Takes what the environment names.
    pub(super) fn from_environment() -> Inherited {
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..given.len() {
            match take(&mut given, index) {
                Ok(socket) => sockets.extend(socket),
                Err(error) => warn!(index, %error, "a socket that was handed over cannot be used"),
            }
        }
        Inherited(sockets)
    }

    /// The socket of this address, if there is one.
    ///
    /// # Errors
    /// The system gives no descriptor.
    pub(super) fn find(&self, bind: &Bind) -> io::Result<Option<Listening>> {
        self.0.iter().find(|socket| is_at(socket, bind)).map(Listening::try_clone).transpose()
    }

    /// Says in the log what no listener has.
    pub(super) fn tell_unused<'a>(&self, binds: impl Iterator<Item = &'a Bind> + Clone) {
        for socket in &self.0 {
            if !binds.clone().any(|bind| is_at(socket, bind)) {
                warn!(?socket, "a socket was handed over, but no listener has its address in `bind`");
            }
        }
    }
}

fn take(given: &mut ListenFd, index: usize) -> io::Result<Option<Listening>> {
    if let Ok(socket) = given.take_tcp_listener(index) {
        let Some(socket) = socket else { return Ok(None) };
        socket.set_nonblocking(true)?;
        return Ok(Some(Listening::Tcp(socket)));
    }
    let Some(socket) = given.take_unix_listener(index)? else { return Ok(None) };
    socket.set_nonblocking(true)?;
    Ok(Some(Listening::Unix(socket)))
}

fn is_at(socket: &Listening, bind: &Bind) -> bool {
    match (socket, bind) {
        (Listening::Tcp(socket), Bind::Tcp(address)) => socket.local_addr().is_ok_and(|own| own == *address),
        (Listening::Unix(socket), Bind::Unix { path, .. }) => {
            let own = socket.local_addr();
            own.is_ok_and(|own| own.as_pathname() == Some(Path::new(path)))
        }
        _ => false,
    }
}
