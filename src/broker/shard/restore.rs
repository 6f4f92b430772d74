//! The start of a shard with what outlived the last process: its sessions and groups are as they were, but that nobody
//! is connected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shard;
use super::replay::Replay;
use crate::broker::group::{Group, GroupSettings};
use crate::broker::interest::QueueSubscription;
use crate::broker::outbox::Item;
use crate::broker::restore::{GroupMeters, HomeGroup, Share, group_home, share_parts};
use crate::broker::retained::Position;
use crate::message::QueueId;
use crate::principal::Principal;
use crate::protocol::packet::SubscribeOptions;
use crate::session::{Delivery, Expiry, Membership, Session, SessionSubscription};
use crate::store::Record;
use crate::store::restored::{RestoredReplay, RestoredSent, RestoredSession, RestoredSubscription, Waiting};
use crate::will::Will;

/// A client has this long to come back after a restart before its will is published: it did nothing wrong.
const WILL_GRACE: Duration = Duration::from_secs(30);

impl Shard {
    /// Takes up its share. Before anything else, and before any shard serves: all of it must be in Interest by then.
    pub fn restore(&mut self, now: Instant, share: Share) {
        let Share { sessions, groups, deserted, numbers, old, meters } = share;
        self.core.paging.resume_above(old);
        self.core.ids.resume_above(numbers.message);
        self.last_queue = numbers.queue;
        for queue in deserted {
            self.core.store.push(Record::GroupEnded(queue));
        }
        for group in groups {
            self.restore_group(now, &group, &meters);
        }
        for session in sessions {
            self.restore_session(now, session, &meters);
        }
        self.core.store.flush();
    }

    fn restore_group(&mut self, now: Instant, group: &HomeGroup, meters: &GroupMeters) {
        let Some(meter) = meters.get(&group.queue) else { return };
        self.count_waiting(group.waiting);
        let paged = self.core.store.has_pages();
        let HomeGroup { queue, name, filter, .. } = group;
        let pace = self.settings.flow.group_pace(now, name);
        let settings = GroupSettings { queue: *queue, name, filter, meter: meter.clone(), paged, pace };
        let mut home = Group::new(settings, &self.settings.share_rules);
        home.restore_backlog(group.waiting, now);
        self.groups.insert(group.queue, home);
    }

    fn restore_session(&mut self, now: Instant, restored: RestoredSession, meters: &GroupMeters) {
        let RestoredSession { queue, client_id, user, expiry, detached, will, subscriptions, .. } = restored;
        let meter = self.meter_for("#");
        meter.hold(restored.waiting.messages, restored.waiting.bytes);
        let paged = self.core.store.has_pages();
        let mut session = Session::new(&client_id, queue, Expiry(expiry), Some(meter)).paged(paged);
        session.principal = Principal { user: user.map(Arc::from), ..Principal::ANONYMOUS };
        session.restore_backlog(restored.waiting, now);
        // One that was connected to the end counts as disconnected now.
        session.detached = Some(detached.unwrap_or(now));
        session.will = will.map(|will| Box::new(postponed(will, session.detached.unwrap_or(now), now)));
        session.restore_received(restored.received);
        let index = self.sessions.insert(session) as u32;
        self.by_client.insert(&self.sessions, index);
        self.by_queue.insert(&self.sessions, index);
        self.core.stats.sessions.add(1);
        self.count_waiting(restored.waiting);
        for sent in restored.sent {
            self.restore_sent(index, sent);
        }
        for subscription in subscriptions {
            self.restore_subscription(index, subscription, meters);
        }
        self.sessions[index as usize].bind_queue(&self.settings.queue_rules);
        if detached.is_none() {
            self.record_session(index);
        }
        if let Some(at) = self.sessions[index as usize].next_timeout() {
            self.arm(index, at);
        }
    }

