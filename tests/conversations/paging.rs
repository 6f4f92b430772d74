//! Queues whose tail is on disk: that everything comes back once and in order, whatever a page, a lane, a client and a
//! limit do at the same time. The store is an exact model, which also checks that each reference is given up once.

use std::time::Duration;

use weirmq::broker::shard::Census;
use weirmq::limits::{Limits, Overflow, QueueRule};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::paged_store::PagedStore;
use crate::common::world::*;

const SHARED: &str = "$share/g/t";

/// A broker, and the hand on its disk.
struct Paged {
    w: World,
    store: PagedStore,
}

impl Paged {
    fn new(shards: u16) -> Paged {
        Paged::with(WorldSettings { shards, ..WorldSettings::default() })
    }

    /// Queues hold `max_messages`.
    fn limited(shards: u16, max_messages: u64, overflow: Overflow) -> Paged {
        let rule = QueueRule { filter: "#".into(), max_messages, overflow, ..QueueRule::default() };
        Paged::with(WorldSettings { shards, queue_rules: vec![rule], ..WorldSettings::default() })
    }

    fn with(settings: WorldSettings) -> Paged {
        Paged::start(settings, PagedStore::default())
    }

    fn start(settings: WorldSettings, store: PagedStore) -> Paged {
        let (handles, disk) = (store.clone(), store.clone());
        let mut w = World::with(WorldSettings { store: Box::new(move || handles.handle()), ..settings });
        w.disk = Some(Box::new(move || disk.turn()));
        w.run();
        Paged { w, store }
    }

    /// Another process with what this one left.
    fn restart(self, shards: u16) -> Paged {
        let store = self.store.clone();
        drop(self.w);
        let restored = store.restored();
        Paged::start(WorldSettings { shards, restored, ..WorldSettings::default() }, store)
    }

    /// A client that has subscribed and gone.
    fn away(&mut self, client_id: &str, filter: &str) {
        let c = self.w.resume(V5, client_id);
        self.w.subscribe(c, filter, QoS::ExactlyOnce);
        self.w.cut(c);
    }

    /// Publishes these numbers to `t` at QoS 1, many at once, each padded to `len`.
    fn publish(&mut self, publisher: usize, numbers: std::ops::Range<usize>, len: usize) {
        for number in numbers {
            let payload = format!("{number:<len$}");
            let packet_id = Some(id((number % 500) as u16 + 1));
            let publish = Publish { packet_id, ..message("t", QoS::AtLeastOnce, &payload) };
            self.w.put(publisher, &Packet::Publish(publish));
            if number % 100 == 99 {
                self.w.run();
                self.w.take(publisher);
            }
        }
        self.w.run();
        self.w.take(publisher);
    }

    /// Holds back the pages that are asked for from now on.
    fn hold_pages(&mut self) {
        self.store.hold_pages(true);
    }

    fn release_pages(&mut self) {
        self.store.hold_pages(false);
        self.w.run();
    }

    fn held_pages(&self) -> usize {
        self.store.held_pages()
    }

    fn census(&self) -> Census {
        self.w.shards.iter().map(|shard| shard.census()).fold(Census::default(), Census::and)
    }

    /// Acknowledges one PUBLISH at QoS 1.
    fn acknowledge(&mut self, client: usize, frame: &Frame) {
        let packet_id = frame.publish().packet_id.expect("QoS 1");
        self.w.send(client, &Packet::PubAck(ack_of(packet_id)));
    }

    /// Everything is acknowledged: nothing is left anywhere.
    #[track_caller]
    fn expect_nothing_left(&self) {
        expect_balance(&self.w);
        let census = self.census();
        assert_eq!((census.queued, census.unacknowledged, census.reserved), (0, 0, 0), "{census:?}");
        assert_eq!(
            (self.store.references(), self.store.sent()),
            (0, 0),
            "references and QoS 2 deliveries on disk"
        );
    }
}

/// What the payloads say.
fn numbers(frames: &[Frame]) -> Vec<usize> {
    payloads(frames).iter().map(|payload| payload.trim().parse().expect("a number")).collect()
}

fn without_repeats(frames: &[Frame]) -> Vec<usize> {
    let firsts: Vec<Frame> = frames.iter().filter(|frame| !frame.publish().dup).cloned().collect();
    numbers(&firsts)
}

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
fn a_group_that_ends_with_a_backlog_is_counted_exactly() {
    for shards in [1, 2] {
        let mut s = Paged::new(shards);
        s.away("c", SHARED);
        let p = s.w.connect(V5, "p");
        s.publish(p, 0..500, 1_000);
        s.w.connect(V5, "c");
        assert_eq!(dropped(&s.w, DropReason::SessionEnded), 500);
        s.expect_nothing_left();
    }
}

#[test]
fn a_group_with_all_members_gone_keeps_its_backlog_on_disk() {
    for shards in [1, 3] {
        let mut s = Paged::new(shards);
        s.away("a", SHARED);
        s.away("b", SHARED);
        let p = s.w.connect(V5, "p");
        s.publish(p, 0..2_000, 500);
        let census = s.census();
        assert_eq!((census.queued, census.in_memory), (2_000, 0));
        expect_balance(&s.w);
        // A member that leaves nothing behind takes all the same.
        let next = s.w.connect(V5, "next");
        s.w.subscribe(next, SHARED, QoS::AtLeastOnce);
        let got = s.w.drain(next);
        assert_eq!(numbers(&got), Vec::from_iter(0..2_000));
        assert!(got.iter().all(|frame| !frame.publish().dup));
        s.expect_nothing_left();
    }
}

