//! The broker's core without sockets, threads or kernel: what a packet costs to read, to match, to write and to carry all
//! the way through a shard. A change is tried here first; whether it matters, `scenarios` says.
//!
//! By default each figure is the fastest of many calls, in nanoseconds: what the code costs when nothing disturbs it.
//! With `--instructions` it is counted by callgrind instead and held against `bounds.toml`.

mod bench;
mod codec;
mod disk;
mod guard;
mod matching;
mod shard;
mod store;
mod traffic;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// For how long the fastest call is looked for.
const MEASURED: Duration = Duration::from_millis(300);

/// What is measured: a call that does many things of one kind.
struct Case {
    /// What these things are.
    unit: &'static str,
    /// How many in one call.
    per_call: usize,
    work: Box<dyn Work>,
}

/// A call, and what has to happen before it and does not count.
trait Work {
    fn prepare(&mut self) {}
    fn call(&mut self);
}

impl<F: FnMut()> Work for F {
    fn call(&mut self) {
        self();
    }
}

type Make = fn() -> Case;

const CASES: &[(&str, Make)] = &[
    ("decode_publish", codec::decode_publish_v4),
    ("decode_publish_v5", codec::decode_publish_v5),
    ("decode_puback", codec::decode_puback),
    ("encode_header", codec::encode_header),
    ("encode_header_v5", codec::encode_header_v5),
    ("route", matching::route),
    ("miss", matching::miss),
    ("miss_among_many", matching::miss_among_many),
    ("match", matching::matching),
    ("match_known", matching::known),
    ("fan0", shard::fan0),
    ("fan0_single", shard::fan0_single),
    ("fan1", shard::fan1),
    ("acknowledge", shard::acknowledge),
    ("pair0", shard::pair0),
    ("pair1", shard::pair1),
    ("wild0", shard::wild0),
    ("durable", store::durable),
    ("journal_append", store::append),
];

const USAGE: &str = "\
usage: micro [PART…]                  times the cases whose names contain a part, or all of them
       micro --instructions [PART…]   counts their instructions (needs valgrind) and compares them with bounds.toml
       micro --calls N CASE           makes N calls of one case, after some that warm it up, for a profiler";

fn main() -> ExitCode {
    let (mut parts, mut calls, mut counts) = (Vec::new(), None, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--instructions" => counts = true,
            "--calls" => calls = args.next().and_then(|number| number.parse::<u32>().ok()),
            option if option.starts_with('-') => {
                println!("{USAGE}");
                return if option == "--help" { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
            part => parts.push(part.to_owned()),
        }
    }
    if let Some(calls) = calls {
        let Some((_, make)) = CASES.iter().find(|(name, _)| parts.iter().any(|part| part == name)) else {
            println!("{USAGE}");
            return ExitCode::FAILURE;
        };
        let mut case = make();
        run(&mut case, calls);
        println!("{} {}", case.per_call, case.unit);
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()));
    let chosen = CASES.iter().filter(|(name, _)| wanted(name));
    if counts {
        return guard::check(chosen);
    }
    for (name, make) in chosen {
        let mut case = make();
        println!("{name:20} {:9.1} ns per {}", measure(&mut case), case.unit);
    }
    ExitCode::SUCCESS
}

/// Nanoseconds per thing done.
fn measure(case: &mut Case) -> f64 {
    let (mut spent, mut best) = (Duration::ZERO, Duration::MAX);
    while spent < MEASURED {
        case.work.prepare();
        let start = Instant::now();
        counted_call(case.work.as_mut());
        let took = start.elapsed();
        best = best.min(took);
        spent += took;
    }
    best.as_secs_f64() * 1e9 / case.per_call as f64
}

/// Calls that nobody counts: buffers get their size, caches their contents.
const WARM_UP: u32 = 4;

fn run(case: &mut Case, calls: u32) {
    for _ in 0..WARM_UP {
        case.work.prepare();
        case.work.call();
    }
    for _ in 0..calls {
        case.work.prepare();
        counted_call(case.work.as_mut());
    }
}

/// What callgrind counts, by this name: a call, and nothing around it.
#[inline(never)]
fn counted_call(work: &mut dyn Work) {
    black_box(work).call();
}
