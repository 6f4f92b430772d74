//! Operations on one session, drawn from bytes, against a model of what its client must see. The test
//! draws the bytes from a seed, the fuzz target from the fuzzer.
#![allow(dead_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use weirmq::limits::{Limits, QueueRule};
use weirmq::message::{Message, MessageId, MessageIds, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::codec;
use weirmq::protocol::packet::{Ack, Connect, Packet, PacketId, Publish, QoS, Version};
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::session::link::Link;
use weirmq::session::paging::Paging;
use weirmq::session::{Acknowledged, Action, Context, Delivery, Expiry, Session};
use weirmq::stats::Stats;
use weirmq::store::{Page, PageRequest, Pressure, Record, Store, Ticket};
use weirmq::target::Identifiers;

const OWN: QueueId = QueueId(7);

/// A store that is durable only up to where the driver says.
#[derive(Default)]
struct LaggingStore {
    pushed: u64,
    durable: u64,
    /// The last record of each QoS 2 delivery: that it is about to be sent, or that PUBREC came.
    steps: HashMap<PacketId, u64>,
}

impl Store for LaggingStore {
    fn flush(&mut self) {}

    fn has_pages(&self) -> bool {
        false
    }

    fn request(&mut self, _request: PageRequest) {}

    fn next_page(&mut self) -> Option<Page> {
        None
    }

    fn pressure(&self) -> Pressure {
        Pressure::None
    }

    fn is_full(&self) -> bool {
        false
    }

    fn push(&mut self, record: Record<'_>) -> Ticket {
        self.pushed += 1;
        if let Record::Sent { packet_id, .. } | Record::Stepped(_, packet_id) = record {
            self.steps.insert(packet_id, self.pushed);
        }
        Ticket(self.pushed)
    }

    fn durable(&self) -> Ticket {
        Ticket(self.durable)
    }
}

/// A delivery that the client has been sent and not finished.
#[derive(Debug)]
struct Outstanding {
    packet_id: PacketId,
    number: u64,
    qos: QoS,
    /// PUBREC was sent: from now on only PUBREL may come.
    released: bool,
    /// It was sent on the present connection.
    told: bool,
}

/// An answer that the client waits for.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    PubAck(PacketId),
    PubRec(PacketId),
    PubRel(PacketId),
    PubComp(PacketId),
    PingResp,
}

/// A session and the model of its client.
pub struct Driver {
    version: Version,
    now: Instant,
    session: Session,
    store: LaggingStore,
    paging: Paging,
    ids: MessageIds,
    limits: Limits,
    stats: Stats,
    scratch: Vec<u8>,
    generation: u32,
    window: u16,
    next_number: u64,
    /// QoS 1 and 2 deliveries that the client has not been sent, in order.
    waiting: VecDeque<(u64, QoS)>,
    outstanding: Vec<Outstanding>,
    /// QoS 2 identifiers that the client has published and not released, and in which connection it did so last.
    publishing: Vec<(PacketId, u32)>,
    due: VecDeque<(Due, Ticket)>,
    /// Deliveries at QoS 1 and 2 that were finished.
    pub finished: u64,
}

impl Driver {
    /// A session that keeps its state, in the version that `choice` says.
    pub fn new(choice: u8) -> Driver {
        let meter = Arc::new(QueueMeter::new(&QueueRule::default()));
        Driver {
            version: if choice & 1 == 0 { Version::V4 } else { Version::V5 },
            now: Instant::now(),
            session: Session::new("client", OWN, Expiry::NEVER, Some(meter)),
            store: LaggingStore::default(),
            paging: Paging::default(),
            ids: MessageIds::new(PeerId(0)),
            limits: Limits {
                max_inflight: 1 + u16::from(choice >> 1) % 40,
                receive_maximum: 20,
                ..Limits::default()
            },
            stats: Stats::default(),
            scratch: Vec::new(),
            generation: 0,
            window: 0,
            next_number: 0,
            waiting: VecDeque::new(),
            outstanding: Vec::new(),
            publishing: Vec::new(),
            due: VecDeque::new(),
            finished: 0,
        }
    }

