//! Reasons, facts and writes in words, and the payloads that are usual on each kind of topic.

use crate::config::Config;
use crate::protocol::address::Address;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::refusal::Refusal;
use crate::protocol::request::Request;
use crate::rules::facts::{FactSource, GroupLookup};
use crate::rules::group_message;
use crate::rules::plan::Plan;
use crate::rules::write::{Listing, Write};

const NO_GROUPS: &str = "the message names no group members, and without a store (--store none) \
                         no groups are known";
const NOT_A_GROUP: &str = "the recipient is no group: its name does not contain \"group-\", \
                           and none is stored under it";
const NOT_A_MEMBER: &str = "the sender is no member of the stored group \
                            (--groups-membership, --privileged-senders)";

/// The payload that clients usually send there.
pub(super) fn usual_payload(address: &Address<'_>) -> &'static str {
    match address {
        Address::Outgoing(_) => r#"{"text":"hello"}"#,
        Address::Receipt(..) => r#"{"status":200}"#,
        Address::Conversation(_) => r#"{"is_new":false}"#,
        Address::Archive(_) | Address::Fetch { .. } | Address::ConversationsFetch { .. } => "{}",
        Address::Presence { .. } => r#"{"connected":true}"#,
        Address::Block(_) => r#"{"blocked":true}"#,
        Address::Inject(_) => {
            r#"{"message_id":"01","sender":"system","text":"hello","status":150}"#
        }
        Address::Groups { .. } => {
            r#"{"group":{"uid":"group-1","members":{"alice":1}},"notify_to":{"alice":1}}"#
        }
    }
}

/// Why a publish is refused, in words.
pub(super) fn because(reason: Refusal, request: Option<&Request<'_>>, config: &Config) -> String {
    let policy = &config.rules.router.policy;
    let app = request.map(|request| request.address().app());
    let rules = app.map_or(&policy.rules, |app| policy.rules(app));
    let text = match (reason, request) {
        (Refusal::Banned, _) => "the sender is banned (--banned, or block ban)",
        (Refusal::Blocked, _) => "the recipient blocks the sender, who is not told",
        (Refusal::NotAGroup, Some(_)) if config.store.is_none() => NO_GROUPS,
        (Refusal::NotAGroup, _) => NOT_A_GROUP,
        (Refusal::NotAMember, _) => NOT_A_MEMBER,
        (Refusal::BadStatus, Some(Request::Receipt { .. })) => {
            "that message is not in this timeline, or the user wrote it"
        }
        (Refusal::BadStatus, _) => "the payload is not one that this topic takes",
        (Refusal::TooLarge, Some(Request::Block { .. })) => {
            "the user already blocks as many others as are allowed"
        }
        (Refusal::Unroutable, _) => {
            "the broker cannot carry a topic that it would be published to (--broker-kind)"
        }
        (Refusal::TooManyRecipients, _) => {
            return format!(
                "it would go to more than {} members (--max-recipients), or names more than {} \
                 itself (--max-inline-recipients)",
                rules.max_recipients, rules.max_inline_recipients
            );
        }
        (Refusal::TooLarge, _) => {
            return format!(
                "it is over {} bytes (--max-payload), nested deeper than {} (--max-depth), \
                 or of more than {} values (--max-values)",
                rules.max_payload_bytes, rules.max_depth, rules.max_values
            );
        }
        (
            Refusal::MalformedTopic
            | Refusal::ReservedIdentifier
            | Refusal::Retained
            | Refusal::NotJson
            | Refusal::NotAnObject
            | Refusal::RateLimited
            | Refusal::Unauthorized
            | Refusal::Internal,
            _,
        ) => return reason.hint().to_owned(),
    };
    text.to_owned()
}

/// Which group a message goes to, if it goes to one.
pub(super) fn group_note<S: FactSource + ?Sized>(
    request: &Request<'_>,
    plan: &Plan<'_>,
    source: &mut S,
) -> Result<Option<String>, S::Error> {
    let Request::Message { outgoing, .. } = request else {
        return Ok(None);
    };
    if plan.refusal == Some(Refusal::Banned) {
        return Ok(None);
    }
    let Some(facts) = group_message::Facts::look_up(outgoing, source)? else {
        return Ok(None);
    };
    Ok(match facts.group {
        GroupLookup::Stored(group) => Some(format!("a stored group of {}", group.members.len())),
        GroupLookup::NotStored | GroupLookup::NoStore if plan.refusal.is_none() => Some(
            "no stored group: it goes to those written into the message, else to the sender alone"
                .to_owned(),
        ),
        GroupLookup::NotStored | GroupLookup::NoStore => None,
    })
}

/// A write in words. `None` for a note of a user's absence: it follows from the client that is
/// there or gone.
pub(super) fn write(write: &Write<'_>) -> Option<String> {
    Some(match write {
        Write::Message(message) => format!("message {}, once", message.id),
        Write::Copy(copy) => format!(
            "copy in the timeline of {} with {}, status {}{}",
            copy.timeline.inbox_of,
            copy.timeline.convers_with,
            copy.status.code(),
            match copy.listing {
                Listing::Listed => "",
                Listing::Unlisted => ", not listed",
            }
        ),
        Write::Raise {
            timeline, status, ..
        } => format!(
            "the copy of {} is at least at status {}",
            timeline.inbox_of,
            status.code()
        ),
        Write::Patch(timeline, _) => {
            format!(
                "the conversation of {} with {} is patched",
                timeline.inbox_of, timeline.convers_with
            )
        }
        Write::Archive(timeline) => {
            format!(
                "the conversation of {} with {} is archived",
                timeline.inbox_of, timeline.convers_with
            )
        }
        Write::ClientConnected(client) => format!("a client of {} is there", client.user),
        Write::ClientGone(client) => format!("a client of {} is gone", client.user),
        Write::Absence { .. } => return None,
        Write::Block(timeline, change) => format!(
            "{} {} {}",
            timeline.inbox_of,
            match change {
                BlockChange::Block => "blocks",
                BlockChange::Unblock => "no longer blocks",
            },
            timeline.convers_with
        ),
        Write::Instance { user, .. } => format!("a client of {user} to notify"),
        Write::Erase { convers_with, .. } => format!("what everybody has with {convers_with}"),
        Write::Group { id, .. } => format!("group {id}"),
    })
}
