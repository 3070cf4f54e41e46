//! Every command of the README and the guide is run here, as it stands there, with the addresses
//! and passwords of the test bed in place of the example's. A command nobody tries fails the test.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use chat21_observer::config::{GROUPS, Setting, Takes, variable};
use chat21_observer::guide::{CHAPTERS, chapter};

use crate::bed::{Broker, Observer, PATIENCE, binary, fresh_app, root, service_token, var};
use crate::cli::shell;
use crate::load::Path;
use crate::quickstart::{DOCKER, FROM_NOTHING, QUICK_STARTS, readme};
use crate::wire::Wire;

/// The README, then every chapter of the guide, without the quick starts (`quickstart.rs`).
fn documents() -> String {
    let readme = readme();
    let (before, quick_starts) = readme.split_once(FROM_NOTHING).unwrap();
    let (_, after) = quick_starts.split_once(DOCKER).unwrap();
    let readme = [before, after].concat();
    let chapters = CHAPTERS
        .iter()
        .filter(|chapter| !QUICK_STARTS.contains(&chapter.name))
        .map(|chapter| chapter.text);
    std::iter::once(readme.as_str()).chain(chapters).collect()
}

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let text = documents();
    let mut found = vec![];
    let mut rest = text.as_str();
    while let Some(start) = rest.find(&format!("```{language}\n")) {
        let body = &rest[start + language.len() + 4..];
        let end = body.find("```").unwrap();
        found.push(body[..end].to_owned());
        rest = &body[end + 3..];
    }
    found
}

/// Each command once, in the order of the documents.
fn commands() -> Vec<String> {
    let mut seen = HashSet::new();
    let without_comment = |line: &str| line.split("   # ").next().unwrap().trim().to_owned();
    blocks("sh")
        .iter()
        .flat_map(|block| block.lines())
        .map(without_comment)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| seen.insert(line.clone()))
        .collect()
}

