//! The broker as a process of its own: started on free ports, stopped by its pid when dropped, and started again in the
//! same folder as often as one likes.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Has the binary write a test CA and a server's certificate to `certs` in this folder.
pub fn dev_certs(folder: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirmq"));
    let made = command.arg("dev-certs").arg(folder.join("certs")).output().expect("the binary runs");
    assert!(made.status.success(), "{made:?}");
}

/// A running broker.
pub struct Process {
    /// In the order of the configuration's listeners, those of TCP.
    pub addresses: Vec<SocketAddr>,
    /// Where its configuration and data are.
    pub folder: TempDir,
    /// What runs the binary, with its arguments; empty: it is run as it is.
    pub launcher: Vec<String>,
    /// Variables for the next start.
    pub environment: Vec<(String, String)>,
    listeners: usize,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts the broker with this configuration, in which `{dir}` stands for its folder; `prepare`
    /// may put files there first.
    pub fn start(config: &str, prepare: impl FnOnce(&Path)) -> Process {
        Process::launch(Vec::new(), config, prepare)
            .unwrap_or_else(|log| panic!("it did not come up:\n{log}"))
    }

    /// Starts the broker with this configuration and no more than so many descriptors.
    pub fn start_limited(config: &str, descriptors: usize) -> Process {
        let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        let launcher = ["sh".to_owned(), "-c".to_owned(), script].into();
        Process::launch(launcher, config, |_| {}).unwrap_or_else(|log| panic!("it did not come up:\n{log}"))
    }

    /// Starts the broker with this configuration by way of `launcher`, a program and its first arguments.
    ///
    /// # Errors
    /// What it logged, if it ended before it listened.
    pub fn launch(
        launcher: Vec<String>,
        config: &str,
        prepare: impl FnOnce(&Path),
    ) -> Result<Process, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        prepare(folder.path());
        let file = folder.path().join("weirmq.toml");
        std::fs::write(file, config.replace("{dir}", &folder.path().display().to_string())).expect("written");
        let listeners = config.matches("[[listener]]").count();
        let log = Arc::default();
        // Two shards, unless it says otherwise, on any machine: what passes between them is to be met everywhere.
        let two = || ("WEIRMQ__SHARDS".to_owned(), "2".to_owned());
        let environment: Vec<_> = (!config.contains("shards =")).then(two).into_iter().collect();
        let (child, addresses, reader) = spawn(&launcher, &environment, folder.path(), listeners, &log)?;
        let reader = Some(reader);
        Ok(Process { addresses, folder, launcher, environment, listeners, child, log, reader })
    }

    /// Starts it again, in the same folder and with the same configuration; how long it took until it listened.
    ///
    /// # Errors
    /// What it logged, if it ended before it listened.
    pub fn try_restart(&mut self) -> Result<Duration, String> {
        self.end();
        let start = Instant::now();
        let (child, addresses, reader) =
            spawn(&self.launcher, &self.environment, self.folder.path(), self.listeners, &self.log)?;
        (self.child, self.addresses, self.reader) = (child, addresses, Some(reader));
        Ok(start.elapsed())
    }

    /// Starts it again, which must succeed; how long it took until it listened.
    pub fn restart(&mut self) -> Duration {
        self.try_restart().unwrap_or_else(|_| panic!("it did not come up again"))
    }

    /// Starts it again only to kill it after this time, whatever it is doing then.
    pub fn start_and_kill(&mut self, after: Duration) {
        self.end();
        let mut command = command(&self.launcher, &self.environment, self.folder.path());
        let mut child = command.stderr(Stdio::null()).spawn().expect("the broker starts");
        std::thread::sleep(after);
        child.kill().expect("the child can be killed");
        child.wait().expect("the child can be waited for");
    }

    /// The port of the listener with this number.
    pub fn port(&self, listener: usize) -> u16 {
        self.addresses[listener].port()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged, in all its lives.
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with the log").clone()
    }

    /// Waits until it has logged this: what writes the log and what reads it are threads of their own.
    pub fn logged(&self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            assert!(start.elapsed() < Duration::from_secs(20), "not in the log: {text}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of its memory");
        let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
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

    fn end(&mut self) {
        if self.is_running() {
            self.child.kill().expect("the child can be killed");
        }
        self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", self.log());
        }
        self.end();
    }
}

type Spawned = (Child, Vec<SocketAddr>, JoinHandle<()>);

fn command(launcher: &[String], environment: &[(String, String)], folder: &Path) -> Command {
    let binary = env!("CARGO_BIN_EXE_weirmq");
    let mut command = match launcher.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary);
            command
        }
        None => Command::new(binary),
    };
    command.arg("-c").arg(folder.join("weirmq.toml")).current_dir(folder);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs the binary until it listens; the log, if it ends before.
fn spawn(
    launcher: &[String],
    environment: &[(String, String)],
    folder: &Path,
    listeners: usize,
    log: &Arc<Mutex<String>>,
) -> Result<Spawned, String> {
    let mut command = command(launcher, environment, folder);
    let mut child = command.spawn().expect("the broker starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let add = |line: &str, log: &Mutex<String>| {
        let mut log = log.lock().expect("nobody panics with the log");
        log.push_str(line);
        log.push('\n');
    };
    let (mut addresses, mut heard) = (Vec::new(), 0);
    while heard < listeners {
        let Some(Ok(line)) = lines.next() else {
            let _ended_by_itself = child.wait();
            return Err(log.lock().expect("nobody panics with the log").clone());
        };
        if let Some(rest) = line.split("listening address=").nth(1) {
            let address = rest.split_whitespace().next().expect("an address");
            // A Unix socket has none.
            addresses.extend(address.parse::<SocketAddr>().ok());
            heard += 1;
        }
        add(&line, log);
    }
    let shared = log.clone();
    // The pipe has to be read for as long as the broker writes to it.
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| add(&line, &shared)));
    Ok((child, addresses, reader))
}
