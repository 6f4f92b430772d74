//! The decoder on any bytes: the first chooses the version, the rest is a stream that is framed and decoded until it ends or
//! is refused. How much of it has come makes no difference to what it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirmq::protocol::codec::{MAX_PACKET_SIZE, connect_version, decode, frame};
use weirmq::protocol::packet::{Packet, Version};

#[path = "../../tests/common/consistent.rs"]
mod consistent;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut stream)) = data.split_first() else { return };
    let version = [Version::V3, Version::V4, Version::V5][usize::from(choice % 3)];
    connects(stream);
    loop {
        let framed = frame(Some(version), stream, MAX_PACKET_SIZE);
        let Ok(Some(size)) = framed else { return is_judged_early(version, stream, framed.is_err()) };
        assert!((2..=MAX_PACKET_SIZE as usize + 5).contains(&size));
        let Some((packet, rest)) = stream.split_at_checked(size) else { return };
        is_framed_by_its_head(version, packet);
        if consistent::is_consistent(version, packet) {
            // No part of a packet is one, nor is more than it.
            assert!(decode(version, &packet[..size - 1]).is_err());
            if let Some(more) = stream.get(..size + 1) {
                assert!(decode(version, more).is_err());
            }
        }
        stream = rest;
    }
});

/// The first packet says its version, and is refused or decoded by that.
fn connects(stream: &[u8]) {
    let first = frame(None, stream, MAX_PACKET_SIZE);
    let Ok(version) = connect_version(stream) else { return };
    let Ok(Some(size)) = first else { return };
    let Some(packet) = stream.get(..size) else { return };
    if let Ok(Packet::Connect(connect)) = decode(version, packet) {
        assert_eq!(connect.version, version);
    }
}

/// Its head says all: no more of it is needed, and a bound below it refuses it before its body has come.
fn is_framed_by_its_head(version: Version, packet: &[u8]) {
    let head = 1 + packet[1..].iter().take(4).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    for len in 0..head {
        assert_eq!(frame(Some(version), &packet[..len], MAX_PACKET_SIZE), Ok(None));
    }
    assert_eq!(frame(Some(version), &packet[..head], MAX_PACKET_SIZE), Ok(Some(packet.len())));
    let len = packet.len() as u32;
    assert_eq!(frame(Some(version), &packet[..head], len), Ok(Some(packet.len())));
    assert!(frame(Some(version), &packet[..head], len - 1).is_err());
}

/// What is no packet is refused by its first bytes, whatever follows.
fn is_judged_early(version: Version, stream: &[u8], is_refused: bool) {
    let head = &stream[..stream.len().min(5)];
    assert_eq!(frame(Some(version), head, MAX_PACKET_SIZE).is_err(), is_refused);
}
