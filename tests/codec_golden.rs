//! The codec against packets written by hand from the standard: each type in each version that has it,
//! bytes to packet and packet to bytes.

use weirmq::protocol::codec::{MAX_PACKET_SIZE, connect_version, decode, encode, frame};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

#[path = "common/wire.rs"]
mod wire;
use wire::wire;

use Version::{V3, V4, V5};

/// The packet and the bytes are each other's encoding, and no part of the bytes is taken for a packet.
#[track_caller]
fn golden(version: Version, notation: &str, packet: Packet<'_>) {
    reads(version, notation, &packet);
    let mut out = b"before".to_vec();
    encode(version, &packet, &mut out);
    assert_eq!(out.strip_prefix(b"before").expect("appended"), wire(notation), "encoding {packet:?}");
}

/// The bytes are read as the packet, but are not how it is written.
#[track_caller]
fn reads(version: Version, notation: &str, packet: &Packet<'_>) {
    let bytes = wire(notation);
    assert_eq!(decode(version, &bytes).as_ref(), Ok(packet));
    for end in 0..bytes.len() {
        let framed = frame(Some(version), &bytes[..end], MAX_PACKET_SIZE);
        assert!(
            matches!(framed, Ok(None)) || framed == Ok(Some(bytes.len())),
            "{framed:?} after {end} bytes"
        );
        assert!(decode(version, &bytes[..end]).is_err(), "decoded {end} bytes of {}", bytes.len());
    }
    assert_eq!(frame(Some(version), &bytes, MAX_PACKET_SIZE), Ok(Some(bytes.len())));
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(decode(version, &longer).is_err(), "a byte too many was taken");
    assert_eq!(packet.packet_type() as u8, bytes[0] >> 4);
}

fn list(properties: &[Property<'_>]) -> PropertiesBuf {
    let mut list = PropertiesBuf::new();
    for &property in properties {
        list.push(property);
    }
    assert_eq!(list.as_properties().iter().collect::<Vec<_>>(), properties);
    list
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not 0")
}

fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        properties: Properties::EMPTY,
        client_id: "id",
        will: None,
        username: None,
        password: None,
    }
}

#[test]
fn connect_of_each_version() {
    golden(V3, "10 10 0006'MQIsdp'03 02 003C 0002'id'", Packet::Connect(connect(V3)));
    golden(V4, "10 0E 0004'MQTT'04 02 003C 0002'id'", Packet::Connect(connect(V4)));
    golden(V5, "10 0F 0004'MQTT'05 02 003C 00 0002'id'", Packet::Connect(connect(V5)));
    // The packet's own version counts, whatever the caller believes.
    reads(V3, "10 0F 0004'MQTT'05 02 003C 00 0002'id'", &Packet::Connect(connect(V5)));
}

#[test]
fn connect_with_everything() {
    let will = LastWill {
        qos: QoS::ExactlyOnce,
        retain: true,
        properties: Properties::EMPTY,
        topic: "w/t",
        payload: &[0xFF, 0x00],
    };
    let full = |version| Connect {
        clean_start: false,
        keep_alive: 0xFFFF,
        will: Some(will.clone()),
        username: Some("u"),
        password: Some(&[0x00, 0xFE]),
        ..connect(version)
    };
    golden(
        V3,
        "10 20 0006'MQIsdp'03 F4 FFFF 0002'id' 0003'w/t' 0002 FF00 0001'u' 0002 00FE",
        Packet::Connect(full(V3)),
    );
    golden(
        V4,
        "10 1E 0004'MQTT'04 F4 FFFF 0002'id' 0003'w/t' 0002 FF00 0001'u' 0002 00FE",
        Packet::Connect(full(V4)),
    );
    let properties = list(&[Property::SessionExpiryInterval(10), Property::ReceiveMaximum(20)]);
    let will_properties = list(&[Property::WillDelayInterval(30), Property::UserProperty("k", "v")]);
    let mut connect = full(V5);
    connect.properties = properties.as_properties();
    connect.will.as_mut().expect("a will").properties = will_properties.as_properties();
    golden(
        V5,
        "10 34 0004'MQTT'05 F4 FFFF 08 11 0000000A 21 0014 0002'id' \
         0C 18 0000001E 26 0001'k' 0001'v' 0003'w/t' 0002 FF00 0001'u' 0002 00FE",
        Packet::Connect(connect),
    );
}

