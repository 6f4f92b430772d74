//! What the codec must refuse: every rule that one packet alone can break, each with the reason code that
//! the standard gives to it, and beside it the nearest thing that is allowed.

use weirmq::protocol::codec::{MAX_PACKET_SIZE, frame};
use weirmq::protocol::packet::{Packet, Version};

#[path = "common/wire.rs"]
mod wire;
use wire::{accepted, packet, publish_with, refused, wire};

use Version::{V3, V4, V5};

const ALL: [Version; 3] = [V3, V4, V5];

// ---- The fixed header ----

#[test]
fn mqtt_2_1_3_1_reserved_flags() {
    for first in 0..=255u8 {
        let (packet_type, flags) = (first >> 4, first & 0x0F);
        for version in ALL {
            let right = match packet_type {
                0 => false,
                3 => !matches!(flags, 6 | 7 | 8 | 9 | 14 | 15),
                6 | 8 | 10 => flags == 2 || (version == V3 && flags == 10),
                15 => flags == 0 && version == V5,
                _ => flags == 0,
            };
            // One byte is enough to tell.
            for bytes in [&[first][..], &[first, 0x80], &[first, 2, 0, 1]] {
                match frame(Some(version), bytes, MAX_PACKET_SIZE) {
                    Ok(size) => {
                        assert!(right, "{version:?} took {first:02X}");
                        assert_eq!(size, (bytes.len() == 4).then_some(4));
                    }
                    Err(error) => {
                        assert!(!right, "{version:?} refused {first:02X}: {error}");
                        assert_eq!(error.reason as u8, 0x81);
                    }
                }
            }
        }
    }
}

#[test]
fn mqtt_3_1_0_1_first_packet_is_not_connect() {
    for first in 0..=255u8 {
        match frame(None, &[first], MAX_PACKET_SIZE) {
            Ok(size) => assert_eq!((first, size), (0x10, None)),
            Err(error) => assert!(matches!(error.reason as u8, 0x81 | 0x82) && first != 0x10),
        }
    }
    let error = frame(None, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 100).expect_err("not CONNECT");
    assert_eq!(error.reason as u8, 0x82);
}

#[test]
fn mqtt_3_3_1_2_dup_with_qos_0() {
    for version in ALL {
        refused(version, &packet(0x38, "0001't' 00"), 0x81, "reserved flags in the fixed header");
        accepted(version, &packet(0x3A, "0001't' 0001 00"));
    }
}

#[test]
fn mqtt_3_3_1_4_qos_3() {
    for version in ALL {
        refused(version, &packet(0x36, "0001't' 0001 00"), 0x81, "reserved flags in the fixed header");
    }
}

#[test]
fn mqtt_1_5_5_1_length_in_more_bytes_than_it_needs() {
    let minimal = "an integer in more bytes than it needs";
    for version in ALL {
        for notation in
            ["C0 8000", "C0 808000", "C0 80808000", "E0 8000", "30 838000 0001 't'", "30 83808000"]
        {
            refused(version, &wire(notation), 0x81, minimal);
            let error = frame(None, &wire(&notation.replacen("C0", "10", 1)), 10).expect_err("overlong");
            assert!(matches!(error.reason as u8, 0x81 | 0x82));
        }
    }
    // The same inside a packet: Property Length and Subscription Identifier.
    refused(V5, &packet(0x30, "0001't' 8000"), 0x81, minimal);
    refused(V5, &publish_with("0B 8100"), 0x81, minimal);
    accepted(V5, &publish_with("0B 8101"));
}

#[test]
fn length_of_five_bytes() {
    let detail = "an integer in more than four bytes";
    for version in ALL {
        refused(version, &wire("30 8080808001"), 0x81, detail);
        refused(version, &wire("30 FFFFFFFF7F"), 0x81, detail);
        // Its fifth byte does not have to arrive.
        let error = frame(Some(version), &wire("30 FFFFFFFF"), MAX_PACKET_SIZE).expect_err("5 bytes");
        assert_eq!((error.reason as u8, &*error.detail), (0x81, detail));
    }
    refused(V5, &packet(0x30, "0001't' FFFFFFFF7F"), 0x81, detail);
    refused(V5, &publish_with("0B FFFFFFFF01"), 0x81, detail);
}

