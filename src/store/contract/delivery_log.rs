//! The delivery log: what it holds after a restart.

use std::hash::RandomState;
use std::time::Duration;

use bytes::Bytes;

use super::{Feed, Maker, app, user};
use crate::protocol::envelope::Body;
use crate::protocol::message_id::{MessageId, MessageIds};
use crate::protocol::publish::Publish;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::rules::facts::{Absence, Redelivery};
use crate::rules::plan::Purpose;
use crate::rules::write::Write;
use crate::store::delivery_log::PAGE_BYTES;
use crate::store::{
    LoggedFanOut, LoggedMessage, LoggedPublishes, LoggedQuestion, Pruned, Retention,
};

fn publish(topic: &str, payload: &'static [u8]) -> Publish {
    Publish::new(
        TopicName::parse(topic).unwrap(),
        Bytes::from_static(payload),
    )
}

impl Feed {
    /// Logs publishes, in a transaction of its own.
    fn log(&mut self, id: MessageId, first: usize, purpose: Purpose, publishes: &[Publish]) {
        self.store.begin().unwrap();
        self.store
            .log(&LoggedPublishes {
                id,
                came_on: b"came/\xff",
                first,
                purpose,
                publishes,
            })
            .unwrap();
        self.store.commit().unwrap();
    }

    /// Logs a message that is to be decided on, in a transaction of its own.
    fn ask(&mut self, id: MessageId) -> LoggedQuestion {
        let question = LoggedQuestion {
            id,
            topic: Bytes::from_static(b"apps/a/asked"),
            payload: Bytes::from(format!("\0{id}\u{e9}").into_bytes()),
            is_damaged: false,
        };
        self.store.begin().unwrap();
        self.store.log_question(&question).unwrap();
        self.store.commit().unwrap();
        question
    }

    fn confirm(&mut self, id: MessageId) {
        self.store.begin().unwrap();
        self.store.published(id).unwrap();
        self.store.commit().unwrap();
    }
}

fn logged(id: MessageId, publishes: Vec<(Purpose, Publish)>) -> LoggedMessage {
    LoggedMessage {
        id,
        came_on: Bytes::from_static(b"came/\xff"),
        publishes,
        fan_out: None,
        is_damaged: false,
    }
}

