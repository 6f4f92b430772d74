//! What happens seldom: a damaged body, a full disk, a disk that fails, a message larger than a segment, one old message among
//! many dead ones, a clock that was set back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weirmq::clock::Clock;
use weirmq::limits::QueueRule;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::QoS;
use weirmq::store::disk::Disk;
use weirmq::store::engine::{Engine, Failure};
use weirmq::store::fifo::{JournalStore, Waker};
use weirmq::store::open::{Prepared, StoreOptions, Sync, prepare};
use weirmq::store::restored::Restored;
use weirmq::store::{Page, PageRequest, Position, Pressure, Record, Store, Ticket};
use weirmq::target::{Identifiers, Target};

use super::sim_disk::{EIO, Outage, SimDisk};

const WALL: u64 = 1_800_000_000_000;
const QUEUE: QueueId = QueueId(1 << 48 | 1);
const SEGMENT: u64 = 64 * 1024;

/// A store with one shard and one session.
struct Store1 {
    disk: SimDisk,
    engine: Engine,
    handle: JournalStore,
    clock: Clock,
    restored: Restored,
    wall: u64,
    next: u64,
}

fn options() -> StoreOptions {
    StoreOptions { segment_size: SEGMENT, journal_budget: 1 << 30, reserve: Some(0), ..StoreOptions::new(7) }
}

impl Store1 {
    fn open(disk: SimDisk, options: &StoreOptions, wall: u64) -> Store1 {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let wakers = vec![Arc::new(|| {}) as Waker];
        let prepared = prepare(shared, options, Clock::new(Instant::now(), wall), wakers).expect("it opens");
        let Prepared { restored, mut handles, engine, clock, .. } = prepared;
        let next = restored.numbers.first().map_or(0, |numbers| numbers.message);
        Store1 { disk, engine, handle: handles.remove(0), clock, restored, wall, next }
    }

    /// With a session, durable.
    fn begun(size: u64, options: &StoreOptions) -> Store1 {
        let mut store = Store1::open(SimDisk::new(1, size), options, WALL);
        store.begin(None);
        store.settle();
        store
    }

    fn again(self, options: &StoreOptions, wall: u64) -> Store1 {
        Store1::open(self.disk.reboot(Outage::Power(3)), options, wall)
    }

    fn begin(&mut self, detached: Option<Instant>) {
        self.begin_queue(QUEUE, detached);
    }

    fn begin_queue(&mut self, queue: QueueId, detached: Option<Instant>) {
        self.push(Record::Session { queue, client_id: "c", user: None, expiry: 9, detached, will: None });
    }

    fn push(&mut self, record: Record<'_>) -> Ticket {
        let ticket = self.handle.push(record);
        self.handle.flush();
        ticket
    }

    fn publish(&mut self, len: usize) -> Ticket {
        self.publish_until(len, None)
    }

    fn publish_many(&mut self, count: usize, len: usize) -> Vec<Ticket> {
        (0..count).map(|_| self.publish(len)).collect()
    }

    fn publish_until(&mut self, len: usize, expires: Option<Instant>) -> Ticket {
        self.next += 1;
        let message = Arc::new(Message::new(MessageParts {
            id: MessageId(1 << 48 | self.next),
            publisher: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires,
            version: 0,
            topic: "t",
            properties: b"",
            payload: &vec![self.next as u8; len],
        }));
        let target = Target {
            queue: QUEUE,
            home: PeerId(0),
            qos: QoS::AtLeastOnce,
            retain_as_published: false,
            identifiers: Identifiers::default(),
            since: 0,
            meter: Arc::new(QueueMeter::new(&QueueRule::default())),
        };
        let (queues, groups) = (&[target][..], &[][..]);
        self.push(Record::Message { message: &message, queues, groups, received: None, will_of: None })
    }

    fn acknowledge(&mut self, number: u64) {
        self.push(Record::Acked(QUEUE, MessageId(1 << 48 | number)));
    }

    /// Everything there is to do, in the order it comes.
    fn settle(&mut self) {
        self.try_settle().expect("the disk is sound");
    }

    fn try_settle(&mut self) -> Result<(), Failure> {
        loop {
            let mut worked = self.engine.step(self.wall)?;
            while let Some(job) = self.engine.next_page() {
                job.run();
                worked = true;
            }
            while let Some(chore) = self.engine.next_chore() {
                chore.run();
                worked = true;
            }
            if !worked {
                return Ok(());
            }
        }
    }

    /// Some seconds go by.
    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.wall += 1000;
            self.settle();
        }
    }

    fn page(&mut self, after: Option<Position>) -> Page {
        self.page_of(QUEUE, after)
    }

    fn page_of(&mut self, queue: QueueId, after: Option<Position>) -> Page {
        self.handle.request(PageRequest { queue, serial: 1, after, max_bytes: 1 << 30 });
        self.handle.flush();
        self.settle();
        self.handle.next_page().expect("a page has come")
    }

    fn numbers(&mut self) -> Vec<u64> {
        numbers(&self.page(None))
    }

    fn segments(&self) -> Vec<String> {
        let mut names = self.disk.names().expect("the disk is there");
        names.retain(|name| name.ends_with(".seg"));
        names.sort_unstable();
        names
    }

    /// Turns the first byte of the payload of a message over.
    fn spoil(&self, number: u64, len: usize) {
        let payload = vec![number as u8; len];
        for name in self.segments() {
            self.disk.with_bytes(&name, |bytes| {
                if let Some(at) = bytes.windows(len).position(|window| window == payload) {
                    bytes[at] ^= 1;
                }
            });
        }
    }
}

