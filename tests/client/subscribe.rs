//! `weirmq sub`: what it prints, when it acknowledges, and how it ends.

use std::io::Write;

use weirmq::protocol::packet::{Packet, PacketType, QoS, SubscribeOptions};
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::broker::{Broker, message};
use crate::command::Weirmq;

const BOTH: [&str; 2] = ["3.1.1", "5"];

fn subscribe(broker: &Broker, version: &str, args: &[&str]) -> Weirmq {
    let mut all = vec!["--mqtt", version, "-t", "a/#"];
    all.extend(args);
    Weirmq::start("sub", broker.port, &all)
}

#[test]
fn it_prints_count_messages_and_ends() {
    for version in BOTH {
        let broker = Broker::new();
        let command = subscribe(&broker, version, &["-C", "2", "-v"]);
        let mut peer = broker.subscribed();
        for payload in ["one", "two", "three"] {
            peer.deliver("a/b", payload, QoS::AtMostOnce, 0);
        }
        peer.expect_disconnect();
        drop(peer);
        let ended = command.end();
        ended.well();
        assert_eq!(ended.out, "a/b one\na/b two\n");
    }
}

#[test]
fn subscribe_asks_for_every_filter_at_the_given_qos() {
    for version in BOTH {
        let broker = Broker::new();
        let command = subscribe(&broker, version, &["-t", "$share/g/b/+", "-q", "2"]);
        let mut peer = broker.accept();
        match peer.read() {
            Packet::Subscribe(subscribe) => {
                let filters: Vec<_> = subscribe.filters.iter().collect();
                let options = SubscribeOptions::at_most(QoS::ExactlyOnce);
                assert_eq!(filters, [("a/#", options), ("$share/g/b/+", options)]);
            }
            other => panic!("{other:?} is no SUBSCRIBE"),
        }
        drop(command);
    }
}

#[test]
fn only_what_is_printed_is_acknowledged() {
    for version in BOTH {
        let broker = Broker::new();
        let command = subscribe(&broker, version, &["-q", "2", "-C", "3"]);
        let mut peer = broker.subscribed();
        peer.deliver("a", "1", QoS::AtLeastOnce, 7);
        assert_eq!(command.line(), "1");
        peer.expect_ack(PacketType::PubAck, 7);
        peer.deliver("a", "2", QoS::ExactlyOnce, 8);
        assert_eq!(command.line(), "2");
        peer.expect_ack(PacketType::PubRec, 8);
        peer.ack(PacketType::PubRel, 8);
        peer.expect_ack(PacketType::PubComp, 8);
        // The fourth is one too many: the broker keeps it.
        peer.deliver("a", "3", QoS::AtLeastOnce, 9);
        peer.deliver("a", "4", QoS::AtLeastOnce, 10);
        peer.expect_ack(PacketType::PubAck, 9);
        peer.expect_disconnect();
        drop(peer);
        let ended = command.end();
        ended.well();
        assert_eq!(ended.out, "3\n");
    }
}

#[test]
fn a_qos_2_message_that_is_sent_again_is_printed_once() {
    let broker = Broker::new();
    let command = subscribe(&broker, "5", &["-q", "2", "-C", "2"]);
    let mut peer = broker.subscribed();
    peer.deliver("a", "once", QoS::ExactlyOnce, 8);
    peer.expect_ack(PacketType::PubRec, 8);
    let mut again = message("a", "once", QoS::ExactlyOnce, 8);
    again.dup = true;
    peer.send(&Packet::Publish(again));
    peer.expect_ack(PacketType::PubRec, 8);
    peer.ack(PacketType::PubRel, 8);
    peer.expect_ack(PacketType::PubComp, 8);
    // The identifier is free for another message now.
    peer.deliver("a", "more", QoS::ExactlyOnce, 8);
    peer.expect_ack(PacketType::PubRec, 8);
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(command.end().out, "once\nmore\n");
}

#[test]
fn formats_are_mosquittos() {
    let broker = Broker::new();
    let format = "%t|%p|%q|%r|%l|%m|%x|%C|%P|%%\\t.";
    let command = subscribe(&broker, "5", &["-C", "1", "-q", "1", "-F", format]);
    let mut peer = broker.subscribed();
    let properties = [Property::ContentType("text/x"), Property::UserProperty("k", "v")];
    peer.deliver_with("a/b", "hé", QoS::AtLeastOnce, 5, &properties);
    peer.expect_ack(PacketType::PubAck, 5);
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(command.end().out, "a/b|hé|1|0|3|5|68c3a9|text/x|k:v|%\t.\n");

    let ended = Weirmq::start("sub", broker.port, &["-t", "a", "-F", "%Q"]).end();
    ended.said(2, &["%Q is no format sequence"]);
}

#[test]
fn raw_payloads_need_no_end_of_line() {
    let broker = Broker::new();
    let command = subscribe(&broker, "3.1.1", &["-C", "2", "-N"]);
    let mut peer = broker.subscribed();
    peer.deliver("a", "one\n", QoS::AtMostOnce, 0);
    peer.deliver("a", "two", QoS::AtMostOnce, 0);
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(command.end().out, "one\ntwo");
}

#[test]
fn stale_retained_messages_can_be_left_out_and_are_acknowledged() {
    let broker = Broker::new();
    let command = subscribe(&broker, "3.1.1", &["-C", "1", "-R", "-q", "1"]);
    let mut peer = broker.subscribed();
    let mut stale = message("a", "stale", QoS::AtLeastOnce, 1);
    stale.retain = true;
    peer.send(&Packet::Publish(stale));
    peer.expect_ack(PacketType::PubAck, 1);
    peer.deliver("a", "fresh", QoS::AtLeastOnce, 2);
    peer.expect_ack(PacketType::PubAck, 2);
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(command.end().out, "fresh\n");
}

