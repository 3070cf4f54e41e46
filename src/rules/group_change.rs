//! A client of the HTTP API, or a service, changes a group.
//!
//! Owns who may do what, what is stored, and who is told (chapter *http-api*, *Groups*).
//! Leaves the messages that tell of it to whoever hands the change in.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::protocol::address::Outgoing;
use crate::protocol::group::{Group, GroupUpdate, Users};
use crate::protocol::group_change::GroupChange;
use crate::protocol::id::UserId;
use crate::protocol::json::{Members, parse_object, raw};
use crate::protocol::refusal::Refusal;
use crate::protocol::time::UnixMillis;
use crate::rules::checks::check_recipients;
use crate::rules::facts::FactSource;
use crate::rules::fan_out::FanOut;
use crate::rules::plan::{Context, Plan};
use crate::rules::submission::Authority;
use crate::rules::write::Write;

/// What the plan of a change depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The group's object, if it is stored.
    body: Option<String>,
    /// Whether anything was ever written to the group.
    has_timeline: bool,
    /// The users who block the one who changes it.
    blocked_by: Vec<Box<str>>,
    /// Whether they may make one more.
    has_room: bool,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupOutcome {
    /// It was made.
    Changed {
        /// The group's object now: JSON.
        body: Bytes,
        /// Who is a member since.
        added: Users,
    },
    /// It was not, for this reason.
    Unchanged(GroupFault),
}

/// Why a change is not made, where it is not a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupFault {
    /// There is a group of that identifier, or somebody has written to it.
    Exists,
    /// There is no such group.
    NotFound,
    /// The caller may not change it so.
    NotAllowed,
    /// The user is a member already.
    AlreadyMember,
    /// The user is not a member.
    NotAMember,
    /// The members are these already.
    SameMembers,
    /// The group is this object already.
    SameGroup,
    /// The user has made as many groups as one may.
    TooMany,
}

impl Facts {
    pub(super) fn look_up<S: FactSource + ?Sized>(
        outgoing: &Outgoing<'_>,
        change: &GroupChange,
        most: usize,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let Outgoing {
            app,
            sender,
            recipient,
            ..
        } = *outgoing;
        Ok(Self {
            body: source.group_object(app, recipient)?,
            has_timeline: source.has_timeline(app, recipient)?,
            blocked_by: source.blocked_by(app, sender)?,
            has_room: match change {
                GroupChange::Create { .. } => source.count_groups(app, sender, most)? < most,
                GroupChange::Rename(_)
                | GroupChange::SetAttributes(_)
                | GroupChange::SetMembers(_)
                | GroupChange::Add(_)
                | GroupChange::Replace(_)
                | GroupChange::Remove(_) => true,
            },
        })
    }
}

/// A stored group, taken apart.
struct Stored {
    fields: Members,
    members: Users,
    is_owner: bool,
}

/// What a change makes of a group.
struct Made {
    fields: Members,
    /// Who is told.
    told: Users,
    added: Users,
    /// What those who are told read of it.
    label: Option<Label>,
}

