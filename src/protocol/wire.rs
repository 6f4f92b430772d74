//! The primitive encodings (MQTT 5.0, 1.5): integers, Variable Byte Integers, UTF-8 strings and
//! binary data, read from a slice without copying and written to a growing buffer.

use super::reason::ProtocolError;

/// The largest Variable Byte Integer: four bytes of seven bits.
pub(super) const MAX_VARIABLE_BYTE_INTEGER: usize = 268_435_455;

/// What is left to read of one packet. Running out of bytes is malformed: the frame is complete.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of `bytes`, from their beginning.
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// Whether all is read.
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// What is left, without reading it.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Fails unless all was read.
    pub(super) fn finish(self) -> Result<(), ProtocolError> {
        if self.0.is_empty() { Ok(()) } else { Err(ProtocolError::malformed("bytes after the packet's end")) }
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], ProtocolError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or_else(ends_early)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or_else(ends_early)?;
        self.0 = tail;
        Ok(*head)
    }

    /// A byte.
    pub(super) fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A Two Byte Integer.
    pub(super) fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A Four Byte Integer.
    pub(super) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A Variable Byte Integer.
    pub(super) fn variable(&mut self) -> Result<u32, ProtocolError> {
        let (value, len) = variable(self.0)?.ok_or_else(ends_early)?;
        self.take(len)?;
        Ok(value)
    }

    /// Binary Data.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], ProtocolError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 Encoded String. U+FEFF stays where it is [MQTT-1.5.4-3].
    pub(super) fn str(&mut self) -> Result<&'a str, ProtocolError> {
        let text = self.utf8()?;
        // All bytes at once, where a search would look at one after the other.
        let has_nul = text.bytes().fold(false, |found, byte| found | (byte == 0));
        if has_nul { Err(holds_nul()) } else { Ok(text) }
    }

    /// A UTF-8 Encoded String that is to be a Topic Name.
    pub(super) fn topic(&mut self) -> Result<Topic<'a>, ProtocolError> {
        let text = self.utf8()?;
        let (mut has_nul, mut has_wildcard) = (false, false);
        for byte in text.bytes() {
            has_nul |= byte == 0;
            has_wildcard |= byte == b'+' || byte == b'#';
        }
        if has_nul { Err(holds_nul()) } else { Ok(Topic { text, has_wildcard }) }
    }

    fn utf8(&mut self) -> Result<&'a str, ProtocolError> {
        // Surrogates are not UTF-8 either [MQTT-1.5.4-1].
        std::str::from_utf8(self.binary()?).map_err(|_| ProtocolError::malformed("a string is not UTF-8"))
    }
}

/// A string where a Topic Name stands.
#[derive(Clone, Copy)]
pub(super) struct Topic<'a> {
    pub(super) text: &'a str,
    /// Then it is none.
    pub(super) has_wildcard: bool,
}

#[cold]
fn holds_nul() -> ProtocolError {
    ProtocolError::malformed("a string holds U+0000") // [MQTT-1.5.4-2]
}

#[cold]
fn ends_early() -> ProtocolError {
    ProtocolError::malformed("the packet ends in the middle of a field")
}

/// The Variable Byte Integer that `bytes` begin with, and its length in bytes; `None` while its last
/// byte is missing.
#[inline]
pub(super) fn variable(bytes: &[u8]) -> Result<Option<(u32, usize)>, ProtocolError> {
    match bytes {
        // Almost all are of one byte.
        [byte @ 0..0x80, ..] => Ok(Some((u32::from(*byte), 1))),
        _ => longer_variable(bytes),
    }
}

fn longer_variable(bytes: &[u8]) -> Result<Option<(u32, usize)>, ProtocolError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(ProtocolError::malformed("an integer in more bytes than it needs")); // [MQTT-1.5.5-1]
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(ProtocolError::malformed("an integer in more than four bytes"));
    }
    Ok(None)
}

/// How many bytes `value` takes as a Variable Byte Integer.
pub(super) fn variable_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Appends a Variable Byte Integer in as few bytes as it needs [MQTT-1.5.5-1].
///
/// # Panics
/// If `value` is over [`MAX_VARIABLE_BYTE_INTEGER`]: the wire cannot say it.
pub(super) fn put_variable(mut value: usize, out: &mut Vec<u8>) {
    assert!(value <= MAX_VARIABLE_BYTE_INTEGER, "{value} does not fit a Variable Byte Integer");
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends Binary Data.
///
/// # Panics
/// If `data` is over 65,535 bytes: the wire cannot say it, and to cut it would be to say something else.
pub(super) fn put_binary(data: &[u8], out: &mut Vec<u8>) {
    assert!(data.len() <= usize::from(u16::MAX), "{} bytes do not fit a field of 65,535", data.len());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends a UTF-8 Encoded String.
///
/// # Panics
/// If `text` is over 65,535 bytes.
pub(super) fn put_str(text: &str, out: &mut Vec<u8>) {
    put_binary(text.as_bytes(), out);
}

/// Appends what `body` writes after its length as a Variable Byte Integer.
pub(super) fn put_with_len(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    body(out);
    let len = out.len() - start - 1;
    match u8::try_from(len) {
        Ok(byte) if byte < 0x80 => out[start] = byte,
        _ => {
            let mut prefix = Vec::with_capacity(4);
            put_variable(len, &mut prefix);
            out.splice(start..=start, prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_byte_integers_at_their_borders() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (MAX_VARIABLE_BYTE_INTEGER, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            let mut out = Vec::new();
            put_variable(value, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(variable_len(value), bytes.len());
            assert_eq!(variable(bytes), Ok(Some((value as u32, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(variable(&bytes[..end]), Ok(None), "the first {end} bytes of {value}");
            }
        }
    }

    #[test]
    fn a_length_prefix_of_any_size_is_put_before_what_was_written() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 2_097_152] {
            let mut out = vec![9];
            put_with_len(&mut out, |out| out.resize(out.len() + len, 7));
            let mut expected = vec![9];
            put_variable(len, &mut expected);
            expected.resize(expected.len() + len, 7);
            assert!(out == expected, "{len}");
        }
    }

    #[test]
    #[should_panic(expected = "65536 bytes do not fit a field of 65,535")]
    fn a_field_that_is_too_long_is_not_cut() {
        put_binary(&[0; 65_536], &mut Vec::new());
    }
}
