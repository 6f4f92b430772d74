//! Shared Subscriptions (4.8.2).

use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

/// Members `a` and `b` of a group on `t`, in sessions that last, and a publisher.
fn group(shards: u16, qos: [QoS; 2]) -> (World, [usize; 2], usize) {
    let mut w = World::new(shards);
    let members = [w.resume(V5, "a"), w.resume(V5, "b")];
    for (c, qos) in members.into_iter().zip(qos) {
        w.subscribe(c, "$share/g/t", qos);
    }
    let p = w.connect(V5, "p");
    (w, members, p)
}

#[test]
fn mqtt_4_8_2_1_share_prefix_and_name() {
    let mut w = World::new(1);
    // Without the prefix, spelled exactly so, a filter is one like others.
    let c = w.connect(V5, "c");
    for filter in ["$Share/g/t", "$shared/g/t", "share/g/t", "/$share/g/t"] {
        w.subscribe(c, filter, QoS::AtMostOnce);
    }
    let p = w.connect(V5, "p");
    assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, "x"), ReasonCode::NoMatchingSubscribers);
    for filter in ["$share//t", "$share/"] {
        let c = w.connect(V5, "d");
        send_subscribe(&mut w, c, &[(filter, options(QoS::AtMostOnce))]);
        expect_closed(&mut w, c, ReasonCode::TopicFilterInvalid);
    }
}

#[test]
fn mqtt_4_8_2_2_share_name_and_filter() {
    for filter in ["$share/a+/t", "$share/#/t", "$share/+/t", "$share/g", "$share/g/", "$share/g/a#"] {
        let mut w = World::new(1);
        let c = w.connect(V5, "c");
        send_subscribe(&mut w, c, &[(filter, options(QoS::AtMostOnce))]);
        expect_closed(&mut w, c, ReasonCode::TopicFilterInvalid);
    }
    for (filter, topic) in [("$share/g//t", "/t"), ("$share/g/t/#", "t/1"), ("$share/é g/+", "t")] {
        let mut w = World::new(1);
        let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
        w.subscribe(c, filter, QoS::AtMostOnce);
        w.publish(p, topic, QoS::AtMostOnce, "x");
        assert_eq!(only_publish(&mut w, c).publish().topic, topic, "{filter}");
    }
}

#[test]
fn mqtt_4_8_2_3_each_member_gets_its_granted_qos() {
    for shards in [1, 3] {
        for granted in [[QoS::AtMostOnce, QoS::ExactlyOnce], [QoS::AtLeastOnce, QoS::AtMostOnce]] {
            let (mut w, members, p) = group(shards, granted);
            for qos in EVERY_QOS {
                for _ in 0..4 {
                    w.publish(p, "t", qos, "x");
                }
                for (c, granted) in members.into_iter().zip(granted) {
                    let got = w.drain(c);
                    assert_eq!(got.len(), 2, "in turn");
                    assert!(got.iter().all(|frame| frame.publish().qos == qos.min(granted)));
                }
            }
        }
    }
}

#[test]
fn mqtt_4_8_2_4_qos_2_is_completed_with_the_member_it_was_sent_to() {
    for shards in [1, 3] {
        let (mut w, [a, b], p) = group(shards, [QoS::ExactlyOnce; 2]);
        for payload in ["first", "second"] {
            w.publish(p, "t", QoS::ExactlyOnce, payload);
        }
        let of_a = only_publish(&mut w, a);
        w.cut(a);
        assert_eq!(w.drain(b).len(), 1, "the other's goes to nobody else");
        let a = w.resume(V5, "a");
        let again = only_publish(&mut w, a);
        assert_eq!(again.publish().packet_id, of_a.publish().packet_id);
        assert!(again.publish().dup);
        // And from its PUBREL on.
        let given = again.publish().packet_id.expect("QoS 2");
        w.send(a, &Packet::PubRec(ack_of(given)));
        w.take(a);
        w.cut(a);
        let a = w.resume(V5, "a");
        assert_eq!(w.take_one(a).packet(), Packet::PubRel(ack_of(given)));
        w.send(a, &Packet::PubComp(ack_of(given)));
        assert_eq!((w.drain(a), w.drain(b)), (vec![], vec![]));
    }
}

#[test]
fn mqtt_4_8_2_5_qos_2_of_a_session_that_ended_goes_to_nobody_else() {
    for shards in [1, 3] {
        let (mut w, [a, b], p) = group(shards, [QoS::ExactlyOnce; 2]);
        for payload in ["first", "second"] {
            w.publish(p, "t", QoS::ExactlyOnce, payload);
        }
        only_publish(&mut w, a);
        assert_eq!(w.drain(b).len(), 1);
        disconnect(&mut w, a, ReasonCode::Success, &[expiry(0)]);
        assert_eq!(w.drain(b), []);
        let (a, frame) = connack_with(&mut w, "a", false, &[]);
        assert!(!session_present(&frame));
        assert_eq!(w.take(a), []);
    }
}

#[test]
fn mqtt_4_8_2_6_what_a_member_refuses_is_discarded() {
    for shards in [1, 3] {
        let (mut w, [a, b], p) = group(shards, [QoS::ExactlyOnce; 2]);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for payload in ["first", "second"] {
                w.publish(p, "t", qos, payload);
            }
            let refused = only_publish(&mut w, a).publish().packet_id.expect("QoS 1 or 2");
            assert_eq!(w.drain(b).len(), 1);
            let ack = Ack { reason: ReasonCode::UnspecifiedError, ..ack_of(refused) };
            w.send(a, &if qos == QoS::AtLeastOnce { Packet::PubAck(ack) } else { Packet::PubRec(ack) });
            assert_eq!((w.take(a), w.take(b)), (vec![], vec![]));
        }
        // Nor later, when the member that refused is gone.
        w.cut(a);
        assert_eq!(w.take(b), []);
        w.unsubscribe(b, "$share/g/t");
        let a = w.resume(V5, "a");
        assert_eq!(w.take(a), []);
    }
}
