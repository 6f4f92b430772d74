//! A share group at its home: a queue with members. A message is bound to a member only when it is
//! given to one, within that member's window; it comes back to the head when the member goes.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::Instant;

use super::outbox::{Item, Join};
use crate::limits::{Overflow, Strategy};
use crate::message::{Message, MessageId, PeerId, QueueId};
use crate::meter::QueueMeter;
use crate::protocol::packet::QoS;
use crate::session::{Delivery, queue::Queue};
use crate::stats::{DropReason, Stats};
use crate::store::{Record, Store};
use crate::target::Identifiers;

/// How far behind the head a message may be given, where its strategy names the one member who may
/// have it and the head waits for another.
const LOOK_AHEAD: usize = 256;

/// A share group.
#[derive(Debug)]
pub struct Group {
    queue_id: QueueId,
    meter: Arc<QueueMeter>,
    queue: Queue,
    roster: Roster,
    /// Its last member has left. Others that left before may still say so, over slower lanes, and give back what they
    /// hold: until then it is not over.
    deserted: bool,
}

/// The members, and how one of them is chosen.
#[derive(Debug)]
struct Roster {
    strategy: Strategy,
    members: Vec<Member>,
    /// Whose turn it is.
    next: usize,
    /// The member that sticky sticks to.
    stuck_to: Option<QueueId>,
}

#[derive(Debug)]
struct Member {
    session: QueueId,
    peer: PeerId,
    token: u32,
    window: u16,
    qos: QoS,
    retain_as_published: bool,
    identifiers: Identifiers,
    /// Given and not settled, oldest first.
    given: VecDeque<Delivery>,
}

/// How a group tells a peer something.
pub type Give<'a> = &'a mut dyn FnMut(PeerId, Item);

/// What a group needs for one step.
pub struct GroupContext<'a> {
    /// The time of this turn.
    pub now: Instant,
    /// Where records go.
    pub store: &'a mut dyn Store,
    /// The shard's counters.
    pub stats: &'a Stats,
    /// The shard's randomness.
    pub random: &'a mut fastrand::Rng,
}

impl Group {
    /// A group without members.
    pub fn new(queue_id: QueueId, strategy: Strategy, meter: Arc<QueueMeter>) -> Group {
        let roster = Roster { strategy, members: Vec::new(), next: 0, stuck_to: None };
        Group { queue_id, meter, queue: Queue::default(), roster, deserted: false }
    }

    /// How many messages wait for a member.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many messages count against its limits: those that wait, are given, or are on their way here.
    pub fn reserved(&self) -> u64 {
        self.meter.messages()
    }

    /// How many members it has.
    pub fn members(&self) -> usize {
        self.roster.members.len()
    }

    /// A message for the group. At QoS 0 it goes to a member at once or nowhere.
    pub fn offer(&mut self, message: &Arc<Message>, cx: &mut GroupContext<'_>, give: Give<'_>) {
        let delivery = Delivery {
            message: message.clone(),
            from: self.queue_id,
            identifiers: Identifiers::default(),
            qos: message.qos,
            retain: message.retain,
            dup: false,
            metered: message.qos > QoS::AtMostOnce,
        };
        if message.qos == QoS::AtMostOnce {
            match self.roster.choose(&delivery, cx.random, false) {
                Some(index) => self.give(index, delivery, cx, give),
                None => cx.stats.count_drop(DropReason::Qos0SlowConsumer, 1),
            }
            return;
        }
        if self.make_room(&delivery, cx) {
            self.account(1, delivery.message.size(), cx.stats);
            self.queue.push(delivery);
            self.pump(cx, give);
        }
    }

    /// Drops what has expired in the queue.
    pub fn purge(&mut self, cx: &mut GroupContext<'_>) {
        for expired in self.queue.purge(cx.now) {
            self.drop_queued(&expired, DropReason::Expired, cx);
        }
    }

    /// Applies the overflow policy; whether there is a place.
    fn make_room(&mut self, delivery: &Delivery, cx: &mut GroupContext<'_>) -> bool {
        // The place was reserved by the publisher's shard, which refuses where the rule says so.
        if !self.meter.is_over() {
            return true;
        }
        self.purge(cx);
        while self.meter.is_over() {
            let oldest = match self.meter.overflow() {
                Overflow::DropOldest => self.queue.pop(),
                _ => None,
            };
            let Some(oldest) = oldest else {
                cx.stats.count_drop(DropReason::OverflowNewest, 1);
                self.forget(delivery, cx);
                return false;
            };
            self.drop_queued(&oldest, DropReason::OverflowOldest, cx);
        }
        true
    }

