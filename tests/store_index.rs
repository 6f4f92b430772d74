//! The index against a plain model: random records in random segments, opened again and again, cut off by power failures and
//! full disks in the middle of what it does.
#![allow(missing_docs)]

mod common {
    pub mod sim_disk;
}

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use common::sim_disk::{EIO, ENOSPC, Outage, SimDisk, mix};
use weirmq::clock::Clock;
use weirmq::limits::QueueRule;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::{PacketId, QoS};
use weirmq::store::disk::Disk;
use weirmq::store::encode::Encoder;
use weirmq::store::index::{Index, IndexError, Ref};
use weirmq::store::journal::{Journal, JournalOptions};
use weirmq::store::restored::RestoredReplay;
use weirmq::store::segment::Segment;
use weirmq::store::{Position, Record};
use weirmq::target::{GroupTarget, Identifiers, Target};

const SIZE: u64 = 1 << 30;

/// How many seeds each test tries; the environment may ask for more.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let wanted = std::env::var("WEIRMQ_INDEX_SEEDS").map_or(few, |count| count.parse().expect("a number"));
    0..wanted
}

/// Chance.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 += 1;
        (mix(&[self.0]) >> 17) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn of<T: Copy>(&mut self, choice: &[T]) -> Option<T> {
        (!choice.is_empty()).then(|| choice[self.roll(choice.len() as u64) as usize])
    }
}

/// Writes segments, on a disk that never fails.
struct Writer {
    journal: Journal,
    encoder: Encoder,
    meter: Arc<QueueMeter>,
    segments: BTreeMap<u32, Arc<Segment>>,
}

impl Writer {
    fn new() -> Writer {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(0, SIZE));
        let options = JournalOptions { segment_size: 1 << 20, spares: 0, salt: 1 };
        let (mut journal, _) = Journal::open(disk, options, 0, &[]).unwrap();
        journal.begin(1);
        let encoder = Encoder::new(Clock::new(Instant::now(), 1 << 40));
        let meter = Arc::new(QueueMeter::new(&QueueRule::default()));
        Writer { journal, encoder, meter, segments: BTreeMap::new() }
    }

    fn push(&mut self, record: &Record<'_>) -> Option<Position> {
        let mut bytes = Vec::new();
        self.encoder.encode(record, &mut bytes).then(|| self.journal.append(&bytes).unwrap())
    }

    fn target(&self, queue: u64) -> Target {
        Target {
            queue: QueueId(queue),
            home: PeerId(0),
            qos: QoS::ExactlyOnce,
            retain_as_published: false,
            identifiers: Identifiers::one(queue as u32 % 3),
            since: 0,
            meter: Arc::clone(&self.meter),
        }
    }

    fn group(&self, queue: u64) -> GroupTarget {
        let (filter, group, durable) = ("f".into(), "g".into(), true);
        let meter = Arc::clone(&self.meter);
        GroupTarget { queue: QueueId(queue), home: PeerId(0), filter, group, durable, meter }
    }

    /// Ends the segment; what was sealed since the last time.
    fn seal(&mut self) -> Vec<Arc<Segment>> {
        self.journal.commit(true).unwrap();
        self.journal.seal();
        self.journal.begin(1);
        let sealed: Vec<_> = self.journal.sealed().iter().cloned().collect();
        for segment in &sealed {
            self.journal.retire(segment.number());
            self.segments.insert(segment.number(), Arc::clone(segment));
        }
        sealed
    }

    fn body(&self, position: Position) -> Vec<u8> {
        self.segments[&position.segment()].record(position).unwrap()
    }
}

/// A reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waits {
    id: u64,
    position: Position,
    size: u64,
}

/// Where a `Sent` stands, and until its PUBREC the message and the queue it comes from.
type Sending = (Position, Option<(u64, Waits)>);

