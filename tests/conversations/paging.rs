//! Queues whose tail is on disk: that everything comes back once and in order, whatever a page, a lane and a client do at
//! the same time. The store is an exact model, which also checks that each reference is given up once.

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;
use crate::paged::*;

#[test]
fn a_backlog_larger_than_memory_comes_back_whole_and_in_order() {
    const COUNT: usize = 100_000;
    let mut s = Paged::new(2);
    s.away("c", "t");
    let p = s.w.connect(V5, "p");
    s.publish(p, 0..COUNT, 6);
    let census = s.census();
    assert_eq!((census.queued, census.in_memory), (COUNT, 0), "nobody takes them");
    expect_balance(&s.w);
    let c = s.w.resume(V5, "c");
    let mut next = 0;
    while next < COUNT {
        let frames = s.w.take(c);
        assert!(!frames.is_empty(), "it stopped at {next}");
        for frame in frames {
            assert_eq!(numbers(std::slice::from_ref(&frame)), [next]);
            next += 1;
            s.w.put(c, &Packet::PubAck(ack_of(frame.publish().packet_id.expect("QoS 1"))));
        }
        s.w.run();
        let bytes = s.census().in_memory * 100;
        assert!(bytes < 256 * 1024, "{bytes} bytes are in memory");
    }
    s.expect_nothing_left();
    // And from here on nothing goes by way of the disk.
    let requests = s.store.requests();
    s.publish(p, 0..100, 6);
    assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(0..100));
    assert_eq!(s.store.requests(), requests);
    s.expect_nothing_left();
}

#[test]
fn a_client_that_is_slow_is_given_what_did_not_fit_in_memory() {
    for shards in [1, 2] {
        let mut s = Paged::new(shards);
        let c = s.w.resume(V5, "c");
        s.w.subscribe(c, "t", QoS::AtLeastOnce);
        let p = s.w.connect(V5, "p");
        s.publish(p, 0..1_000, 1_000);
        let census = s.census();
        assert_eq!(census.queued + census.unacknowledged, 1_000);
        assert!(census.in_memory < 132, "{census:?}");
        expect_balance(&s.w);
        assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(0..1_000));
        s.expect_nothing_left();
    }
}

#[test]
fn a_page_before_the_lane() {
    // The disk is faster than the way between two shards.
    let mut s = Paged::new(2);
    let c = s.w.resume(V5, "b");
    s.w.subscribe(c, "t", QoS::AtLeastOnce);
    s.w.cut(c);
    let (near, far) = (s.w.connect(V5, "d"), s.w.connect(V5, "c"));
    let home = s.w.clients[c].shard;
    assert_eq!((s.w.clients[near].shard, s.w.clients[far].shard), (home, 1 - home));
    s.publish(near, 0..3, 1);
    s.w.late_lane = Some((1 - home, home));
    s.publish(far, 10..13, 1);
    s.publish(near, 3..5, 1);
    let c = s.w.resume(V5, "b");
    assert_eq!(numbers(&s.w.drain(c)), [0, 1, 2, 10, 11, 12, 3, 4], "as the journal has them");
    // Live again, with one that comes the ordinary way meanwhile.
    s.publish(near, 5..6, 1);
    assert_eq!(numbers(&s.w.drain(c)), [5]);
    s.w.end_of_delay();
    assert_eq!(s.w.drain(c), [], "what came late has been delivered");
    s.publish(far, 13..15, 1);
    assert_eq!(numbers(&s.w.drain(c)), [13, 14]);
    s.expect_nothing_left();
}

