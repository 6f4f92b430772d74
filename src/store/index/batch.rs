//! [`Batch`]: what the records of a segment do to the index, gathered per queue, topic and packet id, so that thousands
//! of them
//! change each row once. It is written when it has grown large, always within the segment's one transaction.

use std::collections::{BTreeMap, HashMap};
use std::mem;

use redb::ReadableTable;

use super::live::LiveRows;
use super::refs::{Gone, Pending};
use super::tables::{GROUP, SESSION, SentRow, SubscriptionRow, Tables, VERSION_KEY};
use super::{IndexError, Ref};
use crate::message::{MessageId, QueueId};
use crate::protocol::packet::PacketId;
use crate::store::Position;
use crate::store::record::{Stored, StoredMessage, StoredSubscription};

/// Bytes of changes that are gathered before they are written, as the costs below count them.
const MOST_CHANGES: usize = if cfg!(test) { 1 << 20 } else { 12 << 20 };
/// What is kept of a queue, of a message, of a message in one queue more, and of anything else, in bytes and about.
const QUEUE_COST: usize = 200;
const MESSAGE_COST: usize = 32;
const REFERENCE_COST: usize = 6;
const CHANGE_COST: usize = 48;
/// Bytes of retained messages that are gathered.
const MOST_RETAINED: usize = 4 << 20;

/// A delivery of QoS 2 whose reference has not been looked for yet.
#[derive(Debug)]
struct Sending {
    session: u64,
    packet_id: u16,
    at: Position,
    from: QueueId,
    /// What came of it meanwhile.
    state: SendState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    Sent,
    Stepped,
    Over,
}

/// A topic's latest retained message; without a record it is cleared.
#[derive(Debug)]
struct Retained {
    version: u64,
    position: Position,
    record: Option<Vec<u8>>,
}

/// What is to be written.
pub struct Batch<'t> {
    tables: Tables<'t>,
    live: LiveRows,
    pending: HashMap<QueueId, Pending>,
    /// The messages that `pending` has, in order.
    messages: Vec<Ref>,
    sending: Vec<Sending>,
    /// Those of `sending` that are not over.
    under_way: BTreeMap<(u64, u16), usize>,
    /// Packet ids that came and went.
    received: BTreeMap<(u64, u16), bool>,
    retained: HashMap<Box<str>, Retained>,
    retained_bytes: usize,
    highest: BTreeMap<u16, (u64, u64)>,
    version: u64,
    changes: usize,
    /// Used again for every message and flush.
    takers: Vec<QueueId>,
    left: Vec<(Ref, Gone)>,
}

