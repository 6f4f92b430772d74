//! MQTT 5.0 properties: what each is, which packet may carry which, and how often.

use super::packet::PacketType;
use super::reason::{ProtocolError, ReasonCode};
use super::topic;
use super::wire::{self, Reader};

/// One property (MQTT 5.0, 2.2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property<'a> {
    /// 1 says that the payload is UTF-8 text.
    PayloadFormatIndicator(u8),
    /// Seconds until the message is worthless.
    MessageExpiryInterval(u32),
    /// What the payload is, in the application's terms.
    ContentType(&'a str),
    /// Where an answer is to be published: a valid topic name.
    ResponseTopic(&'a str),
    /// What an answer is to repeat.
    CorrelationData(&'a [u8]),
    /// The number that the client gave to a subscription; never 0.
    SubscriptionIdentifier(u32),
    /// Seconds that the session outlives the connection; `u32::MAX` is for ever.
    SessionExpiryInterval(u32),
    /// The Client Identifier that the server chose.
    AssignedClientIdentifier(&'a str),
    /// The Keep Alive in seconds that holds instead of the client's.
    ServerKeepAlive(u16),
    /// The name of the extended authentication method.
    AuthenticationMethod(&'a str),
    /// What that method exchanges.
    AuthenticationData(&'a [u8]),
    /// Whether the server may explain failures.
    RequestProblemInformation(bool),
    /// Seconds between the connection's end and the Will.
    WillDelayInterval(u32),
    /// Whether the client asks for Response Information.
    RequestResponseInformation(bool),
    /// A basis for response topics.
    ResponseInformation(&'a str),
    /// Another server to use.
    ServerReference(&'a str),
    /// A reason in words, for people.
    ReasonString(&'a str),
    /// How many QoS 1 and 2 messages may be under way; never 0.
    ReceiveMaximum(u16),
    /// The highest Topic Alias that is accepted.
    TopicAliasMaximum(u16),
    /// A number that stands for the topic name; never 0.
    TopicAlias(u16),
    /// The highest QoS that the server takes: 0 or 1 (2 is said by leaving it out).
    MaximumQoS(u8),
    /// Whether the server keeps retained messages.
    RetainAvailable(bool),
    /// A name and a value of the application's own; may come any number of times.
    UserProperty(&'a str, &'a str),
    /// The largest packet that is accepted, in bytes; never 0.
    MaximumPacketSize(u32),
    /// Whether the server takes wildcard subscriptions.
    WildcardSubscriptionAvailable(bool),
    /// Whether the server takes subscription identifiers.
    SubscriptionIdentifierAvailable(bool),
    /// Whether the server takes shared subscriptions.
    SharedSubscriptionAvailable(bool),
}

const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;
const TOPIC_ALIAS: u8 = 0x23;
const USER_PROPERTY: u8 = 0x26;

/// Where properties stand: a packet of a type, or the Will inside CONNECT.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// The properties of the packet itself.
    Packet(PacketType),
    /// The Will Properties of a CONNECT.
    Will,
}

impl Place {
    fn bit(self) -> u16 {
        match self {
            Place::Packet(packet_type) => 1 << packet_type as u8,
            Place::Will => WILL,
        }
    }
}

const WILL: u16 = 1;
const CONNECT: u16 = 1 << PacketType::Connect as u8;
const CONNACK: u16 = 1 << PacketType::ConnAck as u8;
const PUBLISH: u16 = 1 << PacketType::Publish as u8;
const SUBSCRIBE: u16 = 1 << PacketType::Subscribe as u8;
const UNSUBSCRIBE: u16 = 1 << PacketType::Unsubscribe as u8;
const DISCONNECT: u16 = 1 << PacketType::Disconnect as u8;
const AUTH: u16 = 1 << PacketType::Auth as u8;
/// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK carry the same two.
const ACKS: u16 = 1 << PacketType::PubAck as u8
    | 1 << PacketType::PubRec as u8
    | 1 << PacketType::PubRel as u8
    | 1 << PacketType::PubComp as u8
    | 1 << PacketType::SubAck as u8
    | 1 << PacketType::UnsubAck as u8;

/// Which packets may carry the property `id`: table 2-4 of the standard. None may carry an unknown one.
const fn places(id: u8) -> u16 {
    match id {
        PAYLOAD_FORMAT_INDICATOR | 0x02 | 0x03 | 0x08 | 0x09 => PUBLISH | WILL,
        SUBSCRIPTION_IDENTIFIER => PUBLISH | SUBSCRIBE,
        0x11 => CONNECT | CONNACK | DISCONNECT,
        0x12 | 0x13 | 0x1A | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => CONNACK,
        AUTHENTICATION_METHOD | AUTHENTICATION_DATA => CONNECT | CONNACK | AUTH,
        0x17 | 0x19 => CONNECT,
        0x18 => WILL,
        0x1C => CONNACK | DISCONNECT,
        0x1F => CONNACK | ACKS | DISCONNECT | AUTH,
        0x21 | 0x22 | 0x27 => CONNECT | CONNACK,
        TOPIC_ALIAS => PUBLISH,
        USER_PROPERTY => {
            CONNECT | CONNACK | PUBLISH | WILL | ACKS | SUBSCRIBE | UNSUBSCRIBE | DISCONNECT | AUTH
        }
        _ => 0,
    }
}

/// Whether the property `id` may come more than once at that place.
fn may_repeat(id: u8, place: Place) -> bool {
    match id {
        USER_PROPERTY => true,
        SUBSCRIPTION_IDENTIFIER => matches!(place, Place::Packet(PacketType::Publish)),
        _ => false,
    }
}

/// Which properties a validated section holds.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// One bit per property identifier; the highest is 0x2A.
    ids: u64,
    /// The Payload Format Indicator is 1.
    pub(super) utf8_payload: bool,
}

impl Seen {
    fn has(self, id: u8) -> bool {
        self.ids >> id & 1 == 1
    }

    /// Whether there is a Topic Alias.
    pub(super) fn topic_alias(self) -> bool {
        self.has(TOPIC_ALIAS)
    }

    /// Whether there is an Authentication Method.
    pub(super) fn authentication_method(self) -> bool {
        self.has(AUTHENTICATION_METHOD)
    }
}

/// The properties of one packet: validated wire bytes, without their length prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Properties<'static> = Properties(&[]);

    /// The properties in bytes that came from [`Properties::raw`] or [`encode_property`]. Nothing is checked
    /// again; of other bytes, what does not read as a property ends the list.
    pub fn from_validated(raw: &'a [u8]) -> Properties<'a> {
        Properties(raw)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Their wire form, without the length prefix.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    /// Each in turn, in the order of the wire.
    pub fn iter(self) -> impl Iterator<Item = Property<'a>> + 'a {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || read(&mut reader).ok())
    }

    /// Reads and validates the Property Length and what follows it.
    pub(super) fn read(
        reader: &mut Reader<'a>,
        place: Place,
    ) -> Result<(Properties<'a>, Seen), ProtocolError> {
        let len = reader.variable()?;
        let raw = reader.take(len as usize)?;
        Ok((Properties(raw), validate(raw, place)?))
    }

    /// Appends the Property Length and the properties.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        wire::put_variable(self.0.len(), out);
        out.extend_from_slice(self.0);
    }
}

fn validate(raw: &[u8], place: Place) -> Result<Seen, ProtocolError> {
    let mut seen = Seen::default();
    let mut reader = Reader::new(raw);
    while let Some(&id) = reader.rest().first() {
        if places(id) & place.bit() == 0 {
            return Err(ProtocolError::malformed("a property that is unknown or not for this packet"));
        }
        let property = read(&mut reader)?;
        if seen.has(id) && !may_repeat(id, place) {
            return Err(ProtocolError::protocol("a property is there twice"));
        }
        seen.ids |= 1 << id;
        seen.utf8_payload |= property == Property::PayloadFormatIndicator(1);
    }
    if seen.has(AUTHENTICATION_DATA) && !seen.has(AUTHENTICATION_METHOD) {
        return Err(ProtocolError::protocol("Authentication Data without Authentication Method"));
    }
    Ok(seen)
}

/// Reads one property and judges its value.
fn read<'a>(reader: &mut Reader<'a>) -> Result<Property<'a>, ProtocolError> {
    // The identifier is a Variable Byte Integer, but none needs a second byte.
    Ok(match reader.u8()? {
        PAYLOAD_FORMAT_INDICATOR => Property::PayloadFormatIndicator(u8::from(read_bool(reader)?)),
        0x02 => Property::MessageExpiryInterval(reader.u32()?),
        0x03 => Property::ContentType(reader.str()?),
        0x08 => Property::ResponseTopic(read_response_topic(reader)?),
        0x09 => Property::CorrelationData(reader.binary()?),
        SUBSCRIPTION_IDENTIFIER => {
            Property::SubscriptionIdentifier(not_zero(reader.variable()?, "Subscription Identifier 0")?)
        }
        0x11 => Property::SessionExpiryInterval(reader.u32()?),
        0x12 => Property::AssignedClientIdentifier(reader.str()?),
        0x13 => Property::ServerKeepAlive(reader.u16()?),
        AUTHENTICATION_METHOD => Property::AuthenticationMethod(reader.str()?),
        AUTHENTICATION_DATA => Property::AuthenticationData(reader.binary()?),
        0x17 => Property::RequestProblemInformation(read_bool(reader)?),
        0x18 => Property::WillDelayInterval(reader.u32()?),
        0x19 => Property::RequestResponseInformation(read_bool(reader)?),
        0x1A => Property::ResponseInformation(reader.str()?),
        0x1C => Property::ServerReference(reader.str()?),
        0x1F => Property::ReasonString(reader.str()?),
        0x21 => Property::ReceiveMaximum(not_zero(reader.u16()?, "Receive Maximum 0")?),
        0x22 => Property::TopicAliasMaximum(reader.u16()?),
        TOPIC_ALIAS => Property::TopicAlias(read_topic_alias(reader)?),
        0x24 => Property::MaximumQoS(u8::from(read_bool(reader)?)),
        0x25 => Property::RetainAvailable(read_bool(reader)?),
        USER_PROPERTY => Property::UserProperty(reader.str()?, reader.str()?),
        0x27 => Property::MaximumPacketSize(not_zero(reader.u32()?, "Maximum Packet Size 0")?),
        0x28 => Property::WildcardSubscriptionAvailable(read_bool(reader)?),
        0x29 => Property::SubscriptionIdentifierAvailable(read_bool(reader)?),
        0x2A => Property::SharedSubscriptionAvailable(read_bool(reader)?),
        _ => return Err(ProtocolError::malformed("an unknown property")),
    })
}

fn read_bool(reader: &mut Reader<'_>) -> Result<bool, ProtocolError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(ProtocolError::protocol("a property that is 0 or 1 has another value")),
    }
}

fn read_response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ProtocolError> {
    let name = reader.str()?;
    if topic::is_valid_name(name) {
        Ok(name)
    } else {
        Err(ProtocolError::protocol("the Response Topic is not a topic name")) // [MQTT-3.3.2-14]
    }
}

fn read_topic_alias(reader: &mut Reader<'_>) -> Result<u16, ProtocolError> {
    match reader.u16()? {
        0 => Err(ProtocolError::new(ReasonCode::TopicAliasInvalid, "Topic Alias 0")), // [MQTT-3.3.2-8]
        alias => Ok(alias),
    }
}

fn not_zero<T: Default + PartialEq>(value: T, detail: &'static str) -> Result<T, ProtocolError> {
    if value == T::default() { Err(ProtocolError::protocol(detail)) } else { Ok(value) }
}

/// Appends one property in its wire form. The value is the caller's to have right.
///
/// # Panics
/// If a string or binary value is over 65,535 bytes, or a Subscription Identifier over 268,435,455.
pub fn encode_property(property: Property<'_>, out: &mut Vec<u8>) {
    let mut byte = |id, value| out.extend_from_slice(&[id, value]);
    match property {
        Property::PayloadFormatIndicator(value) => byte(PAYLOAD_FORMAT_INDICATOR, value),
        Property::RequestProblemInformation(value) => byte(0x17, value.into()),
        Property::RequestResponseInformation(value) => byte(0x19, value.into()),
        Property::MaximumQoS(value) => byte(0x24, value),
        Property::RetainAvailable(value) => byte(0x25, value.into()),
        Property::WildcardSubscriptionAvailable(value) => byte(0x28, value.into()),
        Property::SubscriptionIdentifierAvailable(value) => byte(0x29, value.into()),
        Property::SharedSubscriptionAvailable(value) => byte(0x2A, value.into()),
        Property::ServerKeepAlive(value) => put_u16(0x13, value, out),
        Property::ReceiveMaximum(value) => put_u16(0x21, value, out),
        Property::TopicAliasMaximum(value) => put_u16(0x22, value, out),
        Property::TopicAlias(value) => put_u16(TOPIC_ALIAS, value, out),
        Property::MessageExpiryInterval(value) => put_u32(0x02, value, out),
        Property::SessionExpiryInterval(value) => put_u32(0x11, value, out),
        Property::WillDelayInterval(value) => put_u32(0x18, value, out),
        Property::MaximumPacketSize(value) => put_u32(0x27, value, out),
        Property::SubscriptionIdentifier(value) => {
            out.push(SUBSCRIPTION_IDENTIFIER);
            wire::put_variable(value as usize, out);
        }
        Property::ContentType(value) => put_binary(0x03, value.as_bytes(), out),
        Property::ResponseTopic(value) => put_binary(0x08, value.as_bytes(), out),
        Property::CorrelationData(value) => put_binary(0x09, value, out),
        Property::AssignedClientIdentifier(value) => put_binary(0x12, value.as_bytes(), out),
        Property::AuthenticationMethod(value) => put_binary(AUTHENTICATION_METHOD, value.as_bytes(), out),
        Property::AuthenticationData(value) => put_binary(AUTHENTICATION_DATA, value, out),
        Property::ResponseInformation(value) => put_binary(0x1A, value.as_bytes(), out),
        Property::ServerReference(value) => put_binary(0x1C, value.as_bytes(), out),
        Property::ReasonString(value) => put_binary(0x1F, value.as_bytes(), out),
        Property::UserProperty(name, value) => {
            put_binary(USER_PROPERTY, name.as_bytes(), out);
            wire::put_str(value, out);
        }
    }
}

fn put_u16(id: u8, value: u16, out: &mut Vec<u8>) {
    out.push(id);
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_u32(id: u8, value: u32, out: &mut Vec<u8>) {
    out.push(id);
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_binary(id: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(id);
    wire::put_binary(value, out);
}

/// Properties under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertiesBuf(Vec<u8>);

impl PropertiesBuf {
    /// None yet; allocates nothing.
    pub fn new() -> PropertiesBuf {
        PropertiesBuf::default()
    }

    /// Adds one behind the others.
    ///
    /// # Panics
    /// As [`encode_property`].
    pub fn push(&mut self, property: Property<'_>) {
        encode_property(property, &mut self.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The properties so far.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties(&self.0)
    }
}
