//! A session belongs to its principal: for anybody else its client identifier is neither to be resumed, nor to be
//! cleared, nor to be taken over, and whoever owns it notices nothing.

use weirmq::principal::Principal;
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
