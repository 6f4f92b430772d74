//! A disk in memory for tests: it counts what is done to it, fails at any step on demand, and loses in a crash what was not
//! synced, sector by sector.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::{Disk, File, Space};

const SECTOR: u64 = 512;

/// What was written to a file and not synced.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    since: Vec<Change>,
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: Names,
    /// The names as they were after each change since the last sync of the folder; the first is what is synced.
    history: Vec<Names>,
    /// Changes that may still be made; `None`: any number.
    left: Option<usize>,
    steps: usize,
    gone: bool,
    /// Files cannot grow beyond this in all.
    room: Option<u64>,
}

/// The disk.
#[derive(Clone, Debug, Default)]
pub(super) struct RamDisk(Arc<Mutex<State>>);

impl RamDisk {
    pub(super) fn new() -> RamDisk {
        let disk = RamDisk::default();
        disk.with(|state| state.history.push(Names::new()));
        disk
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many changes and syncs there were.
    pub(super) fn steps(&self) -> usize {
        self.with(|state| state.steps)
    }

    /// Only so many changes and syncs succeed from now on.
    pub(super) fn fail_after(&self, steps: Option<usize>) {
        self.with(|state| (state.left, state.gone) = (steps, false));
    }

    /// All files together cannot be longer than this.
    pub(super) fn limit(&self, room: Option<u64>) {
        self.with(|state| state.room = room);
    }

    /// What a file holds.
    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        self.with(|state| state.files[state.names[name]].now.clone())
    }

    /// Puts a file there, synced.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        self.with(|state| {
            state.files.push(Content { now: bytes.clone(), synced: bytes, since: Vec::new() });
            let file = state.files.len() - 1;
            state.names.insert(name.to_owned(), file);
            state.history = vec![state.names.clone()];
        });
    }

    /// The names in order.
    pub(super) fn list(&self) -> Vec<String> {
        self.with(|state| state.names.keys().cloned().collect())
    }

    /// A disk with the same files, all synced.
    pub(super) fn copy(&self) -> RamDisk {
        let copy = RamDisk::new();
        for name in self.list() {
            copy.put(&name, self.read(&name));
        }
        copy
    }

    /// What is left after the power failed: the names as they were at some moment since the last sync of the folder; of what
    /// was written since the last sync of a file, any sectors.
    pub(super) fn crash(&self, rng: &mut fastrand::Rng) -> RamDisk {
        let (names, files) = self.with(|state| {
            let moment = rng.usize(..state.history.len());
            (state.history[moment].clone(), state.files.clone())
        });
        let after = RamDisk::new();
        for (name, file) in names {
            after.put(&name, survive(&files[file], rng));
        }
        after
    }
}

fn survive(content: &Content, rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = content.synced.clone();
    let odds = rng.u8(..);
    for change in &content.since {
        match change {
            Change::Len(len) if rng.bool() => bytes.resize(*len as usize, 0),
            Change::Len(_) => {}
            Change::Write(offset, written) => {
                let mut at = 0;
                while at < written.len() {
                    let next = SECTOR - (offset + at as u64) % SECTOR;
                    let piece = &written[at..written.len().min(at + next as usize)];
                    if rng.u8(..) <= odds {
                        let place = *offset as usize + at;
                        bytes.resize(bytes.len().max(place + piece.len()), 0);
                        bytes[place..place + piece.len()].copy_from_slice(piece);
                    }
                    at += piece.len();
                }
            }
        }
    }
    bytes
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match &mut self.left {
            Some(0) => {
                self.gone = true;
                Err(io::Error::other("the disk is gone"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn grow(&self, file: usize, len: u64) -> io::Result<()> {
        let used: u64 = self.names.values().map(|file| self.files[*file].now.len() as u64).sum();
        let more = len.saturating_sub(self.files[file].now.len() as u64);
        match self.room {
            Some(room) if more > 0 && used + more > room => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn renamed(&mut self) {
        self.history.push(self.names.clone());
    }
}

#[derive(Debug)]
struct RamFile {
    disk: RamDisk,
    file: usize,
}

impl Disk for RamDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.list())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.with(|state| state.names.get(name).copied()).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(RamFile { disk: self.clone(), file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.with(|state| {
            state.step()?;
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.files.push(Content::default());
            let file = state.files.len() - 1;
            state.names.insert(name.to_owned(), file);
            state.renamed();
            Ok(Arc::new(RamFile { disk: self.clone(), file }) as Arc<dyn File>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|state| {
            state.step()?;
            let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), file);
            state.renamed();
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|state| {
            state.step()?;
            state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            state.renamed();
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state| {
            state.step()?;
            state.history = vec![state.names.clone()];
            Ok(())
        })
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space { free: u64::MAX, total: u64::MAX })
    }
}

impl File for RamFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.with(|state| {
            let bytes = state.files[self.file].now.get(offset as usize..).unwrap_or_default();
            buf.copy_from_slice(bytes.get(..buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.with(|state| {
            let last = state.left == Some(0) && !state.gone;
            let step = state.step();
            if last || step.is_ok() {
                // The one that fails may have come halfway.
                let end = offset as usize + bytes.len();
                state.grow(self.file, end as u64)?;
                let content = &mut state.files[self.file];
                content.now.resize(content.now.len().max(end), 0);
                content.now[offset as usize..end].copy_from_slice(bytes);
                content.since.push(Change::Write(offset, bytes.to_vec()));
            }
            step
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.with(|state| {
            state.step()?;
            let content = &mut state.files[self.file];
            content.synced.clone_from(&content.now);
            content.since.clear();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.with(|state| Ok(state.files[self.file].now.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.with(|state| {
            state.step()?;
            let content = &mut state.files[self.file];
            content.now.resize(len as usize, 0);
            content.since.push(Change::Len(len));
            Ok(())
        })
    }
}
