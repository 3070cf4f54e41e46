//! The routes that read: conversations, messages, groups.
//!
//! Owns what each answers. Leaves the connections to the store to `readers`.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::Api;
use super::caller::Caller;
use super::documents::{self, Document};
use super::failure::Failure;
use super::pages::{Page, PageQuery, cursor};
use super::readers::read;
use crate::protocol::address::Timeline;
use crate::protocol::group::Group;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::json::{parse_object, raw};
use crate::rules::listing::{From, ListedConversation, Window};
use crate::store::StoreError;
use crate::store::reader::Reader;

/// Reads what may be large, and makes the answer: that waits until there is room for it.
async fn answer(
    api: &Api,
    caller: &Caller,
    query: impl FnOnce(&mut dyn Reader) -> Result<List, StoreError> + Send + 'static,
) -> Result<Response, Failure> {
    let room = api.rooms.for_answer(caller).await?;
    let json = read(api, move |reader| query(reader).map(|list| list.to_json())).await?;
    Ok(room.answer(json))
}

/// What a list answers.
struct List {
    result: Vec<Document>,
    next: Option<String>,
}

impl List {
    fn of(result: Vec<Document>, next: Option<i64>) -> Self {
        Self {
            result,
            next: next.map(cursor),
        }
    }

    fn to_json(&self) -> Vec<u8> {
        let bytes: usize = self.result.iter().map(|one| one.json.len() + 1).sum();
        let mut json = String::with_capacity(bytes + 128);
        json.push_str(r#"{"success":true,"result":["#);
        for (n, document) in self.result.iter().enumerate() {
            if n > 0 {
                json.push(',');
            }
            json.push_str(&document.json);
        }
        json.push(']');
        if let Some(next) = &self.next {
            json.push_str(&format!(r#","next":"{next}""#));
        }
        json.push('}');
        json.into_bytes()
    }

    fn empty() -> Response {
        Json(json!({"success": true, "result": []})).into_response()
    }
}

type UserPath = Path<(String, String)>;
type PeerPath = Path<(String, String, String)>;

/// A user's conversations.
#[utoipa::path(
    get,
    path = "/{app}/{user}/conversations",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("user" = String, Path, description = "the user"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "the conversations, newest first"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn conversations(
    api: State<Api>,
    caller: Caller,
    path: UserPath,
    page: Page,
) -> Result<Response, Failure> {
    list_conversations(&api, &caller, path, page, false).await
}

/// A user's archived conversations.
#[utoipa::path(
    get,
    path = "/{app}/{user}/archived_conversations",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("user" = String, Path, description = "the user"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "the conversations, newest first"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn archived_conversations(
    api: State<Api>,
    caller: Caller,
    path: UserPath,
    page: Page,
) -> Result<Response, Failure> {
    list_conversations(&api, &caller, path, page, true).await
}

/// The same, by the path that chat21-http-server gave it first.
#[utoipa::path(
    get,
    path = "/{app}/{user}/conversations/archived",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("user" = String, Path, description = "the user"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "the conversations, newest first"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn conversations_archived(
    api: State<Api>,
    caller: Caller,
    path: UserPath,
    page: Page,
) -> Result<Response, Failure> {
    list_conversations(&api, &caller, path, page, true).await
}

async fn list_conversations(
    api: &Api,
    caller: &Caller,
    Path((app, user)): UserPath,
    Page(window): Page,
    archived: bool,
) -> Result<Response, Failure> {
    caller.owner(&app, &user)?;
    answer(api, caller, move |reader| {
        let (app, owner) = sound(&app, &user);
        let slice = reader.conversations(app, owner, archived, window)?;
        let rows = slice.entries.iter();
        let mut rows: Vec<_> = rows
            .map(|listed| documents::conversation(&user, listed))
            .collect();
        if !is_oldest_first(window) {
            documents::sort_newest_first(&mut rows);
        }
        Ok(List::of(rows, slice.next))
    })
    .await
}

/// One conversation, if it is not archived.
#[utoipa::path(
    get,
    path = "/{app}/{user}/conversations/{peer}",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("user" = String, Path, description = "the user"),
        ("peer" = String, Path, description = "a user or group"),
    ),
    responses(
        (status = 200, description = "a list of one, or of none"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn conversation(
    api: State<Api>,
    caller: Caller,
    path: PeerPath,
) -> Result<Response, Failure> {
    one_conversation(&api, &caller, path, false).await
}

/// One conversation, if it is archived.
#[utoipa::path(
    get,
    path = "/{app}/{user}/archived_conversations/{peer}",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("user" = String, Path, description = "the user"),
        ("peer" = String, Path, description = "a user or group"),
    ),
    responses(
        (status = 200, description = "a list of one, or of none"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn archived_conversation(
    api: State<Api>,
    caller: Caller,
    path: PeerPath,
) -> Result<Response, Failure> {
    one_conversation(&api, &caller, path, true).await
}

async fn one_conversation(
    api: &Api,
    caller: &Caller,
    Path((app, user, peer)): PeerPath,
    archived: bool,
) -> Result<Response, Failure> {
    caller.owner(&app, &user)?;
    // Nobody has a conversation with what is no identifier.
    if UserId::parse(&peer).is_err() {
        return Ok(List::empty());
    }
    answer(api, caller, move |reader| {
        let row = reader.listed_conversation(&timeline(&app, &user, &peer))?;
        let row = row.filter(|row| row.archived == archived);
        let rows = row.into_iter().map(|row| {
            let listed = ListedConversation {
                convers_with: peer.as_str().into(),
                row,
            };
            documents::conversation(&user, &listed)
        });
        Ok(List::of(rows.collect(), None))
    })
    .await
}

/// The messages of a conversation.
#[utoipa::path(
    get,
    path = "/{app}/{user}/conversations/{peer}/messages",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("user" = String, Path, description = "the user"),
        ("peer" = String, Path, description = "a user or group"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "the messages, newest first"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn messages(
    State(api): State<Api>,
    caller: Caller,
    Path((app, user, peer)): PeerPath,
    Page(window): Page,
) -> Result<Response, Failure> {
    caller.owner(&app, &user)?;
    if UserId::parse(&peer).is_err() {
        return Ok(List::empty());
    }
    answer(&api, &caller, move |reader| {
        let timeline = timeline(&app, &user, &peer);
        let slice = reader.messages(&timeline, window)?;
        let messages = slice.entries.iter();
        let mut messages: Vec<_> = messages
            .map(|message| documents::message(&timeline, message))
            .collect();
        if !is_oldest_first(window) {
            documents::sort_newest_first(&mut messages);
        }
        Ok(List::of(messages, slice.next))
    })
    .await
}

/// A group.
#[utoipa::path(
    get,
    path = "/{app}/groups/{group}",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("group" = String, Path, description = "the group's identifier"),
    ),
    responses(
        (status = 200, description = "the group"),
        (status = 404, description = "there is no such group"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn group(
    State(api): State<Api>,
    caller: Caller,
    Path((app, id)): UserPath,
) -> Result<Response, Failure> {
    caller.app(&app)?;
    let room = api.rooms.for_answer(&caller).await?;
    let body = group_body(&api, &app, &id).await?.ok_or(Failure::NoGroup)?;
    let members = Group::parse(&body).map(|group| group.members);
    let is_member = members.is_ok_and(|members| members.contains(caller.user().as_str()));
    if !is_member && !caller.is_admin() {
        return Err(Failure::NotInGroup);
    }
    let found = Found {
        success: true,
        result: documents::group(&app, &id, body).ok_or(Failure::NoGroup)?,
    };
    let json = serde_json::to_vec(&found).map_err(|_| Failure::Unavailable)?;
    Ok(room.answer(json))
}

/// The devices and browsers that a user wants to be notified on.
#[utoipa::path(
    get,
    path = "/{app}/{user}/instances",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("user" = String, Path, description = "the user"),
    ),
    responses(
        (status = 200, description = "the instances"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn instances(
    State(api): State<Api>,
    caller: Caller,
    Path((app, user)): UserPath,
) -> Result<Response, Failure> {
    caller.owner(&app, &user)?;
    answer(&api, &caller, move |reader| {
        let (app, user) = sound(&app, &user);
        let instances = reader.instances(app, user)?;
        let rows = instances.into_iter().filter_map(|(id, body)| {
            let mut members = parse_object(body.as_bytes()).ok()?;
            members.insert("instance_id".to_owned(), raw(&id));
            Some(Document::from(members))
        });
        Ok(List::of(rows.collect(), None))
    })
    .await
}

#[derive(Serialize)]
struct Found {
    success: bool,
    result: Box<RawValue>,
}

/// The object of a group, if there is one.
pub(super) async fn group_body(api: &Api, app: &str, id: &str) -> Result<Option<String>, Failure> {
    if UserId::parse(id).is_err() {
        return Ok(None);
    }
    let (app, id) = (app.to_owned(), id.to_owned());
    read(api, move |reader| {
        let (app, id) = sound(&app, &id);
        reader.group_body(app, id)
    })
    .await
}

/// The version.
#[utoipa::path(
    get,
    path = "/{app}/getInfo",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
    ),
    responses(
        (status = 200, description = "the version"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn info(caller: Caller, Path(app): Path<String>) -> Result<Response, Failure> {
    caller.app(&app)?;
    Ok(Json(json!({"v": env!("CARGO_PKG_VERSION")})).into_response())
}

/// `GET /verify`
pub(super) async fn verify(Caller(identity): Caller) -> Response {
    Json(identity.claims).into_response()
}

/// `GET /`
pub(super) async fn root() -> &'static str {
    concat!("chat21-observer ", env!("CARGO_PKG_VERSION"))
}

fn is_oldest_first(window: Window) -> bool {
    matches!(window.from, From::Since(_))
}

fn sound<'a>(app: &'a str, user: &'a str) -> (AppId<'a>, UserId<'a>) {
    let app = AppId::parse(app).expect("checked with the caller");
    (app, UserId::parse(user).expect("checked before"))
}

fn timeline<'a>(app: &'a str, user: &'a str, peer: &'a str) -> Timeline<'a> {
    let (app, inbox_of) = sound(app, user);
    let convers_with = UserId::parse(peer).expect("checked before");
    Timeline {
        app,
        inbox_of,
        convers_with,
    }
}
