//! What connected clients do of themselves: publish, subscribe, answer late and in any order, ask and not listen.

use std::collections::BTreeMap;

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::protocol::topic;

use super::broker::Sim;
use super::client::{Expect, Mark, Reply, Sending};
use super::ledger::{LARGE, Message, Term, Tick};
use super::plan::{GROUPS, LIVE, PLAIN_FILTERS, RETAINED, Role, SHARED, WIDE_FILTERS};

impl Sim {
    /// Something that one client does.
    pub fn act(&mut self, client: usize) {
        let Some(id) = self.clients[client].socket else {
            if self.rng.u32(..self.plan.absence) == 0 {
                self.connect(client);
            }
            return;
        };
        if self.sockets[&id].closed {
            return self.read(id, usize::MAX);
        }
        let count = self.rng.usize(..200);
        match self.rng.u16(..1000) {
            0..250 => self.feed(id, count),
            250..450 => self.read(id, count * 4),
            450..600 => self.reply(id),
            600..850 => self.publish(client, id),
            850..910 => self.subscribe(client, id),
            910..929 => self.unsubscribe(client, id),
            929..939 => self.ping(id),
            939 => self.hammer(id),
            940..965 => {
                let socket = self.sockets.get_mut(&id).expect("connected");
                socket.stalled = !socket.stalled;
            }
            965..970 => self.disconnect(client, id),
            970..973 => self.connect(client),
            _ if self.rng.u16(..30) < self.plan.crashes => self.cut(id),
            _ => self.resend(id),
        }
    }

    fn ping(&mut self, id: u32) {
        let socket = self.sockets.get_mut(&id).expect("connected");
        socket.send(&Packet::PingReq, Mark::Other);
        socket.expects.push_back(Expect::PingResp);
    }

    /// A client that asks and asks and reads no answer.
    fn hammer(&mut self, id: u32) {
        self.sockets.get_mut(&id).expect("connected").stalled = true;
        for _ in 0..4_000 {
            self.ping(id);
        }
    }

