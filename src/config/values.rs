//! What a single setting may hold: numbers within bounds, sizes and durations with their units, words from a list. Each
//! type is valid by construction and says what it expected when it is not given it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use tracing::level_filters::LevelFilter;

use super::network::Network;
use super::{IdentityFrom, JwtAlgorithm, LogFormat, SyncMode, TlsVersion};
use crate::limits::{MemoryBudget, Overflow, Strategy};
use crate::protocol::topic;

/// Any value as it stands in a document, before a setting makes sense of it.
#[derive(Debug)]
pub(super) enum Scalar {
    Integer(i128),
    Text(String),
    Other(&'static str),
}

impl Scalar {
    /// The error of a setting that expects something else.
    fn instead_of(&self, expected: impl fmt::Display) -> String {
        match self {
            Scalar::Integer(number) => format!("expected {expected}, found {number}"),
            Scalar::Text(text) => format!("expected {expected}, found {text:?}"),
            Scalar::Other(kind) => format!("expected {expected}, found {kind}"),
        }
    }

    /// A plain integer.
    fn integer(&self) -> Option<u64> {
        match self {
            Scalar::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Text that is a number and one of `units`, multiplied out.
    fn quantity(&self, units: &[(&str, u64)]) -> Option<u64> {
        let Scalar::Text(text) = self else { return None };
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let number: u64 = text[..text.len() - unit.len()].parse().ok()?;
        let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
        number.checked_mul(*factor)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number.into()))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other("a boolean"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other("a number with a fraction"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        Ok(Scalar::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        Ok(Scalar::Other("a table or a date"))
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
#[serde(bound = "T: TryFrom<u64>")]
pub(super) struct Number<T, const MIN: u64, const MAX: u64>(pub(super) T);

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> TryFrom<Scalar> for Number<T, MIN, MAX> {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        let number = value.integer().and_then(|number| within(number, MIN..=MAX));
        number.map(Number).ok_or_else(|| value.instead_of(format_args!("a whole number from {MIN} to {MAX}")))
    }
}

const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Bytes from `MIN` to `MAX`: `"64KiB"`, or a plain integer.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
#[serde(bound = "T: TryFrom<u64>")]
pub(super) struct Size<T, const MIN: u64, const MAX: u64>(pub(super) T);

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> TryFrom<Scalar> for Size<T, MIN, MAX> {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        let bytes = value.integer().or_else(|| value.quantity(&SIZES));
        bytes.and_then(|bytes| within(bytes, MIN..=MAX)).map(Size).ok_or_else(|| {
            let (least, most) = (with_unit(MIN, &SIZES), with_unit(MAX, &SIZES));
            value.instead_of(format_args!("a size from {least} to {most}, in B, KiB, MiB, GiB or TiB"))
        })
    }
}

const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A time from `MIN` to `MAX` milliseconds, always with its unit: `"10s"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct Time<const MIN: u64, const MAX: u64>(pub(super) Duration);

impl<const MIN: u64, const MAX: u64> Time<MIN, MAX> {
    fn parse(value: &Scalar) -> Option<Self> {
        within(value.quantity(&TIMES)?, MIN..=MAX).map(Duration::from_millis).map(Time)
    }

    fn expected() -> String {
        let (least, most) = (with_unit(MIN, &TIMES), with_unit(MAX, &TIMES));
        format!("a time from {least} to {most}, in ms, s, m, h or d")
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<Scalar> for Time<MIN, MAX> {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        Self::parse(&value).ok_or_else(|| value.instead_of(Self::expected()))
    }
}

/// A [`Time`], or `"never"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct TimeOrNever<const MIN: u64, const MAX: u64>(pub(super) Option<Duration>);

impl<const MIN: u64, const MAX: u64> TryFrom<Scalar> for TimeOrNever<MIN, MAX> {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        if matches!(&value, Scalar::Text(text) if text == "never") {
            return Ok(TimeOrNever(None));
        }
        let time = Time::<MIN, MAX>::parse(&value);
        time.map(|time| TimeOrNever(Some(time.0)))
            .ok_or_else(|| value.instead_of(format_args!("\"never\" or {}", Time::<MIN, MAX>::expected())))
    }
}

/// What the process may use: a [`Size`], `"auto"` or `"off"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct Budget(pub(super) MemoryBudget);

impl TryFrom<Scalar> for Budget {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        match &value {
            Scalar::Text(text) if text == "auto" => Ok(Budget(MemoryBudget::Auto)),
            Scalar::Text(text) if text == "off" => Ok(Budget(MemoryBudget::Off)),
            _ => Size::<u64, { 32 << 20 }, { 1 << 50 }>::try_from(value)
                .map(|size| Budget(MemoryBudget::Bytes(size.0)))
                .map_err(|expected| expected.replacen("expected ", "expected \"auto\", \"off\" or ", 1)),
        }
    }
}

/// A keep alive: whole seconds, as many as the protocol's two bytes hold.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct KeepAlive(pub(super) u16);

impl TryFrom<Scalar> for KeepAlive {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        Time::<0, 65_535_000>::parse(&value)
            .filter(|time| time.0.subsec_nanos() == 0)
            .and_then(|time| u16::try_from(time.0.as_secs()).ok())
            .map(KeepAlive)
            .ok_or_else(|| value.instead_of("whole seconds from 0s to 65535s, in s, m or h"))
    }
}

/// A type whose values have names.
pub(super) trait Named: Copy + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

impl Named for Strategy {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("round_robin", Strategy::RoundRobin),
        ("random", Strategy::Random),
        ("sticky", Strategy::Sticky),
        ("hash_clientid", Strategy::HashClientid),
        ("hash_topic", Strategy::HashTopic),
        ("least_inflight", Strategy::LeastInflight),
    ];
}

