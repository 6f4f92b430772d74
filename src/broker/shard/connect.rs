//! The life of a session: CONNECT, take-over, the loss of a connection, the will, the end.

use std::time::{Duration, Instant};

use super::publish::Origin;
use super::{Attach, CloseReason, Closed, ConnectionId, Shard};
use crate::acl::Who;
use crate::broker::outbox::Item;
use crate::message::{Message, Publisher, QueueId, numbered};
use crate::protocol::packet::{ConnAck, Connect, Packet, Version};
use crate::protocol::properties::{PropertiesBuf, Property};
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::session::link::{Answer, Link};
use crate::session::{Expiry, Membership, Session};
use crate::stats::DropReason;
use crate::store::{Record, Ticket};
use crate::will::Will;

impl Shard {
    /// Attaches a client. CONNACK, and whatever its session has waiting, is in the outbound buffer.
    ///
    /// Errors: the CONNACK reason to refuse it with; nothing has changed then.
    pub fn connect(&mut self, now: Instant, attach: Attach<'_>) -> Result<ConnectionId, ProtocolError> {
        let connect = attach.connect;
        self.check_connect(connect, attach.client_id)?;
        let who = Who { principal: attach.principal, client_id: attach.client_id };
        self.check_rights(who, connect.will.as_ref().map(|will| will.topic))?;
        let granted = self.grant(&attach)?;
        if let Some(index) = self.index_of(attach.client_id) {
            // The timer may be up to a second late; a session that is over must not be resumed, nor shut anybody out.
            self.detached_timeout(now, index);
        }
        self.check_owner(&attach)?;
        self.take_over(now, attach.client_id);
        let known = self.index_of(attach.client_id);
        let index = match known {
            // [MQTT-3.1.2-5]: resumed.
            Some(index) if !connect.clean_start => index,
            Some(index) => {
                // [MQTT-3.1.2-4]: thrown away.
                self.end_session(now, index, DropReason::SessionEnded);
                self.create_session(&attach, granted.expiry)
            }
            None => self.create_session(&attach, granted.expiry),
        };
        let session_present = known.is_some() && !connect.clean_start;
        self.open_link(now, index, &attach, granted, session_present)
    }

    fn check_connect(&self, connect: &Connect<'_>, client_id: &str) -> Result<(), ProtocolError> {
        let mut users = 0;
        for property in connect.properties.iter() {
            match property {
                // [MQTT-4.12.0-1]
                Property::AuthenticationMethod(method) => {
                    let detail = format!("authentication method {method:?} is not known");
                    return Err(ProtocolError::new(ReasonCode::BadAuthenticationMethod, detail));
                }
                Property::UserProperty(..) => users += 1,
                _ => {}
            }
        }
        if let Some(will) = &connect.will {
            users += will
                .properties
                .iter()
                .filter(|property| matches!(property, Property::UserProperty(..)))
                .count();
            self.check_topic(will.topic.as_bytes())?;
        }
        if users > self.core.limits.user_properties {
            return Err(ProtocolError::new(ReasonCode::QuotaExceeded, format!("{users} User Properties")));
        }
        if self.sessions.len() >= self.core.limits.max_sessions && self.index_of(client_id).is_none() {
            return Err(ProtocolError::new(
                ReasonCode::QuotaExceeded,
                "the number of sessions is at its limit",
            ));
        }
        Ok(())
    }

    /// A session belongs to its principal: for anybody else it is neither to be resumed nor to be cleared.
    fn check_owner(&self, attach: &Attach<'_>) -> Result<(), ProtocolError> {
        let session = self.index_of(attach.client_id).map(|index| &self.sessions[index as usize]);
        match session {
            Some(session) if session.principal != *attach.principal => Err(ProtocolError::new(
                ReasonCode::NotAuthorized,
                "the client identifier has a session of another user",
            )),
            _ => Ok(()),
        }
    }

    /// The session of a client.
    fn index_of(&self, client_id: &str) -> Option<u32> {
        self.by_client.get(&self.sessions, client_id)
    }

    /// Whether this client has a connection, which another one of it would take over.
    pub fn is_connected(&self, client_id: &str) -> bool {
        self.index_of(client_id).is_some_and(|index| self.sessions[index as usize].link.is_some())
    }

