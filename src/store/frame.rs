//! What the journal is made of: frames of eight bytes and a payload, each at a multiple of eight, each with a checksum
//! that holds for its place alone. What was left behind by an earlier use of the file, or copied from another place, or
//! written into a payload to look like one, is no frame.

use std::io;
use std::sync::Arc;

use crc32c::crc32c_append;

use super::Position;
use super::disk::File;

/// The bytes before a payload.
const HEAD: usize = 8;

/// The longest payload, in bytes.
pub const MAX_PAYLOAD: usize = (1 << KIND_SHIFT) - 1;

const KIND_SHIFT: u32 = 30;

/// How much is read at a time, in bytes.
const WINDOW: u64 = 1024 * 1024;

/// How much is searched at a time, in bytes.
const PAGE: usize = 4096;

/// What a [`Mark`]'s frame begins with.
const MARK: [u8; 4] = (((Kind::Mark as u32) << KIND_SHIFT) | Mark::LEN as u32).to_le_bytes();

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A record of the store.
    Record = 1,
    /// The beginning of a batch.
    Mark = 2,
    /// What was not sound here has been taken out.
    Gap = 3,
}

/// The bytes that a payload of `len` takes in a segment.
pub const fn framed(len: usize) -> u64 {
    (HEAD + len).next_multiple_of(8) as u64
}

/// Whether a frame can begin or end at `offset` of its segment. What says otherwise was not written by a store, whatever its
/// checksum.
pub const fn is_bound(offset: u32) -> bool {
    offset.is_multiple_of(8)
}

/// What the checksums of one segment are mixed with. The salt is the folder's own secret: who sends a message cannot know
/// what would pass for a frame in it.
#[derive(Clone, Copy, Debug)]
pub struct Key(u32);

impl Key {
    /// That of the segment `number`.
    pub fn new(salt: u64, number: u32) -> Key {
        Key(crc32c_append(crc32c_append(0, &salt.to_le_bytes()), &number.to_le_bytes()))
    }

    fn checksum(self, offset: u64, word: u32, payload: &[u8]) -> u32 {
        let mut place = [0; 12];
        place[..8].copy_from_slice(&offset.to_le_bytes());
        place[8..].copy_from_slice(&word.to_le_bytes());
        crc32c_append(crc32c_append(self.0, &place), payload)
    }

    /// Appends the frame that stands at `offset` of its segment.
    pub fn put(self, buf: &mut Vec<u8>, offset: u64, kind: Kind, payload: &[u8]) {
        debug_assert!(payload.len() <= MAX_PAYLOAD && offset.is_multiple_of(8));
        let word = ((kind as u32) << KIND_SHIFT) | payload.len() as u32;
        let end = buf.len() + framed(payload.len()) as usize;
        buf.extend_from_slice(&word.to_le_bytes());
        buf.extend_from_slice(&self.checksum(offset, word, payload).to_le_bytes());
        buf.extend_from_slice(payload);
        buf.resize(end, 0);
    }

    /// Whether `head` and `payload` are what was written at `offset`.
    pub fn holds(self, head: Head, offset: u64, payload: &[u8]) -> bool {
        head.checksum == self.checksum(offset, head.word, payload)
    }
}

/// The first eight bytes of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    word: u32,
    checksum: u32,
    /// What it claims to be.
    pub kind: Kind,
}

impl Head {
    /// The bytes that come first.
    pub const LEN: usize = HEAD;

    /// Reads one; `None` for what no frame begins with.
    pub fn parse(bytes: [u8; HEAD]) -> Option<Head> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let word = u32::from_le_bytes([a, b, c, d]);
        let kind = match word >> KIND_SHIFT {
            1 => Kind::Record,
            2 => Kind::Mark,
            3 => Kind::Gap,
            _ => return None,
        };
        if kind == Kind::Mark && word as usize & MAX_PAYLOAD != Mark::LEN {
            return None;
        }
        Some(Head { word, checksum: u32::from_le_bytes([e, f, g, h]), kind })
    }

    /// Bytes of the payload.
    pub fn payload_len(self) -> usize {
        self.word as usize & MAX_PAYLOAD
    }
}

