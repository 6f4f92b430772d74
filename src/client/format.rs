//! How `weirmq sub` prints a message: the payload, topic and payload, or a format in mosquitto_sub's language.

use std::time::SystemTime;

use super::json;
use super::timestamp::Timestamp;
use super::wire::Received;
use crate::protocol::properties::Property;

/// A form that messages are printed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pieces: Vec<Piece>,
    newline: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Time(char),
    Field(Field),
}

/// `%020x`: what of the message, and how wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    name: char,
    zero: bool,
    left: bool,
    /// At least this many characters.
    width: usize,
    /// At most this many, where the text is cut.
    precision: Option<usize>,
}

/// The names that may follow a percent sign.
const FIELDS: &str = "tpxXlqrmjJIUACDEFPRS";

impl Format {
    /// What is printed without `-F`.
    pub(super) fn plain(verbose: bool, newline: bool) -> Format {
        let field = |name| Piece::Field(Field { name, zero: false, left: false, width: 0, precision: None });
        let pieces = match verbose {
            true => vec![field('t'), Piece::Text(b" ".to_vec()), field('p')],
            false => vec![field('p')],
        };
        Format { pieces, newline }
    }

    /// Reads a format.
    ///
    /// # Errors
    /// A sequence that does not exist, in words.
    pub(super) fn parse(format: &str, newline: bool) -> Result<Format, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = format.chars();
        while let Some(letter) = rest.next() {
            let piece = match letter {
                '%' => parse_field(&mut rest)?,
                '@' => parse_time(&mut rest)?,
                '\\' => Piece::Text(vec![parse_escape(&mut rest)?]),
                _ => {
                    text.push(letter);
                    continue;
                }
            };
            pieces.push(Piece::Text(std::mem::take(&mut text).into_bytes()));
            pieces.push(piece);
        }
        pieces.push(Piece::Text(text.into_bytes()));
        Ok(Format { pieces, newline })
    }

    /// Appends `message`. Returns what is wrong with it, if `%J` stands for a payload that is not JSON: then
    /// that piece is left out.
    pub(super) fn print(&self, message: &Received, now: SystemTime, out: &mut Vec<u8>) -> Result<(), String> {
        let now = Timestamp::new(now);
        let mut outcome = Ok(());
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Time(conversion) => {
                    out.extend(now.strftime(*conversion).unwrap_or_default().into_bytes());
                }
                Piece::Field(field) => match value(field.name, message, &now) {
                    Ok(value) => field.pad(&value, out),
                    Err(error) => outcome = Err(error),
                },
            }
        }
        if self.newline {
            out.push(b'\n');
        }
        outcome
    }
}

fn parse_field(rest: &mut std::str::Chars<'_>) -> Result<Piece, String> {
    let mut field = Field { name: '%', zero: false, left: false, width: 0, precision: None };
    loop {
        let letter = rest.next().ok_or("a format ends within a %-sequence")?;
        match (letter, field.precision) {
            ('%', None) if field.width == 0 => return Ok(Piece::Text(b"%".to_vec())),
            ('-', None) if field.width == 0 => field.left = true,
            ('0', None) if field.width == 0 => field.zero = true,
            ('0'..='9', None) => field.width = one_more_digit(field.width, letter)?,
            ('.', None) => field.precision = Some(0),
            ('0'..='9', Some(precision)) => field.precision = Some(one_more_digit(precision, letter)?),
            (name, _) if FIELDS.contains(name) => return Ok(Piece::Field(Field { name, ..field })),
            (name, _) => return Err(format!("%{name} is no format sequence")),
        }
    }
}

fn one_more_digit(number: usize, digit: char) -> Result<usize, String> {
    let number = number * 10 + digit as usize - '0' as usize;
    if number > 10_000 { Err("a format's width is over 10000".to_owned()) } else { Ok(number) }
}

fn parse_time(rest: &mut std::str::Chars<'_>) -> Result<Piece, String> {
    match rest.next() {
        Some('@') => Ok(Piece::Text(b"@".to_vec())),
        Some(conversion) if Timestamp::new(SystemTime::UNIX_EPOCH).strftime(conversion).is_some() => {
            Ok(Piece::Time(conversion))
        }
        Some(conversion) => Err(format!("@{conversion} is no format sequence")),
        None => Err("a format ends with @".to_owned()),
    }
}

fn parse_escape(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match rest.next() {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some('a') => Ok(0x07),
        Some('e') => Ok(0x1B),
        Some('v') => Ok(0x0B),
        Some('\\') => Ok(b'\\'),
        Some(letter) => Err(format!("\\{letter} is no format sequence")),
        None => Err("a format ends with \\".to_owned()),
    }
}

impl Field {
    /// Appends `value` in this field's width. The payload is never cut: it need not be text.
    fn pad(&self, value: &[u8], out: &mut Vec<u8>) {
        let value = match self.precision {
            Some(precision) if matches!(self.name, 't' | 'C' | 'R' | 'I') => cut(value, precision),
            _ => value,
        };
        let len = std::str::from_utf8(value).map_or(value.len(), |text| text.chars().count());
        let missing = self.width.saturating_sub(len);
        let zero =
            self.zero && !self.left && matches!(self.name, 'A' | 'E' | 'F' | 'l' | 'm' | 'S' | 'x' | 'X');
        let padding = std::iter::repeat_n(if zero { b'0' } else { b' ' }, missing);
        if self.left {
            out.extend_from_slice(value);
            out.extend(padding);
        } else {
            out.extend(padding);
            out.extend_from_slice(value);
        }
    }
}

