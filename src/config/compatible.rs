//! Environment variables of chat21-server that are not settings of the observer.
//!
//! Owns `RABBITMQ_URI`, and a warning for each variable that has no effect. Variables of other
//! programs that mean the same as a setting are in `settings.rs`.

use super::reader::Reader;
use crate::auth::credentials::TOKEN_USERNAME;

/// Variables without effect, and why.
const IGNORED: &[(&str, &str)] = &[
    (
        "MONGODB_URI",
        "messages are kept in SQLite (--store); no MongoDB is needed",
    ),
    (
        "PREFETCH_MESSAGES",
        "the broker's own window counts (RabbitMQ: mqtt.prefetch), and --window",
    ),
    ("ACTIVE_QUEUES", "one process does everything"),
    ("DURABLE_ENABLED", "the session at the broker is durable"),
    ("CACHE_ENABLED", "no cache is needed"),
    ("CACHE_REDIS_HOST", "no Redis is needed"),
    ("CACHE_REDIS_PORT", "no Redis is needed"),
    ("CACHE_REDIS_PASSWORD", "no Redis is needed"),
    ("CHAT21OBSERVER_CACHE_ENABLED", "no cache is needed"),
    ("CHAT21OBSERVER_REDIS_HOST", "no Redis is needed"),
    ("CHAT21OBSERVER_REDIS_PORT", "no Redis is needed"),
    ("CHAT21OBSERVER_REDIS_PASSWORD", "no Redis is needed"),
];

/// The variable with the broker's AMQP address:
/// `amqp[s]://USER:PASSWORD@HOST[:PORT][/VHOST]`.
const RABBITMQ_URI: &str = "RABBITMQ_URI";

/// Settings that say how to log in. If one is given, `RABBITMQ_URI` does not.
const LOGIN: [&str; 6] = [
    "username",
    "password",
    "password-file",
    "token",
    "token-file",
    "jwt-key-file",
];

/// Takes the variables that have an effect, and warns of the others.
pub(super) fn read(reader: &mut Reader<'_>) {
    for (name, why) in IGNORED {
        // The value is not repeated: it may hold a password.
        if reader.variable(name).is_some() {
            reader.warn(format!("{name} is ignored: {why}"));
        }
    }
    read_rabbitmq_uri(reader);
}

/// Without `--broker`, takes the broker's host and the login from `RABBITMQ_URI`.
fn read_rabbitmq_uri(reader: &mut Reader<'_>) {
    let Some(text) = reader.variable(RABBITMQ_URI) else {
        return;
    };
    if reader.is_given("broker") {
        reader.warn(format!("{RABBITMQ_URI} is ignored: --broker is given"));
        return;
    }
    let Some(uri) = AmqpUri::parse(&text) else {
        // The text is not repeated: it holds a password.
        reader.fail_at(
            RABBITMQ_URI.to_owned(),
            "is not an address such as amqp://USER:PASSWORD@HOST:5672",
        );
        return;
    };
    if !LOGIN.iter().any(|name| reader.is_given(name)) {
        uri.take_login(reader);
    } else if !uri.vhost.is_empty() {
        let vhost = &uri.vhost;
        reader.warn(format!(
            "{RABBITMQ_URI} names the virtual host {vhost:?}: say --username {vhost}:NAME, as \
             RabbitMQ's MQTT plugin has it"
        ));
    }
    let (scheme, port) = match uri.tls {
        Tls::Off => ("mqtt", ""),
        Tls::On => ("mqtts", ":8883"),
    };
    let broker = format!("{scheme}://{}", uri.host);
    reader.warn(format!(
        "{RABBITMQ_URI} is taken for {broker}: the observer speaks MQTT, not AMQP; say --broker if \
         that is another address"
    ));
    // The MQTT plugin does not listen on the AMQP port: the usual MQTT port is taken.
    reader.set_variable("broker", format!("{broker}{port}"), RABBITMQ_URI);
}

enum Tls {
    On,
    Off,
}

/// The parts of an AMQP address that matter for MQTT.
struct AmqpUri {
    tls: Tls,
    host: String,
    user: String,
    password: String,
    /// Empty for the default virtual host.
    vhost: String,
}

impl AmqpUri {
    fn parse(text: &str) -> Option<Self> {
        let url = url::Url::parse(text).ok()?;
        let tls = match url.scheme() {
            "amqp" => Tls::Off,
            "amqps" => Tls::On,
            _ => return None,
        };
        let host = url.host_str().filter(|host| !host.is_empty())?.to_owned();
        let vhost = decoded(url.path().trim_start_matches('/'));
        Some(Self {
            tls,
            host,
            user: decoded(url.username()),
            password: url.password().map(decoded).unwrap_or_default(),
            vhost: if vhost == "/" { String::new() } else { vhost },
        })
    }

