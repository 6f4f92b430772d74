//! [`Shared`]: the two tables that all shards share, and the order in which they are used.
//!
//! Both sides of the race between a SUBSCRIBE and a retained PUBLISH do two steps, in opposite order. Subscribing
//! raises the generation, then reads the retained version: the subscription's `since`. Publishing takes a version, then
//! reads the generation. So either the publish sees the subscription, or the subscription's `since` covers the publish,
//! and its replay, which reads Retained later, finds that value or a newer one. A retained publish up to `since` is thus
//! the replay's, one above it is delivered live: none is lost, and none comes twice.
//!
//! Lock order: Retained, then Interest. Subscribing never holds two locks.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::message::{PeerId, QueueId};

use super::interest::Interest;
use super::retained::{Retained, RetainedLimits};
use super::route::{Route, RouteCache};
use super::subscriptions::{Subscription, Subscriptions};

/// Why a lock cannot be poisoned.
const POISON: &str = "a thread that panics ends the process";

/// What all shards share. No lock of it is held across an `.await`.
pub struct Shared {
    interest: RwLock<Interest>,
    generation: AtomicU64,
    retained: RwLock<Retained>,
    retained_version: AtomicU64,
}

/// A new or replaced subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The session had this filter.
    pub existed: bool,
    /// The retained version at this SUBSCRIBE: its replay is for versions up to it.
    pub since: u64,
}

impl Shared {
    /// Empty tables.
    pub fn new(limits: RetainedLimits) -> Shared {
        Shared {
            interest: RwLock::new(Interest::new()),
            generation: AtomicU64::new(0),
            retained: RwLock::new(Retained::new(limits)),
            retained_version: AtomicU64::new(0),
        }
    }

    /// Interest, to read.
    pub fn interest(&self) -> RwLockReadGuard<'_, Interest> {
        self.interest.read().expect(POISON)
    }

    /// Changes Interest, and voids every cached route. `change` is also given the retained version: the `since` of the
    /// subscriptions that it adds.
    pub fn change_interest<R>(&self, change: impl FnOnce(&mut Interest, u64) -> R) -> R {
        let mut interest = self.interest.write().expect(POISON);
        interest.generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        let since = self.retained_version.load(Ordering::SeqCst);
        change(&mut interest, since)
    }

    /// Adds a transient session's subscription, of which `since` is set here, to its shard's own table and, where it is
    /// the first of that filter on that shard, to Interest.
    pub fn subscribe_transient(
        &self,
        peer: PeerId,
        subscriptions: &mut Subscriptions,
        filter: &str,
        subscription: Subscription,
    ) -> Subscribed {
        let since = if subscriptions.holds(filter) {
            self.retained_version.load(Ordering::SeqCst)
        } else {
            self.change_interest(|interest, since| {
                interest.add_peer(filter, peer);
                since
            })
        };
        let inserted = subscriptions.insert(filter, Subscription { since, ..subscription });
        Subscribed { existed: inserted.existed, since }
    }

    /// Removes a transient session's subscription from its shard's own table and, where it was the last of that filter
    /// on that shard, from Interest. Returns whether there was one.
    pub fn unsubscribe_transient(
        &self,
        peer: PeerId,
        subscriptions: &mut Subscriptions,
        filter: &str,
        session: u32,
    ) -> bool {
        let removed = subscriptions.remove(filter, session);
        if removed.last {
            self.change_interest(|interest, _| interest.remove_peer(filter, peer));
        }
        removed.existed
    }

    /// Where a message to `topic` goes that `publisher` published, from the shard's cache where that is still true.
    pub fn route(&self, cache: &mut RouteCache, topic: &str, publisher: Option<QueueId>) -> Arc<Route> {
        let generation = self.generation.load(Ordering::SeqCst);
        let route = match cache.get(topic, generation) {
            Some(route) => Arc::clone(route),
            None => {
                let route = Arc::new(self.interest().route(topic, None));
                cache.insert(topic, Arc::clone(&route));
                route
            }
        };
        if route.excludes(publisher) { Arc::new(self.interest().route(topic, publisher)) } else { route }
    }

    /// Whether Interest is still as `route` read it.
    pub fn is_current(&self, route: &Route) -> bool {
        self.generation.load(Ordering::SeqCst) == route.generation
    }

    /// Retained, to read.
    pub fn retained(&self) -> RwLockReadGuard<'_, Retained> {
        self.retained.read().expect(POISON)
    }

    /// Retained, to write. It is held until the publish is routed and pushed, so that versions, the store's order and
    /// the table agree.
    pub fn retaining(&self) -> Retaining<'_> {
        Retaining { retained: self.retained.write().expect(POISON), retained_version: &self.retained_version }
    }
}

/// Retained, locked for one retained publish.
pub struct Retaining<'a> {
    retained: RwLockWriteGuard<'a, Retained>,
    retained_version: &'a AtomicU64,
}

impl Retaining<'_> {
    /// Takes the next version, never 0. It is for a publish that changes Retained now, a clearing one included; the
    /// route is to be read after it. A message that is delivered without being retained has version 0.
    pub fn next_version(&mut self) -> u64 {
        self.retained_version.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl Deref for Retaining<'_> {
    type Target = Retained;

    fn deref(&self) -> &Retained {
        &self.retained
    }
}

impl DerefMut for Retaining<'_> {
    fn deref_mut(&mut self) -> &mut Retained {
        &mut self.retained
    }
}
