//! The connection that a session has at the moment: what its CONNECT asked for, the bytes still to
//! send, and the acknowledgements that wait for the disk. It dies with the socket; the session stays.

use std::collections::VecDeque;
use std::time::Instant;

use super::parked::Parked;
use super::{Context, Delivery, alias};
use crate::flow::registry::{Pace, Throttle};
use crate::limits::Limits;
use crate::outbound::Outbound;
use crate::protocol::codec::{self, PublishHeader};
use crate::protocol::packet::{Ack, Connect, Packet, PacketId, Version};
use crate::protocol::properties::{Properties, PropertiesBuf, Property, encode_property};
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::store::Ticket;

/// Payloads above this are spliced into the outbound buffer rather than copied.
pub const SHARED_PAYLOAD: usize = 4096;

/// What a Topic Alias adds to a packet at most: the property, and a byte more in the length of the properties
/// and in that of the packet.
const ALIAS_SIZE: usize = 3 + 1 + 1;

/// What one CONNECT brought.
#[derive(Debug)]
pub struct Link {
    /// Tells this connection from the others that the session has had.
    pub generation: u32,
    /// The protocol version spoken.
    pub version: Version,
    /// CONNACK has left: other packets may follow [MQTT-3.2.0-1].
    pub open: bool,
    /// Listed with the flusher.
    pub dirty: bool,
    /// What there was to send when the flusher last came to it.
    pub outbound_before: u32,
    /// The client's Topic Alias Maximum was above 0, and these were used.
    outbound_aliases: Option<Box<alias::Outbound>>,
    /// The client's own aliases.
    pub inbound_aliases: Option<Box<alias::Inbound>>,
    /// What is still to send.
    pub outbound: Outbound,
    /// QoS 1 and 2 deliveries at once [MQTT-3.3.4-9].
    pub window: u16,
    /// Maximum Packet Size of the client.
    pub max_packet: u32,
    /// The Maximum Packet Size that it was told.
    pub max_received: u32,
    /// Reason Strings and User Properties are welcome on every packet [MQTT-3.1.2-29].
    pub problem_information: bool,
    /// Seconds, as granted; 0 is off.
    pub keep_alive: u16,
    /// QoS 1 PUBLISH packets whose PUBACK waits.
    pub unacknowledged: u16,
    /// The bytes of messages whose PUBACK or PUBREC waits.
    pub unacknowledged_bytes: usize,
    /// The bytes that the shard has counted for this connection.
    pub accounted: usize,
    /// When the last packet arrived.
    pub last_packet: Instant,
    /// Why nothing is read from it at present.
    pub paused: Option<Pause>,
    /// What it published and a full queue holds back.
    pub parked: Option<Box<Parked>>,
    /// How fast it may publish, if that is bounded.
    pub throttle: Option<Box<Throttle>>,
    /// How fast messages are delivered to it, if that is bounded.
    pub pace: Option<Box<Pace>>,
    held: Option<Box<Held>>,
}

/// Answers that wait for the disk, in the order of the packets that they answer.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    marks: VecDeque<Mark>,
}

#[derive(Debug)]
struct Mark {
    ticket: Ticket,
    len: u32,
    /// What leaving means beyond the bytes.
    kind: Answer,
}

/// What an answer does when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Opens the connection.
    ConnAck,
    /// Frees a place in the Receive Maximum, and the bytes of its message.
    PubAck(u32),
    /// Frees the bytes of its message.
    PubRec(u32),
    /// Nothing more.
    Other,
}

/// Why nothing is read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// A peer has to catch up before more is published.
    Lanes,
    /// A full queue rejects what it publishes, and no more can be parked.
    Full,
    /// It does not read what it is answered.
    Unread,
    /// Too much of what it published waits for the disk.
    Unacknowledged,
    /// The store has to catch up.
    Store,
    /// It publishes faster than it may.
    Rate,
}

/// Whether a PUBLISH could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is in the outbound buffer.
    Yes,
    /// It is over the client's Maximum Packet Size and must not be sent [MQTT-3.1.2-24].
    TooLarge,
    /// Its client may not read it any more.
    Barred,
}

