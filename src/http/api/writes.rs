//! The routes that write a message or archive a conversation.
//!
//! Owns what each makes of its body. Both take the way of a message: no rule is here.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Api;
use super::body::{Body, RawText, given};
use super::caller::Caller;
use super::failure::Failure;
use super::handover::{Outcome, Unserved, hand_in};
use super::routes::note_handed_in;
use crate::protocol::id::{AppId, MAX_LEVEL_BYTES, UserId};
use crate::protocol::message::Received;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::request::Erased;
use crate::protocol::topic::TopicName;
use crate::rules::submission::{Authority, Submission, Submitted, Task};

/// The most that a device or browser may say of itself, in bytes.
const MAX_INSTANCE: usize = 2 << 10;

impl From<Unserved> for Failure {
    fn from(unserved: Unserved) -> Self {
        match unserved {
            Unserved::Refused(refused) => Self::Refused(refused),
            Unserved::Unavailable => Self::Unavailable,
            Unserved::Unknown => Self::Unknown,
        }
    }
}

impl Caller {
    pub(super) fn authority(&self) -> Authority {
        match self.is_admin() {
            true => Authority::Admin,
            false => Authority::Sender,
        }
    }
}

/// Hands a submission in, and waits until its outcome is committed.
pub(super) async fn submit(
    api: &Api,
    caller: &Caller,
    recipients: usize,
    messages: Vec<Submitted>,
) -> Result<Outcome, Failure> {
    let submission = Submission {
        authority: caller.authority(),
        recipients,
        messages,
    };
    note_handed_in();
    Ok(hand_in(&api.handovers, submission).await?)
}

/// A message that a client could have published.
pub(super) fn submitted(topic: &TopicName, payload: impl Into<Bytes>, task: Task) -> Submitted {
    let topic = Bytes::copy_from_slice(topic.as_str().as_bytes());
    Submitted {
        received: Received::new(topic, payload.into(), false),
        task,
    }
}

/// The topic on which `sender` writes to `recipient`.
pub(super) fn outgoing(
    api: &Api,
    app: AppId<'_>,
    sender: UserId<'_>,
    recipient: UserId<'_>,
) -> Result<TopicName, Failure> {
    let topic = api.layouts.outgoing_topic(app, sender, recipient);
    topic.ok_or_else(|| {
        let fault = format!(
            "no layout serves the app {:?} (--app, --layouts)",
            app.as_str()
        );
        refused(Refusal::MalformedTopic, fault)
    })
}

/// The identifier that stands in `place` of a body or path.
pub(super) fn identifier<'a>(place: &str, text: &'a str) -> Result<UserId<'a>, Failure> {
    UserId::parse(text).map_err(|error| {
        let shown = &text[..text.floor_char_boundary(MAX_LEVEL_BYTES)];
        refused(error.into(), format!("{place} {shown:?} {error}"))
    })
}

/// A refusal in words for whoever wrote the client.
pub(super) fn refused(reason: Refusal, fault: impl Into<Box<str>>) -> Failure {
    Failure::Refused(Refused {
        detail: Some(fault.into()),
        ..reason.into()
    })
}

/// The body of `POST {app}/messages`. Raw values go on as they came.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub(super) struct NewMessage {
    #[schema(value_type = Option<String>)]
    sender_fullname: Option<RawText>,
    recipient_id: Option<String>,
    #[schema(value_type = Option<String>)]
    recipient_fullname: Option<RawText>,
    #[schema(value_type = Option<String>)]
    text: Option<RawText>,
    r#type: Option<String>,
    channel_type: Option<String>,
    #[schema(value_type = Option<Object>)]
    attributes: Option<Box<RawValue>>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
    #[schema(value_type = Option<u64>)]
    timestamp: Option<Box<RawValue>>,
    sender_id: Option<String>,
}

