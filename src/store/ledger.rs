//! [`Ledger`]: which references every queue holds, in memory, as of the last record that was appended. Those of the hot
//! journal are here one by one; of those in the index only the ones that were given out, for nobody gives up others.

use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Position;
use super::index::{Live, Ref};
use super::record::Stored;
use super::refs::Refs;
use crate::message::{MessageId, QueueId};
use crate::protocol::packet::PacketId;

/// The references of one queue, in the order of the journal: `loaded`, then what the index holds up to `cold_end`, then
/// `hot`.
#[derive(Debug, Default)]
struct Queue {
    /// Those up to `loaded_end` of which the record is in a cold segment. Without any, `loaded_end` may be further on:
    /// nothing up to it is wanted.
    loaded: Refs,
    loaded_end: Position,
    /// No reference of a cold segment stands behind this; those between are only in the index.
    cold_end: Position,
    /// Those whose record is in a segment that the index has not taken in.
    hot: Refs,
    /// Messages that were given up, but that the index holds or will hold until it has taken in the segment that says so.
    gone: Option<Box<HashMap<MessageId, Gone, RandomState>>>,
    /// QoS 2 deliveries of a session that are not confirmed, and the segment of their message.
    sent: Vec<(PacketId, u32)>,
}

/// A deletion that is not in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    /// The segment that says so.
    at: u32,
    /// The reference was here; otherwise only the index had it, if it was there at all.
    known: bool,
}

/// What a queue gives for a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selected {
    /// These, and whether there is nothing more.
    Refs(Vec<Ref>, bool),
    /// The index must be asked first, for those behind this.
    Unknown(Position),
}

/// What became of a reference that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    /// It was here.
    Ref(Ref),
    /// It may be one that only the index has.
    Unknown,
    /// It is not there, or not any more.
    Nothing,
}

/// The references of all queues.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    queues: HashMap<QueueId, Queue, RandomState>,
    /// References of the hot journal and deletions that are held.
    held: usize,
    /// Every segment up to this one is in the index.
    retired: u32,
    /// What is wanted of the cold segments, as the index has it.
    cold: BTreeMap<u32, Live>,
    /// What the hot segments give up: by hot segment, how many references to each earlier one.
    freed: BTreeMap<u32, BTreeMap<u32, u64>>,
    /// The last segment with a record that gave something up.
    given_up: u32,
    /// Records up to this segment gave up more than can be counted: the references that the index has of queues that ended.
    uncounted: u32,
}

impl Queue {
    /// Whether there are references that only the index has.
    fn has_tail(&self) -> bool {
        self.cold_end > self.loaded_end
    }

    /// What of it retiring lets go of.
    fn held(&self) -> usize {
        self.hot.len() + self.gone.as_ref().map_or(0, |gone| gone.len())
    }

    fn remove(&mut self, id: MessageId, at: u32) -> Removed {
        if let Some((found, _)) = self.loaded.take(id) {
            return Removed::Ref(found);
        }
        if let Some((found, first)) = self.hot.take(id) {
            if first && self.loaded.is_empty() && !self.has_tail() {
                self.loaded_end = self.loaded_end.max(found.position);
            } else if found.position.segment() < at {
                self.gone.get_or_insert_default().insert(id, Gone { at, known: true });
            }
            return Removed::Ref(found);
        }
        // What is said first holds.
        if !self.has_tail() || self.gone.as_ref().is_some_and(|gone| gone.contains_key(&id)) {
            return Removed::Nothing;
        }
        self.gone.get_or_insert_default().insert(id, Gone { at, known: false });
        Removed::Unknown
    }
}

impl Ledger {
    /// One where every segment up to `retired` is in the index, which wants `cold` of them.
    pub(super) fn new(retired: u32, cold: impl IntoIterator<Item = (u32, Live)>) -> Ledger {
        Ledger { retired, cold: cold.into_iter().collect(), ..Ledger::default() }
    }

    /// A queue as the index has it: whether it holds references of it.
    pub(super) fn add_queue(&mut self, queue: QueueId, has_refs: bool) {
        let cold_end = if has_refs { self.cold_limit() } else { Position::default() };
        self.queues.insert(queue, Queue { cold_end, ..Queue::default() });
    }

    /// A QoS 2 delivery as the index has it.
    pub(super) fn add_sent(&mut self, session: QueueId, packet_id: PacketId, segment: u32) {
        if let Some(queue) = self.queues.get_mut(&session) {
            queue.sent.push((packet_id, segment));
        }
    }

    /// Whether somebody owns this queue.
    pub(super) fn has(&self, queue: QueueId) -> bool {
        self.queues.contains_key(&queue)
    }