    fn take_login(&self, reader: &mut Reader<'_>) {
        let is_token = self.password.split('.').count() == 3 && self.password.starts_with("ey");
        let secret = if is_token { "token" } else { "password" };
        let user = match &*self.user {
            "" if is_token => TOKEN_USERNAME,
            user => user,
        };
        let user = match &*self.vhost {
            "" => user.to_owned(),
            vhost => format!("{vhost}:{user}"),
        };
        for (name, value) in [("username", user), (secret, self.password.clone())] {
            if !value.is_empty() {
                reader.set_variable(name, value, RABBITMQ_URI);
            }
        }
    }
}

/// A part of a URL, decoded; empty if it is not UTF-8.
fn decoded(text: &str) -> String {
    let text = percent_encoding::percent_decode_str(text).decode_utf8();
    text.map(|text| text.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::config::testing::load;
    use crate::protocol::control_topic::Controls;
    use crate::protocol::time::UnixMillis;
    use crate::rules::webhook_event::EventKind;

    #[test]
    fn the_variables_of_chat21_server_work_or_are_named() {
        let config = load(
            &[],
            &[
                (
                    "RABBITMQ_URI",
                    "amqp://ignored:p%40ss@rabbit:5672?heartbeat=60",
                ),
                ("MONGODB_URI", "mongodb://user:geheim@mongo/chatdb"),
                ("PREFETCH_MESSAGES", "50"),
                ("APP_ID", "tilechat"),
                ("LOG_LEVEL", "VERBOSE"),
                ("METRICS_PORT", "9191"),
                ("PRESENCE_ENABLED", "false"),
                (
                    "WEBHOOK_ENDPOINTS",
                    "http://u:pw@one/hook?token=x, https://two:8443/",
                ),
                ("WEBHOOK_EVENTS", "message-sent,conversation-unarchived"),
                ("BUCKET_MSG_CAPACITY", "7"),
                ("BUCKET_MSG_REFILL_RATE_PER_MIN", "70"),
            ],
            None,
        )
        .unwrap();
        assert_eq!(config.broker.address, "mqtt://rabbit:1883");
        assert_eq!(config.broker.credentials.username(), Some("ignored"));
        let (_, secret) = config
            .broker
            .credentials
            .read(UnixMillis::new(0))
            .unwrap()
            .unwrap();
        assert_eq!(secret.expose_secret(), "p@ss");
        assert_eq!(config.http.listen, Some(([127, 0, 0, 1], 9191).into()));
        assert_eq!(config.rules.controls, Controls::WithoutPresence);
        assert_eq!(config.rules.router.layouts.apps(), ["tilechat"]);
        let webhooks = config.webhooks.as_ref().unwrap();
        assert_eq!(webhooks.names(), ["http://one/hook", "https://two:8443/"]);
        assert!(webhooks.events.contains(EventKind::MessageSent));
        assert!(!webhooks.events.contains(EventKind::MessageDelivered));
        let warnings = config.warnings.join("\n");
        for said in [
            "RABBITMQ_URI is taken for mqtt://rabbit",
            "MONGODB_URI is ignored",
            "PREFETCH_MESSAGES is ignored",
            "nothing raises \"conversation-unarchived\"",
        ] {
            assert_eq!(warnings.matches(said).count(), 1, "{warnings}");
        }
        for secret in ["geheim", "p%40ss", "p@ss", "token=x", "u:pw"] {
            assert!(!warnings.contains(secret), "{warnings}");
            assert!(!format!("{config:?}").contains(secret), "{secret}");
        }
        let off = load(
            &[],
            &[
                ("WEBHOOK_ENABLED", "false"),
                ("WEBHOOK_ENDPOINT", "http://one/"),
            ],
            None,
        );
        assert!(off.unwrap().webhooks.is_none());
    }

    #[test]
    fn an_amqp_address_may_hold_a_token_and_a_virtual_host() {
        let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvYnNlcnZlciJ9.c2ln";
        let uri = format!("amqps://:{token}@rabbit/chat");
        let config = load(&[], &[("RABBITMQ_URI", &uri)], None).unwrap();
        assert_eq!(config.broker.address, "mqtts://rabbit:8883");
        assert_eq!(config.broker.credentials.username(), Some("chat:JWT"));
        assert!(config.broker.credentials.claims().is_some());
        // What is said for this program goes over it.
        let given = [("broker", "mqtt://other")];
        let config = load(&given, &[("RABBITMQ_URI", &uri)], None).unwrap();
        assert_eq!(config.broker.address, "mqtt://other:1883");
        assert!(config.warnings[0].starts_with("RABBITMQ_URI is ignored"));
        let error = load(&[], &[("RABBITMQ_URI", "rabbit:geheim")], None).unwrap_err();
        let error = error.join("\n");
        assert!(
            error.starts_with("RABBITMQ_URI: is not an address") && !error.contains("geheim"),
            "{error}"
        );
    }
}
