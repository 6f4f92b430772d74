//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (3.8 to 3.11).

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, Property};
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::{packet, refused};
use crate::common::world::*;

#[test]
fn mqtt_3_8_1_1_subscribe_flags() {
    for flags in (0..16).filter(|flags| *flags != 2) {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &packet(0x80 | flags, "0001 00 0001't' 00"));
        expect_closed(&mut w, c, ReasonCode::MalformedPacket);
    }
}

#[test]
fn mqtt_3_8_3_1_topic_filters_are_utf8() {
    refused(V5, &packet(0x82, "0001 00 0002 C328 00"), 0x81, "a string is not UTF-8");
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send_bytes(c, &packet(0x82, "0001 00 0001 00 00"));
    expect_closed(&mut w, c, ReasonCode::MalformedPacket);
}

#[test]
fn mqtt_3_8_3_2_subscribe_to_nothing() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send_bytes(c, &packet(0x82, "0001 00"));
    expect_closed(&mut w, c, ReasonCode::ProtocolError);
}

fn no_local(qos: QoS) -> SubscribeOptions {
    SubscribeOptions { no_local: true, ..options(qos) }
}

#[test]
fn mqtt_3_8_3_3_no_local() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        for c in [w.connect(V5, "transient"), w.resume(V5, "persistent")] {
            w.subscribe_with(c, "t", no_local(QoS::ExactlyOnce), 0);
            let p = w.connect(V5, "p");
            for qos in EVERY_QOS {
                w.publish(c, "t", qos, "own");
                w.publish(p, "t", qos, "other's");
                assert_eq!(payloads(&w.drain(c)), ["other's"]);
            }
        }
    }
}

#[test]
fn mqtt_3_8_3_3_no_local_is_about_the_client_identifier() {
    // What a client publishes before it goes does not come back to it in its next connection.
    let mut w = World::new(1);
    let c = w.resume(V5, "c");
    w.subscribe_with(c, "t", no_local(QoS::AtLeastOnce), 0);
    w.cut(c);
    let c = w.resume(V5, "c");
    w.publish(c, "t", QoS::AtLeastOnce, "own");
    assert_eq!(w.drain(c), []);
    let retained = Publish { retain: true, ..message("t", QoS::AtLeastOnce, "own, retained") };
    w.publish_with(c, &retained);
    assert_eq!(w.drain(c), []);
}

#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    send_subscribe(&mut w, c, &[("$share/g/t", no_local(QoS::AtMostOnce))]);
    expect_closed(&mut w, c, ReasonCode::ProtocolError);
}

#[test]
fn mqtt_3_8_3_5_reserved_subscription_options() {
    for bits in [0x40, 0x80, 0xC0, 0x41] {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &packet(0x82, &format!("0001 00 0001't' {bits:02X}")));
        expect_closed(&mut w, c, ReasonCode::MalformedPacket);
    }
    // QoS 3 and Retain Handling 3 are protocol errors.
    for bits in [0x03, 0x30] {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &packet(0x82, &format!("0001 00 0001't' {bits:02X}")));
        expect_closed(&mut w, c, ReasonCode::ProtocolError);
    }
}

#[test]
fn mqtt_3_8_4_1_subscribe_is_answered() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    send_subscribe(&mut w, c, &[("t", options(QoS::AtLeastOnce))]);
    assert_eq!(codes(&w.take_one(c)), [1]);
}

#[test]
fn mqtt_3_8_4_2_and_2_2_1_6_suback_repeats_the_identifier() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    for packet_id in [1, 256, 65_535].map(id) {
        let mut raw = Vec::new();
        let filters = SubscribeFilters::encode([("t", options(QoS::AtMostOnce))], &mut raw);
        w.send(c, &Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
        match w.take_one(c).packet() {
            Packet::SubAck(suback) => assert_eq!(suback.packet_id, packet_id),
            other => panic!("{other:?}"),
        };
    }
}

#[test]
fn mqtt_3_8_4_3_an_identical_filter_replaces() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        for c in [w.connect(V5, "transient"), w.resume(V5, "persistent")] {
            w.subscribe_with(c, "t/+", no_local(QoS::ExactlyOnce), 5);
            w.subscribe_with(c, "t/+", options(QoS::AtMostOnce), 0);
            w.publish(p, "t/1", QoS::ExactlyOnce, "x");
            let frame = only_publish(&mut w, c);
            assert_eq!(frame.publish().qos, QoS::AtMostOnce);
            assert_eq!(identifiers(&frame), [0; 0]);
            w.publish(c, "t/1", QoS::AtLeastOnce, "own");
            assert_eq!(payloads(&w.drain(c)), ["own"]);
            // There is one, not two.
            assert_eq!(w.unsubscribe(c, "t/+"), Some(ReasonCode::Success));
            assert_eq!(w.unsubscribe(c, "t/+"), Some(ReasonCode::NoSubscriptionExisted));
        }
    }
}

