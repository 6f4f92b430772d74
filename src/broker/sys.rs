//! The `$SYS/broker/` topics: mosquitto's names, brought up to date at an interval by the first
//! shard, only where a value has changed.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::stats::{DropReason, Stats};

/// The load averages: over how many minutes.
const AVERAGES: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

/// One of the totals.
type Total = fn(&Totals) -> u64;

/// What the load topics are averages of.
const LOADS: [(&str, Total); 7] = [
    ("messages/received", |totals| totals.packets_received),
    ("messages/sent", |totals| totals.packets_sent),
    ("publish/received", |totals| totals.publish_received),
    ("publish/sent", |totals| totals.publish_sent),
    ("bytes/received", |totals| totals.bytes_received),
    ("bytes/sent", |totals| totals.bytes_sent),
    ("connections", |totals| totals.connections),
];

/// The counters of all shards, added up.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    packets_received: u64,
    packets_sent: u64,
    bytes_received: u64,
    bytes_sent: u64,
    publish_received: u64,
    publish_sent: u64,
    publish_bytes_received: u64,
    publish_bytes_sent: u64,
    connected: u64,
    connections: u64,
    sessions: u64,
    expired: u64,
    subscriptions: u64,
    shared_subscriptions: u64,
    queued_messages: i64,
    queued_bytes: i64,
    dropped: u64,
}

impl Totals {
    fn of<'a>(stats: impl Iterator<Item = &'a Stats>) -> Totals {
        let mut totals = Totals::default();
        for shard in stats {
            totals.packets_received += shard.packets_received.get();
            totals.packets_sent += shard.packets_sent.get();
            totals.bytes_received += shard.bytes_received.get();
            totals.bytes_sent += shard.bytes_sent.get();
            totals.publish_received += shard.publish_received.get();
            totals.publish_sent += shard.publish_sent.get();
            totals.publish_bytes_received += shard.publish_bytes_received.get();
            totals.publish_bytes_sent += shard.publish_bytes_sent.get();
            totals.connected += shard.connected.get();
            totals.connections += shard.connections.get();
            totals.sessions += shard.sessions.get();
            totals.expired += shard.expired.get();
            totals.subscriptions += shard.subscriptions.get();
            totals.shared_subscriptions += shard.shared_subscriptions.get();
            // A page may bring a message before it is forwarded, and only then counted: a shard may be below 0 for a moment.
            totals.queued_messages += shard.queued_messages.get().cast_signed();
            totals.queued_bytes += shard.queued_bytes.get().cast_signed();
            totals.dropped += DropReason::ALL.iter().map(|reason| shard.dropped(*reason)).sum::<u64>();
        }
        totals
    }
}

/// What is counted elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Gauges {
    /// Retained messages.
    pub retained: usize,
    /// What the process has in use, in bytes; 0 if nobody looks.
    pub memory: u64,
    /// How many places and messages of the store were found damaged since the start.
    pub damaged: u64,
}

/// What was said last, and when to speak next.
#[derive(Debug)]
pub struct SysTopics {
    start: Instant,
    interval: Duration,
    next: Option<Instant>,
    last: Option<Instant>,
    said: HashMap<String, String, foldhash::fast::FixedState>,
    before: Totals,
    averages: [[f64; AVERAGES.len()]; LOADS.len()],
    most_connected: u64,
    most_memory: u64,
}

impl SysTopics {
    /// Speaks every `interval` if this is the shard that does, and at once the first time.
    pub fn new(now: Instant, interval: Duration, speaks: bool) -> SysTopics {
        SysTopics {
            start: now,
            interval,
            next: (speaks && !interval.is_zero()).then_some(now),
            last: None,
            said: HashMap::default(),
            before: Totals::default(),
            averages: Default::default(),
            most_connected: 0,
            most_memory: 0,
        }
    }

    /// Speaks every `interval` from now on, if this is the shard that does.
    pub fn set_interval(&mut self, now: Instant, interval: Duration) {
        if self.next.is_some() && interval != self.interval && !interval.is_zero() {
            self.interval = interval;
            self.next = Some(now + interval);
        }
    }

    /// When it has something to say.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// The topics whose values have changed, if it is time: (topic, value).
    pub fn update<'a>(
        &mut self,
        now: Instant,
        stats: impl Iterator<Item = &'a Stats>,
        gauges: Gauges,
    ) -> Vec<(String, String)> {
        if self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        self.next = Some(now + self.interval);
        let totals = Totals::of(stats);
        self.most_connected = self.most_connected.max(totals.connected);
        let mut values = self.values(now, &totals, gauges);
        if gauges.memory > 0 {
            self.most_memory = self.most_memory.max(gauges.memory);
            values.push(("$SYS/broker/heap/current".to_owned(), gauges.memory.to_string()));
            values.push(("$SYS/broker/heap/maximum".to_owned(), self.most_memory.to_string()));
        }
        self.loads(now, &totals, &mut values);
        self.before = totals;
        values.retain(|(topic, value)| self.said.get(topic) != Some(value));
        for (topic, value) in &values {
            self.said.insert(topic.clone(), value.clone());
        }
        values
    }

    fn values(&self, now: Instant, totals: &Totals, gauges: Gauges) -> Vec<(String, String)> {
        let uptime = now.saturating_duration_since(self.start).as_secs();
        let numbers = [
            ("clients/connected", totals.connected),
            ("clients/disconnected", totals.sessions.saturating_sub(totals.connected)),
            ("clients/total", totals.sessions),
            ("clients/maximum", self.most_connected),
            ("clients/expired", totals.expired),
            ("messages/received", totals.packets_received),
            ("messages/sent", totals.packets_sent),
            ("publish/messages/received", totals.publish_received),
            ("publish/messages/sent", totals.publish_sent),
            ("publish/messages/dropped", totals.dropped),
            ("publish/bytes/received", totals.publish_bytes_received),
            ("publish/bytes/sent", totals.publish_bytes_sent),
            ("bytes/received", totals.bytes_received),
            ("bytes/sent", totals.bytes_sent),
            ("subscriptions/count", totals.subscriptions),
            ("shared_subscriptions/count", totals.shared_subscriptions),
            ("retained messages/count", gauges.retained as u64),
            ("store/messages/count", totals.queued_messages.max(0).cast_unsigned()),
            ("store/messages/bytes", totals.queued_bytes.max(0).cast_unsigned()),
            ("store/damaged", gauges.damaged),
        ];
        let mut values = vec![
            ("$SYS/broker/version".to_owned(), format!("weirmq version {}", env!("CARGO_PKG_VERSION"))),
            ("$SYS/broker/uptime".to_owned(), format!("{uptime} seconds")),
        ];
        values.extend(numbers.iter().map(|(name, value)| (format!("$SYS/broker/{name}"), value.to_string())));
        values
    }

    /// Moving averages per minute, as mosquitto has them.
    fn loads(&mut self, now: Instant, totals: &Totals, values: &mut Vec<(String, String)>) {
        let Some(last) = self.last.replace(now) else { return };
        let minutes = now.saturating_duration_since(last).as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for ((name, total), averages) in LOADS.iter().zip(&mut self.averages) {
            let rate = total(totals).saturating_sub(total(&self.before)) as f64 / minutes;
            for ((window, length), average) in AVERAGES.iter().zip(averages) {
                let weight = (-minutes / length).exp();
                *average = rate + weight * (*average - rate);
                values.push((format!("$SYS/broker/load/{name}/{window}"), format!("{average:.2}")));
            }
        }
    }
}
