//! What it costs to keep messages for so many persistent sessions whose clients are away, and to hand them out when all
//! of them come back at once.

use std::io;
use std::time::{Duration, Instant};

use crate::client::{Client, Clients, Event};
use crate::figures::{Column, Metrics, Outcome, count, digits, mebibytes, whole};
use crate::peers::{Broker, Peer};
use crate::process::{Cpu, Memory};
use crate::scenario::{Layout, Setup};
use crate::tally::Tally;
use crate::wire::{self, Packet, Stamp};

pub const COLUMNS: &[Column] = &[
    ("messages", "sent", count),
    ("publishes acknowledged/s", "publishes_per_second", count),
    ("CPU µs per queued delivery", "cpu_microseconds_per_queued", digits),
    ("drained/s", "drained_per_second", count),
    ("CPU µs per drained delivery", "cpu_microseconds_per_drained", digits),
    ("MiB above idle at most", "resident_bytes_above_idle", mebibytes),
    ("generator's cores", "generator_cores", digits),
    ("lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
    ("wrong", "wrong", whole),
];

/// Deliveries in all, as far as the bounds of messages allow.
const DELIVERIES: u64 = 400_000;
const MESSAGES: (u64, u64) = (40, 100_000);
const PAYLOAD: usize = 256;
/// Unacknowledged publishes.
const WINDOW: u64 = 100;
/// Clients that come back and have not been let in yet.
const CONNECTING: usize = 100;
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(peer: &Peer, sessions: u64, _: Duration) -> Outcome {
    let broker = Broker::start(peer, &Setup { keeps: true, ..Setup::default() })?;
    let layout = Layout::Fan { subscribers: sessions as usize };
    let messages = (DELIVERIES / sessions).clamp(MESSAGES.0, MESSAGES.1);
    let deliveries = (messages * sessions) as f64;
    let client = |(i, filters)| Client { persistent: true, ..Client::new(format!("session-{i}"), filters) };
    let clients: Vec<_> = layout.subscribers().into_iter().enumerate().map(client).collect();
    // They subscribe, and go.
    drop(Clients::connect(broker.port, &clients, 1, None)?);
    let idle = Memory::of(broker.pid())?.resident;
    let mut tally = Tally::new(layout, PAYLOAD);
    let mut metrics = Metrics::default();
    let (cpu, own, start) = (Cpu::of(broker.pid())?, Cpu::own()?, Instant::now());
    publish(&broker, messages, &mut tally)?;
    let (queued, took) = (Cpu::of(broker.pid())?, start.elapsed().as_secs_f64());
    metrics.set("publishes_per_second", messages as f64 / took);
    metrics.set("cpu_microseconds_per_queued", (queued - cpu).total() * 1e6 / deliveries);
    let start = Instant::now();
    let last = drain(&broker, &clients, messages, &mut tally)?;
    let took = took + (last - start).as_secs_f64();
    metrics.set("drained_per_second", tally.received as f64 / (last - start).as_secs_f64());
    let drained = (Cpu::of(broker.pid())? - queued).total();
    metrics.set("cpu_microseconds_per_drained", drained * 1e6 / deliveries);
    metrics.set("generator_cores", (Cpu::own()? - own).total() / took);
    metrics.set("resident_bytes_above_idle", Memory::of(broker.pid())?.peak - idle);
    metrics.count(&tally);
    Ok(metrics)
}

/// Publishes them all, and waits for the last acknowledgement.
fn publish(broker: &Broker, messages: u64, tally: &mut Tally) -> io::Result<()> {
    let publisher = Client::new("publisher".to_owned(), Vec::new());
    let mut clients = Clients::connect(broker.port, &[publisher], 1, None)?;
    let head = wire::publish_head(&Layout::Fan { subscribers: 1 }.topic(0), 1, PAYLOAD);
    let mut acknowledged = 0;
    while acknowledged < messages {
        while tally.sent() < messages && tally.sent() - acknowledged < WINDOW {
            let sequence = tally.send(0, 0);
            let packet_id = (sequence % 65_535 + 1) as u16;
            let stamp = Stamp { topic: 0, sequence, sent_at: 0 };
            wire::put_publish(&head, Some(packet_id), stamp, PAYLOAD, &mut clients.links[0].out);
        }
        clients.links[0].flush()?;
        let events = clients.poll(Some(PATIENCE))?;
        if events.is_empty() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no more messages are acknowledged"));
        }
        if events.iter().any(|event| event.readable) {
            clients.read(0, |packet, _| {
                acknowledged += u64::from(matches!(packet, Packet::PubAck));
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// All come back, some at a time, and take what is theirs; when the last message came.
fn drain(broker: &Broker, specs: &[Client], messages: u64, tally: &mut Tally) -> io::Result<Instant> {
    let mut clients = Clients::none()?;
    let (mut let_in, mut last) = (0, Instant::now());
    while tally.received < messages * specs.len() as u64 {
        while clients.links.len() < specs.len() && clients.links.len() - let_in < CONNECTING {
            clients.open(broker.port, &specs[clients.links.len()], None)?;
        }
        let events = clients.poll(Some(PATIENCE))?;
        if events.is_empty() {
            break;
        }
        for Event { client, readable } in events {
            if readable {
                let before = tally.received;
                clients.read(client, |packet, out| {
                    match packet {
                        Packet::Publish(message) => {
                            tally.receive(client, &message);
                            wire::put_puback(message.packet_id, out);
                        }
                        Packet::PubAck => {}
                        Packet::Control(bytes) => {
                            wire::accepted(bytes)?;
                            let_in += 1;
                        }
                    }
                    Ok(())
                })?;
                if tally.received > before {
                    last = Instant::now();
                }
            }
            clients.links[client].flush()?;
        }
    }
    Ok(last)
}
