//! What grows, from where to where, and what is measured there.

use std::time::Duration;

use super::{filters, overload, retained, sessions};
use crate::figures::{Column, Outcome, count, digits, mebibytes, whole};
use crate::idle;
use crate::load;
use crate::peers::{Broker, Peer};
use crate::scenario::{Kind, Layout, Load, Scenario, Setup};

/// A measurement at several sizes.
pub struct Curve {
    pub name: &'static str,
    pub title: &'static str,
    /// What grows.
    pub axis: &'static str,
    pub points: &'static [u64],
    pub columns: &'static [Column],
    /// The figures that are drawn and have an exponent.
    pub drawn: &'static [&'static str],
    /// Nobody else can be told to.
    pub only_ours: bool,
    /// The first drawn figure should never fall much.
    pub may_not_fall: bool,
    pub measure: fn(&Peer, u64, Duration) -> Outcome,
}

const FLOW: &[Column] = &[
    ("deliveries/s", "deliveries_per_second", count),
    ("MiB/s", "payload_bytes_per_second", mebibytes),
    ("CPU s per million", "cpu_seconds_per_million", digits),
    ("user", "user_seconds_per_million", digits),
    ("system", "system_seconds_per_million", digits),
    ("broker's cores", "broker_cores", digits),
    ("generator's", "generator_cores", digits),
    ("MiB at most", "resident_bytes_peak", mebibytes),
    ("lost", "lost", whole),
    ("twice", "duplicated", whole),
    ("out of order", "reordered", whole),
    ("wrong", "wrong", whole),
];

const CPU: &[&str] = &["cpu_seconds_per_million"];

const BASE: Curve = Curve {
    name: "",
    title: "",
    axis: "",
    points: &[],
    columns: FLOW,
    drawn: CPU,
    only_ours: false,
    may_not_fall: false,
    measure: |_, _, _| Err("nothing to measure".into()),
};

