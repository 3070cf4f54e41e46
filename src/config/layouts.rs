//! The settings of the layouts, the apps and the dead-letter topic.
//!
//! Owns finding the layouts and reporting what a broker cannot carry. That they do not contradict
//! each other is proven in `protocol`.

use std::sync::Arc;

use super::custom_layout::CustomPayload;
use super::reader::Reader;
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_topic::Controls;
use crate::protocol::layout::{Layout, LayoutSpec, PayloadMode, SenderCopy};
use crate::protocol::topic::TopicName;
use crate::protocol::topic_map::{TopicMap, TopicMapError};
use crate::rules::policy::Policy;
use crate::rules::router::Router;
use crate::rules::webhook_event::EventKinds;

const NAME_OF_A_BUILT_IN: &str = "a built-in layout has that name: give it one of its own";
const NAME_TWICE: &str = "another custom layout has that name";

/// The router; `None` if the layouts contradict each other.
pub(super) fn read_router(
    reader: &mut Reader<'_>,
    controls: Controls,
    policy: Policy,
    events: EventKinds,
) -> Option<Router> {
    let dead_letter_topic = reader.parse("dead-letter-topic", TopicName::parse);
    let mut layouts = read_built_in(reader);
    layouts.extend(read_custom(reader));
    check_broker_kind(reader, policy.broker_kind, &layouts);
    let published: Vec<TopicName> = dead_letter_topic.iter().cloned().collect();
    match TopicMap::new(layouts, reader.texts("app"), &published, controls) {
        Ok(layouts) => Some(Router {
            layouts,
            policy: Arc::new(policy),
            dead_letter_topic,
            events,
        }),
        Err(error) => {
            let setting = match &error {
                TopicMapError::BadApp(_) => "app",
                TopicMapError::NoLayout | TopicMapError::Unsound(_) => "layouts",
            };
            reader.fail(setting, error);
            None
        }
    }
}

fn read_built_in(reader: &mut Reader<'_>) -> Vec<Layout> {
    let mut layouts = vec![];
    for name in reader.texts("layouts") {
        match Layout::built_in(&name) {
            Some(built_in) => layouts.extend(built_in),
            None if name == "none" => {}
            None => reader.fail(
                "layouts",
                format!("{name:?} is none of {}, none", Layout::BUILT_IN.join(", ")),
            ),
        }
    }
    layouts
}

fn read_custom(reader: &mut Reader<'_>) -> Vec<Layout> {
    let mut layouts: Vec<Layout> = vec![];
    for custom in std::mem::take(&mut reader.custom_layouts) {
        let place = format!("custom-layout {:?}", custom.name);
        if Layout::BUILT_IN.contains(&custom.name.as_str()) || custom.name == "none" {
            reader.fail_at(place, NAME_OF_A_BUILT_IN);
            continue;
        }
        if layouts.iter().any(|layout| layout.name() == custom.name) {
            reader.fail_at(place, NAME_TWICE);
            continue;
        }
        let payload = match custom.payload {
            CustomPayload::Verbatim => PayloadMode::Verbatim,
            CustomPayload::Envelope => PayloadMode::Envelope,
        };
        let sender_copy = match custom.sender_copy {
            true => SenderCopy::Publish,
            false => SenderCopy::Skip,
        };
        let spec = LayoutSpec {
            name: &custom.name,
            outgoing: &custom.outgoing,
            inbox: &custom.inbox,
            payload,
            sender_copy,
            app: custom.app.as_deref(),
        };
        match Layout::new(spec) {
            Ok(layout) => layouts.push(layout),
            Err(error) => reader.fail_at(place, error),
        }
    }
    layouts
}

/// Reports apps and templates that the broker cannot carry.
fn check_broker_kind(reader: &mut Reader<'_>, broker_kind: BrokerKind, layouts: &[Layout]) {
    for app in reader.texts("app") {
        if let Err(error) = broker_kind.carries(&app) {
            reader.fail("app", error);
        }
    }
    for app in layouts.iter().filter_map(Layout::fixed_app) {
        if let Err(error) = broker_kind.carries(app) {
            reader.fail("layouts", format!("app {error}"));
        }
    }
    for layout in layouts {
        for text in [layout.outgoing().as_str(), layout.inbox().as_str()] {
            if let Err(error) = broker_kind.carries(text) {
                reader.fail("broker-kind", format!("template {text:?}: {error}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::load;

    #[test]
    fn custom_layouts_come_on_top_and_are_proven_with_the_rest() {
        let file = r#"layouts = "none"
[[custom-layout]]
name = "mine"
outgoing = "out/{app}/{sender}/{recipient}"
inbox = "in/{app}/{recipient}/{sender}/new"
payload = "verbatim"
"#;
        let config = load(&[], &[], Some(file)).unwrap();
        assert_eq!(
            config
                .rules
                .router
                .layouts
                .parse("out/a/x/y")
                .unwrap()
                .outgoing()
                .unwrap()
                .layout
                .name(),
            "mine"
        );
        let looping = file.replace("in/{app}", "out/{app}").replace("/new", "");
        assert_eq!(
            load(&[], &[], Some(&looping)).unwrap_err()[0],
            "custom-layout \"mine\": template \"out/{app}/{recipient}/{sender}\": its last \
             level must be plain text, because refusals are sent with \"clientrejected\" in \
             its place"
        );
        for name in ["chat21", "none"] {
            let error = &load(&[], &[], Some(&file.replace("mine", name))).unwrap_err()[0];
            let place = format!("custom-layout {name:?}: a built-in layout has that name");
            assert!(error.starts_with(&place), "{error}");
        }
        let (_, second) = file.split_once('\n').unwrap();
        let twice = format!(
            "{file}{}",
            second.replace("out/", "other/").replace("in/", "to/")
        );
        assert_eq!(
            load(&[], &[], Some(&twice)).unwrap_err(),
            ["custom-layout \"mine\": another custom layout has that name"]
        );
        let dotted = file.replace("out/{app}", "o.ut/{app}");
        assert_eq!(
            load(&[("broker-kind", "rabbitmq")], &[], Some(&dotted)).unwrap_err(),
            [
                "--broker-kind: template \"o.ut/{app}/{sender}/{recipient}\": \"o.ut\" holds \
                 '.', which RabbitMQ turns into '/'"
            ]
        );
        assert_eq!(
            load(&[("broker-kind", "rabbitmq"), ("app", "my.app")], &[], None).unwrap_err(),
            ["--app: \"my.app\" holds '.', which RabbitMQ turns into '/'"]
        );
        assert_eq!(
            load(
                &[("dead-letter-topic", "apps/x/users/a/messages/b/outgoing")],
                &[],
                None
            )
            .unwrap_err(),
            [
                "--layouts: loop: what is published to \"apps/x/users/a/messages/b/outgoing\" \
                 would be received again through \
                 \"apps/{app}/users/{sender}/messages/{recipient}/outgoing\""
            ]
        );
        let unknown = format!("{file}sendercopy = true\n");
        assert!(
            load(&[], &[], Some(&unknown)).unwrap_err()[1].contains("unknown field `sendercopy`")
        );
    }
}
