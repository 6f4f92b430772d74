//! What the model remembers: every message, every session as its client knows it, and what each saw of what. It judges
//! each delivery when it is seen, and at the end what is missing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weirmq::message::QueueId;
use weirmq::protocol::packet::{Publish, QoS, SubscribeOptions};
use weirmq::protocol::properties::Property;
use weirmq::protocol::topic;

use super::reading::brief;

/// A moment: counts everything that a client or the broker does.
pub type Tick = u64;

/// A message that a client published, or left as its will.
pub struct Message {
    pub publisher: usize,
    /// The session of the publisher.
    pub session: usize,
    pub topic: String,
    pub qos: QoS,
    pub retain: bool,
    pub len: usize,
    /// Its Message Expiry Interval, in seconds, and when that will have passed since it was taken first and last.
    pub expiry: Option<u32>,
    pub expires: Option<Instant>,
    pub last_expires: Option<Instant>,
    /// It carries a User Property.
    pub marked: bool,
    pub will: Option<WillFate>,
    /// A crash has undone its publishing, but not that it was seen.
    pub leaked: bool,
    /// When the broker took it, once or, for a QoS 1 message sent again, several times.
    pub taken: Vec<Tick>,
    /// When the broker took it again at QoS 2: then, if it had refused it before and the answer was lost.
    pub perhaps: Vec<Tick>,
    /// When the broker took it again at QoS 2 after a crash: then, if the record of it was lost.
    pub retaken: Vec<Tick>,
    /// It may have waited from when it was taken until it was acknowledged: then this is when that was, or never.
    pub parked: Option<Tick>,
    /// When it was taken there was a record of it; one that only a share group had in memory may get one later.
    pub recorded: bool,
    pub acknowledged: bool,
    pub refused: bool,
    /// By share group: who has seen it there.
    pub groups: BTreeMap<usize, GroupFate>,
}

/// What became of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WillFate {
    /// Its client is connected, or its delay has not passed.
    Waiting,
    /// A crash came, and nobody can know.
    Perhaps,
    /// It must never be seen.
    Cancelled,
    /// It was published between these moments.
    Published(Tick, Tick),
}

/// What became of a message in a share group.
#[derive(Default)]
pub struct GroupFate {
    /// A member acknowledged it.
    pub done: bool,
    /// Seen without DUP.
    first_seen: usize,
    /// Sessions that have seen it at QoS 2, and how often, refusals not counted.
    seen_exactly: BTreeMap<usize, usize>,
}

/// What a session holds of a filter, as far as its client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Between the packet and its answer.
    Unsure,
    Held(SubscribeOptions, u32),
    Gone,
}

/// A session as its client knows it.
pub struct Session {
    pub client: usize,
    pub persistent: bool,
    /// Its queue, if it is persistent.
    pub queue: Option<QueueId>,
    /// Its client has read a CONNACK of it.
    pub told: bool,
    /// Its client has read a CONNACK of a session after it: it cannot come back.
    pub buried: bool,
    pub alive: bool,
    pub connections: u32,
    /// Some connection of it took small packets only.
    pub limited: bool,
    pub group: Option<usize>,
    /// When it last unsubscribed from its group.
    pub left: Tick,
    /// When it ended.
    pub ended: Tick,
    pub terms: BTreeMap<String, Vec<(Tick, Term)>>,
    /// When it last subscribed to something more: the values that are replayed to it then may overtake older ones that
    /// are under way to a subscription that it had before.
    pub resubscribed: Tick,
    /// The latest that came as a retained message, by topic.
    pub retained: BTreeMap<String, usize>,
    seen: BTreeMap<usize, Seen>,
    /// The latest that it has seen, by publisher, topic and QoS; of what may be retained, since each start of the broker.
    newest: BTreeMap<(usize, String, QoS, usize), Tick>,
}

#[derive(Default)]
struct Seen {
    /// Live, and not as a repeat.
    first: usize,
    /// As a retained message of a new subscription.
    replayed: usize,
    /// Either, at QoS 2.
    exactly: usize,
    /// Since which start of the broker it was last seen.
    boot: Option<usize>,
}