impl Link {
    /// A connection as its CONNECT asks for it; `keep_alive` in seconds as granted.
    pub fn new(
        generation: u32,
        connect: &Connect<'_>,
        keep_alive: u16,
        limits: &Limits,
        now: Instant,
    ) -> Link {
        let mut link = Link {
            generation,
            version: connect.version,
            open: false,
            dirty: false,
            outbound_before: 0,
            outbound_aliases: None,
            inbound_aliases: None,
            outbound: Outbound::default(),
            window: limits.max_inflight,
            max_packet: codec::MAX_PACKET_SIZE,
            max_received: limits.max_packet_size,
            problem_information: connect.version == Version::V5,
            keep_alive,
            unacknowledged: 0,
            unacknowledged_bytes: 0,
            accounted: 0,
            last_packet: now,
            paused: None,
            parked: None,
            throttle: None,
            pace: None,
            held: None,
        };
        for property in connect.properties.iter() {
            match property {
                Property::ReceiveMaximum(maximum) => link.window = maximum.min(limits.max_inflight),
                Property::MaximumPacketSize(maximum) => link.max_packet = maximum,
                Property::TopicAliasMaximum(maximum) => {
                    let maximum = maximum.min(limits.topic_alias_maximum);
                    link.outbound_aliases = (maximum > 0).then(|| Box::new(alias::Outbound::new(maximum)));
                }
                Property::RequestProblemInformation(wanted) => link.problem_information = wanted,
                _ => {}
            }
        }
        link
    }

    /// Sends an answer once `ticket` is durable, behind those that wait already; whether it is sent now.
    ///
    /// Errors: 0x95 if it is over the client's Maximum Packet Size, as only SUBACK and UNSUBACK can be.
    pub fn answer(
        &mut self,
        ticket: Ticket,
        durable: Ticket,
        kind: Answer,
        packet: &Packet<'_>,
    ) -> Result<bool, ProtocolError> {
        if self.held.is_none() && ticket <= durable {
            encode_within(self.version, packet, self.max_packet, self.outbound.buf())?;
            self.answered(kind);
            return Ok(true);
        }
        let held = self.held.get_or_insert_default();
        let len = encode_within(self.version, packet, self.max_packet, &mut held.bytes)?;
        held.marks.push_back(Mark { ticket, len, kind });
        Ok(false)
    }

    /// Sends the held answers whose tickets are durable by now; whether any left.
    pub fn release(&mut self, durable: Ticket, packets_sent: &mut u64) -> bool {
        let Some(mut held) = self.held.take() else { return false };
        let mut len = 0;
        while let Some(mark) = held.marks.front().filter(|mark| mark.ticket <= durable) {
            len += mark.len as usize;
            let kind = mark.kind;
            held.marks.pop_front();
            self.answered(kind);
            *packets_sent += 1;
        }
        self.outbound.buf().extend_from_slice(&held.bytes[..len]);
        held.bytes.drain(..len);
        if !held.marks.is_empty() {
            self.held = Some(held);
        }
        len > 0
    }

    /// Whether answers are held.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// What the first of the held answers waits for.
    pub fn awaits(&self) -> Option<Ticket> {
        Some(self.held.as_ref()?.marks.front()?.ticket)
    }

    fn answered(&mut self, kind: Answer) {
        match kind {
            Answer::ConnAck => self.open = true,
            Answer::PubAck(bytes) => {
                self.unacknowledged = self.unacknowledged.saturating_sub(1);
                self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_sub(bytes as usize);
            }
            Answer::PubRec(bytes) => {
                self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_sub(bytes as usize);
            }
            Answer::Other => {}
        }
    }

    /// The bytes that are still to send, those that wait for the disk included.
    pub fn unsent(&self) -> usize {
        self.outbound.len() + self.held.as_ref().map_or(0, |held| held.bytes.len())
    }

    /// Whether the client does not read what it is answered: deliveries keep within `limit`, answers may go past it by
    /// a quarter.
    pub fn is_unread(&self, limit: usize) -> bool {
        self.unsent() > limit + limit / 4
    }

    /// Whether the outbound buffer takes `size` bytes more: below the limit, or empty, for one packet
    /// always fits.
    pub fn has_room(&self, size: usize, limit: usize) -> bool {
        self.outbound.is_empty() || self.outbound.len() + size <= limit
    }

    /// Whether a run of ready-made frames fits this connection: nothing in them is its own.
    pub fn takes_ready_frames(&self) -> bool {
        self.open && self.outbound_aliases.is_none() && self.pace.is_none()
    }

