//! [`Acl`]: what clients may publish and read, as an ACL file in mosquitto's format, the claims of a token and the rule for
//! `$SYS` say. It is built once, never changed, and asked by (user, client identifier, topic).
//!
//! The meaning of the file: where nothing matches, nothing is granted. A user's own list comes first, and in it what is
//! denied; then the patterns, which hold for everybody, and in them what is denied. So a `deny` pattern does not take away
//! what a user's own list grants. A topic that begins with `$` is matched by nothing but an entry that begins with `$`.

mod file;
mod rules;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{self, Barred};
use crate::principal::{Principal, Token};
use crate::protocol::topic;

use file::{AclFile, Wrong};
use rules::{DENY, READ, Rules, WRITE};

/// Whoever is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Who it has proved to be.
    pub principal: &'a Principal,
    /// Its Client Identifier.
    pub client_id: &'a str,
}

impl<'a> Who<'a> {
    /// The user's name, if it can stand for one level of a topic and nothing else.
    fn plain_user(self) -> Option<&'a str> {
        self.principal.user().filter(|name| is_plain(name))
    }

    /// The client identifier, if it can stand for one level of a topic and nothing else.
    fn plain_client_id(self) -> Option<&'a str> {
        Some(self.client_id).filter(|name| is_plain(name))
    }

    fn token(self) -> Option<&'a Token> {
        self.principal.token.as_deref()
    }
}

fn is_plain(name: &str) -> bool {
    !name.contains(['+', '#', '/'])
}

/// [`Who`], to keep: of a session whose messages another shard routes.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Who it has proved to be.
    pub principal: Principal,
    /// Its Client Identifier.
    pub client_id: Box<str>,
}

impl Owner {
    /// To ask with.
    pub fn who(&self) -> Who<'_> {
        Who { principal: &self.principal, client_id: &self.client_id }
    }
}

/// What clients may publish and read.
#[derive(Debug)]
pub struct Acl {
    file: Option<AclFile>,
    /// Users who may read `$SYS` where there is no file.
    admins: Box<[Box<str>]>,
}

/// Why an ACL file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclError {
    /// The file.
    pub path: PathBuf,
    /// The number of the line that is wrong; `None`: the file cannot be read.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for AclError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.reason),
            None => write!(f, "{}: {}", self.path.display(), self.reason),
        }
    }
}

impl std::error::Error for AclError {}

impl Acl {
    /// Reads an ACL file. One that is empty or has comments alone grants nothing to anybody.
    ///
    /// # Errors
    /// If it cannot be read, everybody can write to it, or a line of it says nothing that is known: then all of it is
    /// refused.
    pub fn load(path: &Path) -> Result<Acl, AclError> {
        let error = |line, reason| AclError { path: path.to_owned(), line, reason };
        let read = files::read_guarded(path, Barred::Writing);
        let bytes = read.map_err(|failure| error(None, failure.to_string()))?;
        Acl::parse(&bytes).map_err(|Wrong { line, reason }| error(Some(line), reason))
    }

    /// Lines of its file, by their numbers, that may say something else than was meant.
    pub fn doubts(&self) -> impl Iterator<Item = &(usize, String)> {
        self.file.iter().flat_map(|file| &file.doubts)
    }

    fn parse(bytes: &[u8]) -> Result<Acl, Wrong> {
        Ok(Acl { file: Some(AclFile::parse(bytes)?), admins: Box::default() })
    }

    /// What an ACL file with these bytes says.
    ///
    /// # Errors
    /// The number of the line that is wrong, and why.
    pub fn from_bytes(bytes: &[u8]) -> Result<Acl, (usize, String)> {
        Acl::parse(bytes).map_err(|wrong| (wrong.line, wrong.reason))
    }

    /// Without a file: everybody may do everything but read `$SYS`, which is for these users and for clients of a
    /// [local](Principal::local) listener.
    pub fn without_file(admins: &[String]) -> Acl {
        Acl { file: None, admins: admins.iter().map(|name| name.as_str().into()).collect() }
    }

    /// Whether it says nothing about most topics, tokens aside: it is about `$SYS` alone.
    pub fn is_about_sys(&self) -> bool {
        self.file.is_none()
    }

    /// Whether it makes a difference who reads `topic`, tokens aside.
    pub fn asks_who(&self, topic: &str) -> bool {
        self.file.is_some() || topic.starts_with("$SYS")
    }

    /// Whether what this client reads has to be told from what others do, wherever its messages are routed.
    pub fn is_selective(&self, principal: &Principal) -> bool {
        self.file.is_some() || principal.token.as_ref().is_some_and(|token| token.subscribe.is_some())
    }

