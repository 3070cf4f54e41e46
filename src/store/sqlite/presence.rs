//! Writes who is online, and since when a user has missed messages.

use rusqlite::params;

use super::{CLIENTS, Origin, REDELIVERED, Store, StoreError, millis};
use crate::protocol::id::{AppId, UserId};

impl Store {
    pub(super) fn write_presence(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        client: &str,
        connected: bool,
        origin: &Origin,
    ) -> Result<(), StoreError> {
        let (app_id, user_id) = (app.as_str(), user.as_str());
        let count = || -> Result<i64, StoreError> {
            Ok(self
                .connection
                .prepare_cached("SELECT count(*) FROM presence WHERE app = ? AND user = ?")?
                .query_row([app_id, user_id], |row| row.get(0))?)
        };
        let absence = self.absence(app, user)?;
        let set_absence = |seq: i64, redelivered_by: Option<String>| -> Result<(), StoreError> {
            self.connection
                .prepare_cached("INSERT OR REPLACE INTO absence (app, user, seq, redelivered_by) VALUES (?, ?, ?, ?)")?
                .execute(params![app_id, user_id, seq, redelivered_by])?;
            Ok(())
        };
        if connected {
            self.connection
                .prepare_cached("INSERT OR REPLACE INTO presence (app, user, client_id, since) VALUES (?, ?, ?, ?)")?
                .execute(params![app_id, user_id, client, millis(origin.now)])?;
            let surplus = count()? - i64::try_from(CLIENTS).expect("a small number");
            if surplus > 0 {
                self.connection
                    .prepare_cached(
                        "DELETE FROM presence WHERE app = ?1 AND user = ?2 AND client_id IN
                         (SELECT client_id FROM presence WHERE app = ?1 AND user = ?2 AND client_id <> ?3 ORDER BY since LIMIT ?4)",
                    )?
                    .execute(params![app_id, user_id, client, surplus])?;
            }
            let since = match absence {
                Some((_, true)) => return Ok(()),
                Some((seq, false)) => seq,
                None => 0,
            };
            // He is given what he missed with this very event: its acknowledgement says that he has been. At QoS 0 there is none, and
            // the last step says so.
            let by = match (self.redeliver, origin.fingerprint) {
                (false, _) => Some(REDELIVERED.to_owned()),
                (true, Some(_)) => Some(origin.id.to_string()),
                (true, None) => None,
            };
            set_absence(since, by)?;
        } else {
            let gone = self
                .connection
                .prepare_cached(
                    "DELETE FROM presence WHERE app = ? AND user = ? AND client_id = ?",
                )?
                .execute([app_id, user_id, client])?;
            if gone > 0 && count()? == 0 {
                match absence {
                    // He went before he had been given everything.
                    Some((seq, false)) => set_absence(seq, None)?,
                    Some((_, true)) | None => set_absence(self.last()?, None)?,
                }
            }
        }
        Ok(())
    }
}
