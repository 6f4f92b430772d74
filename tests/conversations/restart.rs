//! A broker that starts with what outlived another: sessions, QoS 2 flows in both directions, wills, retained messages and
//! share groups go on where they were.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weirmq::broker::shard::Census;
use weirmq::message::{Message, MessageId, MessageParts, QueueId};
use weirmq::principal::Principal;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;
use weirmq::protocol::reason::ReasonCode;
use weirmq::store::PageEntry;
use weirmq::store::restored::*;
use weirmq::target::Identifiers;
use weirmq::will::Will;

use crate::common::dialogue::*;
use crate::common::world::*;

/// A number as the first shard gave them.
fn number(n: u64) -> u64 {
    1 << 48 | n
}

fn session(client_id: &str, queue: u64) -> RestoredSession {
    RestoredSession {
        queue: QueueId(number(queue)),
        client_id: client_id.into(),
        user: None,
        expiry: 3600,
        detached: None,
        will: None,
        subscriptions: vec![],
        received: vec![],
        sent: vec![],
        waiting: Waiting::default(),
    }
}

fn subscription(filter: &str, qos: QoS) -> RestoredSubscription {
    let options = options(qos).to_bits();
    RestoredSubscription {
        filter: filter.into(),
        options,
        identifier: 0,
        group: None,
        since: 0,
        replay: None,
    }
}

fn stored(n: u64, topic: &str, payload: &str, version: u64) -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        id: MessageId(number(n)),
        publisher: None,
        qos: QoS::ExactlyOnce,
        retain: version > 0,
        expires: None,
        version,
        topic,
        properties: &[],
        payload: payload.as_bytes(),
    }))
}

fn sent(packet_id: u16, message: Option<Arc<Message>>) -> RestoredSent {
    let entry = message.map(|message| PageEntry {
        message,
        qos: QoS::ExactlyOnce,
        retain: false,
        identifiers: Identifiers::default(),
    });
    RestoredSent { packet_id: id(packet_id), entry }
}

fn kept_will(delay: u32) -> Option<Will> {
    let mut kept = Will::new(&LastWill { qos: QoS::AtLeastOnce, ..will("wills", "gone") });
    kept.delay = delay;
    Some(kept)
}

fn start(shards: u16, restored: Restored) -> World {
    World::with(WorldSettings { shards, restored, ..WorldSettings::default() })
}

fn sessions(sessions: Vec<RestoredSession>) -> Restored {
    let numbers = vec![Numbers { prefix: 1, message: 1000, queue: 1000 }];
    Restored { sessions, numbers, ..Restored::default() }
}

fn resumed(w: &mut World, client_id: &str) -> usize {
    let (client, frame) = connack_with(w, client_id, false, &[expiry(3600)]);
    assert!(session_present(&frame));
    client
}

#[test]
fn a_session_resumes_with_its_subscriptions_wherever_it_lives_now() {
    for shards in 1..5 {
        let subscribed = |n: u64| RestoredSession {
            subscriptions: vec![subscription("a/+", QoS::AtLeastOnce), subscription("b", QoS::AtMostOnce)],
            ..session(&format!("client-{n}"), n)
        };
        let mut w = start(shards, sessions((1..=20).map(subscribed).collect()));
        let p = w.connect(V5, "publisher");
        assert_eq!(w.publish(p, "a/1", QoS::AtLeastOnce, "before"), ReasonCode::Success);
        w.publish(p, "b", QoS::AtMostOnce, "nobody there");
        for n in 1..=20 {
            let c = resumed(&mut w, &format!("client-{n}"));
            assert_eq!(payloads(&w.drain(c)), ["before"]);
        }
        assert!(w.stats.iter().map(|stats| stats.subscriptions.get()).sum::<u64>() == 40);
        expect_balance(&w);
    }
}

#[test]
fn a_session_is_still_its_owners_after_a_restart() {
    let owned = RestoredSession { user: Some("ann".into()), ..session("c", 1) };
    let mut w = start(2, sessions(vec![owned, session("open", 2)]));
    let properties = list(&[expiry(3600)]);
    let connect =
        |client_id| Connect { properties: properties.as_properties(), ..connect(V5, client_id, false) };
    let (ann, bob) = (Principal::of_user("ann"), Principal::of_user("bob"));
    for (client_id, stranger) in [("c", &bob), ("c", &Principal::ANONYMOUS), ("open", &bob)] {
        let refused = w.try_connect_as(stranger, &connect(client_id)).expect_err("a stranger");
        assert_eq!(refused.reason, ReasonCode::NotAuthorized);
    }
    for (client_id, owner) in [("c", &ann), ("open", &Principal::ANONYMOUS)] {
        let client = w.try_connect_as(owner, &connect(client_id)).expect("its owner");
        assert!(session_present(&w.clients[client].received.remove(0)));
    }
}

