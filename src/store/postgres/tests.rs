//! The contract of the store, and what PostgreSQL adds to it: a lease, a fence, a connection that
//! breaks. They need a server: `scripts/test` starts one. Without it they fail.

use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::auth::secret::Secret;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::message_id::MessageIds;
use crate::rules::facts::FactSource;
use crate::rules::listing::{From, Place, Window};
use crate::rules::test_support::router;
use crate::store::contract::{
    Feed, Maker, NOW, app, contract, new_copy, new_message, timeline, user,
};
use crate::store::reader::Reader;
use crate::store::{Administration, DeliveryLog};

/// Makes stores in schemas of their own.
pub(super) struct Postgres {
    pub(super) lasting: Target,
}

/// A name that no other test uses.
fn new_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (pid, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!("contract_{pid}_{n}")
}

/// What stands behind the address of the server: a database and a query.
fn server(place: &str) -> Target {
    let port = std::env::var("BED_POSTGRESQL_PORT")
        .expect("BED_POSTGRESQL_PORT is not set: scripts/brokers up, scripts/brokers env");
    let password = Secret::new("observerpw".to_owned());
    let address = format!("postgres://observer@127.0.0.1:{port}/{place}");
    address.parse::<Target>().unwrap().with_password(&password)
}

/// An address of the server, in a schema that is empty.
pub(super) fn empty_schema() -> Target {
    let name = new_name();
    let connection = Connection::open(&server("postgres")).unwrap();
    let made = format!("DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}");
    connection.batch(&made).unwrap();
    server(&format!("postgres?options=-csearch_path%3D{name}"))
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            lasting: empty_schema(),
        }
    }
}

impl Maker for Postgres {
    fn empty(&self) -> Box<dyn Store> {
        Box::new(open(&empty_schema()).unwrap())
    }

    fn lasting(&self) -> Box<dyn Store> {
        Box::new(open(&self.lasting).unwrap())
    }

    fn whole(&self) -> Box<dyn Transfer> {
        Box::new(PostgresStore::open_to_transfer(&self.lasting).unwrap())
    }
}

pub(super) fn open(target: &Target) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(target, Access::Exclusive, OfflineDelivery::Broker)
}

contract!(Postgres);

#[test]
fn two_that_start_at_once_make_one_store_and_one_of_them_has_it() {
    for _ in 0..5 {
        let target = empty_schema();
        let start = || {
            let target = target.clone();
            std::thread::spawn(move || open(&target))
        };
        let opened: Vec<_> = [start(), start(), start()]
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        let refused = opened.iter().filter_map(|store| store.as_ref().err());
        let refused: Vec<String> = refused.map(ToString::to_string).collect();
        assert_eq!(refused.len(), 2, "{refused:?}");
        for text in refused {
            let end = ": if that was killed, it is free in a few seconds";
            assert!(
                text.contains(" is used by ") && text.ends_with(end),
                "{text}"
            );
        }
    }
}

#[test]
fn nobody_migrates_under_a_process_that_serves() {
    let target = empty_schema();
    let serving = open(&target).unwrap();
    let connection = Connection::open(&target).unwrap();
    let more = [
        include_str!("1.sql"),
        include_str!("2.sql"),
        include_str!("3.sql"),
        include_str!("4.sql"),
        "CREATE TABLE later (n BIGINT)",
    ];
    let migrate = || schema::migrate_with(&connection, Access::Exclusive, &more).unwrap();
    let token = || -> i64 {
        let sql = "SELECT token FROM observer WHERE n = 0";
        connection.query(sql, vec![]).unwrap()[0].get(0)
    };
    let before = token();
    assert!(migrate().is_some_and(|holder| holder.starts_with("process ")));
    assert_eq!(token(), before, "it goes on");
    drop(serving);
    assert_eq!(migrate(), None);
    assert!(
        token() > before,
        "whoever has served before writes nothing more"
    );
    // Once it is done, nobody is in the way of anybody.
    let before = token();
    assert_eq!((migrate(), token()), (None, before));
}

/// A database that fails over may have forgotten who took the lease last.
#[test]
fn a_token_is_not_handed_out_twice_although_the_database_forgets_it() {
    let target = empty_schema();
    let connection = Connection::open(&target).unwrap();
    let token = || -> i64 {
        let sql = "SELECT token FROM observer WHERE n = 0";
        connection
            .query(sql, vec![])
            .map_or(0, |rows| rows[0].get(0))
    };
    drop(open(&target).unwrap());
    let kept = token();
    let first = open(&target).unwrap();
    let taken = token();
    let forget =
        format!("UPDATE observer SET token = {kept}, expires = clock_timestamp() WHERE n = 0");
    connection.batch(&forget).unwrap();
    let second = open(&target).unwrap();
    assert!(token() > taken, "{} after {taken}", token());
    drop((first, second));
}

