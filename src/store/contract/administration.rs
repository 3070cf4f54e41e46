//! What an operator changes and lists.

use super::{Feed, Maker, NOW, app, user};
use crate::protocol::control_payload::BlockChange;
use crate::protocol::time::UnixMillis;
use crate::store::{BanChange, Blocked};

pub(crate) fn bans_and_blocks_say_whether_they_changed_something_and_are_listed<M: Maker>(
    maker: &M,
) {
    let mut store = maker.empty();
    let now = UnixMillis::new(NOW);
    for (change, changed) in [
        (BanChange::Unban, false),
        (BanChange::Ban, true),
        (BanChange::Ban, false),
    ] {
        let done = store.set_ban("a", "mallory", change, now).unwrap();
        assert_eq!(done, changed, "{change:?}");
    }
    for (change, changed) in [
        (BlockChange::Unblock, false),
        (BlockChange::Block, true),
        (BlockChange::Block, false),
    ] {
        let done = store.set_block("a", "alice", "bob", change).unwrap();
        assert_eq!(done, changed, "{change:?}");
    }
    let ban = Blocked {
        app: "a".to_owned(),
        by: None,
        user: "mallory".to_owned(),
    };
    let block = Blocked {
        by: Some("alice".to_owned()),
        user: "bob".to_owned(),
        ..ban.clone()
    };
    assert_eq!(store.blocked(None, None).unwrap(), [ban, block.clone()]);
    for user in ["alice", "bob"] {
        let listed = store.blocked(Some("a"), Some(user)).unwrap();
        assert_eq!(listed, std::slice::from_ref(&block), "{user}");
    }
    assert_eq!(store.blocked(Some("b"), None).unwrap(), []);
}

pub(crate) fn groups_are_stored_listed_and_removed<M: Maker>(maker: &M) {
    let mut store = maker.empty();
    let body = r#"{"members":{"alice":1,"bob":1}}"#;
    store.set_group("a", "team", body).unwrap();
    store.set_group("b", "other", "{}").unwrap();
    assert_eq!(store.group_body("a", "team").unwrap().unwrap(), body);
    let listed = store.groups(Some("a")).unwrap();
    assert_eq!(
        (listed.len(), &*listed[0].id, listed[0].members),
        (1, "team", 2)
    );
    assert_eq!(store.groups(None).unwrap().len(), 2);
    for id in ["group-1", "group-2"] {
        store.set_group("a", id, r#"{"owner":"alice"}"#).unwrap();
    }
    let (alice, bob) = (user("alice"), user("bob"));
    assert_eq!(store.count_groups(app(), alice, 9).unwrap(), 2);
    assert_eq!(store.count_groups(app(), alice, 1).unwrap(), 1);
    assert_eq!(store.count_groups(app(), bob, 9).unwrap(), 0);
    assert!(store.remove_group("a", "team").unwrap());
    assert!(!store.remove_group("a", "team").unwrap());
    assert_eq!(store.group_body("a", "team").unwrap(), None);
}

pub(crate) fn an_export_hands_out_one_timeline_or_the_whole_inbox<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    feed.message("x", "y", r#"{"n":1}"#);
    feed.message("x", "z", r#"{"n":2}"#);
    let export = |convers_with| {
        let mut lines = vec![];
        let mut line = |text: &[u8]| {
            lines.push(String::from_utf8(text.to_vec()).unwrap());
            Ok(())
        };
        feed.store
            .export("a", "x", convers_with, &mut line)
            .unwrap();
        lines
    };
    assert_eq!(export(Some("z")), [r#"{"n":2,"status":150}"#]);
    assert_eq!(export(None).len(), 2);
    let mut fails = |_: &[u8]| Err(std::io::ErrorKind::BrokenPipe.into());
    let failed = feed.store.export("a", "x", None, &mut fails);
    assert_eq!(failed.unwrap_err().to_string(), "cannot write");
    assert!(feed.store.check().unwrap().is_empty());
    feed.store.try_write().unwrap();
}
