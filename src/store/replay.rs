//! What a restart gives back: the state that the index holds, and on top of it every record of the hot journal. What a
//! record does here is what it does to the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use tracing::error;

use super::PageEntry;
use super::Position;
use super::bodies::Bodies;
use super::error::OpenError;
use super::index::{Index, IndexError, Ref, SessionState};
use super::ledger::{Ledger, Removed};
use super::packed::COUNTED_BITS;
use super::record::{Stored, StoredMessage, StoredSession, StoredSubscription};
use super::restored::{
    Numbers, Restored, RestoredGroup, RestoredReplay, RestoredSent, RestoredSession, RestoredSubscription,
    Waiting,
};
use super::segment::{Entry, Segment};
use super::survey::segment_name;
use crate::clock::Clock;
use crate::message::{Message, MessageId, QueueId};
use crate::protocol::packet::{PacketId, SubscribeOptions};
use crate::target::Identifiers;
use crate::will::Will;

type Map<K, V> = HashMap<K, V, RandomState>;

/// How many references are read from the index at a time.
const SLICE: usize = 4096;

/// A session as far as it has been read.
#[derive(Debug)]
struct Session {
    client_id: Box<str>,
    user: Option<Box<str>>,
    expiry: u32,
    detached: Option<u64>,
    will: Option<Will>,
    subscriptions: BTreeMap<Box<str>, RestoredSubscription>,
    received: BTreeSet<PacketId>,
    sent: BTreeMap<PacketId, Sent>,
}

/// A QoS 2 delivery under way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Where its record stands.
    at: Position,
    from: QueueId,
    message: MessageId,
    /// `None`: only the index knows.
    reference: Option<Ref>,
    /// Its PUBREC has come.
    stepped: bool,
}

/// A restart under way.
#[derive(Debug)]
pub(super) struct Replay {
    clock: Clock,
    ledger: Ledger,
    sessions: Map<QueueId, Session>,
    groups: HashSet<QueueId, RandomState>,
    waiting: Map<QueueId, Waiting>,
    retained: Map<Box<str>, Arc<Message>>,
    /// By prefix: the highest message and queue.
    highest: BTreeMap<u16, (u64, u64)>,
    retained_version: u64,
}

impl Session {
    fn new(record: &StoredSession<'_>) -> Session {
        Session {
            client_id: record.client_id.into(),
            user: record.user.map(Into::into),
            expiry: record.expiry,
            detached: record.detached,
            will: record.will.map(Will::from_parts),
            subscriptions: BTreeMap::new(),
            received: BTreeSet::new(),
            sent: BTreeMap::new(),
        }
    }
}

impl Replay {
    /// Begins with what the index holds.
    pub(super) fn new(index: &Index, mut ledger: Ledger, clock: Clock) -> Result<Replay, IndexError> {
        let state = index.state()?;
        let mut waiting = Map::default();
        for (queue, held) in index.totals()? {
            ledger.add_queue(queue, held.messages > 0);
            waiting.insert(queue, held);
        }
        let mut replay = Replay {
            clock,
            ledger,
            sessions: Map::default(),
            groups: state.groups.into_iter().collect(),
            waiting,
            retained: Map::default(),
            highest: BTreeMap::new(),
            retained_version: state.retained_version,
        };
        for Numbers { prefix, message, queue } in state.numbers {
            replay.highest.insert(prefix, (message, queue));
        }
        for session in state.sessions {
            replay.take_session(session)?;
        }
        index.retained(|_, record| match Stored::decode(record) {
            Some(Stored::Message(message)) => {
                replay.retain(&message);
                Ok(())
            }
            _ => Err(IndexError::Damaged("a retained message cannot be read".to_owned())),
        })?;
        Ok(replay)
    }