#[test]
fn every_command_is_tried() {
    let (rabbit, mosquitto) = (Broker::Rabbit4, Broker::Mosquitto);
    let (_a, _b) = (rabbit.shared(), mosquitto.shared());
    let dir = tempfile::TempDir::new().unwrap();
    let token = dir.path().join("token.jwt");
    std::fs::write(&token, service_token(3600)).unwrap();
    let secret = dir.path().join("secret.txt");
    std::fs::write(&secret, var("BED_JWT_SECRET")).unwrap();
    for command in commands() {
        println!("$ {command}");
        let words: Vec<&str> = command.split_whitespace().collect();
        match &words[..] {
            ["cargo", "run", "--release", "--", "demo"] => {
                assert!(
                    binary()
                        .args(["demo", "--once", "--port", "0"])
                        .stdout(Stdio::null())
                        .status()
                        .unwrap()
                        .success()
                );
            }
            // It runs this test.
            ["scripts/test"] => assert!(root().join("scripts/test").is_file()),
            ["export", "OBSERVER_PASSWORD=secret"] => {}
            // The program of these tests was built like this.
            ["cargo", "build", "--release"] => {}
            // There may be no container engine here: a container's settings are tried without it.
            ["docker", "build", "-t", _, "."] => assert!(root().join("Dockerfile").is_file()),
            ["docker", "run", "--rm", ports @ .., _, "demo"] => {
                assert!(ports.contains(&"1883:1883"), "the demo's port");
                let demo = ["demo", "--once", "--port", "0"];
                // As the image has it.
                let output = binary()
                    .args(demo)
                    .env("OBSERVER_DEMO_LISTEN", "0.0.0.0")
                    .output();
                assert!(output.unwrap().status.success());
            }
            ["docker", "run", rest @ .., _] => {
                runs(&["run".to_owned()], &handed(rest, mosquitto), mosquitto)
            }
            [
                "docker",
                "exec",
                "chat21-observer",
                "chat21-observer",
                "health",
            ] => {}
            [
                "docker",
                "compose",
                "-f",
                file,
                "--profile",
                profile,
                "up",
                ..,
            ] => {
                let text = std::fs::read_to_string(root().join(file)).unwrap();
                assert!(text.contains(&format!("profiles: [{profile}]")));
            }
            ["kubectl", "create", "secret", "generic", name, _] => {
                let file = root().join("scripts/deploy/kubernetes.yaml");
                let text = std::fs::read_to_string(file).unwrap();
                assert!(text.contains(&format!("secretName: {name}\n")));
            }
            ["kubectl", "apply", "-f", file] => assert!(root().join(file).is_file()),
            // Tried by scripts/test-package, on a clean Debian.
            ["scripts/package"] => assert!(root().join("scripts/test-package").is_file()),
            ["sudo", "apt-get", "install", package] => {
                assert!(package.ends_with("/chat21-observer_*.deb"));
            }
            [
                "runuser",
                "-u",
                "chat21-observer",
                "--",
                "chat21-observer",
                "check" | "store",
                ..,
            ] => {}
            ["systemctl" | "journalctl", .., "chat21-observer"] => {}
            ["chat21-observer", "check", ..] => {
                let args = words[1..].iter().map(|word| bedded(word, rabbit));
                let output = binary()
                    .args(args)
                    .current_dir(dir.path())
                    .env("OBSERVER_PASSWORD", "observerpw")
                    .output()
                    .unwrap();
                assert!(
                    output.status.success(),
                    "{}",
                    String::from_utf8_lossy(&output.stdout)
                );
            }
            ["chat21-observer", "run", ..] => {
                let broker = if command.contains("mqtts") {
                    mosquitto
                } else {
                    rabbit
                };
                let replace = |word: &&str| {
                    bedded(word, broker)
                        .replace("token.jwt", token.to_str().unwrap())
                        .replace("secret.txt", secret.to_str().unwrap())
                        .replace("8004", "0")
                        .replace("ca.pem", &format!("{}/ca.pem", var("BED_TLS")))
                };
                let args: Vec<String> = words[1..].iter().map(replace).collect();
                let password = if command.contains("token") {
                    vec![]
                } else {
                    vec![("OBSERVER_PASSWORD".to_owned(), "observerpw".to_owned())]
                };
                runs(&args, &password, broker);
            }
            ["chat21-observer", "explain", ..] => {
                let output = binary().args(&words[1..]).output().unwrap();
                assert!(
                    String::from_utf8_lossy(&output.stdout).contains("apps.tilechat."),
                    "{output:?}"
                );
            }
            ["chat21-observer", "acl" | "token", ..] => {
                let line =
                    command.replace("chat21-observer", env!("CARGO_BIN_EXE_chat21-observer"));
                let output = std::process::Command::new("sh")
                    .args(["-c", &line])
                    .current_dir(dir.path())
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{output:?}");
            }
            ["chat21-observer", "config", ..] => {
                let mut config = binary();
                let output = config.args(&words[1..]).current_dir(dir.path()).output();
                let output = output.unwrap();
                assert!(output.status.success(), "{output:?}");
            }
            // `watch` runs until it is stopped. reporting.rs tests what it prints.
            ["chat21-observer", "watch", ..] => {
                let mut child = binary()
                    .args(words[1..].iter().map(|word| bedded(word, mosquitto)))
                    .env("OBSERVER_PASSWORD", "observerpw")
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut said = String::new();
                BufReader::new(child.stderr.take().unwrap())
                    .read_line(&mut said)
                    .unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
                // Another test's observer may have that name.
                assert!(
                    said.contains("observer") && !said.contains("error"),
                    "{said}"
                );
            }
            // Shorter than it is there; bench_command.rs tests what it prints.
            ["chat21-observer", "bench", ..] => {
                let app = format!("bench-{}", fresh_app());
                let _observer = Observer::start(mosquitto, &app, &[]);
                let brief = ["--for", "300ms", "--warm-up", "100ms", "--app", &app];
                let output = binary()
                    .args(words[1..].iter().map(|word| bedded(word, mosquitto)))
                    .args(brief)
                    .current_dir(dir.path())
                    .env("OBSERVER_PASSWORD", "observerpw")
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{output:?}");
            }
            // Tested with what they print in users.rs; here only that they parse.
            ["chat21-observer", "send" | "inbox", ..] => {
                let nobody = |word: &&str| word.replace(":1883", ":1");
                let output = binary()
                    .args(words[1..].iter().map(nobody))
                    .output()
                    .unwrap();
                assert_eq!(output.status.code(), Some(1), "{output:?}");
            }
            // Tested in import.rs; the files are not here.
            ["chat21-observer", "store", "import", ..] => {
                let output = binary().args(&words[1..]).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(
                    said.starts_with("error: cannot open groups.json: No such file"),
                    "{said}"
                );
            }
            ["mongoexport", ..] => {}
            // Tested in copy.rs; here only that it parses.
            ["chat21-observer", "store", "copy", from, ..] => {
                std::fs::write(dir.path().join("db-password"), "secret").unwrap();
                let mut copy = binary();
                let output = copy.args(&words[1..]).current_dir(dir.path()).output();
                let said = String::from_utf8(output.unwrap().stderr).unwrap();
                assert_eq!(said, format!("error: there is no store at {from}\n"));
            }
            // Tested on a running observer in store.rs, refusals.rs and webhook.rs; here only that
            // they parse.
            [
                "chat21-observer",
                "store" | "group" | "block" | "webhook",
                ..,
            ] => {
                let output = binary()
                    .args(&words[1..])
                    .args(["--state-dir", "/nonexistent"])
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(
                    said,
                    "error: there is no store at /nonexistent/observer.db\n"
                );
            }
            // Tested on a running observer in cli.rs.
            ["chat21-observer", "health"] => {}
            ["mosquitto_sub", ..] | ["mosquitto_pub", ..] => {} // below, together
            ["curl", ..] => {}                                  // in api.rs
            _ => panic!("nobody tries `{command}`"),
        }
    }
}

