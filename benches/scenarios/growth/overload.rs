//! More than goes through: publishers offer so many messages a second whether the broker keeps up or not. What a
//! publisher's socket does not take when it is due is held back and never sent, as in a client whose queue is full; what
//! the broker drops for subscribers that are behind is lost. What counts is how much still comes out.

use std::io;
use std::time::{Duration, Instant};

use crate::client::{Client, Clients, Event};
use crate::figures::{self, Column, Metrics, Outcome, count, digits, mebibytes, whole};
use crate::peers::{Broker, Peer};
use crate::process::{Cpu, Memory};
use crate::scenario::{Layout, Setup};
use crate::tally::Tally;
use crate::wire::{self, Packet, Stamp};

pub const COLUMNS: &[Column] = &[
    ("sent/s", "sent_per_second", count),
    ("deliveries/s", "deliveries_per_second", count),
    ("p50 ms", "p50_ms", digits),
    ("p99 ms", "p99_ms", digits),
    ("dropped by the broker", "dropped", count),
    ("CPU s per million", "cpu_seconds_per_million", digits),
    ("broker's cores", "broker_cores", digits),
    ("generator's", "generator_cores", digits),
    ("MiB at most", "resident_bytes_peak", mebibytes),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
    ("wrong", "wrong", whole),
];

/// A publisher is ahead of its socket by no more messages than this.
const AHEAD: u64 = 64;
const WARM_UP: Duration = Duration::from_secs(1);
/// When nothing has come for so long, what is missing was dropped.
const QUIET: Duration = Duration::from_millis(500);
/// One delivery in so many is timed.
const TIMED: u64 = 64;

struct Overload {
    clients: Clients,
    layout: Layout,
    heads: Vec<Vec<u8>>,
    payload: usize,
    tally: Tally,
    start: Instant,
    /// Of each publisher: what was due until now, sent or not.
    offered: Vec<u64>,
    /// Milliseconds.
    took: Vec<f64>,
}

pub fn run(peer: &Peer, layout: Layout, payload: usize, rate: u64, window: Duration) -> Outcome {
    let broker = Broker::start(peer, &Setup::default())?;
    let publishers = layout.publishers();
    let subscribers = layout.subscribers().into_iter();
    let clients = subscribers.chain(vec![Vec::new(); publishers]).enumerate();
    let clients: Vec<_> = clients.map(|(i, filters)| Client::new(format!("client-{i}"), filters)).collect();
    let mut load = Overload {
        clients: Clients::connect(broker.port, &clients, 0, None)?,
        layout,
        heads: (0..layout.topics())
            .map(|topic| wire::publish_head(&layout.topic(topic), 0, payload))
            .collect(),
        payload,
        tally: Tally::new(layout, payload),
        start: Instant::now(),
        offered: vec![0; publishers],
        took: Vec::new(),
    };
    let each = rate as f64 / publishers as f64;
    load.go_on(WARM_UP, each)?;
    load.took.clear();
    let (sent, received) = (load.tally.sent(), load.tally.received);
    let (cpu, own, from) = (Cpu::of(broker.pid())?, Cpu::own()?, Instant::now());
    load.go_on(WARM_UP + window, each)?;
    let seconds = from.elapsed().as_secs_f64();
    let (cpu, own) = (Cpu::of(broker.pid())? - cpu, Cpu::own()? - own);
    let (sent, received) = (load.tally.sent() - sent, load.tally.received - received);
    load.drain()?;
    load.took.sort_by(f64::total_cmp);
    let mut metrics = Metrics::default();
    metrics.set("sent_per_second", sent as f64 / seconds);
    metrics.set("deliveries_per_second", received as f64 / seconds);
    metrics.set("p50_ms", figures::quantile(&load.took, 0.5));
    metrics.set("p99_ms", figures::quantile(&load.took, 0.99));
    metrics.set("cpu_seconds_per_million", cpu.total() / (received as f64 / 1e6));
    metrics.set("broker_cores", cpu.total() / seconds);
    metrics.set("generator_cores", own.total() / seconds);
    metrics.set("resident_bytes_peak", Memory::of(broker.pid())?.peak);
    metrics.count(&load.tally);
    metrics.set("dropped", metrics.get("lost"));
    Ok(metrics)
}

impl Overload {
    /// Offers `rate` messages a second of each publisher until then, and receives.
    fn go_on(&mut self, until: Duration, rate: f64) -> io::Result<()> {
        loop {
            let now = self.start.elapsed();
            if now >= until {
                return Ok(());
            }
            self.publish(now, rate)?;
            self.receive()?;
        }
    }

    /// Receives what is still under way.
    fn drain(&mut self) -> io::Result<()> {
        let mut progress = Instant::now();
        while self.tally.lost() > 0 && progress.elapsed() < QUIET {
            let before = self.tally.received;
            self.receive()?;
            if self.tally.received > before {
                progress = Instant::now();
            }
        }
        Ok(())
    }

    fn publish(&mut self, now: Duration, rate: f64) -> io::Result<()> {
        let publishers = self.layout.publishers();
        let first = self.clients.links.len() - publishers;
        for publisher in 0..publishers {
            let due = ((now.as_secs_f64() * rate) as u64).saturating_sub(self.offered[publisher]);
            self.offered[publisher] += due;
            let link = &mut self.clients.links[first + publisher];
            if due == 0 || link.unsent() > 0 {
                continue;
            }
            for _ in 0..due.min(AHEAD) {
                let sequence = self.tally.send(publisher, publisher);
                let stamp = Stamp { topic: publisher as u32, sequence, sent_at: now.as_nanos() as u64 };
                wire::put_publish(&self.heads[publisher], None, stamp, self.payload, &mut link.out);
            }
            link.flush()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        for Event { client, readable } in self.clients.poll(Some(Duration::from_millis(1)))? {
            if readable {
                let Overload { clients, tally, took, start, .. } = self;
                clients.read(client, |packet, _| {
                    let Packet::Publish(message) = packet else { return Ok(()) };
                    let sent_at = tally.receive(client, &message);
                    if let Some(sent_at) = sent_at.filter(|_| tally.received % TIMED == 0) {
                        let sent_at = Duration::from_nanos(sent_at);
                        took.push(start.elapsed().saturating_sub(sent_at).as_secs_f64() * 1e3);
                    }
                    Ok(())
                })?;
            }
            self.clients.links[client].flush()?;
        }
        Ok(())
    }
}
