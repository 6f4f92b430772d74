//! The broker's side of a conversation, in the test's hands.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use weirmq::protocol::codec;
use weirmq::protocol::packet::{
    Ack, ConnAck, Disconnect, Packet, PacketId, PacketType, Publish, QoS, SubAck, Version,
};
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

/// Long enough for a busy machine; only a test that fails waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A port that clients connect to.
pub struct Broker {
    pub port: u16,
    connections: Receiver<TcpStream>,
}

impl Broker {
    pub fn new() -> Broker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, connections) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if sender.send(stream.unwrap()).is_err() {
                    break;
                }
            }
        });
        Broker { port, connections }
    }

    /// The next connection, before its first packet.
    pub fn socket(&self) -> TcpStream {
        let stream = self.connections.recv_timeout(PATIENCE).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The next connection, with its CONNECT read and a plain CONNACK sent.
    pub fn accept(&self) -> Peer<TcpStream> {
        let mut peer = self.connect();
        peer.connack(false, &[]);
        peer
    }

    /// The next connection, with its CONNECT read and not answered.
    pub fn connect(&self) -> Peer<TcpStream> {
        Peer::new(self.socket())
    }

    /// The next connection, with CONNECT and SUBSCRIBE read and granted.
    pub fn subscribed(&self) -> Peer<TcpStream> {
        let mut peer = self.accept();
        peer.suback(&[0]);
        peer
    }

    /// Whether nobody has connected since.
    pub fn is_left_alone(&self) -> bool {
        self.connections.try_recv().is_err()
    }
}

/// One client's connection.
pub struct Peer<S> {
    pub stream: S,
    pub version: Version,
    connect: Vec<u8>,
    buffer: Vec<u8>,
    frame: Vec<u8>,
}

impl<S: Read + Write> Peer<S> {
    /// Reads CONNECT.
    pub fn new(stream: S) -> Peer<S> {
        let (buffer, frame, connect) = (Vec::new(), Vec::new(), Vec::new());
        let mut peer = Peer { stream, version: Version::V4, buffer, frame, connect };
        assert!(peer.fill(None), "a CONNECT");
        peer.version = codec::connect_version(&peer.frame).unwrap();
        peer.connect = peer.frame.clone();
        peer
    }

    /// The CONNECT that this connection began with.
    pub fn connect(&self) -> weirmq::protocol::packet::Connect<'_> {
        match codec::decode(self.version, &self.connect) {
            Ok(Packet::Connect(connect)) => connect,
            other => panic!("{other:?} is no CONNECT"),
        }
    }

    /// Takes the next packet's bytes into `frame`; `false` at the end of the connection.
    fn fill(&mut self, version: Option<Version>) -> bool {
        loop {
            match codec::frame(version, &self.buffer, u32::MAX).unwrap() {
                Some(size) if size <= self.buffer.len() => {
                    self.frame = self.buffer.drain(..size).collect();
                    return true;
                }
                _ => {}
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(size) => self.buffer.extend_from_slice(&bytes[..size]),
                Err(error) => panic!("no packet: {error}"),
            }
        }
    }

    /// The next packet.
    pub fn read(&mut self) -> Packet<'_> {
        assert!(self.fill(Some(self.version)), "the connection ended where a packet was due");
        codec::decode(self.version, &self.frame).unwrap()
    }

    /// The next packet, which has to be a PUBLISH.
    pub fn publish(&mut self) -> Publish<'_> {
        match self.read() {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?} is no PUBLISH"),
        }
    }

    /// The next packet, which has to be this acknowledgement.
    pub fn expect_ack(&mut self, packet_type: PacketType, packet_id: u16) {
        let packet = self.read();
        assert_eq!(packet.packet_type(), packet_type);
        match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                assert_eq!((ack.packet_id.get(), ack.reason), (packet_id, ReasonCode::Success));
            }
            other => panic!("{other:?} is no acknowledgement"),
        }
    }

    /// DISCONNECT, and then the end.
    pub fn expect_disconnect(&mut self) {
        assert_eq!(self.read().packet_type(), PacketType::Disconnect);
        assert!(!self.fill(Some(self.version)), "a packet after DISCONNECT");
    }

    pub fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(self.version, packet, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn connack(&mut self, session_present: bool, properties: &[Property<'_>]) {
        let properties = buf(properties);
        let properties = properties.as_properties();
        self.send(&Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::Success, properties }));
    }

    pub fn refuse(&mut self, reason: ReasonCode, text: &str) {
        let properties = buf(&[Property::ReasonString(text)]);
        let properties = properties.as_properties();
        self.send(&Packet::ConnAck(ConnAck { session_present: false, reason, properties }));
    }

    /// Reads SUBSCRIBE and answers it.
    pub fn suback(&mut self, reasons: &[u8]) {
        let packet_id = match self.read() {
            Packet::Subscribe(subscribe) => subscribe.packet_id,
            other => panic!("{other:?} is no SUBSCRIBE"),
        };
        self.send(&Packet::SubAck(SubAck { packet_id, properties: Properties::EMPTY, reasons }));
    }

    /// Sends an acknowledgement.
    pub fn ack(&mut self, packet_type: PacketType, packet_id: u16) {
        self.ack_with(packet_type, packet_id, ReasonCode::Success, None);
    }

    pub fn ack_with(&mut self, packet_type: PacketType, id: u16, reason: ReasonCode, text: Option<&str>) {
        let properties = buf(&text.map(Property::ReasonString).into_iter().collect::<Vec<_>>());
        let packet_id = PacketId::new(id).unwrap();
        let ack = Ack { packet_id, reason, properties: properties.as_properties() };
        self.send(&match packet_type {
            PacketType::PubAck => Packet::PubAck(ack),
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubRel => Packet::PubRel(ack),
            PacketType::PubComp => Packet::PubComp(ack),
            other => panic!("{other:?} is no acknowledgement"),
        });
    }

    /// Sends a message to the client.
    pub fn deliver(&mut self, topic: &str, payload: &str, qos: QoS, id: u16) {
        self.deliver_with(topic, payload, qos, id, &[]);
    }

    pub fn deliver_with(&mut self, topic: &str, payload: &str, qos: QoS, id: u16, with: &[Property<'_>]) {
        let properties = buf(with);
        let properties = properties.as_properties();
        self.send(&Packet::Publish(Publish { properties, ..message(topic, payload, qos, id) }));
    }

    pub fn disconnect(&mut self, reason: ReasonCode) {
        self.send(&Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY }));
    }
}

impl Peer<TcpStream> {
    /// Nothing more has come from the client so far.
    #[track_caller]
    pub fn expect_silence(&self) {
        self.stream.set_nonblocking(true).unwrap();
        let waiting = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        assert!(self.buffer.is_empty() && waiting.is_err(), "{waiting:?} {:?}", self.buffer);
    }
}

/// A message without properties; `id` counts above QoS 0.
pub fn message<'a>(topic: &'a str, payload: &'a str, qos: QoS, id: u16) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(id).filter(|_| qos > QoS::AtMostOnce),
        properties: Properties::EMPTY,
        payload: payload.as_bytes(),
    }
}

fn buf(properties: &[Property<'_>]) -> PropertiesBuf {
    let mut buf = PropertiesBuf::new();
    properties.iter().for_each(|&property| buf.push(property));
    buf
}
