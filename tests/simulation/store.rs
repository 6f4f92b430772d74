//! The store in a run: a disk that lags behind, and beside it what all records mean, in plain maps. Without a disk the
//! records are durable when the simulation says so, and a restart finds what they mean up to some point behind that.

#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use weirmq::message::QueueId;
use weirmq::store::fifo::JournalStore;
use weirmq::store::restored::Restored;
use weirmq::store::{Page, PageEntry, PageRequest, Position, Pressure, Record, Store, Ticket};

use super::machine::Machine;
use crate::common::store_model::{Model, Said, entry_line, said};

/// What all shards have pushed.
pub struct Journal {
    /// Whether queues may leave the memory.
    pages: bool,
    /// Whether records must make sense.
    strict: bool,
    /// The real store, if there is one.
    pub machine: Option<Machine>,
    ends: Vec<End>,
    /// What was handed on and is not durable, and who said it.
    fifo: VecDeque<(usize, Said)>,
    /// What everything means that was handed on, and what is durable of it.
    handed: Model,
    durable: Model,
    /// By the number in its payload: where a message's record stands, the first if there are several.
    messages: BTreeMap<Vec<u8>, u64>,
    /// The queue of each client's session, by the last record of it.
    queues: BTreeMap<String, QueueId>,
    /// Which record stands where a page of a queue ended.
    ended: BTreeMap<(QueueId, Position), u64>,
}

/// One shard's end of it.
#[derive(Default)]
struct End {
    pushed: u64,
    durable: u64,
    /// Not handed on.
    buffer: Vec<Op>,
    /// Pages that were asked for, and those that have come.
    due: VecDeque<Page>,
    come: VecDeque<Page>,
    /// The handle to the real store, and what the pages must hold that were asked of it.
    real: Option<JournalStore>,
    expected: BTreeMap<(QueueId, u32), Expected>,
}

/// What a page may hold.
struct Expected {
    /// Each with the number of its record.
    entries: Vec<(u64, PageEntry)>,
    /// Behind which record it begins.
    after: u64,
    max_bytes: usize,
}

enum Op {
    Said(Said),
    Asked(PageRequest),
}

impl Journal {
    fn new(shards: usize, pages: bool, strict: bool, model: Model) -> Journal {
        Journal {
            pages,
            strict,
            ends: (0..shards).map(|_| End::default()).collect(),
            fifo: VecDeque::new(),
            handed: model.clone(),
            durable: model,
            messages: BTreeMap::new(),
            queues: BTreeMap::new(),
            ended: BTreeMap::new(),
            machine: None,
        }
    }

    fn hand_on(&mut self, shard: usize) {
        for op in std::mem::take(&mut self.ends[shard].buffer) {
            match op {
                Op::Said(said) => {
                    if self.strict {
                        self.handed.judge(&said);
                    }
                    self.handed.apply(&said);
                    let number = self.handed.records();
                    if let Said::Message(published) = &said
                        && let Some(at) = self.messages.get_mut(published.message.payload())
                    {
                        *at = (*at).min(number);
                    }
                    self.fifo.push_back((shard, said));
                }
                Op::Asked(request) => self.asked(shard, &request),
            }
        }
        if let Some(real) = &mut self.ends[shard].real {
            real.flush();
        }
    }

    fn asked(&mut self, shard: usize, request: &PageRequest) {
        let PageRequest { queue, serial, .. } = *request;
        let after = request.after.map_or(0, |after| self.ended[&(queue, after)]);
        let mut entries = self.handed.behind(queue, after);
        let end = &mut self.ends[shard];
        if end.real.is_some() {
            let max_bytes = request.max_bytes;
            end.expected.insert((queue, serial), Expected { entries, after, max_bytes });
            return;
        }
        let mut bytes = 0;
        let fits = entries.iter().take_while(|(_, entry)| {
            let before = bytes;
            bytes += entry.message.size();
            before < request.max_bytes.max(1)
        });
        let (fits, all) = (fits.count(), entries.len());
        entries.truncate(fits);
        let number = entries.last().map_or(after, |(number, _)| *number);
        self.ended.insert((queue, Position(number)), number);
        let entries = entries.into_iter().map(|(_, entry)| entry).collect();
        end.due.push_back(Page { queue, serial, entries, after: Position(number), last: fits == all });
    }