#[test]
fn a_member_that_goes_with_a_page_under_way() {
    for shards in [1, 3] {
        for others in [false, true] {
            let mut s = Paged::new(shards);
            let (a, b) = (s.w.resume(V5, "a"), s.w.resume(V5, "b"));
            s.w.subscribe(a, SHARED, QoS::AtLeastOnce);
            s.w.subscribe(b, SHARED, QoS::AtLeastOnce);
            if !others {
                s.w.cut(b);
            }
            let p = s.w.connect(V5, "p");
            s.hold_pages();
            s.publish(p, 0..400, 1_000);
            let mut seen = Vec::new();
            let takers = if others { vec![a, b] } else { vec![a] };
            while s.held_pages() == 0 {
                for c in takers.clone() {
                    let frames = s.w.take(c);
                    frames.iter().for_each(|frame| s.acknowledge(c, frame));
                    seen.extend(numbers(&frames));
                }
            }
            // What this one has, it gives back: the page must not bring it too.
            let unacknowledged = numbers(&s.w.take(a));
            assert!(!unacknowledged.is_empty());
            s.w.cut(a);
            s.release_pages();
            let b = if others { b } else { s.w.resume(V5, "b") };
            let got = s.w.drain(b);
            let repeats: Vec<Frame> = got.iter().filter(|frame| frame.publish().dup).cloned().collect();
            assert_eq!(numbers(&repeats), unacknowledged, "{shards} {others}");
            seen.extend(numbers(&got));
            seen.sort();
            assert_eq!(seen, Vec::from_iter(0..400));
            s.expect_nothing_left();
        }
    }
}

#[test]
fn a_member_that_unsubscribes_keeps_what_it_was_sent_and_nobody_else_gets_it() {
    for shards in [1, 3] {
        for lasts in [false, true] {
            let mut s = Paged::new(shards);
            let a = if lasts { s.w.resume(V5, "a") } else { s.w.connect(V5, "a") };
            let b = s.w.resume(V5, "b");
            s.w.subscribe(a, SHARED, QoS::AtLeastOnce);
            s.w.subscribe(b, SHARED, QoS::AtLeastOnce);
            s.w.cut(b);
            let p = s.w.connect(V5, "p");
            s.publish(p, 0..400, 1_000);
            let kept = s.w.take(a);
            assert_eq!(numbers(&kept), Vec::from_iter(0..32));
            s.w.unsubscribe(a, SHARED);
            let b = s.w.resume(V5, "b");
            assert_eq!(numbers(&s.w.drain(b)), Vec::from_iter(32..400));
            if lasts {
                // They are its own now, and are still there when it comes back.
                s.w.cut(a);
                let a = s.w.resume(V5, "a");
                assert_eq!(numbers(&s.w.drain(a)), Vec::from_iter(0..32));
            } else {
                s.w.clients[a].received = kept;
                s.w.drain(a);
            }
            s.expect_nothing_left();
        }
    }
}

#[test]
fn a_qos_2_message_of_a_group_is_its_members_once_that_is_recorded() {
    // It has not left: it waits for the disk. The record says that it is this member's all the same.
    for lasts in [true, false] {
        let mut s = Paged::new(2);
        let a = if lasts { s.w.resume(V5, "a") } else { s.w.connect(V5, "a") };
        let b = s.w.resume(V5, "b");
        s.w.subscribe(b, SHARED, QoS::ExactlyOnce);
        s.w.cut(b);
        s.w.subscribe(a, SHARED, QoS::ExactlyOnce);
        let p = s.w.connect(V5, "p");
        s.store.lag(true);
        s.w.send(p, &Packet::Publish(message("t", QoS::ExactlyOnce, "1")));
        assert_eq!(s.w.take(a), [], "it waits");
        s.w.cut(a);
        s.store.lag(false);
        s.w.run();
        let b = s.w.resume(V5, "b");
        assert_eq!(s.w.drain(b), []);
        if lasts {
            let a = s.w.resume(V5, "a");
            assert_eq!(numbers(&s.w.drain(a)), [1]);
        } else {
            assert_eq!(dropped(&s.w, DropReason::SessionEnded), 1, "it ended with its session");
        }
        s.expect_nothing_left();
    }
}

#[test]
fn what_a_group_of_transient_members_shares_is_bounded_in_memory() {
    let limits = Limits { transient_queue_messages: 50, ..Limits::default() };
    let mut s = Paged::with(WorldSettings { shards: 2, limits, ..WorldSettings::default() });
    let a = s.w.connect(V5, "a");
    s.w.subscribe(a, SHARED, QoS::AtLeastOnce);
    let p = s.w.connect(V5, "p");
    s.publish(p, 0..200, 10);
    let expected: Vec<usize> = (0..32).chain(150..200).collect();
    assert_eq!(dropped(&s.w, DropReason::OverflowOldest), 118);
    assert_eq!(numbers(&s.w.drain(a)), expected);
    assert_eq!((s.store.references(), s.store.requests()), (0, 0));
    // With a member that lasts, it is on disk; without it, in memory again.
    s.away("b", SHARED);
    s.publish(p, 0..200, 10);
    assert_eq!(numbers(&s.w.drain(a)), Vec::from_iter(0..200));
    s.expect_nothing_left();
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
