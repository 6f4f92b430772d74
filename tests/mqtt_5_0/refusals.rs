//! What happens around a CONNECT on a real connection: what comes instead of one, how it is refused, and
//! that a connection that ends is closed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use weirmq::config::{Bind, Config, ListenerConfig, StoreConfig, SyncMode};
use weirmq::limits::Limits;
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;
use weirmq::server::Server;

use crate::common::dialogue::*;
use crate::common::wire::{packet, wire};
use crate::common::world::*;

/// A broker with a listener that lets anyone in, and one that asks for credentials.
fn serve() -> Server {
    let bind = Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let open = ListenerConfig { bind, ..ListenerConfig::default() };
    let guarded = ListenerConfig { allow_anonymous: false, ..open.clone() };
    let limits = Limits { client_id_length: 30, topic_levels: 3, ..Limits::default() };
    let store = StoreConfig { sync: SyncMode::Off, ..StoreConfig::default() };
    let config = Config { shards: 2, listeners: vec![open, guarded], limits, store, ..Config::default() };
    Server::start(config).expect("a port is free")
}

const OPEN: usize = 0;
const GUARDED: usize = 1;

const NOTHING: [u8; 0] = [];

fn dial(server: &Server, listener: usize) -> TcpStream {
    let stream = TcpStream::connect(server.addresses()[listener]).expect("the broker listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout is set");
    stream
}

/// Everything that the broker says to `bytes` until it ends the connection, which it must.
fn to_the_end(server: &Server, listener: usize, bytes: &[u8]) -> Vec<u8> {
    let mut stream = dial(server, listener);
    stream.write_all(bytes).expect("sent");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("the broker ends the connection");
    said
}

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(V5, packet, &mut bytes);
    bytes
}

