//! Everything that a reload can change, changed while clients are at work: what is new holds at once, whoever has lost what
//! let him in goes, nobody else does, no message is lost, and a mistake in any file changes nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use rustls::ClientConfig;
use weirmq::auth::hash::Hash;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

use crate::authority::{Authority, replace};
use crate::common::client::*;
use crate::common::process::Process;
use crate::eventually;
use crate::reload::reload;

const CONFIG: &str = "shards = 2
[[listener]]
bind = \"127.0.0.1:0\"
[[listener]]
bind = \"127.0.0.1:0\"
[listener.tls]
cert = \"{dir}/server.pem\"
key = \"{dir}/server.key\"
client_ca = \"{dir}/ca.pem\"
client_crl = \"{dir}/ca.crl\"
identity_from = \"cn\"
[auth]
password_file = \"{dir}/users\"
acl_file = \"{dir}/acl\"
failure_delay = \"0s\"
";

/// The users with passwords, who have their names for them.
const USERS: [&str; 4] = ["ann", "bob", "carl", "dora"];

const REFUSED: &str = "not reloaded: everything stays as it was";

/// A password file with these users and passwords.
fn write_users(folder: &Path, users: &[(&str, &str)]) {
    let line = |(user, password): &(&str, &str)| {
        let hash = Hash::argon2id(password.as_bytes(), [7; 16], (64, 1, 1)).expect("a hash");
        format!("{user}:{}\n", hash.encode())
    };
    replace(&folder.join("users"), &users.iter().map(line).collect::<String>());
}

/// An ACL file in which these lines are about dora, and the others may do everything.
fn write_acl(folder: &Path, dora: &str) {
    let others = ["ann", "bob", "carl", "good", "bad"].map(|user| format!("user {user}\ntopic #\n")).concat();
    replace(&folder.join("acl"), &format!("user dora\n{dora}{others}"));
}

struct Scene {
    process: Process,
    authority: Authority,
    good: Arc<ClientConfig>,
    bad: Arc<ClientConfig>,
}

impl Scene {
    fn new() -> Scene {
        let mut authority = None;
        let process = Process::start(CONFIG, |folder| {
            let made = Authority::new(folder);
            made.sign("good", 10);
            made.sign("bad", 11);
            write_users(folder, &USERS.map(|user| (user, user)));
            write_acl(folder, "topic wide/#\n");
            authority = Some(made);
        });
        let authority = authority.expect("prepared");
        let (good, bad) = (authority.client("good"), authority.client("bad"));
        Scene { process, authority, good, bad }
    }

    fn folder(&self) -> &Path {
        self.process.folder.path()
    }

    fn plain(&self) -> SocketAddr {
        self.process.addresses[0]
    }

    fn tls(&self) -> SocketAddr {
        self.process.addresses[1]
    }

    /// A client of the listener without TLS that sends these credentials.
    fn ask(&self, user: &str, password: &str, id: &str) -> Client {
        asking(Client::open(self.plain(), Version::V5), Some((user, password)), id)
    }

    fn log_in(&self, user: &str, id: &str) -> Client {
        let mut client = self.ask(user, user, id);
        client.accepted();
        client
    }

    /// A client with a certificate; the broker's own.
    fn certified(&self, config: &Arc<ClientConfig>, id: &str) -> (Client, Vec<u8>) {
        let opened = Client::open_tls(self.tls(), Version::V5, config, "localhost");
        let (client, facts) = opened.expect("a handshake");
        let mut client = asking(client, None, id);
        client.accepted();
        (client, facts.certificate.expect("a certificate"))
    }

    /// Whether a client with this certificate comes in; with TLS 1.3 it learns that only after its handshake.
    fn lets_in(&self, config: &Arc<ClientConfig>) -> bool {
        let opened = Client::open_tls(self.tls(), Version::V5, config, "localhost");
        let Ok((mut client, _)) = opened else { return false };
        let hello = connect(Version::V5, "who", true);
        let mut bytes = Vec::new();
        weirmq::protocol::codec::encode(Version::V5, &Packet::Connect(hello), &mut bytes);
        client.try_send(&bytes).is_ok() && client.poll(PATIENCE).is_ok_and(|frame| frame.is_some())
    }
}

/// Sends a CONNECT. Its session, and so its queue, is on disk: one in memory may drop what a busy machine does not read in
/// time.
fn asking(mut client: Client, credentials: Option<(&str, &str)>, id: &str) -> Client {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::SessionExpiryInterval(3600));
    let properties = properties.as_properties();
    let username = credentials.map(|(user, _)| user);
    let password = credentials.map(|(_, password)| password.as_bytes());
    let connect = connect(Version::V5, id, true);
    client.send(&Packet::Connect(Connect { properties, username, password, ..connect }));
    client
}

/// A stream of numbers from one client to another, of which each is acknowledged and each is to arrive.
struct Stream {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU32>,
    publisher: JoinHandle<u32>,
    taker: JoinHandle<u32>,
}

/// What is published behind the last number.
const END: u32 = u32::MAX;

