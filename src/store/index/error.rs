//! What can be wrong with the index, by what the caller does about it.

use std::{error, fmt, io};

use super::slot::NAME;
use crate::store::error::OpenError;

/// Why the index could not do what it was asked to.
#[derive(Debug)]
pub enum IndexError {
    /// The disk is full. All or nothing was done; what was asked for may be asked again once there is room.
    NoRoom,
    /// The disk failed, or the records to apply could not be read: final.
    Io(io::Error),
    /// The file is not an index.
    Foreign,
    /// The file was written by another version, in a format of this number.
    Format(u64),
    /// The file is an index, but contradicts itself.
    Damaged(String),
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IndexError::NoRoom => f.write_str("no room on the disk for the index"),
            IndexError::Io(error) => write!(f, "the index: {error}"),
            IndexError::Foreign => f.write_str("index.redb is not an index of weirmq"),
            IndexError::Format(format) => {
                write!(f, "index.redb was written by another version of weirmq (format {format})")
            }
            IndexError::Damaged(what) => write!(f, "index.redb is damaged: {what}"),
        }
    }
}

impl error::Error for IndexError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            IndexError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl IndexError {
    /// The index contradicts itself in `what`.
    pub(super) fn damaged(what: &str) -> IndexError {
        IndexError::Damaged(what.to_owned())
    }
}

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> IndexError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IndexError::NoRoom,
            _ => IndexError::Io(error),
        }
    }
}

impl From<redb::Error> for IndexError {
    fn from(error: redb::Error) -> IndexError {
        match error {
            redb::Error::Io(error) => error.into(),
            redb::Error::PreviousIo => IndexError::Io(io::Error::other("it failed before")),
            other => IndexError::Damaged(other.to_string()),
        }
    }
}

impl From<IndexError> for OpenError {
    fn from(error: IndexError) -> OpenError {
        let name = NAME.to_owned();
        match error {
            IndexError::Foreign => OpenError::Foreign(name),
            IndexError::Format(format) => OpenError::Format(name, u32::try_from(format).unwrap_or(u32::MAX)),
            IndexError::Io(error) => OpenError::Io(name, error),
            IndexError::NoRoom => OpenError::Io(name, io::ErrorKind::StorageFull.into()),
            IndexError::Damaged(what) => OpenError::Damaged(name, what),
        }
    }
}

/// redb has an error type for each of its calls; all of them lead to `redb::Error`.
macro_rules! by_way_of_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for IndexError {
            fn from(error: $error) -> IndexError {
                redb::Error::from(error).into()
            }
        }
    )*};
}

by_way_of_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::CompactionError,
    redb::SetDurabilityError
);
