//! A data folder opened without a broker: the store in one thread, driven step by step.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Failure;
use crate::clock::Clock;
use crate::message::QueueId;
use crate::store::disk::Disk;
use crate::store::engine::Engine;
use crate::store::fifo::JournalStore;
use crate::store::folder::Folder;
use crate::store::open::{Prepared, StoreOptions, prepare};
use crate::store::overlay::Overlay;
use crate::store::recovery::Report;
use crate::store::restored::Restored;
use crate::store::{PageEntry, PageRequest, Record, Store, Ticket};

/// Bytes of a page.
const PAGE: usize = 1024 * 1024;

/// An open folder.
pub(super) struct Opened {
    /// What is in it, but for what waits in queues.
    pub(super) restored: Restored,
    store: JournalStore,
    /// What the last record waits for.
    last: Ticket,
    engine: Engine,
    wall: u64,
    report: Report,
}

/// Something that was found to be wrong.
pub(super) struct Damage {
    /// What was durable is lost by it.
    pub(super) lost: bool,
    text: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.lost { "LOST" } else { "cut" };
        write!(f, "{word}: {}", self.text)
    }
}

impl Opened {
    /// As a start would find it; nothing in it is changed.
    pub(super) fn to_look(folder: &Path, clock: Clock, now: Instant) -> Result<Opened, Failure> {
        let disk: Arc<dyn Disk> = Arc::new(Folder::open(folder)?);
        Opened::of(Arc::new(Overlay::new(disk)), clock, now)
    }

    /// To put something in; the folder is made if it is missing.
    pub(super) fn to_change(folder: &Path, clock: Clock, now: Instant) -> Result<Opened, Failure> {
        Opened::of(Arc::new(Folder::open(folder)?), clock, now)
    }

    fn of(disk: Arc<dyn Disk>, clock: Clock, now: Instant) -> Result<Opened, Failure> {
        let options = StoreOptions::new(fastrand::u64(..));
        let prepared = prepare(disk, &options, clock, vec![Arc::new(|| {})])?;
        let Prepared { restored, mut handles, engine, clock, report, .. } = prepared;
        let Some(store) = handles.pop() else { unreachable!("one waker makes one handle") };
        Ok(Opened { restored, store, last: Ticket(0), engine, wall: clock.wall(now), report })
    }

    /// Puts something in; [`Opened::wait`] makes it durable.
    pub(super) fn push(&mut self, record: Record<'_>) {
        self.last = self.last.max(self.store.push(record));
    }

    /// Lets the store do all there is to do; what was pushed is durable then.
    pub(super) fn wait(&mut self) -> Result<(), Failure> {
        self.store.flush();
        loop {
            let worked = self.engine.step(self.wall).map_err(|error| Failure::Store(error.to_string()))?;
            let mut busy = worked;
            while let Some(job) = self.engine.next_page() {
                job.run();
                busy = true;
            }
            while let Some(chore) = self.engine.next_chore() {
                chore.run();
                busy = true;
            }
            if !busy {
                break;
            }
        }
        if self.store.durable() < self.last {
            return Err(Failure::Store("there is no room on the disk".to_owned()));
        }
        Ok(())
    }

    /// Calls `visit` with everything that waits in a queue, in order.
    pub(super) fn each(
        &mut self,
        queue: QueueId,
        mut visit: impl FnMut(&PageEntry) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut after = None;
        loop {
            self.store.request(PageRequest { queue, serial: 0, after, max_bytes: PAGE });
            self.wait()?;
            let page = self.store.next_page();
            let page = page.ok_or_else(|| Failure::Store("the store gives no page".to_owned()))?;
            page.entries.iter().try_for_each(&mut visit)?;
            if page.last {
                return Ok(());
            }
            after = Some(page.after);
        }
    }

    /// What was found to be wrong when it was opened.
    pub(super) fn damage(&self) -> Vec<Damage> {
        let Report { torn, corrupt, missing, .. } = &self.report;
        let place = |segment, offset, bytes| format!("{bytes} bytes of segment {segment} at {offset}");
        let torn = torn.iter().map(|torn| Damage {
            lost: false,
            text: format!("{}, which nobody was told are kept", place(torn.segment, torn.offset, torn.bytes)),
        });
        let corrupt = corrupt.iter().map(|at| Damage {
            lost: true,
            text: format!("{} are not sound", place(at.segment, at.offset, at.bytes)),
        });
        let missing = missing
            .iter()
            .map(|segment| Damage { lost: true, text: format!("segment {segment} is missing") });
        torn.chain(corrupt).chain(missing).collect()
    }

    /// Makes durable what was pushed, and lets go of the folder.
    pub(super) fn close(mut self) -> Result<(), Failure> {
        self.wait()?;
        self.engine.finish(self.wall).map_err(|error| Failure::Store(error.to_string()))
    }
}
