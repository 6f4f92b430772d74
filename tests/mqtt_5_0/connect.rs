//! CONNECT (3.1): its form, Clean Start, the client identifier, take-over, keep alive, and what its
//! properties ask of the server.

use std::time::Duration;

use weirmq::broker::shard::CloseReason;
use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::wire::{accepted, packet, refused};
use crate::common::world::*;

#[test]
fn mqtt_3_1_0_2_second_connect() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send(c, &Packet::Connect(connect(V5, "c", true)));
    expect_closed(&mut w, c, ReasonCode::ProtocolError);
}

#[test]
fn mqtt_3_1_2_4_clean_start_discards_the_session() {
    let mut w = World::new(1);
    let c = w.resume(V5, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    w.cut(c);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "waits");
    let (c, frame) = connack_with(&mut w, "c", true, &[expiry(3600)]);
    assert!(!session_present(&frame));
    // Neither what waited nor the subscription is left.
    assert_eq!(w.take(c), []);
    let reason = w.publish(p, "t", QoS::AtLeastOnce, "nobody's");
    assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
    // The new session is one that lasts.
    w.subscribe(c, "u", QoS::AtLeastOnce);
    w.cut(c);
    let (_, frame) = connack_with(&mut w, "c", false, &[expiry(3600)]);
    assert!(session_present(&frame));
}

#[test]
fn mqtt_3_1_2_5_without_clean_start_the_session_resumes() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let c = w.resume(V5, "c");
        w.subscribe(c, "t", QoS::AtLeastOnce);
        w.cut(c);
        let p = w.connect(V5, "p");
        w.publish(p, "t", QoS::AtLeastOnce, "waited");
        let (c, frame) = connack_with(&mut w, "c", false, &[expiry(3600)]);
        assert!(session_present(&frame));
        w.publish(p, "t", QoS::AtLeastOnce, "live");
        assert_eq!(payloads(&w.drain(c)), ["waited", "live"]);
    }
}

#[test]
fn mqtt_3_1_2_6_without_clean_start_and_session_a_new_one() {
    let mut w = World::new(1);
    let (c, frame) = connack_with(&mut w, "c", false, &[expiry(3600)]);
    assert!(!session_present(&frame));
    w.cut(c);
    let (_, frame) = connack_with(&mut w, "c", false, &[]);
    assert!(session_present(&frame), "a session was made");
}

/// A CONNECT of client `i` with these flags, whose payload goes on behind the identifier as said.
fn connect_bytes(flags: u8, behind: &str) -> Vec<u8> {
    packet(0x10, &format!("0004'MQTT'05 {flags:02X} 003C 00 0001'i' {behind}"))
}

const ENDS_EARLY: &str = "the packet ends in the middle of a field";
const LEFT_OVER: &str = "bytes after the packet's end";

#[test]
fn mqtt_3_1_2_9_will_flag_asks_for_every_will_field() {
    // Will Properties, Will Topic, Will Payload: any of them missing, and the nearest that is right.
    for behind in ["", "00", "00 0001'w'", "0001'w' 0000"] {
        refused(V5, &connect_bytes(0x06, behind), 0x81, ENDS_EARLY);
    }
    let bytes = connect_bytes(0x06, "00 0001'w' 0001'p'");
    let Packet::Connect(connect) = accepted(V5, &bytes) else { panic!("not a CONNECT") };
    assert_eq!(connect.will, Some(will("w", "p")));
}

#[test]
fn mqtt_3_1_2_16_user_name_flag_0() {
    refused(V5, &connect_bytes(0x02, "0001'u'"), 0x81, LEFT_OVER);
    refused(V5, &connect_bytes(0x42, "0001'u' 0001'p'"), 0x81, LEFT_OVER);
    accepted(V5, &connect_bytes(0x02, ""));
}

#[test]
fn mqtt_3_1_2_17_user_name_flag_1() {
    refused(V5, &connect_bytes(0x82, ""), 0x81, ENDS_EARLY);
    let bytes = connect_bytes(0x82, "0001'u'");
    let Packet::Connect(connect) = accepted(V5, &bytes) else { panic!("not a CONNECT") };
    assert_eq!((connect.username, connect.password), (Some("u"), None));
}

