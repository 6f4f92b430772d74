//! The way up to a CONNECT, on every kind of listener: those who dawdle, and those who lie about where they are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use weirmq::protocol::codec;
use weirmq::protocol::packet::*;

use crate::common::client::*;
use crate::common::process::{Process, dev_certs};
use crate::common::websocket::*;

const LISTENERS: &str = r#"
[store]
sync = "off"
[limits]
connect_timeout = "600ms"
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
[listener.tls]
cert = "{dir}/certs/server.pem"
key = "{dir}/certs/server.key"
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
protocol = "websocket"
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
protocol = "websocket"
[listener.tls]
cert = "{dir}/certs/server.pem"
key = "{dir}/certs/server.key"
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
proxy_protocol = true
trusted_proxies = ["127.0.0.0/8"]
[[listener]]
bind = "unix:{dir}/mqtt.sock"
allow_anonymous = true
"#;

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: mqtt\r\n\r\n";

fn connect_packet(id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(Version::V5, &Packet::Connect(connect(Version::V5, id, true)), &mut bytes);
    bytes
}

/// Sends one byte after the other of what never ends, until the broker has enough of it.
fn dawdles(mut stream: impl Read + Write, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        // How fast it is does not matter, as long as it is no end: each read waits a little for one.
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn slow_loris_meets_one_deadline_on_every_transport_and_newcomers_get_in() {
    let broker = Process::start(LISTENERS, dev_certs);
    let [plain, tls, web, wss, proxy] = broker.addresses[..] else { panic!("five addresses") };
    let pace = Some(Duration::from_millis(20));
    let tcp = |address: SocketAddr, first: &[u8]| {
        let mut stream = TcpStream::connect(address).expect("accepted");
        stream.set_read_timeout(pace).expect("a socket");
        stream.write_all(first).expect("taken");
        stream
    };
    // A CONNECT, a TLS record, a WebSocket frame that are long, and headers that do not end.
    let endless_packet = [0x10, 0xFF, 0x7F, 0, 4, b'M', b'Q', b'T', b'T', 5];
    let endless_frame = [UPGRADE, &[0x82, 0xFE, 0x7F, 0xFF, 0, 0, 0, 0, 0x10, 0xFF, 0x7F]].concat();
    let hello = [0x16, 3, 1, 0x3F, 0xFF, 1, 0, 0x3F, 0xFB];
    std::thread::scope(|scope| {
        scope.spawn(|| dawdles(tcp(plain, &endless_packet[..2]), &[0]));
        scope.spawn(|| dawdles(tcp(tls, &hello), &[0]));
        scope.spawn(|| dawdles(tcp(web, b"GET /mqtt HTTP/1.1\r\n"), b"A: b\r\n"));
        scope.spawn(|| dawdles(tcp(web, &endless_frame), &[0]));
        scope.spawn(|| dawdles(tcp(web, UPGRADE), &[0x89, 0x80, 0, 0, 0, 0]));
        scope.spawn(|| dawdles(tcp(wss, &hello), &[0]));
        scope.spawn(|| dawdles(tcp(proxy, b"PROXY UNKNOWN "), b"x"));
        scope.spawn(|| dawdles(tcp(proxy, b"PROXY UNKNOWN\r\n\x10\xFF\x7F"), &[0]));
        scope.spawn(|| {
            let mut stream = UnixStream::connect(broker.folder.path().join("mqtt.sock")).expect("accepted");
            stream.set_read_timeout(pace).expect("a socket");
            stream.write_all(&endless_packet).expect("taken");
            dawdles(stream, &[0]);
        });
        for number in 0..20 {
            Client::connect(plain, Version::V5, &format!("newcomer-{number}")).ping();
            let mut web = client_over(websocket(web), Version::V5);
            web.hello(&format!("web-{number}"));
            web.ping();
        }
    });
}

/// A header of version 2.
fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let fixed = [b"\r\n\r\n\0\r\nQUIT\n", &[command, family, 0, addresses.len() as u8][..]].concat();
    [&fixed[..], addresses].concat()
}

/// Whether a client that begins with these bytes comes in.
fn comes_in(address: SocketAddr, header: &[u8], id: &str) -> bool {
    let mut client = Client::open(address, Version::V5);
    let sent = client.try_send(&[header, &connect_packet(id)].concat());
    sent.is_ok()
        && matches!(client.poll(PATIENCE), Ok(Some(frame)) if matches!(frame.packet(), Packet::ConnAck(_)))
}

