//! The script: what three sessions, a share group and their publishers make a broker record, in rounds that leave a little of
//! each behind.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weirmq::clock::Clock;
use weirmq::limits::QueueRule;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, Publisher, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::{LastWill, PacketId, QoS};
use weirmq::protocol::properties::Properties;
use weirmq::store::open::StoreOptions;
use weirmq::store::{PageRequest, Record, Store};
use weirmq::target::{GroupTarget, Identifiers, Target};
use weirmq::will::Will;

use crate::common::sim_disk::{Outage, SimDisk};
use crate::simulation::machine::{Machine, Started};
use crate::simulation::store::{Handle, SimStore};

const SHARDS: usize = 2;
const ROUNDS: u64 = 16;
const WALL: u64 = 1_800_000_000_000;
const GROUP: QueueId = queue(9);
const SESSIONS: [QueueId; 3] = [queue(1), queue(2), queue(3)];

const fn queue(number: u64) -> QueueId {
    QueueId(1 << 48 | number)
}

/// How far a script came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    Through,
    /// The disk went down or the store failed.
    Down,
}

/// What happens to a disk, and in which call of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    Crash(u64),
    Error(u64, i32),
}

/// One run of it.
pub struct Script {
    pub disk: SimDisk,
    /// What happens to it, in which call, unless it has happened.
    trouble: Trouble,
    /// Kinds of records that were pushed, and of chores that were done.
    pub seen: BTreeSet<String>,
    store: SimStore,
    handles: Vec<Handle>,
    now: Instant,
    start: Instant,
    last: [u64; SHARDS],
    version: u64,
    serial: u32,
    /// Messages that were given up at once, later, or never.
    owed: Vec<(QueueId, MessageId)>,
}

fn options() -> StoreOptions {
    StoreOptions {
        segment_size: 8 << 10,
        journal_budget: 8 << 10,
        table_budget: 1 << 20,
        max_size: Some(1 << 29),
        reserve: Some(0),
        ..StoreOptions::new(5)
    }
}

fn id(number: u64) -> PacketId {
    NonZeroU16::new(number as u16 % 100 + 1).expect("not zero")
}

impl Script {
    pub fn new(disk: SimDisk, trouble: Trouble) -> Script {
        let start = Instant::now();
        let store = SimStore::new(SHARDS, true, false);
        let script = Script {
            disk,
            trouble,
            seen: BTreeSet::new(),
            handles: (0..SHARDS).map(|shard| store.handle(shard)).collect(),
            store,
            now: start,
            start,
            last: [0; SHARDS],
            version: 0,
            serial: 0,
            owed: Vec::new(),
        };
        script.arm();
        if let Some(started) = script.start() {
            script.store.run_on(started.machine, started.handles);
        }
        script
    }

    fn arm(&self) {
        match self.trouble {
            Trouble::Crash(call) => self.disk.crash_at(call),
            Trouble::Error(call, number) => self.disk.fail_at(call, number),
            Trouble::None => {}
        }
    }

    /// `None` if the disk does not let it.
    fn start(&self) -> Option<Started> {
        let wall = WALL + (self.now - self.start).as_millis() as u64;
        let clock = Clock::new(self.now, wall);
        let started = Machine::start(self.disk.clone(), options(), clock, SHARDS);
        assert!(started.is_ok() || self.trouble != Trouble::None, "{started:?}");
        started.ok()
    }

    fn push(&mut self, shard: usize, record: Record<'_>) {
        let kind = format!("{record:?}");
        let end = kind.find(|c: char| !c.is_alphanumeric()).unwrap_or(kind.len());
        self.seen.insert(kind[..end].to_owned());
        self.handles[shard].push(record);
    }

    /// What was pushed is committed, one chore is done; `false` if the store is no more.
    #[must_use]
    fn step(&mut self) -> bool {
        self.handles.iter_mut().for_each(Handle::flush);
        self.now += Duration::from_millis(300);
        let mut journal = self.store.journal();
        let Some(machine) = &mut journal.machine else { return false };
        let stepped = machine.step(self.now);
        while machine.read_page() {}
        if let Some(chore) = machine.do_chore() {
            self.seen.extend(
                ["Retire", "Evacuate", "Spare"]
                    .iter()
                    .filter(|c| chore.starts_with(&c[..5]))
                    .map(|c| c.to_string()),
            );
        }
        let down = machine.disk.is_down();
        journal.note_durable();
        drop(journal);
        stepped.is_ok() && !down
    }

