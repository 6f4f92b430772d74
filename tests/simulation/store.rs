//! A store whose disk lags behind: records are durable when the simulation says so, and pages come when it says so. What a
//! journal would hold is in an exact model, so that a reference that nobody gives up shows, and one given up twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use weirmq::store::{Page, PageRequest, Pressure, Record, Store, Ticket};

use super::super::common::paged_store::PagedStore;

/// What all shards have pushed.
#[derive(Default)]
pub struct Journal {
    pub pushed: u64,
    pub durable: u64,
    /// By the number in its payload: where a message's record stands, the first if there are several.
    messages: BTreeMap<Vec<u8>, u64>,
}

impl Journal {
    /// Whether a message with this payload is on disk, if it has a record at all.
    pub fn has(&self, payload: &[u8]) -> bool {
        self.messages.get(payload).is_none_or(|position| *position <= self.durable)
    }
}

/// The store of all shards.
pub struct SimStore {
    journal: Arc<Mutex<Journal>>,
    /// What it holds, and the pages of it.
    pub model: PagedStore,
    paged: bool,
}

impl SimStore {
    /// An empty one; `paged` if queues may rely on its pages.
    pub fn new(paged: bool) -> SimStore {
        let model = PagedStore::default();
        model.hold_pages(true);
        SimStore { journal: Arc::default(), model, paged }
    }

    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    /// One more shard's end.
    pub fn handle(&self) -> Box<dyn Store> {
        Box::new(Handle { journal: self.journal.clone(), model: self.model.handle(), paged: self.paged })
    }
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().expect("nothing panics while it holds the journal")
}

struct Handle {
    journal: Arc<Mutex<Journal>>,
    model: Box<dyn Store>,
    paged: bool,
}

impl Store for Handle {
    fn push(&mut self, record: Record<'_>) -> Ticket {
        let mut journal = lock(&self.journal);
        journal.pushed += 1;
        let pushed = journal.pushed;
        if let Record::Message { message, .. } = &record {
            journal.messages.entry(message.payload().to_vec()).or_insert(pushed);
        }
        self.model.push(record);
        Ticket(pushed)
    }

    fn flush(&mut self) {
        self.model.flush();
    }

    fn durable(&self) -> Ticket {
        Ticket(lock(&self.journal).durable)
    }

    fn has_pages(&self) -> bool {
        self.paged
    }

    fn request(&mut self, request: PageRequest) {
        self.model.request(request);
    }

    fn next_page(&mut self) -> Option<Page> {
        self.model.next_page()
    }

    fn pressure(&self) -> Pressure {
        Pressure::None
    }

    fn is_full(&self) -> bool {
        false
    }
}
