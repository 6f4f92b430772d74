//! The broker's core without sockets, threads or kernel: what a packet costs to read, to match, to write and to carry all
//! the way through a shard. A change is tried here first; whether it matters, `scenarios` says.
//!
//! Each figure is the fastest of many short samples, in nanoseconds: what the code costs when nothing disturbs it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weirmq::broker::interest::Interest;
use weirmq::broker::outbox::Credits;
use weirmq::broker::retained::RetainedLimits;
use weirmq::broker::shard::{Attach, ConnectionId, Shard, ShardSettings};
use weirmq::broker::shared::Shared;
use weirmq::broker::subscriptions::{Subscription, Subscriptions};
use weirmq::limits::{Limits, QueueRule};
use weirmq::message::PeerId;
use weirmq::principal::Principal;
use weirmq::protocol::codec::{self, PublishHeader};
use weirmq::protocol::packet::{Connect, Packet, PacketId, Publish, QoS, Version};
use weirmq::protocol::properties::Properties;
use weirmq::stats::Stats;
use weirmq::store::memory::MemoryStore;

const SAMPLE: Duration = Duration::from_millis(5);
const SAMPLES: usize = 60;

/// What is measured: a call, how many things it does, and what they are.
struct Case {
    unit: &'static str,
    per_call: usize,
    call: Box<dyn FnMut()>,
}

fn main() {
    // `cargo bench` adds --bench. For an instruction counter: --calls N makes N calls of each case and no clock.
    let mut wanted = Vec::new();
    let mut calls = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--calls" => calls = args.next().and_then(|number| number.parse().ok()),
            name => wanted.push(name.to_owned()),
        }
    }
    for (name, make) in CASES {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let mut case = make();
        match calls {
            Some(calls) => (0..calls).for_each(|_| (case.call)()),
            None => println!("{name:24} {:9.1} ns per {}", measure(&mut case), case.unit),
        }
    }
}

type Make = fn() -> Case;

const CASES: &[(&str, Make)] = &[
    ("decode_publish_64", || decode_publish(Version::V4, 64)),
    ("decode_publish_v5_64", || decode_publish(Version::V5, 64)),
    ("encode_header", encode_header),
    ("route_100k_filters", route),
    ("match_100k_filters", matching),
    ("match_one_topic", matching_one),
    ("shard_fan0", || fan(QoS::AtMostOnce)),
    ("shard_fan1", || fan(QoS::AtLeastOnce)),
    ("shard_pair0", || pairs(QoS::AtMostOnce)),
    ("shard_pair1", || pairs(QoS::AtLeastOnce)),
];

/// Nanoseconds per thing done.
fn measure(case: &mut Case) -> f64 {
    let mut calls = 1_u32;
    // As many calls as fill a sample; they warm up as well.
    loop {
        let start = Instant::now();
        (0..calls).for_each(|_| (case.call)());
        if start.elapsed() >= SAMPLE {
            break;
        }
        calls *= 2;
    }
    let sample = || {
        let start = Instant::now();
        (0..calls).for_each(|_| (case.call)());
        start.elapsed()
    };
    let best = std::iter::repeat_with(sample).take(SAMPLES).min().unwrap_or_default();
    best.as_secs_f64() * 1e9 / f64::from(calls) / case.per_call as f64
}

fn publish(version: Version, qos: QoS, topic: &str, payload: usize, id: u16) -> Vec<u8> {
    let packet = Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(id).filter(|_| qos > QoS::AtMostOnce),
        properties: Properties::EMPTY,
        payload: &vec![b'x'; payload],
    });
    let mut bytes = Vec::new();
    codec::encode(version, &packet, &mut bytes);
    bytes
}

fn decode_publish(version: Version, payload: usize) -> Case {
    let bytes = publish(version, QoS::AtMostOnce, "site/17/dev/42/temp", payload, 1);
    let call = move || {
        let size = codec::frame(Some(version), black_box(&bytes), 1 << 20);
        let packet = codec::decode(version, black_box(&bytes));
        black_box((size.is_ok(), packet.is_ok()));
    };
    Case { unit: "packet", per_call: 1, call: Box::new(call) }
}

