//! The QoS flows (4.3), both ways, and delivery retry (4.4).

use std::collections::BTreeSet;
use std::time::Duration;

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, Property};
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

/// A world with a persistent taker of `t` at this QoS, and a publisher.
fn taker(qos: QoS) -> (World, usize, usize) {
    let mut w = World::new(1);
    let (c, p) = (w.resume(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "t", qos);
    (w, c, p)
}

/// The packet identifier of the one PUBLISH that a client has received.
fn only_id(w: &mut World, client: usize) -> PacketId {
    only_publish(w, client).publish().packet_id.expect("QoS 1 or 2")
}

fn publish_as(packet_id: u16, qos: QoS, payload: &str) -> Packet<'_> {
    Packet::Publish(Publish { packet_id: Some(id(packet_id)), ..message("t", qos, payload) })
}

fn refusal(packet_id: PacketId, reason: ReasonCode) -> Ack<'static> {
    Ack { packet_id, reason, properties: Properties::EMPTY }
}

#[test]
fn mqtt_4_3_1_1_qos_0_has_dup_0() {
    let (mut w, c, p) = taker(QoS::AtMostOnce);
    for dup in [false, true] {
        w.publish_with(p, &Publish { dup, ..message("t", QoS::ExactlyOnce, "x") });
        let frame = only_publish(&mut w, c);
        assert_eq!((frame.publish().qos, frame.publish().dup), (QoS::AtMostOnce, false));
    }
    // Nor is it ever sent again.
    w.cut(c);
    let c = w.resume(V5, "c");
    assert_eq!(w.take(c), []);
}

/// Whether no packet identifier is given to a second delivery while the first that has it is unfinished:
/// one is held through more deliveries than there are identifiers.
fn identifiers_are_unused_ones(qos: QoS) {
    let (mut w, c, p) = taker(qos);
    w.publish(p, "t", qos, "held");
    let held = only_id(&mut w, c);
    let mut given = BTreeSet::new();
    for _ in 0..(65_535 / 30 + 10) {
        for _ in 0..30 {
            w.put(p, &publish_as(1, qos, "x"));
            if qos == QoS::ExactlyOnce {
                w.put(p, &Packet::PubRel(ack_of(id(1))));
            }
        }
        w.run();
        w.take(p);
        for frame in w.drain(c) {
            let packet_id = frame.publish().packet_id.expect("QoS 1 or 2");
            assert_ne!(packet_id, held);
            given.insert(packet_id);
        }
    }
    assert_eq!(given.len(), 65_534, "every other one was used");
}

#[test]
fn mqtt_4_3_2_1_and_2_2_1_4_qos_1_takes_an_unused_identifier() {
    identifiers_are_unused_ones(QoS::AtLeastOnce);
}

#[test]
fn mqtt_4_3_3_1_and_2_2_1_4_qos_2_takes_an_unused_identifier() {
    identifiers_are_unused_ones(QoS::ExactlyOnce);
}

/// The first PUBLISH of a delivery.
fn first_publish(qos: QoS) {
    let (mut w, c, p) = taker(qos);
    w.publish_with(p, &Publish { dup: true, ..message("t", qos, "x") });
    let frame = only_publish(&mut w, c);
    let publish = frame.publish();
    assert!(publish.packet_id.is_some() && publish.qos == qos && !publish.dup);
}

#[test]
fn mqtt_4_3_2_2_qos_1_is_first_sent_with_dup_0() {
    first_publish(QoS::AtLeastOnce);
}

#[test]
fn mqtt_4_3_3_2_qos_2_is_first_sent_with_dup_0() {
    first_publish(QoS::ExactlyOnce);
}

#[test]
fn mqtt_4_3_2_3_qos_1_is_unacknowledged_until_puback() {
    let (mut w, c, p) = taker(QoS::AtLeastOnce);
    w.publish(p, "t", QoS::AtLeastOnce, "x");
    let given = only_id(&mut w, c);
    // A PUBACK for another identifier ends nothing.
    w.send(c, &Packet::PubAck(ack_of(id(given.get() + 1))));
    let mut c = c;
    for _ in 0..3 {
        w.cut(c);
        c = w.resume(V5, "c");
        assert_eq!(only_id(&mut w, c), given);
    }
    w.send(c, &Packet::PubAck(ack_of(given)));
    w.cut(c);
    let c = w.resume(V5, "c");
    assert_eq!(w.take(c), []);
}