#[test]
fn packet_larger_than_the_limit() {
    let at = |bytes: &[u8], limit| frame(Some(V5), bytes, limit).map_err(|error| error.reason as u8);
    // The whole packet counts, and its body need not have arrived.
    assert_eq!(at(&wire("30 62"), 100), Ok(Some(100)));
    assert_eq!(at(&wire("30 63"), 100), Err(0x95));
    assert_eq!(at(&wire("30 FFFFFF7F"), MAX_PACKET_SIZE), Ok(Some(MAX_PACKET_SIZE as usize)));
    assert_eq!(at(&wire("30 FFFFFF7F"), MAX_PACKET_SIZE - 1), Err(0x95));
    assert_eq!(at(&wire("30 FFFFFF"), 100), Ok(None));
    assert_eq!(at(&[], 100), Ok(None));
    assert_eq!(at(&wire("C0 00"), 1), Err(0x95));
}

#[test]
fn frame_that_is_not_one_packet() {
    let detail = "the frame is not exactly one packet";
    for version in ALL {
        for notation in ["", "C0", "C0 01", "C0 00 00", "C0 00 C0 00", "40 02 00", "40 02 000100"] {
            refused(version, &wire(notation), 0x81, detail);
        }
    }
}

// ---- Fields ----

#[test]
fn mqtt_1_5_4_1_strings_that_are_not_utf8() {
    let detail = "a string is not UTF-8";
    // A surrogate, overlong forms, above U+10FFFF, a lone and a cut sequence.
    for bytes in ["EDA080", "EDBFBF", "C080", "C1BF", "E08080", "F4908080", "80", "E282", "FF"] {
        let len = bytes.len() / 2;
        for version in ALL {
            refused(version, &packet(0x30, &format!("{len:04X}{bytes} 00")), 0x81, detail);
        }
        let string = format!("{len:04X}{bytes}");
        refused(V4, &packet(0x10, &format!("0004'MQTT'04 02 003C {string}")), 0x81, detail);
        refused(V4, &packet(0x10, &format!("0004'MQTT'04 82 003C 0000 {string}")), 0x81, detail);
        refused(V4, &packet(0x10, &format!("0004'MQTT'04 06 003C 0000 {string} 0000")), 0x81, detail);
        refused(V4, &packet(0x82, &format!("0001 {string} 00")), 0x81, detail);
        refused(V4, &packet(0xA2, &format!("0001 {string}")), 0x81, detail);
        refused(V5, &publish_with(&format!("03 {string}")), 0x81, detail);
    }
}

#[test]
fn mqtt_1_5_4_2_strings_that_hold_nul() {
    let detail = "a string holds U+0000";
    for version in ALL {
        refused(version, &packet(0x30, "0003'a'00'b' 00"), 0x81, detail);
    }
    refused(V4, &packet(0x10, "0004'MQTT'04 02 003C 0001 00"), 0x81, detail);
    refused(V4, &packet(0x10, "0004'MQTT'04 82 003C 0001'c' 0001 00"), 0x81, detail);
    refused(V4, &packet(0x82, "0001 0001 00 00"), 0x81, detail);
    refused(V4, &packet(0xA2, "0001 0001 00"), 0x81, detail);
    refused(V5, &packet(0xA2, "0001 00 0001'f' 0001 00"), 0x81, detail);
    // Binary Data and payloads may.
    accepted(V4, &packet(0x10, "0004'MQTT'04 C2 003C 0001'c' 0001'u' 0001 00"));
    accepted(V4, &packet(0x30, "0001't' 00"));
}

#[test]
fn mqtt_1_5_4_3_byte_order_mark_is_kept() {
    let bytes = packet(0x30, "0004 EFBBBF 't' 'x'");
    let Packet::Publish(publish) = accepted(V4, &bytes) else { panic!("not a PUBLISH") };
    assert_eq!(publish.topic, "\u{FEFF}t");
}

