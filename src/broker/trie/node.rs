//! [`Node`]: one level of one or more filters, in 32 bytes and never across two lines of memory. Two of its fields say more
//! than a number: [`Next`], which literal levels lead on, and [`Ends`], which filters end there.

use super::edges::NONE;
use super::level::Level;

/// A bit of [`Node::next`]: the rest is the only child's number.
const ONLY: u32 = 1 << 31;

/// How far the kind is shifted in [`Node::ends`], below which a number stands.
const KIND: u32 = 30;

#[repr(align(32))]
pub(super) struct Node {
    /// The level that leads here from `parent`.
    pub(super) level: Level,
    /// Eight bits of the hash of the only child's level, so that it is not looked at in vain.
    pub(super) mark: u8,
    pub(super) parent: u32,
    /// The node that `+` leads to.
    pub(super) plus: u32,
    next: u32,
    ends: u32,
}

/// The nodes that literal levels lead to from a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The only one there ever was; it is not in the table.
    Only(u32),
    /// So many, all in the table.
    Listed(u32),
}

/// The values of the filters that end at a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// None does.
    Nothing,
    /// That of the filter that ends with this level.
    Here(u32),
    /// That of the filter that goes on with `#`.
    Hash(u32),
    /// Those of both, and where they stand.
    Both(u32),
}

impl Node {
    pub(super) fn new(parent: u32, level: Level) -> Node {
        let mut node = Node { level, mark: 0, parent, plus: NONE, next: 0, ends: 0 };
        node.set_ends(Ends::Nothing);
        node
    }

    /// Whether no filter needs it.
    pub(super) fn is_bare(&self) -> bool {
        self.plus == NONE && self.next() == Next::Listed(0) && self.ends() == Ends::Nothing
    }

    pub(super) fn next(&self) -> Next {
        if self.next & ONLY == 0 { Next::Listed(self.next) } else { Next::Only(self.next & !ONLY) }
    }

    pub(super) fn set_next(&mut self, next: Next) {
        self.next = match next {
            Next::Only(child) => child | ONLY,
            Next::Listed(count) => count,
        };
    }

    pub(super) fn ends(&self) -> Ends {
        let number = self.ends & ((1 << KIND) - 1);
        match self.ends >> KIND {
            0 => Ends::Here(number),
            1 => Ends::Hash(number),
            2 => Ends::Both(number),
            _ => Ends::Nothing,
        }
    }

    pub(super) fn set_ends(&mut self, ends: Ends) {
        self.ends = match ends {
            Ends::Here(number) => number,
            Ends::Hash(number) => number | 1 << KIND,
            Ends::Both(number) => number | 2 << KIND,
            Ends::Nothing => NONE,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_takes_32_bytes() {
        println!("size_of Node: {} bytes", size_of::<Node>());
        assert_eq!((size_of::<Node>(), align_of::<Node>()), (32, 32));
    }

    #[test]
    fn says_what_it_was_told() {
        let mut node = Node::new(7, Level::EMPTY);
        assert!(node.is_bare());
        for number in [0, 1, (1 << KIND) - 1] {
            for ends in [Ends::Here(number), Ends::Hash(number), Ends::Both(number)] {
                node.set_ends(ends);
                assert!(node.ends() == ends && !node.is_bare());
            }
            for next in [Next::Only(number), Next::Listed(number)] {
                node.set_next(next);
                assert!(node.next() == next);
            }
        }
        node.set_ends(Ends::Nothing);
        node.set_next(Next::Listed(0));
        assert!(node.is_bare());
    }
}
