use super::*;
use proptest::prelude::*;

fn built_in(names: &[&str]) -> TopicMap {
    let layouts = names
        .iter()
        .flat_map(|name| Layout::built_in(name).unwrap())
        .collect();
    TopicMap::new(layouts, vec![], &[], Controls::Served).unwrap()
}

fn outgoing<'a>(layouts: &'a TopicMap, topic: &'a str) -> Outgoing<'a> {
    let address = layouts
        .parse(topic)
        .unwrap_or_else(|error| panic!("{topic}: {error}"));
    *address
        .outgoing()
        .unwrap_or_else(|| panic!("{topic}: {address:?}"))
}

fn filters(layouts: &TopicMap) -> Vec<TopicFilter> {
    layouts
        .filters()
        .into_iter()
        .map(|asked| asked.filter)
        .collect()
}

fn custom(outgoing: &str, inbox: &str) -> Result<Layout, LayoutError> {
    Layout::new("mine", outgoing, inbox, PayloadMode::Verbatim, false, None)
}

#[test]
fn the_built_in_layouts_are_answered_where_the_contract_says() {
    let layouts = built_in(&Layout::BUILT_IN);
    for (topic, name, inbox, rejected) in [
        (
            "/apps/tilechat/users/alice/bob/messages/outgoing",
            "inbox",
            "/apps/tilechat/users/bob/alice/messages/clientadded",
            "/apps/tilechat/users/alice/bob/messages/clientrejected",
        ),
        (
            "apps/tilechat/users/alice/bob/messages/outgoing",
            "inbox",
            "apps/tilechat/users/bob/alice/messages/clientadded",
            "apps/tilechat/users/alice/bob/messages/clientrejected",
        ),
        (
            "apps/tilechat/outgoing/users/alice/messages/bob/outgoing",
            "chat21",
            "apps/tilechat/users/bob/messages/alice/clientadded",
            "apps/tilechat/users/alice/messages/bob/clientrejected",
        ),
        (
            "apps/tilechat/users/alice/messages/bob/outgoing",
            "chat21-v1",
            "apps/tilechat/users/bob/messages/alice/clientadded",
            "apps/tilechat/users/alice/messages/bob/clientrejected",
        ),
    ] {
        let got = outgoing(&layouts, topic);
        assert_eq!(
            (
                got.layout.name(),
                got.app.as_str(),
                got.sender.as_str(),
                got.recipient.as_str()
            ),
            (name, "tilechat", "alice", "bob")
        );
        assert_eq!(
            got.layout
                .inbox_topic(got.app, got.recipient, got.sender)
                .as_str(),
            inbox
        );
        assert_eq!(
            got.layout
                .rejected_topic(got.app, got.sender, got.recipient)
                .as_str(),
            rejected
        );
    }
}

#[test]
fn a_topic_that_is_no_outgoing_path_says_why() {
    let layouts = built_in(&Layout::BUILT_IN);
    let long = format!(
        "apps/a/outgoing/users/alice/messages/{}/outgoing",
        "x".repeat(300)
    );
    for (topic, want) in [
        ("", "the topic fits no enabled layout"),
        ("apps", "the topic fits no enabled layout"),
        (
            "apps/a/users/bob/messages/alice/clientadded",
            "the topic fits no enabled layout",
        ),
        (
            "apps/a/outgoing/users/alice/messages/a+b/outgoing",
            "the topic's recipient \"a+b\" holds '+', which no identifier may hold",
        ),
        (
            "apps/a/outgoing/users//messages/bob/outgoing",
            "the topic's sender \"\" is empty",
        ),
        (
            "apps/a/outgoing/users/alice/messages/b\0/outgoing",
            "the topic's recipient \"b\\0\" holds '\\0', which no identifier may hold",
        ),
        (
            "apps/observer/outgoing/users/alice/messages/bob/outgoing",
            "the topic's app \"observer\" is a reserved word",
        ),
        (
            "apps/a/users/alice/messages/messages/outgoing",
            "the topic's recipient \"messages\" is a reserved word",
        ),
        (
            "apps/a/outgoing/users/alice/messages/john/doe/outgoing",
            "the topic has one level too many: on RabbitMQ a \".\" in an identifier becomes a level break",
        ),
        (
            "apps/a/outgoing/users/john/doe/messages/bob/outgoing",
            "the topic has one level too many: on RabbitMQ a \".\" in an identifier becomes a level break",
        ),
        (
            &long,
            &format!(
                "the topic's recipient \"{}\" is longer than 255 bytes",
                "x".repeat(300)
            ),
        ),
    ] {
        assert_eq!(
            layouts.parse(topic).unwrap_err().to_string(),
            want,
            "{topic}"
        );
    }
    assert!(
        layouts
            .parse("apps/a/outgoing/users/çelik/messages/ünal/outgoing")
            .is_ok()
    );
}

