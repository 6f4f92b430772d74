//! MQTT over WebSockets, plain and over TLS: conversations over real sockets, the client's side by another implementation.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod websocket;
    pub mod world;
}
#[path = "common/process.rs"]
mod process;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::client::*;
use common::websocket::*;
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use weirmq::config::{Config, ListenerConfig, TlsConfig, TlsVersion, WebSocketConfig};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;
use weirmq::server::Server;

const VERSIONS: [Version; 3] = [Version::V3, Version::V4, Version::V5];
const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn for_websockets() -> ListenerConfig {
    ListenerConfig { websocket: Some(WebSocketConfig::default()), ..on_any_port() }
}

/// A broker that listens for MQTT itself, and for WebSockets.
fn serve_both(change: impl FnOnce(&mut Config)) -> (Server, SocketAddr, SocketAddr) {
    let server = serve(|config| {
        config.shards = 2;
        config.listeners.push(for_websockets());
        change(config);
    });
    let [plain, web] = *server.addresses() else { panic!("two listeners") };
    (server, plain, web)
}

fn encoded(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(version, packet, &mut bytes);
    bytes
}

fn connect_web(address: SocketAddr, version: Version, id: &str) -> Client {
    let mut client = client_over(websocket(address), version);
    client.hello(id);
    client
}

#[test]
fn mqtt_6_0_0_1_packets_travel_in_binary_frames_in_both_directions() {
    let (_server, plain, web) = serve_both(|_| {});
    for version in VERSIONS {
        let mut taker = connect_web(web, version, "taker");
        taker.subscribe("t/#", QoS::ExactlyOnce);
        let mut givers = [connect_web(web, version, "giver"), Client::connect(plain, Version::V5, "plain")];
        for giver in &mut givers {
            for size in [0, 1, 100, 125, 126, 4096, 65_535, 65_536, 70_000, 1_000_000] {
                let payload: Vec<u8> = (0..size).map(|at: usize| (at * 7 % 251) as u8).collect();
                for qos in ALL_QOS {
                    assert_eq!(giver.publish("t/x", qos, &payload), ReasonCode::Success);
                    // The reader that all tests share panics at a text frame.
                    taker.expect_publish("t/x", &payload);
                }
            }
        }
        taker.disconnect();
    }
}

#[test]
fn mqtt_6_0_0_1_any_other_frame_of_data_closes_the_connection() {
    let (_server, _, web) = serve_both(|_| {});
    let mut before = websocket(web);
    before.send(Message::text("hello")).expect("sent");
    assert_eq!(close_code(&mut before), 1003);
    let mut after = websocket(web);
    let connect = encoded(Version::V5, &Packet::Connect(connect(Version::V5, "talker", true)));
    after.send(Message::binary(connect)).expect("sent");
    assert!(after.read().expect("CONNACK").is_binary());
    after.send(Message::text("hello")).expect("sent");
    assert_eq!(close_code(&mut after), 1003);
}

#[test]
fn mqtt_6_0_0_2_packets_and_frames_need_not_begin_and_end_together() {
    let (_server, _, web) = serve_both(|_| {});
    let mut stream = encoded(Version::V5, &Packet::Connect(connect(Version::V5, "cutter", true)));
    for number in 0..20 {
        let payload = format!("{number:050}");
        stream.extend(encoded(Version::V5, &Packet::Publish(message("t", QoS::AtMostOnce, &payload))));
    }
    let mut taker = connect_web(web, Version::V5, "taker");
    taker.subscribe("t", QoS::AtMostOnce);
    for size in [1, 2, 3, 7, 50, 200, stream.len()] {
        let mut websocket = websocket(web);
        for (index, piece) in stream.chunks(size).enumerate() {
            // By turns one frame, and a message of three with an empty one and a Ping within.
            if index % 2 == 0 {
                websocket.write(Message::binary(piece.to_vec())).expect("sent");
                continue;
            }
            let parts =
                [(OpCode::Data(Data::Binary), piece, false), (OpCode::Data(Data::Continue), &[], true)];
            for (opcode, payload, last) in parts {
                let frame = Frame::message(payload.to_vec(), opcode, last);
                websocket.write(Message::Frame(frame)).expect("sent");
                if !last {
                    websocket.write(Message::Ping(vec![1, 2, 3].into())).expect("sent");
                }
            }
        }
        websocket.flush().expect("sent");
        for number in 0..20 {
            taker.expect_publish("t", format!("{number:050}").as_bytes());
        }
    }
}

