//! `weirmq pub`: every flow to its last packet, and a reason for everything that goes wrong.

use std::io::Write;

use weirmq::protocol::packet::{Packet, PacketType, QoS, Version};
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::broker::Broker;
use crate::command::Weirmq;

const BOTH: [&str; 2] = ["3.1.1", "5"];

fn publish(broker: &Broker, version: &str, args: &[&str]) -> Weirmq {
    let mut all = vec!["--mqtt", version, "-t", "a/b"];
    all.extend(args);
    Weirmq::start("pub", broker.port, &all)
}

#[test]
fn qos_0_ends_once_the_broker_has_read_it() {
    for version in BOTH {
        let broker = Broker::new();
        let command = publish(&broker, version, &["-m", "hello", "-r"]);
        let mut peer = broker.accept();
        let message = peer.publish();
        assert_eq!((message.topic, message.payload, message.qos), ("a/b", &b"hello"[..], QoS::AtMostOnce));
        assert!(message.retain && !message.dup);
        peer.expect_disconnect();
        drop(peer);
        command.end().well();
    }
}

#[test]
fn qos_1_waits_for_puback() {
    for version in BOTH {
        let broker = Broker::new();
        let command = publish(&broker, version, &["-n", "-q", "1"]);
        let mut peer = broker.accept();
        let message = peer.publish();
        assert_eq!((message.payload, message.qos), (&b""[..], QoS::AtLeastOnce));
        let id = message.packet_id.unwrap().get();
        peer.ack(PacketType::PubAck, id);
        peer.expect_disconnect();
        drop(peer);
        command.end().well();
    }
}

#[test]
fn qos_2_goes_to_pubcomp() {
    for version in BOTH {
        let broker = Broker::new();
        let mut command = publish(&broker, version, &["-s", "-q", "2"]);
        command.feed("all\nof it");
        let mut peer = broker.accept();
        let message = peer.publish();
        assert_eq!((message.payload, message.qos), (&b"all\nof it"[..], QoS::ExactlyOnce));
        let id = message.packet_id.unwrap().get();
        peer.ack(PacketType::PubRec, id);
        peer.expect_ack(PacketType::PubRel, id);
        peer.ack(PacketType::PubComp, id);
        peer.expect_disconnect();
        drop(peer);
        command.end().well();
    }
}

#[test]
fn a_thousand_lines_are_pipelined_within_the_servers_receive_maximum() {
    let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
    let broker = Broker::new();
    let mut command = publish(&broker, "5", &["-l", "-q", "1"]);
    command.feed(&lines);
    let mut peer = broker.connect();
    peer.connack(false, &[Property::ReceiveMaximum(10)]);
    let mut received = String::new();
    for _ in 0..100 {
        let mut ids = Vec::new();
        for _ in 0..10 {
            let message = peer.publish();
            received.push_str(std::str::from_utf8(message.payload).unwrap());
            received.push('\n');
            ids.push(message.packet_id.unwrap().get());
        }
        // Ten are under way: the eleventh waits for an answer.
        peer.expect_silence();
        // In any order.
        for id in ids.into_iter().rev() {
            peer.ack(PacketType::PubAck, id);
        }
    }
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(received, lines);
    command.end().well();
}

#[test]
fn without_a_receive_maximum_the_window_is_the_clients() {
    for (version, args, window) in [
        ("3.1.1", &["-l", "-q", "1"][..], 20),
        ("5", &["-l", "-q", "2"], 100),
        ("5", &["-lq1", "-M", "3"], 3),
    ] {
        let broker = Broker::new();
        let mut command = publish(&broker, version, args);
        command.feed(&"x\n".repeat(1000));
        let mut peer = broker.accept();
        for _ in 0..window {
            peer.publish();
        }
        peer.expect_silence();
    }
}

