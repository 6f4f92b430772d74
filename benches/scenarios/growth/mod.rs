//! How cost grows: the same measurement at sizes from small to large, as a table, as drawings and as exponents.

mod chart;
mod curves;
mod filters;
mod overload;
mod retained;
mod sessions;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::Common;
use super::figures::{self, COUNTERS, Metrics, together};
use super::peers::{self, Make, Peer};
use super::report;
use chart::{Chart, Line};
use curves::Curve;

/// So much less throughput than with a smaller load is no collapse yet.
const COLLAPSE: f64 = 0.9;

/// Every run of one curve: the figures of each round, by peer and point.
type Runs = BTreeMap<(usize, u64), Vec<Metrics>>;

/// Measures the curves of these names, or all.
///
/// # Errors
/// If there is none of a name, or if a file cannot be written; what a broker cannot do is told and left out.
pub fn run(only: &[String], common: &Common, rounds: u32, seconds: u64) -> Result<(), Box<dyn Error>> {
    let curves = curves::chosen(only)?;
    let peers = peers::chosen(&common.peers("weirmq"))?;
    let mut text = format!("Medians of {rounds} rounds of {seconds} s at each point.\n");
    let mut all = Vec::new();
    for curve in curves {
        let peers: Vec<_> = peers
            .iter()
            .filter(|peer| match peer.make {
                Make::Weirmq => true,
                Make::Floor { .. } => false,
                _ => !curve.only_ours,
            })
            .collect();
        let runs = measure(curve, &peers, rounds, Duration::from_secs(seconds));
        let mut part = String::new();
        table(curve, &peers, &runs, &mut part);
        let exponents = draw(curve, &peers, &runs, &mut part)?;
        println!("{part}");
        text += &part;
        all.push(to_json(curve, &peers, &runs, &exponents));
    }
    fs::write(report::folder()?.join("growth.md"), &text)?;
    let path =
        common.json.clone().map_or_else(|| report::folder().map(|folder| folder.join("growth.json")), Ok)?;
    fs::write(&path, format!("{:#}\n", json!({ "rounds": rounds, "seconds": seconds, "curves": all })))?;
    eprintln!("tables and drawings are in {}", report::folder()?.display());
    Ok(())
}

fn measure(curve: &Curve, peers: &[&Peer], rounds: u32, window: Duration) -> Runs {
    let mut runs = Runs::new();
    for round in 1..=rounds {
        for point in curve.points {
            for (index, peer) in peers.iter().enumerate() {
                eprint!("{} {} = {point}, {} round {round}/{rounds}: ", curve.name, curve.axis, peer.name);
                match (curve.measure)(peer, *point, window) {
                    Ok(metrics) => {
                        eprintln!("{}", brief(curve, &metrics));
                        runs.entry((index, *point)).or_default().push(metrics);
                    }
                    Err(error) => eprintln!("failed: {error}"),
                }
            }
        }
    }
    runs
}

fn brief(curve: &Curve, metrics: &Metrics) -> String {
    let told = curve.columns.iter().filter(|(_, figure, _)| {
        let value = metrics.get(figure);
        if COUNTERS.contains(figure) { value > 0.0 } else { !value.is_nan() }
    });
    let cells: Vec<_> =
        told.map(|(heading, figure, write)| format!("{heading} {}", write(metrics.get(figure)))).collect();
    cells.join(", ")
}

/// What the rounds at a point come to, not a number if there were none.
fn figure(runs: &Runs, peer: usize, point: u64, name: &str) -> f64 {
    runs.get(&(peer, point))
        .map_or(f64::NAN, |rounds| together(name, rounds.iter().map(|metrics| metrics.get(name)).collect()))
}

