//! The schema: migrations, and the table by which a database is known as a store.
//!
//! A migration never changes once it is released.

use std::time::Duration;

use super::connection::{Connection, params};
use super::target::{SharedBy, Target};
use crate::auth::secret::random_id;
use crate::store::{Access, StoreError};

/// The migrations, in order.
const MIGRATIONS: [&str; 4] = [
    include_str!("1.sql"),
    include_str!("2.sql"),
    include_str!("3.sql"),
    include_str!("4.sql"),
];

/// Attempts to make the first table: another process may be making it.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

const ENCODING: &str = "SELECT current_setting('server_encoding')";
const FIND_TABLE: &str = "SELECT to_regclass('observer_schema') IS NOT NULL,
    to_regclass('message') IS NOT NULL OR to_regclass('timeline') IS NOT NULL";
const MAKE_TABLE: &str = "CREATE TABLE IF NOT EXISTS observer_schema
    (n BIGINT PRIMARY KEY, version BIGINT NOT NULL);
    INSERT INTO observer_schema VALUES (0, 0) ON CONFLICT DO NOTHING";
const VERSION: &str = "SELECT version FROM observer_schema WHERE n = 0";
// The row stays locked until the transaction ends: one process migrates at a time.
const LOCK_VERSION: &str = "UPDATE observer_schema SET version = version WHERE n = 0
    RETURNING version";
// The secret is a parameter: databases log the text of statements.
const FIRST_ROW: &str = "INSERT INTO observer
    (n, token, holder, expires, batch, last_seq, last_event, acknowledged, bytes, secret)
    VALUES (0, 0, '', to_timestamp(0), 0, 0, 0, '', 0, $1)";
const MORE_ROWS: &str = "INSERT INTO observer
    (n, token, holder, expires, batch, last_seq, last_event, acknowledged, bytes, secret)
    SELECT slot, 0, '', to_timestamp(0), 0, 0, last_event, acknowledged, 0, secret
    FROM observer, generate_series(1, $1::bigint) AS slot WHERE n = 0";
const FEWER_ROWS: &str = "DELETE FROM observer WHERE n > 0";
// A command has no name.
const FORGET_SETTINGS: &str = "UPDATE observer SET sharing = '',
    name = CASE WHEN $1 = '' THEN name ELSE '' END";
