//! Share groups whose queue's tail is on disk: members that come and go while pages are on their way, and whose a message
//! is when they do.

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;
use crate::paged::*;

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
fn what_a_group_had_in_memory_is_recorded_when_a_session_that_lasts_is_sent_it_at_qos_2() {
    let mut s = Paged::new(2);
    let a = open_with(&mut s.w, "a", true, &[Property::ReceiveMaximum(1)]);
    s.w.subscribe(a, SHARED, QoS::ExactlyOnce);
    let p = s.w.connect(V5, "p");
    s.w.publish(p, "t", QoS::ExactlyOnce, "first");
    s.w.publish(p, "t", QoS::ExactlyOnce, "second");
    assert_eq!(s.store.references(), 0, "nobody who takes it lasts");
    let b = s.w.resume(V5, "b");
    s.w.subscribe(b, SHARED, QoS::ExactlyOnce);
    let frame = only_publish(&mut s.w, b);
    assert_eq!(
        (frame.publish().payload, s.store.sent()),
        (&b"second"[..], 1),
        "or its packet id would be given again"
    );
    s.w.clients[b].received.push(frame);
    assert_eq!(s.w.drain(b).len(), 1);
    assert_eq!(s.store.sent(), 0);
    s.w.cut(a);
    assert_eq!(payloads(&s.w.drain(b)).len(), 0, "what was sent to the other stays there");
    s.expect_nothing_left();
}

#[test]
fn what_a_session_keeps_of_a_group_and_its_own_backlog() {
    // It joins the queue behind all that waits there, while the pages of that are on their way.
    let mut s = Paged::new(2);
    let c = s.w.resume(V5, "c");
    s.w.subscribe(c, "t", QoS::AtLeastOnce);
    s.w.subscribe(c, "$share/g/s", QoS::AtLeastOnce);
    s.w.cut(c);
    let p = s.w.connect(V5, "p");
    s.publish(p, 0..1_000, 1_000);
    s.w.publish(p, "s", QoS::AtLeastOnce, "1000");
    let c = s.w.resume(V5, "c");
    let frames = s.w.take(c);
    let given = frames.iter().find(|frame| frame.publish().topic == "s").expect("it is under way").clone();
    s.w.unsubscribe(c, "$share/g/s");
    s.w.clients[c].received = frames.into_iter().filter(|frame| *frame != given).collect();
    let mut seen = numbers(&s.w.drain(c));
    assert_eq!(seen, Vec::from_iter(0..1_000), "and not what was sent before");
    s.w.cut(c);
    let c = s.w.resume(V5, "c");
    seen = numbers(&s.w.drain(c));
    assert_eq!(seen, [1_000]);
    s.expect_nothing_left();
}
