//! DISCONNECT (3.14), AUTH (3.15, 4.12) and what ends a connection (4.13).

use std::time::Duration;

use weirmq::broker::shard::CloseReason;
use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::{packet, wire};
use crate::common::world::*;

/// Every way in which the server ends a connection on its own, with the code that it gives.
fn server_disconnects(properties: &[Property<'_>]) -> Vec<(ReasonCode, Frame)> {
    let limits = Limits { receive_maximum: 1, max_packet_size: 1000, ..Limits::default() };
    let mut w = World::limited(limits);
    let mut all = Vec::new();
    let mut end = |w: &mut World, reason: ReasonCode, act: &dyn Fn(&mut World, usize)| {
        let asked = list(properties);
        let c =
            w.open(&Connect { keep_alive: 5, properties: asked.as_properties(), ..connect(V5, "c", true) });
        act(w, c);
        all.push((reason, expect_closed(w, c, reason).1));
    };
    end(&mut w, ReasonCode::MalformedPacket, &|w, c| w.send_bytes(c, &[0]));
    end(&mut w, ReasonCode::ProtocolError, &|w, c| w.send_bytes(c, &packet(0x82, "0001 00")));
    end(&mut w, ReasonCode::KeepAliveTimeout, &|w, _| w.advance(Duration::from_secs(9)));
    end(&mut w, ReasonCode::SessionTakenOver, &|w, _| {
        w.connect(V5, "c");
    });
    end(&mut w, ReasonCode::TopicFilterInvalid, &|w, c| w.send_bytes(c, &packet(0x82, "0001 00 0002'a#'00")));
    end(&mut w, ReasonCode::TopicNameInvalid, &|w, c| w.send_bytes(c, &packet(0x30, "0001'#'00")));
    end(&mut w, ReasonCode::ReceiveMaximumExceeded, &|w, c| {
        w.send_bytes(c, &[packet(0x34, "0001't' 0001 00"), packet(0x34, "0001't' 0002 00")].concat());
        w.clients[c].received.remove(0);
    });
    end(&mut w, ReasonCode::TopicAliasInvalid, &|w, c| w.send_bytes(c, &packet(0x30, "0001't' 03 230000")));
    end(&mut w, ReasonCode::PacketTooLarge, &|w, c| w.send_bytes(c, &wire("30 E907")));
    end(&mut w, ReasonCode::PayloadFormatInvalid, &|w, c| {
        w.send_bytes(c, &packet(0x30, "0001't' 02 0101 FF"))
    });
    end(&mut w, ReasonCode::ServerShuttingDown, &|w, _| {
        let now = w.now;
        w.shards[0].shutdown(now);
        w.run();
    });
    all
}

#[test]
fn mqtt_3_14_1_1_disconnect_flags() {
    for flags in 1..16 {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &[0xE0 | flags, 0]);
        expect_closed(&mut w, c, ReasonCode::MalformedPacket);
    }
}

#[test]
fn mqtt_3_14_2_1_disconnect_reason_codes() {
    // The codes of those that a server sends; `expect_closed` has decoded each as one of table 3-10.
    assert_eq!(server_disconnects(&[]).len(), 11);
    // From a client: those of the table are taken, all others are a protocol error.
    let allowed = |code: u8| matches!(code, 0 | 4 | 0x80..=0x83 | 0x90 | 0x93..=0x99);
    let of_servers = |code: u8| matches!(code, 0x87 | 0x89 | 0x8B..=0x8F | 0x9A..=0xA2);
    for code in 0..=255 {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &[0xE0, 1, code]);
        if allowed(code) {
            assert_eq!(w.clients[c].closed, Some(CloseReason::Disconnected), "{code:02X}");
        } else if !of_servers(code) {
            expect_closed(&mut w, c, ReasonCode::ProtocolError);
        }
    }
}

#[test]
fn mqtt_3_14_2_2_no_session_expiry_from_the_server() {
    for (reason, frame) in server_disconnects(&[expiry(100)]) {
        let Packet::Disconnect(disconnect) = frame.packet() else { panic!("{frame:?}") };
        let told = find(disconnect.properties, |property| match property {
            Property::SessionExpiryInterval(seconds) => Some(seconds),
            _ => None,
        });
        assert_eq!(told, None, "{reason:?}");
    }
}

