//! What every packet is made of: strings (1.5.3), flags (2.2.2) and Packet Identifiers (2.3.1); and what a broken rule
//! leads to (4.8).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use weirmq::broker::shard::CloseReason;
use weirmq::limits::{Limits, Overflow, QueueRule};
use weirmq::protocol::packet::*;

use crate::common::dialogue::*;
use crate::common::wire::{accepted, packet, refused};
use crate::common::world::*;
use crate::support::*;

/// A string in every packet that a connected client may send one in.
fn behind_connect(string: &str) -> [Vec<u8>; 3] {
    [
        packet(0x30, &format!("{string} 'x'")),
        packet(0x82, &format!("0001 {string} 00")),
        packet(0xA2, &format!("0001 {string}")),
    ]
}

/// A string in every field of a CONNECT that holds one: client identifier, Will Topic, user name.
fn in_connect(string: &str) -> [Vec<u8>; 3] {
    [
        packet(0x10, &format!("0004'MQTT'04 02 003C {string}")),
        packet(0x10, &format!("0004'MQTT'04 06 003C 0001'c' {string} 0000")),
        packet(0x10, &format!("0004'MQTT'04 82 003C 0001'c' {string}")),
    ]
}

fn closes_in_every_field(string: &str, detail: &str) {
    for bytes in behind_connect(string) {
        closes(V4, &bytes, detail);
    }
    for bytes in in_connect(string) {
        refused(V4, &bytes, 0x81, detail);
    }
}

#[test]
fn mqtt_1_5_3_1_ill_formed_utf8() {
    // Surrogates, overlong forms, above U+10FFFF, a lone and a cut sequence.
    for bytes in ["EDA080", "EDBFBF", "C080", "C1BF", "E08080", "F4908080", "80", "E282", "FF"] {
        closes_in_every_field(&field(bytes), "a string is not UTF-8");
    }
    // What is nearest to them.
    for bytes in ["ED9FBF", "EE8080", "C280", "E0A080", "F48FBFBF"] {
        for bytes in behind_connect(&field(bytes)) {
            stays(V4, &bytes);
        }
        for bytes in in_connect(&field(bytes)) {
            accepted(V4, &bytes);
        }
    }
}

#[test]
fn mqtt_1_5_3_2_nul() {
    for bytes in ["00", "610062", "6100"] {
        closes_in_every_field(&field(bytes), "a string holds U+0000");
    }
    for bytes in behind_connect(&field("01")) {
        stays(V4, &bytes);
    }
}

#[test]
fn mqtt_1_5_3_3_byte_order_mark_is_a_character() {
    let mut w = World::new(1);
    // As a part of a client identifier it makes another client.
    let (c, marked) = (w.connect(V4, "c"), w.connect(V4, "\u{FEFF}c"));
    expect_open(&mut w, c);
    w.subscribe(c, "t", QoS::AtMostOnce);
    w.subscribe(marked, "\u{FEFF}t", QoS::AtMostOnce);
    let p = w.connect(V4, "p");
    // EF BB BF, then 't'.
    w.send_bytes(p, &packet(0x30, "0004 EFBBBF 't' 'marked'"));
    w.send_bytes(p, &packet(0x30, "0004 't' EFBBBF 'behind'"));
    w.send_bytes(p, &packet(0x30, "0001 't' 'plain'"));
    assert_eq!(payloads(&w.take(c)), ["plain"]);
    let got = w.take(marked);
    assert_eq!(payloads(&got), ["marked"]);
    assert_eq!(got[0].publish().topic, "\u{FEFF}t");
}

#[test]
fn mqtt_2_2_2_1_reserved_flags_of_what_the_server_sends() {
    let mut w = World::new(1);
    let (c, connack) = connack(&mut w, &connect(V4, "c", true));
    let mut sent = vec![connack];
    for bytes in [
        packet(0x82, "0001 0001't' 02"),
        packet(0xA2, "0002 0001'u'"),
        packet(0xC0, ""),
        packet(0x32, "0001'x' 0003"),
        packet(0x34, "0001't' 0004"),
        packet(0x62, "0004"),
    ] {
        w.send_bytes(c, &bytes);
        sent.append(&mut w.take(c));
    }
    // The QoS 2 message came back: its PUBREC is answered by a PUBREL.
    w.send_bytes(c, &packet(0x50, "0001"));
    sent.append(&mut w.take(c));
    // CONNACK, SUBACK, UNSUBACK, PINGRESP, PUBACK, PUBREC, PUBLISH, PUBCOMP, PUBREL.
    assert_eq!(first_bytes(&sent), [0x20, 0x90, 0xB0, 0xD0, 0x40, 0x50, 0x34, 0x70, 0x62]);
}