#[test]
fn what_an_earlier_holder_writes_is_refused_whole() {
    let target = empty_schema();
    let mut old = Feed::new(Box::new(open(&target).unwrap()));
    old.message("x", "y", "{}");
    // As if its lease had expired while it was stopped.
    let connection = Connection::open(&target).unwrap();
    connection
        .batch("UPDATE observer SET expires = clock_timestamp()")
        .unwrap();
    let Taken::Ours { lease, .. } = Candidate::open(&target).unwrap().try_take().unwrap() else {
        panic!("the lease has expired, and is not given out");
    };
    let target = target.holding(lease);
    let mut new = Feed::new(Box::new(open(&target).unwrap()));
    let id = old.ids.next(UnixMillis::new(old.now + 1));
    let (origin, text) = (old.origin(id), id.to_string());
    old.store.begin().unwrap();
    old.store
        .apply(&new_message(&text, "x", "y", "{}"), &origin)
        .unwrap();
    let refused = old.store.commit().unwrap_err();
    assert!(matches!(refused, StoreError::Fenced), "{refused}");
    old.store.rollback();
    // Not even what needs an answer.
    old.store.begin().unwrap();
    old.store
        .apply(&new_message("other", "x", "y", "{}"), &origin)
        .unwrap();
    assert!(matches!(old.store.stats(), Err(StoreError::Fenced)));
    old.store.rollback();
    assert!(old.store.probe(Probe::Write).is_err());
    new.message("x", "y", "{}");
    assert_eq!(new.store.stats().unwrap().messages, 2);
}

#[test]
fn a_lease_is_renewed_given_back_and_lost_by_its_holders_own_clock() {
    let target = empty_schema().with_lease(Duration::from_secs(3), "first".to_owned());
    let candidate = Candidate::open(&target).unwrap();
    let watcher = Connection::open(&target).unwrap();
    let expires = || -> f64 {
        let sql = "SELECT extract(epoch FROM expires)::float8 FROM observer WHERE n = 0";
        watcher.query(sql, vec![]).unwrap()[0].get(0)
    };
    let take = || candidate.try_take().unwrap();
    let Taken::Ours { lease, .. } = take() else {
        panic!("nobody has it");
    };
    let (mut renewed, mut until) = (0, expires());
    while renewed < 4 {
        std::thread::sleep(Duration::from_millis(50));
        assert!(matches!(take(), Taken::Theirs { holder } if holder == "first"));
        renewed += u32::from(expires() > until);
        until = expires();
    }
    assert!(lease.is_valid());
    drop(lease);
    let Taken::Ours { lease, .. } = take() else {
        panic!("it was given back");
    };
    // The database does not answer any more: a lock keeps the renewals waiting, for longer than
    // one of their own connections could have it.
    let locking = target.with_lease(Duration::from_secs(60), "lock".to_owned());
    let connection = Connection::open(&locking).unwrap();
    connection
        .batch("BEGIN; UPDATE observer SET n = 0")
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(lease.lost());
    assert!(!lease.is_valid());
    connection.batch("ROLLBACK").unwrap();
}

#[test]
fn a_commit_whose_answer_was_lost_is_found_out() {
    let target = empty_schema();
    let mut store = open(&target).unwrap();
    // The database has it, and the answer is lost: it is asked for the number of the batch.
    store.begin().unwrap();
    store
        .acknowledge(MessageId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap())
        .unwrap();
    store.send_commit().unwrap();
    let fault = || StoreError::Transient("lost".into());
    store.was_committed(fault()).unwrap();
    // It has not.
    store.batch.borrow_mut().end();
    store.begin().unwrap();
    assert!(matches!(
        store.was_committed(fault()),
        Err(StoreError::Transient(_))
    ));
    store.rollback();
    // A number that was committed and taken back stands for nothing that comes later.
    store.begin().unwrap();
    store.send_commit().unwrap();
    store.rollback();
    store.begin().unwrap();
    assert!(store.was_committed(fault()).is_err());
    store.rollback();
}

#[test]
fn a_connection_that_was_cut_is_made_again_with_the_next_batch() {
    let name = new_name();
    let admin = Connection::open(&server("postgres")).unwrap();
    admin.batch(&format!("CREATE DATABASE {name}")).unwrap();
    let mut feed = Feed::new(Box::new(open(&server(&name)).unwrap()));
    feed.message("x", "y", "{}");
    let cut = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = '{name}' AND (query LIKE '%observer SET batch%' OR query = 'COMMIT')"
    );
    admin.batch(&cut).unwrap();
    // The first attempts may find out.
    for _ in 0..50 {
        if feed.store.probe(Probe::Write).is_ok() {
            break;
        }
        feed.store.rollback();
        std::thread::sleep(Duration::from_millis(20));
    }
    feed.message("x", "y", "{}");
    assert_eq!(feed.store.stats().unwrap().messages, 2);
}

