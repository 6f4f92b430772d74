//! How clients come and go: CONNECT with what it asks for, take-over, the loss of a connection on either side, DISCONNECT,
//! and what becomes of the session and the will.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use weirmq::broker::shard::Attach;
use weirmq::principal::Principal;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

use super::actions::payload;
use super::broker::Sim;
use super::client::{Goodbye, Mark, Socket};
use super::ledger::{Session, WillFate};
use super::plan::Role;

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

/// Some clients have a user name, and some are anonymous.
fn owner_of(client: usize) -> Principal {
    if client.is_multiple_of(2) { Principal::ANONYMOUS } else { Principal::of_user(format!("user {client}")) }
}

impl Sim {
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
        let principal = owner_of(client);
        let (connect, principal) = (&connect, &principal);
        let attach = Attach {
            connect,
            client_id: &id,
            assigned: false,
            principal,
            listener: "",
            max_packet_size: u32::MAX,
        };
        let connection =
            self.broker.shards[shard].connect(self.now, attach).expect("a client that does nothing wrong");
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
            session: self.clients[client].session.expect("settled above"),
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
            boot: self.ledger.crashes.len(),
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
            // Only 5.0 is told, but no more than that are parked for one that is not.
            receive_maximum: usize::from(server.receive_maximum),
            resends,
        };
        self.clients[client].wills.extend(socket.will.map(|(message, _)| (id, message)));
        self.sockets.insert(id, socket);
        self.clients[client].socket = Some(id);
    }

    fn wishes(&mut self, client: usize) -> Wishes {
        let (role, version) = (self.clients[client].role, self.clients[client].version);
        let is_5 = version == Version::V5;
        let rng = &mut self.rng;
        let (clean, mut expiry) = match role {
            _ if self.clients[client].retired => (true, 0),
            Role::Drifter if self.clients[client].haunted => (true, [0, 30, 100_000][rng.usize(..3)]),
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
        let fate = match self.now >= due || ends {
            true => WillFate::Published(since, tick),
            false if self.ledger.messages[message].leaked => WillFate::Perhaps,
            false => WillFate::Cancelled,
        };
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
        let queue = self.store.journal().queue_of(&self.clients[client].id).filter(|_| wishes.expiry > 0);
        assert!(wishes.expiry == 0 || queue.is_some(), "no record of a session");
        self.ledger.sessions.push(Session::new(client, queue, limited, group));
        self.clients[client].haunted = false;
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
            self.broker.shards[shard].disconnected(self.now, socket.connection);
            self.notice(shard);
        }
    }

    pub fn disconnect(&mut self, client: usize, id: u32) {
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
}
