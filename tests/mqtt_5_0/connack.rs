//! CONNACK (3.2): what a server says to a CONNECT that it accepts. How it refuses one is the shell's
//! part, for which `refusals.rs` stands.

use std::time::Duration;

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

#[test]
fn mqtt_3_2_0_1_connack_comes_first() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let c = w.resume(V5, "c");
        w.subscribe(c, "t", QoS::ExactlyOnce);
        let p = w.connect(V5, "p");
        w.publish(p, "t", QoS::ExactlyOnce, "released");
        let first = only_publish(&mut w, c).publish().packet_id.expect("QoS 2");
        w.send(c, &Packet::PubRec(ack_of(first)));
        w.publish(p, "t", QoS::AtLeastOnce, "unacknowledged");
        w.cut(c);
        w.publish(p, "t", QoS::AtLeastOnce, "queued");
        let properties = list(&[expiry(100)]);
        let hello = Connect { properties: properties.as_properties(), ..connect(V5, "c", false) };
        let c = w.try_connect(&hello).expect("accepted");
        let frames = w.take(c);
        assert!(matches!(frames[0].packet(), Packet::ConnAck(_)), "{frames:?}");
        assert!(matches!(frames[1].packet(), Packet::PubRel(_)), "{frames:?}");
        assert_eq!(payloads(&frames[2..]), ["unacknowledged", "queued"]);
    }
}

#[test]
fn mqtt_3_2_0_2_one_connack() {
    let mut w = World::new(1);
    let c = w.try_connect(&connect(V5, "c", true)).expect("accepted");
    let mut frames = w.take(c);
    frames.extend(w.subscribe_raw(c, "t", options(QoS::AtLeastOnce), 0));
    w.publish(c, "t", QoS::AtLeastOnce, "x");
    w.send(c, &Packet::PingReq);
    w.send(c, &Packet::Connect(connect(V5, "c", true)));
    frames.extend(w.take(c));
    let connacks = frames.iter().filter(|frame| matches!(frame.packet(), Packet::ConnAck(_))).count();
    assert_eq!(connacks, 1, "{frames:?}");
}

#[test]
fn mqtt_3_2_2_1_acknowledge_flags() {
    let mut w = World::new(1);
    let (_, frame) = connack_with(&mut w, "c", true, &[expiry(100)]);
    assert_eq!(frame.bytes[2], 0);
    let (_, frame) = connack_with(&mut w, "c", false, &[expiry(100)]);
    assert_eq!(frame.bytes[2], 1, "Session Present, and bits 7 to 1 are 0");
}