    /// Whether a client with these names may connect: with patterns, none whose name holds a wildcard.
    pub fn may_connect(&self, who: Who<'_>) -> bool {
        let has_patterns = self.file.as_ref().is_some_and(|file| !file.patterns.is_empty());
        let dangerous = |name: &str| name.contains(['+', '#']);
        !has_patterns || !(dangerous(who.client_id) || who.principal.user().is_some_and(dangerous))
    }

    /// Whether messages to the topic name `topic` may be sent to this client.
    pub fn may_read(&self, who: Who<'_>, topic: &str) -> bool {
        if !allows(who.token().and_then(|token| token.subscribe.as_deref()), topic) {
            return false;
        }
        match &self.file {
            Some(file) => file.grants(who, topic) & READ != 0,
            None => self.reads_by_default(who, topic),
        }
    }

    /// Whether this client may publish to the topic name `topic`, as far as rules say.
    pub fn may_write(&self, who: Who<'_>, topic: &str) -> bool {
        allows(who.token().and_then(|token| token.publish.as_deref()), topic)
            && self.file.as_ref().is_none_or(|file| file.grants(who, topic) & WRITE != 0)
    }

    /// Whether there may be a topic that the plain filter `filter` matches and this client may read. Never no if there is.
    pub fn reads_some(&self, who: Who<'_>, filter: &str) -> bool {
        if let Some(filters) = who.token().and_then(|token| token.subscribe.as_deref())
            && !filters.iter().any(|allowed| overlap(allowed, filter))
        {
            return false;
        }
        match &self.file {
            Some(file) => file.reads_some(who, filter),
            None => self.reads_by_default(who, filter),
        }
    }

    /// Whether this client may read every topic that the plain filter `filter` matches. Never yes if there is one that it
    /// may not.
    pub fn reads_all(&self, who: Who<'_>, filter: &str) -> bool {
        let by_token = |filters: &[String]| filters.iter().any(|allowed| topic::covers(allowed, filter));
        who.token().and_then(|token| token.subscribe.as_deref()).is_none_or(by_token)
            && match &self.file {
                Some(file) => file.reads_all(who, filter),
                None => self.reads_by_default(who, filter),
            }
    }

    /// Without a file: `$SYS` is not for everybody. A token that names it was asked before.
    fn reads_by_default(&self, who: Who<'_>, topic: &str) -> bool {
        if !topic.starts_with("$SYS") || who.principal.local {
            return true;
        }
        let named = who.token().is_some_and(|token| token.subscribe.is_some());
        named || who.principal.user().is_some_and(|user| self.admins.iter().any(|admin| **admin == *user))
    }
}

/// Whether the filters of a token, if it has any, match the topic.
fn allows(filters: Option<&[String]>, name: &str) -> bool {
    filters.is_none_or(|filters| filters.iter().any(|filter| topic::matches(filter, name)))
}

/// Whether some topic is matched by both filters.
fn overlap(one: &str, other: &str) -> bool {
    let mut rules = Rules::new(false);
    rules.add(one, DENY);
    rules.denies_some(Who { principal: &Principal::ANONYMOUS, client_id: "" }, other)
}

impl AclFile {
    fn own(&self, who: Who<'_>) -> Option<&Rules> {
        match who.principal.user() {
            Some(user) => self.users.get(user),
            None => Some(&self.anonymous),
        }
    }

    /// What may be done with a topic: [`READ`], [`WRITE`], both or neither.
    fn grants(&self, who: Who<'_>, topic: &str) -> u8 {
        let own = self.own(who).map_or(0, |rules| rules.grants(who, topic));
        if own & DENY != 0 {
            return 0;
        }
        let everybodys = if self.patterns.is_empty() { 0 } else { self.patterns.grants(who, topic) };
        if everybodys & DENY != 0 { own } else { own | everybodys }
    }

    fn reads_some(&self, who: Who<'_>, filter: &str) -> bool {
        let own = self.own(who);
        own.is_some_and(|rules| rules.reads_some(who, filter, None))
            || self.patterns.reads_some(who, filter, own)
    }

    fn reads_all(&self, who: Who<'_>, filter: &str) -> bool {
        let own = self.own(who);
        if own.is_some_and(|rules| rules.denies_some(who, filter)) {
            return false;
        }
        own.is_some_and(|rules| rules.reads_all(who, filter))
            || (!self.patterns.denies_some(who, filter) && self.patterns.reads_all(who, filter))
    }
}

/// The rules that hold at present, and which ones they are: what was decided by others is to be decided anew.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// `None`: everybody may do everything.
    pub acl: Option<Arc<Acl>>,
    /// Rises with every change.
    pub version: u64,
}

#[cfg(test)]
mod tests;
