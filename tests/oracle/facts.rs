//! What a packet says, as lines to compare: the same for our packets and for those of mqttbytes.

use std::fmt::Debug;

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, Property, encode_property};

/// What a packet says, a fact a line.
#[derive(Debug, Default, PartialEq)]
pub struct Facts(Vec<String>);

impl Facts {
    /// The facts of a packet with that name.
    pub fn of(name: &str) -> Facts {
        Facts(vec![name.into()])
    }

    /// One more.
    pub fn and(mut self, name: &str, value: impl Debug) -> Facts {
        self.0.push(format!("{name}: {value:?}"));
        self
    }

    /// The properties, each a fact. Their order says nothing, but for those of one kind.
    pub fn and_properties(mut self, mut properties: Vec<Property<'_>>) -> Facts {
        properties.sort_by_key(|&property| {
            let mut bytes = Vec::new();
            encode_property(property, &mut bytes);
            bytes[0]
        });
        self.0.extend(properties.iter().map(|property| format!("{property:?}")));
        self
    }

    /// Whether a property of that name is among them.
    pub fn mention(&self, property: &str) -> bool {
        self.0.iter().any(|fact| fact.starts_with(property))
    }

    fn and_all(self, properties: Properties<'_>) -> Facts {
        self.and_properties(properties.iter().collect())
    }
}

/// What one of our packets says, as far as mqttbytes has a word for it.
pub fn ours(packet: &Packet<'_>) -> Facts {
    let facts = Facts::of(&format!("{:?}", packet.packet_type()));
    match packet {
        Packet::Connect(connect) => connect_facts(facts, connect),
        Packet::ConnAck(connack) => facts
            .and("session present", connack.session_present)
            .and("reason", connack.reason as u8)
            .and_all(connack.properties),
        Packet::Publish(publish) => facts
            .and("flags", (publish.dup, publish.qos as u8, publish.retain))
            .and("topic", publish.topic)
            .and("packet id", publish.packet_id.map_or(0, PacketId::get))
            .and("payload", publish.payload)
            .and_all(publish.properties),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            facts.and("packet id", ack.packet_id).and("reason", ack.reason as u8).and_all(ack.properties)
        }
        Packet::Subscribe(subscribe) => {
            let mut facts = facts.and("packet id", subscribe.packet_id);
            for (filter, options) in subscribe.filters.iter() {
                facts = facts.and("filter", (filter, options.to_bits()));
            }
            facts.and_all(subscribe.properties)
        }
        Packet::Unsubscribe(unsubscribe) => facts
            .and("packet id", unsubscribe.packet_id)
            .and("filters", unsubscribe.filters.iter().collect::<Vec<_>>())
            .and_all(unsubscribe.properties),
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => {
            facts.and("packet id", ack.packet_id).and("reasons", ack.reasons).and_all(ack.properties)
        }
        Packet::PingReq | Packet::PingResp => facts,
        Packet::Disconnect(disconnect) => {
            facts.and("reason", disconnect.reason as u8).and_all(disconnect.properties)
        }
        Packet::Auth(auth) => facts.and("reason", auth.reason as u8).and_all(auth.properties),
    }
}

fn connect_facts(facts: Facts, connect: &Connect<'_>) -> Facts {
    let mut facts = facts
        .and("clean", connect.clean_start)
        .and("keep alive", connect.keep_alive)
        .and("client id", connect.client_id)
        // mqttbytes does not tell an empty one from none.
        .and("user name", connect.username.unwrap_or_default())
        .and("password", connect.password.unwrap_or_default())
        .and_all(connect.properties);
    if let Some(will) = &connect.will {
        facts = facts
            .and("will flags", (will.qos as u8, will.retain))
            .and("will topic", will.topic)
            .and("will payload", will.payload)
            .and_all(will.properties);
    }
    facts
}
