//! A store that falls behind, or has no room: who is held back, who is refused, and who goes on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use weirmq::limits::{Limits, QueueRule};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;
use weirmq::store::{Page, PageRequest, Pressure, Record, Store, Ticket};

use crate::common::dialogue::*;
use crate::common::world::*;

/// What a store says of itself.
#[derive(Default)]
struct Knobs {
    pushed: Cell<u64>,
    /// How far behind what was pushed the disk is.
    lag: Cell<u64>,
    pressure: Cell<Pressure>,
    full: Cell<bool>,
}

struct KnobStore(Rc<Knobs>);

impl Store for KnobStore {
    fn push(&mut self, _record: Record<'_>) -> Ticket {
        self.0.pushed.set(self.0.pushed.get() + 1);
        Ticket(self.0.pushed.get())
    }

    fn flush(&mut self) {}

    fn durable(&self) -> Ticket {
        Ticket(self.0.pushed.get().saturating_sub(self.0.lag.get()))
    }

    fn has_pages(&self) -> bool {
        false
    }

    fn request(&mut self, _request: PageRequest) {}

    fn next_page(&mut self) -> Option<Page> {
        None
    }

    fn pressure(&self) -> Pressure {
        self.0.pressure.get()
    }

    fn is_full(&self) -> bool {
        self.0.full.get()
    }
}

fn world(settings: WorldSettings) -> (World, Rc<Knobs>) {
    let knobs = Rc::new(Knobs::default());
    let store = knobs.clone();
    let store = Box::new(move || Box::new(KnobStore(store.clone())) as Box<dyn Store>);
    (World::with(WorldSettings { store, ..settings }), knobs)
}

/// The store wakes the shard.
fn wake(w: &mut World) {
    let now = w.now;
    w.shards[0].on_store(now);
    w.run();
}

fn publish(packet_id: u16, qos: QoS, payload: &str) -> Packet<'_> {
    let packet_id = (qos > QoS::AtMostOnce).then(|| id(packet_id));
    Packet::Publish(Publish { packet_id, ..message("t", qos, payload) })
}

#[test]
fn a_store_that_falls_behind_holds_publishers_back_and_nobody_else() {
    let (mut w, knobs) = world(WorldSettings::default());
    let taker = w.resume(V5, "taker");
    w.subscribe(taker, "t", QoS::AtLeastOnce);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "before");
    knobs.pressure.set(Pressure::Publishes);
    let keeps_alive = w.open(&Connect { keep_alive: 10, ..connect(V5, "q", true) });
    for c in [p, keeps_alive] {
        w.send(c, &publish(1, QoS::AtMostOnce, "held"));
        w.send(c, &publish(2, QoS::AtLeastOnce, "held"));
    }
    // Acknowledgements, pings and subscriptions pass, and what was published before.
    assert_eq!(payloads(&w.drain(taker)), ["before"]);
    expect_open(&mut w, taker);
    w.subscribe(taker, "u", QoS::AtLeastOnce);
    assert_eq!(w.take(p), []);
    // Its silence is not its own.
    w.advance(Duration::from_secs(60));
    knobs.pressure.set(Pressure::None);
    wake(&mut w);
    assert_eq!(payloads(&w.drain(taker)), ["held"; 4]);
    for c in [p, keeps_alive] {
        assert_eq!(w.take_one(c).packet(), Packet::PubAck(ack_of(id(2))));
    }
}

#[test]
fn a_store_that_falls_far_behind_is_told_nothing_more() {
    let (mut w, knobs) = world(WorldSettings::default());
    let (taker, other) = (w.resume(V5, "taker"), w.connect(V5, "other"));
    w.subscribe(taker, "t", QoS::ExactlyOnce);
    w.subscribe(other, "t", QoS::AtMostOnce);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::ExactlyOnce, "one");
    let first = only_publish(&mut w, taker).publish().packet_id.expect("QoS 2");
    w.take(other);
    // What is published between is routed; it may come no further.
    w.put(p, &publish(2, QoS::ExactlyOnce, "two"));
    knobs.pressure.set(Pressure::Everything);
    w.run();
    assert_eq!(payloads(&w.take(other)), ["two"]);
    let pushed = knobs.pushed.get();
    w.send(taker, &Packet::PubRec(ack_of(first)));
    w.send(taker, &Packet::PingReq);
    w.send(p, &publish(3, QoS::AtLeastOnce, "three"));
    send_subscribe(&mut w, other, &[("u", options(QoS::AtMostOnce))]);
    assert_eq!(codes(&w.take_one(other)), [0], "a subscription that is not recorded");
    assert_eq!((w.take(taker), knobs.pushed.get()), (vec![], pushed));
    knobs.pressure.set(Pressure::Publishes);
    wake(&mut w);
    let frames = w.take(taker);
    let kinds: Vec<_> = frames.iter().map(|frame| frame.packet().packet_type()).collect();
    assert_eq!(kinds, [PacketType::Publish, PacketType::PubRel, PacketType::PingResp]);
    assert_eq!(payloads(&frames[..1]), ["two"]);
    assert_eq!(w.take(other), []);
    knobs.pressure.set(Pressure::None);
    wake(&mut w);
    assert_eq!(payloads(&w.take(other)), ["three"]);
    expect_balance(&w);
}

#[test]
fn many_that_wait_for_the_store_all_get_their_turn() {
    let (mut w, knobs) = world(WorldSettings::default());
    let publishers: Vec<usize> = (0..50).map(|n| w.connect(V5, &format!("p{n}"))).collect();
    knobs.pressure.set(Pressure::Publishes);
    for p in &publishers {
        w.send(*p, &publish(1, QoS::AtLeastOnce, "x"));
    }
    w.cut(publishers[7]);
    knobs.pressure.set(Pressure::None);
    wake(&mut w);
    for (n, p) in publishers.iter().enumerate().filter(|(n, _)| *n != 7) {
        assert_eq!(w.take(*p).len(), 1, "{n}");
    }
}

