//! Does random things to a store on a simulated disk, and holds what comes of them against the model.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use weirmq::clock::Clock;
use weirmq::limits::QueueRule;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::{PacketId, QoS};
use weirmq::store::chore::Chore;
use weirmq::store::disk::Disk;
use weirmq::store::engine::Engine;
use weirmq::store::fifo::{JournalStore, Waker};
use weirmq::store::open::{Prepared, StoreOptions, prepare};
use weirmq::store::pages::PageJob;
use weirmq::store::{Page, PageRequest, Position, Record, Store, Ticket};
use weirmq::target::{GroupTarget, Identifiers, Target};

use super::model::{Held, Model, Queue, Sent};
use super::sim_disk::{Outage, SimDisk};

const SHARDS: usize = 2;
const WALL: u64 = 1_800_000_000_000;

/// What makes segments and budgets small.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    pub segment_size: u64,
    pub journal_budget: u64,
    pub table_budget: u64,
    /// The disk goes down now and then, in the middle of whatever is being done.
    pub crashes: bool,
}

/// A page that was asked for.
struct Asked {
    queue: QueueId,
    /// What the model held then, behind the cursor.
    expected: Vec<Held>,
}

pub struct Driver {
    seed: u64,
    random: fastrand::Rng,
    tuning: Tuning,
    disk: SimDisk,
    wall: u64,
    engine: Engine,
    handles: Vec<JournalStore>,
    jobs: VecDeque<PageJob>,
    chore: Option<Chore>,
    pub model: Model,
    /// How many records were pushed, and what the model was then: as far back as what is durable for certain.
    history: VecDeque<(u64, Model)>,
    pushed: u64,
    counters: [u64; SHARDS],
    last_queue: u64,
    last_serial: u32,
    asked: BTreeMap<u32, Asked>,
    /// Where the pages of each queue have come to: the store's word for it, and the model's.
    cursors: BTreeMap<QueueId, (Position, u64)>,
}

fn options(tuning: Tuning) -> StoreOptions {
    let Tuning { segment_size, journal_budget, table_budget, .. } = tuning;
    StoreOptions { segment_size, journal_budget, table_budget, ..StoreOptions::new(7) }
}

fn open(disk: &SimDisk, tuning: Tuning, wall: u64) -> Prepared {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let wakers = (0..SHARDS).map(|_| Arc::new(|| {}) as Waker).collect();
    prepare(disk, &options(tuning), Clock::new(Instant::now(), wall), wakers).expect("it opens")
}

impl Driver {
    pub fn new(seed: u64, tuning: Tuning) -> Driver {
        let disk = SimDisk::new(seed, 1 << 40);
        let Prepared { engine, handles, .. } = open(&disk, tuning, WALL);
        assert!(disk.names().unwrap().is_empty(), "nothing is created before the first record");
        let mut driver = Driver {
            seed,
            random: fastrand::Rng::with_seed(seed),
            tuning,
            disk,
            wall: WALL,
            engine,
            handles,
            jobs: VecDeque::new(),
            chore: None,
            model: Model::default(),
            history: VecDeque::from([(0, Model::default())]),
            pushed: 0,
            counters: [0; SHARDS],
            last_queue: 0,
            last_serial: 0,
            asked: BTreeMap::new(),
            cursors: BTreeMap::new(),
        };
        (0..3).for_each(|_| driver.begin_session());
        driver
    }

    /// Does one thing or another.
    pub fn act(&mut self) {
        match self.random.u32(0..100) {
            0..30 => self.publish(),
            30..45 => self.acknowledge(),
            45..50 => self.send(),
            50..55 => self.confirm(),
            55..57 => self.begin_session(),
            57..58 => self.end_queue(),
            58..60 => self.subscribe(),
            60..62 => self.release(),
            62..75 => self.request(),
            75..88 => self.step(),
            88..94 => self.read(),
            94..98 => self.run_chore(),
            98..99 if self.tuning.crashes && self.random.bool() => {
                let calls = self.disk.calls() + self.random.u64(1..40);
                self.disk.crash_at(calls);
            }
            98..99 => self.wall += 1000,
            _ => self.maybe_restart(),
        }
    }

