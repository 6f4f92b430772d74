//! Who has which buckets: [`Flow`] holds the rules and the buckets that several connections take from together, and
//! gives each connection and share group what holds for it. It is asked when a client connects, never for a message.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hashbrown::HashMap;

use super::bucket::{Own, Rate, Shared, Tokens};
use super::{OnLimit, RateRule, Scope};

/// The rules, and the buckets that are shared.
#[derive(Debug, Default)]
pub struct Flow {
    rates: Vec<RateRule>,
    deliveries: Vec<RateRule>,
    shared: Arc<Mutex<Registry>>,
}

/// The shared buckets by what they are for. One that nobody has and that is full is as good as none.
#[derive(Debug, Default)]
struct Registry {
    buckets: HashMap<(Way, Scope, Box<str>), Arc<Shared>, foldhash::fast::RandomState>,
    /// At so many it is gone through for those.
    purge_at: usize,
}

/// What a bucket counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    In,
    Out,
}

/// The least number of buckets that is worth going through.
const PURGE: usize = 1024;

/// A client as the rules know it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its client identifier.
    pub client_id: &'a str,
    /// Its user name, unless it is anonymous.
    pub user: Option<&'a str>,
    /// The listener that it came by.
    pub listener: &'a str,
}

/// What the publishes of one connection must pass.
#[derive(Debug)]
pub struct Throttle(Box<[(Tokens, OnLimit)]>);

/// Whether a publish may pass.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// It may, and is counted.
    Pass,
    /// Not before this has tokens.
    Wait(&'a Tokens),
    /// It is to be refused.
    Reject,
}

/// What the deliveries to one connection or share group must pass.
#[derive(Debug)]
pub struct Pace {
    tokens: Box<[Tokens]>,
    /// Something waits for tokens: nothing passes before [`Pace::wake`].
    waits: bool,
    /// Somebody will call that.
    pub listed: bool,
}

impl Flow {
    /// With these rules for what comes in and for what goes out.
    pub fn new(rates: Vec<RateRule>, deliveries: Vec<RateRule>) -> Flow {
        Flow { rates, deliveries, shared: Arc::default() }
    }

    /// The same with other rules. Whatever keeps its rate keeps its bucket too, as full as it is: those who come later take
    /// from it together with those who are there.
    pub fn with(&self, rates: Vec<RateRule>, deliveries: Vec<RateRule>) -> Flow {
        Flow { rates, deliveries, shared: self.shared.clone() }
    }

    /// What a new connection's publishes must pass, if anything. `known` is the client's own bucket from before, which
    /// must not be full again for the asking.
    pub fn throttle(&self, now: Instant, subject: Subject<'_>, known: Option<Own>) -> Option<Box<Throttle>> {
        if self.rates.is_empty() {
            return None;
        }
        let mut gates = Vec::new();
        if let Some(rule) = RateRule::find(&self.rates, Scope::Client, subject.client_id) {
            gates.push((Tokens::Own(renewed(known, rule.rate, now)), rule.on_limit));
        }
        let common = [(Scope::User, subject.user), (Scope::Listener, Some(subject.listener))];
        for (scope, name) in common {
            let Some(name) = name else { continue };
            if let Some(rule) = RateRule::find(&self.rates, scope, name) {
                let shared = self.common(now, (Way::In, scope, name.into()), rule.rate);
                gates.push((Tokens::Shared(shared), rule.on_limit));
            }
        }
        (!gates.is_empty()).then(|| Box::new(Throttle(gates.into())))
    }

    /// What deliveries to a new connection must pass, if anything. `known` is the client's own bucket from before, as in
    /// [`Flow::throttle`].
    pub fn pace(
        &self,
        now: Instant,
        client_id: &str,
        user: Option<&str>,
        known: Option<Own>,
    ) -> Option<Box<Pace>> {
        if self.deliveries.is_empty() {
            return None;
        }
        let mut tokens = Vec::new();
        if let Some(rule) = RateRule::find(&self.deliveries, Scope::Client, client_id) {
            tokens.push(Tokens::Own(renewed(known, rule.rate, now)));
        }
        let user = user.and_then(|user| Some((user, RateRule::find(&self.deliveries, Scope::User, user)?)));
        if let Some((user, rule)) = user {
            tokens.push(Tokens::Shared(self.common(now, (Way::Out, Scope::User, user.into()), rule.rate)));
        }
        Pace::of(tokens)
    }

