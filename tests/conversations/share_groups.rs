//! Share groups as queues with members: members that leave, unsubscribe or lose their connection with messages under
//! way, groups with nobody there, and groups that end.

use std::time::Duration;

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;

const SHARED: &str = "$share/g/t";

/// Publishes `0` up to `count` to `t`.
fn publish_each(w: &mut World, qos: QoS, count: usize) {
    let p = w.connect(V5, "p");
    for i in 0..count {
        assert_eq!(w.publish(p, "t", qos, &i.to_string()), ReasonCode::Success);
    }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

fn packet_id(frame: &Frame) -> PacketId {
    frame.publish().packet_id.expect("QoS 1 or 2")
}

#[test]
fn with_nobody_there_the_queue_grows_and_the_next_member_takes_it() {
    for shards in [1, 3] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut w = World::new(shards);
            let first = w.resume(V5, "first");
            w.subscribe(first, SHARED, qos);
            w.cut(first);
            publish_each(&mut w, qos, 100);
            // Somebody new, before the first one is back.
            let next = w.connect(V5, "next");
            w.subscribe(next, SHARED, qos);
            let got = w.drain(next);
            assert_eq!(payloads(&got), numbers(100), "in order");
            assert!(got.iter().all(|frame| !frame.publish().dup), "nobody has seen them");
            let first = w.resume(V5, "first");
            assert_eq!(w.drain(first), []);
            expect_balance(&w);
        }
    }
}

#[test]
fn at_qos_0_with_nobody_there_it_is_dropped_and_counted() {
    let mut w = World::new(2);
    let c = w.resume(V5, "c");
    w.subscribe(c, SHARED, QoS::AtLeastOnce);
    w.cut(c);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtMostOnce, "x");
    assert_eq!(dropped(&w, DropReason::Qos0SlowConsumer), 1);
    let c = w.resume(V5, "c");
    assert_eq!(w.drain(c), []);
    expect_balance(&w);
}

#[test]
fn qos_1_that_a_lost_member_did_not_acknowledge_goes_to_the_others() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let (a, b) = (w.resume(V5, "a"), w.resume(V5, "b"));
        for c in [a, b] {
            w.subscribe(c, SHARED, QoS::AtLeastOnce);
        }
        publish_each(&mut w, QoS::AtLeastOnce, 10);
        let of_a = w.take(a);
        assert_eq!(payloads(&of_a), ["0", "2", "4", "6", "8"]);
        w.send(a, &Packet::PubAck(ack_of(packet_id(&of_a[1]))));
        w.cut(a);
        let got = w.drain(b);
        let repeated: Vec<String> =
            payloads(&got.iter().filter(|frame| frame.publish().dup).cloned().collect::<Vec<_>>());
        assert_eq!(repeated, ["0", "4", "6", "8"], "the unacknowledged ones, in their order");
        assert_eq!(got.len(), 9);
        // Back again, it has nothing left of them; and a late acknowledgement ends nothing.
        let a = w.resume(V5, "a");
        assert_eq!(w.take(a), []);
        w.send(a, &Packet::PubAck(ack_of(packet_id(&of_a[0]))));
        expect_open(&mut w, a);
        publish_each(&mut w, QoS::AtLeastOnce, 2);
        assert_eq!((w.drain(a).len(), w.drain(b).len()), (1, 1));
        expect_balance(&w);
    }
}

#[test]
fn returned_messages_come_before_newer_ones() {
    let mut w = World::new(3);
    let a = w.resume(V5, "a");
    w.subscribe(a, SHARED, QoS::AtLeastOnce);
    publish_each(&mut w, QoS::AtLeastOnce, 50);
    assert_eq!(w.take(a).len(), 32);
    w.cut(a);
    let b = w.connect(V5, "b");
    w.subscribe(b, SHARED, QoS::AtLeastOnce);
    assert_eq!(payloads(&w.drain(b)), numbers(50));
    expect_balance(&w);
}

