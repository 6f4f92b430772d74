//! [`QueueMeter`]: how full one durable queue is, for every shard to see. It stands beside the queue's subscriptions in
//! Interest, so that the publisher's shard can decide before anything is written.

use std::sync::atomic::{AtomicU64, Ordering};

/// What happens to a message that finds a queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The publish is refused, for every queue it would go to.
    Reject,
    /// The queue's home drops its oldest messages.
    DropOldest,
    /// The queue's home drops the message.
    DropNewest,
}

/// How much a queue may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages; `None` for any number.
    pub messages: Option<u64>,
    /// Bytes of messages, as [`crate::message::Message::size`] counts them; `None` for any number.
    pub bytes: Option<u64>,
}

/// How full one queue is: messages and bytes it holds, or that are reserved for what is on its way to it.
///
/// The counts are only sums; nothing else is read because of them, so relaxed order is enough.
#[derive(Debug)]
pub struct QueueMeter {
    messages: AtomicU64,
    bytes: AtomicU64,
    limits: QueueLimits,
    overflow: Overflow,
}

impl QueueMeter {
    /// The meter of an empty queue.
    pub fn new(limits: QueueLimits, overflow: Overflow) -> QueueMeter {
        QueueMeter { messages: AtomicU64::new(0), bytes: AtomicU64::new(0), limits, overflow }
    }

    /// What happens when it is full.
    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// How much it may hold.
    pub fn limits(&self) -> QueueLimits {
        self.limits
    }

    /// Messages held and reserved.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes held and reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether it holds more than its limits allow. Never so under [`Overflow::Reject`]; otherwise the queue's home
    /// drops until it is false.
    pub fn is_over(&self) -> bool {
        self.limits.messages.is_some_and(|limit| self.messages() > limit)
            || self.limits.bytes.is_some_and(|limit| self.bytes() > limit)
    }

    /// Reserves a place for one message of `bytes`: wholly, or not at all where the queue is full and rejects. Where it
    /// drops instead, this always succeeds.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> bool {
        if !self.take(&self.messages, 1, self.limits.messages) {
            return false;
        }
        if !self.take(&self.bytes, bytes, self.limits.bytes) {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Gives back what left the queue, or never reached it.
    pub fn release(&self, messages: u64, bytes: u64) {
        let held = self.messages.fetch_sub(messages, Ordering::Relaxed);
        debug_assert!(held >= messages, "released {messages} messages of {held}");
        let held = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(held >= bytes, "released {bytes} bytes of {held}");
    }

    fn take(&self, count: &AtomicU64, amount: u64, limit: Option<u64>) -> bool {
        match (self.overflow, limit) {
            (Overflow::Reject, Some(limit)) => {
                let taken = |held: u64| held.checked_add(amount).filter(|&sum| sum <= limit);
                count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
            }
            _ => {
                count.fetch_add(amount, Ordering::Relaxed);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(messages: u64, bytes: u64) -> QueueLimits {
        QueueLimits { messages: Some(messages), bytes: Some(bytes) }
    }

    #[test]
    fn rejects_at_either_limit_and_takes_nothing_then() {
        let meter = QueueMeter::new(limits(3, 100), Overflow::Reject);
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
        let meter = QueueMeter::new(QueueLimits::default(), Overflow::Reject);
        assert!((0..1000).all(|_| meter.reserve(1 << 30)));
        assert_eq!((meter.messages(), meter.bytes()), (1000, 1000 << 30));
        assert!(!meter.is_over());
    }

    #[test]
    fn a_queue_that_drops_is_over_instead() {
        for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
            let meter = QueueMeter::new(limits(1, 100), overflow);
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
        let meter = QueueMeter::new(limits(1000, 1 << 20), Overflow::Reject);
        let taken: u32 = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| meter.reserve(10)).count() as u32;
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
        assert_eq!((meter.messages(), meter.bytes()), (1000, 10_000));
    }
}
