//! The load: publishers keep their windows full, subscribers check every message and acknowledge it, all in one thread
//! around one event queue, so that the generator costs little beside the broker.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::client::{Client, Clients, Event};
use super::figures::{Metrics, Outcome};
use super::peers::Broker;
use super::process::{Cpu, Memory};
use super::scenario::{Layout, Load, Scenario};
use super::tally::Tally;
use super::wire::{self, Packet, Stamp};

/// Caches fill, buffers grow, batches find their size.
const WARM_UP: Duration = Duration::from_secs(1);

/// When nothing has come for so long, what is missing is lost.
const QUIET: Duration = Duration::from_millis(500);

/// So long is waited for what is still under way in the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Time, processor time and deliveries at one moment.
struct Mark {
    at: Instant,
    broker: Cpu,
    own: Cpu,
    received: u64,
}

struct Run<'a> {
    clients: Clients,
    scenario: &'a Scenario,
    load: &'a Load,
    tally: Tally,
    random: fastrand::Rng,
    /// What the messages of each topic begin with.
    heads: Vec<Vec<u8>>,
    /// Of each publisher.
    packet_ids: Vec<u16>,
    start: Instant,
    last_progress: Instant,
    stalls: u64,
}

/// Measures for `window`.
///
/// # Errors
/// If the broker refuses, closes a connection or is gone.
pub fn run(
    broker: &Broker,
    scenario: &Scenario,
    load: &Load,
    window: Duration,
    profile: Option<&Path>,
) -> Outcome {
    let before = Memory::of(broker.pid())?;
    let clients = Clients::connect(broker.port, &clients_of(load.layout), scenario.qos, broker.tls.as_ref())?;
    let ready = Memory::of(broker.pid())?;
    let mut run = Run::new(clients, scenario, load);
    run.go_on(Instant::now() + WARM_UP)?;
    let mut profiler = profile.map(|path| record(broker.pid(), window, path)).transpose()?;
    let from = run.mark(broker.pid())?;
    run.go_on(from.at + window)?;
    let to = run.mark(broker.pid())?;
    run.drain()?;
    if let Some(profiler) = &mut profiler {
        profiler.wait()?;
    }
    let after = Memory::of(broker.pid())?;
    let mut metrics = run.outcome(&from, &to);
    metrics.set("resident_bytes_idle", ready.resident);
    metrics.set("resident_bytes_peak", after.peak);
    if load.layout == Layout::Wild {
        let filters: usize = load.layout.subscribers().iter().map(Vec::len).sum();
        metrics.set("resident_bytes_per_filter", (ready.resident - before.resident) / filters as f64);
    }
    Ok(metrics)
}

/// Subscribers first, then publishers.
fn clients_of(layout: Layout) -> Vec<Client> {
    let subscribers = layout.subscribers().into_iter().enumerate();
    let subscribers = subscribers.map(|(i, filters)| Client::new(format!("subscriber-{i}"), filters));
    let publishers = (0..layout.publishers()).map(|i| Client::new(format!("publisher-{i}"), Vec::new()));
    subscribers.chain(publishers).collect()
}