fn encode_header() -> Case {
    let mut out = Vec::with_capacity(128);
    let call = move || {
        out.clear();
        let header = PublishHeader {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: black_box(b"site/17/dev/42/temp"),
            packet_id: None,
            properties: &[],
            extra: &[],
            payload_len: 64,
        };
        header.encode(Version::V4, &mut out);
        black_box(&out);
    };
    Case { unit: "header", per_call: 1, call: Box::new(call) }
}

const DEVICES: usize = 25_000;

/// Four filters for each device, of which three match each of its topics.
fn filters() -> impl Iterator<Item = String> {
    (0..DEVICES).flat_map(|device| {
        let (site, unit) = (device / 100, device % 100);
        [
            format!("site/{site}/dev/{unit}/+"),
            format!("site/{site}/dev/{unit}/#"),
            format!("site/{site}/+/{unit}/temp"),
            format!("+/{site}/dev/{unit}/hum"),
        ]
    })
}

fn topics() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(3);
    let topic = |_| {
        let device = random.usize(..DEVICES);
        let kind = ["temp", "hum"][random.usize(..2)];
        format!("site/{}/dev/{}/{kind}", device / 100, device % 100)
    };
    (0..50_000).map(topic).collect()
}

fn route() -> Case {
    let mut interest = Interest::new();
    for (index, filter) in filters().enumerate() {
        interest.add_peer(&filter, PeerId((index % 2) as u16));
    }
    let mut topics = topics().into_iter().cycle_through();
    let call = move || {
        black_box(interest.route(topics.next(), None));
    };
    Case { unit: "topic", per_call: 1, call: Box::new(call) }
}

/// More topics than the cache of results holds.
fn matching() -> Case {
    let mut subscriptions = Subscriptions::new();
    for (index, filter) in filters().enumerate() {
        subscriptions.insert(&filter, subscription(index as u32 % 1000));
    }
    let mut topics = topics().into_iter().cycle_through();
    let call = move || {
        black_box(subscriptions.matching(topics.next(), None));
    };
    Case { unit: "topic", per_call: 1, call: Box::new(call) }
}

fn matching_one() -> Case {
    let mut subscriptions = Subscriptions::new();
    for session in 0..1000 {
        subscriptions.insert("fan/prices", subscription(session));
    }
    let call = move || {
        black_box(subscriptions.matching(black_box("fan/prices"), None));
    };
    Case { unit: "topic", per_call: 1, call: Box::new(call) }
}

fn subscription(session: u32) -> Subscription {
    let (no_local, retain_as_published, identifier, since) = (false, false, 0, 0);
    Subscription { session, qos: QoS::AtMostOnce, no_local, retain_as_published, identifier, since }
}

/// A list that begins again at its end.
struct Cycle(Vec<String>, usize);

trait CycleThrough: Iterator<Item = String> + Sized {
    fn cycle_through(self) -> Cycle {
        Cycle(self.collect(), 0)
    }
}

impl<I: Iterator<Item = String>> CycleThrough for I {}

impl Cycle {
    fn next(&mut self) -> &str {
        self.1 = (self.1 + 1) % self.0.len();
        &self.0[self.1]
    }
}

/// A shard with clients.
struct Bench {
    now: Instant,
    shard: Shard,
}

impl Bench {
    fn new() -> Bench {
        let limits = Arc::new(Limits { max_inflight: 1000, ..Limits::default() });
        let retained = RetainedLimits { messages: limits.retained_messages, bytes: limits.retained_bytes };
        let now = Instant::now();
        let settings = ShardSettings {
            id: PeerId(0),
            peers: 1,
            seed: 1,
            limits,
            share_rules: Arc::default(),
            queue_rules: vec![QueueRule::default()].into(),
            sys_interval: Duration::ZERO,
            stats: vec![Arc::new(Stats::default())].into(),
            credits: Arc::new(Credits::new(1)),
        };
        let shared = Arc::new(Shared::new(retained));
        Bench { now, shard: Shard::new(settings, shared, Box::new(MemoryStore::default()), now) }
    }

