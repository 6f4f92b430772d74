//! A disk in memory that can lose what disks lose. What was synced is there after a crash; of what was not, each sector of
//! 512 bytes may be there or not, and so may each name that was given, changed or taken away. A crash can be armed at any
//! call that changes something, an error at any call, and the disk has a size.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};

use weirmq::store::disk::{Disk, File, Space};

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// Input/output error, and no space left on device, as the system numbers them.
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// How a crash came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The process was killed: what it had written is there, though nobody knows whether it is on the disk.
    Kill,
    /// The power went: what was synced is there, of the rest whatever the number decides.
    Power(u64),
}

/// One power-on of the disk, for one process. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Mutex<State>>,
    boot: u64,
}

struct State {
    /// Handles of another boot are of a process that is gone.
    boot: u64,
    down: bool,
    /// Calls that change something, since the disk was made.
    calls: u64,
    crash_at: Option<u64>,
    fail_at: Option<(u64, i32)>,
    /// Every name and content as the process sees it.
    names: BTreeMap<String, Arc<Mutex<Content>>>,
    /// The names that are on the disk for certain.
    synced: BTreeMap<String, Arc<Mutex<Content>>>,
    /// What was done to names since.
    pending: Vec<Change>,
    size: u64,
    /// Some of what is written twice before a sync reached the disk in between: this decides.
    seed: u64,
}

enum Change {
    Created(String, Arc<Mutex<Content>>),
    Renamed(String, String),
    Removed(String),
}

/// A file's bytes, as the process sees them and as they are on the disk for certain.
#[derive(Default)]
struct Content {
    seen: Vec<u8>,
    synced: Vec<u8>,
    /// Which sectors of `seen` differ from the disk's, a bit each.
    dirty: Vec<u64>,
    /// The shortest it was cut to since the last sync.
    cut: Option<usize>,
}

struct SimFile {
    disk: SimDisk,
    content: Arc<Mutex<Content>>,
}

// What is on it is nothing to be printed.
impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({})", self.boot)
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimFile")
    }
}

/// A number that looks like chance and depends on all that is given.
pub fn mix(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x9e37_79b9_7f4a_7c15, |hash: u64, number| {
        let mixed = (hash ^ number).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb).rotate_left(31)
    })
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds the disk")
}

impl SimDisk {
    /// An empty disk of `size` bytes.
    pub fn new(seed: u64, size: u64) -> SimDisk {
        let state = State {
            boot: 0,
            down: false,
            calls: 0,
            crash_at: None,
            fail_at: None,
            names: BTreeMap::new(),
            synced: BTreeMap::new(),
            pending: Vec::new(),
            size,
            seed,
        };
        SimDisk { shared: Arc::new(Mutex::new(state)), boot: 0 }
    }

    /// How many calls changed something, or tried to.
    pub fn calls(&self) -> u64 {
        held(&self.shared).calls
    }

    /// Goes down in the middle of the call of this number, counted from the first ever.
    pub fn crash_at(&self, call: u64) {
        held(&self.shared).crash_at = Some(call);
    }

    /// Lets the call of this number, and none after it, fail.
    pub fn fail_at(&self, call: u64, number: i32) {
        held(&self.shared).fail_at = Some((call, number));
    }

    /// Gives the disk another size.
    pub fn resize(&self, size: u64) {
        held(&self.shared).size = size;
    }

    /// Goes down now.
    pub fn crash(&self) {
        held(&self.shared).down = true;
    }

    /// Whether it is down.
    pub fn is_down(&self) -> bool {
        let state = held(&self.shared);
        state.down || state.boot != self.boot
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        held(&self.shared).used()
    }

    /// The disk as the next process finds it. Handles from before fail from now on.
    pub fn reboot(&self, outage: Outage) -> SimDisk {
        let mut state = held(&self.shared);
        if let Outage::Power(seed) = outage {
            state.lose(seed);
        }
        state.down = false;
        state.crash_at = None;
        state.fail_at = None;
        state.boot += 1;
        SimDisk { shared: self.shared.clone(), boot: state.boot }
    }

    /// The bytes of a file as they are seen now, to look at or to spoil.
    pub fn with_bytes<R>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let content = held(&self.shared).names[name].clone();
        let mut content = held(&content);
        let result = change(&mut content.seen);
        content.synced = content.seen.clone();
        content.dirty.clear();
        result
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = held(&self.shared);
        if state.down || state.boot != self.boot { Err(error(EIO)) } else { Ok(state) }
    }

    /// Counts a call that changes something. If the crash is to come in it, `Ok(true)`: what it does is done, but nobody
    /// hears of it.
    fn change(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.state()?;
        state.calls += 1;
        if state.fail_at.is_some_and(|(call, _)| call == state.calls) {
            return Err(error(state.fail_at.take().expect("asked before").1));
        }
        state.down = state.crash_at == Some(state.calls);
        let last = state.down;
        Ok((state, last))
    }

    fn file(&self, content: Arc<Mutex<Content>>) -> Arc<dyn File> {
        Arc::new(SimFile { disk: self.clone(), content })
    }
}

/// What a call returns that the crash may have come in.
fn returned<T>(value: T, last: bool) -> io::Result<T> {
    if last { Err(error(EIO)) } else { Ok(value) }
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().map(|content| held(content).seen.len() as u64).sum()
    }

    /// Loses what a power failure may: all that was not synced, nothing, or any part of it.
    fn lose(&mut self, seed: u64) {
        let how = mix(&[seed]) % 4;
        let keeps = |numbers: &[u64]| match how {
            0 => false,
            1 => true,
            _ => mix(&[&[seed], numbers].concat()) & 1 == 0,
        };
        // A folder's changes reach the disk in order on a file system with a journal, on others as they please.
        let until = if how == 3 { mix(&[seed, 1]) as usize % (self.pending.len() + 1) } else { usize::MAX };
        for (index, change) in mem::take(&mut self.pending).into_iter().enumerate() {
            let kept = if how == 3 { index < until } else { keeps(&[2, index as u64]) };
            if kept {
                apply(&mut self.synced, change);
            }
        }
        self.names = self.synced.clone();
        for (index, content) in self.names.values().enumerate() {
            held(content).lose(|sector| keeps(&[3, index as u64, sector]));
        }
    }
}

