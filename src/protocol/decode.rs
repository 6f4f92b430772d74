//! Bytes to packets: every rule that one packet alone can break is judged here. A complete frame is
//! decoded or is malformed, and nothing is copied.

use super::codec::{Frame, MAX_PACKET_SIZE};
use super::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, LastWill, Packet, PacketId, PacketType, Publish, QoS, SubAck,
    Subscribe, SubscribeFilters, SubscribeOptions, Unsubscribe, UnsubscribeFilters, Version,
};
use super::properties::{Place, Properties};
use super::reason::{ProtocolError, ReasonCode};
use super::topic;
use super::wire::Reader;

/// Decodes exactly one packet, as [`frame`](super::codec::frame) found its end. `version` is
/// the connection's; CONNECT brings its own.
///
/// # Errors
/// The reason code that the standard gives to what is wrong; 0x81 where it names none.
pub fn decode(version: Version, packet: &[u8]) -> Result<Packet<'_>, ProtocolError> {
    match Frame::first(version, packet, MAX_PACKET_SIZE)? {
        Some(frame) if frame.bytes().len() == packet.len() => frame.decode(),
        _ => Err(ProtocolError::malformed("the frame is not exactly one packet")),
    }
}

/// Decodes what follows the fixed header, which was judged and begins with `first`.
pub(super) fn decode_body(
    version: Version,
    packet_type: PacketType,
    first: u8,
    body: &[u8],
) -> Result<Packet<'_>, ProtocolError> {
    let reader = Reader::new(body);
    match packet_type {
        PacketType::Connect => connect(reader).map(Packet::Connect),
        PacketType::ConnAck => connack(version, reader).map(Packet::ConnAck),
        PacketType::Publish => publish(version, first, reader).map(Packet::Publish),
        PacketType::PubAck => ack(version, packet_type, reader).map(Packet::PubAck),
        PacketType::PubRec => ack(version, packet_type, reader).map(Packet::PubRec),
        PacketType::PubRel => ack(version, packet_type, reader).map(Packet::PubRel),
        PacketType::PubComp => ack(version, packet_type, reader).map(Packet::PubComp),
        PacketType::Subscribe => subscribe(version, reader).map(Packet::Subscribe),
        PacketType::SubAck => suback(version, reader).map(Packet::SubAck),
        PacketType::Unsubscribe => unsubscribe(version, reader).map(Packet::Unsubscribe),
        PacketType::UnsubAck => unsuback(version, reader).map(Packet::UnsubAck),
        PacketType::PingReq => reader.finish().map(|()| Packet::PingReq),
        PacketType::PingResp => reader.finish().map(|()| Packet::PingResp),
        PacketType::Disconnect => disconnect(version, reader).map(Packet::Disconnect),
        PacketType::Auth => auth(reader).map(Packet::Auth),
    }
}

/// The version that a whole CONNECT packet asks for, whatever else is wrong with it: a refusal is written in
/// that version.
///
/// # Errors
/// 0x84 for a protocol name or level that does not exist, 0x81 if the packet ends before them.
pub fn connect_version(packet: &[u8]) -> Result<Version, ProtocolError> {
    let mut reader = Reader::new(packet);
    reader.u8()?;
    reader.variable()?;
    protocol_version(&mut reader)
}

fn protocol_version(reader: &mut Reader<'_>) -> Result<Version, ProtocolError> {
    match (reader.binary()?, reader.u8()?) {
        (b"MQIsdp", 3) => Ok(Version::V3),
        (b"MQTT", 4) => Ok(Version::V4),
        (b"MQTT", 5) => Ok(Version::V5),
        // [MQTT-3.1.2-1] [MQTT-3.1.2-2]
        _ => {
            Err(ProtocolError::new(ReasonCode::UnsupportedProtocolVersion, "unknown protocol name or level"))
        }
    }
}

/// The Connect Flags.
#[derive(Clone, Copy)]
struct ConnectFlags(u8);

impl ConnectFlags {
    fn clean_start(self) -> bool {
        self.0 & 0x02 != 0
    }

    fn will(self) -> bool {
        self.0 & 0x04 != 0
    }

    fn will_qos(self) -> Result<QoS, ProtocolError> {
        let qos = QoS::from_bits(self.0 >> 3 & 0x03);
        qos.ok_or_else(|| ProtocolError::malformed("Will QoS 3")) // [MQTT-3.1.2-12]
    }

    fn will_retain(self) -> bool {
        self.0 & 0x20 != 0
    }

    fn password(self) -> bool {
        self.0 & 0x40 != 0
    }

