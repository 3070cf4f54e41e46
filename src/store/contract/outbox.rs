//! The outbox: what is handed out when, what is dropped, what is kept.

use super::{Maker, NOW};
use crate::protocol::time::UnixMillis;
use crate::rules::webhook_event::{Event, EventKind};
use crate::store::{
    DeliveryResult, Demand, Disposition, Endpoints, FailureScope, OutboxRequest, Selection, Store,
    Waiting,
};

fn outbox<M: Maker>(maker: &M, names: &[&str], max_bytes: u64) -> Box<dyn Store> {
    let mut store = maker.empty();
    store.set_endpoints(Endpoints {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        max_bytes,
    });
    store
}

/// Bytes of all events, the given up included.
fn outbox_bytes(store: &mut Box<dyn Store>) -> i64 {
    let nothing = OutboxRequest::default();
    let reply = store.serve_outbox(&nothing, UnixMillis::new(NOW)).unwrap();
    reply.waiting.iter().map(|waiting| waiting.bytes).sum()
}

fn event(n: usize) -> Event {
    let text = format!("{{\"n\":{n}}}");
    Event {
        kind: EventKind::MessageSent,
        id: format!("id-{n}"),
        copy_of: None,
        head: "{\"event_type\":\"x\"}".to_owned(),
        data: text.into(),
        shared: None,
    }
}

fn demand(endpoint: usize, deliveries: usize, in_flight: &[i64]) -> OutboxRequest {
    OutboxRequest {
        demands: vec![Demand {
            endpoint,
            deliveries,
            in_flight: in_flight.to_vec(),
        }],
        ..OutboxRequest::default()
    }
}

fn result(seq: i64, disposition: Disposition) -> OutboxRequest {
    OutboxRequest {
        results: vec![DeliveryResult {
            endpoint: 0,
            seq,
            disposition,
        }],
        ..OutboxRequest::default()
    }
}

pub(crate) fn events_are_handed_out_oldest_first_and_deleted_when_delivered<M: Maker>(maker: &M) {
    let mut store = outbox(maker, &["a", "b"], 1_000_000);
    let at = |n| UnixMillis::new(NOW + n);
    for n in 0..5 {
        assert_eq!(store.enqueue(&event(n), at(0)).unwrap(), [0, 0]);
    }
    // Queued again, it changes nothing.
    store.enqueue(&event(3), at(1)).unwrap();
    let given = store.serve_outbox(&demand(1, 3, &[]), at(1)).unwrap();
    let ids: Vec<&str> = given.deliveries.iter().map(|d| d.id.as_str()).collect();
    assert_eq!(ids, ["id-0", "id-1", "id-2"]);
    let five = Waiting {
        events: 5,
        given_up: 0,
        bytes: 5 * 25,
    };
    assert_eq!(given.waiting, [five, five]);
    let first = store.serve_outbox(&demand(0, 1, &[]), at(1)).unwrap();
    let seq = first.deliveries[0].seq;
    let next = store.serve_outbox(&demand(0, 1, &[seq]), at(1)).unwrap();
    assert_eq!(next.deliveries[0].id, "id-1");
    // Delayed, it is not handed out until it is due.
    let later = Disposition::Later {
        due: at(100),
        error: "answers 500".to_owned(),
        scope: FailureScope::Event,
    };
    store.serve_outbox(&result(seq, later), at(2)).unwrap();
    let ids = |store: &mut Box<dyn Store>, now| {
        let given = store.serve_outbox(&demand(0, 9, &[]), at(now)).unwrap();
        let ids = given.deliveries.into_iter().map(|delivery| delivery.id);
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids(&mut store, 99), ["id-1", "id-2", "id-3", "id-4"]);
    assert_eq!(ids(&mut store, 100).len(), 5);
    let again = Disposition::Later {
        due: at(1_000),
        error: String::new(),
        scope: FailureScope::Endpoint,
    };
    store.serve_outbox(&result(seq, again), at(100)).unwrap();
    let recovered = OutboxRequest {
        recovered: vec![0],
        ..OutboxRequest::default()
    };
    store.serve_outbox(&recovered, at(101)).unwrap();
    assert_eq!(ids(&mut store, 101)[0], "id-0");
    let given = store.serve_outbox(&result(seq, Disposition::Delivered), at(102));
    assert_eq!(given.unwrap().waiting[0].events, 4);
    let error = "answers 400".to_owned();
    let given = store.serve_outbox(
        &result(next.deliveries[0].seq, Disposition::GivenUp { error }),
        at(102),
    );
    assert_eq!(
        given.unwrap().waiting[0],
        Waiting {
            events: 3,
            given_up: 1,
            bytes: 4 * 25
        }
    );
    let listed = store.webhooks(&Selection::GivenUp).unwrap();
    assert_eq!(
        (listed[0].id.as_str(), listed[0].attempts, listed[0].due),
        ("id-1", 1, None)
    );
    assert_eq!(
        store.retry_webhooks(&Selection::GivenUp, at(200)).unwrap(),
        1
    );
    assert_eq!(ids(&mut store, 200), ["id-2", "id-3", "id-4", "id-1"]);
}

