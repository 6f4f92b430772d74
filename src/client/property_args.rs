//! `-D PACKET PROPERTY VALUE`: MQTT 5 properties in mosquitto's words.

use crate::protocol::properties::{PropertiesBuf, Property};

/// The properties of each packet that the client sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PacketProperties {
    pub(super) connect: PropertiesBuf,
    pub(super) will: PropertiesBuf,
    pub(super) publish: PropertiesBuf,
    pub(super) subscribe: PropertiesBuf,
    pub(super) disconnect: PropertiesBuf,
}

impl PacketProperties {
    /// Reads the values of all `-D` in a row. Whether a packet may carry a property, and how often, is for the
    /// codec to say once the packet is there.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn parse(words: &[String]) -> Result<PacketProperties, String> {
        let mut properties = PacketProperties::default();
        let mut words = words.iter().map(String::as_str);
        while let Some(packet) = words.next() {
            let place = properties.place(packet)?;
            let mut next = || words.next().ok_or_else(|| format!("-D {packet}: a value is missing"));
            let name = next()?;
            let property = match name {
                "user-property" => Property::UserProperty(text(name, next()?)?, text(name, next()?)?),
                _ => property(name, text(name, next()?)?)?,
            };
            place.push(property);
        }
        Ok(properties)
    }

    fn place(&mut self, packet: &str) -> Result<&mut PropertiesBuf, String> {
        match packet.to_ascii_lowercase().as_str() {
            "connect" => Ok(&mut self.connect),
            "will" => Ok(&mut self.will),
            "publish" => Ok(&mut self.publish),
            "subscribe" => Ok(&mut self.subscribe),
            "disconnect" => Ok(&mut self.disconnect),
            _ => Err(format!(
                "-D {packet}: properties go to CONNECT, WILL, PUBLISH, SUBSCRIBE or DISCONNECT, \
                 and only user-property takes two values"
            )),
        }
    }

    pub(super) fn are_empty(&self) -> bool {
        *self == PacketProperties::default()
    }
}

/// The wire gives two bytes to a length.
fn text<'a>(name: &str, value: &'a str) -> Result<&'a str, String> {
    if value.len() > usize::from(u16::MAX) {
        return Err(format!("-D {name}: more than 65,535 bytes"));
    }
    Ok(value)
}

fn property<'a>(name: &str, value: &'a str) -> Result<Property<'a>, String> {
    Ok(match name {
        "payload-format-indicator" => Property::PayloadFormatIndicator(number(name, value)?),
        "message-expiry-interval" => Property::MessageExpiryInterval(number(name, value)?),
        "content-type" => Property::ContentType(value),
        "response-topic" => Property::ResponseTopic(value),
        "correlation-data" => Property::CorrelationData(value.as_bytes()),
        "subscription-identifier" => {
            let identifier = number(name, value)?;
            if identifier > 268_435_455 {
                return Err(format!("-D {name}: at most 268435455"));
            }
            Property::SubscriptionIdentifier(identifier)
        }
        "session-expiry-interval" => Property::SessionExpiryInterval(number(name, value)?),
        "authentication-method" => Property::AuthenticationMethod(value),
        "authentication-data" => Property::AuthenticationData(value.as_bytes()),
        "request-problem-information" => Property::RequestProblemInformation(flag(name, value)?),
        "will-delay-interval" => Property::WillDelayInterval(number(name, value)?),
        "request-response-information" => Property::RequestResponseInformation(flag(name, value)?),
        "receive-maximum" => Property::ReceiveMaximum(number(name, value)?),
        "topic-alias-maximum" => Property::TopicAliasMaximum(number(name, value)?),
        "topic-alias" => Property::TopicAlias(number(name, value)?),
        "maximum-packet-size" => Property::MaximumPacketSize(number(name, value)?),
        _ => return Err(format!("-D {name}: no property that a client sends has this name")),
    })
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("-D {name}: {value} is not a number in its range"))
}

fn flag(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(format!("-D {name}: 0 or 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<PacketProperties, String> {
        PacketProperties::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn each_property_goes_to_its_packet_in_order() {
        let properties =
            parse("PUBLISH user-property a b connect receive-maximum 7 publish content-type text/plain")
                .unwrap();
        let publish: Vec<_> = properties.publish.as_properties().iter().collect();
        assert_eq!(publish, [Property::UserProperty("a", "b"), Property::ContentType("text/plain")]);
        let connect: Vec<_> = properties.connect.as_properties().iter().collect();
        assert_eq!(connect, [Property::ReceiveMaximum(7)]);
        assert!(properties.will.is_empty());
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for line in [
            "connect receive-maximum",
            "connect receive-maximum 65536",
            "connect request-problem-information 2",
            "publish user-property k",
            "publish colour red",
            "unsubscribe user-property k v",
            "publish content-type a b",
            "subscribe subscription-identifier 268435456",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
