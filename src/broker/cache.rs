//! [`TopicCache`]: what a topic led to, for as long as nothing has changed. One generation at a time: the first use
//! under a newer one empties it. Bounded by bytes: once it is full, a topic comes in only when it is asked for again
//! within some thousand others, and the oldest goes. So a flood of topics that never repeat costs no more than asking, and
//! what was there stays.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// How many topics that were not let in are remembered, by a mark of 16 bits each.
const MARKS: usize = 4096;

/// What an entry costs besides its topic and its value's own bytes: itself, its place in the queue and in the table.
const OVERHEAD: usize = 96;

/// A cache from topic names to `V`.
pub(super) struct TopicCache<V> {
    entries: HashTable<Entry<V>>,
    /// The entries by age, as (hash, number): the oldest is in front.
    ages: VecDeque<(u64, u64)>,
    hasher: RandomState,
    generation: u64,
    next_number: u64,
    bytes: usize,
    limit: usize,
    /// What was lately not let in, by hash; empty until the cache is full for the first time.
    marks: Vec<u16>,
}

struct Entry<V> {
    topic: Box<str>,
    number: u64,
    bytes: usize,
    value: V,
}

impl<V> TopicCache<V> {
    /// A cache of at most `limit` bytes, which owns no memory yet.
    pub(super) fn new(limit: usize) -> TopicCache<V> {
        TopicCache {
            entries: HashTable::new(),
            ages: VecDeque::new(),
            hasher: RandomState::default(),
            generation: 0,
            next_number: 0,
            bytes: 0,
            limit,
            marks: Vec::new(),
        }
    }

    /// What `topic` led to in `generation`.
    pub(super) fn get(&mut self, topic: &str, generation: u64) -> Option<&V> {
        if generation != self.generation {
            self.turn_to(generation);
            return None;
        }
        let hash = self.hasher.hash_one(topic);
        Some(&self.entries.find(hash, |entry| &*entry.topic == topic)?.value)
    }

    /// Remembers what `topic` led to in `generation`; `bytes` is what `value` holds on the heap. Not kept is what is out
    /// of date already, what is too large for the whole cache, and, where others must go for it, what comes for the first
    /// time in a while.
    pub(super) fn insert(&mut self, topic: &str, generation: u64, value: V, bytes: usize) {
        let bytes = bytes + topic.len() + size_of::<V>() + OVERHEAD;
        if generation < self.generation || bytes > self.limit {
            return;
        }
        if generation > self.generation {
            self.turn_to(generation);
        }
        let hash = self.hasher.hash_one(topic);
        if self.entries.find(hash, |entry| &*entry.topic == topic).is_some() {
            return;
        }
        if self.bytes + bytes > self.limit && !self.comes_again(hash) {
            return;
        }
        while self.bytes + bytes > self.limit {
            self.drop_oldest();
        }
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += bytes;
        self.ages.push_back((hash, number));
        let hasher = &self.hasher;
        let entry = Entry { topic: topic.into(), number, bytes, value };
        self.entries.insert_unique(hash, entry, |entry| hasher.hash_one(&*entry.topic));
    }

    /// The bytes that its entries count for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn turn_to(&mut self, generation: u64) {
        self.entries.clear();
        self.ages.clear();
        self.bytes = 0;
        self.generation = generation;
    }

    /// Whether the topic of this hash was not let in a while ago; the next time it was.
    fn comes_again(&mut self, hash: u64) -> bool {
        if self.marks.is_empty() {
            self.marks = vec![0; MARKS];
        }
        let mark = (hash >> 48) as u16;
        std::mem::replace(&mut self.marks[hash as usize % MARKS], mark) == mark
    }

    fn drop_oldest(&mut self) {
        let Some((hash, number)) = self.ages.pop_front() else { return };
        if let Ok(oldest) = self.entries.find_entry(hash, |entry| entry.number == number) {
            self.bytes -= oldest.remove().0.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_until_the_generation_changes() {
        let mut cache = TopicCache::new(1 << 20);
        cache.insert("a", 0, 1, 0);
        assert_eq!(cache.get("a", 0), Some(&1));
        assert_eq!(cache.get("b", 0), None);
        assert_eq!(cache.get("a", 1), None);
        assert_eq!(cache.bytes(), 0, "what is out of date is given back at once");
        cache.insert("a", 0, 1, 0);
        assert_eq!(cache.get("a", 1), None, "what was computed before the change is not kept");
        cache.insert("a", 2, 3, 0);
        assert_eq!(cache.get("a", 2), Some(&3), "what was computed after it is");
    }

    #[test]
    fn never_holds_more_than_its_limit() {
        let limit = 10 * (OVERHEAD + 1 + size_of::<u32>() + 100);
        let mut cache = TopicCache::new(limit);
        for (number, topic) in ('a'..='z').cycle().take(100).enumerate() {
            cache.insert(&topic.to_string(), 0, number as u32, 100);
            assert!(cache.bytes() <= limit);
            assert_eq!(cache.entries.len(), cache.ages.len());
        }
        let before = cache.entries.len();
        cache.insert("large", 0, 0, limit);
        cache.insert("large", 0, 0, limit);
        assert_eq!(cache.get("large", 0), None);
        assert_eq!(cache.entries.len(), before, "what cannot be kept drops nothing");
    }

    #[test]
    fn when_it_is_full_what_comes_twice_replaces_the_oldest_and_what_comes_once_nothing() {
        let limit = 3 * (OVERHEAD + 1 + size_of::<u32>() + 100);
        let mut cache = TopicCache::new(limit);
        ["a", "b", "c"].into_iter().for_each(|topic| cache.insert(topic, 0, 0, 100));
        cache.insert("d", 0, 0, 100);
        let kept = |cache: &mut TopicCache<u32>| -> String {
            ["a", "b", "c", "d"].into_iter().filter(|topic| cache.get(topic, 0).is_some()).collect()
        };
        assert_eq!(kept(&mut cache), "abc");
        cache.insert("d", 0, 0, 100);
        assert_eq!(kept(&mut cache), "bcd");
    }
}