pub(crate) fn what_is_logged_is_given_back_after_a_restart_until_it_is_published<M: Maker>(
    maker: &M,
) {
    let mut feed = Feed::new(maker.lasting());
    let message = feed.message("x", "y", r#"{"text":"hi"}"#);
    let body = Body::from_stored(r#"{"text":"hi"}"#.to_owned());
    let topic = TopicName::parse("to/y").unwrap();
    let copies = [
        Publish::copy(topic.clone(), &body, Status::Delivered),
        publish("to/z", b"\xff\0"),
    ];
    let notice = Publish {
        user_properties: vec![("reason".to_owned(), "banned".to_owned())],
        ..publish("to/x", b"{}")
    };
    feed.log(message, 0, Purpose::Copy, &copies);
    feed.log(message, 2, Purpose::Notice, std::slice::from_ref(&notice));
    let second = feed.message("x", "y", "{}");
    let bulk = [publish("a", b"1"), publish("b", b"2")];
    feed.log(second, 0, Purpose::BulkCopy, &bulk);
    drop(feed);
    let mut feed = Feed::new(maker.lasting());
    let [to_y, to_z] = copies;
    let [a, b] = bulk;
    let of_second = logged(second, vec![(Purpose::BulkCopy, a), (Purpose::BulkCopy, b)]);
    let of_first = vec![
        (Purpose::Copy, to_y),
        (Purpose::Copy, to_z),
        (Purpose::Notice, notice),
    ];
    assert_eq!(
        feed.store.unpublished(None, 10).unwrap().messages,
        [logged(message, of_first), of_second.clone()]
    );
    feed.confirm(message);
    assert_eq!(
        feed.store.unpublished(None, 10).unwrap().messages,
        [of_second]
    );
    feed.confirm(second);
    drop(feed);
    assert_eq!(maker.lasting().unpublished(None, 10).unwrap().messages, []);
}

/// Messages with publishes and messages with a fan-out take turns.
pub(crate) fn the_log_is_read_in_pages_and_says_how_much_it_holds<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    assert_eq!(feed.store.log_size().unwrap(), None);
    let ids: [MessageId; 5] = [(); 5].map(|()| feed.message("x", "y", "{}"));
    for (n, id) in ids.into_iter().enumerate() {
        if n % 2 == 0 {
            let publishes = [publish("a", b"1"), publish("b", b"22")];
            feed.log(id, 0, Purpose::Copy, &publishes);
        } else {
            feed.store.begin().unwrap();
            feed.store.log_fan_out(id, b"came", "work").unwrap();
            feed.store.commit().unwrap();
        }
    }
    let page = |after, most| {
        let page = feed.store.unpublished(after, most).unwrap();
        let is_last = page.messages.last().is_none_or(|last| last.id == ids[4]);
        assert!(is_last || !page.is_last);
        page.messages
    };
    let ids_of = |page: &[LoggedMessage]| page.iter().map(|message| message.id).collect::<Vec<_>>();
    let all = page(None, 10);
    assert_eq!(ids_of(&all), ids);
    assert_eq!(page(None, 2), all[..2]);
    assert_eq!(page(Some(ids[1]), 2), all[2..4]);
    assert_eq!(page(Some(ids[3]), 2), all[4..]);
    assert_eq!(page(Some(ids[4]), 2), []);
    assert!(feed.store.unpublished(None, 6).unwrap().is_last);
    let other = MessageIds::new(RandomState::new()).next(UnixMillis::new(1));
    let held = |id| feed.store.log_holds(id).unwrap();
    assert!(held(ids[0]) && held(ids[1]) && !held(other));
    let size = feed.store.log_size().unwrap().unwrap();
    assert_eq!((size.last, size.messages), (ids[4], 5));
    let each: u64 = all.iter().map(LoggedMessage::log_bytes).sum();
    assert_eq!(size.bytes, each);
}

pub(crate) fn a_page_of_the_log_ends_where_it_becomes_large<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let large = Publish {
        payload: vec![b'x'; PAGE_BYTES / 2].into(),
        ..publish("a", b"")
    };
    let ids: [MessageId; 4] = [(); 4].map(|()| feed.message("x", "y", "{}"));
    for id in [ids[0], ids[1], ids[3]] {
        feed.log(id, 0, Purpose::Copy, std::slice::from_ref(&large));
    }
    feed.store.begin().unwrap();
    feed.store.log_fan_out(ids[2], b"came", "work").unwrap();
    feed.store.commit().unwrap();
    let mut after = None;
    for (expected, is_last) in [(&ids[..2], false), (&ids[2..], true)] {
        let page = feed.store.unpublished(after, 10).unwrap();
        let found: Vec<_> = page.messages.iter().map(|message| message.id).collect();
        assert_eq!((&found[..], page.is_last), (expected, is_last));
        after = found.last().copied();
    }
}

pub(crate) fn what_the_log_forgot_in_vain_it_forgets_again<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let id = feed.message("x", "y", "{}");
    feed.log(id, 0, Purpose::Copy, &[publish("a", b"1")]);
    feed.store.begin().unwrap();
    feed.store.published(id).unwrap();
    feed.store.rollback();
    assert_eq!(feed.store.unpublished(None, 10).unwrap().messages.len(), 1);
    feed.confirm(id);
    assert_eq!(feed.store.unpublished(None, 10).unwrap().messages, []);
}

pub(crate) fn a_fan_out_is_given_back_with_its_position<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.lasting());
    let [first, second] = [(); 2].map(|()| feed.message("x", "group-1", "{}"));
    let fan_out = |text: &str, position| {
        Some(LoggedFanOut {
            text: text.to_owned(),
            position,
        })
    };
    feed.log(second, 0, Purpose::Copy, &[publish("a", b"1")]);
    feed.store.begin().unwrap();
    for (id, text) in [(first, "one"), (second, "two")] {
        feed.store.log_fan_out(id, b"came/\xff", text).unwrap();
    }
    feed.store.log_position(first, 32).unwrap();
    feed.store.log_position(first, 64).unwrap();
    feed.store.commit().unwrap();
    drop(feed);
    let mut feed = Feed::new(maker.lasting());
    let expected = [
        LoggedMessage {
            fan_out: fan_out("one", 64),
            ..logged(first, vec![])
        },
        LoggedMessage {
            fan_out: fan_out("two", 0),
            ..logged(second, vec![(Purpose::Copy, publish("a", b"1"))])
        },
    ];
    assert_eq!(feed.store.unpublished(None, 10).unwrap().messages, expected);
    feed.confirm(first);
    assert_eq!(
        feed.store.unpublished(None, 10).unwrap().messages,
        expected[1..]
    );
    feed.confirm(second);
    assert_eq!(feed.store.unpublished(None, 10).unwrap().messages, []);
}

