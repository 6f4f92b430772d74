//! The judgement of a CONNECT before any session is touched, and the CONNACK that refuses it, in a form that the client
//! can read. Pure.

use crate::limits::Limits;
use crate::protocol::codec;
use crate::protocol::packet::{ConnAck, Connect, Packet, Version};
use crate::protocol::properties::{Properties, Property};
use crate::protocol::reason::{ProtocolError, ReasonCode};

/// Why a client is turned away.
#[derive(Debug)]
pub(super) struct Refusal {
    /// In which form it is told; `None`: it is not told at all.
    pub(super) told_in: Option<Version>,
    /// What it is told, and what the log says.
    pub(super) error: ProtocolError,
}

impl Refusal {
    /// A refusal of a well-formed CONNECT.
    pub(super) fn of(connect: &Connect<'_>, error: ProtocolError) -> Refusal {
        // [MQTT-3.1.2-24]: a client may take packets too small even for this.
        let mut properties = connect.properties.iter();
        let fits =
            !properties.any(|property| matches!(property, Property::MaximumPacketSize(0..CONNACK_SIZE)));
        let told_in = tellable(connect.version, &error).filter(|_| fits);
        Refusal { told_in, error }
    }

    /// The CONNACK, if there is one.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let Some(version) = self.told_in else { return };
        // [MQTT-3.2.2-6]
        let connack =
            ConnAck { session_present: false, reason: self.error.reason, properties: Properties::EMPTY };
        codec::encode(version, &Packet::ConnAck(connack), out);
    }
}

/// Whether `bytes` begin with a whole CONNECT: its size, or `None` while more is to come.
pub(super) fn find_connect(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
    match codec::frame(None, bytes, limits.connect_packet_size) {
        Ok(size) => Ok(size.filter(|size| *size <= bytes.len())),
        Err(error) => {
            // [MQTT-3.1.0-1]: whatever is not a CONNECT gets no answer.
            let is_connect = bytes.first() == Some(&CONNECT);
            Err(Refusal { told_in: readable_form(bytes, &error).filter(|_| is_connect), error })
        }
    }
}

/// Decodes a whole CONNECT and judges what needs no session.
pub(super) fn judge<'a>(frame: &'a [u8], limits: &Limits) -> Result<Connect<'a>, Refusal> {
    let refuse = |error: ProtocolError| Refusal { told_in: readable_form(frame, &error), error };
    let connect = match codec::decode(Version::V5, frame).map_err(refuse)? {
        Packet::Connect(connect) => connect,
        _ => return Err(refuse(ProtocolError::protocol("the first packet is not CONNECT"))),
    };
    let error = |reason, detail: &'static str| Refusal::of(&connect, ProtocolError::new(reason, detail));
    if connect.client_id.len() > limits.client_id_length {
        return Err(error(ReasonCode::ClientIdentifierNotValid, "the Client Identifier is too long"));
    }
    Ok(connect)
}

/// The first byte of CONNECT.
const CONNECT: u8 = 0x10;

/// The size of a refusing CONNACK of 5.0, in bytes.
const CONNACK_SIZE: u32 = 5;

/// In which form a client can read why its CONNECT is refused.
fn readable_form(frame: &[u8], error: &ProtocolError) -> Option<Version> {
    match codec::connect_version(frame) {
        Ok(version) => tellable(version, error),
        Err(_) => asked_form(frame),
    }
}

/// The version, if it can say what is wrong. Before 5.0 no return code says that a CONNECT is malformed or asks for what
/// cannot be had: then there is no CONNACK [3.1.1: MQTT-3.1.4-1] [3.1.1: MQTT-3.2.2-6].
fn tellable(version: Version, error: &ProtocolError) -> Option<Version> {
    let unsayable = matches!(
        error.reason,
        ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::PacketTooLarge
            | ReasonCode::TopicNameInvalid
    );
    Some(version).filter(|version| *version == Version::V5 || !unsayable)
}