    /// Whether some segment has a higher number than there are files for.
    pub fn reused(&self) -> bool {
        use weirmq::store::disk::Disk;
        let names = self.disk.names().expect("the disk is up");
        let highest = names.iter().filter_map(|name| name.strip_suffix(".seg")?.parse::<usize>().ok()).max();
        highest.is_some_and(|highest| highest > names.len() + 3)
    }

    pub fn run(&mut self) -> Ran {
        for round in 0..ROUNDS {
            if !self.round(round) {
                return Ran::Down;
            }
        }
        if self.settle() { Ran::Through } else { Ran::Down }
    }

    /// Two rounds on top of whatever there is.
    pub fn run_more(&mut self) -> Ran {
        for round in [ROUNDS, ROUNDS + 1] {
            if !self.round(round) {
                return Ran::Down;
            }
        }
        if self.settle() { Ran::Through } else { Ran::Down }
    }

    /// All of it is durable, and what there is to tidy up is tidied up.
    fn settle(&mut self) -> bool {
        (0..12).all(|_| self.step())
    }

    fn round(&mut self, round: u64) -> bool {
        self.sessions(round)
            && self.publishes(round)
            && self.exactly_once(round)
            && self.pages()
            && self.ends(round)
    }

    fn sessions(&mut self, round: u64) -> bool {
        let will = Will::new(&LastWill {
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::EMPTY,
            topic: "w",
            payload: b"gone",
        });
        for (index, queue) in SESSIONS.into_iter().enumerate() {
            let client_id = format!("c{index}");
            let will = Some(&will).filter(|_| index == 1);
            let detached = (index == 2).then_some(self.now);
            let user = Some("ann").filter(|_| index > 0);
            let session =
                Record::Session { queue, client_id: &client_id, user, expiry: 1000, detached, will };
            self.push(index % SHARDS, session);
            let filter = format!("t/{index}/{}", round % 3);
            let replay = index == 0;
            let (options, since) = (index as u8, self.version);
            let subscribed = Record::Subscribed {
                session: queue,
                filter: &filter,
                options,
                identifier: 7,
                group: None,
                since,
                replay,
            };
            self.push(index % SHARDS, subscribed);
            let shared = Record::Subscribed {
                session: queue,
                filter: "$share/g/s/#",
                options: 2,
                identifier: 0,
                group: Some(GROUP),
                since: 0,
                replay: false,
            };
            self.push(index % SHARDS, shared);
        }
        let filter = format!("t/0/{}", round % 3);
        let copy = self.message(0, QoS::ExactlyOnce, 0, "r/0", 40);
        let target = Script::target(SESSIONS[0], QoS::ExactlyOnce);
        self.push(0, Record::Copied { message: &copy, target: &target, filter: &filter });
        self.owed.push((SESSIONS[0], copy.id));
        if !self.step() {
            return false;
        }
        self.push(0, Record::Replayed { session: SESSIONS[0], filter: &filter, topic: Some("r/1") });
        if round.is_multiple_of(2) {
            self.push(0, Record::Replayed { session: SESSIONS[0], filter: &filter, topic: None });
        }
        if !self.step() {
            return false;
        }
        let filter = format!("t/1/{}", round % 3);
        self.push(1, Record::Unsubscribed(SESSIONS[1], &filter));
        true
    }

    fn message(&mut self, shard: usize, qos: QoS, version: u64, topic: &str, len: usize) -> Arc<Message> {
        self.last[shard] += 1;
        let id = MessageId((shard as u64 + 1) << 48 | self.last[shard]);
        let mut payload = format!("{:08}", id.0 & 0xffff_ffff).into_bytes();
        payload.resize(len, b'.');
        let publisher = Some(Publisher { queue: SESSIONS[0], client_hash: 3 });
        let expires = (len.is_multiple_of(2)).then(|| self.now + Duration::from_secs(60));
        let retain = version > 0;
        Arc::new(Message::new(MessageParts {
            id,
            publisher,
            qos,
            retain,
            expires,
            version,
            topic,
            properties: &[],
            payload: &payload,
        }))
    }

