//! The delivery protocols of QoS 0, 1 and 2, both ways (4.3), and the order of messages (4.6).

use weirmq::protocol::packet::*;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;
use crate::support::*;

/// A broker with a client that is subscribed to `t` at this QoS and keeps its session, and a publisher.
fn subscribed(qos: QoS) -> (World, usize, usize) {
    let mut w = World::new(1);
    let c = w.resume(V4, "c");
    w.subscribe(c, "t", qos);
    let p = w.connect(V4, "p");
    (w, c, p)
}

#[test]
fn mqtt_4_3_1_1_the_server_sends_at_qos_0() {
    let (mut w, c, p) = subscribed(QoS::ExactlyOnce);
    w.publish(p, "t", QoS::AtMostOnce, "x");
    assert_eq!(take_bytes(&mut w, c), packet(0x30, "0001't' 'x'"));
    // Once: it waits for nothing.
    w.cut(c);
    let c = w.resume(V4, "c");
    assert_eq!(w.take(c), []);
}

#[test]
fn mqtt_4_3_2_1_the_server_sends_at_qos_1() {
    let (mut w, c, p) = subscribed(QoS::AtLeastOnce);
    w.publish(p, "t", QoS::ExactlyOnce, "a");
    w.publish(p, "t", QoS::AtLeastOnce, "b");
    // An unused identifier each, QoS 1, no DUP.
    let sent = [packet(0x32, "0001't' 0001 'a'"), packet(0x32, "0001't' 0002 'b'")];
    assert_eq!(take_bytes(&mut w, c), sent.concat());
    // Unacknowledged until its own PUBACK.
    w.send(c, &Packet::PubAck(ack_of(id(2))));
    w.cut(c);
    let c = w.resume(V4, "c");
    assert_eq!(take_bytes(&mut w, c), packet(0x3A, "0001't' 0001 'a'"));
    w.send(c, &Packet::PubAck(ack_of(id(1))));
    w.cut(c);
    let c = w.resume(V4, "c");
    assert_eq!(w.take(c), []);
}

#[test]
fn mqtt_4_3_2_2_the_server_receives_at_qos_1() {
    let (mut w, c, p) = subscribed(QoS::AtLeastOnce);
    for dup in [false, true, true, false] {
        // Once it is acknowledged, the same identifier is a new message, whatever DUP says.
        w.send(p, &Packet::Publish(Publish { dup, ..numbered("t", QoS::AtLeastOnce, 7, "x") }));
        assert_eq!(take_bytes(&mut w, p), packet(0x40, "0007"));
        assert_eq!(payloads(&w.drain(c)), ["x"]);
    }
}

#[test]
fn mqtt_4_3_3_1_the_server_sends_at_qos_2() {
    let (mut w, c, p) = subscribed(QoS::ExactlyOnce);
    w.publish(p, "t", QoS::ExactlyOnce, "a");
    w.publish(p, "t", QoS::ExactlyOnce, "b");
    // An unused identifier each, QoS 2, no DUP.
    let sent = [packet(0x34, "0001't' 0001 'a'"), packet(0x34, "0001't' 0002 'b'")];
    assert_eq!(take_bytes(&mut w, c), sent.concat());
    // A PUBREL with the same identifier for each PUBREC, a repeated one included.
    for _ in 0..2 {
        w.send(c, &Packet::PubRec(ack_of(id(2))));
        assert_eq!(take_bytes(&mut w, c), packet(0x62, "0002"));
    }
    // PUBLISH is unacknowledged until PUBREC, and never sent behind its PUBREL; PUBREL until PUBCOMP.
    w.cut(c);
    let c = w.resume(V4, "c");
    assert_eq!(take_bytes(&mut w, c), [packet(0x3C, "0001't' 0001 'a'"), packet(0x62, "0002")].concat());
    w.send(c, &Packet::PubComp(ack_of(id(2))));
    w.send(c, &Packet::PubRec(ack_of(id(1))));
    assert_eq!(take_bytes(&mut w, c), packet(0x62, "0001"));
    w.cut(c);
    let c = w.resume(V4, "c");
    assert_eq!(take_bytes(&mut w, c), packet(0x62, "0001"));
    w.send(c, &Packet::PubComp(ack_of(id(1))));
    w.cut(c);
    let c = w.resume(V4, "c");
    assert_eq!(w.take(c), []);
}