#[test]
fn mqtt_3_1_2_18_password_flag_0() {
    refused(V5, &connect_bytes(0x82, "0001'u' 0001'p'"), 0x81, LEFT_OVER);
    accepted(V5, &connect_bytes(0x82, "0001'u'"));
}

#[test]
fn mqtt_3_1_2_19_password_flag_1() {
    refused(V5, &connect_bytes(0x42, ""), 0x81, ENDS_EARLY);
    refused(V5, &connect_bytes(0xC2, "0001'u'"), 0x81, ENDS_EARLY);
    // 5.0 allows a password without a user name.
    let bytes = connect_bytes(0x42, "0002 00FF");
    let Packet::Connect(connect) = accepted(V5, &bytes) else { panic!("not a CONNECT") };
    assert_eq!((connect.username, connect.password), (None, Some(&[0, 0xFF][..])));
}

#[test]
fn mqtt_3_1_2_22_keep_alive() {
    let mut w = World::new(1);
    let silent = w.open(&Connect { keep_alive: 10, ..connect(V5, "silent", true) });
    let pings = w.open(&Connect { keep_alive: 10, ..connect(V5, "pings", true) });
    let off = w.open(&Connect { keep_alive: 0, ..connect(V5, "off", true) });
    w.advance(Duration::from_millis(14_900));
    for c in [pings, off] {
        w.send(c, &Packet::PingReq);
        w.take_one(c);
    }
    assert!(w.clients[silent].connection.is_some(), "not before one and a half times the Keep Alive");
    // Timers run in whole seconds: at most one late.
    w.advance(Duration::from_millis(1_100));
    expect_closed(&mut w, silent, ReasonCode::KeepAliveTimeout);
    assert!(w.clients[pings].connection.is_some(), "its PINGREQ counts");
    w.advance(Duration::from_secs(20));
    expect_closed(&mut w, pings, ReasonCode::KeepAliveTimeout);
    w.advance(Duration::from_secs(1_000_000));
    assert!(w.clients[off].connection.is_some(), "0 turns it off");
}

#[test]
fn mqtt_3_1_2_22_every_packet_counts() {
    let mut w = World::new(1);
    let c = w.open(&Connect { keep_alive: 10, ..connect(V5, "c", true) });
    for _ in 0..10 {
        w.advance(Duration::from_secs(14));
        w.publish(c, "t", QoS::AtMostOnce, "x");
    }
    assert!(w.clients[c].connection.is_some());
    // Half a packet does not.
    w.advance(Duration::from_secs(10));
    w.send_bytes(c, &[0x30, 0x05, 0x00]);
    w.advance(Duration::from_secs(6));
    expect_closed(&mut w, c, ReasonCode::KeepAliveTimeout);
}

#[test]
fn mqtt_3_1_2_23_session_state_is_kept() {
    let mut w = World::new(1);
    let c = open_with(&mut w, "c", true, &[expiry(100)]);
    w.subscribe(c, "t", QoS::ExactlyOnce);
    let p = w.connect(V5, "p");
    for payload in ["unacknowledged", "released"] {
        w.publish(p, "t", QoS::ExactlyOnce, payload);
    }
    // One delivery is left at PUBLISH, the other at PUBREL; an incoming one waits for its PUBREL.
    let second = w.take(c)[1].publish().packet_id.expect("QoS 2");
    w.send(c, &Packet::PubRec(ack_of(second)));
    w.send(c, &Packet::Publish(Publish { packet_id: Some(id(7)), ..message("t/2", QoS::ExactlyOnce, "in") }));
    w.cut(c);
    w.publish(p, "t", QoS::ExactlyOnce, "queued");
    w.advance(Duration::from_secs(98));
    let c = open_with(&mut w, "c", false, &[expiry(100)]);
    let frames = w.take(c);
    assert_eq!(frames.len(), 3, "{frames:?}");
    assert_eq!(frames[0].publish().payload, b"unacknowledged");
    assert_eq!(frames[1].packet(), Packet::PubRel(ack_of(second)));
    assert_eq!(frames[2].publish().payload, b"queued");
    w.send(c, &Packet::PubRel(ack_of(id(7))));
    assert_eq!(w.take_one(c).packet(), Packet::PubComp(ack_of(id(7))), "the incoming id is still known");
}

