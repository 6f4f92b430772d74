//! What a client may do once it is known who it is.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use weirmq::acl::Acl;
use weirmq::broker::restore::group_home;
use weirmq::config::Config;
use weirmq::limits::{ShareRule, Strategy};
use weirmq::message::QueueId;
use weirmq::principal::{Principal, Token};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;
use weirmq::store::restored::{Restored, RestoredSession, RestoredSubscription, Waiting};

use crate::before_connect::users;
use crate::common::client::Client;
use crate::common::dialogue::*;
use crate::common::process::Process;
use crate::common::world::*;

#[test]
fn a_session_is_not_taken_by_another_user() {
    let mut w = World::new(2);
    let properties = list(&[expiry(3600)]);
    let connect = |version, clean| Connect {
        properties: if version == V5 { properties.as_properties() } else { Default::default() },
        ..connect(version, "victim", clean)
    };
    let (ann, bob) = (Principal::of_user("ann"), Principal::of_user("bob"));
    let victim = w.try_connect_as(&ann, &connect(V5, false)).expect("the first");
    w.clients[victim].received.clear();
    w.subscribe(victim, "t", QoS::AtLeastOnce);
    for version in [Version::V3, Version::V4, V5] {
        for clean in [false, true] {
            let refused = w.try_connect_as(&bob, &connect(version, clean)).expect_err("not his");
            assert_eq!(refused.reason, ReasonCode::NotAuthorized);
        }
    }
    assert_eq!(w.clients[victim].closed, None, "the victim's connection is untouched");
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "for ann");
    assert_eq!(payloads(&w.drain(victim)), ["for ann"]);
    // The same user: the old connection is told.
    let again = w.try_connect_as(&ann, &connect(V5, false)).expect("the same user");
    assert!(session_present(&w.clients[again].received.remove(0)));
    assert_eq!(w.closed_with(victim), Some(ReasonCode::SessionTakenOver));
}

#[test]
fn a_session_on_disk_is_not_taken_by_another_user_after_a_restart() {
    let config = "[[listener]]\nbind = \"127.0.0.1:0\"\n[auth]\npassword_file = \"{dir}/users\"\n\
                  failure_delay = \"0s\"\n[store]\nsegment_size = \"1MiB\"\n";
    let all = [("ann", "right"), ("bob", "his")];
    let mut broker = Process::start(config, |folder| drop(users(folder, &all)));
    let ask = |broker: &Process, (user, password): (&str, &str)| {
        let mut client = Client::open(broker.addresses[0], V5);
        let properties = list(&[expiry(3600)]);
        client.send(&Packet::Connect(Connect {
            username: Some(user),
            password: Some(password.as_bytes()),
            properties: properties.as_properties(),
            ..connect(V5, "c", false)
        }));
        client
    };
    let mut ann = ask(&broker, all[0]);
    assert!(!ann.accepted());
    ann.subscribe("t", QoS::AtLeastOnce);
    broker.kill();
    broker.restart();
    assert_eq!(ask(&broker, all[1]).refused(), ReasonCode::NotAuthorized);
    let mut ann = ask(&broker, all[0]);
    assert!(ann.accepted(), "it is still hers");
    ann.publish("t", QoS::AtLeastOnce, b"to herself");
    ann.expect_publish("t", b"to herself");
}

/// What an ACL file says.
fn acl(text: &str) -> Acl {
    Acl::from_bytes(text.as_bytes()).unwrap_or_else(|(line, reason)| panic!("{line}: {reason}"))
}

/// A broker with an ACL file.
fn world(shards: u16, text: &str) -> World {
    World::with(WorldSettings { shards, acl: Some(acl(text)), ..WorldSettings::default() })
}

/// Connects as this user, in a session that is kept; takes the CONNACK, which must be a success.
fn open_as(w: &mut World, user: &str, client_id: &str) -> usize {
    let properties = list(&[expiry(3600)]);
    let connect = Connect { properties: properties.as_properties(), ..connect(V5, client_id, false) };
    let client = w.try_connect_as(&Principal::of_user(user), &connect).expect("accepted");
    w.clients[client].received.remove(0);
    client
}

/// The same in a session that ends with its connection.
fn pass_by_as(w: &mut World, user: &str, client_id: &str) -> usize {
    let client =
        w.try_connect_as(&Principal::of_user(user), &connect(V5, client_id, true)).expect("accepted");
    w.clients[client].received.remove(0);
    client
}