fn numbers(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.message.id.0 & 0xFFFF_FFFF).collect()
}

#[test]
fn a_damaged_message_is_never_delivered_and_is_given_up() {
    let mut store = Store1::begun(1 << 30, &options());
    store.publish_many(5, 100);
    store.settle();
    store.spoil(3, 100);
    let page = store.page(None);
    assert_eq!(numbers(&page), [1, 2, 4, 5]);
    assert!(page.last && store.engine.damaged() == 1);
    assert_eq!(store.numbers(), [1, 2, 4, 5]);
    assert_eq!(store.engine.damaged(), 1, "it is not met again");
}

#[test]
fn queues_that_drain_the_same_messages_share_them_for_as_long_as_they_do() {
    let mut store = Store1::begun(1 << 30, &options());
    let queues: Vec<QueueId> = (0..400).map(|n| QueueId(QUEUE.0 + 3 * n)).collect();
    let is_exact = |queue: QueueId| queue.0.is_multiple_of(2);
    queues[1..].iter().for_each(|queue| store.begin_queue(*queue, None));
    let target = |&queue: &QueueId| Target {
        queue,
        home: PeerId(0),
        qos: if is_exact(queue) { QoS::ExactlyOnce } else { QoS::AtLeastOnce },
        retain_as_published: false,
        identifiers: Identifiers::one(if is_exact(queue) { 0 } else { 7 }),
        since: 0,
        meter: Arc::new(QueueMeter::new(&QueueRule::default())),
    };
    let targets: Vec<Target> = queues.iter().map(target).collect();
    for number in 1..=9 {
        let message = Arc::new(Message::new(MessageParts {
            id: MessageId(1 << 48 | number),
            publisher: None,
            qos: QoS::ExactlyOnce,
            retain: false,
            expires: None,
            version: 0,
            topic: "t",
            properties: b"",
            payload: &[number as u8; 50],
        }));
        // The last is for half of them.
        let most = if number == 9 { 200 } else { 400 };
        store.push(Record::alone(&message, &targets[..most]));
    }
    let mut before: Option<Page> = None;
    for _ in 0..2 {
        let first = store.page(None);
        assert_eq!(numbers(&first), (1..=9).collect::<Vec<_>>());
        for (index, &queue) in queues.iter().enumerate() {
            let page = store.page_of(queue, None);
            assert_eq!(page.entries.len(), if index < 200 { 9 } else { 8 });
            for (entry, shared) in page.entries.iter().zip(&first.entries) {
                assert!(Arc::ptr_eq(&entry.message, &shared.message), "it is one in memory");
                assert_eq!(entry.qos, target(&queue).qos);
                assert_eq!(entry.identifiers, target(&queue).identifiers);
            }
        }
        if let Some(before) = before.replace(first) {
            let message = &before.entries[0].message;
            assert!(!Arc::ptr_eq(message, &store.page(None).entries[0].message), "it is not kept for ever");
        }
        // Long enough for the store to be idle; the segment is retired then.
        store.wait(20);
    }
}

#[test]
fn a_full_disk_acknowledges_nothing_and_goes_on_once_there_is_room() {
    let mut store = Store1::begun(400 * 1024, &options());
    let tickets = store.publish_many(200, 4000);
    store.settle();
    let durable = store.handle.durable();
    assert!(durable > tickets[10] && durable < tickets[150], "{durable:?}");
    assert!(store.handle.is_full());
    store.wait(2);
    assert_eq!(store.handle.durable(), durable, "there is still no room");
    store.disk.resize(1 << 30);
    store.wait(2);
    assert_eq!(store.handle.durable(), tickets[199]);
    assert!(!store.handle.is_full());
    assert_eq!(store.numbers(), (1..=200).collect::<Vec<_>>());
    let mut store = store.again(&options(), WALL);
    assert_eq!(store.numbers(), (1..=200).collect::<Vec<_>>());
}

