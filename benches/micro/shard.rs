//! All the way through a shard: from a publisher's bytes to those in its subscribers' buffers, and their acknowledgements.

use weirmq::broker::shard::ConnectionId;
use weirmq::protocol::packet::{QoS, Version};
use weirmq::store::memory::MemoryStore;

use crate::bench::Bench;
use crate::traffic::{self, READ};
use crate::{Case, Work};

/// What a call counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// From the publishers' bytes to the subscribers' buffers.
    Delivery,
    /// What the subscribers acknowledge.
    Acknowledgement,
    /// Both.
    All,
}

/// Publishers and subscribers of which each subscriber takes the same number of messages.
struct Crowd {
    bench: Bench,
    qos: QoS,
    part: Part,
    /// What each publisher sends in a call.
    reads: Vec<(ConnectionId, Vec<u8>)>,
    subscribers: Vec<ConnectionId>,
    /// How many messages each subscriber takes.
    each: usize,
    next_id: u16,
}

impl Crowd {
    fn deliver(&mut self) {
        for (publisher, bytes) in &self.reads {
            self.bench.shard.receive(self.bench.now, *publisher, bytes);
        }
        self.bench.turn();
    }

    fn acknowledge(&mut self, bytes: &[u8]) {
        for subscriber in &self.subscribers {
            self.bench.shard.receive(self.bench.now, *subscriber, bytes);
        }
        self.bench.turn();
    }

    fn pubacks(&mut self) -> Vec<u8> {
        let bytes = traffic::pubacks(self.next_id, self.each);
        self.next_id = traffic::packet_id(self.next_id, self.each as u16);
        bytes
    }
}

/// A crowd, and the acknowledgements that its next call brings.
struct Round {
    crowd: Crowd,
    pubacks: Vec<u8>,
    /// The last call's deliveries are not acknowledged yet.
    owed: bool,
}

impl Work for Round {
    fn prepare(&mut self) {
        if self.crowd.part == Part::Acknowledgement {
            self.crowd.deliver();
        }
        if self.crowd.qos == QoS::AtMostOnce || (self.crowd.part == Part::Delivery && !self.owed) {
            return;
        }
        self.pubacks = self.crowd.pubacks();
        if self.owed {
            self.crowd.acknowledge(&self.pubacks);
        }
    }

    fn call(&mut self) {
        if self.crowd.part != Part::Acknowledgement {
            self.crowd.deliver();
        }
        if self.crowd.part != Part::Delivery {
            self.crowd.acknowledge(&self.pubacks);
        }
        self.owed = self.crowd.part == Part::Delivery;
    }
}

impl Crowd {
    fn case(self) -> Case {
        let unit = if self.part == Part::Acknowledgement { "acknowledgement" } else { "delivery" };
        let per_call = self.subscribers.len() * self.each;
        Case { unit, per_call, work: Box::new(Round { crowd: self, pubacks: Vec::new(), owed: false }) }
    }
}

/// One publisher, so many messages in one read, 100 subscribers.
fn fan(qos: QoS, each: usize, part: Part) -> Case {
    let mut bench = Bench::new(Box::new(MemoryStore::default()));
    let names = (0..100).map(|i| format!("s{i}"));
    let subscribers = names.map(|name| bench.connect(&name, true, ["fan/prices"], qos)).collect();
    let publisher = bench.connect("p", true, [], qos);
    let bytes = (1..=each as u16).flat_map(|id| traffic::publish(Version::V4, qos, "fan/prices", 64, id));
    let reads = vec![(publisher, bytes.collect())];
    Crowd { bench, qos, part, reads, subscribers, each, next_id: 1 }.case()
}

pub fn fan0() -> Case {
    fan(QoS::AtMostOnce, READ, Part::Delivery)
}

/// One message a turn: nothing is shared but the encoding.
pub fn fan0_single() -> Case {
    fan(QoS::AtMostOnce, 1, Part::Delivery)
}

pub fn fan1() -> Case {
    fan(QoS::AtLeastOnce, READ, Part::Delivery)
}

/// A turn's PUBACKs of all these subscribers.
pub fn acknowledge() -> Case {
    fan(QoS::AtLeastOnce, READ, Part::Acknowledgement)
}

fn pairs(qos: QoS, part: Part) -> Case {
    let mut bench = Bench::new(Box::new(MemoryStore::default()));
    let (mut reads, mut subscribers) = (Vec::new(), Vec::new());
    for pair in 0..25 {
        let topic = format!("pairs/{pair:02}/orders");
        subscribers.push(bench.connect(&format!("s{pair}"), true, [topic.as_str()], qos));
        let publisher = bench.connect(&format!("p{pair}"), true, [], qos);
        reads.push((publisher, traffic::read_of(qos, &topic, 256)));
    }
    Crowd { bench, qos, part, reads, subscribers, each: READ, next_id: 1 }.case()
}

pub fn pair0() -> Case {
    pairs(QoS::AtMostOnce, Part::Delivery)
}

/// With all acknowledgements, both ways.
pub fn pair1() -> Case {
    pairs(QoS::AtLeastOnce, Part::All)
}

/// Publishers of random topics among 100,000 filters.
struct Wild {
    bench: Bench,
    publishers: Vec<ConnectionId>,
    topics: Box<dyn Iterator<Item = String>>,
    reads: Vec<Vec<u8>>,
}

/// Messages of each publisher in a turn.
const WILD_READ: usize = 6;

impl Work for Wild {
    fn prepare(&mut self) {
        let topics = &mut self.topics;
        let publish = |topic: String| traffic::publish(Version::V4, QoS::AtMostOnce, &topic, 64, 1);
        let read = |_| topics.by_ref().take(WILD_READ).flat_map(publish).collect();
        self.reads = (0..self.publishers.len()).map(read).collect();
    }

    fn call(&mut self) {
        for (publisher, read) in self.publishers.iter().zip(&self.reads) {
            self.bench.shard.receive(self.bench.now, *publisher, read);
        }
        self.bench.turn();
    }
}

pub fn wild0() -> Case {
    let mut bench = Bench::new(Box::new(MemoryStore::default()));
    let filters: Vec<String> = traffic::filters().collect();
    for (client, filters) in filters.chunks(100).enumerate() {
        bench.connect(&format!("s{client}"), true, filters.iter().map(String::as_str), QoS::AtMostOnce);
    }
    let publishers: Vec<_> =
        (0..10).map(|i| bench.connect(&format!("p{i}"), true, [], QoS::AtMostOnce)).collect();
    let per_call = publishers.len() * WILD_READ * 3;
    let work = Wild { bench, publishers, topics: Box::new(traffic::topics()), reads: Vec::new() };
    Case { unit: "delivery", per_call, work: Box::new(work) }
}
