//! The decoder on any bytes: the first chooses the version, the rest is a stream that is framed and decoded
//! until it ends or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirmq::protocol::codec::{MAX_PACKET_SIZE, connect_version, frame};
use weirmq::protocol::packet::Version;

#[path = "../../tests/common/consistent.rs"]
mod consistent;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut stream)) = data.split_first() else { return };
    let version = [Version::V3, Version::V4, Version::V5][usize::from(choice % 3)];
    let _ = frame(None, stream, MAX_PACKET_SIZE);
    let _ = connect_version(stream);
    while let Ok(Some(size)) = frame(Some(version), stream, MAX_PACKET_SIZE) {
        let Some((packet, rest)) = stream.split_at_checked(size) else { return };
        consistent::is_consistent(version, packet);
        stream = rest;
    }
});
