//! How a client command ends when it does not end well: the exit code, the line for standard error, and
//! whether another attempt may fare better.

use std::fmt;
use std::process::ExitCode;

use super::wire::Refusal;
use crate::protocol::reason::{ProtocolError, ReasonCode};

/// The exit codes that `--help` documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Something on this side: a file, standard input, standard output.
    Local = 1,
    /// The command line.
    Usage = 2,
    /// No connection: name, TCP, TLS, or no CONNACK.
    Unreachable = 3,
    /// CONNECT was refused.
    ConnectRefused = 4,
    /// PUBLISH or SUBSCRIBE was refused.
    Refused = 5,
    /// The connection ended too early.
    Lost = 6,
    /// `-W` ran out; the number is mosquitto_sub's.
    TimedOut = 27,
}

/// Why a command gives up, or a subscriber connects again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// Whether the same attempt may succeed later.
    pub(super) transient: bool,
    /// One line without a full stop; nothing is printed if it is empty.
    message: String,
}

impl Failure {
    fn new(exit: Exit, transient: bool, message: impl fmt::Display) -> Failure {
        Failure { exit, transient, message: message.to_string() }
    }

    pub(super) fn local(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Local, false, message)
    }

    pub(super) fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, false, message)
    }

    pub(super) fn unreachable(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Unreachable, true, message)
    }

    pub(super) fn lost(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Lost, true, format_args!("connection lost: {message}"))
    }

    pub(super) fn timed_out() -> Failure {
        Failure::new(Exit::TimedOut, false, "timed out")
    }

    /// Whoever read standard output is gone, which is no news to them.
    pub(super) fn output_closed() -> Failure {
        Failure::new(Exit::Local, false, "")
    }

    /// The broker breaks the protocol.
    pub(super) fn broken(error: &ProtocolError) -> Failure {
        Failure::new(Exit::Lost, false, format_args!("the broker broke the protocol: {error}"))
    }

    pub(super) fn connect_refused(refusal: &Refusal) -> Failure {
        let transient = passes(refusal.reason);
        Failure::new(Exit::ConnectRefused, transient, format_args!("CONNECT refused: {refusal}"))
    }

    pub(super) fn refused(what: impl fmt::Display, refusal: &Refusal) -> Failure {
        Failure::new(Exit::Refused, false, format_args!("{what} refused: {refusal}"))
    }

    /// The server sent DISCONNECT. Two clients with one Client Identifier would take turns for ever, so a
    /// take-over is final.
    pub(super) fn disconnected(why: &Refusal) -> Failure {
        let transient = passes(why.reason)
            || matches!(
                why.reason,
                ReasonCode::Success
                    | ReasonCode::ServerShuttingDown
                    | ReasonCode::KeepAliveTimeout
                    | ReasonCode::ReceiveMaximumExceeded
                    | ReasonCode::MessageRateTooHigh
                    | ReasonCode::AdministrativeAction
                    | ReasonCode::MaximumConnectTime
            );
        Failure::new(Exit::Lost, transient, format_args!("the broker ended the connection: {why}"))
    }

    /// The same with more to say.
    pub(super) fn with(mut self, more: impl fmt::Display) -> Failure {
        self.message = format!("{}; {more}", self.message);
        self
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

/// Whether what `reason` says passes by itself.
fn passes(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::UnspecifiedError
            | ReasonCode::ServerUnavailable
            | ReasonCode::ServerBusy
            | ReasonCode::QuotaExceeded
            | ReasonCode::ConnectionRateExceeded
    )
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