#[test]
fn filters_are_those_of_the_contract_and_follow_the_apps() {
    let of = |names: &[&str], apps: &[&str]| {
        let layouts = names
            .iter()
            .flat_map(|name| Layout::built_in(name).unwrap())
            .collect();
        let apps = apps.iter().map(|a| a.to_string()).collect();
        let layouts = TopicMap::new(layouts, apps, &[], Controls::Off).unwrap();
        filters(&layouts)
            .iter()
            .map(|f| f.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(&Layout::BUILT_IN, &[])[..4],
        [
            "/apps/+/users/+/+/messages/outgoing",
            "apps/+/users/+/+/messages/outgoing",
            "apps/+/outgoing/users/+/messages/+/outgoing",
            "apps/+/users/+/messages/+/outgoing",
        ]
    );
    assert_eq!(
        of(&["chat21"], &["a", "b"]),
        [
            "apps/a/outgoing/users/+/messages/+/outgoing",
            "apps/b/outgoing/users/+/messages/+/outgoing",
            "apps/a/outgoing/users/+/+/messages/+/outgoing",
            "apps/b/outgoing/users/+/+/messages/+/outgoing",
            "apps/a/outgoing/users/+/messages/+/+/outgoing",
            "apps/b/outgoing/users/+/messages/+/+/outgoing",
        ]
    );
    let only_a = TopicMap::new(
        Layout::built_in("chat21").unwrap(),
        vec!["a".into()],
        &[],
        Controls::Off,
    )
    .unwrap();
    assert_eq!(
        only_a.parse("apps/b/outgoing/users/x/messages/y/outgoing"),
        Err(ParseError::OtherApp("b"))
    );
}

/// Each row of `protocol.md`, section 2, with its filter, and where its sender is told of a refusal.
#[test]
fn the_control_topics_are_read_as_the_contract_says() {
    let layouts = built_in(&Layout::BUILT_IN);
    let timeline = Timeline {
        app: AppId::parse("a").unwrap(),
        inbox_of: UserId::parse("u").unwrap(),
        convers_with: UserId::parse("p").unwrap(),
    };
    let (app, user) = (timeline.app, timeline.inbox_of);
    for (topic, filter, want, rejected) in [
        (
            "apps/a/users/u/messages/p/m1/update",
            "apps/+/users/+/messages/+/+/update",
            Address::Receipt(timeline, MessageKey::parse("m1").unwrap()),
            Some("apps/a/users/u/messages/p/m1/clientrejected"),
        ),
        (
            "apps/a/users/u/conversations/p/update",
            "apps/+/users/+/conversations/+/update",
            Address::Conversation(timeline),
            Some("apps/a/users/u/conversations/p/clientrejected"),
        ),
        (
            "apps/a/users/u/conversations/p/archive",
            "apps/+/users/+/conversations/+/archive",
            Address::Archive(timeline),
            Some("apps/a/users/u/conversations/p/clientrejected"),
        ),
        (
            "apps/a/users/u/presence/c1",
            "apps/+/users/+/presence/+",
            Address::Presence {
                app,
                user,
                client: ClientId::parse("c1").unwrap(),
            },
            None,
        ),
        (
            "apps/a/users/u/blocked/p/update",
            "apps/+/users/+/blocked/+/update",
            Address::Block(timeline),
            Some("apps/a/users/u/blocked/p/clientrejected"),
        ),
        (
            "apps/a/users/u/inbox/fetch",
            "apps/+/users/+/inbox/fetch",
            Address::Fetch { app, user },
            Some("apps/a/users/u/inbox/clientrejected"),
        ),
        (
            "apps/observer/a/users/u/messages/p/delivered",
            "apps/observer/+/users/+/messages/+/delivered",
            Address::Inject(timeline),
            None,
        ),
        (
            "apps/observer/a/groups/update",
            "apps/observer/+/groups/update",
            Address::Groups { app },
            None,
        ),
    ] {
        assert_eq!(layouts.parse(topic), Ok(want), "{topic}");
        let matching: Vec<_> = layouts
            .filters()
            .into_iter()
            .filter(|asked| asked.filter.matches(topic))
            .collect();
        let [asked] = &matching[..] else {
            panic!("{topic}: {matching:?}")
        };
        assert_eq!(
            (asked.filter.as_str(), asked.retained),
            (filter, matches!(want, Address::Presence { .. }))
        );
        let told = layouts.rejected(&want);
        assert_eq!(told.as_ref().map(TopicName::as_str), rejected);
        for told in told.iter().map(TopicName::as_str) {
            assert!(
                !filters(&layouts).iter().any(|filter| filter.matches(told)),
                "{told} comes back"
            );
        }
    }
    for (what, want) in [
        (
            Notification::Message,
            "apps/a/users/u/messages/p/clientadded",
        ),
        (
            Notification::Receipt,
            "apps/a/users/u/messages/p/m1/clientupdated",
        ),
        (
            Notification::Conversation,
            "apps/a/users/u/conversations/p/clientupdated",
        ),
        (
            Notification::ConversationDeleted,
            "apps/a/users/u/conversations/p/clientdeleted",
        ),
        (
            Notification::ConversationArchived,
            "apps/a/users/u/archived_conversations/p/clientadded",
        ),
        (
            Notification::Block,
            "apps/a/users/u/blocked/p/clientupdated",
        ),
        (Notification::Inbox, "apps/a/users/u/inbox/clientupdated"),
        (Notification::Group, "apps/a/users/u/groups/p/clientupdated"),
    ] {
        let told = layouts.told(what, &timeline, "m1");
        assert_eq!(told.as_str(), want);
        assert!(
            !filters(&layouts).iter().any(|filter| filter.matches(want)),
            "{want} comes back"
        );
    }
    for (topic, error) in [
        (
            "apps/a/users/u/messages/p/m+/update",
            "the topic's message id \"m+\" holds '+', which no identifier may hold",
        ),
        (
            "apps/a/users/u/presence/",
            "the topic's client id \"\" is empty",
        ),
        (
            "apps/a/users/john/doe/inbox/fetch",
            "the topic has one level too many: on RabbitMQ a \".\" in an identifier becomes a level break",
        ),
        (
            "apps/a/users/u/conversations/john/doe/archive",
            "the topic has one level too many: on RabbitMQ a \".\" in an identifier becomes a level break",
        ),
    ] {
        assert_eq!(
            layouts.parse(topic).unwrap_err().to_string(),
            error,
            "{topic}"
        );
        assert_eq!(
            layouts
                .filters()
                .into_iter()
                .filter(|asked| asked.filter.matches(topic))
                .count(),
            1,
            "{topic}"
        );
    }
    let off = TopicMap::new(
        Layout::built_in("chat21").unwrap(),
        vec![],
        &[],
        Controls::Off,
    )
    .unwrap();
    assert_eq!(
        off.parse("apps/a/users/u/inbox/fetch"),
        Err(ParseError::NoLayout)
    );
    assert!(
        off.retired_filters()
            .iter()
            .any(|filter| filter.as_str() == "apps/+/users/+/inbox/fetch")
    );
}

#[test]
fn a_layout_that_would_hear_what_is_told_is_refused() {
    let mine = custom(
        "apps/{app}/users/{sender}/archived_conversations/{recipient}/clientadded",
        "in/{app}/{recipient}/{sender}/x",
    )
    .unwrap();
    let error = TopicMap::new(vec![mine.clone()], vec![], &[], Controls::Served).unwrap_err();
    assert!(matches!(error, LayoutError::Loop { .. }), "{error}");
    assert!(TopicMap::new(vec![mine], vec![], &[], Controls::Off).is_ok());
}

#[test]
fn a_layout_that_loops_is_refused_with_both_templates() {
    let looping = custom(
        "chat/{app}/{sender}/{recipient}/box",
        "chat/{app}/{recipient}/{sender}/box",
    )
    .unwrap();
    assert_eq!(
        TopicMap::new(vec![looping], vec![], &[], Controls::Off)
            .unwrap_err()
            .to_string(),
        "loop: what is published to \"chat/{app}/{recipient}/{sender}/box\" would be received again through \"chat/{app}/{sender}/{recipient}/box\""
    );
    let rejects_into_itself = custom(
        "c/{app}/{sender}/{recipient}/clientrejected",
        "c/{app}/{recipient}/{sender}/in",
    )
    .unwrap();
    assert_eq!(
        TopicMap::new(vec![rejects_into_itself], vec![], &[], Controls::Off).unwrap_err(),
        LayoutError::Loop {
            published: "c/{app}/{recipient}/{sender}/clientrejected".into(),
            subscribed: "c/{app}/{sender}/{recipient}/clientrejected".into()
        }
    );
    let fixed = TopicName::parse("apps/dead/users/a/messages/b/outgoing").unwrap();
    let error = TopicMap::new(
        Layout::built_in("chat21-v1").unwrap(),
        vec![],
        &[fixed],
        Controls::Off,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "loop: what is published to \"apps/dead/users/a/messages/b/outgoing\" would be received again through \"apps/{app}/users/{sender}/messages/{recipient}/outgoing\""
    );
}

#[test]
fn layouts_that_overlap_are_refused_with_both_templates() {
    let one = custom(
        "c/{app}/{sender}/{recipient}/out",
        "c/{app}/{recipient}/{sender}/in",
    )
    .unwrap();
    let two = custom(
        "c/{app}/{sender}/bob/{recipient}",
        "c/{app}/{recipient}/{sender}/in",
    )
    .unwrap();
    assert!(TopicMap::new(vec![one.clone()], vec![], &[], Controls::Off).is_ok());
    assert_eq!(
        TopicMap::new(vec![one, two], vec![], &[], Controls::Off)
            .unwrap_err()
            .to_string(),
        "overlap: one topic can match both \"c/{app}/{sender}/{recipient}/out\" and \"c/{app}/{sender}/bob/{recipient}\""
    );
    let v1 = Layout::built_in("chat21-v1").unwrap().remove(0);
    let near = custom(
        "apps/{app}/users/{sender}/{recipient}/alice/outgoing",
        "c/{app}/{recipient}/{sender}/in",
    )
    .unwrap();
    assert!(
        TopicMap::new(vec![v1.clone(), near], vec![], &[], Controls::Off).is_ok(),
        "\"messages\" is reserved, so these never meet"
    );
    let meets = custom(
        "apps/{app}/users/{sender}/messages/{recipient}/{app}",
        "c/{app}/{recipient}/{sender}/in",
    );
    assert_eq!(
        meets.unwrap_err().to_string(),
        "template \"apps/{app}/users/{sender}/messages/{recipient}/{app}\": {app} stands 2 times in it, not once"
    );
}

#[test]
fn a_faulty_template_is_named_with_its_fault() {
    for (outgoing, inbox, want) in [
        (
            "a/{app}/{from}/{recipient}",
            "b/{app}/{recipient}/{sender}/in",
            "template \"a/{app}/{from}/{recipient}\": {from} is not a level it can have ({app}, {sender}, {recipient})",
        ),
        (
            "a/{app}/{sender}/{recipient}/#",
            "b/{app}/{recipient}/{sender}/in",
            "template \"a/{app}/{sender}/{recipient}/#\": level \"#\" may not hold wildcards, braces or control characters",
        ),
        (
            "a/{app}/{sender}",
            "b/{app}/{recipient}/{sender}/in",
            "template \"a/{app}/{sender}\": {recipient} stands 0 times in it, not once",
        ),
        (
            "a/{app}/{sender}/{recipient}",
            "b/{app}/{recipient}/{sender}",
            "template \"b/{app}/{recipient}/{sender}\": its last level must be plain text, because refusals are sent with \"clientrejected\" in its place",
        ),
        (
            "a/{sender}/{recipient}",
            "b/{recipient}/{sender}/in",
            "layout \"mine\": template \"a/{sender}/{recipient}\" has no {app}, so the layout must name its app (`app = \"…\"`)",
        ),
        (
            "a/x{sender}/{recipient}",
            "b/{recipient}/{sender}/in",
            "template \"a/x{sender}/{recipient}\": level \"x{sender}\" may not hold wildcards, braces or control characters",
        ),
    ] {
        assert_eq!(custom(outgoing, inbox).unwrap_err().to_string(), want);
    }
    assert_eq!(
        TopicMap::new(vec![], vec![], &[], Controls::Off).unwrap_err(),
        LayoutError::None
    );
}

#[test]
fn a_layout_without_app_serves_the_one_it_names() {
    let layout = Layout::new(
        "plain",
        "out/{sender}/{recipient}",
        "in/{recipient}/{sender}/new",
        PayloadMode::Envelope,
        true,
        Some("shop"),
    )
    .unwrap();
    let layouts = TopicMap::new(vec![layout], vec![], &[], Controls::Off).unwrap();
    let got = outgoing(&layouts, "out/alice/bob");
    assert_eq!(
        (
            got.app.as_str(),
            got.layout
                .inbox_topic(got.app, got.recipient, got.sender)
                .as_str()
        ),
        ("shop", "in/bob/alice/new")
    );
}

fn identifier() -> impl Strategy<Value = String> {
    "[a-z0-9ç$][a-z0-9 _.çñ-]{0,10}[a-z0-9]|[a-z]".prop_filter("reserved", |id| {
        UserId::parse(id).is_ok() && AppId::parse(id).is_ok()
    })
}

proptest! {
    #[test]
    fn what_a_layout_formats_it_parses_back_and_never_receives(app in identifier(), sender in identifier(), recipient in identifier()) {
        let layouts = built_in(&Layout::BUILT_IN);
        for layout in layouts.iter() {
            let topic = layout.outgoing().as_str().replace("{app}", &app).replace("{sender}", &sender).replace("{recipient}", &recipient);
            let got = outgoing(&layouts, &topic);
            prop_assert_eq!(got.layout, layout);
            prop_assert_eq!((got.app.as_str(), got.sender.as_str(), got.recipient.as_str()), (&*app, &*sender, &*recipient));
            let matching = filters(&layouts).iter().filter(|f| f.matches(&topic)).count();
            prop_assert_eq!(matching, 1, "{} is delivered once", topic);
            for published in [layout.inbox_topic(got.app, got.recipient, got.sender), layout.rejected_topic(got.app, got.sender, got.recipient)] {
                prop_assert!(!filters(&layouts).iter().any(|f| f.matches(published.as_str())), "{} comes back", published);
            }
        }
    }

    #[test]
    fn no_topic_panics_the_parser(topic in "[a-z/+#*. \u{0}ç]{0,60}") {
        let _ = built_in(&Layout::BUILT_IN).parse(&topic);
    }
}
