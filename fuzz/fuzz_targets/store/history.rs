//! A journal that is used, and whose process or power ends now and then: whatever is pushed, in whatever order, what a restart
//! gives back is what a plain model holds after some of what was pushed, and never less than what was said to be durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use weirmq::clock::Clock;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::{PacketId, QoS};
use weirmq::store::disk::Disk;
use weirmq::store::engine::Engine;
use weirmq::store::fifo::{JournalStore, Waker};
use weirmq::store::open::{Prepared, StoreOptions, prepare};
use weirmq::store::restored::{Restored, RestoredReplay, Waiting};
use weirmq::store::{Page, PageRequest, Record, Store, Ticket};
use weirmq::target::{GroupTarget, Identifiers, Target};

use super::WALL;
use super::sim_disk::{Outage, SimDisk};

/// Sessions and groups that there are at a time; the last two are groups.
const SLOTS: usize = 6;
const GROUPS: usize = 4;
const SHARD: u64 = 1 << 48;
const FILTERS: [&str; 3] = ["f", "$share/g/f", "f/#"];
const TOPICS: [&str; 3] = ["a", "b/c", ""];
const LENGTHS: [usize; 4] = [0, 8, 90, 3000];

/// A reference: the message, and its size.
type Held = (u64, u64);

#[derive(Clone, Debug, Default, PartialEq)]
struct Session {
    received: BTreeSet<PacketId>,
    /// Filter → group, and how far the replay is: nothing yet, or behind a topic.
    subscriptions: BTreeMap<&'static str, (Option<u64>, Option<Option<&'static str>>)>,
    /// The message, until its PUBREC.
    sent: BTreeMap<PacketId, Option<u64>>,
}

/// What is to be there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    sessions: BTreeMap<u64, Session>,
    groups: BTreeSet<u64>,
    waiting: BTreeMap<u64, Vec<Held>>,
    /// Topic → version and the payload.
    retained: BTreeMap<&'static str, (u64, Vec<u8>)>,
    version: u64,
}

/// What was pushed.
#[derive(Clone, Debug)]
enum Change {
    Message { held: Held, queues: Vec<u64>, received: Option<(u64, PacketId)>, retained: Option<Retained> },
    Acked(u64, u64),
    Sent { session: u64, packet_id: PacketId, message: u64, from: u64 },
    Stepped(u64, PacketId),
    Completed(u64, PacketId),
    Released(u64, PacketId),
    Session(u64),
    Ended(u64),
    Subscribed { session: u64, filter: &'static str, group: Option<u64>, replay: bool },
    Unsubscribed(u64, &'static str),
    Replayed(u64, &'static str, Option<&'static str>),
}

type Retained = (&'static str, u64, Vec<u8>);

impl Model {
    fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Message { held, queues, received, retained } => {
                for queue in queues {
                    self.waiting.entry(queue).and_modify(|refs| refs.push(held));
                }
                if let Some((session, packet_id)) = received {
                    self.change(session, |session| _ = session.received.insert(packet_id));
                }
                if let Some((topic, version, payload)) = retained {
                    self.version = version;
                    match payload.is_empty() {
                        true => _ = self.retained.remove(topic),
                        false => _ = self.retained.insert(topic, (version, payload)),
                    }
                }
            }
            Change::Acked(queue, message) => _ = self.take(queue, message),
            Change::Sent { session, packet_id, message, from } => {
                let taken = self.take(from, message);
                self.change(session, |session| {
                    session.sent.remove(&packet_id);
                    if let Some((message, _)) = taken {
                        session.sent.insert(packet_id, Some(message));
                    }
                });
            }
            Change::Stepped(session, packet_id) => {
                self.change(session, |session| {
                    _ = session.sent.entry(packet_id).and_modify(|sent| *sent = None)
                });
            }
            Change::Completed(session, packet_id) => {
                self.change(session, |session| _ = session.sent.remove(&packet_id));
            }
            Change::Released(session, packet_id) => {
                self.change(session, |session| _ = session.received.remove(&packet_id));
            }
            Change::Session(session) => {
                self.sessions.entry(session).or_default();
                self.waiting.entry(session).or_default();
            }
            Change::Ended(queue) => {
                self.sessions.remove(&queue);
                self.groups.remove(&queue);
                self.waiting.remove(&queue);
            }
            Change::Subscribed { session, filter, group, replay } => {
                let Some(owner) = self.sessions.get_mut(&session) else { return };
                owner.subscriptions.insert(filter, (group, replay.then_some(None)));
                if let Some(group) = group {
                    self.groups.insert(group);
                    self.waiting.entry(group).or_default();
                }
            }
            Change::Unsubscribed(session, filter) => {
                self.change(session, |session| _ = session.subscriptions.remove(filter));
            }
            Change::Replayed(session, filter, topic) => self.change(session, |session| {
                session.subscriptions.entry(filter).and_modify(|(_, replay)| *replay = topic.map(Some));
            }),
        }
    }

    fn change(&mut self, session: u64, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&session) {
            change(session);
        }
    }

