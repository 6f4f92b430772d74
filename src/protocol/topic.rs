//! Topic names, topic filters and `$share/GROUP/FILTER`: what is well formed, and what matches what.

use super::reason::{ProtocolError, ReasonCode};

/// How every shared subscription's filter begins [MQTT-4.8.2-1].
const SHARE_PREFIX: &str = "$share/";

/// A Topic Filter as SUBSCRIBE names it, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SplitFilter<'a> {
    /// The ShareName, if the subscription is shared.
    pub share: Option<&'a str>,
    /// The filter that topics are matched against.
    pub filter: &'a str,
}

/// Whether `topic` may stand in a PUBLISH: 1 to 65,535 bytes [MQTT-4.7.3-1] [MQTT-4.7.3-3], without wildcards
/// [MQTT-3.3.2-2] and NUL [MQTT-4.7.3-2].
pub fn is_valid_name(topic: &str) -> bool {
    has_valid_length(topic)
        && !topic.bytes().fold(false, |found, byte| found | matches!(byte, b'+' | b'#' | 0))
}

/// Whether `filter` is a well-formed Topic Filter, `$share` apart.
pub fn is_valid_filter(filter: &str) -> bool {
    if !has_valid_length(filter) || filter.bytes().any(|byte| byte == 0) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let well_formed = match level {
            "#" => levels.peek().is_none(), // [MQTT-4.7.1-1]
            "+" => true,                    // [MQTT-4.7.1-2]
            _ => !level.bytes().any(|byte| matches!(byte, b'+' | b'#')),
        };
        if !well_formed {
            return false;
        }
    }
    true
}

/// Takes a Topic Filter apart and judges its syntax.
///
/// # Errors
/// 0x8F, Topic Filter invalid.
pub fn parse_filter(filter: &str) -> Result<SplitFilter<'_>, ProtocolError> {
    let invalid = |detail: &'static str| ProtocolError::new(ReasonCode::TopicFilterInvalid, detail);
    let Some(shared) = filter.strip_prefix(SHARE_PREFIX) else {
        return if is_valid_filter(filter) {
            Ok(SplitFilter { share: None, filter })
        } else {
            Err(invalid("a topic filter is not well formed"))
        };
    };
    // [MQTT-4.8.2-2]: the ShareName is followed by a slash and a filter.
    let (share, filter) = shared.split_once('/').ok_or_else(|| invalid("$share without a topic filter"))?;
    if share.is_empty() || share.bytes().any(|byte| matches!(byte, b'+' | b'#' | 0)) {
        return Err(invalid("a share name is empty or holds a wildcard")); // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    }
    if !is_valid_filter(filter) {
        return Err(invalid("a shared topic filter is not well formed"));
    }
    Ok(SplitFilter { share: Some(share), filter })
}