/// What begins a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Counts the batches.
    pub sequence: u64,
    /// Everything below this was known to be on disk when the batch was written.
    pub durable: Position,
    /// When it was written, in milliseconds since 1970.
    pub wall: u64,
}

impl Mark {
    /// Its bytes as a payload.
    pub const LEN: usize = 24;

    /// As a payload.
    pub fn encode(self) -> [u8; Mark::LEN] {
        let mut bytes = [0; Mark::LEN];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[16..].copy_from_slice(&self.wall.to_le_bytes());
        bytes
    }

    /// Reads one from a payload that has been verified.
    pub fn decode(payload: &[u8]) -> Option<Mark> {
        let bytes: &[u8; Mark::LEN] = payload.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Some(Mark { sequence: word(0), durable: Position(word(8)), wall: word(16) })
    }
}

/// A file as far as `limit`, read in large pieces.
#[derive(Debug)]
struct Window {
    file: Arc<dyn File>,
    limit: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Makes `offset..offset + len` be in memory; `false` when that ends beyond the limit.
    fn fill(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        if len > self.limit.saturating_sub(offset) {
            return Ok(false);
        }
        if offset < self.at || offset + len > self.at + self.bytes.len() as u64 {
            let wanted = len.max(WINDOW).min(self.limit - offset);
            self.bytes.resize(wanted as usize, 0);
            self.at = offset;
            if let Err(error) = self.file.read_at(&mut self.bytes, offset) {
                self.bytes.clear();
                return Err(error);
            }
        }
        Ok(true)
    }

    /// All that is in memory from `offset` on.
    fn rest(&self, offset: u64) -> &[u8] {
        &self.bytes[(offset - self.at) as usize..]
    }

    /// What [`Window::fill`] has brought.
    fn slice(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset - self.at) as usize;
        &self.bytes[start..start + len]
    }
}

/// A frame that has been verified.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Where it begins.
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
    /// What it holds.
    pub payload: &'a [u8],
}

/// Reads a segment frame by frame.
#[derive(Debug)]
pub struct Frames {
    window: Window,
    key: Key,
    offset: u64,
}

impl Frames {
    /// Reads `file` from `offset` to `limit`, neither beyond its end.
    pub fn new(file: Arc<dyn File>, key: Key, offset: u64, limit: u64) -> Frames {
        Frames { window: Window { file, limit, at: 0, bytes: Vec::new() }, key, offset }
    }

