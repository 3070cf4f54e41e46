//! What several slots of one store have in common, and stores from before there were any.

use super::tests::{Postgres, empty_schema, open};
use super::*;
use crate::rules::test_support::{received, router};
use crate::store::contract::{Feed, Maker, NOW, app, new_message, user};
use crate::store::{DeliveryLog, Demand, History, Outbox, OutboxRequest, Selection};

/// A store that was in a file goes on in several slots: each number is some slot's, and none is
/// given again.
#[test]
fn a_copy_is_served_in_as_many_slots_as_its_first_holder_says() {
    let from = Postgres::default();
    let mut feed = Feed::new(from.lasting());
    crate::store::contract::transfer::fill(&mut feed);
    let events = feed.store.webhooks(&Selection::All).unwrap().len();
    let stored = feed.store.stats().unwrap().messages;
    feed.acknowledge_all();
    drop(feed);
    let to = Postgres::default();
    crate::store::contract::transfer::copy_all(&*from.whole(), &mut *to.whole());
    let target = to.lasting.clone().in_slots(3);
    let candidate = Candidate::open(&target).unwrap();
    let names = || vec!["one".to_owned(), "two".to_owned()];
    let (mut published, mut handed_out) = (0, 0);
    let mut stores: Vec<Feed> = (0..3)
        .map(|slot| {
            let Taken::Ours { lease, .. } = candidate.try_take_slot(slot).unwrap() else {
                panic!("slot {slot} is taken");
            };
            let mut store = open(&target.clone().holding(lease)).unwrap();
            store.set_endpoints(Endpoints {
                names: names(),
                max_bytes: 1_000_000,
            });
            assert_eq!(store.unacknowledged().unwrap(), []);
            published += store.unpublished(None, 100).unwrap().messages.len();
            let demands = (0..2).map(|endpoint| Demand {
                endpoint,
                deliveries: 100,
                in_flight: vec![],
            });
            let request = OutboxRequest {
                demands: demands.collect(),
                ..OutboxRequest::default()
            };
            let now = UnixMillis::new(crate::store::contract::NOW);
            handed_out += store.serve_outbox(&request, now).unwrap().deliveries.len();
            Feed::new(Box::new(store))
        })
        .collect();
    assert_eq!((published, handed_out), (2, events), "each by one slot");
    for feed in &mut stores {
        feed.message("team", "alice", r#"{"text":"later"}"#);
    }
    let stats = stores[0].store.stats().unwrap();
    assert_eq!(stats.messages, stored + 3);
    drop(stores);
    // Copied back, whatever the slots.
    let back = Postgres::default();
    let from = PostgresStore::open_all_slots(&to.lasting).unwrap();
    crate::store::contract::transfer::copy_all(&from, &mut *back.whole());
    assert_eq!(back.lasting().stats().unwrap().messages, stored + 3);
}

#[test]
fn a_store_of_the_first_version_is_brought_up_to_date_and_publishes_what_it_has_accepted() {
    let target = empty_schema();
    let connection = Connection::open(&target).unwrap();
    let first = [include_str!("1.sql")];
    schema::migrate_with(&connection, Access::Exclusive, &first).unwrap();
    connection
        .batch(
            "UPDATE observer SET token = 3, last_seq = 1;
            INSERT INTO delivery (message_id, number, came_on, purpose, topic, payload)
            VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 0, 'a/b', 0, 'a/c', '{}')",
        )
        .unwrap();
    let store = open(&target).unwrap();
    assert_eq!(store.log_size().unwrap().unwrap().messages, 1);
    let page = store.unpublished(None, 100).unwrap();
    assert_eq!(page.messages.len(), 1);
    drop(store);
    let error = Candidate::open(&target.in_slots(2)).unwrap_err();
    assert!(error.to_string().contains("was made for 1 slots"));
}

/// A standby of this version has looked, and then another process migrates and gives its lease
/// back.
#[test]
fn nobody_takes_a_slot_of_a_schema_that_is_newer_than_they_know() {
    let target = empty_schema();
    let candidate = Candidate::open(&target).unwrap();
    let connection = Connection::open(&target).unwrap();
    connection
        .batch("UPDATE observer_schema SET version = version + 1")
        .unwrap();
    for _ in 0..2 {
        let error = candidate.try_take().unwrap_err();
        assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    }
    let rows = connection.query("SELECT holder FROM observer", vec![]);
    assert_eq!(rows.unwrap()[0].get::<_, String>(0), "");
}

/// Whoever has copied the store must not be taken for whoever serves it next.
#[test]
fn a_copy_is_served_under_a_token_that_nobody_has_had() {
    let (from, to) = (Postgres::default(), Postgres::default());
    drop(from.lasting());
    let mut copier = PostgresStore::open_to_transfer(&to.lasting).unwrap();
    crate::store::contract::transfer::copy_all(&*from.whole(), &mut copier);
    let had = copier.lease.as_ref().unwrap().token();
    // It goes on renewing its lease meanwhile.
    let target = to.lasting.clone().in_slots(2);
    let candidate = Candidate::open(&target).unwrap();
    drop(copier);
    let Taken::Ours { lease, .. } = candidate.try_take().unwrap() else {
        panic!("it was given back");
    };
    assert!(lease.token() > had, "{} after {had}", lease.token());
}

/// The stores of all slots, each with its lease.
fn open_slots(target: &Target) -> Vec<Feed> {
    let candidate = Candidate::open(target).unwrap();
    let open = |slot| {
        let Taken::Ours { lease, .. } = candidate.try_take_slot(slot).unwrap() else {
            panic!("slot {slot} is taken");
        };
        Feed::new(Box::new(open(&target.clone().holding(lease)).unwrap()))
    };
    (0..target.slots()).map(open).collect()
}

