//! Retained messages beyond the single statements: their limits, their replay to slow clients, and how a
//! replay and live messages meet.

use std::time::Duration;

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;

fn retain<'a>(topic: &'a str, qos: QoS, payload: &'a str) -> Publish<'a> {
    Publish { retain: true, ..message(topic, qos, payload) }
}

/// Publishes `count` retained messages to `t/0`, `t/1` and so on, in the order of their topics.
fn retain_many(w: &mut World, count: usize) -> Vec<String> {
    let p = w.connect(V5, "p");
    let mut topics: Vec<String> = (0..count).map(|i| format!("t/{i}")).collect();
    for topic in &topics {
        w.publish_with(p, &retain(topic, QoS::AtLeastOnce, topic));
    }
    topics.sort();
    topics
}

fn topics(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(|frame| frame.publish().topic.to_owned()).collect()
}

#[test]
fn a_replay_goes_no_faster_than_its_client() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let expected = retain_many(&mut w, 700);
        let c = open_with(&mut w, "c", true, &[Property::ReceiveMaximum(3)]);
        w.subscribe(c, "t/#", QoS::AtLeastOnce);
        assert_eq!(w.clients[c].received.len(), 3);
        let queued: u64 = w.stats.iter().map(|stats| stats.queued_messages.get()).sum();
        assert_eq!(queued, 3, "nothing is prepared ahead of need");
        assert_eq!(topics(&w.drain(c)), expected);
        expect_balance(&w);
    }
}

#[test]
fn a_replay_waits_for_a_client_that_does_not_read() {
    let limits = Limits { outbound_buffer: 2_000, ..Limits::default() };
    let mut w = World::limited(limits);
    let expected = retain_many(&mut w, 500);
    let c = w.connect(V5, "c");
    w.clients[c].stalled = true;
    let mut raw = Vec::new();
    let filters = SubscribeFilters::encode([("t/#", options(QoS::AtMostOnce))], &mut raw);
    let none = list(&[]);
    let subscribe = Subscribe { packet_id: id(1), properties: none.as_properties(), filters };
    w.put(c, &Packet::Subscribe(subscribe));
    for _ in 0..1000 {
        w.turn();
    }
    assert!(w.shards[0].census().largest_outbound < 3_000, "within its buffer");
    w.unstall(c);
    let got = w.take(c);
    assert!(matches!(got[0].packet(), Packet::SubAck(_)));
    assert_eq!(topics(&got[1..]), expected, "all of them, though at QoS 0");
    assert_eq!(dropped(&w, DropReason::Qos0SlowConsumer), 0);
}

#[test]
fn what_changes_during_a_replay_comes_once_and_never_old_after_new() {
    let mut w = World::new(1);
    let expected = retain_many(&mut w, 600);
    let c = open_with(&mut w, "c", true, &[Property::ReceiveMaximum(1)]);
    w.subscribe(c, "t/#", QoS::AtLeastOnce);
    // The cursor stands near the beginning: these are ahead of it, behind it, gone, and new.
    let p = w.connect(V5, "p");
    w.publish_with(p, &retain("t/0", QoS::AtLeastOnce, "behind, new"));
    w.publish_with(p, &retain("t/99", QoS::AtLeastOnce, "ahead, new"));
    w.publish_with(p, &retain("t/98", QoS::AtLeastOnce, ""));
    w.publish_with(p, &retain("t/new", QoS::AtLeastOnce, "new"));
    let got = w.drain(c);
    let of = |topic: &str| -> Vec<String> {
        let of_topic: Vec<Frame> =
            got.iter().filter(|frame| frame.publish().topic == topic).cloned().collect();
        payloads(&of_topic)
    };
    assert_eq!(of("t/0"), ["t/0", "behind, new"]);
    assert_eq!(of("t/99"), ["ahead, new"]);
    assert_eq!(of("t/98"), [""]);
    assert_eq!(of("t/new"), ["new"]);
    assert_eq!(got.len(), expected.len() + 2);
    expect_balance(&w);
}

