use super::*;
use crate::protocol::testing::{built_in, filters, outgoing, without_controls};
use proptest::prelude::*;

#[test]
fn a_topic_that_is_no_outgoing_path_says_why() {
    let map = built_in(Layout::BUILT_IN);
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
            "the topic has one level too many: \
             on RabbitMQ a \".\" in an identifier becomes a level break",
        ),
        (
            "apps/a/outgoing/users/john/doe/messages/bob/outgoing",
            "the topic has one level too many: \
             on RabbitMQ a \".\" in an identifier becomes a level break",
        ),
        (
            &long,
            &format!(
                "the topic's recipient \"{}\" is longer than 255 bytes",
                "x".repeat(300)
            ),
        ),
    ] {
        assert_eq!(map.parse(topic).unwrap_err().to_string(), want, "{topic}");
    }
    assert!(
        map.parse("apps/a/outgoing/users/çelik/messages/ünal/outgoing")
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
        let map = TopicMap::new(layouts, apps, &[], Controls::Off).unwrap();
        filters(&map)
            .iter()
            .map(|f| f.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(Layout::BUILT_IN, &[])[..4],
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

#[test]
fn a_map_without_layouts_is_refused() {
    assert_eq!(
        without_controls(vec![]).unwrap_err(),
        TopicMapError::NoLayout
    );
}

fn identifier() -> impl Strategy<Value = String> {
    "[a-z0-9ç$][a-z0-9 _.çñ-]{0,10}[a-z0-9]|[a-z]".prop_filter("reserved", |id| {
        UserId::parse(id).is_ok() && AppId::parse(id).is_ok()
    })
}

proptest! {
    #[test]
    fn what_a_layout_formats_it_parses_back_and_never_receives(
        app in identifier(),
        sender in identifier(),
        recipient in identifier(),
    ) {
        let map = built_in(Layout::BUILT_IN);
        let received = |topic: &str| filters(&map).iter().filter(|f| f.matches(topic)).count();
        for layout in map.iter() {
            let topic = layout
                .outgoing()
                .as_str()
                .replace("{app}", &app)
                .replace("{sender}", &sender)
                .replace("{recipient}", &recipient);
            let got = outgoing(&map, &topic);
            prop_assert_eq!(got.layout, layout);
            prop_assert_eq!(
                (got.app.as_str(), got.sender.as_str(), got.recipient.as_str()),
                (&*app, &*sender, &*recipient)
            );
            prop_assert_eq!(received(&topic), 1, "{} is delivered once", topic);
            for published in [
                layout.inbox_topic(got.app, got.recipient, got.sender),
                layout.rejected_topic(got.app, got.sender, got.recipient),
            ] {
                prop_assert_eq!(received(published.as_str()), 0, "{} comes back", published);
            }
        }
    }

    #[test]
    fn no_topic_panics_the_parser(topic in "[a-z/+#*. \u{0}ç]{0,60}") {
        let _ = built_in(Layout::BUILT_IN).parse(&topic);
    }
}
