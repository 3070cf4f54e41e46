//! The contract of the store, and what SQLite adds to it: a file, a lock, a disk.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::schema::{APPLICATION_ID, MIGRATIONS};
use super::*;
use crate::rules::listing::{From, Window};
use crate::store::contract::{Feed, Maker, NOW, contract, new_copy, new_message, timeline};
use crate::store::reader::Reader;
use crate::store::{Administration, BanChange, DeliveryLog, LoggedQuestion};

/// Makes stores in memory, and a lasting one in a file.
struct Sqlite(TempDir);

impl Default for Sqlite {
    fn default() -> Self {
        Self(TempDir::new().unwrap())
    }
}

impl Maker for Sqlite {
    fn empty(&self) -> Box<dyn Store> {
        Box::new(open(&StoreLocation::Memory).unwrap())
    }

    fn lasting(&self) -> Box<dyn Store> {
        Box::new(open_file(&self.0.path().join("observer.db")).unwrap())
    }

    fn whole(&self) -> Box<dyn Transfer> {
        let location = StoreLocation::File(self.0.path().join("observer.db"));
        crate::store::transfer::open_or_make(&location).unwrap()
    }
}

contract!(Sqlite);

fn administer(path: &Path) -> Result<Box<dyn Administration>, StoreError> {
    crate::store::administer(&StoreLocation::File(path.to_owned()))
}

fn open(location: &StoreLocation) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(location, Access::Exclusive, OfflineDelivery::Broker)
}

pub(super) fn open_file(path: &Path) -> Result<SqliteStore, StoreError> {
    open(&StoreLocation::File(path.to_owned()))
}

#[test]
fn a_store_is_private_and_used_by_one_observer_at_a_time() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("deep/observer.db");
    let store = open_file(&path).unwrap();
    for file in ["observer.db", "observer.db-wal"] {
        let file = path.with_file_name(file);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file:?}");
    }
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for path in [&path, &link] {
        let error = open_file(path).unwrap_err();
        assert!(matches!(error, StoreError::InUse(_)), "{error}");
    }
    assert!(
        administer(&path).is_ok(),
        "commands may look at it meanwhile"
    );
    drop(store);
    assert!(open_file(&path).is_ok());
    assert!(matches!(
        administer(&dir.path().join("none")).unwrap_err(),
        StoreError::Missing(_)
    ));
}

#[test]
fn only_a_store_of_this_version_or_before_is_opened() {
    let dir = TempDir::new().unwrap();
    let other = dir.path().join("other.db");
    let connection = rusqlite::Connection::open(&other).unwrap();
    connection.execute_batch("CREATE TABLE x (y)").unwrap();
    let error = open_file(&other).unwrap_err();
    assert!(matches!(error, StoreError::Foreign(_)), "{error}");

    let newer = dir.path().join("newer.db");
    drop(open_file(&newer).unwrap());
    rusqlite::Connection::open(&newer)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = open_file(&newer).unwrap_err().to_string();
    assert!(
        error
            .ends_with("newer.db has schema 99, made by a later version: this one knows 7 at most"),
        "{error}"
    );

    let noise = dir.path().join("noise.db");
    let text = "this is no database, and long enough to be sure of it";
    std::fs::write(&noise, text.repeat(20)).unwrap();
    let error = open_file(&noise).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
}

#[test]
fn a_store_of_an_earlier_version_is_brought_up_to_date() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "application_id", APPLICATION_ID)
        .unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute("INSERT INTO block VALUES ('a', 'bob', 'alice')", [])
        .unwrap();
    drop(old);
    // A command leaves it as it is: an observer of that version may be running.
    let said = administer(&path).map(drop).unwrap_err().to_string();
    assert!(
        said.contains("has schema 1, made by an earlier version"),
        "{said}"
    );
    drop(open_file(&path).unwrap());
    let mut store = administer(&path).unwrap();
    let now = UnixMillis::new(NOW);
    assert!(store.set_ban("a", "mallory", BanChange::Ban, now).unwrap());
    let blocked = store.blocked(None, None).unwrap();
    let users: Vec<_> = blocked.iter().map(|one| one.user.as_str()).collect();
    assert_eq!(users, ["mallory", "bob"]);
}

