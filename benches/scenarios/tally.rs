//! Who got what: every delivery is checked against what was sent, so that a broker cannot win by losing.

use std::collections::HashMap;
use std::ops::Range;

use super::scenario::Layout;
use super::wire::{Publish, Stamp};

/// What has been sent and what has come of it.
pub struct Tally {
    layout: Layout,
    /// Bytes of every payload.
    payload: usize,
    topics: Vec<String>,
    /// Of each topic: the number of the next message.
    sent: Vec<u32>,
    /// Of each flow: the number of the next message.
    expected: Vec<u32>,
    /// Of each publisher.
    pub published: Vec<u64>,
    /// Deliveries of each publisher's messages.
    delivered: Vec<u64>,
    /// Of each flow: the numbers that were passed over, and may come yet.
    missing: HashMap<usize, Vec<Range<u32>>>,
    pub received: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Messages to a subscriber that should not have got them, or not as they were sent.
    pub wrong: u64,
    pub acknowledged: u64,
}

impl Tally {
    pub fn new(layout: Layout, payload: usize) -> Tally {
        Tally {
            layout,
            payload,
            topics: (0..layout.topics()).map(|topic| layout.topic(topic)).collect(),
            sent: vec![0; layout.topics()],
            expected: vec![0; layout.flows()],
            published: vec![0; layout.publishers()],
            delivered: vec![0; layout.publishers()],
            missing: HashMap::new(),
            received: 0,
            duplicated: 0,
            reordered: 0,
            wrong: 0,
            acknowledged: 0,
        }
    }

    /// The number of a topic's next message, which is sent now.
    pub fn send(&mut self, publisher: usize, topic: usize) -> u32 {
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

    /// Takes note of a message; when it was sent, if it is one that this subscriber should get.
    pub fn receive(&mut self, subscriber: usize, message: &Publish<'_>) -> Option<u64> {
        let Some((flow, stamp)) = self.place(subscriber, message) else {
            self.wrong += 1;
            return None;
        };
        let topic = stamp.topic as usize;
        self.received += 1;
        self.delivered[self.layout.publisher(topic)] += 1;
        let expected = &mut self.expected[flow];
        if stamp.sequence == *expected {
            *expected += 1;
        } else if stamp.sequence > *expected {
            self.missing.entry(flow).or_default().push(*expected..stamp.sequence);
            *expected = stamp.sequence + 1;
        } else if self.was_missing(flow, stamp.sequence) {
            self.reordered += 1;
        } else {
            self.duplicated += 1;
        }
        Some(stamp.sent_at)
    }

    /// Which flow a message belongs to, if it is one that was sent, whole, and meant for this subscriber.
    fn place(&self, subscriber: usize, message: &Publish<'_>) -> Option<(usize, Stamp)> {
        let stamp = message.stamp().filter(|_| message.payload.len() == self.payload)?;
        let topic = stamp.topic as usize;
        let named = self.topics.get(topic).is_some_and(|name| name.as_bytes() == message.topic);
        let sent = named && stamp.sequence < self.sent[topic];
        let flow = sent.then(|| self.layout.flow(subscriber, topic)).flatten()?;
        Some((flow, stamp))
    }

    /// Whether this one was passed over; it has come now.
    fn was_missing(&mut self, flow: usize, sequence: u32) -> bool {
        let Some(gaps) = self.missing.get_mut(&flow) else { return false };
        let Some(at) = gaps.iter().position(|gap| gap.contains(&sequence)) else { return false };
        let gap = gaps.swap_remove(at);
        let parts = [gap.start..sequence, sequence + 1..gap.end];
        gaps.extend(parts.into_iter().filter(|part| !part.is_empty()));
        true
    }

    pub fn sent(&self) -> u64 {
        self.published.iter().sum()
    }

    /// Deliveries that there should have been and that were not.
    pub fn lost(&self) -> u64 {
        self.sent() * self.layout.takers() as u64 + self.duplicated - self.received
    }
}
