//! Session State (4.1), taking ownership (4.5) and message order (4.6).

use std::time::Duration;

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;

#[test]
fn mqtt_4_1_0_1_session_state_stays_while_the_connection_is_open() {
    let mut w = World::new(1);
    // Neither time nor an expiry that would long have passed ends it.
    for kept in [0, 1] {
        let c = open_with(&mut w, &format!("c{kept}"), true, &[expiry(kept)]);
        w.subscribe(c, "t", QoS::ExactlyOnce);
        let p = w.connect(V5, "p");
        w.publish(p, "t", QoS::ExactlyOnce, "unacknowledged");
        let given = only_publish(&mut w, c).publish().packet_id.expect("QoS 2");
        w.advance(Duration::from_secs(100_000));
        w.send(c, &Packet::PubRec(ack_of(given)));
        assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(given)));
        w.publish(p, "t", QoS::AtMostOnce, "still subscribed");
        assert_eq!(payloads(&w.take(c)), ["still subscribed"]);
        w.unsubscribe(c, "t");
    }
}

#[test]
fn mqtt_4_1_0_2_session_state_goes_when_its_expiry_has_passed() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        for kept in [0, 1, 10, 1000] {
            let c = open_with(&mut w, "c", false, &[expiry(kept)]);
            for filter in ["t", "$share/g/u"] {
                w.subscribe(c, filter, QoS::AtLeastOnce);
            }
            w.publish(p, "t", QoS::AtLeastOnce, "unacknowledged");
            w.cut(c);
            if kept > 0 {
                assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, "queued"), ReasonCode::Success);
            }
            w.advance(Duration::from_secs(u64::from(kept) + 1));
            for topic in ["t", "u"] {
                let reason = w.publish(p, topic, QoS::AtLeastOnce, "nobody's");
                assert_eq!(reason, ReasonCode::NoMatchingSubscribers, "{kept} {topic}");
            }
            let (c, frame) = connack_with(&mut w, "c", false, &[]);
            assert!(!session_present(&frame));
            assert_eq!(w.take(c), []);
            w.cut(c);
        }
        let sessions: usize = w.shards.iter().map(|shard| shard.census().sessions).sum();
        assert_eq!(sessions, 1, "the publisher's");
        assert_eq!(dropped(&w, DropReason::SessionExpired), 2 * 3);
        assert_eq!(dropped(&w, DropReason::SessionEnded), 1, "at 0, it ended with its connection");
    }
}

#[test]
fn mqtt_4_5_0_1_a_message_is_added_to_every_matching_session() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let mut takers = Vec::new();
        for i in 0..10 {
            let c = w.resume(V5, &format!("c{i}"));
            w.subscribe(c, if i % 2 == 0 { "t/+" } else { "t/1" }, QoS::ExactlyOnce);
            // Some are there, some are not, and some have a full window.
            if i % 3 == 0 {
                w.cut(c);
            }
            takers.push(c);
        }
        let p = w.connect(V5, "p");
        for i in 0..100 {
            let qos = EVERY_QOS[1 + i % 2];
            assert_eq!(w.publish(p, "t/1", qos, &i.to_string()), ReasonCode::Success);
        }
        let expected: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        for (i, c) in takers.into_iter().enumerate() {
            let c = if i % 3 == 0 { w.resume(V5, &format!("c{i}")) } else { c };
            assert_eq!(payloads(&w.drain(c)), expected);
        }
    }
}

/// The payloads per QoS, in the order they came.
fn by_qos(frames: &[Frame]) -> [Vec<String>; 3] {
    EVERY_QOS.map(|qos| {
        let of_qos: Vec<Frame> = frames.iter().filter(|frame| frame.publish().qos == qos).cloned().collect();
        payloads(&of_qos)
    })
}

