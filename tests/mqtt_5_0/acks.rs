//! PUBACK, PUBREC, PUBREL and PUBCOMP (3.4 to 3.7): their identifiers, their reason codes, and what they
//! may not carry.

use weirmq::limits::{Limits, QueueRule};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, Property};
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;

#[test]
fn mqtt_2_2_1_5_acknowledgements_repeat_the_identifier() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "t", QoS::ExactlyOnce);
    for packet_id in [1, 255, 256, 65_535].map(id) {
        let publish = |qos| Publish { packet_id: Some(packet_id), ..message("t", qos, "x") };
        let ack = ack_of(packet_id);
        w.send(p, &Packet::Publish(publish(QoS::AtLeastOnce)));
        assert_eq!(w.take_one(p).packet(), Packet::PubAck(ack.clone()));
        w.send(p, &Packet::Publish(publish(QoS::ExactlyOnce)));
        assert_eq!(w.take_one(p).packet(), Packet::PubRec(ack.clone()));
        w.send(p, &Packet::PubRel(ack.clone()));
        assert_eq!(w.take_one(p).packet(), Packet::PubComp(ack.clone()));
    }
    w.drain(c);
    // And the other way: the server's PUBREL.
    w.publish(p, "t", QoS::ExactlyOnce, "x");
    let given = only_publish(&mut w, c).publish().packet_id.expect("QoS 2");
    w.send(c, &Packet::PubRec(ack_of(given)));
    assert_eq!(w.take_one(c).packet(), Packet::PubRel(ack_of(given)));
}

/// The PUBACK and the PUBREC of a 5.0 client whose PUBLISH to `topic` these limits refuse or take.
fn both_acks(w: &mut World, client: usize, publish: &Publish<'_>) -> [(Frame, ReasonCode); 2] {
    [QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| {
        w.send(client, &Packet::Publish(Publish { qos, packet_id: Some(id(1)), ..publish.clone() }));
        let frame = w.take_one(client);
        let reason = match (frame.packet(), qos) {
            (Packet::PubAck(ack), QoS::AtLeastOnce) | (Packet::PubRec(ack), QoS::ExactlyOnce) => ack.reason,
            (other, _) => panic!("{other:?}"),
        };
        if qos == QoS::ExactlyOnce && !reason.is_failure() {
            w.send(client, &Packet::PubRel(ack_of(id(1))));
            w.take_one(client);
        }
        (frame, reason)
    })
}

fn reasons_of_everything_that_can_happen_to_a_publish() -> Vec<(&'static str, [(Frame, ReasonCode); 2])> {
    let limits = Limits { retained_messages: 1, topic_levels: 3, ..Limits::default() };
    let full = QueueRule { filter: "#".into(), max_messages: 1, ..QueueRule::default() };
    let mut w = World::with(WorldSettings { limits, queue_rules: vec![full], ..WorldSettings::default() });
    let away = w.resume(V5, "away");
    w.subscribe(away, "full", QoS::AtLeastOnce);
    w.cut(away);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "t", QoS::AtMostOnce);
    w.publish(p, "full", QoS::AtLeastOnce, "fills it");
    w.publish_with(p, &Publish { retain: true, ..message("kept", QoS::AtLeastOnce, "fills it") });
    let new_retained = Publish { retain: true, ..message("t", QoS::AtLeastOnce, "x") };
    let mut all = vec![("retained full", both_acks(&mut w, p, &new_retained))];
    for (what, topic) in
        [("taken", "t"), ("nobody's", "u"), ("full", "full"), ("not allowed", "$SYS/x"), ("deep", "a/b/c/d")]
    {
        all.push((what, both_acks(&mut w, p, &message(topic, QoS::AtLeastOnce, "x"))));
    }
    all
}

fn reason_codes_are_those_of_the_packet(index: usize) {
    let all = reasons_of_everything_that_can_happen_to_a_publish();
    let got: Vec<(&str, ReasonCode)> = all.iter().map(|(what, both)| (*what, both[index].1)).collect();
    // Each is one of those that table 2-6 gives to the packet, or the frame would not have decoded.
    let expected = [
        ("retained full", ReasonCode::QuotaExceeded),
        ("taken", ReasonCode::Success),
        ("nobody's", ReasonCode::NoMatchingSubscribers),
        ("full", ReasonCode::QuotaExceeded),
        ("not allowed", ReasonCode::NotAuthorized),
        ("deep", ReasonCode::TopicNameInvalid),
    ];
    assert_eq!(got, expected);
}

#[test]
fn mqtt_3_4_2_1_puback_reason_codes() {
    reason_codes_are_those_of_the_packet(0);
}

