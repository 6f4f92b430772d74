//! The brokers that are measured, each in a process of its own, started afresh for every run and stopped with it. Each is
//! configured as well as it can be for the scenarios: quiet, without delay, with windows that do not stand in the way.

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

use super::scenario::{Kind, Layout, Scenario};

/// A broker that was just started listens within this time.
const START: Duration = Duration::from_secs(10);

/// The broker of this project, as it was built with the benchmark.
const WEIRMQ: &str = env!("CARGO_BIN_EXE_weirmq");

/// Somebody who is measured.
#[derive(Debug)]
pub struct Peer {
    pub name: String,
    program: PathBuf,
    make: Make,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Make {
    Weirmq,
    Mosquitto,
    Rumqttd,
    /// Not a broker: what sockets alone cost.
    Floor {
        each: bool,
    },
}

/// The peers of these names that are there.
///
/// # Errors
/// If a name is unknown, or nobody is there.
pub fn chosen(names: &[String]) -> io::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for name in names {
        let (program, make) = match name.as_str() {
            "weirmq" => (Some(PathBuf::from(WEIRMQ)), Make::Weirmq),
            "mosquitto" => (installed("mosquitto"), Make::Mosquitto),
            "rumqttd" => (installed("rumqttd"), Make::Rumqttd),
            "floor" => (Some(std::env::current_exe()?), Make::Floor { each: false }),
            "floor-each" => (Some(std::env::current_exe()?), Make::Floor { each: true }),
            other => match other.split_once('=') {
                Some((_, path)) => (Some(fs::canonicalize(path)?), Make::Weirmq),
                None => return Err(io::Error::other(format!("no peer is called {other}"))),
            },
        };
        let name = name.split('=').next().unwrap_or_default().to_owned();
        match program {
            Some(program) => peers.push(Peer { name, program, make }),
            None => eprintln!("{name} is not installed: it is left out"),
        }
    }
    if peers.is_empty() { Err(io::Error::other("there is nobody to measure")) } else { Ok(peers) }
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
    pub fn start(peer: &Peer, scenario: &Scenario) -> io::Result<Broker> {
        let tls = scenario.tls;
        let folder = tempfile::tempdir()?;
        if tls {
            certificates(folder.path())?;
        }
        let client = tls.then(|| client_config(folder.path())).transpose()?;
        let port = free_port()?;
        let said = fs::File::create(folder.path().join("said"))?;
        let mut command = command(peer, folder.path(), port, scenario)?;
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

fn command(peer: &Peer, folder: &Path, port: u16, scenario: &Scenario) -> io::Result<Command> {
    let tls = scenario.tls;
    let mut command = Command::new(&peer.program);
    let file = folder.join("config.toml");
    match peer.make {
        Make::Weirmq => {
            fs::write(&file, weirmq_config(port, tls))?;
            command.arg("-c").arg(&file);
        }
        Make::Mosquitto => {
            fs::write(&file, mosquitto_config(folder, port, scenario))?;
            command.arg("-c").arg(&file);
        }
        Make::Rumqttd => {
            fs::write(&file, rumqttd_config(folder, port, tls))?;
            command.arg("-q").arg("-c").arg(&file);
        }
        Make::Floor { each } => {
            command.arg("floor-serve").arg(port.to_string());
            if each {
                command.arg("--each");
            }
        }
    }
    Ok(command)
}

fn weirmq_config(port: u16, tls: bool) -> String {
    let tls = if tls { "[listener.tls]\ncert = \"server.pem\"\nkey = \"server.key\"\n" } else { "" };
    format!(
        "[[listener]]\nbind = \"127.0.0.1:{port}\"\nallow_anonymous = true\n{tls}\
         [limits]\nmax_inflight = 1000\nmax_handshakes_per_address = 500\n[log]\nlevel = \"warn\"\n"
    )
}

fn mosquitto_config(folder: &Path, port: u16, scenario: &Scenario) -> String {
    let folder = folder.display();
    // In memory, written down now and then and at the end: what it does where it persists at all.
    let persistence = match scenario.kind {
        Kind::Backlog(_) => format!("persistence true\npersistence_location {folder}/\n"),
        _ => "persistence false\n".to_owned(),
    };
    let tls = if scenario.tls {
        format!("certfile {folder}/server.pem\nkeyfile {folder}/server.key\ntls_version tlsv1.3\n")
    } else {
        String::new()
    };
    // It would give up root, and could not read the folder then.
    format!(
        "user root\nlistener {port} 127.0.0.1\n{tls}allow_anonymous true\n{persistence}\
         set_tcp_nodelay true\nmax_inflight_messages 1000\nmax_queued_messages 0\n\
         log_dest stderr\nlog_type error\n"
    )
}

fn rumqttd_config(folder: &Path, port: u16, tls: bool) -> String {
    let folder = folder.display();
    let tls = if tls {
        format!("[v4.1.tls]\ncertpath = \"{folder}/server.pem\"\nkeypath = \"{folder}/server.key\"\n")
    } else {
        String::new()
    };
    format!(
        "id = 0\n\
         [router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n\
         [v4.1]\nname = \"v4\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n{tls}\
         [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 65536\nmax_inflight_count = 1000\n\
         dynamic_filters = true\n"
    )
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
