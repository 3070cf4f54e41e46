//! What another server has stored, brought in.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Feed, Maker, NOW, app, user};
use crate::protocol::mongo_export::{ImportedConversation, ImportedGroup, ImportedMessage};
use crate::protocol::time::UnixMillis;
use crate::rules::listing::{From, Place, Window};
use crate::store::{Imported, Landing, Pruned, Retention, Store};

/// Before the first of the observer's own messages.
const THEN: u64 = NOW - 1_000_000_000;

fn document(name: &str, time: u64, of: &str, with: &str, status: i64) -> Value {
    json!({
        "timelineOf": of, "conversWith": with, "message_id": name, "app_id": "a", "sender": "x",
        "recipient": "y", "text": name, "timestamp": time, "status": status,
    })
}

fn message(name: &str, time: u64, of: &str, with: &str, status: i64) -> Imported {
    let line = document(name, time, of, with, status).to_string();
    Imported::Message(ImportedMessage::parse(line.as_bytes()).unwrap())
}

fn conversation(name: &str, time: u64, more: &Value) -> Imported {
    let mut row = document(name, time, "y", "x", 150);
    row.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Imported::Conversation(ImportedConversation::parse(row.to_string().as_bytes()).unwrap())
}

/// The texts of what `y` has, oldest first.
fn texts(feed: &Feed) -> Vec<String> {
    let (mut texts, mut after) = (vec![], i64::MIN);
    loop {
        let page = feed.page("y", after, 10_000, None);
        texts.extend(page.messages.iter().map(|stored| {
            let body: Value = serde_json::from_str(stored.body.as_str()).unwrap();
            body["text"].as_str().unwrap().to_owned()
        }));
        if !page.more {
            return texts;
        }
        after = page.next;
    }
}

/// The rows of `y`'s list.
fn list(store: &dyn Store, archived: bool, from: From) -> Vec<Value> {
    let window = Window { from, limit: 10 };
    let slice = store.listed(app(), user("y"), archived, window).unwrap();
    let rows = slice.entries.iter();
    rows.map(|listed| {
        serde_json::from_slice(&listed.row.to_json("y", &listed.convers_with)).unwrap()
    })
    .collect()
}

