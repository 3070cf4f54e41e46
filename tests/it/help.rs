//! Help, as a person sees it in a terminal of 80 and of 120 columns.

use std::fmt::Write as _;
use std::process::Stdio;

use crate::bed::binary;
use crate::cli::run;
use crate::pipes::commands_in;

/// What a command prints in a terminal that is so wide.
fn in_terminal(columns: usize, args: &[&str]) -> String {
    let program = binary();
    let program = program.get_program().to_str().unwrap();
    // `script` runs it in a terminal of its own.
    let line = format!(
        "stty cols {columns} rows 24; exec {program} {}",
        args.join(" ")
    );
    let mut script = std::process::Command::new("script");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OBSERVER_")) {
        script.env_remove(name);
    }
    let output = script
        .args(["-qec", &line, "/dev/null"])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    assert!(output.status.success(), "{args:?}: {text}");
    text
}

/// The path of each command, the root first, that of a group before those in it.
fn paths(path: &[String], found: &mut Vec<Vec<String>>) {
    found.push(path.to_vec());
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let (_, help, _) = run(&[&words, &["--help"][..]].concat(), &[]);
    for name in commands_in(&help) {
        paths(&[path, &[name.to_owned()]].concat(), found);
    }
}

#[test]
fn help_fits_the_terminal_and_says_what_it_should() {
    let mut all = vec![];
    paths(&[], &mut all);
    assert!(all.len() > 30, "{all:?}");
    for columns in [80, 120] {
        for flag in ["-h", "--help"] {
            let mut texts = String::new();
            let of_run = in_terminal(columns, &["run", flag]);
            for path in &all {
                let mut words: Vec<&str> = path.iter().map(String::as_str).collect();
                words.push(flag);
                let text = in_terminal(columns, &words);
                check(&text, columns, &words);
                // All settings once, under `run`.
                let text = match settings_part(&of_run) {
                    Some(part) if words[0] != "run" => text.replace(part, "(the settings)\n"),
                    Some(_) | None => text,
                };
                let _ = writeln!(texts, "$ chat21-observer {}\n{text}", words.join(" "));
            }
            let name = format!("{}-{columns}", flag.trim_start_matches('-'));
            insta::assert_snapshot!(name, texts);
        }
    }
}

/// The headings with all settings, of a long help.
fn settings_part(help: &str) -> Option<&str> {
    let start = help.find("Broker:\n")?;
    Some(&help[start..help.find("\nExamples:\n")?])
}

fn check(text: &str, columns: usize, words: &[&str]) {
    let long: Vec<&str> = text
        .lines()
        .filter(|line| line.chars().count() > columns)
        .collect();
    assert!(long.is_empty(), "{words:?}: {long:#?}");
    let (_, examples) = text.split_once("\nExamples:\n").unwrap();
    let lines = examples.lines();
    assert!(
        lines
            .clone()
            .all(|line| line.starts_with("  chat21-observer"))
    );
    assert_eq!(lines.count(), 3, "{words:?}");
    let is_root = words.len() == 1;
    if words.contains(&"-h") && !is_root {
        let lines = text.lines().count();
        assert!(lines <= 24, "{words:?}: {lines} lines\n{text}");
    }
}

#[test]
fn each_command_has_the_flags_that_it_uses() {
    let flags = |args: &[&str]| {
        let (_, text, _) = run(args, &[]);
        let is_flag = |line: &&str| line.starts_with("  -") || line.starts_with("      --");
        text.lines().filter(is_flag).count()
    };
    let settings = chat21_observer::config::settings().count();
    // With --config, --verbose and --help.
    assert_eq!(flags(&["run", "--help"]), settings + 3);
    // Ten that matter, --verbose and --help.
    assert_eq!(flags(&["run", "-h"]), 12);
    assert_eq!(flags(&["health", "--help"]), 3);
    assert_eq!(flags(&["store", "check", "--help"]), 6);
    let (_, text, _) = run(&["run", "--help"], &[]);
    let mut rest = text.as_str();
    for group in chat21_observer::config::GROUPS {
        let heading = format!("\n{}:\n", group.heading);
        rest = rest
            .split_once(&heading)
            .unwrap_or_else(|| panic!("{heading}"))
            .1;
    }
}

#[test]
fn short_flags_stand_for_the_common_ones() {
    let short = ["-b", "mqtt://other", "-u", "me", "-v"];
    let (code, out, err) = run(&[&["config", "show"], &short[..]].concat(), &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    for (name, value) in [
        ("broker", "mqtt://other"),
        ("username", "me"),
        ("log-level", "debug"),
    ] {
        assert!(
            out.contains(&format!("\n{name:<22} {value}\n")),
            "{name}: {out}"
        );
    }
    let (_, out, _) = run(&["config", "show", "-vv"], &[]);
    assert!(
        out.contains(&format!("{:<22} trace\n", "log-level")),
        "{out}"
    );
}

#[test]
fn what_is_misspelt_gets_a_suggestion() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("observer.toml");
    std::fs::write(&file, "\n[groups]\nmembershp = \"open\"\n").unwrap();
    let file = file.to_str().unwrap();
    for (args, env, words) in [
        (&["chek"][..], None, "'check'"),
        (&["store", "stat"], None, "'stats'"),
        (&["run", "--brokre", "x"], None, "'--broker'"),
        (
            &["store", "stats", "--broker", "x"],
            None,
            "--broker is a setting that this command does not use",
        ),
        (
            &["run", "-c", file],
            None,
            "observer.toml, line 3: \"groups-membershp\" is not a setting \
             (is groups-membership meant?)",
        ),
        (
            &["config", "check"],
            Some(("OBSERVER_PASSWROD", "x")),
            "OBSERVER_PASSWROD: is not a setting (is OBSERVER_PASSWORD meant?)",
        ),
    ] {
        let env: Vec<(&str, &str)> = env.into_iter().collect();
        let (code, _, err) = run(args, &env);
        assert!(code == 2 && err.contains(words), "{args:?}: {code} {err}");
    }
}
