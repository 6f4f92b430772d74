//! [`Trie`]: topic filters → values, and all the values whose filter matches a topic. Nodes are numbered, one for each
//! level but a trailing `#`; where `+` leads is a field of the node. Literal edges stand in one hash table for the whole
//! trie, keyed by (parent, level), but for the edge of a node that has one only, which knows it itself. Nothing recurses,
//! so a filter of 65,535 levels needs no more stack than one of two, and nothing iterates the hash table, so no result
//! depends on its order. A node is reached by one path only: a match visits each node at most once, however many `+`.
//!
//! With many filters a match is made of cache misses, not of instructions, and that is what the shape is for: a node or an
//! edge is one line of memory each, what cannot match is mostly known without reading it, and a match goes level by level,
//! so that the reads of all branches of a level, none of which waits for another, are under way together.
//!
//! Size: 32 bytes a node, 11 to 16 bytes an edge in the table, and the value; levels longer than 14 bytes have their text
//! on the heap. A level that filters share counts once. Resident bytes measured for each of a million filters, half of what
//! Interest and a shard's subscriptions hold together: 68 for `sensors/N`, 100 for `N/room N/+/#`, 100 for
//! `fleet/N/status`, 164 where N is as long as a UUID.

mod edges;
mod level;
mod node;
mod nodes;
mod open;

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use slab::Slab;

use edges::{Edges, NONE};
use level::{Level, Texts};
use node::{Ends, Next, Node};
use nodes::Nodes;
use open::{Open, Step};

/// The root, in every trie that is not empty.
const ROOT: u32 = 0;

