//! A password file: who there is, and the hash of each password. Whatever is odd in it makes it unusable, with the line
//! that is wrong: half of a file must not become all of the users.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ring::hmac;
use ring::rand::SystemRandom;

use super::hash::Hash;
use super::{Attempt, Judgement, Method, Work};
use crate::config::ConfigError;
use crate::files::{self, Barred};
use crate::principal::Principal;

/// The bit of a file's mode that lets everybody read it.
const READ: u32 = 0o004;

/// How many verified passwords are remembered at most.
const MOST_REMEMBERED: usize = 100_000;

/// The users of a password file, with what is remembered of those who have logged in.
pub struct Passwords {
    users: HashMap<Arc<str>, Hash>,
    /// Costs as much as the costliest of the file, and is of nobody.
    dummy: Hash,
    /// Of each cost in the file a hash of nobody's, and how many users there are up to that one: for users that there are
    /// not.
    costs: Vec<(u64, Hash)>,
    /// Chooses among them.
    chooser: hmac::Key,
    key: hmac::Key,
    /// Of each user the MAC of the password that was right: comparing it costs next to nothing, and it says nothing to
    /// anybody who does not have the key, which lives in this memory alone.
    remembered: Mutex<HashMap<Arc<str>, hmac::Tag>>,
    /// What an operator should know of its file.
    doubt: Option<String>,
}

impl Passwords {
    /// Reads a file that nobody but its owner and group can write to. One that everybody can read is a [doubt], and no
    /// error: mosquitto_passwd makes its files so, and they are to work as they are.
    ///
    /// # Errors
    /// What is wrong with it, and in which line.
    ///
    /// [doubt]: Passwords::doubt
    pub fn read(path: &Path) -> Result<Passwords, ConfigError> {
        let read = files::read_with_mode(path);
        let (text, mode) = read.map_err(|error| unusable(path, &error))?;
        Barred::Writing.check(mode).map_err(|error| unusable(path, &error))?;
        let mut passwords = Passwords::parse(&text).map_err(|(line, reason)| {
            let place = path.display();
            let place = if line == 0 { place.to_string() } else { format!("{place}:{line}") };
            ConfigError::at(place, reason)
        })?;
        passwords.doubt = (mode & READ != 0).then(|| {
            let told = "every user of this machine can read the hashes in it, and try passwords against them";
            format!("{}: {told} (mode {mode:o}): chmod 600 it, or 640", path.display())
        });
        Ok(passwords)
    }

    /// What an operator should know of the file, although it is used.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// Takes a file's contents.
    ///
    /// # Errors
    /// What is wrong, and in which line; 0 if it is about no line.
    pub fn parse(text: &[u8]) -> Result<Passwords, (usize, String)> {
        let mut users = HashMap::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |reason: String| (index + 1, reason);
            let line = std::str::from_utf8(line).map_err(|_| wrong("not UTF-8".to_owned()))?;
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) =
                line.split_once(':').ok_or_else(|| wrong("no colon: not user:hash".to_owned()))?;
            check_user(user).map_err(wrong)?;
            let hash = Hash::parse(hash).map_err(wrong)?;
            if users.insert(user.into(), hash).is_some() {
                return Err(wrong(format!("the user {user:?} is there already")));
            }
        }
        let first = users.iter().min_by_key(|(user, _): &(&Arc<str>, _)| *user);
        // A secret that is the same the next time, so that a name that there is not keeps its cost.
        let chooser = first.map(|(_, hash)| hmac::Key::new(hmac::HMAC_SHA256, hash.encode().as_bytes()));
        let costs = costs_of(users.values());
        let dummy = costs.last().map(|(_, hash)| hash.clone());
        let (chooser, dummy) = chooser.zip(dummy).ok_or_else(|| (0, "no user in it".to_owned()))?;
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| (0, "the system has no randomness".to_owned()))?;
        Ok(Passwords { users, dummy, costs, chooser, key, remembered: Mutex::default(), doubt: None })
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// There is always one.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// What a user that there is not is held against: always the same, of a cost that is as frequent among such names as it
    /// is among users. So what a failure costs does not tell which names there are.
    fn stand_in(&self, user: &str) -> &Hash {
        let tag = hmac::sign(&self.chooser, user.as_bytes());
        let number = tag.as_ref().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let number = number % (self.users.len() as u64).max(1);
        self.costs.iter().find(|(up_to, _)| number < *up_to).map_or(&self.dummy, |(_, hash)| hash)
    }

    fn remember(&self, user: &Arc<str>, password: &[u8]) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() < MOST_REMEMBERED || remembered.contains_key(user) {
            remembered.insert(user.clone(), hmac::sign(&self.key, &said(user, password)));
        }
    }
}

/// The costs that there are, the least first, each with the number of hashes up to it.
fn costs_of<'a>(hashes: impl Iterator<Item = &'a Hash>) -> Vec<(u64, Hash)> {
    let mut costs = BTreeMap::new();
    for hash in hashes {
        costs.entry((hash.cost(), hash.memory())).or_insert_with(|| (0, hash.nobodys())).0 += 1;
    }
    let up_to = costs.into_values().scan(0, |sum, (count, hash)| {
        *sum += count;
        Some((*sum, hash))
    });
    up_to.collect()
}

fn proved(user: &Arc<str>, hash: &Hash) -> Principal {
    Principal { credential: hash.mark(), ..Principal::of_user(user.clone()) }
}

