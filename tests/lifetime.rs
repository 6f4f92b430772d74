//! The broker's process from start to end: signals, descriptors, and what many connections leave behind.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod process;
    pub mod world;
}

use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::client::*;
use common::process::Process;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

const CONFIG: &str = "shards = 2\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";

fn signal(process: &Process, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", process.id())]).status();
    assert!(sent.expect("sh runs").success());
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs").count()
}

/// Resident memory in bytes.
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    1024 * line.trim_end_matches("kB").trim().parse::<usize>().expect("a number")
}

/// Waits until a condition holds that nothing announces.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_signal_ends_it_cleanly_and_every_client_is_told() {
    for name in ["TERM", "INT"] {
        let mut process = Process::start(CONFIG, |_| {});
        let mut client = Client::connect(process.addresses[0], Version::V5, "client");
        signal(&process, name);
        assert_eq!(client.expect_disconnect(), ReasonCode::ServerShuttingDown);
        drop(client);
        assert_eq!(process.wait(), Some(0));
        assert!(process.log().contains(&format!("signal=\"SIG{name}\"")), "{}", process.log());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut process = Process::start(CONFIG, |_| {});
    let mut client = Client::connect(process.addresses[0], Version::V5, "client");
    signal(&process, "TERM");
    // It waits for this client to close, for a second; the signal comes before that.
    let _ = client.wait_for(|packet| matches!(packet, Packet::Disconnect(_)));
    signal(&process, "TERM");
    assert_eq!(process.wait(), Some(1));
}

#[test]
fn a_port_in_use_is_one_clear_line_and_a_failure() {
    let first = Process::start(CONFIG, |_| {});
    let address = first.addresses[0];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("weirmq.toml");
    std::fs::write(&file, CONFIG.replace("127.0.0.1:0", &address.to_string())).expect("written");
    let second = Command::new(env!("CARGO_BIN_EXE_weirmq")).arg("-c").arg(file).output().expect("it runs");
    assert_eq!(second.status.code(), Some(1));
    let log = String::from_utf8(second.stderr).expect("UTF-8");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains(&format!("cannot listen on {address}: the port is in use")), "{log}");
}

#[test]
fn a_health_check_is_not_in_the_log() {
    let mut process = Process::start(CONFIG, |_| {});
    let lines = process.log().lines().count();
    for _ in 0..20 {
        drop(TcpStream::connect(process.addresses[0]).expect("accepted"));
    }
    signal(&process, "TERM");
    assert_eq!(process.wait(), Some(0));
    let log = process.log();
    // Only that it stops.
    assert_eq!(log.lines().count(), lines + 1, "{log}");
}

#[test]
fn what_clients_call_themselves_cannot_forge_a_line_of_the_log() {
    let mut process = Process::start(CONFIG, |_| {});
    Client::connect(process.addresses[0], Version::V4, "a\nINFO forged").disconnect();
    signal(&process, "TERM");
    process.wait();
    assert!(process.log().contains("client_id=a\\nINFO forged"), "{}", process.log());
}

#[test]
fn without_descriptors_accepting_rests_and_goes_on() {
    let process = Process::start_limited(CONFIG, 48);
    let address = process.addresses[0];
    let mut steady = Client::connect(address, Version::V5, "steady");
    // The kernel completes these; most of them the broker cannot accept.
    let crowd: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(address).expect("in the backlog")).collect();
    eventually("it says so", || process.log().contains("cannot accept connections for now"));
    steady.ping();
    drop(crowd);
    Client::connect(address, Version::V5, "after").ping();
    steady.ping();
    eventually("it says so", || {
        Client::connect(address, Version::V5, "after").ping();
        process.log().contains("accepting connections again")
    });
    assert_eq!(process.log().matches("cannot accept connections for now").count(), 1, "{}", process.log());
}

#[test]
fn connections_made_and_dropped_leave_nothing_behind() {
    let count = std::env::var("WEIRMQ_CONNECTIONS").map_or(4000, |count| count.parse().expect("a number"));
    let process = Process::start(CONFIG, |_| {});
    let address = process.addresses[0];
    let churn = |count: usize| {
        thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || {
                    for round in 0..count / 4 {
                        make_and_drop(address, worker, round);
                    }
                });
            }
        });
    };
    // What is allocated once is there after the first thousand.
    churn(1000);
    eventually("all are gone", || descriptors(&process) < 32);
    let (before, memory) = (descriptors(&process), resident(&process));
    churn(count);
    eventually("no descriptor is left", || descriptors(&process) <= before);
    let grown = resident(&process).saturating_sub(memory);
    assert!(grown < 2 * 1024 * 1024, "{count} connections left {grown} bytes");
}

/// One connection, ended in one of the ways that there are.
fn make_and_drop(address: std::net::SocketAddr, worker: usize, round: usize) {
    let id = format!("client-{worker}-{}", round % 50);
    let version = if round.is_multiple_of(2) { Version::V5 } else { Version::V4 };
    let mut client = Client::connect(address, version, &id);
    match round % 4 {
        0 => client.disconnect(),
        1 => drop(client),
        2 => {
            client.subscribe(&format!("t/{worker}/#"), QoS::AtLeastOnce);
            client.publish(&format!("t/{worker}/x"), QoS::AtLeastOnce, b"payload");
        }
        _ => {
            // A second CONNECT is an error of the protocol.
            client.send(&Packet::Connect(connect(version, &id, true)));
            while client.poll(PATIENCE).is_ok_and(|frame| frame.is_some()) {}
        }
    }
}
