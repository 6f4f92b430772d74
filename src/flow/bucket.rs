//! Token buckets in integers. A bucket is one number for messages and one for bytes: the time, in nanoseconds, at which
//! all that was taken is paid for. It is open while that is not in the future, so a packet of any size passes sooner or
//! later, and is paid for before the next one does. One that is not used is paid for in advance, by its burst at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long one who waits waits beyond the first token, so that not every message has a wake-up of its own.
const QUANTUM: Duration = Duration::from_millis(5);

/// A small packet, in bytes.
const SMALL: usize = 256;

const SECOND: u64 = 1_000_000_000;

/// So many a second, and how much of that at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages a second; 0: any number.
    pub messages: u64,
    /// Bytes a second; 0: any number.
    pub bytes: u64,
    /// What may come at once after silence, as the time in which it would come at the rate; one packet always may.
    pub burst: Duration,
}

impl Rate {
    /// What a packet of `bytes` costs: in the nanoseconds of each of the two rates.
    fn cost(&self, bytes: usize) -> (u64, u64) {
        let part = |count: u64, rate: u64| match rate {
            0 => 0,
            rate => {
                u64::try_from(u128::from(count) * u128::from(SECOND) / u128::from(rate)).unwrap_or(u64::MAX)
            }
        };
        (part(1, self.messages), part(bytes as u64, self.bytes))
    }

    fn burst_nanos(&self) -> u64 {
        nanos(self.burst)
    }

