//! What conversations say again and again: a CONNECT with properties, a Will, a packet and its answer,
//! the end of a connection. [`World`] moves the packets.
#![allow(dead_code)]

use weirmq::broker::shard::Census;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::{DropReason, Stats};

use super::world::*;

/// The version that most conversations are held in.
pub const V5: Version = Version::V5;

/// QoS 0, 1 and 2.
pub const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A Packet Identifier.
pub fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not zero")
}

/// Properties in this order.
pub fn list(properties: &[Property<'_>]) -> PropertiesBuf {
    let mut buf = PropertiesBuf::new();
    for property in properties {
        buf.push(*property);
    }
    buf
}

/// The first property that `pick` takes.
pub fn find<'a, T>(properties: Properties<'a>, pick: impl FnMut(Property<'a>) -> Option<T>) -> Option<T> {
    properties.iter().find_map(pick)
}

/// The User Properties, in order.
pub fn user_properties(properties: Properties<'_>) -> Vec<(&str, &str)> {
    let pairs = properties.iter().filter_map(|property| match property {
        Property::UserProperty(name, value) => Some((name, value)),
        _ => None,
    });
    pairs.collect()
}

/// The Reason String, if there is one.
pub fn reason_string(properties: Properties<'_>) -> Option<&str> {
    find(properties, |property| match property {
        Property::ReasonString(text) => Some(text),
        _ => None,
    })
}

/// The Session Expiry Interval of `seconds`, the property most often asked for.
pub fn expiry(seconds: u32) -> Property<'static> {
    Property::SessionExpiryInterval(seconds)
}

