//! What the store must hold, as simply as it can be said.

use std::collections::{BTreeMap, BTreeSet};

use weirmq::message::{MessageId, QueueId};
use weirmq::protocol::packet::{PacketId, QoS};

/// A reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: MessageId,
    /// The how manieth message it is: the journal's order.
    pub order: u64,
    pub qos: QoS,
    pub payload: Vec<u8>,
    pub size: u64,
}

/// A delivery of QoS 2 under way: what was sent, until its PUBREC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub order: u64,
    pub held: Option<Held>,
}

/// A session or group.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    pub is_group: bool,
    pub refs: Vec<Held>,
    pub sent: BTreeMap<PacketId, Sent>,
    pub received: BTreeSet<PacketId>,
    /// Filter → group.
    pub subscriptions: BTreeMap<String, Option<QueueId>>,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub queues: BTreeMap<QueueId, Queue>,
    /// Topic → version and payload.
    pub retained: BTreeMap<String, (u64, Vec<u8>)>,
    pub order: u64,
}

impl Model {
    /// A message goes to some queues; those that nobody owns do not count.
    pub fn publish(&mut self, held: Held, queues: &[QueueId]) {
        for queue in queues {
            if let Some(queue) = self.queues.get_mut(queue) {
                queue.refs.push(held.clone());
            }
        }
    }

    /// Takes a reference out of its queue.
    pub fn take(&mut self, queue: QueueId, id: MessageId) -> Option<Held> {
        let refs = &mut self.queues.get_mut(&queue)?.refs;
        let at = refs.iter().position(|held| held.id == id)?;
        Some(refs.remove(at))
    }
}
