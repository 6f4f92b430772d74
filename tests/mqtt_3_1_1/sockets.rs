//! What a server does with a socket before there is a session: it is judged by real bytes on real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use weirmq::config::{Bind, Config, ListenerConfig, StoreConfig, SyncMode};
use weirmq::server::Server;

use crate::common::wire::packet;

/// No test waits for this: it turns a broker that does not answer into a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker with two listeners: the first takes anybody, the second nobody.
fn broker() -> Server {
    let listener = |allow_anonymous| ListenerConfig {
        bind: Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        allow_anonymous,
        ..ListenerConfig::default()
    };
    let listeners = vec![listener(true), listener(false)];
    let store = StoreConfig { sync: SyncMode::Off, ..StoreConfig::default() };
    Server::start(Config { shards: 2, listeners, store, ..Config::default() }).expect("the broker starts")
}

/// A client made of bytes.
struct Peer(TcpStream);

impl Peer {
    fn new(server: &Server) -> Peer {
        Peer::at(server, 0)
    }

    fn at(server: &Server, listener: usize) -> Peer {
        let stream = TcpStream::connect(server.addresses()[listener]).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Peer(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        match self.0.write_all(bytes) {
            Ok(()) => {}
            // The broker may have closed before it has read all of it.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// The next bytes are these.
    #[track_caller]
    fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.0.read_exact(&mut got).expect("an answer");
        assert_eq!(got, bytes, "{got:02X?} and not {bytes:02X?}");
    }

    /// These bytes are the last ones: the broker closes behind them.
    #[track_caller]
    fn expect_last(&mut self, bytes: &[u8]) {
        let mut got = Vec::new();
        self.0.read_to_end(&mut got).expect("the broker closes");
        assert_eq!(got, bytes, "{got:02X?} and not {bytes:02X?}");
    }

    /// Connects and reads the CONNACK.
    fn connect(server: &Server, client_id: &str, clean_session: bool, session_present: bool) -> Peer {
        let mut peer = Peer::new(server);
        peer.send(&connect(client_id, clean_session));
        peer.expect(&[0x20, 0x02, u8::from(session_present), 0x00]);
        peer
    }
}

/// A CONNECT of 3.1.1.
fn connect(client_id: &str, clean_session: bool) -> Vec<u8> {
    let flags = if clean_session { "02" } else { "00" };
    packet(0x10, &format!("0004'MQTT'04 {flags} 003C {:04X}'{client_id}'", client_id.len()))
}

/// Sends these bytes as the first on a socket of their own; the broker closes behind `answer`.
#[track_caller]
fn answered(server: &Server, bytes: &[u8], answer: &[u8]) {
    let mut peer = Peer::new(server);
    peer.send(bytes);
    peer.expect_last(answer);
}

#[test]
fn mqtt_3_1_0_1_nothing_comes_before_connect() {
    let server = broker();
    for bytes in [
        packet(0x30, "0001't' 'x'"),
        packet(0x82, "0001 0001't' 00"),
        packet(0xC0, ""),
        packet(0xE0, ""),
        packet(0x20, "0000"),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        // A CONNECT behind it does not help.
        answered(&server, &[bytes, connect("c", true)].concat(), &[]);
    }
}

#[test]
fn mqtt_3_1_2_1_another_protocol_name() {
    let server = broker();
    for name in ["0004'mqtt'", "0004'MQTX'", "0005'MQTT '", "0000", "0004'HTTP'"] {
        answered(&server, &packet(0x10, &format!("{name} 04 02 003C 0001'c'")), &[]);
    }
}

#[test]
fn mqtt_3_1_2_2_an_unacceptable_protocol_level() {
    let server = broker();
    for level in ["00", "01", "02", "03", "84", "FF"] {
        let answer: &[u8] =
            if level == "FF" { &[0x20, 0x03, 0x00, 0x84, 0x00] } else { &[0x20, 0x02, 0x00, 0x01] };
        answered(&server, &packet(0x10, &format!("0004'MQTT'{level} 02 003C 0001'c'")), answer);
    }
}

#[test]
fn mqtt_3_1_2_3_the_reserved_connect_flag() {
    let server = broker();
    for flags in ["03", "01", "C3"] {
        let body = format!("0004'MQTT'04 {flags} 003C 0001'c' 0001'u' 0001'p'");
        answered(&server, &packet(0x10, &body), &[]);
    }
}

#[test]
fn mqtt_3_1_3_6_no_client_identifier_is_as_a_unique_one() {
    let server = broker();
    let mut peers: Vec<Peer> = (0..5).map(|_| Peer::connect(&server, "", true, false)).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        peer.send(&packet(0x82, &format!("0001 0002'g{n}' 01")));
        peer.expect(&[0x90, 3, 0, 1, 1]);
    }
    // They are all there, each with its own subscription.
    for (n, peer) in peers.iter_mut().enumerate() {
        let publish = packet(0x32, &format!("0002'g{n}' 0001 'x'"));
        peer.send(&publish);
        let mut got = vec![0; publish.len() + 4];
        peer.0.read_exact(&mut got).expect("an answer and the message");
        let expected = [&[0x40, 2, 0, 1], &publish[..]].concat();
        assert!(got == expected || got == [&publish[..], &[0x40, 2, 0, 1]].concat(), "{got:02X?}");
    }
}

#[test]
fn mqtt_3_1_3_8_no_client_identifier_and_no_clean_session() {
    let server = broker();
    answered(&server, &connect("", false), &[0x20, 0x02, 0x00, 0x02]);
}

#[test]
fn mqtt_3_1_3_9_a_client_identifier_that_is_rejected() {
    let server = broker();
    let limit = Config::default().limits.client_id_length;
    answered(&server, &connect(&"x".repeat(limit + 1), true), &[0x20, 0x02, 0x00, 0x02]);
    Peer::connect(&server, &"x".repeat(limit), true, false);
    // What every server has to take.
    Peer::connect(&server, "0123456789abcdefghiJKLM", true, false);
}

#[test]
fn mqtt_3_1_4_1_a_connect_that_does_not_conform_is_not_answered() {
    let server = broker();
    for body in [
        // Cut short, and with something left over.
        "0004'MQTT'04 02 003C",
        "0004'MQTT'04 02",
        "0004'MQTT'04 06 003C 0001'c' 0001'w'",
        "0004'MQTT'04 02 003C 0001'c' 00",
        // Flags that contradict each other.
        "0004'MQTT'04 1E 003C 0001'c' 0001'w' 0000",
        "0004'MQTT'04 22 003C 0001'c'",
        "0004'MQTT'04 42 003C 0001'c' 0001'p'",
        // Strings that are none, a Will Topic that cannot be published to.
        "0004'MQTT'04 02 003C 0002 C328",
        "0004'MQTT'04 02 003C 0001 00",
        "0004'MQTT'04 06 003C 0001'c' 0001'#' 0000",
    ] {
        answered(&server, &packet(0x10, body), &[]);
    }
    // The flags and the length of the fixed header, too.
    let mut flags = connect("c", true);
    flags[0] |= 0x02;
    answered(&server, &flags, &[]);
    answered(&server, &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], &[]);
}

