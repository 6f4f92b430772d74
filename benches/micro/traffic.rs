//! The bytes that clients send, and the topics and filters of a hundred thousand subscriptions.

use weirmq::protocol::codec;
use weirmq::protocol::packet::{Packet, PacketId, Publish, QoS, Version};
use weirmq::protocol::properties::Properties;

/// How many publishes a read brings.
pub const READ: usize = 64;

/// A PUBLISH.
pub fn publish(version: Version, qos: QoS, topic: &str, payload: usize, id: u16) -> Vec<u8> {
    let packet = Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(id).filter(|_| qos > QoS::AtMostOnce),
        properties: Properties::EMPTY,
        payload: &vec![b'x'; payload],
    });
    let mut bytes = Vec::new();
    codec::encode(version, &packet, &mut bytes);
    bytes
}

/// One read of a publisher.
pub fn read_of(qos: QoS, topic: &str, payload: usize) -> Vec<u8> {
    (1..=READ as u16).flat_map(|id| publish(Version::V4, qos, topic, payload, id)).collect()
}

/// A SUBSCRIBE with one filter.
pub fn subscribe(filter: &str, qos: QoS) -> Vec<u8> {
    let [qos, filter_len] = [qos as u8, filter.len() as u8];
    let mut bytes = vec![0x82, filter_len + 5, 0, 1, 0, filter_len];
    bytes.extend_from_slice(filter.as_bytes());
    bytes.push(qos);
    bytes
}

/// The PUBACK packets of a subscriber that was sent `count` messages, the first with packet id `first`.
pub fn pubacks(first: u16, count: usize) -> Vec<u8> {
    let id = |step| packet_id(first, step).to_be_bytes();
    (0..count as u16).map(id).flat_map(|[high, low]| [0x40, 2, high, low]).collect()
}

/// The packet id that comes so many behind `first`.
pub fn packet_id(first: u16, step: u16) -> u16 {
    ((u32::from(first) - 1 + u32::from(step)) % 65_535 + 1) as u16
}

const DEVICES: usize = 25_000;

/// Three filters for each of so many devices, which [`strangers`] do not match.
pub fn elsewhere(devices: usize) -> impl Iterator<Item = String> {
    (0..devices).flat_map(|device| {
        let (site, unit) = (device / 100, device % 100);
        [
            format!("site/{site}/dev/{unit}/alarm"),
            format!("site/{site}/+/{unit}/state"),
            format!("+/{site}/dev/{unit}/config/#"),
        ]
    })
}

/// Random topics that go down the levels of so many devices, and leave them at the end.
pub fn strangers(devices: usize) -> impl Iterator<Item = String> {
    let mut random = fastrand::Rng::with_seed(11);
    (0..).map(move |number: u32| {
        let device = random.usize(..devices);
        format!("site/{}/dev/{}/temp/{number}", device / 100, device % 100)
    })
}

/// Four filters for each device, of which three match each of its topics.
pub fn filters() -> impl Iterator<Item = String> {
    (0..DEVICES).flat_map(|device| {
        let (site, unit) = (device / 100, device % 100);
        [
            format!("site/{site}/dev/{unit}/+"),
            format!("site/{site}/dev/{unit}/#"),
            format!("site/{site}/+/{unit}/temp"),
            format!("+/{site}/dev/{unit}/hum"),
        ]
    })
}

/// Topics of these devices at random, without end: more than a cache of results holds.
pub fn topics() -> impl Iterator<Item = String> {
    let mut random = fastrand::Rng::with_seed(3);
    std::iter::repeat_with(move || {
        let device = random.usize(..DEVICES);
        let kind = ["temp", "hum"][random.usize(..2)];
        format!("site/{}/dev/{}/{kind}", device / 100, device % 100)
    })
}
