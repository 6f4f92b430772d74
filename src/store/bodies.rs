//! [`Bodies`]: reads the records of messages by their positions, from the segments that hold them or from the index. Those
//! that stand close together, as in a queue that waited, come in one read.

use std::io;
use std::sync::Arc;

use super::Position;
use super::frame::{Head, Kind, framed};
use super::header::HEADER;
use super::index::{Index, IndexError};
use super::segment::Segment;

/// What is read at once where nothing is known of the neighbours, in bytes: most records fit.
const FIRST: usize = 1024;

/// What is read at once in the end, where one record follows the other.
const MOST: usize = 64 * 1024;

/// The next record is close if it begins no further than this behind what was read.
const CLOSE: u64 = 4096;

/// A way to the bodies of messages.
#[derive(Debug)]
pub(super) struct Bodies<'a> {
    /// In order.
    segments: &'a [Arc<Segment>],
    index: &'a Index,
    /// What was read last: of which segment, from where, and how much is read the next time.
    segment: u32,
    at: u64,
    bytes: Vec<u8>,
    window: usize,
}

impl<'a> Bodies<'a> {
    /// Of messages in `segments`, which are in order; those of other segments are in the index, if anywhere.
    pub(super) fn new(segments: &'a [Arc<Segment>], index: &'a Index) -> Bodies<'a> {
        Bodies { segments, index, segment: 0, at: 0, bytes: Vec::new(), window: FIRST }
    }

    /// The record at a position; `None` if it is damaged or missing.
    pub(super) fn record(&mut self, position: Position) -> Result<Option<&[u8]>, IndexError> {
        let number = position.segment();
        let Ok(found) = self.segments.binary_search_by_key(&number, |segment| segment.number()) else {
            let Some(body) = self.index.body(position)? else { return Ok(None) };
            (self.segment, self.bytes) = (0, body);
            return Ok(Some(&self.bytes));
        };
        let segment = &self.segments[found];
        match self.read(segment, position.offset().into()) {
            Ok(Some(len)) => {
                let start = (u64::from(position.offset()) - self.at) as usize + Head::LEN;
                Ok(Some(&self.bytes[start..start + len]))
            }
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(IndexError::Io(error)),
        }
    }

    /// Makes a record be in memory and verifies it; its length.
    fn read(&mut self, segment: &Segment, offset: u64) -> io::Result<Option<usize>> {
        let room = segment.end().saturating_sub(offset);
        if offset < HEADER || room < Head::LEN as u64 {
            return Ok(None);
        }
        let start = self.fill(segment, offset, Head::LEN, room)?;
        let head = self.bytes[start..].first_chunk().and_then(|head| Head::parse(*head));
        let Some(head) = head.filter(|head| head.kind == Kind::Record && framed(head.payload_len()) <= room)
        else {
            return Ok(None);
        };
        let len = head.payload_len();
        let start = self.fill(segment, offset, Head::LEN + len, room)? + Head::LEN;
        let sound = segment.key().holds(head, offset, &self.bytes[start..start + len]);
        Ok(sound.then_some(len))
    }

    /// Makes so many bytes be in memory, of `room` that there are; where they begin in what is.
    fn fill(&mut self, segment: &Segment, offset: u64, len: usize, room: u64) -> io::Result<usize> {
        let same = self.segment == segment.number() && offset >= self.at;
        let end = self.at + self.bytes.len() as u64;
        if same && offset + len as u64 <= end {
            return Ok((offset - self.at) as usize);
        }
        let close = same && offset <= end + CLOSE;
        self.window = if close { (4 * self.window).min(MOST) } else { FIRST };
        let wanted = self.window.max(len).min(room as usize);
        // Until it has been read, it is nothing.
        self.segment = 0;
        self.bytes.resize(wanted, 0);
        segment.file().read_at(&mut self.bytes, offset)?;
        (self.segment, self.at) = (segment.number(), offset);
        Ok(0)
    }
}
