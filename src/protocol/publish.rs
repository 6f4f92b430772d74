//! PUBLISH on its way out to many: a header that is written without building a packet, once for all who
//! get the same but for the packet identifier, whose place it tells.

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
    /// A valid topic name as it stands on the wire; empty only in 5.0 beside a Topic Alias.
    pub topic: &'a [u8],
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
        let first = first_byte(self.dup, self.qos, self.retain);
        if let (Ok(topic_len), 0..0x4000) = (u16::try_from(self.topic.len()), remaining) {
            // Almost all are as short: so many bytes are put at once.
            let [high, low] = topic_len.to_be_bytes();
            match remaining {
                0..0x80 => out.extend_from_slice(&[first, remaining as u8, high, low]),
                _ => {
                    let [rest, more] = [remaining as u8 | 0x80, (remaining >> 7) as u8];
                    out.extend_from_slice(&[first, rest, more, high, low]);
                }
            }
            out.extend_from_slice(self.topic);
        } else {
            out.push(first);
            wire::put_variable(remaining, out);
            wire::put_binary(self.topic, out);
        }
        if let Some(packet_id) = self.packet_id {
            out.extend_from_slice(&packet_id.get().to_be_bytes());
        }
        if version == Version::V5 {
            wire::put_variable(self.properties.len() + self.extra.len(), out);
            out.extend_from_slice(self.properties);
            out.extend_from_slice(self.extra);
        }
    }

    /// Where in the packet the packet identifier stands, with QoS above 0.
    pub fn packet_id_at(&self, version: Version) -> usize {
        1 + wire::variable_len(self.remaining_len(version)) + 2 + self.topic.len()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec::decode;
    use crate::protocol::packet::{Packet, Publish};
    use crate::protocol::properties::{Properties, PropertiesBuf, Property};

    const VERSIONS: [Version; 3] = [Version::V3, Version::V4, Version::V5];

    fn header<'a>(qos: QoS, payload: &[u8], properties: &'a [u8], extra: &'a [u8]) -> PublishHeader<'a> {
        PublishHeader {
            dup: false,
            qos,
            retain: false,
            topic: b"a/b",
            packet_id: if qos == QoS::AtMostOnce { None } else { PacketId::new(7) },
            properties,
            extra,
            payload_len: payload.len(),
        }
    }

    #[test]
    fn the_length_is_known_before_the_packet() {
        for (payload_len, extra_len) in [(0, 0), (100, 0), (117, 0), (118, 0), (16_000, 20), (2_097_152, 200)]
        {
            let payload = vec![b'x'; payload_len];
            let mut extra = PropertiesBuf::new();
            for _ in 0..extra_len {
                extra.push(Property::SubscriptionIdentifier(1));
            }
            for version in VERSIONS {
                for qos in [QoS::AtMostOnce, QoS::ExactlyOnce] {
                    let header = header(qos, &payload, &[], extra.as_properties().raw());
                    let mut out = Vec::new();
                    header.encode(version, &mut out);
                    assert_eq!(out.len() + payload_len, header.packet_len(version));
                    out.extend_from_slice(&payload);
                    assert!(decode(version, &out).is_ok());
                }
            }
        }
    }

    #[test]
    fn a_packet_larger_than_the_wire_has_a_length() {
        let header = PublishHeader { payload_len: 300_000_000, ..header(QoS::AtMostOnce, b"", &[], &[]) };
        assert_eq!(header.packet_len(Version::V4), 1 + 4 + 5 + 300_000_000);
    }

    #[test]
    fn both_lists_of_properties_are_one_on_the_wire() {
        let (mut own, mut extra) = (PropertiesBuf::new(), PropertiesBuf::new());
        own.push(Property::UserProperty("k", "v"));
        extra.push(Property::MessageExpiryInterval(3));
        extra.push(Property::SubscriptionIdentifier(4));
        let (own, extra) = (own.as_properties().raw(), extra.as_properties().raw());
        let header = header(QoS::AtLeastOnce, b"hi", own, extra);
        let header = PublishHeader { dup: true, retain: true, packet_id: PacketId::new(0x0102), ..header };
        let mut out = Vec::new();
        header.encode(Version::V5, &mut out);
        out.extend_from_slice(b"hi");
        let whole = [own, extra].concat();
        let expected = Publish {
            dup: true,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: "a/b",
            packet_id: PacketId::new(0x0102),
            properties: Properties::from_validated(&whole),
            payload: b"hi",
        };
        assert_eq!(decode(Version::V5, &out), Ok(Packet::Publish(expected)));
        // Before 5.0 neither is written.
        assert_eq!(header.packet_len(Version::V4), 2 + 2 + 3 + 2 + 2);
    }

    #[test]
    fn the_packet_identifier_stands_where_it_says() {
        for payload in [&b"small"[..], &[b'x'; 200], &[b'y'; 20_000]] {
            for version in VERSIONS {
                let header = header(QoS::AtLeastOnce, payload, &[], &[]);
                let (mut one, mut other) = (Vec::new(), Vec::new());
                header.encode(version, &mut one);
                PublishHeader { packet_id: PacketId::new(0xFFFE), ..header }.encode(version, &mut other);
                let at = header.packet_id_at(version);
                one[at..at + 2].copy_from_slice(&[0xFF, 0xFE]);
                assert_eq!(one, other);
            }
        }
    }
}
