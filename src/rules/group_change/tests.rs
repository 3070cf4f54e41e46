use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::protocol::message::Received;
use crate::protocol::request::Request;
use crate::rules::facts::in_memory::InMemory;
use crate::rules::plan::Arrival;
use crate::rules::policy::{Policy, Rules};
use crate::rules::router::Router;
use crate::rules::test_support::{for_many, id, router, rules};

/// A group of alice's with bob and carol in it.
fn group() -> InMemory {
    let body = json!({
        "uid": "group-1", "name": "Friends", "owner": "alice", "createdOn": 1,
        "members": {"alice": 1, "bob": 1, "carol": 1}, "more": [1, 2],
    });
    InMemory {
        objects: [("group-1", body.to_string())].into(),
        ..InMemory::default()
    }
}

fn create(members: &[&str]) -> GroupChange {
    GroupChange::Create {
        name: "New".into(),
        owner: "dave".into(),
        members: members.iter().map(|member| (*member).into()).collect(),
        attributes: None,
    }
}

struct Planned {
    outcome: Result<GroupOutcome, Refusal>,
    /// What is stored.
    stored: Option<Value>,
    told: Vec<(String, Value)>,
}

fn change_with(
    router: Router,
    by: &str,
    authority: Authority,
    group: &str,
    change: &GroupChange,
    mut facts: InMemory,
) -> Planned {
    let topic = format!("apps/a/outgoing/users/{by}/messages/{group}/outgoing");
    let received = Received::new(topic.into(), "{}".into(), false);
    let address = router.address(&received).unwrap();
    let request = Request::GroupChange {
        outgoing: *address.outgoing().unwrap(),
        change,
    };
    let id = id();
    let arrival = Arrival {
        received: &received,
        id,
        time: id.time(),
        authority,
    };
    let plan = router.plan(&request, &arrival, &mut facts).unwrap();
    let stored = plan.writes.iter().map(|write| {
        let Write::Group { body, .. } = write else {
            panic!("{write:?}")
        };
        serde_json::from_str(body).unwrap()
    });
    Planned {
        stored: stored.last(),
        told: for_many(&plan),
        outcome: match plan.refusal {
            Some(reason) => Err(reason),
            None => Ok(plan.group.unwrap()),
        },
    }
}

fn change(by: &str, authority: Authority, change: &GroupChange, facts: InMemory) -> Planned {
    let mut router = router();
    let roomy = Rules {
        max_inline_recipients: 10,
        max_recipients: 10,
        ..rules()
    };
    router.policy = Arc::new(Policy::new(router.policy.broker_kind, roomy));
    change_with(router, by, authority, "group-1", change, facts)
}

fn changes() -> Vec<GroupChange> {
    vec![
        GroupChange::Rename("Other".into()),
        GroupChange::SetAttributes(raw(&json!({"k": 1}))),
        GroupChange::Add("dave".into()),
        GroupChange::SetMembers(vec!["bob".into()]),
        GroupChange::Remove("bob".into()),
    ]
}

#[test]
fn the_owner_and_administrators_change_a_group_and_nobody_else() {
    let not_allowed = Ok(GroupOutcome::Unchanged(GroupFault::NotAllowed));
    for what in changes() {
        for (by, authority, may) in [
            ("alice", Authority::Sender, true),
            ("service", Authority::Admin, true),
            ("carol", Authority::Sender, false),
            ("eve", Authority::Sender, false),
        ] {
            let planned = change(by, authority, &what, group());
            assert_eq!(planned.outcome != not_allowed, may, "{by} {what:?}");
            assert_eq!(planned.stored.is_some(), may);
            assert_eq!(planned.told.is_empty(), !may);
        }
        let nowhere = change("alice", Authority::Admin, &what, InMemory::default());
        let not_found = GroupOutcome::Unchanged(GroupFault::NotFound);
        assert_eq!(nowhere.outcome, Ok(not_found));
    }
    let leaves = GroupChange::Remove("carol".into());
    let planned = change("carol", Authority::Sender, &leaves, group());
    let members = &planned.stored.unwrap()["members"];
    assert_eq!(members, &json!({"alice": 1, "bob": 1}));
}