    fn push(&mut self, shard: usize, record: Record<'_>) {
        self.pushed += u64::from(self.handles[shard].push(record) > Ticket(0));
        self.handles[shard].flush();
    }

    /// The model is as after what was pushed last.
    fn note(&mut self) {
        if self.tuning.crashes {
            self.history.push_back((self.pushed, self.model.clone()));
        }
    }

    fn shard(&mut self) -> usize {
        self.random.usize(0..SHARDS)
    }

    fn pick(&mut self) -> Option<QueueId> {
        let queues: Vec<QueueId> = self.model.queues.keys().copied().collect();
        self.random.choice(queues)
    }

    fn pick_session(&mut self) -> Option<QueueId> {
        let sessions = self.model.queues.iter().filter(|(_, queue)| !queue.is_group);
        let sessions: Vec<QueueId> = sessions.map(|(queue, _)| *queue).collect();
        self.random.choice(sessions)
    }

    fn message(&mut self, shard: usize, qos: QoS, retain: bool, payload: &[u8]) -> Arc<Message> {
        self.counters[shard] += 1;
        self.model.version += u64::from(retain);
        Arc::new(Message::new(MessageParts {
            id: MessageId((shard as u64 + 1) << 48 | self.counters[shard]),
            publisher: None,
            qos,
            retain,
            expires: None,
            version: if retain { self.model.version } else { 0 },
            topic: ["a", "b/c", "d"][self.counters[shard] as usize % 3],
            properties: b"",
            payload,
        }))
    }

    fn publish(&mut self) {
        let shard = self.shard();
        let qos = if self.random.bool() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let retain = self.random.u32(0..8) == 0;
        let len = match self.random.u32(0..20) {
            0 => self.random.usize(0..20_000),
            1 => 0,
            _ => self.random.usize(4..300),
        };
        let payload: Vec<u8> = std::iter::repeat_with(|| self.random.u8(..)).take(len).collect();
        let message = self.message(shard, qos, retain, &payload);
        let mut queues: Vec<QueueId> = self.model.queues.keys().copied().collect();
        queues.push(QueueId(9 << 48 | 5));
        let share = self.random.u32(1..4);
        queues.retain(|_| self.random.u32(0..3) < share);
        let meter = Arc::new(QueueMeter::new(&QueueRule::default()));
        let targets: Vec<Target> = queues
            .iter()
            .map(|queue| Target {
                queue: *queue,
                home: PeerId(0),
                qos: QoS::ExactlyOnce,
                retain_as_published: queue.0.is_multiple_of(2),
                identifiers: Identifiers::one(queue.0 as u32 % 4),
                since: 0,
                meter: meter.clone(),
            })
            .collect();
        let (sessions, groups): (Vec<Target>, Vec<Target>) = targets
            .into_iter()
            .partition(|target| self.model.queues.get(&target.queue).is_none_or(|queue| !queue.is_group));
        let groups: Vec<GroupTarget> = groups
            .into_iter()
            .map(|target| GroupTarget {
                queue: target.queue,
                home: target.home,
                filter: "f".into(),
                group: "g".into(),
                durable: true,
                meter: target.meter,
            })
            .collect();
        let received = match (qos, self.pick_session()) {
            (QoS::ExactlyOnce, Some(session)) if self.random.bool() => {
                Some((session, packet_id(self.random.u16(1..20))))
            }
            _ => None,
        };
        let record = Record::Message {
            message: &message,
            queues: &sessions,
            groups: &groups,
            received,
            will_of: None,
        };
        self.push(shard, record);
        self.model.order += 1;
        let order = self.model.order;
        let (id, size) = (message.id, message.size() as u64);
        let topic = message.topic().to_owned();
        if retain && payload.is_empty() {
            self.model.retained.remove(&topic);
        } else if retain {
            self.model.retained.insert(topic, (message.version, payload.clone()));
        }
        if let Some((session, packet_id)) = received
            && let Some(session) = self.model.queues.get_mut(&session)
        {
            session.received.insert(packet_id);
        }
        self.model.publish(Held { id, order, qos, payload: payload.into(), size }, &queues);
        self.note();
    }

