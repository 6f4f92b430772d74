//! [`Retained`]: topic → the retained message. An ordered map rather than the trie that the other tables use, because a
//! replay is a cursor that goes on where it stopped while the table changes, and that needs an order.
//!
//! The key is the topic with `/` as byte 0, which no topic may hold [MQTT-1.5.4-2] and which sorts before every other:
//! so a level and all below it are neighbours, and what a filter cannot match is skipped by one search.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Instant;

use crate::message::Message;

/// What a retained message takes besides itself and its key: its place in the map, and what the allocator adds.
const OVERHEAD: usize = 128;

/// How much may be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes, overhead included. Replacing may go past it by an eighth.
    pub bytes: usize,
}

/// A limit is met: the message is not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedFull;

/// Topic → its retained message.
pub struct Retained {
    messages: BTreeMap<Box<[u8]>, Arc<Message>>,
    bytes: usize,
    limits: RetainedLimits,
}

/// Where a replay stands. It stays right whatever changes between two slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(Bound<Box<[u8]>>);

impl Default for Position {
    fn default() -> Position {
        Position(Bound::Unbounded)
    }
}

impl Position {
    /// Before the first topic.
    pub fn start() -> Position {
        Position::default()
    }

    /// Behind `topic`.
    pub fn after(topic: &str) -> Position {
        Position(Bound::Excluded(key(topic)))
    }
}

impl Retained {
    /// Nothing is retained.
    pub fn new(limits: RetainedLimits) -> Retained {
        Retained { messages: BTreeMap::new(), bytes: 0, limits }
    }

    /// Keeps to other limits from now on. What is retained already stays.
    pub fn set_limits(&mut self, limits: RetainedLimits) {
        self.limits = limits;
    }

    /// Whether a message to `topic` of `size` bytes (see [`Message::size`]) can be retained. What replaces another
    /// always can, up to an eighth over the limit; from there on it must not be larger than what it replaces.
    ///
    /// # Errors
    /// [`RetainedFull`].
    pub fn admit(&self, topic: &str, size: usize) -> Result<(), RetainedFull> {
        let RetainedLimits { messages, bytes } = self.limits;
        let admitted = match self.get(topic) {
            Some(old) => {
                size <= old.size() || self.bytes - old.size() + size <= bytes.saturating_add(bytes / 8)
            }
            None => self.messages.len() < messages && self.bytes + cost(topic, size) <= bytes,
        };
        if admitted { Ok(()) } else { Err(RetainedFull) }
    }

    /// Retains `message` for its topic; returns what it replaces.
    ///
    /// # Errors
    /// [`RetainedFull`], as [`Retained::admit`] says; then nothing has changed.
    pub fn set(&mut self, message: Arc<Message>) -> Result<Option<Arc<Message>>, RetainedFull> {
        self.admit(message.topic(), message.size())?;
        Ok(self.put(message))
    }

    /// Retains `message` for its topic whatever the limits say: it was retained before. Returns what it replaces.
    pub fn put(&mut self, message: Arc<Message>) -> Option<Arc<Message>> {
        self.bytes += cost(message.topic(), message.size());
        let old = self.messages.insert(key(message.topic()), message);
        if let Some(old) = &old {
            self.bytes -= cost(old.topic(), old.size());
        }
        old
    }

    /// Removes the message of `topic`.
    pub fn remove(&mut self, topic: &str) -> Option<Arc<Message>> {
        let old = self.messages.remove(&*key(topic))?;
        self.bytes -= cost(topic, old.size());
        Some(old)
    }

    /// Removes what has expired. Looks at every message.
    pub fn purge(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.messages.retain(|_, message| {
            let expired = message.is_expired(now);
            *bytes -= if expired { cost(message.topic(), message.size()) } else { 0 };
            !expired
        });
    }