#[test]
fn a_message_that_was_received_before_is_not_published_again() {
    let subscribed =
        RestoredSession { subscriptions: vec![subscription("t", QoS::ExactlyOnce)], ..session("taker", 2) };
    let publisher = RestoredSession { received: vec![id(1), id(7)], ..session("publisher", 1) };
    let mut w = start(1, sessions(vec![publisher, subscribed]));
    let (p, t) = (resumed(&mut w, "publisher"), resumed(&mut w, "taker"));
    // Its PUBREC waits for nothing; the message was published by the process before.
    assert_eq!(w.publish(p, "t", QoS::ExactlyOnce, "again"), ReasonCode::Success);
    assert_eq!(w.drain(t), []);
    // Released, the id is free.
    w.publish(p, "t", QoS::ExactlyOnce, "new");
    w.send(p, &Packet::PubRel(ack_of(id(7))));
    assert_eq!(w.take_one(p).packet(), Packet::PubComp(ack_of(id(7))));
    assert_eq!(payloads(&w.drain(t)), ["new"]);
}

#[test]
fn deliveries_under_way_keep_their_packet_ids_and_only_pubrel_is_repeated_after_pubrec() {
    let under_way =
        vec![sent(4, Some(stored(1, "t", "one", 0))), sent(2, None), sent(5, Some(stored(2, "t", "two", 0)))];
    let subscriptions = vec![subscription("t", QoS::ExactlyOnce)];
    let mut w =
        start(1, sessions(vec![RestoredSession { sent: under_way, subscriptions, ..session("c", 1) }]));
    expect_balance(&w);
    let c = resumed(&mut w, "c");
    let frames = w.take(c);
    let told: Vec<_> = frames
        .iter()
        .map(|frame| match frame.packet() {
            Packet::Publish(publish) => (publish.packet_id.map(PacketId::get), publish.dup),
            Packet::PubRel(ack) => (Some(ack.packet_id.get()), false),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(Some(4), true), (Some(2), false), (Some(5), true)]);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::ExactlyOnce, "new");
    assert_eq!(w.take_one(c).publish().packet_id, Some(id(6)), "no id that is in use");
    for n in [4, 5, 6] {
        w.send(c, &Packet::PubRec(ack_of(id(n))));
    }
    for n in [4, 2, 5, 6] {
        w.send(c, &Packet::PubComp(ack_of(id(n))));
    }
    assert_eq!(w.shards[0].census().unacknowledged, 0);
    assert_eq!(w.closed_with(c), None);
    expect_balance(&w);
}

#[test]
fn a_will_gives_its_client_half_a_minute_to_come_back() {
    let with_will = |client_id: &str, queue, delay, detached| RestoredSession {
        will: kept_will(delay),
        detached,
        ..session(client_id, queue)
    };
    let long_gone = Instant::now().checked_sub(Duration::from_secs(100));
    let all = vec![
        with_will("at once", 1, 0, None),
        with_will("returns", 2, 0, None),
        with_will("later", 3, 60, None),
        with_will("overdue", 4, 90, long_gone),
    ];
    let mut w = start(2, sessions(all));
    let watcher = w.connect(V5, "watcher");
    w.subscribe(watcher, "wills", QoS::AtMostOnce);
    w.advance(Duration::from_secs(29));
    resumed(&mut w, "returns");
    assert_eq!(w.take(watcher), []);
    w.advance(Duration::from_secs(3));
    assert_eq!(payloads(&w.take(watcher)), ["gone"; 2]);
    w.advance(Duration::from_secs(26));
    assert_eq!(w.take(watcher), []);
    w.advance(Duration::from_secs(4));
    assert_eq!(payloads(&w.take(watcher)), ["gone"]);
    w.advance(Duration::from_secs(1000));
    assert_eq!(w.take(watcher), []);
}

#[test]
fn a_session_that_expired_meanwhile_is_over_and_its_will_is_published() {
    let detached = Instant::now().checked_sub(Duration::from_secs(4000));
    let subscriptions = vec![subscription("t", QoS::AtLeastOnce)];
    let over = RestoredSession { detached, will: kept_will(9999), subscriptions, ..session("over", 1) };
    let watching = RestoredSession {
        subscriptions: vec![subscription("wills", QoS::AtLeastOnce)],
        ..session("watcher", 2)
    };
    let mut w = start(2, sessions(vec![over, watching]));
    let (_, frame) = connack_with(&mut w, "over", false, &[]);
    assert!(!session_present(&frame));
    // Whoever was there to be told hears of it, on whichever shard.
    let watcher = resumed(&mut w, "watcher");
    assert_eq!(payloads(&w.drain(watcher)), ["gone"]);
    let census = w.shards.iter().map(|shard| shard.census()).fold(Census::default(), Census::and);
    assert_eq!((census.sessions, census.subscriptions), (2, 1));
    expect_balance(&w);
}

