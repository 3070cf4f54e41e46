//! Faults in the middle of a transaction, for tests of what is above the store.

use std::path::Path;

/// Makes the store in this file fail when it writes a copy for `user`.
pub(crate) fn fail_at_a_copy_for(user: &str, path: &Path) {
    let raw = rusqlite::Connection::open(path).unwrap();
    raw.execute_batch(&format!(
        "CREATE TRIGGER fault BEFORE INSERT ON copy
         WHEN (SELECT name FROM account WHERE id = NEW.inbox) = '{user}'
         BEGIN SELECT RAISE(ABORT, 'no more'); END"
    ))
    .unwrap();
}

/// Lets the store write that copy again.
pub(crate) fn mend(path: &Path) {
    let raw = rusqlite::Connection::open(path).unwrap();
    raw.execute_batch("DROP TRIGGER fault").unwrap();
}

/// Puts what is no text into the row of a group, as somebody who edits the file might.
pub(crate) fn spoil_group(id: &str, path: &Path) {
    let raw = rusqlite::Connection::open(path).unwrap();
    let spoil = "INSERT OR REPLACE INTO chat_group (app, group_id, body) VALUES ('a', ?, x'ff')";
    assert_eq!(raw.execute(spoil, [id]).unwrap(), 1);
}

/// Puts what is no number into the rows of a user's conversations.
pub(crate) fn spoil_conversations(user: &str, path: &Path) {
    let raw = rusqlite::Connection::open(path).unwrap();
    let spoil = "UPDATE conversation_state SET since = x'ff'
        WHERE inbox IN (SELECT id FROM account WHERE name = ?)";
    assert!(raw.execute(spoil, [user]).unwrap() > 0);
}

/// Puts what is no number into the first copy that a timeline's owner has.
pub(crate) fn spoil_first_copy(owner: &str, path: &Path) {
    let raw = rusqlite::Connection::open(path).unwrap();
    let spoil = "UPDATE copy SET status = x'ff'
        WHERE inbox = (SELECT id FROM account WHERE name = ?1) AND seq = (SELECT min(seq)
            FROM copy WHERE inbox = (SELECT id FROM account WHERE name = ?1))";
    assert_eq!(raw.execute(spoil, [owner]).unwrap(), 1);
}

/// Puts what is no text into the bodies of all messages.
pub(crate) fn spoil_messages(path: &Path) {
    let raw = rusqlite::Connection::open(path).unwrap();
    assert!(
        raw.execute("UPDATE message_data SET body = x'ff'", [])
            .unwrap()
            > 0
    );
}

/// Puts what is no text into all fan-outs of the delivery log.
pub(crate) fn spoil_fan_outs(path: &Path) {
    let raw = rusqlite::Connection::open(path).unwrap();
    assert!(raw.execute("UPDATE fan_out SET work = x'ff'", []).unwrap() > 0);
}