/// What the index must hold, by the plainest means.
#[derive(Clone, Default)]
struct Model {
    owned: BTreeSet<u64>,
    groups: BTreeSet<u64>,
    refs: BTreeMap<u64, Vec<Waits>>,
    sent: BTreeMap<(u64, u16), Sending>,
    received: BTreeSet<(u64, u16)>,
    subscriptions: BTreeMap<(u64, String), (Option<u64>, Option<String>)>,
    wills: BTreeSet<u64>,
    retained: BTreeMap<String, (u64, Position)>,
    version: u64,
    highest: (u64, u64),
    /// The cold segments that were not evacuated.
    files: BTreeSet<u32>,
    moved: BTreeSet<u32>,
}

impl Model {
    fn wanted(&self) -> impl Iterator<Item = Waits> + '_ {
        let sent = self.sent.values().filter_map(|(_, message)| message.map(|(_, message)| message));
        self.refs.values().flatten().copied().chain(sent)
    }

    fn live(&self) -> BTreeMap<u32, (u64, u64)> {
        let (mut live, mut seen) = (BTreeMap::<u32, (u64, u64)>::new(), BTreeSet::new());
        for message in self.wanted().filter(|message| self.files.contains(&message.position.segment())) {
            let entry = live.entry(message.position.segment()).or_default();
            entry.0 += 1;
            entry.1 += if seen.insert(message.position) { message.size } else { 0 };
        }
        live
    }

    fn take(&mut self, queue: u64, id: u64) -> Option<Waits> {
        let refs = self.refs.get_mut(&queue)?;
        let at = refs.iter().position(|message| message.id == id)?;
        Some(refs.remove(at))
    }

    fn end(&mut self, queue: u64) {
        self.owned.remove(&queue);
        self.groups.remove(&queue);
        self.refs.remove(&queue);
    }

    /// A segment is in; gives back those that nothing refers to since.
    fn close(&mut self, segment: u32, before: &Model) -> Vec<u32> {
        self.files.insert(segment);
        let live = self.live();
        let mut then = before.live();
        then.insert(segment, (0, 0));
        let empty: Vec<u32> = then.into_keys().filter(|segment| !live.contains_key(segment)).collect();
        self.files.retain(|segment| live.contains_key(segment));
        empty
    }

    fn check(&self, index: &Index, writer: &Writer) {
        let known: BTreeSet<u64> = index.totals().unwrap().iter().map(|(queue, _)| queue.0).collect();
        assert_eq!(known, self.owned);
        for (queue, waiting) in index.totals().unwrap() {
            let expected: &[Waits] = self.refs.get(&queue.0).map_or(&[], |refs| refs);
            let refs = index.refs(queue, None, usize::MAX).unwrap();
            assert!(refs.iter().copied().map(plain).eq(expected.iter().copied()), "queue {}", queue.0);
            assert_eq!(waiting.messages, expected.len() as u64);
            assert_eq!(waiting.bytes, expected.iter().map(|message| message.size).sum::<u64>());
            if let Some(middle) = expected.get(expected.len() / 2) {
                let rest = index.refs(queue, Some(middle.position), 7).unwrap();
                let expected = expected[expected.len() / 2 + 1..].iter().copied().take(7);
                assert!(rest.iter().copied().map(plain).eq(expected));
            }
        }
        let live = self.live();
        let cold = index.cold().unwrap();
        assert!(
            cold.iter()
                .map(|(segment, live)| (*segment, live.refs))
                .eq(live.iter().map(|(segment, (refs, _))| (*segment, *refs))),
            "{cold:?} {live:?}"
        );
        assert!(cold.iter().all(|(segment, found)| found.bytes >= live[segment].1), "{cold:?} {live:?}");
        let moved: BTreeSet<Position> = self
            .wanted()
            .map(|message| message.position)
            .filter(|position| self.moved.contains(&position.segment()))
            .collect();
        for position in moved {
            assert_eq!(index.body(position).unwrap(), Some(writer.body(position)));
        }
        self.check_state(index, writer);
    }

    fn check_state(&self, index: &Index, writer: &Writer) {
        let state = index.state().unwrap();
        let (mut sent, mut received, mut subscriptions) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut wills = BTreeSet::new();
        for session in &state.sessions {
            let queue = session.queue.0;
            wills.extend(session.has_will.then_some(queue));
            assert!(session.sent.is_sorted_by_key(|sent| sent.at));
            for entry in &session.sent {
                let message = entry.reference.map(|(reference, from)| (from.0, plain(reference)));
                sent.insert((queue, entry.packet_id.get()), (entry.at, message));
            }
            received.extend(session.received.iter().map(|id| (queue, id.get())));
            for subscription in &session.subscriptions {
                let replay = subscription.replay.as_ref().map(|replay| match replay {
                    RestoredReplay::Start => String::new(),
                    RestoredReplay::After(topic) => topic.to_string(),
                });
                let group = subscription.group.map(|group| group.0);
                subscriptions.insert((queue, subscription.filter.to_string()), (group, replay));
            }
        }
        let sessions: BTreeSet<u64> = state.sessions.iter().map(|session| session.queue.0).collect();
        assert_eq!(sessions, self.owned.difference(&self.groups).copied().collect());
        let groups: BTreeSet<u64> = state.groups.iter().map(|group| group.0).collect();
        assert_eq!(groups, self.groups);
        assert_eq!((sent, received), (self.sent.clone(), self.received.clone()));
        assert_eq!((subscriptions, wills), (self.subscriptions.clone(), self.wills.clone()));
        assert_eq!(state.retained_version, self.version);
        let highest = state.numbers.iter().map(|numbers| (numbers.message, numbers.queue));
        let highest = highest.fold((0, 0), |(a, b), (message, queue)| (a.max(message), b.max(queue)));
        assert_eq!(highest, self.highest);
        let mut retained = BTreeSet::new();
        let visit = |position: Position, record: &[u8]| {
            assert_eq!(record, writer.body(position));
            retained.insert(position);
            Ok::<_, IndexError>(())
        };
        index.retained(visit).unwrap();
        assert_eq!(retained, self.retained.values().map(|(_, position)| *position).collect());
    }
}

