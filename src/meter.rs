//! [`QueueMeter`]: how full one durable queue is, for every shard to see. It stands beside the queue's subscriptions in
//! Interest, so that the publisher's shard can decide before anything is written.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{Overflow, QueueRule};
use crate::protocol::topic;

/// How full one queue is: messages and bytes it holds, or that are reserved for what is on its way to it.
///
/// The counts are only sums; nothing else is read because of them, so relaxed order is enough.
#[derive(Debug)]
pub struct QueueMeter {
    messages: AtomicU64,
    bytes: AtomicU64,
    max_messages: u64,
    max_bytes: u64,
    overflow: Overflow,
}

impl QueueMeter {
    /// The meter of an empty queue that is bounded by `rule`.
    pub fn new(rule: &QueueRule) -> QueueMeter {
        QueueMeter {
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            max_messages: if rule.max_messages == 0 { u64::MAX } else { rule.max_messages },
            max_bytes: rule.max_bytes,
            overflow: rule.overflow,
        }
    }

    /// The meter of an empty queue that takes what `filter` matches, bounded by the most specific of `rules` that
    /// covers it, else by the default rule.
    pub fn for_filter(rules: &[QueueRule], filter: &str) -> QueueMeter {
        let covering = rules.iter().filter(|rule| topic::covers(&rule.filter, filter));
        let wildcards = |rule: &&QueueRule| rule.filter.matches(['+', '#']).count();
        let best =
            covering.max_by_key(|rule| (topic::levels(&rule.filter), std::cmp::Reverse(wildcards(rule))));
        best.map_or_else(|| QueueMeter::new(&QueueRule::default()), QueueMeter::new)
    }

    /// What happens when it is full.
    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// Messages held and reserved.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes held and reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether it holds more than its rule allows. Never so under [`Overflow::Reject`]; otherwise the queue's home drops
    /// until it is false.
    pub fn is_over(&self) -> bool {
        self.messages() > self.max_messages || self.bytes() > self.max_bytes
    }

    /// Reserves a place for one message of `bytes`: wholly, or not at all where the queue is full and rejects. Where it
    /// drops instead, this always succeeds.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> bool {
        if !self.take(&self.messages, 1, self.max_messages) {
            return false;
        }
        if !self.take(&self.bytes, bytes, self.max_bytes) {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Counts what the queue holds already, whatever its rule allows now.
    pub fn hold(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what left the queue, or never reached it.
    pub fn release(&self, messages: u64, bytes: u64) {
        let held = self.messages.fetch_sub(messages, Ordering::Relaxed);
        debug_assert!(held >= messages, "released {messages} messages of {held}");
        let held = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(held >= bytes, "released {bytes} bytes of {held}");
    }

    fn take(&self, count: &AtomicU64, amount: u64, limit: u64) -> bool {
        if self.overflow != Overflow::Reject {
            count.fetch_add(amount, Ordering::Relaxed);
            return true;
        }
        let taken = |held: u64| held.checked_add(amount).filter(|&sum| sum <= limit);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(max_messages: u64, max_bytes: u64, overflow: Overflow) -> QueueMeter {
        QueueMeter::new(&QueueRule { max_messages, max_bytes, overflow, ..QueueRule::default() })
    }

    #[test]
    fn rejects_at_either_limit_and_takes_nothing_then() {
        let meter = meter(3, 100, Overflow::Reject);
        assert!(meter.reserve(60));
        assert!(!meter.reserve(41));
        assert_eq!((meter.messages(), meter.bytes()), (1, 60));
        assert!(meter.reserve(40));
        assert!(meter.reserve(0));
        assert!(!meter.reserve(0));
        assert_eq!((meter.messages(), meter.bytes()), (3, 100));
        assert!(!meter.is_over());
        meter.release(2, 100);
        assert!(meter.reserve(100));
    }

    #[test]
    fn counts_without_limits() {
        let meter = meter(0, u64::MAX, Overflow::Reject);
        assert!((0..1000).all(|_| meter.reserve(1 << 30)));
        assert_eq!((meter.messages(), meter.bytes()), (1000, 1000 << 30));
        assert!(!meter.is_over());
    }

    #[test]
    fn a_queue_that_drops_is_over_instead() {
        for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
            let meter = meter(1, 100, overflow);
            assert!(meter.reserve(100));
            assert!(!meter.is_over());
            assert!(meter.reserve(1));
            assert!(meter.is_over());
            meter.release(1, 100);
            assert!(!meter.is_over());
        }
    }

    #[test]
    fn threads_never_pass_a_limit_together_and_use_it_fully() {
        let meter = meter(1000, 1 << 20, Overflow::Reject);
        let taken: u32 = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| meter.reserve(10)).count() as u32;
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
        assert_eq!((meter.messages(), meter.bytes()), (1000, 10_000));
    }
}
