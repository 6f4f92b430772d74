//! [`Trie`]: topic filters → values, and all the values whose filter matches a topic. Nodes stand in a slab, one for
//! each level; literal edges in one hash table for the whole trie, keyed by (parent, level); `+` and `#` in fields of
//! the node. Nothing recurses, so a filter of 65,535 levels needs no more stack than one of two, and nothing iterates
//! the hash table, so no result depends on its order. A node is reached by one path only: a match visits each node at
//! most once, however many `+` there are.
//!
//! Resident size: 40 bytes a node, 6 to 11 bytes a literal edge and the value; levels longer than 14 bytes 16 bytes,
//! their text and two allocations more. A level shared by filters counts once and a trailing `#` has no node.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::level::Level;

/// Stands for no node and for no value.
const NONE: u32 = u32::MAX;

/// The root, in every trie that is not empty.
const ROOT: u32 = 0;

/// Topic filters → values.
pub struct Trie<V> {
    nodes: Slab<Node>,
    values: Slab<V>,
    /// Every node that a literal level leads to, hashed by its parent and that level.
    edges: HashTable<u32>,
    hasher: RandomState,
    /// Bytes on the heap that belong to levels.
    level_bytes: usize,
}

struct Node {
    /// The level that leads here from `parent`.
    level: Level,
    parent: u32,
    /// The node that `+` leads to.
    plus: u32,
    /// The value of the filter that ends here.
    value: u32,
    /// The value of the filter that goes on with `#`.
    hash: u32,
    /// How many literal levels lead on from here.
    literals: u32,
}

impl Node {
    fn new(parent: u32, level: Level) -> Node {
        Node { level, parent, plus: NONE, value: NONE, hash: NONE, literals: 0 }
    }

    fn is_bare(&self) -> bool {
        self.plus == NONE && self.value == NONE && self.hash == NONE && self.literals == 0
    }
}

/// Where the value of a filter hangs.
#[derive(Clone, Copy)]
enum Place {
    /// On the node that its last level leads to.
    Node(u32),
    /// On the node of the level before its trailing `#`.
    Hash(u32),
}

impl<V> Default for Trie<V> {
    fn default() -> Trie<V> {
        Trie {
            nodes: Slab::new(),
            values: Slab::new(),
            edges: HashTable::new(),
            hasher: RandomState::default(),
            level_bytes: 0,
        }
    }
}

impl<V> Trie<V> {
    /// An empty trie, which owns no memory.
    pub fn new() -> Trie<V> {
        Trie::default()
    }