    fn take_session(&mut self, state: SessionState) -> Result<(), IndexError> {
        let Some(Stored::Session(record)) = Stored::decode(&state.record) else {
            return Err(IndexError::Damaged("a session cannot be read".to_owned()));
        };
        let mut session = Session::new(&record);
        if !state.has_will {
            session.will = None;
        }
        session.received.extend(state.received);
        for held in state.subscriptions {
            session.subscriptions.insert(held.filter.clone(), held);
        }
        for sent in state.sent {
            if let Some((reference, _)) = sent.reference {
                self.ledger.add_sent(state.queue, sent.packet_id, reference.position.segment());
            }
            let (from, message) =
                sent.reference.map_or((state.queue, MessageId(0)), |(held, from)| (from, held.id));
            let (reference, stepped) = (sent.reference.map(|(held, _)| held), sent.reference.is_none());
            session.sent.insert(sent.packet_id, Sent { at: sent.at, from, message, reference, stepped });
        }
        self.sessions.insert(state.queue, session);
        Ok(())
    }

    /// Applies a hot segment.
    pub(super) fn segment(&mut self, segment: &Segment) -> Result<(), OpenError> {
        let name = || segment_name(segment.number());
        let mut records = segment.records();
        while let Some(entry) = records.next_entry().map_err(|error| OpenError::Io(name(), error))? {
            let Entry::Record(position, bytes) = entry else { continue };
            let stored = Stored::decode(bytes).ok_or_else(|| {
                OpenError::Damaged(name(), "a record that this version cannot read".to_owned())
            })?;
            self.apply(position, &stored);
        }
        Ok(())
    }

    fn apply(&mut self, position: Position, record: &Stored<'_>) {
        let removed = self.ledger.apply(position, record);
        match *record {
            Stored::Message(message) => self.message(&message),
            Stored::Released(queue, packet_id) => {
                self.change(queue, |session| session.received.remove(&packet_id));
            }
            Stored::Sent { session, packet_id, message, from } => {
                self.note_queue(session);
                self.note_queue(from);
                self.note_message(message);
                let reference = match removed {
                    Removed::Ref(held) => Some(held),
                    Removed::Unknown => None,
                    Removed::Nothing => {
                        return self.change(session, |session| session.sent.remove(&packet_id));
                    }
                };
                let sent = Sent { at: position, from, message, reference, stepped: false };
                self.change(session, |session| session.sent.insert(packet_id, sent));
            }
            Stored::Stepped(queue, packet_id) => self.change(queue, |session| {
                session.sent.entry(packet_id).and_modify(|sent| sent.stepped = true);
            }),
            Stored::Completed(queue, packet_id) => {
                self.change(queue, |session| session.sent.remove(&packet_id));
            }
            Stored::Acked(queue, message) => {
                self.note_queue(queue);
                self.note_message(message);
            }
            Stored::Session(session) => self.session(&session),
            Stored::SessionEnded(queue) | Stored::GroupEnded(queue) => {
                self.note_queue(queue);
                self.sessions.remove(&queue);
                self.groups.remove(&queue);
                self.waiting.remove(&queue);
            }
            Stored::Subscribed(subscription) => self.subscribed(&subscription),
            Stored::Unsubscribed(queue, filter) => {
                self.change(queue, |session| session.subscriptions.remove(filter));
            }
            Stored::Replayed { session, filter, topic } => self.replayed(session, filter, topic),
        }
    }

    fn replayed(&mut self, session: QueueId, filter: &str, topic: Option<&str>) {
        self.change(session, |session| {
            if let Some(held) = session.subscriptions.get_mut(filter) {
                held.replay = topic.map(|topic| RestoredReplay::After(topic.into()));
            }
        });
    }

    /// Changes a session if it is there; what `change` gives is of no interest.
    fn change<T>(&mut self, session: QueueId, change: impl FnOnce(&mut Session) -> T) {
        if let Some(session) = self.sessions.get_mut(&session) {
            change(session);
        }
    }

    fn message(&mut self, message: &StoredMessage<'_>) {
        self.note_message(message.id);
        if let Some((queue, packet_id)) = message.received {
            self.note_queue(queue);
            self.change(queue, |session| session.received.insert(packet_id));
        }
        if let Some(queue) = message.will_of {
            self.change(queue, |session| session.will = None);
        }
        if let Some((session, filter, topic)) = message.replayed() {
            self.replayed(session, filter, Some(topic));
        }
        if let Some(publisher) = message.body.and_then(|body| body.publisher) {
            self.note_queue(publisher.queue);
        }
        message.queues().for_each(|(queue, _)| self.note_queue(queue));
        self.retain(message);
    }

