//! What several commands read: identifiers on the command line, and files or standard input.

use anyhow::Context;

use crate::protocol::id::{AppId, UserId};

/// The text in a file; `-` is standard input.
pub(super) fn read_input(file: &str) -> anyhow::Result<String> {
    let text = match file {
        "-" => std::io::read_to_string(std::io::stdin()),
        file => std::fs::read_to_string(file),
    };
    text.with_context(|| format!("cannot read {file}"))
}

pub(super) fn app_id(text: &str) -> anyhow::Result<AppId<'_>> {
    AppId::parse(text).map_err(|error| anyhow::anyhow!("app {text:?} {error}"))
}

/// `what` names the identifier in the error.
pub(super) fn user_id<'a>(what: &str, text: &'a str) -> anyhow::Result<UserId<'a>> {
    UserId::parse(text).map_err(|error| anyhow::anyhow!("{what} {text:?} {error}"))
}
