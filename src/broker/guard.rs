//! [`Guard`]: who holds the queues that routes lead to, so that a route names those alone that may read its topic. It
//! knows nobody while everybody may read everything, and the rules that it goes by are those of the routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::acl::{Acl, Current, Owner};
use crate::message::QueueId;

/// A route that names some who have still to be asked: the version of no rules.
pub(super) const UNDECIDED: u64 = u64::MAX;

/// Who holds which queue, and what they may read.
#[derive(Default)]
pub(super) struct Guard {
    rules: Current,
    owners: HashMap<QueueId, Arc<Owner>, foldhash::fast::RandomState>,
    /// Share group → its members' queues.
    members: HashMap<QueueId, BTreeSet<QueueId>, foldhash::fast::RandomState>,
}

impl Guard {
    pub(super) fn rules(&self) -> &Current {
        &self.rules
    }

    /// Other rules hold from now on.
    pub(super) fn set_rules(&mut self, acl: Option<Arc<Acl>>) -> Current {
        if acl.is_none() {
            (self.owners, self.members) = Default::default();
        }
        self.rules = Current { acl, version: self.rules.version + 1 };
        self.rules.clone()
    }

    /// A session's queue is to be guarded.
    pub(super) fn own(&mut self, queue: QueueId, owner: Arc<Owner>) {
        if self.rules.acl.is_some() {
            self.owners.insert(queue, owner);
        }
    }

    /// Whether it is.
    pub(super) fn is_owned(&self, queue: QueueId) -> bool {
        self.owners.contains_key(&queue)
    }

    /// It is not to be guarded any more.
    pub(super) fn disown(&mut self, queue: QueueId) {
        self.owners.remove(&queue);
    }

    /// A session is a member of a share group.
    pub(super) fn enter(&mut self, group: QueueId, member: QueueId) {
        if self.rules.acl.is_some() {
            self.members.entry(group).or_default().insert(member);
        }
    }

    /// It is one no more.
    pub(super) fn leave(&mut self, group: QueueId, member: QueueId) {
        if let Some(members) = self.members.get_mut(&group) {
            members.remove(&member);
            if members.is_empty() {
                self.members.remove(&group);
            }
        }
    }

    /// Whether the holder of `queue` may read `topic`; `None` if it is not known who that is.
    pub(super) fn reads(&self, acl: &Acl, queue: QueueId, topic: &str) -> Option<bool> {
        match self.owners.get(&queue) {
            Some(owner) => Some(acl.may_read(owner.who(), topic)),
            None => (!acl.asks_who(topic)).then_some(true),
        }
    }

    /// Whether any of the `count` members of `group` may read `topic`; `None` if some are not known and none of the others
    /// may.
    pub(super) fn group_reads(&self, acl: &Acl, group: QueueId, count: u32, topic: &str) -> Option<bool> {
        let Some(members) = self.members.get(&group) else { return (!acl.asks_who(topic)).then_some(true) };
        let mut known = members.len() == count as usize;
        for member in members {
            match self.reads(acl, *member, topic) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => known = false,
            }
        }
        known.then_some(false)
    }
}
