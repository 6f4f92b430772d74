//! [`Recent`]: messages for several queues that were read from disk a moment ago. Sessions that come back together drain
//! the same messages: each of those is read, verified and made once, and is one in memory however many wait for it.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::targets::Targets;
use super::{PageEntry, Position};
use crate::message::{Message, QueueId};

/// What one generation holds, in bytes and about; there are two.
const GENERATION: usize = 1024 * 1024;

/// What a message costs besides itself and its queues.
const OVERHEAD: usize = 128;

/// A message, and the queues it goes to as its record has them: mostly those of the message before it.
#[derive(Clone, Debug)]
struct Known {
    message: Arc<Message>,
    targets: Arc<[u8]>,
}

impl Known {
    fn entry(&self, queue: QueueId) -> Option<PageEntry> {
        Some(Targets::of(&self.targets).find(queue)?.entry(Arc::clone(&self.message)))
    }
}

/// What was read lately, by where it stands. When there is too much, what was not asked for since the last time goes.
#[derive(Debug, Default)]
pub(super) struct Recent {
    young: HashMap<Position, Known, RandomState>,
    old: HashMap<Position, Known, RandomState>,
    /// What `young` holds.
    bytes: usize,
    /// The targets that were the last to come.
    last: Option<Arc<[u8]>>,
}

impl Recent {
    /// The message at a position as `queue` is to have it, if that is known.
    pub(super) fn entry(&mut self, position: Position, queue: QueueId) -> Option<PageEntry> {
        if let Some(known) = self.young.get(&position) {
            return known.entry(queue);
        }
        let known = self.old.remove(&position)?;
        let found = known.entry(queue);
        self.keep(position, known);
        found
    }

    /// Keeps a message that was read.
    pub(super) fn insert(&mut self, position: Position, message: &Arc<Message>, targets: &[u8]) {
        if message.size() + targets.len() > GENERATION / 2 {
            return;
        }
        let targets = match &self.last {
            Some(last) if **last == *targets => Arc::clone(last),
            _ => targets.into(),
        };
        self.keep(position, Known { message: Arc::clone(message), targets });
    }

    fn keep(&mut self, position: Position, known: Known) {
        self.bytes += known.message.size() + OVERHEAD;
        if !self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &known.targets)) {
            self.bytes += known.targets.len();
            self.last = Some(Arc::clone(&known.targets));
        }
        self.young.insert(position, known);
        if self.bytes >= GENERATION {
            self.old = std::mem::take(&mut self.young);
            (self.bytes, self.last) = (0, None);
        }
    }

    /// Whether it holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MessageId, MessageParts};
    use crate::protocol::packet::QoS;
    use crate::store::targets::put_queues;

    fn message(payload: &[u8]) -> Arc<Message> {
        Arc::new(Message::new(MessageParts {
            id: MessageId(1),
            publisher: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires: None,
            version: 0,
            topic: "t",
            properties: b"",
            payload,
        }))
    }

    /// For so many queues on the same terms.
    fn targets(queues: u64) -> Vec<u8> {
        let mut out = vec![1, 1, 0];
        put_queues((1..=queues).map(QueueId).collect::<Vec<_>>().into_iter(), &mut out);
        out
    }

    fn held(recent: &Recent) -> usize {
        let mut targets: Vec<&Arc<[u8]>> = Vec::new();
        let mut bytes = 0;
        for known in recent.young.values().chain(recent.old.values()) {
            bytes += known.message.size();
            if !targets.iter().any(|seen| Arc::ptr_eq(seen, &known.targets)) {
                bytes += known.targets.len();
                targets.push(&known.targets);
            }
        }
        bytes
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let (mut recent, small, large) = (Recent::default(), message(&[0; 100]), message(&[0; 100_000]));
        let (few, many) = (targets(2), targets(50_000));
        recent.insert(Position(0), &small, &few);
        for number in 1..3000 {
            let (message, targets) = match number % 3 {
                0 => (&small, &many),
                1 => (&large, &few),
                _ => (&small, &few),
            };
            recent.insert(Position(number), message, targets);
            assert!(recent.entry(Position(number), QueueId(2)).is_some());
            assert!(recent.entry(Position(number), QueueId(50_001)).is_none());
            assert!(recent.entry(Position(0), QueueId(1)).is_some(), "{number}: it was asked for all along");
            assert!(held(&recent) < 2 * GENERATION + GENERATION / 2, "{}", held(&recent));
        }
        assert!(recent.entry(Position(1), QueueId(1)).is_none(), "nobody wanted it any more");
        recent.insert(Position(5000), &message(&[0; GENERATION]), &few);
        assert!(recent.entry(Position(5000), QueueId(1)).is_none(), "it is too large for it");
    }

    #[test]
    fn messages_with_the_same_targets_have_them_in_memory_once() {
        let (mut recent, message, targets) = (Recent::default(), message(b"x"), targets(50_000));
        (0..1000).for_each(|number| recent.insert(Position(number), &message, &targets));
        assert!(recent.old.is_empty(), "it all fits");
        assert!((0..1000).all(|number| recent.entry(Position(number), QueueId(25_000)).is_some()));
    }
}