    /// Gives out what waits, as far as the members' windows let it.
    pub fn pump(&mut self, cx: &mut GroupContext<'_>, give: Give<'_>) {
        let mut index = 0;
        while let Some(delivery) = self.queue.get(index) {
            if delivery.message.is_expired(cx.now) {
                if let Some(expired) = self.queue.remove(index) {
                    self.drop_queued(&expired, DropReason::Expired, cx);
                }
                continue;
            }
            let Some(member) = self.roster.choose(delivery, cx.random, true) else {
                // Only where the strategy binds a message to one member can one behind it go first.
                if !self.roster.binds() || index + 1 >= LOOK_AHEAD || !self.roster.any_room() {
                    return;
                }
                index += 1;
                continue;
            };
            if let Some(delivery) = self.queue.remove(index) {
                self.account_gone(&delivery, cx.stats);
                self.give(member, delivery, cx, give);
            }
        }
    }

    fn give(&mut self, index: usize, mut delivery: Delivery, cx: &mut GroupContext<'_>, give: Give<'_>) {
        let member = &mut self.roster.members[index];
        let kept = delivery.clone();
        delivery.qos = delivery.qos.min(member.qos);
        delivery.retain &= member.retain_as_published;
        delivery.identifiers = member.identifiers.clone();
        let at_most_once = delivery.qos == QoS::AtMostOnce;
        let (peer, session, token) = (member.peer, member.session, member.token);
        if !at_most_once {
            member.given.push_back(kept);
        } else if kept.qos > QoS::AtMostOnce {
            self.forget(&kept, cx);
        }
        give(peer, Item::Give { session, token, delivery });
    }

    /// A member joins, comes back, or changes its terms.
    pub fn join(&mut self, join: Join, cx: &mut GroupContext<'_>, give: Give<'_>) {
        let identifiers = Identifiers::one(join.identifier);
        let member = Member {
            session: join.session,
            peer: join.peer,
            token: join.token,
            window: join.window,
            qos: join.qos,
            retain_as_published: join.retain_as_published,
            identifiers,
            given: VecDeque::new(),
        };
        match self.roster.members.iter_mut().find(|known| known.session == join.session) {
            Some(known) => {
                let given = std::mem::take(&mut known.given);
                *known = Member { given, ..member };
            }
            None => self.roster.members.push(member),
        }
        self.pump(cx, give);
    }

    /// A member is finished with a message.
    pub fn settled(
        &mut self,
        session: QueueId,
        message: MessageId,
        cx: &mut GroupContext<'_>,
        give: Give<'_>,
    ) {
        let Some(member) = self.roster.members.iter_mut().find(|member| member.session == session) else {
            return;
        };
        let Some(index) = member.given.iter().position(|delivery| delivery.message.id == message) else {
            return;
        };
        if let Some(delivery) = member.given.remove(index) {
            self.meter.release(1, delivery.message.size() as u64);
        }
        self.pump(cx, give);
    }

    /// A member's connection is gone: what it was given and did not keep goes back to the head.
    pub fn back(&mut self, session: QueueId, kept: &[MessageId], cx: &mut GroupContext<'_>, give: Give<'_>) {
        let Some(member) = self.roster.members.iter_mut().find(|member| member.session == session) else {
            return;
        };
        member.window = 0;
        let given = std::mem::take(&mut member.given);
        self.take_back(given, kept, cx);
        self.pump(cx, give);
    }

    /// The last member has left, though the leaving of others may still be under way.
    pub fn desert(&mut self) {
        self.deserted = true;
    }

    /// Whether no member will ever come or go again.
    pub fn is_over(&self) -> bool {
        self.deserted && self.roster.members.is_empty()
    }

    /// A member is gone for good.
    pub fn leave(&mut self, session: QueueId, kept: &[MessageId], cx: &mut GroupContext<'_>, give: Give<'_>) {
        let Some(index) = self.roster.members.iter().position(|member| member.session == session) else {
            return;
        };
        let member = self.roster.members.remove(index);
        if index < self.roster.next {
            self.roster.next -= 1;
        }
        self.take_back(member.given, kept, cx);
        self.pump(cx, give);
    }