#[test]
fn connect_quirks() {
    // 5.0 and 3.1.1 allow an empty Client Identifier (with Clean Session in 3.1.1) [MQTT-3.1.3-6].
    golden(V5, "10 0D 0004'MQTT'05 00 0000 00 0000", {
        Packet::Connect(Connect { clean_start: false, keep_alive: 0, client_id: "", ..connect(V5) })
    });
    golden(V4, "10 0C 0004'MQTT'04 02 003C 0000", Packet::Connect(Connect { client_id: "", ..connect(V4) }));
    // 5.0 allows a password alone.
    let password = Connect { password: Some(b"p"), ..connect(V5) };
    golden(V5, "10 12 0004'MQTT'05 42 003C 00 0002'id' 0001'p'", Packet::Connect(password));
    // 3.1: flags without their strings, and a bit that is not used.
    let user = Connect { username: Some("u"), ..connect(V3) };
    reads(V3, "10 10 0006'MQIsdp'03 C2 003C 0002'id'", &Packet::Connect(connect(V3)));
    reads(V3, "10 13 0006'MQIsdp'03 C2 003C 0002'id' 0001'u'", &Packet::Connect(user));
    reads(V3, "10 10 0006'MQIsdp'03 03 003C 0002'id'", &Packet::Connect(connect(V3)));
}

#[test]
fn connect_version_reads_no_further_than_it_must() {
    assert_eq!(connect_version(&wire("10 10 0006'MQIsdp'03")), Ok(V3));
    assert_eq!(connect_version(&wire("10 0E 0004'MQTT'04")), Ok(V4));
    assert_eq!(connect_version(&wire("10 0F 0004'MQTT'05 FF")), Ok(V5));
    let error = connect_version(&wire("10 0F 0004'MQTT'06")).expect_err("no such level");
    assert_eq!(error.reason, ReasonCode::UnsupportedProtocolVersion);
    let error = connect_version(&wire("10 0F 0004'MQ'")).expect_err("too short");
    assert_eq!(error.reason, ReasonCode::MalformedPacket);
}

#[test]
fn connack() {
    let connack = |session_present, reason| {
        Packet::ConnAck(ConnAck { session_present, reason, properties: Properties::EMPTY })
    };
    golden(V3, "20 02 00 00", connack(false, ReasonCode::Success));
    golden(V4, "20 02 01 00", connack(true, ReasonCode::Success));
    golden(V5, "20 03 01 00 00", connack(true, ReasonCode::Success));
    golden(V5, "20 03 00 9F 00", connack(false, ReasonCode::ConnectionRateExceeded));
    for version in [V3, V4] {
        golden(version, "20 02 00 01", connack(false, ReasonCode::UnsupportedProtocolVersion));
        golden(version, "20 02 00 02", connack(false, ReasonCode::ClientIdentifierNotValid));
        golden(version, "20 02 00 03", connack(false, ReasonCode::ServerUnavailable));
        golden(version, "20 02 00 04", connack(false, ReasonCode::BadUserNameOrPassword));
        golden(version, "20 02 00 05", connack(false, ReasonCode::NotAuthorized));
    }
    // What 3.1.1 cannot say is Server unavailable; 3.1 has no Session Present.
    let mut out = Vec::new();
    encode(V4, &connack(false, ReasonCode::Banned), &mut out);
    encode(V3, &connack(true, ReasonCode::Success), &mut out);
    assert_eq!(out, wire("20 02 00 03 20 02 00 00"));
    reads(V3, "20 02 FF 00", &connack(false, ReasonCode::Success));
}

#[test]
fn connack_with_every_property() {
    let properties = list(&[
        Property::SessionExpiryInterval(u32::MAX),
        Property::AssignedClientIdentifier("a"),
        Property::ServerKeepAlive(5),
        Property::AuthenticationMethod("m"),
        Property::AuthenticationData(&[0, 1]),
        Property::ResponseInformation("r"),
        Property::ServerReference("s"),
        Property::ReasonString("t"),
        Property::ReceiveMaximum(u16::MAX),
        Property::TopicAliasMaximum(0),
        Property::MaximumQoS(1),
        Property::RetainAvailable(true),
        Property::UserProperty("", ""),
        Property::MaximumPacketSize(1),
        Property::WildcardSubscriptionAvailable(false),
        Property::SubscriptionIdentifierAvailable(true),
        Property::SharedSubscriptionAvailable(false),
    ]);
    let properties = properties.as_properties();
    let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
    golden(
        V5,
        "20 3E 00 00 3B 11 FFFFFFFF 12 0001'a' 13 0005 15 0001'm' 16 0002 0001 1A 0001'r' 1C 0001's' 1F 0001't' \
         21 FFFF 22 0000 24 01 25 01 26 0000 0000 27 00000001 28 00 29 01 2A 00",
        Packet::ConnAck(connack),
    );
}

