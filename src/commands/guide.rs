//! `guide`: lists the chapters of the operator's guide, or prints one.
//!
//! Leaves the text to `guide`: Markdown, printed as it is.

use std::process::ExitCode;

use anyhow::Context;

use super::cli::GuideArgs;
use super::output::Output;
use crate::guide::{CHAPTERS, Chapter, chapter};

pub(super) fn run(args: &GuideArgs, out: Output) -> anyhow::Result<ExitCode> {
    match &args.chapter {
        Some(name) => {
            let chapter = chapter(name).with_context(|| unknown(name))?;
            out.text(chapter.text)?;
        }
        None => out.text(&list())?,
    }
    Ok(ExitCode::SUCCESS)
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
    let names: Vec<&str> = CHAPTERS.iter().map(|chapter| chapter.name).collect();
    let names = names.join(", ");
    format!("the guide has no chapter {name:?}; its chapters are {names}")
}
