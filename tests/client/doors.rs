//! The ways to a broker: every kind of listener that it has, and servers of WebSockets that behave in their own ways.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::{CloseFrame, Message, WebSocket};
use weirmq::config::{
    Bind, CertificateFiles, Config, ListenerConfig, TlsConfig, TlsVersion, WebSocketConfig,
};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;
use weirmq::protocol::reason::ReasonCode;

use crate::broker::Broker;
use crate::command::{Ended, Weirmq};
use crate::common::client::{Client, on_any_port, serve};

fn run(command: &str, url: &str, args: &[&str]) -> Weirmq {
    Weirmq::start_plain(&[&[command, "-L", url][..], args].concat())
}

fn tls(folder: &Path) -> TlsConfig {
    let (cert, key) = (folder.join("server.pem"), folder.join("server.key"));
    TlsConfig {
        certificates: vec![CertificateFiles { cert, key }],
        client_ca: Some(folder.join("ca.pem")),
        client_crl: None,
        require_client_cert: true,
        identity_from: None,
        min_version: TlsVersion::V1_2,
    }
}

#[test]
fn messages_cross_through_every_kind_of_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    Weirmq::start_plain(&["dev-certs", &path("")]).end().well();
    let socket = folder.path().join("mqtt.sock");
    let server = serve(|config: &mut Config| {
        let websocket = Some(WebSocketConfig::default());
        let tls = Some(tls(folder.path()));
        config.listeners = vec![
            on_any_port(),
            ListenerConfig { tls: tls.clone(), ..on_any_port() },
            ListenerConfig { websocket: websocket.clone(), ..on_any_port() },
            ListenerConfig { websocket, tls, ..on_any_port() },
            ListenerConfig { bind: Bind::Unix { path: socket, mode: 0o600 }, ..ListenerConfig::default() },
        ];
    });
    let ports: Vec<u16> = server.addresses().iter().map(SocketAddr::port).collect();
    let [plain, secure, web, secure_web] = *ports else { panic!("four ports") };
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let with_tls = ["--cafile", &ca, "--cert", &cert, "--key", &key];
    let large = "0123456789".repeat(30_000);
    std::fs::write(folder.path().join("large"), &large).unwrap();
    let mut taker = Client::connect(server.addresses()[0], Version::V5, "taker");
    taker.subscribe("lines/#", QoS::AtLeastOnce);
    for (url, tls) in [
        (format!("mqtt://127.0.0.1:{plain}"), &[][..]),
        (format!("mqtts://127.0.0.1:{secure}"), &with_tls),
        (format!("ws://127.0.0.1:{web}"), &[]),
        (format!("ws://localhost:{web}/mqtt?what=ever"), &[]),
        (format!("wss://localhost:{secure_web}/mqtt"), &with_tls),
        (format!("unix:{}", path("mqtt.sock")), &[]),
        (format!("unix://{}", path("mqtt.sock")), &[]),
    ] {
        for version in ["3.1.1", "5"] {
            let args = [tls, &["-V", version, "-q", "1", "-t"]].concat();
            run("pub", &url, &[&args[..], &["large", "-r", "-f", &path("large")]].concat()).end().well();
            let ended = run("sub", &url, &[&args[..], &["large", "-C", "1"]].concat()).end();
            ended.well();
            assert_eq!(ended.out.trim_end(), large, "{url}");

            let mut command = run("pub", &url, &[&args[..], &["lines/x", "-l"]].concat());
            command.feed(&(0..300).map(|number| format!("{number}\n")).collect::<String>());
            command.end().well();
            for number in 0..300 {
                taker.expect_publish("lines/x", number.to_string().as_bytes());
            }
        }
    }
    server.shutdown().expect("no shard failed");
}

#[test]
fn what_the_broker_answers_instead_is_told() {
    let server = serve(|config| {
        let origins = Some(vec!["https://app.example".to_owned()]);
        let listener = |websocket| ListenerConfig { websocket: Some(websocket), ..on_any_port() };
        config.listeners.push(listener(WebSocketConfig::default()));
        config.listeners.push(listener(WebSocketConfig { origins }));
    });
    let [plain, web, choosy] = *server.addresses() else { panic!("three listeners") };
    let tell = |url: String| -> Ended { run("pub", &url, &["-t", "a", "-m", "x"]).end() };
    let url = format!("ws://{web}/elsewhere");
    tell(url.clone()).said(3, &[&format!("no connection to {url}: the server answered 404 Not Found")]);
    tell(format!("ws://{choosy}")).said(3, &["answered 403 Forbidden instead of opening a WebSocket"]);
    tell(format!("ws://{plain}")).said(3, &["no connection to ws://", ": "]);
    // The other way round, the answer to CONNECT is one of HTTP.
    tell(format!("mqtt://{web}")).said(3, &["no connection to 127.0.0.1 port"]);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("unix:{}/mqtt.sock", folder.path().display());
    tell(url.clone()).said(3, &[&format!("no connection to {url}: No such file")]);
}

