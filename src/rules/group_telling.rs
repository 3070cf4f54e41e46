//! The messages that tell a group of a change, as chat21-http-server words them.
//!
//! Owns their texts and fields. Whether one is told after all is decided with the change: nobody is
//! told of what was not made.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::protocol::group::{Group, Users};
use crate::protocol::group_change::GroupChange;
use crate::protocol::json::raw;

/// Members beyond which a change is not told one by one: each telling goes to all of them.
const TOLD_ONE_BY_ONE: usize = 100;
/// The longest name of a group, in bytes: each message that tells of a change bears it.
pub const MAX_NAME: usize = 1_024;
/// Who tells of changes.
pub const SYSTEM: &str = "system";

/// What a user is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The whole name.
    pub full: String,
    /// Empty if it is not known.
    pub first: String,
    /// Empty if it is not known.
    pub last: String,
}

impl Name {
    /// The name of somebody of whom only the identifier is known.
    pub fn unknown(id: &str) -> Self {
        Self {
            full: id.to_owned(),
            first: String::new(),
            last: String::new(),
        }
    }
}

/// A message that tells of a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// What [`SYSTEM`] writes to the group.
    pub message: Box<RawValue>,
    /// Told only if the change has made them a member.
    pub only_if: Option<Box<str>>,
}

/// Who joins by a change of a group with these members: as many as are told of one by one. Who has
/// become a member meanwhile is not told of.
pub fn joining(change: &GroupChange, members: &Users) -> Vec<Box<str>> {
    let whole;
    let wanted = match change {
        GroupChange::Create { members, .. } => {
            // All, or none: "Group created" tells of them.
            return match members.len() <= TOLD_ONE_BY_ONE {
                true => members.clone(),
                false => vec![],
            };
        }
        GroupChange::Add(member) => std::slice::from_ref(member),
        GroupChange::SetMembers(members) => members,
        GroupChange::Replace(body) => {
            whole = members_of(body.get());
            whole.as_slice()
        }
        GroupChange::Rename(_) | GroupChange::SetAttributes(_) | GroupChange::Remove(_) => &[],
    };
    let new = wanted.iter().filter(|id| !members.contains(id));
    new.take(TOLD_ONE_BY_ONE).cloned().collect()
}

/// What the messages that tell of a change depend on.
#[derive(Clone, Copy, Debug)]
pub struct Telling<'a> {
    /// What the group is called.
    pub name: &'a str,
    /// Whether it comes into being.
    pub is_new: bool,
    /// See [`joining`].
    pub joining: &'a [Box<str>],
    /// What those are called.
    pub names: &'a HashMap<String, Name>,
}

impl Telling<'_> {
    /// The messages that tell of a change, in order.
    pub fn announcements(&self, change: &GroupChange) -> Vec<Announcement> {
        let mut all = vec![];
        match change {
            GroupChange::Create { owner, .. } => all.push(self.created(owner)),
            GroupChange::Replace(body) if self.is_new => {
                all.push(self.created(&text_field(body.get(), "owner")));
            }
            GroupChange::Remove(member) => {
                let parameters = json!({"member_id": member});
                let text = format!("{member} removed from group");
                all.push(self.says(None, &text, "MEMBER_LEFT_GROUP", &parameters));
            }
            GroupChange::Rename(_)
            | GroupChange::SetAttributes(_)
            | GroupChange::Add(_)
            | GroupChange::SetMembers(_)
            | GroupChange::Replace(_) => {}
        }
        all.extend(self.joining.iter().map(|member| self.joined(member)));
        all
    }

    fn created(&self, owner: &str) -> Announcement {
        let parameters = json!({"creator": owner});
        self.says(None, "Group created", "GROUP_CREATED", &parameters)
    }

    fn joined(&self, member: &str) -> Announcement {
        let name = self.names.get(member).cloned();
        let name = name.unwrap_or_else(|| Name::unknown(member));
        let text = match (self.is_new, &*name.first) {
            (true, _) => format!("{} joined group on creation", name.full),
            (false, "") => format!("{member} added to group"),
            (false, first) => format!("{first} added to group"),
        };
        let parameters = json!({
            "member_id": member,
            "fullname": name.full,
            "firstname": name.first,
            "lastname": name.last,
        });
        let only_if = Some(member).filter(|_| !self.is_new);
        self.says(only_if, &text, "MEMBER_JOINED_GROUP", &parameters)
    }

    fn says(
        &self,
        only_if: Option<&str>,
        text: &str,
        key: &str,
        parameters: &serde_json::Value,
    ) -> Announcement {
        let label = json!({"key": key, "parameters": parameters});
        let message = json!({
            "text": text,
            "type": "text",
            "channel_type": "group",
            "sender_fullname": "System",
            "recipient_fullname": self.name,
            "attributes": {"subtype": "info", "updateconversation": true, "messagelabel": label},
        });
        Announcement {
            message: raw(&message),
            only_if: only_if.map(Into::into),
        }
    }
}