    fn take_back(&mut self, given: VecDeque<Delivery>, kept: &[MessageId], cx: &mut GroupContext<'_>) {
        let mut returned = Vec::new();
        for mut delivery in given {
            if kept.contains(&delivery.message.id) {
                self.meter.release(1, delivery.message.size() as u64);
            } else {
                // [MQTT-3.3.1-1]: the client that went may have seen it.
                delivery.dup = true;
                self.account(1, delivery.message.size(), cx.stats);
                returned.push(delivery);
            }
        }
        self.queue.push_head(returned);
    }

    /// The group ends: what still waits is dropped and counted.
    pub fn end(&mut self, cx: &mut GroupContext<'_>) -> usize {
        let mut dropped = 0;
        while let Some(delivery) = self.queue.pop() {
            self.drop_queued(&delivery, DropReason::SessionEnded, cx);
            dropped += 1;
        }
        dropped
    }

    fn drop_queued(&self, delivery: &Delivery, reason: DropReason, cx: &mut GroupContext<'_>) {
        self.account_gone(delivery, cx.stats);
        cx.stats.count_drop(reason, 1);
        self.forget(delivery, cx);
    }

    fn forget(&self, delivery: &Delivery, cx: &mut GroupContext<'_>) {
        cx.store.push(Record::Acked(self.queue_id, delivery.message.id));
        self.meter.release(1, delivery.message.size() as u64);
    }

    fn account(&self, messages: u64, bytes: usize, stats: &Stats) {
        stats.queued_messages.add(messages);
        stats.queued_bytes.add(bytes as u64);
    }

    fn account_gone(&self, delivery: &Delivery, stats: &Stats) {
        stats.queued_messages.sub(1);
        stats.queued_bytes.sub(delivery.message.size() as u64);
    }
}

impl Roster {
    fn binds(&self) -> bool {
        matches!(self.strategy, Strategy::HashClientid | Strategy::HashTopic)
    }

    fn any_room(&self) -> bool {
        self.members.iter().any(Member::has_room)
    }

    /// The member to have this delivery; `None` if it must wait.
    fn choose(&mut self, delivery: &Delivery, random: &mut fastrand::Rng, windowed: bool) -> Option<usize> {
        let fits = |member: &Member| if windowed { member.has_room() } else { member.window > 0 };
        match self.strategy {
            Strategy::RoundRobin => {
                let index = self.in_turn().find(|index| fits(&self.members[*index]))?;
                self.next = index + 1;
                Some(index)
            }
            Strategy::Random => {
                let fitting = self.members.iter().filter(|member| fits(member)).count();
                let nth = random.usize(..fitting.max(1));
                self.members.iter().enumerate().filter(|(_, member)| fits(member)).nth(nth).map(|(i, _)| i)
            }
            Strategy::Sticky => {
                let stuck =
                    self.members.iter().position(|m| Some(m.session) == self.stuck_to && m.window > 0);
                let index = stuck.or_else(|| self.members.iter().position(|member| member.window > 0))?;
                self.stuck_to = Some(self.members[index].session);
                fits(&self.members[index]).then_some(index)
            }
            Strategy::HashClientid => {
                let hash = delivery.message.publisher.map_or(0, |publisher| publisher.client_hash);
                self.bound_member(u64::from(hash)).filter(|index| fits(&self.members[*index]))
            }
            Strategy::HashTopic => {
                let hash = hash_of(delivery.message.topic());
                self.bound_member(hash).filter(|index| fits(&self.members[*index]))
            }
            Strategy::LeastInflight => {
                // In turn among equals: else the first would do all that it can do by itself.
                let fitting = self.in_turn().filter(|index| fits(&self.members[*index]));
                let index = fitting.min_by_key(|index| self.members[*index].given.len())?;
                self.next = index + 1;
                Some(index)
            }
        }
    }

    /// All members, beginning with the one whose turn it is.
    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (next, count) = (self.next, self.members.len());
        (0..count).map(move |i| (next + i) % count)
    }

    /// The member that a hash falls to, among those that are there.
    fn bound_member(&self, hash: u64) -> Option<usize> {
        let online = || self.members.iter().enumerate().filter(|(_, member)| member.window > 0);
        let count = online().count() as u64;
        if count == 0 {
            return None;
        }
        online().nth((hash % count) as usize).map(|(index, _)| index)
    }
}

impl Member {
    fn has_room(&self) -> bool {
        self.given.len() < usize::from(self.window)
    }
}

/// A hash that is the same in every run, so that a topic keeps its worker across restarts.
fn hash_of(topic: &str) -> u64 {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    topic.hash(&mut hasher);
    std::hash::Hasher::finish(&hasher)
}