    /// Where the next frame begins; the end of the last one that was good.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on from another place.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The next frame; `None` where none holds.
    ///
    /// # Errors
    /// Those of reading.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        let offset = self.offset;
        let Some(head) = self.head()? else { return Ok(None) };
        if !self.window.fill(offset, framed(head.payload_len()))? {
            return Ok(None);
        }
        let payload = &self.window.slice(offset, HEAD + head.payload_len())[HEAD..];
        if !self.key.holds(head, offset, payload) {
            return Ok(None);
        }
        self.offset = offset + framed(head.payload_len());
        Ok(Some(Frame { offset, kind: head.kind, payload }))
    }

    /// What the next frame claims to be, true or not.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        if !self.window.fill(self.offset, HEAD as u64)? {
            return Ok(None);
        }
        let mut bytes = [0; HEAD];
        bytes.copy_from_slice(self.window.slice(self.offset, HEAD));
        Ok(Head::parse(bytes))
    }

    /// The next mark, wherever it stands: what is no mark, or does not hold, is skipped.
    ///
    /// # Errors
    /// Those of reading.
    pub fn next_mark(&mut self) -> io::Result<Option<Mark>> {
        while self.window.fill(self.offset, framed(Mark::LEN))? {
            let rest = self.window.rest(self.offset);
            let piece = &rest[..rest.len().min(PAGE)];
            // Most of what is searched was never written.
            let found = if piece == &[0; PAGE][..piece.len()] {
                None
            } else {
                piece.chunks_exact(8).position(|word| word.starts_with(&MARK))
            };
            let Some(found) = found else {
                self.offset += (piece.len() / 8 * 8) as u64;
                continue;
            };
            self.offset += 8 * found as u64;
            if let Some(frame) = self.next_frame()? {
                return Ok(Mark::decode(frame.payload));
            }
            self.offset += 8;
        }
        Ok(None)
    }

    /// Whether nothing was written at the next frame's place: zeros, or the limit.
    ///
    /// # Errors
    /// Those of reading.
    pub fn is_blank(&mut self) -> io::Result<bool> {
        let left = self.window.limit.saturating_sub(self.offset).min(HEAD as u64);
        if left == 0 {
            return Ok(true);
        }
        self.window.fill(self.offset, left)?;
        Ok(self.window.slice(self.offset, left as usize).iter().all(|byte| *byte == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Disk;
    use super::super::ramdisk::RamDisk;
    use super::*;

    fn frames(bytes: Vec<u8>, limit: u64) -> Frames {
        let disk = RamDisk::new();
        disk.put("one", bytes);
        Frames::new(disk.open("one").unwrap(), Key::new(1, 2), 0, limit)
    }

    fn put(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for payload in payloads {
            let offset = bytes.len() as u64;
            Key::new(1, 2).put(&mut bytes, offset, Kind::Record, payload);
        }
        bytes
    }

    #[test]
    fn frames_are_read_as_they_were_put() {
        let payloads: [&[u8]; 5] = [b"", b"1", b"12345678", &[7; 3 * WINDOW as usize], b"end"];
        let bytes = put(&payloads);
        assert_eq!(bytes.len() as u64, payloads.iter().map(|payload| framed(payload.len())).sum::<u64>());
        let len = bytes.len() as u64;
        let mut frames = frames(bytes, len);
        for payload in payloads {
            let frame = frames.next_frame().unwrap().unwrap();
            assert_eq!((frame.kind, frame.payload), (Kind::Record, payload));
        }
        assert!(frames.next_frame().unwrap().is_none() && frames.is_blank().unwrap());
        assert_eq!(frames.offset(), len);
    }

    #[test]
    fn a_frame_holds_for_its_place_alone() {
        let payload = b"payload";
        let mut bytes = Vec::new();
        Key::new(1, 2).put(&mut bytes, 64, Kind::Record, payload);
        let head = Head::parse(*bytes.first_chunk().unwrap()).unwrap();
        assert!(Key::new(1, 2).holds(head, 64, payload));
        assert!(!Key::new(1, 2).holds(head, 72, payload));
        assert!(!Key::new(1, 3).holds(head, 64, payload));
        assert!(!Key::new(2, 2).holds(head, 64, payload));
    }

    #[test]
    fn nothing_is_read_beyond_the_limit() {
        let bytes = put(&[b"one", b"two"]);
        for limit in 0..=bytes.len() as u64 {
            let mut frames = frames(bytes.clone(), limit);
            let mut count = 0;
            while frames.next_frame().unwrap().is_some() {
                count += 1;
            }
            assert_eq!(count, limit / framed(3));
            assert_eq!(frames.is_blank().unwrap(), limit % framed(3) == 0);
        }
    }

    #[test]
    fn marks_are_found_wherever_they_stand() {
        let key = Key::new(1, 2);
        let mark = |sequence| Mark { sequence, durable: Position(9), wall: 10 };
        let mut bytes = vec![0; 3 * PAGE];
        bytes.extend_from_slice(&[0xff; 8 * 100]);
        let places = [PAGE as u64 * 2 - 8, bytes.len() as u64, bytes.len() as u64 + 2 * WINDOW + 40];
        bytes.resize(places[2] as usize + 64, 1);
        for (sequence, place) in places.iter().enumerate() {
            let mut frame = Vec::new();
            key.put(&mut frame, *place, Kind::Mark, &mark(sequence as u64).encode());
            bytes[*place as usize..*place as usize + frame.len()].copy_from_slice(&frame);
        }
        // One that does not hold.
        bytes[100 * 8..100 * 8 + 4].copy_from_slice(&MARK);
        let len = bytes.len() as u64;
        let mut frames = frames(bytes, len);
        for sequence in 0..3 {
            assert_eq!(frames.next_mark().unwrap(), Some(mark(sequence)));
        }
        assert_eq!(frames.next_mark().unwrap(), None);
    }
}
