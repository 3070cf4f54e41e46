//! What RabbitMQ does to MQTT topics: it carries them as AMQP routing keys.
//!
//! Owns the translation and the rule which topics survive it. Which broker it is, the settings say.

/// The longest AMQP routing key, in bytes. RabbitMQ carries a longer MQTT topic from MQTT to MQTT,
/// but AMQP cannot name it.
pub const MAX_ROUTING_KEY_BYTES: usize = 255;

/// The AMQP routing key (or binding key) that RabbitMQ makes of an MQTT topic name (or filter).
///
/// Seen on RabbitMQ 3.10.8 and 4.0.5: `/` becomes `.` and back, `+` becomes `*` and back. A `.`
/// stays, so on the way back it becomes a level break.
pub fn amqp_key(topic: &str) -> String {
    let key = topic.chars().map(|c| match c {
        '/' => '.',
        '+' => '*',
        c => c,
    });
    key.collect()
}

/// What a broker does to topics on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// Topics arrive as they were sent.
    Any,
    /// A `.` becomes a level break, or nobody knows whether it does. Nothing else is changed.
    RefusesDots,
    /// RabbitMQ: topics travel as AMQP routing keys.
    RabbitMq,
}

/// Why a broker cannot carry a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarryError {
    /// The level holds a character that RabbitMQ changes: `.` into a level break, `*` into `+`.
    #[error("{0:?} holds {1:?}, which RabbitMQ turns into {to:?}", to = rewritten(*.1))]
    Rewritten(String, char),
    /// The topic is longer than [`MAX_ROUTING_KEY_BYTES`].
    #[error(
        "a topic of {0} bytes is longer than an AMQP routing key can be ({MAX_ROUTING_KEY_BYTES})"
    )]
    TooLong(usize),
}

/// What RabbitMQ turns a character of a topic into, once there and back.
fn rewritten(character: char) -> char {
    if character == '.' { '/' } else { '+' }
}

impl BrokerKind {
    /// Checks that `topic` arrives as it was sent, and that AMQP clients can name it too.
    ///
    /// # Errors
    /// [`CarryError`] says what the broker would change.
    pub fn carries(self, topic: &str) -> Result<(), CarryError> {
        // Bytes: this runs for each publish, and what is looked for is ASCII.
        let rewritten = match self {
            Self::Any => None,
            Self::RefusesDots => topic.bytes().position(|byte| byte == b'.'),
            Self::RabbitMq if topic.len() > MAX_ROUTING_KEY_BYTES => {
                return Err(CarryError::TooLong(topic.len()));
            }
            Self::RabbitMq => topic.bytes().position(|byte| matches!(byte, b'.' | b'*')),
        };
        let Some(at) = rewritten else {
            return Ok(());
        };
        let start = topic[..at].rfind('/').map_or(0, |slash| slash + 1);
        let level = topic[start..].split('/').next().unwrap_or_default();
        let character = char::from(topic.as_bytes()[at]);
        Err(CarryError::Rewritten(level.to_owned(), character))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let unproven = |topic: &str| BrokerKind::RefusesDots.carries(topic).is_ok();
        assert!(unproven("apps/a*b/x") && unproven(&"x".repeat(256)));
        assert!(!unproven("apps/john.doe/x"));
        assert_eq!(
            on("john.doe").unwrap_err().to_string(),
            r#""john.doe" holds '.', which RabbitMQ turns into '/'"#
        );
        assert_eq!(
            on("a*.b/x"),
            Err(CarryError::Rewritten("a*.b".into(), '*')),
            "the first character counts"
        );
        assert_eq!(amqp_key("/apps/+/users"), ".apps.*.users");
    }
}
