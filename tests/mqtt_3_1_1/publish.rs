//! PUBLISH (3.3): DUP, QoS, RETAIN, the topic name, and what it is answered with.

use weirmq::protocol::packet::*;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;
use crate::support::*;

/// What a client that subscribes now gets of the retained messages.
fn replay(w: &mut World, filter: &str) -> Vec<Frame> {
    let late = w.connect(V4, "late");
    w.subscribe(late, filter, QoS::ExactlyOnce);
    let got = w.drain(late);
    w.cut(late);
    got
}

#[test]
fn mqtt_3_3_1_1_dup_when_it_is_sent_again() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut w = World::new(1);
        let (c, p) = (w.resume(V4, "c"), w.connect(V4, "p"));
        w.subscribe(c, "t", qos);
        w.publish(p, "t", qos, "x");
        assert!(!w.take_one(c).publish().dup);
        for _ in 0..2 {
            w.cut(c);
            let c = w.resume(V4, "c");
            assert!(w.take_one(c).publish().dup);
            w.cut(c);
        }
        // What was never sent is not sent again.
        w.publish(p, "t", qos, "new");
        let c = w.resume(V4, "c");
        let dups: Vec<bool> = w.take(c).iter().map(|frame| frame.publish().dup).collect();
        assert_eq!(dups, [true, false]);
    }
}

#[test]
fn mqtt_3_3_1_2_no_dup_at_qos_0() {
    closes(V4, &packet(0x38, "0001't' 'x'"), "reserved flags in the fixed header");
    // Nor from the server, even if it was a repeat on its way in, or the subscriber's connection is its second.
    let mut w = World::new(1);
    let (c, p) = (w.resume(V4, "c"), w.connect(V4, "p"));
    w.subscribe(c, "t", QoS::AtMostOnce);
    w.cut(c);
    let c = w.resume(V4, "c");
    w.send_bytes(p, &packet(0x3A, "0001't' 0001 'x'"));
    assert_eq!(take_bytes(&mut w, c), packet(0x30, "0001't' 'x'"));
}

#[test]
fn mqtt_3_3_1_3_dup_is_not_passed_on() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    w.subscribe(c, "t", QoS::ExactlyOnce);
    for (n, qos) in [QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        w.publish_with(p, &Publish { dup: true, ..numbered("t", qos, 5 + n as u16, "x") });
        let frame = &w.drain(c)[0];
        assert_eq!((frame.publish().qos, frame.publish().dup), (qos, false));
    }
}

#[test]
fn mqtt_3_3_1_4_qos_3() {
    for first in [0x36, 0x37, 0x3E, 0x3F] {
        closes(V4, &packet(first, "0001't' 0001 'x'"), "reserved flags in the fixed header");
    }
}

#[test]
fn mqtt_3_3_1_5_a_retained_message_is_stored_with_its_qos() {
    for qos in EVERY_QOS {
        let mut w = World::new(2);
        let p = w.connect(V4, "p");
        w.publish_with(p, &retained("a/b", qos, "first"));
        w.publish_with(p, &retained("a/b", qos, "second"));
        for filter in ["a/b", "a/+", "#"] {
            let got = replay(&mut w, filter);
            assert_eq!(payloads(&got), ["second"]);
            assert_eq!(got[0].publish().qos, qos);
        }
    }
}

#[test]
fn mqtt_3_3_1_6_a_new_subscription_gets_the_last_of_every_matching_topic() {
    let mut w = World::new(2);
    let p = w.connect(V4, "p");
    for n in 0..600 {
        w.publish_with(p, &retained(&format!("a/{n}"), QoS::AtLeastOnce, "old"));
        w.publish_with(p, &retained(&format!("a/{n}"), QoS::AtLeastOnce, &n.to_string()));
    }
    w.publish_with(p, &retained("b/1", QoS::AtLeastOnce, "not asked for"));
    let got = replay(&mut w, "a/+");
    let mut numbers: Vec<usize> = payloads(&got).iter().map(|text| text.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..600).collect::<Vec<_>>());
    assert!(
        got.iter().all(|frame| frame.publish().topic.strip_prefix("a/")
            == std::str::from_utf8(frame.publish().payload).ok())
    );
}