#[test]
fn a_member_that_unsubscribes_completes_what_it_was_sent() {
    for shards in [1, 3] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut w = World::new(shards);
            let (a, b) = (w.resume(V5, "a"), w.resume(V5, "b"));
            for c in [a, b] {
                w.subscribe(c, SHARED, qos);
            }
            publish_each(&mut w, qos, 10);
            let sent = w.take(a);
            assert_eq!(w.unsubscribe(a, SHARED), Some(ReasonCode::Success));
            assert_eq!(w.drain(b).len(), 5, "those of the other are its own");
            w.clients[a].received = sent;
            assert_eq!(w.drain(a).len(), 5);
            publish_each(&mut w, qos, 4);
            assert_eq!((w.drain(a).len(), w.drain(b).len()), (0, 4));
            expect_balance(&w);
        }
    }
}

#[test]
fn qos_2_under_way_stays_with_its_member_and_the_rest_goes_to_others() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let (a, b) = (w.resume(V5, "a"), w.resume(V5, "b"));
        for c in [a, b] {
            w.subscribe(c, SHARED, QoS::ExactlyOnce);
        }
        publish_each(&mut w, QoS::ExactlyOnce, 10);
        let of_a = w.take(a);
        assert_eq!(payloads(&of_a), ["0", "2", "4", "6", "8"]);
        // One completed, one released, three sent.
        w.send(a, &Packet::PubRec(ack_of(packet_id(&of_a[0]))));
        w.send(a, &Packet::PubComp(ack_of(packet_id(&of_a[0]))));
        w.send(a, &Packet::PubRec(ack_of(packet_id(&of_a[1]))));
        w.take(a);
        w.cut(a);
        assert_eq!(w.drain(b).len(), 5, "its own; none of those");
        let a = w.resume(V5, "a");
        let again = w.take(a);
        assert_eq!(again.len(), 4);
        assert_eq!(again[0].packet(), Packet::PubRel(ack_of(packet_id(&of_a[1]))));
        assert_eq!(payloads(&again[1..]), ["4", "6", "8"]);
        w.clients[a].received = again;
        assert_eq!(w.drain(a).len(), 3);
        assert_eq!((w.drain(a), w.drain(b)), (vec![], vec![]));
        expect_balance(&w);
    }
}

#[test]
fn what_was_not_sent_to_a_member_that_does_not_read_goes_to_another() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let limits = weirmq::limits::Limits { outbound_buffer: 500, ..Default::default() };
        let mut w = World::with(WorldSettings { shards: 2, limits, ..WorldSettings::default() });
        let stuck = w.resume(V5, "stuck");
        w.subscribe(stuck, SHARED, qos);
        w.clients[stuck].stalled = true;
        let p = w.connect(V5, "p");
        let payload = "x".repeat(200);
        for i in 0..20 {
            w.publish(p, "t", qos, &format!("{i} {payload}"));
        }
        let other = w.connect(V5, "other");
        w.subscribe(other, SHARED, qos);
        assert_eq!(w.drain(other), [], "they are given, up to the window");
        w.cut(stuck);
        let got = w.drain(other).len();
        let stuck = w.resume(V5, "stuck");
        let kept = w.drain(stuck).len();
        // What stood in the buffer counts as sent: at QoS 1 it goes to the other as well, at QoS 2 it stays.
        assert_eq!(got + kept, 20, "{qos:?}");
        assert_eq!(kept > 0, qos == QoS::ExactlyOnce);
        expect_balance(&w);
    }
}

#[test]
fn a_member_that_is_taken_over_goes_on() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let old = w.resume(V5, "c");
        w.subscribe(old, SHARED, QoS::ExactlyOnce);
        let p = w.connect(V5, "p");
        for (i, qos) in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce].into_iter().enumerate() {
            w.publish(p, "t", qos, &i.to_string());
        }
        assert_eq!(w.take(old).len(), 3);
        let new = w.resume(V5, "c");
        let mut got = payloads(&w.drain(new));
        got.sort();
        assert_eq!(got, numbers(3));
        expect_balance(&w);
    }
}