fn apply(names: &mut BTreeMap<String, Arc<Mutex<Content>>>, change: Change) {
    match change {
        Change::Created(name, content) => {
            names.insert(name, content);
        }
        Change::Renamed(from, to) => {
            if let Some(content) = names.remove(&from) {
                names.insert(to, content);
            }
        }
        Change::Removed(name) => {
            names.remove(&name);
        }
    }
}

impl Content {
    fn is_dirty(&self, sector: usize) -> bool {
        self.dirty.get(sector / 64).is_some_and(|word| word & (1 << (sector % 64)) != 0)
    }

    fn mark(&mut self, sector: usize) {
        if self.dirty.len() <= sector / 64 {
            self.dirty.resize(sector / 64 + 1, 0);
        }
        self.dirty[sector / 64] |= 1 << (sector % 64);
    }

    fn write(&mut self, bytes: &[u8], offset: usize, seed: u64) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            // It may have been written out before it is written over.
            if self.is_dirty(sector) && mix(&[seed, sector as u64, bytes.len() as u64]) & 1 == 0 {
                self.put(sector);
            }
            self.mark(sector);
        }
        self.seen[offset..end].copy_from_slice(bytes);
    }

    /// A sector reaches the disk.
    fn put(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.seen.len());
        if start >= end {
            return;
        }
        if self.synced.len() < end {
            self.synced.resize(end, 0);
        }
        self.synced[start..end].copy_from_slice(&self.seen[start..end]);
    }

    fn set_len(&mut self, len: usize) {
        if len < self.seen.len() {
            self.cut = Some(self.cut.map_or(len, |cut| cut.min(len)));
            if !len.is_multiple_of(SECTOR) {
                self.mark(len / SECTOR);
            }
        }
        self.seen.resize(len, 0);
    }

    fn dirty_sectors(&mut self) -> Vec<usize> {
        let mut sectors = Vec::new();
        for (index, word) in mem::take(&mut self.dirty).into_iter().enumerate() {
            let mut left = word;
            while left != 0 {
                sectors.push(index * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
        sectors.retain(|sector| sector * SECTOR < self.seen.len());
        sectors
    }

    fn sync(&mut self) {
        if let Some(cut) = self.cut.take() {
            self.synced.truncate(cut);
        }
        for sector in self.dirty_sectors() {
            self.put(sector);
        }
        self.synced.resize(self.seen.len(), 0);
    }

    fn lose(&mut self, keeps: impl Fn(u64) -> bool) {
        if let Some(cut) = self.cut.take()
            && keeps(u64::MAX)
        {
            self.synced.truncate(cut);
        }
        for sector in self.dirty_sectors() {
            if keeps(sector as u64) {
                self.put(sector);
            }
        }
        // Its new length is kept by itself, filled with zeros.
        if keeps(u64::MAX - 1) && self.synced.len() < self.seen.len() {
            self.synced.resize(self.seen.len(), 0);
        }
        self.seen = self.synced.clone();
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let content = self.state()?.names.get(name).cloned();
        content.map(|content| self.file(content)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let (mut state, last) = self.change()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        state.names.insert(name.to_owned(), content.clone());
        state.pending.push(Change::Created(name.to_owned(), content.clone()));
        returned(self.file(content), last)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, last) = self.change()?;
        let content = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), content);
        state.pending.push(Change::Renamed(from.to_owned(), to.to_owned()));
        returned((), last)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, last) = self.change()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending.push(Change::Removed(name.to_owned()));
        returned((), last)
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, last) = self.change()?;
        if !last {
            state.pending.clear();
            state.synced = state.names.clone();
        }
        returned((), last)
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state()?;
        Ok(Space { free: state.size.saturating_sub(state.used()), total: state.size })
    }
}

impl SimFile {
    /// Whether there is room for a file to become so much longer.
    fn make_room(&self, state: &State, more: u64) -> io::Result<()> {
        if more > 0 && state.used() + more > state.size { Err(error(ENOSPC)) } else { Ok(()) }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let _state = self.disk.state()?;
        let content = held(&self.content);
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(content.seen.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (state, last) = self.disk.change()?;
        let offset = offset as usize;
        let len = held(&self.content).seen.len();
        self.make_room(&state, (offset + bytes.len()).saturating_sub(len) as u64)?;
        held(&self.content).write(bytes, offset, mix(&[state.seed, state.calls]));
        returned((), last)
    }

    fn sync(&self) -> io::Result<()> {
        match self.disk.change() {
            Ok((_state, last)) => {
                // It may have got anywhere: the loss decides.
                if !last {
                    held(&self.content).sync();
                }
                returned((), last)
            }
            Err(error) => {
                // The system tells it once and forgets what it could not write.
                if !self.disk.is_down() {
                    held(&self.content).dirty.clear();
                }
                Err(error)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let _state = self.disk.state()?;
        Ok(held(&self.content).seen.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (state, last) = self.disk.change()?;
        let before = held(&self.content).seen.len() as u64;
        self.make_room(&state, len.saturating_sub(before))?;
        held(&self.content).set_len(len as usize);
        returned((), last)
    }
}
