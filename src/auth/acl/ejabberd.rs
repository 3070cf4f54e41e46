//! The form for ejabberd, whose module `mod_mqtt` is a broker.

use std::fmt::Write as _;

use super::{Part, mqtt_path};
use crate::protocol::topic_map::TopicMap;

/// What `mod_mqtt` needs besides the rules of access.
const SETTINGS: &str = "\
# Parts of ejabberd.yml: put them into the lists of the same names. ejabberdctl reload_config.
# ejabberd keeps sessions in memory: a restart loses what waits in them.
listen:
  - port: 1883
    module: mod_mqtt
    backlog: 1000
  # ws://HOST:5280/mqtt
  - port: 5280
    module: ejabberd_http
    request_handlers:
      /mqtt: mod_mqtt
modules:
  mod_mqtt:
    # By default a session ends after 5 minutes, and loses what exceeds 5,000 messages.
    session_expiry: 7 days
    max_queue: infinity
    # By default 8 levels; the observer subscribes to paths of 9.
    max_topic_depth: 12
";

/// Wildcards and separators in the name of a user.
const NO_WILDCARDS: &str = "        - deny:\n            - user_regexp: \"[+#/]\"\n";

/// For ejabberd: parts of its configuration file.
pub fn ejabberd(layouts: &TopicMap, observer: &str) -> Vec<Part> {
    let paths = layouts.user_paths();
    let reads = paths
        .reads
        .iter()
        .map(|path| format!("{}/#", mqtt_path(path, "%u")));
    let writes = paths.writes.iter().map(|path| mqtt_path(path, "%u"));
    let mut text = format!(
        "\
{SETTINGS}    # Every user may use their own paths. %u is the name of the user, without the host.
    # A user called \"+\" or \"#\" would reach everybody's: names with such a character are denied.
    # ejabberd does not tell upper case from lower: alice may also write as Alice, whom the
    # observer takes for somebody else. So a ban of alice has to name each spelling.
"
    );
    rules(&mut text, "access_subscribe", reads, observer);
    rules(&mut text, "access_publish", writes, observer);
    vec![Part {
        name: "conf",
        place: "ejabberd.yml",
        text,
    }]
}

/// The observer may do everything; what no line permits is denied.
fn rules(text: &mut String, name: &str, topics: impl Iterator<Item = String>, observer: &str) {
    let _ = writeln!(text, "    {name}:");
    for topic in topics {
        let topic = yaml_string(&topic);
        let _ = writeln!(text, "      {topic}:\n{NO_WILDCARDS}        - allow: all");
    }
    let observer = yaml_string(observer);
    let _ = writeln!(
        text,
        "      \"#\":\n        - allow:\n            - user: {observer}"
    );
}

fn yaml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}
