//! How help is laid out: the groups of the root's list, examples, headings, and what is said about
//! a flag that a command does not have.
//!
//! Leaves the texts to the definition of the commands, and wrapping to clap.

use std::fmt::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use super::Cli;
use super::examples::EXAMPLES;
use crate::commands::scope::is_setting;

/// Help is not wider than this, on the widest terminal.
const WIDEST: usize = 100;

/// Where in the root's list each command stands. One that this program does not have is left out.
pub(super) const SECTIONS: [(&str, &[&str]); 4] = [
    ("Start here", &["demo", "check", "run", "send"]),
    ("Look", &["health", "watch", "inbox", "explain", "bench"]),
    ("Administer", &["group", "block", "webhook", "store"]),
    (
        "Set up",
        &[
            "config",
            "acl",
            "slots",
            "token",
            "guide",
            "man",
            "completions",
        ],
    ),
];

/// `-h` has no headings, so that it fits on a screen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Headings {
    Shown,
    LeftOut,
}

/// The command line, with all that its help says.
pub(in crate::commands) fn command() -> clap::Command {
    built(Headings::Shown)
}

/// Reads the command line. Ends the process if there is a mistake in it, and after help.
pub(in crate::commands) fn parse() -> Cli {
    let is_short = std::env::args_os().any(|argument| argument == "-h");
    let command = built(match is_short {
        true => Headings::LeftOut,
        false => Headings::Shown,
    });
    let parsed = command
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| with_hint(error).exit())
}

fn built(headings: Headings) -> clap::Command {
    let command = finish(Cli::command(), "", headings);
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} chat21-observer COMMAND [OPTIONS]\n\n{}\
         Options:\n{{options}}{{after-help}}",
        sections(&command)
    );
    command.help_template(template).max_term_width(WIDEST)
}

/// Adds the examples to a command and to those below it.
fn finish(command: clap::Command, path: &str, headings: Headings) -> clap::Command {
    let command = match EXAMPLES.iter().find(|(name, _)| *name == path) {
        Some((_, examples)) => command.after_help(examples_text(examples)),
        None => command,
    };
    let command = match headings {
        Headings::Shown => command,
        Headings::LeftOut => command.mut_args(|argument| argument.help_heading(None::<&str>)),
    };
    command.mut_subcommands(|below| {
        let path = format!("{path} {}", below.get_name());
        finish(below, path.trim_start(), headings)
    })
}

fn examples_text(examples: &[&str]) -> String {
    let mut text = String::from("Examples:");
    for example in examples {
        let _ = write!(text, "\n  chat21-observer {example}");
    }
    text
}

/// The list of the commands, in groups.
fn sections(command: &clap::Command) -> String {
    let mut text = String::new();
    for (heading, listed) in SECTIONS {
        let _ = writeln!(text, "{heading}:");
        for name in listed {
            let Some(command) = command.find_subcommand(name) else {
                continue;
            };
            let about = command.get_about().map(ToString::to_string);
            let _ = writeln!(text, "  {name:<13}{}", about.unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

/// Says of a setting that a command does not use that it is one.
fn with_hint(mut error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let name = flag.trim_start_matches("--");
    if is_setting(name) {
        let hint = format!("--{name} is a setting that this command does not use");
        error.remove(ContextKind::SuggestedArg);
        let hint = ContextValue::StyledStrs(vec![hint.into()]);
        error.insert(ContextKind::Suggested, hint);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands that do something, by their path.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        if command.has_subcommands() {
            for below in command.get_subcommands() {
                let path = format!("{path} {}", below.get_name());
                leaves(below, path.trim_start(), found);
            }
        } else {
            found.push(path.to_owned());
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_in_a_section_and_has_three_examples_that_are_valid() {
        let command = command();
        let listed: Vec<&str> = SECTIONS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        for below in command.get_subcommands() {
            assert!(listed.contains(&below.get_name()), "{}", below.get_name());
        }
        let mut paths = vec![];
        leaves(&command, "", &mut paths);
        for path in paths {
            let found = EXAMPLES.iter().find(|(name, _)| *name == path);
            let (_, examples) = found.unwrap_or_else(|| panic!("{path} has no examples"));
            assert_eq!(examples.len(), 3, "{path}");
            for example in *examples {
                assert!(example.starts_with(&path), "{example}");
                assert!(example.len() <= 62, "longer than 80 columns: {example}");
                let line = example.split([';', '|', '>', '<']).next().unwrap();
                let words = line.split_whitespace();
                let words = std::iter::once("chat21-observer").chain(words);
                let parsed = command.clone().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }
}