    fn retain(&mut self, message: &StoredMessage<'_>) {
        let Some(body) = message.body.filter(|body| body.version > 0) else { return };
        self.retained_version = self.retained_version.max(body.version);
        if self.retained.get(body.topic).is_some_and(|known| known.version > body.version) {
            return;
        }
        match message.message(&self.clock) {
            Some(kept) if !body.payload.is_empty() => {
                self.retained.insert(body.topic.into(), Arc::new(kept));
            }
            _ => {
                self.retained.remove(body.topic);
            }
        }
    }

    fn session(&mut self, record: &StoredSession<'_>) {
        self.note_queue(record.queue);
        let fresh = Session::new(record);
        match self.sessions.get_mut(&record.queue) {
            Some(known) => {
                let Session { client_id, user, expiry, detached, will, .. } = fresh;
                (known.client_id, known.user, known.expiry) = (client_id, user, expiry);
                (known.detached, known.will) = (detached, will);
            }
            None => {
                self.sessions.insert(record.queue, fresh);
            }
        }
    }

    fn subscribed(&mut self, subscription: &StoredSubscription<'_>) {
        let StoredSubscription { session, filter, options, identifier, group, since, replay } = *subscription;
        self.note_queue(session);
        self.retained_version = self.retained_version.max(since);
        group.into_iter().for_each(|group| self.note_queue(group));
        let Some(owner) = self.sessions.get_mut(&session) else { return };
        let replay = replay.then_some(RestoredReplay::Start);
        let filter: Box<str> = filter.into();
        owner.subscriptions.insert(
            filter.clone(),
            RestoredSubscription { filter, options, identifier, group, since, replay },
        );
        self.groups.extend(group);
    }

    fn note_message(&mut self, id: MessageId) {
        let highest = &mut self.highest.entry((id.0 >> COUNTED_BITS) as u16).or_default().0;
        *highest = (*highest).max(counted(id.0));
    }

    fn note_queue(&mut self, queue: QueueId) {
        let highest = &mut self.highest.entry((queue.0 >> COUNTED_BITS) as u16).or_default().1;
        *highest = (*highest).max(counted(queue.0));
    }

    /// Everything has been read: what the broker gets, and the ledger to go on with.
    pub(super) fn finish(
        mut self,
        index: &Index,
        segments: &[Arc<Segment>],
    ) -> Result<(Restored, Ledger), IndexError> {
        let found = self.resolve(index)?;
        for ((queue, _), held) in &found {
            if let Some(waiting) = self.waiting.get_mut(queue) {
                waiting.messages = waiting.messages.saturating_sub(1);
                waiting.bytes = waiting.bytes.saturating_sub(held.size.into());
            }
        }
        for (queue, messages, bytes) in self.ledger.hot() {
            let waiting = self.waiting.entry(queue).or_default();
            waiting.messages += messages;
            waiting.bytes += bytes;
        }
        let Replay { clock, ledger, sessions, groups, waiting, retained, highest, retained_version } = self;
        let waits = |queue: QueueId| waiting.get(&queue).copied().unwrap_or_default();
        let mut reader = Reader { clock, bodies: Bodies::new(segments, index), found };
        let mut restored = Restored { retained_version, ..Restored::default() };
        for (queue, session) in sessions {
            restored.sessions.push(reader.session(queue, session, waits(queue))?);
        }
        restored.sessions.sort_unstable_by_key(|session| session.queue);
        restored.groups =
            groups.into_iter().map(|queue| RestoredGroup { queue, waiting: waits(queue) }).collect();
        restored.groups.sort_unstable_by_key(|group| group.queue);
        restored.retained = retained.into_values().collect();
        restored.numbers = highest
            .into_iter()
            .map(|(prefix, (message, queue))| Numbers { prefix, message, queue })
            .collect();
        Ok((restored, ledger))
    }

