//! What it costs to hand out so many retained messages to somebody who subscribes to them all, over and over, and what
//! one of them takes of memory.

use std::io;
use std::time::{Duration, Instant};

use crate::client::{Client, Clients, Event};
use crate::figures::{Column, Metrics, Outcome, count, digits, whole};
use crate::peers::{Broker, Peer};
use crate::process::{Cpu, Memory};
use crate::scenario::Setup;
use crate::wire::{self, Packet, Publish, Stamp};

pub const COLUMNS: &[Column] = &[
    ("CPU µs per message", "cpu_microseconds_per_message", digits),
    ("messages/s", "messages_per_second", count),
    ("ms per subscription", "subscription_ms", digits),
    ("bytes per message", "resident_bytes_per_message", whole),
    ("retained/s", "retained_per_second", count),
    ("generator's cores", "generator_cores", digits),
    ("lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("wrong", "wrong", whole),
];

const PAYLOAD: usize = 64;
const RETAIN: u8 = 1;
/// Unacknowledged while they are published.
const WINDOW: usize = 1_000;
/// When nothing has come for so long, nothing more will.
const QUIET: Duration = Duration::from_secs(2);

/// What one subscription has brought.
#[derive(Default)]
struct Sight {
    /// Of each topic.
    times: Vec<u8>,
    distinct: usize,
    duplicated: u64,
    wrong: u64,
}

pub fn run(peer: &Peer, messages: u64, window: Duration) -> Outcome {
    let broker = Broker::start(peer, &Setup::default())?;
    let topics: Vec<_> = (0..messages).map(|i| format!("retained/{}/{}/state", i / 1000, i % 1000)).collect();
    let mut metrics = Metrics::default();
    let before = Memory::of(broker.pid())?.resident;
    let start = Instant::now();
    publish(&broker, &topics)?;
    metrics.set("retained_per_second", messages as f64 / start.elapsed().as_secs_f64());
    let after = Memory::of(broker.pid())?.resident;
    metrics.set("resident_bytes_per_message", (after - before) / messages as f64);

    let mut clients = Clients::connect(broker.port, &[Client::new("taker".to_owned(), Vec::new())], 0, None)?;
    // The first time brings what is in no cache yet.
    subscribe(&mut clients, &topics)?;
    let (cpu, own, start) = (Cpu::of(broker.pid())?, Cpu::own()?, Instant::now());
    let (mut times, mut last, mut all) = (0, start, [0; 3]);
    while start.elapsed() < window {
        let sight = subscribe(&mut clients, &topics)?;
        times += 1;
        last = Instant::now();
        let lost = messages - sight.distinct as u64;
        all = [all[0] + lost, all[1] + sight.duplicated, all[2] + sight.wrong];
    }
    let seconds = (last - start).as_secs_f64();
    let number = f64::from(times) * messages as f64;
    metrics.set("cpu_microseconds_per_message", (Cpu::of(broker.pid())? - cpu).total() * 1e6 / number);
    metrics.set("messages_per_second", number / seconds);
    metrics.set("subscription_ms", seconds * 1e3 / f64::from(times));
    metrics.set("generator_cores", (Cpu::own()? - own).total() / seconds);
    for (name, faults) in ["lost", "duplicated", "wrong"].into_iter().zip(all) {
        metrics.set(name, faults as f64);
    }
    Ok(metrics)
}

/// Publishes one retained message to each topic, and waits until all are acknowledged.
fn publish(broker: &Broker, topics: &[String]) -> io::Result<()> {
    let publisher = Client::new("publisher".to_owned(), Vec::new());
    let mut clients = Clients::connect(broker.port, &[publisher], 1, None)?;
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < topics.len() {
        while sent < topics.len() && sent - acknowledged < WINDOW {
            let mut head = wire::publish_head(&topics[sent], 1, PAYLOAD);
            head[0] |= RETAIN;
            let stamp = Stamp { topic: sent as u32, sequence: 0, sent_at: 0 };
            let packet_id = (sent % 65_535 + 1) as u16;
            wire::put_publish(&head, Some(packet_id), stamp, PAYLOAD, &mut clients.links[0].out);
            sent += 1;
        }
        clients.links[0].flush()?;
        let events = clients.poll(Some(10 * QUIET))?;
        if events.is_empty() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no more messages are acknowledged"));
        }
        if events.iter().any(|event| event.readable) {
            clients.read(0, |packet, _| {
                acknowledged += usize::from(matches!(packet, Packet::PubAck));
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Subscribes, once more or for the first time, and takes what comes of it.
fn subscribe(clients: &mut Clients, topics: &[String]) -> io::Result<Sight> {
    let mut sight = Sight { times: vec![0; topics.len()], ..Sight::default() };
    clients.links[0].out.extend(wire::subscribe(&["retained/#".to_owned()], 0)?);
    clients.links[0].flush()?;
    while sight.distinct < topics.len() {
        let events: Vec<Event> = clients.poll(Some(QUIET))?;
        if events.is_empty() {
            break;
        }
        if events.iter().any(|event| event.readable) {
            clients.read(0, |packet, _| match packet {
                Packet::Publish(message) => {
                    sight.see(&message, topics);
                    Ok(())
                }
                Packet::PubAck => Ok(()),
                Packet::Control(bytes) => wire::accepted(bytes),
            })?;
        }
    }
    Ok(sight)
}

impl Sight {
    fn see(&mut self, message: &Publish<'_>, topics: &[String]) {
        let stamp = message.stamp().filter(|_| message.payload.len() == PAYLOAD);
        let topic = stamp.map(|stamp| stamp.topic as usize);
        let named = |topic: &usize| topics.get(*topic).is_some_and(|name| name.as_bytes() == message.topic);
        match topic.filter(named) {
            None => self.wrong += 1,
            Some(topic) if self.times[topic] > 0 => self.duplicated += 1,
            Some(topic) => {
                self.times[topic] = 1;
                self.distinct += 1;
            }
        }
    }
}