#[test]
fn mqtt_3_1_2_24_maximum_packet_size() {
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    // 2 + 2 + 1 for the fixed header, the topic and the properties, and 2 for a packet id.
    let overheads = [(QoS::AtMostOnce, 6), (QoS::AtLeastOnce, 8), (QoS::ExactlyOnce, 8)];
    // With an identifier of its own, which takes two bytes, a client gets no ready-made packets.
    for (i, (qos, overhead)) in overheads.into_iter().chain(overheads).enumerate() {
        let (identifier, overhead) = if i < 3 { (0, overhead) } else { (1, overhead + 2) };
        let c = open_with(&mut w, "c", true, &[Property::MaximumPacketSize(100)]);
        w.subscribe_with(c, "t", options(qos), identifier);
        for len in 80..120 {
            w.publish(p, "t", qos, &"x".repeat(len));
        }
        let got = w.drain(c);
        let sizes: Vec<usize> = got.iter().map(|frame| frame.bytes.len()).collect();
        let expected: Vec<usize> = (80 + overhead..=100).collect();
        assert_eq!(sizes, expected, "everything up to the size and nothing over it");
    }
}

#[test]
fn mqtt_3_1_2_24_no_packet_of_any_type_is_larger() {
    let refused = |packet_id, qos| {
        Packet::Publish(Publish { packet_id: Some(id(packet_id)), ..message("$SYS/x", qos, "") })
    };
    for size in 1..150 {
        let mut w = World::new(1);
        let properties =
            list(&[Property::MaximumPacketSize(size), Property::RequestResponseInformation(true)]);
        let hello = Connect { properties: properties.as_properties(), ..connect(V5, "c", true) };
        let Ok(c) = w.try_connect(&hello) else {
            assert!(size < 40, "a client that takes {size} bytes can be served");
            continue;
        };
        // Answers of every kind, many of them refusals, which might explain themselves at length.
        w.send(c, &refused(2, QoS::AtLeastOnce));
        w.send(c, &refused(3, QoS::ExactlyOnce));
        w.send(c, &Packet::PubRel(ack_of(id(4))));
        w.send(c, &Packet::PubRec(ack_of(id(5))));
        w.send(c, &Packet::PingReq);
        send_subscribe(&mut w, c, &[("$share/g/$share/g/t", options(QoS::AtMostOnce)); 40]);
        send_unsubscribe(&mut w, c, &["t"; 60]);
        w.send(c, &Packet::Connect(connect(V5, "c", true)));
        let frames = w.take(c);
        assert!(frames.len() >= 7, "{frames:?}");
        for frame in frames {
            assert!(frame.bytes.len() <= size as usize, "{} of {size}: {frame:?}", frame.bytes.len());
        }
        assert_eq!(w.clients[c].connection, None, "what could not be answered ended the connection");
    }
}

#[test]
fn mqtt_3_1_2_25_too_large_counts_as_sent() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        let c = open_with(&mut w, "c", true, &[Property::MaximumPacketSize(50), Property::ReceiveMaximum(1)]);
        w.subscribe(c, "t", QoS::ExactlyOnce);
        let large = "x".repeat(100);
        for qos in EVERY_QOS {
            assert_eq!(w.publish(p, "t", qos, &large), ReasonCode::Success);
        }
        assert_eq!(w.take(c), []);
        assert_eq!(dropped(&w, DropReason::TooLarge), 3);
        // Nothing of it is left: a window of one lets the next message through.
        w.publish(p, "t", QoS::ExactlyOnce, "small");
        assert_eq!(payloads(&w.drain(c)), ["small"]);
        assert_eq!(w.stats.iter().map(|stats| stats.queued_messages.get()).sum::<u64>(), 0);
    }
}

