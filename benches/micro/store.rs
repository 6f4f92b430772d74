//! The way to the disk, on one in memory: records, frames, batches, and a message that is kept for a client that is away.

use std::sync::Arc;
use std::time::Instant;

use weirmq::clock::Clock;
use weirmq::limits::QueueRule;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::QoS;
use weirmq::store::engine::Engine;
use weirmq::store::fifo::JournalStore;
use weirmq::store::open::{StoreOptions, prepare};
use weirmq::store::{Record, Store};
use weirmq::target::{Identifiers, Target};

use crate::bench::Bench;
use crate::disk::Memory;
use crate::traffic::{self, READ};
use crate::{Case, Work};

/// The engine without its threads, which does everything when it is told to.
struct Disk {
    engine: Engine,
    /// Milliseconds: each step is a second, so that it looks after itself.
    wall: u64,
}

impl Disk {
    fn new(now: Instant) -> (Disk, JournalStore) {
        // Small segments: the disk writes them in full with zeros.
        let options =
            StoreOptions { segment_size: 4 << 20, journal_budget: 16 << 20, ..StoreOptions::new(1) };
        let clock = Clock::new(now, 1_000_000);
        let disk = Arc::new(Memory::default());
        let mut store = prepare(disk, &options, clock, vec![Arc::new(|| {})]).expect("an empty disk");
        let handle = store.handles.pop().expect("one shard has one handle");
        (Disk { engine: store.engine, wall: 1_000_000 }, handle)
    }

    fn step(&mut self) {
        self.engine.step(self.wall).expect("memory does not fail");
    }

    /// What its threads do beside it.
    fn tidy(&mut self) {
        self.wall += 1000;
        self.step();
        while let Some(chore) = self.engine.next_chore() {
            chore.run();
            self.step();
        }
    }
}

/// A message's record, from the push to the file.
struct Append {
    disk: Disk,
    handle: JournalStore,
    message: Arc<Message>,
    targets: Vec<Target>,
}

const QUEUE: QueueId = QueueId(1);

/// Records in a batch.
const BATCH: usize = 256;

impl Work for Append {
    fn prepare(&mut self) {
        for _ in 0..BATCH {
            self.handle.push(Record::Acked(QUEUE, self.message.id));
        }
        self.handle.flush();
        self.disk.tidy();
    }

    fn call(&mut self) {
        for _ in 0..BATCH {
            self.handle.push(Record::alone(&self.message, &self.targets));
        }
        self.handle.flush();
        self.disk.step();
    }
}

pub fn append() -> Case {
    let (disk, handle) = Disk::new(Instant::now());
    let message = Message::new(MessageParts {
        id: MessageId(1),
        publisher: None,
        qos: QoS::AtLeastOnce,
        retain: false,
        expires: None,
        version: 0,
        topic: "site/17/dev/42/temp",
        properties: &[],
        payload: &[b'x'; 256],
    });
    let target = Target {
        queue: QUEUE,
        home: PeerId(0),
        qos: QoS::AtLeastOnce,
        retain_as_published: false,
        identifiers: Identifiers::default(),
        since: 0,
        meter: Arc::new(QueueMeter::new(&QueueRule::default())),
    };
    let work = Append { disk, handle, message: Arc::new(message), targets: vec![target] };
    Case { unit: "record", per_call: BATCH, work: Box::new(work) }
}

/// QoS 1 messages to a persistent session whose client is away, until their PUBACKs are in the publisher's buffer.
struct Durable {
    bench: Bench,
    disk: Disk,
    publisher: weirmq::broker::shard::ConnectionId,
    read: Vec<u8>,
}

impl Durable {
    fn settle(&mut self) {
        self.bench.turn();
        self.disk.step();
        self.bench.shard.on_store(self.bench.now);
        self.bench.turn();
    }
}

impl Work for Durable {
    /// The session ends with what it kept, and another begins.
    fn prepare(&mut self) {
        for clean_start in [true, false] {
            let away = self.bench.connect("away", clean_start, ["away/orders"], QoS::AtLeastOnce);
            self.bench.shard.disconnected(self.bench.now, away);
            while self.bench.shard.next_closed().is_some() {}
        }
        self.settle();
        self.disk.tidy();
    }

    fn call(&mut self) {
        self.bench.shard.receive(self.bench.now, self.publisher, &self.read);
        self.settle();
    }
}

pub fn durable() -> Case {
    let (disk, handle) = Disk::new(Instant::now());
    let mut bench = Bench::new(Box::new(handle));
    let publisher = bench.connect("p", true, [], QoS::AtLeastOnce);
    let read = traffic::read_of(QoS::AtLeastOnce, "away/orders", 256);
    let work = Durable { bench, disk, publisher, read };
    Case { unit: "message", per_call: READ, work: Box::new(work) }
}
