//! An exact model of a store that keeps everything, for tests: a journal in memory, pages on demand, and a disk that lags
//! behind or brings pages only when the test says so. It holds what is pushed against what may be pushed: a reference
//! is given up once, and a QoS 2 delivery goes through its steps.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use weirmq::message::{Message, MessageId, QueueId};
use weirmq::protocol::packet::{PacketId, QoS};
use weirmq::store::restored::{
    Numbers, Restored, RestoredGroup, RestoredReplay, RestoredSent, RestoredSession, RestoredSubscription,
    Waiting,
};
use weirmq::store::{Page, PageEntry, PageRequest, Position, Pressure, Record, Store, Ticket};
use weirmq::target::Identifiers;

/// What a shard hands to the journal, in its order.
enum Op {
    Message {
        message: Arc<Message>,
        targets: Vec<(QueueId, PageEntry)>,
    },
    Sent {
        session: QueueId,
        packet_id: PacketId,
        message: MessageId,
        from: QueueId,
    },
    Stepped(QueueId, PacketId),
    Completed(QueueId, PacketId),
    Acked(QueueId, MessageId),
    Session {
        queue: QueueId,
        client_id: String,
        user: Option<String>,
        expiry: u32,
    },
    SessionEnded(QueueId),
    Subscribed {
        session: QueueId,
        filter: String,
        options: u8,
        identifier: u32,
        group: Option<QueueId>,
        since: u64,
        replay: bool,
    },
    Unsubscribed(QueueId, String),
    Replayed {
        session: QueueId,
        filter: String,
        topic: Option<String>,
    },
    /// A message, and how far the replay of this subscription has come with it.
    Copied {
        copy: Box<Op>,
        session: QueueId,
        filter: String,
    },
    GroupEnded(QueueId),
    /// What the model has no use for.
    Other,
    Request(PageRequest),
}

struct Subscription {
    options: u8,
    identifier: u32,
    group: Option<QueueId>,
    since: u64,
    replay: Option<Option<String>>,
}

/// A persistent session as the journal has it.
struct Owner {
    client_id: String,
    user: Option<String>,
    expiry: u32,
    subscriptions: BTreeMap<String, Subscription>,
    /// QoS 2 deliveries in their order; without an entry once their PUBREC came.
    sent: Vec<(PacketId, Option<PageEntry>)>,
}

/// One shard's end.
#[derive(Default)]
struct End {
    buffer: Vec<Op>,
    pushed: u64,
    flushed: u64,
    durable: u64,
    pages: VecDeque<Page>,
    /// Pages that the shard may have now.
    released: VecDeque<Page>,
}

/// All that was pushed, and what came of it.
#[derive(Default)]
struct Journal {
    next: u64,
    ends: Vec<End>,
    sessions: BTreeMap<QueueId, Owner>,
    groups: BTreeSet<QueueId>,
    references: BTreeMap<QueueId, BTreeMap<Position, PageEntry>>,
    places: BTreeMap<(QueueId, MessageId), Position>,
    numbers: BTreeMap<u16, (u64, u64)>,
    retained: BTreeMap<String, Arc<Message>>,
    lags: bool,
    holds_pages: bool,
    requests: u64,
}

/// The journal, and the way to each shard's end.
#[derive(Clone, Default)]
pub struct PagedStore(Arc<Mutex<Journal>>);

