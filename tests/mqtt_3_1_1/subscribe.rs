//! SUBSCRIBE (3.8) and SUBACK (3.9).

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;
use crate::support::*;

#[test]
fn mqtt_3_8_1_1_flags_of_subscribe() {
    for flags in (0..16).filter(|flags| *flags != 2) {
        closes(V4, &packet(0x80 | flags, "0001 0001't' 00"), "reserved flags in the fixed header");
    }
    stays(V4, &packet(0x82, "0001 0001't' 00"));
}

#[test]
fn mqtt_3_8_3_1_topic_filters_are_utf8() {
    for filter in ["C328", "EDA080", "612F80"] {
        closes(V4, &packet(0x82, &format!("0001 {} 00", field(filter))), "a string is not UTF-8");
        // Not only the first.
        closes(V4, &packet(0x82, &format!("0001 0001't' 00 {} 00", field(filter))), "a string is not UTF-8");
    }
    stays(V4, &packet(0x82, "0001 0002 C3A8 00"));
}

#[test]
fn mqtt_3_8_3_2_filters_with_wildcards_are_supported() {
    let mut w = World::new(1);
    let p = w.connect(V4, "p");
    for filter in ["#", "+", "+/+", "a/#", "a/+", "+/b", "a/b/#", "/+/#"] {
        let c = w.connect(V4, "c");
        w.subscribe(c, filter, QoS::ExactlyOnce);
        w.publish(p, "a/b", QoS::ExactlyOnce, "x");
        let matches = !matches!(filter, "+" | "/+/#");
        assert_eq!(w.drain(c).len(), usize::from(matches), "{filter}");
    }
}

#[test]
fn mqtt_3_8_3_3_subscribe_to_nothing() {
    closes(V4, &packet(0x82, "0001"), "SUBSCRIBE without a topic filter");
}

#[test]
fn mqtt_3_8_3_4_reserved_bits_and_qos_3() {
    for options in 0..=255u8 {
        let bytes = packet(0x82, &format!("0001 0001't' {options:02X}"));
        match options {
            0..=2 => stays(V4, &bytes),
            3 => closes(V4, &bytes, "QoS 3 in SUBSCRIBE"),
            _ => closes(V4, &bytes, "reserved subscription options"),
        }
    }
}

#[test]
fn mqtt_3_8_4_1_subscribe_is_answered() {
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    // Once, whether the subscription is new or not.
    for _ in 0..2 {
        send_subscribe(&mut w, c, &[("t", options(QoS::AtLeastOnce))]);
        assert_eq!(first_bytes(&w.take(c)), [0x90]);
    }
}

#[test]
fn mqtt_3_8_4_2_suback_has_the_identifier_of_its_subscribe() {
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    // Several at once, in any order, and an identifier that is in use for a PUBLISH the other way.
    let requests = ["FFFF", "0001", "1234"].map(|id| packet(0x82, &format!("{id} 0001't' 01")));
    w.send_bytes(c, &requests.concat());
    let answers = ["FFFF", "0001", "1234"].map(|id| packet(0x90, &format!("{id} 01")));
    assert_eq!(take_bytes(&mut w, c), answers.concat());
}

#[test]
fn mqtt_3_8_4_3_an_identical_filter_replaces_the_subscription() {
    for clean_session in [true, false] {
        let mut w = World::new(2);
        let (c, p) = (w.open(&connect(V4, "c", clean_session)), w.connect(V4, "p"));
        w.publish_with(p, &retained("t/1", QoS::ExactlyOnce, "retained"));
        for qos in [QoS::ExactlyOnce, QoS::AtMostOnce, QoS::AtLeastOnce] {
            // What is retained is sent again.
            w.subscribe(c, "t/+", qos);
            let got = w.drain(c);
            assert_eq!(payloads(&got), ["retained"]);
            assert_eq!((got[0].publish().qos, got[0].publish().retain), (qos, true));
            // There is one subscription, with the new QoS.
            w.publish(p, "t/1", QoS::ExactlyOnce, "live");
            let got = w.drain(c);
            assert_eq!(payloads(&got), ["live"]);
            assert_eq!(got[0].publish().qos, qos);
        }
        // A filter that only matches the same topics is another one.
        w.subscribe(c, "t/#", QoS::ExactlyOnce);
        w.drain(c);
        w.publish(p, "t/1", QoS::ExactlyOnce, "live");
        assert_eq!(w.drain(c)[0].publish().qos, QoS::ExactlyOnce);
        w.unsubscribe(c, "t/#");
        w.publish(p, "t/1", QoS::ExactlyOnce, "live");
        assert_eq!(w.drain(c)[0].publish().qos, QoS::AtLeastOnce);
    }
}

