use super::*;
use crate::protocol::id::{MessageIds, UserId};
use crate::protocol::layout::{Controls, Layout};
use crate::protocol::topic::BrokerKind;
use crate::rules::checks::{GroupSenders, Rules};
use crate::rules::webhook_event::EventKind;
use serde_json::{Value, json};
use std::hash::RandomState;

const NOW: UnixMillis = UnixMillis::new(1_800_000_000_000);

fn rules() -> Rules {
    Rules {
        max_payload_bytes: 100,
        max_depth: 3,
        max_recipients: 3,
        privileged_senders: ["system".into()].into(),
        banned: ["mallory".into()].into(),
        ..Rules::default()
    }
}

fn router() -> Router {
    let layouts = Layout::BUILT_IN
        .iter()
        .flat_map(|name| Layout::built_in(name).unwrap())
        .collect();
    let dead = TopicName::parse("observer/dead").unwrap();
    Router {
        layouts: TopicMap::new(
            layouts,
            vec![],
            std::slice::from_ref(&dead),
            Controls::Served,
        )
        .unwrap(),
        policy: Arc::new(Policy::new(BrokerKind::Any, rules())),
        dead_letter_topic: Some(dead),
        events: EventKind::ALL.into_iter().collect(),
    }
}

fn received(topic: &[u8], payload: &[u8]) -> Received {
    let mut received = Received::new(
        Bytes::copy_from_slice(topic),
        Bytes::copy_from_slice(payload),
        false,
    );
    received.cut_to(100);
    received
}

fn id() -> MessageId {
    MessageIds::new(RandomState::new()).next(NOW)
}

/// What becomes of it; leaked, so that a plan can borrow from it.
fn plan_with(router: Router, received: &Received, facts: Facts) -> Plan<'static> {
    let router: &'static Router = Box::leak(Box::new(router));
    let received: &'static Received = Box::leak(Box::new(received.clone()));
    match router.decode(received) {
        Ok(decoded) => router.plan(Box::leak(Box::new(decoded)), received, facts, id()),
        Err(refusal) => router.refuse(received, &refusal.into(), NOW),
    }
}

fn plan(received: &Received) -> Plan<'static> {
    plan_with(router(), received, Facts::Nothing)
}

fn group(members: &[&str]) -> Facts {
    group_blocked_by(members, &[])
}

fn group_blocked_by(members: &[&str], blocked_by: &[&str]) -> Facts {
    let members: serde_json::Map<_, _> = members
        .iter()
        .map(|id| ((*id).to_owned(), json!(1)))
        .collect();
    Facts::Group {
        group: Some(Arc::new(
            Group::parse(&json!({ "members": members }).to_string()).unwrap(),
        )),
        blocked_by: blocked_by.iter().map(|id| (*id).into()).collect(),
        transient: true,
    }
}

const UNKNOWN_GROUP: Facts = Facts::Group {
    group: None,
    blocked_by: vec![],
    transient: true,
};

/// Everybody's copies.
fn for_many(plan: &Plan<'_>) -> Vec<(String, Value)> {
    let (mut all, mut rest) = (vec![], plan.fan_out.clone());
    while let Some(fan_out) = rest {
        let step = fan_out.step(&router().layouts, None);
        all.extend(
            step.publishes
                .iter()
                .map(|publish| (publish.topic.to_string(), body(publish))),
        );
        rest = step.rest;
    }
    all
}

fn body(publish: &Publish) -> Value {
    serde_json::from_slice(&publish.payload).unwrap()
}

#[test]
fn the_inbox_layout_forwards_the_same_bytes_to_the_recipient_alone() {
    let plan = plan(&received(
        b"/apps/a/users/alice/bob/messages/outgoing",
        b"\xff not json",
    ));
    assert_eq!(plan.refusal, None);
    let [copy] = &plan.publishes[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (copy.topic.as_str(), &copy.payload[..]),
        (
            "/apps/a/users/bob/alice/messages/clientadded",
            &b"\xff not json"[..]
        )
    );
}

