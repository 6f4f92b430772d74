//! What must hold of every packet that decodes, for tests and fuzz targets.

use weirmq::protocol::codec::{MAX_PACKET_SIZE, decode, encode, frame};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf};
use weirmq::protocol::reason::ReasonCode;
use weirmq::protocol::topic;

/// Whether the bytes decode; then everything that the packet says is usable, and it encodes to a packet that
/// is the same.
///
/// # Panics
/// If not.
pub fn is_consistent(version: Version, bytes: &[u8]) -> bool {
    let packet = match (frame(Some(version), bytes, MAX_PACKET_SIZE), decode(version, bytes)) {
        (Ok(Some(size)), Ok(packet)) => {
            assert_eq!(size, bytes.len());
            packet
        }
        (framed, Ok(packet)) => panic!("framed as {framed:?}, decoded as {packet:?}"),
        (_, Err(error)) => {
            assert!(error.reason.is_failure() && !error.detail.is_empty());
            return false;
        }
    };
    let mut again = Vec::new();
    encode(version, &packet, &mut again);
    assert_eq!(decode(version, &again), Ok(packet.clone()));
    assert!(again.len() <= bytes.len(), "written longer than it came");
    match &packet {
        Packet::Connect(connect) => {
            are_consistent(connect.properties);
            if let Some(will) = &connect.will {
                are_consistent(will.properties);
                assert!(topic::is_valid_name(will.topic));
            }
        }
        Packet::Publish(publish) => {
            are_consistent(publish.properties);
            assert_eq!(publish.packet_id.is_some(), publish.qos != QoS::AtMostOnce);
            assert!(topic::is_valid_name(publish.topic) || publish.topic.is_empty());
        }
        Packet::Subscribe(subscribe) => {
            are_consistent(subscribe.properties);
            let mut copy = Vec::new();
            assert_eq!(SubscribeFilters::encode(subscribe.filters.iter(), &mut copy), subscribe.filters);
            assert!(subscribe.filters.iter().all(|(filter, _)| topic::parse_filter(filter).is_ok()));
        }
        Packet::Unsubscribe(unsubscribe) => {
            let mut copy = Vec::new();
            assert_eq!(
                UnsubscribeFilters::encode(unsubscribe.filters.iter(), &mut copy),
                unsubscribe.filters
            );
        }
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => {
            assert!(ack.reasons.iter().all(|&code| ReasonCode::try_from(code).is_ok()));
        }
        Packet::ConnAck(ConnAck { properties, .. })
        | Packet::Disconnect(Disconnect { properties, .. })
        | Packet::Auth(Auth { properties, .. }) => are_consistent(*properties),
        _ => {}
    }
    true
}

/// All properties are there to be read, and are written as they were.
fn are_consistent(properties: Properties<'_>) {
    let mut copy = PropertiesBuf::new();
    for property in properties.iter() {
        copy.push(property);
    }
    assert_eq!(copy.as_properties(), properties);
}