    /// Whether a page was asked for that the shard has not been given.
    pub fn owes_a_page(&self, shard: usize) -> bool {
        let End { buffer, due, come, .. } = &self.ends[shard];
        buffer.iter().any(|op| matches!(op, Op::Asked(_))) || !due.is_empty() || !come.is_empty()
    }

    /// The next page that has come for a shard.
    fn next_page(&mut self, shard: usize) -> Option<Page> {
        let end = &mut self.ends[shard];
        let Some(real) = &mut end.real else { return end.come.pop_front() };
        let page = real.next_page()?;
        let expected = end.expected.remove(&(page.queue, page.serial)).expect("a page that nobody asked for");
        let number = self.check_page(&page, &expected);
        self.ended.insert((page.queue, page.after), number);
        Some(page)
    }

    /// A page of the real store must hold what was there when it was asked for, up to its end or, if it is the last, all of
    /// it; only what was given up since may be missing. Returns the record that its end stands for.
    fn check_page(&self, page: &Page, expected: &Expected) -> u64 {
        let queue = page.queue;
        let mut all = expected.entries.iter();
        let (mut number, mut bytes) = (expected.after, 0);
        let mut skipped = Vec::new();
        for entry in &page.entries {
            let line = entry_line(entry);
            assert!(bytes < expected.max_bytes.max(1), "a page of {queue:?} that is too large");
            bytes += entry.message.size();
            loop {
                let next = all.next();
                let (at, next) = next.unwrap_or_else(|| panic!("{line} was not in {queue:?}, or not there"));
                number = *at;
                if entry_line(next) == line {
                    break;
                }
                skipped.push((*at, next));
            }
        }
        if page.last {
            skipped.extend(all.map(|(at, entry)| (*at, entry)));
            number = expected.entries.last().map_or(number, |(at, _)| *at);
        }
        let missing = skipped.iter().find(|(at, _)| self.handed.holds(queue, *at));
        let missing = missing.map(|(_, entry)| entry_line(entry));
        assert_eq!(missing, None, "a page of {queue:?} lacks what waits there");
        assert!(page.last || !page.entries.is_empty(), "an empty page of {queue:?} that is not the last");
        number
    }

    /// How many records of a shard are not durable, those included that it has not handed on.
    pub fn behind(&self, shard: usize) -> u64 {
        self.ends[shard].pushed - self.ends[shard].durable
    }

    /// Up to where a shard's records are durable.
    pub fn durable(&self, shard: usize) -> u64 {
        self.ends[shard].durable
    }

    /// How many records have been handed on and are not durable.
    pub fn under_way(&self) -> u64 {
        self.fifo.len() as u64
    }

    /// Some more are durable.
    pub fn commit(&mut self, records: u64) {
        for (shard, said) in self.fifo.drain(..records as usize) {
            self.durable.apply(&said);
            self.ends[shard].durable += 1;
        }
    }

    /// The next page that a shard has asked for comes; whether there was one.
    pub fn send_page(&mut self, shard: usize) -> bool {
        let page = self.ends[shard].due.pop_front();
        let any = page.is_some();
        self.ends[shard].come.extend(page);
        any
    }

    /// Takes note of what the real store says is durable: the oldest records that were handed on.
    pub fn note_durable(&mut self) {
        let real = |end: &End| end.real.as_ref().map_or(end.durable, |real| real.durable().0);
        while let Some((shard, _)) = self.fifo.front()
            && self.ends[*shard].durable < real(&self.ends[*shard])
        {
            self.commit(1);
        }
        for end in &self.ends {
            assert_eq!(end.durable, real(end), "durable before what was handed on before it");
        }
    }

    /// The process is gone, and all that was not handed on; of what was, `kept` more records are there than were durable.
    pub fn crash(&mut self, kept: u64) -> Restored {
        self.commit(kept);
        let records = self.durable.records();
        self.messages.retain(|_, number| *number <= records);
        self.durable.restored()
    }

    /// How many more records are there than were durable, going by what the real store gave back.
    ///
    /// # Panics
    /// If that is not what any number of records means.
    pub fn find(&self, restored: &Restored) -> u64 {
        let Some(first) = self.durable.differs(restored) else { return 0 };
        let mut model = self.durable.clone();
        let mut last = first.clone();
        for (index, (_, said)) in self.fifo.iter().enumerate() {
            model.apply(said);
            match model.differs(restored) {
                Some(difference) => last = difference,
                None => return index as u64 + 1,
            }
        }
        panic!("what was durable: {first}\nwith all {} records that were not: {last}", self.fifo.len());
    }