#[test]
fn a_thousand_lines_arrive_in_order_at_every_qos() {
    let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
    for (version, qos) in [("3.1.1", "0"), ("3.1.1", "1"), ("3.1.1", "2"), ("5", "0"), ("5", "2")] {
        let broker = Broker::new();
        let mut command = publish(&broker, version, &["-l", "-q", qos]);
        command.feed(&lines);
        let mut peer = broker.accept();
        let mut received = String::new();
        loop {
            match peer.read() {
                Packet::Publish(message) => {
                    received.push_str(std::str::from_utf8(message.payload).unwrap());
                    received.push('\n');
                    let (qos, id) = (message.qos, message.packet_id.map_or(0, u16::from));
                    match qos {
                        QoS::AtMostOnce => {}
                        QoS::AtLeastOnce => peer.ack(PacketType::PubAck, id),
                        QoS::ExactlyOnce => peer.ack(PacketType::PubRec, id),
                    }
                }
                Packet::PubRel(ack) => {
                    let id = ack.packet_id.get();
                    peer.ack(PacketType::PubComp, id);
                }
                Packet::Disconnect(_) => break,
                other => panic!("{other:?}"),
            }
        }
        drop(peer);
        assert_eq!(received, lines);
        command.end().well();
    }
}

#[test]
fn empty_lines_and_a_last_line_without_an_end_are_messages() {
    let broker = Broker::new();
    let mut command = publish(&broker, "3.1.1", &["-l"]);
    command.feed("one\n\nlast");
    let mut peer = broker.accept();
    for payload in [&b"one"[..], b"", b"last"] {
        assert_eq!(peer.publish().payload, payload);
    }
    peer.expect_disconnect();
    drop(peer);
    command.end().well();
}

#[test]
fn a_refused_connect_says_why() {
    for (reason, words) in [
        (ReasonCode::BadUserNameOrPassword, "bad user name or password (return code 4)"),
        (ReasonCode::ServerUnavailable, "server unavailable (return code 3)"),
        (ReasonCode::NotAuthorized, "not authorized (return code 5)"),
    ] {
        let broker = Broker::new();
        let command = publish(&broker, "3.1.1", &["-m", "x"]);
        broker.connect().refuse(reason, "");
        command.end().said(4, &["weirmq pub: CONNECT refused: ", words, "\n"]);
    }
    let broker = Broker::new();
    let command = publish(&broker, "5", &["-m", "x"]);
    broker.connect().refuse(ReasonCode::Banned, "come back\n\u{1b}[2Jnever");
    command.end().said(4, &["CONNECT refused: Banned (0x8A): come back\\n\\u{1b}[2Jnever\n"]);
}

#[test]
fn a_refused_publish_says_why() {
    for (qos, answer) in [("1", PacketType::PubAck), ("2", PacketType::PubRec)] {
        let broker = Broker::new();
        let command = publish(&broker, "5", &["-m", "x", "-q", qos]);
        let mut peer = broker.accept();
        let id = peer.publish().packet_id.unwrap().get();
        peer.ack_with(answer, id, ReasonCode::QuotaExceeded, Some("the queue is full"));
        peer.expect_disconnect();
        drop(peer);
        command.end().said(5, &["message 1 refused: Quota exceeded (0x97): the queue is full\n"]);
    }
}

#[test]
fn no_matching_subscribers_is_a_success() {
    let broker = Broker::new();
    let command = publish(&broker, "5", &["-m", "x", "-q", "1"]);
    let mut peer = broker.accept();
    let id = peer.publish().packet_id.unwrap().get();
    peer.ack_with(PacketType::PubAck, id, ReasonCode::NoMatchingSubscribers, None);
    peer.expect_disconnect();
    drop(peer);
    command.end().well();
}

#[test]
fn the_first_refused_line_ends_the_sending_but_not_the_waiting() {
    let broker = Broker::new();
    let mut command = publish(&broker, "5", &["-l", "-q", "1"]);
    let mut input = command.input();
    input.write_all(b"1\n2\n3\n").unwrap();
    let mut peer = broker.accept();
    let ids: Vec<u16> = (0..3).map(|_| peer.publish().packet_id.unwrap().get()).collect();
    peer.ack(PacketType::PubAck, ids[0]);
    peer.ack_with(PacketType::PubAck, ids[1], ReasonCode::NotAuthorized, None);
    peer.ack_with(PacketType::PubAck, ids[2], ReasonCode::QuotaExceeded, None);
    // It ends although its input has not.
    peer.expect_disconnect();
    drop(peer);
    command.end().said(5, &["message 2 refused: Not authorized (0x87)\n"]);
}

