//! How long a message takes when the broker is not busy: a thousand a second, each to ten subscribers, timed from just
//! before its write to just after the read that brought it. Both ends sleep in between, as clients do.

use std::time::{Duration, Instant};

use super::client::{Client, Clients, Event};
use super::figures::{self, Metrics, Outcome};
use super::pace::Pace;
use super::peers::Broker;
use super::process::{Cpu, Memory};
use super::scenario::{Layout, Scenario};
use super::tally::Tally;
use super::wire::{self, Packet, Stamp};

const LAYOUT: Layout = Layout::Fan { subscribers: 10 };
const PERIOD: Duration = Duration::from_millis(1);
const WARM_UP: Duration = Duration::from_millis(500);
const DRAIN: Duration = Duration::from_millis(200);

/// Measures for `window`.
///
/// # Errors
/// If the broker refuses, closes a connection or is gone.
pub fn run(broker: &Broker, scenario: &Scenario, window: Duration) -> Outcome {
    let subscribers = LAYOUT.subscribers();
    let publisher = subscribers.len();
    let mut all: Vec<_> = subscribers
        .into_iter()
        .enumerate()
        .map(|(i, filters)| Client::new(format!("subscriber-{i}"), filters))
        .collect();
    all.push(Client::new("publisher".to_owned(), Vec::new()));
    let mut clients = Clients::connect(broker.port, &all, scenario.qos, None)?;

    let pace = Pace::start(&clients, PERIOD)?;
    let head = wire::publish_head(&LAYOUT.topic(0), scenario.qos, scenario.payload);
    let mut tally = Tally::new(LAYOUT, scenario.payload);
    let mut samples = Vec::new();
    let start = Instant::now();
    let stop = start + WARM_UP + window;
    let mut from = None;
    while start.elapsed() < WARM_UP + window + DRAIN {
        for Event { client, readable } in clients.poll(Some(Duration::from_millis(50)))? {
            if client == pace.client {
                for _ in 0..pace.beats() {
                    if Instant::now() < stop {
                        let sequence = tally.send(0, 0);
                        let sent_at = start.elapsed().as_nanos() as u64;
                        let link = &mut clients.links[publisher];
                        let stamp = Stamp { topic: 0, sequence, sent_at };
                        wire::put_publish(&head, None, stamp, scenario.payload, &mut link.out);
                        link.flush()?;
                    }
                }
            } else if readable {
                clients.read(client, |packet, _| {
                    let Packet::Publish(message) = packet else { return Ok(()) };
                    let Some(sent_at) = tally.receive(client, &message) else { return Ok(()) };
                    let sent_at = Duration::from_nanos(sent_at);
                    if sent_at >= WARM_UP {
                        samples.push((start.elapsed() - sent_at).as_secs_f64() * 1e3);
                    }
                    Ok(())
                })?;
                clients.links[client].flush()?;
            }
        }
        if from.is_none() && start.elapsed() >= WARM_UP {
            from = Some((Cpu::of(broker.pid())?, Cpu::own()?));
        }
    }
    let (cpu, own) = from.ok_or("no time was measured")?;
    let (cpu, own) = (Cpu::of(broker.pid())? - cpu, Cpu::own()? - own);
    samples.sort_by(f64::total_cmp);
    let mut metrics = Metrics::default();
    metrics.set("p50_ms", figures::quantile(&samples, 0.5));
    metrics.set("p99_ms", figures::quantile(&samples, 0.99));
    metrics.set("p999_ms", figures::quantile(&samples, 0.999));
    metrics.set("max_ms", samples.last().copied().unwrap_or(f64::NAN));
    metrics.set("cpu_seconds_per_million", cpu.total() / (samples.len() as f64 / 1e6));
    metrics.set("generator_cores", own.total() / (window + DRAIN).as_secs_f64());
    metrics.set("resident_bytes_peak", Memory::of(broker.pid())?.peak);
    metrics.count(&tally);
    Ok(metrics)
}
