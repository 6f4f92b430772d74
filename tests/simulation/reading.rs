//! What clients make of what they read: each packet is held against what the client knows of its own exchanges, each
//! message against the ledger.

use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use super::actions::payload;
use super::broker::Sim;
use super::client::{Expect, Reply, Socket};
use super::ledger::{Sighting, Term, Tick};

/// A PUBLISH in one line, as the trace shows it.
pub fn brief(publish: &Publish<'_>) -> String {
    let Publish { dup, qos, retain, topic, packet_id, payload, .. } = publish;
    let number = payload.get(..8).map(String::from_utf8_lossy).unwrap_or_default();
    let number = number.trim_start_matches('0');
    let flags =
        [(*dup, " DUP"), (*retain, " RETAIN")].map(|(set, name)| if set { name } else { "" }).concat();
    format!("PUBLISH message {number} to {topic:?} at {qos:?}{flags}, {packet_id:?}")
}

impl Sim {
    /// A client reads up to `count` bytes.
    pub fn read(&mut self, id: u32, count: usize) {
        let socket = self.sockets.get_mut(&id).expect("connected");
        if socket.stalled && !self.draining {
            return;
        }
        let (client, version, max_packet) = (socket.client, socket.version, socket.max_packet);
        for bytes in socket.read(count) {
            assert!(
                bytes.len() <= max_packet,
                "{} bytes, the Maximum Packet Size is {max_packet}",
                bytes.len()
            );
            let packet = codec::decode(version, &bytes).expect("the broker sends well-formed packets");
            match &packet {
                Packet::Publish(publish) => {
                    self.trace.say(format_args!("client {client} reads {}", brief(publish)))
                }
                other => self.trace.say(format_args!("client {client} reads {other:?}")),
            }
            self.handle(client, id, &packet);
        }
        let socket = &self.sockets[&id];
        if socket.closed && socket.outbound.is_empty() {
            self.trace.say(format_args!("client {client} sees the end of socket {id}"));
            self.sockets.remove(&id);
            self.clients[client].socket = None;
        }
    }

    fn handle(&mut self, client: usize, id: u32, packet: &Packet<'_>) {
        let connacked = self.sockets[&id].connacked;
        assert!(
            connacked || matches!(packet, Packet::ConnAck(_)),
            "before CONNACK, socket {id} of client {client}: {packet:?}"
        );
        match packet {
            Packet::ConnAck(connack) => self.on_connack(id, connack),
            Packet::Publish(publish) => self.on_publish(client, id, publish),
            Packet::PubAck(ack) => {
                self.expect(id, &Expect::PubAck(ack.packet_id));
                self.on_answer(client, id, ack);
            }
            Packet::PubRec(ack) => {
                self.expect(id, &Expect::PubRec(ack.packet_id));
                self.on_answer(client, id, ack);
            }
            Packet::PubComp(ack) => {
                self.expect(id, &Expect::PubComp(ack.packet_id));
                self.clients[client].sending.retain(|sending| sending.packet_id != ack.packet_id);
            }
            Packet::PubRel(ack) => {
                let socket = self.sockets.get_mut(&id).expect("connected");
                self.clients[client].receiving.remove(&ack.packet_id);
                let reply = Reply::PubComp(ack.packet_id);
                if !socket.replies.contains(&reply) {
                    socket.replies.push(reply);
                }
            }
            Packet::SubAck(suback) => self.on_suback(client, id, suback),
            Packet::UnsubAck(unsuback) => self.on_unsuback(client, id, unsuback.packet_id),
            Packet::PingResp => self.expect(id, &Expect::PingResp),
            Packet::Disconnect(_) => {
                assert!(self.sockets[&id].closed, "DISCONNECT, but the connection goes on")
            }
            other => panic!("no packet for a client: {other:?}"),
        }
    }

