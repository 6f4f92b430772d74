//! The way out: what a peer, or this shard itself, forwarded is handed to the sessions and groups
//! that live here. Consecutive messages with one route are delivered as a run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::Shard;
use crate::broker::group::{Give, Group, GroupContext, GroupSettings};
use crate::broker::outbox::{Batch, Item, Join};
use crate::broker::route::Route;
use crate::message::{Message, PeerId, QueueId};
use crate::protocol::packet::QoS;
use crate::session::Delivery;
use crate::session::run::{Run, Terms};
use crate::stats::DropReason;
use crate::store::Record;
use crate::target::GroupTarget;

/// How much of a run is encoded together, at most: the less, the more takers its route has, and the least while that is
/// not known. A route's own, for what one message has in takers says nothing of the next.
const RUN_BYTES: (usize, usize) = (2 * 1024, 64 * 1024);

/// What a run may come to with all its takers.
const RUN_TOTAL: usize = 8 * 1024 * 1024;

/// What dealing with an item costs besides its deliveries, put as bytes.
const ITEM_BYTES: usize = 64;

/// How many bytes a turn delivers before it lets others have the thread.
const TURN_BYTES: usize = 256 * 1024;

/// A batch from a peer that is being dealt with.
pub(super) struct Incoming {
    from: PeerId,
    items: VecDeque<Item>,
    /// What it holds of the peer's credit.
    bytes: usize,
}

/// Where an item comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Own,
    Peers,
}

impl Shard {
    /// Takes a batch from a peer; [`Shard::work`] deals with it.
    pub fn accept_batch(&mut self, batch: Batch) {
        self.inbox.push_back(Incoming { from: batch.from, items: batch.items.into(), bytes: batch.bytes });
    }

    /// Deals with what the peers and this shard itself told it and with retained replays, for one turn; whether there
    /// is more.
    pub fn work(&mut self, now: Instant) -> bool {
        self.follow_pressure(now);
        let mut done = 0;
        // One run from each in turn, so that neither holds the other up.
        while done < TURN_BYTES {
            let before = done;
            done += self.work_on(now, Source::Peers);
            done += self.work_on(now, Source::Own);
            if done == before {
                break;
            }
        }
        self.replay_turn(now);
        self.review_turn(now);
        self.call_up(now);
        self.resume_waiting();
        self.outbox.has_own() || !self.inbox.is_empty() || self.replays.has_work() || self.is_reviewing()
    }

    /// Deals with the next item from `source`, or a run of them; about how many bytes that were, 0 if there is none.
    fn work_on(&mut self, now: Instant, source: Source) -> usize {
        let Some(item) = self.next_item(source) else { return 0 };
        let from = match source {
            Source::Own => self.settings.id,
            Source::Peers => self.inbox.front().map_or(self.settings.id, |incoming| incoming.from),
        };
        let Item::Forward(message, route) = item else {
            self.accept(now, item);
            return ITEM_BYTES;
        };
        let room = match route.takers.load(Relaxed) {
            0 => RUN_BYTES.0,
            takers => (RUN_TOTAL / takers as usize).clamp(RUN_BYTES.0, RUN_BYTES.1),
        };
        self.run_messages.clear();
        self.run_messages.push(message);
        while self.front_item(source).is_some_and(|next| self.continues(next, &route, room))
            && let Some(Item::Forward(message, _)) = self.next_item(source)
        {
            self.run_messages.push(message);
        }
        ITEM_BYTES + self.deliver_messages(now, from, &route)
    }

    fn next_item(&mut self, source: Source) -> Option<Item> {
        if source == Source::Own {
            return self.outbox.pop_own();
        }
        loop {
            let incoming = self.inbox.front_mut()?;
            if let Some(item) = incoming.items.pop_front() {
                return Some(item);
            }
            let (from, bytes) = (incoming.from, incoming.bytes);
            self.inbox.pop_front();
            self.outbox.repay(from, bytes);
        }
    }

    fn front_item(&self, source: Source) -> Option<&Item> {
        match source {
            Source::Own => self.outbox.front_own(),
            Source::Peers => self.inbox.front()?.items.front(),
        }
    }