#[test]
fn mqtt_4_6_0_5_order_per_publisher_topic_and_qos() {
    for shards in [1, 2, 3] {
        let mut w = World::new(shards);
        let takers = [w.connect(V5, "a"), w.resume(V5, "bb"), w.resume(V5, "away")];
        for c in takers {
            w.subscribe(c, "t/#", QoS::ExactlyOnce);
        }
        w.cut(takers[2]);
        let publishers = [w.connect(V5, "p"), w.connect(V5, "q")];
        for i in 0..300_u16 {
            for (which, p) in publishers.into_iter().enumerate() {
                let payload = format!("{which}:{i}");
                let qos = EVERY_QOS[usize::from(i % 3)];
                let packet_id = (qos > QoS::AtMostOnce).then(|| id(i + 1));
                w.put(p, &Packet::Publish(Publish { packet_id, ..message("t/1", qos, &payload) }));
            }
            if i % 7 == 0 {
                w.run();
            }
        }
        w.run();
        let away = w.resume(V5, "away");
        for c in [takers[0], takers[1], away] {
            let got = w.drain(c);
            for (qos, got) in by_qos(&got).into_iter().enumerate() {
                for which in 0..2 {
                    let of_one: Vec<&String> =
                        got.iter().filter(|payload| payload.starts_with(&format!("{which}:"))).collect();
                    if qos == 0 && c == away {
                        assert!(of_one.is_empty());
                        continue;
                    }
                    let expected: Vec<String> =
                        (0..300).filter(|i| i % 3 == qos).map(|i| format!("{which}:{i}")).collect();
                    assert_eq!(of_one, expected.iter().collect::<Vec<_>>());
                }
            }
        }
    }
}

#[test]
fn mqtt_4_6_0_6_order_holds_through_a_reconnect() {
    let mut w = World::new(2);
    let c = w.resume(V5, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    let p = w.connect(V5, "p");
    for i in 0..50 {
        w.publish(p, "t", QoS::AtLeastOnce, &i.to_string());
    }
    // 32 are on their way; some in the middle are acknowledged, in any order.
    let first = w.take(c);
    assert_eq!(first.len(), 32);
    for at in [7, 3, 20] {
        w.put(c, &Packet::PubAck(ack_of(first[at].publish().packet_id.expect("QoS 1"))));
    }
    w.cut(c);
    w.publish(p, "t", QoS::AtLeastOnce, "50");
    let c = w.resume(V5, "c");
    let expected: Vec<String> = (0..=50).filter(|i| ![7, 3, 20].contains(i)).map(|i| i.to_string()).collect();
    assert_eq!(payloads(&w.drain(c)), expected);
}

#[test]
fn the_servers_acknowledgements_keep_the_order_too() {
    // The standard asks it of clients; what a server does for its publishers is no less.
    let mut w = World::new(3);
    let p = w.resume(V5, "p");
    let mut bytes = Vec::new();
    for i in 0..60_u16 {
        let qos = EVERY_QOS[usize::from(1 + i % 2)];
        let publish = Publish { packet_id: Some(id(i + 1)), ..message("t", qos, "x") };
        weirmq::protocol::codec::encode(V5, &Packet::Publish(publish), &mut bytes);
    }
    w.send_bytes(p, &bytes);
    let answered: Vec<u16> = w
        .take(p)
        .iter()
        .map(|frame| match frame.packet() {
            Packet::PubAck(ack) | Packet::PubRec(ack) => ack.packet_id.get(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answered, (1..=60).collect::<Vec<u16>>());
}

#[test]
fn packets_that_arrive_in_pieces_are_put_together() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    let mut bytes = Vec::new();
    let mut raw = Vec::new();
    let filters = SubscribeFilters::encode([("t", options(QoS::AtMostOnce))], &mut raw);
    let subscribe = Subscribe { packet_id: id(1), properties: Properties::EMPTY, filters };
    let properties = list(&[Property::UserProperty("a", "b")]);
    let publish = Publish { properties: properties.as_properties(), ..message("t", QoS::AtMostOnce, "x") };
    for packet in [Packet::Subscribe(subscribe), Packet::Publish(publish), Packet::PingReq] {
        weirmq::protocol::codec::encode(V5, &packet, &mut bytes);
    }
    for byte in bytes {
        w.send_bytes(c, &[byte]);
    }
    let frames = w.take(c);
    assert_eq!(frames.len(), 3, "{frames:?}");
    assert_eq!(user_properties(frames[1].publish().properties), [("a", "b")]);
}
