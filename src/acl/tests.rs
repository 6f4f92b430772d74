//! The ACL against the letter of its format, and against lists that are gone through.

use proptest::prelude::*;

use super::*;
use crate::protocol::topic::matches;

fn acl(text: &str) -> Acl {
    Acl::from_bytes(text.as_bytes()).unwrap_or_else(|(line, reason)| panic!("{line}: {reason}"))
}

fn wrong(text: &str) -> (usize, String) {
    Acl::from_bytes(text.as_bytes()).expect_err(text)
}

fn user(name: &str) -> Principal {
    Principal::of_user(name)
}

/// What somebody may do with a topic.
fn may(acl: &Acl, principal: &Principal, client_id: &str, topic: &str) -> (bool, bool) {
    let who = Who { principal, client_id };
    (acl.may_read(who, topic), acl.may_write(who, topic))
}

const NOTHING: (bool, bool) = (false, false);
const ALL: (bool, bool) = (true, true);

#[test]
fn an_empty_file_and_one_of_comments_grant_nothing() {
    for text in ["", "\n\n", "# topic readwrite #\n", "#\n  \n#", "user bob\n"] {
        let acl = acl(text);
        assert_eq!(may(&acl, &Principal::ANONYMOUS, "c", "a"), NOTHING, "{text:?}");
        assert_eq!(may(&acl, &user("bob"), "c", "a"), NOTHING, "{text:?}");
        let who = Who { principal: &user("bob"), client_id: "c" };
        assert!(!acl.reads_some(who, "#") && !acl.reads_all(who, "a") && acl.may_connect(who));
    }
}

#[test]
fn lines_are_taken_as_mosquitto_takes_them() {
    let acl = acl(concat!(
        "  topic   read   in two words \r\n",
        "topic deny\n",
        "user  ann  of the hills\t\n",
        "topic write\n",
        "topic x/#\n",
        "user bob\ntopic a\nuser cy\ntopic b\nuser bob\ntopic c"
    ));
    let nobody = Principal::ANONYMOUS;
    assert_eq!(may(&acl, &nobody, "c", "in two words"), (true, false));
    assert_eq!(may(&acl, &nobody, "c", "deny"), ALL, "without an access it is a filter");
    assert_eq!(may(&acl, &user("ann  of the hills"), "c", "write"), ALL);
    assert_eq!(may(&acl, &user("ann  of the hills"), "c", "x"), ALL);
    assert_eq!(may(&acl, &user("ann"), "c", "x"), NOTHING);
    assert_eq!(may(&acl, &user("bob"), "c", "a"), ALL);
    assert_eq!(may(&acl, &user("bob"), "c", "c"), ALL, "a second section of a user goes on with the first");
    assert_eq!(may(&acl, &user("bob"), "c", "b"), NOTHING);
}

#[test]
fn what_is_not_understood_is_an_error_with_its_line() {
    for (line, text) in [
        (2, "topic a\ntopi"),
        (1, "user"),
        (1, "user   \ntopic a"),
        (1, "topic"),
        (3, "user a\n\ntopic"),
        (1, "topic reed a"),
        (1, "topic a b"),
        (1, "topic read a#"),
        (2, "# fine\ntopic read +a/b"),
        (1, "topic\tread a"),
        (1, " # no comment"),
        (1, "pattern read x-%u/y"),
        (1, "pattern %c%u"),
        (1, "pattern"),
        (1, "topic a\0b"),
        (1, "TOPIC a"),
        (1, "\u{FEFF}topic a"),
    ] {
        assert_eq!(wrong(text).0, line, "{text:?}: {}", wrong(text).1);
    }
    assert_eq!(Acl::from_bytes(b"topic a\ntopic \xff\n").expect_err("not UTF-8").0, 2);
}

#[test]
fn a_file_that_is_not_there_is_an_error_without_a_line() {
    let error = Acl::load(Path::new("no/such/file")).expect_err("it is not there");
    assert_eq!(error.line, None);
    assert!(error.to_string().starts_with("no/such/file: "), "{error}");
}

#[test]
fn what_is_denied_comes_first_but_not_before_a_users_own_list() {
    let acl = acl("user bob\ntopic read #\ntopic deny secret/#\n\
         pattern deny home/%u/no\npattern home/%u/#\nuser ann\ntopic home/ann/no\n");
    let bob = user("bob");
    assert_eq!(may(&acl, &bob, "c", "secret"), NOTHING);
    assert_eq!(may(&acl, &bob, "c", "secret/a"), NOTHING);
    assert_eq!(may(&acl, &bob, "c", "a"), (true, false));
    assert_eq!(may(&acl, &bob, "c", "home/bob/a"), ALL);
    assert_eq!(
        may(&acl, &bob, "c", "home/bob/no"),
        (true, false),
        "his own list grants it, the pattern nothing"
    );
    assert_eq!(may(&acl, &user("ann"), "c", "home/ann/no"), ALL);
    assert_eq!(may(&acl, &user("cy"), "c", "home/cy/no"), NOTHING);
}