const KEEP_NAME: &str = "UPDATE observer SET name = $1 WHERE name = ''";
const OTHER_NAME: &str = "SELECT name FROM observer WHERE name <> $1 LIMIT 1";
const KEEP_SHARING: &str = "UPDATE observer SET sharing = $1 WHERE sharing = ''";
const OTHER_SHARING: &str = "SELECT sharing FROM observer WHERE sharing <> $1 LIMIT 1";
const COUNT_SLOTS: &str = "SELECT count(*), coalesce(bool_or(served), false) FROM observer";
const END_LEASES: &str = "UPDATE observer SET
    token = greatest(token + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    RETURNING holder, expires > clock_timestamp()";

/// The version of the schema that this program knows.
pub(super) fn known() -> i64 {
    number_of(&MIGRATIONS)
}

fn number_of(migrations: &[&str]) -> i64 {
    i64::try_from(migrations.len()).expect("a few migrations")
}

/// Whether another process has brought the schema to a newer version.
///
/// # Errors
/// [`StoreError::Newer`] if one has.
pub(super) fn check_version(connection: &Connection) -> Result<(), StoreError> {
    let (found, known) = (version(connection)?, known());
    match found > known {
        true => {
            let path = connection.target().path();
            Err(StoreError::Newer { path, found, known })
        }
        false => Ok(()),
    }
}

fn version(connection: &Connection) -> Result<i64, StoreError> {
    let rows = connection.query(VERSION, vec![])?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

/// Brings the schema up to date. A command does not: the observer that has the store may be of an
/// earlier version, which would not know the schema any more. Nor does an observer while another
/// serves: returns who does.
pub(super) fn migrate(
    connection: &Connection,
    access: Access,
) -> Result<Option<String>, StoreError> {
    migrate_with(connection, access, &MIGRATIONS)
}

/// The same with these migrations.
pub(super) fn migrate_with(
    connection: &Connection,
    access: Access,
    migrations: &[&str],
) -> Result<Option<String>, StoreError> {
    let known = number_of(migrations);
    let path = || connection.target().path();
    if access == Access::Exclusive {
        check_encoding(connection)?;
    }
    let row = connection.query(FIND_TABLE, vec![])?;
    let (is_made, is_taken): (bool, bool) = (row[0].get(0), row[0].get(1));
    if !is_made {
        if access == Access::Shared {
            return Err(StoreError::Missing(path()));
        }
        if is_taken {
            return Err(StoreError::Foreign(path()));
        }
        make_table(connection)?;
    }
    let found = version(connection)?;
    if found > known {
        let path = path();
        return Err(StoreError::Newer { path, found, known });
    }
    if found == known {
        return Ok(None);
    }
    if access == Access::Shared {
        let path = path();
        return Err(match found {
            0 => StoreError::Missing(path),
            _ => StoreError::Older { path, found, known },
        });
    }
    connection.batch("BEGIN")?;
    let migrated = apply_migrations(connection, migrations);
    if !matches!(migrated, Ok(Migrated::Done)) {
        let _ = connection.batch("ROLLBACK");
    }
    Ok(match migrated? {
        Migrated::Done | Migrated::Already => None,
        Migrated::Held(holder) => Some(holder),
    })
}

/// Texts are in UTF-8, and their bytes are counted.
fn check_encoding(connection: &Connection) -> Result<(), StoreError> {
    let rows = connection.query(ENCODING, vec![])?;
    let encoding: String = rows.first().map_or_else(String::new, |row| row.get(0));
    if encoding.eq_ignore_ascii_case("UTF8") {
        return Ok(());
    }
    let target = connection.target();
    let told = format!(
        "{target} has the encoding {encoding}, and must have UTF8: createdb --encoding UTF8 \
         --template template0 DATABASE"
    );
    Err(StoreError::Permanent(told.into()))
}

/// Two that make the table at once collide in the system's own tables: the second finds it there
/// when it tries again.
fn make_table(connection: &Connection) -> Result<(), StoreError> {
    for _ in 1..ATTEMPTS {
        match connection.batch(MAKE_TABLE) {
            Ok(()) => return Ok(()),
            Err(StoreError::Permanent(_) | StoreError::Conflict(_)) => std::thread::sleep(PAUSE),
            Err(other) => return Err(other),
        }
    }
    connection.batch(MAKE_TABLE)
}

/// What came of an attempt to migrate.
enum Migrated {
    Done,
    /// Another process has done it meanwhile.
    Already,
    /// This one serves, so nothing is changed.
    Held(String),
}

fn apply_migrations(connection: &Connection, migrations: &[&str]) -> Result<Migrated, StoreError> {
    let rows = connection.query(LOCK_VERSION, vec![])?;
    let found: i64 = rows.first().map_or(0, |row| row.get(0));
    let applied = usize::try_from(found).unwrap_or(0).min(migrations.len());
    if applied == migrations.len() {
        return Ok(Migrated::Already);
    }
    if applied > 0 {
        // Nobody takes a lease before this has ended, and who has had one writes nothing more.
        let holders = connection.query(END_LEASES, vec![])?;
        if let Some(row) = holders.iter().find(|row| row.get(1)) {
            return Ok(Migrated::Held(row.get(0)));
        }
    }
    for script in &migrations[applied..] {
        connection.batch(script)?;
    }
    if found == 0 {
        connection.execute(FIRST_ROW, params![random_id()])?;
    }
    let known = migrations.len();
    connection.batch(&format!(
        "UPDATE observer_schema SET version = {known} WHERE n = 0"
    ))?;
    connection.batch("COMMIT")?;
    Ok(Migrated::Done)
}

/// Keeps the number of slots, how they share messages and the name of the observer, or checks them:
/// they stay from the time that the first slot is served. Then does what follows, in one
/// transaction.
pub(super) fn keep_settings<T>(
    connection: &Connection,
    target: &Target,
    then: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.batch("BEGIN")?;
    let done = keep(connection, target).and_then(|()| then());
    let ended = connection.batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" });
    let done = done?;
    ended.map(|()| done)
}

/// Whether the settings are those that stay. Keeps nothing.
pub(super) fn check_settings(connection: &Connection, target: &Target) -> Result<(), StoreError> {
    connection.batch("BEGIN")?;
    let kept = keep(connection, target);
    // The first thing that went wrong counts, and a connection that ends rolls back, too.
    let _ = connection.batch("ROLLBACK");
    kept
}

fn keep(connection: &Connection, target: &Target) -> Result<(), StoreError> {
    connection.query(LOCK_VERSION, vec![])?;
    let rows = connection.query(COUNT_SLOTS, vec![])?;
    let (found, is_used): (i64, bool) = rows
        .first()
        .map_or((0, false), |row| (row.get(0), row.get(1)));
    if !is_used {
        connection.execute(FORGET_SETTINGS, params![target.name.clone()])?;
    }
    let wanted = i64::from(target.slots);
    if found != wanted {
        if is_used {
            return Err(other_slots(connection, found));
        }
        connection.execute(FEWER_ROWS, vec![])?;
        connection.execute(MORE_ROWS, params![wanted - 1])?;
    }
    keep_name(connection, &target.name)?;
    keep_sharing(connection, (target.slots, target.sharing))
}

fn other_slots(connection: &Connection, found: i64) -> StoreError {
    let told = format!(
        "{} was made for {found} slots, which stays: start every observer on it with --slots \
         {found}, or copy the messages to a new store",
        connection.target()
    );
    StoreError::Permanent(told.into())
}

/// The name of the observer stays with the store: another one would have other sessions at the
/// broker, and nobody would read what waits in those of the first.
fn keep_name(connection: &Connection, name: &str) -> Result<(), StoreError> {
    if name.is_empty() {
        return Ok(());
    }
    connection.execute(KEEP_NAME, params![name.to_owned()])?;
    let rows = connection.query(OTHER_NAME, params![name.to_owned()])?;
    let Some(kept) = rows.first().map(|row| row.get::<_, String>(0)) else {
        return Ok(());
    };
    let told = format!(
        "{} is the store of the observer {kept:?}: start every observer on it with --name {kept}, \
         which their sessions at the broker are named after",
        connection.target()
    );
    Err(StoreError::Permanent(told.into()))
}

/// How the slots share the messages stays with the store: two who disagree would leave messages to
/// each other, or serve them twice.
fn keep_sharing(
    connection: &Connection,
    (slots, sharing): (u16, SharedBy),
) -> Result<(), StoreError> {
    if slots == 1 {
        return Ok(());
    }
    let wanted = sharing.as_str();
    connection.execute(KEEP_SHARING, params![wanted.to_owned()])?;
    let rows = connection.query(OTHER_SHARING, params![wanted.to_owned()])?;
    let Some(kept) = rows.first().map(|row| row.get::<_, String>(0)) else {
        return Ok(());
    };
    let told = format!(
        "the slots of {} share messages by --sharing {kept}, which stays: start every observer on \
         it with that, or copy the messages to a new store",
        connection.target()
    );
    Err(StoreError::Permanent(told.into()))
}
