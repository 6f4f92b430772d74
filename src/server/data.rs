//! The data folder of a running server: opened before anything else, closed after everything else, and in the log what it
//! promises and what was in it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{Config, SyncMode};
use crate::net::lane::Bell;
use crate::store::Store;
use crate::store::error::OpenError;
use crate::store::fifo::Waker;
use crate::store::folder::Folder;
use crate::store::memory::MemoryStore;
use crate::store::open::{StoreOptions, Sync};
use crate::store::restored::Restored;
use crate::store::thread::{self, Heart, Running};

use super::ServerError;

/// What every shard needs of the store, and what there is to restore.
pub(super) struct Opened {
    /// Each shard's handle.
    pub handles: Vec<Box<dyn Store + Send>>,
    /// What outlived the last process.
    pub restored: Restored,
    /// What is to be closed at the end.
    pub data: Data,
}

/// A store that runs, if there is one.
pub(super) struct Data(Option<Running>);

/// Opens the data folder as the configuration says; `failed` is told once, if the store ends by itself.
///
/// # Errors
/// If it cannot be used.
pub(super) fn open(
    config: &Config,
    bells: &[Arc<Bell>],
    failed: impl FnOnce(String) + Send + 'static,
) -> Result<Opened, ServerError> {
    let sync = match config.store.sync {
        SyncMode::Off => {
            let handle = |_| Box::new(MemoryStore::default()) as Box<dyn Store + Send>;
            let handles = bells.iter().map(handle).collect();
            return Ok(Opened { handles, restored: Restored::default(), data: Data(None) });
        }
        SyncMode::Os => Sync::Os,
        SyncMode::Always => Sync::Always,
    };
    let unusable = |error: OpenError| ServerError::Data(error.to_string());
    let folder = Folder::open(&config.data_dir).map_err(unusable)?;
    let options = StoreOptions {
        sync,
        segment_size: config.store.segment_size.into(),
        max_size: config.store.max_size,
        reserve: config.store.reserve,
        ..StoreOptions::new(fastrand::u64(..))
    };
    let wake = |bell: &Arc<Bell>| {
        let bell = bell.clone();
        Arc::new(move || bell.ring()) as Waker
    };
    let wakers = bells.iter().map(wake).collect();
    let mut alarm = Alarm(Some(failed));
    let failed = move |error| alarm.tell(error);
    let opened = thread::open(Arc::new(folder), &options, clock(), Instant::now, wakers, failed);
    let thread::Opened { restored, handles, running } = opened.map_err(unusable)?;
    let handles = handles.into_iter().map(|handle| Box::new(handle) as Box<dyn Store + Send>).collect();
    Ok(Opened { handles, restored, data: Data(Some(running)) })
}

/// The present moment on both clocks.
fn clock() -> Clock {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Clock::new(Instant::now(), u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
}

/// Says that the store has ended, a panic included: then it is dropped without having been told why.
struct Alarm<F: FnOnce(String)>(Option<F>);

impl<F: FnOnce(String)> Alarm<F> {
    fn tell(&mut self, error: String) {
        if let Some(failed) = self.0.take() {
            failed(error);
        }
    }
}

impl<F: FnOnce(String)> Drop for Alarm<F> {
    fn drop(&mut self) {
        self.tell("its thread is gone".to_owned());
    }
}

/// Says in the log what the broker's word is worth with this configuration.
pub(super) fn promise(config: &Config) {
    let folder = config.data_dir.display();
    match config.store.sync {
        SyncMode::Always => info!(%folder, sync = "always", "what is acknowledged survives a loss of power"),
        SyncMode::Os => warn!(
            %folder,
            sync = "os",
            "what is acknowledged survives the end of the broker, but not a loss of power"
        ),
        SyncMode::Off => {
            warn!(sync = "off", "nothing is kept on disk: what is queued does not survive the broker")
        }
    }
}

/// Says in the log what was in the folder, if anything was.
pub(super) fn tell(restored: &Restored) {
    let Restored { sessions, groups, retained, .. } = restored;
    if sessions.is_empty() && groups.is_empty() && retained.is_empty() {
        return;
    }
    let subscriptions: usize = sessions.iter().map(|session| session.subscriptions.len()).sum();
    let of_sessions: u64 =
        sessions.iter().map(|session| session.waiting.messages + session.sent.len() as u64).sum();
    let of_groups: u64 = groups.iter().map(|group| group.waiting.messages).sum();
    info!(
        sessions = sessions.len(),
        subscriptions,
        groups = groups.len(),
        queued = of_sessions + of_groups,
        retained = retained.len(),
        "restored"
    );
}

impl Data {
    /// How to ask the store whether it moves, if there is one.
    pub(super) fn heart(&self) -> Option<Heart> {
        self.0.as_ref().map(Running::heart)
    }

    /// Returns once everything that was pushed is kept.
    ///
    /// # Errors
    /// If it could not be.
    pub(super) fn close(&mut self) -> Result<(), ServerError> {
        let Some(running) = self.0.take() else { return Ok(()) };
        running.stop().map_err(|failure| ServerError::Store(failure.to_string()))
    }
}
