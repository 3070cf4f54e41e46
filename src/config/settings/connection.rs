//! Settings of the connections: the broker, login and TLS.

use super::{Group, switch, value};

pub(super) const BROKER: Group = Group {
    heading: "Broker",
    settings: &[
        value(
            "broker",
            "URL",
            "mqtt://localhost:1883",
            "Address of the broker: mqtt://, mqtts://, ws:// or wss://[USER@]HOST[:PORT][/PATH].",
        )
        .short('b')
        .brief("Broker's address [default: mqtt://localhost:1883]"),
        value(
            "protocol",
            "VERSION",
            "auto",
            "Version of MQTT: 5, 3.1.1, or auto for the newest that the broker speaks.",
        ),
        value(
            "broker-kind",
            "KIND",
            "any",
            "Which identifiers the broker can carry. rabbitmq: those that RabbitMQ cannot carry \
             are refused (with \".\", or over 255 bytes). any: the observer finds out at the start \
             what becomes of a \".\".",
        ),
        value(
            "broker-max-packet",
            "SIZE",
            "",
            "Largest packet that the broker takes. A copy that would be larger is refused as \
             too-large. Needed over MQTT 3.1.1 only, where a broker cannot say it, and most close \
             the connection on a larger packet.",
        )
        .brief("Largest packet that the broker takes"),
        value(
            "proxy",
            "URL",
            "",
            "HTTP proxy to connect through: http://[USER:PASSWORD@]HOST:PORT.",
        ),
        value(
            "name",
            "NAME",
            "observer",
            "Public name of this observer. It is part of its topics (observer/NAME/…), of its MQTT \
             client identifier and of the store's file name.",
        )
        .brief("Public name of the observer"),
        value(
            "client-id",
            "ID",
            "",
            "MQTT client identifier. If not given, a random one is made and kept in --state-dir. \
             It is a secret: whoever knows it can take the session over.",
        ),
        value(
            "session-expiry",
            "TIME",
            "7days",
            "How long the broker keeps messages for the observer while it is away (MQTT 5).",
        ),
        switch(
            "reset-session",
            "Start with an empty session: messages that the broker still holds for this observer \
             are discarded.",
        ),
        switch(
            "allow-other-observers",
            "Start even if another observer on this broker takes the same messages. Each message \
             is then delivered twice.",
        ),
    ],
};

pub(super) const LOGIN: Group = Group {
    heading: "Login and TLS",
    settings: &[
        value(
            "username",
            "NAME",
            "",
            "User to log in as; \"JWT\" if only a token is given.",
        )
        .short('u')
        .brief("User to log in as"),
        value(
            "password",
            "TEXT",
            "",
            "Password of that user. Others can see a flag in the process list: use the variable or \
             --password-file instead.",
        ),
        value(
            "password-file",
            "FILE",
            "",
            "File that holds the password. It is read again for each connection.",
        )
        .brief("File that holds the password"),
        value(
            "token",
            "JWT",
            "",
            "Token to log in with, in place of a password. Others can see a flag in the process \
             list: use the variable or --token-file instead.",
        ),
        value(
            "token-file",
            "FILE",
            "",
            "File that holds the token. It is read again for each connection.",
        ),
        value(
            "jwt-key-file",
            "FILE",
            "",
            "Key that signs tokens: a secret text, PEM or JWK. Without a password or token, the \
             observer logs in with tokens that it signs with this key and renews before they \
             expire.",
        )
        .brief("Key that signs tokens"),
        value(
            "jwt-algorithm",
            "ALG",
            "",
            "Algorithm of the signature: HS256, HS384, HS512, RS256, PS256, ES256, EdDSA, …. If \
             not given, the one that fits the key.",
        ),
        value(
            "jwt-key-id",
            "ID",
            "",
            "Key identifier (kid) in the header of tokens. If not given, there is none, and \
             RabbitMQ uses its default key.",
        ),
        value(
            "jwt-audience",
            "NAME",
            "rabbitmq",
            "Audience (aud) of tokens: RabbitMQ's resource_server_id.",
        ),
        value(
            "jwt-ttl",
            "TIME",
            "1h",
            "How long a token that the observer signs for itself is valid.",
        ),
        value(
            "ca-file",
            "FILE",
            "",
            "CA certificates (PEM) to trust instead of the system's.",
        )
        .brief("CA certificates to trust instead of the system's"),
        value(
            "client-cert",
            "FILE",
            "",
            "Certificate chain (PEM) that the observer shows to the broker.",
        ),
        value(
            "client-key",
            "FILE",
            "",
            "Private key (PEM) of --client-cert.",
        ),
        switch(
            "tls-insecure",
            "Accept any certificate of the broker. Anyone on the way can then read and change \
             everything.",
        ),
    ],
};
