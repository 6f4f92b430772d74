//! Rates that are bounded: how fast clients may publish, and how fast messages are delivered.

use std::time::Duration;

use weirmq::flow::bucket::Rate;
use weirmq::flow::{OnLimit, RateRule, Scope};
use weirmq::limits::Limits;
use weirmq::principal::Principal;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;
use crate::paged::Paged;

fn rule(scope: Scope, name: &str, messages: u64, burst: u64, on_limit: OnLimit) -> RateRule {
    let rate = Rate { messages, bytes: 0, burst: Duration::from_millis(burst) };
    RateRule { scope, name: name.to_owned(), rate, on_limit }
}

fn world(shards: u16, rates: Vec<RateRule>) -> World {
    World::with(WorldSettings { shards, rates, ..WorldSettings::default() })
}

fn paced(shards: u16, deliveries: Vec<RateRule>) -> World {
    World::with(WorldSettings { shards, deliveries, ..WorldSettings::default() })
}

fn publish(packet_id: u16, qos: QoS, payload: &str) -> Packet<'_> {
    let packet_id = (qos > QoS::AtMostOnce).then(|| id(packet_id));
    Packet::Publish(Publish { packet_id, ..message("t", qos, payload) })
}

/// Sends so many at once, numbered from 1.
fn publish_many(w: &mut World, client: usize, count: u16, qos: QoS) {
    for n in 1..=count {
        w.put(client, &publish(n, qos, &n.to_string()));
    }
    w.run();
}

/// What a client is sent while time passes in steps of 10 ms, each acknowledged at once: how many at each step.
fn taken_over_time(w: &mut World, clients: &[usize], seconds: u32) -> Vec<usize> {
    let step = |w: &mut World| {
        w.advance(Duration::from_millis(10));
        clients.iter().map(|client| w.drain(*client).len()).sum()
    };
    (0..seconds * 100).map(|_| step(w)).collect()
}

#[test]
fn a_publisher_over_its_rate_is_not_read_and_loses_nothing() {
    for qos in EVERY_QOS {
        for version in [Version::V4, V5] {
            let mut w = world(2, vec![rule(Scope::Client, "fast", 100, 100, OnLimit::Pause)]);
            let (taker, fast, other) =
                (w.connect(V5, "taker"), w.connect(version, "fast"), w.connect(V5, "other"));
            w.subscribe(taker, "t", QoS::AtMostOnce);
            publish_many(&mut w, fast, 500, qos);
            assert_eq!(w.take(taker).len(), 11, "the burst");
            // Nobody else feels it.
            publish_many(&mut w, other, 100, QoS::AtMostOnce);
            assert_eq!(w.take(taker).len(), 100);
            let got = taken_over_time(&mut w, &[taker], 4);
            assert!(got[..100].iter().sum::<usize>().abs_diff(100) <= 1, "{got:?}");
            assert!(got.iter().all(|step| *step <= 2), "smoothly: {got:?}");
            let rest = taken_over_time(&mut w, &[taker], 2);
            assert_eq!(11 + got.iter().chain(&rest).sum::<usize>(), 500);
            expect_open(&mut w, fast);
            assert_eq!(dropped(&w, DropReason::RateLimited), 0);
            expect_balance(&w);
        }
    }
}

#[test]
fn one_who_is_held_back_is_not_taken_for_dead_and_no_clock_ticks_for_it() {
    let mut w = world(1, vec![rule(Scope::Client, "*", 1, 0, OnLimit::Pause)]);
    let p = w.open(&Connect { keep_alive: 2, ..connect(V5, "p", true) });
    publish_many(&mut w, p, 20, QoS::AtLeastOnce);
    let mut wakes = 0;
    let end = w.now + Duration::from_secs(18);
    while w.now < end {
        let next = w.shards[0].next_timeout().expect("it is to go on");
        w.advance(next - w.now);
        wakes += 1;
    }
    assert!(w.clients[p].connection.is_some());
    assert!(wakes <= 2 * 20 + 10, "{wakes} wake-ups for 20 messages");
    assert!((18..=20).contains(&w.take(p).len()));
}

#[test]
fn bytes_are_bounded_as_well() {
    let rate = Rate { messages: 0, bytes: 10_000, burst: Duration::from_millis(100) };
    let rates = vec![RateRule { scope: Scope::Client, name: "*".into(), rate, on_limit: OnLimit::Pause }];
    let mut w = world(1, rates);
    let (taker, p) = (w.connect(V5, "taker"), w.connect(V5, "p"));
    w.subscribe(taker, "t", QoS::AtMostOnce);
    let payload = "x".repeat(1000 - 6);
    for _ in 0..100 {
        w.put(p, &publish(1, QoS::AtMostOnce, &payload));
    }
    w.run();
    let got = w.take(taker).len() + taken_over_time(&mut w, &[taker], 5).iter().sum::<usize>();
    assert!((50..=53).contains(&got), "{got}");
}

