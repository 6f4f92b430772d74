//! How long a message takes when the broker is not busy: a thousand a second, each to ten subscribers, timed from just
//! before its write to just after the read that brought it. Both ends sleep in between, as clients do.

use std::error::Error;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::client::{Client, Clients, Event};
use super::peers::Broker;
use super::process::Cpu;
use super::report::{self, Metrics};
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
pub fn run(broker: &Broker, scenario: &Scenario, window: Duration) -> Result<Metrics, Box<dyn Error>> {
    let subscribers = LAYOUT.subscribers();
    let publisher = subscribers.len();
    let mut all: Vec<_> = subscribers
        .into_iter()
        .enumerate()
        .map(|(i, filters)| Client {
            id: format!("subscriber-{i}"),
            filters,
            source: None,
            persistent: false,
        })
        .collect();
    all.push(Client { id: "publisher".to_owned(), filters: Vec::new(), source: None, persistent: false });
    let mut clients = Clients::connect(broker.port, &all, scenario.qos, None)?;

    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
    let period = Timespec { tv_sec: 0, tv_nsec: PERIOD.as_nanos() as i64 };
    let times = Itimerspec { it_interval: period, it_value: period };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    let timer_client = clients.links.len();
    clients.register(&mut SourceFd(&timer.as_raw_fd()), timer_client)?;

    let head = wire::publish_head(&LAYOUT.topic(0), scenario.qos, scenario.payload);
    let mut tally = Tally::new(LAYOUT);
    let mut samples = Vec::new();
    let start = Instant::now();
    let stop = start + WARM_UP + window;
    let mut from = None;
    while start.elapsed() < WARM_UP + window + DRAIN {
        for Event { client, readable } in clients.poll(Some(Duration::from_millis(50)))? {
            if client == timer_client {
                let mut ticks = [0; 8];
                let _ = rustix::io::read(&timer, &mut ticks);
                for _ in 0..u64::from_ne_bytes(ticks) {
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
                    let Packet::Publish(stamp, _) = packet else { return Ok(()) };
                    let sent_at = Duration::from_nanos(stamp.sent_at);
                    tally.receive(client, stamp);
                    if sent_at >= WARM_UP {
                        samples.push((start.elapsed() - sent_at).as_secs_f64() * 1e3);
                    }
                    Ok(())
                })?;
                clients.links[client].flush()?;
            }
        }
        if from.is_none() && start.elapsed() >= WARM_UP {
            from = Some(Cpu::of(broker.pid())?);
        }
    }
    let cpu = Cpu::of(broker.pid())? - from.ok_or("no time was measured")?;
    samples.sort_by(f64::total_cmp);
    let mut metrics = Metrics::default();
    metrics.set("p50_ms", report::quantile(&samples, 0.5));
    metrics.set("p99_ms", report::quantile(&samples, 0.99));
    metrics.set("p999_ms", report::quantile(&samples, 0.999));
    metrics.set("max_ms", samples.last().copied().unwrap_or(f64::NAN));
    metrics.set("cpu_seconds_per_million", cpu.total() / (samples.len() as f64 / 1e6));
    metrics.set("sent", tally.sent() as f64);
    metrics.set("received", tally.received as f64);
    metrics.set("lost", tally.lost() as f64);
    metrics.set("duplicated", tally.duplicated as f64);
    metrics.set("reordered", tally.reordered as f64);
    Ok(metrics)
}