#[test]
fn mqtt_4_3_2_4_qos_1_is_answered_with_puback() {
    let (mut w, c, p) = taker(QoS::AtLeastOnce);
    w.cut(c);
    w.send(p, &publish_as(7, QoS::AtLeastOnce, "owned"));
    assert_eq!(w.take_one(p).packet(), Packet::PubAck(ack_of(id(7))));
    // Ownership: it is there for whom it is, whatever becomes of its publisher.
    w.cut(p);
    let c = w.resume(V5, "c");
    assert_eq!(payloads(&w.drain(c)), ["owned"]);
}

#[test]
fn mqtt_4_3_2_5_after_puback_the_same_identifier_is_a_new_message() {
    let (mut w, c, p) = taker(QoS::AtLeastOnce);
    for dup in [false, true, true] {
        let publish = Publish { dup, packet_id: Some(id(7)), ..message("t", QoS::AtLeastOnce, "x") };
        w.send(p, &Packet::Publish(publish));
        assert_eq!(w.take_one(p).packet(), Packet::PubAck(ack_of(id(7))));
    }
    assert_eq!(w.drain(c).len(), 3);
}

#[test]
fn mqtt_4_3_3_3_qos_2_is_unacknowledged_until_pubrec() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    w.publish(p, "t", QoS::ExactlyOnce, "x");
    let given = only_id(&mut w, c);
    let mut c = c;
    for _ in 0..3 {
        w.cut(c);
        c = w.resume(V5, "c");
        assert_eq!(only_id(&mut w, c), given);
    }
    w.send(c, &Packet::PubRec(ack_of(given)));
    assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(given)));
    w.cut(c);
    let c = w.resume(V5, "c");
    assert!(!w.take(c).iter().any(|frame| matches!(frame.packet(), Packet::Publish(_))));
}

#[test]
fn mqtt_4_3_3_4_pubrec_is_answered_with_pubrel() {
    for reason in [ReasonCode::Success, ReasonCode::NoMatchingSubscribers] {
        let (mut w, c, p) = taker(QoS::ExactlyOnce);
        w.publish(p, "t", QoS::ExactlyOnce, "x");
        let given = only_id(&mut w, c);
        w.send(c, &Packet::PubRec(refusal(given, reason)));
        assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(given)));
    }
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    w.publish(p, "t", QoS::ExactlyOnce, "x");
    let given = only_id(&mut w, c);
    w.send(c, &Packet::PubRec(refusal(given, ReasonCode::UnspecifiedError)));
    assert_eq!(w.take(c), [], "none where it was refused");
}

#[test]
fn mqtt_4_3_3_5_pubrel_is_unacknowledged_until_pubcomp() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    w.publish(p, "t", QoS::ExactlyOnce, "x");
    let given = only_id(&mut w, c);
    w.send(c, &Packet::PubRec(ack_of(given)));
    w.take(c);
    let mut c = c;
    for _ in 0..3 {
        w.cut(c);
        c = w.resume(V5, "c");
        assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(given)));
    }
    w.send(c, &Packet::PubComp(ack_of(given)));
    w.cut(c);
    let c = w.resume(V5, "c");
    assert_eq!(w.take(c), []);
}

#[test]
fn mqtt_4_3_3_6_publish_is_not_sent_again_after_pubrel() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    w.publish(p, "t", QoS::ExactlyOnce, "x");
    let given = only_id(&mut w, c);
    w.send(c, &Packet::PubRec(ack_of(given)));
    w.take(c);
    // A second PUBREC gets a second PUBREL.
    w.send(c, &Packet::PubRec(ack_of(given)));
    assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(given)));
    w.cut(c);
    let c = w.resume(V5, "c");
    assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(given)));
}

