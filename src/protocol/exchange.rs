//! The exchange by which RabbitMQ shares messages out among the slots of an observer.
//!
//! Owns its name, the topics of messages that prove it, and the definitions that its operator
//! imports: the exchange hashes the topic of each message that slots would subscribe to, and gives
//! it to one of their sessions.

use std::fmt::Write;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::amqp::amqp_key;
use super::topic::TopicFilter;

/// The queue of a session that keeps what was published at `QoS` 1, on RabbitMQ 3.10 and 4.0.
pub fn session_queue(client_id: &str) -> String {
    format!("mqtt-subscription-{client_id}qos1")
}

/// The exchange of the observer called `name`, for so many slots with this secret. Slots of another
/// number, or of another store, have another: none is bound to queues that others have left.
pub fn exchange_name(name: &str, secret: &str, slots: u16) -> String {
    let of = format!("{secret}\n{slots}");
    format!("chat21-{name}-{}", short_digest(&of))
}

/// The beginning of the topics of messages that go through the exchange of the observer called
/// `name` to find out who gets them. Definitions for other filters, or another number of slots, do
/// not lead them to anybody.
pub fn share_prefix(name: &str, filters: &[TopicFilter], slots: u16) -> String {
    let mut filters: Vec<&str> = filters.iter().map(TopicFilter::as_str).collect();
    filters.sort_unstable();
    let of = format!("{slots}\n{}", filters.join("\n"));
    format!("observer/{name}/share/{}/", short_digest(&of))
}

/// A regular expression for this text alone.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, letter| {
        if letter.is_ascii_punctuation() && !matches!(letter, '-' | '_') {
            escaped.push('\\');
        }
        escaped.push(letter);
        escaped
    })
}

/// Eight digits that tell texts apart, and not what they say.
fn short_digest(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref()[..4]
        .iter()
        .fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        })
}

/// What sessions are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// A queue of one node. It goes with that, for as long as it is away.
    Classic {
        /// Milliseconds that RabbitMQ keeps it while nobody is connected. It must be what the
        /// broker is set to; `None`: for ever.
        expires: Option<u64>,
    },
    /// A queue that several nodes hold, so that it outlives one. RabbitMQ 4 or later.
    Quorum,
}

/// What the definitions are made for.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The observer's name.
    pub name: &'a str,
    /// What the names of the sessions are made of.
    pub secret: &'a str,
    /// RabbitMQ's virtual host for MQTT.
    pub vhost: &'a str,
    /// The client identifiers of the sessions, one for each slot.
    pub client_ids: &'a [String],
    /// What the sessions are kept in.
    pub queues: QueueKind,
    /// What the exchange shares out; `None` if there is none, and each slot subscribes for itself.
    pub filters: Option<&'a [TopicFilter]>,
}