impl<'a> Run<'a> {
    fn new(clients: Clients, scenario: &'a Scenario, load: &'a Load) -> Run<'a> {
        let layout = load.layout;
        let head = |topic| wire::publish_head(&layout.topic(topic), scenario.qos, scenario.payload);
        let start = Instant::now();
        Run {
            clients,
            scenario,
            load,
            tally: Tally::new(layout, scenario.payload),
            random: fastrand::Rng::with_seed(7),
            heads: (0..layout.topics()).map(head).collect(),
            packet_ids: vec![0; layout.publishers()],
            start,
            last_progress: start,
            stalls: 0,
        }
    }

    /// Publishes and receives until then.
    fn go_on(&mut self, until: Instant) -> io::Result<()> {
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            if now - self.last_progress > QUIET {
                self.stalls += 1;
                self.last_progress = now;
                self.tally.write_off();
            }
            self.publish(now)?;
            self.turn(Duration::from_millis(50))?;
        }
    }

    /// Receives what is still under way.
    fn drain(&mut self) -> io::Result<()> {
        let start = Instant::now();
        self.last_progress = start;
        while (self.tally.lost() > 0 || self.unacknowledged() > 0)
            && self.last_progress.elapsed() < QUIET
            && start.elapsed() < DRAIN
        {
            self.turn(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn unacknowledged(&self) -> u64 {
        if self.scenario.qos == 0 { 0 } else { self.tally.sent() - self.tally.acknowledged }
    }

    /// Fills every publisher's window.
    fn publish(&mut self, now: Instant) -> io::Result<()> {
        let layout = self.load.layout;
        let subscribers = self.clients.links.len() - layout.publishers();
        let sent_at = (now - self.start).as_nanos() as u64;
        for publisher in 0..layout.publishers() {
            let credit = self.load.window.saturating_sub(self.tally.outstanding(publisher));
            if credit == 0 {
                continue;
            }
            let link = &mut self.clients.links[subscribers + publisher];
            for _ in 0..credit {
                let topic = layout.next_topic(publisher, &mut self.random);
                let sequence = self.tally.send(publisher, topic);
                let stamp = Stamp { topic: topic as u32, sequence, sent_at };
                let packet_id = (self.scenario.qos > 0).then(|| {
                    let id = &mut self.packet_ids[publisher];
                    *id = id.checked_add(1).unwrap_or(1);
                    *id
                });
                wire::put_publish(&self.heads[topic], packet_id, stamp, self.scenario.payload, &mut link.out);
            }
            link.flush()?;
        }
        Ok(())
    }

    /// Receives what there is, and answers.
    fn turn(&mut self, patience: Duration) -> io::Result<()> {
        let before = self.tally.received;
        for Event { client, readable } in self.clients.poll(Some(patience))? {
            if readable {
                let tally = &mut self.tally;
                self.clients.read(client, |packet, out| {
                    match packet {
                        Packet::Publish(message) => {
                            tally.receive(client, &message);
                            if message.packet_id > 0 {
                                wire::put_puback(message.packet_id, out);
                            }
                        }
                        Packet::PubAck => tally.acknowledged += 1,
                        Packet::Control(bytes) => wire::accepted(bytes)?,
                    }
                    Ok(())
                })?;
            }
            self.clients.links[client].flush()?;
        }
        if self.tally.received > before {
            self.last_progress = Instant::now();
        }
        Ok(())
    }

    fn mark(&self, pid: u32) -> io::Result<Mark> {
        Ok(Mark {
            at: Instant::now(),
            broker: Cpu::of(pid)?,
            own: Cpu::own()?,
            received: self.tally.received,
        })
    }

    fn outcome(&self, from: &Mark, to: &Mark) -> Metrics {
        let seconds = (to.at - from.at).as_secs_f64();
        let (broker, own) = (to.broker - from.broker, to.own - from.own);
        let millions = (to.received - from.received) as f64 / 1e6;
        let mut metrics = Metrics::default();
        metrics.set("deliveries_per_second", millions * 1e6 / seconds);
        metrics.set("cpu_seconds_per_million", broker.total() / millions);
        metrics.set("user_seconds_per_million", broker.user / millions);
        metrics.set("system_seconds_per_million", broker.system / millions);
        metrics.set("broker_cores", broker.total() / seconds);
        metrics.set("generator_cores", own.total() / seconds);
        metrics.count(&self.tally);
        metrics.set("unacknowledged", self.unacknowledged() as f64);
        metrics.set("stalls", self.stalls as f64);
        metrics
    }
}

/// Has `perf` record a process for as long as the measurement takes.
fn record(pid: u32, window: Duration, path: &Path) -> io::Result<Child> {
    Command::new("perf")
        .args(["record", "-q", "-g", "-F", "997", "-o"])
        .arg(path)
        .args(["-p", &pid.to_string(), "--", "sleep", &window.as_secs().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
