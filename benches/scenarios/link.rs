//! One client's socket: non-blocking, one read for all that has come, one write for all that is to be said, plain or
//! through TLS.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use mio::net::TcpStream;
use rustls::ClientConnection;
use socket2::{Domain, Socket, Type};

use super::wire::{self, Packet};

/// What one read takes at most.
const SCRATCH: usize = 256 * 1024;

/// A packet of which so much is there is read to its end in its own place.
const LARGE: usize = 64 * 1024;

/// Where all links read into, one after the other.
pub struct Scratch {
    raw: Box<[u8]>,
    plain: Vec<u8>,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch { raw: vec![0; SCRATCH].into(), plain: Vec::new() }
    }
}

/// A client's socket.
pub struct Link {
    pub stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// The packet whose rest has not come yet.
    partial: Vec<u8>,
    /// What is to be sent; [`Link::flush`] does.
    pub out: Vec<u8>,
    /// How much of that has been.
    sent: usize,
    /// The broker has closed its side: no further event will tell of what is left to read.
    pub ending: bool,
}

impl Link {
    /// Begins to connect from a source address, so that ports never run out.
    ///
    /// # Errors
    /// The socket's.
    pub fn connect(
        port: u16,
        source: Option<Ipv4Addr>,
        tls: Option<Box<ClientConnection>>,
    ) -> io::Result<Link> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::from(SocketAddrV4::new(source, 0)).into())?;
        }
        let address = SocketAddr::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let stream = TcpStream::from_std(socket.into());
        Ok(Link { stream, tls, partial: Vec::new(), out: Vec::new(), sent: 0, ending: false })
    }

    /// Reads all there is and calls `each` for every packet, with the buffer for answers.
    ///
    /// # Errors
    /// The socket's, that of `each`, and `UnexpectedEof` if the broker has closed the connection.
    pub fn read(
        &mut self,
        scratch: &mut Scratch,
        mut each: impl FnMut(Packet<'_>, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            if self.tls.is_none() && self.partial.len() >= LARGE {
                if !self.read_rest(&mut each)? {
                    return Ok(());
                }
                continue;
            }
            // Behind what is there of a packet, so that packets are seen in one piece.
            let front = if self.tls.is_none() { self.partial.len() } else { 0 };
            scratch.raw[..front].copy_from_slice(&self.partial[..front]);
            let len = match self.stream.read(&mut scratch.raw[front..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let full = front + len == scratch.raw.len();
            let bytes = match &mut self.tls {
                None => &scratch.raw[..front + len],
                Some(tls) => {
                    scratch.plain.clear();
                    scratch.plain.extend_from_slice(&self.partial);
                    decrypt(tls, &scratch.raw[..len], &mut scratch.plain)?;
                    &scratch.plain[..]
                }
            };
            let consumed = wire::packets(bytes, |packet| each(packet, &mut self.out))?;
            self.partial.clear();
            self.partial.extend_from_slice(&bytes[consumed..]);
            if !full && !self.ending {
                // The socket is empty, or an event will tell that it no longer is.
                return Ok(());
            }
        }
    }

    /// Reads on in a large packet where its beginning lies, rather than carry that along with every read; whether the
    /// packet is whole now.
    fn read_rest(
        &mut self,
        each: &mut impl FnMut(Packet<'_>, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<bool> {
        let whole = wire::length(&self.partial)?;
        let have = self.partial.len();
        self.partial.resize(whole.clamp(have, have + SCRATCH), 0);
        let read = self.stream.read(&mut self.partial[have..]);
        self.partial.truncate(have + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if self.partial.len() < whole => Ok(true),
            Ok(_) => {
                wire::packets(&self.partial, |packet| each(packet, &mut self.out))?;
                self.partial.clear();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes as much as the socket takes; an event tells when it takes more.
    ///
    /// # Errors
    /// The socket's.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while !self.out.is_empty() {
                match tls.writer().write(&self.out)? {
                    0 => break,
                    taken => drop(self.out.drain(..taken)),
                }
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(taken) => self.sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// How much is to be sent that the socket has not taken.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }
}

fn decrypt(tls: &mut ClientConnection, mut raw: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
    while !raw.is_empty() {
        tls.read_tls(&mut raw)?;
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        if state.plaintext_bytes_to_read() > 0 {
            let mut reader = tls.reader();
            while let Ok(chunk) = reader.fill_buf()
                && !chunk.is_empty()
            {
                plain.extend_from_slice(chunk);
                let len = chunk.len();
                reader.consume(len);
            }
        }
        if state.peer_has_closed() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
