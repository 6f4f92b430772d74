//! The life of the process around a server: it serves until a signal ends it, and takes up its configuration again at
//! SIGHUP.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing::level_filters::LevelFilter;
use tracing::{error, info};

use crate::config::{Config, ConfigError};
use crate::logging::Log;

use super::activation::Inherited;
use super::notify::Notifier;
use super::{Server, ServerError, pulse};

/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How often memory and the store are.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// What gives the configuration again, from where it came at the start.
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Serves until SIGTERM or SIGINT, then ends every connection with its DISCONNECT. A second signal ends it at once. At
/// SIGHUP it goes on by what `load` gives.
///
/// # Errors
/// If it cannot start, if a shard or the store fails, or at a second signal.
pub fn run(config: Config, load: Load, log: &Log) -> Result<(), ServerError> {
    take_descriptors();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ServerError::System)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(ServerError::System)?;
        let notifier = Arc::new(Notifier::from_environment());
        let mut server = Server::start_with(config, Inherited::from_environment())?;
        notifier.ready(&server.status());
        let feeding = tokio::spawn(pulse::feed(server.pulse(), notifier.clone()));
        let asked = serve(&mut server, &mut signals, &Operator { load, log, notifier: &notifier }).await;
        feeding.abort();
        notifier.stopping();
        asked?;
        let stopping = tokio::task::spawn_blocking(move || server.shutdown());
        tokio::select! {
            stopped = stopping => stopped.unwrap_or(Err(ServerError::Broken)),
            () = signals.end() => Err(ServerError::Interrupted),
        }
    })
}

/// Takes as many descriptors as the process may have: the limit below that is for programs that cannot count to 1024.
fn take_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Fewer are enough to begin with.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Until a signal asks for the end.
async fn serve(
    server: &mut Server,
    signals: &mut Signals,
    operator: &Operator<'_>,
) -> Result<(), ServerError> {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look_around = interval(LOOK_AROUND);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Reload => reload(server, operator).await,
                Asked::End(name) => {
                    info!(signal = name, "stopping");
                    return Ok(());
                }
            },
            _ = look.tick() => server.look_at_certificates(),
            _ = look_around.tick() => server.look_around(),
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

/// What the process has for whoever runs it.
struct Operator<'a> {
    load: Load,
    log: &'a Log,
    notifier: &'a Notifier,
}

/// Goes on by the configuration as it is now, or says why not.
async fn reload(server: &mut Server, operator: &Operator<'_>) {
    let Operator { load, log, notifier } = operator;
    notifier.reloading();
    match try_reload(server, load).await {
        Ok(level) => {
            log.set_level(level);
            info!("reloaded");
            notifier.ready(&server.status());
        }
        Err(error) => {
            error!(%error, "not reloaded: everything stays as it was");
            notifier.ready(&format!("{}; the last reload failed: {error}", server.status()));
        }
    }
}

/// Returns when every shard goes by the new configuration; the level of its log.
async fn try_reload(server: &mut Server, load: &Load) -> Result<LevelFilter, Box<dyn Error + Send + Sync>> {
    let load = load.clone();
    let config = tokio::task::spawn_blocking(move || load()).await??;
    let level = config.log.level;
    server.reload(config)?.by_all().await;
    Ok(level)
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