#[test]
fn what_was_not_acknowledged_on_a_full_disk_may_be_gone_and_the_rest_is_there() {
    let mut store = Store1::begun(400 * 1024, &options());
    store.publish_many(200, 4000);
    store.settle();
    let durable = store.handle.durable().0 - 1;
    // To start on a disk without any room is another matter.
    store.disk.resize(1 << 30);
    let mut store = store.again(&options(), WALL);
    let found = store.numbers();
    assert!(found.len() as u64 >= durable && found == (1..=found.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_sync_that_fails_is_final_and_acknowledges_nothing() {
    for call in 1.. {
        let mut store = Store1::begun(1 << 30, &options());
        let durable = store.handle.durable();
        store.disk.fail_at(store.disk.calls() + call, EIO);
        let ticket = store.publish(10);
        match store.engine.step(store.wall) {
            Ok(_) => {
                assert!(store.handle.durable() == ticket && call > 1);
                return;
            }
            Err(_) => assert_eq!(store.handle.durable(), durable),
        }
    }
}

#[test]
fn the_limit_on_the_folder_refuses_until_what_waits_was_taken() {
    let options = StoreOptions { max_size: Some(8 << 20), ..options() };
    let mut store = Store1::begun(1 << 30, &options);
    while !store.handle.is_full() {
        store.publish(40_000);
        store.wait(1);
        assert!(store.next < 2000, "it is never full");
    }
    assert!(store.disk.used() < 9 << 20);
    (1..=store.next).for_each(|number| store.acknowledge(number));
    store.wait(5);
    assert!(!store.handle.is_full(), "{} bytes", store.disk.used());
}

#[test]
fn publishers_pause_while_much_waits_to_be_written() {
    let mut store = Store1::begun(1 << 30, &options());
    assert_eq!(store.handle.pressure(), Pressure::None);
    store.publish_many(9, 1 << 20);
    assert_eq!(store.handle.pressure(), Pressure::Publishes);
    store.publish_many(24, 1 << 20);
    assert_eq!(store.handle.pressure(), Pressure::Everything);
    store.settle();
    assert_eq!(store.handle.pressure(), Pressure::None);
    assert_eq!(store.numbers().len(), 33, "each had a segment of its own");
}

#[test]
fn one_message_in_each_segment_does_not_pin_them_all() {
    let options = StoreOptions { journal_budget: SEGMENT, ..options() };
    let mut store = Store1::begun(1 << 30, &options);
    let mut kept = Vec::new();
    for number in 1..=2000 {
        store.publish(1000);
        if number % 60 == 0 {
            kept.push(number);
        } else {
            store.acknowledge(number);
        }
        store.settle();
    }
    store.wait(20);
    assert!(store.segments().len() < 12, "{:?}", store.segments());
    assert_eq!(store.numbers(), kept);
    let mut store = store.again(&options, WALL);
    assert_eq!(store.numbers(), kept);
    assert_eq!(store.restored.sessions[0].waiting.messages, kept.len() as u64);
}

#[test]
fn the_time_that_the_broker_was_stopped_counts_and_a_clock_set_back_does_not() {
    for (stopped, counted) in [(5000, 5000), (-7_000_000_i64, 0)] {
        let mut store = Store1::begun(1 << 30, &options());
        let start = store.clock.instant(WALL).expect("now can be told");
        // Written four seconds after the start, and a minute before it expires.
        store.wall += 4000;
        store.begin(Some(start + Duration::from_secs(1)));
        store.publish_until(10, Some(start + Duration::from_secs(64)));
        store.settle();
        let wall = (WALL + 4000).saturating_add_signed(stopped);
        let mut store = store.again(&options(), wall);
        let now = store.clock.instant(WALL + 4000 + counted).expect("now can be told");
        let detached = store.restored.sessions[0].detached.expect("it was detached");
        assert_eq!(now - detached, Duration::from_millis(3000 + counted));
        let expires = store.page(None).entries[0].message.expires.expect("it expires");
        assert_eq!(expires - now, Duration::from_millis(60_000 - counted));
    }
}

#[test]
fn nothing_is_created_before_the_first_record_and_requests_are_answered_all_the_same() {
    let mut store = Store1::open(SimDisk::new(1, 1 << 30), &options(), WALL);
    let page = store.page(None);
    assert!(page.entries.is_empty() && page.last);
    store.wait(10);
    assert!(store.disk.names().expect("the disk is there").is_empty());
}

#[test]
fn what_is_pushed_after_the_request_is_not_in_its_page() {
    let mut store = Store1::begun(1 << 30, &options());
    store.publish(10);
    let (queue, max_bytes) = (QUEUE, 1 << 20);
    store.handle.request(PageRequest { queue, serial: 1, after: None, max_bytes });
    store.publish(10);
    store.settle();
    let page = store.handle.next_page().expect("a page has come");
    assert!(page.last);
    assert_eq!(numbers(&page), [1]);
    assert_eq!(numbers(&store.page(Some(page.after))), [2]);
}

#[test]
fn in_the_long_run_files_are_used_again() {
    for sync in [Sync::Always, Sync::Os] {
        let options = StoreOptions { sync, journal_budget: 2 * SEGMENT, ..options() };
        let mut store = Store1::begun(1 << 30, &options);
        for number in 1..=3000 {
            store.publish(1000);
            store.acknowledge(number);
            store.settle();
        }
        let names = store.disk.names().expect("the disk is there");
        let spares: Vec<&String> = names.iter().filter(|name| name.ends_with(".spare")).collect();
        assert!(spares.iter().any(|name| !name.starts_with("fresh")), "{spares:?}");
    }
}
