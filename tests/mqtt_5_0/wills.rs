//! The Will (3.1.2.5, 3.1.3.2): when it is published, as what, and when not.

use std::time::Duration;

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

/// A world and a client in it that hears every will.
fn heard(shards: u16) -> (World, usize) {
    let mut w = World::new(shards);
    let ear = w.connect(V5, "ear");
    w.subscribe(ear, "will/#", QoS::ExactlyOnce);
    (w, ear)
}

#[test]
fn mqtt_3_1_2_7_will_is_kept_with_the_session() {
    let (mut w, ear) = heard(1);
    let c = with_will(&mut w, "c", 100, 10, will("will/c", "gone"));
    w.cut(c);
    w.advance(Duration::from_secs(9));
    assert_eq!(w.take(ear), [], "the connection is gone, the will waits");
    w.advance(Duration::from_secs(2));
    assert_eq!(payloads(&w.drain(ear)), ["gone"]);
}

#[test]
fn mqtt_3_1_2_8_will_is_published_when_the_connection_closes() {
    for shards in [1, 3] {
        let (mut w, ear) = heard(shards);
        // However it closes, but for DISCONNECT with 0x00.
        let lost = with_will(&mut w, "lost", 0, 0, will("will/lost", "lost"));
        w.cut(lost);
        assert_eq!(payloads(&w.drain(ear)), ["lost"]);
        let wrong = with_will(&mut w, "wrong", 100, 0, will("will/wrong", "protocol error"));
        w.send_bytes(wrong, &[0x00]);
        assert_eq!(payloads(&w.drain(ear)), ["protocol error"]);
        let properties = list(&[expiry(100)]);
        let silent = Connect {
            keep_alive: 5,
            properties: properties.as_properties(),
            will: Some(will("will/silent", "keep alive")),
            ..connect(V5, "silent", true)
        };
        w.open(&silent);
        w.advance(Duration::from_secs(9));
        assert_eq!(payloads(&w.drain(ear)), ["keep alive"]);
        let _old = with_will(&mut w, "twice", 100, 0, will("will/twice", "taken over"));
        let _new = w.resume(V5, "twice");
        assert_eq!(payloads(&w.drain(ear)), ["taken over"]);
        for reason in [ReasonCode::DisconnectWithWill, ReasonCode::UnspecifiedError] {
            let c = with_will(&mut w, "c", 100, 0, will("will/c", "with will"));
            disconnect(&mut w, c, reason, &[]);
            assert_eq!(payloads(&w.drain(ear)), ["with will"], "{reason:?}");
        }
    }
}

#[test]
fn mqtt_3_1_2_8_will_is_published_after_its_delay_or_with_the_sessions_end() {
    let (mut w, ear) = heard(1);
    // (session expiry, will delay, due after)
    for (kept, delay, due) in [(100, 20, 20), (20, 100, 20), (20, 20, 20), (0, 100, 0), (u32::MAX, 20, 20)] {
        let c = with_will(&mut w, "c", kept, delay, will("will/c", "due"));
        w.cut(c);
        if due > 0 {
            w.advance(Duration::from_millis(due * 1000 - 100));
            assert_eq!(w.take(ear), [], "{kept} {delay}");
            w.advance(Duration::from_millis(1_100));
        }
        assert_eq!(payloads(&w.drain(ear)), ["due"], "{kept} {delay}");
    }
    // A new session takes the place of the one that had the will: that one has ended.
    let c = with_will(&mut w, "c", 100, 50, will("will/c", "replaced"));
    w.cut(c);
    w.connect(V5, "c");
    assert_eq!(payloads(&w.drain(ear)), ["replaced"]);
    // The same in a take-over.
    let _old = with_will(&mut w, "d", 100, 50, will("will/d", "taken over"));
    let _new = w.connect(V5, "d");
    assert_eq!(payloads(&w.drain(ear)), ["taken over"]);
    // A DISCONNECT that keeps the will and ends the session.
    let c = with_will(&mut w, "e", 100, 50, will("will/e", "ended"));
    disconnect(&mut w, c, ReasonCode::DisconnectWithWill, &[expiry(0)]);
    assert_eq!(payloads(&w.drain(ear)), ["ended"]);
}

#[test]
fn mqtt_3_1_2_10_will_is_removed_when_published_or_by_disconnect() {
    let (mut w, ear) = heard(1);
    let c = with_will(&mut w, "c", 100, 0, will("will/c", "once"));
    w.cut(c);
    assert_eq!(payloads(&w.drain(ear)), ["once"]);
    // Neither the session's end nor another loss publishes it again.
    let c = w.resume(V5, "c");
    w.cut(c);
    w.advance(Duration::from_secs(4000));
    assert_eq!(w.take(ear), []);
    // DISCONNECT with 0x00 takes it away, for as long as the session lasts and at its end.
    let c = with_will(&mut w, "c", 100, 10, will("will/c", "never"));
    disconnect(&mut w, c, ReasonCode::Success, &[]);
    w.advance(Duration::from_secs(200));
    assert_eq!(w.take(ear), []);
}