    /// What a share group may give out, if that is bounded.
    pub fn group_pace(&self, now: Instant, group: &str) -> Option<Box<Pace>> {
        let rule = RateRule::find(&self.deliveries, Scope::Group, group)?;
        // One name with several filters is several groups, with one database behind them.
        let shared = self.common(now, (Way::Out, Scope::Group, group.into()), rule.rate);
        Pace::of(vec![Tokens::Shared(shared)])
    }

    fn common(&self, now: Instant, key: (Way, Scope, Box<str>), rate: Rate) -> Arc<Shared> {
        // Nothing in here can be left half done.
        let mut registry = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if registry.buckets.len() >= registry.purge_at.max(PURGE) {
            registry.buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full(now));
            registry.purge_at = 2 * registry.buckets.len();
        }
        let bucket = registry.buckets.entry(key).or_insert_with(|| Arc::new(Shared::new(rate, now)));
        if bucket.rate() != rate {
            *bucket = Arc::new(Shared::new(rate, now));
        }
        bucket.clone()
    }
}

/// A client's own bucket from before, if it still fits its rule.
fn renewed(known: Option<Own>, rate: Rate, now: Instant) -> Own {
    known.filter(|known| known.rate() == rate).unwrap_or_else(|| Own::new(rate, now))
}

impl Throttle {
    /// Whether a PUBLISH of `bytes` may pass now: then it is counted.
    pub fn take(&mut self, now: Instant, bytes: usize) -> Verdict<'_> {
        let mut closed = None;
        for (index, (tokens, on_limit)) in self.0.iter().enumerate() {
            if tokens.is_open(now) {
                continue;
            }
            if *on_limit == OnLimit::Reject {
                return Verdict::Reject;
            }
            closed = Some(index);
        }
        if let Some(index) = closed {
            return Verdict::Wait(&self.0[index].0);
        }
        self.0.iter_mut().for_each(|(tokens, _)| tokens.take(now, bytes));
        Verdict::Pass
    }

    /// The client's own bucket, unless it is full: what a later connection of the same client goes on with.
    pub fn into_own(self, now: Instant) -> Option<Own> {
        own(self.0.into_iter().map(|(tokens, _)| tokens), now)
    }
}

/// Of these buckets the one that nobody else takes from, unless it is full.
fn own(mut all: impl Iterator<Item = Tokens>, now: Instant) -> Option<Own> {
    all.find_map(|tokens| match tokens {
        Tokens::Own(own) => Some(own).filter(|own| !own.is_full(now)),
        Tokens::Shared(_) => None,
    })
}

impl Pace {
    fn of(tokens: Vec<Tokens>) -> Option<Box<Pace>> {
        let pace = |tokens: Vec<Tokens>| Pace { tokens: tokens.into(), waits: false, listed: false };
        (!tokens.is_empty()).then(|| Box::new(pace(tokens)))
    }

    /// The same as [`Throttle::into_own`].
    pub fn into_own(self, now: Instant) -> Option<Own> {
        own(self.tokens.into_iter(), now)
    }

    /// Whether a delivery may leave now; if not, whoever asks has to wait.
    pub fn is_open(&mut self, now: Instant) -> bool {
        self.waits = self.waits || !self.tokens.iter().all(|tokens| tokens.is_open(now));
        !self.waits
    }

    /// A delivery of `bytes` leaves.
    pub fn take(&mut self, now: Instant, bytes: usize) {
        self.tokens.iter_mut().for_each(|tokens| tokens.take(now, bytes));
    }

    /// Whether something waits.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// What it waits for, if nobody has been told of that yet.
    pub fn unlisted(&self) -> Option<&Tokens> {
        if !self.waits || self.listed {
            return None;
        }
        self.tokens.iter().max_by_key(|tokens| tokens.wake_at())
    }

