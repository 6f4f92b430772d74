//! A small blocking MQTT 5 client for the examples, on the project's own codec.
#![allow(dead_code, reason = "not every example uses all of it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use weirmq::protocol::codec;
use weirmq::protocol::packet::{
    Ack, Connect, Packet, PacketId, Publish, QoS, RetainHandling, Subscribe, SubscribeFilters,
    SubscribeOptions, Version,
};
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

/// A connection.
pub struct Client {
    socket: TcpStream,
    /// Received and not yet looked at.
    buffer: Vec<u8>,
    /// Of the buffer, what `next` has already given.
    used: usize,
    out: Vec<u8>,
}

impl Client {
    /// Connects with a new session, which is kept for an hour without its connection or ends with it.
    /// What waits for a session that is kept is bounded by the queue rules, else by a small buffer.
    pub fn connect(address: SocketAddr, client_id: &str, keeps: bool) -> io::Result<Client> {
        Client::open(address, client_id, true, if keeps { 3600 } else { 0 }).map(|(client, _)| client)
    }

    /// Connects to the session that an earlier connection left, or to a new one that is kept; whether there was one.
    pub fn resume(address: SocketAddr, client_id: &str) -> io::Result<(Client, bool)> {
        Client::open(address, client_id, false, 3600)
    }

    fn open(
        address: SocketAddr,
        client_id: &str,
        clean_start: bool,
        expiry: u32,
    ) -> io::Result<(Client, bool)> {
        let mut properties = PropertiesBuf::new();
        properties.push(Property::SessionExpiryInterval(expiry));
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let mut client = Client { socket, buffer: Vec::new(), used: 0, out: Vec::new() };
        client.put(&Packet::Connect(Connect {
            version: Version::V5,
            clean_start,
            keep_alive: 60,
            properties: properties.as_properties(),
            client_id,
            will: None,
            username: None,
            password: None,
        }));
        client.flush()?;
        match client.next()? {
            Packet::ConnAck(answer) if answer.reason == ReasonCode::Success => {
                let present = answer.session_present;
                Ok((client, present))
            }
            other => Err(io::Error::other(format!("refused: {other:?}"))),
        }
    }

    /// Subscribes at QoS 1 and waits for the answer.
    pub fn subscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut raw = Vec::new();
        let options = SubscribeOptions {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let filters = SubscribeFilters::encode([(filter, options)], &mut raw);
        let subscribe = Subscribe { packet_id: PacketId::MIN, properties: Properties::EMPTY, filters };
        self.put(&Packet::Subscribe(subscribe));
        self.flush()?;
        match self.next()? {
            Packet::SubAck(answer) if answer.reasons == [QoS::AtLeastOnce as u8] => Ok(()),
            other => Err(io::Error::other(format!("not subscribed: {other:?}"))),
        }
    }

    /// Adds a QoS 1 PUBLISH to what the next flush sends.
    pub fn publish(&mut self, topic: &str, packet_id: PacketId, payload: &[u8]) {
        self.put(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(packet_id),
            properties: Properties::EMPTY,
            payload,
        }));
    }

    /// Acknowledges a QoS 1 PUBLISH.
    pub fn acknowledge(&mut self, packet_id: PacketId) -> io::Result<()> {
        self.put(&Packet::PubAck(Ack {
            packet_id,
            reason: ReasonCode::Success,
            properties: Properties::EMPTY,
        }));
        self.flush()
    }

    /// Adds any packet to what the next flush sends.
    pub fn put(&mut self, packet: &Packet<'_>) {
        codec::encode(Version::V5, packet, &mut self.out);
    }

    /// Sends what has been put.
    pub fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// A handle that can end the connection from another thread.
    pub fn handle(&self) -> io::Result<TcpStream> {
        self.socket.try_clone()
    }

    /// The next packet; an error when the connection ends.
    pub fn next(&mut self) -> io::Result<Packet<'_>> {
        let len = loop {
            let rest = &self.buffer[self.used..];
            let framed =
                codec::frame(Some(Version::V5), rest, codec::MAX_PACKET_SIZE).map_err(io::Error::other)?;
            if let Some(len) = framed.filter(|len| *len <= rest.len()) {
                break len;
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            let mut chunk = [0; 16 * 1024];
            match self.socket.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.buffer.extend_from_slice(&chunk[..n]),
            }
        };
        let frame = &self.buffer[self.used..self.used + len];
        self.used += len;
        codec::decode(Version::V5, frame).map_err(io::Error::other)
    }
}