    pub fn qos(&mut self) -> QoS {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.rng.usize(..3)]
    }

    /// A new message in the ledger.
    pub fn message(&mut self, client: usize, topic: &str, qos: QoS, retain: bool, len: usize) -> usize {
        self.ledger.messages.push(Message {
            publisher: client,
            session: self.clients[client].session.unwrap_or(usize::MAX),
            topic: topic.to_owned(),
            qos,
            retain,
            len,
            expiry: None,
            expires: None,
            last_expires: None,
            marked: false,
            will: None,
            leaked: false,
            taken: Vec::new(),
            perhaps: Vec::new(),
            retaken: Vec::new(),
            parked: None,
            recorded: false,
            acknowledged: false,
            refused: false,
            groups: BTreeMap::new(),
        });
        self.ledger.messages.len() - 1
    }

    fn publish(&mut self, client: usize, id: u32) {
        let socket = &self.sockets[&id];
        let busy = !socket.resends.is_empty()
            || self.clients[client].sending.len() >= socket.receive_maximum.min(40);
        let early = socket.resumed && !socket.connacked;
        if busy || early || socket.inbound.len() > 4_000 {
            return;
        }
        let qos = self.qos();
        let retain = self.rng.u8(..5) == 0;
        let topics: &[&str] = match (retain, self.rng.u8(..3)) {
            (true, _) => &RETAINED,
            (false, 0) => &SHARED,
            (false, _) => &LIVE,
        };
        let topic = topics[self.rng.usize(..topics.len())];
        let len = match self.rng.u8(..100) {
            0..8 if retain => 0,
            0..85 => self.rng.usize(8..40),
            85..97 => LARGE + self.rng.usize(..300),
            _ => 5_000,
        };
        self.publish_message(client, topic, qos, retain, len);
    }

    /// Publishes a message with properties as they come.
    pub fn publish_message(&mut self, client: usize, topic: &str, qos: QoS, retain: bool, len: usize) {
        let id = self.clients[client].socket.expect("connected");
        let message = self.message(client, topic, qos, retain, len);
        let mut properties = PropertiesBuf::new();
        let mut wire_topic = topic;
        if self.sockets[&id].version == Version::V5 {
            let expiry =
                (self.plan.exceptions && !retain && self.rng.u8(..5) == 0).then(|| self.rng.u32(1..30));
            let marked = self.rng.u8(..4) == 0;
            let noted = &mut self.ledger.messages[message];
            noted.marked = marked;
            noted.expiry = expiry;
            if let Some(seconds) = expiry {
                properties.push(Property::MessageExpiryInterval(seconds));
            }
            if marked {
                properties.push(Property::UserProperty("mark", "x"));
            }
            if let Some((alias, known)) = self.own_alias(id, topic) {
                properties.push(Property::TopicAlias(alias));
                wire_topic = if known { "" } else { topic };
            }
        }
        let packet_id = (qos > QoS::AtMostOnce).then(|| self.clients[client].next_id());
        let publish = Publish {
            dup: false,
            qos,
            retain,
            topic: wire_topic,
            packet_id,
            properties: properties.as_properties(),
            payload: &payload(message, len),
        };
        self.trace.say(format_args!(
            "client {client} publishes message {message} to {topic} at {qos:?}, {packet_id:?}"
        ));
        let socket = self.sockets.get_mut(&id).expect("connected");
        socket.send(&Packet::Publish(publish), Mark::Publish(message));
        if let Some(packet_id) = packet_id {
            socket.expects.push_back(expected_ack(qos, packet_id));
            let sending = Sending { packet_id, message, qos, taken: false, boot: 0, released: false };
            self.clients[client].sending.push_back(sending);
        }
    }

    /// An alias for a topic, and whether the broker knows it.
    fn own_alias(&mut self, id: u32, topic: &str) -> Option<(u16, bool)> {
        let socket = self.sockets.get_mut(&id).expect("connected");
        if !socket.connacked || self.rng.bool() {
            return None;
        }
        let known = socket.own_aliases.iter().position(|known| known == topic);
        if let Some(index) = known {
            return Some((index as u16 + 1, true));
        }
        if socket.own_aliases.len() >= socket.own_alias_maximum {
            return None;
        }
        socket.own_aliases.push(topic.to_owned());
        Some((socket.own_aliases.len() as u16, false))
    }

    /// Sends the next unfinished message of an earlier connection again.
    pub fn resend(&mut self, id: u32) {
        let socket = self.sockets.get_mut(&id).expect("connected");
        if !socket.connacked {
            return;
        }
        let Some(packet_id) = socket.resends.pop_front() else { return };
        let sending = &self.clients[socket.client].sending;
        let Some(sending) = sending.iter().find(|sending| sending.packet_id == packet_id) else { return };
        if sending.released {
            let ack = Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY };
            socket.send(&Packet::PubRel(ack), Mark::Other);
            socket.expects.push_back(Expect::PubComp(packet_id));
            return;
        }
        let message = &self.ledger.messages[sending.message];
        let mut properties = PropertiesBuf::new();
        if message.marked {
            properties.push(Property::UserProperty("mark", "x"));
        }
        let publish = Publish {
            dup: true,
            qos: message.qos,
            retain: message.retain,
            topic: &message.topic,
            packet_id: Some(packet_id),
            properties: properties.as_properties(),
            payload: &payload(sending.message, message.len),
        };
        self.trace.say(format_args!("socket {id} sends message {} again, {packet_id}", sending.message));
        socket.send(&Packet::Publish(publish), Mark::Publish(sending.message));
        socket.expects.push_back(expected_ack(message.qos, packet_id));
    }

    /// Sends some of the answers that are owed, in any order.
    pub fn reply(&mut self, id: u32) {
        let owed = self.sockets[&id].replies.len();
        let count = if self.draining { owed } else { self.rng.usize(..=owed) };
        for _ in 0..count {
            let socket = self.sockets.get_mut(&id).expect("connected");
            let reply = socket.replies.swap_remove(self.rng.usize(..socket.replies.len()));
            let refuses = socket.version == Version::V5 && self.rng.u8(..20) == 0;
            let reason = if refuses { ReasonCode::UnspecifiedError } else { ReasonCode::Success };
            let ack = |packet_id, reason| Ack { packet_id, reason, properties: Properties::EMPTY };
            let client = &mut self.clients[socket.client];
            self.trace.say(format_args!("socket {id} answers {reply:?}, {reason:?}"));
            let packet = match reply {
                Reply::PubAck(packet_id, message) => {
                    socket.open.remove(&packet_id);
                    self.ledger.done_in_group(client.session.expect("connected"), message);
                    Packet::PubAck(ack(packet_id, reason))
                }
                Reply::PubRec(packet_id, message) => {
                    if refuses {
                        socket.open.remove(&packet_id);
                        client.receiving.remove(&packet_id);
                        self.ledger.refuse(client.session.expect("connected"), message);
                    }
                    self.ledger.done_in_group(client.session.expect("connected"), message);
                    Packet::PubRec(ack(packet_id, reason))
                }
                Reply::PubRel(packet_id) => {
                    socket.expects.push_back(Expect::PubComp(packet_id));
                    Packet::PubRel(ack(packet_id, ReasonCode::Success))
                }
                Reply::PubComp(packet_id) => {
                    socket.open.remove(&packet_id);
                    Packet::PubComp(ack(packet_id, ReasonCode::Success))
                }
            };
            socket.send(&packet, Mark::Other);
        }
    }

    fn subscribe(&mut self, client: usize, id: u32) {
        let (role, version) = (self.clients[client].role, self.clients[client].version);
        let socket = &self.sockets[&id];
        if (socket.resumed && !socket.connacked) || socket.is_subscribing() {
            return;
        }
        let mut filters: Vec<String> = Vec::new();
        if let Role::Worker { group, .. } = role {
            let (name, filter) = GROUPS[group];
            filters.push(format!("$share/{name}/{filter}"));
        }
        for _ in 0..self.rng.usize(..3) {
            let wide = !matches!(role, Role::Worker { .. }) && self.rng.u8(..3) == 0;
            let menu: &[&str] = if wide { &WIDE_FILTERS } else { &PLAIN_FILTERS };
            let filter = menu[self.rng.usize(..menu.len())].to_owned();
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        if filters.is_empty() {
            return;
        }
        let identifier = if version == Version::V5 && self.rng.bool() { self.rng.u32(1..300) } else { 0 };
        let asked: Vec<(String, SubscribeOptions, u32)> = filters
            .into_iter()
            .map(|filter| (self.options(&filter, version), filter))
            .map(|(o, f)| (f, o, identifier))
            .collect();
        self.send_subscribe(client, id, asked);
    }

    fn options(&mut self, filter: &str, version: Version) -> SubscribeOptions {
        let mut options = SubscribeOptions::at_most(self.qos());
        let shared = filter.starts_with("$share/");
        if shared && self.rng.u8(..10) != 0 {
            options.qos = options.qos.max(QoS::AtLeastOnce);
        }
        if version == Version::V5 {
            options.no_local = !shared && self.rng.u8(..4) == 0;
            options.retain_as_published = self.rng.u8(..3) == 0;
            let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
            options.retain_handling = handling[self.rng.usize(..3)];
        }
        options
    }

    /// Sends a SUBSCRIBE and notes what is unsure from now on.
    pub fn send_subscribe(&mut self, client: usize, id: u32, asked: Vec<(String, SubscribeOptions, u32)>) {
        let tick = self.next_tick();
        let packet_id = self.clients[client].next_id();
        let number = self.clients[client].session.expect("connected");
        let session = &mut self.ledger.sessions[number];
        self.trace.say(format_args!("client {client} subscribes {packet_id} @{tick}: {asked:?}"));
        for (filter, options, _) in &asked {
            let takes_retained = |filter: &str| RETAINED.iter().any(|topic| topic::matches(filter, topic));
            if session.terms.keys().any(|known| takes_retained(known)) && takes_retained(filter) {
                session.resubscribed = Tick::MAX;
            }
            session.set_term(filter, tick, Term::Unsure);
            if filter.starts_with("$share/") && options.qos == QoS::AtMostOnce {
                self.ledger.lossy.extend(session.group);
            }
        }
        let mut properties = PropertiesBuf::new();
        if asked[0].2 != 0 {
            properties.push(Property::SubscriptionIdentifier(asked[0].2));
        }
        let mut raw = Vec::new();
        let pairs = asked.iter().map(|(filter, options, _)| (filter.as_str(), *options));
        let filters = SubscribeFilters::encode(pairs, &mut raw);
        let socket = self.sockets.get_mut(&id).expect("connected");
        let subscribe = Subscribe { packet_id, properties: properties.as_properties(), filters };
        socket.send(&Packet::Subscribe(subscribe), Mark::Other);
        socket.expects.push_back(Expect::SubAck(packet_id, asked));
    }

    fn unsubscribe(&mut self, client: usize, id: u32) {
        let number = self.clients[client].session.expect("connected");
        let session = &self.ledger.sessions[number];
        let steady = self.plan.steady_groups;
        let held: Vec<String> = session
            .terms
            .keys()
            .filter(|filter| !(steady && filter.starts_with("$share/")))
            .cloned()
            .collect();
        if held.is_empty() || !self.sockets[&id].connacked || self.sockets[&id].is_subscribing() {
            return;
        }
        let filter = held[self.rng.usize(..held.len())].clone();
        self.send_unsubscribe(client, id, filter);
    }

    /// Sends an UNSUBSCRIBE and notes what is unsure from now on.
    pub fn send_unsubscribe(&mut self, client: usize, id: u32, filter: String) {
        let tick = self.next_tick();
        let number = self.clients[client].session.expect("connected");
        let session = &mut self.ledger.sessions[number];
        session.set_term(&filter, tick, Term::Unsure);
        if filter.starts_with("$share/") {
            session.left = Tick::MAX;
        }
        let packet_id = self.clients[client].next_id();
        self.trace.say(format_args!("client {client} unsubscribes {packet_id} @{tick}: {filter}"));
        let mut raw = Vec::new();
        let filters = UnsubscribeFilters::encode([filter.as_str()], &mut raw);
        let unsubscribe = Unsubscribe { packet_id, properties: Properties::EMPTY, filters };
        let socket = self.sockets.get_mut(&id).expect("connected");
        socket.send(&Packet::Unsubscribe(unsubscribe), Mark::Other);
        socket.expects.push_back(Expect::UnsubAck(packet_id, vec![filter]));
    }
}

pub fn expected_ack(qos: QoS, packet_id: PacketId) -> Expect {
    if qos == QoS::ExactlyOnce { Expect::PubRec(packet_id) } else { Expect::PubAck(packet_id) }
}

/// The payload of a message: its number, and as many bytes as it takes.
pub fn payload(message: usize, len: usize) -> Vec<u8> {
    let mut payload = format!("{message:08}").into_bytes();
    payload.resize(len, b'.');
    payload
}