/// The codes that a SUBSCRIBE for one filter is answered with.
fn subscribed(w: &mut World, client: usize, filter: &str) -> u8 {
    let frames = w.subscribe_raw(client, filter, options(QoS::AtLeastOnce), 0);
    let code = codes(&frames[0])[0];
    w.clients[client].received.extend(frames.into_iter().skip(1));
    code
}

const NOT_AUTHORISED: u8 = 0x87;

/// Everything may be done by `p`; `c` reads all but what is secret.
const SECRET: &str = "user p\ntopic readwrite #\nuser c\ntopic read #\ntopic deny secret/#\n";

#[test]
fn names_with_wildcards_do_not_widen_a_pattern() {
    let mut w = world(2, "pattern readwrite home/%u/%c/#\nuser p\ntopic readwrite #\n");
    let p = open_as(&mut w, "p", "p");
    for name in ["+", "#", "a+b", "##"] {
        for (user, client_id) in [(name, "c"), ("u", name)] {
            for version in [Version::V3, Version::V4, V5] {
                let connect = connect(version, client_id, true);
                let refused = w.try_connect_as(&Principal::of_user(user), &connect).expect_err("dangerous");
                assert_eq!(refused.reason, ReasonCode::NotAuthorized, "{user} {client_id}");
            }
        }
    }
    // A slash may come in, but stands for no level.
    for (user, client_id) in [("a/b", "c"), ("a", "b/c"), ("a/b/c", "d"), ("/", "c")] {
        let c = pass_by_as(&mut w, user, client_id);
        for filter in ["home/a/b/c/#", "home/a/b/c", "home/a/#", "home/#", "#", "home/a/b/c/d/x"] {
            assert_eq!(subscribed(&mut w, c, filter), NOT_AUTHORISED, "{user} {client_id} {filter}");
        }
        let sent = w.publish(c, "home/a/b/c/x", QoS::AtLeastOnce, "x");
        assert_eq!(sent, ReasonCode::NotAuthorized, "{user} {client_id}");
        w.cut(c);
    }
    // A NUL never gets as far as a name.
    assert!(w.try_connect(&connect(V5, "a\0b", true)).is_err());
    // And what a name stands for is its own place alone.
    let c = open_as(&mut w, "a", "c");
    assert_eq!(subscribed(&mut w, c, "home/#"), 1);
    for topic in ["home/a/c/x", "home/b/c/x", "home/a/b/x", "home/a/c", "home/+", "home"] {
        if !topic.contains('+') {
            w.publish(p, topic, QoS::AtLeastOnce, topic);
        }
    }
    assert_eq!(payloads(&w.drain(c)), ["home/a/c/x", "home/a/c"]);
    expect_balance(&w);
}

#[test]
fn a_publish_without_the_right_goes_nowhere() {
    for shards in [1, 2] {
        let mut w = world(shards, "user p\ntopic write mine/#\nuser c\ntopic read #\n");
        let c = open_as(&mut w, "c", "c");
        assert_eq!(subscribed(&mut w, c, "#"), 1);
        let p = open_as(&mut w, "p", "p");
        for qos in EVERY_QOS {
            let reason = w.publish(p, "other", qos, "no");
            let told = qos > QoS::AtMostOnce;
            assert_eq!(reason, if told { ReasonCode::NotAuthorized } else { ReasonCode::Success });
            w.publish_with(p, &Publish { retain: true, ..message("other", qos, "no") });
        }
        assert_eq!(dropped(&w, DropReason::Unauthorised), 6);
        // Before 5.0 it is acknowledged, and dropped [MQTT-3.3.5-2].
        let old =
            w.try_connect_as(&Principal::of_user("p"), &connect(Version::V4, "old", true)).expect("accepted");
        w.clients[old].received.clear();
        for qos in EVERY_QOS {
            assert_eq!(w.publish(old, "other", qos, "no"), ReasonCode::Success);
        }
        expect_open(&mut w, old);
        assert_eq!(dropped(&w, DropReason::Unauthorised), 9);
        assert_eq!(w.publish(p, "mine/a", QoS::AtLeastOnce, "yes"), ReasonCode::Success);
        assert_eq!(payloads(&w.drain(c)), ["yes"]);
        assert_eq!(w.shared.retained().count(), 0);
        expect_balance(&w);
    }
}

