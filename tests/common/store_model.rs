//! The store as simply as it can be said: what records mean, in plain maps. The real one is held against it: what a restart
//! gives back must be what some prefix of the records means, and a page what they mean where it was asked for.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use weirmq::message::{Message, MessageId, QueueId};
use weirmq::protocol::packet::{PacketId, QoS};
use weirmq::store::restored::*;
use weirmq::store::{PageEntry, Record};
use weirmq::will::Will;

/// A [`Record`] that owns what it says.
#[derive(Clone, Debug)]
pub enum Said {
    Message(Published),
    Released(QueueId, PacketId),
    Sent { session: QueueId, packet_id: PacketId, message: MessageId, from: QueueId },
    Stepped(QueueId, PacketId),
    Completed(QueueId, PacketId),
    Acked(QueueId, MessageId),
    Session(SessionState),
    SessionEnded(QueueId),
    Subscribed { session: QueueId, filter: String, terms: Terms },
    Unsubscribed(QueueId, String),
    Replayed { session: QueueId, filter: String, topic: Option<String> },
    GroupEnded(QueueId),
}

/// A message and where it goes.
#[derive(Clone, Debug)]
pub struct Published {
    pub message: Arc<Message>,
    pub targets: Vec<(QueueId, PageEntry)>,
    received: Option<(QueueId, PacketId)>,
    will_of: Option<QueueId>,
    replay_of: Option<(QueueId, String)>,
}

/// What a session's record says.
#[derive(Clone, Debug)]
pub struct SessionState {
    pub queue: QueueId,
    pub client_id: String,
    user: Option<String>,
    expiry: u32,
    detached: Option<Instant>,
    will: Option<Arc<Will>>,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    options: u8,
    identifier: u32,
    group: Option<QueueId>,
    since: u64,
    replay: Option<Option<String>>,
}

#[derive(Clone, Debug)]
struct Session {
    state: SessionState,
    subscriptions: BTreeMap<String, Terms>,
    received: BTreeSet<PacketId>,
    sent: Vec<(PacketId, Option<PageEntry>)>,
    /// Of those, the ones that a share group gave.
    given: BTreeSet<PacketId>,
}

/// What all records up to some point mean together.
#[derive(Clone, Debug, Default)]
pub struct Model {
    records: u64,
    sessions: BTreeMap<QueueId, Session>,
    groups: BTreeSet<QueueId>,
    /// By the number of the message's record.
    waiting: BTreeMap<QueueId, BTreeMap<u64, PageEntry>>,
    retained: BTreeMap<String, Arc<Message>>,
    retained_version: u64,
    numbers: BTreeMap<u16, (u64, u64)>,
}

/// Copies a record.
pub fn said(record: &Record<'_>) -> Said {
    match *record {
        Record::Message { message, queues, groups, received, will_of } => {
            let entry = |qos: QoS, retain, identifiers| {
                let qos = message.qos.min(qos);
                PageEntry { message: message.clone(), qos, retain: message.retain && retain, identifiers }
            };
            let live = queues.iter().filter(|target| message.version == 0 || message.version > target.since);
            let own = live.map(|target| {
                let entry = entry(target.qos, target.retain_as_published, target.identifiers.clone());
                (target.queue, entry)
            });
            let durable = groups.iter().filter(|group| group.durable);
            let shared =
                durable.map(|group| (group.queue, entry(QoS::ExactlyOnce, true, Default::default())));
            let targets = own.chain(shared).filter(|(_, entry)| entry.qos > QoS::AtMostOnce).collect();
            Said::Message(Published { message: message.clone(), targets, received, will_of, replay_of: None })
        }
        Record::Copied { message, target, filter } => {
            let mut copy = said(&Record::alone(message, std::slice::from_ref(target)));
            if let Said::Message(published) = &mut copy {
                published.replay_of = Some((target.queue, filter.to_owned()));
            }
            copy
        }
        Record::Released(session, id) => Said::Released(session, id),
        Record::Sent { session, packet_id, message, from } => {
            Said::Sent { session, packet_id, message, from }
        }
        Record::Stepped(session, id) => Said::Stepped(session, id),
        Record::Completed(session, id) => Said::Completed(session, id),
        Record::Acked(queue, message) => Said::Acked(queue, message),
        Record::Session { queue, client_id, user, expiry, detached, will } => {
            let will = will.map(|will| Arc::new(Will::from_parts(will.as_parts())));
            let (client_id, user) = (client_id.to_owned(), user.map(str::to_owned));
            Said::Session(SessionState { queue, client_id, user, expiry, detached, will })
        }
        Record::SessionEnded(queue) => Said::SessionEnded(queue),
        Record::Subscribed { session, filter, options, identifier, group, since, replay } => {
            let terms = Terms { options, identifier, group, since, replay: replay.then_some(None) };
            Said::Subscribed { session, filter: filter.to_owned(), terms }
        }
        Record::Unsubscribed(session, filter) => Said::Unsubscribed(session, filter.to_owned()),
        Record::Replayed { session, filter, topic } => {
            Said::Replayed { session, filter: filter.to_owned(), topic: topic.map(str::to_owned) }
        }
        Record::GroupEnded(queue) => Said::GroupEnded(queue),
    }
}

