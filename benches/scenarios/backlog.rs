//! A backlog: publishers hand over messages for a persistent session that is not there, every one of them acknowledged;
//! then the broker is killed and started again, or not; then the session comes back and takes what is there.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::client::{Client, Clients, Event};
use super::figures::{Metrics, Outcome, quantile};
use super::peers::Broker;
use super::process::{Cpu, Memory};
use super::scenario::{Backlog, Layout, Scenario};
use super::tally::Tally;
use super::wire::{self, Packet, Stamp};

/// When nothing has come for so long, nothing more will.
const QUIET: Duration = Duration::from_secs(3);

/// How often the disk is asked how long it takes to sync.
const SYNCS: usize = 50;

/// Measures one backlog.
///
/// # Errors
/// If the broker refuses, closes a connection or is gone.
pub fn run(broker: &mut Broker, scenario: &Scenario, shape: &Backlog) -> Outcome {
    let layout = Layout::Backlog { publishers: shape.publishers };
    let mut metrics = Metrics::default();
    metrics.set("sync_us", sync_time(broker.folder())?);
    let idle = Memory::of(broker.pid())?.resident;
    // It subscribes, and goes.
    drop(Clients::connect(broker.port, &[subscriber(layout.subscribers().concat())], 1, None)?);
    let mut tally = Tally::new(layout, scenario.payload);
    let peak = ingest(broker, scenario, shape, &mut tally, &mut metrics)?;
    metrics.set("resident_bytes_above_idle", peak - idle);
    if shape.kill {
        let start = Instant::now();
        broker.kill_and_restart()?;
        metrics.set("restart_ms", start.elapsed().as_secs_f64() * 1e3);
    }
    drain(broker, &mut tally, &mut metrics)?;
    metrics.count(&tally);
    Ok(metrics)
}

fn subscriber(filters: Vec<String>) -> Client {
    Client { persistent: true, ..Client::new("subscriber".to_owned(), filters) }
}

/// Publishes everything and waits for the last acknowledgement; the most memory that the broker took.
fn ingest(
    broker: &Broker,
    scenario: &Scenario,
    shape: &Backlog,
    tally: &mut Tally,
    metrics: &mut Metrics,
) -> Result<f64, Box<dyn Error>> {
    let publishers = shape.publishers;
    let specs: Vec<_> = (0..publishers).map(|i| Client::new(format!("publisher-{i}"), Vec::new())).collect();
    let mut clients = Clients::connect(broker.port, &specs, 1, None)?;
    let layout = Layout::Backlog { publishers };
    let heads: Vec<_> = (0..publishers)
        .map(|topic| wire::publish_head(&layout.topic(topic), scenario.qos, scenario.payload))
        .collect();
    let (each, window) = (shape.messages / publishers as u64, shape.window / publishers as u64);
    // When what is unacknowledged was sent: acknowledgements come in that order.
    let mut under_way: Vec<VecDeque<Instant>> = vec![VecDeque::new(); publishers];
    let mut waits = Vec::with_capacity(shape.messages as usize);
    let (start, cpu, own) = (Instant::now(), Cpu::of(broker.pid())?, Cpu::own()?);
    let mut progress = start;
    while waits.len() < shape.messages as usize {
        for (publisher, under_way) in under_way.iter_mut().enumerate() {
            while (under_way.len() as u64) < window && tally.published[publisher] < each {
                let sequence = tally.send(publisher, publisher);
                let stamp = Stamp { topic: publisher as u32, sequence, sent_at: 0 };
                let packet_id = (sequence % 65_535 + 1) as u16;
                let out = &mut clients.links[publisher].out;
                wire::put_publish(&heads[publisher], Some(packet_id), stamp, scenario.payload, out);
                under_way.push_back(Instant::now());
            }
            clients.links[publisher].flush()?;
        }
        let before = waits.len();
        for Event { client, readable } in clients.poll(Some(QUIET))? {
            if readable {
                let sent = &mut under_way[client];
                clients.read(client, |packet, _| {
                    if let Packet::PubAck = packet
                        && let Some(sent) = sent.pop_front()
                    {
                        waits.push(sent.elapsed().as_secs_f64() * 1e3);
                    }
                    Ok(())
                })?;
            }
            clients.links[client].flush()?;
        }
        if waits.len() > before {
            progress = Instant::now();
        } else if progress.elapsed() > 10 * QUIET {
            return Err("the broker acknowledges nothing any more".into());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let millions = shape.messages as f64 / 1e6;
    metrics.set("ingest_per_second", shape.messages as f64 / seconds);
    metrics.set("ingest_cpu_per_million", (Cpu::of(broker.pid())? - cpu).total() / millions);
    metrics.set("generator_cores", (Cpu::own()? - own).total() / seconds);
    waits.sort_by(f64::total_cmp);
    metrics.set("acknowledged_p99_ms", quantile(&waits, 0.99));
    metrics.set("acknowledged_max_ms", quantile(&waits, 1.0));
    Ok(Memory::of(broker.pid())?.peak)
}

/// The session comes back and takes what there is.
fn drain(broker: &Broker, tally: &mut Tally, metrics: &mut Metrics) -> Result<(), Box<dyn Error>> {
    let cpu = Cpu::of(broker.pid())?;
    let start = Instant::now();
    let mut clients = Clients::none()?;
    clients.open(broker.port, &subscriber(Vec::new()), None)?;
    let mut last = start;
    while tally.received < tally.sent() && last.elapsed() < QUIET {
        for Event { readable, .. } in clients.poll(Some(QUIET))? {
            if readable {
                let before = tally.received;
                clients.read(0, |packet, out| {
                    match packet {
                        Packet::Publish(message) => {
                            tally.receive(0, &message);
                            wire::put_puback(message.packet_id, out);
                        }
                        Packet::PubAck => {}
                        Packet::Control(bytes) => wire::accepted(bytes)?,
                    }
                    Ok(())
                })?;
                if tally.received > before {
                    last = Instant::now();
                }
            }
            clients.links[0].flush()?;
        }
    }
    let (seconds, millions) = ((last - start).as_secs_f64(), tally.received as f64 / 1e6);
    if tally.received > 0 {
        metrics.set("drain_per_second", tally.received as f64 / seconds);
        metrics.set("drain_cpu_per_million", (Cpu::of(broker.pid())? - cpu).total() / millions);
    }
    Ok(())
}

/// How long this disk takes to make 4 KiB durable, in microseconds: the median of some tries.
fn sync_time(folder: &Path) -> io::Result<f64> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[0x55; 4096])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(quantile(&times, 0.5))
}
