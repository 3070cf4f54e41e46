//! Writes which clients are connected, and since when a user has missed messages.
//!
//! Owns the tables `presence` and `absence`. What follows from a client that connects or
//! disconnects is decided in `rules/presence.rs`.

use rusqlite::params;

use super::connection::statements;
use super::{SqliteStore, StoreError, millis};
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::facts::Absence;
use crate::rules::write::UserClient;
use crate::store::columns::redelivered_by;

statements! {
    SET_CLIENT = "INSERT OR REPLACE INTO presence (app, user, client_id, since)
        VALUES (?, ?, ?, ?)";
    DELETE_CLIENT = "DELETE FROM presence WHERE app = ? AND user = ? AND client_id = ?";
    SET_ABSENCE = "INSERT OR REPLACE INTO absence (app, user, seq, redelivered_by)
        VALUES (?, ?, ?, ?)";
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
}
