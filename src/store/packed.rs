//! How numbers and texts stand in a record: integers in as few bytes as they need, seven bits in each; the numbers of
//! messages and queues in two parts, since a shard's prefix and a count are both small.

use std::num::NonZeroU16;

use crate::message::QueueId;
use crate::protocol::packet::PacketId;

/// The bits of a number that its shard counts by; the shard's prefix is above them.
pub(super) const COUNTED_BITS: u32 = 48;

const COUNTED: u64 = (1 << COUNTED_BITS) - 1;

/// Appends an integer.
pub(super) fn put_integer(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the number of a message or queue.
pub(super) fn put_number(number: u64, out: &mut Vec<u8>) {
    put_integer(number >> COUNTED_BITS, out);
    put_integer(number & COUNTED, out);
}

/// Appends bytes behind their length.
pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_integer(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Takes apart what the functions above wrote. Whatever the bytes are, each method gives a value or `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    /// A byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&head, tail) = self.0.split_first()?;
        self.0 = tail;
        Some(head)
    }

    /// An integer.
    pub(super) fn integer(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// An integer of 32 bits.
    pub(super) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.integer()?).ok()
    }

    /// The number of a message or queue.
    pub(super) fn number(&mut self) -> Option<u64> {
        let prefix = u16::try_from(self.integer()?).ok()?;
        let counted = self.integer()?;
        (counted <= COUNTED).then_some(u64::from(prefix) << COUNTED_BITS | counted)
    }

    /// The number of a queue.
    pub(super) fn queue(&mut self) -> Option<QueueId> {
        self.number().map(QueueId)
    }

    /// A packet id.
    pub(super) fn packet_id(&mut self) -> Option<PacketId> {
        NonZeroU16::new(u16::try_from(self.integer()?).ok()?)
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.integer()?;
        self.take(usize::try_from(len).ok()?)
    }

    /// Text behind its length.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_at_their_borders() {
        for value in [0, 1, 0x7F, 0x80, 0x3FFF, 0x4000, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_integer(value, &mut out);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.integer(), Some(value));
            assert!(reader.rest().is_empty());
            assert_eq!(Reader::new(&out[..out.len() - 1]).integer(), None, "{value} cut short");
        }
        assert_eq!(Reader::new(&[0xFF; 12]).integer(), None);
        assert_eq!(
            Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02]).integer(),
            None
        );
    }

    #[test]
    fn a_number_takes_few_bytes() {
        for number in [0, 1, COUNTED, 3 << COUNTED_BITS | 1_000_000, u64::MAX] {
            let mut out = Vec::new();
            put_number(number, &mut out);
            assert_eq!(Reader::new(&out).number(), Some(number));
        }
        let mut out = Vec::new();
        put_number(3 << COUNTED_BITS | 1_000_000, &mut out);
        assert_eq!(out.len(), 4);
    }
}