/// Topic filters → values.
pub struct Trie<V> {
    nodes: Nodes,
    texts: Texts,
    values: Slab<V>,
    /// The values of a filter and of the same with `/#`, where there are both: see [`Ends::Both`].
    pairs: Slab<[u32; 2]>,
    /// Every node that a literal level leads to, but for [`Next::Only`].
    edges: Edges,
    hasher: RandomState,
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
            nodes: Nodes::new(),
            texts: Texts::default(),
            values: Slab::new(),
            pairs: Slab::new(),
            edges: Edges::default(),
            hasher: RandomState::default(),
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
        self.nodes.bytes()
            + self.values.capacity() * size_of::<Option<V>>()
            + self.pairs.capacity() * size_of::<Option<[u32; 2]>>()
            + self.edges.bytes()
            + self.texts.bytes()
    }

    /// The value of `filter`, a well-formed topic filter; one that is missing is made.
    pub fn get_or_insert_with(&mut self, filter: &str, make: impl FnOnce() -> V) -> &mut V {
        let place = self.make_path(filter);
        let mut value = self.value_at(place);
        if value == NONE {
            value = insert(&mut self.values, make());
            self.set_value(place, value);
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
        self.set_value(place, NONE);
        if self.values.is_empty() {
            *self = Trie::default(); // gives the memory back
        } else {
            let (Place::Node(node) | Place::Hash(node)) = place;
            self.prune(node);
        }
        Some(value)
    }

    /// Calls `visit` with the value of every filter that matches the topic name `topic`, in an order that depends on
    /// the filters alone. Touches only nodes that `topic` leads to, each once, and allocates only where more than 16
    /// branches are open at a time.
    pub fn for_each_match<'a>(&'a self, topic: &str, mut visit: impl FnMut(&'a V)) {
        if self.nodes.len() == 0 {
            return;
        }
        // Leading wildcards do not match topics that begin with `$` [MQTT-4.7.2-1].
        let mut wildcards = !topic.starts_with('$');
        let (mut near, mut far) = (Open::new(), Open::new());
        let (mut now, mut then) = (&mut near, &mut far);
        now.push(Step { node: ROOT, from: NONE });
        let mut last: &[u8] = b"";
        for level in topic.as_bytes().split(|&byte| byte == b'/') {
            let hash = self.hasher.hash_one(level);
            while let Some(step) = now.pop() {
                let Some(id) = self.arrive(step, last) else { continue };
                let node = &self.nodes[id];
                if wildcards {
                    self.visit_hash(node, &mut visit);
                    if node.plus != NONE {
                        then.push(Step { node: node.plus, from: NONE });
                    }
                }
                if let Some(node) = self.guess(id, node, hash) {
                    then.push(Step { node, from: id });
                }
            }
            (now, then, last) = (then, now, level);
            wildcards = true; // the rule is about the first level
        }
        while let Some(step) = now.pop() {
            let Some(id) = self.arrive(step, last) else { continue };
            let node = &self.nodes[id];
            self.visit_hash(node, &mut visit); // `#` includes the parent level
            if let Some(value) = self.values.get(self.value_here(node) as usize) {
                visit(value);
            }
        }
    }

    fn visit_hash<'a>(&'a self, node: &Node, visit: &mut impl FnMut(&'a V)) {
        if let Some(value) = self.values.get(self.value_of_hash(node) as usize) {
            visit(value);
        }
    }

    /// The node that a literal level of this hash may lead to from `node`. It has not been read yet.
    fn guess(&self, id: u32, node: &Node, hash: u64) -> Option<u32> {
        match node.next() {
            Next::Only(child) => (node.mark == mark(hash)).then_some(child),
            Next::Listed(0) => None,
            Next::Listed(_) => self.edges.find(self.edge(id, hash), |_| true),
        }
    }

    /// The node that a step leads to in truth, if `level` was that of its guess.
    fn arrive(&self, step: Step, level: &[u8]) -> Option<u32> {
        if step.from == NONE || self.is_child(step.node, step.from, level) {
            return Some(step.node);
        }
        self.literal(step.from, level)
    }

    /// The node that the literal `level` leads to from `parent`.
    fn literal(&self, parent: u32, level: &[u8]) -> Option<u32> {
        match self.nodes[parent].next() {
            Next::Only(child) => self.is_child(child, parent, level).then_some(child),
            Next::Listed(0) => None,
            Next::Listed(_) => {
                let edge = self.edge(parent, self.hasher.hash_one(level));
                self.edges.find(edge, |child| self.is_child(child, parent, level))
            }
        }
    }

    fn is_child(&self, child: u32, parent: u32, level: &[u8]) -> bool {
        let node = &self.nodes[child];
        node.parent == parent && self.texts.of(&node.level) == level
    }

    /// The hash of the edge from `parent` by a level of this hash.
    fn edge(&self, parent: u32, level: u64) -> u32 {
        let mut state = self.hasher.build_hasher();
        state.write_u64(level ^ u64::from(parent));
        (state.finish() >> 32) as u32
    }

    /// The place of `filter`, if the trie has one; a value need not be there.
    fn find(&self, filter: &str) -> Option<Place> {
        if self.nodes.len() == 0 {
            return None;
        }
        let mut node = ROOT;
        let mut levels = filter.as_bytes().split(|&byte| byte == b'/').peekable();
        while let Some(level) = levels.next() {
            node = match level {
                b"#" if levels.peek().is_none() => return Some(Place::Hash(node)),
                b"+" => Some(self.nodes[node].plus).filter(|&plus| plus != NONE)?,
                _ => self.literal(node, level)?,
            };
        }
        Some(Place::Node(node))
    }

    /// The place of `filter`, with every node that is missing on the way.
    fn make_path(&mut self, filter: &str) -> Place {
        if self.nodes.len() == 0 {
            self.nodes.insert(Node::new(NONE, Level::EMPTY));
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
        if self.nodes[parent].plus == NONE {
            let level = self.texts.add(b"+");
            let child = self.nodes.insert(Node::new(parent, level));
            self.nodes[parent].plus = child;
        }
        self.nodes[parent].plus
    }

    fn make_literal(&mut self, parent: u32, text: &[u8]) -> u32 {
        let level = self.texts.add(text);
        let child = self.nodes.insert(Node::new(parent, level));
        let node = &mut self.nodes[parent];
        match node.next() {
            Next::Listed(0) => {
                node.set_next(Next::Only(child));
                node.mark = mark(self.hasher.hash_one(text));
            }
            Next::Listed(count) => {
                node.set_next(Next::Listed(count + 1));
                self.edges.insert(self.edge_to(child), child);
            }
            Next::Only(first) => {
                node.set_next(Next::Listed(2));
                self.edges.insert(self.edge_to(first), first);
                self.edges.insert(self.edge_to(child), child);
            }
        }
        child
    }

    /// The hash of the edge that leads to `child`.
    fn edge_to(&self, child: u32) -> u32 {
        let node = &self.nodes[child];
        self.edge(node.parent, self.hasher.hash_one(self.texts.of(&node.level)))
    }

    /// Removes `id` and its ancestors, up to the first that something else still needs.
    fn prune(&mut self, mut id: u32) {
        while id != ROOT && self.nodes[id].is_bare() {
            let edge = self.edge_to(id);
            let node = self.nodes.remove(id);
            let parent = &mut self.nodes[node.parent];
            if parent.plus == id {
                parent.plus = NONE;
            } else if let Next::Listed(count) = parent.next() {
                parent.set_next(Next::Listed(count - 1));
                self.edges.remove(edge, id);
            } else {
                parent.set_next(Next::Listed(0));
            }
            self.texts.remove(node.level);
            id = node.parent;
        }
    }

    /// The value of the filter that ends with the level of `node`, or [`NONE`].
    fn value_here(&self, node: &Node) -> u32 {
        match node.ends() {
            Ends::Here(value) => value,
            Ends::Both(pair) => self.pairs[pair as usize][0],
            Ends::Hash(_) | Ends::Nothing => NONE,
        }
    }

    /// The value of the filter that goes on with `#` after `node`, or [`NONE`].
    fn value_of_hash(&self, node: &Node) -> u32 {
        match node.ends() {
            Ends::Hash(value) => value,
            Ends::Both(pair) => self.pairs[pair as usize][1],
            Ends::Here(_) | Ends::Nothing => NONE,
        }
    }

    fn value_at(&self, place: Place) -> u32 {
        match place {
            Place::Node(node) => self.value_here(&self.nodes[node]),
            Place::Hash(node) => self.value_of_hash(&self.nodes[node]),
        }
    }

    fn set_value(&mut self, place: Place, value: u32) {
        let (Place::Node(id) | Place::Hash(id)) = place;
        let node = &self.nodes[id];
        let values = match place {
            Place::Node(_) => [value, self.value_of_hash(node)],
            Place::Hash(_) => [self.value_here(node), value],
        };
        if let Ends::Both(pair) = node.ends() {
            self.pairs.remove(pair as usize);
        }
        let ends = match values {
            [NONE, NONE] => Ends::Nothing,
            [here, NONE] => Ends::Here(here),
            [NONE, hash] => Ends::Hash(hash),
            both => Ends::Both(insert(&mut self.pairs, both)),
        };
        self.nodes[id].set_ends(ends);
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

/// What a node remembers of the hash of its only child's level.
fn mark(hash: u64) -> u8 {
    hash as u8
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
        let listed = |trie: &Trie<String>| {
            let each = |node: &Node| if let Next::Listed(count) = node.next() { count } else { 0 };
            trie.nodes.iter().map(each).sum::<u32>() as usize
        };
        assert_eq!(trie.edges.len(), listed(trie), "seed {seed}");
        let both = |node: &Node| matches!(node.ends(), Ends::Both(_));
        let pairs = trie.nodes.iter().filter(|node| both(node)).count();
        assert_eq!((trie.pairs.len(), trie.texts.len()), (pairs, fresh.texts.len()), "seed {seed}");
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
    fn a_hash_that_two_levels_share_leads_to_the_right_one() {
        let trie = from_filters(["a/x", "a/y", "b/x"]);
        let id = |filter| match trie.find(filter) {
            Some(Place::Node(id)) => id,
            _ => panic!("{filter} is not there"),
        };
        let (a, b) = (id("a"), id("b"));
        for (guess, from) in [("a/x", a), ("a/y", a), ("b/x", a), ("a/x", b), ("b/x", b)] {
            let step = Step { node: id(guess), from };
            assert_eq!(trie.arrive(step, b"x"), Some(id(if from == a { "a/x" } else { "b/x" })));
            assert_eq!(trie.arrive(step, b"z"), None);
        }
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
