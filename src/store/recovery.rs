//! What a restart makes of the files it finds.

use std::sync::Arc;

use super::Position;
use super::disk::Disk;
use super::error::OpenError;
use super::segment::Segment;

/// What a restart found.
#[derive(Debug, Default)]
pub struct Opened {
    /// What is to be replayed, oldest first.
    pub hot: Vec<Arc<Segment>>,
    /// What only holds bodies.
    pub cold: Vec<Arc<Segment>>,
    /// When the last batch was written that is known of, in milliseconds since 1970; 0: none was.
    pub last_wall: u64,
    /// What was wrong.
    pub report: Report,
}

/// What a restart found to be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was being written when the last process ended: cut, nobody was told that it is done.
    pub torn: Vec<Damage>,
    /// What was on disk and is not sound any more: lost.
    pub corrupt: Vec<Damage>,
    /// Segments that should be there and are not.
    pub missing: Vec<u32>,
    /// Where the files were put that were not sound.
    pub quarantined: Vec<String>,
}

/// Bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its number.
    pub segment: u32,
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// All that the journal needs to go on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) opened: Opened,
    pub(super) salt: u64,
    pub(super) highest: u32,
    pub(super) previous: (u32, u32),
    pub(super) sequence: u64,
    pub(super) durable: Position,
}

pub(super) fn recover(
    _disk: &dyn Disk,
    salt: u64,
    replay_from: u32,
    _cold: &[u32],
) -> Result<Recovered, OpenError> {
    let highest = replay_from.saturating_sub(1);
    Ok(Recovered {
        opened: Opened::default(),
        salt,
        highest,
        previous: (highest, 0),
        sequence: 0,
        durable: Position::default(),
    })
}
