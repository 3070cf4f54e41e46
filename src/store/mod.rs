//! Owns what the observer remembers: messages, inboxes, groups, presence, and the outbox of webhooks.
//! SQLite holds it, and nothing outside of `store/sqlite` names it.
//! What becomes of a message is decided in `rules`; when a batch is committed is decided in `observer`.

mod sqlite;
pub mod thread;

pub use self::sqlite::*;
