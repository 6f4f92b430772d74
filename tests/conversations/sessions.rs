//! Sessions that outlive their connections: how long, in which version, and who takes them over.

use std::time::Duration;

use weirmq::broker::shard::CloseReason;
use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

/// Whether client `c` has a session after `seconds` more.
fn is_kept_for(w: &mut World, seconds: u64) -> bool {
    w.advance(Duration::from_secs(seconds));
    w.shards.iter().map(|shard| shard.census().sessions).sum::<usize>() == 1
}

#[test]
fn disconnect_changes_the_session_expiry() {
    // (in CONNECT, in DISCONNECT, kept for at least, gone after)
    for (asked, then, kept, gone) in [
        (100, None, 99, 101),
        (100, Some(10), 9, 11),
        (10, Some(100), 99, 101),
        (100, Some(0), 0, 0),
        (1, Some(u32::MAX), 1_000_000, 0),
    ] {
        let mut w = World::limited(Limits { session_expiry_max: None, ..Limits::default() });
        let c = open_with(&mut w, "c", true, &[expiry(asked)]);
        let properties: Vec<Property<'_>> = then.map(expiry).into_iter().collect();
        disconnect(&mut w, c, ReasonCode::Success, &properties);
        assert_eq!(w.clients[c].closed, Some(CloseReason::Disconnected));
        if kept > 0 {
            assert!(is_kept_for(&mut w, kept), "{asked} {then:?}");
        }
        if gone >= kept {
            assert!(!is_kept_for(&mut w, gone - kept), "{asked} {then:?}");
        }
    }
}

#[test]
fn the_cap_on_session_expiry_holds_for_connect_and_disconnect() {
    for asked in [61, u32::MAX] {
        let limits = Limits { session_expiry_max: Some(Duration::from_secs(60)), ..Limits::default() };
        let mut w = World::limited(limits.clone());
        let (c, frame) = connack_with(&mut w, "c", true, &[expiry(asked)]);
        let told = find(connack_properties(&frame), |property| match property {
            Property::SessionExpiryInterval(seconds) => Some(seconds),
            _ => None,
        });
        assert_eq!(told, Some(60));
        w.cut(c);
        assert!(is_kept_for(&mut w, 59));
        assert!(!is_kept_for(&mut w, 2));
        let mut w = World::limited(limits);
        let c = open_with(&mut w, "c", true, &[expiry(10)]);
        disconnect(&mut w, c, ReasonCode::Success, &[expiry(asked)]);
        assert!(is_kept_for(&mut w, 59));
        assert!(!is_kept_for(&mut w, 2));
    }
}

#[test]
fn coming_back_in_time_starts_the_expiry_anew() {
    let mut w = World::new(1);
    for _ in 0..5 {
        let (c, _) = connack_with(&mut w, "c", false, &[expiry(10)]);
        w.advance(Duration::from_secs(100));
        w.cut(c);
        assert!(is_kept_for(&mut w, 9));
    }
    // The expiry of the last CONNECT holds, not an earlier one.
    let c = open_with(&mut w, "c", false, &[]);
    w.cut(c);
    assert!(!is_kept_for(&mut w, 0), "absent is 0");
}

#[test]
fn a_session_ends_to_the_moment_though_timers_run_in_whole_seconds() {
    // Its client comes back after the end, and before the timer that would have noticed.
    let mut w = World::new(1);
    let ear = w.connect(V5, "ear");
    w.subscribe(ear, "will", QoS::AtMostOnce);
    w.advance(Duration::from_millis(500));
    for (delay, present) in [(3, true), (10, false)] {
        let c = with_will(&mut w, "c", 10, delay, will("will", "due"));
        w.cut(c);
        w.advance(Duration::from_millis(u64::from(delay) * 1000 + 200));
        assert_eq!(w.take(ear), [], "not noticed yet");
        let (c, frame) = connack_with(&mut w, "c", false, &[expiry(10)]);
        assert_eq!(session_present(&frame), present);
        assert_eq!(payloads(&w.take(ear)), ["due"]);
        w.cut(c);
        w.advance(Duration::from_millis(800));
    }
}

#[test]
fn a_session_goes_on_in_another_version() {
    for (first, second) in [(Version::V4, V5), (V5, Version::V4), (Version::V3, V5), (V5, Version::V3)] {
        let mut w = World::new(2);
        let c = w.resume(first, "c");
        w.subscribe(c, "t", QoS::ExactlyOnce);
        let p = w.connect(V5, "p");
        let properties = list(&[Property::UserProperty("a", "b")]);
        let publish = |qos| Publish { properties: properties.as_properties(), ..message("t", qos, "x") };
        w.publish_with(p, &publish(QoS::ExactlyOnce));
        assert_eq!(w.take(c).len(), 1);
        w.cut(c);
        w.publish_with(p, &publish(QoS::AtLeastOnce));
        let c = w.resume(second, "c");
        let got = w.drain(c);
        assert_eq!(got.len(), 2);
        for frame in got {
            let told = user_properties(frame.publish().properties).len();
            assert_eq!(told, usize::from(second == V5), "in the form of the connection it has now");
        }
        expect_balance(&w);
    }
}