#[test]
fn mqtt_3_8_4_4_replacing_loses_nothing() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        let retained = Publish { retain: true, ..message("t/r", QoS::AtLeastOnce, "retained") };
        w.publish_with(p, &retained);
        for c in [w.connect(V5, "transient"), w.resume(V5, "persistent")] {
            w.subscribe(c, "t/+", QoS::AtLeastOnce);
            assert_eq!(payloads(&w.drain(c)), ["retained"]);
            // Between every two messages the subscription is replaced; nothing settles in between.
            for i in 0..20 {
                let payload = i.to_string();
                let live =
                    Publish { packet_id: Some(id(i + 1)), ..message("t/1", QoS::AtLeastOnce, &payload) };
                w.put(p, &Packet::Publish(live));
                let mut raw = Vec::new();
                let filters = SubscribeFilters::encode([("t/+", options(QoS::AtLeastOnce))], &mut raw);
                let again = Subscribe { packet_id: id(9), properties: Properties::EMPTY, filters };
                w.put(c, &Packet::Subscribe(again));
            }
            w.run();
            w.take(p);
            let got = payloads(&w.drain(c));
            let live: Vec<&String> = got.iter().filter(|payload| *payload != "retained").collect();
            assert_eq!(live, (0..20).map(|i| i.to_string()).collect::<Vec<_>>().iter().collect::<Vec<_>>());
            assert!(got.len() > 20, "Retain Handling 0: the retained message came again");
        }
    }
}

#[test]
fn mqtt_3_8_4_5_filters_are_taken_one_after_the_other() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    let filters =
        [("t", options(QoS::ExactlyOnce)), ("u", options(QoS::AtMostOnce)), ("t", options(QoS::AtLeastOnce))];
    send_subscribe(&mut w, c, &filters);
    assert_eq!(codes(&w.take_one(c)), [2, 0, 1], "one SUBACK for all");
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::ExactlyOnce, "x");
    assert_eq!(only_publish(&mut w, c).publish().qos, QoS::AtLeastOnce, "the later one holds");
    w.publish(p, "u", QoS::ExactlyOnce, "x");
    assert_eq!(only_publish(&mut w, c).publish().qos, QoS::AtMostOnce);
}

#[test]
fn mqtt_3_8_4_6_a_code_for_each_filter() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    for count in [1, 2, 100] {
        send_subscribe(&mut w, c, &vec![("t", options(QoS::AtLeastOnce)); count]);
        assert_eq!(codes(&w.take_one(c)), vec![1; count]);
    }
}

/// Filters that are granted and filters that are refused, each with its code.
fn granted_and_refused() -> (World, usize, Vec<(&'static str, SubscribeOptions, u8)>) {
    let limits =
        Limits { subscriptions_per_session: 2, topic_levels: 4, topic_length: 30, ..Limits::default() };
    let mut w = World::limited(limits);
    let c = w.connect(V5, "c");
    let asked = vec![
        ("a/b/c/d/e", options(QoS::AtMostOnce), ReasonCode::TopicFilterInvalid as u8),
        ("a", options(QoS::ExactlyOnce), 2),
        ("$share/g/$share/g/a", options(QoS::AtMostOnce), ReasonCode::NotAuthorized as u8),
        ("longer than thirty bytes, and thus too long", options(QoS::AtMostOnce), 0x8F),
        ("b", options(QoS::AtLeastOnce), 1),
        ("c", options(QoS::AtLeastOnce), ReasonCode::QuotaExceeded as u8),
        ("a", options(QoS::AtMostOnce), 0),
    ];
    (w, c, asked)
}

#[test]
fn mqtt_3_8_4_7_a_code_is_the_granted_qos_or_a_failure() {
    let (mut w, c, asked) = granted_and_refused();
    for (filter, options, code) in asked {
        send_subscribe(&mut w, c, &[(filter, options)]);
        assert_eq!(codes(&w.take_one(c)), [code], "{filter}");
    }
    // What was granted is there, and what was refused is not.
    let p = w.connect(V5, "p");
    for (topic, granted) in [("a", Some(QoS::AtMostOnce)), ("b", Some(QoS::AtLeastOnce)), ("c", None)] {
        w.publish(p, topic, QoS::ExactlyOnce, "x");
        let got = w.drain(c);
        assert_eq!(got.first().map(|frame| frame.publish().qos), granted, "{topic}");
    }
}

#[test]
fn mqtt_3_8_4_8_delivery_at_the_lower_qos() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        for c in [w.connect(V5, "transient"), w.resume(V5, "persistent")] {
            for granted in EVERY_QOS {
                w.subscribe(c, "t", granted);
                for qos in EVERY_QOS {
                    w.publish(p, "t", qos, "x");
                    let got = w.drain(c);
                    assert_eq!(got.len(), 1);
                    assert_eq!(got[0].publish().qos, qos.min(granted));
                }
            }
        }
    }
}