    /// Does one operation: `kind` chooses which, `argument` with what.
    pub fn step(&mut self, kind: u8, argument: u8) {
        if self.session.link.is_none() {
            match kind % 3 {
                0 => self.deliver(argument),
                1 => self.advance(argument),
                _ => self.attach(argument),
            }
            return self.check();
        }
        match kind % 16 {
            0..=4 => self.deliver(argument),
            5..=9 => self.acknowledge(argument),
            10 | 11 => self.publish(argument),
            12 => self.release(argument),
            13 => self.advance(argument),
            14 => self.stray(argument),
            _ if argument.is_multiple_of(4) => self.detach(),
            _ => self.ping(),
        }
        self.take_in();
        self.check();
    }

    /// Lets the client reconnect and acknowledge until nothing is left, and checks that nothing was lost.
    pub fn finish(&mut self) {
        if self.session.link.is_none() {
            self.attach(0);
        }
        self.store.durable = self.store.pushed;
        self.progress();
        self.take_in();
        while !self.outstanding.is_empty() || !self.waiting.is_empty() {
            self.acknowledge(0);
            self.store.durable = self.store.pushed;
            self.progress();
            self.take_in();
        }
        assert_eq!(self.finished, self.next_number, "every delivery was finished");
        assert_eq!(self.stats.queued_messages.get(), 0);
    }

    fn act(&mut self, act: impl FnOnce(&mut Session, &mut Context<'_>)) {
        let mut settled = Vec::new();
        let mut cx = Context {
            now: self.now,
            store: &mut self.store,
            paging: &mut self.paging,
            ids: &mut self.ids,
            limits: &self.limits,
            starts: true,
            outbound_limit: self.limits.outbound_buffer,
            stats: &self.stats,
            scratch: &mut self.scratch,
            settled: &mut settled,
            acl: None,
            rules: 0,
        };
        act(&mut self.session, &mut cx);
        assert!(settled.is_empty(), "no group gave anything");
    }

    fn attach(&mut self, argument: u8) {
        self.generation += 1;
        let receive_maximum = 1 + u16::from(argument) % 50;
        let mut properties = PropertiesBuf::new();
        if self.version == Version::V5 {
            properties.push(Property::ReceiveMaximum(receive_maximum));
        }
        let connect = Connect {
            version: self.version,
            clean_start: false,
            keep_alive: 0,
            properties: properties.as_properties(),
            client_id: "client",
            will: None,
            username: None,
            password: None,
        };
        let mut link = Link::new(self.generation, &connect, 0, &self.limits, self.now);
        link.open = true;
        self.window = self.limits.max_inflight;
        if self.version == Version::V5 {
            self.window = self.window.min(receive_maximum);
        }
        for delivery in &mut self.outstanding {
            delivery.told = false;
        }
        self.session.attach(link);
        self.progress();
        self.take_in();
    }

    fn detach(&mut self) {
        self.session.detach(self.now);
        // A pending PUBACK dies with the connection; a QoS 2 exchange goes on with the session.
        self.due.clear();
    }

    fn progress(&mut self) {
        let durable = self.store.durable();
        let mut sent = 0;
        if let Some(link) = &mut self.session.link {
            link.release(durable, &mut sent);
        }
        self.act(|session, cx| session.pump(cx));
    }

    fn advance(&mut self, argument: u8) {
        let behind = self.store.pushed - self.store.durable;
        self.store.durable += behind * u64::from(argument) / 255;
        self.progress();
    }

    fn deliver(&mut self, argument: u8) {
        let qos = QoS::from_bits(argument % 3).unwrap_or(QoS::AtMostOnce);
        let number = match qos {
            QoS::AtMostOnce => u64::MAX,
            _ => {
                self.waiting.push_back((self.next_number, qos));
                self.next_number += 1;
                self.next_number - 1
            }
        };
        let message = Message::new(MessageParts {
            id: MessageId(number),
            publisher: None,
            qos,
            retain: false,
            expires: None,
            version: 0,
            topic: "t",
            properties: &[],
            payload: &number.to_be_bytes(),
        });
        let delivery = Delivery {
            message: Arc::new(message),
            from: OWN,
            identifiers: Identifiers::default(),
            qos,
            retain: false,
            dup: false,
            metered: false,
            durable: true,
        };
        self.act(|session, cx| session.deliver(delivery, cx));
        self.take_in();
    }

    /// Acknowledges one of the outstanding deliveries as its step demands.
    fn acknowledge(&mut self, argument: u8) {
        if self.outstanding.is_empty() {
            return;
        }
        let index = usize::from(argument) % self.outstanding.len();
        let Outstanding { packet_id, qos, released, told, .. } = self.outstanding[index];
        let packet = match (qos, released) {
            (QoS::ExactlyOnce, false) => Packet::PubRec(ack(packet_id)),
            (QoS::ExactlyOnce, true) => Packet::PubComp(ack(packet_id)),
            _ => Packet::PubAck(ack(packet_id)),
        };
        if qos == QoS::ExactlyOnce && !released {
            self.outstanding[index].released = true;
        } else {
            self.outstanding.remove(index);
            self.finished += 1;
        }
        let recorded = Ticket(self.store.pushed + 1);
        self.act(|session, cx| assert!(matches!(session.receive(packet.clone(), cx), Ok(Action::None))));
        // What this connection has not been told of yet gets its PUBREL in its turn.
        if told && let Packet::PubRec(_) = packet {
            self.due.push_back((Due::PubRel(packet_id), recorded));
        }
    }

    fn publish(&mut self, argument: u8) {
        let qos = QoS::from_bits(argument % 3).unwrap_or(QoS::AtMostOnce);
        let packet_id = PacketId::new(1 + u16::from(argument / 3) % 16).filter(|_| qos > QoS::AtMostOnce);
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: "from/client",
            packet_id,
            properties: Properties::EMPTY,
            payload: b"x",
        };
        let pending = self.due.iter().filter(|(due, _)| matches!(due, Due::PubAck(_))).count();
        let before = self.publishing.iter().position(|(id, _)| Some(*id) == packet_id);
        let before = before.filter(|_| qos == QoS::ExactlyOnce);
        let current = self.publishing.iter().filter(|(_, connection)| *connection == self.generation).count();
        let counted = before.is_some_and(|at| self.publishing[at].1 == self.generation);
        let full = self.version == Version::V5 && !counted && current + pending >= 20;
        let mut outcome = None;
        self.act(|session, cx| outcome = Some(session.receive(Packet::Publish(publish), cx)));
        let Some(packet_id) = packet_id else {
            return assert!(matches!(outcome, Some(Ok(Action::Publish(_, None)))));
        };
        match outcome.expect("received") {
            Err(error) => {
                assert!(full && error.reason == ReasonCode::ReceiveMaximumExceeded, "{error}");
                self.detach();
            }
            Ok(Action::None) => {
                let at = before.expect("only a repeat is not published again");
                assert!(!full, "a repeat counts in each connection");
                self.publishing[at].1 = self.generation;
                self.due.push_back((Due::PubRec(packet_id), Ticket(0)));
            }
            Ok(Action::Publish(_, Some(_))) => {
                assert!(before.is_none(), "a repeat is published once");
                assert!(!full, "more than Receive Maximum");
                let ticket = self.store.push(Record::Released(OWN, packet_id));
                let success = ReasonCode::Success;
                self.act(|session, cx| {
                    assert!(
                        session
                            .published(Acknowledged { packet_id, qos, bytes: 0 }, success, "", ticket, cx)
                            .is_ok()
                    )
                });
                match qos {
                    QoS::ExactlyOnce => {
                        self.publishing.push((packet_id, self.generation));
                        self.due.push_back((Due::PubRec(packet_id), ticket));
                    }
                    _ => self.due.push_back((Due::PubAck(packet_id), ticket)),
                }
            }
            Ok(other) => panic!("{other:?}"),
        }
    }