#[test]
fn a_replay_goes_on_in_the_next_connection() {
    let mut w = World::new(3);
    let expected = retain_many(&mut w, 100);
    let c = open_with(&mut w, "c", false, &[expiry(100), Property::ReceiveMaximum(5)]);
    w.subscribe(c, "t/#", QoS::AtLeastOnce);
    let first = topics(&w.take(c));
    assert_eq!(first, expected[..5]);
    w.cut(c);
    let c = w.resume(V5, "c");
    assert_eq!(topics(&w.drain(c)), expected, "the five that were not acknowledged first");
    expect_balance(&w);
}

#[test]
fn unsubscribing_ends_a_replay() {
    for kept in [0, 100] {
        let mut w = World::new(1);
        retain_many(&mut w, 100);
        let c = open_with(&mut w, "c", true, &[expiry(kept), Property::ReceiveMaximum(5)]);
        w.subscribe(c, "t/#", QoS::AtLeastOnce);
        assert_eq!(w.take(c).len(), 5);
        w.unsubscribe(c, "t/#");
        for packet_id in 1..=5 {
            w.send(c, &Packet::PubAck(ack_of(id(packet_id))));
        }
        assert_eq!(w.take(c), []);
        assert_eq!(w.shards[0].census().replays, 0);
    }
}

#[test]
fn a_replay_has_the_identifier_and_qos_of_its_own_subscription() {
    let mut w = World::new(1);
    retain_many(&mut w, 1);
    let c = w.connect(V5, "c");
    for (filter, qos, identifier) in [("t/#", QoS::AtMostOnce, 7), ("t/+", QoS::ExactlyOnce, 9)] {
        w.subscribe_with(c, filter, options(qos), identifier);
        let got = w.drain(c);
        let told: Vec<_> = got.iter().map(|frame| (identifiers(frame), frame.publish().qos)).collect();
        assert_eq!(told, [(vec![identifier], qos.min(QoS::AtLeastOnce))]);
    }
}

#[test]
fn shared_subscriptions_get_no_retained_messages() {
    let mut w = World::new(3);
    retain_many(&mut w, 5);
    let c = w.connect(V5, "c");
    w.subscribe(c, "$share/g/t/#", QoS::AtLeastOnce);
    assert_eq!(w.take(c), []);
}

#[test]
fn the_number_of_retained_messages_is_limited() {
    let mut w = World::limited(Limits { retained_messages: 2, ..Limits::default() });
    let ear = w.connect(V5, "ear");
    w.subscribe(ear, "#", QoS::AtLeastOnce);
    let (p, old) = (w.connect(V5, "p"), w.connect(Version::V4, "old"));
    for topic in ["a", "b"] {
        assert_eq!(w.publish_with(p, &retain(topic, QoS::AtLeastOnce, "x")), ReasonCode::Success);
    }
    assert_eq!(w.drain(ear).len(), 2);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(w.publish_with(p, &retain("c", qos, "refused")), ReasonCode::QuotaExceeded);
    }
    assert_eq!(w.drain(ear), [], "refused is not delivered either");
    // Who cannot be told is delivered, and not retained.
    w.publish_with(old, &retain("c", QoS::AtLeastOnce, "3.1.1"));
    w.publish_with(p, &retain("c", QoS::AtMostOnce, "QoS 0"));
    assert_eq!(payloads(&w.drain(ear)), ["3.1.1", "QoS 0"]);
    assert_eq!(dropped(&w, DropReason::RetainedFull), 4);
    // What replaces or clears always can; and then there is room.
    assert_eq!(w.publish_with(p, &retain("a", QoS::AtLeastOnce, "y")), ReasonCode::Success);
    assert_eq!(w.publish_with(p, &retain("b", QoS::AtLeastOnce, "")), ReasonCode::Success);
    assert_eq!(w.publish_with(p, &retain("c", QoS::AtLeastOnce, "z")), ReasonCode::Success);
    let late = w.connect(V5, "late");
    w.subscribe(late, "#", QoS::AtMostOnce);
    assert_eq!(payloads(&w.take(late)), ["y", "z"]);
}

