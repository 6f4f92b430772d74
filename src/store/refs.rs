//! [`Refs`]: references of one queue in the order of the journal, in blocks: a long list grows without being copied, and one
//! that is taken out of its middle moves few others.

use std::collections::VecDeque;

use super::Position;
use super::index::Ref;
use crate::message::MessageId;

/// References in a block.
const BLOCK: usize = 256;

/// Rising positions; no block is empty.
#[derive(Debug, Default)]
pub(super) struct Refs {
    blocks: VecDeque<VecDeque<Ref>>,
    len: usize,
}

impl Refs {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends one whose position is above all others.
    pub(super) fn push(&mut self, held: Ref) {
        self.len += 1;
        match self.blocks.back_mut() {
            Some(last) if last.len() < BLOCK => last.push_back(held),
            other => {
                // A short list takes little; one that fills its first block goes on in whole ones.
                let mut block = VecDeque::with_capacity(if other.is_some() { BLOCK } else { 1 });
                block.push_back(held);
                self.blocks.push_back(block);
            }
        }
    }

    /// Takes out the reference to a message, and says whether it was the first of all. The numbers with one prefix rise
    /// along a queue, so the first above it ends the search; and what is given up mostly stands in front.
    pub(super) fn take(&mut self, id: MessageId) -> Option<(Ref, bool)> {
        let same_prefix = |other: MessageId| (other.0 ^ id.0) >> 48 == 0;
        for index in 0..self.blocks.len() {
            let block = &mut self.blocks[index];
            let Some(at) = block.iter().position(|held| same_prefix(held.id) && held.id >= id) else {
                continue;
            };
            let found = block.remove(at).filter(|found| {
                found.id == id || {
                    block.insert(at, *found);
                    false
                }
            })?;
            if block.is_empty() {
                self.remove_block(index);
            }
            self.len -= 1;
            return Some((found, index == 0 && at == 0));
        }
        None
    }

    fn remove_block(&mut self, index: usize) {
        self.blocks.remove(index);
        if self.blocks.is_empty() {
            self.blocks = VecDeque::new();
        }
    }

    /// Drops those up to `limit`; how many, and the position of the last.
    pub(super) fn drop_to(&mut self, limit: Position) -> Option<(usize, Position)> {
        let before = self.len;
        let mut last = None;
        while let Some(block) = self.blocks.front_mut() {
            let count = block.partition_point(|held| held.position <= limit);
            let Some(at) = count.checked_sub(1) else { break };
            last = Some(block[at].position);
            self.len -= count;
            if count < block.len() {
                block.drain(..count);
                break;
            }
            self.remove_block(0);
        }
        last.map(|last| (before - self.len, last))
    }

    /// Those behind `after`.
    pub(super) fn behind(&self, after: Option<Position>) -> impl Iterator<Item = &Ref> {
        let behind = |held: &Ref| after.is_none_or(|after| held.position > after);
        let is_over = |block: &VecDeque<Ref>| !block.back().is_some_and(behind);
        let first = self.blocks.partition_point(is_over);
        let start = self.blocks.get(first).map_or(0, |block| block.partition_point(|held| !behind(held)));
        self.blocks.range(first..).flatten().skip(start)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Ref> {
        self.blocks.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(number: u64) -> Ref {
        Ref { position: Position(10 * number), id: MessageId(number), size: 1, shared: false }
    }

    proptest! {
        #[test]
        fn is_a_list(actions in prop::collection::vec((0..4u8, 0..1500u64), 1..60)) {
            let (mut refs, mut model, mut next) = (Refs::default(), Vec::<Ref>::new(), 0);
            for (action, number) in actions {
                match action {
                    0 | 1 => for _ in 0..number / 2 {
                        next += 1;
                        refs.push(held(next));
                        model.push(held(next));
                    },
                    2 => for id in (number..next).step_by(7) {
                        let at = model.iter().position(|held| held.id.0 == id);
                        let found = at.map(|at| (model.remove(at), at == 0));
                        prop_assert_eq!(refs.take(MessageId(id)), found);
                    },
                    _ => {
                        let limit = Position(10 * number + 5);
                        let count = model.partition_point(|held| held.position <= limit);
                        let last = model.drain(..count).next_back();
                        prop_assert_eq!(refs.drop_to(limit), last.map(|last| (count, last.position)));
                    }
                }
                prop_assert!(refs.iter().eq(&model));
                prop_assert_eq!(refs.len(), model.len());
                let after = Position(10 * number);
                let behind = model.iter().filter(|held| held.position > after);
                prop_assert!(refs.behind(Some(after)).eq(behind));
                prop_assert!(refs.behind(None).eq(&model));
            }
        }
    }
}
