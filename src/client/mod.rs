//! `weirmq pub` and `weirmq sub`: an MQTT 3.1.1 and 5.0 client for the command line. [`arguments`] are taken
//! together to the options of a connection, a link over one of the transports sends and receives packets through one of two
//! wires, and a publisher or a subscriber sits on top.

mod address;
mod arguments;
mod exec;
mod failure;
mod format;
mod handler;
mod inbox;
mod interrupts;
mod json;
mod link;
mod options;
mod property_args;
mod publisher;
mod subscriber;
mod timestamp;
mod tls;
mod transport;
mod websocket;
mod wire;

use std::fmt::Display;
use std::process::ExitCode;

pub use arguments::{PubArgs, SubArgs};
use failure::Failure;

/// Runs `weirmq pub` to its end.
pub fn run_pub(args: PubArgs) -> ExitCode {
    run("pub", publisher::publish(args))
}

/// Runs `weirmq sub` to its end.
pub fn run_sub(args: SubArgs) -> ExitCode {
    run("sub", subscriber::subscribe(args))
}

fn run(command: &str, future: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(command, error);
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(future);
    // A thread that looks up a name or writes to a full pipe must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let line = failure.to_string();
            if !line.is_empty() {
                say(command, line);
            }
            failure.exit_code()
        }
    }
}

/// One line on standard error.
fn say(command: &str, line: impl Display) {
    eprintln!("weirmq {command}: {line}");
}
