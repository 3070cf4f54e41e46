//! The tests of the interface: they hold for every store.
//!
//! [`contract!`] makes a test of each for a maker of stores. What only SQLite has, a file for
//! example, is tested in `sqlite/tests.rs`.

pub(crate) mod administration;
pub(crate) mod delivery_log;
pub(crate) mod import;
pub(crate) mod messages;
pub(crate) mod outbox;
pub(crate) mod retention;

use std::hash::RandomState;

use super::{Origin, Store, Written};
use crate::protocol::address::Timeline;
use crate::protocol::envelope::Body;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::{MessageId, MessageIds};
use crate::protocol::patch::Patch;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::history::{Page, PageQuery};
use crate::rules::write::{Listing, NewMessage, TimelineCopy, Write};

/// Makes the stores that are tested.
pub(crate) trait Maker: Default {
    /// An empty store. It need not outlive the value.
    fn empty(&self) -> Box<dyn Store>;

    /// The one lasting store of this maker. Opened again, it holds what it held.
    fn lasting(&self) -> Box<dyn Store>;
}

/// Makes a test of each part of the contract.
macro_rules! contract {
    ($maker:ty: $($module:ident { $($test:ident)+ })+) => {
        $(
            mod $module {
                use super::*;

                $(
                    #[test]
                    fn $test() {
                        crate::store::contract::$module::$test(&<$maker>::default());
                    }
                )+
            }
        )+
    };
}
pub(crate) use contract;

/// The time of the first message.
pub(crate) const NOW: u64 = 1_800_000_000_000;

/// Writes what plans write, a message a transaction.
pub(crate) struct Feed {
    pub(crate) store: Box<dyn Store>,
    pub(crate) ids: MessageIds,
    pub(crate) now: u64,
}

impl Feed {
    pub(crate) fn new(store: Box<dyn Store>) -> Self {
        Self {
            store,
            ids: MessageIds::new(RandomState::new()),
            now: NOW,
        }
    }

    /// A message from a user to another, whose copies are in the inboxes of both.
    pub(crate) fn message(&mut self, from: &str, to: &str, body: &str) -> MessageId {
        self.message_with_copies(from, to, body, &[(from, to), (to, from)])
    }

    /// A message in the inboxes of a group and all its members.
    pub(crate) fn group_message(
        &mut self,
        from: &str,
        group: &str,
        members: &[String],
        body: &str,
    ) -> MessageId {
        let owners = std::iter::once(group).chain(members.iter().map(String::as_str));
        let copies: Vec<_> = owners.map(|owner| (owner, group)).collect();
        self.message_with_copies(from, group, body, &copies)
    }

    fn message_with_copies(
        &mut self,
        from: &str,
        to: &str,
        body: &str,
        copies: &[(&str, &str)],
    ) -> MessageId {
        self.now += 1;
        let id = self.ids.next(UnixMillis::new(self.now));
        let origin = self.origin(id);
        self.store.begin().unwrap();
        let text = id.to_string();
        self.store
            .apply(&new_message(&text, from, to, body), &origin)
            .unwrap();
        for (inbox_of, convers_with) in copies {
            let copy = new_copy(&text, inbox_of, convers_with);
            assert_eq!(self.store.apply(&copy, &origin).unwrap(), Written::New);
        }
        self.store.commit().unwrap();
        id
    }

    pub(crate) fn origin(&self, id: MessageId) -> Origin {
        Origin {
            promised: true,
            id,
            fingerprint: Some(7),
            repeated: false,
            now: UnixMillis::new(self.now),
        }
    }

    /// A user patches a conversation.
    pub(crate) fn patch(&mut self, inbox_of: &str, convers_with: &str, patch: &str) {
        let timeline = timeline(inbox_of, convers_with);
        let row = self.store.conversation(&timeline).unwrap();
        let patch = Patch::parse(patch.as_bytes()).unwrap();
        let patched = row
            .unwrap_or_default()
            .patched(&patch, inbox_of, convers_with);
        self.apply(&Write::Patch(timeline, patched));
    }

    /// A user archives a conversation.
    pub(crate) fn archive(&mut self, inbox_of: &str, convers_with: &str) {
        self.apply(&Write::Archive(timeline(inbox_of, convers_with)));
    }

    /// In a transaction of its own.
    fn apply(&mut self, write: &Write<'_>) {
        self.now += 1;
        let id = self.ids.next(UnixMillis::new(self.now));
        let origin = self.origin(id);
        self.store.begin().unwrap();
        self.store.apply(write, &origin).unwrap();
        self.store.commit().unwrap();
    }

    /// Acknowledges a message, in a transaction of its own.
    pub(crate) fn acknowledge(&mut self, id: MessageId) {
        self.store.begin().unwrap();
        self.store.acknowledge(id).unwrap();
        self.store.commit().unwrap();
    }

    /// Acknowledges everything.
    pub(crate) fn acknowledge_all(&mut self) {
        let last = self.ids.next(UnixMillis::new(NOW + 10_000_000));
        self.acknowledge(last);
    }

    pub(crate) fn page(
        &self,
        of: &str,
        after: i64,
        limit: usize,
        convers_with: Option<&str>,
    ) -> Page {
        let query = PageQuery {
            after,
            last: i64::MAX,
            convers_with: convers_with.map(Into::into),
            limit,
        };
        self.store.page(app(), user(of), &query).unwrap()
    }

    /// The copies in a user's inbox, oldest first.
    pub(crate) fn inbox(&self, of: &str) -> Vec<String> {
        let page = self.page(of, 0, 10_000, None);
        let texts = page.messages.into_iter().map(|stored| stored.body);
        texts.map(|body| body.as_str().to_owned()).collect()
    }
}

pub(crate) fn app() -> AppId<'static> {
    AppId::parse("a").unwrap()
}

fn timeline<'a>(inbox_of: &'a str, convers_with: &'a str) -> Timeline<'a> {
    Timeline {
        app: app(),
        inbox_of: user(inbox_of),
        convers_with: user(convers_with),
    }
}

pub(crate) fn user(id: &str) -> UserId<'_> {
    UserId::parse(id).unwrap()
}

pub(crate) fn new_message<'a>(id: &'a str, from: &'a str, to: &'a str, body: &str) -> Write<'a> {
    Write::Message(NewMessage {
        app: app(),
        id: id.into(),
        sender: from.into(),
        recipient: to,
        layout: "chat21-v1",
        body: Body::from_stored(body.to_owned()),
    })
}

pub(crate) fn new_copy<'a>(id: &'a str, inbox_of: &'a str, convers_with: &'a str) -> Write<'a> {
    Write::Copy(TimelineCopy {
        timeline: Timeline {
            app: app(),
            inbox_of: user(inbox_of),
            convers_with: user(convers_with),
        },
        message_id: id.into(),
        status: Status::Delivered,
        listing: Listing::Listed,
    })
}
