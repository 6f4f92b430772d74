//! Queues whose tail is on disk, and what leaves them without being delivered: limits, expiry, the end of their session;
//! and the budget that their pages share.

use std::time::Duration;

use weirmq::broker::restore::group_home;
use weirmq::limits::Overflow;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;
use crate::paged::*;

#[test]
fn expired_messages_on_disk_are_skipped_and_counted() {
    for shards in [1, 2] {
        let mut s = Paged::new(shards);
        s.away("c", "t");
        let p = s.w.connect(V5, "p");
        let properties = list(&[Property::MessageExpiryInterval(10)]);
        for i in 0..300 {
            let properties = if i % 3 == 0 { list(&[]) } else { properties.clone() };
            let payload = i.to_string();
            let publish = message("t", QoS::AtLeastOnce, &payload);
            s.w.publish_with(p, &Publish { properties: properties.as_properties(), ..publish });
        }
        s.w.advance(Duration::from_secs(20));
        let c = s.w.resume(V5, "c");
        let expected: Vec<usize> = (0..300).step_by(3).collect();
        assert_eq!(numbers(&s.w.drain(c)), expected);
        assert_eq!(dropped(&s.w, DropReason::Expired), 200);
        s.expect_nothing_left();
    }
}

#[test]
fn one_that_expires_on_its_way_while_a_page_has_it() {
    let mut s = Paged::new(2);
    let c = s.w.resume(V5, "b");
    s.w.subscribe(c, "t", QoS::AtLeastOnce);
    s.w.cut(c);
    let (home, far) = (s.w.clients[c].shard, s.w.connect(V5, "c"));
    s.w.late_lane = Some((1 - home, home));
    let properties = list(&[Property::MessageExpiryInterval(10)]);
    let publish = message("t", QoS::AtLeastOnce, "1");
    s.w.publish_with(far, &Publish { properties: properties.as_properties(), ..publish });
    s.publish(far, 2..3, 1);
    let near = s.w.connect(V5, "d");
    s.publish(near, 0..1, 1);
    s.hold_pages();
    let c = s.w.resume(V5, "b");
    assert_eq!(s.held_pages(), 1);
    s.w.advance(Duration::from_secs(20));
    s.w.end_of_delay();
    s.release_pages();
    let mut got = numbers(&s.w.drain(c));
    got.sort();
    assert_eq!(got, [0, 2]);
    assert_eq!(dropped(&s.w, DropReason::Expired), 1);
    s.expect_nothing_left();
}

#[test]
fn a_queue_on_disk_that_drops_its_oldest() {
    for shards in [1, 2] {
        let mut s = Paged::limited(shards, 10, Overflow::DropOldest);
        let c = s.w.resume(V5, "c");
        s.w.subscribe(c, "t", QoS::AtLeastOnce);
        let p = s.w.connect(V5, "p");
        // Two are under way: they stay.
        s.publish(p, 0..2, 100);
        assert_eq!(s.w.take(c).len(), 2);
        s.w.cut(c);
        s.publish(p, 2..1_000, 100);
        // While nothing waits yet and more is on its way than there is room for, the first to come is the oldest.
        let first = dropped(&s.w, DropReason::OverflowNewest);
        assert_eq!(first + dropped(&s.w, DropReason::OverflowOldest), 990);
        assert!(first < 100);
        let census = s.census();
        assert_eq!((census.queued, census.in_memory, census.reserved), (8, 0, 10));
        expect_balance(&s.w);
        let c = s.w.resume(V5, "c");
        let expected: Vec<usize> = (0..2).chain(992..1_000).collect();
        assert_eq!(numbers(&s.w.drain(c)), expected);
        s.expect_nothing_left();
    }
}

#[test]
fn a_queue_on_disk_that_drops_its_oldest_with_a_client_that_does_not_read() {
    let mut s = Paged::limited(1, 400, Overflow::DropOldest);
    let c = s.w.resume(V5, "c");
    s.w.subscribe(c, "t", QoS::AtLeastOnce);
    let p = s.w.connect(V5, "p");
    s.publish(p, 0..1_000, 1_000);
    expect_balance(&s.w);
    let got = numbers(&s.w.drain(c));
    assert_eq!(got.len(), 400);
    let expected: Vec<usize> = (0..32).chain(632..1_000).collect();
    assert_eq!(got, expected, "what is under way stays");
    assert_eq!(dropped(&s.w, DropReason::OverflowOldest), 600);
    s.expect_nothing_left();
}

#[test]
fn a_queue_on_disk_that_drops_the_newest_while_a_page_has_it() {
    let mut s = Paged::limited(2, 10, Overflow::DropNewest);
    let c = s.w.resume(V5, "b");
    s.w.subscribe(c, "t", QoS::AtLeastOnce);
    s.w.cut(c);
    let (home, far) = (s.w.clients[c].shard, s.w.connect(V5, "c"));
    let near = s.w.connect(V5, "d");
    s.publish(near, 0..10, 1);
    s.w.late_lane = Some((1 - home, home));
    s.publish(far, 10..15, 1);
    s.hold_pages();
    let c = s.w.resume(V5, "b");
    assert_eq!(s.held_pages(), 1);
    s.w.end_of_delay();
    s.release_pages();
    assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(0..10));
    assert_eq!(dropped(&s.w, DropReason::OverflowNewest), 5);
    s.expect_nothing_left();
}

