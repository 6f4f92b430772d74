//! Timers of many sessions, to the second. A session has at most one; when it fires the session says whether it is due
//! or when to ask again, so a busy connection costs nothing, and a session that ends leaves nothing behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The second of a session whose timer is not set.
pub const NEVER: u64 = u64::MAX;

/// The timers that are set.
#[derive(Debug)]
pub struct Timers {
    start: Instant,
    /// (second, slot of the session table).
    set: BTreeSet<(u64, u32)>,
}

impl Timers {
    /// Counts seconds from `start`.
    pub fn new(start: Instant) -> Timers {
        Timers { start, set: BTreeSet::new() }
    }

    /// Has `session`, whose timer is set for the second `armed`, asked at the first full second not before `at`, or
    /// earlier if it is set for earlier already; returns the second it is set for now.
    pub fn arm_before(&mut self, at: Instant, armed: u64, session: u32) -> u64 {
        let after = at.saturating_duration_since(self.start);
        // Not a nanosecond early: who is asked before its time would set the same second again, and be asked for ever.
        let second = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        if armed <= second {
            return armed;
        }
        self.disarm(armed, session);
        self.set.insert((second, session));
        second
    }

    /// Forgets the timer of `session`, which is set for the second `armed`.
    pub fn disarm(&mut self, armed: u64, session: u32) {
        self.set.remove(&(armed, session));
    }

    /// How many are set.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.set.first().map(|(second, _)| self.start + Duration::from_secs(*second))
    }

    /// Takes the next one that is due at `now`.
    pub fn due(&mut self, now: Instant) -> Option<u32> {
        if self.next()? > now {
            return None;
        }
        self.set.pop_first().map(|(_, session)| session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_one_timer_and_the_earlier_time_wins() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut timers = Timers::new(start);
        let armed = timers.arm_before(at(4_001), NEVER, 7);
        assert_eq!(armed, 5, "never early");
        let next = at(5_000) + Duration::from_nanos(1);
        assert_eq!(Timers::new(start).arm_before(next, NEVER, 7), 6, "by nothing");
        assert_eq!(timers.arm_before(at(9_000), armed, 7), 5, "it asks again when it fires");
        let armed = timers.arm_before(at(2_000), armed, 7);
        assert_eq!((armed, timers.len()), (2, 1));
        timers.arm_before(at(3_000), NEVER, 8);
        assert_eq!(timers.due(at(1_999)), None);
        assert_eq!(timers.due(at(2_000)), Some(7));
        assert_eq!(timers.next(), Some(at(3_000)));
        timers.disarm(3, 8);
        assert!(timers.is_empty() && timers.next().is_none());
    }
}