/// Publishes to `t` with a Message Expiry Interval of ten seconds.
fn expiring(qos: QoS, properties: Properties<'_>) -> Publish<'_> {
    Publish { properties, ..message("t", qos, "x") }
}

#[test]
fn mqtt_4_3_3_7_what_was_sent_does_not_expire() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    let properties = list(&[Property::MessageExpiryInterval(10)]);
    w.publish_with(p, &expiring(QoS::ExactlyOnce, properties.as_properties()));
    let given = only_id(&mut w, c);
    w.cut(c);
    w.advance(Duration::from_secs(60));
    let c = w.resume(V5, "c");
    assert_eq!(only_id(&mut w, c), given, "it is completed all the same");
    w.send(c, &Packet::PubRec(ack_of(given)));
    assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(given)));
}

#[test]
fn mqtt_4_3_3_8_qos_2_is_answered_with_pubrec() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    w.cut(c);
    w.send(p, &publish_as(7, QoS::ExactlyOnce, "owned"));
    assert_eq!(w.take_one(p).packet(), Packet::PubRec(ack_of(id(7))));
    w.cut(p);
    let c = w.resume(V5, "c");
    assert_eq!(payloads(&w.drain(c)), ["owned"]);
}

#[test]
fn mqtt_4_3_3_9_after_a_refusal_the_same_identifier_is_a_new_message() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    let refused = Publish { packet_id: Some(id(7)), ..message("$SYS/x", QoS::ExactlyOnce, "") };
    w.send(p, &Packet::Publish(refused));
    match w.take_one(p).packet() {
        Packet::PubRec(ack) => assert_eq!(ack.reason, ReasonCode::NotAuthorized),
        other => panic!("{other:?}"),
    };
    w.send(p, &publish_as(7, QoS::ExactlyOnce, "new"));
    assert_eq!(w.take_one(p).packet(), Packet::PubRec(ack_of(id(7))));
    assert_eq!(payloads(&w.drain(c)), ["new"]);
}

#[test]
fn mqtt_4_3_3_10_a_repeat_is_acknowledged_and_not_delivered_again() {
    let (mut w, c, _) = taker(QoS::ExactlyOnce);
    let mut p = w.resume(V5, "publisher");
    for round in 0..3 {
        for _ in 0..3 {
            w.send(p, &publish_as(7, QoS::ExactlyOnce, "once"));
            assert_eq!(w.take_one(p).packet(), Packet::PubRec(ack_of(id(7))));
        }
        // Its session remembers it for longer than the connection.
        if round < 2 {
            w.cut(p);
            p = w.resume(V5, "publisher");
        }
    }
    assert_eq!(payloads(&w.drain(c)), ["once"]);
}

#[test]
fn mqtt_4_3_3_11_pubrel_is_answered_with_pubcomp() {
    let (mut w, _, p) = taker(QoS::ExactlyOnce);
    w.send(p, &publish_as(7, QoS::ExactlyOnce, "x"));
    w.take(p);
    w.send(p, &Packet::PubRel(ack_of(id(7))));
    assert_eq!(w.take_one(p).packet(), Packet::PubComp(ack_of(id(7))));
}

#[test]
fn mqtt_4_3_3_12_after_pubcomp_the_same_identifier_is_a_new_message() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    for payload in ["first", "second"] {
        w.send(p, &publish_as(7, QoS::ExactlyOnce, payload));
        w.send(p, &Packet::PubRel(ack_of(id(7))));
        assert_eq!(w.take(p).len(), 2);
    }
    assert_eq!(payloads(&w.drain(c)), ["first", "second"]);
}

#[test]
fn mqtt_4_3_3_13_the_exchange_goes_on_though_the_message_expired() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    w.cut(c);
    let properties = list(&[Property::MessageExpiryInterval(10)]);
    let publish =
        Publish { packet_id: Some(id(7)), ..expiring(QoS::ExactlyOnce, properties.as_properties()) };
    w.send(p, &Packet::Publish(publish.clone()));
    w.take(p);
    w.advance(Duration::from_secs(60));
    let c = w.resume(V5, "c");
    assert_eq!(w.drain(c), [], "it expired where it waited");
    w.send(p, &Packet::Publish(Publish { dup: true, ..publish }));
    assert_eq!(w.take_one(p).packet(), Packet::PubRec(ack_of(id(7))));
    w.send(p, &Packet::PubRel(ack_of(id(7))));
    assert_eq!(w.take_one(p).packet(), Packet::PubComp(ack_of(id(7))));
    assert_eq!(w.drain(c), []);
}

