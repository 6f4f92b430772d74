//! Sockets that systemd has opened for the process (sd_listen_fds(3)): a listener of the configuration that has such a
//! socket's name, or its address, takes it over instead of binding its own. So clients that come during a restart wait in
//! the socket's queue, and a port below 1024 needs no privilege.

use std::io;
use std::path::Path;

use listenfd::ListenFd;
use tracing::warn;

use crate::config::{Bind, ListenerConfig};
use crate::net::listener::Listening;

/// What was handed over. It is kept: a reload may need a socket that no listener had before.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<Given>);

/// A socket, and what the unit calls it (`FileDescriptorName=`).
#[derive(Debug)]
struct Given {
    name: Option<String>,
    socket: Listening,
}

impl Given {
    /// A listener goes by the name if it has one, and by the address else.
    fn is_for(&self, config: &ListenerConfig) -> bool {
        match &config.socket_name {
            Some(_) => self.name == config.socket_name,
            None => is_at(&self.socket, &config.bind),
        }
    }
}

impl Inherited {
    /// Takes what the environment names.
    pub(super) fn from_environment() -> Inherited {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..given.len() {
            let name = names.next().filter(|name| !name.is_empty()).map(str::to_owned);
            match take(&mut given, index) {
                Ok(socket) => sockets.extend(socket.map(|socket| Given { name, socket })),
                Err(error) => warn!(index, %error, "a socket that was handed over cannot be used"),
            }
        }
        Inherited(sockets)
    }

    /// The socket for this listener, if there is one.
    ///
    /// # Errors
    /// The system gives no descriptor.
    pub(super) fn find(&self, config: &ListenerConfig) -> io::Result<Option<Listening>> {
        self.0.iter().find(|given| given.is_for(config)).map(|given| given.socket.try_clone()).transpose()
    }

    /// Says in the log what no listener has.
    pub(super) fn tell_unused(&self, configs: &[ListenerConfig]) {
        for given in self.0.iter().filter(|given| !configs.iter().any(|config| given.is_for(config))) {
            let Given { name, socket } = given;
            let missing = "no listener has its address in `bind`, or its name in `socket_name`";
            warn!(name, ?socket, "a socket was handed over, but {missing}");
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
