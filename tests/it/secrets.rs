//! No secret is printed: not in logs of any level, help, errors, results or the process list.

use std::process::Output;

use crate::bed::{Broker, Observer, binary, fresh_app, service_token, user_token};
use crate::guarded::APP;

/// Values that nothing else prints.
const PASSWORD: &str = "pw-7f3a91c2";
const KEY: &str = "key-51d0b8ea-of-more-than-thirty-two-bytes";
const IN_URL: &str = "urlpw-0c9d22";
/// The same in a command's arguments, where it is in the list of processes: the other test, which
/// may run at the same time, looks for the one above there.
const IN_ARGUMENT: &str = "argpw-33e1c8";

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

/// The command line of that process, and those of all processes.
fn command_lines(pid: u32) -> (String, String) {
    let (mut own, mut all) = (String::new(), String::new());
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        // A process may end meanwhile.
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if path.ends_with(pid.to_string()) {
            own.clone_from(&line);
        }
        all += &format!("{line}\n");
    }
    (own, all)
}

fn silent(what: &str, text: &str, secrets: &[&str]) {
    for secret in secrets {
        assert!(!text.contains(secret), "{what} says {secret}:\n{text}");
    }
}

/// An observer at log level trace, whose logins succeed.
#[test]
fn logs_and_the_list_of_processes_hold_no_secret() {
    for broker in [Broker::Mosquitto, Broker::Rabbit4] {
        let _shared = broker.shared();
        let app = fresh_app();
        let token = service_token(3600);
        let url = broker.url(false);
        let policy = format!("http://judge:{IN_URL}@127.0.0.1:9/decide?key={IN_URL}");
        let mut observer =
            Observer::prepare(&["--broker", &url, "--app", &app, "--log-level", "trace"]);
        let env = [
            match broker.is_rabbitmq() {
                true => ("OBSERVER_TOKEN", token.as_str()),
                false => ("OBSERVER_PASSWORD", "observerpw"),
            },
            ("OBSERVER_POLICY_URL", policy.as_str()),
            ("OBSERVER_POLICY_FAILURE", "open"),
        ];
        let more: &[(&str, &str)] = match broker.is_rabbitmq() {
            true => &[],
            false => &[("OBSERVER_USERNAME", "observer")],
        };
        observer.spawn(&[&env[..], more].concat());
        observer.wait_ready();
        let client_id =
            std::fs::read_to_string(format!("{}/observer.client-id", observer.state_dir()))
                .unwrap();
        let (user, login) = ("u00", broker.login(&app, "u00"));
        let mut alice =
            crate::wire::Wire::connect(broker.port("MQTT"), &format!("{app}-a"), &login, true)
                .unwrap();
        alice
            .subscribe(&[&format!("apps/{app}/users/{user}/#")])
            .unwrap();
        let topic = format!("apps/{app}/outgoing/users/{user}/messages/u01/outgoing");
        alice
            .publish_confirmed(&topic, r#"{"text":"words-of-mine-4711"}"#)
            .unwrap();
        assert!(alice.message(crate::bed::PATIENCE).is_some());
        let (own, all) = command_lines(observer.pid());
        assert!(own.contains(&url), "{own}");
        let (_, log) = observer.stop();
        assert!(
            log.contains("TRACE") && log.contains("gives no answer"),
            "it is talkative"
        );
        let secrets = [
            "observerpw",
            token.as_str(),
            IN_URL,
            client_id.trim(),
            "words-of-mine-4711",
        ];
        silent("the log", &log, &secrets);
        silent("the list of processes", &all, &[token.as_str(), IN_URL]);
    }
}

/// Error messages do not repeat a faulty secret.
#[test]
fn errors_help_and_results_hold_no_secret() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let (key, wrong) = (file("key", KEY), file("wrong", PASSWORD));
    let broken = file("broken", &format!("{{\"kty\":\"oct\",\"k\":\"{KEY}!\"}}"));
    let config = file(
        "observer.toml",
        &format!("password = \"{PASSWORD}\nname = 1\n"),
    );
    let token = user_token(APP, "alice", 3600);
    let signature = token.rsplit('.').next().unwrap();
    let token_file = file("token", &token);
    let with_login = format!("mqtt://observer:{IN_ARGUMENT}@127.0.0.1:1");
    let wrong_login = format!(
        "mqtt://observer:{IN_ARGUMENT}@localhost:{}",
        broker.port("MQTT")
    );
    let url = broker.url(false);
    let state = dir.path().to_str().unwrap();
    type Case<'a> = (Vec<&'a str>, Vec<(&'a str, &'a str)>);
    let cases: Vec<Case<'_>> = vec![
        (
            vec!["run", "--help"],
            vec![("OBSERVER_PASSWORD", PASSWORD), ("OBSERVER_TOKEN", &token)],
        ),
        (vec!["token", "mint", "user", "--help"], vec![]),
        (vec!["run", "--config", &config], vec![]),
        (
            vec!["run", "--window", "0", "--broker", &with_login],
            vec![("OBSERVER_PASSWORD", PASSWORD)],
        ),
        (vec!["run", "--jwt-key-file", &broken], vec![]),
        (
            vec!["run", "--jwt-key-file", &key, "--jwt-algorithm", "RS256"],
            vec![],
        ),
        (vec!["run"], vec![("OBSERVER_TOKEN", PASSWORD)]),
        (vec!["run"], vec![("OBSERVER_POLICY_URL", IN_URL)]),
        (
            vec!["check", "--broker", &wrong_login, "--log-level", "trace"],
            vec![],
        ),
        (
            vec!["check", "--broker", &with_login, "--log-level", "trace"],
            vec![],
        ),
        (
            vec![
                "check",
                "--broker",
                &url,
                "--username",
                "observer",
                "--password-file",
                &wrong,
                "--log-level",
                "trace",
            ],
            vec![],
        ),
        (
            vec!["acl", "rabbitmq", "--jwt-key-file", &key],
            vec![("OBSERVER_PASSWORD", PASSWORD)],
        ),
        (
            vec![
                "explain",
                "apps/a/users/b/messages/c/outgoing",
                "--jwt-key-file",
                &key,
            ],
            vec![("OBSERVER_PASSWORD", PASSWORD)],
        ),
        (
            vec![
                "token",
                "mint",
                "user",
                APP,
                "alice",
                "--jwt-key-file",
                &key,
            ],
            vec![],
        ),
        (
            vec!["token", "inspect", &token_file, "--jwt-key-file", &key],
            vec![],
        ),
        (vec!["token", "inspect", &key], vec![]),
    ];
    for (args, env) in cases {
        let output = binary()
            .args(&args)
            .args(if args.contains(&"--help") {
                vec![]
            } else {
                vec!["--state-dir", state]
            })
            .envs(env)
            .output()
            .unwrap();
        let text = said(&output);
        assert!(!text.is_empty(), "{args:?}");
        silent(
            &format!("{args:?}"),
            &text,
            &[PASSWORD, KEY, IN_URL, IN_ARGUMENT, signature],
        );
    }
}