/// The payload that a client would publish.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: &'a Option<RawText>,
    r#type: &'a str,
    recipient_fullname: &'a RawText,
    sender_fullname: &'a RawText,
    channel_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: &'a Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: &'a Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: &'a Option<Box<RawValue>>,
}

/// Writes a message.
#[utoipa::path(
    post,
    path = "/{app}/messages",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
    ),
    request_body = NewMessage,
    responses(
        (status = 200, description = "accepted: its message_id"),
        (status = 405, description = "a field is missing"),
        (status = 429, description = "too many: see Retry-After"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn message(
    State(api): State<Api>,
    caller: Caller,
    Path(app): Path<String>,
    Body(message, _room): Body<NewMessage>,
) -> Result<Response, Failure> {
    let app = caller.app(&app)?;
    let sender_fullname = message.sender_fullname.as_ref();
    let sender_fullname =
        sender_fullname.ok_or(Failure::Missing("Sender Fullname is mandatory"))?;
    let recipient = given(message.recipient_id);
    let recipient = recipient.ok_or(Failure::Missing("Recipient id is mandatory"))?;
    let recipient_fullname = message.recipient_fullname.as_ref();
    let recipient_fullname =
        recipient_fullname.ok_or(Failure::Missing("Recipient Fullname is mandatory"))?;
    let sender = given(message.sender_id);
    let sender = match sender.as_deref() {
        Some(sender) if caller.is_admin() => identifier("sender_id", sender)?,
        Some(_) | None => caller.user(),
    };
    let recipient = identifier("recipient_id", &recipient)?;
    let topic = outgoing(&api, app, sender, recipient)?;
    let (kind, channel) = (given(message.r#type), given(message.channel_type));
    let payload = Payload {
        text: &message.text,
        r#type: kind.as_deref().unwrap_or("text"),
        recipient_fullname,
        sender_fullname,
        channel_type: channel.as_deref().unwrap_or("direct"),
        attributes: &message.attributes,
        metadata: &message.metadata,
        timestamp: &message.timestamp,
    };
    let payload = serde_json::to_vec(&payload).map_err(|_| Failure::NotJson(None))?;
    let outcome = submit(
        &api,
        &caller,
        0,
        vec![submitted(&topic, payload, Task::Message)],
    )
    .await?;
    accepted(&outcome)?;
    let id = outcome.id.to_string();
    Ok(Json(json!({"success": true, "message_id": id})).into_response())
}

/// The body of `DELETE {app}/conversations/{peer}`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub(super) struct Archive {
    user_id: Option<String>,
}

/// Archives a conversation.
#[utoipa::path(
    delete,
    path = "/{app}/conversations/{peer}",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("peer" = String, Path, description = "a user or group"),
    ),
    request_body = Archive,
    responses(
        (status = 201, description = "archived"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn archive(
    State(api): State<Api>,
    caller: Caller,
    Path((app, peer)): Path<(String, String)>,
    Body(archive, _room): Body<Archive>,
) -> Result<Response, Failure> {
    let app = caller.app(&app)?;
    let user = given(archive.user_id);
    let user = match user.as_deref() {
        Some(user) if caller.is_admin() => identifier("user_id", user)?,
        Some(user) if user != caller.user().as_str() => return Err(Failure::OtherCaller),
        Some(_) | None => caller.user(),
    };
    let peer = identifier("conversation", &peer)?;
    let topic = format!("apps/{app}/users/{user}/conversations/{peer}/archive");
    let topic =
        TopicName::parse(&topic).map_err(|_| Failure::Refused(Refusal::MalformedTopic.into()))?;
    let payload = Bytes::from_static(br#"{"action":"archive"}"#);
    let outcome = submit(
        &api,
        &caller,
        0,
        vec![submitted(&topic, payload, Task::Message)],
    )
    .await?;
    accepted(&outcome)?;
    Ok((StatusCode::CREATED, Json(json!({"success": true}))).into_response())
}

/// The body of `POST {app}/{user}/instances/{instance}`.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(expecting = "an object")]
pub(super) struct Instance {
    device_model: Option<String>,
    language: Option<String>,
    platform: Option<String>,
    platform_version: Option<String>,
}

/// Registers a device or browser that a user wants to be notified on.
#[utoipa::path(
    post,
    path = "/{app}/{user}/instances/{instance}",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("user" = String, Path, description = "the user"),
        ("instance" = String, Path, description = "what the client calls itself"),
    ),
    request_body = Instance,
    responses(
        (status = 200, description = "registered"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn register(
    State(api): State<Api>,
    caller: Caller,
    Path((app, user, instance)): Path<(String, String, String)>,
    Body(about, _room): Body<Instance>,
) -> Result<Response, Failure> {
    let (app, user) = caller.owner(&app, &user)?;
    let topic = outgoing(&api, app, user, user)?;
    let body = serde_json::to_string(&about).map_err(|_| Failure::NotJson(None))?;
    if instance.len() + body.len() > MAX_INSTANCE {
        let fault = format!("an instance and what is said of it may have {MAX_INSTANCE} bytes");
        return Err(refused(Refusal::TooLarge, fault));
    }
    let task = Task::Register {
        instance: instance.into(),
        body: body.into(),
    };
    let outcome = submit(&api, &caller, 0, vec![submitted(&topic, "{}", task)]).await?;
    accepted(&outcome)?;
    Ok(Json(json!({"success": true})).into_response())
}

/// Erases the conversations that everybody has with somebody.
#[utoipa::path(
    delete,
    path = "/{app}/{peer}/conversations/timelines",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("peer" = String, Path, description = "a user or group"),
    ),
    responses(
        (status = 200, description = "erased"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn erase_conversations(
    api: State<Api>,
    caller: Caller,
    path: Path<(String, String)>,
) -> Result<Response, Failure> {
    erase(&api, &caller, path, Erased::Conversations).await
}

/// Erases the messages that everybody has with somebody.
#[utoipa::path(
    delete,
    path = "/{app}/{peer}/messages/timelines",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("peer" = String, Path, description = "a user or group"),
    ),
    responses(
        (status = 200, description = "erased"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn erase_messages(
    api: State<Api>,
    caller: Caller,
    path: Path<(String, String)>,
) -> Result<Response, Failure> {
    erase(&api, &caller, path, Erased::Messages).await
}

async fn erase(
    api: &Api,
    caller: &Caller,
    Path((app, peer)): Path<(String, String)>,
    what: Erased,
) -> Result<Response, Failure> {
    let (app, peer) = (caller.app(&app)?, identifier("peer", &peer)?);
    let topic = outgoing(api, app, caller.user(), peer)?;
    let task = Task::Erase(what);
    let outcome = submit(api, caller, 0, vec![submitted(&topic, "{}", task)]).await?;
    accepted(&outcome)?;
    Ok(Json(json!({"success": true})).into_response())
}

/// Nobody is told; tiledesk-server waits for the answer.
#[utoipa::path(
    put,
    path = "/{app}/typings/{recipient}",
    params(
        ("app" = String, Path, description = "the tenant: the token's"),
        ("recipient" = String, Path, description = "a user or group"),
    ),
    responses(
        (status = 200, description = "nobody is told"),
        (status = 401, description = "the token is another user's, or of another app"),
        (status = 403, description = "no token that is accepted, or refused"),
    )
)]
pub(super) async fn typing(
    caller: Caller,
    Path((app, _)): Path<(String, String)>,
) -> Result<Response, Failure> {
    caller.app(&app)?;
    Ok(Json(json!({"success": true})).into_response())
}

/// Whether a message was accepted. Who is blocked is not told.
pub(super) fn accepted(outcome: &Outcome) -> Result<(), Failure> {
    match &outcome.refusal {
        Some(refused) if refused.reason != Refusal::Blocked => {
            Err(Failure::Refused(refused.clone()))
        }
        Some(_) | None => Ok(()),
    }
}