    fn target(queue: QueueId, qos: QoS) -> Target {
        Target {
            queue,
            home: PeerId(0),
            qos,
            retain_as_published: true,
            identifiers: Identifiers::several(vec![5, 7]),
            since: 0,
            meter: Arc::new(QueueMeter::new(&QueueRule::default())),
        }
    }

    fn group() -> GroupTarget {
        GroupTarget {
            queue: GROUP,
            home: PeerId(1),
            filter: "s/#".into(),
            group: "g".into(),
            durable: true,
            meter: Arc::new(QueueMeter::new(&QueueRule::default())),
        }
    }

    /// Messages to sessions and the group, of both shards; a large one now and then; retained values and their end; a will.
    fn publishes(&mut self, round: u64) -> bool {
        let plain = |message: &Arc<Message>, queues: &[Target], script: &mut Script| {
            let groups = [Script::group()];
            let record = Record::Message { message, queues, groups: &groups, received: None, will_of: None };
            script.push((message.id.0 >> 48) as usize - 1, record);
        };
        for n in 0..8 {
            let shard = n % SHARDS;
            let len = if n == 3 && round % 5 == 4 { 9_000 } else { 60 + 37 * n };
            let message = self.message(shard, QoS::AtLeastOnce, 0, "t/1/0", len);
            let queues: Vec<Target> = SESSIONS
                .into_iter()
                .take(1 + n % 3)
                .map(|queue| Script::target(queue, QoS::ExactlyOnce))
                .collect();
            plain(&message, &queues, self);
            self.owed.extend(queues.iter().map(|target| (target.queue, message.id)));
            self.owed.push((GROUP, message.id));
            if n % 3 == 2 && !self.step() {
                return false;
            }
        }
        for topic in ["r/1", "r/2"] {
            self.version += 1;
            let len = if topic == "r/2" && round % 3 == 2 { 0 } else { 30 };
            let message = self.message(1, QoS::AtMostOnce, self.version, topic, len);
            plain(&message, &[], self);
        }
        let message = self.message(1, QoS::AtLeastOnce, 0, "w", 20);
        let (queues, will_of) = ([Script::target(SESSIONS[2], QoS::AtLeastOnce)], Some(SESSIONS[1]));
        let will =
            Record::Message { message: &message, queues: &queues, groups: &[], received: None, will_of };
        self.push(1, will);
        self.owed.push((SESSIONS[2], message.id));
        self.step()
    }

    /// QoS 2 both ways, in all states; and what was delivered is given up, but for a little.
    fn exactly_once(&mut self, round: u64) -> bool {
        for n in 0..3 {
            let message = self.message(0, QoS::ExactlyOnce, 0, "t/0/0", 50);
            let queues = [Script::target(SESSIONS[1], QoS::ExactlyOnce)];
            let queues = if n == 1 { &[] } else { &queues[..] };
            let received = Some((SESSIONS[0], id(3 * round + n)));
            self.push(0, Record::Message { message: &message, queues, groups: &[], received, will_of: None });
            if n != 1 {
                let (session, from) = (SESSIONS[1], SESSIONS[1]);
                let packet_id = id(10 * round + n);
                self.push(1, Record::Sent { session, packet_id, message: message.id, from });
            }
            if n > 0 {
                self.push(1, Record::Stepped(SESSIONS[1], id(10 * round + n)));
            }
        }
        if !self.step() {
            return false;
        }
        self.push(0, Record::Released(SESSIONS[0], id(3 * round)));
        self.push(1, Record::Completed(SESSIONS[1], id(10 * round + 2)));
        // Of the group's, one is sent to a member; then the others.
        let mut kept = Vec::new();
        for (index, (queue, message)) in std::mem::take(&mut self.owed).into_iter().enumerate() {
            match (message.0 + index as u64) % 7 {
                0 if queue == GROUP => {
                    let packet_id = id(50 + 10 * round + index as u64 % 5);
                    self.push(0, Record::Sent { session: SESSIONS[2], packet_id, message, from: GROUP });
                    if index % 2 == 0 {
                        self.push(0, Record::Completed(SESSIONS[2], packet_id));
                    }
                }
                // The last of all is never given up.
                1 | 2 if message.0 % 29 != 0 && kept.len() < 40 => kept.push((queue, message)),
                _ if message.0 % 29 == 0 => {}
                _ => self.push(0, Record::Acked(queue, message)),
            }
        }
        self.owed = kept;
        self.step()
    }

