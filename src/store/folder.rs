//! The data folder on a real disk: private to its owner, and in use by one process at a time.

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, File, Space};
use super::error::OpenError;

/// The file whose lock says that the folder is in use.
const LOCK: &str = "lock";

/// What is said of a directory or the like that has the name of a file.
const NO_FILE: &str = "it is not a file; move it away, and what is left is served";

/// A folder of the file system, locked for as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    folder: fs::File,
    _lock: fs::File,
}

impl Folder {
    /// Opens the folder at `path`; makes it if it is not there.
    ///
    /// # Errors
    /// When others than its owner have access to it, when another process uses it, and those of the file system.
    pub fn open(path: &Path) -> Result<Folder, OpenError> {
        make(path).map_err(OpenError::io(path.display()))?;
        let folder = fs::File::open(path).map_err(OpenError::io(path.display()))?;
        let mode = folder.metadata().map_err(OpenError::io(path.display()))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(OpenError::Permissions(path.to_owned(), mode));
        }
        let lock =
            options().create(true).truncate(false).open(path.join(LOCK)).map_err(OpenError::io(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), folder, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(OpenError::Io(LOCK.to_owned(), error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the folder and those above it; each is durable in the one that holds it.
fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(parent) = path.parent() else { return Err(error) };
            make(parent)?;
            DirBuilder::new().mode(0o700).create(path)?;
        }
        Err(error) => return Err(error),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// To open a file for reading and writing, one that is made being its owner's alone.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = options().open(self.path.join(name));
        match file.and_then(|file| Ok((file.metadata()?.is_file(), file))) {
            Ok((true, file)) => Ok(Arc::new(OnDisk(file))),
            Err(error) if error.kind() != io::ErrorKind::IsADirectory => Err(error),
            _ => Err(io::Error::new(io::ErrorKind::IsADirectory, NO_FILE)),
        }
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OnDisk(options().create_new(true).open(self.path.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }
}

/// A file in it.
#[derive(Debug)]
struct OnDisk(fs::File);

impl File for OnDisk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_folder_and_its_files_are_their_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("above").join("data");
        let folder = Folder::open(&path).unwrap();
        folder.create("one").unwrap();
        assert_eq!((mode(&path), mode(&path.join("one")), mode(&path.join("lock"))), (0o700, 0o600, 0o600));
        drop(folder);
        for wrong in [0o701, 0o710, 0o755] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wrong)).unwrap();
            let error = Folder::open(&path).unwrap_err();
            assert!(matches!(&error, OpenError::Permissions(_, mode) if *mode == wrong));
            assert!(error.to_string().contains(&format!("(mode 0{wrong:o}): chmod 0700")), "{error}");
        }
    }

    #[test]
    fn one_process_uses_it_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let folder = Folder::open(&path).unwrap();
        let error = Folder::open(&path).unwrap_err();
        assert!(error.to_string().ends_with("is in use by another process"), "{error}");
        drop(folder);
        Folder::open(&path).unwrap();
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        fs::write(&path, "a file").unwrap();
        assert!(Folder::open(&path).is_err());
    }

    #[test]
    fn files_are_made_read_renamed_and_removed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(&parent.path().join("data")).unwrap();
        let file = folder.create("one").unwrap();
        assert_eq!(folder.create("one").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.write_at(b"text", 3).unwrap();
        file.sync().unwrap();
        let mut bytes = [9; 7];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, file.len().unwrap()), (b"\0\0\0text", 7));
        assert!(file.read_at(&mut bytes, 1).is_err());
        folder.rename("one", "two").unwrap();
        folder.sync().unwrap();
        let mut names = folder.names().unwrap();
        names.sort();
        assert_eq!(names, ["lock", "two"]);
        folder.open("two").unwrap().set_len(2).unwrap();
        assert_eq!(file.len().unwrap(), 2);
        assert!(folder.open("one").is_err());
        folder.remove("two").unwrap();
        assert_eq!(file.len().unwrap(), 2);
        let Space { free, total } = folder.space().unwrap();
        assert!(free <= total && total > 0);
    }
}