#[test]
fn what_a_change_does_not_touch_stays_and_members_are_told_once() {
    for (what, told, key) in [
        (
            GroupChange::Rename("Other".into()),
            &["alice", "bob", "carol"][..],
            Some("DATA_UPDATED_GROUP"),
        ),
        (
            GroupChange::Add("dave".into()),
            &["alice", "bob", "carol", "dave"],
            Some("MEMBER_JOINED_GROUP"),
        ),
        (
            GroupChange::SetMembers(vec!["dave".into()]),
            &["alice", "bob", "carol"],
            None,
        ),
        (
            GroupChange::Remove("bob".into()),
            &["alice", "bob", "carol"],
            Some("MEMBER_LEFT_GROUP"),
        ),
    ] {
        let planned = change("alice", Authority::Sender, &what, group());
        let stored = planned.stored.unwrap();
        assert_eq!(stored["more"], json!([1, 2]));
        assert_eq!(
            (&stored["owner"], &stored["createdOn"]),
            (&json!("alice"), &json!(1))
        );
        assert!(stored["updatedOn"].as_u64() > Some(1) && stored.get("notification").is_none());
        let topics: Vec<_> = planned
            .told
            .iter()
            .map(|(topic, _)| topic.as_str())
            .collect();
        let expected: Vec<_> = told
            .iter()
            .map(|user| format!("apps/a/users/{user}/groups/group-1/clientupdated"))
            .collect();
        assert_eq!(topics, expected, "{what:?}");
        let label = &planned.told[0].1["notification"]["messagelabel"]["key"];
        assert_eq!(label.as_str(), key, "{what:?}");
    }
}

#[test]
fn only_those_who_were_none_are_new_members() {
    let members = vec!["bob".into(), "dave".into(), "erin".into()];
    let planned = change(
        "alice",
        Authority::Sender,
        &GroupChange::SetMembers(members),
        group(),
    );
    let Ok(GroupOutcome::Changed { added, .. }) = planned.outcome else {
        panic!("it is not changed")
    };
    let new: Vec<_> = added.as_slice().iter().map(|user| &**user).collect();
    assert_eq!(new, ["dave", "erin"]);
    let same = ["carol", "bob", "alice"].map(Into::into).to_vec();
    for (what, fault) in [
        (GroupChange::SetMembers(same), GroupFault::SameMembers),
        (GroupChange::Add("bob".into()), GroupFault::AlreadyMember),
        (GroupChange::Remove("dave".into()), GroupFault::NotAMember),
    ] {
        let planned = change("alice", Authority::Sender, &what, group());
        assert_eq!(
            planned.outcome,
            Ok(GroupOutcome::Unchanged(fault)),
            "{what:?}"
        );
    }
}

#[test]
fn a_user_makes_new_groups_and_an_administrator_any() {
    let (user, admin) = (Authority::Sender, Authority::Admin);
    let new = InMemory::default();
    let made = change("dave", user, &create(&["bob"]), new);
    assert_eq!(
        made.stored.unwrap()["members"],
        json!({"bob": 1, "dave": 1})
    );
    assert!(made.told.is_empty());
    let exists = Ok(GroupOutcome::Unchanged(GroupFault::Exists));
    assert_eq!(change("dave", user, &create(&[]), group()).outcome, exists);
    let written_to = InMemory {
        timelines: vec!["group-1"],
        ..InMemory::default()
    };
    assert_eq!(
        change("dave", user, &create(&[]), written_to).outcome,
        exists
    );
    let full = || InMemory {
        groups_made: 10_000,
        ..InMemory::default()
    };
    let too_many = Ok(GroupOutcome::Unchanged(GroupFault::TooMany));
    assert_eq!(change("dave", user, &create(&[]), full()).outcome, too_many);
    assert!(
        change("service", admin, &create(&[]), full())
            .outcome
            .is_ok()
    );
    let replaced = change("service", admin, &create(&["bob"]), group());
    assert_eq!(replaced.stored.unwrap()["members"], json!({"bob": 1}));
    let unlike = |authority| {
        let facts = InMemory::default();
        change_with(router(), "dave", authority, "team", &create(&[]), facts).outcome
    };
    assert_eq!(unlike(user), Err(Refusal::NotAGroup));
    assert!(unlike(admin).is_ok());
}

#[test]
fn nobody_brings_in_who_blocks_them_or_more_than_a_group_may_have() {
    let mut small = router();
    let limits = Rules {
        max_inline_recipients: 2,
        max_recipients: 3,
        privileged_senders: BTreeSet::new(),
        ..rules()
    };
    small.policy = Arc::new(Policy::new(small.policy.broker_kind, limits));
    let outcome = |authority, members: &[&str], facts: InMemory| {
        let change = create(members);
        change_with(small.clone(), "dave", authority, "group-1", &change, facts).outcome
    };
    let (user, admin) = (Authority::Sender, Authority::Admin);
    let refused = Err(Refusal::TooManyRecipients);
    assert_eq!(outcome(user, &["x", "y"], InMemory::default()), refused);
    assert!(outcome(admin, &["x", "y", "z"], InMemory::default()).is_ok());
    assert_eq!(
        outcome(admin, &["w", "x", "y", "z"], InMemory::default()),
        refused
    );
    let blocked = || InMemory::default().with_block("x", "dave");
    assert_eq!(outcome(user, &["x"], blocked()), Err(Refusal::Blocked));
    assert!(outcome(admin, &["x"], blocked()).is_ok());
    let odd = outcome(user, &["a/b"], InMemory::default());
    assert_eq!(odd, Err(Refusal::MalformedTopic));
}

