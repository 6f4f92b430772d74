//! A session belongs to its principal: for anybody else its client identifier is neither to be resumed, nor to be
//! cleared, nor to be taken over, and whoever owns it notices nothing.

use std::sync::Arc;

use weirmq::acl::Acl;
use weirmq::principal::{Principal, Token};
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

/// Connects with a session that outlives the connection; Session Present, or why not.
fn come(w: &mut World, user: &Principal, version: Version, clean: bool) -> Result<(usize, bool), ReasonCode> {
    let properties = if version == V5 { list(&[expiry(3600)]) } else { list(&[]) };
    let connect = Connect { properties: properties.as_properties(), ..connect(version, "c", clean) };
    let client = w.try_connect_as(user, &connect).map_err(|error| error.reason)?;
    let present = session_present(&w.clients[client].received.remove(0));
    Ok((client, present))
}

fn strangers() -> [Principal; 3] {
    [Principal::ANONYMOUS, Principal::of_user("bob"), Principal::of_user("")]
}

#[test]
fn a_stranger_gets_no_session_and_the_owner_notices_nothing() {
    let ann = Principal::of_user("ann");
    for version in [Version::V3, Version::V4, V5] {
        let mut w = World::new(2);
        let p = w.connect(V5, "p");
        let (c, _) = come(&mut w, &ann, version, false).expect("the first");
        w.subscribe(c, "t", QoS::AtLeastOnce);
        for stranger in strangers() {
            for clean in [false, true] {
                for theirs in [Version::V3, Version::V4, V5] {
                    let refused = come(&mut w, &stranger, theirs, clean).map(drop);
                    assert_eq!(refused, Err(ReasonCode::NotAuthorized), "{stranger:?} {theirs:?} {clean}");
                }
            }
        }
        assert_eq!(w.clients[c].closed, None);
        w.publish(p, "t", QoS::AtLeastOnce, "still there");
        assert_eq!(payloads(&w.drain(c)), ["still there"]);

        // The same while its owner is away, and with a message that waits.
        w.cut(c);
        w.publish(p, "t", QoS::AtLeastOnce, "waits");
        for stranger in strangers() {
            for clean in [false, true] {
                assert!(come(&mut w, &stranger, version, clean).is_err());
            }
        }
        let (c, present) = come(&mut w, &ann, version, false).expect("its own");
        // 3.1 has no Session Present.
        assert_eq!(present, version > Version::V3);
        assert_eq!(payloads(&w.drain(c)), ["waits"]);
        expect_balance(&w);
    }
}

#[test]
fn its_owner_takes_it_over_by_whatever_connection() {
    let mut w = World::new(1);
    let (first, _) = come(&mut w, &Principal::of_user("ann"), V5, false).expect("the first");
    let (_, present) = come(&mut w, &Principal::of_user("ann"), Version::V4, false).expect("its own");
    assert!(present);
    assert_eq!(w.closed_with(first), Some(ReasonCode::SessionTakenOver));
    // Among anonymous clients the client identifier is all there is.
    let mut w = World::new(1);
    let (first, _) = come(&mut w, &Principal::ANONYMOUS, V5, false).expect("the first");
    come(&mut w, &Principal::ANONYMOUS, V5, false).expect("as good as the first");
    assert_eq!(w.closed_with(first), Some(ReasonCode::SessionTakenOver));
    assert!(come(&mut w, &Principal::of_user("ann"), V5, true).is_err());
}

#[test]
fn a_session_that_is_over_shuts_nobody_out() {
    let mut w = World::new(1);
    let (c, _) = come(&mut w, &Principal::of_user("ann"), V5, false).expect("the first");
    w.cut(c);
    // Between its end and the timer that would have noticed.
    w.advance(std::time::Duration::from_millis(3_600_200));
    let (_, present) = come(&mut w, &Principal::of_user("bob"), V5, false).expect("nobody's by now");
    assert!(!present);
}

/// The same user by a token with these claims.
fn by_token(publish: Option<&str>, subscribe: Option<&str>) -> Principal {
    let filters = |filter: Option<&str>| filter.map(|filter| vec![filter.to_owned()]);
    let token = Token { expires: None, publish: filters(publish), subscribe: filters(subscribe) };
    Principal { token: Some(Arc::new(token)), ..Principal::of_user("ann") }
}

/// A broker whose clients may do what their tokens say, a publisher, and a subscriber to everything.
fn by_tokens(shards: u16) -> (World, usize, usize) {
    let acl = Some(Acl::without_file(&[]));
    let mut w = World::with(WorldSettings { shards, acl, ..WorldSettings::default() });
    let (p, all) = (w.connect(V5, "p"), w.connect(V5, "all"));
    w.subscribe(all, "#", QoS::AtMostOnce);
    (w, p, all)
}

#[test]
fn what_an_older_token_of_the_session_granted_is_not_granted_by_a_newer_one() {
    for shards in [1, 2] {
        for takes_over in [false, true] {
            let (mut w, _, all) = by_tokens(shards);
            let (c, _) = come(&mut w, &by_token(Some("a/#"), None), V5, false).expect("the first");
            assert_eq!(w.publish(c, "a/x", QoS::AtLeastOnce, "by the first"), ReasonCode::Success);
            if !takes_over {
                w.cut(c);
            }
            let (c, present) = come(&mut w, &by_token(Some("b/#"), None), V5, false).expect("its own");
            assert!(present);
            assert_eq!(w.publish(c, "a/x", QoS::AtLeastOnce, "by the second"), ReasonCode::NotAuthorized);
            assert_eq!(w.publish(c, "b/x", QoS::AtLeastOnce, "may be"), ReasonCode::Success);
            assert_eq!(payloads(&w.drain(all)), ["by the first", "may be"]);
        }
    }
}

#[test]
fn what_an_older_token_of_the_session_kept_from_it_a_newer_one_may_bring() {
    for shards in [1, 2] {
        for version in [Version::V4, V5] {
            let (mut w, p, _) = by_tokens(shards);
            let (c, _) = come(&mut w, &by_token(None, Some("a/#")), version, false).expect("the first");
            w.subscribe(c, "#", QoS::AtLeastOnce);
            w.subscribe(c, "$share/g/+/x", QoS::AtLeastOnce);
            w.publish(p, "b/x", QoS::AtLeastOnce, "not by the first");
            assert!(w.drain(c).is_empty());
            w.cut(c);
            let (c, _) = come(&mut w, &by_token(None, None), version, false).expect("its own");
            w.publish(p, "b/x", QoS::AtLeastOnce, "by the second");
            assert_eq!(payloads(&w.drain(c)), ["by the second"; 2]);
            // And back again.
            let (c, _) = come(&mut w, &by_token(None, Some("a/#")), version, false).expect("its own");
            w.publish(p, "b/x", QoS::AtLeastOnce, "not by the third");
            w.publish(p, "a/x", QoS::AtLeastOnce, "by the third");
            assert_eq!(payloads(&w.drain(c)), ["by the third"; 2]);
        }
    }
}
