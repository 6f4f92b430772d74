//! What MQTT 3.1 (`MQIsdp`, level 3) does in another way than 3.1.1. Everything else is the same code, and the
//! conversations of every day are held in each version elsewhere.

use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::{accepted, packet, refused};
use crate::common::world::*;
use crate::support::*;

/// A CONNECT of 3.1 with these flags, whose payload is as said.
fn connect_bytes(flags: u8, payload: &str) -> Vec<u8> {
    packet(0x10, &format!("0006'MQIsdp'03 {flags:02X} 003C {payload}"))
}

#[test]
fn name_and_level() {
    let bytes = connect_bytes(0x02, "0001'c'");
    let Packet::Connect(connect) = accepted(V3, &bytes) else { panic!("not a CONNECT") };
    assert_eq!((connect.version, connect.client_id), (V3, "c"));
    for name_and_level in ["0006'MQIsdp'04", "0004'MQTT'03", "0006'MQIsdp'05", "0006'mqisdp'03"] {
        let bytes = packet(0x10, &format!("{name_and_level} 02 003C 0001'c'"));
        refused(V3, &bytes, 0x84, "unknown protocol name or level");
    }
}

#[test]
fn connack_does_not_tell_of_a_session() {
    let mut w = World::new(1);
    for _ in 0..2 {
        let (c, frame) = connack(&mut w, &connect(V3, "c", false));
        assert_eq!(frame.bytes, [0x20, 0x02, 0x00, 0x00]);
        w.subscribe(c, "t", QoS::AtLeastOnce);
        w.cut(c);
    }
    // Although there is one.
    let p = w.connect(V4, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "kept");
    let c = w.resume(V3, "c");
    assert_eq!(payloads(&w.drain(c)), ["kept"]);
}

#[test]
fn an_empty_client_identifier_is_never_accepted() {
    for flags in [0x00, 0x02] {
        refused(V3, &connect_bytes(flags, "0000"), 0x85, "no Client Identifier");
    }
    // 3.1 speaks of 23 characters at most. Its clients never kept to it, so no server holds them to it.
    let long = "x".repeat(100);
    let mut w = World::new(1);
    let c = w.connect(V3, &long);
    expect_open(&mut w, c);
}

#[test]
fn the_reserved_connect_flag_is_not_looked_at() {
    let bytes = connect_bytes(0x03, "0001'c'");
    assert!(matches!(accepted(V3, &bytes), Packet::Connect(Connect { clean_start: true, .. })));
}

#[test]
fn user_name_and_password_may_be_left_out_whatever_the_flags_say() {
    for (payload, username, password) in [
        ("0001'c'", None, None),
        ("0001'c' 0001'u'", Some("u"), None),
        ("0001'c' 0001'u' 0001'p'", Some("u"), Some(&b"p"[..])),
    ] {
        let bytes = connect_bytes(0xC2, payload);
        let Packet::Connect(connect) = accepted(V3, &bytes) else { panic!("not a CONNECT") };
        assert_eq!((connect.username, connect.password), (username, password));
    }
    refused(V3, &connect_bytes(0x42, "0001'c' 0001'p'"), 0x81, "a password without a user name");
}

#[test]
fn suback_has_no_code_for_a_failure() {
    let mut w = World::new(1);
    let c = w.connect(V3, "c");
    let deep = "/".repeat(w.limits.topic_levels);
    let filters = [
        ("a", QoS::AtLeastOnce),
        (deep.as_str(), QoS::ExactlyOnce),
        ("$share/g/$share/g/t", QoS::AtLeastOnce),
        ("b", QoS::AtMostOnce),
    ];
    send_subscribe(&mut w, c, &filters.map(|(filter, qos)| (filter, options(qos))));
    // Nobody can be told, so it is acknowledged like the others; there is no subscription all the same.
    assert_eq!(codes(&w.take_one(c)), [1, 2, 1, 0]);
    assert_eq!(w.shards[0].census().subscriptions, 2);
}

#[test]
fn dup_marks_subscribe_unsubscribe_and_pubrel_that_are_sent_again() {
    let mut w = World::new(1);
    let c = w.connect(V3, "c");
    for first in [0x82, 0x8A] {
        w.send_bytes(c, &packet(first, "0001 0001't' 02"));
        assert_eq!(take_bytes(&mut w, c), packet(0x90, "0001 02"));
    }
    w.send_bytes(c, &packet(0x34, "0001'u' 0007"));
    assert_eq!(take_bytes(&mut w, c), packet(0x50, "0007"));
    for first in [0x62, 0x6A] {
        w.send_bytes(c, &packet(first, "0007"));
        assert_eq!(take_bytes(&mut w, c), packet(0x70, "0007"));
    }
    for first in [0xA2, 0xAA] {
        w.send_bytes(c, &packet(first, "0001 0001't'"));
        assert_eq!(take_bytes(&mut w, c), packet(0xB0, "0001"));
    }
    // The other bits mean nothing here, and 3.1.1 took this one back.
    for (first, body) in [(0x80, "0001 0001't' 02"), (0x60, "0007"), (0xA0, "0001 0001't'")] {
        closes(V4, &packet(first | 0x0A, body), "reserved flags in the fixed header");
        for flags in [0x00, 0x01, 0x03, 0x04, 0x06, 0x08, 0x0B, 0x0E] {
            closes(V3, &packet(first | flags, body), "reserved flags in the fixed header");
        }
    }
}

#[test]
fn an_end_without_a_word() {
    // No DISCONNECT from a server, and the Will as in 3.1.1.
    let mut w = World::new(1);
    let watcher = w.connect(V3, "watcher");
    w.subscribe(watcher, "w", QoS::AtMostOnce);
    let c = w.open(&Connect { will: Some(will("w", "gone")), ..connect(V3, "c", true) });
    w.connect(V3, "c");
    assert_eq!(expect_cut(&mut w, c).reason, ReasonCode::SessionTakenOver);
    assert_eq!(payloads(&w.take(watcher)), ["gone"]);
    // What no version of a client may send.
    closes(V3, &packet(0xF0, ""), "AUTH before MQTT 5.0");
    closes(V3, &packet(0x30, "0002'+a' 'x'"), "a topic name is empty or holds a wildcard");
    closes(V3, &packet(0x30, "0000 'x'"), "a topic name is empty or holds a wildcard");
}

#[test]
fn what_is_unacknowledged_is_sent_again() {
    let mut w = World::new(1);
    let (c, p) = (w.resume(V3, "c"), w.connect(V3, "p"));
    w.subscribe(c, "t", QoS::ExactlyOnce);
    w.publish(p, "t", QoS::AtLeastOnce, "a");
    w.publish(p, "t", QoS::ExactlyOnce, "b");
    assert_eq!(first_bytes(&w.take(c)), [0x32, 0x34]);
    w.send(c, &Packet::PubRec(ack_of(id(2))));
    assert_eq!(take_bytes(&mut w, c), packet(0x62, "0002"));
    w.cut(c);
    let c = w.resume(V3, "c");
    assert_eq!(first_bytes(&w.take(c)), [0x3A, 0x62]);
}
