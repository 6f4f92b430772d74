//! [`QueueMeter`]: how full one durable queue is, for every shard to see. It stands beside the queue's subscriptions in
//! Interest, so that the publisher's shard can decide before anything is written.

use std::cmp::Reverse;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};

use crate::limits::{Overflow, QueueRule};
use crate::protocol::topic;

/// The rule of a queue that none covers.
const NO_RULE: usize = usize::MAX;

/// At so many per cent of its limit a queue is said to fill up; below so many it may be said again.
const NEARLY_FULL: (u64, u64) = (80, 70);

/// How full one queue is: messages and bytes it holds, or that are reserved for what is on its way to it; and the rule
/// that bounds it, which changes with the subscriptions of its session.
///
/// The counts are only sums; nothing else is read because of them, so relaxed order is enough.
#[derive(Debug)]
pub struct QueueMeter {
    messages: AtomicU64,
    bytes: AtomicU64,
    max_messages: AtomicU64,
    max_bytes: AtomicU64,
    /// Of [`Overflow::ALL`].
    overflow: AtomicU8,
    /// Which of the rules it is.
    rule: AtomicUsize,
    /// The [`Level`] that has been told.
    told: AtomicU8,
}

/// How near a queue has come to its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// At 80 %.
    Filling = 1,
    /// It takes no more.
    Full = 2,
}

/// How specific a rule is: by its levels, then by how few of them are wildcards, then by whether it knows their number.
fn rank(rule: &QueueRule) -> (usize, Reverse<usize>, bool) {
    let wildcards = rule.filter.matches(['+', '#']).count();
    (topic::levels(&rule.filter), Reverse(wildcards), !rule.filter.ends_with('#'))
}

/// The most specific of `rules` whose filter holds for something, as `holds` says.
pub fn most_specific(rules: &[QueueRule], holds: impl Fn(&str) -> bool) -> Option<usize> {
    let holding = rules.iter().enumerate().filter(|(_, rule)| holds(&rule.filter));
    holding.max_by_key(|(_, rule)| rank(rule)).map(|(index, _)| index)
}

impl QueueMeter {
    /// The meter of an empty queue that is bounded by `rule`.
    pub fn new(rule: &QueueRule) -> QueueMeter {
        let meter = QueueMeter {
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            max_messages: AtomicU64::new(0),
            max_bytes: AtomicU64::new(0),
            overflow: AtomicU8::new(0),
            rule: AtomicUsize::new(NO_RULE),
            told: AtomicU8::new(0),
        };
        meter.set(NO_RULE, rule);
        meter
    }

    /// The meter of an empty queue that takes what `filter` matches, bounded by the most specific of `rules` that
    /// covers it, else by the default rule.
    pub fn for_filter(rules: &[QueueRule], filter: &str) -> QueueMeter {
        let meter = QueueMeter::new(&QueueRule::default());
        meter.bind(rules, [filter]);
        meter
    }

