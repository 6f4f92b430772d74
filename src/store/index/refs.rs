//! The references of one queue: what a batch of records adds and takes away, put into the queue's pages at once.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use redb::ReadableTable;

use super::tables::{QueueRow, Tables};
use super::{IndexError, Ref, page};
use crate::message::{MessageId, QueueId};
use crate::store::Position;

/// A page this small takes more references, whatever they cost to write again.
const SMALL: usize = 512;
/// A page takes more references unless it has this many times as many already: one that grew by each of ten thousand batches
/// would be written as often.
const GROWTH: usize = 8;
/// How many pages are looked at before what changed in them is written.
const SLICE: usize = 32;

/// What a reference that left its queue was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It is over.
    Acked,
    /// It became a delivery of QoS 2: the batch's with this number.
    Sent(usize),
}

/// A queue and what a batch does to it.
#[derive(Debug)]
pub struct Pending {
    queue: u64,
    /// `None`: no session or group owns it, and it takes nothing.
    owner: Option<u8>,
    refs: u64,
    bytes: u64,
    /// By their numbers in the batch: a message to ten thousand queues is kept once.
    added: Vec<u32>,
    gone: BTreeMap<MessageId, Gone>,
}

impl Pending {
    /// A queue as the index has it.
    pub fn load(queue: QueueId, tables: &Tables<'_>) -> Result<Pending, IndexError> {
        let row = tables.queues.get(queue.0)?.map(|row| row.value());
        let (owner, refs, bytes) =
            row.map_or((None, 0, 0), |(owner, refs, bytes)| (Some(owner), refs, bytes));
        Ok(Pending { queue: queue.0, owner, refs, bytes, added: Vec::new(), gone: BTreeMap::new() })
    }

    /// Who owns it.
    pub fn owner(&self) -> Option<u8> {
        self.owner
    }

    /// Gives it an owner.
    pub fn own(&mut self, owner: u8) {
        self.owner = Some(owner);
    }

    /// A message goes there; returns whether it was news.
    pub fn add(&mut self, message: u32) -> bool {
        if self.added.last().is_some_and(|last| *last >= message) {
            return false;
        }
        self.added.push(message);
        true
    }

    /// A message leaves it.
    pub fn remove(&mut self, id: MessageId, gone: Gone) {
        if self.owner.is_some() {
            self.gone.entry(id).or_insert(gone);
        }
    }

    /// Puts it all into the pages; `left` learns of each reference that left and for what. `messages` are the batch's.
    pub fn flush(
        &mut self,
        tables: &mut Tables<'_>,
        messages: &[Ref],
        left: &mut Vec<(Ref, Gone)>,
    ) -> Result<(), IndexError> {
        let Some(owner) = self.owner else { return Ok(()) };
        let before = (self.refs, self.bytes);
        let gone = &mut self.gone;
        let from = left.len();
        let mut added = Vec::with_capacity(self.added.len());
        for number in mem::take(&mut self.added) {
            let reference = messages[number as usize];
            match gone.remove(&reference.id) {
                Some(why) => left.push((reference, why)),
                None => added.push(reference),
            }
        }
        let cancelled = left.len() - from;
        if self.refs > 0 && !self.gone.is_empty() {
            self.take_out(tables, left)?;
        }
        for (reference, _) in &left[from + cancelled..] {
            self.refs = self.refs.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(reference.size.into());
        }
        self.gone.clear();
        self.append(&added, tables)?;
        if before != (self.refs, self.bytes) || tables.queues.get(self.queue)?.is_none() {
            let row: QueueRow = (owner, self.refs, self.bytes);
            tables.queues.insert(self.queue, row)?;
        }
        Ok(())
    }

    /// Takes what is gone out of the pages, from the front on: acknowledgements come nearly in the queue's order.
    fn take_out(&mut self, tables: &mut Tables<'_>, left: &mut Vec<(Ref, Gone)>) -> Result<(), IndexError> {
        let mut hunt = Hunt::new(&mut self.gone);
        let mut start = (self.queue, 0);
        loop {
            let mut changed: Vec<((u64, u64), Vec<u8>)> = Vec::new();
            let mut looked_at = 0;
            for row in tables.pages.range(start..=(self.queue, u64::MAX))? {
                let (key, page) = row?;
                looked_at += 1;
                start = (self.queue, key.value().1.saturating_add(1));
                if let Some(rest) = hunt.look(Position(key.value().1), page.value(), left)? {
                    changed.push((key.value(), rest));
                }
                if hunt.is_over() || looked_at == SLICE {
                    break;
                }
            }
            for (key, rest) in changed {
                match rest.is_empty() {
                    true => tables.remove_page(key)?,
                    false => tables.put_page(key, &rest)?,
                }
            }
            if hunt.is_over() || looked_at < SLICE {
                return Ok(());
            }
        }
    }

