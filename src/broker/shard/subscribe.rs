//! SUBSCRIBE and UNSUBSCRIBE: the session's own list, the local table for transient sessions, and
//! Interest, which is written before the SUBACK is.

use std::sync::Arc;
use std::time::Instant;

use super::Shard;
use super::replay::Replay;
use crate::broker::interest::QueueSubscription;
use crate::broker::outbox::Item;
use crate::broker::restore::{group_home, share_parts};
use crate::broker::subscriptions::Subscription;
use crate::message::{QueueId, numbered};
use crate::meter::QueueMeter;
use crate::protocol::packet::{
    Packet, RetainHandling, SubAck, Subscribe, SubscribeOptions, Unsubscribe, Version,
};
use crate::protocol::properties::Property;
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::protocol::topic;
use crate::session::link::Answer;
use crate::session::{Membership, Session, SessionSubscription, check_user_properties};
use crate::store::{Record, Store, Ticket};

/// One filter of a SUBSCRIBE.
#[derive(Clone, Copy)]
struct Asked<'a> {
    filter: &'a str,
    options: SubscribeOptions,
    identifier: u32,
}

impl<'a> Asked<'a> {
    /// The record of it as a persistent session's subscription.
    fn record(&self, session: QueueId, group: Option<QueueId>, since: u64, replay: bool) -> Record<'a> {
        Record::Subscribed {
            session,
            filter: self.filter,
            options: self.options.to_bits(),
            identifier: self.identifier,
            group,
            since,
            replay,
        }
    }
}

/// Pushes a record and hands it on: from the moment that Interest names a queue, any shard may push a message for it.
fn record_first(store: &mut dyn Store, record: Record<'_>) -> Ticket {
    let ticket = store.push(record);
    store.flush();
    ticket
}

impl Shard {
    /// Adds subscriptions and answers [MQTT-3.8.4-1] [MQTT-3.8.4-6].
    pub(super) fn subscribe(
        &mut self,
        now: Instant,
        index: u32,
        subscribe: &Subscribe<'_>,
    ) -> Result<(), ProtocolError> {
        let (mut identifier, mut users) = (0, 0);
        for property in subscribe.properties.iter() {
            match property {
                Property::SubscriptionIdentifier(value) => identifier = value,
                Property::UserProperty(..) => users += 1,
                _ => {}
            }
        }
        check_user_properties(users, &self.core.context(now))?;
        let (mut reasons, mut ticket, mut detail) = (Vec::new(), Ticket(0), "");
        for (filter, options) in subscribe.filters.iter() {
            let asked = Asked { filter, options, identifier };
            match self.check_filter(index, filter) {
                Ok(()) => {
                    ticket = ticket.max(self.add_subscription(index, asked));
                    reasons.push(options.qos as u8);
                }
                Err((reason, why)) => {
                    let version = self.sessions[index as usize].link.as_ref().map(|link| link.version);
                    detail = why;
                    // 3.1 has no code for a failure: its client cannot be told.
                    let untold = version == Some(Version::V3);
                    reasons.push(if untold { options.qos as u8 } else { reason as u8 });
                }
            }
        }
        let session = &mut self.sessions[index as usize];
        let Some(link) = &session.link else { return Ok(()) };
        let reason_string = link.reason_string(detail, reasons.len());
        let suback = SubAck {
            packet_id: subscribe.packet_id,
            properties: reason_string.as_properties(),
            reasons: &reasons,
        };
        session.answer(ticket, Answer::Other, &Packet::SubAck(suback), &mut self.core.context(now))
    }

    fn check_filter(&self, index: u32, filter: &str) -> Result<(), (ReasonCode, &'static str)> {
        let limits = &self.core.limits;
        let session = &self.sessions[index as usize];
        let plain = if filter.starts_with("$share/") { share_parts(filter).1 } else { filter };
        if filter.len() > limits.topic_length || topic::levels(plain) > limits.topic_levels {
            return Err((
                ReasonCode::TopicFilterInvalid,
                "the filter is longer or deeper than this server takes",
            ));
        }
        if !self.may_subscribe(index, plain) {
            return Err((ReasonCode::NotAuthorized, "not authorised"));
        }
        let full = session.subscriptions.len() >= limits.subscriptions_per_session;
        if full && session.subscription(filter).is_none() {
            return Err((ReasonCode::QuotaExceeded, "the session's subscriptions are at their limit"));
        }
        if self.core.headroom.is_full && session.subscription(filter).is_none() {
            return Err((ReasonCode::QuotaExceeded, "there is no room for more subscriptions in memory"));
        }
        Ok(())
    }

