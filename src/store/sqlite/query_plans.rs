//! No statement reads more rows than it must: asserted of every statement of the store.

use std::collections::HashMap;

use super::connection::{Connection, Statement};
use super::{
    SqliteStore, accounts, conversations, delivery_log, facts, history, import, inspect, outbox,
    presence, reader, retention, schema, transfer, upgrade, webhook_queue, write,
};
use crate::store::{Access, OfflineDelivery, StoreLocation};

/// The statements of every file. The compiler warns of a list that is missing here.
const ALL: [&[Statement]; 17] = [
    super::STATEMENTS,
    accounts::STATEMENTS,
    conversations::STATEMENTS,
    delivery_log::STATEMENTS,
    facts::STATEMENTS,
    history::STATEMENTS,
    import::STATEMENTS,
    inspect::STATEMENTS,
    outbox::STATEMENTS,
    presence::STATEMENTS,
    reader::STATEMENTS,
    retention::STATEMENTS,
    schema::STATEMENTS,
    transfer::STATEMENTS,
    upgrade::STATEMENTS,
    webhook_queue::STATEMENTS,
    write::STATEMENTS,
];

/// A row of `sqlite_stat1`: table, index, and its numbers: rows in all, then rows that share the
/// first column, the first two, and so on.
type Statistic = (&'static str, &'static str, &'static str);

/// What the planner may believe of the tables.
const STATISTICS: [(&str, &[Statistic]); 3] = [
    ("nothing", &[]),
    (
        "a store that is almost empty",
        &[
            ("account", "account_by_name", "4 1 1"),
            ("message_data", "message_data_by_id", "3 1"),
            ("copy", "copy", "6 3 2 1"),
            ("copy", "copy_in_order", "6 3 1 1"),
            ("conversation_state", "conversation_state", "4 2 1"),
            ("conversation_state", "conversation_state_by_peer", "4 2 1"),
            ("conversation_state", "conversation_state_archived", "1 1 1"),
            ("chat_group", "chat_group", "1 1 1"),
            ("block", "block", "1 1 1 1"),
            ("block", "block_by_owner", "1 1 1"),
            ("ban", "ban", "1 1 1"),
            ("presence", "presence", "2 2 1 1"),
            ("absence", "absence", "2 2 1"),
            ("state", "state", "2 1"),
            ("webhook", "webhook_due", "3 3 1 1"),
            ("webhook", "webhook_given_up", "1 1 1"),
            ("webhook", "webhook_once", "3 1 1"),
            ("webhook", "webhook_by_data", "3 1"),
            ("webhook_data", "webhook_shared", "2 1 1"),
            ("webhook_count", "webhook_count", "1 1"),
        ],
    ),
    (
        "one app, where one inbox has half of a million messages",
        &[
            ("account", "account_by_name", "500000 1 1"),
            ("message_data", "message_data_by_id", "1000000 1"),
            ("copy", "copy", "2000000 1000000 4 1"),
            ("copy", "copy_in_order", "2000000 1000000 1 1"),
            (
                "conversation_state",
                "conversation_state",
                "500000 250000 1",
            ),
            (
                "conversation_state",
                "conversation_state_by_peer",
                "500000 2 1",
            ),
            (
                "conversation_state",
                "conversation_state_archived",
                "1000 500 1",
            ),
            ("chat_group", "chat_group", "20000 20000 1"),
            ("block", "block", "100000 100000 100 1"),
            ("block", "block_by_owner", "100000 100000 5000"),
            ("ban", "ban", "1000 1000 1"),
            ("presence", "presence", "50000 50000 2 1"),
            ("absence", "absence", "50000 50000 1"),
            ("state", "state", "2 1"),
            ("webhook", "webhook_due", "100000 50000 500 1"),
            ("webhook", "webhook_given_up", "1000 500 1"),
            ("webhook", "webhook_once", "100000 2 1"),
            ("webhook", "webhook_by_data", "100000 20"),
            ("webhook_data", "webhook_shared", "5000 2 1"),
            ("webhook_count", "webhook_count", "2 1"),
        ],
    ),
];

fn store_with(statistics: &[Statistic]) -> SqliteStore {
    let location = StoreLocation::Memory;
    let store = SqliteStore::open(&location, Access::Exclusive, OfflineDelivery::Broker).unwrap();
    let connection = store.connection.raw();
    for table in old_tables() {
        connection.execute_batch(&table).unwrap();
    }
    connection
        .execute_batch("ANALYZE; DELETE FROM sqlite_stat1")
        .unwrap();
    for (table, index, rows) in statistics {
        connection
            .execute(
                "INSERT INTO sqlite_stat1 VALUES (?, ?, ?)",
                [table, index, rows],
            )
            .unwrap();
    }
    connection.execute_batch("ANALYZE sqlite_schema").unwrap();
    store
}

/// The tables that an upgrade reads, as it finds them.
fn old_tables() -> Vec<String> {
    let begun = rusqlite::Connection::open_in_memory().unwrap();
    for script in schema::MIGRATIONS {
        begun.execute_batch(script).unwrap();
    }
    let text = "SELECT sql FROM sqlite_schema WHERE name LIKE 'old_%' AND type = 'table'";
    let mut tables = begun.prepare(text).unwrap();
    let tables = tables.query_map([], |row| row.get(0)).unwrap();
    tables.collect::<Result<_, _>>().unwrap()
}

/// The steps of a statement's plan.
fn plan(connection: &Connection, statement: &Statement) -> Vec<String> {
    let text = format!("EXPLAIN QUERY PLAN {}", statement.sql);
    let mut prepared = connection.raw().prepare(&text).unwrap();
    let mut rows = prepared.raw_query();
    let mut steps = vec![];
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get("detail").unwrap());
    }
    steps
}