/// The change is stored, and members are told; or nothing happens.
pub(super) fn plan<'a>(
    outgoing: &Outgoing<'a>,
    change: &GroupChange,
    facts: &Facts,
    context: &Context<'_>,
) -> Result<Plan<'a>, Refusal> {
    // Their topics hold the group's identifier.
    let group = outgoing.recipient.as_str();
    if context.broker_kind.carries(group).is_err() {
        return Err(Refusal::Unroutable);
    }
    let made = match change {
        GroupChange::Create { .. } => create(outgoing, change, facts, context)?,
        GroupChange::Replace(body) => replace(outgoing, body, facts, context)?,
        GroupChange::Rename(_)
        | GroupChange::SetAttributes(_)
        | GroupChange::Add(_)
        | GroupChange::SetMembers(_)
        | GroupChange::Remove(_) => match stored(outgoing, facts) {
            Some(stored) => alter(outgoing, change, stored, facts, context)?,
            None => Err(GroupFault::NotFound),
        },
    };
    let made = match made {
        Ok(made) => made,
        Err(fault) => {
            return Ok(Plan {
                group: Some(GroupOutcome::Unchanged(fault)),
                ..Plan::default()
            });
        }
    };
    let body = text(&made.fields);
    let fan_out = (!made.told.is_empty()).then(|| {
        let update = GroupUpdate {
            id: outgoing.recipient.as_str().into(),
            members: Users::default(),
            body: labelled(made.fields, made.label).into(),
            notify: made.told,
        };
        FanOut::notify(outgoing.app, &update)
    });
    Ok(Plan {
        writes: vec![Write::Group {
            app: outgoing.app,
            id: outgoing.recipient.as_str(),
            body: Cow::Owned(body.clone()),
        }],
        fan_out,
        group: Some(GroupOutcome::Changed {
            body: body.into(),
            added: made.added,
        }),
        ..Plan::default()
    })
}

/// What has changed, in words of a client. Raw, because a client's attributes are in it.
#[derive(Serialize)]
struct Label {
    key: &'static str,
    parameters: Box<RawValue>,
}

impl Label {
    /// With one parameter.
    fn new<T: Serialize + ?Sized>(key: &'static str, name: &str, value: &T) -> Option<Self> {
        let parameters = Members::from([(name.to_owned(), raw(value))]);
        Some(Self {
            key,
            parameters: raw(&parameters),
        })
    }
}

type Outcome = Result<Result<Made, GroupFault>, Refusal>;

/// A user makes groups of new identifiers, which say that they are groups. An administrator makes
/// any, and replaces those there are. Nobody is told.
fn create(
    outgoing: &Outgoing<'_>,
    change: &GroupChange,
    facts: &Facts,
    context: &Context<'_>,
) -> Outcome {
    let GroupChange::Create {
        name,
        owner,
        members,
        attributes,
    } = change
    else {
        return Ok(Err(GroupFault::NotFound));
    };
    let is_admin = context.authority == Authority::Admin;
    if !is_admin {
        if !outgoing.recipient.is_group() {
            return Err(Refusal::NotAGroup);
        }
        if facts.body.is_some() || facts.has_timeline {
            return Ok(Err(GroupFault::Exists));
        }
        if !facts.has_room {
            return Ok(Err(GroupFault::TooMany));
        }
    }
    UserId::parse(owner)?;
    let mut all = serde_json::Map::new();
    for member in members {
        UserId::parse(member)?;
        all.insert(member.to_string(), 1.into());
    }
    if !is_admin {
        all.insert(outgoing.sender.to_string(), 1.into());
    }
    let users: Users = all.keys().map(|member| member.as_str().into()).collect();
    check_members(&users, &users, outgoing, facts, context)?;
    let mut fields = Members::from([
        ("uid".to_owned(), raw(outgoing.recipient.as_str())),
        ("name".to_owned(), raw(&**name)),
        ("appId".to_owned(), raw(outgoing.app.as_str())),
        ("owner".to_owned(), raw(&**owner)),
        ("members".to_owned(), raw(&all)),
        ("createdOn".to_owned(), raw(&context.now().as_millis())),
        ("updatedOn".to_owned(), raw(&context.now().as_millis())),
    ]);
    if let Some(attributes) = attributes {
        fields.insert("attributes".to_owned(), attributes.clone());
    }
    Ok(Ok(Made {
        fields,
        told: Users::default(),
        added: users,
        label: None,
    }))
}

