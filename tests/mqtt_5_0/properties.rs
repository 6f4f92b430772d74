//! The properties of PUBLISH (3.3.2.3): what is passed on as it came, expiry, and topic aliases.

use std::time::Duration;

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::wire::{packet, publish_with, refused};
use crate::common::world::*;

/// Publishes with these properties; asserts that every taker gets all of them in this order and no
/// other: one connected, one that was not, a share group's member, one of several that get the same
/// bytes, one that is told the retained message later.
fn passes_on(properties: &[Property<'_>]) {
    for qos in EVERY_QOS {
        let mut w = World::new(3);
        let takers = [w.connect(V5, "a"), w.connect(V5, "b"), w.resume(V5, "c"), w.resume(V5, "away")];
        for c in takers {
            w.subscribe(c, "t", QoS::ExactlyOnce);
        }
        let member = w.connect(V5, "member");
        w.subscribe(member, "$share/g/t", QoS::ExactlyOnce);
        w.cut(takers[3]);
        let p = w.connect(V5, "p");
        let properties = list(properties);
        let publish = Publish {
            retain: true,
            properties: properties.as_properties(),
            ..message("t", qos, "{\"é\": 1}")
        };
        w.publish_with(p, &publish);
        let away = w.resume(V5, "away");
        let late = w.connect(V5, "late");
        w.subscribe(late, "t", QoS::ExactlyOnce);
        for c in [takers[0], takers[1], takers[2], away, member, late] {
            let got = w.drain(c);
            if c == away && qos == QoS::AtMostOnce {
                assert_eq!(got, [], "at QoS 0 nothing waits");
                continue;
            }
            assert_eq!(got.len(), 1);
            assert_eq!(got[0].publish().properties, properties.as_properties());
            assert_eq!(got[0].publish().payload, publish.payload);
        }
    }
}

#[test]
fn mqtt_3_3_2_4_payload_format_indicator_is_passed_on() {
    passes_on(&[Property::PayloadFormatIndicator(0)]);
    passes_on(&[Property::PayloadFormatIndicator(1)]);
}

#[test]
fn mqtt_3_3_2_15_response_topic_is_passed_on() {
    passes_on(&[Property::ResponseTopic("answers/$here/é")]);
}

#[test]
fn mqtt_3_3_2_16_correlation_data_is_passed_on() {
    passes_on(&[Property::CorrelationData(b"\x00\xFF\xC3")]);
    passes_on(&[Property::CorrelationData(b"")]);
}

#[test]
fn mqtt_3_3_2_17_user_properties_are_passed_on() {
    passes_on(&[Property::UserProperty("name", "value")]);
    passes_on(&[Property::UserProperty("", "")]);
}

#[test]
fn mqtt_3_3_2_18_user_properties_keep_their_order() {
    passes_on(&[
        Property::UserProperty("b", "1"),
        Property::UserProperty("a", "2"),
        Property::ContentType("between"),
        Property::UserProperty("b", "1"),
        Property::UserProperty("b", "0"),
    ]);
}

#[test]
fn mqtt_3_3_2_20_content_type_is_passed_on() {
    passes_on(&[Property::ContentType("application/json; charset=é")]);
}

#[test]
fn user_properties_keep_their_order_around_an_expiry_and_an_alias() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    w.subscribe_with(c, "t", options(QoS::AtLeastOnce), 5);
    let properties = list(&[
        Property::UserProperty("b", "1"),
        Property::MessageExpiryInterval(9),
        Property::UserProperty("a", "2"),
        Property::TopicAlias(1),
        Property::UserProperty("b", "3"),
    ]);
    w.publish_with(
        p,
        &Publish { properties: properties.as_properties(), ..message("t", QoS::AtLeastOnce, "x") },
    );
    let frame = only_publish(&mut w, c);
    let got = frame.publish().properties;
    assert_eq!(user_properties(got), [("b", "1"), ("a", "2"), ("b", "3")]);
    assert_eq!(remaining(&frame), Some(9));
    assert_eq!(identifiers(&frame), [5]);
    assert_eq!(got.iter().count(), 5, "and no alias: {got:?}");
}

#[test]
fn mqtt_3_3_2_13_response_topic_is_utf8() {
    refused(V5, &publish_with("08 0002 C328"), 0x81, "a string is not UTF-8");
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    w.send_bytes(p, &publish_with("08 0001 00"));
    expect_closed(&mut w, p, ReasonCode::MalformedPacket);
}

