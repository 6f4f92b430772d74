//! The unit files, with the real systemd where there is one: what it thinks of them, and how the broker fares under it.
//! The second takes root and namespaces; `WEIRMQ_REQUIRE_SYSTEMD=1` makes a want of them a failure.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weirmq::auth::hash::Hash;
use weirmq::protocol::packet::*;

use crate::common::client::*;
use crate::common::process::dev_certs;
use crate::eventually;

/// In tenths, as systemd-analyze counts.
const MOST_EXPOSED: &str = "15";

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

/// Whether what a test needs is missing, which is a failure where it is required.
fn is_missing(what: &str, missing: bool) -> bool {
    let required = std::env::var_os("WEIRMQ_REQUIRE_SYSTEMD").is_some();
    assert!(!(missing && required), "{what} is required");
    if missing {
        // The macros would write to where the test harness throws away what successful tests say.
        writeln!(std::io::stderr(), "SKIPPED: no {what}").expect("standard error");
    }
    missing
}

#[test]
fn systemd_finds_little_to_say_against_the_unit() {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--no-pager", "--offline=true", "--threshold", MOST_EXPOSED]);
    let made = command.arg(config().join("weirmq.service")).output();
    if is_missing("systemd-analyze", made.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)) {
        return;
    }
    let made = made.expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
}

/// A systemd in namespaces of its own.
struct Systemd {
    launcher: Child,
    /// Its number out here.
    pid: u32,
    _folder: TempDir,
}

impl Systemd {
    fn boot(units: &Path, etc: &Path) -> Option<Systemd> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("systemd.log");
        let out = fs::File::create(&log).expect("a file");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/boot.sh");
        let mut command = Command::new("sh");
        command.arg(script).arg(env!("CARGO_BIN_EXE_weirmq")).arg(units).arg(etc);
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a descriptor")).stderr(out);
        let launcher = command.spawn().expect("sh runs");
        let mut systemd = Systemd { launcher, pid: 0, _folder: folder };
        let deadline = Instant::now() + 2 * PATIENCE;
        while !(systemd.find() && systemd.control(&["list-units"]).status.success()) {
            let ended = systemd.launcher.try_wait().expect("a child").is_some();
            if ended || Instant::now() > deadline {
                eprintln!("{}", fs::read_to_string(&log).unwrap_or_default());
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(systemd)
    }

    fn find(&mut self) -> bool {
        let id = self.launcher.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let child = children.split_whitespace().next().and_then(|child| child.parse().ok());
        self.pid = child.unwrap_or(0);
        child.is_some()
    }

    /// Runs a program where this systemd runs.
    fn run(&self, program: &[&str]) -> Output {
        let pid = self.pid.to_string();
        Command::new("nsenter").args(["-t", &pid, "-a"]).args(program).output().expect("nsenter runs")
    }

    fn control(&self, arguments: &[&str]) -> Output {
        self.run(&[&["systemctl", "--no-pager"], arguments].concat())
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) {
        let made = self.control(arguments);
        let status = self.control(&["status", "weirmq.service"]);
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(made.status.success(), "{arguments:?}: {}\n{status}", String::from_utf8_lossy(&made.stderr));
    }

    fn show(&self, property: &str) -> String {
        let shown = self.control(&["show", "weirmq.service", "--value", "-p", property]);
        String::from_utf8_lossy(&shown.stdout).trim().to_owned()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if self.pid != 0 {
            // With the first of its processes all others end.
            let _ = Command::new("kill").args(["-KILL", &self.pid.to_string()]).status();
        } else {
            let _ = self.launcher.kill();
        }
        let _ = self.launcher.wait();
    }
}

/// A port that is free now, and likely to be in a moment.
fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
}

