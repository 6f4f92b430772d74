//! What waits for the disk and what does not, with a store that gets on only when the test says so.

use std::cell::Cell;
use std::rc::Rc;

use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;
use weirmq::store::{Page, PageRequest, Pressure, Record, Store, Ticket};

use crate::common::dialogue::*;
use crate::common::world::*;

/// Positions in the store's FIFO.
#[derive(Default)]
struct Positions {
    pushed: Cell<u64>,
    durable: Cell<u64>,
}

struct SlowStore(Rc<Positions>);

impl Store for SlowStore {
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

    fn push(&mut self, _record: Record<'_>) -> Ticket {
        self.0.pushed.set(self.0.pushed.get() + 1);
        Ticket(self.0.pushed.get())
    }

    fn durable(&self) -> Ticket {
        Ticket(self.0.durable.get())
    }
}

/// A broker of one shard, and the hand on its disk.
struct Slow {
    w: World,
    disk: Rc<Positions>,
}

impl Slow {
    fn new() -> Slow {
        let disk = Rc::new(Positions::default());
        let store = disk.clone();
        let make = move || Box::new(SlowStore(store.clone())) as Box<dyn Store>;
        let w = World::with(WorldSettings { store: Box::new(make), ..WorldSettings::default() });
        Slow { w, disk }
    }

    /// The disk makes all progress that there is to make.
    fn sync(&mut self) {
        self.sync_to(self.disk.pushed.get());
    }

    fn sync_to(&mut self, position: u64) {
        self.disk.durable.set(position);
        let now = self.w.now;
        self.w.shards[0].on_durable(now);
        self.w.run();
    }

    /// Connects with a session that lasts; its CONNACK is waited for.
    fn resume(&mut self, client_id: &str) -> usize {
        let c = self.resume_unanswered(client_id);
        self.sync();
        assert!(matches!(self.w.clients[c].received.remove(0).packet(), Packet::ConnAck(_)));
        c
    }

    /// The same, without the wait.
    fn resume_unanswered(&mut self, client_id: &str) -> usize {
        let properties = list(&[expiry(1000)]);
        let hello = Connect { properties: properties.as_properties(), ..connect(V5, client_id, false) };
        self.w.try_connect(&hello).expect("accepted")
    }

    /// Subscribes; the SUBACK is waited for.
    fn subscribe(&mut self, client: usize, filter: &str, qos: QoS) {
        send_subscribe(&mut self.w, client, &[(filter, options(qos))]);
        self.sync();
        assert_eq!(codes(&self.w.clients[client].received.remove(0)), [qos as u8]);
    }
}

fn publish(packet_id: u16, qos: QoS, payload: &str) -> Packet<'_> {
    Packet::Publish(Publish { packet_id: Some(id(packet_id)), ..message("t", qos, payload) })
}

fn types(frames: &[Frame]) -> Vec<PacketType> {
    frames.iter().map(|frame| frame.packet().packet_type()).collect()
}

#[test]
fn connack_of_a_session_that_does_not_last_waits_for_the_end_of_the_one_before() {
    let mut s = Slow::new();
    s.resume("c");
    s.resume("d");
    s.w.connect(V5, "e");
    let c = s.w.try_connect(&connect(V5, "c", true)).expect("accepted");
    assert_eq!(s.w.take(c), [], "after a crash the old session would be there");
    s.sync();
    assert_eq!(types(&s.w.take(c)), [PacketType::ConnAck]);
}

#[test]
fn connack_of_a_session_that_lasts_waits_and_all_else_behind_it() {
    let mut s = Slow::new();
    let c = s.resume_unanswered("c");
    s.w.send(c, &Packet::PingReq);
    send_subscribe(&mut s.w, c, &[("t", options(QoS::AtMostOnce))]);
    let p = s.w.connect(V5, "p");
    s.w.publish(p, "t", QoS::AtMostOnce, "x");
    assert_eq!(s.w.take(c), []);
    s.sync();
    assert_eq!(types(&s.w.take(c)), [PacketType::ConnAck, PacketType::PingResp, PacketType::SubAck]);
    s.w.publish(p, "t", QoS::AtMostOnce, "y");
    assert_eq!(payloads(&s.w.take(c)), ["y"]);
}

#[test]
fn no_disconnect_before_a_connack_that_waits() {
    // An error, or another connection, may end it before that.
    let mut s = Slow::new();
    let c = s.resume_unanswered("c");
    s.w.send_bytes(c, &[0x00]);
    assert_eq!(s.w.take(c), []);
    assert_eq!(s.w.closed_with(c), Some(ReasonCode::MalformedPacket));
    let old = s.resume_unanswered("d");
    let new = s.resume("d");
    assert_eq!(s.w.take(old), []);
    assert_eq!(s.w.closed_with(old), Some(ReasonCode::SessionTakenOver));
    expect_open(&mut s.w, new);
}

#[test]
fn acknowledgements_wait_and_keep_their_order() {
    let mut s = Slow::new();
    let away = s.resume("away");
    s.subscribe(away, "t", QoS::ExactlyOnce);
    s.w.cut(away);
    let p = s.w.connect(V5, "p");
    let before = s.disk.pushed.get();
    s.w.send(p, &publish(1, QoS::AtLeastOnce, "first"));
    s.w.send(p, &publish(2, QoS::ExactlyOnce, "second"));
    // This one goes to nobody: it has no reason to wait but those before it.
    let nobodys = Publish { packet_id: Some(id(3)), ..message("u", QoS::AtLeastOnce, "") };
    s.w.send(p, &Packet::Publish(nobodys));
    s.w.send(p, &Packet::PingReq);
    assert_eq!(s.w.take(p), []);
    s.sync_to(before + 1);
    assert_eq!(types(&s.w.take(p)), [PacketType::PubAck]);
    s.sync();
    assert_eq!(types(&s.w.take(p)), [PacketType::PubRec, PacketType::PubAck, PacketType::PingResp]);
}