#[test]
fn a_page_before_the_lane_and_the_client_gone_again_before_that() {
    for reads in [false, true] {
        let mut s = Paged::new(2);
        let c = s.w.resume(V5, "b");
        s.w.subscribe(c, "t", QoS::AtLeastOnce);
        s.w.cut(c);
        let (near, far) = (s.w.connect(V5, "d"), s.w.connect(V5, "c"));
        let home = s.w.clients[c].shard;
        s.w.late_lane = Some((1 - home, home));
        s.publish(near, 0..1, 1);
        s.publish(far, 1..100, 1);
        let c = s.w.resume(V5, "b");
        let first = s.w.take(c);
        assert_eq!(numbers(&first), Vec::from_iter(0..32));
        if reads {
            first[..20].iter().for_each(|frame| s.acknowledge(c, frame));
        }
        s.w.cut(c);
        s.w.end_of_delay();
        s.publish(far, 100..120, 1);
        let c = s.w.resume(V5, "b");
        let expected = if reads { 20..120 } else { 0..120 };
        assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(expected));
        s.expect_nothing_left();
    }
}

#[test]
fn a_session_that_ends_before_the_lane() {
    let mut s = Paged::new(2);
    let c = s.w.resume(V5, "b");
    s.w.subscribe(c, "t", QoS::AtLeastOnce);
    s.w.cut(c);
    let (near, far) = (s.w.connect(V5, "d"), s.w.connect(V5, "c"));
    let home = s.w.clients[c].shard;
    s.w.late_lane = Some((1 - home, home));
    s.publish(near, 0..1, 1);
    s.publish(far, 1..10, 1);
    let c = s.w.resume(V5, "b");
    assert_eq!(s.w.drain(c).len(), 10);
    s.w.cut(c);
    s.w.connect(V5, "b");
    s.w.end_of_delay();
    expect_balance(&s.w);
    assert_eq!(s.store.references(), 0);
}

#[test]
fn an_acknowledgement_between_a_request_and_its_page() {
    let mut s = Paged::new(1);
    let c = s.w.resume(V5, "c");
    s.w.subscribe(c, "t", QoS::AtLeastOnce);
    let p = s.w.connect(V5, "p");
    s.hold_pages();
    s.publish(p, 0..300, 1_000);
    // Down to half of the window: the page that is asked for then still has what is acknowledged before it comes.
    let mut seen = Vec::new();
    while s.held_pages() == 0 {
        let frames = s.w.take(c);
        frames.iter().for_each(|frame| s.acknowledge(c, frame));
        seen.extend(numbers(&frames));
    }
    let frames = s.w.drain(c);
    assert!(!frames.is_empty());
    seen.extend(numbers(&frames));
    s.release_pages();
    seen.extend(numbers(&s.w.drain(c)));
    assert_eq!(seen, Vec::from_iter(0..300));
    s.expect_nothing_left();
}

#[test]
fn a_new_connection_with_a_page_under_way() {
    let mut s = Paged::new(2);
    s.away("c", "t");
    let p = s.w.connect(V5, "p");
    s.publish(p, 0..400, 1_000);
    s.hold_pages();
    let c = s.w.resume(V5, "c");
    assert_eq!((s.w.take(c), s.held_pages()), (vec![], 1));
    s.w.cut(c);
    let c = s.w.resume(V5, "c");
    assert_eq!(s.held_pages(), 2);
    s.store.release_page();
    s.w.run();
    assert_eq!(s.w.take(c), [], "that was for the connection before");
    s.release_pages();
    assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(0..400));
    s.expect_nothing_left();
}

#[test]
fn what_is_published_while_a_page_is_under_way() {
    for (count, len) in [(100, 10), (400, 1_000)] {
        let mut s = Paged::new(2);
        s.away("c", "t");
        let p = s.w.connect(V5, "p");
        s.publish(p, 0..50, len);
        s.hold_pages();
        let c = s.w.resume(V5, "c");
        s.publish(p, 50..50 + count, len);
        expect_balance(&s.w);
        s.release_pages();
        assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(0..50 + count));
        s.expect_nothing_left();
    }
}