    /// Answers come in the order of what they answer. Those to what may be parked need not wait for the others, nor the
    /// others for them.
    fn expect(&mut self, id: u32, answer: &Expect) {
        let expected = self.next_expected(id, matches!(answer, Expect::PubAck(_) | Expect::PubRec(_)));
        assert_eq!(expected.as_ref(), Some(answer), "another answer than the next, socket {id}");
    }

    /// The answer that is due next: to a PUBLISH or to something else, where that matters.
    fn next_expected(&mut self, id: u32, to_publish: bool) -> Option<Expect> {
        let socket = self.sockets.get_mut(&id).expect("connected");
        let parks = self.ledger.rejects && socket.version < Version::V5;
        let is_due =
            |expect: &Expect| !parks || matches!(expect, Expect::PubAck(_) | Expect::PubRec(_)) == to_publish;
        socket.expects.iter().position(is_due).and_then(|index| socket.expects.remove(index))
    }

    fn on_connack(&mut self, id: u32, connack: &ConnAck<'_>) {
        let socket = self.sockets.get_mut(&id).expect("connected");
        assert_eq!(connack.reason, ReasonCode::Success);
        if socket.version > Version::V3 {
            assert_eq!(connack.session_present, socket.resumed, "Session Present, socket {id}");
        }
        assert!(!socket.connacked, "a second CONNACK");
        socket.connacked = true;
        self.ledger.told(socket.session);
        let wills = &mut self.clients[socket.client].wills;
        wills.retain(|(since, _)| *since >= id);
        for property in connack.properties.iter() {
            match property {
                Property::SessionExpiryInterval(seconds) => assert_eq!(seconds, socket.expiry),
                Property::ReceiveMaximum(maximum) => assert_eq!(usize::from(maximum), socket.receive_maximum),
                Property::TopicAliasMaximum(maximum) => {
                    assert_eq!(usize::from(maximum), socket.own_alias_maximum);
                }
                _ => {}
            }
        }
    }

    /// PUBACK or PUBREC.
    fn on_answer(&mut self, client: usize, id: u32, ack: &Ack<'_>) {
        let sending = &mut self.clients[client].sending;
        let index = sending.iter().position(|sending| sending.packet_id == ack.packet_id);
        let index = index.unwrap_or_else(|| panic!("{ack:?} answers nothing that client {client} sent"));
        self.tick += 1;
        let tick = self.tick;
        let message = &mut self.ledger.messages[sending[index].message];
        assert!(sending[index].taken, "acknowledged before it was taken: {ack:?}");
        if ack.reason.is_failure() {
            assert_eq!(
                ack.reason,
                ReasonCode::QuotaExceeded,
                "a message that nothing is wrong with is refused"
            );
            message.refused = true;
        } else {
            let payload = payload(sending[index].message, message.len);
            assert!(
                payload.is_empty() || !message.recorded || self.store.journal().has(&payload),
                "acknowledged before it is on disk"
            );
            message.acknowledged = true;
            message.parked = message.parked.map(|_| tick);
        }
        if sending[index].qos == QoS::ExactlyOnce && !ack.reason.is_failure() {
            sending[index].released = true;
            let socket = self.sockets.get_mut(&id).expect("connected");
            socket.replies.push(Reply::PubRel(ack.packet_id));
        } else {
            sending.remove(index);
        }
    }

    fn on_publish(&mut self, client: usize, id: u32, publish: &Publish<'_>) {
        let socket = self.sockets.get_mut(&id).expect("connected");
        let mut alias = None;
        for property in publish.properties.iter() {
            if let Property::TopicAlias(value) = property {
                alias = Some(value);
            }
        }
        if let Some(alias) = alias {
            assert!(usize::from(alias) <= socket.alias_maximum, "alias {alias} is over the client's maximum");
            if !publish.topic.is_empty() {
                socket.aliases.insert(alias, publish.topic.to_owned());
            }
        }
        let topic = match alias {
            Some(alias) => socket.aliases.get(&alias).expect("an alias that was told").clone(),
            None => publish.topic.to_owned(),
        };
        let message = match publish.payload {
            [] => None,
            payload => {
                let number = std::str::from_utf8(&payload[..8]).ok().and_then(|digits| digits.parse().ok());
                Some(number.expect("a payload that the model made"))
            }
        };
        if !self.take_id(client, id, publish, message) {
            return;
        }
        let Some(message) = message else { return };
        if self.clients[client].version == Version::V5 {
            let marked = publish.properties.iter().any(|p| matches!(p, Property::UserProperty(..)));
            assert_eq!(marked, self.ledger.messages[message].marked, "User Properties are forwarded");
        }
        let session = self.clients[client].session.unwrap_or_else(|| self.last_session_of(client));
        let Socket { connected, boot, .. } = self.sockets[&id];
        self.ledger.see(&Sighting { session, message, publish, topic: &topic, connected, boot });
    }

