//! [`Nodes`]: number → node, in chunks that stay where they are. A slab would move all its nodes each time it grows, which
//! with a million filters is a hundred megabytes while everybody waits.

use std::ops::{Index, IndexMut};

use super::edges::NONE;
use super::level::Level;
use super::node::Node;

/// Nodes in a chunk, which is 8 KiB.
const CHUNK: usize = 256;

/// The nodes of a trie.
pub(super) struct Nodes {
    chunks: Vec<Box<[Node; CHUNK]>>,
    /// The first of those that are free; the next stands where a node has its parent.
    free: u32,
    len: usize,
}

impl Nodes {
    /// None, and no memory.
    pub(super) fn new() -> Nodes {
        Nodes { chunks: Vec::new(), free: NONE, len: 0 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The bytes reserved.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * size_of::<[Node; CHUNK]>() + self.chunks.capacity() * size_of::<Box<Node>>()
    }

    /// Adds `node`; its number is the lowest but for those that were removed.
    pub(super) fn insert(&mut self, node: Node) -> u32 {
        if self.free == NONE {
            let first = (self.chunks.len() * CHUNK) as u32;
            let following = |at: usize| if at + 1 == CHUNK { NONE } else { first + at as u32 + 1 };
            self.chunks.push(Box::new(std::array::from_fn(|at| Node::new(following(at), Level::EMPTY))));
            self.free = first;
        }
        let id = self.free;
        let place = &mut self[id];
        let following = place.parent;
        *place = node;
        self.free = following;
        self.len += 1;
        id
    }

    /// Takes a node out that is there.
    pub(super) fn remove(&mut self, id: u32) -> Node {
        let free = Node::new(self.free, Level::EMPTY);
        self.free = id;
        self.len -= 1;
        std::mem::replace(&mut self[id], free)
    }

    /// All of them, and the free places, which are as bare as a node can be.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }
}

impl Index<u32> for Nodes {
    type Output = Node;

    fn index(&self, id: u32) -> &Node {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }
}

impl IndexMut<u32> for Nodes {
    fn index_mut(&mut self, id: u32) -> &mut Node {
        &mut self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_nodes_stay_where_they_are() {
        let mut nodes = Nodes::new();
        let ids: Vec<u32> = (0..1000).map(|parent| nodes.insert(Node::new(parent, Level::EMPTY))).collect();
        assert!(ids.iter().copied().eq(0..1000));
        let at = |nodes: &Nodes, id| std::ptr::from_ref(&nodes[id]).addr();
        assert_eq!(at(&nodes, 1) - at(&nodes, 0), 32);
        let before = at(&nodes, 999);
        for id in (0..1000).step_by(3) {
            assert_eq!(nodes.remove(id).parent, id);
        }
        assert_eq!(nodes.len(), 666);
        let mut again: Vec<u32> = (0..334).map(|_| nodes.insert(Node::new(7, Level::EMPTY))).collect();
        again.sort_unstable();
        assert!(again.into_iter().eq((0..1000).step_by(3)));
        assert_eq!((nodes.len(), nodes[1].parent, nodes[999].parent), (1000, 1, 7));
        let bytes = nodes.bytes();
        for id in 1000..=1024 {
            assert_eq!(nodes.bytes(), bytes);
            assert_eq!(nodes.insert(Node::new(0, Level::EMPTY)), id);
        }
        assert!(nodes.bytes() > bytes && at(&nodes, 999) == before);
    }
}