/// Messages, copies and conversations.
fn counts(store: &SqliteStore) -> (i64, i64, i64) {
    let stats = store.stats().unwrap();
    (stats.messages, stats.copies, stats.conversations)
}

fn write_message(store: &mut SqliteStore, body: &str) -> Result<Committed, StoreError> {
    let mut ids = crate::protocol::message_id::MessageIds::new(std::hash::RandomState::new());
    let now = UnixMillis::new(NOW);
    let origin = Origin {
        promised: true,
        id: ids.next(now),
        fingerprint: Some(7),
        repeated: false,
        now,
    };
    let id = origin.id.to_string();
    store.begin()?;
    store.apply(&new_message(&id, "x", "y", body), &origin)?;
    store.apply(&new_copy(&id, "x", "y"), &origin)?;
    store.apply(&new_copy(&id, "y", "x"), &origin)?;
    store.commit()
}

pub(super) fn write_message_of(store: &mut SqliteStore, from: &str, to: &str) {
    let mut ids = crate::protocol::message_id::MessageIds::new(std::hash::RandomState::new());
    let now = UnixMillis::new(NOW + 1_000);
    let origin = Origin {
        promised: true,
        id: ids.next(now),
        fingerprint: Some(7),
        repeated: false,
        now,
    };
    let id = origin.id.to_string();
    store.begin().unwrap();
    store
        .apply(&new_message(&id, from, to, "{}"), &origin)
        .unwrap();
    store.apply(&new_copy(&id, to, from), &origin).unwrap();
    store.commit().unwrap();
}

#[test]
fn a_locked_file_and_a_full_disk_leave_nothing_behind_and_can_be_tried_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let mut store = open_file(&path).unwrap();
    let raw = store.connection.raw();
    raw.busy_timeout(Duration::from_millis(10)).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = write_message(&mut store, "{}").unwrap_err();
    assert!(matches!(error, StoreError::Transient(_)), "{error}");
    assert_eq!(error.to_string(), "database is locked");
    store.rollback();
    other.execute_batch("ROLLBACK").unwrap();
    // A disk that is full while the transaction is written.
    let raw = store.connection.raw();
    raw.execute_batch("PRAGMA max_page_count = 1").unwrap();
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(100_000));
    let error = write_message(&mut store, &large).unwrap_err();
    assert!(matches!(error, StoreError::Transient(_)), "{error}");
    assert_eq!(error.to_string(), "database or disk is full");
    store.rollback();
    assert_eq!(counts(&store), (0, 0, 0));
    let raw = store.connection.raw();
    raw.execute_batch("PRAGMA max_page_count = 1073741823")
        .unwrap();
    let committed = write_message(&mut store, "{}").unwrap();
    assert_eq!(committed, Committed::Changed);
    assert_eq!(counts(&store), (1, 2, 2));
}

#[test]
fn a_probe_finds_a_locked_file_and_the_store_works_on() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let mut store = open_file(&path).unwrap();
    let raw = store.connection.raw();
    raw.busy_timeout(Duration::from_millis(10)).unwrap();
    store.probe(Probe::Write).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for probe in [Probe::Lock, Probe::Write] {
        assert!(store.probe(probe).is_err());
        store.rollback();
    }
    other.execute_batch("ROLLBACK").unwrap();
    store.probe(Probe::Lock).unwrap();
    let durability: i64 = store.connection.pragma("synchronous").unwrap();
    assert_eq!(durability, 2, "commits wait for the disk again");
}

#[test]
fn pages_that_are_free_are_given_back() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let mut feed = Feed::new(Box::new(open_file(&path).unwrap()));
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(100_000));
    for _ in 0..200 {
        feed.message("x", "y", &large);
    }
    feed.acknowledge_all();
    let reader = Connection::open(&path).unwrap();
    let pages = || reader.pragma::<u32>("page_count").unwrap();
    let before = pages();
    let later = UnixMillis::new(NOW + 1_000_000);
    feed.store.prune_before(later).unwrap();
    let after = pages();
    assert!(
        before > 4_000 && after < 1_200,
        "{before} pages, then {after}"
    );
}

