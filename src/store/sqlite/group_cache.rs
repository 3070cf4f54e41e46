//! Remembers the groups that were looked up lately, and identifiers that name none.
//!
//! The store forgets all of it when another process has written, or a transaction was taken back.

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::group::Group;

/// Groups remembered, unknown ones included. Beyond either limit everything is forgotten.
const MAX_GROUPS: usize = 10_000;
/// Members of the groups remembered, in total.
const MAX_MEMBERS: usize = 1_000_000;

/// The groups looked up lately.
#[derive(Debug, Default)]
pub(super) struct GroupCache {
    /// `None` for an identifier that names no stored group.
    groups: HashMap<Box<str>, Option<Arc<Group>>>,
    members: usize,
}

impl GroupCache {
    /// What is remembered of a group: `None` if nothing is, `Some(None)` if it is not stored.
    pub(super) fn get(&self, app: &str, group: &str) -> Option<Option<Arc<Group>>> {
        self.groups.get(key(app, group).as_str()).cloned()
    }

    pub(super) fn remove(&mut self, app: &str, group: &str) {
        let group = self.groups.remove(key(app, group).as_str()).flatten();
        self.members -= group.map_or(0, |group| group.members.len());
    }

    pub(super) fn insert(&mut self, app: &str, id: &str, group: Option<Arc<Group>>) {
        let members = group.as_ref().map_or(0, |group| group.members.len());
        if self.groups.len() >= MAX_GROUPS || self.members + members > MAX_MEMBERS {
            *self = Self::default();
        }
        self.members += members;
        self.groups.insert(key(app, id).into(), group);
    }
}

fn key(app: &str, group: &str) -> String {
    // No identifier holds a slash.
    [app, "/", group].concat()
}
