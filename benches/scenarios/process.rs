//! What the system says about a process: its processor time and its memory.

use std::fs;
use std::io;
use std::ops::Sub;
use std::time::{Duration, Instant};

/// Processor time, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    /// Of a process with all its threads, up to now, in steps of a clock tick (mostly 10 ms).
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: u32) -> io::Result<Cpu> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The command's name, in parentheses, may contain anything; state is the first field behind it.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let mut times = fields.split(' ').skip(11);
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let mut time = || {
            let number = times.next().and_then(|text| text.parse::<f64>().ok());
            number.map(|number| number / ticks).ok_or(io::ErrorKind::InvalidData)
        };
        Ok(Cpu { user: time()?, system: time()? })
    }

    pub fn own() -> io::Result<Cpu> {
        Cpu::of(std::process::id())
    }

    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

/// Waits until the process has done what it was left to do: for a while it takes less than a tenth of a core.
pub fn await_rest(pid: u32, patience: Duration) -> io::Result<()> {
    const WHILE: Duration = Duration::from_millis(300);
    let start = Instant::now();
    while start.elapsed() < patience {
        let before = Cpu::of(pid)?;
        std::thread::sleep(WHILE);
        if (Cpu::of(pid)? - before).total() < WHILE.as_secs_f64() / 10.0 {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the broker does not come to rest"))
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, earlier: Cpu) -> Cpu {
        Cpu { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident: f64,
    pub peak: f64,
}

impl Memory {
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: u32) -> io::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
            number.map(|kib| kib * 1024.0).ok_or(io::ErrorKind::InvalidData)
        };
        Ok(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
    }
}
