//! [`Edges`]: hash → node, for the literal levels of a trie. A table of the trie's own for the sake of one figure: to find
//! an edge among a million, or to find none, it reads one line of memory and no node. Linear probing over slots of eight
//! bytes that know the hash, kept in the order of their hashes but for collisions, so that it grows by half in one pass
//! over both tables.

/// Stands for no node.
pub(super) const NONE: u32 = u32::MAX;

/// Nodes by hashes of 32 bits, which several may share.
#[derive(Default)]
pub(super) struct Edges {
    slots: Box<[Slot]>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    node: u32,
}

const FREE: Slot = Slot { hash: 0, node: NONE };

impl Edges {
    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The bytes reserved.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// The first node with this hash that `is_it`.
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.position(hash, is_it)?;
        Some(self.slots[at].node)
    }

    /// Adds a node that is not there.
    pub(super) fn insert(&mut self, hash: u32, node: u32) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.len += 1;
        self.put(Slot { hash, node });
    }

    /// Removes the node with this hash; no mark is left, for those behind it move up.
    pub(super) fn remove(&mut self, hash: u32, node: u32) {
        let Some(mut free) = self.position(hash, |held| held == node) else { return };
        self.len -= 1;
        let size = self.slots.len();
        let distance = |from: usize, to: usize| if to >= from { to - from } else { to + size - from };
        let mut at = free;
        loop {
            at = self.after(at);
            let slot = self.slots[at];
            if slot.node == NONE {
                break;
            }
            // It may stand in the gap unless the place it belongs to comes after that.
            if distance(self.home(slot.hash), at) >= distance(free, at) {
                self.slots[free] = slot;
                free = at;
            }
        }
        self.slots[free] = FREE;
    }

    /// Where the first node with this hash that `is_it` stands.
    fn position(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot.node == NONE {
                return None; // one in four is free at least
            }
            if slot.hash == hash && is_it(slot.node) {
                return Some(at);
            }
            at = self.after(at);
        }
    }

    /// The slot where the search for `hash` begins: as far into the table as the hash is into all hashes.
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> u32::BITS) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    fn put(&mut self, slot: Slot) {
        let mut at = self.home(slot.hash);
        while self.slots[at].node != NONE {
            at = self.after(at);
        }
        self.slots[at] = slot;
    }

    fn grow(&mut self) {
        let size = (self.slots.len() / 2 * 3).max(8);
        let old = std::mem::replace(&mut self.slots, vec![FREE; size].into());
        old.iter().filter(|slot| slot.node != NONE).for_each(|&slot| self.put(slot));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Hashes of few kinds, so that many collide, at both ends of the table as well.
    fn hash(random: &mut fastrand::Rng) -> u32 {
        let spread = if random.bool() { 3 } else { 1 << 10 };
        let base = [0, 1 << 31, u32::MAX - 2][random.usize(..3)];
        u32::wrapping_add(base, random.u32(..spread))
    }

    #[test]
    fn agrees_with_a_set_however_hashes_collide() {
        let mut random = fastrand::Rng::new();
        println!("seed {}", random.get_seed());
        for _ in 0..50 {
            let (mut edges, mut model) = (Edges::default(), BTreeSet::new());
            let most = 1 << random.usize(1..9);
            for node in 0..2000 {
                let gone = model.iter().nth(random.usize(..=model.len())).copied();
                if let Some((hash, node)) = gone.filter(|_| model.len() >= most || random.bool()) {
                    model.remove(&(hash, node));
                    edges.remove(hash, node);
                    assert_eq!(edges.find(hash, |held| held == node), None);
                } else {
                    let hash = hash(&mut random);
                    model.insert((hash, node));
                    edges.insert(hash, node);
                }
                assert_eq!(edges.len(), model.len());
                for &(hash, node) in &model {
                    assert_eq!(edges.find(hash, |held| held == node), Some(node));
                    let first = edges.find(hash, |_| true).expect("it is there");
                    assert!(model.contains(&(hash, first)), "{first} has another hash");
                }
            }
        }
    }

    #[test]
    fn takes_16_bytes_an_edge_at_most_once_it_has_grown() {
        let mut edges = Edges::default();
        assert_eq!((edges.bytes(), edges.find(7, |_| true)), (0, None));
        for node in 0..10_000 {
            edges.insert(node * 429_000, node);
            assert!(node < 12 || edges.bytes() <= 17 * edges.len(), "{} for {}", edges.bytes(), edges.len());
        }
    }
}
