//! The configuration of a broker that keeps each user to their own paths: a user may write on their
//! own outgoing paths and read their own inbox, and nothing else.
//!
//! Owns the forms for RabbitMQ, Mosquitto, EMQX, NATS and ejabberd. Which paths these are comes
//! from the layouts in use. The forms are loaded into the brokers of the test bed; that for EMQX is
//! only checked for its syntax.

mod ejabberd;
mod nats;

use std::fmt::Write as _;

pub use self::ejabberd::ejabberd;
pub use self::nats::nats;
use crate::protocol::permissions::{PathLevel, UserPaths};
use crate::protocol::topic_map::TopicMap;

/// Stands for the user in text that becomes a shell script; no path can hold this character.
const USER: char = '\u{1}';

/// A file or script that an operator installs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name on the command line (`--part`).
    pub name: &'static str,
    /// Where it belongs, as a heading.
    pub place: &'static str,
    /// Its content.
    pub text: String,
}

/// RabbitMQ 3.13 renamed a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RabbitMqVersion {
    /// 3.8 to 3.12.
    Before3_13,
    /// 3.13 and later.
    Since3_13,
}

/// The settings that RabbitMQ's configuration depends on.
#[derive(Clone, Copy, Debug)]
pub struct RabbitMq<'a> {
    /// The observer's user name.
    pub observer: &'a str,
    /// Whom tokens are for (`--jwt-audience`).
    pub audience: &'a str,
    /// The name of the key (`--jwt-key-id`).
    pub key_id: &'a str,
    /// The most messages in progress (`--window`).
    pub window: u16,
    /// How long sessions are kept, in seconds (`--session-expiry`).
    pub session_expiry: u64,
    /// The version of RabbitMQ.
    pub version: RabbitMqVersion,
}

/// The longest session of RabbitMQ before 3.13, in milliseconds: its setting has 32 bits.
const MAX_SUBSCRIPTION_TTL: u64 = u32::MAX as u64;

const MOSQUITTO_CONF: &str = "\
# For this machine alone. For others, too: listener 1883, or better 8883 with certfile and keyfile.
# Without a listener Mosquitto 2.0 lets clients in without a login, whatever the next line says.
listener 1883 localhost
allow_anonymous false
per_listener_settings false
password_file /etc/mosquitto/passwd
acl_file /etc/mosquitto/acl
persistence true
# Each time it saves all that waits, and serves nobody meanwhile: take 60 where much waits.
autosave_interval 1
# Else the log has a line for each time.
log_type error
log_type warning
log_type notice
# By default messages beyond 1,000 are dropped without a word.
max_queued_messages 0
max_inflight_messages 500
# Latency: 0.3 ms instead of 7.
set_tcp_nodelay true
# Whoever connects with the client identifier of another user ends that session, and what waits in
# it is lost. So use client identifiers that nobody can guess. Or have users connect to a listener
# of their own with the second line below: each then has one session. Never set it on the observer's
# listener: the observer needs several sessions.
# listener 8883
# use_username_as_clientid true
";

/// For RabbitMQ: settings for any login, permissions of users with passwords, and the set-up for
/// users with tokens.
pub fn rabbitmq(layouts: &TopicMap, about: &RabbitMq<'_>) -> Vec<Part> {
    vec![
        Part {
            name: "conf",
            place: "rabbitmq.conf",
            text: rabbitmq_conf(about),
        },
        Part {
            name: "users",
            place: "without tokens: a shell script, run where rabbitmqctl runs",
            text: rabbitmq_users(&layouts.user_paths(), about.observer),
        },
        Part {
            name: "tokens",
            place: "with tokens: rabbitmq.conf, and \
                    `rabbitmq-plugins enable rabbitmq_auth_backend_oauth2`",
            text: "\
# A token is tried first, then a password.
auth_backends.1 = rabbit_auth_backend_oauth2
auth_backends.2 = rabbit_auth_backend_internal
"
            .to_owned(),
        },
        Part {
            name: "advanced",
            place: "with tokens: advanced.config; then \
                    `chat21-observer token mint user APP USER` makes each user's",
            text: rabbitmq_advanced(about),
        },
    ]
}

