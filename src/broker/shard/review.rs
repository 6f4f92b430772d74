//! Other rules for what clients may do. They hold at once, wherever it is asked who may do what; what each session and share
//! group has to do about them is done in slices, so that a hundred thousand of them do not hold up everybody else.

use std::time::Instant;

use super::Shard;
use super::access::Granted;
use crate::acl::Current;
use crate::message::QueueId;

/// How many sessions, subscriptions and share groups a turn has time for.
const SLICE: usize = 256;

/// How far a shard has come in looking at all that it has.
pub(super) struct Review {
    /// The slot of the next session.
    next: u32,
    /// Who the clients are was of no account by the rules before.
    unknown: bool,
    /// Share groups that are still to be looked at, after the sessions.
    groups: Vec<QueueId>,
}

impl Shard {
    /// Other rules hold from now on. Subscriptions that can bring nothing any more end; what waits is asked for when it
    /// goes; share groups learn who may have what. [`Shard::is_reviewing`] tells when that is done.
    pub fn set_rules(&mut self, rules: Current) {
        let before = std::mem::replace(&mut self.core.rules, rules);
        self.granted = Granted::default();
        self.subscriptions.forget_matches();
        let known = before.acl.is_some_and(|acl| !acl.is_about_sys());
        let unknown = !known || self.review.as_ref().is_some_and(|review| review.unknown);
        let groups = self.groups.keys().copied().collect();
        self.review = Some(Review { next: 0, unknown, groups });
    }

    /// Whether sessions or share groups have still to be looked at for the sake of other rules.
    pub fn is_reviewing(&self) -> bool {
        self.review.is_some()
    }

    /// Looks at some of them.
    pub(super) fn review_turn(&mut self, now: Instant) {
        let Some(mut review) = self.review.take() else { return };
        let mut left = SLICE;
        let indices = self.next_sessions(&mut review, &mut left);
        for index in &indices {
            self.drop_unreadable(now, *index);
        }
        if review.unknown {
            self.guard_sessions(&indices);
        }
        for index in indices {
            self.introduce(index);
            self.after_progress(index);
        }
        while left > 0
            && let Some(group) = review.groups.pop()
        {
            left -= 1;
            self.with_group(now, group, |group, cx, give| group.rules_changed(cx, give));
        }
        if left == 0 {
            self.review = Some(review);
        }
    }

    /// The sessions of the next slice; at least one, however much it has subscribed to.
    fn next_sessions(&self, review: &mut Review, left: &mut usize) -> Vec<u32> {
        let mut indices = Vec::new();
        let end = self.sessions.capacity() as u32;
        while *left > 0 && review.next < end {
            let Some(session) = self.sessions.get(review.next as usize) else {
                // An empty slot costs next to nothing.
                review.next += 1;
                continue;
            };
            indices.push(review.next);
            review.next += 1;
            *left = left.saturating_sub(1 + session.subscriptions.len());
        }
        indices
    }
}
