//! Topic names and topic filters, kept apart as types.
//!
//! Owns their syntax and the matching of one against the other. The matching is our own because
//! rumqttc's `matches` panics on a topic whose first character has more than one byte.

use std::fmt;

/// The longest topic MQTT can encode, in bytes (MQTT 3.1.1, 1.5.3).
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// Why a text is not a topic name or filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// A topic has at least one character (MQTT 3.1.1, 4.7.3).
    #[error("a topic cannot be empty")]
    Empty,
    /// The text is longer than [`MAX_TOPIC_BYTES`].
    #[error("topic of {0} bytes is longer than {MAX_TOPIC_BYTES}")]
    TooLong(usize),
    /// A wildcard in a topic name, or a control character in either.
    #[error("topic {topic:?} holds {character:?}")]
    Forbidden {
        /// The text as given.
        topic: String,
        /// The first character that may not be there.
        character: char,
    },
    /// A wildcard beside other characters in one level, or `#` before the last level.
    #[error(
        "filter {0:?} has a wildcard that is not a whole level, or \"#\" before its last level"
    )]
    Wildcard(String),
}

fn check(text: &str, forbidden: impl Fn(char) -> bool) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(TopicError::TooLong(text.len()));
    }
    match text.chars().find(|&c| forbidden(c)) {
        Some(character) => Err(TopicError::Forbidden {
            topic: text.to_owned(),
            character,
        }),
        None => Ok(()),
    }
}

/// A topic to publish to. It holds no wildcards, and nothing for which a broker would close the
/// connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicName(String);

impl TopicName {
    /// Checks a topic name that comes from outside, such as from the configuration.
    ///
    /// # Errors
    /// [`TopicError`] for an empty or overlong topic, a wildcard or a control character.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text, |c| matches!(c, '+' | '#') || c.is_control())?;
        Ok(Self(text.to_owned()))
    }

    /// A topic name whose levels are checked identifiers and literals of a checked template.
    pub(crate) fn from_checked(text: String) -> Self {
        debug_assert!(Self::parse(&text).is_ok(), "{text:?} is not a topic name");
        Self(text)
    }

    /// The topic as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pattern of topics to subscribe to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(String);

impl TopicFilter {
    /// Checks a topic filter (MQTT 3.1.1, 4.7.1).
    ///
    /// # Errors
    /// [`TopicError`] for an empty or overlong filter, a misplaced wildcard or a control character.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text, char::is_control)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let whole = level == "+" || (level == "#" && levels.peek().is_none());
            if !whole && level.contains(['+', '#']) {
                return Err(TopicError::Wildcard(text.to_owned()));
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a publish to `topic` reaches a subscriber of this filter (MQTT 3.1.1, 4.7.1 and
    /// 4.7.2).
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split('/');
        for want in self.0.split('/') {
            match (want, levels.next()) {
                ("#", _) => return true,
                (_, None) => return false,
                ("+", Some(_)) => {}
                (want, Some(level)) if want == level => {}
                (_, Some(_)) => return false,
            }
        }
        levels.next().is_none()
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A subscription to ask of the broker, always at QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topics to subscribe to.
    pub filter: TopicFilter,
    /// Whether retained messages are wanted too. MQTT 3.1.1 has no such choice and delivers them.
    pub retained: bool,
    /// Whether the broker may refuse it: what it catches is refused anyway.
    pub is_optional: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_filters_are_told_apart() {
        for (text, name, filter) in [
            ("apps/a/x", true, true),
            ("/apps/a", true, true),
            ("a//b/", true, true),
            ("apps/+/x", false, true),
            ("apps/#", false, true),
            ("#", false, true),
            ("a/b#", false, false),
            ("a/#/b", false, false),
            ("a+/b", false, false),
            ("a\0b", false, false),
            ("", false, false),
            ("çelik/x", true, true),
        ] {
            assert_eq!(TopicName::parse(text).is_ok(), name, "name {text:?}");
            assert_eq!(TopicFilter::parse(text).is_ok(), filter, "filter {text:?}");
        }
        assert_eq!(
            TopicName::parse(&"x".repeat(65_536)),
            Err(TopicError::TooLong(65_536))
        );
    }

    /// Slow and obvious: the definition of MQTT 3.1.1, 4.7, as a recursion on lists of levels.
    fn obviously_matches(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            ([], []) => true,
            ([f, filter @ ..], [t, topic @ ..]) => {
                (*f == "+" || f == t) && obviously_matches(filter, topic)
            }
            _ => false,
        }
    }

    fn levels(words: Vec<&'static str>) -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(words), 1..6)
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(
            filter in levels(vec!["a", "b", "", "+", "ç"]),
            tail in any::<bool>(),
            topic in levels(vec!["a", "b", "", "ç"]),
        ) {
            let mut filter = filter;
            if tail { filter.push("#"); }
            let (f, t) = (filter.join("/"), topic.join("/"));
            prop_assume!(!f.is_empty() && !t.is_empty());
            let matches = TopicFilter::parse(&f).unwrap().matches(&t);
            prop_assert_eq!(matches, obviously_matches(&filter, &topic), "{} {}", f, t);
        }
    }
}
