//! The brokers that are measured, each in a process of its own, started afresh for every run and stopped with it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use super::scenario::{Kind, Layout, Scenario, Setup};
use super::settings;

/// A broker that was just started listens within this time.
const START: Duration = Duration::from_secs(10);

/// The broker of this project, as it was built with the benchmark.
const WEIRMQ: &str = env!("CARGO_BIN_EXE_weirmq");

/// Somebody who is measured.
#[derive(Debug)]
pub struct Peer {
    pub name: String,
    /// As it tells it; empty for the floor.
    pub version: String,
    pub program: PathBuf,
    pub make: Make,
}

/// Which program a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Weirmq,
    Mosquitto,
    Rumqttd,
    Nats,
    /// Not a broker: what sockets alone cost.
    Floor {
        each: bool,
    },
}

/// Whom `all` stands for.
const ALL: [&str; 6] = ["weirmq", "mosquitto", "rumqttd", "nats", "floor", "floor-each"];

/// The peers of these names that are there.
///
/// # Errors
/// If a name is unknown, or nobody is there.
pub fn chosen(names: &[String]) -> io::Result<Vec<Peer>> {
    let mut peers: Vec<Peer> = Vec::new();
    for name in names {
        let all = if name == "all" { &ALL[..] } else { &[name.as_str()] };
        for name in all {
            match found(name)? {
                Some(peer) if peers.iter().any(|known| known.name == peer.name) => {}
                Some(peer) => peers.push(peer),
                None => eprintln!("{name} is not installed: it is left out"),
            }
        }
    }
    if peers.is_empty() { Err(io::Error::other("there is nobody to measure")) } else { Ok(peers) }
}

fn found(name: &str) -> io::Result<Option<Peer>> {
    let this = || std::env::current_exe().map(Some);
    let (program, make) = match name {
        "weirmq" => (Some(PathBuf::from(WEIRMQ)), Make::Weirmq),
        "mosquitto" => (installed("mosquitto"), Make::Mosquitto),
        "rumqttd" => (installed("rumqttd"), Make::Rumqttd),
        "nats" => (installed("nats-server"), Make::Nats),
        "floor" => (this()?, Make::Floor { each: false }),
        "floor-each" => (this()?, Make::Floor { each: true }),
        other => match other.split_once('=') {
            Some((_, path)) => (Some(fs::canonicalize(path)?), Make::Weirmq),
            None => return Err(io::Error::other(format!("no peer is called {other}"))),
        },
    };
    let name = name.split('=').next().unwrap_or_default().to_owned();
    let peer = program.map(|program| Peer { name, version: make.version(&program), program, make });
    Ok(peer)
}

impl Make {
    /// The first thing that looks like a version in what the program says of itself.
    fn version(self, program: &Path) -> String {
        let option = match self {
            Make::Floor { .. } => return String::new(),
            Make::Mosquitto => "-h",
            Make::Weirmq | Make::Rumqttd | Make::Nats => "--version",
        };
        let said = Command::new(program).arg(option).stdin(Stdio::null()).output();
        let said =
            said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let version = said
            .split_whitespace()
            .map(|word| word.trim_start_matches('v'))
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'));
        version.unwrap_or("?").to_owned()
    }
}

/// Looks where programs are, and where Debian puts those for administrators.
fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

impl Peer {
    /// Whether it can run a scenario at all.
    pub fn can(&self, scenario: &Scenario) -> bool {
        match (self.make, &scenario.kind) {
            (Make::Floor { .. }, Kind::Load(load)) => {
                scenario.qos == 0 && !scenario.tls && load.layout != Layout::Wild
            }
            (Make::Floor { .. }, Kind::Idle { .. } | Kind::Backlog(_)) => false,
            // It keeps nothing for who is not there.
            (Make::Rumqttd, Kind::Backlog(_)) => false,
            // It delivers nothing there.
            (Make::Rumqttd, Kind::Load(load)) => load.layout != Layout::Wild,
            _ => true,
        }
    }
}

/// A running broker. It ends when this is dropped.
pub struct Broker {
    child: Child,
    command: Command,
    pub port: u16,
    /// For clients, if it speaks TLS.
    pub tls: Option<Arc<ClientConfig>>,
    folder: TempDir,
}

impl Broker {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// If it does not come up; with what it said.
    pub fn start(peer: &Peer, setup: &Setup) -> io::Result<Broker> {
        let tls = setup.tls;
        let folder = tempfile::tempdir()?;
        if tls {
            certificates(folder.path())?;
        }
        let client = tls.then(|| client_config(folder.path())).transpose()?;
        let port = free_port()?;
        let said = fs::File::create(folder.path().join("said"))?;
        let mut command = settings::command(peer, folder.path(), port, setup)?;
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let child = command.spawn()?;
        let mut broker = Broker { child, command, port, tls: client, folder };
        broker.wait_until_it_listens()?;
        Ok(broker)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder that it works in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills it as the system would, starts it again in the same folder and waits until it listens.
    ///
    /// # Errors
    /// If it does not come up; with what it said.
    pub fn kill_and_restart(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = self.command.spawn()?;
        self.wait_until_it_listens()
    }

    fn wait_until_it_listens(&mut self) -> io::Result<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > START {
                let said = fs::read_to_string(self.folder.path().join("said"))?;
                return Err(io::Error::other(format!("it does not come up: {said}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // There is nothing that it would have to keep.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A test authority and a server certificate of it.
fn certificates(folder: &Path) -> io::Result<()> {
    let made = Command::new(WEIRMQ).arg("dev-certs").arg(folder).stdout(Stdio::null()).status()?;
    if made.success() { Ok(()) } else { Err(io::Error::other("no certificates could be made")) }
}

fn client_config(folder: &Path) -> io::Result<Arc<ClientConfig>> {
    let authority = CertificateDer::from_pem_file(folder.join("ca.pem")).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
