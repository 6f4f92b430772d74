//! [`Retained`]: topic → the retained message. An ordered map rather than the trie that the other tables use, because a
//! replay is a cursor that goes on where it stopped while the table changes, and that needs an order.
//!
//! The key is the topic with `/` as byte 0, which no topic may hold [MQTT-1.5.4-2] and which sorts before every other:
//! so a level and all below it are neighbours, and what a filter cannot match is skipped by one search.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

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
}

impl Retained {
    /// Nothing is retained.
    pub fn new(limits: RetainedLimits) -> Retained {
        Retained { messages: BTreeMap::new(), bytes: 0, limits }
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
        self.bytes += cost(message.topic(), message.size());
        let old = self.messages.insert(key(message.topic()), message);
        if let Some(old) = &old {
            self.bytes -= cost(old.topic(), old.size());
        }
        Ok(old)
    }

    /// Removes the message of `topic`.
    pub fn remove(&mut self, topic: &str) -> Option<Arc<Message>> {
        let old = self.messages.remove(&*key(topic))?;
        self.bytes -= cost(topic, old.size());
        Some(old)
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
    /// Looks at no more than `slice` entries, and returns whether there may be more.
    ///
    /// Between two slices the table may change: what is there all the time is visited exactly once, what comes or goes
    /// meanwhile at most once, and always with the value it has at that moment.
    pub fn scan(
        &self,
        filter: &str,
        position: &mut Position,
        slice: usize,
        mut visit: impl FnMut(&Arc<Message>) -> ControlFlow<()>,
    ) -> bool {
        let filter = key(filter);
        let mut left = slice.max(1);
        loop {
            let mut seek = None;
            let mut last = None;
            let from = position.0.as_ref().map(|key| &**key);
            for (key, message) in self.messages.range::<[u8], _>((from, Bound::Unbounded)) {
                if left == 0 {
                    break;
                }
                left -= 1;
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
                (None, None) => return left == 0,
            }
            if left == 0 {
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
        return Verdict::Seek(Box::new([b'$' + 1]));
    }
    let mut names = key.split(is_separator);
    let mut start = 0; // of the level in `key`
    let mut plus_end = None; // of the last level that `+` matched
    for level in filter.split(is_separator) {
        if level == b"#" {
            return Verdict::Match; // the parent level as well [MQTT-4.7.1-1]
        }
        let Some(name) = names.next() else {
            // The key ends early: what matches is below it.
            return if level == b"+" {
                Verdict::Next
            } else {
                Verdict::Seek([key, &[0], level].concat().into())
            };
        };
        if level == b"+" {
            plus_end = Some(start + name.len());
        } else if name < level {
            return Verdict::Seek([&key[..start], level].concat().into());
        } else if name > level {
            return past(key, plus_end);
        }
        start += name.len() + 1;
    }
    if names.next().is_none() { Verdict::Match } else { past(key, plus_end) }
}

/// Past everything below the level of `key` that ends at `plus_end`: only what `+` matches there can change, if there
/// is a `+`, so that a key comes that matches.
fn past(key: &[u8], plus_end: Option<usize>) -> Verdict {
    plus_end.map_or(Verdict::Done, |end| Verdict::Seek([&key[..end], &[1]].concat().into()))
}

fn is_separator(byte: &u8) -> bool {
    *byte == 0
}
