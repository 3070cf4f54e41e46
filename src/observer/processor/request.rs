//! What a message asks for.
//!
//! Owns what the HTTP API's task makes of the message that it is handed in as. Leaves reading
//! topics and payloads to the router.

use crate::delivery::pending::PendingMessage;
use crate::protocol::group::Users;
use crate::protocol::message::Received;
use crate::protocol::refusal::Refused;
use crate::protocol::request::Request;
use crate::rules::router::Router;
use crate::rules::submission::Task;

/// The request of a message; `None` if it is not made after all. `added`: who has become a member
/// by the change of a group before it.
pub(super) fn read<'a>(
    router: &'a Router,
    added: Option<&'a Users>,
    message: &'a PendingMessage,
    received: &'a Received,
) -> Option<Result<Request<'a>, Refused>> {
    // What has passed before passes again, whatever speaks against it now.
    let is_stored = !std::ptr::eq(&raw const message.received, received);
    let request = match &message.refused {
        Some(pending) if !is_stored => return Some(Err(pending.refused.clone())),
        Some(_) | None if is_stored => router.read_stored(received),
        Some(_) | None => router.read(received),
    };
    let Some(part) = message.via.part() else {
        return Some(request.map_err(Refused::from));
    };
    let request = match (&part.task, added, request) {
        (Task::Change(change), _, Ok(Request::Message { outgoing, .. })) => {
            Ok(Request::GroupChange { outgoing, change })
        }
        (Task::Register { instance, body }, _, Ok(Request::Message { outgoing, .. })) => {
            Ok(Request::Register {
                outgoing,
                instance,
                body,
            })
        }
        (Task::Erase(what), _, Ok(Request::Message { outgoing, .. })) => Ok(Request::Erase {
            outgoing,
            what: *what,
        }),
        (
            Task::Gone { last_seen },
            _,
            Ok(Request::Presence {
                app,
                user,
                client,
                change,
                ..
            }),
        ) => Ok(Request::Presence {
            app,
            user,
            client,
            change,
            last_seen: Some(*last_seen),
        }),
        (Task::History, Some(members), Ok(Request::Message { outgoing, .. })) => {
            Ok(Request::GroupHistory { outgoing, members })
        }
        (Task::History | Task::Announcement(_), None, _) => return None,
        (Task::Announcement(Some(member)), Some(added), _) if !added.contains(member) => {
            return None;
        }
        (_, _, request) => request,
    };
    Some(request.map_err(Refused::from))
}