    fn connect(&mut self, client_id: &str, filter: Option<&str>, qos: QoS) -> ConnectionId {
        let connect = Connect {
            version: Version::V4,
            clean_start: true,
            keep_alive: 0,
            properties: Properties::EMPTY,
            client_id,
            will: None,
            username: None,
            password: None,
        };
        let principal = &Principal::ANONYMOUS;
        let attach = Attach { connect: &connect, client_id, assigned: false, principal };
        let connection = self.shard.connect(self.now, attach).expect("a client that is welcome");
        if let Some(filter) = filter {
            let [qos, filter_len] = [qos as u8, filter.len() as u8];
            let mut bytes = vec![0x82, filter_len + 5, 0, 1, 0, filter_len];
            bytes.extend_from_slice(filter.as_bytes());
            bytes.push(qos);
            self.shard.receive(self.now, connection, &bytes);
        }
        self.turn();
        connection
    }

    /// Delivers and writes everything, into nothing.
    fn turn(&mut self) {
        while self.shard.work(self.now) {}
        while let Some(connection) = self.shard.next_dirty() {
            let Some(outbound) = self.shard.outbound(connection) else { continue };
            let len = outbound.len();
            outbound.consume(len);
            self.shard.flushed(self.now, connection);
        }
    }
}

/// How many publishes a read brings.
const READ: usize = 64;

/// One read of a publisher, and the acknowledgements of it.
fn read_of(qos: QoS, topic: &str, payload: usize) -> Vec<u8> {
    (1..=READ as u16).flat_map(|id| publish(Version::V4, qos, topic, payload, id)).collect()
}

/// Acknowledges as a subscriber does; packet ids go on from call to call.
fn acknowledge(bench: &mut Bench, subscriber: ConnectionId, from: u16) {
    let mut bytes = Vec::with_capacity(4 * READ);
    for step in 0..READ as u16 {
        let id = packet_id(from, step);
        bytes.extend_from_slice(&[0x40, 2, (id >> 8) as u8, id as u8]);
    }
    bench.shard.receive(bench.now, subscriber, &bytes);
}

fn packet_id(from: u16, step: u16) -> u16 {
    ((u32::from(from) - 1 + u32::from(step)) % 65_535 + 1) as u16
}

fn fan(qos: QoS) -> Case {
    const SUBSCRIBERS: usize = 200;
    let mut bench = Bench::new();
    let subscribers: Vec<_> =
        (0..SUBSCRIBERS).map(|i| bench.connect(&format!("s{i}"), Some("fan/prices"), qos)).collect();
    let publisher = bench.connect("p", None, qos);
    let bytes = read_of(qos, "fan/prices", 64);
    let mut next = 1;
    let call = move || {
        bench.shard.receive(bench.now, publisher, &bytes);
        bench.turn();
        if qos > QoS::AtMostOnce {
            subscribers.iter().for_each(|subscriber| acknowledge(&mut bench, *subscriber, next));
            next = packet_id(next, READ as u16);
        }
    };
    Case { unit: "delivery", per_call: READ * SUBSCRIBERS, call: Box::new(call) }
}

fn pairs(qos: QoS) -> Case {
    const PAIRS: usize = 25;
    let mut bench = Bench::new();
    let pairs: Vec<_> = (0..PAIRS)
        .map(|i| {
            let topic = format!("pairs/{i:02}/orders");
            let subscriber = bench.connect(&format!("s{i}"), Some(&topic), qos);
            let publisher = bench.connect(&format!("p{i}"), None, qos);
            (publisher, subscriber, read_of(qos, &topic, 256))
        })
        .collect();
    let mut next = 1;
    let call = move || {
        for (publisher, _, bytes) in &pairs {
            bench.shard.receive(bench.now, *publisher, bytes);
        }
        bench.turn();
        if qos > QoS::AtMostOnce {
            pairs.iter().for_each(|(_, subscriber, _)| acknowledge(&mut bench, *subscriber, next));
            next = packet_id(next, READ as u16);
        }
    };
    Case { unit: "delivery", per_call: READ * PAIRS, call: Box::new(call) }
}
