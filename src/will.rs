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

/// What a [`Will`] is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WillParts<'a> {
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will Topic: a valid topic name.
    pub topic: &'a str,
    /// Will Payload.
    pub payload: &'a [u8],
    /// The properties to forward, in their wire form, without the delay and the expiry.
    pub properties: &'a [u8],
    /// Message Expiry Interval in seconds.
    pub expiry: Option<u32>,
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
        Will::from_parts(WillParts {
            qos: will.qos,
            retain: will.retain,
            topic: will.topic,
            payload: will.payload,
            properties: &kept,
            expiry,
            delay,
        })
    }

    /// Makes it of what [`Will::as_parts`] gave.
    pub fn from_parts(parts: WillParts<'_>) -> Will {
        Will {
            qos: parts.qos,
            retain: parts.retain,
            topic: parts.topic.into(),
            payload: parts.payload.into(),
            properties: parts.properties.into(),
            expiry: parts.expiry,
            delay: parts.delay,
        }
    }

    /// What it is made of.
    pub fn as_parts(&self) -> WillParts<'_> {
        WillParts {
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            payload: &self.payload,
            properties: &self.properties,
            expiry: self.expiry,
            delay: self.delay,
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