    /// How long after it opens one who waits for a bucket is woken: never so late that tokens would be lost meanwhile.
    fn patience(&self) -> Duration {
        QUANTUM.min(self.burst / 2)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `paid`, after `cost` is taken at `now`.
fn taken(paid: u64, now: u64, burst: u64, cost: u64) -> u64 {
    paid.max(now.saturating_sub(burst)).saturating_add(cost)
}

/// A full bucket of one user: no other thread sees it.
#[derive(Clone, Debug)]
pub struct Own {
    rate: Rate,
    /// A burst before it was made.
    start: Instant,
    messages: u64,
    bytes: u64,
}

/// A bucket that many take from, on any thread.
#[derive(Debug)]
pub struct Shared {
    rate: Rate,
    start: Instant,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Own {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Own {
        Own { rate, start: now, messages: 0, bytes: 0 }
    }

    fn now(&self, now: Instant) -> u64 {
        // Its time begins a burst before it does: it is full.
        nanos(now.saturating_duration_since(self.start)).saturating_add(self.rate.burst_nanos())
    }

    fn take(&mut self, now: Instant, bytes: usize) {
        let (now, burst, cost) = (self.now(now), self.rate.burst_nanos(), self.rate.cost(bytes));
        self.messages = taken(self.messages, now, burst, cost.0);
        self.bytes = taken(self.bytes, now, burst, cost.1);
    }

    /// Whether a new one would be the same.
    pub fn is_full(&self, now: Instant) -> bool {
        self.messages.max(self.bytes) <= self.now(now).saturating_sub(self.rate.burst_nanos())
    }

    /// The rate that it keeps.
    pub fn rate(&self) -> Rate {
        self.rate
    }
}

impl Shared {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Shared {
        Shared { rate, start: now, messages: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    fn now(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.start)).saturating_add(self.rate.burst_nanos())
    }

    fn take(&self, now: Instant, bytes: usize) {
        let (now, burst, cost) = (self.now(now), self.rate.burst_nanos(), self.rate.cost(bytes));
        for (paid, cost) in [(&self.messages, cost.0), (&self.bytes, cost.1)] {
            if cost > 0 {
                // Always succeeds: nothing is refused here.
                let _ = paid.fetch_update(Relaxed, Relaxed, |paid| Some(taken(paid, now, burst, cost)));
            }
        }
    }

    fn paid(&self) -> u64 {
        self.messages.load(Relaxed).max(self.bytes.load(Relaxed))
    }

    /// Whether a packet may pass now.
    pub fn is_open(&self, now: Instant) -> bool {
        self.paid() <= self.now(now)
    }

    /// About how many small packets may pass now, one after the other.
    pub fn room(&self, now: Instant) -> usize {
        let (now, cost) = (self.now(now), self.rate.cost(SMALL));
        let part = |paid: &AtomicU64, cost: u64| match now.checked_sub(paid.load(Relaxed)) {
            Some(left) => (left.min(self.rate.burst_nanos()) / cost.max(1)).saturating_add(1),
            None => 0,
        };
        let (messages, bytes) = (part(&self.messages, cost.0), part(&self.bytes, cost.1));
        usize::try_from(messages.min(bytes)).unwrap_or(usize::MAX)
    }

    /// Takes one message if it may pass now, for who has nothing else to ask.
    pub fn pass(&self, now: Instant) -> bool {
        let open = self.is_open(now);
        if open {
            self.take(now, 0);
        }
        open
    }

    /// Whether a new one would be the same.
    pub fn is_full(&self, now: Instant) -> bool {
        self.paid() <= self.now(now).saturating_sub(self.rate.burst_nanos())
    }

    /// The rate that it keeps.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// When one who waits for it is to ask again.
    pub fn wake_at(&self) -> Instant {
        wake_at(self.start, self.paid(), self.rate)
    }

    /// How much later than it opens it may be asked without a loss of tokens, and is.
    pub fn patience(&self) -> Duration {
        self.rate.patience()
    }
}

fn wake_at(start: Instant, paid: u64, rate: Rate) -> Instant {
    start + Duration::from_nanos(paid.saturating_sub(rate.burst_nanos())) + rate.patience()
}

/// One bucket, whoever else takes from it.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// Nobody.
    Own(Own),
    /// Others.
    Shared(Arc<Shared>),
}

impl Tokens {
    /// Whether a packet may pass now.
    pub fn is_open(&self, now: Instant) -> bool {
        match self {
            Tokens::Own(own) => own.messages.max(own.bytes) <= own.now(now),
            Tokens::Shared(shared) => shared.is_open(now),
        }
    }

    /// Takes a packet of `bytes`, whether there is enough for it or not.
    pub fn take(&mut self, now: Instant, bytes: usize) {
        match self {
            Tokens::Own(own) => own.take(now, bytes),
            Tokens::Shared(shared) => shared.take(now, bytes),
        }
    }

    /// When one who waits for it is to ask again.
    pub fn wake_at(&self) -> Instant {
        match self {
            Tokens::Own(own) => wake_at(own.start, own.messages.max(own.bytes), own.rate),
            Tokens::Shared(shared) => shared.wake_at(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rate(messages: u64, bytes: u64, burst: Duration) -> Rate {
        Rate { messages, bytes, burst }
    }

    /// Takes packets of `size` from `tokens` for `time`, each as soon as it may pass and is asked for; how many.
    fn drain(mut tokens: Tokens, start: Instant, time: Duration, size: usize, step: Duration) -> u64 {
        let (mut now, mut passed) = (start, 0);
        while now < start + time {
            while tokens.is_open(now) {
                tokens.take(now, size);
                passed += 1;
            }
            now += step;
        }
        passed
    }

    fn both(rate: Rate, now: Instant) -> [Tokens; 2] {
        [Tokens::Own(Own::new(rate, now)), Tokens::Shared(Arc::new(Shared::new(rate, now)))]
    }

    #[test]
    fn what_passes_is_the_burst_and_then_the_rate() {
        let now = Instant::now();
        for (messages, burst, seconds) in [(1, 0, 60), (3, 100, 20), (6_000, 50, 10), (1_000_000, 1000, 1)] {
            for tokens in both(rate(messages, 0, burst * MS), now) {
                let passed = drain(tokens, now, Duration::from_secs(seconds), 100, MS);
                let most = messages * seconds + messages * u64::from(burst) / 1000 + 1;
                assert!(
                    (most - most / 1000 - messages / 500 - 1..=most).contains(&passed),
                    "{passed} of {most}"
                );
            }
        }
    }

    #[test]
    fn bytes_count_as_well_and_a_packet_larger_than_the_burst_passes() {
        let now = Instant::now();
        for tokens in both(rate(0, 10_000, 100 * MS), now) {
            assert_eq!(drain(tokens, now, Duration::from_secs(100), 100_000, MS), 10 + 1);
        }
        for tokens in both(rate(0, 10_000, 100 * MS), now) {
            let passed = drain(tokens, now, Duration::from_secs(10), 100, MS);
            assert!(passed.abs_diff(1000 + 10) <= 1, "{passed}");
        }
        for (size, expected) in [(10, 1001), (1000, 101)] {
            for tokens in both(rate(100, 10_000, 10 * MS), now) {
                let passed = drain(tokens, now, Duration::from_secs(10), size, MS);
                assert!(passed.abs_diff(expected) <= 1, "{passed} of {expected}");
            }
        }
    }

    #[test]
    fn tokens_do_not_gather_beyond_the_burst() {
        let now = Instant::now();
        for mut tokens in both(rate(1000, 0, 10 * MS), now) {
            let later = now + Duration::from_secs(3600);
            let mut passed = 0;
            while tokens.is_open(later) {
                tokens.take(later, 0);
                passed += 1;
            }
            assert_eq!(passed, 11);
            let wait = tokens.wake_at() - later;
            assert!(wait > 5 * MS && wait <= 6 * MS, "{wait:?}");
            assert!(!tokens.is_open(later) && tokens.is_open(tokens.wake_at()));
        }
    }

    #[test]
    fn one_that_is_full_again_is_as_good_as_new() {
        let now = Instant::now();
        let rate = rate(1000, 0, 10 * MS);
        let (mut own, shared) = (Own::new(rate, now), Shared::new(rate, now));
        assert!(own.is_full(now) && shared.is_full(now));
        own.take(now, 1);
        assert!(shared.pass(now));
        assert!(!own.is_full(now) && !shared.is_full(now));
        assert!(own.is_full(now + MS) && shared.is_full(now + MS));
    }

    #[test]
    fn threads_share_one_rate() {
        let start = Instant::now();
        let shared = Arc::new(Shared::new(rate(10_000, 0, 100 * MS), start));
        let passed: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope
                        .spawn(|| drain(Tokens::Shared(shared.clone()), start, Duration::from_secs(1), 1, MS))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // Each keeps its own time here, so that one may be ahead by all of it; what is taken is paid for all the same.
        assert!((10_000..=11_004).contains(&passed), "{passed}");
    }
}