/// Whether a well-formed `filter` matches the topic name `topic`: the standard's rules at their plainest, the
/// reference that faster matchers are held against.
pub fn matches(filter: &str, topic: &str) -> bool {
    // Leading wildcards do not match topics that begin with `$` [MQTT-4.7.2-1].
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        match (level, topic_levels.next()) {
            ("#", _) => return true, // the parent level as well [MQTT-4.7.1-1]
            ("+", Some(_)) => {}
            (_, Some(name)) if name == level => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

/// Whether `wide` matches every topic that `narrow` matches. Both are valid topic filters.
pub fn covers(wide: &str, narrow: &str) -> bool {
    // A leading wildcard does not reach the topics that begin with `$` [MQTT-4.7.2-1].
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let mut narrow = narrow.split('/');
    for level in wide.split('/') {
        let covered = match (level, narrow.next()) {
            ("#", _) => return true,
            (_, None) => false,
            ("+", Some(other)) => other != "#",
            (literal, Some(other)) => literal == other,
        };
        if !covered {
            return false;
        }
    }
    narrow.next().is_none()
}

/// How many levels a topic name or filter has; empty levels count.
pub fn levels(topic: impl AsRef<[u8]>) -> usize {
    topic.as_ref().iter().filter(|&&byte| byte == b'/').count() + 1
}

fn has_valid_length(text: &str) -> bool {
    (1..=usize::from(u16::MAX)).contains(&text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "/", "//", " ", "a/b", "$SYS/x", "é/\u{1F600}", "\u{FEFF}", &"x".repeat(65_535)] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", "+", "#", "a+b", "a/#", "a\0b", &"x".repeat(65_536)] {
            assert!(!is_valid_name(name), "{name}");
        }
    }

    #[test]
    fn filters() {
        for filter in ["a", "#", "+", "/", "+/+", "/#", "a/#", "+/a/#", "a/+/b", "$SYS/#", "a b/é"] {
            assert!(is_valid_filter(filter), "{filter}");
            assert_eq!(parse_filter(filter), Ok(SplitFilter { share: None, filter }));
        }
        for filter in
            ["", "##", "#/", "a#", "#a", "a/#/b", "a+", "+a/b", "a/++", "+#", "a\0", &"x".repeat(65_536)]
        {
            assert!(!is_valid_filter(filter), "{filter}");
            let error = parse_filter(filter).expect_err("not well formed");
            assert_eq!(error.reason, ReasonCode::TopicFilterInvalid);
        }
    }

    #[test]
    fn mqtt_4_8_2_2_share_names() {
        for (whole, share, filter) in [
            ("$share/g/a", "g", "a"),
            ("$share/g/a/+/#", "g", "a/+/#"),
            ("$share/g//", "g", "/"),
            ("$share/é /$SYS/#", "é ", "$SYS/#"),
        ] {
            assert_eq!(parse_filter(whole), Ok(SplitFilter { share: Some(share), filter }));
        }
        for whole in
            ["$share/", "$share/g", "$share//a", "$share/g/", "$share/+/a", "$share/#/a", "$share/a+/b"]
        {
            assert!(parse_filter(whole).is_err(), "{whole}");
        }
        // Without the slash they are filters like others.
        for whole in ["$share", "$shares/g", "share/g/a"] {
            assert_eq!(parse_filter(whole), Ok(SplitFilter { share: None, filter: whole }));
        }
    }

    #[test]
    fn mqtt_4_7_1_1_multi_level_wildcard() {
        for topic in
            ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"]
        {
            assert!(matches("sport/tennis/player1/#", topic), "{topic}");
            assert!(matches("#", topic), "{topic}");
        }
        assert!(matches("sport/#", "sport"), "the parent level");
        assert!(matches("sport/#", "sport/"));
        assert!(!matches("sport/#", "sports"));
        assert!(matches("#", "/"));
        assert!(matches("/#", "/"));
        assert!(!matches("/#", "a"));
    }

    #[test]
    fn mqtt_4_7_1_2_single_level_wildcard() {
        assert!(matches("sport/tennis/+", "sport/tennis/player1"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport"));
        assert!(matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance"));
        assert!(matches("/+", "/finance"));
        assert!(!matches("+", "/finance"));
        assert!(matches("+/tennis/#", "sport/tennis"));
        assert!(matches("+/é", "x/é"));
    }

    #[test]
    fn mqtt_4_7_2_1_dollar_topics() {
        assert!(!matches("#", "$SYS/a"));
        assert!(!matches("+/a", "$SYS/a"));
        assert!(!matches("+/monitor/Clients", "$SYS/monitor/Clients"));
        assert!(matches("$SYS/#", "$SYS/a"));
        assert!(matches("$SYS/+", "$SYS/a"));
        assert!(matches("$SYS/monitor/+", "$SYS/monitor/Clients"));
        assert!(matches("a/+", "a/$b"));
        assert!(matches("a/#", "a/$b"));
    }

    #[test]
    fn mqtt_4_7_3_4_no_normalization() {
        assert!(!matches("ACCOUNTS", "Accounts"));
        assert!(!matches("\u{E9}", "e\u{301}"));
        assert!(matches("a /b", "a /b"));
        assert!(!matches("/finance", "finance"));
        assert!(!matches("a//b", "a/b"));
        assert!(!matches("a", "a/"));
    }

    #[test]
    fn counting_levels() {
        for (topic, count) in [("a", 1), ("", 1), ("/", 2), ("a/b", 2), ("//a", 3), ("a/b/#", 3)] {
            assert_eq!(levels(topic), count, "{topic}");
        }
    }

    #[test]
    fn a_filter_covers_another_if_it_matches_all_that_the_other_does() {
        for (wide, narrow) in [
            ("#", "a/b"),
            ("#", "a/#"),
            ("a/#", "a"),
            ("a/#", "a/+/c"),
            ("+/b", "a/b"),
            ("+/b", "+/b"),
            ("$x/#", "$x/y"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("a/+", "a/#"),
            ("a/b", "a/+"),
            ("a", "a/#"),
            ("+", "a/b"),
            ("#", "$x/y"),
            ("+/y", "$x/y"),
            ("a/b", "a"),
        ] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }
}
