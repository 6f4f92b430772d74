//! The command line of the load generator.

use std::path::PathBuf;

use clap::{Args as Arguments, Parser, Subcommand};

/// Runs load scenarios against WeirMQ and its peers, interleaved, and prints medians.
#[derive(Debug, Parser)]
pub struct Args {
    /// Scenarios to run, such as fan0,pair1; default: all
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    #[command(flatten)]
    pub common: Common,
    /// Runs of each scenario with each peer; the medians of them are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Seconds that each run measures
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub seconds: u64,
    /// Record where the broker's time goes, by `perf record`, into target/bench/
    #[arg(long)]
    pub profile: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true, global = true)]
    pub bench: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What all of them know.
#[derive(Clone, Debug, Arguments)]
pub struct Common {
    /// Who is measured, in this order: weirmq, mosquitto, rumqttd, nats, floor, floor-each, or NAME=PATH for another
    /// build of weirmq; "all" is whoever is installed, with both floors. Default: all for the scenarios, weirmq for the
    /// commands
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Where the results go for machines; default: a file in target/bench/
    #[arg(long)]
    pub json: Option<PathBuf>,
}

impl Common {
    /// The peers that were asked for, or else this one.
    pub fn peers(&self, otherwise: &str) -> Vec<String> {
        if self.peers.is_empty() { vec![otherwise.to_owned()] } else { self.peers.clone() }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Thousands of clients, each of which publishes once a second, for minutes
    Crowd {
        #[command(flatten)]
        common: Common,
        /// How many; each takes a file descriptor here and one in the broker
        #[arg(long, default_value_t = 18_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
        clients: u32,
        /// Seconds that are measured
        #[arg(long, default_value_t = 300)]
        seconds: u64,
    },
    /// How cost grows: tables, drawings and exponents
    Growth {
        /// What grows, such as subscribers,filters: all curves whose names begin so; default: all
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        #[command(flatten)]
        common: Common,
        /// Runs at each point; the medians of them are reported
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
        rounds: u32,
        /// Seconds that each run measures
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=300))]
        seconds: u64,
    },
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