    /// [MQTT-3.1.4-3]: a connection of the same client ends before the new one begins.
    fn take_over(&mut self, now: Instant, client_id: &str) {
        let Some(index) = self.index_of(client_id) else { return };
        let Some(link) = &self.sessions[index as usize].link else { return };
        let connection = ConnectionId { session: index, generation: link.generation };
        let error =
            ProtocolError::new(ReasonCode::SessionTakenOver, "another connection took the session over");
        self.close(now, connection, error);
    }

    /// What the client is granted, and is told in CONNACK.
    ///
    /// Errors: its Maximum Packet Size has no room for that [MQTT-3.1.2-24].
    fn grant(&self, attach: &Attach<'_>) -> Result<Granted, ProtocolError> {
        let connect = attach.connect;
        let (expiry, keep_alive) = (self.grant_expiry(connect), self.grant_keep_alive(connect));
        let properties = self.connack_properties(attach, expiry, keep_alive);
        let max = connect.properties.iter().find_map(|property| match property {
            Property::MaximumPacketSize(max) => Some(max as usize),
            _ => None,
        });
        let len = properties.as_properties().raw().len() + CONNACK_OVERHEAD;
        if max.is_some_and(|max| max < len) {
            let detail = "the Maximum Packet Size has no room for a CONNACK";
            return Err(ProtocolError::new(ReasonCode::ImplementationSpecificError, detail));
        }
        Ok(Granted { expiry, keep_alive, properties })
    }

    /// The Session Expiry Interval as granted: before 5.0, none or for ever, within the same cap.
    fn grant_expiry(&self, connect: &Connect<'_>) -> Expiry {
        let asked = match connect.version {
            Version::V5 => connect.properties.iter().find_map(|property| match property {
                Property::SessionExpiryInterval(seconds) => Some(Expiry(seconds)),
                _ => None,
            }),
            _ if connect.clean_start => None,
            _ => Some(Expiry::NEVER),
        };
        asked.unwrap_or(Expiry::AT_ONCE).at_most(self.core.limits.session_expiry_max)
    }

    fn create_session(&mut self, attach: &Attach<'_>, expiry: Expiry) -> u32 {
        let client_id = attach.client_id;
        let queue_id = QueueId(numbered(self.settings.id, &mut self.last_queue));
        // Fixed for the session's life: it is persistent if it outlives its first connection.
        let meter = (expiry != Expiry::AT_ONCE).then(|| self.meter_for("#"));
        let mut session = Session::new(client_id, queue_id, expiry, meter).paged(self.core.store.has_pages());
        session.asked_by = self.core.rules.version as u32;
        let index = self.sessions.insert(session) as u32;
        self.by_client.insert(&self.sessions, index);
        self.by_queue.insert(&self.sessions, index);
        self.core.stats.sessions.add(1);
        index
    }

    fn open_link(
        &mut self,
        now: Instant,
        index: u32,
        attach: &Attach<'_>,
        granted: Granted,
        session_present: bool,
    ) -> Result<ConnectionId, ProtocolError> {
        let Granted { expiry, keep_alive, properties } = granted;
        let connect = attach.connect;
        self.last_generation = self.last_generation.wrapping_add(1);
        let generation = self.last_generation;
        let mut link = Link::new(generation, connect, keep_alive, &self.core.limits, now);
        link.max_received = link.max_received.min(attach.max_packet_size);
        self.bound_rates(now, attach, &mut link);
        let session = &mut self.sessions[index as usize];
        session.expiry = expiry;
        // The same user, by what may be a newer token.
        session.principal = attach.principal.clone();
        if session_present {
            self.check_resumed(now, index);
        }
        let session = &mut self.sessions[index as usize];
        session.will = connect.will.as_ref().map(|will| Box::new(Will::new(will)));
        session.attach(link);
        // No client is told of a session while the one before it may come back with a crash.
        let ticket = self.record_session(index).max(self.last_end);
        let session = &mut self.sessions[index as usize];
        let mut cx = self.core.context(now);
        let connack =
            ConnAck { session_present, reason: ReasonCode::Success, properties: properties.as_properties() };
        session.answer(ticket, Answer::ConnAck, &Packet::ConnAck(connack), &mut cx)?;
        session.pump(&mut cx);
        self.core.stats.packets_received.add(1);
        self.core.stats.connected.add(1);
        self.core.stats.connections.add(1);
        self.rejoin(index);
        if keep_alive > 0 {
            self.arm(index, now + keep_alive_limit(keep_alive));
        }
        if let Some(expires) = attach.principal.expires() {
            self.arm(index, expires);
        }
        self.after_progress(index);
        Ok(ConnectionId { session: index, generation })
    }

