//! What the store must hold, as simply as it can be said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weirmq::message::{MessageId, QueueId};
use weirmq::protocol::packet::{PacketId, QoS};
use weirmq::store::restored::{Restored, RestoredSession, Waiting};

/// A reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: MessageId,
    /// The how manieth message it is: the journal's order.
    pub order: u64,
    pub qos: QoS,
    pub payload: Arc<[u8]>,
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
    pub version: u64,
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

/// Why what was restored is not what the model holds.
pub type Difference = String;

/// The two must be alike.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), Difference> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}

impl Model {
    /// Compares it with what a restart gave back.
    pub fn compare(&self, restored: &Restored) -> Result<(), Difference> {
        let queues = |is_group: bool| {
            let queues = self.queues.iter().filter(move |(_, queue)| queue.is_group == is_group);
            queues.map(|(queue, _)| *queue).collect::<Vec<_>>()
        };
        let sessions = restored.sessions.iter().map(|session| session.queue);
        same("sessions", sessions.collect(), queues(false))?;
        same("groups", restored.groups.iter().map(|group| group.queue).collect(), queues(true))?;
        for session in &restored.sessions {
            self.queues[&session.queue].compare(session)?;
        }
        for group in &restored.groups {
            same("a group's messages", group.waiting, self.queues[&group.queue].waiting())?;
        }
        let retained = restored.retained.iter();
        let retained =
            retained.map(|kept| (kept.topic().to_owned(), (kept.version, kept.payload().to_vec())));
        same("retained", &retained.collect(), &self.retained)?;
        same("the retained version", restored.retained_version, self.version)
    }
}

impl Queue {
    fn waiting(&self) -> Waiting {
        let bytes = self.refs.iter().map(|held| held.size).sum();
        Waiting { messages: self.refs.len() as u64, bytes }
    }

    fn compare(&self, restored: &RestoredSession) -> Result<(), Difference> {
        same("the client", &*restored.client_id, &*format!("client-{}", restored.queue.0))?;
        same("what waits", restored.waiting, self.waiting())?;
        same("received", restored.received.iter().copied().collect(), self.received.clone())?;
        let held = restored.subscriptions.iter().map(|held| (held.filter.to_string(), held.group));
        same("subscriptions", &held.collect(), &self.subscriptions)?;
        let mut sent: Vec<_> = self.sent.iter().collect();
        sent.sort_by_key(|(_, sent)| sent.order);
        let sent = sent.into_iter().map(|(id, sent)| (*id, sent.held.as_ref().map(|held| held.id)));
        let found = restored.sent.iter();
        let found = found.map(|sent| (sent.packet_id, sent.entry.as_ref().map(|entry| entry.message.id)));
        same("sent", found.collect::<Vec<_>>(), sent.collect())
    }
}
