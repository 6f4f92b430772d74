//! Random valid packets, for tests: every type of every version, with every property that it may carry.

use fastrand::Rng;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

/// What packets borrow from: strings and bytes of all sizes, short ones mostly.
pub struct Pool {
    topics: Vec<String>,
    filters: Vec<String>,
    texts: Vec<String>,
    binaries: Vec<Vec<u8>>,
}

impl Pool {
    /// A pool of new strings.
    pub fn new(rng: &mut Rng) -> Pool {
        let topics = (0..16).map(|_| topic(rng)).collect();
        let filters = (0..16).map(|_| filter(rng)).collect();
        let texts = (0..16).map(|_| text(rng)).collect();
        let binaries = (0..16).map(|_| binary(rng)).collect();
        Pool { topics, filters, texts, binaries }
    }

    fn topic(&self, rng: &mut Rng) -> &str {
        rng.choice(&self.topics).expect("not empty")
    }

    fn filter(&self, rng: &mut Rng) -> &str {
        rng.choice(&self.filters).expect("not empty")
    }

    fn text(&self, rng: &mut Rng) -> &str {
        rng.choice(&self.texts).expect("not empty")
    }

    fn binary(&self, rng: &mut Rng) -> &[u8] {
        rng.choice(&self.binaries).expect("not empty")
    }
}

/// Sizes at which encodings change, and small ones between.
fn size(rng: &mut Rng) -> usize {
    match rng.u16(..) {
        0..400 => rng.usize(120..140),
        400..420 => rng.usize(16_370..16_390),
        420..425 => 65_535,
        _ => rng.usize(0..12),
    }
}

fn text(rng: &mut Rng) -> String {
    let len = size(rng);
    let mut text = String::new();
    loop {
        let next = match rng.u8(..) {
            0..3 => '\u{FEFF}',
            3..6 => '\u{1F600}',
            6..9 => '\u{10FFFF}',
            9..20 => 'é',
            20..23 => '\u{1}',
            23..30 => '$',
            _ => rng.alphanumeric(),
        };
        if text.len() + next.len_utf8() > len {
            return text;
        }
        text.push(next);
    }
}

fn topic(rng: &mut Rng) -> String {
    let mut topic = text(rng);
    for _ in 0..rng.usize(0..4) {
        topic.push('/');
        topic.push_str(&text(rng));
    }
    if topic.is_empty() || topic.len() > 65_535 { "t".into() } else { topic }
}

fn filter(rng: &mut Rng) -> String {
    let topic = topic(rng);
    let mut levels: Vec<&str> = topic.split('/').collect();
    for level in &mut levels {
        if rng.u8(..4) == 0 {
            *level = "+";
        }
    }
    if rng.u8(..4) == 0 {
        levels.push("#");
    }
    let filter = levels.join("/");
    let shared = filter.starts_with("$share/") || rng.u8(..4) == 0;
    let filter = if shared { format!("$share/group/{filter}") } else { filter };
    if filter.len() > 65_535 { "+/#".into() } else { filter }
}

fn binary(rng: &mut Rng) -> Vec<u8> {
    let len = size(rng);
    (0..len).map(|_| rng.u8(..)).collect()
}

/// What one packet needs beside the pool; a packet borrows it until the next is made.
#[derive(Default)]
pub struct Scratch {
    properties: PropertiesBuf,
    will_properties: PropertiesBuf,
    payload: Vec<u8>,
}

/// A random packet of that version.
pub fn packet<'a>(rng: &mut Rng, version: Version, pool: &'a Pool, scratch: &'a mut Scratch) -> Packet<'a> {
    let last = if version == Version::V5 { 15 } else { 14 };
    let packet_type = PacketType::from_bits(rng.u8(1..=last)).expect("a type");
    packet_of_type(rng, version, packet_type, pool, scratch)
}

