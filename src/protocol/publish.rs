//! PUBLISH on its way out to many: a header that is written without building a packet, and a template
//! that is encoded once and then copied and patched for each receiver.

use super::packet::{PacketId, QoS, Version};
use super::wire;

/// Everything of a PUBLISH but its payload.
#[derive(Clone, Copy, Debug)]
pub struct PublishHeader<'a> {
    /// DUP; never with QoS 0.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// A valid topic name; empty only in 5.0 beside a Topic Alias.
    pub topic: &'a str,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// Encoded properties without their length prefix; not written before 5.0.
    pub properties: &'a [u8],
    /// More of them, written after `properties`.
    pub extra: &'a [u8],
    /// The size of the payload that will follow, in bytes.
    pub payload_len: usize,
}

impl PublishHeader<'_> {
    /// The size of the whole packet, payload included, in bytes. It may be over what the wire or the receiver
    /// takes: that is to be asked before [`PublishHeader::encode`].
    pub fn packet_len(&self, version: Version) -> usize {
        let remaining = self.remaining_len(version);
        1 + wire::variable_len(remaining) + remaining
    }

    /// Appends everything before the payload.
    ///
    /// # Panics
    /// If the packet is larger than the wire can say ([`MAX_PACKET_SIZE`](super::codec::MAX_PACKET_SIZE)), or
    /// the topic.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        debug_assert_eq!(self.qos != QoS::AtMostOnce, self.packet_id.is_some(), "[MQTT-2.2.1-2]");
        let remaining = self.remaining_len(version);
        out.reserve(1 + wire::variable_len(remaining) + remaining - self.payload_len);
        out.push(first_byte(self.dup, self.qos, self.retain));
        wire::put_variable(remaining, out);
        wire::put_str(self.topic, out);
        if let Some(packet_id) = self.packet_id {
            out.extend_from_slice(&packet_id.get().to_be_bytes());
        }
        if version == Version::V5 {
            wire::put_variable(self.properties.len() + self.extra.len(), out);
            out.extend_from_slice(self.properties);
            out.extend_from_slice(self.extra);
        }
    }

    fn remaining_len(&self, version: Version) -> usize {
        let properties = if version == Version::V5 {
            let len = self.properties.len() + self.extra.len();
            wire::variable_len(len) + len
        } else {
            0
        };
        2 + self.topic.len() + 2 * usize::from(self.packet_id.is_some()) + properties + self.payload_len
    }
}

fn first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    3 << 4 | u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(retain)
}

/// A whole encoded PUBLISH, to be copied to many receivers with only DUP, RETAIN and the packet identifier
/// changed. Its memory is kept from one [`PublishTemplate::build`] to the next.
#[derive(Clone, Debug)]
pub struct PublishTemplate {
    packet: Vec<u8>,
    qos: QoS,
    /// Where the packet identifier stands, with QoS above 0.
    packet_id_at: usize,
}

impl Default for PublishTemplate {
    fn default() -> PublishTemplate {
        PublishTemplate::new()
    }
}

impl PublishTemplate {
    /// A template of nothing; allocates nothing.
    pub fn new() -> PublishTemplate {
        PublishTemplate { packet: Vec::new(), qos: QoS::AtMostOnce, packet_id_at: 0 }
    }

    /// Encodes the packet that copies are made of. `header.payload_len` has to be the payload's. With QoS above
    /// 0, `header.packet_id` holds any identifier: each copy brings its own.
    ///
    /// # Panics
    /// As [`PublishHeader::encode`].
    pub fn build(&mut self, version: Version, header: &PublishHeader<'_>, payload: &[u8]) {
        debug_assert_eq!(header.payload_len, payload.len());
        self.packet.clear();
        header.encode(version, &mut self.packet);
        let remaining_len = header.remaining_len(version);
        self.packet_id_at = 1 + wire::variable_len(remaining_len) + 2 + header.topic.len();
        self.qos = header.qos;
        self.packet.extend_from_slice(payload);
    }

    /// The size of each copy in bytes; 0 before the first [`PublishTemplate::build`].
    pub fn packet_len(&self) -> usize {
        self.packet.len()
    }

    /// The QoS of each copy.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Appends a copy. `packet_id` is present exactly when the template's QoS is above 0, and `dup` is not set
    /// when it is 0.
    pub fn append(&self, dup: bool, retain: bool, packet_id: Option<PacketId>, out: &mut Vec<u8>) {
        debug_assert_eq!(self.qos != QoS::AtMostOnce, packet_id.is_some(), "[MQTT-2.2.1-2]");
        debug_assert!(!dup || self.qos != QoS::AtMostOnce, "[MQTT-3.3.1-2]");
        let start = out.len();
        out.extend_from_slice(&self.packet);
        let copy = &mut out[start..];
        if let Some(first) = copy.first_mut() {
            *first = first_byte(dup, self.qos, retain);
        }
        if let Some(packet_id) = packet_id {
            copy[self.packet_id_at..self.packet_id_at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        }
    }
}