#[test]
fn mqtt_3_8_4_3_replacing_does_not_interrupt_the_flow() {
    for clean_session in [true, false] {
        for shards in [1, 3] {
            let mut w = World::new(shards);
            let (c, p) = (w.open(&connect(V4, "c", clean_session)), w.connect(V4, "pp"));
            w.subscribe(c, "t", QoS::ExactlyOnce);
            for n in 0..90 {
                // Some while it is replaced, and more than may be under way at once.
                w.put(p, &Packet::Publish(numbered("t", QoS::AtLeastOnce, n + 1, &n.to_string())));
                if n % 30 == 15 {
                    let again = packet(0x82, &format!("0007 0001't' {:02X}", 1 + n / 30 % 2));
                    w.put_bytes(c, &again);
                }
                if n % 7 == 0 {
                    w.run();
                }
            }
            w.run();
            let got = w.drain(c);
            assert_eq!(payloads(&got), (0..90).map(|n| n.to_string()).collect::<Vec<_>>());
        }
    }
}

#[test]
fn mqtt_3_8_4_4_several_filters_are_as_several_subscribes_with_one_answer() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    w.publish_with(p, &retained("a", QoS::AtLeastOnce, "retained a"));
    w.publish_with(p, &retained("b", QoS::AtLeastOnce, "retained b"));
    let filters =
        [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce), ("a", QoS::ExactlyOnce), ("c", QoS::AtMostOnce)];
    send_subscribe(&mut w, c, &filters.map(|(filter, qos)| (filter, options(qos))));
    let suback = w.clients[c].received.remove(0);
    assert_eq!(codes(&suback), [0, 1, 2, 0]);
    let mut got = payloads(&w.drain(c));
    got.sort();
    got.dedup();
    assert_eq!(got, ["retained a", "retained b"]);
    // The last word on `a` holds.
    for (topic, qos) in [("a", QoS::ExactlyOnce), ("b", QoS::AtLeastOnce), ("c", QoS::AtMostOnce)] {
        w.publish(p, topic, QoS::ExactlyOnce, "x");
        let got = w.drain(c);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].publish().qos, qos);
    }
}

#[test]
fn mqtt_3_8_4_5_a_code_for_each_filter() {
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    let deep = "/".repeat(w.limits.topic_levels);
    let filters = [
        ("a", QoS::ExactlyOnce),
        (deep.as_str(), QoS::ExactlyOnce),
        ("b", QoS::AtMostOnce),
        ("$share/g/$share/g/t", QoS::AtMostOnce),
        ("c", QoS::AtLeastOnce),
    ];
    send_subscribe(&mut w, c, &filters.map(|(filter, qos)| (filter, options(qos))));
    assert_eq!(codes(&w.take_one(c)), [2, 0x80, 0, 0x80, 1]);
    // What failed is not there, and takes nothing else with it.
    for topic in ["a", "b", "c"] {
        w.publish(c, topic, QoS::AtMostOnce, topic);
    }
    w.publish(c, &"/".repeat(w.limits.topic_levels - 1), QoS::AtMostOnce, "deep");
    assert_eq!(payloads(&w.drain(c)), ["a", "b", "c"]);
}

#[test]
fn mqtt_3_8_4_6_the_lower_of_both_qos() {
    for clean_session in [true, false] {
        let mut w = World::new(2);
        let (c, p) = (w.open(&connect(V4, "c", clean_session)), w.connect(V4, "p"));
        for granted in EVERY_QOS {
            w.subscribe(c, "t", granted);
            for published in EVERY_QOS {
                w.publish(p, "t", published, "x");
                let got = w.drain(c);
                assert_eq!(got.len(), 1);
                assert_eq!(got[0].publish().qos, granted.min(published));
                // And so for what is retained.
                w.publish_with(p, &retained("r", published, "x"));
                w.subscribe(c, "r", granted);
                assert_eq!(w.drain(c)[0].publish().qos, granted.min(published));
                w.unsubscribe(c, "r");
            }
        }
    }
}

#[test]
fn mqtt_3_9_3_1_codes_in_the_order_of_the_filters() {
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..50 {
        let asked: Vec<usize> = (0..random.usize(1..20)).map(|_| random.usize(..3)).collect();
        let names: Vec<String> = (0..asked.len()).map(|_| format!("t/{}", random.u8(..))).collect();
        let filters: Vec<_> =
            asked.iter().zip(&names).map(|(qos, name)| (name.as_str(), options(EVERY_QOS[*qos]))).collect();
        send_subscribe(&mut w, c, &filters);
        assert_eq!(codes(&w.take_one(c)), asked.iter().map(|qos| *qos as u8).collect::<Vec<_>>());
    }
}

#[test]
fn mqtt_3_9_3_2_no_other_codes() {
    // Everything that a subscription is refused for: inside, each has a reason of its own.
    let mut w = World::limited(Limits { subscriptions_per_session: 3, ..Limits::default() });
    let c = w.connect(V4, "c");
    let deep = "/".repeat(w.limits.topic_levels);
    let long = "x".repeat(w.limits.topic_length + 1);
    let refused = ["$share/g/$share/g/t", &deep, &long];
    let filters: Vec<_> = ["a", "b", "c", "past the limit"].into_iter().chain(refused).collect();
    let filters: Vec<_> = filters.into_iter().map(|filter| (filter, options(QoS::AtMostOnce))).collect();
    send_subscribe(&mut w, c, &filters);
    assert_eq!(codes(&w.take_one(c)), [0, 0, 0, 0x80, 0x80, 0x80, 0x80]);
}