/// What is asked about stands beside what is to be published.
pub(crate) fn a_question_waits_in_the_log_until_its_message_is_decided_on<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.lasting());
    let [asked, published, other] = [(); 3].map(|()| feed.message("x", "y", "{}"));
    let first = feed.ask(asked);
    assert!(feed.store.log_holds(asked).unwrap());
    assert_eq!(feed.store.log_size().unwrap(), None, "nothing to publish");
    feed.log(published, 0, Purpose::Copy, &[publish("a", b"1")]);
    let second = feed.ask(other);
    drop(feed);
    let mut feed = Feed::new(maker.lasting());
    assert_eq!(feed.store.questions().unwrap(), [first, second.clone()]);
    let of_published = logged(published, vec![(Purpose::Copy, publish("a", b"1"))]);
    let page = feed.store.unpublished(None, 10).unwrap();
    assert_eq!(
        (page.messages, page.is_last),
        (vec![of_published.clone()], true)
    );
    let size = feed.store.log_size().unwrap().unwrap();
    let expected = (published, 1, of_published.log_bytes());
    assert_eq!((size.last, size.messages, size.bytes), expected);
    // The decision takes the place of the question, in one transaction.
    feed.store.begin().unwrap();
    feed.store.published(asked).unwrap();
    let to_b = [publish("b", b"2")];
    feed.store
        .log(&LoggedPublishes {
            id: asked,
            came_on: b"came/\xff",
            first: 0,
            purpose: Purpose::Copy,
            publishes: &to_b,
        })
        .unwrap();
    feed.store.commit().unwrap();
    let [to_b] = to_b;
    let of_asked = logged(asked, vec![(Purpose::Copy, to_b)]);
    let page = feed.store.unpublished(None, 10).unwrap();
    assert_eq!(page.messages, [of_asked, of_published]);
    assert_eq!(feed.store.questions().unwrap(), [second]);
    for id in [asked, published, other] {
        feed.confirm(id);
    }
    drop(feed);
    let store = maker.lasting();
    assert_eq!(store.questions().unwrap(), []);
    assert_eq!(store.unpublished(None, 10).unwrap().messages, []);
}

/// The log needs the stored message to make its copies.
pub(crate) fn what_is_not_published_is_not_pruned<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let [logged, last] = [(); 2].map(|()| feed.message("x", "y", "{}"));
    feed.acknowledge(last);
    let body = Body::from_stored("{}".to_owned());
    let topic = TopicName::parse("to/y").unwrap();
    let copy = Publish::copy(topic, &body, Status::Delivered);
    feed.log(logged, 0, Purpose::Copy, &[copy]);
    let everything = Retention {
        age: Some(Duration::ZERO),
        bytes: None,
    };
    let later = UnixMillis::new(feed.now + 1_000);
    for left in [2, 1] {
        while feed.store.prune_step(&everything, later).unwrap() == Pruned::More {}
        assert_eq!(feed.store.stats().unwrap().messages, left);
        feed.confirm(logged);
    }
}

/// A process that gave a user what they missed has ended in the middle: the log tells, whatever is
/// acknowledged.
pub(crate) fn what_a_user_missed_is_under_way_as_long_as_the_log_holds_it<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.lasting());
    let [finished, open] = [(); 2].map(|()| feed.message("x", "y", "{}"));
    feed.store.begin().unwrap();
    let absence = Absence {
        since: 0,
        redelivery: Redelivery::With(open),
    };
    let write = Write::Absence {
        app: app(),
        user: user("u0"),
        absence,
    };
    let origin = feed.origin(open);
    feed.store.apply(&write, &origin).unwrap();
    feed.store.log_fan_out(open, b"presence", "{}").unwrap();
    feed.store.acknowledge(open).unwrap();
    feed.store.commit().unwrap();
    drop(feed);
    let mut store = maker.lasting();
    assert_eq!(store.absence(app(), user("u0")).unwrap(), Some(absence));
    assert!(store.is_under_way(open).unwrap() && !store.is_under_way(finished).unwrap());
    store.begin().unwrap();
    store.published(open).unwrap();
    store.commit().unwrap();
    assert!(!store.is_under_way(open).unwrap());
}
