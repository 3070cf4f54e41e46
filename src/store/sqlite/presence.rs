//! Writes which clients are connected, and since when a user has missed messages.
//!
//! Owns the tables `presence` and `absence`. What follows from a client that connects or
//! disconnects is decided in `rules/presence.rs`.

use rusqlite::params;

use super::connection::{Connection, statements};
use super::{SqliteStore, StoreError, millis};
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::facts::Absence;
use crate::rules::write::UserClient;
use crate::store::columns::{REDELIVERED, redelivered_by};

statements! {
    SET_CLIENT = "INSERT OR REPLACE INTO presence (app, user, client_id, since)
        VALUES (?, ?, ?, ?)";
    DELETE_CLIENT = "DELETE FROM presence WHERE app = ? AND user = ? AND client_id = ?";
    SET_ABSENCE = "INSERT OR REPLACE INTO absence (app, user, seq, redelivered_by)
        VALUES (?, ?, ?, ?)";
    // What an earlier process has not finished is due again.
    UNFINISHED_IS_DUE may scan "once, at start" = "UPDATE absence SET redelivered_by = NULL
        WHERE redelivered_by <> 'done' AND redelivered_by > ?";
    SET_REDELIVERED = "UPDATE absence SET redelivered_by = ?
        WHERE app = ? AND user = ? AND redelivered_by IS NULL";
}

/// An earlier process may have ended while it gave users what they missed: whatever was not
/// acknowledged by then is due again.
pub(super) fn make_unfinished_due(
    connection: &Connection,
    acknowledged: &str,
) -> Result<(), StoreError> {
    connection.execute(&UNFINISHED_IS_DUE, [acknowledged])?;
    Ok(())
}

impl SqliteStore {
    /// Notes that a client has been connected since `now`.
    pub(super) fn write_client_connected(
        &self,
        client: &UserClient<'_>,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let (app, user) = (client.app.as_str(), client.user.as_str());
        let params = params![app, user, client.client, millis(now)];
        self.connection.execute(&SET_CLIENT, params)?;
        Ok(())
    }

    /// Notes that a client is not connected any more.
    pub(super) fn write_client_gone(&self, client: &UserClient<'_>) -> Result<(), StoreError> {
        let params = [client.app.as_str(), client.user.as_str(), &client.client];
        self.connection.execute(&DELETE_CLIENT, params)?;
        Ok(())
    }

    /// Notes a user's absence in place of the note there was.
    pub(super) fn write_absence(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        absence: Absence,
    ) -> Result<(), StoreError> {
        let redelivered_by = redelivered_by(absence.redelivery);
        let params = params![app.as_str(), user.as_str(), absence.since, redelivered_by];
        self.connection.execute(&SET_ABSENCE, params)?;
        Ok(())
    }

    /// Notes that a user has been given what they missed, unless the end of a presence event tells.
    pub(super) fn write_redelivered(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<(), StoreError> {
        let params = [REDELIVERED, app.as_str(), user.as_str()];
        self.connection.execute(&SET_REDELIVERED, params)?;
        Ok(())
    }
}
