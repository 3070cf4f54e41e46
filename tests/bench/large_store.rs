//! A store of millions of messages, for benchmarks. One user has a tenth of all messages in their
//! inbox, and ten thousand conversations; one conversation has a tenth of that inbox.

use std::path::Path;

/// How many the user `many` has.
pub(crate) const CONVERSATIONS: usize = 10_000;
const PER_COMMIT: usize = 100_000;

/// Writes the rows themselves: through the store it would take an hour.
pub(crate) fn fill(path: &Path, messages: usize) {
    let connection = rusqlite::Connection::open(path).expect("the store");
    connection
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -200000; BEGIN")
        .expect("a transaction");
    {
        let sql = "INSERT INTO message VALUES (?1, ?2, 'bench', ?3, ?4, 'chat21', ?5, NULL, ?6)";
        let mut message = connection.prepare(sql).expect("a statement");
        let sql = "INSERT INTO timeline VALUES ('bench', ?1, ?2, ?3, ?4)";
        let mut copy = connection.prepare(sql).expect("a statement");
        for n in 1..=messages {
            let (sender, recipient) = people(n);
            if n.is_multiple_of(PER_COMMIT) {
                connection
                    .execute_batch("COMMIT; BEGIN")
                    .expect("a transaction");
            }
            let n = i64::try_from(n).expect("not so many");
            let id = format!("{n:032}");
            let body = format!(
                "{{\"text\":\"message number {n} of many\",\"type\":\"text\",\"sender_fullname\":\
                 \"Somebody\",\"recipient_fullname\":\"Somebody else\",\"message_id\":\"{id}\",\
                 \"sender\":\"{sender}\",\"recipient\":\"{recipient}\",\"app_id\":\"bench\",\
                 \"timestamp\":{n},\"channel_type\":\"direct\"}}"
            );
            message
                .execute(rusqlite::params![n, id, sender, recipient, n, body])
                .expect("a message");
            for (of, with, status) in [(&sender, &recipient, 100), (&recipient, &sender, 150)] {
                copy.execute(rusqlite::params![of, n, with, status])
                    .expect("a copy");
            }
        }
    }
    connection
        .execute_batch(
            "INSERT INTO conversation SELECT app, inbox_of, convers_with, max(seq), 1, 0, NULL, NULL
             FROM timeline GROUP BY app, inbox_of, convers_with; COMMIT",
        )
        .expect("conversations");
}

/// Every tenth message is for the one user, and every tenth of those from one sender.
fn people(n: usize) -> (String, String) {
    let other = |n: usize| format!("user-{:05}", n % CONVERSATIONS);
    match n.is_multiple_of(10) {
        true if n.is_multiple_of(100) => (other(0), "many".to_owned()),
        true => (other(n / 10), "many".to_owned()),
        false => (other(n), other(n * 7 + 1)),
    }
}
