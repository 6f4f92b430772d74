//! The way in: a message from a client, a will or the server itself is checked, kept as a retained
//! message if it is one, recorded, and forwarded to the peers that have takers for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::receive::Taken;
use super::{ConnectionId, Shard, rate};
use crate::broker::access;
use crate::broker::outbox::Item;
use crate::broker::retained::Retained;
use crate::broker::route::Route;
use crate::message::{Message, QueueId};
use crate::meter::most_specific;
use crate::protocol::packet::{PacketId, QoS, Version};
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::protocol::topic;
use crate::session::Acknowledged;
use crate::stats::DropReason;
use crate::store::{Record, Ticket};

/// A message that was taken.
pub(super) struct Published {
    /// Success, or No matching subscribers.
    reason: ReasonCode,
    /// What its acknowledgement waits for.
    ticket: Ticket,
}

/// A message that was not.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    reason: ReasonCode,
    detail: &'static str,
    /// How it is counted where nobody can be told.
    pub(super) drop_reason: DropReason,
}

impl Refusal {
    fn new(reason: ReasonCode, detail: &'static str, drop_reason: DropReason) -> Refusal {
        Refusal { reason, detail, drop_reason }
    }

    fn no_room_on_disk() -> Refusal {
        Refusal::new(ReasonCode::QuotaExceeded, "there is no room to keep it", DropReason::StoreFull)
    }

    fn no_room_in_memory() -> Refusal {
        Refusal::new(ReasonCode::QuotaExceeded, "there is no room for it in memory", DropReason::MemoryFull)
    }
}

impl From<Refusal> for ProtocolError {
    fn from(refusal: Refusal) -> ProtocolError {
        ProtocolError::new(refusal.reason, refusal.detail)
    }
}

impl Shard {
    /// A PUBLISH from a client.
    pub(super) fn publish_from(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        message: Message,
        packet_id: Option<PacketId>,
    ) -> Result<Taken, ProtocolError> {
        let (qos, payload) = (message.qos, message.payload().len() as u64);
        let bytes = u32::try_from(message.size()).unwrap_or(u32::MAX);
        let Some(session) = self.session_of(connection) else { return Ok(Taken::Last) };
        let version = session.link.as_ref().map_or(Version::V5, |link| link.version);
        let received = match (packet_id, qos) {
            (Some(id), QoS::ExactlyOnce) if session.persistent => Some((session.queue_id, id)),
            _ => None,
        };
        let answered = packet_id.is_some();
        let told = version == Version::V5 && answered;
        let origin = Origin { received, will_of: None, answered, told };
        let checked = self.check_topic(message.topic_bytes());
        let checked = checked.and_then(|()| self.check_publish_access(connection.session, &message));
        let outcome = match checked {
            Ok(()) if self.over_rate => {
                Err(Refusal::new(ReasonCode::QuotaExceeded, rate::TOO_FAST, DropReason::RateLimited))
            }
            Ok(()) => self.publish(now, message, origin),
            Err(refusal) => Err(refusal),
        };
        let (reason, detail, ticket) = match outcome {
            Ok(published) => (published.reason, "", published.ticket),
            Err(refusal) => match self.refuse(version, packet_id, &refusal)? {
                None => return Ok(Taken::Full),
                Some(reason) => (reason, refusal.detail, Ticket(0)),
            },
        };
        self.core.stats.publish_received.add(1);
        self.core.stats.publish_bytes_received.add(payload);
        if let Some(packet_id) = packet_id {
            let mut cx = self.core.context(now);
            // Before 5.0 an acknowledgement has no reason to give.
            let session = &mut self.sessions[connection.session as usize];
            let published = Acknowledged { packet_id, qos, bytes };
            session.published(published, reason, detail, ticket, &mut cx)?;
            if let Some(parked) = session.link.as_mut().and_then(|link| link.parked.as_mut()) {
                parked.since = now;
            }
        }
        Ok(Taken::Whole)
    }

    /// How a refusal reaches its publisher: a reason code in 5.0; before that, a wait for a full queue (`None`)
    /// and plain success for the rest, which is counted.
    fn refuse(
        &mut self,
        version: Version,
        packet_id: Option<PacketId>,
        refusal: &Refusal,
    ) -> Result<Option<ReasonCode>, ProtocolError> {
        if refusal.reason == ReasonCode::TopicNameInvalid && (version < Version::V5 || packet_id.is_none()) {
            return Err(ProtocolError::new(refusal.reason, refusal.detail));
        }
        let full = refusal.reason == ReasonCode::QuotaExceeded;
        if full && packet_id.is_some() && version < Version::V5 {
            return Ok(None);
        }
        self.core.stats.count_drop(refusal.drop_reason, 1);
        Ok(Some(if version == Version::V5 { refusal.reason } else { ReasonCode::Success }))
    }

