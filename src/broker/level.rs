//! One level of a topic filter as a trie's node keeps it: 16 bytes, and no allocation up to 14 bytes of text.

/// The longest level that needs no allocation.
const SHORT: usize = 14;

/// The longest level that needs only one. A UUID is one of them; 40 bytes fill what allocators hand out.
const MEDIUM: usize = 40;

/// The text of one level; `len` says how much of `text` is meant.
pub(super) enum Level {
    Short {
        len: u8,
        text: [u8; SHORT],
    },
    Medium {
        len: u8,
        text: Box<[u8; MEDIUM]>,
    },
    /// Twice boxed, because a fat pointer would make every node 8 bytes larger for the few that need it.
    Long(Box<Box<[u8]>>),
}

impl Level {
    pub(super) fn new(level: &[u8]) -> Level {
        let len = level.len() as u8;
        if level.len() <= SHORT {
            Level::Short { len, text: padded(level) }
        } else if level.len() <= MEDIUM {
            Level::Medium { len, text: Box::new(padded(level)) }
        } else {
            Level::Long(Box::new(Box::from(level)))
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Level::Short { len, text } => &text[..usize::from(*len)],
            Level::Medium { len, text } => &text[..usize::from(*len)],
            Level::Long(text) => text,
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Level::Short { .. } => 0,
            Level::Medium { .. } => MEDIUM,
            Level::Long(text) => size_of::<Box<[u8]>>() + text.len(),
        }
    }
}

fn padded<const N: usize>(level: &[u8]) -> [u8; N] {
    let mut text = [0; N];
    text[..level.len()].copy_from_slice(level);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_levels_of_any_length_in_16_bytes() {
        assert_eq!(size_of::<Level>(), 16);
        for len in [0, 1, SHORT, SHORT + 1, MEDIUM, MEDIUM + 1, 255, 256, 65_535] {
            let text: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let level = Level::new(&text);
            assert_eq!(level.as_bytes(), text);
            assert_eq!(level.heap_bytes() > 0, len > SHORT);
        }
    }
}
