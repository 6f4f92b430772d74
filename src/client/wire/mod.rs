//! What the client commands need of a wire: packets out, events in. There are two: MQTT 3.1.1 through
//! mqttbytes, an implementation that shares nothing with the broker's, and 5.0 through the project's codec.

mod v4;
mod v5;

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::escaped::Escaped;
use crate::protocol::packet::{Packet, PacketId, PacketType, Publish, QoS, Version};
use crate::protocol::properties::{Properties, Property};
use crate::protocol::reason::{ProtocolError, ReasonCode};

/// The bytes of one connection's packets. A wire may remember things of its connection, so each connection
/// has its own.
pub(super) trait Wire {
    /// Appends `packet` to `out`.
    ///
    /// # Errors
    /// What this wire cannot say, with nothing appended.
    fn encode(&mut self, packet: &Packet<'_>, out: &mut BytesMut) -> Result<(), ProtocolError>;

    /// Takes the first whole packet from `input`; `None` asks for more bytes.
    ///
    /// # Errors
    /// What the server got wrong.
    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, ProtocolError>;
}

/// The wire of a new connection.
pub(super) fn for_version(version: Version) -> Box<dyn Wire> {
    match version {
        Version::V5 => Box::new(v5::V5::default()),
        Version::V3 | Version::V4 => Box::new(v4::V4),
    }
}

/// A packet from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    ConnAck(Result<Accepted, Refusal>),
    Publish(Received),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(PacketType, PacketId, Result<(), Refusal>),
    /// One outcome for each filter.
    SubAck(PacketId, Vec<Result<(), Refusal>>),
    PingResp,
    Disconnect(Refusal),
}

/// A successful CONNACK: what the server holds and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) session_present: bool,
    /// QoS 1 and 2 messages under way at once.
    pub(super) receive_maximum: u16,
    /// In bytes.
    pub(super) maximum_packet_size: u32,
    pub(super) maximum_qos: QoS,
    pub(super) retain_available: bool,
    pub(super) topic_alias_maximum: u16,
    /// Seconds; holds instead of the client's.
    pub(super) server_keep_alive: Option<u16>,
}

impl Default for Accepted {
    /// What holds when CONNACK does not say otherwise.
    fn default() -> Accepted {
        Accepted {
            session_present: false,
            receive_maximum: u16::MAX,
            maximum_packet_size: u32::MAX,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            topic_alias_maximum: 0,
            server_keep_alive: None,
        }
    }
}

impl Accepted {
    /// Judges a PUBLISH by what CONNACK allows; its size apart.
    ///
    /// # Errors
    /// What the server does not take, in words.
    pub(super) fn takes(&self, publish: &Publish<'_>) -> Result<(), String> {
        if publish.qos > self.maximum_qos {
            // [MQTT-3.2.2-11]
            return Err(format!("the broker takes QoS {} at most", self.maximum_qos as u8));
        }
        if publish.retain && !self.retain_available {
            return Err("the broker keeps no retained messages".to_owned()); // [MQTT-3.2.2-14]
        }
        let alias = publish.properties.iter().find_map(topic_alias).unwrap_or(0);
        if alias > self.topic_alias_maximum {
            // [MQTT-3.3.2-9]
            return Err(format!("the broker takes topic aliases up to {}", self.topic_alias_maximum));
        }
        Ok(())
    }
}

fn topic_alias(property: Property<'_>) -> Option<u16> {
    match property {
        Property::TopicAlias(alias) => Some(alias),
        _ => None,
    }
}

/// An application message as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) packet_id: Option<PacketId>,
    /// Validated, in their wire form.
    pub(super) properties: Vec<u8>,
}

impl Received {
    pub(super) fn properties(&self) -> Properties<'_> {
        Properties::from_validated(&self.properties)
    }
}

/// What the server said instead of success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: ReasonCode,
    /// The code as its version of the protocol says it.
    code: String,
    /// The Reason String.
    text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code)?;
        match &self.text {
            Some(text) => write!(f, ": {}", Escaped(text)),
            None => Ok(()),
        }
    }
}
