//! Journals that no store has written, with checksums that hold: headers, marks and records of any content, in any order, in
//! segments that go on from each other or not, and some of it spoiled. Such a folder is refused, or it opens; then the next
//! restart finds the same, and every queue gives what it is said to hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Once};
use std::time::Instant;

use weirmq::clock::Clock;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::{PacketId, QoS};
use weirmq::store::disk::Disk;
use weirmq::store::encode::Encoder;
use weirmq::store::fifo::Waker;
use weirmq::store::frame::{Key, Kind, Mark};
use weirmq::store::open::{Prepared, StoreOptions, prepare};
use weirmq::store::restored::Restored;
use weirmq::store::{PageRequest, Position, Record, Store};
use weirmq::target::{Identifiers, Target};
use weirmq::will::{Will, WillParts};

use super::WALL;
use super::sim_disk::{Outage, SimDisk};

const SALT: u64 = 7;
const HEADER: usize = 4096;
/// The layout of segments.
const VERSION: u32 = 2;
/// No segment is larger.
const MOST: usize = 16 * 1024;

/// The fuzzer's bytes, one after the other; zeros behind them.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Mostly `usual`.
    fn or(&mut self, usual: u32) -> u32 {
        match self.byte() {
            0..=199 => usual,
            200..=229 => usual.wrapping_add_signed(i32::from(self.byte() as i8)),
            230..=244 => u32::from(self.byte()) * 64,
            _ => self.word(),
        }
    }

    /// The same for a place in a segment: what is missing up to it is filled in, so that it costs something.
    fn place_or(&mut self, usual: usize) -> u32 {
        self.or(usual as u32) % (8 * MOST as u32)
    }
}

/// Opens a folder with the segments that `bytes` describe.
pub fn opens(bytes: &[u8]) {
    static IS_FORGED_WELL: Once = Once::new();
    IS_FORGED_WELL.call_once(|| assert!(found(&[]).is_some(), "not as the store would write it"));
    let _ = found(bytes);
}

fn found(bytes: &[u8]) -> Option<Digest> {
    let mut bytes = Bytes(bytes);
    let disk = SimDisk::new(1, 1 << 30);
    let mut previous = (0_u32, 0);
    for _ in 0..1 + bytes.byte() % 3 {
        let number = bytes.or(previous.0.wrapping_add(1));
        let name = format!("{number:010}.seg");
        if disk.create(&name).is_err() {
            break;
        }
        let segment = segment(number, previous, &mut bytes);
        previous = (number, segment.len() as u32);
        disk.with_bytes(&name, |file| *file = segment);
        if bytes.0.is_empty() {
            break;
        }
    }
    disk.sync().expect("the disk is sound");
    let first = reads(&disk.reboot(Outage::Kill))?;
    let second = reads(&disk.reboot(Outage::Power(0))).expect("what was repaired opens");
    assert_eq!(first, second, "the next restart finds something else");
    Some(first)
}

fn segment(number: u32, (previous, previous_end): (u32, u32), bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut file = vec![0; HEADER];
    let key = Key::new(SALT, number);
    let mut encoder = Encoder::new(Clock::new(Instant::now(), WALL));
    for count in 0..1 + u32::from(bytes.byte()) % 40 {
        let offset = file.len();
        if offset >= MOST || bytes.0.is_empty() {
            break;
        }
        match bytes.byte() {
            0..=29 => {
                let (segment, durable) = (bytes.or(number), bytes.place_or(offset));
                let (sequence, wall) = (bytes.or(count).into(), WALL + u64::from(bytes.or(5)));
                let mark = Mark { sequence, durable: Position::new(segment, durable), wall };
                key.put(&mut file, offset as u64, Kind::Mark, &mark.encode());
            }
            30..=33 => key.put(&mut file, offset as u64, Kind::Gap, &[0; 8]),
            34..=37 => {
                let len = usize::from(bytes.byte()) % 64;
                key.put(&mut file, offset as u64, Kind::Record, bytes.take(len));
            }
            38 => file.resize(offset + 16, 0),
            kind => {
                let mut record = Vec::new();
                put_record(kind, (number << 8 | count).into(), bytes, &mut encoder, &mut record);
                key.put(&mut file, offset as u64, Kind::Record, &record);
            }
        }
    }
    let header = header(number, (previous, previous_end), file.len(), bytes);
    file[..HEADER].copy_from_slice(&header);
    spoil(&mut file, bytes);
    file
}