#[test]
fn the_unit_runs_under_systemd_from_activation_to_the_end() {
    let is_root = rustix::process::geteuid().is_root();
    let has = |path: &str| Path::new(path).exists();
    let able = is_root && has("/lib/systemd/systemd") && has("/usr/bin/nsenter") && has("/usr/bin/unshare");
    if is_missing("root and systemd", !able) {
        return;
    }
    // Everything as it is shipped, but for the port and how long the watchdog waits.
    let (folder, port) = (tempfile::tempdir().expect("a temporary folder"), free_port());
    let (units, etc) = (folder.path().join("units"), folder.path().join("etc"));
    fs::create_dir_all(&units).expect("a folder");
    fs::create_dir_all(etc.join("conf.d")).expect("a folder");
    for end in ["service", "socket", "sysusers", "tmpfiles"] {
        let text = fs::read_to_string(config().join(format!("weirmq.{end}"))).expect("a unit");
        let text = text.replace(":1883", &format!(":{port}")).replace("WatchdogSec=60s", "WatchdogSec=5s");
        fs::write(units.join(format!("weirmq.{end}")), text).expect("written");
    }
    // With users, for whom there are threads that step back behind the others.
    let listener = format!("[[listener]]\nbind = \"127.0.0.1:{port}\"\nallow_anonymous = true\n");
    let users = "[auth]\npassword_file = \"/etc/weirmq/users\"\n";
    fs::write(etc.join("weirmq.toml"), listener + users).expect("written");
    dev_certs(&etc);
    let hash = Hash::argon2id(b"ann", [7; 16], (64, 1, 1)).expect("a hash");
    fs::write(etc.join("users"), format!("ann:{}\n", hash.encode())).expect("written");
    fs::write(etc.join("conf.d/10-more.toml"), "shards = 2\n").expect("written");
    let systemd = Systemd::boot(&units, &etc);
    if is_missing("namespaces and control groups for systemd", systemd.is_none()) {
        return;
    }
    let systemd = systemd.expect("it is there");
    let address = ([127, 0, 0, 1], port).into();

    // The first client has it started.
    systemd.succeed(&["start", "weirmq.socket"]);
    assert_eq!(systemd.show("ActiveState"), "inactive");
    Client::connect(address, Version::V5, "first").ping();
    eventually("it is ready", || systemd.show("ActiveState") == "active");
    assert_eq!(systemd.show("StatusText"), format!("Serving on 127.0.0.1:{port}"));
    let mut ann = Client::open(address, Version::V5);
    let (username, password) = (Some("ann"), Some(&b"ann"[..]));
    ann.send(&Packet::Connect(Connect { username, password, ..connect(Version::V5, "ann", true) }));
    ann.accepted();

    // A reload, good and bad.
    let more = free_port();
    let file = "/etc/weirmq/conf.d/10-more.toml";
    let listeners = format!(
        "listener = [{{ bind = '127.0.0.1:{port}', allow_anonymous = true }}, \
         {{ bind = 'unix:/run/weirmq/mqtt.sock', allow_anonymous = true }}, \
         {{ bind = '127.0.0.1:{more}', allow_anonymous = true, \
            tls = {{ cert = '/etc/weirmq/certs/server.pem', key = '/etc/weirmq/certs/server.key' }} }}]\n"
    );
    let write = |text: &str| systemd.run(&["sh", "-c", &format!("printf '%s' \"{text}\" >{file}")]);
    assert!(write(&listeners).status.success());
    systemd.succeed(&["reload", "weirmq.service"]);
    eventually("both listen", || systemd.show("StatusText").ends_with(&format!(", 127.0.0.1:{more}")));
    let trusting = trusting(&etc.join("certs/ca.pem"));
    let more = ([127, 0, 0, 1], more).into();
    Client::open_tls(more, Version::V5, &trusting, "localhost").expect("a handshake").0.hello("second");
    let socket = systemd.run(&["stat", "-c", "%U %a", "/run/weirmq/mqtt.sock"]).stdout;
    assert_eq!(String::from_utf8_lossy(&socket), "weirmq 660\n");
    assert!(write("nonsense").status.success());
    systemd.succeed(&["reload", "weirmq.service"]);
    eventually("it is said", || systemd.show("StatusText").contains("10-more.toml:1:"));
    assert!(write(&listeners).status.success());

    // Stuck as a whole: the watchdog ends it, and it starts again. Who comes meanwhile is not refused.
    let inside = systemd.show("MainPID");
    assert!(systemd.run(&["kill", "-STOP", &inside]).status.success());
    // Each thread stops when it comes to run, and one that has not yet would take the next connection with it to the end.
    let states = format!("cat /proc/{inside}/task/*/status");
    eventually("it has stopped", || {
        let states = systemd.run(&["sh", "-c", &states]).stdout;
        let mut states = states.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"State:"));
        states.all(|state| state.starts_with(b"State:\tT"))
    });
    let mut patient = Client::open(address, Version::V5);
    eventually("it starts again", || {
        systemd.show("NRestarts") == "1" && systemd.show("ActiveState") == "active"
    });
    assert_ne!(systemd.show("MainPID"), inside);
    patient.hello("patient");
    patient.ping();

    let start = Instant::now();
    systemd.succeed(&["stop", "weirmq.service"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(
        (systemd.show("Result"), systemd.show("ExecMainStatus")),
        ("success".to_owned(), "0".to_owned())
    );
}
