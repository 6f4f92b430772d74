//! Timers of many sessions in one-second buckets. A session has at most one entry; when it fires the
//! session says whether it is due or when to ask again, so a busy connection costs nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::message::QueueId;

/// Who is to be asked: a slot of the session table, and the queue number that tells whether it is
/// still the same session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index into the shard's sessions.
    pub session: u32,
    /// The session's queue.
    pub queue_id: QueueId,
}

/// The buckets.
#[derive(Debug)]
pub struct Timers {
    start: Instant,
    buckets: BTreeMap<u64, Vec<Entry>>,
}

impl Timers {
    /// Counts seconds from `start`.
    pub fn new(start: Instant) -> Timers {
        Timers { start, buckets: BTreeMap::new() }
    }

    /// Asks at the first full second not before `at`, unless the entry is armed for no later than
    /// that already; returns the second if it was armed.
    pub fn arm_before(&mut self, at: Instant, armed: u64, entry: Entry) -> Option<u64> {
        let second = at.saturating_duration_since(self.start).as_millis().div_ceil(1000) as u64;
        if armed <= second {
            return None;
        }
        self.buckets.entry(second).or_default().push(entry);
        Some(second)
    }

    /// When the next bucket is due.
    pub fn next(&self) -> Option<Instant> {
        self.buckets.keys().next().map(|second| self.start + Duration::from_secs(*second))
    }

    /// The next bucket that is due at `now`, with its second.
    pub fn due(&mut self, now: Instant) -> Option<(u64, Vec<Entry>)> {
        if self.next()? > now {
            return None;
        }
        self.buckets.pop_first()
    }
}
