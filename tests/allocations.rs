//! What a message takes from the allocator on its way through a shard: once it has settled, two blocks for the message
//! itself, its contents and the count of who shares them, and nothing for a delivery, an acknowledgement or a turn.
#![allow(missing_docs)]

#[path = "../benches/micro/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "../benches/micro/traffic.rs"]
#[allow(dead_code)]
mod traffic;

use allocation_counter::measure;
use weirmq::broker::shard::ConnectionId;
use weirmq::protocol::packet::QoS;
use weirmq::store::memory::MemoryStore;

use bench::Bench;
use traffic::READ;

/// What a message takes.
const PER_MESSAGE: u64 = 2;

/// Turns before buffers and tables have the size that they keep.
const SETTLING: usize = 8;

/// Some publishers, each with subscribers of its own.
struct Scene {
    bench: Bench,
    qos: QoS,
    /// Each with what it sends in a turn: [`READ`] messages.
    publishers: Vec<(ConnectionId, Vec<u8>)>,
    subscribers: Vec<ConnectionId>,
    next_id: u16,
}

impl Scene {
    fn new(publishers: usize, subscribers: usize, qos: QoS) -> Scene {
        let mut bench = Bench::new(Box::new(MemoryStore::default()));
        let mut scene = (Vec::new(), Vec::new());
        for publisher in 0..publishers {
            let topic = format!("orders/{publisher}");
            for subscriber in 0..subscribers {
                let name = format!("s{publisher}-{subscriber}");
                scene.1.push(bench.connect(&name, true, [topic.as_str()], qos));
            }
            let connection = bench.connect(&format!("p{publisher}"), true, [], qos);
            scene.0.push((connection, traffic::read_of(qos, &topic, 64)));
        }
        Scene { bench, qos, publishers: scene.0, subscribers: scene.1, next_id: 1 }
    }

    /// Every publisher sends its messages, and every subscriber acknowledges its own.
    fn turn(&mut self, pubacks: &[u8]) {
        for (publisher, bytes) in &self.publishers {
            self.bench.shard.receive(self.bench.now, *publisher, bytes);
        }
        self.bench.turn();
        if self.qos > QoS::AtMostOnce {
            for subscriber in &self.subscribers {
                self.bench.shard.receive(self.bench.now, *subscriber, pubacks);
            }
            self.bench.turn();
        }
    }

    /// What one settled turn allocates.
    fn allocations(mut self) -> u64 {
        let mut last = 0;
        for _ in 0..SETTLING {
            let pubacks = traffic::pubacks(self.next_id, READ);
            self.next_id = traffic::packet_id(self.next_id, READ as u16);
            last = measure(|| self.turn(&pubacks)).count_total;
        }
        last
    }
}

#[test]
fn a_fan_out_allocates_nothing_per_delivery() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        for subscribers in [1, 10, 100] {
            let taken = Scene::new(1, subscribers, qos).allocations();
            assert_eq!(taken, PER_MESSAGE * READ as u64, "{qos:?}, {subscribers} subscribers");
        }
    }
}

#[test]
fn pairs_allocate_nothing_but_their_messages() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let taken = Scene::new(25, 1, qos).allocations();
        assert_eq!(taken, PER_MESSAGE * 25 * READ as u64, "{qos:?}");
    }
}

#[test]
fn an_idle_connection_takes_little_of_a_shard() {
    // As many as fill the tables that grow to twice their size.
    const CLIENTS: usize = 8192;
    let mut bench = Bench::new(Box::new(MemoryStore::default()));
    let names: Vec<(String, String)> = (0..CLIENTS)
        .map(|client| (format!("client-{client:05}"), format!("devices/{client:05}/set")))
        .collect();
    let held = measure(|| {
        for (name, filter) in &names {
            bench.connect(name, true, [filter.as_str()], QoS::AtMostOnce);
        }
    });
    let each = held.bytes_current / CLIENTS as i64;
    println!("{each} bytes of heap per connection with one subscription, besides its socket");
    assert!(each <= MOST_PER_CONNECTION, "{each} bytes");
}

/// The session with its connection, its subscription there, in the shard's table and in the one of all shards.
const MOST_PER_CONNECTION: i64 = 832;
