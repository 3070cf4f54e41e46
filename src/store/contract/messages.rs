//! Messages: written, acknowledged, read back.

use super::{Feed, Maker, NOW, app, new_copy, new_message, timeline, user};
use crate::protocol::request::Erased;
use crate::protocol::time::UnixMillis;
use crate::rules::fan_out::{FanOut, Found, Query};
use crate::rules::listing::{From, Place, Window};
use crate::rules::plan::Arrival;
use crate::rules::submission::Authority;
use crate::rules::test_support::{body, received, router};
use crate::rules::write::Write;
use crate::store::Written;

pub(crate) fn what_was_not_acknowledged_is_known_after_a_restart_in_the_order_it_came<M: Maker>(
    maker: &M,
) {
    let mut feed = Feed::new(maker.lasting());
    let ids: Vec<_> = (0..4)
        .map(|n| feed.message("x", "y", &format!("{{\"n\":{n}}}")))
        .collect();
    feed.store.begin().unwrap();
    feed.store.acknowledge(ids[1]).unwrap();
    feed.store.acknowledge(ids[0]).unwrap();
    feed.store.commit().unwrap();
    drop(feed);
    let store = maker.lasting();
    assert_eq!(store.unacknowledged().unwrap(), [(7, ids[2]), (7, ids[3])]);
    assert_eq!(store.last_id().unwrap(), Some(ids[3]));
}

pub(crate) fn an_acknowledgement_that_was_taken_back_is_written_again<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.lasting());
    let id = feed.message("x", "y", "{}");
    feed.store.begin().unwrap();
    feed.store.acknowledge(id).unwrap();
    feed.store.rollback();
    assert_eq!(feed.store.unacknowledged().unwrap().len(), 1);
    feed.acknowledge(id);
    drop(feed);
    assert_eq!(maker.lasting().unacknowledged().unwrap(), []);
}

pub(crate) fn what_was_taken_back_leaves_nothing_behind<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let id = feed.ids.next(UnixMillis::new(NOW));
    let (origin, text) = (feed.origin(id), id.to_string());
    let writes = [
        new_message(&text, "x", "y", "{}"),
        new_copy(&text, "x", "y"),
        new_copy(&text, "y", "x"),
    ];
    feed.store.begin().unwrap();
    for write in &writes {
        assert_eq!(feed.store.apply(write, &origin).unwrap(), Written::New);
    }
    feed.store.rollback();
    let stats = feed.store.stats().unwrap();
    assert_eq!(
        (stats.messages, stats.copies, stats.conversations),
        (0, 0, 0)
    );
    feed.store.begin().unwrap();
    for write in &writes {
        assert_eq!(feed.store.apply(write, &origin).unwrap(), Written::New);
    }
    feed.store.commit().unwrap();
    let stats = feed.store.stats().unwrap();
    assert_eq!(
        (stats.messages, stats.copies, stats.conversations),
        (1, 2, 2)
    );
}

pub(crate) fn a_redelivered_message_and_its_copies_are_stored_once<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let id = feed.message("x", "y", "{}");
    let (mut origin, text) = (feed.origin(id), id.to_string());
    origin.repeated = true;
    feed.store.begin().unwrap();
    let message = new_message(&text, "x", "y", "{}");
    feed.store.apply(&message, &origin).unwrap();
    let copy = new_copy(&text, "x", "y");
    let written = feed.store.apply(&copy, &origin).unwrap();
    assert_eq!(written, Written::Known);
    feed.store.commit().unwrap();
    let stats = feed.store.stats().unwrap();
    assert_eq!((stats.messages, stats.copies), (1, 2));
}

pub(crate) fn pages_keep_what_came_in_one_millisecond_together<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    for n in 0..10 {
        // Three messages a millisecond.
        feed.now = NOW + n / 3 - 1;
        let to = if n % 2 == 0 { "y" } else { "z" };
        feed.message("x", to, &format!("{{\"n\":{n}}}"));
    }
    let sizes = |limit| {
        let (mut sizes, mut after) = (vec![], 0);
        loop {
            let page = feed.page("x", after, limit, None);
            sizes.push(page.messages.len());
            after = page.next;
            if !page.more {
                return sizes;
            }
        }
    };
    assert_eq!(sizes(100), [10]);
    assert_eq!(sizes(10), [10]);
    assert_eq!(sizes(1), [3, 3, 3, 1]);
    assert_eq!(sizes(4), [6, 4]);
    let with_z = feed.page("x", 0, 100, Some("z"));
    assert_eq!((with_z.messages.len(), with_z.more), (5, false));
    let mut position = |time| feed.store.position_at(UnixMillis::new(time)).unwrap();
    assert_eq!(position(NOW), 3);
    assert_eq!(position(0), 0);
    assert_eq!(position(u64::MAX), 10);
}

