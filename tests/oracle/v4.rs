//! mqttbytes' 3.1.1 packets: read, written, and told as [`Facts`].

use bytes::BytesMut;
use mqttbytes::Error;
use mqttbytes::v4::{self, Packet, SubscribeReasonCode};

use super::facts::Facts;

/// Reads one packet.
pub fn read(bytes: &[u8]) -> Result<Packet, Error> {
    v4::read(&mut BytesMut::from(bytes), usize::MAX)
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
        Packet::PingReq => v4::PingReq.write(&mut out),
        Packet::PingResp => v4::PingResp.write(&mut out),
        Packet::Disconnect => v4::Disconnect.write(&mut out),
    };
    written.expect("it can be written");
    out.to_vec()
}

/// What a packet says.
pub fn facts(packet: &Packet) -> Facts {
    let ack = |name, id: u16| Facts::of(name).and("packet id", id).and("reason", 0);
    match packet {
        Packet::Connect(connect) => connect_facts(connect),
        Packet::ConnAck(connack) => {
            let reason = [0x00, 0x84, 0x85, 0x88, 0x86, 0x87][connack.code as usize];
            Facts::of("ConnAck").and("session present", connack.session_present).and("reason", reason)
        }
        Packet::Publish(publish) => Facts::of("Publish")
            .and("flags", (publish.dup, publish.qos as u8, publish.retain))
            .and("topic", &publish.topic)
            .and("packet id", publish.pkid)
            .and("payload", &publish.payload[..]),
        Packet::PubAck(packet) => ack("PubAck", packet.pkid),
        Packet::PubRec(packet) => ack("PubRec", packet.pkid),
        Packet::PubRel(packet) => ack("PubRel", packet.pkid),
        Packet::PubComp(packet) => ack("PubComp", packet.pkid),
        Packet::Subscribe(subscribe) => {
            let mut facts = Facts::of("Subscribe").and("packet id", subscribe.pkid);
            for filter in &subscribe.filters {
                facts = facts.and("filter", (&filter.path, filter.qos as u8));
            }
            facts
        }
        Packet::SubAck(suback) => {
            let code = |code: &SubscribeReasonCode| match *code {
                SubscribeReasonCode::Success(qos) => qos as u8,
                SubscribeReasonCode::Failure => 0x80,
            };
            let reasons: Vec<u8> = suback.return_codes.iter().map(code).collect();
            Facts::of("SubAck").and("packet id", suback.pkid).and("reasons", reasons)
        }
        Packet::Unsubscribe(unsubscribe) => {
            Facts::of("Unsubscribe").and("packet id", unsubscribe.pkid).and("filters", &unsubscribe.topics)
        }
        Packet::UnsubAck(unsuback) => {
            Facts::of("UnsubAck").and("packet id", unsuback.pkid).and("reasons", [0u8; 0])
        }
        Packet::PingReq => Facts::of("PingReq"),
        Packet::PingResp => Facts::of("PingResp"),
        Packet::Disconnect => Facts::of("Disconnect").and("reason", 0),
    }
}

fn connect_facts(connect: &v4::Connect) -> Facts {
    let login = connect.login.as_ref();
    let mut facts = Facts::of("Connect")
        .and("clean", connect.clean_session)
        .and("keep alive", connect.keep_alive)
        .and("client id", &connect.client_id)
        .and("user name", login.map_or("", |login| &login.username))
        .and("password", login.map_or("", |login| &login.password).as_bytes());
    if let Some(will) = &connect.last_will {
        facts = facts
            .and("will flags", (will.qos as u8, will.retain))
            .and("will topic", &will.topic)
            .and("will payload", &will.message[..]);
    }
    facts
}
