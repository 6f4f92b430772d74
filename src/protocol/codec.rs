//! The codec's front door: where a packet ends in a stream of bytes, and the way from bytes to
//! [`Packet`](super::packet::Packet) and back.

use super::packet::{PacketId, PacketType, Version};
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
    let Some(&first) = buf.first() else { return Ok(None) };
    judge_first_byte(version, first)?;
    let Some((remaining, len)) = wire::variable(&buf[1..])? else { return Ok(None) };
    let size = 1 + len + remaining as usize;
    if size > max_packet_size as usize {
        return Err(ProtocolError::new(ReasonCode::PacketTooLarge, "the packet is larger than the limit"));
    }
    Ok(Some(size))
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

/// The type in a packet's first byte, if its flags are right for it [MQTT-2.1.3-1].
pub(super) fn judge_first_byte(version: Option<Version>, first: u8) -> Result<PacketType, ProtocolError> {
    let packet_type = PacketType::from_bits(first >> 4)
        .ok_or_else(|| ProtocolError::malformed("a packet of type 0, which does not exist"))?;
    let flags = first & 0x0F;
    let right = match packet_type {
        // QoS 3 [MQTT-3.3.1-4]; DUP with QoS 0 [MQTT-3.3.1-2].
        PacketType::Publish => flags & 0b0110 != 0b0110 && flags & 0b1110 != 0b1000,
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => {
            // 3.1 marks these too as sent again.
            flags == 0b0010 || (flags == 0b1010 && version == Some(Version::V3))
        }
        _ => flags == 0,
    };
    if !right {
        return Err(ProtocolError::malformed("reserved flags in the fixed header"));
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