#[test]
fn urls_that_are_none_are_refused() {
    for (args, words) in [
        (&["-L", "broker"][..], &["--url: a URL begins with mqtt://"][..]),
        (&["-L", "http://broker"], &["--url: http: is not known"]),
        (&["-L", "ws://broker:99999"], &["--url: the port is 1 to 65535"]),
        (&["-L", "ws://u:secret@broker"], &["--url: the user name and the password go to -u and -P"]),
        (&["-L", "wss://broker"], &["--url: TLS needs --cafile"]),
        (&["-L", "ws://broker", "--cafile", "ca"], &["--url: there is no TLS"]),
        (&["-L", "unix:/x", "--cafile", "ca"], &["--url: there is no TLS"]),
        (&["-L", "ws://broker", "-h", "other"], &["'--url <URL>' cannot be used with '--host"]),
    ] {
        for command in ["pub", "sub"] {
            let more: &[&str] = if command == "pub" { &["-t", "a", "-m", "x"] } else { &["-t", "a"] };
            let ended = Weirmq::start_plain(&[&[command][..], args, more].concat()).end();
            ended.said(2, words);
            assert!(!ended.err.contains("secret"), "{ended:?}");
        }
    }
}

#[test]
fn an_answer_that_opens_no_websocket_ends_it() {
    let opens = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000));
    for (answer, word) in [
        ("HTTP/1.1 401 Unauthorized\r\n\r\n", "the server answered 401 Unauthorized"),
        (
            &format!("{opens}Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"),
            "Sec-WebSocket-Accept",
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n", "not HTTP"),
        (&long, "longer than 8192 bytes"),
        ("HTTP/1.1 101 Switching", "closed the connection without an answer"),
        ("", "closed the connection without an answer"),
    ] {
        let broker = Broker::new();
        let command = run("sub", &format!("ws://127.0.0.1:{}", broker.port), &["-t", "a"]);
        let mut socket = broker.socket();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        assert!(request.starts_with(b"GET /mqtt HTTP/1.1\r\n"));
        let _ = socket.write_all(answer.as_bytes());
        let _ = socket.shutdown(std::net::Shutdown::Write);
        command.end().said(3, &["no connection to ws://127.0.0.1:", "/mqtt: ", word]);
    }
}

/// The next connection, its request for a WebSocket answered by another implementation, which takes masked frames alone.
#[allow(clippy::result_large_err, reason = "the other implementation's own type")]
fn accept(broker: &Broker, subprotocol: &'static str) -> WebSocket<TcpStream> {
    let answer = |_: &Request, mut response: Response| {
        let headers = response.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", subprotocol.parse().unwrap());
        Ok(response)
    };
    tungstenite::accept_hdr(broker.socket(), answer).expect("a request for a WebSocket")
}

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(Version::V4, packet, &mut bytes);
    bytes
}

fn connack() -> Vec<u8> {
    let (reason, properties) = (ReasonCode::Success, Properties::EMPTY);
    encoded(&Packet::ConnAck(ConnAck { session_present: false, reason, properties }))
}

fn suback() -> Vec<u8> {
    let packet_id = PacketId::MIN;
    encoded(&Packet::SubAck(SubAck { packet_id, properties: Properties::EMPTY, reasons: &[0] }))
}

fn published(payload: &str) -> Vec<u8> {
    encoded(&Packet::Publish(crate::broker::message("a", payload, QoS::AtMostOnce, 0)))
}

/// The next frame has to carry this packet; the others before are returned.
fn expect_packet(websocket: &mut WebSocket<TcpStream>, packet_type: PacketType) -> Vec<Message> {
    let mut others = Vec::new();
    loop {
        match websocket.read().expect("a frame") {
            Message::Binary(bytes) => {
                assert_eq!(bytes[0] >> 4, packet_type as u8);
                return others;
            }
            other => others.push(other),
        }
    }
}