#[test]
fn mqtt_3_14_2_3_disconnect_reason_string() {
    let mut told = 0;
    for size in 20..100 {
        for (reason, frame) in server_disconnects(&[Property::MaximumPacketSize(size)]) {
            assert!(frame.bytes.len() <= size as usize, "{reason:?} in {size}: {frame:?}");
            let Packet::Disconnect(disconnect) = frame.packet() else { panic!("{frame:?}") };
            told += usize::from(reason_string(disconnect.properties).is_some());
        }
    }
    assert!(told > 80, "where it fits, it is there");
}

#[test]
fn mqtt_3_14_2_4_disconnect_has_no_user_properties() {
    for (reason, frame) in server_disconnects(&[]) {
        let Packet::Disconnect(disconnect) = frame.packet() else { panic!("{frame:?}") };
        assert_eq!(user_properties(disconnect.properties), [], "{reason:?}");
    }
}

#[test]
fn mqtt_3_14_4_1_nothing_follows_disconnect() {
    let mut w = World::new(1);
    let c = w.resume(V5, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    w.clients[c].stalled = true;
    // Behind the packet that ends the connection stand others, and messages are still on their way.
    let bytes = [wire("C000"), packet(0x30, "0001't' 00 'own'"), wire("00"), wire("C000")].concat();
    w.put_bytes(c, &bytes);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "x");
    let (frames, _) = expect_closed(&mut w, c, ReasonCode::MalformedPacket);
    assert_eq!(frames.len(), 1, "the PINGRESP: {frames:?}");
}

#[test]
fn mqtt_3_14_4_2_disconnect_closes_the_connection() {
    // `server_disconnects` asserts of each that the connection is let go.
    assert_eq!(server_disconnects(&[]).len(), 11);
}

#[test]
fn mqtt_3_14_4_3_disconnect_discards_the_will() {
    let mut w = World::new(1);
    let ear = w.connect(V5, "ear");
    w.subscribe(ear, "will", QoS::AtMostOnce);
    for bytes in [&[0xE0, 0][..], &[0xE0, 1, 0], &[0xE0, 2, 0, 0]] {
        let c = with_will(&mut w, "c", 0, 0, will("will", "never"));
        w.send_bytes(c, bytes);
        assert_eq!(w.clients[c].closed, Some(CloseReason::Disconnected));
        w.advance(Duration::from_secs(100));
        assert_eq!(w.take(ear), []);
    }
}

#[test]
fn mqtt_3_15_1_1_auth_flags() {
    for flags in 1..16 {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &[0xF0 | flags, 0]);
        expect_closed(&mut w, c, ReasonCode::MalformedPacket);
    }
}

#[test]
fn mqtt_4_12_0_1_unknown_authentication_method() {
    let mut w = World::new(1);
    for properties in [
        list(&[Property::AuthenticationMethod("SCRAM-SHA-256")]),
        list(&[Property::AuthenticationMethod("")]),
        list(&[Property::AuthenticationMethod("K"), Property::AuthenticationData(b"\0")]),
    ] {
        let hello = Connect { properties: properties.as_properties(), ..connect(V5, "c", true) };
        let error = w.try_connect(&hello).expect_err("no such method");
        assert_eq!(error.reason, ReasonCode::BadAuthenticationMethod);
    }
}

#[test]
fn mqtt_4_12_0_6_no_auth_without_a_method() {
    let mut w = World::new(1);
    let (c, frame) = connack_with(&mut w, "c", true, &[]);
    let method = find(connack_properties(&frame), |property| {
        matches!(property, Property::AuthenticationMethod(_)).then_some(())
    });
    assert_eq!(method, None);
    w.subscribe(c, "t", QoS::AtMostOnce);
    w.publish(c, "t", QoS::ExactlyOnce, "x");
    let frames = w.take(c);
    assert!(!frames.iter().any(|frame| matches!(frame.packet(), Packet::Auth(_))), "{frames:?}");
}

#[test]
fn mqtt_4_12_0_7_auth_from_a_client_that_chose_no_method() {
    for reason in [ReasonCode::Success, ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate] {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        let method = list(&[Property::AuthenticationMethod("K")]);
        w.send(c, &Packet::Auth(Auth { reason, properties: method.as_properties() }));
        expect_closed(&mut w, c, ReasonCode::ProtocolError);
    }
}