#[test]
fn mqtt_4_3_3_2_the_server_receives_at_qos_2() {
    for clean_session in [true, false] {
        let (mut w, c, _) = subscribed(QoS::ExactlyOnce);
        let mut p = w.open(&connect(V4, "publisher", clean_session));
        let first = numbered("t", QoS::ExactlyOnce, 7, "x");
        w.send(p, &Packet::Publish(first.clone()));
        assert_eq!(take_bytes(&mut w, p), packet(0x50, "0007"));
        assert_eq!(payloads(&w.drain(c)), ["x"]);
        // Before PUBREL the same identifier is the same message: acknowledged, and delivered to nobody.
        for dup in [true, false] {
            w.send(p, &Packet::Publish(Publish { dup, ..first.clone() }));
            assert_eq!(take_bytes(&mut w, p), packet(0x50, "0007"));
        }
        if !clean_session {
            w.cut(p);
            p = w.open(&connect(V4, "publisher", false));
            w.send(p, &Packet::Publish(Publish { dup: true, ..first.clone() }));
            assert_eq!(take_bytes(&mut w, p), packet(0x50, "0007"));
        }
        assert_eq!(w.drain(c), []);
        // PUBREL is answered by PUBCOMP, a repeated one too.
        for _ in 0..2 {
            w.send(p, &Packet::PubRel(ack_of(id(7))));
            assert_eq!(take_bytes(&mut w, p), packet(0x70, "0007"));
        }
        // Behind PUBCOMP the identifier is a new message's, whatever DUP says.
        w.send(p, &Packet::Publish(Publish { dup: true, ..numbered("t", QoS::ExactlyOnce, 7, "y") }));
        assert_eq!(take_bytes(&mut w, p), packet(0x50, "0007"));
        assert_eq!(payloads(&w.drain(c)), ["y"]);
    }
}

#[test]
fn mqtt_4_6_0_1_what_is_sent_again_is_in_the_original_order() {
    let (mut w, c, p) = subscribed(QoS::ExactlyOnce);
    for n in 0..60 {
        w.publish(p, "t", EVERY_QOS[1 + n % 2], &n.to_string());
    }
    // The middle is acknowledged, and so more are sent.
    for frame in w.take(c).iter().skip(5).step_by(3) {
        let publish = frame.publish();
        let packet_id = publish.packet_id.expect("above QoS 0");
        match publish.qos {
            QoS::AtLeastOnce => w.send(c, &Packet::PubAck(ack_of(packet_id))),
            _ => {
                w.send(c, &Packet::PubRec(ack_of(packet_id)));
                w.send(c, &Packet::PubComp(ack_of(packet_id)));
            }
        }
    }
    let done: Vec<usize> = (5..32).step_by(3).collect();
    let expected: Vec<String> = (0..60).filter(|n| !done.contains(n)).map(|n| n.to_string()).collect();
    for _ in 0..2 {
        w.cut(c);
        let c = w.resume(V4, "c");
        let again = w.take(c);
        assert_eq!(payloads(&again), expected[..again.len()]);
        w.cut(c);
    }
    let c = w.resume(V4, "c");
    assert_eq!(payloads(&w.drain(c)), expected);
}

/// The answers to PUBLISH packets with these first bytes and these identifiers, all sent at once.
fn answers(w: &mut World, p: usize, first: u8, ids: &[u16]) -> Vec<u8> {
    for (n, id) in ids.iter().enumerate() {
        w.put_bytes(p, &packet(first, &format!("0001 {:02X} {id:04X} 'x'", b'a' + n as u8 % 3)));
    }
    w.run();
    take_bytes(w, p)
}

#[test]
fn mqtt_4_6_0_2_puback_in_the_order_of_the_publishes() {
    let mut w = World::new(3);
    let p = w.resume(V4, "p");
    let sent = [5, 900, 3, 65_535, 1, 4, 2];
    let expected = sent.map(|id| packet(0x40, &format!("{id:04X}"))).concat();
    assert_eq!(answers(&mut w, p, 0x32, &sent), expected);
}

