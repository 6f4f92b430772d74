//! The disk as the store sees it: one folder of files. The simulation puts a disk of its own here that loses what was not
//! synced; everything else uses [`Folder`](super::folder::Folder).

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// The space of the file system that the folder is on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What this process may still use.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// A file that is open for reading and writing. Reads and writes are whole or fail.
#[expect(clippy::len_without_is_empty, reason = "nobody asks")]
pub trait File: Debug + Send + Sync {
    /// Fills `buf` from `offset`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes `bytes` at `offset`; the file grows if need be.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts it, or makes it longer with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// A folder.
pub trait Disk: Debug + Send + Sync {
    /// The names of its files, in no order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Makes a file that is not there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name; one that has that name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; whoever has it open may go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes what was created, renamed and removed durable (fsync of the folder).
    fn sync(&self) -> io::Result<()>;
    /// How much room there is.
    fn space(&self) -> io::Result<Space>;
}