impl Plan<'_> {
    /// What `rabbitmqctl import_definitions` reads. Importing it again changes nothing.
    pub fn definitions(&self) -> Value {
        let queues: Vec<Value> = self.client_ids.iter().map(|id| self.queue(id)).collect();
        let mut definitions = json!({ "queues": queues });
        let mut put = |key: &str, value: Value| {
            definitions[key] = value;
        };
        if let Some(filters) = self.filters {
            let name = self.exchange_name();
            put("exchanges", json!([self.exchange(&name)]));
            put("bindings", Value::Array(self.bindings(&name, filters)));
        }
        if self.queues == QueueKind::Quorum {
            put("policies", json!([self.policy()]));
        }
        definitions
    }

    /// The name of the exchange, if there is one.
    pub fn exchange_name(&self) -> String {
        exchange_name(self.name, self.secret, self.slots())
    }

    fn slots(&self) -> u16 {
        u16::try_from(self.client_ids.len()).unwrap_or(u16::MAX)
    }

    fn exchange(&self, name: &str) -> Value {
        json!({
            "name": name, "vhost": self.vhost, "type": "x-consistent-hash", "durable": true,
            "auto_delete": false, "internal": false, "arguments": {},
        })
    }

    fn queue(&self, client_id: &str) -> Value {
        let arguments = match self.queues {
            QueueKind::Classic { expires: None } => json!({}),
            QueueKind::Classic {
                expires: Some(millis),
            } => json!({ "x-expires": millis }),
            QueueKind::Quorum => json!({ "x-queue-type": "quorum" }),
        };
        json!({
            "name": session_queue(client_id), "vhost": self.vhost, "durable": true,
            "auto_delete": false, "arguments": arguments,
        })
    }

    /// Each message that any of the filters matches goes to the exchange once, and from there to
    /// one queue: all weigh the same.
    fn bindings(&self, exchange: &str, filters: &[TopicFilter]) -> Vec<Value> {
        let bind = |source: &str, destination: &str, kind: &str, key: &str| {
            json!({
                "source": source, "vhost": self.vhost, "destination": destination,
                "destination_type": kind, "routing_key": key, "arguments": {},
            })
        };
        let share = format!("{}+", share_prefix(self.name, filters, self.slots()));
        let shared = filters.iter().map(TopicFilter::as_str).chain([&*share]);
        let queues = self.client_ids.iter().map(|id| session_queue(id));
        let queues = queues.map(|queue| bind(exchange, &queue, "queue", "1"));
        shared
            .map(|filter| bind("amq.topic", exchange, "exchange", &amqp_key(filter)))
            .chain(queues)
            .collect()
    }

    /// RabbitMQ 4 drops from a quorum queue what it has handed out too often, and counts lost
    /// connections.
    fn policy(&self) -> Value {
        let queues = self.client_ids.iter().map(|id| session_queue(id));
        let queues: Vec<String> = queues.map(|queue| escaped(&queue)).collect();
        json!({
            "name": self.exchange_name(), "vhost": self.vhost, "apply-to": "quorum_queues",
            "pattern": format!("^({})$", queues.join("|")),
            "definition": { "delivery-limit": -1 }, "priority": 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_leads_to_the_exchange_and_that_to_each_session() {
        let filter = "apps/+/outgoing/users/+/messages/+/outgoing";
        let filters = [TopicFilter::parse(filter).unwrap()];
        let client_ids = ["o-x-slot-0".to_owned(), "o-x-slot-1".to_owned()];
        let plan = Plan {
            name: "o",
            secret: "x",
            vhost: "/",
            client_ids: &client_ids,
            queues: QueueKind::Quorum,
            filters: Some(&filters),
        };
        let definitions = plan.definitions();
        // Another number of slots has another exchange.
        assert_eq!(
            definitions["exchanges"][0]["name"],
            exchange_name("o", "x", 2)
        );
        assert_ne!(exchange_name("o", "x", 2), exchange_name("o", "x", 4));
        assert_ne!(exchange_name("o", "x", 2), exchange_name("o", "y", 2));
        let bindings = definitions["bindings"].as_array().unwrap();
        let key = |n: usize| bindings[n]["routing_key"].as_str().unwrap();
        assert_eq!(key(0), "apps.*.outgoing.users.*.messages.*.outgoing");
        let share = share_prefix("o", &filters, 2).replace('/', ".");
        assert_eq!(key(1), format!("{share}*"));
        assert_ne!(share_prefix("o", &filters, 2), share_prefix("o", &[], 2));
        assert_ne!(
            share_prefix("o", &filters, 2),
            share_prefix("o", &filters, 3)
        );
        assert_eq!((key(2), bindings.len()), ("1", 4));
        assert_eq!(
            bindings[3]["destination"],
            "mqtt-subscription-o-x-slot-1qos1"
        );
        let policy = &definitions["policies"][0];
        assert_eq!(policy["definition"]["delivery-limit"], -1);
        assert_eq!(
            policy["pattern"],
            "^(mqtt-subscription-o-x-slot-0qos1|mqtt-subscription-o-x-slot-1qos1)$"
        );
        assert_eq!(escaped("o-1.x+(y)|_"), r"o-1\.x\+\(y\)\|_");
        let one = Plan {
            queues: QueueKind::Classic {
                expires: Some(86_400_000),
            },
            filters: None,
            ..plan
        };
        let definitions = one.definitions();
        assert_eq!(
            definitions["queues"][0]["arguments"]["x-expires"],
            86_400_000
        );
        assert!(definitions.get("exchanges").is_none() && definitions.get("policies").is_none());
    }
}