/// Connects with properties; the CONNACK must be a success and is taken.
pub fn open_with(w: &mut World, client_id: &str, clean_start: bool, properties: &[Property<'_>]) -> usize {
    let properties = list(properties);
    w.open(&Connect { properties: properties.as_properties(), ..connect(V5, client_id, clean_start) })
}

/// Connects; the client and its CONNACK.
pub fn connack(w: &mut World, connect: &Connect<'_>) -> (usize, Frame) {
    let client = w.try_connect(connect).expect("accepted");
    let frame = w.clients[client].received.remove(0);
    assert!(matches!(frame.packet(), Packet::ConnAck(_)), "{frame:?}");
    (client, frame)
}

/// Connects with properties; the client and its CONNACK.
pub fn connack_with(
    w: &mut World,
    client_id: &str,
    clean_start: bool,
    properties: &[Property<'_>],
) -> (usize, Frame) {
    let properties = list(properties);
    connack(w, &Connect { properties: properties.as_properties(), ..connect(V5, client_id, clean_start) })
}

/// The Session Present of a CONNACK.
pub fn session_present(frame: &Frame) -> bool {
    match frame.packet() {
        Packet::ConnAck(connack) => connack.session_present,
        other => panic!("expected CONNACK, got {other:?}"),
    }
}

/// The properties of a CONNACK.
pub fn connack_properties(frame: &Frame) -> Properties<'_> {
    match frame.packet() {
        Packet::ConnAck(connack) => connack.properties,
        other => panic!("expected CONNACK, got {other:?}"),
    }
}

/// A Will at QoS 0 without properties.
pub fn will<'a>(topic: &'a str, payload: &'a str) -> LastWill<'a> {
    LastWill {
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Properties::EMPTY,
        topic,
        payload: payload.as_bytes(),
    }
}

/// Connects without Clean Start and with a Will that is due `delay` seconds after the connection, in a
/// session that is kept for `kept` seconds; takes the CONNACK.
pub fn with_will(w: &mut World, client_id: &str, kept: u32, delay: u32, will: LastWill<'_>) -> usize {
    let (properties, mut of_will) = (list(&[expiry(kept)]), PropertiesBuf::new());
    for property in will.properties.iter() {
        of_will.push(property);
    }
    if delay > 0 {
        of_will.push(Property::WillDelayInterval(delay));
    }
    let will = Some(LastWill { properties: of_will.as_properties(), ..will });
    w.open(&Connect { properties: properties.as_properties(), will, ..connect(V5, client_id, false) })
}

/// Sends DISCONNECT.
pub fn disconnect(w: &mut World, client: usize, reason: ReasonCode, properties: &[Property<'_>]) {
    let properties = list(properties);
    let disconnect = Disconnect { reason, properties: properties.as_properties() };
    w.send(client, &Packet::Disconnect(disconnect));
}

/// Asserts that the broker has ended this connection with `reason` in its DISCONNECT, the last packet it
/// sent; what came before that, and the DISCONNECT.
pub fn expect_closed(w: &mut World, client: usize, reason: ReasonCode) -> (Vec<Frame>, Frame) {
    let mut frames = w.take(client);
    let last = frames.pop().unwrap_or_else(|| panic!("no DISCONNECT with {reason:?}"));
    match last.packet() {
        Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason, reason),
        other => panic!("expected DISCONNECT with {reason:?}, got {other:?} behind {frames:?}"),
    }
    assert_eq!(w.clients[client].connection, None, "the connection is still open");
    assert_eq!(w.closed_with(client), Some(reason));
    (frames, last)
}

/// Asserts that the connection is open: a PINGREQ is answered.
pub fn expect_open(w: &mut World, client: usize) {
    let waiting = w.take(client);
    w.send(client, &Packet::PingReq);
    let frames = w.take(client);
    assert!(frames.iter().any(|frame| frame.packet() == Packet::PingResp), "no PINGRESP in {frames:?}");
    w.clients[client].received = waiting;
    w.clients[client].received.extend(frames.into_iter().filter(|frame| frame.packet() != Packet::PingResp));
}

/// Sends a SUBSCRIBE with packet id 9 for these filters.
pub fn send_subscribe(w: &mut World, client: usize, filters: &[(&str, SubscribeOptions)]) {
    let mut raw = Vec::new();
    let filters = SubscribeFilters::encode(filters.iter().copied(), &mut raw);
    w.send(
        client,
        &Packet::Subscribe(Subscribe { packet_id: id(9), properties: Properties::EMPTY, filters }),
    );
}

/// Sends an UNSUBSCRIBE with packet id 8 for these filters.
pub fn send_unsubscribe(w: &mut World, client: usize, filters: &[&str]) {
    let mut raw = Vec::new();
    let filters = UnsubscribeFilters::encode(filters.iter().copied(), &mut raw);
    let unsubscribe = Unsubscribe { packet_id: id(8), properties: Properties::EMPTY, filters };
    w.send(client, &Packet::Unsubscribe(unsubscribe));
}

/// The codes of a SUBACK or UNSUBACK.
pub fn codes(frame: &Frame) -> Vec<u8> {
    match frame.packet() {
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => ack.reasons.to_vec(),
        other => panic!("expected SUBACK or UNSUBACK, got {other:?}"),
    }
}

/// The payloads of PUBLISH packets, as text.
pub fn payloads(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(|frame| String::from_utf8_lossy(frame.publish().payload).into_owned()).collect()
}

/// How many messages were dropped for `reason`, on all shards.
pub fn dropped(w: &World, reason: DropReason) -> u64 {
    w.stats.iter().map(|stats| stats.dropped(reason)).sum()
}

/// The only PUBLISH that a client has received.
pub fn only_publish(w: &mut World, client: usize) -> Frame {
    let frame = w.take_one(client);
    frame.publish();
    frame
}

/// The Subscription Identifiers of a PUBLISH, in rising order.
pub fn identifiers(frame: &Frame) -> Vec<u32> {
    let told = frame.publish().properties.iter().filter_map(|property| match property {
        Property::SubscriptionIdentifier(identifier) => Some(identifier),
        _ => None,
    });
    let mut told: Vec<u32> = told.collect();
    told.sort_unstable();
    told
}

/// Asserts that the books balance: every delivery was completed, waits, or was dropped for one reason.
#[track_caller]
pub fn expect_balance(w: &World) {
    let sum = |counter: fn(&Stats) -> u64| w.stats.iter().map(|stats| counter(stats)).sum::<u64>();
    let of_takers = DropReason::ALL.iter().filter(|reason| !reason.is_refusal());
    let drops: u64 = of_takers.map(|reason| dropped(w, *reason)).sum();
    let (delivered, queued) = (sum(|stats| stats.delivered.get()), sum(|stats| stats.queued_messages.get()));
    assert_eq!(
        sum(|stats| stats.deliveries.get()),
        delivered + queued + drops,
        "delivered {delivered}, queued {queued}, dropped {drops}"
    );
    let census = w.shards.iter().map(|shard| shard.census()).fold(Census::default(), Census::and);
    assert_eq!(queued, (census.queued + census.unacknowledged) as u64, "what is there is what was counted");
}
