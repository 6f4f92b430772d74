//! Records as they stand in the journal, read in place. [`Stored`] borrows from the bytes that an
//! [`Encoder`](super::encode::Encoder) wrote; moments are wall time in milliseconds since 1970. Whatever bytes it is given,
//! [`Stored::decode`] gives a record that is whole, or `None`.

use std::sync::Arc;

use super::PageEntry;
use super::packed::Reader;
use super::targets::{Targets, Terms, read_terms_head};
use crate::clock::Clock;
use crate::message::{Message, MessageId, MessageParts, Publisher, QueueId};
use crate::protocol::packet::{PacketId, QoS};
use crate::will::WillParts;

/// The first byte of a record. Numbers are never given a new meaning: there may be data folders that hold the old one.
pub(super) mod kind {
    pub(in crate::store) const MESSAGE: u8 = 1;
    pub(in crate::store) const RELEASED: u8 = 2;
    pub(in crate::store) const SENT: u8 = 3;
    pub(in crate::store) const STEPPED: u8 = 4;
    pub(in crate::store) const COMPLETED: u8 = 5;
    pub(in crate::store) const ACKED: u8 = 6;
    pub(in crate::store) const SESSION: u8 = 7;
    pub(in crate::store) const SESSION_ENDED: u8 = 8;
    pub(in crate::store) const SUBSCRIBED: u8 = 9;
    pub(in crate::store) const UNSUBSCRIBED: u8 = 10;
    pub(in crate::store) const REPLAYED: u8 = 11;
    pub(in crate::store) const GROUP_ENDED: u8 = 12;
}

/// What a message's record has; the lowest two bits are its QoS.
pub(super) mod flag {
    pub(in crate::store) const RETAIN: u16 = 1 << 2;
    pub(in crate::store) const BODY: u16 = 1 << 3;
    pub(in crate::store) const PUBLISHER: u16 = 1 << 4;
    pub(in crate::store) const EXPIRES: u16 = 1 << 5;
    pub(in crate::store) const VERSION: u16 = 1 << 6;
    pub(in crate::store) const RECEIVED: u16 = 1 << 7;
    pub(in crate::store) const WILL: u16 = 1 << 8;
    pub(in crate::store) const REPLAY: u16 = 1 << 9;
}

/// What a session's record has.
pub(super) mod session_flag {
    pub(in crate::store) const DETACHED: u8 = 1;
    pub(in crate::store) const WILL: u8 = 2;
    pub(in crate::store) const USER: u8 = 4;
}

/// What a subscription's record has.
pub(super) mod subscribed_flag {
    pub(in crate::store) const GROUP: u8 = 1;
    pub(in crate::store) const REPLAY: u8 = 2;
}

