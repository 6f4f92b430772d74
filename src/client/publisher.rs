//! `weirmq pub`: sends messages through a window of unacknowledged ones and waits for every answer.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use tokio::sync::mpsc;

use super::arguments::{PayloadArgs, PubArgs};
use super::failure::{Exit, Failure};
use super::link::Link;
use super::options::{ConnectionOptions, short_enough, well_formed};
use super::wire::{Incoming, Refusal};
use crate::protocol::codec::MAX_PACKET_SIZE;
use crate::protocol::packet::{Ack, Packet, PacketId, PacketType, Publish, QoS, Version};
use crate::protocol::properties::Properties;
use crate::protocol::reason::ReasonCode;

/// Messages under way at once: enough to hide the round trip and to let a broker make many durable at a time.
const WINDOW: u16 = 100;
/// The same before 5.0, where a server cannot say how many it takes: mosquitto closes the connection past 20.
const BLIND_WINDOW: u16 = 20;
/// Bytes that may wait to be written before the next message is fetched.
const UNSENT: usize = 256 * 1024;
/// More than the fixed header, the lengths of topic and properties and the packet identifier take, in bytes.
const HEADERS: usize = 16;
/// Lines that are read ahead.
const LINES_AHEAD: usize = 64;

/// Publishes what `args` say.
///
/// # Errors
/// See the exit codes.
pub(super) async fn publish(args: PubArgs) -> Result<(), Failure> {
    let options = ConnectionOptions::new(&args.connection, "pub")?;
    if !options.properties.subscribe.is_empty() {
        return Err(Failure::usage("-D SUBSCRIBE is for weirmq sub"));
    }
    short_enough("-t", &args.topic)?;
    let mut source = Source::open(&args.payload)?;
    let mut publisher = Publisher {
        topic: args.topic,
        qos: args.qos,
        retain: args.retain,
        window: args.max_inflight.unwrap_or(if options.version == Version::V5 {
            WINDOW
        } else {
            BLIND_WINDOW
        }),
        options,
        sent: 0,
        in_flight: HashMap::new(),
        last_id: 0,
        refusal: None,
    };
    publisher.check(&source)?;
    let mut link = Link::open(&publisher.options, false).await?;
    if let Err(failure) = publisher.run(&mut link, &mut source).await {
        if failure.exit != Exit::Lost {
            // The broker is well, and is not to take this for an accident: that would publish the Will.
            let _ = link.close(&publisher.options).await;
        }
        return Err(failure);
    }
    let closed = link.close(&publisher.options).await;
    match publisher.refusal {
        Some(refusal) => Err(refusal),
        // Everything is acknowledged: how the connection ends does not matter any more.
        None if publisher.qos > QoS::AtMostOnce => Ok(()),
        None => closed,
    }
}

struct Publisher {
    topic: String,
    qos: QoS,
    retain: bool,
    /// How many messages may be under way at once; the server may take fewer.
    window: u16,
    options: ConnectionOptions,
    /// How many messages were sent; the number of the last.
    sent: u64,
    in_flight: HashMap<PacketId, InFlight>,
    last_id: u16,
    /// The first refusal.
    refusal: Option<Failure>,
}

/// A message whose answer is awaited.
struct InFlight {
    /// The message's number, from 1.
    number: u64,
    /// PUBACK, PUBREC or PUBCOMP.
    awaited: PacketType,
}

impl Publisher {
    /// Judges the message, its payload apart unless it is there already.
    fn check(&self, source: &Source) -> Result<(), Failure> {
        let payload = match source {
            Source::One(Some(payload)) => payload,
            _ => &Vec::new(),
        };
        self.fits(payload)?;
        let packet_id = (self.qos > QoS::AtMostOnce).then_some(PacketId::MIN);
        well_formed(self.options.version, &Packet::Publish(self.packet(payload, packet_id)))
    }

    /// Whether the wire can carry the message at all; the broker may take less.
    fn fits(&self, payload: &[u8]) -> Result<(), Failure> {
        let properties = self.options.properties.publish.as_properties();
        if self.topic.len() + properties.raw().len() + payload.len() + HEADERS > MAX_PACKET_SIZE as usize {
            return Err(Failure::local("the message is too large for MQTT"));
        }
        Ok(())
    }

