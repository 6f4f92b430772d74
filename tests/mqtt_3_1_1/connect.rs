//! CONNECT (3.1) and CONNACK (3.2) as far as they do not need a socket: the flags, the payload, the client identifier,
//! Keep Alive, take-over. What a server does before there is a session is in `sockets`.

use std::time::Duration;

use weirmq::broker::shard::CloseReason;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::{accepted, packet, refused};
use crate::common::world::*;
use crate::support::*;

const ENDS_EARLY: &str = "the packet ends in the middle of a field";
const LEFT_OVER: &str = "bytes after the packet's end";

/// A CONNECT of client `i` with these flags, whose payload goes on behind the identifier as said.
fn connect_bytes(flags: u8, behind: &str) -> Vec<u8> {
    packet(0x10, &format!("0004'MQTT'04 {flags:02X} 003C 0001'i' {behind}"))
}

fn decoded(bytes: &[u8]) -> Connect<'_> {
    match accepted(V4, bytes) {
        Packet::Connect(connect) => connect,
        other => panic!("not a CONNECT: {other:?}"),
    }
}

#[test]
fn mqtt_3_1_0_2_second_connect() {
    let mut w = World::new(1);
    let c = w.open(&willing("c", true, will("w", "gone")));
    let watcher = w.connect(V4, "watcher");
    w.subscribe(watcher, "w", QoS::AtMostOnce);
    w.send(c, &Packet::Connect(connect(V4, "c", true)));
    assert_eq!(expect_cut(&mut w, c).reason, ReasonCode::ProtocolError);
    // A violation is no goodbye.
    assert_eq!(payloads(&w.take(watcher)), ["gone"]);
}

#[test]
fn mqtt_3_1_2_9_will_flag_asks_for_both_will_fields() {
    for behind in ["", "0001'w'"] {
        refused(V4, &connect_bytes(0x06, behind), 0x81, ENDS_EARLY);
    }
    let bytes = connect_bytes(0x36, "0001'w' 0002'ok'");
    let expected = LastWill { qos: QoS::ExactlyOnce, retain: true, ..will("w", "ok") };
    assert_eq!(decoded(&bytes).will, Some(expected));
}

#[test]
fn mqtt_3_1_2_11_without_will_flag_nothing_of_a_will() {
    refused(V4, &connect_bytes(0x02, "0001'w' 0001'p'"), 0x81, LEFT_OVER);
    for flags in [0x0A, 0x12, 0x22, 0x2A, 0x32] {
        refused(V4, &connect_bytes(flags, ""), 0x81, "Will QoS or Will Retain without a Will");
    }
    assert_eq!(decoded(&connect_bytes(0x02, "")).will, None);
}

#[test]
fn mqtt_3_1_2_13_will_qos_without_will_flag() {
    for flags in [0x0A, 0x12] {
        refused(V4, &connect_bytes(flags, ""), 0x81, "Will QoS or Will Retain without a Will");
    }
}

#[test]
fn mqtt_3_1_2_14_will_qos_3() {
    refused(V4, &connect_bytes(0x1E, "0001'w' 0001'p'"), 0x81, "Will QoS 3");
    for (flags, qos) in [(0x06, EVERY_QOS[0]), (0x0E, EVERY_QOS[1]), (0x16, EVERY_QOS[2])] {
        let bytes = connect_bytes(flags, "0001'w' 0001'p'");
        assert_eq!(decoded(&bytes).will.map(|will| will.qos), Some(qos));
    }
}

#[test]
fn mqtt_3_1_2_15_will_retain_without_will_flag() {
    refused(V4, &connect_bytes(0x22, ""), 0x81, "Will QoS or Will Retain without a Will");
}

#[test]
fn mqtt_3_1_2_18_user_name_flag_0() {
    refused(V4, &connect_bytes(0x02, "0001'u'"), 0x81, LEFT_OVER);
    assert_eq!(decoded(&connect_bytes(0x02, "")).username, None);
}

#[test]
fn mqtt_3_1_2_19_user_name_flag_1() {
    refused(V4, &connect_bytes(0x82, ""), 0x81, ENDS_EARLY);
    assert_eq!(decoded(&connect_bytes(0x82, "0001'u'")).username, Some("u"));
}

#[test]
fn mqtt_3_1_2_20_password_flag_0() {
    refused(V4, &connect_bytes(0x82, "0001'u' 0001'p'"), 0x81, LEFT_OVER);
    assert_eq!(decoded(&connect_bytes(0x82, "0001'u'")).password, None);
}

#[test]
fn mqtt_3_1_2_21_password_flag_1() {
    refused(V4, &connect_bytes(0xC2, "0001'u'"), 0x81, ENDS_EARLY);
    // Any bytes: it is not a string.
    assert_eq!(decoded(&connect_bytes(0xC2, "0001'u' 0002 00FF")).password, Some(&[0x00, 0xFF][..]));
}