#[test]
fn clean_start_leaves_the_group() {
    let mut w = World::new(3);
    let (a, b) = (w.resume(V5, "a"), w.resume(V5, "b"));
    for c in [a, b] {
        w.subscribe(c, SHARED, QoS::AtLeastOnce);
    }
    publish_each(&mut w, QoS::AtLeastOnce, 4);
    let a = w.connect(V5, "a");
    assert_eq!(w.take(a), []);
    assert_eq!(w.drain(b).len(), 4, "its own and what the old session of the other left");
    publish_each(&mut w, QoS::AtLeastOnce, 3);
    assert_eq!((w.take(a).len(), w.drain(b).len()), (0, 3));
    expect_balance(&w);
}

#[test]
fn a_group_ends_with_its_last_member_and_what_waits_is_counted() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let (a, b) = (w.resume(V5, "a"), open_with(&mut w, "b", true, &[expiry(10)]));
        for c in [a, b] {
            w.subscribe(c, SHARED, QoS::AtLeastOnce);
            w.cut(c);
        }
        publish_each(&mut w, QoS::AtLeastOnce, 5);
        let a = w.resume(V5, "a");
        assert_eq!(w.take(a).len(), 5);
        w.cut(a);
        w.advance(Duration::from_secs(20));
        assert_eq!(dropped(&w, DropReason::SessionEnded), 0, "one member is left");
        w.advance(Duration::from_secs(4_000));
        assert_eq!(dropped(&w, DropReason::SessionEnded), 5);
        let p = w.connect(V5, "q");
        assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, "x"), ReasonCode::NoMatchingSubscribers);
        // A group of that name is a new one.
        let c = w.connect(V5, "c");
        w.subscribe(c, SHARED, QoS::AtLeastOnce);
        assert_eq!(w.take(c), []);
        w.publish(p, "t", QoS::AtLeastOnce, "new");
        assert_eq!(payloads(&w.drain(c)), ["new"]);
        expect_balance(&w);
    }
}

#[test]
fn a_transient_group_gives_back_what_its_only_member_left_to_the_next() {
    // The last member goes: there is no group any more to give it back to.
    let mut w = World::new(2);
    let a = w.connect(V5, "a");
    w.subscribe(a, SHARED, QoS::AtLeastOnce);
    publish_each(&mut w, QoS::AtLeastOnce, 3);
    w.cut(a);
    assert_eq!(dropped(&w, DropReason::SessionEnded), 3);
    let b = w.connect(V5, "b");
    w.subscribe(b, SHARED, QoS::AtLeastOnce);
    assert_eq!(w.drain(b), []);
    expect_balance(&w);
}

#[test]
fn groups_of_one_name_on_different_filters_are_different() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let members = [w.connect(V5, "a"), w.connect(V5, "b"), w.connect(V5, "c")];
        for (c, filter) in members.into_iter().zip(["$share/g/t", "$share/g/+", "$share/h/t"]) {
            w.subscribe(c, filter, QoS::AtLeastOnce);
        }
        publish_each(&mut w, QoS::AtLeastOnce, 6);
        for c in members {
            assert_eq!(payloads(&w.drain(c)), numbers(6), "each group takes all");
        }
        expect_balance(&w);
    }
}

#[test]
fn a_member_changes_its_terms() {
    let mut w = World::new(2);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    for (qos, identifier) in [(QoS::AtMostOnce, 0), (QoS::ExactlyOnce, 7), (QoS::AtLeastOnce, 8)] {
        w.subscribe_with(c, SHARED, options(qos), identifier);
        w.publish(p, "t", QoS::ExactlyOnce, "x");
        let got = w.drain(c);
        assert_eq!(got.len(), 1, "one member, not two");
        assert_eq!(got[0].publish().qos, qos);
        assert_eq!(identifiers(&got[0]), if identifier == 0 { vec![] } else { vec![identifier] });
    }
    assert_eq!(w.unsubscribe(c, SHARED), Some(ReasonCode::Success));
    assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, "x"), ReasonCode::NoMatchingSubscribers);
}

