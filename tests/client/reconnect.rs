//! A subscriber whose connection is lost comes back, and takes up what is not yet acknowledged.

use std::fs;

use weirmq::protocol::packet::{Packet, PacketType, QoS, Version};
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::broker::{Broker, message};
use crate::command::Weirmq;

const QOS: QoS = QoS::AtLeastOnce;

#[test]
fn it_subscribes_again_where_the_session_is_gone() {
    for version in ["3.1.1", "5"] {
        let broker = Broker::new();
        let command = Weirmq::start("sub", broker.port, &["--mqtt", version, "-t", "a"]);
        let mut peer = broker.subscribed();
        peer.deliver("a", "one", QoS::AtMostOnce, 0);
        assert_eq!(command.line(), "one");
        drop(peer);
        let mut peer = broker.subscribed();
        peer.deliver("a", "two", QoS::AtMostOnce, 0);
        assert_eq!(command.line(), "two");
        command.signal("TERM");
        peer.expect_disconnect();
        drop(peer);
        let words = ["connection lost: ", "; connecting again\n", "connected again\n"];
        command.end().said(0, &words);
    }
}

#[test]
fn it_goes_on_where_the_session_is_kept() {
    let broker = Broker::new();
    let args = "--mqtt 5 -t a -i me -x 60 -q 1";
    let command = Weirmq::start("sub", broker.port, &args.split(' ').collect::<Vec<_>>());
    let mut peer = broker.subscribed();
    assert!(peer.connect().clean_start);
    peer.disconnect(ReasonCode::ServerShuttingDown);
    drop(peer);
    let mut peer = broker.connect();
    assert!(!peer.connect().clean_start, "the session is to be continued");
    assert_eq!(peer.connect().client_id, "me");
    peer.connack(true, &[]);
    peer.deliver("a", "kept", QOS, 4);
    // No SUBSCRIBE comes before the acknowledgement.
    peer.expect_ack(PacketType::PubAck, 4);
    assert_eq!(command.line(), "kept");
    command.signal("TERM");
    peer.expect_disconnect();
}

#[test]
fn a_subscription_that_was_not_confirmed_is_asked_for_again() {
    let broker = Broker::new();
    let _command = Weirmq::start("sub", broker.port, &["-t", "a", "-i", "me", "-c"]);
    let mut peer = broker.accept();
    assert_eq!(peer.read().packet_type(), PacketType::Subscribe);
    drop(peer);
    let mut peer = broker.connect();
    peer.connack(true, &[]);
    peer.suback(&[0]);
}

#[test]
fn a_command_that_outlives_its_connection_runs_once() {
    // It ends before the message comes again, or after.
    for ends_first in [true, false] {
        let broker = Broker::new();
        let dir = tempfile::tempdir().unwrap();
        let gate = dir.path().join("gate");
        let gate_name = gate.display();
        let script = format!("cat; echo; while ! test -e {gate_name}; do sleep 0.05; done; echo done");
        let args = ["--mqtt", "5", "-t", "a", "-i", "me", "-c", "--exec", &script];
        let command = Weirmq::start("sub", broker.port, &args);
        let mut peer = broker.subscribed();
        let expiry = [Property::SessionExpiryInterval(u32::MAX), Property::ReceiveMaximum(1)];
        assert_eq!(peer.connect().properties.iter().collect::<Vec<_>>(), expiry);
        peer.deliver("a", "one", QOS, 7);
        assert_eq!(command.line(), "one");
        drop(peer);
        if ends_first {
            fs::write(&gate, "").unwrap();
            assert_eq!(command.line(), "done");
        }
        let mut peer = broker.connect();
        peer.connack(true, &[]);
        let mut again = message("a", "one", QOS, 7);
        again.dup = true;
        peer.send(&Packet::Publish(again));
        if !ends_first {
            fs::write(&gate, "").unwrap();
            assert_eq!(command.line(), "done");
        }
        peer.expect_ack(PacketType::PubAck, 7);
        peer.deliver("a", "two", QOS, 8);
        peer.expect_ack(PacketType::PubAck, 8);
        assert_eq!(command.line(), "two");
        command.signal("TERM");
        peer.expect_disconnect();
    }
}

#[test]
fn a_broker_that_is_busy_is_asked_again() {
    let broker = Broker::new();
    let command = Weirmq::start("sub", broker.port, &["-t", "a"]);
    drop(broker.subscribed());
    broker.connect().refuse(ReasonCode::ServerUnavailable, "");
    let mut peer = broker.subscribed();
    assert_eq!(peer.version, Version::V4);
    command.signal("TERM");
    peer.expect_disconnect();
}

#[test]
fn a_session_that_another_has_taken_is_left_to_it() {
    let broker = Broker::new();
    let command = Weirmq::start("sub", broker.port, &["-t", "a", "--mqtt", "5", "-i", "me"]);
    broker.subscribed().disconnect(ReasonCode::SessionTakenOver);
    command.end().said(6, &["Session taken over (0x8E)\n"]);
    assert!(broker.is_left_alone());
}

#[test]
fn a_refusal_that_will_not_pass_ends_it() {
    let broker = Broker::new();
    let command = Weirmq::start("sub", broker.port, &["-t", "a"]);
    drop(broker.subscribed());
    broker.connect().refuse(ReasonCode::NotAuthorized, "");
    command.end().said(4, &["connecting again", "not authorized"]);
}

#[test]
fn a_broker_that_does_not_answer_pings_is_given_up() {
    let broker = Broker::new();
    let command = Weirmq::start("sub", broker.port, &["-t", "a", "-k", "1"]);
    let mut peer = broker.subscribed();
    assert_eq!(peer.read(), Packet::PingReq);
    let mut second = broker.subscribed();
    command.signal("TERM");
    second.expect_disconnect();
    drop(second);
    command.end().said(0, &["no answer to PINGREQ"]);
}

#[test]
fn a_signal_ends_the_wait_for_the_broker() {
    let broker = Broker::new();
    let command = Weirmq::start("sub", broker.port, &["-t", "a"]);
    drop(broker.subscribed());
    let peer = broker.connect();
    command.signal("TERM");
    command.end().said(0, &["connecting again"]);
    drop(peer);
}
