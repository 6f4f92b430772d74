//! Everything small that the index holds, read out for a restart.

use std::collections::HashMap;

use redb::{ReadTransaction, ReadableTable};

use super::tables::{
    GROUP, HIGHEST, QUEUES, RECEIVED, RETAINED, SENT, SESSIONS, SUBSCRIPTIONS, VERSION_KEY, WALL_KEY, number,
};
use super::{IndexError, Ref};
use crate::message::{MessageId, QueueId};
use crate::protocol::packet::PacketId;
use crate::store::Position;
use crate::store::restored::{Numbers, RestoredReplay, RestoredSubscription, Waiting};

/// The broker's state at the replay position, but for what waits in queues and the retained messages.
#[derive(Debug, Default)]
pub struct State {
    /// The persistent sessions.
    pub sessions: Vec<SessionState>,
    /// The durable share groups.
    pub groups: Vec<QueueId>,
    /// The highest numbers in any record.
    pub numbers: Vec<Numbers>,
    /// The highest version of a retained publish.
    pub retained_version: u64,
    /// The latest wall time, in milliseconds since 1970; 0 if none is known.
    pub wall: u64,
}

/// A persistent session.
#[derive(Debug)]
pub struct SessionState {
    /// Its queue.
    pub queue: QueueId,
    /// Its latest `Session` record, encoded.
    pub record: Vec<u8>,
    /// Whether it still has the will that stands in that record.
    pub has_will: bool,
    /// Its subscriptions.
    pub subscriptions: Vec<RestoredSubscription>,
    /// QoS 2 packet ids received and not released.
    pub received: Vec<PacketId>,
    /// QoS 2 deliveries under way, in the order they were sent.
    pub sent: Vec<SentState>,
}

/// A QoS 2 delivery under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentState {
    /// Its packet id.
    pub packet_id: PacketId,
    /// Where its `Sent` record stands.
    pub at: Position,
    /// What was sent, and the queue under which the message's record has its terms; `None` once its PUBREC had come.
    pub reference: Option<(Ref, QueueId)>,
}

/// Reads it all.
pub fn read(transaction: &ReadTransaction) -> Result<State, IndexError> {
    let mut state = State {
        retained_version: number(transaction, VERSION_KEY)?,
        wall: number(transaction, WALL_KEY)?,
        ..State::default()
    };
    let mut numbered = HashMap::new();
    for row in transaction.open_table(SESSIONS)?.iter()? {
        let (queue, row) = row?;
        let (has_will, record) = row.value();
        numbered.insert(queue.value(), state.sessions.len());
        state.sessions.push(SessionState {
            queue: QueueId(queue.value()),
            record: record.to_vec(),
            has_will,
            subscriptions: Vec::new(),
            received: Vec::new(),
            sent: Vec::new(),
        });
    }
    for row in transaction.open_table(QUEUES)?.iter()? {
        let (queue, row) = row?;
        if row.value().0 == GROUP {
            state.groups.push(QueueId(queue.value()));
        }
    }
    for row in transaction.open_table(HIGHEST)?.iter()? {
        let (prefix, row) = row?;
        let (message, queue) = row.value();
        state.numbers.push(Numbers { prefix: prefix.value(), message, queue });
    }
    let session = |queue: u64| {
        numbered.get(&queue).copied().ok_or_else(|| IndexError::damaged("a session that is not there"))
    };
    for row in transaction.open_table(SUBSCRIPTIONS)?.iter()? {
        let (key, row) = row?;
        let (queue, filter) = key.value();
        let (options, identifier, group, since, replays, topic) = row.value();
        let replay = match (replays, topic) {
            (false, _) => None,
            (true, "") => Some(RestoredReplay::Start),
            (true, topic) => Some(RestoredReplay::After(topic.into())),
        };
        let (filter, group) = (filter.into(), group.map(QueueId));
        state.sessions[session(queue)?].subscriptions.push(RestoredSubscription {
            filter,
            options,
            identifier,
            group,
            since,
            replay,
        });
    }
    for row in transaction.open_table(RECEIVED)?.iter()? {
        let (queue, id) = row?.0.value();
        state.sessions[session(queue)?].received.push(packet_id(id)?);
    }
    for row in transaction.open_table(SENT)?.iter()? {
        let (key, row) = row?;
        let (queue, id) = key.value();
        let (at, reference) = row.value();
        let reference = reference.map(|(from, position, id, size, shared)| {
            (Ref { position: Position(position), id: MessageId(id), size, shared }, QueueId(from))
        });
        let session = &mut state.sessions[session(queue)?];
        session.sent.push(SentState { packet_id: packet_id(id)?, at: Position(at), reference });
    }
    for session in &mut state.sessions {
        session.sent.sort_unstable_by_key(|sent| sent.at);
    }
    Ok(state)
}

/// Shows every retained message to `visit`: where its record stood, and the record.
pub fn retained<E: From<IndexError>>(
    transaction: &ReadTransaction,
    mut visit: impl FnMut(Position, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |error: redb::StorageError| IndexError::from(error);
    let table = transaction.open_table(RETAINED).map_err(IndexError::from)?;
    for row in table.iter().map_err(failed)? {
        let (_, row) = row.map_err(failed)?;
        let (_, position, record) = row.value();
        visit(Position(position), record)?;
    }
    Ok(())
}

/// What waits in each queue.
pub fn totals(transaction: &ReadTransaction) -> Result<Vec<(QueueId, Waiting)>, IndexError> {
    let mut totals = Vec::new();
    for row in transaction.open_table(QUEUES)?.iter()? {
        let (queue, row) = row?;
        let (_, messages, bytes) = row.value();
        totals.push((QueueId(queue.value()), Waiting { messages, bytes }));
    }
    Ok(totals)
}

fn packet_id(id: u16) -> Result<PacketId, IndexError> {
    PacketId::new(id).ok_or_else(|| IndexError::damaged("a packet id of 0"))
}