#[test]
fn lines_before_the_first_user_are_for_nobody_else() {
    let acl = acl("topic public/#\nuser bob\ntopic own\n");
    assert_eq!(may(&acl, &Principal::ANONYMOUS, "c", "public/a"), ALL);
    assert_eq!(may(&acl, &user("bob"), "c", "public/a"), NOTHING);
    assert_eq!(may(&acl, &user(""), "c", "public/a"), NOTHING, "an empty name is a name");
}

#[test]
fn names_stand_for_one_level_and_nothing_else() {
    let acl = acl("pattern %u/%c/+\npattern write c/%c\n");
    assert_eq!(may(&acl, &user("u"), "i", "u/i/x"), ALL);
    assert_eq!(may(&acl, &user("u"), "i", "u/j/x"), NOTHING);
    assert_eq!(may(&acl, &Principal::ANONYMOUS, "i", "c/i"), (false, true));
    assert_eq!(may(&acl, &Principal::ANONYMOUS, "i", "/i/x"), NOTHING, "no user, no such pattern");
    for name in ["+", "#", "a/b", "a+", "#b", "/"] {
        for topic in ["a/i/x", "+/i/x", "#", "a/b/i/x", "a+/i/x"] {
            assert_eq!(may(&acl, &user(name), "i", topic), NOTHING, "{name} {topic}");
        }
        for topic in ["c/a", "c/+", "c/#", "c/a/b", "c", "c//"] {
            assert_eq!(may(&acl, &user("u"), name, topic), NOTHING, "{name} {topic}");
        }
        let who = Who { principal: &user(name), client_id: "i" };
        assert!(!acl.reads_some(who, "#") && !acl.reads_some(who, "+/i/x"), "{name}");
        assert_eq!(acl.may_connect(who), name == "a/b" || name == "/", "{name}");
        let who = Who { principal: &user("u"), client_id: name };
        assert_eq!(acl.may_connect(who), name == "a/b" || name == "/", "{name}");
    }
}

#[test]
fn wildcards_in_names_are_let_in_where_there_are_no_patterns() {
    let acl = acl("user a+b\ntopic x\n");
    let principal = user("a+b");
    assert!(acl.may_connect(Who { principal: &principal, client_id: "#" }));
    assert_eq!(may(&acl, &principal, "#", "x"), ALL);
}

#[test]
fn topics_of_the_server_take_entries_of_their_own() {
    let all = acl("topic #\ntopic +/+\ntopic +/#\npattern %u/#\npattern %c/#\n");
    for topic in ["$SYS/x", "$x", "$x/y"] {
        assert_eq!(may(&all, &Principal::ANONYMOUS, "c", topic), NOTHING, "{topic}");
        assert_eq!(may(&all, &user("$SYS"), "$x", topic), NOTHING, "{topic}");
    }
    let who = Who { principal: &user("$SYS"), client_id: "$x" };
    assert!(!all.reads_some(who, "$SYS/#") && !all.reads_some(who, "$x/y"));
    let named = acl("topic read $SYS/#\ntopic deny $SYS/broker/+\n");
    assert_eq!(may(&named, &Principal::ANONYMOUS, "c", "$SYS/x/y"), (true, false));
    assert_eq!(may(&named, &Principal::ANONYMOUS, "c", "$SYS/broker/x"), NOTHING);
    assert_eq!(may(&named, &Principal::ANONYMOUS, "c", "a"), NOTHING);
    let who = Who { principal: &Principal::ANONYMOUS, client_id: "c" };
    assert!(!named.reads_some(who, "#") && named.reads_some(who, "$SYS/+/+"));
    assert!(!named.reads_some(who, "$SYS/broker/x"));
}

