//! A client that comes, goes and comes back, and does what a correct one does with its session each time. What it says
//! in between is its role's.

use std::time::{Duration, Instant};

use fastrand::Rng;
use mio::{Registry, Token};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

use crate::book::Book;
use crate::link::Link;

/// What a client does while it is connected.
pub trait Role {
    /// The connection stands. Unless `resumed`, the broker has no session of this client.
    fn connected(&mut self, resumed: bool, desk: &mut Desk<'_>);

    /// A packet came.
    fn received(&mut self, packet: &Packet<'_>, desk: &mut Desk<'_>);

    /// A moment has passed.
    fn turn(&mut self, desk: &mut Desk<'_>);

    /// The connection is gone.
    fn cut(&mut self) {}
}

/// What a role works with.
pub struct Desk<'a> {
    pub version: Version,
    pub now: Instant,
    pub book: &'a mut Book,
    pub rng: &'a mut Rng,
    out: &'a mut Vec<u8>,
}

impl Desk<'_> {
    pub fn put(&mut self, packet: &Packet<'_>) {
        codec::encode(self.version, packet, self.out);
    }
}

/// How a client comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Always there; comes back at once.
    Steady,
    /// There and away for fractions of a second, by every way there is.
    Flapping,
    /// Away.
    Absent,
}

/// What a client asks of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// That it ends with the connection.
    Brief,
    /// That it is there again next time.
    Kept,
    /// That it is kept, but each time it asks for a new one.
    Anew,
}

pub struct Client {
    pub name: String,
    version: Version,
    session: Session,
    pub habit: Habit,
    token: Token,
    link: Option<Link>,
    /// A connection that was replaced by a newer one, and left as it was.
    replaced: Option<Link>,
    /// CONNACK has come over the link.
    accepted: bool,
    /// The broker has acknowledged a session of this client.
    established: bool,
    role: Box<dyn Role>,
    /// When it comes or goes next.
    change_at: Instant,
}

/// What the client may use while it is served.
pub struct Surroundings<'a> {
    pub address: std::net::SocketAddr,
    pub now: Instant,
    pub registry: &'a Registry,
    pub book: &'a mut Book,
    pub rng: &'a mut Rng,
}

impl Client {
    pub fn new(name: &str, version: Version, session: Session, role: Box<dyn Role>, token: Token) -> Client {
        Client {
            name: name.to_owned(),
            version,
            session,
            habit: Habit::Steady,
            token,
            link: None,
            replaced: None,
            accepted: false,
            established: false,
            role,
            change_at: Instant::now(),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.accepted
    }

    /// One round: what has come, what is to be said, and whether it is time to come or go.
    pub fn serve(&mut self, around: &mut Surroundings<'_>) {
        self.read(around);
        if self.accepted
            && let Some(link) = &mut self.link
        {
            self.role.turn(&mut Desk {
                version: self.version,
                now: around.now,
                book: around.book,
                rng: around.rng,
                out: &mut link.out,
            });
        }
        if self.link.as_mut().is_some_and(|link| !link.write()) {
            self.lose();
        }
        self.come_and_go(around);
    }

    fn read(&mut self, around: &mut Surroundings<'_>) {
        let Some(mut link) = self.link.take() else { return };
        let stands = link.read(|bytes, out| {
            let packet = codec::decode(self.version, bytes).expect("the broker sends well-formed packets");
            let mut desk =
                Desk { version: self.version, now: around.now, book: around.book, rng: around.rng, out };
            match packet {
                Packet::ConnAck(connack) => self.acknowledged(&connack, &mut desk),
                // It has noticed that its disk is gone.
                Packet::Disconnect(disconnect) if disconnect.reason == ReasonCode::ServerShuttingDown => {}
                Packet::Disconnect(disconnect) => {
                    let reason = disconnect.reason;
                    desk.book.fault(format!("{} was disconnected: {reason:?}", self.name));
                }
                packet => self.role.received(&packet, &mut desk),
            }
        });
        self.link = Some(link);
        if !stands {
            self.lose();
        }
    }

    fn acknowledged(&mut self, connack: &ConnAck<'_>, desk: &mut Desk<'_>) {
        if connack.reason != ReasonCode::Success {
            return desk.book.fault(format!("{} was refused: {:?}", self.name, connack.reason));
        }
        if self.established && !connack.session_present {
            desk.book.report.sessions_lost += 1;
            if desk.book.report.sessions_lost < 10 {
                desk.book.fault(format!("{}: its session is gone", self.name));
            }
        }
        if connack.session_present && self.session != Session::Kept {
            desk.book.fault(format!("{}: a session that it asked to end is there", self.name));
        }
        self.established = self.session == Session::Kept;
        self.accepted = true;
        self.role.connected(connack.session_present, desk);
    }

    fn come_and_go(&mut self, around: &mut Surroundings<'_>) {
        if self.link.is_some() && !self.accepted {
            // A CONNECT that is left alone may be read after that of the next connection, and take that one's session over.
            return;
        }
        match (self.habit, self.link.is_some()) {
            (Habit::Steady, false) => self.connect(around),
            (Habit::Absent, true) => self.lose(),
            (Habit::Flapping, there) if around.now >= self.change_at => {
                self.change_at = around.now + Duration::from_millis(around.rng.u64(5..300));
                match there {
                    false => self.connect(around),
                    true => self.leave(around),
                }
            }
            _ => {}
        }
    }

    /// By DISCONNECT, by cutting the connection, or by taking it over with another.
    fn leave(&mut self, around: &mut Surroundings<'_>) {
        match around.rng.u8(0..3) {
            0 => {
                if let Some(link) = &mut self.link {
                    let (reason, properties) = (ReasonCode::Success, Properties::EMPTY);
                    let goodbye = Packet::Disconnect(Disconnect { reason, properties });
                    codec::encode(self.version, &goodbye, &mut link.out);
                    let _gone_anyway = link.write();
                }
                self.lose();
            }
            1 => self.lose(),
            _ => {
                self.replaced = self.link.take();
                self.lose();
                self.connect(around);
            }
        }
    }

    fn connect(&mut self, around: &mut Surroundings<'_>) {
        // Refused while the broker is down.
        let Ok(mut link) = Link::open(around.address, self.version, around.registry, self.token) else {
            return;
        };
        let mut properties = PropertiesBuf::new();
        if self.version == Version::V5 {
            let seconds = if self.session == Session::Brief { 0 } else { 86_400 };
            properties.push(Property::SessionExpiryInterval(seconds));
        }
        let connect = Packet::Connect(Connect {
            version: self.version,
            clean_start: self.session != Session::Kept,
            keep_alive: 0,
            properties: properties.as_properties(),
            client_id: &self.name,
            will: None,
            username: None,
            password: None,
        });
        codec::encode(self.version, &connect, &mut link.out);
        self.link = Some(link);
    }

    fn lose(&mut self) {
        self.link = None;
        self.accepted = false;
        self.role.cut();
    }
}
