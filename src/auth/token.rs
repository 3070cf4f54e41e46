//! JSON Web Tokens: what a new one says, and reading the claims of a given one.
//!
//! Owns claims and scopes. Signing is the business of `signing.rs`. The broker verifies tokens;
//! nothing here trusts one. How RabbitMQ reads scopes was tested on 3.10.8 and 4.0.5.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::protocol::permissions::{PathLevel, UserPaths};
use crate::protocol::time::UnixMillis;

/// The name of the key, as Chat21's own servers write it into a claim (protocol.md, section 7).
const KEY_CLAIM: &str = "tiledesk-key";

/// The characters that a part of a scope encodes. `*` is not among them, so a `*` in an identifier
/// is a wildcard; whoever asks for such a token has been warned.
const NOT_PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'*');

/// The claims of a new token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grant {
    sub: String,
    user_id: String,
    client_id: String,
    cid: String,
    azp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    jti: String,
    iat: u64,
    exp: u64,
    aud: Vec<String>,
    scope: Vec<String>,
    kid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tiledesk_api_roles: Option<String>,
}

/// How much a user's token permits.
#[derive(Clone, Copy, Debug)]
pub enum Scopes<'a> {
    /// Only what MQTT needs.
    Narrow {
        /// The topics that the user may write and read.
        paths: &'a UserPaths<'a>,
        /// RabbitMQ's virtual host.
        vhost: &'a str,
        /// The sessions that the user may open.
        sessions: Sessions<'a>,
    },
    /// What Chat21 has always given: everything below the user's paths, on every exchange and
    /// queue.
    Deployed,
}

/// The sessions that a user may open. On RabbitMQ each is a queue named after the client
/// identifier.
#[derive(Clone, Copy, Debug)]
pub enum Sessions<'a> {
    /// With this client identifier, or with it, a `.` and anything behind: one for each device.
    Of(&'a str),
    /// With any. Sessions of others are safe as long as their client identifiers are not known.
    Any,
}

/// When a token is made, for how long, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The present time.
    pub now: UnixMillis,
    /// How long the token is valid, from `now`.
    pub ttl: Duration,
    /// Tells the token from any other.
    pub id: &'a str,
    /// Whom it is presented to: RabbitMQ's `resource_server_id`, which scopes also begin with.
    pub audience: &'a str,
}

/// A part of a scope. RabbitMQ decodes scopes before it looks for wildcards.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NOT_PLAIN).to_string()
}

/// The scopes of [`Scopes::Deployed`].
fn deployed_scopes(server: &str, app: &str, user: &str) -> Vec<String> {
    let (app, user) = (encoded(app), encoded(user));
    let own = format!("apps.{app}.users.{user}.*");
    // In the oldest layout, topics begin with a slash, and routing keys with a dot.
    vec![
        format!("{server}.read:*/*/{own}"),
        format!("{server}.write:*/*/{own}"),
        format!("{server}.write:*/*/apps.{app}.outgoing.users.{user}.*"),
        format!("{server}.read:*/*/.{own}"),
        format!("{server}.write:*/*/.{own}"),
        format!("{server}.configure:*/*/*"),
    ]
}

/// The scopes for the topics of a user: everything below what they read, exactly what they write.
fn topic_scopes(server: &str, user: &str, vhost: &str, paths: &UserPaths<'_>) -> Vec<String> {
    let exchange = format!("{vhost}/amq.topic");
    let key = |path: &Vec<PathLevel<'_>>| routing_key(path, user);
    let reads = paths.reads.iter().map(key);
    let reads = reads.map(|key| format!("{server}.read:{exchange}/{key}.*"));
    let writes = paths.writes.iter().map(key);
    let writes = writes.map(|key| format!("{server}.write:{exchange}/{key}"));
    reads.chain(writes).collect()
}

/// The scopes for the queues of a user's sessions.
fn queue_scopes(server: &str, vhost: &str, sessions: Sessions<'_>) -> Vec<String> {
    // A queue for each QoS is written out: one wildcard for both would let "al" reach the queues
    // of "alice".
    let queues = match sessions {
        Sessions::Of(id) => ["qos0", "qos1", ".*"]
            .map(|end| format!("{}{end}", encoded(id)))
            .to_vec(),
        Sessions::Any => vec!["*".to_owned()],
    };
    let rights = |queue: &String| {
        let queue = format!("{vhost}/mqtt-subscription-{queue}/*");
        ["configure", "write", "read"].map(|right| format!("{server}.{right}:{queue}"))
    };
    queues.iter().flat_map(rights).collect()
}

