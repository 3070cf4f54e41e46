//! Variables of chat21-server that are no settings of ours: where its broker is, and what means nothing here.

use super::Reader;

/// Its other variables, and what takes their place.
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

/// A word for each variable that is set and means nothing here. Values are not repeated: they may hold passwords.
pub(super) fn ignored(env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let is_set = |name: &str| env(name).is_some_and(|text| !text.is_empty());
    IGNORED
        .iter()
        .filter(|(name, _)| is_set(name))
        .map(|(name, instead)| format!("{name} is ignored: {instead}"))
        .collect()
}

/// Without a broker in the settings, `RABBITMQ_URI` says where it is and what to log in with: `amqp[s]://USER:PASSWORD@HOST[:PORT][/VHOST]`.
/// Its MQTT plugin listens on a port of its own, which is taken for the usual one.
pub(super) fn read_rabbitmq_uri(reader: &mut Reader<'_>, warnings: &mut Vec<String>) {
    const NAME: &str = "RABBITMQ_URI";
    let Some(text) = (reader.env)(NAME).filter(|text| !text.is_empty()) else {
        return;
    };
    if reader.is_given("broker") {
        warnings.push(format!("{NAME} is ignored: --broker is given"));
        return;
    }
    let place = NAME.to_owned();
    let parsed = url::Url::parse(&text).ok().and_then(|url| {
        let scheme = match url.scheme() {
            "amqp" => "mqtt",
            "amqps" => "mqtts",
            _ => return None,
        };
        let host = url.host_str().filter(|host| !host.is_empty())?.to_owned();
        Some((scheme, host, url))
    });
    let Some((scheme, host, url)) = parsed else {
        // Not the text, which holds a password.
        reader.errors.push(super::ConfigError {
            place,
            fault: "is not an address such as amqp://USER:PASSWORD@HOST:5672".to_owned(),
        });
        return;
    };
    let mut broker = format!("{scheme}://{host}");
    let login = [
        "username",
        "password",
        "password-file",
        "token",
        "token-file",
        "jwt-key-file",
    ];
    let decoded = |text: &str| {
        let text = percent_encoding::percent_decode_str(text).decode_utf8();
        text.map(|text| text.into_owned()).unwrap_or_default()
    };
    let vhost = decoded(url.path().trim_start_matches('/'));
    if !login.iter().any(|name| reader.is_given(name)) {
        let password = url.password().map(decoded).unwrap_or_default();
        let is_token = password.split('.').count() == 3 && password.starts_with("ey");
        let user = match decoded(url.username()) {
            // Any name will do with a token.
            user if user.is_empty() && is_token => "JWT".to_owned(),
            user => user,
        };
        let user = match vhost.as_str() {
            "" | "/" => user,
            // As RabbitMQ's MQTT plugin has it.
            vhost => format!("{vhost}:{user}"),
        };
        for (name, value) in [
            ("username", user),
            (if is_token { "token" } else { "password" }, password),
        ] {
            if !value.is_empty() {
                reader.values.insert(name, (vec![value], place.clone()));
            }
        }
    } else if !matches!(vhost.as_str(), "" | "/") {
        warnings.push(format!(
            "{NAME} names the virtual host {vhost:?}: say --username {vhost}:NAME, as RabbitMQ's MQTT plugin has it"
        ));
    }
    warnings.push(format!(
        "{NAME} is taken for {broker}: the observer speaks MQTT, not AMQP; say --broker if that is another address"
    ));
    if scheme == "mqtts" {
        broker.push_str(":8883");
    }
    reader.values.insert("broker", (vec![broker], place));
}