    /// The message of `topic`.
    pub fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.messages.get(&*key(topic))
    }

    /// How many messages are retained.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// The bytes they take, overhead included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Goes on from `position` through the messages that match `filter`, in order of their topics, and calls `visit`
    /// with each, expired ones too. A `visit` that breaks has not taken its message: the next slice begins with it.
    /// Looks at no more than `left` entries, which is what may be left of a slice and at least one, and counts them off.
    /// Returns whether there may be more.
    ///
    /// Between two slices the table may change: what is there all the time is visited exactly once, what comes or goes
    /// meanwhile at most once, and always with the value it has at that moment.
    pub fn scan(
        &self,
        filter: &str,
        position: &mut Position,
        left: &mut usize,
        mut visit: impl FnMut(&Arc<Message>) -> ControlFlow<()>,
    ) -> bool {
        let filter = key(filter);
        loop {
            let mut seek = None;
            let mut last = None;
            let from = position.0.as_ref().map(|key| &**key);
            for (key, message) in self.messages.range::<[u8], _>((from, Bound::Unbounded)) {
                if *left == 0 {
                    break;
                }
                *left -= 1;
                match judge(&filter, key) {
                    Verdict::Match if visit(message).is_break() => {
                        position.0 = Bound::Included(key.clone());
                        return true;
                    }
                    Verdict::Match => {}
                    Verdict::Next => {}
                    Verdict::Seek(next) => {
                        seek = Some(next);
                        break;
                    }
                    Verdict::Done => return false,
                }
                last = Some(key);
            }
            match (seek, last) {
                (Some(next), _) => position.0 = Bound::Included(next),
                (None, Some(last)) => position.0 = Bound::Excluded(last.clone()),
                (None, None) => return *left == 0,
            }
            if *left == 0 {
                return true;
            }
        }
    }
}

fn cost(topic: &str, size: usize) -> usize {
    topic.len() + size + OVERHEAD
}

fn key(topic: &str) -> Box<[u8]> {
    topic.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect()
}

/// What a key means to a scan in order.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It matches.
    Match,
    /// It does not match, but the very next may.
    Next,
    /// Nothing from here up to this key matches.
    Seek(Box<[u8]>),
    /// Nothing from here on matches.
    Done,
}

/// What `key` means to a scan for `filter`; both have 0 between their levels.
fn judge(filter: &[u8], key: &[u8]) -> Verdict {
    // Leading wildcards do not match topics that begin with `$` [MQTT-4.7.2-1].
    if key.first() == Some(&b'$') && matches!(filter.split(is_separator).next(), Some(b"+" | b"#")) {
        return seek(&[&[b'$' + 1]]);
    }
    let mut names = key.split(is_separator);
    let mut start = 0; // of the level in `key`
    let mut at = 0; // of the level in `filter`
    let mut plus_end = None; // of the last level of `key` that `+` matched
    for level in filter.split(is_separator) {
        if level == b"#" {
            return Verdict::Match; // the parent level as well [MQTT-4.7.1-1]
        }
        let Some(name) = names.next() else {
            // The key ends early: what matches is below it.
            return if level == b"+" { Verdict::Next } else { seek(&[key, &[0], literals(&filter[at..])]) };
        };
        if level == b"+" {
            plus_end = Some(start + name.len());
        } else if name < level {
            return seek(&[&key[..start], literals(&filter[at..])]);
        } else if name > level {
            return past(key, plus_end);
        }
        start += name.len() + 1;
        at += level.len() + 1;
    }
    if names.next().is_none() { Verdict::Match } else { past(key, plus_end) }
}

/// What `filter` begins with before its first wildcard, without the separator between them.
fn literals(filter: &[u8]) -> &[u8] {
    let wildcard = filter.iter().position(|byte| matches!(byte, b'+' | b'#'));
    &filter[..wildcard.map_or(filter.len(), |at| at.saturating_sub(1))]
}

fn seek(parts: &[&[u8]]) -> Verdict {
    Verdict::Seek(parts.concat().into())
}

/// Past everything below the level of `key` that ends at `plus_end`: only what `+` matches there can change, if there
/// is a `+`, so that a key comes that matches.
fn past(key: &[u8], plus_end: Option<usize>) -> Verdict {
    plus_end.map_or(Verdict::Done, |end| seek(&[&key[..end], &[1]]))
}

