//! Finding who takes a topic's messages.

use std::hint::black_box;

use weirmq::broker::interest::Interest;
use weirmq::broker::subscriptions::{Subscription, Subscriptions};
use weirmq::message::PeerId;
use weirmq::protocol::packet::QoS;

use crate::{Case, Work, traffic};

/// How many topics a call looks up.
const TOPICS: usize = 256;

/// Makes the topics before they are looked up.
struct Lookups<T, F> {
    topics: Box<dyn Iterator<Item = String>>,
    next: Vec<String>,
    table: T,
    look_up: F,
}

impl<T, F: FnMut(&mut T, &str)> Work for Lookups<T, F> {
    fn prepare(&mut self) {
        self.next.clear();
        self.next.extend(self.topics.by_ref().take(TOPICS));
    }

    fn call(&mut self) {
        self.next.iter().for_each(|topic| (self.look_up)(&mut self.table, topic));
    }
}

fn lookups<T: 'static>(
    topics: impl Iterator<Item = String> + 'static,
    table: T,
    look_up: impl FnMut(&mut T, &str) + 'static,
) -> Case {
    let work = Lookups { topics: Box::new(topics), next: Vec::new(), table, look_up };
    Case { unit: "topic", per_call: TOPICS, work: Box::new(work) }
}

/// What the publisher's shard does: which shards have takers?
pub fn route() -> Case {
    let mut interest = Interest::new();
    for (index, filter) in traffic::filters().enumerate() {
        interest.add_peer(&filter, PeerId((index % 2) as u16));
    }
    lookups(traffic::topics(), interest, |interest, topic| {
        black_box(interest.route(topic, None));
    })
}

/// The same where nobody does, beside 1,200 filters.
pub fn miss() -> Case {
    miss_beside(400)
}

/// The same beside 120,000: it takes no more, for what does not match is not looked at.
pub fn miss_among_many() -> Case {
    miss_beside(40_000)
}

fn miss_beside(devices: usize) -> Case {
    let mut interest = Interest::new();
    for filter in traffic::elsewhere(devices) {
        interest.add_peer(&filter, PeerId(0));
    }
    lookups(traffic::strangers(devices), interest, |interest, topic| {
        assert!(interest.route(topic, None).is_empty());
    })
}

/// What each of those does: which sessions are they?
pub fn matching() -> Case {
    let mut subscriptions = Subscriptions::new();
    for (index, filter) in traffic::filters().enumerate() {
        subscriptions.insert(&filter, subscription(index as u32 % 1000));
    }
    lookups(traffic::topics(), subscriptions, |subscriptions, topic| {
        black_box(subscriptions.matching(topic, None));
    })
}

/// The same where the answer is known from last time.
pub fn known() -> Case {
    let mut subscriptions = Subscriptions::new();
    for session in 0..1000 {
        subscriptions.insert("fan/prices", subscription(session));
    }
    lookups(std::iter::repeat("fan/prices".to_owned()), subscriptions, |subscriptions, topic| {
        black_box(subscriptions.matching(topic, None));
    })
}

fn subscription(session: u32) -> Subscription {
    let (no_local, retain_as_published, identifier, since) = (false, false, 0, 0);
    Subscription { session, qos: QoS::AtMostOnce, no_local, retain_as_published, identifier, since }
}
