//! [`Trie`]: topic filters → values, and all the values whose filter matches a topic. Nodes stand in a slab, one for
//! each level; `+` and `#` are fields of the node. Literal edges stand in one hash table for the whole trie, keyed by
//! (parent, level), but for the edge of a node that has one only, which knows it itself: with many filters a match is made
//! of cache misses, and the table costs two. Nothing recurses, so a filter of 65,535 levels needs no more stack than one of
//! two, and nothing iterates the hash table, so no result depends on its order. A node is reached by one path only: a
//! match visits each node at most once, however many `+` there are.
//!
//! Size: 40 bytes a node, 6 to 11 bytes an edge in the table, and the value; levels longer than 14 bytes have their text
//! on the heap. A level that filters share counts once, and a trailing `#` has no node. Resident bytes measured for each of
//! a million filters, as Interest and a shard's subscriptions hold them: 74 for `sensors/N`, 114 for `N/room N/+/#`, 125
//! for `fleet/N/status`, 190 where N is as long as a UUID.

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
    /// Every node that a literal level leads to, but for [`Node::only`], hashed by its parent and that level.
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
    /// Where the only one of them leads, if there was never another; it is not in the table then.
    only: u32,
}

impl Node {
    fn new(parent: u32, level: Level) -> Node {
        Node { level, parent, plus: NONE, value: NONE, hash: NONE, literals: 0, only: NONE }
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

    /// The bytes it has reserved, without what the values own.
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
            value = insert(&mut self.values, make());
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
                && let Some(node) = self.literal(id, node.only, level)
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
                _ => self.literal(node, self.nodes[node as usize].only, level)?,
            };
        }
        Some(Place::Node(node))
    }

    /// The place of `filter`, with every node that is missing on the way.
    fn make_path(&mut self, filter: &str) -> Place {
        if self.nodes.is_empty() {
            insert(&mut self.nodes, Node::new(NONE, Level::new(b"")));
        }
        let mut node = ROOT;
        let mut levels = filter.as_bytes().split(|&byte| byte == b'/').peekable();
        while let Some(level) = levels.next() {
            node = match level {
                b"#" if levels.peek().is_none() => return Place::Hash(node),
                b"+" => self.make_plus(node),
                _ => match self.literal(node, self.nodes[node as usize].only, level) {
                    Some(next) => next,
                    None => self.make_literal(node, level),
                },
            };
        }
        Place::Node(node)
    }

    fn make_plus(&mut self, parent: u32) -> u32 {
        if self.nodes[parent as usize].plus == NONE {
            let child = insert(&mut self.nodes, Node::new(parent, Level::new(b"+")));
            self.nodes[parent as usize].plus = child;
        }
        self.nodes[parent as usize].plus
    }

    fn make_literal(&mut self, parent: u32, text: &[u8]) -> u32 {
        let level = Level::new(text);
        self.level_bytes += level.heap_bytes();
        let child = insert(&mut self.nodes, Node::new(parent, level));
        let node = &mut self.nodes[parent as usize];
        node.literals += 1;
        if node.literals == 1 {
            node.only = child;
            return child;
        }
        let first = std::mem::replace(&mut node.only, NONE);
        if first != NONE {
            self.insert_edge(first);
        }
        self.insert_edge(child);
        child
    }

    fn insert_edge(&mut self, child: u32) {
        let Trie { edges, nodes, hasher, .. } = self;
        let hash = |&id: &u32| {
            let node = &nodes[id as usize];
            hash_edge(hasher, node.parent, node.level.as_bytes())
        };
        edges.insert_unique(hash(&child), child, hash);
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
                if parent.only == id {
                    parent.only = NONE;
                } else {
                    let hash = hash_edge(&self.hasher, node.parent, node.level.as_bytes());
                    if let Ok(edge) = self.edges.find_entry(hash, |&edge| edge == id) {
                        edge.remove();
                    }
                }
            }
            id = node.parent;
        }
    }

    /// The node that the literal `level` leads to from `parent`, whose `only` is this.
    fn literal(&self, parent: u32, only: u32, level: &[u8]) -> Option<u32> {
        if only != NONE {
            return (self.nodes[only as usize].level.as_bytes() == level).then_some(only);
        }
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

/// Inserts `value` into `slab`, which grows by an eighth rather than to twice its size: with a million filters the
/// difference is tens of megabytes.
fn insert<T>(slab: &mut Slab<T>, value: T) -> u32 {
    if slab.len() == slab.capacity() {
        slab.reserve_exact((slab.len() / 8).max(4));
    }
    slab.insert(value) as u32
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::broker::samples::Samples;
    use crate::protocol::topic::matches;

    fn matching<'a, V: Ord>(trie: &'a Trie<V>, topic: &str) -> Vec<&'a V> {
        let mut found = Vec::new();
        trie.for_each_match(topic, |value| found.push(value));
        found.sort();
        found
    }

    fn from_filters<'a>(filters: impl IntoIterator<Item = &'a str>) -> Trie<String> {
        let mut trie = Trie::new();
        for filter in filters {
            trie.get_or_insert_with(filter, || filter.to_owned());
        }
        trie
    }

    /// That nothing is in `trie` but what its filters need.
    fn assert_tidy(trie: &Trie<String>, seed: u64) {
        let fresh = from_filters(trie.values.iter().map(|(_, filter)| &**filter));
        assert_eq!(trie.nodes.len(), fresh.nodes.len(), "seed {seed}");
        let literals = |trie: &Trie<String>| trie.nodes.iter().map(|(_, node)| node.literals).sum::<u32>();
        assert_eq!(literals(trie), literals(&fresh), "seed {seed}");
        let only = trie.nodes.iter().filter(|(_, node)| node.only != NONE).count();
        assert_eq!(trie.edges.len() + only, literals(trie) as usize, "seed {seed}");
        assert_eq!(trie.level_bytes, fresh.level_bytes, "seed {seed}");
    }

    #[test]
    fn agrees_with_the_standards_rules_on_random_filters() {
        let mut samples = Samples::new();
        let seed = samples.seed;
        for _ in 0..20 {
            let mut trie = Trie::new();
            let mut model = BTreeMap::new();
            for _ in 0..400 {
                let filter = samples.filter();
                if samples.random.u8(..3) == 0 {
                    assert_eq!(trie.remove(&filter), model.remove(&filter), "seed {seed}: {filter}");
                } else {
                    trie.get_or_insert_with(&filter, || filter.clone());
                    model.insert(filter.clone(), filter.clone());
                }
                assert_eq!(trie.get(&filter), model.get(&filter), "seed {seed}: {filter}");
                assert_eq!(trie.len(), model.len(), "seed {seed}");
                let topic = samples.topic();
                let expected: Vec<&String> =
                    model.values().filter(|filter| matches(filter, &topic)).collect();
                assert_eq!(matching(&trie, &topic), expected, "seed {seed}: {topic}");
            }
            assert_tidy(&trie, seed);
        }
    }

    #[test]
    fn a_node_takes_40_bytes() {
        println!("size_of Node: {} bytes", size_of::<Node>());
        assert_eq!(size_of::<Node>(), 40);
    }

    #[test]
    fn keeps_nothing_once_all_is_removed() {
        let mut samples = Samples::new();
        let mut filters: Vec<String> = (0..2000).map(|_| samples.filter()).collect();
        let mut trie = from_filters(filters.iter().map(|filter| &**filter));
        assert!(trie.bytes() > 0 && !trie.is_empty());
        samples.random.shuffle(&mut filters);
        for filter in &filters {
            trie.remove(filter);
        }
        assert!(trie.is_empty());
        assert_eq!((trie.len(), trie.bytes(), trie.nodes.len()), (0, 0, 0), "seed {}", samples.seed);
        assert!(matching(&trie, "a/b").is_empty());
        assert_eq!(trie.get("a"), None);
        assert_eq!(trie.remove("a"), None);
    }

    #[test]
    fn a_filter_on_the_way_to_another_is_its_own() {
        let mut trie = from_filters(["a/b/c", "a", "a/#", "a/+/c"]);
        assert_eq!(trie.get("a/b"), None);
        assert_eq!(trie.remove("a/b"), None);
        assert_eq!(trie.remove("a/b/#"), None);
        assert_eq!(matching(&trie, "a"), ["a", "a/#"]);
        assert_eq!(matching(&trie, "a/b/c"), ["a/#", "a/+/c", "a/b/c"]);
        assert_eq!(trie.remove("a/b/c").as_deref(), Some("a/b/c"));
        assert_eq!(matching(&trie, "a/b/c"), ["a/#", "a/+/c"]);
        trie.get_mut("a/#").unwrap().push('!');
        assert_eq!(matching(&trie, "a/x"), ["a/#!"]);
        assert_tidy(&from_filters(["a", "a/#", "a/+/c"]), 0);
    }

    #[test]
    fn leading_wildcards_do_not_match_dollar_topics() {
        let trie = from_filters(["#", "+/b", "+/#", "$a/#", "$a/+", "$a"]);
        assert_eq!(matching(&trie, "$a/b"), ["$a/#", "$a/+"]);
        assert_eq!(matching(&trie, "$a"), ["$a", "$a/#"]);
        assert_eq!(matching(&trie, "a/b"), ["#", "+/#", "+/b"]);
    }

    #[test]
    fn slashes_by_the_thousand_need_no_stack() {
        let deep = || {
            let topic = "/".repeat(65_535);
            let plusses = format!("+{}", "/+".repeat(32_767));
            let half = "/".repeat(32_767);
            let mut trie = from_filters([&*topic, &plusses, &half, "#"]);
            assert_eq!(matching(&trie, &topic), ["#", &*topic]);
            assert_eq!(matching(&trie, &half), ["#", &*plusses, &half]);
            for filter in [&*topic, &plusses, &half] {
                assert!(trie.remove(filter).is_some());
            }
            assert_eq!(trie.nodes.len(), 1);
            trie.get_or_insert_with(&topic, String::new);
            drop(trie);
        };
        std::thread::Builder::new().stack_size(64 << 10).spawn(deep).unwrap().join().unwrap();
    }

    #[test]
    fn wildcards_on_every_level_cost_no_more_than_the_filters_there_are() {
        // Every combination of `a` and `+` on 12 levels: all 4,096 match, each once.
        let filters: Vec<String> = (0..1 << 12)
            .map(|bits: u32| {
                let levels: Vec<&str> =
                    (0..12).map(|at| if bits >> at & 1 == 0 { "a" } else { "+" }).collect();
                levels.join("/")
            })
            .collect();
        let trie = from_filters(filters.iter().map(|filter| &**filter));
        let mut expected: Vec<&str> = filters.iter().map(|filter| &**filter).collect();
        expected.sort();
        assert_eq!(matching(&trie, &["a"; 12].join("/")), expected);
        assert!(matching(&trie, &["a"; 11].join("/")).is_empty());
    }

    #[test]
    fn follows_more_branches_than_have_room_without_an_allocation() {
        let filters: Vec<String> = (0..200)
            .map(|plus| {
                let levels: Vec<&str> = (0..200).map(|at| if at == plus { "+" } else { "a" }).collect();
                levels.join("/")
            })
            .collect();
        let trie = from_filters(filters.iter().map(|filter| &**filter));
        assert_eq!(matching(&trie, &["a"; 200].join("/")).len(), 200);
    }

    #[test]
    fn a_filter_takes_no_more_than_150_bytes() {
        const COUNT: usize = 1 << 17;
        let shapes: [fn(usize) -> String; 3] = [
            |number| format!("sensors/{number}"),
            |number| format!("fleet/{number}/status"),
            |number| format!("{}/room {}/+/#", number % 1000, number / 1000),
        ];
        for shape in shapes {
            let mut trie: Trie<[u64; 2]> = Trie::new();
            for number in 0..COUNT {
                trie.get_or_insert_with(&shape(number), || [0; 2]);
            }
            let each = trie.bytes() / COUNT;
            assert!(each <= 150, "{}: {each} bytes", shape(0));
        }
    }
}