/// The first `precision` characters.
fn cut(value: &[u8], precision: usize) -> &[u8] {
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.char_indices().nth(precision).map_or(value, |(end, _)| &value[..end])
}

fn value(name: char, message: &Received, now: &Timestamp) -> Result<Vec<u8>, String> {
    let text = match name {
        't' => message.topic.clone(),
        'p' => return Ok(message.payload.to_vec()),
        'x' => hex(&message.payload),
        'X' => hex(&message.payload).to_uppercase(),
        'l' => message.payload.len().to_string(),
        'q' => (message.qos as u8).to_string(),
        'r' => u8::from(message.retain).to_string(),
        'm' => message.packet_id.map_or(0, u16::from).to_string(),
        'j' => json::message(message, now, false)?,
        'J' => json::message(message, now, true)?,
        'I' => now.iso(),
        'U' => format!("{}.{:09}", now.seconds, now.nanoseconds),
        _ => return Ok(property(name, message)),
    };
    Ok(text.into_bytes())
}

/// All properties of that name, as there may be several user properties and subscription identifiers.
fn property(name: char, message: &Received) -> Vec<u8> {
    let values = message.properties().iter().filter_map(|property| match (name, property) {
        ('A', Property::TopicAlias(alias)) => Some(alias.to_string().into_bytes()),
        ('C', Property::ContentType(text)) => Some(text.as_bytes().to_vec()),
        ('D', Property::CorrelationData(data)) => Some(data.to_vec()),
        ('E', Property::MessageExpiryInterval(seconds)) => Some(seconds.to_string().into_bytes()),
        ('F', Property::PayloadFormatIndicator(format)) => Some(format.to_string().into_bytes()),
        ('P', Property::UserProperty(key, value)) => Some(format!("{key}:{value}").into_bytes()),
        ('R', Property::ResponseTopic(topic)) => Some(topic.as_bytes().to_vec()),
        ('S', Property::SubscriptionIdentifier(id)) => Some(id.to_string().into_bytes()),
        _ => None,
    });
    values.collect::<Vec<_>>().join(&b' ')
}

/// Two lower-case digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS[usize::from(nibble)];
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte & 0x0F)]).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::packet::{PacketId, QoS};
    use crate::protocol::properties::PropertiesBuf;

    fn message(payload: &[u8]) -> Received {
        let mut properties = PropertiesBuf::new();
        for property in [
            Property::ContentType("text/x"),
            Property::UserProperty("k", "v"),
            Property::UserProperty("k2", "v2"),
            Property::CorrelationData(b"abc"),
            Property::ResponseTopic("r/t"),
            Property::MessageExpiryInterval(60),
            Property::PayloadFormatIndicator(1),
            Property::SubscriptionIdentifier(7),
        ] {
            properties.push(property);
        }
        Received {
            topic: "a/b".to_owned(),
            payload: payload.to_vec().into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            packet_id: PacketId::new(5),
            properties: properties.as_properties().raw().to_vec(),
        }
    }

    fn print(format: &str, payload: &[u8]) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::new(1_795_235_419, 79_503_001);
        let mut out = Vec::new();
        Format::parse(format, false).unwrap().print(&message(payload), now, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_sequence_prints_what_mosquitto_sub_prints() {
        for (format, printed) in [
            ("%t %p %q %r %m %l", "a/b {\"a\":1} 1 1 5 7"),
            ("%x|%X", "7b2261223a317d|7B2261223A317D"),
            ("%10t|%-10t|%.2t|%5.1t", "       a/b|a/b       |a/|    a"),
            ("%010l|%5m|%03m|%-05m|", "0000000007|    5|005|5    |"),
            ("%20x|%016x", "      7b2261223a317d|007b2261223a317d"),
            ("%C %D %E %F %P %R %S %A", "text/x abc 60 1 k:v k2:v2 r/t 7 "),
            ("%I %U", "2026-11-21T04:30:19+0000 1795235419.079503001"),
            ("@Y-@m-@d @@ @H:@M:@S.@N", "2026-11-21 @ 04:30:19.079503001"),
            ("100%% \\\\ \\t\\n\\0\\a\\e\\v\\r.", "100% \\ \t\n\0\u{7}\u{1b}\u{b}\r."),
            ("", ""),
        ] {
            assert_eq!(print(format, b"{\"a\":1}"), printed, "{format}");
        }
    }

    #[test]
    fn unknown_and_unfinished_sequences_are_refused() {
        for format in ["%Q", "%", "%5", "%.", "@Q", "@", "\\q", "\\", "%99999t", "%5%"] {
            assert!(Format::parse(format, false).is_err(), "{format}");
        }
    }

    #[test]
    fn plain_forms_are_the_payload_and_the_topic_before_it() {
        let mut out = Vec::new();
        for (verbose, newline) in [(false, true), (true, true), (true, false)] {
            Format::plain(verbose, newline)
                .print(&message(b"\xFFx"), SystemTime::UNIX_EPOCH, &mut out)
                .unwrap();
        }
        assert_eq!(out, b"\xFFx\na/b \xFFx\na/b \xFFx");
    }

    #[test]
    fn a_payload_that_is_not_json_is_left_out_of_a_json_format_and_said() {
        let mut out = Vec::new();
        let format = Format::parse("<%J>", true).unwrap();
        let error = format.print(&message(b"{x"), SystemTime::UNIX_EPOCH, &mut out).unwrap_err();
        assert!(error.contains("a/b"), "{error}");
        assert_eq!(out, b"<>\n");
    }
}