#[test]
fn a_message_that_was_not_retained_is_marked_as_it_was_published() {
    // Retain As Published speaks of the publisher's flag, not of what became of the message.
    let mut w = World::limited(Limits { retained_messages: 0, ..Limits::default() });
    let as_published = SubscribeOptions { retain_as_published: true, ..options(QoS::AtMostOnce) };
    let takers = [w.connect(V5, "a"), w.connect(V5, "b"), w.resume(V5, "c")];
    for c in takers {
        w.subscribe_with(c, "t", as_published, 0);
    }
    let p = w.connect(V5, "p");
    w.publish_with(p, &retain("t", QoS::AtMostOnce, "x"));
    for c in takers {
        assert!(only_publish(&mut w, c).publish().retain);
    }
}

#[test]
fn the_bytes_of_retained_messages_are_limited() {
    let mut w = World::limited(Limits { retained_bytes: 10_000, ..Limits::default() });
    let p = w.connect(V5, "p");
    let large = "x".repeat(3_000);
    let reasons: Vec<ReasonCode> =
        (0..5).map(|i| w.publish_with(p, &retain(&format!("t/{i}"), QoS::AtLeastOnce, &large))).collect();
    let kept = reasons.iter().filter(|reason| !reason.is_failure()).count();
    assert_eq!(kept, 3, "{reasons:?}");
    assert!(w.shared.retained().bytes() <= 10_000);
}

#[test]
fn retained_messages_that_expired_make_room_for_others() {
    let mut w = World::limited(Limits { retained_messages: 3, ..Limits::default() });
    let p = w.connect(V5, "p");
    let expires = list(&[Property::MessageExpiryInterval(10)]);
    for topic in ["a", "b"] {
        let publish = Publish { properties: expires.as_properties(), ..retain(topic, QoS::AtLeastOnce, "x") };
        w.publish_with(p, &publish);
    }
    w.publish_with(p, &retain("c", QoS::AtLeastOnce, "x"));
    assert_eq!(w.publish_with(p, &retain("d", QoS::AtLeastOnce, "x")), ReasonCode::QuotaExceeded);
    w.advance(Duration::from_secs(120));
    assert_eq!(w.publish_with(p, &retain("d", QoS::AtLeastOnce, "x")), ReasonCode::NoMatchingSubscribers);
    assert_eq!(w.shared.retained().count(), 2);
}

#[test]
fn a_retained_message_at_qos_0_and_a_publisher_without_takers() {
    let mut w = World::new(1);
    let p = w.connect(V5, "p");
    let reason = w.publish_with(p, &retain("t", QoS::AtLeastOnce, "x"));
    assert_eq!(reason, ReasonCode::NoMatchingSubscribers, "true, though it is kept");
    assert_eq!(dropped(&w, DropReason::NoSubscribers), 0, "for it is kept");
    w.publish(p, "t", QoS::AtLeastOnce, "x");
    assert_eq!(dropped(&w, DropReason::NoSubscribers), 1);
}

#[test]
fn a_subscribe_that_meets_a_retained_publish_on_its_way_gets_it_once() {
    // The publish has left its shard for another, where somebody has that filter; before it arrives there, another
    // client of that shard subscribes too. The replay brings the message, and its live copy is passed over.
    let mut w = World::new(2);
    let (p, known, c) = (w.connect(V5, "b"), w.connect(V5, "a"), w.connect(V5, "c"));
    assert_ne!(w.clients[p].shard, w.clients[c].shard);
    w.subscribe(known, "t", QoS::AtLeastOnce);
    w.put(p, &Packet::Publish(retain("t", QoS::AtLeastOnce, "x")));
    let mut raw = Vec::new();
    let filters = SubscribeFilters::encode([("t", options(QoS::AtLeastOnce))], &mut raw);
    let none = list(&[]);
    let subscribe = Subscribe { packet_id: id(1), properties: none.as_properties(), filters };
    w.put(c, &Packet::Subscribe(subscribe));
    w.run();
    assert_eq!(payloads(&w.drain(known)), ["x"]);
    let frames = w.take(c);
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert!(frames[1].publish().retain, "by its replay");
    w.clients[c].received = frames[1..].to_vec();
    assert_eq!(w.drain(c).len(), 1);
    expect_balance(&w);
}