#[test]
fn a_lost_connection_says_what_was_not_acknowledged() {
    for version in BOTH {
        let broker = Broker::new();
        let command = publish(&broker, version, &["-m", "x", "-q", "1"]);
        let mut peer = broker.accept();
        peer.publish();
        drop(peer);
        command.end().said(6, &["connection lost", "1 of 1 messages not acknowledged"]);
    }
    let broker = Broker::new();
    let command = publish(&broker, "5", &["-m", "x", "-q", "1"]);
    let mut peer = broker.accept();
    peer.publish();
    peer.disconnect(ReasonCode::ServerShuttingDown);
    command.end().said(6, &["Server shutting down (0x8B)", "1 of 1 messages not acknowledged"]);
}

#[test]
fn an_objection_to_qos_0_is_heard() {
    let broker = Broker::new();
    let command = publish(&broker, "5", &["-m", "x"]);
    let mut peer = broker.accept();
    peer.publish();
    peer.disconnect(ReasonCode::TopicNameInvalid);
    drop(peer);
    command.end().said(6, &["Topic name invalid (0x90)"]);
}

#[test]
fn a_broker_that_is_not_there_is_one_line() {
    let broker = Broker::new();
    let port = broker.port;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ended = Weirmq::start("pub", gone, &["-t", "a", "-m", "x"]).end();
    ended.said(3, &["no connection to 127.0.0.1 port ", "refused"]);
    assert_eq!(ended.err.lines().count(), 1);

    // One that hangs up before CONNACK, and one that speaks another protocol.
    let command = Weirmq::start("pub", port, &["-t", "a", "-m", "x"]);
    drop(broker.connect());
    command.end().said(3, &["no connection", "closed by the broker"]);
    let command = Weirmq::start("pub", port, &["-t", "a", "-m", "x", "--mqtt", "5"]);
    broker.connect().stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    command.end().said(3, &["no connection", "broke the protocol"]);
}

#[test]
fn what_connack_excludes_is_not_sent() {
    for (property, args, words) in [
        (Property::MaximumQoS(0), &["-m", "x", "-q", "1"][..], "QoS 0 at most"),
        (Property::RetainAvailable(false), &["-m", "x", "-r"], "no retained messages"),
        (Property::MaximumPacketSize(20), &["-m", "more than twenty bytes"], "the broker takes 20"),
        (Property::TopicAliasMaximum(3), &["-m", "x", "-D", "PUBLISH", "topic-alias", "4"], "up to 3"),
    ] {
        let broker = Broker::new();
        let command = publish(&broker, "5", args);
        let mut peer = broker.connect();
        peer.connack(false, &[property]);
        peer.expect_disconnect();
        drop(peer);
        command.end().said(1, &[words]);
    }
}

#[test]
fn what_mqtt_excludes_is_not_even_tried() {
    let broker = Broker::new();
    let long = "x".repeat(65_536);
    for (version, args, words) in [
        ("3.1.1", &["-t", "a/#", "-m", "x"][..], "not a valid PUBLISH"),
        ("5", &["-t", "a", "-m", "x", "-D", "PUBLISH", "response-topic", "#"], "not a valid PUBLISH"),
        ("5", &["-t", "a", "-m", "x", "-D", "CONNECT", "content-type", "x"], "not a valid CONNECT"),
        ("5", &["-t", "a", "-m", "x", "-D", "WILL", "content-type", "x"], "--will-topic"),
        ("5", &["-t", "a", "-m", "x", "-D", "SUBSCRIBE", "user-property", "k", "v"], "weirmq sub"),
        ("3.1.1", &["-t", "a", "-m", "x", "-D", "PUBLISH", "content-type", "x"], "--mqtt 5"),
        ("3.1.1", &["-t", "a", "-m", "x", "-x", "5"], "--mqtt 5"),
        ("3.1.1", &["-t", "a", "-m", "x", "-P", "secret"], "a password without a user name"),
        ("3.1.1", &["-t", &long, "-m", "x"], "65,535"),
        ("3.1.1", &["-t", "a", "-m", "x", "-u", &long], "65,535"),
        ("3.1.1", &["-t", "a", "-m", "x", "--will-topic", "w/+"], "not a valid CONNECT"),
    ] {
        let mut all = vec!["--mqtt", version];
        all.extend(args);
        Weirmq::start("pub", broker.port, &all).end().said(2, &[words]);
    }
    let ended = Weirmq::start("pub", broker.port, &["-t", "a", "-f", "/nonexistent/file"]).end();
    ended.said(1, &["/nonexistent/file: "]);
    assert!(broker.is_left_alone());
}

