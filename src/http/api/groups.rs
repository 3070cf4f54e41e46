//! The routes that make and change groups.
//!
//! Owns what each makes of its body, and the answers that stock clients know. Who may change what,
//! and who is told what of it, is decided by the rules.

use std::collections::HashSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Api;
use super::body::{Body, given};
use super::caller::Caller;
use super::failure::Failure;
use super::handover::Outcome;
use super::reads::group_body;
use super::writes::{identifier, outgoing, refused, submit, submitted};
use crate::auth::secret::random_id;
use crate::protocol::group::Users;
use crate::protocol::group_change::GroupChange;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::refusal::Refusal;
use crate::rules::group_change::{GroupFault, GroupOutcome};
use crate::rules::group_history::MESSAGES as HISTORY;
use crate::rules::group_request::group_parts;
use crate::rules::group_telling::{MAX_NAME, SYSTEM, Telling, joining, members_of, name_of};
use crate::rules::submission::Task;
use crate::telemetry::clock::Clock;

/// The keys of an object such as `{"u1":1,"u2":1}`, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Vec<Box<str>>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeysVisitor;
        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object such as {\"u1\":1}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let (mut keys, mut seen) = (vec![], HashSet::new());
                while let Some((key, _)) = map.next_entry::<Box<str>, serde::de::IgnoredAny>()? {
                    if seen.insert(key.clone()) {
                        keys.push(key);
                    }
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(KeysVisitor)
    }
}

/// The body of `POST {app}/groups`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub(super) struct NewGroup {
    group_name: Option<String>,
    #[schema(value_type = Option<Object>)]
    group_members: Option<Keys>,
    group_id: Option<String>,
    #[schema(value_type = Option<Object>)]
    attributes: Option<Box<RawValue>>,
    group_owner: Option<String>,
}

/// The bodies of the other routes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub(super) struct Change {
    group_name: Option<String>,
    #[schema(value_type = Option<Object>)]
    attributes: Option<Box<RawValue>>,
    member_id: Option<String>,
    #[schema(value_type = Option<Object>)]
    members: Option<Keys>,
}

/// What a creation answers. Raw, because a client's attributes are in it.
#[derive(Serialize)]
struct Made {
    success: bool,
    group: Box<RawValue>,
}

type GroupPath = Path<(String, String)>;