/// A word of a command, with the test bed's addresses and password.
fn bedded(word: &str, broker: Broker) -> String {
    word.replace(
        "localhost:1883",
        &format!("localhost:{}", broker.port("MQTT")),
    )
    .replace(
        "localhost:15675",
        &format!("localhost:{}", Broker::Rabbit4.port("WS")),
    )
    .replace(
        "localhost:8883",
        &format!("localhost:{}", Broker::Mosquitto.port("MQTTS")),
    )
    .replace("=secret", "=observerpw")
}

/// The variables that `docker run` hands over.
fn handed(flags: &[&str], broker: Broker) -> Vec<(String, String)> {
    let values = flags.windows(2).filter(|pair| pair[0] == "-e");
    let pair = |pair: &[&str]| match pair[1].split_once('=') {
        Some((name, value)) => (name.to_owned(), bedded(value, broker)),
        // From the environment.
        None => (pair[1].to_owned(), "observerpw".to_owned()),
    };
    values.map(pair).collect()
}

/// Starts an observer with these settings, has it forward a message, and stops it.
fn runs(args: &[String], env: &[(String, String)], broker: Broker) {
    let named = args.iter().position(|arg| arg == "--app");
    let app = named.map_or_else(fresh_app, |at| args[at + 1].clone());
    let mut args: Vec<&str> = args[1..].iter().map(String::as_str).collect();
    if !args.contains(&"--app") {
        args.extend(["--app", &app]);
    }
    let mut observer = Observer::prepare(&args);
    observer.spawn(
        &env.iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect::<Vec<_>>(),
    );
    observer.wait_ready();
    let mut user = Wire::connect(
        broker.port("MQTT"),
        &format!("readme-{app}"),
        &broker.login(&app, "u00"),
        true,
    )
    .unwrap();
    user.subscribe(&[&format!("apps/{app}/users/u00/#")])
        .unwrap();
    user.publish_confirmed(Path::Chat21.outgoing(&app, "u00", "u00"), b"{}")
        .unwrap();
    assert!(user.message(PATIENCE).is_some());
    assert!(observer.stop().0.success());
}

