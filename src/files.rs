//! Reads the files of an operator, at the start and again while the broker runs: regular ones alone and up to a
//! bound, for what keeps the reader waiting, as a FIFO does, or never ends would hold up everything that waits for it. And
//! where it matters, only those that are not open to everybody on the machine.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// The largest file that is read, in bytes: of passwords some million users.
pub const LARGEST: u64 = 256 << 20;

/// What users may not be able to do with a file who are neither its owner nor of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// To write to it: whoever can write to what says who may come in is whoever he likes.
    Writing,
    /// Anything: it is a secret.
    Anything,
}

impl Barred {
    /// The bits of a file's mode that allow it.
    fn bits(self) -> u32 {
        match self {
            Barred::Writing => 0o002,
            Barred::Anything => 0o007,
        }
    }

    /// Holds a file's mode against it.
    ///
    /// # Errors
    /// Everybody may do what is barred.
    pub fn check(self, mode: u32) -> io::Result<()> {
        if mode & self.bits() == 0 {
            return Ok(());
        }
        let access = if mode & Barred::Writing.bits() != 0 { "can write to it" } else { "has access to it" };
        let reason = format!("everybody {access} (mode {mode:o}): chmod 600 it, or 640");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
    }
}

/// All of a file, and its mode.
///
/// # Errors
/// As for [`read`].
pub fn read_with_mode(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    // To open a FIFO would wait for somebody who writes to it otherwise.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // Of the file that was opened, not of one that has taken its name since.
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    check_size(facts.len())?;
    let mut bytes = Vec::new();
    // If it has grown, half of it must not pass for all.
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    check_size(bytes.len() as u64)?;
    Ok((bytes, facts.mode() & 0o777))
}

fn check_size(bytes: u64) -> io::Result<()> {
    if bytes <= LARGEST {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{bytes} bytes: too large")))
}

/// All of a file with which not everybody may do what is `barred`.
///
/// # Errors
/// Everybody may, or as for [`read`].
pub fn read_guarded(path: &Path, barred: Barred) -> io::Result<Vec<u8>> {
    let (bytes, mode) = read_with_mode(path)?;
    barred.check(mode)?;
    Ok(bytes)
}

/// All of a file.
///
/// # Errors
/// It cannot be opened or read, is too large, or is no regular file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    Ok(read_with_mode(path)?.0)
}

/// All of a file of text.
///
/// # Errors
/// As for [`read`], or it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_file_is_read_and_nothing_else_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "text").expect("written");
        symlink(path("file"), path("link")).expect("a link");
        for name in ["file", "link"] {
            assert_eq!(read_text(&path(name)).expect("a file"), "text");
        }
        fs::write(path("odd"), b"\xFF").expect("written");
        assert_eq!(read_text(&path("odd")).expect_err("not text").to_string(), "not UTF-8");
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        symlink("/dev/zero", path("endless")).expect("a link");
        symlink(path("round"), path("round")).expect("a link");
        let large = File::create(path("large")).expect("a file");
        large.set_len(LARGEST + 1).expect("nothing is written");
        for (name, why) in [
            ("fifo", "not a file"),
            ("endless", "not a file"),
            (".", "not a file"),
            ("large", "268435457 bytes: too large"),
            ("round", "symbolic links"),
            ("nothing", "No such file"),
        ] {
            let error = read(&path(name)).expect_err(name).to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
