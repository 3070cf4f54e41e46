//! The table of settings: each is a flag, a variable and a key of the file, with one name, one
//! default and one explanation.
//!
//! Owns names, defaults and help texts: `--help`, the manual page and the guide print this table.
//! Which values are valid is the business of the other files of `config`.

/// What a setting takes on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// One value, shown by this name.
    Value(&'static str),
    /// A list: the flag may be repeated, values are separated by commas.
    List(&'static str),
    /// Nothing: present or not (`true` or `false` elsewhere).
    Switch,
}

/// One setting: its flag is `--name`, its variable `OBSERVER_NAME`, its key in the file `name`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name, in kebab case.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// What holds without it; empty for nothing.
    pub default: &'static str,
    /// What it is for.
    pub help: &'static str,
}

const fn value(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        takes: Takes::Value(value),
        default,
        help,
    }
}

const fn list(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        takes: Takes::List(value),
        default,
        help,
    }
}

const fn switch(name: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        takes: Takes::Switch,
        default: "false",
        help,
    }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    value(
        "broker",
        "URL",
        "mqtt://localhost:1883",
        "the broker: mqtt://, mqtts://, ws:// or wss://[USER@]HOST[:PORT][/PATH]",
    ),
    value(
        "protocol",
        "VERSION",
        "auto",
        "auto, 5 or 3.1.1; auto takes the newest the broker speaks",
    ),
    value(
        "username",
        "NAME",
        "",
        "user to log in as; \"JWT\" if only a token is given",
    ),
    value(
        "password",
        "TEXT",
        "",
        "the password of that user; others can see it in the process list: prefer the variable \
         or --password-file",
    ),
    value(
        "password-file",
        "FILE",
        "",
        "file that holds the password, read anew for each connection",
    ),
    value(
        "token",
        "JWT",
        "",
        "token to log in with, as the password; prefer the variable or --token-file",
    ),
    value(
        "token-file",
        "FILE",
        "",
        "file that holds the token, read anew for each connection",
    ),
    value(
        "jwt-key-file",
        "FILE",
        "",
        "key (secret text, PEM or JWK) that signs tokens; without a password or token the \
         observer makes its own tokens with it, each before the last one ends",
    ),
    value(
        "jwt-algorithm",
        "ALG",
        "",
        "HS256, HS384, HS512, RS256, PS256, ES256, EdDSA, …; what the key is for if not given",
    ),
    value(
        "jwt-key-id",
        "ID",
        "",
        "kid in the token's header; none if not given, so that RabbitMQ takes its default key",
    ),
    value(
        "jwt-audience",
        "NAME",
        "rabbitmq",
        "whom the token is for: RabbitMQ's resource_server_id",
    ),
    value(
        "jwt-ttl",
        "TIME",
        "1h",
        "how long a token that the observer makes for itself is valid",
    ),
    value(
        "ca-file",
        "FILE",
        "",
        "certificates (PEM) to trust instead of the system's",
    ),
    value(
        "client-cert",
        "FILE",
        "",
        "certificate chain (PEM) to show to the broker",
    ),
    value(
        "client-key",
        "FILE",
        "",
        "private key (PEM) of --client-cert",
    ),
    switch(
        "tls-insecure",
        "accept any certificate: whoever is on the way can read and change everything",
    ),
    value(
        "proxy",
        "URL",
        "",
        "HTTP proxy to connect through: http://[USER:PASSWORD@]HOST:PORT",
    ),
    value("name", "NAME", "observer", "public name of this observer"),
    value(
        "client-id",
        "ID",
        "",
        "MQTT client identifier; made up and kept secret if not given: who knows it can take the \
         session over",
    ),
    value(
        "state-dir",
        "DIR",
        "",
        "where the client identifier and the store are kept; default $STATE_DIRECTORY, \
         $XDG_STATE_HOME or ~/.local/state",
    ),
    list("app", "APP", "", "serve these apps only"),
    list(
        "layouts",
        "NAME",
        "inbox,chat21,chat21-v1",
        "built-in layouts to serve; those of the file come on top",
    ),
    value(
        "store",
        "PATH",
        "",
        "where messages, conversations and groups are kept; default NAME.db in the state \
         directory; none: forward only",
    ),
    value(
        "retain",
        "TIME",
        "",
        "delete stored messages older than this, such as 90d; kept for ever if not given",
    ),
    value(
        "retain-size",
        "SIZE",
        "",
        "delete the oldest stored messages while the store holds more than this, such as 10GiB",
    ),
    value(
        "max-backlog",
        "SIZE",
        "1GiB",
        "how much may be accepted and kept in the store while the broker takes no publishes; \
         beyond that the broker keeps what comes",
    ),
    value(
        "offline",
        "HOW",
        "broker",
        "broker: clients keep a session there; redeliver: what came while a user was away is \
         published again when they come back",
    ),
    value(
        "presence-enabled",
        "BOOL",
        "true",
        "false: the observer ignores who is online",
    ),
    value(
        "groups-membership",
        "WHO",
        "members",
        "who may write to a stored group: members, or open for everybody",
    ),
    list(
        "privileged-senders",
        "USER",
        "system",
        "may write to every group, and at any rate",
    ),
    value(
        "max-recipients",
        "N",
        "10000",
        "members a message may go to; one to more is refused as too-many-recipients",
    ),
    value(
        "max-inline-recipients",
        "N",
        "500",
        "the same for members that a message names itself, unless its sender is privileged",
    ),
    value(
        "max-groups",
        "N",
        "10000",
        "groups a user may have made over the HTTP API; one more is refused as too-many-groups",
    ),
    value(
        "max-instances",
        "N",
        "64",
        "devices and browsers a user may have registered over the HTTP API; the oldest go first",
    ),
    value(
        "rate-per-minute",
        "N",
        "600",
        "messages a sender may write in the long run (of receipts and the like ten times as \
         many; one to a group counts once more for each hundred members); more are refused as \
         rate-limited; none: no limit",
    ),
    value(
        "rate-burst",
        "N",
        "",
        "messages a sender may write at once; as many as in a minute if not given",
    ),
    list(
        "banned",
        "USER",
        "",
        "may write to nobody: refused as banned (block ban does it in a running observer)",
    ),
    value(
        "broker-kind",
        "KIND",
        "any",
        "any: find out at start what becomes of a \".\"; rabbitmq: refuse identifiers that \
        RabbitMQ cannot carry (\".\", over 255 bytes)",
    ),
    value(
        "max-payload",
        "SIZE",
        "1MiB",
        "largest payload forwarded; a larger one is refused as too-large",
    ),
    value(
        "max-depth",
        "N",
        "64",
        "how deep a JSON payload may be nested; a deeper one is refused as too-large",
    ),
    value(
        "max-values",
        "N",
        "100000",
        "values a JSON payload may hold; one with more is refused as too-large",
    ),
    value(
        "timestamp-past",
        "TIME",
        "7days",
        "how old a client's timestamp may be; an older one is replaced by the present time",
    ),
    value(
        "timestamp-future",
        "TIME",
        "5m",
        "how far a client's timestamp may lie in the future",
    ),
    value(
        "policy-file",
        "FILE",
        "",
        "rules in TOML, for all apps and for some; read again on SIGHUP and when it changes",
    ),
    value(
        "policy-url",
        "URL",
        "",
        "HTTP service that is asked about each message: may it pass, and with which text?",
    ),
    value(
        "policy-timeout",
        "TIME",
        "2s",
        "how long the service may take to answer",
    ),
    value(
        "policy-concurrency",
        "N",
        "32",
        "messages the service is asked about at a time",
    ),
    value(
        "policy-failure",
        "HOW",
        "closed",
        "what holds when it does not answer: closed refuses as unauthorized, open lets pass",
    ),
    list(
        "webhook-endpoints",
        "URL",
        "",
        "HTTP services that are told of what happens (a POST for each event); user, password and \
         query stay secret, the path does not",
    ),
    list(
        "webhook-events",
        "EVENT",
        "\
         message-sent,message-delivered,message-received,message-return-receipt,\
         conversation-archived,presence-change",
        "which events they are told of",
    ),
    value("webhook-enabled", "BOOL", "true", "false: no webhooks"),
    value(
        "webhook-secret-file",
        "FILE",
        "",
        "secret (whsec_… or any text) that deliveries are signed with, as Standard Webhooks has \
         it",
    ),
    value(
        "webhook-timeout",
        "TIME",
        "10s",
        "how long a service may take to answer; then it is told again",
    ),
    value(
        "webhook-concurrency",
        "N",
        "8",
        "deliveries in progress at a time, for each service",
    ),
    value(
        "webhook-max-age",
        "TIME",
        "1day",
        "an event that could not be delivered by then is given up",
    ),
    value(
        "webhook-queue",
        "SIZE",
        "64MiB",
        "events that may wait for one service; beyond that the oldest are dropped",
    ),
    value(
        "dead-letter-topic",
        "TOPIC",
        "",
        "publish every refused message there, with the reason",
    ),
    value(
        "window",
        "N",
        "500",
        "messages in progress at a time; brokers send no more than their own window (RabbitMQ: \
         mqtt.prefetch)",
    ),
    value("publishers", "N", "1", "connections to publish over"),
    value("keep-alive", "TIME", "30s", "ping interval, at least 5s"),
    value(
        "connect-timeout",
        "TIME",
        "10s",
        "limit for getting connected",
    ),
    value(
        "ack-timeout",
        "TIME",
        "30s",
        "a publish that is not confirmed by then is tried again over a connection of its own",
    ),
    value(
        "drain-timeout",
        "TIME",
        "10s",
        "on SIGTERM or SIGINT, how long to wait for messages in progress",
    ),
    value(
        "session-expiry",
        "TIME",
        "7days",
        "how long the broker is asked to keep messages while the observer is away (MQTT 5)",
    ),
    switch(
        "reset-session",
        "begin with an empty session: what the broker still holds for this observer is discarded",
    ),
    switch(
        "allow-other-observers",
        "start although another observer on this broker takes the same messages: each is delivered \
         twice",
    ),
    value(
        "http-listen",
        "ADDR",
        "127.0.0.1:9090",
        "where /livez, /readyz and /metrics answer, an address or a port of 127.0.0.1; none for \
         nowhere",
    ),
    value(
        "api-listen",
        "ADDR",
        "none",
        "where the HTTP API for chat clients answers, an address or a port of 127.0.0.1; none for \
         nowhere",
    ),
    value(
        "api-base",
        "PATH",
        "/api",
        "what the paths of the API begin with",
    ),
    value(
        "api-jwt-key-file",
        "FILE",
        "",
        "key (secret text, PEM or JWK) or keys (JWKS) that clients' tokens are signed with; \
         --jwt-key-file if not given",
    ),
    switch(
        "api-allow-no-exp",
        "accept tokens that do not say when they end, in the API",
    ),
    list(
        "api-cors-origin",
        "ORIGIN",
        "*",
        "origins whose pages may call the API, such as https://chat.example.com; * for all",
    ),
    value(
        "api-max-connections",
        "N",
        "1024",
        "connections to the API at a time; more wait until one ends",
    ),
    value(
        "api-max-memory",
        "SIZE",
        "16MiB",
        "what requests and answers of the API may hold at a time; more wait. An eighth of it for \
         one user",
    ),
    value(
        "api-head-timeout",
        "TIME",
        "10s",
        "how long the head of a request to the API may take",
    ),
    value(
        "api-request-timeout",
        "TIME",
        "30s",
        "how long a request to the API may take in all",
    ),
    value(
        "api-idle-timeout",
        "TIME",
        "60s",
        "how long a connection to the API may be silent, and its client take nothing of an answer",
    ),
    value(
        "contacts-url",
        "URL",
        "",
        "directory of users: URL/USER answers with firstname and lastname, for the messages that \
         tell of members; they are called by their identifiers if not given",
    ),
    value(
        "status",
        "BOOL",
        "true",
        "false: no retained status on observer/NAME/status, for brokers that retain nothing",
    ),
    value(
        "stats-interval",
        "TIME",
        "1m",
        "how often stats are published to observer/NAME/stats; none for never",
    ),
    switch(
        "trace",
        "publish a line for each message to observer/NAME/trace/OUTCOME; watch switches it on \
         for a running observer",
    ),
    value(
        "log-format",
        "FORMAT",
        "auto",
        "auto, text or json; auto: text on a terminal",
    ),
    value(
        "log-level",
        "LEVEL",
        "info",
        "error, warn, info, debug or trace, or a tracing filter",
    ),
];

/// The settings that a policy file may hold, for all apps and for each.
pub(super) const RULES: &[&str] = &[
    "max-payload",
    "max-depth",
    "max-values",
    "max-recipients",
    "max-inline-recipients",
    "max-groups",
    "max-instances",
    "groups-membership",
    "privileged-senders",
    "banned",
    "rate-per-minute",
    "rate-burst",
    "timestamp-past",
    "timestamp-future",
];

/// The setting of that name.
pub(super) fn find(name: &str) -> &'static Setting {
    let mut settings = SETTINGS.iter();
    settings
        .find(|setting| setting.name == name)
        .expect("every setting stands in the table")
}

/// The environment variable of a setting.
pub fn variable(name: &str) -> String {
    format!("OBSERVER_{}", name.to_uppercase().replace('-', "_"))
}
