//! The broker's process from start to end: signals, health checks, and a want of descriptors.
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
use common::process::{Process, dev_certs};
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

const CONFIG: &str = "shards = 2\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";

fn signal(process: &Process, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", process.id())]).status();
    assert!(sent.expect("sh runs").success());
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
fn it_ends_in_time_and_tells_clients_over_tls_too_whoever_does_not_listen() {
    let tls = "[listener.tls]\ncert = \"{dir}/certs/server.pem\"\nkey = \"{dir}/certs/server.key\"\n";
    let listener = &CONFIG[CONFIG.find("[[listener]]").expect("a listener")..];
    let mut process = Process::start(&format!("{CONFIG}\n{listener}{tls}"), dev_certs);
    let config = trusting(&process.folder.path().join("certs/ca.pem"));
    let opened = Client::open_tls(process.addresses[1], Version::V5, &config, "localhost");
    let (mut listens, _) = opened.expect("a handshake");
    listens.hello("listens");
    // One that has much to read and reads nothing, one that has not said who it is, and one within its TLS handshake.
    let mut deaf = Client::connect(process.addresses[0], Version::V5, "deaf");
    deaf.subscribe("much", QoS::AtMostOnce);
    for _ in 0..32 {
        listens.publish("much", QoS::AtLeastOnce, &[0; 512 * 1024]);
    }
    let _mute = Client::open(process.addresses[0], Version::V5);
    let mut half_way = Client::open(process.addresses[1], Version::V5);
    half_way.send_bytes(&[0x16, 0x03, 0x01]);
    let start = Instant::now();
    signal(&process, "TERM");
    let frame = listens.wait_for(|packet| matches!(packet, Packet::Disconnect(_)));
    let Packet::Disconnect(disconnect) = frame.packet() else { unreachable!() };
    assert_eq!(disconnect.reason, ReasonCode::ServerShuttingDown);
    // An end without close_notify would be an error of another kind.
    let end = listens.poll(PATIENCE).expect_err("the end");
    assert!(!end.to_string().contains("close_notify"), "{end}");
    drop(listens);
    assert_eq!(process.wait(), Some(0), "{}", process.log());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
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
    Client::connect(process.addresses[0], Version::V4, "b address=10.0.0.1:1").disconnect();
    signal(&process, "TERM");
    process.wait();
    let log = process.log();
    assert!(log.contains("client_id=a\\nINFO\\u{20}forged address=127.0.0.1:"), "{log}");
    assert!(log.contains("client_id=b\\u{20}address=10.0.0.1:1 address=127.0.0.1:"), "{log}");
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
    // Once for each time that they run out, which may be twice while the crowd goes; not once for each attempt.
    assert!(process.log().matches("cannot accept connections for now").count() <= 3, "{}", process.log());
}
