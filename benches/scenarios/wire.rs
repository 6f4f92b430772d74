//! The client's half of MQTT 3.1.1: PUBLISH and PUBACK by hand, for they are the load; everything else by mqttbytes.

use std::io;

use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{self, ConnectReturnCode, SubscribeFilter, SubscribeReasonCode};

/// Whom a message belongs to, its number and its time: what the payload begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub topic: u32,
    /// The number of this message among those of its topic.
    pub sequence: u32,
    /// Nanoseconds since the run began.
    pub sent_at: u64,
}

/// The smallest payload: a stamp and nothing else.
pub const STAMP: usize = 16;

/// What the rest of every payload consists of.
const FILLER: u8 = b'x';

/// A packet from the broker.
#[derive(Debug)]
pub enum Packet<'a> {
    Publish(Publish<'a>),
    PubAck,
    /// Anything else, whole.
    Control(&'a [u8]),
}

/// A message as it has come.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    pub topic: &'a [u8],
    /// 0 for QoS 0.
    pub packet_id: u16,
    pub payload: &'a [u8],
}

impl Publish<'_> {
    /// What its payload begins with; `None` if it is too short or its rest is not what was sent.
    pub fn stamp(&self) -> Option<Stamp> {
        let (stamp, rest) = self.payload.split_first_chunk::<STAMP>()?;
        let number = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| stamp[at + i]));
        let sent_at = u64::from(number(8)) << 32 | u64::from(number(12));
        const WHOLE: [u8; 4096] = [FILLER; 4096];
        let intact = rest.chunks(WHOLE.len()).all(|part| *part == WHOLE[..part.len()]);
        intact.then(|| Stamp { topic: number(0), sequence: number(4), sent_at })
    }
}

/// Calls `each` for every whole packet; how many bytes they were.
///
/// # Errors
/// If it is not MQTT.
pub fn packets(bytes: &[u8], mut each: impl FnMut(Packet<'_>) -> io::Result<()>) -> io::Result<usize> {
    let mut at = 0;
    while let Some((header, end)) = frame(&bytes[at..])? {
        let (header, end) = (at + header, at + end);
        let packet = match bytes[at] >> 4 {
            3 => publish(bytes[at], &bytes[header..end])?,
            4 => Packet::PubAck,
            _ => Packet::Control(&bytes[at..end]),
        };
        each(packet)?;
        at = end;
    }
    Ok(at)
}

/// Where the fixed header and the packet end; `None` if it is not whole.
///
/// # Errors
/// If its length is none.
pub fn frame(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    Ok(header(bytes)?.filter(|(_, end)| bytes.len() >= *end))
}

/// Where the fixed header and the packet will end; `None` if the fixed header is not whole.
fn header(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let (mut length, mut shift) = (0, 0);
    for at in 1..=4 {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Ok(Some((at + 1, at + 1 + length)));
        }
        shift += 7;
    }
    Err(bad("a packet without a length"))
}

/// How long the packet is that begins here, whole or not.
///
/// # Errors
/// If it does not tell.
pub fn length(bytes: &[u8]) -> io::Result<usize> {
    header(bytes)?.map(|(_, end)| end).ok_or_else(|| bad("a packet that does not tell its length"))
}

fn publish(first: u8, body: &[u8]) -> io::Result<Packet<'_>> {
    let take = |at: usize| body.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let mut at = 2 + usize::from(take(0).ok_or_else(|| bad("a PUBLISH without a topic"))?);
    let topic = body.get(2..at).ok_or_else(|| bad("a PUBLISH with half a topic"))?;
    let mut packet_id = 0;
    if first & 6 != 0 {
        packet_id = take(at).ok_or_else(|| bad("a PUBLISH without a packet identifier"))?;
        at += 2;
    }
    Ok(Packet::Publish(Publish { topic, packet_id, payload: &body[at..] }))
}

/// What all messages of one topic begin with: the fixed header and the topic.
pub fn publish_head(topic: &str, qos: u8, payload: usize) -> Vec<u8> {
    let mut remaining = 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload;
    let mut head = vec![0x30 | qos << 1];
    loop {
        let more = if remaining > 127 { 128 } else { 0 };
        head.push((remaining & 127) as u8 | more);
        remaining >>= 7;
        if remaining == 0 {
            break;
        }
    }
    head.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    head.extend_from_slice(topic.as_bytes());
    head
}

/// Appends a message of `payload` bytes, at least [`STAMP`]; without a packet identifier for QoS 0.
pub fn put_publish(head: &[u8], packet_id: Option<u16>, stamp: Stamp, payload: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(head);
    if let Some(id) = packet_id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(&stamp.topic.to_be_bytes());
    out.extend_from_slice(&stamp.sequence.to_be_bytes());
    out.extend_from_slice(&stamp.sent_at.to_be_bytes());
    out.resize(out.len() + payload - STAMP, FILLER);
}

pub fn put_puback(packet_id: u16, out: &mut Vec<u8>) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[0x40, 2, high, low]);
}

/// CONNECT with a keep alive that is longer than a run.
pub fn connect(client_id: &str, clean_session: bool) -> io::Result<Vec<u8>> {
    let mut packet = v4::Connect::new(client_id);
    packet.keep_alive = 3600;
    packet.clean_session = clean_session;
    written(|out| packet.write(out))
}

pub fn subscribe(filters: &[String], qos: u8) -> io::Result<Vec<u8>> {
    let qos = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), qos));
    let mut packet = v4::Subscribe::new_many(filters);
    packet.pkid = 1;
    written(|out| packet.write(out))
}

/// Whether a control packet says that all went well.
///
/// # Errors
/// If it does not, or is none that is waited for.
pub fn accepted(packet: &[u8]) -> io::Result<()> {
    let mut bytes = BytesMut::from(packet);
    match v4::read(&mut bytes, usize::MAX).map_err(|error| bad(&error.to_string()))? {
        v4::Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(()),
        v4::Packet::SubAck(ack) if !ack.return_codes.contains(&SubscribeReasonCode::Failure) => Ok(()),
        other => Err(bad(&format!("the broker answered {other:?}"))),
    }
}

fn written(write: impl FnOnce(&mut BytesMut) -> Result<usize, mqttbytes::Error>) -> io::Result<Vec<u8>> {
    let mut out = BytesMut::new();
    write(&mut out).map_err(|error| bad(&error.to_string()))?;
    Ok(out.to_vec())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
