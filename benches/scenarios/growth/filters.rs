//! What a publish costs that nobody takes, beside so many filters that do not match it, and what a filter takes of memory.
//! Once with topics of the same two sites however many others there are, which tells what the number of filters costs; once
//! with topics of all sites, which tells what it costs besides that fewer and fewer of the filters a topic comes by stand in
//! the processor's caches. Every 32nd message goes to somebody, which tells that those before it are done.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use crate::client::{Client, Clients, Event};
use crate::figures::{Column, Metrics, Outcome, count, digits, whole};
use crate::peers::{Broker, Peer};
use crate::process::{self, Cpu, Memory};
use crate::scenario::{Layout, Setup};
use crate::tally::Tally;
use crate::wire::{self, Packet, Stamp};

pub const COLUMNS: &[Column] = &[
    ("CPU µs per publish", "microseconds_per_publish", digits),
    ("publishes/s", "publishes_per_second", count),
    ("bytes per filter", "resident_bytes_per_filter", whole),
    ("filters subscribed/s", "filters_per_second", count),
    ("broker's cores", "broker_cores", digits),
    ("generator's", "generator_cores", digits),
    ("lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("wrong", "wrong", whole),
];

/// Who holds the filters; none more than a thousand.
const HOLDERS: usize = 1_000;
/// How many filters there are under each site.
const PER_SITE: usize = 400;
/// The sites whose topics are published, where those are not all of them: there with the fewest filters already.
const SAME_SITES: usize = 2;
/// Topics that nobody takes: enough that a broker remembers few of them.
const STRANGERS: usize = 200_000;
const STRANGERS_PER_MARK: usize = 31;
/// Marks outstanding.
const WINDOW: u64 = 8;
const PAYLOAD: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);
/// When nothing has come for so long, what is missing is lost.
const QUIET: Duration = Duration::from_secs(2);
const MARKS: Layout = Layout::Fan { subscribers: 1 };

/// Publishes that match nothing, ready to be sent.
struct Strangers {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    next: usize,
}

/// Topics of the same few sites.
pub fn elsewhere(peer: &Peer, filters: u64, window: Duration) -> Outcome {
    run(peer, filters as usize, SAME_SITES, window)
}

/// Topics of all sites.
pub fn anywhere(peer: &Peer, filters: u64, window: Duration) -> Outcome {
    let filters = filters as usize;
    run(peer, filters, filters.div_ceil(PER_SITE), window)
}

fn run(peer: &Peer, filters: usize, sites: usize, window: Duration) -> Outcome {
    let broker = Broker::start(peer, &Setup::default())?;
    let mut metrics = Metrics::default();
    let holders: Vec<_> = (0..HOLDERS).map(|i| Client::new(format!("holder-{i}"), Vec::new())).collect();
    let mut holders = Clients::connect(broker.port, &holders, 0, None)?;
    let before = Memory::of(broker.pid())?.resident;
    let start = Instant::now();
    subscribe(&mut holders, filters)?;
    metrics.set("filters_per_second", filters as f64 / start.elapsed().as_secs_f64());
    // What follows a subscription, such as the search for retained messages, is not what a publish costs.
    process::await_rest(broker.pid(), PATIENCE)?;
    let after = Memory::of(broker.pid())?.resident;
    metrics.set("resident_bytes_per_filter", (after - before) / filters as f64);
    publish(&broker, &mut Strangers::new(sites), window, &mut metrics)?;
    Ok(metrics)
}

/// None of the topics of [`Strangers`] matches any, but each goes down their levels.
fn filter(number: usize) -> String {
    let (site, unit) = (number / PER_SITE, number / 4 % 100);
    match number % 4 {
        0 => format!("site/{site}/dev/{unit}/alarm"),
        1 => format!("site/{site}/dev/{unit}/+/raw"),
        2 => format!("site/{site}/+/{unit}/state"),
        _ => format!("+/{site}/dev/{unit}/config/#"),
    }
}

