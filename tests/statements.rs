//! Every normative statement of the standards has its test, or a reason why it has none.
//!
//! `tests/statements/mqtt-VERSION.txt` lists the numbers of a standard's Appendix B, one a line;
//! `tests/statements/table-VERSION.txt` says of each, in one line, what becomes of it. In both, lines that begin with
//! `#` and empty lines are skipped. A line of the table is `NUMBER | PROOF | what it says, in our own words`. PROOF is
//! one of:
//!
//! - `FILE::TEST`, or several with a comma between: the tests that prove it. FILE is relative to the root of the
//!   repository, TEST the name of a function under `#[test]` in it;
//! - `client`: it binds only the client. The text says who does what;
//! - `untestable`: no test can show it. The text says why;
//! - `absent PATH`: it binds a part of the standard that is optional and not built. PATH is the file that would hold
//!   it: once that exists, a test is asked for.
//!
//! What is in the list and not in the table, in the table and not in the list, there twice, or names a test that is
//! not there, fails.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What becomes of a statement.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    Tests(Vec<Test>),
    Client,
    Untestable,
    Absent(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    file: String,
    name: String,
}

#[derive(Debug)]
struct Row {
    number: String,
    proof: Proof,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(version: &str, kind: &str) -> String {
    let path = root().join("tests/statements").join(format!("{kind}-{version}.txt"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn row(line: &str) -> Result<Row, String> {
    let wrong = |what: &str| format!("{what}: {line}");
    let mut fields = line.splitn(3, '|').map(str::trim);
    let (Some(number), Some(proof), Some(text)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(wrong("not NUMBER | PROOF | TEXT"));
    };
    if !number.starts_with("MQTT-") {
        return Err(wrong("not the number of a statement"));
    }
    if text.is_empty() {
        return Err(wrong("says nothing"));
    }
    let proof = match proof {
        "client" => Proof::Client,
        "untestable" => Proof::Untestable,
        _ => match proof.strip_prefix("absent ") {
            Some(path) => Proof::Absent(path.trim().to_owned()),
            None => Proof::Tests(proof.split(',').map(test).collect::<Option<_>>().ok_or(wrong("no proof"))?),
        },
    };
    Ok(Row { number: number.to_owned(), proof })
}

fn test(place: &str) -> Option<Test> {
    let (file, name) = place.trim().split_once("::")?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_name && file.ends_with(".rs")).then(|| Test { file: file.to_owned(), name: name.to_owned() })
}

/// The functions of a source text that the test runner runs.
fn tests_in(source: &str) -> BTreeSet<&str> {
    let (mut names, mut marked) = (BTreeSet::new(), false);
    for line in source.lines().map(str::trim) {
        if line == "#[test]" {
            marked = true;
        } else if line.starts_with("#[ignore") {
            marked = false;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            if let Some((name, _)) = rest.split_once('(').filter(|_| marked) {
                names.insert(name);
            }
            marked = false;
        }
    }
    names
}

/// What is wrong with a table.
fn problems(list: &str, table: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut rows = Vec::new();
    for line in lines(table) {
        match row(line) {
            Ok(row) => rows.push(row),
            Err(problem) => problems.push(problem),
        }
    }
    let listed: BTreeSet<&str> = lines(list).collect();
    let mut times = BTreeMap::<&str, usize>::new();
    for row in &rows {
        *times.entry(&row.number).or_default() += 1;
    }
    problems.extend(times.iter().filter(|(_, times)| **times > 1).map(|(n, _)| format!("{n}: twice")));
    problems.extend(times.keys().filter(|n| !listed.contains(**n)).map(|n| format!("{n}: not in the list")));
    problems
        .extend(listed.iter().filter(|n| !times.contains_key(**n)).map(|n| format!("{n}: not in the table")));
    let mut known = BTreeMap::<&str, String>::new();
    for Row { number, proof } in &rows {
        match proof {
            Proof::Tests(tests) => {
                for Test { file, name } in tests {
                    let source = known
                        .entry(file)
                        .or_insert_with(|| fs::read_to_string(root().join(file)).unwrap_or_default());
                    if !tests_in(source).contains(name.as_str()) {
                        problems.push(format!("{number}: there is no test {file}::{name}"));
                    }
                }
            }
            Proof::Absent(path) if root().join(path).exists() => {
                problems.push(format!("{number}: {path} is there, and needs a test"));
            }
            Proof::Absent(_) | Proof::Client | Proof::Untestable => {}
        }
    }
    problems
}

#[test]
fn every_statement_has_its_proof() {
    // How many there are, so that none is lost with its line.
    for (version, statements) in [("3.1.1", 141), ("5.0", 251)] {
        let (list, table) = (read(version, "mqtt"), read(version, "table"));
        assert_eq!(lines(&list).count(), statements, "MQTT {version}: the list has lost or gained numbers");
        let problems = problems(&list, &table);
        assert!(problems.is_empty(), "MQTT {version}:\n{}", problems.join("\n"));
    }
}

#[test]
fn a_table_is_held_against_its_list_and_the_sources() {
    let list = "# Appendix B\nMQTT-1\nMQTT-2\n";
    let here = "tests/statements.rs::a_table_is_held_against_its_list_and_the_sources";
    let check = |table: &str| problems(list, table).join("; ");
    assert_eq!(check(&format!("MQTT-1 | {here}, {here} | a\n\n# b\nMQTT-2 | client | it sends")), "");
    assert_eq!(check("MQTT-1 | untestable | because\nMQTT-2 | absent src/not/there.rs | optional"), "");
    for (table, problem) in [
        ("MQTT-1 | client | a", "MQTT-2: not in the table"),
        ("MQTT-1 | client | a\nMQTT-2 | client | a\nMQTT-1 | client | a", "MQTT-1: twice"),
        ("MQTT-1 | client | a\nMQTT-2 | client | a\nMQTT-3 | client | a", "MQTT-3: not in the list"),
        ("MQTT-1 | client |\nMQTT-2 | client | a\n", "says nothing"),
        ("MQTT-1 client a\nMQTT-2 | client | a\n", "not NUMBER | PROOF | TEXT"),
        ("MQTT-1 | soon | a\nMQTT-2 | client | a\n", "no proof"),
        (
            "MQTT-1 | client | a\nMQTT-2 | absent src/lib.rs | a",
            "MQTT-2: src/lib.rs is there, and needs a test",
        ),
        (
            "MQTT-1 | client | a\nMQTT-2 | tests/statements.rs::problems | not a test",
            "MQTT-2: there is no test tests/statements.rs::problems",
        ),
        (
            "MQTT-1 | client | a\nMQTT-2 | tests/nowhere.rs::a | no file",
            "MQTT-2: there is no test tests/nowhere.rs::a",
        ),
    ] {
        assert!(check(table).contains(problem), "{table}: {}", check(table));
    }
}

#[test]
fn only_what_the_runner_runs_is_a_test() {
    let source = "
        #[test]
        fn plain() {
        }
        fn helper() {}
        #[test]
        #[should_panic(expected = \"x\")]
        fn panics() {}
        #[test]
        #[ignore = \"slow\"]
        fn ignored() {}
    ";
    assert_eq!(tests_in(source).into_iter().collect::<Vec<_>>(), ["panics", "plain"]);
}
