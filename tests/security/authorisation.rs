//! What a client may do once it is known who it is.

use weirmq::principal::Principal;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
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