/// A path of a user as RabbitMQ's MQTT plugin writes it.
fn routing_key(path: &[PathLevel<'_>], user: &str) -> String {
    let levels = path.iter().map(|level| match level {
        PathLevel::Text(text) => encoded(text),
        PathLevel::User => encoded(user),
        PathLevel::Any => "*".to_owned(),
    });
    levels.collect::<Vec<_>>().join(".")
}

impl Grant {
    /// For a user, who may read and write their own paths in every layout.
    ///
    /// An identifier with a `.` or a `*` reaches further: callers warn of that.
    pub fn user(app: &str, user: &str, scopes: Scopes<'_>, stamp: &Stamp<'_>) -> Self {
        let server = stamp.audience;
        let scope = match scopes {
            Scopes::Deployed => deployed_scopes(server, app, user),
            Scopes::Narrow {
                paths,
                vhost,
                sessions,
            } => {
                let vhost = encoded(vhost);
                let mut scopes = queue_scopes(server, &vhost, sessions);
                scopes.extend(topic_scopes(server, user, &vhost, paths));
                scopes
            }
        };
        Self {
            app_id: Some(app.to_owned()),
            tiledesk_api_roles: Some("user".to_owned()),
            ..Self::new(user, vec![server.to_owned(), user.to_owned()], scope, stamp)
        }
    }

    /// For a service such as the observer, which may do everything.
    pub fn service(name: &str, stamp: &Stamp<'_>) -> Self {
        let server = stamp.audience;
        let scope = ["read", "write", "configure"].map(|right| format!("{server}.{right}:*/*/*"));
        Self::new(name, vec![server.to_owned()], scope.into(), stamp)
    }

    fn new(subject: &str, aud: Vec<String>, scope: Vec<String>, stamp: &Stamp<'_>) -> Self {
        let iat = stamp.now.as_millis() / 1000;
        Self {
            sub: subject.to_owned(),
            user_id: subject.to_owned(),
            client_id: subject.to_owned(),
            cid: subject.to_owned(),
            azp: subject.to_owned(),
            app_id: None,
            jti: stamp.id.to_owned(),
            iat,
            exp: iat.saturating_add(stamp.ttl.as_secs()),
            aud,
            scope,
            kid: KEY_CLAIM.to_owned(),
            tiledesk_api_roles: None,
        }
    }
}

/// The claims that matter for a login with a given token.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Claims {
    /// The tenant, if the token names one.
    pub app_id: Option<String>,
    /// When it ends, in seconds since 1970. Fractions are allowed (RFC 7519, NumericDate).
    pub exp: Option<f64>,
    /// Whom it is for.
    pub sub: Option<String>,
}

/// Reads the claims of a token without verifying it. `None` if the text is not a token.
pub fn peek(token: &str) -> Option<Claims> {
    jsonwebtoken::dangerous::insecure_decode::<Claims>(token.trim())
        .ok()
        .map(|data| data.claims)
}

impl Claims {
    /// When the token ends; `None` if it never does.
    pub fn ends(&self) -> Option<UnixMillis> {
        let end = Duration::try_from_secs_f64(self.exp?.trunc()).unwrap_or(Duration::ZERO);
        let millis = u64::try_from(end.as_millis()).unwrap_or(u64::MAX);
        Some(UnixMillis::new(millis))
    }

    /// Whether the token is valid at `now`, to the second.
    pub fn validity(&self, now: UnixMillis) -> Validity {
        let Some(ends) = self.ends() else {
            return Validity::Unlimited;
        };
        let now = Duration::from_secs(now.as_millis() / 1000);
        let end = Duration::from_secs(ends.as_millis() / 1000);
        match end.checked_sub(now) {
            Some(left) if !left.is_zero() => Validity::Remaining(left),
            Some(_) | None => Validity::Expired(now.saturating_sub(end)),
        }
    }
}

