//! [`Chore`]: what takes the disk long and nobody waits for. It runs beside the commits, one at a time, and reports to the
//! engine when it is over.

use std::io;
use std::sync::Arc;

use super::Position;
use super::disk::Disk;
use super::fifo::{Exchange, Report};
use super::index::{Index, IndexError, Live};
use super::segment::{Segment, Spare};

/// A piece of work for another thread than the store's.
#[derive(Debug)]
pub struct Chore {
    pub(super) task: Task,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) index: Arc<Index>,
    pub(super) exchange: Arc<Exchange>,
}

/// What there is to do.
#[derive(Debug)]
pub(super) enum Task {
    /// Prepare a file of so many bytes to become a segment.
    Spare(u64),
    /// Take a segment into the index; `true`: it may not have been synced.
    Retire(Arc<Segment>, bool),
    /// Move what is left of a cold segment into the index.
    Evacuate(Arc<Segment>),
    /// Give the index's free space back; `true`: there is no room.
    Compact(bool),
}

/// What became of a chore.
#[derive(Debug)]
pub(super) enum Finished {
    Spare(io::Result<Spare>),
    Retired(u32, Result<Retired, IndexError>),
    Evacuated(u32, Result<Vec<Position>, IndexError>),
    Compacted(Result<u64, IndexError>),
}

/// The index has taken a segment in.
#[derive(Debug)]
pub(super) struct Retired {
    /// The segments that nothing refers to any more.
    pub(super) empty: Vec<u32>,
    /// Those that are still wanted.
    pub(super) cold: Vec<(u32, Live)>,
}

impl Chore {
    /// Does it.
    pub fn run(self) {
        let Chore { task, disk, index, exchange } = self;
        // The engine recycles a file once nobody else has it.
        let finished = match task {
            Task::Spare(size) => Finished::Spare(Spare::prepare(&*disk, size)),
            Task::Retire(segment, unsynced) => {
                Finished::Retired(segment.number(), retire(&index, segment, unsynced))
            }
            Task::Evacuate(segment) => {
                let moved = index.evacuate(segment.number(), |position| segment.record(position));
                Finished::Evacuated(segment.number(), moved)
            }
            Task::Compact(false) => Finished::Compacted(index.compact_if_idle()),
            Task::Compact(true) => Finished::Compacted(index.compact_for_room()),
        };
        exchange.report(Report::Finished(finished));
    }
}

fn retire(index: &Index, segment: Arc<Segment>, unsynced: bool) -> Result<Retired, IndexError> {
    if unsynced {
        // The index is synced; what it refers to had better be.
        segment.file().sync().map_err(IndexError::Io)?;
    }
    let applied = index.apply(&segment)?;
    Ok(Retired { empty: applied.empty, cold: index.cold()? })
}
