use super::*;
use crate::protocol::amqp::BrokerKind;
use crate::rules::facts::NoStore;
use crate::rules::facts::in_memory::InMemory;
use crate::rules::policy::Rules;
use crate::rules::submission::Authority;
use crate::rules::test_support::{NOW, body, id, plan, plan_with, received, router, rules};
use bytes::Bytes;
use serde_json::json;

#[expect(clippy::too_many_lines, reason = "a table with a row for each reason")]
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
            plan_with(
                router(),
                &received(good, b"{}"),
                InMemory {
                    banned: vec!["alice"],
                    ..InMemory::default()
                },
            ),
            Refusal::Banned,
            true,
        ),
        (
            plan_with(
                router(),
                &received(good, b"{}"),
                InMemory::default().with_block("bob", "alice"),
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
            plan_with(router(), &received(to_group, b"{}"), NoStore),
            Refusal::NotAGroup,
            true,
        ),
        (
            plan_with(
                router(),
                &received(to_group, b"{}"),
                InMemory::default().with_group("group-1", &["bob"]),
            ),
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
                InMemory::default(),
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
                InMemory::default(),
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
            plan_with(on_rabbitmq.clone(), &dotted, InMemory::default()),
            Refusal::Unroutable,
            true,
        ),
        (
            plan_with(on_rabbitmq.clone(), &long, InMemory::default()),
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
        (
            router().refuse(&received(good, b"{}"), &Refusal::Internal.into(), NOW),
            Refusal::Internal,
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
        plan_with(router.clone(), &message, InMemory::default()).refusal
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
    // It is the client's will that says so, not the user.
    let gone = received(
        b"apps/b/users/alice/presence/c",
        br#"{"disconnected":true}"#,
    );
    assert_eq!(plan_with(router, &gone, InMemory::default()).refusal, None);
}

#[test]
fn a_message_planned_again_comes_out_the_same() {
    let message = received(
        b"apps/a/users/alice/messages/bob/outgoing",
        br#"{"text":"hi"}"#,
    );
    let (router, id) = (router(), id());
    let payloads = || {
        let request = router.read(&message).unwrap();
        let arrival = Arrival {
            received: &message,
            id,
            time: id.time(),
            authority: Authority::default(),
        };
        let plan = router.plan(&request, &arrival, &mut InMemory::default());
        plan.unwrap().publishes
    };
    assert_eq!(payloads(), payloads());
}