#[test]
fn takes_over_again_and_again_without_losing_or_doubling() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        let mut c = w.resume(V5, "c");
        w.subscribe(c, "t", QoS::ExactlyOnce);
        let mut got = Vec::new();
        for i in 0..30 {
            w.publish(p, "t", QoS::ExactlyOnce, &i.to_string());
            match i % 3 {
                0 => got.extend(payloads(&w.drain(c))),
                1 => {
                    // Seen, not acknowledged: it comes again.
                    w.take(c);
                }
                _ => {}
            }
            let old = c;
            c = w.resume(V5, "c");
            expect_closed_by_take_over(&mut w, old);
        }
        got.extend(payloads(&w.drain(c)));
        assert_eq!(got, (0..30).map(|i| i.to_string()).collect::<Vec<_>>());
        assert_eq!(w.shards.iter().map(|shard| shard.census().connected).sum::<usize>(), 2);
        expect_balance(&w);
    }
}

fn expect_closed_by_take_over(w: &mut World, client: usize) {
    assert_eq!(w.closed_with(client), Some(ReasonCode::SessionTakenOver));
    let last = w.take(client).pop().expect("a DISCONNECT");
    assert!(matches!(last.packet(), Packet::Disconnect(_)), "{last:?}");
}

#[test]
fn what_an_old_connection_still_sends_is_not_the_new_ones() {
    let mut w = World::new(1);
    let old = w.resume(V5, "c");
    let connection = w.clients[old].connection.expect("open");
    let new = w.resume(V5, "c");
    w.take(old);
    // Bytes that were on their way when the session was taken over.
    let mut bytes = Vec::new();
    weirmq::protocol::codec::encode(V5, &Packet::Publish(message("t", QoS::AtLeastOnce, "late")), &mut bytes);
    let now = w.now;
    w.shards[0].receive(now, connection, &bytes);
    w.shards[0].disconnected(now, connection);
    w.run();
    assert_eq!(w.take(new), []);
    expect_open(&mut w, new);
}

#[test]
fn two_sessions_that_publish_to_each_other() {
    let mut w = World::new(3);
    let (a, b) = (w.resume(V5, "a"), w.resume(V5, "b"));
    w.subscribe(a, "to/a", QoS::ExactlyOnce);
    w.subscribe(b, "to/b", QoS::ExactlyOnce);
    for i in 0..50 {
        w.put(
            a,
            &Packet::Publish(Publish {
                packet_id: Some(id(i + 1)),
                ..message("to/b", QoS::AtLeastOnce, "x")
            }),
        );
        w.put(
            b,
            &Packet::Publish(Publish {
                packet_id: Some(id(i + 1)),
                ..message("to/a", QoS::AtLeastOnce, "x")
            }),
        );
    }
    w.run();
    for c in [a, b] {
        let acks =
            w.clients[c].received.iter().filter(|frame| matches!(frame.packet(), Packet::PubAck(_))).count();
        assert_eq!(acks, 50);
        assert_eq!(w.drain(c).len(), 50);
    }
    expect_balance(&w);
}

#[test]
fn a_session_that_ends_leaves_nothing_behind() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        for i in 0..20 {
            let c = open_with(&mut w, &format!("c{i}"), true, &[expiry(5)]);
            for filter in ["t/+", "$share/g/t/1", "#"] {
                w.subscribe(c, filter, QoS::ExactlyOnce);
            }
            w.publish(c, "t/1", QoS::ExactlyOnce, "x");
            if i % 2 == 0 {
                w.cut(c);
            } else {
                disconnect(&mut w, c, ReasonCode::Success, &[]);
            }
        }
        w.advance(Duration::from_secs(10));
        for shard in &w.shards {
            assert_eq!(shard.census(), weirmq::broker::shard::Census::default());
        }
        let interest = w.shared.interest();
        assert_eq!((interest.filters(), interest.subscriptions(), interest.memberships()), (0, 0, 0));
        drop(interest);
        let left: u64 =
            w.stats.iter().map(|stats| stats.subscriptions.get() + stats.queued_bytes.get()).sum();
        assert_eq!(left, 0);
        expect_balance(&w);
    }
}
