//! Packets written by hand, for tests: hexadecimal bytes, spaced as one likes, and 'text'.

use weirmq::protocol::codec::decode;
use weirmq::protocol::packet::{Packet, Version};

/// The bytes that `notation` stands for: `"30 06 0003 'a/b' 21"`.
pub fn wire(notation: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in notation.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: String = part.split_whitespace().collect();
        assert!(digits.len().is_multiple_of(2), "half a byte in {part:?}");
        for pair in digits.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            bytes.push(u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("{pair:?} in {notation:?}")));
        }
    }
    bytes
}

/// The packet of a first byte and what follows the Remaining Length, which is put between them.
#[allow(dead_code, reason = "not every test binary that has this module writes packets so")]
pub fn packet(first: u8, body: &str) -> Vec<u8> {
    let body = wire(body);
    let mut bytes = vec![first];
    let mut len = body.len();
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend(body);
    bytes
}

/// A QoS 0 PUBLISH of 5.0 with these properties.
#[allow(dead_code, reason = "as above")]
pub fn publish_with(properties: &str) -> Vec<u8> {
    let properties = wire(properties);
    let hex: String = properties.iter().map(|byte| format!("{byte:02X}")).collect();
    packet(0x30, &format!("0001't' {:02X} {hex}", properties.len()))
}

/// Decoding fails with that reason code, and for that reason.
#[allow(dead_code, reason = "as above")]
#[track_caller]
pub fn refused(version: Version, bytes: &[u8], reason: u8, detail: &str) {
    match decode(version, bytes) {
        Ok(packet) => panic!("{version:?} took {bytes:02X?} as {packet:?}"),
        Err(error) => {
            assert_eq!((error.reason as u8, &*error.detail), (reason, detail), "{version:?} {bytes:02X?}");
        }
    }
}

#[allow(dead_code, reason = "as above")]
#[track_caller]
pub fn accepted(version: Version, bytes: &[u8]) -> Packet<'_> {
    decode(version, bytes).unwrap_or_else(|error| panic!("{version:?} refused {bytes:02X?}: {error}"))
}
