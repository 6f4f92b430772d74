//! A reload while clients are at work: what is new holds at once, whoever is revoked goes, nobody else does, no message is
//! lost, and a mistake changes nothing.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weirmq::config::Config;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

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

/// An authority whose files a broker reads.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        fs::write(folder.join("ca.pem"), issuer.pem()).expect("written");
        let authority = Authority { issuer, folder: folder.to_owned() };
        authority.sign("server", 1);
        authority.revoke(&[]);
        authority
    }

    /// A certificate with this serial number, and its key.
    fn sign(&self, name: &str, serial: u64) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from(serial));
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        replace(&file("key"), &key.serialize_pem());
        replace(&file("pem"), &signed.pem());
    }

    fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("signed");
        replace(&self.folder.join("ca.crl"), &list.pem().expect("PEM"));
    }

    /// A client that has this certificate.
    fn client(&self, name: &str) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der("ca")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.folder.join(format!("{name}.key"))).expect("a key");
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let builder = builder.with_root_certificates(roots);
        Arc::new(builder.with_client_auth_cert(vec![self.der(name)], key).expect("a pair"))
    }

    fn der(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.folder.join(format!("{name}.pem"))).expect("a certificate")
    }
}

/// Puts a file in the place of another at once, as those do who know how.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("its mode is set");
    fs::rename(new, path).expect("renamed");
}

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

/// A client that sends these credentials.
fn log_in(address: SocketAddr, user: &str, password: &str) -> Client {
    let mut client = Client::open(address, Version::V5);
    let credentials = connect(Version::V5, "logged-in", true);
    client.send(&Packet::Connect(Connect {
        username: Some(user),
        password: Some(password.as_bytes()),
        ..credentials
    }));
    client
}

fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>, id: &str) -> (Client, Vec<u8>) {
    let (mut client, facts) =
        Client::open_tls(address, Version::V5, config, "localhost").expect("a handshake");
    client.hello(id);
    (client, facts.certificate.expect("a certificate"))
}

/// Whether a client with this certificate comes in; with TLS 1.3 it learns that only after its handshake.
fn comes_in(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    let Ok((mut client, _)) = Client::open_tls(address, Version::V5, config, "localhost") else {
        return false;
    };
    client.send(&Packet::Connect(connect(Version::V5, "who", true)));
    client.poll(PATIENCE).is_ok_and(|frame| frame.is_some())
}

/// A stream of numbers from one client to another.
struct Stream {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU32>,
    publisher: JoinHandle<u32>,
    taker: JoinHandle<u32>,
}

/// What is published behind the last number.
const END: u32 = u32::MAX;

impl Stream {
    fn begin(address: SocketAddr, mut taker: Client) -> Stream {
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        taker.subscribe("t", QoS::AtLeastOnce);
        let stopped = stop.clone();
        let publisher = thread::spawn(move || {
            let mut publisher = Client::connect(address, Version::V5, "publisher");
            let mut publish = |number: u32| {
                let reason = publisher.publish("t", QoS::AtLeastOnce, &number.to_be_bytes());
                assert_eq!(reason, ReasonCode::Success);
            };
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                publish(number);
                number += 1;
            }
            publish(END);
            publisher.disconnect();
            number
        });
        let counter = taken.clone();
        let taker = thread::spawn(move || {
            loop {
                let frame = taker.take_publish();
                let Packet::Publish(publish) = frame.packet() else { unreachable!() };
                let number = u32::from_be_bytes(publish.payload.try_into().expect("four bytes"));
                let taken = counter.load(Ordering::Relaxed);
                if number == END {
                    taker.ping();
                    return taken;
                }
                assert_eq!(number, taken, "in order and without a gap");
                counter.store(number + 1, Ordering::Relaxed);
            }
        });
        Stream { stop, taken, publisher, taker }
    }

    /// Waits until some more have arrived.
    #[track_caller]
    fn flows(&self) {
        let before = self.taken.load(Ordering::Relaxed);
        eventually("messages arrive", || self.taken.load(Ordering::Relaxed) >= before + 100);
    }

    /// Ends it, with every number at its taker.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let published = self.publisher.join().expect("the publisher is well");
        assert_eq!(self.taker.join().expect("the taker is well"), published);
        println!("{published} messages");
    }
}

fn reload(process: &Process, expected: &str) {
    let before = process.log().matches(expected).count();
    signal(process, "HUP");
    eventually(expected, || process.log().matches(expected).count() > before);
}

#[test]
fn under_load_a_revoked_client_is_cut_and_nobody_else_and_no_message_is_lost() {
    let (process, authority) = start();
    let (plain, tls) = (process.addresses[0], process.addresses[1]);
    let (good, bad) = (authority.client("good"), authority.client("bad"));
    let (mut taker, facts) = Client::open_tls(tls, Version::V5, &good, "localhost").expect("a handshake");
    let old_certificate = facts.certificate.expect("a certificate");
    // Its queue is on disk: one in memory may drop what a busy machine does not read in time.
    let mut properties = PropertiesBuf::new();
    properties.push(Property::SessionExpiryInterval(3600));
    let properties = properties.as_properties();
    taker.send(&Packet::Connect(Connect { properties, ..connect(Version::V5, "taker", true) }));
    taker.accepted();
    let (mut revoked, _) = connect_tls(tls, &bad, "revoked");
    revoked.ping();
    let stream = Stream::begin(plain, taker);
    stream.flows();

    // The same again changes nothing: a ticket of before is still good for a shorter handshake.
    reload(&process, " reloaded");
    stream.flows();
    revoked.ping();
    let (_, facts) = Client::open_tls(tls, Version::V5, &good, "localhost").expect("a handshake");
    assert!(facts.resumed);

    let mut ann = log_in(plain, "ann", "first");
    ann.accepted();
    authority.sign("server", 2);
    authority.revoke(&[11]);
    set_password(process.folder.path(), "ann", "second");
    reload(&process, " reloaded");
    assert_eq!(ann.expect_disconnect(), ReasonCode::NotAuthorized);
    assert_eq!(log_in(plain, "ann", "first").refused(), ReasonCode::BadUserNameOrPassword);
    log_in(plain, "ann", "second").accepted();
    assert_eq!(revoked.expect_disconnect(), ReasonCode::NotAuthorized);
    assert!(!comes_in(tls, &bad), "a ticket of before does not help either");
    let (mut newcomer, new_certificate) = connect_tls(tls, &good, "newcomer");
    assert_ne!(old_certificate, new_certificate);
    assert_eq!(new_certificate, authority.der("server").as_ref());
    stream.flows();
    newcomer.ping();

    stream.end();
    // The publisher and the taker at their ends, the revoked one, and ann twice: nobody else, and these once.
    for client in ["publisher", "revoked"] {
        process.logged(&format!(" disconnected client_id={client} "));
    }
    let log = process.log();
    assert!(!log.contains(" disconnected client_id=newcomer"), "{log}");
    for (client, reason) in [("publisher", "DISCONNECT"), ("revoked", "not accepted any more")] {
        let said = format!(" disconnected client_id={client} ");
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&said)).collect();
        assert!(lines.len() == 1 && lines[0].contains(reason), "{lines:?}");
    }
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
    reload(&process, " reloaded");
    steady.ping();
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
    reload(&process, " reloaded");
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
    reload(&process, " reloaded");
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