#[test]
fn mqtt_4_6_0_3_pubrec_in_the_order_of_the_publishes() {
    let mut w = World::new(3);
    let p = w.resume(V4, "p");
    let sent = [5, 900, 3, 65_535, 1, 4, 2];
    let expected = sent.map(|id| packet(0x50, &format!("{id:04X}"))).concat();
    assert_eq!(answers(&mut w, p, 0x34, &sent), expected);
}

#[test]
fn mqtt_4_6_0_4_pubrel_in_the_order_of_the_pubrecs() {
    let (mut w, c, p) = subscribed(QoS::ExactlyOnce);
    for _ in 0..5 {
        w.publish(p, "t", QoS::ExactlyOnce, "x");
    }
    assert_eq!(ids(&w.take(c)), [1, 2, 3, 4, 5]);
    let order = [3, 1, 5, 2, 4].map(|id| format!("{id:04X}"));
    for id in &order {
        w.put_bytes(c, &packet(0x50, id));
    }
    w.run();
    assert_eq!(take_bytes(&mut w, c), order.map(|id| packet(0x62, &id)).concat());
}

/// Two publishers send numbered messages on two topics at every QoS, in bursts; what subscribers of all kinds get is
/// in the order of each publisher, topic and QoS.
#[test]
fn mqtt_4_6_0_5_every_topic_is_ordered() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let (quick, kept, slow) = (w.connect(V4, "quick"), w.resume(V4, "kept"), w.connect(V4, "slow"));
        for c in [quick, kept, slow] {
            w.subscribe(c, "t/#", QoS::ExactlyOnce);
        }
        let publishers = ["p", "qq"].map(|name| w.connect(V4, name));
        w.clients[slow].stalled = true;
        let mut kept_got = Vec::new();
        for n in 0..300_u16 {
            for (index, p) in publishers.into_iter().enumerate() {
                let (topic, qos) = (["t/1", "t/2"][usize::from(n / 3) % 2], EVERY_QOS[usize::from(n) % 3]);
                let payload = format!("{index} {n}");
                let packet_id = if qos == QoS::AtMostOnce { 0 } else { n + 1 };
                w.put(p, &Packet::Publish(numbered(topic, qos, packet_id, &payload)));
            }
            if n % 40 == 0 {
                w.run();
                kept_got.append(&mut w.drain(kept));
            }
        }
        w.run();
        w.unstall(slow);
        kept_got.append(&mut w.drain(kept));
        for (name, got) in [("quick", w.drain(quick)), ("kept", kept_got), ("slow", w.drain(slow))] {
            assert_eq!(got.len(), 600, "{name}");
            for index in ["0", "1"] {
                for topic in ["t/1", "t/2"] {
                    for qos in EVERY_QOS {
                        let flow = got.iter().map(Frame::publish).filter(|publish| {
                            publish.topic == topic
                                && publish.qos == qos
                                && publish.payload.starts_with(index.as_bytes())
                        });
                        let numbers: Vec<u16> = flow
                            .map(|publish| {
                                String::from_utf8_lossy(&publish.payload[2..]).parse().expect("a number")
                            })
                            .collect();
                        assert_eq!(numbers.len(), 50, "{name} {index} {topic} {qos:?}");
                        assert!(numbers.is_sorted(), "{name} {index} {topic} {qos:?}: {numbers:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn mqtt_4_6_0_6_order_holds_across_reconnects() {
    for shards in [1, 3] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut w = World::new(shards);
            let p = w.connect(V4, "pp");
            let mut c = w.resume(V4, "c");
            w.subscribe(c, "t", qos);
            let mut firsts = Vec::new();
            for n in 0..200 {
                w.publish(p, "t", qos, &n.to_string());
                if n % 17 == 0 {
                    // What was unacknowledged comes first, then what waited, then what is new.
                    let got = w.take(c);
                    w.cut(c);
                    firsts.extend(got.into_iter().filter(|frame| !frame.publish().dup));
                    c = w.resume(V4, "c");
                } else if n % 29 == 0 {
                    firsts.extend(w.drain(c).into_iter().filter(|frame| !frame.publish().dup));
                }
            }
            firsts.extend(w.drain(c).into_iter().filter(|frame| !frame.publish().dup));
            assert_eq!(payloads(&firsts), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
        }
    }
}
