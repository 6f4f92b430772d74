//! The command line of the load generator.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Runs load scenarios against WeirMQ and its peers, interleaved, and prints medians.
#[derive(Debug, Parser)]
pub struct Args {
    /// Scenarios to run, such as fan0,pair1; default: all
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Who is measured, in this order: weirmq, mosquitto, rumqttd, floor, floor-each, or NAME=PATH for another build of
    /// weirmq. A peer that is not installed is left out
    #[arg(long, value_delimiter = ',', default_value = "weirmq,mosquitto")]
    pub peers: Vec<String>,
    /// Runs of each scenario with each peer; the medians of them are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Seconds that each run measures
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub seconds: u64,
    /// Where the results go for machines; default: target/bench/scenarios.json
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Record where the broker's time goes, by `perf record`, into target/bench/
    #[arg(long)]
    pub profile: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    pub bench: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The process that the peers floor and floor-each are
    #[command(hide = true)]
    FloorServe {
        /// Where to listen, on loopback
        port: u16,
        /// One write per message instead of one per read
        #[arg(long)]
        each: bool,
    },
}