/// Packets that break a rule, with the code that the standard gives to it.
const BROKEN: [(u8, &str, ReasonCode); 32] = {
    use ReasonCode::*;
    [
        // Malformed: 1.5, 2.1 and the formats of the packets.
        (0x00, "", MalformedPacket),
        (0x30, "0002 C328 00", MalformedPacket),
        (0x30, "0001 00 00", MalformedPacket),
        (0x30, "0005't' 00", MalformedPacket),
        (0x32, "0001't' 0000 00", MalformedPacket),
        (0x36, "0001't' 0001 00", MalformedPacket),
        (0x38, "0001't' 00", MalformedPacket),
        (0x30, "0001't' 02 1100", MalformedPacket),
        (0x30, "0001't' 02 7F00", MalformedPacket),
        (0x40, "0000", MalformedPacket),
        (0x60, "0001", MalformedPacket),
        (0x80, "0001 00 0001't' 00", MalformedPacket),
        (0x82, "0001 00 0001't' 80", MalformedPacket),
        (0xA0, "0001 00 0001't'", MalformedPacket),
        (0xC1, "", MalformedPacket),
        (0xC0, "00", MalformedPacket),
        (0xE1, "", MalformedPacket),
        // Protocol errors.
        (0x10, "0004'MQTT'05 02 003C 00 0001'c'", ProtocolError),
        (0x30, "0000 00", ProtocolError),
        (0x30, "0001't' 04 0101 0101", ProtocolError),
        (0x30, "0001't' 02 0102", ProtocolError),
        (0x30, "0001't' 02 0B01", ProtocolError),
        (0x30, "0001't' 05 08 0002'a#'", ProtocolError),
        (0x40, "0001 04", ProtocolError),
        (0x82, "0001 00", ProtocolError),
        (0x82, "0001 02 0B00 0001't' 00", ProtocolError),
        (0x82, "0001 00 000A'$share/g/t' 04", ProtocolError),
        (0xA2, "0001 00", ProtocolError),
        // Those with a code of their own.
        (0x30, "0003'a/#' 00", TopicNameInvalid),
        (0x82, "0001 00 0003'#/a' 00", TopicFilterInvalid),
        (0x30, "0001't' 03 230000", TopicAliasInvalid),
        (0x30, "0001't' 02 0101 C328", PayloadFormatInvalid),
    ]
};

#[test]
fn mqtt_4_13_1_1_errors_close_the_connection_with_their_code() {
    for (first, body, reason) in BROKEN {
        let mut w = World::new(1);
        let (c, other) = (w.connect(V5, "c"), w.connect(V5, "other"));
        w.send_bytes(c, &packet(first, body));
        let (frames, _) = expect_closed(&mut w, c, reason);
        assert_eq!(frames, [], "{first:02X} {body}");
        expect_open(&mut w, other);
    }
}

#[test]
fn packets_that_only_a_server_may_send() {
    for bytes in [
        packet(0x20, "00 00 00"),
        packet(0x90, "0001 00 00"),
        packet(0xB0, "0001 00 00"),
        packet(0xD0, ""),
        packet(0xE0, "00 05 1C 0002'ab'"),
    ] {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &bytes);
        expect_closed(&mut w, c, ReasonCode::ProtocolError);
    }
}

#[test]
fn mqtt_4_13_2_1_a_code_of_0x80_closes_whether_or_not_it_can_be_sent() {
    // Before 5.0 the server has no DISCONNECT: it can only close.
    for version in [Version::V3, Version::V4] {
        let mut w = World::new(1);
        let c = w.connect(version, "c");
        w.send_bytes(c, &[0x00]);
        assert_eq!(w.take(c), []);
        assert_eq!(w.clients[c].connection, None);
        assert_eq!(w.closed_with(c), Some(ReasonCode::MalformedPacket));
    }
    // A client that does not read is let go as well.
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.clients[c].stalled = true;
    w.send_bytes(c, &[0x00]);
    assert_eq!(w.clients[c].connection, None);
}

#[test]
fn session_expiry_in_disconnect_cannot_become_more_than_0() {
    // 0 in CONNECT cannot become more.
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    disconnect(&mut w, c, ReasonCode::Success, &[expiry(10)]);
    expect_closed(&mut w, c, ReasonCode::ProtocolError);
    let c = w.connect(V5, "c");
    disconnect(&mut w, c, ReasonCode::Success, &[expiry(0)]);
    assert_eq!(w.clients[c].closed, Some(CloseReason::Disconnected));
    assert_eq!(w.shards[0].census().sessions, 0);
}