fn plain(reference: Ref) -> Waits {
    Waits { id: reference.id.0, position: reference.position, size: reference.size.into() }
}

fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

/// A broker that does anything.
struct Broker {
    dice: Dice,
    writer: Writer,
    model: Model,
    /// By shard.
    ids: [u64; 3],
    next_queue: u64,
}

impl Broker {
    fn new(seed: u64) -> Broker {
        let (dice, model) = (Dice(mix(&[seed])), Model::default());
        Broker { dice, writer: Writer::new(), model, ids: [0; 3], next_queue: 1 }
    }

    fn note(&mut self, message: u64, queue: u64) {
        let highest = &mut self.model.highest;
        *highest = (highest.0.max(message & u64::MAX >> 16), highest.1.max(queue));
    }

    fn any_queue(&mut self) -> Option<u64> {
        let all: Vec<u64> = self.model.owned.iter().copied().collect();
        self.dice.of(&all)
    }

    fn any_session(&mut self) -> Option<u64> {
        let all: Vec<u64> = self.model.owned.difference(&self.model.groups).copied().collect();
        self.dice.of(&all)
    }

    fn step(&mut self) -> Option<()> {
        match self.dice.roll(100) {
            0..=2 => self.begin(),
            3 => self.end()?,
            4..=5 => self.subscribe()?,
            6 => self.unsubscribe()?,
            7..=9 => self.publish(1)?,
            10..=11 => self.retain(),
            12..=13 => self.release()?,
            14..=50 => {
                let burst = if self.dice.one_in(40) { 300 } else { 1 };
                self.publish(burst)?;
            }
            51..=80 => self.ack()?,
            81..=90 => self.send()?,
            _ => self.confirm()?,
        }
        Some(())
    }

    fn begin(&mut self) {
        if self.model.owned.len() > 12 {
            return;
        }
        let queue = self.next_queue;
        self.next_queue += 1;
        let (client_id, detached, will) = ("client", None, None);
        self.writer.push(&Record::Session {
            queue: QueueId(queue),
            client_id,
            user: None,
            expiry: 9,
            detached,
            will,
        });
        self.model.owned.insert(queue);
        self.note(0, queue);
    }

