//! [`Engine`]: the store without threads and without a clock. Each [`Engine::step`] is one batch: what the shards pushed is
//! appended, written and synced once, and then they are told. What takes long comes out of it as [`PageJob`]s and
//! [`Chore`]s, which whoever drives it runs when and where it likes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tracing::{debug, error, info, warn};

use super::chore::{Chore, Finished, Retired, Task};
use super::disk::Disk;
use super::encode::Encoder;
use super::fifo::{Chunk, Exchange, Report};
use super::index::{Index, IndexError, Ref};
use super::journal::{CommitError, Journal};
use super::ledger::Ledger;
use super::pages::{Asked, Context, PageJob, Pages};
use super::policy::Policy;
use super::record::Stored;
use super::{Position, Record};
use crate::clock::Clock;
use crate::message::QueueId;

/// A batch takes about so many bytes.
const BATCH: usize = 1024 * 1024;

/// How often the space on the disk is looked at, and what failed for want of it tried again, in milliseconds.
const LOOK: u64 = 1000;

/// Nothing has been pushed for so long: time to tidy up, in milliseconds.
const IDLE: u64 = 5000;

/// A segment is not closed early for less than this.
const WORTH_SEALING: u64 = 256 * 1024;

/// The store failed for good: nothing more is made durable, and nothing that was not is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// What an [`Engine`] is made of.
pub(super) struct Parts {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) index: Arc<Index>,
    pub(super) journal: Journal,
    pub(super) ledger: Ledger,
    pub(super) exchange: Arc<Exchange>,
    pub(super) policy: Policy,
    pub(super) clock: Clock,
    /// Whether commits are synced.
    pub(super) sync: bool,
    /// The last position that was ever given.
    pub(super) last: Position,
}

/// The store.
#[derive(Debug)]
pub struct Engine {
    disk: Arc<dyn Disk>,
    index: Arc<Index>,
    journal: Journal,
    ledger: Ledger,
    pages: Pages,
    exchange: Arc<Exchange>,
    policy: Policy,
    encoder: Encoder,
    sync: bool,
    /// What was taken from the shards and is not appended yet, and how far the first of it is.
    chunks: VecDeque<Chunk>,
    at: usize,
    /// References to be given up because what they refer to is lost.
    lost: VecDeque<(QueueId, Ref)>,
    /// Of each shard, how many records are appended.
    appended: Box<[u64]>,
    /// Buffers whose records are appended, to be given back once they are written.
    used: Vec<Vec<u8>>,
    asked: Vec<Asked>,
    scratch: Vec<u8>,
    last: Position,
    /// Something was committed that no later batch says to be on disk.
    unvouched: bool,
    /// A batch has begun.
    begun: bool,
    upkeep: Upkeep,
}

/// What there is to tidy up.
#[derive(Debug, Default)]
struct Upkeep {
    /// A chore is under way.
    busy: bool,
    /// Retire every segment up to this one.
    retire_to: u32,
    /// No segment could be had for what was pushed.
    no_room: bool,
    /// No spare could be prepared a moment ago.
    no_spare: bool,
    /// One has been missing since: what is left is for acknowledgements.
    short: bool,
    /// The index could not be written.
    no_index: bool,
    /// The limits on the folder or the reserve are met.
    no_space: bool,
    /// When the space was last looked at, and something last appended.
    looked: u64,
    worked: u64,
    /// What the journal took when that was last asked.
    bytes: u64,
    /// A cold segment to be emptied.
    empty: Option<u32>,
    /// The index was changed since it was last compacted.
    changed: bool,
}

impl Engine {
    pub(super) fn new(parts: Parts) -> Engine {
        let Parts { disk, index, journal, ledger, exchange, policy, clock, sync, last } = parts;
        let (index_of_pages, recent) = (Arc::clone(&index), Arc::default());
        let context = Context { index: index_of_pages, exchange: Arc::clone(&exchange), clock, recent };
        let appended = vec![0; exchange.shards()].into();
        Engine {
            disk,
            index,
            journal,
            ledger,
            pages: Pages::new(context),
            exchange,
            policy,
            encoder: Encoder::new(clock),
            sync,
            chunks: VecDeque::new(),
            at: 0,
            lost: VecDeque::new(),
            appended,
            used: Vec::new(),
            asked: Vec::new(),
            scratch: Vec::new(),
            last,
            unvouched: false,
            begun: false,
            upkeep: Upkeep { changed: true, ..Upkeep::default() },
        }
    }

