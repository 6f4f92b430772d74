//! The `weirmq` binary: reads the command line and does what it says.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use clap::Parser;
use weirmq::arguments::{Arguments, Command, ServeArgs};
use weirmq::auth::{Auth, passwd};
use weirmq::config::Config;
use weirmq::{client, dev_certs, logging, offline, server};

/// The exit code of a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 3;

fn main() -> ExitCode {
    match Arguments::parse().into_command() {
        Command::Serve(args) => serve(&args),
        Command::Pub(args) => client::run_pub(*args),
        Command::Sub(args) => client::run_sub(*args),
        Command::DevCerts(args) => dev_certs::run(&args, SystemTime::now()),
        Command::Passwd(args) => passwd::run(&args),
        Command::Store(args) => offline::run(&args, (Instant::now(), SystemTime::now())),
    }
}

fn serve(args: &ServeArgs) -> ExitCode {
    let load = loader(args);
    let config = match load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("weirmq: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if args.test_config {
        for doubt in Auth::check(&config).unwrap_or_default() {
            eprintln!("weirmq: warning: {doubt}");
        }
        println!("weirmq: the configuration is valid");
        return ExitCode::SUCCESS;
    }
    // Until it is dropped, the last lines are not sure to be written.
    let log = match logging::start(config.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("weirmq: {error}");
            return ExitCode::FAILURE;
        }
    };
    match server::run(config, load, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "stopped");
            ExitCode::FAILURE
        }
    }
}

/// What loads the configuration, at the start and at every reload.
fn loader(args: &ServeArgs) -> server::Load {
    let files = args.config.clone();
    let steps = i16::from(args.verbose) - i16::from(args.quiet);
    Arc::new(move || {
        let mut config = Config::load(&files, std::env::vars_os())?;
        Auth::check(&config)?;
        config.log.level = logging::shifted(config.log.level, steps);
        Ok(config)
    })
}