#[test]
fn mqtt_3_1_2_28_response_information_only_on_request() {
    let mut w = World::new(1);
    let information = |frame: &Frame| {
        find(connack_properties(frame), |property| match property {
            Property::ResponseInformation(text) => Some(text.to_owned()),
            _ => None,
        })
    };
    let (_, frame) = connack_with(&mut w, "c", true, &[]);
    assert_eq!(information(&frame), None, "absent is 0");
    let (_, frame) = connack_with(&mut w, "c", true, &[Property::RequestResponseInformation(false)]);
    assert_eq!(information(&frame), None);
    let (_, frame) = connack_with(&mut w, "c", true, &[Property::RequestResponseInformation(true)]);
    assert_eq!(information(&frame).as_deref(), Some("response/c"));
}

#[test]
fn mqtt_3_1_2_29_problem_information_only_if_wanted() {
    for (asked, wanted) in [(None, true), (Some(true), true), (Some(false), false)] {
        let mut w = World::new(1);
        let properties: Vec<Property<'_>> =
            asked.map(Property::RequestProblemInformation).into_iter().collect();
        let c = open_with(&mut w, "c", true, &properties);
        w.send(c, &Packet::Publish(message("$SYS/x", QoS::AtLeastOnce, "")));
        w.send(c, &Packet::Publish(message("$SYS/x", QoS::ExactlyOnce, "")));
        let frames = w.subscribe_raw(c, "$share/g/$share/g/t", options(QoS::AtMostOnce), 0);
        assert_eq!(frames.len(), 3, "{frames:?}");
        for frame in &frames {
            let properties = match frame.packet() {
                Packet::PubAck(ack) | Packet::PubRec(ack) => {
                    assert_eq!(ack.reason, ReasonCode::NotAuthorized);
                    ack.properties
                }
                Packet::SubAck(suback) => {
                    assert_eq!(suback.reasons, [ReasonCode::NotAuthorized as u8]);
                    suback.properties
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(reason_string(properties).is_some(), wanted, "{frame:?}");
            assert_eq!(user_properties(properties), []);
        }
    }
}

#[test]
fn mqtt_3_1_3_2_client_id_names_the_session() {
    let mut w = World::new(3);
    for (client_id, topic) in [("c", "t/c"), ("C", "t/C"), ("c ", "t/c "), ("é", "t/é")] {
        let c = w.resume(V5, client_id);
        w.subscribe(c, topic, QoS::AtLeastOnce);
        w.cut(c);
    }
    let p = w.connect(V5, "p");
    for client_id in ["c", "C", "c ", "é"] {
        w.publish(p, &format!("t/{client_id}"), QoS::AtLeastOnce, client_id);
    }
    for client_id in ["c", "C", "c ", "é"] {
        let c = w.resume(V5, client_id);
        assert_eq!(payloads(&w.drain(c)), [client_id], "its own session and no other");
    }
}

#[test]
fn mqtt_3_1_3_3_client_id_is_there_and_first() {
    refused(V5, &packet(0x10, "0004'MQTT'05 02 003C 00"), 0x81, ENDS_EARLY);
    let bytes = connect_bytes(0xC6, "00 0001'w' 0001'm' 0001'u' 0001'p'");
    let Packet::Connect(connect) = accepted(V5, &bytes) else { panic!("not a CONNECT") };
    assert_eq!(connect.client_id, "i");
}

#[test]
fn mqtt_3_1_3_4_client_id_is_utf8() {
    let hello = |client_id: &str| packet(0x10, &format!("0004'MQTT'05 02 003C 00 {client_id}"));
    refused(V5, &hello("0002 C328"), 0x81, "a string is not UTF-8");
    refused(V5, &hello("0001 00"), 0x81, "a string holds U+0000");
    accepted(V5, &hello("0002 C3A9"));
}

#[test]
fn mqtt_3_1_3_5_client_ids_that_must_be_allowed() {
    let mut w = World::new(3);
    let characters = ('0'..='9').chain('a'..='z').chain('A'..='Z');
    let mut names: Vec<String> = characters.map(String::from).collect();
    names.extend((1..=23).map(|len| "0aZ".repeat(8)[..len].to_owned()));
    for name in names {
        let c = w.connect(V5, &name);
        expect_open(&mut w, c);
    }
}

#[test]
fn mqtt_3_1_3_7_assigned_client_id_is_the_clients_own() {
    let mut w = World::new(3);
    let (c, frame) = connack_with(&mut w, "", false, &[expiry(100)]);
    let assigned = find(connack_properties(&frame), |property| match property {
        Property::AssignedClientIdentifier(name) => Some(name.to_owned()),
        _ => None,
    });
    let assigned = assigned.expect("told which it is");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    w.cut(c);
    let (_, frame) = connack_with(&mut w, &assigned, false, &[]);
    assert!(session_present(&frame));
}

#[test]
fn mqtt_3_1_3_12_user_name_is_utf8() {
    refused(V5, &connect_bytes(0x82, "0002 C328"), 0x81, "a string is not UTF-8");
    refused(V5, &connect_bytes(0x82, "0001 00"), 0x81, "a string holds U+0000");
    accepted(V5, &connect_bytes(0x82, "0002 C3A9"));
}

#[test]
fn mqtt_3_1_4_3_take_over() {
    for (clean_start, kept) in [(false, 100), (true, 100), (false, 0), (true, 0)] {
        let mut w = World::new(3);
        let old = open_with(&mut w, "c", false, &[expiry(kept)]);
        w.subscribe(old, "t", QoS::AtLeastOnce);
        let (new, frame) = connack_with(&mut w, "c", clean_start, &[expiry(kept)]);
        expect_closed(&mut w, old, ReasonCode::SessionTakenOver);
        assert_eq!(session_present(&frame), !clean_start && kept > 0);
        expect_open(&mut w, new);
        let p = w.connect(V5, "p");
        w.publish(p, "t", QoS::AtLeastOnce, "x");
        assert_eq!(w.drain(new).len(), usize::from(!clean_start && kept > 0));
        // A third one, so that a connection that took over can be taken over.
        let _third = open_with(&mut w, "c", false, &[]);
        expect_closed(&mut w, new, ReasonCode::SessionTakenOver);
    }
}

#[test]
fn mqtt_3_1_4_4_clean_start_is_done_for_a_live_session_too() {
    let mut w = World::new(1);
    let old = w.resume(V5, "c");
    w.subscribe(old, "t", QoS::AtLeastOnce);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "unacknowledged");
    let (new, frame) = connack_with(&mut w, "c", true, &[expiry(3600)]);
    assert!(!session_present(&frame));
    assert_eq!(w.take(new), [], "the new session knows nothing of the old one");
    assert_eq!(dropped(&w, DropReason::SessionEnded), 1);
}

#[test]
fn mqtt_3_1_4_5_connect_is_acknowledged() {
    let mut w = World::new(1);
    let (_, frame) = connack_with(&mut w, "c", true, &[]);
    match frame.packet() {
        Packet::ConnAck(connack) => assert_eq!(connack.reason, ReasonCode::Success),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refused_connect_changes_nothing() {
    let mut w = World::new(1);
    let old = w.resume(V5, "c");
    w.subscribe(old, "t", QoS::AtLeastOnce);
    let method = list(&[Property::AuthenticationMethod("SCRAM-SHA-1")]);
    let refused = Connect { properties: method.as_properties(), ..connect(V5, "c", true) };
    let error = w.try_connect(&refused).expect_err("no such method");
    assert_eq!(error.reason, ReasonCode::BadAuthenticationMethod);
    let refused = Connect { will: Some(will("$SYS/x", "")), ..connect(V5, "c", true) };
    let error = w.try_connect(&refused).expect_err("not the client's to publish");
    assert_eq!(error.reason, ReasonCode::NotAuthorized);
    expect_open(&mut w, old);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "still there");
    assert_eq!(payloads(&w.drain(old)), ["still there"]);
}

#[test]
fn sessions_are_limited_in_number() {
    let mut w = World::limited(Limits { max_sessions: 2, ..Limits::default() });
    let (a, _b) = (w.resume(V5, "a"), w.connect(V5, "b"));
    w.cut(a);
    let error = w.try_connect(&connect(V5, "c", true)).expect_err("the third");
    assert_eq!(error.reason, ReasonCode::QuotaExceeded);
    let a = w.resume(V5, "a");
    assert_eq!(w.clients[a].closed, None::<CloseReason>, "one that is there can always come back");
}