    fn release(&mut self, argument: u8) {
        let packet_id = PacketId::new(1 + u16::from(argument) % 16).unwrap_or(PacketId::MIN);
        let pushed = self.store.pushed;
        self.act(|session, cx| assert!(session.receive(Packet::PubRel(ack(packet_id)), cx).is_ok()));
        let before = self.publishing.len();
        self.publishing.retain(|(id, _)| *id != packet_id);
        let known = self.publishing.len() < before;
        assert_eq!(self.store.pushed, pushed + u64::from(known), "a release is recorded once");
        let ticket = if known { Ticket(self.store.pushed) } else { Ticket(0) };
        self.due.push_back((Due::PubComp(packet_id), ticket));
    }

    /// An acknowledgement for nothing, or of the wrong kind, must not harm what is under way.
    fn stray(&mut self, argument: u8) {
        let packet_id = PacketId::new(u16::from(argument) + 40_000).unwrap_or(PacketId::MIN);
        if self.outstanding.iter().any(|delivery| delivery.packet_id == packet_id) {
            return;
        }
        let packet = match argument % 3 {
            0 => Packet::PubAck(ack(packet_id)),
            1 => Packet::PubRec(ack(packet_id)),
            _ => Packet::PubComp(ack(packet_id)),
        };
        let answered = matches!(packet, Packet::PubRec(_));
        self.act(|session, cx| assert!(session.receive(packet, cx).is_ok()));
        if answered {
            self.due.push_back((Due::PubRel(packet_id), Ticket(0)));
        }
    }