    fn take(&mut self, queue: u64, message: u64) -> Option<Held> {
        let refs = self.waiting.get_mut(&queue)?;
        let at = refs.iter().position(|(id, _)| *id == message)?;
        Some(refs.remove(at))
    }

    /// Whether this is what a restart gave back.
    fn is(&self, restored: &Restored, contents: &BTreeMap<u64, Vec<u64>>) -> bool {
        let waits = |queue: &QueueId, waiting: Waiting| {
            let refs = &self.waiting[&queue.0];
            let held = contents.get(&queue.0).map_or(&[][..], |ids| ids);
            refs.iter().map(|(id, _)| id).eq(held)
                && (refs.len() as u64, refs.iter().map(|(_, size)| size).sum())
                    == (waiting.messages, waiting.bytes)
        };
        restored.sessions.len() == self.sessions.len()
            && restored.groups.len() == self.groups.len()
            && restored.retained.len() == self.retained.len()
            && restored.retained_version == self.version
            && restored
                .groups
                .iter()
                .all(|group| self.groups.contains(&group.queue.0) && waits(&group.queue, group.waiting))
            && restored.retained.iter().all(|message| {
                let known = self.retained.get(message.topic());
                known.is_some_and(|(version, payload)| {
                    *version == message.version && payload == message.payload()
                })
            })
            && restored.sessions.iter().all(|found| {
                let Some(session) = self.sessions.get(&found.queue.0) else { return false };
                let subscriptions = found.subscriptions.iter().map(|held| {
                    let replay = held.replay.as_ref().map(|replay| match replay {
                        RestoredReplay::Start => None,
                        RestoredReplay::After(topic) => Some(&**topic),
                    });
                    (&*held.filter, (held.group.map(|group| group.0), replay))
                });
                let sent = found.sent.iter();
                let sent =
                    sent.map(|sent| (sent.packet_id, sent.entry.as_ref().map(|entry| entry.message.id.0)));
                waits(&found.queue, found.waiting)
                    && found.received.iter().eq(&session.received)
                    && subscriptions.eq(session.subscriptions.iter().map(|(filter, held)| (*filter, *held)))
                    && sent.collect::<BTreeMap<_, _>>() == session.sent
            })
    }
}

/// A page that was asked for, and what is to be in it.
struct Asked {
    queue: u64,
    expected: Vec<u64>,
}

/// A store and its model.
pub struct History {
    tuning: StoreOptions,
    disk: SimDisk,
    engine: Engine,
    handle: JournalStore,
    wall: u64,
    /// As of what was durable when the process began, and what was pushed since.
    model: Model,
    changes: Vec<Change>,
    /// The model after all of it.
    now: Model,
    slots: [u64; SLOTS],
    queues: u64,
    messages: u64,
    version: u64,
    asked: Option<Asked>,
    serial: u32,
    meter: Arc<QueueMeter>,
    outages: u64,
}

fn open(disk: &SimDisk, tuning: &StoreOptions, wall: u64) -> Prepared {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let wakers = vec![Arc::new(|| {}) as Waker];
    prepare(shared, tuning, Clock::new(Instant::now(), wall), wakers).expect("what the store wrote opens")
}

