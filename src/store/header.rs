//! What a segment's file begins with: who it is, and, once that is settled, where it ends. Both stand there twice, each in
//! a sector of its own.

use crc32c::crc32c;

use super::Position;
use super::frame::is_bound;

/// The bytes before the first frame.
pub const HEADER: u64 = 4096;

const MAGIC: [u8; 8] = *b"WEIRSEG\n";

/// The layout that this program writes, and the only one that it reads.
pub const VERSION: u32 = 2;

/// Where identity and ending stand in each half.
const HALF: usize = 2048;
const ENDING: usize = 1024;

/// Who a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The folder's secret ([`super::frame::Key`]).
    pub salt: u64,
    /// Its number.
    pub number: u32,
    /// The segment that it goes on from; 0 for none.
    pub previous: u32,
    /// Where that one ends; 0 where it is not known.
    pub previous_end: u32,
    /// Bytes of its file when it was made.
    pub len: u32,
    /// Everything below this was known to be on disk when the segment was made.
    pub durable: Position,
}

/// Where a segment ends. What lies behind is never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Where the last frame ends.
    pub end: u32,
    /// The segment to which the frames that stood behind the end were moved; 0: there were none.
    pub next: u32,
    /// When the last batch was written that is known of, in milliseconds since 1970.
    pub wall: u64,
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who it is.
    pub identity: Identity,
    /// Where it ends, if that is settled.
    pub ending: Option<Ending>,
}

/// What stands where a header should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A header.
    Header(Header),
    /// One of another version.
    Other(u32),
    /// Nothing that can be read; an ending may be left.
    Nothing(Option<Ending>),
}

impl Header {
    /// As bytes.
    pub fn encode(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        for half in bytes.chunks_exact_mut(HALF) {
            let mut identity = Vec::with_capacity(48);
            identity.extend_from_slice(&MAGIC);
            identity.extend_from_slice(&VERSION.to_le_bytes());
            identity.extend_from_slice(&self.identity.salt.to_le_bytes());
            identity.extend_from_slice(&self.identity.number.to_le_bytes());
            identity.extend_from_slice(&self.identity.previous.to_le_bytes());
            identity.extend_from_slice(&self.identity.previous_end.to_le_bytes());
            identity.extend_from_slice(&self.identity.len.to_le_bytes());
            identity.extend_from_slice(&self.identity.durable.0.to_le_bytes());
            seal(half, identity);
            if let Some(ending) = self.ending {
                let mut bytes = Vec::with_capacity(24);
                bytes.extend_from_slice(&ending.end.to_le_bytes());
                bytes.extend_from_slice(&ending.next.to_le_bytes());
                bytes.extend_from_slice(&ending.wall.to_le_bytes());
                seal(&mut half[ENDING..], bytes);
            }
        }
        bytes
    }

    /// Whether a store can have written it: numbers rise, and what was on disk when a segment was made is nothing that comes
    /// after what it goes on from.
    pub fn is_possible(&self) -> bool {
        let Identity { number, previous, previous_end, durable, .. } = self.identity;
        let next = self.ending.map_or(0, |ending| ending.next);
        previous < number && durable <= Position::new(previous, previous_end) && (next == 0 || next > number)
    }

    /// Reads one.
    pub fn decode(bytes: &[u8; HEADER as usize]) -> Found {
        let mut halves = bytes.chunks_exact(HALF);
        let (Some(first), Some(second)) = (halves.next(), halves.next()) else { return Found::Nothing(None) };
        let ending = ending(first).or_else(|| ending(second));
        if let Some(identity) = identity(first).or_else(|| identity(second)) {
            return Found::Header(Header { identity, ending });
        }
        match (version(first), version(second)) {
            (Some(one), Some(other)) if one == other && one != VERSION => Found::Other(one),
            _ => Found::Nothing(ending),
        }
    }
}

/// Puts `bytes` and their checksum at the beginning of `place`.
fn seal(place: &mut [u8], mut bytes: Vec<u8>) {
    let checksum = crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    place[..bytes.len()].copy_from_slice(&bytes);
}

/// Reads numbers one after the other.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The version that a half names, whether or not the rest of it holds: these twelve bytes never change their place.
fn version(half: &[u8]) -> Option<u32> {
    let mut reader = Reader(half);
    if reader.take() != Some(MAGIC) {
        return None;
    }
    reader.u32()
}