/// Plans a fetch of x at a time of the clock.
fn plan_fetch(feed: &mut Feed, now: u64, since: u64, limit: usize) -> FanOut {
    let payload = format!(r#"{{"since":{since},"limit":{limit}}}"#);
    let received = received(b"apps/a/users/x/inbox/fetch", payload.as_bytes());
    let arrival = Arrival {
        received: &received,
        id: feed.ids.next(UnixMillis::new(now)),
        time: UnixMillis::new(now),
        authority: Authority::default(),
    };
    let router = router();
    let request = router.read(&received).unwrap();
    let plan = router.plan(&request, &arrival, &mut *feed.store);
    plan.unwrap().fan_out.unwrap()
}

/// The numbers that a fetch brings, and what the user is told at its end: whether there is more,
/// and from when to ask for the next page.
fn fetched(feed: &Feed, fetch: FanOut) -> (Vec<i64>, bool, u64) {
    let (mut numbers, mut rest, layouts) = (vec![], Some(fetch), router().layouts);
    while let Some(fetch) = rest.take() {
        let Some(Query::Messages(app, of, query)) = fetch.query() else {
            panic!("{fetch:?}")
        };
        let page = feed.store.page(app, of, &query).unwrap();
        let step = fetch.step(&layouts, Found::Messages(page));
        for publish in &step.publishes {
            let body = body(publish);
            match body["n"].as_i64() {
                Some(n) => numbers.push(n),
                None => {
                    let more = body["more"].as_bool().unwrap();
                    return (numbers, more, body["next"].as_u64().unwrap());
                }
            }
        }
        rest = step.rest;
    }
    panic!("the user is not told the end")
}

/// The times are those of the clock: of three messages, of a fetch, of a message behind it.
pub(crate) fn a_fetch_that_goes_on_skips_nothing_that_was_stored_behind_the_last_one<M: Maker>(
    maker: &M,
) {
    for (name, stored, asked, behind) in [
        ("all in one millisecond", [0, 0, 0], 0, 0),
        ("the last message with the fetch", [0, 1, 2], 2, 2),
        ("the next one with the fetch", [0, 1, 2], 3, 3),
        ("one after the other", [0, 1, 2], 4, 6),
        ("the clock goes back", [9, 9, 3], 3, 3),
        (
            "it goes back and reaches the last message",
            [9, 9, 3],
            3,
            10,
        ),
        (
            "it goes back before what is behind the fetch",
            [0, 1, 5],
            5,
            2,
        ),
    ] {
        for limit in [1, 2, 100] {
            let mut feed = Feed::new(maker.empty());
            for (n, at) in stored.into_iter().enumerate() {
                feed.now = NOW + at - 1;
                feed.message("x", "y", &format!("{{\"n\":{n}}}"));
            }
            // A page is planned, the next message is stored, the page is read.
            let (mut found, mut since, mut asked, mut pages) = (vec![], 0, asked, 0);
            loop {
                let fetch = plan_fetch(&mut feed, NOW + asked, since, limit);
                if pages == 0 {
                    feed.now = NOW + behind - 1;
                    feed.message("x", "y", "{\"n\":3}");
                }
                let (numbers, more, next) = fetched(&feed, fetch);
                assert!(
                    next > since || !more,
                    "{name}, {limit}: {next} follows {since}"
                );
                found.extend(numbers);
                (since, pages) = (next, pages + 1);
                assert!(pages < 10, "{name}, {limit}: {found:?}");
                if !more && pages > 1 && found.contains(&3) {
                    break;
                }
                asked = asked.max(behind) + u64::from(!more);
            }
            // What comes twice has the same identifier; nothing is left out.
            let mut once = found.clone();
            once.dedup();
            found.sort_unstable();
            found.dedup();
            assert_eq!(found, [0, 1, 2, 3], "{name}, {limit}: {once:?}");
            let (again, more, _) = {
                let fetch = plan_fetch(&mut feed, NOW + 100, since, limit);
                fetched(&feed, fetch)
            };
            assert!(!more && again.len() <= 4, "{name}, {limit}: {again:?}");
        }
    }
}

pub(crate) fn what_a_service_injects_shares_the_body_if_it_is_the_same<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    for (inbox_of, text) in [("x", "hi"), ("y", "hi"), ("x", "hi"), ("z", "ho")] {
        feed.now += 1;
        let id = feed.ids.next(UnixMillis::new(feed.now));
        let origin = feed.origin(id);
        let body = format!("{{\"message_id\":\"m\",\"text\":\"{text}\"}}");
        feed.store.begin().unwrap();
        // Under an id that is the service's, not the observer's.
        for write in [
            new_message("m", "", inbox_of, &body),
            new_copy("m", inbox_of, "g"),
        ] {
            feed.store.apply(&write, &origin).unwrap();
        }
        feed.store.commit().unwrap();
    }
    let stats = feed.store.stats().unwrap();
    assert_eq!((stats.messages, stats.copies), (2, 3));
    assert!(feed.store.check().unwrap().is_empty());
    assert!(feed.inbox("z")[0].contains("ho"));
}