#[test]
fn a_right_to_publish_is_asked_for_each_topic_and_each_client() {
    let mut w = world(1, "user p\ntopic write a\nuser q\ntopic write b\n");
    let (p, q) = (open_as(&mut w, "p", "p"), open_as(&mut w, "q", "q"));
    // The last answer is remembered: it must not serve for another topic or client, nor by other rules.
    for _ in 0..2 {
        assert_eq!(w.publish(p, "a", QoS::AtLeastOnce, ""), ReasonCode::NoMatchingSubscribers);
        assert_eq!(w.publish(p, "b", QoS::AtLeastOnce, ""), ReasonCode::NotAuthorized);
        assert_eq!(w.publish(q, "a", QoS::AtLeastOnce, ""), ReasonCode::NotAuthorized);
        assert_eq!(w.publish(q, "b", QoS::AtLeastOnce, ""), ReasonCode::NoMatchingSubscribers);
    }
    w.set_acl(Some(acl("user q\ntopic write a\n")));
    assert_eq!(w.publish(q, "b", QoS::AtLeastOnce, ""), ReasonCode::NotAuthorized);
    // An alias stands for the topic that it was set to.
    let set = list(&[Property::TopicAlias(1)]);
    let send = |w: &mut World, topic| {
        w.publish_with(
            q,
            &Publish { properties: set.as_properties(), ..message(topic, QoS::AtLeastOnce, "") },
        )
    };
    assert_eq!(send(&mut w, "b"), ReasonCode::NotAuthorized);
    assert_eq!(send(&mut w, ""), ReasonCode::NotAuthorized);
    assert_eq!(send(&mut w, "a"), ReasonCode::NoMatchingSubscribers);
    assert_eq!(send(&mut w, ""), ReasonCode::NoMatchingSubscribers);
}

#[test]
fn a_will_needs_the_right_at_connect_and_when_it_fires() {
    let rules = "user c\ntopic write last/#\nuser r\ntopic read #\n";
    let mut w = world(2, rules);
    let r = open_as(&mut w, "r", "r");
    assert_eq!(subscribed(&mut w, r, "#"), 1);
    let ann = Principal::of_user("c");
    let with = |topic, version| Connect { will: Some(will(topic, "gone")), ..connect(version, "c", true) };
    for topic in ["other", "last", "$SYS/x", "$share/g/x"] {
        for version in [Version::V4, V5] {
            let outcome = w.try_connect_as(&ann, &with(topic, version));
            match outcome {
                Ok(client) => {
                    assert_eq!(topic, "last");
                    w.send(client, &Packet::Disconnect(bye()));
                }
                Err(refused) => {
                    assert_eq!((refused.reason, topic != "last"), (ReasonCode::NotAuthorized, true))
                }
            }
        }
    }
    let c = w.try_connect_as(&ann, &with("last/a", V5)).expect("it may");
    w.cut(c);
    assert_eq!(payloads(&w.drain(r)), ["gone"]);
    // Revoked between CONNECT and the end of the connection.
    let c = w.try_connect_as(&ann, &with("last/a", V5)).expect("it may");
    w.set_acl(Some(acl("user r\ntopic read #\n")));
    w.cut(c);
    assert_eq!(payloads(&w.drain(r)), [""; 0]);
    assert_eq!(dropped(&w, DropReason::Unauthorised), 1);
    // The same with a delay, which a reload finds waiting.
    w.set_acl(Some(acl(rules)));
    let properties = list(&[expiry(60)]);
    let delay = list(&[Property::WillDelayInterval(10)]);
    let late = LastWill { properties: delay.as_properties(), ..will("last/b", "late") };
    let connect =
        Connect { will: Some(late), properties: properties.as_properties(), ..connect(V5, "c", true) };
    let c = w.try_connect_as(&ann, &connect).expect("it may");
    w.cut(c);
    w.set_acl(Some(acl("user c\ntopic write other\nuser r\ntopic read #\n")));
    w.advance(Duration::from_secs(11));
    assert_eq!(payloads(&w.drain(r)), [""; 0]);
    assert_eq!(dropped(&w, DropReason::Unauthorised), 2);
}