    fn ping(&mut self) {
        self.act(|session, cx| assert!(session.receive(Packet::PingReq, cx).is_ok()));
        self.due.push_back((Due::PingResp, Ticket(0)));
    }

    /// Reads what the session has written and holds it against the model.
    fn take_in(&mut self) {
        let Some(link) = &mut self.session.link else { return };
        let mut bytes = Vec::new();
        while !link.outbound.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let count = link.outbound.io_slices(&mut slices);
            let before = bytes.len();
            slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
            link.outbound.consume(bytes.len() - before);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let framed = codec::frame(Some(self.version), rest, codec::MAX_PACKET_SIZE).expect("well-formed");
            let (frame, after) = rest.split_at(framed.expect("whole packets"));
            self.see(&codec::decode(self.version, frame).expect("well-formed"));
            rest = after;
        }
    }

    fn see(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Publish(publish) => self.see_publish(publish),
            Packet::PubRel(ack) => self.see_pubrel(ack.packet_id),
            Packet::PubAck(ack) => self.see_answer(&Due::PubAck(ack.packet_id)),
            Packet::PubRec(ack) => self.see_answer(&Due::PubRec(ack.packet_id)),
            Packet::PubComp(ack) => self.see_answer(&Due::PubComp(ack.packet_id)),
            Packet::PingResp => self.see_answer(&Due::PingResp),
            other => panic!("{other:?}"),
        }
    }

    fn see_publish(&mut self, publish: &Publish<'_>) {
        let Some(packet_id) = publish.packet_id else { return };
        let number = u64::from_be_bytes(publish.payload.try_into().expect("eight bytes"));
        match self.outstanding.iter_mut().find(|delivery| delivery.packet_id == packet_id) {
            Some(known) => {
                assert_eq!((known.number, known.qos), (number, publish.qos), "a packet id is in use once");
                assert!(publish.dup && !known.told && !known.released, "{known:?} came again");
                known.told = true;
            }
            None => {
                assert_eq!(self.waiting.pop_front(), Some((number, publish.qos)), "in order, none left out");
                assert!(!publish.dup);
                let (qos, released, told) = (publish.qos, false, true);
                self.outstanding.push(Outstanding { packet_id, number, qos, released, told });
            }
        }
        if publish.qos == QoS::ExactlyOnce {
            assert!(self.store.steps[&packet_id] <= self.store.durable, "sent before that was durable");
        }
        let told = self.outstanding.iter().filter(|delivery| delivery.told).count();
        assert!(told <= usize::from(self.window), "{told} under way, the window is {}", self.window);
    }

    fn see_pubrel(&mut self, packet_id: PacketId) {
        if self.due.iter().any(|(due, _)| *due == Due::PubRel(packet_id)) {
            return self.see_answer(&Due::PubRel(packet_id));
        }
        // Repeated after a reconnect, once.
        assert!(self.store.steps[&packet_id] <= self.store.durable, "PUBREL before PUBREC was durable");
        let known = self.outstanding.iter_mut().find(|delivery| delivery.packet_id == packet_id);
        let known = known.unwrap_or_else(|| panic!("PUBREL {packet_id} for nothing"));
        assert!(known.released && !known.told, "{known:?}");
        known.told = true;
    }

    /// Answers come in the order of what they answer, and not before they are durable. Those that wait
    /// for nothing may pass over to the socket while others are held only if nothing is held before them.
    fn see_answer(&mut self, answer: &Due) {
        let (due, ticket) = self.due.pop_front().unwrap_or_else(|| panic!("{answer:?} for nothing"));
        assert_eq!(due, *answer);
        assert!(ticket <= self.store.durable(), "{answer:?} before it was durable");
    }

    fn check(&self) {
        let unfinished =
            self.waiting.len() + self.outstanding.iter().filter(|delivery| !delivery.released).count();
        assert_eq!(self.stats.queued_messages.get(), unfinished as u64, "nothing is lost or counted twice");
        assert_eq!(self.next_number - self.finished, (self.waiting.len() + self.outstanding.len()) as u64);
    }
}

fn ack(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }
}