#[test]
fn frames_are_cut_and_joined_as_the_server_likes_and_its_pings_answered() {
    let broker = Broker::new();
    let command = run("sub", &format!("ws://127.0.0.1:{}", broker.port), &["-t", "a", "-C", "203"]);
    let mut server = accept(&broker, "mqtt");
    expect_packet(&mut server, PacketType::Connect);
    // In two parts and a Ping within, and a Pong that nobody asked for.
    let connack = connack();
    server
        .write(Message::Frame(Frame::message(connack[..1].to_vec(), OpCode::Data(Data::Binary), false)))
        .unwrap();
    server.write(Message::Ping(b"early"[..].into())).unwrap();
    server.write(Message::Pong(b"unasked"[..].into())).unwrap();
    server
        .write(Message::Frame(Frame::message(connack[1..].to_vec(), OpCode::Data(Data::Continue), true)))
        .unwrap();
    server.flush().unwrap();
    assert_eq!(expect_packet(&mut server, PacketType::Subscribe), [Message::Pong(b"early"[..].into())]);
    // A packet behind another in one frame, one in frames of a byte each, one that takes the longest form of a length.
    server.send(Message::binary([suback(), published("joined"), published("too")].concat())).unwrap();
    for number in 0..200 {
        for byte in published(&format!("{number}")) {
            server.write(Message::binary(vec![byte])).unwrap();
        }
    }
    server.write(Message::Ping(b"late"[..].into())).unwrap();
    let large = "y".repeat(1 << 20);
    server.send(Message::binary(published(&large))).unwrap();
    assert_eq!(expect_packet(&mut server, PacketType::Disconnect), [Message::Pong(b"late"[..].into())]);
    let close = server.read().expect("a Close");
    assert!(matches!(close, Message::Close(Some(CloseFrame { code: CloseCode::Normal, .. }))), "{close:?}");
    let _ = server.flush();
    drop(server);
    let ended = command.end();
    ended.well();
    let expected = ["joined", "too"].map(str::to_owned).into_iter();
    let expected = expected.chain((0..200).map(|number| number.to_string())).chain([large]);
    assert!(ended.out.lines().eq(expected), "{} bytes", ended.out.len());
}

#[test]
fn a_ping_is_answered_while_there_is_nothing_else_to_say() {
    let broker = Broker::new();
    let url = format!("ws://127.0.0.1:{}", broker.port);
    let command = run("sub", &url, &["-t", "a", "-C", "1", "-k", "0"]);
    let mut server = accept(&broker, "mqtt");
    expect_packet(&mut server, PacketType::Connect);
    server.send(Message::binary(connack())).unwrap();
    expect_packet(&mut server, PacketType::Subscribe);
    server.send(Message::binary(suback())).unwrap();
    for number in 0..100_u8 {
        server.send(Message::Ping(vec![number; 125].into())).unwrap();
        assert_eq!(server.read().expect("an answer"), Message::Pong(vec![number; 125].into()));
    }
    server.send(Message::binary(published("x"))).unwrap();
    expect_packet(&mut server, PacketType::Disconnect);
    drop(server);
    command.end().well();
}

#[test]
fn the_end_of_a_websocket_is_told_and_its_close_answered() {
    let close = |code: u16| Message::Close(Some(CloseFrame { code: code.into(), reason: "".into() }));
    let text = || Message::text("hello");
    let masked = || {
        let mut frame = Frame::message(vec![0x20], OpCode::Data(Data::Binary), true);
        frame.header_mut().mask = Some([1, 2, 3, 4]);
        Message::Frame(frame)
    };
    for (said, answered, words) in [
        (close(1000), 1000, &["connection lost: closed by the broker"][..]),
        (close(1008), 1008, &["connection lost: the server closed the WebSocket with code 1008"]),
        (text(), 1003, &["the server broke the WebSocket's rules: a text frame"]),
        (masked(), 1002, &["the server broke the WebSocket's rules: a masked frame"]),
    ] {
        let broker = Broker::new();
        let url = format!("ws://127.0.0.1:{}", broker.port);
        let mut command = run("pub", &url, &["-t", "a", "-q", "1", "-l"]);
        let input = command.input();
        let mut server = accept(&broker, "mqtt");
        expect_packet(&mut server, PacketType::Connect);
        server.send(Message::binary(connack())).unwrap();
        server.send(said).unwrap();
        loop {
            match server.read() {
                Ok(Message::Close(Some(frame))) => break assert_eq!(u16::from(frame.code), answered),
                Ok(_) => {}
                Err(error) => panic!("no Close: {error}"),
            }
        }
        command.end().said(6, words);
        drop(input);
    }
}

#[test]
fn another_subprotocol_is_refused() {
    let broker = Broker::new();
    let command = run("pub", &format!("ws://127.0.0.1:{}", broker.port), &["-t", "a", "-m", "x"]);
    let _server = accept(&broker, "chat");
    command.end().said(3, &["the server chose the subprotocol chat instead of mqtt"]);
}
