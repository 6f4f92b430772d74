//! What a packet from the client does to its session: QoS flows both ways, aliases, Receive Maximum,
//! and the packets that a client may not send.

use std::time::Duration;

use super::inflight::{AtExactlyOnce, Step};
use super::link::Answer;
use super::{Context, Delivery, Expiry, Session, unaccount};
use crate::message::{Message, MessageId, MessageParts, Publisher};
use crate::protocol::codec;
use crate::protocol::packet::{
    Ack, Disconnect, Packet, PacketId, Publish, QoS, Subscribe, Unsubscribe, Version,
};
use crate::protocol::properties::{Properties, Property, encode_property};
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::store::{Record, Ticket};

/// What a packet asks of the broker.
#[derive(Debug)]
pub enum Action<'a> {
    /// Nothing more.
    None,
    /// Route this message, then call [`Session::published`].
    Publish(Message, Option<PacketId>),
    /// Add these subscriptions.
    Subscribe(Subscribe<'a>),
    /// Remove these.
    Unsubscribe(Unsubscribe<'a>),
    /// The client says goodbye; its will is to be published all the same or not.
    Disconnect {
        /// Any reason but normal disconnection [MQTT-3.14.4-3].
        with_will: bool,
    },
}

/// A PUBLISH that is to be acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Its packet id.
    pub packet_id: PacketId,
    /// Its QoS, 1 or 2.
    pub qos: QoS,
    /// The bytes of its message.
    pub bytes: u32,
}

