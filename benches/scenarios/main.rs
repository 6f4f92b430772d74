//! Load for brokers: runs the same scenarios against WeirMQ and its peers in turn, A B A B, and prints medians. See
//! `benches/README.md` for what each scenario is and how to read the figures.

mod args;
mod backlog;
mod client;
mod crowd;
mod figures;
mod floor;
mod growth;
mod idle;
mod latency;
mod link;
mod load;
mod pace;
mod peers;
mod process;
mod report;
mod scenario;
mod settings;
mod tally;
mod targets;
mod wire;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use args::{Args, Command, Common};
use peers::{Broker, Peer};
use report::{Report, Run};
use scenario::{Kind, Scenario};

/// What a run takes besides its measurement: start, connect, warm up, drain.
const AROUND: Duration = Duration::from_secs(3);

/// What is measured, how long and how often.
struct Plan<'a> {
    title: &'static str,
    scenarios: Vec<&'a Scenario>,
    common: &'a Common,
    /// Who is measured if nobody is named.
    otherwise: &'static str,
    rounds: u32,
    seconds: u64,
    profile: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.command {
        Some(Command::FloorServe { port, each }) => floor::serve(*port, *each).map_err(Into::into),
        Some(Command::Growth { only, common, rounds, seconds }) => {
            raise_descriptors().and_then(|()| growth::run(only, common, *rounds, *seconds))
        }
        Some(Command::Crowd { common, clients, seconds }) => {
            let crowd = scenario::crowd(*clients as usize);
            let (rounds, seconds, profile) = (1, *seconds, false);
            bench(&Plan {
                title: "crowd",
                scenarios: vec![&crowd],
                common,
                otherwise: "weirmq",
                rounds,
                seconds,
                profile,
            })
        }
        None => scenario::chosen(&args.only).map_err(Into::into).and_then(|scenarios| {
            let Args { rounds, seconds, profile, common, .. } = &args;
            let (rounds, seconds, profile) = (*rounds, *seconds, *profile);
            bench(&Plan { title: "scenarios", scenarios, common, otherwise: "all", rounds, seconds, profile })
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scenarios: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Plan<'_>) -> Result<(), Box<dyn Error>> {
    raise_descriptors()?;
    let scenarios = &args.scenarios;
    let peers = peers::chosen(&args.common.peers(args.otherwise))?;
    let plan: Vec<_> = scenarios
        .iter()
        .flat_map(|scenario| (1..=args.rounds).map(move |round| (scenario, round)))
        .flat_map(|(scenario, round)| peers.iter().map(move |peer| (scenario, round, peer)))
        .filter(|(scenario, _, peer)| peer.can(scenario))
        .collect();
    let each = Duration::from_secs(args.seconds) + AROUND;
    eprintln!("{} runs, about {}", plan.len(), minutes(each * plan.len() as u32));
    let mut report = Report::new(args.title, args.seconds, args.rounds, &peers);
    let start = Instant::now();
    for (index, (scenario, round, peer)) in plan.iter().enumerate() {
        let left = match index {
            0 => each * plan.len() as u32,
            done => start.elapsed() / done as u32 * (plan.len() - done) as u32,
        };
        let place = format!("[{}/{}, {} left]", index + 1, plan.len(), minutes(left));
        eprint!("{place} {:8} round {round} {:10} ", scenario.name, peer.name);
        match run(scenario, peer, args, *round) {
            Ok(metrics) => {
                let run = Run { scenario: scenario.name, peer: peer.name.clone(), round: *round, metrics };
                eprintln!("{}", report::brief(scenario, &run));
                report.runs.push(run);
            }
            Err(error) => {
                eprintln!("failed: {error}");
                report.failures.push(format!("{} {} round {round}: {error}", scenario.name, peer.name));
            }
        }
    }
    report.finish(scenarios, args.common.json.as_deref())?;
    if report.failures.is_empty() { Ok(()) } else { Err("some runs failed".into()) }
}

/// One measurement of one broker, started afresh.
fn run(scenario: &Scenario, peer: &Peer, args: &Plan<'_>, round: u32) -> figures::Outcome {
    let mut broker = Broker::start(peer, &scenario.setup())?;
    let seconds = Duration::from_secs(args.seconds);
    let profile = args.profile.then(|| report::profile_path(scenario.name, &peer.name, round)).transpose()?;
    Ok(match &scenario.kind {
        Kind::Load(shape) => load::run(&broker, scenario, shape, seconds, profile.as_deref())?,
        Kind::Latency => latency::run(&broker, scenario, seconds)?,
        Kind::Idle { connections } => idle::run(&broker, *connections, seconds)?,
        Kind::Crowd { clients } => crowd::run(&broker, scenario, *clients, seconds)?,
        Kind::Backlog(shape) => backlog::run(&mut broker, scenario, shape)?,
    })
}

/// Thousands of sockets here and, since it inherits the limit, in the broker.
fn raise_descriptors() -> Result<(), Box<dyn Error>> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}