fn bye() -> Disconnect<'static> {
    Disconnect { reason: ReasonCode::Success, properties: Default::default() }
}

#[test]
fn no_live_delivery_escapes_a_denial() {
    for shards in [1, 3] {
        let mut w = world(shards, SECRET);
        let p = open_as(&mut w, "p", "p");
        let kept = open_as(&mut w, "c", "kept");
        let passing = pass_by_as(&mut w, "c", "passing");
        let named = open_with_identifier(&mut w, "c", "named");
        for client in [kept, passing] {
            w.subscribe(client, "#", QoS::ExactlyOnce);
        }
        for round in 0..2 {
            for qos in EVERY_QOS {
                for topic in ["secret", "secret/a", "open/a", "$x/a"] {
                    w.publish(p, topic, qos, topic);
                }
            }
            for client in [kept, passing, named] {
                assert_eq!(payloads(&w.drain(client)), ["open/a"; 3], "{round}");
            }
        }
        expect_balance(&w);
        assert_eq!(dropped(&w, DropReason::Revoked), 0, "what is denied is not even sent there");
    }
}

/// One whose frames are made for it alone.
fn open_with_identifier(w: &mut World, user: &str, client_id: &str) -> usize {
    let client = open_as(w, user, client_id);
    w.subscribe_with(client, "#", options(QoS::ExactlyOnce), 7);
    client
}

#[test]
fn no_retained_message_escapes_a_denial() {
    for shards in [1, 3] {
        let mut w = world(shards, SECRET);
        let p = open_as(&mut w, "p", "p");
        for topic in ["secret", "secret/a", "open/a", "open/b"] {
            w.publish_with(p, &Publish { retain: true, ..message(topic, QoS::AtLeastOnce, topic) });
        }
        for (kept, qos) in [(true, QoS::AtLeastOnce), (false, QoS::AtLeastOnce), (true, QoS::AtMostOnce)] {
            let c = if kept { open_as(&mut w, "c", "c") } else { pass_by_as(&mut w, "c", "d") };
            w.subscribe(c, "#", qos);
            assert_eq!(payloads(&w.drain(c)), ["open/a", "open/b"]);
            assert_eq!(subscribed(&mut w, c, "secret/#"), NOT_AUTHORISED);
            assert_eq!(subscribed(&mut w, c, "secret/a"), NOT_AUTHORISED);
            assert_eq!(w.drain(c), []);
            disconnect(&mut w, c, ReasonCode::Success, &[expiry(0)]);
        }
        expect_balance(&w);
    }
}

#[test]
fn nothing_that_waited_escapes_a_denial() {
    for shards in [1, 3] {
        let mut w = world(shards, "user p\ntopic #\nuser c\ntopic read #\n");
        let p = open_as(&mut w, "p", "p");
        let c = open_as(&mut w, "c", "c");
        w.subscribe(c, "#", QoS::ExactlyOnce);
        // One of each QoS has left and is not acknowledged; the rest waits.
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            w.publish(p, "secret/seen", qos, "seen");
        }
        assert_eq!(w.take(c).len(), 2);
        w.cut(c);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for topic in ["secret/a", "open/a", "secret/b", "open/b"] {
                w.publish(p, topic, qos, topic);
            }
        }
        w.set_acl(Some(acl(SECRET)));
        let c = open_as(&mut w, "c", "c");
        let got = w.drain(c);
        assert_eq!(payloads(&got), ["open/a", "open/b", "open/a", "open/b"]);
        assert_eq!(dropped(&w, DropReason::Revoked), 6);
        expect_balance(&w);
        w.publish(p, "open/c", QoS::ExactlyOnce, "on");
        assert_eq!(payloads(&w.drain(c)), ["on"]);
        expect_balance(&w);
    }
}

