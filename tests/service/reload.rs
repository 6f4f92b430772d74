//! A reload: what is taken up and what takes a restart, listeners that come and go, files that change by themselves, and
//! mistakes that change nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustls::ClientConfig;
use weirmq::config::Config;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::authority::{Authority, replace};
use crate::common::client::*;
use crate::common::process::Process;
use crate::{eventually, signal};

const CONFIG: &str = "shards = 2
[[listener]]
bind = \"127.0.0.1:0\"
allow_anonymous = true
[[listener]]
bind = \"127.0.0.1:0\"
allow_anonymous = true
[listener.tls]
cert = \"{dir}/server.pem\"
key = \"{dir}/server.key\"
client_ca = \"{dir}/ca.pem\"
client_crl = \"{dir}/ca.crl\"
require_client_cert = true
[auth]
password_file = \"{dir}/users\"
";

fn start() -> (Process, Authority) {
    let mut authority = None;
    let process = Process::start(CONFIG, |folder| {
        let made = Authority::new(folder);
        made.sign("good", 10);
        made.sign("bad", 11);
        set_password(folder, "ann", "first");
        authority = Some(made);
    });
    (process, authority.expect("prepared"))
}

/// Writes a password file in which this user is alone.
fn set_password(folder: &Path, user: &str, password: &str) {
    let file = folder.join("users");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirmq"));
    let made = command.args(["passwd", "-c", "-b"]).arg(&file).args([user, password]).output();
    assert!(made.expect("the binary runs").status.success());
}

fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>, id: &str) -> (Client, Vec<u8>) {
    let (mut client, facts) =
        Client::open_tls(address, Version::V5, config, "localhost").expect("a handshake");
    client.hello(id);
    (client, facts.certificate.expect("a certificate"))
}

pub fn reload(process: &Process, expected: &str) {
    let before = process.log().matches(expected).count();
    signal(process, "HUP");
    eventually(expected, || process.log().matches(expected).count() > before);
}

#[test]
fn a_bad_file_is_refused_with_its_line_and_the_old_state_stays() {
    let (process, authority) = start();
    let (plain, tls) = (process.addresses[0], process.addresses[1]);
    let good = authority.client("good");
    let (mut steady, certificate) = connect_tls(tls, &good, "steady");
    let dir = process.folder.path();
    let path = |name: &str| dir.join(name);
    let toml = fs::read_to_string(path("weirmq.toml")).expect("a configuration");
    let lines = toml.lines().count();
    for (file, text, expected) in [
        (
            "weirmq.toml",
            format!("{toml}[limits]\nmax_packet_size = \"huge\"\n"),
            format!("weirmq.toml:{}:19", lines + 2),
        ),
        ("weirmq.toml", format!("{toml}[limits\n"), format!("weirmq.toml:{}:", lines + 1)),
        ("weirmq.toml", toml.replace("[listener.tls]", "[listener.tsl]"), "weirmq.toml:8:".to_owned()),
        ("server.pem", "torn".to_owned(), "weirmq.toml:9:8: listener[1].tls.cert:".to_owned()),
        ("server.key", "torn".to_owned(), "weirmq.toml:10:7: listener[1].tls.key:".to_owned()),
        ("ca.pem", "torn".to_owned(), "weirmq.toml:11:13: listener[1].tls.client_ca:".to_owned()),
        ("users", "ann:torn".to_owned(), "users:1".to_owned()),
        ("ca.crl", "torn".to_owned(), "weirmq.toml:12:14: listener[1].tls.client_crl:".to_owned()),
    ] {
        let right = fs::read_to_string(path(file)).expect("a file");
        replace(&path(file), &text);
        reload(&process, "not reloaded: everything stays as it was");
        let log = process.log();
        let said = log.lines().rfind(|line| line.contains("not reloaded")).expect("it is said");
        assert!(said.contains(&expected), "{expected} in {said}");
        steady.ping();
        let (_client, now) = connect_tls(tls, &good, "again");
        assert_eq!(now, certificate);
        replace(&path(file), &right);
    }
    // A port that somebody else has: nothing of the rest is taken over either.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let more = format!(
        "[[listener]]\nbind = \"{}\"\nallow_anonymous = true\n[limits]\nmax_packet_size = \"1KiB\"\n",
        taken.local_addr().expect("bound")
    );
    replace(&path("weirmq.toml"), &format!("{toml}{more}"));
    reload(&process, "not reloaded: everything stays as it was");
    assert!(process.log().contains("the port is in use"), "{}", process.log());
    let mut client = Client::connect(plain, Version::V5, "large");
    assert_eq!(client.publish("t", QoS::AtLeastOnce, &[0; 4096]), ReasonCode::NoMatchingSubscribers);
    replace(&path("weirmq.toml"), &toml);
    reload(&process, "INFO reloaded");
    steady.ping();
}

