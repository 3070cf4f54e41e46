//! Settings of what other programs use, and of the store: webhooks, store, API.

use super::{Group, list, switch, value};

pub(super) const WEBHOOKS: Group = Group {
    heading: "Webhooks",
    settings: &[
        list(
            "webhook-endpoints",
            "URL",
            "",
            "HTTP services that receive each event as a POST. User, password and query of these \
             URLs are kept secret, the path is not.",
        )
        .brief("HTTP services that receive events"),
        list(
            "webhook-events",
            "EVENT",
            "\
             message-sent,message-delivered,message-received,message-return-receipt,\
             conversation-archived,presence-change",
            "Which events they receive.",
        ),
        value(
            "webhook-enabled",
            "BOOL",
            "true",
            "Send events. false: no webhooks, whatever else is set.",
        ),
        value(
            "webhook-secret-file",
            "FILE",
            "",
            "File with the secret (whsec_… or any text) that signs deliveries, as Standard \
             Webhooks defines it.",
        ),
        value(
            "webhook-timeout",
            "TIME",
            "10s",
            "How long a service may take to answer. After that, the event is sent again.",
        ),
        value(
            "webhook-concurrency",
            "N",
            "8",
            "Maximum number of deliveries in progress at a time, per service.",
        ),
        value(
            "webhook-max-age",
            "TIME",
            "1day",
            "An event that could not be delivered within this time is given up.",
        ),
        value(
            "webhook-queue",
            "SIZE",
            "64MiB",
            "Maximum size of the queue of one service. When it is full, the oldest events are \
             dropped.",
        ),
    ],
};

pub(super) const STORE: Group = Group {
    heading: "Store",
    settings: &[
        value(
            "store",
            "PATH",
            "",
            "SQLite database for messages, conversations and groups. If not given, NAME.db in \
             --state-dir. postgres://USER@HOST/DATABASE: a PostgreSQL database, which several \
             observers may share: one serves and the others stand by, or each serves a part \
             (--slots). none: forward without storing.",
        )
        .brief("Database of the store, or none"),
        value(
            "store-password-file",
            "FILE",
            "",
            "File with the password for a PostgreSQL database.",
        ),
        value(
            "store-lease",
            "TIME",
            "5s",
            "With a PostgreSQL database: how long an observer that does not answer any more keeps \
             another from taking its place.",
        ),
        value(
            "slots",
            "N",
            "1",
            "With a PostgreSQL database: in how many parts observers share the messages, up to \
             4, or to 16 with --sharing hash. It is fixed with the first start.",
        ),
        value(
            "sharing",
            "HOW",
            "all",
            "How slots share the messages. all: the broker gives each to every slot, on any \
             broker. hash: RabbitMQ gives it to one of them, by what `slots rabbitmq` prints. It \
             is fixed with the first start.",
        ),
        value(
            "state-dir",
            "DIR",
            "",
            "Directory for the client identifier and the store. If not given, $STATE_DIRECTORY, or \
             chat21-observer in $XDG_STATE_HOME or ~/.local/state.",
        )
        .brief("Directory for client identifier and store"),
        value(
            "retain",
            "TIME",
            "",
            "Delete stored messages that are older than this, such as 90d. If not given, they are \
             kept for ever.",
        )
        .brief("Delete messages older than this, such as 90d"),
        value(
            "retain-size",
            "SIZE",
            "",
            "Delete the oldest stored messages while the store holds more than this, such as \
             10GiB.",
        ),
        value(
            "max-backlog",
            "SIZE",
            "1GiB",
            "How much the observer accepts and keeps in the store while the broker takes no \
             publishes. Beyond that, messages wait at the broker.",
        ),
    ],
};

pub(super) const API: Group = Group {
    heading: "API",
    settings: &[
        value(
            "api-listen",
            "ADDR",
            "none",
            "Address of the HTTP API for chat clients, or a port of 127.0.0.1; none: no API.",
        )
        .brief("HTTP API for chat clients [default: none]"),
        value(
            "api-base",
            "PATH",
            "/api",
            "What the paths of the API begin with.",
        ),
        value(
            "api-jwt-key-file",
            "FILE",
            "",
            "Key (secret text, PEM or JWK) or keys (JWKS) that clients' tokens are signed with. If \
             not given, --jwt-key-file.",
        ),
        switch(
            "api-allow-no-exp",
            "Accept clients' tokens that have no expiry (exp).",
        ),
        list(
            "api-cors-origin",
            "ORIGIN",
            "*",
            "Origins whose web pages may call the API, such as https://chat.example.com; * for \
             all.",
        ),
        value(
            "api-max-connections",
            "N",
            "1024",
            "Maximum number of connections to the API at a time. More wait until one ends.",
        ),
        value(
            "api-max-memory",
            "SIZE",
            "16MiB",
            "Maximum memory for the API's requests and answers at a time. More requests wait. One \
             user gets an eighth of it.",
        ),
        value(
            "api-head-timeout",
            "TIME",
            "10s",
            "How long the head of a request to the API may take to arrive, counted from the \
             answer before it on the same connection.",
        ),
        value(
            "api-request-timeout",
            "TIME",
            "30s",
            "How long a request to the API may take in all.",
        ),
        value(
            "api-idle-timeout",
            "TIME",
            "60s",
            "How long a connection to the API may be silent within a request, and how long its \
             client may stop reading an answer.",
        ),
        value(
            "contacts-url",
            "URL",
            "",
            "Directory of users: URL/USER answers with firstname and lastname, for messages about \
             the members of groups. If not given, users are called by their identifiers.",
        ),
        value(
            "max-instances",
            "N",
            "64",
            "Maximum number of devices and browsers that a user may register over the API. Beyond \
             that, the oldest are removed.",
        ),
    ],
};