    /// Seconds of Keep Alive; only 5.0 can be told another than it asked for [MQTT-3.1.2-21].
    fn grant_keep_alive(&self, connect: &Connect<'_>) -> u16 {
        let most = self.core.limits.keep_alive_max;
        if connect.version < Version::V5 || most == 0 {
            return connect.keep_alive;
        }
        if connect.keep_alive == 0 { most } else { connect.keep_alive.min(most) }
    }

    fn connack_properties(&self, attach: &Attach<'_>, granted: Expiry, keep_alive: u16) -> PropertiesBuf {
        let (connect, limits) = (attach.connect, &self.core.limits);
        let mut properties = PropertiesBuf::new();
        if connect.version < Version::V5 {
            return properties;
        }
        let (mut asked, mut response) = (Expiry::AT_ONCE, false);
        for property in connect.properties.iter() {
            match property {
                Property::SessionExpiryInterval(seconds) => asked = Expiry(seconds),
                Property::RequestResponseInformation(wanted) => response = wanted,
                _ => {}
            }
        }
        if asked != granted {
            properties.push(Property::SessionExpiryInterval(granted.0));
        }
        if limits.receive_maximum != u16::MAX {
            properties.push(Property::ReceiveMaximum(limits.receive_maximum));
        }
        properties.push(Property::MaximumPacketSize(limits.max_packet_size.min(attach.max_packet_size)));
        if limits.topic_alias_maximum > 0 {
            properties.push(Property::TopicAliasMaximum(limits.topic_alias_maximum));
        }
        if attach.assigned {
            // [MQTT-3.2.2-16]
            properties.push(Property::AssignedClientIdentifier(attach.client_id));
        }
        if keep_alive != connect.keep_alive {
            properties.push(Property::ServerKeepAlive(keep_alive));
        }
        let plain = !attach.client_id.contains(['+', '#', '/']);
        if response && plain {
            // [MQTT-3.1.2-28]: a part of the topic tree for this client's responses.
            properties.push(Property::ResponseInformation(&format!("response/{}", attach.client_id)));
        }
        properties
    }

    /// Tells the groups of a resumed session that their member is back.
    fn rejoin(&mut self, index: u32) {
        let session = &mut self.sessions[index as usize];
        for membership in session.subscriptions.iter_mut().filter_map(|held| held.group.as_mut()) {
            self.last_generation = self.last_generation.wrapping_add(1);
            membership.token = self.last_generation;
        }
        self.introduce(index);
    }

    /// A connection is over: the session keeps what must be kept, or ends.
    pub(super) fn detach(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        with_will: bool,
        reason: CloseReason,
    ) {
        let stopping = self.stopping;
        let Some(session) = self.session_of(connection) else { return };
        let Some(mut link) = session.detach(now) else { return };
        let ends = session.expiry == Expiry::AT_ONCE;
        if !with_will || (stopping && ends) {
            // [MQTT-3.14.4-3]
            session.will = None;
        }
        let will_now = !stopping && session.will.as_ref().is_some_and(|will| will.delay == 0);
        let timeout = session.next_timeout();
        let client_id = session.client_id.clone();
        self.keep_rates(now, &client_id, &mut link);
        self.forget_parked(&link);
        self.closed.push_back(Closed { connection, client_id, outbound: link.outbound, reason });
        self.core.account(link.accounted, 0);
        self.core.stats.connected.sub(1);
        self.return_to_groups(now, connection.session);
        self.sessions[connection.session as usize].release_window(&mut self.core.context(now));
        if !ends && !stopping {
            self.record_session(connection.session);
        }
        if will_now {
            self.publish_will(now, connection.session);
        }
        if ends {
            self.end_session(now, connection.session, DropReason::SessionEnded);
        } else if let Some(at) = timeout {
            self.arm(connection.session, at);
        }
    }