/// A random packet of that version and type.
pub fn packet_of_type<'a>(
    rng: &mut Rng,
    version: Version,
    packet_type: PacketType,
    pool: &'a Pool,
    scratch: &'a mut Scratch,
) -> Packet<'a> {
    let Scratch { properties: list, will_properties, payload } = scratch;
    payload.clear();
    *list = PropertiesBuf::new();
    if version == Version::V5 {
        fill(rng, menu(packet_type), pool, list);
    }
    let properties = list.as_properties();
    let packet_id = PacketId::new(rng.u16(1..)).expect("not 0");
    let mut ack = || Ack { packet_id, reason: reason(rng, version, packet_type), properties };
    match packet_type {
        PacketType::PubAck => Packet::PubAck(ack()),
        PacketType::PubRec => Packet::PubRec(ack()),
        PacketType::PubRel => Packet::PubRel(ack()),
        PacketType::PubComp => Packet::PubComp(ack()),
        PacketType::Connect => Packet::Connect(connect(rng, version, pool, properties, will_properties)),
        PacketType::ConnAck => {
            let reason = reason(rng, version, packet_type);
            let session_present = reason == ReasonCode::Success && version != Version::V3 && rng.bool();
            Packet::ConnAck(ConnAck { session_present, reason, properties })
        }
        PacketType::Publish => Packet::Publish(publish(rng, pool, properties, packet_id)),
        PacketType::Subscribe => {
            let filters = (0..rng.usize(1..4)).map(|_| subscription(rng, version, pool)).collect::<Vec<_>>();
            let filters = SubscribeFilters::encode(filters, payload);
            Packet::Subscribe(Subscribe { packet_id, properties, filters })
        }
        PacketType::SubAck => {
            let count = rng.usize(1..4);
            payload.extend((0..count).map(|_| reason(rng, version, packet_type) as u8));
            Packet::SubAck(SubAck { packet_id, properties, reasons: payload })
        }
        PacketType::Unsubscribe => {
            let filters = (0..rng.usize(1..4)).map(|_| pool.filter(rng)).collect::<Vec<_>>();
            let filters = UnsubscribeFilters::encode(filters, payload);
            Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters })
        }
        PacketType::UnsubAck => {
            let count = if version == Version::V5 { rng.usize(1..4) } else { 0 };
            payload.extend((0..count).map(|_| reason(rng, version, packet_type) as u8));
            Packet::UnsubAck(SubAck { packet_id, properties, reasons: payload })
        }
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => {
            Packet::Disconnect(Disconnect { reason: reason(rng, version, packet_type), properties })
        }
        PacketType::Auth => {
            // Without properties there is no method, and without a method nothing but plain success.
            let has_method = properties.iter().any(|p| matches!(p, Property::AuthenticationMethod(_)));
            let reason = if has_method { reason(rng, version, packet_type) } else { ReasonCode::Success };
            let properties = if has_method { properties } else { Properties::EMPTY };
            Packet::Auth(Auth { reason, properties })
        }
    }
}

fn connect<'a>(
    rng: &mut Rng,
    version: Version,
    pool: &'a Pool,
    properties: Properties<'a>,
    will_properties: &'a mut PropertiesBuf,
) -> Connect<'a> {
    *will_properties = PropertiesBuf::new();
    if version == Version::V5 {
        fill(rng, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26], pool, will_properties);
    }
    let will_properties = will_properties.as_properties();
    let clean_start = rng.bool();
    let client_id = match pool.text(rng) {
        "" if version == Version::V3 || (version == Version::V4 && !clean_start) => "id",
        text => text,
    };
    let will = rng.bool().then(|| LastWill {
        qos: qos(rng),
        retain: rng.bool(),
        properties: will_properties,
        topic: pool.topic(rng),
        payload: payload(rng, pool, will_properties),
    });
    let username = rng.bool().then(|| pool.text(rng));
    let may_have_password = username.is_some() || version == Version::V5;
    let password = (may_have_password && rng.bool()).then(|| pool.binary(rng));
    Connect { version, clean_start, keep_alive: rng.u16(..), properties, client_id, will, username, password }
}