impl History {
    /// A store on an empty disk; `choice` says how large its segments are.
    pub fn new(choice: u8) -> History {
        let disk = SimDisk::new(choice.into(), 1 << 30);
        let segment_size = 8192 << (choice & 1);
        let tuning = StoreOptions { segment_size, reserve: Some(0), ..StoreOptions::new(7) };
        let Prepared { engine, mut handles, .. } = open(&disk, &tuning, WALL);
        History {
            tuning,
            disk,
            engine,
            handle: handles.remove(0),
            wall: WALL,
            model: Model::default(),
            changes: Vec::new(),
            now: Model::default(),
            slots: [0; SLOTS],
            queues: 0,
            messages: 0,
            version: 0,
            asked: None,
            serial: 0,
            meter: Arc::new(QueueMeter::new(&weirmq::limits::QueueRule::default())),
            outages: 0,
        }
    }

    /// Does one thing or another.
    pub fn act(&mut self, kind: u8, argument: u8) {
        let slot = usize::from(argument) % SLOTS;
        let session = self.slots[usize::from(argument) % GROUPS];
        let packet_id = PacketId::MIN.saturating_add(u16::from(argument >> 2) % 4);
        let (filter, topic) =
            (FILTERS[usize::from(argument >> 2) % 3], TOPICS[usize::from(argument >> 4) % 3]);
        match kind % 32 {
            0..8 => self.publish(argument, kind / 32),
            8..11 => self.acknowledge(slot, argument),
            11..13 => self.send(session, argument, packet_id),
            13 => {
                self.push(Record::Stepped(QueueId(session), packet_id), Change::Stepped(session, packet_id))
            }
            14 => self
                .push(Record::Completed(QueueId(session), packet_id), Change::Completed(session, packet_id)),
            15 => {
                self.push(Record::Released(QueueId(session), packet_id), Change::Released(session, packet_id))
            }
            16..18 => self.begin(usize::from(argument) % GROUPS),
            18 => self.end(slot),
            19..21 => self.subscribe(session, filter, argument),
            21 => self
                .push(Record::Unsubscribed(QueueId(session), filter), Change::Unsubscribed(session, filter)),
            22 => {
                let topic = (argument & 0x80 == 0).then_some(topic);
                let record = Record::Replayed { session: QueueId(session), filter, topic };
                self.push(record, Change::Replayed(session, filter, topic));
            }
            23..27 => self.step(),
            27 | 28 => self.request(slot, argument),
            29 => self.wall += u64::from(argument) * 100,
            30 => {
                let calls = self.disk.calls() + 1 + u64::from(argument) % 24;
                self.disk.crash_at(calls);
            }
            _ => self.restart(),
        }
    }

    /// Ends it in peace: nothing is lost then.
    pub fn finish(&mut self) {
        self.disk.crash_at(0);
        self.handle.flush();
        while !self.disk.is_down() && self.engine.step(self.wall).expect("the disk is sound") {}
        assert_eq!(self.engine.damaged(), 0);
        self.restart();
    }

    fn push(&mut self, record: Record<'_>, change: Change) {
        if self.handle.push(record) > Ticket(0) {
            self.now.apply(&change);
            self.changes.push(change);
        }
    }

    fn number(&mut self) -> u64 {
        self.queues += 1;
        SHARD | self.queues
    }

    fn publish(&mut self, argument: u8, more: u8) {
        self.messages += 1;
        let id = SHARD | self.messages;
        let topic = TOPICS[usize::from(more) % 2];
        let retained = argument & 0xC0 == 0xC0;
        self.version += u64::from(retained);
        let payload = vec![self.messages as u8; LENGTHS[usize::from(more) % 4]];
        let qos = if argument & 1 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let message = Arc::new(Message::new(MessageParts {
            id: MessageId(id),
            publisher: None,
            qos,
            retain: retained,
            expires: None,
            version: if retained { self.version } else { 0 },
            topic,
            properties: &[],
            payload: &payload,
        }));
        // Some go to queues that nobody owns any more, or not yet.
        let taken = |slot: usize| argument >> (1 + slot % 5) & 1 != 0;
        let queues: Vec<u64> = (0..SLOTS).filter(|slot| taken(*slot)).map(|slot| self.slots[slot]).collect();
        let split = (0..GROUPS).filter(|slot| taken(*slot)).count();
        let target = |queue: &u64| Target {
            queue: QueueId(*queue),
            home: PeerId(0),
            qos,
            retain_as_published: queue % 2 == 0,
            identifiers: Identifiers::one(*queue as u32 % 3),
            since: 0,
            meter: self.meter.clone(),
        };
        let group = |queue: &u64| GroupTarget {
            queue: QueueId(*queue),
            home: PeerId(0),
            filter: "f".into(),
            group: "g".into(),
            durable: true,
            meter: self.meter.clone(),
        };
        let queues: BTreeSet<u64> = queues.into_iter().collect();
        let targets: Vec<Target> = queues.iter().take(split).map(target).collect();
        let groups: Vec<GroupTarget> = queues.iter().skip(split).map(group).collect();
        let received = (qos == QoS::ExactlyOnce && more > 3)
            .then_some((self.slots[usize::from(more) % GROUPS], PacketId::MIN));
        let change = Change::Message {
            held: (id, message.size() as u64),
            queues: queues.iter().copied().collect(),
            received,
            retained: retained.then_some((topic, self.version, payload)),
        };
        let record = Record::Message {
            message: &message,
            queues: &targets,
            groups: &groups,
            received: received.map(|(session, packet_id)| (QueueId(session), packet_id)),
            will_of: None,
        };
        self.push(record, change);
    }

