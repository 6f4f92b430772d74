//! What the store tells a shard: that what it waits for is durable, and the pages that it asked for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::Shard;
use crate::store::{Page, Ticket};

/// The sessions that wait for the disk, whoever is to go on first in front.
#[derive(Debug, Default)]
pub(super) struct Awaiting(BinaryHeap<Reverse<(Ticket, u32)>>);

impl Shard {
    /// The store has come further or brings pages.
    pub fn on_store(&mut self, now: Instant) {
        self.on_durable(now);
        while let Some(page) = self.core.store.next_page() {
            self.take_page(now, page);
        }
        self.call_up(now);
    }

    /// The disk has come further: what waited for it leaves.
    pub fn on_durable(&mut self, now: Instant) {
        let durable = self.core.store.durable();
        while let Some(Reverse((ticket, index))) =
            self.awaiting.0.peek().copied().filter(|next| next.0.0 <= durable)
        {
            self.awaiting.0.pop();
            let Some(session) = self.sessions.get_mut(index as usize) else { continue };
            if session.awaited != ticket {
                // It went on before, or another has its place in the table.
                continue;
            }
            session.awaited = Ticket(0);
            let mut sent = 0;
            if let Some(link) = &mut session.link {
                link.release(durable, &mut sent);
            }
            self.core.stats.packets_sent.add(sent);
            session.pump(&mut self.core.context(now));
            self.after_progress(index);
        }
    }

    /// Lists a session that waits for the disk, unless it is listed for something earlier.
    pub(super) fn list_awaiting(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let Some(ticket) = session.awaits(self.core.store.as_ref()) else { return };
        if session.awaited == Ticket(0) || ticket < session.awaited {
            session.awaited = ticket;
            self.awaiting.0.push(Reverse((ticket, index)));
        }
    }

    /// A page has come for a queue, if that is still there.
    fn take_page(&mut self, now: Instant, page: Page) {
        if let Some(index) = self.by_queue.get(&self.sessions, &page.queue) {
            self.sessions[index as usize].take_page(page, &mut self.core.context(now));
            self.after_progress(index);
        } else {
            self.with_group(now, page.queue, |group, cx, give| group.take_page(page, cx, give));
        }
    }

    /// Lets the queues that found the budget of pages used up ask again, as far as there is room.
    pub(super) fn call_up(&mut self, now: Instant) {
        while let Some(queue) = self.core.paging.begin_turn() {
            if let Some(index) = self.by_queue.get(&self.sessions, &queue) {
                self.sessions[index as usize].called_up(&mut self.core.context(now));
            } else {
                self.with_group(now, queue, |group, cx, _| group.called_up(cx));
            }
            self.core.paging.end_turn();
        }
    }
}
