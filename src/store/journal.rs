//! The journal: every record in the order it happened, in segments that are prepared ahead of need. Records gather in a
//! batch in memory; a commit is one write for each segment touched, and one sync.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::Position;
use super::disk::Disk;
use super::error::OpenError;
use super::frame::{Key, Kind, MAX_PAYLOAD, Mark, framed};
use super::header::{HEADER, Header, Identity};
use super::recovery::{self, Opened, Recovered};
use super::segment::{Segment, Spare};
use super::survey::{segment_name, spare_name};

/// A segment that is made while a batch waits for it is smaller than one made ahead of need, but no smaller than this.
const HASTY: u64 = 1024 * 1024;

/// A batch's buffer is kept for the next one up to this size, in bytes.
const KEPT: usize = 2 * 1024 * 1024;

/// Zeros behind a batch: nothing was written there yet.
const BLANK: [u8; 8] = [0; 8];

/// How the journal is laid out.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Bytes of a segment's file; below 4 GiB.
    pub segment_size: u64,
    /// How many spare files are kept.
    pub spares: usize,
    /// A random number: a new folder's secret. One that has a journal keeps its own.
    pub salt: u64,
}

/// Why a batch could not go on.
#[derive(Debug)]
pub enum CommitError {
    /// A segment could not be prepared, for want of room. What was appended before stands, and it may be tried again.
    NoRoom(io::Error),
    /// What is on disk is not known any more: nothing of the batch may be acknowledged, and nothing is ever written again.
    Final(io::Error),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitError::NoRoom(error) => write!(f, "no room for a segment of the journal: {error}"),
            CommitError::Final(error) => write!(f, "the journal cannot be written: {error}"),
        }
    }
}

impl Error for CommitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            CommitError::NoRoom(error) | CommitError::Final(error) => Some(error),
        }
    }
}

/// Whether it means that there is no room, rather than that the disk has failed.
pub fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a batch writes to one segment.
#[derive(Debug)]
struct Piece {
    segment: Arc<Segment>,
    at: u64,
    bytes: Vec<u8>,
}

/// The journal of a folder.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    salt: u64,
    /// The highest number that a segment has, or had.
    highest: u32,
    /// The segment that the next one goes on from, and where it ends.
    previous: (u32, u32),
    sealed: VecDeque<Arc<Segment>>,
    active: Option<Arc<Segment>>,
    cold: BTreeMap<u32, Arc<Segment>>,
    /// Where the next frame goes in the active segment.
    end: u64,
    /// The batch that has begun, until its first record is appended.
    begun: Option<u64>,
    batch: Vec<Piece>,
    /// Buffers for the next batch.
    buffers: Vec<Vec<u8>>,
    /// Written, but not synced.
    dirty: Vec<Arc<Segment>>,
    sequence: u64,
    durable: Position,
    spares: Vec<Spare>,
    failed: bool,
}