const PROXIES: &str = r#"
[store]
sync = "off"
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
proxy_protocol = true
trusted_proxies = ["10.0.0.0/8", "127.0.0.2"]
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
proxy_protocol = true
trusted_proxies = ["127.0.0.1"]
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
proxy_protocol = true
trusted_proxies = ["127.0.0.0/8"]
protocol = "websocket"
[listener.tls]
cert = "{dir}/certs/server.pem"
key = "{dir}/certs/server.key"
[[listener]]
bind = "unix:{dir}/mqtt.sock"
allow_anonymous = true
proxy_protocol = true
"#;

#[test]
fn a_proxy_header_is_taken_from_trusted_peers_alone_and_gives_an_address() {
    let broker = Process::start(PROXIES, dev_certs);
    let [off, distrusting, trusting_us, wss] = broker.addresses[..] else { panic!("four addresses") };
    let v1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 1883\r\n";
    let four = [203, 0, 113, 8, 10, 0, 0, 1, 0x12, 0x67, 0x07, 0x5B];
    for (number, header) in [&v1[..], &v2(0x21, 0x11, &four), b""].into_iter().enumerate() {
        let id = format!("spoof-{number}");
        // Without the option a header is no CONNECT, and from elsewhere it is not even read.
        assert_eq!(comes_in(off, header, &id), header.is_empty());
        assert!(!comes_in(distrusting, header, &id));
        // Where it is asked for, it has to be there.
        assert_eq!(comes_in(trusting_us, header, &id), !header.is_empty());
    }
    assert!(comes_in(trusting_us, &v2(0x20, 0, &[]), "health-check"));
    assert!(comes_in(trusting_us, b"PROXY UNKNOWN\r\n", "unknown"));
    over_tls_and_a_unix_socket(&broker, wss, v1);
    for (id, address) in [
        ("spoof-0", "203.0.113.7:4711"),
        ("spoof-1", "203.0.113.8:4711"),
        ("health-check", "127.0.0.1:"),
        ("unknown", "127.0.0.1:"),
        ("over-tls", "203.0.113.7:4711"),
        ("over-unix", "203.0.113.7:4711"),
    ] {
        broker.logged(&format!("connected client_id={id} address={address}"));
    }
    broker.logged("not one of the trusted proxies");
}

/// The header comes before TLS and all that follows.
fn over_tls_and_a_unix_socket(broker: &Process, wss: SocketAddr, header: &[u8]) {
    let mut socket = TcpStream::connect(wss).expect("accepted");
    socket.write_all(header).expect("taken");
    let config = trusting(&broker.folder.path().join("certs/ca.pem"));
    let mut client = client_over(websocket_over_tls(socket, wss, &config), Version::V5);
    client.hello("over-tls");
    client.ping();
    let mut client = Client::open_unix(Path::new(&broker.folder.path().join("mqtt.sock")), Version::V5);
    client.send_bytes(header);
    client.hello("over-unix");
}

#[test]
fn bounds_for_each_address_go_by_the_address_behind_the_proxy() {
    let server = serve(|config| {
        config.shards = 1;
        config.limits.max_handshakes_per_address = 1;
        config.listeners[0].proxies = Some(vec!["127.0.0.0/8".parse().expect("a network")]);
    });
    let address = server.addresses()[0];
    let begin = |host: u8, id: &str| {
        let mut client = Client::open(address, Version::V5);
        client.send_bytes(format!("PROXY TCP4 203.0.113.{host} 10.0.0.1 1 1883\r\n").as_bytes());
        let (first, rest) = (connect_packet(id)[..4].to_vec(), connect_packet(id)[4..].to_vec());
        client.send_bytes(&first);
        (client, rest)
    };
    let (mut evicted, _) = begin(1, "evicted");
    let (mut other, rest) = begin(2, "other");
    // When this one is in, the shard has seen those that came before it.
    let (mut third, rest_of_third) = begin(3, "third");
    third.send_bytes(&rest_of_third);
    third.accepted();
    // A second handshake from the first one's address makes room by ending that; the other address is another.
    let (mut second, rest_of_second) = begin(1, "second");
    evicted.expect_closed();
    other.send_bytes(&rest);
    other.accepted();
    second.send_bytes(&rest_of_second);
    second.accepted();
}
