//! [`Rules`]: a list of entries, each a topic filter and what it grants, as a trie that is built once. One walk along a
//! topic tells what all entries that match it say together.

use super::Who;

/// Nothing.
pub(super) const NONE: u8 = 0;
/// To be sent messages.
pub(super) const READ: u8 = 1;
/// To publish messages.
pub(super) const WRITE: u8 = 2;
/// Neither, whatever else in the list says.
pub(super) const DENY: u8 = 4;

/// One level of a filter, as it holds for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level<'a> {
    /// Exactly this text.
    Literal(&'a str),
    /// `+`
    Plus,
    /// `#`
    Hash,
}

/// The levels of an MQTT topic filter.
pub(super) fn filter_levels(filter: &str) -> impl Iterator<Item = Level<'_>> {
    filter.split('/').map(|level| match level {
        "+" => Level::Plus,
        "#" => Level::Hash,
        text => Level::Literal(text),
    })
}

/// One entry of the list, for the questions that are about filters rather than topics: those are asked seldom.
#[derive(Debug)]
struct Entry {
    filter: Box<str>,
    grants: u8,
}

/// What the entries of one list say.
#[derive(Debug, Default)]
pub(super) struct Rules {
    nodes: Vec<Node>,
    entries: Vec<Entry>,
    /// `%u` and `%c` stand for the client's names.
    patterns: bool,
}

/// No child: the root is nobody's.
const NOBODY: u32 = 0;

#[derive(Debug, Default)]
struct Node {
    /// What the entries that end here say.
    here: u8,
    /// What the entries that end in `#` below here say: of this level and of all below it.
    below: u8,
    plus: u32,
    user: u32,
    client: u32,
    /// Sorted.
    literals: Vec<(Box<str>, u32)>,
}

impl Rules {
    /// No entries; in those to come `%u` and `%c` stand for the client's names if `patterns`.
    pub(super) fn new(patterns: bool) -> Rules {
        Rules { nodes: vec![Node::default()], entries: Vec::new(), patterns }
    }

    /// Whether there are no entries.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry; `filter` is a valid topic filter.
    pub(super) fn add(&mut self, filter: &str, grants: u8) {
        self.entries.push(Entry { filter: filter.into(), grants });
        let mut node = 0;
        for level in filter.split('/') {
            if level == "#" {
                return self.nodes[node].below |= grants;
            }
            node = self.child(node, level);
        }
        self.nodes[node].here |= grants;
    }

    fn child(&mut self, node: usize, level: &str) -> usize {
        let next = self.nodes.len() as u32;
        let parent = &mut self.nodes[node];
        let place = match level {
            "+" => &mut parent.plus,
            "%u" if self.patterns => &mut parent.user,
            "%c" if self.patterns => &mut parent.client,
            _ => match parent.literals.binary_search_by(|(text, _)| (**text).cmp(level)) {
                Ok(index) => &mut parent.literals[index].1,
                Err(index) => {
                    parent.literals.insert(index, (level.into(), NOBODY));
                    &mut parent.literals[index].1
                }
            },
        };
        if *place == NOBODY {
            *place = next;
            self.nodes.push(Node::default());
        }
        let child = self.nodes[node].child_of(level, self.patterns);
        child as usize
    }

    /// What the entries that match `topic` say together. Touches each node that the topic leads to once, and allocates
    /// only where it leads to several.
    pub(super) fn grants(&self, who: Who<'_>, topic: &str) -> u8 {
        let mut grants = NONE;
        // What begins with `$` is matched by nothing but what is written with it [MQTT-4.7.2-1].
        let mut wild = !topic.starts_with('$');
        let mut more: Vec<(u32, Option<usize>)> = Vec::new();
        let (mut node, mut rest) = (0u32, Some(0));
        loop {
            let here = &self.nodes[node as usize];
            if wild {
                grants |= here.below;
            }
            let mut next = None;
            if let Some(start) = rest {
                let (level, after) = level_at(topic, start);
                let mut follow = |child: u32| {
                    if child != NOBODY
                        && let Some(other) = next.replace((child, after))
                    {
                        more.push(other);
                    }
                };
                if wild {
                    follow(here.plus);
                    if here.user != NOBODY && who.plain_user() == Some(level) {
                        follow(here.user);
                    }
                    if here.client != NOBODY && who.plain_client_id() == Some(level) {
                        follow(here.client);
                    }
                }
                follow(here.literal(level));
            } else {
                grants |= here.here;
            }
            wild = true; // the rule is about the first level
            match next.or_else(|| more.pop()) {
                Some((child, after)) => (node, rest) = (child, after),
                None => return grants,
            }
        }
    }

    /// Whether some topic that `filter` matches is granted to be read by this list, and not denied by it or by those in
    /// `above`. Where only several denials together leave nothing, the answer is yes all the same.
    pub(super) fn reads_some(&self, who: Who<'_>, filter: &str, above: Option<&Rules>) -> bool {
        let readers = self.entries.iter().filter(|entry| entry.grants & READ != 0);
        readers.into_iter().any(|entry| {
            let common = overlap(self.levels(entry, who), filter_levels(filter));
            common.is_some_and(|common| {
                let denied = |rules: &Rules| rules.deniers(who).any(|wide| covers(wide, &common));
                !denied(self) && !above.is_some_and(denied)
            })
        })
    }

