//! The life of the process around a server: it serves until a signal ends it, and takes up its configuration again at
//! SIGHUP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use crate::config::{Config, ConfigError};
use crate::logging::Log;

use super::{Server, ServerError};

/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What gives the configuration again, from where it came at the start.
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Serves until SIGTERM or SIGINT, then ends every connection with its DISCONNECT. A second signal ends it at once. At
/// SIGHUP it goes on by what `load` gives.
///
/// # Errors
/// If it cannot start, if a shard or the store fails, or at a second signal.
pub fn run(config: Config, load: Load, log: &Log) -> Result<(), ServerError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ServerError::System)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(ServerError::System)?;
        let mut server = Server::start(config)?;
        serve(&mut server, &mut signals, &load, log).await?;
        let stopping = tokio::task::spawn_blocking(move || server.shutdown());
        tokio::select! {
            stopped = stopping => stopped.unwrap_or(Err(ServerError::Broken)),
            () = signals.end() => Err(ServerError::Interrupted),
        }
    })
}

/// Until a signal asks for the end.
async fn serve(
    server: &mut Server,
    signals: &mut Signals,
    load: &Load,
    log: &Log,
) -> Result<(), ServerError> {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Reload => reload(server, load, log).await,
                Asked::End(name) => {
                    info!(signal = name, "stopping");
                    return Ok(());
                }
            },
            _ = look.tick() => server.look_at_certificates(),
            ended = server.ended.recv() => {
                let error = ended.unwrap_or(ServerError::Broken);
                if matches!(error, ServerError::Store(_)) {
                    // Nothing can be acknowledged any more: there is nothing to wait for, and nothing more to say.
                    server.threads.clear();
                    let _known = server.stop();
                }
                return Err(error);
            }
        }
    }
}

/// Goes on by the configuration as it is now, or says why not.
async fn reload(server: &mut Server, load: &Load, log: &Log) {
    let load = load.clone();
    let loaded = tokio::task::spawn_blocking(move || load()).await;
    let config = match loaded {
        Ok(Ok(config)) => config,
        Ok(Err(error)) => return error!(%error, "not reloaded: everything stays as it was"),
        Err(error) => return error!(%error, "not reloaded: everything stays as it was"),
    };
    let level = config.log.level;
    match server.reload(config) {
        Ok(taken) => {
            taken.by_all().await;
            log.set_level(level);
            info!("reloaded");
        }
        Err(error) => error!(%error, "not reloaded: everything stays as it was"),
    }
}

/// What a signal asks for.
enum Asked {
    /// The end; by which signal.
    End(&'static str),
    Reload,
}

/// The signals that the server listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    /// One that ends the server.
    async fn end(&mut self) {
        while let Asked::Reload = self.next().await {}
    }
}
