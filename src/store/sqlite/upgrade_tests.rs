//! A store of version 6 is upgraded: nothing is lost, however often that is interrupted.

use std::path::PathBuf;

use rusqlite::params;
use tempfile::TempDir;

use super::SqliteStore;
use super::connection::Connection;
use super::schema::{APPLICATION_ID, MIGRATIONS};
use super::tests::{open_file, write_message_of};
use super::upgrade::Upgrade;
use crate::protocol::envelope::{Envelope, Owned};
use crate::protocol::id::UserId;
use crate::protocol::message_id::MessageIds;
use crate::protocol::time::UnixMillis;
use crate::rules::facts::FactSource;
use crate::rules::listing::{From, Window};
use crate::store::contract::{NOW, app, user};
use crate::store::{Administration, DeliveryLog, History, StoreLocation, administer};

/// A store of version 6 as its own statements filled it.
fn old_store(dir: &TempDir) -> (PathBuf, rusqlite::Connection) {
    let path = dir.path().join("observer.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.pragma_update(None, "auto_vacuum", "INCREMENTAL")
        .unwrap();
    old.pragma_update(None, "journal_mode", "WAL").unwrap();
    for script in &MIGRATIONS[..6] {
        old.execute_batch(script).unwrap();
    }
    old.pragma_update(None, "application_id", APPLICATION_ID)
        .unwrap();
    old.pragma_update(None, "user_version", 6).unwrap();
    (path, old)
}

/// The id and the body of the `n`th message, as a client's or as a service's.
fn message(n: i64, from: &str, to: &str) -> (String, String) {
    if n % 7 == 0 {
        let id = format!("own-id-{n}");
        let body = format!(r#"{{"message_id":"{id}","text":"{n}","sender":"{from}"}}"#);
        return (id, body);
    }
    let mut ids = MessageIds::new(std::hash::RandomState::new());
    let at = UnixMillis::new(NOW + n.unsigned_abs());
    let owned = Owned {
        message_id: ids.next(at),
        sender: UserId::parse(from).unwrap(),
        recipient: UserId::parse(to).unwrap(),
        app: app(),
        timestamp: at,
    };
    let payload = format!(r#"{{"text":"{n}","n":{n}}}"#);
    let body = Envelope::parse(payload.as_bytes()).unwrap().write(&owned);
    (owned.message_id.to_string(), body.as_str().to_owned())
}

/// Fills it with messages, imported ones among them. Returns the last id of an observer's.
fn fill(old: &rusqlite::Connection, messages: i64) -> String {
    let sql = "INSERT INTO message VALUES (?1, ?2, 'a', ?3, ?4, ?5, ?6, ?7, ?8)";
    let mut insert = old.prepare(sql).unwrap();
    let sql = "INSERT INTO timeline VALUES ('a', ?1, ?2, ?3, ?4)";
    let mut copy = old.prepare(sql).unwrap();
    let mut last = String::new();
    for n in -20..=messages {
        if n == 0 {
            let sql = "INSERT INTO message VALUES (0, '', '', '', '', '', ?1, NULL, '{}')";
            old.execute(sql, [NOW.cast_signed() - 1]).unwrap();
            continue;
        }
        let (from, to) = (format!("u{}", n.rem_euclid(13)), format!("u{}", 40 + n % 3));
        let (id, body) = message(n, &from, &to);
        let (layout, at) = (["", "chat21-v1"][usize::from(n > 0)], NOW.cast_signed() + n);
        let fingerprint = (n > 0 && n % 7 != 0).then_some(n);
        insert
            .execute(params![n, id, from, to, layout, at, fingerprint, body])
            .unwrap();
        for (of, with, status) in [(&from, &to, 100), (&to, &from, 150 + n % 2 * 50)] {
            copy.execute(params![of, n, with, status]).unwrap();
        }
        if fingerprint.is_some() {
            last = id;
        }
    }
    // Rows of the list: opened, archived, patched, erased; and one that is not there.
    old.execute_batch(
        r#"INSERT INTO conversation SELECT app, inbox_of, convers_with, max(seq), 1, 0, NULL, NULL
             FROM timeline GROUP BY app, inbox_of, convers_with;
           UPDATE conversation SET is_new = 0 WHERE inbox_of = 'u40' AND convers_with = 'u1';
           UPDATE conversation SET archived = 1 WHERE inbox_of = 'u41' AND convers_with = 'u2';
           UPDATE conversation SET patch = '{"colour":"red"}', patch_seq = seq
             WHERE inbox_of = 'u42' AND convers_with = 'u3';
           UPDATE conversation SET seq = 0, is_new = 0
              WHERE inbox_of = 'u40' AND convers_with = 'u4';
           DELETE FROM conversation WHERE inbox_of = 'u41' AND convers_with = 'u5';
           INSERT INTO block VALUES ('a', 'u1', 'u2');"#,
    )
    .unwrap();
    let log = "INSERT INTO delivery VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, NULL)";
    let mut log = old.prepare(log).unwrap();
    log.execute(params![last, 0, b"in", "to/x", 150, None::<&[u8]>])
        .unwrap();
    log.execute(params![last, 1, None::<&[u8]>, "to/y", None::<i64>, b"raw"])
        .unwrap();
    old.execute("INSERT INTO fan_out VALUES (?1, x'01', '{}')", [&last])
        .unwrap();
    old.execute("INSERT INTO fan_out_position VALUES (?1, 3)", [&last])
        .unwrap();
    last
}

/// What an export hands out of every inbox, and the rows of the lists: of a version 6.
fn exported(old: &rusqlite::Connection) -> Vec<String> {
    let lines = |sql: &str| -> Vec<String> {
        let mut statement = old.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    let mut all = lines(
        "SELECT printf('%s|%s|%s|%d|%d|%s|%s|%s|%d|%s|%s|%s', t.app, t.inbox_of, t.convers_with,
            t.seq, t.status, m.message_id, m.sender, m.recipient, m.stored_at, m.fingerprint,
            m.layout, m.body)
         FROM timeline t JOIN message m ON m.seq = t.seq ORDER BY 1",
    );
    all.extend(lines(
        "SELECT printf('%s|%s|%s|%d|%d|%d|%s|%s', app, inbox_of, convers_with, seq, is_new,
            archived, patch, patch_seq) FROM conversation WHERE seq <> 0 ORDER BY 1",
    ));
    all.push(lines("SELECT printf('%d', count(*)) FROM message WHERE seq <> 0").remove(0));
    all
}

#[test]
fn a_store_of_version_6_is_moved_whole_however_often_that_is_interrupted() {
    let dir = TempDir::new().unwrap();
    let (path, old) = old_store(&dir);
    let last = fill(&old, 500);
    let before = exported(&old);
    drop(old);
    // Schema and first rows, then it is killed; and so again after each step.
    let connection = Connection::open(&path).unwrap();
    connection.begin().unwrap();
    connection.migrate(MIGRATIONS[6]).unwrap();
    connection.set_pragma("user_version", 7).unwrap();
    connection.commit().unwrap();
    drop(connection);
    let mut steps = 0;
    loop {
        let connection = Connection::open(&path).unwrap();
        let mut upgrade = Upgrade::new(&connection).unwrap();
        // It finds what is left, whichever part that belongs to, and does a little of it.
        if !(0..=steps % 5).all(|_| upgrade.step(37).unwrap()) {
            break;
        }
        // A step that is cut off leaves nothing behind.
        connection.begin().unwrap();
        let raw = connection.raw();
        raw.execute_batch("DELETE FROM old_conversation; DELETE FROM copy")
            .unwrap();
        drop(connection);
        let said = administer(&StoreLocation::File(path.clone()))
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(said.contains("has schema 6"), "{said}");
        steps += 1;
        assert!(steps < 1_000);
    }
    assert!(steps > 20, "{steps}");
    let mut store = open_file(&path).unwrap();
    assert_eq!(exported(store.connection.raw()), before);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    assert_log(&store, &last);
    assert_lists(&mut store);
}

fn assert_log(store: &SqliteStore, last: &str) {
    let page = store.unpublished(None, 10).unwrap();
    let [message] = &page.messages[..] else {
        panic!("{page:?}");
    };
    assert_eq!(
        (&*message.id.to_string(), &message.came_on[..]),
        (last, &b"in"[..])
    );
    let topics: Vec<_> = message
        .publishes
        .iter()
        .map(|(_, publish)| (publish.topic.as_str(), publish.payload.len()))
        .collect();
    let body = store.body(message.id).unwrap().unwrap();
    assert_eq!(
        topics,
        [("to/x", body.len() + ",\"status\":150".len()), ("to/y", 3)]
    );
    assert_eq!(message.fan_out.as_ref().unwrap().position, 3);
    assert_eq!(store.last_id().unwrap(), Some(message.id));
    assert_eq!(store.unacknowledged().unwrap().len(), 500 - 500 / 7);
}

fn assert_lists(store: &mut SqliteStore) {
    let list = |store: &SqliteStore, of, archived| {
        let window = Window {
            from: From::Newest,
            limit: 100,
        };
        let slice = store.listed(app(), user(of), archived, window).unwrap();
        slice
            .entries
            .into_iter()
            .map(|entry| entry.convers_with.to_string())
            .collect::<Vec<_>>()
    };
    assert!(
        !list(store, "u40", false).contains(&"u4".to_owned()),
        "erased"
    );
    assert_eq!(list(store, "u41", true), ["u2"]);
    assert!(
        !list(store, "u41", false).contains(&"u5".to_owned()),
        "it had no row"
    );
    assert!(store.blocks(app(), user("u2"), user("u1")).unwrap());
    // The next message to them shows.
    for (from, to) in [("u4", "u40"), ("u2", "u41"), ("u5", "u41")] {
        write_message_of(store, from, to);
        assert_eq!(list(store, to, false)[0], from);
    }
    assert_eq!(list(store, "u41", true), Vec::<String>::new());
}
