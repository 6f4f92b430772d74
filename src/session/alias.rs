//! Topic aliases of one connection, both ways. Inbound ones are the client's to set, up to the
//! maximum that CONNACK offered; outbound ones are given to the first topics that are delivered.

use hashbrown::HashMap;

use crate::protocol::reason::{ProtocolError, ReasonCode};

/// The topics behind the client's aliases.
#[derive(Debug, Default)]
pub struct Inbound {
    topics: Vec<Option<Box<str>>>,
}

impl Inbound {
    /// The topic of a PUBLISH that carries `alias`: the one it sets, or the one set before.
    ///
    /// Errors: 0x94 for an alias above `maximum` [MQTT-3.3.2-9]; 0x82 for one never set.
    pub fn resolve<'a>(
        &'a mut self,
        alias: u16,
        topic: &'a str,
        maximum: u16,
    ) -> Result<&'a str, ProtocolError> {
        if alias == 0 || alias > maximum {
            return Err(ProtocolError::new(
                ReasonCode::TopicAliasInvalid,
                format!("topic alias {alias}, the maximum is {maximum}"),
            ));
        }
        let index = usize::from(alias) - 1;
        if !topic.is_empty() {
            if self.topics.len() <= index {
                self.topics.resize(index + 1, None);
            }
            self.topics[index] = Some(topic.into());
            return Ok(topic);
        }
        match self.topics.get(index).and_then(Option::as_deref) {
            Some(known) => Ok(known),
            None => Err(ProtocolError::protocol(format!("topic alias {alias} was never set"))),
        }
    }
}

/// The aliases that this connection's client has been told.
#[derive(Debug)]
pub struct Outbound {
    aliases: HashMap<Box<[u8]>, u16, foldhash::fast::FixedState>,
    maximum: u16,
}

impl Outbound {
    /// For a client that accepts aliases up to `maximum` [MQTT-3.1.2-26].
    pub fn new(maximum: u16) -> Outbound {
        Outbound { aliases: HashMap::default(), maximum }
    }

    /// The alias of the topic name `topic` and whether the client knows it already; `None` when all are given.
    pub fn alias(&mut self, topic: &[u8]) -> Option<(u16, bool)> {
        if let Some(alias) = self.aliases.get(topic) {
            return Some((*alias, true));
        }
        let next = self.aliases.len() as u16;
        if next >= self.maximum {
            return None;
        }
        self.aliases.insert(topic.into(), next + 1);
        Some((next + 1, false))
    }
}
