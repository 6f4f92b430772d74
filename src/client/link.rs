//! One connection to a broker: opened up to CONNACK, kept alive, and closed so that nothing sent is lost.

use std::future;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::failure::Failure;
use super::options::{ConnectionOptions, name};
use super::transport::{self, Stream, unreachable};
use super::wire::{self, Accepted, Incoming, Wire};
use crate::protocol::packet::Packet;

/// From the first SYN to CONNACK. Long enough for a broker that hashes many passwords at once.
const OPENING: Duration = Duration::from_secs(30);
/// How long a broker may take to close its side after DISCONNECT.
const CLOSING: Duration = Duration::from_secs(2);

/// Room for one read, in bytes.
const READ_AHEAD: usize = 16 * 1024;

/// A connection that CONNACK has confirmed.
pub(super) struct Link {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    wire: Box<dyn Wire>,
    input: BytesMut,
    output: BytesMut,
    /// Bytes were written that TLS or a WebSocket may still hold.
    unflushed: bool,
    keep_alive: Option<Duration>,
    last_sent: Instant,
    /// When the PINGREQ was sent that waits for its PINGRESP.
    pinged: Option<Instant>,
    /// What CONNACK said.
    pub(super) accepted: Accepted,
}

impl Link {
    /// Connects, sends CONNECT and waits for CONNACK. `again`: see [`ConnectionOptions::connect`].
    ///
    /// # Errors
    /// No connection, or CONNECT refused.
    pub(super) async fn open(options: &ConnectionOptions, again: bool) -> Result<Link, Failure> {
        let slow =
            |_| unreachable(&options.address, format_args!("no CONNACK within {} s", OPENING.as_secs()));
        timeout(OPENING, Link::open_unhurried(options, again)).await.map_err(slow)?
    }

    async fn open_unhurried(options: &ConnectionOptions, again: bool) -> Result<Link, Failure> {
        let stream = transport::connect(&options.address, &options.tls).await?;
        let (reader, writer) = tokio::io::split(stream);
        let mut link = Link {
            reader,
            writer,
            wire: wire::for_version(options.version),
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            keep_alive: None,
            last_sent: Instant::now(),
            pinged: None,
            accepted: Accepted::default(),
        };
        link.send(&Packet::Connect(options.connect(again)))?;
        let accepted = loop {
            // Whatever goes wrong before CONNACK means that there was no connection yet.
            let packet = link.turn(true).await.map_err(|failure| unreachable(&options.address, failure))?;
            match packet {
                Some(Incoming::ConnAck(outcome)) => {
                    break outcome.map_err(|refusal| Failure::connect_refused(&refusal))?;
                }
                Some(_) => return Err(unreachable(&options.address, "the first packet is not a CONNACK")),
                None => {}
            }
        };
        let seconds = accepted.server_keep_alive.unwrap_or(options.keep_alive); // [MQTT-3.1.2-21]
        link.keep_alive = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        link.accepted = accepted;
        Ok(link)
    }

    /// Encodes `packet` to be written by the next [`Link::turn`].
    ///
    /// # Errors
    /// If the server takes no such packet.
    pub(super) fn send(&mut self, packet: &Packet<'_>) -> Result<(), Failure> {
        if let Packet::Publish(publish) = packet {
            self.accepted.takes(publish).map_err(Failure::local)?;
        }
        let before = self.output.len();
        let name = name(packet);
        self.wire
            .encode(packet, &mut self.output)
            .map_err(|error| Failure::local(format_args!("{name}: {}", error.detail)))?;
        let (size, maximum) = (self.output.len() - before, self.accepted.maximum_packet_size);
        if size > maximum as usize {
            self.output.truncate(before);
            return Err(Failure::local(format_args!(
                "the {name} of {size} bytes is too large: the broker takes {maximum}" // [MQTT-3.2.2-15]
            )));
        }
        Ok(())
    }

    /// How many bytes wait to be written.
    pub(super) fn unsent(&self) -> usize {
        self.output.len()
    }

    /// Writes, reads if `reading`, and keeps the connection alive, until there is a packet, or `None` when
    /// bytes went out or were flushed. It may be dropped half-way without harm.
    ///
    /// # Errors
    /// The connection is lost, or the server has ended it.
    pub(super) async fn turn(&mut self, reading: bool) -> Result<Option<Incoming>, Failure> {
        loop {
            if reading && let Some(packet) = self.next_packet()? {
                return Ok(Some(packet));
            }
            let ping_at = self.next_ping(reading);
            self.input.reserve(READ_AHEAD);
            tokio::select! {
                read = self.reader.read_buf(&mut self.input), if reading => match read {
                    Ok(0) => return Err(Failure::lost("closed by the broker")),
                    Ok(_) => {}
                    Err(error) => return Err(Failure::lost(error)),
                },
                wrote = write(&mut self.writer, &mut self.output), if self.unsent() > 0 || self.unflushed => {
                    self.unflushed = wrote.map_err(Failure::lost)?;
                    self.last_sent = Instant::now();
                    return Ok(None);
                }
                () = at(ping_at) => self.ping(reading)?,
            }
        }
    }

    fn next_packet(&mut self) -> Result<Option<Incoming>, Failure> {
        loop {
            match self.wire.decode(&mut self.input).map_err(|error| Failure::broken(&error))? {
                Some(Incoming::PingResp) => self.pinged = None,
                Some(Incoming::Disconnect(why)) => return Err(Failure::disconnected(&why)),
                packet => return Ok(packet),
            }
        }
    }

    /// When the next PINGREQ, or its answer, is due. An answer that is not read for is not missed.
    fn next_ping(&self, reading: bool) -> Option<Instant> {
        let keep_alive = self.keep_alive?;
        Some(match self.pinged {
            Some(pinged) if reading => pinged + keep_alive,
            // Early enough to arrive in time [MQTT-3.1.2-20].
            _ => self.last_sent + keep_alive * 3 / 4,
        })
    }

    fn ping(&mut self, reading: bool) -> Result<(), Failure> {
        if reading && self.pinged.is_some() {
            return Err(Failure::lost("no answer to PINGREQ"));
        }
        self.last_sent = Instant::now();
        self.pinged = Some(self.last_sent);
        self.send(&Packet::PingReq)
    }

    /// Sends DISCONNECT behind all that waits, and has the broker read it: closing at once with unread
    /// packets in our own buffers would reset the connection under it.
    ///
    /// # Errors
    /// The connection was lost, or the broker objects to what it has read, before it closed.
    pub(super) async fn close(mut self, options: &ConnectionOptions) -> Result<(), Failure> {
        self.send(&options.disconnect())?;
        self.keep_alive = None;
        while self.unsent() > 0 || self.unflushed {
            // Acknowledgements that come now have nobody to wait for them.
            drop(self.turn(true).await?);
        }
        // A broker may close first; what it had to read, it has.
        let _ = self.writer.shutdown().await;
        match timeout(CLOSING, self.drain()).await {
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    async fn drain(&mut self) -> Result<(), Failure> {
        loop {
            while self.next_packet()?.is_some() {}
            match self.reader.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
    }
}

/// Writes some of `output`, or flushes if it is empty. Whether there may be something to flush then.
async fn write(writer: &mut (impl AsyncWrite + Unpin), output: &mut BytesMut) -> io::Result<bool> {
    if output.is_empty() {
        writer.flush().await?;
        return Ok(false);
    }
    match writer.write_buf(output).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        _ => Ok(true),
    }
}

/// Sleeps until then; for ever if there is no then.
pub(super) async fn at(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => future::pending().await,
    }
}
