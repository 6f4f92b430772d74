//! What these conversations say again and again: before 5.0 a server says goodbye by closing alone.

use weirmq::broker::shard::CloseReason;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ProtocolError;

use crate::common::dialogue::expect_open;
use crate::common::world::*;

pub const V3: Version = Version::V3;
pub const V4: Version = Version::V4;

/// Asserts that the broker has ended this connection without another packet; why.
#[track_caller]
pub fn expect_cut(w: &mut World, client: usize) -> ProtocolError {
    let frames = w.take(client);
    assert!(frames.is_empty(), "packets before the end: {frames:?}");
    assert_eq!(w.clients[client].connection, None, "the connection is still open");
    match w.clients[client].closed.clone() {
        Some(CloseReason::Server(error)) => error,
        other => panic!("closed for another reason: {other:?}"),
    }
}

/// Asserts that these bytes, sent by a client that is connected, make the broker close the connection, for that
/// reason, and that nothing behind them is answered.
#[track_caller]
pub fn closes(version: Version, bytes: &[u8], detail: &str) {
    let mut w = World::new(1);
    let (c, other) = (w.connect(version, "c"), w.connect(version, "other"));
    w.send_bytes(c, &[bytes, &[0xC0, 0x00]].concat());
    assert_eq!(expect_cut(&mut w, c).detail, detail, "{version:?} {bytes:02X?}");
    // Nobody else's business.
    expect_open(&mut w, other);
}

/// Asserts that these bytes, sent by a client that is connected, leave the connection open.
#[track_caller]
pub fn stays(version: Version, bytes: &[u8]) {
    let mut w = World::new(1);
    let c = w.connect(version, "c");
    w.send_bytes(c, bytes);
    assert!(w.clients[c].connection.is_some(), "{version:?} {bytes:02X?}: {:?}", w.clients[c].closed);
    expect_open(&mut w, c);
}

/// A CONNECT that keeps its session and has a Will.
pub fn willing<'a>(client_id: &'a str, clean_session: bool, will: LastWill<'a>) -> Connect<'a> {
    Connect { will: Some(will), ..connect(V4, client_id, clean_session) }
}

/// A field of that length: two bytes and the bytes in hexadecimal.
pub fn field(hex: &str) -> String {
    format!("{:04X} {hex}", hex.len() / 2)
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The first bytes of packets.
pub fn first_bytes(frames: &[Frame]) -> Vec<u8> {
    frames.iter().map(|frame| frame.bytes[0]).collect()
}

/// Takes everything that a client has received, on the wire.
pub fn take_bytes(w: &mut World, client: usize) -> Vec<u8> {
    w.take(client).into_iter().flat_map(|frame| frame.bytes).collect()
}

/// The Packet Identifiers of PUBLISH packets.
pub fn ids(frames: &[Frame]) -> Vec<u16> {
    frames.iter().map(|frame| frame.publish().packet_id.map_or(0, PacketId::get)).collect()
}

/// A PUBLISH with that Packet Identifier.
pub fn numbered<'a>(topic: &'a str, qos: QoS, packet_id: u16, payload: &'a str) -> Publish<'a> {
    Publish { packet_id: PacketId::new(packet_id), ..message(topic, qos, payload) }
}

/// A PUBLISH with RETAIN.
pub fn retained<'a>(topic: &'a str, qos: QoS, payload: &'a str) -> Publish<'a> {
    Publish { retain: true, ..message(topic, qos, payload) }
}
