//! What `weirmq sub` does with messages: print them, or run a command for one.

use std::io::{self, Write};
use std::time::SystemTime;

use super::exec;
use super::failure::Failure;
use super::format::Format;
use super::wire::Received;

/// What is done with messages.
#[derive(Clone, Debug)]
pub(super) enum Handler {
    /// Each is printed.
    Print(Format),
    /// The command is run for each.
    Exec(String),
}

/// Messages that are handled together.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) messages: Vec<Received>,
    /// From 1.
    pub(super) attempt: u32,
}

/// A job with its outcome.
pub(super) type Handled = (Job, Result<(), Undone>);

/// Why a job is not done.
pub(super) enum Undone {
    /// It is to be tried again; why, in words.
    Again(String),
    /// There is no point in going on.
    Final(Failure),
}

impl Handler {
    /// How many messages go into one job.
    pub(super) fn at_once(&self) -> usize {
        match self {
            Handler::Print(_) => 1_000,
            Handler::Exec(_) => 1,
        }
    }

    /// Does the job, and gives it back with the outcome.
    pub(super) async fn handle(self, job: Job) -> Handled {
        let outcome = match self {
            Handler::Print(format) => print(&format, &job.messages).await.map_err(Undone::Final),
            Handler::Exec(command) => run(&command, &job).await.map_err(Undone::Again),
        };
        (job, outcome)
    }
}

async fn run(command: &str, job: &Job) -> Result<(), String> {
    for message in &job.messages {
        exec::run(command, message, job.attempt).await?;
    }
    Ok(())
}

/// Prints in a thread of its own: whoever reads the output may take long, and the connection has to be kept
/// alive.
async fn print(format: &Format, messages: &[Received]) -> Result<(), Failure> {
    let mut text = Vec::new();
    for message in messages {
        if let Err(error) = format.print(message, SystemTime::now(), &mut text) {
            super::say("sub", error);
        }
    }
    let write = move || {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&text)?;
        stdout.flush()
    };
    match tokio::task::spawn_blocking(write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::output_closed()),
        Ok(Err(error)) => Err(Failure::local(format_args!("standard output: {error}"))),
        Err(error) => Err(Failure::local(error)),
    }
}
