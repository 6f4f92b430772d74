//! The broker over real sockets: what the pure core cannot show.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod world;
}

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::client::*;
use weirmq::config::{Bind, Config, ListenerConfig};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::server::{Server, ServerError};

const VERSIONS: [Version; 3] = [Version::V3, Version::V4, Version::V5];
const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Numbered QoS 0 messages to "t", one behind the other.
fn burst(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..count {
        let payload = format!("{number:0100}");
        codec::encode(Version::V5, &Packet::Publish(message("t", QoS::AtMostOnce, &payload)), &mut bytes);
    }
    bytes
}

fn encoded(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(version, packet, &mut bytes);
    bytes
}

/// Waits until a condition holds that nothing announces.
#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn connected(server: &Server) -> u64 {
    server.stats().iter().map(|stats| stats.connected.get()).sum()
}

#[test]
fn messages_arrive_in_every_version_at_every_qos() {
    let server = serve(|config| config.shards = 2);
    let address = server.addresses()[0];
    for version in VERSIONS {
        let mut taker = Client::connect(address, version, "taker");
        taker.subscribe("a/+", QoS::ExactlyOnce);
        let mut giver = Client::connect(address, version, "giver");
        for qos in ALL_QOS {
            assert_eq!(giver.publish("a/b", qos, b"hello"), ReasonCode::Success);
            let frame = taker.take_publish();
            assert_eq!((frame.publish().qos, frame.publish().payload), (qos, &b"hello"[..]));
        }
        giver.disconnect();
        taker.disconnect();
    }
}

#[test]
fn every_listener_serves_ipv6_too() {
    let any_v6 = Bind::Tcp("[::1]:0".parse().expect("an address"));
    let config =
        |config: &mut Config| config.listeners.push(ListenerConfig { bind: any_v6, ..on_any_port() });
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return println!("skipped: this machine has no IPv6");
    }
    let server = serve(config);
    let [v4, v6] = *server.addresses() else { panic!("two listeners") };
    let mut taker = Client::connect(v6, Version::V5, "v6");
    taker.subscribe("t", QoS::AtMostOnce);
    Client::connect(v4, Version::V5, "v4").publish("t", QoS::AtLeastOnce, b"over");
    taker.expect_publish("t", b"over");
}

#[test]
fn bytes_may_dribble_in_one_at_a_time() {
    let server = serve(|_| {});
    let mut client = Client::open(server.addresses()[0], Version::V5);
    let mut bytes = encoded(Version::V5, &Packet::Connect(connect(Version::V5, "slow", true)));
    bytes.extend(encoded(Version::V5, &Packet::Publish(message("t", QoS::AtLeastOnce, "x"))));
    for byte in bytes {
        client.send_bytes(&[byte]);
    }
    client.accepted();
    client.wait_for(|packet| matches!(packet, Packet::PubAck(_)));
}

#[test]
fn packets_may_follow_connect_at_once_and_be_cut_anywhere() {
    let server = serve(|config| config.shards = 2);
    let mut all = encoded(Version::V4, &Packet::Connect(connect(Version::V4, "pipelined", true)));
    let mut raw = Vec::new();
    let filters = SubscribeFilters::encode([("t", options(QoS::AtMostOnce))], &mut raw);
    let subscribe = Subscribe { packet_id: PacketId::MIN, properties: Properties::EMPTY, filters };
    all.extend(encoded(Version::V4, &Packet::Subscribe(subscribe)));
    all.extend(encoded(Version::V4, &Packet::Publish(message("t", QoS::AtMostOnce, "to myself"))));
    for cut in 0..all.len() {
        let mut client = Client::open(server.addresses()[0], Version::V4);
        client.send_bytes(&all[..cut]);
        client.send_bytes(&all[cut..]);
        client.accepted();
        client.wait_for(|packet| matches!(packet, Packet::SubAck(_)));
        client.expect_publish("t", b"to myself");
    }
}