#[test]
fn connect_says_what_the_options_say() {
    for version in BOTH {
        let broker = Broker::new();
        let args = "-m x -i me -c -k 17 -u user -P pass --will-topic w --will-payload gone --will-qos 2 --will-retain";
        let command = publish(&broker, version, &args.split(' ').collect::<Vec<_>>());
        let mut peer = broker.connect();
        let connect = peer.connect();
        assert_eq!((connect.client_id, connect.keep_alive, connect.clean_start), ("me", 17, false));
        assert_eq!((connect.username, connect.password), (Some("user"), Some(&b"pass"[..])));
        let will = connect.will.unwrap();
        assert_eq!((will.topic, will.payload), ("w", &b"gone"[..]));
        assert_eq!((will.qos, will.retain), (QoS::ExactlyOnce, true));
        let expiry: Vec<_> = connect.properties.iter().collect();
        let forever = [Property::SessionExpiryInterval(u32::MAX)];
        assert_eq!(expiry, if peer.version == Version::V5 { &forever[..] } else { &[] });
        peer.connack(false, &[]);
        peer.publish();
        peer.expect_disconnect();
        drop(peer);
        command.end().well();
    }
}

#[test]
fn a_continued_session_is_left_as_it_was() {
    let broker = Broker::new();
    let command = publish(&broker, "5", &["-m", "x", "-q", "1", "-c", "-i", "me"]);
    let mut peer = broker.connect();
    peer.connack(true, &[]);
    peer.deliver("for/the/subscriber", "y", QoS::AtLeastOnce, 1);
    peer.ack(PacketType::PubRel, 2);
    let id = peer.publish().packet_id.unwrap().get();
    peer.ack(PacketType::PubAck, id);
    peer.expect_disconnect();
    drop(peer);
    command.end().well();
}

#[test]
fn properties_go_where_they_are_sent() {
    let broker = Broker::new();
    let args = "-m x -x 60 -D CONNECT user-property c 1 -D WILL will-delay-interval 5 --will-topic w \
                -D PUBLISH content-type text/plain -D publish user-property p 2 -D publish user-property p 3 \
                -D DISCONNECT session-expiry-interval 7";
    let command = publish(&broker, "5", &args.split_whitespace().collect::<Vec<_>>());
    let mut peer = broker.connect();
    let connect = peer.connect();
    assert!(connect.clean_start);
    assert_eq!(
        connect.properties.iter().collect::<Vec<_>>(),
        [Property::UserProperty("c", "1"), Property::SessionExpiryInterval(60)]
    );
    let will = connect.will.unwrap();
    assert_eq!(will.properties.iter().collect::<Vec<_>>(), [Property::WillDelayInterval(5)]);
    peer.connack(false, &[]);
    assert_eq!(
        peer.publish().properties.iter().collect::<Vec<_>>(),
        [
            Property::ContentType("text/plain"),
            Property::UserProperty("p", "2"),
            Property::UserProperty("p", "3")
        ]
    );
    match peer.read() {
        Packet::Disconnect(disconnect) => {
            let properties: Vec<_> = disconnect.properties.iter().collect();
            assert_eq!(properties, [Property::SessionExpiryInterval(7)]);
        }
        other => panic!("{other:?} is no DISCONNECT"),
    }
    drop(peer);
    command.end().well();
}