impl Stream {
    fn begin(topic: &'static str, qos: QoS, mut publisher: Client, mut taker: Client) -> Stream {
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        taker.subscribe(topic, qos);
        let (stopped, counter) = (stop.clone(), taken.clone());
        let publisher = thread::spawn(move || {
            let mut publish = |number: u32| {
                assert_eq!(publisher.publish(topic, qos, &number.to_be_bytes()), ReasonCode::Success);
            };
            let mut number = 0;
            while !stopped.load(SeqCst) {
                publish(number);
                number += 1;
            }
            publish(END);
            publisher.disconnect();
            number
        });
        let taker = thread::spawn(move || {
            loop {
                let frame = taker.take_publish();
                let number = u32::from_be_bytes(frame.publish().payload.try_into().expect("four bytes"));
                let taken = counter.load(SeqCst);
                if number == END {
                    taker.disconnect();
                    return taken;
                }
                assert_eq!(number, taken, "in order, without a gap and once");
                counter.store(number + 1, SeqCst);
            }
        });
        Stream { stop, taken, publisher, taker }
    }

    /// Waits until some more have arrived.
    #[track_caller]
    fn flows(&self) {
        let before = self.taken.load(SeqCst);
        eventually("messages arrive", || self.taken.load(SeqCst) >= before + 20);
    }

    /// Ends it, with every number at its taker; how many there were.
    fn end(self) -> u32 {
        self.stop.store(true, SeqCst);
        let published = self.publisher.join().expect("the publisher is well");
        assert_eq!(self.taker.join().expect("the taker is well"), published);
        published
    }
}

/// The clients that work all the time, and never notice anything.
struct Load([Stream; 3]);

/// Their client identifiers.
const WORKERS: [&str; 6] = ["ann-p", "bob-t", "good-p", "good-t", "ann-q", "good-u"];

impl Load {
    fn begin(scene: &Scene) -> Load {
        let certified = |id| scene.certified(&scene.good, id).0;
        Load([
            Stream::begin(
                "plain",
                QoS::AtLeastOnce,
                scene.log_in("ann", "ann-p"),
                scene.log_in("bob", "bob-t"),
            ),
            Stream::begin("tls", QoS::AtLeastOnce, certified("good-p"), certified("good-t")),
            Stream::begin("across", QoS::ExactlyOnce, scene.log_in("ann", "ann-q"), certified("good-u")),
        ])
    }

    fn flows(&self) {
        self.0.iter().for_each(Stream::flows);
    }
}

#[test]
fn under_load_every_change_holds_at_once_and_nobody_else_notices() {
    let scene = Scene::new();
    let load = Load::begin(&scene);
    load.flows();
    // The same again changes nothing: a ticket of before is still good for a shorter handshake.
    reload(&scene.process, "INFO reloaded");
    load.flows();
    let opened = Client::open_tls(scene.tls(), Version::V5, &scene.good, "localhost");
    assert!(opened.expect("a handshake").1.resumed);

    a_new_certificate_is_served(&scene);
    load.flows();
    a_revoked_client_is_cut(&scene);
    load.flows();
    users_without_their_password_are_cut(&scene);
    load.flows();
    a_right_that_is_taken_away_is_gone(&scene);
    load.flows();
    bad_files_change_nothing(&scene, &load);

    let counts = load.0.map(Stream::end);
    println!("{counts:?} messages, each acknowledged and delivered");
    for id in WORKERS {
        let said = format!(" disconnected client_id={id} ");
        scene.process.logged(&said);
        let log = scene.process.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&said)).collect();
        assert!(lines.len() == 1 && lines[0].contains("reason=\"DISCONNECT\""), "{lines:?}");
    }
}

fn a_new_certificate_is_served(scene: &Scene) {
    let (mut before, old) = scene.certified(&scene.good, "before");
    scene.authority.sign("server", 2);
    reload(&scene.process, "INFO reloaded");
    let (_, new) = scene.certified(&scene.good, "after");
    assert!(new != old && new == scene.authority.der("server").as_ref());
    before.ping();
    before.disconnect();
}

fn a_revoked_client_is_cut(scene: &Scene) {
    let (mut revoked, _) = scene.certified(&scene.bad, "revoked");
    revoked.ping();
    scene.authority.revoke(&[11]);
    reload(&scene.process, "INFO reloaded");
    assert_eq!(revoked.expect_disconnect(), ReasonCode::NotAuthorized);
    assert!(!scene.lets_in(&scene.bad), "a ticket of before does not help either");
    assert!(scene.lets_in(&scene.good));
}

fn users_without_their_password_are_cut(scene: &Scene) {
    // Carl's goes, and dora's is another one.
    let (mut carl, mut dora) = (scene.log_in("carl", "carl"), scene.log_in("dora", "dora"));
    write_users(scene.folder(), &[("ann", "ann"), ("bob", "bob"), ("dora", "new")]);
    reload(&scene.process, "INFO reloaded");
    for (client, user) in [(&mut carl, "carl"), (&mut dora, "dora")] {
        assert_eq!(client.expect_disconnect(), ReasonCode::NotAuthorized);
        assert_eq!(scene.ask(user, user, user).refused(), ReasonCode::BadUserNameOrPassword);
    }
    scene.ask("dora", "new", "dora").accepted();
}

