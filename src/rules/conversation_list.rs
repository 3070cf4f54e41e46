//! A user asks for their list of conversations.
//!
//! Owns the form of the rows, and what the user is told at the end (`protocol.md`, section 4,
//! *Conversations fetch*). Leaves reading a page to the store.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::protocol::address::Timeline;
use crate::protocol::control_payload::ConversationsFetch;
use crate::protocol::control_topic::Notification;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::json::{parse_object, raw};
use crate::protocol::publish::Publish;
use crate::protocol::topic_map::TopicMap;
use crate::rules::fan_out::FanOut;
use crate::rules::listing::{From, ListedConversation, Place, Slice, Window};
use crate::rules::plan::{Plan, json};

/// Rows in a step. Each page sorts the whole list, so it is larger than a step of copies.
const PAGE: usize = 100;

/// What is left to publish of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ConversationList {
    user: Box<str>,
    archived: bool,
    /// Only conversations whose last message is before this position.
    before: Option<i64>,
    /// How many more the user wants.
    left: usize,
    /// How many have been published.
    fetched: usize,
}

/// The rows are published, in steps.
pub(super) fn plan(app: AppId<'_>, user: UserId<'_>, fetch: &ConversationsFetch) -> Plan<'static> {
    let list = ConversationList {
        user: user.as_str().into(),
        archived: fetch.archived,
        before: fetch.before,
        left: fetch.limit,
        fetched: 0,
    };
    Plan {
        fan_out: Some(FanOut::conversations(app, list)),
        ..Plan::default()
    }
}

impl ConversationList {
    /// The user whose list it is.
    pub(super) fn user(&self) -> UserId<'_> {
        UserId::parse(&self.user).expect("it came from an identifier")
    }

    /// Whether the archive is wanted, and the next page.
    pub(super) fn query(&self) -> (bool, Window) {
        let window = Window {
            from: match self.before {
                Some(position) => From::Before(Place::Position(position)),
                None => From::Newest,
            },
            limit: self.left.min(PAGE),
        };
        (self.archived, window)
    }

    /// Publishes a page.
    pub(super) fn step(
        &self,
        app: AppId<'_>,
        layouts: &TopicMap,
        page: &Slice<ListedConversation>,
    ) -> (Vec<Publish>, Option<Self>) {
        let timeline = |convers_with| Timeline {
            app,
            inbox_of: self.user(),
            convers_with,
        };
        // Somebody may have edited the store by hand.
        let rows = page.entries.iter().filter_map(|listed| {
            let convers_with = UserId::parse(&listed.convers_with).ok()?;
            let what = Notification::ConversationAdded;
            let topic = layouts.notification_topic(what, &timeline(convers_with), "");
            Some(Publish::new(topic, self.row(listed)))
        });
        let mut publishes: Vec<_> = rows.collect();
        let rest = Self {
            before: page.next,
            left: self.left.saturating_sub(page.entries.len()),
            fetched: self.fetched + publishes.len(),
            ..self.clone()
        };
        if rest.left > 0 && page.next.is_some() {
            return (publishes, Some(rest));
        }
        let what = Notification::Conversations;
        let topic = layouts.notification_topic(what, &timeline(self.user()), "");
        let mut summary = serde_json::json!({
            "fetched": rest.fetched,
            "more": page.next.is_some(),
            "archived": self.archived,
        });
        if let Some(next) = page.next {
            summary["next"] = next.into();
        }
        publishes.push(Publish::new(topic, json(&summary)));
        (publishes, None)
    }

    fn row(&self, listed: &ListedConversation) -> Bytes {
        let row = listed.row.to_json(&self.user, &listed.convers_with);
        let mut members = parse_object(&row).unwrap_or_default();
        members.insert("__history".to_owned(), raw(&true));
        json(&members)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::status::Status;
    use crate::rules::conversation_row::Row;
    use crate::rules::test_support::{body, plan_with, received, router};

    fn listed(peer: &str) -> ListedConversation {
        ListedConversation {
            convers_with: peer.into(),
            row: Row {
                last: Some((r#"{"text":"hi"}"#.into(), Status::Delivered)),
                ..Row::default()
            },
        }
    }

    fn list(payload: &str) -> ConversationList {
        let fetch = ConversationsFetch::parse(payload.as_bytes()).unwrap();
        ConversationList {
            user: "bob".into(),
            archived: fetch.archived,
            before: fetch.before,
            left: fetch.limit,
            fetched: 0,
        }
    }

    #[test]
    fn rows_come_in_pages_and_the_user_is_told_the_end() {
        let app = AppId::parse("a").unwrap();
        let layouts = router().layouts;
        let list = list(r#"{"limit":3}"#);
        let full = Slice {
            entries: vec![listed("alice"), listed("carol")],
            next: Some(7),
        };
        let (rows, rest) = list.step(app, &layouts, &full);
        let topics: Vec<_> = rows.iter().map(|row| row.topic.as_str()).collect();
        assert_eq!(
            topics,
            [
                "apps/a/users/bob/conversations/alice/clientadded",
                "apps/a/users/bob/conversations/carol/clientadded"
            ]
        );
        assert_eq!(body(&rows[0])["__history"], json!(true));
        assert_eq!(body(&rows[0])["conversWith"], "alice");
        let rest = rest.expect("one more is wanted");
        let (_, window) = rest.query();
        assert_eq!(
            (window.from, window.limit),
            (From::Before(Place::Position(7)), 1)
        );
        let last = Slice {
            entries: vec![listed("dave")],
            next: Some(5),
        };
        let (rows, rest) = rest.step(app, &layouts, &last);
        assert!(rest.is_none());
        assert_eq!(
            rows[1].topic.as_str(),
            "apps/a/users/bob/conversations/clientupdated"
        );
        assert_eq!(
            body(&rows[1]),
            json!({"fetched": 3, "more": true, "archived": false, "next": 5})
        );
    }

    #[test]
    fn a_fetch_of_conversations_is_planned_by_its_payload() {
        let topic = b"apps/a/users/bob/conversations/fetch";
        let message = received(topic, br#"{"archived":true,"limit":5,"before":9}"#);
        let plan = plan_with(
            router(),
            &message,
            crate::rules::facts::in_memory::InMemory::default(),
        );
        let logged = plan.fan_out.unwrap().to_log();
        for part in ["\"archived\":true", "\"left\":5", "\"before\":9"] {
            assert!(logged.contains(part), "{logged}");
        }
    }
}