    /// Whether every topic that `filter` matches is granted to be read by one entry of this list.
    pub(super) fn reads_all(&self, who: Who<'_>, filter: &str) -> bool {
        let narrow: Vec<Level<'_>> = filter_levels(filter).collect();
        let mut readers = self.entries.iter().filter(|entry| entry.grants & READ != 0);
        readers.any(|entry| self.levels(entry, who).is_some_and(|wide| covers(wide, &narrow)))
    }

    /// Whether some topic that `filter` matches is denied.
    pub(super) fn denies_some(&self, who: Who<'_>, filter: &str) -> bool {
        self.deniers(who).any(|denied| overlap(Some(denied), filter_levels(filter)).is_some())
    }

    fn deniers<'a>(&'a self, who: Who<'a>) -> impl Iterator<Item = impl Iterator<Item = Level<'a>>> {
        let denying = self.entries.iter().filter(|entry| entry.grants & DENY != 0);
        denying.filter_map(move |entry| self.levels(entry, who))
    }

    /// The levels of an entry as they hold for this client; `None` if it can match nothing.
    fn levels<'a>(
        &self,
        entry: &'a Entry,
        who: Who<'a>,
    ) -> Option<impl Iterator<Item = Level<'a>> + use<'a>> {
        let patterns = self.patterns;
        let level = move |text: &'a str| match text {
            "%u" if patterns => who.plain_user().map(Level::Literal),
            "%c" if patterns => who.plain_client_id().map(Level::Literal),
            "+" => Some(Level::Plus),
            "#" => Some(Level::Hash),
            _ => Some(Level::Literal(text)),
        };
        let first = entry.filter.split('/').next().unwrap_or_default();
        // A client does not get at the server's topics by being called `$SYS`.
        let disguised = !first.starts_with('$')
            && level(first)
                .is_some_and(|level| matches!(level, Level::Literal(text) if text.starts_with('$')));
        let possible = !disguised && entry.filter.split('/').all(|text| level(text).is_some());
        possible.then(|| entry.filter.split('/').filter_map(level))
    }
}

impl Node {
    fn literal(&self, level: &str) -> u32 {
        let found = self.literals.binary_search_by(|(text, _)| (**text).cmp(level));
        found.map_or(NOBODY, |index| self.literals[index].1)
    }

    fn child_of(&self, level: &str, patterns: bool) -> u32 {
        match level {
            "+" => self.plus,
            "%u" if patterns => self.user,
            "%c" if patterns => self.client,
            _ => self.literal(level),
        }
    }
}

/// The level of `topic` that begins at `start`, and where the next one does.
fn level_at(topic: &str, start: usize) -> (&str, Option<usize>) {
    let rest = &topic[start..];
    match rest.bytes().position(|byte| byte == b'/') {
        Some(len) => (&rest[..len], Some(start + len + 1)),
        None => (rest, None),
    }
}

/// The filter that matches exactly what both match: two filters have one, or nothing, in common.
fn overlap<'a>(
    one: Option<impl Iterator<Item = Level<'a>>>,
    mut other: impl Iterator<Item = Level<'a>>,
) -> Option<Vec<Level<'a>>> {
    let (mut one, mut common) = (one?, Vec::new());
    loop {
        let pair = (one.next(), other.next());
        if common.is_empty() && hides(&pair) {
            return None;
        }
        match pair {
            (None, None) => return Some(common),
            (Some(Level::Hash), None) | (None, Some(Level::Hash)) => return Some(common),
            (Some(Level::Hash), Some(rest)) => {
                common.push(rest);
                common.extend(other);
                return Some(common);
            }
            (Some(rest), Some(Level::Hash)) => {
                common.push(rest);
                common.extend(one);
                return Some(common);
            }
            (Some(Level::Plus), Some(level)) | (Some(level), Some(Level::Plus)) => common.push(level),
            (Some(Level::Literal(left)), Some(Level::Literal(right))) if left == right => {
                common.push(Level::Literal(left));
            }
            _ => return None,
        }
    }
}

/// A wildcard in front does not reach what begins with `$`.
fn hides(pair: &(Option<Level<'_>>, Option<Level<'_>>)) -> bool {
    let is_server = |level| matches!(level, Some(Level::Literal(text)) if text.starts_with('$'));
    let is_wild = |level| matches!(level, Some(Level::Plus | Level::Hash));
    (is_server(pair.0) && is_wild(pair.1)) || (is_wild(pair.0) && is_server(pair.1))
}

/// Whether `wide` matches everything that `narrow` does.
fn covers<'a>(wide: impl Iterator<Item = Level<'a>>, narrow: &[Level<'a>]) -> bool {
    let mut narrow = narrow.iter().copied();
    let mut first = true;
    for level in wide {
        let pair = (Some(level), narrow.next());
        if std::mem::take(&mut first) && hides(&pair) {
            return false;
        }
        let covered = match pair {
            (Some(Level::Hash), _) => return true,
            (_, None) => false,
            (Some(Level::Plus), Some(other)) => other != Level::Hash,
            (left, right) => left == right,
        };
        if !covered {
            return false;
        }
    }
    narrow.next().is_none()
}
