//! Whether the server still moves: each shard and the store are asked, and each answers when it has finished a turn or a
//! step after that. Who does not answer is stuck, however busy its thread may look.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::net::lane::Mail;
use crate::store::thread::Heart;

use super::notify::Notifier;

/// Signs of life come so many times more often than they are awaited.
const OFTENER: u32 = 4;

/// The way to all that has to move.
pub(super) struct Pulse {
    pub(super) shards: Vec<mpsc::UnboundedSender<Mail>>,
    pub(super) store: Option<Heart>,
}

impl Pulse {
    /// Returns when everything has moved.
    async fn beat(&self) {
        let (question, mut answered) = mpsc::channel(1);
        for shard in &self.shards {
            // One that is gone has ended the server.
            let _ = shard.send(Mail::Question(question.clone()));
        }
        if let Some(store) = &self.store {
            store.ask(Box::new(question.clone()));
        }
        drop(question);
        // It is closed when the last one has dropped its question.
        answered.recv().await;
    }
}

/// Gives signs of life for as long as there are any.
pub(super) async fn feed(pulse: Pulse, notifier: Arc<Notifier>) {
    let Some(watchdog) = notifier.watchdog() else { return };
    loop {
        pulse.beat().await;
        notifier.alive();
        sleep(watchdog / OFTENER).await;
    }
}
