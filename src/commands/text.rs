//! Text for a terminal.
//!
//! What commands print may come from users: characters a terminal would obey become escapes.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use crate::protocol::status::Status;

/// Whether a terminal would obey the character: control characters, and those that change the
/// direction of the text after them.
fn is_command(c: char) -> bool {
    let turns = ['\u{200e}', '\u{200f}', '\u{061c}'].contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c);
    c.is_control() || turns
}

/// Text that somebody else made, safe to print. JSON stays JSON.
pub(in crate::commands) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_command(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// What a message's status means, in a word. Empty for a status that no inbox shows.
pub(in crate::commands) fn status_word(code: i64) -> &'static str {
    match Status::from_code(code) {
        Some(Status::Sent) => "sent",
        Some(Status::Delivered) => "delivered",
        Some(Status::Received) => "received",
        Some(Status::ReturnReceipt) => "return receipt",
        Some(Status::Seen) => "seen",
        Some(Status::Failed | Status::Sending) | None => "",
    }
}

/// The time of day, in UTC. The reader knows which day it is.
pub(in crate::commands) fn clock(millis: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(millis);
    let time = humantime::format_rfc3339_millis(time).to_string();
    time.get(11..23).unwrap_or(&time).to_owned()
}

/// The width of the terminal that standard output is, in columns. `None` for a pipe or a file,
/// whose lines are left as they are.
pub(in crate::commands) fn terminal_width() -> Option<usize> {
    let (columns, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(usize::from(columns.0))
}

/// Text broken at spaces into lines of at most `width` characters, those after the first behind
/// `indent`. A word that is longer stays whole.
pub(in crate::commands) fn wrapped(text: &str, width: Option<usize>, indent: &str) -> String {
    let Some(width) = width else {
        return text.to_owned();
    };
    let (mut wrapped, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            wrapped.push('\n');
            wrapped.push_str(indent);
            column = 0;
        } else if column > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_at_spaces() {
        let wrap = |width| wrapped("one two three-and-more four", width, "  ");
        assert_eq!(wrap(None), "one two three-and-more four");
        assert_eq!(wrap(Some(9)), "one two\n  three-and-more\n  four");
        assert_eq!(wrap(Some(80)), "one two three-and-more four");
    }
}