#[test]
fn mqtt_3_1_4_5_nothing_behind_a_rejected_connect_is_processed() {
    let server = broker();
    let mut watcher = Peer::connect(&server, "watcher", true, false);
    watcher.send(&packet(0x82, "0001 0001'#' 00"));
    watcher.expect(&[0x90, 3, 0, 1, 0]);
    let publish = packet(0x32, "0001't' 0001 'no'");
    // Code 2, code 1, code 5, and no code at all.
    answered(&server, &[connect("", false), publish.clone()].concat(), &[0x20, 0x02, 0x00, 0x02]);
    let level = packet(0x10, "0004'MQTT'03 02 003C 0001'c'");
    answered(&server, &[level, publish.clone()].concat(), &[0x20, 0x02, 0x00, 0x01]);
    let mut peer = Peer::at(&server, 1);
    peer.send(&[connect("c", true), publish.clone()].concat());
    peer.expect_last(&[0x20, 0x02, 0x00, 0x05]);
    let malformed = packet(0x10, "0004'MQTT'04 03 003C 0001'c'");
    answered(&server, &[malformed, publish].concat(), &[]);
    // Had any of them been published, it would have come before this one.
    let mut other = Peer::connect(&server, "other", true, false);
    other.send(&packet(0x30, "0001't' 'yes'"));
    watcher.expect(&packet(0x30, "0001't' 'yes'"));
}

#[test]
fn mqtt_3_2_2_4_no_session_present_in_a_refusal() {
    let server = broker();
    let mut peer = Peer::connect(&server, "c", false, false);
    peer.send(&[0xE0, 0x00]);
    peer.expect_last(&[]);
    // There is a session now, and there would have been a 1.
    let mut refused = Peer::at(&server, 1);
    refused.send(&connect("c", false));
    refused.expect_last(&[0x20, 0x02, 0x00, 0x05]);
    Peer::connect(&server, "c", false, true);
}