pub(crate) fn a_message_says_whether_it_brings_its_conversation_back_from_the_archive<M: Maker>(
    maker: &M,
) {
    let mut feed = Feed::new(maker.empty());
    feed.message("x", "y", "{}");
    let id = feed.ids.next(UnixMillis::new(NOW + 5));
    let (origin, text) = (feed.origin(id), id.to_string());
    feed.store.begin().unwrap();
    let archived = crate::protocol::address::Timeline {
        app: super::app(),
        inbox_of: super::user("y"),
        convers_with: super::user("x"),
    };
    let apply = |feed: &mut Feed, write: &Write<'_>| feed.store.apply(write, &origin).unwrap();
    apply(&mut feed, &Write::Archive(archived));
    apply(&mut feed, &new_message(&text, "x", "y", "{}"));
    let copies = [new_copy(&text, "x", "y"), new_copy(&text, "y", "x")];
    let written = copies.each_ref().map(|copy| apply(&mut feed, copy));
    assert_eq!(written, [Written::New, Written::Unarchived]);
    let again = copies.each_ref().map(|copy| apply(&mut feed, copy));
    assert_eq!(again, [Written::Known; 2]);
    feed.store.commit().unwrap();
}

/// A long list is read by its newest messages while these fill a page, and row by row behind them.
pub(crate) fn pages_of_a_long_list_neither_skip_nor_repeat<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    for n in 0..1_100 {
        feed.message(&format!("p{n}"), "y", "{}");
    }
    // One who writes much, and some who write again.
    for n in 0..1_500 {
        let from = if n % 3 == 0 { n % 97 } else { 5 };
        feed.message(&format!("p{from}"), "y", "{}");
    }
    for n in (0..1_100).step_by(7) {
        feed.archive("y", &format!("p{n}"));
    }
    for archived in [false, true] {
        let pages = |mut from: From, on: fn(Place) -> From| {
            let mut peers = vec![];
            loop {
                let window = Window { from, limit: 40 };
                let slice = feed.store.listed(app(), user("y"), archived, window);
                let slice = slice.unwrap();
                let listed = slice.entries.into_iter();
                peers.extend(listed.map(|listed| listed.convers_with));
                match slice.next {
                    Some(next) => from = on(Place::Position(next)),
                    None => return peers,
                }
            }
        };
        let newest_first = pages(From::Newest, From::Before);
        let mut oldest_first = pages(From::Since(Place::Position(0)), From::Since);
        oldest_first.reverse();
        let count = 1_100_usize.div_ceil(7);
        assert_eq!(
            newest_first.len(),
            if archived { count } else { 1_100 - count }
        );
        assert_eq!(newest_first, oldest_first);
    }
}

