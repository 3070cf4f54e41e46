//! Settings of what is served and what is refused: messages, groups, policy.

use super::{Group, list, value};

pub(super) const MESSAGES: Group = Group {
    heading: "Messages",
    settings: &[
        list(
            "app",
            "APP",
            "",
            "Serve these apps only. If not given, every app is served.",
        )
        .brief("The app; repeat it for more than one"),
        list(
            "layouts",
            "NAME",
            "inbox,chat21,chat21-v1",
            "Built-in topic layouts to serve, or none. Layouts that the file defines \
             ([[custom-layout]]) are served as well.",
        )
        .brief("Topic layouts to serve"),
        value(
            "offline",
            "HOW",
            "broker",
            "Who keeps messages for users who are offline. broker: their persistent sessions at \
             the broker. redeliver: the observer, which publishes them again when the user comes \
             back.",
        ),
        value(
            "presence-enabled",
            "BOOL",
            "true",
            "Keep track of who is online. false: the observer ignores presence.",
        ),
        value(
            "presence-ttl",
            "TIME",
            "30days",
            "Time after which a client that said it is connected counts as gone, unless it says \
             so again: a broker that crashes publishes no will for it. none: never.",
        ),
        value(
            "dead-letter-topic",
            "TOPIC",
            "",
            "Topic to which every refused message is published, with the reason.",
        ),
        value(
            "max-payload",
            "SIZE",
            "1MiB",
            "Largest payload that is forwarded. A larger one is refused as too-large.",
        ),
        value(
            "max-depth",
            "N",
            "64",
            "Deepest nesting of a JSON payload. A deeper one is refused as too-large.",
        ),
        value(
            "max-values",
            "N",
            "100000",
            "Maximum number of values in a JSON payload. One with more is refused as too-large.",
        ),
        value(
            "timestamp-past",
            "TIME",
            "7days",
            "How far in the past a client's timestamp may be. An older one is replaced by the \
             present time.",
        ),
        value(
            "timestamp-future",
            "TIME",
            "5m",
            "How far in the future a client's timestamp may be. A later one is replaced by the \
             present time.",
        ),
    ],
};

pub(super) const GROUPS: Group = Group {
    heading: "Groups",
    settings: &[
        value(
            "groups-membership",
            "WHO",
            "members",
            "Who may write to a stored group: members, or open for everybody.",
        )
        .brief("Who may write to a stored group"),
        list(
            "privileged-senders",
            "USER",
            "system",
            "Users who may write to every group, and as fast as they like.",
        ),
        value(
            "max-recipients",
            "N",
            "10000",
            "Maximum number of members that a message may go to. One to more is refused as \
             too-many-recipients.",
        ),
        value(
            "max-inline-recipients",
            "N",
            "500",
            "The same limit for a message that lists the members itself. It does not hold for \
             privileged senders.",
        ),
        value(
            "max-groups",
            "N",
            "10000",
            "Maximum number of groups that a user may create over the HTTP API. One more is \
             refused as too-many-groups.",
        ),
    ],
};

pub(super) const POLICY: Group = Group {
    heading: "Policy",
    settings: &[
        value(
            "rate-per-minute",
            "N",
            "600",
            "Messages that a sender may write per minute in the long run; none for no limit. More \
             are refused as rate-limited. Receipts and the like may be ten times as many. A \
             message to a group counts once more for each hundred members, a large one for each \
             64 KiB.",
        )
        .brief("Messages that a sender may write per minute"),
        value(
            "rate-burst",
            "N",
            "",
            "Messages that a sender may write at once. If not given, as many as in a minute.",
        ),
        list(
            "banned",
            "USER",
            "",
            "Users whose messages are refused as banned. The command block ban does the same \
             while the observer runs.",
        ),
        value(
            "policy-file",
            "FILE",
            "",
            "File with rules in TOML, for all apps and for single apps. It is read again on SIGHUP \
             and when it changes.",
        )
        .brief("Rules in TOML, for all apps and for some"),
        value(
            "policy-url",
            "URL",
            "",
            "HTTP service that decides about each message: whether it may pass, and with which \
             text.",
        ),
        value(
            "policy-timeout",
            "TIME",
            "2s",
            "How long the service of --policy-url may take to answer.",
        ),
        value(
            "policy-concurrency",
            "N",
            "32",
            "Maximum number of messages about which the service of --policy-url is asked at a \
             time.",
        ),
        value(
            "policy-failure",
            "HOW",
            "closed",
            "What happens when the service of --policy-url does not answer: closed refuses the \
             message as unauthorized, open lets it pass.",
        ),
    ],
};
