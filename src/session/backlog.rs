//! [`Backlog`]: a queue whose tail is on disk. Its window is in memory; what does not fit there, or waits while nobody
//! takes it, is dropped from memory as it comes and comes back by pages, in the order of the journal.
//!
//! A message reaches the queue on two ways: its peer forwards it, and a page may bring it. Both keep the messages of one
//! publishing shard in their order, but either may be first. So a page skips what memory held when it was asked for, a
//! Forward that a page has preceded is only counted, and one that comes while a page is under way waits beside it.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Delivery;
use super::paging::{PAGE, Paging, parts};
use super::queue::Queue;
use crate::limits::Overflow;
use crate::message::{MessageId, QueueId};
use crate::meter::QueueMeter;
use crate::store::restored::Waiting;
use crate::store::{Page, PageEntry, PageRequest, Position, Store};

/// How much of a queue is looked at at once to drop the oldest: seldom must many go.
const TRIM: usize = 16 * 1024;

/// A queue whose tail may be on disk.
#[derive(Debug, Default)]
pub struct Backlog {
    window: Queue,
    /// What is durable comes back by pages.
    paged: bool,
    /// What there is to know beyond the window; nothing while all that waits is there.
    tail: Option<Box<Tail>>,
}

/// What waits on disk alone.
#[derive(Debug, Default)]
struct Tail {
    /// Some may be on disk alone: what is forwarded must not overtake it.
    behind: bool,
    /// What was forwarded and is on disk alone, less what pages brought before it was forwarded.
    messages: i64,
    bytes: i64,
    /// The next page begins behind this; `None`: with the queue's oldest.
    after: Option<Position>,
    /// The request under way.
    asked: Option<Asked>,
    /// What a page must skip, since memory had it when the page was asked for.
    held: BTreeSet<MessageId>,
    /// The highest that was forwarded by each publishing shard and is not in memory.
    seen: Vec<(u16, u64)>,
    /// Brought by pages, and not yet forwarded.
    early: BTreeSet<MessageId>,
    /// Everything that was forwarded since the request, unless it is too much.
    aside: Option<Queue>,
    /// Goes through what is on disk, to drop some of it.
    sweep: Option<Sweep>,
    /// Nothing on disk expires before this.
    expires: Option<Instant>,
    /// Members of a share group may have seen these.
    repeats: BTreeSet<MessageId>,
    /// It waits for the budget.
    lined_up: bool,
}

/// A request under way.
#[derive(Debug)]
struct Asked {
    serial: u32,
    errand: Errand,
    /// What it took of the budget.
    bytes: usize,
    /// The highest of each publishing shard that its page has brought.
    brought: Vec<(u16, u64)>,
    /// What was forwarded since and is done with: the page may have it yet.
    passed: BTreeSet<MessageId>,
}

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// To be delivered.
    Fill,
    /// To drop the oldest of a queue that is over its limit.
    Trim,
    /// To drop what has expired.
    Purge,
}

#[derive(Debug)]
struct Sweep {
    errand: Errand,
    after: Option<Position>,
    /// Nothing that it has left expires before this.
    expires: Option<Instant>,
}

/// What a queue needs at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Somebody takes its messages.
    pub taking: bool,
    /// What its window may hold, in bytes.
    pub window: usize,
    /// It is over its limit, and the oldest is to go.
    pub over: bool,
}

impl Backlog {
    /// An empty queue; `paged` if what is durable in it can be had from the disk again.
    pub fn new(paged: bool) -> Backlog {
        Backlog { paged, ..Backlog::default() }
    }

    /// Whether what is durable comes back by pages.
    pub fn is_paged(&self) -> bool {
        self.paged
    }

    /// The queue holds `waiting` on disk, from before the start.
    pub fn restore(&mut self, waiting: Waiting, now: Instant) {
        if waiting.messages == 0 {
            return;
        }
        self.paged = true;
        let tail = self.tail.get_or_insert_default();
        tail.behind = true;
        tail.count(waiting.messages as i64, waiting.bytes as i64);
        // When the first of them expires is not known: the first time that it matters, they are gone through.
        tail.expires = Some(now);
    }

    /// What is in memory.
    pub fn window(&self) -> &Queue {
        &self.window
    }

    /// What is in memory, to be changed.
    pub fn window_mut(&mut self) -> &mut Queue {
        &mut self.window
    }