#[test]
fn mqtt_3_1_2_14_will_without_retain() {
    let (mut w, ear) = heard(1);
    w.unsubscribe(ear, "will/#");
    let as_published = SubscribeOptions { retain_as_published: true, ..options(QoS::AtMostOnce) };
    w.subscribe_with(ear, "will/#", as_published, 0);
    let c = with_will(&mut w, "c", 0, 0, will("will/c", "live"));
    w.cut(c);
    assert!(!only_publish(&mut w, ear).publish().retain);
    let late = w.connect(V5, "late");
    w.subscribe(late, "will/#", QoS::AtMostOnce);
    assert_eq!(w.take(late), []);
}

#[test]
fn mqtt_3_1_2_15_will_with_retain() {
    let (mut w, ear) = heard(1);
    w.unsubscribe(ear, "will/#");
    let as_published = SubscribeOptions { retain_as_published: true, ..options(QoS::AtMostOnce) };
    w.subscribe_with(ear, "will/#", as_published, 0);
    let c = with_will(&mut w, "c", 0, 0, LastWill { retain: true, ..will("will/c", "kept") });
    w.cut(c);
    assert!(only_publish(&mut w, ear).publish().retain);
    let late = w.connect(V5, "late");
    w.subscribe(late, "will/#", QoS::AtMostOnce);
    assert_eq!(payloads(&w.take(late)), ["kept"]);
}

#[test]
fn will_is_published_at_its_qos() {
    let (mut w, ear) = heard(3);
    for qos in EVERY_QOS {
        let c = with_will(&mut w, "c", 0, 0, LastWill { qos, ..will("will/c", "x") });
        w.cut(c);
        let got = w.drain(ear);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].publish().qos, qos);
    }
}

#[test]
fn mqtt_3_1_3_9_will_is_not_sent_to_a_client_that_came_back() {
    for shards in [1, 3] {
        let (mut w, ear) = heard(shards);
        let c = with_will(&mut w, "c", 100, 10, will("will/c", "never"));
        w.cut(c);
        w.advance(Duration::from_secs(9));
        let c = w.resume(V5, "c");
        w.advance(Duration::from_secs(100));
        assert_eq!(w.take(ear), []);
        // Nor when the connection that came back is lost: its own CONNECT had no will.
        w.cut(c);
        w.advance(Duration::from_secs(4000));
        assert_eq!(w.take(ear), []);
        // The same where the old connection was still there.
        let _old = with_will(&mut w, "d", 100, 10, will("will/d", "never"));
        let _new = w.resume(V5, "d");
        w.advance(Duration::from_secs(100));
        assert_eq!(w.take(ear), []);
    }
}

#[test]
fn mqtt_3_1_3_10_will_keeps_the_order_of_its_user_properties() {
    let (mut w, ear) = heard(1);
    let properties = list(&[
        Property::UserProperty("b", "1"),
        Property::ContentType("text"),
        Property::UserProperty("a", "2"),
        Property::WillDelayInterval(0),
        Property::UserProperty("b", "3"),
        Property::UserProperty("", ""),
    ]);
    let c = with_will(
        &mut w,
        "c",
        0,
        0,
        LastWill { properties: properties.as_properties(), ..will("will/c", "x") },
    );
    w.cut(c);
    let frame = only_publish(&mut w, ear);
    let expected = [("b", "1"), ("a", "2"), ("b", "3"), ("", "")];
    assert_eq!(user_properties(frame.publish().properties), expected);
}

#[test]
fn will_carries_its_properties_and_its_expiry_counts_from_its_publication() {
    let (mut w, ear) = heard(1);
    let properties = list(&[
        Property::PayloadFormatIndicator(1),
        Property::MessageExpiryInterval(30),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("answers"),
        Property::CorrelationData(b"\x00\xFF"),
    ]);
    let c = with_will(
        &mut w,
        "c",
        100,
        50,
        LastWill { properties: properties.as_properties(), ..will("will/c", "x") },
    );
    w.cut(c);
    w.advance(Duration::from_secs(51));
    let frame = only_publish(&mut w, ear);
    let mut got: Vec<Property<'_>> = frame.publish().properties.iter().collect();
    let mut expected: Vec<Property<'_>> = properties.as_properties().iter().collect();
    for list in [&mut got, &mut expected] {
        list.sort_by_key(|property| format!("{property:?}"));
    }
    assert_eq!(got, expected, "everything but the delay, the expiry unspent");
}
