//! The disk fills up, and has room again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::client::{Client, PATIENCE, ack_of, message};
use crate::common::process::Process;
use crate::disk::Disk;
use crate::kill::config;

/// Messages that wait for the client which publishes and consumes: more than may be under way to it at once.
const WAITING: usize = 100;

/// Until room that was made is used.
const RECOVERY: Duration = Duration::from_secs(5);

const V4: Version = Version::V4;
const V5: Version = Version::V5;

/// A message of a few KiB with a number of its own.
fn payload(number: usize) -> String {
    format!("{number:04096}")
}

/// Publishes messages of rising numbers until one is refused; those that were acknowledged.
fn publish_until_refused(client: &mut Client, qos: QoS, numbers: &mut usize) -> BTreeSet<usize> {
    let mut acknowledged = BTreeSet::new();
    let start = Instant::now();
    loop {
        *numbers += 1;
        match client.publish("full/5", qos, payload(*numbers).as_bytes()) {
            ReasonCode::Success => assert!(acknowledged.insert(*numbers)),
            ReasonCode::QuotaExceeded => return acknowledged,
            other => panic!("answered with {other:?}"),
        }
        assert!(start.elapsed() < PATIENCE, "the disk is full and nothing is refused");
    }
}

/// Publishes over and over until it is taken; the number that was, and how long that took.
fn publish_until_taken(client: &mut Client, numbers: &mut usize) -> (usize, Duration) {
    let start = Instant::now();
    loop {
        *numbers += 1;
        let reason = client.publish("full/5", QoS::AtLeastOnce, payload(*numbers).as_bytes());
        if reason == ReasonCode::Success {
            return (*numbers, start.elapsed());
        }
        assert_eq!(reason, ReasonCode::QuotaExceeded);
        assert!(start.elapsed() < PATIENCE, "there is room, and still nothing is taken");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a message that is not answered for now.
fn send(client: &mut Client, number: usize) -> PacketId {
    let packet_id = PacketId::new(40_000).expect("not zero");
    let payload = payload(number);
    let publish = Publish { packet_id: Some(packet_id), ..message("full/4", QoS::AtLeastOnce, &payload) };
    client.send(&Packet::Publish(publish));
    packet_id
}

fn is_answer(packet: &Packet<'_>, id: PacketId) -> bool {
    matches!(packet, Packet::PubAck(ack) if ack.packet_id == id)
}

/// The disk has only so much left, and the broker wants to leave so much.
fn fills_up(reserve: &str, left_kib: u64) {
    let Some(disk) = Disk::new(64) else { return };
    let data = format!("{}/data", disk.path().display());
    let config = config(&data, &format!("reserve = \"{reserve}\"\n[limits]\nreject_timeout = \"5m\""));
    let mut broker = Process::start(&config, |_| {});
    let at = broker.addresses[0];
    let (mut keeper, _) = Client::resume(at, V5, "keeper");
    keeper.subscribe("full/#", QoS::ExactlyOnce);
    drop(keeper);
    let (mut both, _) = Client::resume(at, V4, "both");
    both.subscribe("both", QoS::AtLeastOnce);
    drop(both);
    let mut publisher = Client::connect(at, V5, "publisher");
    for number in 0..WAITING {
        assert_eq!(
            publisher.publish("both", QoS::AtLeastOnce, payload(number).as_bytes()),
            ReasonCode::Success
        );
    }

    disk.fill(left_kib);
    let mut numbers = 0;
    let mut taken = publish_until_refused(&mut publisher, QoS::AtLeastOnce, &mut numbers);
    assert_eq!(publish_until_refused(&mut publisher, QoS::ExactlyOnce, &mut numbers), BTreeSet::new());

    // MQTT 3.1.1 has no reason code: its message is held, and the client is served otherwise.
    let mut old = Client::connect(at, V4, "old");
    let held = send(&mut old, 100_001);
    old.ping();
    // So is one that consumes, and makes room by it.
    let (mut both, present) = Client::resume(at, V4, "both");
    assert!(present);
    let also_held = send(&mut both, 100_002);
    for number in 0..WAITING {
        let frame = both.wait_for(|packet| !is_answer(packet, also_held));
        let publish = frame.publish();
        assert!(publish.payload == payload(number).as_bytes(), "not message {number}");
        both.send(&Packet::PubAck(ack_of(publish.packet_id.expect("QoS 1"))));
    }
    both.ping();
    // And QoS 0 costs no disk.
    let mut zero = Client::connect(at, V5, "zero");
    zero.subscribe("zero", QoS::AtMostOnce);
    publisher.publish("zero", QoS::AtMostOnce, b"goes on");
    zero.expect_publish("zero", b"goes on");
    assert_eq!(publish_until_refused(&mut publisher, QoS::AtLeastOnce, &mut numbers), BTreeSet::new());
    for (client, id) in [(&mut old, held), (&mut both, also_held)] {
        client.ping();
        assert!(!client.has_received(|packet| is_answer(packet, id)), "acknowledged without room");
    }

    disk.clear();
    let room = Instant::now();
    let (number, took) = publish_until_taken(&mut publisher, &mut numbers);
    taken.insert(number);
    for (client, id, number) in [(&mut old, held, 100_001), (&mut both, also_held, 100_002)] {
        client.wait_for(|packet| is_answer(packet, id));
        taken.insert(number);
    }
    println!("{} messages before the disk was full; room was used after {took:?}", taken.len() - 3);
    assert!(room.elapsed() < RECOVERY, "{:?}", room.elapsed());

    broker.kill();
    broker.restart();
    let (mut keeper, present) = Client::resume(broker.addresses[0], V5, "keeper");
    assert!(present);
    let mut seen = BTreeSet::new();
    while seen.len() < taken.len() {
        let frame = keeper.take_publish();
        let number = std::str::from_utf8(frame.publish().payload).ok().and_then(|text| text.parse().ok());
        seen.insert(number.expect("a number"));
    }
    assert_eq!(seen, taken);
    assert!(
        keeper.poll(Duration::from_millis(200)).is_ok_and(|more| more.is_none()),
        "a refused message came"
    );
}

#[test]
fn a_disk_below_its_reserve_refuses_and_recovers() {
    fills_up("8MiB", 4096);
}

#[test]
fn a_disk_without_a_byte_left_refuses_and_recovers() {
    fills_up("0B", 0);
}
