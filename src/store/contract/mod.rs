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
pub(crate) mod transfer;

use std::hash::RandomState;

use super::transfer::Transfer;
use super::{Origin, Store, Written};
use crate::protocol::address::Timeline;
use crate::protocol::envelope::Body;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::{MessageId, MessageIds};
use crate::protocol::patch::Patch;
use crate::protocol::request::Erased;
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

    /// The lasting store, to copy it or to be filled.
    fn whole(&self) -> Box<dyn Transfer>;
}

/// Makes a test of each part of the contract.
macro_rules! contract {
    ($maker:ty) => {
        crate::store::contract::contract! { @list $maker:
            delivery_log {
                what_is_logged_is_given_back_after_a_restart_until_it_is_published
                a_page_of_the_log_ends_where_it_becomes_large
                the_log_is_read_in_pages_and_says_how_much_it_holds
                what_the_log_forgot_in_vain_it_forgets_again
                a_fan_out_is_given_back_with_its_position
                a_question_waits_in_the_log_until_its_message_is_decided_on
                what_is_not_published_is_not_pruned
                what_a_user_missed_is_under_way_as_long_as_the_log_holds_it
            }
            messages {
                pages_of_a_long_list_neither_skip_nor_repeat
                what_was_not_acknowledged_is_known_after_a_restart_in_the_order_it_came
                an_acknowledgement_that_was_taken_back_is_written_again
                a_message_says_whether_it_brings_its_conversation_back_from_the_archive
                what_was_taken_back_leaves_nothing_behind
                a_redelivered_message_and_its_copies_are_stored_once
                pages_keep_what_came_in_one_millisecond_together
                a_fetch_that_goes_on_skips_nothing_that_was_stored_behind_the_last_one
                what_a_service_injects_shares_the_body_if_it_is_the_same
                large_messages_come_in_several_pages_and_none_is_missing
                messages_are_erased_that_no_list_shows
                what_is_erased_is_erased_as_a_whole_or_not_at_all
            }
            retention {
                the_oldest_are_deleted_in_steps_with_all_that_refers_to_them
                a_position_is_never_given_twice_even_when_everything_is_deleted
                the_copies_of_deleted_messages_are_deleted_before_more_messages
                what_no_list_shows_any_more_can_still_be_erased
            }
            outbox {
                events_are_handed_out_oldest_first_and_deleted_when_delivered
                the_oldest_are_dropped_those_given_up_first_and_the_old_expire
                the_last_thousand_given_up_are_kept
                the_copies_of_one_message_share_their_data
                data_that_events_share_go_with_the_last_of_them
                when_an_endpoint_answers_again_only_what_failed_with_it_is_due
            }
            import {
                what_is_imported_stands_before_the_own_in_the_order_of_its_times
                more_messages_of_one_millisecond_than_have_room_are_all_imported
                what_is_imported_twice_is_stored_once_and_a_status_only_rises
                a_conversation_is_as_in_the_source_until_something_newer_comes
                what_is_imported_is_pruned_by_its_time
                what_was_done_here_before_the_import_stays
                a_message_takes_the_place_of_what_its_row_told_of_it
                times_never_fall_whatever_is_imported
                a_message_of_the_future_does_not_take_the_others_along
                an_import_of_groups_alone_leaves_no_mark
                a_newer_message_of_the_source_is_new_whatever_was_patched_here
                what_is_imported_again_counts_once
            }
            transfer {
                a_copy_of_a_copy_has_all_that_the_first_has
                a_copy_that_differs_is_told
            }
            administration {
                bans_and_blocks_say_whether_they_changed_something_and_are_listed
                groups_are_stored_listed_and_removed
                an_export_hands_out_one_timeline_or_the_whole_inbox
            }
        }
    };
    (@list $maker:ty: $($module:ident { $($test:ident)+ })+) => {
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
        let copies = copies
            .iter()
            .map(|(inbox_of, with)| new_copy(&text, inbox_of, with));
        let copies: Vec<_> = copies.collect();
        self.store.prefetch_copies(&copies).unwrap();
        for copy in &copies {
            assert_eq!(self.store.apply(copy, &origin).unwrap(), Written::New);
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

    /// A message that shows in no list.
    pub(crate) fn unlisted(&mut self, from: &str, to: &str, body: &str) {
        self.now += 1;
        let id = self.ids.next(UnixMillis::new(self.now));
        let (origin, text) = (self.origin(id), id.to_string());
        self.store.begin().unwrap();
        let message = new_message(&text, from, to, body);
        self.store.apply(&message, &origin).unwrap();
        for (inbox_of, convers_with) in [(from, to), (to, from)] {
            let copy = Write::Copy(TimelineCopy {
                timeline: timeline(inbox_of, convers_with),
                message_id: text.as_str().into(),
                status: Status::Delivered,
                listing: Listing::Unlisted,
            });
            self.store.apply(&copy, &origin).unwrap();
        }
        self.store.commit().unwrap();
    }

    /// Erases what everybody has with somebody.
    pub(crate) fn erase(&mut self, convers_with: &str, what: Erased) {
        self.apply(&Write::Erase {
            app: app(),
            convers_with: user(convers_with),
            what,
        });
    }

    /// In a transaction of its own.
    pub(crate) fn apply(&mut self, write: &Write<'_>) {
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

pub(crate) fn timeline<'a>(inbox_of: &'a str, convers_with: &'a str) -> Timeline<'a> {
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