/// What a MAC is made of: the user's name is in it, so that one user's is none of another's.
fn said(user: &str, password: &[u8]) -> Vec<u8> {
    let len = (user.len() as u64).to_le_bytes();
    [&len, user.as_bytes(), password].concat()
}

impl Method for Passwords {
    fn recall(&self, attempt: &Attempt) -> Option<Principal> {
        let (user, password) = attempt.pair()?;
        let tag = *self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(user)?;
        let (user, hash) = self.users.get_key_value(user)?;
        hmac::verify(&self.key, &said(user, password), tag.as_ref()).ok()?;
        Some(proved(user, hash))
    }

    fn memory(&self) -> usize {
        self.users.values().map(Hash::memory).max().unwrap_or(0)
    }

    fn judge(&self, attempt: &Attempt, work: &mut Work<'_>) -> Judgement {
        let Some((user, password)) = attempt.pair() else {
            return Judgement::Wrong("a user name and a password are needed");
        };
        let known = self.users.get_key_value(user);
        // Looked for in any case: that takes time, too.
        let stand_in = self.stand_in(user);
        let hash = known.map_or(stand_in, |(_, hash)| hash);
        // Both are worked out in full, whoever it is.
        let is_right = work.compare(hash, password) & known.is_some();
        if let Some((user, hash)) = known.filter(|_| is_right) {
            self.remember(user, password);
            return Judgement::Right(proved(user, hash));
        }
        if hash.cost() < self.dummy.cost() {
            // Nobody can try passwords faster where a hash is cheap.
            work.compare(&self.dummy, password);
        }
        Judgement::Wrong("the user and the password do not go together")
    }

    fn vouches(&self, user: &str, credential: u32) -> bool {
        self.users.get(user).is_some_and(|hash| hash.mark() == credential)
    }
}

/// Whether a password file can have this user.
///
/// # Errors
/// Why not.
pub(super) fn check_user(user: &str) -> Result<(), String> {
    let reason = if user.is_empty() {
        "no user before the colon"
    } else if user.trim() != user || user.starts_with('#') {
        "a user name cannot begin with # or a space, nor end with a space"
    } else if user.contains(|c: char| c == ':' || c.is_control()) {
        "a user name cannot hold a colon or control characters"
    } else if user.starts_with('\u{feff}') {
        // An editor has put it there, and nobody would ever be the first user.
        "a byte order mark, which would be a part of the name: save the file as UTF-8 without one"
    } else if user.len() > usize::from(u16::MAX) {
        "a user name that is too long"
    } else {
        return Ok(());
    };
    Err(reason.to_owned())
}

/// Reads a file with secrets, unless others than its owner and group have access to it, or, for `Barred::Writing`, one that
/// says who is who, unless they can write to it.
///
/// # Errors
/// It cannot be read, or others can do that.
pub(super) fn read_guarded(path: &Path, barred: Barred) -> Result<Vec<u8>, ConfigError> {
    files::read_guarded(path, barred).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError::at(path.display().to_string(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$7$101$3llQlqSnmH6gboCm$1tVoz8kvZbp62Gq37SZ8Byu0KXB6hU8bUaegqwyAOrcnJ/\
                        eVL+798WJ8bKBmreYwkXhOvHFn/yrMRq3bUmRfZA==";

    fn error(text: &str) -> (usize, String) {
        match Passwords::parse(text.as_bytes()) {
            Ok(_) => panic!("{text} was taken"),
            Err(error) => error,
        }
    }

    #[test]
    fn comments_empty_lines_and_the_line_ends_of_other_systems_are_passed_over() {
        let text = format!("# users\n\nann:{HASH}\r\n#bob:{HASH}\ncarl:{HASH}");
        let passwords = Passwords::parse(text.as_bytes()).map_err(|(_, reason)| reason).expect("a file");
        let users = &passwords.users;
        assert!(users.contains_key("ann") && users.contains_key("carl") && passwords.len() == 2);
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_bytes_are_there_is_an_answer(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            (at, byte) in (0..200usize, proptest::prelude::any::<u8>()),
        ) {
            let _ = Passwords::parse(&bytes);
            // One that is nearly right: whoever comes in has still a name of his own and a whole hash.
            let mut text = format!("ann:{HASH}\nbob:{HASH}\n").into_bytes();
            let at = at % text.len();
            text[at] = byte;
            if let Ok(passwords) = Passwords::parse(&text) {
                proptest::prop_assert!((1..=3).contains(&passwords.len()));
            }
        }
    }

    #[test]
    fn whatever_is_odd_is_an_error_with_its_line() {
        for text in ["", "\n", "# nobody\n", " \n"] {
            assert_eq!(error(text), (0, "no user in it".to_owned()));
        }
        for line in [
            "ann",
            "ann:",
            ":x",
            "ann:secret",
            "ann:$6$",
            " ann:x",
            "a\tb:x",
            "ann:$7$101$3llQlqSnmH6gboCm$1tVoz8k",
        ] {
            assert_eq!(error(&format!("ok:{HASH}\n{line}\nend:{HASH}\n")).0, 2, "{line}");
        }
        assert_eq!(error(&format!("ann:{HASH}\nann:{HASH}\n")).0, 2);
        assert_eq!(error(&format!("\u{feff}ann:{HASH}\nbob:{HASH}\n")).0, 1);
        let bytes = [format!("ann:{HASH}\n").as_bytes(), b"\xff\xfe"].concat();
        assert!(Passwords::parse(&bytes).is_err());
    }
}
