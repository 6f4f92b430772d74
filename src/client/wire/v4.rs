//! MQTT 3.1.1 through mqttbytes. Its known defects are kept from doing harm here: it writes only into an
//! empty buffer, never sees a field that it would cut short or leave out, and what it reads without checking
//! is checked.

use bytes::BytesMut;
use mqttbytes::v4::{self, ConnectReturnCode, SubscribeReasonCode};
use mqttbytes::{Error, PacketType as Type, check};

use super::{Accepted, Incoming, Received, Refusal, Wire};
use crate::protocol::codec::MAX_PACKET_SIZE;
use crate::protocol::packet::{Connect, Packet, PacketId, PacketType, Publish, QoS, Subscribe};
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::protocol::topic;

/// MQTT 3.1.1.
pub(super) struct V4;

impl Wire for V4 {
    fn encode(&mut self, packet: &Packet<'_>, out: &mut BytesMut) -> Result<(), ProtocolError> {
        // CONNECT patches its flags at an index from the buffer's start: only an empty one will do.
        let mut bytes = BytesMut::new();
        let written = match packet {
            Packet::Connect(connect) => encode_connect(connect)?.write(&mut bytes),
            Packet::Publish(publish) => encode_publish(publish)?.write(&mut bytes),
            Packet::PubAck(ack) => v4::PubAck::new(ack.packet_id.get()).write(&mut bytes),
            Packet::PubRec(ack) => v4::PubRec::new(ack.packet_id.get()).write(&mut bytes),
            Packet::PubRel(ack) => v4::PubRel::new(ack.packet_id.get()).write(&mut bytes),
            Packet::PubComp(ack) => v4::PubComp::new(ack.packet_id.get()).write(&mut bytes),
            Packet::Subscribe(subscribe) => encode_subscribe(subscribe)?.write(&mut bytes),
            Packet::PingReq => v4::PingReq.write(&mut bytes),
            Packet::Disconnect(_) => v4::Disconnect.write(&mut bytes),
            _ => return Err(ProtocolError::protocol("a packet that the client commands do not send")),
        };
        written.map_err(|error| ProtocolError::malformed(error.to_string()))?;
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, ProtocolError> {
        let malformed = |error: Error| ProtocolError::malformed(error.to_string());
        // Whether the packet is whole is asked here alone: the same error from inside a packet means malformed.
        match check(input.iter(), MAX_PACKET_SIZE as usize) {
            Err(Error::InsufficientBytes(_)) => return Ok(None),
            Err(error) => return Err(malformed(error)),
            Ok(header) if !is_from_server(header.packet_type().map_err(malformed)?) => {
                return Err(ProtocolError::protocol("a packet that a server does not send"));
            }
            Ok(_) => {}
        }
        let packet = v4::read(input, MAX_PACKET_SIZE as usize).map_err(malformed)?;
        incoming(packet).map(Some)
    }
}

/// mqttbytes is not even asked to read what only clients send.
fn is_from_server(packet_type: Type) -> bool {
    matches!(
        packet_type,
        Type::ConnAck
            | Type::Publish
            | Type::PubAck
            | Type::PubRec
            | Type::PubRel
            | Type::PubComp
            | Type::SubAck
            | Type::PingResp
    )
}

fn incoming(packet: v4::Packet) -> Result<Incoming, ProtocolError> {
    Ok(match packet {
        v4::Packet::ConnAck(connack) => Incoming::ConnAck(connect_outcome(connack)),
        v4::Packet::Publish(publish) => Incoming::Publish(received(publish)?),
        v4::Packet::PubAck(ack) => Incoming::Ack(PacketType::PubAck, packet_id(ack.pkid)?, Ok(())),
        v4::Packet::PubRec(ack) => Incoming::Ack(PacketType::PubRec, packet_id(ack.pkid)?, Ok(())),
        v4::Packet::PubRel(ack) => Incoming::Ack(PacketType::PubRel, packet_id(ack.pkid)?, Ok(())),
        v4::Packet::PubComp(ack) => Incoming::Ack(PacketType::PubComp, packet_id(ack.pkid)?, Ok(())),
        v4::Packet::SubAck(suback) => {
            Incoming::SubAck(packet_id(suback.pkid)?, suback.return_codes.iter().map(granted).collect())
        }
        v4::Packet::PingResp => Incoming::PingResp,
        _ => return Err(ProtocolError::protocol("a packet that a server does not send")),
    })
}

fn packet_id(id: u16) -> Result<PacketId, ProtocolError> {
    PacketId::new(id).ok_or_else(|| ProtocolError::malformed("packet identifier 0"))
}

fn received(publish: v4::Publish) -> Result<Received, ProtocolError> {
    // mqttbytes lets NUL and wildcards pass [MQTT-3.3.2-2].
    if !topic::is_valid_name(&publish.topic) {
        return Err(ProtocolError::malformed("a PUBLISH without a valid topic name"));
    }
    let packet_id = match publish.qos {
        mqttbytes::QoS::AtMostOnce => None,
        _ => Some(packet_id(publish.pkid)?),
    };
    Ok(Received {
        topic: publish.topic,
        payload: publish.payload,
        qos: match publish.qos {
            mqttbytes::QoS::AtMostOnce => QoS::AtMostOnce,
            mqttbytes::QoS::AtLeastOnce => QoS::AtLeastOnce,
            mqttbytes::QoS::ExactlyOnce => QoS::ExactlyOnce,
        },
        retain: publish.retain,
        dup: publish.dup,
        packet_id,
        properties: Vec::new(),
    })
}

fn connect_outcome(connack: v4::ConnAck) -> Result<Accepted, Refusal> {
    let (reason, text) = match connack.code {
        ConnectReturnCode::Success => {
            return Ok(Accepted { session_present: connack.session_present, ..Accepted::default() });
        }
        ConnectReturnCode::RefusedProtocolVersion => {
            (ReasonCode::UnsupportedProtocolVersion, "unacceptable protocol version")
        }
        ConnectReturnCode::BadClientId => (ReasonCode::ClientIdentifierNotValid, "identifier rejected"),
        ConnectReturnCode::ServiceUnavailable => (ReasonCode::ServerUnavailable, "server unavailable"),
        ConnectReturnCode::BadUserNamePassword => {
            (ReasonCode::BadUserNameOrPassword, "bad user name or password")
        }
        ConnectReturnCode::NotAuthorized => (ReasonCode::NotAuthorized, "not authorized"),
    };
    let code = format!("{text} (return code {})", connack.code as u8);
    Err(Refusal { reason, code, text: None })
}

fn granted(code: &SubscribeReasonCode) -> Result<(), Refusal> {
    match code {
        SubscribeReasonCode::Success(_) => Ok(()),
        SubscribeReasonCode::Failure => Err(Refusal {
            reason: ReasonCode::UnspecifiedError,
            code: "failure (return code 0x80)".to_owned(),
            text: None,
        }),
    }
}

fn encode_connect(connect: &Connect<'_>) -> Result<v4::Connect, ProtocolError> {
    // mqttbytes leaves an empty user name or password out of the packet.
    if connect.username == Some("") || connect.password.is_some_and(<[u8]>::is_empty) {
        return Err(ProtocolError::malformed("an empty user name or password needs --mqtt 5"));
    }
    let mut packet = v4::Connect::new(connect.client_id);
    packet.keep_alive = connect.keep_alive;
    packet.clean_session = connect.clean_start;
    packet.last_will = connect
        .will
        .as_ref()
        .map(|will| v4::LastWill::new(will.topic, will.payload.to_vec(), encode_qos(will.qos), will.retain));
    if let Some(username) = connect.username {
        let password = std::str::from_utf8(connect.password.unwrap_or_default())
            .map_err(|_| ProtocolError::malformed("the password is not UTF-8"))?;
        packet.set_login(username, password);
    }
    Ok(packet)
}

fn encode_publish(publish: &Publish<'_>) -> Result<v4::Publish, ProtocolError> {
    if !topic::is_valid_name(publish.topic) {
        return Err(ProtocolError::malformed("not a topic name"));
    }
    let mut packet = v4::Publish::new(publish.topic, encode_qos(publish.qos), publish.payload);
    packet.dup = publish.dup;
    packet.retain = publish.retain;
    packet.pkid = publish.packet_id.map_or(0, PacketId::get);
    Ok(packet)
}

fn encode_subscribe(subscribe: &Subscribe<'_>) -> Result<v4::Subscribe, ProtocolError> {
    let filters = subscribe.filters.iter();
    let mut packet = v4::Subscribe::new_many(
        filters.map(|(filter, options)| v4::SubscribeFilter::new(filter.to_owned(), encode_qos(options.qos))),
    );
    packet.pkid = subscribe.packet_id.get();
    Ok(packet)
}

fn encode_qos(qos: QoS) -> mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => mqttbytes::QoS::ExactlyOnce,
    }
}