/// A [`Record`](super::Record) in its stored form.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// A message and every durable queue it goes to.
    Message(StoredMessage<'a>),
    /// A publisher released a QoS 2 packet id.
    Released(QueueId, PacketId),
    /// A QoS 2 delivery is bound to a packet id: its reference moves from its queue to the session.
    Sent {
        /// The session it is sent to.
        session: QueueId,
        /// Its packet id there.
        packet_id: PacketId,
        /// The message.
        message: MessageId,
        /// The queue it comes from.
        from: QueueId,
    },
    /// A subscriber confirmed a QoS 2 delivery.
    Stepped(QueueId, PacketId),
    /// A packet id of a QoS 2 delivery is free again.
    Completed(QueueId, PacketId),
    /// A message left a queue for good.
    Acked(QueueId, MessageId),
    /// A persistent session as it is from now on.
    Session(StoredSession<'a>),
    /// A session ended.
    SessionEnded(QueueId),
    /// A persistent session subscribed.
    Subscribed(StoredSubscription<'a>),
    /// A persistent session unsubscribed.
    Unsubscribed(QueueId, &'a str),
    /// How far the retained replay of a subscription has come.
    Replayed {
        /// The session's queue.
        session: QueueId,
        /// The subscription's filter.
        filter: &'a str,
        /// The last topic that was replayed; `None`: the replay is finished.
        topic: Option<&'a str>,
    },
    /// The last member of a share group is gone.
    GroupEnded(QueueId),
}

/// A persistent session.
#[derive(Clone, Copy, Debug)]
pub struct StoredSession<'a> {
    /// Its queue.
    pub queue: QueueId,
    /// Its client identifier.
    pub client_id: &'a str,
    /// The user that it belongs to; `None`: anonymous.
    pub user: Option<&'a str>,
    /// Session Expiry Interval in seconds.
    pub expiry: u32,
    /// Since when it has no connection, as wall time.
    pub detached: Option<u64>,
    /// Its will.
    pub will: Option<WillParts<'a>>,
}

/// A subscription of a persistent session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSubscription<'a> {
    /// The session's queue.
    pub session: QueueId,
    /// The filter, `$share/…` included.
    pub filter: &'a str,
    /// The options byte as on the wire.
    pub options: u8,
    /// Subscription Identifier, 0 for none.
    pub identifier: u32,
    /// The group's queue, for a shared subscription.
    pub group: Option<QueueId>,
    /// Retained publishes above this version reach it live.
    pub since: u64,
    /// A retained replay begins with it.
    pub replay: bool,
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct StoredMessage<'a> {
    /// Its number.
    pub id: MessageId,
    /// The QoS it was published at.
    pub qos: QoS,
    /// The RETAIN flag as published.
    pub retain: bool,
    /// The QoS 2 packet id it came with: the session and its packet id.
    pub received: Option<(QueueId, PacketId)>,
    /// The session whose will it is.
    pub will_of: Option<QueueId>,
    /// The subscription whose retained replay has come to the topic of this copy: session and filter.
    pub replay_of: Option<(QueueId, &'a str)>,
    /// What it says, and to whom; `None` where nothing durable takes it and only its packet id or will mattered.
    pub body: Option<Body<'a>>,
}

/// What a message says, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    /// Who published it; `None` for the broker itself.
    pub publisher: Option<Publisher>,
    /// When it expires, as wall time.
    pub expires: Option<u64>,
    /// The version a retained publish took; 0 for any other.
    pub version: u64,
    /// Its topic name.
    pub topic: &'a str,
    /// Its MQTT 5 properties.
    pub properties: &'a [u8],
    /// The application's bytes.
    pub payload: &'a [u8],
    targets: Targets<'a>,
}

impl<'a> StoredMessage<'a> {
    /// The durable queues it goes to; of each, the QoS.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, QoS)> + use<'a> {
        self.body.map(|body| body.targets.iter()).into_iter().flatten()
    }

    /// Those queues; `None` without a body.
    pub(super) fn targets(&self) -> Option<Targets<'a>> {
        self.body.map(|body| body.targets)
    }

    /// How `queue` takes it, if it is among them. What `Sent` gave to a session from a group stands under the group.
    pub fn terms(&self, queue: QueueId) -> Option<Terms<'a>> {
        self.body.as_ref()?.targets.find(queue)
    }

    /// How far a retained replay has come with it: session, filter and topic.
    pub fn replayed(&self) -> Option<(QueueId, &'a str, &'a str)> {
        let ((session, filter), body) = self.replay_of.zip(self.body)?;
        Some((session, filter, body.topic))
    }

    /// Whether it has become the retained message of its topic, or with an empty payload cleared it.
    pub fn version(&self) -> u64 {
        self.body.map_or(0, |body| body.version)
    }

    /// [`Message::size`] of the message that it would make.
    pub fn size(&self) -> usize {
        let contents = |body: &Body<'_>| body.topic.len() + body.properties.len() + body.payload.len();
        self.body.as_ref().map_or(0, contents) + size_of::<Message>()
    }

    /// Makes the message; `None` if it has no body.
    pub fn message(&self, clock: &Clock) -> Option<Message> {
        let body = self.body.as_ref()?;
        Some(Message::new(MessageParts {
            id: self.id,
            publisher: body.publisher,
            qos: self.qos,
            retain: self.retain,
            expires: body.expires.and_then(|wall| clock.instant(wall)),
            version: body.version,
            topic: body.topic,
            properties: body.properties,
            payload: body.payload,
        }))
    }

    /// The message as `queue` is to have it; `None` if it does not go there.
    pub fn entry(&self, queue: QueueId, clock: &Clock) -> Option<PageEntry> {
        Some(self.terms(queue)?.entry(Arc::new(self.message(clock)?)))
    }
}

