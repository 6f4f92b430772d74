//! Pages: from the request through what the ledger and the index know to the messages themselves, which a reader fetches
//! from the segments while commits go on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tracing::error;

use super::bodies::Bodies;
use super::fifo::{Exchange, Report};
use super::index::{Index, IndexError, Ref};
use super::journal::Journal;
use super::ledger::{Ledger, Selected};
use super::recent::Recent;
use super::record::Stored;
use super::segment::Segment;
use super::{Page, PageEntry, PageRequest, Position};
use crate::clock::Clock;
use crate::message::QueueId;

/// How many references are taken from the index at a time: a page of small messages.
const LOOK_UP: usize = 512;

/// A request, and where the journal stood when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) shard: usize,
    pub(super) request: PageRequest,
    /// The last record before it.
    pub(super) until: Position,
}

/// What the index said about a queue.
#[derive(Debug)]
pub(super) struct Loaded {
    queue: QueueId,
    /// How many were asked for.
    most: usize,
    /// Up to which segment the index was known to go when it was asked.
    retired: u32,
    refs: Result<Vec<Ref>, IndexError>,
}

/// Work for the reader.
#[derive(Debug)]
pub struct PageJob {
    task: Task,
    context: Context,
}

#[derive(Debug)]
enum Task {
    LookUp { queue: QueueId, after: Position, most: usize, retired: u32 },
    Read(Read),
}

/// A page to be read.
#[derive(Debug)]
struct Read {
    shard: usize,
    page: Page,
    refs: Vec<Ref>,
    /// The files that hold them, unless the index does. While this has them, they are not used for anything else.
    segments: Vec<Arc<Segment>>,
}

/// What a reader needs.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) index: Arc<Index>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) clock: Clock,
    /// Only whoever reads pages has it for longer than a moment.
    pub(super) recent: Arc<Mutex<Recent>>,
}

/// The requests that wait for something.
#[derive(Debug)]
pub(super) struct Pages {
    context: Context,
    /// Queues of which the index is being asked, and the requests that wait for that.
    waiting: HashMap<QueueId, VecDeque<Asked>, RandomState>,
    jobs: VecDeque<PageJob>,
    /// Queues to ask the index about again, and jobs to do again: it had no room to be opened.
    again: Vec<QueueId>,
    again_jobs: Vec<PageJob>,
}

impl Pages {
    pub(super) fn new(context: Context) -> Pages {
        Pages {
            context,
            waiting: HashMap::default(),
            jobs: VecDeque::new(),
            again: Vec::new(),
            again_jobs: Vec::new(),
        }
    }

    /// Takes a request up. What it asks for must have been committed before a job is taken.
    pub(super) fn ask(&mut self, asked: Asked, ledger: &Ledger, journal: &Journal) {
        let queue = asked.request.queue;
        if let Some(waiting) = self.waiting.get_mut(&queue) {
            waiting.push_back(asked);
        } else if let Err(after) = self.serve(&asked, ledger, journal) {
            self.waiting.entry(queue).or_default().push_back(asked);
            self.look_up(queue, after, ledger);
        }
    }