impl Said {
    /// Whether it changes nothing, whatever came before.
    pub fn is_vain(&self) -> bool {
        let Said::Message(published) = self else { return false };
        let Published { message, targets, received, will_of, .. } = published;
        targets.is_empty() && message.version == 0 && received.is_none() && will_of.is_none()
    }
}

impl Session {
    fn replayed(&mut self, filter: &str, topic: Option<String>) {
        if let Some(terms) = self.subscriptions.get_mut(filter) {
            terms.replay = topic.map(Some);
        }
    }
}

impl Model {
    /// How many records it knows.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// References that nobody has given up.
    pub fn references(&self) -> usize {
        let sent = self.sessions.values().flat_map(|session| &session.sent).count();
        self.waiting.values().map(BTreeMap::len).sum::<usize>() + sent
    }

    /// Queues that have not ended.
    pub fn queues(&self) -> usize {
        self.sessions.len() + self.groups.len()
    }

    /// Holds a record of a broker that knows what it has said against what came before: a reference is given up once, and a
    /// QoS 2 delivery goes through its steps.
    ///
    /// # Panics
    /// If it makes no sense.
    pub fn judge(&self, record: &Said) {
        let owned = |queue: &QueueId| self.sessions.contains_key(queue) || self.groups.contains(queue);
        let holds = |queue, id| self.place(queue, id).is_some();
        let sent = |queue: &QueueId, id: &PacketId| {
            let session =
                self.sessions.get(queue).unwrap_or_else(|| panic!("{queue:?} is no session: {record:?}"));
            session.sent.iter().find(|(sent, _)| sent == id)
        };
        match record {
            Said::Message(published) => {
                let id = published.message.id;
                let twice = published.targets.iter().find(|(queue, _)| holds(*queue, id));
                assert!(twice.is_none(), "it is there twice: {record:?}");
            }
            Said::Acked(queue, id) => {
                assert!(!owned(queue) || holds(*queue, *id), "it has left the queue before: {record:?}");
            }
            Said::Sent { session, packet_id, message, from } => {
                assert!(holds(*from, *message), "it is not in the queue: {record:?}");
                assert!(sent(session, packet_id).is_none(), "the packet id is in use: {record:?}");
            }
            Said::Stepped(session, packet_id) => {
                let entry = sent(session, packet_id).and_then(|(_, entry)| entry.as_ref());
                assert!(entry.is_some(), "it was not sent, or confirmed before: {record:?}");
            }
            Said::Completed(session, packet_id) => {
                assert!(sent(session, packet_id).is_some(), "it was not sent: {record:?}");
            }
            Said::Released(session, packet_id) => {
                let received =
                    self.sessions.get(session).is_some_and(|session| session.received.contains(packet_id));
                assert!(received, "it was not received: {record:?}");
            }
            Said::Subscribed { session, .. }
            | Said::Replayed { session, .. }
            | Said::Unsubscribed(session, _) => {
                assert!(self.sessions.contains_key(session), "no such session: {record:?}");
            }
            Said::Session(_) | Said::SessionEnded(_) | Said::GroupEnded(_) => {}
        }
    }

