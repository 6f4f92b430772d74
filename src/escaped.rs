//! Text from a client, made safe for a log line or a terminal: what could move the cursor, forge a line or reverse the
//! reading direction is shown as an escape.

use std::fmt;

/// Displays a string with its control characters escaped, as `\n` or `\u{1b}`, and its backslashes doubled, so that
/// no two strings look alike.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(self.0, needs_escape, f)
    }
}

/// The same as one word: its blanks are escaped as well, so that in a line of the log no name passes for the fields that
/// follow it, an address for instance.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a>(pub &'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(self.0, |c| c.is_whitespace() || needs_escape(c), f)
    }
}

fn escape(text: &str, needs: impl Fn(char) -> bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut plain = 0;
    for (at, unsafe_one) in text.char_indices().filter(|&(_, c)| needs(c)) {
        f.write_str(&text[plain..at])?;
        match unsafe_one {
            ' ' => write!(f, "{}", unsafe_one.escape_unicode())?,
            _ => write!(f, "{}", unsafe_one.escape_default())?,
        }
        plain = at + unsafe_one.len_utf8();
    }
    f.write_str(&text[plain..])
}

/// Control characters (C0, DEL, C1), line and paragraph separators, zero-width and bidirectional formatting, and the
/// escape character itself.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\\' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_forge_a_line_or_drive_a_terminal_is_escaped() {
        let table = [
            ("sensors/küche/温度", "sensors/küche/温度"),
            ("", ""),
            ("a\nINFO forged", "a\\nINFO forged"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{9b}31m\u{7f}\0", "\\u{9b}31m\\u{7f}\\u{0}"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("a\u{2028}b\u{feff}", "a\\u{2028}b\\u{feff}"),
            ("\\n", "\\\\n"),
        ];
        for (text, shown) in table {
            assert_eq!(Escaped(text).to_string(), shown, "{text:?}");
        }
    }

    #[test]
    fn a_name_in_a_line_of_the_log_is_one_word() {
        let table = [
            ("küche", "küche"),
            ("x address=10.0.0.1", "x\\u{20}address=10.0.0.1"),
            ("a\u{a0}b\u{2003}c", "a\\u{a0}b\\u{2003}c"),
            (" \t\n\\", "\\u{20}\\t\\n\\\\"),
        ];
        for (text, shown) in table {
            assert_eq!(Word(text).to_string(), shown, "{text:?}");
        }
    }
}