#[test]
fn mqtt_3_3_2_14_response_topic_has_no_wildcards() {
    for topic in ["0003'a/+'", "0001'#'"] {
        let mut w = World::new(1);
        let p = w.connect(V5, "p");
        w.send_bytes(p, &publish_with(&format!("08 {topic}")));
        expect_closed(&mut w, p, ReasonCode::ProtocolError);
    }
}

#[test]
fn mqtt_3_3_2_19_content_type_is_utf8() {
    refused(V5, &publish_with("03 0002 C328"), 0x81, "a string is not UTF-8");
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    w.send_bytes(p, &publish_with("03 0001 00"));
    expect_closed(&mut w, p, ReasonCode::MalformedPacket);
}

/// The Message Expiry Interval of a PUBLISH.
fn remaining(frame: &Frame) -> Option<u32> {
    find(frame.publish().properties, |property| match property {
        Property::MessageExpiryInterval(seconds) => Some(seconds),
        _ => None,
    })
}

/// Publishes to `t` with a Message Expiry Interval.
fn publish_expiring(w: &mut World, client: usize, qos: QoS, seconds: u32, retain: bool) {
    let properties = list(&[Property::MessageExpiryInterval(seconds)]);
    let publish = Publish { retain, properties: properties.as_properties(), ..message("t", qos, "x") };
    w.publish_with(client, &publish);
}

#[test]
fn mqtt_3_3_2_5_expired_messages_are_deleted() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut w = World::new(3);
        let (away, member) = (w.resume(V5, "away"), w.resume(V5, "member"));
        let full = open_with(&mut w, "full", true, &[Property::ReceiveMaximum(1)]);
        let p = w.connect(V5, "p");
        w.subscribe(full, "#", qos);
        w.publish(p, "u", qos, "holds the window");
        w.subscribe(away, "t", qos);
        w.subscribe(member, "$share/g/t", qos);
        w.cut(away);
        w.cut(member);
        publish_expiring(&mut w, p, qos, 10, true);
        w.advance(Duration::from_millis(10_000));
        // Neither in a session's queue, nor a group's, nor behind a full window, nor retained.
        let (away, member) = (w.resume(V5, "away"), w.resume(V5, "member"));
        assert_eq!((w.drain(away), w.drain(member)), (vec![], vec![]));
        assert_eq!(payloads(&w.drain(full)), ["holds the window"]);
        let late = w.connect(V5, "late");
        w.subscribe(late, "t", qos);
        assert_eq!(w.drain(late), []);
        assert_eq!(dropped(&w, DropReason::Expired), 3);
        assert_eq!(w.stats.iter().map(|stats| stats.queued_messages.get()).sum::<u64>(), 0);
    }
}

#[test]
fn mqtt_3_3_2_5_an_interval_of_0_reaches_nobody() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "t", QoS::ExactlyOnce);
    for qos in EVERY_QOS {
        publish_expiring(&mut w, p, qos, 0, false);
    }
    assert_eq!(w.drain(c), []);
    assert_eq!(dropped(&w, DropReason::Expired), 3);
}

#[test]
fn mqtt_3_3_2_6_remaining_time_is_told() {
    let mut w = World::new(3);
    let (away, member, here) = (w.resume(V5, "away"), w.resume(V5, "member"), w.connect(V5, "here"));
    w.subscribe(away, "t", QoS::AtLeastOnce);
    w.subscribe(member, "$share/g/t", QoS::AtLeastOnce);
    w.subscribe(here, "t", QoS::AtLeastOnce);
    w.cut(away);
    w.cut(member);
    let p = w.connect(V5, "p");
    publish_expiring(&mut w, p, QoS::AtLeastOnce, 100, true);
    let frame = only_publish(&mut w, here);
    assert_eq!(remaining(&frame), Some(100), "what did not wait");
    w.advance(Duration::from_millis(29_500));
    let (away, member, late) = (w.resume(V5, "away"), w.resume(V5, "member"), w.connect(V5, "late"));
    w.subscribe(late, "t", QoS::AtLeastOnce);
    for c in [away, member, late] {
        let frame = only_publish(&mut w, c);
        assert_eq!(remaining(&frame), Some(71), "100 less the 29 whole seconds that it waited");
    }
    // Sent again, it has waited longer.
    w.cut(away);
    w.advance(Duration::from_secs(10));
    let away = w.resume(V5, "away");
    let frame = only_publish(&mut w, away);
    assert_eq!(remaining(&frame), Some(61));
}