    /// What the index said; an error is final.
    pub(super) fn loaded(
        &mut self,
        loaded: Loaded,
        ledger: &mut Ledger,
        journal: &Journal,
    ) -> Result<(), IndexError> {
        let Loaded { queue, most, retired, refs } = loaded;
        match refs {
            Ok(refs) => {
                // If a segment was retired meanwhile, it is not known whether the index was asked before or after that.
                if retired == ledger.retired() {
                    ledger.load(queue, &refs, refs.len() < most);
                }
                self.go_on(queue, ledger, journal);
                Ok(())
            }
            Err(IndexError::NoRoom) => {
                self.again.push(queue);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A job is to be done again.
    pub(super) fn again(&mut self, job: PageJob) {
        self.again_jobs.push(job);
    }

    /// Asks the index again, where it could not be asked for want of room.
    pub(super) fn retry(&mut self, ledger: &Ledger, journal: &Journal) {
        self.jobs.extend(self.again_jobs.drain(..));
        for queue in std::mem::take(&mut self.again) {
            self.go_on(queue, ledger, journal);
        }
    }

    fn go_on(&mut self, queue: QueueId, ledger: &Ledger, journal: &Journal) {
        let Some(mut waiting) = self.waiting.remove(&queue) else { return };
        while let Some(asked) = waiting.front() {
            if let Err(after) = self.serve(asked, ledger, journal) {
                self.look_up(queue, after, ledger);
                self.waiting.insert(queue, waiting);
                return;
            }
            waiting.pop_front();
        }
    }

    fn look_up(&mut self, queue: QueueId, after: Position, ledger: &Ledger) {
        let task = Task::LookUp { queue, after, most: LOOK_UP, retired: ledger.retired() };
        self.jobs.push_back(PageJob { task, context: self.context.clone() });
    }

    /// Makes the job that reads the page, or says behind what the index must be asked.
    fn serve(&mut self, asked: &Asked, ledger: &Ledger, journal: &Journal) -> Result<(), Position> {
        let PageRequest { queue, serial, after, max_bytes } = asked.request;
        let (refs, last) = match ledger.select(queue, after, asked.until, max_bytes) {
            Selected::Refs(refs, last) => (refs, last),
            Selected::Unknown(after) => return Err(after),
        };
        let after = refs.last().map(|last| last.position).or(after).unwrap_or_default();
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let mut number = None;
        for held in &refs {
            if number.replace(held.position.segment()) != Some(held.position.segment()) {
                segments.extend(journal.segment(held.position.segment()));
            }
        }
        let page = Page { queue, serial, entries: Vec::new(), after, last };
        let task = Task::Read(Read { shard: asked.shard, page, refs, segments });
        self.jobs.push_back(PageJob { task, context: self.context.clone() });
        Ok(())
    }

    /// Lets go of what was read and is not asked for any more, unless it is just then.
    pub(super) fn forget(&mut self) {
        if let Ok(mut recent) = self.context.recent.try_lock() {
            *recent = Recent::default();
        }
    }

    /// Whether there may be any such.
    pub(super) fn remembers(&self) -> bool {
        self.context.recent.try_lock().is_ok_and(|recent| !recent.is_empty())
    }

    /// The next job for the reader.
    pub(super) fn next_job(&mut self) -> Option<PageJob> {
        self.jobs.pop_front()
    }
}

impl PageJob {
    /// Does it.
    pub fn run(self) {
        let PageJob { task, context } = self;
        match task {
            Task::LookUp { queue, after, most, retired } => {
                let after = (after != Position::default()).then_some(after);
                let refs = context.index.refs(queue, after, most);
                context.exchange.report(Report::Loaded(Loaded { queue, most, retired, refs }));
            }
            Task::Read(read) => read.run(&context),
        }
    }
}

impl Read {
    fn run(mut self, context: &Context) {
        self.page.entries.reserve(self.refs.len());
        let mut bodies = Bodies::new(&self.segments, &context.index);
        let mut recent = context.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for held in &self.refs {
            match entry(held, self.page.queue, &mut bodies, &mut recent, &context.clock) {
                Ok(Some(entry)) => self.page.entries.push(entry),
                Ok(None) => {
                    let (segment, offset) = (held.position.segment(), held.position.offset());
                    let (queue, message) = (self.page.queue.0, held.id.0);
                    error!(
                        segment,
                        offset, queue, message, "a message on disk is damaged and is not delivered"
                    );
                    context.exchange.report(Report::Lost(self.page.queue, *held));
                }
                Err(IndexError::NoRoom) => {
                    self.page.entries.clear();
                    let again = PageJob { task: Task::Read(self), context: context.clone() };
                    return context.exchange.report(Report::Again(again));
                }
                Err(error) => return context.exchange.report(Report::Failed(error.to_string())),
            }
        }
        context.exchange.deliver(self.shard, self.page);
    }
}

/// The message of a reference; `None` if it cannot be had any more.
fn entry(
    held: &Ref,
    queue: QueueId,
    bodies: &mut Bodies<'_>,
    recent: &mut Recent,
    clock: &Clock,
) -> Result<Option<PageEntry>, IndexError> {
    if let Some(entry) = recent.entry(held.position, queue) {
        return Ok(Some(entry).filter(|entry| entry.message.id == held.id));
    }
    let Some(bytes) = bodies.record(held.position)? else { return Ok(None) };
    let Some(Stored::Message(message)) = Stored::decode_sound(bytes) else { return Ok(None) };
    let entry = message.entry(queue, clock).filter(|entry| entry.message.id == held.id);
    if let (Some(entry), Some(targets)) = (&entry, message.targets())
        && targets.are_several()
    {
        recent.insert(held.position, &entry.message, targets.bytes());
    }
    Ok(entry)
}