fn publish<'a>(
    rng: &mut Rng,
    pool: &'a Pool,
    properties: Properties<'a>,
    packet_id: PacketId,
) -> Publish<'a> {
    let qos = qos(rng);
    let above_0 = qos != QoS::AtMostOnce;
    let aliased = properties.iter().any(|property| matches!(property, Property::TopicAlias(_)));
    Publish {
        dup: above_0 && rng.bool(),
        qos,
        retain: rng.bool(),
        topic: if aliased && rng.bool() { "" } else { pool.topic(rng) },
        packet_id: above_0.then_some(packet_id),
        properties,
        payload: payload(rng, pool, properties),
    }
}

/// Bytes, or text where the properties say so.
fn payload<'a>(rng: &mut Rng, pool: &'a Pool, properties: Properties<'_>) -> &'a [u8] {
    if properties.iter().any(|property| property == Property::PayloadFormatIndicator(1)) {
        pool.text(rng).as_bytes()
    } else {
        pool.binary(rng)
    }
}

fn subscription<'a>(rng: &mut Rng, version: Version, pool: &'a Pool) -> (&'a str, SubscribeOptions) {
    let filter = pool.filter(rng);
    let mut options = SubscribeOptions::at_most(qos(rng));
    if version == Version::V5 {
        options.no_local = !filter.starts_with("$share/") && rng.bool();
        options.retain_as_published = rng.bool();
        let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
        options.retain_handling = handling[rng.usize(..3)];
    }
    (filter, options)
}

fn qos(rng: &mut Rng) -> QoS {
    QoS::from_bits(rng.u8(..3)).expect("0 to 2")
}

fn reason(rng: &mut Rng, version: Version, packet_type: PacketType) -> ReasonCode {
    let codes: &[u8] = match (packet_type, version) {
        (PacketType::SubAck, Version::V3 | Version::V4) => &[0x00, 0x01, 0x02, 0x80],
        (PacketType::ConnAck, Version::V3 | Version::V4) => &[0x00, 0x84, 0x85, 0x86, 0x87, 0x88],
        (_, Version::V3 | Version::V4) => &[0x00],
        (PacketType::ConnAck, _) => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
        (PacketType::PubAck | PacketType::PubRec, _) => {
            &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
        }
        (PacketType::PubRel | PacketType::PubComp, _) => &[0x00, 0x92],
        (PacketType::SubAck, _) => &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
        (PacketType::UnsubAck, _) => &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        (PacketType::Disconnect, _) => &[
            0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94,
            0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
        (PacketType::Auth, _) => &[0x00, 0x18, 0x19],
        _ => &[0x00],
    };
    // Success as often as everything else.
    let code = if rng.bool() { 0x00 } else { codes[rng.usize(..codes.len())] };
    ReasonCode::try_from(code).expect("a code of the standard")
}

/// The properties that a packet of that type may carry.
fn menu(packet_type: PacketType) -> &'static [u8] {
    match packet_type {
        PacketType::Connect => &[0x11, 0x15, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
        PacketType::ConnAck => {
            &[0x11, 0x12, 0x13, 0x15, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A]
        }
        PacketType::Publish => &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26],
        PacketType::Subscribe => &[0x0B, 0x26],
        PacketType::Unsubscribe => &[0x26],
        PacketType::Disconnect => &[0x11, 0x1C, 0x1F, 0x26],
        PacketType::Auth => &[0x15, 0x1F, 0x26],
        PacketType::PingReq | PacketType::PingResp => &[],
        _ => &[0x1F, 0x26],
    }
}

/// Adds some of the properties in `menu`, in any order; those that may repeat, repeat sometimes.
fn fill(rng: &mut Rng, menu: &[u8], pool: &Pool, list: &mut PropertiesBuf) {
    let mut ids = Vec::new();
    if rng.u8(..3) != 0 {
        ids.extend(menu.iter().filter(|_| rng.bool()));
    }
    let is_publish = menu.contains(&0x23);
    for index in 0..ids.len() {
        match ids[index] {
            0x26 => ids.extend(std::iter::repeat_n(0x26, rng.usize(..3))),
            0x0B if is_publish => ids.extend(std::iter::repeat_n(0x0B, rng.usize(..4))),
            0x15 if rng.bool() => ids.push(0x16),
            _ => {}
        }
    }
    rng.shuffle(&mut ids);
    for id in ids {
        list.push(property(rng, id, pool));
    }
}