#[test]
fn settings_stay_only_once_a_slot_is_served() {
    let target = empty_schema();
    let named = |name: &str| target.clone().with_name(name.to_owned());
    // As `slots rabbitmq` does, again and again.
    let four = named("o").in_slots(4).shared_by(SharedBy::Hash);
    check_settings(&four).unwrap_err();
    let early = Candidate::open(&four).unwrap();
    check_settings(&named("p").in_slots(3)).unwrap();
    let secret = early.secret().unwrap();
    drop(Candidate::open(&named("o")).unwrap());
    drop(Candidate::open(&named("p").in_slots(3)).unwrap());
    let two = named("q").in_slots(2).shared_by(SharedBy::Hash);
    let candidate = Candidate::open(&two).unwrap();
    assert_eq!(candidate.secret().unwrap(), secret);
    assert!(matches!(
        candidate.try_take_slot(1).unwrap(),
        Taken::Ours { .. }
    ));
    // As `check` does.
    check_settings(&two).unwrap();
    for (other, says) in [
        (two.clone().in_slots(4), "was made for 2 slots"),
        (two.clone().in_slots(1), "was made for 2 slots"),
        (two.clone().shared_by(SharedBy::All), "by --sharing hash"),
        (two.clone().with_name("p".to_owned()), "of the observer"),
    ] {
        let told = check_settings(&other).unwrap_err().to_string();
        assert!(told.contains(says), "{told}");
    }
    check_settings(&two).unwrap();
    let refused = |made: Result<Taken, StoreError>| made.unwrap_err().to_string();
    let told = refused(early.try_take_slot(0));
    assert!(told.contains("was made for 2 slots, which stays"), "{told}");
    let open = |target: Target| refused(Candidate::open(&target).and_then(|c| c.try_take_slot(0)));
    let told = open(two.clone().shared_by(SharedBy::All));
    assert!(told.contains("by --sharing hash, which stays"), "{told}");
    let told = open(two.with_name("p".to_owned()));
    assert!(told.contains("is the store of the observer"), "{told}");
}

#[test]
fn an_answer_comes_last_whatever_the_clock_of_its_slot_says() {
    let target = empty_schema().in_slots(2);
    let [mut ahead, mut behind] = <[Feed; 2]>::try_from(open_slots(&target)).ok().unwrap();
    ahead.now += 50;
    for text in ["1", "2", "3"] {
        let question = ahead.message("x", "y", &format!("{{\"text\":\"q{text}\"}}"));
        let id = behind.ids.next(UnixMillis::new(behind.now));
        let (origin, id) = (behind.origin(id), id.to_string());
        let received = received(b"apps/a/outgoing/users/y/messages/x/outgoing", b"{}");
        behind.store.begin().unwrap();
        let router = router();
        let address = router.address(&received).unwrap();
        behind
            .store
            .prefetch(&mut std::iter::once(address))
            .unwrap();
        let answer = new_message(&id, "y", "x", "{}");
        behind.store.apply(&answer, &origin).unwrap();
        behind.store.commit().unwrap();
        let connection = Connection::open(&target).unwrap();
        let sql = "SELECT message_id FROM message ORDER BY seq DESC LIMIT 2";
        let last: Vec<String> = connection
            .query(sql, vec![])
            .unwrap()
            .iter()
            .map(|r| r.get(0))
            .collect();
        assert_eq!(last, [id, question.to_string()]);
    }
}

#[test]
fn of_two_slots_that_make_one_group_the_second_looks_again() {
    let target = empty_schema().in_slots(2);
    let [mut first, mut second] = <[Feed; 2]>::try_from(open_slots(&target)).ok().unwrap();
    let find = |feed: &mut Feed| feed.store.group_object(app(), user("group-1")).unwrap();
    for feed in [&mut first, &mut second] {
        feed.store.begin().unwrap();
        assert_eq!(find(feed), None);
    }
    let group = |owner: &str| Write::Group {
        app: app(),
        id: "group-1",
        body: format!(r#"{{"owner":"{owner}"}}"#).into(),
    };
    for (feed, owner) in [(&mut first, "alice"), (&mut second, "eve")] {
        let id = feed.ids.next(UnixMillis::new(feed.now));
        let origin = feed.origin(id);
        feed.store.apply(&group(owner), &origin).unwrap();
    }
    assert_eq!(first.store.commit().unwrap(), Committed::Changed);
    let refused = second.store.commit().unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused}");
    second.store.rollback();
    second.store.begin().unwrap();
    assert_eq!(find(&mut second), Some(r#"{"owner":"alice"}"#.to_owned()));
}

#[test]
fn a_position_is_found_by_its_time_among_those_that_slots_have_given_and_others() {
    let target = empty_schema().in_slots(2);
    let connection = Connection::open(&target).unwrap();
    let mut slots = open_slots(&target);
    let copied = "INSERT INTO message
        SELECT n, 'm-' || n, 'a', 'x', 'y', 'chat21', $1::bigint - 50 + n, NULL, '{}'
        FROM generate_series(1, 40) n";
    let now = millis(UnixMillis::new(NOW));
    connection.execute(copied, params![now]).unwrap();
    for _ in 0..5 {
        for feed in &mut slots {
            feed.now += 3;
            feed.message("x", "y", "{}");
        }
    }
    let rows = "SELECT seq, stored_at FROM message ORDER BY seq";
    let rows = connection.query(rows, vec![]).unwrap();
    let log: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for time in now - 60..now + 40 {
        let found = slots[0].store.position_at(unix(time)).unwrap();
        let wanted = log.iter().rev().find(|(_, at)| *at <= time);
        let wanted = wanted.map_or(log[0].0 - 1, |(seq, _)| *seq);
        assert_eq!(found, wanted, "{}", time - now);
    }
}
