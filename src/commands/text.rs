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