/// Makes a group.
#[utoipa::path(
    post,
    path = "/{app}/groups",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
    ),
    request_body = NewGroup,
    responses(
        (status = 201, description = "the group"),
        (status = 405, description = "a field is missing"),
        (status = 409, description = "it exists"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(app): Path<String>,
    Body(new, room): Body<NewGroup>,
) -> Result<Response, Failure> {
    let app = caller.app(&app)?;
    let name = given(new.group_name).ok_or(Failure::Missing("group_name not present!"))?;
    let members = new.group_members;
    let Keys(mut members) = members.ok_or(Failure::Missing("group_members not present!"))?;
    check_object("attributes", new.attributes.as_deref())?;
    check_name(&name)?;
    let id = given(new.group_id).unwrap_or_else(|| format!("group-{}", random_id()));
    let user = caller.user().as_str();
    let owner = match given(new.group_owner) {
        Some(owner) if caller.is_admin() => owner,
        Some(_) | None => user.to_owned(),
    };
    if !caller.is_admin() && !members.iter().any(|member| **member == *user) {
        members.push(user.into());
    }
    identifier("group_owner", &owner)?;
    check_members("group_members", &members)?;
    let group = identifier("group_id", &id)?;
    if !caller.is_admin() && !group.is_group() {
        let fault = format!("group_id {id:?} must contain \"group-\"");
        return Err(refused(Refusal::NotAGroup, fault));
    }
    let about = About {
        app,
        group,
        name: &name,
        members: members.len(),
        is_new: true,
    };
    let change = GroupChange::Create {
        name: name.as_str().into(),
        owner: owner.into(),
        members,
        attributes: new.attributes,
    };
    let outcome = hand_in(&api, &caller, &about, change, &Users::default()).await?;
    match outcome.group {
        Some(GroupOutcome::Changed { body, .. }) => {
            let group = serde_json::from_slice(&body).map_err(|_| Failure::Unknown)?;
            let answer = Made {
                success: true,
                group,
            };
            // As large as the request was, and held as long as its client takes it.
            let answer = serde_json::to_vec(&answer).map_err(|_| Failure::Unknown)?;
            let room = room.ok_or(Failure::Unknown)?;
            Ok((StatusCode::CREATED, room.answer(answer)).into_response())
        }
        Some(GroupOutcome::Unchanged(GroupFault::Exists)) => {
            let answer = json!({"success": false, "err": "exists"});
            Ok((StatusCode::CONFLICT, Json(answer)).into_response())
        }
        Some(GroupOutcome::Unchanged(GroupFault::TooMany)) => {
            let answer = json!({"success": false, "err": "too-many-groups"});
            Ok((StatusCode::FORBIDDEN, Json(answer)).into_response())
        }
        Some(GroupOutcome::Unchanged(_)) | None => Err(Failure::Unavailable),
    }
}

/// Gives a group another name.
#[utoipa::path(
    put,
    path = "/{app}/groups/{group}",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("group" = String, Path, description = "the group's identifier"),
    ),
    request_body = Change,
    responses(
        (status = 200, description = "renamed"),
        (status = 405, description = "it is not changed, and why"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn rename(
    State(api): State<Api>,
    caller: Caller,
    path: GroupPath,
    Body(change, _room): Body<Change>,
) -> Result<Response, Failure> {
    let name = given(change.group_name).ok_or(Failure::Missing("group_name is mandatory!"))?;
    check_name(&name)?;
    alter(&api, &caller, path, GroupChange::Rename(name.into())).await
}

/// Replaces a group's attributes.
#[utoipa::path(
    put,
    path = "/{app}/groups/{group}/attributes",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("group" = String, Path, description = "the group's identifier"),
    ),
    request_body = Change,
    responses(
        (status = 200, description = "replaced"),
        (status = 405, description = "it is not changed, and why"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn set_attributes(
    State(api): State<Api>,
    caller: Caller,
    path: GroupPath,
    Body(change, _room): Body<Change>,
) -> Result<Response, Failure> {
    let missing = Failure::Missing("attributes is mandatory!");
    let attributes = change.attributes.ok_or(missing)?;
    check_object("attributes", Some(&attributes))?;
    alter(&api, &caller, path, GroupChange::SetAttributes(attributes)).await
}

/// Adds a member to a group.
#[utoipa::path(
    post,
    path = "/{app}/groups/{group}/members",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("group" = String, Path, description = "the group's identifier"),
    ),
    request_body = Change,
    responses(
        (status = 200, description = "added"),
        (status = 405, description = "it is not changed, and why"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn add_member(
    State(api): State<Api>,
    caller: Caller,
    path: GroupPath,
    Body(change, _room): Body<Change>,
) -> Result<Response, Failure> {
    let member = given(change.member_id).ok_or(Failure::Missing("member_id is mandatory!"))?;
    identifier("member_id", &member)?;
    alter(&api, &caller, path, GroupChange::Add(member.into())).await
}

/// Sets a group's members.
#[utoipa::path(
    put,
    path = "/{app}/groups/{group}/members",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("group" = String, Path, description = "the group's identifier"),
    ),
    request_body = Change,
    responses(
        (status = 200, description = "these are the members now"),
        (status = 405, description = "it is not changed, and why"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn set_members(
    State(api): State<Api>,
    caller: Caller,
    path: GroupPath,
    Body(change, _room): Body<Change>,
) -> Result<Response, Failure> {
    let Keys(members) = change
        .members
        .ok_or(Failure::Missing("members is mandatory!"))?;
    check_members("members", &members)?;
    alter(&api, &caller, path, GroupChange::SetMembers(members)).await
}

/// Removes a member from a group.
#[utoipa::path(
    delete,
    path = "/{app}/groups/{group}/members/{member}",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("group" = String, Path, description = "the group's identifier"),
        ("member" = String, Path, description = "a user's identifier"),
    ),
    responses(
        (status = 200, description = "removed"),
        (status = 405, description = "it is not changed, and why"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn remove_member(
    State(api): State<Api>,
    caller: Caller,
    Path((app, group, member)): Path<(String, String, String)>,
) -> Result<Response, Failure> {
    let change = GroupChange::Remove(member.into());
    alter(&api, &caller, Path((app, group)), change).await
}

/// Changes a group that is there.
async fn alter(
    api: &Api,
    caller: &Caller,
    Path((app, id)): GroupPath,
    change: GroupChange,
) -> Result<Response, Failure> {
    let tenant = caller.app(&app)?;
    // What messages call the group. Whether it is there is decided with the change.
    let (name, members) = match group_body(api, &app, &id).await? {
        Some(body) => (name_of(&body), members_of(&body)),
        None => return Ok(unchanged(&change, GroupFault::NotFound)),
    };
    let about = About {
        app: tenant,
        group: identifier("group", &id)?,
        name: &name,
        members: members.len(),
        is_new: false,
    };
    let outcome = hand_in(api, caller, &about, change.clone(), &members).await?;
    match outcome.group {
        Some(GroupOutcome::Unchanged(fault)) => Ok(unchanged(&change, fault)),
        Some(GroupOutcome::Changed { .. }) | None => {
            Ok(Json(json!({"success": true})).into_response())
        }
    }
}

/// The group that is changed.
struct About<'a> {
    app: AppId<'a>,
    group: UserId<'a>,
    /// What messages call it.
    name: &'a str,
    /// How many members there are, about.
    members: usize,
    is_new: bool,
}

/// Hands in a change of a group with these members, and what follows if it is made.
async fn hand_in(
    api: &Api,
    caller: &Caller,
    about: &About<'_>,
    change: GroupChange,
    members: &Users,
) -> Result<Outcome, Failure> {
    let joining = joining(&change, members);
    let ids = joining.iter().map(|id| &**id);
    let names = api.contacts.names(ids, Clock.now().instant).await;
    let telling = Telling {
        name: about.name,
        is_new: about.is_new,
        joining: &joining,
        names: &names,
    };
    let announcements = telling.announcements(&change);
    let topic = outgoing(api, about.app, caller.user(), about.group)?;
    let parts = group_parts(change).into_iter();
    let mut parts: Vec<_> = parts
        .map(|(payload, task)| submitted(&topic, payload, task))
        .collect();
    let has_history = parts.len() > 1;
    let topic = outgoing(api, about.app, identifier("system", SYSTEM)?, about.group)?;
    parts.extend(announcements.into_iter().map(|told| {
        let payload = told.message.get().to_owned();
        submitted(&topic, payload, Task::Announcement(told.only_if))
    }));
    let history = if has_history { HISTORY } else { 0 };
    let recipients = about.members * parts.len() + joining.len() * history;
    let outcome = submit(api, caller, recipients, parts).await?;
    match outcome.refusal {
        Some(refused) => Err(Failure::Refused(refused)),
        None => Ok(outcome),
    }
}

/// The answers of chat21-http-server to a change that is not made.
fn unchanged(change: &GroupChange, fault: GroupFault) -> Response {
    let message = match fault {
        GroupFault::NotFound => "Not found",
        GroupFault::NotAllowed => "Unauthorized",
        GroupFault::AlreadyMember => "Already a member",
        GroupFault::NotAMember => "Not found",
        GroupFault::SameMembers => "Same members in group, skipping setGroupMembers()",
        GroupFault::SameGroup => "Same group",
        GroupFault::Exists => "exists",
        GroupFault::TooMany => "too-many-groups",
    };
    let answer = match change {
        GroupChange::Add(_) => {
            let err = match fault == GroupFault::NotAllowed {
                true => "Not allowed",
                false => message,
            };
            let err = json!({"success": false, "err": err});
            json!({"success": false, "err": err, "http_status": 405})
        }
        GroupChange::Remove(_) => {
            json!({"success": false, "err": "Not found", "http_status": 404})
        }
        GroupChange::Create { .. }
        | GroupChange::Rename(_)
        | GroupChange::SetAttributes(_)
        | GroupChange::Replace(_)
        | GroupChange::SetMembers(_) => json!({"success": false, "err": {"message": message}}),
    };
    (StatusCode::METHOD_NOT_ALLOWED, Json(answer)).into_response()
}

fn check_members(field: &str, members: &[Box<str>]) -> Result<(), Failure> {
    for member in members {
        identifier(field, member)?;
    }
    Ok(())
}

/// Each message of the system bears it.
fn check_name(name: &str) -> Result<(), Failure> {
    match name.len() > MAX_NAME {
        true => Err(Failure::Malformed(format!(
            "group_name must have at most {MAX_NAME} bytes"
        ))),
        false => Ok(()),
    }
}

fn check_object(name: &str, value: Option<&RawValue>) -> Result<(), Failure> {
    match value {
        Some(value) if !value.get().starts_with('{') => {
            Err(Failure::Malformed(format!("{name} must be an object")))
        }
        Some(_) | None => Ok(()),
    }
}
