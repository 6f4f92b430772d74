//! The results: a summary, a table of each scenario for people, and every run as JSON for machines.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::figures::{self, COUNTERS, Metrics, columns, key, median, together};
use super::peers::{Make, Peer};
use super::scenario::{Kind, Load, Scenario};
use super::targets::{self, Bound, Target, Than};

/// One run.
pub struct Run {
    pub scenario: &'static str,
    pub peer: String,
    pub round: u32,
    pub metrics: Metrics,
}

/// Everything that was measured.
pub struct Report<'a> {
    /// What its files are called.
    title: &'static str,
    seconds: u64,
    rounds: u32,
    peers: &'a [Peer],
    pub runs: Vec<Run>,
    pub failures: Vec<String>,
}

/// A run in a line.
pub fn brief(scenario: &Scenario, run: &Run) -> String {
    let mut line = String::new();
    let bad = |name: &str| COUNTERS.contains(&name) || ["unacknowledged", "stalls"].contains(&name);
    let others = [("unacknowledged", "unacknowledged", figures::whole as fn(f64) -> String)];
    let stalls = [("stalls", "stalls", figures::whole as fn(f64) -> String)];
    for (heading, name, write) in columns(scenario).iter().chain(&others).chain(&stalls) {
        let value = run.metrics.get(name);
        if !value.is_nan() && (!bad(name) || value > 0.0) {
            let _ = write!(line, "{heading} {}, ", write(value));
        }
    }
    line.trim_end_matches(", ").to_owned()
}