#[test]
fn mqtt_3_1_2_22_password_without_user_name() {
    for behind in ["0001'p'", "0001'u' 0001'p'"] {
        refused(V4, &connect_bytes(0x42, behind), 0x81, "a password without a user name");
    }
}

#[test]
fn mqtt_3_1_2_24_keepalive() {
    let mut w = World::new(1);
    let watcher = w.connect(V4, "watcher");
    w.subscribe(watcher, "w/+", QoS::AtMostOnce);
    let silent =
        w.open(&Connect { keep_alive: 10, ..willing("silent", false, will("w/silent", "network failure")) });
    let pings = w.open(&Connect { keep_alive: 10, ..willing("pings", true, will("w/pings", "later")) });
    let off = w.open(&Connect { keep_alive: 0, ..connect(V4, "off", true) });
    w.subscribe(silent, "t", QoS::AtLeastOnce);
    w.advance(Duration::from_millis(14_900));
    w.send(pings, &Packet::PingReq);
    w.take_one(pings);
    assert!(w.clients[silent].connection.is_some(), "not before one and a half times the Keep Alive");
    // Timers run in whole seconds: at most one late.
    w.advance(Duration::from_millis(1_100));
    assert_eq!(expect_cut(&mut w, silent).reason, ReasonCode::KeepAliveTimeout);
    // As if the network had failed: the Will is published, and the session is kept.
    assert_eq!(payloads(&w.take(watcher)), ["network failure"]);
    let (_, frame) = connack(&mut w, &connect(V4, "silent", false));
    assert!(session_present(&frame));
    assert!(w.clients[pings].connection.is_some(), "any packet counts");
    w.advance(Duration::from_secs(15));
    assert_eq!(expect_cut(&mut w, pings).reason, ReasonCode::KeepAliveTimeout);
    w.advance(Duration::from_secs(1_000_000));
    expect_open(&mut w, off);
}

#[test]
fn mqtt_3_1_3_1_payload_order() {
    // Client Identifier, Will Topic, Will Message, User Name, Password.
    let bytes = connect_bytes(0xE6, "0002'wt' 0002'wm' 0002'un' 0002'pw'");
    let expected = Connect {
        keep_alive: 60,
        will: Some(LastWill { retain: true, ..will("wt", "wm") }),
        username: Some("un"),
        password: Some(b"pw"),
        ..connect(V4, "i", true)
    };
    assert_eq!(decoded(&bytes), expected);
}

#[test]
fn mqtt_3_1_3_2_the_client_identifier_names_the_session() {
    let mut w = World::new(1);
    let (a, b) = (w.resume(V4, "a"), w.resume(V4, "b"));
    w.subscribe(a, "for/a", QoS::AtLeastOnce);
    w.subscribe(b, "for/b", QoS::AtLeastOnce);
    w.cut(a);
    w.cut(b);
    let p = w.connect(V4, "p");
    w.publish(p, "for/a", QoS::AtLeastOnce, "a's");
    w.publish(p, "for/b", QoS::AtLeastOnce, "b's");
    // Whatever else is the same or not: another letter is another session.
    let (b, a) = (w.resume(V4, "b"), w.resume(V4, "a"));
    let (_, upper) = connack(&mut w, &connect(V4, "A", false));
    assert!(!session_present(&upper));
    assert_eq!(payloads(&w.drain(a)), ["a's"]);
    assert_eq!(payloads(&w.drain(b)), ["b's"]);
}

#[test]
fn mqtt_3_1_3_3_the_client_identifier_is_there_and_first() {
    refused(V4, &packet(0x10, "0004'MQTT'04 02 003C"), 0x81, ENDS_EARLY);
    assert_eq!(decoded(&connect_bytes(0x82, "0001'u'")).client_id, "i");
}

#[test]
fn mqtt_3_1_3_4_the_client_identifier_is_utf8() {
    refused(V4, &packet(0x10, "0004'MQTT'04 02 003C 0002 C3 28"), 0x81, "a string is not UTF-8");
    assert_eq!(decoded(&packet(0x10, "0004'MQTT'04 02 003C 0002 C3 A8")).client_id, "è");
}

#[test]
fn mqtt_3_1_3_5_identifiers_of_1_to_23_letters_and_digits() {
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut w = World::new(3);
    for len in 1..=23 {
        for start in 0..letters.len() {
            let id: String = letters.chars().cycle().skip(start).take(len).collect();
            let c = w.connect(V4, &id);
            expect_open(&mut w, c);
        }
    }
    // All of them are there side by side.
    assert!(w.clients.iter().all(|client| client.connection.is_some()));
    assert_eq!(w.clients.len(), 23 * 62);
}

#[test]
fn mqtt_3_1_3_10_the_will_topic_is_utf8() {
    refused(V4, &connect_bytes(0x06, "0002 C3 28 0000"), 0x81, "a string is not UTF-8");
    let bytes = connect_bytes(0x06, "0002 C3 A8 0000");
    assert_eq!(decoded(&bytes).will, Some(will("è", "")));
}