fn identity(half: &[u8]) -> Option<Identity> {
    if version(half)? != VERSION || !sealed(half, 44) {
        return None;
    }
    let mut reader = Reader(half.get(12..)?);
    let identity = Identity {
        salt: reader.u64()?,
        number: reader.u32()?,
        previous: reader.u32()?,
        previous_end: reader.u32()?,
        len: reader.u32()?,
        durable: Position(reader.u64()?),
    };
    (is_bound(identity.previous_end) && is_bound(identity.durable.offset())).then_some(identity)
}

fn ending(half: &[u8]) -> Option<Ending> {
    let half = half.get(ENDING..)?;
    let mut reader = Reader(half);
    let ending = Ending { end: reader.u32()?, next: reader.u32()?, wall: reader.u64()? };
    (sealed(half, 16) && is_bound(ending.end) && u64::from(ending.end) >= HEADER).then_some(ending)
}

/// Whether the first `len` bytes are followed by their checksum.
fn sealed(bytes: &[u8], len: usize) -> bool {
    let Some((bytes, rest)) = bytes.split_at_checked(len) else { return false };
    Reader(rest).u32() == Some(crc32c(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: [Header; 2] = {
        let durable = Position(72);
        let identity = Identity { salt: 1, number: 2, previous: 1, previous_end: 5000, len: 8192, durable };
        [
            Header { identity, ending: None },
            Header { identity, ending: Some(Ending { end: 6000, next: 4, wall: 123 }) },
        ]
    };

    #[test]
    fn a_header_is_read_though_any_byte_is_wrong() {
        for header in HEADERS {
            let bytes = header.encode();
            for at in 0..bytes.len() {
                let mut bytes = bytes;
                bytes[at] ^= 0x10;
                assert_eq!(Header::decode(&bytes), Found::Header(header), "{at}");
            }
        }
    }

    #[test]
    fn a_header_is_read_though_one_half_is_gone() {
        for header in HEADERS {
            for half in [0..HALF, HALF..2 * HALF] {
                let mut bytes = header.encode();
                bytes[half].fill(0xee);
                assert_eq!(Header::decode(&bytes), Found::Header(header));
            }
        }
    }

    #[test]
    fn without_an_identity_the_ending_may_be_left() {
        let mut bytes = HEADERS[1].encode();
        bytes[20] ^= 1;
        bytes[HALF + 20] ^= 1;
        assert_eq!(Header::decode(&bytes), Found::Nothing(HEADERS[1].ending));
        assert_eq!(Header::decode(&[0; HEADER as usize]), Found::Nothing(None));
    }

    #[test]
    fn what_is_no_bound_of_a_frame_is_not_believed() {
        let [open, ended] = HEADERS;
        let identity = Identity { previous_end: 5001, ..open.identity };
        assert_eq!(Header::decode(&Header { identity, ..open }.encode()), Found::Nothing(None));
        let identity = Identity { durable: Position::new(1, 4097), ..open.identity };
        assert_eq!(Header::decode(&Header { identity, ..open }.encode()), Found::Nothing(None));
        let ending = Some(Ending { end: 6001, next: 4, wall: 123 });
        assert_eq!(
            Header::decode(&Header { ending, ..ended }.encode()),
            Found::Header(Header { ending: None, ..ended })
        );
    }

    #[test]
    fn what_no_store_can_have_written_is_told() {
        let [open, ended] = HEADERS;
        assert!(open.is_possible() && ended.is_possible());
        let later = Identity { previous: 3, ..open.identity };
        let itself = Identity { previous: 2, ..open.identity };
        let ahead = Identity { durable: Position::new(1, 5008), ..open.identity };
        for identity in [later, itself, ahead] {
            assert!(!Header { identity, ..open }.is_possible());
        }
        for next in 1..=2 {
            let ending = Some(Ending { end: 6000, next, wall: 123 });
            assert!(!Header { ending, ..ended }.is_possible());
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut bytes = HEADERS[0].encode();
        for version in [1, 3] {
            bytes[8] = 7;
            bytes[HALF + 8] = VERSION as u8;
            assert_eq!(Header::decode(&bytes), Found::Header(HEADERS[0]));
            bytes[HALF + 8] = version;
            assert_eq!(Header::decode(&bytes), Found::Nothing(None));
            bytes[8] = version;
            assert_eq!(Header::decode(&bytes), Found::Other(version.into()));
        }
    }
}