#[test]
fn sessions_are_found_on_their_shard_whichever_one_accepts() {
    let server = serve(|config| config.shards = 4);
    let address = server.addresses()[0];
    let mut clients: Vec<Client> = (0..100)
        .map(|number| {
            let (mut client, present) = Client::resume(address, Version::V5, &format!("client-{number}"));
            assert!(!present);
            client.subscribe("all", QoS::AtLeastOnce);
            client
        })
        .collect();
    let per_shard: Vec<u64> = server.stats().iter().map(|stats| stats.connected.get()).collect();
    assert!(per_shard.iter().all(|count| *count > 5), "{per_shard:?}");
    clients[0].publish("all", QoS::AtLeastOnce, b"1");
    for client in &mut clients {
        client.expect_publish("all", b"1");
    }
    drop(clients);
    eventually("all are gone", || connected(&server) == 0);
    Client::connect(address, Version::V4, "giver").publish("all", QoS::AtLeastOnce, b"2");
    for number in 0..100 {
        let (mut client, present) = Client::resume(address, Version::V5, &format!("client-{number}"));
        assert!(present);
        client.expect_publish("all", b"2");
    }
}

#[test]
fn mqtt_3_1_4_3_a_second_connection_takes_the_session_over() {
    let server = serve(|config| config.shards = 3);
    let address = server.addresses()[0];
    let mut holder = Client::connect(address, Version::V5, "one");
    for _ in 0..20 {
        let successor = Client::connect(address, Version::V5, "one");
        assert_eq!(holder.expect_disconnect(), ReasonCode::SessionTakenOver);
        holder = successor;
    }
    holder.ping();
    assert_eq!(connected(&server), 1);
}

#[test]
fn an_assigned_client_identifier_is_told() {
    let server = serve(|config| config.shards = 2);
    let mut client = Client::open(server.addresses()[0], Version::V5);
    client.send(&Packet::Connect(connect(Version::V5, "", true)));
    let frame = client.next();
    let Packet::ConnAck(connack) = frame.packet() else { panic!("{frame:?}") };
    let told = connack.properties.iter().find_map(|property| match property {
        weirmq::protocol::properties::Property::AssignedClientIdentifier(id) => Some(id.to_owned()),
        _ => None,
    });
    assert!(told.expect("an identifier").starts_with("weirmq-"));
    client.ping();
}

#[test]
fn large_packets_pass_in_both_directions() {
    let server = serve(|config| config.shards = 2);
    let address = server.addresses()[0];
    let mut taker = Client::connect(address, Version::V5, "taker");
    taker.subscribe("large", QoS::AtLeastOnce);
    let mut giver = Client::connect(address, Version::V4, "giver");
    for size in [4096, 4097, 16_384, 65_536, 200_000, 1024 * 1024 - 64] {
        let payload: Vec<u8> = (0..size).map(|at: usize| (at * 7 % 251) as u8).collect();
        assert_eq!(giver.publish("large", QoS::AtLeastOnce, &payload), ReasonCode::Success);
        taker.expect_publish("large", &payload);
    }
}

