//! Settings for operators: what the observer says about itself, and its tuning.

use super::{Group, switch, value};

pub(super) const OBSERVABILITY: Group = Group {
    heading: "Observability",
    settings: &[
        value(
            "http-listen",
            "ADDR",
            "127.0.0.1:9180",
            "Address of the console, /livez, /readyz and /metrics, or a port of 127.0.0.1; none: \
             no such endpoint.",
        )
        .brief("Health, metrics, console [default: 127.0.0.1:9180]"),
        value(
            "console",
            "WHEN",
            "auto",
            "Show messages and settings on --http-listen: on, off, or auto: on a loopback address \
             only.",
        ),
        value(
            "status",
            "BOOL",
            "true",
            "Publish a retained status on observer/NAME/status. false: for brokers that retain \
             nothing.",
        ),
        value(
            "stats-interval",
            "TIME",
            "1m",
            "How often statistics are published to observer/NAME/stats; none for never.",
        ),
        switch(
            "trace",
            "Publish a line about each message to observer/NAME/trace/OUTCOME. The command watch \
             switches this on in a running observer.",
        ),
        value(
            "log-format",
            "FORMAT",
            "auto",
            "Format of the log: text, json, or auto: text on a terminal and in systemd's journal, \
             JSON elsewhere.",
        ),
        value(
            "log-level",
            "LEVEL",
            "info",
            "What is logged: error, warn, info, debug, trace, or a filter for the tracing crate.",
        )
        .brief("error, warn, info, debug, trace [default: info]"),
    ],
};

pub(super) const TUNING: Group = Group {
    heading: "Tuning",
    settings: &[
        value(
            "window",
            "N",
            "500",
            "Maximum number of messages in progress at a time. The broker has a limit of its own \
             (RabbitMQ: mqtt.prefetch); the smaller one counts.",
        ),
        value(
            "publishers",
            "N",
            "1",
            "Connections that publish, beside the one that receives.",
        ),
        value(
            "keep-alive",
            "TIME",
            "30s",
            "Interval between pings to the broker, at least 5s.",
        ),
        value(
            "connect-timeout",
            "TIME",
            "10s",
            "How long connecting to the broker may take.",
        ),
        value(
            "ack-timeout",
            "TIME",
            "30s",
            "A publish that the broker has not confirmed within this time is sent again, over a \
             new connection.",
        ),
        value(
            "drain-timeout",
            "TIME",
            "10s",
            "How long a stop (SIGTERM or SIGINT) waits for messages in progress. With a PostgreSQL \
             database 0.5 s for what is stored: the next observer goes on with it.",
        ),
    ],
};