#[test]
fn without_room_durable_messages_are_refused_and_all_else_goes_on() {
    let (mut w, knobs) = world(WorldSettings::default());
    let (kept, passing) = (w.resume(V5, "kept"), w.connect(V5, "passing"));
    w.subscribe(kept, "t", QoS::AtLeastOnce);
    w.subscribe(passing, "#", QoS::AtLeastOnce);
    let p = w.connect(V5, "p");
    w.publish(p, "t", QoS::AtLeastOnce, "before");
    knobs.full.set(true);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(w.publish(p, "t", qos, "x"), ReasonCode::QuotaExceeded);
    }
    let retained = Publish { retain: true, ..message("r", QoS::AtLeastOnce, "x") };
    assert_eq!(w.publish_with(p, &retained), ReasonCode::QuotaExceeded);
    assert_eq!(dropped(&w, DropReason::StoreFull), 3);
    assert_eq!(w.publish(p, "other", QoS::AtLeastOnce, "x"), ReasonCode::Success);
    w.publish(p, "t", QoS::AtMostOnce, "0");
    w.publish_with(p, &Publish { retain: true, ..message("r", QoS::AtMostOnce, "not retained") });
    assert_eq!(w.shared.retained().count(), 0);
    assert_eq!(dropped(&w, DropReason::StoreFull), 4);
    assert_eq!(payloads(&w.drain(kept)), ["before", "0"], "and its acknowledgements are taken");
    assert_eq!(payloads(&w.drain(passing)), ["before", "x", "0", "not retained"]);
    knobs.full.set(false);
    assert_eq!(w.publish(p, "t", QoS::AtLeastOnce, "after"), ReasonCode::Success);
    assert_eq!(w.publish_with(p, &retained), ReasonCode::Success);
    expect_balance(&w);
}

#[test]
fn without_room_a_publisher_of_mqtt_3_waits() {
    let (mut w, knobs) = world(WorldSettings::default());
    let kept = w.resume(V5, "kept");
    w.subscribe(kept, "t", QoS::AtLeastOnce);
    let p = w.connect(Version::V4, "p");
    knobs.full.set(true);
    w.send(p, &publish(1, QoS::AtLeastOnce, "one"));
    w.send(
        p,
        &Packet::Publish(Publish {
            retain: true,
            packet_id: Some(id(2)),
            ..message("r", QoS::AtLeastOnce, "2")
        }),
    );
    expect_open(&mut w, p);
    assert_eq!((w.take(p), w.take(kept)), (vec![], vec![]));
    knobs.full.set(false);
    w.advance(Duration::from_secs(1));
    assert_eq!(payloads(&w.drain(kept)), ["one"]);
    assert_eq!(w.take(p).len(), 2);
    assert_eq!(w.shared.retained().count(), 1);
}

#[test]
fn a_client_is_not_read_while_too_much_of_it_waits_for_the_disk() {
    let limits = Limits { receive_bytes: 10_000, ..Limits::default() };
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (mut w, knobs) = world(WorldSettings { limits: limits.clone(), ..WorldSettings::default() });
        let kept = w.resume(V5, "kept");
        w.subscribe(kept, "t", QoS::AtLeastOnce);
        let p = w.connect(V5, "p");
        let payload = "x".repeat(3000);
        knobs.lag.set(1_000_000);
        for n in 1..=10 {
            w.send(p, &publish(n, qos, &payload));
        }
        let got = w.drain(kept).len();
        assert!((3..=4).contains(&got), "{got}");
        assert_eq!(w.take(p), []);
        knobs.lag.set(0);
        wake(&mut w);
        assert_eq!(w.drain(kept).len(), 10 - got);
        assert_eq!(w.take(p).len(), 10);
        expect_open(&mut w, p);
    }
}

#[test]
fn a_durable_queue_keeps_a_message_no_longer_than_the_rule_for_its_topic_says() {
    let rule = |filter: &str, seconds| QueueRule {
        filter: filter.to_owned(),
        message_expiry: Some(Duration::from_secs(seconds)),
        ..QueueRule::default()
    };
    let queue_rules = vec![rule("t/#", 100), rule("t/long/#", 1000), QueueRule::default()];
    let (mut w, _) = world(WorldSettings { queue_rules, ..WorldSettings::default() });
    let kept = w.resume(V5, "kept");
    w.subscribe(kept, "#", QoS::AtLeastOnce);
    w.cut(kept);
    let p = w.connect(V5, "p");
    let own = list(&[Property::MessageExpiryInterval(10)]);
    w.publish_with(
        p,
        &Publish { properties: own.as_properties(), ..message("t/own", QoS::AtLeastOnce, "own") },
    );
    for topic in ["t/x", "t/long/x", "other"] {
        w.publish(p, topic, QoS::AtLeastOnce, topic);
    }
    w.publish_with(p, &Publish { retain: true, ..message("t/kept", QoS::AtLeastOnce, "retained") });
    w.advance(Duration::from_secs(5));
    let kept = w.resume(V5, "kept");
    let left: Vec<_> = w
        .take(kept)
        .iter()
        .map(|frame| {
            find(frame.publish().properties, |property| match property {
                Property::MessageExpiryInterval(left) => Some(left),
                _ => None,
            })
        })
        .collect();
    assert_eq!(left, [Some(5), Some(95), Some(995), None, None]);
}