    /// Whether an item goes on with the present run: the same route, the same publisher, and `room` in bytes.
    fn continues(&self, next: &Item, route: &Arc<Route>, room: usize) -> bool {
        let Item::Forward(message, other_route) = next else { return false };
        let publisher = |message: &Message| message.publisher.map(|publisher| publisher.queue);
        let Some(first) = self.run_messages.first() else { return false };
        Arc::ptr_eq(other_route, route)
            && publisher(message) == publisher(first)
            && self.run_messages.len() * first.size() < room
    }

    /// Delivers the run that was gathered; about how many bytes that were.
    fn deliver_messages(&mut self, now: Instant, from: PeerId, route: &Route) -> usize {
        let mut messages = std::mem::take(&mut self.run_messages);
        let bytes: usize = messages.iter().map(|message| message.size()).sum();
        let takers = self.deliver(now, route, &messages);
        messages.clear();
        self.run_messages = messages;
        route.note_takers(takers);
        self.outbox.grant(from, takers);
        bytes * takers.max(1)
    }

    /// Deals with an item that is not a message.
    fn accept(&mut self, now: Instant, item: Item) {
        match item {
            Item::Forward(..) | Item::Credit => {}
            Item::Give { session, token, rules, delivery } => {
                self.given(now, session, (token, rules), delivery);
            }
            Item::Declined { group, session, message } => {
                self.with_group(now, group, |group, cx, give| group.declined(session, message, cx, give));
            }
            Item::Join(join) => self.join(now, *join),
            Item::Purge(queue) => self.purge(now, queue),
            Item::Level(queue, level) => self.say_level(queue, level),
            Item::Settled { group, session, message } => {
                self.with_group(now, group, |group, cx, give| group.settled(session, message, cx, give));
            }
            Item::Back { group, session, kept } => {
                self.with_group(now, group, |group, cx, give| group.back(session, &kept, cx, give));
            }
            Item::Leave { group, session, kept, last } => {
                self.with_group(now, group, |group, cx, give| {
                    group.leave(session, &kept, cx, give);
                    if last {
                        group.desert();
                    }
                });
                // A group that came and went before its home heard of it is over as well.
                if self.groups.get(&group).map_or(last, Group::is_over) {
                    self.end_group(now, group);
                }
            }
        }
    }

    /// Drops what has expired in the queue of a session or group that lives here.
    pub(super) fn purge(&mut self, now: Instant, queue: QueueId) {
        if let Some(index) = self.by_queue.get(&self.sessions, &queue) {
            self.sessions[index as usize].purge(&mut self.core.context(now));
            self.after_progress(index);
        } else {
            self.with_group(now, queue, |group, cx, _| group.purge(cx));
        }
    }

    /// Hands a run to everyone here who wants it; how many takers there were.
    fn deliver(&mut self, now: Instant, route: &Route, messages: &[Arc<Message>]) -> usize {
        let mut run = std::mem::take(&mut self.run);
        run.begin();
        let own = self.settings.id;
        // By which rules the route was made tells whether all that it names may read it.
        let decided = route.rules == self.core.rules.version;
        let mut takers = 0;
        for target in route.queues.iter().filter(|target| target.home == own) {
            let Some(index) = self.by_queue.get(&self.sessions, &target.queue) else {
                self.core.stats.count_drop(DropReason::SessionEnded, messages.len() as u64);
                continue;
            };
            let terms = Terms {
                qos: target.qos,
                retain_as_published: target.retain_as_published,
                identifiers: &target.identifiers,
                since: target.since,
                metered: true,
            };
            let may_read = decided || self.may_read_run(index, messages);
            let session = &mut self.sessions[index as usize];
            if may_read {
                session.deliver_run(&mut run, messages, terms, &mut self.core.context(now));
            } else {
                session.refuse_run(messages, terms, &mut self.core.context(now));
            }
            self.after_progress(index);
            takers += 1;
        }
        if route.peers.contains(own) {
            takers += self.deliver_transient(now, messages, &mut run);
        }
        self.run = run;
        for target in route.groups.iter().filter(|target| target.home == own) {
            takers += 1;
            self.offer(now, target, messages);
        }
        takers
    }

