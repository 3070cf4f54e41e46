//! What people deploy: the unit, the image, the files for Compose and Kubernetes. Each is checked
//! by the program that reads it, or tried on a broker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;

use chat21_observer::config::{settings, variable};
use serde_json::Value;

use crate::bed::{Broker, Observer, binary, fresh_app, in_the_bed, root};
use crate::guarded::brokers;
use crate::quickstart::Machine;

/// The name of the container image.
const IMAGE: &str = "chat21/observer";

fn deployed(name: &str) -> String {
    read_to_string(root().join("scripts/deploy").join(name)).unwrap()
}

/// A check of the bed, run on a file of this name and text.
fn check(name: &str, text: &str, check: &str) -> (bool, String) {
    let dir = format!("/tmp/deploy-{}", fresh_app());
    let script = format!(
        r#"mkdir -p "$0" && cat >"$0/{name}" && cd "$0" && {check}
        code=$?; rm -r "$0"; exit $code"#
    );
    in_the_bed(&["sh", "-c", &script, &dir], text)
}

#[test]
fn the_unit_is_sound_and_shut_in() {
    // systemd-analyze wants the program to exist.
    let unit = deployed("chat21-observer.service");
    assert!(unit.contains("ExecStart=/usr/bin/chat21-observer run "));
    let unit = unit.replace("/usr/bin/chat21-observer", "/bin/true");
    // Nor are its manual pages there.
    let unit = unit.replace("Documentation=man:chat21-observer(1)\n", "");
    let name = "chat21-observer.service";
    let verify = "systemd-analyze verify ./chat21-observer.service 2>&1 && echo verified";
    let (sound, said) = check(name, &unit, verify);
    assert!(sound && said.trim() == "verified", "{said}");
    let exposure =
        "systemd-analyze security --offline=true --threshold=20 ./chat21-observer.service";
    let (sound, said) = check(name, &unit, exposure);
    assert!(sound && said.contains("OK"), "{said}");
}

#[test]
fn compose_and_kubernetes_accept_their_files() {
    for (name, program, wanted) in [
        (
            "compose.yaml",
            "/opt/checkers/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml",
            "ok",
        ),
        (
            "kubernetes.yaml",
            "/opt/checkers/bin/kubernetes-validate --strict kubernetes.yaml",
            "passed for resource deployment",
        ),
        (
            "kubernetes-slots.yaml",
            "/opt/checkers/bin/kubernetes-validate --strict kubernetes-slots.yaml",
            "passed for resource deployment",
        ),
    ] {
        let (sound, said) = check(name, &deployed(name), program);
        assert!(sound && said.contains(wanted), "{said}");
    }
}

#[test]
fn every_variable_in_them_is_a_setting() {
    let known: BTreeSet<String> = settings().map(|it| variable(it.name)).collect();
    for name in ["compose.yaml", "kubernetes.yaml", "kubernetes-slots.yaml"] {
        let text = deployed(name);
        let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        let named: BTreeSet<String> = words
            .filter(|word| word.starts_with("OBSERVER_"))
            .map(str::to_owned)
            .collect();
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(!named.is_empty() && unknown.is_empty(), "{unknown:?}");
    }
}

