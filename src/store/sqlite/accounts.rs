//! The numbers of users, groups and layouts: rows hold these in place of names.

use rusqlite::params;

use super::connection::statements;
use super::recent::Recent;
use super::{SqliteStore, StoreError};

/// Accounts remembered: about 10 MB.
const MOST: usize = 1 << 16;
/// How far `account.used` may be behind the last message from or to an account.
pub(super) const SLACK: i64 = 1 << 16;

statements! {
    FIND_ACCOUNT = "SELECT id, used FROM account WHERE app = ? AND name = ?";
    INSERT_ACCOUNT = "INSERT INTO account (app, name, used) VALUES (?, ?, ?)";
    SET_USED = "UPDATE account SET used = ? WHERE id = ?";
    FIND_LAYOUT = "SELECT id FROM layout WHERE name = ?";
    INSERT_LAYOUT = "INSERT INTO layout (name) VALUES (?)";
}

/// The numbers that were looked up lately.
#[derive(Debug)]
pub(super) struct Accounts {
    numbers: Recent<Box<str>, Account>,
    /// Few: the configuration names them.
    layouts: Vec<(Box<str>, i64)>,
    /// The key of a look-up, so that none allocates.
    key: String,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    id: i64,
    used: i64,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            numbers: Recent::new(MOST),
            layouts: vec![],
            key: String::new(),
        }
    }
}

impl Accounts {
    fn set_key(&mut self, app: &str, name: &str) {
        self.key.clear();
        self.key.push_str(app);
        // No identifier of an app holds a slash.
        self.key.push('/');
        self.key.push_str(name);
    }
}

impl SqliteStore {
    /// The number of an account, made if there is none. What refers to it keeps it.
    pub(super) fn account(&mut self, app: &str, name: &str) -> Result<i64, StoreError> {
        Ok(self.known_account(app, name)?.id)
    }

    /// The same, of an account that the next message is from or to.
    pub(super) fn account_of_message(&mut self, app: &str, name: &str) -> Result<i64, StoreError> {
        let account = self.known_account(app, name)?;
        if account.used + SLACK <= self.position {
            let used = self.position;
            self.connection
                .execute(&SET_USED, params![used, account.id])?;
            let accounts = &mut self.cache.accounts;
            let account = Account { used, ..account };
            // The key of the look-up.
            accounts
                .numbers
                .insert(accounts.key.as_str().into(), account);
        }
        Ok(account.id)
    }

    /// The number of an account, if there is one.
    pub(super) fn find_account(
        &mut self,
        app: &str,
        name: &str,
    ) -> Result<Option<i64>, StoreError> {
        Ok(self.look_up(app, name)?.map(|account| account.id))
    }

    fn look_up(&mut self, app: &str, name: &str) -> Result<Option<Account>, StoreError> {
        let accounts = &mut self.cache.accounts;
        accounts.set_key(app, name);
        if let Some(known) = accounts.numbers.get(accounts.key.as_str()) {
            return Ok(Some(known));
        }
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Account {
                id: row.get(0)?,
                used: row.get(1)?,
            })
        };
        let found = self.connection.find(&FIND_ACCOUNT, [app, name], read)?;
        if let Some(account) = found {
            accounts
                .numbers
                .insert(accounts.key.as_str().into(), account);
        }
        Ok(found)
    }

    fn known_account(&mut self, app: &str, name: &str) -> Result<Account, StoreError> {
        if let Some(known) = self.look_up(app, name)? {
            return Ok(known);
        }
        let used = self.position;
        let params = params![app, name, used];
        let id = self.connection.insert(&INSERT_ACCOUNT, params)?;
        let account = Account { id, used };
        let accounts = &mut self.cache.accounts;
        accounts
            .numbers
            .insert(accounts.key.as_str().into(), account);
        Ok(account)
    }

    /// The number of a layout, made if there is none.
    pub(super) fn layout(&mut self, name: &str) -> Result<i64, StoreError> {
        let layouts = &mut self.cache.accounts.layouts;
        if let Some((_, id)) = layouts.iter().find(|(known, _)| **known == *name) {
            return Ok(*id);
        }
        let id = match self
            .connection
            .find(&FIND_LAYOUT, [name], |row| row.get(0))?
        {
            Some(id) => id,
            None => self.connection.insert(&INSERT_LAYOUT, [name])?,
        };
        layouts.push((name.into(), id));
        Ok(id)
    }
}