#[test]
fn a_batch_that_cannot_begin_takes_no_number_back() {
    let name = new_name();
    let admin = Connection::open(&server("postgres")).unwrap();
    admin.batch(&format!("CREATE DATABASE {name}")).unwrap();
    let mut feed = Feed::new(Box::new(open(&server(&name)).unwrap()));
    feed.message("x", "y", "{}");
    // The database is away.
    let set = |allowed: bool| format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}");
    let cut = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = '{name}'"
    );
    admin.batch(&set(false)).unwrap();
    admin.batch(&cut).unwrap();
    // No batch has begun since the last one was committed.
    while !matches!(feed.store.stats(), Err(StoreError::Connect { .. })) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(feed.store.begin().is_err());
    feed.store.rollback();
    admin.batch(&set(true)).unwrap();
    feed.message("x", "y", "{}");
    assert_eq!(feed.store.stats().unwrap().messages, 2);
    drop(feed);
    admin
        .batch(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .unwrap();
}

#[test]
fn a_page_of_a_timeline_ends_where_it_becomes_large() {
    let target = empty_schema();
    let mut feed = Feed::new(Box::new(open(&target).unwrap()));
    for n in [800_000, 800_000, 3_200_000, 800_000, 1] {
        feed.message("x", "y", &format!("{{\"text\":\"{}\"}}", "x".repeat(n)));
    }
    let mut reader = PostgresStore::open_read_only(&target).unwrap();
    let timeline = timeline("x", "y");
    let mut page = |from| {
        let slice = reader
            .messages(&timeline, Window { from, limit: 9 })
            .unwrap();
        (slice.entries.len(), slice.next)
    };
    let since = |position| From::Since(Place::Position(position));
    assert_eq!(page(since(0)), (2, Some(2)));
    assert_eq!(page(since(2)), (1, Some(3)));
    assert_eq!(page(since(3)), (2, None));
    assert_eq!(page(From::Newest), (2, Some(4)));
}

#[test]
fn a_command_does_again_what_the_observer_was_in_the_way_of() {
    let target = empty_schema();
    let mut observer = open(&target).unwrap();
    let mut command =
        PostgresStore::open(&target, Access::Shared, OfflineDelivery::Broker).unwrap();
    let attempts = |store: &mut PostgresStore| {
        let mut count = 0;
        let done = store.atomically(|store| {
            count += 1;
            store.write_group("a", "g", "{}")?;
            match count {
                3 => Ok(()),
                _ => Err(StoreError::Conflict("deadlock detected".into())),
            }
        });
        (count, done.is_ok())
    };
    assert_eq!(attempts(&mut command), (3, true));
    assert_eq!(attempts(&mut observer), (1, false));
}

#[test]
fn a_database_that_says_nothing_is_not_waited_for() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("postgres://x@{}/x", silent.local_addr().unwrap());
    let mut target: Target = address.parse().unwrap();
    target.config.connect_timeout(Duration::from_millis(50));
    let error = Connection::open(&target).unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    let name = new_name();
    let admin = Connection::open(&server("postgres")).unwrap();
    let made = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    admin
        .batch(&format!("CREATE DATABASE {name} {made}"))
        .unwrap();
    let error = open(&server(&name)).unwrap_err().to_string();
    assert!(
        error.contains("has the encoding LATIN1, and must have UTF8"),
        "{error}"
    );
    admin
        .batch(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .unwrap();
}

#[test]
fn an_owner_that_is_no_user_is_not_an_owner() {
    let mut store = open(&empty_schema()).unwrap();
    let random: String = (0..2_000)
        .map(|_| crate::auth::secret::random_id())
        .collect();
    let body = format!("{{\"owner\":\"{random}\"}}");
    store.set_group("a", "g", &body).unwrap();
    assert_eq!(
        Administration::group_body(&store, "a", "g").unwrap(),
        Some(body)
    );
}

#[test]
fn what_fails_says_where() {
    let target = empty_schema();
    let store = open(&target).unwrap();
    Connection::open(&target)
        .unwrap()
        .batch("DROP TABLE ban")
        .unwrap();
    let error = store.stats().unwrap_err().to_string();
    assert!(
        error.starts_with(&target.to_string()) && error.contains("42P01"),
        "{error}"
    );
}