impl PagedStore {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().expect("nothing panics while it holds the journal")
    }

    /// The handle of one more shard.
    pub fn handle(&self) -> Box<dyn Store> {
        let mut journal = self.journal();
        journal.ends.push(End::default());
        Box::new(Handle { index: journal.ends.len() - 1, journal: self.0.clone() })
    }

    /// Whether the disk makes no progress by itself.
    pub fn lag(&self, lags: bool) {
        self.journal().lags = lags;
    }

    /// The disk catches up.
    pub fn sync(&self) {
        for end in &mut self.journal().ends {
            end.durable = end.flushed;
        }
    }

    /// Whether pages are held back.
    pub fn hold_pages(&self, holds: bool) {
        self.journal().holds_pages = holds;
    }

    /// One page that was held back goes to its shard.
    pub fn release_page(&self) {
        let mut journal = self.journal();
        let end = journal.ends.iter_mut().find(|end| !end.pages.is_empty()).expect("a page is held back");
        let page = end.pages.pop_front().expect("there is one");
        end.released.push_back(page);
    }

    /// How many pages are held back.
    pub fn held_pages(&self) -> usize {
        self.journal().ends.iter().map(|end| end.pages.len()).sum()
    }

    /// How many pages nobody has taken.
    pub fn pages(&self) -> usize {
        self.journal().ends.iter().map(|end| end.pages.len() + end.released.len()).sum()
    }

    /// How many pages were asked for.
    pub fn requests(&self) -> u64 {
        self.journal().requests
    }

    /// How many references nobody has given up.
    pub fn references(&self) -> usize {
        self.journal().references.values().map(BTreeMap::len).sum()
    }

    /// QoS 2 deliveries that are not complete.
    pub fn sent(&self) -> usize {
        self.journal().sessions.values().map(|owner| owner.sent.len()).sum()
    }

    /// How many queues have not ended.
    pub fn queues(&self) -> usize {
        let journal = self.journal();
        journal.sessions.len() + journal.groups.len()
    }

    /// What a start from here finds.
    pub fn restored(&self) -> Restored {
        self.journal().restored()
    }

    /// What the disk does by itself; whether that was anything.
    pub fn turn(&self) -> bool {
        let mut journal = self.journal();
        let (lags, holds) = (journal.lags, journal.holds_pages);
        let mut any = false;
        for end in &mut journal.ends {
            if !lags && end.durable < end.flushed {
                end.durable = end.flushed;
                any = true;
            }
            if !holds && !end.pages.is_empty() {
                end.released.append(&mut end.pages);
                any = true;
            }
        }
        any
    }
}

impl Journal {
    fn owns(&self, queue: QueueId) -> bool {
        self.sessions.contains_key(&queue) || self.groups.contains(&queue)
    }

    fn apply(&mut self, op: Op) {
        self.next += 1;
        let position = Position(self.next);
        match op {
            Op::Message { message, targets } => self.add(position, &message, targets),
            Op::Acked(queue, message) => {
                let known = self.take(queue, message).is_some();
                assert!(known || !self.owns(queue), "{message:?} has left {queue:?} before");
            }
            Op::Sent { session, packet_id, message, from } => {
                let entry = self.take(from, message);
                assert!(entry.is_some(), "{message:?} is not in {from:?}");
                let owner = self.sessions.get_mut(&session).expect("only a persistent session has Sent");
                assert!(owner.sent.iter().all(|(held, _)| *held != packet_id), "{packet_id} is held");
                owner.sent.push((packet_id, entry));
            }
            Op::Stepped(session, packet_id) => {
                let owner = self.sessions.get_mut(&session).expect("it is there");
                let slot = owner.sent.iter_mut().find(|(held, _)| *held == packet_id).expect("it was sent");
                assert!(slot.1.take().is_some(), "it has stepped before");
            }
            Op::Completed(session, packet_id) => {
                let owner = self.sessions.get_mut(&session).expect("it is there");
                let index = owner.sent.iter().position(|(held, _)| *held == packet_id).expect("it was sent");
                owner.sent.remove(index);
            }
            Op::Session { queue, client_id, user, expiry } => {
                let (subscriptions, sent) = (BTreeMap::new(), Vec::new());
                self.count_queue(queue);
                let owner = self.sessions.entry(queue);
                let owner = owner.or_insert(Owner { client_id, user, expiry, subscriptions, sent });
                owner.expiry = expiry;
            }
            Op::Subscribed { session, filter, options, identifier, group, since, replay } => {
                self.groups.extend(group);
                group.into_iter().for_each(|group| self.count_queue(group));
                let owner = self.sessions.get_mut(&session).expect("it is there");
                let replay = replay.then_some(None);
                owner
                    .subscriptions
                    .insert(filter, Subscription { options, identifier, group, since, replay });
            }
            Op::Unsubscribed(session, filter) => {
                self.sessions.get_mut(&session).expect("it is there").subscriptions.remove(&filter);
            }
            Op::Replayed { session, filter, topic } => {
                let owner = self.sessions.get_mut(&session).expect("it is there");
                if let Some(held) = owner.subscriptions.get_mut(&filter) {
                    held.replay = topic.map(Some);
                }
            }
            Op::Copied { copy, session, filter } => {
                if let Op::Message { message, .. } = &*copy {
                    let topic = Some(message.topic().to_owned());
                    self.apply(Op::Replayed { session, filter, topic });
                }
                self.apply(*copy);
            }
            Op::SessionEnded(queue) | Op::GroupEnded(queue) => self.end(queue),
            Op::Other | Op::Request(_) => {}
        }
    }