#[test]
fn mqtt_4_4_0_1_everything_unfinished_is_sent_again_and_at_no_other_time() {
    let mut w = World::new(3);
    let (c, p) = (w.resume(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "t", QoS::ExactlyOnce);
    for (qos, payload) in [
        (QoS::ExactlyOnce, "to be released"),
        (QoS::AtLeastOnce, "one"),
        (QoS::ExactlyOnce, "two"),
        (QoS::AtMostOnce, "zero"),
    ] {
        w.publish(p, "t", qos, payload);
    }
    let sent = w.take(c);
    let ids: Vec<_> = sent.iter().filter_map(|frame| frame.publish().packet_id).collect();
    w.send(c, &Packet::PubRec(ack_of(ids[0])));
    assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(ids[0])));
    w.advance(Duration::from_secs(10_000));
    assert_eq!(w.take(c), [], "time alone repeats nothing");
    w.cut(c);
    let c = w.resume(V5, "c");
    let again = w.take(c);
    assert_eq!(again.len(), 3, "{again:?}");
    assert_eq!(again[0].packet(), Packet::PubRel(ack_of(ids[0])));
    for (frame, packet_id) in again[1..].iter().zip(&ids[1..]) {
        assert_eq!(frame.publish().packet_id, Some(*packet_id), "the identifier it had");
        assert!(frame.publish().dup);
    }
    assert_eq!(payloads(&again[1..]), ["one", "two"]);
}

#[test]
fn mqtt_4_4_0_2_a_refusal_is_an_acknowledgement() {
    let (mut w, c, p) = taker(QoS::ExactlyOnce);
    w.publish(p, "t", QoS::AtLeastOnce, "one");
    w.publish(p, "t", QoS::ExactlyOnce, "two");
    let ids: Vec<_> = w.take(c).iter().filter_map(|frame| frame.publish().packet_id).collect();
    w.send(c, &Packet::PubAck(refusal(ids[0], ReasonCode::QuotaExceeded)));
    w.send(c, &Packet::PubRec(refusal(ids[1], ReasonCode::NotAuthorized)));
    assert_eq!(w.take(c), []);
    w.cut(c);
    let c = w.resume(V5, "c");
    assert_eq!(w.take(c), []);
    assert_eq!(w.shards[0].census().unacknowledged, 0);
}

#[test]
fn acknowledgements_of_the_wrong_kind() {
    for (qos, wrong) in [
        (QoS::AtLeastOnce, Packet::PubRec(ack_of(id(1)))),
        (QoS::ExactlyOnce, Packet::PubAck(ack_of(id(1)))),
        (QoS::ExactlyOnce, Packet::PubComp(ack_of(id(1)))),
    ] {
        let (mut w, c, p) = taker(qos);
        w.publish(p, "t", qos, "x");
        assert_eq!(only_id(&mut w, c), id(1));
        w.send(c, &wrong);
        expect_closed(&mut w, c, ReasonCode::ProtocolError);
    }
}

#[test]
fn acknowledgements_of_what_was_never_sent() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send(c, &Packet::PubAck(ack_of(id(3))));
    w.send(c, &Packet::PubComp(ack_of(id(3))));
    assert_eq!(w.take(c), []);
    w.send(c, &Packet::PubRec(refusal(id(3), ReasonCode::UnspecifiedError)));
    assert_eq!(w.take(c), []);
    w.send(c, &Packet::PubRec(ack_of(id(3))));
    match w.take_one(c).packet() {
        Packet::PubRel(ack) => assert_eq!(ack.reason, ReasonCode::PacketIdentifierNotFound),
        other => panic!("{other:?}"),
    };
    expect_open(&mut w, c);
}
