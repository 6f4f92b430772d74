//! The results: medians and ratios as a table for people, and every run as JSON for machines.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::peers::Peer;
use super::scenario::{Kind, Scenario};

/// The figures of one run, by name.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<&'static str, f64>);

impl Metrics {
    pub fn set(&mut self, name: &'static str, value: f64) {
        self.0.insert(name, value);
    }

    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }
}

/// One run.
pub struct Run {
    pub scenario: &'static str,
    pub peer: String,
    pub round: u32,
    pub metrics: Metrics,
}

/// Everything that was measured.
pub struct Report {
    seconds: u64,
    rounds: u32,
    pub runs: Vec<Run>,
    pub failures: Vec<String>,
}

/// A column of a table: heading, figure, how it is written.
type Column = (&'static str, &'static str, fn(f64) -> String);

const LOAD: &[Column] = &[
    ("deliveries/s", "deliveries_per_second", thousands),
    ("CPU s per million", "cpu_seconds_per_million", digits),
    ("user", "user_seconds_per_million", digits),
    ("system", "system_seconds_per_million", digits),
    ("broker's cores", "broker_cores", digits),
    ("generator's", "generator_cores", digits),
    ("MiB before load", "resident_bytes_idle", mebibytes),
    ("MiB at most", "resident_bytes_peak", mebibytes),
    ("lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
];

const LATENCY: &[Column] = &[
    ("p50 ms", "p50_ms", digits),
    ("p99 ms", "p99_ms", digits),
    ("p99.9 ms", "p999_ms", digits),
    ("at most", "max_ms", digits),
    ("CPU s per million", "cpu_seconds_per_million", digits),
    ("lost", "lost", whole),
];

const IDLE: &[Column] = &[
    ("bytes per connection", "bytes_per_connection", whole),
    ("connects/s", "connects_per_second", thousands),
    ("CPU µs per connect", "cpu_microseconds_per_connect", digits),
    ("cores while idle", "idle_cores", digits),
];

const BACKLOG: &[Column] = &[
    ("ingest/s", "ingest_per_second", thousands),
    ("CPU s per million in", "ingest_cpu_per_million", digits),
    ("p99 ms to PUBACK", "acknowledged_p99_ms", digits),
    ("at most", "acknowledged_max_ms", digits),
    ("acknowledged but lost", "lost", whole),
    ("restart ms", "restart_ms", whole),
    ("drain/s", "drain_per_second", thousands),
    ("CPU s per million out", "drain_cpu_per_million", digits),
    ("MiB above idle at most", "resident_bytes_above_idle", mebibytes),
    ("generator's cores", "generator_cores", digits),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
    ("fdatasync µs", "sync_us", digits),
];

/// What ratios are taken of.
fn key(scenario: &Scenario) -> &'static str {
    match scenario.kind {
        Kind::Load(_) => "cpu_seconds_per_million",
        Kind::Latency => "p50_ms",
        Kind::Idle { .. } => "bytes_per_connection",
        Kind::Backlog(_) => "ingest_per_second",
    }
}

fn columns(scenario: &Scenario) -> &'static [Column] {
    match scenario.kind {
        Kind::Load(_) => LOAD,
        Kind::Latency => LATENCY,
        Kind::Idle { .. } => IDLE,
        Kind::Backlog(_) => BACKLOG,
    }
}

/// A run in a line.
pub fn brief(scenario: &Scenario, run: &Run) -> String {
    let mut line = String::new();
    for (heading, name, write) in columns(scenario) {
        let value = run.metrics.get(name);
        let bad = ["lost", "duplicated", "reordered"].contains(name);
        if !bad || value > 0.0 {
            let _ = write!(line, "{heading} {}, ", write(value));
        }
    }
    for name in ["misrouted", "unacknowledged", "stalls"] {
        if run.metrics.get(name) > 0.0 {
            let _ = write!(line, "{name} {}, ", whole(run.metrics.get(name)));
        }
    }
    line.trim_end_matches(", ").to_owned()
}

impl Report {
    pub fn new(seconds: u64, rounds: u32) -> Report {
        Report { seconds, rounds, runs: Vec::new(), failures: Vec::new() }
    }

    /// Prints the tables, and writes them and all runs to files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(&self, scenarios: &[&Scenario], peers: &[Peer], json: Option<&Path>) -> io::Result<()> {
        let mut text = format!("Medians of {} rounds of {} s, interleaved.\n", self.rounds, self.seconds);
        for scenario in scenarios {
            self.table(scenario, peers, &mut text);
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nFailed: {failure}");
        }
        println!("\n{text}");
        fs::write(folder()?.join("scenarios.md"), &text)?;
        let path =
            json.map_or_else(|| Ok(folder()?.join("scenarios.json")), |path| io::Result::Ok(path.into()))?;
        let runs: Vec<_> = self.runs.iter().map(Run::to_json).collect();
        let all = json!({ "seconds": self.seconds, "rounds": self.rounds, "runs": runs, "failures": self.failures });
        fs::write(&path, format!("{all:#}\n"))?;
        eprintln!("every run is in {}", path.display());
        Ok(())
    }

    fn table(&self, scenario: &Scenario, peers: &[Peer], text: &mut String) {
        let columns = columns(scenario);
        let _ = writeln!(text, "\n### {}: {}\n", scenario.name, scenario.summary);
        let headings: Vec<_> = columns.iter().map(|(heading, ..)| *heading).collect();
        let _ = writeln!(
            text,
            "| | {} | ratio |\n|---{}|---|",
            headings.join(" | "),
            "|---".repeat(columns.len())
        );
        let mut first = None;
        for peer in peers {
            let runs: Vec<_> = self
                .runs
                .iter()
                .filter(|run| run.scenario == scenario.name && run.peer == peer.name)
                .collect();
            if runs.is_empty() {
                continue;
            }
            let median = |name: &str| median(runs.iter().map(|run| run.metrics.get(name)).collect());
            let mut cells: Vec<_> = columns.iter().map(|(_, name, write)| write(median(name))).collect();
            let own = median(key(scenario));
            cells.push(format!("{:.2}", own / *first.get_or_insert(own)));
            let _ = writeln!(text, "| {} | {} |", peer.name, cells.join(" | "));
        }
    }
}

impl Run {
    fn to_json(&self) -> Value {
        let figures: Map<_, _> =
            self.metrics.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({ "scenario": self.scenario, "peer": self.peer, "round": self.round, "figures": figures })
    }
}

/// Where what `perf` records of a run goes.
///
/// # Errors
/// If there can be no such folder.
pub fn profile_path(scenario: &str, peer: &str, round: u32) -> io::Result<PathBuf> {
    Ok(folder()?.join(format!("{scenario}-{peer}-{round}.perf")))
}

/// `bench` in the folder that cargo builds in.
fn folder() -> io::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn median(mut values: Vec<f64>) -> f64 {
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

fn thousands(value: f64) -> String {
    if value >= 1e6 { format!("{:.2} M", value / 1e6) } else { format!("{:.0} k", value / 1e3) }
}

fn mebibytes(value: f64) -> String {
    format!("{:.1}", value / 1_048_576.0)
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

/// Three digits that count.
fn digits(value: f64) -> String {
    let decimals = if value >= 99.5 {
        0
    } else if value >= 9.95 {
        1
    } else if value >= 0.995 {
        2
    } else {
        3
    };
    format!("{value:.decimals$}")
}
