//! Many clients over one event queue: brings them all up to their SUBACK, then hands out what their sockets say.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::link::{Link, Scratch};
use super::wire::{self, Packet};

/// How many connect at a time.
const CONNECTING: usize = 100;

/// So long may nothing at all happen while they do.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client as it should be.
#[derive(Clone, Default)]
pub struct Client {
    pub id: String,
    /// None for one that only publishes.
    pub filters: Vec<String>,
    /// For many connections: one of several addresses of this host.
    pub source: Option<Ipv4Addr>,
    /// Its session outlives its connection.
    pub persistent: bool,
}

impl Client {
    /// One that is nothing special.
    pub fn new(id: String, filters: Vec<String>) -> Client {
        Client { id, filters, ..Client::default() }
    }
}

/// Connected clients, by the number that they were given with.
pub struct Clients {
    poll: Poll,
    events: Events,
    pub links: Vec<Link>,
    scratch: Scratch,
    /// From the first connection's beginning to the last SUBACK.
    pub took: Duration,
}

/// What happened to the client with this number.
pub struct Event {
    pub client: usize,
    pub readable: bool,
}

impl Clients {
    /// Connects them and subscribes.
    ///
    /// # Errors
    /// If one is refused, or if nothing happens for a long time.
    pub fn connect(
        port: u16,
        clients: &[Client],
        qos: u8,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Clients> {
        let mut all = Clients::none()?;
        all.links.reserve(clients.len());
        let start = Instant::now();
        // For each: how many answers it still waits for.
        let mut waiting: Vec<u8> = Vec::with_capacity(clients.len());
        let mut ready = 0;
        while ready < clients.len() {
            while all.links.len() < clients.len() && all.links.len() - ready < CONNECTING {
                let client = &clients[all.links.len()];
                all.open(port, client, tls)?;
                waiting.push(if client.filters.is_empty() { 1 } else { 2 });
            }
            let happened = all.poll(Some(PATIENCE))?;
            if happened.is_empty() {
                let text = format!("{ready} of {} clients are connected, and nothing happens", clients.len());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            for Event { client, readable } in happened {
                let spec = &clients[client];
                if readable && all.answer(client, spec, qos, &mut waiting[client])? {
                    ready += 1;
                }
                all.links[client].flush()?;
            }
        }
        all.took = start.elapsed();
        Ok(all)
    }

    /// Nobody yet.
    ///
    /// # Errors
    /// If there can be no event queue.
    pub fn none() -> io::Result<Clients> {
        Ok(Clients {
            poll: Poll::new()?,
            events: Events::with_capacity(4096),
            links: Vec::new(),
            scratch: Scratch::new(),
            took: Duration::ZERO,
        })
    }

    /// Begins to connect one client, whose CONNACK is for the caller to read with all that follows it.
    ///
    /// # Errors
    /// The socket's.
    pub fn open(&mut self, port: u16, client: &Client, tls: Option<&Arc<ClientConfig>>) -> io::Result<()> {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let tls = tls.map(|config| ClientConnection::new(config.clone(), name)).transpose();
        let tls = tls.map_err(io::Error::other)?.map(|mut tls| {
            tls.set_buffer_limit(None);
            Box::new(tls)
        });
        let mut link = Link::connect(port, client.source, tls)?;
        link.out = wire::connect(&client.id, !client.persistent)?;
        let token = Token(self.links.len());
        self.poll.registry().register(&mut link.stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.links.push(link);
        Ok(())
    }

    /// Takes CONNACK and SUBACK; whether that was the last one.
    fn answer(&mut self, client: usize, spec: &Client, qos: u8, waiting: &mut u8) -> io::Result<bool> {
        let before = *waiting;
        self.read(client, |packet, out| {
            if let Packet::Control(bytes) = packet {
                wire::accepted(bytes)?;
                *waiting -= 1;
                if *waiting == 1 {
                    out.extend(wire::subscribe(&spec.filters, qos)?);
                }
            }
            Ok(())
        })?;
        Ok(before > 0 && *waiting == 0)
    }

    /// Registers one more source of events, and reports it as this client.
    ///
    /// # Errors
    /// The event queue's.
    pub fn register(&self, source: &mut impl mio::event::Source, client: usize) -> io::Result<()> {
        self.poll.registry().register(source, Token(client), Interest::READABLE)
    }

    /// Waits for events.
    ///
    /// # Errors
    /// The event queue's.
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<Vec<Event>> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Vec::new()),
            result => result?,
        }
        for event in &self.events {
            if event.is_read_closed()
                && let Some(link) = self.links.get_mut(event.token().0)
            {
                link.ending = true;
            }
        }
        let event = |event: &mio::event::Event| Event {
            client: event.token().0,
            readable: event.is_readable() || event.is_error() || event.is_read_closed(),
        };
        Ok(self.events.iter().map(event).collect())
    }

    /// Reads what a client's socket has.
    ///
    /// # Errors
    /// The socket's, and that of `each`, with the client's number.
    pub fn read(
        &mut self,
        client: usize,
        each: impl FnMut(Packet<'_>, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let read = self.links[client].read(&mut self.scratch, each);
        read.map_err(|error| io::Error::new(error.kind(), format!("client {client}: {error}")))
    }
}