#[test]
fn a_packet_over_the_limit_is_refused_by_its_header() {
    let server = serve(|config| config.limits.max_packet_size = 1000);
    let mut client = Client::connect(server.addresses()[0], Version::V5, "greedy");
    client.send_bytes(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    assert_eq!(client.expect_disconnect(), ReasonCode::PacketTooLarge);
}

#[test]
fn each_listener_has_a_limit_for_packets_and_the_smaller_one_counts() {
    let bounded = |max_packet_size| ListenerConfig { max_packet_size, ..on_any_port() };
    let mut config = None;
    let mut server = serve(|new| {
        new.limits.max_packet_size = 4096;
        new.listeners = vec![bounded(Some(1024)), bounded(None), bounded(Some(8192))];
        config = Some(new.clone());
    });
    let mut config = config.expect("a configuration");
    let open = |address, version, id: &str| {
        let mut client = Client::open(address, version);
        client.send(&Packet::Connect(connect(version, id, true)));
        let frame = client.next();
        let Packet::ConnAck(connack) = frame.packet() else { panic!("expected CONNACK, got {frame:?}") };
        let told = connack.properties.iter().find_map(|property| match property {
            Property::MaximumPacketSize(size) => Some(size),
            _ => None,
        });
        (client, told)
    };
    // A topic of one byte and a packet identifier, with their lengths: 1024 bytes in all.
    let fitting = |size: usize, version| vec![0; size - 3 - 3 - 2 - usize::from(version == Version::V5)];
    let addresses = server.addresses().to_vec();
    for (address, limit) in addresses.iter().zip([1024, 4096, 4096]) {
        for version in VERSIONS {
            let (mut client, told) = open(*address, version, "client");
            assert_eq!(told, (version == Version::V5).then_some(limit));
            let mut payload = fitting(limit as usize, version);
            client.publish("t", QoS::AtLeastOnce, &payload);
            payload.push(0);
            let packet_id = PacketId::new(9);
            let too_large = Publish { packet_id, payload: &payload, ..message("t", QoS::AtLeastOnce, "") };
            client.send(&Packet::Publish(too_large));
            match version {
                Version::V5 => assert_eq!(client.expect_disconnect(), ReasonCode::PacketTooLarge),
                _ => client.expect_closed(),
            }
        }
    }
    // What a client was told holds for as long as it is there; the next one is told another limit.
    let (mut client, _) = open(addresses[0], Version::V5, "before");
    config.listeners[0].max_packet_size = Some(512);
    server.reload(config).expect("it can be used").wait();
    client.publish("t", QoS::AtLeastOnce, &fitting(1024, Version::V5));
    client.ping();
    assert_eq!(open(addresses[0], Version::V5, "after").1, Some(512));
}

#[test]
fn what_is_not_connect_is_closed_without_a_reply() {
    let server = serve(|_| {});
    for first in [0x20, 0x30, 0x82, 0xC0, 0xE0, 0xF0, 0x00, b'G'] {
        let mut client = Client::open(server.addresses()[0], Version::V5);
        let _ = client.try_send(&[first, 0xFF, 0xFF, 0xFF, 0x7F]);
        client.expect_closed();
    }
}

#[test]
fn refusals_come_in_a_form_that_the_client_reads_and_end_the_connection() {
    let server = serve(|config| {
        config.limits.client_id_length = 10;
        config.listeners.push(ListenerConfig { allow_anonymous: false, ..on_any_port() });
        config.listeners.push(ListenerConfig { max_connections: 1, ..on_any_port() });
    });
    let [open, closed, small] = *server.addresses() else { panic!("three listeners") };
    let refused = |address: SocketAddr, version, id: &str, clean| {
        let mut client = Client::open(address, version);
        client.send(&Packet::Connect(connect(version, id, clean)));
        client.refused()
    };
    for version in VERSIONS {
        assert_eq!(refused(open, version, "over the limit", true), ReasonCode::ClientIdentifierNotValid);
        assert_eq!(refused(closed, version, "nobody", true), ReasonCode::NotAuthorized);
    }
    assert_eq!(refused(open, Version::V4, "", false), ReasonCode::ClientIdentifierNotValid);
    let first = Client::connect(small, Version::V5, "first");
    assert_eq!(refused(small, Version::V5, "second", true), ReasonCode::ServerBusy);
    assert_eq!(refused(small, Version::V4, "second", true), ReasonCode::ServerUnavailable);
    // It may come again, for it takes its own place.
    let mut old = first;
    let first = Client::connect(small, Version::V5, "first");
    assert_eq!(old.expect_disconnect(), ReasonCode::SessionTakenOver);
    assert_eq!(refused(small, Version::V5, "second", true), ReasonCode::ServerBusy);
    first.disconnect();
    eventually("there is room again", || {
        let mut client = Client::open(small, Version::V4);
        client.send(&Packet::Connect(connect(Version::V4, "third", true)));
        client.next().bytes[3] == 0
    });
    // An unknown level, as a later and as an earlier version would send it.
    let mut later = Client::open(open, Version::V5);
    later.send_bytes(b"\x10\x0e\0\x04MQTT\x06\x02\0\x3c\0\0\x01c");
    assert_eq!(later.refused(), ReasonCode::UnsupportedProtocolVersion);
    let mut earlier = Client::open(open, Version::V4);
    earlier.send_bytes(b"\x10\x0d\0\x04MQTT\x02\x02\0\x3c\0\x01c");
    assert_eq!(earlier.refused(), ReasonCode::UnsupportedProtocolVersion);
}

#[test]
fn slow_loris_connect_meets_one_deadline_and_newcomers_get_in() {
    let server = serve(|config| config.limits.connect_timeout = Duration::from_millis(300));
    let address = server.addresses()[0];
    let mut slow = Client::open(address, Version::V4);
    let start = Instant::now();
    for byte in
        encoded(Version::V4, &Packet::Connect(connect(Version::V4, "a-long-client-id-to-dribble", true)))
    {
        if slow.try_send(&[byte]).is_err() || slow.poll(Duration::from_millis(50)).is_err() {
            break;
        }
    }
    slow.expect_closed();
    let after = start.elapsed();
    assert!(after >= Duration::from_millis(290) && after < PATIENCE, "{after:?}");
    // Silence is no better; and nobody who comes in meanwhile waits for them.
    let mut silent = Client::open(address, Version::V4);
    Client::connect(address, Version::V4, "newcomer").ping();
    silent.expect_closed();
}

#[test]
fn handshake_flood_makes_the_oldest_of_the_fullest_address_go() {
    let server = serve(|config| {
        // With one shard they are accepted in the order in which they come.
        config.shards = 1;
        config.limits.max_handshakes_per_address = 3;
    });
    let address = server.addresses()[0];
    let mut held: Vec<Client> = Vec::new();
    for _ in 0..3 {
        let mut client = Client::open(address, Version::V4);
        client.send_bytes(&[0x10]);
        held.push(client);
    }
    // Nothing tells that all three have been accepted; the fourth comes in by pushing one of them out.
    Client::connect(address, Version::V4, "newcomer").ping();
    let gone = |held: &mut Vec<Client>| {
        held.iter_mut().filter_map(|client| client.poll(Duration::from_millis(20)).err()).count()
    };
    let deadline = Instant::now() + PATIENCE;
    let mut ended = 0;
    while ended == 0 && Instant::now() < deadline {
        ended = gone(&mut held);
    }
    assert_eq!(ended, 1);
    assert!(held[0].poll(Duration::from_millis(20)).is_err(), "the oldest one went");
}

#[test]
fn a_health_check_leaves_no_trace() {
    let server = serve(|config| config.limits.max_handshakes = 2);
    for _ in 0..200 {
        drop(TcpStream::connect(server.addresses()[0]).expect("accepted"));
    }
    Client::connect(server.addresses()[0], Version::V5, "after").ping();
}

#[test]
fn what_was_said_before_half_closing_is_answered() {
    let server = serve(|_| {});
    let address = server.addresses()[0];
    let mut taker = Client::connect(address, Version::V5, "taker");
    taker.subscribe("t", QoS::AtMostOnce);
    let mut client = Client::connect(address, Version::V4, "brief");
    client.send(&Packet::Publish(message("t", QoS::AtLeastOnce, "last words")));
    client.half_close();
    client.wait_for(|packet| matches!(packet, Packet::PubAck(_)));
    client.expect_closed();
    taker.expect_publish("t", b"last words");
    eventually("it is gone", || connected(&server) == 1);
}

#[test]
fn a_will_is_published_when_the_socket_ends_and_not_after_disconnect() {
    let server = serve(|config| config.shards = 2);
    let address = server.addresses()[0];
    let mut taker = Client::connect(address, Version::V5, "taker");
    taker.subscribe("will/+", QoS::AtMostOnce);
    let with_will = |id, topic| {
        let will = LastWill {
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Properties::EMPTY,
            topic,
            payload: b"gone",
        };
        let mut client = Client::open(address, Version::V5);
        client.send(&Packet::Connect(Connect { will: Some(will), ..connect(Version::V5, id, true) }));
        client.accepted();
        client
    };
    with_will("polite", "will/polite").disconnect();
    drop(with_will("lost", "will/lost"));
    taker.expect_publish("will/lost", b"gone");
}

#[test]
fn a_reader_that_blocks_does_not_hold_up_the_others() {
    let server = serve(|config| config.shards = 1);
    let address = server.addresses()[0];
    let mut blocked = Client::connect(address, Version::V4, "blocked");
    blocked.subscribe("flood", QoS::AtMostOnce);
    let mut reader = Client::connect(address, Version::V4, "reader");
    reader.subscribe("flood", QoS::AtMostOnce);
    let mut giver = Client::connect(address, Version::V4, "giver");
    let payload = vec![7; 32 * 1024];
    // More than the kernel's buffers and the broker's together take.
    for round in 0..400 {
        giver.publish("flood", QoS::AtMostOnce, &payload);
        reader.expect_publish("flood", &payload);
        if round % 50 == 0 {
            giver.ping();
        }
    }
    assert!(server.stats()[0].dropped(weirmq::stats::DropReason::Qos0SlowConsumer) > 0);
    // When it reads again it gets what was kept for it, in order, and then what is new.
    let mut got = 0;
    while let Ok(Some(frame)) = blocked.poll(Duration::from_millis(300)) {
        assert_eq!(frame.publish().payload, payload);
        got += 1;
    }
    assert!(got > 10, "{got}");
    giver.publish("flood", QoS::AtMostOnce, b"new");
    blocked.expect_publish("flood", b"new");
}

#[test]
fn publishers_that_outrun_the_lanes_pause_and_lose_nothing() {
    let server = serve(|config| {
        config.shards = 2;
        config.limits.lane_bytes = 4096;
    });
    let address = server.addresses()[0];
    let mut takers: Vec<Client> =
        (0..4).map(|number| Client::connect(address, Version::V5, &format!("t{number}"))).collect();
    for taker in &mut takers {
        taker.subscribe("t", QoS::AtMostOnce);
    }
    let mut giver = Client::connect(address, Version::V5, "giver");
    // It is gone long before the broker has read all of it.
    giver.send_bytes(&burst(2000));
    drop(giver);
    for taker in &mut takers {
        for number in 0..2000 {
            taker.expect_publish("t", format!("{number:0100}").as_bytes());
        }
    }
    eventually("the giver is gone", || connected(&server) == 4);
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let server = serve(|_| {});
    let address = server.addresses()[0];
    let listeners = vec![ListenerConfig { bind: Bind::Tcp(address), ..on_any_port() }];
    let config = Config { listeners, store: nothing_kept(), ..Config::default() };
    let Err(error) = Server::start(config) else { panic!("it started") };
    assert!(matches!(error, ServerError::Listen(..)));
    assert_eq!(error.to_string(), format!("cannot listen on {address}: the port is in use"));
}

#[test]
fn shutdown_tells_everyone_and_frees_the_port() {
    let server = serve(|config| config.shards = 2);
    let address = server.addresses()[0];
    let mut clients: Vec<Client> =
        (0..20).map(|id| Client::connect(address, Version::V5, &format!("c{id}"))).collect();
    let mut old = Client::connect(address, Version::V4, "old");
    // One in the middle of its handshake does not hold it up either.
    let mut half = TcpStream::connect(address).expect("accepted");
    half.write_all(&[0x10]).expect("written");
    let stopping = thread::spawn(move || server.shutdown());
    for client in &mut clients {
        assert_eq!(client.expect_disconnect(), ReasonCode::ServerShuttingDown);
    }
    old.expect_closed();
    drop((clients, old));
    stopping.join().expect("no panic").expect("no shard failed");
    assert_eq!(half.read(&mut [0; 8]).unwrap_or(0), 0);
    serve(|config| config.listeners[0].bind = Bind::Tcp(address));
}

#[test]
fn shutdown_does_not_wait_for_a_client_that_does_not_read() {
    let server = serve(|config| config.shards = 1);
    let address = server.addresses()[0];
    let mut blocked = Client::connect(address, Version::V5, "blocked");
    blocked.subscribe("flood", QoS::AtMostOnce);
    let mut giver = Client::connect(address, Version::V4, "giver");
    for _ in 0..400 {
        giver.publish("flood", QoS::AtMostOnce, &[7; 32 * 1024]);
    }
    giver.ping();
    let start = Instant::now();
    server.shutdown().expect("no shard failed");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
