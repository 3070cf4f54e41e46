//! What another server has stored, brought in.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Feed, Maker, NOW, app, user};
use crate::protocol::mongo_export::{ImportedConversation, ImportedGroup, ImportedMessage};
use crate::protocol::time::UnixMillis;
use crate::rules::listing::{From, Place, Window};
use crate::store::{Imported, Landing, Pruned, Retention, Store, StoreError};

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

/// At a time behind all documents.
fn import(feed: &mut Feed, batch: &[Imported]) -> Result<Vec<Landing>, StoreError> {
    feed.store
        .import(batch, UnixMillis::new(NOW + 1_000_000_000))
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
    import(&mut feed, &part).unwrap();
    feed.message("x", "y", r#"{"text":"own"}"#);
    // What has come to the source since, while the observer has begun.
    let rest = [
        message("fifth", THEN + 9, "y", "x", 150),
        message("fourth", THEN + 7, "y", "x", 150),
    ];
    import(&mut feed, &rest).unwrap();
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
    import(&mut feed, &many).unwrap();
    let texts = texts(&feed);
    assert_eq!(texts.len(), 5_000);
    assert!(texts.is_sorted());
    let more = [
        message("of the next", THEN + 1, "y", "x", 150),
        message("late", THEN, "y", "x", 150),
    ];
    import(&mut feed, &more).unwrap();
    let page = feed.page("y", i64::MIN, 10_000, None);
    let last = feed.page("y", page.next, 10_000, None);
    let all = page.messages.iter().chain(&last.messages);
    assert!(all.map(|stored| stored.stored_at).is_sorted(), "times fall");
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
    assert_eq!(import(&mut feed, &both).unwrap(), [Landing::New; 4]);
    assert_eq!(import(&mut feed, &both).unwrap(), [Landing::Known; 4]);
    let later = [
        message("m", THEN, "x", "y", 250),
        message("m", THEN, "y", "x", 100),
        group(4),
        group(6),
    ];
    let landed = import(&mut feed, &later).unwrap();
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
    let landed = import(&mut feed, &[conversation("m", THEN, &row)]).unwrap();
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
    assert_eq!(import(&mut feed, &next).unwrap(), [Landing::New; 2]);
    let [row] = &list(&*feed.store, false, From::Newest)[..] else {
        panic!("no row");
    };
    assert_eq!(
        (&row["text"], &row["colour"]),
        (&json!("n"), &json!("blue"))
    );
    let older = import(&mut feed, &[conversation("m", THEN, &json!({}))]).unwrap();
    assert_eq!(older, [Landing::Known]);
    // What the observer has taken in itself is newer than anything in the source.
    feed.message("x", "y", r#"{"text":"own"}"#);
    let late = [
        message("o", THEN + 2, "y", "x", 150),
        conversation("o", THEN + 2, &json!({"archived": true})),
    ];
    assert_eq!(
        import(&mut feed, &late).unwrap(),
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
    import(&mut feed, &documents).unwrap();
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

pub(crate) fn what_was_done_here_before_the_import_stays<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    feed.archive("y", "x");
    let row = conversation("m", THEN, &json!({"is_new": true, "archived": false}));
    import(&mut feed, &[row]).unwrap();
    assert_eq!(list(&*feed.store, true, From::Newest).len(), 1);
    // A group that does not say when it was changed was made here.
    let group = |updated: u64, members: &str| {
        let line = format!(
            r#"{{"uid":"g","appId":"a","members":{{"{members}":1}},"updatedOn":{updated}}}"#
        );
        Imported::Group(ImportedGroup::parse(line.as_bytes()).unwrap())
    };
    feed.store.set_group("a", "g", r#"{"members":{}}"#).unwrap();
    let landed = import(&mut feed, &[group(7, "x")]).unwrap();
    assert_eq!(landed, [Landing::Known]);
}

pub(crate) fn a_message_takes_the_place_of_what_its_row_told_of_it<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    // The row was exported after the messages, and its owner has patched it.
    let row = conversation("m", THEN, &json!({"text": "patched", "colour": "red"}));
    import(&mut feed, &[row]).unwrap();
    assert_eq!(texts(&feed), ["patched"]);
    import(&mut feed, &[message("m", THEN, "y", "x", 150)]).unwrap();
    assert_eq!(texts(&feed), ["m"]);
    // What another has under the same id is another message.
    let mut other = document("m", THEN, "y", "x", 150);
    other["sender"] = "z".into();
    other["text"] = "another".into();
    let other = ImportedMessage::parse(other.to_string().as_bytes()).unwrap();
    import(&mut feed, &[Imported::Message(other)]).unwrap();
    assert_eq!(texts(&feed), ["m", "another"]);
}

/// Both servers were in use for a time, or a client's clock was ahead.
pub(crate) fn times_never_fall_whatever_is_imported<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    for n in 0..300 {
        feed.now = NOW + n * 10;
        feed.message("x", "y", &format!(r#"{{"text":"own {n}"}}"#));
    }
    feed.acknowledge_all();
    let late: Vec<_> = (0..300)
        .map(|n| message(&format!("late {n}"), NOW + n * 10 + 5, "y", "x", 150))
        .collect();
    let year = 365 * 24 * 3_600 * 1_000;
    let future = message("future", NOW + 100 * year, "y", "x", 150);
    let now = UnixMillis::new(NOW + 4_000);
    feed.store.import(&late, now).unwrap();
    feed.store.import(&[future], now).unwrap();
    let texts = texts(&feed);
    assert_eq!(
        (texts.len(), &*texts[0], &*texts[300]),
        (601, "late 0", "future")
    );
    let mut last = UnixMillis::default();
    for stored in feed.page("y", i64::MIN, 10_000, None).messages {
        assert!(stored.stored_at >= last, "times fall");
        last = stored.stored_at;
    }
    let mut behind = |time| {
        let position = feed.store.position_at(UnixMillis::new(time)).unwrap();
        feed.page("y", position, 10_000, None).messages.len()
    };
    assert_eq!((behind(NOW + 1_500), behind(NOW + 5_000)), (150, 0));
    // The own ones are pruned behind the imported ones.
    let limits = Retention {
        age: Some(Duration::from_secs(1)),
        bytes: None,
    };
    let now = UnixMillis::new(NOW + 3_000);
    while feed.store.prune_step(&limits, now).unwrap() == Pruned::More {}
    assert_eq!(feed.store.stats().unwrap().messages, 100);
}

pub(crate) fn a_message_of_the_future_does_not_take_the_others_along<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let year = 365 * 24 * 3_600 * 1_000;
    let future = message("future", NOW + 200 * year, "y", "x", 150);
    let now = UnixMillis::new(NOW);
    feed.store.import(&[future], now).unwrap();
    feed.message("x", "y", r#"{"text":"own"}"#);
    let page = feed.page("y", i64::MIN, 10, None);
    let times: Vec<_> = page
        .messages
        .iter()
        .map(|stored| stored.stored_at.as_millis())
        .collect();
    assert_eq!(times, [NOW, NOW + 1]);
}

pub(crate) fn an_import_of_groups_alone_leaves_no_mark<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let line = br#"{"uid":"g","appId":"a","members":{"x":1},"updatedOn":5}"#;
    let group = Imported::Group(ImportedGroup::parse(line).unwrap());
    import(&mut feed, &[group]).unwrap();
    let stats = feed.store.stats().unwrap();
    assert_eq!(
        (stats.messages, stats.oldest, stats.newest),
        (0, None, None)
    );
    import(&mut feed, &[message("m", THEN, "y", "x", 150)]).unwrap();
    let stats = feed.store.stats().unwrap();
    let then = i64::try_from(THEN).unwrap();
    assert_eq!((stats.oldest, stats.newest), (Some(then), Some(then)));
}

/// What an owner has done here holds for what they have seen, not for what came to the source
/// later.
pub(crate) fn a_newer_message_of_the_source_is_new_whatever_was_patched_here<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let unread = json!({"is_new": true, "archived": false});
    import(&mut feed, &[conversation("m", THEN, &unread)]).unwrap();
    feed.patch(
        "y",
        "x",
        r#"{"is_new":false,"archived":true,"text":"mine","colour":"red"}"#,
    );
    let row = |feed: &Feed, archived| list(&*feed.store, archived, From::Newest).pop();
    let patched = row(&feed, true).unwrap();
    assert_eq!(
        (&patched["text"], &patched["is_new"]),
        (&json!("mine"), &json!(false))
    );
    // Again: nothing is undone.
    import(&mut feed, &[conversation("m", THEN, &unread)]).unwrap();
    assert_eq!(row(&feed, true).unwrap(), patched);
    import(&mut feed, &[conversation("n", THEN + 1, &unread)]).unwrap();
    let newer = row(&feed, false).unwrap();
    assert_eq!(
        (&newer["text"], &newer["is_new"], &newer["colour"]),
        (&json!("n"), &json!(true), &json!("red"))
    );
}

pub(crate) fn what_is_imported_again_counts_once<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let batch = [
        message("m1", THEN, "x", "y", 150),
        message("m1", THEN, "y", "x", 150),
        conversation("m1", THEN, &json!({})),
    ];
    import(&mut feed, &batch).unwrap();
    let used = feed.store.stats().unwrap().used_bytes;
    import(&mut feed, &batch).unwrap();
    let later = message("m1", THEN, "y", "x", 300);
    assert_eq!(import(&mut feed, &[later]).unwrap(), [Landing::New]);
    assert_eq!(feed.store.stats().unwrap().used_bytes, used);
}