/// The form for a level that is not known: what comes after 5.0 reads its CONNACK, what is older or otherwise unknown
/// reads that of 3.1.1 [MQTT-3.1.2-2]. The top bit is how bridges mark themselves.
fn asked_form(frame: &[u8]) -> Option<Version> {
    let lengths = frame.get(1..)?.iter().take(4).position(|byte| byte & 0x80 == 0)? + 1;
    let body = frame.get(1 + lengths..)?;
    let name_len = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
    let (name, level) = (body.get(2..2 + name_len)?, body.get(2 + name_len)?);
    match (name, level & 0x7F) {
        (b"MQTT", 6..) => Some(Version::V5),
        (b"MQTT" | b"MQIsdp", _) => Some(Version::V4),
        // [MQTT-3.1.2-1]: not MQTT at all.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CONNECT with a name, a level, and the rest of a minimal one: clean start, keep alive 60, client id "c".
    fn connect(name: &str, level: u8) -> Vec<u8> {
        let mut body = (name.len() as u16).to_be_bytes().to_vec();
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&[level, 0x02, 0, 60]);
        if level == 5 {
            body.push(0);
        }
        body.extend_from_slice(&[0, 1, b'c']);
        let mut frame = vec![CONNECT, body.len() as u8];
        frame.append(&mut body);
        frame
    }

    fn answer(frame: &[u8], limits: &Limits) -> Vec<u8> {
        let mut out = Vec::new();
        match find_connect(frame, limits) {
            Err(refusal) => refusal.encode(&mut out),
            Ok(None) => panic!("incomplete"),
            Ok(Some(_)) => {
                judge(frame, limits).expect_err("is refused").encode(&mut out);
            }
        }
        out
    }

    #[test]
    fn mqtt_3_1_2_2_an_unknown_level_is_answered_in_a_form_it_reads() {
        let limits = Limits::default();
        for (name, level, expected) in [
            ("MQTT", 6, &[0x20, 3, 0, 0x84, 0][..]),
            ("MQTT", 3, &[0x20, 2, 0, 1]),
            ("MQTT", 0x84, &[0x20, 2, 0, 1]),
            ("MQIsdp", 4, &[0x20, 2, 0, 1]),
            ("HTTP", 5, &[]),
        ] {
            assert_eq!(answer(&connect(name, level), &limits), expected, "{name} {level}");
        }
    }

    #[test]
    fn what_is_malformed_is_told_to_5_0_alone() {
        let limits = Limits::default();
        for (level, name, expected) in
            [(5, "MQTT", &[0x20, 3, 0, 0x81, 0][..]), (4, "MQTT", &[]), (3, "MQIsdp", &[])]
        {
            let mut frame = connect(name, level);
            frame.push(0);
            frame[1] += 1;
            assert_eq!(answer(&frame, &limits), expected, "{level}");
        }
    }

    #[test]
    fn mqtt_3_1_0_1_anything_but_connect_is_not_answered() {
        for first in (0..=u8::MAX).filter(|first| *first != CONNECT) {
            let mut frame = connect("MQTT", 5);
            frame[0] = first;
            assert!(answer(&frame, &Limits::default()).is_empty(), "{first:02X}");
        }
    }

    #[test]
    fn a_packet_over_the_limit_is_refused_by_its_header() {
        let limits = Limits { connect_packet_size: 100, ..Limits::default() };
        let mut out = Vec::new();
        find_connect(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F, 0], &limits).expect_err("too large").encode(&mut out);
        assert!(out.is_empty());
        let header = [&[0x10, 0xFF, 0x01], &b"\0\x04MQTT\x05"[..]].concat();
        find_connect(&header, &limits).expect_err("too large").encode(&mut out);
        assert_eq!(out, [0x20, 3, 0, 0x95, 0]);
    }

    #[test]
    fn a_client_identifier_over_the_limit_is_told_so() {
        let limits = Limits { client_id_length: 0, ..Limits::default() };
        assert_eq!(answer(&connect("MQTT", 5), &limits), [0x20, 3, 0, 0x85, 0]);
        assert_eq!(answer(&connect("MQTT", 4), &limits), [0x20, 2, 0, 2]);
    }
}