    /// The last position that a cold segment can have.
    fn cold_limit(&self) -> Position {
        Position::new(self.retired, u32::MAX)
    }

    /// Every segment up to this one is cold.
    pub(super) fn retired(&self) -> u32 {
        self.retired
    }

    /// Bytes that the references of the hot journal take, roughly.
    pub(super) fn bytes(&self) -> u64 {
        (self.held * size_of::<Ref>()) as u64
    }

    /// Applies a record that was appended at `position`. What it gave up is returned for a restart to count.
    pub(super) fn apply(&mut self, position: Position, record: &Stored<'_>) -> Removed {
        let at = position.segment();
        match *record {
            Stored::Message(message) => {
                let size = u32::try_from(message.size()).unwrap_or(u32::MAX);
                for (queue, _) in message.queues() {
                    if let Some(queue) = self.queues.get_mut(&queue) {
                        queue.hot.push(Ref { position, id: message.id, size, shared: false });
                        self.held += 1;
                    }
                }
            }
            Stored::Acked(queue, message) => {
                let removed = self.remove(queue, message, at);
                if let Removed::Ref(gone) = removed {
                    self.free(gone.position.segment(), at);
                }
                return removed;
            }
            Stored::Sent { session, packet_id, message, from } => {
                return self.sent(session, packet_id, message, from, at);
            }
            Stored::Stepped(session, packet_id) | Stored::Completed(session, packet_id) => {
                self.finish(session, packet_id, at);
            }
            Stored::Session(session) => {
                self.queues.entry(session.queue).or_default();
            }
            Stored::Subscribed(subscription) => {
                if let Some(group) = subscription.group.filter(|_| self.has(subscription.session)) {
                    self.queues.entry(group).or_default();
                }
            }
            Stored::SessionEnded(queue) | Stored::GroupEnded(queue) => self.end(queue, at),
            Stored::Released(..) | Stored::Unsubscribed(..) | Stored::Replayed { .. } => {}
        }
        Removed::Nothing
    }

    fn remove(&mut self, queue: QueueId, id: MessageId, at: u32) -> Removed {
        let Some(queue) = self.queues.get_mut(&queue) else { return Removed::Nothing };
        let before = queue.held();
        let removed = queue.remove(id, at);
        self.held = self.held - before + queue.held();
        self.given_up = at;
        removed
    }

    fn sent(
        &mut self,
        session: QueueId,
        packet_id: PacketId,
        id: MessageId,
        from: QueueId,
        at: u32,
    ) -> Removed {
        self.finish(session, packet_id, at);
        let removed = self.remove(from, id, at);
        if let Removed::Ref(gone) = removed {
            match self.queues.get_mut(&session) {
                Some(session) => session.sent.push((packet_id, gone.position.segment())),
                None => self.free(gone.position.segment(), at),
            }
        }
        removed
    }

    fn finish(&mut self, session: QueueId, packet_id: PacketId, at: u32) {
        let Some(session) = self.queues.get_mut(&session) else { return };
        if let Some(index) = session.sent.iter().position(|(id, _)| *id == packet_id) {
            let (_, segment) = session.sent.remove(index);
            self.free(segment, at);
        }
    }

    fn end(&mut self, queue: QueueId, at: u32) {
        let Some(queue) = self.queues.remove(&queue) else { return };
        self.held -= queue.held();
        self.given_up = at;
        if queue.has_tail() {
            self.uncounted = at;
        }
        for held in queue.loaded.iter().chain(queue.hot.iter()) {
            self.free(held.position.segment(), at);
        }
        for (_, segment) in queue.sent {
            self.free(segment, at);
        }
    }

    /// A record in segment `at` gives up a reference to `segment`: what the index will know when it has taken in `at`.
    fn free(&mut self, segment: u32, at: u32) {
        if segment < at {
            *self.freed.entry(at).or_default().entry(segment).or_default() += 1;
        }
    }

    /// Every reference in segments up to `segment` is in the index, which wants `cold` of the files now.
    pub(super) fn retire(&mut self, segment: u32, cold: impl IntoIterator<Item = (u32, Live)>) {
        self.retired = segment;
        self.cold = cold.into_iter().collect();
        self.freed.retain(|at, _| *at > segment);
        for queue in self.queues.values_mut() {
            if let Some((cold, last)) = queue.hot.drop_to(Position::new(segment, u32::MAX)) {
                queue.cold_end = last;
                self.held -= cold;
            }
            if let Some(gone) = &mut queue.gone {
                let before = gone.len();
                gone.retain(|_, gone| gone.at > segment);
                self.held -= before - gone.len();
                queue.gone.take_if(|gone| gone.is_empty());
            }
        }
    }