fn property<'a>(rng: &mut Rng, id: u8, pool: &'a Pool) -> Property<'a> {
    match id {
        0x01 => Property::PayloadFormatIndicator(rng.u8(..2)),
        0x02 => Property::MessageExpiryInterval(rng.u32(..)),
        0x03 => Property::ContentType(pool.text(rng)),
        0x08 => Property::ResponseTopic(pool.topic(rng)),
        0x09 => Property::CorrelationData(pool.binary(rng)),
        0x0B => Property::SubscriptionIdentifier(rng.u32(1..=268_435_455) >> rng.u8(..21) | 1),
        0x11 => Property::SessionExpiryInterval(rng.u32(..)),
        0x12 => Property::AssignedClientIdentifier(pool.text(rng)),
        0x13 => Property::ServerKeepAlive(rng.u16(..)),
        0x15 => Property::AuthenticationMethod(pool.text(rng)),
        0x16 => Property::AuthenticationData(pool.binary(rng)),
        0x17 => Property::RequestProblemInformation(rng.bool()),
        0x18 => Property::WillDelayInterval(rng.u32(..)),
        0x19 => Property::RequestResponseInformation(rng.bool()),
        0x1A => Property::ResponseInformation(pool.text(rng)),
        0x1C => Property::ServerReference(pool.text(rng)),
        0x1F => Property::ReasonString(pool.text(rng)),
        0x21 => Property::ReceiveMaximum(rng.u16(1..)),
        0x22 => Property::TopicAliasMaximum(rng.u16(..)),
        0x23 => Property::TopicAlias(rng.u16(1..)),
        0x24 => Property::MaximumQoS(rng.u8(..2)),
        0x25 => Property::RetainAvailable(rng.bool()),
        0x26 => Property::UserProperty(pool.text(rng), pool.text(rng)),
        0x27 => Property::MaximumPacketSize(rng.u32(1..)),
        0x28 => Property::WildcardSubscriptionAvailable(rng.bool()),
        0x29 => Property::SubscriptionIdentifierAvailable(rng.bool()),
        0x2A => Property::SharedSubscriptionAvailable(rng.bool()),
        _ => unreachable!("{id:02X} is not on any menu"),
    }
}

/// Changes `packet` at random: bytes set, flipped, put in, taken out, cut off, or doubled. Its Remaining Length
/// is put right mostly, so that the change is not hidden behind a wrong one.
pub fn mutate(rng: &mut Rng, packet: &mut Vec<u8>) {
    let header = 1 + packet[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
    let mut body = packet.split_off(header.min(packet.len()));
    for _ in 0..1 + rng.usize(..3) {
        // The first bytes hold the lengths: most of what can go wrong is there.
        let reach = if rng.bool() { body.len() } else { body.len().min(24) };
        let at = rng.usize(..=reach);
        match rng.u8(..8) {
            0 if at < body.len() => body[at] ^= 1 << rng.u8(..8),
            1 if at < body.len() => body[at] = rng.u8(..),
            2 if at < body.len() => body[at] = body[at].wrapping_add(1),
            3 if at < body.len() => body[at] = body[at].wrapping_sub(1),
            4 if at < body.len() => drop(body.remove(at)),
            5 => {
                body.insert(at, *rng.choice(&[0, 1, 2, 3, 0x0B, 0x26, 0x7F, 0x80, 0xC0, 0xFF]).expect("some"))
            }
            6 if rng.bool() => body.truncate(at),
            7 => {
                let end = rng.usize(at..=body.len().min(at + 16));
                let part = body[at..end].to_vec();
                body.splice(at..at, part);
            }
            _ => {}
        }
    }
    match rng.u8(..16) {
        0 => {
            let at = rng.usize(..packet.len());
            packet[at] ^= 1 << rng.u8(..8);
        }
        1 => {}
        _ => {
            packet.truncate(1);
            let mut len = body.len();
            while len >= 0x80 {
                packet.push(len as u8 | 0x80);
                len >>= 7;
            }
            packet.push(len as u8);
        }
    }
    packet.append(&mut body);
}

/// The number in an environment variable.
pub fn count_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")),
        Err(_) => default,
    }
}
