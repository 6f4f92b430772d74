//! How a share group picks the member that takes a message: each strategy, with members that come, go and are full.

use std::collections::{BTreeMap, BTreeSet};

use weirmq::limits::{ShareRule, Strategy};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

/// A world in which group `g` goes by this strategy, with this many members at QoS 1.
fn group(shards: u16, strategy: Strategy, members: usize) -> (World, Vec<usize>) {
    let rule = ShareRule { group: "g".into(), strategy };
    let settings = WorldSettings { shards, share_rules: vec![rule], ..WorldSettings::default() };
    let mut w = World::with(settings);
    let members = (0..members).map(|i| w.connect(V5, &format!("m{i}"))).collect::<Vec<_>>();
    for c in &members {
        w.subscribe(*c, "$share/g/#", QoS::AtLeastOnce);
    }
    (w, members)
}

/// Publishes `0` up to `count` to `topic` and takes what each member got, which is all of it together.
fn spread(w: &mut World, members: &[usize], topic: &str, count: usize) -> Vec<Vec<String>> {
    let p = w.connect(V5, "p");
    for i in 0..count {
        assert_eq!(w.publish(p, topic, QoS::AtLeastOnce, &i.to_string()), ReasonCode::Success);
    }
    let got: Vec<Vec<String>> = members.iter().map(|c| payloads(&w.drain(*c))).collect();
    let mut all: Vec<&String> = got.iter().flatten().collect();
    all.sort_by_key(|payload| payload.parse::<usize>().expect("a number"));
    assert_eq!(all, (0..count).map(|i| i.to_string()).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    got
}

fn counts(got: &[Vec<String>]) -> Vec<usize> {
    got.iter().map(Vec::len).collect()
}

#[test]
fn round_robin_serves_each_in_turn() {
    for shards in [1, 3] {
        let (mut w, members) = group(shards, Strategy::RoundRobin, 3);
        let got = spread(&mut w, &members, "t", 9);
        for (i, got) in got.iter().enumerate() {
            assert_eq!(*got, [i, i + 3, i + 6].map(|i| i.to_string()));
        }
        // One that goes is left out, wherever the turn is.
        w.cut(members[1]);
        assert_eq!(counts(&spread(&mut w, &members, "t", 10)), [5, 0, 5]);
        let back = w.connect(V5, "m1");
        w.subscribe(back, "$share/g/#", QoS::AtLeastOnce);
        assert_eq!(counts(&spread(&mut w, &[members[0], back, members[2]], "t", 9)), [3, 3, 3]);
        expect_balance(&w);
    }
}

#[test]
fn round_robin_passes_over_a_member_that_is_full() {
    let (mut w, members) = group(2, Strategy::RoundRobin, 2);
    let slow = open_with(&mut w, "slow", true, &[Property::ReceiveMaximum(1)]);
    w.subscribe(slow, "$share/g/#", QoS::AtLeastOnce);
    let p = w.connect(V5, "p");
    for i in 0..31 {
        w.publish(p, "t", QoS::AtLeastOnce, &i.to_string());
    }
    assert_eq!(w.take(slow).len(), 1);
    assert_eq!(members.iter().map(|c| w.drain(*c).len()).collect::<Vec<_>>(), [15, 15]);
}

#[test]
fn random_serves_all() {
    for shards in [1, 3] {
        let (mut w, members) = group(shards, Strategy::Random, 3);
        let counts = counts(&spread(&mut w, &members, "t", 90));
        assert!(counts.iter().all(|count| (15..=45).contains(count)), "{counts:?}");
        w.cut(members[0]);
        let counts = self::counts(&spread(&mut w, &members, "t", 60));
        assert!(counts[0] == 0 && counts[1] > 15 && counts[2] > 15, "{counts:?}");
    }
}

#[test]
fn sticky_stays_with_one_until_it_goes() {
    for shards in [1, 3] {
        let (mut w, members) = group(shards, Strategy::Sticky, 3);
        let first = spread(&mut w, &members, "t", 20);
        let chosen = first.iter().position(|got| !got.is_empty()).expect("somebody");
        assert_eq!(first[chosen].len(), 20);
        assert_eq!(spread(&mut w, &members, "u", 20)[chosen].len(), 20, "whatever the topic");
        // It is waited for when it is full.
        let p = w.connect(V5, "p");
        for i in 0..40 {
            w.publish(p, "t", QoS::AtLeastOnce, &i.to_string());
        }
        assert_eq!(w.take(members[chosen]).len(), 32);
        w.cut(members[chosen]);
        let rest: Vec<usize> = members.iter().copied().filter(|c| *c != members[chosen]).collect();
        let took_over: Vec<usize> = rest.iter().map(|c| w.drain(*c).len()).collect();
        assert_eq!(took_over.iter().sum::<usize>(), 40);
        assert!(took_over.contains(&40), "another one, and again one alone: {took_over:?}");
        expect_balance(&w);
    }
}

/// A group like that of [`group`], whose members `m0`, `m1` and `m2` have sessions that last.
fn lasting_group(strategy: Strategy) -> (World, Vec<usize>) {
    let (mut w, members) = group(2, strategy, 3);
    let mut lasting = Vec::new();
    for (i, c) in members.into_iter().enumerate() {
        w.cut(c);
        let c = w.resume(V5, &format!("m{i}"));
        w.subscribe(c, "$share/g/#", QoS::AtLeastOnce);
        lasting.push(c);
    }
    (w, lasting)
}

#[test]
fn sticky_does_not_go_back_to_one_that_returns() {
    let (mut w, mut members) = lasting_group(Strategy::Sticky);
    let with_all = |got: &[Vec<String>]| got.iter().position(|got| got.len() == 10).expect("one has all");
    let first = with_all(&spread(&mut w, &members, "t", 10));
    w.cut(members[first]);
    let second = with_all(&spread(&mut w, &members, "t", 10));
    assert_ne!(first, second);
    members[first] = w.resume(V5, &format!("m{first}"));
    assert_eq!(with_all(&spread(&mut w, &members, "t", 10)), second);
}

#[test]
fn a_hash_falls_to_members_that_are_there() {
    for strategy in [Strategy::HashTopic, Strategy::HashClientid] {
        let (mut w, members) = lasting_group(strategy);
        for away in 0..3 {
            w.cut(members[away]);
            let got: usize = (0..10)
                .map(|i| {
                    let p = w.connect(V5, &format!("p{i}"));
                    w.publish(p, &format!("t/{i}"), QoS::AtLeastOnce, "x");
                    members.iter().map(|c| w.drain(*c).len()).sum::<usize>()
                })
                .sum();
            assert_eq!(got, if away < 2 { 10 } else { 0 }, "{strategy:?} without {}", away + 1);
        }
        let back = w.resume(V5, "m1");
        assert_eq!(w.drain(back).len(), 10, "what waited for somebody");
    }
}

#[test]
fn hash_clientid_keeps_a_publishers_messages_with_one_member() {
    for shards in [1, 3] {
        let (mut w, members) = group(shards, Strategy::HashClientid, 3);
        let mut by_publisher: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for round in 0..3 {
            for i in 0..30 {
                let p = w.connect(V5, &format!("p{i}"));
                w.publish(p, &format!("t/{round}"), QoS::AtLeastOnce, &i.to_string());
            }
            for (index, c) in members.iter().enumerate() {
                for payload in payloads(&w.drain(*c)) {
                    by_publisher.entry(payload).or_default().insert(index);
                }
            }
        }
        assert_eq!(by_publisher.len(), 30);
        assert!(by_publisher.values().all(|members| members.len() == 1), "{by_publisher:?}");
        let used: BTreeSet<&usize> = by_publisher.values().flatten().collect();
        assert_eq!(used.len(), 3, "and different publishers' with different members");
    }
}

#[test]
fn hash_topic_keeps_a_topic_with_one_member_and_in_order() {
    for shards in [1, 3] {
        let (mut w, members) = group(shards, Strategy::HashTopic, 3);
        let publishers = [w.connect(V5, "p"), w.connect(V5, "q")];
        for i in 0..10 {
            for topic in 0..30 {
                for p in publishers {
                    w.publish(p, &format!("t/{topic}"), QoS::AtLeastOnce, &i.to_string());
                }
            }
        }
        let mut by_topic: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (index, c) in members.iter().enumerate() {
            let mut last: BTreeMap<String, usize> = BTreeMap::new();
            for frame in w.drain(*c) {
                let topic = frame.publish().topic.to_owned();
                let number = payloads(&[frame])[0].parse().expect("a number");
                let before = last.insert(topic.clone(), number).unwrap_or_default();
                assert!(before <= number, "in order");
                by_topic.entry(topic).or_default().insert(index);
            }
        }
        assert_eq!(by_topic.len(), 30);
        assert!(by_topic.values().all(|members| members.len() == 1), "{by_topic:?}");
        let used: BTreeSet<&usize> = by_topic.values().flatten().collect();
        assert_eq!(used.len(), 3);
        expect_balance(&w);
    }
}

#[test]
fn a_member_that_is_full_holds_up_only_what_is_bound_to_it() {
    let (mut w, members) = group(1, Strategy::HashTopic, 2);
    let p = w.connect(V5, "p");
    // Which topic goes where.
    let mut topic_of: BTreeMap<usize, String> = BTreeMap::new();
    for i in 0..20 {
        let topic = format!("t/{i}");
        w.publish(p, &topic, QoS::AtLeastOnce, "x");
        let at = members.iter().position(|c| !w.drain(*c).is_empty()).expect("somebody");
        topic_of.insert(at, topic);
    }
    for i in 0..50 {
        w.publish(p, &topic_of[&0], QoS::AtLeastOnce, &i.to_string());
    }
    let waiting = w.take(members[0]);
    assert_eq!(waiting.len(), 32, "its window");
    for i in 0..50 {
        w.publish(p, &topic_of[&1], QoS::AtLeastOnce, &i.to_string());
        assert_eq!(payloads(&w.drain(members[1])), [i.to_string()]);
    }
    w.clients[members[0]].received = waiting;
    assert_eq!(payloads(&w.drain(members[0])), (0..50).map(|i| i.to_string()).collect::<Vec<_>>());
}

#[test]
fn least_inflight_prefers_who_has_least_to_do() {
    for shards in [1, 3] {
        let (mut w, members) = group(shards, Strategy::LeastInflight, 3);
        assert_eq!(counts(&spread(&mut w, &members, "t", 9)), [3, 3, 3], "in turn among equals");
        let p = w.connect(V5, "p");
        // The first acknowledges at once, the second now and then, the third never.
        let mut got = [0; 3];
        for i in 0..60 {
            w.publish(p, "t", QoS::AtLeastOnce, &i.to_string());
            got[0] += w.drain(members[0]).len();
            if i % 10 == 0 {
                got[1] += w.drain(members[1]).len();
            }
        }
        got[1] += w.drain(members[1]).len();
        got[2] += w.take(members[2]).len();
        assert_eq!(got.iter().sum::<usize>(), 60);
        assert!(got[0] > got[1] && got[1] > got[2] && got[2] > 0, "{got:?}");
    }
}

#[test]
fn each_group_has_its_own_strategy() {
    let rules = vec![
        ShareRule { group: "sticky".into(), strategy: Strategy::Sticky },
        ShareRule { group: "*".into(), strategy: Strategy::RoundRobin },
    ];
    let mut w = World::with(WorldSettings { share_rules: rules, ..WorldSettings::default() });
    let members = [w.connect(V5, "a"), w.connect(V5, "b")];
    for c in members {
        w.subscribe(c, "$share/sticky/t", QoS::AtLeastOnce);
        w.subscribe(c, "$share/other/u", QoS::AtLeastOnce);
    }
    let mut of_t = counts(&spread(&mut w, &members, "t", 10));
    of_t.sort_unstable();
    assert_eq!(of_t, [0, 10]);
    assert_eq!(counts(&spread(&mut w, &members, "u", 10)), [5, 5]);
}

#[test]
fn every_strategy_gives_each_message_once_while_members_come_and_go() {
    for strategy in [
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Sticky,
        Strategy::HashClientid,
        Strategy::HashTopic,
        Strategy::LeastInflight,
    ] {
        let rule = ShareRule { group: "*".into(), strategy };
        let settings = WorldSettings { shards: 3, share_rules: vec![rule], ..WorldSettings::default() };
        let mut w = World::with(settings);
        let mut members: Vec<usize> = (0..3).map(|i| w.resume(V5, &format!("m{i}"))).collect();
        for c in &members {
            w.subscribe(*c, "$share/g/#", QoS::ExactlyOnce);
        }
        let p = w.connect(V5, "p");
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for i in 0..200 {
            let qos = EVERY_QOS[1 + i % 2];
            w.publish(p, &format!("t/{}", i % 7), qos, &i.to_string());
            let which = i % 3;
            match i % 11 {
                // Reconnects without having acknowledged anything.
                3 => {
                    w.cut(members[which]);
                    members[which] = w.resume(V5, &format!("m{which}"));
                }
                // Leaves the group and joins again.
                7 => {
                    for payload in payloads(&w.drain(members[which])) {
                        *times.entry(payload).or_default() += 1;
                    }
                    w.unsubscribe(members[which], "$share/g/#");
                    w.subscribe(members[which], "$share/g/#", QoS::ExactlyOnce);
                }
                _ => {}
            }
        }
        for c in members {
            for payload in payloads(&w.drain(c)) {
                *times.entry(payload).or_default() += 1;
            }
        }
        assert_eq!(times.len(), 200, "{strategy:?}");
        assert!(times.values().all(|times| *times == 1), "{strategy:?}: {times:?}");
        expect_balance(&w);
    }
}