    /// The session that a client had when the broker let go of the connection that it still reads.
    fn last_session_of(&self, client: usize) -> usize {
        let of_client = self.ledger.sessions.iter().rposition(|session| session.client == client);
        of_client.expect("it has had one")
    }

    /// Notes the packet id of a PUBLISH and the answer that it is owed; whether the message is new to the client.
    fn take_id(&mut self, client: usize, id: u32, publish: &Publish<'_>, message: Option<usize>) -> bool {
        let Some(packet_id) = publish.packet_id else { return true };
        let socket = self.sockets.get_mut(&id).expect("connected");
        let receiving = &mut self.clients[client].receiving;
        let number = message.unwrap_or(usize::MAX);
        assert!(socket.open.insert(packet_id), "packet id {packet_id} is in use: {publish:?}");
        let open = socket.open.len();
        assert!(open <= socket.window, "{open} unacknowledged, the client takes {}", socket.window);
        if publish.qos == QoS::AtLeastOnce {
            assert!(!receiving.contains_key(&packet_id), "packet id {packet_id} is in use: {publish:?}");
            socket.replies.push(Reply::PubAck(packet_id, number));
            return true;
        }
        socket.replies.push(Reply::PubRec(packet_id, number));
        if let Some(known) = receiving.insert(packet_id, number) {
            assert!(publish.dup && known == number, "packet id {packet_id} is in use: {publish:?}");
            return false;
        }
        true
    }

    fn on_suback(&mut self, client: usize, id: u32, suback: &SubAck<'_>) {
        let Some(Expect::SubAck(packet_id, asked)) = self.next_expected(id, false) else {
            panic!("another answer than the next, socket {id}: {suback:?}");
        };
        assert_eq!(packet_id, suback.packet_id);
        assert_eq!(suback.reasons.len(), asked.len());
        let tick = self.next_tick();
        self.trace.say(format_args!("client {client} has its subscriptions @{tick}"));
        let Some(number) = self.clients[client].session else { return };
        for ((filter, options, identifier), reason) in asked.into_iter().zip(suback.reasons) {
            assert_eq!(*reason, options.qos as u8, "the QoS that was asked for is granted");
            self.ledger.sessions[number].set_term(&filter, tick, Term::Held(options, identifier));
        }
        self.settle_terms(number, tick);
    }

    fn on_unsuback(&mut self, client: usize, id: u32, packet_id: PacketId) {
        let Some(Expect::UnsubAck(expected, filters)) = self.next_expected(id, false) else {
            panic!("another answer than the next, socket {id}: UNSUBACK {packet_id}");
        };
        assert_eq!(expected, packet_id);
        let tick = self.next_tick();
        let Some(number) = self.clients[client].session else { return };
        let session = &mut self.ledger.sessions[number];
        for filter in filters {
            session.set_term(&filter, tick, Term::Gone);
        }
        self.settle_terms(number, tick);
    }

    /// The broker has dealt with what a session last subscribed or unsubscribed, or never will.
    pub fn settle_terms(&mut self, session: usize, tick: Tick) {
        let session = &mut self.ledger.sessions[session];
        if session.resubscribed == Tick::MAX {
            session.resubscribed = tick;
        }
        if session.left == Tick::MAX {
            session.left = tick;
        }
    }
}