#[test]
fn the_mosquitto_lines_show_a_conversation() {
    let broker = Broker::Mosquitto;
    // No other test's observer may serve `tilechat` at the same time.
    let _exclusive = broker.exclusive();
    let observer = Observer::start(broker, "tilechat", &[]);
    let lines: Vec<String> = commands()
        .into_iter()
        .filter(|line| line.starts_with("mosquitto_"))
        .collect();
    let [inbox, refusals, say, own, control] = &lines[..] else {
        panic!("{lines:?}")
    };
    let bedded = |line: &str| {
        line.replace(
            "-h localhost -p 1883",
            &format!("-h 127.0.0.1 -p {}", broker.port("MQTT")),
        )
        .replace("-P secret", "-P observerpw")
    };
    let refused = say.replace(r#"{"text":"hello"}"#, "no json");
    for (subscribe, publish, want) in [
        (
            inbox,
            say,
            "apps/tilechat/users/bob/messages/alice/clientadded {\"text\":\"hello\",",
        ),
        (
            refusals,
            &refused,
            "apps/tilechat/users/alice/messages/bob/clientrejected \
            {\"reason\":\"not-json\",\"recipient\":\"bob\",",
        ),
    ] {
        let subscriber = shell(&bedded(
            &subscribe.replace("mosquitto_sub", "mosquitto_sub -C 1 -W 180"),
        ))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
        let (done_tx, done_rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || done_tx.send(subscriber.wait_with_output().unwrap()));
        // Nothing shows when the subscription is active, so the message is published until it
        // arrives.
        let output = loop {
            assert!(shell(&bedded(publish)).status().unwrap().success());
            if let Ok(output) = done_rx.recv_timeout(Duration::from_millis(500)) {
                break output;
            }
        };
        let heard = String::from_utf8(output.stdout).unwrap();
        assert!(heard.starts_with(want), "{heard}");
    }
    assert!(shell(&bedded(control)).status().unwrap().success());
    observer.wait_log("another log level (control/log-level) level=debug");
    let output = shell(&bedded(
        &own.replace("mosquitto_sub", "mosquitto_sub -C 1 -W 180"),
    ))
    .output()
    .unwrap();
    let heard = String::from_utf8(output.stdout).unwrap();
    assert!(
        heard.starts_with("observer/observer/status {\"online\":"),
        "{heard}"
    );
}

#[test]
fn the_settings_are_listed_as_they_are() {
    let mut tables = String::new();
    for group in GROUPS {
        let heading = group.heading;
        tables.push_str(&format!(
            "## {heading}\n\n| flag | default | |\n|---|---|---|\n"
        ));
        for setting in group.settings {
            tables.push_str(&table_row(setting));
        }
        tables.push('\n');
    }
    assert!(
        chapter("settings").unwrap().text.contains(&tables),
        "the tables in src/guide/settings.md should be:\n{tables}"
    );
    for group in GROUPS {
        for setting in group.settings {
            let name = setting.name.to_uppercase().replace('-', "_");
            assert_eq!(variable(setting.name), format!("OBSERVER_{name}"));
        }
    }
}

fn table_row(setting: &Setting) -> String {
    let name = setting.name;
    let flag = match setting.takes {
        Takes::Value(value) | Takes::List(value) => format!("`--{name} {value}`"),
        Takes::Switch => format!("`--{name}`"),
    };
    let short = setting.short.map(|short| format!("`-{short}`, "));
    let default = match (setting.default, setting.takes) {
        ("", _) | (_, Takes::Switch) => String::new(),
        (default, _) => format!("`{default}`"),
    };
    format!(
        "| {}{flag} | {default} | {} |\n",
        short.unwrap_or_default(),
        setting.help
    )
}

#[test]
fn the_example_file_is_valid_and_the_reasons_are_all_there() {
    let [policy, example] = &blocks("toml")[..] else {
        panic!("two examples")
    };
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("observer.toml");
    std::fs::write(&file, example).unwrap();
    let rules = dir.path().join("policy.toml");
    std::fs::write(&rules, policy).unwrap();
    let output = binary()
        .args([
            "explain",
            "--config",
            file.to_str().unwrap(),
            "--policy-file",
            rules.to_str().unwrap(),
            "out/shop/alice/bob",
        ])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("publishes  in/shop/bob/alice/new"),
        "{output:?}"
    );
    for reason in chat21_observer::protocol::refusal::Refusal::ALL {
        assert!(
            chapter("troubleshooting")
                .unwrap()
                .text
                .contains(&format!("`{reason}`")),
            "{reason} is not explained"
        );
    }
}

#[test]
fn the_readme_is_short_and_its_links_lead_somewhere() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let words = readme.split_whitespace().count();
    assert!(words <= 900, "the README has {words} words");
    for link in readme.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(
            target.starts_with("https://") || root().join(target).is_file(),
            "{target} is not there"
        );
    }
    for chapter in CHAPTERS {
        let link = format!("src/guide/{}.md", chapter.name);
        assert!(readme.contains(&link), "{link} is not linked");
    }
}