fn table(curve: &Curve, peers: &[&Peer], runs: &Runs, text: &mut String) {
    let headings: Vec<_> = curve.columns.iter().map(|(heading, ..)| *heading).collect();
    let _ = write!(
        text,
        "\n### {}: {}\n\n| {} | | {} |\n|---|---{}|\n",
        curve.name,
        curve.title,
        curve.axis,
        headings.join(" | "),
        "|---".repeat(headings.len())
    );
    for point in curve.points {
        for (index, peer) in peers.iter().enumerate() {
            if !runs.contains_key(&(index, *point)) {
                continue;
            }
            let cell = |(_, name, write): &figures::Column| match figure(runs, index, *point, name) {
                value if value.is_nan() => "–".to_owned(),
                value => write(value),
            };
            let cells: Vec<_> = curve.columns.iter().map(cell).collect();
            let _ = writeln!(text, "| {point} | {} | {} |", report::name(peer), cells.join(" | "));
        }
    }
}

/// Draws each figure that is to be drawn, and tells its exponents.
fn draw(curve: &Curve, peers: &[&Peer], runs: &Runs, text: &mut String) -> std::io::Result<Vec<Value>> {
    let mut exponents = Vec::new();
    for name in curve.drawn {
        let heading = curve.columns.iter().find(|(_, column, _)| column == name).map_or(*name, |(h, ..)| *h);
        let mut lines = Vec::new();
        for (index, peer) in peers.iter().enumerate() {
            let points = curve.points.iter().map(|point| (*point as f64, figure(runs, index, *point, name)));
            let points: Vec<_> = points.filter(|(_, value)| *value > 0.0).collect();
            let Some(slope) = exponent(&points) else { continue };
            let _ = writeln!(
                text,
                "\n{}: {heading} grows with {} to the power of {slope:.2}.",
                peer.name, curve.axis
            );
            exponents.push(json!({ "peer": peer.name, "figure": name, "exponent": slope }));
            if curve.may_not_fall {
                let _ = writeln!(text, "\n{}: {}", peer.name, collapse(&points));
            }
            lines.push(Line { label: format!("{} (exponent {slope:.2})", report::name(peer)), points });
        }
        if !lines.is_empty() {
            let title = format!("{}: {}", curve.name, curve.title);
            let svg = Chart { title, x: curve.axis.to_owned(), y: heading.to_owned(), lines }.to_svg();
            fs::write(report::folder()?.join(format!("growth-{}-{name}.svg", curve.name)), svg)?;
        }
    }
    Ok(exponents)
}

/// The slope of the straight line that fits best where both axes are logarithmic.
fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let number = logs.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| logs.iter().map(value).sum::<f64>() / number;
    let (x, y) = (mean(|log| log.0), mean(|log| log.1));
    let spread: f64 = logs.iter().map(|log| (log.0 - x).powi(2)).sum();
    let slope = logs.iter().map(|log| (log.0 - x) * (log.1 - y)).sum::<f64>() / spread;
    slope.is_finite().then_some(slope)
}

/// Whether more load ever lowers what comes out of it.
fn collapse(points: &[(f64, f64)]) -> String {
    let mut most: f64 = 0.0;
    let mut worst: f64 = 1.0;
    for (_, value) in points {
        most = most.max(*value);
        worst = worst.min(value / most);
    }
    let verdict = if worst >= COLLAPSE { "met" } else { "**missed**" };
    format!(
        "no collapse: never below {worst:.2} of the most at a lower load (target ≥ {COLLAPSE:.2}: {verdict})."
    )
}

fn to_json(curve: &Curve, peers: &[&Peer], runs: &Runs, exponents: &[Value]) -> Value {
    let runs = runs.iter().flat_map(|((peer, point), rounds)| {
        let figures = rounds.iter().map(Metrics::to_json);
        figures.map(move |figures| json!({ "peer": peers[*peer].name, "point": point, "figures": figures }))
    });
    let versions: Vec<_> = peers.iter().map(|peer| report::name(peer)).collect();
    json!({
        "name": curve.name,
        "axis": curve.axis,
        "peers": versions,
        "exponents": exponents,
        "runs": runs.collect::<Vec<_>>(),
    })
}