    fn end(&mut self) -> Option<()> {
        if self.dice.one_in(2)
            && let Some(&group) = self.model.groups.first()
        {
            self.writer.push(&Record::GroupEnded(QueueId(group)));
            self.model.end(group);
            return Some(());
        }
        let session = self.any_session()?;
        self.writer.push(&Record::SessionEnded(QueueId(session)));
        let model = &mut self.model;
        model.end(session);
        model.sent.retain(|key, _| key.0 != session);
        model.received.retain(|key| key.0 != session);
        model.subscriptions.retain(|key, _| key.0 != session);
        Some(())
    }

    fn subscribe(&mut self) -> Option<()> {
        let session = self.any_session()?;
        let filter = format!("filter/{}", self.dice.roll(3));
        let (group, replay) = (self.dice.one_in(2), self.dice.one_in(2));
        let group = group.then(|| match self.model.groups.first() {
            Some(&group) if self.model.groups.len() > 2 => group,
            _ => {
                self.next_queue += 1;
                self.next_queue - 1
            }
        });
        self.writer.push(&Record::Subscribed {
            session: QueueId(session),
            filter: &filter,
            options: 2,
            identifier: 0,
            group: group.map(QueueId),
            since: 0,
            replay,
        });
        self.model.owned.extend(group);
        self.model.groups.extend(group);
        self.note(0, group.unwrap_or_default());
        let mut state = replay.then(String::new);
        if replay && self.dice.one_in(2) {
            let topic = self.dice.one_in(2).then_some("topic");
            self.writer.push(&Record::Replayed { session: QueueId(session), filter: &filter, topic });
            state = topic.map(String::from);
        } else if replay && self.dice.one_in(2) {
            self.copy(session, &filter)?;
            state = Some("copied".to_owned());
        }
        self.model.subscriptions.insert((session, filter), (group, state));
        Some(())
    }

    /// A replay comes to a topic.
    fn copy(&mut self, session: u64, filter: &str) -> Option<()> {
        let message = self.message(0, "copied", 70);
        let target = self.writer.target(session);
        let position = self.writer.push(&Record::Copied { message: &message, target: &target, filter })?;
        self.note(message.id.0, session);
        let entry = Waits { id: message.id.0, position, size: message.size() as u64 };
        self.model.refs.entry(session).or_default().push(entry);
        Some(())
    }

    fn unsubscribe(&mut self) -> Option<()> {
        let all: Vec<_> = self.model.subscriptions.keys().cloned().collect();
        let number = self.dice.of(&(0..all.len()).collect::<Vec<_>>())?;
        let (session, filter) = &all[number];
        self.writer.push(&Record::Unsubscribed(QueueId(*session), filter));
        self.model.subscriptions.remove(&all[number]);
        Some(())
    }

    fn message(&mut self, version: u64, topic: &str, payload: usize) -> Arc<Message> {
        let shard = self.dice.roll(3);
        self.ids[shard as usize] += 1 + self.dice.roll(3);
        let payload = vec![1; payload];
        Arc::new(Message::new(MessageParts {
            id: MessageId(shard << 48 | self.ids[shard as usize]),
            publisher: None,
            qos: QoS::ExactlyOnce,
            retain: version > 0,
            expires: None,
            version,
            topic,
            properties: b"",
            payload: &payload,
        }))
    }