/// Both halves say the same.
fn header(number: u32, previous: (u32, u32), end: usize, bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut half = b"WEIRSEG\n".to_vec();
    half.extend_from_slice(&VERSION.to_le_bytes());
    half.extend_from_slice(&SALT.to_le_bytes());
    half.extend_from_slice(&bytes.or(number).to_le_bytes());
    half.extend_from_slice(&bytes.or(previous.0).to_le_bytes());
    let left_at = if bytes.byte() & 1 == 0 { previous.1 } else { 0 };
    half.extend_from_slice(&bytes.or(left_at).to_le_bytes());
    half.extend_from_slice(&bytes.place_or(end).to_le_bytes());
    let durable = if bytes.byte() & 1 == 0 { left_at } else { 0 };
    let durable = Position::new(bytes.or(previous.0), bytes.or(durable));
    half.extend_from_slice(&durable.0.to_le_bytes());
    seal(&mut half, 0);
    half.resize(1024, 0);
    if bytes.byte() & 1 == 0 {
        half.extend_from_slice(&bytes.or(end as u32).to_le_bytes());
        half.extend_from_slice(&bytes.or(0).to_le_bytes());
        half.extend_from_slice(&WALL.to_le_bytes());
        seal(&mut half, 1024);
    }
    half.resize(HEADER / 2, 0);
    half.repeat(2)
}

/// Appends the checksum of what stands from `start` on.
fn seal(bytes: &mut Vec<u8>, start: usize) {
    let checksum = crc32c::crc32c(&bytes[start..]);
    bytes.extend_from_slice(&checksum.to_le_bytes());
}

/// Cuts the file, makes it longer, or changes some of its bytes.
fn spoil(file: &mut Vec<u8>, bytes: &mut Bytes<'_>) {
    for _ in 0..bytes.byte().saturating_sub(190) / 16 {
        let at = bytes.word() as usize % (file.len() + 64);
        match bytes.byte() {
            0..=63 => file.truncate(at),
            64..=127 => file.resize(at, 0),
            change => {
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= change & 0x7F;
                }
            }
        }
    }
}

fn put_record(kind: u8, id: u64, bytes: &mut Bytes<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let argument = bytes.byte();
    let queue = |bits: u8| QueueId(1 << 48 | u64::from(bits % 5));
    let (session, from) = (queue(argument), queue(argument >> 3));
    let packet_id = PacketId::MIN.saturating_add(u16::from(argument >> 6));
    let (client_id, filter) = ("client", ["f", "$share/g/f", "#"][usize::from(argument >> 3) % 3]);
    // One of the messages that there may be, for every record before it may be one.
    let message = MessageId(1 << 48 | id.saturating_sub(u64::from(bytes.byte() % 16)));
    let will = WillParts {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "w",
        payload: b"gone",
        properties: &[],
        expiry: None,
        delay: 1,
    };
    let will = Will::from_parts(will);
    let record = match kind % 16 {
        0..=4 => return put_message(MessageId(1 << 48 | id), argument, bytes, encoder, out),
        5 | 6 => Record::Acked(session, message),
        7 | 8 => Record::Sent { session, packet_id, message, from },
        9 => Record::Stepped(session, packet_id),
        10 => Record::Completed(session, packet_id),
        11 | 12 => {
            let (user, will) = ((argument & 8 != 0).then_some("u"), (argument & 16 != 0).then_some(&will));
            Record::Session { queue: session, client_id, user, expiry: argument.into(), detached: None, will }
        }
        13 => {
            let group = (argument & 0x40 != 0).then_some(QueueId(from.0 + 16));
            let (options, identifier, since, replay) = (argument & 3, 1, 0, argument & 0x80 != 0);
            Record::Subscribed { session, filter, options, identifier, group, since, replay }
        }
        14 if argument & 0x40 == 0 => Record::Unsubscribed(session, filter),
        14 => Record::Replayed { session, filter, topic: (argument & 0x80 != 0).then_some("t") },
        _ if argument & 0x40 == 0 => Record::Released(session, packet_id),
        _ if argument & 0x80 == 0 => Record::SessionEnded(session),
        _ => Record::GroupEnded(QueueId(from.0 + 16)),
    };
    encoder.encode(&record, out);
}