/// How long a token is valid, seen from one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It never ends.
    Unlimited,
    /// It is valid for this much longer.
    Remaining(Duration),
    /// It ended this long ago.
    Expired(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::control_topic::Controls;
    use crate::protocol::layout::Layout;
    use crate::protocol::topic_map::TopicMap;
    use jsonwebtoken::{EncodingKey, Header, encode};

    fn layouts() -> TopicMap {
        let names = ["inbox", "chat21"].into_iter();
        let layouts = names.flat_map(|name| Layout::built_in(name).unwrap());
        TopicMap::new(layouts.collect(), vec![], &[], Controls::Off).unwrap()
    }

    const STAMP: Stamp<'_> = Stamp {
        now: UnixMillis::new(1_800_000_000_500),
        ttl: Duration::from_secs(3600),
        id: "one",
        audience: "rabbitmq",
    };

    #[test]
    fn a_users_token_holds_what_chat21_wants_and_reaches_their_own_paths() {
        let grant = Grant::user("tilechat", "alice", Scopes::Deployed, &STAMP);
        assert_eq!(
            serde_json::to_value(&grant).unwrap(),
            serde_json::json!({
                "sub": "alice", "user_id": "alice", "client_id": "alice", "cid": "alice",
                "azp": "alice",
                "app_id": "tilechat", "jti": "one", "iat": 1_800_000_000, "exp": 1_800_003_600,
                "aud": ["rabbitmq", "alice"], "kid": "tiledesk-key", "tiledesk_api_roles": "user",
                "scope": [
                    "rabbitmq.read:*/*/apps.tilechat.users.alice.*",
                    "rabbitmq.write:*/*/apps.tilechat.users.alice.*",
                    "rabbitmq.write:*/*/apps.tilechat.outgoing.users.alice.*",
                    "rabbitmq.read:*/*/.apps.tilechat.users.alice.*",
                    "rabbitmq.write:*/*/.apps.tilechat.users.alice.*",
                    "rabbitmq.configure:*/*/*"
                ]
            })
        );
        let layouts = layouts();
        let paths = layouts.user_paths_of("tilechat");
        let narrow = |sessions| Scopes::Narrow {
            paths: &paths,
            vhost: "/",
            sessions,
        };
        let grant = Grant::user("tilechat", "alice", narrow(Sessions::Of("alice")), &STAMP);
        assert_eq!(
            grant.scope,
            [
                "rabbitmq.configure:%2F/mqtt-subscription-aliceqos0/*",
                "rabbitmq.write:%2F/mqtt-subscription-aliceqos0/*",
                "rabbitmq.read:%2F/mqtt-subscription-aliceqos0/*",
                "rabbitmq.configure:%2F/mqtt-subscription-aliceqos1/*",
                "rabbitmq.write:%2F/mqtt-subscription-aliceqos1/*",
                "rabbitmq.read:%2F/mqtt-subscription-aliceqos1/*",
                "rabbitmq.configure:%2F/mqtt-subscription-alice.*/*",
                "rabbitmq.write:%2F/mqtt-subscription-alice.*/*",
                "rabbitmq.read:%2F/mqtt-subscription-alice.*/*",
                "rabbitmq.read:%2F/amq.topic/.apps.tilechat.users.alice.*",
                "rabbitmq.read:%2F/amq.topic/apps.tilechat.users.alice.*",
                "rabbitmq.write:%2F/amq.topic/.apps.tilechat.users.alice.*.messages.outgoing",
                "rabbitmq.write:%2F/amq.topic/apps.tilechat.users.alice.*.messages.outgoing",
                "rabbitmq.write:%2F/amq.topic/\
                 apps.tilechat.outgoing.users.alice.messages.*.outgoing",
            ]
        );
        let any = Grant::user("tilechat", "alice", narrow(Sessions::Any), &STAMP);
        assert_eq!(any.scope[0], "rabbitmq.configure:%2F/mqtt-subscription-*/*");
        let service = serde_json::to_value(Grant::service("observer", &STAMP)).unwrap();
        assert_eq!(
            service["scope"],
            serde_json::json!([
                "rabbitmq.read:*/*/*",
                "rabbitmq.write:*/*/*",
                "rabbitmq.configure:*/*/*"
            ])
        );
        assert_eq!(
            (&service["aud"], service.get("app_id")),
            (&serde_json::json!(["rabbitmq"]), None)
        );
    }

    #[test]
    fn nothing_in_an_identifier_reaches_further_than_it_stands() {
        // Decoded by the broker, these would be a wildcard and a level break.
        let layouts = layouts();
        let paths = layouts.user_paths_of("a");
        for user in ["%2A", "al%2Fice", "a/b", "a+b", "é"] {
            let narrow = Scopes::Narrow {
                paths: &paths,
                vhost: "/",
                sessions: Sessions::Of(user),
            };
            for scope in Grant::user("a", user, narrow, &STAMP).scope {
                let parts: Vec<&str> = scope.split('/').collect();
                assert_eq!(parts.len(), 3, "{scope}");
                assert!(
                    !scope.contains("%2A") && !scope.contains("l%2Fi") && !scope.contains('+'),
                    "{scope}"
                );
                assert!(scope.matches('*').count() <= 2, "{scope}");
            }
        }
    }

    #[test]
    fn a_token_says_until_when_it_is_good() {
        let token =
            |claims| encode(&Header::default(), &claims, &EncodingKey::from_secret(b"x")).unwrap();
        let claims = peek(&token(
            serde_json::json!({"exp": 1_000.5, "sub": "observer", "scope": ["a"]}),
        ))
        .unwrap();
        assert_eq!(claims.sub.as_deref(), Some("observer"));
        assert_eq!(
            claims.validity(UnixMillis::new(900_000)),
            Validity::Remaining(Duration::from_secs(100))
        );
        assert_eq!(
            claims.validity(UnixMillis::new(1_060_000)),
            Validity::Expired(Duration::from_secs(60))
        );
        assert_eq!(
            peek(&token(serde_json::json!({})))
                .unwrap()
                .validity(UnixMillis::new(0)),
            Validity::Unlimited
        );
        assert_eq!(peek("no token"), None);
        assert_eq!(peek(""), None);
    }
}