    fn deliver_transient(&mut self, now: Instant, messages: &[Arc<Message>], run: &mut Run) -> usize {
        let Some(first) = messages.first() else { return 0 };
        let publisher =
            first.publisher.and_then(|publisher| self.by_queue.get(&self.sessions, &publisher.queue));
        let takers = match &self.core.rules.acl {
            None => self.subscriptions.matching(first.topic(), publisher),
            Some(acl) => {
                let (topic, sessions) = (first.topic(), &self.sessions);
                let may_read = |index| acl.may_read(sessions[index as usize].who(), topic);
                self.subscriptions.matching_of(topic, publisher, may_read)
            }
        };
        for taker in takers.iter() {
            let terms = Terms {
                qos: taker.qos,
                retain_as_published: taker.retain_as_published,
                identifiers: &taker.identifiers,
                since: taker.since,
                metered: false,
            };
            let Some(session) = self.sessions.get_mut(taker.session as usize) else { continue };
            session.deliver_run(run, messages, terms, &mut self.core.context(now));
            self.after_progress(taker.session);
        }
        takers.len()
    }

    /// Offers a run to a share group that lives here. The first message may overtake the joining that
    /// made the group, so Interest is asked whether an unknown group exists.
    fn offer(&mut self, now: Instant, target: &GroupTarget, messages: &[Arc<Message>]) {
        let queue = target.queue;
        if !self.know_group(now, target) {
            return self.core.stats.count_drop(DropReason::SessionEnded, messages.len() as u64);
        }
        for message in messages {
            let durable = target.durable;
            self.with_group(now, queue, |group, cx, give| group.offer(message, durable, cx, give));
        }
    }

    fn know_group(&mut self, now: Instant, target: &GroupTarget) -> bool {
        if self.groups.contains_key(&target.queue) {
            return true;
        }
        if !self.shared.interest().has_group(&target.filter, &target.group, target.queue) {
            return false;
        }
        let GroupTarget { queue, group: name, filter, meter, .. } = target;
        let paged = self.core.store.has_pages();
        let pace = self.settings.flow.group_pace(now, name);
        let settings = GroupSettings { queue: *queue, name, filter, meter: meter.clone(), paged, pace };
        self.groups.insert(*queue, Group::new(settings, &self.settings.share_rules));
        true
    }

    fn join(&mut self, now: Instant, join: Join) {
        let queue = join.group;
        if self.groups.contains_key(&queue) || self.know_group(now, &join.target(self.settings.id)) {
            self.with_group(now, queue, |group, cx, give| group.join(join, cx, give));
        }
    }

    fn end_group(&mut self, now: Instant, queue: QueueId) {
        let group = self.groups.remove(&queue);
        self.core.account(group.as_ref().map_or(0, Group::buffered), 0);
        let dropped = group.map_or(0, |mut group| group.end(&mut self.core.group_context(now, &self.shared)));
        self.core.store.push(Record::GroupEnded(queue));
        if dropped > 0 {
            tracing::warn!(messages = dropped, "share group ended with messages");
        }
    }

    pub(super) fn with_group(
        &mut self,
        now: Instant,
        queue: QueueId,
        step: impl FnOnce(&mut Group, &mut GroupContext<'_>, Give<'_>),
    ) {
        let Some(group) = self.groups.get_mut(&queue) else { return };
        let before = group.buffered();
        let outbox = &mut self.outbox;
        let cx = &mut self.core.group_context(now, &self.shared);
        step(group, cx, &mut |peer, item| outbox.push(peer, item));
        self.core.account(before, group.buffered());
        if group.pace.is_some() {
            self.list_paced_group(queue);
        }
    }

    /// A group gives a message to a member that lives here. One meant for an earlier joining is not
    /// wanted: what that joining returned to the group covers it.
    fn given(&mut self, now: Instant, queue: QueueId, (token, rules): (u32, u64), delivery: Delivery) {
        let member = self.by_queue.get(&self.sessions, &queue).filter(|index| {
            let membership = self.sessions[*index as usize].membership(delivery.from);
            membership.is_some_and(|membership| membership.token == token)
        });
        if let Some(index) = member {
            let session = &mut self.sessions[index as usize];
            let decided = rules == self.core.rules.version;
            session.take_given(delivery, decided, &mut self.core.context(now));
            self.after_progress(index);
        } else if delivery.qos == QoS::AtMostOnce {
            // The group has forgotten it: it would not come back.
            self.core.stats.count_drop(DropReason::Qos0SlowConsumer, 1);
        }
    }
}
