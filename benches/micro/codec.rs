//! Reading and writing single packets.

use std::hint::black_box;

use weirmq::protocol::codec::{self, PublishHeader};
use weirmq::protocol::packet::{PacketId, QoS, Version};

use crate::Case;
use crate::traffic;

/// How many packets a call does.
const PACKETS: usize = 256;

const TOPIC: &str = "site/17/dev/42/temp";

pub fn decode_publish_v4() -> Case {
    decode(Version::V4, traffic::publish(Version::V4, QoS::AtMostOnce, TOPIC, 64, 1))
}

pub fn decode_publish_v5() -> Case {
    decode(Version::V5, traffic::publish(Version::V5, QoS::AtLeastOnce, TOPIC, 64, 1))
}

pub fn decode_puback() -> Case {
    decode(Version::V5, vec![0x40, 2, 0, 1])
}

fn decode(version: Version, bytes: Vec<u8>) -> Case {
    let call = move || {
        for _ in 0..PACKETS {
            let size = codec::frame(Some(version), black_box(&bytes), 1 << 20);
            let packet = codec::decode(version, black_box(&bytes));
            black_box((size.is_ok(), packet.is_ok()));
        }
    };
    Case { unit: "packet", per_call: PACKETS, work: Box::new(call) }
}

pub fn encode_header() -> Case {
    header(Version::V4, QoS::AtMostOnce, &[])
}

pub fn encode_header_v5() -> Case {
    // A Message Expiry Interval.
    header(Version::V5, QoS::AtLeastOnce, &[2, 0, 0, 0, 60])
}

fn header(version: Version, qos: QoS, extra: &'static [u8]) -> Case {
    let mut out = Vec::with_capacity(128);
    let call = move || {
        for _ in 0..PACKETS {
            out.clear();
            let header = PublishHeader {
                dup: false,
                qos,
                retain: false,
                topic: black_box(TOPIC.as_bytes()),
                packet_id: PacketId::new(1).filter(|_| qos > QoS::AtMostOnce),
                properties: &[],
                extra: black_box(extra),
                payload_len: 64,
            };
            header.encode(version, &mut out);
            black_box(&out);
        }
    };
    Case { unit: "header", per_call: PACKETS, work: Box::new(call) }
}
