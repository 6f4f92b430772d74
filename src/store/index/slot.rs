//! The file of the index, and redb on it: made when it is first written, opened anew after a full disk, shrunk when it
//! is mostly free.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::{Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::IndexError;
use super::backend::{Backend, Trouble};
use super::tables::{self, FORMAT, FORMAT_KEY, Tables};
use super::verify::verify;
use crate::store::disk::{Disk, File};

/// Its name in the data folder.
pub const NAME: &str = "index.redb";
/// Its name until it holds its tables: so what has the other name is never half made.
const NEW: &str = "index.new";
/// redb's cache, in bytes; half of it is for what a transaction has written.
pub(super) const CACHE: usize = 8 << 20;
/// A file below this is only compacted where there is no room.
const SMALL: u64 = 16 << 20;
/// The file is mostly free when it has this many times what is stored: rows fill between half and all of their pages.
const MOSTLY_FREE: u64 = 6;

/// An open index.
#[derive(Debug)]
struct Opened {
    database: Database,
    file: Arc<dyn File>,
    trouble: Arc<Trouble>,
}

#[derive(Debug)]
enum Inner {
    /// There is no file yet.
    Missing,
    Open(Opened),
    /// It failed and could not be opened anew so far.
    Closed,
}

/// Where the index is, if it is.
#[derive(Debug)]
pub struct Slot {
    disk: Arc<dyn Disk>,
    inner: RwLock<Inner>,
    /// Whether opening it had to read it all: never, with quick repair, unless a compaction was cut short.
    repaired: Arc<AtomicBool>,
}

