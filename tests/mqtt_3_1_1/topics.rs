//! Topic names and filters (4.7), and that what is delivered was asked for (3.3.2).

use std::time::Duration;

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::topic::{is_valid_filter, is_valid_name, matches};

use crate::common::dialogue::*;
use crate::common::wire::{packet, refused};
use crate::common::world::*;
use crate::support::*;

/// Which of these filters a message on this topic is delivered for, live and as a retained message.
fn delivered(filters: &[&str], topic: &str) -> Vec<bool> {
    let mut w = World::new(2);
    let p = w.connect(V4, "p");
    let names: Vec<String> = (0..filters.len()).map(|n| format!("client {n}")).collect();
    let clients: Vec<usize> = names.iter().map(|name| w.connect(V4, name)).collect();
    for (c, filter) in clients.iter().zip(filters) {
        w.subscribe(*c, filter, QoS::AtMostOnce);
    }
    w.publish_with(p, &retained(topic, QoS::AtMostOnce, "x"));
    let live: Vec<bool> = clients.iter().map(|c| !w.take(*c).is_empty()).collect();
    for (c, filter) in clients.iter().zip(filters) {
        w.unsubscribe(*c, filter);
        w.subscribe(*c, filter, QoS::AtMostOnce);
    }
    let late: Vec<bool> = clients.iter().map(|c| !w.take(*c).is_empty()).collect();
    assert_eq!(live, late, "{topic} for {filters:?}");
    live
}

