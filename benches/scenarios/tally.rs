//! Who got what: every delivery is checked against what was sent, so that a broker cannot win by losing.

use std::collections::HashSet;

use super::scenario::Layout;
use super::wire::Stamp;

/// What has been sent and what has come of it.
pub struct Tally {
    layout: Layout,
    /// Of each topic: the number of the next message.
    sent: Vec<u64>,
    /// Of each flow: the number of the next message.
    expected: Vec<u64>,
    /// Of each publisher.
    pub published: Vec<u64>,
    /// Deliveries of each publisher's messages.
    delivered: Vec<u64>,
    /// (flow, number) of what was overtaken, and may come yet.
    missing: HashSet<(usize, u64)>,
    pub received: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Messages to a subscriber that should not have got them.
    pub misrouted: u64,
    pub acknowledged: u64,
}

impl Tally {
    pub fn new(layout: Layout) -> Tally {
        Tally {
            layout,
            sent: vec![0; layout.topics()],
            expected: vec![0; layout.flows()],
            published: vec![0; layout.publishers()],
            delivered: vec![0; layout.publishers()],
            missing: HashSet::new(),
            received: 0,
            duplicated: 0,
            reordered: 0,
            misrouted: 0,
            acknowledged: 0,
        }
    }

    /// The number of a topic's next message, which is sent now.
    pub fn send(&mut self, publisher: usize, topic: usize) -> u64 {
        self.published[publisher] += 1;
        let sequence = self.sent[topic];
        self.sent[topic] += 1;
        sequence
    }

    /// How many of a publisher's messages have not reached everybody yet.
    pub fn outstanding(&self, publisher: usize) -> u64 {
        let done = self.delivered[publisher] / self.layout.takers() as u64;
        self.published[publisher].saturating_sub(done)
    }

    /// What has not come by now does not come: the publishers go on.
    pub fn write_off(&mut self) {
        for (delivered, published) in self.delivered.iter_mut().zip(&self.published) {
            *delivered = published * self.layout.takers() as u64;
        }
    }

    pub fn receive(&mut self, subscriber: usize, stamp: Stamp) {
        let topic = stamp.topic as usize;
        let Some(flow) = self.layout.flow(subscriber, topic).filter(|_| topic < self.sent.len()) else {
            self.misrouted += 1;
            return;
        };
        self.received += 1;
        self.delivered[self.layout.publisher(topic)] += 1;
        let expected = &mut self.expected[flow];
        if stamp.sequence == *expected {
            *expected += 1;
        } else if stamp.sequence > *expected {
            self.missing.extend((*expected..stamp.sequence).map(|sequence| (flow, sequence)));
            *expected = stamp.sequence + 1;
        } else if self.missing.remove(&(flow, stamp.sequence)) {
            self.reordered += 1;
        } else {
            self.duplicated += 1;
        }
    }

    pub fn sent(&self) -> u64 {
        self.published.iter().sum()
    }

    /// Deliveries that there should have been and that were not.
    pub fn lost(&self) -> u64 {
        self.sent() * self.layout.takers() as u64 + self.duplicated - self.received
    }
}
