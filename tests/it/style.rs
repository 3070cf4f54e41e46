//! Limits that rustfmt and clippy do not set: the length of lines (rustfmt leaves comments and
//! strings alone) and of files.

use std::fs;

use crate::bed::root;
use crate::layers::files;

const LINE: usize = 100;
const FILE: usize = 600;

/// Rust files under these folders, by their path from the root.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut paths = vec![];
    for folder in folders {
        files(&root().join(folder), &mut paths);
    }
    paths.sort();
    let named = paths.iter().map(|path| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    });
    named.collect()
}

fn is_tests(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

#[test]
fn no_line_is_too_long() {
    let mut faults = vec![];
    for (name, text) in sources(&["src", "tests"]) {
        let lines = text.lines().enumerate();
        let long = lines.filter(|(_, line)| line.chars().count() > LINE);
        faults.extend(long.map(|(n, line)| format!("{name}:{}: {}", n + 1, line.trim())));
    }
    assert!(
        faults.is_empty(),
        "{} lines of more than {LINE} characters:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn no_file_is_too_long() {
    let files = sources(&["src"]);
    let long = files
        .iter()
        .filter(|(name, text)| !is_tests(name) && text.lines().count() > FILE);
    let faults: Vec<&String> = long.map(|(name, _)| name).collect();
    assert!(faults.is_empty(), "more than {FILE} lines: {faults:#?}");
}