    /// The limits on a topic name.
    pub(super) fn check_topic(&self, name: &[u8]) -> Result<(), Refusal> {
        let limits = &self.core.limits;
        // A topic has at most one level more than it has bytes.
        let is_deep = || name.len() >= limits.topic_levels && topic::levels(name) > limits.topic_levels;
        if name.len() > limits.topic_length || is_deep() {
            let detail = "the topic is longer or deeper than this server takes";
            return Err(Refusal::new(ReasonCode::TopicNameInvalid, detail, DropReason::Unauthorised));
        }
        Ok(())
    }

    fn check_publish_access(&mut self, index: u32, message: &Message) -> Result<(), Refusal> {
        let may = match self.core.rules.acl {
            None => access::may_publish(message.topic_bytes()),
            Some(_) => self.may_publish(index, message.topic()),
        };
        if may {
            return Ok(());
        }
        Err(Refusal::new(ReasonCode::NotAuthorized, "not authorised", DropReason::Unauthorised))
    }

    /// Takes a message: all of it is done, or nothing is.
    pub(super) fn publish(
        &mut self,
        now: Instant,
        mut message: Message,
        origin: Origin,
    ) -> Result<Published, Refusal> {
        message.id = self.core.ids.next_id();
        if message.retain {
            return self.publish_retained(now, message, origin);
        }
        let route = self.route(&message);
        self.reserve(now, &route, &message)?;
        self.bound_expiry(now, &route, &mut message);
        let message = Arc::new(message);
        let ticket = self.record(&message, &route, origin);
        Ok(self.forward(message, route, ticket))
    }

    /// Under the Retained lock: takes a version, reads Interest, records. So whoever subscribes sees
    /// the value by its replay or live, never an old one after a newer one.
    fn publish_retained(
        &mut self,
        now: Instant,
        mut message: Message,
        origin: Origin,
    ) -> Result<Published, Refusal> {
        let shared = self.shared.clone();
        let mut retained = shared.retaining();
        let clears = message.payload().is_empty();
        let refusal = if clears { None } else { self.refuse_retained(now, &mut retained, &message) };
        if let Some(refusal) = &refusal {
            // Room on the disk is worth the wait of a publisher of MQTT 3.
            if origin.told || (origin.answered && refusal.drop_reason == DropReason::StoreFull) {
                return Err(*refusal);
            }
            // Nobody can be told: the message is delivered and not retained.
        } else {
            message.version = retained.next_version();
        }
        let route = self.route(&message);
        self.reserve(now, &route, &message)?;
        if refusal.is_some() {
            self.bound_expiry(now, &route, &mut message);
        }
        let message = Arc::new(message);
        match refusal {
            None => keep(&mut retained, &message, clears),
            Some(refusal) => self.core.stats.count_drop(refusal.drop_reason, 1),
        }
        let ticket = self.record(&message, &route, origin);
        if ticket != Ticket(0) {
            // Under the lock, so that the store has retained publishes in the order of their versions.
            self.core.store.flush();
        }
        drop(retained);
        Ok(self.forward(message, route, ticket))
    }

    /// Where a message goes, as Interest says now.
    fn route(&mut self, message: &Message) -> Arc<Route> {
        let publisher = message.publisher.map(|publisher| publisher.queue);
        if let Some(route) = self.shared.last_route(&self.routes, message.topic_bytes(), publisher) {
            return route;
        }
        self.shared.route(&mut self.routes, message.topic(), publisher)
    }

    /// Takes places in every durable queue that the message goes to, or in none.
    fn reserve(&mut self, now: Instant, route: &Route, message: &Message) -> Result<(), Refusal> {
        if !route.keeps(message.qos) {
            return Ok(());
        }
        if self.core.store.is_full() {
            return Err(Refusal::no_room_on_disk());
        }
        if self.core.refuses_memory() {
            return Err(Refusal::no_room_in_memory());
        }
        let reserve = || route.reserve(message.qos, message.size());
        let mut reserved = reserve();
        if let Err(full) = reserved {
            // It may be full of what has expired: where it lives here, that goes at once, else before the next message.
            match route.home(full) {
                Some(home) if home == self.settings.id => {
                    self.purge(now, full);
                    reserved = reserve();
                }
                Some(home) => self.outbox.push(home, Item::Purge(full)),
                None => {}
            }
        }
        let Err(full) = reserved else {
            self.tell_rising(route, message.qos);
            return Ok(());
        };
        if let Some(level) = route.refused(full) {
            self.tell_level(route, full, level);
        }
        // The publisher is not told whose queue it is.
        let detail = "a queue that this message goes to is full";
        Err(Refusal::new(ReasonCode::QuotaExceeded, detail, DropReason::RejectedFull))
    }

