//! The binary, run with a line of arguments.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::broker::PATIENCE;

/// A running command. It is killed if the test forgets it.
pub struct Weirmq {
    child: Child,
    /// Lines of standard output, with their ends.
    lines: Receiver<Vec<u8>>,
    errors: Receiver<String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// What was not read as lines before.
    pub out: String,
    pub err: String,
}

impl Weirmq {
    /// Starts `weirmq COMMAND -h 127.0.0.1 -p PORT ARGS`.
    pub fn start(command: &str, port: u16, args: &[&str]) -> Weirmq {
        let port = port.to_string();
        let mut all = vec![command, "-h", "127.0.0.1", "-p", &port];
        all.extend(args);
        Weirmq::start_plain(&all)
    }

    /// Starts `weirmq ARGS`.
    pub fn start_plain(args: &[&str]) -> Weirmq {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weirmq"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            loop {
                let mut line = Vec::new();
                if stdout.read_until(b'\n', &mut line).unwrap_or(0) == 0 || sender.send(line).is_err() {
                    break;
                }
            }
        });
        let (sender, errors) = channel();
        let mut stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            let _ = sender.send(text);
        });
        Weirmq { child, lines, errors }
    }

    /// Its standard input, which ends when this is dropped.
    pub fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Gives it all its input.
    pub fn feed(&mut self, text: &str) {
        self.input().write_all(text.as_bytes()).unwrap();
    }

    /// The next line of its output, without the end.
    pub fn line(&self) -> String {
        let line = String::from_utf8(self.lines.recv_timeout(PATIENCE).expect("a line of output")).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        // Standard error ends with the process, and with what it has started.
        let err = self.errors.recv_timeout(PATIENCE).expect("an end");
        let out = self.lines.iter().flatten().collect();
        Ended { code: self.child.wait().unwrap().code(), out: String::from_utf8(out).unwrap(), err }
    }
}

impl Drop for Weirmq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// It ended with this code and said this, in this order, on standard error.
    #[track_caller]
    pub fn said(&self, code: i32, words: &[&str]) {
        let mut rest = self.err.as_str();
        for word in words {
            rest = rest.split_once(word).unwrap_or_else(|| panic!("{word:?} is not in {self:?}")).1;
        }
        assert_eq!(self.code, Some(code), "{self:?}");
    }

    /// It ended well and had nothing to say.
    #[track_caller]
    pub fn well(&self) {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
    }
}