#[test]
fn a_publisher_over_its_rate_is_refused_where_the_rule_says_so() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut w = world(1, vec![rule(Scope::Client, "p*", 10, 0, OnLimit::Reject)]);
        let (taker, p) = (w.connect(V5, "taker"), w.connect(V5, "p1"));
        w.subscribe(taker, "t", QoS::AtMostOnce);
        assert_eq!(w.publish(p, "t", qos, "1"), ReasonCode::Success);
        assert_eq!(w.publish(p, "t", qos, "2"), ReasonCode::QuotaExceeded);
        assert_eq!(w.publish(p, "t", qos, "3"), ReasonCode::QuotaExceeded);
        w.advance(Duration::from_millis(100));
        assert_eq!(w.publish(p, "t", qos, "4"), ReasonCode::Success, "what was refused did not count");
        w.send(p, &publish(9, QoS::AtMostOnce, "5"));
        assert_eq!(payloads(&w.take(taker)), ["1", "4"]);
        assert_eq!(dropped(&w, DropReason::RateLimited), 3);
        expect_open(&mut w, p);
        expect_balance(&w);
    }
}

#[test]
fn a_refused_publish_still_sets_its_topic_alias() {
    let mut w = world(1, vec![rule(Scope::Client, "p", 10, 0, OnLimit::Reject)]);
    let (taker, p) = (w.connect(V5, "taker"), w.connect(V5, "p"));
    w.subscribe(taker, "#", QoS::AtMostOnce);
    w.send(p, &publish(1, QoS::AtMostOnce, "1"));
    let alias = list(&[Property::TopicAlias(1)]);
    let with_alias = |topic, payload| {
        Packet::Publish(Publish {
            properties: alias.as_properties(),
            ..message(topic, QoS::AtMostOnce, payload)
        })
    };
    w.send(p, &with_alias("aliased", "2"));
    w.advance(Duration::from_millis(100));
    w.send(p, &with_alias("", "3"));
    assert_eq!(payloads(&w.take(taker)), ["1", "3"]);
}

#[test]
fn before_mqtt_5_a_refusal_is_the_end_of_the_connection_and_at_qos_0_a_drop() {
    let mut w = world(1, vec![rule(Scope::Client, "p", 10, 0, OnLimit::Reject)]);
    let (taker, p) = (w.connect(V5, "taker"), w.connect(Version::V4, "p"));
    w.subscribe(taker, "t", QoS::AtMostOnce);
    publish_many(&mut w, p, 5, QoS::AtMostOnce);
    expect_open(&mut w, p);
    assert_eq!(dropped(&w, DropReason::RateLimited), 4);
    w.send(p, &publish(1, QoS::AtLeastOnce, "x"));
    let closed = w.clients[p].closed.as_ref().map(|reason| format!("{reason:?}")).unwrap_or_default();
    assert!(closed.contains("QuotaExceeded") && closed.contains("faster"), "{closed}");
    assert_eq!(w.take(taker).len(), 1);
    expect_balance(&w);
}

#[test]
fn to_come_back_does_not_bring_new_tokens() {
    let mut w = world(1, vec![rule(Scope::Client, "*", 10, 1000, OnLimit::Reject)]);
    let mut passed = 0;
    for _ in 0..20 {
        let p = w.connect(V5, "p");
        for _ in 0..5 {
            passed += usize::from(!w.publish(p, "t", QoS::AtLeastOnce, "x").is_failure());
        }
        w.cut(p);
    }
    assert_eq!(passed, 11);
}

#[test]
fn to_come_back_does_not_bring_deliveries_sooner() {
    let mut w = paced(1, vec![rule(Scope::Client, "slow", 10, 500, OnLimit::Pause)]);
    let p = w.connect(V5, "p");
    let mut got = 0;
    for _ in 0..20 {
        let slow = w.connect(V5, "slow");
        w.subscribe(slow, "t", QoS::AtMostOnce);
        publish_many(&mut w, p, 10, QoS::AtMostOnce);
        got += w.drain(slow).len();
        w.cut(slow);
    }
    assert_eq!(got, 6);
}