fn connect_with(client_id: &str, clean_start: bool, properties: &[Property<'_>]) -> Vec<u8> {
    let properties = list(properties);
    encoded(&Packet::Connect(Connect {
        properties: properties.as_properties(),
        ..connect(V5, client_id, clean_start)
    }))
}

/// Reads the next packet.
fn read_packet(stream: &mut TcpStream) -> Frame {
    let mut bytes = vec![0; 2];
    stream.read_exact(&mut bytes).expect("a packet comes");
    while bytes.last().is_some_and(|byte| byte & 0x80 != 0) {
        bytes.push(0);
        let last = bytes.len() - 1;
        stream.read_exact(&mut bytes[last..]).expect("its length goes on");
    }
    let size = codec::frame(Some(V5), &bytes, codec::MAX_PACKET_SIZE).expect("well formed").expect("whole");
    let start = bytes.len();
    bytes.resize(size, 0);
    stream.read_exact(&mut bytes[start..]).expect("the rest comes");
    Frame { version: V5, bytes }
}

/// CONNECT packets that are refused, by whom, and with which code.
fn refused() -> Vec<(&'static str, usize, Vec<u8>, ReasonCode)> {
    let method = Property::AuthenticationMethod("K");
    let user = Connect { username: Some("user"), password: Some(b"wrong"), ..connect(V5, "c", false) };
    let will = |topic| Connect { will: Some(will(topic, "")), ..connect(V5, "c", false) };
    vec![
        ("reserved flag", OPEN, packet(0x10, "0004'MQTT'05 01 003C 00 0001'c'"), ReasonCode::MalformedPacket),
        ("not UTF-8", OPEN, packet(0x10, "0004'MQTT'05 02 003C 00 0002 C328"), ReasonCode::MalformedPacket),
        (
            "twice",
            OPEN,
            packet(0x10, "0004'MQTT'05 02 003C 06 210001 210001 0000"),
            ReasonCode::ProtocolError,
        ),
        (
            "level",
            OPEN,
            packet(0x10, "0004'MQTT'06 02 003C 00 0001'c'"),
            ReasonCode::UnsupportedProtocolVersion,
        ),
        ("too long", OPEN, connect_with(&"c".repeat(31), false, &[]), ReasonCode::ClientIdentifierNotValid),
        ("nobody", GUARDED, connect_with("c", false, &[]), ReasonCode::NotAuthorized),
        ("unknown", GUARDED, encoded(&Packet::Connect(user)), ReasonCode::BadUserNameOrPassword),
        ("method", OPEN, connect_with("c", false, &[method]), ReasonCode::BadAuthenticationMethod),
        ("will", OPEN, encoded(&Packet::Connect(will("$SYS/x"))), ReasonCode::NotAuthorized),
        ("deep", OPEN, encoded(&Packet::Connect(will("a/b/c/d"))), ReasonCode::TopicNameInvalid),
    ]
}

/// A broker in which a session `c` is kept, so that a refusal has something that it must not tell.
fn serve_with_session() -> Server {
    let server = serve();
    let mut stream = dial(&server, OPEN);
    stream.write_all(&connect_with("c", true, &[expiry(1000)])).expect("sent");
    assert!(!session_present(&read_packet(&mut stream)));
    stream.write_all(&[0xE0, 0]).expect("sent");
    stream.read_to_end(&mut Vec::new()).expect("closed");
    server
}

#[test]
fn mqtt_3_1_0_1_first_packet_is_not_connect() {
    let server = serve();
    for first in (0..=255).filter(|first| *first != 0x10) {
        assert_eq!(to_the_end(&server, OPEN, &[first, 2, 0, 1]), NOTHING, "{first:02X}");
    }
}

#[test]
fn mqtt_3_1_2_1_protocol_name() {
    let server = serve();
    for name in ["'MQTX'", "'mqtt'", "'HTTP'"] {
        let said = to_the_end(&server, OPEN, &packet(0x10, &format!("0004{name}05 02 003C 00 0001'c'")));
        assert_eq!(said, NOTHING, "what does not speak MQTT would not understand");
    }
}

#[test]
fn mqtt_3_1_2_2_protocol_version() {
    let server = serve();
    for level in ["06", "07", "7F"] {
        let said = to_the_end(&server, OPEN, &packet(0x10, &format!("0004'MQTT'{level} 02 003C 00 0001'c'")));
        assert_eq!(said, wire("20 03 00 84 00"), "{level}");
    }
}

#[test]
fn mqtt_3_1_3_6_an_empty_client_identifier_gets_a_unique_one() {
    let server = serve();
    let mut given = std::collections::BTreeSet::new();
    let mut streams = Vec::new();
    for clean_start in [true, false, true, false] {
        let mut stream = dial(&server, OPEN);
        stream.write_all(&connect_with("", clean_start, &[])).expect("sent");
        let frame = read_packet(&mut stream);
        let assigned = find(connack_properties(&frame), |property| match property {
            Property::AssignedClientIdentifier(name) => Some(name.to_owned()),
            _ => None,
        });
        given.insert(assigned.expect("told"));
        streams.push(stream);
    }
    assert_eq!(given.len(), 4);
}

#[test]
fn mqtt_3_1_3_8_a_refused_client_identifier() {
    let server = serve();
    let said = to_the_end(&server, OPEN, &connect_with(&"c".repeat(31), true, &[]));
    assert_eq!(said, wire("20 03 00 85 00"));
    let mut stream = dial(&server, OPEN);
    stream.write_all(&connect_with(&"c".repeat(30), true, &[])).expect("sent");
    assert!(!session_present(&read_packet(&mut stream)));
}

#[test]
fn mqtt_3_1_4_1_and_2_a_connect_that_is_not_right_or_not_allowed() {
    let server = serve_with_session();
    for (what, listener, bytes, reason) in refused() {
        let said = to_the_end(&server, listener, &bytes);
        assert_eq!(said, [0x20, 3, 0, reason as u8, 0], "{what}");
    }
}

#[test]
fn mqtt_3_1_4_6_nothing_behind_a_refused_connect_is_dealt_with() {
    let server = serve_with_session();
    let retained = encoded(&Packet::Publish(Publish { retain: true, ..message("t", QoS::AtMostOnce, "x") }));
    for (what, listener, mut bytes, reason) in refused() {
        bytes.extend_from_slice(&retained);
        bytes.extend_from_slice(&[0xC0, 0]);
        let said = to_the_end(&server, listener, &bytes);
        assert_eq!(said, [0x20, 3, 0, reason as u8, 0], "{what}");
    }
    let mut stream = dial(&server, OPEN);
    let subscribe = packet(0x82, "0001 00 0001't' 00");
    stream.write_all(&[connect_with("ear", true, &[]), subscribe, vec![0xC0, 0]].concat()).expect("sent");
    let kinds: Vec<u8> = (0..3).map(|_| read_packet(&mut stream).bytes[0]).collect();
    assert_eq!(kinds, [0x20, 0x90, 0xD0], "and no PUBLISH");
}

#[test]
fn mqtt_3_2_2_6_and_8_a_refusal_says_why_and_of_no_session() {
    let server = serve_with_session();
    for (what, listener, bytes, reason) in refused() {
        let said = Frame { version: V5, bytes: to_the_end(&server, listener, &bytes) };
        // Decoding it takes no other reason codes than those of CONNACK.
        match said.packet() {
            Packet::ConnAck(connack) => {
                assert_eq!((connack.session_present, connack.reason), (false, reason), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn mqtt_3_2_2_7_and_4_12_0_4_a_refusal_closes_the_connection() {
    let server = serve_with_session();
    for (what, listener, bytes, _) in refused() {
        let mut stream = dial(&server, listener);
        stream.write_all(&bytes).expect("sent");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("the end comes, not the timeout");
        assert_eq!(said.len(), 5, "{what}");
    }
}

#[test]
fn mqtt_3_14_0_1_no_disconnect_before_connack() {
    let server = serve_with_session();
    for (what, listener, bytes, _) in refused() {
        let said = to_the_end(&server, listener, &bytes);
        assert_eq!(said[0], 0x20, "{what}");
    }
    // What cannot be answered with CONNACK is not answered with DISCONNECT either.
    assert_eq!(to_the_end(&server, OPEN, &[0xE0, 0]), NOTHING);
    assert_eq!(to_the_end(&server, OPEN, &wire("10 FFFFFFFF7F")), NOTHING);
}

#[test]
fn mqtt_3_14_4_2_and_4_13_2_1_a_disconnect_closes_the_connection() {
    let server = serve();
    let mut hello = connect_with("c", true, &[]);
    hello.extend_from_slice(&packet(0x82, "0001 00"));
    let said = to_the_end(&server, OPEN, &hello);
    let connack = 2 + usize::from(said[1]);
    let last = Frame { version: V5, bytes: said[connack..].to_vec() };
    match last.packet() {
        Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason, ReasonCode::ProtocolError),
        other => panic!("{other:?}"),
    };
}

#[test]
fn mqtt_4_2_0_1_a_lossless_ordered_stream() {
    let server = serve();
    let mut stream = dial(&server, OPEN);
    let mut bytes = connect_with("c", true, &[]);
    bytes.extend(packet(0x82, "0001 00 0001't' 01"));
    let payload = |i: u16| format!("{i}:{}", "x".repeat(usize::from(i) % 3000));
    for i in 0..1000 {
        bytes.extend(encoded(&Packet::Publish(message("t", QoS::AtMostOnce, &payload(i)))));
    }
    let mut writer = stream.try_clone().expect("cloned");
    let writing = std::thread::spawn(move || writer.write_all(&bytes).expect("sent"));
    assert_eq!(read_packet(&mut stream).bytes[0], 0x20);
    assert_eq!(read_packet(&mut stream).bytes[0], 0x90);
    for i in 0..1000 {
        let frame = read_packet(&mut stream);
        assert_eq!(frame.publish().payload, payload(i).as_bytes());
    }
    writing.join().expect("written");
}

#[test]
fn a_client_that_cannot_take_a_connack_is_told_nothing() {
    let server = serve();
    for size in [1, 2, 4] {
        let hello = connect_with("c", true, &[Property::MaximumPacketSize(size)]);
        assert_eq!(to_the_end(&server, OPEN, &hello), NOTHING);
    }
    let hello = connect_with("c", true, &[Property::MaximumPacketSize(5)]);
    assert_eq!(to_the_end(&server, OPEN, &hello), wire("20 03 00 83 00"));
}
