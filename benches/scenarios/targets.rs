//! What this project wants to reach, scenario by scenario. The reasons are told in `benches/README.md`.

use super::figures;
use super::scenario::Scenario;

/// A goal of one scenario.
pub struct Target {
    scenario: &'static str,
    pub figure: &'static str,
    pub bound: Bound,
    pub than: Than,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What a goal is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Than {
    /// The figure itself.
    Nothing,
    /// The ratio to this peer's.
    Peer(&'static str),
    /// The ratio to that of the broker that is best at it.
    Best,
}

use Bound::{AtLeast, AtMost};
use Than::{Best, Nothing, Peer};

const CPU: &str = "cpu_seconds_per_million";

const ALL: &[Target] = &[
    target("fan0", CPU, AtMost(0.40), Peer("rumqttd")),
    target("fan0", CPU, AtMost(0.5), Best),
    target("fan0", CPU, AtMost(2.5), Peer("floor")),
    target("fan1", CPU, AtMost(0.35), Peer("rumqttd")),
    target("fan1", CPU, AtMost(0.5), Best),
    target("fan0w1", CPU, AtMost(1.2), Peer("floor-each")),
    target("pair0", CPU, AtMost(0.08), Peer("mosquitto")),
    target("pair0", CPU, AtMost(0.5), Best),
    target("pair1", CPU, AtMost(0.05), Peer("mosquitto")),
    target("pair1", CPU, AtMost(0.5), Best),
    target("wild0", CPU, AtMost(0.25), Peer("mosquitto")),
    target("wild0", CPU, AtMost(0.5), Best),
    target("tlsfan", CPU, AtMost(0.5), Peer("rumqttd")),
    target("tlsfan", CPU, AtMost(0.5), Best),
    target("lat0", "p50_ms", AtMost(1.0), Peer("mosquitto")),
    target("lat0", "p99_ms", AtMost(1.0), Peer("mosquitto")),
    target("lat0", "p99_ms", AtMost(1.0), Best),
    target("idle10k", "bytes_per_connection", AtMost(1536.0), Nothing),
    target("idle10k", "connects_per_second", AtLeast(1.0), Peer("mosquitto")),
    target("idletls", "bytes_per_connection", AtMost(10_752.0), Nothing),
    target("durable", "lost", AtMost(0.0), Nothing),
    target("durable", "ingest_per_second", AtLeast(1.0), Peer("mosquitto")),
    target("durable", "ingest_cpu_per_million", AtMost(1.0), Peer("mosquitto")),
    target("durable", "resident_bytes_above_idle", AtMost(32.0 * 1_048_576.0), Nothing),
    target("crowd", "p99_ms", AtMost(10.0), Nothing),
    target("crowd", "disconnects", AtMost(0.0), Nothing),
    target("backlog", "drain_per_second", AtLeast(1.0), Peer("mosquitto")),
];

/// For every scenario.
const RIGHT: Target = target("", "faults", AtMost(0.0), Nothing);

const fn target(scenario: &'static str, figure: &'static str, bound: Bound, than: Than) -> Target {
    Target { scenario, figure, bound, than }
}

/// The goals of a scenario.
pub fn of(scenario: &Scenario) -> impl Iterator<Item = &'static Target> {
    ALL.iter().filter(move |target| target.scenario == scenario.name).chain([&RIGHT])
}

impl Target {
    /// The goal in words.
    pub fn text(&self, scenario: &Scenario) -> String {
        let (heading, write) = match figures::column(scenario, self.figure) {
            Some((heading, _, write)) => (*heading, *write),
            None => (self.figure, figures::whole as fn(f64) -> String),
        };
        let (sign, bound) = match self.bound {
            AtMost(bound) => ("≤", bound),
            AtLeast(bound) => ("≥", bound),
        };
        match self.than {
            Nothing => format!("{heading} {sign} {}", write(bound)),
            Peer(peer) => format!("{heading} {sign} {bound:.2} × {peer}"),
            Best => format!("{heading} {sign} {bound:.2} × best peer"),
        }
    }

    /// Whether a figure, or the ratio, is good enough.
    pub fn is_met_by(&self, measured: f64) -> bool {
        match self.bound {
            AtMost(bound) => measured <= bound,
            AtLeast(bound) => measured >= bound,
        }
    }
}