/// A PUBLISH that a client has read.
pub struct Sighting<'a> {
    pub session: usize,
    pub message: usize,
    pub publish: &'a Publish<'a>,
    /// The topic, its alias resolved.
    pub topic: &'a str,
    /// When the connection was made that it came over, and to which start of the broker.
    pub connected: Instant,
    pub boot: usize,
}

/// All of it.
#[derive(Default)]
pub struct Ledger {
    pub messages: Vec<Message>,
    pub sessions: Vec<Session>,
    /// Publishers may be refused, so that of a message that was taken several times nobody knows which one counted.
    pub rejects: bool,
    /// The disk may be full: then what is published at QoS 0 is not retained, and nobody is told.
    pub may_be_full: bool,
    /// Share groups that had a member at QoS 0.
    pub lossy: Vec<usize>,
    /// When the broker crashed.
    pub crashes: Vec<Tick>,
    /// How far the wall clock was set back: so much time, at most, has not passed for what expires.
    pub set_back: Duration,
}

/// A message that a session is owed and has not seen.
pub struct Missing {
    /// The session is persistent.
    pub persistent: bool,
    /// The message is a will.
    pub will: bool,
    pub what: String,
}

/// A message as it must be delivered.
struct Expected {
    qos: QoS,
    identifiers: Vec<u32>,
}

impl Session {
    pub fn new(client: usize, queue: Option<QueueId>, limited: bool, group: Option<usize>) -> Session {
        Session {
            client,
            persistent: queue.is_some(),
            queue,
            told: false,
            buried: false,
            alive: true,
            connections: 1,
            limited,
            group,
            left: 0,
            ended: 0,
            terms: BTreeMap::new(),
            resubscribed: 0,
            retained: BTreeMap::new(),
            seen: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }

    pub fn set_term(&mut self, filter: &str, at: Tick, term: Term) {
        self.terms.entry(filter.to_owned()).or_default().push((at, term));
    }

    /// What the session holds of a filter now.
    pub fn term(&self, filter: &str) -> Term {
        self.terms.get(filter).and_then(|terms| terms.last()).map_or(Term::Gone, |(_, term)| *term)
    }

    /// What it held at a moment, and whether that has not changed since.
    fn term_at(terms: &[(Tick, Term)], at: Tick) -> (Term, bool) {
        let index = terms.partition_point(|(since, _)| *since < at);
        let term = index.checked_sub(1).map_or(Term::Gone, |index| terms[index].1);
        (term, index == terms.len())
    }

    fn matching(&self, topic: &str) -> impl Iterator<Item = (&String, &Vec<(Tick, Term)>)> {
        self.terms.iter().filter(move |(filter, _)| topic::matches(plain(filter), topic))
    }

    /// At which QoS the session is certainly owed a message that was taken between `from` and `to`.
    fn owed(&self, message: &Message, own: bool, from: Tick, to: Tick) -> Option<QoS> {
        let mut owed = None;
        for (filter, terms) in self.matching(&message.topic) {
            let (before, unchanged) = Session::term_at(terms, from);
            let (after, _) = Session::term_at(terms, to);
            let Term::Held(options, _) = before else { continue };
            let lasts = self.persistent || unchanged;
            if before != after || !lasts || filter.starts_with("$share") || (own && options.no_local) {
                continue;
            }
            owed = owed.max(Some(options.qos.min(message.qos)));
        }
        owed
    }

    /// How a message to a topic that is never retained must arrive, if the client can know: no matching subscription
    /// was under change when it was taken, or later.
    fn expected(&self, message: &Message, own: bool) -> Option<Option<Expected>> {
        let ([taken], None) = (&message.taken[..], message.parked) else { return None };
        if message.times() > 1 {
            return None;
        }
        let mut expected: Option<Expected> = None;
        for (_, terms) in self.matching(&message.topic) {
            match Session::term_at(terms, *taken) {
                (Term::Unsure, _) | (_, false) => return None,
                (Term::Held(options, identifier), true) if !(own && options.no_local) => {
                    let expected =
                        expected.get_or_insert(Expected { qos: QoS::AtMostOnce, identifiers: vec![] });
                    expected.qos = expected.qos.max(options.qos.min(message.qos));
                    expected.identifiers.extend((identifier != 0).then_some(identifier));
                }
                _ => {}
            }
        }
        Some(expected)
    }
}

/// A filter without `$share/GROUP/`.
pub fn plain(filter: &str) -> &str {
    filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(filter, |(_, plain)| plain)
}

impl Ledger {
    /// Judges a PUBLISH that a client has read and that is new to it: no repeat of an unfinished QoS 2 exchange.
    pub fn see(&mut self, sighting: &Sighting<'_>) {
        let Sighting { session: number, message: index, publish, topic, .. } = *sighting;
        let message = &self.messages[index];
        let what = format!("seen by session {number}: {}", brief(publish));
        assert_eq!(topic, message.topic, "another topic: {}", what);
        assert_eq!(publish.payload.len(), message.len, "another payload: {}", what);
        assert!(publish.qos <= message.qos, "a higher QoS than it was published at: {}", what);
        assert!(
            !message.refused || message.times() > 1,
            "delivered though its publisher was refused: {}",
            what
        );
        assert_ne!(message.will, Some(WillFate::Cancelled), "a will that was cancelled: {}", what);
        self.check_properties(message, publish, sighting.connected, &what);
        let session = &self.sessions[number];
        assert!(session.matching(topic).next().is_some(), "no subscription ever matched: {}", what);
        assert!(
            !publish.dup || session.connections > 1 || session.group.is_some(),
            "DUP on the first connection: {}",
            what
        );
        let class = topic.split('/').next().unwrap_or_default();
        if session.group.is_some() && class == "s" {
            return self.see_in_group(sighting, &what);
        }
        if publish.retain {
            self.sessions[number].retained.insert(topic.to_owned(), index);
        }
        self.see_once(sighting, class == "r", &what);
        self.see_in_order(sighting, class == "r", &what);
        if class == "l" {
            self.see_as_expected(sighting, &what);
        }
    }

