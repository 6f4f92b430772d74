//! One model of an MQTT control packet for 3.1, 3.1.1 and 5.0, in both directions. A packet borrows
//! from the bytes it was decoded from (or is encoded from), so decoding allocates nothing.

use std::num::NonZeroU16;

use super::properties::Properties;
use super::reason::ReasonCode;
use super::wire::Reader;

/// A Packet Identifier; zero does not exist on the wire [MQTT-2.2.1-3].
pub type PacketId = NonZeroU16;

/// The protocol version that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V3,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V4,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

/// Quality of Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS of two bits; `None` for 3, which is malformed [MQTT-3.3.1-4].
    pub fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// The type of a control packet, as the first four bits of the fixed header say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the standard's, and `Packet` says what each is")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type of four bits; `None` for 0, which does not exist, and for more than four bits.
    pub fn from_bits(bits: u8) -> Option<PacketType> {
        Some(match bits {
            1 => PacketType::Connect,
            2 => PacketType::ConnAck,
            3 => PacketType::Publish,
            4 => PacketType::PubAck,
            5 => PacketType::PubRec,
            6 => PacketType::PubRel,
            7 => PacketType::PubComp,
            8 => PacketType::Subscribe,
            9 => PacketType::SubAck,
            10 => PacketType::Unsubscribe,
            11 => PacketType::UnsubAck,
            12 => PacketType::PingReq,
            13 => PacketType::PingResp,
            14 => PacketType::Disconnect,
            15 => PacketType::Auth,
            _ => return None,
        })
    }
}