    /// From now on the queue takes what any of `filters` matches: it is bounded by the most specific of `rules` that
    /// covers one of them, and where none does by that for `#`.
    pub fn bind<'a>(&self, rules: &[QueueRule], filters: impl IntoIterator<Item = &'a str>) {
        let covering = |filter| most_specific(rules, |rule| topic::covers(rule, filter));
        let best = filters.into_iter().filter_map(covering).max_by_key(|index| rank(&rules[*index]));
        match best.or_else(|| covering("#")) {
            Some(index) => self.set(index, &rules[index]),
            None => self.set(NO_RULE, &QueueRule::default()),
        }
    }

    /// The queue takes what `filter` matches besides.
    pub fn bind_also(&self, rules: &[QueueRule], filter: &str) {
        let rank_of = |index: usize| rules.get(index).map(rank);
        let Some(index) = most_specific(rules, |rule| topic::covers(rule, filter)) else { return };
        if rank_of(index) > rank_of(self.rule.load(Relaxed)) {
            self.set(index, &rules[index]);
        }
    }

    fn set(&self, index: usize, rule: &QueueRule) {
        let max_messages = if rule.max_messages == 0 { u64::MAX } else { rule.max_messages };
        self.max_messages.store(max_messages, Relaxed);
        self.max_bytes.store(rule.max_bytes, Relaxed);
        self.overflow.store(rule.overflow as u8, Relaxed);
        self.rule.store(index, Relaxed);
    }

    /// The filter of the rule that bounds it.
    pub fn rule<'a>(&self, rules: &'a [QueueRule]) -> &'a str {
        rules.get(self.rule.load(Relaxed)).map_or("#", |rule| &rule.filter)
    }

    /// A higher level than was told before, if it has come to one: told once on the way up.
    pub fn rises(&self) -> Option<Level> {
        let part = |held: u64, most: u64| (u128::from(held) * 100 / u128::from(most.max(1))) as u64;
        let messages = part(self.messages(), self.max_messages.load(Relaxed));
        let level = messages.max(part(self.bytes(), self.max_bytes.load(Relaxed)));
        let told = self.told.load(Relaxed);
        if level >= 100 {
            self.tell(told, Level::Full)
        } else if level >= NEARLY_FULL.0 {
            self.tell(told, Level::Filling)
        } else {
            if told > 0 && level < NEARLY_FULL.1 {
                self.told.store(0, Relaxed);
            }
            None
        }
    }

    /// A message found no place: [`Level::Full`], if that was not told before.
    pub fn refused(&self) -> Option<Level> {
        self.tell(self.told.load(Relaxed), Level::Full)
    }

    fn tell(&self, told: u8, level: Level) -> Option<Level> {
        let tells =
            told < level as u8 && self.told.compare_exchange(told, level as u8, Relaxed, Relaxed).is_ok();
        tells.then_some(level)
    }

    /// What happens when it is full.
    pub fn overflow(&self) -> Overflow {
        Overflow::ALL[usize::from(self.overflow.load(Relaxed))]
    }

    /// Messages held and reserved.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Bytes held and reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Whether it holds more than its rule allows. Under [`Overflow::Reject`] only what was held already can make it so;
    /// otherwise the queue's home drops until it is false.
    pub fn is_over(&self) -> bool {
        self.messages() > self.max_messages.load(Relaxed) || self.bytes() > self.max_bytes.load(Relaxed)
    }

    /// Whether one message of `bytes` has a place beside those that the queue holds, whatever else is on its way to it:
    /// that is newer.
    pub fn has_place(&self, held: (u64, u64), bytes: u64) -> bool {
        let (messages, held) = held;
        messages < self.max_messages.load(Relaxed) && held + bytes <= self.max_bytes.load(Relaxed)
    }

    /// Reserves a place for one message of `bytes`: wholly, or not at all where the queue is full and rejects. Where it
    /// drops instead, this always succeeds.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> bool {
        if !self.take(&self.messages, 1, self.max_messages.load(Relaxed)) {
            return false;
        }
        if !self.take(&self.bytes, bytes, self.max_bytes.load(Relaxed)) {
            self.messages.fetch_sub(1, Relaxed);
            return false;
        }
        true
    }

    /// Counts what the queue holds already, whatever its rule allows now.
    pub fn hold(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Gives back what left the queue, or never reached it.
    pub fn release(&self, messages: u64, bytes: u64) {
        let held = self.messages.fetch_sub(messages, Relaxed);
        debug_assert!(held >= messages, "released {messages} messages of {held}");
        let held = self.bytes.fetch_sub(bytes, Relaxed);
        debug_assert!(held >= bytes, "released {bytes} bytes of {held}");
    }

    fn take(&self, count: &AtomicU64, amount: u64, limit: u64) -> bool {
        if self.overflow() != Overflow::Reject {
            count.fetch_add(amount, Relaxed);
            return true;
        }
        let taken = |held: u64| held.checked_add(amount).filter(|&sum| sum <= limit);
        count.fetch_update(Relaxed, Relaxed, taken).is_ok()
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
    fn the_most_specific_rule_of_any_subscription_holds() {
        let rule = |filter: &str, max_messages| QueueRule {
            filter: filter.to_owned(),
            max_messages,
            ..QueueRule::default()
        };
        let rules = [rule("a/#", 2), rule("a/b/+", 3), rule("a/b/#", 4), rule("#", 1)];
        let most = |meter: &QueueMeter| meter.max_messages.load(Relaxed);
        for (filter, max) in [("x", 1), ("a/x", 2), ("a/b/c", 3), ("a/b/c/d", 4), ("a/+/c", 2), ("#", 1)] {
            assert_eq!(most(&QueueMeter::for_filter(&rules, filter)), max, "{filter}");
        }
        let meter = QueueMeter::for_filter(&rules, "#");
        for (filter, max) in [("x", 1), ("a/b/c", 3), ("a/x", 3)] {
            meter.bind_also(&rules, filter);
            assert_eq!(most(&meter), max, "{filter}");
        }
        assert_eq!(meter.rule(&rules), "a/b/+");
        meter.bind(&rules, ["x", "a/x"]);
        assert_eq!((most(&meter), meter.rule(&rules)), (2, "a/#"));
        meter.bind(&rules, []);
        assert_eq!(most(&meter), 1);
        meter.bind(&rules[..3], ["x"]);
        assert_eq!((most(&meter), meter.rule(&rules)), (u64::MAX, "#"), "the default");
    }

    #[test]
    fn each_level_is_told_once_on_the_way_up() {
        let meter = meter(10, u64::MAX, Overflow::Reject);
        let mut told = Vec::new();
        for _ in 0..10 {
            assert!(meter.reserve(1));
            told.extend(meter.rises());
        }
        assert_eq!(told, [Level::Filling, Level::Full]);
        assert_eq!((meter.refused(), meter.rises()), (None, None));
        meter.release(3, 3);
        assert_eq!(meter.rises(), None, "not yet low enough to be told again");
        meter.release(1, 1);
        assert_eq!(meter.rises(), None);
        assert!((0..2).all(|_| meter.reserve(1)));
        assert_eq!(meter.rises(), Some(Level::Filling));
        assert_eq!((meter.refused(), meter.refused()), (Some(Level::Full), None));
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
