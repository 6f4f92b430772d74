//! The lines that `weirmq store export` writes and `import` reads: one JSON object each.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::protocol::properties::{Properties, PropertiesBuf, Property};

/// One line.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// A session without its messages. It stands before those.
    Session {
        client_id: String,
        /// The user that it belongs to; `None`: anonymous.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// Seconds; `None`: it does not expire.
        expiry: Option<u32>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        subscriptions: Vec<SubscriptionLine>,
    },
    /// A message that waits for a session.
    Queued {
        client_id: String,
        #[serde(flatten)]
        message: MessageLine,
    },
    /// A message that waits for a share group, named by its `$share/NAME/FILTER`.
    Shared {
        group: String,
        #[serde(flatten)]
        message: MessageLine,
    },
    /// The retained message of its topic.
    Retained {
        #[serde(flatten)]
        message: MessageLine,
    },
}

/// A subscription.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct SubscriptionLine {
    pub filter: String,
    /// The options byte of the SUBSCRIBE.
    pub options: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<u32>,
}

/// A message. What is text is written as text, anything else in base64.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct MessageLine {
    pub topic: String,
    pub qos: u8,
    #[serde(default, skip_serializing_if = "is_false")]
    pub retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// Seconds that were left when it was exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifiers: Vec<u32>,
    #[serde(default, skip_serializing_if = "PropertiesLine::is_empty")]
    pub properties: PropertiesLine,
}

/// The MQTT 5 properties that go with a message.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PropertiesLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_format: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_data_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<(String, String)>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The two forms of bytes: as text, or in base64.
pub(super) fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

/// The bytes that a line's base64 stands for.
///
/// # Errors
/// What is wrong with it.
pub(super) fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    BASE64_STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))
}

impl MessageLine {
    /// Its payload.
    ///
    /// # Errors
    /// If there are two, or what there is cannot be read.
    pub(super) fn payload_bytes(&self) -> Result<Vec<u8>, String> {
        match (&self.payload, &self.payload_base64) {
            (Some(_), Some(_)) => Err("both `payload` and `payload_base64`".to_owned()),
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(base64)) => from_base64(base64),
            (None, None) => Ok(Vec::new()),
        }
    }
}

impl PropertiesLine {
    fn is_empty(&self) -> bool {
        *self == PropertiesLine::default()
    }

    /// Of a message's properties; those that no message keeps do not occur.
    pub(super) fn of(raw: &[u8]) -> PropertiesLine {
        let mut line = PropertiesLine::default();
        for property in Properties::from_validated(raw).iter() {
            match property {
                Property::PayloadFormatIndicator(format) => line.payload_format = Some(format),
                Property::ContentType(text) => line.content_type = Some(text.to_owned()),
                Property::ResponseTopic(topic) => line.response_topic = Some(topic.to_owned()),
                Property::CorrelationData(data) => {
                    line.correlation_data_base64 = Some(BASE64_STANDARD.encode(data));
                }
                Property::UserProperty(name, value) => line.user.push((name.to_owned(), value.to_owned())),
                _ => {}
            }
        }
        line
    }

    /// Their wire form.
    ///
    /// # Errors
    /// A value that no packet can carry.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let mut properties = PropertiesBuf::new();
        if let Some(format) = self.payload_format {
            if format > 1 {
                return Err(format!("the payload format {format} is neither 0 nor 1"));
            }
            properties.push(Property::PayloadFormatIndicator(format));
        }
        let texts = self.content_type.iter().chain(&self.response_topic);
        for text in texts.chain(self.user.iter().flat_map(|(name, value)| [name, value])) {
            if text.len() > usize::from(u16::MAX) || text.contains('\0') {
                return Err("a text that is too long, or has a zero in it".to_owned());
            }
        }
        if let Some(text) = &self.content_type {
            properties.push(Property::ContentType(text));
        }
        if let Some(topic) = &self.response_topic {
            properties.push(Property::ResponseTopic(topic));
        }
        let correlation = self.correlation_data_base64.as_deref().map(from_base64).transpose()?;
        if let Some(data) = &correlation {
            if data.len() > usize::from(u16::MAX) {
                return Err("correlation data that is too long".to_owned());
            }
            properties.push(Property::CorrelationData(data));
        }
        for (name, value) in &self.user {
            properties.push(Property::UserProperty(name, value));
        }
        Ok(properties.as_properties().raw().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Line, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_says_no_more_than_there_is() {
        let (payload, payload_base64) = text_or_base64(b"paid");
        let message =
            MessageLine { topic: "orders/1".into(), qos: 1, payload, payload_base64, ..Default::default() };
        let line = Line::Queued { client_id: "sms-1".into(), message };
        let text = serde_json::to_string(&line).expect("JSON");
        assert_eq!(
            text,
            r#"{"type":"queued","client_id":"sms-1","topic":"orders/1","qos":1,"payload":"paid"}"#
        );
        assert_eq!(read(&text), Ok(line));
    }

    #[test]
    fn bytes_that_are_no_text_and_properties_survive() {
        let properties = PropertiesLine {
            payload_format: Some(1),
            content_type: Some("text/plain".into()),
            response_topic: Some("r".into()),
            correlation_data_base64: Some(BASE64_STANDARD.encode([0, 255])),
            user: vec![("a".into(), "b".into()), ("a".into(), String::new())],
        };
        let raw = properties.encode().expect("wire form");
        assert_eq!(PropertiesLine::of(&raw), properties);
        let (payload, payload_base64) = text_or_base64(&[0xff, 0]);
        assert!(payload.is_none());
        let message = MessageLine { payload, payload_base64, properties, ..Default::default() };
        let text = serde_json::to_string(&Line::Retained { message }).expect("JSON");
        let Ok(Line::Retained { message }) = read(&text) else { panic!("{text}") };
        assert_eq!(message.payload_bytes(), Ok(vec![0xff, 0]));
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        let wrong = MessageLine {
            payload: Some(String::new()),
            payload_base64: Some(String::new()),
            ..Default::default()
        };
        assert!(wrong.payload_bytes().is_err());
        assert!(PropertiesLine { payload_format: Some(2), ..Default::default() }.encode().is_err());
        let zero = PropertiesLine { content_type: Some("\0".into()), ..Default::default() };
        assert!(zero.encode().is_err());
        assert!(read(r#"{"type":"other"}"#).is_err());
    }
}