#[test]
fn a_filter_is_refused_only_if_nothing_that_it_matches_can_be_read() {
    let acl = acl(
        "user bob\ntopic read a/+/c\ntopic read b/#\ntopic write w\ntopic deny b/x/#\npattern read p/%u\n",
    );
    let bob = user("bob");
    let who = Who { principal: &bob, client_id: "c" };
    for filter in
        ["#", "+/+/+", "a/#", "a/b/c", "a/+/+", "b", "b/#", "b/y", "+/x/c", "p/+", "p/bob", "+/#", "a/b/#"]
    {
        assert!(acl.reads_some(who, filter), "{filter}");
    }
    for filter in
        ["a", "a/b", "a/b/d", "w", "b/x", "b/x/#", "b/x/+", "p", "p/ann", "p/bob/x", "+", "x/#", "$SYS/#"]
    {
        let granted = filter == "+";
        assert_eq!(acl.reads_some(who, filter), granted, "{filter}: `+` may be b");
    }
    assert!(acl.reads_all(who, "a/+/c") && acl.reads_all(who, "b/y/#") && acl.reads_all(who, "p/bob"));
    assert!(!acl.reads_all(who, "b/#") && !acl.reads_all(who, "a/#") && !acl.reads_all(who, "w"));
}

#[test]
fn without_a_file_only_sys_is_kept_from_those_who_are_no_admins() {
    let acl = Acl::without_file(&["root".to_owned()]);
    let local = Principal { local: true, ..Principal::ANONYMOUS };
    for (principal, reads) in
        [(user("root"), true), (user("bob"), false), (Principal::ANONYMOUS, false), (local, true)]
    {
        let who = Who { principal: &principal, client_id: "c" };
        assert_eq!(acl.may_read(who, "$SYS/broker/uptime"), reads, "{principal:?}");
        assert_eq!(acl.reads_some(who, "$SYS/#"), reads, "{principal:?}");
        assert_eq!(may(&acl, &principal, "c", "$other"), ALL);
        assert_eq!(may(&acl, &principal, "c", "a"), ALL);
        assert!(acl.reads_all(who, "#") && acl.may_connect(who));
    }
}

#[test]
fn a_tokens_claims_are_the_rules_of_its_bearer_and_a_file_holds_besides() {
    let token = Token {
        publish: Some(vec!["out/#".to_owned()]),
        subscribe: Some(vec!["in/+".to_owned(), "$SYS/#".to_owned()]),
        ..Token::default()
    };
    let bearer = Principal { token: Some(Arc::new(token)), ..user("bob") };
    let alone = Acl::without_file(&[]);
    assert_eq!(may(&alone, &bearer, "c", "in/a"), (true, false));
    assert_eq!(may(&alone, &bearer, "c", "out/a"), (false, true));
    assert_eq!(may(&alone, &bearer, "c", "else"), NOTHING);
    assert!(alone.may_read(Who { principal: &bearer, client_id: "c" }, "$SYS/x"), "the token names it");
    let file = acl("user bob\ntopic in/a\ntopic out/#\ntopic else\n");
    assert_eq!(may(&file, &bearer, "c", "in/a"), (true, false));
    assert_eq!(may(&file, &bearer, "c", "in/b"), NOTHING);
    assert_eq!(may(&file, &bearer, "c", "else"), NOTHING);
    let who = Who { principal: &bearer, client_id: "c" };
    assert!(file.reads_some(who, "in/#") && !file.reads_some(who, "out/#") && !file.reads_some(who, "in/b"));
    assert!(alone.reads_all(who, "in/a") && !alone.reads_all(who, "in/#"));
}

#[test]
fn slashes_by_the_thousand_need_no_stack() {
    let deep = || {
        let topic = "/".repeat(65_535);
        let plusses = format!("+{}", "/+".repeat(32_767));
        let acl = acl(&format!("topic read {topic}\ntopic deny {plusses}\ntopic read a\n"));
        let nobody = Principal::ANONYMOUS;
        assert_eq!(may(&acl, &nobody, "c", &topic), (true, false));
        assert_eq!(may(&acl, &nobody, "c", &"/".repeat(32_767)), NOTHING);
        let who = Who { principal: &nobody, client_id: "c" };
        assert!(acl.reads_some(who, &topic) && acl.reads_all(who, &topic));
        drop(acl);
    };
    std::thread::Builder::new().stack_size(64 << 10).spawn(deep).expect("a thread").join().expect("it ends");
}

/// One line, as mosquitto keeps it.
#[derive(Clone, Debug)]
struct Line {
    /// `None`: a pattern.
    user: Option<usize>,
    access: &'static str,
    filter: String,
}

const USERS: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("x/y")];