pub(crate) fn the_oldest_are_dropped_those_given_up_first_and_the_old_expire<M: Maker>(maker: &M) {
    let mut store = outbox(maker, &["a"], 10_000);
    let at = |n| UnixMillis::new(NOW + n);
    let lost: u64 = (0..2_000)
        .map(|n| store.enqueue(&event(n), at(n as u64)).unwrap()[0])
        .sum();
    let given = store
        .serve_outbox(&demand(0, 1, &[1, 2_000]), at(0))
        .unwrap();
    let waiting = given.waiting[0];
    assert!(
        waiting.bytes <= 10_000 && waiting.bytes > 9_900,
        "{waiting:?}"
    );
    assert_eq!(u64::try_from(waiting.events).unwrap() + lost, 2_000);
    assert_eq!(given.gone, [1], "in flight, and dropped for want of room");
    let kept = store.webhooks(&Selection::All).unwrap();
    let bytes: i64 = kept.iter().map(|row| row.bytes).sum();
    assert_eq!(bytes, waiting.bytes, "the triggers count right");
    // The old expire. They still count, and are the first to be dropped.
    let expire = OutboxRequest {
        expire_before: at(2_000),
        ..demand(0, 1, &[])
    };
    let expired = store.serve_outbox(&expire, at(2_001)).unwrap();
    assert_eq!(i64::try_from(expired.expired[0]).unwrap(), waiting.events);
    assert_eq!(
        (expired.waiting[0].events, expired.waiting[0].given_up),
        (0, waiting.events)
    );
    assert_eq!(store.enqueue(&event(2_000), at(2_002)).unwrap(), [0]);
    // An event that fails after its time is given up.
    let seq = store
        .serve_outbox(&demand(0, 1, &[]), at(2_002))
        .unwrap()
        .deliveries[0]
        .seq;
    let later = OutboxRequest {
        expire_before: at(3_000),
        ..result(
            seq,
            Disposition::Later {
                due: at(5_000),
                error: "answers 500".to_owned(),
                scope: FailureScope::Event,
            },
        )
    };
    assert_eq!(store.serve_outbox(&later, at(3_001)).unwrap().expired, [1]);
    let listed = store.webhooks(&Selection::GivenUp).unwrap();
    let last = listed.last().unwrap();
    assert_eq!(last.error.as_deref(), Some("too old; answers 500"));
    assert_eq!(store.drop_webhooks(&Selection::All).unwrap(), listed.len());
    assert_eq!(outbox_bytes(&mut store), 0);
}