    /// Everything that waits is read, and held against what should.
    fn pages(&mut self) -> bool {
        for (shard, queue) in [(0, SESSIONS[0]), (1, SESSIONS[1]), (0, SESSIONS[2]), (1, GROUP)] {
            let mut after = None;
            loop {
                self.serial += 1;
                self.handles[shard].request(PageRequest {
                    queue,
                    serial: self.serial,
                    after,
                    max_bytes: 1000,
                });
                let page = loop {
                    if !self.step() {
                        return false;
                    }
                    if let Some(page) = self.handles[shard].next_page() {
                        break page;
                    }
                };
                after = Some(page.after);
                if page.last {
                    break;
                }
            }
        }
        true
    }

    /// A session and a group come and go; now and then everything starts anew without a crash.
    fn ends(&mut self, round: u64) -> bool {
        let (guest, group) = (queue(100 + 2 * round), queue(101 + 2 * round));
        let session = Record::Session {
            queue: guest,
            client_id: "guest",
            user: None,
            expiry: 9,
            detached: None,
            will: None,
        };
        self.push(0, session);
        let subscribed = Record::Subscribed {
            session: guest,
            filter: "$share/h/x",
            options: 1,
            identifier: 0,
            group: Some(group),
            since: 0,
            replay: false,
        };
        self.push(0, subscribed);
        let message = self.message(0, QoS::AtLeastOnce, 0, "x", 100);
        let queues = [Script::target(guest, QoS::AtLeastOnce), Script::target(SESSIONS[0], QoS::AtLeastOnce)];
        let groups = [GroupTarget { queue: group, ..Script::group() }];
        self.push(
            0,
            Record::Message {
                message: &message,
                queues: &queues,
                groups: &groups,
                received: None,
                will_of: None,
            },
        );
        self.owed.push((SESSIONS[0], message.id));
        if round.is_multiple_of(2) && !self.step() {
            return false;
        }
        self.push(0, Record::Unsubscribed(guest, "$share/h/x"));
        self.push(1, Record::GroupEnded(group));
        self.push(0, Record::SessionEnded(guest));
        if !self.step() {
            return false;
        }
        if round % 6 == 5 {
            let finished =
                self.store.journal().machine.as_mut().is_some_and(|machine| machine.finish(self.now).is_ok());
            self.store.journal().note_durable();
            if !finished || self.disk.is_down() {
                return false;
            }
            self.leave(Outage::Kill);
            self.arm();
            return self.enter();
        }
        true
    }

    /// The process ends, and the next one starts.
    pub fn crash(&mut self, outage: Outage) {
        self.trouble = Trouble::None;
        self.leave(outage);
        assert!(self.enter(), "nothing is armed");
    }

    /// The process ends, and the next ones do in the `behind`th call of their start; whether it came to that.
    pub fn crash_again(&mut self, outage: Outage, behind: u64, then: Outage) -> bool {
        self.leave(outage);
        self.trouble = Trouble::Crash(self.disk.calls() + behind);
        self.arm();
        let down = !self.enter();
        if down {
            self.crash(then);
        } else {
            self.disk.crash_at(u64::MAX);
        }
        down
    }

    fn leave(&mut self, outage: Outage) {
        let machine = self.store.journal().machine.take();
        self.disk = match machine {
            Some(machine) => machine.crash(outage).0,
            None => {
                self.disk.crash();
                self.disk.reboot(outage)
            }
        };
    }

    /// Starts, and holds what was given back against what was pushed.
    fn enter(&mut self) -> bool {
        self.now += Duration::from_secs(1);
        let Some(Started { machine, handles, restored }) = self.start() else { return false };
        let mut journal = self.store.journal();
        let kept = journal.find(&restored);
        journal.crash(kept);
        drop(journal);
        self.store = self.store.next(SHARDS);
        self.store.run_on(machine, handles);
        self.handles = (0..SHARDS).map(|shard| self.store.handle(shard)).collect();
        true
    }

    /// Every message that is there can be read, and no other.
    pub fn check(&mut self) {
        assert!(self.pages(), "the disk works");
    }
}