/// Files that people read or run.
fn texts() -> Vec<(String, String)> {
    let mut paths = ["README.md", "Dockerfile", ".ci", "scripts", "src/guide"]
        .map(|name| root().join(name))
        .to_vec();
    let mut found = vec![];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|it| it.unwrap().path()),
            );
        } else {
            // Pictures name no image.
            if let Ok(text) = read_to_string(&path) {
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

/// The image that a line names: what Compose or Kubernetes runs, what `docker build` makes, and
/// what `docker run` runs, whose flags here all have a `=` or a value behind them.
fn image(line: &str) -> Option<&str> {
    if let Some((_, image)) = line.split_once(" image: ") {
        return Some(image);
    }
    let words: Vec<&str> = line.trim_start_matches(['#', ' ']).split(' ').collect();
    let ["docker", command, rest @ ..] = &words[..] else {
        return None;
    };
    let after = |flag| rest.iter().skip_while(move |word| **word != flag).nth(1);
    match *command {
        "build" => after("-t").copied(),
        "run" => {
            let mut rest = rest.iter();
            loop {
                match *rest.next()? {
                    "-d" | "--rm" | "--read-only" => {}
                    flag if flag.starts_with('-') => drop(rest.next()),
                    image => return Some(image),
                }
            }
        }
        _ => None,
    }
}

#[test]
fn one_name_of_the_image_everywhere() {
    let mut named = 0;
    for (path, text) in texts() {
        for image in text.lines().filter_map(image) {
            if image.starts_with("docker.io/library/") {
                continue;
            }
            let tagged = format!("{IMAGE}:{}", env!("CARGO_PKG_VERSION"));
            assert!(image == IMAGE || image == tagged, "{path}: {image}");
            named += 1;
        }
    }
    assert!(named >= 8, "only {named} lines name the image");
    let line = "docker run -d --network host -v a:/b -e X chat21/observer run";
    assert_eq!(image(line), Some(IMAGE));
    assert_eq!(image("          image: a/b"), Some("a/b"));
}

/// The image's health check, with a list of arguments in place of the container's first process.
#[test]
fn the_health_check_asks_where_the_container_answers() {
    let text = read_to_string(root().join("Dockerfile"))
        .unwrap()
        .replace("\\\n", "");
    let (_, command) = text.split_once("--start-period=30s").unwrap();
    let command = command.trim_start().strip_prefix("CMD ").unwrap();
    let command = command.lines().next().unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let arguments = dir.path().join("cmdline");
    let command = command
        .replace("/proc/1/cmdline", arguments.to_str().unwrap())
        .replace("exec chat21-observer", "echo");
    for (given, asked) in [
        ("chat21-observer\0run\0", "health\n"),
        ("chat21-observer\0run\0--name\0demo-1\0", "health\n"),
        ("chat21-observer\0demo\0", "health --http-listen 8080\n"),
        (
            "/sbin/docker-init\0--\0chat21-observer\0demo\0--once\0",
            "health --http-listen 8080\n",
        ),
    ] {
        std::fs::write(&arguments, given).unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", &command])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            asked,
            "{given:?}"
        );
    }
}

/// A file of Compose as JSON.
fn compose() -> Value {
    let convert = "/opt/checkers/bin/python -c \
                   'import json, yaml; json.dump(yaml.safe_load(open(\"compose.yaml\")), \
                   __import__(\"sys\").stdout)'";
    let (sound, json) = check("compose.yaml", &deployed("compose.yaml"), convert);
    assert!(sound, "{json}");
    serde_json::from_str(&json).unwrap()
}

/// A file that Compose puts into a container.
fn content(compose: &Value, name: &str) -> String {
    let text = compose["configs"][name]["content"].as_str().unwrap();
    text.replace("$$", "$")
}

/// The trial: its broker with its settings, its observer with its variables, and the two lines
/// that the file tells people to type.
#[test]
fn the_trial_of_compose_carries_a_message() {
    let compose = compose();
    let acl = binary()
        .args(["acl", "mosquitto", "--app", "tilechat", "--part", "acl"])
        .output()
        .unwrap();
    let acl = String::from_utf8(acl.stdout).unwrap();
    assert_eq!(content(&compose, "try-acl").trim(), acl.trim());

    let mut machine = Machine::new(Broker::Mosquitto);
    let inside = machine.inside();
    let service = &compose["services"]["try-broker"];
    let second = crate::http::free_port().to_string();
    let ours = |text: &str| {
        text.replace("/try/", &format!("{inside}/"))
            .replace("/tmp/", &format!("{inside}/data/"))
            .replace("1883", &machine.port.to_string())
            .replace("9001", &second)
    };
    for file in service["configs"].as_array().unwrap() {
        let name = file["source"].as_str().unwrap();
        let target = ours(file["target"].as_str().unwrap());
        let text = ours(&content(&compose, name));
        let (written, said) = in_the_bed(&["sh", "-c", "cat >\"$0\"", &target], &text);
        assert!(written, "{said}");
    }
    let command = service["command"].as_array().unwrap();
    let command: Vec<String> = command
        .iter()
        .map(|it| ours(it.as_str().unwrap()))
        .collect();
    // The container runs as Mosquitto's own user.
    let user = ["setpriv", "--reuid=mosquitto", "--regid=mosquitto"];
    let command: Vec<&str> = user
        .into_iter()
        .chain(["--clear-groups"])
        .chain(command.iter().map(String::as_str))
        .collect();
    machine.start_mosquitto(&command);

    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), content(&compose, "try-key")).unwrap();
    let variables = compose["services"]["try-observer"]["environment"].as_object();
    let variables: BTreeMap<&str, String> = variables
        .unwrap()
        .iter()
        .map(|(name, value)| {
            let value = value.as_str().unwrap();
            let broker = format!("localhost:{}", machine.port);
            let value = value
                .replace("try-broker:1883", &broker)
                .replace("/try/key", key.path().to_str().unwrap())
                .replace("0.0.0.0:8004", "127.0.0.1:0");
            (name.as_str(), value)
        })
        .collect();
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut observer = Observer::prepare(&[]);
    observer.spawn(&variables);
    observer.wait_ready();

    let text = deployed("compose.yaml");
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|line| line.starts_with("mosquitto_"))
        .collect();
    assert_eq!(lines.len(), 2);
    lines.iter().for_each(|line| machine.enter(line));
    let heard = "apps/tilechat/users/bob/messages/alice/clientadded {\"text\":\"hello\"";
    assert!(machine.output().starts_with(heard), "{}", machine.output());
    assert!(observer.stop().0.success());
}

/// The settings of RabbitMQ for production, and that RabbitMQ takes the password from a variable.
#[test]
fn rabbitmq_accepts_the_settings_for_production() {
    let conf = content(&compose(), "rabbitmq-conf");
    let variable = "$(OBSERVER_PASSWORD)";
    assert!(conf.contains(variable), "{conf}");
    let dir = tempfile::TempDir::new().unwrap();
    // Of the variables that the test bed gives to RabbitMQ, one whose value is known.
    let conf = conf.replace(variable, "$(LANG)");
    std::fs::write(dir.path().join("rabbitmq.conf"), conf).unwrap();
    let run = format!("compose-{}", fresh_app());
    let bed = |command: &str| brokers(&run, dir.path(), Broker::Rabbit4, &[command]);
    bed("up");
    let env = bed("env");
    let port = env
        .lines()
        .find_map(|line| line.strip_prefix("export BED_RABBITMQ4_MQTT="))
        .unwrap();
    let url = format!("mqtt://observer@localhost:{port}");
    let output = binary()
        .args(["check", "--broker", &url])
        .env("HOME", dir.path())
        .env("OBSERVER_PASSWORD", "C.UTF-8")
        .output()
        .unwrap();
    bed("down");
    bed("forget");
    assert!(output.status.success(), "{output:?}");
}