pub(crate) fn the_last_thousand_given_up_are_kept<M: Maker>(maker: &M) {
    let mut store = outbox(maker, &["a"], 10_000_000);
    for n in 0..1_500 {
        store.enqueue(&event(n), UnixMillis::new(NOW)).unwrap();
    }
    let expire = OutboxRequest {
        expire_before: UnixMillis::new(NOW + 1),
        ..demand(0, 1, &[])
    };
    for _ in 0..4 {
        store
            .serve_outbox(&expire, UnixMillis::new(NOW + 2))
            .unwrap();
    }
    let kept = store.webhooks(&Selection::All).unwrap();
    assert_eq!((kept.len(), &*kept[0].id), (1_000, "id-500"));
}

pub(crate) fn the_copies_of_one_message_share_their_data<M: Maker>(maker: &M) {
    let mut store = outbox(maker, &["a", "b"], 1_000_000);
    let large = format!("\"{}\"", "x".repeat(50_000));
    let copy = |n: usize| Event {
        data: large.clone().into(),
        shared: Some("app/m1/message-delivered".to_owned()),
        ..event(n)
    };
    // One by one they would not fit; together nothing is dropped.
    for n in 0..1_000 {
        assert_eq!(
            store.enqueue(&copy(n), UnixMillis::new(NOW)).unwrap(),
            [0, 0]
        );
    }
    let given = store
        .serve_outbox(&demand(1, 2, &[]), UnixMillis::new(NOW))
        .unwrap();
    assert_eq!(given.waiting[1].bytes, 50_002 + 1_000 * 18);
    let body = format!("{{\"event_type\":\"x\",\"data\":{large}}}");
    assert!(
        given
            .deliveries
            .iter()
            .all(|delivery| delivery.body == body)
    );
    for seq in 1..=2_000 {
        store
            .serve_outbox(&result(seq, Disposition::Delivered), UnixMillis::new(NOW))
            .unwrap();
    }
    assert_eq!(outbox_bytes(&mut store), 0, "the last takes it along");
}

pub(crate) fn when_an_endpoint_answers_again_only_what_failed_with_it_is_due<M: Maker>(maker: &M) {
    let mut store = outbox(maker, &["a"], 1_000_000);
    let at = |n| UnixMillis::new(NOW + n);
    for n in 0..3 {
        store.enqueue(&event(n), at(0)).unwrap();
    }
    // The first failed with the endpoint, the second alone, the third often with the endpoint.
    for (seq, scope, times) in [
        (1, FailureScope::Endpoint, 5),
        (2, FailureScope::Event, 1),
        (3, FailureScope::Endpoint, 6),
    ] {
        for _ in 0..times {
            let error = "answers 500".to_owned();
            let due = at(9_000);
            let later = Disposition::Later { due, error, scope };
            store.serve_outbox(&result(seq, later), at(1)).unwrap();
        }
    }
    let recovered = OutboxRequest {
        recovered: vec![0],
        ..demand(0, 9, &[])
    };
    let given = store.serve_outbox(&recovered, at(2)).unwrap();
    let due: Vec<i64> = given.deliveries.iter().map(|d| d.seq).collect();
    assert_eq!(due, [1]);
}

pub(crate) fn data_that_events_share_go_with_the_last_of_them<M: Maker>(maker: &M) {
    let mut store = outbox(maker, &["a"], 60_000);
    let large = format!("\"{}\"", "x".repeat(20_000));
    let copy = |n: usize| Event {
        data: large.clone().into(),
        shared: Some(format!("app/m{}/message-delivered", n / 3)),
        ..event(n)
    };
    let dropped: u64 = (0..9)
        .map(|n| store.enqueue(&copy(n), UnixMillis::new(NOW)).unwrap()[0])
        .sum();
    let kept = store.webhooks(&Selection::All).unwrap();
    let ids: Vec<&str> = kept.iter().map(|row| &*row.id).collect();
    assert_eq!(ids, ["id-3", "id-4", "id-5", "id-6", "id-7", "id-8"]);
    assert_eq!(dropped, 3);
    assert_eq!(outbox_bytes(&mut store), 2 * 20_002 + 6 * 18);
}
