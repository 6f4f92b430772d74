//! One level of a topic filter as a trie's node keeps it: 16 bytes, and no allocation up to 14 bytes of text.

/// The longest level that needs no allocation.
const SHORT: usize = 14;

/// The text of one level.
pub(super) enum Level {
    /// Text within the node.
    Short {
        /// How much of `text` is meant.
        len: u8,
        /// The text, then zeroes.
        text: [u8; SHORT],
    },
    /// Longer text. Twice boxed, because a fat pointer would make every node 8 bytes larger for the few that need it.
    Long(Box<Box<[u8]>>),
}

impl Level {
    pub(super) fn new(level: &[u8]) -> Level {
        if level.len() > SHORT {
            return Level::Long(Box::new(Box::from(level)));
        }
        let mut text = [0; SHORT];
        text[..level.len()].copy_from_slice(level);
        Level::Short { len: level.len() as u8, text }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Level::Short { len, text } => &text[..usize::from(*len)],
            Level::Long(text) => text,
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Level::Short { .. } => 0,
            Level::Long(text) => size_of::<Box<[u8]>>() + text.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_levels_of_any_length_in_16_bytes() {
        assert_eq!(size_of::<Level>(), 16);
        for len in [0, 1, SHORT, SHORT + 1, 65_535] {
            let text = vec![b'x'; len];
            let level = Level::new(&text);
            assert_eq!(level.as_bytes(), text);
            assert_eq!(level.heap_bytes() > 0, len > SHORT);
        }
    }
}