impl<'t> Batch<'t> {
    /// An empty one for the transaction that applies `segment`.
    pub fn new(tables: Tables<'t>, segment: u32) -> Batch<'t> {
        Batch {
            tables,
            live: LiveRows::new(segment),
            pending: HashMap::new(),
            messages: Vec::new(),
            sending: Vec::new(),
            under_way: BTreeMap::new(),
            received: BTreeMap::new(),
            retained: HashMap::new(),
            retained_bytes: 0,
            highest: BTreeMap::new(),
            version: 0,
            changes: 0,
            takers: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Applies one record.
    pub fn record(&mut self, position: Position, bytes: &[u8]) -> Result<(), IndexError> {
        let Some(stored) = Stored::decode(bytes) else {
            return Err(IndexError::damaged("a record that cannot be read"));
        };
        match stored {
            Stored::Message(message) => self.message(position, &message, bytes)?,
            Stored::Released(session, packet_id) => self.received(session, packet_id, false)?,
            Stored::Sent { session, packet_id, message, from } => {
                self.sent(position, (session, packet_id), message, from)?;
            }
            Stored::Stepped(session, packet_id) => self.stepped((session.0, packet_id.get()))?,
            Stored::Completed(session, packet_id) => self.completed((session.0, packet_id.get()))?,
            Stored::Acked(queue, message) => self.remove(queue, message, Gone::Acked)?,
            Stored::Session(session) => {
                self.note_queue(session.queue);
                self.queue(session.queue)?.own(SESSION);
                self.tables.sessions.insert(session.queue.0, (session.will.is_some(), bytes))?;
            }
            Stored::SessionEnded(session) => self.end_session(session)?,
            Stored::Subscribed(subscription) => self.subscribed(&subscription)?,
            Stored::Unsubscribed(session, filter) => {
                self.tables.subscriptions.remove((session.0, filter))?;
            }
            Stored::Replayed { session, filter, topic } => self.replayed((session.0, filter), topic)?,
            Stored::GroupEnded(group) => self.end_queue(group)?,
        }
        if self.changes >= MOST_CHANGES || self.retained_bytes >= MOST_RETAINED {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes everything.
    pub fn finish(mut self) -> Result<Tables<'t>, IndexError> {
        self.flush()?;
        for (prefix, (message, queue)) in mem::take(&mut self.highest) {
            let row = self.tables.highest.get(prefix)?.map_or((0, 0), |row| row.value());
            self.tables.highest.insert(prefix, (message.max(row.0), queue.max(row.1)))?;
        }
        self.tables.raise(VERSION_KEY, self.version)?;
        self.live.finish(&mut self.tables)?;
        Ok(self.tables)
    }

    fn flush(&mut self) -> Result<(), IndexError> {
        let mut queues: Vec<(QueueId, Pending)> = self.pending.drain().collect();
        queues.sort_unstable_by_key(|(queue, _)| *queue);
        for (_, mut pending) in queues {
            pending.flush(&mut self.tables, &self.messages, &mut self.left)?;
            self.settle()?;
        }
        self.messages.clear();
        // What was sent without a reference is of a message that the store never had.
        self.sending.clear();
        self.under_way.clear();
        for (key, there) in mem::take(&mut self.received) {
            match there {
                true => self.tables.received.insert(key, ()).map(drop)?,
                false => self.tables.received.remove(key).map(drop)?,
            }
        }
        for (topic, Retained { version, position, record }) in self.retained.drain() {
            self.tables.retain(&topic, version, position.0, record.as_deref())?;
        }
        (self.changes, self.retained_bytes) = (0, 0);
        Ok(())
    }

    /// Sees to the references that left their queues.
    fn settle(&mut self) -> Result<(), IndexError> {
        for (reference, gone) in mem::take(&mut self.left) {
            let Gone::Sent(number) = gone else {
                self.live.release(&reference, &mut self.tables)?;
                continue;
            };
            let Sending { session, packet_id, at, from, state } = self.sending[number];
            let Ref { position, id, size, shared } = reference;
            let row: SentRow = match state {
                SendState::Sent => (at.0, Some((from.0, position.0, id.0, size, shared))),
                SendState::Stepped => (at.0, None),
                SendState::Over => {
                    self.live.release(&reference, &mut self.tables)?;
                    continue;
                }
            };
            if state == SendState::Stepped {
                self.live.release(&reference, &mut self.tables)?;
            }
            self.under_way.remove(&(session, packet_id));
            self.tables.sent.insert((session, packet_id), row)?;
        }
        Ok(())
    }

    fn queue(&mut self, queue: QueueId) -> Result<&mut Pending, IndexError> {
        Ok(match self.pending.entry(queue) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                self.changes += QUEUE_COST;
                entry.insert(Pending::load(queue, &self.tables)?)
            }
        })
    }

    fn message(
        &mut self,
        position: Position,
        message: &StoredMessage<'_>,
        bytes: &[u8],
    ) -> Result<(), IndexError> {
        self.note_message(message.id);
        if let Some((session, packet_id)) = message.received {
            self.note_queue(session);
            self.received(session, packet_id, true)?;
        }
        if let Some(session) = message.will_of {
            self.clear_will(session)?;
        }
        if let Some((session, filter, topic)) = message.replayed() {
            self.replayed((session.0, filter), Some(topic))?;
        }
        if let Some(publisher) = message.body.and_then(|body| body.publisher) {
            self.note_queue(publisher.queue);
        }
        let mut takers = mem::take(&mut self.takers);
        takers.clear();
        for (queue, _) in message.queues() {
            self.note_queue(queue);
            if self.queue(queue)?.owner().is_some() {
                takers.push(queue);
            }
        }
        let size = u32::try_from(message.size()).unwrap_or(u32::MAX);
        let reference = Ref { position, id: message.id, size, shared: takers.len() > 1 };
        if reference.shared {
            self.live.count_shared(&reference, &self.tables)?;
        }
        let number = self.messages.len() as u32;
        if !takers.is_empty() {
            self.messages.push(reference);
            self.changes += MESSAGE_COST;
        }
        for &queue in &takers {
            if self.queue(queue)?.add(number) {
                self.changes += REFERENCE_COST;
                self.live.count(&reference, &self.tables)?;
            }
        }
        self.takers = takers;
        self.retain(position, message, bytes);
        Ok(())
    }

    fn retain(&mut self, position: Position, message: &StoredMessage<'_>, bytes: &[u8]) {
        let Some(body) = message.body.filter(|body| body.version > 0) else { return };
        self.version = self.version.max(body.version);
        let record = (!body.payload.is_empty()).then(|| bytes.to_vec());
        let latest = Retained { version: body.version, position, record };
        self.retained_bytes += latest.record.as_ref().map_or(0, Vec::len) + body.topic.len();
        match self.retained.get_mut(body.topic) {
            Some(known) if known.version <= body.version => *known = latest,
            Some(_) => {}
            None => {
                self.retained.insert(body.topic.into(), latest);
            }
        }
    }

    fn remove(&mut self, queue: QueueId, id: MessageId, gone: Gone) -> Result<(), IndexError> {
        self.note_queue(queue);
        self.note_message(id);
        self.changes += CHANGE_COST;
        self.queue(queue)?.remove(id, gone);
        Ok(())
    }

    fn received(&mut self, session: QueueId, packet_id: PacketId, there: bool) -> Result<(), IndexError> {
        if self.queue(session)?.owner().is_some() {
            self.changes += CHANGE_COST;
            self.received.insert((session.0, packet_id.get()), there);
        }
        Ok(())
    }

    fn sent(
        &mut self,
        at: Position,
        (session, packet_id): (QueueId, PacketId),
        message: MessageId,
        from: QueueId,
    ) -> Result<(), IndexError> {
        self.note_queue(session);
        let key = (session.0, packet_id.get());
        if self.queue(session)?.owner().is_none() {
            return self.remove(from, message, Gone::Acked);
        }
        self.completed(key)?;
        let number = self.sending.len();
        let state = SendState::Sent;
        self.sending.push(Sending { session: key.0, packet_id: key.1, at, from, state });
        self.under_way.insert(key, number);
        self.remove(from, message, Gone::Sent(number))
    }

    fn stepped(&mut self, key: (u64, u16)) -> Result<(), IndexError> {
        if let Some(&number) = self.under_way.get(&key) {
            self.sending[number].state = SendState::Stepped;
            return Ok(());
        }
        let row = self.tables.sent.get(key)?.map(|row| row.value());
        if let Some((at, reference)) = row {
            self.tables.sent.insert(key, (at, None))?;
            self.release_sent(reference)?;
        }
        Ok(())
    }

    fn completed(&mut self, key: (u64, u16)) -> Result<(), IndexError> {
        if let Some(number) = self.under_way.remove(&key) {
            self.sending[number].state = SendState::Over;
            return Ok(());
        }
        let row = self.tables.sent.remove(key)?.map(|row| row.value());
        self.release_sent(row.and_then(|(_, reference)| reference))
    }

    fn release_sent(&mut self, reference: Option<(u64, u64, u64, u32, bool)>) -> Result<(), IndexError> {
        if let Some((_, position, id, size, shared)) = reference {
            let reference = Ref { position: Position(position), id: MessageId(id), size, shared };
            self.live.release(&reference, &mut self.tables)?;
        }
        Ok(())
    }

    fn clear_will(&mut self, session: QueueId) -> Result<(), IndexError> {
        let record = self.tables.sessions.get(session.0)?.and_then(|row| {
            let (has_will, record) = row.value();
            has_will.then(|| record.to_vec())
        });
        if let Some(record) = record {
            self.tables.sessions.insert(session.0, (false, &record[..]))?;
        }
        Ok(())
    }

    fn subscribed(&mut self, subscription: &StoredSubscription<'_>) -> Result<(), IndexError> {
        let StoredSubscription { session, filter, options, identifier, group, since, replay } = *subscription;
        self.note_queue(session);
        group.into_iter().for_each(|group| self.note_queue(group));
        self.version = self.version.max(since);
        if self.queue(session)?.owner().is_none() {
            return Ok(());
        }
        if let Some(group) = group {
            self.queue(group)?.own(GROUP);
        }
        let row: SubscriptionRow<'_> = (options, identifier, group.map(|group| group.0), since, replay, "");
        self.tables.subscriptions.insert((session.0, filter), row)?;
        Ok(())
    }

    fn replayed(&mut self, key: (u64, &str), topic: Option<&str>) -> Result<(), IndexError> {
        let row = self.tables.subscriptions.get(key)?.map(|row| {
            let (options, identifier, group, since, ..) = row.value();
            (options, identifier, group, since)
        });
        if let Some((options, identifier, group, since)) = row {
            let row = (options, identifier, group, since, topic.is_some(), topic.unwrap_or_default());
            self.tables.subscriptions.insert(key, row)?;
        }
        Ok(())
    }

    /// Lets go of everything that a session has.
    fn end_session(&mut self, session: QueueId) -> Result<(), IndexError> {
        self.end_queue(session)?;
        let all = (session.0, u16::MIN)..=(session.0, u16::MAX);
        for (_, number) in self.under_way.extract_if(all.clone(), |_, _| true) {
            self.sending[number].state = SendState::Over;
        }
        let sent: Vec<_> = self
            .tables
            .sent
            .extract_from_if(all.clone(), |_, _| true)?
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .map(|(_, row)| row.value().1)
            .collect();
        for reference in sent {
            self.release_sent(reference)?;
        }
        self.received.retain(|key, _| key.0 != session.0);
        self.tables.received.retain_in(all, |_, _| false)?;
        self.tables.subscriptions.retain_in((session.0, "")..(session.0 + 1, ""), |_, _| false)?;
        self.tables.sessions.remove(session.0)?;
        Ok(())
    }

    /// Lets go of a queue and its references.
    fn end_queue(&mut self, queue: QueueId) -> Result<(), IndexError> {
        self.note_queue(queue);
        self.queue(queue)?;
        let Some(mut pending) = self.pending.remove(&queue) else { return Ok(()) };
        pending.flush(&mut self.tables, &self.messages, &mut self.left)?;
        self.settle()?;
        let live = &mut self.live;
        pending.disown(&mut self.tables, |reference, tables| live.release(reference, tables))?;
        self.pending.insert(queue, pending);
        Ok(())
    }

    fn note_message(&mut self, id: MessageId) {
        let highest = &mut self.highest.entry((id.0 >> 48) as u16).or_default().0;
        *highest = (*highest).max(id.0 & u64::MAX >> 16);
    }

    fn note_queue(&mut self, queue: QueueId) {
        let highest = &mut self.highest.entry((queue.0 >> 48) as u16).or_default().1;
        *highest = (*highest).max(queue.0 & u64::MAX >> 16);
    }
}