    fn check_properties(&self, message: &Message, publish: &Publish<'_>, connected: Instant, what: &str) {
        let mut marked = None;
        for property in publish.properties.iter() {
            match property {
                Property::UserProperty(_, value) => marked = Some(value.len()),
                Property::MessageExpiryInterval(seconds) => {
                    let expires = message.last_expires.expect("an expiry that nobody asked for");
                    let most = (expires + self.set_back).saturating_duration_since(connected).as_secs() + 1;
                    assert!(u64::from(seconds) <= most, "{seconds} s, but at most {most} are left: {what}");
                    // One at QoS 2 that is bound to a packet id waits for the disk before it leaves.
                    let started = publish.dup || publish.qos == QoS::ExactlyOnce;
                    assert!(seconds > 0 || started, "sent for the first time when it had expired: {what}");
                }
                Property::SubscriptionIdentifier(_) | Property::TopicAlias(_) => {}
                other => panic!("{other:?} is not of the publisher's: {what}"),
            }
        }
        assert!(marked.is_none() || message.marked, "a User Property that nobody set: {what}");
    }

    /// QoS 2 exactly once; below that, a repeat says DUP.
    fn see_once(&mut self, sighting: &Sighting<'_>, retained: bool, what: &str) {
        let Sighting { session, message: index, publish, .. } = *sighting;
        let message = &self.messages[index];
        // That it was seen below QoS 2 is not stored: after a crash it may be sent again as if for the first time.
        let (times, once) = (message.times() * (1 + self.crashes_since(message)), message.times_certain());
        let seen = self.sessions[session].seen.entry(index).or_default();
        let exactly = publish.qos == QoS::ExactlyOnce;
        let replayed = publish.retain && (retained || message.will.is_some());
        seen.exactly += usize::from(exactly);
        if replayed {
            seen.replayed += usize::from(exactly || !publish.dup);
        } else if exactly || !publish.dup {
            seen.first += 1;
            assert!(seen.first <= times, "seen {} times, published {times} times: {what}", seen.first);
            let exactly = seen.exactly.saturating_sub(seen.replayed);
            assert!(exactly <= once, "seen {exactly} times at QoS 2, published {once} times: {what}");
        }
        let (all, exactly) = (seen.first + seen.replayed, seen.exactly);
        let session = &self.sessions[session];
        // With one subscription, a value comes either live or by its replay.
        if retained && session.resubscribed == 0 && session.matching(&message.topic).count() == 1 {
            assert!(all <= times && exactly <= once, "live and by replay: {what}");
        }
    }