fn subscribe(holders: &mut Clients, filters: usize) -> io::Result<()> {
    for holder in 0..HOLDERS {
        let own: Vec<_> = (holder..filters).step_by(HOLDERS).map(filter).collect();
        holders.links[holder].out.extend(wire::subscribe(&own, 0)?);
        holders.links[holder].flush()?;
    }
    let mut subscribed = 0;
    while subscribed < HOLDERS {
        let events = holders.poll(Some(PATIENCE))?;
        if events.is_empty() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no more subscriptions are accepted"));
        }
        for Event { client, readable } in events {
            if readable {
                holders.read(client, |packet, _| {
                    let Packet::Control(bytes) = packet else { return Ok(()) };
                    subscribed += 1;
                    wire::accepted(bytes)
                })?;
            }
            holders.links[client].flush()?;
        }
    }
    Ok(())
}

/// Publishes for `window`, and a moment before that to warm up.
fn publish(
    broker: &Broker,
    strangers: &mut Strangers,
    window: Duration,
    metrics: &mut Metrics,
) -> Result<(), Box<dyn Error>> {
    let clients = [
        Client::new("taker".to_owned(), vec![MARKS.topic(0)]),
        Client::new("publisher".to_owned(), Vec::new()),
    ];
    let mut clients = Clients::connect(broker.port, &clients, 0, None)?;
    let head = wire::publish_head(&MARKS.topic(0), 0, PAYLOAD);
    let mut tally = Tally::new(MARKS, PAYLOAD);
    let mark = |tally: &Tally| -> io::Result<_> {
        Ok((Instant::now(), Cpu::of(broker.pid())?, Cpu::own()?, tally.received))
    };
    let start = Instant::now();
    let mut from = None;
    while start.elapsed() < WARM_UP + window {
        if from.is_none() && start.elapsed() >= WARM_UP {
            from = Some(mark(&tally)?);
        }
        let link = &mut clients.links[1];
        while tally.outstanding(0) < WINDOW {
            strangers.put(&mut link.out);
            let stamp = Stamp { topic: 0, sequence: tally.send(0, 0), sent_at: 0 };
            wire::put_publish(&head, None, stamp, PAYLOAD, &mut link.out);
        }
        link.flush()?;
        receive(&mut clients, &mut tally)?;
    }
    let (at, cpu, own, marks) = from.ok_or("too slow to be measured")?;
    let (end, cpu_end, own_end, marks_end) = mark(&tally)?;
    let mut progress = Instant::now();
    while tally.lost() > 0 && progress.elapsed() < QUIET {
        if receive(&mut clients, &mut tally)? {
            progress = Instant::now();
        }
    }
    let seconds = (end - at).as_secs_f64();
    let publishes = (marks_end - marks) as f64 * (STRANGERS_PER_MARK + 1) as f64;
    metrics.set("microseconds_per_publish", (cpu_end - cpu).total() * 1e6 / publishes);
    metrics.set("publishes_per_second", publishes / seconds);
    metrics.set("broker_cores", (cpu_end - cpu).total() / seconds);
    metrics.set("generator_cores", (own_end - own).total() / seconds);
    metrics.count(&tally);
    Ok(())
}

/// Whether anything came.
fn receive(clients: &mut Clients, tally: &mut Tally) -> io::Result<bool> {
    let before = tally.received;
    for Event { client, readable } in clients.poll(Some(QUIET))? {
        if readable {
            clients.read(client, |packet, _| {
                if let Packet::Publish(message) = packet {
                    tally.receive(client, &message);
                }
                Ok(())
            })?;
        }
        clients.links[client].flush()?;
    }
    Ok(tally.received > before)
}

impl Strangers {
    fn new(sites: usize) -> Strangers {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(STRANGERS));
        for number in 0..STRANGERS {
            let (site, unit) = (random.usize(..sites), random.usize(..100));
            let head = wire::publish_head(&format!("site/{site}/dev/{unit}/temp/{number}"), 0, PAYLOAD);
            let stamp = Stamp { topic: 0, sequence: 0, sent_at: 0 };
            wire::put_publish(&head, None, stamp, PAYLOAD, &mut bytes);
            ends.push(bytes.len());
        }
        Strangers { bytes, ends, next: 0 }
    }

    /// Appends the next few.
    fn put(&mut self, out: &mut Vec<u8>) {
        let end = (self.next + STRANGERS_PER_MARK).min(self.ends.len());
        let from = self.next.checked_sub(1).map_or(0, |last| self.ends[last]);
        out.extend_from_slice(&self.bytes[from..self.ends[end - 1]]);
        self.next = if end == self.ends.len() { 0 } else { end };
    }
}