#[test]
fn mqtt_3_9_2_1_suback_reason_string() {
    let refused = ("$share/g/$share/g/t", options(QoS::AtMostOnce));
    let mut told = Vec::new();
    // With 60 codes it takes 65 bytes without one.
    for size in 65..165 {
        let mut w = World::new(1);
        let c = open_with(&mut w, "c", true, &[Property::MaximumPacketSize(size)]);
        send_subscribe(&mut w, c, &[refused; 60]);
        let frame = w.take_one(c);
        assert!(frame.bytes.len() <= size as usize, "{frame:?}");
        match frame.packet() {
            Packet::SubAck(suback) => told.push(reason_string(suback.properties).is_some()),
            other => panic!("{other:?}"),
        }
    }
    assert!(!told[0] && told[99] && told.is_sorted(), "left out where it does not fit");
}

#[test]
fn mqtt_3_9_2_2_suback_has_no_user_properties() {
    let (mut w, c, asked) = granted_and_refused();
    let filters: Vec<_> = asked.iter().map(|(filter, options, _)| (*filter, *options)).collect();
    send_subscribe(&mut w, c, &filters);
    match w.take_one(c).packet() {
        Packet::SubAck(suback) => assert_eq!(user_properties(suback.properties), []),
        other => panic!("{other:?}"),
    };
}

#[test]
fn mqtt_3_9_3_1_codes_in_the_order_of_the_filters() {
    let (mut w, c, asked) = granted_and_refused();
    let filters: Vec<_> = asked.iter().map(|(filter, options, _)| (*filter, *options)).collect();
    send_subscribe(&mut w, c, &filters);
    assert_eq!(codes(&w.take_one(c)), asked.iter().map(|(_, _, code)| *code).collect::<Vec<_>>());
}

#[test]
fn mqtt_3_9_3_2_suback_codes() {
    let allowed = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
    let (mut w, c, asked) = granted_and_refused();
    for (filter, options, _) in asked {
        send_subscribe(&mut w, c, &[(filter, options)]);
        let codes = codes(&w.take_one(c));
        assert!(allowed.contains(&codes[0]), "{filter}: {codes:?}");
    }
}

#[test]
fn mqtt_3_10_1_1_unsubscribe_flags() {
    for flags in (0..16).filter(|flags| *flags != 2) {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &packet(0xA0 | flags, "0001 00 0001't'"));
        expect_closed(&mut w, c, ReasonCode::MalformedPacket);
    }
}

#[test]
fn mqtt_3_10_3_1_unsubscribe_filters_are_utf8() {
    refused(V5, &packet(0xA2, "0001 00 0002 C328"), 0x81, "a string is not UTF-8");
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send_bytes(c, &packet(0xA2, "0001 00 0001 00"));
    expect_closed(&mut w, c, ReasonCode::MalformedPacket);
}

#[test]
fn mqtt_3_10_3_2_unsubscribe_from_nothing() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send_bytes(c, &packet(0xA2, "0001 00"));
    expect_closed(&mut w, c, ReasonCode::ProtocolError);
}

#[test]
fn mqtt_3_10_4_1_unsubscribe_compares_character_by_character() {
    let held = ["t/+", "t/#", "t/1", "T/1", "t/1/", "$share/g/t/1", "é"];
    for shards in [1, 3] {
        let mut w = World::new(shards);
        for c in [w.connect(V5, "transient"), w.resume(V5, "persistent")] {
            for (i, filter) in held.into_iter().enumerate() {
                w.subscribe_with(c, filter, options(QoS::AtMostOnce), i as u32 + 1);
            }
            for near in ["t", "t/2", "t/+/", "#", "t//1", "$share/h/t/1", "e\u{301}", "/t/1"] {
                assert_eq!(w.unsubscribe(c, near), Some(ReasonCode::NoSubscriptionExisted), "{near}");
            }
            for filter in held {
                assert_eq!(w.unsubscribe(c, filter), Some(ReasonCode::Success), "{filter}");
            }
            let p = w.connect(V5, "p");
            for topic in ["t/1", "T/1", "t/1/", "é"] {
                assert_eq!(w.publish(p, topic, QoS::AtLeastOnce, ""), ReasonCode::NoMatchingSubscribers);
            }
        }
    }
}