#[test]
fn mqtt_6_0_0_4_the_subprotocol_is_mqtt() {
    let (_server, _, web) = serve_both(|_| {});
    for (offered, expected) in [
        ("mqtt", Some("mqtt")),
        ("mqttv3.1", Some("mqttv3.1")),
        ("mqttv3.1, mqtt", Some("mqtt")),
        ("amqp", None),
    ] {
        let mut request = request(web, &[]);
        request.headers_mut().insert("Sec-WebSocket-Protocol", offered.parse().expect("a value"));
        match expected {
            None => assert_eq!(refusal(request, web), 400),
            Some(name) => {
                let socket = TcpStream::connect(web).expect("accepted");
                let (_websocket, response) = open(request, socket).expect("a WebSocket");
                assert_eq!(response.headers()["Sec-WebSocket-Protocol"], name);
            }
        }
    }
}

#[test]
fn a_ping_is_answered_and_a_close_too() {
    let (_server, _, web) = serve_both(|_| {});
    let mut websocket = websocket(web);
    // Before MQTT has begun as well as later.
    websocket.send(Message::Ping(b"are you there?"[..].into())).expect("sent");
    assert_eq!(websocket.read().expect("an answer"), Message::Pong(b"are you there?"[..].into()));
    let connect = encoded(Version::V4, &Packet::Connect(connect(Version::V4, "pinger", true)));
    websocket.send(Message::binary(connect)).expect("sent");
    assert!(websocket.read().expect("CONNACK").is_binary());
    websocket.send(Message::Ping(b"still?"[..].into())).expect("sent");
    assert_eq!(websocket.read().expect("an answer"), Message::Pong(b"still?"[..].into()));
    websocket.close(None).expect("sent");
    assert_eq!(close_code(&mut websocket), 1000);
}

#[test]
fn a_close_without_disconnect_fires_the_will_and_one_behind_disconnect_does_not() {
    let (_server, plain, web) = serve_both(|_| {});
    let mut taker = Client::connect(plain, Version::V5, "taker");
    taker.subscribe("will/#", QoS::AtMostOnce);
    for (id, fires) in [("polite", false), ("rude", true)] {
        let mut client = client_over(websocket(web), Version::V5);
        let topic = format!("will/{id}");
        let will = LastWill {
            qos: QoS::AtMostOnce,
            retain: false,
            properties: weirmq::protocol::properties::Properties::EMPTY,
            topic: &topic,
            payload: b"gone",
        };
        client.send(&Packet::Connect(Connect { will: Some(will), ..connect(Version::V5, id, true) }));
        client.accepted();
        if fires {
            client.close_notify();
            taker.expect_publish(&topic, b"gone");
        } else {
            client.disconnect();
            assert!(!taker.has_received(|packet| matches!(packet, Packet::Publish(_))));
        }
    }
}

#[test]
fn the_end_by_the_broker_is_a_disconnect_and_a_close() {
    let (server, _, web) = serve_both(|_| {});
    let mut websocket = websocket(web);
    let hello = encoded(Version::V5, &Packet::Connect(connect(Version::V5, "one", true)));
    websocket.send(Message::binary(hello)).expect("sent");
    assert!(websocket.read().expect("CONNACK").is_binary());
    let stopping = std::thread::spawn(move || server.shutdown());
    let disconnect = websocket.read().expect("DISCONNECT").into_data();
    assert_eq!((disconnect[0], disconnect[2]), (0xE0, 0x8B));
    assert_eq!(close_code(&mut websocket), 1000);
    drop(websocket);
    stopping.join().expect("no panic").expect("no shard failed");
}

#[test]
fn a_reader_that_blocks_goes_on_where_it_was_and_what_it_says_meanwhile_is_heard() {
    let (_server, plain, web) = serve_both(|_| {});
    let mut blocked = websocket(web);
    let hello = encoded(Version::V5, &Packet::Connect(connect(Version::V5, "blocked", true)));
    blocked.send(Message::binary(hello)).expect("sent");
    let mut subscriber = connect_web(web, Version::V5, "probe");
    subscriber.subscribe("pong", QoS::AtMostOnce);
    let mut giver = Client::connect(plain, Version::V5, "giver");
    assert!(blocked.read().expect("CONNACK").is_binary());
    let mut raw = Vec::new();
    let filters = SubscribeFilters::encode([("t", options(QoS::AtLeastOnce))], &mut raw);
    let subscribe = Subscribe {
        packet_id: PacketId::MIN,
        properties: weirmq::protocol::properties::Properties::EMPTY,
        filters,
    };
    blocked.send(Message::binary(encoded(Version::V5, &Packet::Subscribe(subscribe)))).expect("sent");
    assert!(blocked.read().expect("SUBACK").is_binary());
    let payload = |number: usize| vec![number as u8; 100_000];
    for number in 0..10 {
        assert_eq!(giver.publish("t", QoS::AtLeastOnce, &payload(number)), ReasonCode::Success);
    }
    // It reads nothing, and yet what it sends is taken; its Pings are answered between two frames.
    for _ in 0..100 {
        blocked.send(Message::Ping(b"?"[..].into())).expect("sent");
    }
    let note = encoded(Version::V5, &Packet::Publish(message("pong", QoS::AtMostOnce, "heard")));
    blocked.send(Message::binary(note)).expect("sent");
    subscriber.expect_publish("pong", b"heard");
    let mut client = client_over(blocked, Version::V5);
    for number in 0..10 {
        client.expect_publish("t", &payload(number));
    }
}

