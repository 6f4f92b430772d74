//! Instructions as callgrind counts them, held against bounds. They do not depend on the machine's speed or load, so a
//! change that makes a packet dearer shows at once, and nothing else does.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

use crate::Make;

/// Calls that are counted.
const CALLS: u32 = 8;

/// The most that each case may take.
const BOUNDS: &str = include_str!("bounds.toml");

/// What came of a case: its unit and the instructions per unit, or why there are none.
type Counted = Result<(String, f64), String>;

/// Counts the chosen cases, as many at a time as there are processors, and says which are over their bound.
pub fn check<'c>(chosen: impl Iterator<Item = &'c (&'static str, Make)>) -> ExitCode {
    let bounds: BTreeMap<String, f64> = match toml::from_str(BOUNDS) {
        Ok(bounds) => bounds,
        Err(error) => {
            println!("bounds.toml: {error}");
            return ExitCode::FAILURE;
        }
    };
    let chosen: Vec<_> = chosen.collect();
    let waiting = Mutex::new(chosen.iter().enumerate());
    let counted: Mutex<Vec<Option<Counted>>> = Mutex::new(vec![None; chosen.len()]);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no case panics here").next();
                    let Some((index, (name, _))) = next else { break };
                    let result = count(name);
                    counted.lock().expect("no case panics here")[index] = Some(result);
                }
            });
        }
    });
    let counted = counted.into_inner().expect("no case panics here");
    println!("{:20} {:>12} {:>9}", "", "instructions", "at most");
    let mut problems = Vec::new();
    for ((name, _), counted) in chosen.iter().zip(counted.into_iter().flatten()) {
        match (counted, bounds.get(*name)) {
            (Err(error), _) => problems.push(format!("{name}: {error}")),
            (Ok(_), None) => problems.push(format!("{name} has no bound")),
            (Ok((unit, instructions)), Some(&bound)) => {
                println!("{name:20} {instructions:12.1} {bound:9} per {unit}");
                if instructions > bound {
                    let over = (instructions / bound - 1.0) * 100.0;
                    problems.push(format!(
                        "{name} takes {instructions:.1} instructions per {unit}: {over:.1} % over its bound of {bound}"
                    ));
                }
            }
        }
    }
    for problem in &problems {
        println!("TOO DEAR: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn count(name: &str) -> Counted {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counted_call*"])
        .arg("--callgrind-out-file=/dev/null")
        .arg(this)
        .args(["--calls", &CALLS.to_string(), name])
        .output()
        .map_err(|error| format!("valgrind does not start: {error}"))?;
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let collected =
        said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
    let units =
        told.trim().split_once(' ').and_then(|(count, unit)| Some((count.parse::<f64>().ok()?, unit)));
    match (collected, units) {
        (Some(collected), Some((per_call, unit))) if collected > 0.0 && output.status.success() => {
            Ok((unit.to_owned(), collected / f64::from(CALLS) / per_call))
        }
        _ => Err(format!("callgrind counted nothing:\n{told}{said}")),
    }
}
