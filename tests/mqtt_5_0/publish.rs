//! PUBLISH (3.3): its flags, retained messages, and the topic.

use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;

/// Publishes with RETAIN.
fn retain(w: &mut World, client: usize, topic: &str, qos: QoS, payload: &str) {
    let reason = w.publish_with(client, &Publish { retain: true, ..message(topic, qos, payload) });
    assert!(!reason.is_failure());
}

/// What a client that subscribes now is sent as retained.
fn retained_for(w: &mut World, filter: &str) -> Vec<Frame> {
    let c = w.connect(V5, "late");
    w.subscribe(c, filter, QoS::ExactlyOnce);
    let frames = w.drain(c);
    w.cut(c);
    frames
}

#[test]
fn mqtt_3_3_1_1_dup_on_redelivery() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut w = World::new(1);
        let c = w.resume(V5, "c");
        w.subscribe(c, "t", qos);
        let p = w.connect(V5, "p");
        w.publish(p, "t", qos, "x");
        let first = only_publish(&mut w, c);
        w.cut(c);
        w.publish(p, "t", qos, "y");
        let c = w.resume(V5, "c");
        let frames = w.take(c);
        assert_eq!(frames.len(), 2);
        assert!(frames[0].publish().dup);
        assert_eq!(frames[0].publish().packet_id, first.publish().packet_id);
        assert!(!frames[1].publish().dup, "this one was never sent before");
    }
}

#[test]
fn mqtt_3_3_1_2_dup_is_0_at_qos_0() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.subscribe(c, "t", QoS::AtMostOnce);
    let p = w.connect(V5, "p");
    w.publish_with(p, &Publish { dup: true, ..message("t", QoS::AtLeastOnce, "x") });
    let frame = only_publish(&mut w, c);
    assert_eq!((frame.publish().qos, frame.publish().dup), (QoS::AtMostOnce, false));
    // And towards the server.
    w.send_bytes(p, &packet(0x38, "0001't' 00 'x'"));
    expect_closed(&mut w, p, ReasonCode::MalformedPacket);
}

#[test]
fn mqtt_3_3_1_3_dup_is_not_passed_on() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.subscribe(c, "t", QoS::ExactlyOnce);
    let p = w.connect(V5, "p");
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        w.publish_with(p, &Publish { dup: true, ..message("t", qos, "x") });
        let got = w.drain(c);
        assert_eq!(got.len(), 1);
        assert!(!got[0].publish().dup);
    }
}

#[test]
fn mqtt_3_3_1_4_qos_3() {
    for first in [0x36, 0x37, 0x3E, 0x3F] {
        let mut w = World::new(1);
        let p = w.connect(V5, "p");
        w.send_bytes(p, &packet(first, "0001't' 0001 00 'x'"));
        expect_closed(&mut w, p, ReasonCode::MalformedPacket);
    }
}

#[test]
fn mqtt_3_3_1_5_retained_message_is_stored_and_replaced() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        for (qos, payload) in
            [(QoS::AtLeastOnce, "first"), (QoS::AtMostOnce, "second"), (QoS::ExactlyOnce, "third")]
        {
            retain(&mut w, p, "t", qos, payload);
            let got = retained_for(&mut w, "t");
            assert_eq!(payloads(&got), [payload]);
            assert_eq!(got[0].publish().qos, qos, "stored with its QoS");
            assert!(got[0].publish().retain, "marked as what was there before");
        }
    }
}

#[test]
fn mqtt_3_3_1_6_empty_payload_removes() {
    for qos in EVERY_QOS {
        let mut w = World::new(1);
        let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
        let as_published = SubscribeOptions { retain_as_published: true, ..options(qos) };
        w.subscribe_with(c, "t", as_published, 0);
        retain(&mut w, p, "t", qos, "x");
        retain(&mut w, p, "t", qos, "");
        let got = w.drain(c);
        assert_eq!(payloads(&got), ["x", ""], "it goes to those who are there, like any other");
        assert!(got[1].publish().retain);
        assert_eq!(retained_for(&mut w, "t"), []);
    }
}

#[test]
fn mqtt_3_3_1_7_empty_payload_is_not_stored() {
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    retain(&mut w, p, "t", QoS::AtLeastOnce, "");
    assert_eq!(retained_for(&mut w, "t"), []);
    assert_eq!(w.shared.retained().count(), 0);
}

#[test]
fn mqtt_3_3_1_8_without_retain_nothing_is_stored_or_replaced() {
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "x");
    assert_eq!(retained_for(&mut w, "t"), []);
    retain(&mut w, p, "t", QoS::AtLeastOnce, "kept");
    w.publish(p, "t", QoS::AtLeastOnce, "y");
    w.publish(p, "t", QoS::AtLeastOnce, "");
    assert_eq!(payloads(&retained_for(&mut w, "t")), ["kept"]);
}