#[test]
fn names_that_nothing_refers_to_are_deleted_and_given_again() {
    let dir = TempDir::new().unwrap();
    let mut store = open_file(&dir.path().join("observer.db")).unwrap();
    let accounts = |store: &SqliteStore| -> i64 {
        let count = "SELECT count(*) FROM account";
        let raw = store.connection.raw();
        raw.query_row(count, [], |row| row.get(0)).unwrap()
    };
    for n in 0..3 {
        write_message_of(&mut store, &format!("x{n}"), "y");
    }
    // As if many messages had come since.
    let raw = store.connection.raw();
    raw.execute_batch(
        "INSERT INTO message_data SELECT 100000, x'00', sender, recipient, layout, stored_at, NULL,
         NULL, '{}' FROM message_data WHERE seq = 3;
         UPDATE account SET used = 100000 WHERE name IN ('x2', 'y')",
    )
    .unwrap();
    assert_eq!(accounts(&store), 4);
    let later = UnixMillis::new(NOW + 10_000_000);
    let everything = MessageId::parse("ffffffff-ffff-7fff-bfff-ffffffffffff").unwrap();
    store.begin().unwrap();
    store.acknowledge(everything).unwrap();
    store.commit().unwrap();
    store.prune_before(later).unwrap();
    // The last message stays, and with it the names that it bears; so does what it was given since.
    store.sweep = Sweep::default();
    store.prune_before(later).unwrap();
    assert_eq!((accounts(&store), counts(&store)), (2, (1, 0, 0)));
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    write_message_of(&mut store, "x0", "y");
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn upkeep_empties_the_log_and_gathers_statistics() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let mut feed = Feed::new(Box::new(open_file(&path).unwrap()));
    for _ in 0..200 {
        feed.message("x", "y", "{}");
    }
    let statistics = || -> i64 {
        let reader = rusqlite::Connection::open(&path).unwrap();
        let count = "SELECT count(*) FROM sqlite_stat1 WHERE tbl IN ('message_data', 'copy')";
        reader.query_row(count, [], |row| row.get(0)).unwrap_or(0)
    };
    assert_eq!(statistics(), 0);
    let mut upkeep = feed.store.upkeep().unwrap().unwrap();
    for _ in 0..checkpoint::RUNS_PER_OPTIMIZE {
        upkeep.run().unwrap();
    }
    // One row an index: two of `copy`.
    assert_eq!(statistics(), 3);
    assert!(
        open(&StoreLocation::Memory)
            .unwrap()
            .upkeep()
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_read_that_is_given_up_ends_and_the_next_one_is_not_hurt() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let mut feed = Feed::new(Box::new(open_file(&path).unwrap()));
    feed.message("x", "y", "{}");
    let mut reader = SqliteStore::open_read_only(&path).unwrap();
    for _ in 0..3 {
        let give_up = reader.begin_read().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(give_up);
            // It has no end of its own.
            let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                SELECT count(*) FROM n";
            let count = reader
                .connection
                .raw()
                .query_row(endless, [], |row| row.get::<_, i64>(0));
            let error = StoreError::from(count.unwrap_err());
            assert!(matches!(error, StoreError::Transient(_)), "{error}");
        });
        let _kept = reader.begin_read().unwrap();
        let window = Window {
            from: From::Newest,
            limit: 9,
        };
        let page = reader.messages(&timeline("x", "y"), window).unwrap();
        assert_eq!(page.entries.len(), 1);
    }
}

