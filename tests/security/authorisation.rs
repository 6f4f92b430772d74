//! What a client may do once it is known who it is.

use weirmq::principal::Principal;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

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
