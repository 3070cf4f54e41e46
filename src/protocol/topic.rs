//! Topic names and topic filters, kept apart as types, and what a given broker can carry.
//!
//! Matching is our own: rumqttc's `matches` panics on a topic whose first character has more than one byte.

use std::fmt;

/// The longest topic MQTT can encode, in bytes (MQTT 3.1.1, 1.5.3).
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// The longest AMQP routing key, in bytes. RabbitMQ carries a longer MQTT topic from MQTT to MQTT, but AMQP cannot name it.
pub const MAX_ROUTING_KEY_BYTES: usize = 255;

/// Why a text is not a topic name or filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// A topic has at least one character (MQTT 3.1.1, 4.7.3).
    #[error("a topic cannot be empty")]
    Empty,
    /// Longer than [`MAX_TOPIC_BYTES`].
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
    /// `+` or `#` beside other characters in one level, or `#` before the last.
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

/// What is published to: no wildcards, nothing a broker would close the connection for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicName(String);

impl TopicName {
    /// Checks a topic name that comes from outside, from the configuration say.
    ///
    /// # Errors
    /// [`TopicError`], for an empty or overlong topic, a wildcard or a control character.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text, |c| matches!(c, '+' | '#') || c.is_control())?;
        Ok(Self(text.to_owned()))
    }

    /// From levels that are identifiers or literals of a checked template.
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

/// What is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(String);

impl TopicFilter {
    /// Checks a topic filter (MQTT 3.1.1, 4.7.1).
    ///
    /// # Errors
    /// [`TopicError`], for an empty or overlong filter, a misplaced wildcard or a control character.
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

    /// Whether a publish to `topic` reaches a subscriber of this filter (MQTT 3.1.1, 4.7.1 and 4.7.2).
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

/// What is asked of the broker: a filter, always at QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Which topics.
    pub filter: TopicFilter,
    /// Whether what the broker has stored there is wanted too. MQTT 3.1.1 does not ask, and delivers it.
    pub retained: bool,
}

/// The AMQP routing key (or binding key) that RabbitMQ makes of an MQTT topic (or filter).
///
/// Seen on RabbitMQ 3.10.8 and 4.0.5: `/` becomes `.` and back, `+` becomes `*` and back, and a `.` stays, so that it comes
/// out as a level break.
pub fn amqp_key(topic: &str) -> String {
    topic
        .chars()
        .map(|c| {
            if c == '/' {
                '.'
            } else if c == '+' {
                '*'
            } else {
                c
            }
        })
        .collect()
}

/// What the broker does to topics on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// Topics arrive as they were sent.
    Any,
    /// RabbitMQ: topics travel as AMQP routing keys.
    RabbitMq,
}

/// Why a broker cannot carry a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarryError {
    /// RabbitMQ turns `.` into a level break, and `*` into `+`.
    #[error("{0:?} holds {1:?}, which RabbitMQ turns into {to:?}", to = if *.1 == '.' { '/' } else { '+' })]
    Rewritten(String, char),
    /// Longer than [`MAX_ROUTING_KEY_BYTES`].
    #[error(
        "a topic of {0} bytes is longer than an AMQP routing key can be ({MAX_ROUTING_KEY_BYTES})"
    )]
    TooLong(usize),
}

impl BrokerKind {
    /// Whether `topic` arrives as it was sent, and can be named by everyone.
    ///
    /// # Errors
    /// [`CarryError`] says what becomes of it instead.
    pub fn carries(self, topic: &str) -> Result<(), CarryError> {
        if self == Self::Any {
            return Ok(());
        }
        if topic.len() > MAX_ROUTING_KEY_BYTES {
            return Err(CarryError::TooLong(topic.len()));
        }
        match topic
            .split('/')
            .find_map(|level| level.find(['.', '*']).map(|at| (level, &level[at..])))
        {
            Some((level, rest)) => Err(CarryError::Rewritten(
                level.to_owned(),
                if rest.starts_with('.') { '.' } else { '*' },
            )),
            None => Ok(()),
        }
    }
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

    #[test]
    fn rabbitmq_cannot_carry_dots_stars_and_long_topics() {
        let on = |topic: &str| BrokerKind::RabbitMq.carries(topic);
        assert_eq!(on("apps/a/x"), Ok(()));
        assert_eq!(
            on("apps/john.doe/x"),
            Err(CarryError::Rewritten("john.doe".into(), '.'))
        );
        assert_eq!(
            on("apps/a*b/x"),
            Err(CarryError::Rewritten("a*b".into(), '*'))
        );
        assert_eq!(on(&"x".repeat(256)), Err(CarryError::TooLong(256)));
        assert_eq!(BrokerKind::Any.carries("apps/john.doe/x"), Ok(()));
        assert_eq!(
            on("john.doe").unwrap_err().to_string(),
            r#""john.doe" holds '.', which RabbitMQ turns into '/'"#
        );
        assert_eq!(amqp_key("/apps/+/users"), ".apps.*.users");
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

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(
            filter in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "+", "ç"]), 1..6),
            tail in any::<bool>(),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "ç"]), 1..6),
        ) {
            let mut filter = filter;
            if tail { filter.push("#"); }
            let (f, t) = (filter.join("/"), topic.join("/"));
            prop_assume!(!f.is_empty() && !t.is_empty());
            prop_assert_eq!(TopicFilter::parse(&f).unwrap().matches(&t), obviously_matches(&filter, &topic), "{} {}", f, t);
        }
    }
}
