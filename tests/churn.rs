//! Connections made and dropped in every way that there is, plain and over TLS: afterwards the broker's memory,
//! descriptors and tables are as they were. `WEIRMQ_CHURN` says how many connections.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod process;
    pub mod world;
}

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::client::*;
use common::process::{Process, dev_certs};
use rustls::ClientConfig;
use socket2::{Domain, SockRef, Socket, Type};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

const CONFIG: &str = r#"
shards = 2
sys_interval = "1s"

# So that a connection which is counted for ever shows.
[limits]
max_connections = 256

[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true

[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
[listener.tls]
cert = "{dir}/certs/server.pem"
key = "{dir}/certs/server.key"
"#;

/// How many threads make connections.
const WORKERS: usize = 4;

/// By how much resident memory may differ between a tenth of the run and all of it.
const MARGIN: usize = 2 * 1024 * 1024;

/// What one worker does over and over, each time under names that were never used before.
const WAYS: [fn(&mut Worker); 14] = [
    Worker::says_goodbye,
    Worker::says_nothing,
    Worker::is_cut_and_leaves_a_will,
    Worker::is_reset_with_exchanges_open,
    Worker::is_taken_over,
    Worker::storms_one_session,
    Worker::sends_half_a_connect,
    Worker::is_refused,
    Worker::breaks_the_protocol,
    Worker::subscribes,
    Worker::works_in_a_share_group,
    Worker::retains_and_clears,
    Worker::leaves_a_session_and_ends_it,
    Worker::leaves_a_session_to_expire,
];

struct Worker {
    number: usize,
    round: usize,
    sockets: usize,
    plain: SocketAddr,
    tls: SocketAddr,
    config: Arc<ClientConfig>,
}

/// Brings a worker from way to way until `made` connections are `wanted`.
fn churn(workers: &mut [Worker], wanted: usize) {
    let made = AtomicUsize::new(0);
    thread::scope(|scope| {
        for worker in workers {
            let made = &made;
            scope.spawn(move || {
                while made.load(Relaxed) < wanted {
                    let before = worker.sockets;
                    WAYS[worker.round % WAYS.len()](worker);
                    worker.round += 1;
                    made.fetch_add(worker.sockets - before, Relaxed);
                }
            });
        }
    });
}

impl Worker {
    fn name(&self, what: &str) -> String {
        format!("{what}-{}-{}", self.number, self.round)
    }

    /// Every way comes in every version.
    fn version(&self) -> Version {
        [Version::V5, Version::V4, Version::V3][self.round / WAYS.len() % 3]
    }

    /// And one time in eight over TLS.
    fn over_tls(&self) -> bool {
        (self.round / WAYS.len()).is_multiple_of(8)
    }

    /// A socket with an address of its own, so that ports which rest in TIME_WAIT do not run out.
    fn socket(&mut self, address: SocketAddr) -> TcpStream {
        let [high, low] = (self.sockets as u16).to_be_bytes();
        self.sockets += 1;
        let source = SocketAddr::from((Ipv4Addr::new(127, 100 + self.number as u8, high, low), 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&source.into()).expect("an address of loopback");
        socket.connect(&address.into()).expect("the broker accepts");
        socket.into()
    }

    fn open(&mut self) -> Client {
        if !self.over_tls() {
            let socket = self.socket(self.plain);
            return Client::over(socket, self.version());
        }
        let socket = self.socket(self.tls);
        let opened = Client::over_tls(socket, self.version(), &self.config, "localhost");
        opened.expect("a handshake").0
    }

    fn connect(&mut self, client_id: &str) -> Client {
        self.connect_with(connect(self.version(), client_id, true))
    }

    fn connect_with(&mut self, connect: Connect<'_>) -> Client {
        let mut client = self.open();
        client.send(&Packet::Connect(connect));
        client.accepted();
        client
    }

    /// A session that outlives its connection by an hour (before 5.0: by as long as the broker keeps it).
    fn connect_to_stay(&mut self, client_id: &str, seconds: u32) -> Client {
        let mut properties = PropertiesBuf::new();
        if self.version() == Version::V5 {
            properties.push(Property::SessionExpiryInterval(seconds));
        }
        let properties = properties.as_properties();
        self.connect_with(Connect { properties, ..connect(self.version(), client_id, false) })
    }

    fn says_goodbye(&mut self) {
        self.connect(&self.name("goodbye")).disconnect();
    }

    fn says_nothing(&mut self) {
        let address = if self.over_tls() { self.tls } else { self.plain };
        drop(self.socket(address));
    }

    fn is_cut_and_leaves_a_will(&mut self) {
        let topic = self.name("will");
        let mut heir = self.connect(&self.name("heir"));
        heir.subscribe(&topic, QoS::AtLeastOnce);
        let will = LastWill {
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::EMPTY,
            topic: &topic,
            payload: b"gone",
        };
        let id = self.name("cut");
        drop(self.connect_with(Connect { will: Some(will), ..connect(self.version(), &id, true) }));
        heir.expect_publish(&topic, b"gone");
        heir.disconnect();
    }

    /// Neither side has finished what it began.
    fn is_reset_with_exchanges_open(&mut self) {
        let topic = self.name("open");
        let mut client = self.connect(&self.name("reset"));
        client.subscribe(&topic, QoS::ExactlyOnce);
        for (id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
            let packet_id = PacketId::new(id);
            client.send(&Packet::Publish(Publish { packet_id, ..message(&topic, qos, "x") }));
        }
        client.wait_for(|packet| matches!(packet, Packet::PubRec(_)));
        client.reset();
    }

    fn is_taken_over(&mut self) {
        let id = self.name("twice");
        let mut first = self.connect(&id);
        first.subscribe(&self.name("twice/of"), QoS::AtLeastOnce);
        let second = self.connect(&id);
        if first.version == Version::V5 {
            assert_eq!(first.expect_disconnect(), ReasonCode::SessionTakenOver);
        } else {
            first.expect_closed();
        }
        second.disconnect();
    }

    /// All workers at once: whoever comes last has it, if only for a moment.
    fn storms_one_session(&mut self) {
        let mut client = self.open();
        client.send(&Packet::Connect(connect(self.version(), "storm", true)));
        let _ = client.poll(PATIENCE);
        client.reset();
    }

    fn sends_half_a_connect(&mut self) {
        let mut socket = self.socket(self.plain);
        socket.write_all(b"\x10\x20\0\x04MQTT\x05\x02").expect("sent");
        drop(socket);
        let mut socket = self.socket(self.tls);
        socket.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).expect("sent");
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    fn is_refused(&mut self) {
        let id = "x".repeat(300);
        let mut client = self.open();
        client.send(&Packet::Connect(connect(self.version(), &id, true)));
        assert_eq!(client.refused(), ReasonCode::ClientIdentifierNotValid);
        let mut client = self.open();
        client.send_bytes(b"\x30\x03\0\x01t");
        client.expect_closed();
    }

    fn breaks_the_protocol(&mut self) {
        let id = self.name("second");
        let mut client = self.connect(&id);
        client.subscribe(&self.name("second/of"), QoS::AtMostOnce);
        client.send(&Packet::Connect(connect(self.version(), &id, true)));
        if client.version == Version::V5 {
            assert_eq!(client.expect_disconnect(), ReasonCode::ProtocolError);
        } else {
            client.expect_closed();
        }
    }

    fn subscribes(&mut self) {
        let topic = self.name("plain/and");
        let mut client = self.connect(&self.name("subscriber"));
        for filter in [topic.clone(), format!("{topic}/#"), format!("+/{}", self.name("and"))] {
            client.subscribe(&filter, QoS::AtLeastOnce);
        }
        client.publish(&topic, QoS::AtLeastOnce, b"payload");
        client.expect_publish(&topic, b"payload");
        drop(client);
    }

    /// One member takes a message to its grave, the other gets it.
    fn works_in_a_share_group(&mut self) {
        let topic = self.name("work");
        let filter = format!("$share/{}/{topic}/+", self.name("group"));
        let mut members = [self.connect(&self.name("first")), self.connect(&self.name("second"))];
        for member in &mut members {
            member.subscribe(&filter, QoS::AtLeastOnce);
        }
        for number in ["1", "2"] {
            members[1].publish(&format!("{topic}/{number}"), QoS::AtLeastOnce, b"job");
        }
        let [mut first, mut second] = members;
        first.wait_for(|packet| matches!(packet, Packet::Publish(_)));
        first.reset();
        second.take_publish();
        second.take_publish();
        second.ping();
        drop(second);
    }

    fn retains_and_clears(&mut self) {
        let topic = self.name("retained/a/b");
        let mut client = self.connect(&self.name("keeper"));
        for payload in ["kept", ""] {
            client.send(&Packet::Publish(Publish {
                retain: true,
                ..message(&topic, QoS::AtLeastOnce, payload)
            }));
            client.wait_for(|packet| matches!(packet, Packet::PubAck(_)));
        }
        client.reset();
    }

    fn leaves_a_session_and_ends_it(&mut self) {
        let (id, topic) = (self.name("durable"), self.name("queue"));
        let mut client = self.connect_to_stay(&id, 3600);
        client.subscribe(&topic, QoS::ExactlyOnce);
        client.subscribe(&format!("$share/{}/{topic}", self.name("durables")), QoS::AtLeastOnce);
        client.publish(&topic, QoS::ExactlyOnce, b"online");
        drop(client);
        let mut publisher = self.connect(&self.name("publisher"));
        publisher.publish(&topic, QoS::AtLeastOnce, b"offline");
        publisher.disconnect();
        self.connect(&id).disconnect();
    }

    /// Before 5.0 a session does not expire in an hour; it is ended as above.
    fn leaves_a_session_to_expire(&mut self) {
        let (id, topic) = (self.name("brief"), self.name("wait"));
        let mut client = self.connect_to_stay(&id, 1);
        client.subscribe(&topic, QoS::AtLeastOnce);
        client.send(&Packet::Publish(message(&topic, QoS::AtLeastOnce, "unacknowledged")));
        client.wait_for(|packet| matches!(packet, Packet::Publish(_)));
        drop(client);
        if self.version() != Version::V5 {
            self.connect(&id).disconnect();
        }
    }
}

/// A client that stays, and what it has heard of the broker's counts.
struct Watcher {
    client: Client,
    heard: BTreeMap<String, String>,
}

impl Watcher {
    fn new(address: SocketAddr) -> Watcher {
        let mut client = Client::connect(address, Version::V5, "watcher");
        client.subscribe("$SYS/broker/#", QoS::AtMostOnce);
        Watcher { client, heard: BTreeMap::new() }
    }

    /// Waits until the broker says that there is nothing but this client.
    fn expect_nothing_else(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_alone() {
            assert!(Instant::now() < deadline, "the broker still has something: {:#?}", self.heard);
            if let Ok(Some(frame)) = self.client.poll(Duration::from_millis(100)) {
                let publish = frame.publish();
                let value = String::from_utf8_lossy(publish.payload).into_owned();
                self.heard.insert(publish.topic.trim_start_matches("$SYS/broker/").to_owned(), value);
            }
        }
    }

    fn is_alone(&self) -> bool {
        // What it has heard of is what is retained.
        let retained = self.heard.len().to_string();
        [
            ("clients/connected", "1"),
            ("clients/disconnected", "0"),
            ("clients/total", "1"),
            ("subscriptions/count", "1"),
            ("shared_subscriptions/count", "0"),
            ("store/messages/count", "0"),
            ("store/messages/bytes", "0"),
            ("retained messages/count", &retained),
        ]
        .iter()
        .all(|(name, value)| self.heard.get(*name).is_some_and(|heard| heard == value))
    }
}

fn descriptors(process: &Process) -> usize {
    let all = std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs");
    let targets = all.filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok());
    // The store opens and recycles files of its own accord.
    targets.filter(|target| !target.starts_with(process.folder.path())).count()
}

/// The broker waits a moment for the other side of what it closes.
fn expect_descriptors(process: &Process, expected: usize) {
    let deadline = Instant::now() + PATIENCE;
    while descriptors(process) != expected {
        assert!(Instant::now() < deadline, "{} descriptors, not {expected}", descriptors(process));
        thread::sleep(Duration::from_millis(10));
    }
}

/// Resident memory in bytes.
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    1024 * line.trim_end_matches("kB").trim().parse::<usize>().expect("a number")
}

#[test]
fn connections_made_and_dropped_leave_everything_as_it_was() {
    let wanted = std::env::var("WEIRMQ_CHURN").map_or(5_000, |count| count.parse().expect("a number"));
    let process = Process::start(CONFIG, dev_certs);
    let config = trusting(&process.folder.path().join("certs/ca.pem"));
    let mut watcher = Watcher::new(process.addresses[0]);
    watcher.expect_nothing_else();
    let opened = descriptors(&process);
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|number| Worker {
            number,
            round: 0,
            sockets: 0,
            plain: process.addresses[0],
            tls: process.addresses[1],
            config: config.clone(),
        })
        .collect();
    // A tenth of the run shows what the same load takes once and keeps.
    churn(&mut workers, wanted / 10);
    watcher.expect_nothing_else();
    let before = resident(&process);
    churn(&mut workers, wanted - wanted / 10);
    watcher.expect_nothing_else();
    expect_descriptors(&process, opened);
    let after = resident(&process);
    let made: usize = workers.iter().map(|worker| worker.sockets).sum();
    println!("{made} connections: {opened} descriptors again, {before} resident bytes became {after}");
    assert!(made >= wanted);
    assert!(after <= before + MARGIN, "resident memory grew from {before} to {after} bytes");
}
