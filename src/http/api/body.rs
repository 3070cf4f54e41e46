//! Reading a request's JSON body, with answers that name what is wrong.

use std::marker::PhantomData;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::{Json, RequestExt};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::Api;
use super::caller::Caller;
use super::failure::Failure;
use super::room::Room;

/// A JSON body, and the room that it takes. Where there is none, it is an empty object: the fields
/// that must be there are named by whoever needs them.
///
/// A handler has it behind its [`Caller`]: nothing is read of a stranger's.
pub(super) struct Body<T>(pub(super) T, pub(super) Option<Room>);

impl<T> FromRequest<Api> for Body<T>
where
    T: DeserializeOwned + Default + 'static,
{
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        let headers = request.headers();
        let length = headers.get(CONTENT_LENGTH);
        let is_empty =
            length.is_none_or(|length| length == "0") && !headers.contains_key(TRANSFER_ENCODING);
        // Some clients name a type all the same.
        if is_empty {
            return Ok(Self(T::default(), None));
        }
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or(Failure::Unauthorized)?;
        let room = api.rooms.for_body(&caller, length).await?;
        match request.extract::<Json<Object<T>>, _>().await {
            Ok(Json(Object(body))) => Ok(Self(body, Some(room))),
            Err(rejection) => Err(failure(&rejection)),
        }
    }
}

/// A struct that is read from an object. What serde derives reads an array, too, field by field.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A text, and `None` for an empty one: chat21-http-server takes that for none.
pub(super) fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// A JSON string as it came. JavaScript cuts a text inside of an emoji, and writes half of it as an
/// escape that stands for no character: clients read that, and no `String` can hold it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct RawText(Box<RawValue>);

impl<'de> Deserialize<'de> for RawText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match raw.get().starts_with('"') {
            true => Ok(Self(raw)),
            false => Err(serde::de::Error::custom("expected a string")),
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may come to know more: its own words are given then"
)]
fn failure(rejection: &JsonRejection) -> Failure {
    match rejection {
        JsonRejection::JsonDataError(error) => {
            let text = error.body_text();
            // The library's own introduction says nothing to a client.
            let fault = text
                .split_once(": ")
                .map_or(text.as_str(), |(_, fault)| fault);
            Failure::Malformed(fault.to_owned())
        }
        JsonRejection::JsonSyntaxError(error) => {
            let text = error.body_text();
            let fault = text.split_once(": ").map(|(_, fault)| fault.to_owned());
            Failure::NotJson(fault)
        }
        JsonRejection::MissingJsonContentType(_) => Failure::NotSentAsJson,
        JsonRejection::BytesRejection(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Failure::TooLarge
        }
        rejection => Failure::Malformed(rejection.body_text()),
    }
}
