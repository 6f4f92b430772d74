//! mqttbytes' 5.0 packets: read, written, and told as [`Facts`].

use bytes::BytesMut;
use mqttbytes::Error;
use mqttbytes::v5::{self, Packet, RetainForwardRule, SubscribeFilter};
use weirmq::protocol::properties::Property;

use super::facts::Facts;

/// Reads one packet.
pub fn read(bytes: &[u8]) -> Result<Packet, Error> {
    v5::read(&mut BytesMut::from(bytes), usize::MAX)
}

/// Writes one packet.
pub fn write(packet: &Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    let written = match packet {
        Packet::Connect(packet) => packet.write(&mut out),
        Packet::ConnAck(packet) => packet.write(&mut out),
        Packet::Publish(packet) => packet.write(&mut out),
        Packet::PubAck(packet) => packet.write(&mut out),
        Packet::PubRec(packet) => packet.write(&mut out),
        Packet::PubRel(packet) => packet.write(&mut out),
        Packet::PubComp(packet) => packet.write(&mut out),
        Packet::Subscribe(packet) => packet.write(&mut out),
        Packet::SubAck(packet) => packet.write(&mut out),
        Packet::Unsubscribe(packet) => packet.write(&mut out),
        Packet::UnsubAck(packet) => packet.write(&mut out),
        Packet::PingReq => v5::PingReq.write(&mut out),
        Packet::PingResp => v5::PingResp.write(&mut out),
        Packet::Disconnect(packet) => packet.write(&mut out),
    };
    written.expect("it can be written");
    out.to_vec()
}

/// The facts of an acknowledgement, whose types differ in name only.
macro_rules! ack {
    ($name:literal, $ack:expr) => {
        Facts::of($name).and("packet id", $ack.pkid).and("reason", $ack.reason as u8).and_properties(
            $ack.properties.as_ref().map_or(Vec::new(), |p| explained(&p.reason_string, &p.user_properties)),
        )
    };
}

/// What a packet says.
pub fn facts(packet: &Packet) -> Facts {
    match packet {
        Packet::Connect(connect) => connect_facts(connect),
        Packet::ConnAck(connack) => Facts::of("ConnAck")
            .and("session present", connack.session_present)
            .and("reason", connack.code as u8)
            .and_properties(connack.properties.as_ref().map_or(Vec::new(), connack_properties)),
        Packet::Publish(publish) => Facts::of("Publish")
            .and("flags", (publish.dup, publish.qos as u8, publish.retain))
            .and("topic", &publish.topic)
            .and("packet id", publish.pkid)
            .and("payload", &publish.payload[..])
            .and_properties(publish.properties.as_ref().map_or(Vec::new(), publish_properties)),
        Packet::PubAck(packet) => ack!("PubAck", packet),
        Packet::PubRec(packet) => ack!("PubRec", packet),
        Packet::PubRel(packet) => ack!("PubRel", packet),
        Packet::PubComp(packet) => ack!("PubComp", packet),
        Packet::Subscribe(subscribe) => subscribe_facts(subscribe),
        Packet::SubAck(suback) => Facts::of("SubAck")
            .and("packet id", suback.pkid)
            .and("reasons", suback.return_codes.iter().map(|&code| code as u8).collect::<Vec<_>>())
            .and_properties(
                suback
                    .properties
                    .as_ref()
                    .map_or(Vec::new(), |p| explained(&p.reason_string, &p.user_properties)),
            ),
        Packet::Unsubscribe(unsubscribe) => Facts::of("Unsubscribe")
            .and("packet id", unsubscribe.pkid)
            .and("filters", &unsubscribe.filters)
            .and_properties(
                unsubscribe.properties.as_ref().map_or(Vec::new(), |p| explained(&None, &p.user_properties)),
            ),
        Packet::UnsubAck(unsuback) => Facts::of("UnsubAck")
            .and("packet id", unsuback.pkid)
            .and("reasons", unsuback.reasons.iter().map(|&code| code as u8).collect::<Vec<_>>())
            .and_properties(
                unsuback
                    .properties
                    .as_ref()
                    .map_or(Vec::new(), |p| explained(&p.reason_string, &p.user_properties)),
            ),
        Packet::PingReq => Facts::of("PingReq"),
        Packet::PingResp => Facts::of("PingResp"),
        Packet::Disconnect(disconnect) => Facts::of("Disconnect")
            .and("reason", disconnect.reason_code as u8)
            .and_properties(disconnect.properties.as_ref().map_or(Vec::new(), |p| {
                let mut list = explained(&p.reason_string, &p.user_properties);
                list.extend(p.session_expiry_interval.map(Property::SessionExpiryInterval));
                list.extend(p.server_reference.as_deref().map(Property::ServerReference));
                list
            })),
    }
}

fn connect_facts(connect: &v5::Connect) -> Facts {
    let login = connect.login.as_ref();
    let mut facts = Facts::of("Connect")
        .and("clean", connect.clean_session)
        .and("keep alive", connect.keep_alive)
        .and("client id", &connect.client_id)
        .and("user name", login.map_or("", |login| &login.username))
        .and("password", login.map_or("", |login| &login.password).as_bytes())
        .and_properties(connect.properties.as_ref().map_or(Vec::new(), connect_properties));
    if let Some(will) = &connect.last_will {
        facts = facts
            .and("will flags", (will.qos as u8, will.retain))
            .and("will topic", &will.topic)
            .and("will payload", &will.message[..])
            .and_properties(will.properties.as_ref().map_or(Vec::new(), will_properties));
    }
    facts
}

