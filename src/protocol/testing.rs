//! Helpers for the tests of this folder: topic maps and layouts in one line.

use crate::protocol::address::Outgoing;
use crate::protocol::control_topic::Controls;
use crate::protocol::layout::{Layout, LayoutError, LayoutSpec, PayloadMode, SenderCopy};
use crate::protocol::topic::TopicFilter;
use crate::protocol::topic_map::{TopicMap, TopicMapError};

/// A map of the built-in layouts of these names, with all control topics.
pub(super) fn built_in(names: &[&str]) -> TopicMap {
    let layouts = names
        .iter()
        .flat_map(|name| Layout::built_in(name).unwrap());
    TopicMap::new(layouts.collect(), vec![], &[], Controls::Served).unwrap()
}

/// A map of these layouts alone.
pub(super) fn without_controls(layouts: Vec<Layout>) -> Result<TopicMap, TopicMapError> {
    TopicMap::new(layouts, vec![], &[], Controls::Off)
}

/// A layout of these two templates.
pub(super) fn custom(outgoing: &str, inbox: &str) -> Result<Layout, LayoutError> {
    Layout::new(LayoutSpec {
        name: "mine",
        outgoing,
        inbox,
        payload: PayloadMode::Verbatim,
        sender_copy: SenderCopy::Skip,
        app: None,
    })
}

/// What an outgoing path says.
pub(super) fn outgoing<'a>(map: &'a TopicMap, topic: &'a str) -> Outgoing<'a> {
    let address = map
        .parse(topic)
        .unwrap_or_else(|error| panic!("{topic}: {error}"));
    *address
        .outgoing()
        .unwrap_or_else(|| panic!("{topic}: {address:?}"))
}

/// The filters of a map.
pub(super) fn filters(map: &TopicMap) -> Vec<TopicFilter> {
    let filters = map.filters().into_iter();
    filters.map(|asked| asked.filter).collect()
}
