//! Mosquitto beside the broker, to hold the two against each other over the same files. It is used if it is installed; with
//! `WEIRMQ_REQUIRE_CLIENTS=1` a missing one is a failure.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use weirmq::protocol::packet::Version;

use super::client::Client;

/// One of mosquitto's programs, where Debian puts it or where the path leads.
pub fn program(name: &str) -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&places).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.map(|place| place.join(name)).find(|path| path.is_file());
    if found.is_none() {
        let required = std::env::var("WEIRMQ_REQUIRE_CLIENTS").is_ok();
        assert!(!required, "{name} is not installed, and is required");
        // The macros would write to where the test harness throws away what successful tests say.
        writeln!(std::io::stderr(), "SKIPPED: {name} is not installed").expect("standard error");
    }
    found
}

/// Mosquitto on a Unix socket of its own.
pub struct Mosquitto {
    child: Child,
    folder: TempDir,
}

impl Mosquitto {
    /// With the lines of configuration that `prepare` gives, which may put files into the folder that it is told; `None`
    /// if it does not start with them.
    pub fn start(binary: &Path, prepare: impl FnOnce(&Path) -> String) -> Option<Mosquitto> {
        let folder = tempfile::tempdir().expect("a folder");
        let lines = prepare(folder.path());
        let place = |name: &str| folder.path().join(name);
        let config = format!("user root\nlistener 0 {}\nlog_dest stderr\n{lines}", place("socket").display());
        std::fs::write(place("conf"), config).expect("written");
        let mut command = Command::new(binary);
        command
            .arg("-c")
            .arg(place("conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let runs = lines.by_ref().map_while(Result::ok).any(|line| line.contains(" running"));
        if !runs {
            child.wait().expect("it has ended");
            return None;
        }
        // Its log has to be read for as long as it writes one.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Mosquitto { child, folder })
    }

    /// A connection on which nothing has been said yet.
    pub fn open(&self) -> Client {
        Client::open_unix(&self.folder.path().join("socket"), Version::V5)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