    fn add(&mut self, position: Position, message: &Arc<Message>, targets: Vec<(QueueId, PageEntry)>) {
        let (prefix, number) = ((message.id.0 >> 48) as u16, message.id.0 & ((1 << 48) - 1));
        let highest = &mut self.numbers.entry(prefix).or_default().0;
        *highest = number.max(*highest);
        if message.version != 0 {
            let topic = message.topic().to_owned();
            if message.payload().is_empty() {
                self.retained.remove(&topic);
            } else {
                self.retained.insert(topic, message.clone());
            }
        }
        for (queue, entry) in targets.into_iter().filter(|(queue, _)| self.owns(*queue)).collect::<Vec<_>>() {
            self.references.entry(queue).or_default().insert(position, entry);
            let double = self.places.insert((queue, message.id), position);
            assert!(double.is_none(), "{:?} is in {queue:?} twice", message.id);
        }
    }

    fn count_queue(&mut self, queue: QueueId) {
        let (prefix, number) = ((queue.0 >> 48) as u16, queue.0 & ((1 << 48) - 1));
        let highest = &mut self.numbers.entry(prefix).or_default().1;
        *highest = number.max(*highest);
    }

    fn take(&mut self, queue: QueueId, message: MessageId) -> Option<PageEntry> {
        let position = self.places.remove(&(queue, message))?;
        let references = self.references.get_mut(&queue)?;
        let entry = references.remove(&position);
        if references.is_empty() {
            self.references.remove(&queue);
        }
        entry
    }

    fn end(&mut self, queue: QueueId) {
        self.sessions.remove(&queue);
        self.groups.remove(&queue);
        self.references.remove(&queue);
        self.places.retain(|(owner, _), _| *owner != queue);
    }

    fn answer(&mut self, request: PageRequest) -> Page {
        self.requests += 1;
        let PageRequest { queue, serial, after, max_bytes } = request;
        let from = Position(after.map_or(0, |after| after.0 + 1));
        let mut page =
            Page { queue, serial, entries: Vec::new(), after: after.unwrap_or_default(), last: true };
        let mut bytes = 0;
        for (position, entry) in self.references.get(&queue).into_iter().flat_map(|held| held.range(from..)) {
            if bytes >= max_bytes {
                page.last = false;
                break;
            }
            bytes += entry.message.size();
            page.entries.push(entry.clone());
            page.after = *position;
        }
        page
    }

    /// What was not durable counts as well: this disk loses nothing.
    fn restored(&self) -> Restored {
        let waiting = |queue: &QueueId| {
            let entries = self.references.get(queue).into_iter().flat_map(|held| held.values());
            entries.fold(Waiting::default(), |sum, entry| Waiting {
                messages: sum.messages + 1,
                bytes: sum.bytes + entry.message.size() as u64,
            })
        };
        let session = |(queue, owner): (&QueueId, &Owner)| RestoredSession {
            queue: *queue,
            client_id: owner.client_id.as_str().into(),
            user: owner.user.as_deref().map(Into::into),
            expiry: owner.expiry,
            detached: None,
            will: None,
            subscriptions: owner.subscriptions.iter().map(subscription).collect(),
            received: Vec::new(),
            sent: owner
                .sent
                .iter()
                .map(|(packet_id, entry)| RestoredSent { packet_id: *packet_id, entry: entry.clone() })
                .collect(),
            waiting: waiting(queue),
        };
        let numbers = |(prefix, (message, queue)): (&u16, &(u64, u64))| Numbers {
            prefix: *prefix,
            message: *message,
            queue: *queue,
        };
        Restored {
            sessions: self.sessions.iter().map(session).collect(),
            groups: self
                .groups
                .iter()
                .map(|queue| RestoredGroup { queue: *queue, waiting: waiting(queue) })
                .collect(),
            retained: self.retained.values().cloned().collect(),
            numbers: self.numbers.iter().map(numbers).collect(),
            retained_version: self.retained.values().map(|message| message.version).max().unwrap_or(0),
        }
    }
}