/// The owner and administrators change a group; a member may leave it.
fn alter(
    outgoing: &Outgoing<'_>,
    change: &GroupChange,
    stored: Stored,
    facts: &Facts,
    context: &Context<'_>,
) -> Outcome {
    let Stored {
        mut fields,
        members,
        is_owner,
    } = stored;
    let is_leaving =
        matches!(change, GroupChange::Remove(member) if **member == *outgoing.sender.as_str());
    if !is_owner && !is_leaving && context.authority == Authority::Sender {
        return Ok(Err(GroupFault::NotAllowed));
    }
    let (mut told, mut added, mut label) = (members.clone(), Users::default(), None);
    match change {
        GroupChange::Create { .. } | GroupChange::Replace(_) => {
            return Ok(Err(GroupFault::NotFound));
        }
        GroupChange::Rename(name) => {
            fields.insert("name".to_owned(), raw(&**name));
            label = Label::new("DATA_UPDATED_GROUP", "group_name", name);
        }
        GroupChange::SetAttributes(attributes) => {
            fields.insert("attributes".to_owned(), attributes.clone());
            label = Label::new("ATTRIBUTES_UPDATED_GROUP", "attributes", attributes);
        }
        GroupChange::Add(member) => {
            UserId::parse(member)?;
            if members.contains(member) {
                return Ok(Err(GroupFault::AlreadyMember));
            }
            added = [member.clone()].into_iter().collect();
            told = members.and(member);
            check_members(&told, &added, outgoing, facts, context)?;
            set_members(&mut fields, &told);
            label = Label::new("MEMBER_JOINED_GROUP", "member_id", member);
        }
        GroupChange::SetMembers(wanted) => {
            for member in wanted {
                UserId::parse(member)?;
            }
            let wanted: Users = wanted.iter().cloned().collect();
            if wanted == members {
                return Ok(Err(GroupFault::SameMembers));
            }
            let new = wanted
                .as_slice()
                .iter()
                .filter(|one| !members.contains(one));
            added = new.cloned().collect();
            check_members(&wanted, &added, outgoing, facts, context)?;
            set_members(&mut fields, &wanted);
        }
        GroupChange::Remove(member) => {
            if !members.contains(member) {
                return Ok(Err(GroupFault::NotAMember));
            }
            let rest = members.as_slice().iter().filter(|one| *one != member);
            set_members(&mut fields, &rest.cloned().collect());
            label = Label::new("MEMBER_LEFT_GROUP", "member_id", member);
        }
    }
    touch(&mut fields, context.now());
    Ok(Ok(Made {
        fields,
        told,
        added,
        label,
    }))
}

/// A service puts a whole object in place of what there is. Who is a member, and who was, is told.
fn replace(
    outgoing: &Outgoing<'_>,
    body: &RawValue,
    facts: &Facts,
    context: &Context<'_>,
) -> Outcome {
    if context.authority != Authority::Admin {
        return Ok(Err(GroupFault::NotAllowed));
    }
    let mut fields = parse_object(body.get().as_bytes())?;
    let wanted = Group::parse(body.get())?.members;
    let before = stored(outgoing, facts);
    let is_same = facts
        .body
        .as_deref()
        .is_some_and(|stored| is_as_wanted(stored, &fields));
    if is_same {
        return Ok(Err(GroupFault::SameGroup));
    }
    let members = before.as_ref().map(|before| before.members.clone());
    let members = members.unwrap_or_default();
    let new = wanted
        .as_slice()
        .iter()
        .filter(|one| !members.contains(one));
    let added: Users = new.cloned().collect();
    check_members(&wanted, &added, outgoing, facts, context)?;
    let all = wanted.as_slice().iter().chain(members.as_slice());
    fields.insert("uid".to_owned(), raw(outgoing.recipient.as_str()));
    fields.insert("appId".to_owned(), raw(outgoing.app.as_str()));
    let created = before.and_then(|mut before| before.fields.remove("createdOn"));
    let now = || raw(&context.now().as_millis());
    let created_on = fields.entry("createdOn".to_owned());
    created_on.or_insert_with(|| created.unwrap_or_else(now));
    touch(&mut fields, context.now());
    Ok(Ok(Made {
        fields,
        told: all.cloned().collect(),
        added,
        label: None,
    }))
}

