//! The figures of runs: what they are called, how they are written, and what several rounds of them come to.

use std::collections::BTreeMap;
use std::error::Error;

use serde_json::{Value, json};

use super::scenario::{Kind, Scenario};
use super::tally::Tally;

/// The figures of one run, by name.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<&'static str, f64>);

/// What comes of a run.
pub type Outcome = Result<Metrics, Box<dyn Error>>;

/// What went wrong with messages. Over rounds these are added up: a median would hide the one that lost something.
pub const COUNTERS: [&str; 4] = ["lost", "duplicated", "reordered", "wrong"];

impl Metrics {
    pub fn set(&mut self, name: &'static str, value: f64) {
        self.0.insert(name, value);
    }

    /// A figure, not a number if there is none.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }

    /// What has become of the messages.
    pub fn count(&mut self, tally: &Tally) {
        self.set("sent", tally.sent() as f64);
        self.set("received", tally.received as f64);
        self.set("lost", tally.lost() as f64);
        self.set("duplicated", tally.duplicated as f64);
        self.set("reordered", tally.reordered as f64);
        self.set("wrong", tally.wrong as f64);
        let faults = COUNTERS.iter().map(|counter| self.get(counter)).sum();
        self.set("faults", faults);
    }

    pub fn to_json(&self) -> Value {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
    }
}

/// A column of a table: heading, figure, how it is written.
pub type Column = (&'static str, &'static str, fn(f64) -> String);

const LOAD: &[Column] = &[
    ("deliveries/s", "deliveries_per_second", count),
    ("CPU s per million", "cpu_seconds_per_million", digits),
    ("user", "user_seconds_per_million", digits),
    ("system", "system_seconds_per_million", digits),
    ("broker's cores", "broker_cores", digits),
    ("generator's", "generator_cores", digits),
    ("MiB before load", "resident_bytes_idle", mebibytes),
    ("MiB at most", "resident_bytes_peak", mebibytes),
    ("bytes per filter", "resident_bytes_per_filter", whole),
    ("lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
    ("wrong", "wrong", whole),
];

const LATENCY: &[Column] = &[
    ("p50 ms", "p50_ms", digits),
    ("p99 ms", "p99_ms", digits),
    ("p99.9 ms", "p999_ms", digits),
    ("at most", "max_ms", digits),
    ("CPU s per million", "cpu_seconds_per_million", digits),
    ("generator's cores", "generator_cores", digits),
    ("MiB at most", "resident_bytes_peak", mebibytes),
    ("lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
    ("wrong", "wrong", whole),
];

const IDLE: &[Column] = &[
    ("bytes per connection", "bytes_per_connection", whole),
    ("connects/s", "connects_per_second", count),
    ("CPU µs per connect", "cpu_microseconds_per_connect", digits),
    ("cores while idle", "idle_cores", digits),
    ("generator's while connecting", "generator_cores", digits),
    ("MiB at most", "resident_bytes_peak", mebibytes),
];

const BACKLOG: &[Column] = &[
    ("ingest/s", "ingest_per_second", count),
    ("CPU s per million in", "ingest_cpu_per_million", digits),
    ("p99 ms to PUBACK", "acknowledged_p99_ms", digits),
    ("at most", "acknowledged_max_ms", digits),
    ("restart ms", "restart_ms", whole),
    ("drain/s", "drain_per_second", count),
    ("CPU s per million out", "drain_cpu_per_million", digits),
    ("MiB above idle at most", "resident_bytes_above_idle", mebibytes),
    ("generator's cores", "generator_cores", digits),
    ("acknowledged but lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
    ("wrong", "wrong", whole),
    ("fdatasync µs", "sync_us", digits),
];

const CROWD: &[Column] = &[
    ("connects/s", "connects_per_second", count),
    ("bytes per connection", "bytes_per_connection", whole),
    ("disconnects", "disconnects", whole),
    ("p50 ms", "p50_ms", digits),
    ("p99 ms", "p99_ms", digits),
    ("p99.9 ms", "p999_ms", digits),
    ("at most", "max_ms", digits),
    ("broker's cores", "broker_cores", digits),
    ("generator's", "generator_cores", digits),
    ("generator late by p99 ms", "generator_late_p99_ms", digits),
    ("CPU s per million", "cpu_seconds_per_million", digits),
    ("MiB at most", "resident_bytes_peak", mebibytes),
    ("sent", "sent", count),
    ("lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
    ("wrong", "wrong", whole),
];

/// The figure that ratios are taken of: less of it is better.
pub fn key(scenario: &Scenario) -> &'static str {
    match scenario.kind {
        Kind::Load(_) => "cpu_seconds_per_million",
        Kind::Latency | Kind::Crowd { .. } => "p99_ms",
        Kind::Idle { .. } => "bytes_per_connection",
        Kind::Backlog(_) => "ingest_cpu_per_million",
    }
}

pub fn columns(scenario: &Scenario) -> &'static [Column] {
    match scenario.kind {
        Kind::Load(_) => LOAD,
        Kind::Latency => LATENCY,
        Kind::Idle { .. } => IDLE,
        Kind::Backlog(_) => BACKLOG,
        Kind::Crowd { .. } => CROWD,
    }
}

/// The column of a figure.
pub fn column(scenario: &Scenario, figure: &str) -> Option<&'static Column> {
    columns(scenario).iter().find(|(_, name, _)| *name == figure)
}

/// What the rounds of a figure come to.
pub fn together(name: &str, values: Vec<f64>) -> f64 {
    if name == "faults" || COUNTERS.contains(&name) { values.iter().sum() } else { median(values) }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// Of sorted values; between two of them, in proportion.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = part * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// A number of things, rounded.
pub fn count(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.2} M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0} k", value / 1e3)
    } else {
        format!("{value:.0}")
    }
}

pub fn mebibytes(value: f64) -> String {
    format!("{:.1}", value / 1_048_576.0)
}

pub fn whole(value: f64) -> String {
    format!("{value:.0}")
}

/// Three digits that count.
pub fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        99.5.. => 0,
        9.95.. => 1,
        0.995.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
