//! What bodies of requests and answers may hold in memory at a time.
//!
//! Owns the budget: some for all, and an eighth of it for one user. A request that finds none left
//! waits, and holds nothing meanwhile; so clients who send or take slowly cost others time, and the
//! process no memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::caller::Caller;
use super::failure::Failure;

/// Bytes of a permit.
const UNIT: usize = 1 << 10;
/// What one user may have is this part of the whole.
const PART: usize = 8;
/// Users who are remembered before those who have left are forgotten.
const USERS: usize = 1_024;

/// The budget.
pub(super) struct Rooms {
    all: Arc<Semaphore>,
    /// Units for one user.
    each: usize,
    users: Mutex<HashMap<(String, String), Weak<Semaphore>>>,
    largest_body: usize,
    largest_answer: usize,
}

impl Rooms {
    /// A budget of so many bytes, at least for one user with the largest request and answer.
    pub(super) fn new(bytes: usize, largest_body: usize, largest_answer: usize) -> Self {
        let each = units(bytes / PART).max(units(largest_body) + units(largest_answer));
        let all = units(bytes).max(each).min(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(all)),
            each,
            users: Mutex::default(),
            largest_body,
            largest_answer,
        }
    }

    /// Waits for room for the largest answer.
    pub(super) async fn for_answer(&self, caller: &Caller) -> Result<Room, Failure> {
        self.take(caller, self.largest_answer).await
    }

    /// Waits for room for a body of so many bytes, if they are known.
    pub(super) async fn for_body(
        &self,
        caller: &Caller,
        bytes: Option<usize>,
    ) -> Result<Room, Failure> {
        let bytes = bytes.unwrap_or(self.largest_body);
        self.take(caller, bytes.min(self.largest_body)).await
    }

    async fn take(&self, caller: &Caller, bytes: usize) -> Result<Room, Failure> {
        let wanted = u32::try_from(units(bytes)).unwrap_or(u32::MAX);
        let user = self.of(caller);
        let own = user.acquire_many_owned(wanted).await;
        let own = own.map_err(|_| Failure::Unavailable)?;
        let shared = self.all.clone().acquire_many_owned(wanted).await;
        let shared = shared.map_err(|_| Failure::Unavailable)?;
        Ok(Room { own, shared })
    }

    fn of(&self, caller: &Caller) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (caller.0.app.clone(), caller.0.user.clone());
        if let Some(room) = users.get(&key).and_then(Weak::upgrade) {
            return room;
        }
        if users.len() >= USERS {
            users.retain(|_, room| room.strong_count() > 0);
        }
        let room = Arc::new(Semaphore::new(self.each));
        users.insert(key, Arc::downgrade(&room));
        room
    }
}

/// A part of the budget, until it is dropped.
pub(super) struct Room {
    own: OwnedSemaphorePermit,
    shared: OwnedSemaphorePermit,
}

impl Room {
    /// An answer in JSON, which gives its room back when it is sent.
    pub(super) fn answer(mut self, json: Vec<u8>) -> Response {
        let kept = units(json.len());
        for permit in [&mut self.own, &mut self.shared] {
            drop(permit.split(permit.num_permits().saturating_sub(kept)));
        }
        // One piece, so that it is written at once as far as the client takes it. The connection
        // holds no copy of it.
        let whole = Bytes::from_owner(Held { json, _room: self });
        let mut response = Response::new(Body::from(whole));
        let value = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, value);
        response
    }
}

/// The body of an answer: it has its room until the connection has written the last byte.
struct Held {
    json: Vec<u8>,
    _room: Room,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::verify::Identity;
    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    fn caller(user: &str) -> Caller {
        Caller(Identity {
            user: user.to_owned(),
            app: "a".to_owned(),
            is_admin: false,
            claims: serde_json::Value::Null,
        })
    }

    #[tokio::test]
    async fn one_user_takes_a_part_and_an_answer_gives_back_what_it_does_not_need() {
        let rooms = Rooms::new(64 << 10, 4 << 10, 4 << 10);
        let [alice, bob] = ["alice", "bob"].map(caller);
        let first = rooms.for_answer(&alice).await.unwrap();
        let second = rooms.for_answer(&alice).await.unwrap();
        assert!(rooms.for_answer(&alice).now_or_never().is_none(), "no more");
        assert!(rooms.for_answer(&bob).now_or_never().is_some());
        let answer = first.answer(b"{}".to_vec());
        assert!(rooms.take(&alice, 3 << 10).now_or_never().is_some());
        assert!(rooms.for_answer(&alice).now_or_never().is_none());
        let sent = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&sent[..], b"{}");
        assert!(rooms.for_answer(&alice).now_or_never().is_none(), "held");
        drop(sent);
        assert!(rooms.for_answer(&alice).now_or_never().is_some());
        drop(second);
    }

    #[tokio::test]
    async fn an_answer_is_one_piece_and_holds_its_room_to_the_last_byte() {
        let rooms = Rooms::new(1 << 20, 1 << 20, 1 << 20);
        let alice = caller("alice");
        let room = rooms.for_answer(&alice).await.unwrap();
        let json: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut body = room.answer(json.clone()).into_body();
        let mut sent = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(sent, json);
        // The connection has written all but one.
        let last = sent.split_off(json.len() - 1);
        drop(sent);
        let whole = rooms.all.available_permits() + units(json.len());
        drop(last);
        assert_eq!(rooms.all.available_permits(), whole);
    }

    #[tokio::test]
    async fn those_who_left_are_forgotten() {
        let rooms = Rooms::new(16 << 20, 1 << 10, 1 << 10);
        for n in 0..3 * USERS {
            drop(rooms.take(&caller(&n.to_string()), 1).await.unwrap());
        }
        assert!(rooms.users.lock().unwrap().len() <= USERS);
    }
}
