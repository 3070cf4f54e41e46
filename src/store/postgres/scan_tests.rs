//! No statement of what goes on all the time reads a whole table: the database counts the scans.

use std::collections::BTreeMap;
use std::time::Duration;

use super::connection::{Connection, params};
use super::tests::{empty_schema, open};
use super::*;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::request::Erased;
use crate::rules::history::PageQuery;
use crate::rules::listing::{From, Place, Window};
use crate::rules::plan::Purpose;
use crate::rules::webhook_event::{Event, EventKind};
use crate::store::contract::{Feed, NOW, app, timeline, user};
use crate::store::reader::Reader;
use crate::store::{Demand, LoggedPublishes, OutboxRequest, Selection, StoreError};

/// Above this the database makes a plan for a statement that holds for all parameters.
const RUNS: usize = 8;

/// Messages of two hundred users, every fifth for one of them, and what else may be large. They are
/// numbered like imported ones, before the observer's own.
const FILL: &str = "
INSERT INTO message SELECT n - 50000, 'id-' || n, 'a', 'user-' || n % 200,
    CASE WHEN n % 5 = 0 THEN 'many' ELSE 'user-' || (n * 7 + 1) % 200 END,
    'chat21-v1', 1700000000000 + n, NULL, '{\"text\":\"message ' || n || '\"}'
    FROM generate_series(1, 40000) n;
INSERT INTO timeline SELECT app, sender, seq, recipient, 100 FROM message
    UNION ALL SELECT app, recipient, seq, sender, 150 FROM message WHERE sender <> recipient;
INSERT INTO conversation SELECT app, inbox_of, convers_with, max(seq), true, max(seq) % 9 = 0
    FROM timeline GROUP BY app, inbox_of, convers_with;
INSERT INTO conversation SELECT 'a', 'other-' || n, 'user-1', 0, false, false
    FROM generate_series(1, 20000) n;
INSERT INTO block SELECT 'a', 'user-' || n % 200, 'other-' || n FROM generate_series(1, 20000) n;
INSERT INTO presence SELECT 'a', 'other-' || n, 'client', n FROM generate_series(1, 20000) n;
INSERT INTO absence SELECT 'a', 'other-' || n, n, 'done' FROM generate_series(1, 20000) n;
INSERT INTO chat_group SELECT 'a', 'group-' || n, '{\"members\":{\"user-1\":1}}', 'other-' || n % 99
    FROM generate_series(1, 20000) n;
INSERT INTO instance SELECT 'a', 'phone-' || n, 'other-' || n, '{}', n
    FROM generate_series(1, 20000) n;
INSERT INTO webhook_data SELECT n, 'hook', NULL, '{}' FROM generate_series(1, 20000) n;
INSERT INTO webhook SELECT n, 'hook', 'event-' || n, 'message-sent', 1790000000000 + n,
    1790000000000 + n, CASE WHEN n > 500 THEN 1790000000000 + n END, 0, false, NULL, '{}', n
    FROM generate_series(1, 20000) n;
INSERT INTO webhook_count VALUES ('hook', 19500, 500, 80000);
UPDATE observer SET last_event = 20000;
ANALYZE";

/// How often each table was scanned from end to end, in this schema.
fn scans(connection: &Connection) -> BTreeMap<String, i64> {
    let sql = "SELECT relname::text, seq_scan FROM pg_stat_user_tables
        WHERE schemaname = current_schema() AND n_live_tup > 10000";
    let rows = connection.query(sql, vec![]).unwrap();
    let counts: BTreeMap<_, _> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(counts.len(), 10, "{counts:?}");
    counts
}

/// The process that serves `connection`.
fn backend(connection: &Connection) -> i32 {
    let sql = "SELECT pg_backend_pid()";
    connection.query(sql, vec![]).unwrap()[0].get(0)
}