#[test]
fn mqtt_3_3_1_7_a_retained_message_at_qos_0_replaces_what_was_there() {
    let mut w = World::new(1);
    let p = w.connect(V4, "p");
    w.publish_with(p, &retained("t", QoS::ExactlyOnce, "old"));
    w.publish_with(p, &retained("t", QoS::AtMostOnce, "new"));
    let got = replay(&mut w, "t");
    assert_eq!(payloads(&got), ["new"]);
    assert_eq!(got[0].publish().qos, QoS::AtMostOnce);
}

#[test]
fn mqtt_3_3_1_8_retain_is_1_because_of_a_new_subscription() {
    let mut w = World::new(1);
    let p = w.connect(V4, "p");
    for qos in EVERY_QOS {
        w.publish_with(p, &retained("t", qos, "x"));
        let got = replay(&mut w, "t");
        assert_eq!(got.len(), 1);
        assert!(got[0].publish().retain);
    }
}

#[test]
fn mqtt_3_3_1_9_retain_is_0_because_of_an_established_subscription() {
    for clean_session in [true, false] {
        let mut w = World::new(2);
        let (c, p) = (w.open(&connect(V4, "c", clean_session)), w.connect(V4, "p"));
        w.subscribe(c, "t", QoS::ExactlyOnce);
        for retain in [true, false] {
            for qos in EVERY_QOS {
                w.publish_with(p, &Publish { retain, ..message("t", qos, "x") });
                let got = w.drain(c);
                assert_eq!(got.len(), 1);
                assert!(!got[0].publish().retain);
            }
        }
    }
    // And what waited for its subscriber was not sent for a new subscription either.
    let mut w = World::new(1);
    let (c, p) = (w.resume(V4, "c"), w.connect(V4, "p"));
    w.subscribe(c, "t", QoS::ExactlyOnce);
    w.cut(c);
    w.publish_with(p, &retained("t", QoS::AtLeastOnce, "x"));
    let c = w.resume(V4, "c");
    assert!(!w.take_one(c).publish().retain);
}

#[test]
fn mqtt_3_3_1_10_an_empty_retained_message_removes_what_was_there() {
    let mut w = World::new(2);
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    w.subscribe(c, "t", QoS::ExactlyOnce);
    for qos in EVERY_QOS {
        w.publish_with(p, &retained("t", QoS::AtLeastOnce, "x"));
        w.publish_with(p, &retained("t/u", QoS::AtLeastOnce, "stays"));
        assert_eq!(payloads(&w.drain(c)), ["x"]);
        // It is delivered as any other message is.
        w.publish_with(p, &retained("t", qos, ""));
        let got = w.drain(c);
        assert_eq!(payloads(&got), [""]);
        assert_eq!((got[0].publish().qos, got[0].publish().retain), (qos, false));
        assert_eq!(payloads(&replay(&mut w, "t/#")), ["stays"]);
    }
}

#[test]
fn mqtt_3_3_1_11_an_empty_retained_message_is_not_stored() {
    let mut w = World::new(1);
    let p = w.connect(V4, "p");
    for qos in EVERY_QOS {
        w.publish_with(p, &retained("t", qos, ""));
        assert_eq!(replay(&mut w, "#"), []);
        assert_eq!(w.shared.retained().count(), 0);
    }
}

#[test]
fn mqtt_3_3_1_12_without_retain_nothing_is_stored_nor_replaced() {
    let mut w = World::new(1);
    let p = w.connect(V4, "p");
    w.publish_with(p, &retained("t", QoS::AtLeastOnce, "kept"));
    for qos in EVERY_QOS {
        for payload in ["passes", ""] {
            w.publish(p, "t", qos, payload);
            w.publish(p, "u", qos, payload);
            assert_eq!(payloads(&replay(&mut w, "#")), ["kept"]);
        }
    }
}