#[test]
fn mqtt_3_2_2_5_the_connection_is_closed_behind_a_refusal() {
    let server = broker();
    // Every code that this broker gives; `expect_last` waits for the end of the stream.
    answered(&server, &packet(0x10, "0004'MQTT'02 02 003C 0001'c'"), &[0x20, 0x02, 0x00, 0x01]);
    answered(&server, &connect("", false), &[0x20, 0x02, 0x00, 0x02]);
    for (flags, behind, code) in [("02", "", 5), ("82", "0001'u'", 4), ("C2", "0001'u' 0001'p'", 4)] {
        let mut refused = Peer::at(&server, 1);
        refused.send(&packet(0x10, &format!("0004'MQTT'04 {flags} 003C 0001'c' {behind}")));
        refused.expect_last(&[0x20, 0x02, 0x00, code]);
    }
}

#[test]
fn mqtt_3_2_2_6_without_a_code_that_says_it_there_is_no_connack() {
    let server = broker();
    // Too large: its header alone is enough to know.
    let limits = Config::default().limits;
    let mut peer = Peer::new(&server);
    let mut header = vec![0x10];
    let mut len = limits.connect_packet_size;
    while len >= 0x80 {
        header.push(len as u8 | 0x80);
        len >>= 7;
    }
    header.push(len as u8);
    peer.send(&[header, b"\0\x04MQTT\x04\x02\0\x3C".to_vec()].concat());
    peer.expect_last(&[]);
    // A Will Topic deeper than this server takes.
    let topic = "/".repeat(limits.topic_levels);
    let body = format!("0004'MQTT'04 06 003C 0001'c' {:04X}'{topic}' 0000", topic.len());
    answered(&server, &packet(0x10, &body), &[]);
}

#[test]
fn a_client_of_3_1_is_answered_in_its_form() {
    let server = broker();
    let connect = |name_and_level: &str, id: &str| {
        packet(0x10, &format!("{name_and_level} 02 003C {:04X}'{id}'", id.len()))
    };
    answered(&server, &connect("0006'MQIsdp'03", ""), &[0x20, 0x02, 0x00, 0x02]);
    answered(&server, &connect("0006'MQIsdp'04", "c"), &[0x20, 0x02, 0x00, 0x01]);
    answered(&server, &packet(0x10, "0006'MQIsdp'03 42 003C 0001'c' 0001'p'"), &[]);
    let mut peer = Peer::new(&server);
    peer.send(&[connect("0006'MQIsdp'03", "c"), vec![0xE0, 0x00]].concat());
    peer.expect_last(&[0x20, 0x02, 0x00, 0x00]);
}

#[test]
fn mqtt_7_1_1_1_tcp_is_a_stream_of_bytes() {
    let server = broker();
    let bytes = [
        connect("c", true),
        packet(0x82, "0001 0001't' 02"),
        packet(0x34, "0001't' 0001 'x'"),
        packet(0x62, "0001"),
        packet(0x50, "0001"),
        packet(0x70, "0001"),
        packet(0xE0, ""),
    ]
    .concat();
    let answers = |got: &[u8]| {
        // The PUBLISH comes at its own time; everything else is in order.
        let publish = packet(0x34, "0001't' 0001 'x'");
        let at = got.windows(publish.len()).position(|window| window == publish).expect("the PUBLISH");
        let rest = [&got[..at], &got[at + publish.len()..]].concat();
        assert_eq!(rest[..9], [0x20, 2, 0, 0, 0x90, 3, 0, 1, 2]);
    };
    // Byte by byte, and as much as can be known at once.
    let mut peer = Peer::new(&server);
    let upto_release = bytes.len() - 10;
    for byte in &bytes[..upto_release] {
        peer.send(&[*byte]);
    }
    let mut got = vec![0; 4 + 5 + 4 + 4 + 8];
    peer.0.read_exact(&mut got).expect("the answers");
    answers(&got);
    peer.send(&bytes[upto_release..]);
    peer.expect_last(&[0x62, 2, 0, 1]);
    let mut peer = Peer::new(&server);
    peer.send(&bytes[..upto_release]);
    peer.0.read_exact(&mut got).expect("the answers");
    answers(&got);
}