#[test]
fn mqtt_3_1_3_11_the_user_name_is_utf8() {
    refused(V4, &connect_bytes(0x82, "0002 C3 28"), 0x81, "a string is not UTF-8");
    assert_eq!(decoded(&connect_bytes(0x82, "0002 C3 A8")).username, Some("è"));
}

#[test]
fn mqtt_3_1_4_2_a_connected_client_is_disconnected_by_its_next_connection() {
    for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut w = World::new(3);
        let old = w.open(&connect(V4, "c", first));
        let (new, _) = connack(&mut w, &connect(V4, "c", second));
        assert_eq!(expect_cut(&mut w, old).reason, ReasonCode::SessionTakenOver);
        expect_open(&mut w, new);
        // What the old one still sends is lost on the broker.
        w.send(old, &Packet::PingReq);
        assert_eq!(w.take(old), []);
        assert_eq!(w.take(new), []);
    }
}

#[test]
fn mqtt_3_1_4_3_clean_session_is_looked_at_once_the_connect_is_valid() {
    let mut w = World::new(1);
    let c = w.resume(V4, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    // Not valid: the session is not touched, whatever it says of Clean Session.
    let deep = "/".repeat(w.limits.topic_levels);
    let refused = w.try_connect(&willing("c", true, will(&deep, "x")));
    assert!(refused.is_err());
    expect_open(&mut w, c);
    // Valid: taken over, kept, then thrown away.
    let (c, frame) = connack(&mut w, &connect(V4, "c", false));
    assert!(session_present(&frame));
    w.publish(c, "t", QoS::AtLeastOnce, "still subscribed");
    assert_eq!(payloads(&w.drain(c)), ["still subscribed"]);
    let (c, frame) = connack(&mut w, &connect(V4, "c", true));
    assert!(!session_present(&frame));
    w.publish(c, "t", QoS::AtLeastOnce, "not any more");
    assert_eq!(w.drain(c), []);
}

#[test]
fn mqtt_3_1_4_4_a_valid_connect_is_acknowledged_with_code_0() {
    let mut w = World::new(1);
    for clean_session in [true, false] {
        let (_, frame) = connack(&mut w, &connect(V4, "c", clean_session));
        assert_eq!(frame.bytes, [0x20, 0x02, 0x00, 0x00]);
    }
    let all = Connect {
        keep_alive: 65_535,
        username: Some("u"),
        password: Some(b""),
        ..willing("all", true, LastWill { qos: QoS::ExactlyOnce, retain: true, ..will("w", "") })
    };
    let (_, frame) = connack(&mut w, &all);
    assert_eq!(frame.bytes, [0x20, 0x02, 0x00, 0x00]);
}

#[test]
fn mqtt_3_2_0_1_connack_is_the_first_packet() {
    let mut w = World::new(1);
    let c = w.resume(V4, "c");
    w.subscribe(c, "t", QoS::ExactlyOnce);
    let p = w.connect(V4, "p");
    // Something to send again, and something that waits: neither comes before it.
    w.publish(p, "t", QoS::ExactlyOnce, "sent");
    w.cut(c);
    w.publish(p, "t", QoS::AtLeastOnce, "waits");
    let c = w.try_connect(&connect(V4, "c", false)).expect("accepted");
    assert_eq!(first_bytes(&w.take(c)), [0x20, 0x3C, 0x32]);
}

#[test]
fn mqtt_3_2_2_1_session_present_is_0_with_clean_session() {
    let mut w = World::new(1);
    let c = w.resume(V4, "c");
    w.cut(c);
    for _ in 0..2 {
        let (c, frame) = connack(&mut w, &connect(V4, "c", true));
        assert_eq!(frame.bytes, [0x20, 0x02, 0x00, 0x00]);
        w.cut(c);
    }
}

#[test]
fn mqtt_3_2_2_2_session_present_is_1_with_a_session() {
    let mut w = World::new(1);
    let c = w.resume(V4, "c");
    w.cut(c);
    for _ in 0..2 {
        let (c, frame) = connack(&mut w, &connect(V4, "c", false));
        assert_eq!(frame.bytes, [0x20, 0x02, 0x01, 0x00]);
        disconnect(&mut w, c, ReasonCode::Success, &[]);
        assert_eq!(w.clients[c].closed, Some(CloseReason::Disconnected));
    }
}

#[test]
fn mqtt_3_2_2_3_session_present_is_0_without_a_session() {
    let mut w = World::new(1);
    let (c, frame) = connack(&mut w, &connect(V4, "c", false));
    assert_eq!(frame.bytes, [0x20, 0x02, 0x00, 0x00]);
    w.cut(c);
    // A session of a former Clean Session is none.
    let c = w.connect(V4, "c");
    w.cut(c);
    let (_, frame) = connack(&mut w, &connect(V4, "c", false));
    assert_eq!(frame.bytes, [0x20, 0x02, 0x00, 0x00]);
}
