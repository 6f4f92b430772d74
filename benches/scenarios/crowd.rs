//! A crowd: thousands of clients of many addresses, each with a topic of its own and a subscription to a neighbour's,
//! each of which publishes once a second for minutes; evenly spread, and timed from the moment that a message was due.

use std::io;
use std::time::{Duration, Instant};

use super::client::{Client, Clients, Event};
use super::figures::{self, Metrics, Outcome};
use super::idle::address_of;
use super::pace::Pace;
use super::peers::Broker;
use super::process::{Cpu, Memory};
use super::scenario::{Layout, Scenario};
use super::tally::Tally;
use super::wire::{self, Packet, Stamp};

const BEAT: Duration = Duration::from_millis(1);
const BEATS_PER_SECOND: u64 = 1000;
const WARM_UP: Duration = Duration::from_secs(2);
const DRAIN: Duration = Duration::from_secs(1);
/// How often it tells how far it is.
const TELL: Duration = Duration::from_secs(10);

struct Crowd {
    clients: Clients,
    gone: Vec<bool>,
    /// What the messages of each begin with.
    heads: Vec<Vec<u8>>,
    payload: usize,
    tally: Tally,
    start: Instant,
    /// Milliseconds from when a message was due to its arrival.
    took: Vec<f64>,
    /// Milliseconds that the generator itself was late.
    late: Vec<f64>,
    beats: u64,
}

/// Measures for `window`.
///
/// # Errors
/// If the broker refuses, or is gone.
pub fn run(broker: &Broker, scenario: &Scenario, number: usize, window: Duration) -> Outcome {
    let layout = Layout::Ring { clients: number };
    let before = Memory::of(broker.pid())?.resident;
    let client = |(i, filters)| Client {
        source: Some(address_of(i)),
        ..Client::new(format!("device-{i:05}"), filters)
    };
    let specs: Vec<_> = layout.subscribers().into_iter().enumerate().map(client).collect();
    let clients = Clients::connect(broker.port, &specs, scenario.qos, broker.tls.as_ref())?;
    let mut metrics = Metrics::default();
    metrics.set("connects_per_second", number as f64 / clients.took.as_secs_f64());
    metrics.set("bytes_per_connection", (Memory::of(broker.pid())?.resident - before) / number as f64);
    let head = |topic| wire::publish_head(&layout.topic(topic), scenario.qos, scenario.payload);
    let heads = (0..number).map(head).collect();
    let tally = Tally::new(layout, scenario.payload);
    let pace = Pace::start(&clients, BEAT)?;
    let mut crowd = Crowd {
        start: Instant::now(),
        clients,
        gone: vec![false; number],
        heads,
        payload: scenario.payload,
        tally,
        took: Vec::with_capacity(number * window.as_secs() as usize),
        late: Vec::new(),
        beats: 0,
    };
    crowd.go_on(&pace, WARM_UP, true)?;
    let (cpu, own, from) = (Cpu::of(broker.pid())?, Cpu::own()?, Instant::now());
    crowd.go_on(&pace, WARM_UP + window, true)?;
    let (cpu, own, time) = (Cpu::of(broker.pid())? - cpu, Cpu::own()? - own, from.elapsed().as_secs_f64());
    crowd.go_on(&pace, WARM_UP + window + DRAIN, false)?;
    crowd.outcome(&mut metrics);
    metrics.set("broker_cores", cpu.total() / time);
    metrics.set("generator_cores", own.total() / time);
    metrics.set("cpu_seconds_per_million", cpu.total() / (crowd.took.len() as f64 / 1e6));
    metrics.set("resident_bytes_peak", Memory::of(broker.pid())?.peak);
    Ok(metrics)
}

impl Crowd {
    /// Receives until then, and publishes what is due.
    fn go_on(&mut self, pace: &Pace, until: Duration, publishes: bool) -> io::Result<()> {
        let mut told = self.start.elapsed();
        loop {
            let now = self.start.elapsed();
            if now >= until {
                return Ok(());
            }
            if publishes && now - told >= TELL {
                told = now;
                let gone = self.gone.iter().filter(|gone| **gone).count();
                eprint!("{} s: {} received, {gone} gone; ", now.as_secs(), self.tally.received);
            }
            for Event { client, readable } in self.clients.poll(Some(Duration::from_millis(100)))? {
                if client == pace.client {
                    for _ in 0..pace.beats() {
                        self.beat(publishes);
                    }
                } else if !self.gone[client] {
                    let read = if readable { self.read(client) } else { Ok(()) };
                    let done = read.and_then(|()| self.clients.links[client].flush());
                    self.gone[client] = done.is_err();
                }
            }
        }
    }

    /// Publishes for those whose turn it is within their second.
    fn beat(&mut self, publishes: bool) {
        let all = self.gone.len() as u64;
        let turn = self.beats % BEATS_PER_SECOND;
        let due = turn * all / BEATS_PER_SECOND..(turn + 1) * all / BEATS_PER_SECOND;
        self.beats += 1;
        if !publishes {
            return;
        }
        let at = BEAT * self.beats as u32;
        self.late.push(self.start.elapsed().saturating_sub(at).as_secs_f64() * 1e3);
        for client in due.map(|client| client as usize) {
            if self.gone[client] {
                continue;
            }
            let sequence = self.tally.send(client, client);
            let stamp = Stamp { topic: client as u32, sequence, sent_at: at.as_nanos() as u64 };
            let link = &mut self.clients.links[client];
            wire::put_publish(&self.heads[client], None, stamp, self.payload, &mut link.out);
            self.gone[client] = link.flush().is_err();
        }
    }

    fn read(&mut self, client: usize) -> io::Result<()> {
        let Crowd { clients, tally, took, start, .. } = self;
        clients.read(client, |packet, _| {
            let Packet::Publish(message) = packet else { return Ok(()) };
            let Some(sent_at) = tally.receive(client, &message) else { return Ok(()) };
            let sent_at = Duration::from_nanos(sent_at);
            if sent_at > WARM_UP {
                took.push(start.elapsed().saturating_sub(sent_at).as_secs_f64() * 1e3);
            }
            Ok(())
        })
    }

    fn outcome(&mut self, metrics: &mut Metrics) {
        self.took.sort_by(f64::total_cmp);
        self.late.sort_by(f64::total_cmp);
        metrics.set("p50_ms", figures::quantile(&self.took, 0.5));
        metrics.set("p99_ms", figures::quantile(&self.took, 0.99));
        metrics.set("p999_ms", figures::quantile(&self.took, 0.999));
        metrics.set("max_ms", figures::quantile(&self.took, 1.0));
        metrics.set("generator_late_p99_ms", figures::quantile(&self.late, 0.99));
        metrics.set("disconnects", self.gone.iter().filter(|gone| **gone).count() as f64);
        metrics.count(&self.tally);
    }
}