impl Named for Overflow {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("reject", Overflow::Reject),
        ("drop-oldest", Overflow::DropOldest),
        ("drop-newest", Overflow::DropNewest),
    ];
}

impl Named for LevelFilter {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("off", LevelFilter::OFF),
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
}

impl Named for SyncMode {
    const NAMES: &'static [(&'static str, Self)] =
        &[("always", SyncMode::Always), ("os", SyncMode::Os), ("off", SyncMode::Off)];
}

impl Named for IdentityFrom {
    const NAMES: &'static [(&'static str, Self)] = &[("cn", IdentityFrom::Cn), ("san", IdentityFrom::San)];
}

impl Named for JwtAlgorithm {
    const NAMES: &'static [(&'static str, Self)] =
        &[("HS256", JwtAlgorithm::Hs256), ("RS256", JwtAlgorithm::Rs256), ("ES256", JwtAlgorithm::Es256)];
}

impl Named for LogFormat {
    const NAMES: &'static [(&'static str, Self)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json), ("journald", LogFormat::Journald)];
}

/// What carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// The stream itself.
    Stream,
    WebSocket,
}

impl Named for Carrier {
    const NAMES: &'static [(&'static str, Self)] =
        &[("mqtt", Carrier::Stream), ("websocket", Carrier::WebSocket)];
}

impl Named for TlsVersion {
    const NAMES: &'static [(&'static str, Self)] = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
}

/// A value given by its name.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
#[serde(bound = "T: Named")]
pub(super) struct Name<T>(pub(super) T);

impl<T: Named> TryFrom<Scalar> for Name<T> {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        let named = T::NAMES.iter().find(|(name, _)| matches!(&value, Scalar::Text(text) if text == name));
        named.map(|&(_, value)| Name(value)).ok_or_else(|| {
            let names: Vec<_> = T::NAMES.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            value.instead_of(names.join(" or "))
        })
    }
}

/// An IP address and a port, or the path of a Unix socket.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The longest path that the system takes for a socket, in bytes.
const SOCKET_PATH: usize = 107;

impl TryFrom<Scalar> for Address {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        let parsed = match &value {
            Scalar::Text(text) => match text.strip_prefix("unix:") {
                Some(path) if path.is_empty() || path.len() > SOCKET_PATH || path.contains('\0') => None,
                Some(path) => Some(Address::Unix(path.into())),
                None => text.parse().ok().map(Address::Tcp),
            },
            _ => None,
        };
        parsed.ok_or_else(|| {
            value.instead_of(
                "an IP address and a port, such as \"127.0.0.1:1883\" or \"[::1]:1883\", \
                 or the path of a socket, such as \"unix:/run/weirmq/mqtt.sock\", of at most 107 bytes",
            )
        })
    }
}

/// Where the balancers are that are believed.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct Proxies(pub(super) Network);

impl TryFrom<Scalar> for Proxies {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        let parsed = match &value {
            Scalar::Text(text) => text.parse().ok(),
            _ => None,
        };
        parsed
            .map(Proxies)
            .ok_or_else(|| value.instead_of("an IP address or a network, such as \"10.0.0.0/8\" or \"::1\""))
    }
}

/// The origin of a page, as a browser writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct Origin(pub(super) String);

impl TryFrom<Scalar> for Origin {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        let is_origin = |text: &&String| {
            let rest = text.split_once("://").map(|(scheme, rest)| (scheme.is_empty(), rest));
            // Nothing behind the port, and no port that a browser would leave out.
            let no_part_of_it = |c: char| c == '/' || c == '?' || c == '#' || c == '@' || c.is_whitespace();
            let default_port = [("http://", ":80"), ("https://", ":443")];
            rest.is_some_and(|(no_scheme, rest)| {
                !no_scheme && !rest.is_empty() && !rest.contains(no_part_of_it)
            }) && !default_port.iter().any(|(scheme, port)| text.starts_with(scheme) && text.ends_with(port))
        };
        match &value {
            Scalar::Text(text) => Some(text).filter(is_origin).cloned().map(Origin),
            _ => None,
        }
        .ok_or_else(|| {
            value.instead_of(
                "an origin: scheme, host, and the port unless it is the usual one, such as \"https://app.example\"",
            )
        })
    }
}

/// The permissions of a file, as chmod writes them.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct FileMode(pub(super) u32);

