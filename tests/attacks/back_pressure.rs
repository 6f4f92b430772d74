//! Clients that are held back: by a full queue, or because they do not read what they are answered.

use std::time::Duration;

use weirmq::limits::{Limits, QueueRule};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::world::*;

const V4: Version = Version::V4;

fn id(number: usize) -> PacketId {
    PacketId::new(number as u16).expect("not zero")
}

fn encoded(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(version, packet, &mut bytes);
    bytes
}

fn publish(number: usize, payload: &str) -> Vec<u8> {
    let publish = Publish { packet_id: Some(id(number)), ..message("t", QoS::AtLeastOnce, payload) };
    encoded(V4, &Packet::Publish(publish))
}

fn payloads(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(|frame| String::from_utf8_lossy(frame.publish().payload).into_owned()).collect()
}

/// A world with durable queues for three messages.
fn with_small_queues(shards: u16, limits: Limits) -> World {
    let rule = QueueRule { filter: "#".into(), max_messages: 3, ..QueueRule::default() };
    World::with(WorldSettings { shards, limits, queue_rules: vec![rule], ..WorldSettings::default() })
}

/// A packet that is answered, and how many bytes its answer has.
fn answered(version: Version) -> Vec<(Vec<u8>, usize)> {
    let mut raw = Vec::new();
    let filters = UnsubscribeFilters::encode(["a", "b"], &mut raw);
    let unsubscribe = Unsubscribe { packet_id: id(1), properties: Properties::EMPTY, filters };
    let qos_2 = Publish { packet_id: Some(id(1)), ..message("t", QoS::ExactlyOnce, "") };
    let v5 = usize::from(version == Version::V5);
    vec![
        (encoded(version, &Packet::PingReq), 2),
        // 0x10 in 5.0: nobody has subscribed.
        (encoded(version, &Packet::Publish(message("t", QoS::AtLeastOnce, ""))), 4 + v5),
        (encoded(version, &Packet::Publish(qos_2)), 4),
        (encoded(version, &Packet::Unsubscribe(unsubscribe)), 4 + 3 * v5),
    ]
}

#[test]
fn who_does_not_read_its_answers_is_not_read_either() {
    let limits = Limits { outbound_buffer: 10_000, ..Limits::default() };
    for version in [V4, Version::V5] {
        for (packet, answer) in answered(version) {
            let mut w = World::limited(limits.clone());
            let c = w.connect(version, "c");
            w.clients[c].stalled = true;
            let count = 50_000 / answer;
            w.send_bytes(c, &packet.repeat(count));
            let census = w.shards[0].census();
            assert!(census.largest_outbound <= 12_500 + answer, "{census:?}");
            assert_eq!(census.paused, 1);
            // One who begins to read gets every answer.
            w.unstall(c);
            let got: usize = w.take(c).iter().map(|frame| frame.bytes.len()).sum();
            // In 5.0 the first PUBREC has a reason code.
            assert!(got.abs_diff(count * answer) <= 1, "{got}");
            assert_eq!(w.shards[0].census().paused, 0);
        }
    }
}

#[test]
fn who_reads_slowly_is_not_taken_for_dead() {
    let mut w = World::limited(Limits { outbound_buffer: 40_000, ..Limits::default() });
    let c = w.open(&Connect { keep_alive: 10, ..connect(V4, "c", true) });
    w.clients[c].stalled = true;
    w.send_bytes(c, &encoded(V4, &Packet::PingReq).repeat(60_000));
    for _ in 0..10 {
        w.advance(Duration::from_secs(10));
        let (connection, shard) = (w.clients[c].connection.expect("is open"), w.clients[c].shard);
        w.shards[shard].outbound(connection).expect("is open").consume(100);
        let now = w.now;
        w.shards[shard].flushed(now, connection);
        w.run();
    }
    // One that takes nothing at all is.
    w.advance(Duration::from_secs(16));
    assert_eq!(w.clients[c].connection, None);
}