    /// The number of the record of a message in a queue.
    fn place(&self, queue: QueueId, message: MessageId) -> Option<u64> {
        let mut waiting = self.waiting.get(&queue)?.iter();
        waiting.find(|(_, entry)| entry.message.id == message).map(|(number, _)| *number)
    }

    /// One record more.
    pub fn apply(&mut self, record: &Said) {
        self.records += 1;
        match record {
            Said::Message(published) => self.publish(published),
            Said::Acked(queue, message) => drop(self.take(*queue, *message)),
            Said::Sent { session, packet_id, message, from } => {
                let entry = self.take(*from, *message);
                if let (Some(session), Some(entry)) = (self.sessions.get_mut(session), entry) {
                    session.sent.retain(|(id, _)| id != packet_id);
                    session.sent.push((*packet_id, Some(entry)));
                    session.given.remove(packet_id);
                    session.given.extend((session.state.queue != *from).then_some(*packet_id));
                }
            }
            Said::Session(state) => {
                self.note_queue(state.queue);
                let fresh = || Session {
                    state: state.clone(),
                    subscriptions: BTreeMap::new(),
                    received: BTreeSet::new(),
                    sent: Vec::new(),
                    given: BTreeSet::new(),
                };
                self.sessions.entry(state.queue).or_insert_with(fresh).state = state.clone();
            }
            Said::SessionEnded(queue) => {
                self.sessions.remove(queue);
                self.waiting.remove(queue);
            }
            Said::GroupEnded(queue) => {
                self.groups.remove(queue);
                self.waiting.remove(queue);
            }
            Said::Subscribed { session, filter, terms } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.subscriptions.insert(filter.clone(), terms.clone());
                    if let Some(group) = terms.group {
                        self.note_queue(group);
                        self.groups.insert(group);
                    }
                }
            }
            Said::Released(queue, _) | Said::Stepped(queue, _) | Said::Completed(queue, _) => {
                self.step(*queue, record);
            }
            Said::Unsubscribed(queue, _) | Said::Replayed { session: queue, .. } => self.step(*queue, record),
        }
    }

    /// What concerns one session alone.
    fn step(&mut self, queue: QueueId, record: &Said) {
        let Some(session) = self.sessions.get_mut(&queue) else { return };
        match record {
            Said::Released(_, id) => drop(session.received.remove(id)),
            Said::Stepped(_, id) => {
                if let Some((_, entry)) = session.sent.iter_mut().find(|(sent, _)| sent == id) {
                    *entry = None;
                }
            }
            Said::Completed(_, id) => session.sent.retain(|(sent, _)| sent != id),
            Said::Unsubscribed(_, filter) => drop(session.subscriptions.remove(filter)),
            Said::Replayed { filter, topic, .. } => session.replayed(filter, topic.clone()),
            _ => {}
        }
    }

    fn publish(&mut self, published: &Published) {
        let Published { message, targets, received, will_of, replay_of } = published;
        let highest = &mut self.numbers.entry((message.id.0 >> 48) as u16).or_default().0;
        *highest = (*highest).max(message.id.0 & LOW);
        for (queue, entry) in targets {
            if self.sessions.contains_key(queue) || self.groups.contains(queue) {
                self.waiting.entry(*queue).or_default().insert(self.records, entry.clone());
            }
        }
        if let Some((queue, id)) = received
            && let Some(session) = self.sessions.get_mut(queue)
        {
            session.received.insert(*id);
        }
        if let Some(session) = will_of.and_then(|queue| self.sessions.get_mut(&queue)) {
            session.state.will = None;
        }
        if let Some((queue, filter)) = replay_of
            && let Some(session) = self.sessions.get_mut(queue)
        {
            session.replayed(filter, Some(message.topic().to_owned()));
        }
        if message.version > self.retained_version {
            self.retained_version = message.version;
        }
        let known = self.retained.get(message.topic()).map_or(0, |known| known.version);
        if message.version > known {
            self.retained.insert(message.topic().to_owned(), message.clone());
        }
    }

    fn note_queue(&mut self, queue: QueueId) {
        let highest = &mut self.numbers.entry((queue.0 >> 48) as u16).or_default().1;
        *highest = (*highest).max(queue.0 & LOW);
    }

    /// Takes a message out of a queue.
    fn take(&mut self, queue: QueueId, message: MessageId) -> Option<PageEntry> {
        let number = self.place(queue, message)?;
        let waiting = self.waiting.get_mut(&queue)?;
        let entry = waiting.remove(&number);
        if waiting.is_empty() {
            self.waiting.remove(&queue);
        }
        entry
    }

    /// What a queue holds behind the record of this number.
    pub fn behind(&self, queue: QueueId, after: u64) -> Vec<(u64, PageEntry)> {
        let waiting = self.waiting.get(&queue).into_iter().flat_map(|waiting| waiting.range(after + 1..));
        waiting.map(|(number, entry)| (*number, entry.clone())).collect()
    }

    /// Whether a queue still holds the message of the record of this number.
    pub fn holds(&self, queue: QueueId, number: u64) -> bool {
        self.waiting.get(&queue).is_some_and(|waiting| waiting.contains_key(&number))
    }

    /// All of it, as a restart gives it back.
    pub fn restored(&self) -> Restored {
        let retained = self.retained.values().filter(|message| !message.payload().is_empty());
        Restored {
            sessions: self.sessions.values().map(|session| self.restored_session(session)).collect(),
            groups: self
                .groups
                .iter()
                .map(|queue| RestoredGroup { queue: *queue, waiting: self.waiting(*queue) })
                .collect(),
            retained: retained.cloned().collect(),
            numbers: self
                .numbers
                .iter()
                .map(|(prefix, (message, queue))| Numbers {
                    prefix: *prefix,
                    message: *message,
                    queue: *queue,
                })
                .collect(),
            retained_version: self.retained_version,
        }
    }

    fn restored_session(&self, session: &Session) -> RestoredSession {
        let Session { state, subscriptions, received, sent, .. } = session;
        let subscription = |(filter, terms): (&String, &Terms)| RestoredSubscription {
            filter: filter.as_str().into(),
            options: terms.options,
            identifier: terms.identifier,
            group: terms.group,
            since: terms.since,
            replay: terms.replay.as_ref().map(|topic| match topic {
                Some(topic) => RestoredReplay::After(topic.as_str().into()),
                None => RestoredReplay::Start,
            }),
        };
        let delivery = |(packet_id, entry): &(PacketId, Option<PageEntry>)| RestoredSent {
            packet_id: *packet_id,
            entry: entry.clone(),
        };
        RestoredSession {
            queue: state.queue,
            client_id: state.client_id.as_str().into(),
            user: state.user.as_deref().map(Into::into),
            expiry: state.expiry,
            detached: state.detached,
            will: state.will.as_ref().map(|will| Will::from_parts(will.as_parts())),
            subscriptions: subscriptions.iter().map(subscription).collect(),
            received: received.iter().copied().collect(),
            sent: sent.iter().map(delivery).collect(),
            waiting: self.waiting(state.queue),
        }
    }

    fn waiting(&self, queue: QueueId) -> Waiting {
        let entries = || self.waiting.get(&queue).into_iter().flat_map(BTreeMap::values);
        Waiting {
            messages: entries().count() as u64,
            bytes: entries().map(|entry| entry.message.size() as u64).sum(),
        }
    }

    /// Where what a restart gave back is not what this means; `None` if it is.
    pub fn differs(&self, restored: &Restored) -> Option<String> {
        let mine = self.restored();
        let sessions = |restored: &Restored| {
            let given = |queue| self.sessions.get(&queue).map(|session| &session.given);
            let sessions = restored.sessions.iter();
            let lines = sessions.map(|session| (session.queue, session_line(session, given(session.queue))));
            lines.collect::<BTreeMap<_, _>>()
        };
        let groups = |restored: &Restored| {
            let lines = restored.groups.iter().map(|group| (group.queue, group.waiting));
            lines.collect::<BTreeMap<_, _>>()
        };
        let retained = |restored: &Restored| {
            let lines =
                restored.retained.iter().map(|message| (message.topic().to_owned(), message_line(message)));
            lines.collect::<BTreeMap<_, _>>()
        };
        difference("session", &sessions(&mine), &sessions(restored))
            .or_else(|| difference("group", &groups(&mine), &groups(restored)))
            .or_else(|| difference("retained message", &retained(&mine), &retained(restored)))
            .or_else(|| {
                let missing = mine.numbers.iter().find(|mine| {
                    let found = restored.numbers.iter().find(|numbers| numbers.prefix == mine.prefix);
                    found.is_none_or(|found| found.message < mine.message || found.queue < mine.queue)
                });
                missing
                    .map(|mine| format!("numbers up to {mine:?} were given, but not {:?}", restored.numbers))
            })
            .or_else(|| {
                let (mine, found) = (self.retained_version, restored.retained_version);
                (found < mine).then(|| format!("the retained version is {found}, it was {mine}"))
            })
    }
}

