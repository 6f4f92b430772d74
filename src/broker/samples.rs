//! Random topics, filters and messages for the tests of this room, from few levels, so that they meet often.

use std::sync::Arc;

use crate::message::{Message, MessageId, MessageParts};
use crate::protocol::packet::QoS;

/// A generator and its seed, which every failing test prints.
pub(super) struct Samples {
    pub(super) seed: u64,
    pub(super) random: fastrand::Rng,
}

const NAMES: [&str; 8] = [
    "a",
    "b",
    "",
    "a\u{1}",
    "$a",
    "é",
    "longer than a node keeps",
    "longer than a node keeps, and longer than one box",
];

impl Samples {
    pub(super) fn new() -> Samples {
        let seed = fastrand::u64(..);
        Samples { seed, random: fastrand::Rng::with_seed(seed) }
    }

    pub(super) fn qos(&mut self) -> QoS {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.random.usize(..3)]
    }

    pub(super) fn topic(&mut self) -> String {
        loop {
            let levels: Vec<&str> = (0..self.random.usize(1..5)).map(|_| self.name()).collect();
            let topic = levels.join("/");
            if !topic.is_empty() {
                return topic;
            }
        }
    }

    pub(super) fn filter(&mut self) -> String {
        let topic = self.topic();
        let mut levels: Vec<&str> = topic.split('/').collect();
        for level in &mut levels {
            if self.random.u8(..3) == 0 {
                *level = "+";
            }
        }
        if self.random.u8(..3) == 0 {
            let keep = self.random.usize(..=levels.len());
            levels.truncate(keep);
            levels.push("#");
        }
        let filter = levels.join("/");
        assert!(crate::protocol::topic::is_valid_filter(&filter), "seed {}: {filter}", self.seed);
        filter
    }

    fn name(&mut self) -> &'static str {
        // Mostly the first three, so that paths are shared.
        if self.random.u8(..4) == 0 {
            NAMES[self.random.usize(..NAMES.len())]
        } else {
            NAMES[self.random.usize(..3)]
        }
    }
}

/// A retained message.
pub(super) fn retained(topic: &str, version: u64, payload: &[u8]) -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        id: MessageId(version),
        publisher: None,
        qos: QoS::AtLeastOnce,
        retain: true,
        expires: None,
        version,
        topic,
        properties: b"",
        payload,
    }))
}
