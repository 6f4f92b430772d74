//! Other rules for a shard that runs: what an operator may change without a restart. Nobody is disconnected for it and
//! nothing that waits is dropped; what was agreed with a client at its CONNECT stays until its next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shard;
use crate::acl::Current;
use crate::flow::registry::Flow;
use crate::limits::{Limits, QueueRule, ShareRule};
use crate::message::QueueId;

/// What may change while a shard runs.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The broker's limits.
    pub limits: Arc<Limits>,
    /// Which strategy each share group uses.
    pub share_rules: Arc<[ShareRule]>,
    /// The limits of durable queues.
    pub queue_rules: Arc<[QueueRule]>,
    /// How fast messages may come in and go out.
    pub flow: Arc<Flow>,
    /// How often `$SYS` topics are brought up to date; zero for never.
    pub sys_interval: Duration,
    /// What clients may do.
    pub access: Current,
}

impl Shard {
    /// Goes on by these rules.
    pub fn reconfigure(&mut self, now: Instant, rules: &Rules) {
        let Rules { limits, share_rules, queue_rules, flow, sys_interval, access } = rules.clone();
        self.settings.limits = limits.clone();
        self.core.outbound_limit = limits.outbound_buffer;
        self.outbox.set_limit(limits.lane_bytes);
        self.core.limits = limits;
        self.core.set_budget(self.settings.peers);
        self.sys.set_interval(now, sys_interval);
        self.settings.sys_interval = sys_interval;
        self.bind_queues(share_rules, queue_rules);
        self.pace_groups(now, flow);
        if access.version != self.core.rules.version {
            self.set_rules(access);
        }
    }

    /// Share groups go on at their new pace; clients at theirs when they connect.
    fn pace_groups(&mut self, now: Instant, flow: Arc<Flow>) {
        if Arc::ptr_eq(&self.settings.flow, &flow) {
            return;
        }
        self.settings.flow = flow;
        let queues: Vec<QueueId> = self.groups.keys().copied().collect();
        for queue in queues {
            let flow = self.settings.flow.clone();
            self.with_group(now, queue, |group, cx, give| {
                group.pace = flow.group_pace(now, group.name());
                group.pump(cx, give);
            });
        }
    }

    /// A queue that holds more than it may now takes nothing more, or drops at its next message, as its rule says.
    fn bind_queues(&mut self, share_rules: Arc<[ShareRule]>, queue_rules: Arc<[QueueRule]>) {
        let (shares, queues) = (&self.settings.share_rules, &self.settings.queue_rules);
        if (shares, queues) == (&share_rules, &queue_rules) {
            return;
        }
        for group in self.groups.values_mut() {
            group.reconfigure(&share_rules, &queue_rules);
        }
        for (_, session) in &self.sessions {
            session.rebind_queue(&queue_rules);
        }
        (self.settings.share_rules, self.settings.queue_rules) = (share_rules, queue_rules);
    }
}
