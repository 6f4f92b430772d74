//! Clients that want more than their part, over real sockets: what they get is counted, and what the others feel of it.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use weirmq::flow::bucket::Rate;
use weirmq::flow::{OnLimit, RateRule, Scope};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::client::*;

/// What a flood sends at once.
const FLOOD: usize = 2_000;

fn rule(scope: Scope, name: &str, messages: u64, on_limit: OnLimit) -> RateRule {
    let rate = Rate { messages, bytes: 0, burst: Duration::from_millis(100) };
    RateRule { scope, name: name.to_owned(), rate, on_limit }
}

fn flood(version: Version, qos: QoS) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..FLOOD {
        let packet_id = (qos > QoS::AtMostOnce).then(|| PacketId::new(number as u16 + 1).expect("not zero"));
        let publish = Publish { packet_id, ..message("t", qos, "flood") };
        codec::encode(version, &Packet::Publish(publish), &mut bytes);
    }
    bytes
}

/// A client whose address is another one of this machine.
fn from_address(last: u8, to: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).expect("an address of this machine");
    socket.connect(&to.into()).expect("the broker is there");
    Client::over(socket.into(), Version::V5)
}

#[test]
fn a_client_over_its_rate_is_held_back_and_others_do_not_feel_it() {
    let server = serve(|config| {
        config.shards = 2;
        config.rates = vec![rule(Scope::Client, "flood", 500, OnLimit::Pause)];
    });
    let address = server.addresses()[0];
    let mut taker = Client::connect(address, Version::V5, "taker");
    taker.subscribe("t", QoS::AtMostOnce);
    let mut flooding = Client::connect(address, Version::V4, "flood");
    let mut other = Client::connect(address, Version::V5, "other");
    flooding.send_bytes(&flood(Version::V4, QoS::AtMostOnce));
    for _ in 0..100 {
        assert_eq!(other.publish("t", QoS::AtLeastOnce, b"other"), ReasonCode::Success);
    }
    let (mut floods, mut others) = (0, 0);
    while others < 100 {
        match taker.take_publish().publish().payload {
            b"flood" => floods += 1,
            _ => others += 1,
        }
    }
    assert!(floods < FLOOD, "all of the flood came before 100 messages of another client");
    // Nothing is lost, and it is there to the end.
    while floods < FLOOD {
        assert_eq!(taker.take_publish().publish().payload, b"flood");
        floods += 1;
    }
    flooding.ping();
}

#[test]
fn a_client_over_its_rate_is_refused_where_the_rule_says_so() {
    let server = serve(|config| config.rates = vec![rule(Scope::Listener, "*", 1, OnLimit::Reject)]);
    let address = server.addresses()[0];
    let mut client = Client::connect(address, Version::V5, "flood");
    assert_eq!(client.publish("t", QoS::AtLeastOnce, b"x"), ReasonCode::NoMatchingSubscribers);
    let refused =
        (0..20).filter(|_| client.publish("t", QoS::AtLeastOnce, b"x") == ReasonCode::QuotaExceeded);
    assert!(refused.count() >= 10);
    // Before MQTT 5 there is no way to say so.
    let mut old = Client::connect(address, Version::V4, "old");
    old.send_bytes(&flood(Version::V4, QoS::AtLeastOnce));
    old.expect_closed();
    client.ping();
}

#[test]
fn an_address_that_connects_too_often_is_told_so_and_others_come_in() {
    let server = serve(|config| config.limits.max_connection_rate_per_address = 2);
    let address = server.addresses()[0];
    let mut told = 0;
    for number in 0..40 {
        let mut client = from_address(2, address);
        client.send(&Packet::Connect(connect(Version::V5, &number.to_string(), true)));
        match client.next().packet() {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::ConnectionRateExceeded => told += 1,
            Packet::ConnAck(connack) => assert_eq!(connack.reason, ReasonCode::Success),
            other => panic!("{other:?}"),
        }
    }
    assert!(told >= 10, "{told} of 40");
    let mut other = from_address(3, address);
    other.hello("other");
    other.ping();
}
