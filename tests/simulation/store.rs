//! A store whose disk lags behind: records are durable when the simulation says so. It keeps the references that a
//! journal would keep for the queues of sessions, so that one that nobody gives up shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use weirmq::message::{MessageId, QueueId};
use weirmq::protocol::packet::QoS;
use weirmq::store::{Page, PageRequest, Pressure, Record, Store, Ticket};

/// What all shards have pushed.
#[derive(Default)]
pub struct Journal {
    pub pushed: u64,
    pub durable: u64,
    /// Queue of a session → messages that it owes its client.
    references: BTreeMap<QueueId, BTreeSet<MessageId>>,
    /// By the number in its payload: where a message's record stands, the first if there are several.
    messages: BTreeMap<Vec<u8>, u64>,
    /// Queues that a `Session` record or a group's first subscription began, and nothing has ended.
    queues: BTreeSet<QueueId>,
}

impl Journal {
    fn apply(&mut self, record: &Record<'_>) {
        if let Record::Message { message, .. } = record {
            self.messages.entry(message.payload().to_vec()).or_insert(self.pushed);
        }
        match record {
            Record::Message { message, queues, .. } if message.qos > QoS::AtMostOnce => {
                let kept = queues.iter().filter(|target| target.qos > QoS::AtMostOnce);
                let live = kept.filter(|target| message.version == 0 || message.version > target.since);
                for target in live.filter(|target| self.queues.contains(&target.queue)) {
                    self.references.entry(target.queue).or_default().insert(message.id);
                }
            }
            Record::Acked(queue, message) | Record::Sent { from: queue, message, .. } => {
                self.remove(*queue, *message);
            }
            Record::Session { queue, .. } => {
                self.queues.insert(*queue);
            }
            Record::Subscribed { group: Some(group), .. } => {
                self.queues.insert(*group);
            }
            Record::SessionEnded(queue) | Record::GroupEnded(queue) => {
                self.queues.remove(queue);
                self.references.remove(queue);
            }
            _ => {}
        }
    }

    fn remove(&mut self, queue: QueueId, message: MessageId) {
        if let Some(messages) = self.references.get_mut(&queue) {
            messages.remove(&message);
            if messages.is_empty() {
                self.references.remove(&queue);
            }
        }
    }

    /// Whether a message with this payload is on disk, if it has a record at all.
    pub fn has(&self, payload: &[u8]) -> bool {
        self.messages.get(payload).is_none_or(|position| *position <= self.durable)
    }

    /// How many references nobody has given up.
    pub fn references(&self) -> usize {
        self.references.values().map(BTreeSet::len).sum()
    }

    /// How many queues have not ended.
    pub fn queues(&self) -> usize {
        self.queues.len()
    }
}

/// One shard's end of the journal.
#[derive(Clone, Default)]
pub struct SimStore(Arc<Mutex<Journal>>);

impl SimStore {
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().expect("nothing panics while it holds the journal")
    }
}

impl Store for SimStore {
    fn flush(&mut self) {}

    fn has_pages(&self) -> bool {
        false
    }

    fn request(&mut self, _request: PageRequest) {}

    fn next_page(&mut self) -> Option<Page> {
        None
    }

    fn pressure(&self) -> Pressure {
        Pressure::None
    }

    fn is_full(&self) -> bool {
        false
    }

    fn push(&mut self, record: Record<'_>) -> Ticket {
        let mut journal = self.journal();
        journal.pushed += 1;
        journal.apply(&record);
        Ticket(journal.pushed)
    }

    fn durable(&self) -> Ticket {
        Ticket(self.journal().durable)
    }
}
