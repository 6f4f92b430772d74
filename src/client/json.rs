//! A message as one JSON object, with mosquitto_sub's names.

use serde::de::IgnoredAny;

use super::timestamp::Timestamp;
use super::wire::Received;
use crate::escaped::Escaped;
use crate::protocol::properties::Property;

/// The object of `message`. With `nested` its payload is JSON itself and stands there as it is; otherwise it
/// is a string, bytes that are not UTF-8 replaced.
///
/// # Errors
/// A nested payload that is not JSON.
pub(super) fn message(message: &Received, now: &Timestamp, nested: bool) -> Result<String, String> {
    let mut members = vec![
        format!("\"tst\":{}", quoted(&now.iso_micros())),
        format!("\"topic\":{}", quoted(&message.topic)),
        format!("\"qos\":{}", message.qos as u8),
        format!("\"retain\":{}", u8::from(message.retain)),
        format!("\"payloadlen\":{}", message.payload.len()),
    ];
    members.extend(message.packet_id.map(|packet_id| format!("\"mid\":{packet_id}")));
    let properties = properties(message);
    if !properties.is_empty() {
        members.push(format!("\"properties\":{{{}}}", properties.join(",")));
    }
    let payload = String::from_utf8_lossy(&message.payload);
    if !nested {
        members.push(format!("\"payload\":{}", quoted(&payload)));
    } else if is_json(&message.payload) {
        members.push(format!("\"payload\":{payload}"));
    } else {
        return Err(format!("the payload is not JSON, on topic {}", Escaped(&message.topic)));
    }
    Ok(format!("{{{}}}", members.join(",")))
}

/// serde_json alone would not look inside strings for what is not UTF-8.
fn is_json(payload: &[u8]) -> bool {
    std::str::from_utf8(payload).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn properties(message: &Received) -> Vec<String> {
    let mut user = Vec::new();
    let mut subscriptions = Vec::new();
    let mut members = Vec::new();
    for property in message.properties().iter() {
        members.push(match property {
            Property::ContentType(text) => format!("\"content-type\":{}", quoted(text)),
            Property::ResponseTopic(topic) => format!("\"response-topic\":{}", quoted(topic)),
            Property::CorrelationData(data) => {
                format!("\"correlation-data\":{}", quoted(&String::from_utf8_lossy(data)))
            }
            Property::PayloadFormatIndicator(format) => format!("\"payload-format-indicator\":{format}"),
            Property::MessageExpiryInterval(seconds) => format!("\"message-expiry-interval\":{seconds}"),
            Property::TopicAlias(alias) => format!("\"topic-alias\":{alias}"),
            Property::UserProperty(name, value) => {
                user.push(format!("{}:{}", quoted(name), quoted(value)));
                continue;
            }
            Property::SubscriptionIdentifier(identifier) => {
                subscriptions.push(identifier.to_string());
                continue;
            }
            _ => continue,
        });
    }
    if !user.is_empty() {
        members.push(format!("\"user-properties\":{{{}}}", user.join(",")));
    }
    match subscriptions.len() {
        0 => {}
        1 => members.push(format!("\"subscription-identifier\":{}", subscriptions.join(","))),
        _ => members.push(format!("\"subscription-identifier\":[{}]", subscriptions.join(","))),
    }
    members
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // What JSON wants escaped, and what would drive a terminal.
            _ if letter.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::protocol::packet::{PacketId, QoS};
    use crate::protocol::properties::PropertiesBuf;

    fn json(payload: &[u8], properties: &[Property<'_>], nested: bool) -> Result<String, String> {
        let mut buf = PropertiesBuf::new();
        properties.iter().for_each(|&property| buf.push(property));
        let received = Received {
            topic: "a/\"b".to_owned(),
            payload: payload.to_vec().into(),
            qos: QoS::ExactlyOnce,
            retain: false,
            dup: false,
            packet_id: PacketId::new(9),
            properties: buf.as_properties().raw().to_vec(),
        };
        message(&received, &Timestamp::new(SystemTime::UNIX_EPOCH), nested)
    }

    const HEAD: &str = r#"{"tst":"1970-01-01T00:00:00.000000+0000","topic":"a/\"b","qos":2,"retain":0"#;

    #[test]
    fn text_is_escaped_and_json_is_nested() {
        let text = json(b"h\"\\\n\x01\xFF", &[], false).unwrap();
        assert_eq!(
            text,
            format!("{HEAD},\"payloadlen\":6,\"mid\":9,\"payload\":\"h\\\"\\\\\\n\\u0001\u{FFFD}\"}}")
        );
        let nested = json(b" [1,{}] ", &[], true).unwrap();
        assert_eq!(nested, format!("{HEAD},\"payloadlen\":8,\"mid\":9,\"payload\": [1,{{}}] }}"));
        assert!(serde_json::from_str::<IgnoredAny>(&text).is_ok());
        assert!(serde_json::from_str::<IgnoredAny>(&nested).is_ok());
        for bad in [&b"[1"[..], b"", b"nul", b"1 2", b"\"\xFF\""] {
            assert!(json(bad, &[], true).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn properties_are_an_object_of_their_own() {
        let properties = [
            Property::UserProperty("k", "1"),
            Property::ContentType("text/plain"),
            Property::UserProperty("l", "2"),
            Property::SubscriptionIdentifier(3),
            Property::SubscriptionIdentifier(4),
        ];
        let text = json(b"", &properties, false).unwrap();
        let object = concat!(
            r#""properties":{"content-type":"text/plain","user-properties":{"k":"1","l":"2"},"#,
            r#""subscription-identifier":[3,4]}"#
        );
        assert!(text.contains(object), "{text}");
    }
}