    fn username(self) -> bool {
        self.0 & 0x80 != 0
    }

    fn read(version: Version, reader: &mut Reader<'_>) -> Result<ConnectFlags, ProtocolError> {
        let flags = ConnectFlags(reader.u8()?);
        // [MQTT-3.1.2-3]; in 3.1 the bit is merely not used.
        if flags.0 & 0x01 != 0 && version != Version::V3 {
            return Err(ProtocolError::malformed("the reserved connect flag is set"));
        }
        // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
        if !flags.will() && (flags.will_qos()? != QoS::AtMostOnce || flags.will_retain()) {
            return Err(ProtocolError::malformed("Will QoS or Will Retain without a Will"));
        }
        // [3.1.1: MQTT-3.1.2-22]; 5.0 allows a password alone.
        if flags.password() && !flags.username() && version != Version::V5 {
            return Err(ProtocolError::malformed("a password without a user name"));
        }
        Ok(flags)
    }
}

fn connect(mut reader: Reader<'_>) -> Result<Connect<'_>, ProtocolError> {
    let version = protocol_version(&mut reader)?;
    let flags = ConnectFlags::read(version, &mut reader)?;
    let keep_alive = reader.u16()?;
    let properties = properties(version, Place::Packet(PacketType::Connect), &mut reader)?;
    let client_id = reader.str()?;
    let will = if flags.will() { Some(last_will(version, flags, &mut reader)?) } else { None };
    // In 3.1 the Remaining Length overrules the two flags: the strings may be missing.
    let missing = |reader: &Reader<'_>| version == Version::V3 && reader.is_empty();
    let username = if flags.username() && !missing(&reader) { Some(reader.str()?) } else { None };
    let password = if flags.password() && !missing(&reader) { Some(reader.binary()?) } else { None };
    reader.finish()?;
    let may_be_empty = match version {
        Version::V3 => false,
        Version::V4 => flags.clean_start(), // [3.1.1: MQTT-3.1.3-7] [3.1.1: MQTT-3.1.3-8]
        Version::V5 => true,
    };
    if client_id.is_empty() && !may_be_empty {
        return Err(ProtocolError::new(ReasonCode::ClientIdentifierNotValid, "no Client Identifier"));
    }
    let clean_start = flags.clean_start();
    Ok(Connect { version, clean_start, keep_alive, properties, client_id, will, username, password })
}

fn last_will<'a>(
    version: Version,
    flags: ConnectFlags,
    reader: &mut Reader<'a>,
) -> Result<LastWill<'a>, ProtocolError> {
    let (properties, seen) = match version {
        Version::V5 => Properties::read(reader, Place::Will)?,
        _ => Default::default(),
    };
    let topic = reader.str()?;
    check_name(version, topic)?;
    let payload = reader.binary()?;
    check_payload(seen.utf8_payload, payload)?;
    Ok(LastWill { qos: flags.will_qos()?, retain: flags.will_retain(), properties, topic, payload })
}