/// Waits until the process `pid` has ended, once its connection was dropped. A process tells its
/// counts at most once a second, and always when it ends.
fn ended(watcher: &Connection, pid: i32) {
    let sql = "SELECT 1 FROM pg_stat_activity WHERE pid = $1";
    while !watcher.query(sql, params![pid]).unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The tables that `work` scans on a connection of its own.
fn scanned(watcher: &Connection, target: &Target, work: impl FnOnce(&mut Feed)) -> Vec<String> {
    let mut before = scans(watcher);
    // A start reads who is away.
    *before.get_mut("absence").expect("it is large") += 1;
    let store = open(target).unwrap();
    let pid = backend(&store.connection);
    let mut feed = Feed::new(Box::new(store));
    work(&mut feed);
    drop(feed);
    ended(watcher, pid);
    let after = scans(watcher);
    let more = after.into_iter().filter(|(name, n)| before[name] < *n);
    more.map(|(name, _)| name).collect()
}

#[test]
fn what_goes_on_all_the_time_scans_no_table() {
    let target = empty_schema();
    let watcher = Connection::open(&target).unwrap();
    let store = open(&target).unwrap();
    let pid = backend(&store.connection);
    store.connection.batch(FILL).unwrap();
    drop(store);
    ended(&watcher, pid);
    let seen = scanned(&watcher, &target, |feed| {
        assert_eq!(feed.store.blocked(None, Some("other-7")).unwrap().len(), 1);
    });
    assert_eq!(seen, ["block"], "a command reads them all: it is counted");
    let seen = scanned(&watcher, &target, |feed| {
        (0..RUNS).for_each(|_| facts(feed).unwrap());
    });
    assert_eq!(seen, [""; 0], "the facts of requests");
    let seen = scanned(&watcher, &target, |feed| {
        (0..RUNS).for_each(|_| pages(feed))
    });
    assert_eq!(seen, [""; 0], "history");
    let seen = scanned(&watcher, &target, |feed| {
        (0..RUNS).for_each(|_| writes(feed))
    });
    assert_eq!(seen, [""; 0], "messages and receipts");
    let seen = scanned(&watcher, &target, |feed| {
        (0..RUNS).for_each(|_| outbox(feed.store.as_mut()));
    });
    assert_eq!(seen, [""; 0], "webhooks");
    let before = scans(&watcher);
    let mut reader = PostgresStore::open_read_only(&target).unwrap();
    (0..RUNS).for_each(|_| listings(&mut reader).unwrap());
    let pid = backend(&reader.connection);
    drop(reader);
    ended(&watcher, pid);
    assert_eq!(scans(&watcher), before, "pages of the HTTP API");
}

fn facts(feed: &mut Feed) -> Result<(), StoreError> {
    let store = feed.store.as_mut();
    let (one, many) = (timeline("user-1", "user-8"), timeline("many", "user-5"));
    for (user, peer) in [(one.inbox_of, one), (many.inbox_of, many)] {
        store.is_banned(app(), user)?;
        store.group(app(), user)?;
        store.has_timeline(app(), user)?;
        store.blocked_users(app(), user)?;
        store.blocked_by(app(), user)?;
        store.blocks(app(), user, peer.convers_with)?;
        store.count_blocked(app(), user, 100)?;
        store.count_groups(app(), user, 100)?;
        store.count_conversations(app(), user, 100)?;
        store.position_before_newest(&peer, 100)?;
        store.copy(&peer, "id-4711")?;
        store.copy_by_temp_uid(&peer, "none")?;
        assert!(store.conversation(&peer)?.is_some());
        store.clients(app(), user)?;
        store.absence(app(), user)?;
    }
    store.last_position()?;
    store.position_at(UnixMillis::new(1_700_000_020_000))?;
    store.unacknowledged()?;
    store.last_id()?;
    store.unpublished(None, 100)?;
    Ok(())
}

fn pages(feed: &mut Feed) {
    for of in ["user-1", "many"] {
        for with in [None, Some("user-5")] {
            let page = feed.page(of, -30_000, 50, with);
            assert!(with.is_some() || page.messages.len() >= 50);
        }
    }
    let query = PageQuery {
        after: -10_100,
        last: -10_000,
        convers_with: None,
        limit: 1_000,
    };
    feed.store.page(app(), user("many"), &query).unwrap();
}

fn listings(reader: &mut PostgresStore) -> Result<(), StoreError> {
    let middle = Place::Position(-30_000);
    for from in [From::Newest, From::Before(middle), From::Since(middle)] {
        let window = Window { from, limit: 50 };
        for of in ["user-1", "many"] {
            for archived in [false, true] {
                Reader::conversations(reader, app(), user(of), archived, window)?;
            }
        }
        let found = reader.messages(&timeline("many", "user-5"), window)?;
        assert!(!found.entries.is_empty(), "{from:?}");
        reader.messages(&timeline("user-1", "user-8"), window)?;
    }
    reader.listed_conversation(&timeline("many", "user-5"))?;
    reader.instances(app(), user("other-7"))?;
    reader.clients_since(UnixMillis::new(10_000), UnixMillis::new(10_100), 50)?;
    Reader::group_body(reader, app(), user("group-7"))?;
    Ok(())
}

fn writes(feed: &mut Feed) {
    let members: Vec<String> = (0..40).map(|n| format!("user-{n}")).collect();
    let id = feed.group_message("user-1", "group-7", &members, "{\"n\":1}");
    feed.message("user-1", "many", "{\"n\":2}");
    feed.patch("many", "user-1", "{\"is_new\":false}");
    feed.archive("many", "user-10");
    let raised = id.to_string();
    feed.apply(&Write::Raise {
        timeline: timeline("user-9", "group-7"),
        message_id: raised.as_str().into(),
        status: crate::protocol::status::Status::Received,
    });
    feed.apply(&Write::Block(
        timeline("user-1", "user-2"),
        BlockChange::Block,
    ));
    feed.erase("user-199", Erased::Conversations);
    let store = feed.store.as_mut();
    store.begin().unwrap();
    store
        .log(&LoggedPublishes {
            id,
            came_on: b"x",
            first: 0,
            purpose: Purpose::Copy,
            publishes: &[],
        })
        .unwrap();
    store.log_fan_out(id, b"x", "{}").unwrap();
    store.log_position(id, 32).unwrap();
    store.commit().unwrap();
    assert!(store.log_holds(id).unwrap());
    store.begin().unwrap();
    store.acknowledge(id).unwrap();
    store.published(id).unwrap();
    store.commit().unwrap();
    let limits = Retention {
        age: Some(Duration::from_secs(1)),
        bytes: None,
    };
    // Old enough for the first two hundred of what was filled in.
    let now = UnixMillis::new(1_700_000_001_200);
    feed.store.prune_step(&limits, now).unwrap();
}

fn outbox(store: &mut dyn Store) {
    store.set_endpoints(Endpoints {
        names: vec!["hook".to_owned()],
        max_bytes: 64 << 20,
    });
    let now = UnixMillis::new(NOW);
    let given_up = store.webhooks(&Selection::Ids(vec!["event-7".to_owned()]));
    given_up.unwrap();
    let event = Event {
        kind: EventKind::MessageSent,
        id: "new".to_owned(),
        copy_of: None,
        head: "{}".to_owned(),
        data: "{}".into(),
        shared: Some("m".to_owned()),
    };
    store.enqueue(&event, now).unwrap();
    let demand = OutboxRequest {
        demands: vec![Demand {
            endpoint: 0,
            deliveries: 50,
            in_flight: vec![600, 601],
        }],
        ..OutboxRequest::default()
    };
    let given = store.serve_outbox(&demand, now).unwrap();
    assert_eq!(given.deliveries.len(), 50);
    let results = given.deliveries.iter();
    let results = results.map(|delivery| crate::store::DeliveryResult {
        endpoint: 0,
        seq: delivery.seq,
        disposition: crate::store::Disposition::Delivered,
    });
    let request = OutboxRequest {
        results: results.collect(),
        recovered: vec![0],
        ..OutboxRequest::default()
    };
    store.serve_outbox(&request, now).unwrap();
}
