//! The members of a share group, and how one of them is chosen for a message.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use crate::acl::{Current, Owner};
use crate::limits::Strategy;
use crate::message::{Message, PeerId, QueueId};
use crate::protocol::packet::QoS;
use crate::session::Delivery;
use crate::target::Identifiers;

/// The members, and how one of them is chosen.
#[derive(Debug)]
pub(super) struct Roster {
    strategy: Strategy,
    pub(super) members: Vec<Member>,
    /// Whose turn it is.
    next: usize,
    /// The member that sticky sticks to.
    stuck_to: Option<QueueId>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) session: QueueId,
    pub(super) peer: PeerId,
    pub(super) token: u32,
    pub(super) window: u16,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) identifiers: Identifiers,
    /// Who it is, if that makes a difference to what it may read.
    pub(super) owner: Option<Arc<Owner>>,
    /// The version of the rules by which it may read whatever the group has for it, or [`UNDECIDED`].
    ///
    /// [`UNDECIDED`]: super::guard::UNDECIDED
    pub(super) reads_all: u64,
    /// Given and not settled, oldest first.
    pub(super) given: VecDeque<Delivery>,
}

impl Roster {
    /// Without members.
    pub(super) fn new(strategy: Strategy) -> Roster {
        Roster { strategy, members: Vec::new(), next: 0, stuck_to: None }
    }

    /// Chooses otherwise from now on.
    pub(super) fn set_strategy(&mut self, strategy: Strategy) {
        if self.strategy != strategy {
            (self.strategy, self.stuck_to) = (strategy, None);
        }
    }

    /// The member whose session this is.
    pub(super) fn member(&mut self, session: QueueId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.session == session)
    }

    /// Takes a member out.
    pub(super) fn remove(&mut self, session: QueueId) -> Option<Member> {
        let index = self.members.iter().position(|member| member.session == session)?;
        if index < self.next {
            self.next -= 1;
        }
        Some(self.members.remove(index))
    }

    /// Whether any member takes messages.
    pub(super) fn is_online(&self) -> bool {
        self.members.iter().any(|member| member.window > 0)
    }

    /// What is given to members and has not come back.
    pub(super) fn given(&self) -> impl Iterator<Item = &Delivery> {
        self.members.iter().flat_map(|member| &member.given)
    }

    /// Whether its strategy binds a message to one member.
    pub(super) fn binds(&self) -> bool {
        matches!(self.strategy, Strategy::HashClientid | Strategy::HashTopic)
    }

    /// Whether any member takes one more now.
    pub(super) fn any_room(&self) -> bool {
        self.members.iter().any(Member::has_room)
    }

    /// The member to have this delivery; `None` if it must wait.
    pub(super) fn choose(
        &mut self,
        delivery: &Delivery,
        random: &mut fastrand::Rng,
        windowed: bool,
        may_read: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        let fits = |member: &Member| {
            (if windowed { member.has_room() } else { member.window > 0 }) && may_read(member)
        };
        match self.strategy {
            Strategy::RoundRobin => {
                let index = self.in_turn().find(|index| fits(&self.members[*index]))?;
                self.next = index + 1;
                Some(index)
            }
            Strategy::Random => {
                let fitting = self.members.iter().filter(|member| fits(member)).count();
                let nth = random.usize(..fitting.max(1));
                self.members.iter().enumerate().filter(|(_, member)| fits(member)).nth(nth).map(|(i, _)| i)
            }
            Strategy::Sticky => {
                let stuck =
                    self.members.iter().position(|m| Some(m.session) == self.stuck_to && m.window > 0);
                // It stays the one it sticks to, whatever it may not read.
                let able = |member: &Member| member.window > 0 && may_read(member);
                let index = stuck
                    .filter(|index| may_read(&self.members[*index]))
                    .or_else(|| self.members.iter().position(able))?;
                if stuck.is_none() {
                    self.stuck_to = Some(self.members[index].session);
                }
                fits(&self.members[index]).then_some(index)
            }
            Strategy::HashClientid => {
                let hash = delivery.message.publisher.map_or(0, |publisher| publisher.client_hash);
                self.bound_member(u64::from(hash), &may_read).filter(|index| fits(&self.members[*index]))
            }
            Strategy::HashTopic => {
                let hash = hash_of(delivery.message.topic());
                self.bound_member(hash, &may_read).filter(|index| fits(&self.members[*index]))
            }
            Strategy::LeastInflight => {
                // In turn among equals: else the first would do all that it can do by itself.
                let fitting = self.in_turn().filter(|index| fits(&self.members[*index]));
                let index = fitting.min_by_key(|index| self.members[*index].given.len())?;
                self.next = index + 1;
                Some(index)
            }
        }
    }

    /// All members, beginning with the one whose turn it is.
    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (next, count) = (self.next, self.members.len());
        (0..count).map(move |i| (next + i) % count)
    }

    /// The member that a hash falls to, among those that are there and may read it.
    fn bound_member(&self, hash: u64, may_read: &impl Fn(&Member) -> bool) -> Option<usize> {
        let able = |member: &Member| member.window > 0 && may_read(member);
        let online = || self.members.iter().enumerate().filter(|(_, member)| able(member));
        let count = online().count() as u64;
        if count == 0 {
            return None;
        }
        online().nth((hash % count) as usize).map(|(index, _)| index)
    }
}

impl Member {
    fn has_room(&self) -> bool {
        self.given.len() < usize::from(self.window)
    }

    /// Whether its client may be sent `message`. Without rules not even the topic is looked at.
    pub(super) fn may_read(&self, message: &Message, rules: &Current) -> bool {
        let Some(acl) = rules.acl.as_ref().filter(|_| self.reads_all != rules.version) else { return true };
        let topic = message.topic();
        self.owner.as_ref().map_or(!acl.asks_who(topic), |owner| acl.may_read(owner.who(), topic))
    }
}

/// A hash that is the same in every run, so that a topic keeps its worker across restarts.
fn hash_of(topic: &str) -> u64 {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    topic.hash(&mut hasher);
    std::hash::Hasher::finish(&hasher)
}
