//! Who waits for a token bucket, to the millisecond, and who goes on when it opens. Those that wait for one bucket stand
//! in line: a few go on at a time, as long as it has tokens, so that a thousand are not woken for one message.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::shard::ConnectionId;
use crate::flow::bucket::{Shared, Tokens};
use crate::message::QueueId;

/// How many of a line go on at once, at most, and how long the next have to see what those take.
const STEP: (usize, Duration) = (16, Duration::from_millis(1));

/// Who waits, and for what to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waiter {
    /// A connection is to be read again.
    Reader(ConnectionId),
    /// A connection is to be sent what waits for it.
    Taker(ConnectionId),
    /// A share group is to give out what waits in it.
    Group(QueueId),
}

/// All that wait.
#[derive(Debug)]
pub struct Waiters {
    random: fastrand::Rng,
    due: BTreeSet<(Instant, Due)>,
    /// By where the bucket is; a line holds it, so that no other can be there.
    lines: HashMap<usize, Line, foldhash::fast::FixedState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    One(Waiter),
    Line(usize),
}

#[derive(Debug)]
struct Line {
    bucket: Arc<Shared>,
    /// Who has waited longest in front.
    waiting: VecDeque<Waiter>,
    /// How many more may go on before it rests; `None`: its turn has not begun.
    left: Option<usize>,
}

impl Waiters {
    /// Nobody waits.
    pub fn new(seed: u64) -> Waiters {
        let random = fastrand::Rng::with_seed(seed);
        Waiters { random, due: BTreeSet::new(), lines: HashMap::default() }
    }

    /// `waiter` is to hear when `tokens` has some.
    pub fn add(&mut self, waiter: Waiter, tokens: &Tokens) {
        match tokens {
            Tokens::Own(_) => {
                self.due.insert((tokens.wake_at(), Due::One(waiter)));
            }
            Tokens::Shared(bucket) => {
                let place = Arc::as_ptr(bucket).addr();
                let line = self.lines.entry(place).or_insert_with(|| {
                    self.due.insert((tokens.wake_at(), Due::Line(place)));
                    Line { bucket: bucket.clone(), waiting: VecDeque::new(), left: None }
                });
                line.waiting.push_back(waiter);
            }
        }
    }

    /// When the next ones are due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next one that may go on at `now`. It may be gone, or have gone on for another reason.
    pub fn due(&mut self, now: Instant) -> Option<Waiter> {
        loop {
            let (at, due) = *self.due.first().filter(|(at, _)| *at <= now)?;
            let place = match due {
                Due::One(waiter) => {
                    self.due.pop_first();
                    return Some(waiter);
                }
                Due::Line(place) => place,
            };
            let Some(line) = self.lines.get_mut(&place) else {
                self.due.pop_first();
                continue;
            };
            // One who reads takes later what it is let go for: so no more go than there are tokens for.
            let left = line.left.get_or_insert_with(|| line.bucket.room(now).min(STEP.0));
            if *left > 0 && line.bucket.is_open(now) {
                if let Some(waiter) = line.waiting.pop_front() {
                    *left -= 1;
                    return Some(waiter);
                }
                self.lines.remove(&place);
                self.due.pop_first();
                continue;
            }
            self.due.remove(&(at, due));
            line.left = None;
            // Other shards have lines for the same bucket. By chance each is the first now and then.
            let longest = STEP.1.min(line.bucket.patience()).as_nanos() as u64;
            let delay = Duration::from_nanos(self.random.u64(0..=longest));
            self.due.insert(((line.bucket.wake_at() + delay).max(now + STEP.1), due));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::bucket::{Own, Rate};

    fn reader(session: u32) -> Waiter {
        Waiter::Reader(ConnectionId { session, generation: 1 })
    }

    #[test]
    fn one_with_a_bucket_of_its_own_is_due_when_that_opens() {
        let now = Instant::now();
        let mut tokens = Tokens::Own(Own::new(Rate { messages: 10, bytes: 0, burst: Duration::ZERO }, now));
        tokens.take(now, 1);
        let mut waiters = Waiters::new(1);
        waiters.add(reader(1), &tokens);
        let at = waiters.next().expect("waits");
        assert_eq!(at - now, Duration::from_millis(100));
        assert_eq!(waiters.due(at - Duration::from_nanos(1)), None);
        assert_eq!((waiters.due(at), waiters.due(at), waiters.next()), (Some(reader(1)), None, None));
    }

    #[test]
    fn a_line_moves_on_while_there_are_tokens_and_in_its_order() {
        let start = Instant::now();
        let rate = Rate { messages: 1000, bytes: 0, burst: Duration::from_millis(10) };
        let bucket = Arc::new(Shared::new(rate, start));
        while bucket.pass(start) {}
        let mut waiters = Waiters::new(1);
        (0..1000).for_each(|n| waiters.add(reader(n), &Tokens::Shared(bucket.clone())));
        let (mut order, mut wakes) = (Vec::new(), 0);
        while let Some(at) = waiters.next() {
            wakes += 1;
            while let Some(waiter) = waiters.due(at) {
                order.push(waiter);
                assert!(bucket.pass(at), "nobody is woken in vain");
            }
        }
        assert_eq!(order, (0..1000).map(reader).collect::<Vec<_>>());
        assert!(wakes <= 1000 / 4, "{wakes}");
    }

    #[test]
    fn those_that_take_nothing_do_not_hold_the_line_up_nor_let_all_of_it_go() {
        let start = Instant::now();
        let rate = Rate { messages: 1000, bytes: 0, burst: Duration::from_millis(10) };
        let bucket = Arc::new(Shared::new(rate, start));
        let mut waiters = Waiters::new(1);
        (0..40).for_each(|n| waiters.add(reader(n), &Tokens::Shared(bucket.clone())));
        let gone = |waiters: &mut Waiters, now| std::iter::from_fn(|| waiters.due(now)).count();
        let mut counts = Vec::new();
        while let Some(at) = waiters.next() {
            counts.push(gone(&mut waiters, at));
        }
        assert_eq!(counts, [11, 11, 11, 7]);
    }
}
