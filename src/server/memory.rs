//! The memory of the process, looked at once a second and held against its budget: the nearer it comes, the less the
//! buffers of clients may hold, and once it is met nobody comes in and nothing more is kept in memory. The machine, or the
//! container, would otherwise end the broker, and everybody with it.

mod cgroup;

use std::fs;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::broker::shard::Headroom;
use crate::limits::{Limits, MemoryBudget};

use cgroup::Groups;

/// What the budget may be of what there is.
const SHARE: (u64, u64) = (3, 4);

/// What the bytes in buffers may be of the budget, however much the configuration allows: they fill faster than anybody
/// looks, and buffers that have grown take up to three times their bytes.
const BUFFERS: u64 = 8;

/// In so many steps they shrink.
const STEPS: u64 = 16;

/// How near the process is to its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Calm,
    /// Buffers shrink.
    Short,
    /// Nobody comes in, and nothing more is kept in memory.
    Full,
}

/// The budget, and where in it the process is.
#[derive(Debug)]
struct Gauge {
    /// In bytes; the upper mark.
    budget: u64,
    /// What buffers may hold while there is enough, in bytes.
    buffers: u64,
    level: Level,
}

impl Gauge {
    fn new(budget: u64, outbound_total: usize) -> Gauge {
        Gauge { budget, buffers: (outbound_total as u64).min(budget / BUFFERS), level: Level::Calm }
    }

    /// What follows from so many bytes in use. A level that was reached is left only well below where it begins, so that
    /// it is not left and reached again and again.
    fn observe(&mut self, used: u64) -> Headroom {
        let part = |of: u64| self.budget / STEPS * of;
        let (short, full) = match self.level {
            Level::Calm => (part(12), self.budget),
            Level::Short => (part(11), self.budget),
            Level::Full => (part(11), part(14)),
        };
        self.level = match used {
            used if used >= full => Level::Full,
            used if used >= short => Level::Short,
            _ => Level::Calm,
        };
        let steps = match self.level {
            Level::Calm => STEPS,
            _ => {
                let room = self.budget.saturating_sub(used.max(part(12)));
                (room * STEPS / (self.budget - part(12)).max(1)).clamp(1, STEPS)
            }
        };
        Headroom {
            buffers: usize::try_from(self.buffers / STEPS * steps).unwrap_or(usize::MAX),
            is_full: self.level == Level::Full,
        }
    }
}

/// Looks at the memory of the process.
#[derive(Debug)]
pub(super) struct Watch {
    gauge: Option<Gauge>,
    /// Where the bytes of sockets are told, if they count against the limit of a group.
    sockets: Option<PathBuf>,
    /// What shards go by.
    pub(super) headroom: Headroom,
}