impl Journal {
    /// Opens the journal in a folder. `replay_from` is the first segment that the index has not taken in, 0 if there is no
    /// index; `cold` are the segments before it that it still refers to. Those it does not are removed.
    ///
    /// # Errors
    /// When the folder is not this program's to read, and those of the disk. What is corrupt is no error: it is reported.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        replay_from: u32,
        cold: &[u32],
    ) -> Result<(Journal, Opened), OpenError> {
        let recovered = recovery::recover(&*disk, options.salt, replay_from, cold)?;
        let Recovered { opened, salt, highest, previous, sequence, durable } = recovered;
        let journal = Journal {
            disk,
            options,
            salt,
            highest,
            previous,
            sealed: opened.hot.iter().cloned().collect(),
            active: None,
            cold: opened.cold.iter().map(|segment| (segment.number(), Arc::clone(segment))).collect(),
            end: 0,
            begun: None,
            batch: Vec::new(),
            buffers: Vec::new(),
            dirty: Vec::new(),
            sequence,
            durable,
            spares: Vec::new(),
            failed: false,
        };
        Ok((journal, opened))
    }

    /// A batch begins at this wall time, in milliseconds since 1970.
    pub fn begin(&mut self, wall: u64) {
        self.begun = Some(wall);
    }

    /// Appends a record to the batch; in memory, unless a segment must be made for it.
    ///
    /// # Errors
    /// [`CommitError::NoRoom`]: the record was not appended, the batch stands without it.
    pub fn append(&mut self, payload: &[u8]) -> Result<Position, CommitError> {
        if self.failed {
            return Err(CommitError::Final(io::Error::other("it has failed before")));
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(CommitError::Final(io::Error::other("a record of 1 GiB")));
        }
        let mark = if self.begun.is_some() { framed(Mark::LEN) } else { 0 };
        let needed = mark + framed(payload.len());
        if needed > self.room() {
            self.roll(needed)?;
        }
        if let Some(wall) = self.begun.take() {
            self.put_mark(wall);
        }
        Ok(self.put(Kind::Record, payload))
    }

    /// Writes the batch and, unless `sync` is false, makes it and what was written before durable. A batch without
    /// records writes that it began, if a segment is there: so it vouches for those before it.
    ///
    /// # Errors
    /// [`CommitError::Final`] in any case.
    pub fn commit(&mut self, sync: bool) -> Result<(), CommitError> {
        if self.failed {
            return Err(CommitError::Final(io::Error::other("it has failed before")));
        }
        if let Some(wall) = self.begun.take()
            && framed(Mark::LEN) <= self.room()
        {
            self.put_mark(wall);
        }
        self.write(sync).map_err(|error| {
            self.failed = true;
            CommitError::Final(error)
        })
    }

    /// The next record goes to another segment.
    pub fn seal(&mut self) {
        if let Some(active) = self.active.take() {
            self.previous = (active.number(), self.end as u32);
            self.sealed.push_back(active);
        }
    }

    /// The segments to which nothing is appended any more, oldest first; the records of the batch under way included.
    pub fn sealed(&self) -> &VecDeque<Arc<Segment>> {
        &self.sealed
    }

    /// The bytes of the files of the segments that are not cold; of the last one, what is written.
    pub fn hot_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|segment| segment.file_len()).sum();
        sealed + self.active.as_ref().map_or(0, |_| self.end)
    }

    /// The bytes of all its files, spares included.
    pub fn bytes(&self) -> u64 {
        let segments = self.sealed.iter().chain(&self.active).chain(self.cold.values());
        let spares: u64 = self.spares.iter().map(|spare| spare.len).sum();
        segments.map(|segment| segment.file_len()).sum::<u64>() + spares
    }

    /// A segment, hot or cold.
    pub fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        let hot = self.sealed.iter().chain(&self.active).find(|segment| segment.number() == number);
        hot.or_else(|| self.cold.get(&number)).cloned()
    }

    /// A sealed segment is cold from now on: the index has taken it in, and it is not replayed again.
    pub fn retire(&mut self, number: u32) {
        if let Some(at) = self.sealed.iter().position(|segment| segment.number() == number)
            && let Some(segment) = self.sealed.remove(at)
        {
            self.cold.insert(number, segment);
        }
    }

    /// Nothing points into a cold segment any more, and that is durable. Its file becomes a spare if one is wanted and
    /// nobody reads it; else it is removed.
    ///
    /// # Errors
    /// Those of the disk; the segment is forgotten nevertheless, and its file removed at the next start.
    pub fn release(&mut self, number: u32) -> io::Result<()> {
        let Some(segment) = self.cold.remove(&number) else { return Ok(()) };
        // Where nothing is ever synced, this would keep the file for ever.
        self.dirty.retain(|dirty| dirty.number() != number);
        let wanted = self.wants_spare() && segment.file_len() == self.options.segment_size;
        let name = segment_name(number);
        // Nobody can read it, or will: this was the only way to it.
        if wanted && Arc::strong_count(&segment) == 1 {
            let spare = spare_name(number);
            self.disk.rename(&name, &spare)?;
            let (file, len) = (Arc::clone(segment.file()), segment.file_len());
            self.spares.push(Spare { name: spare, file, len });
            return Ok(());
        }
        self.disk.remove(&name)
    }

    /// Whether [`Journal::add_spare`] is called for; not before something has been written.
    pub fn wants_spare(&self) -> bool {
        self.spares.len() < self.options.spares
            && (self.active.is_some() || self.sealed.len() + self.cold.len() > 0)
    }

    /// How large a spare should be, in bytes.
    pub fn spare_size(&self) -> u64 {
        self.options.segment_size
    }

    /// Takes a file that has been prepared.
    pub fn add_spare(&mut self, spare: Spare) {
        self.spares.push(spare);
    }

    /// Whether records of so many bytes ([`framed`]) in all are sure to find prepared room, spares included, if none is
    /// larger than half a segment.
    pub fn has_room(&self, bytes: u64) -> bool {
        let bytes = bytes + framed(Mark::LEN);
        let whole = self.options.segment_size.saturating_sub(HEADER);
        // A segment that a record does not fit in any more is at least half full.
        let spares = self.spares.len() as u64;
        bytes <= self.room() || (spares > 0 && bytes <= whole + (spares - 1) * (whole / 2))
    }

    /// Bytes that are left in the active segment.
    fn room(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.file_len() - self.end)
    }

    fn put_mark(&mut self, wall: u64) {
        let mark = Mark { sequence: self.sequence, durable: self.durable, wall };
        self.sequence += 1;
        self.put(Kind::Mark, &mark.encode());
    }

    /// Adds a frame, for which there is room, to the batch.
    fn put(&mut self, kind: Kind, payload: &[u8]) -> Position {
        let at = self.end;
        let Some(active) = &self.active else { unreachable!("room was made before") };
        if self.batch.last().is_none_or(|piece| piece.segment.number() != active.number()) {
            let bytes = self.buffers.pop().unwrap_or_default();
            self.batch.push(Piece { segment: Arc::clone(active), at, bytes });
        }
        let (number, key) = (active.number(), active.key());
        if let Some(piece) = self.batch.last_mut() {
            key.put(&mut piece.bytes, at, kind, payload);
        }
        self.end = at + framed(payload.len());
        Position::new(number, at as u32)
    }

    /// Makes the next segment, with room for frames of so many bytes.
    fn roll(&mut self, needed: u64) -> Result<(), CommitError> {
        let needed = HEADER + needed;
        if needed > u64::from(u32::MAX) {
            return Err(CommitError::NoRoom(io::ErrorKind::FileTooLarge.into()));
        }
        let spare = match self.spares.pop() {
            Some(spare) if spare.len >= needed => spare,
            other => {
                self.spares.extend(other);
                let hasty = (self.options.segment_size / 8).max(HASTY).min(self.options.segment_size);
                let made = Spare::prepare(&*self.disk, needed.max(hasty));
                made.map_err(|error| self.failed(error))?
            }
        };
        let number = self
            .highest
            .checked_add(1)
            .ok_or_else(|| self.failed(io::Error::other("there are no more numbers for segments")))?;
        self.seal();
        let Spare { name, file, len } = spare;
        let (previous, previous_end) = self.previous;
        let (salt, durable) = (self.salt, self.durable);
        let identity = Identity { salt, number, previous, previous_end, len: len as u32, durable };
        let mut header = Header { identity, ending: None }.encode().to_vec();
        header.extend_from_slice(&BLANK);
        let made = file
            .write_at(&header, 0)
            .and_then(|()| file.sync())
            .and_then(|()| self.disk.rename(&name, &segment_name(number)))
            .and_then(|()| self.disk.sync());
        if let Err(error) = made {
            self.failed = true;
            return Err(CommitError::Final(error));
        }
        self.highest = number;
        self.active =
            Some(Arc::new(Segment::new(number, Key::new(self.salt, number), file, len, HEADER, true)));
        self.end = HEADER;
        Ok(())
    }

    /// What it means that a segment could not be prepared.
    fn failed(&mut self, error: io::Error) -> CommitError {
        if is_no_room(&error) {
            return CommitError::NoRoom(error);
        }
        self.failed = true;
        CommitError::Final(error)
    }

    fn write(&mut self, sync: bool) -> io::Result<()> {
        for mut piece in self.batch.drain(..) {
            let end = piece.at + piece.bytes.len() as u64;
            if end + BLANK.len() as u64 <= piece.segment.file_len() {
                piece.bytes.extend_from_slice(&BLANK);
            }
            piece.segment.file().write_at(&piece.bytes, piece.at)?;
            piece.segment.extend(end);
            if self.dirty.last().is_none_or(|last| last.number() != piece.segment.number()) {
                self.dirty.push(piece.segment);
            }
            if piece.bytes.capacity() <= KEPT {
                piece.bytes.clear();
                self.buffers.push(piece.bytes);
            }
        }
        if sync {
            for segment in self.dirty.drain(..) {
                segment.file().sync()?;
            }
            self.durable = match &self.active {
                Some(active) => Position::new(active.number(), self.end as u32),
                None => Position::new(self.previous.0, self.previous.1),
            };
        }
        Ok(())
    }
}