    /// A QoS 2 delivery that was under way keeps its packet id.
    fn restore_sent(&mut self, index: u32, sent: RestoredSent) {
        let session = &mut self.sessions[index as usize];
        let delivery = sent.entry.map(|entry| Delivery {
            message: entry.message,
            from: session.queue_id,
            identifiers: entry.identifiers,
            qos: entry.qos,
            retain: entry.retain,
            dup: false,
            metered: false,
            durable: false,
        });
        let bytes = delivery.as_ref().map(|delivery| delivery.message.size() as u64);
        session.restore_sent(sent.packet_id, delivery);
        if let Some(bytes) = bytes {
            self.count_waiting(Waiting { messages: 1, bytes });
        }
    }

    fn restore_subscription(&mut self, index: u32, held: RestoredSubscription, meters: &GroupMeters) {
        let Some(options) = SubscribeOptions::from_bits(held.options) else { return };
        let group =
            held.group.and_then(|queue| self.restore_membership(index, queue, &held, options, meters));
        let shared = group.is_some();
        if !shared {
            self.restore_interest(index, &held, options);
        }
        self.core.stats.subscriptions.add(1);
        self.core.stats.shared_subscriptions.add(u64::from(shared));
        let RestoredSubscription { filter, identifier, .. } = held;
        let session = &mut self.sessions[index as usize];
        session.put_subscription(SessionSubscription {
            filter,
            options,
            identifier,
            group: group.map(Box::new),
        });
    }

    /// Puts an ordinary subscription into Interest, and its retained replay where it stood.
    fn restore_interest(&mut self, index: u32, held: &RestoredSubscription, options: SubscribeOptions) {
        let session = &self.sessions[index as usize];
        let Some(meter) = session.meter.clone() else { return };
        let subscription = QueueSubscription {
            queue: session.queue_id,
            home: self.settings.id,
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            identifier: held.identifier,
            since: held.since,
            meter,
        };
        let owner = self.owner(index);
        self.shared.change_interest(|interest, _| {
            if let Some(owner) = owner {
                interest.own(subscription.queue, owner, std::iter::empty());
            }
            interest.subscribe(&held.filter, subscription)
        });
        let position = match &held.replay {
            None => return,
            Some(RestoredReplay::Start) => Position::start(),
            Some(RestoredReplay::After(topic)) => Position::after(topic),
        };
        let replay = Replay::new(options.qos, held.identifier, held.since).at(position);
        self.replays.begin(index, &held.filter, replay);
    }

    /// Makes the session a member of its share group again: without a connection, so that the group gives it nothing.
    fn restore_membership(
        &mut self,
        index: u32,
        queue: QueueId,
        held: &RestoredSubscription,
        options: SubscribeOptions,
        meters: &GroupMeters,
    ) -> Option<Membership> {
        let meter = meters.get(&queue)?;
        let (name, filter) = share_parts(&held.filter);
        let home = group_home(name, filter, self.settings.peers);
        let new_queue = || (queue, meter.clone());
        let (owner, session) = (self.owner(index), self.sessions[index as usize].queue_id);
        self.shared.change_interest(|interest, _| {
            if let Some(owner) = owner {
                interest.own(session, owner, std::iter::once(queue));
            }
            interest.join(filter, name, home, true, new_queue)
        });
        let membership = Membership { queue, home, token: 0, meter: meter.clone() };
        let RestoredSubscription { filter, identifier, .. } = held;
        let subscription =
            SessionSubscription { filter: filter.clone(), options, identifier: *identifier, group: None };
        let join = self.introduction(index, &subscription, &membership);
        self.outbox.push(home, Item::Join(Box::new(join)));
        Some(membership)
    }

    /// What waits is in the books, as if it had just arrived.
    fn count_waiting(&self, waiting: Waiting) {
        let stats = &self.core.stats;
        stats.deliveries.add(waiting.messages);
        stats.queued_messages.add(waiting.messages);
        stats.queued_bytes.add(waiting.bytes);
    }
}

/// A will that is not due before the client has had the time to come back.
fn postponed(mut will: Will, detached: Instant, now: Instant) -> Will {
    let earliest = (now + WILL_GRACE).saturating_duration_since(detached);
    let seconds = earliest.as_secs() + u64::from(earliest.subsec_nanos() > 0);
    will.delay = will.delay.max(u32::try_from(seconds).unwrap_or(u32::MAX));
    will
}
