//! Every type of packet from a client in every version: what a server may be sent, and how it takes what only a
//! server may send.

use weirmq::broker::shard::CloseReason;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;

/// A well-formed packet of each type, in the form that the version has.
fn of_each_type(version: Version) -> Vec<(PacketType, Vec<u8>)> {
    let v5 = version == V5;
    let hello = match version {
        Version::V3 => "0006'MQIsdp'03 02 003C 0001'c'",
        Version::V4 => "0004'MQTT'04 02 003C 0001'c'",
        Version::V5 => "0004'MQTT'05 02 003C 00 0001'c'",
    };
    let either = |five: &'static str, older: &'static str| if v5 { five } else { older };
    let mut all = vec![
        (PacketType::Connect, packet(0x10, hello)),
        (PacketType::ConnAck, packet(0x20, either("00 00 00", "00 00"))),
        (PacketType::Publish, packet(0x30, either("0001't' 00", "0001't'"))),
        (PacketType::PubAck, packet(0x40, "0009")),
        (PacketType::PubRec, packet(0x50, "0009")),
        (PacketType::PubRel, packet(0x62, "0009")),
        (PacketType::PubComp, packet(0x70, "0009")),
        (PacketType::Subscribe, packet(0x82, either("0009 00 0001't' 00", "0009 0001't' 00"))),
        (PacketType::SubAck, packet(0x90, either("0009 00 00", "0009 00"))),
        (PacketType::Unsubscribe, packet(0xA2, either("0009 00 0001't'", "0009 0001't'"))),
        (PacketType::UnsubAck, packet(0xB0, either("0009 00 00", "0009"))),
        (PacketType::PingReq, packet(0xC0, "")),
        (PacketType::PingResp, packet(0xD0, "")),
        (PacketType::Disconnect, packet(0xE0, "")),
    ];
    if v5 {
        all.push((PacketType::Auth, packet(0xF0, "18 04 15 0001'K'")));
    }
    all
}

#[test]
fn packets_of_every_type_in_every_version() {
    use PacketType::*;
    for version in [Version::V3, Version::V4, V5] {
        for (packet_type, bytes) in of_each_type(version) {
            let mut w = World::new(1);
            let c = w.connect(version, "c");
            w.send_bytes(c, &bytes);
            let answers: Vec<PacketType> =
                w.take(c).iter().map(|frame| frame.packet().packet_type()).collect();
            let answer = match packet_type {
                PubRec => Some(PubRel),
                PubRel => Some(PubComp),
                Subscribe => Some(SubAck),
                Unsubscribe => Some(UnsubAck),
                PingReq => Some(PingResp),
                _ => None,
            };
            match packet_type {
                Connect | ConnAck | SubAck | UnsubAck | PingResp | Auth => {
                    assert_eq!(
                        w.closed_with(c),
                        Some(ReasonCode::ProtocolError),
                        "{version:?} {packet_type:?}"
                    );
                    let told = if version == V5 { vec![Disconnect] } else { vec![] };
                    assert_eq!(answers, told, "{version:?} {packet_type:?}");
                }
                Disconnect => assert_eq!(w.clients[c].closed, Some(CloseReason::Disconnected)),
                _ => {
                    assert_eq!(answers, Vec::from_iter(answer), "{version:?} {packet_type:?}");
                    assert_eq!(w.clients[c].closed, None, "{version:?} {packet_type:?}");
                }
            }
        }
    }
}

#[test]
fn types_and_flags_that_do_not_exist() {
    for version in [Version::V3, Version::V4, V5] {
        for first in [0x00, 0x0F, 0x11, 0x21, 0x3E, 0x41, 0x60, 0x80, 0xA0, 0xC8, 0xF1] {
            let mut w = World::new(1);
            let c = w.connect(version, "c");
            w.send_bytes(c, &[first]);
            assert_eq!(w.closed_with(c), Some(ReasonCode::MalformedPacket), "{version:?} {first:02X}");
        }
    }
    // AUTH is none of the older versions' types.
    for version in [Version::V3, Version::V4] {
        let mut w = World::new(1);
        let c = w.connect(version, "c");
        w.send_bytes(c, &[0xF0]);
        assert_eq!(w.closed_with(c), Some(ReasonCode::MalformedPacket));
    }
}