/// A world in which `t/1` and `t/2` are retained and `u` is too; and a client of it.
fn with_retained() -> (World, usize) {
    let mut w = World::new(3);
    let p = w.connect(V5, "p");
    for topic in ["t/1", "t/2", "u"] {
        retain(&mut w, p, topic, QoS::AtLeastOnce, topic);
    }
    let c = w.resume(V5, "c");
    (w, c)
}

fn handling(retain_handling: RetainHandling) -> SubscribeOptions {
    SubscribeOptions { retain_handling, ..options(QoS::AtLeastOnce) }
}

#[test]
fn mqtt_3_3_1_9_retain_handling_0() {
    let (mut w, c) = with_retained();
    for _ in 0..3 {
        w.subscribe_with(c, "t/+", handling(RetainHandling::Send), 0);
        let got = w.drain(c);
        assert_eq!(payloads(&got), ["t/1", "t/2"], "at every SUBSCRIBE");
        assert!(got.iter().all(|frame| frame.publish().retain));
    }
}

#[test]
fn mqtt_3_3_1_10_retain_handling_1() {
    let (mut w, c) = with_retained();
    w.subscribe_with(c, "t/+", handling(RetainHandling::SendIfNew), 0);
    assert_eq!(payloads(&w.drain(c)), ["t/1", "t/2"]);
    w.subscribe_with(c, "t/+", handling(RetainHandling::SendIfNew), 0);
    assert_eq!(w.drain(c), [], "it existed");
    // Another filter is another subscription, and a session that was resumed has those it had.
    w.subscribe_with(c, "t/1", handling(RetainHandling::SendIfNew), 0);
    assert_eq!(payloads(&w.drain(c)), ["t/1"]);
    w.cut(c);
    let c = w.resume(V5, "c");
    w.subscribe_with(c, "t/+", handling(RetainHandling::SendIfNew), 0);
    assert_eq!(w.drain(c), []);
    w.unsubscribe(c, "t/+");
    w.subscribe_with(c, "t/+", handling(RetainHandling::SendIfNew), 0);
    assert_eq!(payloads(&w.drain(c)), ["t/1", "t/2"], "it is new again");
}

#[test]
fn mqtt_3_3_1_11_retain_handling_2() {
    let (mut w, c) = with_retained();
    for _ in 0..2 {
        w.subscribe_with(c, "t/+", handling(RetainHandling::DoNotSend), 0);
        assert_eq!(w.drain(c), []);
    }
    let p = w.connect(V5, "p");
    retain(&mut w, p, "t/1", QoS::AtLeastOnce, "live");
    assert_eq!(payloads(&w.drain(c)), ["live"]);
}

/// The RETAIN flags that takers of every kind see of a live message that was published with `retain`.
fn live_retain_flags(retain_as_published: bool, retain: bool) -> Vec<bool> {
    let mut w = World::new(3);
    let takers = [
        (w.connect(V5, "transient"), "t"),
        (w.resume(V5, "persistent"), "t"),
        (w.connect(V5, "member"), "$share/g/t"),
    ];
    let mut flags = Vec::new();
    for qos in EVERY_QOS {
        for (c, filter) in takers {
            w.subscribe_with(c, filter, SubscribeOptions { retain_as_published, ..options(qos) }, 0);
            w.drain(c);
        }
        let p = w.connect(V5, "p");
        w.publish_with(p, &Publish { retain, ..message("t", qos, "x") });
        for (c, _) in takers {
            let got = w.drain(c);
            assert_eq!(got.len(), 1);
            flags.push(got[0].publish().retain);
        }
    }
    flags
}

#[test]
fn mqtt_3_3_1_12_retain_as_published_0() {
    assert_eq!(live_retain_flags(false, false), [false; 9]);
    assert_eq!(live_retain_flags(false, true), [false; 9]);
}

#[test]
fn mqtt_3_3_1_13_retain_as_published_1() {
    assert_eq!(live_retain_flags(true, false), [false; 9]);
    assert_eq!(live_retain_flags(true, true), [true; 9]);
}

#[test]
fn mqtt_3_3_2_1_topic_name_is_first() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "#", QoS::AtLeastOnce);
    w.publish(p, "a/é", QoS::AtLeastOnce, "x");
    let frame = only_publish(&mut w, c);
    assert_eq!(frame.bytes[2..8], *b"\x00\x04a/\xC3\xA9", "right behind the fixed header");
    w.send_bytes(p, &packet(0x30, "0002 C328 00"));
    expect_closed(&mut w, p, ReasonCode::MalformedPacket);
}

#[test]
fn mqtt_3_3_2_2_wildcards_in_a_topic_name() {
    for topic in ["a/+", "#", "a+", "a/#", "+"] {
        let mut w = World::new(1);
        let p = w.connect(V5, "p");
        w.send(p, &Packet::Publish(message(topic, QoS::AtLeastOnce, "x")));
        expect_closed(&mut w, p, ReasonCode::TopicNameInvalid);
    }
}

