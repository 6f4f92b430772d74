//! Full queues and slow consumers: who is told, what is dropped, and that all of it is counted.

use std::time::Duration;

use weirmq::limits::{Limits, Overflow, QueueRule};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;

/// A world whose durable queues hold three messages.
fn with_rule(shards: u16, overflow: Overflow) -> World {
    let rule = QueueRule { filter: "#".into(), max_messages: 3, overflow, ..QueueRule::default() };
    World::with(WorldSettings { shards, queue_rules: vec![rule], ..WorldSettings::default() })
}

/// A client that is away, with a subscription to `filter`.
fn away(w: &mut World, client_id: &str, filter: &str) {
    let c = w.resume(V5, client_id);
    w.subscribe(c, filter, QoS::ExactlyOnce);
    w.cut(c);
}

/// Publishes `0`, `1` and so on to `t`; the reason codes.
fn publish_each(w: &mut World, count: usize) -> Vec<ReasonCode> {
    let p = w.connect(V5, "p");
    (0..count).map(|i| w.publish(p, "t", EVERY_QOS[1 + i % 2], &i.to_string())).collect()
}

fn what_waited(w: &mut World, client_id: &str) -> Vec<String> {
    let c = w.resume(V5, client_id);
    payloads(&w.drain(c))
}

#[test]
fn a_full_queue_that_rejects_tells_the_publisher() {
    for shards in [1, 3] {
        let mut w = with_rule(shards, Overflow::Reject);
        away(&mut w, "c", "t");
        let reasons = publish_each(&mut w, 5);
        assert_eq!(reasons[..3], [ReasonCode::Success; 3]);
        assert_eq!(reasons[3..], [ReasonCode::QuotaExceeded; 2]);
        assert_eq!(dropped(&w, DropReason::RejectedFull), 2);
        expect_balance(&w);
        assert_eq!(what_waited(&mut w, "c"), ["0", "1", "2"]);
        // And then there is room.
        assert_eq!(publish_each(&mut w, 2), [ReasonCode::Success; 2]);
        expect_balance(&w);
    }
}

#[test]
fn a_queue_that_rejects_rejects_for_all() {
    // One queue is full, another is not; a client is there, and the message is to be retained: nothing of it is done.
    for shards in [1, 3] {
        let mut w = with_rule(shards, Overflow::Reject);
        away(&mut w, "full", "t");
        publish_each(&mut w, 3);
        away(&mut w, "empty", "t");
        let ear = w.connect(V5, "ear");
        for filter in ["t", "$share/g/t"] {
            w.subscribe(ear, filter, QoS::ExactlyOnce);
        }
        let p = w.connect(V5, "p");
        for retain in [false, true] {
            let refused = Publish { retain, ..message("t", QoS::AtLeastOnce, "refused") };
            assert_eq!(w.publish_with(p, &refused), ReasonCode::QuotaExceeded);
        }
        assert_eq!(w.drain(ear), []);
        assert_eq!(w.shared.retained().count(), 0);
        // At QoS 0 no queue keeps it, so that none can refuse it.
        w.publish(p, "t", QoS::AtMostOnce, "QoS 0");
        assert_eq!(payloads(&w.drain(ear)), ["QoS 0"; 2]);
        assert_eq!(what_waited(&mut w, "full").len(), 3);
        assert_eq!(what_waited(&mut w, "empty"), [""; 0]);
        expect_balance(&w);
    }
}

#[test]
fn what_is_unacknowledged_counts_against_its_queue() {
    let mut w = with_rule(1, Overflow::Reject);
    let c = w.resume(V5, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    assert_eq!(publish_each(&mut w, 4)[3], ReasonCode::QuotaExceeded);
    let sent = w.take(c);
    assert_eq!(sent.len(), 3);
    w.send(c, &Packet::PubAck(ack_of(sent[1].publish().packet_id.expect("QoS 1"))));
    assert_eq!(publish_each(&mut w, 2), [ReasonCode::Success, ReasonCode::QuotaExceeded]);
    expect_balance(&w);
}

#[test]
fn expired_messages_make_room_in_a_queue_that_drops() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let mut w = with_rule(1, overflow);
        away(&mut w, "c", "t");
        let p = w.connect(V5, "p");
        let properties = list(&[Property::MessageExpiryInterval(10)]);
        for _ in 0..2 {
            let publish =
                Publish { properties: properties.as_properties(), ..message("t", QoS::AtLeastOnce, "old") };
            w.publish_with(p, &publish);
        }
        w.publish(p, "t", QoS::AtLeastOnce, "kept");
        w.advance(Duration::from_secs(20));
        for payload in ["a", "b"] {
            w.publish(p, "t", QoS::AtLeastOnce, payload);
        }
        assert_eq!(what_waited(&mut w, "c"), ["kept", "a", "b"], "{overflow:?}");
        assert_eq!(dropped(&w, DropReason::Expired), 2);
        expect_balance(&w);
    }
}