/// An MQTT control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Client to server: open a session.
    Connect(Connect<'a>),
    /// Server to client: the answer to CONNECT.
    ConnAck(ConnAck<'a>),
    /// An application message, either way.
    Publish(Publish<'a>),
    /// The answer to a QoS 1 PUBLISH.
    PubAck(Ack<'a>),
    /// The first answer to a QoS 2 PUBLISH.
    PubRec(Ack<'a>),
    /// The answer to PUBREC.
    PubRel(Ack<'a>),
    /// The answer to PUBREL.
    PubComp(Ack<'a>),
    /// Client to server: subscriptions to add or replace.
    Subscribe(Subscribe<'a>),
    /// Server to client: the answer to SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// Client to server: subscriptions to remove.
    Unsubscribe(Unsubscribe<'a>),
    /// Server to client: the answer to UNSUBSCRIBE.
    UnsubAck(SubAck<'a>),
    /// Client to server: are you there.
    PingReq,
    /// Server to client: yes.
    PingResp,
    /// The last packet of a connection (from a server in 5.0 only).
    Disconnect(Disconnect<'a>),
    /// Extended authentication (5.0 only).
    Auth(Auth<'a>),
}

impl Packet<'_> {
    /// The packet's type.
    pub fn packet_type(&self) -> PacketType {
        match self {
            Packet::Connect(_) => PacketType::Connect,
            Packet::ConnAck(_) => PacketType::ConnAck,
            Packet::Publish(_) => PacketType::Publish,
            Packet::PubAck(_) => PacketType::PubAck,
            Packet::PubRec(_) => PacketType::PubRec,
            Packet::PubRel(_) => PacketType::PubRel,
            Packet::PubComp(_) => PacketType::PubComp,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::SubAck(_) => PacketType::SubAck,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::UnsubAck(_) => PacketType::UnsubAck,
            Packet::PingReq => PacketType::PingReq,
            Packet::PingResp => PacketType::PingResp,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The protocol version asked for.
    pub version: Version,
    /// Clean Start (5.0) or Clean Session (3.x).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive: u16,
    /// CONNECT properties; empty before 5.0.
    pub properties: Properties<'a>,
    /// The Client Identifier, possibly empty.
    pub client_id: &'a str,
    /// The Will, if the Will Flag is set.
    pub will: Option<LastWill<'a>>,
    /// The User Name, if present.
    pub username: Option<&'a str>,
    /// The Password, if present: binary data.
    pub password: Option<&'a [u8]>,
}

/// The Will fields of CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWill<'a> {
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will properties; empty before 5.0.
    pub properties: Properties<'a>,
    /// Will Topic: a valid topic name.
    pub topic: &'a str,
    /// Will Payload.
    pub payload: &'a [u8],
}

/// CONNACK. Before 5.0 the reason travels as one of the six return codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Session Present.
    pub session_present: bool,
    /// The outcome.
    pub reason: ReasonCode,
    /// CONNACK properties; empty before 5.0.
    pub properties: Properties<'a>,
}

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// DUP: this may be a re-delivery.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// A valid topic name; empty only in 5.0 beside a Topic Alias.
    pub topic: &'a str,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// PUBLISH properties; empty before 5.0.
    pub properties: Properties<'a>,
    /// The application's bytes.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The packet that is answered.
    pub packet_id: PacketId,
    /// The outcome; always Success before 5.0.
    pub reason: ReasonCode,
    /// Reason String and User Properties; empty before 5.0.
    pub properties: Properties<'a>,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Echoed in SUBACK.
    pub packet_id: PacketId,
    /// Subscription Identifier and User Properties; empty before 5.0.
    pub properties: Properties<'a>,
    /// The validated wire form of (Topic Filter, Subscription Options) pairs, at least one.
    pub filters: SubscribeFilters<'a>,
}

/// The payload of SUBSCRIBE, as it stands on the wire and already validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeFilters<'a>(pub(super) &'a [u8]);

impl<'a> SubscribeFilters<'a> {
    /// Each filter with its options, in the order of the wire.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, SubscribeOptions)> + 'a {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            Some((reader.str().ok()?, SubscribeOptions::from_bits(reader.u8().ok()?)?))
        })
    }
}

/// The Subscription Options of one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscribeOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local: never forward to the connection that published.
    pub no_local: bool,
    /// Retain As Published: keep the publisher's RETAIN flag.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

impl SubscribeOptions {
    /// The options of a 3.x subscription, and of a 5.0 one that says nothing more.
    pub fn at_most(qos: QoS) -> SubscribeOptions {
        SubscribeOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The options of a byte whose upper two bits do not count; `None` for a QoS or Retain Handling of 3.
    pub fn from_bits(bits: u8) -> Option<SubscribeOptions> {
        Some(SubscribeOptions {
            qos: QoS::from_bits(bits & 0x03)?,
            no_local: bits & 0x04 != 0,
            retain_as_published: bits & 0x08 != 0,
            retain_handling: match bits >> 4 & 0x03 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return None,
            },
        })
    }

    /// The byte that says these options.
    pub fn to_bits(self) -> u8 {
        self.qos as u8
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// Retain Handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send retained messages at every SUBSCRIBE.
    Send = 0,
    /// Send them only if the subscription did not exist.
    SendIfNew = 1,
    /// Never send them.
    DoNotSend = 2,
}

/// SUBACK and UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The packet that is answered.
    pub packet_id: PacketId,
    /// Reason String and User Properties; empty before 5.0.
    pub properties: Properties<'a>,
    /// One code per filter, in order, as they stand on the wire and already validated; empty in an
    /// UNSUBACK before 5.0.
    pub reasons: &'a [u8],
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Echoed in UNSUBACK.
    pub packet_id: PacketId,
    /// User Properties; empty before 5.0.
    pub properties: Properties<'a>,
    /// The validated wire form of the Topic Filters, at least one.
    pub filters: UnsubscribeFilters<'a>,
}

/// The payload of UNSUBSCRIBE, as it stands on the wire and already validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubscribeFilters<'a>(pub(super) &'a [u8]);

impl<'a> UnsubscribeFilters<'a> {
    /// Each filter, in the order of the wire.
    pub fn iter(self) -> impl Iterator<Item = &'a str> + 'a {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || reader.str().ok())
    }
}

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why; always normal disconnection before 5.0.
    pub reason: ReasonCode,
    /// DISCONNECT properties; empty before 5.0.
    pub properties: Properties<'a>,
}

/// AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, Continue or Re-authenticate.
    pub reason: ReasonCode,
    /// AUTH properties.
    pub properties: Properties<'a>,
}