#[test]
fn the_time_limit_has_its_own_exit_code() {
    let broker = Broker::new();
    let command = subscribe(&broker, "3.1.1", &["-W", "1", "-C", "2"]);
    let mut peer = broker.subscribed();
    peer.deliver("a", "one", QoS::AtMostOnce, 0);
    peer.expect_disconnect();
    drop(peer);
    let ended = command.end();
    ended.said(27, &["timed out"]);
    assert_eq!(ended.out, "one\n");

    // It holds before CONNACK as well.
    let command = subscribe(&broker, "3.1.1", &["-W", "1"]);
    let _peer = broker.connect();
    command.end().said(27, &["timed out"]);
}

#[test]
fn signals_end_it_in_good_order() {
    for (version, signal) in [("3.1.1", "TERM"), ("5", "INT")] {
        let broker = Broker::new();
        let command = subscribe(&broker, version, &[]);
        let mut peer = broker.subscribed();
        peer.deliver("a", "one", QoS::AtMostOnce, 0);
        assert_eq!(command.line(), "one");
        command.signal(signal);
        peer.expect_disconnect();
        drop(peer);
        command.end().well();
    }
}

#[test]
fn a_refused_subscription_says_which_and_why() {
    let broker = Broker::new();
    let command = subscribe(&broker, "3.1.1", &["-t", "b"]);
    let mut peer = broker.accept();
    peer.suback(&[0, 0x80]);
    peer.expect_disconnect();
    drop(peer);
    command.end().said(5, &["weirmq sub: SUBSCRIBE to b refused: failure (return code 0x80)\n"]);

    let command = subscribe(&broker, "5", &["-t", "b"]);
    let mut peer = broker.accept();
    peer.suback(&[0x87, 0x97]);
    peer.expect_disconnect();
    drop(peer);
    command.end().said(5, &["a/# refused: Not authorized (0x87); ", "to b refused: Quota exceeded (0x97)\n"]);
}

#[test]
fn a_refused_connect_says_why() {
    let broker = Broker::new();
    let command = subscribe(&broker, "5", &[]);
    broker.connect().refuse(ReasonCode::ClientIdentifierNotValid, "too long");
    command.end().said(4, &["CONNECT refused: Client identifier not valid (0x85): too long\n"]);
    // The first connection is not tried again, whatever the reason.
    let command = subscribe(&broker, "3.1.1", &[]);
    broker.connect().refuse(ReasonCode::ServerUnavailable, "");
    command.end().said(4, &["server unavailable"]);
}

#[test]
fn the_connection_is_kept_alive() {
    for version in BOTH {
        let broker = Broker::new();
        let command = subscribe(&broker, version, &["-k", "1"]);
        let mut peer = broker.subscribed();
        for _ in 0..2 {
            assert_eq!(peer.read(), Packet::PingReq);
            peer.send(&Packet::PingResp);
        }
        command.signal("TERM");
        peer.expect_disconnect();
        drop(peer);
        command.end().well();
    }
}

#[test]
fn topic_aliases_are_understood_when_offered() {
    let broker = Broker::new();
    let args = "-D CONNECT topic-alias-maximum 5 -C 3 -v";
    let command = subscribe(&broker, "5", &args.split(' ').collect::<Vec<_>>());
    let mut peer = broker.subscribed();
    peer.deliver_with("a/long", "1", QoS::AtMostOnce, 0, &[Property::TopicAlias(2)]);
    peer.deliver_with("", "2", QoS::AtMostOnce, 0, &[Property::TopicAlias(2)]);
    peer.deliver("a/b", "3", QoS::AtMostOnce, 0);
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(command.end().out, "a/long 1\na/long 2\na/b 3\n");
}

#[test]
fn what_no_broker_may_send_ends_it() {
    for (version, bytes, words) in [
        ("5", &b"\x30\x03\x00\x01#\x00"[..], "broke the protocol"),
        ("5", b"\x00\x00", "broke the protocol"),
        ("5", b"\xF0\x00", "AUTH"),
        ("5", b"\x30\x07\x00\x01a\x03\x23\x00\x01", "TopicAliasInvalid"),
        ("3.1.1", b"\x30\x03\x00\x01#", "broke the protocol"),
        ("3.1.1", b"\x00\x00", "broke the protocol"),
        ("3.1.1", b"\x10\x00", "broke the protocol"),
        ("3.1.1", b"\x32\x02\x00\x00", "broke the protocol"),
    ] {
        let broker = Broker::new();
        let command = subscribe(&broker, version, &[]);
        let mut peer = broker.subscribed();
        peer.stream.write_all(bytes).unwrap();
        command.end().said(6, &[words]);
    }
}

#[test]
fn many_messages_in_any_split_are_all_printed() {
    let broker = Broker::new();
    let command = subscribe(&broker, "3.1.1", &["-C", "5000"]);
    let mut peer = broker.subscribed();
    let expected: String = (0..5000).map(|number| format!("{number}\n")).collect();
    let mut bytes = Vec::new();
    for payload in expected.lines() {
        let packet = Packet::Publish(message("a", payload, QoS::AtMostOnce, 0));
        weirmq::protocol::codec::encode(peer.version, &packet, &mut bytes);
    }
    for chunk in bytes.chunks(777) {
        peer.stream.write_all(chunk).unwrap();
    }
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(command.end().out, expected);
}
