//! The index: the state of the broker at the end of a prefix of the journal, so that a restart replays only what came
//! after it.
//! It is a pure function of that prefix: [`Index::apply`] takes a whole segment in one transaction, and the bodies of
//! messages stay
//! in its file until nothing refers to it, or [`Index::evacuate`] moves the few that are left.

mod backend;
mod batch;
mod error;
mod evacuate;
mod live;
mod page;
mod refs;
mod slot;
mod state;
mod tables;
mod verify;

use std::io;
use std::sync::Arc;

use redb::ReadableTable;

pub use error::IndexError;
pub use state::{SentState, SessionState, State};

use super::Position;
use super::disk::Disk;
use super::error::OpenError;
use super::restored::Waiting;
use super::segment::{Entry, Segment};
use crate::message::{MessageId, QueueId};
use batch::Batch;
use slot::Slot;
use tables::{BODIES, LIVE, PAGES, REPLAY_KEY, Tables, WALL_KEY};

/// A message that waits in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ref {
    /// Where its record stands, or stood.
    pub position: Position,
    /// The message.
    pub id: MessageId,
    /// [`Message::size`](crate::message::Message::size), at most `u32::MAX`.
    pub size: u32,
    /// Whether its record named more queues than this one.
    pub shared: bool,
}

/// How much of a cold segment is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The references to its bodies.
    pub refs: u64,
    /// The bytes of those bodies, as [`Ref::size`] counts them: never less than they are.
    pub bytes: u64,
}

/// What came of applying a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The segments, this one perhaps among them, that nothing refers to any more: their files may go.
    pub empty: Vec<u32>,
}

/// The index. One thread at a time changes it, any number read.
#[derive(Debug)]
pub struct Index {
    slot: Slot,
}

