//! The one FIFO between the shards and the store: what every shard has pushed, whole chunks at a time, and how its pages
//! and its durable position come back to it.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chore::Finished;
use super::encode::Encoder;
use super::index::Ref;
use super::pages::{Loaded, PageJob};
use super::{Page, PageRequest, Pressure, Record, Store, Ticket};
use crate::clock::Clock;
use crate::message::QueueId;

/// Past so many bytes that wait to be written, no PUBLISH is read.
const HIGH_WATER: usize = 8 * 1024 * 1024;

/// Past so many, nothing that would push a record.
const FLOOD: usize = 4 * HIGH_WATER;

/// A buffer that has grown larger is not kept.
const KEPT_BUFFER: usize = 256 * 1024;

/// How many buffers are kept.
const KEPT_BUFFERS: usize = 16;

/// What a shard pushed in one turn.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) shard: usize,
    /// Records, each behind its length in four bytes.
    pub(super) bytes: Vec<u8>,
    /// Requests, and where among the records they were made.
    pub(super) requests: VecDeque<(usize, PageRequest)>,
}

impl Chunk {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.requests.is_empty()
    }

    /// The record that begins at `at`, and where the next one does.
    pub(super) fn record(&self, at: usize) -> Option<(&[u8], usize)> {
        let (head, rest) = self.bytes.get(at..)?.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*head) as usize;
        Some((rest.get(..len)?, at + 4 + len))
    }
}

/// What comes to the engine from the threads that work for it. It is taken before what shards have pushed meanwhile: a
/// shard can only know of it later.
#[derive(Debug)]
pub(super) enum Report {
    /// References that were looked up in the index.
    Loaded(Loaded),
    /// A job for the reader that could not be done yet.
    Again(PageJob),
    /// A reference whose message cannot be read.
    Lost(QueueId, Ref),
    /// A chore is over.
    Finished(Finished),
    /// The disk failed.
    Failed(String),
}

/// A call to wake a shard.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What comes back to a shard.
pub(super) struct Inbox {
    /// How many of its records are durable.
    pub(super) durable: AtomicU64,
    has_pages: AtomicBool,
    pages: Mutex<VecDeque<Page>>,
    waker: Waker,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("durable", &self.durable).finish_non_exhaustive()
    }
}

/// What waits for the engine.
#[derive(Debug, Default)]
struct Waiting {
    reports: VecDeque<Report>,
    chunks: VecDeque<Chunk>,
    buffers: Vec<Vec<u8>>,
    /// Who asks whether the engine moves; dropped in answer.
    question: Option<Box<dyn Any + Send>>,
    stopping: bool,
}

/// What the shards and the threads of the store share.
#[derive(Debug)]
pub(super) struct Exchange {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    inboxes: Box<[Inbox]>,
    /// Bytes of records that have been handed on and are not written yet.
    bytes: AtomicUsize,
    /// The journal is far over its budget.
    behind: AtomicBool,
    full: AtomicBool,
    /// What was found damaged on the disk since the start, that included.
    damaged: AtomicU64,
}