#[test]
fn mqtt_3_5_2_1_pubrec_reason_codes() {
    reason_codes_are_those_of_the_packet(1);
}

/// For every Maximum Packet Size that a client can be served with: the PUBACK or PUBREC of a PUBLISH that
/// is not allowed. The explanation is there where it fits and left out where it does not.
fn reason_string_only_where_it_fits(index: usize) {
    let mut told = Vec::new();
    for size in 20..100 {
        let mut w = World::new(1);
        let c = open_with(&mut w, "c", true, &[Property::MaximumPacketSize(size)]);
        let refused = both_acks(&mut w, c, &message("$SYS/x", QoS::AtLeastOnce, ""));
        let (frame, reason) = &refused[index];
        assert_eq!(*reason, ReasonCode::NotAuthorized);
        assert!(frame.bytes.len() <= size as usize);
        let (Packet::PubAck(ack) | Packet::PubRec(ack)) = frame.packet() else { panic!("{frame:?}") };
        told.push(reason_string(ack.properties).is_some());
    }
    assert!(!told[0] && told[79], "left out in 20 bytes, there in 99");
    assert!(told.is_sorted());
}

#[test]
fn mqtt_3_4_2_2_puback_reason_string() {
    reason_string_only_where_it_fits(0);
}

#[test]
fn mqtt_3_5_2_2_pubrec_reason_string() {
    reason_string_only_where_it_fits(1);
}

/// The properties of a PUBREL for what was never sent, and of a PUBCOMP for what was never received: the
/// only ones with something to explain.
fn of_unknown_ids() -> [(Frame, ReasonCode); 2] {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    w.send(c, &Packet::PubRec(ack_of(id(9))));
    w.send(c, &Packet::PubRel(ack_of(id(9))));
    let frames = w.take(c);
    assert_eq!(frames.len(), 2);
    let reasons = match (frames[0].packet(), frames[1].packet()) {
        (Packet::PubRel(rel), Packet::PubComp(comp)) => [rel.reason, comp.reason],
        other => panic!("{other:?}"),
    };
    [(frames[0].clone(), reasons[0]), (frames[1].clone(), reasons[1])]
}

fn properties_of(frame: &Frame) -> Properties<'_> {
    match frame.packet() {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.properties
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_3_4_2_3_puback_has_no_user_properties() {
    for (what, both) in reasons_of_everything_that_can_happen_to_a_publish() {
        assert_eq!(user_properties(properties_of(&both[0].0)), [], "{what}");
    }
}

#[test]
fn mqtt_3_5_2_3_pubrec_has_no_user_properties() {
    for (what, both) in reasons_of_everything_that_can_happen_to_a_publish() {
        assert_eq!(user_properties(properties_of(&both[1].0)), [], "{what}");
    }
}

#[test]
fn mqtt_3_6_1_1_pubrel_flags() {
    for flags in (0..16).filter(|flags| *flags != 2) {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &[0x60 | flags, 2, 0, 1]);
        expect_closed(&mut w, c, ReasonCode::MalformedPacket);
    }
    // The server's own.
    let [(frame, _), _] = of_unknown_ids();
    assert_eq!(frame.bytes[0], 0x62);
}

#[test]
fn mqtt_3_6_2_1_pubrel_reason_codes() {
    let [(_, reason), _] = of_unknown_ids();
    assert_eq!(reason, ReasonCode::PacketIdentifierNotFound);
    // From a client: only Success and Packet Identifier not found exist.
    for code in 0..=255 {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        w.send_bytes(c, &[0x62, 3, 0, 1, code]);
        if matches!(code, 0 | 0x92) {
            assert!(matches!(w.take_one(c).packet(), Packet::PubComp(_)));
        } else {
            expect_closed(&mut w, c, ReasonCode::ProtocolError);
        }
    }
}

#[test]
fn mqtt_3_6_2_2_and_3_pubrel_explains_nothing() {
    let [(frame, _), _] = of_unknown_ids();
    assert_eq!(properties_of(&frame), Properties::EMPTY);
}

#[test]
fn mqtt_3_7_2_1_pubcomp_reason_codes() {
    let [_, (_, reason)] = of_unknown_ids();
    assert_eq!(reason, ReasonCode::PacketIdentifierNotFound);
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    assert_eq!(w.publish(c, "t", QoS::ExactlyOnce, "x"), ReasonCode::NoMatchingSubscribers);
    w.send_bytes(c, &packet(0x70, "0001 10"));
    expect_closed(&mut w, c, ReasonCode::ProtocolError);
}

#[test]
fn mqtt_3_7_2_2_and_3_pubcomp_explains_nothing() {
    let [_, (frame, _)] = of_unknown_ids();
    assert_eq!(properties_of(&frame), Properties::EMPTY);
}
