//! Why a store cannot be opened, said so that an operator knows what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a data folder cannot be used.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it open.
    InUse(PathBuf),
    /// Others than its owner have access to it; the mode it has.
    Permissions(PathBuf, u32),
    /// Another version of this program has written this file, in a format of this number.
    Format(String, u32),
    /// A file of another store has come among those of this one.
    Foreign(String),
    /// A file that cannot be done without contradicts itself, or its checksums: how.
    Damaged(String, String),
    /// What could not be done with a file or folder.
    Io(String, io::Error),
}

/// What can be done about a file that is not to be used.
const WITHOUT_IT: &str = "move the file away: what is left is served then";

impl OpenError {
    /// For `map_err`: the error came while working on `name`.
    pub fn io(name: impl fmt::Display) -> impl FnOnce(io::Error) -> OpenError {
        move |error| OpenError::Io(name.to_string(), error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse(path) => {
                write!(f, "the data folder {} is in use by another process", path.display())
            }
            OpenError::Permissions(path, mode) => write!(
                f,
                "the data folder {0} is open to others (mode {mode:04o}): chmod 0700 {0}",
                path.display()
            ),
            OpenError::Format(name, format) => {
                write!(f, "{name} in the data folder is of another version of weirmq (format {format})")
            }
            OpenError::Foreign(name) => {
                write!(
                    f,
                    "{name} in the data folder belongs to another store: it was copied there, or restored; {WITHOUT_IT}"
                )
            }
            OpenError::Damaged(name, what) => {
                write!(f, "{name} in the data folder is damaged: {what}; restore the folder, or {WITHOUT_IT}")
            }
            OpenError::Io(name, error) => write!(f, "{name} in the data folder: {error}"),
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            OpenError::Io(_, error) => Some(error),
            _ => None,
        }
    }
}