impl Watch {
    /// As the configuration says, in the surroundings that the process has now.
    pub(super) fn new(limits: &Limits) -> Watch {
        let groups = match limits.memory {
            MemoryBudget::Off => Groups { limit: None, sockets: None },
            _ => Groups::find(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")),
        };
        let physical = physical(&read("/proc/meminfo"));
        let there_is = groups.limit.into_iter().chain(physical).min();
        let budget = match limits.memory {
            MemoryBudget::Off => None,
            MemoryBudget::Auto => there_is.map(|bytes| bytes / SHARE.1 * SHARE.0),
            MemoryBudget::Bytes(bytes) => Some(bytes),
        };
        let sockets = groups.sockets.filter(|_| groups.limit.is_some());
        let mut gauge = budget.map(|budget| Gauge::new(budget, limits.outbound_total));
        let headroom = gauge.as_mut().map_or(Headroom::default(), |gauge| gauge.observe(0));
        Watch { gauge, sockets, headroom }
    }

    /// Looks how much is in use: the bytes, and whether what shards go by is another now.
    pub(super) fn look(&mut self) -> (u64, bool) {
        let used = self.used();
        let Some(gauge) = &mut self.gauge else { return (used, false) };
        let before = gauge.level;
        let headroom = gauge.observe(used);
        tell(before, gauge.level, used, gauge.budget);
        let changed = headroom != self.headroom;
        self.headroom = headroom;
        (used, changed)
    }

    /// What is resident, and what sockets hold in the kernel where that counts as much.
    fn used(&self) -> u64 {
        let pages: u64 = read("/proc/self/statm")
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .unwrap_or_default();
        let sockets = self.sockets.as_ref().map_or(0, |file| cgroup::socket_bytes(&read(file)));
        pages * rustix::param::page_size() as u64 + sockets
    }
}

/// What cannot be read says nothing.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The bytes of physical memory: what `/proc/meminfo` says, which in a container may be less than the machine has, or the
/// system itself, for a service may not see that file (`ProcSubset=pid`).
fn physical(meminfo: &str) -> Option<u64> {
    let system = rustix::system::sysinfo();
    let machine = (system.totalram as u64).checked_mul(u64::from(system.mem_unit));
    machine.into_iter().chain(total_of(meminfo)).min()
}

/// The bytes of physical memory in `/proc/meminfo`.
fn total_of(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// One line for each change of the level.
fn tell(before: Level, now: Level, used: u64, budget: u64) {
    match (before, now) {
        (before, now) if before == now => {}
        (_, Level::Full) => {
            warn!(
                used,
                budget, "out of memory soon: new clients are refused, and what would be kept in memory"
            )
        }
        (Level::Full, _) => info!(used, budget, "new clients are taken again"),
        (_, Level::Short) => warn!(used, budget, "memory is short: clients that read slowly may buffer less"),
        (_, Level::Calm) => info!(used, budget, "there is enough memory again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn gauge() -> Gauge {
        Gauge::new(1600 * MIB, 160 * MIB as usize)
    }

    #[test]
    fn buffers_shrink_between_the_marks_and_never_to_nothing() {
        let mut gauge = gauge();
        let mut buffers = |used: u64| gauge.observe(used * MIB).buffers as u64 / MIB;
        assert_eq!((buffers(0), buffers(1199)), (160, 160));
        let falling: Vec<u64> = [1200, 1300, 1400, 1500, 1599, 1600, 9999].map(&mut buffers).into();
        assert_eq!(falling, [160, 120, 80, 40, 10, 10, 10]);
    }

    #[test]
    fn a_level_is_left_well_below_where_it_begins() {
        let mut gauge = gauge();
        let mut level = |used: u64| {
            gauge.observe(used * MIB);
            gauge.level
        };
        assert_eq!((level(1199), level(1200)), (Level::Calm, Level::Short));
        assert_eq!((level(1150), level(1599), level(1600)), (Level::Short, Level::Short, Level::Full));
        assert_eq!((level(1401), level(1399)), (Level::Full, Level::Short));
        assert_eq!((level(1101), level(1099), level(1150)), (Level::Short, Level::Calm, Level::Calm));
        assert_eq!((level(2000), level(0)), (Level::Full, Level::Calm));
    }

    #[test]
    fn buffers_are_a_part_of_a_small_budget() {
        assert_eq!(Gauge::new(64 * MIB, 256 * MIB as usize).observe(0).buffers as u64, 8 * MIB);
        let mut gauge = Gauge::new(0, 256 * MIB as usize);
        assert!(gauge.observe(1).is_full);
    }

    #[test]
    fn what_a_process_has_in_use_is_told() {
        let limits = Limits { memory: MemoryBudget::Bytes(1), ..Limits::default() };
        let mut watch = Watch::new(&limits);
        assert!(!watch.headroom.is_full);
        let (used, changed) = watch.look();
        assert!(used > 0 && changed && watch.headroom.is_full);
        let mut off = Watch::new(&Limits { memory: MemoryBudget::Off, ..Limits::default() });
        assert_eq!((off.look().1, off.headroom), (false, Headroom::default()));
    }

    #[test]
    fn physical_memory_is_read() {
        assert_eq!(total_of("MemTotal:       24684360 kB\nMemFree: 1 kB\n"), Some(24_684_360 * 1024));
        assert_eq!(total_of("nothing"), None);
        assert!(total_of(&read("/proc/meminfo")).is_some_and(|bytes| bytes > MIB));
        let machine = physical("").expect("the system says it");
        assert!(machine > MIB && Some(machine) >= total_of(&read("/proc/meminfo")));
        assert_eq!(physical("MemTotal: 1024 kB\n"), Some(MIB), "a container's");
    }
}