pub(crate) fn what_is_imported_stands_before_the_own_in_the_order_of_its_times<M: Maker>(
    maker: &M,
) {
    let mut feed = Feed::new(maker.empty());
    let part = [
        message("third", THEN + 5, "y", "x", 150),
        message("first", THEN, "y", "x", 150),
        message("second", THEN, "y", "x", 150),
    ];
    feed.store.import(&part).unwrap();
    feed.message("x", "y", r#"{"text":"own"}"#);
    // What has come to the source since, while the observer has begun.
    let rest = [
        message("fifth", THEN + 9, "y", "x", 150),
        message("fourth", THEN + 7, "y", "x", 150),
    ];
    feed.store.import(&rest).unwrap();
    feed.message("x", "y", r#"{"text":"last"}"#);
    let all = ["first", "second", "third", "fourth", "fifth", "own", "last"];
    assert_eq!(texts(&feed), all);
    for (time, behind) in [
        (0, 7),
        (THEN - 1, 7),
        (THEN, 5),
        (THEN + 7, 3),
        (NOW, 2),
        (NOW + 2, 0),
    ] {
        let position = feed.store.position_at(UnixMillis::new(time)).unwrap();
        let page = feed.page("y", position, 10_000, None);
        assert_eq!(page.messages.len(), behind, "{time}");
    }
    let stats = feed.store.stats().unwrap();
    assert_eq!((stats.messages, stats.copies), (7, 9));
    assert_eq!(feed.store.check().unwrap(), Vec::<String>::new());
}

pub(crate) fn more_messages_of_one_millisecond_than_have_room_are_all_imported<M: Maker>(
    maker: &M,
) {
    let mut feed = Feed::new(maker.empty());
    let many: Vec<_> = (0..5_000)
        .map(|n| message(&format!("{n:04}"), THEN, "y", "x", 150))
        .collect();
    feed.store.import(&many).unwrap();
    let texts = texts(&feed);
    assert_eq!(texts.len(), 5_000);
    assert!(texts.is_sorted());
}

pub(crate) fn what_is_imported_twice_is_stored_once_and_a_status_only_rises<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let group = |updated: u64| {
        let line = json!({"uid": "g", "appId": "a", "members": {"x": 1}, "updatedOn": updated});
        Imported::Group(ImportedGroup::parse(line.to_string().as_bytes()).unwrap())
    };
    let both = [
        message("m", THEN, "x", "y", 100),
        message("m", THEN, "y", "x", 150),
        conversation("m", THEN, &json!({"is_new": true})),
        group(5),
    ];
    assert_eq!(feed.store.import(&both).unwrap(), [Landing::New; 4]);
    assert_eq!(feed.store.import(&both).unwrap(), [Landing::Known; 4]);
    let later = [
        message("m", THEN, "x", "y", 250),
        message("m", THEN, "y", "x", 100),
        group(4),
        group(6),
    ];
    let landed = feed.store.import(&later).unwrap();
    let [new, known] = [Landing::New, Landing::Known];
    assert_eq!(landed, [new, known, known, new]);
    let status = |of| feed.page(of, i64::MIN, 10, None).messages[0].status.code();
    assert_eq!((status("x"), status("y")), (250, 150));
    assert_eq!(feed.store.stats().unwrap().messages, 1);
}

pub(crate) fn a_conversation_is_as_in_the_source_until_something_newer_comes<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let row = json!({"is_new": true, "archived": true, "colour": "red"});
    // Its message is in no file: the row is all there is of it.
    let landed = feed.store.import(&[conversation("m", THEN, &row)]).unwrap();
    assert_eq!(landed, [Landing::New]);
    assert_eq!(list(&*feed.store, false, From::Newest), Vec::<Value>::new());
    for from in [From::Newest, From::Since(Place::Time(UnixMillis::new(0)))] {
        let [row] = &list(&*feed.store, true, from)[..] else {
            panic!("no row");
        };
        assert_eq!(
            (
                &row["text"],
                &row["colour"],
                &row["is_new"],
                &row["last_message_text"]
            ),
            (&json!("m"), &json!("red"), &json!(true), &json!("m"))
        );
    }
    // In the meantime it was opened and taken out of the archive there, by a new message.
    let next = [
        message("n", THEN + 1, "y", "x", 200),
        conversation(
            "n",
            THEN + 1,
            &json!({"is_new": false, "archived": false, "colour": "blue"}),
        ),
    ];
    assert_eq!(feed.store.import(&next).unwrap(), [Landing::New; 2]);
    let [row] = &list(&*feed.store, false, From::Newest)[..] else {
        panic!("no row");
    };
    assert_eq!(
        (&row["text"], &row["colour"]),
        (&json!("n"), &json!("blue"))
    );
    let older = feed
        .store
        .import(&[conversation("m", THEN, &json!({}))])
        .unwrap();
    assert_eq!(older, [Landing::Known]);
    // What the observer has taken in itself is newer than anything in the source.
    feed.message("x", "y", r#"{"text":"own"}"#);
    let late = [
        message("o", THEN + 2, "y", "x", 150),
        conversation("o", THEN + 2, &json!({"archived": true})),
    ];
    assert_eq!(
        feed.store.import(&late).unwrap(),
        [Landing::New, Landing::Known]
    );
    let [row] = &list(&*feed.store, false, From::Newest)[..] else {
        panic!("no row");
    };
    assert_eq!(
        (&row["text"], &row["colour"]),
        (&json!("own"), &json!("blue"))
    );
}

pub(crate) fn what_is_imported_is_pruned_by_its_time<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let documents = [
        message("old", THEN, "y", "x", 150),
        message("young", THEN + 1_000, "y", "x", 150),
        conversation("old", THEN, &json!({"conversWith": "z"})),
        conversation("young", THEN + 1_000, &json!({})),
    ];
    feed.store.import(&documents).unwrap();
    let limits = Retention {
        age: Some(Duration::from_millis(500)),
        bytes: None,
    };
    let now = UnixMillis::new(THEN + 1_400);
    while feed.store.prune_step(&limits, now).unwrap() == Pruned::More {}
    assert_eq!(texts(&feed), ["young"]);
    let stats = feed.store.stats().unwrap();
    assert_eq!(
        (stats.messages, stats.copies, stats.conversations),
        (1, 1, 1)
    );
}
