//! What is taken and what is refused when the memory of the process comes to its end, and the greediest first.

use std::time::Duration;

use weirmq::broker::shard::Headroom;
use weirmq::limits::Limits;
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::world::*;

const FULL: Headroom = Headroom { buffers: usize::MAX, is_full: true };

fn set(w: &mut World, headroom: Headroom) {
    w.shards.iter_mut().for_each(|shard| shard.set_headroom(headroom));
}

fn dropped(w: &World, reason: DropReason) -> u64 {
    w.stats.iter().map(|stats| stats.dropped(reason)).sum()
}

#[test]
fn without_room_in_memory_what_would_be_kept_there_alone_is_refused() {
    let mut w = World::new(2);
    let away = w.resume(Version::V5, "away");
    w.subscribe(away, "kept", QoS::AtLeastOnce);
    w.cut(away);
    let (there, p) = (w.connect(Version::V5, "there"), w.connect(Version::V5, "p"));
    w.subscribe(there, "#", QoS::AtMostOnce);
    let retained = Publish { retain: true, ..message("old", QoS::AtLeastOnce, "1") };
    assert_eq!(w.publish_with(p, &retained), ReasonCode::Success);
    w.drain(there);
    set(&mut w, FULL);
    assert_eq!(w.publish(p, "kept", QoS::AtLeastOnce, "x"), ReasonCode::QuotaExceeded);
    let new = Publish { retain: true, ..message("new", QoS::AtLeastOnce, "1") };
    assert_eq!(w.publish_with(p, &new), ReasonCode::QuotaExceeded);
    assert_eq!(dropped(&w, DropReason::MemoryFull), 2);
    assert_eq!(w.drain(there).len(), 0, "nothing of what was refused is delivered");
    // What takes no more than before goes on.
    assert_eq!(w.publish_with(p, &retained), ReasonCode::Success);
    assert_eq!(w.publish(p, "live", QoS::AtLeastOnce, "x"), ReasonCode::Success);
    assert_eq!(w.drain(there).len(), 2);
    // Before MQTT 5 it waits for room rather than being lost or wrongly acknowledged.
    let old = w.connect(Version::V4, "old");
    let publish =
        Publish { packet_id: PacketId::new(1), ..message("kept", QoS::AtLeastOnce, "of an older client") };
    w.send(old, &Packet::Publish(publish));
    assert_eq!(w.take(old).len(), 0);
    set(&mut w, Headroom::default());
    w.advance(Duration::from_millis(200));
    assert!(matches!(w.take_one(old).packet(), Packet::PubAck(_)));
    let away = w.resume(Version::V5, "away");
    assert_eq!(w.drain(away)[0].publish().payload, b"of an older client");
}

#[test]
fn without_room_in_memory_there_are_no_new_subscriptions() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    w.subscribe(c, "old", QoS::AtMostOnce);
    set(&mut w, FULL);
    let subscribe = |w: &mut World, filter| {
        let frames = w.subscribe_raw(c, filter, options(QoS::AtMostOnce), 0);
        match frames[0].packet() {
            Packet::SubAck(suback) => suback.reasons.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(subscribe(&mut w, "old"), [0]);
    assert_eq!(subscribe(&mut w, "new"), [ReasonCode::QuotaExceeded as u8]);
    set(&mut w, Headroom::default());
    assert_eq!(subscribe(&mut w, "new"), [0]);
}

#[test]
fn the_less_memory_the_less_a_slow_reader_may_buffer_and_others_feel_nothing() {
    for (buffers, most) in [(usize::MAX, 1 << 20), (100_000, 110_000)] {
        let mut w = World::new(1);
        let names = ["slow", "healthy", "p"];
        let [slow, healthy, p] = names.map(|name| w.connect(Version::V5, name));
        w.subscribe(slow, "t", QoS::AtMostOnce);
        w.subscribe(healthy, "t", QoS::AtMostOnce);
        w.clients[slow].stalled = true;
        set(&mut w, Headroom { buffers, is_full: false });
        for _ in 0..2_000 {
            assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, &"x".repeat(1_000)), ReasonCode::Success);
        }
        assert_eq!(w.take(healthy).len(), 2_000);
        let held = w.shards[0].census().largest_outbound;
        assert!(held <= most, "{held} of {most}");
        assert!(dropped(&w, DropReason::Qos0SlowConsumer) > 0);
    }
}

#[test]
fn packets_that_come_in_pieces_are_bounded_together() {
    let limits = Limits { outbound_total: 400_000, max_packet_size: 150_000, ..Limits::default() };
    let mut w = World::with(WorldSettings { limits, ..WorldSettings::default() });
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let clients: Vec<usize> = names.iter().map(|name| w.connect(Version::V5, name)).collect();
    let keeps = |w: &mut World, client: usize, before, bytes| {
        if let Some(connection) = w.clients[client].connection {
            let now = w.now;
            w.shards[0].keeps(now, connection, before, bytes);
            w.run();
        }
    };
    // One of them may send a large packet, and one that is done with it counts no more.
    keeps(&mut w, clients[0], 0, 150_000);
    keeps(&mut w, clients[0], 150_000, 0);
    for client in &clients {
        keeps(&mut w, *client, 0, 16_000);
    }
    assert!(clients.iter().all(|client| w.clients[*client].connection.is_some()), "all within their share");
    keeps(&mut w, clients[7], 16_000, 17_000);
    assert_eq!(w.closed_with(clients[7]), Some(ReasonCode::QuotaExceeded));
    let gone = clients.iter().filter(|client| w.clients[**client].connection.is_none()).count();
    assert_eq!(gone, 1);
}

#[test]
fn past_the_common_bound_less_is_read_at_once() {
    let limits = Limits { outbound_total: 40_000, ..Limits::default() };
    let mut w = World::with(WorldSettings { limits, ..WorldSettings::default() });
    let (slow, p) = (w.connect(Version::V4, "slow"), w.connect(Version::V4, "p"));
    w.subscribe(slow, "t", QoS::AtMostOnce);
    w.clients[slow].stalled = true;
    let before = w.shards[0].read_room();
    let mut bytes = Vec::new();
    codec::encode(
        Version::V4,
        &Packet::Publish(message("t", QoS::AtMostOnce, &"x".repeat(1_000))),
        &mut bytes,
    );
    w.send_bytes(p, &bytes.repeat(100));
    assert!(before >= 64 * 1024 && w.shards[0].read_room() <= 20_000);
}
