//! `weirmq passwd`: writes a password file. A new one takes the place of the old one at once and whole, so that the broker
//! never reads half of it, and belongs to whom the old one belonged to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::hash::Hash;
use super::passwords::{Passwords, check_user};
use crate::files;

/// What `weirmq passwd` is told.
#[derive(Args, Clone, Debug)]
pub struct PasswdArgs {
    /// Begin a new file; an old one is lost
    #[arg(short, long, conflicts_with = "delete")]
    pub create: bool,
    /// Remove the user
    #[arg(short = 'D', long)]
    pub delete: bool,
    /// Take the password from the command line, where other users of this machine may see it
    #[arg(short, long, requires = "password", conflicts_with = "delete")]
    pub batch: bool,
    /// The password file
    pub file: PathBuf,
    /// The user
    pub user: String,
    /// The password, with -b
    #[arg(requires = "batch")]
    pub password: Option<String>,
}

/// Does what it is told; the exit code is 1 if it cannot.
pub fn run(args: &PasswdArgs) -> ExitCode {
    match change(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weirmq passwd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn change(args: &PasswdArgs) -> Result<(), String> {
    check_user(&args.user)?;
    let named = |error: io::Error| format!("{}: {error}", args.file.display());
    // The file itself, and not a link to it, is replaced.
    let path = match fs::canonicalize(&args.file) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound && args.create => args.file.clone(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("{}: there is no such file: -c begins one", args.file.display()));
        }
        Err(error) => return Err(named(error)),
    };
    let old = if args.create { String::new() } else { files::read_text(&path).map_err(named)? };
    let is_theirs = |line: &str| line.split_once(':').is_some_and(|(user, _)| user == args.user);
    if args.delete {
        if !old.lines().any(is_theirs) {
            return Err(format!("{}: there is no user {:?}", args.file.display(), args.user));
        }
        let kept: String =
            old.lines().filter(|line| !is_theirs(line)).flat_map(|line| [line, "\n"]).collect();
        if kept.lines().all(|line| line.is_empty() || line.starts_with('#')) {
            eprintln!("weirmq passwd: that was the last user: no broker takes the file as it is now");
        }
        return replace(&path, &kept).map_err(named);
    }
    let password = match &args.password {
        Some(password) => password.clone(),
        None => ask(&args.user).map_err(|error| format!("no password: {error}"))?,
    };
    if password.is_empty() {
        return Err("an empty password lets nobody in".to_owned());
    }
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).map_err(|_| "the system has no randomness".to_owned())?;
    let own = format!("{}:{}", args.user, Hash::make(password.as_bytes(), salt)?.encode());
    let new = with_line(&old, &own, is_theirs);
    // What this broker would not take is not written.
    Passwords::parse(new.as_bytes())
        .map_err(|(line, reason)| format!("{}:{line}: {reason}; nothing was changed", args.file.display()))?;
    replace(&path, &new).map_err(named)
}

/// The text with `own` in the place of the user's line, or at the end.
fn with_line(old: &str, own: &str, is_theirs: impl Fn(&str) -> bool) -> String {
    let mut new = String::with_capacity(old.len() + own.len() + 1);
    let mut done = false;
    for line in old.lines() {
        let line = if is_theirs(line) { own } else { line };
        done |= line == own;
        new.extend([line, "\n"]);
    }
    if !done {
        new.extend([own, "\n"]);
    }
    new
}

/// Puts a new file in the place of `path`: readable by its owner, and by its group if the old one was.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let written = write(&beside, path, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Whatever is there of it is of no use.
        let _ = fs::remove_file(&beside);
        return written;
    }
    File::open(folder)?.sync_all()
}

fn write(beside: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    if let Ok(old) = fs::metadata(path) {
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            // The broker that reads it may not be who writes it.
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(0o600 | (old.mode() & 0o040)))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Asks for a password, twice where somebody types it, who does not see it; else it is the first line of the input.
fn ask(user: &str) -> io::Result<String> {
    let input = io::stdin();
    if !input.is_terminal() {
        return read_line();
    }
    let silence = Silence::begin()?;
    let first = prompt(&format!("Password for {user}: "))?;
    let second = prompt("Once more: ")?;
    drop(silence);
    if first == second { Ok(first) } else { Err(io::Error::other("the two are not the same")) }
}

fn prompt(text: &str) -> io::Result<String> {
    let mut errors = io::stderr();
    write!(errors, "{text}")?;
    errors.flush()?;
    let line = read_line()?;
    writeln!(errors)?;
    Ok(line)
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// The terminal does not show what is typed until this is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Silence> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_line_is_changed_in_its_place_and_every_other_is_kept() {
        let old = "# ours\nann:1\n\nbob:2\n";
        let is = |name: &'static str| move |line: &str| line.starts_with(&format!("{name}:"));
        assert_eq!(with_line(old, "ann:9", is("ann")), "# ours\nann:9\n\nbob:2\n");
        assert_eq!(with_line(old, "carl:3", is("carl")), "# ours\nann:1\n\nbob:2\ncarl:3\n");
        assert_eq!(with_line("", "ann:1", is("ann")), "ann:1\n");
    }
}
