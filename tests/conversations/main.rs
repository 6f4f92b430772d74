//! Conversations without sockets: packets in, packets out. What the features of the broker come to for its clients,
//! beyond the single statements of the standard.
#![allow(missing_docs)]

#[path = "../common"]
mod common {
    pub mod dialogue;
    pub mod paged_store;
    #[allow(dead_code, reason = "not every helper is needed here")]
    pub mod wire;
    pub mod world;
}

mod access;
mod crowding;
mod directions;
mod memory;
mod overflow;
mod owners;
mod paged;
mod paging;
mod paging_groups;
mod paging_limits;
mod pressure;
mod rates;
mod restart;
mod retained;
mod sessions;
mod share_groups;
mod slow_disk;
mod strategies;
mod subscriptions;
mod sys;

use common::world::*;
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;
use weirmq::protocol::reason::ReasonCode;

#[test]
fn a_message_arrives_at_each_qos_in_each_version_across_shards() {
    for shards in [1, 3] {
        for version in [Version::V3, Version::V4, Version::V5] {
            let mut w = World::new(shards);
            let (a, b) = (w.connect(version, "a"), w.connect(version, "bb"));
            w.subscribe(a, "t/+", QoS::ExactlyOnce);
            for (i, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
                w.publish(b, "t/1", qos, &i.to_string());
            }
            let got = w.drain(a);
            assert_eq!(got.len(), 3, "{got:?}");
            for (i, frame) in got.iter().enumerate() {
                assert_eq!(frame.publish().payload, i.to_string().as_bytes());
                assert_eq!(frame.publish().qos as usize, i);
            }
        }
    }
}

#[test]
fn what_a_group_member_leaves_unacknowledged_goes_to_another() {
    let mut w = World::new(2);
    let (a, b, p) =
        (w.connect(Version::V5, "a"), w.connect(Version::V5, "bb"), w.connect(Version::V5, "ppp"));
    w.subscribe(a, "$share/g/t", QoS::AtLeastOnce);
    w.subscribe(b, "$share/g/t", QoS::AtLeastOnce);
    for i in 0..100 {
        w.publish(p, "t", QoS::AtLeastOnce, &i.to_string());
    }
    let unacknowledged = w.take(a).len();
    assert_eq!(unacknowledged, 32);
    w.cut(a);
    let got = w.drain(b);
    assert_eq!(got.len(), 100);
    assert_eq!(got.iter().filter(|frame| frame.publish().dup).count(), unacknowledged);
}

#[test]
fn what_a_member_acknowledged_just_before_it_went_goes_to_nobody_else() {
    for version in [Version::V4, Version::V5] {
        for goodbye in [true, false] {
            let mut w = World::new(2);
            let (a, b, p) = (w.connect(version, "a"), w.connect(version, "bb"), w.connect(version, "ppp"));
            w.subscribe(a, "$share/g/t", QoS::AtLeastOnce);
            w.publish(p, "t", QoS::AtLeastOnce, "x");
            let id = w.take_one(a).publish().packet_id.expect("QoS 1");
            w.subscribe(b, "$share/g/t", QoS::AtLeastOnce);
            // Both in one read: the acknowledgement must reach the group before the departure does.
            let mut bytes = Vec::new();
            codec::encode(version, &Packet::PubAck(ack_of(id)), &mut bytes);
            let mut raw = Vec::new();
            let filters = UnsubscribeFilters::encode(["$share/g/t"], &mut raw);
            let leave = Unsubscribe { packet_id: id, properties: Properties::EMPTY, filters };
            let disconnect = Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY };
            let last = if goodbye { Packet::Disconnect(disconnect) } else { Packet::Unsubscribe(leave) };
            codec::encode(version, &last, &mut bytes);
            w.send_bytes(a, &bytes);
            assert_eq!(w.drain(b), []);
        }
    }
}

#[test]
fn a_persistent_session_gets_what_it_missed() {
    let mut w = World::new(2);
    let a = w.resume(Version::V5, "a");
    w.subscribe(a, "t", QoS::ExactlyOnce);
    w.cut(a);
    let p = w.connect(Version::V5, "ppp");
    for i in 0..100 {
        w.publish(p, "t", QoS::ExactlyOnce, &i.to_string());
    }
    let a = w.resume(Version::V5, "a");
    assert_eq!(w.drain(a).len(), 100);
}

#[test]
fn payloads_of_any_size_arrive_whole() {
    // Around every border: of the packet's length on the wire, and of what is copied rather than shared.
    let sizes = [0..3, 100..135, 4_090..4_100, 16_360..16_390, 65_530..65_540, 1_000_000..1_000_001];
    for shards in [1, 2] {
        let mut w = World::new(shards);
        let mut takers = Vec::new();
        for version in [Version::V3, Version::V4, Version::V5] {
            for (i, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
                let transient = w.connect(version, &format!("{version:?}{i}"));
                let persistent = w.resume(version, &format!("{version:?}{i}x"));
                takers.extend([transient, persistent]);
                w.subscribe(transient, "t", qos);
                w.subscribe(persistent, "t", qos);
            }
        }
        let p = w.connect(Version::V5, "p");
        for size in sizes.iter().cloned().flatten() {
            let payload: String = (0..size).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
            w.publish(p, "t", QoS::ExactlyOnce, &payload);
            for c in &takers {
                let got = w.drain(*c);
                assert_eq!(got.len(), 1, "{size}");
                assert!(got[0].publish().payload == payload.as_bytes(), "{size}");
            }
        }
    }
}