#[test]
fn what_is_on_its_way_when_the_rules_change_is_looked_at_again() {
    // The route was made by rules that let it be read; it arrives by those that do not.
    let mut w = world(2, "user p\ntopic #\nuser c\ntopic read #\n");
    let (p, c) = (open_as(&mut w, "p", "p"), open_as(&mut w, "c", "c"));
    let other = pass_by_as(&mut w, "c", "e");
    for client in [c, other] {
        w.subscribe(client, "#", QoS::AtLeastOnce);
    }
    let (near, far) = (w.clients[p].shard, w.clients[c].shard);
    assert_ne!(near, far, "the lane between them is late");
    assert_eq!(far, w.clients[other].shard);
    w.late_lane = Some((near, far));
    w.publish(p, "secret/a", QoS::AtLeastOnce, "secret");
    w.publish(p, "open/a", QoS::AtLeastOnce, "open");
    w.set_acl(Some(acl(SECRET)));
    w.end_of_delay();
    for client in [c, other] {
        assert_eq!(payloads(&w.drain(client)), ["open"]);
    }
    assert_eq!(dropped(&w, DropReason::Revoked), 1);
    expect_balance(&w);
}

#[test]
fn a_share_group_gives_to_those_alone_who_may_read() {
    for shards in [1, 3] {
        for strategy in ["round_robin", "random", "sticky", "hash_clientid", "hash_topic", "least_inflight"] {
            let share_rules = vec![ShareRule { group: "g".to_owned(), strategy: strategy_of(strategy) }];
            let settings = WorldSettings {
                shards,
                share_rules,
                acl: Some(acl(&format!("{SECRET}user d\ntopic read #\n"))),
                ..WorldSettings::default()
            };
            let mut w = World::with(settings);
            let p = open_as(&mut w, "p", "p");
            let (c, d) = (open_as(&mut w, "c", "c"), open_as(&mut w, "d", "d"));
            for client in [c, d] {
                w.subscribe(client, "$share/g/#", QoS::ExactlyOnce);
            }
            let mut sent = 0;
            for round in 0..10 {
                for qos in EVERY_QOS {
                    w.publish(p, &format!("secret/{round}"), qos, "secret");
                    w.publish(p, &format!("open/{round}"), qos, "open");
                    sent += 1;
                }
            }
            let (of_c, of_d) = (payloads(&w.drain(c)), payloads(&w.drain(d)));
            assert!(of_c.iter().all(|payload| payload == "open"), "{strategy}");
            let secret = of_d.iter().filter(|payload| *payload == "secret").count();
            assert_eq!((secret, of_c.len() + of_d.len()), (sent, 2 * sent), "{strategy}: nothing is lost");
            // With nobody who may read it, it is not even kept.
            w.cut(d);
            w.publish(p, "secret/x", QoS::AtMostOnce, "lost, for nobody is there");
            w.publish(p, "secret/x", QoS::AtLeastOnce, "waits");
            w.publish(p, "open/x", QoS::AtLeastOnce, "passes");
            assert_eq!(
                payloads(&w.drain(c)),
                ["passes"],
                "{strategy}: one that waits for another holds nobody up"
            );
            let d = open_as(&mut w, "d", "d");
            assert_eq!(payloads(&w.drain(d)), ["waits"], "{strategy}");
            w.unsubscribe(d, "$share/g/#");
            let reason = w.publish(p, "secret/y", QoS::AtLeastOnce, "y");
            assert_eq!(reason, ReasonCode::NoMatchingSubscribers, "{strategy}");
            expect_balance(&w);
        }
    }
}

fn strategy_of(name: &str) -> Strategy {
    match name {
        "round_robin" => Strategy::RoundRobin,
        "random" => Strategy::Random,
        "sticky" => Strategy::Sticky,
        "hash_clientid" => Strategy::HashClientid,
        "hash_topic" => Strategy::HashTopic,
        _ => Strategy::LeastInflight,
    }
}

#[test]
fn what_a_share_group_holds_is_asked_for_by_new_rules() {
    let all = "user p\ntopic #\nuser c\ntopic read #\nuser d\ntopic read #\n";
    for shards in [1, 3] {
        let mut w = world(shards, all);
        let p = open_as(&mut w, "p", "p");
        let properties = list(&[expiry(3600), Property::ReceiveMaximum(1)]);
        let slow = Connect { properties: properties.as_properties(), ..connect(V5, "c", false) };
        let c = w.try_connect_as(&Principal::of_user("c"), &slow).expect("accepted");
        w.take(c);
        w.subscribe(c, "$share/g/#", QoS::AtLeastOnce);
        for (topic, payload) in [("open/a", "0"), ("secret/a", "1"), ("open/b", "2"), ("secret/b", "3")] {
            w.publish(p, topic, QoS::AtLeastOnce, payload);
        }
        assert_eq!(payloads(&w.take(c)), ["0"], "not acknowledged: the others wait with the group");
        // It may not read some of them any more, and nobody else is there.
        w.set_acl(Some(acl(SECRET)));
        w.send(c, &Packet::PubAck(ack_of(PacketId::MIN)));
        assert_eq!(payloads(&w.drain(c)), ["2"]);
        assert_eq!(dropped(&w, DropReason::Revoked), 2);
        expect_balance(&w);
    }
}