    /// Mostly the oldest, as clients do.
    fn pick_held(&mut self, queue: QueueId, qos: Option<QoS>) -> Option<Held> {
        let refs = &self.model.queues.get(&queue)?.refs;
        let most = if self.random.u32(0..10) == 0 { refs.len() } else { refs.len().min(4) };
        let refs: Vec<&Held> =
            refs.iter().take(most).filter(|held| qos.is_none_or(|qos| qos == held.qos)).collect();
        self.random.choice(refs).cloned()
    }

    fn acknowledge(&mut self) {
        let Some(queue) = self.pick() else { return };
        for _ in 0..self.random.u32(1..6) {
            let Some(held) = self.pick_held(queue, None) else { return };
            self.model.take(queue, held.id);
            let shard = self.shard();
            self.push(shard, Record::Acked(queue, held.id));
            self.note();
            if self.random.u32(0..10) == 0 {
                // Giving up what is gone does nothing.
                self.push(shard, Record::Acked(queue, held.id));
                self.note();
            }
        }
    }

    fn send(&mut self) {
        let (Some(from), Some(session)) = (self.pick(), self.pick_session()) else { return };
        let Some(held) = self.pick_held(from, Some(QoS::ExactlyOnce)) else { return };
        let packet_id = packet_id(self.random.u16(1..50));
        if self.model.queues[&session].sent.contains_key(&packet_id) {
            return;
        }
        self.model.take(from, held.id);
        let shard = self.shard();
        self.push(shard, Record::Sent { session, packet_id, message: held.id, from });
        self.model.order += 1;
        let sent = Sent { order: self.model.order, held: Some(held) };
        self.model.queues.get_mut(&session).unwrap().sent.insert(packet_id, sent);
        self.note();
    }

    fn confirm(&mut self) {
        let Some(session) = self.pick_session() else { return };
        let sent = &self.model.queues[&session].sent;
        let Some(packet_id) = self.random.choice(sent.keys().copied().collect::<Vec<_>>()) else { return };
        let stepped = sent[&packet_id].held.is_none();
        let (shard, completes) = (self.shard(), stepped || self.random.bool());
        let queue = self.model.queues.get_mut(&session).unwrap();
        if completes {
            queue.sent.remove(&packet_id);
            self.push(shard, Record::Completed(session, packet_id));
        } else {
            queue.sent.get_mut(&packet_id).unwrap().held = None;
            self.push(shard, Record::Stepped(session, packet_id));
        }
        self.note();
    }

    fn begin_session(&mut self) {
        if self.model.queues.len() > 12 {
            return;
        }
        let shard = self.shard();
        let queue = self.new_queue(shard);
        self.begin(shard, queue);
        self.model.queues.insert(queue, Queue::default());
        self.note();
    }

    fn begin(&mut self, shard: usize, queue: QueueId) {
        let client_id = format!("client-{}", queue.0);
        let record = Record::Session {
            queue,
            client_id: &client_id,
            user: None,
            expiry: 600,
            detached: None,
            will: None,
        };
        self.push(shard, record);
    }

    fn new_queue(&mut self, shard: usize) -> QueueId {
        self.last_queue += 1;
        QueueId((shard as u64 + 1) << 48 | self.last_queue)
    }

    fn end_queue(&mut self) {
        let Some(queue) = self.pick() else { return };
        let shard = self.shard();
        let is_group = self.model.queues[&queue].is_group;
        self.push(shard, if is_group { Record::GroupEnded(queue) } else { Record::SessionEnded(queue) });
        self.model.queues.remove(&queue);
        self.note();
        self.cursors.remove(&queue);
    }

    fn subscribe(&mut self) {
        let Some(session) = self.pick_session() else { return };
        let shard = self.shard();
        let groups = self.model.queues.iter().filter(|(_, queue)| queue.is_group);
        let groups: Vec<QueueId> = groups.map(|(queue, _)| *queue).collect();
        let group = match self.random.u32(0..4) {
            0 => Some(self.new_queue(shard)),
            1 => self.random.choice(groups),
            _ => None,
        };
        let filter = format!("f/{}", self.random.u32(0..5));
        let (options, identifier, since, replay) = (1, 3, 0, false);
        let record =
            Record::Subscribed { session, filter: &filter, options, identifier, group, since, replay };
        self.push(shard, record);
        self.model.queues.get_mut(&session).unwrap().subscriptions.insert(filter, group);
        if let Some(group) = group {
            let begun = Queue { is_group: true, ..Queue::default() };
            self.model.queues.entry(group).or_insert(begun);
        }
        self.note();
    }