    /// What the index wants of the cold segments, the last time it was asked.
    pub(super) fn cold(&self) -> &BTreeMap<u32, Live> {
        &self.cold
    }

    /// A cold segment has no bodies any more.
    pub(super) fn forget(&mut self, segment: u32) {
        self.cold.remove(&segment);
    }

    /// How many cold segments nothing will refer to once the index has taken in all there is.
    pub(super) fn dead(&self) -> usize {
        let freed = |segment: &u32| self.freed.values().filter_map(|freed| freed.get(segment)).sum::<u64>();
        self.cold.iter().filter(|(segment, live)| live.refs <= freed(segment)).count()
    }

    /// Whether anything was given up that retiring lets go of.
    pub(super) fn has_given_up(&self) -> bool {
        self.given_up > self.retired
    }

    /// Whether more of the cold segments may be dead than [`Ledger::dead`] knows of.
    pub(super) fn is_uncounted(&self) -> bool {
        self.uncounted > self.retired
    }

    /// What `queue` has behind `after` and up to `until`, as much as fills a page.
    pub(super) fn select(
        &self,
        queue: QueueId,
        after: Option<Position>,
        until: Position,
        max_bytes: usize,
    ) -> Selected {
        let Some(queue) = self.queues.get(&queue) else { return Selected::Refs(Vec::new(), true) };
        let mut refs = Vec::new();
        let mut bytes = 0;
        let mut fill = |list: &Refs| {
            for held in list.behind(after).take_while(|held| held.position <= until) {
                if bytes >= max_bytes.max(1) {
                    return true;
                }
                bytes += held.size as usize;
                refs.push(*held);
            }
            false
        };
        if fill(&queue.loaded) {
            return Selected::Refs(refs, false);
        }
        if queue.has_tail() && queue.loaded_end < until {
            if refs.is_empty() {
                return Selected::Unknown(queue.loaded_end);
            }
            return Selected::Refs(refs, false);
        }
        let more = fill(&queue.hot);
        Selected::Refs(refs, !more)
    }

    /// Takes up what the index has of `queue` behind what was loaded; `complete` if there is nothing behind it. The index
    /// must have been asked when it held the segments up to [`Ledger::retired`], perhaps more of them.
    pub(super) fn load(&mut self, queue: QueueId, refs: &[Ref], complete: bool) {
        let limit = self.cold_limit();
        let Some(queue) = self.queues.get_mut(&queue) else { return };
        let mut freed = Vec::new();
        for held in refs.iter().take_while(|held| held.position <= limit) {
            if held.position <= queue.loaded_end {
                continue;
            }
            queue.loaded_end = held.position;
            match queue.gone.as_mut().and_then(|gone| gone.remove(&held.id)) {
                Some(Gone { at, known }) => {
                    self.held -= 1;
                    if !known {
                        freed.push((held.position.segment(), at));
                    }
                }
                None => queue.loaded.push(*held),
            }
        }
        if complete || refs.last().is_some_and(|last| last.position > limit) {
            queue.loaded_end = queue.loaded_end.max(limit);
        }
        for (segment, at) in freed {
            self.free(segment, at);
        }
    }

    /// The messages that were given up and of which only the index can say what they were.
    pub(super) fn unknown(&self) -> Vec<(QueueId, Vec<MessageId>)> {
        let unknown = |gone: &HashMap<MessageId, Gone, RandomState>| {
            gone.iter().filter(|(_, gone)| !gone.known).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        let gone = self.queues.iter().filter_map(|(queue, state)| Some((*queue, state.gone.as_deref()?)));
        gone.map(|(queue, gone)| (queue, unknown(gone))).filter(|(_, unknown)| !unknown.is_empty()).collect()
    }

    /// The index does not have these either.
    pub(super) fn never_mind(&mut self, queue: QueueId, ids: impl IntoIterator<Item = MessageId>) {
        let Some(gone) = self.queues.get_mut(&queue).and_then(|queue| queue.gone.as_mut()) else { return };
        self.held -= ids.into_iter().filter(|id| gone.remove(id).is_some()).count();
    }

    /// What each queue holds in the hot journal.
    pub(super) fn hot(&self) -> impl Iterator<Item = (QueueId, u64, u64)> {
        self.queues.iter().map(|(queue, state)| {
            let bytes = state.hot.iter().map(|held| u64::from(held.size)).sum();
            (*queue, state.hot.len() as u64, bytes)
        })
    }
}
