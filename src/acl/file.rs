//! The ACL file in mosquitto's format: from its lines to the rules of each user.

use std::str;

use hashbrown::HashMap;

use super::rules::{DENY, READ, Rules, WRITE};
use crate::protocol::topic;

/// What an ACL file says.
#[derive(Debug)]
pub(super) struct AclFile {
    /// The `topic` lines before the first `user`: for clients without a user.
    pub(super) anonymous: Rules,
    pub(super) users: HashMap<Box<str>, Rules, foldhash::quality::RandomState>,
    /// The `pattern` lines: for everybody.
    pub(super) patterns: Rules,
    /// Lines, by their numbers, that say something other than they seem to.
    pub(super) doubts: Vec<(usize, String)>,
}

/// Why a file is refused: the number of the line, from 1 on, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) reason: String,
}

impl AclFile {
    /// Reads a whole file. One that says nothing grants nothing.
    pub(super) fn parse(bytes: &[u8]) -> Result<AclFile, Wrong> {
        let mut file = AclFile {
            anonymous: Rules::new(false),
            users: HashMap::default(),
            patterns: Rules::new(true),
            doubts: Vec::new(),
        };
        let mut user = None;
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line_number = index + 1;
            let wrong = |reason: String| Wrong { line: line_number, reason };
            let line = str::from_utf8(line).map_err(|_| wrong("not UTF-8".to_owned()))?;
            if line.contains('\0') {
                return Err(wrong("a NUL character".to_owned()));
            }
            file.take_line(line_number, line, &mut user).map_err(wrong)?;
        }
        Ok(file)
    }

    fn take_line(&mut self, number: usize, line: &str, user: &mut Option<Box<str>>) -> Result<(), String> {
        // Blanks in front are skipped, but do not make a comment.
        let line = line.trim_end_matches(is_space);
        if line.starts_with('#') || line.is_empty() {
            return Ok(());
        }
        let line = line.trim_start_matches(' ');
        let (keyword, rest) = line.split_once(' ').unwrap_or((line, ""));
        match keyword {
            "user" => {
                let name = rest.trim_matches(is_space);
                if name.is_empty() {
                    return Err("`user` without a name".to_owned());
                }
                self.users.entry(name.into()).or_insert_with(|| Rules::new(false));
                *user = Some(name.into());
            }
            "topic" => {
                let (grants, filter) = grant(rest)?;
                let rules = match user {
                    Some(name) => self.users.entry(name.clone()).or_insert_with(|| Rules::new(false)),
                    None => &mut self.anonymous,
                };
                rules.add(filter, grants);
            }
            "pattern" => {
                let (grants, filter) = grant(rest)?;
                self.take_pattern(number, filter, grants)?;
            }
            _ => return Err(format!("`user`, `topic` or `pattern` expected, not {keyword:?}")),
        }
        Ok(())
    }

    fn take_pattern(&mut self, number: usize, filter: &str, grants: u8) -> Result<(), String> {
        let names = |text: &str| text.contains("%u") || text.contains("%c");
        if let Some(level) = filter.split('/').find(|level| names(level) && !matches!(*level, "%u" | "%c")) {
            return Err(format!("`%u` or `%c` must be a whole level of its own, not a part of {level:?}"));
        }
        if !names(filter) {
            self.doubts.push((number, format!("the pattern {filter:?} is the same for every client")));
        }
        self.patterns.add(filter, grants);
        Ok(())
    }
}

/// `[read|write|readwrite|deny] FILTER`
fn grant(rest: &str) -> Result<(u8, &str), String> {
    let rest = rest.trim_start_matches(' ');
    if rest.is_empty() {
        return Err("a topic filter is missing".to_owned());
    }
    let (grants, filter) = match rest.split_once(' ') {
        None => (READ | WRITE, rest),
        Some((access, filter)) => {
            let grants = match access {
                "read" => READ,
                "write" => WRITE,
                "readwrite" => READ | WRITE,
                "deny" => DENY,
                _ => {
                    let expected = "`read`, `write`, `readwrite` or `deny`";
                    return Err(format!("{expected} expected before the filter, not {access:?}"));
                }
            };
            (grants, filter.trim_matches(is_space))
        }
    };
    if !topic::is_valid_filter(filter) {
        return Err(format!("{filter:?} is not a topic filter"));
    }
    Ok((grants, filter))
}

/// What C's `isspace` takes for one.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}