    /// It may be asked again.
    pub fn wake(&mut self) {
        (self.waits, self.listed) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rule(scope: Scope, name: &str, messages: u64, on_limit: OnLimit) -> RateRule {
        let rate = Rate { messages, bytes: 0, burst: Duration::ZERO };
        RateRule { scope, name: name.to_owned(), rate, on_limit }
    }

    fn subject<'a>(client_id: &'a str, user: Option<&'a str>) -> Subject<'a> {
        Subject { client_id, user, listener: "127.0.0.1:1883" }
    }

    #[test]
    fn without_a_rule_there_is_nothing_to_ask() {
        let now = Instant::now();
        assert!(Flow::default().throttle(now, subject("a", Some("u")), None).is_none());
        assert!(Flow::default().pace(now, "a", Some("u"), None).is_none());
        let flow = Flow::new(vec![rule(Scope::User, "u", 1, OnLimit::Pause)], Vec::new());
        assert!(flow.throttle(now, subject("a", None), None).is_none());
        assert!(flow.throttle(now, subject("a", Some("v")), None).is_none());
        assert!(flow.throttle(now, subject("a", Some("u")), None).is_some());
    }

    #[test]
    fn users_share_and_clients_do_not() {
        let now = Instant::now();
        let rules =
            vec![rule(Scope::Client, "*", 10, OnLimit::Reject), rule(Scope::User, "*", 1, OnLimit::Pause)];
        let flow = Flow::new(rules, Vec::new());
        let of = |client_id, user| flow.throttle(now, subject(client_id, user), None).expect("a rule holds");
        let (mut a, mut b, mut other, mut nobody) =
            (of("a", Some("u")), of("b", Some("u")), of("c", Some("v")), of("d", None));
        assert!(matches!(a.take(now, 1), Verdict::Pass));
        assert!(matches!(a.take(now, 1), Verdict::Reject), "its own rule says so");
        assert!(matches!(b.take(now, 1), Verdict::Wait(_)), "its user's has been used up");
        assert!(matches!(other.take(now, 1), Verdict::Pass));
        assert!(matches!(nobody.take(now, 1), Verdict::Pass));
    }

    #[test]
    fn a_new_connection_does_not_fill_the_bucket() {
        let now = Instant::now();
        let flow = Flow::new(vec![rule(Scope::Client, "*", 1, OnLimit::Pause)], Vec::new());
        let mut first = flow.throttle(now, subject("a", None), None).expect("a rule holds");
        assert!(matches!(first.take(now, 1), Verdict::Pass));
        let left = first.into_own(now);
        let mut second = flow.throttle(now, subject("a", None), left).expect("a rule holds");
        assert!(matches!(second.take(now, 1), Verdict::Wait(_)));
        assert!(second.into_own(now + Duration::from_secs(1)).is_none(), "it is full");
    }

    #[test]
    fn other_rules_leave_the_buckets_of_those_that_stay_as_they_are() {
        let now = Instant::now();
        let user = |messages| rule(Scope::User, "u", messages, OnLimit::Reject);
        let group = rule(Scope::Group, "db", 10, OnLimit::Pause);
        let flow = Flow::new(vec![user(1)], vec![group.clone()]);
        let of = |flow: &Flow| flow.throttle(now, subject("a", Some("u")), None).expect("a rule holds");
        let pace = |flow: &Flow| flow.group_pace(now, "db").expect("a rule holds");
        assert!(matches!(of(&flow).take(now, 1), Verdict::Pass));
        pace(&flow).take(now, 1);
        let more = flow.with(vec![user(1), rule(Scope::Listener, "*", 100, OnLimit::Pause)], vec![group]);
        assert!(matches!(of(&more).take(now, 1), Verdict::Reject));
        assert!(!pace(&more).is_open(now));
        let other = flow.with(vec![user(2)], Vec::new());
        assert!(matches!(of(&other).take(now, 1), Verdict::Pass), "another rate has a bucket of its own");
        assert!(matches!(of(&other).take(now, 1), Verdict::Reject));
    }

    #[test]
    fn buckets_that_nobody_needs_do_not_gather() {
        let now = Instant::now();
        let flow = Flow::new(vec![rule(Scope::User, "*", 1000, OnLimit::Pause)], Vec::new());
        let kept = flow.throttle(now, subject("a", Some("kept")), None);
        for user in 0..100_000 {
            flow.throttle(now, subject("a", Some(&user.to_string())), None);
        }
        assert!(flow.shared.lock().expect("not poisoned").buckets.len() <= 2 * PURGE);
        let mut again = flow.throttle(now, subject("b", Some("kept")), None).expect("a rule holds");
        assert!(matches!(again.take(now, 1), Verdict::Pass));
        assert!(matches!(kept.expect("a rule holds").take(now, 1), Verdict::Wait(_)), "it is the same");
    }

    #[test]
    fn one_who_waits_waits_until_woken() {
        let now = Instant::now();
        let flow = Flow::new(Vec::new(), vec![rule(Scope::Group, "db", 10, OnLimit::Pause)]);
        let mut pace = flow.group_pace(now, "db").expect("a rule holds");
        assert!(pace.is_open(now) && pace.unlisted().is_none());
        pace.take(now, 1);
        assert!(!pace.is_open(now));
        let at = pace.unlisted().expect("waits").wake_at();
        assert!(!pace.is_open(at), "not before it is woken");
        pace.listed = true;
        assert!(pace.unlisted().is_none());
        pace.wake();
        assert!(pace.is_open(at));
    }
}