    fn publish(&mut self, times: u64) -> Option<()> {
        let queue = self.any_queue()?;
        let mut queues = BTreeSet::from([queue]);
        while self.dice.one_in(3) {
            // Some are of queues that nobody owns.
            queues.insert(if self.dice.one_in(5) {
                1 + self.dice.roll(self.next_queue)
            } else {
                self.any_queue()?
            });
        }
        let received = match self.any_session() {
            Some(session) if self.dice.one_in(4) => Some((session, 1 + self.dice.roll(20) as u16)),
            _ => None,
        };
        for _ in 0..times {
            let size = self.dice.roll(400) as usize;
            let message = self.message(0, "topic", size);
            let groups: Vec<_> =
                queues.intersection(&self.model.groups).map(|&q| self.writer.group(q)).collect();
            let sessions: Vec<_> =
                queues.difference(&self.model.groups).map(|&q| self.writer.target(q)).collect();
            let position = self.writer.push(&Record::Message {
                message: &message,
                queues: &sessions,
                groups: &groups,
                received: received.map(|(session, id)| (QueueId(session), packet_id(id))),
                will_of: None,
            })?;
            self.model.received.extend(received);
            for &queue in &queues {
                self.note(message.id.0, queue);
                if self.model.owned.contains(&queue) {
                    let entry = Waits { id: message.id.0, position, size: message.size() as u64 };
                    self.model.refs.entry(queue).or_default().push(entry);
                }
            }
        }
        Some(())
    }

    fn retain(&mut self) {
        let topic = format!("topic/{}", self.dice.roll(5));
        let size = if self.dice.one_in(3) { 0 } else { 50 };
        self.retain_at(topic, size);
    }

    fn retain_at(&mut self, topic: String, size: usize) {
        self.model.version += 1;
        let version = self.model.version;
        let message = self.message(version, &topic, size);
        let record =
            Record::Message { message: &message, queues: &[], groups: &[], received: None, will_of: None };
        let position = self.writer.push(&record).unwrap();
        self.note(message.id.0, 0);
        match size {
            0 => self.model.retained.remove(&topic),
            _ => self.model.retained.insert(topic, (version, position)),
        };
    }

    fn release(&mut self) -> Option<()> {
        let all: Vec<_> = self.model.received.iter().copied().collect();
        let (session, id) = self.dice.of(&all)?;
        self.writer.push(&Record::Released(QueueId(session), packet_id(id)));
        self.model.received.remove(&(session, id));
        Some(())
    }

    /// A message of a queue: mostly one of the first.
    fn waiting(&mut self) -> Option<(u64, u64)> {
        let queue = self.any_queue()?;
        let len = self.model.refs.get(&queue)?.len() as u64;
        let reach = if self.dice.one_in(10) { len } else { len.min(8) };
        let at = self.dice.roll(reach.max(1)) as usize;
        Some((queue, self.model.refs[&queue].get(at)?.id))
    }

    fn ack(&mut self) -> Option<()> {
        if self.dice.one_in(30) {
            // Of a message that went long ago.
            let queue = self.any_queue()?;
            let shard = self.dice.roll(3);
            let id = shard << 48 | self.dice.roll(self.ids[shard as usize] + 1);
            self.model.take(queue, id);
            self.writer.push(&Record::Acked(QueueId(queue), MessageId(id)));
            return Some(());
        }
        let times = if self.dice.one_in(40) { 250 } else { 1 + self.dice.roll(3) };
        for _ in 0..times {
            let (queue, id) = self.waiting()?;
            self.writer.push(&Record::Acked(QueueId(queue), MessageId(id)));
            self.model.take(queue, id);
        }
        Some(())
    }

    fn send(&mut self) -> Option<()> {
        let (from, id) = self.waiting()?;
        let session = if self.model.groups.contains(&from) { self.any_session()? } else { from };
        let key = (session, 1 + self.dice.roll(10) as u16);
        if self.model.sent.contains_key(&key) {
            return None;
        }
        let at = self.writer.push(&Record::Sent {
            session: QueueId(session),
            packet_id: packet_id(key.1),
            message: MessageId(id),
            from: QueueId(from),
        })?;
        let message = self.model.take(from, id)?;
        self.model.sent.insert(key, (at, Some((from, message))));
        Some(())
    }

    fn confirm(&mut self) -> Option<()> {
        let all: Vec<_> = self.model.sent.keys().copied().collect();
        let key = self.dice.of(&all)?;
        if self.dice.one_in(2) {
            self.writer.push(&Record::Stepped(QueueId(key.0), packet_id(key.1)));
            self.model.sent.get_mut(&key)?.1 = None;
        } else {
            self.writer.push(&Record::Completed(QueueId(key.0), packet_id(key.1)));
            self.model.sent.remove(&key);
        }
        Some(())
    }