    /// Takes what was pushed, makes it durable and says so. `wall` is the time in milliseconds since 1970. Returns whether
    /// there was anything to do.
    ///
    /// # Errors
    /// When the disk has failed: then it must not be called again.
    pub fn step(&mut self, wall: u64) -> Result<bool, Failure> {
        let mut worked = self.take_reports()?;
        if !self.is_blocked(wall) {
            if self.chunks.is_empty() {
                self.exchange.take(BATCH, &mut self.chunks);
            }
            worked |= !self.chunks.is_empty();
            let before = self.last;
            self.upkeep.no_room = !self.take_chunks(wall)?;
            self.commit(wall, self.last != before)?;
        }
        for asked in std::mem::take(&mut self.asked) {
            self.pages.ask(asked, &self.ledger, &self.journal);
        }
        self.look_after(wall);
        Ok(worked)
    }

    /// Whether there was no room a moment ago.
    pub(super) fn is_blocked(&self, wall: u64) -> bool {
        self.upkeep.no_room && (self.upkeep.looked..self.upkeep.looked + LOOK).contains(&wall)
    }

    fn take_reports(&mut self) -> Result<bool, Failure> {
        let mut any = false;
        while let Some(report) = self.exchange.next_report() {
            any = true;
            match report {
                Report::Loaded(loaded) => {
                    let taken = self.pages.loaded(loaded, &mut self.ledger, &self.journal);
                    taken.map_err(|error| failure(&error))?;
                }
                Report::Again(job) => self.pages.again(job),
                Report::Lost(queue, held) => {
                    self.exchange.add_damage(1);
                    self.lost.push_back((queue, held));
                }
                Report::Finished(finished) => self.finished(finished)?,
                Report::Failed(error) => return Err(failure(&error)),
            }
        }
        Ok(any)
    }