    /// Whether nothing waits, neither in memory nor on disk.
    pub fn is_empty(&self) -> bool {
        self.window.is_empty() && !self.is_behind()
    }

    /// Whether nothing waits, and a Forward cannot be anything but new.
    pub fn is_plain(&self) -> bool {
        self.window.is_empty() && self.tail.is_none()
    }

    /// Whether some of what waits may be on disk alone.
    pub fn is_behind(&self) -> bool {
        self.tail.as_ref().is_some_and(|tail| tail.behind)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.window.len() + self.tail.as_ref().map_or(0, |tail| tail.messages.max(0) as usize)
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        (self.window.bytes() + self.tail.as_ref().map_or(0, |tail| tail.bytes.max(0) as usize)) as u64
    }

    /// How many places are taken, and their bytes: by what was forwarded, and by what a page has brought before that.
    pub fn places(&self) -> (u64, u64) {
        let beyond = |tail: &Tail| (tail.messages + tail.early.len() as i64).max(0);
        (self.window.len() as u64 + self.tail.as_deref().map_or(0, beyond).cast_unsigned(), self.bytes())
    }

    /// Whether a delivery that [`Backlog::read`] made has not been forwarded yet: nobody has given it a place.
    fn is_early(&self, delivery: &Delivery, paging: &Paging) -> bool {
        let id = delivery.message.id;
        self.tail.as_ref().is_some_and(|tail| !is_noted(&tail.seen, id)) && !paging.is_old(id)
    }

    /// Whether a page has brought what would find no place when it is forwarded: where the newest is dropped. `held` is
    /// what has a place.
    pub fn is_too_new(
        &self,
        delivery: &Delivery,
        meter: &QueueMeter,
        held: impl FnOnce() -> (u64, u64),
        paging: &Paging,
    ) -> bool {
        meter.overflow() == Overflow::DropNewest
            && meter.is_over()
            && self.is_early(delivery, paging)
            && !meter.has_place(held(), delivery.message.size() as u64)
    }

    /// A page may have brought this one before it was forwarded: then it is done with, and only counted now.
    pub fn came_early(&mut self, delivery: &Delivery) -> bool {
        let Some(tail) = &mut self.tail else { return false };
        let id = delivery.message.id;
        if !tail.early.remove(&id) {
            return false;
        }
        note(&mut tail.seen, id);
        tail.count(1, delivery.message.size() as i64);
        self.tidy();
        true
    }

    /// One that was forwarded is done with at once: the page that is under way may have it yet.
    pub fn pass_by(&mut self, message: MessageId) {
        let Some(tail) = self.tail.as_deref_mut().filter(|tail| tail.behind) else { return };
        note(&mut tail.seen, message);
        if let Some(asked) = &mut tail.asked {
            asked.passed.insert(message);
        }
    }

    /// One that was never forwarded here has joined the queue, and is in memory.
    pub fn hold(&mut self, message: MessageId) {
        if let Some(tail) = self.tail.as_deref_mut().filter(|tail| tail.behind) {
            tail.held.insert(message);
        }
    }

    /// Takes one that was forwarded and is on disk: it is given back if it belongs in the window.
    pub fn arrive(&mut self, delivery: Delivery, needs: Needs, paging: &mut Paging) -> Option<Delivery> {
        if !self.is_behind() {
            let fits =
                self.window.is_empty() || self.window.bytes() + delivery.message.size() <= needs.window;
            if needs.taking && fits {
                return Some(delivery);
            }
            self.fall_behind();
        }
        if let Some(tail) = &mut self.tail {
            tail.drop_body(&delivery);
            tail.put_aside(delivery, needs.window, paging);
        }
        None
    }

    fn fall_behind(&mut self) -> &mut Tail {
        let tail = self.tail.get_or_insert_default();
        tail.behind = true;
        tail
    }

    /// Nobody takes messages any more: what is on disk goes from memory, and is begun with again by whoever comes next.
    pub fn release(&mut self, own: QueueId, paging: &mut Paging) {
        if !self.paged {
            return;
        }
        let dropped = self.window.take(|delivery| delivery.durable && delivery.from == own);
        if dropped.is_empty() && !self.is_behind() {
            return;
        }
        let tail = self.fall_behind();
        tail.cancel(paging);
        tail.after = None;
        for delivery in dropped {
            tail.drop_body(&delivery);
            if delivery.dup {
                tail.repeats.insert(delivery.message.id);
            }
        }
    }

