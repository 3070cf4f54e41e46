//! The schema: migrations, and the marks by which a file is known as a store.
//!
//! A migration never changes once it is released.

use std::path::Path;

use rusqlite::Result;

use super::connection::{Connection, statements};
use super::upgrade;
use crate::store::{Access, StoreError};

/// The migrations, in order. The database's `user_version` is the number of those applied.
pub(super) const MIGRATIONS: [&str; 7] = [
    include_str!("1.sql"),
    include_str!("2.sql"),
    include_str!("3.sql"),
    include_str!("4.sql"),
    include_str!("5.sql"),
    include_str!("6.sql"),
    include_str!("7.sql"),
];
/// Marks a file as a store (`PRAGMA application_id`): "c21o".
pub(super) const APPLICATION_ID: i32 = 0x6332_316f;

statements! {
    COUNT_TABLES may scan "the schema has a few rows" = "SELECT count(*) FROM sqlite_schema";
}

/// Brings the schema up to date. A command does not: the observer that has the store may be of an
/// earlier version, which would not know the schema any more. Nor does it make one: an empty file
/// may be what is left of a store.
pub(super) fn migrate(
    connection: &Connection,
    path: &Path,
    access: Access,
) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).expect("a few migrations");
    let found: i64 = connection.pragma("user_version")?;
    if found > known {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    let tables: i64 = connection.row(&COUNT_TABLES, [], |row| row.get(0))?;
    if tables > 0 && connection.pragma::<i32>("application_id")? != APPLICATION_ID {
        return Err(StoreError::Foreign(path.to_owned()));
    }
    if access == Access::Shared && tables == 0 && connection.path().is_some() {
        return Err(StoreError::Empty(path.to_owned()));
    }
    if access == Access::Shared && tables > 0 {
        let begun = found == known && upgrade::is_unfinished(connection)?;
        if found < known || begun {
            return Err(StoreError::Older {
                path: path.to_owned(),
                found: found - i64::from(begun),
                known,
            });
        }
    }
    if tables == 0 {
        // Before the first table is made: it cannot be changed later.
        connection.set_pragma("auto_vacuum", "INCREMENTAL")?;
    }
    connection.set_pragma("journal_mode", "WAL")?;
    if found < known {
        connection.begin()?;
        let migrated = apply_migrations(connection, known);
        if migrated.is_err() {
            connection.rollback();
        }
        migrated?;
    }
    if upgrade::is_unfinished(connection)? {
        upgrade::finish(connection)?;
    }
    Ok(())
}

fn apply_migrations(connection: &Connection, known: i64) -> Result<()> {
    // Another process may have migrated meanwhile.
    let found: i64 = connection.pragma("user_version")?;
    let applied = usize::try_from(found).unwrap_or(0).min(MIGRATIONS.len());
    for script in &MIGRATIONS[applied..] {
        connection.migrate(script)?;
    }
    connection.set_pragma("application_id", APPLICATION_ID)?;
    connection.set_pragma("user_version", known)?;
    connection.commit()
}