#[test]
fn a_read_that_is_given_up_ends_here_and_at_the_database() {
    let target = empty_schema();
    let mut feed = Feed::new(Box::new(open(&target).unwrap()));
    feed.message("x", "y", "{}");
    let mut reader = PostgresStore::open_read_only(&target).unwrap();
    let (admin, watch) = (
        Connection::open(&target).unwrap(),
        Connection::open(&target).unwrap(),
    );
    let window = || Window {
        from: From::Newest,
        limit: 9,
    };
    let pid = "SELECT pg_backend_pid()";
    for _ in 0..3 {
        let backend: i32 = reader.row(pid, vec![], |row| row.get(0)).unwrap();
        // A read waits for as long as somebody has this lock.
        admin
            .batch("BEGIN; LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
            .unwrap();
        let give_up = reader.begin_read().unwrap();
        let wait_for = |waiting: i64| {
            let sql = "SELECT count(*) FROM pg_stat_activity
                WHERE pid = $1 AND wait_event_type = 'Lock'";
            while watch.query(sql, params![backend]).unwrap()[0].get::<_, i64>(0) != waiting {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        std::thread::scope(|scope| {
            let read = scope.spawn(|| reader.messages(&timeline("x", "y"), window()));
            wait_for(1);
            give_up();
            let error = read.join().unwrap().err().unwrap();
            assert!(matches!(error, StoreError::Transient(_)), "{error}");
        });
        wait_for(0);
        admin.batch("COMMIT").unwrap();
        let _kept = reader.begin_read().unwrap();
        let page = reader.messages(&timeline("x", "y"), window()).unwrap();
        assert_eq!(page.entries.len(), 1);
    }
}

#[test]
fn an_error_of_the_connection_names_its_cause_once() {
    use std::error::Error;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("postgres://x@{}/x", closed.local_addr().unwrap());
    drop(closed);
    let error = Connection::open(&address.parse().unwrap()).unwrap_err();
    assert!(
        error.source().is_none(),
        "whoever prints the chain prints it twice"
    );
    assert_eq!(error.to_string().matches("refused").count(), 1, "{error}");
}

/// Batches of several slots would wait for each other, in whatever order their messages have come.
#[test]
fn messages_to_groups_lock_no_row_before_the_commit() {
    let mut store = open(&empty_schema()).unwrap();
    let groups = ["group-1", "team"];
    for group in groups {
        let body = r#"{"name":"g","members":{"x":1,"y":1,"z":1}}"#;
        store.write_group("a", group, body).unwrap();
    }
    let blocked = ["a", "z", "x"].map(str::to_owned);
    let (sql, params) = store.block(&blocked, BlockChange::Block);
    store.execute(sql, params).unwrap();
    let layouts = router().layouts;
    let topic = |group: &str| format!("apps/a/outgoing/users/x/messages/{group}/outgoing");
    let topics = groups.map(topic);
    let mut addresses = topics.iter().map(|topic| layouts.parse(topic).unwrap());
    Store::begin(&mut store).unwrap();
    store.prefetch(&mut addresses).unwrap();
    let mut ids = MessageIds::new(RandomState::new());
    for (group, topic) in groups.iter().zip(&topics) {
        let id = ids.next(UnixMillis::new(NOW));
        let text = id.to_string();
        let origin = Origin {
            id,
            fingerprint: Some(1),
            promised: true,
            repeated: false,
            now: UnixMillis::new(NOW),
        };
        let blocked_by = store.blocked_by(app(), user("x")).unwrap();
        assert_eq!(blocked_by, ["z".into()]);
        let own = new_copy(&text, group, group);
        for write in [new_message(&text, "x", group, "{}"), own] {
            store.prefetch_copies(std::slice::from_ref(&write)).unwrap();
            store.apply(&write, &origin).unwrap();
        }
        store.log_fan_out(id, topic.as_bytes(), "{}").unwrap();
        let copies = ["x", "y"].map(|member| new_copy(&text, member, group));
        store.prefetch_copies(&copies).unwrap();
        for copy in &copies {
            assert_eq!(store.apply(copy, &origin).unwrap(), Written::New);
        }
        store.log_position(id, 2).unwrap();
    }
    assert!(!store.batch.borrow().is_in_transaction());
    assert_eq!(store.commit().unwrap(), Committed::Changed);
    let sql = "SELECT DISTINCT inbox_of FROM timeline ORDER BY 1";
    let found = store.connection.query(sql, vec![]).unwrap();
    let found: Vec<String> = found.iter().map(|row| row.get(0)).collect();
    assert_eq!(found, ["group-1", "team", "x", "y"]);
}