/// The name in a group's object. A service may have given it one that is too long.
pub fn name_of(body: &str) -> String {
    let mut name = text_field(body, "name");
    name.truncate(name.floor_char_boundary(MAX_NAME));
    name
}

/// The members in a group's object.
pub fn members_of(body: &str) -> Users {
    Group::parse(body)
        .map(|group| group.members)
        .unwrap_or_default()
}

fn text_field(body: &str, name: &str) -> String {
    let fields = serde_json::from_str::<HashMap<&str, &RawValue>>(body);
    let field = fields.ok().and_then(|mut fields| fields.remove(name));
    let text = field.and_then(|field| serde_json::from_str(field.get()).ok());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<Box<str>> {
        ids.iter().map(|id| (*id).into()).collect()
    }

    /// What is told of a change of a group of bob: texts, with whoever must have joined for it.
    fn told(change: &GroupChange, is_new: bool) -> Vec<(String, Option<Box<str>>)> {
        let members = match is_new {
            true => Users::default(),
            false => ids(&["bob"]).into(),
        };
        let carol = Name {
            full: "Carol C".to_owned(),
            first: "Carol".to_owned(),
            last: "C".to_owned(),
        };
        let names = HashMap::from([("carol".to_owned(), carol)]);
        let telling = Telling {
            name: "Friends",
            is_new,
            joining: &joining(change, &members),
            names: &names,
        };
        let all = telling.announcements(change);
        let text = |told: Announcement| {
            let message: serde_json::Value = serde_json::from_str(told.message.get()).unwrap();
            assert_eq!(message["recipient_fullname"], "Friends");
            (message["text"].as_str().unwrap().to_owned(), told.only_if)
        };
        all.into_iter().map(text).collect()
    }

    fn replace(body: &str) -> GroupChange {
        GroupChange::Replace(RawValue::from_string(body.to_owned()).unwrap())
    }

    #[test]
    fn who_joins_or_leaves_is_told_of() {
        let carol = ("Carol added to group".to_owned(), Some("carol".into()));
        let dave = ("dave added to group".to_owned(), Some("dave".into()));
        let all = ids(&["bob", "carol", "dave"]);
        let body = r#"{"members":{"dave":1,"bob":1,"carol":1}}"#;
        for (change, want) in [
            (GroupChange::Add("carol".into()), vec![carol.clone()]),
            (GroupChange::Add("bob".into()), vec![]),
            (
                GroupChange::SetMembers(all),
                vec![carol.clone(), dave.clone()],
            ),
            (replace(body), vec![carol, dave]),
            (
                GroupChange::Remove("bob".into()),
                vec![("bob removed from group".to_owned(), None)],
            ),
            (GroupChange::Rename("x".into()), vec![]),
        ] {
            assert_eq!(told(&change, false), want, "{change:?}");
        }
    }

    #[test]
    fn a_new_group_is_told_of_and_of_its_members_if_they_are_few() {
        let create = |members: Vec<Box<str>>| GroupChange::Create {
            name: "Friends".into(),
            owner: "bob".into(),
            members,
            attributes: None,
        };
        let few = [
            ("Group created".to_owned(), None),
            ("bob joined group on creation".to_owned(), None),
            ("Carol C joined group on creation".to_owned(), None),
        ];
        assert_eq!(told(&create(ids(&["bob", "carol"])), true), few);
        let body = r#"{"owner":"bob","members":{"bob":1,"carol":1}}"#;
        assert_eq!(told(&replace(body), true), few);
        let many = (0..=TOLD_ONE_BY_ONE).map(|n| n.to_string().into());
        assert_eq!(told(&create(many.collect()), true), few[..1]);
    }

    #[test]
    fn a_name_that_is_too_long_is_cut() {
        assert_eq!(
            name_of(r#"{"name":"Fr\u0069ends","members":{}}"#),
            "Friends"
        );
        let long = format!(r#"{{"name":"{}"}}"#, "ä".repeat(MAX_NAME));
        assert_eq!(name_of(&long).len(), MAX_NAME);
        assert_eq!(name_of("{}"), "");
    }
}