fn rabbitmq_conf(about: &RabbitMq<'_>) -> String {
    let seconds = about.session_expiry;
    let expiry = match about.version {
        RabbitMqVersion::Before3_13 => {
            let millis = seconds.saturating_mul(1000).min(MAX_SUBSCRIPTION_TTL);
            format!("mqtt.subscription_ttl = {millis}")
        }
        RabbitMqVersion::Since3_13 => {
            format!("mqtt.max_session_expiry_interval_seconds = {seconds}")
        }
    };
    let (versions, other) = match about.version {
        RabbitMqVersion::Before3_13 => {
            ("3.8 to 3.12", "for newer versions leave --before-3.13 out")
        }
        RabbitMqVersion::Since3_13 => ("3.13 and newer", "for older versions add --before-3.13"),
    };
    format!(
        "\
# For RabbitMQ {versions}; {other}.
mqtt.allow_anonymous = false
mqtt.vhost = /
mqtt.exchange = amq.topic
# For throughput: by default only 10 messages are in progress at a time.
mqtt.prefetch = {window}
# How long messages wait for an observer or a user who is away; a day by default.
{expiry}
# Clients ask the broker to retain their presence. Chat21 does not need that. This switches retained
# messages off for everybody:
# mqtt.retained_message_store = rabbit_mqtt_retained_msg_store_noop
# Keep users away from the AMQP port: over AMQP a user can declare a queue that dead-letters into
# any inbox, and no permission prevents that.
# listeners.tcp.1 = 127.0.0.1:5672
# By default RabbitMQ listens on all addresses, without TLS. For this machine alone:
# mqtt.listeners.tcp.1 = 127.0.0.1:1883
",
        window = about.window
    )
}

fn rabbitmq_users(paths: &UserPaths<'_>, observer: &str) -> String {
    let level = |level: &PathLevel<'_>| match level {
        PathLevel::Text(text) => regex_escaped(text),
        PathLevel::User => USER.to_string(),
        PathLevel::Any => "[^.]+".to_owned(),
    };
    let path = |path: &Vec<PathLevel<'_>>| {
        let levels: Vec<String> = path.iter().map(level).collect();
        shell_in_double_quotes(&levels.join(r"\."))
    };
    let either = |paths: &[Vec<PathLevel<'_>>]| {
        let all: Vec<String> = paths.iter().map(path).collect();
        all.join("|\\\n")
    };
    format!(
        r#"#!/bin/sh
set -eu
ctl=${{RABBITMQCTL:-rabbitmqctl}}

# The observer may do everything.
chat21_observer() {{
  $ctl set_permissions -p / "$1" '.*' '.*' '.*'
  $ctl clear_topic_permissions -p / "$1"
}}

# A user may open their own sessions (client identifier NAME, or NAME with a "." and more behind it,
# one for each device) and use their own paths.
# Without this, a user may read and write EVERYTHING: RabbitMQ permits what no topic permission
# mentions.
chat21_user() {{
  case "$1" in
    "" | -* | *[./+#*]*)
      echo "$1 cannot be the name of a user: it reaches the paths of others, or of nobody" >&2
      return 1
      ;;
  esac
  u=$(printf '%s' "$1" | sed 's/[][\.*^$+?(){{}}|]/\\&/g')
  q="mqtt-subscription-$u(\\..*)?qos[01]"
  $ctl set_permissions -p / "$1" "^$q\$" "^(amq\\.topic|$q)\$" "^(amq\\.topic|$q)\$"
  $ctl set_topic_permissions -p / "$1" amq.topic "^(\
{writes}\
)\$" "^(\
{reads}\
)(\\.|\$)"
}}

chat21_observer {observer}
for name in "$@"; do chat21_user "$name"; done
"#,
        writes = either(&paths.writes),
        reads = either(&paths.reads),
        observer = shell_quoted(observer),
    )
}

