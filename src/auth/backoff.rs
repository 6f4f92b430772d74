//! How long a failure is told late: longer each time that the same address fails as the same user. Right credentials are
//! never held back, so that nobody can lock a user out.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::pool::source;

/// The longest delay is so many times the first one.
const MOST_TIMES: u32 = 8;

/// After so long without a failure all is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// How many are known at least, and at most twice as many: of the address and the user, only a hash is kept.
const KNOWN: usize = 8192;

/// Who has failed how often.
#[derive(Default)]
pub(super) struct Backoff {
    hasher: RandomState,
    /// Failures and the last of them; once it is full it becomes the old one.
    young: HashMap<u64, (u32, Instant), RandomState>,
    old: HashMap<u64, (u32, Instant), RandomState>,
}

impl Backoff {
    /// A failure; how long to wait before it is told. The first delay is `first`.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        from: Option<IpAddr>,
        user: &str,
        first: Duration,
    ) -> Duration {
        let key = self.key(from, user);
        let before = self.young.get(&key).or_else(|| self.old.get(&key)).copied();
        let recent = |last: Instant| now.saturating_duration_since(last) < FORGOTTEN;
        let count = before.filter(|(_, last)| recent(*last)).map_or(0, |(count, _)| count);
        if self.young.len() >= KNOWN {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, (count.saturating_add(1), now));
        first * 2u32.saturating_pow(count).min(MOST_TIMES)
    }

    /// The right credentials came.
    pub(super) fn succeeded(&mut self, from: Option<IpAddr>, user: &str) {
        if self.young.is_empty() && self.old.is_empty() {
            return;
        }
        let key = self.key(from, user);
        self.young.remove(&key);
        self.old.remove(&key);
    }

    fn key(&self, from: Option<IpAddr>, user: &str) -> u64 {
        use std::hash::BuildHasher;
        self.hasher.hash_one((source(from), user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);

    #[test]
    fn it_doubles_for_an_address_and_user_and_is_forgotten() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let here = Some(IpAddr::from([10, 0, 0, 1]));
        let there = Some(IpAddr::from([10, 0, 0, 2]));
        for expected in [1, 2, 4, 8, 8] {
            assert_eq!(backoff.failed(now, here, "ann", FIRST), FIRST * expected);
        }
        assert_eq!(backoff.failed(now, here, "bob", FIRST), FIRST);
        assert_eq!(backoff.failed(now, there, "ann", FIRST), FIRST);
        backoff.succeeded(here, "ann");
        assert_eq!(backoff.failed(now, here, "ann", FIRST), FIRST);
        now += FORGOTTEN;
        assert_eq!(backoff.failed(now, there, "ann", FIRST), FIRST);
        assert_eq!(backoff.failed(now, there, "ann", Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for number in 0..5 * KNOWN {
            backoff.failed(now, None, &number.to_string(), FIRST);
        }
        assert!(backoff.young.len() + backoff.old.len() <= 2 * KNOWN);
    }
}
