//! What may be read, asked of what comes back from the disk.

use std::sync::Arc;

use weirmq::acl::Acl;
use weirmq::principal::Principal;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::world::*;
use crate::paged::*;

fn acl(text: &str) -> Option<Acl> {
    Some(Acl::from_bytes(text.as_bytes()).expect("a file"))
}

const ALL: &str = "topic #\n";
const LESS: &str = "topic #\ntopic deny secret/#\n";

/// A broker, and a publisher, whose client has gone with this subscription.
fn with_one_away(shards: u16, filter: &str) -> (Paged, usize) {
    let settings = WorldSettings { shards, acl: acl(ALL), ..WorldSettings::default() };
    let mut s = Paged::with(settings);
    s.away("c", filter);
    let p = s.w.connect(V5, "p");
    (s, p)
}

#[test]
fn pages_bring_nothing_that_may_not_be_read_any_more() {
    for shards in [1, 2] {
        let (mut s, p) = with_one_away(shards, "#");
        for round in 0..500 {
            for topic in ["secret/a", "open/a"] {
                let qos = EVERY_QOS[1 + round % 2];
                s.w.publish(p, topic, qos, topic);
            }
        }
        assert_eq!(s.census().in_memory, 0, "all of it is on disk");
        s.w.set_acl(acl(LESS));
        let c = s.w.resume(V5, "c");
        assert_eq!(payloads(&s.w.drain(c)), ["open/a"; 500]);
        assert_eq!(dropped(&s.w, DropReason::Revoked), 500);
        s.expect_nothing_left();
    }
}

#[test]
fn a_share_groups_pages_bring_nothing_that_nobody_may_read_any_more() {
    for shards in [1, 2] {
        let (mut s, p) = with_one_away(shards, "$share/g/#");
        for _ in 0..300 {
            for topic in ["secret/a", "open/a"] {
                s.w.publish(p, topic, QoS::AtLeastOnce, topic);
            }
        }
        s.w.set_acl(acl(LESS));
        let c = s.w.resume(V5, "c");
        assert_eq!(payloads(&s.w.drain(c)), ["open/a"; 300]);
        assert_eq!(dropped(&s.w, DropReason::Revoked), 300);
        s.expect_nothing_left();
    }
}

#[test]
fn what_is_not_readable_is_not_even_written() {
    let mut s = Paged::with(WorldSettings {
        shards: 2,
        acl: acl("topic write #\ntopic read open/#\n"),
        ..WorldSettings::default()
    });
    s.away("c", "#");
    s.away("d", "$share/g/#");
    let p = s.w.connect(V5, "p");
    for qos in EVERY_QOS {
        s.w.publish(p, "secret/a", qos, "x");
    }
    assert_eq!((s.store.references(), s.census().queued), (0, 0));
    s.w.publish(p, "open/a", QoS::AtLeastOnce, "x");
    assert_eq!((s.store.references(), s.census().queued), (2, 2));
}

#[test]
fn a_file_that_comes_later_guards_what_was_there_before() {
    for shards in [1, 2] {
        let mut s = Paged::with(WorldSettings { shards, ..WorldSettings::default() });
        s.away("c", "#");
        s.away("d", "$share/g/#");
        let p = s.w.connect(V5, "p");
        s.w.set_acl(acl(LESS));
        s.w.publish(p, "open/a", QoS::AtLeastOnce, "x");
        s.w.publish(p, "secret/a", QoS::AtLeastOnce, "x");
        assert_eq!(s.store.references(), 2, "the new rules hold for routes at once");
        s.w.set_acl(None);
        s.w.publish(p, "secret/a", QoS::AtLeastOnce, "x");
        assert_eq!(s.store.references(), 4);
        expect_balance(&s.w);
    }
}

#[test]
fn other_rules_hold_at_once_and_what_is_to_be_done_about_them_is_done_in_slices() {
    const ROOT: &str = "user root\ntopic #\n";
    const SESSIONS: usize = 2000;
    for (before, shards) in [(Some(ALL), 1), (None, 1), (Some(ALL), 2)] {
        let with_root = |text: &str| acl(&format!("{text}{ROOT}"));
        let before = before.and_then(with_root);
        let mut w = World::with(WorldSettings { shards, acl: before, ..WorldSettings::default() });
        let clients: Vec<usize> = (0..SESSIONS).map(|n| w.connect(V5, &format!("c{n}"))).collect();
        for (n, client) in clients.iter().enumerate() {
            // The last of them, whose turn comes late, of every kind.
            let filter = ["secret/#", "$share/g/secret/#", "open/#"][n % 3];
            w.subscribe(*client, filter, QoS::AtLeastOnce);
        }
        let root = Principal::of_user("root");
        let root = w.try_connect_as(&root, &connect(V5, "root", true)).expect("accepted");
        w.take(root);
        let rules = w.shared.set_rules(with_root(LESS).map(Arc::new));
        w.shards.iter_mut().for_each(|shard| shard.set_rules(rules.clone()));
        let mut turns = 0;
        while w.shards.iter().any(|shard| shard.is_reviewing()) {
            let payload = b"x";
            w.put(root, &Packet::Publish(Publish { payload, ..message("secret/a", QoS::AtMostOnce, "") }));
            w.turn();
            turns += 1;
        }
        assert!(turns >= 2 * SESSIONS / usize::from(shards) / 256, "{turns} turns");
        w.run();
        for client in &clients {
            assert!(w.drain(*client).is_empty(), "nobody gets what nobody may have");
        }
        let told = |w: &mut World, topic: &str| w.publish(root, topic, QoS::AtLeastOnce, "x");
        assert_eq!(
            told(&mut w, "secret/a"),
            ReasonCode::NoMatchingSubscribers,
            "those subscriptions are over"
        );
        assert_eq!(told(&mut w, "open/a"), ReasonCode::Success);
        for (n, client) in clients.iter().enumerate() {
            assert_eq!(w.drain(*client).len(), usize::from(n % 3 == 2));
        }
        expect_balance(&w);
    }
}