fn put_message(id: MessageId, argument: u8, bytes: &mut Bytes<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let (flags, len) = (bytes.byte(), usize::from(bytes.byte()));
    let qos = if flags & 1 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    let message = Arc::new(Message::new(MessageParts {
        id,
        publisher: None,
        qos,
        retain: flags & 2 != 0,
        expires: None,
        version: if flags & 2 != 0 { 1 + u64::from(argument) } else { 0 },
        topic: ["t", "t/u"][usize::from(flags >> 2) % 2],
        properties: &[],
        payload: &vec![argument; len * usize::from(flags >> 3 & 3)],
    }));
    thread_local!(static METER: Arc<QueueMeter> = Arc::new(QueueMeter::new(&Default::default())));
    let meter = METER.with(Arc::clone);
    let target = |bit: u64| Target {
        queue: QueueId(1 << 48 | bit),
        home: PeerId(0),
        qos,
        retain_as_published: bit == 2,
        identifiers: Identifiers::default(),
        since: 0,
        meter: meter.clone(),
    };
    let queues: Vec<Target> = (0..5).filter(|bit| argument >> bit & 1 != 0).map(target).collect();
    let session = QueueId(1 << 48 | u64::from(argument) % 5);
    let received = (flags & 0x20 != 0).then_some((session, PacketId::MIN));
    let will_of = (flags & 0x40 != 0).then_some(session);
    encoder
        .encode(&Record::Message { message: &message, queues: &queues, groups: &[], received, will_of }, out);
}

/// What a restart found, as far as the next one must find the same.
type Digest = (BTreeMap<u64, String>, BTreeMap<String, (u64, Vec<u8>)>, u64);

fn digest(restored: &Restored) -> Digest {
    let mut owners: BTreeMap<u64, String> = BTreeMap::new();
    for session in &restored.sessions {
        let sent = session.sent.iter();
        let sent: Vec<_> =
            sent.map(|sent| (sent.packet_id, sent.entry.as_ref().map(|entry| entry.message.id))).collect();
        let will = session.will.as_ref().map(|will| will.topic());
        let text = format!(
            "{} {:?} {} {will:?} {:?} {:?} {sent:?} {:?}",
            session.client_id,
            session.user,
            session.expiry,
            session.subscriptions,
            session.received,
            session.waiting
        );
        owners.insert(session.queue.0, text);
    }
    for group in &restored.groups {
        owners.insert(!group.queue.0, format!("{:?}", group.waiting));
    }
    let retained = restored.retained.iter();
    let retained = retained.map(|kept| (kept.topic().to_owned(), (kept.version, kept.payload().to_vec())));
    (owners, retained.collect(), restored.retained_version)
}

/// Opens the folder, if it is not refused, and reads what its queues hold.
fn reads(disk: &SimDisk) -> Option<Digest> {
    let options = StoreOptions { segment_size: MOST as u64, reserve: Some(0), ..StoreOptions::new(SALT) };
    let wakers = vec![Arc::new(|| {}) as Waker];
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock = Clock::new(Instant::now(), WALL + (1 << 40));
    let Prepared { restored, mut engine, mut handles, .. } = prepare(shared, &options, clock, wakers).ok()?;
    let handle = &mut handles[0];
    let sessions = restored.sessions.iter().map(|session| (session.queue, session.waiting));
    let groups = restored.groups.iter().map(|group| (group.queue, group.waiting));
    let queues: BTreeMap<u64, _> =
        sessions.chain(groups).map(|(queue, waiting)| (queue.0, waiting)).collect();
    for (queue, waiting) in &queues {
        handle.request(PageRequest { queue: QueueId(*queue), serial: 1, after: None, max_bytes: usize::MAX });
        handle.flush();
        engine.step(WALL).expect("the disk is sound");
        while let Some(job) = engine.next_page() {
            job.run();
        }
        let page = handle.next_page().expect("it was asked for");
        assert!(page.last);
        let bytes: usize = page.entries.iter().map(|entry| entry.message.size()).sum();
        assert_eq!((page.entries.len() as u64, bytes as u64), (waiting.messages, waiting.bytes));
    }
    Some(digest(&restored))
}