#[test]
fn a_full_queue_that_drops_the_oldest() {
    for shards in [1, 3] {
        let mut w = with_rule(shards, Overflow::DropOldest);
        away(&mut w, "c", "t");
        assert_eq!(publish_each(&mut w, 10), [ReasonCode::Success; 10]);
        assert_eq!(dropped(&w, DropReason::OverflowOldest), 7);
        expect_balance(&w);
        assert_eq!(what_waited(&mut w, "c"), ["7", "8", "9"]);
        expect_balance(&w);
    }
}

#[test]
fn a_full_queue_that_drops_the_newest() {
    for shards in [1, 3] {
        let mut w = with_rule(shards, Overflow::DropNewest);
        away(&mut w, "c", "t");
        assert_eq!(publish_each(&mut w, 10), [ReasonCode::Success; 10]);
        assert_eq!(dropped(&w, DropReason::OverflowNewest), 7);
        expect_balance(&w);
        assert_eq!(what_waited(&mut w, "c"), ["0", "1", "2"]);
        expect_balance(&w);
    }
}

#[test]
fn a_share_groups_queue_overflows_in_the_same_ways() {
    for (overflow, kept, reason) in [
        (Overflow::Reject, ["0", "1", "2"], DropReason::RejectedFull),
        (Overflow::DropOldest, ["7", "8", "9"], DropReason::OverflowOldest),
        (Overflow::DropNewest, ["0", "1", "2"], DropReason::OverflowNewest),
    ] {
        for shards in [1, 3] {
            let mut w = with_rule(shards, overflow);
            away(&mut w, "c", "$share/g/t");
            publish_each(&mut w, 10);
            assert_eq!(dropped(&w, reason), 7);
            expect_balance(&w);
            assert_eq!(what_waited(&mut w, "c"), kept, "{overflow:?}");
            expect_balance(&w);
        }
    }
}

#[test]
fn a_queue_is_limited_in_bytes() {
    let rule = QueueRule { filter: "#".into(), max_bytes: 10_000, ..QueueRule::default() };
    let mut w = World::with(WorldSettings { queue_rules: vec![rule], ..WorldSettings::default() });
    away(&mut w, "c", "t");
    let p = w.connect(V5, "p");
    let large = "x".repeat(3_000);
    let reasons: Vec<bool> =
        (0..5).map(|_| w.publish(p, "t", QoS::AtLeastOnce, &large).is_failure()).collect();
    assert_eq!(reasons, [false, false, false, true, true]);
    assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, "small"), ReasonCode::Success);
}

#[test]
fn publishers_before_5_0_wait_for_a_full_queue() {
    let mut w = with_rule(1, Overflow::Reject);
    away(&mut w, "c", "t");
    publish_each(&mut w, 3);
    let old = w.connect(Version::V4, "old");
    for packet_id in [1, 2] {
        let publish = Publish { packet_id: Some(id(packet_id)), ..message("t", QoS::AtLeastOnce, "parked") };
        w.send(old, &Packet::Publish(publish));
    }
    assert_eq!(w.take(old), [], "neither acknowledged nor refused");
    let c = w.resume(V5, "c");
    assert_eq!(w.drain(c).len(), 3);
    w.advance(Duration::from_secs(1));
    assert_eq!(w.take(old).len(), 2);
    assert_eq!(payloads(&w.drain(c)), ["parked"; 2]);
    // Not for ever.
    w.cut(c);
    publish_each(&mut w, 3);
    w.send(old, &Packet::Publish(message("t", QoS::AtLeastOnce, "too long")));
    w.advance(Duration::from_secs(29));
    assert!(w.clients[old].connection.is_some());
    w.advance(Duration::from_secs(2));
    assert_eq!(w.closed_with(old), Some(ReasonCode::QuotaExceeded));
    expect_balance(&w);
}

