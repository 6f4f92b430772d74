//! Just enough of DER to find a name or a key in what has been checked already, or is checked afterwards. Whatever the
//! bytes are, there is a value or `None`.

/// Elements, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(&'a [u8]);

pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0C;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Der<'a> {
        Der(bytes)
    }

    /// The next element: its tag and its contents.
    pub(super) fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, contents))
    }

    /// The next element, which must have this tag.
    pub(super) fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any().filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
    }

    /// What is in the next element, which must have this tag.
    pub(super) fn within(&mut self, tag: u8) -> Option<Der<'a>> {
        self.next(tag).map(Der)
    }

    /// The next element if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let found = ahead.next(tag)?;
        *self = ahead;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_taken_apart_and_whatever_is_cut_is_none() {
        let bytes = [0x30, 0x06, 0x0C, 0x01, b'a', 0x04, 0x81, 0x00, 0x05, 0x00];
        let mut outer = Der::new(&bytes[..8]);
        let mut inner = outer.within(SEQUENCE).expect("a sequence");
        assert_eq!(inner.next(UTF8_STRING), Some(&b"a"[..]));
        assert_eq!(inner.optional(OID), None);
        assert_eq!(inner.any(), Some((OCTET_STRING, &[][..])));
        assert_eq!((inner.any(), outer.any()), (None, None));
        for end in 0..8 {
            assert!(Der::new(&bytes[..end]).any().is_none(), "{end}");
        }
        for bytes in [&[0x30, 0x80, 0, 0][..], &[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF], &[0x30, 0x88]] {
            assert!(Der::new(bytes).any().is_none());
        }
    }
}
