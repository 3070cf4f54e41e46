//! The form for NATS, whose server is an MQTT 3.1.1 broker on top of JetStream.
//!
//! A topic becomes a subject: `/` becomes `.`, a `.` in a level becomes `//`, and a slash at the
//! beginning becomes `/.` (docs.nats.io, MQTT, since nats-server 2.10).

use super::{Part, USER, shell_in_double_quotes};
use crate::protocol::permissions::PathLevel;
use crate::protocol::topic_map::TopicMap;

/// For NATS: the server's configuration, and a script that writes its list of users.
pub fn nats(layouts: &TopicMap, observer: &str, window: u16) -> Vec<Part> {
    let paths = layouts.user_paths();
    let writes = paths.writes.iter().map(|path| quoted(subject(path)));
    // A subscription to everything below a path is one to the path itself, too.
    let reads = paths.reads.iter().flat_map(|path| {
        let path = subject(path);
        [quoted(&path), quoted(format!("{path}.>"))]
    });
    // What a client with a session subscribes to behind the scenes.
    let own = ["$MQTT.sub.>", "$MQTT.deliver.pubrel.>"].map(quoted);
    let writes: Vec<String> = writes.collect();
    let reads: Vec<String> = reads.chain(own).collect();
    vec![
        Part {
            name: "conf",
            place: "nats-server.conf",
            text: conf(window),
        },
        Part {
            name: "users",
            place: "a shell script that makes users.conf, beside nats-server.conf",
            text: users(&writes.join(", "), &reads.join(", "), observer),
        },
    ]
}

fn conf(window: u16) -> String {
    format!(
        "\
# For nats-server 2.10 and newer: 2.9 closes the connection of a client that uses an identifier
# with a \".\".
# NATS speaks MQTT 3.1.1 alone. After a crash of the observer, what it had not acknowledged comes
# again after ack_wait, behind newer messages. So does what exceeds max_ack_pending while several
# layouts are busy: start the observer with the one that your clients use (--layouts chat21).
server_name: chat
jetstream {{ store_dir: \"/var/lib/nats\" }}
mqtt {{ port: 1883, ack_wait: \"30s\", max_ack_pending: {window} }}
# ws://HOST:8083/mqtt
websocket {{ port: 8083, no_tls: true }}
authorization {{ include \"users.conf\" }}
"
    )
}

fn users(writes: &str, reads: &str, observer: &str) -> String {
    format!(
        r#"#!/bin/sh
# Reads a line for each user, the observer ({observer}) among them: the name, a space, the password.
#   sh users.sh <passwords >users.conf
set -eu
say() {{ printf '%s\n' "$1"; }}
say "users = ["
while read -r name password || [ -n "$name" ]; do
  case $name in
    "" | *[!A-Za-z0-9._@-]*)
      say "$name cannot be the name of a user here: letters, digits and . _ @ - alone" >&2
      exit 1
      ;;
  esac
  if [ -z "$password" ]; then
    say "$name has no password" >&2
    exit 1
  fi
  p=$(printf '%s' "$password" | sed 's/[\\"]/\\&/g')
  if [ "$name" = {quoted_observer} ]; then
    # The observer may do everything.
    say "  {{ user: \"$name\", password: \"$p\" }}"
    continue
  fi
  u=$(printf '%s' "$name" | sed 's/\./\/\//g')
  # allowed_connection_types: over NATS users could read what MQTT clients have subscribed to.
  say "  {{ user: \"$name\", password: \"$p\", allowed_connection_types: [\"MQTT\", \"MQTT_WS\"],
    permissions: {{
      publish: [{writes}],
      subscribe: [{reads}] }} }}"
done
say "]"
"#,
        quoted_observer = super::shell_quoted(observer),
    )
}

fn subject(path: &[PathLevel<'_>]) -> String {
    let level = |level: &PathLevel<'_>| match level {
        // The level before a slash at the beginning is empty.
        PathLevel::Text("") => "/".to_owned(),
        PathLevel::Text(text) => text.replace('.', "//"),
        PathLevel::User => USER.to_string(),
        PathLevel::Any => "*".to_owned(),
    };
    path.iter().map(level).collect::<Vec<_>>().join(".")
}

/// A string of NATS' configuration, within double quotes of the shell.
fn quoted(subject: impl AsRef<str>) -> String {
    shell_in_double_quotes(&format!("\"{}\"", subject.as_ref()))
}