impl Index {
    /// Opens the index of a data folder. Where there is none yet, none is made before the first segment is applied.
    ///
    /// # Errors
    /// For a file that is not an index, of another version, or damaged; those of the disk, a full one included.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Index, OpenError> {
        let slot = Slot::open(disk)?;
        Ok(Index { slot })
    }

    /// Whether it had to be read from end to end when it was opened: only after a compaction that was cut short.
    pub fn was_repaired(&self) -> bool {
        self.slot.was_repaired()
    }

    /// The first segment that is not in it; 0 if none is.
    pub fn replay_from(&self) -> Result<u32, IndexError> {
        let replay = self.slot.read(|transaction| tables::number(transaction, REPLAY_KEY))?;
        Ok(replay.unwrap_or_default() as u32)
    }

    /// The segments whose files are wanted, in order. Any other below [`Index::replay_from`] may go.
    pub fn cold(&self) -> Result<Vec<(u32, Live)>, IndexError> {
        let cold = self.slot.read(|transaction| {
            let mut cold = Vec::new();
            for row in transaction.open_table(LIVE)?.iter()? {
                let (segment, row) = row?;
                cold.push((segment.value(), live::live(row.value())));
            }
            Ok(cold)
        })?;
        Ok(cold.unwrap_or_default())
    }

    /// Takes a whole segment in. One that is in already changes nothing; if it was the last, the answer is the same again.
    ///
    /// # Errors
    /// After [`IndexError::NoRoom`] it is to be tried again once there is room. [`IndexError::Io`] of the kind
    /// [`io::ErrorKind::InvalidData`] says that the segment is not sound.
    pub fn apply(&self, segment: &Segment) -> Result<Applied, IndexError> {
        self.take_in(segment.number(), |each| {
            let mut records = segment.records();
            while let Some(entry) = records.next_entry().map_err(IndexError::Io)? {
                each(entry)?;
            }
            Ok(())
        })
    }

    /// Takes in what `feed` gives, which is all of a segment.
    fn take_in(
        &self,
        segment: u32,
        feed: impl FnOnce(&mut dyn FnMut(Entry<'_>) -> Result<(), IndexError>) -> Result<(), IndexError>,
    ) -> Result<Applied, IndexError> {
        self.slot.write(true, |transaction| {
            let tables = Tables::open(transaction)?;
            let replay_from = tables.number(REPLAY_KEY)?;
            if u64::from(segment) < replay_from {
                let is_last = u64::from(segment) + 1 == replay_from;
                return Ok(Applied { empty: if is_last { tables.emptied()? } else { Vec::new() } });
            }
            let mut batch = Batch::new(tables, segment);
            let mut wall = 0;
            feed(&mut |entry| match entry {
                Entry::Mark(mark) => {
                    wall = mark.wall.max(wall);
                    Ok(())
                }
                Entry::Record(position, bytes) => batch.record(position, bytes),
            })?;
            let mut tables = batch.finish()?;
            let empty = tables.emptied()?;
            tables.raise(REPLAY_KEY, u64::from(segment) + 1)?;
            tables.raise(WALL_KEY, wall)?;
            tables.finish()?;
            Ok(Applied { empty })
        })
    }

    /// The references of a queue behind a position, in order of position; `most` at most.
    pub fn refs(&self, queue: QueueId, after: Option<Position>, most: usize) -> Result<Vec<Ref>, IndexError> {
        let refs = self.slot.read(|transaction| {
            let pages = transaction.open_table(PAGES)?;
            let after = after.map_or(0, |after| after.0.saturating_add(1));
            let page = pages.range((queue.0, 0)..=(queue.0, after))?.next_back().transpose()?;
            let start = page.map_or((queue.0, after), |(key, _)| key.value());
            let mut refs = Vec::new();
            for row in pages.range(start..=(queue.0, u64::MAX))? {
                let (key, page) = row?;
                page::decode(Position(key.value().1), page.value(), &mut refs)?;
                if key.value().1 < after {
                    refs.retain(|reference| reference.position.0 >= after);
                }
                if refs.len() >= most {
                    refs.truncate(most);
                    break;
                }
            }
            Ok(refs)
        })?;
        Ok(refs.unwrap_or_default())
    }

    /// What waits in each queue that has an owner.
    pub fn totals(&self) -> Result<Vec<(QueueId, Waiting)>, IndexError> {
        Ok(self.slot.read(state::totals)?.unwrap_or_default())
    }

    /// The record of a message whose body was moved here.
    pub fn body(&self, position: Position) -> Result<Option<Vec<u8>>, IndexError> {
        let body = self.slot.read(|transaction| {
            let bodies = transaction.open_table(BODIES)?;
            Ok(bodies.get(position.0)?.map(|record| record.value().to_vec()))
        })?;
        Ok(body.flatten())
    }

    /// Moves what is still wanted of a cold segment into the index: then its file may go. `read` gives the record at a
    /// position; where it says [`io::ErrorKind::InvalidData`], the message is lost, and its position returned: its
    /// references stay, with no body.
    pub fn evacuate(
        &self,
        segment: u32,
        read: impl Fn(Position) -> io::Result<Vec<u8>>,
    ) -> Result<Vec<Position>, IndexError> {
        self.slot.write(false, |transaction| {
            let mut tables = Tables::open(transaction)?;
            let lost = evacuate::evacuate(segment, &mut tables, read)?;
            tables.finish()?;
            Ok(lost)
        })
    }

    /// Everything small, for a restart.
    pub fn state(&self) -> Result<State, IndexError> {
        Ok(self.slot.read(state::read)?.unwrap_or_default())
    }

    /// Shows every retained message to `visit`: where its record stood, and the record. They may be more than fits in
    /// memory twice.
    pub fn retained<E: From<IndexError>>(
        &self,
        mut visit: impl FnMut(Position, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let visited = self.slot.read(|transaction| Ok(state::retained(transaction, &mut visit)))?;
        visited.unwrap_or(Ok(()))
    }

    /// Gives free space in the file back to the disk, if the file is large and mostly free; returns the bytes won. Nobody
    /// else can read meanwhile, so it wants an idle moment.
    pub fn compact_if_idle(&self) -> Result<u64, IndexError> {
        self.slot.compact(false)
    }

    /// The same, though the file be small: there is no room on the disk.
    pub fn compact_for_room(&self) -> Result<u64, IndexError> {
        self.slot.compact(true)
    }

    /// The bytes of its file; 0 if there is none.
    pub fn file_bytes(&self) -> u64 {
        self.slot.file_bytes()
    }
}

#[cfg(test)]
mod tests;