impl TryFrom<Scalar> for FileMode {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        let parsed = match &value {
            Scalar::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777)
            }
            _ => None,
        };
        parsed.map(FileMode).ok_or_else(|| {
            value.instead_of("permissions in octal, from \"000\" to \"777\", such as \"0660\"")
        })
    }
}

/// The topic filter of a queue rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct Filter(pub(super) String);

impl TryFrom<Scalar> for Filter {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        match value {
            Scalar::Text(text) if text.starts_with("$share/") => {
                Err("expected a topic filter without its $share/GROUP/ in front".to_owned())
            }
            Scalar::Text(text) if topic::is_valid_filter(&text) => Ok(Filter(text)),
            other => Err(other.instead_of("a topic filter, such as \"orders/#\"")),
        }
    }
}

/// Whom a rate holds for: a name, the beginning of names before a `*`, or `*`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct Pattern(pub(super) String);

impl TryFrom<Scalar> for Pattern {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        match value {
            Scalar::Text(text) if !text.is_empty() => Ok(Pattern(text)),
            other => Err(other.instead_of("a name, the beginning of names such as \"meter-*\", or \"*\"")),
        }
    }
}

/// The name of a share group, or `*`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct Group(pub(super) String);

impl TryFrom<Scalar> for Group {
    type Error = String;

    fn try_from(value: Scalar) -> Result<Self, String> {
        match value {
            Scalar::Text(text) if text == "*" => Ok(Group(text)),
            // [MQTT-4.8.2-1] and [MQTT-4.8.2-2]: at least one character, none of them a separator or a wildcard.
            Scalar::Text(text) if !text.is_empty() && !text.contains(['/', '+', '#']) => Ok(Group(text)),
            other => Err(other.instead_of("\"*\" or the name of a share group, without /, + and #")),
        }
    }
}

fn within<T: TryFrom<u64>>(number: u64, bounds: std::ops::RangeInclusive<u64>) -> Option<T> {
    bounds.contains(&number).then(|| T::try_from(number).ok()).flatten()
}

/// A number in the largest unit that shows it whole.
fn with_unit(number: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    whole.or(units.last()).map_or_else(String::new, |(unit, factor)| format!("{}{unit}", number / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.to_owned())
    }

    #[test]
    fn sizes_have_binary_units_or_are_bytes() {
        type AnySize = Size<u64, 0, { u64::MAX }>;
        for (written, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("1 MiB", 1 << 20),
            ("4GiB", 1 << 32),
            ("16TiB", 1 << 44),
        ] {
            assert_eq!(AnySize::try_from(text(written)).map(|size| size.0), Ok(bytes), "{written}");
        }
        assert_eq!(AnySize::try_from(Scalar::Integer(10)).map(|size| size.0), Ok(10));
        for written in [
            "",
            "10",
            "KiB",
            "64kb",
            "64K",
            "1.5MiB",
            "-1",
            "+1",
            "1MiB ",
            "16777216TiB",
            "99999999999999999999",
        ] {
            assert!(AnySize::try_from(text(written)).is_err(), "{written}");
        }
        assert!(AnySize::try_from(Scalar::Integer(-1)).is_err());
    }

    #[test]
    fn times_always_have_a_unit() {
        type AnyTime = Time<0, { u64::MAX }>;
        for (written, milliseconds) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("30d", 2_592_000_000),
            ("0s", 0),
        ] {
            let time = AnyTime::try_from(text(written)).map(|time| time.0);
            assert_eq!(time, Ok(Duration::from_millis(milliseconds)), "{written}");
        }
        for written in ["10", "", "s", "10 sec", "1.5s", "-1s", "1h30m", "999999999999999999d"] {
            assert!(AnyTime::try_from(text(written)).is_err(), "{written}");
        }
        assert!(AnyTime::try_from(Scalar::Integer(10)).is_err());
    }

    #[test]
    fn the_bounds_belong_to_the_range_and_are_named_outside_it() {
        type Few = Number<u16, 1, 64>;
        assert_eq!(Few::try_from(Scalar::Integer(1)).map(|number| number.0), Ok(1));
        assert_eq!(Few::try_from(Scalar::Integer(64)).map(|number| number.0), Ok(64));
        assert!(Few::try_from(text("64")).is_err());
        let error = Few::try_from(Scalar::Integer(65)).map(|number| number.0);
        assert_eq!(error, Err("expected a whole number from 1 to 64, found 65".to_owned()));
        let error = Size::<u32, 128, 65_536>::try_from(text("1MiB")).map(|size| size.0);
        assert_eq!(
            error,
            Err("expected a size from 128B to 64KiB, in B, KiB, MiB, GiB or TiB, found \"1MiB\"".to_owned())
        );
        let error = TimeOrNever::<0, 3_600_000>::try_from(text("soon")).map(|time| time.0);
        assert_eq!(
            error,
            Err("expected \"never\" or a time from 0ms to 1h, in ms, s, m, h or d, found \"soon\"".to_owned())
        );
    }

    #[test]
    fn a_value_wider_than_its_type_is_refused_and_not_cut() {
        assert!(Number::<u16, 0, { u64::MAX }>::try_from(Scalar::Integer(65_536)).is_err());
    }
}
