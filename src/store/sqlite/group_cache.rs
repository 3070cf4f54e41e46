//! Remembers the groups that were looked up lately, and identifiers that name none.
//!
//! The store forgets all of it when another process has written, or a transaction was taken back.

use std::collections::HashMap;
use std::sync::Arc;

use super::recent::Recent;
use crate::protocol::group::Group;

/// Groups remembered. Beyond this or the next limit all groups are forgotten.
const MAX_GROUPS: usize = 10_000;
/// Members of the groups remembered, in total.
const MAX_MEMBERS: usize = 1_000_000;
/// Identifiers remembered that name no group: everybody who is written to, where there are groups.
/// Those used lately stay, and the groups as well.
const MAX_OTHERS: usize = 1 << 16;

/// The groups looked up lately.
#[derive(Debug)]
pub(super) struct GroupCache {
    groups: HashMap<Box<str>, Arc<Group>>,
    members: usize,
    others: Recent<Box<str>, ()>,
}

impl Default for GroupCache {
    fn default() -> Self {
        Self {
            groups: HashMap::new(),
            members: 0,
            others: Recent::new(MAX_OTHERS),
        }
    }
}

impl GroupCache {
    /// What is remembered of a group: `None` if nothing is, `Some(None)` if it is not stored.
    pub(super) fn get(&mut self, app: &str, group: &str) -> Option<Option<Arc<Group>>> {
        let key = key(app, group);
        if let Some(group) = self.groups.get(key.as_str()) {
            return Some(Some(Arc::clone(group)));
        }
        self.others.get(key.as_str()).map(|()| None)
    }

    pub(super) fn remove(&mut self, app: &str, group: &str) {
        let key = key(app, group);
        self.others.remove(key.as_str());
        let group = self.groups.remove(key.as_str());
        self.members -= group.map_or(0, |group| group.members.len());
    }

    pub(super) fn insert(&mut self, app: &str, id: &str, group: Option<Arc<Group>>) {
        self.remove(app, id);
        let key = key(app, id).into();
        let Some(group) = group else {
            self.others.insert(key, ());
            return;
        };
        let members = group.members.len();
        if self.groups.len() >= MAX_GROUPS || self.members + members > MAX_MEMBERS {
            self.groups.clear();
            self.members = 0;
        }
        self.members += members;
        self.groups.insert(key, group);
    }
}

fn key(app: &str, group: &str) -> String {
    // No identifier holds a slash.
    [app, "/", group].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_stays_however_many_users_are_written_to() {
        let mut cache = GroupCache::default();
        let group = Group::parse(r#"{"members":{"alice":1}}"#)
            .ok()
            .map(Arc::new);
        cache.insert("a", "team", group.clone());
        for n in 0..200_000 {
            cache.insert("a", &format!("user-{n}"), None);
        }
        assert_eq!(cache.get("a", "team"), Some(group));
        assert_eq!(cache.get("a", "user-199999"), Some(None));
        assert_eq!(cache.get("a", "user-0"), None, "there is a bound");
        cache.remove("a", "team");
        assert_eq!((cache.get("a", "team"), cache.members), (None, 0));
    }
}