    /// How often the broker crashed since it took a message.
    fn crashes_since(&self, message: &Message) -> usize {
        let taken = message.taken.first().copied().unwrap_or_default();
        self.crashes.iter().filter(|crash| **crash > taken).count()
    }

    /// Per publisher and topic, never an older one after a newer one. At QoS 0 this holds apart from the others; and what
    /// was sent at QoS 2 before a crash comes again before what was at QoS 1, of which the broker cannot know.
    fn see_in_order(&mut self, sighting: &Sighting<'_>, retained: bool, what: &str) {
        let Sighting { session, message: index, publish, boot, .. } = *sighting;
        let message = &self.messages[index];
        let crashed = self.crashes_since(message) > 0;
        let session = &mut self.sessions[session];
        let seen = session.seen.entry(index).or_default();
        let before = seen.boot.replace(boot);
        let again = before.is_some_and(|before| before < boot);
        let repeat = before.is_some() && (publish.dup || !retained || again);
        let Some(first) = message.taken.first() else { return };
        let last =
            message.taken.iter().chain(&message.perhaps).chain(&message.retaken).max().unwrap_or(first);
        if repeat || (retained && *last < session.resubscribed) {
            return;
        }
        // A retained value that nobody was told of may step back with a crash.
        let since = if message.topic.starts_with(['r', 'w']) { boot } else { 0 };
        let key = |qos| (message.publisher, message.topic.clone(), qos, since);
        let other = match publish.qos {
            QoS::AtLeastOnce if !crashed => QoS::ExactlyOnce,
            QoS::ExactlyOnce if !crashed => QoS::AtLeastOnce,
            same => same,
        };
        let newest = |qos| session.newest.get(&key(qos)).copied().unwrap_or_default();
        let newest = newest(publish.qos).max(newest(other));
        assert!(*last >= newest, "an older message after a newer one of its publisher: {what}");
        let newest = session.newest.entry(key(publish.qos)).or_default();
        *newest = (*newest).max(*first);
    }

    /// The QoS and the identifiers that its subscriptions ask for.
    fn see_as_expected(&mut self, sighting: &Sighting<'_>, what: &str) {
        let message = &self.messages[sighting.message];
        let session = &self.sessions[sighting.session];
        let own = message.session == sighting.session;
        let Some(expected) = session.expected(message, own) else { return };
        let expected = expected.unwrap_or_else(|| panic!("no subscription matches: {what}"));
        let publish = sighting.publish;
        assert_eq!(publish.qos, expected.qos, "another QoS than granted: {what}");
        assert!(!publish.retain, "RETAIN on a message that was not: {what}");
        let mut identifiers: Vec<u32> = publish
            .properties
            .iter()
            .filter_map(|property| match property {
                Property::SubscriptionIdentifier(identifier) => Some(identifier),
                _ => None,
            })
            .collect();
        identifiers.sort_unstable();
        let mut wanted = expected.identifiers;
        wanted.sort_unstable();
        assert_eq!(identifiers, wanted, "other Subscription Identifiers: {what}");
    }