#[test]
fn mqtt_3_3_2_1_the_topic_name_is_first_and_utf8() {
    closes(V4, &packet(0x30, ""), "the packet ends in the middle of a field");
    closes(V4, &packet(0x32, "0001"), "the packet ends in the middle of a field");
    closes(V4, &packet(0x30, "0002 C328 'x'"), "a string is not UTF-8");
    // As the server sends it: behind the fixed header, and before the identifier.
    let mut w = World::new(1);
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    w.subscribe(c, "è", QoS::AtLeastOnce);
    w.send_bytes(p, &packet(0x32, "0002 C3A8 0001 'x'"));
    assert_eq!(take_bytes(&mut w, c), packet(0x32, "0002 C3A8 0001 'x'"));
}

#[test]
fn mqtt_3_3_2_2_no_wildcards_in_a_topic_name() {
    let detail = "a topic name is empty or holds a wildcard";
    for topic in ["+", "#", "a/+/b", "a/#", "a+", "#b"] {
        for (first, id) in [(0x30, ""), (0x31, ""), (0x32, "0001"), (0x34, "0001")] {
            closes(V4, &packet(first, &format!("{} {id} 'x'", field(&hex(topic.as_bytes())))), detail);
        }
    }
}

#[test]
fn mqtt_3_3_4_1_a_publish_is_answered_as_its_qos_asks() {
    let mut w = World::new(1);
    let p = w.connect(V4, "p");
    w.subscribe(p, "other", QoS::AtMostOnce);
    for topic in ["nobody's", "other"] {
        w.send(p, &Packet::Publish(message(topic, QoS::AtMostOnce, "x")));
        assert!(w.take(p).iter().all(|frame| frame.bytes[0] == 0x30), "no answer");
        w.send(p, &Packet::Publish(numbered(topic, QoS::AtLeastOnce, 3, "x")));
        assert_eq!(w.take(p)[0].bytes, [0x40, 2, 0, 3]);
        w.send(p, &Packet::Publish(numbered(topic, QoS::ExactlyOnce, 4, "x")));
        assert_eq!(w.take(p)[0].bytes, [0x50, 2, 0, 4]);
        w.send(p, &Packet::PubRel(ack_of(id(4))));
        assert_eq!(w.take(p)[0].bytes, [0x70, 2, 0, 4]);
    }
}

#[test]
fn mqtt_3_3_5_1_overlapping_subscriptions_deliver_at_the_highest_of_their_qos() {
    for clean_session in [true, false] {
        for filters in [["a/b", "a/+", "#"], ["#", "a/b", "a/+"], ["a/+", "#", "a/b"]] {
            let mut w = World::new(2);
            let (c, p) = (w.open(&connect(V4, "c", clean_session)), w.connect(V4, "p"));
            for (n, filter) in filters.into_iter().enumerate() {
                w.subscribe(c, filter, EVERY_QOS[n]);
                for qos in EVERY_QOS {
                    w.publish(p, "a/b", qos, "x");
                    let got = w.drain(c);
                    assert_eq!(got.len(), 1, "one copy is enough");
                    assert_eq!(got[0].publish().qos, qos.min(EVERY_QOS[n]));
                }
            }
        }
    }
}

#[test]
fn mqtt_3_3_5_2_what_is_not_authorised_is_acknowledged_and_goes_nowhere() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    w.subscribe(c, "$SYS/#", QoS::ExactlyOnce);
    for qos in EVERY_QOS {
        w.publish(p, "$SYS/broker/version", qos, "mine");
        w.publish_with(p, &retained("$SYS/broker/version", qos, "mine"));
    }
    expect_open(&mut w, p);
    assert_eq!(w.drain(c), []);
    assert_eq!(w.shared.retained().count(), 0);
}