#[test]
fn what_only_transient_clients_take_waits_for_nothing() {
    let mut s = Slow::new();
    let (c, p) = (s.w.connect(V5, "c"), s.w.connect(V5, "p"));
    s.w.subscribe(c, "t", QoS::ExactlyOnce);
    for qos in EVERY_QOS {
        assert_eq!(s.w.publish(p, "t", qos, "x"), ReasonCode::Success);
    }
    assert_eq!(s.w.drain(c).len(), 3);
}

#[test]
fn a_qos_2_delivery_waits_and_those_behind_it_too() {
    let mut s = Slow::new();
    let c = s.resume("c");
    s.subscribe(c, "t", QoS::ExactlyOnce);
    let p = s.w.connect(V5, "p");
    s.w.send(p, &publish(1, QoS::AtLeastOnce, "first"));
    assert_eq!(payloads(&s.w.take(c)), ["first"], "at QoS 1 it does not wait");
    s.w.send(p, &publish(2, QoS::ExactlyOnce, "second"));
    s.w.send(p, &publish(3, QoS::AtLeastOnce, "third"));
    s.w.send(p, &Packet::Publish(message("t", QoS::AtMostOnce, "at QoS 0")));
    assert_eq!(payloads(&s.w.take(c)), ["at QoS 0"]);
    s.sync();
    assert_eq!(payloads(&s.w.take(c)), ["second", "third"]);
}

#[test]
fn pubrel_and_pubcomp_wait() {
    let mut s = Slow::new();
    let (c, p) = (s.resume("c"), s.resume("p"));
    s.subscribe(c, "t", QoS::ExactlyOnce);
    s.w.send(p, &publish(7, QoS::ExactlyOnce, "x"));
    s.sync();
    assert_eq!(types(&s.w.take(p)), [PacketType::PubRec]);
    s.w.send(p, &Packet::PubRel(ack_of(id(7))));
    assert_eq!(s.w.take(p), []);
    let given = only_publish(&mut s.w, c).publish().packet_id.expect("QoS 2");
    s.w.send(c, &Packet::PubRec(ack_of(given)));
    assert_eq!(s.w.take(c), []);
    s.sync();
    assert_eq!(types(&s.w.take(p)), [PacketType::PubComp]);
    assert_eq!(types(&s.w.take(c)), [PacketType::PubRel]);
}

#[test]
fn a_repeat_of_what_waits_is_answered_when_that_is() {
    let mut s = Slow::new();
    let away = s.resume("away");
    s.subscribe(away, "t", QoS::ExactlyOnce);
    s.w.cut(away);
    let p = s.resume("p");
    s.w.send(p, &publish(7, QoS::ExactlyOnce, "once"));
    s.w.cut(p);
    let p = s.resume_unanswered("p");
    s.w.send(p, &publish(7, QoS::ExactlyOnce, "once"));
    assert_eq!(s.w.take(p), []);
    s.sync();
    assert_eq!(types(&s.w.take(p)), [PacketType::ConnAck, PacketType::PubRec]);
    let away = s.resume("away");
    s.sync();
    assert_eq!(payloads(&s.w.take(away)), ["once"]);
}

#[test]
fn an_acknowledgement_that_waits_ends_with_its_connection() {
    let mut s = Slow::new();
    let away = s.resume("away");
    s.subscribe(away, "t", QoS::AtLeastOnce);
    s.w.cut(away);
    let p = s.resume("p");
    s.w.send(p, &publish(1, QoS::AtLeastOnce, "x"));
    s.w.cut(p);
    let p = s.resume("p");
    assert_eq!(s.w.take(p), [], "at QoS 1 it belonged to the connection");
    // The message stays, and the client's repeat is a new one.
    s.w.send(p, &publish(1, QoS::AtLeastOnce, "x"));
    s.sync();
    assert_eq!(types(&s.w.take(p)), [PacketType::PubAck]);
    let away = s.resume("away");
    assert_eq!(payloads(&s.w.drain(away)), ["x", "x"]);
}

#[test]
fn a_publish_whose_acknowledgement_waits_counts_against_receive_maximum() {
    let disk = Rc::new(Positions::default());
    let store = disk.clone();
    let limits = weirmq::limits::Limits { receive_maximum: 2, ..Default::default() };
    let make = move || Box::new(SlowStore(store.clone())) as Box<dyn Store>;
    let w = World::with(WorldSettings { limits, store: Box::new(make), ..WorldSettings::default() });
    let mut s = Slow { w, disk };
    let away = s.resume("away");
    s.subscribe(away, "t", QoS::AtLeastOnce);
    s.w.cut(away);
    let p = s.w.connect(V5, "p");
    for packet_id in [1, 2] {
        s.w.send(p, &publish(packet_id, QoS::AtLeastOnce, "x"));
    }
    s.sync();
    assert_eq!(s.w.take(p).len(), 2);
    for packet_id in [1, 2, 3] {
        s.w.send(p, &publish(packet_id, QoS::AtLeastOnce, "x"));
    }
    expect_closed(&mut s.w, p, ReasonCode::ReceiveMaximumExceeded);
}
