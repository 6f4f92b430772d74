//! `weirmq store`: looks into a data folder while no broker runs on it, takes what it holds out, and puts it into another.

mod check;
mod export;
mod import;
mod line;
mod pages;

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use clap::{Args, Subcommand};

use crate::clock::Clock;
use crate::store::error::OpenError;

/// What to do with a data folder.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

/// The commands of `weirmq store`.
#[derive(Clone, Debug, Subcommand)]
enum StoreCommand {
    /// Verify every record and say what is in the folder; nothing in it is changed
    #[command(
        after_help = "Exit codes: 0 sound; 1 it cannot be read, or something in it is lost or not sound."
    )]
    Check {
        /// The data folder; no broker may run on it
        folder: PathBuf,
    },
    /// Write sessions, queued and retained messages as JSON lines to standard output; nothing in the folder is changed
    Export {
        /// The data folder; no broker may run on it
        folder: PathBuf,
    },
    /// Read such lines from standard input into a folder, which is made if it is missing
    #[command(
        after_help = "A session or topic that the folder has already is left as it is, and its lines are refused."
    )]
    Import {
        /// The data folder; no broker may run on it
        folder: PathBuf,
    },
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    Open(OpenError),
    /// Reading the lines or writing to the terminal.
    Io(io::Error),
    /// A line of the input, and what is wrong with it.
    Line(usize, String),
    /// The store could not go on.
    Store(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Open(error) => write!(f, "{error}"),
            Failure::Io(error) => write!(f, "{error}"),
            Failure::Line(number, error) => write!(f, "line {number}: {error}"),
            Failure::Store(error) => write!(f, "{error}"),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        Failure::Open(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

/// Does what the command line says; `now` is the time by both clocks.
pub fn run(args: &StoreArgs, now: (Instant, SystemTime)) -> ExitCode {
    let wall = now.1.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let clock = Clock::new(now.0, wall);
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match &args.command {
        StoreCommand::Check { folder } => check::run(folder, clock, now.0, &mut out),
        StoreCommand::Export { folder } => export::run(folder, clock, now.0, &mut out).map(|()| true),
        StoreCommand::Import { folder } => {
            import::run(folder, clock, now.0, io::stdin().lock(), &mut out).map(|()| true)
        }
    };
    let done = done.and_then(|sound| Ok(out.flush().map(|()| sound)?));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weirmq: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is missing is not made by looking at it.
fn must_exist(folder: &Path) -> Result<(), Failure> {
    let kind = folder.metadata().and_then(|kind| match kind.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    kind.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())).into())
}
