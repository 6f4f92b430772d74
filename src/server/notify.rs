//! What systemd is told of the process, and how often it wants to hear that all is well (sd_notify(3)). The socket is open
//! from the beginning: also a broker that has run out of descriptors can say that it lives.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// How long systemd may take to take a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to whoever started the process, if that wants to know.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    /// How long after the last sign of life the process counts as stuck.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says.
    pub(super) fn from_environment() -> Notifier {
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let Some(address) = text("NOTIFY_SOCKET") else { return Notifier::default() };
        let socket = match connect(&address) {
            Ok(socket) => socket,
            Err(error) => {
                warn!(%address, %error, "NOTIFY_SOCKET leads nowhere: nobody is told that the broker is ready");
                return Notifier::default();
            }
        };
        let is_own = text("WATCHDOG_PID").is_none_or(|pid| pid == process::id().to_string());
        let period = text("WATCHDOG_USEC").filter(|_| is_own).and_then(|period| period.parse().ok());
        let watchdog = period.filter(|period| *period > 0).map(Duration::from_micros);
        Notifier { socket: Some(socket), watchdog }
    }

    /// How long after the last sign of life the process counts as stuck, if anybody watches.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Clients are served, for the first time or after a reload.
    pub(super) fn ready(&self, status: &str) {
        // A line of a message is a statement of its own.
        self.tell(&format!("READY=1\nSTATUS={}", status.replace(char::is_control, " ")));
    }

    /// A reload begins; [`Notifier::ready`] says that it is over.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=Reloading"));
    }

    /// The end begins.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Stopping");
    }

    /// Everything moves.
    pub(super) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            warn!(%error, state, "systemd was not told");
        }
    }
}

/// The address is a path, or begins with `@` in place of the zero byte of an abstract one.
fn connect(address: &str) -> io::Result<UnixDatagram> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
