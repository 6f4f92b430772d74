//! `weirmq sub --exec`: a message is acknowledged when its command has succeeded, and not before.

use std::fs;
use std::path::PathBuf;

use weirmq::protocol::packet::{Packet, PacketType, QoS, SubscribeOptions};
use weirmq::protocol::properties::Property;

use crate::broker::Broker;
use crate::command::Weirmq;

const QOS: QoS = QoS::AtLeastOnce;

fn exec(broker: &Broker, version: &str, command: &str) -> Weirmq {
    Weirmq::start("sub", broker.port, &["--mqtt", version, "-t", "a/#", "--exec", command])
}

/// A file that a command waits for.
fn gate() -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gate");
    let wait = format!("while ! test -e {}; do sleep 0.05; done", file.display());
    (dir, file, wait)
}

#[test]
fn success_acknowledges_and_the_environment_tells_the_message() {
    let broker = Broker::new();
    let script = "echo $WEIRMQ_TOPIC $WEIRMQ_QOS $WEIRMQ_PACKET_ID $WEIRMQ_ATTEMPT $WEIRMQ_CONTENT_TYPE \
                  $WEIRMQ_USER_PROPERTY_ORDER_ID $(cat)";
    let command = exec(&broker, "5", script);
    let mut peer = broker.accept();
    // One message at a time, and QoS 1 unless something else is said.
    assert_eq!(peer.connect().properties.iter().collect::<Vec<_>>(), [Property::ReceiveMaximum(1)]);
    match peer.read() {
        Packet::Subscribe(subscribe) => {
            let filters: Vec<_> = subscribe.filters.iter().collect();
            assert_eq!(filters, [("a/#", SubscribeOptions::at_most(QOS))]);
        }
        other => panic!("{other:?} is no SUBSCRIBE"),
    }
    let properties = [Property::ContentType("text/x"), Property::UserProperty("order-id", "42")];
    peer.deliver_with("a/b", "hello there", QOS, 3, &properties);
    assert_eq!(command.line(), "a/b 1 3 1 text/x 42 hello there");
    peer.expect_ack(PacketType::PubAck, 3);
    peer.deliver("a/c", "", QoS::AtMostOnce, 0);
    assert_eq!(command.line(), "a/c 0 1");
    command.signal("TERM");
    peer.expect_disconnect();
    drop(peer);
    command.end().well();
}

#[test]
fn failure_is_tried_again_in_order_and_only_then_acknowledged() {
    let broker = Broker::new();
    let (_dir, file, wait) = gate();
    let script =
        format!("echo $WEIRMQ_ATTEMPT $(cat); test $WEIRMQ_ATTEMPT$WEIRMQ_TOPIC != 1a/1 || exit 5; {wait}");
    let command = exec(&broker, "3.1.1", &script);
    let mut peer = broker.subscribed();
    peer.deliver("a/1", "one", QOS, 1);
    peer.deliver("a/2", "two", QOS, 2);
    assert_eq!(command.line(), "1 one");
    assert_eq!(command.line(), "2 one");
    // A second after the first attempt nothing is acknowledged.
    peer.expect_silence();
    fs::write(file, "").unwrap();
    peer.expect_ack(PacketType::PubAck, 1);
    assert_eq!(command.line(), "1 two");
    peer.expect_ack(PacketType::PubAck, 2);
    command.signal("TERM");
    peer.expect_disconnect();
    drop(peer);
    command.end().said(0, &["exit status: 5", "not acknowledged, tried again in 1 s\n"]);
}

#[test]
fn qos_2_is_handled_before_pubrec() {
    let broker = Broker::new();
    let command = exec(&broker, "5", "cat; echo; test $WEIRMQ_ATTEMPT = 2");
    let mut peer = broker.subscribed();
    peer.deliver("a", "x", QoS::ExactlyOnce, 1);
    assert_eq!(command.line(), "x");
    assert_eq!(command.line(), "x");
    peer.expect_ack(PacketType::PubRec, 1);
    peer.ack(PacketType::PubRel, 1);
    peer.expect_ack(PacketType::PubComp, 1);
    command.signal("TERM");
    peer.expect_disconnect();
}

#[test]
fn the_connection_is_kept_alive_while_a_command_runs() {
    let broker = Broker::new();
    let (_dir, file, wait) = gate();
    let args = ["-t", "a", "-k", "1", "--exec", &wait];
    let command = Weirmq::start("sub", broker.port, &args);
    let mut peer = broker.subscribed();
    peer.deliver("a", "x", QOS, 1);
    for _ in 0..2 {
        assert_eq!(peer.read(), Packet::PingReq);
        peer.send(&Packet::PingResp);
    }
    fs::write(file, "").unwrap();
    loop {
        match peer.read() {
            Packet::PingReq => peer.send(&Packet::PingResp),
            packet => {
                assert_eq!(packet.packet_type(), PacketType::PubAck);
                break;
            }
        }
    }
    drop(command);
}

#[test]
fn the_first_signal_lets_the_command_end_and_acknowledges_it() {
    let broker = Broker::new();
    let (_dir, file, wait) = gate();
    let command = exec(&broker, "3.1.1", &format!("echo started; {wait}; sleep 0.5"));
    let mut peer = broker.subscribed();
    peer.deliver("a", "x", QOS, 1);
    peer.deliver("a", "y", QOS, 2);
    assert_eq!(command.line(), "started");
    peer.expect_silence();
    command.signal("TERM");
    fs::write(file, "").unwrap();
    peer.expect_ack(PacketType::PubAck, 1);
    // The second message is not begun.
    peer.expect_disconnect();
    drop(peer);
    let ended = command.end();
    ended.well();
    assert_eq!(ended.out, "");
}

#[test]
fn the_second_signal_kills_the_command() {
    let broker = Broker::new();
    let command = exec(&broker, "3.1.1", "echo started; exec sleep 1000");
    let mut peer = broker.subscribed();
    peer.deliver("a", "x", QOS, 1);
    assert_eq!(command.line(), "started");
    command.signal("TERM");
    command.signal("INT");
    peer.expect_disconnect();
    drop(peer);
    // Standard error ends only when the command is gone, too.
    command.end().well();
}

#[test]
fn a_signal_ends_the_wait_for_another_attempt() {
    let broker = Broker::new();
    let command = exec(&broker, "3.1.1", "echo tried; test $WEIRMQ_ATTEMPT = 9");
    let mut peer = broker.subscribed();
    peer.deliver("a", "x", QOS, 1);
    // After the third the wait is four seconds.
    for _ in 0..3 {
        assert_eq!(command.line(), "tried");
    }
    command.signal("TERM");
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(command.end().code, Some(0));
}

#[test]
fn a_count_ends_it_after_that_many_successes() {
    let broker = Broker::new();
    let args = ["-t", "a", "-C", "2", "--exec", "cat; echo; test $WEIRMQ_ATTEMPT$WEIRMQ_PACKET_ID != 11"];
    let command = Weirmq::start("sub", broker.port, &args);
    let mut peer = broker.subscribed();
    for (payload, id) in [("x", 1), ("y", 2), ("z", 3)] {
        peer.deliver("a", payload, QOS, id);
    }
    peer.expect_ack(PacketType::PubAck, 1);
    peer.expect_ack(PacketType::PubAck, 2);
    peer.expect_disconnect();
    drop(peer);
    let ended = command.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "x\nx\ny\n"));
}