    fn see_in_group(&mut self, sighting: &Sighting<'_>, what: &str) {
        let publish = sighting.publish;
        let group = self.sessions[sighting.session].group.expect("asked before");
        let crashes = self.crashes_since(&self.messages[sighting.message]);
        let message = &mut self.messages[sighting.message];
        let (times, once) = (message.times() * (1 + crashes), message.times_certain());
        let fate = message.groups.entry(group).or_default();
        // At QoS 0 nothing can say that it is a repeat.
        fate.first_seen += usize::from(!publish.dup && publish.qos > QoS::AtMostOnce);
        assert!(fate.first_seen <= times, "given {} times without DUP: {what}", fate.first_seen);
        if publish.qos == QoS::ExactlyOnce {
            *fate.seen_exactly.entry(sighting.session).or_default() += 1;
            let given = fate.seen_exactly.values().map(|seen| 1.max(*seen)).sum::<usize>();
            assert!(given <= once, "given {given} times at QoS 2: {what}");
        }
        fate.done |= publish.qos == QoS::AtMostOnce;
    }

    /// A client has refused a message at QoS 2: if its PUBREC is lost, it will see it again.
    pub fn refuse(&mut self, session: usize, message: usize) {
        if let Some(seen) = self.sessions[session].seen.get_mut(&message) {
            seen.exactly = seen.exactly.saturating_sub(1);
            if seen.first > 0 {
                seen.first -= 1;
            } else {
                seen.replayed = seen.replayed.saturating_sub(1);
            }
        }
        let fates =
            self.messages.get_mut(message).into_iter().flat_map(|message| message.groups.values_mut());
        if let Some(seen) = fates.filter_map(|fate| fate.seen_exactly.get_mut(&session)).next() {
            *seen = seen.saturating_sub(1);
        }
    }

    /// A member of the group has acknowledged a message.
    pub fn done_in_group(&mut self, session: usize, message: usize) {
        if let Some(group) = self.sessions[session].group
            && let Some(message) = self.messages.get_mut(message)
        {
            message.groups.entry(group).or_default().done = true;
        }
    }

    /// Every message that a living session is owed and has not seen.
    pub fn missing(&self, now: Instant) -> Vec<Missing> {
        let mut missing = Vec::new();
        for (number, session) in self.sessions.iter().enumerate().filter(|(_, session)| session.alive) {
            for (index, message) in self.messages.iter().enumerate() {
                let exempt = !message.is_owed(now) || (session.limited && message.is_large());
                if exempt || session.seen.contains_key(&index) {
                    continue;
                }
                let Some((from, to)) = self.window(message) else { continue };
                let owed = session.owed(message, message.session == number, from, to);
                if owed.is_some_and(|qos| qos > QoS::AtMostOnce) {
                    let Message { topic, taken, will, .. } = message;
                    let what = format!(
                        "message {index} to {topic:?} (taken {taken:?}, will {will:?}) by session {number} of client {}",
                        session.client
                    );
                    missing.push(Missing { persistent: session.persistent, will: will.is_some(), what });
                }
            }
        }
        missing
    }

    /// Every message that a share group took and nobody there has acknowledged. The group of a persistent member must not
    /// lose it; one in memory may have had no room.
    pub fn missing_in_groups(&self, now: Instant) -> Vec<Missing> {
        let mut missing: BTreeMap<_, Missing> = BTreeMap::new();
        for (number, session) in self.sessions.iter().enumerate() {
            let (true, Some(group)) = (session.alive, session.group) else { continue };
            if self.lossy.contains(&group) {
                continue;
            }
            let members = || self.sessions.iter().filter(|session| session.group == Some(group));
            let unsubscribed = members().map(|session| session.left).max().unwrap_or_default();
            let ended = members().map(|session| session.ended).max().unwrap_or_default();
            for (index, message) in self.messages.iter().enumerate() {
                let Some((taken, _)) = self.window(message) else { continue };
                // It may have been sent to a member that then left: it stays with that member's session.
                let may_stay = taken < unsubscribed || (message.qos == QoS::ExactlyOnce && taken < ended);
                if !message.is_owed(now) || may_stay || !message.topic.starts_with("s/") {
                    continue;
                }
                let mut shared = session.terms.iter().filter(|(filter, _)| filter.starts_with("$share/"));
                let member =
                    shared.any(|(_, terms)| matches!(Session::term_at(terms, taken), (Term::Held(..), true)));
                if member && !message.groups.get(&group).is_some_and(|fate| fate.done) {
                    let what = format!(
                        "message {index} to {:?} (taken {taken}) in group {group}, of which session {number} is a member",
                        message.topic
                    );
                    let will = message.will.is_some();
                    let entry = missing.entry((group, index));
                    let entry = entry.or_insert(Missing { persistent: false, will, what });
                    entry.persistent |= session.persistent;
                }
            }
        }
        missing.into_values().collect()
    }

