//! Puts redb on a [`File`] of the store's own disk, so that the simulation can crash it, and remembers what went wrong
//! there:
//! redb says only that something did.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use super::IndexError;
use crate::store::disk::File;

/// The first failure that a backend saw.
#[derive(Debug, Default)]
pub struct Trouble {
    seen: AtomicU8,
    error: Mutex<Option<io::Error>>,
}

const FULL: u8 = 1;
const FAILED: u8 = 2;

impl Trouble {
    /// What `error`, which redb reported, really is. A sync that failed is never a full disk: nobody knows what it left
    /// undone.
    pub fn explain(&self, error: IndexError) -> IndexError {
        match self.seen.load(Ordering::Acquire) {
            FULL => IndexError::NoRoom,
            FAILED => {
                let first = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
                first.map_or(error, IndexError::Io)
            }
            _ => error,
        }
    }

    fn note<T>(&self, result: io::Result<T>, may_be_full: bool) -> io::Result<T> {
        let Err(error) = result else { return result };
        if may_be_full && matches!(IndexError::from(io::Error::from(error.kind())), IndexError::NoRoom) {
            // What failed before weighs more.
            let _ = self.seen.compare_exchange(0, FULL, Ordering::AcqRel, Ordering::Acquire);
        } else {
            self.seen.store(FAILED, Ordering::Release);
            let copy = io::Error::new(error.kind(), error.to_string());
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(copy);
        }
        Err(error)
    }
}

/// redb's view of a file.
#[derive(Debug)]
pub struct Backend {
    file: Arc<dyn File>,
    trouble: Arc<Trouble>,
}

impl Backend {
    /// A backend that reports its failures to `trouble`.
    pub fn new(file: Arc<dyn File>, trouble: Arc<Trouble>) -> Backend {
        Backend { file, trouble }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.trouble.note(self.file.len(), false)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.trouble.note(self.file.read_at(out, offset), false)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.trouble.note(self.file.set_len(len), true)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.trouble.note(self.file.sync(), false)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.trouble.note(self.file.write_at(data, offset), true)
    }
}