    /// The queue ends: what it held on disk alone, in messages and bytes.
    pub fn end(&mut self, paging: &mut Paging) -> (i64, i64) {
        let Some(mut tail) = self.tail.take() else { return (0, 0) };
        tail.cancel(paging);
        (tail.messages, tail.bytes)
    }

    /// What has expired on disk is to be dropped, where any can have; whether any can.
    pub fn purge(&mut self, now: Instant) -> bool {
        let Some(tail) = self.tail.as_mut().filter(|tail| tail.behind) else { return false };
        if tail.sweep.is_some() || tail.expires.is_none_or(|at| at > now) {
            return false;
        }
        tail.expires = None;
        tail.sweep = Some(Sweep { errand: Errand::Purge, after: None, expires: None });
        true
    }

    /// Asks for a page, if one is needed and none is under way. `held` lists what is on disk, has left the window and is
    /// in memory yet.
    pub fn ask(
        &mut self,
        own: QueueId,
        needs: Needs,
        held: impl Iterator<Item = MessageId>,
        store: &mut dyn Store,
        paging: &mut Paging,
    ) {
        let Some(tail) = self.tail.as_deref_mut().filter(|tail| tail.behind && tail.asked.is_none()) else {
            return;
        };
        let Some(errand) = tail.next_errand(&self.window, own, needs) else { return };
        let first = tail.after.is_none();
        let max_bytes = match errand {
            // It begins with what it must skip.
            Errand::Fill if first => needs.window.clamp(TRIM, PAGE),
            Errand::Fill => needs.window.saturating_sub(self.window.bytes()).clamp(1, PAGE),
            Errand::Trim => TRIM,
            Errand::Purge => PAGE,
        };
        let Some(serial) = paging.ask(own, max_bytes, &mut tail.lined_up) else { return };
        if first {
            tail.held = held.collect();
            let durable = self.window.iter().filter(|delivery| delivery.durable && delivery.from == own);
            tail.held.extend(durable.map(|delivery| delivery.message.id));
        }
        let swept = tail.sweep.as_ref().and_then(|sweep| sweep.after);
        let after = if errand == Errand::Fill { tail.after } else { swept.max(tail.after) };
        store.request(PageRequest { queue: own, serial, after, max_bytes });
        tail.asked =
            Some(Asked { serial, errand, bytes: max_bytes, brought: Vec::new(), passed: BTreeSet::new() });
        tail.aside = (errand == Errand::Fill).then(Queue::default);
    }

    /// It has its turn with the budget, and is to ask again.
    pub fn called_up(&mut self) {
        if let Some(tail) = &mut self.tail {
            tail.lined_up = false;
        }
    }

    /// A page has come: what it is for. `None` if it was asked for by an earlier connection, and nobody wants it.
    pub fn open_page(&mut self, page: &Page, paging: &mut Paging) -> Option<Errand> {
        let tail = self.tail.as_mut()?;
        let asked = tail.asked.as_mut().filter(|asked| asked.serial == page.serial)?;
        paging.give(std::mem::take(&mut asked.bytes));
        Some(asked.errand)
    }

    /// The next entry of the page that was opened, as the delivery it makes; `None` if memory has it.
    pub fn read(&mut self, entry: PageEntry, own: QueueId) -> Option<Delivery> {
        let tail = self.tail.as_mut()?;
        let id = entry.message.id;
        let asked = tail.asked.as_mut()?;
        note(&mut asked.brought, id);
        let known =
            if asked.errand == Errand::Fill { tail.held.remove(&id) } else { tail.held.contains(&id) };
        let held = known || asked.passed.contains(&id);
        (!held).then(|| Delivery {
            from: own,
            identifiers: entry.identifiers,
            qos: entry.qos,
            retain: entry.retain,
            dup: tail.repeats.contains(&id),
            metered: true,
            durable: true,
            message: entry.message,
        })
    }

    /// A delivery that [`Backlog::read`] made is dropped, or goes to the window: it is on disk alone no more.
    pub fn take_in(&mut self, delivery: &Delivery, paging: &Paging) {
        let early = self.is_early(delivery, paging);
        let Some(tail) = &mut self.tail else { return };
        let id = delivery.message.id;
        tail.count(-1, -(delivery.message.size() as i64));
        tail.repeats.remove(&id);
        if early {
            tail.early.insert(id);
        }
    }