/// The file's meaning at its plainest: lists gone through from their beginnings, denials first.
fn model(lines: &[Line], user: usize, client_id: &str, topic: &str) -> (bool, bool) {
    let name = USERS[user];
    let plain = |text: &&str| !text.contains(['+', '#', '/']);
    let in_words = |filter: &str| -> Option<String> {
        let levels = filter.split('/').map(|level| match level {
            "%u" => name.filter(plain),
            "%c" => Some(client_id).filter(plain),
            other => Some(other),
        });
        levels.collect::<Option<Vec<&str>>>().map(|levels| levels.join("/"))
    };
    let own: Vec<(&str, String)> = lines
        .iter()
        .filter(|line| line.user == Some(user))
        .map(|line| (line.access, line.filter.clone()))
        .collect();
    let patterns: Vec<(&str, String)> = lines
        .iter()
        .filter(|line| line.user.is_none() && (!topic.starts_with('$') || line.filter.starts_with('$')))
        .filter_map(|line| Some((line.access, in_words(&line.filter)?)))
        .collect();
    let decide = |wanted: &str| {
        for list in [&own, &patterns] {
            let matching = || list.iter().filter(|(_, filter)| matches(filter, topic));
            if matching().any(|(access, _)| *access == "deny") {
                return false;
            }
            if matching().any(|(access, _)| access.contains(wanted)) {
                return true;
            }
        }
        false
    };
    (decide("read"), decide("write"))
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "+", "%u", "%c", "é"])
}

fn filter() -> impl Strategy<Value = String> {
    let first = prop::sample::select(vec!["a", "b", "", "+", "%u", "%c", "$s", "#"]);
    (first, prop::collection::vec(level(), 0..4), any::<bool>()).prop_map(|(first, levels, hash)| {
        if first == "#" {
            return first.to_owned();
        }
        let rest: String = levels.iter().map(|level| format!("/{level}")).collect();
        let filter = format!("{first}{rest}{}", if hash { "/#" } else { "" });
        if filter.is_empty() { "a".to_owned() } else { filter }
    })
}

fn line() -> impl Strategy<Value = Line> {
    let access = prop::sample::select(vec!["read", "write", "readwrite", "deny"]);
    (prop::option::of(0..USERS.len()), access, filter()).prop_map(|(user, access, filter)| Line {
        user,
        access,
        filter,
    })
}

fn topic() -> impl Strategy<Value = String> {
    let first = prop::sample::select(vec!["a", "b", "", "$s", "c1"]);
    let rest = prop::collection::vec(prop::sample::select(vec!["a", "b", "", "c1", "%u", "é"]), 0..4);
    (first, rest).prop_map(|(first, rest)| {
        let topic = rest.iter().fold(first.to_owned(), |topic, level| topic + "/" + level);
        if topic.is_empty() { "a".to_owned() } else { topic }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_lists_that_are_gone_through(
        lines in prop::collection::vec(line(), 0..12),
        topics in prop::collection::vec(topic(), 12),
        asked in prop::collection::vec(filter(), 6),
        client_id in prop::sample::select(vec!["c1", "a", "+", "", "$s"]),
    ) {
        // A user's lines stand under its name, those of clients without one before all names.
        let mut text = String::new();
        for (user, name) in USERS.iter().enumerate() {
            if let Some(name) = name {
                text += &format!("user {name}\n");
            }
            for line in lines.iter().filter(|line| line.user == Some(user)) {
                text += &format!("topic {} {}\n", line.access, line.filter);
            }
        }
        for line in lines.iter().filter(|line| line.user.is_none()) {
            text += &format!("pattern {} {}\n", line.access, line.filter);
        }
        let acl = acl(&text);
        for (user, name) in USERS.iter().enumerate() {
            let principal = name.map_or(Principal::ANONYMOUS, Principal::of_user);
            let who = Who { principal: &principal, client_id };
            for topic in &topics {
                let expected = model(&lines, user, client_id, topic);
                let found = (acl.may_read(who, topic), acl.may_write(who, topic));
                prop_assert_eq!(found, expected, "{:?} {} in\n{}", principal.user(), topic, text);
                for filter in asked.iter().filter(|filter| matches(filter, topic)) {
                    prop_assert!(acl.reads_some(who, filter) || !found.0, "{} {} in\n{}", filter, topic, text);
                    prop_assert!(!acl.reads_all(who, filter) || found.0, "{} {} in\n{}", filter, topic, text);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_file_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        if let Err((line, reason)) = Acl::from_bytes(&bytes) {
            prop_assert!((1..=lines).contains(&line) && !reason.is_empty());
        }
    }

    #[test]
    fn any_words_are_a_file_or_an_error(
        words in prop::collection::vec(prop::sample::select(vec![
            "topic", "pattern", "user", "read", "write", "deny", "%u", "%c", "a/+", "#", " ", "\n", "\t", "\r\n", "é",
        ]), 0..40),
    ) {
        if let Ok(acl) = Acl::from_bytes(words.join(" ").as_bytes()) {
            let who = Who { principal: &Principal::ANONYMOUS, client_id: "a" };
            let _ = (acl.may_read(who, "a/b"), acl.may_write(who, "$SYS/x"), acl.reads_some(who, "#"));
        }
    }
}