pub(crate) fn large_messages_come_in_several_pages_and_none_is_missing<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    // One alone is larger than a page.
    let sizes: Vec<usize> = [90, 300, 90, 90, 90, 3_000, 3_000, 1]
        .map(|kb| kb << 10)
        .into();
    for (n, size) in sizes.iter().enumerate() {
        let (to, text) = (format!("y{n}"), "x".repeat(*size));
        feed.message("x", &to, &format!("{{\"text\":\"{text}\"}}"));
    }
    let read = |body: &str| body.len() - r#"{"text":""}"#.len();
    for from in [From::Newest, From::Since(Place::Position(0))] {
        let mut window = Window { from, limit: 4 };
        let (mut found, mut pages) = (vec![], 0);
        loop {
            let slice = feed.store.listed(app(), user("x"), false, window).unwrap();
            let rows = slice.entries.iter();
            found.extend(rows.map(|listed| read(&listed.row.last.as_ref().unwrap().0)));
            pages += 1;
            let Some(next) = slice.next.map(Place::Position) else {
                break;
            };
            window.from = match from {
                From::Since(_) => From::Since(next),
                From::Newest | From::Before(_) => From::Before(next),
            };
        }
        if from == From::Newest {
            found.reverse();
        }
        assert_eq!(found, sizes);
        assert!(pages >= 5, "{pages} pages");
    }
    let (mut found, mut pages, mut after) = (vec![], 0, 0);
    loop {
        let page = feed.page("x", after, 100, None);
        found.extend(
            page.messages
                .iter()
                .map(|stored| read(stored.body.as_str())),
        );
        (after, pages) = (page.next, pages + 1);
        if !page.more {
            break;
        }
    }
    assert_eq!((found, pages), (sizes.clone(), 3));
    let mut lines = vec![];
    let mut line = |text: &[u8]| {
        lines.push(text.len());
        Ok(())
    };
    feed.store.export("a", "x", None, &mut line).unwrap();
    assert_eq!(lines.len(), sizes.len());
    assert!(feed.store.check().unwrap().is_empty());
}

pub(crate) fn messages_are_erased_that_no_list_shows<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    feed.unlisted("x", "y", "{}");
    assert_eq!(feed.inbox("x").len(), 1);
    let stats = feed.store.stats().unwrap();
    assert_eq!((stats.copies, stats.conversations), (2, 0));
    feed.erase("y", Erased::Messages);
    assert_eq!((feed.inbox("x").len(), feed.inbox("y").len()), (0, 1));
    // It has come into a list now.
    feed.message("x", "y", "{}");
    assert_eq!(feed.store.stats().unwrap().conversations, 2);
}

/// What many have with somebody goes in one transaction, together with the rest of the batch.
pub(crate) fn what_is_erased_is_erased_as_a_whole_or_not_at_all<M: Maker>(maker: &M) {
    let owners: Vec<String> = (0..300).map(|n| format!("u{n}")).collect();
    let mut feed = Feed::new(maker.lasting());
    for owner in &owners {
        feed.message(owner, "y", "{}");
    }
    let erase = |what| Write::Erase {
        app: app(),
        convers_with: user("y"),
        what,
    };
    let id = feed.ids.next(UnixMillis::new(NOW + 1_000_000));
    let origin = feed.origin(id);
    let left = |feed: &mut Feed| {
        let mut left = [0, 0];
        for owner in &owners {
            let row = feed.store.conversation(&timeline(owner, "y")).unwrap();
            left[0] += feed.inbox(owner).len();
            left[1] += usize::from(row.is_some_and(|row| row.last.is_some()));
        }
        left
    };
    for (what, after) in [
        (Erased::Conversations, [300, 0]),
        (Erased::Messages, [0, 0]),
    ] {
        let before = left(&mut feed);
        feed.store.begin().unwrap();
        feed.store.apply(&erase(what), &origin).unwrap();
        // The batch fails: a disk that is full, a process that is killed.
        feed.store.rollback();
        assert_eq!(left(&mut feed), before, "{what:?}");
        feed.store.begin().unwrap();
        feed.store.apply(&erase(what), &origin).unwrap();
        // Nothing commits it.
        drop(feed);
        feed = Feed::new(maker.lasting());
        assert_eq!(left(&mut feed), before, "{what:?}");
        feed.erase("y", what);
        drop(feed);
        feed = Feed::new(maker.lasting());
        assert_eq!(left(&mut feed), after, "{what:?}");
    }
}