#[test]
fn a_client_that_comes_and_goes_while_messages_come() {
    let mut s = Paged::new(3);
    s.away("c", "t");
    let p = s.w.connect(V5, "p");
    let mut seen = Vec::new();
    for round in 0..40 {
        s.publish(p, round * 50..(round + 1) * 50, 700);
        let c = s.w.resume(V5, "c");
        let frames = s.w.take(c);
        frames.iter().take(20 + round).for_each(|frame| s.acknowledge(c, frame));
        seen.extend(without_repeats(&frames));
        seen.extend(without_repeats(&s.w.take(c)));
        s.w.cut(c);
    }
    let c = s.w.resume(V5, "c");
    seen.extend(without_repeats(&s.w.drain(c)));
    assert_eq!(seen, Vec::from_iter(0..2_000));
    s.expect_nothing_left();
}

#[test]
fn qos_2_in_the_middle_of_a_backlog() {
    for shards in [1, 2] {
        let mut s = Paged::new(shards);
        s.away("c", "t");
        let p = s.w.connect(V5, "p");
        for i in 0..300 {
            let payload = format!("{i:<1000}");
            s.w.publish(p, "t", EVERY_QOS[1 + i % 2], &payload);
        }
        let c = s.w.resume(V5, "c");
        let mut seen = numbers(&s.w.take(c));
        assert_eq!(seen.len(), 32);
        assert_eq!(s.store.sent(), 16);
        s.w.cut(c);
        let c = s.w.resume(V5, "c");
        let frames = s.w.take(c);
        assert_eq!(numbers(&frames), seen, "again");
        assert!(frames.iter().all(|frame| frame.publish().dup));
        s.w.clients[c].received = frames;
        seen = numbers(&s.w.drain(c));
        assert_eq!(seen, Vec::from_iter(0..300));
        s.expect_nothing_left();
    }
}

#[test]
fn a_qos_2_delivery_that_is_refused_or_too_large_is_complete() {
    let mut s = Paged::new(1);
    let c = open_with(&mut s.w, "c", false, &[expiry(100), Property::MaximumPacketSize(100)]);
    s.w.subscribe(c, "t", QoS::ExactlyOnce);
    let p = s.w.connect(V5, "p");
    s.w.publish(p, "t", QoS::ExactlyOnce, &"x".repeat(200));
    assert_eq!(dropped(&s.w, DropReason::TooLarge), 1);
    s.w.publish(p, "t", QoS::ExactlyOnce, "refused");
    let packet_id = only_publish(&mut s.w, c).publish().packet_id.expect("QoS 2");
    let refusal = Ack { reason: ReasonCode::QuotaExceeded, ..ack_of(packet_id) };
    s.w.send(c, &Packet::PubRec(refusal));
    s.expect_nothing_left();
}

#[test]
fn a_qos_2_delivery_that_is_too_large_when_it_is_repeated_is_released() {
    let mut s = Paged::new(1);
    let c = open_with(&mut s.w, "c", false, &[expiry(100)]);
    s.w.subscribe(c, "t", QoS::ExactlyOnce);
    let p = s.w.connect(V5, "p");
    s.w.publish(p, "t", QoS::ExactlyOnce, &"x".repeat(200));
    let packet_id = only_publish(&mut s.w, c).publish().packet_id.expect("QoS 2");
    s.w.cut(c);
    // The client may hold the packet id: given to another message, it would take that for a repeat.
    let c = open_with(&mut s.w, "c", false, &[expiry(100), Property::MaximumPacketSize(100)]);
    let frames = s.w.take(c);
    assert!(
        matches!(frames[..], [ref frame] if matches!(frame.packet(), Packet::PubRel(ack) if ack.packet_id == packet_id)),
        "{frames:?}"
    );
    assert_eq!(dropped(&s.w, DropReason::TooLarge), 1);
    s.w.send(c, &Packet::PubComp(ack_of(packet_id)));
    s.expect_nothing_left();
}

