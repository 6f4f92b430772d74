//! The broker as a process of its own: started on free ports, stopped by its pid when dropped.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tempfile::TempDir;

/// Has the binary write a test CA and a server's certificate to `certs` in this folder.
pub fn dev_certs(folder: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirmq"));
    let made = command.arg("dev-certs").arg(folder.join("certs")).output().expect("the binary runs");
    assert!(made.status.success(), "{made:?}");
}

/// A running broker.
pub struct Process {
    /// In the order of the configuration's listeners.
    pub addresses: Vec<SocketAddr>,
    /// Where its configuration and data are.
    pub folder: TempDir,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts the broker with this configuration, in which `{dir}` stands for its folder; `prepare`
    /// may put files there first.
    pub fn start(config: &str, prepare: impl FnOnce(&Path)) -> Process {
        let folder = tempfile::tempdir().expect("a temporary folder");
        prepare(folder.path());
        let file = folder.path().join("weirmq.toml");
        std::fs::write(&file, config.replace("{dir}", &folder.path().display().to_string()))
            .expect("written");
        let listeners = config.matches("[[listener]]").count();
        Process::spawn(Command::new(env!("CARGO_BIN_EXE_weirmq")), folder, file, listeners)
    }

    /// Starts the broker with this configuration and no more than so many descriptors.
    pub fn start_limited(config: &str, descriptors: usize) -> Process {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("weirmq.toml");
        std::fs::write(&file, config).expect("written");
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]);
        limited.arg(env!("CARGO_BIN_EXE_weirmq"));
        Process::spawn(limited, folder, file, config.matches("[[listener]]").count())
    }

    fn spawn(mut command: Command, folder: TempDir, file: PathBuf, listeners: usize) -> Process {
        let mut child = command
            .arg("-c")
            .arg(file)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut log = String::new();
        let mut addresses = Vec::new();
        while addresses.len() < listeners {
            let Some(Ok(line)) = lines.next() else { panic!("the broker did not come up:\n{log}") };
            if let Some(rest) = line.split("listening address=").nth(1) {
                let address = rest.split_whitespace().next().expect("an address");
                addresses.push(address.parse().expect("an address"));
            }
            log.push_str(&line);
            log.push('\n');
        }
        let log = Arc::new(Mutex::new(log));
        let shared = log.clone();
        // The pipe has to be read for as long as the broker writes to it.
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = shared.lock().expect("nobody panics with the log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Process { addresses, folder, child, log, reader: Some(reader) }
    }

    /// The port of the listener with this number.
    pub fn port(&self, listener: usize) -> u16 {
        self.addresses[listener].port()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with the log").clone()
    }

    /// Waits for its end; its exit code, `None` if a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        let status = self.child.wait().expect("the child can be waited for");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader ends with the pipe");
        }
        status.code()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child can be killed");
        self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", self.log());
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.child.kill().expect("the child can be killed");
        }
        self.wait();
    }
}
