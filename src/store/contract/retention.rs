//! Retention: what is deleted, and in which order.

use std::time::Duration;

use super::{Feed, Maker, NOW};
use crate::protocol::request::Erased;
use crate::protocol::time::UnixMillis;
use crate::store::{Pruned, Retention};

pub(crate) fn the_oldest_are_deleted_in_steps_with_all_that_refers_to_them<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    for n in 0..1_000_u64 {
        feed.now = NOW + n * 1_000;
        let to = format!("y{}", n % 50);
        feed.message("x", &to, &format!("{{\"n\":{n}}}"));
    }
    let limits = Retention {
        age: Some(Duration::from_secs(100)),
        bytes: None,
    };
    let now = UnixMillis::new(NOW + 1_000_000);
    feed.store.prune_step(&limits, now).unwrap();
    assert_eq!(
        feed.store.stats().unwrap().messages,
        1_000,
        "what may be redelivered must be recognized then"
    );
    feed.acknowledge_all();
    let store = &mut feed.store;
    let mut steps = 0;
    while store.prune_step(&limits, now).unwrap() == Pruned::More {
        steps += 1;
        assert!(steps < 100);
    }
    let stats = store.stats().unwrap();
    assert_eq!(
        (stats.messages, stats.copies, stats.conversations),
        (100, 200, 100),
        "{steps} steps"
    );
    assert!(steps >= 5, "in {steps} steps");
    assert!(store.check().unwrap().is_empty());
    assert_eq!(
        store.prune_step(&limits, now).unwrap(),
        Pruned::All,
        "nothing is left to do"
    );

    let limits = Retention {
        age: None,
        bytes: Some(1),
    };
    while store.prune_step(&limits, now).unwrap() == Pruned::More {}
    let stats = store.stats().unwrap();
    assert_eq!(
        stats.messages, 1,
        "the oldest are deleted until it is small enough; the last stays, for its number"
    );
}

pub(crate) fn a_position_is_never_given_twice_even_when_everything_is_deleted<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let members = ["c", "d"].map(str::to_owned);
    feed.group_message("c", "g", &members, r#"{"text":"old"}"#);
    feed.acknowledge_all();
    let now = UnixMillis::new(NOW + 1_000_000);
    let limits = Retention {
        age: Some(Duration::from_secs(1)),
        bytes: None,
    };
    // Deleted, but its copies are not swept yet.
    feed.store.prune_step(&limits, now).unwrap();
    feed.message("alice", "bob", r#"{"text":"secret"}"#);
    for user in ["c", "d", "g"] {
        let texts = feed.inbox(user);
        assert!(!texts.concat().contains("secret"), "{user}: {texts:?}");
    }
}

pub(crate) fn the_copies_of_deleted_messages_are_deleted_before_more_messages<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let members: Vec<String> = (0..300)
        .map(|n| format!("member-with-a-long-name-{n}"))
        .collect();
    for _ in 0..1_000 {
        feed.group_message(&members[7], "g", &members, "{}");
    }
    feed.acknowledge_all();
    let store = &mut feed.store;
    let used = store.stats().unwrap().used_bytes;
    let limits = Retention {
        age: None,
        bytes: Some(used * 3 / 4),
    };
    while store.prune_step(&limits, UnixMillis::new(NOW)).unwrap() == Pruned::More {}
    let stats = store.stats().unwrap();
    assert!(stats.used_bytes <= used * 3 / 4, "{stats:?} of {used}");
    assert!(
        stats.messages >= 400,
        "more is deleted than must be: {stats:?}"
    );
}

pub(crate) fn what_no_list_shows_any_more_can_still_be_erased<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    feed.message("x", "y", r#"{"text":"old"}"#);
    feed.now += 100_000;
    feed.unlisted("x", "y", r#"{"text":"new"}"#);
    feed.acknowledge_all();
    let limits = Retention {
        age: Some(Duration::from_secs(50)),
        bytes: None,
    };
    let now = UnixMillis::new(feed.now);
    while feed.store.prune_step(&limits, now).unwrap() == Pruned::More {}
    assert_eq!(feed.inbox("x"), [r#"{"text":"new"}"#]);
    feed.erase("y", Erased::Messages);
    assert!(feed.inbox("x").is_empty());
}
