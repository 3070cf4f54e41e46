//! The scripts' shared prelude: whatever fails is reported once, with its place, and ends the
//! script.

use std::process::Command;

use crate::bed::root;

/// Runs these lines as a script: its exit code, and what it says on standard error.
fn run(lines: &str) -> (i32, String) {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("script");
    let prelude = root().join("scripts/common.sh");
    let text = format!(
        "set -e\n. {}\n{lines}\necho went on >&2\n",
        prelude.display()
    );
    std::fs::write(&path, text).unwrap();
    let output = Command::new("bash").arg(&path).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn a_failure_is_reported_once_with_its_place() {
    for (lines, command, place) in [
        ("false", "false", "line 3, in main"),
        ("f() {\n  false\n}\nf", "false", "line 4, in f"),
        (
            "f() { [ 1 = 2 ] && true; }\nf",
            "[ 1 = 2 ]",
            "line 4, in main",
        ),
        ("f() {\n  false\n}\n(f)", "false", "line 4, in f"),
        (
            "f() {\n  false\n}\nx=$(f)\necho \"$x\"",
            "false",
            "line 4, in f",
        ),
        (
            "f() {\n  local x\n  x=$(exit 7)\n}\nf",
            "x=$(exit 7)",
            "line 5, in f",
        ),
        (
            "f() {\n  false\n}\ntrue | f | true",
            "false",
            "line 4, in f",
        ),
    ] {
        let (code, said) = run(lines);
        assert_ne!(code, 0, "{lines}");
        assert_eq!(said.matches("exit code").count(), 1, "{lines}:\n{said}");
        assert!(
            said.contains(&format!("from: {command}\n")),
            "{lines}:\n{said}"
        );
        assert!(said.contains(place), "{lines}:\n{said}");
        assert!(!said.contains("went on"), "{lines}:\n{said}");
    }
}

#[test]
fn what_a_script_dies_of_is_said_once() {
    for lines in [
        "die 'the reason'",
        "f() { die 'the reason'; }\nf",
        "f() { die 'the reason'; }\nx=$(f)",
        "f() { die 'the reason'; }\n(f)",
        // In a script that it calls.
        "bash -c '. PRELUDE; die \"the reason\"' script",
    ] {
        let prelude = root().join("scripts/common.sh");
        let lines = lines.replace("PRELUDE", &prelude.display().to_string());
        let (code, said) = run(&lines);
        assert_ne!(code, 0, "{lines}");
        assert_eq!(said, "script: the reason\n", "{lines}");
    }
}
