//! `guide`: lists the chapters of the operator's guide, or prints one.
//!
//! Leaves the text to `guide`: Markdown, printed as it is, on a terminal through the pager.

use std::io::{IsTerminal as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

use super::cli::GuideArgs;
use super::output::Output;
use crate::config::nearest;
use crate::guide::{CHAPTERS, Chapter, chapter};

pub(super) fn run(args: &GuideArgs, out: Output) -> anyhow::Result<ExitCode> {
    match &args.chapter {
        Some(name) => {
            let chapter = chapter(name).with_context(|| unknown(name))?;
            if !paged(chapter.text) {
                out.text(chapter.text)?;
            }
        }
        None => out.text(&list())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows a text in the pager, if standard output is a terminal and there is one. Returns whether it
/// was shown.
fn paged(text: &str) -> bool {
    if !std::io::stdout().is_terminal() {
        return false;
    }
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less -FRX".to_owned());
    let mut words = pager.split_whitespace();
    let Some(program) = words.next() else {
        return false;
    };
    let started = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut pager) = started else {
        return false;
    };
    if let Some(mut stdin) = pager.stdin.take() {
        // Whoever has read enough leaves the rest.
        let _ = stdin.write_all(text.as_bytes());
    }
    pager.wait().is_ok()
}

/// One line a chapter: its name and its title.
fn list() -> String {
    let width = CHAPTERS.iter().map(|chapter| chapter.name.len()).max();
    let width = width.unwrap_or(0);
    let line = |chapter: &Chapter| {
        let (name, title) = (chapter.name, chapter.title);
        format!("{name:width$}  {title}\n")
    };
    CHAPTERS.iter().map(line).collect()
}

fn unknown(name: &str) -> String {
    let names = || CHAPTERS.iter().map(|chapter| chapter.name);
    if let Some(meant) = nearest(name, names()) {
        return format!("the guide has no chapter {name:?}: is {meant} meant?");
    }
    let names = names().collect::<Vec<_>>().join(", ");
    format!("the guide has no chapter {name:?}; its chapters are {names}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_put_right_and_a_stranger_is_told_what_there_is() {
        for (name, meant) in [("mosquito", "mosquitto"), ("rabitmq", "rabbitmq")] {
            let want = format!("the guide has no chapter {name:?}: is {meant} meant?");
            assert_eq!(unknown(name), want);
        }
        assert!(unknown("weather").contains("its chapters are install, "));
    }
}