#[test]
fn what_a_member_was_given_and_may_not_read_any_more_goes_to_another() {
    let mut w = world(2, "user p\ntopic #\nuser c\ntopic read #\nuser d\ntopic read #\n");
    let p = open_as(&mut w, "p", "p");
    // What the group gives this member is under way when the rules change.
    let home = usize::from(group_home("g", "#", 2).0);
    let c = open_as(&mut w, "c", ["c", "b"][home]);
    let d = open_as(&mut w, "d", "d");
    assert_ne!(w.clients[c].shard, home);
    for client in [c, d] {
        w.subscribe(client, "$share/g/#", QoS::AtLeastOnce);
    }
    w.late_lane = Some((home, w.clients[c].shard));
    for payload in ["0", "1", "2", "3"] {
        w.publish(p, "secret/a", QoS::AtLeastOnce, payload);
    }
    w.set_acl(Some(acl(&format!("{SECRET}user d\ntopic read #\n"))));
    w.end_of_delay();
    let mut of_d = payloads(&w.drain(d));
    of_d.sort();
    assert_eq!((w.drain(c), of_d), (vec![], vec!["0".into(), "1".into(), "2".into(), "3".into()]));
    expect_balance(&w);
}

#[test]
fn a_subscription_does_not_outlive_its_right() {
    let rules = "user p\ntopic #\nuser c\ntopic read a/#\ntopic read b\n";
    for shards in [1, 3] {
        let mut w = world(shards, rules);
        let p = open_as(&mut w, "p", "p");
        let kept = open_as(&mut w, "c", "kept");
        let passing = pass_by_as(&mut w, "c", "passing");
        let away = open_as(&mut w, "c", "away");
        for client in [kept, passing, away] {
            for filter in ["a/#", "b", "$share/g/a/x"] {
                w.subscribe(client, filter, QoS::AtLeastOnce);
            }
        }
        w.cut(away);
        w.set_acl(Some(acl("user p\ntopic #\nuser c\ntopic read b\n")));
        let subscriptions: u64 = w.stats.iter().map(|stats| stats.subscriptions.get()).sum();
        assert_eq!(subscriptions, 3, "one each is left");
        w.publish(p, "b", QoS::AtLeastOnce, "b");
        assert_eq!(w.publish(p, "a/x", QoS::AtLeastOnce, "a"), ReasonCode::NoMatchingSubscribers);
        // Gone for good: the right that comes back brings no subscription with it.
        w.set_acl(Some(acl(rules)));
        assert_eq!(w.publish(p, "a/x", QoS::AtLeastOnce, "a"), ReasonCode::NoMatchingSubscribers);
        let away = open_as(&mut w, "c", "away");
        for client in [kept, passing, away] {
            assert_eq!(payloads(&w.drain(client)), ["b"]);
        }
        assert_eq!(w.unsubscribe(kept, "a/#"), Some(ReasonCode::NoSubscriptionExisted));
        expect_balance(&w);
    }
}