#[test]
fn fields_that_end_early() {
    let detail = "the packet ends in the middle of a field";
    for (version, first, body) in [
        (V4, 0x10, ""),
        (V4, 0x10, "0004'MQT'"),
        (V4, 0x10, "0004'MQTT'"),
        (V4, 0x10, "0004'MQTT'04"),
        (V4, 0x10, "0004'MQTT'04 02 00"),
        (V4, 0x10, "0004'MQTT'04 02 003C"),
        (V4, 0x10, "0004'MQTT'04 02 003C 0002'i'"),
        (V4, 0x10, "0004'MQTT'04 06 003C 0001'i' 0001'w'"),
        (V4, 0x10, "0004'MQTT'04 82 003C 0001'i'"),
        (V4, 0x10, "0004'MQTT'04 C2 003C 0001'i' 0001'u' 0002'p'"),
        (V5, 0x10, "0004'MQTT'05 02 003C"),
        (V5, 0x10, "0004'MQTT'05 02 003C 05 11 0000"),
        (V5, 0x10, "0004'MQTT'05 06 003C 00 0001'i'"),
        (V4, 0x20, ""),
        (V4, 0x20, "00"),
        (V5, 0x20, "00 00"),
        (V4, 0x30, ""),
        (V4, 0x30, "00"),
        (V4, 0x30, "0002't'"),
        (V4, 0x32, "0001't'"),
        (V4, 0x32, "0001't' 00"),
        (V5, 0x30, "0001't'"),
        (V5, 0x30, "0001't' 02 01"),
        (V5, 0x30, "0001't' 80"),
        (V4, 0x40, ""),
        (V4, 0x40, "00"),
        (V5, 0x40, "0001 00 02 1F"),
        (V4, 0x82, "00"),
        (V5, 0x82, "0001"),
        (V4, 0x82, "0001 0001'f'"),
        (V4, 0x82, "0001 0001'f' 00 0001"),
        (V4, 0x90, "00"),
        (V5, 0x90, "0001"),
        (V4, 0xA2, "0001 0002'f'"),
        (V4, 0xA2, "0001 0001'f' 00"),
        (V4, 0xB0, "00"),
        (V5, 0xE0, "00 03 1F 00"),
        (V5, 0xF0, "18"),
    ] {
        refused(version, &packet(first, body), 0x81, detail);
    }
    // A property whose value would go past the Property Length.
    refused(V5, &packet(0x30, "0001't' 02 02 00000001"), 0x81, detail);
    refused(V5, &packet(0x30, "0001't' 03 03 0002'ct'"), 0x81, detail);
}

#[test]
fn bytes_after_the_packets_end() {
    let detail = "bytes after the packet's end";
    for version in ALL {
        for first in [0xC0, 0xD0] {
            refused(version, &packet(first, "00"), 0x81, detail);
        }
    }
    for version in [V3, V4] {
        for (first, body) in [
            (0x20, "00 00 00"),
            (0x40, "0001 00"),
            (0x50, "0001 00"),
            (0x62, "0001 00"),
            (0x70, "0001 00 00"),
            (0xB0, "0001 00"),
            (0xE0, "00"),
        ] {
            refused(version, &packet(first, body), 0x81, detail);
        }
    }
    refused(V3, &packet(0x10, "0006'MQIsdp'03 02 003C 0002'id' 00"), 0x81, detail);
    refused(V4, &packet(0x10, "0004'MQTT'04 02 003C 0002'id' 0001'u'"), 0x81, detail);
    refused(V5, &packet(0x10, "0004'MQTT'05 02 003C 00 0002'id' 00"), 0x81, detail);
    refused(V5, &packet(0x20, "00 00 00 00"), 0x81, detail);
    refused(V5, &packet(0x40, "0001 00 00 00"), 0x81, detail);
    refused(V5, &packet(0xE0, "00 00 00"), 0x81, detail);
    refused(V5, &packet(0xF0, "18 04 15 0001'm' 00"), 0x81, detail);
}

#[test]
fn mqtt_2_2_1_3_packet_identifier_0() {
    let detail = "Packet Identifier 0";
    for version in ALL {
        for (first, body) in [
            (0x32, "0001't' 0000 00"),
            (0x34, "0001't' 0000 00"),
            (0x40, "0000"),
            (0x50, "0000"),
            (0x62, "0000"),
            (0x70, "0000"),
            (0x82, "0000 00 0001'f' 00"),
            (0x90, "0000 00 00"),
            (0xA2, "0000 00 0001'f'"),
            (0xB0, "0000 00 00"),
        ] {
            refused(version, &packet(first, body), 0x81, detail);
        }
    }
}