fn replace(body: Value) -> GroupChange {
    GroupChange::Replace(raw(&body))
}

#[test]
fn a_service_puts_a_whole_object_in_place_of_a_group() {
    let body = json!({"name": "Team", "members": {"bob": 1, "dave": 1}});
    let planned = change("system", Authority::Admin, &replace(body.clone()), group());
    let added = ["dave".into()].into_iter().collect();
    let GroupOutcome::Changed { added: joined, .. } = planned.outcome.unwrap() else {
        panic!("it is changed")
    };
    assert_eq!(joined, added);
    let stored = planned.stored.unwrap();
    assert_eq!(
        stored,
        json!({
            "uid": "group-1", "appId": "a", "name": "Team", "createdOn": 1,
            "updatedOn": id().time().as_millis(), "members": {"bob": 1, "dave": 1},
        })
    );
    // Who is a member, and who was.
    let told: BTreeSet<_> = planned.told.iter().map(|(topic, _)| &**topic).collect();
    let place = |user| format!("apps/a/users/{user}/groups/group-1/clientupdated");
    let all = ["alice", "bob", "carol", "dave"].map(place);
    assert_eq!(told, all.iter().map(String::as_str).collect());
    assert!(planned.told.iter().all(|(_, group)| *group == stored));

    // The same once more, as after a crash, is no change.
    let facts = InMemory {
        objects: [("group-1", stored.to_string())].into(),
        ..InMemory::default()
    };
    let again = change("system", Authority::Admin, &replace(body.clone()), facts);
    let same = GroupOutcome::Unchanged(GroupFault::SameGroup);
    assert_eq!((again.outcome, again.stored), (Ok(same), None));
    // One that is not there comes into being.
    let new = change(
        "system",
        Authority::Admin,
        &replace(body),
        InMemory::default(),
    );
    assert_eq!(new.told.len(), 2);
    assert_eq!(new.stored.unwrap()["createdOn"], id().time().as_millis());
}

#[test]
fn a_user_replaces_no_group_and_nobody_puts_in_what_is_none() {
    let body = json!({"owner": "alice", "members": {"alice": 1}});
    let planned = change("alice", Authority::Sender, &replace(body), group());
    let refused = GroupOutcome::Unchanged(GroupFault::NotAllowed);
    assert_eq!((planned.outcome, planned.stored), (Ok(refused), None));
    for (body, want) in [
        (json!([]), Refusal::NotAnObject),
        (json!({"members": []}), Refusal::NotAnObject),
        (json!({"members": {"a/b": 1}}), Refusal::MalformedTopic),
    ] {
        let planned = change("system", Authority::Admin, &replace(body), group());
        assert_eq!((planned.outcome, planned.stored), (Err(want), None));
    }
}

#[test]
fn a_stored_group_shows_whether_a_change_of_it_is_made() {
    let stored = r#"{"uid":"g","name":"A","attributes":{"k":1},"members":{"bob":1},"updatedOn":7}"#;
    for (change, other) in [
        (
            GroupChange::Rename("A".into()),
            GroupChange::Rename("B".into()),
        ),
        (
            GroupChange::SetAttributes(raw(&json!({"k": 1}))),
            GroupChange::SetAttributes(raw(&json!({"k": 2}))),
        ),
        (
            GroupChange::Add("bob".into()),
            GroupChange::Add("carol".into()),
        ),
        (
            GroupChange::Remove("carol".into()),
            GroupChange::Remove("bob".into()),
        ),
        (
            GroupChange::SetMembers(vec!["bob".into()]),
            GroupChange::SetMembers(vec![]),
        ),
        (
            replace(json!({"members": {"bob": 1}, "attributes": {"k": 1}, "name": "A"})),
            replace(json!({"members": {"bob": 1}, "name": "A"})),
        ),
    ] {
        assert!(is_made(&change, Some(stored)), "{change:?}");
        assert!(!is_made(&other, Some(stored)), "{other:?}");
        assert!(!is_made(&change, None), "{change:?}");
    }
}