#[test]
fn what_is_written_for_debugging_holds_no_secret() {
    use chat21_observer::config::{Config, Flags};
    use chat21_observer::protocol::time::UnixMillis;
    let dir = tempfile::TempDir::new().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, KEY).unwrap();
    let flags = |pairs: &[(&'static str, &str)]| -> Flags {
        let flags = pairs
            .iter()
            .map(|(name, value)| (*name, vec![(*value).to_owned()]));
        flags.collect()
    };
    let policy = format!("http://judge:{IN_URL}@localhost/decide?key={IN_URL}");
    let (key, state) = (key.to_str().unwrap(), dir.path().to_str().unwrap());
    for given in [
        flags(&[
            ("password", PASSWORD),
            ("jwt-key-file", key),
            ("policy-url", &policy),
            ("state-dir", state),
        ]),
        flags(&[("jwt-key-file", key), ("state-dir", state)]),
        flags(&[
            (
                "broker",
                &format!("mqtts://observer:{IN_ARGUMENT}@localhost"),
            ),
            ("proxy", &format!("http://me:{IN_URL}@localhost:1")),
            ("state-dir", state),
        ]),
    ] {
        let config = Config::load(&given, &|_| None, None).unwrap();
        let text = format!("{config:?} {:?}", config.links().unwrap());
        silent("Debug", &text, &[PASSWORD, KEY, IN_URL]);
        let minted = config.broker.credentials.read(UnixMillis::new(0)).unwrap();
        silent(
            "Debug",
            &format!("{minted:?}"),
            &[PASSWORD, KEY, IN_URL, "eyJ"],
        );
    }
}
