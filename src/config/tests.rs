use super::*;
use crate::protocol::id::AppId;
use crate::protocol::time::UnixMillis;
use std::collections::HashMap;

fn load(
    flags: &[(&'static str, &str)],
    env: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Config, Vec<String>> {
    let flags: Flags = flags
        .iter()
        .map(|(name, text)| (*name, vec![(*text).to_owned()]))
        .collect();
    // A home that nothing can be kept in, unless the test gives another.
    let env: HashMap<String, String> = [("HOME", "/proc/nowhere")]
        .iter()
        .chain(env)
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    let dir = tempfile::TempDir::new().unwrap();
    let path = file.map(|text| {
        let path = dir.path().join("observer.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let place = dir.path().display().to_string();
    let loaded = Config::load(&flags, &|name| env.get(name).cloned(), path.as_deref());
    loaded.map_err(|errors| {
        errors
            .0
            .iter()
            .map(|error| error.to_string().replace(&format!("{place}/"), ""))
            .collect()
    })
}

#[test]
fn flags_go_over_environment_over_file_over_defaults() {
    let file = Some("window = 30\nname = \"file\"\nkeep-alive = \"20s\"");
    let config = load(
        &[("window", "10")],
        &[("OBSERVER_WINDOW", "20"), ("OBSERVER_NAME", "env")],
        file,
    )
    .unwrap();
    assert_eq!(
        (config.window, config.name.as_str(), config.links.keep_alive),
        (10, "env", Duration::from_secs(20))
    );
    assert_eq!(config.ack_timeout, Duration::from_secs(30));
    assert_eq!(
        load(&[], &[("LOG_LEVEL", "debug")], None)
            .unwrap()
            .log_level,
        "debug",
        "a name of chat21-server"
    );
    let apps = load(&[], &[("APP_ID", "tilechat")], None)
        .unwrap()
        .router
        .layouts
        .filters();
    assert!(
        apps.iter()
            .all(|filter| filter.filter.as_str().contains("/tilechat/"))
    );
}

#[test]
fn all_mistakes_are_reported_together_each_with_its_place() {
    let file =
        Some("windw = 5\nack-timeout = 7\nlayouts = \"inbox,nonsense\"\nca-file = \"/nowhere\"");
    let errors = load(
        &[("window", "0"), ("protocol", "4")],
        &[("OBSERVER_MAX_PAYLOAD", "1TB")],
        file,
    )
    .unwrap_err();
    assert_eq!(
        errors,
        [
            "observer.toml: \"windw\" is not a setting",
            "ca-file in observer.toml: cannot read /nowhere: I/O error: No such file or directory (os error 2)",
            "--protocol: \"4\" is none of auto, 5, 3.1.1",
            "--window: \"0\" is not a whole number from 1 to 10000",
            "ack-timeout in observer.toml: \"7\" is not a time such as 30s or 5m: time unit needed, for example 7sec or 7ms",
            "OBSERVER_MAX_PAYLOAD: \"1TB\" is not a size such as 64KiB or 1MiB",
            "layouts in observer.toml: \"nonsense\" is none of inbox, chat21, chat21-v1, none",
        ]
    );
}

#[test]
fn a_broken_file_is_named_by_line_and_its_secrets_are_not_repeated() {
    let errors = load(&[], &[], Some("name = \"x\"\npassword = s3cret")).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("observer.toml: line 2: ") && !errors[0].contains("s3cret"),
        "{errors:?}"
    );
    let errors = load(&[], &[], Some("max_payload = 5")).unwrap_err();
    assert_eq!(
        errors,
        ["observer.toml: \"max_payload\" is not a setting (is max-payload meant?)"]
    );
}

#[test]
fn broker_addresses_are_taken_apart() {
    let shown = |url: &str| load(&[("broker", url)], &[], None).map(|config| config.broker);
    assert_eq!(shown("mqtt://host"), Ok("mqtt://host:1883".to_owned()));
    assert_eq!(
        shown("mqtts://user:pa%40ss@host"),
        Ok("mqtts://host:8883".to_owned())
    );
    assert_eq!(
        shown("ws://user@host:15675/ws?x=1"),
        Ok("ws://host:15675/ws?x=1".to_owned())
    );
    assert_eq!(
        shown("mqtt://[::1]:1884"),
        Ok("mqtt://[::1]:1884".to_owned())
    );
    const RULE: &str = "a broker is given as mqtt://, mqtts://, ws:// or wss://HOST[:PORT][/PATH]";
    for (url, want) in [
        (
            "host:1883",
            format!("scheme \"host\" is none of mqtt, mqtts, ws, wss; {RULE}"),
        ),
        (
            "amqp://host",
            format!("scheme \"amqp\" is none of mqtt, mqtts, ws, wss; {RULE}"),
        ),
        (
            "secret-without-scheme",
            format!("not a URL (relative URL without a base); {RULE}"),
        ),
        ("mqtt://host/path", format!("mqtt:// has no path; {RULE}")),
        (
            "wss://[::1]/ws",
            "an IPv6 address works with mqtt:// only: give [::1] a name".to_owned(),
        ),
        ("mqtt://", format!("no host; {RULE}")),
    ] {
        assert_eq!(shown(url), Err(vec![format!("--broker: {want}")]), "{url}");
    }
}

#[test]
fn credentials_come_from_one_place() {
    let login = |flags: &[(&'static str, &str)], env: &[(&str, &str)]| {
        load(flags, env, None).map(|config| {
            config
                .credentials()
                .read(UnixMillis::new(0))
                .unwrap()
                .map(|(user, secret)| (user, secret.expose_secret().to_owned()))
        })
    };
    let pair = |user: &str, password: &str| Ok(Some((user.to_owned(), password.to_owned())));
    assert_eq!(login(&[], &[]), Ok(None));
    assert_eq!(
        login(&[("broker", "mqtt://u:p&w%3D@h")], &[]),
        pair("u", "p&w=")
    );
    assert_eq!(
        login(&[("username", "observer")], &[("OBSERVER_PASSWORD", "pw")]),
        pair("observer", "pw")
    );
    assert_eq!(
        login(&[], &[("OBSERVER_PASSWORD", "pw"), ("OBSERVER_TOKEN_FILE", "/nowhere")]),
        Err(vec!["OBSERVER_TOKEN_FILE: a password or token is given here and by password: one of them is enough".to_owned()])
    );
    assert_eq!(
        login(&[("token", "no token")], &[]),
        Err(vec!["--token: is not a JSON Web Token".to_owned()])
    );
    assert_eq!(
        login(&[("password-file", "/nowhere")], &[]),
        Err(vec![
            "--password-file: cannot read /nowhere: No such file or directory (os error 2)"
                .to_owned()
        ])
    );
    let config = load(&[("password", "visible")], &[], None).unwrap();
    assert!(
        config.warnings[0].contains("process list"),
        "{:?}",
        config.warnings
    );
    assert!(
        !format!("{config:?}").contains("visible"),
        "Debug shows a password"
    );
}

#[test]
fn custom_layouts_come_on_top_and_are_proven_with_the_rest() {
    let file = "layouts = \"none\"\n[[custom-layout]]\nname = \"mine\"\noutgoing = \"out/{app}/{sender}/{recipient}\"\ninbox = \"in/{app}/{recipient}/{sender}/new\"\npayload = \"verbatim\"\n";
    let config = load(&[], &[], Some(file)).unwrap();
    assert_eq!(
        config
            .router
            .layouts
            .parse("out/a/x/y")
            .unwrap()
            .outgoing()
            .unwrap()
            .layout
            .name(),
        "mine"
    );
    let looping = file.replace("in/{app}", "out/{app}").replace("/new", "");
    assert_eq!(
        load(&[], &[], Some(&looping)).unwrap_err()[0],
        "custom-layout \"mine\": template \"out/{app}/{recipient}/{sender}\": its last level must be plain text, because refusals are sent with \"clientrejected\" in its place"
    );
    let dotted = file.replace("out/{app}", "o.ut/{app}");
    assert_eq!(
        load(&[("broker-kind", "rabbitmq")], &[], Some(&dotted)).unwrap_err(),
        [
            "--broker-kind: template \"o.ut/{app}/{sender}/{recipient}\": \"o.ut\" holds '.', which RabbitMQ turns into '/'"
        ]
    );
    assert_eq!(
        load(&[("broker-kind", "rabbitmq"), ("app", "my.app")], &[], None).unwrap_err(),
        ["app: \"my.app\" holds '.', which RabbitMQ turns into '/'"]
    );
    assert_eq!(
        load(
            &[("dead-letter-topic", "apps/x/users/a/messages/b/outgoing")],
            &[],
            None
        )
        .unwrap_err(),
        [
            "--layouts: loop: what is published to \"apps/x/users/a/messages/b/outgoing\" would be received again through \"apps/{app}/users/{sender}/messages/{recipient}/outgoing\""
        ]
    );
    let unknown = format!("{file}sendercopy = true\n");
    assert!(load(&[], &[], Some(&unknown)).unwrap_err()[0].contains("unknown field `sendercopy`"));
}

#[test]
fn the_client_identifier_is_kept_or_derived_and_warned_of() {
    let dir = tempfile::TempDir::new().unwrap();
    let state = dir.path().join("deep/state").display().to_string();
    let id = |config: &Config| config.links().unwrap().client_id.expose_secret().to_owned();
    let kept = load(&[("state-dir", &state)], &[], None).unwrap();
    assert_eq!(
        (id(&kept).len(), id(&kept)),
        ("observer-".len() + 32, id(&kept))
    );
    assert_eq!(kept.identity_warning(), None);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(format!("{state}/observer.client-id"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    // No place to keep it: made of the password, the same each time, another for another.
    let derived = |password: &str| load(&[], &[("OBSERVER_PASSWORD", password)], None).unwrap();
    assert_eq!(id(&derived("a")), id(&derived("a")));
    assert_ne!(id(&derived("a")), id(&derived("b")));
    assert_eq!(derived("a").identity_warning(), None);
    assert!(
        load(&[], &[], None)
            .unwrap()
            .identity_warning()
            .unwrap()
            .contains("can be guessed")
    );

    assert_eq!(
        id(&load(&[("client-id", "a-long-enough-identifier")], &[], None).unwrap()),
        "a-long-enough-identifier"
    );
    assert!(
        load(&[("client-id", "short")], &[], None).unwrap().warnings[0]
            .contains("short enough to guess")
    );
    let missing = load(&[("state-dir", "/proc/nowhere")], &[], None)
        .unwrap()
        .links()
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with(
            "--state-dir: cannot make the directory of /proc/nowhere/observer.client-id"
        ),
        "{missing}"
    );
}

#[test]
fn sizes_are_read_with_their_units() {
    for (text, bytes) in [
        ("1", 1),
        ("64KiB", 65_536),
        ("1 MiB", 1 << 20),
        ("2MB", 2_000_000),
        ("3kB", 3_000),
    ] {
        assert_eq!(parse_payload_size(text), Ok(bytes), "{text}");
    }
    for text in ["", "0", "x", "1GiB", "-1", "250MiB", "99999999999999999999"] {
        assert!(parse_payload_size(text).is_err(), "{text}");
    }
}

#[test]
fn the_store_is_where_it_is_said_to_be_or_in_the_state_directory() {
    let place = |flags: &[(&'static str, &str)], env: &[(&str, &str)]| {
        load(flags, env, None)
            .unwrap()
            .store
            .map(|store| store.location)
    };
    let file = |path: &str| Some(StoreLocation::File(path.into()));
    assert_eq!(place(&[("store", "/x/y.db")], &[]), file("/x/y.db"));
    assert_eq!(
        place(&[("state-dir", "/s"), ("name", "second")], &[]),
        file("/s/second.db")
    );
    assert_eq!(
        place(&[], &[("STATE_DIRECTORY", "/var/lib/o")]),
        file("/var/lib/o/observer.db")
    );
    assert_eq!(place(&[("store", "none")], &[]), None);
    assert_eq!(
        load(&[], &[("HOME", "")], None).unwrap_err(),
        [
            "--store: there is no state directory ($HOME is not set): give a path, or none to forward only"
        ]
    );
    let none = load(&[("store", "none")], &[], None).unwrap();
    assert!(
        none.warnings[0].contains("fetching and what services inject are off"),
        "{:?}",
        none.warnings
    );
    assert!(
        !none
            .router
            .layouts
            .filters()
            .iter()
            .any(|asked| asked.filter.as_str().contains("presence"))
    );
}

#[test]
fn what_needs_a_store_is_refused_without_one() {
    let flags = [
        ("store", "none"),
        ("retain", "90d"),
        ("retain-size", "1GiB"),
        ("offline", "redeliver"),
    ];
    assert_eq!(
        load(&flags, &[], None).unwrap_err(),
        [
            "--retain: there is nothing to delete without a store (--store none)",
            "--retain-size: there is nothing to delete without a store (--store none)",
            "--offline: redeliver needs a store, and there is none (--store none)",
        ]
    );
    assert_eq!(
        load(
            &[
                ("retain", "5s"),
                ("retain-size", "7"),
                ("max-recipients", "0")
            ],
            &[],
            None
        )
        .unwrap_err(),
        [
            "--retain: \"5s\" is less than 1m",
            "--retain-size: \"7\" is less than 1MiB",
            "--max-recipients: \"0\" is not a whole number from 1 to 1000000",
        ]
    );
    let file = "retain = \"90d\"\n[groups]\nmembership = \"open\"\n";
    let config = load(&[], &[], Some(file)).unwrap();
    assert_eq!(
        config.store.unwrap().retention.age,
        Some(Duration::from_secs(90 * 86_400))
    );
    assert!(matches!(
        config.router.policy.rules.group_senders,
        crate::rules::policy::GroupSenders::Anybody
    ));
}

#[test]
fn a_policy_file_goes_over_the_settings_and_an_apps_table_over_the_rest_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    let text = r#"
        max-payload = "64KiB"
        banned = ["mallory"]
        rate-per-minute = 600
        [groups]
        membership = "open"
        [app.shop]
        max-payload = "1KiB"
        banned = ["troll"]
        rate-per-minute = "none"
        privileged-senders = ["bot"]
    "#;
    std::fs::write(&path, text).unwrap();
    let flag = path.to_str().unwrap();
    let flags = [
        ("policy-file", flag),
        ("max-depth", "9"),
        ("max-payload", "100KiB"),
    ];
    let config = load(&flags, &[("BUCKET_MSG_CAPACITY", "30")], None).unwrap();
    let policy = &config.router.policy;
    let shop = policy.rules(AppId::parse("shop").unwrap());
    let other = policy.rules(AppId::parse("tilechat").unwrap());
    let rate = other.rate.unwrap();
    assert_eq!((rate.burst.get(), rate.per_minute.get()), (30, 600));
    assert_eq!(
        (
            shop.max_payload_bytes,
            shop.max_depth,
            shop.rate,
            shop.banned.len()
        ),
        (1 << 10, 9, None, 2)
    );
    assert_eq!(
        (other.max_payload_bytes, other.privileged_senders.len()),
        (64 << 10, 1)
    );
    assert!(shop.privileged_senders.contains("bot"));
    assert_eq!(
        shop.group_senders,
        crate::rules::policy::GroupSenders::Anybody
    );

    // Read again, faulty: every mistake, with its place.
    let stamp = config.policy_file.stamp();
    let text =
        "max-payload = \"1MiB\"\nbaned = [\"x\"]\n[app.shop]\nmax-depth = 0\n[app.\"a/b\"]\n";
    std::fs::write(&path, text).unwrap();
    assert_ne!(config.policy_file.stamp(), stamp);
    let errors = config.policy_file.read().unwrap_err().to_string();
    for said in [
        "max-payload in ",
        "is more than the 102400 bytes of --max-payload",
        "\"baned\" is not a setting",
        "app.shop.max-depth in ",
        "\"0\" is not a whole number from 1",
        "app \"a/b\" holds",
    ] {
        assert!(errors.contains(said), "{said} in {errors}");
    }
    assert_eq!(errors.lines().count(), 4, "{errors}");
    std::fs::write(&path, "max-depth = ").unwrap();
    assert!(
        config
            .policy_file
            .read()
            .unwrap_err()
            .to_string()
            .contains("line 1")
    );
    // At the start it is a mistake in the settings, among the others.
    let more = [&flags[..], &[("rate-burst", "0")]].concat();
    let errors = load(&more, &[], None).unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        load(&flags, &[], None)
            .unwrap_err()
            .iter()
            .any(|error| error.contains("line 1"))
    );
}

#[test]
fn half_a_rate_is_one_and_none_is_none() {
    for (env, want) in [
        (&[][..], None),
        (&[("BUCKET_MSG_CAPACITY", "5")], Some((5, 5))),
        (&[("BUCKET_MSG_REFILL_RATE_PER_MIN", "7")], Some((7, 7))),
        (
            &[
                ("OBSERVER_RATE_PER_MINUTE", "none"),
                ("BUCKET_MSG_CAPACITY", "5"),
            ],
            None,
        ),
    ] {
        let config = load(&[], env, None).unwrap();
        let rate = config.router.policy.rules.rate;
        assert_eq!(
            rate.map(|rate| (rate.burst.get(), rate.per_minute.get())),
            want
        );
    }
    let errors = load(&[("rate-burst", "0")], &[], None).unwrap_err();
    assert!(
        errors[0].starts_with("--rate-burst: \"0\" is neither"),
        "{errors:?}"
    );
}

#[test]
fn the_variables_of_chat21_server_work_or_are_named() {
    let config = load(
        &[],
        &[
            (
                "RABBITMQ_URI",
                "amqp://ignored:p%40ss@rabbit:5672?heartbeat=60",
            ),
            ("MONGODB_URI", "mongodb://user:geheim@mongo/chatdb"),
            ("PREFETCH_MESSAGES", "50"),
            ("APP_ID", "tilechat"),
            ("LOG_LEVEL", "VERBOSE"),
            ("METRICS_PORT", "9191"),
            ("PRESENCE_ENABLED", "false"),
            (
                "WEBHOOK_ENDPOINTS",
                "http://u:pw@one/hook?token=x, https://two:8443/",
            ),
            ("WEBHOOK_EVENTS", "message-sent,conversation-unarchived"),
            ("BUCKET_MSG_CAPACITY", "7"),
            ("BUCKET_MSG_REFILL_RATE_PER_MIN", "70"),
        ],
        None,
    )
    .unwrap();
    assert_eq!(config.broker, "mqtt://rabbit:1883");
    assert_eq!(config.credentials().username(), Some("ignored"));
    let (_, secret) = config
        .credentials()
        .read(UnixMillis::new(0))
        .unwrap()
        .unwrap();
    assert_eq!(secret.expose_secret(), "p@ss");
    assert_eq!(config.http_listen, Some(([127, 0, 0, 1], 9191).into()));
    assert_eq!(config.controls, Controls::WithoutPresence);
    assert_eq!(config.router.layouts.apps(), ["tilechat"]);
    let webhooks = config.webhooks.as_ref().unwrap();
    assert_eq!(webhooks.names(), ["http://one/hook", "https://two:8443/"]);
    assert!(webhooks.events.contains(EventKind::MessageSent));
    assert!(!webhooks.events.contains(EventKind::MessageDelivered));
    let warnings = config.warnings.join("\n");
    for said in [
        "RABBITMQ_URI is taken for mqtt://rabbit",
        "MONGODB_URI is ignored",
        "PREFETCH_MESSAGES is ignored",
        "nothing raises \"conversation-unarchived\"",
    ] {
        assert_eq!(warnings.matches(said).count(), 1, "{warnings}");
    }
    for secret in ["geheim", "p%40ss", "p@ss", "token=x", "u:pw"] {
        assert!(!warnings.contains(secret), "{warnings}");
        assert!(!format!("{config:?}").contains(secret), "{secret}");
    }
    let off = load(
        &[],
        &[
            ("WEBHOOK_ENABLED", "false"),
            ("WEBHOOK_ENDPOINT", "http://one/"),
        ],
        None,
    );
    assert!(off.unwrap().webhooks.is_none());
}

#[test]
fn an_amqp_address_may_hold_a_token_and_a_virtual_host() {
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvYnNlcnZlciJ9.c2ln";
    let uri = format!("amqps://:{token}@rabbit/chat");
    let config = load(&[], &[("RABBITMQ_URI", &uri)], None).unwrap();
    assert_eq!(config.broker, "mqtts://rabbit:8883");
    assert_eq!(config.credentials().username(), Some("chat:JWT"));
    assert!(config.credentials().claims().is_some());
    // What is said for this program goes over it.
    let given = [("broker", "mqtt://other")];
    let config = load(&given, &[("RABBITMQ_URI", &uri)], None).unwrap();
    assert_eq!(config.broker, "mqtt://other:1883");
    assert!(config.warnings[0].starts_with("RABBITMQ_URI is ignored"));
    let error = load(&[], &[("RABBITMQ_URI", "rabbit:geheim")], None).unwrap_err();
    let error = error.join("\n");
    assert!(
        error.starts_with("RABBITMQ_URI: is not an address") && !error.contains("geheim"),
        "{error}"
    );
}

#[test]
fn mistakes_in_the_webhooks_are_named_without_their_secrets() {
    let dir = tempfile::TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "kurz").unwrap();
    let errors = load(
        &[
            (
                "webhook-endpoints",
                "http://a:geheim@x/,http://x/?b,ftp://geheim/",
            ),
            ("webhook-events", "message-sent,new-message"),
            ("webhook-secret-file", secret.to_str().unwrap()),
            ("webhook-max-age", "0s"),
            ("webhook-queue", "many"),
            ("stats-interval", "0s"),
            ("http-listen", "nowhere"),
        ],
        &[],
        None,
    )
    .unwrap_err()
    .join("\n");
    for said in [
        "--webhook-endpoints: http://x/ is there twice",
        "--webhook-endpoints: one of them is not a URL such as",
        "--webhook-events: \"new-message\" is none of message-sent,",
        "is shorter than 16 bytes",
        "--webhook-max-age: ",
        "--webhook-queue: ",
        "--stats-interval: ",
        "neither an address such as 127.0.0.1:9090, nor a port, nor none",
    ] {
        assert!(errors.contains(said), "{said}\n{errors}");
    }
    assert!(
        !errors.contains("geheim") && !errors.contains("kurz"),
        "{errors}"
    );
}