#[test]
fn a_direct_message_goes_to_both_timelines_as_sent_and_delivered() {
    let plan = plan(&received(
        b"apps/a/outgoing/users/alice/messages/bob/outgoing",
        br#"{"text":"hi","timestamp":1799999999999}"#,
    ));
    let [sent, delivered] = &plan.publishes[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (sent.topic.as_str(), delivered.topic.as_str()),
        (
            "apps/a/users/alice/messages/bob/clientadded",
            "apps/a/users/bob/messages/alice/clientadded"
        )
    );
    assert_eq!(
        (&body(sent)["status"], &body(delivered)["status"]),
        (&json!(100), &json!(150))
    );
    for copy in [sent, delivered] {
        let body = body(copy);
        assert_eq!(
            (
                &body["sender"],
                &body["recipient"],
                &body["app_id"],
                &body["text"],
                &body["timestamp"]
            ),
            (
                &json!("alice"),
                &json!("bob"),
                &json!("a"),
                &json!("hi"),
                &json!(1_799_999_999_999_u64)
            )
        );
    }
    assert_eq!(body(sent)["message_id"], body(delivered)["message_id"]);
}

#[test]
fn a_message_to_oneself_arrives_once_and_a_mad_timestamp_becomes_now() {
    let plan = plan(&received(
        b"apps/a/users/alice/messages/alice/outgoing",
        br#"{"timestamp":1}"#,
    ));
    let [only] = &plan.publishes[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (&body(only)["status"], &body(only)["timestamp"]),
        (&json!(150), &json!(NOW.as_millis()))
    );
}