#[test]
fn bytes_may_dribble_in_one_at_a_time() {
    let (_server, _, web) = serve_both(|_| {});
    let mut raw = TcpStream::connect(web).expect("accepted");
    raw.set_nodelay(true).expect("a socket");
    let request = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    let packet = encoded(Version::V4, &Packet::Connect(connect(Version::V4, "slow", true)));
    // A mask of zeros leaves the payload as it is.
    let frame = [&[0x82, 0x80 | packet.len() as u8, 0, 0, 0, 0][..], &packet].concat();
    for byte in [request.as_bytes(), &frame].concat() {
        raw.write_all(&[byte]).expect("taken");
    }
    let mut answer = Vec::new();
    raw.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let expected = [0x82, 4, 0x20, 2, 0, 0];
    while !answer.ends_with(&expected) {
        let mut byte = [0];
        std::io::Read::read_exact(&mut raw, &mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
}

#[test]
fn wss_carries_mqtt_and_agrees_on_http_in_alpn_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    process::dev_certs(folder.path());
    let file = |name: &str| folder.path().join("certs").join(name);
    let certificates =
        vec![weirmq::config::CertificateFiles { cert: file("server.pem"), key: file("server.key") }];
    let tls = TlsConfig {
        certificates,
        client_ca: None,
        client_crl: None,
        require_client_cert: false,
        identity_from: None,
        min_version: TlsVersion::V1_3,
    };
    let (_server, plain, web) = serve_both(|config| config.listeners[1].tls = Some(tls));
    let trusted = trusting(&file("ca.pem"));
    for alpn in [&[][..], &["http/1.1"], &["h2", "http/1.1"]] {
        let mut config = (*trusted).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut taker = open_wss(web, Version::V5, &config.into());
        taker.hello("taker");
        taker.subscribe("t", QoS::ExactlyOnce);
        let mut giver = Client::connect(plain, Version::V5, "giver");
        for size in [0, 200, 16_000, 70_000, 1_000_000] {
            let payload = vec![size as u8; size];
            assert_eq!(giver.publish("t", QoS::AtLeastOnce, &payload), ReasonCode::Success);
            taker.expect_publish("t", &payload);
            assert_eq!(taker.publish("t", QoS::AtLeastOnce, &payload), ReasonCode::Success);
            taker.expect_publish("t", &payload);
        }
        taker.disconnect();
    }
    let mut config = (*trusted).clone();
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let refused =
        Client::open_tls(web, Version::V5, &config.into(), "localhost").err().expect("no common protocol");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    // The least version is the listener's own.
    let old = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("a version")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let refused = Client::open_tls(web, Version::V5, &old.into(), "localhost").err().expect("too old");
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
}

#[test]
fn a_client_that_leaves_in_the_middle_of_everything_is_let_go() {
    let (server, _, web) = serve_both(|config| config.limits.connect_timeout = Duration::from_secs(60));
    let mut parts = vec![b"GET /mqtt".to_vec()];
    let request = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    parts.push(request.to_vec());
    parts.push([&request[..], &[0x82]].concat());
    parts.push([&request[..], &[0x82, 0x85, 1, 2, 3, 4, 5]].concat());
    // A Close, and then nothing.
    parts.push([&request[..], &[0x88, 0x80, 0, 0, 0, 0]].concat());
    for part in parts {
        let mut raw = TcpStream::connect(web).expect("accepted");
        raw.write_all(&part).expect("taken");
        if !part.ends_with(&[0; 4]) {
            raw.shutdown(std::net::Shutdown::Write).expect("a socket");
        }
        raw.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut answer = Vec::new();
        // A reset ends it as well.
        let _ = std::io::Read::read_to_end(&mut raw, &mut answer);
        if part.ends_with(&[0; 4]) {
            assert!(answer.ends_with(&[0x88, 2, 0x03, 0xE8]), "{answer:?}");
        }
    }
    connect_web(web, Version::V5, "still served").ping();
    server.shutdown().expect("no shard failed");
}
