//! Whatever the bytes of a journal are: it opens or is refused, and what it gives was written by the store. Tests and fuzzing
//! share this.
#![allow(dead_code)]

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use weirmq::clock::Clock;
use weirmq::limits::QueueRule;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::QoS;
use weirmq::store::disk::Disk;
use weirmq::store::fifo::Waker;
use weirmq::store::open::{Prepared, StoreOptions, prepare};
use weirmq::store::record::Stored;
use weirmq::store::{PageRequest, Record, Store};
use weirmq::target::{Identifiers, Target};

use super::sim_disk::{Outage, SimDisk};

const WALL: u64 = 1_800_000_000_000;
const QUEUE: QueueId = QueueId(1 << 48 | 1);
const NAME: &str = "0000000001.seg";

/// Reads a record through, if it is one.
pub fn decodes(bytes: &[u8]) {
    if let Some(Stored::Message(message)) = Stored::decode(bytes) {
        let clock = Clock::new(Instant::now(), WALL);
        let entries = message.queues().filter(|(queue, _)| message.entry(*queue, &clock).is_some()).count();
        assert_eq!(entries, message.queues().count());
    }
}

/// Opens a journal of one segment with these bytes.
pub fn opens(bytes: &[u8]) {
    let disk = written();
    disk.with_bytes(NAME, |journal| *journal = bytes.to_vec());
    reads(&disk);
}

/// Opens a journal that the store wrote, with some of its bytes changed: by each four, the place, the change, and whether the
/// file ends there.
pub fn opens_changed(changes: &[u8]) {
    let disk = written();
    disk.with_bytes(NAME, |journal| {
        for change in changes.chunks_exact(4) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
            if change[3] == 0xFF {
                journal.truncate(at);
            } else if let Some(byte) = journal.get_mut(at) {
                *byte ^= change[2];
            }
        }
    });
    reads(&disk);
}

fn open(disk: &SimDisk) -> Option<Prepared> {
    let options = StoreOptions { segment_size: 16 * 1024, ..StoreOptions::new(7) };
    let wakers = vec![Arc::new(|| {}) as Waker];
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    prepare(shared, &options, Clock::new(Instant::now(), WALL), wakers).ok()
}

/// A disk with a journal of one segment, which is not known to be on it to the last record.
fn written() -> SimDisk {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let disk = SimDisk::new(1, 1 << 30);
        write(&disk);
        disk.with_bytes(NAME, |bytes| bytes.clone())
    });
    let disk = SimDisk::new(1, 1 << 30);
    disk.create(NAME).and_then(|_| disk.sync()).expect("an empty disk takes a file");
    disk.with_bytes(NAME, |journal| journal.clone_from(bytes));
    disk
}

fn write(disk: &SimDisk) {
    let Prepared { mut engine, mut handles, .. } = open(disk).expect("an empty disk opens");
    let handle = &mut handles[0];
    handle.push(Record::Session {
        queue: QUEUE,
        client_id: "c",
        user: None,
        expiry: 9,
        detached: None,
        will: None,
    });
    let meter = Arc::new(QueueMeter::new(&QueueRule::default()));
    let (home, qos, identifiers) = (PeerId(0), QoS::AtLeastOnce, Identifiers::one(3));
    let queues =
        [Target { queue: QUEUE, home, qos, retain_as_published: true, identifiers, since: 0, meter }];
    for number in 1..=30_u8 {
        let message = Arc::new(Message::new(MessageParts {
            id: MessageId(1 << 48 | u64::from(number)),
            publisher: None,
            qos,
            retain: number % 4 == 0,
            expires: None,
            version: if number % 4 == 0 { number.into() } else { 0 },
            topic: "t",
            properties: b"",
            payload: &[number; 40],
        }));
        handle.push(Record::Message {
            message: &message,
            queues: &queues,
            groups: &[],
            received: None,
            will_of: None,
        });
        if number % 3 == 0 {
            handle.push(Record::Acked(QUEUE, message.id));
        }
        handle.flush();
        engine.step(WALL).expect("the disk is sound");
    }
}

fn reads(disk: &SimDisk) {
    let disk = disk.reboot(Outage::Kill);
    let Some(Prepared { restored, mut engine, mut handles, .. }) = open(&disk) else { return };
    assert!(restored.retained.iter().all(|message| is_ours(message)));
    let request = PageRequest { queue: QUEUE, serial: 1, after: None, max_bytes: 1 << 20 };
    handles[0].request(request);
    handles[0].flush();
    while engine.step(WALL).expect("the disk is sound") {
        while let Some(job) = engine.next_page() {
            job.run();
        }
    }
    let page = handles[0].next_page().expect("it was asked for");
    assert!(page.entries.iter().all(|entry| is_ours(&entry.message)));
    assert!(page.entries.is_sorted_by(|a, b| a.message.id < b.message.id));
    assert!(disk.names().is_ok_and(|names| !names.is_empty()));
}

fn is_ours(message: &Message) -> bool {
    let number = message.id.0 as u8;
    (1..=30).contains(&number) && message.topic() == "t" && message.payload() == [number; 40]
}