/// A well-formed packet with that first byte.
fn with_first(first: u8) -> Vec<u8> {
    let body = match (first >> 4, first & 0x06) {
        (1, _) => "0004'MQTT'04 02 003C 0001'c'",
        (2, _) => "0000",
        (3, 0) => "0001't'",
        (3, _) => "0001't' 0001",
        (4..=7 | 11, _) => "0001",
        (8, _) => "0001 0001't' 00",
        (9, _) => "0001 00",
        (10, _) => "0001 0001't'",
        _ => "",
    };
    packet(first, body)
}

#[test]
fn mqtt_2_2_2_2_invalid_flags() {
    let detail = "reserved flags in the fixed header";
    for first in 0x10..=0xFF {
        let (packet_type, flags) = (first >> 4, first & 0x0F);
        let valid = match packet_type {
            // DUP asks for a QoS above 0, and QoS 3 does not exist.
            3 => matches!(flags, 0..=5 | 10..=13),
            6 | 8 | 10 => flags == 2,
            _ => flags == 0,
        };
        match packet_type {
            _ if !valid => closes(V4, &with_first(first), detail),
            // A client may send these again and again.
            3..=8 | 10 | 12 => stays(V4, &with_first(first)),
            // And these it may not send at all, or only once; their flags are right.
            _ => {
                let mut w = World::new(1);
                let c = w.connect(V4, "c");
                w.send_bytes(c, &with_first(first));
                assert_eq!(w.clients[c].connection, None);
                assert!(!matches!(&w.clients[c].closed, Some(CloseReason::Server(e)) if e.detail == detail));
            }
        }
    }
}

#[test]
fn mqtt_2_3_1_1_packet_identifier_is_not_zero() {
    for (first, body) in [(0x82, "0001't' 00"), (0xA2, "0001't'")] {
        closes(V4, &packet(first, &format!("0000 {body}")), "Packet Identifier 0");
        stays(V4, &packet(first, &format!("FFFF {body}")));
    }
    for first in [0x32, 0x34] {
        closes(V4, &packet(first, "0001't' 0000"), "Packet Identifier 0");
        stays(V4, &packet(first, "0001't' FFFF"));
    }
}

#[test]
fn mqtt_2_3_1_4_server_gives_each_publish_an_unused_identifier() {
    let mut w = World::limited(Limits { max_inflight: 100, ..Limits::default() });
    let c = w.resume(V4, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    let p = w.connect(V4, "p");
    // One is never acknowledged while the 16-bit counter goes round; the others are, some time later.
    w.publish(p, "t", QoS::AtLeastOnce, "held");
    let held = ids(&w.take(c))[0];
    let (mut used, mut oldest, mut seen) = (BTreeSet::from([held]), VecDeque::new(), BTreeSet::new());
    let publish = packet(0x32, "0001't' 0001 'x'").repeat(50);
    for _ in 0..1_400 {
        w.send_bytes(p, &publish);
        w.take(p);
        for id in ids(&w.take(c)) {
            assert!(id != 0 && used.insert(id), "{id} is in use");
            seen.insert(id);
            oldest.push_back(id);
        }
        while oldest.len() > 30 {
            let id = oldest.pop_front().expect("some");
            used.remove(&id);
            w.put_bytes(c, &packet(0x40, &format!("{id:04X}")));
        }
        w.run();
    }
    assert_eq!(seen.len(), 65_534, "every other identifier has had its turn");
    // What is sent again keeps its identifier.
    let before: Vec<u16> = std::iter::once(held).chain(oldest).collect();
    w.cut(c);
    let c = w.resume(V4, "c");
    assert_eq!(ids(&w.take(c))[..before.len()], before);
}

#[test]
fn mqtt_2_3_1_5_no_packet_identifier_at_qos_0() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    w.subscribe(c, "t", QoS::ExactlyOnce);
    // What stands behind the topic is payload already.
    w.send_bytes(p, &packet(0x30, "0001't' 0007 'x'"));
    assert_eq!(take_bytes(&mut w, c), packet(0x30, "0001't' 0007 'x'"));
    // A message of a higher QoS loses its identifier with it.
    w.subscribe(c, "t", QoS::AtMostOnce);
    w.send_bytes(p, &packet(0x32, "0001't' 0007 'x'"));
    assert_eq!(take_bytes(&mut w, c), packet(0x30, "0001't' 'x'"));
}