impl<'a> Stored<'a> {
    /// Reads one record, which `bytes` are the whole of.
    pub fn decode(bytes: &'a [u8]) -> Option<Stored<'a>> {
        let stored = Stored::decode_sound(bytes)?;
        match &stored {
            Stored::Message(message) if !message.targets().is_none_or(|targets| targets.are_sound()) => None,
            _ => Some(stored),
        }
    }

    /// The same of a record that the store wrote, and that is as it was written: the queues of a message are passed over,
    /// however many they are.
    pub(super) fn decode_sound(bytes: &'a [u8]) -> Option<Stored<'a>> {
        let mut reader = Reader::new(bytes);
        let stored = read(&mut reader)?;
        reader.rest().is_empty().then_some(stored)
    }
}

fn read<'a>(reader: &mut Reader<'a>) -> Option<Stored<'a>> {
    let kind = reader.byte()?;
    if kind == kind::MESSAGE {
        return read_message(reader).map(Stored::Message);
    }
    let queue = reader.queue()?;
    Some(match kind {
        kind::RELEASED => Stored::Released(queue, reader.packet_id()?),
        kind::SENT => Stored::Sent {
            session: queue,
            packet_id: reader.packet_id()?,
            message: MessageId(reader.number()?),
            from: reader.queue()?,
        },
        kind::STEPPED => Stored::Stepped(queue, reader.packet_id()?),
        kind::COMPLETED => Stored::Completed(queue, reader.packet_id()?),
        kind::ACKED => Stored::Acked(queue, MessageId(reader.number()?)),
        kind::SESSION => Stored::Session(read_session(queue, reader)?),
        kind::SESSION_ENDED => Stored::SessionEnded(queue),
        kind::SUBSCRIBED => Stored::Subscribed(read_subscription(queue, reader)?),
        kind::UNSUBSCRIBED => Stored::Unsubscribed(queue, reader.text()?),
        kind::REPLAYED => {
            let filter = reader.text()?;
            let has_topic = read_flag(reader)?;
            let topic = reader.text()?;
            Stored::Replayed { session: queue, filter, topic: has_topic.then_some(topic) }
        }
        kind::GROUP_ENDED => Stored::GroupEnded(queue),
        _ => return None,
    })
}

fn read_flag(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.byte()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn read_message<'a>(reader: &mut Reader<'a>) -> Option<StoredMessage<'a>> {
    let flags = u16::from_le_bytes([reader.byte()?, reader.byte()?]);
    let has = |bit: u16| flags & bit != 0;
    let qos = QoS::from_bits(flags as u8 & 3)?;
    let id = MessageId(reader.number()?);
    let received = match has(flag::RECEIVED) {
        true => Some((reader.queue()?, reader.packet_id()?)),
        false => None,
    };
    let will_of = if has(flag::WILL) { Some(reader.queue()?) } else { None };
    let replay_of = if has(flag::REPLAY) { Some((reader.queue()?, reader.text()?)) } else { None };
    let body = if has(flag::BODY) { Some(read_body(flags, reader)?) } else { None };
    Some(StoredMessage { id, qos, retain: has(flag::RETAIN), received, will_of, replay_of, body })
}

fn read_body<'a>(flags: u16, reader: &mut Reader<'a>) -> Option<Body<'a>> {
    let publisher = match flags & flag::PUBLISHER {
        0 => None,
        _ => {
            let queue = reader.queue()?;
            let client_hash = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
            Some(Publisher { queue, client_hash })
        }
    };
    let expires = if flags & flag::EXPIRES != 0 { Some(reader.integer()?) } else { None };
    let version = if flags & flag::VERSION != 0 { reader.integer()? } else { 0 };
    let targets = Targets::read(reader)?;
    let topic = reader.text()?;
    let properties = reader.bytes()?;
    // No packet carries more, so no message does.
    if topic.len() > usize::from(u16::MAX) || u32::try_from(properties.len()).is_err() {
        return None;
    }
    let payload = reader.take(reader.rest().len())?;
    Some(Body { publisher, expires, version, topic, properties, payload, targets })
}

fn read_session<'a>(queue: QueueId, reader: &mut Reader<'a>) -> Option<StoredSession<'a>> {
    let flags = reader.byte()?;
    let expiry = reader.small()?;
    let detached = if flags & session_flag::DETACHED != 0 { Some(reader.integer()?) } else { None };
    let client_id = reader.text()?;
    let user = if flags & session_flag::USER != 0 { Some(reader.text()?) } else { None };
    let will = if flags & session_flag::WILL != 0 { Some(read_will(reader)?) } else { None };
    Some(StoredSession { queue, client_id, user, expiry, detached, will })
}

fn read_will<'a>(reader: &mut Reader<'a>) -> Option<WillParts<'a>> {
    let (qos, retain) = read_terms_head(reader)?;
    let delay = reader.small()?;
    let expires = read_flag(reader)?;
    let expiry = reader.small()?;
    let topic = reader.text()?;
    let properties = reader.bytes()?;
    let payload = reader.bytes()?;
    let expiry = expires.then_some(expiry);
    Some(WillParts { qos, retain, topic, payload, properties, expiry, delay })
}

fn read_subscription<'a>(session: QueueId, reader: &mut Reader<'a>) -> Option<StoredSubscription<'a>> {
    let (flags, options) = (reader.byte()?, reader.byte()?);
    let identifier = reader.small()?;
    let since = reader.integer()?;
    let group = if flags & subscribed_flag::GROUP != 0 { Some(reader.queue()?) } else { None };
    let filter = reader.text()?;
    let replay = flags & subscribed_flag::REPLAY != 0;
    Some(StoredSubscription { session, filter, options, identifier, group, since, replay })
}

#[cfg(test)]
mod tests;