/// The lower 48 bits of a number.
const LOW: u64 = (1 << 48) - 1;

fn difference<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    mine: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Option<String> {
    let keys: BTreeSet<&K> = mine.keys().chain(found.keys()).collect();
    let key = keys.into_iter().find(|key| mine.get(key) != found.get(key))?;
    Some(format!("{what} {key:?}\n  should be {:?}\n  and is    {:?}", mine.get(key), found.get(key)))
}

/// What identifies a message: number, version, topic, payload.
pub fn message_line(message: &Message) -> String {
    let digits = String::from_utf8_lossy(message.payload().get(..8).unwrap_or_default()).into_owned();
    let Message { id, version, qos, retain, expires, publisher, .. } = message;
    format!(
        "{:x} {} {digits} ({} bytes), version {version}, {qos:?}, retain {retain}, expires {}, of {publisher:?}",
        id.0,
        message.topic(),
        message.payload().len(),
        expires.is_some(),
    )
}

/// A delivery as the store holds it.
pub fn entry_line(entry: &PageEntry) -> String {
    format!(
        "{} as {:?}, {}, {:?}",
        message_line(&entry.message),
        entry.qos,
        entry.retain,
        entry.identifiers.as_slice()
    )
}

fn session_line(session: &RestoredSession, given: Option<&BTreeSet<PacketId>>) -> Vec<String> {
    let RestoredSession { client_id, user, expiry, detached, will, .. } = session;
    let RestoredSession { subscriptions, received, sent, waiting, .. } = session;
    let mut lines = vec![format!(
        "{client_id} of {user:?}, expiry {expiry}, detached {}, will {will:?}, received {received:?}, {waiting:?}",
        detached.is_some()
    )];
    let mut filters: Vec<String> =
        subscriptions.iter().map(|subscription| format!("{subscription:?}")).collect();
    filters.sort_unstable();
    lines.extend(filters);
    lines.extend(sent.iter().map(|sent| {
        // What a group gave carries what its member asked for, which is not in the message's record.
        let is_given = given.is_some_and(|given| given.contains(&sent.packet_id));
        let line =
            |entry: &PageEntry| if is_given { message_line(&entry.message) } else { entry_line(entry) };
        format!("{} {:?}", sent.packet_id, sent.entry.as_ref().map(line))
    }));
    lines
}