fn rabbitmq_advanced(about: &RabbitMq<'_>) -> String {
    let (audience, key) = (erlang_text(about.audience), erlang_text(about.key_id));
    format!(
        "\
%% The key that tokens are signed with (--jwt-key-file), here for HS256 (HS384, HS512). For a
%% private key, put its public half here:
%% {key} => {{pem_file, \"/etc/rabbitmq/public.pem\"}}
%% and its algorithm into the list. For Ed25519 on RabbitMQ 4:
%% {{map, #{{<<\"kty\">> => <<\"OKP\">>, <<\"crv\">> => <<\"Ed25519\">>, <<\"x\">> => …}}}}
[{{rabbitmq_auth_backend_oauth2, [
   {{resource_server_id, {audience}}},
   {{key_config, [
     {{default_key, {key}}},
     {{algorithms, [<<\"HS256\">>]}},
     {{signing_keys, #{{{key} => {{map, #{{
        <<\"kty\">> => <<\"MAC\">>, <<\"alg\">> => <<\"HS256\">>,
        <<\"value\">> => <<\"THE SECRET\">>}}}}}}}}
   ]}}
]}}].
"
    )
}

/// For Mosquitto: settings, and an ACL file.
pub fn mosquitto(layouts: &TopicMap, observer: &str) -> Vec<Part> {
    let paths = layouts.user_paths();
    let mut text = format!(
        "\
# The observer may do everything.
user {observer}
topic readwrite #

# Every user may use their own paths. The user name is the user's identifier (only plugins bring
# tokens to Mosquitto). Give no user a name with a \"/\": \"alice/messages\" would reach a part of
# alice's paths.
"
    );
    for path in &paths.reads {
        let _ = writeln!(text, "pattern read {}/#", mqtt_path(path, "%u"));
    }
    for path in &paths.writes {
        let _ = writeln!(text, "pattern write {}", mqtt_path(path, "%u"));
    }
    vec![
        Part {
            name: "conf",
            place: "mosquitto.conf",
            text: MOSQUITTO_CONF.to_owned(),
        },
        Part {
            name: "acl",
            place: "acl_file, such as /etc/mosquitto/acl",
            text,
        },
    ]
}

/// For EMQX: an authorization file.
pub fn emqx(layouts: &TopicMap, observer: &str) -> Vec<Part> {
    let paths = layouts.user_paths();
    let rule = |what: &str, topics: Vec<String>| {
        format!(
            "{{allow, all, {what}, [\n    {}\n]}}.\n",
            topics.join(",\n    ")
        )
    };
    let topics = |paths: &[Vec<PathLevel<'_>>], end: &str| {
        let topic =
            |path: &Vec<PathLevel<'_>>| format!("\"{}{end}\"", mqtt_path(path, "${username}"));
        paths.iter().map(topic).collect::<Vec<_>>()
    };
    let text = format!(
        "\
%% The observer may do everything.
{{allow, {{username, {observer}}}, all, [\"#\"]}}.
%% Every user may use their own paths. The user name is the user's identifier; with tokens, check it
%% against the claim (verify_claims).
{}{}{{deny, all}}.
",
        rule("subscribe", topics(&paths.reads, "/#")),
        rule("publish", topics(&paths.writes, "")),
        observer = erlang_string(observer),
    );
    vec![Part {
        name: "acl",
        place: "authorization of type file, such as etc/acl.conf; \
                with authorization.no_match = deny",
        text,
    }]
}

/// A path with `user` at each user level and `+` where any level matches.
fn mqtt_path(path: &[PathLevel<'_>], user: &str) -> String {
    let level = |level: &PathLevel<'_>| match level {
        PathLevel::Text(text) => (*text).to_owned(),
        PathLevel::User => user.to_owned(),
        PathLevel::Any => "+".to_owned(),
    };
    path.iter().map(level).collect::<Vec<_>>().join("/")
}

fn regex_escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if r"\.^$*+?()[]{}|".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Text for the inside of double quotes in a shell script, with `$u` at each [`USER`].
fn shell_in_double_quotes(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            USER => out.push_str("$u"),
            '\\' | '"' | '`' | '$' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn erlang_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

fn erlang_text(text: &str) -> String {
    format!("<<{}>>", erlang_string(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::control_topic::Controls;
    use crate::protocol::layout::Layout;

    #[test]
    fn what_mosquitto_permits_follows_the_layouts_and_apps() {
        let layouts = |names: &[&str], apps: &[&str], controls| {
            let layouts = names
                .iter()
                .flat_map(|name| Layout::built_in(name).unwrap());
            let apps = apps.iter().map(|app| (*app).to_owned()).collect();
            TopicMap::new(layouts.collect(), apps, &[], controls).unwrap()
        };
        let acl = |layouts: &TopicMap| {
            let parts = mosquitto(layouts, "observer");
            let acl = parts.into_iter().find(|part| part.name == "acl").unwrap();
            let patterns = acl.text.lines().filter(|line| line.starts_with("pattern"));
            patterns.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            acl(&layouts(&["chat21"], &["tilechat"], Controls::Off)),
            [
                "pattern read apps/tilechat/users/%u/#",
                "pattern write apps/tilechat/outgoing/users/%u/messages/+/outgoing",
            ]
        );
        assert_eq!(
            acl(&layouts(&["inbox", "chat21-v1"], &[], Controls::Served)),
            [
                "pattern read /apps/+/users/%u/#",
                "pattern read apps/+/users/%u/#",
                "pattern write /apps/+/users/%u/+/messages/outgoing",
                "pattern write apps/+/users/%u/+/messages/outgoing",
                "pattern write apps/+/users/%u/messages/+/outgoing",
                "pattern write apps/+/users/%u/messages/+/+/update",
                "pattern write apps/+/users/%u/conversations/+/update",
                "pattern write apps/+/users/%u/conversations/+/archive",
                "pattern write apps/+/users/%u/presence/+",
                "pattern write apps/+/users/%u/blocked/+/update",
                "pattern write apps/+/users/%u/inbox/fetch",
                "pattern write apps/+/users/%u/conversations/fetch",
            ]
        );
        let two = acl(&layouts(&["chat21"], &["a", "b"], Controls::Off));
        assert_eq!(two.len(), 4, "{two:?}");
    }

    #[test]
    fn what_is_special_somewhere_is_quoted_there() {
        assert_eq!(regex_escaped("a.b(c)"), r"a\.b\(c\)");
        assert_eq!(shell_in_double_quotes("\\.\u{1}$u`\""), r#"\\.$u\$u\`\""#);
        assert_eq!(shell_quoted("it's"), r"'it'\''s'");
        assert_eq!(erlang_text(r#"a"b\"#), r#"<<"a\"b\\">>"#);
    }
}