    /// When a message was taken, at the earliest and the latest, if that is certain.
    fn window(&self, message: &Message) -> Option<(Tick, Tick)> {
        match message.will {
            Some(WillFate::Published(from, to)) => Some((from, to)),
            Some(_) => None,
            None if self.rejects && message.times() > 1 => None,
            None => {
                let first = *message.taken.first()?;
                // A crash may have lost the first.
                let last = message.taken.iter().chain(&message.retaken).copied().max().unwrap_or(first);
                let crashed = self.crashes.iter().any(|crash| (first..last).contains(crash));
                Some((first, message.parked.unwrap_or(if crashed { last } else { first })))
            }
        }
    }

    /// The values of which one must be retained for a topic, if not none; an empty one stands for nothing.
    pub fn retained(&self, topic: &str) -> Vec<Option<usize>> {
        let mut takes: Vec<(Tick, usize, bool)> = Vec::new();
        for (index, message) in self.messages.iter().enumerate() {
            if message.topic == topic && message.retain && !(message.refused && message.times() == 1) {
                takes.extend(message.taken.iter().map(|taken| (*taken, index, true)));
                takes.extend(
                    message
                        .perhaps
                        .iter()
                        .chain(&message.retaken)
                        .chain(&message.parked)
                        .map(|taken| (*taken, index, false)),
                );
            }
        }
        takes.sort_unstable();
        let mut possible = Vec::new();
        // One that may have been parked, of which nobody was told, may have gone with its connection.
        let mut held = false;
        let crashed = self.crashes.last().copied().unwrap_or_default();
        for (taken, index, certain) in takes.into_iter().rev() {
            let message = &self.messages[index];
            possible.push(Some(index).filter(|_| message.len > 0));
            // And one whose refusal nobody has read left nothing.
            let refused = self.rejects && message.qos > QoS::AtMostOnce;
            held |= message.acknowledged || (message.parked.is_none() && !refused);
            let certain = certain && (message.qos > QoS::AtMostOnce || message.parked.is_none());
            // What nobody was told of may have gone with a crash.
            let kept = message.qos == QoS::AtMostOnce && taken > crashed && !self.may_be_full;
            if certain && (message.acknowledged || kept) {
                return possible;
            }
        }
        if !held || crashed > 0 || self.may_be_full {
            possible.push(None);
        }
        possible
    }

    /// A client has read a CONNACK.
    pub fn told(&mut self, session: usize) {
        let client = self.sessions[session].client;
        self.sessions[session].told = true;
        for earlier in self.sessions[..session].iter_mut().filter(|earlier| earlier.client == client) {
            earlier.buried = true;
        }
    }
}

impl Message {
    /// Whether those who subscribed are owed it: the broker said that it has it, and it is still good.
    fn is_owed(&self, now: Instant) -> bool {
        let promised = self.acknowledged || matches!(self.will, Some(WillFate::Published(..)));
        promised && !self.refused && self.len > 0 && self.expires.is_none_or(|at| at > now)
    }

    /// How often it may have been published.
    fn times(&self) -> usize {
        (self.taken.len() + self.perhaps.len() + self.retaken.len()).max(1)
    }

    /// How often it may have been published, as far as a subscriber at QoS 2 can see.
    fn times_certain(&self) -> usize {
        (self.taken.len() + self.perhaps.len()).max(1)
    }

    /// Whether it is over what some clients accept.
    pub fn is_large(&self) -> bool {
        self.len >= LARGE
    }
}

/// Payloads from here on are over what a client with a small Maximum Packet Size takes.
pub const LARGE: usize = 300;
