//! The Application Message as the broker carries it, and the numbers that name messages, queues and peers.

use std::hash::BuildHasher;
use std::time::Instant;

use bytes::Bytes;

use crate::protocol::packet::QoS;

/// A queue: every session and every share group has one. Unique in the process, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// Where messages are forwarded to: a shard of this process, later also another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u16);

/// A message: the publishing shard and a rising counter. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

/// The numbers of the messages that one shard gives out: the shard in the upper 16 bits, so that they are unique in the
/// process, and a rising counter.
#[derive(Debug)]
pub struct MessageIds {
    shard: PeerId,
    last: u64,
}

impl MessageIds {
    /// Those of `shard`, from the first on.
    pub fn new(shard: PeerId) -> MessageIds {
        MessageIds { shard, last: 0 }
    }

    /// The shard.
    pub fn shard(&self) -> PeerId {
        self.shard
    }

    /// What is given from now on is above this count.
    pub fn resume_above(&mut self, last: u64) {
        self.last = last;
    }

    /// The next one.
    pub fn next_id(&mut self) -> MessageId {
        MessageId(numbered(self.shard, &mut self.last))
    }
}

/// A number that carries its shard in the upper 16 bits: never 0 there, so that no number is.
pub fn numbered(shard: PeerId, counter: &mut u64) -> u64 {
    *counter += 1;
    u64::from(shard.0 + 1) << 48 | *counter
}

/// Who published a message, as far as routing cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publisher {
    /// The queue of the publisher's session: No Local compares it.
    pub queue: QueueId,
    /// A hash of the Client Identifier: a share group's strategy may go by it.
    pub client_hash: u32,
}

impl Publisher {
    /// The publisher whose session has this queue and client identifier.
    pub fn new(queue: QueueId, client_id: &str) -> Publisher {
        Publisher { queue, client_hash: client_hash(client_id) }
    }
}

/// The hash of a Client Identifier that a [`Publisher`] carries.
pub fn client_hash(client_id: &str) -> u32 {
    (foldhash::quality::FixedState::default().hash_one(client_id) >> 32) as u32
}

/// What a [`Message`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct MessageParts<'a> {
    /// Its number.
    pub id: MessageId,
    /// Who published it; `None` for the broker itself.
    pub publisher: Option<Publisher>,
    /// The QoS it was published at.
    pub qos: QoS,
    /// The RETAIN flag as published.
    pub retain: bool,
    /// When it expires, if ever.
    pub expires: Option<Instant>,
    /// The version a retained publish took; 0 for any other.
    pub version: u64,
    /// A valid topic name.
    pub topic: &'a str,
    /// The MQTT 5 properties to forward, in their wire form and without a length before them.
    pub properties: &'a [u8],
    /// The application's bytes.
    pub payload: &'a [u8],
}

/// An Application Message. Its topic, properties and payload stand in one allocation of exactly their size, so that
/// a message that is kept for long pins nothing else, neither a read buffer nor spare capacity.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its number.
    pub id: MessageId,
    /// Who published it; `None` for the broker itself.
    pub publisher: Option<Publisher>,
    /// The QoS it was published at.
    pub qos: QoS,
    /// The RETAIN flag as published.
    pub retain: bool,
    /// When it expires, if ever.
    pub expires: Option<Instant>,
    /// The version a retained publish took; 0 for any other.
    pub version: u64,
    data: Bytes,
    properties_len: u32,
    topic_len: u16,
}

impl Message {
    /// Copies `parts` into a message.
    ///
    /// # Panics
    /// If the topic is longer than 65,535 bytes or the properties than 2^32, which no packet can carry.
    pub fn new(parts: MessageParts<'_>) -> Message {
        let MessageParts { topic, properties, payload, .. } = parts;
        let mut data = Vec::with_capacity(topic.len() + properties.len() + payload.len());
        data.extend_from_slice(topic.as_bytes());
        data.extend_from_slice(properties);
        data.extend_from_slice(payload);
        Message {
            id: parts.id,
            publisher: parts.publisher,
            qos: parts.qos,
            retain: parts.retain,
            expires: parts.expires,
            version: parts.version,
            data: Bytes::from(data),
            properties_len: u32::try_from(properties.len()).expect("properties fit a packet"),
            topic_len: u16::try_from(topic.len()).expect("a topic fits its two-byte length"),
        }
    }

    /// The same with a number of its own, and not as the retained message of its topic.
    #[must_use]
    pub fn copied(&self, id: MessageId) -> Message {
        Message { id, version: 0, ..self.clone() }
    }

    /// The topic name. Its bytes are checked to be UTF-8 once more each time, which costs less than an allocation of its
    /// own would; where only the bytes matter, [`Message::topic_bytes`] saves even that.
    pub fn topic(&self) -> &str {
        std::str::from_utf8(self.topic_bytes()).expect("the topic was copied from a str")
    }

    /// The topic name as it stands on the wire.
    pub fn topic_bytes(&self) -> &[u8] {
        &self.data[..usize::from(self.topic_len)]
    }

    /// The MQTT 5 properties to forward, in their wire form and without a length before them.
    pub fn properties(&self) -> &[u8] {
        &self.data[usize::from(self.topic_len)..self.payload_start()]
    }

    /// The application's bytes.
    pub fn payload(&self) -> &[u8] {
        &self.data[self.payload_start()..]
    }

    /// The application's bytes, shared.
    pub fn payload_bytes(&self) -> Bytes {
        self.data.slice(self.payload_start()..)
    }

    /// Whether its Message Expiry Interval has passed.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// The seconds that remain of its Message Expiry Interval, rounded up; `None` if it has none.
    pub fn remaining_expiry(&self, now: Instant) -> Option<u32> {
        let remaining = self.expires?.saturating_duration_since(now);
        Some(u32::try_from(remaining.as_millis().div_ceil(1000)).unwrap_or(u32::MAX))
    }

    /// The bytes it counts for wherever messages are limited by bytes: its contents, and itself.
    pub fn size(&self) -> usize {
        self.data.len() + size_of::<Message>()
    }

    fn payload_start(&self) -> usize {
        usize::from(self.topic_len) + self.properties_len as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(topic: &'a str, properties: &'a [u8], payload: &'a [u8]) -> MessageParts<'a> {
        MessageParts {
            id: MessageId(1),
            publisher: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires: None,
            version: 0,
            topic,
            properties,
            payload,
        }
    }

    #[test]
    fn gives_back_its_parts() {
        let message = Message::new(parts("a/é", b"\x01\x00", b"\xff\x00payload"));
        assert_eq!(message.topic(), "a/é");
        assert_eq!(message.properties(), b"\x01\x00");
        assert_eq!(message.payload(), b"\xff\x00payload");
        assert_eq!(&message.payload_bytes()[..], message.payload());
        assert_eq!(message.size(), 4 + 2 + 9 + size_of::<Message>());
    }

    #[test]
    fn any_part_may_be_empty() {
        let message = Message::new(parts("", b"", b""));
        assert!(
            message.topic().is_empty() && message.properties().is_empty() && message.payload().is_empty()
        );
        let longest = "x".repeat(usize::from(u16::MAX));
        assert_eq!(Message::new(parts(&longest, b"", b"p")).topic(), longest);
    }
}
