//! The Will: the message that a client leaves with the server, and when it is due.

use std::time::{Duration, Instant};

use crate::message::{MessageId, MessageParts, Publisher};
use crate::protocol::packet::{LastWill, QoS};
use crate::protocol::properties::{Property, encode_property};

/// A stored Will.
#[derive(Debug)]
pub struct Will {
    qos: QoS,
    retain: bool,
    topic: Box<str>,
    payload: Box<[u8]>,
    /// Validated properties to forward, the delay and the expiry taken out.
    properties: Box<[u8]>,
    expiry: Option<u32>,
    /// Will Delay Interval in seconds.
    pub delay: u32,
}

impl Will {
    /// Keeps the Will of a CONNECT.
    pub fn new(will: &LastWill<'_>) -> Will {
        let (mut delay, mut expiry, mut kept) = (0, None, Vec::new());
        for property in will.properties.iter() {
            match property {
                Property::WillDelayInterval(seconds) => delay = seconds,
                Property::MessageExpiryInterval(seconds) => expiry = Some(seconds),
                other => encode_property(other, &mut kept),
            }
        }
        Will {
            qos: will.qos,
            retain: will.retain,
            topic: will.topic.into(),
            payload: will.payload.into(),
            properties: kept.into(),
            expiry,
            delay,
        }
    }

    /// The topic it will be published to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The message to publish, now that it is due.
    pub fn parts(&self, now: Instant, publisher: Publisher) -> MessageParts<'_> {
        MessageParts {
            id: MessageId(0),
            version: 0,
            publisher: Some(publisher),
            qos: self.qos,
            retain: self.retain,
            expires: self.expiry.map(|seconds| now + Duration::from_secs(seconds.into())),
            topic: &self.topic,
            properties: &self.properties,
            payload: &self.payload,
        }
    }
}