#[test]
fn mqtt_3_10_4_2_nothing_new_after_unsubscribe() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        for c in [w.connect(V5, "transient"), w.resume(V5, "persistent")] {
            for filter in ["t", "$share/g/t"] {
                w.subscribe(c, filter, QoS::AtLeastOnce);
                w.publish(p, "t", QoS::AtLeastOnce, "before");
                assert_eq!(payloads(&w.drain(c)), ["before"]);
                w.unsubscribe(c, filter);
                w.publish(p, "t", QoS::AtLeastOnce, "after");
                assert_eq!(w.drain(c), []);
            }
        }
    }
}

#[test]
fn mqtt_3_10_4_3_what_was_begun_is_completed() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for filter in ["t", "$share/g/t"] {
            let mut w = World::new(3);
            let (c, p) = (w.resume(V5, "c"), w.connect(V5, "p"));
            w.subscribe(c, filter, qos);
            w.publish(p, "t", qos, "begun");
            let begun = only_publish(&mut w, c).publish().packet_id;
            w.unsubscribe(c, filter);
            w.cut(c);
            let c = w.resume(V5, "c");
            let frame = w.take_one(c);
            assert_eq!(frame.publish().payload, b"begun", "{qos:?} {filter}");
            assert_eq!(frame.publish().packet_id, begun);
            if qos == QoS::ExactlyOnce {
                w.send(c, &Packet::PubRec(ack_of(begun.expect("QoS 2"))));
                assert!(matches!(w.take_one(c).packet(), Packet::PubRel(_)));
            }
        }
    }
}

#[test]
fn mqtt_3_10_4_4_unsubscribe_is_answered() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.subscribe(c, "t", QoS::AtMostOnce);
    send_unsubscribe(&mut w, c, &["t"]);
    assert_eq!(codes(&w.take_one(c)), [0]);
}

#[test]
fn mqtt_3_10_4_5_unsuback_repeats_the_identifier_even_for_nothing() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    for packet_id in [1, 256, 65_535].map(id) {
        let mut raw = Vec::new();
        let filters = UnsubscribeFilters::encode(["never"], &mut raw);
        w.send(c, &Packet::Unsubscribe(Unsubscribe { packet_id, properties: Properties::EMPTY, filters }));
        match w.take_one(c).packet() {
            Packet::UnsubAck(unsuback) => assert_eq!(unsuback.packet_id, packet_id),
            other => panic!("{other:?}"),
        };
    }
}

#[test]
fn mqtt_3_10_4_6_filters_are_removed_one_after_the_other() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    for filter in ["a", "b", "c"] {
        w.subscribe(c, filter, QoS::AtMostOnce);
    }
    send_unsubscribe(&mut w, c, &["a", "x", "c", "a"]);
    assert_eq!(codes(&w.take_one(c)), [0, 0x11, 0, 0x11], "one UNSUBACK for all");
    for (topic, reason) in [
        ("a", ReasonCode::NoMatchingSubscribers),
        ("b", ReasonCode::Success),
        ("c", ReasonCode::NoMatchingSubscribers),
    ] {
        assert_eq!(w.publish(c, topic, QoS::AtLeastOnce, "x"), reason);
    }
}

#[test]
fn mqtt_3_11_2_1_and_2_unsuback_explains_nothing() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    send_unsubscribe(&mut w, c, &["a", "b"]);
    match w.take_one(c).packet() {
        Packet::UnsubAck(unsuback) => assert_eq!(unsuback.properties, Properties::EMPTY),
        other => panic!("{other:?}"),
    };
}

#[test]
fn mqtt_3_11_3_1_codes_in_the_order_of_the_filters() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    for i in [1, 3, 4] {
        w.subscribe(c, &format!("t/{i}"), QoS::AtMostOnce);
    }
    send_unsubscribe(&mut w, c, &["t/0", "t/1", "t/2", "t/3", "t/4", "t/5"]);
    assert_eq!(codes(&w.take_one(c)), [0x11, 0, 0x11, 0, 0, 0x11]);
}

#[test]
fn mqtt_3_11_3_2_unsuback_codes() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    let share = ("$share/g/t", options(QoS::AtMostOnce));
    send_subscribe(&mut w, c, &[("t", options(QoS::AtMostOnce)), share]);
    w.take(c);
    let filters = ["t", "$share/g/t", "$share/g/$share/g/t", "$SYS/#", "a/b/c"];
    send_unsubscribe(&mut w, c, &filters);
    let allowed = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
    let codes = codes(&w.take_one(c));
    assert_eq!(codes.len(), filters.len());
    assert!(codes.iter().all(|code| allowed.contains(code)), "{codes:?}");
}

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send(c, &Packet::PingReq);
    assert_eq!(w.take_one(c).bytes, [0xD0, 0]);
}
