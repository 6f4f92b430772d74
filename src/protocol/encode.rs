//! Packets to bytes. What a version cannot say is left out: properties before 5.0, reasons that have no
//! return code.

use super::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, LastWill, Packet, PacketType, Publish, SubAck, Subscribe,
    SubscribeFilters, SubscribeOptions, Unsubscribe, UnsubscribeFilters, Version,
};
use super::properties::Properties;
use super::publish::PublishHeader;
use super::reason::ReasonCode;
use super::wire::{put_binary, put_str, put_with_len};

/// Appends `packet` in the wire form of `version`; CONNECT goes by its own. AUTH does not exist before 5.0:
/// then nothing is written.
///
/// # Panics
/// If a string or binary field is over 65,535 bytes, or the packet over
/// [`MAX_PACKET_SIZE`](super::codec::MAX_PACKET_SIZE).
pub fn encode(version: Version, packet: &Packet<'_>, out: &mut Vec<u8>) {
    match packet {
        Packet::Connect(connect) => put_packet(PacketType::Connect, out, |out| put_connect(connect, out)),
        Packet::ConnAck(connack) => {
            put_packet(PacketType::ConnAck, out, |out| put_connack(version, connack, out));
        }
        Packet::Publish(publish) => put_publish(version, publish, out),
        Packet::PubAck(ack) => put_ack(version, PacketType::PubAck, ack, out),
        Packet::PubRec(ack) => put_ack(version, PacketType::PubRec, ack, out),
        Packet::PubRel(ack) => put_ack(version, PacketType::PubRel, ack, out),
        Packet::PubComp(ack) => put_ack(version, PacketType::PubComp, ack, out),
        Packet::Subscribe(Subscribe { packet_id, properties, filters }) => {
            put_packet(PacketType::Subscribe, out, |out| {
                out.extend_from_slice(&packet_id.get().to_be_bytes());
                put_properties(version, *properties, out);
                out.extend_from_slice(filters.0);
            });
        }
        Packet::SubAck(suback) => {
            put_packet(PacketType::SubAck, out, |out| put_suback(version, suback, out));
        }
        Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }) => {
            put_packet(PacketType::Unsubscribe, out, |out| {
                out.extend_from_slice(&packet_id.get().to_be_bytes());
                put_properties(version, *properties, out);
                out.extend_from_slice(filters.0);
            });
        }
        Packet::UnsubAck(unsuback) => {
            put_packet(PacketType::UnsubAck, out, |out| put_unsuback(version, unsuback, out));
        }
        Packet::PingReq => put_packet(PacketType::PingReq, out, |_| {}),
        Packet::PingResp => put_packet(PacketType::PingResp, out, |_| {}),
        Packet::Disconnect(Disconnect { reason, properties }) => {
            put_packet(PacketType::Disconnect, out, |out| put_reason(version, *reason, *properties, out));
        }
        Packet::Auth(auth) => put_auth(version, auth, out),
    }
}

fn put_packet(packet_type: PacketType, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
    let flags = match packet_type {
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0,
    };
    out.push((packet_type as u8) << 4 | flags);
    put_with_len(out, body);
}

fn put_properties(version: Version, properties: Properties<'_>, out: &mut Vec<u8>) {
    if version == Version::V5 {
        properties.put(out);
    }
}

fn put_connect(connect: &Connect<'_>, out: &mut Vec<u8>) {
    let (name, level) = match connect.version {
        Version::V3 => ("MQIsdp", 3),
        Version::V4 => ("MQTT", 4),
        Version::V5 => ("MQTT", 5),
    };
    put_str(name, out);
    out.extend_from_slice(&[level, connect_flags(connect)]);
    out.extend_from_slice(&connect.keep_alive.to_be_bytes());
    put_properties(connect.version, connect.properties, out);
    put_str(connect.client_id, out);
    if let Some(LastWill { properties, topic, payload, .. }) = &connect.will {
        put_properties(connect.version, *properties, out);
        put_str(topic, out);
        put_binary(payload, out);
    }
    if let Some(username) = connect.username {
        put_str(username, out);
    }
    if let Some(password) = connect.password {
        put_binary(password, out);
    }
}

