//! What the codec must refuse in the properties of 5.0: which packet may carry which, how often, and what
//! values they may have.

use weirmq::protocol::packet::{Packet, Version};
use weirmq::protocol::properties::Property;

#[path = "common/wire.rs"]
mod wire;
use wire::{accepted, packet, publish_with, refused, wire};

use Version::V5;

/// A CONNECT of 5.0 with these properties.
fn connect_with(properties: &str) -> Vec<u8> {
    let len = wire(properties).len();
    packet(0x10, &format!("0004'MQTT'05 02 003C {len:02X} {properties} 0002'id'"))
}

/// A CONNECT of 5.0 with these Will Properties.
fn will_with(properties: &str) -> Vec<u8> {
    let len = wire(properties).len();
    packet(0x10, &format!("0004'MQTT'05 06 003C 00 0002'id' {len:02X} {properties} 0001'w' 0001'p'"))
}

/// A CONNACK of 5.0 with these properties.
fn connack_with(properties: &str) -> Vec<u8> {
    packet(0x20, &format!("00 00 {:02X} {properties}", wire(properties).len()))
}

#[test]
fn mqtt_1_5_7_1_string_pairs() {
    refused(V5, &publish_with("26 0001'k' 0001 FF"), 0x81, "a string is not UTF-8");
    refused(V5, &publish_with("26 0001 00 0001'v'"), 0x81, "a string holds U+0000");
    refused(V5, &publish_with("26 0001'k'"), 0x81, "the packet ends in the middle of a field");
    accepted(V5, &publish_with("26 0000 0000 26 0000 0000"));
}

/// A well-formed value of every property, by identifier.
const VALUES: [(u8, &str); 27] = [
    (0x01, "01"),
    (0x02, "00000001"),
    (0x03, "0001'c'"),
    (0x08, "0001'r'"),
    (0x09, "0001 FF"),
    (0x0B, "01"),
    (0x11, "00000001"),
    (0x12, "0001'a'"),
    (0x13, "0001"),
    (0x15, "0001'm'"),
    (0x16, "0001 FF"),
    (0x17, "00"),
    (0x18, "00000001"),
    (0x19, "01"),
    (0x1A, "0001'i'"),
    (0x1C, "0001's'"),
    (0x1F, "0001'r'"),
    (0x21, "0001"),
    (0x22, "0001"),
    (0x23, "0001"),
    (0x24, "01"),
    (0x25, "01"),
    (0x26, "0001'k' 0001'v'"),
    (0x27, "00000001"),
    (0x28, "01"),
    (0x29, "01"),
    (0x2A, "01"),
];

/// A packet of every kind that has properties, as what stands before and behind them, and what it may carry.
const PLACES: [(u8, &str, &str, &[u8]); 14] = [
    (0x10, "0004'MQTT'05 02 003C", "0002'id'", &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27]),
    (
        0x10,
        "0004'MQTT'05 06 003C 00 0002'id'",
        "0001'w' 0001'p'",
        &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26],
    ),
    (
        0x20,
        "00 00",
        "",
        &[
            0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29,
            0x2A,
        ],
    ),
    (0x30, "0001't'", "'x'", &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26]),
    (0x40, "0001 00", "", &[0x1F, 0x26]),
    (0x50, "0001 00", "", &[0x1F, 0x26]),
    (0x62, "0001 00", "", &[0x1F, 0x26]),
    (0x70, "0001 00", "", &[0x1F, 0x26]),
    (0x82, "0001", "0001'f' 00", &[0x0B, 0x26]),
    (0x90, "0001", "00", &[0x1F, 0x26]),
    (0xA2, "0001", "0001'f'", &[0x26]),
    (0xB0, "0001", "00", &[0x1F, 0x26]),
    (0xE0, "00", "", &[0x11, 0x1C, 0x1F, 0x26]),
    (0xF0, "18", "", &[0x15, 0x16, 0x1F, 0x26]),
];

/// The packet of [`PLACES`] with these properties; AUTH brings the method that it must have.
fn place_with((first, before, behind, _): (u8, &str, &str, &[u8]), properties: &str) -> Vec<u8> {
    let method = if first == 0xF0 && !properties.contains("15 ") { "15 0001'm'" } else { "" };
    let len = wire(method).len() + wire(properties).len();
    packet(first, &format!("{before} {len:02X} {method} {properties} {behind}"))
}

