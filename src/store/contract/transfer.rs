//! A whole store, copied into another and back.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::{Feed, Maker, NOW, app, timeline, user};
use crate::protocol::control_payload::BlockChange;
use crate::protocol::envelope::Body;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::request::Erased;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::rules::facts::{Absence, Redelivery};
use crate::rules::listing::{From, Window};
use crate::rules::plan::Purpose;
use crate::rules::webhook_event::{Event, EventKind};
use crate::rules::write::{UserClient, Write};
use crate::store::transfer::{self, Copy, CopyError, Part, Step, Transfer};
use crate::store::{
    BanChange, Endpoints, LoggedPublishes, Selection, Stats, StoreError, StoreLocation,
};

const EVERYBODY: [&str; 5] = ["alice", "bob", "team", "ann\u{e9}", "zoe"];

/// Something of everything that a store keeps.
pub(crate) fn fill(feed: &mut Feed) {
    let members = ["alice", "bob", "zoe"].map(str::to_owned);
    for n in 0..150 {
        let body = format!(r#"{{"text":"{n}"}}"#);
        feed.message("alice", EVERYBODY[1 + n % 4], &body);
    }
    let group = feed.group_message("alice", "team", &members, r#"{"text":"all"}"#);
    let unfinished = feed.message("bob", "alice", "{}");
    feed.acknowledge(group);
    feed.patch("alice", "bob", r#"{"is_new":false,"attributes":{"a":1}}"#);
    feed.archive("bob", "alice");
    feed.message("zoe", "bob", "{}");
    feed.unlisted("zoe", "ann\u{e9}", "{}");
    feed.erase("zoe", Erased::Conversations);
    let absence = Absence {
        since: 3,
        redelivery: Redelivery::Due,
    };
    let bob = || UserClient::new(app(), user("bob"), "phone");
    for write in [
        Write::Raise {
            timeline: timeline("alice", "team"),
            message_id: group.to_string().into(),
            status: Status::Seen,
        },
        Write::ClientConnected(bob()),
        Write::Absence {
            app: app(),
            user: user("zoe"),
            absence,
        },
        Write::Block(timeline("alice", "zoe"), BlockChange::Block),
        Write::Instance {
            app: app(),
            user: user("alice"),
            instance: "phone",
            body: r#"{"token":"x"}"#,
            keep: 5,
        },
    ] {
        feed.apply(&write);
    }
    fill_beside(feed, [group, unfinished]);
}

/// What is no message: groups and bans, the outbox, and the delivery log of two messages.
fn fill_beside(feed: &mut Feed, [group, unfinished]: [MessageId; 2]) {
    let store = &mut feed.store;
    let now = UnixMillis::new(NOW);
    store
        .set_group("a", "team", r#"{"members":{"alice":1},"owner":"alice"}"#)
        .unwrap();
    store.set_ban("a", "mallory", BanChange::Ban, now).unwrap();
    store.set_endpoints(Endpoints {
        names: vec!["one".to_owned(), "two".to_owned()],
        max_bytes: 1_000_000,
    });
    for n in 0..3 {
        let event = Event {
            kind: EventKind::MessageSent,
            id: format!("id-{n}"),
            copy_of: None,
            head: r#"{"event_type":"x"}"#.to_owned(),
            data: r#"{"n":1}"#.into(),
            shared: Some("same".to_owned()),
        };
        store.enqueue(&event, now).unwrap();
    }
    let body = Body::from_stored("{}".to_owned());
    let copy = |topic| Publish::copy(TopicName::parse(topic).unwrap(), &body, Status::Delivered);
    let notice = Publish {
        user_properties: vec![("reason".to_owned(), "banned".to_owned())],
        ..Publish::new(TopicName::parse("to/bob").unwrap(), "{\0".into())
    };
    store.begin().unwrap();
    for (first, purpose, publishes) in [
        (0, Purpose::Copy, vec![copy("to/alice"), copy("to/bob")]),
        (2, Purpose::Notice, vec![notice]),
    ] {
        let logged = LoggedPublishes {
            id: unfinished,
            came_on: b"came/\xff",
            first,
            purpose,
            publishes: &publishes,
        };
        store.log(&logged).unwrap();
    }
    store.log_fan_out(group, b"came", "work").unwrap();
    store.log_position(group, 7).unwrap();
    store.commit().unwrap();
}

/// What a store says to all that may be asked of it.
fn everything(feed: &mut Feed) -> Vec<String> {
    let store = &mut feed.store;
    let stats = Stats {
        used_bytes: 0,
        file_bytes: 0,
        ..store.stats().unwrap()
    };
    let mut all = vec![
        format!("{stats:?}"),
        format!("{:?}", store.unpublished(None, 100).unwrap()),
        format!("{:?}", store.unacknowledged().unwrap()),
        format!("{:?}", store.last_id().unwrap()),
        format!("{:?}", store.groups(None).unwrap()),
        format!("{:?}", store.group_body("a", "team").unwrap()),
        format!("{:?}", store.blocked(None, None).unwrap()),
        format!("{:?}", store.webhooks(&Selection::All).unwrap()),
        format!("{:?}", store.absence(app(), user("zoe")).unwrap()),
    ];
    for of in EVERYBODY {
        let hand_out = &mut |line: &[u8]| {
            all.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        };
        store.export("a", of, None, hand_out).unwrap();
        for archived in [false, true] {
            let window = Window {
                from: From::Newest,
                limit: 100,
            };
            let listed = store.listed(app(), user(of), archived, window).unwrap();
            all.push(format!("{of} {archived} {:?}", listed.entries));
        }
    }
    all
}

pub(crate) fn copy_all(from: &dyn Transfer, to: &mut dyn Transfer) -> (usize, usize) {
    let mut copy = Copy::begin(from, to, "the first").unwrap();
    let mut count = 0;
    while let Some(Step { rows, .. }) = copy.step().unwrap() {
        count += rows;
    }
    let mut compared = 0;
    copy.compare(&mut |step| compared += step.rows).unwrap();
    copy.finish(None).unwrap();
    (count, compared)
}

fn file(path: &Path) -> StoreLocation {
    StoreLocation::File(path.to_owned())
}

pub(crate) fn a_copy_of_a_copy_has_all_that_the_first_has<M: Maker>(maker: &M) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("copy.db");
    let mut feed = Feed::new(maker.lasting());
    fill(&mut feed);
    let all = everything(&mut feed);
    drop(feed);
    let from = maker.whole();
    // Interrupted after some steps, no observer starts on it, and it goes on.
    let mut to = transfer::open_or_make(&file(&path)).unwrap();
    let mut copy = Copy::begin(&*from, &mut *to, "the first").unwrap();
    for _ in 0..2 {
        assert!(copy.step().unwrap().is_some());
    }
    drop(to);
    let refused = crate::store::administer(&file(&path)).unwrap_err();
    assert!(matches!(refused, StoreError::Unfinished(_)), "{refused}");
    let mut to = transfer::open(&file(&path)).unwrap();
    let other = Copy::begin(&*from, &mut *to, "another").unwrap_err();
    assert!(matches!(other, CopyError::OtherSource(name) if name == "the first"));
    let third = M::default();
    let part = Copy::begin(&*to, &mut *third.whole(), "the copy").unwrap_err();
    assert!(matches!(part, CopyError::Unfinished(name) if name == "the copy"));
    let (count, compared) = copy_all(&*from, &mut *to);
    assert!(count < compared && count > 50, "{count} of {compared}");
    drop((from, to));

    let other = M::default();
    let (from, mut back) = (transfer::open(&file(&path)).unwrap(), other.whole());
    let (count, compared) = copy_all(&*from, &mut *back);
    assert_eq!(count, compared);
    let full = Copy::begin(&*from, &mut *back, "the first").unwrap_err();
    assert!(matches!(full, CopyError::NotEmpty("messages")), "{full}");
    drop((from, back));

    let in_file = crate::store::open(
        &file(&path),
        crate::store::Access::Exclusive,
        crate::store::OfflineDelivery::Broker,
    );
    for store in [in_file.unwrap(), other.lasting()] {
        let mut feed = Feed::new(store);
        for (copied, first) in everything(&mut feed).iter().zip(&all) {
            assert_eq!(copied, first);
        }
        // What comes now stands behind.
        feed.now = NOW + 1_000;
        feed.message("team", "alice", r#"{"text":"later"}"#);
        assert_eq!(feed.inbox("alice").last().unwrap(), r#"{"text":"later"}"#);
    }
}

pub(crate) fn a_copy_that_differs_is_told<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.lasting());
    let id = feed.message("alice", "bob", "{}");
    drop(feed);
    let (from, dir) = (maker.whole(), TempDir::new().unwrap());
    let mut to = transfer::open_or_make(&file(&dir.path().join("copy.db"))).unwrap();
    let mut copy = Copy::begin(&*from, &mut *to, "the first").unwrap();
    while copy.step().unwrap().is_some() {}
    drop(from);
    let mut feed = Feed::new(maker.lasting());
    let raise = Write::Raise {
        timeline: timeline("bob", "alice"),
        message_id: id.to_string().into(),
        status: Status::Seen,
    };
    feed.apply(&raise);
    drop(feed);
    let from = maker.whole();
    let copy = Copy::begin(&*from, &mut *to, "the first").unwrap();
    let differs = copy.compare(&mut |_| {}).unwrap_err();
    let place = json!({"part": Part::Copies.name(), "key": "a / bob / 1 / alice"});
    assert!(
        matches!(&differs, CopyError::Differs { part, key }
            if json!({"part": part, "key": key}) == place),
        "{differs}"
    );
}
