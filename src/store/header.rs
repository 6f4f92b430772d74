//! What a segment's file begins with: who it is, and, once that is settled, where it ends. Both stand there twice, each in
//! a sector of its own.

use crc32c::crc32c;

/// The bytes before the first frame.
pub const HEADER: u64 = 4096;

const MAGIC: [u8; 8] = *b"WEIRSEG\n";

/// The layout that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

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
    /// One of a version to come.
    Newer(u32),
    /// Nothing that can be read; an ending may be left.
    Nothing(Option<Ending>),
}

impl Header {
    /// As bytes.
    pub fn encode(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        for half in bytes.chunks_exact_mut(HALF) {
            let mut identity = Vec::with_capacity(40);
            identity.extend_from_slice(&MAGIC);
            identity.extend_from_slice(&VERSION.to_le_bytes());
            identity.extend_from_slice(&self.identity.salt.to_le_bytes());
            identity.extend_from_slice(&self.identity.number.to_le_bytes());
            identity.extend_from_slice(&self.identity.previous.to_le_bytes());
            identity.extend_from_slice(&self.identity.previous_end.to_le_bytes());
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

    /// Reads one.
    pub fn decode(bytes: &[u8; HEADER as usize]) -> Found {
        let mut halves = bytes.chunks_exact(HALF);
        let (Some(first), Some(second)) = (halves.next(), halves.next()) else { return Found::Nothing(None) };
        let ending = ending(first).or_else(|| ending(second));
        if let Some(identity) = identity(first).or_else(|| identity(second)) {
            return Found::Header(Header { identity, ending });
        }
        match (version(first), version(second)) {
            (Some(one), Some(other)) if one == other && one > VERSION => Found::Newer(one),
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
    if version(half)? != VERSION || !sealed(half, 32) {
        return None;
    }
    let mut reader = Reader(half.get(12..)?);
    Some(Identity {
        salt: reader.u64()?,
        number: reader.u32()?,
        previous: reader.u32()?,
        previous_end: reader.u32()?,
    })
}

fn ending(half: &[u8]) -> Option<Ending> {
    let half = half.get(ENDING..)?;
    let mut reader = Reader(half);
    let ending = Ending { end: reader.u32()?, next: reader.u32()?, wall: reader.u64()? };
    (sealed(half, 16) && u64::from(ending.end) >= HEADER).then_some(ending)
}

/// Whether the first `len` bytes are followed by their checksum.
fn sealed(bytes: &[u8], len: usize) -> bool {
    let Some((bytes, rest)) = bytes.split_at_checked(len) else { return false };
    Reader(rest).u32() == Some(crc32c(bytes))
}