fn subscription((filter, held): (&String, &Subscription)) -> RestoredSubscription {
    RestoredSubscription {
        filter: filter.as_str().into(),
        options: held.options,
        identifier: held.identifier,
        group: held.group,
        since: held.since,
        replay: held.replay.as_ref().map(|topic| match topic {
            None => RestoredReplay::Start,
            Some(topic) => RestoredReplay::After(topic.as_str().into()),
        }),
    }
}

struct Handle {
    index: usize,
    journal: Arc<Mutex<Journal>>,
}

impl Handle {
    fn with<R>(&self, step: impl FnOnce(&mut End) -> R) -> R {
        let mut journal = self.journal.lock().expect("nothing panics while it holds the journal");
        step(&mut journal.ends[self.index])
    }
}

impl Store for Handle {
    fn push(&mut self, record: Record<'_>) -> Ticket {
        let op = op_of(record);
        self.with(|end| {
            end.buffer.push(op);
            end.pushed += 1;
            Ticket(end.pushed)
        })
    }

    fn flush(&mut self) {
        let mut journal = self.journal.lock().expect("nothing panics while it holds the journal");
        let ops = std::mem::take(&mut journal.ends[self.index].buffer);
        for op in ops {
            if let Op::Request(request) = op {
                let page = journal.answer(request);
                journal.ends[self.index].pages.push_back(page);
            } else {
                journal.apply(op);
                journal.ends[self.index].flushed += 1;
            }
        }
    }

    fn durable(&self) -> Ticket {
        Ticket(self.with(|end| end.durable))
    }

    fn has_pages(&self) -> bool {
        true
    }

    fn request(&mut self, request: PageRequest) {
        self.with(|end| end.buffer.push(Op::Request(request)));
    }

    fn next_page(&mut self) -> Option<Page> {
        self.with(|end| end.released.pop_front())
    }

    fn pressure(&self) -> Pressure {
        Pressure::None
    }

    fn is_full(&self) -> bool {
        false
    }
}

fn op_of(record: Record<'_>) -> Op {
    match record {
        Record::Copied { message, target, filter } => {
            let copy = Box::new(op_of(Record::alone(message, std::slice::from_ref(target))));
            Op::Copied { copy, session: target.queue, filter: filter.into() }
        }
        Record::Message { message, queues, groups, .. } => {
            let kept = |qos: QoS| message.qos.min(qos) > QoS::AtMostOnce;
            let live = |since| message.version == 0 || message.version > since;
            let entry = |qos: QoS, retain, identifiers: Identifiers| PageEntry {
                message: message.clone(),
                qos: message.qos.min(qos),
                retain: message.retain && retain,
                identifiers,
            };
            let queues =
                queues.iter().filter(|target| kept(target.qos) && live(target.since)).map(|target| {
                    let identifiers = target.identifiers.clone();
                    (target.queue, entry(target.qos, target.retain_as_published, identifiers))
                });
            let groups = groups.iter().filter(|target| target.durable && kept(QoS::ExactlyOnce));
            let groups =
                groups.map(|target| (target.queue, entry(QoS::ExactlyOnce, true, Identifiers::default())));
            Op::Message { message: message.clone(), targets: queues.chain(groups).collect() }
        }
        Record::Sent { session, packet_id, message, from } => Op::Sent { session, packet_id, message, from },
        Record::Stepped(session, packet_id) => Op::Stepped(session, packet_id),
        Record::Completed(session, packet_id) => Op::Completed(session, packet_id),
        Record::Acked(queue, message) => Op::Acked(queue, message),
        Record::Session { queue, client_id, user, expiry, .. } => {
            Op::Session { queue, client_id: client_id.into(), user: user.map(Into::into), expiry }
        }
        Record::SessionEnded(queue) => Op::SessionEnded(queue),
        Record::Subscribed { session, filter, options, identifier, group, since, replay } => {
            Op::Subscribed { session, filter: filter.into(), options, identifier, group, since, replay }
        }
        Record::Unsubscribed(session, filter) => Op::Unsubscribed(session, filter.into()),
        Record::Replayed { session, filter, topic } => {
            Op::Replayed { session, filter: filter.into(), topic: topic.map(Into::into) }
        }
        Record::GroupEnded(queue) => Op::GroupEnded(queue),
        Record::Released(..) => Op::Other,
    }
}
