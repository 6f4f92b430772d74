//! Clean Session and Session state (3.1.2.4, 4.1), what is sent again (4.4), and whose messages are kept (4.5).

use std::time::Duration;

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;
use crate::support::*;

#[test]
fn mqtt_3_1_2_4_without_clean_session_the_session_resumes_or_begins() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let (c, frame) = connack(&mut w, &connect(V4, "c", false));
        assert!(!session_present(&frame), "there was none: it is made");
        w.subscribe(c, "t", QoS::AtLeastOnce);
        // It is stored however the connection ends.
        for end in [true, false] {
            let c = w.resume(V4, "c");
            if end {
                w.cut(c);
            } else {
                disconnect(&mut w, c, ReasonCode::Success, &[]);
            }
            let (c, frame) = connack(&mut w, &connect(V4, "c", false));
            assert!(session_present(&frame));
            w.publish(c, "t", QoS::AtLeastOnce, "subscribed still");
            assert_eq!(payloads(&w.drain(c)), ["subscribed still"]);
        }
    }
}

#[test]
fn mqtt_3_1_2_5_messages_are_kept_for_a_session_without_a_connection() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let c = w.resume(V4, "c");
        w.subscribe(c, "one", QoS::AtLeastOnce);
        w.subscribe(c, "two/#", QoS::ExactlyOnce);
        w.cut(c);
        let p = w.connect(V4, "p");
        for n in 0..200 {
            w.publish(p, if n % 2 == 0 { "one" } else { "two/x" }, EVERY_QOS[1 + n % 2], &n.to_string());
        }
        w.advance(Duration::from_secs(24 * 3600));
        let c = w.resume(V4, "c");
        let got = w.drain(c);
        assert_eq!(payloads(&got), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
        assert!(got.iter().enumerate().all(|(n, frame)| frame.publish().qos == EVERY_QOS[1 + n % 2]));
    }
}

#[test]
fn mqtt_3_1_2_6_clean_session_starts_anew_and_leaves_nothing() {
    let mut w = World::new(1);
    let p = w.connect(V4, "p");
    let c = w.resume(V4, "c");
    w.subscribe(c, "t", QoS::ExactlyOnce);
    w.publish(p, "t", QoS::AtLeastOnce, "unacknowledged");
    // A QoS 2 message that is not released, too.
    w.send(c, &Packet::Publish(numbered("u", QoS::ExactlyOnce, 7, "half")));
    w.cut(c);
    w.publish(p, "t", QoS::AtLeastOnce, "waits");
    let c = w.connect(V4, "c");
    assert_eq!(w.take(c), []);
    w.publish(p, "t", QoS::AtLeastOnce, "no subscription");
    assert_eq!(w.take(c), []);
    // The identifier means a new message now, not a repeat.
    w.subscribe(p, "u", QoS::AtMostOnce);
    w.publish_with(c, &numbered("u", QoS::ExactlyOnce, 7, "whole"));
    assert_eq!(payloads(&w.drain(p)), ["whole"]);
    // And what this session holds is not there for a later one.
    w.subscribe(c, "t", QoS::ExactlyOnce);
    w.publish(p, "t", QoS::AtLeastOnce, "unacknowledged");
    assert_eq!(w.take(c).len(), 1);
    w.cut(c);
    let (c, frame) = connack(&mut w, &connect(V4, "c", false));
    assert!(!session_present(&frame));
    w.publish(p, "t", QoS::AtLeastOnce, "no subscription");
    assert_eq!(w.take(c), []);
}

#[test]
fn mqtt_3_1_2_7_retained_messages_outlive_the_session() {
    for clean_session in [true, false] {
        let mut w = World::new(2);
        let c = w.open(&connect(V4, "c", clean_session));
        w.subscribe(c, "t", QoS::AtLeastOnce);
        w.publish_with(c, &retained("t", QoS::AtLeastOnce, "kept"));
        w.cut(c);
        // The session ends here at the latest.
        let c = w.connect(V4, "c");
        w.cut(c);
        let d = w.connect(V4, "d");
        w.subscribe(d, "t", QoS::AtLeastOnce);
        assert_eq!(payloads(&w.drain(d)), ["kept"]);
    }
}