#[test]
fn publish_of_each_qos() {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "a/b",
        packet_id: None,
        properties: Properties::EMPTY,
        payload: b"hi",
    };
    let once = Publish { qos: QoS::AtLeastOnce, packet_id: Some(id(10)), dup: true, ..publish.clone() };
    let exactly =
        Publish { qos: QoS::ExactlyOnce, retain: true, packet_id: Some(id(0xFFFF)), ..publish.clone() };
    for version in [V3, V4] {
        golden(version, "30 07 0003'a/b' 'hi'", Packet::Publish(publish.clone()));
        golden(version, "3A 09 0003'a/b' 000A 'hi'", Packet::Publish(once.clone()));
        golden(version, "35 09 0003'a/b' FFFF 'hi'", Packet::Publish(exactly.clone()));
    }
    golden(V5, "30 08 0003'a/b' 00 'hi'", Packet::Publish(publish.clone()));
    golden(V5, "3A 0A 0003'a/b' 000A 00 'hi'", Packet::Publish(once));
    golden(V5, "35 0A 0003'a/b' FFFF 00 'hi'", Packet::Publish(exactly));
    golden(V5, "31 06 0003'a/b' 00", Packet::Publish(Publish { retain: true, payload: b"", ..publish }));
}

#[test]
fn publish_with_every_property() {
    let properties = list(&[
        Property::PayloadFormatIndicator(1),
        Property::MessageExpiryInterval(7),
        Property::ContentType("c"),
        Property::ResponseTopic("r/t"),
        Property::CorrelationData(&[9]),
        Property::SubscriptionIdentifier(127),
        Property::SubscriptionIdentifier(128),
        Property::SubscriptionIdentifier(268_435_455),
        Property::TopicAlias(1),
        Property::UserProperty("k", "1"),
        Property::UserProperty("k", "2"),
    ]);
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "",
        packet_id: None,
        properties: properties.as_properties(),
        payload: "\u{FEFF}\u{0}é".as_bytes(),
    };
    golden(
        V5,
        "30 39 0000 30 01 01 02 00000007 03 0001'c' 08 0003'r/t' 09 0001 09 0B 7F 0B 8001 0B FFFFFF7F 23 0001 \
         26 0001'k' 0001'1' 26 0001'k' 0001'2' EFBBBF 00 C3A9",
        Packet::Publish(publish),
    );
}

