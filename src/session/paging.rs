//! [`Paging`]: what the queues of one shard may ask of the disk together, and in whose turn. Pages on their way, and what
//! is kept beside them, count against it; what a page has brought counts for its taker.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::message::{MessageId, QueueId};
use crate::store::restored::Numbers;

/// The most that one page may bring, in bytes, and what one queue keeps in memory while somebody takes its messages.
pub const PAGE: usize = 128 * 1024;

/// The bytes that may be on their way to all queues of a shard.
const BUDGET: usize = 8 * 1024 * 1024;

/// The budget of a shard's pages.
#[derive(Debug)]
pub struct Paging {
    free: usize,
    last_serial: u32,
    /// Queues that found the budget used up, who has waited longest in front.
    waiting: VecDeque<QueueId>,
    /// One of those is being asked what it needs.
    in_turn: bool,
    /// The highest numbers of messages from before the start.
    old: Arc<[Numbers]>,
}

impl Default for Paging {
    fn default() -> Paging {
        Paging { free: BUDGET, last_serial: 0, waiting: VecDeque::new(), in_turn: false, old: Arc::new([]) }
    }
}

impl Paging {
    /// Messages up to these numbers are from before the start: no peer will forward one of them any more.
    pub fn resume_above(&mut self, numbers: Arc<[Numbers]>) {
        self.old = numbers;
    }

    /// Whether a message is from before the start.
    pub(super) fn is_old(&self, message: MessageId) -> bool {
        let (prefix, number) = parts(message);
        self.old.iter().any(|old| old.prefix == prefix && number <= old.message)
    }

    /// Takes `bytes` for a page; its serial number. `None` if there are others to be served first: the queue, unless it
    /// has `lined_up` already, waits with them.
    pub(super) fn ask(&mut self, queue: QueueId, bytes: usize, lined_up: &mut bool) -> Option<u32> {
        if bytes > self.free || !(self.in_turn || self.waiting.is_empty()) {
            if !std::mem::replace(lined_up, true) {
                self.waiting.push_back(queue);
            }
            return None;
        }
        self.free -= bytes;
        self.last_serial = self.last_serial.wrapping_add(1);
        Some(self.last_serial)
    }

    /// Takes `bytes` if they are free and nobody waits for them.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.free && self.waiting.is_empty();
        if fits {
            self.free -= bytes;
        }
        fits
    }

    /// Gives back what was taken.
    pub(super) fn give(&mut self, bytes: usize) {
        self.free += bytes;
    }

    /// Whether there is room again for one that waits.
    pub fn has_turn(&self) -> bool {
        !self.waiting.is_empty() && self.free >= PAGE
    }

    /// The one that has waited longest, if there is room: it is to ask again, and then [`Paging::end_turn`] is due.
    pub fn begin_turn(&mut self) -> Option<QueueId> {
        if !self.has_turn() {
            return None;
        }
        self.in_turn = true;
        self.waiting.pop_front()
    }

    /// It has asked.
    pub fn end_turn(&mut self) {
        self.in_turn = false;
    }

    /// The bytes that are taken.
    pub fn taken(&self) -> usize {
        BUDGET - self.free
    }
}

/// The prefix of a message's number, which says where it was published, and the rest, which rises there.
pub(super) fn parts(message: MessageId) -> (u16, u64) {
    ((message.0 >> 48) as u16, message.0 & ((1 << 48) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_finds_it_used_up_is_served_in_turn() {
        let mut paging = Paging::default();
        let mut lined_up = [false; 70];
        let mut ask = |paging: &mut Paging, queue: usize| {
            paging.ask(QueueId(queue as u64), PAGE, &mut lined_up[queue]).is_some()
        };
        let served = (0..70).filter(|queue| ask(&mut paging, *queue)).count();
        assert_eq!(served, 64);
        assert!(!paging.has_turn());
        assert!(!ask(&mut paging, 69), "it stands in the line once");
        paging.give(PAGE);
        assert!(!ask(&mut paging, 0), "others wait");
        assert!(!paging.take(1));
        assert_eq!(paging.begin_turn(), Some(QueueId(64)));
        assert!(ask(&mut paging, 64) || paging.taken() == 64 * PAGE);
        paging.end_turn();
        assert_eq!(paging.begin_turn(), None);
        for next in 65..70 {
            paging.give(PAGE);
            assert_eq!(paging.begin_turn(), Some(QueueId(next)));
            paging.end_turn();
        }
    }

    #[test]
    fn knows_what_is_from_before_the_start() {
        let mut paging = Paging::default();
        assert!(!paging.is_old(MessageId(1 << 48 | 5)));
        let numbers =
            [Numbers { prefix: 1, message: 5, queue: 0 }, Numbers { prefix: 3, message: 0, queue: 0 }];
        paging.resume_above(numbers.into());
        assert!(paging.is_old(MessageId(1 << 48 | 5)));
        assert!(!paging.is_old(MessageId(1 << 48 | 6)));
        assert!(!paging.is_old(MessageId(2 << 48 | 1)) && !paging.is_old(MessageId(3 << 48 | 1)));
    }
}