    /// Whether a delivery may leave now, as far as its pace goes.
    pub fn is_in_pace(&mut self, now: Instant) -> bool {
        self.pace.as_deref_mut().is_none_or(|pace| pace.is_open(now))
    }

    /// A delivery counts against its pace.
    pub fn count_pace(&mut self, delivery: &Delivery, now: Instant) {
        if let Some(pace) = &mut self.pace {
            pace.take(now, delivery.message.size());
        }
    }

    /// Writes a PUBLISH, with whatever is particular to this client in it.
    pub fn write_publish(
        &mut self,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        cx: &mut Context<'_>,
    ) -> Written {
        let message = &delivery.message;
        let payload = message.payload();
        let mut header = PublishHeader {
            dup,
            qos: delivery.qos,
            retain: delivery.retain,
            topic: message.topic_bytes(),
            packet_id,
            properties: message.properties(),
            extra: &[],
            payload_len: payload.len(),
        };
        let mut extra = std::mem::take(cx.scratch);
        extra.clear();
        if self.version == Version::V5 {
            self.own_properties(delivery, cx.now, &mut extra);
        }
        header.extra = &extra;
        if header.packet_len(self.version) > self.max_packet as usize {
            *cx.scratch = extra;
            return Written::TooLarge;
        }
        // Decided last, for an alias counts as told once it is given.
        let mut aliased = Vec::new();
        if let Some(aliases) = &mut self.outbound_aliases
            && header.packet_len(self.version) + ALIAS_SIZE <= self.max_packet as usize
            && let Some((alias, known)) = aliases.alias(header.topic)
        {
            aliased.extend_from_slice(header.extra);
            encode_property(Property::TopicAlias(alias), &mut aliased);
            header.extra = &aliased;
            if known {
                header.topic = b"";
            }
        }
        header.encode(self.version, self.outbound.buf());
        if payload.len() > SHARED_PAYLOAD {
            self.outbound.push_shared(message.payload_bytes());
        } else {
            self.outbound.buf().extend_from_slice(payload);
        }
        *cx.scratch = extra;
        cx.stats.packets_sent.add(1);
        cx.stats.publish_sent.add(1);
        cx.stats.publish_bytes_sent.add(payload.len() as u64);
        Written::Yes
    }

    /// The properties that differ from client to client: the expiry that remains [MQTT-3.3.2-6] and
    /// the identifiers of its matching subscriptions [MQTT-3.3.4-3].
    fn own_properties(&self, delivery: &Delivery, now: Instant, out: &mut Vec<u8>) {
        if let Some(remaining) = delivery.message.remaining_expiry(now) {
            encode_property(Property::MessageExpiryInterval(remaining), out);
        }
        for identifier in delivery.identifiers.as_slice() {
            encode_property(Property::SubscriptionIdentifier(*identifier), out);
        }
    }

    /// Writes PUBREL.
    pub fn write_pubrel(&mut self, packet_id: PacketId, cx: &mut Context<'_>) {
        let ack = Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY };
        codec::encode(self.version, &Packet::PubRel(ack), self.outbound.buf());
        cx.stats.packets_sent.add(1);
    }

    /// The Reason String property for a refusal in a packet with `codes` reason codes, if this client
    /// wants one and it fits.
    pub fn reason_string(&self, text: &str, codes: usize) -> PropertiesBuf {
        let mut properties = PropertiesBuf::new();
        // [MQTT-3.4.2-2] [MQTT-3.9.2-1]: never past the client's Maximum Packet Size; 32 bytes hold the rest.
        let fits = text.len() + codes + 32 <= self.max_packet as usize;
        if self.problem_information && !text.is_empty() && fits {
            properties.push(Property::ReasonString(text));
        }
        properties
    }
}

/// Appends a packet that is not over the receiver's Maximum Packet Size [MQTT-3.1.2-24]; its size.
fn encode_within(
    version: Version,
    packet: &Packet<'_>,
    max: u32,
    out: &mut Vec<u8>,
) -> Result<u32, ProtocolError> {
    let before = out.len();
    codec::encode(version, packet, out);
    let len = (out.len() - before) as u32;
    if len <= max {
        return Ok(len);
    }
    out.truncate(before);
    Err(ProtocolError::new(ReasonCode::PacketTooLarge, "the answer is over the client's Maximum Packet Size"))
}
