//! What sockets alone cost: a process that answers CONNECT and SUBSCRIBE, and then carries bytes from a publisher's
//! socket to its subscribers' without looking at them: one write for all that one read brought, or one for each message.
//! No broker on the same sockets can do with less, so it is the limit beside which brokers are to be seen.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::wire;

const LISTENER: Token = Token(usize::MAX);
const READ: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// An unfinished packet.
    partial: Vec<u8>,
    /// What the socket did not take.
    out: Vec<u8>,
    /// Who gets what it publishes, once its first PUBLISH has told its topic.
    targets: Option<Vec<usize>>,
}

struct Floor {
    each: bool,
    connections: Vec<Option<Connection>>,
    subscribers: HashMap<Vec<u8>, Vec<usize>>,
}

/// Serves until it is killed.
///
/// # Errors
/// If it cannot listen.
pub fn serve(port: u16, each: bool) -> io::Result<()> {
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor { each, connections: Vec::new(), subscribers: HashMap::new() };
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; READ];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let token = Token(floor.connections.len());
                    poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                    let (partial, out) = (Vec::new(), Vec::new());
                    floor.connections.push(Some(Connection { stream, partial, out, targets: None }));
                }
                continue;
            }
            let index = event.token().0;
            if event.is_writable()
                && let Some(connection) = &mut floor.connections[index]
            {
                connection.send_rest();
            }
            if event.is_readable() && floor.read(index, &mut scratch).is_err() {
                floor.connections[index] = None;
            }
        }
    }
}

impl Floor {
    fn read(&mut self, index: usize, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            let Some(connection) = &mut self.connections[index] else { return Ok(()) };
            let front = connection.partial.len();
            scratch[..front].copy_from_slice(&connection.partial);
            let len = match connection.stream.read(&mut scratch[front..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let bytes = &scratch[..front + len];
            let consumed = self.take(index, bytes)?;
            if let Some(connection) = &mut self.connections[index] {
                connection.partial = bytes[consumed..].to_vec();
            }
            if front + len < scratch.len() {
                return Ok(());
            }
        }
    }

    /// Does with a read's bytes what is to be done; how many it was done with.
    fn take(&mut self, index: usize, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() {
            let known =
                self.connections[index].as_ref().is_some_and(|connection| connection.targets.is_some());
            if known && !self.each {
                self.carry(index, &bytes[at..]);
                return Ok(bytes.len());
            }
            let Some((header, end)) = wire::frame(&bytes[at..])? else { break };
            let body = &bytes[at + header..at + end];
            match bytes[at] >> 4 {
                3 if known => self.carry(index, &bytes[at..at + end]),
                3 => {
                    let targets = self.subscribers.get(text(body)).cloned().unwrap_or_default();
                    if let Some(connection) = &mut self.connections[index] {
                        connection.targets = Some(targets);
                    }
                    // It goes round again, and is carried then.
                    continue;
                }
                1 => self.say(index, &[0x20, 2, 0, 0]),
                8 => {
                    self.subscribers.entry(text(&body[2..]).to_vec()).or_default().push(index);
                    self.say(index, &[0x90, 3, body[0], body[1], 0]);
                }
                _ => {}
            }
            at += end;
        }
        Ok(at)
    }

    fn carry(&mut self, from: usize, bytes: &[u8]) {
        let Some(connection) = &mut self.connections[from] else { return };
        let Some(targets) = connection.targets.take() else { return };
        for target in &targets {
            self.say(*target, bytes);
        }
        if let Some(connection) = &mut self.connections[from] {
            connection.targets = Some(targets);
        }
    }

    fn say(&mut self, to: usize, bytes: &[u8]) {
        let Some(connection) = &mut self.connections[to] else { return };
        if !connection.out.is_empty() {
            return connection.out.extend_from_slice(bytes);
        }
        let written = connection.stream.write(bytes).unwrap_or(0);
        connection.out.extend_from_slice(&bytes[written..]);
    }
}

impl Connection {
    fn send_rest(&mut self) {
        while !self.out.is_empty()
            && let Ok(written) = self.stream.write(&self.out)
        {
            self.out.drain(..written);
        }
    }
}

/// A string with its length in front: a topic, or the first filter.
fn text(body: &[u8]) -> &[u8] {
    let len = body.first_chunk().map_or(0, |len| usize::from(u16::from_be_bytes(*len)));
    body.get(2..2 + len).unwrap_or_default()
}