#[test]
fn a_retained_replay_becomes_part_of_the_queue() {
    for shards in [1, 2] {
        let mut s = Paged::new(shards);
        let p = s.w.connect(V5, "p");
        for i in 0..100 {
            let payload = i.to_string();
            let topic = format!("r/{i:03}");
            let qos = EVERY_QOS[i % 3];
            s.w.publish_with(p, &Publish { retain: true, ..message(&topic, qos, &payload) });
        }
        let c = s.w.resume(V5, "c");
        send_subscribe(&mut s.w, c, &[("r/#", options(QoS::ExactlyOnce))]);
        let mut first = s.w.take(c);
        first.retain(|frame| matches!(frame.packet(), Packet::Publish(_)));
        assert!(first.iter().all(|frame| frame.publish().retain));
        expect_balance(&s.w);
        // One that was sent keeps its value, and the topic's new value comes by itself.
        s.w.publish_with(p, &Publish { retain: true, ..message("r/001", QoS::AtLeastOnce, "1000") });
        let mut s = s.restart(shards);
        let c = s.w.resume(V5, "c");
        let got = s.w.drain(c);
        let mut all: Vec<usize> = numbers(&first).into_iter().chain(numbers(&got)).collect();
        all.sort();
        all.dedup();
        assert_eq!(all, Vec::from_iter((0..100).chain([1000])));
        let once = numbers(&first).iter().filter(|number| *number % 3 == 0).count();
        assert!(once > 0, "at QoS 0 they were sent, and are not again");
        let again =
            numbers(&got).into_iter().filter(|number| number % 3 == 0 && numbers(&first).contains(number));
        assert_eq!(again.count(), 0);
        s.expect_nothing_left();
    }
}

#[test]
fn a_restart_with_a_backlog() {
    for (before, after) in [(1, 1), (1, 3), (3, 2)] {
        let mut s = Paged::new(before);
        s.away("c", "t");
        s.away("g", SHARED);
        let p = s.w.connect(V5, "p");
        for i in 0..400 {
            let payload = format!("{i:<1000}");
            s.w.publish(p, "t", EVERY_QOS[1 + i % 2], &payload);
        }
        let c = s.w.resume(V5, "c");
        let frames = s.w.take(c);
        frames[..3]
            .iter()
            .filter(|frame| frame.publish().qos == QoS::AtLeastOnce)
            .for_each(|frame| s.acknowledge(c, frame));
        let mut s = s.restart(after);
        expect_balance(&s.w);
        let census = s.census();
        assert_eq!(
            (census.queued, census.in_memory),
            (400 - 19 + 400, 0),
            "two and seventeen are not in the queue"
        );
        assert_eq!(census.unacknowledged, 17);
        let p = s.w.connect(V5, "p");
        s.publish(p, 400..500, 10);
        let c = s.w.resume(V5, "c");
        let got = s.w.drain(c);
        let mut first: Vec<usize> = numbers(&got);
        assert!(got[..17].iter().all(|frame| frame.publish().dup), "they were under way");
        first.sort();
        let acknowledged = [0, 2];
        let expected: Vec<usize> = (0..500).filter(|i| !acknowledged.contains(i)).collect();
        assert_eq!(first, expected);
        let g = s.w.resume(V5, "g");
        assert_eq!(numbers(&s.w.drain(g)), Vec::from_iter(0..500));
        s.expect_nothing_left();
    }
}

#[test]
fn whoever_waits_for_the_disk_goes_on_when_it_has_come_that_far() {
    let mut s = Paged::new(1);
    let clients: Vec<usize> = (0..50).map(|i| s.w.resume(V5, &format!("c{i}"))).collect();
    s.away("taker", "t");
    s.store.lag(true);
    for c in &clients {
        s.w.send(*c, &Packet::Publish(message("t", QoS::AtLeastOnce, "x")));
    }
    assert!(clients.iter().all(|c| s.w.clients[*c].received.is_empty()));
    s.store.sync();
    s.w.run();
    assert!(clients.iter().all(|c| s.w.clients[*c].received.len() == 1));
}
