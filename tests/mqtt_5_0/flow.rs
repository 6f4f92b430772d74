//! Flow control (4.9): Receive Maximum, both ways.

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

/// A world with a taker of `t` that accepts `maximum` at once, and a publisher.
fn taker(maximum: u16) -> (World, usize, usize) {
    let mut w = World::new(1);
    let c = open_with(&mut w, "c", false, &[expiry(100), Property::ReceiveMaximum(maximum)]);
    w.subscribe(c, "t", QoS::ExactlyOnce);
    let p = w.connect(V5, "p");
    (w, c, p)
}

fn publish_each(w: &mut World, publisher: usize, count: usize) {
    for i in 0..count {
        w.publish(publisher, "t", EVERY_QOS[1 + i % 2], &i.to_string());
    }
}

fn packet_id(frame: &Frame) -> PacketId {
    frame.publish().packet_id.expect("QoS 1 or 2")
}

#[test]
fn mqtt_3_3_4_9_the_server_keeps_the_clients_receive_maximum() {
    for (maximum, at_once) in [(1, 1), (2, 2), (31, 31), (32, 32), (33, 32), (65_535, 32)] {
        let (mut w, c, p) = taker(maximum);
        publish_each(&mut w, p, 100);
        let mut waiting = w.take(c);
        assert_eq!(waiting.len(), at_once, "the client's own, within the server's 32");
        // One place is given back by PUBACK or PUBCOMP, and one message comes.
        let mut got = waiting.len();
        while let Some(frame) = (!waiting.is_empty()).then(|| waiting.remove(0)) {
            if frame.publish().qos == QoS::AtLeastOnce {
                w.send(c, &Packet::PubAck(ack_of(packet_id(&frame))));
            } else {
                w.send(c, &Packet::PubRec(ack_of(packet_id(&frame))));
                assert!(matches!(w.take_one(c).packet(), Packet::PubRel(_)), "PUBREC gives nothing back");
                w.send(c, &Packet::PubComp(ack_of(packet_id(&frame))));
            }
            let next = w.take(c);
            assert_eq!(next.len(), usize::from(got < 100));
            got += next.len();
            waiting.extend(next);
        }
        assert_eq!(got, 100);
    }
}

#[test]
fn mqtt_3_3_4_9_a_refusing_pubrec_gives_the_place_back() {
    let (mut w, c, p) = taker(1);
    for payload in ["first", "second"] {
        w.publish(p, "t", QoS::ExactlyOnce, payload);
    }
    let first = only_publish(&mut w, c);
    let reason = ReasonCode::ImplementationSpecificError;
    w.send(c, &Packet::PubRec(Ack { reason, ..ack_of(packet_id(&first)) }));
    assert_eq!(payloads(&w.take(c)), ["second"]);
}

#[test]
fn mqtt_3_3_4_10_a_full_window_delays_nothing_but_publish() {
    let (mut w, c, p) = taker(1);
    publish_each(&mut w, p, 10);
    assert_eq!(w.take(c).len(), 1);
    w.publish(p, "t", QoS::AtMostOnce, "QoS 0");
    assert_eq!(payloads(&w.take(c)), ["QoS 0"]);
    expect_open(&mut w, c);
    assert!(matches!(w.subscribe_raw(c, "u", options(QoS::AtMostOnce), 0)[0].packet(), Packet::SubAck(_)));
    assert_eq!(w.unsubscribe(c, "u"), Some(ReasonCode::Success));
    assert_eq!(w.publish(c, "v", QoS::ExactlyOnce, "own"), ReasonCode::NoMatchingSubscribers);
}

#[test]
fn mqtt_4_9_0_1_the_send_quota_starts_anew_with_each_connection() {
    let (mut w, c, p) = taker(5);
    publish_each(&mut w, p, 20);
    assert_eq!(w.take(c).len(), 5);
    w.cut(c);
    // Fewer than are unacknowledged, then more.
    for maximum in [2, 1, 10] {
        let c = open_with(&mut w, "c", false, &[expiry(100), Property::ReceiveMaximum(maximum)]);
        assert_eq!(w.take(c).len(), usize::from(maximum), "a quota of {maximum}");
        w.cut(c);
    }
    let c = open_with(&mut w, "c", false, &[expiry(100), Property::ReceiveMaximum(1)]);
    let got = payloads(&w.drain(c));
    assert_eq!(got, (0..20).map(|i| i.to_string()).collect::<Vec<_>>(), "none lost, none out of order");
}