#[test]
fn messages_without_expiry_keep_for_ever() {
    let mut w = World::new(1);
    let away = open_with(&mut w, "away", true, &[expiry(u32::MAX)]);
    w.subscribe(away, "t", QoS::AtLeastOnce);
    let (c, p) = (away, w.connect(V5, "p"));
    w.cut(c);
    w.publish(p, "t", QoS::AtLeastOnce, "x");
    w.advance(Duration::from_secs(29 * 24 * 3600));
    let away = w.resume(V5, "away");
    assert_eq!(remaining(&only_publish(&mut w, away)), None);
}

/// A QoS 0 PUBLISH with a topic alias.
fn publish_alias(w: &mut World, client: usize, topic: &str, alias: u16) {
    let properties = list(&[Property::TopicAlias(alias)]);
    let publish =
        Publish { properties: properties.as_properties(), ..message(topic, QoS::AtMostOnce, topic) };
    w.send(client, &Packet::Publish(publish));
}

/// The topic alias of a PUBLISH.
fn alias(frame: &Frame) -> Option<u16> {
    find(frame.publish().properties, |property| match property {
        Property::TopicAlias(alias) => Some(alias),
        _ => None,
    })
}

#[test]
fn mqtt_3_3_2_7_aliases_end_with_their_connection() {
    let mut w = World::new(1);
    let ear = w.connect(V5, "ear");
    w.subscribe(ear, "#", QoS::AtMostOnce);
    let p = w.resume(V5, "p");
    publish_alias(&mut w, p, "t", 1);
    publish_alias(&mut w, p, "", 1);
    assert_eq!(w.take(ear).len(), 2);
    w.cut(p);
    let p = w.resume(V5, "p");
    publish_alias(&mut w, p, "", 1);
    expect_closed(&mut w, p, ReasonCode::ProtocolError);
    assert_eq!(w.take(ear), []);
    // And what the server gave is given anew.
    let p = w.connect(V5, "p");
    for _ in 0..2 {
        let c = open_with(&mut w, "c", false, &[expiry(100), Property::TopicAliasMaximum(1)]);
        w.subscribe(c, "t", QoS::AtMostOnce);
        w.publish(p, "t", QoS::AtMostOnce, "x");
        w.publish(p, "t", QoS::AtMostOnce, "y");
        let got = w.take(c);
        let told: Vec<_> = got.iter().map(|frame| (frame.publish().topic, alias(frame))).collect();
        assert_eq!(told, [("t", Some(1)), ("", Some(1))]);
        w.cut(c);
    }
}

#[test]
fn mqtt_3_3_2_8_alias_0() {
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    publish_alias(&mut w, p, "t", 0);
    expect_closed(&mut w, p, ReasonCode::TopicAliasInvalid);
}

#[test]
fn mqtt_3_3_2_9_alias_over_the_servers_maximum() {
    for maximum in [0, 1, 32, 100] {
        let mut w = World::limited(Limits { topic_alias_maximum: maximum, ..Limits::default() });
        let p = w.connect(V5, "p");
        publish_alias(&mut w, p, "t", maximum + 1);
        expect_closed(&mut w, p, ReasonCode::TopicAliasInvalid);
    }
}

#[test]
fn mqtt_3_3_2_12_every_alias_up_to_the_maximum_is_accepted() {
    let mut w = World::new(3);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "#", QoS::AtMostOnce);
    for alias in 1..=32 {
        publish_alias(&mut w, p, &format!("t/{alias}"), alias);
    }
    // One may be given another topic.
    publish_alias(&mut w, p, "new", 7);
    w.take(c);
    for alias in (1..=32).rev() {
        publish_alias(&mut w, p, "", alias);
        let frame = only_publish(&mut w, c);
        let expected = if alias == 7 { "new".to_owned() } else { format!("t/{alias}") };
        assert_eq!(frame.publish().topic, expected);
    }
    expect_open(&mut w, p);
}

#[test]
fn an_alias_that_was_never_set() {
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    publish_alias(&mut w, p, "", 3);
    expect_closed(&mut w, p, ReasonCode::ProtocolError);
    let p = w.connect(V5, "p");
    w.send_bytes(p, &packet(0x30, "0000 00 'x'"));
    expect_closed(&mut w, p, ReasonCode::ProtocolError);
}