    /// A segment with so many events, and the model before it.
    fn segment(&mut self, events: u64) -> (Vec<Arc<Segment>>, Model) {
        let before = self.model.clone();
        self.begin();
        for _ in 0..events {
            let _ = self.step();
        }
        (self.writer.seal(), before)
    }

    fn events(&mut self) -> u64 {
        [3, 30, 300][self.dice.roll(3) as usize]
    }
}

fn open(disk: &SimDisk) -> Index {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Index::open(&disk).unwrap()
}

/// Moves the bodies of some segment.
fn evacuate(broker: &mut Broker, index: &Index) -> Result<(), IndexError> {
    let files: Vec<u32> = broker.model.files.iter().copied().collect();
    let Some(segment) = broker.dice.of(&files) else { return Ok(()) };
    let lost = index.evacuate(segment, |position| Ok(broker.writer.body(position)))?;
    assert!(lost.is_empty());
    broker.model.files.remove(&segment);
    broker.model.moved.insert(segment);
    Ok(())
}

#[test]
fn it_holds_what_the_records_say() {
    for seed in seeds(8) {
        let mut broker = Broker::new(seed);
        let disk = SimDisk::new(seed, SIZE);
        let mut index = open(&disk);
        for _ in 0..25 {
            let events = broker.events();
            let (segments, before) = broker.segment(events);
            let mut empty = Vec::new();
            for segment in &segments {
                empty.extend(index.apply(segment).unwrap().empty);
            }
            assert_eq!(segments.len(), 1, "a segment was too small for what one takes");
            let expected = broker.model.close(segments[0].number(), &before);
            assert_eq!(empty, expected, "seed {seed}");
            if broker.dice.one_in(4) {
                drop(index);
                index = open(&disk);
            }
            if broker.dice.one_in(4) {
                evacuate(&mut broker, &index).unwrap();
            }
            broker.model.check(&index, &broker.writer);
            assert_eq!(index.replay_from().unwrap(), segments[0].number() + 1);
        }
    }
}

#[test]
fn a_crash_at_any_call_leaves_all_of_a_segment_or_nothing() {
    for seed in seeds(30) {
        let mut broker = Broker::new(seed);
        let mut disk = SimDisk::new(seed, SIZE);
        let mut index = open(&disk);
        for round in 0..6 {
            let (segments, before) = broker.segment(100);
            let calls = disk.calls();
            disk.crash_at(calls + 1 + broker.dice.roll(60));
            let applied = index.apply(&segments[0]);
            drop(index);
            let outage =
                if broker.dice.one_in(2) { Outage::Kill } else { Outage::Power(mix(&[seed, round])) };
            disk = disk.reboot(outage);
            index = open(&disk);
            assert!(!index.was_repaired(), "seed {seed}: it was read from end to end");
            let number = segments[0].number();
            if applied.is_ok() {
                assert_eq!(index.replay_from().unwrap(), number + 1, "seed {seed}: a commit was lost");
            }
            if index.replay_from().unwrap() <= number {
                before.check(&index, &broker.writer);
            }
            let empty = index.apply(&segments[0]).unwrap().empty;
            assert_eq!(empty, broker.model.close(number, &before));
            broker.model.check(&index, &broker.writer);
            disk.crash_at(disk.calls() + 1 + broker.dice.roll(30));
            let before = broker.model.clone();
            let moved = evacuate(&mut broker, &index);
            drop(index);
            disk = disk.reboot(Outage::Power(mix(&[seed, round, 1])));
            index = open(&disk);
            let files: BTreeSet<u32> = index.cold().unwrap().iter().map(|(segment, _)| *segment).collect();
            if files == before.files {
                assert!(moved.is_err() || before.files.is_empty(), "seed {seed}: a commit was lost");
                broker.model = before;
            } else if moved.is_err() {
                // It was not told, but done.
                let segment = *before.files.difference(&files).next().unwrap();
                broker.model.files.remove(&segment);
                broker.model.moved.insert(segment);
            }
            broker.model.check(&index, &broker.writer);
        }
    }
}

