//! Each broker's settings, as good as they can be for the scenarios: quiet, without delay, with windows and limits that do
//! not stand in the way.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::peers::{Make, Peer};
use super::scenario::Setup;

/// How a peer is started: its settings lie in its folder then.
///
/// # Errors
/// If they cannot be written.
pub fn command(peer: &Peer, folder: &Path, port: u16, setup: &Setup) -> io::Result<Command> {
    let mut command = Command::new(&peer.program);
    let file = folder.join("config.toml");
    let settings = match peer.make {
        Make::Weirmq => weirmq(port, setup),
        Make::Mosquitto => mosquitto(folder, port, setup),
        Make::Rumqttd => rumqttd(folder, port, setup),
        Make::Nats => nats(folder, port, setup),
        Make::Floor { each } => {
            command.arg("floor-serve").arg(port.to_string());
            command.args(each.then_some("--each"));
            return Ok(command);
        }
    };
    fs::write(&file, settings)?;
    command.args((peer.make == Make::Rumqttd).then_some("-q")).arg("-c").arg(&file);
    Ok(command)
}

fn weirmq(port: u16, setup: &Setup) -> String {
    let shards = setup.shards.map(|shards| format!("shards = {shards}\n")).unwrap_or_default();
    let tls = if setup.tls { "[listener.tls]\ncert = \"server.pem\"\nkey = \"server.key\"\n" } else { "" };
    let large = if setup.large { "max_packet_size = \"2MiB\"\noutbound_buffer = \"8MiB\"\n" } else { "" };
    format!(
        "{shards}[[listener]]\nbind = \"127.0.0.1:{port}\"\nallow_anonymous = true\n{tls}\
         [limits]\nmax_inflight = 1000\nmax_handshakes_per_address = 500\n{large}[log]\nlevel = \"warn\"\n"
    )
}

fn mosquitto(folder: &Path, port: u16, setup: &Setup) -> String {
    let folder = folder.display();
    // In memory, written down now and then and at the end: what it does where it persists at all.
    let persistence = if setup.keeps {
        format!("persistence true\npersistence_location {folder}/\n")
    } else {
        "persistence false\n".to_owned()
    };
    let tls = if setup.tls {
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

fn rumqttd(folder: &Path, port: u16, setup: &Setup) -> String {
    let folder = folder.display();
    let tls = if setup.tls {
        format!("[v4.1.tls]\ncertpath = \"{folder}/server.pem\"\nkeypath = \"{folder}/server.key\"\n")
    } else {
        String::new()
    };
    format!(
        "id = 0\n\
         [router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n\
         [v4.1]\nname = \"v4\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n{tls}\
         [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 2097152\nmax_inflight_count = 1000\n\
         dynamic_filters = true\n"
    )
}

/// MQTT needs its JetStream, which keeps its files in the folder of the run, and gives out no more than so many
/// unacknowledged messages of one subscription. Its own protocol listens on any free port.
fn nats(folder: &Path, port: u16, setup: &Setup) -> String {
    let folder = folder.display();
    let tls = if setup.tls {
        format!("tls {{ cert_file: \"{folder}/server.pem\", key_file: \"{folder}/server.key\" }}\n")
    } else {
        String::new()
    };
    format!(
        "server_name: bench\nlisten: \"127.0.0.1:-1\"\nmax_connections: 100000\nmax_payload: 8MB\n\
         max_pending: 512MB\nwrite_deadline: \"30s\"\n\
         jetstream {{ store_dir: \"{folder}/jetstream\", max_memory_store: 4GB, max_file_store: 8GB }}\n\
         mqtt {{\nlisten: \"127.0.0.1:{port}\"\nmax_ack_pending: 1000\nack_wait: \"60s\"\n{tls}}}\n"
    )
}