#[test]
fn mqtt_4_1_0_1_session_state_is_kept_for_as_long_as_the_session() {
    let mut w = World::new(1);
    let (c, p) = (w.resume(V4, "c"), w.connect(V4, "p"));
    w.subscribe(p, "u", QoS::ExactlyOnce);
    w.subscribe(c, "t", QoS::ExactlyOnce);
    // All that Session state is made of: subscriptions; sent and not acknowledged (QoS 1), acknowledged by half
    // (QoS 2); received and not released; waiting.
    w.publish(p, "t", QoS::AtLeastOnce, "unacknowledged");
    w.publish(p, "t", QoS::ExactlyOnce, "by half");
    let sent = ids(&w.take(c));
    w.send(c, &Packet::PubRec(ack_of(id(sent[1]))));
    assert_eq!(first_bytes(&w.take(c)), [0x62]);
    w.send(c, &Packet::Publish(numbered("u", QoS::ExactlyOnce, 9, "not released")));
    assert_eq!(payloads(&w.drain(p)), ["not released"]);
    w.cut(c);
    w.publish(p, "t", QoS::AtLeastOnce, "waits");
    w.advance(Duration::from_secs(7 * 24 * 3600));
    let c = w.resume(V4, "c");
    let frames = w.take(c);
    assert_eq!(first_bytes(&frames), [0x3A, 0x62, 0x32]);
    assert_eq!(payloads(&[frames[0].clone(), frames[2].clone()]), ["unacknowledged", "waits"]);
    // A repeat of what was received is not delivered once more.
    w.publish_with(c, &Publish { dup: true, ..numbered("u", QoS::ExactlyOnce, 9, "not released") });
    assert_eq!(w.drain(p), []);
    w.publish(p, "t", QoS::AtLeastOnce, "subscribed still");
    assert_eq!(payloads(&w.drain(c)), ["subscribed still"]);
}

#[test]
fn mqtt_4_1_0_2_a_session_lasts_as_long_as_its_connection() {
    let limits = Limits { session_expiry_max: Some(Duration::from_secs(60)), ..Limits::default() };
    let mut w = World::limited(limits);
    let (clean, kept) = (w.connect(V4, "clean"), w.resume(V4, "kept"));
    for c in [clean, kept] {
        w.subscribe(c, "t", QoS::AtLeastOnce);
    }
    w.advance(Duration::from_secs(365 * 24 * 3600));
    w.publish(clean, "t", QoS::AtLeastOnce, "still there");
    for c in [clean, kept] {
        assert_eq!(payloads(&w.drain(c)), ["still there"]);
    }
}

#[test]
fn mqtt_4_4_0_1_what_is_unacknowledged_is_sent_again_with_its_identifier() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let (c, p) = (w.resume(V4, "c"), w.connect(V4, "p"));
        w.subscribe(c, "t", QoS::ExactlyOnce);
        for (n, qos) in [1, 2, 1, 2, 2, 1].into_iter().enumerate() {
            w.publish(p, "t", EVERY_QOS[qos], &n.to_string());
        }
        let sent = ids(&w.take(c));
        // The first is done, the second and the fifth are acknowledged by half, the fourth wholly.
        w.send(c, &Packet::PubAck(ack_of(id(sent[0]))));
        for n in [1, 3, 4] {
            w.send(c, &Packet::PubRec(ack_of(id(sent[n]))));
        }
        w.send(c, &Packet::PubComp(ack_of(id(sent[3]))));
        w.take(c);
        // Again and again, until it is acknowledged.
        for _ in 0..2 {
            w.cut(c);
            let c = w.resume(V4, "c");
            let again = [
                packet(0x62, &format!("{:04X}", sent[1])),
                packet(0x3A, &format!("0001't' {:04X} '2'", sent[2])),
                packet(0x62, &format!("{:04X}", sent[4])),
                packet(0x3A, &format!("0001't' {:04X} '5'", sent[5])),
            ];
            assert_eq!(take_bytes(&mut w, c), again.concat());
            w.cut(c);
        }
        let c = w.resume(V4, "c");
        assert_eq!(w.drain(c).len(), 2);
        w.cut(c);
        let c = w.resume(V4, "c");
        assert_eq!(w.take(c), []);
    }
}

#[test]
fn mqtt_4_5_0_1_a_message_goes_into_every_session_with_a_matching_subscription() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let filters = ["a/b", "a/+", "#", "+/b", "a/b/#", "a/c", "b/#", "+"];
        let names: Vec<String> = (0..filters.len()).map(|n| format!("client {n}")).collect();
        // Half of them have a connection, and half of those keep their session.
        for (n, filter) in filters.iter().enumerate() {
            for (prefix, away, clean) in
                [("away", true, false), ("here", false, false), ("clean", false, true)]
            {
                let c = w.open(&connect(V4, &format!("{prefix} {}", names[n]), clean));
                w.subscribe(c, filter, QoS::AtLeastOnce);
                if away {
                    w.cut(c);
                }
            }
        }
        let p = w.connect(V4, "p");
        w.publish(p, "a/b", QoS::AtLeastOnce, "x");
        for (n, name) in names.iter().enumerate() {
            let wanted: &[&str] = if n < 5 { &["x"] } else { &[] };
            for client in [3 * n + 1, 3 * n + 2] {
                assert_eq!(payloads(&w.drain(client)), wanted, "{}", filters[n]);
            }
            let c = w.resume(V4, &format!("away {name}"));
            assert_eq!(payloads(&w.drain(c)), wanted, "{}", filters[n]);
        }
    }
}
