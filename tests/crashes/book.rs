//! What was sent, what was acknowledged and what was seen of it: the truth that the broker is held against.

use std::fmt;

/// Numbered messages of one publisher: its n-th message has the number n.
pub struct Published {
    /// Its messages are retained, over [`RETAINED_TOPICS`] topics in turn.
    pub retained: bool,
    /// At QoS 2.
    pub exact: bool,
    /// By number: whether the broker has taken it over.
    acknowledged: Vec<bool>,
    /// All below this number are acknowledged.
    settled: u64,
}

/// Topics that a publisher of retained messages has.
pub const RETAINED_TOPICS: u64 = 7;

/// One message in so many deletes its topic's retained one.
const DELETES: u64 = 5;

impl Published {
    /// Enters the next message.
    pub fn begin(&mut self) {
        self.acknowledged.push(false);
    }

    /// How many were sent.
    pub fn sent(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// Whether a retained message is a deletion.
    pub fn deletes(number: u64) -> bool {
        number % DELETES == DELETES - 1
    }

    /// The last acknowledged message of a retained topic.
    pub fn last_acknowledged(&self, topic: u64) -> Option<u64> {
        (0..self.sent())
            .rev()
            .find(|number| number % RETAINED_TOPICS == topic && self.acknowledged[*number as usize])
    }
}

/// The payload of a message: who published it, its number, and bytes that depend on both.
pub fn payload(publisher: usize, number: u64) -> Vec<u8> {
    let mut payload = format!("{publisher} {number} ").into_bytes();
    let padding = if number % 211 == 3 { 20_000 } else { number * 37 % 300 };
    payload.extend((0..padding).map(|at| b'a' + ((at + number) % 26) as u8));
    payload
}

/// Who published a message and its number; `None` if it is not as it was sent.
pub fn parsed(bytes: &[u8]) -> Option<(usize, u64)> {
    let mut words = bytes.splitn(3, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
    let (publisher, number) = (number()? as usize, number()?);
    (payload(publisher, number) == bytes).then_some((publisher, number))
}

/// What one subscriber, or one share group, has seen.
pub struct Taken {
    pub name: String,
    /// Several share it, or one that begins anew each time: there is no order, and what counts is what was answered.
    pub loose: bool,
    /// By publisher, the first number that was sent after the subscription had been acknowledged.
    since: Option<Vec<u64>>,
    /// By publisher, the first number that may come: those below were acknowledged before there was a subscription.
    from: Vec<u64>,
    /// By publisher and number, how often it was seen, at QoS 2 repeats of one exchange aside.
    seen: Vec<Vec<u8>>,
    /// By publisher, one above the highest number seen.
    next: Vec<u64>,
}

/// Everything.
#[derive(Default)]
pub struct Book {
    pub published: Vec<Published>,
    pub taken: Vec<Taken>,
    /// Workers that are to be lost answer no more.
    pub losing: bool,
    /// Publishers begin nothing new.
    pub stopped: bool,
    /// Messages a second that each publisher sends.
    pub rate: f64,
    /// Those who change their subscriptions compare them with the broker's.
    pub comparing: bool,
    /// And so many have.
    pub compared: usize,
    /// A probe of the retained messages has come to its end.
    pub probed: bool,
    /// Messages that were seen, repeats included.
    seen: u64,
    acknowledged: u64,
    pub report: Report,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    pub crashes: usize,
    pub acknowledged: u64,
    pub seen: u64,
    /// Acknowledged and not seen.
    pub lost: u64,
    /// Sessions and subscriptions that were acknowledged, and gone.
    pub sessions_lost: u64,
    pub subscriptions_lost: u64,
    /// Seen more than once though both sides were QoS 2.
    pub twice: u64,
    /// First seen behind a later one of its publisher.
    pub disordered: u64,
    /// Retained values older than the last acknowledged, or missing.
    pub retained_wrong: u64,
    /// Whatever else a broker must not do.
    pub faults: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} crashes, {} messages acknowledged, {} deliveries; {} lost, {} twice at QoS 2, {} out of order, {} sessions \
             and {} subscriptions lost, {} retained values wrong, {} other faults",
            self.crashes,
            self.acknowledged,
            self.seen,
            self.lost,
            self.twice,
            self.disordered,
            self.sessions_lost,
            self.subscriptions_lost,
            self.retained_wrong,
            self.faults.len()
        )
    }
}

impl Report {
    /// Everything is as it was promised.
    #[track_caller]
    pub fn expect_flawless(&self) {
        let wrong = self.lost
            + self.twice
            + self.disordered
            + self.sessions_lost
            + self.subscriptions_lost
            + self.retained_wrong;
        assert!(wrong == 0 && self.faults.is_empty(), "{self}\n{}", self.faults.join("\n"));
        assert!(self.acknowledged > 0 && self.seen > 0, "nothing was tried: {self}");
    }
}

impl Book {
    /// Enters a publisher; its index.
    pub fn publisher(&mut self, retained: bool, exact: bool) -> usize {
        self.published.push(Published { retained, exact, acknowledged: Vec::new(), settled: 0 });
        self.published.len() - 1
    }