impl Session {
    /// Takes one packet from the client.
    ///
    /// Errors end the connection, with their reason code where the version can say it.
    pub fn receive<'a>(
        &mut self,
        packet: Packet<'a>,
        cx: &mut Context<'_>,
    ) -> Result<Action<'a>, ProtocolError> {
        match packet {
            Packet::Publish(publish) => self.receive_publish(&publish, cx),
            Packet::PubAck(ack) => {
                self.acknowledged(ack.packet_id, cx)?;
                self.pump(cx);
                Ok(Action::None)
            }
            Packet::PubRec(ack) => self.receive_pubrec(&ack, cx),
            Packet::PubRel(ack) => self.receive_pubrel(ack.packet_id, cx),
            Packet::PubComp(ack) => self.receive_pubcomp(ack.packet_id, cx),
            Packet::Subscribe(subscribe) => Ok(Action::Subscribe(subscribe)),
            Packet::Unsubscribe(unsubscribe) => Ok(Action::Unsubscribe(unsubscribe)),
            Packet::PingReq => {
                // [MQTT-3.12.4-1]
                self.answer(Ticket(0), Answer::Other, &Packet::PingResp, cx)?;
                Ok(Action::None)
            }
            Packet::Disconnect(disconnect) => self.receive_disconnect(&disconnect, cx),
            // [MQTT-3.1.0-2]: a second CONNECT.
            Packet::Connect(_) => Err(ProtocolError::protocol("a second CONNECT")),
            Packet::Auth(_) => {
                Err(ProtocolError::protocol("AUTH, but CONNECT chose no authentication method"))
            }
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(ProtocolError::protocol("a packet that only a server may send"))
            }
        }
    }

    /// Sends an answer to the client, if it is there, once `ticket` is durable.
    ///
    /// Errors: as [`Link::answer`](super::link::Link::answer).
    pub fn answer(
        &mut self,
        ticket: Ticket,
        kind: Answer,
        packet: &Packet<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        if let Some(link) = &mut self.link
            && link.answer(ticket, cx.store.durable(), kind, packet)?
        {
            cx.stats.packets_sent.add(1);
        }
        Ok(())
    }

    fn receive_publish(
        &mut self,
        publish: &Publish<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Action<'static>, ProtocolError> {
        if let Some(packet_id) = publish.packet_id {
            self.check_receive_maximum(packet_id, publish.qos, cx)?;
            if publish.qos == QoS::ExactlyOnce
                && let Some(ticket) = self.received.get(packet_id)
            {
                // [MQTT-4.3.3-10]: the same id again is the same message; only its PUBREC is repeated.
                self.application_message(publish, cx)?;
                self.received.insert(packet_id, ticket);
                let again = Acknowledged { packet_id, qos: QoS::ExactlyOnce, bytes: 0 };
                self.acknowledge(again, ReasonCode::Success, "", ticket, cx)?;
                return Ok(Action::None);
            }
        }
        let message = self.application_message(publish, cx)?;
        Ok(Action::Publish(message, publish.packet_id))
    }

    /// [MQTT-3.3.4-7]: what is unacknowledged never exceeds the Receive Maximum that CONNACK told, in each connection anew.
    fn check_receive_maximum(
        &mut self,
        packet_id: PacketId,
        qos: QoS,
        cx: &Context<'_>,
    ) -> Result<(), ProtocolError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        if qos == QoS::ExactlyOnce && self.received.is_current(packet_id) {
            return Ok(());
        }
        let outstanding = self.received.current() + usize::from(link.unacknowledged);
        if link.version == Version::V5 && outstanding >= usize::from(cx.limits.receive_maximum) {
            let detail = format!("more than {} unacknowledged", cx.limits.receive_maximum);
            return Err(ProtocolError::new(ReasonCode::ReceiveMaximumExceeded, detail));
        }
        Ok(())
    }

    /// The Application Message that a PUBLISH carries: alias resolved, expiry turned into a deadline,
    /// the other properties as they came [MQTT-3.3.2-4] [MQTT-3.3.2-17].
    fn application_message(
        &mut self,
        publish: &Publish<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Message, ProtocolError> {
        let (mut alias, mut expiry, mut users) = (None, None, 0);
        for property in publish.properties.iter() {
            match property {
                Property::TopicAlias(value) => alias = Some(value),
                Property::MessageExpiryInterval(seconds) => expiry = Some(seconds),
                // [MQTT-3.3.4-6]
                Property::SubscriptionIdentifier(_) => {
                    return Err(ProtocolError::protocol(
                        "a Subscription Identifier in a PUBLISH to the server",
                    ));
                }
                Property::UserProperty(..) => users += 1,
                _ => {}
            }
        }
        check_user_properties(users, cx)?;
        let mut kept = std::mem::take(cx.scratch);
        kept.clear();
        let properties = if alias.is_some() || expiry.is_some() {
            for property in publish.properties.iter() {
                if !matches!(property, Property::TopicAlias(_) | Property::MessageExpiryInterval(_)) {
                    encode_property(property, &mut kept);
                }
            }
            &kept
        } else {
            publish.properties.raw()
        };
        let publisher = Publisher { queue: self.queue_id, client_hash: self.client_hash };
        let message =
            resolve(self.link.as_mut(), alias, publish.topic, cx.limits.topic_alias_maximum).map(|topic| {
                Message::new(MessageParts {
                    id: MessageId(0),
                    version: 0,
                    publisher: Some(publisher),
                    qos: publish.qos,
                    retain: publish.retain,
                    expires: expiry.map(|seconds| cx.now + Duration::from_secs(seconds.into())),
                    topic,
                    properties,
                    payload: publish.payload,
                })
            });
        *cx.scratch = kept;
        message
    }

    /// The broker took or refused a PUBLISH: remembers its packet id and answers once `ticket` is
    /// durable [MQTT-4.3.2-4] [MQTT-4.3.3-8].
    pub fn published(
        &mut self,
        published: Acknowledged,
        reason: ReasonCode,
        detail: &str,
        ticket: Ticket,
        cx: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let Acknowledged { packet_id, qos, bytes } = published;
        match qos {
            // A PUBREC of 0x80 or above ends the exchange; its packet id is free.
            QoS::ExactlyOnce if !reason.is_failure() => {
                self.received.insert(packet_id, ticket);
            }
            QoS::ExactlyOnce => {}
            _ => {
                if let Some(link) = &mut self.link {
                    link.unacknowledged += 1;
                }
            }
        }
        if let Some(link) = &mut self.link {
            link.unacknowledged_bytes += bytes as usize;
        }
        self.acknowledge(published, reason, detail, ticket, cx)
    }

    fn acknowledge(
        &mut self,
        published: Acknowledged,
        reason: ReasonCode,
        detail: &str,
        ticket: Ticket,
        cx: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let Acknowledged { packet_id, qos, bytes } = published;
        let Some(link) = &self.link else { return Ok(()) };
        let reason_string = link.reason_string(detail, 1);
        let ack = Ack { packet_id, reason, properties: reason_string.as_properties() };
        match qos {
            QoS::ExactlyOnce => self.answer(ticket, Answer::PubRec(bytes), &Packet::PubRec(ack), cx),
            _ => self.answer(ticket, Answer::PubAck(bytes), &Packet::PubAck(ack), cx),
        }
    }

    fn receive_pubrel(
        &mut self,
        packet_id: PacketId,
        cx: &mut Context<'_>,
    ) -> Result<Action<'static>, ProtocolError> {
        let (reason, ticket) = match self.received.remove(packet_id) {
            Some(_) if self.persistent => {
                (ReasonCode::Success, cx.store.push(Record::Released(self.queue_id, packet_id)))
            }
            Some(_) => (ReasonCode::Success, Ticket(0)),
            None => (ReasonCode::PacketIdentifierNotFound, Ticket(0)),
        };
        let ack = Ack { packet_id, reason, properties: Properties::EMPTY };
        // [MQTT-4.3.3-11]
        self.answer(ticket, Answer::Other, &Packet::PubComp(ack), cx)?;
        Ok(Action::None)
    }

    /// Takes the PUBACK packets of the shortest form that `bytes` begins with; how many those are. What they make room
    /// for follows when all are taken.
    ///
    /// Errors: as [`Session::receive`], for the one behind them.
    pub fn receive_pubacks(
        &mut self,
        mut bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> (usize, Result<(), ProtocolError>) {
        let mut packets = 0;
        while let Some(packet_id) = codec::short_puback(bytes) {
            if let Err(error) = self.acknowledged(packet_id, cx) {
                return (packets, Err(error));
            }
            packets += 1;
            bytes = &bytes[codec::SHORT_PUBACK..];
        }
        self.pump(cx);
        (packets, Ok(()))
    }

    /// The client has acknowledged a delivery at QoS 1.
    fn acknowledged(&mut self, packet_id: PacketId, cx: &mut Context<'_>) -> Result<(), ProtocolError> {
        match self.inflight.acknowledge(packet_id) {
            Ok(Some(delivery)) => self.delivered(&delivery, cx),
            // A PUBACK for what a former connection was sent, or nobody: nothing to end.
            Ok(None) => {}
            Err(AtExactlyOnce) => return Err(ProtocolError::protocol("a PUBACK for a QoS 2 PUBLISH")),
        }
        Ok(())
    }

    /// The client has acknowledged a delivery.
    fn delivered(&mut self, delivery: &Delivery, cx: &mut Context<'_>) {
        cx.stats.delivered.add(1);
        unaccount(delivery, cx);
        self.settle(delivery, cx);
    }

    fn receive_pubrec(
        &mut self,
        ack: &Ack<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Action<'static>, ProtocolError> {
        let packet_id = ack.packet_id;
        let Some(slot) = self.inflight.get_sent(packet_id) else {
            if !ack.reason.is_failure() {
                let reason = ReasonCode::PacketIdentifierNotFound;
                let answer = Ack { packet_id, reason, properties: Properties::EMPTY };
                self.answer(Ticket(0), Answer::Other, &Packet::PubRel(answer), cx)?;
            }
            return Ok(Action::None);
        };
        if slot.qos() != QoS::ExactlyOnce {
            return Err(ProtocolError::protocol("a PUBREC for a QoS 1 PUBLISH"));
        }
        let recorded = slot.moved && self.persistent;
        if ack.reason.is_failure() {
            // [MQTT-4.8.2-6]: refused by this client, and sent to nobody else.
            if recorded {
                cx.store.push(Record::Completed(self.queue_id, packet_id));
            }
            if let Some(delivery) = self.inflight.finish(packet_id) {
                self.delivered(&delivery, cx);
            }
            self.pump(cx);
            return Ok(Action::None);
        }
        slot.step = Step::Released;
        if let Some(delivery) = slot.delivery.take() {
            self.delivered(&delivery, cx);
        }
        let ticket = match recorded {
            true => cx.store.push(Record::Stepped(self.queue_id, packet_id)),
            false => Ticket(0),
        };
        if let Some(slot) = self.inflight.get_sent(packet_id) {
            slot.ticket = ticket;
        }
        if self.inflight.is_written(packet_id) {
            let ack = Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY };
            // [MQTT-4.3.3-4]
            self.answer(ticket, Answer::Other, &Packet::PubRel(ack), cx)?;
        } else {
            // Not yet repeated on this connection: its PUBREL goes out when its turn comes, and only then.
            self.pump(cx);
        }
        Ok(Action::None)
    }

    fn receive_pubcomp(
        &mut self,
        packet_id: PacketId,
        cx: &mut Context<'_>,
    ) -> Result<Action<'static>, ProtocolError> {
        match self.inflight.get_sent(packet_id).map(|slot| (slot.step, slot.moved)) {
            Some((Step::Released, moved)) => {
                if moved && self.persistent {
                    cx.store.push(Record::Completed(self.queue_id, packet_id));
                }
                self.inflight.finish(packet_id);
                self.pump(cx);
                Ok(Action::None)
            }
            Some(_) => Err(ProtocolError::protocol("a PUBCOMP before its PUBREC")),
            None => Ok(Action::None),
        }
    }

    fn receive_disconnect(
        &mut self,
        disconnect: &Disconnect<'_>,
        cx: &Context<'_>,
    ) -> Result<Action<'static>, ProtocolError> {
        for property in disconnect.properties.iter() {
            match property {
                Property::SessionExpiryInterval(seconds) if seconds > 0 && self.expiry == Expiry::AT_ONCE => {
                    return Err(ProtocolError::protocol(
                        "a Session Expiry Interval in DISCONNECT, but none in CONNECT",
                    ));
                }
                Property::SessionExpiryInterval(seconds) => {
                    self.expiry = Expiry(seconds).at_most(cx.limits.session_expiry_max);
                }
                Property::ServerReference(_) => {
                    return Err(ProtocolError::protocol("a Server Reference in a DISCONNECT to the server"));
                }
                _ => {}
            }
        }
        Ok(Action::Disconnect { with_will: disconnect.reason != ReasonCode::Success })
    }
}

/// The cap on User Properties of one packet.
pub fn check_user_properties(count: usize, cx: &Context<'_>) -> Result<(), ProtocolError> {
    if count <= cx.limits.user_properties {
        return Ok(());
    }
    let detail = format!("{count} User Properties, the limit is {}", cx.limits.user_properties);
    Err(ProtocolError::new(ReasonCode::QuotaExceeded, detail))
}

fn resolve<'a>(
    link: Option<&'a mut super::link::Link>,
    alias: Option<u16>,
    topic: &'a str,
    maximum: u16,
) -> Result<&'a str, ProtocolError> {
    match (alias, link) {
        (Some(alias), Some(link)) => {
            link.inbound_aliases.get_or_insert_default().resolve(alias, topic, maximum)
        }
        _ => Ok(topic),
    }
}
