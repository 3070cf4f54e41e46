//! Limits that rustfmt and clippy do not set: the length of lines (rustfmt leaves comments and
//! strings alone) and of files.

use std::fs;

use crate::bed::root;
use crate::layers::files;

const LINE: usize = 100;
const FILE: usize = 600;

/// Files of `src` with lines still too long. To become empty.
const OPEN_LINES: [&str; 4] = [
    "src/build.rs",
    "src/store/sqlite/inspect.rs",
    "src/store/sqlite/outbox.rs",
    "src/store/sqlite/retention.rs",
];

/// Files of `src` that are still too long. To become empty.
const OPEN_FILES: [&str; 0] = [];

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
    let (mut faults, mut clean) = (vec![], vec![]);
    for (name, text) in sources(&["src", "tests"]) {
        let lines = text.lines().enumerate();
        let long: Vec<String> = lines
            .filter(|(_, line)| line.chars().count() > LINE)
            .map(|(number, line)| format!("{name}:{}: {}", number + 1, line.trim()))
            .collect();
        let open = OPEN_LINES.contains(&name.as_str());
        if open && long.is_empty() {
            clean.push(name);
        } else if !open {
            faults.extend(long);
        }
    }
    assert!(
        faults.is_empty(),
        "{} lines of more than {LINE} characters:\n{}",
        faults.len(),
        faults.join("\n")
    );
    assert!(clean.is_empty(), "take out of OPEN_LINES: {clean:?}");
}

#[test]
fn no_file_is_too_long() {
    let (mut faults, mut clean) = (vec![], vec![]);
    for (name, text) in sources(&["src"]) {
        let lines = text.lines().count();
        let open = OPEN_FILES.contains(&name.as_str());
        if is_tests(&name) || lines > FILE && open {
            continue;
        }
        if open {
            clean.push(name);
        } else if lines > FILE {
            faults.push(format!("{name}: {lines} lines"));
        }
    }
    assert!(faults.is_empty(), "more than {FILE} lines: {faults:#?}");
    assert!(clean.is_empty(), "take out of OPEN_FILES: {clean:?}");
}
