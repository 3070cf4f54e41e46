//! JSON Web Tokens: what they say, and what the observer reads of its own. The broker verifies tokens; nothing here trusts one.
//!
//! What RabbitMQ makes of scopes was seen on 3.10.8 and 4.0.5. How tokens are signed is `signing.rs`'s business.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::protocol::permissions::{PathLevel, UserPaths};
use crate::protocol::time::UnixMillis;

/// The key's name as a claim, as Chat21's own servers write it (`protocol.md`, section 7).
const KEY_CLAIM: &str = "tiledesk-key";

/// What has to be written otherwise in a part of a scope. A `*` is left: who is given one is given a wildcard.
const NOT_PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'*');

/// What a token is made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grant {
    /// Whom it is for.
    sub: String,
    user_id: String,
    client_id: String,
    cid: String,
    azp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    /// Tells tokens apart.
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
    /// What MQTT needs, and no more.
    Narrow {
        /// What he may write and read.
        paths: &'a UserPaths<'a>,
        /// RabbitMQ's virtual host.
        vhost: &'a str,
        /// Whose sessions he may have.
        sessions: Sessions<'a>,
    },
    /// What is deployed: all below his paths, on every exchange and queue.
    Deployed,
}

/// The sessions a user may have: on RabbitMQ a queue for each, which bears the client identifier.
#[derive(Clone, Copy, Debug)]
pub enum Sessions<'a> {
    /// Under this client identifier, or under it with a `.` and more behind, one for each device.
    Of(&'a str),
    /// Under any: others' sessions are safe as long as their client identifiers are not known.
    Any,
}

/// The time a token is made, how long it is good, and what tells it from others.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Now.
    pub now: UnixMillis,
    /// From now on.
    pub ttl: Duration,
    /// Unique.
    pub id: &'a str,
    /// Whom it is presented to: RabbitMQ's `resource_server_id`, which scopes begin with, too.
    pub audience: &'a str,
}

impl Grant {
    /// A user's: he may read and write under his own paths, in every layout.
    ///
    /// Identifiers that hold a `.` or a `*` reach further: who asks for that has been warned.
    pub fn user(app: &str, user: &str, scopes: Scopes<'_>, stamp: &Stamp<'_>) -> Self {
        let server = stamp.audience;
        // RabbitMQ decodes scopes before it looks for wildcards.
        let encoded = |text: &str| utf8_percent_encode(text, NOT_PLAIN).to_string();
        let scope = match scopes {
            Scopes::Deployed => {
                let (app, user) = (encoded(app), encoded(user));
                let own = format!("apps.{app}.users.{user}.*");
                // The seed's layout begins with a slash.
                vec![
                    format!("{server}.read:*/*/{own}"),
                    format!("{server}.write:*/*/{own}"),
                    format!("{server}.write:*/*/apps.{app}.outgoing.users.{user}.*"),
                    format!("{server}.read:*/*/.{own}"),
                    format!("{server}.write:*/*/.{own}"),
                    format!("{server}.configure:*/*/*"),
                ]
            }
            Scopes::Narrow {
                paths,
                vhost,
                sessions,
            } => {
                let vhost = encoded(vhost);
                let queues = match sessions {
                    // A queue for each QoS. Written out: with a wildcard for both, "al" would reach the queues of "alice".
                    Sessions::Of(id) => ["qos0", "qos1", ".*"]
                        .map(|end| format!("{}{end}", encoded(id)))
                        .to_vec(),
                    Sessions::Any => vec!["*".to_owned()],
                };
                let on_queue = queues.iter().flat_map(|queue| {
                    let queue = format!("{vhost}/mqtt-subscription-{queue}/*");
                    ["configure", "write", "read"].map(|right| format!("{server}.{right}:{queue}"))
                });
                let key = |path: &Vec<PathLevel<'_>>| {
                    let levels = path.iter().map(|level| match level {
                        PathLevel::Text(text) => encoded(text),
                        PathLevel::User => encoded(user),
                        PathLevel::Any => "*".to_owned(),
                    });
                    levels.collect::<Vec<_>>().join(".")
                };
                let on_topic =
                    |right: &str, key: String| format!("{server}.{right}:{vhost}/amq.topic/{key}");
                let reads = paths
                    .reads
                    .iter()
                    .map(|path| on_topic("read", format!("{}.*", key(path))));
                let writes = paths.writes.iter().map(|path| on_topic("write", key(path)));
                on_queue.chain(reads).chain(writes).collect()
            }
        };
        Self {
            app_id: Some(app.to_owned()),
            tiledesk_api_roles: Some("user".to_owned()),
            ..Self::new(user, vec![server.to_owned(), user.to_owned()], scope, stamp)
        }
    }

    /// A service's, such as the observer: it may do everything.
    pub fn service(name: &str, stamp: &Stamp<'_>) -> Self {
        let server = stamp.audience;
        let scope = ["read", "write", "configure"].map(|right| format!("{server}.{right}:*/*/*"));
        Self::new(name, vec![server.to_owned()], scope.into(), stamp)
    }

    fn new(who: &str, aud: Vec<String>, scope: Vec<String>, stamp: &Stamp<'_>) -> Self {
        let iat = stamp.now.as_millis() / 1000;
        Self {
            sub: who.to_owned(),
            user_id: who.to_owned(),
            client_id: who.to_owned(),
            cid: who.to_owned(),
            azp: who.to_owned(),
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

/// What of a token matters to whoever logs in with it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Claims {
    /// For which tenant, if it says so.
    pub app_id: Option<String>,
    /// When it ends, in seconds since 1970; fractions are allowed (RFC 7519, NumericDate).
    pub exp: Option<f64>,
    /// Whom it is for.
    pub sub: Option<String>,
}

/// Reads a token's claims without verifying them. `None`, if it is no token.
pub fn peek(token: &str) -> Option<Claims> {
    jsonwebtoken::dangerous::insecure_decode::<Claims>(token.trim())
        .ok()
        .map(|data| data.claims)
}

impl Claims {
    /// When it ends, if it does.
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
    fn a_users_token_holds_what_chat21_wants_and_reaches_his_own_paths() {
        let grant = Grant::user("tilechat", "alice", Scopes::Deployed, &STAMP);
        assert_eq!(
            serde_json::to_value(&grant).unwrap(),
            serde_json::json!({
                "sub": "alice", "user_id": "alice", "client_id": "alice", "cid": "alice", "azp": "alice",
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
                "rabbitmq.write:%2F/amq.topic/apps.tilechat.outgoing.users.alice.messages.*.outgoing",
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
