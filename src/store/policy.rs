//! How much of the disk the store takes, and when it tidies up: the numbers, and nothing else.

use super::disk::Space;
use super::index::Live;

const GIB: u64 = 1024 * 1024 * 1024;

/// The limits of a store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Bytes of a segment.
    pub(super) segment_size: u64,
    /// Most bytes of the folder; `None`: the smaller of 16 GiB and half of the file system.
    pub(super) max_size: Option<u64>,
    /// Bytes that stay free; `None`: the larger of 512 MiB and 5 %, but never over a quarter of the file system.
    pub(super) reserve: Option<u64>,
    /// Bytes of the hot journal past which its oldest segment is retired.
    pub(super) journal_budget: u64,
    /// Bytes of references in memory past which it is, too.
    pub(super) table_budget: u64,
}

impl Policy {
    /// Whether there is no room for more messages: `used` are the bytes of the folder.
    pub(super) fn is_full(&self, used: u64, space: Space) -> bool {
        let max = self.max_size.unwrap_or((16 * GIB).min(space.total / 2));
        let reserve = self.reserve.unwrap_or((GIB / 2).max(space.total / 20).min(space.total / 4));
        used >= max || space.free < reserve
    }

    /// Whether the oldest segment is to be retired.
    pub(super) fn is_over(&self, hot: u64, table: u64) -> bool {
        hot > self.journal_budget || table > self.table_budget
    }

    /// Whether publishers are to pause until that has been done.
    pub(super) fn is_far_over(&self, hot: u64, table: u64) -> bool {
        hot > 2 * self.journal_budget || table > 2 * self.table_budget
    }

    /// Which of the cold segments is to be emptied rather than waited for, if one is: much of the cold files is waste in
    /// all, and little of this one is wanted. A queue that is drained in order has one such at a time, and needs no help.
    pub(super) fn worth_emptying(&self, cold: impl Iterator<Item = (u32, Live)>) -> Option<u32> {
        let (mut files, mut wanted) = (0, 0);
        let mut least: Option<(u32, u64)> = None;
        for (segment, live) in cold {
            files += self.segment_size;
            wanted += live.bytes.min(self.segment_size);
            if least.is_none_or(|(_, bytes)| live.bytes < bytes) {
                least = Some((segment, live.bytes));
            }
        }
        let waste = files - wanted;
        let wasteful = waste > 3 * self.segment_size && waste > wanted / 4;
        let (segment, bytes) = least?;
        (wasteful && bytes < self.segment_size / 4).then_some(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn policy() -> Policy {
        Policy {
            segment_size: 64 * MIB,
            max_size: None,
            reserve: None,
            journal_budget: 256 * MIB,
            table_budget: 16 * MIB,
        }
    }

    #[test]
    fn a_small_disk_is_not_all_reserve() {
        let space = |free, total| Space { free, total };
        assert!(!policy().is_full(0, space(20 * GIB, 20 * GIB)));
        assert!(policy().is_full(10 * GIB, space(10 * GIB, 20 * GIB)), "half of it is enough");
        assert!(policy().is_full(0, space(GIB - 1, 20 * GIB)), "5 %");
        assert!(policy().is_full(0, space(GIB / 2 - 1, 4 * GIB)), "512 MiB");
        assert!(!policy().is_full(0, space(300 * MIB, GIB)), "a quarter at most");
        assert!(policy().is_full(16 * GIB, space(900 * GIB, 1000 * GIB)));
    }

    #[test]
    fn the_segment_at_the_head_of_a_drain_is_left_alone() {
        let worth = |wanted: &[u64]| {
            let cold = (1..).zip(wanted).map(|(segment, mib)| (segment, Live { refs: 1, bytes: mib * MIB }));
            policy().worth_emptying(cold)
        };
        assert_eq!(worth(&[]), None);
        assert_eq!(worth(&[1, 64, 64]), None);
        assert_eq!(worth(&[2, 1, 2, 60, 64]), None, "three are mostly waste");
        assert_eq!(worth(&[2, 2, 1, 2, 2]), Some(3));
        assert_eq!(worth(&[20; 20]), None, "much of each is wanted");
    }
}