    /// One of the messages that a queue holds, or one that it does not.
    fn pick(&self, queue: u64, argument: u8) -> u64 {
        let refs = self.now.waiting.get(&queue).map_or(&[][..], |refs| refs);
        match refs.len() {
            0 => SHARD | (u64::from(argument) % (self.messages + 1)),
            len => refs[usize::from(argument >> 4) % len].0,
        }
    }

    fn acknowledge(&mut self, slot: usize, argument: u8) {
        let queue = self.slots[slot];
        let message = self.pick(queue, argument);
        self.push(Record::Acked(QueueId(queue), MessageId(message)), Change::Acked(queue, message));
    }

    fn send(&mut self, session: u64, argument: u8, packet_id: PacketId) {
        let from =
            if argument & 0x80 == 0 { session } else { self.slots[GROUPS + usize::from(argument) % 2] };
        let message = self.pick(from, argument);
        let record = Record::Sent {
            session: QueueId(session),
            packet_id,
            message: MessageId(message),
            from: QueueId(from),
        };
        self.push(record, Change::Sent { session, packet_id, message, from });
    }

    fn begin(&mut self, slot: usize) {
        if self.now.sessions.contains_key(&self.slots[slot]) {
            return;
        }
        let queue = self.number();
        self.slots[slot] = queue;
        let client_id = "c";
        let record = Record::Session {
            queue: QueueId(queue),
            client_id,
            user: None,
            expiry: 9,
            detached: None,
            will: None,
        };
        self.push(record, Change::Session(queue));
    }

    fn end(&mut self, slot: usize) {
        let queue = self.slots[slot];
        let record = if slot < GROUPS { Record::SessionEnded } else { Record::GroupEnded };
        self.push(record(QueueId(queue)), Change::Ended(queue));
    }

    fn subscribe(&mut self, session: u64, filter: &'static str, argument: u8) {
        let slot = GROUPS + usize::from(argument >> 4) % 2;
        let shared = filter.starts_with('$');
        if shared && self.now.sessions.contains_key(&session) && !self.now.groups.contains(&self.slots[slot])
        {
            self.slots[slot] = self.number();
        }
        let group = shared.then_some(self.slots[slot]).filter(|group| *group != 0);
        let replay = argument & 0x80 != 0;
        let record = Record::Subscribed {
            session: QueueId(session),
            filter,
            options: argument & 0x2F,
            identifier: 1,
            group: group.map(QueueId),
            since: 0,
            replay,
        };
        self.push(record, Change::Subscribed { session, filter, group, replay });
    }

    fn step(&mut self) {
        self.handle.flush();
        match self.engine.step(self.wall) {
            Ok(_) => self.take_pages(),
            Err(error) => {
                assert!(self.disk.is_down(), "{error}");
                self.restart();
            }
        }
    }

    /// Asks for a page; what it is to hold is settled by that.
    fn request(&mut self, slot: usize, argument: u8) {
        if self.asked.is_some() {
            return self.step();
        }
        let queue = self.slots[slot];
        self.serial += 1;
        let max_bytes = if argument & 0x80 == 0 { usize::MAX } else { usize::from(argument) * 4 };
        self.handle.request(PageRequest {
            queue: QueueId(queue),
            serial: self.serial,
            after: None,
            max_bytes,
        });
        let refs = self.now.waiting.get(&queue).map_or(&[][..], |refs| refs);
        self.asked = Some(Asked { queue, expected: refs.iter().map(|(id, _)| *id).collect() });
    }