impl Slot {
    /// Opens what there is and is as it was written: what a disk has changed in the meantime is not to be served as
    /// anybody's message.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Slot, IndexError> {
        let slot =
            Slot { disk: Arc::clone(disk), inner: RwLock::new(Inner::Missing), repaired: Arc::default() };
        if disk.names()?.iter().any(|name| name == NAME) {
            verify(disk)?;
        }
        let inner = slot.find()?;
        *slot.inner.write().unwrap_or_else(PoisonError::into_inner) = inner;
        Ok(slot)
    }

    /// Whether the last time it was opened it was read from end to end.
    pub fn was_repaired(&self) -> bool {
        self.repaired.load(Ordering::Relaxed)
    }

    /// Runs `job` on what is there as of now; `None` if there is nothing.
    pub fn read<T>(
        &self,
        mut job: impl FnMut(&ReadTransaction) -> Result<T, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        match self.try_read(&mut job) {
            // A writer has just met a full disk, and with that redb stopped reading too.
            Err(IndexError::NoRoom) => {
                self.reopen()?;
                self.try_read(&mut job)
            }
            result => result,
        }
    }

    fn try_read<T>(
        &self,
        job: &mut impl FnMut(&ReadTransaction) -> Result<T, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        let inner = self.ready()?;
        let opened = match &*inner {
            Inner::Open(opened) => opened,
            Inner::Missing => return Ok(None),
            Inner::Closed => return Err(IndexError::NoRoom),
        };
        let transaction = opened.database.begin_read().map_err(IndexError::from);
        let result = transaction.and_then(|transaction| job(&transaction));
        result.map(Some).map_err(|error| opened.trouble.explain(error))
    }

    /// Runs `job` in a transaction and commits it. Without a file, `create` says whether one is made or nothing done.
    pub fn write<T: Default>(
        &self,
        create: bool,
        job: impl FnOnce(&WriteTransaction) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        if create && matches!(*self.ready()?, Inner::Missing) {
            let opened = self.create()?;
            *self.inner.write().unwrap_or_else(PoisonError::into_inner) = Inner::Open(opened);
        }
        let result = match &*self.ready()? {
            Inner::Open(opened) => opened.transact(job),
            Inner::Missing => return Ok(T::default()),
            Inner::Closed => return Err(IndexError::NoRoom),
        };
        if let Err(IndexError::NoRoom) = result {
            self.reopen()?;
        }
        result
    }

    /// The bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        match &*self.inner.read().unwrap_or_else(PoisonError::into_inner) {
            Inner::Open(opened) => opened.file.len().unwrap_or_default(),
            Inner::Missing => 0,
            Inner::Closed => self.disk.open(NAME).and_then(|file| file.len()).unwrap_or_default(),
        }
    }

    /// Shrinks the file if it is mostly free, and not small unless `small` too; returns by how many bytes.
    pub fn compact(&self, small: bool) -> Result<u64, IndexError> {
        {
            let inner = self.ready()?;
            let Inner::Open(opened) = &*inner else { return Ok(0) };
            if !opened.is_mostly_free(if small { 0 } else { SMALL })? {
                return Ok(0);
            }
        }
        self.force_compact()
    }

    /// Shrinks the file.
    pub fn force_compact(&self) -> Result<u64, IndexError> {
        let result = match &mut *self.inner.write().unwrap_or_else(PoisonError::into_inner) {
            Inner::Open(opened) => opened.compact(),
            _ => Ok(0),
        };
        if let Err(IndexError::NoRoom) = result {
            self.reopen()?;
        }
        result
    }

    /// The index, opened anew if it had to be closed.
    fn ready(&self) -> Result<RwLockReadGuard<'_, Inner>, IndexError> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*inner, Inner::Closed) {
            return Ok(inner);
        }
        drop(inner);
        self.reopen()?;
        Ok(self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// redb does nothing more once a write has failed.
    fn reopen(&self) -> Result<(), IndexError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Inner::Open(opened) = std::mem::replace(&mut *inner, Inner::Closed) {
            let Opened { database, file, .. } = opened;
            drop(database);
            // Should the commit have been written after all, it is only good once it is synced.
            file.sync().map_err(IndexError::Io)?;
        }
        match self.find() {
            Ok(found) => *inner = found,
            // Not even opening has room; it is tried again with the next call.
            Err(IndexError::NoRoom) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn find(&self) -> Result<Inner, IndexError> {
        let names = self.disk.names()?;
        if !names.iter().any(|name| name == NAME) {
            return Ok(Inner::Missing);
        }
        // Who made it may have been killed before its name was durable.
        self.disk.sync().map_err(IndexError::Io)?;
        let file = self.disk.open(NAME)?;
        if file.len()? == 0 {
            return Err(IndexError::Foreign);
        }
        let opened = self.open_file(file)?;
        opened.check()?;
        Ok(Inner::Open(opened))
    }

    fn create(&self) -> Result<Opened, IndexError> {
        if self.disk.names()?.iter().any(|name| name == NEW) {
            self.disk.remove(NEW)?;
        }
        let opened = self.open_file(self.disk.create(NEW)?)?;
        opened.transact(|transaction| {
            let mut tables = Tables::open(transaction)?;
            tables.raise(FORMAT_KEY, FORMAT)
        })?;
        self.disk.rename(NEW, NAME)?;
        self.disk.sync().map_err(IndexError::Io)?;
        Ok(opened)
    }

    fn open_file(&self, file: Arc<dyn File>) -> Result<Opened, IndexError> {
        let trouble = Arc::<Trouble>::default();
        let backend = Backend::new(Arc::clone(&file), Arc::clone(&trouble));
        self.repaired.store(false, Ordering::Relaxed);
        let repaired = Arc::clone(&self.repaired);
        let database = Builder::new()
            .set_cache_size(CACHE)
            .set_repair_callback(move |_| repaired.store(true, Ordering::Relaxed))
            .create_with_backend(backend)
            .map_err(|error| trouble.explain(unusable(error)))?;
        Ok(Opened { database, file, trouble })
    }
}

/// Why redb does not take a file.
pub(super) fn unusable(error: DatabaseError) -> IndexError {
    match error {
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            IndexError::Foreign
        }
        DatabaseError::Storage(error) => error.into(),
        DatabaseError::UpgradeRequired(_) => IndexError::Foreign,
        error => IndexError::Damaged(error.to_string()),
    }
}

impl Opened {
    /// Whether it is ours.
    fn check(&self) -> Result<(), IndexError> {
        let explain = |error| self.trouble.explain(error);
        let transaction = self.database.begin_read().map_err(|error| explain(error.into()))?;
        match tables::number(&transaction, FORMAT_KEY) {
            Ok(FORMAT) => Ok(()),
            Ok(other) if other > 0 => Err(IndexError::Format(other)),
            Err(IndexError::Io(error)) => Err(explain(IndexError::Io(error))),
            _ => Err(IndexError::Foreign),
        }
    }

    fn transact<T>(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.try_transact(job).map_err(|error| self.trouble.explain(error))
    }

    fn try_transact<T>(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        let result = job(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    fn is_mostly_free(&self, least: u64) -> Result<bool, IndexError> {
        let len = self.file.len()?;
        if len < least {
            return Ok(false);
        }
        let stored = self.database.begin_read().map_err(IndexError::from);
        let stored = stored.and_then(|transaction| tables::number(&transaction, tables::STORED_KEY));
        Ok(len / MOSTLY_FREE > stored.map_err(|error| self.trouble.explain(error))?)
    }

    fn compact(&mut self) -> Result<u64, IndexError> {
        let before = self.file.len()?;
        self.database.compact().map_err(|error| self.trouble.explain(error.into()))?;
        // Compacting leaves nothing by which the file can be opened quickly; any commit does.
        self.transact(|_| Ok(()))?;
        Ok(before.saturating_sub(self.file.len()?))
    }
}
