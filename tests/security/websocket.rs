//! What can be done to a WebSocket before and beneath MQTT, and who may open one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use tungstenite::Message;
use weirmq::config::{ListenerConfig, WebSocketConfig};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::server::Server;

use crate::common::client::*;
use crate::common::websocket::*;

const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Protocol: mqtt\r\n";

fn serve_websockets(origins: Option<&[&str]>) -> (Server, SocketAddr) {
    let origins = origins.map(|all| all.iter().map(|&origin| origin.to_owned()).collect());
    let server = serve(|config| {
        let websocket = Some(WebSocketConfig { origins });
        config.listeners = vec![ListenerConfig { websocket, ..on_any_port() }];
    });
    let address = server.addresses()[0];
    (server, address)
}

fn connect_packet(id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(Version::V5, &Packet::Connect(connect(Version::V5, id, true)), &mut bytes);
    bytes
}

/// Sends bytes, and reads what comes back up to the end. What cannot be sent any more was not wanted.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).expect("accepted");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => return answer,
            Ok(len) => answer.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("not closed: {error}"),
        }
    }
}

/// The code of the Close that an exchange ends with.
fn code_of(answer: &[u8]) -> Option<u16> {
    let [.., 0x88, 2, high, low] = answer else { return None };
    Some(u16::from_be_bytes([*high, *low]))
}

#[test]
fn websocket_frames_that_break_the_rules_end_their_connection_and_no_other() {
    let (server, address) = serve_websockets(None);
    let mut witness = client_over(websocket(address), Version::V5);
    witness.hello("witness");
    let hello = connect_packet("attacker");
    let good = [&[0x82, 0x80 | hello.len() as u8, 0, 0, 0, 0][..], &hello].concat();
    for (name, frame, code) in [
        ("text", &[0x81, 0x81, 0, 0, 0, 0, b'x'][..], 1003),
        ("unmasked", &[0x82, 0x02, 0xC0, 0x00], 1002),
        ("compressed", &[0xC2, 0x82, 0, 0, 0, 0, 0xC0, 0x00], 1002),
        ("reserved opcode", &[0x83, 0x80, 0, 0, 0, 0], 1002),
        ("continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0], 1002),
        ("long ping", &[0x89, 0xFE, 0x00, 0x7E, 0, 0, 0, 0], 1002),
        ("fragmented ping", &[0x09, 0x80, 0, 0, 0, 0], 1002),
        ("negative length", &[0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0], 1009),
        ("huge length", &[0x82, 0xFF, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        ("half a code", &[0x88, 0x81, 0, 0, 0, 0, 3], 1002),
    ] {
        for before in [&b""[..], &good] {
            let bytes = [UPGRADE.as_bytes(), b"\r\n", before, frame].concat();
            let answer = exchange(address, &bytes);
            assert!(answer.starts_with(b"HTTP/1.1 101 "), "{name}");
            assert_eq!(code_of(&answer), Some(code), "{name}: {answer:?}");
        }
    }
    witness.ping();
    drop(witness);
    server.shutdown().expect("no shard failed");
}

#[test]
fn websocket_frames_may_be_split_and_joined_in_any_way() {
    let (_server, address) = serve_websockets(None);
    let hello = connect_packet("split");
    let ping = [0xC0, 0x00];
    // The CONNECT over three frames with a Ping between, and a PINGREQ in a frame of its own behind them.
    let mut bytes = [UPGRADE.as_bytes(), b"\r\n"].concat();
    let (first, rest) = hello.split_at(3);
    bytes.extend([&[0x02, 0x80 | first.len() as u8, 0, 0, 0, 0][..], first].concat());
    bytes.extend([0x89, 0x81, 1, 1, 1, 1, b'x' ^ 1]);
    bytes.extend([&[0x80, 0x80 | rest.len() as u8, 0, 0, 0, 0][..], rest].concat());
    bytes.extend([&[0x82, 0x82, 0, 0, 0, 0][..], &ping].concat());
    bytes.extend([0x88, 0x80, 0, 0, 0, 0]);
    let expected_end = [0x88, 2, 0x03, 0xE8];
    for cut in 1..bytes.len() {
        let mut socket = TcpStream::connect(address).expect("accepted");
        socket.set_nodelay(true).expect("a socket");
        socket.write_all(&bytes[..cut]).expect("taken");
        socket.write_all(&bytes[cut..]).expect("taken");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.ends_with(&expected_end), "{cut}: {answer:?}");
    }
}

#[test]
fn compression_is_never_agreed_upon() {
    let (_server, address) = serve_websockets(None);
    let offer =
        [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame")];
    let socket = TcpStream::connect(address).expect("accepted");
    let (mut websocket, response) = open(request(address, &offer), socket).expect("a WebSocket");
    assert!(response.headers().get("Sec-WebSocket-Extensions").is_none());
    websocket.send(Message::binary(connect_packet("plain"))).expect("sent");
    assert_eq!(websocket.read().expect("CONNACK").into_data()[0], 0x20);
}

#[test]
fn oversize_headers_of_an_upgrade_are_refused_before_they_have_come() {
    let (server, address) = serve_websockets(None);
    let status = |bytes: &[u8]| {
        String::from_utf8_lossy(&exchange(address, bytes)).chars().take(12).collect::<String>()
    };
    let megabyte = "x".repeat(1 << 20);
    let big = format!("{UPGRADE}Cookie: {megabyte}\r\n\r\n");
    // What is sent behind the bound may have the answer lost to a reset.
    assert!(["HTTP/1.1 431", ""].contains(&status(big.as_bytes()).as_str()));
    assert_eq!(status(&big.as_bytes()[..8192]), "HTTP/1.1 431");
    let many = format!("{UPGRADE}{}\r\n", "A: b\r\n".repeat(100));
    assert_eq!(status(many.as_bytes()), "HTTP/1.1 431");
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\n", "a".repeat(8200)).as_bytes()), "HTTP/1.1 431");
    // Neither MQTT nor TLS is mistaken for a request.
    assert_eq!(status(&connect_packet("direct")), "HTTP/1.1 400");
    assert_eq!(status(&[0x16, 3, 1, 2, 0]), "HTTP/1.1 400");
    server.shutdown().expect("no shard failed");
}

#[test]
fn an_origin_that_is_absent_wrong_doubled_or_over_long_is_refused_where_there_is_a_list() {
    let (_listed, listed) = serve_websockets(Some(&["https://app.example"]));
    let (_open, open) = serve_websockets(None);
    let long = format!("https://app.example{}", "x".repeat(4000));
    for (origins, expected) in [
        (&["https://app.example"][..], 101),
        (&[], 403),
        (&["https://evil.example"], 403),
        (&["http://app.example"], 403),
        (&["https://app.example.evil.example"], 403),
        (&["null"], 403),
        (&[&long], 403),
        (&["https://app.example", "https://app.example"], 403),
        (&["https://app.example", "https://evil.example"], 403),
        (&["https://evil.example", "https://app.example"], 403),
    ] {
        let headers: Vec<_> = origins.iter().map(|&origin| ("Origin", origin)).collect();
        assert_eq!(refusal(request(listed, &headers), listed), expected, "{origins:?}");
        assert_eq!(refusal(request(open, &headers), open), 101, "{origins:?}");
    }
}