#[test]
fn reason_codes_of_other_packets() {
    let rows: [(u8, &str, &[u8]); 8] = [
        (
            0x20,
            "00 CC 00",
            &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95,
                0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
            ],
        ),
        (0x40, "0001 CC", &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
        (0x50, "0001 CC 00", &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
        (0x62, "0001 CC", &[0x00, 0x92]),
        (0x70, "0001 CC 00", &[0x00, 0x92]),
        (0x90, "0001 00 01 CC", &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]),
        (0xB0, "0001 00 11 CC", &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
        (0xF0, "CC 04 15 0001'm'", &[0x00, 0x18, 0x19]),
    ];
    let disconnect: Vec<u8> =
        [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90]
            .into_iter()
            .chain(0x93..=0xA2)
            .collect();
    for (first, body, allowed) in rows.into_iter().chain([(0xE0, "CC", &disconnect[..])]) {
        for code in 0..=255u8 {
            let bytes = packet(first, &body.replace("CC", &format!("{code:02X}")));
            if allowed.contains(&code) {
                accepted(V5, &bytes);
            } else {
                refused(V5, &bytes, 0x82, "a reason code that is not for this packet");
            }
        }
    }
    for code in 0..=255u8 {
        let suback = packet(0x90, &format!("0001 {code:02X}"));
        let connack = packet(0x20, &format!("00 {code:02X}"));
        for version in [V3, V4] {
            match code {
                0..=2 | 0x80 => drop(accepted(version, &suback)),
                _ => refused(version, &suback, 0x81, "a reserved SUBACK return code"),
            }
            match code {
                0..=5 => drop(accepted(version, &connack)),
                _ => refused(version, &connack, 0x81, "a reserved CONNACK return code"),
            }
        }
    }
}

// ---- CONNECT and CONNACK ----

#[test]
fn mqtt_3_1_2_1_protocol_name() {
    for body in [
        "0004'mqtt'04 02 003C 0000",
        "0006'MQIsdp'04 02 003C 0000",
        "0004'MQTT'03 02 003C 0000",
        "0000 04",
        "0005'MQTT2'05",
        "0003 FFFEFD 05",
    ] {
        refused(V4, &packet(0x10, body), 0x84, "unknown protocol name or level");
    }
}

#[test]
fn mqtt_3_1_2_2_protocol_level() {
    for level in (0..=255u8).filter(|level| ![4, 5].contains(level)) {
        let bytes = packet(0x10, &format!("0004'MQTT'{level:02X} 02 003C 0000"));
        refused(V4, &bytes, 0x84, "unknown protocol name or level");
    }
    for level in (0..=255u8).filter(|&level| level != 3) {
        let bytes = packet(0x10, &format!("0006'MQIsdp'{level:02X} 02 003C 0002'id'"));
        refused(V3, &bytes, 0x84, "unknown protocol name or level");
    }
}

#[test]
fn mqtt_3_1_2_3_reserved_connect_flag() {
    let detail = "the reserved connect flag is set";
    refused(V4, &packet(0x10, "0004'MQTT'04 03 003C 0002'id'"), 0x81, detail);
    refused(V5, &packet(0x10, "0004'MQTT'05 03 003C 00 0002'id'"), 0x81, detail);
}

#[test]
fn mqtt_3_1_2_11_will_flags_without_a_will() {
    for flags in ["0A", "12", "22", "2A"] {
        let detail = "Will QoS or Will Retain without a Will";
        refused(V3, &packet(0x10, &format!("0006'MQIsdp'03 {flags} 003C 0002'id'")), 0x81, detail);
        refused(V4, &packet(0x10, &format!("0004'MQTT'04 {flags} 003C 0002'id'")), 0x81, detail);
        refused(V5, &packet(0x10, &format!("0004'MQTT'05 {flags} 003C 00 0002'id'")), 0x81, detail);
    }
}

#[test]
fn mqtt_3_1_2_12_will_qos_3() {
    for flags in ["1E", "1A"] {
        refused(
            V4,
            &packet(0x10, &format!("0004'MQTT'04 {flags} 003C 0000 0001'w' 0000")),
            0x81,
            "Will QoS 3",
        );
        let bytes = packet(0x10, &format!("0004'MQTT'05 {flags} 003C 00 0000 00 0001'w' 0000"));
        refused(V5, &bytes, 0x81, "Will QoS 3");
    }
}

#[test]
fn mqtt_3_1_3_11_will_topic() {
    let detail = "a topic name is empty or holds a wildcard";
    for (topic, len) in [("", 0), ("a/+", 3), ("#", 1), ("a#", 2)] {
        let will = format!("{len:04X}'{topic}' 0001'p'");
        refused(V3, &packet(0x10, &format!("0006'MQIsdp'03 06 003C 0001'c' {will}")), 0x81, detail);
        refused(V4, &packet(0x10, &format!("0004'MQTT'04 06 003C 0001'c' {will}")), 0x81, detail);
        refused(V5, &packet(0x10, &format!("0004'MQTT'05 06 003C 00 0001'c' 00 {will}")), 0x90, detail);
    }
}

#[test]
fn mqtt_311_3_1_2_22_password_without_user_name() {
    let detail = "a password without a user name";
    refused(V3, &packet(0x10, "0006'MQIsdp'03 42 003C 0002'id' 0001'p'"), 0x81, detail);
    refused(V4, &packet(0x10, "0004'MQTT'04 42 003C 0002'id' 0001'p'"), 0x81, detail);
    accepted(V5, &packet(0x10, "0004'MQTT'05 42 003C 00 0002'id' 0001'p'"));
}

#[test]
fn mqtt_311_3_1_3_8_no_client_id_without_clean_session() {
    refused(V4, &packet(0x10, "0004'MQTT'04 00 003C 0000"), 0x85, "no Client Identifier");
    accepted(V4, &packet(0x10, "0004'MQTT'04 02 003C 0000"));
    for flags in ["00", "02"] {
        let body = format!("0006'MQIsdp'03 {flags} 003C 0000");
        refused(V3, &packet(0x10, &body), 0x85, "no Client Identifier");
        accepted(V5, &packet(0x10, &format!("0004'MQTT'05 {flags} 003C 00 0000")));
    }
}

#[test]
fn mqtt_3_2_2_1_connack_flags() {
    for flags in 2..=255u8 {
        let detail = "reserved CONNACK flags";
        refused(V4, &packet(0x20, &format!("{flags:02X} 00")), 0x81, detail);
        refused(V5, &packet(0x20, &format!("{flags:02X} 00 00")), 0x81, detail);
    }
}

#[test]
fn mqtt_3_2_2_6_session_present_in_a_refusal() {
    refused(V4, &packet(0x20, "01 05"), 0x82, "Session Present in a refusal");
    refused(V5, &packet(0x20, "01 87 00"), 0x82, "Session Present in a refusal");
}

// ---- PUBLISH ----

#[test]
fn mqtt_3_3_2_2_wildcards_in_a_topic_name() {
    let detail = "a topic name is empty or holds a wildcard";
    for topic in ["+", "#", "a/+/b", "a/#", "a+", "#b"] {
        let body = format!("{:04X}'{topic}' 00", topic.len());
        refused(V3, &packet(0x30, &body), 0x81, detail);
        refused(V4, &packet(0x30, &body), 0x81, detail);
        refused(V5, &packet(0x30, &body), 0x90, detail);
    }
}

#[test]
fn mqtt_4_7_3_1_empty_topic_name() {
    for version in [V3, V4] {
        refused(version, &packet(0x30, "0000 00"), 0x81, "a topic name is empty or holds a wildcard");
    }
    refused(V5, &packet(0x30, "0000 00"), 0x82, "neither a topic name nor a Topic Alias");
    accepted(V5, &packet(0x30, "0000 03 23 0001"));
}

#[test]
fn payload_that_is_not_the_utf8_it_claims_to_be() {
    let detail = "the payload is not the UTF-8 that it claims to be";
    refused(V5, &packet(0x30, "0001't' 02 01 01 FF"), 0x99, detail);
    refused(V5, &packet(0x30, "0001't' 02 01 01 EDA080"), 0x99, detail);
    accepted(V5, &packet(0x30, "0001't' 02 01 00 FF"));
    accepted(V5, &packet(0x30, "0001't' 00 FF"));
    accepted(V5, &packet(0x30, "0001't' 02 01 01 00"));
    let will = "0004'MQTT'05 06 003C 00 0002'id' 02 01 01 0001'w' 0001";
    refused(V5, &packet(0x10, &format!("{will} FF")), 0x99, detail);
    accepted(V5, &packet(0x10, &format!("{will} 00")));
}

// ---- SUBSCRIBE, UNSUBSCRIBE and their answers ----

#[test]
fn mqtt_3_8_3_2_subscribe_to_nothing() {
    for (version, body) in [(V3, "0001"), (V4, "0001"), (V5, "0001 00")] {
        refused(version, &packet(0x82, body), 0x82, "SUBSCRIBE without a topic filter");
    }
}

#[test]
fn mqtt_3_10_3_2_unsubscribe_from_nothing() {
    for (version, body) in [(V3, "0001"), (V4, "0001"), (V5, "0001 00")] {
        refused(version, &packet(0xA2, body), 0x82, "UNSUBSCRIBE without a topic filter");
    }
}

#[test]
fn answers_to_nothing() {
    let detail = "an answer to no topic filter";
    refused(V4, &packet(0x90, "0001"), 0x81, detail);
    refused(V5, &packet(0x90, "0001 00"), 0x81, detail);
    refused(V5, &packet(0xB0, "0001 00"), 0x81, detail);
}

#[test]
fn mqtt_3_8_3_5_subscription_options() {
    for options in 0..=255u8 {
        let subscribe = |id: &str| packet(0x82, &format!("{id} 0001'f' {options:02X}"));
        let three = options & 0x03 == 3 || options & 0x30 == 0x30;
        match (options & 0xC0 != 0, three) {
            (true, _) => refused(V5, &subscribe("0001 00"), 0x81, "reserved subscription options"),
            (_, true) => refused(V5, &subscribe("0001 00"), 0x82, "Maximum QoS or Retain Handling of 3"),
            _ => drop(accepted(V5, &subscribe("0001 00"))),
        }
        for version in [V3, V4] {
            match options {
                0..=2 => drop(accepted(version, &subscribe("0001"))),
                3 => refused(version, &subscribe("0001"), 0x81, "QoS 3 in SUBSCRIBE"),
                _ => refused(version, &subscribe("0001"), 0x81, "reserved subscription options"),
            }
        }
    }
}

#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription() {
    let bytes = packet(0x82, "0001 00 000A'$share/g/f' 04");
    refused(V5, &bytes, 0x82, "No Local on a shared subscription");
    accepted(V5, &packet(0x82, "0001 00 000A'$share/g/f' 08"));
    accepted(V5, &packet(0x82, "0001 00 0001'f' 04"));
}