    /// Appends what is new: to the last page if that is small, and in new ones.
    fn append(&mut self, added: &[Ref], tables: &mut Tables<'_>) -> Result<(), IndexError> {
        let Some(first) = added.first() else { return Ok(()) };
        let (mut key, mut refs) = self.head(first.position, added.len(), tables)?;
        self.refs += added.len() as u64;
        self.bytes += added.iter().map(|reference| u64::from(reference.size)).sum::<u64>();
        refs.extend_from_slice(added);
        let (mut rest, mut page) = (&refs[..], Vec::new());
        while let Some(first) = rest.first() {
            if rest.len() < refs.len() {
                key.1 = first.position.0;
            }
            let packed = page::encode(Position(key.1), rest, &mut page);
            tables.put_page(key, &page)?;
            rest = &rest[packed..];
        }
        Ok(())
    }

    /// The key of the page that takes so many new references, from `first` on, and what it has: the last page if that is
    /// small.
    fn head(
        &self,
        first: Position,
        added: usize,
        tables: &Tables<'_>,
    ) -> Result<((u64, u64), Vec<Ref>), IndexError> {
        let new = ((self.queue, first.0), Vec::new());
        let last = tables.pages.range((self.queue, 0)..=(self.queue, u64::MAX))?.next_back().transpose()?;
        let Some((key, page)) = last else { return Ok(new) };
        let (key, page) = (key.value(), page.value());
        let mut refs = Vec::new();
        page::decode(Position(key.1), page, &mut refs)?;
        if refs.last().is_some_and(|last| last.position >= first) {
            return Err(IndexError::damaged("a reference behind the log"));
        }
        let roomy = refs.len() < page::MOST && (page.len() <= SMALL || refs.len() <= GROWTH * added);
        Ok(if roomy { (key, refs) } else { new })
    }

    /// Its owner is gone: `release` has every reference, and nothing of it remains. It must have been flushed.
    pub fn disown(
        &mut self,
        tables: &mut Tables<'_>,
        mut release: impl FnMut(&Ref, &mut Tables<'_>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut refs = Vec::new();
        loop {
            let mut keys = Vec::new();
            for row in tables.pages.range((self.queue, 0)..=(self.queue, u64::MAX))?.take(SLICE) {
                let (key, page) = row?;
                page::decode(Position(key.value().1), page.value(), &mut refs)?;
                keys.push(key.value());
            }
            for key in &keys {
                tables.remove_page(*key)?;
            }
            for reference in refs.drain(..) {
                release(&reference, tables)?;
            }
            if keys.len() < SLICE {
                break;
            }
        }
        tables.queues.remove(self.queue)?;
        (self.owner, self.refs, self.bytes) = (None, 0, 0);
        Ok(())
    }
}

/// The search for some ids through a queue's pages. The ids of one prefix rise along the queue, so a page whose lowest
/// is above
/// all that is sought of a prefix ends the search for that prefix.
struct Hunt<'a> {
    gone: &'a mut BTreeMap<MessageId, Gone>,
    /// The prefixes of which something is still sought.
    prefixes: BTreeSet<u64>,
    refs: Vec<Ref>,
}

impl<'a> Hunt<'a> {
    fn new(gone: &'a mut BTreeMap<MessageId, Gone>) -> Hunt<'a> {
        let prefixes = gone.keys().map(|id| id.0 >> 48).collect();
        Hunt { gone, prefixes, refs: Vec::new() }
    }

    fn is_over(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// What remains of a page, if anything of it was sought.
    fn look(
        &mut self,
        base: Position,
        page: &[u8],
        left: &mut Vec<(Ref, Gone)>,
    ) -> Result<Option<Vec<u8>>, IndexError> {
        let bounds = page::bounds(page)?;
        let sought = bounds.iter().any(|(low, high)| self.gone.range(low..=high).next().is_some());
        let mut rest = None;
        if sought {
            self.refs.clear();
            page::decode(base, page, &mut self.refs)?;
            let before = self.refs.len();
            let gone = &mut *self.gone;
            self.refs.retain(|reference| match gone.remove(&reference.id) {
                Some(why) => {
                    left.push((*reference, why));
                    false
                }
                None => true,
            });
            if self.refs.len() < before {
                rest = Some(self.encode(base)?);
            }
        }
        for (low, _) in bounds.iter() {
            let prefix = low.0 >> 48;
            let highest = self.gone.range(MessageId(prefix << 48)..=MessageId(prefix << 48 | u64::MAX >> 16));
            if highest.last().is_none_or(|(id, _)| *id < low) {
                self.prefixes.remove(&prefix);
            }
        }
        Ok(rest)
    }

    fn encode(&self, base: Position) -> Result<Vec<u8>, IndexError> {
        let mut page = Vec::new();
        if !self.refs.is_empty() && page::encode(base, &self.refs, &mut page) < self.refs.len() {
            return Err(IndexError::damaged("a page that grew by losing references"));
        }
        Ok(page)
    }
}
