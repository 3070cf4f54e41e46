use super::*;
use crate::protocol::address::{Address, ParseError, Timeline};
use crate::protocol::id::{AppId, ClientId, MessageKey, UserId};
use crate::protocol::layout::Layout;
use crate::protocol::testing::{built_in, without_controls};
use crate::protocol::topic::Subscription;
use crate::protocol::topic_map::TopicMap;

/// The timeline of user `u` with `p` in app `a`.
fn timeline() -> Timeline<'static> {
    Timeline {
        app: AppId::parse("a").unwrap(),
        inbox_of: UserId::parse("u").unwrap(),
        convers_with: UserId::parse("p").unwrap(),
    }
}

/// The subscriptions through which a publish to `topic` comes back.
fn subscriptions(map: &TopicMap, topic: &str) -> Vec<Subscription> {
    let all = map.filters().into_iter();
    all.filter(|asked| asked.filter.matches(topic)).collect()
}

/// Each row of `protocol.md`, section 2: topic, filter, address, and where its sender is told of a
/// refusal.
#[test]
fn the_control_topics_are_read_as_the_contract_says() {
    let map = built_in(Layout::BUILT_IN);
    let timeline = timeline();
    let (app, user) = (timeline.app, timeline.inbox_of);
    for (topic, filter, want, rejected) in [
        (
            "apps/a/users/u/messages/p/m1/update",
            "apps/+/users/+/messages/+/+/update",
            Address::Receipt(timeline, MessageKey::parse("m1").unwrap()),
            Some("apps/a/users/u/messages/p/m1/clientrejected"),
        ),
        (
            "apps/a/users/u/conversations/p/update",
            "apps/+/users/+/conversations/+/update",
            Address::Conversation(timeline),
            Some("apps/a/users/u/conversations/p/clientrejected"),
        ),
        (
            "apps/a/users/u/conversations/p/archive",
            "apps/+/users/+/conversations/+/archive",
            Address::Archive(timeline),
            Some("apps/a/users/u/conversations/p/clientrejected"),
        ),
        (
            "apps/a/users/u/presence/c1",
            "apps/+/users/+/presence/+",
            Address::Presence {
                app,
                user,
                client: ClientId::parse("c1").unwrap(),
            },
            None,
        ),
        (
            "apps/a/users/u/blocked/p/update",
            "apps/+/users/+/blocked/+/update",
            Address::Block(timeline),
            Some("apps/a/users/u/blocked/p/clientrejected"),
        ),
        (
            "apps/a/users/u/inbox/fetch",
            "apps/+/users/+/inbox/fetch",
            Address::Fetch { app, user },
            Some("apps/a/users/u/inbox/clientrejected"),
        ),
        (
            "apps/a/users/u/conversations/fetch",
            "apps/+/users/+/conversations/fetch",
            Address::ConversationsFetch { app, user },
            Some("apps/a/users/u/conversations/clientrejected"),
        ),
        (
            "apps/observer/a/users/u/messages/p/delivered",
            "apps/observer/+/users/+/messages/+/delivered",
            Address::Inject(timeline),
            None,
        ),
        (
            "apps/observer/a/groups/update",
            "apps/observer/+/groups/update",
            Address::Groups { app },
            None,
        ),
    ] {
        assert_eq!(map.parse(topic), Ok(want), "{topic}");
        let matching = subscriptions(&map, topic);
        let [asked] = &matching[..] else {
            panic!("{topic}: {matching:?}")
        };
        assert_eq!(
            (asked.filter.as_str(), asked.retained),
            (filter, matches!(want, Address::Presence { .. }))
        );
        let told = map.rejected_topic(&want);
        assert_eq!(told.as_ref().map(TopicName::as_str), rejected);
        for told in told.iter().map(TopicName::as_str) {
            assert_eq!(subscriptions(&map, told).len(), 0, "{told} comes back");
        }
    }
}

#[test]
fn users_are_notified_on_the_topics_of_the_contract() {
    let map = built_in(Layout::BUILT_IN);
    let timeline = timeline();
    for (what, want) in [
        (
            Notification::Message,
            "apps/a/users/u/messages/p/clientadded",
        ),
        (
            Notification::Receipt,
            "apps/a/users/u/messages/p/m1/clientupdated",
        ),
        (
            Notification::Conversation,
            "apps/a/users/u/conversations/p/clientupdated",
        ),
        (
            Notification::ConversationAdded,
            "apps/a/users/u/conversations/p/clientadded",
        ),
        (
            Notification::Conversations,
            "apps/a/users/u/conversations/clientupdated",
        ),
        (
            Notification::ArchiveDeleted,
            "apps/a/users/u/archived_conversations/p/clientdeleted",
        ),
        (
            Notification::ConversationDeleted,
            "apps/a/users/u/conversations/p/clientdeleted",
        ),
        (
            Notification::ConversationArchived,
            "apps/a/users/u/archived_conversations/p/clientadded",
        ),
        (
            Notification::Block,
            "apps/a/users/u/blocked/p/clientupdated",
        ),
        (Notification::Inbox, "apps/a/users/u/inbox/clientupdated"),
        (Notification::Group, "apps/a/users/u/groups/p/clientupdated"),
    ] {
        let told = map.notification_topic(what, &timeline, "m1");
        assert_eq!(told.as_str(), want);
        assert_eq!(subscriptions(&map, want).len(), 0, "{want} comes back");
    }
}

#[test]
fn a_faulty_control_topic_is_received_once_and_says_why() {
    let map = built_in(Layout::BUILT_IN);
    for (topic, error) in [
        (
            "apps/a/users/u/messages/p/m+/update",
            "the topic's message id \"m+\" holds '+', which no identifier may hold",
        ),
        (
            "apps/a/users/u/presence/",
            "the topic's client id \"\" is empty",
        ),
        (
            "apps/a/users/john/doe/inbox/fetch",
            "the topic has one level too many: \
             on RabbitMQ a \".\" in an identifier becomes a level break",
        ),
        (
            "apps/a/users/u/conversations/john/doe/archive",
            "the topic has one level too many: \
             on RabbitMQ a \".\" in an identifier becomes a level break",
        ),
    ] {
        assert_eq!(map.parse(topic).unwrap_err().to_string(), error, "{topic}");
        assert_eq!(subscriptions(&map, topic).len(), 1, "{topic}");
    }
}

#[test]
fn control_topics_that_are_off_are_not_read_and_their_filters_are_retired() {
    let off = without_controls(Layout::built_in("chat21").unwrap()).unwrap();
    assert_eq!(
        off.parse("apps/a/users/u/inbox/fetch"),
        Err(ParseError::NoLayout)
    );
    assert!(
        off.retired_filters()
            .iter()
            .any(|filter| filter.as_str() == "apps/+/users/+/inbox/fetch")
    );
}