#[test]
fn a_window_that_shrinks_with_a_reconnect_is_kept() {
    let mut w = World::new(3);
    let c = w.resume(V5, "c");
    w.subscribe(c, SHARED, QoS::AtLeastOnce);
    publish_each(&mut w, QoS::AtLeastOnce, 40);
    assert_eq!(w.take(c).len(), 32);
    w.cut(c);
    let c = open_with(&mut w, "c", false, &[expiry(100), Property::ReceiveMaximum(2)]);
    assert_eq!(w.take(c).len(), 2);
    w.cut(c);
    let c = w.resume(V5, "c");
    let mut got = payloads(&w.drain(c));
    got.sort_by_key(|payload| payload.parse::<usize>().expect("a number"));
    assert_eq!(got, numbers(40));
    expect_balance(&w);
}

#[test]
fn a_message_that_is_too_large_for_a_member_is_dropped_there() {
    let mut w = World::new(2);
    let c = open_with(&mut w, "c", true, &[Property::MaximumPacketSize(60)]);
    w.subscribe(c, SHARED, QoS::AtLeastOnce);
    let p = w.connect(V5, "p");
    for qos in EVERY_QOS {
        w.publish(p, "t", qos, &"x".repeat(100));
        w.publish(p, "t", qos, "small");
    }
    assert_eq!(payloads(&w.drain(c)), ["small"; 3]);
    assert_eq!(dropped(&w, DropReason::TooLarge), 3);
    expect_balance(&w);
}

#[test]
fn dollar_topics_in_groups() {
    let mut w = World::new(2);
    let c = w.connect(V5, "c");
    w.subscribe(c, "$share/g/#", QoS::AtMostOnce);
    w.subscribe(c, "$share/g/$mine/#", QoS::AtMostOnce);
    let p = w.connect(V5, "p");
    w.publish(p, "$mine/a", QoS::AtMostOnce, "x");
    assert_eq!(payloads(&w.take(c)), ["x"], "once, by the second");
}

#[test]
fn what_was_given_to_an_earlier_joining_is_not_taken_by_a_later_one() {
    // The group's home gives a message to a member on another shard; before it arrives, that member leaves and joins
    // again. Leaving gave the message back, so that it is given once more: the first copy must be passed over.
    let mut w = World::new(2);
    let c = w.connect(V5, "c");
    let member_at = w.clients[c].shard;
    let home = 1 - member_at;
    let topic = (0..100).map(|i| format!("t/{i}")).find(|topic| {
        w.subscribe(c, &format!("$share/g/{topic}"), QoS::AtLeastOnce);
        let there = w.shards[home].census().groups == 1;
        if !there {
            w.unsubscribe(c, &format!("$share/g/{topic}"));
        }
        there
    });
    let topic = topic.expect("a group that lives on the other shard");
    let filter = format!("$share/g/{topic}");
    // Somebody else keeps the group alive meanwhile.
    let other = w.resume(V5, "other");
    w.subscribe(other, &filter, QoS::AtLeastOnce);
    w.cut(other);
    let publishers = ["p", "q"].map(|client_id| w.connect(V5, client_id));
    let p = publishers.into_iter().find(|p| w.clients[*p].shard == home).expect("one of two lives there");
    w.put(p, &Packet::Publish(message(&topic, QoS::AtLeastOnce, "once")));
    let now = w.now;
    w.shards[home].work(now);
    let mut raw = Vec::new();
    let leave = UnsubscribeFilters::encode([&*filter], &mut raw);
    let none = list(&[]);
    let properties = none.as_properties();
    w.put(c, &Packet::Unsubscribe(Unsubscribe { packet_id: id(1), properties, filters: leave }));
    let mut raw = Vec::new();
    let join = SubscribeFilters::encode([(&*filter, options(QoS::AtLeastOnce))], &mut raw);
    w.put(c, &Packet::Subscribe(Subscribe { packet_id: id(2), properties, filters: join }));
    w.run();
    w.clients[c].received.retain(|frame| matches!(frame.packet(), Packet::Publish(_)));
    assert_eq!(payloads(&w.drain(c)), ["once"]);
    expect_balance(&w);
}
