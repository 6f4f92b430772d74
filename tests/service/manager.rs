//! A stand-in for systemd, in as far as the broker knows it: the socket that it is told things on.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use crate::common::client::PATIENCE;

pub struct Manager {
    socket: UnixDatagram,
    /// What `NOTIFY_SOCKET` is to be.
    pub address: String,
}

impl Manager {
    /// With a socket that has a name, and no file.
    pub fn abstract_named(name: &str) -> Manager {
        let name = format!("weirmq-test-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        Manager { socket, address: format!("@{name}") }
    }

    /// With a socket in the file system.
    pub fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).expect("bound");
        Manager { socket, address: path.display().to_string() }
    }

    /// Runs the broker with this environment besides.
    pub fn launcher(&self, more: &[&str]) -> Vec<String> {
        let address = format!("NOTIFY_SOCKET={}", self.address);
        let all = ["env", &address].into_iter().chain(more.iter().copied());
        all.map(str::to_owned).collect()
    }

    /// The next message, if one comes in this time.
    pub fn message(&self, wait: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(wait)).expect("a time");
        let mut bytes = [0; 4096];
        let len = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..len].to_vec()).expect("UTF-8"))
    }

    /// The next message that begins so.
    #[track_caller]
    pub fn expect(&self, begins: &str) -> String {
        loop {
            let message = self.message(2 * PATIENCE).unwrap_or_else(|| panic!("no {begins}"));
            if message.starts_with(begins) {
                return message;
            }
        }
    }
}
