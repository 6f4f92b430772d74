//! One file of the journal, and the spare files that become one. A segment is written from its beginning to its end by the
//! journal alone; whoever holds it may read what is below its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Position;
use super::disk::{Disk, File};
use super::frame::{Frames, Head, Key, Kind, Mark, framed};
use super::header::HEADER;

/// How much is read at once to find a record, in bytes: most fit.
const FIRST_READ: u64 = 1024;

/// How much is written at a time to prepare a spare, in bytes.
const FILL: usize = 1024 * 1024;

/// A file of the journal.
#[derive(Debug)]
pub struct Segment {
    number: u32,
    key: Key,
    file: Arc<dyn File>,
    len: u64,
    end: AtomicU64,
    /// Whether `end` is where the frames end, or only what they cannot pass.
    exact: bool,
}

impl Segment {
    pub(super) fn new(
        number: u32,
        key: Key,
        file: Arc<dyn File>,
        len: u64,
        end: u64,
        exact: bool,
    ) -> Segment {
        Segment { number, key, file, len, end: AtomicU64::new(end), exact }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where what has been committed ends.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Bytes of its file.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    pub(super) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(super) fn extend(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// Reads and verifies the record at `position`, which is in this segment.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when no sound record is there, and those of reading.
    pub fn record(&self, position: Position) -> io::Result<Vec<u8>> {
        let offset = u64::from(position.offset());
        let room = self.end().saturating_sub(offset);
        if position.segment() != self.number || offset < HEADER || room < Head::LEN as u64 {
            return Err(unsound(position));
        }
        let mut bytes = vec![0; room.min(FIRST_READ) as usize];
        self.file.read_at(&mut bytes, offset)?;
        let Some(head) = bytes.first_chunk().and_then(|head| Head::parse(*head)) else {
            return Err(unsound(position));
        };
        if head.kind != Kind::Record || framed(head.payload_len()) > room {
            return Err(unsound(position));
        }
        let (had, whole) = (bytes.len(), Head::LEN + head.payload_len());
        bytes.resize(whole, 0);
        if whole > had {
            self.file.read_at(&mut bytes[had..], offset + had as u64)?;
        }
        if !self.key.holds(head, offset, &bytes[Head::LEN..]) {
            return Err(unsound(position));
        }
        bytes.drain(..Head::LEN);
        Ok(bytes)
    }

    /// All that has been committed, in order.
    pub fn records(&self) -> Records {
        let end = self.end();
        let frames = Frames::new(Arc::clone(&self.file), self.key, HEADER, end);
        Records { number: self.number, frames, end, exact: self.exact }
    }
}

fn unsound(position: Position) -> io::Error {
    let place = format!("no sound record in segment {} at {}", position.segment(), position.offset());
    io::Error::new(io::ErrorKind::InvalidData, place)
}

/// What a segment holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A batch begins.
    Mark(Mark),
    /// A record.
    Record(Position, &'a [u8]),
}

/// Reads a segment from its beginning to its end.
#[derive(Debug)]
pub struct Records {
    number: u32,
    frames: Frames,
    end: u64,
    exact: bool,
}

impl Records {
    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] where the segment is not sound, and those of reading; it goes no further then.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry<'_>>> {
        // A gap is skipped; `peek` keeps the borrow of what is returned apart from the search for it.
        while self.frames.head()?.is_some_and(|head| head.kind == Kind::Gap) {
            if self.frames.next_frame()?.is_none() {
                break;
            }
        }
        let (number, at, end, exact) = (self.number, self.frames.offset(), self.end, self.exact);
        let here = Position::new(number, at as u32);
        match self.frames.next_frame()? {
            Some(frame) if frame.kind == Kind::Mark => {
                Mark::decode(frame.payload).map(|mark| Some(Entry::Mark(mark))).ok_or_else(|| unsound(here))
            }
            Some(frame) => Ok(Some(Entry::Record(here, frame.payload))),
            None if at >= end || !exact => Ok(None),
            None => Err(unsound(here)),
        }
    }
}

/// A file that is prepared to become a segment: its blocks are allocated, so that to write into it cannot want for room.
#[derive(Debug)]
pub struct Spare {
    pub(super) name: String,
    pub(super) file: Arc<dyn File>,
    pub(super) len: u64,
}

impl Spare {
    /// Makes a file of `size` zeros, synced, in a folder that is synced. On another thread than the store's: it takes long.
    ///
    /// # Errors
    /// Those of the disk; the file is removed again as far as that is possible.
    pub fn prepare(disk: &dyn Disk, size: u64) -> io::Result<Spare> {
        let (name, file) = create(disk)?;
        let filled = fill(&*file, size).and_then(|()| file.sync()).and_then(|()| disk.sync());
        match filled {
            Ok(()) => Ok(Spare { name, file, len: size }),
            Err(error) => {
                // What stays is removed at the next start.
                let _ = disk.remove(&name);
                Err(error)
            }
        }
    }
}

fn create(disk: &dyn Disk) -> io::Result<(String, Arc<dyn File>)> {
    let mut serial = 0;
    loop {
        let name = format!("fresh-{serial}.spare");
        match disk.create(&name) {
            Ok(file) => return Ok((name, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => serial += 1,
            Err(error) => return Err(error),
        }
    }
}

fn fill(file: &dyn File, size: u64) -> io::Result<()> {
    let zeros = vec![0; FILL.min(size as usize)];
    let mut at = 0;
    while at < size {
        let piece = zeros.len().min((size - at) as usize);
        file.write_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}