/// Dora reads what ann publishes without a pause, and publishes herself, up to the moment from which she may not.
fn a_right_that_is_taken_away_is_gone(scene: &Scene) {
    let (mut reader, mut writer) = (scene.ask("dora", "new", "reader"), scene.ask("dora", "new", "writer"));
    reader.accepted();
    writer.accepted();
    reader.subscribe("wide/#", QoS::AtLeastOnce);
    assert_eq!(writer.publish("wide/x", QoS::AtLeastOnce, b"x"), ReasonCode::Success);
    let mut ann = scene.log_in("ann", "teller");
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (stopped, counter) = (stop.clone(), told.clone());
    let teller = thread::spawn(move || {
        let mut number = 0_u32;
        while !stopped.load(SeqCst) {
            counter.store(number, SeqCst);
            ann.publish("wide/secret", QoS::AtLeastOnce, &number.to_be_bytes());
            number += 1;
        }
        ann.publish("wide/open", QoS::AtLeastOnce, b"");
        ann.disconnect();
    });
    eventually("secrets are told", || told.load(SeqCst) > 20);
    write_acl(scene.folder(), "topic read wide/#\ntopic deny wide/secret\n");
    reload(&scene.process, "INFO reloaded");
    // The one under way may be one of before.
    let last = told.load(SeqCst);
    assert_eq!(writer.publish("wide/x", QoS::AtLeastOnce, b"x"), ReasonCode::NotAuthorized);
    eventually("more secrets are told", || told.load(SeqCst) > last + 20);
    stop.store(true, SeqCst);
    teller.join().expect("ann is well");
    let mut secrets = 0;
    loop {
        let frame = reader.take_publish();
        let publish = frame.publish();
        match publish.topic {
            "wide/secret" => {
                let number = u32::from_be_bytes(publish.payload.try_into().expect("four bytes"));
                assert!(number <= last, "{number} was published after {last}, when this was denied");
                secrets += 1;
            }
            "wide/open" => break,
            topic => assert_eq!(topic, "wide/x"),
        }
    }
    assert!(secrets > 0, "none before");
    reader.ping();
    writer.ping();
    reader.disconnect();
    writer.disconnect();
}

fn bad_files_change_nothing(scene: &Scene, load: &Load) {
    let path = |name: &str| scene.folder().join(name);
    let read = |name: &str| fs::read_to_string(path(name)).expect("a file");
    let (toml, users, acl) = (read("weirmq.toml"), read("users"), read("acl"));
    let key = |name: &str| {
        let line = toml.lines().position(|line| line.starts_with(name)).expect("it is there");
        format!("weirmq.toml:{}:", line + 1)
    };
    let torn = "-----BEGIN CERTIFICATE-----\nMIIB\n".to_owned();
    let cases: [(&str, String, &[&str]); 9] = [
        ("server.pem", torn.clone(), &[&key("cert"), "server.pem: "]),
        ("server.key", read("good.key"), &[&key("key"), "server.key: not the key of the certificate"]),
        ("ca.pem", torn.clone(), &[&key("client_ca"), "ca.pem: "]),
        ("ca.crl", torn, &[&key("client_crl"), "ca.crl: "]),
        ("acl", format!("{acl}topic raed secret\n"), &[&format!("acl:{}: ", acl.lines().count() + 1)]),
        ("users", format!("{users}zoe\n"), &["users:4: "]),
        ("users", String::new(), &["users: no user in it"]),
        ("weirmq.toml", toml.replace("shards = 2", "shards = 0"), &["weirmq.toml:1:10"]),
        ("weirmq.toml", toml.replace("acl_file", "acl_flie"), &[&key("acl_file")]),
    ];
    let certificate = scene.authority.der("server").to_vec();
    for (file, text, expected) in cases {
        let right = read(file);
        replace(&path(file), &text);
        reload(&scene.process, REFUSED);
        let log = scene.process.log();
        let said = log.lines().rfind(|line| line.contains(REFUSED)).expect("it is said");
        assert!(expected.iter().all(|part| said.contains(part)), "{file}: {expected:?} in {said}");
        // Each of the earlier changes is still in force.
        let (client, now) = scene.certified(&scene.good, "again");
        assert_eq!(now, certificate, "{file}");
        client.disconnect();
        assert!(!scene.lets_in(&scene.bad), "{file}");
        assert_eq!(scene.ask("carl", "carl", "carl").refused(), ReasonCode::BadUserNameOrPassword, "{file}");
        let mut dora = scene.ask("dora", "new", "dora");
        dora.accepted();
        assert_eq!(dora.publish("wide/x", QoS::AtLeastOnce, b"x"), ReasonCode::NotAuthorized, "{file}");
        dora.disconnect();
        load.flows();
        replace(&path(file), &right);
    }
    reload(&scene.process, "INFO reloaded");
    load.flows();
}