    fn take_pages(&mut self) {
        while let Some(job) = self.engine.next_page() {
            job.run();
        }
        while let Some(page) = self.handle.next_page() {
            let asked = self.asked.take().expect("it was asked for");
            self.check(&asked, &page);
        }
    }

    fn check(&self, asked: &Asked, page: &Page) {
        assert_eq!((page.queue.0, page.serial), (asked.queue, self.serial));
        // What was given up since it was asked for may be missing.
        let live = |id: u64| {
            self.now.waiting.get(&asked.queue).is_some_and(|refs| refs.iter().any(|held| held.0 == id))
        };
        let mut expected = asked.expected.iter();
        for entry in &page.entries {
            loop {
                match expected.next() {
                    Some(id) if *id == entry.message.id.0 => break,
                    Some(id) => assert!(!live(*id), "{id} was left out"),
                    None => panic!("{:?} does not belong there", entry.message.id),
                }
            }
            assert!(entry.message.payload().iter().all(|byte| *byte == entry.message.id.0 as u8));
        }
        assert!(!page.last || !expected.copied().any(live), "the end came too early");
    }

    /// The process ends, or the power goes, and another begins.
    fn restart(&mut self) {
        let durable = self.handle.durable().0 as usize;
        self.outages += 1;
        let power = self.outages.is_multiple_of(2);
        self.disk = self.disk.reboot(if power { Outage::Power(self.outages) } else { Outage::Kill });
        self.wall += 1;
        let Prepared { engine, mut handles, restored, report, .. } =
            open(&self.disk, &self.tuning, self.wall);
        assert!(report.corrupt.is_empty() && report.missing.is_empty(), "{report:?}");
        (self.engine, self.handle, self.asked) = (engine, handles.remove(0), None);
        let contents = self.contents(&restored);
        let changes = std::mem::take(&mut self.changes);
        let (certain, rest) = changes.split_at(durable);
        certain.iter().for_each(|change| self.model.apply(change));
        // The most that it can be: not all that was pushed makes a difference.
        let mut found = self.model.is(&restored, &contents).then(|| self.model.clone());
        let certain = self.model.clone();
        for change in rest {
            self.model.apply(change);
            if self.model.is(&restored, &contents) {
                found = Some(self.model.clone());
            }
        }
        let Some(found) = found else {
            panic!("restored {restored:#?}\nof what was durable {certain:#?}\nand then {rest:#?}")
        };
        self.numbers_are_above(&found, &restored);
        (self.now, self.model) = (found.clone(), found);
    }

    /// The messages of every queue, as pages give them.
    fn contents(&mut self, restored: &Restored) -> BTreeMap<u64, Vec<u64>> {
        let sessions = restored.sessions.iter().map(|session| (session.queue, session.waiting));
        let all = sessions.chain(restored.groups.iter().map(|group| (group.queue, group.waiting)));
        for (queue, _) in all.filter(|(_, waiting)| waiting.messages > 0) {
            self.serial += 1;
            let serial = self.serial;
            self.handle.request(PageRequest { queue, serial, after: None, max_bytes: usize::MAX });
        }
        self.handle.flush();
        self.engine.step(self.wall).expect("the disk is sound");
        while let Some(job) = self.engine.next_page() {
            job.run();
        }
        let pages = std::iter::from_fn(|| self.handle.next_page());
        let ids = |page: Page| page.entries.iter().map(|entry| entry.message.id.0).collect();
        pages.map(|page| (page.queue.0, ids(page))).collect()
    }

    /// Numbers that are in use are never given again.
    fn numbers_are_above(&self, model: &Model, restored: &Restored) {
        let highest = |numbers: &mut dyn Iterator<Item = u64>| numbers.max().unwrap_or(0) & (SHARD - 1);
        let numbers =
            restored.numbers.iter().find(|numbers| numbers.prefix == 1).copied().unwrap_or_default();
        assert!(numbers.queue >= highest(&mut model.waiting.keys().copied()));
        assert!(numbers.message >= highest(&mut model.waiting.values().flatten().map(|held| held.0)));
    }
}