/// Nothing that holds one of the locks can panic halfway; what they guard is whole in any case.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exchange {
    /// For one shard per waker.
    pub(super) fn new(wakers: Vec<Waker>) -> Exchange {
        let inbox = |waker| Inbox {
            durable: AtomicU64::new(0),
            has_pages: AtomicBool::new(false),
            pages: Mutex::default(),
            waker,
        };
        Exchange {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            inboxes: wakers.into_iter().map(inbox).collect(),
            bytes: AtomicUsize::new(0),
            behind: AtomicBool::new(false),
            full: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
        }
    }

    /// So many more places or messages were found damaged.
    pub(super) fn add_damage(&self, found: u64) {
        self.damaged.fetch_add(found, Ordering::Relaxed);
    }

    /// How many were found since the start, that included.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    pub(super) fn shards(&self) -> usize {
        self.inboxes.len()
    }

    /// Reports to the engine.
    pub(super) fn report(&self, report: Report) {
        locked(&self.waiting).reports.push_back(report);
        self.arrived.notify_one();
    }

    /// Hands on what a shard has gathered, and gives it a buffer for the next turn.
    fn hand_on(&self, chunk: &mut Chunk) {
        self.bytes.fetch_add(chunk.bytes.len(), Ordering::Relaxed);
        let mut waiting = locked(&self.waiting);
        let next = Chunk {
            shard: chunk.shard,
            bytes: waiting.buffers.pop().unwrap_or_default(),
            requests: VecDeque::new(),
        };
        waiting.chunks.push_back(mem::replace(chunk, next));
        drop(waiting);
        self.arrived.notify_one();
    }

    /// The next report.
    pub(super) fn next_report(&self) -> Option<Report> {
        locked(&self.waiting).reports.pop_front()
    }

    /// Takes chunks of about so many bytes.
    pub(super) fn take(&self, most: usize, chunks: &mut VecDeque<Chunk>) {
        let mut waiting = locked(&self.waiting);
        let mut bytes = 0;
        while bytes < most
            && let Some(chunk) = waiting.chunks.pop_front()
        {
            bytes += chunk.bytes.len();
            chunks.push_back(chunk);
        }
    }

    /// The records of a chunk have been written.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        let before = self.bytes.fetch_sub(buffer.len(), Ordering::Relaxed);
        let after = before - buffer.len();
        if buffer.capacity() <= KEPT_BUFFER {
            buffer.clear();
            let mut waiting = locked(&self.waiting);
            if waiting.buffers.len() < KEPT_BUFFERS {
                waiting.buffers.push(buffer);
            }
        }
        if pressure_of(before) != pressure_of(after) {
            self.wake_all();
        }
    }

    /// Waits until there is a report or a chunk (only a report, if `blocked`), the store is to stop, or the time is over;
    /// whether it is to stop.
    pub(super) fn wait(&self, timeout: Option<Duration>, blocked: bool) -> bool {
        let waiting = locked(&self.waiting);
        let idle = |waiting: &mut Waiting| {
            waiting.reports.is_empty()
                && (blocked || waiting.chunks.is_empty())
                && waiting.question.is_none()
                && !waiting.stopping
        };
        let waiting = match timeout {
            None => self.arrived.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let woken = self.arrived.wait_timeout_while(waiting, timeout, idle);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        waiting.stopping
    }

    /// Asks whether the engine moves: it drops `question` after its next step.
    pub(super) fn ask(&self, question: Box<dyn Any + Send>) {
        let before = locked(&self.waiting).question.replace(question);
        self.arrived.notify_one();
        drop(before);
    }

    /// The engine has made a step.
    pub(super) fn answer(&self) {
        let question = locked(&self.waiting).question.take();
        drop(question);
    }

    /// Lets [`Exchange::wait`] say that it is time to stop.
    pub(super) fn stop(&self) {
        locked(&self.waiting).stopping = true;
        self.arrived.notify_one();
    }

    /// More records of a shard are durable.
    pub(super) fn publish(&self, shard: usize, durable: u64) {
        let inbox = &self.inboxes[shard];
        if inbox.durable.swap(durable, Ordering::Release) != durable {
            (inbox.waker)();
        }
    }

    /// A page is there for a shard.
    pub(super) fn deliver(&self, shard: usize, page: Page) {
        let inbox = &self.inboxes[shard];
        locked(&inbox.pages).push_back(page);
        inbox.has_pages.store(true, Ordering::Release);
        (inbox.waker)();
    }

    /// Says whether the journal is far over its budget, and whether there is no room on the disk.
    pub(super) fn set_condition(&self, behind: bool, full: bool) {
        let was_behind = self.behind.swap(behind, Ordering::Relaxed);
        let was_full = self.full.swap(full, Ordering::Relaxed);
        if (was_behind, was_full) != (behind, full) {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        self.inboxes.iter().for_each(|inbox| (inbox.waker)());
    }
}

fn pressure_of(bytes: usize) -> Pressure {
    match bytes {
        FLOOD.. => Pressure::Everything,
        HIGH_WATER.. => Pressure::Publishes,
        _ => Pressure::None,
    }
}

/// A shard's handle to the store on disk.
#[derive(Debug)]
pub struct JournalStore {
    exchange: Arc<Exchange>,
    encoder: Encoder,
    chunk: Chunk,
    /// How many records it has pushed.
    pushed: u64,
}

impl JournalStore {
    pub(super) fn new(exchange: Arc<Exchange>, shard: usize, clock: Clock) -> JournalStore {
        let chunk = Chunk { shard, ..Chunk::default() };
        JournalStore { exchange, encoder: Encoder::new(clock), chunk, pushed: 0 }
    }

    fn inbox(&self) -> &Inbox {
        &self.exchange.inboxes[self.chunk.shard]
    }
}

impl Store for JournalStore {
    fn push(&mut self, record: Record<'_>) -> Ticket {
        let bytes = &mut self.chunk.bytes;
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        if !self.encoder.encode(&record, bytes) {
            bytes.truncate(start);
            return Ticket(0);
        }
        let len = (bytes.len() - start - 4) as u32;
        bytes[start..start + 4].copy_from_slice(&len.to_le_bytes());
        self.pushed += 1;
        Ticket(self.pushed)
    }

    fn flush(&mut self) {
        if !self.chunk.is_empty() {
            self.exchange.hand_on(&mut self.chunk);
        }
    }

    fn durable(&self) -> Ticket {
        Ticket(self.inbox().durable.load(Ordering::Acquire))
    }

    fn has_pages(&self) -> bool {
        true
    }

    fn request(&mut self, request: PageRequest) {
        self.chunk.requests.push_back((self.chunk.bytes.len(), request));
    }

    fn next_page(&mut self) -> Option<Page> {
        let inbox = self.inbox();
        if !inbox.has_pages.load(Ordering::Acquire) {
            return None;
        }
        let mut pages = locked(&inbox.pages);
        let page = pages.pop_front();
        inbox.has_pages.store(!pages.is_empty(), Ordering::Release);
        page
    }

    fn pressure(&self) -> Pressure {
        let pressure = pressure_of(self.exchange.bytes.load(Ordering::Relaxed));
        let behind = self.exchange.behind.load(Ordering::Relaxed);
        pressure.max(if behind { Pressure::Publishes } else { Pressure::None })
    }

    fn is_full(&self) -> bool {
        self.exchange.full.load(Ordering::Relaxed)
    }
}
