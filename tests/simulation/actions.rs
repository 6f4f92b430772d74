//! What clients do of themselves: connect, publish, subscribe, answer late and in any order, vanish.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use weirmq::broker::shard::Attach;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::protocol::topic;

use super::broker::Sim;
use super::client::{Expect, Goodbye, Mark, Reply, Sending, Socket};
use super::ledger::{LARGE, Message, Session, Term, Tick, WillFate};
use super::plan::{GROUPS, LIVE, PLAIN_FILTERS, RETAINED, Role, SHARED, WIDE_FILTERS};

/// What a CONNECT asks for.
struct Wishes {
    clean: bool,
    expiry: u32,
    keep_alive: u16,
    window: u16,
    aliases: u16,
    max_packet: Option<u32>,
    will: Option<Will>,
}

struct Will {
    message: usize,
    delay: u32,
    qos: QoS,
    retain: bool,
    topic: String,
    payload: Vec<u8>,
}

impl Sim {
    /// Something that one client does.
    pub fn act(&mut self, client: usize) {
        let Some(id) = self.clients[client].socket else {
            if self.rng.u8(..3) == 0 {
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

    /// Connects, taking over its own connection if it still has one.
    pub fn connect(&mut self, client: usize) {
        let wishes = self.wishes(client);
        if let Some(old) = self.clients[client].socket {
            self.abandon(old);
        }
        self.meet_will(client, wishes.clean);
        let (version, shard) = (self.clients[client].version, self.clients[client].shard);
        let mut properties = PropertiesBuf::new();
        let mut will_properties = PropertiesBuf::new();
        if version == Version::V5 {
            properties.push(Property::SessionExpiryInterval(wishes.expiry));
            properties.push(Property::ReceiveMaximum(wishes.window));
            properties.push(Property::TopicAliasMaximum(wishes.aliases));
            if let Some(bytes) = wishes.max_packet {
                properties.push(Property::MaximumPacketSize(bytes));
            }
            if let Some(will) = &wishes.will {
                will_properties.push(Property::WillDelayInterval(will.delay));
            }
        }
        let id = self.clients[client].id.clone();
        let connect = Connect {
            version,
            clean_start: wishes.clean,
            keep_alive: wishes.keep_alive,
            properties: properties.as_properties(),
            client_id: &id,
            will: wishes.will.as_ref().map(|will| LastWill {
                qos: will.qos,
                retain: will.retain,
                properties: will_properties.as_properties(),
                topic: &will.topic,
                payload: &will.payload,
            }),
            username: None,
            password: None,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let attach = Attach { connect: &connect, client_id: &id, assigned: false, address };
        let connection =
            self.shards[shard].connect(self.now, attach).expect("a client that does nothing wrong");
        // Of a connection that was taken over; its session may be over with it.
        self.notice(shard);
        let resumed = self.settle_session(client, &wishes);
        if let (Some(will), Some(session)) = (&wishes.will, self.clients[client].session) {
            self.ledger.messages[will.message].session = session;
        }
        self.last_socket += 1;
        let id = self.last_socket;
        self.trace.say(format_args!(
            "client {client} ({version:?}) connects: socket {id} at shard {shard}, session {:?}, clean {}, expiry {}",
            self.clients[client].session, wishes.clean, wishes.expiry
        ));
        let server = &self.plan.limits;
        let is_5 = version == Version::V5;
        let resends = if resumed {
            self.clients[client].sending.iter().map(|s| s.packet_id).collect()
        } else {
            VecDeque::new()
        };
        let socket = Socket {
            client,
            shard,
            connection,
            version,
            inbound: VecDeque::new(),
            unread: Vec::new(),
            outbound: VecDeque::new(),
            partial: Vec::new(),
            marks: VecDeque::new(),
            written: 0,
            consumed: 0,
            connected: self.now,
            last_consumed: self.now,
            paused: false,
            closed: false,
            cut: false,
            goodbye: None,
            stalled: false,
            connacked: false,
            resumed,
            replies: Vec::new(),
            expects: VecDeque::new(),
            open: BTreeSet::new(),
            window: usize::from(if is_5 {
                wishes.window.min(server.max_inflight)
            } else {
                server.max_inflight
            }),
            max_packet: wishes.max_packet.map_or(usize::MAX, |bytes| bytes as usize),
            keep_alive: wishes.keep_alive,
            expiry: wishes.expiry,
            will: wishes.will.map(|will| (will.message, will.delay)),
            aliases: BTreeMap::new(),
            own_aliases: Vec::new(),
            alias_maximum: usize::from(wishes.aliases),
            own_alias_maximum: if is_5 { usize::from(server.topic_alias_maximum) } else { 0 },
            receive_maximum: if is_5 { usize::from(server.receive_maximum) } else { 20 },
            quiet: 0,
            resends,
        };
        self.sockets.insert(id, socket);
        self.clients[client].socket = Some(id);
    }

    fn wishes(&mut self, client: usize) -> Wishes {
        let (role, version) = (self.clients[client].role, self.clients[client].version);
        let is_5 = version == Version::V5;
        let rng = &mut self.rng;
        let (clean, mut expiry) = match role {
            _ if self.clients[client].retired => (true, 0),
            Role::Keeper | Role::Worker { persistent: true, .. } => (false, u32::MAX - 1),
            Role::Worker { persistent: false, .. } => (true, 0),
            Role::Drifter if self.draining => (false, 100_000),
            Role::Drifter => (rng.bool(), [0, 3, 30, 100_000][rng.usize(..4)]),
        };
        if !is_5 {
            let month = self.plan.limits.session_expiry_max.expect("the default").as_secs() as u32;
            expiry = if clean { 0 } else { month };
        } else if expiry > 2_592_000 {
            expiry = 2_592_000;
        }
        let plain = matches!(role, Role::Keeper | Role::Drifter);
        let limited = is_5 && plain && self.plan.exceptions && !self.draining && self.rng.bool();
        let rng = &mut self.rng;
        Wishes {
            clean,
            expiry,
            keep_alive: if self.draining { 0 } else { [0, 0, 10, 60][rng.usize(..4)] },
            window: [1, 3, 10, 65_535][rng.usize(..4)],
            aliases: if is_5 { [0, 0, 1, 5][rng.usize(..4)] } else { 0 },
            max_packet: limited.then_some(250),
            will: (!self.draining && self.rng.u8(..3) == 0).then(|| self.will(client)),
        }
    }

    fn will(&mut self, client: usize) -> Will {
        let version = self.clients[client].version;
        let qos = self.qos();
        let delay = if version == Version::V5 { [0, 0, 4, 40][self.rng.usize(..4)] } else { 0 };
        let topic = format!("w/{client}");
        let retain = self.rng.u8(..4) == 0;
        let message = self.message(client, &topic, qos, retain, 12);
        self.ledger.messages[message].will = Some(WillFate::Waiting);
        Will { message, delay, qos, retain, topic, payload: payload(message, 12) }
    }

    /// What connecting does to a will that is still due.
    fn meet_will(&mut self, client: usize, clean: bool) {
        let Some((message, due, since)) = self.clients[client].will_due.take() else { return };
        let tick = self.next_tick();
        let ends = clean || self.clients[client].left.is_some_and(|left| left.is_over(self.now));
        let fate =
            if self.now >= due || ends { WillFate::Published(since, tick) } else { WillFate::Cancelled };
        self.ledger.messages[message].will = Some(fate);
    }

    /// Whether the broker must have a session for this CONNECT; if not, a new one begins.
    fn settle_session(&mut self, client: usize, wishes: &Wishes) -> bool {
        // A connection that this one took over may have left a will with a delay.
        self.meet_will(client, wishes.clean);
        if self.clients[client].left.take().is_some_and(|left| left.is_over(self.now)) || wishes.clean {
            self.end_session(client);
        }
        let limited = wishes.max_packet.is_some();
        if let Some(number) = self.clients[client].session {
            let session = &mut self.ledger.sessions[number];
            session.connections += 1;
            session.limited |= limited;
            return true;
        }
        let group = match self.clients[client].role {
            Role::Worker { group, .. } => Some(group),
            _ => None,
        };
        self.clients[client].forget();
        self.clients[client].session = Some(self.ledger.sessions.len());
        self.ledger.sessions.push(Session::new(client, wishes.expiry > 0, limited, group));
        false
    }

    /// The client has gone; the broker will notice some time.
    pub fn cut(&mut self, id: u32) {
        self.trace.say(format_args!("socket {id} is cut"));
        self.abandon(id);
        if self.rng.bool() {
            self.lose(id);
        }
    }

    /// The client lets go of a connection without a word; some of what it sent last may be lost.
    fn abandon(&mut self, id: u32) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.cut = true;
        let arrives = self.rng.usize(..=socket.inbound.len());
        socket.inbound.truncate(arrives);
        self.clients[socket.client].socket = None;
        if socket.closed {
            self.sockets.remove(&id);
        }
    }

    /// The broker notices that a connection is gone.
    pub fn lose(&mut self, id: u32) {
        let count = if self.draining { usize::MAX } else { self.rng.usize(..200) };
        self.feed(id, count);
        if let Some(socket) = self.sockets.get(&id).filter(|socket| !socket.closed) {
            let shard = socket.shard;
            self.shards[shard].disconnected(self.now, socket.connection);
            self.notice(shard);
        }
    }

    fn disconnect(&mut self, client: usize, id: u32) {
        if self.clients[client].role != Role::Drifter {
            return;
        }
        let rng = &mut self.rng;
        let socket = &self.sockets[&id];
        let is_5 = socket.version == Version::V5;
        let with_will = is_5 && rng.bool();
        let expiry = (is_5 && socket.expiry > 0 && rng.bool()).then(|| [0, 5, 50][rng.usize(..3)]);
        self.say_goodbye(client, id, Goodbye { with_will, expiry });
        if self.rng.bool() {
            self.feed(id, usize::MAX);
        }
    }

    /// Ends a client's session for good: lets it expire, or has it thrown away by a clean start.
    pub fn retire(&mut self, client: usize) {
        self.clients[client].retired = true;
        let id = self.clients[client].socket.expect("connected");
        let socket = &self.sockets[&id];
        if socket.version == Version::V5 && socket.expiry > 0 && self.rng.bool() {
            self.say_goodbye(client, id, Goodbye { with_will: false, expiry: Some(1) });
        } else {
            self.connect(client);
            let id = self.clients[client].socket.expect("connected");
            self.say_goodbye(client, id, Goodbye { with_will: false, expiry: None });
        }
    }

    /// Sends DISCONNECT, and is gone.
    fn say_goodbye(&mut self, client: usize, id: u32, goodbye: Goodbye) {
        let Goodbye { with_will, expiry } = goodbye;
        let mut properties = PropertiesBuf::new();
        if let Some(seconds) = expiry {
            properties.push(Property::SessionExpiryInterval(seconds));
        }
        let reason = if with_will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
        let packet = Packet::Disconnect(Disconnect { reason, properties: properties.as_properties() });
        let socket = self.sockets.get_mut(&id).expect("connected");
        socket.send(&packet, Mark::Other);
        socket.goodbye = Some(goodbye);
        socket.cut = true;
        self.clients[client].socket = None;
        self.trace.say(format_args!("socket {id} says goodbye: will {with_will}, expiry {expiry:?}"));
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

    fn qos(&mut self) -> QoS {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.rng.usize(..3)]
    }

    /// A new message in the ledger.
    fn message(&mut self, client: usize, topic: &str, qos: QoS, retain: bool, len: usize) -> usize {
        self.ledger.messages.push(Message {
            publisher: client,
            session: self.clients[client].session.unwrap_or(usize::MAX),
            topic: topic.to_owned(),
            qos,
            retain,
            len,
            expiry: None,
            expires: None,
            marked: false,
            will: None,
            taken: Vec::new(),
            perhaps: Vec::new(),
            acknowledged: false,
            answered: None,
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
            let sending = Sending { packet_id, message, qos, taken: false, released: false };
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