#[test]
fn who_fills_its_own_queue_may_empty_it() {
    let mut w = with_small_queues(2, Limits::default());
    let c = w.resume(V4, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    let bytes: Vec<u8> = (1..=100).flat_map(|number| publish(number, &number.to_string())).collect();
    w.send_bytes(c, &bytes);
    let mut got = Vec::new();
    let mut acknowledged = 0;
    for _ in 0..60 {
        let frames = w.take(c);
        for frame in &frames {
            match frame.packet() {
                Packet::Publish(publish) => {
                    got.push(String::from_utf8_lossy(publish.payload).into_owned());
                    let id = publish.packet_id.expect("QoS 1");
                    w.put(c, &Packet::PubAck(ack_of(id)));
                }
                Packet::PubAck(_) => acknowledged += 1,
                other => panic!("{other:?}"),
            }
        }
        w.run();
        w.advance(Duration::from_millis(100));
    }
    let expected: Vec<String> = (1..=100).map(|number: i32| number.to_string()).collect();
    assert_eq!((got, acknowledged), (expected, 100));
    assert_eq!(w.shards.iter().map(|shard| shard.census().paused).sum::<usize>(), 0);
}

#[test]
fn what_is_parked_is_bounded_keeps_its_order_and_lets_the_rest_through() {
    let limits = Limits { receive_maximum: 10, ..Limits::default() };
    let mut w = with_small_queues(2, limits);
    let c = w.resume(V4, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    w.cut(c);
    let p = w.connect(V4, "p");
    let mut bytes = Vec::new();
    for number in 1..=8 {
        bytes.extend(publish(number, &number.to_string()));
    }
    bytes.extend(encoded(V4, &Packet::PingReq));
    // At QoS 0 nobody rejects it, but it must not overtake.
    bytes.extend(encoded(V4, &Packet::Publish(message("t", QoS::AtMostOnce, "9"))));
    w.send_bytes(p, &bytes);
    assert_eq!(w.take(p).len(), 3 + 1, "what had room, and PINGRESP");
    let bytes: Vec<u8> = (10..=30).flat_map(|number| publish(number, &number.to_string())).collect();
    w.send_bytes(p, &bytes);
    // 4 to 8, 9, and four more are parked; the rest is not read.
    assert_eq!(w.clients[p].backlog, bytes[4 * publish(10, "10").len()..]);
    let c = w.resume(V4, "c");
    let mut got = Vec::new();
    for _ in 0..60 {
        got.extend(payloads(&w.drain(c)));
        w.advance(Duration::from_millis(100));
    }
    assert_eq!(got, (1..=30).map(|number: i32| number.to_string()).collect::<Vec<_>>());
    assert_eq!(w.take(p).len(), 30 - 3 - 1);
}

#[test]
fn what_is_parked_goes_with_its_connection_and_is_counted() {
    for goodbye in [true, false] {
        let mut w = with_small_queues(2, Limits::default());
        let c = w.resume(V4, "c");
        w.subscribe(c, "t", QoS::AtLeastOnce);
        w.cut(c);
        let p = w.connect(V4, "p");
        let bytes: Vec<u8> = (1..=10).flat_map(|number| publish(number, "x")).collect();
        w.send_bytes(p, &bytes);
        if goodbye {
            w.send_bytes(p, &[0xE0, 0]);
        } else {
            w.cut(p);
        }
        let dropped: u64 = w.stats.iter().map(|stats| stats.dropped(DropReason::RejectedFull)).sum();
        assert_eq!(dropped, 7);
        w.advance(Duration::from_secs(1));
        let soon = w.now + Duration::from_secs(60);
        assert!(w.shards.iter().all(|shard| shard.next_timeout().is_none_or(|at| at > soon)), "nobody waits");
    }
}

#[test]
fn a_flood_does_not_keep_others_from_publishing() {
    let limits = Limits { lane_bytes: 4096, ..Limits::default() };
    let mut w = World::with(WorldSettings { shards: 2, limits, ..WorldSettings::default() });
    // By the sums of their bytes: the publishers live on one shard, the taker on the other.
    let (flood, small, taker) = (w.connect(V4, "b"), w.connect(V4, "d"), w.connect(V4, "c"));
    assert!(
        w.clients[flood].shard == w.clients[small].shard && w.clients[small].shard != w.clients[taker].shard
    );
    w.subscribe(taker, "t", QoS::AtMostOnce);
    let publish = |payload| encoded(V4, &Packet::Publish(message("t", QoS::AtMostOnce, payload)));
    w.put_bytes(flood, &publish("flood").repeat(10_000));
    w.put_bytes(small, &publish("small"));
    assert!(!w.clients[small].backlog.is_empty(), "it has to wait");
    for turn in 0.. {
        assert!(turn < 20, "it waits while the flood goes on");
        w.turn();
        if payloads(&w.take(taker)).contains(&"small".to_owned()) {
            break;
        }
    }
    w.run();
    assert!(w.clients[flood].backlog.is_empty(), "and the flood comes to its end");
}

#[test]
fn what_has_expired_makes_room() {
    let with_expiry = |seconds| {
        let mut properties = PropertiesBuf::new();
        properties.push(Property::MessageExpiryInterval(seconds));
        properties
    };
    for (shards, filter) in [(1, "t"), (3, "t"), (1, "$share/g/t"), (3, "$share/g/t")] {
        let mut w = with_small_queues(shards, Limits::default());
        let c = w.resume(Version::V5, "c");
        w.subscribe(c, filter, QoS::AtLeastOnce);
        w.cut(c);
        let p = w.connect(Version::V5, "p");
        let properties = with_expiry(10);
        let brief =
            Publish { properties: properties.as_properties(), ..message("t", QoS::AtLeastOnce, "brief") };
        for _ in 0..3 {
            assert_eq!(w.publish_with(p, &brief), ReasonCode::Success);
        }
        assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, "x"), ReasonCode::QuotaExceeded);
        w.advance(Duration::from_secs(11));
        // From another shard it is refused once more, for the queue is looked through only now.
        let _ = w.publish(p, "t", QoS::AtLeastOnce, "1");
        assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, "2"), ReasonCode::Success);
    }
}
