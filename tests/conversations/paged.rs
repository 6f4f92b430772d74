//! A broker whose disk is an exact model, in the hand of a test.

use weirmq::broker::shard::Census;
use weirmq::limits::{Overflow, QueueRule};
use weirmq::protocol::packet::*;

use crate::common::dialogue::*;
use crate::common::paged_store::PagedStore;
use crate::common::world::*;

/// The share group that tests subscribe to.
pub const SHARED: &str = "$share/g/t";

/// A broker, and the hand on its disk.
pub struct Paged {
    pub w: World,
    pub store: PagedStore,
}

impl Paged {
    /// A broker without limits of its own.
    pub fn new(shards: u16) -> Paged {
        Paged::with(WorldSettings { shards, ..WorldSettings::default() })
    }

    /// Queues hold `max_messages`.
    pub fn limited(shards: u16, max_messages: u64, overflow: Overflow) -> Paged {
        let rule = QueueRule { filter: "#".into(), max_messages, overflow, ..QueueRule::default() };
        Paged::with(WorldSettings { shards, queue_rules: vec![rule], ..WorldSettings::default() })
    }

    /// A broker with these settings.
    pub fn with(settings: WorldSettings) -> Paged {
        Paged::start(settings, PagedStore::default())
    }

    /// A broker with this store.
    pub fn start(settings: WorldSettings, store: PagedStore) -> Paged {
        let (handles, disk) = (store.clone(), store.clone());
        let mut w = World::with(WorldSettings { store: Box::new(move || handles.handle()), ..settings });
        w.disk = Some(Box::new(move || disk.turn()));
        w.run();
        Paged { w, store }
    }

    /// Another process with what this one left.
    pub fn restart(self, shards: u16) -> Paged {
        let store = self.store.clone();
        drop(self.w);
        let restored = store.restored();
        Paged::start(WorldSettings { shards, restored, ..WorldSettings::default() }, store)
    }

    /// A client that has subscribed and gone.
    pub fn away(&mut self, client_id: &str, filter: &str) {
        let c = self.w.resume(V5, client_id);
        self.w.subscribe(c, filter, QoS::ExactlyOnce);
        self.w.cut(c);
    }

    /// Publishes these numbers to `t` at QoS 1, many at once, each padded to `len`.
    pub fn publish(&mut self, publisher: usize, numbers: std::ops::Range<usize>, len: usize) {
        for number in numbers {
            let payload = format!("{number:<len$}");
            let packet_id = Some(id((number % 500) as u16 + 1));
            let publish = Publish { packet_id, ..message("t", QoS::AtLeastOnce, &payload) };
            self.w.put(publisher, &Packet::Publish(publish));
            if number % 100 == 99 {
                self.w.run();
                self.w.take(publisher);
            }
        }
        self.w.run();
        self.w.take(publisher);
    }

    /// Holds back the pages that are asked for from now on.
    pub fn hold_pages(&mut self) {
        self.store.hold_pages(true);
    }

    /// Brings them, and those to come.
    pub fn release_pages(&mut self) {
        self.store.hold_pages(false);
        self.w.run();
    }

    /// How many are held back.
    pub fn held_pages(&self) -> usize {
        self.store.held_pages()
    }

    /// What all shards hold.
    pub fn census(&self) -> Census {
        self.w.shards.iter().map(|shard| shard.census()).fold(Census::default(), Census::and)
    }

    /// Acknowledges one PUBLISH at QoS 1.
    pub fn acknowledge(&mut self, client: usize, frame: &Frame) {
        let packet_id = frame.publish().packet_id.expect("QoS 1");
        self.w.send(client, &Packet::PubAck(ack_of(packet_id)));
    }

    /// Everything is acknowledged: nothing is left anywhere.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        expect_balance(&self.w);
        let census = self.census();
        assert_eq!((census.queued, census.unacknowledged, census.reserved), (0, 0, 0), "{census:?}");
        assert_eq!(
            (self.store.references(), self.store.sent()),
            (0, 0),
            "references and QoS 2 deliveries on disk"
        );
    }
}

/// What the payloads say.
pub fn numbers(frames: &[Frame]) -> Vec<usize> {
    payloads(frames).iter().map(|payload| payload.trim().parse().expect("a number")).collect()
}

/// The same, of those without DUP.
pub fn without_repeats(frames: &[Frame]) -> Vec<usize> {
    let firsts: Vec<Frame> = frames.iter().filter(|frame| !frame.publish().dup).cloned().collect();
    numbers(&firsts)
}
