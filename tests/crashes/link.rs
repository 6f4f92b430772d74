//! A client's connection without waiting: what has come, and as much written as the socket takes.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use weirmq::protocol::codec;
use weirmq::protocol::packet::Version;

pub struct Link {
    socket: TcpStream,
    version: Version,
    /// Received and not yet a whole packet.
    received: Vec<u8>,
    /// To be written.
    pub out: Vec<u8>,
}

impl Link {
    pub fn open(
        address: SocketAddr,
        version: Version,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Link> {
        // Loopback answers at once or not at all.
        let socket = std::net::TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Link { socket, version, received: Vec::new(), out: Vec::new() })
    }

    /// Takes what has come, and hands each whole packet's bytes to `take`; whether the connection still stands.
    pub fn read(&mut self, mut take: impl FnMut(&[u8], &mut Vec<u8>)) -> bool {
        let stands = loop {
            let mut bytes = [0; 16 * 1024];
            match self.socket.read(&mut bytes) {
                Ok(0) => break false,
                Ok(len) => self.received.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
        };
        let mut rest = &self.received[..];
        while let Some(len) = codec::frame(Some(self.version), rest, codec::MAX_PACKET_SIZE)
            .expect("the broker sends well-formed packets")
            .filter(|len| *len <= rest.len())
        {
            take(&rest[..len], &mut self.out);
            rest = &rest[len..];
        }
        let used = self.received.len() - rest.len();
        self.received.drain(..used);
        stands
    }

    /// Writes what there is to write; whether the connection still stands.
    pub fn write(&mut self) -> bool {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(0) => return false,
                Ok(len) => drop(self.out.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}
