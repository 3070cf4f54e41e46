//! A store of millions of messages, for benchmarks. One user has a tenth of all messages in their
//! inbox, and ten thousand conversations; one conversation has a tenth of that inbox.

use std::collections::HashMap;
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
        connection
            .execute("INSERT INTO layout VALUES (1, 'chat21')", [])
            .expect("a layout");
        let sql = "INSERT INTO message_data VALUES (?1, ?2, ?3, ?4, 1, ?1, NULL, 0, ?5)";
        let mut message = connection.prepare(sql).expect("a statement");
        let sql = "INSERT INTO copy VALUES (?1, ?2, ?3, ?4)";
        let mut copy = connection.prepare(sql).expect("a statement");
        let sql = "INSERT INTO account VALUES (?1, 'bench', ?2, 0)";
        let mut account = connection.prepare(sql).expect("a statement");
        let mut accounts = HashMap::new();
        let mut number = |name: &str| {
            let next = i64::try_from(accounts.len()).expect("not so many") + 1;
            *accounts.entry(name.to_owned()).or_insert_with(|| {
                account
                    .execute(rusqlite::params![next, name])
                    .expect("an account");
                next
            })
        };
        for n in 1..=messages {
            let (sender, recipient) = people(n);
            let [sender, recipient] = [number(&sender), number(&recipient)];
            if n.is_multiple_of(PER_COMMIT) {
                connection
                    .execute_batch("COMMIT; BEGIN")
                    .expect("a transaction");
            }
            let id = n.to_be_bytes().repeat(2);
            // The observer's own members are left out: the row tells them.
            let body = format!(
                "{{\"text\":\"message number {n} of many\",\"type\":\"text\",\"sender_fullname\":\
                 \"Somebody\",\"recipient_fullname\":\"Somebody else\",\"channel_type\":\"direct\","
            );
            let n = i64::try_from(n).expect("not so many");
            message
                .execute(rusqlite::params![n, id, sender, recipient, body])
                .expect("a message");
            for (of, with, status) in [(sender, recipient, 100), (recipient, sender, 150)] {
                copy.execute(rusqlite::params![of, with, n, status])
                    .expect("a copy");
            }
        }
    }
    connection
        .execute_batch(
            "INSERT INTO conversation_state SELECT inbox, peer, max(seq), max(seq), 1, 0, NULL, NULL
             FROM copy GROUP BY inbox, peer; COMMIT",
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
