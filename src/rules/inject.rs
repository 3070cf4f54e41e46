//! A service puts a message into one timeline.
//!
//! Owns what is published and stored of it (`protocol.md`, section 4, *Delivered (inject)*). It
//! depends on no facts.

use bytes::Bytes;

use crate::protocol::address::Timeline;
use crate::protocol::control_topic::Notification;
use crate::protocol::injected::Injected;
use crate::protocol::status::Status;
use crate::rules::copies::{self, PlannedCopy};
use crate::rules::plan::{Context, Plan};
use crate::rules::write::{NewMessage, Write};

/// The message is published as it came. One without an id gets one.
pub(super) fn plan<'a>(
    timeline: &Timeline<'a>,
    message: &'a Injected,
    payload: &Bytes,
    context: &Context<'_>,
) -> Plan<'a> {
    match &message.message_id {
        Some(id) => plan_with_id(timeline, message, id, payload.clone(), context),
        None => {
            let id = context.id.to_string();
            let message = message.clone().with_id(&id);
            let payload = message.body.with_status(Status::Delivered);
            plan_with_id(timeline, &message, &id, payload, context)
        }
    }
}

fn plan_with_id<'a>(
    timeline: &Timeline<'a>,
    message: &Injected,
    message_id: &str,
    payload: Bytes,
    context: &Context<'_>,
) -> Plan<'a> {
    let inbox_of = timeline.inbox_of.as_str();
    let sender = message.sender.as_deref().unwrap_or_default();
    let mut plan = Plan::default();
    plan.writes.push(Write::Message(NewMessage {
        app: timeline.app,
        id: message_id.to_owned().into(),
        sender: sender.to_owned().into(),
        recipient: inbox_of,
        layout: "",
        body: message.body.clone(),
    }));
    let copy = PlannedCopy {
        timeline: *timeline,
        status: Status::Delivered,
        listing: copies::listing(&message.options),
        message_id,
        recipient: message.recipient.as_deref().unwrap_or(inbox_of),
        publish: context.notify(Notification::Message, timeline, payload),
    };
    copies::add(&mut plan, copy, context);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{body, plan, received, timeline};
    use crate::rules::write::Listing;

    #[test]
    fn what_a_service_injects_is_published_as_it_came() {
        let payload = br#"{"status":150, "message_id":"x","sender":"s","text":"t"}"#;
        let given = plan(&received(
            b"apps/observer/a/users/bob/messages/group-1/delivered",
            payload,
        ));
        assert_eq!(
            given.publishes[0].topic.as_str(),
            "apps/a/users/bob/messages/group-1/clientadded"
        );
        assert_eq!(&given.publishes[0].payload[..], payload);
        let [Write::Message(message), Write::Copy(copy)] = &given.writes[..] else {
            panic!("{given:?}")
        };
        assert_eq!(
            (&*message.id, &*message.sender, copy.timeline, copy.listing),
            ("x", "s", timeline("bob", "group-1"), Listing::Listed)
        );
        let without = plan(&received(
            b"apps/observer/a/users/bob/messages/group-1/delivered",
            br#"{"status":150}"#,
        ));
        assert!(
            body(&without.publishes[0])["message_id"].is_string(),
            "{without:?}"
        );
    }
}