#[test]
fn acknowledgements() {
    type Build<'a> = fn(Ack<'a>) -> Packet<'a>;
    let properties = list(&[Property::ReasonString("no"), Property::UserProperty("k", "v")]);
    let kinds: [(u8, Build<'_>); 4] =
        [(0x40, Packet::PubAck), (0x50, Packet::PubRec), (0x62, Packet::PubRel), (0x70, Packet::PubComp)];
    for (first, build) in kinds {
        let reason =
            if first < 0x60 { ReasonCode::QuotaExceeded } else { ReasonCode::PacketIdentifierNotFound };
        let code = reason as u8;
        let plain = Ack { packet_id: id(0x0102), reason: ReasonCode::Success, properties: Properties::EMPTY };
        for version in [V3, V4, V5] {
            golden(version, &format!("{first:02X} 02 0102"), build(plain.clone()));
        }
        golden(V5, &format!("{first:02X} 03 0102 {code:02X}"), build(Ack { reason, ..plain.clone() }));
        // Longer than it has to be.
        reads(V5, &format!("{first:02X} 03 0102 00"), &build(plain.clone()));
        reads(V5, &format!("{first:02X} 04 0102 00 00"), &build(plain.clone()));
        reads(V5, &format!("{first:02X} 04 0102 {code:02X} 00"), &build(Ack { reason, ..plain.clone() }));
        let full = Ack { reason, properties: properties.as_properties(), ..plain.clone() };
        let body = "0C 1F 0002'no' 26 0001'k' 0001'v'";
        golden(V5, &format!("{first:02X} 10 0102 {code:02X} {body}"), build(full.clone()));
        let success = Ack { reason: ReasonCode::Success, ..full };
        golden(V5, &format!("{first:02X} 10 0102 00 {body}"), build(success));
    }
    let none =
        Ack { packet_id: id(1), reason: ReasonCode::NoMatchingSubscribers, properties: Properties::EMPTY };
    golden(V5, "40 03 0001 10", Packet::PubAck(none));
}

#[test]
fn what_3_1_sends_again_is_marked() {
    let ack = Ack { packet_id: id(7), reason: ReasonCode::Success, properties: Properties::EMPTY };
    reads(V3, "6A 02 0007", &Packet::PubRel(ack));
    let mut filters = Vec::new();
    let filters = UnsubscribeFilters::encode(["a"], &mut filters);
    let unsubscribe = Unsubscribe { packet_id: id(7), properties: Properties::EMPTY, filters };
    reads(V3, "AA 05 0007 0001'a'", &Packet::Unsubscribe(unsubscribe));
    let mut filters = Vec::new();
    let filters = SubscribeFilters::encode([("a", SubscribeOptions::at_most(QoS::AtMostOnce))], &mut filters);
    let subscribe = Subscribe { packet_id: id(7), properties: Properties::EMPTY, filters };
    reads(V3, "8A 06 0007 0001'a' 00", &Packet::Subscribe(subscribe));
}

#[test]
fn subscribe_and_unsubscribe() {
    let plain = [
        ("a/+", SubscribeOptions::at_most(QoS::AtLeastOnce)),
        ("$share/g/#", SubscribeOptions::at_most(QoS::ExactlyOnce)),
    ];
    let mut out = b"before".to_vec();
    let filters = SubscribeFilters::encode(plain, &mut out);
    assert_eq!(filters.iter().collect::<Vec<_>>(), plain);
    let subscribe = Subscribe { packet_id: id(3), properties: Properties::EMPTY, filters };
    for version in [V3, V4] {
        let notation = "82 15 0003 0003'a/+' 01 000A'$share/g/#' 02";
        golden(version, notation, Packet::Subscribe(subscribe.clone()));
    }
    golden(V5, "82 16 0003 00 0003'a/+' 01 000A'$share/g/#' 02", Packet::Subscribe(subscribe));

    let full = SubscribeOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let once = SubscribeOptions { retain_handling: RetainHandling::SendIfNew, ..full };
    let mut out = Vec::new();
    let filters = SubscribeFilters::encode([("#", full), ("/", once)], &mut out);
    let properties = list(&[Property::SubscriptionIdentifier(16_384), Property::UserProperty("", "v")]);
    let subscribe = Subscribe { packet_id: id(3), properties: properties.as_properties(), filters };
    let notation = "82 15 0003 0A 0B 808001 26 0000 0001'v' 0001'#' 2E 0001'/' 1E";
    golden(V5, notation, Packet::Subscribe(subscribe));

    let mut out = Vec::new();
    let filters = UnsubscribeFilters::encode(["a/b", "+"], &mut out);
    assert_eq!(filters.iter().collect::<Vec<_>>(), ["a/b", "+"]);
    let unsubscribe = Unsubscribe { packet_id: id(4), properties: Properties::EMPTY, filters };
    for version in [V3, V4] {
        golden(version, "A2 0A 0004 0003'a/b' 0001'+'", Packet::Unsubscribe(unsubscribe.clone()));
    }
    golden(V5, "A2 0B 0004 00 0003'a/b' 0001'+'", Packet::Unsubscribe(unsubscribe));
}

#[test]
fn suback_and_unsuback() {
    let empty = Properties::EMPTY;
    let suback = SubAck { packet_id: id(5), properties: empty, reasons: &[0, 1, 2, 0x80] };
    for version in [V3, V4] {
        golden(version, "90 06 0005 00010280", Packet::SubAck(suback.clone()));
    }
    golden(V5, "90 07 0005 00 00010280", Packet::SubAck(suback));
    let refused = Packet::SubAck(SubAck { packet_id: id(5), properties: empty, reasons: &[2, 0x87, 0x97] });
    golden(V5, "90 06 0005 00 028797", refused.clone());
    let mut out = Vec::new();
    encode(V4, &refused, &mut out);
    assert_eq!(out, wire("90 05 0005 028080"));

    let unsuback = |reasons| Packet::UnsubAck(SubAck { packet_id: id(6), properties: empty, reasons });
    for version in [V3, V4] {
        golden(version, "B0 02 0006", unsuback(&[]));
    }
    golden(V5, "B0 05 0006 00 0011", unsuback(&[0, 0x11]));
    let mut out = Vec::new();
    encode(V4, &unsuback(&[0, 0x11]), &mut out);
    assert_eq!(out, wire("B0 02 0006"));
}

#[test]
fn pings() {
    for version in [V3, V4, V5] {
        golden(version, "C0 00", Packet::PingReq);
        golden(version, "D0 00", Packet::PingResp);
    }
}

#[test]
fn disconnect() {
    let disconnect = |reason, properties| Packet::Disconnect(Disconnect { reason, properties });
    for version in [V3, V4, V5] {
        golden(version, "E0 00", disconnect(ReasonCode::Success, Properties::EMPTY));
    }
    golden(V5, "E0 01 04", disconnect(ReasonCode::DisconnectWithWill, Properties::EMPTY));
    reads(V5, "E0 01 00", &disconnect(ReasonCode::Success, Properties::EMPTY));
    reads(V5, "E0 02 8E 00", &disconnect(ReasonCode::SessionTakenOver, Properties::EMPTY));
    let properties = list(&[
        Property::SessionExpiryInterval(0),
        Property::ServerReference("s"),
        Property::ReasonString("r"),
    ]);
    let moved = disconnect(ReasonCode::ServerMoved, properties.as_properties());
    golden(V5, "E0 0F 9D 0D 11 00000000 1C 0001's' 1F 0001'r'", moved.clone());
    // Before 5.0 a DISCONNECT says nothing.
    let mut out = Vec::new();
    encode(V4, &moved, &mut out);
    assert_eq!(out, wire("E0 00"));
}

#[test]
fn auth() {
    golden(V5, "F0 00", Packet::Auth(Auth { reason: ReasonCode::Success, properties: Properties::EMPTY }));
    let properties = list(&[Property::AuthenticationMethod("m"), Property::AuthenticationData(b"d")]);
    let auth = |reason| Packet::Auth(Auth { reason, properties: properties.as_properties() });
    golden(V5, "F0 0A 18 08 15 0001'm' 16 0001'd'", auth(ReasonCode::ContinueAuthentication));
    golden(V5, "F0 0A 19 08 15 0001'm' 16 0001'd'", auth(ReasonCode::ReAuthenticate));
    golden(V5, "F0 0A 00 08 15 0001'm' 16 0001'd'", auth(ReasonCode::Success));
    let mut out = Vec::new();
    encode(V4, &auth(ReasonCode::Success), &mut out);
    assert!(out.is_empty(), "AUTH was written before 5.0");
}

#[test]
fn remaining_lengths_of_one_to_four_bytes() {
    for (payload, prefix) in [
        (124, "30 7F"),
        (125, "30 8001"),
        (16_380, "30 FF7F"),
        (16_381, "30 808001"),
        (2_097_148, "30 FFFF7F"),
        (2_097_149, "30 80808001"),
    ] {
        let payload = vec![7; payload];
        let publish = Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "t",
            packet_id: None,
            properties: Properties::EMPTY,
            payload: &payload,
        });
        let mut out = Vec::new();
        encode(V4, &publish, &mut out);
        assert!(out.starts_with(&wire(prefix)), "{:02X?}", &out[..5]);
        assert_eq!(decode(V4, &out), Ok(publish));
    }
    // The same for a packet whose length is not known beforehand.
    for count in [123, 124, 125, 126, 16_379, 16_380, 16_381, 16_382] {
        let reasons = vec![1; count];
        let suback =
            Packet::SubAck(SubAck { packet_id: id(1), properties: Properties::EMPTY, reasons: &reasons });
        let mut out = Vec::new();
        encode(V5, &suback, &mut out);
        assert_eq!(decode(V5, &out), Ok(suback));
    }
}