/// Whether a step reads a whole table, or one of its large parts: an app, an inbox.
fn reads_much(step: &str) -> bool {
    let scans = step.strip_prefix("SCAN ").is_some_and(|rows| {
        // These rows are no table's: parameters, and what another step has found.
        let found = ["json_each", "CONSTANT ROW", "(subquery"];
        !found.iter().any(|other| rows.starts_with(other))
    });
    let whole_inbox = step.ends_with("(inbox=?)");
    scans || step.ends_with("(app=?)") || step.contains("(ANY(") || whole_inbox
}

#[test]
fn no_statement_reads_a_whole_table_or_inbox_but_those_with_a_reason() {
    // The steps that read much, by statement. Where there is a reason, it covers the steps of a new
    // store: the same, whatever the planner believes.
    let mut covered: HashMap<&str, usize> = HashMap::new();
    let mut faults = vec![];
    let mut seen = 0;
    for (state, statistics) in STATISTICS {
        let store = store_with(statistics);
        for statement in ALL.iter().copied().flatten() {
            seen += 1;
            let steps = plan(&store.connection, statement);
            let many = steps.iter().filter(|step| reads_much(step)).count();
            let expected = *covered.entry(statement.name).or_insert(many);
            if many != expected || (many > 0 && statement.may_scan.is_empty()) {
                faults.push(format!("{} ({state}): {steps:#?}", statement.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen >= 3 * 70, "the statements were not found: {seen}");
    let unneeded: Vec<_> = ALL
        .iter()
        .copied()
        .flatten()
        .filter(|statement| !statement.may_scan.is_empty() && covered[statement.name] == 0)
        .map(|statement| statement.name)
        .collect();
    assert!(unneeded.is_empty(), "they scan nothing: {unneeded:?}");
}

/// The plan that the planner chose by itself, and the reason for this file.
#[test]
fn a_join_that_begins_with_the_inbox_counts_as_reading_much() {
    let natural = Statement {
        name: "NATURAL",
        sql: "SELECT m.sender, t.status FROM message_data m
            JOIN copy t ON t.inbox = ?2 AND +t.seq = m.seq WHERE m.id = ?4",
        may_scan: &[],
    };
    let store = store_with(&[]);
    let steps = plan(&store.connection, &natural);
    assert!(steps.iter().any(|step| reads_much(step)), "{steps:#?}");
    for much in [
        "SCAN message",
        "SCAN t USING INDEX timeline",
        "SEARCH timeline USING PRIMARY KEY (app=?)",
    ] {
        assert!(reads_much(much), "{much}");
    }
    for little in [
        "SCAN json_each VIRTUAL TABLE INDEX 1:",
        "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)",
    ] {
        assert!(!reads_much(little), "{little}");
    }
}