    /// Pushes a persistent session's record as it is now; what waits for that.
    pub(super) fn record_session(&mut self, index: u32) -> Ticket {
        let session = &self.sessions[index as usize];
        if !session.persistent {
            return Ticket(0);
        }
        self.core.store.push(Record::Session {
            queue: session.queue_id,
            client_id: &session.client_id,
            user: session.principal.user(),
            expiry: session.expiry.0,
            detached: session.detached,
            will: session.will.as_deref(),
        })
    }

    /// What the groups gave to this connection goes back to them.
    fn return_to_groups(&mut self, now: Instant, index: u32) {
        let session = &mut self.sessions[index as usize];
        let queue_id = session.queue_id;
        let memberships: Vec<Membership> =
            session.subscriptions.iter().filter_map(|held| held.group.as_deref().cloned()).collect();
        for membership in memberships {
            let session = &mut self.sessions[index as usize];
            let kept = session.give_back(membership.queue, true, &mut self.core.context(now)).into();
            for held in &mut session.subscriptions {
                if let Some(group) = &mut held.group {
                    group.token = 0;
                }
            }
            self.outbox
                .push(membership.home, Item::Back { group: membership.queue, session: queue_id, kept });
        }
    }

    /// [MQTT-3.1.2-8]: publishes the will, if there is one.
    pub(super) fn publish_will(&mut self, now: Instant, index: u32) {
        let Some(will) = self.sessions[index as usize].will.take() else { return };
        let may = self.may_publish(index, will.topic());
        let session = &self.sessions[index as usize];
        let publisher = Publisher::new(session.queue_id, &session.client_id);
        let will_of = session.persistent.then_some(session.queue_id);
        let refused = if may {
            let message = Message::new(will.parts(now, publisher));
            let published = self.publish(now, message, Origin { will_of, ..Origin::default() });
            published.err().map(|refusal| refusal.drop_reason)
        } else {
            Some(DropReason::Unauthorised)
        };
        // One that is refused has nobody to be told: it is counted, and gone.
        if let Some(reason) = refused {
            self.core.stats.count_drop(reason, 1);
            self.record_session(index);
        }
    }

    /// A session is over: its subscriptions, its queue and its name go.
    pub(super) fn end_session(&mut self, now: Instant, index: u32, reason: DropReason) {
        // [MQTT-3.1.2-8]: due with the session's end, whatever its delay.
        self.publish_will(now, index);
        let filters: Vec<Box<str>> =
            self.sessions[index as usize].subscriptions.iter().map(|held| held.filter.clone()).collect();
        for filter in filters {
            self.remove_subscription(now, index, &filter);
        }
        self.replays.forget(index);
        let mut session = self.sessions.remove(index as usize);
        self.timers.disarm(session.armed, index);
        let dropped = session.end(reason, &mut self.core.context(now));
        if session.persistent {
            self.last_end = self.core.store.push(Record::SessionEnded(session.queue_id));
            if dropped > 0 {
                let client_id = crate::escaped::Word(&session.client_id);
                tracing::warn!(%client_id, messages = dropped, reason = reason.name(), "session ended with messages");
            }
        }
        self.by_client.remove(&session.client_id, index);
        self.by_queue.remove(&session.queue_id, index);
        if self.core.rules.acl.is_some() {
            self.shared.change_interest(|interest, _| interest.disown(session.queue_id));
        }
        self.core.stats.sessions.sub(1);
        if reason == DropReason::SessionExpired {
            self.core.stats.expired.add(1);
        }
    }
}

/// What CONNACK says that a client may have.
struct Granted {
    expiry: Expiry,
    /// In seconds.
    keep_alive: u16,
    properties: PropertiesBuf,
}

/// What CONNACK takes besides its properties, at most: type, length, flags, reason, their length.
const CONNACK_OVERHEAD: usize = 1 + 2 + 1 + 1 + 2;

/// [MQTT-3.1.2-22]: one and a half times the Keep Alive.
pub(super) fn keep_alive_limit(keep_alive: u16) -> Duration {
    Duration::from_millis(u64::from(keep_alive) * 1500)
}