    /// Enters a subscriber or a share group; its index.
    pub fn taker(&mut self, name: &str, loose: bool) -> usize {
        self.taken.push(Taken {
            name: name.to_owned(),
            loose,
            since: None,
            from: Vec::new(),
            seen: Vec::new(),
            next: Vec::new(),
        });
        self.taken.len() - 1
    }

    /// Notes something that a broker must not do.
    pub fn fault(&mut self, what: String) {
        if self.report.faults.len() < 50 {
            self.report.faults.push(what);
        }
    }

    /// This taker has a session without a subscription.
    pub fn began_anew(&mut self, taker: usize) {
        self.taken[taker].from = self.published.iter().map(|published| published.settled).collect();
        self.taken[taker].since = None;
    }

    /// The subscription of this taker, or of the first of its group, was acknowledged.
    pub fn subscribed(&mut self, taker: usize) {
        let now = self.published.iter().map(Published::sent).collect();
        self.taken[taker].since.get_or_insert(now);
    }

    /// A message was seen; `exact` if it was delivered at QoS 2.
    pub fn saw(&mut self, taker: usize, publisher: usize, number: u64, exact: bool) {
        self.seen += 1;
        if self.published.get(publisher).is_none_or(|published| number >= published.sent()) {
            return self.fault(format!("message {number} of publisher {publisher} was never sent"));
        }
        let exact = exact && self.published[publisher].exact;
        let taken = &mut self.taken[taker];
        let publishers = self.published.len();
        taken.seen.resize(publishers, Vec::new());
        taken.next.resize(publishers, 0);
        let seen = &mut taken.seen[publisher];
        if seen.len() <= number as usize {
            seen.resize(number as usize + 1, 0);
        }
        seen[number as usize] = seen[number as usize].saturating_add(1);
        let times = seen[number as usize];
        let next = &mut taken.next[publisher];
        let disordered = times == 1 && number < *next && !taken.loose;
        *next = (*next).max(number + 1);
        let ghost = taken.from.get(publisher).is_some_and(|from| number < *from);
        let who = format!("{}: message {number} of publisher {publisher}", taken.name);
        if times > 1 && exact {
            self.report.twice += 1;
            self.fault(format!("{who} came {times} times"));
        }
        if ghost {
            self.fault(format!("{who} came over a session that began after it"));
        }
        if disordered {
            self.report.disordered += 1;
            self.fault(format!("{who} came behind later ones"));
        }
    }

    /// What was acknowledged since this taker's subscription was, and has not been seen.
    pub fn missing(&self, taker: usize) -> impl Iterator<Item = (usize, u64)> {
        let taken = &self.taken[taker];
        let since = taken.since.as_deref().unwrap_or_default();
        self.published
            .iter()
            .enumerate()
            .zip(since)
            .filter(|((_, published), _)| !published.retained)
            .flat_map(|((publisher, published), since)| {
                let seen = taken.seen.get(publisher).map_or(&[][..], |seen| seen);
                (*since..published.sent())
                    .filter(|number| published.acknowledged[*number as usize])
                    .filter(|number| seen.get(*number as usize).is_none_or(|times| *times == 0))
                    .map(move |number| (publisher, number))
            })
    }

    /// Whether every subscription was acknowledged.
    pub fn all_subscribed(&self) -> bool {
        self.taken.iter().all(|taken| taken.since.is_some())
    }

    /// Whether each publisher has had a message acknowledged.
    pub fn all_acknowledged_something(&self) -> bool {
        self.published.iter().all(|published| published.acknowledged.contains(&true))
    }

    /// Grows while anything happens.
    pub fn progress(&self) -> u64 {
        self.seen + self.acknowledged + self.compared as u64
    }

    /// The broker has taken a message over.
    pub fn acknowledge(&mut self, publisher: usize, number: u64) {
        let published = &mut self.published[publisher];
        published.acknowledged[number as usize] = true;
        while published.acknowledged.get(published.settled as usize) == Some(&true) {
            published.settled += 1;
        }
        self.acknowledged += 1;
    }

    /// Whether everybody has seen what is theirs.
    pub fn is_complete(&self) -> bool {
        (0..self.taken.len()).all(|taker| self.missing(taker).next().is_none())
    }

    /// Whether every message that was sent is acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        self.published.iter().all(|published| published.settled == published.sent())
    }

    /// Adds up what is missing.
    pub fn close(&mut self) {
        for taker in 0..self.taken.len() {
            let missing: Vec<_> = self.missing(taker).collect();
            self.report.lost += missing.len() as u64;
            if let Some((publisher, number)) = missing.first() {
                let (name, count) = (&self.taken[taker].name, missing.len());
                let what =
                    format!("{name}: {count} lost, the first is message {number} of publisher {publisher}");
                self.fault(what);
            }
        }
        self.report.acknowledged = self.acknowledged;
        self.report.seen = self.seen;
    }
}