#[test]
fn properties_of_other_packets() {
    for place in PLACES {
        accepted(V5, &place_with(place, ""));
        for (id, value) in VALUES {
            // Authentication Data does not stand alone.
            let method = if id == 0x16 && place.3.contains(&0x15) { "15 0001'm' " } else { "" };
            let bytes = place_with(place, &format!("{method}{id:02X} {value}"));
            if place.3.contains(&id) {
                accepted(V5, &bytes);
            } else {
                refused(V5, &bytes, 0x81, "a property that is unknown or not for this packet");
            }
        }
        for id in (0..=255u8).filter(|id| VALUES.iter().all(|(known, _)| known != id)) {
            let bytes = place_with(place, &format!("{id:02X} 0000"));
            refused(V5, &bytes, 0x81, "a property that is unknown or not for this packet");
        }
    }
}

#[test]
fn properties_that_are_there_twice() {
    for place in PLACES {
        for (id, value) in VALUES.into_iter().filter(|(id, _)| place.3.contains(id)) {
            let method = if id == 0x16 { "15 0001'm' " } else { "" };
            let bytes = place_with(place, &format!("{method}{id:02X} {value} {id:02X} {value}"));
            match (place.0, id) {
                (_, 0x26) | (0x30, 0x0B) => drop(accepted(V5, &bytes)),
                _ => refused(V5, &bytes, 0x82, "a property is there twice"),
            }
        }
    }
}

#[test]
fn property_values_out_of_range() {
    let flag = "a property that is 0 or 1 has another value";
    for value in 2..=255u8 {
        refused(V5, &publish_with(&format!("01 {value:02X}")), 0x82, flag);
        refused(V5, &will_with(&format!("01 {value:02X}")), 0x82, flag);
        for id in ["17", "19"] {
            refused(V5, &connect_with(&format!("{id} {value:02X}")), 0x82, flag);
        }
        for id in ["24", "25", "28", "29", "2A"] {
            refused(V5, &connack_with(&format!("{id} {value:02X}")), 0x82, flag);
        }
    }
    refused(V5, &connect_with("21 0000"), 0x82, "Receive Maximum 0");
    refused(V5, &connack_with("21 0000"), 0x82, "Receive Maximum 0");
    refused(V5, &connect_with("27 00000000"), 0x82, "Maximum Packet Size 0");
    refused(V5, &publish_with("0B 00"), 0x82, "Subscription Identifier 0");
    refused(V5, &packet(0x82, "0001 02 0B 00 0001'f' 00"), 0x82, "Subscription Identifier 0");
}

#[test]
fn mqtt_3_3_2_8_topic_alias_0() {
    refused(V5, &publish_with("23 0000"), 0x94, "Topic Alias 0");
}

#[test]
fn mqtt_3_3_2_14_response_topic() {
    for topic in ["0001'+'", "0003'a/#'", "0002'a+'", "0000"] {
        let detail = "the Response Topic is not a topic name";
        refused(V5, &publish_with(&format!("08 {topic}")), 0x82, detail);
        refused(V5, &will_with(&format!("08 {topic}")), 0x82, detail);
    }
}

#[test]
fn authentication_data_without_a_method() {
    let detail = "Authentication Data without Authentication Method";
    refused(V5, &connect_with("16 0001 FF"), 0x82, detail);
    refused(V5, &connack_with("16 0001 FF"), 0x82, detail);
    refused(V5, &packet(0xF0, "18 04 16 0001 FF"), 0x82, detail);
    refused(V5, &packet(0xF0, "18 00"), 0x82, "AUTH without an Authentication Method");
    refused(V5, &packet(0xF0, "00 03 1F 0000"), 0x82, "AUTH without an Authentication Method");
    // The order of the two does not count.
    accepted(V5, &connect_with("16 0001 FF 15 0000"));
}

#[test]
fn mqtt_2_2_2_1_property_length() {
    // No properties are said by a length of 0, and not by leaving it out.
    accepted(V5, &packet(0x30, "0001't' 00"));
    refused(V5, &packet(0x30, "0001't'"), 0x81, "the packet ends in the middle of a field");
    // A length of two bytes.
    let text = "'x'".repeat(124);
    let bytes = packet(0x30, &format!("0001't' 8001 03 007D {text} 'y' 'payload'"));
    let Packet::Publish(publish) = accepted(V5, &bytes) else { panic!("not a PUBLISH") };
    assert_eq!(publish.payload, b"payload");
    let Some(Property::ContentType(content_type)) = publish.properties.iter().next() else {
        panic!("no type")
    };
    assert_eq!(content_type.len(), 125);
}