#[test]
fn a_token_that_says_less_takes_subscriptions_with_it() {
    let mut w = World::with(WorldSettings {
        shards: 2,
        acl: Some(Acl::without_file(&[])),
        ..WorldSettings::default()
    });
    let bearer = |filters: &[&str]| Principal {
        token: Some(Arc::new(Token {
            subscribe: Some(filters.iter().map(|filter| (*filter).to_owned()).collect()),
            publish: Some(vec![]),
            ..Token::default()
        })),
        ..Principal::of_user("c")
    };
    let properties = list(&[expiry(3600)]);
    let connect = Connect { properties: properties.as_properties(), ..connect(V5, "c", false) };
    let c = w.try_connect_as(&bearer(&["a/#", "b"]), &connect).expect("accepted");
    w.take(c);
    for (filter, code) in [("a/+", 1), ("b", 1), ("c", NOT_AUTHORISED), ("$SYS/#", NOT_AUTHORISED)] {
        assert_eq!(subscribed(&mut w, c, filter), code, "{filter}");
    }
    assert_eq!(w.publish(c, "a/x", QoS::AtLeastOnce, ""), ReasonCode::NotAuthorized);
    w.cut(c);
    let p = open_as(&mut w, "p", "p");
    for topic in ["a/x", "a/y", "b"] {
        w.publish(p, topic, QoS::AtLeastOnce, topic);
    }
    let c = w.try_connect_as(&bearer(&["a/y"]), &connect).expect("the same user");
    w.clients[c].received.remove(0);
    assert_eq!(payloads(&w.drain(c)), ["a/y"]);
    w.publish(p, "a/x", QoS::AtLeastOnce, "x");
    w.publish(p, "a/y", QoS::AtLeastOnce, "y");
    assert_eq!(payloads(&w.drain(c)), ["y"]);
    assert_eq!(w.unsubscribe(c, "b"), Some(ReasonCode::NoSubscriptionExisted));
    expect_balance(&w);
}

#[test]
fn clients_do_not_publish_to_the_servers_topics() {
    let all = "topic #\ntopic $SYS/#\ntopic $share/#\n";
    for acl_file in [None, Some(acl(all))] {
        let mut w = World::with(WorldSettings { shards: 2, acl: acl_file, ..WorldSettings::default() });
        let c = w.connect(V5, "c");
        w.subscribe(c, "#", QoS::AtLeastOnce);
        w.subscribe(c, "+/broker/uptime", QoS::AtLeastOnce);
        for topic in ["$SYS/broker/uptime", "$SYS", "$share/g/t", "$share"] {
            assert_eq!(w.publish(c, topic, QoS::AtLeastOnce, "x"), ReasonCode::NotAuthorized, "{topic}");
            let retained = Publish { retain: true, ..message(topic, QoS::ExactlyOnce, "x") };
            assert_eq!(w.publish_with(c, &retained), ReasonCode::NotAuthorized, "{topic}");
            let alias = list(&[Property::TopicAlias(1)]);
            let aliased =
                Publish { properties: alias.as_properties(), ..message(topic, QoS::AtLeastOnce, "x") };
            assert_eq!(w.publish_with(c, &aliased), ReasonCode::NotAuthorized, "{topic}");
            let again = Publish { properties: alias.as_properties(), ..message("", QoS::AtLeastOnce, "x") };
            assert_eq!(w.publish_with(c, &again), ReasonCode::NotAuthorized, "by its alias: {topic}");
            let connect = Connect { will: Some(will(topic, "x")), ..connect(V5, "d", true) };
            assert_eq!(w.try_connect(&connect).expect_err("its will").reason, ReasonCode::NotAuthorized);
        }
        // A wildcard in front reaches none of them.
        assert_eq!(w.publish(c, "$other/x", QoS::AtLeastOnce, "x"), if_any(&w));
        assert_eq!(w.drain(c), []);
        assert_eq!(w.shared.retained().count(), 0);
    }
}

/// What a publish to a topic of nobody's is answered with: without an ACL it may be published.
fn if_any(w: &World) -> ReasonCode {
    let free = w.shared.rules().acl.is_none();
    if free { ReasonCode::NoMatchingSubscribers } else { ReasonCode::NotAuthorized }
}