#[test]
fn a_crash_while_the_file_is_made_small_loses_nothing() {
    for seed in seeds(6) {
        let mut broker = Broker::new(seed);
        let mut disk = SimDisk::new(seed, SIZE);
        let mut index = open(&disk);
        let (segments, before) = broker.segment(200);
        index.apply(&segments[0]).unwrap();
        broker.model.close(segments[0].number(), &before);
        for fill in [40_000, 0] {
            let before = broker.model.clone();
            (0..500).for_each(|topic| broker.retain_at(format!("large/{topic}"), fill));
            for segment in broker.writer.seal() {
                index.apply(&segment).unwrap();
                broker.model.close(segment.number(), &before);
            }
        }
        let full = index.file_bytes();
        for round in 0..6 {
            disk.crash_at(disk.calls() + 1 + broker.dice.roll(40 * round + 1));
            let _ = index.compact_if_idle();
            drop(index);
            disk = disk.reboot(Outage::Power(mix(&[seed, round])));
            index = open(&disk);
            broker.model.check(&index, &broker.writer);
        }
        index.compact_if_idle().unwrap();
        assert!(index.file_bytes() < full / 4, "{} of {full}", index.file_bytes());
        broker.model.check(&index, &broker.writer);
    }
}

#[test]
fn a_full_disk_changes_nothing_and_is_no_end() {
    for seed in seeds(20) {
        let mut broker = Broker::new(seed);
        let disk = SimDisk::new(seed, SIZE);
        let index = open(&disk);
        for _ in 0..6 {
            let (segments, before) = broker.segment(200);
            let number = segments[0].number();
            disk.fail_at(disk.calls() + 1 + broker.dice.roll(40), ENOSPC);
            let empty = match index.apply(&segments[0]) {
                Ok(applied) => applied.empty,
                Err(IndexError::NoRoom) => {
                    if index.replay_from().unwrap() <= number {
                        before.check(&index, &broker.writer);
                    }
                    index.apply(&segments[0]).unwrap().empty
                }
                // It was a sync that failed: nobody knows what that left undone.
                Err(IndexError::Io(_)) => break,
                Err(error) => panic!("seed {seed}: {error}"),
            };
            disk.fail_at(u64::MAX, ENOSPC);
            assert_eq!(empty, broker.model.close(number, &before));
            broker.model.check(&index, &broker.writer);
        }
    }
}

#[test]
fn where_no_room_is_left_the_index_goes_on_once_there_is() {
    let mut broker = Broker::new(1);
    let disk = SimDisk::new(1, SIZE);
    let index = open(&disk);
    let (segments, before) = broker.segment(300);
    index.apply(&segments[0]).unwrap();
    broker.model.close(segments[0].number(), &before);
    disk.resize(disk.used());
    let mut refused = None;
    for round in 0..200 {
        let before = broker.model.clone();
        for topic in 0..20 {
            broker.retain_at(format!("large/{round}/{topic}"), 40_000);
        }
        let (segments, _) = broker.segment(100);
        let applied = index.apply(&segments[0]);
        if let Err(error) = applied {
            assert!(matches!(error, IndexError::NoRoom), "{error}");
            before.check(&index, &broker.writer);
            assert!(matches!(index.apply(&segments[0]), Err(IndexError::NoRoom)));
            refused = Some((segments, before));
            break;
        }
        broker.model.close(segments[0].number(), &before);
    }
    let (segments, before) = refused.expect("the disk is full");
    disk.resize(SIZE);
    index.apply(&segments[0]).unwrap();
    broker.model.close(segments[0].number(), &before);
    broker.model.check(&index, &broker.writer);
}

#[test]
fn a_failing_disk_is_final() {
    let mut broker = Broker::new(1);
    let disk = SimDisk::new(1, SIZE);
    let index = open(&disk);
    let (segments, _) = broker.segment(300);
    disk.fail_at(disk.calls() + 9, EIO);
    assert!(matches!(index.apply(&segments[0]), Err(IndexError::Io(_))));
}