#[test]
fn a_transient_queue_drops_its_oldest() {
    let limits = Limits { transient_queue_messages: 10, max_inflight: 5, ..Limits::default() };
    let mut w = World::limited(limits);
    let c = w.connect(V5, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    let reasons = publish_each(&mut w, 30);
    assert_eq!(reasons, [ReasonCode::Success; 30], "nobody waits for a client that keeps nothing");
    assert_eq!(dropped(&w, DropReason::OverflowOldest), 15);
    expect_balance(&w);
    let expected: Vec<String> = (0..5).chain(20..30).map(|i: i32| i.to_string()).collect();
    assert_eq!(payloads(&w.drain(c)), expected, "what is under way stays");
    expect_balance(&w);
}

#[test]
fn qos_0_to_a_client_that_does_not_read_is_dropped_and_counted() {
    for shards in [1, 3] {
        let limits = Limits { outbound_buffer: 5_000, ..Limits::default() };
        let mut w = World::with(WorldSettings { shards, limits, ..WorldSettings::default() });
        let takers = [w.connect(V5, "transient"), w.resume(V5, "persistent")];
        let reads = w.connect(V5, "reads");
        for c in takers.into_iter().chain([reads]) {
            w.subscribe(c, "t", QoS::AtMostOnce);
        }
        for c in takers {
            w.clients[c].stalled = true;
        }
        let p = w.connect(V5, "p");
        let payload = "x".repeat(100);
        for _ in 0..200 {
            w.publish(p, "t", QoS::AtMostOnce, &payload);
        }
        assert_eq!(w.take(reads).len(), 200, "others do not suffer");
        let largest = w.shards.iter().map(|shard| shard.census().largest_outbound).max();
        assert!(largest.is_some_and(|largest| largest <= 5_000), "{largest:?}");
        let mut got = 0;
        for c in takers {
            w.unstall(c);
            got += w.take(c).len() as u64;
        }
        assert!(got > 40);
        assert_eq!(dropped(&w, DropReason::Qos0SlowConsumer), 2 * 200 - got);
        w.publish(p, "t", QoS::AtMostOnce, "again");
        for c in takers {
            assert_eq!(payloads(&w.take(c)), ["again"]);
        }
        expect_balance(&w);
    }
}

#[test]
fn one_packet_always_fits_the_outbound_buffer() {
    let limits = Limits { outbound_buffer: 1_000, ..Limits::default() };
    let mut w = World::limited(limits);
    let c = w.connect(V5, "c");
    w.subscribe(c, "t", QoS::ExactlyOnce);
    let p = w.connect(V5, "p");
    let large = "x".repeat(50_000);
    for qos in EVERY_QOS {
        w.publish(p, "t", qos, &large);
        assert_eq!(w.drain(c).len(), 1);
    }
    expect_balance(&w);
}

#[test]
fn qos_1_and_2_wait_for_a_client_that_does_not_read() {
    let limits = Limits { outbound_buffer: 2_000, ..Limits::default() };
    let mut w = World::limited(limits);
    let c = w.resume(V5, "c");
    w.subscribe(c, "t", QoS::ExactlyOnce);
    w.clients[c].stalled = true;
    let p = w.connect(V5, "p");
    let payload = "x".repeat(300);
    for i in 0..100 {
        w.publish(p, "t", EVERY_QOS[1 + i % 2], &format!("{i} {payload}"));
    }
    assert!(w.shards[0].census().largest_outbound < 2_400, "one packet over, at most");
    w.unstall(c);
    let got = payloads(&w.drain(c));
    let order: Vec<&str> = got.iter().filter_map(|payload| payload.split(' ').next()).collect();
    assert_eq!(order, (0..100).map(|i| i.to_string()).collect::<Vec<_>>());
    expect_balance(&w);
}

#[test]
fn what_ends_with_its_session_is_counted() {
    let mut w = World::new(2);
    away(&mut w, "c", "t");
    publish_each(&mut w, 5);
    w.advance(Duration::from_secs(4_000));
    assert_eq!(dropped(&w, DropReason::SessionExpired), 5);
    let c = w.resume(V5, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    publish_each(&mut w, 2);
    disconnect(&mut w, c, ReasonCode::Success, &[expiry(0)]);
    assert_eq!(dropped(&w, DropReason::SessionEnded), 2);
    expect_balance(&w);
}
