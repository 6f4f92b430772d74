//! Opening a data folder: what is in it is read and, where need be, repaired; the engine and the shards' handles come of it.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::Position;
use super::disk::Disk;
use super::engine::{Engine, Parts};
use super::error::OpenError;
use super::fifo::{Exchange, JournalStore, Waker};
use super::index::Index;
use super::journal::{Journal, JournalOptions};
use super::ledger::Ledger;
use super::policy::Policy;
use super::recovery::Report;
use super::replay::Replay;
use super::restored::Restored;
use super::segment::Segment;
use crate::clock::Clock;

/// Spare segments: two for what is acknowledged, one for what is retired.
const SPARES: usize = 2;

/// When a record counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// When it is on the disk.
    Always,
    /// When the operating system has it: it outlives the process, but not a loss of power.
    Os,
}

/// How a store is to be.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// When a record counts as durable.
    pub sync: Sync,
    /// Bytes of a segment of the journal.
    pub segment_size: u64,
    /// The most bytes that the folder takes; `None`: the smaller of 16 GiB and half of the file system.
    pub max_size: Option<u64>,
    /// The bytes of the file system that stay free; `None`: the larger of 512 MiB and 5 %, but at most a quarter of it.
    pub reserve: Option<u64>,
    /// Bytes of the journal that a restart replays at most.
    pub journal_budget: u64,
    /// Bytes of memory for the references of that journal.
    pub table_budget: u64,
    /// A random number: a new folder's secret.
    pub salt: u64,
}

impl StoreOptions {
    /// What is set nowhere else.
    pub fn new(salt: u64) -> StoreOptions {
        StoreOptions {
            sync: Sync::Always,
            segment_size: 64 << 20,
            max_size: None,
            reserve: None,
            journal_budget: 256 << 20,
            table_budget: 16 << 20,
            salt,
        }
    }
}

/// A store that has been read and does nothing by itself.
#[derive(Debug)]
pub struct Prepared {
    /// What outlived the last process.
    pub restored: Restored,
    /// The shards' handles, one per waker.
    pub handles: Vec<JournalStore>,
    /// The store.
    pub engine: Engine,
    pub(super) exchange: Arc<Exchange>,
    /// The clock that its records go by.
    pub clock: Clock,
    /// What was found to be wrong with the journal.
    pub report: Report,
}

/// Reads the folder. Nothing is created there before the first record.
///
/// # Errors
/// When the folder is of another version or foreign, or its index damaged; those of the disk.
pub fn prepare(
    disk: Arc<dyn Disk>,
    options: &StoreOptions,
    clock: Clock,
    wakers: Vec<Waker>,
) -> Result<Prepared, OpenError> {
    let index = Index::open(&disk)?;
    let replay_from = index.replay_from()?;
    let cold = index.cold()?;
    let wanted: Vec<u32> = cold.iter().map(|(segment, _)| *segment).collect();
    let StoreOptions { segment_size, salt, .. } = *options;
    let layout = JournalOptions { segment_size, spares: SPARES, salt };
    let (journal, found) = Journal::open(Arc::clone(&disk), layout, replay_from, &wanted)?;
    tell(&found.report);

    // The time that the broker was stopped counts; a clock that was set back meanwhile does not.
    let known = index.state()?.wall;
    let clock = clock.not_before(found.last_wall.max(known));
    let ledger = Ledger::new(replay_from.saturating_sub(1), cold);
    let mut replay = Replay::new(&index, ledger, clock)?;
    for segment in &found.hot {
        replay.segment(segment)?;
    }
    let mut segments: Vec<Arc<Segment>> = found.cold.iter().chain(&found.hot).cloned().collect();
    segments.sort_unstable_by_key(|segment| segment.number());
    let (restored, ledger) = replay.finish(&index, &segments)?;

    let highest = segments.last().map_or(0, |segment| segment.number()).max(replay_from.saturating_sub(1));
    let exchange = Arc::new(Exchange::new(wakers));
    exchange.add_damage((found.report.corrupt.len() + found.report.missing.len()) as u64);
    let handles =
        (0..exchange.shards()).map(|shard| JournalStore::new(Arc::clone(&exchange), shard, clock)).collect();
    let engine = Engine::new(Parts {
        disk,
        index: Arc::new(index),
        journal,
        ledger,
        exchange: Arc::clone(&exchange),
        policy: policy(options),
        clock,
        sync: options.sync == Sync::Always,
        last: Position::new(highest, u32::MAX),
    });
    Ok(Prepared { restored, handles, engine, exchange, clock, report: found.report })
}

fn policy(options: &StoreOptions) -> Policy {
    // A folder that may not grow large has no room for much that waits to be retired.
    let journal_budget = match options.max_size {
        Some(max) => options.journal_budget.min(max / 4).max(options.segment_size),
        None => options.journal_budget,
    };
    Policy {
        segment_size: options.segment_size,
        max_size: options.max_size,
        reserve: options.reserve,
        journal_budget,
        table_budget: options.table_budget,
    }
}

/// Says in the log what was wrong.
fn tell(report: &Report) {
    for torn in &report.torn {
        info!(segment = torn.segment, bytes = torn.bytes, "what was being written at the end was cut");
    }
    for corrupt in &report.corrupt {
        let (segment, offset, bytes) = (corrupt.segment, corrupt.offset, corrupt.bytes);
        error!(segment, offset, bytes, "the journal is damaged: what stood there is lost");
    }
    for segment in &report.missing {
        error!(segment, "a segment of the journal is missing: what it held is lost");
    }
    for file in &report.quarantined {
        warn!(file, "a damaged file of the journal was set aside");
    }
}