    /// Finds in the index the references that the hot journal gave up.
    fn resolve(&mut self, index: &Index) -> Result<Map<(QueueId, MessageId), Ref>, IndexError> {
        let mut found = Map::default();
        let mut unknown: Map<QueueId, HashSet<MessageId, RandomState>> = Map::default();
        for (queue, ids) in self.ledger.unknown() {
            unknown.insert(queue, ids.into_iter().collect());
        }
        // What was sent from a queue that has ended since is not the ledger's any more.
        for sent in self.sessions.values().flat_map(|session| session.sent.values()) {
            if sent.reference.is_none() && sent.message != MessageId(0) {
                unknown.entry(sent.from).or_default().insert(sent.message);
            }
        }
        for (queue, mut sought) in unknown {
            let mut after = None;
            while !sought.is_empty() {
                let refs = index.refs(queue, after, SLICE)?;
                for held in &refs {
                    if sought.remove(&held.id) {
                        found.insert((queue, held.id), *held);
                    }
                }
                after = refs.last().map(|last| last.position);
                if refs.len() < SLICE {
                    break;
                }
            }
            self.ledger.never_mind(queue, sought);
        }
        Ok(found)
    }
}

/// Makes sessions of what was read.
struct Reader<'a> {
    clock: Clock,
    bodies: Bodies<'a>,
    /// References that only the index has.
    found: Map<(QueueId, MessageId), Ref>,
}

impl Reader<'_> {
    fn session(
        &mut self,
        queue: QueueId,
        session: Session,
        waiting: Waiting,
    ) -> Result<RestoredSession, IndexError> {
        let mut under_way: Vec<(PacketId, Sent)> = session.sent.into_iter().collect();
        under_way.sort_unstable_by_key(|(_, sent)| sent.at);
        let mut restored = RestoredSession {
            queue,
            client_id: session.client_id,
            user: session.user,
            expiry: session.expiry,
            // What is longer ago than the clock can tell counts from now on.
            detached: session.detached.and_then(|wall| self.clock.instant(wall)),
            will: session.will,
            subscriptions: session.subscriptions.into_values().collect(),
            received: session.received.into_iter().collect(),
            sent: Vec::with_capacity(under_way.len()),
            waiting,
        };
        for (packet_id, sent) in under_way {
            let reference = sent.reference.or_else(|| self.found.get(&(sent.from, sent.message)).copied());
            let entry = match (sent.stepped, reference) {
                (false, Some(held)) => self.entry(&held, sent.from, &restored.subscriptions)?,
                (true, Some(_)) => None,
                // The index only keeps the packet id by now.
                (true, None) if sent.message == MessageId(0) => None,
                // The store never had what was sent.
                (_, None) => continue,
            };
            restored.sent.push(RestoredSent { packet_id, entry });
        }
        Ok(restored)
    }

    /// What was sent. If it is damaged, the client is only told to release its packet id.
    fn entry(
        &mut self,
        held: &Ref,
        from: QueueId,
        subscriptions: &[RestoredSubscription],
    ) -> Result<Option<PageEntry>, IndexError> {
        let stored = self.bodies.record(held.position)?.and_then(Stored::decode_sound);
        let entry = match &stored {
            Some(Stored::Message(message)) if message.id == held.id => message.entry(from, &self.clock),
            _ => None,
        };
        let Some(mut entry) = entry else {
            let (segment, offset) = (held.position.segment(), held.position.offset());
            error!(
                segment,
                offset,
                message = held.id.0,
                "a message on disk is damaged and is not sent again"
            );
            return Ok(None);
        };
        if let Some(member) = subscriptions.iter().find(|held| held.group == Some(from)) {
            let as_published = SubscribeOptions::from_bits(member.options)
                .is_some_and(|options| options.retain_as_published);
            entry.retain &= as_published;
            entry.identifiers = Identifiers::one(member.identifier);
        }
        Ok(Some(entry))
    }
}

fn counted(number: u64) -> u64 {
    number & ((1 << COUNTED_BITS) - 1)
}
