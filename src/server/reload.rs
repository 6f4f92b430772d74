//! A reload: a running server goes on by another configuration. Everything that can fail is done first, so that it happens
//! wholly or not at all; then every shard is told, and what only a restart can change is named in the log.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use crate::broker::shard::Rules;
use crate::config::Config;
use crate::flow::registry::Flow;
use crate::net::lane::{Mail, Reload};
use crate::net::listener::Doorway;

use super::memory::Watch;
use super::{Server, ServerError, retained_limits, rules, warn_of_passwords};

/// Tells when every shard goes by what was reloaded.
#[must_use]
pub struct Taken(mpsc::Receiver<Infallible>);

impl Taken {
    /// Returns when they all do.
    pub async fn by_all(mut self) {
        self.0.recv().await;
    }

    /// The same for a thread that may wait.
    pub fn wait(mut self) {
        self.0.blocking_recv();
    }
}

impl Server {
    /// Goes on by `config`, apart from what only a restart can change: the shards, the data folder, how the store keeps, and
    /// the form of the log. No connection ends for it, but those of clients whose certificate is not accepted any more.
    ///
    /// # Errors
    /// As for [`Server::start`]; then everything is as it was.
    pub fn reload(&mut self, config: Config) -> Result<Taken, ServerError> {
        let acl = rules::load(&config)?;
        let plan = self.doors.plan(&config.listeners, self.senders.len())?;
        self.auth.reload(&config).map_err(ServerError::Auth)?;
        warn_of_passwords(&config, &self.auth);
        let changes = self.doors.apply(plan);
        self.addresses = self.doors.addresses();
        self.admission.set_limits(&config.limits);
        self.shared.set_retained_limits(retained_limits(&config.limits));
        for key in needing_a_restart(&self.config, &config) {
            warn!(key, "has changed, which takes a restart: until then the old value holds");
        }
        let access = match (acl, self.shared.rules()) {
            (None, before) if before.acl.is_none() => before,
            (acl, _) => self.shared.set_rules(acl),
        };
        let rules = Rules {
            access,
            limits: Arc::new(config.limits.clone()),
            share_rules: config.shared_subscriptions.clone().into(),
            queue_rules: config.queues.clone().into(),
            flow: self.flow_for(&config),
            sys_interval: config.sys_interval,
        };
        if (self.config.limits.memory, self.config.limits.outbound_total)
            != (config.limits.memory, config.limits.outbound_total)
        {
            self.memory = Watch::new(&config.limits);
            self.tell_memory();
        }
        self.take_over(config);
        let taken = self.tell_shards(Some(rules), changes.recheck);
        // Behind the rules in every shard's mail: nobody comes by a new listener to one that does not go by them yet.
        for listeners in changes.added {
            for (sender, listener) in self.senders.iter().zip(listeners) {
                // A shard that is gone has ended the server.
                let _ = sender.send(Mail::Listen(listener));
            }
        }
        Ok(taken)
    }

    /// Takes up certificates, authorities and revocations whose files have changed. What cannot be used is said in the log,
    /// and what was used before stays.
    pub fn look_at_certificates(&mut self) {
        let recheck = self.doors.look();
        if !recheck.is_empty() {
            drop(self.tell_shards(None, recheck));
        }
    }

    fn tell_shards(&self, rules: Option<Rules>, recheck: Vec<Doorway>) -> Taken {
        let (taken, receiver) = mpsc::channel(1);
        let reload = Arc::new(Reload { rules, recheck, auth: self.auth.clone(), taken });
        for sender in &self.senders {
            let _ = sender.send(Mail::Reload(reload.clone()));
        }
        Taken(receiver)
    }

    /// The buckets, as full as they are, where their rates have not changed.
    fn flow_for(&mut self, config: &Config) -> Arc<Flow> {
        if (&self.config.rates, &self.config.deliveries) != (&config.rates, &config.deliveries) {
            self.flow = Arc::new(self.flow.with(config.rates.clone(), config.deliveries.clone()));
        }
        self.flow.clone()
    }

    fn take_over(&mut self, config: Config) {
        let old = &self.config;
        self.config = Config {
            shards: old.shards,
            data_dir: old.data_dir.clone(),
            store: old.store,
            log: crate::config::LogConfig { format: old.log.format, ..config.log },
            ..config
        };
    }
}

/// The keys whose new values cannot hold yet.
fn needing_a_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("shards", old.shards != new.shards),
        ("data_dir", old.data_dir != new.data_dir),
        ("store.sync", old.store.sync != new.store.sync),
        ("store.segment_size", old.store.segment_size != new.store.segment_size),
        ("store.max_size", old.store.max_size != new.store.max_size),
        ("store.reserve", old.store.reserve != new.store.reserve),
        ("log.format", old.log.format != new.log.format),
    ];
    changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}