#[test]
fn the_clients_of_a_user_share_its_rate_and_each_gets_its_part() {
    let mut w = world(3, vec![rule(Scope::User, "*", 90, 50, OnLimit::Pause)]);
    let taker = w.connect(V5, "taker");
    w.subscribe(taker, "t", QoS::AtMostOnce);
    let mut as_user = |user: &str, client: &str| {
        let c = w.try_connect_as(&Principal::of_user(user), &connect(V5, client, true)).expect("accepted");
        w.take(c);
        c
    };
    let ours: Vec<usize> = (0..6).map(|n| as_user("we", &format!("we{n}"))).collect();
    let other = as_user("other", "them");
    for (n, c) in ours.iter().enumerate() {
        for _ in 0..1000 {
            w.put(*c, &publish(1, QoS::AtMostOnce, &n.to_string()));
        }
    }
    w.run();
    w.send(other, &publish(1, QoS::AtMostOnce, "other"));
    let mut got = payloads(&w.take(taker));
    assert!(got.contains(&"other".to_owned()), "{got:?}");
    for _ in 0..1000 {
        w.advance(Duration::from_millis(10));
        got.extend(payloads(&w.drain(taker)));
    }
    assert!((890..=930).contains(&got.len()), "{}", got.len());
    for n in 0..6 {
        let part = got.iter().filter(|payload| **payload == n.to_string()).count();
        assert!((75..=300).contains(&part), "{n}: {part} of {}", got.len());
    }
}

#[test]
fn a_listeners_rate_holds_for_all_who_came_by_it() {
    for (name, bounded) in [("127.0.0.1:1883", true), ("*", true), ("127.0.0.1:1884", false)] {
        let mut w = world(2, vec![rule(Scope::Listener, name, 10, 0, OnLimit::Reject)]);
        let taker = w.connect(V5, "taker");
        w.subscribe(taker, "t", QoS::AtMostOnce);
        for n in 0..20 {
            let c = w.connect(V5, &n.to_string());
            w.send(c, &publish(1, QoS::AtMostOnce, "x"));
        }
        assert_eq!(w.take(taker).len(), if bounded { 1 } else { 20 }, "{name}");
    }
}

/// A publisher of 10,000 messages a second for some seconds, and what a group of `members` is given meanwhile, in each
/// 10 ms.
fn group_under_load(w: &mut World, members: usize, seconds: u32) -> Vec<usize> {
    let members: Vec<usize> = (0..members).map(|n| w.resume(V5, &format!("member{n}"))).collect();
    for member in &members {
        w.subscribe(*member, "$share/db/t", QoS::AtLeastOnce);
    }
    let p = w.connect(V5, "publisher");
    let mut got = Vec::new();
    for _ in 0..seconds * 100 {
        for n in 0..100 {
            w.put(p, &publish(n + 1, QoS::AtLeastOnce, "x"));
        }
        w.run();
        assert_eq!(w.take(p).len(), 100, "the publisher feels nothing");
        for _ in 0..10 {
            w.advance(Duration::from_millis(1));
            members.iter().for_each(|member| got.push(w.drain(*member).len()));
        }
    }
    got.chunks(10 * members.len()).map(|steps| steps.iter().sum()).collect()
}

#[test]
fn a_share_group_keeps_its_rate_and_the_rest_waits() {
    for shards in [1, 3] {
        let mut w = paced(shards, vec![rule(Scope::Group, "db", 6000, 50, OnLimit::Pause)]);
        let got = group_under_load(&mut w, 8, 3);
        for second in got.chunks(100) {
            let sum: usize = second.iter().sum();
            assert!(sum.abs_diff(6000) <= 120 + 301 * usize::from(second == &got[..100]), "{sum}: {got:?}");
        }
        assert!(got[10..].iter().all(|step| (30..=90).contains(step)), "smoothly: {got:?}");
        let dropped: u64 = DropReason::ALL.iter().map(|reason| dropped(&w, *reason)).sum();
        assert_eq!(dropped, 0);
        expect_balance(&w);
    }
}

#[test]
fn a_share_group_whose_queue_is_on_disk_keeps_its_rate() {
    let deliveries = vec![rule(Scope::Group, "db", 6000, 50, OnLimit::Pause)];
    let Paged { mut w, .. } = Paged::with(WorldSettings { deliveries, ..WorldSettings::default() });
    let got = group_under_load(&mut w, 4, 2);
    let sum: usize = got[100..].iter().sum();
    assert!(sum.abs_diff(6000) <= 120, "{sum}: {got:?}");
    expect_balance(&w);
}