/// What stands in a file's place must not be waited for: whoever asks for the end, or for the next reload, waits as well.
#[test]
fn a_fifo_in_the_place_of_a_file_holds_nothing_up() {
    let (process, authority) = start();
    let good = authority.client("good");
    let (mut steady, certificate) = connect_tls(process.addresses[1], &good, "steady");
    for file in ["weirmq.toml", "users", "server.pem", "server.key", "ca.pem", "ca.crl"] {
        let path = process.folder.path().join(file);
        let right = fs::read_to_string(&path).expect("a file");
        fs::remove_file(&path).expect("removed");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        reload(&process, "not reloaded: everything stays as it was");
        let log = process.log();
        let said = log.lines().rfind(|line| line.contains("not reloaded")).expect("it is said");
        assert!(said.contains(&format!("{file}: not a file")), "{said}");
        steady.ping();
        assert_eq!(connect_tls(process.addresses[1], &good, "again").1, certificate);
        replace(&path, &right);
    }
    reload(&process, "INFO reloaded");
}

#[test]
fn certificates_and_revocations_are_taken_up_when_their_files_change() {
    let (process, authority) = start();
    let tls = process.addresses[1];
    let (good, bad) = (authority.client("good"), authority.client("bad"));
    let (mut steady, _) = connect_tls(tls, &good, "steady");
    let (mut revoked, _) = connect_tls(tls, &bad, "revoked");
    // What is torn is not used, and what comes after it is.
    fs::write(process.folder.path().join("ca.crl"), "torn").expect("written");
    eventually("it is said", || process.log().contains("what they held before stays in use"));
    revoked.ping();
    authority.revoke(&[11]);
    assert_eq!(revoked.expect_disconnect(), ReasonCode::NotAuthorized);
    authority.sign("server", 2);
    let new = authority.der("server");
    eventually("the new certificate", || connect_tls(tls, &good, "newcomer").1 == new.as_ref());
    steady.ping();
}

#[test]
fn listeners_come_and_go_and_what_takes_a_restart_is_named() {
    let process = Process::start(crate::CONFIG, |_| {});
    let first = process.addresses[0];
    let mut steady = Client::connect(first, Version::V5, "steady");
    let path = process.folder.path().join("weirmq.toml");
    let socket = process.folder.path().join("mqtt.sock");
    let unix = format!("[[listener]]\nbind = \"unix:{}\"\nallow_anonymous = true\n", socket.display());
    let debug = "[log]\nlevel = \"debug\"\nformat = \"json\"\n";
    fs::write(&path, format!("data_dir = \"elsewhere\"\n{}{unix}{debug}", crate::CONFIG)).expect("written");
    reload(&process, "INFO reloaded");
    for key in ["data_dir", "log.format"] {
        assert!(
            process.log().contains(&format!("takes a restart: until then the old value holds key=\"{key}\"")),
            "{key}"
        );
    }
    assert!(!process.log().contains("key=\"shards\""));
    let mut local = Client::open_unix(&socket, Version::V5);
    local.hello("local");
    steady.ping();
    // The level of the log holds at once.
    drop(std::net::TcpStream::connect(first).expect("accepted"));
    eventually("a line for those who debug", || process.log().contains("closed without a byte"));
    // Without its listener, who is in stays, and nobody else comes.
    fs::write(&path, format!("shards = 2\n{unix}")).expect("written");
    reload(&process, "INFO reloaded");
    eventually("the port is closed", || std::net::TcpStream::connect(first).is_err());
    steady.ping();
    local.ping();
    Client::open_unix(&socket, Version::V5).hello("second");
}

#[test]
fn limits_and_rules_hold_from_the_reload_on() {
    let config =
        Config { shards: 2, store: nothing_kept(), listeners: vec![on_any_port()], ..Config::default() };
    let mut server = weirmq::server::Server::start(config.clone()).expect("it starts");
    let address = server.addresses()[0];
    let (mut taker, _) = Client::resume(address, Version::V5, "taker");
    taker.subscribe("$share/g/t", QoS::AtLeastOnce);
    let mut giver = Client::connect(address, Version::V5, "giver");
    assert_eq!(giver.publish("t", QoS::AtLeastOnce, b"one"), ReasonCode::Success);
    taker.expect_publish("t", b"one");

    let mut narrow = config.clone();
    narrow.limits.topic_length = 4;
    narrow.limits.max_connections = 2;
    narrow.queues[0].max_bytes = 10;
    server.reload(narrow).expect("it can be used").wait();
    assert_eq!(giver.publish("t", QoS::AtLeastOnce, &[0; 1000]), ReasonCode::QuotaExceeded);
    assert_eq!(giver.publish("t/345", QoS::AtLeastOnce, b"x"), ReasonCode::TopicNameInvalid);
    let mut third = Client::open(address, Version::V5);
    third.send(&Packet::Connect(connect(Version::V5, "third", true)));
    assert_eq!(third.refused(), ReasonCode::ServerBusy);

    server.reload(config).expect("it can be used").wait();
    giver.ping();
    assert_eq!(giver.publish("t", QoS::AtLeastOnce, b"three"), ReasonCode::Success);
    taker.expect_publish("t", b"three");
    Client::connect(address, Version::V5, "third").ping();
}
