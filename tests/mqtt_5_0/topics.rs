//! Topic Names and Topic Filters (4.7).

use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;

/// Whether a subscription to `filter` gets what is published to `topic`: asked of a transient session, a
/// persistent one, a share group's member and the retained messages, which have a matcher each.
fn reaches(filter: &str, topic: &str) -> bool {
    let mut w = World::new(2);
    let shared = format!("$share/g/{filter}");
    let takers = [
        (w.connect(V5, "transient"), filter),
        (w.resume(V5, "persistent"), filter),
        (w.connect(V5, "member"), &shared),
    ];
    for (c, filter) in takers {
        w.subscribe(c, filter, QoS::AtMostOnce);
    }
    let p = w.connect(V5, "p");
    w.publish_with(p, &Publish { retain: true, ..message(topic, QoS::AtLeastOnce, "x") });
    let late = w.connect(V5, "late");
    w.subscribe(late, filter, QoS::AtMostOnce);
    let counts = [takers[0].0, takers[1].0, takers[2].0, late].map(|c| w.take(c).len());
    assert!(counts == [0; 4] || counts == [1; 4], "{filter} {topic}: {counts:?}");
    counts[0] == 1
}

/// Asserts what becomes of a SUBSCRIBE to `filter`: granted, or refused with this code and the connection
/// closed.
fn subscribe_is(filter: &[u8], refused: Option<ReasonCode>) {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    let mut body = vec![0, 1, 0];
    body.extend_from_slice(&(filter.len() as u16).to_be_bytes());
    body.extend_from_slice(filter);
    body.push(0);
    let hex: String = body.iter().map(|byte| format!("{byte:02X}")).collect();
    w.send_bytes(c, &packet(0x82, &hex));
    match refused {
        None => assert_eq!(codes(&w.take_one(c)), [0]),
        Some(reason) => {
            expect_closed(&mut w, c, reason);
        }
    }
}

/// The same for a PUBLISH to `topic`.
fn publish_is(topic: &[u8], refused: Option<ReasonCode>) {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic);
    body.push(0);
    let hex: String = body.iter().map(|byte| format!("{byte:02X}")).collect();
    w.send_bytes(c, &packet(0x30, &hex));
    match refused {
        None => expect_open(&mut w, c),
        Some(reason) => {
            expect_closed(&mut w, c, reason);
        }
    }
}

const FILTER: Option<ReasonCode> = Some(ReasonCode::TopicFilterInvalid);
const NAME: Option<ReasonCode> = Some(ReasonCode::TopicNameInvalid);

#[test]
fn mqtt_4_7_0_1_wildcards_in_filters_only() {
    for (filter, topic) in [("+/a", "b/a"), ("#", "a"), ("a/+/c", "a/b/c")] {
        assert!(reaches(filter, topic));
        publish_is(filter.as_bytes(), NAME);
    }
}

#[test]
fn mqtt_4_7_1_1_multi_level_wildcard() {
    for filter in ["#", "/#", "sport/#", "sport/tennis/#"] {
        subscribe_is(filter.as_bytes(), None);
    }
    for filter in ["sport#", "sport/tennis#", "sport/#/ranking", "##", "#/", "#/a", "a/#b"] {
        subscribe_is(filter.as_bytes(), FILTER);
    }
    for topic in ["sport/tennis", "sport/tennis/", "sport/tennis/player1", "sport/tennis/player1/ranking"] {
        assert!(reaches("sport/tennis/#", topic), "{topic}");
        assert!(reaches("#", topic), "{topic}");
    }
    for topic in ["sport", "sport/tennisx", "sport/golf", "Sport/tennis/x"] {
        assert!(!reaches("sport/tennis/#", topic), "{topic}");
    }
}

#[test]
fn mqtt_4_7_1_2_single_level_wildcard() {
    for filter in ["+", "+/", "/+", "+/tennis/#", "sport/+/player1", "+/+"] {
        subscribe_is(filter.as_bytes(), None);
    }
    for filter in ["sport+", "+sport", "a/b+/c", "++", "+#", "a/+#"] {
        subscribe_is(filter.as_bytes(), FILTER);
    }
    for (filter, topic, expected) in [
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("+/tennis/#", "sport/tennis", true),
    ] {
        assert_eq!(reaches(filter, topic), expected, "{filter} {topic}");
    }
}

#[test]
fn mqtt_4_7_2_1_dollar_topics_do_not_match_a_leading_wildcard() {
    for (filter, topic, expected) in [
        ("#", "$other/a", false),
        ("+/a", "$other/a", false),
        ("+/#", "$other/a", false),
        ("+", "$other", false),
        ("$other/#", "$other/a", true),
        ("$other/+", "$other/a", true),
        ("$other/a", "$other/a", true),
        ("a/+", "a/$b", true),
        ("a/#", "a/$b/c", true),
        ("#", "a$b", true),
    ] {
        assert_eq!(reaches(filter, topic), expected, "{filter} {topic}");
    }
}

#[test]
fn mqtt_4_7_3_1_at_least_one_character() {
    subscribe_is(b"", FILTER);
    // An empty name without an alias.
    publish_is(b"", Some(ReasonCode::ProtocolError));
    for shortest in [&b"a"[..], b"/", b" ", b"$"] {
        subscribe_is(shortest, None);
        publish_is(shortest, None);
    }
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send_bytes(c, &packet(0xA2, "0001 00 0000"));
    expect_closed(&mut w, c, ReasonCode::TopicFilterInvalid);
    assert!(reaches("/", "/"));
    assert!(reaches("//", "//"));
}

#[test]
fn mqtt_4_7_3_2_no_null_character() {
    for text in [&b"\0"[..], b"a\0", b"a/\0/b"] {
        subscribe_is(text, Some(ReasonCode::MalformedPacket));
        publish_is(text, Some(ReasonCode::MalformedPacket));
    }
}

#[test]
fn mqtt_4_7_3_3_at_most_65535_bytes() {
    // Two bytes of length can say no more. What the server takes is less, and told by a code.
    let limit = World::new(1).limits.topic_length;
    let longest = vec![b'x'; limit];
    publish_is(&longest, None);
    subscribe_is(&longest, None);
    for len in [limit + 1, 65_535] {
        publish_is(&vec![b'x'; len], NAME);
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        send_subscribe(&mut w, c, &[(&"x".repeat(len), options(QoS::AtMostOnce))]);
        assert_eq!(codes(&w.take_one(c)), [ReasonCode::TopicFilterInvalid as u8]);
    }
}

#[test]
fn mqtt_4_7_3_4_no_normalization() {
    for (filter, topic) in [
        ("ACCOUNTS", "Accounts"),
        ("\u{E9}", "e\u{301}"),
        ("a", " a"),
        ("a", "a/"),
        ("/a", "a"),
        ("a//b", "a/b"),
        ("a", "\u{FEFF}a"),
        ("a/./b", "a/b"),
        ("a%2Fb", "a/b"),
    ] {
        assert!(!reaches(filter, topic), "{filter:?} {topic:?}");
        assert!(reaches(filter, filter));
        assert!(reaches(topic, topic));
    }
}