#[test]
fn mqtt_4_9_0_2_nothing_is_sent_at_a_quota_of_0() {
    let (mut w, c, p) = taker(2);
    publish_each(&mut w, p, 2);
    let sent = w.take(c);
    publish_each(&mut w, p, 5);
    assert_eq!(w.take(c), []);
    // Nothing but a PUBACK, PUBCOMP or refusing PUBREC changes that.
    w.send(c, &Packet::PubRec(ack_of(packet_id(&sent[1]))));
    w.send(c, &Packet::PubAck(ack_of(id(999))));
    w.send(c, &Packet::PubComp(ack_of(id(999))));
    w.send(c, &Packet::PingReq);
    let frames = w.take(c);
    assert!(!frames.iter().any(|frame| matches!(frame.packet(), Packet::Publish(_))), "{frames:?}");
    w.send(c, &Packet::PubAck(ack_of(packet_id(&sent[0]))));
    assert_eq!(w.take(c).len(), 1);
}

#[test]
fn mqtt_4_9_0_3_other_packets_are_dealt_with_at_a_quota_of_0() {
    let (mut w, c, p) = taker(1);
    publish_each(&mut w, p, 3);
    assert_eq!(w.take(c).len(), 1);
    expect_open(&mut w, c);
    w.subscribe(c, "$share/g/u", QoS::AtLeastOnce);
    let reason = w.publish(c, "t", QoS::AtLeastOnce, "published by the full one");
    assert_eq!(reason, ReasonCode::Success);
    assert_eq!(w.unsubscribe(c, "$share/g/u"), Some(ReasonCode::Success));
    assert_eq!(w.take(c), []);
}

#[test]
fn mqtt_3_3_4_7_a_client_over_the_servers_receive_maximum() {
    for maximum in [1, 2, 10] {
        let mut w = World::limited(Limits { receive_maximum: maximum, ..Limits::default() });
        let p = w.connect(V5, "p");
        let publish = |packet_id: u16, qos| {
            Packet::Publish(Publish { packet_id: Some(id(packet_id)), ..message("t", qos, "x") })
        };
        for i in 1..=maximum {
            w.send(p, &publish(i, QoS::ExactlyOnce));
        }
        assert_eq!(w.take(p).len(), usize::from(maximum));
        // A repeat of one of them is none more; and released ones make room.
        w.send(p, &publish(1, QoS::ExactlyOnce));
        w.send(p, &Packet::PubRel(ack_of(id(1))));
        w.send(p, &publish(1, QoS::AtLeastOnce));
        w.send(p, &publish(1, QoS::ExactlyOnce));
        expect_open(&mut w, p);
        w.take(p);
        w.send(p, &publish(maximum + 1, QoS::ExactlyOnce));
        expect_closed(&mut w, p, ReasonCode::ReceiveMaximumExceeded);
    }
}

#[test]
fn receive_maximum_begins_anew_with_each_connection() {
    let mut w = World::limited(Limits { receive_maximum: 2, ..Limits::default() });
    let p = w.resume(V5, "p");
    let publish =
        |n: u16| Packet::Publish(Publish { packet_id: Some(id(n)), ..message("t", QoS::ExactlyOnce, "x") });
    w.send(p, &publish(1));
    w.send(p, &publish(2));
    w.cut(p);
    // What its session remembers of an earlier connection is none of this one's.
    let p = w.resume(V5, "p");
    w.send(p, &publish(3));
    w.send(p, &publish(4));
    assert_eq!(w.take(p).len(), 2);
    w.cut(p);
    // A repeat is one that this connection has sent, and what is released makes room where it was one.
    let p = w.resume(V5, "p");
    w.send(p, &publish(1));
    w.send(p, &Packet::PubRel(ack_of(id(2))));
    w.send(p, &publish(5));
    w.send(p, &Packet::PubRel(ack_of(id(1))));
    w.send(p, &publish(3));
    assert_eq!(w.take(p).len(), 5);
    w.send(p, &publish(4));
    expect_closed(&mut w, p, ReasonCode::ReceiveMaximumExceeded);
}
