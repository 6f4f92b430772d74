//! The command line of `weirmq`: what it serves with, and its subcommands.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::auth::passwd::PasswdArgs;
use crate::client::{PubArgs, SubArgs};
use crate::dev_certs::DevCertsArgs;
use crate::offline::StoreArgs;

/// An MQTT 3.1, 3.1.1 and 5.0 broker that keeps what bursts in until each consumer has drained it.
///
/// Without a subcommand it serves. Without -c it reads no file and listens on 127.0.0.1:1883 for anonymous clients.
#[derive(Debug, Parser)]
#[command(name = "weirmq", version, args_conflicts_with_subcommands = true, after_help = SERVE_HELP)]
pub struct Arguments {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Arguments {
    /// What to do: serve, if nothing else is said.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

const SERVE_HELP: &str = "\
Environment variables win over the files: WEIRMQ__LIMITS__MAX_INFLIGHT=64 sets `max_inflight` of `[limits]`.

Exit codes: 0 ended by SIGTERM or SIGINT, or -t found no error; 1 it could not start or go on; 2 wrong usage; \
3 the configuration cannot be used.";

/// What `weirmq` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker; the same as no subcommand
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// Publish messages
    Pub(Box<PubArgs>),
    /// Subscribe, and print messages or run a command for each
    Sub(Box<SubArgs>),
    /// Write a test CA, a server and a client certificate
    DevCerts(DevCertsArgs),
    /// Add a user to a password file, or change or remove one
    Passwd(PasswdArgs),
    /// Look into a data folder on which no broker runs, take out what it holds, put it into another
    Store(StoreArgs),
}

/// How the broker runs.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// A configuration file; of several, a later one wins, key by key
    #[arg(short, long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Check the configuration, certificates included, and exit: 0 if it can be used, 3 if not
    #[arg(short, long)]
    pub test_config: bool,
    /// Log more than the configured level; twice, more still
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less than the configured level; twice, less still
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(Arguments::into_command)
    }

    #[test]
    fn serving_needs_no_word() {
        for line in ["weirmq -c a.toml --config b.toml -vv", "weirmq serve -c a.toml -c b.toml -v -v"] {
            let Ok(Command::Serve(args)) = parse(line) else { panic!("{line}") };
            assert_eq!(args.config, [PathBuf::from("a.toml"), PathBuf::from("b.toml")]);
            assert_eq!((args.verbose, args.quiet, args.test_config), (2, 0, false));
        }
        assert!(matches!(parse("weirmq"), Ok(Command::Serve(_))));
        assert!(matches!(parse("weirmq -t"), Ok(Command::Serve(ServeArgs { test_config: true, .. }))));
    }

    #[test]
    fn a_subcommand_has_its_letters_to_itself() {
        assert!(matches!(parse("weirmq pub -h localhost -q 1 -t a -m b"), Ok(Command::Pub(_))));
        assert!(matches!(parse("weirmq sub -c -i me -q 1 -v -t a"), Ok(Command::Sub(_))));
        assert!(matches!(parse("weirmq dev-certs certs"), Ok(Command::DevCerts(_))));
    }

    #[test]
    fn what_contradicts_itself_is_wrong_usage() {
        for line in ["weirmq -v -q", "weirmq -t pub -t a -m b", "weirmq serve -v -q", "weirmq a.toml"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
