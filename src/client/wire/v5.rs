//! MQTT 5.0 through the project's codec, with the server's topic aliases resolved.

use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};

use super::{Accepted, Incoming, Received, Refusal, Wire, topic_alias};
use crate::protocol::codec::{self, MAX_PACKET_SIZE};
use crate::protocol::packet::{Ack, ConnAck, Packet, PacketType, Publish, QoS, SubAck, Version};
use crate::protocol::properties::{Properties, Property};
use crate::protocol::reason::{ProtocolError, ReasonCode};

/// MQTT 5.0, and the topic aliases that the server has set on this connection.
#[derive(Default)]
pub(super) struct V5 {
    /// What CONNECT offered.
    topic_alias_maximum: u16,
    aliases: HashMap<u16, String>,
}

impl Wire for V5 {
    fn encode(&mut self, packet: &Packet<'_>, out: &mut BytesMut) -> Result<(), ProtocolError> {
        if let Packet::Connect(connect) = packet {
            let offered = connect.properties.iter().find_map(|property| match property {
                Property::TopicAliasMaximum(maximum) => Some(maximum),
                _ => None,
            });
            self.topic_alias_maximum = offered.unwrap_or(0);
        }
        let mut bytes = Vec::new();
        codec::encode(Version::V5, packet, &mut bytes);
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, ProtocolError> {
        let size = match codec::frame(Some(Version::V5), input, MAX_PACKET_SIZE)? {
            Some(size) if size <= input.len() => size,
            _ => return Ok(None),
        };
        let incoming = self.incoming(codec::decode(Version::V5, &input[..size])?)?;
        input.advance(size);
        Ok(Some(incoming))
    }
}

impl V5 {
    fn incoming(&mut self, packet: Packet<'_>) -> Result<Incoming, ProtocolError> {
        Ok(match packet {
            Packet::ConnAck(connack) => Incoming::ConnAck(connect_outcome(&connack)),
            Packet::Publish(publish) => Incoming::Publish(self.received(&publish)?),
            Packet::PubAck(ack) => acknowledged(PacketType::PubAck, &ack),
            Packet::PubRec(ack) => acknowledged(PacketType::PubRec, &ack),
            Packet::PubRel(ack) => acknowledged(PacketType::PubRel, &ack),
            Packet::PubComp(ack) => acknowledged(PacketType::PubComp, &ack),
            Packet::SubAck(suback) => Incoming::SubAck(suback.packet_id, granted(&suback)?),
            Packet::PingResp => Incoming::PingResp,
            Packet::Disconnect(disconnect) => {
                Incoming::Disconnect(refusal(disconnect.reason, disconnect.properties))
            }
            Packet::Auth(_) => {
                return Err(ProtocolError::protocol("AUTH: extended authentication is not offered here"));
            }
            _ => return Err(ProtocolError::protocol("a packet that a server does not send")),
        })
    }

    fn received(&mut self, publish: &Publish<'_>) -> Result<Received, ProtocolError> {
        let invalid = |detail| ProtocolError::new(ReasonCode::TopicAliasInvalid, detail);
        let topic = match publish.properties.iter().find_map(topic_alias) {
            None => publish.topic.to_owned(),
            // [MQTT-3.1.2-26]
            Some(alias) if alias > self.topic_alias_maximum => return Err(invalid("more than was offered")),
            Some(alias) if publish.topic.is_empty() => {
                self.aliases.get(&alias).cloned().ok_or_else(|| invalid("an unknown topic alias"))?
            }
            Some(alias) => {
                self.aliases.insert(alias, publish.topic.to_owned());
                publish.topic.to_owned()
            }
        };
        Ok(Received {
            topic,
            payload: Bytes::copy_from_slice(publish.payload),
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.packet_id,
            properties: publish.properties.raw().to_vec(),
        })
    }
}

fn connect_outcome(connack: &ConnAck<'_>) -> Result<Accepted, Refusal> {
    outcome(connack.reason, connack.properties)?;
    let mut accepted = Accepted { session_present: connack.session_present, ..Accepted::default() };
    for property in connack.properties.iter() {
        match property {
            Property::ReceiveMaximum(maximum) => accepted.receive_maximum = maximum,
            Property::MaximumPacketSize(maximum) => accepted.maximum_packet_size = maximum,
            Property::MaximumQoS(0) => accepted.maximum_qos = QoS::AtMostOnce,
            Property::MaximumQoS(_) => accepted.maximum_qos = QoS::AtLeastOnce,
            Property::RetainAvailable(available) => accepted.retain_available = available,
            Property::TopicAliasMaximum(maximum) => accepted.topic_alias_maximum = maximum,
            Property::ServerKeepAlive(seconds) => accepted.server_keep_alive = Some(seconds),
            _ => {}
        }
    }
    Ok(accepted)
}

fn acknowledged(packet_type: PacketType, ack: &Ack<'_>) -> Incoming {
    Incoming::Ack(packet_type, ack.packet_id, outcome(ack.reason, ack.properties))
}

fn granted(suback: &SubAck<'_>) -> Result<Vec<Result<(), Refusal>>, ProtocolError> {
    let unknown = |()| ProtocolError::malformed("an unknown reason code");
    suback
        .reasons
        .iter()
        .map(|&code| Ok(outcome(ReasonCode::try_from(code).map_err(unknown)?, suback.properties)))
        .collect()
}

fn outcome(reason: ReasonCode, properties: Properties<'_>) -> Result<(), Refusal> {
    if reason.is_failure() { Err(refusal(reason, properties)) } else { Ok(()) }
}

fn refusal(reason: ReasonCode, properties: Properties<'_>) -> Refusal {
    let text = properties.iter().find_map(|property| match property {
        Property::ReasonString(text) => Some(text.to_owned()),
        _ => None,
    });
    Refusal { reason, code: format!("{} (0x{:02X})", words(reason), reason as u8), text }
}

/// The standard's name of a reason code, from the name that it has here: `QuotaExceeded` is "Quota exceeded".
fn words(reason: ReasonCode) -> String {
    let mut words = String::new();
    for letter in format!("{reason:?}").replace("QoS", "Qos").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
            words.extend(letter.to_lowercase());
        } else {
            words.push(letter);
        }
    }
    words.replace("Qos", "QoS")
}
