//! When sockets are to be written to before more is delivered, and when more may still join what they are going to say.

use weirmq::protocol::packet::*;

use crate::common::world::*;

/// What one connection may gather while others are written to, in bytes.
const CROWDED: usize = 64 * 1024;

/// A broker of one shard with these takers of "t", and who publishes.
fn world(takers: usize) -> (World, Vec<usize>, usize) {
    let mut w = World::new(1);
    let takers: Vec<usize> = (0..takers).map(|n| w.connect(Version::V5, &format!("taker{n}"))).collect();
    takers.iter().for_each(|&taker| w.subscribe(taker, "t", QoS::AtMostOnce));
    let publisher = w.connect(Version::V5, "publisher");
    assert!(!w.shards[0].is_crowded());
    (w, takers, publisher)
}

/// Delivers one message and writes to nobody.
fn deliver(w: &mut World, publisher: usize, topic: &str) {
    w.put(publisher, &Packet::Publish(message(topic, QoS::AtMostOnce, &"x".repeat(1000))));
    while w.shards[0].work(w.now) {}
}

/// What waits to be written to a client.
fn waiting(w: &mut World, client: usize) -> usize {
    let connection = w.clients[client].connection.expect("it is connected");
    w.shards[0].outbound(connection).expect("it is connected").len()
}

#[test]
fn a_connection_that_has_gathered_64_kib_is_written_to_first() {
    let (mut w, takers, publisher) = world(1);
    let taker = takers[0];
    for round in 0..3 {
        while waiting(&mut w, taker) < CROWDED {
            assert!(!w.shards[0].is_crowded(), "round {round}: more may join");
            deliver(&mut w, publisher, "t");
        }
        assert!(w.shards[0].is_crowded(), "round {round}");
        w.run();
        assert!(!w.shards[0].is_crowded(), "round {round}: it is written");
        assert!(w.take(taker).len() > 60);
    }
}

#[test]
fn many_connections_with_little_each_are_no_crowd() {
    let (mut w, takers, publisher) = world(100);
    for _ in 0..10 {
        deliver(&mut w, publisher, "t");
    }
    let all: usize = takers.iter().map(|&taker| waiting(&mut w, taker)).sum();
    assert!(all > 10 * CROWDED);
    assert!(!w.shards[0].is_crowded());
}

#[test]
fn who_reads_too_slowly_has_it_all_along_and_crowds_nobody() {
    let (mut w, takers, publisher) = world(1);
    let taker = takers[0];
    w.clients[taker].stalled = true;
    while !w.shards[0].is_crowded() {
        deliver(&mut w, publisher, "t");
    }
    w.run();
    let left = waiting(&mut w, taker);
    assert!(left >= CROWDED, "its socket takes nothing");
    while waiting(&mut w, taker) < left + CROWDED {
        assert!(!w.shards[0].is_crowded(), "that it is behind is known");
        deliver(&mut w, publisher, "t");
    }
    assert!(w.shards[0].is_crowded(), "so much more is a reason again");
}

#[test]
fn it_is_crowded_until_all_that_waited_were_written_to() {
    let (mut w, takers, publisher) = world(2);
    w.subscribe(takers[0], "much", QoS::AtMostOnce);
    deliver(&mut w, publisher, "t");
    while !w.shards[0].is_crowded() {
        deliver(&mut w, publisher, "much");
    }
    let shard = &mut w.shards[0];
    for _ in 0..2 {
        assert!(shard.next_dirty().is_some() && shard.is_crowded());
    }
    assert!(shard.next_dirty().is_none() && !shard.is_crowded());
}

#[test]
fn a_message_with_one_taker_does_not_make_the_next_run_to_very_many_longer() {
    let (mut w, takers, publisher) = world(1000);
    let probe = w.connect(Version::V5, "probe");
    w.subscribe(probe, "probe", QoS::AtMostOnce);
    // So it is known how many take either.
    for topic in ["t", "probe"] {
        deliver(&mut w, publisher, topic);
        w.run();
    }
    let flood = Packet::Publish(message("t", QoS::AtMostOnce, "x".repeat(1000).leak()));
    w.put(publisher, &Packet::Publish(message("probe", QoS::AtMostOnce, "probe")));
    (0..60).for_each(|_| w.put(publisher, &flood));
    assert!(w.shards[0].work(w.now), "a turn is not all of it");
    assert!(waiting(&mut w, probe) > 0);
    let at_once = waiting(&mut w, takers[0]);
    assert!((1..16 * 1024).contains(&at_once), "{at_once} bytes for each in one turn");
}
