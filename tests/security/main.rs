//! What brokers have been attacked with, class by class: `README.md` in this folder maps each class to its tests, and a
//! test here holds it to that. Anything else about safety stands beside the code that it is about.
#![allow(missing_docs)]

#[path = "../common"]
mod common {
    pub mod client;
    pub mod dialogue;
    pub mod process;
    pub mod websocket;
    pub mod wire;
    pub mod world;
}

mod after_connect;
mod authorisation;
mod before_connect;
mod crowds;
mod descriptors;
mod entrance;
mod flood;
mod passwords;
mod refusals;
mod slow_readers;
mod websocket;

use std::fs;
use std::path::Path;

/// The rows of the table: the class and its tests, each as the file, from the root, and the name of a function.
fn rows() -> Vec<(String, Vec<(String, String)>)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/security/README.md"));
    let text = text.expect("a table");
    let rows = text.lines().filter(|line| line.starts_with("| ")).filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (class, _, tests) = (cells.next()?, cells.next()?, cells.next()?);
        let named = tests.split(['`', ' ', ',']).filter_map(|test| test.split_once("::"));
        Some((class.to_owned(), named.map(|(file, name)| (file.to_owned(), name.to_owned())).collect()))
    });
    // Behind the head of each table.
    rows.filter(|(class, _)| class != "class").collect()
}

#[test]
fn the_table_names_tests_that_exist() {
    let rows = rows();
    assert!(rows.len() > 40, "only {} rows", rows.len());
    for (class, tests) in rows {
        assert!(!tests.is_empty(), "{class}: no test");
        for (file, name) in tests {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{class}: {file}: {error}"));
            let is_there =
                [format!("fn {name}("), format!("fn {name}<")].iter().any(|head| text.contains(head));
            assert!(is_there, "{class}: there is no {name} in {file}");
        }
    }
}
