//! Groups: recipients that fan out to their members.
//!
//! Owns reading group objects and group updates, and the set of users in them. Where a group comes
//! from, and who gets a message, is decided in `rules`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::id::UserId;
use crate::protocol::json::{Members, parse_object};
use crate::protocol::refusal::Refusal;

/// A set of users, in the order of their identifiers. A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Box<str>>", into = "Vec<Box<str>>")]
pub struct Users(Arc<[Box<str>]>);

impl From<Vec<Box<str>>> for Users {
    fn from(users: Vec<Box<str>>) -> Self {
        users.into_iter().collect()
    }
}

impl From<Users> for Vec<Box<str>> {
    fn from(users: Users) -> Self {
        users.0.to_vec()
    }
}

impl Users {
    /// The users in the keys of an object such as `{"u1":1,"u2":1}`.
    ///
    /// # Errors
    /// The reason for a refusal, if a key is not an identifier: it would become a topic level, and
    /// the message would go elsewhere.
    fn from_keys(members: Members) -> Result<Self, Refusal> {
        let check = |id: String| match UserId::parse(&id) {
            Ok(_) => Ok(id.into_boxed_str()),
            Err(error) => Err(Refusal::from(error)),
        };
        // The keys of a map are sorted, and each is there once.
        let users: Result<_, Refusal> = members.into_keys().map(check).collect();
        Ok(Self(users?))
    }

    /// The users, in order.
    pub fn as_slice(&self) -> &[Box<str>] {
        &self.0
    }

    /// The number of users.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no users.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `user` is in the set.
    pub fn contains(&self, user: &str) -> bool {
        self.0
            .binary_search_by(|member| (**member).cmp(user))
            .is_ok()
    }

    /// This set with `user` added.
    #[must_use]
    pub fn and(&self, user: &str) -> Self {
        match self.0.binary_search_by(|member| (**member).cmp(user)) {
            Ok(_) => self.clone(),
            Err(at) => {
                let (before, behind) = self.0.split_at(at);
                let all = before
                    .iter()
                    .cloned()
                    .chain([user.into()])
                    .chain(behind.iter().cloned());
                Self(all.collect())
            }
        }
    }
}

impl FromIterator<Box<str>> for Users {
    fn from_iter<I: IntoIterator<Item = Box<str>>>(users: I) -> Self {
        let mut users: Vec<_> = users.into_iter().collect();
        users.sort_unstable();
        users.dedup();
        Self(users.into())
    }
}

/// The members of a group object that the observer reads.
#[derive(Deserialize)]
struct Fields<'a> {
    uid: Option<String>,
    #[serde(borrow)]
    members: Option<&'a RawValue>,
}

/// A group, from the store or from a message that brings it along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Who gets the messages to the group.
    pub members: Users,
}

impl Group {
    /// Reads a group object.
    ///
    /// # Errors
    /// [`Refusal::NotAnObject`] if the text or its `members` is not an object, and the reason for a
    /// refusal if a member is not an identifier.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let (_, members) = read(text)?;
        Ok(Self { members })
    }
}

/// Reads the identifier and the members of a group object.
fn read(text: &str) -> Result<(Option<String>, Users), Refusal> {
    if !text.trim_start().starts_with('{') {
        return Err(Refusal::NotAnObject);
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|_| Refusal::NotAnObject)?;
    let members = match fields.members.map(RawValue::get) {
        None | Some("null") => Users::default(),
        Some(members) => Users::from_keys(parse_object(members.as_bytes())?)?,
    };
    Ok((fields.uid, members))
}

/// What a service writes to store a group (`protocol.md`, section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupUpdate {
    /// The group's identifier (`uid`).
    pub id: Box<str>,
    /// The members of the group from now on.
    pub members: Users,
    /// The group object as the service wrote it. It is stored, and sent to those to notify.
    pub body: Box<str>,
    /// Who is notified of the change (`notify_to`).
    pub notify: Users,
}

impl GroupUpdate {
    /// Reads a payload.
    ///
    /// # Errors
    /// The reason for a refusal.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let mut object = parse_object(payload)?;
        let body = object.remove("group").ok_or(Refusal::NotAGroup)?;
        let (id, members) = read(body.get())?;
        let id = id.ok_or(Refusal::NotAGroup)?;
        UserId::parse(&id)?;
        let notify = match object.get("notify_to").map(|notify| notify.get()) {
            None | Some("null") => Users::default(),
            Some(notify) => Users::from_keys(parse_object(notify.as_bytes())?)?,
        };
        Ok(Self {
            id: id.into(),
            members,
            body: body.get().into(),
            notify,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_update_is_read_or_refused_for_what_it_lacks() {
        let object = r#"{"uid":"group-1","name":"x","members":{"b":1,"a":1}}"#;
        let payload = format!(r#"{{"group":{object},"notify_to":{{"a":1}}}}"#);
        let update = GroupUpdate::parse(payload.as_bytes()).unwrap();
        assert_eq!(
            (&*update.id, update.members.len(), update.notify.as_slice()),
            ("group-1", 2, &["a".into()][..])
        );
        assert_eq!(&*update.body, object);
        for (payload, want) in [
            ("{}", Refusal::NotAGroup),
            (r#"{"group":{"members":{}}}"#, Refusal::NotAGroup),
            (r#"{"group":[]}"#, Refusal::NotAnObject),
            (
                r#"{"group":{"uid":"g","members":["a"]}}"#,
                Refusal::NotAnObject,
            ),
            (
                r#"{"group":{"uid":"g","members":{"a/b":1}}}"#,
                Refusal::MalformedTopic,
            ),
            (
                r#"{"group":{"uid":"g","members":{"messages":1}}}"#,
                Refusal::ReservedIdentifier,
            ),
            (r#"{"group":{"uid":"g/x"}}"#, Refusal::MalformedTopic),
            (
                r#"{"group":{"uid":"g"},"notify_to":7}"#,
                Refusal::NotAnObject,
            ),
            ("x", Refusal::NotJson),
        ] {
            assert_eq!(
                GroupUpdate::parse(payload.as_bytes()),
                Err(want),
                "{payload}"
            );
        }
        assert!(
            GroupUpdate::parse(br#"{"group":{"uid":"g","members":null},"notify_to":null}"#)
                .unwrap()
                .members
                .is_empty()
        );
    }

    #[test]
    fn users_are_looked_up_and_added_in_order() {
        let group = Group::parse(r#"{"members":{"b":1,"d":1,"b":0}}"#)
            .unwrap()
            .members;
        assert_eq!(
            (group.len(), group.contains("b"), group.contains("c")),
            (2, true, false)
        );
        assert_eq!(
            group.and("c").as_slice(),
            ["b".into(), "c".into(), "d".into()]
        );
        assert_eq!(group.and("d"), group);
    }
}
