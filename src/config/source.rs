//! Where settings come from: TOML documents, each the text of a file or of one environment variable, which know the
//! place of everything in them, so that every error can name it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::files;

/// Environment variables that begin so are settings: `WEIRMQ__LIMITS__MAX_INFLIGHT` is `limits.max_inflight`.
const VARIABLE_PREFIX: &str = "WEIRMQ__";

/// A configuration that cannot be used: what is wrong, and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, with line and column if known, or the environment variable.
    place: Option<String>,
    /// The setting, such as `listener[0].bind`.
    key: Option<String>,
    reason: String,
}

impl ConfigError {
    /// An error that belongs to no place and no setting.
    pub fn new(reason: impl fmt::Display) -> Self {
        ConfigError { place: None, key: None, reason: reason.to_string() }
    }

    /// An error at a place in one of the files that the configuration names.
    pub fn at(place: String, reason: impl fmt::Display) -> Self {
        ConfigError { place: Some(place), key: None, reason: reason.to_string() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ConfigError {}

#[derive(Debug)]
enum Origin {
    File(PathBuf),
    Variable(String),
}

/// A document with settings.
#[derive(Debug)]
pub(super) struct Source {
    origin: Origin,
    text: String,
}

impl Source {
    /// Reads a file.
    pub(super) fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let error = |reason: String| ConfigError::at(path.display().to_string(), reason);
        let text = files::read_text(path).map_err(|failure| error(failure.to_string()))?;
        Ok(Source { origin: Origin::File(path.to_owned()), text })
    }

    /// Takes the settings among environment variables, in the order of their names; the others are none of ours.
    pub(super) fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<Self>, ConfigError> {
        let ours = |name: &OsStr| name.as_encoded_bytes().starts_with(VARIABLE_PREFIX.as_bytes());
        let mut variables: Vec<_> = variables.into_iter().filter(|(name, _)| ours(name)).collect();
        variables.sort();
        variables.iter().map(|(name, value)| Self::from_variable(name, value)).collect()
    }

    fn from_variable(name: &OsStr, value: &OsStr) -> Result<Self, ConfigError> {
        let error = |reason: &str| ConfigError {
            place: Some(name.to_string_lossy().into_owned()),
            key: None,
            reason: reason.to_owned(),
        };
        let name = name.to_str().ok_or_else(|| error("the name is not UTF-8"))?;
        let value = value.to_str().ok_or_else(|| error("the value is not UTF-8"))?;
        let path: Vec<_> = name[VARIABLE_PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        let is_key = |part: &String| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !path.iter().all(is_key) {
            return Err(error("not the name of a setting: WEIRMQ__SECTION__KEY sets `key` of `[section]`"));
        }
        Ok(Source { origin: Origin::Variable(name.to_owned()), text: document(&path.join("."), value) })
    }

    /// The document's text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Parses the document.
    pub(super) fn parse<'de, T: Deserialize<'de>>(&'de self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|error| {
            let span = error.span();
            let key = span.as_ref().and_then(|span| {
                let found =
                    places(&self.text).into_iter().find(|place| place.name == *span || place.value == *span);
                found.map(|place| place.path)
            });
            self.error(span, key, error.message())
        })
    }

    /// Whether the document sets `path`, such as `listener`.
    pub(super) fn sets(&self, path: &str) -> bool {
        places(&self.text).iter().any(|place| place.path == path)
    }

    /// An error about the setting at `path`, which points at the nearest thing that the document has.
    pub(super) fn error_at(&self, path: &str, reason: impl fmt::Display) -> ConfigError {
        let encloses = |place: &Place| {
            path.strip_prefix(&place.path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let nearest = places(&self.text).into_iter().filter(encloses).max_by_key(|place| place.path.len());
        self.error(nearest.map(|place| place.value), Some(path.to_owned()), reason)
    }

    fn error(
        &self,
        span: Option<Range<usize>>,
        key: Option<String>,
        reason: impl fmt::Display,
    ) -> ConfigError {
        let place = match (&self.origin, span) {
            (Origin::Variable(name), _) => name.clone(),
            (Origin::File(path), None) => path.display().to_string(),
            (Origin::File(path), Some(span)) => {
                let (line, column) = line_and_column(&self.text, span.start);
                format!("{}:{line}:{column}", path.display())
            }
        };
        ConfigError { place: Some(place), key, reason: reason.to_string() }
    }
}

/// The files of a folder that are settings, in the order of their names.
pub(super) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            files.push(entry?.path());
        }
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        Ok(files)
    };
    read().map_err(|error| ConfigError {
        place: Some(folder.display().to_string()),
        key: None,
        reason: error.to_string(),
    })
}

/// The document that sets one variable's setting. Its value is TOML where it is (a number, a boolean, an array, a
/// table), and otherwise the text itself, so that nobody has to write quotes within quotes.
fn document(path: &str, value: &str) -> String {
    match DeValue::parse(value) {
        Ok(parsed) if !matches!(parsed.get_ref(), DeValue::Datetime(_)) => format!("{path} = {value}"),
        _ => format!("{path} = {}", quoted(value)),
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// Lines and columns count from 1, columns in characters.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// A setting, a table or an element of an array, and where it stands.
struct Place {
    /// As in `listener[0].tls.cert`.
    path: String,
    name: Range<usize>,
    value: Range<usize>,
}

/// Everything in a document; nothing if it is not TOML.
fn places(text: &str) -> Vec<Place> {
    let mut found = Vec::new();
    if let Ok(table) = DeTable::parse(text) {
        places_in_table("", table.get_ref(), &mut found);
    }
    found
}

fn places_in_table(path: &str, table: &DeTable<'_>, found: &mut Vec<Place>) {
    for (name, value) in table {
        let separator = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{separator}{}", name.get_ref());
        found.push(Place { path: path.clone(), name: name.span(), value: value.span() });
        places_in_value(&path, value.get_ref(), found);
    }
}

fn places_in_value(path: &str, value: &DeValue<'_>, found: &mut Vec<Place>) {
    match value {
        DeValue::Table(table) => places_in_table(path, table, found),
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                let path = format!("{path}[{index}]");
                found.push(Place { path: path.clone(), name: element.span(), value: element.span() });
                places_in_value(&path, element.get_ref(), found);
            }
        }
        _ => {}
    }
}