    /// Whether a message with this payload is on disk, if it has a record at all.
    pub fn has(&self, payload: &[u8]) -> bool {
        self.messages.get(payload).is_none_or(|number| *number <= self.durable.records())
    }

    /// Whether there is a record of a message with this payload.
    pub fn knows(&self, payload: &[u8]) -> bool {
        self.messages.contains_key(payload)
    }

    /// Whether a message with this payload is on disk.
    pub fn keeps(&self, payload: &[u8]) -> bool {
        self.messages.contains_key(payload) && self.has(payload)
    }

    /// The queue of the session that a client has, or had last.
    pub fn queue_of(&self, client_id: &str) -> Option<QueueId> {
        self.queues.get(client_id).copied()
    }

    /// How many references nobody has given up.
    pub fn references(&self) -> usize {
        self.handed.references()
    }

    /// How many queues have not ended.
    pub fn queues(&self) -> usize {
        self.handed.queues()
    }
}

/// The store of one process.
#[derive(Clone)]
pub struct SimStore(Arc<Mutex<Journal>>);

impl SimStore {
    /// An empty one. `pages`: queues may leave the memory; `strict`: what is pushed must make sense.
    pub fn new(shards: usize, pages: bool, strict: bool) -> SimStore {
        SimStore(Arc::new(Mutex::new(Journal::new(shards, pages, strict, Model::default()))))
    }

    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().expect("nothing panics while it holds the journal")
    }

    /// Goes by the real store from now on.
    pub fn run_on(&self, machine: Machine, handles: Vec<JournalStore>) {
        let mut journal = self.journal();
        journal.machine = Some(machine);
        for (end, handle) in journal.ends.iter_mut().zip(handles) {
            end.real = Some(handle);
        }
    }

    /// One shard's handle.
    pub fn handle(&self, shard: usize) -> Handle {
        Handle { store: self.clone(), shard }
    }

    /// The store of the next process, of so many shards, which goes on from what was durable.
    pub fn next(&self, shards: usize) -> SimStore {
        let journal = self.journal();
        let mut next = Journal::new(shards, journal.pages, journal.strict, journal.durable.clone());
        next.messages = journal.messages.clone();
        next.queues = journal.queues.clone();
        SimStore(Arc::new(Mutex::new(next)))
    }
}

/// One shard's end.
pub struct Handle {
    store: SimStore,
    shard: usize,
}

impl Store for Handle {
    fn push(&mut self, record: Record<'_>) -> Ticket {
        let said = said(&record);
        let mut journal = self.store.journal();
        if let Some(real) = &mut journal.ends[self.shard].real {
            let ticket = real.push(record);
            if ticket == Ticket(0) {
                assert!(said.is_vain(), "not recorded: {said:?}");
                return ticket;
            }
        }
        self.note(&mut journal, said)
    }

    fn flush(&mut self) {
        self.store.journal().hand_on(self.shard);
    }

    fn durable(&self) -> Ticket {
        let journal = self.store.journal();
        let end = &journal.ends[self.shard];
        end.real.as_ref().map_or(Ticket(end.durable), |real| real.durable())
    }

    fn has_pages(&self) -> bool {
        self.store.journal().pages
    }

    fn request(&mut self, request: PageRequest) {
        let mut journal = self.store.journal();
        let end = &mut journal.ends[self.shard];
        if let Some(real) = &mut end.real {
            real.request(request);
        }
        end.buffer.push(Op::Asked(request));
    }

    fn next_page(&mut self) -> Option<Page> {
        self.store.journal().next_page(self.shard)
    }

    fn pressure(&self) -> Pressure {
        let journal = self.store.journal();
        journal.ends[self.shard].real.as_ref().map_or(Pressure::None, |real| real.pressure())
    }

    fn is_full(&self) -> bool {
        self.store.journal().ends[self.shard].real.as_ref().is_some_and(|real| real.is_full())
    }
}

impl Handle {
    fn note(&self, journal: &mut Journal, said: Said) -> Ticket {
        match &said {
            Said::Message(published) => {
                let payload = published.message.payload().to_vec();
                journal.messages.entry(payload).or_insert(u64::MAX);
            }
            Said::Session(state) => {
                journal.queues.insert(state.client_id.clone(), state.queue);
            }
            _ => {}
        }
        let end = &mut journal.ends[self.shard];
        end.buffer.push(Op::Said(said));
        end.pushed += 1;
        Ticket(end.pushed)
    }
}