#[test]
fn mqtt_3_3_2_3_what_is_delivered_matches_the_filter() {
    let mut random = fastrand::Rng::with_seed(11);
    let level = |random: &mut fastrand::Rng, of: &[&'static str]| *random.choice(of).expect("some");
    let mut seen = [0, 0];
    for _ in 0..60 {
        let mut join = |of: &[&'static str]| {
            let levels: Vec<_> = (0..random.usize(1..4)).map(|_| level(&mut random, of)).collect();
            levels.join("/")
        };
        let topics: Vec<String> =
            (0..8).map(|_| join(&["a", "b", "", "$a"])).filter(|t| is_valid_name(t)).collect();
        let filters: Vec<String> =
            (0..8).map(|_| join(&["a", "b", "", "+", "#", "$a"])).filter(|f| is_valid_filter(f)).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        for topic in topics {
            let expected: Vec<bool> = filters.iter().map(|filter| matches(filter, &topic)).collect();
            expected.iter().for_each(|matched| seen[usize::from(*matched)] += 1);
            assert_eq!(delivered(&filters, &topic), expected, "{topic} for {filters:?}");
        }
    }
    assert!(seen.iter().all(|count| *count > 200), "{seen:?}");
}

#[test]
fn mqtt_4_7_1_1_wildcards_in_filters_and_not_in_names() {
    stays(V4, &packet(0x82, "0001 0003'a/+' 00 0003'a/#' 00"));
    let detail = "a topic name is empty or holds a wildcard";
    for topic in ["a/+", "a/#", "+", "#"] {
        closes(V4, &packet(0x30, &format!("{} 'x'", field(&hex(topic.as_bytes())))), detail);
        // Nor in the name that a Will will have.
        let connect =
            packet(0x10, &format!("0004'MQTT'04 06 003C 0001'c' {} 0000", field(&hex(topic.as_bytes()))));
        refused(V4, &connect, 0x81, detail);
    }
}

#[test]
fn mqtt_4_7_1_2_multi_level_wildcard() {
    for filter in ["#a", "a#", "a/b#", "#/a", "a/#/b", "##", "a/#/", "a/#/#"] {
        let bytes = packet(0x82, &format!("0001 {} 00", field(&hex(filter.as_bytes()))));
        closes(V4, &bytes, "a topic filter is not well formed");
    }
    let filters = ["#", "a/#", "a/b/#", "/#", "a/+/#"];
    assert_eq!(delivered(&filters, "a/b/c"), [true, true, true, false, true]);
    // The parent level belongs to it.
    assert_eq!(delivered(&filters, "a/b"), [true, true, true, false, true]);
    assert_eq!(delivered(&filters, "a"), [true, true, false, false, false]);
    assert_eq!(delivered(&filters, "/"), [true, false, false, true, false]);
}

#[test]
fn mqtt_4_7_1_3_single_level_wildcard() {
    for filter in ["a+", "+a", "a/b+", "a/+b/c", "++", "+#", "a/++/b"] {
        let bytes = packet(0x82, &format!("0001 {} 00", field(&hex(filter.as_bytes()))));
        closes(V4, &bytes, "a topic filter is not well formed");
    }
    let filters = ["+", "+/+", "/+", "a/+", "+/b", "a/+/c", "+/+/+"];
    assert_eq!(delivered(&filters, "a"), [true, false, false, false, false, false, false]);
    assert_eq!(delivered(&filters, "/a"), [false, true, true, false, false, false, false]);
    assert_eq!(delivered(&filters, "a/"), [false, true, false, true, false, false, false]);
    assert_eq!(delivered(&filters, "a/b"), [false, true, false, true, true, false, false]);
    assert_eq!(delivered(&filters, "a/b/c"), [false, false, false, false, false, true, true]);
}

#[test]
fn mqtt_4_7_2_1_leading_wildcards_do_not_match_dollar_topics() {
    let filters = ["#", "+/#", "+/a", "+/+", "$x/#", "$x/+", "$x/a", "x/a", "/#"];
    let dollar = [false, false, false, false, true, true, true, false, false];
    assert_eq!(delivered(&filters, "$x/a"), dollar);
    // Further down a `$` is a character like others.
    assert_eq!(delivered(&["#", "+/+", "a/#", "a/+", "/#"], "a/$x"), [true, true, true, true, false]);
    // The server's own topics.
    let sys_interval = Duration::from_secs(10);
    let mut w = World::with(WorldSettings { sys_interval, ..WorldSettings::default() });
    let (all, sys) = (w.connect(V4, "all"), w.connect(V4, "sys"));
    w.subscribe(all, "#", QoS::AtMostOnce);
    w.subscribe(all, "+/broker/#", QoS::AtMostOnce);
    w.subscribe(sys, "$SYS/#", QoS::AtMostOnce);
    w.advance(sys_interval * 2);
    assert_eq!(w.take(all), []);
    assert!(!w.take(sys).is_empty());
}

#[test]
fn mqtt_4_7_3_1_one_character_at_least() {
    closes(V4, &packet(0x30, "0000 'x'"), "a topic name is empty or holds a wildcard");
    closes(V4, &packet(0x82, "0001 0000 00"), "a topic filter is not well formed");
    closes(V4, &packet(0xA2, "0001 0000"), "a topic filter is not well formed");
    assert_eq!(delivered(&["/", "a", "+"], "/"), [true, false, false]);
    assert_eq!(delivered(&["/", "a", "+"], "a"), [false, true, true]);
}

#[test]
fn mqtt_4_7_3_2_no_nul() {
    closes(V4, &packet(0x30, "0003 'a' 00 'b' 'x'"), "a string holds U+0000");
    closes(V4, &packet(0x82, "0001 0003 'a' 00 'b' 00"), "a string holds U+0000");
    closes(V4, &packet(0xA2, "0001 0003 'a' 00 'b'"), "a string holds U+0000");
}

#[test]
fn mqtt_4_7_3_3_up_to_65535_bytes() {
    // More the two bytes of the length cannot say. This much passes whole, once the broker's own limit allows it.
    let mut w = World::limited(Limits { topic_length: 65_535, ..Limits::default() });
    let (c, p) = (w.connect(V4, "c"), w.connect(V4, "p"));
    let topic = "é".repeat(32_767) + "x";
    assert_eq!(topic.len(), 65_535);
    w.subscribe(c, &topic, QoS::AtLeastOnce);
    w.publish(p, &topic, QoS::AtLeastOnce, "whole");
    let got = w.drain(c);
    assert_eq!(payloads(&got), ["whole"]);
    assert_eq!(got[0].publish().topic, topic);
    let longer = topic + "x";
    assert!(!is_valid_name(&longer) && !is_valid_filter(&longer));
}

#[test]
fn mqtt_4_7_3_4_nothing_is_normalised() {
    for (filter, topic) in [
        ("Accounts", "ACCOUNTS"),
        ("\u{E9}", "e\u{301}"),
        ("\u{212B}", "\u{C5}"),
        ("\u{FB01}", "fi"),
        ("/finance", "finance"),
        ("a//b", "a/b"),
        ("a/", "a"),
        ("a b", "a  b"),
        (" a", "a"),
        ("a%20b", "a b"),
        ("a/./b", "a/b"),
        ("a\u{200B}", "a"),
        ("\u{FFFD}", "\u{10FFFF}"),
    ] {
        assert_eq!(delivered(&[filter, topic], topic), [false, true], "{filter:?} {topic:?}");
        assert_eq!(delivered(&[filter, topic], filter), [true, false], "{filter:?} {topic:?}");
    }
    // Nor changed on its way: private use, not assigned, not a character.
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    w.subscribe(c, "#", QoS::AtMostOnce);
    for topic in ["\u{E000}", "\u{378}", "\u{FFFE}", "\u{10FFFF}", "\u{1}", "e\u{301}", " \u{A0} "] {
        w.publish(c, topic, QoS::AtMostOnce, "x");
        assert_eq!(w.take_one(c).publish().topic, topic);
    }
}