    fn packet<'a>(&'a self, payload: &'a [u8], packet_id: Option<PacketId>) -> Publish<'a> {
        Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id,
            properties: self.options.properties.publish.as_properties(),
            payload,
        }
    }

    /// Sends all there is and waits for the answers. The first refusal ends the sending, not the waiting.
    async fn run(&mut self, link: &mut Link, source: &mut Source) -> Result<(), Failure> {
        let window = usize::from(self.window.min(link.accepted.receive_maximum)); // [MQTT-3.3.4-7]
        if link.accepted.session_present {
            // An earlier process may have left identifiers behind, and a new message under one of them would
            // pass for the old one: a random place to begin is most likely free.
            self.last_id = fastrand::u16(..);
        }
        let mut more = true;
        while more || !self.in_flight.is_empty() || link.unsent() > 0 {
            let room = self.in_flight.len() < window && link.unsent() < UNSENT;
            tokio::select! {
                packet = link.turn(true) => {
                    if let Some(packet) = packet.map_err(|failure| self.unfinished(failure))? {
                        more &= self.answered(link, packet)?;
                    }
                }
                payload = source.next(), if more && room => match payload? {
                    Some(payload) => self.send(link, &payload)?,
                    None => more = false,
                },
            }
        }
        Ok(())
    }

    fn send(&mut self, link: &mut Link, payload: &[u8]) -> Result<(), Failure> {
        self.fits(payload)?;
        let packet_id = (self.qos > QoS::AtMostOnce).then(|| self.next_id());
        link.send(&Packet::Publish(self.packet(payload, packet_id)))?;
        self.sent += 1;
        if let Some(packet_id) = packet_id {
            let awaited = if self.qos == QoS::AtLeastOnce { PacketType::PubAck } else { PacketType::PubRec };
            self.in_flight.insert(packet_id, InFlight { number: self.sent, awaited });
        }
        Ok(())
    }

    /// The next Packet Identifier that is not in use; the window leaves most of them free.
    fn next_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            match PacketId::new(self.last_id) {
                Some(id) if !self.in_flight.contains_key(&id) => return id,
                _ => {}
            }
        }
    }

    /// Takes an answer; `false` if it refuses, so that no more is sent.
    fn answered(&mut self, link: &mut Link, packet: Incoming) -> Result<bool, Failure> {
        let (packet_type, packet_id, outcome) = match packet {
            // A session that -c continues may have subscriptions. What it receives is left to it, unanswered.
            Incoming::Publish(_) | Incoming::Ack(PacketType::PubRel, ..) => return Ok(true),
            Incoming::Ack(packet_type, packet_id, outcome) => (packet_type, packet_id, outcome),
            _ => return Err(self.unfinished(Failure::lost("the broker sent what nobody asked for"))),
        };
        let message = match self.in_flight.get_mut(&packet_id) {
            Some(message) if message.awaited == packet_type => message,
            _ => return Err(self.unfinished(Failure::lost("the broker answered what was not sent"))),
        };
        match (outcome, packet_type) {
            (Ok(()), PacketType::PubRec) => {
                message.awaited = PacketType::PubComp;
                let reason = ReasonCode::Success;
                link.send(&Packet::PubRel(Ack { packet_id, reason, properties: Properties::EMPTY }))?;
                Ok(true)
            }
            (outcome, _) => {
                let number = message.number;
                self.in_flight.remove(&packet_id);
                Ok(outcome.map_err(|refusal| self.refused(number, &refusal)).is_ok())
            }
        }
    }

    fn refused(&mut self, number: u64, refusal: &Refusal) {
        let failure = Failure::refused(format_args!("PUBLISH of message {number}"), refusal);
        self.refusal.get_or_insert(failure);
    }

    /// What a lost connection leaves undone.
    fn unfinished(&self, failure: Failure) -> Failure {
        match self.in_flight.len() {
            0 => failure,
            waiting => failure.with(format_args!("{waiting} of {} messages not acknowledged", self.sent)),
        }
    }
}

/// Where the payloads come from.
enum Source {
    /// One payload, until it is taken.
    One(Option<Vec<u8>>),
    /// Lines that a thread reads.
    Lines(mpsc::Receiver<io::Result<Vec<u8>>>),
}

impl Source {
    fn open(args: &PayloadArgs) -> Result<Source, Failure> {
        let payload = if let Some(text) = &args.message {
            text.clone().into_bytes()
        } else if let Some(file) = &args.file {
            std::fs::read(file)
                .map_err(|error| Failure::local(format_args!("{}: {error}", file.display())))?
        } else if args.stdin_file {
            let mut payload = Vec::new();
            io::stdin().lock().read_to_end(&mut payload).map_err(stdin_failed)?;
            payload
        } else if args.stdin_line {
            return Ok(Source::Lines(read_lines()));
        } else {
            Vec::new()
        };
        Ok(Source::One(Some(payload)))
    }

    /// The next payload; `None` at the end. It may be dropped half-way without harm.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Source::One(payload) => Ok(payload.take()),
            Source::Lines(lines) => lines.recv().await.transpose().map_err(stdin_failed),
        }
    }
}

fn stdin_failed(error: io::Error) -> Failure {
    Failure::local(format_args!("standard input: {error}"))
}

/// Lines of standard input without their ends. A thread of its own reads them, since a read of a terminal or
/// a pipe can be waited for, but not given up.
fn read_lines() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n') {
            let failed = line.is_err();
            if sender.blocking_send(line).is_err() || failed {
                break;
            }
        }
    });
    receiver
}