    /// What a durable queue keeps is kept no longer than the rule for its topic says. A retained message is no backlog: it
    /// has its own time.
    fn bound_expiry(&self, now: Instant, route: &Route, message: &mut Message) {
        let rules = &self.settings.queue_rules;
        if !route.keeps(message.qos) || rules.iter().all(|rule| rule.message_expiry.is_none()) {
            return;
        }
        let rule = most_specific(rules, |filter| topic::matches(filter, message.topic()));
        if let Some(bound) = rule.and_then(|index| rules[index].message_expiry) {
            message.expires = Some(message.expires.map_or(now + bound, |own| own.min(now + bound)));
        }
    }

    /// Pushes the message's record, if anything about it must outlive the process.
    fn record(&mut self, message: &Arc<Message>, route: &Arc<Route>, origin: Origin) -> Ticket {
        let Origin { received, will_of, .. } = origin;
        // What the broker itself says ($SYS) is not worth a disk: it will be said again.
        let retained = message.version != 0 && message.publisher.is_some();
        if route.keeps(message.qos) || retained || received.is_some() || will_of.is_some() {
            let (queues, groups) = (&route.queues, &route.groups);
            return self.core.store.push(Record::Message { message, queues, groups, received, will_of });
        }
        Ticket(0)
    }

    /// Why a message cannot be retained, if so.
    fn refuse_retained(
        &mut self,
        now: Instant,
        retained: &mut Retained,
        message: &Message,
    ) -> Option<Refusal> {
        if message.publisher.is_some() && self.core.store.is_full() {
            return Some(Refusal::no_room_on_disk());
        }
        if self.core.headroom.is_full
            && message.publisher.is_some()
            && retained.get(message.topic()).is_none()
        {
            return Some(Refusal::no_room_in_memory());
        }
        let full = !self.admit_retained(now, retained, message);
        let detail = "the limit on retained messages is met";
        full.then(|| Refusal::new(ReasonCode::QuotaExceeded, detail, DropReason::RetainedFull))
    }

    /// Whether there is room for a retained message, if need be where others have expired. At most once
    /// a minute those are looked for, for there may be many to look at, and the log says if it was in vain.
    fn admit_retained(&mut self, now: Instant, retained: &mut Retained, message: &Message) -> bool {
        let fits = |retained: &Retained| retained.admit(message.topic(), message.size()).is_ok();
        if fits(retained) {
            return true;
        }
        if self.retained_full.is_some_and(|at| now < at + Duration::from_secs(60)) {
            return false;
        }
        self.retained_full = Some(now);
        retained.purge(now);
        let admitted = fits(retained);
        if !admitted {
            tracing::warn!("the limit on retained messages is met: new ones are not kept");
        }
        admitted
    }

    fn forward(&mut self, message: Arc<Message>, route: Arc<Route>, ticket: Ticket) -> Published {
        if route.is_empty() {
            if message.publisher.is_some() && message.version == 0 {
                self.core.stats.count_drop(DropReason::NoSubscribers, 1);
            }
            return Published { reason: ReasonCode::NoMatchingSubscribers, ticket };
        }
        self.core.stats.deliveries.add(route.durable_takers(message.version) as u64);
        let mut others = route.homes;
        if let Some(last) = others.pop_last() {
            for peer in others.iter() {
                self.outbox.push(peer, Item::Forward(message.clone(), route.clone()));
            }
            // Most messages have one home: it is given what the others need a copy of.
            self.outbox.push(last, Item::Forward(message, route));
        }
        Published { reason: ReasonCode::Success, ticket }
    }
}

/// Where a message comes from.
#[derive(Clone, Copy, Default)]
pub(super) struct Origin {
    /// A QoS 2 PUBLISH of a persistent session: its record carries the packet id.
    pub(super) received: Option<(QueueId, PacketId)>,
    /// The session whose will it is: its record clears the will.
    pub(super) will_of: Option<QueueId>,
    /// Its publisher waits for an acknowledgement.
    pub(super) answered: bool,
    /// Its publisher can be told a reason.
    pub(super) told: bool,
}

fn keep(retained: &mut Retained, message: &Arc<Message>, clears: bool) {
    if clears {
        // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
        retained.remove(message.topic());
    } else {
        // [MQTT-3.3.1-5]; room was found under this same lock.
        let _replaced = retained.set(message.clone());
    }
}