#[test]
fn every_reason_has_a_message_that_causes_it() {
    let good = &b"apps/a/outgoing/users/alice/messages/bob/outgoing"[..];
    let retained = Received {
        retain: true,
        ..received(good, b"{}")
    };
    let on_rabbitmq = Router {
        policy: Arc::new(Policy::new(BrokerKind::RabbitMq, rules())),
        ..router()
    };
    let dotted = received(
        b"apps/a/outgoing/users/john.doe/messages/bob/outgoing",
        b"{}",
    );
    let long = received(
        format!(
            "apps/a/outgoing/users/alice/messages/{}/outgoing",
            "x".repeat(240)
        )
        .as_bytes(),
        b"{}",
    );
    let to_group = &b"apps/a/outgoing/users/alice/messages/group-1/outgoing"[..];
    let cases = [
        (
            plan(&received(
                b"apps/a/outgoing/users/al+ice/messages/bob/outgoing",
                b"{}",
            )),
            Refusal::MalformedTopic,
            false,
        ),
        (
            plan(&received(
                b"apps/a/outgoing/users/\xff/messages/bob/outgoing",
                b"{}",
            )),
            Refusal::MalformedTopic,
            false,
        ),
        (
            plan(&received(
                b"apps/a/outgoing/users/groups/messages/bob/outgoing",
                b"{}",
            )),
            Refusal::ReservedIdentifier,
            false,
        ),
        (plan(&retained), Refusal::Retained, true),
        (plan(&received(good, &[b' '; 101])), Refusal::TooLarge, true),
        (
            plan(&received(good, br#"{"a":[[[1]]]}"#)),
            Refusal::TooLarge,
            true,
        ),
        (
            plan(&received(
                b"apps/a/outgoing/users/mallory/messages/bob/outgoing",
                b"{}",
            )),
            Refusal::Banned,
            true,
        ),
        (
            plan_with(router(), &received(good, b"{}"), Facts::Banned),
            Refusal::Banned,
            true,
        ),
        (
            plan_with(
                router(),
                &received(good, b"{}"),
                Facts::Direct { blocked: true },
            ),
            Refusal::Blocked,
            false,
        ),
        (plan(&received(good, b"hello")), Refusal::NotJson, true),
        (plan(&received(good, b"[]")), Refusal::NotAnObject, true),
        (
            plan(&received(good, br#"{"channel_type":"group"}"#)),
            Refusal::NotAGroup,
            true,
        ),
        (
            plan_with(
                router(),
                &received(to_group, b"{}"),
                Facts::Group {
                    group: None,
                    blocked_by: vec![],
                    transient: false,
                },
            ),
            Refusal::NotAGroup,
            true,
        ),
        (
            plan_with(router(), &received(to_group, b"{}"), group(&["bob"])),
            Refusal::NotAMember,
            true,
        ),
        (
            plan_with(
                router(),
                &received(
                    to_group,
                    br#"{"group":{"members":{"w":1,"x":1,"y":1,"z":1}}}"#,
                ),
                UNKNOWN_GROUP,
            ),
            Refusal::TooManyRecipients,
            true,
        ),
        (
            plan(&received(
                b"apps/a/users/alice/messages/bob/m1/update",
                br#"{"status":150}"#,
            )),
            Refusal::BadStatus,
            true,
        ),
        (
            plan_with(
                router(),
                &received(
                    b"apps/a/users/alice/messages/bob/m1/update",
                    br#"{"status":200}"#,
                ),
                Facts::Receipt(None),
            ),
            Refusal::BadStatus,
            true,
        ),
        (
            plan(&received(
                b"apps/observer/a/users/alice/messages/bob/delivered",
                br#"{"status":200}"#,
            )),
            Refusal::BadStatus,
            false,
        ),
        (
            plan(&received(
                b"apps/a/outgoing/users/alice/messages/john/doe/outgoing",
                b"{}",
            )),
            Refusal::Unroutable,
            false,
        ),
        (
            plan_with(on_rabbitmq.clone(), &dotted, Facts::Nothing),
            Refusal::Unroutable,
            true,
        ),
        (
            plan_with(on_rabbitmq.clone(), &long, Facts::Nothing),
            Refusal::Unroutable,
            true,
        ),
        (
            router().refuse(&received(good, b"{}"), &Refusal::Unauthorized.into(), NOW),
            Refusal::Unauthorized,
            true,
        ),
        (
            router().refuse(&received(good, b"{}"), &Refusal::RateLimited.into(), NOW),
            Refusal::RateLimited,
            true,
        ),
    ];
    for (plan, want, told) in &cases {
        assert_eq!(plan.refusal, Some(*want));
        let (letter, notices) = plan.answers.split_last().unwrap();
        assert_eq!(letter.topic.as_str(), "observer/dead");
        assert_eq!(body(letter)["reason"], json!(want.as_str()));
        assert_eq!(
            letter.user_properties[0],
            ("reason".into(), want.as_str().into())
        );
        assert_eq!(notices.len(), usize::from(*told), "{want}");
        for notice in notices {
            assert!(notice.topic.as_str().ends_with("/clientrejected"));
            assert_eq!(
                (&body(notice)["reason"], &body(notice)["received_at"]),
                (&json!(want.as_str()), &json!(NOW.as_millis()))
            );
        }
    }
    for reason in Refusal::ALL {
        assert!(
            cases.iter().any(|(_, caused, _)| caused == reason),
            "nothing causes {reason}"
        );
    }
}

#[test]
fn a_dead_letter_holds_text_as_text_bytes_as_base64_and_nothing_over_the_limit() {
    let letter = |payload: &[u8]| body(plan(&received(b"\xff/x", payload)).answers.last().unwrap());
    assert_eq!(
        (&letter(b"hi")["payload"], &letter(b"hi")["topic"]),
        (&json!("hi"), &json!("\u{fffd}/x"))
    );
    assert_eq!(letter(b"\xff\xfe")["payload_base64"], json!("//4="));
    let large = letter(&[b'x'; 101]);
    assert_eq!(
        (
            large.get("payload"),
            large.get("payload_base64"),
            &large["payload_bytes"]
        ),
        (None, None, &json!(101))
    );
}

#[test]
fn a_hostile_topic_makes_no_property_that_mqtt_cannot_encode() {
    let topic = [
        b"apps/a/outgoing/users/alice/messages/".as_slice(),
        &[1; 60_000],
        b"/outgoing",
    ]
    .concat();
    let plan = plan(&received(&topic, b"{}"));
    let (key, value) = &plan.answers[0].user_properties[1];
    assert!(key == "topic" && value.len() <= MAX_PROPERTY_BYTES && !value.contains('\u{1}'));
}

#[test]
fn a_sender_is_told_on_his_own_inbox_topic() {
    let plan = plan(&received(
        b"/apps/a/users/alice/bob/messages/outgoing",
        &[b'x'; 101],
    ));
    assert_eq!(
        plan.answers[0].topic.as_str(),
        "/apps/a/users/alice/bob/messages/clientrejected"
    );
    assert_eq!(
        body(&plan.answers[0]),
        json!({"reason": "too-large", "recipient": "bob", "received_at": NOW.as_millis()})
    );
    let refused = Refused {
        retry_after: Some(Duration::from_micros(1_500_500)),
        detail: Some("too quick".into()),
        ..Refusal::RateLimited.into()
    };
    let message = received(b"apps/a/users/alice/messages/bob/outgoing", b"{}");
    let notice = &router().refuse(&message, &refused, NOW).answers[0];
    assert_eq!(
        body(notice),
        json!({
            "reason": "rate-limited", "recipient": "bob", "received_at": NOW.as_millis(),
            "retry_after_ms": 1_501, "detail": "too quick"
        })
    );
    assert_eq!(
        notice.user_properties,
        [("reason".to_owned(), "rate-limited".to_owned())]
    );
}

fn timeline(inbox_of: &'static str, convers_with: &'static str) -> Timeline<'static> {
    Timeline {
        app: AppId::parse("a").unwrap(),
        inbox_of: UserId::parse(inbox_of).unwrap(),
        convers_with: UserId::parse(convers_with).unwrap(),
    }
}

#[test]
fn a_blocked_sender_sees_nothing_of_it() {
    let message = received(b"apps/a/users/alice/messages/bob/outgoing", b"{}");
    let plan = plan_with(router(), &message, Facts::Direct { blocked: true });
    let [own] = &plan.publishes[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (own.topic.as_str(), &body(own)["status"], plan.refusal),
        (
            "apps/a/users/alice/messages/bob/clientadded",
            &json!(100),
            Some(Refusal::Blocked)
        )
    );
    let [letter] = &plan.answers[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(letter.topic.as_str(), "observer/dead", "he is not told");
    let free = plan_with(router(), &message, Facts::Direct { blocked: false });
    let same = |plan: &Plan<'_>| {
        (
            body(&plan.publishes[0])["status"].clone(),
            plan.publishes[0].topic.clone(),
        )
    };
    assert_eq!(same(&plan), same(&free), "what he sees");
    assert_eq!(plan.writes.len(), 2, "the message and his own copy");
    let verbatim = received(b"apps/a/users/alice/bob/messages/outgoing", b"{}");
    assert_eq!(
        plan_with(router(), &verbatim, Facts::Direct { blocked: true }).publishes,
        []
    );
}

#[test]
fn a_group_message_goes_to_the_group_and_to_each_member() {
    let topic = b"apps/a/users/alice/messages/group-1/outgoing";
    let message = received(
        topic,
        br#"{"text":"hi","attributes":{"hiddenFor":"carol"}}"#,
    );
    let plan = plan_with(
        router(),
        &message,
        group_blocked_by(&["alice", "bob", "dave"], &["dave", "alice"]),
    );
    let [own] = &plan.publishes[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (own.topic.as_str(), &body(own)["status"]),
        (
            "apps/a/users/group-1/messages/group-1/clientadded",
            &json!(100)
        )
    );
    let copies = for_many(&plan);
    let topics: Vec<_> = copies.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(
        topics,
        [
            "apps/a/users/alice/messages/group-1/clientadded",
            "apps/a/users/bob/messages/group-1/clientadded"
        ]
    );
    for (_, copy) in &copies {
        assert_eq!(
            (&copy["status"], &copy["recipient"], &copy["text"]),
            (&json!(150), &json!("group-1"), &json!("hi"))
        );
        assert_eq!(copy["message_id"], body(own)["message_id"]);
    }
}

#[test]
fn members_come_from_the_message_then_from_the_store_else_there_is_only_the_sender() {
    let topic = b"apps/a/users/alice/messages/group-1/outgoing";
    let inboxes = |payload: &[u8], facts| {
        let plan = plan_with(router(), &received(topic, payload), facts);
        assert_eq!(plan.refusal, None, "{}", String::from_utf8_lossy(payload));
        for_many(&plan)
            .into_iter()
            .map(|(topic, _)| topic.split('/').nth(3).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let inline = br#"{"group":{"members":{"carol":1}}}"#;
    assert_eq!(inboxes(inline, UNKNOWN_GROUP), ["alice", "carol"]);
    assert_eq!(
        inboxes(inline, group(&["alice", "bob"])),
        ["alice", "carol"]
    );
    assert_eq!(inboxes(b"{}", group(&["alice", "bob"])), ["alice", "bob"]);
    assert_eq!(inboxes(b"{}", UNKNOWN_GROUP), ["alice"]);
    assert_eq!(inboxes(br#"{"group":null}"#, UNKNOWN_GROUP), ["alice"]);
    assert_eq!(
        inboxes(br#"{"group":{"members":{"group-1":1}}}"#, UNKNOWN_GROUP),
        ["alice"],
        "the group has its copy already"
    );
    let nobodys = plan_with(router(), &received(topic, inline), group(&["bob"]));
    assert_eq!(
        nobodys.refusal,
        Some(Refusal::NotAMember),
        "what the message brings along makes nobody a member"
    );
    let odd = plan_with(
        router(),
        &received(topic, br#"{"group":{"members":{"a/b":1}}}"#),
        UNKNOWN_GROUP,
    );
    assert_eq!(odd.refusal, Some(Refusal::MalformedTopic));
}

#[test]
fn who_may_write_to_a_group_is_the_operators_choice() {
    let by = |sender: &str, router: Router| {
        let topic = format!("apps/a/users/{sender}/messages/group-1/outgoing");
        plan_with(router, &received(topic.as_bytes(), b"{}"), group(&["bob"])).refusal
    };
    assert_eq!((by("bob", router()), by("system", router())), (None, None));
    assert_eq!(by("alice", router()), Some(Refusal::NotAMember));
    let mut open = router();
    let anybody = Rules {
        group_senders: GroupSenders::Anybody,
        ..rules()
    };
    open.policy = Arc::new(Policy::new(BrokerKind::Any, anybody.clone()));
    assert_eq!(by("alice", open.clone()), None);
    let mut of_another = Policy::new(BrokerKind::Any, rules());
    of_another.apps.insert("b".into(), anybody);
    open.policy = Arc::new(of_another);
    assert_eq!(
        by("alice", open),
        Some(Refusal::NotAMember),
        "rules of app b"
    );
}

#[test]
fn an_app_may_have_rules_of_its_own() {
    let mut router = router();
    let mut policy = Policy::new(BrokerKind::Any, rules());
    let generous = Rules {
        banned: ["alice".into()].into(),
        max_payload_bytes: 1_000,
        ..rules()
    };
    policy.apps.insert("b".into(), generous);
    router.policy = Arc::new(policy);
    let by = |topic: &str, payload: &[u8]| {
        let payload = Bytes::copy_from_slice(payload);
        let message = Received::new(Bytes::copy_from_slice(topic.as_bytes()), payload, false);
        plan_with(router.clone(), &message, Facts::Nothing).refusal
    };
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(200));
    for (topic, payload, want) in [
        ("apps/a/users/alice/messages/bob/outgoing", "{}", None),
        (
            "apps/b/users/alice/messages/bob/outgoing",
            "{}",
            Some(Refusal::Banned),
        ),
        (
            "apps/b/users/alice/inbox/fetch",
            "{}",
            Some(Refusal::Banned),
        ),
        ("apps/b/users/mallory/messages/bob/outgoing", "{}", None),
        (
            "apps/a/users/alice/messages/bob/outgoing",
            &long,
            Some(Refusal::TooLarge),
        ),
        ("apps/b/users/bob/messages/alice/outgoing", &long, None),
    ] {
        assert_eq!(by(topic, payload.as_bytes()), want, "{topic}");
    }
    // That his client is gone is not for him to say.
    let facts = Facts::Presence {
        known: true,
        others: 0,
        missed_since: None,
        last: 0,
    };
    let gone = received(
        b"apps/b/users/alice/presence/c",
        br#"{"disconnected":true}"#,
    );
    assert_eq!(plan_with(router, &gone, facts).refusal, None);
}

#[test]
fn a_receipt_raises_both_copies_and_tells_the_sender_alone() {
    let by_bob = |payload: &[u8], receipted| {
        let message = received(b"apps/a/users/bob/messages/alice/m1/update", payload);
        plan_with(router(), &message, Facts::Receipt(receipted))
    };
    let receipted = |sender: &str, mine, in_group| {
        Some(ReceiptTarget {
            sender: sender.into(),
            mine,
            in_group,
        })
    };
    let raise = |inbox_of, convers_with, status| Write::Raise {
        timeline: timeline(inbox_of, convers_with),
        message_id: "m1",
        status,
    };
    for (payload, own, peers) in [
        (
            &br#"{"status":200}"#[..],
            Status::Received,
            Status::ReturnReceipt,
        ),
        (br#"{"status":300}"#, Status::Seen, Status::Seen),
    ] {
        let plan = by_bob(payload, receipted("alice", Status::Delivered, false));
        assert_eq!(
            plan.writes,
            [raise("bob", "alice", own), raise("alice", "bob", peers)]
        );
        let [told] = &plan.publishes[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            told.topic.as_str(),
            "apps/a/users/alice/messages/bob/m1/clientupdated"
        );
        assert_eq!(
            body(told),
            json!({"timelineOf": "alice", "message_id": "m1", "status": peers.code()})
        );
    }
    let late = by_bob(
        br#"{"status":200}"#,
        receipted("alice", Status::Seen, false),
    );
    assert_eq!(
        (late.publishes.len(), late.writes.len(), late.refusal),
        (0, 0, None)
    );
    let again = by_bob(
        br#"{"status":200}"#,
        receipted("alice", Status::Received, false),
    );
    assert_eq!(
        again.publishes.len(),
        1,
        "after a crash it may not have been told"
    );
    let forged = by_bob(br#"{"status":300}"#, receipted("bob", Status::Sent, false));
    assert_eq!(
        forged.refusal,
        Some(Refusal::BadStatus),
        "he wrote it himself"
    );
    let in_group = by_bob(
        br#"{"status":300}"#,
        receipted("carol", Status::Delivered, true),
    );
    assert_eq!(
        in_group.writes,
        [
            raise("bob", "alice", Status::Seen),
            raise("alice", "alice", Status::Seen)
        ]
    );
    assert_eq!(in_group.publishes, []);
}

#[test]
fn a_conversation_is_patched_and_archived_for_its_owner_alone() {
    let row = Row {
        last: Some((r#"{"text":"hi"}"#.into(), Status::Delivered)),
        is_new: true,
        ..Row::default()
    };
    let patch = received(
        b"apps/a/users/bob/conversations/alice/update",
        br#"{"is_new":false}"#,
    );
    let patched = plan_with(router(), &patch, Facts::Conversation(Some(row.clone())));
    assert_eq!(
        patched.publishes[0].topic.as_str(),
        "apps/a/users/bob/conversations/alice/clientupdated"
    );
    assert_eq!(
        body(&patched.publishes[0]),
        json!({"is_new": false, "timelineOf": "bob", "conversWith": "alice"})
    );
    let archive = received(b"apps/a/users/bob/conversations/alice/archive", b"whatever");
    let archived = plan_with(router(), &archive, Facts::Conversation(Some(row)));
    let topics: Vec<_> = archived
        .publishes
        .iter()
        .map(|publish| publish.topic.as_str())
        .collect();
    assert_eq!(
        topics,
        [
            "apps/a/users/bob/conversations/alice/clientdeleted",
            "apps/a/users/bob/archived_conversations/alice/clientadded"
        ]
    );
    for whole in &archived.publishes {
        assert_eq!(
            (&body(whole)["archived"], &body(whole)["last_message_text"]),
            (&json!(true), &json!("hi"))
        );
    }
    let unknown = plan_with(router(), &archive, Facts::Conversation(None));
    assert_eq!(
        body(&unknown.publishes[0]),
        json!({"archived": true, "is_new": false, "conversWith": "alice", "key": "alice", "timelineOf": "bob"})
    );
    let growing = Row {
        patch: Some(json!({ "k": "x".repeat(100) }).to_string().into()),
        ..Row::default()
    };
    let refused = plan_with(router(), &patch, Facts::Conversation(Some(growing)));
    assert_eq!(
        refused.refusal,
        Some(Refusal::TooLarge),
        "a row does not grow without bound"
    );
}

#[test]
fn what_a_service_injects_is_published_as_it_came() {
    let payload = br#"{"status":150, "message_id":"x","sender":"s","text":"t"}"#;
    let given = plan(&received(
        b"apps/observer/a/users/bob/messages/group-1/delivered",
        payload,
    ));
    assert_eq!(
        given.publishes[0].topic.as_str(),
        "apps/a/users/bob/messages/group-1/clientadded"
    );
    assert_eq!(&given.publishes[0].payload[..], payload);
    let [Write::Message(message), Write::Copy(copy)] = &given.writes[..] else {
        panic!("{given:?}")
    };
    assert_eq!(
        (&*message.id, &*message.sender, copy.timeline, copy.listed),
        ("x", "s", timeline("bob", "group-1"), true)
    );
    let without = plan(&received(
        b"apps/observer/a/users/bob/messages/group-1/delivered",
        br#"{"status":150}"#,
    ));
    assert!(
        body(&without.publishes[0])["message_id"].is_string(),
        "{without:?}"
    );
}

#[test]
fn a_group_update_is_stored_and_told_to_those_named() {
    let payload = br#"{"group":{"uid":"g","members":{"a":1}},"notify_to":{"b":1,"c":1}}"#;
    let plan = plan(&received(b"apps/observer/a/groups/update", payload));
    let told = for_many(&plan);
    let topics: Vec<_> = told.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(
        topics,
        [
            "apps/a/users/b/groups/g/clientupdated",
            "apps/a/users/c/groups/g/clientupdated"
        ]
    );
    assert_eq!(told[0].1, json!({"uid": "g", "members": {"a": 1}}));
    assert!(matches!(plan.writes[..], [Write::Group { id: "g", .. }]));
}

#[test]
fn a_message_planned_again_comes_out_the_same() {
    let message = received(
        b"apps/a/users/alice/messages/bob/outgoing",
        br#"{"text":"hi"}"#,
    );
    let (router, id) = (router(), id());
    let payloads = || {
        let decoded = router.decode(&message).unwrap();
        let plan = router.plan(&decoded, &message, Facts::Nothing, id);
        plan.publishes
    };
    assert_eq!(payloads(), payloads());
}