    fn release(&mut self) {
        let Some(session) = self.pick_session() else { return };
        let received = &mut self.model.queues.get_mut(&session).unwrap().received;
        let Some(packet_id) = received.pop_first() else { return };
        let shard = self.shard();
        self.push(shard, Record::Released(session, packet_id));
        self.note();
    }

    fn request(&mut self) {
        let Some(queue) = self.pick() else { return };
        let cursor = self.cursors.get(&queue).copied().filter(|_| self.random.u32(0..4) > 0);
        let max_bytes = self.random.usize(1..4000);
        self.request_page(queue, cursor, max_bytes);
    }

    fn request_page(&mut self, queue: QueueId, cursor: Option<(Position, u64)>, max_bytes: usize) {
        // One after the other, as a queue does.
        if self.asked.values().any(|asked| asked.queue == queue) {
            return;
        }
        let shard = queue.0 as usize % SHARDS;
        self.last_serial += 1;
        let serial = self.last_serial;
        let after = cursor.map(|(position, _)| position);
        self.handles[shard].request(PageRequest { queue, serial, after, max_bytes });
        self.handles[shard].flush();
        let behind = cursor.map_or(0, |(_, order)| order);
        let refs = self.model.queues.get(&queue).map_or(&[][..], |queue| &queue.refs);
        let expected = refs.iter().filter(|held| held.order > behind).cloned().collect();
        self.asked.insert(serial, Asked { queue, expected });
        self.cursors.insert(queue, cursor.unwrap_or_default());
    }

    /// A batch; afterwards pages may have come.
    pub fn step(&mut self) {
        if let Err(error) = self.engine.step(self.wall) {
            assert!(self.disk.is_down(), "seed {}: {error}", self.seed);
            return self.recover();
        }
        let durable = self.durable();
        while self.history.get(1).is_some_and(|(pushed, _)| *pushed <= durable) {
            self.history.pop_front();
        }
        self.jobs.extend(std::iter::from_fn(|| self.engine.next_page()));
        if self.chore.is_none() {
            self.chore = self.engine.next_chore();
        }
    }

    /// How many records are durable for certain.
    fn durable(&self) -> u64 {
        self.handles.iter().map(|handle| handle.durable().0).sum()
    }

    /// Lets the reader do one of its jobs.
    fn read(&mut self) {
        if let Some(job) = self.jobs.pop_front() {
            job.run();
            self.take_pages();
        }
    }

    fn run_chore(&mut self) {
        if let Some(chore) = self.chore.take() {
            chore.run();
        }
    }

    fn take_pages(&mut self) {
        for shard in 0..SHARDS {
            while let Some(page) = self.handles[shard].next_page() {
                self.check(page);
            }
        }
    }

    fn check(&mut self, page: Page) {
        let seed = self.seed;
        let Page { queue, serial, entries, after, last } = page;
        let asked = self.asked.remove(&serial).expect("it was asked for");
        assert_eq!(asked.queue, queue);
        let live = |held: &Held| self.model.queues.get(&queue).is_some_and(|queue| queue.refs.contains(held));
        let mut expected = asked.expected.iter();
        for entry in &entries {
            // What is not in the page was given up after it was asked for.
            let found = loop {
                let Some(held) = expected.next() else {
                    panic!("seed {seed}: {queue:?} gave {:?}, which it does not hold", entry.message.id)
                };
                if held.id == entry.message.id {
                    break held;
                }
                assert!(!live(held), "seed {seed}: {queue:?} left out {:?}", held.id);
            };
            assert_eq!(*entry.message.payload(), *found.payload);
            assert_eq!(entry.qos, found.qos);
        }
        if last {
            for held in expected {
                assert!(!live(held), "seed {seed}: {queue:?} ended before {:?}", held.id);
            }
        }
        if let Some(cursor) = self.cursors.get_mut(&queue) {
            let end = entries.last().map(|last| last.message.id);
            let order = asked.expected.iter().find(|held| Some(held.id) == end).map(|held| held.order);
            *cursor = (after, order.unwrap_or(cursor.1));
        }
    }