#[test]
fn a_question_without_a_payload_is_damaged_and_can_be_forgotten() {
    let dir = TempDir::new().unwrap();
    let mut store = open_file(&dir.path().join("observer.db")).unwrap();
    let id = MessageId::parse("01a3185d-0086-7000-8517-28b2a485420a").unwrap();
    let question = LoggedQuestion {
        id,
        topic: Bytes::from_static(b"asked"),
        payload: Bytes::from_static(b"{}"),
        is_damaged: false,
    };
    store.begin().unwrap();
    store.log_question(&question).unwrap();
    store.commit().unwrap();
    let raw = store.connection.raw();
    raw.execute_batch("UPDATE delivery SET payload = NULL")
        .unwrap();
    let damaged = LoggedQuestion {
        payload: Bytes::new(),
        is_damaged: true,
        ..question
    };
    assert_eq!(store.questions().unwrap(), [damaged]);
    store.begin().unwrap();
    store.published(id).unwrap();
    store.commit().unwrap();
    assert_eq!(store.questions().unwrap(), []);
}

#[test]
fn a_copy_appears_whole_or_not_at_all() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let mut store = open_file(&dir.path().join("observer.db")).unwrap();
    write_message(&mut store, "{}").unwrap();
    let copy = dir.path().join("copy.db");
    store.back_up(&copy).unwrap();
    let copied = administer(&copy).unwrap();
    assert_eq!(copied.stats().unwrap().messages, 1);
    assert_eq!(copied.check().unwrap(), Vec::<String>::new());
    drop(copied);
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nobody's file is written over.
    let before = std::fs::read(&copy).unwrap();
    let error = store.back_up(&copy).unwrap_err();
    assert!(
        matches!(&error, StoreError::Make { path, .. } if *path == copy),
        "{error}"
    );
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    std::fs::remove_file(&copy).unwrap();
    // Not UTF-8: SQLite cannot make it.
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff.db");
    let odd = dir.path().join::<&std::ffi::OsStr>(odd);
    store.back_up(&odd).unwrap_err();
    let left = std::fs::read_dir(dir.path()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    assert!(
        left.iter().all(|name| name.starts_with("observer.db")),
        "{left:?}"
    );
}

#[test]
fn a_command_makes_no_store_of_an_empty_file_and_says_why_it_cannot_look() {
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    let error = administer(&empty).unwrap_err();
    assert!(matches!(error, StoreError::Empty(_)), "{error}");
    let location = StoreLocation::File(empty.clone());
    let error = crate::store::transfer::open(&location).err().unwrap();
    assert!(matches!(error, StoreError::Empty(_)), "{error}");
    assert_eq!(std::fs::metadata(&empty).unwrap().len(), 0);
    // An observer does: it may have been killed before it made the tables.
    drop(open_file(&empty).unwrap());
    administer(&empty).unwrap();
    // The way to it is not open: that is not to say that there is none.
    let error = administer(&empty.join("observer.db")).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    assert!(cause.unwrap().contains("Not a directory"));
    let error = administer(&dir.path().join("nowhere.db")).unwrap_err();
    assert!(matches!(error, StoreError::Missing(_)), "{error}");
}

#[test]
fn what_is_damaged_is_a_fault_and_ends_no_check() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let mut feed = Feed::new(Box::new(open_file(&path).unwrap()));
    for n in 0..500 {
        feed.message("alice", &format!("u{n}"), &"x".repeat(200));
    }
    drop(feed);
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'copy_in_order'";
    let raw = rusqlite::Connection::open(&path).unwrap();
    let page: i64 = raw.query_row(root, [], |row| row.get(0)).unwrap();
    let page = usize::try_from(page).unwrap();
    drop(raw);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[(page - 1) * 4096..page * 4096].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let faults = administer(&path).unwrap().check().unwrap();
    assert!(!faults.is_empty(), "{faults:?}");

    // A byte of a text: SQLite's own check finds nothing.
    let path = dir.path().join("other.db");
    let mut store = open_file(&path).unwrap();
    write_message(&mut store, "{}").unwrap();
    let raw = store.connection.raw();
    let change = "UPDATE message_data SET body = CAST(x'7bff7d' AS TEXT) WHERE seq = 1";
    assert_eq!(raw.execute(change, []).unwrap(), 1);
    let faults = administer(&path).unwrap().check().unwrap();
    assert!(
        faults[0].starts_with("message 1 cannot be read: "),
        "{faults:?}"
    );
}