#[test]
fn the_statistics_are_for_those_whom_the_rules_name() {
    let uptime = "$SYS/broker/uptime";
    let told = |w: &mut World, principal: Principal, client_id: &str| {
        let c = w.try_connect_as(&principal, &connect(V5, client_id, true)).expect("accepted");
        w.take(c);
        let all = subscribed(w, c, "$SYS/#");
        w.advance(Duration::from_secs(11));
        let frames = w.drain(c);
        (all, frames.iter().any(|frame| frame.publish().topic == uptime))
    };
    let settings = |acl| WorldSettings {
        shards: 2,
        acl,
        sys_interval: Duration::from_secs(10),
        ..WorldSettings::default()
    };
    let local = Principal { local: true, ..Principal::ANONYMOUS };
    let mut w = World::with(settings(Some(Acl::without_file(&["root".to_owned()]))));
    assert_eq!(told(&mut w, Principal::of_user("root"), "r"), (1, true));
    assert_eq!(told(&mut w, Principal::of_user("ann"), "a"), (NOT_AUTHORISED, false));
    assert_eq!(told(&mut w, Principal::ANONYMOUS, "n"), (NOT_AUTHORISED, false));
    assert_eq!(told(&mut w, local.clone(), "l"), (1, true));
    let mut w = World::with(settings(Some(acl("user ann\ntopic read $SYS/#\n"))));
    assert_eq!(told(&mut w, Principal::of_user("root"), "r"), (NOT_AUTHORISED, false));
    assert_eq!(told(&mut w, Principal::of_user("ann"), "a"), (1, true));
    assert_eq!(told(&mut w, local, "l"), (NOT_AUTHORISED, false), "the file says who");
    let mut w = World::with(settings(None));
    assert_eq!(told(&mut w, Principal::ANONYMOUS, "n"), (1, true));
}

#[test]
fn the_rules_of_a_session_that_a_restart_found_are_those_of_its_user() {
    let subscription = || RestoredSubscription {
        filter: "#".into(),
        options: options(QoS::AtLeastOnce).to_bits(),
        identifier: 0,
        group: None,
        since: 0,
        replay: None,
    };
    let restored = |user: &str, queue: u64| RestoredSession {
        queue: QueueId(1 << 48 | queue),
        client_id: user.into(),
        user: Some(user.into()),
        expiry: 3600,
        detached: None,
        will: None,
        subscriptions: vec![subscription()],
        received: vec![],
        sent: vec![],
        waiting: Waiting::default(),
    };
    let sessions = vec![restored("c", 1), restored("p", 2)];
    let mut w = World::with(WorldSettings {
        shards: 2,
        acl: Some(acl(SECRET)),
        restored: Restored { sessions, ..Restored::default() },
        ..WorldSettings::default()
    });
    let other = open_as(&mut w, "p", "other");
    w.publish(other, "secret/a", QoS::AtLeastOnce, "secret");
    w.publish(other, "open/a", QoS::AtLeastOnce, "open");
    let (c, p) = (open_as(&mut w, "c", "c"), open_as(&mut w, "p", "p"));
    assert_eq!(payloads(&w.drain(c)), ["open"]);
    assert_eq!(payloads(&w.drain(p)), ["secret", "open"]);
    expect_balance(&w);
}

#[test]
fn an_empty_file_denies_everything_and_a_malformed_one_starts_nothing() {
    for text in ["", "# only a comment\n"] {
        let mut w = world(1, text);
        let c = open_as(&mut w, "c", "c");
        assert_eq!(subscribed(&mut w, c, "#"), NOT_AUTHORISED);
        assert_eq!(w.publish(c, "a", QoS::AtLeastOnce, "x"), ReasonCode::NotAuthorized);
    }
    let config = |folder: &Path| {
        let listener = "[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";
        format!("{listener}[auth]\nacl_file = \"{}\"\n", folder.join("acl").display())
    };
    let load = |text: Option<&str>| {
        let folder = tempfile::tempdir().expect("a folder");
        if let Some(text) = text {
            std::fs::write(folder.path().join("acl"), text).expect("written");
        }
        let file = folder.path().join("weirmq.toml");
        std::fs::write(&file, config(folder.path())).expect("written");
        Config::load(&[file], []).map_err(|error| error.to_string())
    };
    assert!(load(Some("topic read a\n")).is_ok());
    assert!(load(Some("")).is_ok());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("acl");
    std::fs::write(&path, "topic read a\n").expect("written");
    for (mode, is_open) in [(0o602, true), (0o666, true), (0o644, false), (0o600, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its own");
        let error = Acl::load(&path).err().map(|error| error.to_string());
        assert_eq!(error.is_some_and(|error| error.contains("everybody can write")), is_open, "{mode:o}");
    }
    // Cut off in the middle, misspelt, missing: none of them is half taken.
    for (text, place) in
        [(Some("topic read a\ntopic re ad"), "acl:2: "), (Some("user\n"), "acl:1: "), (None, "acl: ")]
    {
        let error = load(text).expect_err("not to be started with");
        assert!(error.contains("auth.acl_file") && error.contains(place), "{error}");
    }
}