    /// Lets everything that is under way come to its end.
    pub fn settle(&mut self) {
        loop {
            self.step();
            let under_way = !self.jobs.is_empty() || self.chore.is_some();
            while !self.jobs.is_empty() {
                self.read();
            }
            self.run_chore();
            if !under_way && self.engine.step(self.wall).is_ok_and(|worked| !worked) {
                break;
            }
        }
        self.take_pages();
    }

    fn maybe_restart(&mut self) {
        if self.random.u32(0..4) == 0 {
            let outage = if self.random.bool() { Outage::Kill } else { Outage::Power(self.random.u64(..)) };
            self.restart(outage);
        }
    }

    /// The process ends, once all that was pushed is durable, and another begins.
    pub fn restart(&mut self, outage: Outage) {
        while self.engine.step(self.wall).is_ok_and(|worked| worked) {}
        if self.disk.is_down() {
            return self.recover();
        }
        self.history = VecDeque::from([(0, self.model.clone())]);
        self.begin_again(outage);
    }

    /// The disk went down: what was durable is there, and of the rest as much as got there in order.
    fn recover(&mut self) {
        let durable = self.durable();
        self.history.retain(|(pushed, _)| *pushed >= durable || durable == 0);
        let outage = if self.random.bool() { Outage::Kill } else { Outage::Power(self.random.u64(..)) };
        self.begin_again(outage);
    }

    fn begin_again(&mut self, outage: Outage) {
        self.disk = self.disk.reboot(outage);
        self.wall += 10_000;
        let Prepared { engine, handles, restored, .. } = open(&self.disk, self.tuning, self.wall);
        (self.engine, self.handles, self.chore) = (engine, handles, None);
        self.jobs.clear();
        self.asked.clear();
        self.cursors.clear();
        let differences: Vec<_> =
            self.history.iter().map(|(_, model)| model.compare(&restored).err()).collect();
        let Some(found) = differences.iter().rposition(Option::is_none) else {
            panic!("seed {}: {:?}", self.seed, differences)
        };
        self.model = self.history[found].1.clone();
        self.history = VecDeque::from([(0, self.model.clone())]);
        self.pushed = 0;
    }

    /// Nothing goes wrong from now on.
    pub fn calm(&mut self) {
        self.disk.crash_at(0);
    }

    /// Everything that waits is fetched in order and acknowledged; then nothing is left.
    pub fn drain(&mut self) {
        let queues: Vec<QueueId> = self.model.queues.keys().copied().collect();
        for queue in queues {
            while !self.model.queues[&queue].refs.is_empty() {
                let before = self.model.queues[&queue].refs.len();
                self.request_page(queue, None, 2000);
                self.settle();
                let (_, order) = self.cursors[&queue];
                let taken: Vec<MessageId> = self.model.queues[&queue]
                    .refs
                    .iter()
                    .take_while(|held| held.order <= order)
                    .map(|held| held.id)
                    .collect();
                for id in taken {
                    self.model.take(queue, id);
                    self.push(0, Record::Acked(queue, id));
                }
                assert!(self.model.queues[&queue].refs.len() < before, "seed {}: stuck", self.seed);
            }
            self.request_page(queue, None, 2000);
            self.settle();
            assert_eq!(self.cursors[&queue].1, 0, "seed {}: {queue:?} has more", self.seed);
        }
        self.tidy();
    }

    /// Once all is idle, no file holds what nobody wants.
    fn tidy(&mut self) {
        for _ in 0..40 {
            self.wall += 1000;
            self.settle();
        }
        let wanted = self.model.queues.values().flat_map(|queue| queue.sent.values());
        let wanted = wanted.filter(|sent| sent.held.is_some()).count() as u64;
        let Tuning { segment_size, journal_budget, .. } = self.tuning;
        let most = journal_budget.saturating_add((6 + wanted) * segment_size.max(64 * 1024)) + (4 << 20);
        assert!(self.disk.used() <= most, "seed {}: {} bytes are left", self.seed, self.disk.used());
        assert_eq!(self.engine.damaged(), 0);
    }
}

fn packet_id(id: u16) -> PacketId {
    NonZeroU16::new(id).unwrap()
}