    /// Appends what was taken; `false` if there is no room for all of it.
    fn take_chunks(&mut self, wall: u64) -> Result<bool, Failure> {
        while let Some(&(queue, held)) = self.lost.front() {
            let mut bytes = std::mem::take(&mut self.scratch);
            bytes.clear();
            self.encoder.encode(&Record::Acked(queue, held.id), &mut bytes);
            let appended = self.append(&bytes, wall)?;
            self.scratch = bytes;
            if !appended {
                return Ok(false);
            }
            self.lost.pop_front();
        }
        while let Some(chunk) = self.chunks.pop_front() {
            if let Some(rest) = self.take_chunk(chunk, wall)? {
                self.chunks.push_front(rest);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes what was appended, if anything was, and says so.
    fn commit(&mut self, wall: u64, appended: bool) -> Result<(), Failure> {
        if !appended && self.unvouched {
            // An empty batch says that what came before it is on the disk.
            self.journal.begin(wall);
            self.begun = true;
        }
        if self.begun {
            self.begun = false;
            self.journal.commit(self.sync && appended).map_err(|error| failure(&error))?;
            self.unvouched = self.sync && appended;
        }
        if appended {
            self.upkeep.worked = wall;
        }
        for (shard, appended) in self.appended.iter().enumerate() {
            self.exchange.publish(shard, *appended);
        }
        for buffer in self.used.drain(..) {
            self.exchange.give_back(buffer);
        }
        Ok(())
    }

    /// Appends a shard's records; gives back what has no room.
    fn take_chunk(&mut self, mut chunk: Chunk, wall: u64) -> Result<Option<Chunk>, Failure> {
        let shard = chunk.shard;
        loop {
            while let Some((_, request)) = chunk.requests.pop_front_if(|(at, _)| *at <= self.at) {
                self.asked.push(Asked { shard, request, until: self.last });
            }
            let Some((record, next)) = chunk.record(self.at) else { break };
            if !self.append(record, wall)? {
                return Ok(Some(chunk));
            }
            self.appended[shard] += 1;
            self.at = next;
        }
        self.at = 0;
        self.used.push(chunk.bytes);
        Ok(None)
    }

    /// Appends a record; `false` if there is no room.
    fn append(&mut self, record: &[u8], wall: u64) -> Result<bool, Failure> {
        if !std::mem::replace(&mut self.begun, true) {
            self.journal.begin(wall);
        }
        match self.journal.append(record) {
            Ok(position) => {
                self.last = position;
                if let Some(stored) = Stored::decode(record) {
                    self.ledger.apply(position, &stored);
                }
                Ok(true)
            }
            Err(CommitError::NoRoom(error)) => {
                if !self.upkeep.no_room {
                    error!(%error, "no room on the disk for the journal: nothing is acknowledged until there is");
                }
                Ok(false)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// What became of a chore.
    fn finished(&mut self, finished: Finished) -> Result<(), Failure> {
        self.upkeep.busy = false;
        match finished {
            Finished::Spare(Ok(spare)) => {
                self.journal.add_spare(spare);
                self.upkeep.no_spare = false;
                if std::mem::take(&mut self.upkeep.short) {
                    info!("there is room for the journal again");
                }
            }
            Finished::Spare(Err(error)) => {
                self.upkeep.no_spare = true;
                if !std::mem::replace(&mut self.upkeep.short, true) {
                    warn!(%error, "no room for a spare segment: messages that must be kept are refused");
                }
            }
            Finished::Retired(number, Ok(retired)) => self.retired(number, retired),
            Finished::Evacuated(number, Ok(lost)) => {
                self.exchange.add_damage(lost.len() as u64);
                for position in lost {
                    let offset = position.offset();
                    error!(segment = number, offset, "a message on disk is damaged and cannot be moved");
                }
                self.ledger.forget(number);
                self.release(number);
                self.upkeep.empty = self.emptiest();
                self.upkeep.changed = true;
            }
            Finished::Compacted(Ok(0)) => {}
            Finished::Compacted(Ok(bytes)) => debug!(bytes, "the index gave room back"),
            Finished::Retired(_, Err(IndexError::NoRoom))
            | Finished::Evacuated(_, Err(IndexError::NoRoom))
            | Finished::Compacted(Err(IndexError::NoRoom)) => self.upkeep.no_index = true,
            Finished::Retired(_, Err(error))
            | Finished::Evacuated(_, Err(error))
            | Finished::Compacted(Err(error)) => return Err(failure(&error)),
        }
        Ok(())
    }

    fn retired(&mut self, number: u32, retired: Retired) {
        self.journal.retire(number);
        self.ledger.retire(number, retired.cold);
        for empty in retired.empty {
            self.release(empty);
        }
        self.upkeep.no_index = false;
        self.upkeep.changed = true;
    }

    fn release(&mut self, segment: u32) {
        if let Err(error) = self.journal.release(segment) {
            // It is looked for again at the next start.
            warn!(segment, %error, "a segment that is not needed any more could not be removed");
        }
    }

    /// Looks at the disk, and decides what there is to tidy up.
    fn look_after(&mut self, wall: u64) {
        let (hot, table) = (self.journal.hot_bytes(), self.ledger.bytes());
        if self.policy.is_over(hot, table)
            && let Some(oldest) = self.oldest()
        {
            self.upkeep.retire_to = self.upkeep.retire_to.max(oldest);
        }
        let grown = self.journal.bytes() > self.upkeep.bytes;
        self.upkeep.bytes = self.journal.bytes();
        if grown || wall >= self.upkeep.looked + LOOK || wall < self.upkeep.looked {
            self.upkeep.looked = wall;
            self.upkeep.no_spare = false;
            // A segment that was released may have become one.
            self.upkeep.short &= self.journal.wants_spare();
            self.upkeep.no_index = false;
            self.look_at_space();
            self.look_for_waste(wall);
            self.pages.retry(&self.ledger, &self.journal);
        }
        let &Upkeep { no_room, no_index, no_space, short, .. } = &self.upkeep;
        let behind = self.policy.is_far_over(hot, table);
        self.exchange.set_condition(behind, no_room || no_index || no_space || short);
    }

    /// The oldest hot segment that may be retired.
    fn oldest(&self) -> Option<u32> {
        let sealed = self.journal.sealed().front().map(|segment| segment.number());
        sealed.or_else(|| (self.last.segment() > self.ledger.retired()).then(|| self.last.segment()))
    }

    fn look_at_space(&mut self) {
        let Ok(space) = self.disk.space() else { return };
        let used = self.journal.bytes() + self.index.file_bytes();
        let no_space = self.policy.is_full(used, space);
        if no_space != std::mem::replace(&mut self.upkeep.no_space, no_space) {
            let free = space.free;
            if no_space {
                warn!(used, free, "the disk is full: messages that must be kept are refused");
            } else {
                info!(used, free, "there is room on the disk again");
            }
        }
        if no_space && self.ledger.has_given_up() {
            // What was given up is still there until the index hears of it.
            self.upkeep.retire_to = self.upkeep.retire_to.max(self.last.segment());
        }
    }

    fn look_for_waste(&mut self, wall: u64) {
        self.upkeep.empty = self.emptiest();
        let idle = wall >= self.upkeep.worked + IDLE;
        if idle {
            self.pages.forget();
        }
        let dead = self.ledger.dead();
        let much = dead as u64 * self.policy.segment_size > self.policy.journal_budget;
        if much || idle && (dead > 0 || self.ledger.is_uncounted()) {
            self.upkeep.retire_to = self.upkeep.retire_to.max(self.last.segment());
        }
    }

    /// The cold segment that is to be emptied, if one is. A file that is missing cannot be, and takes no room.
    fn emptiest(&self) -> Option<u32> {
        let cold = self.ledger.cold().iter().map(|(segment, live)| (*segment, *live));
        self.policy.worth_emptying(cold.filter(|(segment, _)| self.journal.segment(*segment).is_some()))
    }

    /// The next page to read, if there is one; any number may be under way.
    pub fn next_page(&mut self) -> Option<PageJob> {
        self.pages.next_job()
    }

    /// The next chore, if there is one; not before the last one is over.
    pub fn next_chore(&mut self) -> Option<Chore> {
        if self.upkeep.busy {
            return None;
        }
        let task = self.choose()?;
        self.upkeep.busy = true;
        Some(Chore {
            task,
            disk: Arc::clone(&self.disk),
            index: Arc::clone(&self.index),
            exchange: Arc::clone(&self.exchange),
        })
    }

    fn choose(&mut self) -> Option<Task> {
        let wants_spare = self.journal.wants_spare() && !self.upkeep.no_spare;
        let retires = !self.upkeep.no_index && self.upkeep.retire_to > self.ledger.retired();
        // Retiring may give a file that can be used again, which is cheaper than a fresh one.
        let urgent = !self.journal.has_room(self.policy.segment_size / 2);
        if wants_spare && (urgent || !retires) {
            return Some(Task::Spare(self.journal.spare_size()));
        }
        if retires && let Some(task) = self.next_to_retire() {
            return Some(task);
        }
        if self.upkeep.no_index {
            return None;
        }
        if let Some(segment) = self.upkeep.empty.take().and_then(|empty| self.journal.segment(empty)) {
            return Some(Task::Evacuate(segment));
        }
        // Where there is no room, those who wait for it keep it from ever being idle.
        let pressing = self.upkeep.no_space;
        let due = pressing || self.upkeep.looked >= self.upkeep.worked + IDLE;
        (due && std::mem::take(&mut self.upkeep.changed)).then_some(Task::Compact(pressing))
    }

    /// The oldest segment, if it is to be retired; the one that is written to is closed for it.
    fn next_to_retire(&mut self) -> Option<Task> {
        if self.journal.sealed().is_empty() {
            let table = self.ledger.bytes() > self.policy.table_budget;
            let worth = self.journal.hot_bytes() >= WORTH_SEALING.min(self.policy.segment_size / 2);
            let idle = self.upkeep.looked >= self.upkeep.worked + IDLE;
            // What was given up makes room only when the index hears of it.
            let pressing = self.upkeep.no_space && self.ledger.has_given_up();
            if !(table || worth || idle || pressing) {
                return None;
            }
            self.journal.seal();
        }
        let oldest = self.journal.sealed().front()?;
        (oldest.number() <= self.upkeep.retire_to).then(|| Task::Retire(Arc::clone(oldest), !self.sync))
    }

    /// Whether it should be stepped again soon, though nobody pushes anything.
    pub fn is_restless(&self) -> bool {
        let &Upkeep { no_room, no_spare, no_index, no_space, changed, retire_to, .. } = &self.upkeep;
        let waste = self.ledger.dead() > 0 || self.ledger.is_uncounted();
        let waits = no_room || no_spare || no_index || no_space;
        waits || waste || changed || self.pages.remembers() || retire_to > self.ledger.retired()
    }

    /// Makes durable what has been pushed so far, and that it is.
    ///
    /// # Errors
    /// As [`Engine::step`]; and if there is no room for it.
    pub fn finish(&mut self, wall: u64) -> Result<(), Failure> {
        self.upkeep.no_room = false;
        while self.step(wall)? || self.unvouched {}
        if self.upkeep.no_room {
            return Err(Failure("no room on the disk for what was pushed last".to_owned()));
        }
        if !self.sync {
            // Once at the end, so that the next start need not write all of it again; and that it is so.
            self.journal.commit(true).map_err(|error| failure(&error))?;
            self.journal.begin(wall);
            self.journal.commit(false).map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    /// How many places were found damaged on the disk at the start, and how many messages since, that were not delivered.
    pub fn damaged(&self) -> u64 {
        self.exchange.damaged()
    }
}

fn failure(error: &dyn fmt::Display) -> Failure {
    Failure(error.to_string())
}