    /// How many filters it holds.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether it holds no filter.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The bytes it has reserved, without what the values own: at most twice what is in use, as vectors grow.
    pub fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.values.capacity() * size_of::<Option<V>>()
            + self.edges.allocation_size()
            + self.level_bytes
    }

    /// The value of `filter`, a well-formed topic filter; one that is missing is made.
    pub fn get_or_insert_with(&mut self, filter: &str, make: impl FnOnce() -> V) -> &mut V {
        let place = self.make_path(filter);
        let mut value = self.value_at(place);
        if value == NONE {
            value = self.values.insert(make()) as u32;
            *self.slot(place) = value;
        }
        &mut self.values[value as usize]
    }

    /// The value of `filter`.
    pub fn get(&self, filter: &str) -> Option<&V> {
        self.values.get(self.value_at(self.find(filter)?) as usize)
    }

    /// The value of `filter`.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        let value = self.value_at(self.find(filter)?);
        self.values.get_mut(value as usize)
    }

    /// Removes `filter`, and every node that served it alone.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        let place = self.find(filter)?;
        let value = self.values.try_remove(self.value_at(place) as usize)?;
        *self.slot(place) = NONE;
        if self.values.is_empty() {
            *self = Trie::default(); // gives the memory back
        } else {
            let (Place::Node(node) | Place::Hash(node)) = place;
            self.prune(node);
        }
        Some(value)
    }

    /// Calls `visit` with the value of every filter that matches the topic name `topic`, in an order that depends on
    /// the filters alone. Touches only nodes that `topic` leads to, each once, and allocates only where more than 32
    /// branches are open at a time.
    pub fn for_each_match<'a>(&'a self, topic: &str, mut visit: impl FnMut(&'a V)) {
        if self.nodes.is_empty() {
            return;
        }
        let topic = topic.as_bytes();
        // Leading wildcards do not match topics that begin with `$` [MQTT-4.7.2-1].
        let mut wildcards = topic.first() != Some(&b'$');
        let mut open = Branches::new(Branch { node: ROOT, rest: 0 });
        while let Some(Branch { node: id, rest }) = open.pop() {
            let node = &self.nodes[id as usize];
            if node.hash != NONE && wildcards {
                visit(&self.values[node.hash as usize]); // `#` includes the parent level
            }
            if rest as usize > topic.len() {
                if node.value != NONE {
                    visit(&self.values[node.value as usize]);
                }
                continue;
            }
            if node.plus == NONE && node.literals == 0 {
                continue;
            }
            let level = level_at(topic, rest as usize);
            let rest = rest + level.len() as u32 + 1;
            if node.plus != NONE && wildcards {
                open.push(Branch { node: node.plus, rest });
            }
            wildcards = true; // the rule is about the first level
            if node.literals != 0
                && let Some(node) = self.literal(id, level)
            {
                open.push(Branch { node, rest });
            }
        }
    }

    /// The place of `filter`, if the trie has one; a value need not be there.
    fn find(&self, filter: &str) -> Option<Place> {
        if self.nodes.is_empty() {
            return None;
        }
        let mut node = ROOT;
        let mut levels = filter.as_bytes().split(|&byte| byte == b'/').peekable();
        while let Some(level) = levels.next() {
            node = match level {
                b"#" if levels.peek().is_none() => return Some(Place::Hash(node)),
                b"+" => Some(self.nodes[node as usize].plus).filter(|&plus| plus != NONE)?,
                _ => self.literal(node, level)?,
            };
        }
        Some(Place::Node(node))
    }

    /// The place of `filter`, with every node that is missing on the way.
    fn make_path(&mut self, filter: &str) -> Place {
        if self.nodes.is_empty() {
            self.nodes.insert(Node::new(NONE, Level::new(b"")));
        }
        let mut node = ROOT;
        let mut levels = filter.as_bytes().split(|&byte| byte == b'/').peekable();
        while let Some(level) = levels.next() {
            node = match level {
                b"#" if levels.peek().is_none() => return Place::Hash(node),
                b"+" => self.make_plus(node),
                _ => match self.literal(node, level) {
                    Some(next) => next,
                    None => self.make_literal(node, level),
                },
            };
        }
        Place::Node(node)
    }

    fn make_plus(&mut self, parent: u32) -> u32 {
        if self.nodes[parent as usize].plus == NONE {
            let child = self.nodes.insert(Node::new(parent, Level::new(b"+"))) as u32;
            self.nodes[parent as usize].plus = child;
        }
        self.nodes[parent as usize].plus
    }

    fn make_literal(&mut self, parent: u32, text: &[u8]) -> u32 {
        let level = Level::new(text);
        self.level_bytes += level.heap_bytes();
        let child = self.nodes.insert(Node::new(parent, level)) as u32;
        self.nodes[parent as usize].literals += 1;
        let hash = hash_edge(&self.hasher, parent, text);
        let Trie { edges, nodes, hasher, .. } = self;
        edges.insert_unique(hash, child, |&id| {
            let node = &nodes[id as usize];
            hash_edge(hasher, node.parent, node.level.as_bytes())
        });
        child
    }

    /// Removes `id` and its ancestors, up to the first that something else still needs.
    fn prune(&mut self, mut id: u32) {
        while id != ROOT && self.nodes[id as usize].is_bare() {
            let node = self.nodes.remove(id as usize);
            let parent = &mut self.nodes[node.parent as usize];
            if parent.plus == id {
                parent.plus = NONE;
            } else {
                parent.literals -= 1;
                self.level_bytes -= node.level.heap_bytes();
                let hash = hash_edge(&self.hasher, node.parent, node.level.as_bytes());
                if let Ok(edge) = self.edges.find_entry(hash, |&edge| edge == id) {
                    edge.remove();
                }
            }
            id = node.parent;
        }
    }

    /// The node that the literal `level` leads to from `parent`.
    fn literal(&self, parent: u32, level: &[u8]) -> Option<u32> {
        let hash = hash_edge(&self.hasher, parent, level);
        let is_it = |&id: &u32| {
            let node = &self.nodes[id as usize];
            node.parent == parent && node.level.as_bytes() == level
        };
        self.edges.find(hash, is_it).copied()
    }

    fn value_at(&self, place: Place) -> u32 {
        match place {
            Place::Node(node) => self.nodes[node as usize].value,
            Place::Hash(node) => self.nodes[node as usize].hash,
        }
    }

    fn slot(&mut self, place: Place) -> &mut u32 {
        match place {
            Place::Node(node) => &mut self.nodes[node as usize].value,
            Place::Hash(node) => &mut self.nodes[node as usize].hash,
        }
    }
}

fn hash_edge(hasher: &RandomState, parent: u32, level: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u32(parent);
    state.write(level);
    state.finish()
}

/// The level of `topic` that begins at `start`.
fn level_at(topic: &[u8], start: usize) -> &[u8] {
    let rest = &topic[start..];
    &rest[..rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len())]
}

/// A node that a topic leads to, and where in the topic it goes on: past its end when no level is left.
#[derive(Clone, Copy)]
struct Branch {
    node: u32,
    rest: u32,
}

/// The branches still to follow. A level opens at most one more than it closes, so a topic of up to 31 levels never
/// allocates.
struct Branches {
    near: [Branch; 32],
    len: usize,
    far: Vec<Branch>,
}

impl Branches {
    fn new(first: Branch) -> Branches {
        Branches { near: [first; 32], len: 1, far: Vec::new() }
    }

    fn push(&mut self, branch: Branch) {
        match self.near.get_mut(self.len) {
            Some(free) => {
                *free = branch;
                self.len += 1;
            }
            None => self.far.push(branch),
        }
    }

    fn pop(&mut self) -> Option<Branch> {
        if let Some(branch) = self.far.pop() {
            return Some(branch);
        }
        self.len = self.len.checked_sub(1)?;
        Some(self.near[self.len])
    }
}
