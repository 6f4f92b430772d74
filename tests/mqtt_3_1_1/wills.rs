//! The Will (3.1.2.5 to 3.1.2.7) and how DISCONNECT takes it away (3.14.4).

use std::time::Duration;

use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;
use crate::support::*;

/// A broker and a client that is subscribed to `w`.
fn watched() -> (World, usize) {
    let mut w = World::new(2);
    let watcher = w.connect(V4, "watcher");
    w.subscribe(watcher, "w", QoS::ExactlyOnce);
    (w, watcher)
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_however_the_connection_ends_but_by_disconnect() {
    for clean_session in [true, false] {
        let (mut w, watcher) = watched();
        let connect = Connect { keep_alive: 10, ..willing("c", clean_session, will("w", "gone")) };
        let gone = |w: &mut World| assert_eq!(payloads(&w.drain(watcher)), ["gone"]);
        // The network fails.
        let c = w.open(&connect);
        w.cut(c);
        gone(&mut w);
        // The client falls silent.
        w.try_connect(&connect).expect("accepted");
        w.advance(Duration::from_secs(16));
        gone(&mut w);
        // It breaks the protocol.
        let c = w.try_connect(&connect).expect("accepted");
        w.send_bytes(c, &packet(0x82, "0000"));
        gone(&mut w);
        // It connects again while it is connected.
        w.try_connect(&connect).expect("accepted");
        let c = w.try_connect(&connect).expect("accepted");
        gone(&mut w);
        // It says goodbye.
        disconnect(&mut w, c, ReasonCode::Success, &[]);
        assert_eq!(w.drain(watcher), []);
    }
}

#[test]
fn mqtt_3_1_2_10_the_will_is_gone_once_it_is_published_or_taken_back() {
    let (mut w, watcher) = watched();
    for goodbye in [false, true] {
        let c = w.try_connect(&willing("c", false, will("w", "once"))).expect("accepted");
        if goodbye {
            disconnect(&mut w, c, ReasonCode::Success, &[]);
        } else {
            w.cut(c);
        }
        let expected: &[&str] = if goodbye { &[] } else { &["once"] };
        assert_eq!(payloads(&w.drain(watcher)), expected);
        // The session is kept, the Will is no part of it.
        let (c, frame) = connack(&mut w, &connect(V4, "c", false));
        assert!(session_present(&frame));
        w.cut(c);
        assert_eq!(w.drain(watcher), []);
        w.advance(Duration::from_secs(60 * 24 * 3600));
        assert_eq!(w.drain(watcher), []);
    }
}

#[test]
fn mqtt_3_1_2_12_without_will_flag_nothing_is_published() {
    let (mut w, watcher) = watched();
    let everything = w.connect(V4, "everything");
    w.subscribe(everything, "#", QoS::ExactlyOnce);
    // Not even the Will that the connection before this one had.
    let c = w.open(&willing("c", false, will("w", "of the first")));
    disconnect(&mut w, c, ReasonCode::Success, &[]);
    for clean_session in [false, true] {
        let (c, _) = connack(&mut w, &connect(V4, "c", clean_session));
        w.cut(c);
    }
    assert_eq!(w.drain(watcher), []);
    assert_eq!(w.drain(everything), []);
}

#[test]
fn mqtt_3_1_2_16_without_will_retain_the_will_is_not_retained() {
    for qos in EVERY_QOS {
        let (mut w, watcher) = watched();
        let c = w.open(&willing("c", true, LastWill { qos, ..will("w", "gone") }));
        w.cut(c);
        let got = w.drain(watcher);
        assert_eq!(payloads(&got), ["gone"]);
        assert_eq!((got[0].publish().qos, got[0].publish().retain), (qos, false));
        let late = w.connect(V4, "late");
        w.subscribe(late, "w", QoS::ExactlyOnce);
        assert_eq!(w.drain(late), []);
    }
}

#[test]
fn mqtt_3_1_2_17_with_will_retain_the_will_is_retained() {
    for qos in EVERY_QOS {
        let (mut w, watcher) = watched();
        let c = w.open(&willing("c", true, LastWill { qos, retain: true, ..will("w", "gone") }));
        w.cut(c);
        let got = w.drain(watcher);
        assert_eq!(payloads(&got), ["gone"]);
        assert_eq!((got[0].publish().qos, got[0].publish().retain), (qos, false));
        let late = w.connect(V4, "late");
        w.subscribe(late, "w", QoS::ExactlyOnce);
        let got = w.drain(late);
        assert_eq!(payloads(&got), ["gone"]);
        assert_eq!((got[0].publish().qos, got[0].publish().retain), (qos, true));
    }
}

#[test]
fn mqtt_3_14_1_1_disconnect_with_reserved_bits_is_no_goodbye() {
    for flags in 1..16 {
        let (mut w, watcher) = watched();
        let c = w.open(&willing("c", true, will("w", "gone")));
        w.send_bytes(c, &[0xE0 | flags, 0x00]);
        assert_eq!(expect_cut(&mut w, c).reason, ReasonCode::MalformedPacket);
        assert_eq!(payloads(&w.drain(watcher)), ["gone"], "{flags:04b}");
    }
}

#[test]
fn mqtt_3_14_4_3_disconnect_throws_the_will_away() {
    for clean_session in [true, false] {
        let (mut w, watcher) = watched();
        let c = w.open(&willing("c", clean_session, LastWill { retain: true, ..will("w", "gone") }));
        // The socket closes right behind it, as it should.
        w.put_bytes(c, &[0xE0, 0x00]);
        w.cut(c);
        w.advance(Duration::from_secs(60 * 24 * 3600));
        assert_eq!(w.drain(watcher), []);
        let late = w.connect(V4, "late");
        w.subscribe(late, "w", QoS::ExactlyOnce);
        assert_eq!(w.drain(late), []);
    }
}