fn is_separator(byte: &u8) -> bool {
    *byte == 0
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::broker::samples::{Samples, retained};
    use crate::protocol::topic::matches;

    const UNLIMITED: RetainedLimits = RetainedLimits { messages: usize::MAX, bytes: usize::MAX };

    fn table<'a>(topics: impl IntoIterator<Item = &'a str>) -> Retained {
        let mut table = Retained::new(UNLIMITED);
        for topic in topics {
            table.set(retained(topic, 1, b"")).unwrap();
        }
        table
    }

    /// The topics that match, in the order they come, and the number of slices it took.
    fn scan(table: &Retained, filter: &str, slice: usize) -> (Vec<String>, usize) {
        let mut position = Position::start();
        let mut topics = Vec::new();
        let mut slices = 1;
        let mut visit = |message: &Arc<Message>| {
            topics.push(message.topic().to_owned());
            ControlFlow::Continue(())
        };
        while table.scan(filter, &mut position, &mut slice.clone(), &mut visit) {
            slices += 1;
        }
        (topics, slices)
    }

    #[test]
    fn a_scan_finds_what_matches_on_random_topics() {
        let mut samples = Samples::new();
        let seed = samples.seed;
        let topics: BTreeSet<String> = (0..500).map(|_| samples.topic()).collect();
        let table = table(topics.iter().map(|topic| &**topic));
        for _ in 0..500 {
            let filter = samples.filter();
            let (mut found, slices) = scan(&table, &filter, samples.random.usize(1..20));
            assert!(found.is_sorted_by_key(|topic| key(topic)), "seed {seed}: {filter}");
            assert!(slices <= topics.len() + 1, "seed {seed}: {filter}");
            found.sort();
            let expected: Vec<&String> = topics.iter().filter(|topic| matches(&filter, topic)).collect();
            assert!(found.iter().eq(expected), "seed {seed}: {filter}");
        }
    }

    #[test]
    fn a_scan_goes_on_while_the_table_changes() {
        let mut samples = Samples::new();
        let seed = samples.seed;
        for _ in 0..200 {
            let mut present: BTreeMap<String, u64> = (0..100).map(|_| (samples.topic(), 1)).collect();
            let mut table = table(present.keys().map(|topic| &**topic));
            let filter = samples.filter();
            let mut always: BTreeSet<String> =
                present.keys().filter(|topic| matches(&filter, topic)).cloned().collect();
            let mut found = BTreeSet::new();
            let mut position = Position::start();
            let mut version = 1;
            loop {
                let more = table.scan(&filter, &mut position, &mut 3, |message| {
                    let topic = message.topic().to_owned();
                    assert_eq!(
                        present.get(&topic),
                        Some(&message.version),
                        "seed {seed}: a value of its time"
                    );
                    assert!(matches(&filter, &topic), "seed {seed}: {filter} {topic}");
                    if samples.random.bool() {
                        return ControlFlow::Break(()); // and comes again
                    }
                    assert!(found.insert(topic), "seed {seed}: {filter}: twice");
                    ControlFlow::Continue(())
                });
                if !more {
                    break;
                }
                version += 1;
                let topic = samples.topic();
                if samples.random.bool() {
                    assert_eq!(table.remove(&topic).is_some(), present.remove(&topic).is_some());
                    always.remove(&topic);
                } else {
                    table.set(retained(&topic, version, b"new")).unwrap();
                    present.insert(topic, version);
                }
            }
            assert!(always.is_subset(&found), "seed {seed}: {filter}");
        }
    }

    #[test]
    fn a_scan_seeks_past_what_cannot_match() {
        let mut table = table(["a", "b", "$SYS/x"]);
        for room in 0..20 {
            for number in 0..100 {
                table.set(retained(&format!("a/{room}/{number}"), 1, b"")).unwrap();
                table.set(retained(&format!("a/{room}/c/{number}"), 1, b"")).unwrap();
            }
            table.set(retained(&format!("a/{room}/c"), 1, b"")).unwrap();
        }
        // With slices of one, the slices are the entries that were looked at.
        let looks = |filter: &str, found: usize| {
            let (topics, slices) = scan(&table, filter, 1);
            assert_eq!(topics.len(), found, "{filter}");
            slices
        };
        assert!(looks("a/+/c", 20) <= 3 * 20 + 5);
        assert!(looks("a/7/c", 1) <= 3);
        assert!(looks("a/7/c/#", 101) <= 101 + 2);
        assert!(looks("+/7/c", 1) <= 10);
        assert!(looks("nothing/#", 0) <= 2);
        assert!(looks("+", 2) <= 8);
    }

    #[test]
    fn a_slice_is_no_longer_than_it_says() {
        let topics: Vec<String> = (0..1000).map(|number| format!("a/{number}")).collect();
        let table = table(topics.iter().map(|topic| &**topic));
        let mut position = Position::start();
        let mut visited = 0;
        let mut slice = || {
            let before = visited;
            let more = table.scan("#", &mut position, &mut 256, |_| {
                visited += 1;
                ControlFlow::Continue(())
            });
            (visited - before, more)
        };
        assert_eq!([slice(), slice(), slice()], [(256, true); 3]);
        assert_eq!([slice(), slice()], [(232, false), (0, false)], "the end stays the end");
    }

    #[test]
    fn a_slice_that_is_broken_off_goes_on_with_the_same_message() {
        let table = table(["a", "b", "c"]);
        let mut position = Position::start();
        let mut last = |stop: &str| {
            let mut last = String::new();
            let more = table.scan("+", &mut position, &mut 10, |message| {
                last = message.topic().to_owned();
                if last == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            (last, more)
        };
        assert_eq!(last("b"), ("b".to_owned(), true));
        assert_eq!(last("b"), ("b".to_owned(), true));
        assert_eq!(last(""), ("c".to_owned(), false));
    }

    #[test]
    fn deep_topics_need_no_stack() {
        let deep = || {
            let topic = "/".repeat(65_535);
            let table = table([&*topic, "a"]);
            assert_eq!(scan(&table, "#", 1).0.len(), 2);
            assert_eq!(scan(&table, &topic, 1).0.len(), 1);
            assert!(scan(&table, &format!("+{}", "/+".repeat(32_767)), 1).0.is_empty());
        };
        std::thread::Builder::new().stack_size(64 << 10).spawn(deep).unwrap().join().unwrap();
    }

    #[test]
    fn leading_wildcards_do_not_match_dollar_topics() {
        let table = table(
            ["$SYS/a", "$", "a", "#".trim_matches('#').trim_start(), "%", "!"]
                .into_iter()
                .filter(|topic| !topic.is_empty()),
        );
        assert_eq!(scan(&table, "#", 10).0, ["!", "%", "a"]);
        assert_eq!(scan(&table, "+", 10).0, ["!", "%", "a"]);
        assert_eq!(scan(&table, "$SYS/#", 10).0, ["$SYS/a"]);
        assert_eq!(scan(&table, "$SYS/+", 10).0, ["$SYS/a"]);
    }

    #[test]
    fn set_and_remove_return_what_was_there_and_count_it() {
        let mut table = Retained::new(UNLIMITED);
        assert!(table.set(retained("a", 1, b"1")).unwrap().is_none());
        assert_eq!(table.set(retained("a", 2, b"22")).unwrap().unwrap().payload(), b"1");
        assert_eq!(table.get("a").unwrap().payload(), b"22");
        assert!(table.bytes() > 0);
        assert_eq!(table.count(), 1);
        assert!(table.remove("b").is_none());
        assert_eq!(table.remove("a").unwrap().payload(), b"22");
        assert_eq!((table.count(), table.bytes()), (0, 0));
        assert!(table.remove("a").is_none());
    }

    #[test]
    fn limits_hold_for_new_topics_and_let_replacing_and_clearing_work() {
        let one = cost("a", retained("a", 1, b"").size());
        let mut table = Retained::new(RetainedLimits { messages: 2, bytes: usize::MAX });
        table.set(retained("a", 1, b"")).unwrap();
        table.set(retained("b", 2, b"")).unwrap();
        assert!(table.set(retained("c", 3, b"")).is_err());
        assert_eq!((table.count(), table.bytes()), (2, 2 * one));
        assert!(table.set(retained("a", 4, b"other")).unwrap().is_some());
        table.remove("b");
        table.set(retained("c", 5, b"")).unwrap();

        let mut table = Retained::new(RetainedLimits { messages: 10, bytes: 2 * one });
        table.set(retained("a", 1, b"")).unwrap();
        assert!(table.set(retained("b", 2, b"1")).is_err());
        table.set(retained("b", 3, b"")).unwrap();
        let eighth = vec![0; 2 * one / 8];
        assert!(table.set(retained("a", 4, &eighth)).is_ok(), "replacing works at the limit");
        assert!(table.set(retained("b", 5, b"1")).is_err(), "but not to any size");
        assert!(table.set(retained("a", 6, &eighth)).is_ok(), "and as large as before it always does");
        assert!(table.set(retained("a", 7, b"")).is_ok());
        assert_eq!(table.bytes(), 2 * one);
    }
}
