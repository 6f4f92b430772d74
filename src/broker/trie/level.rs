//! One level of a topic filter as a trie's node keeps it: 15 bytes, and nothing else up to 14 bytes of text.

use slab::Slab;

/// The longest level that stands in its node.
const SHORT: usize = 14;

/// The size of a level that does not: the first four bytes of its text say which of [`Texts`] it is.
const LONG: u8 = u8::MAX;

/// The text of one level.
#[derive(Clone, Copy)]
pub(super) struct Level {
    /// Its length, or [`LONG`].
    size: u8,
    text: [u8; SHORT],
}

/// The texts of the levels that are too long for their nodes.
#[derive(Default)]
pub(super) struct Texts {
    long: Slab<Box<[u8]>>,
    /// How many bytes they are.
    bytes: usize,
}

impl Level {
    /// A level without text.
    pub(super) const EMPTY: Level = Level { size: 0, text: [0; SHORT] };

    fn short(text: &[u8]) -> Level {
        let mut level = Level::EMPTY;
        level.text[..text.len()].copy_from_slice(text);
        level.size = text.len() as u8;
        level
    }

    /// Which of the long ones it is.
    fn long(self) -> Option<usize> {
        let [a, b, c, d, ..] = self.text;
        (self.size == LONG).then_some(u32::from_le_bytes([a, b, c, d]) as usize)
    }
}

impl Texts {
    /// A level of this text.
    pub(super) fn add(&mut self, text: &[u8]) -> Level {
        if text.len() <= SHORT {
            return Level::short(text);
        }
        self.bytes += text.len();
        let index = self.long.insert(text.into()) as u32;
        Level { size: LONG, ..Level::short(&index.to_le_bytes()) }
    }

    /// The text of `level` goes with it.
    pub(super) fn remove(&mut self, level: Level) {
        if let Some(text) = level.long().and_then(|index| self.long.try_remove(index)) {
            self.bytes -= text.len();
        }
    }

    /// The text of `level`.
    pub(super) fn of<'a>(&'a self, level: &'a Level) -> &'a [u8] {
        match level.long() {
            Some(index) => self.long.get(index).map_or(&[], |text| text),
            None => &level.text[..usize::from(level.size)],
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.long.len()
    }

    /// The bytes reserved.
    pub(super) fn bytes(&self) -> usize {
        self.long.capacity() * size_of::<Option<Box<[u8]>>>() + self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_levels_of_any_length_in_15_bytes() {
        assert_eq!(size_of::<Level>(), 15);
        let mut texts = Texts::default();
        let lengths = [0, 1, SHORT, SHORT + 1, 36, 255, 256, 65_535];
        let text = |len: usize| -> Vec<u8> { (0..len).map(|at| (at ^ len) as u8).collect() };
        let levels = lengths.map(|len| texts.add(&text(len)));
        for (level, len) in levels.iter().zip(lengths) {
            assert_eq!(texts.of(level), text(len));
        }
        assert_eq!(texts.bytes, lengths.iter().filter(|&&len| len > SHORT).sum::<usize>());
        levels.into_iter().for_each(|level| texts.remove(level));
        assert_eq!((texts.bytes, texts.long.len()), (0, 0));
    }
}