#[test]
fn mqtt_3_1_2_26_the_servers_aliases_stay_within_the_clients_maximum() {
    for maximum in [1, 2, 5, 65_535] {
        let mut w = World::new(1);
        let c = open_with(&mut w, "c", true, &[Property::TopicAliasMaximum(maximum)]);
        w.subscribe(c, "#", QoS::AtMostOnce);
        let p = w.connect(V5, "p");
        for _ in 0..2 {
            for topic in ["a", "b", "c", "d"] {
                w.publish(p, topic, QoS::AtMostOnce, topic);
            }
        }
        let mut known = std::collections::BTreeMap::new();
        for frame in w.take(c) {
            let (topic, alias) = (frame.publish().topic.to_owned(), alias(&frame));
            assert!(alias.is_none_or(|alias| (1..=maximum).contains(&alias)), "{alias:?} of {maximum}");
            let topic = match alias {
                Some(alias) if topic.is_empty() => known[&alias],
                Some(alias) => {
                    known.insert(alias, frame.publish().payload[0]);
                    topic.as_bytes()[0]
                }
                None => topic.as_bytes()[0],
            };
            assert_eq!([topic], frame.publish().payload, "it stands for the right topic");
        }
        assert_eq!(known.len(), usize::from(maximum.min(4)), "and they are used");
    }
}

#[test]
fn the_servers_aliases_stay_within_its_own_maximum_too() {
    // Each is a topic that the server has to remember for the connection.
    let mut w = World::limited(Limits { topic_alias_maximum: 3, ..Limits::default() });
    let c = open_with(&mut w, "c", true, &[Property::TopicAliasMaximum(65_535)]);
    w.subscribe(c, "#", QoS::AtMostOnce);
    let p = w.connect(V5, "p");
    for i in 0..10 {
        w.publish(p, &format!("t/{i}"), QoS::AtMostOnce, "x");
    }
    let given: Vec<Option<u16>> = w.take(c).iter().map(alias).collect();
    assert_eq!(given[..3], [Some(1), Some(2), Some(3)]);
    assert_eq!(given[3..], [None; 7]);
}

#[test]
fn an_alias_takes_no_packet_over_the_clients_maximum_packet_size() {
    // The lengths of the packet and of its properties may take a byte more each, because of it.
    for size in [129, 130, 131, 140] {
        let mut w = World::limited(Limits { topic_alias_maximum: u16::MAX, ..Limits::default() });
        let maximum = [Property::MaximumPacketSize(size), Property::TopicAliasMaximum(u16::MAX)];
        let c = open_with(&mut w, "c", true, &maximum);
        w.subscribe(c, "#", QoS::AtLeastOnce);
        let p = w.connect(V5, "p");
        for (value, payload) in (80..130).flat_map(|value| (0..40).map(move |payload| (value, payload))) {
            let (topic, payload) = (format!("{value}/{payload}"), "x".repeat(payload));
            let value = "v".repeat(value);
            let properties = list(&[Property::UserProperty("", &value)]);
            let publish = Publish {
                properties: properties.as_properties(),
                ..message(&topic, QoS::AtLeastOnce, &payload)
            };
            w.publish_with(p, &publish);
            for frame in w.drain(c) {
                assert!(frame.bytes.len() <= size as usize, "{} of {size}: {frame:?}", frame.bytes.len());
            }
        }
    }
}

#[test]
fn mqtt_3_1_2_27_no_alias_for_a_client_that_wants_none() {
    for asked in [&[][..], &[Property::TopicAliasMaximum(0)]] {
        let mut w = World::new(1);
        let c = open_with(&mut w, "c", true, asked);
        w.subscribe(c, "#", QoS::AtMostOnce);
        let p = w.connect(V5, "p");
        for _ in 0..3 {
            w.publish(p, "t", QoS::AtMostOnce, "x");
            let frame = only_publish(&mut w, c);
            assert_eq!((frame.publish().topic, alias(&frame)), ("t", None));
        }
    }
}

#[test]
fn a_publishers_alias_is_not_its_subscribers() {
    let mut w = World::new(1);
    let c = open_with(&mut w, "c", true, &[Property::TopicAliasMaximum(10)]);
    w.subscribe(c, "#", QoS::AtMostOnce);
    let p = w.connect(V5, "p");
    publish_alias(&mut w, p, "t", 9);
    let frame = only_publish(&mut w, c);
    assert_eq!((frame.publish().topic, alias(&frame)), ("t", Some(1)));
}

#[test]
fn properties_of_no_interest_are_none() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "t", QoS::AtMostOnce);
    w.publish(p, "t", QoS::AtMostOnce, "x");
    assert_eq!(only_publish(&mut w, c).publish().properties, Properties::EMPTY);
}