    /// A delivery that [`Backlog::read`] made stays where it is.
    pub fn leave(&mut self, delivery: &Delivery) {
        if let Some(sweep) = self.tail.as_mut().and_then(|tail| tail.sweep.as_mut()) {
            sweep.expires = sweep.expires.into_iter().chain(delivery.message.expires).min();
        }
    }

    /// The page that was opened has been gone through.
    pub fn close_page(&mut self, after: Position, last: bool, paging: &mut Paging) {
        let Some(tail) = &mut self.tail else { return };
        let Some(asked) = tail.asked.take() else { return };
        if asked.errand != Errand::Fill {
            return tail.swept(after, last);
        }
        tail.after = Some(after);
        let Some(mut aside) = tail.aside.take() else { return };
        paging.give(aside.bytes());
        if !last {
            return;
        }
        // Everything that waits is in memory now.
        for delivery in aside.take(|_| true) {
            if !is_noted(&asked.brought, delivery.message.id) {
                tail.count(-1, -(delivery.message.size() as i64));
                self.window.push(delivery);
            }
        }
        tail.catch_up();
        self.tidy();
    }

    fn tidy(&mut self) {
        self.tail.take_if(|tail| !tail.behind && tail.early.is_empty());
    }
}

impl Tail {
    fn count(&mut self, messages: i64, bytes: i64) {
        self.messages += messages;
        self.bytes += bytes;
    }

    /// The body of what was forwarded is on disk alone from now on.
    fn drop_body(&mut self, delivery: &Delivery) {
        self.count(1, delivery.message.size() as i64);
        note(&mut self.seen, delivery.message.id);
        self.expires = self.expires.into_iter().chain(delivery.message.expires).min();
    }

    /// Keeps it beside the page that is under way, or gives all of that up.
    fn put_aside(&mut self, delivery: Delivery, window: usize, paging: &mut Paging) {
        let Some(aside) = &mut self.aside else { return };
        let size = delivery.message.size();
        if aside.bytes() + size <= window && paging.take(size) {
            aside.push(delivery);
        } else {
            paging.give(aside.bytes());
            self.aside = None;
        }
    }

    /// Whatever is under way is not wanted any more.
    fn cancel(&mut self, paging: &mut Paging) {
        if let Some(asked) = self.asked.take() {
            paging.give(asked.bytes);
        }
        if let Some(aside) = self.aside.take() {
            paging.give(aside.bytes());
        }
    }

    fn next_errand(&mut self, window: &Queue, own: QueueId, needs: Needs) -> Option<Errand> {
        if needs.taking && (window.is_empty() || window.bytes() < needs.window / 2) {
            return Some(Errand::Fill);
        }
        self.sweep.take_if(|sweep| sweep.errand == Errand::Trim && !needs.over);
        let oldest_is_here = || window.iter().any(|delivery| delivery.durable && delivery.from == own);
        if needs.over && self.messages > 0 && self.sweep.is_none() && !oldest_is_here() {
            self.sweep = Some(Sweep { errand: Errand::Trim, after: None, expires: None });
        }
        self.sweep.as_ref().map(|sweep| sweep.errand)
    }

    fn swept(&mut self, after: Position, last: bool) {
        let Some(sweep) = &mut self.sweep else { return };
        sweep.after = Some(after);
        if last && let Some(sweep) = self.sweep.take() {
            self.expires = self.expires.into_iter().chain(sweep.expires).min();
        }
    }

    fn catch_up(&mut self) {
        self.behind = false;
        self.after = None;
        self.held.clear();
        self.seen.clear();
        self.sweep = None;
        self.expires = None;
        self.repeats.clear();
    }
}

/// Notes the highest number of each publishing shard.
fn note(highest: &mut Vec<(u16, u64)>, message: MessageId) {
    let (prefix, number) = parts(message);
    match highest.iter_mut().find(|(shard, _)| *shard == prefix) {
        Some((_, known)) => *known = number.max(*known),
        None => highest.push((prefix, number)),
    }
}

fn is_noted(highest: &[(u16, u64)], message: MessageId) -> bool {
    let (prefix, number) = parts(message);
    highest.iter().any(|(shard, known)| *shard == prefix && number <= *known)
}