fn connect_flags(connect: &Connect<'_>) -> u8 {
    let mut flags = u8::from(connect.clean_start) << 1;
    if let Some(will) = &connect.will {
        flags |= 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    flags | u8::from(connect.password.is_some()) << 6 | u8::from(connect.username.is_some()) << 7
}

fn put_connack(version: Version, connack: &ConnAck<'_>, out: &mut Vec<u8>) {
    // The byte is not used in 3.1.
    out.push(u8::from(connack.session_present && version != Version::V3));
    match version {
        Version::V5 => out.push(connack.reason as u8),
        _ => out.push(connect_return_code(connack.reason)),
    }
    put_properties(version, connack.properties, out);
}

/// The CONNACK return code of 3.1 and 3.1.1 that says most of `reason`.
fn connect_return_code(reason: ReasonCode) -> u8 {
    match reason {
        ReasonCode::UnsupportedProtocolVersion => 1,
        ReasonCode::ClientIdentifierNotValid => 2,
        ReasonCode::BadUserNameOrPassword => 4,
        ReasonCode::NotAuthorized => 5,
        reason if reason.is_failure() => 3,
        _ => 0,
    }
}

fn put_publish(version: Version, publish: &Publish<'_>, out: &mut Vec<u8>) {
    let header = PublishHeader {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic.as_bytes(),
        packet_id: publish.packet_id,
        properties: publish.properties.raw(),
        extra: &[],
        payload_len: publish.payload.len(),
    };
    header.encode(version, out);
    out.extend_from_slice(publish.payload);
}

fn put_ack(version: Version, packet_type: PacketType, ack: &Ack<'_>, out: &mut Vec<u8>) {
    put_packet(packet_type, out, |out| {
        out.extend_from_slice(&ack.packet_id.get().to_be_bytes());
        put_reason(version, ack.reason, ack.properties, out);
    });
}

/// The end of an acknowledgement or DISCONNECT, as short as 5.0 allows it.
fn put_reason(version: Version, reason: ReasonCode, properties: Properties<'_>, out: &mut Vec<u8>) {
    if version != Version::V5 || (reason == ReasonCode::Success && properties.is_empty()) {
        return;
    }
    out.push(reason as u8);
    if !properties.is_empty() {
        properties.put(out);
    }
}

fn put_suback(version: Version, suback: &SubAck<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&suback.packet_id.get().to_be_bytes());
    match version {
        Version::V5 => {
            suback.properties.put(out);
            out.extend_from_slice(suback.reasons);
        }
        // Before 5.0 there is one failure: 0x80 [3.1.1: MQTT-3.9.3-2].
        _ => out.extend(suback.reasons.iter().map(|&code| code.min(0x80))),
    }
}

fn put_unsuback(version: Version, unsuback: &SubAck<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&unsuback.packet_id.get().to_be_bytes());
    if version == Version::V5 {
        unsuback.properties.put(out);
        out.extend_from_slice(unsuback.reasons);
    }
}

fn put_auth(version: Version, auth: &Auth<'_>, out: &mut Vec<u8>) {
    if version != Version::V5 {
        return;
    }
    put_packet(PacketType::Auth, out, |out| {
        if auth.reason != ReasonCode::Success || !auth.properties.is_empty() {
            out.push(auth.reason as u8);
            auth.properties.put(out);
        }
    });
}

impl<'a> SubscribeFilters<'a> {
    /// Writes the wire form of `filters` behind what `out` holds, and returns it. There has to be one at
    /// least, each well formed, with nothing but QoS in the options before 5.0.
    ///
    /// # Panics
    /// If a filter is over 65,535 bytes.
    pub fn encode<'f>(
        filters: impl IntoIterator<Item = (&'f str, SubscribeOptions)>,
        out: &'a mut Vec<u8>,
    ) -> SubscribeFilters<'a> {
        let start = out.len();
        for (filter, options) in filters {
            put_str(filter, out);
            out.push(options.to_bits());
        }
        SubscribeFilters(&out[start..])
    }
}

impl<'a> UnsubscribeFilters<'a> {
    /// Writes the wire form of `filters` behind what `out` holds, and returns it. There has to be one at
    /// least, each well formed.
    ///
    /// # Panics
    /// If a filter is over 65,535 bytes.
    pub fn encode<'f>(
        filters: impl IntoIterator<Item = &'f str>,
        out: &'a mut Vec<u8>,
    ) -> UnsubscribeFilters<'a> {
        let start = out.len();
        for filter in filters {
            put_str(filter, out);
        }
        UnsubscribeFilters(&out[start..])
    }
}