#[test]
fn mqtt_3_3_2_3_topic_of_a_delivery_matches_the_subscription() {
    let mut w = World::new(3);
    let topics = ["a", "a/b", "a/b/c", "/a", "a/", "A/B"];
    let filters = ["a/b", "a/+", "a/#", "+/+", "#", "A/#"];
    let p = w.connect(V5, "p");
    for (i, filter) in filters.into_iter().enumerate() {
        let c = w.connect(V5, &format!("c{i}"));
        w.subscribe(c, filter, QoS::AtMostOnce);
        for topic in topics {
            w.publish(p, topic, QoS::AtMostOnce, topic);
        }
        let got = w.take(c);
        assert!(!got.is_empty());
        for frame in got {
            let publish = frame.publish();
            assert!(weirmq::protocol::topic::matches(filter, publish.topic), "{filter} {}", publish.topic);
            assert_eq!(publish.payload, publish.topic.as_bytes(), "the topic it was published to");
        }
    }
}

#[test]
fn mqtt_3_3_4_1_publish_is_answered_as_its_qos_asks() {
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    w.send(p, &Packet::Publish(message("t", QoS::AtMostOnce, "x")));
    assert_eq!(w.take(p), []);
    w.send(p, &Packet::Publish(message("t", QoS::AtLeastOnce, "x")));
    assert!(matches!(w.take_one(p).packet(), Packet::PubAck(_)));
    w.send(p, &Packet::Publish(message("t", QoS::ExactlyOnce, "x")));
    assert!(matches!(w.take_one(p).packet(), Packet::PubRec(_)));
}

/// Overlapping subscriptions of three clients of different kinds, with identifiers where not 0.
fn overlapping(w: &mut World, held: &[(&str, QoS, u32)]) -> [usize; 2] {
    let takers = [w.connect(V5, "transient"), w.resume(V5, "persistent")];
    for c in takers {
        for (filter, qos, identifier) in held {
            w.subscribe_with(c, filter, options(*qos), *identifier);
        }
    }
    takers
}

#[test]
fn mqtt_3_3_4_2_overlapping_subscriptions_and_the_highest_qos() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        let held = [("t/+", QoS::AtMostOnce, 0), ("t/1", QoS::ExactlyOnce, 0), ("#", QoS::AtLeastOnce, 0)];
        let takers = overlapping(&mut w, &held);
        for qos in EVERY_QOS {
            w.publish(p, "t/1", qos, "x");
            w.publish(p, "t/2", qos, "y");
            for c in takers {
                let got = w.drain(c);
                assert_eq!(got.len(), 2, "one copy each");
                assert_eq!(got[0].publish().qos, qos, "2 is granted");
                assert_eq!(got[1].publish().qos, qos.min(QoS::AtLeastOnce), "1 is the highest that matches");
            }
        }
    }
}

/// The identifiers of one delivery of each taker.
fn identifiers_of(w: &mut World, takers: [usize; 2], topic: &str) -> Vec<Vec<u32>> {
    let p = w.connect(V5, "p");
    w.publish(p, topic, QoS::AtLeastOnce, "x");
    let mut all = Vec::new();
    for c in takers {
        let got = w.drain(c);
        assert_eq!(got.len(), 1);
        all.push(identifiers(&got[0]));
    }
    all
}

#[test]
fn mqtt_3_3_4_3_subscription_identifiers_are_told() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let takers =
            overlapping(&mut w, &[("t/+", QoS::AtMostOnce, 268_435_455), ("u", QoS::AtLeastOnce, 0)]);
        assert_eq!(identifiers_of(&mut w, takers, "t/1"), [[268_435_455], [268_435_455]]);
        assert_eq!(identifiers_of(&mut w, takers, "u"), [[0; 0], [0; 0]], "one without has none");
    }
}

#[test]
fn mqtt_3_3_4_4_one_copy_has_every_identifier() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let held = [
            ("t/+", QoS::AtMostOnce, 7),
            ("t/1", QoS::ExactlyOnce, 9),
            ("#", QoS::AtLeastOnce, 0),
            ("t/#", QoS::AtLeastOnce, 300),
            ("u", QoS::AtLeastOnce, 11),
        ];
        let takers = overlapping(&mut w, &held);
        assert_eq!(identifiers_of(&mut w, takers, "t/1"), [[7, 9, 300], [7, 9, 300]]);
        // A replaced subscription has its new identifier.
        for c in takers {
            w.subscribe_with(c, "t/+", options(QoS::AtMostOnce), 8);
            w.subscribe_with(c, "t/1", options(QoS::AtMostOnce), 0);
        }
        assert_eq!(identifiers_of(&mut w, takers, "t/1"), [[8, 300], [8, 300]]);
    }
}

#[test]
fn mqtt_3_3_4_6_subscription_identifier_from_a_client() {
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    w.send_bytes(p, &packet(0x30, "0001't' 02 0B01"));
    expect_closed(&mut w, p, ReasonCode::ProtocolError);
}