#[test]
fn a_clients_deliveries_are_paced_at_every_qos_and_keep_their_order() {
    for qos in EVERY_QOS {
        for version in [Version::V4, V5] {
            for persistent in [false, true] {
                let mut w = paced(2, vec![rule(Scope::Client, "slow", 100, 10, OnLimit::Pause)]);
                let slow = if persistent { w.resume(version, "slow") } else { w.connect(version, "slow") };
                let (fast, p) = (w.connect(V5, "fast"), w.connect(V5, "p"));
                w.subscribe(slow, "t", qos);
                w.subscribe(fast, "t", QoS::AtMostOnce);
                publish_many(&mut w, p, 300, qos);
                assert_eq!(w.drain(fast).len(), 300);
                let mut got = payloads(&w.drain(slow));
                assert_eq!(got.len(), 2, "the burst");
                for n in 1..=40_usize {
                    w.advance(Duration::from_millis(100));
                    got.extend(payloads(&w.drain(slow)));
                    assert!(got.len() >= 300 || got.len().abs_diff(10 * n + 2) <= 2, "{} at {n}", got.len());
                }
                let expected: Vec<String> = (1..=300).map(|n: i32| n.to_string()).collect();
                assert_eq!(got, expected);
                expect_balance(&w);
            }
        }
    }
}

#[test]
fn at_qos_0_what_waits_for_a_paced_client_is_bounded_and_goes_with_its_connection() {
    let limits = Limits { transient_queue_messages: 50, ..Limits::default() };
    let deliveries = vec![rule(Scope::Client, "slow", 100, 0, OnLimit::Pause)];
    let mut w = World::with(WorldSettings { limits, deliveries, ..WorldSettings::default() });
    let (slow, p) = (w.resume(V5, "slow"), w.connect(V5, "p"));
    w.subscribe(slow, "t", QoS::AtMostOnce);
    publish_many(&mut w, p, 200, QoS::AtMostOnce);
    assert_eq!(dropped(&w, DropReason::Qos0SlowConsumer), 200 - 1 - 50);
    w.advance(Duration::from_millis(95));
    assert!(w.drain(slow).len() >= 9);
    expect_balance(&w);
    w.cut(slow);
    assert_eq!(w.shards[0].census().queued, 0);
    expect_balance(&w);
}

#[test]
fn at_qos_0_a_paced_group_has_what_waits_in_memory_and_no_more_of_it_than_a_client() {
    let limits = Limits { transient_queue_messages: 50, ..Limits::default() };
    let deliveries = vec![rule(Scope::Group, "g", 100, 0, OnLimit::Pause)];
    let mut w = World::with(WorldSettings { limits, deliveries, ..WorldSettings::default() });
    let (a, b, p) = (w.connect(V5, "a"), w.connect(V5, "b"), w.connect(V5, "p"));
    w.subscribe(a, "$share/g/t", QoS::AtMostOnce);
    w.subscribe(b, "$share/g/t", QoS::AtMostOnce);
    publish_many(&mut w, p, 200, QoS::AtMostOnce);
    assert_eq!(dropped(&w, DropReason::OverflowOldest), 200 - 1 - 50);
    let got = taken_over_time(&mut w, &[a, b], 1);
    assert_eq!(got.iter().sum::<usize>(), 1 + 50);
    expect_balance(&w);
}

#[test]
fn the_clients_of_a_user_share_its_deliveries() {
    let mut w = paced(2, vec![rule(Scope::User, "u", 100, 50, OnLimit::Pause)]);
    let takers: Vec<usize> = (0..5)
        .map(|n| {
            let name = format!("taker{n}");
            let connect = connect(V5, &name, true);
            let c = w.try_connect_as(&Principal::of_user("u"), &connect).expect("accepted");
            w.take(c);
            w.subscribe(c, "t", QoS::AtLeastOnce);
            c
        })
        .collect();
    let p = w.connect(V5, "p");
    publish_many(&mut w, p, 200, QoS::AtLeastOnce);
    let mut each = [0; 5];
    for _ in 0..500 {
        w.advance(Duration::from_millis(10));
        takers.iter().zip(&mut each).for_each(|(taker, count)| *count += w.drain(*taker).len());
    }
    let sum: usize = each.iter().sum();
    assert!((495..=506).contains(&sum) && each.iter().all(|count| *count >= 60), "{each:?}");
}

#[test]
fn the_replay_of_retained_messages_is_paced() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut w = paced(1, vec![rule(Scope::Client, "slow", 100, 0, OnLimit::Pause)]);
        let p = w.connect(V5, "p");
        for n in 0..150 {
            let topic = format!("r/{n}");
            w.publish_with(p, &Publish { retain: true, ..message(&topic, QoS::AtLeastOnce, "x") });
        }
        let slow = w.connect(V5, "slow");
        send_subscribe(&mut w, slow, &[("r/#", options(qos))]);
        assert_eq!(codes(&w.take(slow)[0]).len(), 1);
        let got = taken_over_time(&mut w, &[slow], 2);
        let first: usize = got[..100].iter().sum();
        assert!(first.abs_diff(100) <= 3, "{first}: {got:?}");
        assert!(got.iter().sum::<usize>() >= 148, "{got:?}");
        expect_balance(&w);
    }
}