#[test]
fn mqtt_2_3_1_6_acknowledgements_carry_the_identifier_of_the_publish() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    for id in ["0001", "00FF", "1234", "FFFF"] {
        // PUBACK, PUBREC, PUBCOMP as the receiver.
        w.send_bytes(p, &packet(0x32, &format!("0001'u' {id}")));
        assert_eq!(take_bytes(&mut w, p), packet(0x40, id));
        w.send_bytes(p, &packet(0x34, &format!("0001'u' {id}")));
        assert_eq!(take_bytes(&mut w, p), packet(0x50, id));
        w.send_bytes(p, &packet(0x62, id));
        assert_eq!(take_bytes(&mut w, p), packet(0x70, id));
    }
    // PUBREL as the sender.
    w.subscribe(c, "t", QoS::ExactlyOnce);
    for number in 1..4 {
        w.publish(p, "t", QoS::ExactlyOnce, "x");
        let id = format!("{:04X}", ids(&w.take(c))[0]);
        assert_eq!(id, format!("{number:04X}"));
        w.send_bytes(c, &packet(0x50, &id));
        assert_eq!(take_bytes(&mut w, c), packet(0x62, &id));
    }
}

#[test]
fn mqtt_2_3_1_7_suback_and_unsuback_carry_the_identifier_of_the_request() {
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    for id in ["0001", "00FF", "1234", "FFFF"] {
        w.send_bytes(c, &packet(0x82, &format!("{id} 0001't' 00")));
        assert_eq!(take_bytes(&mut w, c), packet(0x90, &format!("{id} 00")));
        w.send_bytes(c, &packet(0xA2, &format!("{id} 0001't'")));
        assert_eq!(take_bytes(&mut w, c), packet(0xB0, id));
    }
}

#[test]
fn mqtt_4_8_0_1_protocol_violations_close_the_connection() {
    for (bytes, detail) in [
        (packet(0x10, "0004'MQTT'04 02 003C 0001'c'"), "a second CONNECT"),
        (packet(0x20, "0000"), "a packet that only a server may send"),
        (packet(0x90, "0001 00"), "a packet that only a server may send"),
        (packet(0xB0, "0001"), "a packet that only a server may send"),
        (packet(0xD0, ""), "a packet that only a server may send"),
        (packet(0xF0, ""), "AUTH before MQTT 5.0"),
        (packet(0x00, ""), "a packet of type 0, which does not exist"),
        (packet(0x82, "0001"), "SUBSCRIBE without a topic filter"),
        (packet(0xA2, "0001"), "UNSUBSCRIBE without a topic filter"),
        (packet(0xC0, "00"), "bytes after the packet's end"),
        (packet(0x40, "00"), "the packet ends in the middle of a field"),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], "an integer in more than four bytes"),
    ] {
        closes(V4, &bytes, detail);
    }
    // An acknowledgement of the wrong kind.
    for (qos, first, detail) in [
        (QoS::AtLeastOnce, 0x50, "a PUBREC for a QoS 1 PUBLISH"),
        (QoS::ExactlyOnce, 0x40, "a PUBACK for a QoS 2 PUBLISH"),
        (QoS::ExactlyOnce, 0x70, "a PUBCOMP before its PUBREC"),
    ] {
        let mut w = World::new(1);
        let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
        w.subscribe(c, "t", qos);
        w.publish(p, "t", qos, "x");
        let id = ids(&w.take(c))[0];
        w.send_bytes(c, &packet(first, &format!("{id:04X}")));
        assert_eq!(expect_cut(&mut w, c).detail, detail);
        expect_open(&mut w, p);
    }
}

#[test]
fn mqtt_4_8_0_2_transient_errors_close_the_connection() {
    let rule = QueueRule { max_messages: 1, overflow: Overflow::Reject, ..QueueRule::default() };
    let mut w = World::with(WorldSettings { queue_rules: vec![rule], ..WorldSettings::default() });
    let c = w.resume(V4, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    w.cut(c);
    let (p, other) = (w.connect(V4, "p"), w.connect(V4, "other"));
    w.publish(p, "t", QoS::AtLeastOnce, "fits");
    // The queue is full: the publisher is held back for a while, and is not lied to.
    w.send(p, &Packet::Publish(message("t", QoS::AtLeastOnce, "does not")));
    w.advance(w.limits.reject_timeout - Duration::from_secs(1));
    assert!(w.clients[p].connection.is_some());
    assert_eq!(w.take(p), [], "no acknowledgement of what was not taken");
    w.advance(Duration::from_secs(2));
    expect_cut(&mut w, p);
    expect_open(&mut w, other);
    let c = w.resume(V4, "c");
    assert_eq!(payloads(&w.drain(c)), ["fits"]);
}