impl<'a> Report<'a> {
    pub fn new(title: &'static str, seconds: u64, rounds: u32, peers: &'a [Peer]) -> Report<'a> {
        Report { title, seconds, rounds, peers, runs: Vec::new(), failures: Vec::new() }
    }

    /// Prints the tables, and writes them and all runs to files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(&self, scenarios: &[&Scenario], json: Option<&Path>) -> io::Result<()> {
        let mut text = format!("Medians of {} rounds of {} s, interleaved.\n", self.rounds, self.seconds);
        self.summary(scenarios, &mut text);
        self.targets(scenarios, &mut text);
        for scenario in scenarios {
            self.table(scenario, &mut text);
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nFailed: {failure}");
        }
        println!("\n{text}");
        let file = |extension| io::Result::Ok(folder()?.join(format!("{}.{extension}", self.title)));
        fs::write(file("md")?, &text)?;
        let path = json.map_or_else(|| file("json"), |path| Ok(path.into()))?;
        fs::write(&path, format!("{:#}\n", self.to_json(scenarios)))?;
        eprintln!("every run is in {}", path.display());
        Ok(())
    }

    /// A line for each scenario: ours, the best of the others, the limit.
    fn summary(&self, scenarios: &[&Scenario], text: &mut String) {
        let Some(ours) = self.peers.iter().find(|peer| peer.make == Make::Weirmq) else { return };
        let _ = write!(
            text,
            "\n| | figure | {} | best peer | ÷ best peer | ÷ floor | lost, twice, out of order, wrong | targets |\n\
             |---|---|---|---|---|---|---|---|\n",
            name(ours)
        );
        for scenario in scenarios {
            let key = key(scenario);
            let Some((heading, _, write)) = figures::column(scenario, key) else { continue };
            let own = self.median(scenario, &ours.name, key);
            if own.is_nan() {
                continue;
            }
            let best = self.best(scenario, key, false);
            let other = best.map_or("–".to_owned(), |peer| {
                format!("{} {}", peer.name, write(self.median(scenario, &peer.name, key)))
            });
            let faults = COUNTERS.map(|counter| figures::whole(self.median(scenario, &ours.name, counter)));
            let _ = writeln!(
                text,
                "| {} | {heading} | {} | {other} | {} | {} | {} | {} |",
                scenario.name,
                write(own),
                self.ratio_text(scenario, &ours.name, best.map(|peer| peer.name.as_str())),
                self.ratio_text(scenario, &ours.name, floor(scenario)),
                faults.join(", ").replace("NaN, NaN, NaN, NaN", "–"),
                self.verdict(scenario),
            );
        }
    }

    fn verdict(&self, scenario: &Scenario) -> String {
        let outcomes: Vec<_> =
            targets::of(scenario).filter_map(|target| self.measured(scenario, target)).collect();
        let missed = outcomes.iter().filter(|(_, met)| !met).count();
        match (outcomes.len(), missed) {
            (0, _) => "–".to_owned(),
            (_, 0) => "met".to_owned(),
            (all, missed) => format!("**{missed} of {all} missed**"),
        }
    }

    fn targets(&self, scenarios: &[&Scenario], text: &mut String) {
        let mut rows = String::new();
        for scenario in scenarios {
            for target in targets::of(scenario) {
                if let Some((measured, met)) = self.measured(scenario, target) {
                    let write = match target.than {
                        Than::Nothing => figures::column(scenario, target.figure)
                            .map_or(figures::whole as fn(f64) -> String, |(.., write)| *write),
                        Than::Peer(_) | Than::Best => figures::digits,
                    };
                    let measured = write(measured);
                    let met = if met { "met" } else { "**missed**" };
                    let goal = target.text(scenario);
                    let _ = writeln!(rows, "| {} | {goal} | {measured} | {met} |", scenario.name);
                }
            }
        }
        if !rows.is_empty() {
            let _ = write!(text, "\n| | target | measured | |\n|---|---|---|---|\n{rows}");
        }
    }

    /// The figure or ratio that a target is about, and whether it is met; `None` if who is needed was not measured.
    fn measured(&self, scenario: &Scenario, target: &Target) -> Option<(f64, bool)> {
        let ours = self.peers.iter().find(|peer| peer.make == Make::Weirmq)?;
        let more = matches!(target.bound, Bound::AtLeast(_));
        let measured = match target.than {
            Than::Nothing => self.median(scenario, &ours.name, target.figure),
            Than::Peer(peer) => self.ratio(scenario, target.figure, &ours.name, peer),
            Than::Best => {
                let best = self.best(scenario, target.figure, more)?;
                self.ratio(scenario, target.figure, &ours.name, &best.name)
            }
        };
        (!measured.is_nan()).then(|| (measured, target.is_met_by(measured)))
    }

    fn table(&self, scenario: &Scenario, text: &mut String) {
        let rows: Vec<_> =
            self.peers.iter().filter(|peer| self.of(scenario, &peer.name).next().is_some()).collect();
        // A column that nobody has anything for is left out.
        let told = |figure: &str| rows.iter().any(|peer| !self.median(scenario, &peer.name, figure).is_nan());
        let columns: Vec<_> = columns(scenario).iter().filter(|(_, figure, _)| told(figure)).collect();
        let key = key(scenario);
        let best = self.best(scenario, key, false).map(|peer| peer.name.as_str());
        let headings: String = columns.iter().map(|(heading, ..)| format!("{heading} | ")).collect();
        let _ = writeln!(text, "\n### {}: {}\n", scenario.name, scenario.summary);
        let _ = writeln!(
            text,
            "| | {headings}÷ {} | ÷ floor |\n|---{}|---|---|",
            best.unwrap_or("best peer"),
            "|---".repeat(columns.len())
        );
        for peer in rows {
            let mut cells: Vec<_> = columns
                .iter()
                .map(|(_, figure, write)| match self.median(scenario, &peer.name, figure) {
                    value if value.is_nan() => "–".to_owned(),
                    value => write(value),
                })
                .collect();
            cells.push(self.ratio_text(scenario, &peer.name, best));
            cells.push(self.ratio_text(scenario, &peer.name, floor(scenario)));
            let _ = writeln!(text, "| {} | {} |", name(peer), cells.join(" | "));
        }
    }

    fn of<'b>(&'b self, scenario: &'b Scenario, peer: &'b str) -> impl Iterator<Item = &'b Run> {
        self.runs.iter().filter(move |run| run.scenario == scenario.name && run.peer == peer)
    }

    fn median(&self, scenario: &Scenario, peer: &str, figure: &str) -> f64 {
        let values: Vec<_> = self.of(scenario, peer).map(|run| run.metrics.get(figure)).collect();
        if values.is_empty() { f64::NAN } else { together(figure, values) }
    }

    /// The broker that is best at something, this project's own left out.
    fn best(&self, scenario: &Scenario, figure: &str, more: bool) -> Option<&Peer> {
        let value = |peer: &Peer| self.median(scenario, &peer.name, figure) * if more { -1.0 } else { 1.0 };
        let others = self.peers.iter().filter(|peer| !matches!(peer.make, Make::Weirmq | Make::Floor { .. }));
        others.filter(|peer| value(peer).is_finite()).min_by(|a, b| value(a).total_cmp(&value(b)))
    }

    /// The median of the ratios within each round: rounds differ more from each other than what ran side by side.
    fn ratio(&self, scenario: &Scenario, figure: &str, peer: &str, other: &str) -> f64 {
        let ratios: Vec<_> = self
            .of(scenario, peer)
            .filter_map(|run| {
                let beside = self.of(scenario, other).find(|beside| beside.round == run.round)?;
                Some(run.metrics.get(figure) / beside.metrics.get(figure))
            })
            .collect();
        median(ratios)
    }

    fn ratio_text(&self, scenario: &Scenario, peer: &str, other: Option<&str>) -> String {
        let ratio = other.map_or(f64::NAN, |other| self.ratio(scenario, key(scenario), peer, other));
        if ratio.is_nan() { "–".to_owned() } else { figures::digits(ratio) }
    }

    fn to_json(&self, scenarios: &[&Scenario]) -> Value {
        let peers = self.peers.iter().map(|peer| json!({ "name": peer.name, "version": peer.version }));
        let runs = self.runs.iter().map(|run| {
            let figures = run.metrics.to_json();
            json!({ "scenario": run.scenario, "peer": run.peer, "round": run.round, "figures": figures })
        });
        let goals = scenarios.iter().flat_map(|scenario| {
            targets::of(scenario).filter_map(|target| {
                let (measured, met) = self.measured(scenario, target)?;
                let goal = target.text(scenario);
                Some(json!({ "scenario": scenario.name, "target": goal, "measured": measured, "met": met }))
            })
        });
        json!({
            "seconds": self.seconds,
            "rounds": self.rounds,
            "peers": peers.collect::<Vec<_>>(),
            "targets": goals.collect::<Vec<_>>(),
            "runs": runs.collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }
}

/// The floor that is a scenario's limit: where no batch can form, the one that forms none.
fn floor(scenario: &Scenario) -> Option<&'static str> {
    match scenario.kind {
        Kind::Load(Load { window: 1, .. }) => Some("floor-each"),
        Kind::Load(_) | Kind::Latency | Kind::Crowd { .. } => Some("floor"),
        Kind::Idle { .. } | Kind::Backlog(_) => None,
    }
}

/// A peer with its version.
pub fn name(peer: &Peer) -> String {
    format!("{} {}", peer.name, peer.version).trim_end().to_owned()
}

/// Where what `perf` records of a run goes.
///
/// # Errors
/// If there can be no such folder.
pub fn profile_path(scenario: &str, peer: &str, round: u32) -> io::Result<PathBuf> {
    Ok(folder()?.join(format!("{scenario}-{peer}-{round}.perf")))
}

/// `bench` in the folder that cargo builds in.
///
/// # Errors
/// If it cannot be made.
pub fn folder() -> io::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