#[test]
fn a_queue_on_disk_that_drops_the_newest_though_a_page_brings_it_first() {
    for shared in [false, true] {
        let mut s = Paged::limited(2, 10, Overflow::DropNewest);
        let c = s.w.resume(V5, "b");
        let home = s.w.clients[c].shard;
        // A group that lives with its member.
        let lives_here = |name: &String| usize::from(group_home(name, "t", 2).0) == home;
        let group = (0..).map(|number| format!("g{number}")).find(lives_here).expect("half of them do");
        let filter = if shared { format!("$share/{group}/t") } else { "t".to_owned() };
        s.w.subscribe(c, &filter, QoS::AtLeastOnce);
        s.w.cut(c);
        let (far, near) = (s.w.connect(V5, "c"), s.w.connect(V5, "d"));
        s.publish(near, 0..10, 1);
        s.w.late_lane = Some((1 - home, home));
        s.publish(far, 10..15, 1);
        let c = s.w.resume(V5, "b");
        assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(0..10), "{filter}");
        assert_eq!(dropped(&s.w, DropReason::OverflowNewest), 5, "{filter}");
        s.w.end_of_delay();
        assert!(s.w.drain(c).is_empty(), "{filter}");
        s.expect_nothing_left();
    }
}

#[test]
fn what_has_expired_in_a_full_queue_on_disk_makes_room() {
    for shards in [1, 2] {
        let mut s = Paged::limited(shards, 1_000, Overflow::Reject);
        let c = s.w.resume(V5, "c");
        s.w.subscribe(c, "t", QoS::AtLeastOnce);
        s.w.cut(c);
        let p = s.w.connect(V5, "p");
        let properties = list(&[Property::MessageExpiryInterval(10)]);
        let payload = "x".repeat(500);
        for i in 0..1_000 {
            let properties = if i % 2 == 0 { list(&[]) } else { properties.clone() };
            let publish = message("t", QoS::AtLeastOnce, &payload);
            let publish = Publish { properties: properties.as_properties(), ..publish };
            assert_eq!(s.w.publish_with(p, &publish), ReasonCode::Success);
        }
        assert_eq!(s.w.publish(p, "t", QoS::AtLeastOnce, "x"), ReasonCode::QuotaExceeded);
        let requests = s.store.requests();
        assert_eq!(requests, 0, "nothing can have expired: it is not looked for");
        s.w.advance(Duration::from_secs(20));
        assert_eq!(s.w.publish(p, "t", QoS::AtLeastOnce, "x"), ReasonCode::QuotaExceeded, "it is looked for");
        assert_eq!(dropped(&s.w, DropReason::Expired), 500);
        assert_eq!(s.census().in_memory, 0);
        assert_eq!(s.w.publish(p, "t", QoS::AtLeastOnce, "x"), ReasonCode::Success);
        expect_balance(&s.w);
        let c = s.w.resume(V5, "c");
        assert_eq!(s.w.drain(c).len(), 501);
        s.expect_nothing_left();
    }
}

#[test]
fn a_session_that_ends_with_a_backlog_is_counted_exactly() {
    for shards in [1, 2] {
        let mut s = Paged::new(shards);
        let c = s.w.resume(V5, "c");
        s.w.subscribe(c, "t", QoS::AtLeastOnce);
        let p = s.w.connect(V5, "p");
        s.publish(p, 0..500, 1_000);
        assert_eq!(s.w.take(c).len(), 32);
        s.hold_pages();
        s.w.cut(c);
        s.publish(p, 500..600, 1_000);
        let c = s.w.resume(V5, "c");
        s.w.cut(c);
        s.w.connect(V5, "c");
        assert_eq!(dropped(&s.w, DropReason::SessionEnded), 600);
        s.release_pages();
        s.expect_nothing_left();
    }
}

#[test]
fn queues_take_turns_when_the_budget_is_used_up() {
    const QUEUES: usize = 100;
    let mut s = Paged::new(1);
    for i in 0..QUEUES {
        s.away(&format!("c{i}"), "t");
    }
    let p = s.w.connect(V5, "p");
    s.publish(p, 0..50, 100);
    s.hold_pages();
    let clients: Vec<usize> = (0..QUEUES).map(|i| s.w.resume(V5, &format!("c{i}"))).collect();
    assert_eq!(s.held_pages(), 64, "8 MiB in pages of 128 KiB");
    s.store.release_page();
    s.w.run();
    assert_eq!(s.held_pages(), 64, "the next one has its turn");
    s.w.cut(clients[1]);
    s.w.cut(clients[99]);
    s.release_pages();
    for (i, c) in clients.into_iter().enumerate() {
        let c = if i == 1 || i == 99 { s.w.resume(V5, &format!("c{i}")) } else { c };
        assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(0..50));
    }
    s.expect_nothing_left();
}

#[test]
fn a_queue_that_drops_the_newest_keeps_those_that_came_first_however_many_come_at_once() {
    for shards in [1, 2] {
        let mut s = Paged::limited(shards, 10, Overflow::DropNewest);
        s.away("c", "t");
        let p = s.w.connect(V5, "p");
        s.publish(p, 0..1_000, 100);
        let c = s.w.resume(V5, "c");
        assert_eq!(numbers(&s.w.drain(c)), Vec::from_iter(0..10));
        assert_eq!(dropped(&s.w, DropReason::OverflowNewest), 990);
        s.expect_nothing_left();
    }
}