fn connack(version: Version, mut reader: Reader<'_>) -> Result<ConnAck<'_>, ProtocolError> {
    let flags = reader.u8()?;
    // [MQTT-3.2.2-1]; 3.1 does not use the byte.
    if flags > 1 && version != Version::V3 {
        return Err(ProtocolError::malformed("reserved CONNACK flags"));
    }
    let session_present = flags == 1 && version != Version::V3;
    let reason = match version {
        Version::V5 => reason(PacketType::ConnAck, reader.u8()?)?,
        _ => connect_return_code(reader.u8()?)?,
    };
    let properties = properties(version, Place::Packet(PacketType::ConnAck), &mut reader)?;
    reader.finish()?;
    if session_present && reason.is_failure() {
        return Err(ProtocolError::protocol("Session Present in a refusal")); // [MQTT-3.2.2-6]
    }
    Ok(ConnAck { session_present, reason, properties })
}

/// The outcome that a CONNACK return code of 3.1 and 3.1.1 stands for.
fn connect_return_code(code: u8) -> Result<ReasonCode, ProtocolError> {
    Ok(match code {
        0 => ReasonCode::Success,
        1 => ReasonCode::UnsupportedProtocolVersion,
        2 => ReasonCode::ClientIdentifierNotValid,
        3 => ReasonCode::ServerUnavailable,
        4 => ReasonCode::BadUserNameOrPassword,
        5 => ReasonCode::NotAuthorized,
        _ => return Err(ProtocolError::malformed("a reserved CONNACK return code")),
    })
}

fn publish(version: Version, first: u8, mut reader: Reader<'_>) -> Result<Publish<'_>, ProtocolError> {
    let qos = QoS::from_bits(first >> 1 & 0x03).ok_or_else(|| ProtocolError::malformed("QoS 3"))?;
    let topic = reader.topic()?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(packet_id(&mut reader)?) };
    let (properties, seen) = match version {
        Version::V5 => Properties::read(&mut reader, Place::Packet(PacketType::Publish))?,
        _ => Default::default(),
    };
    if !topic.text.is_empty() || version != Version::V5 {
        judge_name(version, !topic.text.is_empty() && !topic.has_wildcard)?;
    } else if !seen.topic_alias() {
        return Err(ProtocolError::protocol("neither a topic name nor a Topic Alias"));
    }
    let payload = reader.rest();
    check_payload(seen.utf8_payload, payload)?;
    let (dup, retain) = (first & 0x08 != 0, first & 0x01 != 0);
    Ok(Publish { dup, qos, retain, topic: topic.text, packet_id, properties, payload })
}

fn ack(version: Version, packet_type: PacketType, mut reader: Reader<'_>) -> Result<Ack<'_>, ProtocolError> {
    let packet_id = packet_id(&mut reader)?;
    let (reason, properties) = reason_and_properties(version, packet_type, reader)?;
    Ok(Ack { packet_id, reason, properties })
}

fn disconnect(version: Version, reader: Reader<'_>) -> Result<Disconnect<'_>, ProtocolError> {
    let (reason, properties) = reason_and_properties(version, PacketType::Disconnect, reader)?;
    Ok(Disconnect { reason, properties })
}

/// The end of an acknowledgement or DISCONNECT: in 5.0 the properties may be left out, and the reason with
/// them if it is Success; before 5.0 there is neither.
fn reason_and_properties(
    version: Version,
    packet_type: PacketType,
    mut reader: Reader<'_>,
) -> Result<(ReasonCode, Properties<'_>), ProtocolError> {
    let mut code = ReasonCode::Success;
    let mut list = Properties::EMPTY;
    if version == Version::V5 && !reader.is_empty() {
        code = reason(packet_type, reader.u8()?)?;
        if !reader.is_empty() {
            list = properties(version, Place::Packet(packet_type), &mut reader)?;
        }
    }
    reader.finish()?;
    Ok((code, list))
}

fn auth(mut reader: Reader<'_>) -> Result<Auth<'_>, ProtocolError> {
    if reader.is_empty() {
        return Ok(Auth { reason: ReasonCode::Success, properties: Properties::EMPTY });
    }
    let reason = reason(PacketType::Auth, reader.u8()?)?;
    let (properties, seen) = Properties::read(&mut reader, Place::Packet(PacketType::Auth))?;
    reader.finish()?;
    if !seen.authentication_method() {
        return Err(ProtocolError::protocol("AUTH without an Authentication Method"));
    }
    Ok(Auth { reason, properties })
}

fn subscribe(version: Version, mut reader: Reader<'_>) -> Result<Subscribe<'_>, ProtocolError> {
    let packet_id = packet_id(&mut reader)?;
    let properties = properties(version, Place::Packet(PacketType::Subscribe), &mut reader)?;
    let filters = reader.rest();
    if filters.is_empty() {
        return Err(ProtocolError::protocol("SUBSCRIBE without a topic filter")); // [MQTT-3.8.3-2]
    }
    while !reader.is_empty() {
        let filter = topic::parse_filter(reader.str()?)?;
        let options = subscribe_options(version, reader.u8()?)?;
        if filter.share.is_some() && options.no_local {
            return Err(ProtocolError::protocol("No Local on a shared subscription")); // [MQTT-3.8.3-4]
        }
    }
    Ok(Subscribe { packet_id, properties, filters: SubscribeFilters(filters) })
}

fn subscribe_options(version: Version, bits: u8) -> Result<SubscribeOptions, ProtocolError> {
    // [MQTT-3.8.3-5], [3.1.1: MQTT-3.8.3-4]
    let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
    if bits & reserved != 0 {
        return Err(ProtocolError::malformed("reserved subscription options"));
    }
    SubscribeOptions::from_bits(bits).ok_or_else(|| match version {
        Version::V5 => ProtocolError::protocol("Maximum QoS or Retain Handling of 3"),
        _ => ProtocolError::malformed("QoS 3 in SUBSCRIBE"),
    })
}

fn suback(version: Version, mut reader: Reader<'_>) -> Result<SubAck<'_>, ProtocolError> {
    let packet_id = packet_id(&mut reader)?;
    let properties = properties(version, Place::Packet(PacketType::SubAck), &mut reader)?;
    let reasons = reader.rest();
    for &code in reasons {
        match version {
            Version::V5 => {
                reason(PacketType::SubAck, code)?;
            }
            // [3.1.1: MQTT-3.9.3-2]
            _ if matches!(code, 0..=2 | 0x80) => {}
            _ => return Err(ProtocolError::malformed("a reserved SUBACK return code")),
        }
    }
    check_not_empty(reasons)?;
    Ok(SubAck { packet_id, properties, reasons })
}

fn unsubscribe(version: Version, mut reader: Reader<'_>) -> Result<Unsubscribe<'_>, ProtocolError> {
    let packet_id = packet_id(&mut reader)?;
    let properties = properties(version, Place::Packet(PacketType::Unsubscribe), &mut reader)?;
    let filters = reader.rest();
    if filters.is_empty() {
        return Err(ProtocolError::protocol("UNSUBSCRIBE without a topic filter")); // [MQTT-3.10.3-2]
    }
    while !reader.is_empty() {
        topic::parse_filter(reader.str()?)?;
    }
    Ok(Unsubscribe { packet_id, properties, filters: UnsubscribeFilters(filters) })
}

fn unsuback(version: Version, mut reader: Reader<'_>) -> Result<SubAck<'_>, ProtocolError> {
    let packet_id = packet_id(&mut reader)?;
    let properties = properties(version, Place::Packet(PacketType::UnsubAck), &mut reader)?;
    let reasons = reader.rest();
    if version == Version::V5 {
        for &code in reasons {
            reason(PacketType::UnsubAck, code)?;
        }
        check_not_empty(reasons)?;
    } else {
        reader.finish()?;
    }
    Ok(SubAck { packet_id, properties, reasons })
}

fn check_not_empty(reasons: &[u8]) -> Result<(), ProtocolError> {
    if reasons.is_empty() { Err(ProtocolError::malformed("an answer to no topic filter")) } else { Ok(()) }
}

fn properties<'a>(
    version: Version,
    place: Place,
    reader: &mut Reader<'a>,
) -> Result<Properties<'a>, ProtocolError> {
    match version {
        Version::V5 => Properties::read(reader, place).map(|(properties, _)| properties),
        _ => Ok(Properties::EMPTY),
    }
}

fn packet_id(reader: &mut Reader<'_>) -> Result<PacketId, ProtocolError> {
    // [MQTT-2.2.1-3] [MQTT-2.2.1-4]
    PacketId::new(reader.u16()?).ok_or_else(|| ProtocolError::malformed("Packet Identifier 0"))
}

fn check_name(version: Version, name: &str) -> Result<(), ProtocolError> {
    judge_name(version, topic::is_valid_name(name))
}

fn judge_name(version: Version, is_valid: bool) -> Result<(), ProtocolError> {
    if is_valid {
        return Ok(());
    }
    let reason = match version {
        Version::V5 => ReasonCode::TopicNameInvalid,
        _ => ReasonCode::MalformedPacket,
    };
    Err(ProtocolError::new(reason, "a topic name is empty or holds a wildcard"))
}

fn check_payload(must_be_utf8: bool, payload: &[u8]) -> Result<(), ProtocolError> {
    if must_be_utf8 && std::str::from_utf8(payload).is_err() {
        let reason = ReasonCode::PayloadFormatInvalid;
        return Err(ProtocolError::new(reason, "the payload is not the UTF-8 that it claims to be"));
    }
    Ok(())
}

/// The reason code `code`, if a packet of that type may carry it: table 2-6 of the standard.
fn reason(packet_type: PacketType, code: u8) -> Result<ReasonCode, ProtocolError> {
    let allowed = match packet_type {
        PacketType::ConnAck => matches!(
            code,
            0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
        ),
        PacketType::PubAck | PacketType::PubRec => {
            matches!(code, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        PacketType::PubRel | PacketType::PubComp => matches!(code, 0x00 | 0x92),
        PacketType::SubAck => {
            matches!(code, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
        }
        PacketType::UnsubAck => matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
        PacketType::Disconnect => matches!(
            code,
            0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
        ),
        PacketType::Auth => matches!(code, 0x00 | 0x18 | 0x19),
        _ => false,
    };
    match ReasonCode::try_from(code) {
        Ok(reason) if allowed => Ok(reason),
        _ => Err(ProtocolError::protocol("a reason code that is not for this packet")),
    }
}