fn subscribe_facts(subscribe: &v5::Subscribe) -> Facts {
    let options = |filter: &SubscribeFilter| {
        let handling = match filter.retain_forward_rule {
            RetainForwardRule::OnEverySubscribe => 0,
            RetainForwardRule::OnNewSubscribe => 1,
            RetainForwardRule::Never => 2,
        };
        filter.qos as u8
            | u8::from(filter.nolocal) << 2
            | u8::from(filter.preserve_retain) << 3
            | handling << 4
    };
    let mut facts = Facts::of("Subscribe").and("packet id", subscribe.pkid);
    for filter in &subscribe.filters {
        facts = facts.and("filter", (&filter.path, options(filter)));
    }
    facts.and_properties(subscribe.properties.as_ref().map_or(Vec::new(), |p| {
        let mut list = explained(&None, &p.user_properties);
        list.extend(p.id.map(|id| Property::SubscriptionIdentifier(id as u32)));
        list
    }))
}

fn explained<'a>(reason: &'a Option<String>, user: &'a [(String, String)]) -> Vec<Property<'a>> {
    let reason = reason.iter().map(|reason| Property::ReasonString(reason));
    reason.chain(user.iter().map(|(name, value)| Property::UserProperty(name, value))).collect()
}

fn connect_properties(p: &v5::ConnectProperties) -> Vec<Property<'_>> {
    let mut list = explained(&None, &p.user_properties);
    list.extend(p.session_expiry_interval.map(Property::SessionExpiryInterval));
    list.extend(p.receive_maximum.map(Property::ReceiveMaximum));
    list.extend(p.max_packet_size.map(Property::MaximumPacketSize));
    list.extend(p.topic_alias_max.map(Property::TopicAliasMaximum));
    list.extend(p.request_response_info.map(|info| Property::RequestResponseInformation(info == 1)));
    list.extend(p.request_problem_info.map(|info| Property::RequestProblemInformation(info == 1)));
    list.extend(p.authentication_method.as_deref().map(Property::AuthenticationMethod));
    list.extend(p.authentication_data.as_deref().map(Property::AuthenticationData));
    list
}

fn will_properties(p: &v5::WillProperties) -> Vec<Property<'_>> {
    let mut list = explained(&None, &p.user_properties);
    list.extend(p.delay_interval.map(Property::WillDelayInterval));
    list.extend(p.payload_format_indicator.map(Property::PayloadFormatIndicator));
    list.extend(p.message_expiry_interval.map(Property::MessageExpiryInterval));
    list.extend(p.content_type.as_deref().map(Property::ContentType));
    list.extend(p.response_topic.as_deref().map(Property::ResponseTopic));
    list.extend(p.correlation_data.as_deref().map(Property::CorrelationData));
    list
}

fn publish_properties(p: &v5::PublishProperties) -> Vec<Property<'_>> {
    let mut list = explained(&None, &p.user_properties);
    list.extend(p.payload_format_indicator.map(Property::PayloadFormatIndicator));
    list.extend(p.message_expiry_interval.map(Property::MessageExpiryInterval));
    list.extend(p.topic_alias.map(Property::TopicAlias));
    list.extend(p.response_topic.as_deref().map(Property::ResponseTopic));
    list.extend(p.correlation_data.as_deref().map(Property::CorrelationData));
    list.extend(p.subscription_identifiers.iter().map(|&id| Property::SubscriptionIdentifier(id as u32)));
    list.extend(p.content_type.as_deref().map(Property::ContentType));
    list
}

fn connack_properties(p: &v5::ConnAckProperties) -> Vec<Property<'_>> {
    let mut list = explained(&p.reason_string, &p.user_properties);
    list.extend(p.session_expiry_interval.map(Property::SessionExpiryInterval));
    list.extend(p.receive_max.map(Property::ReceiveMaximum));
    list.extend(p.max_qos.map(Property::MaximumQoS));
    list.extend(p.retain_available.map(|yes| Property::RetainAvailable(yes == 1)));
    list.extend(p.max_packet_size.map(Property::MaximumPacketSize));
    list.extend(p.assigned_client_identifier.as_deref().map(Property::AssignedClientIdentifier));
    list.extend(p.topic_alias_max.map(Property::TopicAliasMaximum));
    list.extend(
        p.wildcard_subscription_available.map(|yes| Property::WildcardSubscriptionAvailable(yes == 1)),
    );
    let available = |yes| Property::SubscriptionIdentifierAvailable(yes == 1);
    list.extend(p.subscription_identifiers_available.map(available));
    list.extend(p.shared_subscription_available.map(|yes| Property::SharedSubscriptionAvailable(yes == 1)));
    list.extend(p.server_keep_alive.map(Property::ServerKeepAlive));
    list.extend(p.response_information.as_deref().map(Property::ResponseInformation));
    list.extend(p.server_reference.as_deref().map(Property::ServerReference));
    list.extend(p.authentication_method.as_deref().map(Property::AuthenticationMethod));
    list.extend(p.authentication_data.as_deref().map(Property::AuthenticationData));
    list
}