const ALL: &[Curve] = &[
    Curve {
        name: "subscribers",
        title: "1 publisher → so many subscribers, 64 B, QoS 0, 64 outstanding",
        axis: "subscribers",
        points: &[1, 10, 100, 1_000, 10_000],
        measure: |peer, size, window| {
            let layout = Layout::Fan { subscribers: size as usize };
            flow(peer, layout, 64, 64, Setup::default(), window)
        },
        ..BASE
    },
    Curve {
        name: "batch",
        title: "1 → 1,000, 64 B, QoS 0, with so many publishes outstanding",
        axis: "outstanding publishes",
        points: &[1, 4, 16, 64, 256, 1_024],
        measure: |peer, size, window| {
            let layout = Layout::Fan { subscribers: 1_000 };
            flow(peer, layout, size, 64, Setup::default(), window)
        },
        ..BASE
    },
    Curve {
        name: "filters",
        title: "publishes that match none of so many filters, of which ever more are elsewhere",
        axis: "filters",
        points: &[1_000, 10_000, 100_000, 1_000_000],
        columns: filters::COLUMNS,
        drawn: &["microseconds_per_publish", "resident_bytes_per_filter"],
        measure: filters::elsewhere,
        ..BASE
    },
    Curve {
        name: "filters-anywhere",
        title: "the same with topics that come by any of the filters",
        axis: "filters",
        points: &[1_000, 10_000, 100_000, 1_000_000],
        columns: filters::COLUMNS,
        drawn: &["microseconds_per_publish", "resident_bytes_per_filter"],
        measure: filters::anywhere,
        ..BASE
    },
    Curve {
        name: "retained",
        title: "one subscription with # to so many retained messages of 64 B",
        axis: "retained messages",
        points: &[100, 1_000, 10_000, 100_000],
        columns: retained::COLUMNS,
        drawn: &["cpu_microseconds_per_message", "resident_bytes_per_message"],
        measure: retained::run,
        ..BASE
    },
    Curve {
        name: "connections",
        title: "so many idle connections with a subscription each",
        axis: "connections",
        points: &[1_000, 2_000, 4_500, 9_000, 18_000],
        columns: &[
            ("bytes per connection", "bytes_per_connection", whole),
            ("connects/s", "connects_per_second", count),
            ("CPU µs per connect", "cpu_microseconds_per_connect", digits),
            ("cores while idle", "idle_cores", digits),
            ("generator's while connecting", "generator_cores", digits),
            ("MiB at most", "resident_bytes_peak", mebibytes),
        ],
        drawn: &["bytes_per_connection", "cpu_microseconds_per_connect"],
        measure: |peer, size, window| {
            idle::run(&Broker::start(peer, &Setup::default())?, size as usize, window)
        },
        ..BASE
    },
    Curve {
        name: "shards-fan",
        title: "fan0 with so many shards",
        axis: "shards",
        points: &[1, 2],
        only_ours: true,
        measure: |peer, size, window| shards(peer, Layout::Fan { subscribers: 1_000 }, 64, size, window),
        ..BASE
    },
    Curve {
        name: "shards-pair",
        title: "pair0 with so many shards",
        axis: "shards",
        points: &[1, 2],
        only_ours: true,
        measure: |peer, size, window| shards(peer, Layout::Pairs { pairs: 50 }, 256, size, window),
        ..BASE
    },
    Curve {
        name: "shards-wild",
        title: "wild0 with so many shards",
        axis: "shards",
        points: &[1, 2],
        only_ours: true,
        measure: |peer, size, window| shards(peer, Layout::Wild, 64, size, window),
        ..BASE
    },
    Curve {
        name: "payload",
        title: "1 → 10, messages of so many bytes, QoS 0, up to 64 or 1 MiB outstanding",
        axis: "bytes of payload",
        points: &[16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576],
        measure: |peer, size, window| {
            let outstanding = (1_048_576 / size).clamp(1, 64);
            let setup = Setup { large: true, ..Setup::default() };
            flow(peer, Layout::Fan { subscribers: 10 }, outstanding, size as usize, setup, window)
        },
        ..BASE
    },
    Curve {
        name: "sessions",
        title: "messages of 256 B, QoS 1, for so many persistent sessions that are away, and then come back",
        axis: "sessions",
        points: &[1, 10, 100, 1_000, 10_000],
        columns: sessions::COLUMNS,
        drawn: &["cpu_microseconds_per_queued", "cpu_microseconds_per_drained"],
        measure: sessions::run,
        ..BASE
    },
    Curve {
        name: "load-fan",
        title: "1 → 100, 64 B, QoS 0, so many publishes a second offered",
        axis: "publishes/s offered",
        points: &[1_000, 5_000, 20_000, 50_000, 100_000, 200_000, 500_000],
        columns: overload::COLUMNS,
        drawn: &["deliveries_per_second"],
        may_not_fall: true,
        measure: |peer, size, window| overload::run(peer, Layout::Fan { subscribers: 100 }, 64, size, window),
        ..BASE
    },
    Curve {
        name: "load-pair",
        title: "50 → 50 in pairs, 256 B, QoS 0, so many publishes a second offered",
        axis: "publishes/s offered",
        points: &[10_000, 50_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000],
        columns: overload::COLUMNS,
        drawn: &["deliveries_per_second"],
        may_not_fall: true,
        measure: |peer, size, window| overload::run(peer, Layout::Pairs { pairs: 50 }, 256, size, window),
        ..BASE
    },
];

/// The curves whose names begin so; all without names.
///
/// # Errors
/// If there is none.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Curve>, String> {
    if let Some(unknown) = names.iter().find(|name| !ALL.iter().any(|curve| curve.name.starts_with(*name))) {
        let all: Vec<_> = ALL.iter().map(|curve| curve.name).collect();
        return Err(format!("nothing that grows is called {unknown}; there are {}", all.join(", ")));
    }
    let wanted = |curve: &&Curve| names.is_empty() || names.iter().any(|name| curve.name.starts_with(name));
    Ok(ALL.iter().filter(wanted).collect())
}

fn shards(peer: &Peer, layout: Layout, payload: usize, shards: u64, window: Duration) -> Outcome {
    flow(peer, layout, 64, payload, Setup { shards: Some(shards as usize), ..Setup::default() }, window)
}

fn flow(
    peer: &Peer,
    layout: Layout,
    outstanding: u64,
    payload: usize,
    setup: Setup,
    window: Duration,
) -> Outcome {
    let load = Load { layout, window: outstanding };
    let scenario =
        Scenario { name: "growth", summary: "", kind: Kind::Load(load), qos: 0, payload, tls: false };
    let broker = Broker::start(peer, &setup)?;
    let mut metrics = load::run(&broker, &scenario, &load, window, None)?;
    metrics.set("payload_bytes_per_second", metrics.get("deliveries_per_second") * payload as f64);
    Ok(metrics)
}