#[test]
fn mqtt_4_7_1_1_topic_filters() {
    let detail = "a topic filter is not well formed";
    for filter in ["", "#/a", "a#", "a/#/b", "a/b#", "a+", "+a", "a/+b/c", "##", "++"] {
        let field = format!("{:04X}'{filter}'", filter.len());
        for version in [V3, V4] {
            refused(version, &packet(0x82, &format!("0001 {field} 00")), 0x8F, detail);
            refused(version, &packet(0xA2, &format!("0001 {field}")), 0x8F, detail);
        }
        // The second is judged as the first is.
        refused(V5, &packet(0x82, &format!("0001 00 0001'a' 00 {field} 00")), 0x8F, detail);
        refused(V5, &packet(0xA2, &format!("0001 00 0001'a' {field}")), 0x8F, detail);
    }
}

#[test]
fn mqtt_4_8_2_1_shared_subscription_filters() {
    for (filter, detail) in [
        ("$share/", "$share without a topic filter"),
        ("$share/g", "$share without a topic filter"),
        ("$share//f", "a share name is empty or holds a wildcard"),
        ("$share/+/f", "a share name is empty or holds a wildcard"),
        ("$share/g#/f", "a share name is empty or holds a wildcard"),
        ("$share/g/", "a shared topic filter is not well formed"),
        ("$share/g/#/a", "a shared topic filter is not well formed"),
    ] {
        let field = format!("{:04X}'{filter}'", filter.len());
        refused(V5, &packet(0x82, &format!("0001 00 {field} 00")), 0x8F, detail);
        refused(V5, &packet(0xA2, &format!("0001 00 {field}")), 0x8F, detail);
    }
}
