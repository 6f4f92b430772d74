//! The codec's front door: where a packet ends in a stream of bytes, and the way from bytes to
//! [`Packet`] and back.

use super::decode::decode_body;
use super::packet::{Packet, PacketId, PacketType, Version};
use super::reason::{ProtocolError, ReasonCode};
use super::wire;

pub use super::decode::{connect_version, decode};
pub use super::encode::encode;
pub use super::publish::PublishHeader;

/// The largest packet that the wire can carry, fixed header included, in bytes.
pub const MAX_PACKET_SIZE: u32 = 5 + wire::MAX_VARIABLE_BYTE_INTEGER as u32;

/// Finds the end of the packet that `buf` begins with, by its fixed header alone and as early as its bytes
/// allow: `Ok(Some(size))` is the whole packet's size in bytes, whether or not its body has arrived;
/// `Ok(None)` asks for more bytes. `version` is that of the connection, `None` before its CONNECT.
///
/// # Errors
/// 0x81 for a type or flags that do not exist or a length that is not minimal, 0x82 for another packet than
/// CONNECT before CONNECT, 0x95 if the packet is larger than `max_packet_size`.
pub fn frame(
    version: Option<Version>,
    buf: &[u8],
    max_packet_size: u32,
) -> Result<Option<usize>, ProtocolError> {
    Ok(fixed_header(version, buf, max_packet_size)?.map(|header| header.size))
}

/// What the fixed header of a packet says.
#[derive(Clone, Copy)]
struct FixedHeader {
    packet_type: PacketType,
    /// Its own bytes.
    len: usize,
    /// Those of the whole packet.
    size: usize,
}

#[inline]
fn fixed_header(
    version: Option<Version>,
    buf: &[u8],
    max_packet_size: u32,
) -> Result<Option<FixedHeader>, ProtocolError> {
    let Some(&first) = buf.first() else { return Ok(None) };
    let packet_type = judge_first_byte(version, first)?;
    let Some((remaining, len)) = wire::variable(&buf[1..])? else { return Ok(None) };
    let len = 1 + len;
    let size = len + remaining as usize;
    if size > max_packet_size as usize {
        return Err(too_large());
    }
    Ok(Some(FixedHeader { packet_type, len, size }))
}

#[cold]
fn too_large() -> ProtocolError {
    ProtocolError::new(ReasonCode::PacketTooLarge, "the packet is larger than the limit")
}

/// A whole packet of a connection, its fixed header judged and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    version: Version,
    packet_type: PacketType,
    bytes: &'a [u8],
    /// Where the fixed header ends.
    body: usize,
}

impl<'a> Frame<'a> {
    /// The packet that `buf` begins with, `None` while a part of it is missing.
    ///
    /// # Errors
    /// As [`frame`].
    #[inline]
    pub fn first(
        version: Version,
        buf: &'a [u8],
        max_packet_size: u32,
    ) -> Result<Option<Frame<'a>>, ProtocolError> {
        let Some(header) = fixed_header(Some(version), buf, max_packet_size)? else { return Ok(None) };
        let FixedHeader { packet_type, len, size } = header;
        Ok(buf.get(..size).map(|bytes| Frame { version, packet_type, bytes, body: len }))
    }

    /// All of its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What it is.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(&self) -> Result<Packet<'a>, ProtocolError> {
        decode_body(self.version, self.packet_type, self.bytes[0], &self.bytes[self.body..])
    }
}

/// Bytes of a PUBACK of the shortest form: success, without properties. It is the same in every version.
pub const SHORT_PUBACK: usize = 4;

/// The packet id of the PUBACK of the shortest form that `buf` begins with; `None` if it begins with anything else.
pub fn short_puback(buf: &[u8]) -> Option<PacketId> {
    match buf {
        [0x40, 2, high, low, ..] => PacketId::new(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// The types whose flags are 0b0010.
const FLAGGED: [PacketType; 3] = [PacketType::PubRel, PacketType::Subscribe, PacketType::Unsubscribe];

/// For each type a bit for each value of the flags that is right for it.
const RIGHT_FLAGS: [u16; 16] = {
    let mut right = [1 << 0; 16];
    let mut at = 0;
    while at < FLAGGED.len() {
        right[FLAGGED[at] as usize] = 1 << 0b0010;
        at += 1;
    }
    // All but QoS 3 [MQTT-3.3.1-4], and DUP with QoS 0 [MQTT-3.3.1-2].
    let qos_3 = 0b11 << 0b0110 | 0b11 << 0b1110;
    right[PacketType::Publish as usize] = !(qos_3 | 0b11 << 0b1000);
    right
};

/// The type in a packet's first byte, if its flags are right for it [MQTT-2.1.3-1].
pub(super) fn judge_first_byte(version: Option<Version>, first: u8) -> Result<PacketType, ProtocolError> {
    let Some(packet_type) = PacketType::from_bits(first >> 4) else {
        return Err(ProtocolError::malformed("a packet of type 0, which does not exist"));
    };
    let flags = first & 0x0F;
    if RIGHT_FLAGS[usize::from(first >> 4)] >> flags & 1 == 0 {
        // 3.1 marks these too as sent again.
        let again = FLAGGED.contains(&packet_type) && flags == 0b1010 && version == Some(Version::V3);
        if !again {
            return Err(ProtocolError::malformed("reserved flags in the fixed header"));
        }
    }
    match version {
        None if packet_type != PacketType::Connect => {
            Err(ProtocolError::protocol("the first packet is not CONNECT")) // [MQTT-3.1.0-1]
        }
        Some(Version::V3 | Version::V4) if packet_type == PacketType::Auth => {
            Err(ProtocolError::malformed("AUTH before MQTT 5.0"))
        }
        _ => Ok(packet_type),
    }
}