#[test]
fn mqtt_3_2_2_2_session_present_is_0_after_clean_start() {
    let mut w = World::new(1);
    let c = w.resume(V5, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    w.cut(c);
    let (_, frame) = connack_with(&mut w, "c", true, &[]);
    match frame.packet() {
        Packet::ConnAck(connack) => {
            assert!(!connack.session_present);
            assert_eq!(connack.reason, ReasonCode::Success);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_3_2_2_3_session_present_says_whether_there_was_one() {
    let mut w = World::new(1);
    let (c, frame) = connack_with(&mut w, "c", false, &[expiry(10)]);
    assert!(!session_present(&frame), "never seen before");
    w.cut(c);
    w.advance(Duration::from_secs(9));
    let (c, frame) = connack_with(&mut w, "c", false, &[expiry(10)]);
    assert!(session_present(&frame));
    w.cut(c);
    w.advance(Duration::from_secs(11));
    let (c, frame) = connack_with(&mut w, "c", false, &[]);
    assert!(!session_present(&frame), "it has expired");
    w.cut(c);
    let (_, frame) = connack_with(&mut w, "c", false, &[]);
    assert!(!session_present(&frame), "it ended with its connection");
}

#[test]
fn mqtt_3_2_2_9_every_qos_is_supported_and_no_maximum_is_told() {
    let mut w = World::new(1);
    let (c, frame) = connack_with(&mut w, "c", true, &[]);
    let limits = find(connack_properties(&frame), |property| {
        matches!(
            property,
            Property::MaximumQoS(_)
                | Property::RetainAvailable(_)
                | Property::WildcardSubscriptionAvailable(_)
                | Property::SubscriptionIdentifierAvailable(_)
                | Property::SharedSubscriptionAvailable(_)
        )
        .then_some(format!("{property:?}"))
    });
    assert_eq!(limits, None, "everything is available, which is said by silence");
    w.subscribe(c, "t", QoS::ExactlyOnce);
    for qos in EVERY_QOS {
        assert_eq!(w.publish(c, "t", qos, "x"), ReasonCode::Success);
        assert_eq!(w.drain(c).len(), 1);
    }
}

#[test]
fn mqtt_3_2_2_10_every_qos_may_be_asked_for() {
    let mut w = World::new(1);
    let c = w.connect(V5, "c");
    send_subscribe(&mut w, c, &EVERY_QOS.map(|qos| (["a", "b", "c"][qos as usize], options(qos))));
    assert_eq!(codes(&w.take_one(c)), [0, 1, 2]);
}

#[test]
fn mqtt_3_2_2_16_assigned_client_identifier() {
    let mut w = World::new(1);
    let assigned = |frame: &Frame| {
        find(connack_properties(frame), |property| match property {
            Property::AssignedClientIdentifier(name) => Some(name.to_owned()),
            _ => None,
        })
    };
    let (_, first) = connack_with(&mut w, "", true, &[]);
    let (_, second) = connack_with(&mut w, "", true, &[]);
    let (first, second) = (assigned(&first).expect("told"), assigned(&second).expect("told"));
    assert_ne!(first, second);
    let (_, frame) = connack_with(&mut w, "mine", true, &[]);
    assert_eq!(assigned(&frame), None, "only where there was none");
}

#[test]
fn mqtt_3_2_2_19_and_20_an_accepting_connack_explains_nothing() {
    let mut w = World::new(1);
    let (_, frame) = connack_with(&mut w, "c", true, &[Property::RequestProblemInformation(true)]);
    assert_eq!(reason_string(connack_properties(&frame)), None);
    assert_eq!(user_properties(connack_properties(&frame)), []);
}

#[test]
fn mqtt_3_2_2_22_without_server_keep_alive_the_clients_holds() {
    let server_keep_alive = |frame: &Frame| {
        find(connack_properties(frame), |property| match property {
            Property::ServerKeepAlive(seconds) => Some(seconds),
            _ => None,
        })
    };
    for (most, asked, told) in [
        (0, 60, None),
        (0, 0, None),
        (100, 60, None),
        (100, 100, None),
        (100, 200, Some(100)),
        (100, 0, Some(100)),
    ] {
        let mut w = World::limited(Limits { keep_alive_max: most, ..Limits::default() });
        let (c, frame) = connack(&mut w, &Connect { keep_alive: asked, ..connect(V5, "c", true) });
        assert_eq!(server_keep_alive(&frame), told, "at most {most}, asked for {asked}");
        let holds = u64::from(told.unwrap_or(asked));
        if holds == 0 {
            w.advance(Duration::from_secs(100_000));
            assert!(w.clients[c].connection.is_some());
            continue;
        }
        w.advance(Duration::from_millis(holds * 1500 - 100));
        assert!(w.clients[c].connection.is_some(), "at most {most}, asked for {asked}");
        w.advance(Duration::from_millis(1_100));
        expect_closed(&mut w, c, ReasonCode::KeepAliveTimeout);
    }
}

#[test]
fn connack_tells_the_servers_limits() {
    let limits = Limits {
        receive_maximum: 7,
        max_packet_size: 5_000,
        topic_alias_maximum: 3,
        session_expiry_max: Some(Duration::from_secs(60)),
        ..Limits::default()
    };
    let mut w = World::limited(limits.clone());
    let (_, frame) = connack_with(&mut w, "c", true, &[expiry(61)]);
    let told: Vec<Property<'_>> = connack_properties(&frame).iter().collect();
    for expected in [
        expiry(60),
        Property::ReceiveMaximum(7),
        Property::MaximumPacketSize(5_000),
        Property::TopicAliasMaximum(3),
    ] {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
    let (_, frame) = connack_with(&mut w, "c", true, &[expiry(60)]);
    let told = find(connack_properties(&frame), |property| match property {
        Property::SessionExpiryInterval(seconds) => Some(seconds),
        _ => None,
    });
    assert_eq!(told, None, "granted as asked");
    // What absence says already is left out.
    let mut w = World::limited(Limits { receive_maximum: u16::MAX, topic_alias_maximum: 0, ..limits });
    let (_, frame) = connack_with(&mut w, "c", true, &[]);
    let told: Vec<Property<'_>> = connack_properties(&frame).iter().collect();
    assert_eq!(told, [Property::MaximumPacketSize(5_000)]);
}
