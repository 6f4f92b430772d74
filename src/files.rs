//! Reads the files of an operator, at the start and again while the broker runs: regular ones alone and up to a
//! bound, for what keeps the reader waiting, as a FIFO does, or never ends would hold up everything that waits for it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// The largest file that is read, in bytes: of passwords some million users.
pub const LARGEST: u64 = 256 << 20;

/// Opens a file to be read as a whole, with what the system says of the one that was opened (another may have taken its
/// name since).
///
/// # Errors
/// It cannot be opened, is too large, or is no regular file.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // To open a FIFO would wait for somebody who writes to it otherwise.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    if facts.len() > LARGEST {
        let reason = format!("{} bytes: too large", facts.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok((file, facts))
}

/// All of a file that was opened, up to the bound if it has grown meanwhile.
///
/// # Errors
/// It cannot be read.
pub fn contents(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of a file.
///
/// # Errors
/// As for [`open`], or it cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    contents(open(path)?.0)
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
    use std::fs;
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
