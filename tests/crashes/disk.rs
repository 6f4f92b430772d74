//! A disk of its own for the broker: an ext4 file system in a file on a loop device, whose power can be cut. It is gone
//! when it is dropped, and when the test's process ends in whatever way.

use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Waits for the end of its input, which comes with the end of the test or its process, and removes everything.
const GUARD: &str =
    r#"trap '' INT TERM HUP; cat >/dev/null; umount -l "$0/disk"; rm -rf --one-file-system "$0""#;

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: from here on nothing reaches the disk, the journal included.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

pub struct Disk {
    guard: Child,
    folder: TempDir,
}

impl Disk {
    /// A disk of so many MiB. `None` where the system does not let one have it, which is said, and is a failure if
    /// `WEIRMQ_REQUIRE_POWER` is set.
    pub fn new(mib: u64) -> Option<Disk> {
        match Disk::make(mib) {
            Ok(disk) => Some(disk),
            Err(reason) if std::env::var_os("WEIRMQ_REQUIRE_POWER").is_some() => panic!("{reason}"),
            Err(reason) => {
                let test = std::thread::current();
                let test = test.name().unwrap_or_default();
                // Not by a macro, for the test harness would keep what it prints to itself.
                let _unheard =
                    writeln!(stderr(), "SKIPPED {test}: it needs root and a loop device: {reason}");
                None
            }
        }
    }

    fn make(mib: u64) -> Result<Disk, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("disk")).expect("a folder");
        let image = folder.path().join("image");
        let file = std::fs::File::create(&image).expect("a file");
        file.set_len(mib << 20).expect("a file with holes");
        // All there from the start: nothing is to be done in the background.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", options]).arg(&image))?;
        mount(folder.path())?;
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD]).arg(folder.path()).stdin(Stdio::piped()).stderr(Stdio::null());
        let disk = Disk { guard: guard.spawn().expect("a shell"), folder };
        run(Command::new("python3").args(["-c", "import fcntl"]))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// The power fails.
    pub fn cut_power(&self) {
        run(Command::new("python3").args(["-c", SHUTDOWN]).arg(self.path())).expect("the power can be cut");
    }

    /// The power returns. Nothing may have a file open on it.
    pub fn restore_power(&self) {
        run(Command::new("umount").arg(self.path())).expect("nobody uses it");
        mount(self.folder.path()).expect("what could be mounted can be mounted again");
    }

    /// Fills it until only so many KiB are free.
    pub fn fill(&self, free_kib: u64) {
        let mut filler = std::fs::File::create(self.path().join("filler")).expect("a file");
        let block = [b'.'; 1024];
        // The last blocks may be taken by somebody else meanwhile.
        while self.free_kib() > free_kib && filler.write_all(&block).is_ok() {}
        assert!(self.free_kib() <= free_kib + 8, "{} KiB are still free", self.free_kib());
    }

    /// Makes room again.
    pub fn clear(&self) {
        std::fs::remove_file(self.path().join("filler")).expect("it was filled");
    }

    pub fn free_kib(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("a file system");
        stat.f_bavail * stat.f_frsize / 1024
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _removed = self.guard.wait();
    }
}

fn mount(folder: &Path) -> Result<(), String> {
    run(Command::new("mount").args(["-o", "loop"]).arg(folder.join("image")).arg(folder.join("disk")))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(format!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}

/// What proves the tests that cut the power.
#[test]
fn what_was_not_synced_is_gone_when_the_power_returns() {
    let Some(disk) = Disk::new(64) else { return };
    let file = |name| std::fs::File::create(disk.path().join(name)).expect("a file");
    file("synced").sync_all().expect("it can be synced");
    let mut half = file("half");
    half.write_all(b"synced, ").and_then(|()| half.sync_data()).expect("it can be synced");
    half.write_all(b"and not").expect("it can be written");
    file("unsynced").write_all(b"gone").expect("it can be written");
    drop(half);
    disk.cut_power();
    disk.restore_power();
    assert_eq!(std::fs::read(disk.path().join("half")).expect("it is there"), b"synced, ");
    assert!(disk.path().join("synced").exists());
    assert!(!disk.path().join("unsynced").exists());
}

#[test]
fn a_disk_leaves_nothing_behind() {
    let Some(disk) = Disk::new(16) else { return };
    let path = disk.path();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _disk = disk;
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    assert!(!path.parent().is_some_and(Path::exists));
    let mounts = std::fs::read_to_string("/proc/mounts").expect("a list of mounts");
    assert!(!mounts.contains(path.to_str().expect("a plain path")));
}

#[test]
fn a_disk_can_be_filled_and_cleared() {
    let Some(disk) = Disk::new(16) else { return };
    let before = disk.free_kib();
    disk.fill(2048);
    assert!(disk.free_kib() <= 2048);
    disk.fill(0);
    assert!(std::fs::write(disk.path().join("more"), [0; 65_536]).is_err());
    disk.clear();
    assert!(disk.free_kib() > before - 128);
}