#[test]
fn a_session_is_over_without_anybody_coming() {
    let detached = Instant::now().checked_sub(Duration::from_secs(4000));
    let mut w = start(1, sessions(vec![RestoredSession { detached, ..session("over", 1) }]));
    w.advance(Duration::ZERO);
    assert_eq!(w.shards[0].census(), Census::default());
    assert_eq!(w.stats[0].expired.get(), 1);
}

#[test]
fn retained_messages_are_there_and_a_replay_goes_on_where_it_stood() {
    let topics = ["r/a", "r/b", "r/c"];
    let retained: Vec<_> = (1..).zip(topics).map(|(n, topic)| stored(n, topic, topic, n)).collect();
    let replay = |filter: &str, replay| RestoredSubscription {
        since: 3,
        replay,
        ..subscription(filter, QoS::AtLeastOnce)
    };
    let half = RestoredSession {
        subscriptions: vec![replay("r/#", Some(RestoredReplay::After("r/a".into())))],
        ..session("half", 1)
    };
    let all = RestoredSession {
        subscriptions: vec![replay("r/+", Some(RestoredReplay::Start))],
        ..session("all", 2)
    };
    let none = RestoredSession { subscriptions: vec![replay("r/+", None)], ..session("none", 3) };
    let restored = Restored { retained, retained_version: 3, ..sessions(vec![half, all, none]) };
    let mut w = start(1, restored);
    let clients = ["half", "all", "none"].map(|client_id| resumed(&mut w, client_id));
    assert_eq!(payloads(&w.drain(clients[0])), ["r/b", "r/c"]);
    assert_eq!(payloads(&w.drain(clients[1])), topics);
    assert_eq!(w.drain(clients[2]), []);
    // What is retained from now on is newer than what they have seen.
    let p = w.connect(V5, "p");
    w.publish_with(p, &Publish { retain: true, ..message("r/a", QoS::AtLeastOnce, "new") });
    for c in clients {
        assert_eq!(payloads(&w.drain(c)), ["new"]);
    }
    w.subscribe(p, "r/#", QoS::AtMostOnce);
    assert_eq!(payloads(&w.take(p)), ["new", "r/b", "r/c"]);
}

#[test]
fn a_share_group_goes_on_with_its_members() {
    for shards in 1..4 {
        let member = |n: u64| {
            let shared = subscription("$share/g/t", QoS::AtLeastOnce);
            let group = Some(QueueId(number(100)));
            RestoredSession {
                subscriptions: vec![RestoredSubscription { group, ..shared }],
                ..session(&format!("m{n}"), n)
            }
        };
        let groups =
            [100, 101].map(|n| RestoredGroup { queue: QueueId(number(n)), waiting: Waiting::default() });
        let restored = Restored { groups: groups.into(), ..sessions((1..=4).map(member).collect()) };
        let mut w = start(shards, restored);
        let p = w.connect(V5, "p");
        for n in 0..10 {
            w.publish(p, "t", QoS::AtLeastOnce, &n.to_string());
        }
        let census = || w.shards.iter().map(|shard| shard.census()).fold(Census::default(), Census::and);
        assert_eq!((census().groups, census().members, census().queued), (1, 4, 10));
        let (a, b) = (resumed(&mut w, "m1"), resumed(&mut w, "m2"));
        w.publish(p, "t", QoS::AtLeastOnce, "10");
        w.publish(p, "t", QoS::AtLeastOnce, "11");
        let (of_a, of_b) = (w.drain(a), w.drain(b));
        assert_eq!((of_a.len(), of_b.len()), (11, 1));
        // A new group is another one.
        w.subscribe(p, "$share/h/t", QoS::AtLeastOnce);
        w.publish(p, "t", QoS::AtLeastOnce, "12");
        assert_eq!(payloads(&w.drain(p)), ["12"]);
        expect_balance(&w);
    }
}

#[test]
fn at_a_stop_wills_stay_with_the_sessions_that_last() {
    let mut w = World::new(1);
    let watcher = w.connect(V5, "watcher");
    w.subscribe(watcher, "wills", QoS::AtMostOnce);
    with_will(&mut w, "lasts", 3600, 0, will("wills", "gone"));
    with_will(&mut w, "goes", 0, 0, will("wills", "gone"));
    let now = w.now;
    w.shards[0].shutdown(now);
    w.run();
    w.advance(Duration::from_secs(3));
    assert_eq!(w.stats[0].publish_received.get() + w.stats[0].deliveries.get(), 0);
    let disconnect = Disconnect { reason: ReasonCode::ServerShuttingDown, properties: Properties::EMPTY };
    let told = w.take_one(watcher);
    assert!(matches!(told.packet(), Packet::Disconnect(told) if told.reason == disconnect.reason));
}