    /// Adds or replaces a subscription, and begins its retained replay [MQTT-3.8.4-3].
    fn add_subscription(&mut self, index: u32, asked: Asked<'_>) -> Ticket {
        let session = &self.sessions[index as usize];
        let existing = session.subscription(asked.filter).map(|held| held.group.as_deref().cloned());
        let existed = existing.is_some();
        let shared = asked.filter.starts_with("$share/");
        let wants_retained = match asked.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]; shared subscriptions get none.
        let replays = wants_retained && !shared;
        let (mut since, mut group) = (0, None);
        let ticket = if shared {
            let (membership, ticket) = self.join_group(index, asked, existing.flatten());
            group = Some(Box::new(membership));
            ticket
        } else {
            let (newest, ticket) = self.add_to_tables(index, asked, replays);
            since = newest;
            ticket
        };
        if !existed {
            self.core.stats.subscriptions.add(1);
            self.core.stats.shared_subscriptions.add(u64::from(shared));
        }
        let session = &mut self.sessions[index as usize];
        session.put_subscription(SessionSubscription {
            filter: asked.filter.into(),
            options: asked.options,
            identifier: asked.identifier,
            group,
        });
        if replays {
            let Asked { options, identifier, .. } = asked;
            self.replays.begin(index, asked.filter, Replay::new(options.qos, identifier, since));
        }
        ticket
    }

    /// Adds to Interest, and for a transient session to the local table; the version of the newest
    /// retained message that a replay begun now must bring, and what the SUBACK waits for.
    fn add_to_tables(&mut self, index: u32, asked: Asked<'_>, replay: bool) -> (u64, Ticket) {
        let session = &self.sessions[index as usize];
        let SubscribeOptions { qos, no_local, retain_as_published, .. } = asked.options;
        let (identifier, own) = (asked.identifier, self.settings.id);
        let owner = self.owner(index);
        if let Some(meter) = &session.meter {
            let subscription = QueueSubscription {
                queue: session.queue_id,
                home: own,
                qos,
                no_local,
                retain_as_published,
                identifier,
                since: 0,
                meter: meter.clone(),
            };
            subscription.meter.bind_also(&self.settings.queue_rules, asked.filter);
            return self.shared.change_interest(|interest, since| {
                let record = asked.record(session.queue_id, None, since, replay);
                let ticket = record_first(self.core.store.as_mut(), record);
                interest.subscribe(asked.filter, QueueSubscription { since, ..subscription });
                if let Some(owner) = owner {
                    interest.own(session.queue_id, owner, std::iter::empty());
                }
                (since, ticket)
            });
        }
        let subscription =
            Subscription { session: index, qos, no_local, retain_as_published, identifier, since: 0 };
        let added = self.shared.subscribe_transient(own, &mut self.subscriptions, asked.filter, subscription);
        (added.since, Ticket(0))
    }

    /// Makes the session a member of a share group, or tells the group its new terms; with what the SUBACK waits for.
    fn join_group(
        &mut self,
        index: u32,
        asked: Asked<'_>,
        existing: Option<Membership>,
    ) -> (Membership, Ticket) {
        let (membership, ticket) = match existing {
            Some(membership) => {
                let session = &self.sessions[index as usize];
                let record = asked.record(session.queue_id, Some(membership.queue), 0, false);
                let ticket = if session.persistent { self.core.store.push(record) } else { Ticket(0) };
                (membership, ticket)
            }
            None => self.new_membership(index, asked),
        };
        let Asked { options, identifier, .. } = asked;
        let held = SessionSubscription { filter: asked.filter.into(), options, identifier, group: None };
        let join = self.introduction(index, &held, &membership);
        self.outbox.push(membership.home, Item::Join(Box::new(join)));
        (membership, ticket)
    }

    /// Counts one more member of the group, which begins with its first; with what the SUBACK waits for.
    fn new_membership(&mut self, index: u32, asked: Asked<'_>) -> (Membership, Ticket) {
        let (name, filter) = share_parts(asked.filter);
        let home = group_home(name, filter, self.settings.peers);
        let meter = self.meter_for(filter);
        let owner = self.owner(index);
        let (id, counter) = (self.settings.id, &mut self.last_queue);
        let Session { queue_id, persistent, .. } = self.sessions[index as usize];
        let (joined, ticket) = self.shared.change_interest(|interest, _| {
            let known = interest.group(filter, name);
            let queue = known.unwrap_or_else(|| QueueId(numbered(id, counter)));
            let ticket = match persistent {
                true => record_first(self.core.store.as_mut(), asked.record(queue_id, Some(queue), 0, false)),
                false => Ticket(0),
            };
            let joined = interest.join(filter, name, home, persistent, || (queue, meter));
            if let Some(owner) = owner {
                interest.own(queue_id, owner, std::iter::once(joined.queue));
            }
            (joined, ticket)
        });
        self.last_generation = self.last_generation.wrapping_add(1);
        let membership = Membership {
            queue: joined.queue,
            home: joined.home,
            token: self.last_generation,
            meter: joined.meter,
        };
        (membership, ticket)
    }

    /// A meter with the limits of the rule that fits `filter` best.
    pub(super) fn meter_for(&self, filter: &str) -> Arc<QueueMeter> {
        Arc::new(QueueMeter::for_filter(&self.settings.queue_rules, filter))
    }

    /// Removes subscriptions and answers [MQTT-3.10.4-4] [MQTT-3.10.4-6].
    pub(super) fn unsubscribe(
        &mut self,
        now: Instant,
        index: u32,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Result<(), ProtocolError> {
        let (mut reasons, mut ticket) = (Vec::new(), Ticket(0));
        for filter in unsubscribe.filters.iter() {
            reasons.push(if self.remove_subscription(now, index, filter) {
                let session = &self.sessions[index as usize];
                if session.persistent {
                    ticket = self.core.store.push(Record::Unsubscribed(session.queue_id, filter));
                }
                ReasonCode::Success as u8
            } else {
                ReasonCode::NoSubscriptionExisted as u8
            });
        }
        self.sessions[index as usize].bind_queue(&self.settings.queue_rules);
        let unsuback =
            SubAck { packet_id: unsubscribe.packet_id, properties: super::NO_PROPERTIES, reasons: &reasons };
        let session = &mut self.sessions[index as usize];
        session.answer(ticket, Answer::Other, &Packet::UnsubAck(unsuback), &mut self.core.context(now))
    }

    /// Removes a subscription from the session and from every table; whether it existed.
    pub(super) fn remove_subscription(&mut self, now: Instant, index: u32, filter: &str) -> bool {
        let session = &mut self.sessions[index as usize];
        let Some(held) = session.take_subscription(filter) else { return false };
        let queue_id = session.queue_id;
        self.core.stats.subscriptions.sub(1);
        if let Some(membership) = held.group {
            self.core.stats.shared_subscriptions.sub(1);
            // [MQTT-3.10.4-3]: what was sent stays with the session until it is complete.
            let mut cx = self.core.context(now);
            let mut kept = session.adopt(membership.queue, &mut cx);
            kept.append(&mut session.give_back(membership.queue, false, &mut cx));
            let kept = kept.into();
            let (name, plain) = share_parts(filter);
            let persistent = session.persistent;
            let left = self.shared.change_interest(|interest, _| {
                interest.expel(membership.queue, queue_id);
                interest.leave(plain, name, persistent)
            });
            let last = left.is_some_and(|left| left.last);
            let item = Item::Leave { group: membership.queue, session: queue_id, kept, last };
            self.outbox.push(membership.home, item);
        } else if session.persistent {
            self.shared.change_interest(|interest, _| interest.unsubscribe(filter, queue_id));
            self.replays.cancel(index, filter);
        } else {
            self.replays.cancel(index, filter);
            self.shared.unsubscribe_transient(self.settings.id, &mut self.subscriptions, filter, index);
        }
        true
    }
}
