//! UNSUBSCRIBE (3.10).

use weirmq::protocol::packet::*;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;
use crate::support::*;

#[test]
fn mqtt_3_10_1_1_flags_of_unsubscribe() {
    for flags in (0..16).filter(|flags| *flags != 2) {
        closes(V4, &packet(0xA0 | flags, "0001 0001't'"), "reserved flags in the fixed header");
    }
    stays(V4, &packet(0xA2, "0001 0001't'"));
}

#[test]
fn mqtt_3_10_3_1_topic_filters_are_utf8() {
    for filter in ["C328", "EDA080", "612F80"] {
        closes(V4, &packet(0xA2, &format!("0001 {}", field(filter))), "a string is not UTF-8");
        closes(V4, &packet(0xA2, &format!("0001 0001't' {}", field(filter))), "a string is not UTF-8");
    }
    // Packed without a gap.
    closes(V4, &packet(0xA2, "0001 0001't' 00 0001'u'"), "a topic filter is not well formed");
    stays(V4, &packet(0xA2, "0001 0001't' 0001'u'"));
}

#[test]
fn mqtt_3_10_3_2_unsubscribe_from_nothing() {
    closes(V4, &packet(0xA2, "0001"), "UNSUBSCRIBE without a topic filter");
}

#[test]
fn mqtt_3_10_4_1_filters_are_compared_character_by_character() {
    for clean_session in [true, false] {
        let mut w = World::new(2);
        let (c, p) = (w.open(&connect(V4, "c", clean_session)), w.connect(V4, "p"));
        w.subscribe(c, "a/+", QoS::AtLeastOnce);
        w.subscribe(c, "é/b", QoS::AtLeastOnce);
        for filter in ["a/b", "a/#", "#", "+/+", "a/+/", "/a/+", "A/+", "a/", "e\u{301}/b", "É/b"] {
            w.unsubscribe(c, filter);
        }
        w.publish(p, "a/b", QoS::AtLeastOnce, "1");
        w.publish(p, "é/b", QoS::AtLeastOnce, "2");
        assert_eq!(payloads(&w.drain(c)), ["1", "2"], "none of them was it");
        w.unsubscribe(c, "a/+");
        w.publish(p, "a/b", QoS::AtLeastOnce, "1");
        w.publish(p, "é/b", QoS::AtLeastOnce, "2");
        assert_eq!(payloads(&w.drain(c)), ["2"]);
        w.unsubscribe(c, "é/b");
        w.publish(p, "é/b", QoS::AtLeastOnce, "2");
        assert_eq!(w.drain(c), []);
    }
}

#[test]
fn mqtt_3_10_4_2_no_new_messages_are_added() {
    for clean_session in [true, false] {
        for shards in [1, 3] {
            let mut w = World::new(shards);
            let (c, p) = (w.open(&connect(V4, "c", clean_session)), w.connect(V4, "pp"));
            w.subscribe(c, "t", QoS::ExactlyOnce);
            w.unsubscribe(c, "t");
            for qos in EVERY_QOS {
                w.publish(p, "t", qos, "x");
            }
            assert_eq!(w.drain(c), []);
            // Nor while it is away.
            w.cut(c);
            w.publish(p, "t", QoS::AtLeastOnce, "x");
            let (c, _) = connack(&mut w, &connect(V4, "c", false));
            assert_eq!(w.drain(c), []);
        }
    }
}

#[test]
fn mqtt_3_10_4_3_what_was_begun_is_completed() {
    for clean_session in [true, false] {
        let mut w = World::new(2);
        let (c, p) = (w.open(&connect(V4, "c", clean_session)), w.connect(V4, "p"));
        w.subscribe(c, "t", QoS::ExactlyOnce);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce] {
            w.publish(p, "t", qos, "x");
        }
        let sent = ids(&w.take(c));
        w.send(c, &Packet::PubRec(ack_of(id(sent[1]))));
        w.take(c);
        w.unsubscribe(c, "t");
        let c = if clean_session {
            c
        } else {
            // It is still owed, and so it is sent again.
            w.cut(c);
            let c = w.resume(V4, "c");
            assert_eq!(first_bytes(&w.take(c)), [0x3A, 0x62, 0x3C]);
            c
        };
        w.send(c, &Packet::PubAck(ack_of(id(sent[0]))));
        w.send(c, &Packet::PubRec(ack_of(id(sent[2]))));
        assert_eq!(take_bytes(&mut w, c), packet(0x62, &format!("{:04X}", sent[2])));
        for id_sent in &sent[1..] {
            w.send(c, &Packet::PubComp(ack_of(id(*id_sent))));
        }
        assert_eq!(w.take(c), []);
        assert_eq!(w.shards.iter().map(|shard| shard.census().unacknowledged).sum::<usize>(), 0);
    }
}

#[test]
fn mqtt_3_10_4_4_unsuback_has_the_identifier_of_its_unsubscribe() {
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    w.subscribe(c, "t", QoS::AtMostOnce);
    let requests = ["FFFF", "0001", "1234"].map(|id| packet(0xA2, &format!("{id} 0001't'")));
    w.send_bytes(c, &requests.concat());
    let answers = ["FFFF", "0001", "1234"].map(|id| packet(0xB0, id));
    assert_eq!(take_bytes(&mut w, c), answers.concat());
}

#[test]
fn mqtt_3_10_4_5_unsuback_even_if_there_was_no_subscription() {
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    send_unsubscribe(&mut w, c, &["never subscribed"]);
    assert_eq!(take_bytes(&mut w, c), packet(0xB0, "0008"));
}

#[test]
fn mqtt_3_10_4_6_several_filters_are_as_several_unsubscribes_with_one_answer() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    for filter in ["a", "b", "c", "d/#"] {
        w.subscribe(c, filter, QoS::AtMostOnce);
    }
    send_unsubscribe(&mut w, c, &["a", "not there", "d/#", "a", "c"]);
    assert_eq!(take_bytes(&mut w, c), packet(0xB0, "0008"));
    for topic in ["a", "b", "c", "d/e"] {
        w.publish(p, topic, QoS::AtMostOnce, topic);
    }
    assert_eq!(payloads(&w.drain(c)), ["b"]);
}
