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
/// by the change of a group before it. `stored`: the message as it was stored when it came first.
pub(super) fn read<'a>(
    router: &'a Router,
    added: Option<&'a Users>,
    message: &'a PendingMessage,
    stored: Option<&'a Received>,
) -> Option<Result<Request<'a>, Refused>> {
    let request = match (stored, &message.refused) {
        // What has passed before passes again, whatever speaks against it now.
        (Some(stored), _) => router.read_stored(stored),
        (None, Some(pending)) => return Some(Err(pending.refused.clone())),
        (None, None) => router.read(&message.received),
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