/// Whether a stored object is `wanted`, apart from what the observer writes of its own.
fn is_as_wanted(stored: &str, wanted: &Members) -> bool {
    let values = |mut fields: Members| {
        for own in ["uid", "appId", "updatedOn"] {
            fields.remove(own);
        }
        if !wanted.contains_key("createdOn") {
            fields.remove("createdOn");
        }
        let value = |(name, field): (String, Box<RawValue>)| {
            let value = serde_json::from_str::<serde_json::Value>(field.get()).ok();
            (name, value)
        };
        fields.into_iter().map(value).collect::<Vec<_>>()
    };
    parse_object(stored.as_bytes()).is_ok_and(|stored| values(stored) == values(wanted.clone()))
}

/// Whether a group's object is as a change of it makes it: `None` for a group that is not stored.
pub fn is_made(change: &GroupChange, body: Option<&str>) -> bool {
    let Some(body) = body else {
        return false;
    };
    let members = Group::parse(body).map(|group| group.members);
    let members = members.unwrap_or_default();
    let field = |name: &str| parse_object(body.as_bytes()).ok()?.remove(name);
    match change {
        GroupChange::Create { .. } => true,
        GroupChange::Rename(name) => {
            field("name").is_some_and(|stored| stored.get() == raw(&**name).get())
        }
        GroupChange::SetAttributes(attributes) => {
            field("attributes").is_some_and(|stored| stored.get() == attributes.get())
        }
        GroupChange::Add(member) => members.contains(member),
        GroupChange::Remove(member) => !members.contains(member),
        GroupChange::SetMembers(wanted) => members == wanted.iter().cloned().collect(),
        GroupChange::Replace(wanted) => {
            parse_object(wanted.get().as_bytes()).is_ok_and(|wanted| is_as_wanted(body, &wanted))
        }
    }
}

/// Whether a group may have these members, of whom some are new.
fn check_members(
    all: &Users,
    new: &Users,
    outgoing: &Outgoing<'_>,
    facts: &Facts,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let rules = context.rules;
    let most = match context.authority {
        Authority::Admin => rules.max_recipients,
        Authority::Sender => rules.max_inline_recipients.min(rules.max_recipients),
    };
    check_recipients(context.broker_kind, all, most)?;
    let sender = outgoing.sender.as_str();
    let mut blocking = facts.blocked_by.iter().filter(|user| ***user != *sender);
    match context.authority {
        Authority::Sender if blocking.any(|user| new.contains(user)) => Err(Refusal::Blocked),
        Authority::Sender | Authority::Admin => Ok(()),
    }
}

fn stored(outgoing: &Outgoing<'_>, facts: &Facts) -> Option<Stored> {
    let body = facts.body.as_deref()?;
    let fields = parse_object(body.as_bytes()).ok()?;
    let members = Group::parse(body).ok()?.members;
    let owner = fields.get("owner");
    let owner = owner.and_then(|owner| serde_json::from_str::<String>(owner.get()).ok());
    Some(Stored {
        fields,
        members,
        is_owner: owner.as_deref() == Some(outgoing.sender.as_str()),
    })
}

fn set_members(fields: &mut Members, members: &Users) {
    let ids = members.as_slice().iter();
    let all: serde_json::Map<_, _> = ids.map(|id| (id.to_string(), 1.into())).collect();
    fields.insert("members".to_owned(), raw(&all));
}

fn touch(fields: &mut Members, now: UnixMillis) {
    fields.insert("updatedOn".to_owned(), raw(&now.as_millis()));
}

/// The group as members are told of it: with what has changed, in words of a client.
fn labelled(mut fields: Members, label: Option<Label>) -> String {
    if let Some(label) = label {
        let notification = Members::from([("messagelabel".to_owned(), raw(&label))]);
        fields.insert("notification".to_owned(), raw(&notification));
    }
    text(&fields)
}

fn text(fields: &Members) -> String {
    serde_json::to_string(fields).expect("raw members serialise")
}

#[cfg(test)]
mod tests;
